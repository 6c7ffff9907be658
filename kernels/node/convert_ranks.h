// What JavaScript says of ranks and experts, checked; and what it is told.
#pragma once

#include <napi.h>

#include "ranks/rank_group.h"
#include "ranks/tcp_exchange.h"

namespace pelagic {

// LoadOptions.ranks.
struct RankOptions {
  ExpertPlan plan;
  RankView view;
  std::string host;
  std::uint16_t port = 0;
  RankSecret secret{};
};
RankOptions read_rank_options(const Napi::Object& ranks);

// The arguments of NativeModel.meet.
struct Meeting {
  GroupId group{};
  std::vector<RankAddress> ranks;
  RankTimes times;
};
Meeting read_meeting(const Napi::Object& meeting);

Napi::Object to_js(Napi::Env env, const RankCounters& counters);

}  // namespace pelagic
