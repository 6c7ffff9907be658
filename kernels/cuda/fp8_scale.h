// The scales of e4m3 numbers (spec/fp8.md section 2), on the host and on the GPU: of 128 columns of an activation row,
// and of 128 x 128 weights.
#pragma once

#include <cuda_runtime_api.h>

namespace pelagic {

inline constexpr int kFp8Block = 128;  // columns that share a scale

struct Fp8Scale {
  float scale;    // what the GEMM multiplies by
  float inverse;  // what the numbers are multiplied by before they are rounded
};

// largest: of the magnitudes. Zeros must not divide by zero, hence the bound.
__host__ __device__ inline Fp8Scale fp8_scale(float largest) {
  const float bounded = largest > 1e-4f ? largest : 1e-4f;
  return {bounded / 448.0f, 448.0f / bounded};
}

// Weights: any size keeps its bits, since they are read once and not as they come.
__host__ __device__ inline Fp8Scale fp8_weight_scale(float largest) {
  const float bounded = largest > 1e-30f ? largest : 1e-30f;
  return {bounded / 448.0f, 448.0f / bounded};
}

}  // namespace pelagic
