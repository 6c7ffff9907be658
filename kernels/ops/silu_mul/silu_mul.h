// out = silu(gate) * up, silu(g) = g / (1 + exp(-g)). Maths: README.md.
#pragma once

#include <cstdint>

#include "base/cpu_features.h"

namespace pelagic {

struct SiluMulCall {
  const float*
      gate_up;  // [rows, pairs, 64]: the output of a PackedMatrix::from_gate_up GEMM (32 gate, then 32 up values)
  std::int64_t ld_gate_up;
  float* out;  // [rows, width]; may not overlap gate_up
  std::int64_t ld_out;
  int width;  // pairs = ceil(width / 32)
  int rows;
};

// Writes columns [32 * pair_begin, min(width, 32 * pair_end)) of all rows: the task that computed these panel pairs
// goes on with it.
PELAGIC_DECLARE_FOR_EACH_ISA(void silu_mul(const SiluMulCall& call, int pair_begin, int pair_end);)

}  // namespace pelagic
