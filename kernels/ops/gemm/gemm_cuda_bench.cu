#include "ops/gemm/gemm_cuda_bench.h"

#include <cmath>
#include <string>

#include "cuda/random_fill.cuh"
#include "ops/gemm/gemm_cuda.h"
#include "ops/gemm/gemm_cuda_reference.cuh"

namespace pelagic {
namespace {

struct Case {
  const char* name;
  GemmCudaShape shape;
};
constexpr Case kCases[] = {{"V3 compress", {2112, 7168}},
                           {"V3 queries", {24576, 1536}},
                           {"V3 output", {7168, 16384}},
                           {"V3 W_UK, 128 heads", {512, 128, 128}},
                           {"V3 W_UV, 128 heads", {128, 512, 128}},
                           {"V3 head -> float32", {129280, 7168, 1, RowType::float32}}};

// Whether some rows' outputs, of 256 columns or so in each, differ from float64 by more than this share of their norm.
template <typename W, typename Y>
BenchCheck compared(const GemmCudaShape& shape, const GemmCudaCall& call, double tolerance) {
  const int row_step = (call.rows + 3) / 4, rows = (call.rows + row_step - 1) / row_step;
  DeviceBuffer<double> errors(std::vector<double>{0, 0});
  gemm_cuda::compare_kernel<W, Y>
      <<<dim3(rows, shape.batch), 256>>>(shape, call, row_step, (shape.n + 255) / 256, errors.get());
  PELAGIC_CUDA(cudaGetLastError());
  const std::vector<double> sums = errors.download();
  BenchCheck seen;
  seen.near(std::sqrt(sums[0] / sums[1]), 0, tolerance);
  return seen;
}

void bench_case(Bench& bench, const GemmCudaLibrary& library, const Case& c) {
  constexpr int kMostRows = 4096;
  const std::int64_t x_width = static_cast<std::int64_t>(c.shape.batch) * c.shape.k;
  const std::int64_t y_width = static_cast<std::int64_t>(c.shape.batch) * c.shape.n;
  const double weights = static_cast<double>(x_width) * c.shape.n;
  const int y_bytes = static_cast<int>(row_type_bytes(c.shape.out_type));
  DeviceBuffer<__nv_bfloat16> x(static_cast<std::size_t>(kMostRows * x_width)), w(static_cast<std::size_t>(weights));
  DeviceBuffer<unsigned char> y(static_cast<std::size_t>(kMostRows * y_width * y_bytes));
  fill_random(x.get(), x.size(), 1, bench.stream());
  fill_random(w.get(), w.size(), 2, bench.stream());
  GemmCuda gemm(library, c.shape);
  for (const int rows : {1, 32, 128, 4096}) {
    const GemmCudaCall call = {rows, x.get(), x_width, c.shape.k, w.get(), y.get(), y_width, c.shape.n};
    const std::string what = "gemm " + std::string(c.name) + ", " + std::to_string(rows) + " rows";
    const auto run = [&](cudaStream_t s) { gemm.launch(call, s); };
    y.fill_bytes(0xFF);
    bench.run(run);
    bench.check(what, c.shape.out_type == RowType::float32
                          ? compared<__nv_bfloat16, float>(c.shape, call, 2e-5)
                          : compared<__nv_bfloat16, __nv_bfloat16>(c.shape, call, 4e-3));
    const double us = bench.time_us(run);
    const double bytes = 2 * weights + rows * (2.0 * x_width + static_cast<double>(y_bytes) * y_width);
    bench.add(what, us, "us", bench.roof_us(bytes, 2.0 * rows * weights, bench.ceilings().bf16_tflops));
  }
}

}  // namespace

void bench_gemm(Bench& bench) {
  constexpr int kExperts = 256, kHidden = 7168, kMostRows = 4096;
  DeviceBuffer<__nv_bfloat16> x(static_cast<std::size_t>(kMostRows) * kHidden);
  DeviceBuffer<float> w(static_cast<std::size_t>(kExperts) * kHidden),
      y(static_cast<std::size_t>(kMostRows) * kExperts);
  fill_random(x.get(), x.size(), 1, bench.stream());
  fill_random(w.get(), w.size(), 2, bench.stream());
  for (const int rows : {1, 32, 128, 4096}) {
    const GemmF32CudaCall call = {rows, kExperts, kHidden, x.get(), kHidden, w.get(), y.get(), kExperts};
    const std::string what = "gate logits 256x7168 float32, " + std::to_string(rows) + " rows";
    const auto run = [&](cudaStream_t s) { PELAGIC_CUDA(gemm_f32_cuda(call, s)); };
    y.fill_bytes(0xFF);
    bench.run(run);
    bench.check(what,
                compared<float, float>(
                    {.n = kExperts, .k = kHidden},
                    {.rows = rows, .x = x.get(), .ldx = kHidden, .w = w.get(), .y = y.get(), .ldy = kExperts}, 1e-6));
    const double us = bench.time_us(run);
    bench.add(what, us, "us",
              bench.ceilings().empty_us +
                  bench.roof_us(4.0 * kExperts * kHidden + rows * (2.0 * kHidden + 4.0 * kExperts), 0, 0));
  }
  const GemmCudaLibrary library;
  for (const Case& c : kCases) bench_case(bench, library, c);
}

}  // namespace pelagic
