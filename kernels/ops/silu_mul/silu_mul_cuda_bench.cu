#include "ops/silu_mul/silu_mul_cuda_bench.h"

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
        const double us = bench.time_us([&](cudaStream_t s) { PELAGIC_CUDA(silu_mul_cuda(call, s)); }, 40);
        const double bytes = static_cast<double>(rows) * kWidth * (4.0 + (fp8 ? 1.0 + 4.0 / 128 : 2.0));
        bench.add("silu_mul 2048, " + std::to_string(batch) + " x 8 rows" + (masked ? ", masked" : "") +
                      (fp8 ? " -> fp8" : " -> bf16"),
                  us, "us", bench.ceilings().empty_us + bench.roof_us(bytes, 0, 0));
      }
    }
  }
}

}  // namespace pelagic
