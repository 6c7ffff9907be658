// Messages that have arrived at one rank, by sender, and how the group ended.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "ranks/expert_exchange.h"

namespace pelagic {

class Inbox {
 public:
  // longest_wait: how long take waits for a rank that is there and says nothing.
  Inbox(int rank, int rank_count, std::chrono::milliseconds longest_wait);

  // An empty vector to fill, with memory of a message received before where there is some.
  std::vector<std::byte> buffer(int from);
  // A sender that is further ahead than lockstep allows ends the group.
  void put(int from, MessageTag tag, std::vector<std::byte> bytes);
  // Waits. Messages that arrived before the group ended are still given. Throws Error(rank_lost).
  std::span<const std::byte> take(int from, MessageTag tag);

  // Ends the group; the first end stays.
  void end(const GroupEnd& end);
  bool ended() const;
  // Throws Error(rank_lost) if the group has ended.
  void check() const;
  bool has_message() const;
  void on_arrival(std::function<void()> fn);

 private:
  struct Message {
    MessageTag tag;
    std::vector<std::byte> bytes;
  };
  struct Sender {
    std::deque<Message> waiting;
    std::vector<std::byte> current;  // what take gave last
    std::vector<std::vector<std::byte>> spare;
  };

  const int rank_;
  const std::chrono::milliseconds longest_wait_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Sender> senders_;
  std::size_t waiting_ = 0;  // messages of all senders
  GroupEnd end_;             // no reason: the group stands
  std::function<void()> arrival_;
};

}  // namespace pelagic
