// What JavaScript says of ranks and experts, checked; and what it is told.
#pragma once

#include <napi.h>

#include "graph/expert_mover.h"
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

// An ExpertPlan; where: its name and a dot.
ExpertPlan read_plan(const Napi::Object& plan, const std::string& where);
Napi::Object to_js(Napi::Env env, const ExpertPlan& plan);
Napi::Object to_js(Napi::Env env, const PlacementState& state);

// The arguments of NativeModel.meet.
struct Meeting {
  GroupId group{};
  std::vector<RankAddress> ranks;
  RankTimes times;
};
Meeting read_meeting(const Napi::Object& meeting);

Napi::Object to_js(Napi::Env env, const RankCounters& counters);

}  // namespace pelagic
