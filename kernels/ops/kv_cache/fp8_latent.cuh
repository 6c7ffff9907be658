// Latents from e4m3 to bf16 on the GPU.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "ops/kv_cache/fp8_latent.h"

namespace pelagic {

__device__ __forceinline__ std::uint32_t bf16_product(std::uint32_t a, std::uint32_t b) {
  const auto pair = [](const std::uint32_t& word) { return *reinterpret_cast<const __nv_bfloat162*>(&word); };
  const __nv_bfloat162 product = __hmul2(pair(a), pair(b));
  return *reinterpret_cast<const std::uint32_t*>(&product);
}

// What expanded_pair wants of a scale: 2^120 times it, twice, in bf16.
__device__ __forceinline__ std::uint32_t expanding_scale(float scale) {
  return bf16_product(__byte_perm(__float_as_uint(scale), 0, 0x3232), 0x7B807B80u);
}

// Two e4m3 in the high bytes of the two halves, times their scale. Shifted right by four, e4m3's exponent and mantissa
// are those of a bf16, but for the exponent's bias: 2^120 makes up for it, for subnormals too. The product is exact.
// The codes of NaN, which come only with a scale of NaN, are read as 480.
__device__ __forceinline__ std::uint32_t expanded_pair(std::uint32_t high_bytes, std::uint32_t scale) {
  return bf16_product(((high_bytes & 0x7F007F00u) >> 4) | (high_bytes & 0x80008000u), scale);
}

// Eight columns.
__device__ __forceinline__ uint4 expanded_latents(std::uint32_t low, std::uint32_t high, std::uint32_t scale) {
  return {expanded_pair(__byte_perm(low, 0, 0x1404), scale), expanded_pair(__byte_perm(low, 0, 0x3424), scale),
          expanded_pair(__byte_perm(high, 0, 0x1404), scale), expanded_pair(__byte_perm(high, 0, 0x3424), scale)};
}

}  // namespace pelagic
