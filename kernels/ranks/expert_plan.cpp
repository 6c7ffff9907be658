#include "ranks/expert_plan.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "base/xxh64.h"
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

std::uint64_t plan_digest(const ExpertPlan& plan) {
  std::uint64_t digest = plan.version;
  const std::int32_t shape[] = {plan.rank_count, plan.slots_per_rank};
  digest = xxh64(shape, sizeof shape, digest);
  for (const auto& slots : plan.layers) digest = xxh64(slots.data(), slots.size() * sizeof(std::int32_t), digest);
  return digest;
}

std::vector<SlotSource> slot_sources(std::span<const std::int32_t> before, std::span<const std::int32_t> after) {
  std::vector<SlotSource> sources(after.size());
  std::vector<bool> used(before.size());
  const auto take = [&](std::size_t to, std::size_t from) {
    sources[to] = {SlotSource::Kind::slot, static_cast<int>(from)};
    used[from] = true;
  };
  for (std::size_t slot = 0; slot < std::min(before.size(), after.size()); ++slot) {
    if (after[slot] >= 0 && after[slot] == before[slot]) take(slot, slot);
  }
  for (std::size_t slot = 0; slot < after.size(); ++slot) {
    if (after[slot] < 0 || sources[slot].kind == SlotSource::Kind::slot) continue;
    sources[slot].kind = SlotSource::Kind::load;
    for (std::size_t from = 0; from < before.size(); ++from) {
      if (used[from] || before[from] != after[slot]) continue;
      take(slot, from);
      break;
    }
  }
  return sources;
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
