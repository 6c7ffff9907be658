// Attention rates: prefill of 512 rows, decode of one row and of 32 sequences, beside what the machine can do:
// mla_attention_bench [threads].
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "backend/cpu/cpu_ops.h"
#include "base/aligned_buffer.h"
#include "base/large_memory.h"
#include "base/measure.h"
#include "base/test.h"

using namespace pelagic;

int main(int argc, char** argv) {
  ThreadPool pool(argc > 1 ? std::atoi(argv[1]) : 2);
  const CpuOps& ops = cpu_ops(best_isa());
  const double peak = measure_fma_rate(pool, ops) / 1e9, bandwidth = measure_read_bandwidth(pool, ops, 5 << 20) / 1e9;
  std::printf("%s, %d threads: FMA %.0f GFLOP/s, read of 5 MiB %.1f GB/s\n", isa_name(ops.isa).data(), pool.size(),
              peak, bandwidth);
  constexpr int kRank = 512, kRope = 64, kWidth = kRank + kRope, kContext = 6144;
  constexpr int kLayers = 6;  // walked in turn: a step finds no layer's keys in L2
  test::Random random(1);
  for (const KvDtype dtype : {KvDtype::float32, KvDtype::bfloat16}) {
    const KvLayout layout{kLayers, kContext / 64, kRank, kRope, dtype};
    const auto cache = large_memory(layout.total_bytes());  // as the backend has it
    std::vector<std::uint32_t> blocks;
    for (int position = 0; position < kContext; ++position) {
      const std::vector<float> row = random.floats(kWidth);
      for (int layer = 0; layer < kLayers; ++layer)
        kv_write_row(layout, cache.get(), layer, static_cast<std::uint32_t>(position / 64), position % 64, row.data(),
                     row.data() + kRank);
      if (position % 64 == 0) blocks.push_back(static_cast<std::uint32_t>(position / 64));
    }
    std::vector<AlignedBuffer<float>> scratch;
    std::vector<float*> scratch_of;
    for (int i = 0; i < pool.size(); ++i)
      scratch_of.push_back(scratch.emplace_back(mla_attention_scratch_floats(layout)).data());
    struct Shape {
      int heads, sequences, rows, context;
    };
    for (const auto& [heads, sequences, rows, context] : {Shape{4, 1, 1, 512},
                                                          {4, 1, 1, 2048},
                                                          {16, 1, 1, 2048},
                                                          {128, 1, 1, 2048},
                                                          {4, 32, 1, 160},
                                                          {4, 1, 512, 512},
                                                          {4, 1, 512, 2048},
                                                          {16, 1, 512, 2048}}) {
      const std::vector<float> q = random.floats(static_cast<std::size_t>(rows * heads * kWidth), -0.2f, 0.2f);
      std::vector<float> u(static_cast<std::size_t>(rows * heads * kRank));
      std::vector<MlaAttentionCall> calls;
      for (int s = 0; s < sequences; ++s) {
        calls.push_back({&layout, cache.get(), 0, blocks.data() + s * ((context + 63) / 64), context - rows, 0.1f,
                         q.data(), heads * kWidth, kWidth, u.data(), heads * kRank, kRank});
      }
      const std::vector<AttentionSequence> each(static_cast<std::size_t>(sequences), {rows, context - rows});
      AttentionPlan plan;
      double best = 1e9;
      for (int pass = 0; pass < (rows > 1 ? 7 : 200); ++pass) {
        for (MlaAttentionCall& call : calls) call.layer = pass % kLayers;
        const auto start = std::chrono::steady_clock::now();
        plan_attention(layout, each, heads, pool.size(), plan);
        run_attention(pool, ops, calls, heads, plan, scratch_of);
        best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
      }
      const double pairs = sequences * (static_cast<double>(rows) * (context - rows) + 0.5 * rows * (rows + 1.0));
      const double gflops = 2e-9 * (kRank + kWidth) * heads * pairs / best;
      const double gbs = 1e-9 * static_cast<double>(layout.row_bytes()) * sequences * context / best;
      std::printf(
          "%s heads %3d sequences %2d rows %3d context %4d: %8.1f us %6.1f GFLOP/s (%.2f of FMA) cache once: %5.1f "
          "GB/s (%.2f of "
          "read)\n",
          dtype == KvDtype::float32 ? "f32 " : "bf16", heads, sequences, rows, context, best * 1e6, gflops,
          gflops / peak, gbs, gbs / bandwidth);
    }
  }
}
