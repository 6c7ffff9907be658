#include "backend/cuda/nccl_route.h"

#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "backend/cuda/row_kernels.h"

namespace pelagic::cuda {
namespace {

using Clock = std::chrono::steady_clock;
// Polls of the card between two looks at the group.
constexpr int kPolls = 64;
constexpr std::chrono::seconds kReasonWait{1};

// NCCL's failures are the loss of some rank: the messages know soon which it was.
template <typename Fn>
void as_loss(const RankGroup& group, const Fn& fn) {
  try {
    fn();
  } catch (const Error&) {
    throw;
  } catch (const std::runtime_error& error) {
    for (const auto end = Clock::now() + kReasonWait; Clock::now() < end;) {
      group.check();
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    throw Error(ErrorCode::rank_lost,
                "rank " + std::to_string(group.rank()) + " has lost the way to the others' cards: " + error.what());
  }
}

}  // namespace

NcclGroup::NcclGroup(const NcclLibrary& nccl, const NcclId& id, int index, int count, const RankGroup& group)
    : nccl_(nccl) {
  try {
    NcclConfig config;
    const int result = nccl_.init_rank(&comm_, count, id, index, &config);
    if (result != kNcclSuccess && result != kNcclInProgress) fail("connecting", result);
    settle(group, kLongestNcclConnect);
  } catch (...) {
    abort();
    wait_for_abort();
    throw;
  }
}

void NcclGroup::fail(const char* what, int result) const {
  throw std::runtime_error(std::string("NCCL failed at ") + what + ": " + nccl_.get_error_string(result));
}

bool NcclGroup::is_settled() const {
  int state = kNcclSuccess;
  const int result = nccl_.get_async_error(comm_, &state);
  if (result != kNcclSuccess) fail("a look at its state", result);
  if (state != kNcclSuccess && state != kNcclInProgress) fail("moving rows", state);
  return state == kNcclSuccess;
}

void NcclGroup::settle(const RankGroup& group, Clock::duration longest) const {
  const auto end = Clock::now() + longest;
  while (!is_settled()) {
    group.check();
    if (Clock::now() > end) throw std::runtime_error("NCCL was not done after the longest wait");
    std::this_thread::yield();
  }
}

void NcclGroup::move(std::span<const Move> sends, std::span<const Move> receives, cudaStream_t stream,
                     const RankGroup& group) {
  if (comm_ == nullptr) throw std::runtime_error("NCCL's group was aborted");
  if (sends.empty() && receives.empty()) return;
  int first_failure = kNcclSuccess;
  const auto note = [&](int result) {
    if (first_failure == kNcclSuccess && result != kNcclInProgress) first_failure = result;
  };
  note(nccl_.group_start());
  for (const Move& m : sends) note(nccl_.send(m.data, m.bytes, kNcclBytes, m.peer, comm_, stream));
  for (const Move& m : receives) note(nccl_.receive(m.data, m.bytes, kNcclBytes, m.peer, comm_, stream));
  note(nccl_.group_end());
  if (first_failure != kNcclSuccess) fail("moving rows", first_failure);
  settle(group, kLongestNcclWait);
}

NcclGroup::~NcclGroup() {
  abort();
  wait_for_abort();
}

void NcclGroup::abort() {
  const NcclComm comm = std::exchange(comm_, nullptr);
  if (comm == nullptr) return;
  try {
    aborting_ = std::thread(nccl_.abort, comm);
  } catch (const std::system_error&) {
    nccl_.abort(comm);
  }
}

void NcclGroup::wait_for_abort() {
  if (aborting_.joinable()) aborting_.join();
}

NcclRoute::NcclRoute(cudaStream_t stream, Send send, std::unique_ptr<NcclGroup> cards, const RankGroup& group)
    : RowRoute(stream), send_(std::move(send)), cards_(std::move(cards)), group_(group) {
  int next = 0;
  for (const bool member : group.view().members) peers_.push_back(member ? next++ : -1);
}

void NcclRoute::wait(const char* what) {
  const auto end = Clock::now() + kLongestNcclWait;
  for (int poll = 1;; ++poll) {
    const cudaError_t state = cudaStreamQuery(stream_);
    if (state == cudaSuccess) return;
    if (state != cudaErrorNotReady) check(state, what);
    if (poll % kPolls != 0) continue;
    group_.check();
    as_loss(group_, [&] {
      cards_->is_settled();
      if (Clock::now() > end) throw std::runtime_error("NCCL was not done after the longest wait");
    });
    std::this_thread::yield();
  }
}

void NcclRoute::dispatch(RankGroup& group, RankGroup::Layer layer, const MoeBatch& batch, const std::byte* rows,
                         int count, int row_bytes) {
  rows_ = rows;
  own_rows_ = static_cast<std::size_t>(count);
  row_bytes_ = static_cast<std::size_t>(row_bytes);
  output_bytes_ = static_cast<std::size_t>(layer.output_bytes);
  entries_ = batch.entries.size();
  layer.apart = true;
  group.dispatch(layer, batch, {nullptr, row_bytes, count, row_bytes});
}

CardRows NcclRoute::inputs(RankGroup& group, const RankGroup::Inputs& inputs) {
  sends_.clear();
  receives_.clear();
  list_.clear();
  index_.resize(static_cast<std::size_t>(inputs.rows()));
  const int ranks = static_cast<int>(peers_.size());
  std::size_t received = 0, own_at = 0;  // rows
  const auto for_active = [&](const auto& visit) {
    for (int rank = 0; rank < ranks; ++rank) {
      if (peer(rank) >= 0 && group.active(rank)) visit(rank, group.origin(rank));
    }
  };
  for_active([&](int, const RankGroup::Origin& origin) { received += static_cast<std::size_t>(origin.rows.count); });
  reserve(received_rows_, received * row_bytes_);
  received = 0;
  for_active([&](int from, const RankGroup::Origin& origin) {
    const auto count = static_cast<std::size_t>(origin.rows.count);
    if (from == group.rank()) {
      own_at = received;
    } else if (count > 0) {
      receives_.push_back({peer(from), received_rows_.get<std::byte>() + received * row_bytes_, count * row_bytes_});
    }
    std::size_t entry = 0;
    for (std::size_t slot = 0; slot < origin.slot_counts.size(); ++slot) {
      for (std::int32_t i = 0; i < origin.slot_counts[slot]; ++i, ++entry)
        index_[static_cast<std::size_t>(origin.first_input[slot] + i)] =
            static_cast<std::uint32_t>(received) + static_cast<std::uint32_t>(origin.row_of_entry[entry]);
    }
    received += count;
  });
  for (int to = 0; to < ranks; ++to) {
    if (to == group.rank()) continue;
    for (const std::int32_t row : group.sent_rows(to)) list_.push_back(static_cast<std::uint32_t>(row));
  }
  reserve(sent_rows_, list_.size() * row_bytes_);
  std::size_t sent = 0;
  for (int to = 0; to < ranks; ++to) {
    const std::size_t count = group.sent_rows(to).size();
    if (to == group.rank() || count == 0) continue;
    sends_.push_back({peer(to), sent_rows_.get<std::byte>() + sent * row_bytes_, count * row_bytes_});
    sent += count;
  }
  gather(list_, rows_, row_bytes_, sent_rows_.get<std::byte>());
  if (own_rows_ > 0)
    check(cudaMemcpyAsync(received_rows_.get<std::byte>() + own_at * row_bytes_, rows_, own_rows_ * row_bytes_,
                          cudaMemcpyDeviceToDevice, stream_),
          "a copy of rows");
  move(group);
  return {received_rows_.get<std::byte>(), index_.empty() ? nullptr : send_(index_)};
}

const std::byte* NcclRoute::outputs(RankGroup& group, const RankGroup::Inputs&, const std::byte* outputs) {
  sends_.clear();
  receives_.clear();
  list_.clear();
  const int ranks = static_cast<int>(peers_.size());
  const auto add_entries = [&](const RankGroup::Origin& origin) {
    for (std::size_t slot = 0; slot < origin.slot_counts.size(); ++slot) {
      for (std::int32_t i = 0; i < origin.slot_counts[slot]; ++i)
        list_.push_back(static_cast<std::uint32_t>(origin.first_input[slot] + i));
    }
  };
  const auto is_other = [&](int rank) { return rank != group.rank() && peer(rank) >= 0 && group.active(rank); };
  for (int to = 0; to < ranks; ++to) {
    if (is_other(to)) add_entries(group.origin(to));
  }
  reserve(sent_outputs_, list_.size() * output_bytes_);
  std::size_t sent = 0;
  for (int to = 0; to < ranks; ++to) {
    const std::size_t count = is_other(to) ? group.origin(to).row_of_entry.size() : 0;
    if (count == 0) continue;
    sends_.push_back({peer(to), sent_outputs_.get<std::byte>() + sent * output_bytes_, count * output_bytes_});
    sent += count;
  }
  gather(list_, outputs, output_bytes_, sent_outputs_.get<std::byte>());
  if (entries_ > 0) {
    reserve(returned_, entries_ * output_bytes_);
    for (int from = 0; from < ranks; ++from) {
      const RankGroup::Range range = group.entries_of(from);
      if (range.begin == range.end) continue;
      std::byte* to = returned_.get<std::byte>() + static_cast<std::size_t>(range.begin) * output_bytes_;
      if (from != group.rank()) {
        receives_.push_back({peer(from), to, static_cast<std::size_t>(range.end - range.begin) * output_bytes_});
        continue;
      }
      list_.clear();
      add_entries(group.origin(from));
      gather(list_, outputs, output_bytes_, to);
    }
  }
  move(group);
  return returned_.get<std::byte>();
}

void NcclRoute::gather(std::span<const std::uint32_t> rows, const std::byte* from, std::size_t row_bytes,
                       std::byte* to) {
  if (rows.empty()) return;
  check(gather_rows_cuda({.count = static_cast<int>(rows.size()),
                          .row_bytes = static_cast<int>(row_bytes),
                          .rows = send_(rows),
                          .x = from,
                          .ldx_bytes = static_cast<std::int64_t>(row_bytes),
                          .out = to,
                          .ld_out_bytes = static_cast<std::int64_t>(row_bytes)},
                         stream_),
        "a gathering of rows");
}

void NcclRoute::move(RankGroup& group) {
  as_loss(group, [&] { cards_->move(sends_, receives_, stream_, group); });
  for (const NcclGroup::Move& sent : sends_) group.count_card_bytes(sent.bytes);
}

}  // namespace pelagic::cuda
