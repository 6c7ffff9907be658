// Ranks of one process: threads that hand each other messages in memory. What tests compare the others with.
#pragma once

#include <chrono>
#include <memory>
#include <vector>

#include "ranks/expert_exchange.h"

namespace pelagic {

// One for each of rank_count ranks. members: which of them there are; empty: all. An exchange that is destroyed has
// left.
std::vector<std::unique_ptr<ExpertExchange>> make_local_exchanges(int rank_count,
                                                                  std::chrono::milliseconds longest_wait,
                                                                  const std::vector<bool>& members = {});

}  // namespace pelagic
