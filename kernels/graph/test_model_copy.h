// For tests: a model folder's copy whose projections and MLPs are float32, or e4m3 with a scale for each 128 x 128,
// quantised as the CUDA backend quantises at load.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "base/float8.h"
#include "graph/safetensors.h"
#include "graph/test_checkpoint.h"
#include "graph/weight_tensor.h"

namespace pelagic::test {

// To nearest, ties to the even code, saturating.
inline std::uint8_t e4m3_code(float value) {
  constexpr int kLargest = 0x7E;
  const float magnitude = std::fabs(value);
  int above = 0;
  while (above < kLargest && kF8e4m3ToF32[static_cast<std::size_t>(above)] < magnitude) ++above;
  int code = above;
  if (above > 0) {
    const float up = kF8e4m3ToF32[static_cast<std::size_t>(above)] - magnitude;
    const float down = magnitude - kF8e4m3ToF32[static_cast<std::size_t>(above - 1)];
    if (down < up || (down == up && above % 2 == 1)) code = above - 1;
  }
  return static_cast<std::uint8_t>(code | (std::signbit(value) ? 0x80 : 0));
}

inline void write_copy(const std::filesystem::path& from, const std::filesystem::path& to, bool fp8) {
  constexpr std::int64_t kBlock = 128;
  const std::string scale_suffix = "_scale_inv";
  const Checkpoint checkpoint(from);
  const auto is_projection = [](const std::string& name) {
    for (const char* part : {"gate_proj.weight", "up_proj.weight", "down_proj.weight", "q_proj.weight",
                             "q_b_proj.weight", "o_proj.weight"})
      if (name.find(part) != std::string::npos) return true;
    return false;
  };
  TestTensors tensors;
  for (const Tensor* tensor : checkpoint.tensors()) {
    TestTensor copy = {tensor->dtype_name, {}, {}};
    for (const std::int64_t extent : tensor->shape) copy.shape.push_back(static_cast<int>(extent));
    if (!is_projection(tensor->name)) {
      copy.bytes.assign(reinterpret_cast<const char*>(tensor->data.data()), tensor->data.size());
      tensors[tensor->name] = copy;
      continue;
    }
    if (tensor->name.ends_with(scale_suffix)) continue;
    const WeightTensor weights(
        *tensor, tensor->dtype == DType::f8_e4m3 ? checkpoint.find(tensor->name + scale_suffix) : nullptr);
    const std::int64_t n = weights.rows(), k = weights.columns();
    const std::int64_t row_blocks = (n + kBlock - 1) / kBlock, blocks = (k + kBlock - 1) / kBlock;
    std::vector<float> values(static_cast<std::size_t>(n * k)), scales;
    for (std::int64_t row = 0; row < n; ++row) weights.read_row(row, values.data() + row * k);
    if (!fp8) {
      tensors[tensor->name] = f32_tensor(copy.shape, values);
      continue;
    }
    copy.dtype = "F8_E4M3";
    copy.bytes.resize(values.size());
    for (std::int64_t row_block = 0; row_block < row_blocks; ++row_block) {
      for (std::int64_t block = 0; block < blocks; ++block) {
        float largest = 1e-30f;
        const auto each = [&](const auto& visit) {
          for (std::int64_t row = row_block * kBlock; row < std::min(n, (row_block + 1) * kBlock); ++row)
            for (std::int64_t i = block * kBlock; i < std::min(k, (block + 1) * kBlock); ++i)
              visit(static_cast<std::size_t>(row * k + i));
        };
        each([&](std::size_t at) { largest = std::max(largest, std::fabs(values[at])); });
        const float inverse = 448.0f / largest;
        scales.push_back(largest / 448.0f);
        each([&](std::size_t at) { copy.bytes[at] = static_cast<char>(e4m3_code(values[at] * inverse)); });
      }
    }
    tensors[tensor->name] = copy;
    tensors[tensor->name + scale_suffix] = f32_tensor({static_cast<int>(row_blocks), static_cast<int>(blocks)}, scales);
  }
  write_checkpoint(to, tensors, read_small_file(from / "config.json", 1 << 20));
}

}  // namespace pelagic::test
