// Latent attention of prompt rows on the GPU (sm_90a), expanded form: causal, against keys and values that a GEMM has
// made from the latents. Maths, order of sums and how it works: CUDA.md.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace pelagic {

inline constexpr int kMlaPrefillNope = 128;   // columns of a key that belong to a head
inline constexpr int kMlaPrefillRope = 64;    // and that all heads share
inline constexpr int kMlaPrefillQuery = 192;  // nope, then rope
inline constexpr int kMlaPrefillValue = 128;

// What the device noted in `errors`: words that it sets to 1 and never clears.
enum MlaPrefillError {
  kMlaPrefillBadSequence,  // row_offsets or key_offsets out of range or order, or fewer keys than rows: the sequence is
                           // left out, its output not written; where they fall, others may be left out too
  kMlaPrefillErrors,
};

struct MlaPrefillProblem {
  int rows;       // query rows of the buffers
  int keys;       // key rows of the buffers
  int heads;      // 1 to 128
  int sequences;  // at least 1
  float scale;    // softmax scale, above 0: 192^-0.5 m^2 for DeepSeek's models
  // Device memory; q, kv, k_rope and out begin at a multiple of 16 bytes. What it holds is read when the kernel runs.
  const void* q;       // bf16 [rows, heads, 192]: nope, then rotated rope
  const void* kv;      // bf16 [keys, heads, 256]: 128 columns of key, 128 of value
  const void* k_rope;  // bf16 [keys, 64], rotated
  // [sequences + 1] each: sequence s has query rows [row_offsets[s], row_offsets[s + 1]) and keys [key_offsets[s],
  // key_offsets[s + 1]). Its rows are the last of its keys: with `start` more keys than rows, row i sees the keys 0 to
  // start + i. A sequence may have no rows, and keys all the same.
  const std::int32_t* row_offsets;
  const std::int32_t* key_offsets;
  void* out;             // bf16 [rows, heads, 128]
  std::int32_t* errors;  // [kMlaPrefillErrors]
};

// All that a launch needs. Made once for a set of buffers; launching allocates nothing and can be captured in a graph.
struct MlaPrefillPlan {
  MlaPrefillProblem problem;
  CUtensorMap query_map;
  CUtensorMap kv_map;
  CUtensorMap rope_map;
};

// Throws std::invalid_argument naming the field, or std::runtime_error from the driver.
MlaPrefillPlan make_mla_prefill_plan(const MlaPrefillProblem& problem);

cudaError_t launch_mla_prefill(const MlaPrefillPlan& plan, cudaStream_t stream);

}  // namespace pelagic
