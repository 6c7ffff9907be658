#include "ops/rms_norm/rms_norm_cuda_bench.h"

#include <cmath>
#include <string>

#include "cuda/random_fill.cuh"
#include "ops/rms_norm/rms_norm_cuda.h"

namespace pelagic {

namespace {

using Row = std::vector<double>;

template <typename T>
Row row_of(const DeviceBuffer<T>& from, int row, int width) {
  Row out;
  for (const T number : from.download(static_cast<std::size_t>(row) * width, width))
    out.push_back(static_cast<float>(number));
  return out;
}

}  // namespace

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
      const std::string what = "rms_norm 7168, " + std::to_string(rows) + " rows, " + c.what;
      const auto run = [&](cudaStream_t s) { PELAGIC_CUDA(rms_norm_cuda(call, s)); };
      y.fill_bytes(0xFF);
      y_fp8.fill_bytes(0xFF);
      scales.fill_bytes(0xFF);
      PELAGIC_CUDA(cudaStreamSynchronize(bench.stream()));
      const std::vector<int> sample = sampled_rows(rows);
      std::vector<Row> sums;  // of x, which the call changes, and delta
      for (const int row : sample) {
        sums.push_back(row_of(x, row, kHidden));
        if (!c.delta) continue;
        const Row added = row_of(delta, row, kHidden);
        for (int i = 0; i < kHidden; ++i) sums.back()[i] += added[i];
      }
      bench.run(run);
      BenchCheck seen;
      const Row weights = row_of(weight, 0, kHidden);
      for (std::size_t s = 0; s < sample.size(); ++s) {
        const int row = sample[s];
        double squares = 0;
        for (const double number : sums[s]) squares += number * number;
        Row exact;
        for (int i = 0; i < kHidden; ++i)
          exact.push_back(sums[s][i] / std::sqrt(squares / kHidden + 1e-6) * weights[i]);
        const Row stream = row_of(x, row, kHidden);
        for (int i = 0; i < kHidden; ++i) seen.near(stream[i], sums[s][i], 1e-6 * std::fabs(sums[s][i]) + 1e-7);
        if (c.bf16) {
          const Row got = row_of(y, row, kHidden);
          for (int i = 0; i < kHidden; ++i) seen.near_bf16(got[i], exact[i], 1);
        }
        if (!c.fp8) continue;
        std::vector<float> row_scales;
        for (int block = 0; block < kHidden / 128; ++block)
          row_scales.push_back(scales.download(static_cast<std::size_t>(block) * rows + row, 1)[0]);
        seen.near_fp8(y_fp8.download(static_cast<std::size_t>(row) * kHidden, kHidden), row_scales, exact);
      }
      bench.check(what, seen);
      const double us = bench.time_us(run, 40);
      const double a_row =
          kHidden * (4.0 + (c.delta ? 4.0 + 2.0 : 0.0) + (c.bf16 ? 2.0 : 0.0) + (c.fp8 ? 1.0 + 4.0 / 128 : 0.0));
      bench.add(what, us, "us", bench.ceilings().empty_us + bench.roof_us(rows * a_row + 4.0 * kHidden, 0, 0));
    }
  }
}

}  // namespace pelagic
