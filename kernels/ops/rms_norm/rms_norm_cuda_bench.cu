#include "ops/rms_norm/rms_norm_cuda_bench.h"

#include <string>

#include "cuda/random_fill.cuh"
#include "ops/rms_norm/rms_norm_cuda.h"

namespace pelagic {

void bench_rms_norm(Bench& bench) {
  constexpr int kHidden = 7168, kMostRows = 4096;
  constexpr std::size_t kElements = static_cast<std::size_t>(kMostRows) * kHidden;
  DeviceBuffer<float> x(kElements), weight(kHidden), scales(kElements / 128);
  DeviceBuffer<__nv_bfloat16> delta(kElements), y(kElements);
  DeviceBuffer<std::uint8_t> y_fp8(kElements);
  fill_random(weight.get(), weight.size(), 3, bench.stream());
  fill_random(delta.get(), kElements, 2, bench.stream());
  struct Case {
    const char* what;
    bool delta, bf16, fp8;
  };
  for (const int rows : {1, 128, 4096}) {
    for (const Case& c : {Case{"x + bf16 -> bf16", true, true, false}, Case{"x + bf16 -> fp8", true, false, true},
                          Case{"x + bf16 -> bf16, fp8", true, true, true}, Case{"x -> bf16", false, true, false}}) {
      fill_random(x.get(), kElements, 1, bench.stream());
      RmsNormCudaCall call = {};
      call.rows = rows;
      call.width = kHidden;
      call.eps = 1e-6f;
      call.x = x.get();
      call.ldx = kHidden;
      call.delta = c.delta ? delta.get() : nullptr;
      call.delta_type = RowType::bfloat16;
      call.ld_delta = kHidden;
      call.weight = weight.get();
      call.y = c.bf16 ? y.get() : nullptr;
      call.ldy = kHidden;
      call.y_fp8 = c.fp8 ? y_fp8.get() : nullptr;
      call.y_scales = scales.get();
      call.ld_y_scales = rows;
      const double us = bench.time_us([&](cudaStream_t s) { PELAGIC_CUDA(rms_norm_cuda(call, s)); }, 40);
      const double a_row =
          kHidden * (4.0 + (c.delta ? 4.0 + 2.0 : 0.0) + (c.bf16 ? 2.0 : 0.0) + (c.fp8 ? 1.0 + 4.0 / 128 : 0.0));
      bench.add("rms_norm 7168, " + std::to_string(rows) + " rows, " + c.what, us, "us",
                bench.ceilings().empty_us + bench.roof_us(rows * a_row + 4.0 * kHidden, 0, 0));
    }
  }
}

}  // namespace pelagic
