// Rows as they travel between ranks: a row's numbers and, where these are e4m3, its scales behind them.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace pelagic {

// Rows apart: data [rows, row_bytes] ldx_bytes apart, scales [scale_blocks, ld_scales]. Rows packed: packed_bytes each.
// All bytes are multiples of 16, and all rows begin at one.
struct RankRowsCudaCall {
  int rows;
  int row_bytes;
  int scale_blocks;  // 0: no scales
  int packed_bytes;  // at least row_bytes + 4 scale_blocks
};

// packed[i] = row i.
cudaError_t pack_rank_rows_cuda(const RankRowsCudaCall& call, const void* x, std::int64_t ldx_bytes,
                                const float* scales, std::int64_t ld_scales, void* packed, cudaStream_t stream);

// Row i = packed[index[i]], or packed[i] without an index. out: [rows, row_bytes].
cudaError_t unpack_rank_rows_cuda(const RankRowsCudaCall& call, const void* packed, const std::uint32_t* index,
                                  void* out, float* scales, std::int64_t ld_scales, cudaStream_t stream);

}  // namespace pelagic
