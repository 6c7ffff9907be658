#include "ops/grouped_gemm/grouped_gemm_cuda_bench.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cuda/random_fill.cuh"
#include "ops/grouped_gemm/grouped_gemm_reference.cuh"

namespace pelagic {
namespace {

enum class Routing {
  even,    // every expert has `rows`
  random,  // experts * rows choices, each for an expert at random
  masked,  // every expert has `rows` of a capacity of 128
};

struct Case {
  const char* what;
  GroupedGemmType type;
  int n, k, experts, rows;
  Routing routing = Routing::even;
};

struct Buffers {
  DeviceBuffer<unsigned char> weights, x;
  DeviceBuffer<float> weight_scales, x_scales;
  DeviceBuffer<__nv_bfloat16> out;
};

constexpr const char* kRoutingNames[] = {"", " on average, at random", ", masked"};
constexpr const char* kTileNames[] = {"64x8",   "64x16",  "64x32",  "64x64",   "128x8",
                                      "128x16", "128x32", "128x64", "256x128", "256x128 pair"};

GroupedGemmTile default_tile(const Case& c) {
  if (c.experts == 1) return dense_gemm_tile_for(c.rows, c.n);
  return grouped_gemm_tile_for(c.routing == Routing::random ? c.rows + static_cast<int>(2 * std::sqrt(c.rows))
                                                            : c.rows);
}

// Whether the result was right; a wrong one is named and not timed.
bool bench_case(Bench& bench, const Case& c, GroupedGemmTile tile, Buffers& buffers) {
  const bool fp8 = c.type == GroupedGemmType::fp8_block_scaled;
  constexpr int kCapacity = 128;
  const bool masked = c.routing == Routing::masked;
  const int total_rows = c.experts * c.rows;
  std::vector<std::int32_t> counts(c.experts, c.routing == Routing::random ? 0 : c.rows);
  for (int i = 0; c.routing == Routing::random && i < total_rows; ++i) ++counts[random_bits(30, i) % c.experts];
  std::vector<std::int32_t> offsets = {0};
  for (const std::int32_t count : counts) offsets.push_back(offsets.back() + count);
  const DeviceBuffer<std::int32_t> device_rows(masked ? counts : offsets);
  const std::int64_t x_rows = masked ? std::int64_t{c.experts} * kCapacity : total_rows;
  GroupedGemmProblem problem = {};
  problem.type = c.type;
  problem.layout = masked ? GroupedGemmLayout::masked : GroupedGemmLayout::contiguous;
  problem.tile = tile;
  problem.experts = c.experts;
  problem.n = c.n;
  problem.k = c.k;
  problem.row_capacity = masked ? kCapacity : total_rows;
  problem.rows = device_rows.get();
  problem.x = buffers.x.get();
  problem.x_scales = buffers.x_scales.get();
  problem.ld_x_scales = x_rows;
  problem.weights = buffers.weights.get();
  problem.weight_scales = buffers.weight_scales.get();
  problem.out = buffers.out.get();
  const GroupedGemmPlan plan = make_grouped_gemm_plan(problem);
  const std::string what = std::string(c.what) + " " + std::to_string(c.n) + "x" + std::to_string(c.k) + ", " +
                           std::to_string(c.experts) + " experts x " + std::to_string(c.rows) + " rows" +
                           kRoutingNames[static_cast<int>(c.routing)] + ", tile " + kTileNames[static_cast<int>(tile)] +
                           (tile == default_tile(c) ? " (default)" : "");

  PELAGIC_CUDA(cudaMemset(buffers.out.get(), 0xFF, static_cast<std::size_t>(x_rows) * c.n * 2));
  PELAGIC_CUDA(launch_grouped_gemm(plan, bench.stream()));
  PELAGIC_CUDA(cudaStreamSynchronize(bench.stream()));
  std::vector<grouped_gemm::Sample> samples;
  constexpr int kSamples = 64;
  for (int i = 0; i < std::min(kSamples, total_rows); ++i) {
    const int row = static_cast<int>(random_bits(31, i) % total_rows);
    const int expert = static_cast<int>(std::upper_bound(offsets.begin(), offsets.end(), row) - offsets.begin()) - 1;
    samples.push_back({expert, masked ? expert * kCapacity + row - offsets[expert] : row});
  }
  const double error = grouped_gemm::largest_error(problem, samples);
  if (!(error <= grouped_gemm::kTolerance)) {
    std::fprintf(stderr, "%s: error %.3e against float64\n", what.c_str(), error);
    return false;
  }

  const double us = bench.time_us([&](cudaStream_t s) { PELAGIC_CUDA(launch_grouped_gemm(plan, s)); }, 15);
  const double element = fp8 ? 1.0 : 2.0;
  const double bytes = element * (static_cast<double>(c.experts) * c.n * c.k + static_cast<double>(total_rows) * c.k) +
                       2.0 * total_rows * c.n;
  const double flops = 2.0 * total_rows * c.n * c.k;
  const double tflops = fp8 ? bench.ceilings().fp8_tflops : bench.ceilings().bf16_tflops;
  bench.add(what, us, "us", bench.roof_us(bytes, flops, tflops));
  return true;
}

}  // namespace

void bench_grouped_gemm(Bench& bench) {
  using enum GroupedGemmType;
  constexpr int kHidden = 7168, kExpert = 2048, kMostExperts = 256, kMostRows = 8 * 4096;
  Buffers buffers;
  buffers.weights = DeviceBuffer<unsigned char>(static_cast<std::size_t>(kMostExperts) * 2 * kExpert * kHidden);
  buffers.x = DeviceBuffer<unsigned char>(static_cast<std::size_t>(kMostRows) * kHidden * 2);
  buffers.weight_scales = DeviceBuffer<float>(buffers.weights.size() / (128 * 128));
  buffers.x_scales = DeviceBuffer<float>(static_cast<std::size_t>(kMostRows) * kHidden / 128);
  buffers.out = DeviceBuffer<__nv_bfloat16>(static_cast<std::size_t>(kMostRows) * kHidden);
  fill_random(buffers.weight_scales.get(), buffers.weight_scales.size(), 42, bench.stream());
  fill_random(buffers.x_scales.get(), buffers.x_scales.size(), 43, bench.stream());

  const auto fill_as = [&](auto element) {
    using T = decltype(element);
    fill_random(reinterpret_cast<T*>(buffers.weights.get()), buffers.weights.bytes() / sizeof(T), 40, bench.stream());
    fill_random(reinterpret_cast<T*>(buffers.x.get()), buffers.x.bytes() / sizeof(T), 41, bench.stream());
  };
  bool right = true;
  const auto bench_tiles = [&](const Case& c) {
    if (c.rows < 128 || c.experts == 1) {
      right = bench_case(bench, c, default_tile(c), buffers) && right;
      return;
    }
    for (const GroupedGemmTile tile : {GroupedGemmTile::w256_t128, GroupedGemmTile::w256_t128_pair})
      right = bench_case(bench, c, tile, buffers) && right;
  };
  fill_as(__nv_fp8_e4m3{});
  for (const Case& c : {Case{"fp8 gate+up", fp8_block_scaled, 2 * kExpert, kHidden, 256, 4},
                        Case{"fp8 gate+up", fp8_block_scaled, 2 * kExpert, kHidden, 256, 32},
                        Case{"fp8 gate+up", fp8_block_scaled, 2 * kExpert, kHidden, 256, 4, Routing::random},
                        Case{"fp8 gate+up", fp8_block_scaled, 2 * kExpert, kHidden, 256, 4, Routing::masked},
                        Case{"fp8 gate+up", fp8_block_scaled, 2 * kExpert, kHidden, 256, 128, Routing::random},
                        Case{"fp8 gate+up", fp8_block_scaled, 2 * kExpert, kHidden, 8, 128},
                        Case{"fp8 gate+up", fp8_block_scaled, 2 * kExpert, kHidden, 8, 4096},
                        Case{"fp8 down", fp8_block_scaled, kHidden, kExpert, 256, 4},
                        Case{"fp8 down", fp8_block_scaled, kHidden, kExpert, 8, 4096}}) {
    bench_tiles(c);
  }
  // Dense: one expert. V3's and V2-Lite's projections and shared experts.
  for (const auto& [n, k] :
       {std::pair{24576, 1536}, {7168, 16384}, {3072, 2048}, {2048, 2048}, {5632, 2048}, {2048, 2816}})
    for (const int rows : {1, 32, 128, 512, 2048, 4096}) bench_tiles({"fp8 dense", fp8_block_scaled, n, k, 1, rows});
  fill_as(__nv_bfloat16{});
  for (const Case& c :
       {Case{"bf16 gate+up", bf16, 2 * kExpert, kHidden, 128, 4},
        Case{"bf16 gate+up", bf16, 2 * kExpert, kHidden, 8, 128},
        Case{"bf16 gate+up", bf16, 2 * kExpert, kHidden, 8, 4096}, Case{"bf16 down", bf16, kHidden, kExpert, 8, 4096}})
    bench_tiles(c);
  if (!right) throw std::runtime_error("a grouped GEMM is further from float64 than rounding explains");
}

}  // namespace pelagic
