#include "base/measure.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "backend/cpu/cpu_ops.h"
#include "base/aligned_buffer.h"

namespace pelagic {
namespace {

constexpr std::size_t kLineFloats = 16;
constexpr double kMinimumSeconds = 0.2;
constexpr int kMinimumPasses = 5;

template <class Fn>
double seconds_of(Fn&& fn) {
  const auto start = std::chrono::steady_clock::now();
  fn();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Fastest of at least kMinimumPasses calls over at least kMinimumSeconds.
template <class Fn>
double best_seconds(Fn&& fn) {
  double best = seconds_of(fn);
  double total = best;
  for (int pass = 1; pass < kMinimumPasses || total < kMinimumSeconds; ++pass) {
    const double seconds = seconds_of(fn);
    best = std::min(best, seconds);
    total += seconds;
  }
  return best;
}

}  // namespace

double measure_read_bandwidth(ThreadPool& pool, const CpuOps& ops, std::size_t bytes) {
  const auto threads = static_cast<std::size_t>(pool.size());
  const std::size_t floats = std::max(bytes / sizeof(float) / threads / kLineFloats, std::size_t{1}) * kLineFloats;
  AlignedBuffer<float> data(floats * threads);
  std::vector<float> sums(threads);
  const double seconds = best_seconds([&] {
    pool.parallel_for(pool.size(), [&](int part, int) {
      const auto i = static_cast<std::size_t>(part);
      sums[i] = ops.read_pass(data.data() + i * floats, floats);
    });
  });
  return static_cast<double>(data.size() * sizeof(float)) / seconds;
}

double measure_fma_rate(ThreadPool& pool, const CpuOps& ops) {
  constexpr int kIterations = 1 << 20;
  std::vector<double> flops(static_cast<std::size_t>(pool.size()));
  const double seconds = best_seconds([&] {
    pool.parallel_for(pool.size(), [&](int part, int) { flops[static_cast<std::size_t>(part)] = ops.fma_burst(kIterations); });
  });
  double total = 0.0;
  for (const double one : flops) total += one;
  return total / seconds;
}

}  // namespace pelagic
