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
      const std::string what = "quantize " + std::to_string(width) + ", " + std::to_string(rows) + " rows";
      const auto run = [&](cudaStream_t s) { PELAGIC_CUDA(quantize_rows_cuda(call, s)); };
      out.fill_bytes(0xFF);
      scales.fill_bytes(0xFF);
      bench.run(run);
      BenchCheck seen;
      const std::vector<float> all_scales = scales.download(0, static_cast<std::size_t>(width) / 128 * rows);
      for (const int row : sampled_rows(rows)) {
        std::vector<double> exact;
        for (const __nv_bfloat16 number : x.download(static_cast<std::size_t>(row) * width, width))
          exact.push_back(static_cast<float>(number));
        std::vector<float> row_scales;
        for (int block = 0; block < width / 128; ++block)
          row_scales.push_back(all_scales[static_cast<std::size_t>(block) * rows + row]);
        seen.near_fp8(out.download(static_cast<std::size_t>(row) * width, width), row_scales, exact);
      }
      bench.check(what, seen);
      const double us = bench.time_us(run, 40);
      const double bytes = static_cast<double>(rows) * width * (2.0 + 1.0 + 4.0 / 128);
      bench.add(what, us, "us", bench.ceilings().empty_us + bench.roof_us(bytes, 0, 0));
    }
  }
}

}  // namespace pelagic
