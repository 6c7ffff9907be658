// Rows from card to card through NCCL: for ranks with a card each. Who sends how many rows to whom goes through the
// ranks' messages before, so both ends know the sizes, and a rank that is lost is noticed there: then what waits on the
// card is aborted.
#pragma once

#include <chrono>
#include <functional>
#include <span>
#include <thread>
#include <vector>

#include "backend/cuda/nccl_library.h"
#include "backend/cuda/row_route.h"

namespace pelagic::cuda {

// How long anything waits for a rank that is there and does nothing: as the messages' waits.
inline constexpr std::chrono::seconds kLongestNcclWait{60};
// And until all have connected, before rows go through host memory instead.
inline constexpr std::chrono::seconds kLongestNcclConnect{20};

// The members' communicator. Without blocking calls: every wait looks after the group too.
class NcclGroup {
 public:
  // Member `index` of `count`: of all members, in the order of their ranks. Throws Error(rank_lost) if the group has
  // ended, and std::runtime_error if NCCL cannot connect them.
  NcclGroup(const NcclLibrary& nccl, const NcclId& id, int index, int count, const RankGroup& group);
  ~NcclGroup();
  NcclGroup(const NcclGroup&) = delete;
  NcclGroup& operator=(const NcclGroup&) = delete;

  // The peer's bytes; `send` does not write to them.
  struct Move {
    int peer;
    std::byte* data;
    std::size_t bytes;
  };
  // All of them at once, on the stream.
  void move(std::span<const Move> sends, std::span<const Move> receives, cudaStream_t stream, const RankGroup& group);
  // Throws std::runtime_error if NCCL has failed.
  bool is_settled() const;
  // What waits on the card ends at once; the rest of it, most of a second, goes on beside. The destructor waits for it.
  void abort();

 private:
  void wait_for_abort();
  void settle(const RankGroup& group, std::chrono::steady_clock::duration longest) const;
  [[noreturn]] void fail(const char* what, int result) const;

  const NcclLibrary& nccl_;
  NcclComm comm_ = nullptr;  // null: aborted
  std::thread aborting_;
};

class NcclRoute final : public RowRoute {
 public:
  // Copies indices to the card for the rest of the step.
  using Send = std::function<const std::uint32_t*(std::span<const std::uint32_t>)>;
  // group: outlives all calls but the destructor and abort.
  NcclRoute(cudaStream_t stream, Send send, std::unique_ptr<NcclGroup> cards, const RankGroup& group);

  void wait(const char* what) override;
  void abort() override { cards_->abort(); }
  void dispatch(RankGroup& group, RankGroup::Layer layer, const MoeBatch& batch, const std::byte* rows, int count,
                int row_bytes) override;
  CardRows inputs(RankGroup& group, const RankGroup::Inputs& inputs) override;
  const std::byte* outputs(RankGroup& group, const RankGroup::Inputs& inputs, const std::byte* outputs) override;

 private:
  int peer(int rank) const { return peers_[static_cast<std::size_t>(rank)]; }
  void gather(std::span<const std::uint32_t> rows, const std::byte* from, std::size_t row_bytes, std::byte* to);
  void move(RankGroup& group);

  const Send send_;
  const std::unique_ptr<NcclGroup> cards_;
  const RankGroup& group_;
  std::vector<int> peers_;  // by rank: which member it is

  // Of the layer that runs.
  const std::byte* rows_ = nullptr;
  std::size_t own_rows_ = 0, row_bytes_ = 0, output_bytes_ = 0, entries_ = 0;
  std::vector<NcclGroup::Move> sends_, receives_;
  std::vector<std::uint32_t> list_, index_;  // reused
  DeviceMemory sent_rows_, received_rows_, sent_outputs_, returned_;
};

}  // namespace pelagic::cuda
