// rope_ref.cpp, eight pairs at a time.
#pragma once

#include <cmath>

#include "ops/rope/rope.h"

namespace pelagic::PELAGIC_SIMD_NAMESPACE {

void rope(const float* x, std::int64_t stride, float* y, std::int64_t out_stride, int vectors, int pairs,
          const float* cos, const float* sin) {
  const int whole = pairs / 8 * 8;
  for (int v = 0; v < vectors; ++v, x += stride, y += out_stride) {
    for (int i = 0; i < whole; i += 8) {
      const F32x16 pair = F32x16::load(x + 2 * i);
      fma_sub_add(pair, load_8_twice(cos + i), swap_pairs(pair) * load_8_twice(sin + i)).store(y + 2 * i);
    }
    for (int i = whole; i < pairs; ++i) {
      const float even = x[2 * i];
      const float odd = x[2 * i + 1];
      y[2 * i] = std::fma(even, cos[i], -(odd * sin[i]));
      y[2 * i + 1] = std::fma(odd, cos[i], even * sin[i]);
    }
  }
}

}  // namespace pelagic::PELAGIC_SIMD_NAMESPACE
