#include "ops/gate/gate_cuda_bench.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <utility>

#include "cuda/random_fill.cuh"
#include "ops/gate/gate_cuda.h"

namespace pelagic {
namespace {

// sigmoid_noaux_tc for one row, in float64: the scores with bias, -1 in groups that are left out, and without.
struct Scores {
  std::vector<double> choosing, plain;
};

Scores scores(const GateConfig& config, const float* logits, const std::vector<float>& bias) {
  const int each = config.experts / config.groups;
  Scores out;
  for (int e = 0; e < config.experts; ++e) {
    out.plain.push_back(1 / (1 + std::exp(-static_cast<double>(logits[e]))));
    out.choosing.push_back(out.plain.back() + bias[e]);
  }
  std::vector<std::pair<double, int>> groups;
  for (int group = 0; group < config.groups; ++group) {
    std::vector<double> of_group(out.choosing.begin() + group * each, out.choosing.begin() + (group + 1) * each);
    std::partial_sort(of_group.begin(), of_group.begin() + 2, of_group.end(), std::greater<>());
    groups.push_back({of_group[0] + of_group[1], group});
  }
  std::sort(groups.begin(), groups.end(), std::greater<>());
  for (int i = config.top_k_groups; i < config.groups; ++i)
    std::fill_n(out.choosing.begin() + groups[i].second * each, each, -1.0);
  return out;
}

// Scores that float32 cannot tell apart may change places.
void check_choices(BenchCheck& seen, const GateConfig& config, const float* logits, const std::vector<float>& bias,
                   const std::int32_t* ids, const float* weights) {
  const Scores row = scores(config, logits, bias);
  std::vector<double> best = row.choosing;
  std::sort(best.begin(), best.end(), std::greater<>());
  double sum = 0;
  for (int rank = 0; rank < config.top_k; ++rank) {
    const bool valid = ids[rank] >= 0 && ids[rank] < config.experts && std::count(ids, ids + rank, ids[rank]) == 0;
    seen.expect(valid);
    if (!valid) return;
    seen.near(row.choosing[ids[rank]], best[rank], 2e-6);
    sum += row.plain[ids[rank]];
  }
  for (int rank = 0; rank < config.top_k; ++rank)
    seen.near(weights[rank], row.plain[ids[rank]] / sum * static_cast<double>(config.routed_scaling_factor), 1e-5);
}

}  // namespace

void bench_gate(Bench& bench) {
  constexpr int kExperts = 256, kTopK = 8;
  constexpr GateConfig kV3 = {.method = GateMethod::sigmoid_noaux_tc,
                              .experts = kExperts,
                              .top_k = kTopK,
                              .groups = 8,
                              .top_k_groups = 4,
                              .normalize = true,
                              .routed_scaling_factor = 2.5f};
  DeviceBuffer<std::uint32_t> workspace(kGateCudaWorkspace);
  workspace.fill_bytes(0);
  DeviceBuffer<float> bias(kExperts);
  fill_random(bias.get(), bias.size(), 11, bench.stream());
  struct Path {
    const char* name;
    GateCudaPath path;
  };
  for (const int rows : {1, 128, 256, 1024, 4096}) {
    DeviceBuffer<float> logits(static_cast<std::size_t>(rows) * kExperts),
        weights(static_cast<std::size_t>(rows) * kTopK);
    DeviceBuffer<std::int32_t> ids(static_cast<std::size_t>(rows) * kTopK), counts(kExperts), offsets(kExperts + 1);
    fill_random(logits.get(), logits.size(), 12, bench.stream());
    for (const Path& path : {Path{"cluster of 8", GateCudaPath::cluster_8},
                             Path{"cluster of 16", GateCudaPath::cluster_16}, Path{"grid", GateCudaPath::grid}}) {
      if (path.path != GateCudaPath::grid && rows > 256) continue;
      GateCudaCall call = {kV3,           logits.get(), kExperts,      rows,           ids.get(),
                           weights.get(), counts.get(), offsets.get(), workspace.get()};
      call.config.bias = bias.get();
      const char* chosen = path.path == gate_cuda_path_for(rows) ? " (default)" : "";
      const std::string what =
          "gate V3 " + std::to_string(rows) + " rows, counts, offsets, " + std::string(path.name) + chosen;
      const auto run = [&](cudaStream_t s) { PELAGIC_CUDA(gate_cuda(call, path.path, s)); };
      for (DeviceBuffer<std::int32_t>* out : {&ids, &counts, &offsets}) out->fill_bytes(0xFF);
      weights.fill_bytes(0xFF);
      bench.run(run);
      BenchCheck seen;
      const std::vector<std::int32_t> got = ids.download(), got_counts = counts.download(),
                                      got_offsets = offsets.download();
      const std::vector<float> got_weights = weights.download(), biases = bias.download();
      for (const int row : sampled_rows(rows)) {
        const std::size_t at = static_cast<std::size_t>(row) * kTopK;
        check_choices(seen, kV3, logits.download(static_cast<std::size_t>(row) * kExperts, kExperts).data(), biases,
                      got.data() + at, got_weights.data() + at);
      }
      for (int expert = 0, before = 0; expert <= kExperts; ++expert) {
        seen.expect(got_offsets[expert] == before);
        if (expert == kExperts) break;
        const auto count = static_cast<std::int32_t>(std::count(got.begin(), got.end(), expert));
        seen.expect(got_counts[expert] == count);
        before += count;
      }
      bench.check(what, seen);
      const double us = bench.time_us(run, 60);
      const double bytes =
          static_cast<double>(logits.bytes() + ids.bytes() + weights.bytes() + counts.bytes() + offsets.bytes());
      bench.add(what, us, "us", bench.ceilings().empty_us + bench.roof_us(bytes, 0, 0));
      if (path.path != gate_cuda_path_for(rows)) continue;
      const double warm = bench.time_us(run, 60, true);
      bench.add("gate V3 " + std::to_string(rows) + " rows, the same with its data and code in the L2", warm, "us", 0);
    }
  }
}

}  // namespace pelagic
