// A warp computes some rows x columns of outputs at once: of many rows 4 x 4, so that each number it loads is used four
// times; of few one, so that many processors take part. All outputs have the same order of sums, whatever stands beside
// them.
#include "cuda/dependents.cuh"
#include "cuda/row.cuh"
#include "ops/gemm/gemm_cuda.h"

namespace pelagic {
namespace {

constexpr int kWarps = 8;  // of a block
constexpr int kFewRows = 32;

// The warps of a block: of many rows each its own, of the same columns of W, which they find in the L1; of few the same
// rows and columns of their own.
template <int kRows, int kColumns, bool kFew>
__global__ void __launch_bounds__(kWarps * 32) gemm_f32_kernel(const GemmF32CudaCall c) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int first_row = (static_cast<int>(blockIdx.x) * (kFew ? 1 : kWarps) + (kFew ? 0 : warp)) * kRows;
  const int first_column = (static_cast<int>(blockIdx.y) * (kFew ? kWarps : 1) + (kFew ? warp : 0)) * kColumns;
  if constexpr (kFew) {
    // Weights do not wait for what the rows are made of.
    if (first_column < c.n)
      for (int k = lane * kGroup; k < c.k; k += 32 * kGroup)
        asm volatile("prefetch.global.L2 [%0];" ::"l"(c.w + static_cast<std::int64_t>(first_column) * c.k + k));
  }
  begin_early(c.beside);
  if (first_row >= c.rows || first_column >= c.n) return;
  const __nv_bfloat16* x[kRows];
  const float* w[kColumns];
  // Past the end: the last row or column once more, which is not written.
#pragma unroll
  for (int i = 0; i < kRows; ++i)
    x[i] = static_cast<const __nv_bfloat16*>(c.x) + min(first_row + i, c.rows - 1) * c.ldx;
#pragma unroll
  for (int j = 0; j < kColumns; ++j) w[j] = c.w + static_cast<std::int64_t>(min(first_column + j, c.n - 1)) * c.k;
  float sums[kRows][kColumns] = {};
#pragma unroll(kFew ? 4 : 1)
  for (int k = lane * kGroup; k < c.k; k += 32 * kGroup) {
    Group a[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) a[i] = load_group(x[i] + k);
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      const Group b = load_group(w[j] + k);
#pragma unroll
      for (int i = 0; i < kRows; ++i)
#pragma unroll
        for (int v = 0; v < kGroup; ++v) sums[i][j] = __fmaf_rn(a[i].v[v], b.v[v], sums[i][j]);
    }
  }
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      float sum = sums[i][j];
#pragma unroll
      for (int distance = 16; distance >= 1; distance /= 2) sum += __shfl_xor_sync(kWarp, sum, distance);
      if (lane == 0 && first_row + i < c.rows && first_column + j < c.n)
        c.y[(first_row + i) * c.ldy + first_column + j] = sum;
    }
  }
  end_beside(c.beside);
}

}  // namespace

cudaError_t gemm_f32_cuda(const GemmF32CudaCall& call, cudaStream_t stream) {
  if (call.rows < 0 || call.n < 1 || call.k < kGroup || call.k % kGroup != 0 || !rows_aligned(call.x, call.ldx, 2) ||
      !rows_aligned(call.w, call.k, 4))
    return cudaErrorInvalidValue;
  if (call.rows == 0) return cudaSuccess;
  const auto blocks = [](int size, int block) { return static_cast<unsigned>((size + block - 1) / block); };
  if (call.rows <= kFewRows)
    return launch_early(gemm_f32_kernel<1, 1, true>, dim3(blocks(call.rows, 1), blocks(call.n, kWarps)), kWarps * 32, 0,
                        stream, call);
  return launch_early(gemm_f32_kernel<4, 4, false>, dim3(blocks(call.rows, 4 * kWarps), blocks(call.n, 4)), kWarps * 32,
                      0, stream, call);
}

}  // namespace pelagic
