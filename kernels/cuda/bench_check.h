// A sample of an op's result against float64 or the op's definition, for Bench::check.
#pragma once

#include <cuda_fp8.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "cuda/fp8_scale.h"
#include "cuda/random.h"

namespace pelagic {

struct BenchCheck {
  std::size_t looked_at = 0, wrong = 0;

  void expect(bool right) {
    ++looked_at;
    wrong += right ? 0 : 1;
  }
  // NaN is near nothing.
  void near(double got, double exact, double tolerance) { expect(std::fabs(got - exact) <= tolerance); }
  // float32 sums and products of terms of this size, rounded to bf16 at last.
  void near_bf16(double got, double exact, double terms = 0) {
    near(got, exact, 0.004 * std::fabs(exact) + 1e-6 * terms + 1e-30);
  }
  // A row in e4m3, each 128 numbers times their scale: the largest becomes 448.
  void near_fp8(const std::vector<std::uint8_t>& got, const std::vector<float>& scales,
                const std::vector<double>& exact) {
    for (std::size_t begin = 0; begin < exact.size(); begin += kFp8Block) {
      const std::size_t end = std::min(exact.size(), begin + kFp8Block);
      double largest = 0;
      for (std::size_t i = begin; i < end; ++i) largest = std::max(largest, std::fabs(exact[i]));
      const double scale = scales[begin / kFp8Block];
      near(scale, std::max(largest, 1e-4) / 448, 0.004 * scale);
      for (std::size_t i = begin; i < end; ++i) {
        __nv_fp8_e4m3 number;
        number.__x = got[i];
        near(static_cast<double>(static_cast<float>(number)) * scale, exact[i],
             0.07 * std::fabs(exact[i]) + scale * 0x1p-9);
      }
    }
  }
};

// The first, the last and some between.
inline std::vector<int> sampled_rows(int rows) {
  std::vector<int> sample = {0, rows - 1};
  for (int i = 0; i < 6; ++i) sample.push_back(static_cast<int>(random_bits(71, i) % rows));
  return sample;
}

}  // namespace pelagic
