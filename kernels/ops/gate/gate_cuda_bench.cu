#include "ops/gate/gate_cuda_bench.h"

#include <string>

#include "cuda/random_fill.cuh"
#include "ops/gate/gate_cuda.h"

namespace pelagic {

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
      const double us = bench.time_us([&](cudaStream_t s) { PELAGIC_CUDA(gate_cuda(call, path.path, s)); }, 60);
      const double bytes =
          static_cast<double>(logits.bytes() + ids.bytes() + weights.bytes() + counts.bytes() + offsets.bytes());
      const char* chosen = path.path == gate_cuda_path_for(rows) ? " (default)" : "";
      bench.add("gate V3 " + std::to_string(rows) + " rows, counts, offsets, " + path.name + chosen, us, "us",
                bench.ceilings().empty_us + bench.roof_us(bytes, 0, 0));
      if (path.path != gate_cuda_path_for(rows)) continue;
      const double warm = bench.time_us([&](cudaStream_t s) { PELAGIC_CUDA(gate_cuda(call, path.path, s)); }, 60, true);
      bench.add("gate V3 " + std::to_string(rows) + " rows, the same with its data and code in the L2", warm, "us", 0);
    }
  }
}

}  // namespace pelagic
