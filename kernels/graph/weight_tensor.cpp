#include "graph/weight_tensor.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "base/bfloat16.h"
#include "base/float8.h"
#include "graph/error.h"

namespace pelagic {
namespace {

constexpr std::int64_t kScaleBlock = 128;
constexpr float kLargestScale = std::numeric_limits<float>::max() / 448;  // 448: the largest e4m3

std::int64_t scale_blocks(std::int64_t extent) { return (extent + kScaleBlock - 1) / kScaleBlock; }

// Element i of unaligned data.
template <class T>
T load(const std::byte* data, std::int64_t i) {
  T value;
  std::memcpy(&value, data + i * static_cast<std::int64_t>(sizeof(T)), sizeof(T));
  return value;
}

float f16_to_f32(std::uint16_t bits) {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16;
  const std::uint32_t magnitude = bits & 0x7FFFu;
  if (magnitude >= 0x7C00u) return std::bit_cast<float>(sign | 0x7F800000u | (magnitude & 0x3FFu) << 13);
  // Shifted into float32's fields the exponent is 112 too small; the product fixes that and normalises subnormals,
  // exactly.
  const float scaled = std::bit_cast<float>(magnitude << 13) * 0x1p112f;
  return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(scaled));
}

bool all_finite(const float* values, std::int64_t count) {
  bool finite = true;
  for (std::int64_t i = 0; i < count; ++i) {
    finite &= (std::bit_cast<std::uint32_t>(values[i]) & 0x7F800000u) != 0x7F800000u;
  }
  return finite;
}

// Pieces of one table of random numbers, each from a place that the seed says: billions of weights in seconds.
void random_row(std::uint64_t seed, float mean, std::int64_t columns, float* out) {
  constexpr std::size_t kNumbers = 1 << 16;
  constexpr std::int64_t kPiece = 512;
  static const std::vector<float> table = [] {
    std::vector<float> numbers(kNumbers + kPiece);
    std::mt19937 engine(1);
    // A sum of twelve: about normal, and the same on every machine, which std::normal_distribution is not.
    for (float& number : numbers) {
      double sum = -6;
      for (int i = 0; i < 12; ++i) sum += static_cast<double>(engine()) / 4294967296.0;
      number = static_cast<float>(0.02 * sum);
    }
    return numbers;
  }();
  for (std::int64_t first = 0; first < columns; first += kPiece) {
    std::uint64_t mixed = (seed ^ seed >> 29) * 0xBF58476D1CE4E5B9u + static_cast<std::uint64_t>(first);
    mixed = (mixed ^ mixed >> 32) * 0x94D049BB133111EBu;
    const float* from = table.data() + (mixed >> 40) % kNumbers;
    const std::int64_t count = std::min(kPiece, columns - first);
    for (std::int64_t i = 0; i < count; ++i) out[first + i] = mean + from[i];
  }
}

}  // namespace

WeightTensor::WeightTensor(const Tensor& tensor, const Tensor* scale) : tensor_(&tensor), scale_(scale) {
  const std::string where = tensor.file + ": " + tensor.name;
  rows_ = tensor.shape.size() == 2 ? tensor.shape[0] : 1;
  columns_ = tensor.shape.back();
  if (tensor.dtype == DType::other || tensor.dtype == DType::i32) {
    throw Error(ErrorCode::checkpoint,
                where + " is " + tensor.dtype_name + "; supported are F32, BF16, F16 and F8_E4M3");
  }
  if (tensor.dtype != DType::f8_e4m3) return;
  const std::vector<std::int64_t> wanted = {scale_blocks(rows_), scale_blocks(columns_)};
  if (scale == nullptr)
    throw Error(ErrorCode::checkpoint, where + "_scale_inv is missing: F8_E4M3 weights need their scales");
  if (scale->dtype != DType::f32 || scale->shape != wanted) {
    throw Error(ErrorCode::checkpoint, scale->file + ": " + scale->name + " is " + scale->dtype_name + " " +
                                           shape_text(scale->shape) + ", expected F32 " + shape_text(wanted));
  }
}

WeightTensor WeightTensor::random(const std::vector<std::int64_t>& shape, std::uint64_t seed) {
  WeightTensor tensor;
  tensor.rows_ = shape.size() == 2 ? shape[0] : 1;
  tensor.columns_ = shape.back();
  tensor.random_mean_ = shape.size() == 2 ? 0 : 1;
  tensor.random_seed_ = seed;
  return tensor;
}

void WeightTensor::read_row(std::int64_t row, float* out) const {
  if (tensor_ == nullptr) {
    random_row(random_seed_ + static_cast<std::uint64_t>(row) * 0x9E3779B97F4A7C15u, random_mean_, columns_, out);
    return;
  }
  const std::int64_t first = row * columns_;
  const std::byte* data = tensor_->data.data();
  switch (tensor_->dtype) {
    case DType::f32:
      std::memcpy(out, data + first * 4, static_cast<std::size_t>(columns_) * 4);
      break;
    case DType::bf16:
      for (std::int64_t i = 0; i < columns_; ++i) out[i] = bf16_to_f32(load<std::uint16_t>(data, first + i));
      break;
    case DType::f16:
      for (std::int64_t i = 0; i < columns_; ++i) out[i] = f16_to_f32(load<std::uint16_t>(data, first + i));
      break;
    case DType::f8_e4m3:
      for (std::int64_t block = 0; block < scale_blocks(columns_); ++block) {
        const float scale = load<float>(scale_->data.data(), row / kScaleBlock * scale_blocks(columns_) + block);
        const std::int64_t end = std::min(columns_, (block + 1) * kScaleBlock);
        for (std::int64_t i = block * kScaleBlock; i < end; ++i) {
          out[i] = kF8e4m3ToF32[load<std::uint8_t>(data, first + i)] * scale;
        }
      }
      break;
    case DType::i32:
    case DType::other:
      break;  // refused by the constructor
  }
  if (!all_finite(out, columns_)) refuse_row(row);
}

void WeightTensor::read_fp8_row(std::int64_t row, std::uint8_t* codes, float* scales) const {
  const std::int64_t blocks = scale_blocks(columns_);
  std::memcpy(codes, tensor_->data.data() + row * columns_, static_cast<std::size_t>(columns_));
  std::memcpy(scales, scale_->data.data() + row / kScaleBlock * blocks * static_cast<std::int64_t>(sizeof(float)),
              static_cast<std::size_t>(blocks) * sizeof(float));
  const bool numbers = std::none_of(codes, codes + columns_, [](std::uint8_t code) { return (code & 0x7F) == 0x7F; });
  // A scale that is finite may still make products that are not.
  const bool finite =
      std::all_of(scales, scales + blocks, [](float scale) { return std::abs(scale) <= kLargestScale; });
  if (!numbers || !finite) refuse_row(row);
}

void WeightTensor::refuse_row(std::int64_t row) const {
  throw Error(ErrorCode::checkpoint, tensor_->file + ": " + tensor_->name + " holds a NaN or infinity in row " +
                                         std::to_string(row) + ": the file is damaged, copy it again");
}

std::uint64_t WeightTensor::bytes() const {
  if (tensor_ == nullptr) return static_cast<std::uint64_t>(rows_ * columns_) * sizeof(bfloat16_bits);
  return tensor_->data.size() + (scale_ != nullptr ? scale_->data.size() : 0);
}

}  // namespace pelagic
