// Test data made on the GPU.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include <cstddef>
#include <cstdint>

#include "cuda/check.h"
#include "cuda/random.h"

namespace pelagic {

// What quantised data looks like: the largest of 128 near 448.
__host__ __device__ inline void random_value(std::uint64_t seed, std::uint64_t index, __nv_fp8_e4m3& out) {
  out = __nv_fp8_e4m3(128.0f * random_normal(seed, index));
}
__host__ __device__ inline void random_value(std::uint64_t seed, std::uint64_t index, __nv_bfloat16& out) {
  out = __float2bfloat16_rn(random_normal(seed, index));
}
__host__ __device__ inline void random_value(std::uint64_t seed, std::uint64_t index, float& out) {
  out = 0.5f + random_uniform(seed, index);
}
__host__ __device__ inline void random_value(std::uint64_t seed, std::uint64_t index, unsigned& out) {
  out = static_cast<unsigned>(random_bits(seed, index));
}

template <typename T>
__global__ void fill_random_kernel(T* data, std::size_t count, std::uint64_t seed) {
  const std::size_t step = static_cast<std::size_t>(gridDim.x) * blockDim.x;
  for (std::size_t i = static_cast<std::size_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step)
    random_value(seed, i, data[i]);
}

template <typename T>
void fill_random(T* data, std::size_t count, std::uint64_t seed, cudaStream_t stream) {
  fill_random_kernel<<<2048, 256, 0, stream>>>(data, count, seed);
  PELAGIC_CUDA(cudaGetLastError());
}

}  // namespace pelagic
