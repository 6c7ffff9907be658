#include <cmath>
#include <cstddef>

#include "base/measure_loops.h"

namespace pelagic::PELAGIC_SCALAR_NAMESPACE {

float read_pass(const float* data, std::size_t floats) {
  float sums[16] = {};
  for (std::size_t k = 0; k < floats; k += 16)
    for (std::size_t i = 0; i < 16; ++i) sums[i] = sums[i] + data[k + i];
  float total = 0.0f;
  for (const float sum : sums) total = total + sum;
  return total;
}

double fma_burst(int iterations) {
  constexpr int kLanes = 64;
  float acc[kLanes] = {};
  volatile float opaque = 0.5f;  // so that the compiler cannot compute the answer
  const float x = opaque;
  for (int round = 0; round < iterations; ++round)
    for (int i = 0; i < kLanes; ++i) acc[i] = std::fma(acc[i], x, x);
  float total = 0.0f;
  for (const float value : acc) total = total + value;
  opaque = total;
  return 2.0 * kLanes * iterations;
}

}  // namespace pelagic::PELAGIC_SCALAR_NAMESPACE
