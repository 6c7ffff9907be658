// For tests: the ranks of a group as threads of this process, over either kind of exchange.
#pragma once

#include <condition_variable>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "ranks/local_exchange.h"
#include "ranks/tcp_exchange.h"

namespace pelagic::test {

enum class Transport { local, tcp };
inline const char* transport_name(Transport transport) { return transport == Transport::local ? "local" : "tcp"; }

// Runs fn(rank) for all ranks at once; gives what each has thrown.
inline std::vector<std::exception_ptr> on_all_ranks(int ranks, const std::function<void(int)>& fn) {
  std::vector<std::exception_ptr> failures(static_cast<std::size_t>(ranks));
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        fn(rank);
      } catch (...) {
        failures[static_cast<std::size_t>(rank)] = std::current_exception();
      }
    });
  }
  threads.clear();
  return failures;
}

// Of loopback TCP connections on free ports.
inline std::vector<std::unique_ptr<ExpertExchange>> make_tcp_exchanges(int ranks, const RankTimes& times,
                                                                       const std::vector<bool>& members = {}) {
  std::vector<std::unique_ptr<RankListener>> listeners;
  std::vector<RankAddress> addresses;
  for (int rank = 0; rank < ranks; ++rank) {
    RankSecret secret{};
    secret[0] = static_cast<std::uint8_t>(rank + 1);
    listeners.push_back(std::make_unique<RankListener>("127.0.0.1", 0, secret));
    const bool member = members.empty() || members[static_cast<std::size_t>(rank)];
    addresses.push_back({"127.0.0.1", listeners.back()->port(), secret, member});
  }
  std::vector<std::unique_ptr<ExpertExchange>> exchanges(static_cast<std::size_t>(ranks));
  const GroupId group{7, 7, 7};
  const auto failures = on_all_ranks(ranks, [&](int rank) {
    const auto i = static_cast<std::size_t>(rank);
    if (addresses[i].member) exchanges[i] = meet_ranks(*listeners[i], group, rank, addresses, times);
  });
  for (const std::exception_ptr& failure : failures) {
    if (failure) std::rethrow_exception(failure);
  }
  return exchanges;
}

inline std::vector<std::unique_ptr<ExpertExchange>> make_exchanges(Transport transport, int ranks,
                                                                   const RankTimes& times,
                                                                   const std::vector<bool>& members = {}) {
  return transport == Transport::local ? make_local_exchanges(ranks, times.longest_wait, members)
                                       : make_tcp_exchanges(ranks, times, members);
}

// What a rank without work sleeps on.
class Bell {
 public:
  void ring() {
    const std::lock_guard lock(mutex_);
    rung_ = true;
    changed_.notify_all();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return rung_; });
    rung_ = false;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool rung_ = false;
};

}  // namespace pelagic::test
