// Which way rows go between the members of a group: decided by all of them together when they meet.
#pragma once

#include <memory>
#include <span>

#include "backend/cuda/nccl_route.h"

namespace pelagic::cuda {

// What a member says of its card.
struct CardGreeting {
  std::uint32_t nccl_version;  // 0: none
  char uuid[16];
};

// From card to card where every member has the same NCCL and a card of its own, and there is more than one.
bool cards_can_connect(std::span<const CardGreeting> members);

// Throws Error(rank_lost).
std::unique_ptr<RowRoute> open_route(RankGroup& group, cudaStream_t stream, NcclRoute::Send send);

}  // namespace pelagic::cuda
