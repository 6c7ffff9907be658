#include "ranks/inbox.h"

#include <utility>

#include "graph/error.h"

namespace pelagic {
namespace {

// In lockstep a rank is at most one exchange ahead of another one: two messages of a layer and the next step's begin.
constexpr std::size_t kMostWaiting = 8;
constexpr std::size_t kMostSpare = 4;

[[noreturn]] void lost(const GroupEnd& end) { throw Error(ErrorCode::rank_lost, end.reason, end.by_itself); }

}  // namespace

std::string tag_text(const MessageTag& tag) {
  const char* kind = tag.kind == MessageKind::begin      ? "begin"
                     : tag.kind == MessageKind::rows     ? "rows"
                     : tag.kind == MessageKind::outputs  ? "outputs"
                     : tag.kind == MessageKind::greeting ? "greeting"
                                                         : "unknown";
  return std::string(kind) + " of step " + std::to_string(tag.step) + ", layer " + std::to_string(tag.layer);
}

Inbox::Inbox(int rank, int rank_count, std::chrono::milliseconds longest_wait)
    : rank_(rank), longest_wait_(longest_wait), senders_(static_cast<std::size_t>(rank_count)) {}

std::vector<std::byte> Inbox::buffer(int from) {
  const std::lock_guard lock(mutex_);
  auto& spare = senders_[static_cast<std::size_t>(from)].spare;
  if (spare.empty()) return {};
  std::vector<std::byte> bytes = std::move(spare.back());
  spare.pop_back();
  bytes.clear();
  return bytes;
}

void Inbox::put(int from, MessageTag tag, std::vector<std::byte> bytes) {
  std::function<void()> arrival;
  {
    const std::lock_guard lock(mutex_);
    if (!end_.reason.empty()) return;
    Sender& sender = senders_[static_cast<std::size_t>(from)];
    if (sender.waiting.size() == kMostWaiting) {
      end_.reason =
          "rank " + std::to_string(from) + " is out of step: it sends what nobody waits for (" + tag_text(tag) + ")";
    } else {
      sender.waiting.push_back({tag, std::move(bytes)});
      ++waiting_;
    }
    arrival = arrival_;
  }
  changed_.notify_all();
  if (arrival) arrival();
}

std::span<const std::byte> Inbox::take(int from, MessageTag tag) {
  std::unique_lock lock(mutex_);
  Sender& sender = senders_[static_cast<std::size_t>(from)];
  const bool told =
      changed_.wait_for(lock, longest_wait_, [&] { return !sender.waiting.empty() || !end_.reason.empty(); });
  if (!told) {
    end_.reason = "rank " + std::to_string(from) + " is lost: nothing came in " +
                  std::to_string(longest_wait_.count()) + " ms, rank " + std::to_string(rank_) + " waits for " +
                  tag_text(tag);
  }
  if (sender.waiting.empty()) lost(end_);
  Message message = std::move(sender.waiting.front());
  sender.waiting.pop_front();
  --waiting_;
  if (message.tag != tag) {
    if (end_.reason.empty()) {
      end_.reason = "rank " + std::to_string(from) + " is out of step: it sent " + tag_text(message.tag) + ", rank " +
                    std::to_string(rank_) + " waits for " + tag_text(tag);
    }
    lost(end_);
  }
  std::swap(sender.current, message.bytes);
  if (sender.spare.size() < kMostSpare && message.bytes.capacity() > 0)
    sender.spare.push_back(std::move(message.bytes));
  return sender.current;
}

void Inbox::end(const GroupEnd& end) {
  std::function<void()> arrival;
  {
    const std::lock_guard lock(mutex_);
    if (!end_.reason.empty()) return;
    end_ = end;
    arrival = arrival_;
  }
  changed_.notify_all();
  if (arrival) arrival();
}

bool Inbox::ended() const {
  const std::lock_guard lock(mutex_);
  return !end_.reason.empty();
}

void Inbox::check() const {
  const std::lock_guard lock(mutex_);
  if (!end_.reason.empty()) lost(end_);
}

bool Inbox::has_message() const {
  const std::lock_guard lock(mutex_);
  return waiting_ > 0;
}

void Inbox::on_arrival(std::function<void()> fn) {
  const std::lock_guard lock(mutex_);
  arrival_ = std::move(fn);
}

}  // namespace pelagic
