// Samples a batch's rows on the GPU: sampler.h's choice for the same logits, to the id, and its logprobs to the bit.
// CUDA.md.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "ops/sampler/sampler_pack.h"

namespace pelagic {

// What a cluster's shared memory holds of a row.
inline constexpr int kMostSamplerCudaVocab = 8 * 49152;

struct SamplerCudaCall {
  int rows;
  int vocab;  // 1 to kMostSamplerCudaVocab
  // Device memory.
  const float* logits;     // [rows, vocab], ld_logits apart, 16-byte aligned; not changed
  std::int64_t ld_logits;  // a multiple of 4
  const void* packed;      // pack_sampling's bytes for these rows, 8-byte aligned
  SampledRow* results;     // [rows]
};

// A row's record depends on its logits, position and parameters only. cudaErrorInvalidValue: a size out of range, a
// pointer that is not aligned. Nothing is allocated and nothing waits: a graph may hold the call, and what `packed`
// says may change between its runs.
cudaError_t sample_rows_cuda(const SamplerCudaCall& call, cudaStream_t stream);

}  // namespace pelagic
