// base/exp.h on the GPU, with the same bits. Files that use it are built with -fmad=false, or the products below would
// be contracted.
#pragma once

#include "base/exp.h"

namespace pelagic {

__device__ __forceinline__ float exp_f32_device(float x) {
  using C = ExpConstants;
  constexpr float kHighest = C::kHighest;
  constexpr float kLowest = C::kLowest;
  x = kHighest < x ? kHighest : x;  // written so that NaN passes
  x = kLowest > x ? kLowest : x;
  const float rounded = __fmaf_rn(x, C::kLog2e, C::kRound);
  const float n = __fsub_rn(rounded, C::kRound);
  float r = __fmaf_rn(n, -C::kLn2High, x);
  r = __fmaf_rn(n, -C::kLn2Low, r);
  float p = C::kP5;
  p = __fmaf_rn(p, r, C::kP4);
  p = __fmaf_rn(p, r, C::kP3);
  p = __fmaf_rn(p, r, C::kP2);
  p = __fmaf_rn(p, r, C::kP1);
  p = __fmaf_rn(p, r, C::kP0);
  const float r2 = __fmul_rn(r, r);
  p = __fmaf_rn(p, r2, r);
  p = __fadd_rn(p, 1.0f);
  const std::uint32_t power = __float_as_uint(rounded) - static_cast<std::uint32_t>(C::kRoundBits);
  const std::uint32_t first = static_cast<std::uint32_t>(static_cast<std::int32_t>(power) >> 1);
  const std::uint32_t second = power - first;
  p = __fmul_rn(p, __uint_as_float((first + 127u) << 23));
  return __fmul_rn(p, __uint_as_float((second + 127u) << 23));
}

}  // namespace pelagic
