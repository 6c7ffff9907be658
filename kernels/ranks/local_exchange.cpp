#include "ranks/local_exchange.h"

#include <utility>

#include "ranks/inbox.h"

namespace pelagic {
namespace {

using Inboxes = std::vector<std::shared_ptr<Inbox>>;  // by rank; null: no member

class LocalExchange final : public ExpertExchange {
 public:
  LocalExchange(int rank, Inboxes inboxes) : rank_(rank), inboxes_(std::move(inboxes)) {}
  ~LocalExchange() override { leave({"rank " + std::to_string(rank_) + " is lost: it has ended"}); }

  int rank() const override { return rank_; }
  int rank_count() const override { return static_cast<int>(inboxes_.size()); }
  bool is_member(int rank) const override { return inboxes_[static_cast<std::size_t>(rank)] != nullptr; }

  void send(int to, MessageTag tag, std::span<const std::byte> bytes) override {
    own().check();
    Inbox& inbox = *inboxes_[static_cast<std::size_t>(to)];
    std::vector<std::byte> copy = inbox.buffer(rank_);
    copy.assign(bytes.begin(), bytes.end());
    inbox.put(rank_, tag, std::move(copy));
  }
  std::span<const std::byte> receive(int from, MessageTag tag) override { return own().take(from, tag); }

  void leave(const GroupEnd& end) override {
    for (const auto& inbox : inboxes_) {
      if (inbox != nullptr) inbox->end(end);
    }
  }
  void check() const override { own().check(); }
  bool has_message() const override { return own().has_message(); }
  void on_arrival(std::function<void()> fn) override { own().on_arrival(std::move(fn)); }

 private:
  Inbox& own() const { return *inboxes_[static_cast<std::size_t>(rank_)]; }

  const int rank_;
  const Inboxes inboxes_;
};

}  // namespace

std::vector<std::unique_ptr<ExpertExchange>> make_local_exchanges(int rank_count,
                                                                  std::chrono::milliseconds longest_wait,
                                                                  const std::vector<bool>& members) {
  Inboxes inboxes;
  for (int rank = 0; rank < rank_count; ++rank) {
    const bool member = members.empty() || members[static_cast<std::size_t>(rank)];
    inboxes.push_back(member ? std::make_shared<Inbox>(rank, rank_count, longest_wait) : nullptr);
  }
  std::vector<std::unique_ptr<ExpertExchange>> exchanges;
  for (int rank = 0; rank < rank_count; ++rank) {
    const bool member = inboxes[static_cast<std::size_t>(rank)] != nullptr;
    exchanges.push_back(member ? std::make_unique<LocalExchange>(rank, inboxes) : nullptr);
  }
  return exchanges;
}

}  // namespace pelagic
