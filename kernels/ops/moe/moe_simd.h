// moe_ref.cpp, sixteen lanes at a time: y stays in registers over all ranks.
#pragma once

#include "ops/moe/moe.h"

namespace pelagic::PELAGIC_SIMD_NAMESPACE {

void moe_combine(const MoeCombineCall& call, int row_begin, int row_end) {
  const std::int32_t* position = call.batch->position.data();
  for (int row = row_begin; row < row_end; ++row) {
    const std::int64_t first_pair = static_cast<std::int64_t>(row) * call.top_k;
    float* y = call.y + row * call.ldy;
    const float* shared = call.shared == nullptr ? nullptr : call.shared + row * call.ld_shared;
    for (int i = 0; i < call.width; i += 16) {
      const int lanes = call.width - i < 16 ? call.width - i : 16;
      F32x16 sum = shared == nullptr ? F32x16::zero() : F32x16::load_first(shared + i, lanes);
      for (int rank = 0; rank < call.top_k; ++rank) {
        const float* out = call.expert_out + position[first_pair + rank] * call.ld_expert_out;
        sum = fma(F32x16::splat(call.weights[first_pair + rank]), F32x16::load_first(out + i, lanes), sum);
      }
      sum.store_first(y + i, lanes);
    }
  }
}

}  // namespace pelagic::PELAGIC_SIMD_NAMESPACE
