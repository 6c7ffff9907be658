// One rank's part in steps that all ranks of a group make together: each step begins with everybody's row counts, and
// each MoE layer's rows go to the ranks that hold their experts and come back.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "ops/moe/moe.h"
#include "ranks/expert_exchange.h"
#include "ranks/expert_plan.h"

namespace pelagic {

// All only grow. A copy is one row sent to one rank: a row goes once to a rank, however many of its experts are there.
struct RankCounters {
  std::uint64_t steps = 0;
  std::uint64_t empty_steps = 0;    // of these: without rows of this rank
  std::uint64_t kept_copies = 0;    // this rank itself holds one of the row's experts
  std::uint64_t node_copies = 0;    // to other ranks of the own node
  std::uint64_t far_copies = 0;     // to ranks of other nodes
  std::uint64_t computed_rows = 0;  // (row, expert) pairs that this rank's slots computed, of all ranks' rows
  std::uint64_t sent_bytes = 0;     // in messages
  std::uint64_t card_bytes = 0;     // beside them, from card to card
  double wait_seconds = 0;          // for messages of other ranks
  // Of the steps before the one that runs, unless rows travel beside the messages. Seconds are processor time of the
  // thread that steps. What is critical is of the rank that has most of it, in each layer of each step and in what else
  // there is to a step: all ranks count the same, and no group of these ranks can be quicker.
  double expert_seconds = 0;
  double critical_expert_seconds = 0;
  double critical_step_seconds = 0;  // experts and all else
  std::uint64_t critical_computed_rows = 0;
  std::vector<std::uint64_t> nodes_reached;  // [nodes + 1]: own rows of a layer by the number of nodes they went to
};

// Rows in host memory, of whatever a backend computes with: nobody looks into them.
struct HostRows {
  const std::byte* data;  // null where they travel beside the messages
  std::int64_t stride;    // bytes
  int count;
  int row_bytes;
};

// What a rank says of its slots when it begins a step.
struct PlacementOffer {
  std::uint64_t in_force = 0;      // the digest of what it goes by
  std::uint64_t next = 0;          // of the plan that it loads experts for; 0: none
  std::uint32_t ready_layers = 0;  // the first ones of that plan, of which it has all experts
};

class RankGroup {
 public:
  // view.members is filled from the exchange. counters: of the group before.
  RankGroup(std::unique_ptr<ExpertExchange> exchange, RankView view, RankCounters counters);
  ~RankGroup();

  const RankView& view() const { return view_; }
  int rank() const { return view_.rank; }
  const RankCounters& counters() const { return counters_; }

  // ---- Steps. begin_step tells the others and waits for all of them; who has no work has no rows. Throws
  // Error(rank_lost), also where a rank goes by another plan. Returns how many layers every rank is ready to take from
  // the next plan: all ranks are told the same, in the same step. 0 where they do not have the same next plan.
  int begin_step(int rows, int logit_rows, const PlacementOffer& offer);
  // Rows whose logits are wanted, of all ranks: without any, no rank runs the last layer.
  bool any_logit_rows() const;
  // Others have begun a step that this rank has not. Throws Error(rank_lost) if the group has ended.
  bool others_began() const {
    if (exchange_->has_message()) return true;
    exchange_->check();
    return false;
  }
  void on_arrival(std::function<void()> fn) { exchange_->on_arrival(std::move(fn)); }
  // After a failure, or for good: the other ranks' waits end.
  void leave(const GroupEnd& end) { exchange_->leave(end); }
  // Throws Error(rank_lost) if the group has ended.
  void check() const { exchange_->check(); }

  // Before the first step: tells all others something, and gives what each rank said, this one too; empty: no member.
  std::vector<std::vector<std::byte>> greet(std::span<const std::byte> mine);

  // ---- One MoE layer, in this order on every rank. `last`: only logit rows are left.
  struct Layer {
    int index;
    bool last;
    int slots_per_rank;
    int output_bytes;    // of a row that comes back
    bool apart = false;  // rows and outputs travel beside the messages: gather, return_outputs, collect are not called
  };
  // Sends each row once to every rank that has one of its entries. batch: over all ranks' slots.
  void dispatch(const Layer& layer, const MoeBatch& batch, HostRows rows);
  // Waits for all ranks' rows for this rank's slots.
  struct Inputs {
    std::vector<std::int32_t> slot_offsets;  // [slots_per_rank + 1]
    std::vector<std::int32_t> active_slots;  // most rows first
    int rows() const { return slot_offsets.back(); }
  };
  const Inputs& receive_rows(std::span<const std::int32_t> logical_of_own_slots);
  // out: input rows [begin, end) in the order of the slots, within a slot by rank of origin and then by row.
  void gather(int begin, int end, std::byte* out) const;
  // outputs: what the slots made of the input rows. Sends them back.
  void return_outputs(const std::byte* outputs);
  // Waits for the outputs of the own rows: out [entries, output_bytes], in the order of the batch.
  void collect(std::byte* out);

  // ---- For who carries the rows beside the messages, after receive_rows.
  // Rows of one rank for this rank's slots: entry e, in slot order, is row row_of_entry[e]: of the rows that it sent
  // here, for this rank itself of all its own.
  struct Origin {
    HostRows rows{};
    std::vector<std::int32_t> slot_counts;  // [slots_per_rank]
    std::vector<std::int32_t> first_input;  // [slots_per_rank]: where the slot's entries are among the input rows
    std::vector<std::int32_t> row_of_entry;
  };
  const Origin& origin(int rank) const { return origins_[static_cast<std::size_t>(rank)]; }
  // Whether the rank has rows in this layer.
  bool active(int rank) const;
  // Own rows that go to the rank, in this order; none where this rank has no rows.
  std::span<const std::int32_t> sent_rows(int to) const { return sent_rows_[static_cast<std::size_t>(to)]; }
  // Entries of the batch that are for the rank's slots.
  struct Range {
    int begin, end;
  };
  Range entries_of(int rank) const;
  void count_card_bytes(std::uint64_t bytes) { counters_.card_bytes += bytes; }

 private:
  struct RowCounts {
    std::uint32_t rows = 0;
    std::uint32_t logit_rows = 0;
  };

  void collect_sent_rows(int to);
  void send_rows(int to);
  void read_rows(int from, Origin& origin);
  void own_rows(Origin& origin);
  void send_begin(const PlacementOffer& offer, const RowCounts& counts);
  void read_busy(int from, std::span<const std::byte> bytes);
  void count_busy();
  // Since the last lap, by the clock of the thread's processor time.
  std::uint64_t lap();
  std::span<const std::byte> receive(int from, MessageKind kind);
  MessageTag tag(MessageKind kind) const { return {kind, static_cast<std::uint32_t>(layer_.index), step_}; }

  std::unique_ptr<ExpertExchange> exchange_;
  RankView view_;
  std::uint64_t step_ = 0;
  std::uint32_t greetings_ = 0;
  std::vector<RowCounts> counts_;  // of this step, by rank
  RankCounters counters_;
  // What this rank did in this step so far: all but experts, then each layer's experts. Others hear it with the next
  // one.
  struct Busy {
    std::uint64_t nanoseconds = 0;
    std::uint64_t rows = 0;
  };
  std::vector<Busy> busy_;
  std::vector<Busy> most_busy_;   // of the step before, the largest of all ranks
  std::uint64_t busy_since_ = 0;  // by the thread's clock

  // Of the layer that runs.
  Layer layer_{};
  const MoeBatch* batch_ = nullptr;
  int row_bytes_ = 0;
  std::vector<Origin> origins_;  // by rank
  Inputs inputs_;
  const std::byte* own_outputs_ = nullptr;

  std::vector<std::byte> message_;
  std::vector<std::vector<std::int32_t>> sent_rows_;  // by rank
  std::vector<std::int32_t> place_;                   // of each own row among those that go to a rank; -1: not sent
  std::vector<std::int32_t> last_node_;               // of each own row: the last node it goes to
  std::vector<std::int32_t> node_count_;              // and how many
  std::vector<const std::byte*> input_rows_;          // of rows that are in host memory
};

}  // namespace pelagic
