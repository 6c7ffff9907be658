// Rows and weights in e4m3: equal to the bit with the host's, nothing written beside them, and the row rule.
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "cuda/device_buffer.h"
#include "cuda/row_reference.h"
#include "cuda/test.h"
#include "ops/quantize/quantize_cuda.h"

namespace pelagic {
namespace {

// `first`: of the rows that the data are made of, so that a row can be run in other company.
void check_rows(int width, int first, int rows) {
  const std::string what =
      "width " + std::to_string(width) + ", rows " + std::to_string(first) + " to " + std::to_string(first + rows);
  const std::int64_t ld = width + 16, ld_scales = rows + 3;
  const int blocks = (width + kFp8Block - 1) / kFp8Block;
  std::vector<bfloat16_bits> x(static_cast<std::size_t>(rows + 1) * ld, 0xFFFF);
  std::vector<std::vector<bfloat16_bits>> source;
  for (int row = 0; row < rows; ++row) {
    const int id = first + row;
    const float size = id % 7 == 3 ? 0.0f : id % 7 == 4 ? 1e-6f : id % 7 == 5 ? 300.0f : 1.0f;
    source.push_back(random_bf16(static_cast<std::uint64_t>(id), static_cast<std::size_t>(width), size));
    std::copy(source.back().begin(), source.back().end(), x.begin() + static_cast<std::ptrdiff_t>(row * ld));
  }
  const DeviceBuffer<bfloat16_bits> d_x(x);
  DeviceBuffer<std::uint8_t> out(static_cast<std::size_t>(rows + 1) * width);
  DeviceBuffer<float> scales(static_cast<std::size_t>(blocks) * ld_scales);
  out.fill_bytes(0xFF);
  scales.fill_bytes(0xFF);
  test::run_from_graph([&](cudaStream_t stream) {
    PELAGIC_CUDA(quantize_rows_cuda({.rows = rows,
                                     .width = width,
                                     .x = d_x.get(),
                                     .ldx = ld,
                                     .out = out.get(),
                                     .scales = scales.get(),
                                     .ld_scales = ld_scales},
                                    stream));
  });
  const std::vector<std::uint8_t> got = out.download();
  const std::vector<float> got_scales = scales.download();
  int wrong = 0, touched = 0;
  for (int row = 0; row < rows; ++row) {
    const Fp8Row expected = quantised(source[static_cast<std::size_t>(row)]);
    for (int i = 0; i < width; ++i)
      wrong += got[static_cast<std::size_t>(row) * width + i] != expected.data[static_cast<std::size_t>(i)];
    for (int block = 0; block < blocks; ++block)
      wrong += got_scales[static_cast<std::size_t>(block * ld_scales + row)] !=
               expected.scales[static_cast<std::size_t>(block)];
  }
  for (std::size_t i = static_cast<std::size_t>(rows) * width; i < got.size(); ++i) touched += got[i] != 0xFF;
  for (std::size_t i = 0; i < got_scales.size(); ++i)
    touched += i % ld_scales >= static_cast<std::size_t>(rows) && got_scales[i] == got_scales[i];
  PELAGIC_EXPECT(wrong == 0, "%s: %d numbers differ", what.c_str(), wrong);
  PELAGIC_EXPECT(touched == 0, "%s: %d numbers outside of the rows were written", what.c_str(), touched);
}

void check_weights(int n, int k, int ld) {
  const std::string what = "weights " + std::to_string(n) + " x " + std::to_string(k);
  std::vector<float> w = random_f32(5, static_cast<std::size_t>(n) * k);
  const int row_blocks = (n + kFp8Block - 1) / kFp8Block, blocks = (k + kFp8Block - 1) / kFp8Block;
  for (std::size_t i = 0; i < w.size(); ++i) {
    // Blocks of several sizes, and one of zeros.
    const int block = static_cast<int>(i / k) / kFp8Block + static_cast<int>(i % k) / kFp8Block;
    w[i] *= block % 4 == 1 ? 0.0f : block % 4 == 2 ? 1e-7f : block % 4 == 3 ? 1e4f : 0.02f;
  }
  const DeviceBuffer<float> d_w(w);
  DeviceBuffer<std::uint8_t> out(static_cast<std::size_t>(n + 1) * ld);
  DeviceBuffer<float> scales(static_cast<std::size_t>(row_blocks) * blocks);
  out.fill_bytes(0xFF);
  scales.fill_bytes(0xFF);
  PELAGIC_CUDA(quantize_weights_cuda(
      {.n = n, .k = k, .w = d_w.get(), .out = out.get(), .ld_out = ld, .scales = scales.get()}, nullptr));
  PELAGIC_CUDA(cudaDeviceSynchronize());
  const std::vector<std::uint8_t> got = out.download();
  const std::vector<float> got_scales = scales.download();
  int wrong = 0, far = 0, touched = 0;
  for (int row_block = 0; row_block < row_blocks; ++row_block) {
    for (int block = 0; block < blocks; ++block) {
      float largest = 0.0f;
      const auto each = [&](const auto& visit) {
        for (int row = row_block * kFp8Block; row < std::min(n, (row_block + 1) * kFp8Block); ++row)
          for (int i = block * kFp8Block; i < std::min(k, (block + 1) * kFp8Block); ++i) visit(row, i);
      };
      each([&](int row, int i) { largest = std::max(largest, std::fabs(w[static_cast<std::size_t>(row) * k + i])); });
      const Fp8Scale scale = fp8_weight_scale(largest);
      wrong += got_scales[static_cast<std::size_t>(row_block) * blocks + block] != scale.scale;
      each([&](int row, int i) {
        const float value = w[static_cast<std::size_t>(row) * k + i];
        const std::uint8_t code = got[static_cast<std::size_t>(row) * ld + i];
        wrong += code != __nv_cvt_float_to_fp8(value * scale.inverse, __NV_SATFINITE, __NV_E4M3);
        __nv_fp8_e4m3 number;
        number.__x = code;
        // Half a step of three mantissa bits, or of the smallest numbers.
        far += !(std::fabs(static_cast<double>(float(number)) * scale.scale - value) <=
                 std::fabs(value) / 15.9 + largest / 448 / 1000);
      });
    }
  }
  for (std::size_t i = 0; i < got.size(); ++i)
    touched += (i / ld >= static_cast<std::size_t>(n) || i % ld >= static_cast<std::size_t>(k)) && got[i] != 0xFF;
  PELAGIC_EXPECT(wrong == 0, "%s: %d numbers differ", what.c_str(), wrong);
  PELAGIC_EXPECT(far == 0, "%s: %d numbers are far from what they stand for", what.c_str(), far);
  PELAGIC_EXPECT(touched == 0, "%s: %d bytes beside the weights were written", what.c_str(), touched);
}

void bad_calls_are_refused() {
  QuantizeRowsCudaCall rows = {};
  rows.rows = 1;
  rows.width = 12;
  rows.ldx = 16;
  rows.ld_scales = 1;
  PELAGIC_EXPECT(quantize_rows_cuda(rows, nullptr) == cudaErrorInvalidValue, "width 12");
  rows.width = 16;
  rows.ld_scales = 0;
  PELAGIC_EXPECT(quantize_rows_cuda(rows, nullptr) == cudaErrorInvalidValue, "ld_scales 0");
  QuantizeWeightsCudaCall weights = {};
  weights.n = 1;
  weights.k = 16;
  PELAGIC_EXPECT(quantize_weights_cuda(weights, nullptr) == cudaErrorInvalidValue, "ld_out 0");
}

}  // namespace
}  // namespace pelagic

// `quantize_cuda_test quick`: few shapes, for compute-sanitizer.
int main(int argc, char** argv) {
  using namespace pelagic;
  const bool quick = test::asked_quick(argc, argv);
  return test::run("quantize_cuda", [quick] {
    for (const int width : {8, 136, 512, 2048, 2056, 16384}) {
      if (quick && width != 136 && width != 2056) continue;
      check_rows(width, 0, quick ? 9 : 37);
      check_rows(width, 0, 0);
      check_rows(width, 5, 1);
      check_rows(width, 3, 4);
    }
    check_weights(128, 128, 128);
    check_weights(200, 304, 304);
    check_weights(48, 48, 128);
    if (!quick) check_weights(1024, 2048, 2048);
    bad_calls_are_refused();
  });
}
