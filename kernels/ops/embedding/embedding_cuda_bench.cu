#include "ops/embedding/embedding_cuda_bench.h"

#include <string>

#include "cuda/random_fill.cuh"
#include "ops/embedding/embedding_cuda.h"

namespace pelagic {

void bench_embedding(Bench& bench) {
  constexpr int kHidden = 7168, kVocab = 129280, kMostRows = 4096;
  DeviceBuffer<__nv_bfloat16> table(static_cast<std::size_t>(kVocab) * kHidden);
  DeviceBuffer<float> out(static_cast<std::size_t>(kMostRows) * kHidden);
  DeviceBuffer<std::int32_t> errors(kEmbeddingErrors);
  errors.fill_bytes(0);
  fill_random(table.get(), table.size(), 1, bench.stream());
  for (const int rows : {128, 4096}) {
    std::vector<std::uint32_t> ids;
    for (int row = 0; row < rows; ++row) ids.push_back(static_cast<std::uint32_t>(random_bits(2, row) % kVocab));
    const DeviceBuffer<std::uint32_t> d_ids(ids);
    const EmbeddingCudaCall call = {rows,      kHidden,          kVocab,  table.get(), d_ids.get(),
                                    out.get(), RowType::float32, kHidden, errors.get()};
    const std::string what = "embedding 7168, " + std::to_string(rows) + " rows -> float32";
    const auto run = [&](cudaStream_t s) { PELAGIC_CUDA(embedding_cuda(call, s)); };
    out.fill_bytes(0xFF);
    bench.run(run);
    BenchCheck seen;
    for (const int row : sampled_rows(rows)) {
      const auto expected = table.download(static_cast<std::size_t>(ids[row]) * kHidden, kHidden);
      const auto got = out.download(static_cast<std::size_t>(row) * kHidden, kHidden);
      for (int i = 0; i < kHidden; ++i) seen.expect(got[i] == static_cast<float>(expected[i]));
    }
    bench.check(what, seen);
    const double us = bench.time_us(run, 40);
    bench.add(what, us, "us", bench.ceilings().empty_us + bench.roof_us(rows * (kHidden * 6.0 + 4), 0, 0));
  }
}

}  // namespace pelagic
