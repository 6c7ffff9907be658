// Rows of one layer of the paged cache to a contiguous buffer and back, on the GPU. Copies; checksums are the caller's.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace pelagic {

// What the device noted in `errors`: words that it sets to 1 and never clears.
enum KvCacheCudaError {
  kKvBadBlock,  // a block id outside of the cache, or a place outside of the table: the row is not copied
  kKvCacheErrors,
};

// Rows of positions [first_position, first_position + rows) of one sequence.
struct KvRowsCudaCall {
  int row_bytes;  // a multiple of 16: 1,152 for 576 bf16 columns
  int first_position;
  int rows;
  // Device memory (the buffer may be pinned host memory); cache and buffer begin at a multiple of 16 bytes.
  const std::int32_t* blocks;  // [table_blocks]: entry t holds positions 64t .. 64t + 63
  int table_blocks;
  void* cache;  // [cache_blocks, 64, row_bytes], one layer
  int cache_blocks;
  void* buffer;          // [rows, row_bytes]
  std::int32_t* errors;  // [kKvCacheErrors]
};

cudaError_t kv_pack_cuda(const KvRowsCudaCall& call, cudaStream_t stream);    // cache -> buffer
cudaError_t kv_unpack_cuda(const KvRowsCudaCall& call, cudaStream_t stream);  // buffer -> cache

}  // namespace pelagic
