// rms_norm_ref.cpp, sixteen lanes at a time: lane i is chain i.
#pragma once

#include <cmath>

#include "ops/rms_norm/rms_norm.h"

namespace pelagic::PELAGIC_SIMD_NAMESPACE {

void rms_norm(const RmsNormCall& call, int row_begin, int row_end) {
  const int whole = call.width / 16 * 16;
  const int rest = call.width - whole;
  for (int row = row_begin; row < row_end; ++row) {
    float* x = call.x + row * call.ldx;
    float* y = call.y + row * call.ldy;
    if (call.delta != nullptr) {
      const float* delta = call.delta + row * call.ld_delta;
      for (int i = 0; i < whole; i += 16) (F32x16::load(x + i) + F32x16::load(delta + i)).store(x + i);
      if (rest > 0)
        (F32x16::load_first(x + whole, rest) + F32x16::load_first(delta + whole, rest)).store_first(x + whole, rest);
    }
    F32x16 squares = F32x16::zero();
    for (int i = 0; i < whole; i += 16) {
      const F32x16 v = F32x16::load(x + i);
      squares = fma(v, v, squares);
    }
    if (rest > 0) {  // adds 0 * 0 to chains that end earlier: they are never -0, so nothing changes
      const F32x16 v = F32x16::load_first(x + whole, rest);
      squares = fma(v, v, squares);
    }
    const float mean = sum_lanes(squares) / static_cast<float>(call.width);
    const F32x16 scale = F32x16::splat(1.0f / std::sqrt(mean + call.eps));
    for (int i = 0; i < whole; i += 16) (F32x16::load(x + i) * scale * F32x16::load(call.weight + i)).store(y + i);
    if (rest > 0)
      (F32x16::load_first(x + whole, rest) * scale * F32x16::load_first(call.weight + whole, rest))
          .store_first(y + whole, rest);
  }
}

}  // namespace pelagic::PELAGIC_SIMD_NAMESPACE
