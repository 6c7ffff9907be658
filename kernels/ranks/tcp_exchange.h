// Ranks of several processes: one TCP connection between any two. Whoever may join knows the secret of the rank it
// calls, which the callers' own channel (the bus) has told it; bytes are checked, not encrypted.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "ranks/expert_exchange.h"
#include "ranks/socket.h"

namespace pelagic {

using RankSecret = std::array<std::uint8_t, 32>;
using GroupId = std::array<std::uint8_t, 16>;

struct RankAddress {
  std::string host;  // a numeric IPv4 or IPv6 address
  std::uint16_t port = 0;
  RankSecret secret{};  // of the rank that listens there
  bool member = true;   // false: the rank is not of this group, nothing else counts
};

// Where this rank is called by others. Stays open from group to group.
class RankListener {
 public:
  // host: numeric; port 0: a free one. Throws Error(argument) for the address, Error(internal).
  RankListener(const std::string& host, std::uint16_t port, const RankSecret& secret);

  std::uint16_t port() const { return port_; }
  int descriptor() const { return socket_.get(); }
  const RankSecret& secret() const { return secret_; }

 private:
  Socket socket_;
  std::uint16_t port_;
  RankSecret secret_;
};

struct RankTimes {
  std::chrono::milliseconds meet{5000};           // until all members are connected
  std::chrono::milliseconds silence{3000};        // a rank that sends not even a sign of life is lost
  std::chrono::milliseconds longest_wait{60000};  // a rank that is there and sends nothing else is lost, too
};

// Meets the other members of the group, all of which call this with the same id and ranks. Ranks are the indices of
// `ranks`. Throws Error(rank_lost) naming the rank that did not come, Error(argument) for an address.
std::unique_ptr<ExpertExchange> meet_ranks(RankListener& listener, const GroupId& group, int rank,
                                           const std::vector<RankAddress>& ranks, const RankTimes& times);

}  // namespace pelagic
