// silu_mul_ref.cpp, sixteen lanes at a time.
#pragma once

#include <algorithm>

#include "ops/gemm/gemm.h"
#include "ops/silu_mul/silu_mul.h"

namespace pelagic::PELAGIC_SIMD_NAMESPACE {

void silu_mul(const SiluMulCall& call, int pair_begin, int pair_end) {
  for (int row = 0; row < call.rows; ++row) {
    for (int pair = pair_begin; pair < pair_end; ++pair) {
      const float* gate = call.gate_up + row * call.ld_gate_up + pair * 2 * kPanelColumns;
      float* out = call.out + row * call.ld_out + pair * kPanelColumns;
      const int columns = std::min(kPanelColumns, call.width - pair * kPanelColumns);
      for (int i = 0; i < columns; i += 16) {  // the padding of a panel may be read; out has none
        const F32x16 g = F32x16::load(gate + i);
        const F32x16 up = F32x16::load(gate + kPanelColumns + i);
        const F32x16 minus_g = F32x16::splat(-0.0f) - g;
        const F32x16 result = g / (F32x16::splat(1.0f) + exp(minus_g)) * up;
        if (columns - i >= 16) {
          result.store(out + i);
        } else {
          result.store_first(out + i, columns - i);
        }
      }
    }
  }
}

}  // namespace pelagic::PELAGIC_SIMD_NAMESPACE
