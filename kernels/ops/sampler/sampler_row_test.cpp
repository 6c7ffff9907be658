// What the GPU's sampler does with a row, done by threads of this machine: the same text, another team. Needs no GPU.
#include "ops/sampler/sampler_row.h"

#include <atomic>
#include <barrier>
#include <memory>
#include <thread>

#include "backend/cpu/cpu_ops.h"
#include "base/exp.h"
#include "base/test.h"
#include "ops/sampler/sampler_test_rows.h"

namespace {

using namespace pelagic;

constexpr int kTestThreads = 4;

template <int kBlockCount>
struct Machine {
  using Shared = RowShared<kBlockCount>;
  struct Block {
    Shared shared;
    std::vector<Four> fours;
    std::uint64_t sums[kTestThreads];
    Ranked best[kTestThreads];
    std::barrier<> barrier{kTestThreads};
  };
  std::vector<std::unique_ptr<Block>> blocks;
  std::barrier<> barrier{kTestThreads * kBlockCount};
};

template <int kBlockCount>
class ThreadTeam {
 public:
  static constexpr int kThreads = kTestThreads;
  static constexpr int kBlocks = kBlockCount;

  ThreadTeam(Machine<kBlocks>& machine, int block, int thread)
      : machine_(machine), own_(*machine.blocks[static_cast<std::size_t>(block)]), block_(block), thread_(thread) {}

  int thread() const { return thread_; }
  int block() const { return block_; }
  void sync() { own_.barrier.arrive_and_wait(); }
  void sync_all() { machine_.barrier.arrive_and_wait(); }
  template <typename T>
  const T* peer(const T* place, int block) const {
    const auto offset = reinterpret_cast<const char*>(place) - reinterpret_cast<const char*>(&own_.shared);
    const auto& other = machine_.blocks[static_cast<std::size_t>(block)]->shared;
    return reinterpret_cast<const T*>(reinterpret_cast<const char*>(&other) + offset);
  }
  template <typename T>
  T add(T* place, T amount) {
    return std::atomic_ref<T>(*place).fetch_add(amount);
  }
  Ranked best_of_block(Ranked mine) {
    own_.best[thread_] = mine;
    sync();
    for (const Ranked& other : own_.best)
      if (is_better(other, mine)) mine = other;
    return mine;
  }
  std::uint64_t sum_up_to(std::uint64_t value, std::uint64_t* total) {
    own_.sums[thread_] = value;
    sync();
    std::uint64_t sum = 0;
    *total = 0;
    for (int i = 0; i < kThreads; ++i) {
      *total += own_.sums[i];
      if (i <= thread_) sum += own_.sums[i];
    }
    return sum;
  }
  float exp(float x) const { return exp_f32(x); }
  static Four load(const float* from) { return {{from[0], from[1], from[2], from[3]}}; }

 private:
  Machine<kBlocks>& machine_;
  typename Machine<kBlocks>::Block& own_;
  int block_;
  int thread_;
};

// Samples all rows, one after the other, by one team.
template <int kBlockCount>
std::vector<SampledRow> sample_on_threads(const test::SamplerRows& rows, const std::vector<std::byte>& packed) {
  Machine<kBlockCount> machine;
  for (int block = 0; block < kBlockCount; ++block) {
    machine.blocks.push_back(std::make_unique<typename Machine<kBlockCount>::Block>());
    machine.blocks.back()->fours.resize(static_cast<std::size_t>(fours_of_block(rows.vocab, kBlockCount)));
  }
  std::vector<SampledRow> out(rows.params.size());
  std::vector<std::thread> threads;
  for (int block = 0; block < kBlockCount; ++block)
    for (int thread = 0; thread < kTestThreads; ++thread)
      threads.emplace_back([&, block, thread] {
        ThreadTeam<kBlockCount> team(machine, block, thread);
        auto& own = *machine.blocks[static_cast<std::size_t>(block)];
        for (std::size_t row = 0; row < out.size(); ++row) {
          const auto& p = reinterpret_cast<const PackedSampling*>(packed.data())[row];
          if (p.sampled == 0) continue;
          RowSampler<ThreadTeam<kBlockCount>> sampler(team, own.shared, own.fours.data(), p,
                                                      reinterpret_cast<const char*>(packed.data()), rows.logits_of(row),
                                                      rows.vocab);
          sampler.run(out[row]);
        }
      });
  for (std::thread& thread : threads) thread.join();
  return out;
}

template <int kBlockCount>
void expect_the_cpus_choice(int vocab, std::size_t count, std::uint32_t seed) {
  const test::SamplerRows rows(vocab, count, seed);
  const std::vector<std::byte> packed = rows.packed();
  const std::vector<SampledRow> got = sample_on_threads<kBlockCount>(rows, packed);
  const std::vector<SampleResult> expected = rows.expected(cpu_ops(best_isa()));
  for (std::size_t row = 0; row < count; ++row) {
    if (!rows.samples(row)) continue;
    const std::string differs = test::difference(got[row], expected[row]);
    if (!differs.empty())
      test::fail(__FILE__, __LINE__, "vocab " + std::to_string(vocab) + ", " + rows.describe(row) + ": " + differs);
  }
}

TEST("a block chooses what the CPU chooses") {
  expect_the_cpus_choice<1>(320, 2000, 1);
  expect_the_cpus_choice<1>(5, 400, 2);
  expect_the_cpus_choice<1>(1001, 400, 3);
}

TEST("a cluster chooses what the CPU chooses") {
  expect_the_cpus_choice<3>(1001, 600, 4);
  expect_the_cpus_choice<3>(9, 200, 5);  // a block without a part of the row
  expect_the_cpus_choice<2>(129280, 150, 6);
}

TEST("packed parameters") {
  const std::vector<std::uint32_t> biased{7, 2, 7}, prompt{5, 1, 5}, output{1, 3, 3};
  const std::vector<float> bias{1.0f, 2.0f, 3.0f};
  SamplingParams params;
  params.bias_tokens = biased;
  params.bias_values = bias;
  params.prompt_tokens = prompt;
  params.output_tokens = output;
  params.presence_penalty = 0.5f;
  const SamplingParams* const both[] = {nullptr, &params};
  const std::int32_t positions[] = {0, 9};
  PackScratch scratch;
  std::vector<std::uint64_t> memory(100);
  const auto bytes = std::as_writable_bytes(std::span(memory));
  const auto rows = reinterpret_cast<const PackedSampling*>(memory.data());
  const auto list = [&](std::uint32_t at) {
    return reinterpret_cast<const std::uint32_t*>(reinterpret_cast<const char*>(memory.data()) + at);
  };
  // The presence penalty does not look at the prompt.
  CHECK(pack_sampling(both, positions, 10, scratch, bytes) == 2 * sizeof(PackedSampling) + 5 * 8);
  CHECK(rows[0].sampled == 0 && rows[1].sampled == 1 && rows[1].position == 9);
  CHECK(rows[1].biases == 3 && rows[1].penalties == 2);
  const auto* const biases = reinterpret_cast<const PackedBias*>(list(rows[1].bias_at));
  CHECK(biases[0].id == 2 && biases[1].value == 1.0f && biases[2].id == 7 && biases[2].value == 3.0f);
  const auto* const few = reinterpret_cast<const PackedPenalty*>(list(rows[1].penalty_at));
  CHECK(few[0].id == 1 && few[0].output_count == 1 && few[1].id == 3 && few[1].output_count == 2);
  params.repetition_penalty = 1.1f;
  pack_sampling(both, positions, 10, scratch, bytes);
  const auto* const all = reinterpret_cast<const PackedPenalty*>(list(rows[1].penalty_at));
  CHECK(rows[1].penalties == 3 && all[0].output_count == 1 && all[2].id == 5 && all[2].output_count == 0);

  const std::vector<std::uint32_t> allowed{0x2A5u, 7u};
  params.allowed = allowed;
  pack_sampling(both, positions, 10, scratch, bytes);
  CHECK(*reinterpret_cast<const std::uint32_t*>(list(rows[1].allowed_at)) == 0x2A5u);

  const auto refused = [&](std::span<const std::int32_t> at, std::span<std::byte> out) {
    try {
      pack_sampling(both, at, 10, scratch, out);
    } catch (const std::invalid_argument&) {
      return true;
    }
    return false;
  };
  const std::size_t most = packed_sampling_bytes(both, 10);
  CHECK(!refused(positions, bytes.first(most)) && refused(positions, bytes.first(most - 1)));
  CHECK(refused({positions, 1}, bytes) && refused(positions, bytes.subspan(4)));
  params.logprobs = kMostTopLogprobs + 1;
  CHECK(refused(positions, bytes));
}

}  // namespace

TEST_MAIN
