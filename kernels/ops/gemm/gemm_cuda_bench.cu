#include "ops/gemm/gemm_cuda_bench.h"

#include <string>

#include "cuda/random_fill.cuh"
#include "ops/gemm/gemm_cuda.h"

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
    const double us = bench.time_us([&](cudaStream_t s) { gemm.launch(call, s); });
    const double bytes = 2 * weights + rows * (2.0 * x_width + static_cast<double>(y_bytes) * y_width);
    bench.add("gemm " + std::string(c.name) + ", " + std::to_string(rows) + " rows", us, "us",
              bench.roof_us(bytes, 2.0 * rows * weights, bench.ceilings().bf16_tflops));
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
    const double us = bench.time_us([&](cudaStream_t s) { PELAGIC_CUDA(gemm_f32_cuda(call, s)); });
    bench.add("gate logits 256x7168 float32, " + std::to_string(rows) + " rows", us, "us",
              bench.ceilings().empty_us +
                  bench.roof_us(4.0 * kExperts * kHidden + rows * (2.0 * kHidden + 4.0 * kExperts), 0, 0));
  }
  const GemmCudaLibrary library;
  for (const Case& c : kCases) bench_case(bench, library, c);
}

}  // namespace pelagic
