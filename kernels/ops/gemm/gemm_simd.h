// gemm_ref.cpp in register tiles. The order along k is the reference's; only which outputs are computed side by side
// differs.
#pragma once

#include <algorithm>
#include <cstring>

#include "ops/gemm/gemm.h"

namespace pelagic::PELAGIC_SIMD_NAMESPACE {
namespace {

constexpr int kVectorsPerPanel = kPanelColumns / 16;
// Rows x vectors of a tile for many rows: 24 of 32 AVX-512 registers, or 12 of 16 AVX2 registers, are accumulators.
constexpr int kTileRows = kVectorRegisters == 32 ? 12 : 6;
constexpr int kTileVectors = kVectorRegisters == 32 ? 2 : 1;
// Up to here a call is bound by reading weights, and A is read in place.
constexpr int kFewRows = 4;
// How far ahead weights are fetched, in k: 8 KiB. The processor's own prefetch stops at each 4 KiB page. Panels follow
// one another in memory, so this also fetches the next panel; past the last one a prefetch does nothing.
constexpr std::size_t kPrefetchK = 64;
// k values of A that are copied next to one another for a tile: a multiple of kGemmRun; kTileRows of them fit in L1.
constexpr int kBlockK = 512;
// A row of the copy is padded by one line: rows a power of two apart would all fall in the same cache sets.
constexpr int kCopyStride = kBlockK + 16;
// Panels that share one copy of A; their weights should stay in L2 from one row block to the next.
constexpr int kMaxGroupPanels = 8;
constexpr std::size_t kGroupFloats = 512 * 1024 / sizeof(float);

// total[row][vector] += runs of k in [0, k_count), over adjacent vectors of one panel. FIRST: total is 0 before.
template <int ROWS, int VECTORS, bool FIRST>
inline __attribute__((always_inline)) void accumulate(const float* a, std::int64_t lda, const float* w, int k_count,
                                                      F32x16 (&total)[ROWS][VECTORS]) {
  for (int run = 0; run < k_count; run += kGemmRun) {
    const int run_end = std::min(run + kGemmRun, k_count);
    F32x16 acc[ROWS][VECTORS];
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 16
      for (int v = 0; v < VECTORS; ++v) acc[r][v] = F32x16::zero();
    for (int k = run; k < run_end; ++k) {
      const float* row = w + static_cast<std::size_t>(k) * kPanelColumns;
      F32x16 weights[VECTORS];
#pragma GCC unroll 16
      for (int v = 0; v < VECTORS; ++v) {
        _mm_prefetch(reinterpret_cast<const char*>(row + kPrefetchK * kPanelColumns + v * 16), _MM_HINT_T0);
        weights[v] = F32x16::load(row + v * 16);
      }
#pragma GCC unroll 16
      for (int r = 0; r < ROWS; ++r) {
        const F32x16 x = F32x16::splat(a[r * lda + k]);
#pragma GCC unroll 16
        for (int v = 0; v < VECTORS; ++v) acc[r][v] = fma(x, weights[v], acc[r][v]);
      }
    }
    const bool first = FIRST && run == 0;
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 16
      for (int v = 0; v < VECTORS; ++v) total[r][v] = (first ? F32x16::zero() : total[r][v]) + acc[r][v];
  }
}

// C (+ residual) at ROWS rows and VECTORS * 16 columns, or as many as C has.
template <int ROWS, int VECTORS>
inline void write_out(const GemmCall& call, int row, int column, const F32x16 (&total)[ROWS][VECTORS]) {
  for (int v = 0; v < VECTORS; ++v) {
    const int columns = std::min(16, call.w->n() - column - v * 16);
    if (columns <= 0) return;
    for (int r = 0; r < ROWS; ++r) {
      float* c = call.c + (row + r) * call.ldc + column + v * 16;
      F32x16 sum = total[r][v];
      if (call.residual != nullptr) {
        const float* residual = call.residual + (row + r) * call.ld_residual + column + v * 16;
        sum = (columns == 16 ? F32x16::load(residual) : F32x16::load_first(residual, columns)) + sum;
      }
      if (columns == 16) {
        sum.store(c);
      } else {
        sum.store_first(c, columns);
      }
    }
  }
}

template <int ROWS>
void few_rows(const GemmCall& call, int panel_begin, int panel_end) {
  // A whole panel at a time where its accumulators fit, else (AVX2, 4 rows) half a panel.
  constexpr int kVectors = ROWS * kVectorsPerPanel <= kTileRows * kTileVectors ? kVectorsPerPanel : 1;
  for (int panel = panel_begin; panel < panel_end; ++panel) {
    for (int vector = 0; vector < kVectorsPerPanel; vector += kVectors) {
      F32x16 total[ROWS][kVectors];
      for (auto& row_total : total)
        for (F32x16& one : row_total) one = F32x16::zero();
      accumulate<ROWS, kVectors, false>(call.a, call.lda, call.w->panel(panel) + vector * 16, call.w->k(), total);
      write_out(call, 0, panel * kPanelColumns + vector * 16, total);
    }
  }
}

// ROWS rows of C over a group of panels. Totals of the group wait in memory between blocks of k.
template <int ROWS>
void row_block(const GemmCall& call, int row, int panel_begin, int panel_end) {
  constexpr int kTilesPerPanel = kVectorsPerPanel / kTileVectors;
  alignas(64) float a[ROWS * kCopyStride];
  F32x16 totals[kMaxGroupPanels * kTilesPerPanel][ROWS][kTileVectors];
  const int tiles = (panel_end - panel_begin) * kTilesPerPanel;
  for (int k = 0; k < call.w->k(); k += kBlockK) {
    const int k_count = std::min(kBlockK, call.w->k() - k);
    const bool last = k + k_count == call.w->k();
    for (int r = 0; r < ROWS; ++r)
      std::memcpy(a + r * kCopyStride, call.a + (row + r) * call.lda + k,
                  static_cast<std::size_t>(k_count) * sizeof(float));
    for (int tile = 0; tile < tiles; ++tile) {
      const float* w = call.w->panel(panel_begin + tile / kTilesPerPanel) +
                       static_cast<std::size_t>(k) * kPanelColumns + tile % kTilesPerPanel * kTileVectors * 16;
      if (k == 0) {
        accumulate<ROWS, kTileVectors, true>(a, kCopyStride, w, k_count, totals[tile]);
      } else {
        accumulate<ROWS, kTileVectors, false>(a, kCopyStride, w, k_count, totals[tile]);
      }
      if (last) write_out(call, row, panel_begin * kPanelColumns + tile * kTileVectors * 16, totals[tile]);
    }
  }
}

// Calls row_block<rows> for rows in [1, kTileRows].
template <int ROWS = kTileRows>
void row_block_of(int rows, const GemmCall& call, int row, int panel_begin, int panel_end) {
  if constexpr (ROWS > 0) {
    if (rows == ROWS) return row_block<ROWS>(call, row, panel_begin, panel_end);
    row_block_of<ROWS - 1>(rows, call, row, panel_begin, panel_end);
  }
}

}  // namespace

void gemm(const GemmCall& call, int panel_begin, int panel_end) {
  static_assert(kFewRows == 4);
  switch (call.m) {
    case 0:
      return;
    case 1:
      return few_rows<1>(call, panel_begin, panel_end);
    case 2:
      return few_rows<2>(call, panel_begin, panel_end);
    case 3:
      return few_rows<3>(call, panel_begin, panel_end);
    case 4:
      return few_rows<4>(call, panel_begin, panel_end);
    default:
      break;
  }
  const int group = std::clamp(static_cast<int>(kGroupFloats / call.w->panel_floats()), 1, kMaxGroupPanels);
  // Row blocks of nearly equal height: 13 rows are 7 + 6, not 12 + 1.
  const int blocks = (call.m + kTileRows - 1) / kTileRows;
  for (int panel = panel_begin; panel < panel_end; panel += group) {
    const int group_end = std::min(panel + group, panel_end);
    for (int block = 0; block < blocks; ++block) {
      const int row = static_cast<int>(static_cast<std::int64_t>(call.m) * block / blocks);
      const int row_end = static_cast<int>(static_cast<std::int64_t>(call.m) * (block + 1) / blocks);
      row_block_of(row_end - row, call, row, panel, group_end);
    }
  }
}

}  // namespace pelagic::PELAGIC_SIMD_NAMESPACE
