// bfloat16 <-> float32. `static` on purpose: these are used in files built with different instruction sets.
#pragma once

#include <bit>
#include <cstdint>

namespace pelagic {

// Bits of one bfloat16 number: the upper half of a float32.
using bfloat16_bits = std::uint16_t;

static inline float bf16_to_f32(bfloat16_bits bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

// Round to nearest, ties to even. NaN stays NaN (quiet, sign and upper payload kept); overflow rounds to infinity.
static inline bfloat16_bits f32_to_bf16(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return static_cast<bfloat16_bits>((bits >> 16) | 0x40u);
  return static_cast<bfloat16_bits>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

}  // namespace pelagic
