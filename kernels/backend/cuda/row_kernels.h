// What the backend needs beside the ops: rows by index, and a pass that only reads.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "ops/kv_cache/kv_cache.h"

namespace pelagic {

// out[i] = x[rows[i]], rows of row_bytes bytes, a multiple of 16; all begin at a multiple of 16 bytes. out and x do not
// overlap. cudaErrorInvalidValue for other shapes.
struct GatherRowsCudaCall {
  int count;
  int row_bytes;
  const std::uint32_t* rows;  // [count], device memory as the rest
  const void* x;
  std::int64_t ldx_bytes;
  void* out;
  std::int64_t ld_out_bytes;
};
cudaError_t gather_rows_cuda(const GatherRowsCudaCall& call, cudaStream_t stream);

// Cached latents of several runs' keys side by side, latent part and rope part apart: what the expanded form's GEMM and
// attention read.
struct GatherLatentsCudaCall {
  int keys;  // of all runs
  int runs;
  int max_blocks;
  int cache_blocks;
  const std::int32_t* key_offsets;  // [runs + 1], device memory as the rest
  const std::int32_t* block_table;  // [runs, max_blocks]
  const void* cache;                // bf16 [cache_blocks, 64, 576], or fp8 rows
  KvDtype cache_dtype;
  void* latents;        // bf16 [keys, 512]
  void* rope;           // bf16 [keys, 64]
  std::int32_t* error;  // set to 1 where a block is not in the cache; its keys are zeros
};
cudaError_t gather_latents_cuda(const GatherLatentsCudaCall& call, cudaStream_t stream);

// Reads `bytes` (a multiple of 16) of device memory and adds something that depends on them to *sink.
cudaError_t read_bytes_cuda(const void* data, std::size_t bytes, unsigned* sink, cudaStream_t stream);

}  // namespace pelagic
