// Sixteen float lanes as two AVX2 registers. Include in files built with -mavx2 -mfma only; simd.h documents the
// operations.
#pragma once

#include <immintrin.h>

#include <cstdint>

#define PELAGIC_SIMD_NAMESPACE avx2

namespace pelagic::avx2 {

// How many F32x16 the register file holds.
inline constexpr int kVectorRegisters = 8;

struct F32x16 {
  __m256 low, high;

  static F32x16 zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static F32x16 splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static F32x16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static F32x16 load_first(const float* p, int n) {
    return {_mm256_maskload_ps(p, lane_mask(n)),
            n > 8 ? _mm256_maskload_ps(p + 8, lane_mask(n - 8)) : _mm256_setzero_ps()};
  }
  static F32x16 load_bf16(const std::uint16_t* p) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return {widen(_mm256_castsi256_si128(bits)), widen(_mm256_extracti128_si256(bits, 1))};
  }
  void store(float* p) const {
    _mm256_storeu_ps(p, low);
    _mm256_storeu_ps(p + 8, high);
  }
  void store_first(float* p, int n) const {
    _mm256_maskstore_ps(p, lane_mask(n), low);
    if (n > 8) _mm256_maskstore_ps(p + 8, lane_mask(n - 8), high);
  }
  // Lanes [0, n) of a, the others of b.
  static F32x16 first_of(int n, F32x16 a, F32x16 b) {
    return {_mm256_blendv_ps(b.low, a.low, _mm256_castsi256_ps(lane_mask(n))),
            _mm256_blendv_ps(b.high, a.high, _mm256_castsi256_ps(lane_mask(n - 8)))};
  }
  // Lane i + lane i+8.
  __m256 fold_sum() const { return _mm256_add_ps(low, high); }
  __m256 fold_max() const { return _mm256_max_ps(low, high); }

 private:
  static __m256i lane_mask(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static __m256 widen(__m128i bits) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16)); }
};

inline F32x16 operator+(F32x16 a, F32x16 b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
inline F32x16 operator-(F32x16 a, F32x16 b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
inline F32x16 operator*(F32x16 a, F32x16 b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
inline F32x16 operator/(F32x16 a, F32x16 b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }
inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
inline F32x16 min_of(F32x16 a, F32x16 b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }
inline F32x16 max_of(F32x16 a, F32x16 b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
inline F32x16 zero_where_below(F32x16 a, F32x16 b, F32x16 c) {
  return {_mm256_and_ps(_mm256_cmp_ps(a.low, b.low, _CMP_NLT_UQ), c.low),
          _mm256_and_ps(_mm256_cmp_ps(a.high, b.high, _CMP_NLT_UQ), c.high)};
}

// Even lanes a*b - c, odd lanes a*b + c.
inline F32x16 fma_sub_add(F32x16 a, F32x16 b, F32x16 c) {
  return {_mm256_fmaddsub_ps(a.low, b.low, c.low), _mm256_fmaddsub_ps(a.high, b.high, c.high)};
}
// Lanes 2i and 2i+1 exchanged.
inline F32x16 swap_pairs(F32x16 a) { return {_mm256_permute_ps(a.low, 0xB1), _mm256_permute_ps(a.high, 0xB1)}; }
// p[0], p[0], p[1], p[1], ... p[7], p[7].
inline F32x16 load_8_twice(const float* p) {
  const __m256 x = _mm256_loadu_ps(p);
  return {_mm256_permutevar8x32_ps(x, _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3)),
          _mm256_permutevar8x32_ps(x, _mm256_setr_epi32(4, 4, 5, 5, 6, 6, 7, 7))};
}

// p * 2^n in two factors, n in the low bits of round_bits + n (see exp.h).
inline __m256 scale_by_power(__m256 p, __m256 rounded, std::int32_t round_bits) {
  const __m256i power = _mm256_sub_epi32(_mm256_castps_si256(rounded), _mm256_set1_epi32(round_bits));
  const __m256i first = _mm256_srai_epi32(power, 1);
  const __m256i second = _mm256_sub_epi32(power, first);
  const __m256i bias = _mm256_set1_epi32(127);
  p = _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(first, bias), 23)));
  return _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(second, bias), 23)));
}
inline F32x16 scale_by_power(F32x16 p, F32x16 rounded, std::int32_t round_bits) {
  return {scale_by_power(p.low, rounded.low, round_bits), scale_by_power(p.high, rounded.high, round_bits)};
}

}  // namespace pelagic::avx2

#include "base/simd.h"
