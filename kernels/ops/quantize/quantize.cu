// Rows: a thread takes eight columns, sixteen lanes find the largest of their 128. Weights: a block takes 128 x 128.
// Built with -fmad=false.
#include "cuda/dependents.cuh"
#include "cuda/row.cuh"
#include "ops/quantize/quantize_cuda.h"

namespace pelagic {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kMostGridY = 65535;

__global__ void __launch_bounds__(kThreads) quantize_rows_kernel(const QuantizeRowsCudaCall c) {
  begin_early();
  const std::int64_t row = blockIdx.x;
  const int group = static_cast<int>(blockIdx.y) * kThreads + static_cast<int>(threadIdx.x);
  const bool valid = group < c.width / kGroup;
  const Group g = valid ? load_group(static_cast<const __nv_bfloat16*>(c.x) + row * c.ldx + group * kGroup) : Group{};
  store_fp8({c.out, c.scales, c.ld_scales}, row, c.width, group, valid, g);
}

__global__ void __launch_bounds__(kThreads) quantize_weights_kernel(const QuantizeWeightsCudaCall c) {
  constexpr int kColumns = kFp8Block / 32;   // of a lane: its own and each 32 further
  constexpr int kRows = kFp8Block / kWarps;  // of a warp: its own and each 8 further
  __shared__ float warps[kWarps];
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int first_row = static_cast<int>(blockIdx.y) * kFp8Block;
  const int first_column = static_cast<int>(blockIdx.x) * kFp8Block;
  float v[kRows][kColumns];
  float largest = 0.0f;
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      const int row = first_row + warp + kWarps * i;
      const int column = first_column + lane + 32 * j;
      v[i][j] = row < c.n && column < c.k ? c.w[static_cast<std::int64_t>(row) * c.k + column] : 0.0f;
      largest = fmaxf(largest, fabsf(v[i][j]));
    }
  }
#pragma unroll
  for (int step = 16; step >= 1; step /= 2) largest = fmaxf(largest, __shfl_xor_sync(kWarp, largest, step));
  if (lane == 0) warps[warp] = largest;
  __syncthreads();
#pragma unroll
  for (int w = 0; w < kWarps; ++w) largest = fmaxf(largest, warps[w]);
  const Fp8Scale scale = fp8_weight_scale(largest);
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      const int row = first_row + warp + kWarps * i;
      const int column = first_column + lane + 32 * j;
      if (row < c.n && column < c.k)
        c.out[static_cast<std::int64_t>(row) * c.ld_out + column] =
            __nv_cvt_float_to_fp8(__fmul_rn(v[i][j], scale.inverse), __NV_SATFINITE, __NV_E4M3);
    }
  }
  if (threadIdx.x == 0) c.scales[static_cast<std::int64_t>(blockIdx.y) * gridDim.x + blockIdx.x] = scale.scale;
}

int blocks_of(int value, int block) { return (value + block - 1) / block; }

}  // namespace

cudaError_t quantize_rows_cuda(const QuantizeRowsCudaCall& call, cudaStream_t stream) {
  const bool aligned = reinterpret_cast<std::uintptr_t>(call.x) % 16 == 0 && call.ldx % kGroup == 0 &&
                       reinterpret_cast<std::uintptr_t>(call.out) % 8 == 0;
  if (call.rows < 0 || call.width < kGroup || call.width % kGroup != 0 || call.ldx < call.width ||
      call.ld_scales < call.rows || !aligned)
    return cudaErrorInvalidValue;
  if (call.rows == 0) return cudaSuccess;
  const dim3 grid(static_cast<unsigned>(call.rows), static_cast<unsigned>(blocks_of(call.width / kGroup, kThreads)));
  return launch_early(quantize_rows_kernel, grid, kThreads, 0, stream, call);
}

cudaError_t quantize_weights_cuda(const QuantizeWeightsCudaCall& call, cudaStream_t stream) {
  const int row_blocks = blocks_of(call.n, kFp8Block);
  if (call.n < 1 || call.k < 1 || call.ld_out < call.k || row_blocks > kMostGridY) return cudaErrorInvalidValue;
  const dim3 grid(static_cast<unsigned>(blocks_of(call.k, kFp8Block)), static_cast<unsigned>(row_blocks));
  quantize_weights_kernel<<<grid, kThreads, 0, stream>>>(call);
  return cudaGetLastError();
}

}  // namespace pelagic
