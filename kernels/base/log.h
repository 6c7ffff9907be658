// Natural logarithm in float64 without libm, for the sampler: the same bits on every processor, a GPU's included.
#pragma once

#include <bit>
#include <cstdint>

namespace pelagic {

// x finite and > 0 (subnormals included). x = 2^k m with m in [sqrt(1/2), sqrt(2)); log m = 2 atanh((m-1)/(m+1)) as an
// odd series. Only +, -, *, / in the written order (no fused multiply-add). Relative error under 4e-15.
constexpr double log_f64(double x) {
  constexpr double kLn2High = 6.93147180369123816490e-01;  // 33 bits, so that power * kLn2High is exact
  constexpr double kLn2Low = 1.90821492927058770002e-10;
  constexpr double kSqrt2 = 1.41421356237309504880;

  int power = 0;
  std::uint64_t bits = std::bit_cast<std::uint64_t>(x);
  if ((bits >> 52) == 0) {  // subnormal
    bits = std::bit_cast<std::uint64_t>(x * 0x1p54);
    power = -54;
  }
  power += static_cast<int>(bits >> 52) - 1023;
  double m = std::bit_cast<double>((bits & 0x000FFFFFFFFFFFFFull) | 0x3FF0000000000000ull);
  if (m > kSqrt2) {
    m = m * 0.5;
    power += 1;
  }
  const double s = (m - 1.0) / (m + 1.0);  // |s| <= 0.1716
  const double s2 = s * s;
  double series = 0.0;  // 1/3 + s^2/5 + s^4/7 + ... + s^18/21
  for (int odd = 21; odd >= 3; odd -= 2) series = series * s2 + 1.0 / odd;
  const double twice_s = s + s;
  const double log_m = twice_s + twice_s * (s2 * series);
  return power * kLn2High + (log_m + power * kLn2Low);
}

}  // namespace pelagic
