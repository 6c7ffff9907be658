// Whole models over 1 to 8 ranks, with random placements and redundancy, and with placements that change while steps
// go on: every logits row has the digest that one rank gives it. Usage: rank_steps_test [--backend cuda|cuda-fp8]
// [DIR...]; without folders, the tiny checkpoint of the other tests. A card is shared by all ranks.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>
#include <numeric>
#include <string>

#include "graph/test_checkpoint.h"
#include "graph/test_step.h"
#include "ranks/test_backend.h"
#include "ranks/test_group.h"

namespace pelagic::test {
namespace {

constexpr int kSequences = 9;
constexpr int kMostRows = 90;
constexpr int kBlocks = 2 * kSequences + 1;
constexpr RankTimes kTimes{
    .meet = std::chrono::seconds(60), .silence = std::chrono::seconds(60), .longest_wait = std::chrono::seconds(60)};

TestBackend backend;

std::vector<std::uint32_t> tokens_of(int sequence, std::int64_t vocab) {
  Random random(static_cast<std::uint32_t>(100 + sequence));
  std::vector<std::uint32_t> tokens(static_cast<std::size_t>(kMostRows - 5 * sequence));
  for (auto& token : tokens) token = static_cast<std::uint32_t>(random.integer(0, static_cast<int>(vocab) - 1));
  return tokens;
}

using Digests = std::map<std::pair<int, int>, std::uint64_t>;  // by sequence and row
using ExpertTotals = std::vector<std::uint64_t>;               // [MoE layers, experts]

struct Computed {
  Digests digests;
  ExpertTotals expert_totals;
};

// Some rows of a sequence with logits for the last `logit_count` of them.
struct Chunk {
  int sequence, start, count, logit_count;
};

void run_chunks(Model& model, const std::vector<Chunk>& chunks, Computed& computed) {
  std::vector<std::vector<std::uint32_t>> tokens;
  for (const Chunk& chunk : chunks) tokens.push_back(tokens_of(chunk.sequence, model.config().vocab_size));
  std::vector<test::SequenceRows> rows;
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    const Chunk& chunk = chunks[i];
    const auto block = static_cast<std::uint32_t>(2 * chunk.sequence);
    rows.push_back({.tokens = std::span(tokens[i]).subspan(static_cast<std::size_t>(chunk.start),
                                                           static_cast<std::size_t>(chunk.count)),
                    .start = chunk.start,
                    .blocks = {block, block + 1},
                    .logit_rows = chunk.logit_count});
  }
  const StepResult result = test::run_rows(model, rows, false);
  std::size_t next = 0;
  for (const Chunk& chunk : chunks) {
    for (int i = chunk.count - chunk.logit_count; i < chunk.count; ++i)
      computed.digests[{chunk.sequence, chunk.start + i}] = result.digests[next++];
  }
  computed.expert_totals.resize(result.expert_counts.size());
  for (std::size_t i = 0; i < result.expert_counts.size(); ++i) computed.expert_totals[i] += result.expert_counts[i];
}

// A slot or more for each expert, copies and spare slots at random.
ExpertPlan random_plan(Random& random, const ModelConfig& config, int ranks, int redundant) {
  const int experts = static_cast<int>(config.expert_count);
  ExpertPlan plan;
  plan.rank_count = ranks;
  plan.slots_per_rank = (experts + redundant + ranks - 1) / ranks;
  for (std::int64_t layer = 0; layer < config.moe_layer_count(); ++layer) {
    std::vector<std::int32_t> slots;
    for (int e = 0; e < experts; ++e) slots.push_back(e);
    while (static_cast<int>(slots.size()) < ranks * plan.slots_per_rank)
      slots.push_back(random.integer(0, 4) == 0 ? -1 : random.integer(0, experts - 1));
    for (std::size_t i = slots.size(); i > 1; --i)
      std::swap(slots[i - 1], slots[static_cast<std::size_t>(random.integer(0, static_cast<int>(i) - 1))]);
    plan.layers.push_back(slots);
  }
  return plan;
}

// The sequences of one rank, cut into steps at random: some without logits, some with one row.
std::vector<std::vector<Chunk>> random_steps(Random& random, std::vector<int> sequences) {
  std::vector<std::vector<Chunk>> steps;
  std::map<int, int> done;
  while (!sequences.empty()) {
    std::vector<Chunk> step;
    const int cut = random.integer(0, 2);  // of this step: token by token, prefill, or a mixture
    for (const int sequence : sequences) {
      const int left = kMostRows - 5 * sequence - done[sequence];
      if (left == 0 || random.integer(0, 3) == 0) continue;
      const int count = cut == 0 ? 1 : random.integer(1, std::min(left, 40));
      step.push_back({sequence, done[sequence], count, cut == 1 ? 0 : random.integer(0, count)});
      done[sequence] += count;
    }
    std::erase_if(sequences, [&](int s) { return done[s] == kMostRows - 5 * s; });
    if (!step.empty()) steps.push_back(step);
  }
  return steps;
}

struct Counts {
  std::uint64_t steps = 0, empty_steps = 0, rows = 0, wrong = 0, wrong_expert_totals = 0, reached = 0, far = 0,
                loaded = 0;
};

// Plans of later versions that a rank hears of while it works: late, again, in any order, and the last one for sure.
class ChangingPlans {
 public:
  ChangingPlans(Random& random, const ModelConfig& config, int ranks, int redundant, int count) {
    for (int i = 0; i < count; ++i) {
      plans_.push_back(random_plan(random, config, ranks, redundant));
      plans_.back().version = static_cast<std::uint64_t>(i) + 2;
    }
  }
  std::uint64_t last_version() const { return plans_.size() + 1; }
  void hear_some(Random& random, ExpertMover& experts) const {
    if (!plans_.empty() && random.integer(0, 2) == 0)
      hear(random, experts, random.integer(0, static_cast<int>(plans_.size()) - 1));
  }
  void hear_last(Random& random, ExpertMover& experts) const {
    if (!plans_.empty()) hear(random, experts, static_cast<int>(plans_.size()) - 1);
  }

 private:
  void hear(Random& random, ExpertMover& experts, int index) const {
    const std::uint64_t rate = random.integer(0, 1) == 0 ? 1'000'000 : 1'000'000'000;
    experts.stage(plans_[static_cast<std::size_t>(index)], rate);
  }
  std::vector<ExpertPlan> plans_;
};

// Counts that the ranks' own do not add up to: each row counts on its own rank alone. Of the last layer, where not all
// rows get to the experts, only their sum.
std::uint64_t wrong_totals(const std::vector<Computed>& ranks, const ExpertTotals& reference, const ModelConfig& config,
                           std::uint64_t logit_rows) {
  ExpertTotals sums(reference.size());
  for (const Computed& rank : ranks) {
    for (std::size_t i = 0; i < rank.expert_totals.size(); ++i) sums[i] += rank.expert_totals[i];
  }
  const std::size_t last = reference.size() - static_cast<std::size_t>(config.expert_count);
  std::uint64_t wrong = 0;
  for (std::size_t i = 0; i < last; ++i) wrong += sums[i] != reference[i] ? 1 : 0;
  const std::uint64_t last_sum = std::accumulate(sums.begin() + static_cast<std::ptrdiff_t>(last), sums.end(), 0ull);
  return wrong + (last_sum != logit_rows * static_cast<std::uint64_t>(config.experts_per_token) ? 1 : 0);
}

// Ranks with work of different length, some with none.
Counts run_ranks(const std::filesystem::path& dir, Transport transport, int ranks, int redundant, int changes,
                 std::uint32_t seed, const Computed& reference) {
  Random random(seed);
  const ModelConfig config = load_config(dir);
  const ExpertPlan plan = random_plan(random, config, ranks, redundant);
  const ChangingPlans next(random, config, ranks, redundant, changes);
  std::vector<std::vector<int>> sequences(static_cast<std::size_t>(ranks));
  for (int s = 0; s < kSequences; ++s) sequences[static_cast<std::size_t>(random.integer(0, ranks - 1))].push_back(s);
  std::vector<std::vector<std::vector<Chunk>>> steps;
  for (const auto& own : sequences) steps.push_back(random_steps(random, own));
  const int ranks_per_node = random.integer(1, ranks);
  const bool local_first = random.integer(0, 1) == 1;

  std::vector<Bell> bells(static_cast<std::size_t>(ranks));  // rung until the last exchange is gone
  auto exchanges = make_exchanges(transport, ranks, kTimes);
  std::vector<std::unique_ptr<Model>> models(static_cast<std::size_t>(ranks));
  std::vector<Computed> computed(static_cast<std::size_t>(ranks));
  std::atomic<int> busy = ranks, unsettled = ranks;
  std::mutex loading;  // a card's GEMMs are tuned with nothing beside them
  const auto failures = on_all_ranks(ranks, [&](int rank) {
    const auto r = static_cast<std::size_t>(rank);
    {
      const std::lock_guard lock(loading);
      models[r] = std::make_unique<Model>(dir, backend.open(), backend.kv_dtype(), kBlocks, 1, LoadProgress{},
                                          RankPlan{plan, rank});
    }
    exchanges[r]->on_arrival([&bells, r] { bells[r].ring(); });
    models[r]->join(std::move(exchanges[r]),
                    {.ranks_per_node = ranks_per_node, .local_first = local_first, .members = {}});
    ExpertMover& experts = *models[r]->experts();
    experts.on_ready([&bells, r] { bells[r].ring(); });
    const auto ring_all = [&] {
      for (Bell& bell : bells) bell.ring();
    };
    Random own(seed + 77 * static_cast<std::uint32_t>(rank + 1));
    for (const auto& step : steps[r]) {
      next.hear_some(own, experts);
      run_chunks(*models[r], step, computed[r]);
    }
    next.hear_last(own, experts);
    if (--busy == 0) ring_all();
    bool settled = false;
    while (busy > 0 || unsettled > 0) {
      if (!settled && experts.state().next == 0 && experts.state().version == next.last_version()) {
        settled = true;
        if (--unsettled == 0) ring_all();
      } else if (!models[r]->take_part()) {
        bells[r].wait();
      }
    }
  });
  for (const std::exception_ptr& failure : failures) {
    if (failure) std::rethrow_exception(failure);
  }

  Counts counts;
  for (std::size_t r = 0; r < models.size(); ++r) {
    for (const auto& [place, digest] : computed[r].digests) {
      ++counts.rows;
      if (reference.digests.at(place) != digest) ++counts.wrong;
    }
    const RankCounters counters = models[r]->rank_counters();
    counts.steps = counters.steps;
    counts.empty_steps += counters.empty_steps;
    counts.far += counters.far_copies;
    counts.loaded += models[r]->experts()->state().loaded_experts;
    for (std::size_t n = 0; n < counters.nodes_reached.size(); ++n) {
      if (counters.nodes_reached[n] > 0) counts.reached = std::max(counts.reached, std::uint64_t{n});
    }
  }
  counts.wrong_expert_totals = wrong_totals(computed, reference.expert_totals, config, counts.rows);
  return counts;
}

bool check_folder(const std::filesystem::path& dir, int trials) {
  Computed reference;
  {
    Model model(dir, backend.open(), backend.kv_dtype(), kBlocks, 1, {});
    for (int s = 0; s < kSequences; ++s) run_chunks(model, {{s, 0, kMostRows - 5 * s, kMostRows - 5 * s}}, reference);
  }
  bool good = true;
  for (const Transport transport : {Transport::local, Transport::tcp}) {
    for (const int ranks : {1, 2, 4, 8}) {
      for (const int changes : {0, 4}) {
        Counts sum;
        for (int trial = 0; trial < trials; ++trial) {
          const int redundant = std::vector<int>{0, 32, 5, 13}[static_cast<std::size_t>(trial % 4)];
          const auto seed = static_cast<std::uint32_t>(1000 * ranks + trial);
          const Counts counts = run_ranks(dir, transport, ranks, redundant, changes, seed, reference);
          sum.steps += counts.steps;
          sum.empty_steps += counts.empty_steps;
          sum.rows += counts.rows;
          sum.wrong += counts.wrong;
          sum.wrong_expert_totals += counts.wrong_expert_totals;
          sum.loaded += counts.loaded;
        }
        const bool moved = changes == 0 ? sum.loaded == 0 : ranks == 1 || sum.loaded > 0;
        const bool right = sum.wrong == 0 && sum.wrong_expert_totals == 0 && sum.rows > 0 && moved &&
                           (ranks < 4 || sum.empty_steps > 0);
        good = good && right;
        const auto count = [](std::uint64_t n) { return static_cast<unsigned long long>(n); };
        std::printf(
            "%s %s, %s, %d ranks: %llu of %llu rows have the bits of one rank, %llu experts' rows miscounted, %llu "
            "steps, %llu of a rank without rows, %llu experts loaded\n",
            right ? "ok  " : "FAIL", dir.c_str(), transport_name(transport), ranks, count(sum.rows - sum.wrong),
            count(sum.rows), count(sum.wrong_expert_totals), count(sum.steps), count(sum.empty_steps),
            count(sum.loaded));
        std::fflush(stdout);
      }
    }
  }
  return good;
}

}  // namespace
}  // namespace pelagic::test

int main(int argc, char** argv) {
  using namespace pelagic::test;
  bool good = true;
  int first = 1;
  if (argc > 2 && std::string(argv[1]) == "--backend") {
    backend.name = argv[2];
    first = 3;
    if (!backend.is_known()) {
      std::fprintf(stderr, "--backend must be cpu, cuda or cuda-fp8\n");
      return 2;
    }
  }
  if (argc == first) {
    const TempFolder folder;
    write_checkpoint(folder.path(), tiny_tensors());
    good = check_folder(folder.path(), 12);
  }
  for (int i = first; i < argc; ++i) good = check_folder(argv[i], 2) && good;
  return good ? 0 : 1;
}
