// The measuring loops over F32x16.
#pragma once

#include "base/measure_loops.h"

namespace pelagic::PELAGIC_SIMD_NAMESPACE {

float read_pass(const float* data, std::size_t floats) {
  constexpr std::size_t kStreams = 4;
  F32x16 sums[kStreams] = {F32x16::zero(), F32x16::zero(), F32x16::zero(), F32x16::zero()};
  std::size_t k = 0;
  for (; k + 16 * kStreams <= floats; k += 16 * kStreams)
    for (std::size_t i = 0; i < kStreams; ++i) sums[i] = sums[i] + F32x16::load(data + k + 16 * i);
  for (; k < floats; k += 16) sums[0] = sums[0] + F32x16::load(data + k);
  return sum_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

double fma_burst(int iterations) {
  // Eight to ten accumulators cover the latency of an FMA on every core; the register file has room for them.
  constexpr int kAccumulators = kVectorRegisters == 32 ? 10 : 5;
  F32x16 acc[kAccumulators];
  for (F32x16& one : acc) one = F32x16::zero();
  volatile float opaque = 0.5f;  // so that the compiler cannot compute the answer
  const F32x16 x = F32x16::splat(opaque);
  for (int round = 0; round < iterations; ++round) {
#pragma GCC unroll 16
    for (int i = 0; i < kAccumulators; ++i) acc[i] = fma(acc[i], x, x);
  }
  F32x16 total = F32x16::zero();
  for (const F32x16& one : acc) total = total + one;
  opaque = sum_lanes(total);
  return 2.0 * 16 * kAccumulators * iterations;
}

}  // namespace pelagic::PELAGIC_SIMD_NAMESPACE
