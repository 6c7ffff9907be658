#include "ops/rope/rope_cuda_bench.h"

#include <cmath>
#include <string>

#include "cuda/random_fill.cuh"
#include "ops/rope/rope_cuda.h"

namespace pelagic {
namespace {

constexpr int kPairs = kRopeCudaColumns / 2;

// Pairs of columns that lie beside one another, turned by a row of the tables, against what came out.
void check_rotated(BenchCheck& seen, const __nv_bfloat16* x, const std::vector<float>& cos,
                   const std::vector<float>& sin, const __nv_bfloat16* got) {
  for (int i = 0; i < kPairs; ++i) {
    const double a = static_cast<float>(x[2 * i]), b = static_cast<float>(x[2 * i + 1]), c = cos[i], s = sin[i];
    seen.near_bf16(static_cast<float>(got[2 * i]), a * c - b * s, std::fabs(a * c) + std::fabs(b * s));
    seen.near_bf16(static_cast<float>(got[2 * i + 1]), b * c + a * s, std::fabs(b * c) + std::fabs(a * s));
  }
}

}  // namespace

void bench_rope(Bench& bench) {
  constexpr int kHeads = 128, kQuery = 192, kMostRows = 4096, kPositions = 8192, kBlocks = 8192;
  constexpr int kCompressed = 1536 + kLatentCudaRow;  // the query's latent lies beside
  DeviceBuffer<float> cos(kPositions * 32), sin(kPositions * 32), weight(kLatentCudaColumns);
  fill_random(cos.get(), cos.size(), 1, bench.stream());
  fill_random(sin.get(), sin.size(), 2, bench.stream());
  fill_random(weight.get(), weight.size(), 3, bench.stream());
  const RopeCudaTable table = {cos.get(), sin.get(), kPositions};
  DeviceBuffer<__nv_bfloat16> q(static_cast<std::size_t>(kMostRows) * kHeads * kQuery),
      absorbed(static_cast<std::size_t>(kMostRows) * kHeads * kLatentCudaRow),
      compressed(static_cast<std::size_t>(kMostRows) * kCompressed),
      cache(static_cast<std::size_t>(kBlocks) * 64 * kLatentCudaRow);
  fill_random(q.get(), q.size(), 4, bench.stream());
  fill_random(compressed.get(), compressed.size(), 5, bench.stream());
  DeviceBuffer<std::int32_t> errors(kRopeErrors);
  errors.fill_bytes(0);
  for (const int rows : {128, 4096}) {
    const bool decode = rows == 128;
    // A row of each of 128 sequences at position 4,000 or so, or one sequence's first 4,096.
    constexpr int kMaxBlocks = 64;
    std::vector<std::int32_t> positions, sequences, blocks;
    for (int row = 0; row < rows; ++row) {
      positions.push_back(decode ? 3900 + row : row);
      sequences.push_back(decode ? row : 0);
    }
    for (int i = 0; i < 128 * kMaxBlocks; ++i) blocks.push_back(i * 4099 % kBlocks);
    const DeviceBuffer<std::int32_t> d_positions(positions), d_sequences(sequences), d_blocks(blocks);
    for (const bool in_place : {true, false}) {
      RopeCudaCall call = {};
      call.rows = rows;
      call.heads = kHeads;
      call.table = table;
      call.row_positions = d_positions.get();
      call.x = q.get() + 128;
      call.x_row_stride = kHeads * kQuery;
      call.x_head_stride = kQuery;
      call.y = in_place ? q.get() + 128 : absorbed.get() + kLatentCudaColumns;
      call.y_row_stride = in_place ? kHeads * kQuery : kHeads * kLatentCudaRow;
      call.y_head_stride = in_place ? kQuery : kLatentCudaRow;
      call.errors = errors.get();
      const std::string what = "rope of queries, 128 heads, " + std::to_string(rows) + " rows" +
                               (in_place ? ", in place" : ", 192 -> 576 columns");
      const auto run = [&](cudaStream_t s) { PELAGIC_CUDA(rope_cuda(call, s)); };
      absorbed.fill_bytes(0xFF);
      const std::vector<int> sample = sampled_rows(rows);
      const auto row_of = [](const auto& buffer, int row, std::int64_t width) {
        return buffer.download(static_cast<std::size_t>(row * width), static_cast<std::size_t>(width));
      };
      PELAGIC_CUDA(cudaStreamSynchronize(bench.stream()));
      std::vector<std::vector<__nv_bfloat16>> before;  // the call may change it
      for (const int row : sample) before.push_back(row_of(q, row, kHeads * kQuery));
      bench.run(run);
      BenchCheck seen;
      for (std::size_t i = 0; i < sample.size(); ++i) {
        const auto after =
            in_place ? row_of(q, sample[i], kHeads * kQuery) : row_of(absorbed, sample[i], kHeads * kLatentCudaRow);
        const int width = in_place ? kQuery : kLatentCudaRow;
        for (int head = 0; head < kHeads; ++head)
          check_rotated(seen, before[i].data() + head * kQuery + 128, row_of(cos, positions[sample[i]], kPairs),
                        row_of(sin, positions[sample[i]], kPairs),
                        after.data() + (head + 1) * width - kRopeCudaColumns);
      }
      bench.check(what, seen);
      const double us = bench.time_us(run, 40);
      const double bytes = static_cast<double>(rows) * (kHeads * kRopeCudaColumns * 4.0 + 2 * 32 * 4.0);
      bench.add(what, us, "us", bench.ceilings().empty_us + bench.roof_us(bytes, 0, 0));
    }
    StoreLatentsCudaCall call = {};
    call.rows = rows;
    call.eps = 1e-6f;
    call.table = table;
    call.compressed = compressed.get() + 1536;
    call.ld_compressed = kCompressed;
    call.weight = weight.get();
    call.row_positions = d_positions.get();
    call.row_sequences = d_sequences.get();
    call.block_table = d_blocks.get();
    call.sequences = 128;
    call.max_blocks = kMaxBlocks;
    call.cache = cache.get();
    call.cache_blocks = kBlocks;
    call.errors = errors.get();
    const std::string what = "store latents, " + std::to_string(rows) + " rows";
    const auto run = [&](cudaStream_t s) { PELAGIC_CUDA(store_latents_cuda(call, s)); };
    cache.fill_bytes(0xFF);
    bench.run(run);
    BenchCheck seen;
    const std::vector<float> weights = weight.download();
    for (const int row : sampled_rows(rows)) {
      const auto x = compressed.download(static_cast<std::size_t>(row) * kCompressed + 1536, kLatentCudaRow);
      const int position = positions[row];
      const std::int32_t block = blocks[sequences[row] * kMaxBlocks + position / 64];
      const auto got =
          cache.download((static_cast<std::size_t>(block) * 64 + position % 64) * kLatentCudaRow, kLatentCudaRow);
      double squares = 0;
      for (int i = 0; i < kLatentCudaColumns; ++i)
        squares += std::pow(static_cast<double>(static_cast<float>(x[i])), 2);
      for (int i = 0; i < kLatentCudaColumns; ++i)
        seen.near_bf16(static_cast<float>(got[i]), static_cast<float>(x[i]) /
                                                       std::sqrt(squares / kLatentCudaColumns + 1e-6) *
                                                       static_cast<double>(weights[i]));
      const std::size_t angles = static_cast<std::size_t>(position) * kPairs;
      check_rotated(seen, x.data() + kLatentCudaColumns, cos.download(angles, kPairs), sin.download(angles, kPairs),
                    got.data() + kLatentCudaColumns);
    }
    bench.check(what, seen);
    const double us = bench.time_us(run, 40);
    const double bytes = static_cast<double>(rows) * (kLatentCudaRow * 4.0 + 2 * 32 * 4.0 + 12);
    bench.add(what, us, "us", bench.ceilings().empty_us + bench.roof_us(bytes, 0, 0));
  }
}

}  // namespace pelagic
