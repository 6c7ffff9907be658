#include "ops/mla_attention/mla_attention.h"

#include <algorithm>
#include <limits>

#include "backend/cpu/cpu_ops.h"
#include "base/aligned_buffer.h"
#include "base/bfloat16.h"
#include "base/test.h"
#include "base/thread_pool.h"

namespace {

using namespace pelagic;
using Floats = std::vector<float>;

// One sequence in a cache whose blocks are scattered and whose unused rows are NaN: reading one of them would show.
struct Problem {
  KvLayout layout;
  int rows, heads, first_position;
  AlignedBuffer<std::byte> cache;
  std::vector<std::uint32_t> blocks;
  Floats q;

  Problem(test::Random& random, int rank, int rope, KvDtype dtype, int rows_, int heads_, int first)
      : layout{2, (first + rows_ + 63) / 64 + 2, rank, rope, dtype},
        rows(rows_),
        heads(heads_),
        first_position(first),
        cache(layout.total_bytes()) {
    const Floats nan(static_cast<std::size_t>(layout.latent_width()), std::numeric_limits<float>::quiet_NaN());
    for (int layer = 0; layer < 2; ++layer)
      for (int block = 0; block < layout.blocks; ++block)
        for (int row = 0; row < 64; ++row)
          kv_write_row(layout, cache.data(), layer, static_cast<std::uint32_t>(block), row, nan.data(), nan.data());
    for (int t = 0; t * 64 < first + rows; ++t) blocks.push_back(static_cast<std::uint32_t>(layout.blocks - 1 - t));
    for (int key = 0; key < first + rows; ++key) {
      const Floats c = random.floats(static_cast<std::size_t>(layout.latent_width()), -2.0f, 2.0f);
      kv_write_row(layout, cache.data(), 1, blocks[static_cast<std::size_t>(key / 64)], key % 64, c.data(),
                   c.data() + rank);
    }
    q = random.floats(static_cast<std::size_t>(rows * heads * layout.latent_width()));
  }

  MlaAttentionCall call(Floats& u) const {
    const int width = layout.latent_width();
    return {&layout,
            cache.data(),
            1,
            blocks.data(),
            first_position,
            0.15f,
            q.data(),
            heads * width,
            width,
            u.data(),
            heads * (layout.kv_rank + 1),
            layout.kv_rank + 1};
  }
  std::size_t u_size() const { return static_cast<std::size_t>(rows * heads * (layout.kv_rank + 1)); }
};

Floats run(const CpuOps& ops, const Problem& problem) {
  Floats u(problem.u_size(), 11.0f);
  AlignedBuffer<float> scratch(mla_attention_scratch_floats(problem.layout));
  ops.mla_attention(problem.call(u), 0, problem.rows, 0, problem.heads, scratch.data());
  return u;
}

Floats run_planned(const CpuOps& ops, const Problem& problem, int threads) {
  ThreadPool pool(threads);
  Floats u(problem.u_size(), 11.0f);
  const MlaAttentionCall call = problem.call(u);
  const AttentionSequence sequence{problem.rows, problem.first_position};
  AttentionPlan plan;
  plan_attention(problem.layout, {&sequence, 1}, problem.heads, threads, plan);
  std::vector<AlignedBuffer<float>> scratch;
  std::vector<float*> pointers;
  for (int i = 0; i < threads; ++i)
    pointers.push_back(scratch.emplace_back(mla_attention_scratch_floats(problem.layout)).data());
  run_attention(pool, ops, {&call, 1}, problem.heads, plan, pointers);
  return u;
}

double cached(const Problem& problem, int key, int i) {
  const std::byte* row =
      problem.cache.data() + problem.layout.offset(1, problem.blocks[static_cast<std::size_t>(key / 64)], key % 64);
  if (problem.layout.dtype == KvDtype::float32) return static_cast<double>(reinterpret_cast<const float*>(row)[i]);
  return static_cast<double>(bf16_to_f32(reinterpret_cast<const bfloat16_bits*>(row)[i]));
}

TEST("against float64") {
  test::Random random(1);
  for (const KvDtype dtype : {KvDtype::float32, KvDtype::bfloat16}) {
    const Problem problem(random, 40, 12, dtype, 5, 3, 126);
    const int width = 52;
    const Floats u = run(cpu_ops(Isa::scalar), problem);
    for (int row = 0; row < problem.rows; ++row) {
      for (int head = 0; head < 3; ++head) {
        const int keys = problem.first_position + row + 1;
        std::vector<double> p(static_cast<std::size_t>(keys));
        double sum = 0.0;
        for (int key = 0; key < keys; ++key) {
          double dot = 0.0;
          for (int i = 0; i < width; ++i)
            dot += static_cast<double>(problem.q[static_cast<std::size_t>((row * 3 + head) * width + i)]) *
                   cached(problem, key, i);
          sum += p[static_cast<std::size_t>(key)] = std::exp(dot * static_cast<double>(0.15f));
        }
        for (int i = 0; i < 40; ++i) {
          double expected = 0.0;
          for (int key = 0; key < keys; ++key)
            expected += p[static_cast<std::size_t>(key)] / sum * cached(problem, key, i);
          CHECK_NEAR(u[static_cast<std::size_t>((row * 3 + head) * 41 + i)], expected, 2e-6);
        }
      }
    }
  }
}

TEST("scores hundreds apart: the same bits everywhere, and no subnormal number") {
  test::Random random(7);
  for (const KvDtype dtype : {KvDtype::float32, KvDtype::bfloat16}) {
    Problem problem(random, 40, 12, dtype, 5, 3, 300);
    for (float& x : problem.q) x *= 100.0f;
    const Floats expected = run(cpu_ops(Isa::scalar), problem);
    for (const float x : expected) CHECK(std::fpclassify(x) != FP_SUBNORMAL && std::isfinite(x));
    for (const CpuOps* ops : all_cpu_ops()) CHECK(test::same_bits(run(*ops, problem), expected));
  }
}

TEST("all instruction sets give the same bits, and touch nothing else") {
  test::Random random(2);
  const std::pair<int, int> shapes[] = {{512, 64}, {64, 16}, {96, 16}, {40, 12}, {16, 2}, {7, 4}};
  for (const auto& [rank, rope] : shapes) {
    for (const KvDtype dtype : {KvDtype::float32, KvDtype::bfloat16}) {
      for (const auto& [rows, heads, first] : {std::tuple{1, 4, 0},
                                               {1, 4, 200},
                                               {1, 9, 63},
                                               {3, 2, 62},
                                               {19, 4, 120},
                                               {70, 1, 30},
                                               {2, 70, 5},
                                               {40, 3, 0}}) {
        const Problem problem(random, rank, rope, dtype, rows, heads, first);
        const Floats expected = run(cpu_ops(Isa::scalar), problem);
        for (const float x : expected) CHECK(std::isfinite(x));
        for (int i = 0; i < rows * heads; ++i)
          CHECK(expected[static_cast<std::size_t>(i * (rank + 1) + rank)] == 11.0f);
        for (const CpuOps* ops : all_cpu_ops()) {
          if (ops == &cpu_ops_without_fma() && rank > 100) continue;  // slow
          CHECK(test::same_bits(run(*ops, problem), expected));
        }
      }
    }
  }
}

TEST("a row's bits do not depend on chunks, head groups or threads") {
  test::Random random(3);
  const Problem problem(random, 64, 16, KvDtype::bfloat16, 150, 6, 40);
  const int width = 80;
  for (const CpuOps* ops : all_cpu_ops()) {
    const Floats expected = run(*ops, problem);
    for (const int threads : {1, 2, 5}) CHECK(test::same_bits(run_planned(*ops, problem, threads), expected));
    // The same row as the first of a later chunk.
    Floats u(problem.u_size(), 11.0f);
    MlaAttentionCall call = problem.call(u);
    AlignedBuffer<float> scratch(mla_attention_scratch_floats(problem.layout));
    for (int row = 0; row < problem.rows; ++row) {
      call.first_position = problem.first_position + row;
      call.q = problem.q.data() + static_cast<std::ptrdiff_t>(row) * problem.heads * width;
      call.u = u.data() + static_cast<std::ptrdiff_t>(row) * call.u_row_stride;
      ops->mla_attention(call, 0, 1, 0, problem.heads, scratch.data());
    }
    CHECK(test::same_bits(u, expected));
  }
}

TEST("scores of any size: the largest of thousands, and NaN or infinite queries do no harm") {
  test::Random random(4);
  Problem problem(random, 32, 16, KvDtype::float32, 8, 4, 100);
  for (float& x : problem.q) x *= 1e4f;
  const Floats expected = run(cpu_ops(Isa::scalar), problem);
  for (const float x : expected) CHECK(std::isfinite(x));
  for (const CpuOps* ops : all_cpu_ops()) CHECK(test::same_bits(run(*ops, problem), expected));
  problem.q[0] = std::numeric_limits<float>::quiet_NaN();
  problem.q[48] = std::numeric_limits<float>::infinity();
  for (const CpuOps* ops : all_cpu_ops()) {
    const Floats u = run(*ops, problem);
    CHECK(std::isnan(u[0]));
    for (std::size_t i = 2 * 33; i < u.size(); ++i)
      CHECK(test::same_bits(u[i], expected[i]));  // the other rows and heads
  }
}

TEST("rows that threads share by keys and columns: the same bits") {
  test::Random random(6);
  for (const auto& [rank, heads, first] :
       {std::tuple{512, 4, 700}, {64, 4, 131}, {96, 3, 959}, {40, 2, 300}, {512, 1, 65}, {16, 4, 200}}) {
    for (const KvDtype dtype : {KvDtype::float32, KvDtype::bfloat16}) {
      const Problem problem(random, rank, 16, dtype, 1, heads, first);
      const Floats expected = run(cpu_ops(Isa::scalar), problem);
      for (const CpuOps* ops : all_cpu_ops()) {
        if (ops == &cpu_ops_without_fma() && rank > 100) continue;  // slow
        for (const int threads : {1, 2, 3, 4}) CHECK(test::same_bits(run_planned(*ops, problem, threads), expected));
      }
    }
  }
}

TEST("a plan covers every row and head once, and shares the rows of a small step") {
  test::Random random(5);
  AttentionPlan plan;
  for (int trial = 0; trial < 200; ++trial) {
    const int heads = random.integer(1, 130), threads = random.integer(1, 8), rank = random.integer(1, 600);
    const KvLayout layout{1, 1, rank, 16, KvDtype::float32};
    std::vector<AttentionSequence> sequences;
    for (int i = random.integer(0, 6); i > 0; --i)
      sequences.push_back({trial % 3 == 0 ? 1 : random.integer(1, 200), random.integer(0, 3000)});
    plan_attention(layout, sequences, heads, threads, plan);
    std::vector<std::vector<int>> hits;
    for (const AttentionSequence& sequence : sequences)
      hits.emplace_back(static_cast<std::size_t>(sequence.rows * heads));
    for (const AttentionItem& item : plan.items)
      for (int row = item.row_begin; row < item.row_end; ++row)
        for (int head = item.head_begin; head < item.head_end; ++head)
          ++hits[static_cast<std::size_t>(item.sequence)][static_cast<std::size_t>(row * heads + head)];
    const auto covered = [](const std::vector<SharedAttentionPart>& parts, std::size_t shared, int count) {
      int next = 0;
      for (const SharedAttentionPart& part : parts) {
        if (part.shared_row != static_cast<int>(shared)) continue;
        if (part.begin != next || part.end <= part.begin) return false;
        next = part.end;
      }
      return next == count;
    };
    for (std::size_t i = 0; i < plan.shared_rows.size(); ++i) {
      const SharedAttentionRow& shared = plan.shared_rows[i];
      const int keys = sequences[static_cast<std::size_t>(shared.sequence)].first_position + shared.row + 1;
      CHECK(covered(plan.score_parts, i, keys) && covered(plan.value_parts, i, rank));
      CHECK(shared.ld_scores % 64 == 0 && shared.ld_scores >= keys);
      CHECK(shared.scores_offset + shared.ld_scores * heads <= static_cast<std::int64_t>(plan.scores.size()));
      for (int head = 0; head < heads; ++head)
        ++hits[static_cast<std::size_t>(shared.sequence)][static_cast<std::size_t>(shared.row * heads + head)];
    }
    for (const auto& sequence : hits)
      for (const int hit : sequence) CHECK(hit == 1);
  }
  const KvLayout layout{1, 1, 512, 64, KvDtype::float32};
  const AttentionSequence decode{1, 2000};
  plan_attention(layout, {&decode, 1}, 4, 2, plan);
  CHECK(plan.items.empty() && plan.score_parts.size() == 2 && plan.value_parts.size() == 2);
  plan_attention(layout, {&decode, 1}, 128, 2, plan);
  CHECK(plan.items.size() == 2 && plan.shared_rows.empty());
}

}  // namespace

TEST_MAIN
