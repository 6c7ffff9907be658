#include "ops/mla_attention/mla_decode_cuda_bench.h"

#include <algorithm>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cuda/random_fill.cuh"
#include "ops/mla_attention/mla_decode_reference.h"

namespace pelagic {
namespace {

struct Case {
  const char* what;
  int heads, batch, keys;
  int rows = 1;  // of each sequence
  int cut_tokens = kMlaDecodeCutTokens;
  bool fp8 = false;  // the cache
  enum { chosen, whole, spread } form = chosen;
};

struct Buffers {
  std::vector<std::uint16_t> fp8_keys;  // what the FP8 cache's rows stand for
  DeviceBuffer<std::uint16_t> q, cache, out;
  DeviceBuffer<unsigned char> workspace, fp8_cache;
};

constexpr float kScale = 0.13523378f;
// The FP8 cache repeats so many keys.
constexpr int kFp8Keys = 4096;
constexpr std::size_t kBlockValues = static_cast<std::size_t>(kMlaDecodeBlockTokens) * kMlaDecodeKey;

// The largest error of some vectors against float64.
double sampled_error(const Case& c, const Buffers& buffers, const std::vector<std::int32_t>& table, int max_blocks) {
  const int samples = c.keys > 8192 ? 2 : 8;
  std::vector<std::uint16_t> keys(max_blocks * kBlockValues), q(kMlaDecodeKey), out(kMlaDecodeLatent);
  double largest = 0;
  for (int i = 0; i < samples; ++i) {
    const int sequence = static_cast<int>(random_bits(80, i) % c.batch);
    const int row = static_cast<int>(random_bits(81, i) % c.rows);
    const int head = static_cast<int>(random_bits(82, i) % c.heads);
    for (int t = 0; t < max_blocks; ++t) {
      const std::int64_t block = table[sequence * max_blocks + t];
      const std::uint16_t* from = c.fp8 ? buffers.fp8_keys.data() + block * kBlockValues % buffers.fp8_keys.size()
                                        : buffers.cache.get() + block * kBlockValues;
      PELAGIC_CUDA(cudaMemcpy(keys.data() + t * kBlockValues, from, kBlockValues * 2, cudaMemcpyDefault));
    }
    const std::size_t vector = (static_cast<std::size_t>(sequence) * c.rows + row) * c.heads + head;
    PELAGIC_CUDA(cudaMemcpy(q.data(), buffers.q.get() + vector * kMlaDecodeKey, q.size() * 2, cudaMemcpyDeviceToHost));
    PELAGIC_CUDA(
        cudaMemcpy(out.data(), buffers.out.get() + vector * kMlaDecodeLatent, out.size() * 2, cudaMemcpyDeviceToHost));
    const double error =
        mla_decode::relative_error(out.data(), mla_decode::reference(q.data(), c.keys - (c.rows - 1 - row), kScale,
                                                                     [&](int t) { return &keys[t * kMlaDecodeKey]; }));
    if (!(error <= largest)) largest = error;
  }
  return largest;
}

// Whether the result was right; a wrong one is named and not timed.
bool bench_case(Bench& bench, const Case& c, Buffers& buffers) {
  const int max_blocks = (c.keys + kMlaDecodeBlockTokens - 1) / kMlaDecodeBlockTokens;
  const int rows = c.batch * c.rows;
  std::vector<std::int32_t> table(static_cast<std::size_t>(c.batch) * max_blocks), offsets;
  for (std::size_t i = 0; i < table.size(); ++i) table[i] = static_cast<std::int32_t>(i);
  for (std::size_t i = table.size() - 1; i > 0; --i) std::swap(table[i], table[random_bits(83, i) % (i + 1)]);
  for (int s = 0; s <= c.batch; ++s) offsets.push_back(s * c.rows);
  const DeviceBuffer<std::int32_t> device_table(table);
  const DeviceBuffer<std::int32_t> device_offsets(offsets);
  const DeviceBuffer<std::int32_t> device_lengths(std::vector<std::int32_t>(c.batch, c.keys));
  DeviceBuffer<std::int32_t> errors(kMlaDecodeErrors);
  errors.fill_bytes(0);
  MlaDecodeProblem problem = {};
  problem.rows = rows;
  problem.heads = c.heads;
  problem.sequences = c.batch;
  problem.max_blocks = max_blocks;
  problem.cache_blocks = static_cast<int>(buffers.cache.size() / kBlockValues);
  problem.cut_tokens = c.cut_tokens;
  problem.piece_capacity = c.batch * mla_decode_pieces(c.rows, c.heads, c.keys, c.cut_tokens);
  problem.scale = kScale;
  problem.q = buffers.q.get();
  problem.cache = c.fp8 ? static_cast<const void*>(buffers.fp8_cache.get()) : buffers.cache.get();
  problem.cache_dtype = c.fp8 ? KvDtype::fp8 : KvDtype::bfloat16;
  problem.block_table = device_table.get();
  problem.row_offsets = device_offsets.get();
  problem.lengths = device_lengths.get();
  problem.out = buffers.out.get();
  problem.workspace = buffers.workspace.get();
  problem.errors = errors.get();
  if (mla_decode_workspace_bytes(problem.piece_capacity) > buffers.workspace.bytes())
    throw std::runtime_error("the bench's workspace is too small");
  MlaDecodePlan plan = make_mla_decode_plan(problem);
  if (c.form == Case::whole) plan.spread_clusters = 0;
  if (c.form == Case::spread) plan.spread_clusters = mla_decode_spread_clusters(problem);
  const std::string what = std::string(c.what) + ", " + std::to_string(c.heads) + " heads, " + std::to_string(c.batch) +
                           " x " + std::to_string(c.keys) + " keys" +
                           (c.rows > 1 ? ", " + std::to_string(c.rows) + " rows each" : "") + ", cuts of " +
                           std::to_string(c.cut_tokens) + (c.fp8 ? ", fp8 cache" : "") +
                           (c.form == Case::spread  ? ", spread"
                            : c.form == Case::whole ? ", not spread"
                                                    : "");

  PELAGIC_CUDA(cudaMemset(buffers.out.get(), 0xFF, static_cast<std::size_t>(rows) * c.heads * kMlaDecodeLatent * 2));
  PELAGIC_CUDA(launch_mla_decode_schedule(plan, bench.stream()));
  PELAGIC_CUDA(launch_mla_decode(plan, bench.stream()));
  PELAGIC_CUDA(cudaStreamSynchronize(bench.stream()));
  const double error = sampled_error(c, buffers, table, max_blocks);
  const std::vector<std::int32_t> noted = errors.download();
  if (!(error <= mla_decode::kTolerance) || std::count(noted.begin(), noted.end(), 0) != kMlaDecodeErrors) {
    std::fprintf(stderr, "%s: error %.3e against float64, or an error noted\n", what.c_str(), error);
    return false;
  }

  const double us = bench.time_us([&](cudaStream_t s) { PELAGIC_CUDA(launch_mla_decode(plan, s)); }, 20);
  const double vectors = static_cast<double>(rows) * c.heads;
  const double key_bytes = c.fp8 ? kFp8LatentRowBytes : 2.0 * kMlaDecodeKey;
  const double bytes =
      static_cast<double>(c.batch) * c.keys * key_bytes + 2.0 * vectors * (kMlaDecodeKey + kMlaDecodeLatent);
  const double flops = 2.0 * vectors * c.keys * (kMlaDecodeKey + kMlaDecodeLatent);
  bench.add(what, us, "us", bench.roof_us(bytes, flops, bench.ceilings().bf16_tflops));
  if (c.batch == 128 && c.cut_tokens == kMlaDecodeCutTokens && !c.fp8)
    bench.add("MLA decode, list of pieces, 128 sequences",
              bench.time_us([&](cudaStream_t s) { PELAGIC_CUDA(launch_mla_decode_schedule(plan, s)); }, 50), "us", 0);
  return true;
}

}  // namespace

void bench_mla_decode(Bench& bench) {
  constexpr int kMostVectors = 128 * 128, kMostKeys = 128 * 4096, kMostPieces = 128 * 2 * 8;
  Buffers buffers;
  buffers.q = DeviceBuffer<std::uint16_t>(static_cast<std::size_t>(kMostVectors) * kMlaDecodeKey);
  buffers.cache = DeviceBuffer<std::uint16_t>(static_cast<std::size_t>(kMostKeys) * kMlaDecodeKey);
  buffers.out = DeviceBuffer<std::uint16_t>(static_cast<std::size_t>(kMostVectors) * kMlaDecodeLatent);
  buffers.workspace = DeviceBuffer<unsigned char>(mla_decode_workspace_bytes(kMostPieces));
  fill_random(reinterpret_cast<__nv_bfloat16*>(buffers.q.get()), buffers.q.size(), 84, bench.stream());
  fill_random(reinterpret_cast<__nv_bfloat16*>(buffers.cache.get()), buffers.cache.size(), 85, bench.stream());
  std::vector<std::uint16_t> keys(static_cast<std::size_t>(kFp8Keys) * kMlaDecodeKey);
  PELAGIC_CUDA(cudaStreamSynchronize(bench.stream()));
  PELAGIC_CUDA(cudaMemcpy(keys.data(), buffers.cache.get(), keys.size() * 2, cudaMemcpyDeviceToHost));
  std::vector<unsigned char> rows(static_cast<std::size_t>(kFp8Keys) * kFp8LatentRowBytes);
  buffers.fp8_keys.resize(keys.size());
  for (std::size_t i = 0; i < kFp8Keys; ++i)
    mla_decode::to_fp8_row(&keys[i * kMlaDecodeKey], &rows[i * kFp8LatentRowBytes],
                           &buffers.fp8_keys[i * kMlaDecodeKey]);
  buffers.fp8_cache = DeviceBuffer<unsigned char>(static_cast<std::size_t>(kMostKeys) * kFp8LatentRowBytes);
  for (std::size_t at = 0; at < buffers.fp8_cache.size(); at += rows.size())
    PELAGIC_CUDA(cudaMemcpy(buffers.fp8_cache.get() + at, rows.data(), rows.size(), cudaMemcpyHostToDevice));
  bool right = true;
  for (const Case& c : {Case{"MLA decode V3", 128, 1, 4096},
                        Case{"MLA decode V3", 128, 1, 4096, 1, 256},
                        Case{"MLA decode V3", 128, 1, 4096, 1, 512},
                        Case{"MLA decode V3", 128, 32, 4096},
                        Case{"MLA decode V3", 128, 32, 4096, 2},
                        Case{"MLA decode V3", 128, 128, 4096},
                        Case{"MLA decode V3", 128, 128, 4096, 1, 512},
                        Case{"MLA decode V3", 128, 128, 4096, 1, 2048},
                        Case{"MLA decode V3", 128, 128, 4096, 1, 4096},
                        Case{"MLA decode V3", 128, 1, 131072},
                        Case{"MLA decode V2-Lite", 16, 1, 4096},
                        Case{"MLA decode V2-Lite", 16, 32, 4096},
                        Case{"MLA decode V2-Lite", 16, 32, 4096, 1, 512},
                        Case{"MLA decode V2-Lite", 16, 32, 4096, 4},
                        Case{"MLA decode V3", 128, 1, 4096, 1, kMlaDecodeCutTokens, true},
                        Case{"MLA decode V3", 128, 32, 4096, 1, kMlaDecodeCutTokens, true},
                        Case{"MLA decode V3", 128, 128, 4096, 1, kMlaDecodeCutTokens, true},
                        Case{"MLA decode V3", 128, 1, 131072, 1, kMlaDecodeCutTokens, true},
                        Case{"MLA decode V2-Lite", 16, 1, 4096, 1, 512, true},
                        Case{"MLA decode V2-Lite", 16, 32, 4096, 1, 512, true}})
    right = bench_case(bench, c, buffers) && right;
  for (const int batch : {1, 2, 4, 8, 16})
    for (const auto form : {Case::whole, Case::spread})
      right = bench_case(bench, {"MLA decode V2-Lite", 16, batch, 2048, 1, 512, false, form}, buffers) && right;
  for (const auto form : {Case::whole, Case::spread})
    right = bench_case(bench, {"MLA decode V2-Lite", 16, 1, 16384, 1, 512, false, form}, buffers) && right;
  if (!right) throw std::runtime_error("an MLA decode is further from float64 than rounding explains");
}

}  // namespace pelagic
