// A block takes a row and keeps it in registers between the sum and the product. Built with -fmad=false.
#include <type_traits>

#include "cuda/dependents.cuh"
#include "cuda/row.cuh"
#include "ops/rms_norm/rms_norm_cuda.h"

namespace pelagic {
namespace {

constexpr int kThreads = 256;
constexpr int kMostGroups = 4;  // of a thread

struct NoDelta {};

// The same total in every thread: lanes by halves, then the warps in order.
__device__ float sum_of_block(float sum) {
  __shared__ float warps[kThreads / 32];
#pragma unroll
  for (int step = 16; step >= 1; step /= 2) sum = sum + __shfl_xor_sync(kWarp, sum, step);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
  __syncthreads();
  float total = warps[0];
#pragma unroll
  for (int w = 1; w < kThreads / 32; ++w) total = total + warps[w];
  return total;
}

template <typename X, typename Delta, int kGroups>
__global__ void __launch_bounds__(kThreads) rms_norm_kernel(const RmsNormCudaCall c) {
  constexpr bool kDelta = !std::is_same_v<Delta, NoDelta>;
  begin_early();
  const std::int64_t row = blockIdx.x;
  const int groups = c.width / kGroup;
  X* x = static_cast<X*>(c.x) + row * c.ldx;
  Group v[kGroups];
#pragma unroll
  for (int i = 0; i < kGroups; ++i) {
    const int g = threadIdx.x + i * kThreads;
    v[i] = g < groups ? load_group(x + g * kGroup) : Group{};
  }
  if constexpr (kDelta) {
    const Delta* delta = static_cast<const Delta*>(c.delta) + row * c.ld_delta;
    Group d[kGroups];
#pragma unroll
    for (int i = 0; i < kGroups; ++i) {
      const int g = threadIdx.x + i * kThreads;
      d[i] = g < groups ? load_group(delta + g * kGroup) : Group{};
    }
#pragma unroll
    for (int i = 0; i < kGroups; ++i) {
      const int g = threadIdx.x + i * kThreads;
#pragma unroll
      for (int j = 0; j < kGroup; ++j) v[i].v[j] = v[i].v[j] + d[i].v[j];
      if (g < groups) store_group(x + g * kGroup, v[i]);
    }
  }
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kGroups; ++i)
#pragma unroll
    for (int j = 0; j < kGroup; ++j) sum = __fmaf_rn(v[i].v[j], v[i].v[j], sum);
  const float mean = sum_of_block(sum) / static_cast<float>(c.width);
  const float scale = 1.0f / __fsqrt_rn(mean + c.eps);
  const Fp8Rows fp8 = {c.y_fp8, c.y_scales, c.ld_y_scales};
#pragma unroll
  for (int i = 0; i < kGroups; ++i) {
    const int g = threadIdx.x + i * kThreads;
    const bool valid = g < groups;
    const Group weight = valid ? load_group(c.weight + g * kGroup) : Group{};
#pragma unroll
    for (int j = 0; j < kGroup; ++j) v[i].v[j] = __fmul_rn(__fmul_rn(v[i].v[j], scale), weight.v[j]);
    const uint4 rounded = to_bf16(v[i]);
    if (c.y != nullptr && valid)
      *reinterpret_cast<uint4*>(static_cast<__nv_bfloat16*>(c.y) + row * c.ldy + g * kGroup) = rounded;
    if (c.y_fp8 != nullptr) store_fp8(fp8, row, c.width, g, valid, widen(rounded));
  }
}

template <typename X, typename Delta>
cudaError_t launch(const RmsNormCudaCall& call, cudaStream_t stream) {
  const int groups = (call.width / kGroup + kThreads - 1) / kThreads;
  return launch_early(groups <= 1   ? rms_norm_kernel<X, Delta, 1>
                      : groups <= 2 ? rms_norm_kernel<X, Delta, 2>
                                    : rms_norm_kernel<X, Delta, kMostGroups>,
                      static_cast<unsigned>(call.rows), kThreads, 0, stream, call);
}

}  // namespace

cudaError_t rms_norm_cuda(const RmsNormCudaCall& call, cudaStream_t stream) {
  const bool bf16 = call.x_type == RowType::bfloat16;
  if (call.rows < 0 || call.width < kGroup || call.width % kGroup != 0 ||
      call.width > kMostGroups * kThreads * kGroup || (call.delta != nullptr && bf16))
    return cudaErrorInvalidValue;
  if (!rows_aligned(call.x, call.ldx, row_type_bytes(call.x_type)) || !rows_aligned(call.weight, 0, 4) ||
      !rows_aligned(call.y, call.ldy, 2) || !rows_aligned(call.y_fp8, 0, 1) ||
      (call.delta != nullptr && !rows_aligned(call.delta, call.ld_delta, row_type_bytes(call.delta_type))))
    return cudaErrorInvalidValue;
  if (call.rows == 0) return cudaSuccess;
  if (bf16) return launch<__nv_bfloat16, NoDelta>(call, stream);
  if (call.delta == nullptr) return launch<float, NoDelta>(call, stream);
  return call.delta_type == RowType::bfloat16 ? launch<float, __nv_bfloat16>(call, stream)
                                              : launch<float, float>(call, stream);
}

}  // namespace pelagic
