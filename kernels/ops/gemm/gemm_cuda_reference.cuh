// The dense GEMMs in float64: for tests and for the check before a timing.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "ops/gemm/gemm_cuda.h"

namespace pelagic::gemm_cuda {

__device__ inline double value(const float* data, std::int64_t at) { return data[at]; }
__device__ inline double value(const __nv_bfloat16* data, std::int64_t at) { return __bfloat162float(data[at]); }

// errors[0], errors[1]: the sums over every so many rows' and columns' outputs of (y - reference)^2 and of reference^2.
// A block for each of these rows and each GEMM of the batch.
template <typename W, typename Y>
__global__ void compare_kernel(GemmCudaShape s, GemmCudaCall c, int row_step, int column_step, double* errors) {
  const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * row_step;
  const int head = blockIdx.y;
  double error = 0, norm = 0;
  for (int n = threadIdx.x * column_step; n < s.n; n += blockDim.x * column_step) {
    double sum = 0;
    for (int k = 0; k < s.k; ++k)
      sum += value(static_cast<const __nv_bfloat16*>(c.x), row * c.ldx + head * c.x_batch + k) *
             value(static_cast<const W*>(c.w), (static_cast<std::int64_t>(head) * s.n + n) * s.k + k);
    const double difference = value(static_cast<const Y*>(c.y), row * c.ldy + head * c.y_batch + n) - sum;
    error += difference * difference;
    norm += sum * sum;
  }
  atomicAdd(errors, error);
  atomicAdd(errors + 1, norm);
}

}  // namespace pelagic::gemm_cuda
