#include "ops/kv_cache/kv_cache_cuda_bench.h"

#include <string>

#include "cuda/random_fill.cuh"
#include "ops/kv_cache/kv_cache_cuda.h"

namespace pelagic {

void bench_kv_cache(Bench& bench) {
  constexpr int kRowBytes = 1152, kBlocks = 4096, kMostRows = 4096;
  DeviceBuffer<unsigned> cache(static_cast<std::size_t>(kBlocks) * 64 * kRowBytes / 4),
      buffer(static_cast<std::size_t>(kMostRows) * kRowBytes / 4);
  fill_random(cache.get(), cache.size(), 1, bench.stream());
  std::vector<std::int32_t> blocks;
  for (int i = 0; i < kMostRows / 64; ++i) blocks.push_back(i * 1031 % kBlocks);
  const DeviceBuffer<std::int32_t> d_blocks(blocks);
  DeviceBuffer<std::int32_t> errors(kKvCacheErrors);
  errors.fill_bytes(0);
  for (const int rows : {128, 4096}) {
    const KvRowsCudaCall call = {kRowBytes,   0,       rows,         d_blocks.get(), static_cast<int>(blocks.size()),
                                 cache.get(), kBlocks, buffer.get(), errors.get()};
    const double roof = bench.ceilings().empty_us + bench.roof_us(2.0 * rows * kRowBytes, 0, 0);
    const std::string of = ", " + std::to_string(rows) + " rows of 1,152 bytes";
    const auto check = [&](const std::string& what) {
      BenchCheck seen;
      constexpr int kWords = kRowBytes / 4;
      for (const int row : sampled_rows(rows)) {
        const std::size_t cached = static_cast<std::size_t>(blocks[row / 64]) * 64 + row % 64;
        const std::vector<unsigned> one = cache.download(cached * kWords, kWords);
        const std::vector<unsigned> other = buffer.download(static_cast<std::size_t>(row) * kWords, kWords);
        for (int i = 0; i < kWords; ++i) seen.expect(one[i] == other[i]);
      }
      bench.check(what, seen);
    };
    const auto pack = [&](cudaStream_t s) { PELAGIC_CUDA(kv_pack_cuda(call, s)); };
    buffer.fill_bytes(0xFF);
    bench.run(pack);
    check("kv pack" + of);
    bench.add("kv pack" + of, bench.time_us(pack, 40), "us", roof);
    const auto unpack = [&](cudaStream_t s) { PELAGIC_CUDA(kv_unpack_cuda(call, s)); };
    fill_random(buffer.get(), buffer.size(), 2, bench.stream());  // other rows than those that lie there
    bench.run(unpack);
    check("kv unpack" + of);
    bench.add("kv unpack" + of, bench.time_us(unpack, 40), "us", roof);
  }
}

}  // namespace pelagic
