#include <algorithm>

#include "base/exp.h"
#include "ops/gemm/gemm.h"
#include "ops/silu_mul/silu_mul.h"

namespace pelagic::PELAGIC_SCALAR_NAMESPACE {

void silu_mul(const SiluMulCall& call, int pair_begin, int pair_end) {
  for (int row = 0; row < call.rows; ++row) {
    for (int pair = pair_begin; pair < pair_end; ++pair) {
      const float* gate = call.gate_up + row * call.ld_gate_up + pair * 2 * kPanelColumns;
      const float* up = gate + kPanelColumns;
      float* out = call.out + row * call.ld_out + pair * kPanelColumns;
      const int columns = std::min(kPanelColumns, call.width - pair * kPanelColumns);
      for (int i = 0; i < columns; ++i) out[i] = gate[i] / (1.0f + exp_f32(-gate[i])) * up[i];
    }
  }
}

}  // namespace pelagic::PELAGIC_SCALAR_NAMESPACE
