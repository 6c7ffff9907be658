#include "base/measure.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <vector>

#include "backend/cpu/cpu_ops.h"
#include "base/aligned_buffer.h"

namespace pelagic {
namespace {

constexpr std::size_t kLineFloats = 16;
constexpr int kTrials = 5;
constexpr double kTrialSeconds = 0.02;

// Seconds of one call: the best of a few trials, each an average over at least kTrialSeconds, so that it is a rate that
// lasts.
template <class Fn>
double best_seconds(Fn&& fn) {
  using Clock = std::chrono::steady_clock;
  double best = std::numeric_limits<double>::infinity();
  for (int trial = 0; trial < kTrials; ++trial) {
    const auto start = Clock::now();
    double seconds = 0.0;
    int calls = 0;
    while (seconds < kTrialSeconds) {
      fn();
      ++calls;
      seconds = std::chrono::duration<double>(Clock::now() - start).count();
    }
    best = std::min(best, seconds / calls);
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
  constexpr int kIterations = 1 << 14;
  std::vector<double> flops(static_cast<std::size_t>(pool.size()));
  const double seconds = best_seconds([&] {
    pool.parallel_for(pool.size(),
                      [&](int part, int) { flops[static_cast<std::size_t>(part)] = ops.fma_burst(kIterations); });
  });
  double total = 0.0;
  for (const double one : flops) total += one;
  return total / seconds;
}

}  // namespace pelagic
