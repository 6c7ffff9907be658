// Two roundings that several ops make.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

namespace pelagic {

// Both rounded to nearest, ties to even; `low` in the low half.
__device__ __forceinline__ std::uint32_t bf16_pair(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const std::uint32_t*>(&pair);
}

// 2^x, flushed to 0 below 2^-126; exactly 1 for 0.
__device__ __forceinline__ float power_of_2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace pelagic
