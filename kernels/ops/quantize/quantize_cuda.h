// Rows and weights in e4m3 with float32 scales, as the grouped GEMM reads them. Maths: CUDA.md.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace pelagic {

// Activations: a scale for each row and 128 columns. For rows that no kernel before could quantise as it made them.
struct QuantizeRowsCudaCall {
  int rows;
  int width;  // a multiple of 8
  // Device memory; rows of x begin at a multiple of 16 bytes, out at a multiple of 8.
  const void* x;  // bf16 [rows, width]
  std::int64_t ldx;
  std::uint8_t* out;  // e4m3 [rows, width]
  float* scales;      // [ceil(width / 128), ld_scales]
  std::int64_t ld_scales;
};

// cudaErrorInvalidValue for shapes not named above.
cudaError_t quantize_rows_cuda(const QuantizeRowsCudaCall& call, cudaStream_t stream);

// Weights: a scale for each 128 x 128. Ragged edges have blocks of their own.
struct QuantizeWeightsCudaCall {
  int n;
  int k;
  // Device memory.
  const float* w;     // [n, k]
  std::uint8_t* out;  // e4m3 [n, k], ld_out apart; what lies between a row's k and ld_out is not written
  std::int64_t ld_out;
  float* scales;  // [ceil(n / 128), ceil(k / 128)]
};

// cudaErrorInvalidValue for shapes not named above.
cudaError_t quantize_weights_cuda(const QuantizeWeightsCudaCall& call, cudaStream_t stream);

}  // namespace pelagic
