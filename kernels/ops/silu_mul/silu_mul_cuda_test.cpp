// The CUDA SwiGLU against silu_mul_ref.cpp: equal to the bit after rounding; rows that do not exist stay as they are.
#include <string>
#include <string_view>
#include <vector>

#include "cuda/device_buffer.h"
#include "cuda/row_reference.h"
#include "cuda/test.h"
#include "ops/gemm/gemm.h"
#include "ops/silu_mul/silu_mul.h"
#include "ops/silu_mul/silu_mul_cuda.h"

namespace pelagic {
namespace {

// One row by the CPU op, whose input is in panels of 32 gate and 32 up columns.
std::vector<bfloat16_bits> expected_row(const std::vector<float>& gate_up, int width) {
  const int pairs = (width + kPanelColumns - 1) / kPanelColumns;
  std::vector<float> panels(static_cast<std::size_t>(pairs) * 2 * kPanelColumns, 0.0f);
  for (int i = 0; i < width; ++i) {
    const int at = i / kPanelColumns * 2 * kPanelColumns + i % kPanelColumns;
    panels[at] = gate_up[i];
    panels[at + kPanelColumns] = gate_up[width + i];
  }
  std::vector<float> out(width);
  scalar::silu_mul({.gate_up = panels.data(),
                    .ld_gate_up = static_cast<std::int64_t>(panels.size()),
                    .out = out.data(),
                    .ld_out = width,
                    .width = width,
                    .rows = 1},
                   0, pairs);
  std::vector<bfloat16_bits> rounded;
  for (const float v : out) rounded.push_back(f32_to_bf16(v));
  return rounded;
}

void check(const char* name, int width, int rows, const std::vector<std::int32_t>& counts, bool all, int first) {
  const std::string what = std::string(name) + ", width " + std::to_string(width) + ", " + std::to_string(rows) +
                           " rows from " + std::to_string(first);
  const int groups = static_cast<int>(counts.size());
  const int total = groups * rows;
  const int blocks = (width + kFp8Block - 1) / kFp8Block;
  const std::int64_t ld_scales = total + 1;
  std::vector<bfloat16_bits> gate_up(static_cast<std::size_t>(total + 1) * 2 * width, 0xFFFF);
  std::vector<bool> exists(static_cast<std::size_t>(total), false);
  int next = first;  // the data of a row hang on how many came before it, not on its place
  std::vector<int> source(static_cast<std::size_t>(total));
  for (int group = 0; group < groups; ++group)
    for (int r = 0; r < std::min(counts[group], rows); ++r) {
      const int row = group * rows + r;
      exists[row] = true;
      source[row] = next++;
      for (int i = 0; i < 2 * width; ++i) {
        // Gates far out as well: exp overflows to infinity below -88.
        const float size = i < width && source[row] % 5 == 2 ? 100.0f : source[row] % 5 == 3 ? 0.0f : 3.0f;
        gate_up[static_cast<std::size_t>(row) * 2 * width + i] =
            f32_to_bf16(size * random_normal(5, static_cast<std::uint64_t>(source[row]) * 8192 + i));
      }
    }
  const DeviceBuffer<bfloat16_bits> d_gate_up(gate_up);
  const DeviceBuffer<std::int32_t> d_counts(counts);
  DeviceBuffer<bfloat16_bits> out(static_cast<std::size_t>(total + 1) * width);
  DeviceBuffer<std::uint8_t> out_fp8(static_cast<std::size_t>(total + 1) * width);
  DeviceBuffer<float> out_scales(static_cast<std::size_t>(blocks) * ld_scales);
  out.fill_bytes(0xFF);
  out_fp8.fill_bytes(0xFF);
  out_scales.fill_bytes(0xFF);
  const SiluMulCudaCall call = {.width = width,
                                .groups = groups,
                                .rows = rows,
                                .counts = all ? nullptr : d_counts.get(),
                                .gate_up = d_gate_up.get(),
                                .out = out.get(),
                                .out_fp8 = out_fp8.get(),
                                .out_scales = out_scales.get(),
                                .ld_out_scales = ld_scales};
  test::run_from_graph([&](cudaStream_t stream) { PELAGIC_CUDA(silu_mul_cuda(call, stream)); });
  const std::vector<bfloat16_bits> got = out.download();
  const std::vector<std::uint8_t> got_fp8 = out_fp8.download();
  const std::vector<float> got_scales = out_scales.download();
  int wrong = 0, wrong_fp8 = 0, wrong_scales = 0, touched = 0;
  for (int row = 0; row <= total; ++row) {
    const std::size_t begin = static_cast<std::size_t>(row) * width;
    if (row == total || !exists[row]) {
      for (int i = 0; i < width; ++i) touched += got[begin + i] != 0xFFFF || got_fp8[begin + i] != 0xFF;
      for (int block = 0; block < blocks; ++block) {
        const float scale = got_scales[static_cast<std::size_t>(block * ld_scales + row)];
        touched += scale == scale;
      }
      continue;
    }
    std::vector<float> in;
    for (int i = 0; i < 2 * width; ++i) in.push_back(bf16_to_f32(gate_up[2 * begin + i]));
    const std::vector<bfloat16_bits> expected = expected_row(in, width);
    const Fp8Row fp8 = quantised(expected);
    for (int i = 0; i < width; ++i) {
      wrong += got[begin + i] != expected[i];
      wrong_fp8 += got_fp8[begin + i] != fp8.data[i];
    }
    for (int block = 0; block < blocks; ++block)
      wrong_scales += got_scales[static_cast<std::size_t>(block * ld_scales + row)] != fp8.scales[block];
  }
  PELAGIC_EXPECT(wrong == 0, "%s: %d elements differ", what.c_str(), wrong);
  PELAGIC_EXPECT(wrong_fp8 == 0, "%s: %d e4m3 elements differ", what.c_str(), wrong_fp8);
  PELAGIC_EXPECT(wrong_scales == 0, "%s: %d scales differ", what.c_str(), wrong_scales);
  PELAGIC_EXPECT(touched == 0, "%s: %d elements of rows that do not exist were written", what.c_str(), touched);
}

void one_output_alone() {
  constexpr int kWidth = 256;
  const DeviceBuffer<bfloat16_bits> gate_up(random_bf16(6, 2 * kWidth));
  DeviceBuffer<bfloat16_bits> out(kWidth);
  DeviceBuffer<std::uint8_t> out_fp8(kWidth);
  DeviceBuffer<float> scales(2);
  SiluMulCudaCall call = {};
  call.width = kWidth;
  call.groups = 1;
  call.rows = 1;
  call.gate_up = gate_up.get();
  call.out = out.get();
  PELAGIC_CUDA(silu_mul_cuda(call, nullptr));
  call.out = nullptr;
  call.out_fp8 = out_fp8.get();
  call.out_scales = scales.get();
  call.ld_out_scales = 1;
  PELAGIC_CUDA(silu_mul_cuda(call, nullptr));
  const Fp8Row expected = quantised(out.download());
  PELAGIC_EXPECT(out_fp8.download() == expected.data && scales.download() == expected.scales, "fp8 alone differs");
  call.width = 12;
  PELAGIC_EXPECT(silu_mul_cuda(call, nullptr) == cudaErrorInvalidValue, "width 12");
}

}  // namespace
}  // namespace pelagic

// `silu_mul_cuda_test quick`: few rows, for compute-sanitizer.
int main(int argc, char** argv) {
  using namespace pelagic;
  const bool quick = test::asked_quick(argc, argv);
  return test::run("silu_mul_cuda", [quick] {
    for (const int width : {8, 136, 512, 1408, 2048, 2056}) {
      if (quick && width != 136 && width != 2048) continue;
      check("all", width, 33, {33}, true, 0);
      check("no rows", width, 0, {0}, true, 0);
      check("alone", width, 1, {1}, true, 7);
      check("contiguous", width, 50, {29}, false, 0);
      check("contiguous, none", width, 50, {0}, false, 0);
      check("masked", width, 16, {3, 0, 16, 1, 99}, false, 2);
      check("masked, many", width, 2, std::vector<std::int32_t>(3000 / (quick ? 100 : 1), 1), false, 0);
    }
    one_output_alone();
  });
}
