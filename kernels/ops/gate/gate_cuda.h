// Routing on the GPU: gate.h's maths with gate.h's bits, and the experts' counts and offsets, in one kernel. README.md
// says how.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "ops/gate/gate.h"

namespace pelagic {

// How the blocks come to common counts. Speed only: the results are equal.
enum class GateCudaPath {
  cluster_8,   // one cluster of 8 blocks of 16 warps
  cluster_16,  // one cluster of 16 blocks of 8 warps
  grid,        // any number of blocks of 32 warps; the last to finish adds up
};

GateCudaPath gate_cuda_path_for(int rows);

struct GateCudaCall {
  GateConfig config;  // bias: device memory. experts at most 256, top_k at most 32
  // Device memory.
  const float* logits;  // [rows, experts]
  std::int64_t ld_logits;
  int rows;
  std::int32_t* ids;         // [rows, top_k], as gate_rows gives them
  float* weights;            // [rows, top_k]
  std::int32_t* counts;      // [experts]: rows that chose the expert
  std::int32_t* offsets;     // [experts + 1]: sum of the counts before each expert; the last is rows * top_k
  std::uint32_t* workspace;  // kGateCudaWorkspace words, zero before the first call; every call leaves it zero
  bool beside = false;       // cuda/dependents.cuh
};

inline constexpr std::size_t kGateCudaWorkspace = 256 + 1;

// A row with a NaN logit gets valid distinct ids and NaN weights. cudaErrorInvalidValue for shapes that no kernel here
// takes (README.md).
cudaError_t gate_cuda(const GateCudaCall& call, GateCudaPath path, cudaStream_t stream);

}  // namespace pelagic
