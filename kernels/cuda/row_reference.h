// For tests: bf16 rows and their e4m3 form on the host, with row.cuh's bits.
#pragma once

#include <cuda_fp8.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "base/bfloat16.h"
#include "cuda/fp8_scale.h"
#include "cuda/random.h"

namespace pelagic {

struct Fp8Row {
  std::vector<std::uint8_t> data;
  std::vector<float> scales;
};

inline Fp8Row quantised(const std::vector<bfloat16_bits>& row) {
  Fp8Row out;
  for (std::size_t begin = 0; begin < row.size(); begin += kFp8Block) {
    const std::size_t end = std::min(row.size(), begin + kFp8Block);
    float largest = 0.0f;
    for (std::size_t i = begin; i < end; ++i) largest = std::max(largest, std::fabs(bf16_to_f32(row[i])));
    const Fp8Scale scale = fp8_scale(largest);
    for (std::size_t i = begin; i < end; ++i)
      out.data.push_back(__nv_cvt_float_to_fp8(bf16_to_f32(row[i]) * scale.inverse, __NV_SATFINITE, __NV_E4M3));
    out.scales.push_back(scale.scale);
  }
  return out;
}

inline std::vector<bfloat16_bits> random_bf16(std::uint64_t seed, std::size_t count, float size = 1.0f) {
  std::vector<bfloat16_bits> out(count);
  for (std::size_t i = 0; i < count; ++i) out[i] = f32_to_bf16(size * random_normal(seed, i));
  return out;
}

inline std::vector<float> random_f32(std::uint64_t seed, std::size_t count, float size = 1.0f) {
  std::vector<float> out(count);
  for (std::size_t i = 0; i < count; ++i) out[i] = size * random_normal(seed, i);
  return out;
}

inline std::vector<float> widened(const std::vector<bfloat16_bits>& row) {
  std::vector<float> out(row.size());
  std::transform(row.begin(), row.end(), out.begin(), bf16_to_f32);
  return out;
}

}  // namespace pelagic
