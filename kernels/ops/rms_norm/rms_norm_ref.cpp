#include "ops/rms_norm/rms_norm.h"

#include <cmath>

#include "base/chains.h"

namespace pelagic::PELAGIC_SCALAR_NAMESPACE {

void rms_norm(const RmsNormCall& call, int row_begin, int row_end) {
  for (int row = row_begin; row < row_end; ++row) {
    float* x = call.x + row * call.ldx;
    float* y = call.y + row * call.ldy;
    if (call.delta != nullptr) {
      const float* delta = call.delta + row * call.ld_delta;
      for (int i = 0; i < call.width; ++i) x[i] = x[i] + delta[i];
    }
    const float mean = dot_chains(x, x, call.width) / static_cast<float>(call.width);
    const float scale = 1.0f / std::sqrt(mean + call.eps);
    for (int i = 0; i < call.width; ++i) y[i] = x[i] * scale * call.weight[i];
  }
}

}  // namespace pelagic::PELAGIC_SCALAR_NAMESPACE
