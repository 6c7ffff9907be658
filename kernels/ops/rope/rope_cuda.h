// Rotary embedding on the GPU: of queries, and of a step's latents on their way into the paged cache. Maths: README.md,
// spec/mla.md sections 2 and 3; order of the norm's sum: CUDA.md. 32 pairs (64 columns), as all DeepSeek models have.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "ops/kv_cache/kv_cache.h"

namespace pelagic {

inline constexpr int kRopeCudaColumns = 64;
inline constexpr int kLatentCudaColumns = 512;
inline constexpr int kLatentCudaRow = kLatentCudaColumns + kRopeCudaColumns;

// What the device noted in `errors`: words that it sets to 1 and never clears.
enum RopeCudaError {
  kRopeBadPosition,  // outside of the table of angles: the row is not written
  kRopeBadBlock,     // a block id outside of the cache, or a place outside of the block table: the row is not written
  kRopeErrors,
};

// RopeTable's numbers in device memory; YaRN's frequencies and amplitude are in them.
struct RopeCudaTable {
  const float* cos;  // [positions, 32]
  const float* sin;
  int positions;
};

// y[row, head] = the rotated 64 columns of x[row, head], both bf16. y may be x; else they do not overlap.
struct RopeCudaCall {
  int rows;
  int heads;
  RopeCudaTable table;
  const std::int32_t* row_positions;  // [rows]
  const void* x;                      // the first head's rope columns of the first row
  std::int64_t x_row_stride;          // in elements; all strides multiples of 8
  std::int64_t x_head_stride;
  void* y;
  std::int64_t y_row_stride;
  std::int64_t y_head_stride;
  std::int32_t* errors;  // [kRopeErrors]
  bool beside = false;   // cuda/dependents.cuh
};

cudaError_t rope_cuda(const RopeCudaCall& call, cudaStream_t stream);

// Row `position` of a sequence goes to row position % 64 of the block that entry position / 64 of its table names:
//   512 columns of rms_norm(compressed[: 512]; weight), then the rotated compressed[512 : 576].
struct StoreLatentsCudaCall {
  int rows;
  float eps;
  RopeCudaTable table;
  const void* compressed;  // bf16 [rows, 576]
  std::int64_t ld_compressed;
  const float* weight;                // [512]
  const std::int32_t* row_positions;  // [rows]
  const std::int32_t* row_sequences;  // [rows], row of the block table; null: row i is of sequence i
  const std::int32_t* block_table;    // [sequences, max_blocks]
  int sequences;
  int max_blocks;
  void* cache;  // one layer: bf16 [cache_blocks, 64, 576], or fp8 rows (ops/kv_cache/fp8_latent.h)
  int cache_blocks;
  std::int32_t* errors;  // [kRopeErrors]
  KvDtype cache_dtype = KvDtype::bfloat16;
};

cudaError_t store_latents_cuda(const StoreLatentsCudaCall& call, cudaStream_t stream);

// Both at once, beside the kernel before if rope says so.
cudaError_t rope_and_store_cuda(const RopeCudaCall& rope, const StoreLatentsCudaCall& store, cudaStream_t stream);

}  // namespace pelagic
