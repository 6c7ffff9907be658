// Rows as groups of eight columns: 16-byte loads and stores, and the e4m3 form that the grouped GEMM reads. Files that
// use it are built with -fmad=false: products and sums are rounded one by one unless an FMA is written.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include <cstdint>

#include "cuda/arithmetic.cuh"
#include "cuda/fp8_scale.h"

namespace pelagic {

inline constexpr int kGroup = 8;                       // columns of a group
inline constexpr int kFp8Groups = kFp8Block / kGroup;  // groups, and lanes, that share a scale
inline constexpr unsigned kWarp = 0xFFFFFFFFu;

struct Group {
  float v[kGroup];
};

__device__ __forceinline__ Group widen(uint4 bf16) {
  const std::uint32_t words[4] = {bf16.x, bf16.y, bf16.z, bf16.w};
  Group group;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    group.v[2 * i] = __uint_as_float(words[i] << 16);
    group.v[2 * i + 1] = __uint_as_float(words[i] & 0xFFFF0000u);
  }
  return group;
}

// Rounds to nearest, ties to even.
__device__ __forceinline__ uint4 to_bf16(const Group& g) {
  return {bf16_pair(g.v[0], g.v[1]), bf16_pair(g.v[2], g.v[3]), bf16_pair(g.v[4], g.v[5]), bf16_pair(g.v[6], g.v[7])};
}

__device__ __forceinline__ Group load_group(const __nv_bfloat16* from) {
  return widen(*reinterpret_cast<const uint4*>(from));
}
__device__ __forceinline__ Group load_group(const float* from) {
  const float4 a = reinterpret_cast<const float4*>(from)[0];
  const float4 b = reinterpret_cast<const float4*>(from)[1];
  return {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}

__device__ __forceinline__ void store_group(__nv_bfloat16* to, const Group& g) {
  *reinterpret_cast<uint4*>(to) = to_bf16(g);
}
__device__ __forceinline__ void store_group(float* to, const Group& g) {
  reinterpret_cast<float4*>(to)[0] = {g.v[0], g.v[1], g.v[2], g.v[3]};
  reinterpret_cast<float4*>(to)[1] = {g.v[4], g.v[5], g.v[6], g.v[7]};
}

// Each times `inverse`, rounded.
__device__ __forceinline__ uint2 to_e4m3(const Group& g, float inverse) {
  std::uint32_t words[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float* v = g.v + 4 * i;
    const float2 low = {__fmul_rn(v[0], inverse), __fmul_rn(v[1], inverse)};
    const float2 high = {__fmul_rn(v[2], inverse), __fmul_rn(v[3], inverse)};
    words[i] = static_cast<std::uint32_t>(__nv_cvt_float2_to_fp8x2(low, __NV_SATFINITE, __NV_E4M3)) |
               static_cast<std::uint32_t>(__nv_cvt_float2_to_fp8x2(high, __NV_SATFINITE, __NV_E4M3)) << 16;
  }
  return {words[0], words[1]};
}

// Where a row's e4m3 form goes: [rows, width] and its scales [ceil(width / 128), ld_scales].
struct Fp8Rows {
  std::uint8_t* data;
  float* scales;
  std::int64_t ld_scales;
};

// Writes one group of a row in e4m3, and the scale of its 128 columns. All lanes of the warp call it together; sixteen
// lanes that begin at a multiple of sixteen hold one block. A lane that is not `valid` has zeros and writes nothing.
__device__ __forceinline__ void store_fp8(const Fp8Rows& to, std::int64_t row, int width, int group, bool valid,
                                          const Group& g) {
  float largest = 0.0f;
#pragma unroll
  for (int j = 0; j < kGroup; ++j) largest = fmaxf(largest, fabsf(g.v[j]));
#pragma unroll
  for (int step = kFp8Groups / 2; step >= 1; step /= 2) largest = fmaxf(largest, __shfl_xor_sync(kWarp, largest, step));
  if (!valid) return;
  const Fp8Scale scale = fp8_scale(largest);
  *reinterpret_cast<uint2*>(to.data + row * width + group * kGroup) = to_e4m3(g, scale.inverse);
  if (group % kFp8Groups == 0) to.scales[(group / kFp8Groups) * to.ld_scales + row] = scale.scale;
}

}  // namespace pelagic
