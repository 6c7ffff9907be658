// Which rank holds which experts: every MoE layer's physical slots, rank after rank.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "ops/moe/moe.h"

namespace pelagic {

struct ExpertPlan {
  std::uint64_t version = 1;
  int rank_count = 1;
  int slots_per_rank = 0;
  // [MoE layers][rank_count * slots_per_rank] -> logical expert, or -1: spare. Slot s is rank s / slots_per_rank's.
  std::vector<std::vector<std::int32_t>> layers;
};

// Throws Error(argument) naming the field, layer and slot: a plan that is not for `rank_count` ranks of a model with so
// many MoE layers and logical experts, or that leaves an expert without a slot.
void check_plan(const ExpertPlan& plan, int rank_count, int moe_layers, int logical_experts);

// Equal for equal versions and slots.
std::uint64_t plan_digest(const ExpertPlan& plan);

// Where the expert of a rank's slot comes from when one layer goes from a plan to another.
struct SlotSource {
  enum class Kind { spare, slot, load } kind = Kind::spare;
  int slot = -1;  // of the plan before, where kind is slot; no slot is given twice
  bool operator==(const SlotSource&) const = default;
};
// before, after: the logical experts of the rank's slots. What is there already is not loaded again, and stays in its
// slot if it may.
std::vector<SlotSource> slot_sources(std::span<const std::int32_t> before, std::span<const std::int32_t> after);

// What one rank makes of a plan.
struct RankView {
  int rank = 0;
  int ranks_per_node = 1;     // ranks [n * ranks_per_node, ...) are of node n
  bool local_first = false;   // a copy on the own rank, else one on the own node, is taken before others
  std::vector<bool> members;  // by rank: those that are there
};

// The layer's slots, of which slots_of gives those that rows of this rank may go to. Throws Error(rank_lost) naming the
// logical expert that no member holds.
SlotTable reachable_slots(const SlotTable& placement, int slots_per_rank, const RankView& view);

}  // namespace pelagic
