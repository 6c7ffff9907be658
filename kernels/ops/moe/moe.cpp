#include "ops/moe/moe.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>

namespace pelagic {

SlotTable::SlotTable(std::span<const std::int32_t> logical_of_slot, int logical_experts)
    : logical_of_slot_(logical_of_slot.begin(), logical_of_slot.end()),
      offsets_(static_cast<std::size_t>(std::max(logical_experts, 0)) + 1),
      slots_by_logical_(logical_of_slot.size()) {
  if (logical_experts < 1) throw std::invalid_argument("a slot table needs at least 1 logical expert");
  for (std::size_t slot = 0; slot < logical_of_slot.size(); ++slot) {
    const std::int32_t logical = logical_of_slot[slot];
    if (logical == -1) continue;
    if (logical < 0 || logical >= logical_experts)
      throw std::invalid_argument("slot " + std::to_string(slot) + " names logical expert " + std::to_string(logical) +
                                  " of " + std::to_string(logical_experts));
    ++offsets_[static_cast<std::size_t>(logical) + 1];
  }
  std::partial_sum(offsets_.begin(), offsets_.end(), offsets_.begin());
  check_every_expert_has_slots();
  std::vector<std::int32_t> next(offsets_.begin(), offsets_.end() - 1);
  for (std::size_t slot = 0; slot < logical_of_slot.size(); ++slot) {
    if (logical_of_slot[slot] < 0) continue;
    slots_by_logical_[static_cast<std::size_t>(next[static_cast<std::size_t>(logical_of_slot[slot])]++)] =
        static_cast<std::int32_t>(slot);
  }
}

void SlotTable::check_every_expert_has_slots() const {
  for (std::size_t e = 0; e + 1 < offsets_.size(); ++e) {
    if (offsets_[e + 1] == offsets_[e])
      throw std::invalid_argument("logical expert " + std::to_string(e) + " has no slot");
  }
}

SlotTable SlotTable::choose(const Choice& keep) const {
  SlotTable table;
  table.logical_of_slot_ = logical_of_slot_;
  table.offsets_ = {0};
  for (int e = 0; e < logical_experts(); ++e) {
    const std::vector<std::int32_t> kept = keep(e, slots_of(e));
    table.slots_by_logical_.insert(table.slots_by_logical_.end(), kept.begin(), kept.end());
    table.offsets_.push_back(static_cast<std::int32_t>(table.slots_by_logical_.size()));
  }
  table.check_every_expert_has_slots();
  return table;
}

SlotTable SlotTable::identity(int logical_experts) {
  std::vector<std::int32_t> slots(static_cast<std::size_t>(std::max(logical_experts, 0)));
  std::iota(slots.begin(), slots.end(), 0);
  return SlotTable(slots, logical_experts);
}

std::span<const std::int32_t> SlotTable::slots_of(int logical_expert) const {
  const auto e = static_cast<std::size_t>(logical_expert);
  return {slots_by_logical_.data() + offsets_[e], static_cast<std::size_t>(offsets_[e + 1] - offsets_[e])};
}

void build_moe_batch(const SlotTable& table, const std::int32_t* ids, int rows, int top_k, MoeBatch& batch, int turn) {
  const auto slot_count = static_cast<std::size_t>(table.slots());
  const std::size_t entry_count = static_cast<std::size_t>(rows) * static_cast<std::size_t>(top_k);
  batch.slot_offsets.assign(slot_count + 1, 0);
  batch.entries.resize(entry_count);
  batch.position.resize(entry_count);

  const auto slot_of = [&](int row, int rank) {
    const auto slots = table.slots_of(
        ids[static_cast<std::size_t>(row) * static_cast<std::size_t>(top_k) + static_cast<std::size_t>(rank)]);
    return static_cast<std::size_t>(slots[static_cast<std::size_t>(turn + row + rank) % slots.size()]);
  };
  for (int row = 0; row < rows; ++row)
    for (int rank = 0; rank < top_k; ++rank) ++batch.slot_offsets[slot_of(row, rank) + 1];
  std::partial_sum(batch.slot_offsets.begin(), batch.slot_offsets.end(), batch.slot_offsets.begin());
  // Counting sort: offsets serve as the next free place of each slot, and are moved back by one slot afterwards.
  std::size_t in = 0;
  for (int row = 0; row < rows; ++row) {
    for (int rank = 0; rank < top_k; ++rank, ++in) {
      const std::int32_t place = batch.slot_offsets[slot_of(row, rank)]++;
      batch.entries[static_cast<std::size_t>(place)] = {row, rank};
      batch.position[in] = place;
    }
  }
  for (std::size_t slot = slot_count; slot > 0; --slot) batch.slot_offsets[slot] = batch.slot_offsets[slot - 1];
  batch.slot_offsets[0] = 0;

  const auto entries_of = [&](std::int32_t slot) {
    const auto s = static_cast<std::size_t>(slot);
    return batch.slot_offsets[s + 1] - batch.slot_offsets[s];
  };
  batch.active_slots.clear();
  for (std::int32_t slot = 0; slot < table.slots(); ++slot)
    if (entries_of(slot) > 0) batch.active_slots.push_back(slot);
  std::sort(batch.active_slots.begin(), batch.active_slots.end(), [&](std::int32_t a, std::int32_t b) {
    return entries_of(a) != entries_of(b) ? entries_of(a) > entries_of(b) : a < b;
  });
}

void gather_rows(const MoeBatch& batch, int begin, int end, const float* x, std::int64_t ldx, float* out,
                 std::int64_t ld_out, int width) {
  for (int i = begin; i < end; ++i, out += ld_out)
    std::memcpy(out, x + batch.entries[static_cast<std::size_t>(i)].row * ldx,
                static_cast<std::size_t>(width) * sizeof(float));
}

}  // namespace pelagic
