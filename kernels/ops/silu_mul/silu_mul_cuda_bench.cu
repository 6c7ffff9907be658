#include "ops/silu_mul/silu_mul_cuda_bench.h"

#include <cmath>
#include <string>

#include "cuda/random_fill.cuh"
#include "ops/silu_mul/silu_mul_cuda.h"

namespace pelagic {

void bench_silu_mul(Bench& bench) {
  constexpr int kWidth = 2048, kTopK = 8, kExperts = 256;
  constexpr int kMostRows = 4096 * kTopK;
  DeviceBuffer<__nv_bfloat16> gate_up(static_cast<std::size_t>(kMostRows) * 2 * kWidth),
      out(static_cast<std::size_t>(kMostRows) * kWidth);
  DeviceBuffer<std::uint8_t> out_fp8(static_cast<std::size_t>(kMostRows) * kWidth);
  DeviceBuffer<float> scales(static_cast<std::size_t>(kMostRows) * kWidth / 128);
  fill_random(gate_up.get(), gate_up.size(), 1, bench.stream());
  for (const int batch : {128, 4096}) {
    for (const bool masked : {false, true}) {
      const int rows = batch * kTopK;
      // Masked: every expert has its share of a capacity of 128 rows.
      if (masked && rows / kExperts > 128 / 2) continue;
      const DeviceBuffer<std::int32_t> counts(masked ? std::vector<std::int32_t>(kExperts, rows / kExperts)
                                                     : std::vector<std::int32_t>{rows});
      for (const bool fp8 : {false, true}) {
        SiluMulCudaCall call = {};
        call.width = kWidth;
        call.groups = masked ? kExperts : 1;
        call.rows = masked ? 128 : kMostRows;
        call.counts = counts.get();
        call.gate_up = gate_up.get();
        call.out = fp8 ? nullptr : out.get();
        call.out_fp8 = fp8 ? out_fp8.get() : nullptr;
        call.out_scales = scales.get();
        call.ld_out_scales = kMostRows;
        const std::string what = "silu_mul 2048, " + std::to_string(batch) + " x 8 rows" + (masked ? ", masked" : "") +
                                 (fp8 ? " -> fp8" : " -> bf16");
        const auto run = [&](cudaStream_t s) { PELAGIC_CUDA(silu_mul_cuda(call, s)); };
        out.fill_bytes(0xFF);
        out_fp8.fill_bytes(0xFF);
        scales.fill_bytes(0xFF);
        bench.run(run);
        BenchCheck seen;
        for (const int existing : sampled_rows(rows)) {
          const int each = rows / kExperts;
          const int row = masked ? existing / each * 128 + existing % each : existing;
          const auto in = gate_up.download(static_cast<std::size_t>(row) * 2 * kWidth, 2 * kWidth);
          std::vector<double> exact;
          for (int i = 0; i < kWidth; ++i) {
            const double gate = static_cast<float>(in[i]), up = static_cast<float>(in[kWidth + i]);
            exact.push_back(gate / (1 + std::exp(-gate)) * up);
          }
          const std::size_t at = static_cast<std::size_t>(row) * kWidth;
          if (fp8) {
            std::vector<float> row_scales;
            for (int block = 0; block < kWidth / 128; ++block)
              row_scales.push_back(scales.download(static_cast<std::size_t>(block) * kMostRows + row, 1)[0]);
            seen.near_fp8(out_fp8.download(at, kWidth), row_scales, exact);
          } else {
            const auto got = out.download(at, kWidth);
            for (int i = 0; i < kWidth; ++i) seen.near_bf16(static_cast<float>(got[i]), exact[i], 1e-3);
          }
        }
        bench.check(what, seen);
        const double us = bench.time_us(run, 40);
        const double bytes = static_cast<double>(rows) * kWidth * (4.0 + (fp8 ? 1.0 + 4.0 / 128 : 2.0));
        bench.add(what, us, "us", bench.ceilings().empty_us + bench.roof_us(bytes, 0, 0));
      }
    }
  }
}

}  // namespace pelagic
