// Random numbers for tests and benches, on the host and on the GPU: a hash of seed and index, so that a value depends
// on nothing else.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

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
  const int sum = static_cast<int>(bits & 0xFFFF) + static_cast<int>(bits >> 16 & 0xFFFF) +
                  static_cast<int>(bits >> 32 & 0xFFFF) + static_cast<int>(bits >> 48);
  return static_cast<float>(sum - 2 * 65535) * (1.7320508f / 65536.0f);
}

__host__ __device__ inline float random_uniform(std::uint64_t seed, std::uint64_t index) {
  return static_cast<float>(random_bits(seed, index) >> 40) * (1.0f / 16777216.0f);
}

}  // namespace pelagic
