// The MoE op's bookkeeping: which rows go to which slot (physical expert), and the sum of what comes back.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/cpu_features.h"

namespace pelagic {

// Placement of one layer: physical slot -> logical expert, and back.
class SlotTable {
 public:
  SlotTable() = default;
  // logical_of_slot[s] in [0, logical_experts), or -1 for a spare slot. Every logical expert needs a slot. Throws
  // std::invalid_argument naming the expert or slot.
  SlotTable(std::span<const std::int32_t> logical_of_slot, int logical_experts);
  static SlotTable identity(int logical_experts);

  int slots() const { return static_cast<int>(logical_of_slot_.size()); }
  int logical_experts() const { return static_cast<int>(offsets_.size()) - 1; }
  // -1: spare.
  int logical(int slot) const { return logical_of_slot_[static_cast<std::size_t>(slot)]; }
  // Slots that hold the expert, ascending, at least one.
  std::span<const std::int32_t> slots_of(int logical_expert) const;

  // The same slots, of which slots_of gives only those that `keep(expert, its slots)` returns, ascending.
  using Choice = std::function<std::vector<std::int32_t>(int expert, std::span<const std::int32_t> slots)>;
  SlotTable choose(const Choice& keep) const;

 private:
  void check_every_expert_has_slots() const;

  std::vector<std::int32_t> logical_of_slot_;
  std::vector<std::int32_t> offsets_;  // [logical_experts + 1] into slots_by_logical_
  std::vector<std::int32_t> slots_by_logical_;
};

struct MoeEntry {
  std::int32_t row;
  std::int32_t rank;  // place in the row's top-k
};

// The (slot, row, rank) list of a batch, sorted by slot, then row. Vectors keep their capacity between steps.
struct MoeBatch {
  std::vector<std::int32_t> slot_offsets;  // [slots + 1]: entries of slot s are [slot_offsets[s], slot_offsets[s+1])
  std::vector<MoeEntry> entries;           // [rows * top_k]
  std::vector<std::int32_t> position;      // [rows, top_k]: index into entries of (row, rank)
  std::vector<std::int32_t>
      active_slots;  // slots with at least one entry, most entries first (the order to start tasks in)
};

// ids: [rows, top_k] logical ids in [0, logical_experts), distinct within a row. Where an expert has several slots,
// (turn + row + rank) mod count picks one; replicas hold equal weights, so no result depends on it. turn: at least 0.
void build_moe_batch(const SlotTable& table, const std::int32_t* ids, int rows, int top_k, MoeBatch& batch,
                     int turn = 0);

// out[i, :] = x[entries[begin + i].row, :] for i in [0, end - begin): the input rows of a slot, contiguous. x: [rows,
// width].
void gather_rows(const MoeBatch& batch, int begin, int end, const float* x, std::int64_t ldx, float* out,
                 std::int64_t ld_out, int width);

struct MoeCombineCall {
  const MoeBatch* batch;
  const float* weights;  // [rows, top_k]
  int top_k;
  const float* expert_out;  // [rows * top_k, width], in the order of batch->entries
  std::int64_t ld_expert_out;
  const float* shared;  // [rows, width] or null (starts from 0)
  std::int64_t ld_shared;
  float* y;  // [rows, width]; may be shared itself
  std::int64_t ldy;
  int width;
};

// y = shared; then for rank r ascending: y = fma(weights[row, r], expert_out[(row, r)], y).
PELAGIC_DECLARE_FOR_EACH_ISA(void moe_combine(const MoeCombineCall& call, int row_begin, int row_end);)

}  // namespace pelagic
