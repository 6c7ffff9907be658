// What the vectorised ops build on: F32x16 (sixteen float lanes, from simd_avx2.h or simd_avx512.h, which include this
// file), the fixed tree of numerics_rules.md over its lanes, and exp. The maths of an op is written once, in
// <op>_simd.h, and compiled for both.
//
// F32x16: zero, splat, load, load_first(p, n) (lanes past n are 0 and their memory is not read), load_bf16, store,
// store_first, first_of; + - * / fma(a, b, c) = a*b + c rounded once; min_of(a, b) = a < b ? a : b and max_of(a, b) = a
// > b ? a : b, so NaN in b passes; zero_where_below(a, b, c) = a < b ? 0 : c.
#pragma once

#include "base/exp.h"

namespace pelagic::PELAGIC_SIMD_NAMESPACE {

inline float sum_of(__m256 lanes) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps(lanes, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

// 16 -> 8 (i + i+8) -> 4 (i + i+4) -> 2 -> 1.
inline float sum_lanes(F32x16 x) { return sum_of(x.fold_sum()); }

inline float max_lanes(F32x16 x) {
  const __m256 eight = x.fold_max();
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

// sum_lanes of four vectors at once, the same tree for each.
inline __m128 sum_lanes_of_4(F32x16 a, F32x16 b, F32x16 c, F32x16 d) {
  const auto to_four = [](F32x16 x) {
    const __m256 eight = x.fold_sum();
    return _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  };
  const __m128 a4 = to_four(a), b4 = to_four(b), c4 = to_four(c), d4 = to_four(d);
  const __m128 ab = _mm_add_ps(_mm_movelh_ps(a4, b4), _mm_movehl_ps(b4, a4));  // a0+a2, a1+a3, b0+b2, b1+b3
  const __m128 cd = _mm_add_ps(_mm_movelh_ps(c4, d4), _mm_movehl_ps(d4, c4));
  return _mm_add_ps(_mm_shuffle_ps(ab, cd, 0x88), _mm_shuffle_ps(ab, cd, 0xDD));
}

// exp_f32 of base/exp.h in every lane, operation for operation.
inline F32x16 exp(F32x16 x) {
  using C = ExpConstants;
  x = min_of(F32x16::splat(C::kHighest), x);
  x = max_of(F32x16::splat(C::kLowest), x);
  const F32x16 rounded = fma(x, F32x16::splat(C::kLog2e), F32x16::splat(C::kRound));
  const F32x16 n = rounded - F32x16::splat(C::kRound);
  F32x16 r = fma(n, F32x16::splat(-C::kLn2High), x);
  r = fma(n, F32x16::splat(-C::kLn2Low), r);
  F32x16 p = F32x16::splat(C::kP5);
  p = fma(p, r, F32x16::splat(C::kP4));
  p = fma(p, r, F32x16::splat(C::kP3));
  p = fma(p, r, F32x16::splat(C::kP2));
  p = fma(p, r, F32x16::splat(C::kP1));
  p = fma(p, r, F32x16::splat(C::kP0));
  const F32x16 r2 = r * r;
  p = fma(p, r2, r);
  p = p + F32x16::splat(1.0f);
  return scale_by_power(p, rounded, C::kRoundBits);
}

// softmax_exp_f32 in every lane.
inline F32x16 softmax_exp(F32x16 x) {
  const F32x16 lowest = F32x16::splat(kLowestSoftmaxExponent);
  return zero_where_below(x, lowest, exp(max_of(lowest, x)));
}

}  // namespace pelagic::PELAGIC_SIMD_NAMESPACE
