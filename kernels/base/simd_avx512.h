// Sixteen float lanes as one AVX-512 register. Include in files built with -mavx512f,bw,dq,vl only; simd.h documents
// the operations.
#pragma once

#include <immintrin.h>

#include <cstdint>

#define PELAGIC_SIMD_NAMESPACE avx512

namespace pelagic::avx512 {

// How many F32x16 the register file holds.
inline constexpr int kVectorRegisters = 32;

struct F32x16 {
  __m512 v;

  static F32x16 zero() { return {_mm512_setzero_ps()}; }
  static F32x16 splat(float x) { return {_mm512_set1_ps(x)}; }
  static F32x16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static F32x16 load_first(const float* p, int n) { return {_mm512_maskz_loadu_ps(lane_mask(n), p)}; }
  static F32x16 load_bf16(const std::uint16_t* p) {
    // Each number to the upper half of its lane, zeros below: one operation, where widening and shifting are two on the
    // units that multiply.
    const __m512i upper = _mm512_set_epi16(15, 0, 14, 0, 13, 0, 12, 0, 11, 0, 10, 0, 9, 0, 8, 0, 7, 0, 6, 0, 5, 0, 4, 0,
                                           3, 0, 2, 0, 1, 0, 0, 0);
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return {_mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(0xAAAAAAAA, upper, _mm512_castsi256_si512(bits)))};
  }
  void store(float* p) const { _mm512_storeu_ps(p, v); }
  void store_first(float* p, int n) const { _mm512_mask_storeu_ps(p, lane_mask(n), v); }
  // Lanes [4i, 4i + 4) to p + i * stride, i in [0, 4).
  void store_quarters(float* p, std::int64_t stride) const {
    _mm_storeu_ps(p, _mm512_castps512_ps128(v));
    _mm_storeu_ps(p + stride, _mm512_extractf32x4_ps(v, 1));
    _mm_storeu_ps(p + 2 * stride, _mm512_extractf32x4_ps(v, 2));
    _mm_storeu_ps(p + 3 * stride, _mm512_extractf32x4_ps(v, 3));
  }
  // Lanes [0, n) of a, the others of b.
  static F32x16 first_of(int n, F32x16 a, F32x16 b) { return {_mm512_mask_blend_ps(lane_mask(n), b.v, a.v)}; }
  // Lane i + lane i+8.
  __m256 fold_sum() const { return _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1)); }
  __m256 fold_max() const { return _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1)); }

 private:
  static __mmask16 lane_mask(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
};

inline F32x16 operator+(F32x16 a, F32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F32x16 operator-(F32x16 a, F32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F32x16 operator*(F32x16 a, F32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F32x16 operator/(F32x16 a, F32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline F32x16 min_of(F32x16 a, F32x16 b) { return {_mm512_min_ps(a.v, b.v)}; }
inline F32x16 max_of(F32x16 a, F32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
inline F32x16 zero_where_below(F32x16 a, F32x16 b, F32x16 c) {
  return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_NLT_UQ), c.v)};
}

// out[4i + j] = sum_lanes (simd.h) of x[i][j]: two vectors halved and joined at a time, the same tree for each.
inline F32x16 sum_lanes_of_16(const F32x16 (&x)[4][4]) {
  const auto join = [](__m512 a, __m512 b, auto low, auto high) { return _mm512_add_ps(low(a, b), high(a, b)); };
  const auto halves = [&](__m512 a, __m512 b) {  // a: lane i + i+8, then b
    return join(
        a, b, [](__m512 p, __m512 q) { return _mm512_shuffle_f32x4(p, q, 0x44); },
        [](__m512 p, __m512 q) { return _mm512_shuffle_f32x4(p, q, 0xEE); });
  };
  const auto quarters = [&](__m512 a, __m512 b) {  // each half of a, then of b: lane i + i+4
    return join(
        a, b, [](__m512 p, __m512 q) { return _mm512_shuffle_f32x4(p, q, 0x88); },
        [](__m512 p, __m512 q) { return _mm512_shuffle_f32x4(p, q, 0xDD); });
  };
  const auto pairs = [&](__m512 a, __m512 b) {
    return join(
        a, b, [](__m512 p, __m512 q) { return _mm512_shuffle_ps(p, q, 0x44); },
        [](__m512 p, __m512 q) { return _mm512_shuffle_ps(p, q, 0xEE); });
  };
  const auto singles = [&](__m512 a, __m512 b) {
    return join(
        a, b, [](__m512 p, __m512 q) { return _mm512_shuffle_ps(p, q, 0x88); },
        [](__m512 p, __m512 q) { return _mm512_shuffle_ps(p, q, 0xDD); });
  };
  // The order in which they are joined puts sum i in lane i: see each step's comment.
  const auto four = [&](int j) {  // 128-bit lane i: four numbers of x[i][j]
    return quarters(halves(x[0][j].v, x[1][j].v), halves(x[2][j].v, x[3][j].v));
  };
  return {singles(pairs(four(0), four(1)), pairs(four(2), four(3)))};
}

// Even lanes a*b - c, odd lanes a*b + c.
inline F32x16 fma_sub_add(F32x16 a, F32x16 b, F32x16 c) { return {_mm512_fmaddsub_ps(a.v, b.v, c.v)}; }
// Lanes 2i and 2i+1 exchanged.
inline F32x16 swap_pairs(F32x16 a) { return {_mm512_permute_ps(a.v, 0xB1)}; }
// p[0], p[0], p[1], p[1], ... p[7], p[7].
inline F32x16 load_8_twice(const float* p) {
  return {_mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7),
                                _mm512_castps256_ps512(_mm256_loadu_ps(p)))};
}

// p * 2^n in two factors, n in the low bits of round_bits + n (see exp.h).
inline F32x16 scale_by_power(F32x16 p, F32x16 rounded, std::int32_t round_bits) {
  const __m512i power = _mm512_sub_epi32(_mm512_castps_si512(rounded.v), _mm512_set1_epi32(round_bits));
  const __m512i first = _mm512_srai_epi32(power, 1);
  const __m512i second = _mm512_sub_epi32(power, first);
  const __m512i bias = _mm512_set1_epi32(127);
  const __m512 once = _mm512_mul_ps(p.v, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(first, bias), 23)));
  return {_mm512_mul_ps(once, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(second, bias), 23)))};
}

}  // namespace pelagic::avx512

#include "base/simd.h"
