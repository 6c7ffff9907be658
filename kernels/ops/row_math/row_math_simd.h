// row_math_ref.cpp, sixteen lanes at a time: lane i is chain i.
#pragma once

#include <limits>

#include "ops/row_math/row_math.h"

namespace pelagic::PELAGIC_SIMD_NAMESPACE {

float row_max(const float* x, int n) {
  const F32x16 lowest = F32x16::splat(-std::numeric_limits<float>::infinity());
  F32x16 best = lowest;
  int i = 0;
  for (; i + 16 <= n; i += 16) best = max_of(F32x16::load(x + i), best);
  if (i < n) best = max_of(F32x16::first_of(n - i, F32x16::load_first(x + i, n - i), lowest), best);
  return max_lanes(best);
}

float row_exp_sum(const float* x, float shift, int n, float* y) {
  const F32x16 shifts = F32x16::splat(shift);
  F32x16 chains = F32x16::zero();
  int i = 0;
  for (; i + 16 <= n; i += 16) {
    const F32x16 term = exp(F32x16::load(x + i) - shifts);
    chains = chains + term;
    if (y != nullptr) term.store(y + i);
  }
  if (i < n) {
    const F32x16 term = exp(F32x16::load_first(x + i, n - i) - shifts);
    chains = F32x16::first_of(n - i, chains + term, chains);
    if (y != nullptr) term.store_first(y + i, n - i);
  }
  return sum_lanes(chains);
}

void row_softmax(const float* x, int n, float* y) {
  const F32x16 sum = F32x16::splat(row_exp_sum(x, row_max(x, n), n, y));
  int i = 0;
  for (; i + 16 <= n; i += 16) (F32x16::load(y + i) / sum).store(y + i);
  if (i < n) (F32x16::load_first(y + i, n - i) / sum).store_first(y + i, n - i);
}

void row_sigmoid(const float* x, int n, float* y) {
  const F32x16 one = F32x16::splat(1.0f);
  const F32x16 minus_zero = F32x16::splat(-0.0f);
  int i = 0;
  for (; i + 16 <= n; i += 16) (one / (one + exp(minus_zero - F32x16::load(x + i)))).store(y + i);
  if (i < n) (one / (one + exp(minus_zero - F32x16::load_first(x + i, n - i)))).store_first(y + i, n - i);
}

}  // namespace pelagic::PELAGIC_SIMD_NAMESPACE
