// Test data made on the GPU: a hash of seed and index, so that a value depends on nothing else.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include <cstddef>
#include <cstdint>

#include "cuda/check.h"

namespace pelagic {

// splitmix64 (Steele, Lea and Flood, 2014): its output function, applied to a counter.
__host__ __device__ inline std::uint64_t random_bits(std::uint64_t seed, std::uint64_t index) {
  std::uint64_t z = seed * 0xD1B54A32D192ED03ull + (index + 1) * 0x9E3779B97F4A7C15ull;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

// About normal with deviation 1, within +-3.5: the sum of four uniform numbers.
__host__ __device__ inline float random_normal(std::uint64_t seed, std::uint64_t index) {
  const std::uint64_t bits = random_bits(seed, index);
  const int sum = static_cast<int>(bits & 0xFFFF) + static_cast<int>(bits >> 16 & 0xFFFF) + static_cast<int>(bits >> 32 & 0xFFFF) +
                  static_cast<int>(bits >> 48);
  return static_cast<float>(sum - 2 * 65535) * (1.7320508f / 65536.0f);
}

__host__ __device__ inline float random_uniform(std::uint64_t seed, std::uint64_t index) {
  return static_cast<float>(random_bits(seed, index) >> 40) * (1.0f / 16777216.0f);
}

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
