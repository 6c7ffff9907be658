// A row of the FP8 cache of a model with 512 latent and 64 rope columns: 512 bytes of e4m3, four float32 scales, one
// for each 128 columns, then the rotated key in bf16. The layout is FlashMLA's and vLLM's ("fp8_ds_mla").
//
// A scale is a power of two, at most 2^7, so that number times scale is exactly a bf16 and one product makes it;
// numbers beyond 57,344 become that. What attends over the FP8 cache gives the bits of what attends over a bf16 cache
// with these numbers. A block of columns that holds a NaN or an infinity has the scale NaN.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstring>

#include "cuda/fp8_scale.h"

namespace pelagic {

inline constexpr int kFp8LatentScalesAt = 512;
inline constexpr int kFp8LatentRopeAt = kFp8LatentScalesAt + 4 * static_cast<int>(sizeof(float));
inline constexpr int kFp8LatentRowBytes = kFp8LatentRopeAt + 128;

// The scale of columns whose largest magnitude has these bits as a float32 (NaN is larger than all numbers):
// fp8_scale's, rounded up to a power of two, at most 2^7.
__host__ __device__ inline Fp8Scale fp8_latent_scale(std::uint32_t largest_bits) {
  const auto number = [](std::uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
  };
  if (largest_bits >= 0x7F800000u) return {number(0x7FC00000u), number(0x7FC00000u)};
  const float exact = fp8_scale(number(largest_bits)).scale;
  std::uint32_t bits;
  memcpy(&bits, &exact, sizeof bits);
  constexpr std::uint32_t kMost = (127u + 7) << 23;
  bits = (bits + 0x7FFFFFu) & 0x7F800000u;
  if (bits > kMost) bits = kMost;
  return {number(bits), number((254u << 23) - bits)};
}

}  // namespace pelagic
