// One tensor of a checkpoint, or a random one, read row by row as float32.
#pragma once

#include <cstdint>
#include <vector>

#include "graph/safetensors.h"

namespace pelagic {

// A tensor of F32, BF16, F16, or F8_E4M3 with a scale for every 128 x 128 block:
//   W[i, j] = fp8[i, j] * scale[i / 128, j / 128], in float32. Edge blocks may be ragged.
// Refers to the tensors, whose file must stay mapped.
class WeightTensor {
 public:
  WeightTensor() = default;
  // scale: null except for F8_E4M3. Throws Error(checkpoint) where dtype or the scale's shape is wrong. shape: [rows,
  // columns] or [columns].
  WeightTensor(const Tensor& tensor, const Tensor* scale);
  // No checkpoint's: normal numbers of deviation 0.02, around 1 in a vector (a norm's weights). The same for a seed.
  static WeightTensor random(const std::vector<std::int64_t>& shape, std::uint64_t seed);

  std::int64_t rows() const { return rows_; }
  std::int64_t columns() const { return columns_; }
  // out: [columns()]. Throws Error(checkpoint) if the row holds a NaN or an infinity: the file is damaged.
  void read_row(std::int64_t row, float* out) const;
  // F8_E4M3 only: the row's codes [columns()] and its scales [ceil(columns() / 128)], as they are. Throws the same.
  bool is_fp8() const { return scale_ != nullptr; }
  void read_fp8_row(std::int64_t row, std::uint8_t* codes, float* scales) const;
  // Bytes in the file, scales included.
  std::uint64_t bytes() const;

 private:
  [[noreturn]] void refuse_row(std::int64_t row) const;

  const Tensor* tensor_ = nullptr;
  const Tensor* scale_ = nullptr;
  std::int64_t rows_ = 0;
  std::int64_t columns_ = 0;
  float random_mean_ = 0;
  std::uint64_t random_seed_ = 0;
};

}  // namespace pelagic
