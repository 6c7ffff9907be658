// The order of every row reduction, for the scalar ops (numerics_rules.md): 16 interleaved chains, then a fixed tree.
#pragma once

#include <cmath>

namespace pelagic {

inline constexpr int kChains = 16;

// 16 -> 8 (i + i+8) -> 4 (i + i+4) -> 2 -> 1. Overwrites chains.
static inline float sum_chains(float* chains) {
  for (int half = kChains / 2; half >= 1; half /= 2)
    for (int i = 0; i < half; ++i) chains[i] = chains[i] + chains[i + half];
  return chains[0];
}

// sum_k x[k] y[k]: chain i takes elements i, i+16, ...
static inline float dot_chains(const float* x, const float* y, int n) {
  float chains[kChains] = {};
  int k = 0;
  for (; k + kChains <= n; k += kChains)
    for (int i = 0; i < kChains; ++i) chains[i] = std::fma(x[k + i], y[k + i], chains[i]);
  for (int i = 0; k + i < n; ++i) chains[i] = std::fma(x[k + i], y[k + i], chains[i]);
  return sum_chains(chains);
}

}  // namespace pelagic
