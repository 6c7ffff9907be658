#include <algorithm>
#include <cmath>

#include "ops/gemm/gemm.h"

namespace pelagic::PELAGIC_SCALAR_NAMESPACE {

void gemm(const GemmCall& call, int panel_begin, int panel_end) {
  const int k_count = call.w->k();
  for (int p = panel_begin; p < panel_end; ++p) {
    const int column = p * kPanelColumns;
    const int columns = std::min(kPanelColumns, call.w->n() - column);
    for (int m = 0; m < call.m; ++m) {
      const float* a = call.a + m * call.lda;
      float total[kPanelColumns] = {};
      for (int run = 0; run < k_count; run += kGemmRun) {
        const int run_end = std::min(run + kGemmRun, k_count);
        const float* w = call.w->panel(p) + static_cast<std::size_t>(run) * kPanelColumns;
        float acc[kPanelColumns] = {};
        for (int k = run; k < run_end; ++k, w += kPanelColumns)
          for (int j = 0; j < kPanelColumns; ++j) acc[j] = std::fma(a[k], w[j], acc[j]);
        for (int j = 0; j < kPanelColumns; ++j) total[j] = total[j] + acc[j];
      }
      float* c = call.c + m * call.ldc + column;
      const float* residual = call.residual == nullptr ? nullptr : call.residual + m * call.ld_residual + column;
      for (int j = 0; j < columns; ++j) c[j] = residual == nullptr ? total[j] : residual[j] + total[j];
    }
  }
}

}  // namespace pelagic::PELAGIC_SCALAR_NAMESPACE
