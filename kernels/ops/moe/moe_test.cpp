#include "ops/moe/moe.h"

#include <algorithm>
#include <stdexcept>

#include "backend/cpu/cpu_ops.h"
#include "base/test.h"

namespace {

using namespace pelagic;
using Floats = std::vector<float>;

// [rows, top_k] distinct ids.
std::vector<std::int32_t> random_ids(test::Random& random, int rows, int top_k, int experts) {
  std::vector<std::int32_t> ids;
  for (int row = 0; row < rows; ++row) {
    std::vector<std::int32_t> chosen;
    while (chosen.size() < static_cast<std::size_t>(top_k)) {
      const std::int32_t id = random.integer(0, experts - 1);
      if (std::find(chosen.begin(), chosen.end(), id) == chosen.end()) chosen.push_back(id);
    }
    ids.insert(ids.end(), chosen.begin(), chosen.end());
  }
  return ids;
}

TEST("slot table: identity, redundancy, bad tables") {
  const SlotTable identity = SlotTable::identity(5);
  CHECK(identity.slots() == 5 && identity.logical_experts() == 5);
  for (int e = 0; e < 5; ++e)
    CHECK(identity.logical(e) == e && identity.slots_of(e).size() == 1 && identity.slots_of(e)[0] == e);
  const std::vector<std::int32_t> placement{2, 0, 1, 2, 0, 2};
  const SlotTable table(placement, 3);
  CHECK((std::vector<std::int32_t>(table.slots_of(2).begin(), table.slots_of(2).end()) ==
         std::vector<std::int32_t>{0, 3, 5}));
  CHECK(
      (std::vector<std::int32_t>(table.slots_of(1).begin(), table.slots_of(1).end()) == std::vector<std::int32_t>{2}));
  CHECK_THROWS(SlotTable(placement, 4), std::invalid_argument);
  CHECK_THROWS(SlotTable(placement, 2), std::invalid_argument);
  CHECK_THROWS(SlotTable({}, 0), std::invalid_argument);
  const std::vector<std::int32_t> spare{-1, 1, 0, -1, 1};
  const SlotTable with_spare(spare, 2);
  CHECK(with_spare.slots() == 5 && with_spare.logical(0) == -1 && with_spare.slots_of(1).size() == 2);
  const SlotTable chosen = with_spare.choose(
      [](int, std::span<const std::int32_t> slots) { return std::vector<std::int32_t>{slots.back()}; });
  CHECK(chosen.slots() == 5 && chosen.logical(1) == 1 && chosen.slots_of(1).size() == 1 && chosen.slots_of(1)[0] == 4);
  CHECK_THROWS(with_spare.choose([](int, std::span<const std::int32_t>) { return std::vector<std::int32_t>{}; }),
               std::invalid_argument);
  const std::vector<std::int32_t> negative{-2, 0};
  CHECK_THROWS(SlotTable(negative, 1), std::invalid_argument);
}

TEST("a batch holds every (row, rank) once, sorted, in a slot of its expert") {
  test::Random random(1);
  MoeBatch batch;
  for (int trial = 0; trial < 50; ++trial) {
    const int experts = random.integer(4, 20), top_k = random.integer(1, 4), rows = random.integer(0, 60);
    std::vector<std::int32_t> placement;
    for (int e = 0; e < experts; ++e) placement.push_back(e);
    for (int i = random.integer(0, 8); i > 0; --i) placement.push_back(random.integer(0, experts - 1));
    const SlotTable table(placement, experts);
    const std::vector<std::int32_t> ids = random_ids(random, rows, top_k, experts);
    build_moe_batch(table, ids.data(), rows, top_k, batch);
    CHECK(batch.entries.size() == ids.size());
    CHECK(batch.slot_offsets.front() == 0 && batch.slot_offsets.back() == rows * top_k);
    std::size_t active = 0;
    for (int slot = 0; slot < table.slots(); ++slot) {
      const int begin = batch.slot_offsets[static_cast<std::size_t>(slot)],
                end = batch.slot_offsets[static_cast<std::size_t>(slot) + 1];
      active += end > begin;
      for (int i = begin; i < end; ++i) {
        const MoeEntry& entry = batch.entries[static_cast<std::size_t>(i)];
        const auto pair = static_cast<std::size_t>(entry.row * top_k + entry.rank);
        CHECK(ids[pair] == table.logical(slot));
        CHECK(batch.position[pair] == i);
        if (i > begin) CHECK(batch.entries[static_cast<std::size_t>(i - 1)].row < entry.row);
      }
    }
    CHECK(batch.active_slots.size() == active);
    for (std::size_t i = 1; i < active; ++i) {
      const auto entries = [&](std::size_t j) {
        const auto slot = static_cast<std::size_t>(batch.active_slots[j]);
        return batch.slot_offsets[slot + 1] - batch.slot_offsets[slot];
      };
      CHECK(entries(i - 1) >= entries(i));
    }
  }
}

TEST("gather and combine: rank order, whatever the placement; all instruction sets the same") {
  test::Random random(2);
  for (int trial = 0; trial < 20; ++trial) {
    const int experts = 6, top_k = 3, rows = random.integer(1, 12), width = random.integer(1, 70), ld = width + 1;
    const std::vector<std::int32_t> ids = random_ids(random, rows, top_k, experts);
    const Floats x = random.floats(static_cast<std::size_t>(rows * ld)),
                 shared = random.floats(static_cast<std::size_t>(rows * ld));
    const Floats weights = random.floats(static_cast<std::size_t>(rows * top_k));
    Floats expected(static_cast<std::size_t>(rows * ld), 4.0f);
    const bool has_shared = trial % 3 != 0;
    for (int row = 0; row < rows; ++row) {
      for (int i = 0; i < width; ++i) {
        float y = has_shared ? shared[static_cast<std::size_t>(row * ld + i)] : 0.0f;
        for (int rank = 0; rank < top_k; ++rank) {
          const auto pair = static_cast<std::size_t>(row * top_k + rank);
          y = std::fma(weights[pair], x[static_cast<std::size_t>(row * ld + i)] * static_cast<float>(ids[pair] + 1), y);
        }
        expected[static_cast<std::size_t>(row * ld + i)] = y;
      }
    }
    for (const std::vector<std::int32_t>& placement :
         {std::vector<std::int32_t>{0, 1, 2, 3, 4, 5}, {5, 5, 4, 3, 2, 0, 1, 0, 5}}) {
      const SlotTable table(placement, experts);
      MoeBatch batch;
      build_moe_batch(table, ids.data(), rows, top_k, batch);
      Floats out(batch.entries.size() * static_cast<std::size_t>(width));  // expert e multiplies by e + 1
      for (int slot = 0; slot < table.slots(); ++slot) {
        const int begin = batch.slot_offsets[static_cast<std::size_t>(slot)],
                  end = batch.slot_offsets[static_cast<std::size_t>(slot) + 1];
        float* at = out.data() + static_cast<std::ptrdiff_t>(begin) * width;
        gather_rows(batch, begin, end, x.data(), ld, at, width, width);
        for (int i = 0; i < (end - begin) * width; ++i) at[i] = at[i] * static_cast<float>(table.logical(slot) + 1);
      }
      for (const CpuOps* ops : all_cpu_ops()) {
        Floats y(static_cast<std::size_t>(rows * ld), 4.0f);
        ops->moe_combine({&batch, weights.data(), top_k, out.data(), width, has_shared ? shared.data() : nullptr, ld,
                          y.data(), ld, width},
                         0, rows);
        CHECK(test::same_bits(y, expected));
        if (!has_shared) continue;
        Floats in_place = shared;
        ops->moe_combine(
            {&batch, weights.data(), top_k, out.data(), width, in_place.data(), ld, in_place.data(), ld, width}, 0,
            rows);
        for (int i = 0; i < width; ++i)
          CHECK(test::same_bits(in_place[static_cast<std::size_t>(i)], expected[static_cast<std::size_t>(i)]));
      }
    }
  }
}

}  // namespace

TEST_MAIN
