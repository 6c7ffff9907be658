// C[m,n] = sum_k A[m,k] W[n,k] in float32 over weights packed at load. Maths and order: README.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "base/cpu_features.h"

namespace pelagic {

// Columns (n) of one packed panel: two AVX-512 registers.
inline constexpr int kPanelColumns = 32;
// k values that are summed in one accumulator before it is added to the total. Part of the numerics: do not change.
inline constexpr int kGemmRun = 128;

// Weights [n, k] as float32 panels [ceil(n/32)][k][32]; columns past n are zero.
class PackedMatrix {
 public:
  // Writes row `row` of the weights, k floats, to out.
  using RowSource = std::function<void(int row, float* out)>;

  PackedMatrix() = default;
  // source is called once for each row, ascending. n and k at least 1, else std::invalid_argument.
  static PackedMatrix from_rows(int n, int k, const RowSource& source);
  // rows: [n, k] with row_stride floats between rows.
  static PackedMatrix from_rows(int n, int k, const float* rows, std::int64_t row_stride);
  // source_kn: [k, n] with row_stride floats between rows (k): W[n,k] = source_kn[k * row_stride + n]. For the absorbed
  // W_UK.
  static PackedMatrix from_transposed(int n, int k, const float* source_kn, std::int64_t row_stride);
  // Gate and up projections [width, k] of one MLP: panel 2i holds gate columns 32i.., panel 2i+1 the same up columns.
  // n() is 2 * 32 * ceil(width/32), so C's columns are [pair][gate 32, up 32]: what silu_mul reads. Pair ranges are
  // panel ranges * 2.
  static PackedMatrix from_gate_up(int width, int k, const RowSource& gate, const RowSource& up);

  int n() const { return n_; }
  int k() const { return k_; }
  int panels() const { return (n_ + kPanelColumns - 1) / kPanelColumns; }
  const float* panel(int index) const { return data() + static_cast<std::size_t>(index) * panel_floats(); }
  std::size_t panel_floats() const { return static_cast<std::size_t>(k_) * kPanelColumns; }
  std::size_t bytes() const { return static_cast<std::size_t>(panels()) * panel_floats() * sizeof(float); }

 private:
  PackedMatrix(int n, int k);
  float* data() const { return reinterpret_cast<float*>(data_.get()); }
  void set_row(int packed_column, const float* row);

  int n_ = 0;
  int k_ = 0;
  std::shared_ptr<std::byte[]> data_;
};

struct GemmCall {
  const float* a;    // [m, w->k()]
  std::int64_t lda;  // floats between rows of a
  int m;             // 0 is allowed: nothing is done
  const PackedMatrix* w;
  float* c;                         // [m, w->n()]; may not overlap a
  std::int64_t ldc;                 // floats between rows of c
  const float* residual = nullptr;  // [m, w->n()] or null: c = residual + total. May be c itself.
  std::int64_t ld_residual = 0;
};

// Computes columns [32 * panel_begin, min(n, 32 * panel_end)) of all m rows of C; writes nothing else. Any split into
// panel ranges and any m give the same bits for a row. Threads may take disjoint ranges of one call.
PELAGIC_DECLARE_FOR_EACH_ISA(void gemm(const GemmCall& call, int panel_begin, int panel_end);)

// Panels to give one task: an equal share for each of `threads` threads where the GEMM is short, several smaller tasks
// where it is long. Always even, so that a from_gate_up pair is never cut.
int gemm_panels_per_task(const PackedMatrix& w, int m, int threads);

}  // namespace pelagic
