// Ranks that fail, plans that change, and how few nodes a token reaches: on the tiny checkpoint.
#include <atomic>
#include <numeric>

#include "backend/cpu/cpu_backend.h"
#include "graph/test_checkpoint.h"
#include "graph/test_step.h"
#include "ranks/test_group.h"

using namespace pelagic;
using namespace pelagic::test;

namespace {

constexpr RankTimes kTimes{
    .meet = std::chrono::seconds(20), .silence = std::chrono::seconds(20), .longest_wait = std::chrono::seconds(20)};
constexpr Transport kBoth[] = {Transport::local, Transport::tcp};
constexpr int kExperts = 8;

struct TinyModel {
  TempFolder folder;
  TinyModel() { write_checkpoint(folder.path(), tiny_tensors()); }

  std::unique_ptr<Model> load(std::optional<RankPlan> plan = {}) const {
    return std::make_unique<Model>(folder.path(), make_cpu_backend(best_isa(), 1), KvDtype::float32, 4, 1,
                                   LoadProgress{}, std::move(plan));
  }
};

ExpertPlan plan_of(int ranks, std::vector<std::int32_t> slots) {
  ExpertPlan plan;
  plan.rank_count = ranks;
  plan.slots_per_rank = static_cast<int>(slots.size()) / ranks;
  plan.layers = {slots, slots};  // the tiny model has two MoE layers
  return plan;
}

// Every expert on two of four ranks: any one may be lost.
ExpertPlan doubled_plan() { return plan_of(4, {0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7, 0, 1, 2, 3}); }

constexpr RankView view(int ranks_per_node = 4) { return {0, ranks_per_node, false, {}}; }

// Digests of a sequence of `rows` rows that begins with `seed`.
std::vector<std::uint64_t> digests(Model& model, std::uint32_t seed, int rows = 70) {
  std::vector<std::uint32_t> tokens;
  for (int p = 0; p < rows; ++p) tokens.push_back((seed * 7 + static_cast<std::uint32_t>(p * p)) % 40);
  return run_rows(model, {{tokens, 0, {0, 1}}}, false).digests;
}

std::string lost_of(const std::function<void()>& fn) { return error_of(fn, ErrorCode::rank_lost); }

}  // namespace

TEST(
    "a rank that is lost before or between steps is named by all others; joined anew without it they give the same "
    "bits") {
  const TinyModel tiny;
  const auto wanted = digests(*tiny.load(), 1);
  for (const Transport transport : kBoth) {
    std::vector<std::unique_ptr<Model>> models;
    for (int rank = 0; rank < 4; ++rank) models.push_back(tiny.load(RankPlan{doubled_plan(), rank}));
    CHECK(contains(lost_of([&] { digests(*models[0], 1); }), "have not met"));
    auto exchanges = make_exchanges(transport, 4, kTimes);
    for (std::size_t r = 0; r < 4; ++r) models[r]->join(std::move(exchanges[r]), view());
    for (const auto& failure :
         on_all_ranks(4, [&](int rank) { CHECK(digests(*models[static_cast<std::size_t>(rank)], 1) == wanted); }))
      CHECK(!failure);

    models[2].reset();
    std::vector<std::string> messages(4);
    on_all_ranks(4, [&](int rank) {
      const auto r = static_cast<std::size_t>(rank);
      if (rank != 2) messages[r] = lost_of([&] { digests(*models[r], 1); });
    });
    for (const std::size_t r : {0u, 1u, 3u}) {
      CHECK(contains(messages[r], "rank 2 is lost"));
      CHECK(contains(lost_of([&] { models[r]->take_part(); }), "rank 2 is lost"));  // and stays so
    }

    exchanges = make_exchanges(transport, 4, kTimes, {true, true, false, true});
    for (const std::size_t r : {0u, 1u, 3u}) models[r]->join(std::move(exchanges[r]), view());
    for (const auto& failure : on_all_ranks(4, [&](int rank) {
           if (rank != 2) CHECK(digests(*models[static_cast<std::size_t>(rank)], 1) == wanted);
         }))
      CHECK(!failure);
  }
}

TEST("memory that is asked for before ranks have met is taken when they do, by a step of all, and once only") {
  const TinyModel tiny;
  const auto wanted = digests(*tiny.load(), 1);
  for (const Transport transport : kBoth) {
    auto first = tiny.load(RankPlan{plan_of(2, {0, 1, 2, 3, 4, 5, 6, 7}), 0});
    const auto fresh = [&] {
      auto model = tiny.load(RankPlan{plan_of(2, {0, 1, 2, 3, 4, 5, 6, 7}), 1});
      model->prepare(70, 8);
      return model;
    };
    first->prepare(70, 8);
    auto other = fresh();
    // The other one is lost before it comes to that step: there is still something to be taken.
    auto exchanges = make_exchanges(transport, 2, kTimes);
    exchanges[1].reset();
    CHECK(contains(lost_of([&] { first->join(std::move(exchanges[0]), view()); }), "rank 1 is lost"));
    CHECK(first->rank_counters().steps == 0);
    for (const std::uint64_t steps : {1, 3}) {
      exchanges = make_exchanges(transport, 2, kTimes);
      std::atomic<bool> joined = false;
      const auto failures = on_all_ranks(2, [&](int rank) {
        if (rank == 0) {
          first->join(std::move(exchanges[0]), view());
          while (!joined) first->take_part();
        } else {
          other->join(std::move(exchanges[1]), view());
          joined = true;
        }
      });
      for (const auto& failure : failures) CHECK(!failure);
      CHECK(first->rank_counters().steps == steps && other->rank_counters().empty_steps == 0);
      CHECK(first->rank_counters().empty_steps == (steps == 1 ? 0 : 1));
      for (const auto& failure :
           on_all_ranks(2, [&](int rank) { CHECK(digests(rank == 0 ? *first : *other, 1) == wanted); }))
        CHECK(!failure);
      other = fresh();  // as one that was started again
    }
  }
}

TEST("a rank that fails in the middle of a step tells the others why") {
  const TinyModel tiny;
  for (const Transport transport : kBoth) {
    std::vector<std::unique_ptr<Model>> models;
    auto exchanges = make_exchanges(transport, 2, kTimes);
    for (int rank = 0; rank < 2; ++rank) {
      models.push_back(tiny.load(RankPlan{plan_of(2, {0, 1, 2, 3, 4, 5, 6, 7}), rank}));
      models.back()->join(std::move(exchanges[static_cast<std::size_t>(rank)]), view());
    }
    std::string messages[2];
    on_all_ranks(2, [&](int rank) {
      if (rank == 0) {
        messages[0] = lost_of([&] { digests(*models[0], 1); });
        return;
      }
      // What a layer's listener throws comes out of the step.
      const std::vector<std::uint32_t> tokens{1, 2, 3}, counts{3}, starts{0}, prompts{1}, table{0}, offsets{0, 1};
      StepResult result;
      try {
        models[1]->step(
            {.tokens = tokens,
             .row_counts = counts,
             .start_positions = starts,
             .prompt_lengths = prompts,
             .block_table = table,
             .block_offsets = offsets,
             .logit_rows = {},
             .sampling = {}},
            [](int layer) {
              if (layer == 1) throw std::runtime_error("the disk is on fire");
            },
            result);
      } catch (const std::runtime_error& error) {
        messages[1] = error.what();
      }
    });
    CHECK(messages[0] == "rank 1 is lost: the disk is on fire");
    CHECK(messages[1] == "the disk is on fire");
  }
}

TEST("a batch that is refused disturbs nobody") {
  const TinyModel tiny;
  std::vector<std::unique_ptr<Model>> models;
  auto exchanges = make_exchanges(Transport::local, 2, kTimes);
  for (int rank = 0; rank < 2; ++rank) {
    models.push_back(tiny.load(RankPlan{plan_of(2, {0, 1, 2, 3, 4, 5, 6, 7}), rank}));
    models.back()->join(std::move(exchanges[static_cast<std::size_t>(rank)]), view());
  }
  const std::vector<std::uint32_t> beyond{1000};
  CHECK(!error_of([&] { run_rows(*models[0], {{beyond, 0, {0, 1}}}, false); }, ErrorCode::argument).empty());
  for (const auto& failure : on_all_ranks(2, [&](int rank) { digests(*models[static_cast<std::size_t>(rank)], 3); }))
    CHECK(!failure);
}

TEST("ranks with different plans, and members that lack an expert, are refused by name") {
  const TinyModel tiny;
  std::vector<std::unique_ptr<Model>> models;
  auto exchanges = make_exchanges(Transport::local, 2, kTimes);
  for (int rank = 0; rank < 2; ++rank) {
    ExpertPlan plan = plan_of(2, {0, 1, 2, 3, 4, 5, 6, 7});
    plan.version = static_cast<std::uint64_t>(rank + 4);
    models.push_back(tiny.load(RankPlan{plan, rank}));
    models.back()->join(std::move(exchanges[static_cast<std::size_t>(rank)]), view());
  }
  std::string messages[2];
  on_all_ranks(
      2, [&](int rank) { messages[rank] = lost_of([&] { digests(*models[static_cast<std::size_t>(rank)], 3); }); });
  CHECK(contains(messages[0] + messages[1], "goes by another expert plan"));

  exchanges = make_exchanges(Transport::local, 2, kTimes, {true, false});
  CHECK(lost_of([&] { models[0]->join(std::move(exchanges[0]), view()); }) ==
        "logical expert 4 has no copy on a rank that is there");

  const auto refusal = [&](ExpertPlan plan, int rank) {
    return error_of([&] { tiny.load(RankPlan{std::move(plan), rank}); }, ErrorCode::argument);
  };
  CHECK(contains(refusal(plan_of(2, {0, 1, 2, 3, 4, 5, 6, 6}), 0), "plan.layers[0]: logical expert 7 has no slot"));
  CHECK(contains(refusal(plan_of(2, {0, 1, 2, 3, 4, 5, 6, 8}), 0), "plan.layers[0]: slot 7 names logical expert 8"));
  CHECK(contains(refusal(plan_of(2, {0, 1, 2, 3, 4, 5, 6, 7}), 2), "rank is 2"));
  ExpertPlan shorter = plan_of(2, {0, 1, 2, 3, 4, 5, 6, 7});
  shorter.layers.pop_back();
  CHECK(contains(refusal(shorter, 0), "plan.layers.length is 1, expected 2"));
}

TEST("the rank with the only copies is lost: the others load them and go on with the same bits, and a new one joins") {
  const TinyModel tiny;
  const auto wanted = digests(*tiny.load(), 2);
  const ExpertPlan first = plan_of(2, {0, 1, 2, 3, 4, 5, 6, 7});
  ExpertPlan repaired =
      plan_of(2, {3, 2, 1, 0, 4, 5, 6, 7, 4, 5, 6, 7, -1, -1, -1, -1});  // with more slots than before
  repaired.version = 2;
  auto left = tiny.load(RankPlan{first, 0});
  auto alone = make_exchanges(Transport::local, 2, kTimes, {true, false});
  left->experts()->stage(plan_of(2, {0, 1, 2, 3, 4, 5, 6, 7}), 1);  // no newer than what is in force
  CHECK(left->experts()->state().next == 0);
  left->experts()->conform(repaired, 2);
  left->join(std::move(alone[0]), view());
  CHECK(digests(*left, 2) == wanted);
  CHECK(left->experts()->state().loaded_experts == 8 && left->experts()->state().version == 2);

  auto exchanges = make_exchanges(Transport::local, 2, kTimes);
  auto fresh = tiny.load(RankPlan{first, 1});
  fresh->experts()->conform(left->experts()->in_force(), 1);
  CHECK(fresh->experts()->state().loaded_experts == 0);  // it had all of its slots' experts
  Model* const models[] = {left.get(), fresh.get()};
  for (std::size_t r = 0; r < 2; ++r) models[r]->join(std::move(exchanges[r]), view());
  for (const auto& failure : on_all_ranks(2, [&](int rank) { CHECK(digests(*models[rank], 2) == wanted); }))
    CHECK(!failure);
  CHECK(models[1]->rank_counters().computed_rows > 0);
}

TEST("a plan that is none for these ranks is refused, and one whose experts cannot be read changes nothing") {
  const TinyModel tiny;
  const ExpertPlan first = plan_of(1, {0, 1, 2, 3, 4, 5, 6, 7, -1});
  auto model = tiny.load(RankPlan{first, 0});
  model->join(std::move(make_local_exchanges(1, kTimes.longest_wait)[0]), view());
  const auto wanted = digests(*model, 2);
  ExpertMover& experts = *model->experts();
  const auto refusal = [&](std::vector<std::int32_t> slots, std::uint64_t rate = 1) {
    ExpertPlan plan = plan_of(1, std::move(slots));
    plan.version = 9;
    return error_of([&] { experts.stage(plan, rate); }, ErrorCode::argument);
  };
  CHECK(contains(refusal({0, 1, 2, 3, 4, 5, 6, 7}), "plan.slotsPerRank is 8, the ranks have 9"));
  CHECK(contains(refusal({0, 1, 2, 3, 4, 5, 6, 6, 6}), "logical expert 7 has no slot"));
  CHECK(contains(refusal({0, 1, 2, 3, 4, 5, 6, 7, 7}, 0), "bytesPerSecond"));

  std::filesystem::remove(tiny.folder.path() / "model.safetensors");
  ExpertPlan next = plan_of(1, {0, 1, 2, 3, 4, 5, 6, 7, 7});
  next.version = 2;
  CHECK(experts.stage(next, 1'000'000'000));
  while (experts.state().failure.empty()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  CHECK(contains(experts.state().failure, "plan 2: "));
  CHECK(digests(*model, 2) == wanted && experts.state().version == 1);
  CHECK(!error_of([&] { experts.conform(next, 1); }, ErrorCode::checkpoint).empty());
  CHECK(digests(*model, 2) == wanted && experts.in_force().layers == first.layers);
  next.layers = {{7, 6, 5, 4, 3, 2, 1, 0, -1}, {0, 1, 2, 3, -1, 4, 5, 6, 7}};
  next.version = 3;
  CHECK(experts.stage(next, 1));  // nothing is read where a rank has the expert in another slot
  while (experts.state().version < 3 || experts.state().next != 0) model->take_part();
  CHECK(digests(*model, 2) == wanted && experts.in_force().layers == next.layers);
  CHECK(experts.state().loaded_experts == 0);
}

TEST("a slot's expert comes from the slot, from another one that gives it up, or from the checkpoint") {
  using Kind = SlotSource::Kind;
  const auto sources = [](std::vector<std::int32_t> before, std::vector<std::int32_t> after) {
    return slot_sources(before, after);
  };
  const auto from = [](int slot) { return SlotSource{Kind::slot, slot}; };
  const SlotSource load{Kind::load, -1}, spare{};
  using Sources = std::vector<SlotSource>;
  CHECK((sources({4, 5, -1}, {4, -1, 5}) == Sources{from(0), spare, from(1)}));
  CHECK((sources({4, 5, 6}, {4, 4, 7}) == Sources{from(0), load, load}));
  CHECK((sources({4, 4, 6}, {6, 4, 4}) == Sources{from(2), from(1), from(0)}));
  CHECK((sources({4, 5}, {5, 5, 4}) == Sources{load, from(1), from(0)}));
}

TEST("a rank loads the experts of its slots only") {
  const TinyModel tiny;
  const auto bytes = [&](std::vector<std::int32_t> slots, int rank) {
    return tiny.load(RankPlan{plan_of(2, std::move(slots)), rank})->info().weight_bytes;
  };
  const std::uint64_t whole = tiny.load()->info().weight_bytes;
  const std::uint64_t half = bytes({0, 1, 2, 3, 4, 5, 6, 7}, 0);
  const std::uint64_t expert = (whole - half) / 8;  // 4 experts in each of 2 layers are not there
  CHECK(half < whole && bytes({0, 1, 2, 3, 4, -1, 4, 5, 6, 7, 0, -1}, 0) == half + 2 * expert);
  CHECK(bytes({0, 1, 2, 3, 4, -1, 4, 5, 6, 7, 0, -1}, 1) == half + 2 * expert);
}

TEST("a token reaches no more nodes than the gate keeps groups, where a group's experts share a node") {
  const TinyModel tiny;  // 2 groups, of which the gate keeps 1
  for (const bool grouped : {true, false}) {
    const std::vector<std::int32_t> slots = grouped ? std::vector<std::int32_t>{0, 1, 2, 0, 3, 3, 4, 5, 6, 7, 7, 4}
                                                    : std::vector<std::int32_t>{0, 6, 2, 0, 4, 3, 4, 5, 1, 7, 7, 3};
    auto exchanges = make_exchanges(Transport::local, 4, kTimes);
    std::vector<std::unique_ptr<Model>> models;
    for (int rank = 0; rank < 4; ++rank) {
      models.push_back(tiny.load(RankPlan{plan_of(4, slots), rank}));
      models.back()->join(std::move(exchanges[static_cast<std::size_t>(rank)]), view(2));
    }
    on_all_ranks(4,
                 [&](int rank) { digests(*models[static_cast<std::size_t>(rank)], static_cast<std::uint32_t>(rank)); });
    std::uint64_t one = 0, two = 0, far = 0, computed = 0;
    for (const auto& model : models) {
      const RankCounters counters = model->rank_counters();
      CHECK(counters.nodes_reached.size() == 3 && counters.nodes_reached[0] == 0);
      one += counters.nodes_reached[1];
      two += counters.nodes_reached[2];
      far += counters.far_copies;
      computed += counters.computed_rows;
    }
    CHECK(one + two == 4 * 2 * 70 && far > 0);
    CHECK(computed == 4 * 2 * 70 * 2);  // each row of each layer at two experts
    CHECK(grouped ? two == 0 : two > 0);
  }
}

TEST("copies are chosen in turn, or near ones first") {
  const SlotTable placement(std::vector<std::int32_t>{0, 1, 1, 0, 0, -1, 2, 0}, 3);
  const auto slots = [&](int rank, bool local_first, std::vector<bool> members, int expert) {
    const SlotTable table = reachable_slots(placement, 2, {rank, 2, local_first, std::move(members)});
    return std::vector<std::int32_t>(table.slots_of(expert).begin(), table.slots_of(expert).end());
  };
  const std::vector<bool> all(4, true);
  using Slots = std::vector<std::int32_t>;
  CHECK((slots(0, false, all, 0) == Slots{0, 3, 4, 7}));
  CHECK((slots(0, true, all, 0) == Slots{0}));
  CHECK((slots(1, true, {false, true, true, true}, 0) == Slots{3}));
  CHECK((slots(0, true, {true, false, true, true}, 1) == Slots{1}));
  CHECK((slots(1, true, {true, false, true, true}, 1) == Slots{1}));  // the own node's
  CHECK((slots(2, true, {true, true, false, true}, 0) == Slots{7}));
  CHECK((slots(3, true, {true, true, true, true}, 1) == Slots{1, 2}));  // none is near
}

TEST_MAIN
