#include "ops/quantize/quantize_cuda_bench.h"

#include <string>

#include "cuda/random_fill.cuh"
#include "ops/quantize/quantize_cuda.h"

namespace pelagic {

// Attention's values: 128 heads x 128 (V3), 16 x 128 (V2-Lite).
void bench_quantize(Bench& bench) {
  constexpr int kMostRows = 4096, kMostWidth = 16384;
  DeviceBuffer<__nv_bfloat16> x(static_cast<std::size_t>(kMostRows) * kMostWidth);
  DeviceBuffer<std::uint8_t> out(x.size());
  DeviceBuffer<float> scales(x.size() / 128);
  fill_random(x.get(), x.size(), 1, bench.stream());
  for (const int width : {2048, kMostWidth}) {
    for (const int rows : {128, kMostRows}) {
      const QuantizeRowsCudaCall call = {.rows = rows,
                                         .width = width,
                                         .x = x.get(),
                                         .ldx = width,
                                         .out = out.get(),
                                         .scales = scales.get(),
                                         .ld_scales = rows};
      const double us = bench.time_us([&](cudaStream_t s) { PELAGIC_CUDA(quantize_rows_cuda(call, s)); }, 40);
      const double bytes = static_cast<double>(rows) * width * (2.0 + 1.0 + 4.0 / 128);
      bench.add("quantize " + std::to_string(width) + ", " + std::to_string(rows) + " rows", us, "us",
                bench.ceilings().empty_us + bench.roof_us(bytes, 0, 0));
    }
  }
}

}  // namespace pelagic
