// float8 e4m3 (the "fn" form of checkpoints: no infinities) -> float32.
#pragma once

#include <array>
#include <cstdint>
#include <limits>

namespace pelagic {

// Source: "FP8 Formats for Deep Learning" (Micikevicius et al., 2022), E4M3: 1 sign, 4 exponent (bias 7), 3 mantissa
// bits; S.1111.111 is NaN (codes 0x7F, 0xFF), the largest number is 448, exponent 0 is subnormal (step 2^-9).
constexpr float f8e4m3_decode(std::uint8_t code) {
  const int exponent = (code >> 3) & 15;
  const int mantissa = code & 7;
  if (exponent == 15 && mantissa == 7) return std::numeric_limits<float>::quiet_NaN();
  float magnitude = static_cast<float>(exponent == 0 ? mantissa : 8 + mantissa);
  int power = (exponent == 0 ? 1 : exponent) - 7 - 3;
  for (; power > 0; --power) magnitude *= 2.0f;
  for (; power < 0; ++power) magnitude *= 0.5f;
  return (code & 0x80) != 0 ? -magnitude : magnitude;
}

inline constexpr std::array<float, 256> kF8e4m3ToF32 = [] {
  std::array<float, 256> table{};
  for (int code = 0; code < 256; ++code)
    table[static_cast<std::size_t>(code)] = f8e4m3_decode(static_cast<std::uint8_t>(code));
  return table;
}();

}  // namespace pelagic
