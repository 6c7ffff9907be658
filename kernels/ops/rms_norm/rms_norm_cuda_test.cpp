// The CUDA norm: equal to the bit with the same order of sums on the host, near float64, and the row rule.
#include <bit>
#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "cuda/device_buffer.h"
#include "cuda/row_reference.h"
#include "cuda/test.h"
#include "ops/rms_norm/rms_norm_cuda.h"

namespace pelagic {
namespace {

constexpr float kEps = 1e-6f;
constexpr int kThreads = 256;  // CUDA.md

// CUDA.md's order: a thread's groups of eight columns, then lanes by halves, then warps in order.
float mean_of_squares(const std::vector<float>& x) {
  std::vector<float> lanes(kThreads, 0.0f);
  for (std::size_t begin = 0; begin < x.size(); begin += 8)
    for (std::size_t j = begin; j < begin + 8; ++j) {
      float& sum = lanes[begin / 8 % kThreads];
      sum = std::fma(x[j], x[j], sum);
    }
  float total = 0.0f;
  for (int warp = 0; warp < kThreads / 32; ++warp) {
    float* lane = lanes.data() + 32 * warp;
    for (int half = 16; half >= 1; half /= 2)
      for (int i = 0; i < half; ++i) lane[i] = lane[i] + lane[i + half];
    total = warp == 0 ? lane[0] : total + lane[0];
  }
  return total / static_cast<float>(x.size());
}

std::vector<bfloat16_bits> expected_row(const std::vector<float>& x, const std::vector<float>& weight) {
  const float scale = 1.0f / std::sqrt(mean_of_squares(x) + kEps);
  std::vector<bfloat16_bits> y;
  for (std::size_t i = 0; i < x.size(); ++i) y.push_back(f32_to_bf16(x[i] * scale * weight[i]));
  return y;
}

enum class Kind { f32, f32_delta_f32, f32_delta_bf16, bf16, bf16_in_place };
constexpr const char* kKinds[] = {"float32", "float32 + float32", "float32 + bf16", "bf16", "bf16 in place"};

// `first`: of the rows that the data are made of, so that a row can be run in other company.
void check(Kind kind, int width, int first, int rows) {
  const std::string what = std::string(kKinds[static_cast<int>(kind)]) + ", width " + std::to_string(width) +
                           ", rows " + std::to_string(first) + " to " + std::to_string(first + rows);
  const bool bf16 = kind == Kind::bf16 || kind == Kind::bf16_in_place;
  const bool delta = kind == Kind::f32_delta_f32 || kind == Kind::f32_delta_bf16;
  const std::int64_t ld = width + 8;
  const std::int64_t ld_scales = rows + 3;
  const int blocks = (width + kFp8Block - 1) / kFp8Block;
  const std::size_t elements = static_cast<std::size_t>(rows + 1) * ld;
  std::vector<float> x_f32(elements, std::nanf("")), delta_f32(elements, std::nanf(""));
  std::vector<bfloat16_bits> x_bf16(elements, 0xFFFF), delta_bf16(elements, 0xFFFF);
  std::vector<std::vector<float>> sums;
  for (int row = 0; row < rows; ++row) {
    const int source = first + row;
    // Small and large rows, and one of zeros.
    const float size = source % 7 == 3 ? 0.0f : source % 7 == 4 ? 1e-5f : source % 7 == 5 ? 300.0f : 1.0f;
    std::vector<float> sum;
    for (int i = 0; i < width; ++i) {
      const std::uint64_t index = static_cast<std::uint64_t>(source) * 8192 + i;
      const std::size_t at = static_cast<std::size_t>(row * ld + i);
      x_bf16[at] = f32_to_bf16(size * random_normal(1, index));
      x_f32[at] = size * random_normal(1, index);
      delta_bf16[at] = f32_to_bf16(size * random_normal(2, index));
      delta_f32[at] = size * random_normal(2, index);
      const float base = bf16 ? bf16_to_f32(x_bf16[at]) : x_f32[at];
      sum.push_back(kind == Kind::f32_delta_f32    ? base + delta_f32[at]
                    : kind == Kind::f32_delta_bf16 ? base + bf16_to_f32(delta_bf16[at])
                                                   : base);
    }
    sums.push_back(sum);
  }
  std::vector<float> weight = random_f32(3, static_cast<std::size_t>(width));
  const DeviceBuffer<float> d_weight(weight);
  const DeviceBuffer<float> d_delta_f32(delta_f32);
  const DeviceBuffer<bfloat16_bits> d_delta_bf16(delta_bf16);
  DeviceBuffer<bfloat16_bits> y(elements);
  DeviceBuffer<std::uint8_t> y_fp8(static_cast<std::size_t>(rows + 1) * width);
  DeviceBuffer<float> y_scales(static_cast<std::size_t>(blocks) * ld_scales);
  y.fill_bytes(0xFF);
  y_fp8.fill_bytes(0xFF);
  y_scales.fill_bytes(0xFF);
  const DeviceBuffer<float> d_x_f32(x_f32);
  const DeviceBuffer<bfloat16_bits> d_x_bf16(x_bf16);
  RmsNormCudaCall call = {};
  call.rows = rows;
  call.width = width;
  call.eps = kEps;
  call.x = bf16 ? static_cast<void*>(d_x_bf16.get()) : d_x_f32.get();
  call.x_type = bf16 ? RowType::bfloat16 : RowType::float32;
  call.ldx = ld;
  call.delta = kind == Kind::f32_delta_f32    ? static_cast<const void*>(d_delta_f32.get())
               : kind == Kind::f32_delta_bf16 ? d_delta_bf16.get()
                                              : nullptr;
  call.delta_type = kind == Kind::f32_delta_f32 ? RowType::float32 : RowType::bfloat16;
  call.ld_delta = ld;
  call.weight = d_weight.get();
  call.y = kind == Kind::bf16_in_place ? call.x : y.get();
  call.ldy = ld;
  call.y_fp8 = y_fp8.get();
  call.y_scales = y_scales.get();
  call.ld_y_scales = ld_scales;
  PELAGIC_CUDA(rms_norm_cuda(call, nullptr));  // not from a graph, which runs twice: it changes its input
  PELAGIC_CUDA(cudaDeviceSynchronize());

  const std::vector<bfloat16_bits> got = kind == Kind::bf16_in_place ? d_x_bf16.download() : y.download();
  const std::vector<std::uint8_t> got_fp8 = y_fp8.download();
  const std::vector<float> got_scales = y_scales.download();
  const std::vector<float> got_x = d_x_f32.download();
  int wrong = 0, wrong_fp8 = 0, wrong_scales = 0, wrong_x = 0, far = 0, touched = 0;
  for (int row = 0; row < rows; ++row) {
    const std::vector<bfloat16_bits> expected = expected_row(sums[row], weight);
    const Fp8Row expected_fp8 = quantised(expected);
    double squares = 0.0;
    for (const float v : sums[row]) squares += static_cast<double>(v) * v;
    const double scale = 1.0 / std::sqrt(squares / width + static_cast<double>(kEps));
    for (int i = 0; i < width; ++i) {
      const std::size_t at = static_cast<std::size_t>(row * ld + i);
      wrong += got[at] != expected[i];
      wrong_fp8 += got_fp8[static_cast<std::size_t>(row) * width + i] != expected_fp8.data[i];
      wrong_x += !bf16 && std::bit_cast<std::uint32_t>(got_x[at]) !=
                              std::bit_cast<std::uint32_t>(delta ? sums[row][i] : x_f32[at]);
      const double exact = sums[row][i] * scale * weight[i];
      far += !(std::fabs(bf16_to_f32(got[at]) - exact) <= 0.0040 * std::fabs(exact) + 1e-30);
    }
    for (int block = 0; block < blocks; ++block)
      wrong_scales += got_scales[static_cast<std::size_t>(block * ld_scales + row)] != expected_fp8.scales[block];
  }
  for (std::size_t i = 0; i < elements; ++i)
    touched +=
        (i / ld >= static_cast<std::size_t>(rows) || i % ld >= static_cast<std::size_t>(width)) && got[i] != 0xFFFF;
  for (std::size_t i = static_cast<std::size_t>(rows) * width; i < got_fp8.size(); ++i) touched += got_fp8[i] != 0xFF;
  for (std::size_t i = 0; i < got_scales.size(); ++i)
    touched += i % ld_scales >= static_cast<std::size_t>(rows) && got_scales[i] == got_scales[i];
  PELAGIC_EXPECT(wrong == 0, "%s: %d elements differ", what.c_str(), wrong);
  PELAGIC_EXPECT(wrong_fp8 == 0, "%s: %d e4m3 elements differ", what.c_str(), wrong_fp8);
  PELAGIC_EXPECT(wrong_scales == 0, "%s: %d scales differ", what.c_str(), wrong_scales);
  PELAGIC_EXPECT(wrong_x == 0, "%s: %d elements of x differ", what.c_str(), wrong_x);
  PELAGIC_EXPECT(far == 0, "%s: %d elements are far from float64", what.c_str(), far);
  PELAGIC_EXPECT(touched == 0, "%s: %d elements outside of the rows were written", what.c_str(), touched);
}

void bad_calls_are_refused() {
  RmsNormCudaCall call = {};
  call.width = 12;
  PELAGIC_EXPECT(rms_norm_cuda(call, nullptr) == cudaErrorInvalidValue, "width 12");
  call.width = 8200;
  PELAGIC_EXPECT(rms_norm_cuda(call, nullptr) == cudaErrorInvalidValue, "width 8200");
  call.width = 128;
  call.x_type = RowType::bfloat16;
  call.delta = reinterpret_cast<const void*>(16);
  PELAGIC_EXPECT(rms_norm_cuda(call, nullptr) == cudaErrorInvalidValue, "bf16 with delta");
}

}  // namespace
}  // namespace pelagic

// `rms_norm_cuda_test quick`: few rows, for compute-sanitizer.
int main(int argc, char** argv) {
  using namespace pelagic;
  const bool quick = test::asked_quick(argc, argv);
  return test::run("rms_norm_cuda", [quick] {
    for (const Kind kind : {Kind::f32, Kind::f32_delta_f32, Kind::f32_delta_bf16, Kind::bf16, Kind::bf16_in_place}) {
      for (const int width : {8, 136, 512, 1408, 1536, 2048, 2056, 5120, 7168, 8192}) {
        if (quick && width != 136 && width != 7168) continue;
        // The rows of the batch, alone, and in other places: each is compared with a reference that knows one row only.
        check(kind, width, 0, quick ? 9 : 37);
        check(kind, width, 0, 0);
        check(kind, width, 5, 1);
        check(kind, width, 3, 4);
      }
    }
    if (!quick) check(Kind::f32_delta_bf16, 7168, 0, 300);
    bad_calls_are_refused();
  });
}
