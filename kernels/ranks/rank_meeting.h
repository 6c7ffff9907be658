// How the ranks of a group find each other's connections.
#pragma once

#include "ranks/tcp_exchange.h"

namespace pelagic {

// A connection to each other member, by rank. Throws as meet_ranks.
std::vector<Socket> connect_ranks(RankListener& listener, const GroupId& group, int rank,
                                  const std::vector<RankAddress>& ranks, std::chrono::milliseconds time);

}  // namespace pelagic
