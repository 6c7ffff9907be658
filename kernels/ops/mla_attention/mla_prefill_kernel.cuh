// What the plan and the kernel of MLA prefill share.
#pragma once

#include <cuda_bf16.h>

#include "ops/mla_attention/mla_prefill_cuda.h"

namespace pelagic::mla_prefill {

inline constexpr int kQueries = 128;  // rows of a piece, all of one head
inline constexpr int kKeys = 128;     // of a tile; tiles begin at multiples of it from a sequence's first key

struct Arguments {
  int rows;
  int keys;
  int heads;
  int sequences;
  int slots;         // see slots_of
  int group_heads;   // heads that are worked on at the same time
  float log2_scale;  // scale * log2(e): scores are powers of 2
  const __nv_bfloat16* q;
  const __nv_bfloat16* kv;
  const __nv_bfloat16* k_rope;
  const std::int32_t* row_offsets;
  const std::int32_t* key_offsets;
  __nv_bfloat16* out;
  std::int32_t* errors;
};

// A sequence's pieces have the slots from row_offsets[s] / kQueries + s on: as many as it needs or one more, whatever
// the offsets are, so that nothing has to be counted before the launch.
__host__ __device__ inline int first_slot(int first_row, int sequence) { return first_row / kQueries + sequence; }
__host__ __device__ inline int slots_of(int rows, int sequences) { return first_slot(rows, sequences); }

cudaError_t launch(const MlaPrefillPlan& plan, const Arguments& arguments, cudaStream_t stream);
bool prepare();  // false if the device cannot run it

}  // namespace pelagic::mla_prefill
