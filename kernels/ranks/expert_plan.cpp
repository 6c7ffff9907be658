#include "ranks/expert_plan.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "graph/error.h"

namespace pelagic {
namespace {

void check_count(const std::string& field, std::int64_t actual, std::int64_t wanted, const char* why) {
  if (actual == wanted) return;
  throw Error(ErrorCode::argument,
              field + " is " + std::to_string(actual) + ", expected " + std::to_string(wanted) + ": " + why);
}

}  // namespace

void check_plan(const ExpertPlan& plan, int rank_count, int moe_layers, int logical_experts) {
  if (plan.version < 1) throw Error(ErrorCode::argument, "plan.version must be at least 1");
  check_count("plan.rankCount", plan.rank_count, rank_count, "the ranks there are");
  if (plan.slots_per_rank < 1) throw Error(ErrorCode::argument, "plan.slotsPerRank must be at least 1");
  check_count("plan.layers.length", static_cast<std::int64_t>(plan.layers.size()), moe_layers,
              "the model's MoE layers");
  for (std::size_t layer = 0; layer < plan.layers.size(); ++layer) {
    const std::string name = "plan.layers[" + std::to_string(layer) + "]";
    check_count(name + ".length", static_cast<std::int64_t>(plan.layers[layer].size()),
                std::int64_t{plan.rank_count} * plan.slots_per_rank, "rankCount * slotsPerRank");
    try {
      const SlotTable table(plan.layers[layer], logical_experts);
    } catch (const std::invalid_argument& error) {
      throw Error(ErrorCode::argument, name + ": " + error.what());
    }
  }
}

SlotTable reachable_slots(const SlotTable& placement, int slots_per_rank, const RankView& view) {
  const int node = view.rank / view.ranks_per_node;
  return placement.choose([&](int expert, std::span<const std::int32_t> slots) {
    std::vector<std::int32_t> there, on_node, here;
    for (const std::int32_t slot : slots) {
      const int rank = slot / slots_per_rank;
      if (!view.members[static_cast<std::size_t>(rank)]) continue;
      there.push_back(slot);
      if (rank / view.ranks_per_node == node) on_node.push_back(slot);
      if (rank == view.rank) here.push_back(slot);
    }
    if (there.empty())
      throw Error(ErrorCode::rank_lost,
                  "logical expert " + std::to_string(expert) + " has no copy on a rank that is there");
    if (!view.local_first || on_node.empty()) return there;
    return here.empty() ? on_node : here;
  });
}

}  // namespace pelagic
