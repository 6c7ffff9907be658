#include "ops/mla_attention/mla_prefill_cuda_bench.h"

#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/random_fill.cuh"
#include "ops/mla_attention/mla_prefill_reference.h"

namespace pelagic {
namespace {

struct Case {
  const char* what;
  int heads, rows, start;
};

struct Buffers {
  DeviceBuffer<std::uint16_t> q, kv, rope, out;
};

constexpr float kScale = 0.13523378f;
constexpr std::size_t kKv = kMlaPrefillNope + kMlaPrefillValue;

// The largest error of some vectors against float64.
double sampled_error(const Case& c, const Buffers& buffers) {
  const std::size_t keys = static_cast<std::size_t>(c.start) + c.rows;
  std::vector<std::uint16_t> kv(keys * kKv), rope(keys * kMlaPrefillRope), q(kMlaPrefillQuery), out(kMlaPrefillValue);
  PELAGIC_CUDA(cudaMemcpy(rope.data(), buffers.rope.get(), rope.size() * 2, cudaMemcpyDeviceToHost));
  double largest = 0;
  for (int i = 0; i < 8; ++i) {
    const int row = i == 0 ? c.rows - 1 : static_cast<int>(random_bits(81, i) % c.rows);
    const int head = static_cast<int>(random_bits(82, i) % c.heads);
    PELAGIC_CUDA(cudaMemcpy2D(kv.data(), kKv * 2, buffers.kv.get() + head * kKv, c.heads * kKv * 2, kKv * 2, keys,
                              cudaMemcpyDeviceToHost));
    const std::size_t vector = static_cast<std::size_t>(row) * c.heads + head;
    PELAGIC_CUDA(
        cudaMemcpy(q.data(), buffers.q.get() + vector * kMlaPrefillQuery, q.size() * 2, cudaMemcpyDeviceToHost));
    PELAGIC_CUDA(
        cudaMemcpy(out.data(), buffers.out.get() + vector * kMlaPrefillValue, out.size() * 2, cudaMemcpyDeviceToHost));
    const double error = mla_prefill::relative_error(
        out.data(), mla_prefill::reference(
                        q.data(), c.start + row + 1, kScale, [&](int t) { return kv.data() + t * kKv; },
                        [&](int t) { return rope.data() + static_cast<std::size_t>(t) * kMlaPrefillRope; }));
    if (!(error <= largest)) largest = error;
  }
  return largest;
}

// Whether the result was right; a wrong one is named and not timed.
bool bench_case(Bench& bench, const Case& c, Buffers& buffers) {
  const int keys = c.start + c.rows;
  const DeviceBuffer<std::int32_t> row_offsets(std::vector<std::int32_t>{0, c.rows});
  const DeviceBuffer<std::int32_t> key_offsets(std::vector<std::int32_t>{0, keys});
  DeviceBuffer<std::int32_t> errors(kMlaPrefillErrors);
  errors.fill_bytes(0);
  MlaPrefillProblem problem = {};
  problem.rows = c.rows;
  problem.keys = keys;
  problem.heads = c.heads;
  problem.sequences = 1;
  problem.scale = kScale;
  problem.q = buffers.q.get();
  problem.kv = buffers.kv.get();
  problem.k_rope = buffers.rope.get();
  problem.row_offsets = row_offsets.get();
  problem.key_offsets = key_offsets.get();
  problem.out = buffers.out.get();
  problem.errors = errors.get();
  const MlaPrefillPlan plan = make_mla_prefill_plan(problem);
  const std::string what = std::string(c.what) + ", " + std::to_string(c.heads) + " heads, " + std::to_string(c.rows) +
                           " rows from " + std::to_string(c.start) + " on";

  const double vectors = static_cast<double>(c.rows) * c.heads;
  PELAGIC_CUDA(cudaMemset(buffers.out.get(), 0xFF, static_cast<std::size_t>(vectors) * kMlaPrefillValue * 2));
  PELAGIC_CUDA(launch_mla_prefill(plan, bench.stream()));
  PELAGIC_CUDA(cudaStreamSynchronize(bench.stream()));
  const double error = sampled_error(c, buffers);
  if (!(error <= mla_prefill::kTolerance) || errors.download()[kMlaPrefillBadSequence] != 0) {
    std::fprintf(stderr, "%s: error %.3e against float64, or an error noted\n", what.c_str(), error);
    return false;
  }

  const double us = bench.time_us([&](cudaStream_t s) { PELAGIC_CUDA(launch_mla_prefill(plan, s)); }, 20);
  const double bytes = 2.0 * (vectors * (kMlaPrefillQuery + kMlaPrefillValue) +
                              static_cast<double>(keys) * (static_cast<double>(c.heads) * kKv + kMlaPrefillRope));
  const double pairs = c.rows * (c.start + 0.5 * (c.rows + 1));  // of query and key, in one head
  const double flops = 2.0 * c.heads * pairs * (kMlaPrefillQuery + kMlaPrefillValue);
  bench.add(what, us, "us", bench.roof_us(bytes, flops, bench.ceilings().bf16_tflops));
  return true;
}

}  // namespace

void bench_mla_prefill(Bench& bench) {
  constexpr std::size_t kMostRows = 8192, kMostHeads = 128;
  Buffers buffers;
  buffers.q = DeviceBuffer<std::uint16_t>(kMostRows * kMostHeads * kMlaPrefillQuery);
  buffers.kv = DeviceBuffer<std::uint16_t>(kMostRows * kMostHeads * kKv);
  buffers.rope = DeviceBuffer<std::uint16_t>(kMostRows * kMlaPrefillRope);
  buffers.out = DeviceBuffer<std::uint16_t>(kMostRows * kMostHeads * kMlaPrefillValue);
  fill_random(reinterpret_cast<__nv_bfloat16*>(buffers.q.get()), buffers.q.size(), 86, bench.stream());
  fill_random(reinterpret_cast<__nv_bfloat16*>(buffers.kv.get()), buffers.kv.size(), 87, bench.stream());
  fill_random(reinterpret_cast<__nv_bfloat16*>(buffers.rope.get()), buffers.rope.size(), 88, bench.stream());
  bool right = true;
  for (const Case& c : {Case{"MLA prefill V3", 128, 2048, 0}, Case{"MLA prefill V3", 128, 8192, 0},
                        Case{"MLA prefill V3", 128, 512, 7680}, Case{"MLA prefill V2-Lite", 16, 2048, 0},
                        Case{"MLA prefill V2-Lite", 16, 8192, 0}, Case{"MLA prefill V2-Lite", 16, 512, 7680}})
    right = bench_case(bench, c, buffers) && right;
  if (!right) throw std::runtime_error("an MLA prefill is further from float64 than rounding explains");
}

}  // namespace pelagic
