// y = x / sqrt(mean(x^2) + eps) * weight. Maths and order: README.md.
#pragma once

#include <cstdint>

#include "base/cpu_features.h"

namespace pelagic {

struct RmsNormCall {
  float* x;            // [rows, width]; written only where delta is given
  std::int64_t ldx;    // floats between rows
  const float* delta;  // [rows, width] or null: first x = x + delta (the residual stream), then the norm of that
  std::int64_t ld_delta;
  const float* weight;  // [width]
  float* y;             // [rows, width]; may be x itself where delta is null
  std::int64_t ldy;
  int width;
  float eps;
};

PELAGIC_DECLARE_FOR_EACH_ISA(void rms_norm(const RmsNormCall& call, int row_begin, int row_end);)

}  // namespace pelagic
