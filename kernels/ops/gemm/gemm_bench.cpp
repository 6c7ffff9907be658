// GEMM rates at the stand-in model's shapes, beside what the machine can do: gemm_bench [threads].
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "backend/cpu/cpu_ops.h"
#include "base/measure.h"
#include "base/test.h"

using namespace pelagic;

int main(int argc, char** argv) {
  ThreadPool pool(argc > 1 ? std::atoi(argv[1]) : 2);
  const CpuOps& ops = cpu_ops(best_isa());
  constexpr std::size_t kWeightBytes =
      25 << 20;  // as much as a decode step reads: matrices are cycled so that none stays in L2
  const double peak = measure_fma_rate(pool, ops) / 1e9,
               bandwidth = measure_read_bandwidth(pool, ops, kWeightBytes) / 1e9;
  std::printf("%s, %d threads: FMA %.0f GFLOP/s, read of 25 MiB %.1f GB/s\n", isa_name(ops.isa).data(), pool.size(),
              peak, bandwidth);
  test::Random random(1);
  constexpr int kShapes[][2] = {{768, 128}, {576, 256}, {256, 512}, {1536, 256}, {128, 256}, {320, 256}, {2048, 2048}};
  for (const auto& [n, k] : kShapes) {
    const std::vector<float> weights = random.floats(static_cast<std::size_t>(n) * static_cast<std::size_t>(k));
    std::vector<PackedMatrix> matrices;
    for (std::size_t bytes = 0; bytes < kWeightBytes; bytes += matrices.back().bytes())
      matrices.push_back(PackedMatrix::from_rows(n, k, weights.data(), k));
    for (const int m : {1, 4, 8, 32, 64, 512}) {
      const std::vector<float> a = random.floats(static_cast<std::size_t>(m) * static_cast<std::size_t>(k));
      std::vector<float> c(static_cast<std::size_t>(m) * static_cast<std::size_t>(n));
      const std::size_t calls = std::max<std::size_t>(
          4, std::min<std::size_t>(matrices.size(), 4000000000ull / (2ull * static_cast<std::size_t>(n * k) *
                                                                     static_cast<std::size_t>(m))));
      double best = 1e9;
      for (int pass = 0; pass < 7; ++pass) {
        const auto start = std::chrono::steady_clock::now();
        for (std::size_t i = 0; i < calls; ++i) {
          const PackedMatrix& w = matrices[i % matrices.size()];
          const GemmCall call{a.data(), k, m, &w, c.data(), n};
          pool.parallel_ranges(w.panels(), gemm_panels_per_task(w, m, pool.size()),
                               [&](int begin, int end, int) { ops.gemm(call, begin, end); });
        }
        best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() /
                                  static_cast<double>(calls));
      }
      const double gflops = 2e-9 * n * k * m / best, gbs = 4e-9 * n * k / best;
      std::printf("N %4d K %4d M %3d: %7.1f us %6.1f GFLOP/s (%.2f of FMA) %5.1f GB/s of weights (%.2f of read)\n", n,
                  k, m, best * 1e6, gflops, gflops / peak, gbs, gbs / bandwidth);
    }
  }
}
