// A warp computes kRows rows x kColumns outputs at once, so that each number it loads is used four times. All outputs
// have the same order of sums, whatever stands beside them.
#include "cuda/row.cuh"
#include "ops/gemm/gemm_cuda.h"

namespace pelagic {
namespace {

constexpr int kRows = 4;
constexpr int kColumns = 4;
constexpr int kWarps = 8;  // of a block: other rows, the same columns of W, which they find in the L1

__global__ void __launch_bounds__(kWarps * 32) gemm_f32_kernel(const GemmF32CudaCall c) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int first_row = (static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / 32) * kRows;
  const int first_column = static_cast<int>(blockIdx.y) * kColumns;
  if (first_row >= c.rows) return;
  const __nv_bfloat16* x[kRows];
  const float* w[kColumns];
  // Past the end: the last row or column once more, which is not written.
#pragma unroll
  for (int i = 0; i < kRows; ++i)
    x[i] = static_cast<const __nv_bfloat16*>(c.x) + min(first_row + i, c.rows - 1) * c.ldx;
#pragma unroll
  for (int j = 0; j < kColumns; ++j) w[j] = c.w + static_cast<std::int64_t>(min(first_column + j, c.n - 1)) * c.k;
  float sums[kRows][kColumns] = {};
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
}

}  // namespace

cudaError_t gemm_f32_cuda(const GemmF32CudaCall& call, cudaStream_t stream) {
  if (call.rows < 0 || call.n < 1 || call.k < kGroup || call.k % kGroup != 0 || !rows_aligned(call.x, call.ldx, 2) ||
      !rows_aligned(call.w, call.k, 4))
    return cudaErrorInvalidValue;
  if (call.rows == 0) return cudaSuccess;
  constexpr int kBlockRows = kWarps * kRows;
  const dim3 grid(static_cast<unsigned>((call.rows + kBlockRows - 1) / kBlockRows),
                  static_cast<unsigned>((call.n + kColumns - 1) / kColumns));
  gemm_f32_kernel<<<grid, kWarps * 32, 0, stream>>>(call);
  return cudaGetLastError();
}

}  // namespace pelagic
