// What expert-parallel ranks say to each other, whatever carries it: messages in order between any two of them. A group
// of ranks is good until one of its ranks is lost; then every wait of every other rank ends with that rank's name.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

namespace pelagic {

enum class MessageKind : std::uint32_t {
  begin = 1,     // a rank enters a step
  rows = 2,      // rows of one layer, for the experts of the receiver
  outputs = 3,   // what these experts made of them
  greeting = 4,  // before the first step
};

// What a message is about. Sender and receiver go through the same steps and layers, so both know it: a message with
// another tag means that one of them is out of step.
struct MessageTag {
  MessageKind kind;
  std::uint32_t layer;
  std::uint64_t step;
  bool operator==(const MessageTag&) const = default;
};
std::string tag_text(const MessageTag& tag);

// Why a group is over. by_itself: the rank that says so goes on in another one.
struct GroupEnd {
  std::string reason;
  bool by_itself = false;
};

// One thread at a time. All waits are bounded, and all of send, receive throw Error(rank_lost) with the rank's name and
// what happened to it.
class ExpertExchange {
 public:
  virtual ~ExpertExchange() = default;

  virtual int rank() const = 0;
  virtual int rank_count() const = 0;
  // Whether the rank is of this group. A rank that is lost later ends the group instead of leaving it.
  virtual bool is_member(int rank) const = 0;

  // Hands the message over; the bytes may change when this returns. Does not wait for the receiver to ask for it.
  virtual void send(int to, MessageTag tag, std::span<const std::byte> bytes) = 0;
  // The next message from the rank; its bytes stay until the next receive from the same rank.
  virtual std::span<const std::byte> receive(int from, MessageTag tag) = 0;

  // Ends the group for all ranks: their waits throw what this says, which names the rank at fault. Does not throw,
  // does not wait.
  virtual void leave(const GroupEnd& end) = 0;

  // Throws Error(rank_lost) if the group has ended.
  virtual void check() const = 0;
  // Whether a message waits that nobody has received.
  virtual bool has_message() const = 0;
  // Called on another thread when a message arrives, or the group has ended. Must not call the exchange. Set it before
  // the first message.
  virtual void on_arrival(std::function<void()> fn) = 0;
};

}  // namespace pelagic
