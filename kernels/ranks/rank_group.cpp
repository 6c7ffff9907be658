#include "ranks/rank_group.h"

#include <time.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <numeric>
#include <string>
#include <utility>

#include "graph/error.h"

namespace pelagic {
namespace {

// Then, of the step before, what its sender was busy with, as in RankGroup::busy_.
struct BeginMessage {
  std::uint32_t rows;
  std::uint32_t logit_rows;
  PlacementOffer placement;
};
static_assert(sizeof(BeginMessage) == 32);

// What a message of rows begins with; then slot counts [slots], row_of_entry [entries], and the rows, unless these
// travel beside the messages.
struct RowsHeader {
  std::uint32_t rows;
  std::uint32_t entries;
  std::uint32_t row_bytes;
  std::uint32_t slots;
};

template <class T>
std::byte* append(std::byte* to, const T* values, std::size_t count) {
  if (count > 0) std::memcpy(to, values, count * sizeof(T));
  return to + count * sizeof(T);
}

template <class Fn>
void for_each_other(const RankView& view, const Fn& fn) {
  for (int rank = 0; rank < static_cast<int>(view.members.size()); ++rank) {
    if (rank != view.rank && view.members[static_cast<std::size_t>(rank)]) fn(rank);
  }
}

[[noreturn]] void malformed(int from, const std::string& what) {
  throw Error(ErrorCode::rank_lost, "rank " + std::to_string(from) + " sent a message that cannot be right: " + what);
}

}  // namespace

RankGroup::RankGroup(std::unique_ptr<ExpertExchange> exchange, RankView view, RankCounters counters)
    : exchange_(std::move(exchange)), view_(std::move(view)), counters_(std::move(counters)) {
  const int ranks = exchange_->rank_count();
  view_.rank = exchange_->rank();
  view_.members.clear();
  for (int rank = 0; rank < ranks; ++rank) view_.members.push_back(exchange_->is_member(rank));
  counts_.resize(static_cast<std::size_t>(ranks));
  origins_.resize(static_cast<std::size_t>(ranks));
  sent_rows_.resize(static_cast<std::size_t>(ranks));
  const int nodes = (ranks + view_.ranks_per_node - 1) / view_.ranks_per_node;
  counters_.nodes_reached.resize(static_cast<std::size_t>(nodes) + 1);
}

RankGroup::~RankGroup() = default;

std::span<const std::byte> RankGroup::receive(int from, MessageKind kind) {
  const auto start = std::chrono::steady_clock::now();
  const auto bytes = exchange_->receive(from, tag(kind));
  counters_.wait_seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return bytes;
}

std::uint64_t RankGroup::lap() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  const std::uint64_t total =
      static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(now.tv_nsec);
  const std::uint64_t since = std::exchange(busy_since_, total);
  return total > since ? total - since : 0;  // steps may change threads
}

void RankGroup::send_begin(const PlacementOffer& offer, const RowCounts& counts) {
  const BeginMessage mine{counts.rows, counts.logit_rows, offer};
  message_.resize(sizeof mine + busy_.size() * sizeof busy_[0]);
  append(append(message_.data(), &mine, 1), busy_.data(), busy_.size());
  for_each_other(view_, [&](int to) {
    exchange_->send(to, tag(MessageKind::begin), message_);
    counters_.sent_bytes += message_.size();
  });
}

// All have run the same layers in the step before.
void RankGroup::read_busy(int from, std::span<const std::byte> bytes) {
  if (bytes.size() != busy_.size() * sizeof busy_[0]) malformed(from, "busy times of another step");
  for (std::size_t i = 0; i < busy_.size(); ++i) {
    Busy its;
    std::memcpy(&its, bytes.data() + i * sizeof its, sizeof its);
    most_busy_[i].nanoseconds = std::max(most_busy_[i].nanoseconds, its.nanoseconds);
    most_busy_[i].rows = std::max(most_busy_[i].rows, its.rows);
  }
}

void RankGroup::count_busy() {
  constexpr double kNanosecond = 1e-9;
  for (std::size_t i = 0; i < busy_.size() && busy_.size() > 1; ++i) {
    const double most = kNanosecond * static_cast<double>(most_busy_[i].nanoseconds);
    counters_.critical_step_seconds += most;
    if (i == 0) continue;
    counters_.expert_seconds += kNanosecond * static_cast<double>(busy_[i].nanoseconds);
    counters_.critical_expert_seconds += most;
    counters_.critical_computed_rows += most_busy_[i].rows;
  }
  busy_.assign(1, {});
  lap();
}

int RankGroup::begin_step(int rows, int logit_rows, const PlacementOffer& offer) {
  ++step_;
  layer_ = {};
  if (!busy_.empty()) busy_[0].nanoseconds += lap();
  most_busy_ = busy_;
  const RowCounts mine{static_cast<std::uint32_t>(rows), static_cast<std::uint32_t>(logit_rows)};
  send_begin(offer, mine);
  std::uint32_t ready = offer.ready_layers;
  for (int from = 0; from < exchange_->rank_count(); ++from) {
    RowCounts& counts = counts_[static_cast<std::size_t>(from)];
    counts = {};
    if (!view_.members[static_cast<std::size_t>(from)]) continue;
    BeginMessage message{mine.rows, mine.logit_rows, offer};
    if (from != rank()) {
      const auto bytes = receive(from, MessageKind::begin);
      if (bytes.size() < sizeof message) malformed(from, std::to_string(bytes.size()) + " bytes to begin a step");
      std::memcpy(&message, bytes.data(), sizeof message);
      read_busy(from, bytes.subspan(sizeof message));
    }
    if (message.placement.in_force != offer.in_force) {
      throw Error(ErrorCode::rank_lost,
                  "rank " + std::to_string(from) + " goes by another expert plan than rank " + std::to_string(rank()),
                  true);
    }
    ready = message.placement.next == offer.next ? std::min(ready, message.placement.ready_layers) : 0;
    counts = {message.rows, message.logit_rows};
  }
  ++counters_.steps;
  if (rows == 0) ++counters_.empty_steps;
  count_busy();
  return static_cast<int>(ready);
}

std::vector<std::vector<std::byte>> RankGroup::greet(std::span<const std::byte> mine) {
  const MessageTag tag{MessageKind::greeting, greetings_++, 0};
  for_each_other(view_, [&](int to) {
    exchange_->send(to, tag, mine);
    counters_.sent_bytes += mine.size();
  });
  std::vector<std::vector<std::byte>> all(view_.members.size());
  all[static_cast<std::size_t>(rank())].assign(mine.begin(), mine.end());
  for_each_other(view_, [&](int from) {
    const auto bytes = exchange_->receive(from, tag);
    all[static_cast<std::size_t>(from)].assign(bytes.begin(), bytes.end());
  });
  return all;
}

bool RankGroup::any_logit_rows() const {
  return std::any_of(counts_.begin(), counts_.end(), [](const RowCounts& c) { return c.logit_rows > 0; });
}

bool RankGroup::active(int rank) const {
  const RowCounts& counts = counts_[static_cast<std::size_t>(rank)];
  return (layer_.last ? counts.logit_rows : counts.rows) > 0;
}

RankGroup::Range RankGroup::entries_of(int rank) const {
  const auto first = static_cast<std::size_t>(rank) * static_cast<std::size_t>(layer_.slots_per_rank);
  return {batch_->slot_offsets[first], batch_->slot_offsets[first + static_cast<std::size_t>(layer_.slots_per_rank)]};
}

void RankGroup::dispatch(const Layer& layer, const MoeBatch& batch, HostRows rows) {
  layer_ = layer;
  batch_ = &batch;
  row_bytes_ = rows.row_bytes;
  origins_[static_cast<std::size_t>(rank())].rows = rows;
  for (auto& sent : sent_rows_) sent.clear();
  if (!active(rank())) return;
  last_node_.assign(static_cast<std::size_t>(rows.count), -1);
  node_count_.assign(static_cast<std::size_t>(rows.count), 0);
  for (int to = 0; to < exchange_->rank_count(); ++to) {
    if (!view_.members[static_cast<std::size_t>(to)]) continue;
    collect_sent_rows(to);
    if (to != rank()) send_rows(to);
  }
  for (const std::int32_t nodes : node_count_) ++counters_.nodes_reached[static_cast<std::size_t>(nodes)];
}

// Which own rows go to the rank, and how they are counted.
void RankGroup::collect_sent_rows(int to) {
  const Range range = entries_of(to);
  const int rows = origins_[static_cast<std::size_t>(rank())].rows.count;
  const int node = to / view_.ranks_per_node;
  place_.assign(static_cast<std::size_t>(rows), -1);
  std::vector<std::int32_t>& sent = sent_rows_[static_cast<std::size_t>(to)];
  for (int entry = range.begin; entry < range.end; ++entry) {
    const std::int32_t row = batch_->entries[static_cast<std::size_t>(entry)].row;
    std::int32_t& place = place_[static_cast<std::size_t>(row)];
    if (place >= 0) continue;
    place = static_cast<std::int32_t>(sent.size());
    sent.push_back(row);
    if (last_node_[static_cast<std::size_t>(row)] == node) continue;
    last_node_[static_cast<std::size_t>(row)] = node;
    ++node_count_[static_cast<std::size_t>(row)];
  }
  std::uint64_t& copies = to == rank()                            ? counters_.kept_copies
                          : node == rank() / view_.ranks_per_node ? counters_.node_copies
                                                                  : counters_.far_copies;
  copies += sent.size();
}

void RankGroup::send_rows(int to) {
  const Range range = entries_of(to);
  const HostRows& rows = origins_[static_cast<std::size_t>(rank())].rows;
  const std::vector<std::int32_t>& sent = sent_rows_[static_cast<std::size_t>(to)];
  const auto entries = static_cast<std::size_t>(range.end - range.begin);
  const auto slots = static_cast<std::size_t>(layer_.slots_per_rank);
  const auto row_bytes = static_cast<std::size_t>(row_bytes_);
  const RowsHeader header{static_cast<std::uint32_t>(sent.size()), static_cast<std::uint32_t>(entries),
                          static_cast<std::uint32_t>(row_bytes_), static_cast<std::uint32_t>(slots)};
  message_.resize(sizeof header + 4 * (slots + entries) + (layer_.apart ? 0 : sent.size() * row_bytes));
  std::byte* out = append(message_.data(), &header, 1);
  for (std::size_t slot = 0; slot < slots; ++slot) {
    const std::size_t global = static_cast<std::size_t>(to) * slots + slot;
    const std::int32_t count = batch_->slot_offsets[global + 1] - batch_->slot_offsets[global];
    out = append(out, &count, 1);
  }
  for (int entry = range.begin; entry < range.end; ++entry)
    out = append(out, &place_[static_cast<std::size_t>(batch_->entries[static_cast<std::size_t>(entry)].row)], 1);
  if (!layer_.apart) {
    for (const std::int32_t row : sent) out = append(out, rows.data + row * rows.stride, row_bytes);
  }
  exchange_->send(to, tag(MessageKind::rows), message_);
  counters_.sent_bytes += message_.size();
}

// This rank's rows for its own slots.
void RankGroup::own_rows(Origin& origin) {
  const Range range = entries_of(rank());
  const auto slots = static_cast<std::size_t>(layer_.slots_per_rank);
  const std::size_t first = static_cast<std::size_t>(rank()) * slots;
  for (std::size_t slot = 0; slot < slots; ++slot)
    origin.slot_counts[slot] = batch_->slot_offsets[first + slot + 1] - batch_->slot_offsets[first + slot];
  origin.row_of_entry.clear();
  for (int entry = range.begin; entry < range.end; ++entry)
    origin.row_of_entry.push_back(batch_->entries[static_cast<std::size_t>(entry)].row);
}

void RankGroup::read_rows(int from, Origin& origin) {
  const auto bytes = receive(from, MessageKind::rows);
  RowsHeader header;
  if (bytes.size() < sizeof header) malformed(from, "rows without a header");
  std::memcpy(&header, bytes.data(), sizeof header);
  const RowCounts& counts = counts_[static_cast<std::size_t>(from)];
  if (header.rows > (layer_.last ? counts.logit_rows : counts.rows)) malformed(from, "more rows than it has");
  if (header.row_bytes != static_cast<std::uint32_t>(row_bytes_) ||
      header.slots != static_cast<std::uint32_t>(layer_.slots_per_rank))
    malformed(from, "rows of another model or plan");
  const std::uint64_t row_bytes = layer_.apart ? 0 : std::uint64_t{header.rows} * header.row_bytes;
  if (bytes.size() != sizeof header + 4 * (std::uint64_t{header.slots} + header.entries) + row_bytes)
    malformed(from, "rows of another size than they say");
  const std::byte* in = bytes.data() + sizeof header;
  std::memcpy(origin.slot_counts.data(), in, header.slots * std::size_t{4});
  in += header.slots * std::size_t{4};
  origin.row_of_entry.resize(header.entries);
  if (header.entries > 0) std::memcpy(origin.row_of_entry.data(), in, header.entries * std::size_t{4});
  in += header.entries * std::size_t{4};
  std::int64_t sum = 0;
  for (const std::int32_t count : origin.slot_counts) {
    if (count < 0) malformed(from, "a negative count of rows");
    sum += count;
  }
  if (sum != header.entries) malformed(from, "counts that do not add up");
  for (const std::int32_t row : origin.row_of_entry) {
    if (row < 0 || static_cast<std::uint32_t>(row) >= header.rows) malformed(from, "a row that it did not send");
  }
  origin.rows = {layer_.apart ? nullptr : in, row_bytes_, static_cast<int>(header.rows), row_bytes_};
}

const RankGroup::Inputs& RankGroup::receive_rows(std::span<const std::int32_t> logical_of_own_slots) {
  const auto slots = static_cast<std::size_t>(layer_.slots_per_rank);
  inputs_.slot_offsets.assign(slots + 1, 0);
  for (int from = 0; from < exchange_->rank_count(); ++from) {
    Origin& origin = origins_[static_cast<std::size_t>(from)];
    origin.slot_counts.assign(slots, 0);
    origin.first_input.assign(slots, 0);
    origin.row_of_entry.clear();
    if (!active(from)) continue;
    if (from == rank()) {
      own_rows(origin);
    } else {
      read_rows(from, origin);
    }
    for (std::size_t slot = 0; slot < slots; ++slot) {
      if (origin.slot_counts[slot] > 0 && logical_of_own_slots[slot] < 0)
        malformed(from, "rows for slot " + std::to_string(slot) + ", which is spare");
      inputs_.slot_offsets[slot + 1] += origin.slot_counts[slot];
    }
  }
  std::partial_sum(inputs_.slot_offsets.begin(), inputs_.slot_offsets.end(), inputs_.slot_offsets.begin());

  // Within a slot by origin: every origin's entries of a slot lie side by side.
  std::vector<std::int32_t>& offsets = inputs_.slot_offsets;
  input_rows_.resize(static_cast<std::size_t>(inputs_.rows()));
  for (std::size_t slot = 0; slot < slots; ++slot) {
    std::int32_t next = offsets[slot];
    for (Origin& origin : origins_) {
      origin.first_input[slot] = next;
      next += origin.slot_counts[slot];
    }
  }
  for (const Origin& origin : origins_) {
    std::size_t entry = 0;
    for (std::size_t slot = 0; slot < slots; ++slot) {
      for (std::int32_t i = 0; !layer_.apart && i < origin.slot_counts[slot]; ++i, ++entry)
        input_rows_[static_cast<std::size_t>(origin.first_input[slot] + i)] =
            origin.rows.data + origin.row_of_entry[entry] * origin.rows.stride;
    }
  }

  inputs_.active_slots.clear();
  for (std::int32_t slot = 0; slot < layer_.slots_per_rank; ++slot) {
    if (offsets[static_cast<std::size_t>(slot) + 1] > offsets[static_cast<std::size_t>(slot)])
      inputs_.active_slots.push_back(slot);
  }
  const auto rows_of = [&](std::int32_t slot) {
    return offsets[static_cast<std::size_t>(slot) + 1] - offsets[static_cast<std::size_t>(slot)];
  };
  std::stable_sort(inputs_.active_slots.begin(), inputs_.active_slots.end(),
                   [&](std::int32_t a, std::int32_t b) { return rows_of(a) > rows_of(b); });
  counters_.computed_rows += static_cast<std::uint64_t>(inputs_.rows());
  busy_[0].nanoseconds += lap();
  return inputs_;
}

void RankGroup::gather(int begin, int end, std::byte* out) const {
  const auto bytes = static_cast<std::size_t>(row_bytes_);
  for (int row = begin; row < end; ++row, out += bytes)
    std::memcpy(out, input_rows_[static_cast<std::size_t>(row)], bytes);
}

void RankGroup::return_outputs(const std::byte* outputs) {
  own_outputs_ = outputs;
  busy_.push_back({lap(), static_cast<std::uint64_t>(inputs_.rows())});
  const auto bytes = static_cast<std::size_t>(layer_.output_bytes);
  for (int to = 0; to < exchange_->rank_count(); ++to) {
    if (to == rank() || !active(to)) continue;
    const Origin& origin = origins_[static_cast<std::size_t>(to)];
    message_.resize(origin.row_of_entry.size() * bytes);
    std::byte* out = message_.data();
    for (std::size_t slot = 0; slot < origin.slot_counts.size(); ++slot)
      out = append(out, outputs + static_cast<std::size_t>(origin.first_input[slot]) * bytes,
                   static_cast<std::size_t>(origin.slot_counts[slot]) * bytes);
    exchange_->send(to, tag(MessageKind::outputs), message_);
    counters_.sent_bytes += message_.size();
  }
}

void RankGroup::collect(std::byte* out) {
  if (!active(rank())) return;
  const auto row_bytes = static_cast<std::size_t>(layer_.output_bytes);
  for (int from = 0; from < exchange_->rank_count(); ++from) {
    if (!view_.members[static_cast<std::size_t>(from)]) continue;
    const Range range = entries_of(from);
    std::byte* to = out + static_cast<std::size_t>(range.begin) * row_bytes;
    if (from != rank()) {
      const auto bytes = receive(from, MessageKind::outputs);
      if (bytes.size() != static_cast<std::size_t>(range.end - range.begin) * row_bytes)
        malformed(from, "outputs of another number of rows than it got");
      append(to, bytes.data(), bytes.size());
      continue;
    }
    const Origin& own = origins_[static_cast<std::size_t>(from)];
    for (std::size_t slot = 0; slot < own.slot_counts.size(); ++slot)
      to = append(to, own_outputs_ + static_cast<std::size_t>(own.first_input[slot]) * row_bytes,
                  static_cast<std::size_t>(own.slot_counts[slot]) * row_bytes);
  }
}

}  // namespace pelagic
