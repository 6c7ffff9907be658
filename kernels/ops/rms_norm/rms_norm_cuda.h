// x = x + delta; y = x / sqrt(mean(x^2) + eps) * weight on the GPU, y as bf16, as e4m3 with scales, or both. Order of
// the sum: CUDA.md.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/row_type.h"

namespace pelagic {

struct RmsNormCudaCall {
  int rows;
  int width;  // a multiple of 8, at most 8,192
  float eps;
  // Device memory; all rows begin at a multiple of 16 bytes.
  void* x;  // [rows, width]; written only where delta is given, and then float32: the residual stream
  RowType x_type;
  std::int64_t ldx;
  const void* delta;  // [rows, width] or null
  RowType delta_type;
  std::int64_t ld_delta;
  const float* weight;  // [width]
  void* y;              // bf16 [rows, width] or null; may be x where x is bf16
  std::int64_t ldy;
  std::uint8_t* y_fp8;  // e4m3 [rows, width] or null: the bf16 numbers, rounded again
  float* y_scales;      // [ceil(width / 128), ld_y_scales], as the grouped GEMM reads them
  std::int64_t ld_y_scales;
};

// cudaErrorInvalidValue for shapes and types not named above.
cudaError_t rms_norm_cuda(const RmsNormCudaCall& call, cudaStream_t stream);

}  // namespace pelagic
