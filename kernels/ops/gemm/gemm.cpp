#include "ops/gemm/gemm.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "base/large_memory.h"

namespace pelagic {

PackedMatrix::PackedMatrix(int n, int k) : n_(n), k_(k) {
  if (n < 1 || k < 1) throw std::invalid_argument("a packed matrix needs n and k of at least 1");
  data_ = large_memory(bytes());
}

void PackedMatrix::set_row(int packed_column, const float* row) {
  float* out =
      data() + static_cast<std::size_t>(packed_column / kPanelColumns) * panel_floats() + packed_column % kPanelColumns;
  for (int k = 0; k < k_; ++k) out[static_cast<std::size_t>(k) * kPanelColumns] = row[k];
}

PackedMatrix PackedMatrix::from_rows(int n, int k, const RowSource& source) {
  PackedMatrix packed(n, k);
  std::vector<float> row(static_cast<std::size_t>(k));
  for (int i = 0; i < n; ++i) {
    source(i, row.data());
    packed.set_row(i, row.data());
  }
  return packed;
}

PackedMatrix PackedMatrix::from_rows(int n, int k, const float* rows, std::int64_t row_stride) {
  PackedMatrix packed(n, k);
  for (int i = 0; i < n; ++i) packed.set_row(i, rows + i * row_stride);
  return packed;
}

PackedMatrix PackedMatrix::from_transposed(int n, int k, const float* source_kn, std::int64_t row_stride) {
  PackedMatrix packed(n, k);
  for (int p = 0; p < packed.panels(); ++p) {
    const int column = p * kPanelColumns;
    const auto columns = static_cast<std::size_t>(std::min(kPanelColumns, n - column));
    float* out = packed.data() + static_cast<std::size_t>(p) * packed.panel_floats();
    for (int i = 0; i < k; ++i, out += kPanelColumns)
      std::memcpy(out, source_kn + i * row_stride + column, columns * sizeof(float));
  }
  return packed;
}

PackedMatrix PackedMatrix::from_gate_up(int width, int k, const RowSource& gate, const RowSource& up) {
  if (width < 1) throw std::invalid_argument("a packed matrix needs n and k of at least 1");
  const int pairs = (width + kPanelColumns - 1) / kPanelColumns;
  PackedMatrix packed(pairs * 2 * kPanelColumns, k);
  std::vector<float> row(static_cast<std::size_t>(k));
  for (int i = 0; i < width; ++i) {
    const int column = i / kPanelColumns * 2 * kPanelColumns + i % kPanelColumns;
    gate(i, row.data());
    packed.set_row(column, row.data());
    up(i, row.data());
    packed.set_row(column + kPanelColumns, row.data());
  }
  return packed;
}

int gemm_panels_per_task(const PackedMatrix& w, int m, int threads) {
  // A rough model of one thread: it computes at 100 GFLOP/s and reads weights at 25 GB/s. Only task sizes hang on it.
  const double flop = 2.0 * m * static_cast<double>(w.panel_floats());
  const double panel_us = std::max(flop / 100e3, static_cast<double>(w.panel_floats()) * sizeof(float) / 25e3);
  const double total_us = panel_us * w.panels();
  // Handing out a task costs about 0.2 us. A short GEMM is therefore one equal share for each thread; a long one is cut
  // finer, so that a thread that comes late does not keep the others waiting.
  constexpr double kShareUs = 2.0;
  constexpr double kFineTaskUs = 40.0;
  const int shares = std::min(threads, static_cast<int>(total_us / kShareUs));
  const int tasks = std::clamp(static_cast<int>(total_us / kFineTaskUs), std::max(1, shares), threads * 4);
  const int panels = (w.panels() + tasks - 1) / tasks;
  return (panels + 1) / 2 * 2;
}

}  // namespace pelagic
