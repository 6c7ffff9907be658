// The MoE op's bookkeeping on the GPU: rows into slot (physical expert) order and back. The places and the bits of
// moe.h; CUDA.md.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/row_type.h"

namespace pelagic {

// What the device noted in `errors`: words that it sets to 1 and never clears.
enum MoeCudaError {
  kMoeBadExpert,  // an id outside of [0, experts): the choice is left out (position -1)
  kMoeNoRoom,     // more rows of a slot than row_capacity: those past it are left out
  kMoeErrors,
};

// Where each choice goes. Contiguous (row_capacity 0): slots one after the other without padding. Masked: slot s has
// rows [s * row_capacity, s * row_capacity + slot_counts[s]). Within a slot by row.
struct MoeSortCudaCall {
  int rows;
  int top_k;
  int experts;
  int slots;
  int row_capacity;
  // Device memory.
  const std::int32_t* ids;              // [rows, top_k], as the gate gives them: distinct within a row
  const std::int32_t* slot_begin;       // [experts + 1] into slots_by_expert, or null: slot s holds expert s
  const std::int32_t* slots_by_expert;  // [slots]; (row + rank) mod count picks one, as in build_moe_batch
  std::int32_t* positions;              // [rows, top_k]: row in slot order, -1 for none
  std::int32_t* slot_counts;            // [slots], at most row_capacity where masked: the grouped GEMM's `rows`
  std::int32_t* slot_offsets;           // [slots + 1]: the same for contiguous rows
  std::int32_t* errors;                 // [kMoeErrors]
  bool beside = false;                  // cuda/dependents.cuh
};

cudaError_t moe_sort_cuda(const MoeSortCudaCall& call, cudaStream_t stream);

// out[positions[row, rank]] = x[row], bytes and scales.
struct MoeDispatchCudaCall {
  int rows;
  int top_k;
  int row_bytes;  // a multiple of 16
  // Device memory; rows begin at a multiple of 16 bytes.
  const std::int32_t* positions;
  const void* x;  // [rows], ldx_bytes apart
  std::int64_t ldx_bytes;
  void* out;              // [slot order], row_bytes apart
  int scale_blocks;       // scales of a row; 0: none
  const float* x_scales;  // [scale_blocks, ld_x_scales]
  std::int64_t ld_x_scales;
  float* out_scales;  // [scale_blocks, ld_out_scales]
  std::int64_t ld_out_scales;
};

cudaError_t moe_dispatch_cuda(const MoeDispatchCudaCall& call, cudaStream_t stream);

// y = shared (or 0); then for rank ascending: y = fma(weights[row, rank], expert_out[positions[row, rank]], y).
struct MoeCombineCudaCall {
  int rows;
  int top_k;
  int width;  // a multiple of 8
  // Device memory; rows begin at a multiple of 16 bytes.
  const std::int32_t* positions;
  const float* weights;    // [rows, top_k]
  const void* expert_out;  // bf16 [slot order, width]
  const void* shared;      // bf16 [rows, width] or null; may be y where y is bf16
  std::int64_t ld_shared;
  void* y;  // [rows, width]
  RowType y_type;
  std::int64_t ldy;
};

cudaError_t moe_combine_cuda(const MoeCombineCudaCall& call, cudaStream_t stream);

}  // namespace pelagic
