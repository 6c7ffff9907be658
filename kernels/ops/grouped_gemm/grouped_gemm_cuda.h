// One GEMM for each expert over the rows routed to it: out[r, n] = sum_k x[r, k] W_e[n, k]. Maths, layouts and order of
// sums: README.md.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace pelagic {

enum class GroupedGemmType { fp8_block_scaled, bf16 };

enum class GroupedGemmLayout {
  contiguous,  // rows sorted by expert without padding: expert e has rows [offsets[e], offsets[e + 1])
  masked,      // expert e has rows [e * row_capacity, e * row_capacity + counts[e])
  // Every expert has all rows, each its own columns of them: the heads of a row, or with one expert a dense GEMM. bf16
  // only.
  side_by_side,
};

// Which output tile a block computes: weight rows x token rows. Speed only: every row has the same bits under all of
// them.
enum class GroupedGemmTile {
  w64_t8,
  w64_t16,
  w64_t32,
  w64_t64,
  w128_t8,
  w128_t16,
  w128_t32,
  w128_t64,
  w256_t128,
  w256_t128_pair,  // two blocks share each weight tile by multicast
};

// The fastest tile when few experts have more rows than this (for rows routed at random: the mean and two deviations).
GroupedGemmTile grouped_gemm_tile_for(int rows_of_most_experts);

// The fastest tile for one expert, an FP8 dense GEMM: the one whose waves over the processors cost least.
GroupedGemmTile dense_gemm_tile_for(int rows, int n);

struct GroupedGemmProblem {
  GroupedGemmType type;
  GroupedGemmLayout layout;
  GroupedGemmTile tile;
  int experts;
  int n;             // a multiple of 8
  int k;             // a multiple of 16 (fp8) or 8 (bf16)
  int row_capacity;  // rows of x and out, or for each expert (masked)
  // Device memory; x, weights and out begin at a multiple of 16 bytes.
  const std::int32_t* rows;    // offsets [experts + 1], ascending, or counts [experts]; read when the kernel runs.
                               // Null, side by side or for one expert only: all row_capacity rows
  const void* x;               // [row capacity in all, k]
  const float* x_scales;       // fp8: [ceil(k / 128), ld_x_scales], one for each row and 128 of k
  std::int64_t ld_x_scales;    // fp8: at least the row capacity in all
  const void* weights;         // [experts, n, k]
  const float* weight_scales;  // fp8: [experts, ceil(n / 128), ceil(k / 128)]
  void* out;                   // bf16 [row capacity in all, n]; rows that no expert has stay as they are
  // Side by side only: elements from row to row, from expert to expert; multiples of 8. x_step is no less than k, and k
  // a multiple of 64, where there is more than one expert.
  std::int64_t ldx = 0, x_step = 0;
  std::int64_t ld_out = 0, out_step = 0;
  // cuda/dependents.cuh; only where rows is null. Others may always run beside a grouped GEMM.
  bool beside = false;
};

// All that a launch needs. Made once for a set of buffers; launching allocates nothing and can be captured in a graph.
struct GroupedGemmPlan {
  GroupedGemmProblem problem;
  CUtensorMap weight_map;
  CUtensorMap token_map;
  int grid;
};

// Throws std::invalid_argument naming the field, or std::runtime_error from the driver.
GroupedGemmPlan make_grouped_gemm_plan(const GroupedGemmProblem& problem);

cudaError_t launch_grouped_gemm(const GroupedGemmPlan& plan, cudaStream_t stream);

}  // namespace pelagic
