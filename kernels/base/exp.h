// e^x in float32, the same bits in every instruction set. base/simd_exp.h is this, sixteen lanes at a time.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace pelagic {

// x = n ln 2 + r with |r| <= ln 2 / 2;  e^x = 2^n e^r.  e^r = 1 + r + r^2 P(r), P of degree 5 (coefficients: Cephes
// expf).
struct ExpConstants {
  static constexpr float kHighest = 89.0f;   // e^89 overflows to infinity
  static constexpr float kLowest = -104.0f;  // e^-104 is below half the smallest subnormal: rounds to 0
  static constexpr float kLog2e = 1.44269504088896341f;
  static constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, ties to even
  static constexpr std::int32_t kRoundBits = 0x4B400000;
  static constexpr float kLn2High = 0.693359375f;  // few bits, so that n * kLn2High is exact
  static constexpr float kLn2Low = -2.12194440e-4f;
  static constexpr float kP5 = 1.9875691500e-4f;
  static constexpr float kP4 = 1.3981999507e-3f;
  static constexpr float kP3 = 8.3334519073e-3f;
  static constexpr float kP2 = 4.1665795894e-2f;
  static constexpr float kP1 = 1.6666665459e-1f;
  static constexpr float kP0 = 5.0000001201e-1f;
};

// At most 2 ulp off over the whole range; underflows through the subnormals to 0, overflows to infinity, NaN gives NaN.
static inline float exp_f32(float x) {
  using C = ExpConstants;
  x = C::kHighest < x ? C::kHighest : x;  // written so that NaN passes
  x = C::kLowest > x ? C::kLowest : x;
  const float rounded = std::fma(x, C::kLog2e, C::kRound);
  const float n = rounded - C::kRound;
  float r = std::fma(n, -C::kLn2High, x);
  r = std::fma(n, -C::kLn2Low, r);
  float p = C::kP5;
  p = std::fma(p, r, C::kP4);
  p = std::fma(p, r, C::kP3);
  p = std::fma(p, r, C::kP2);
  p = std::fma(p, r, C::kP1);
  p = std::fma(p, r, C::kP0);
  const float r2 = r * r;
  p = std::fma(p, r2, r);
  p = p + 1.0f;
  // 2^n in two factors: n reaches 128 and -150, outside the exponents of one float. The last product rounds once.
  // Unsigned arithmetic: NaN leaves any integer here, and the product with NaN is NaN.
  const std::uint32_t power = std::bit_cast<std::uint32_t>(rounded) - static_cast<std::uint32_t>(C::kRoundBits);
  const std::uint32_t first = static_cast<std::uint32_t>(static_cast<std::int32_t>(power) >> 1);
  const std::uint32_t second = power - first;
  p = p * std::bit_cast<float>((first + 127u) << 23);
  return p * std::bit_cast<float>((second + 127u) << 23);
}

// Where e^x counts as 0 in a softmax: 2^-92, which no float32 sum beside the largest weight, a 1, can hold. Left in,
// such weights make subnormal numbers, over which many processors take a hundred times as long.
inline constexpr float kLowestSoftmaxExponent = -64.0f;

// A softmax's weight: e^x, x at most 0; NaN gives NaN.
static inline float softmax_exp_f32(float x) { return x < kLowestSoftmaxExponent ? 0.0f : exp_f32(x); }

}  // namespace pelagic
