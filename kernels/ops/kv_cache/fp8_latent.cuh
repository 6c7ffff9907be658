// Latents from e4m3 to bf16 on the GPU.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "ops/kv_cache/fp8_latent.h"

namespace pelagic {

// A latent scale, twice, as bf16.
__device__ __forceinline__ std::uint32_t bf16_scale_pair(float scale) {
  return __byte_perm(__float_as_uint(scale), 0, 0x3232);
}

// Two e4m3 in the high bytes of the two halves, times their scale. Shifted right by four, e4m3's exponent and mantissa
// are those of a bf16, but for the exponent's bias: 2^120 makes up for it, for subnormals too. Both products are exact.
// The codes of NaN, which come only with a scale of NaN, are read as 480.
__device__ __forceinline__ std::uint32_t expanded_pair(std::uint32_t high_bytes, std::uint32_t scale_pair) {
  const std::uint32_t bits = ((high_bytes & 0x7F007F00u) >> 4) | (high_bytes & 0x80008000u);
  const std::uint32_t bias = 0x7B807B80u;
  const auto pair = [](const std::uint32_t& word) { return *reinterpret_cast<const __nv_bfloat162*>(&word); };
  const __nv_bfloat162 value = __hmul2(__hmul2(pair(bits), pair(bias)), pair(scale_pair));
  return *reinterpret_cast<const std::uint32_t*>(&value);
}

// Eight columns.
__device__ __forceinline__ uint4 expanded_latents(std::uint32_t low, std::uint32_t high, std::uint32_t scale_pair) {
  return {
      expanded_pair(__byte_perm(low, 0, 0x1404), scale_pair), expanded_pair(__byte_perm(low, 0, 0x3424), scale_pair),
      expanded_pair(__byte_perm(high, 0, 0x1404), scale_pair), expanded_pair(__byte_perm(high, 0, 0x3424), scale_pair)};
}

}  // namespace pelagic
