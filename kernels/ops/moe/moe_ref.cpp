#include <cmath>

#include "ops/moe/moe.h"

namespace pelagic::PELAGIC_SCALAR_NAMESPACE {

void moe_combine(const MoeCombineCall& call, int row_begin, int row_end) {
  for (int row = row_begin; row < row_end; ++row) {
    float* y = call.y + row * call.ldy;
    for (int i = 0; i < call.width; ++i) y[i] = call.shared == nullptr ? 0.0f : call.shared[row * call.ld_shared + i];
    for (int rank = 0; rank < call.top_k; ++rank) {
      const std::int64_t pair = static_cast<std::int64_t>(row) * call.top_k + rank;
      const float weight = call.weights[pair];
      const float* out = call.expert_out + call.batch->position.data()[pair] * call.ld_expert_out;
      for (int i = 0; i < call.width; ++i) y[i] = std::fma(weight, out[i], y[i]);
    }
  }
}

}  // namespace pelagic::PELAGIC_SCALAR_NAMESPACE
