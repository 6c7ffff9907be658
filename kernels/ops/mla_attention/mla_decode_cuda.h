// Latent attention of a decode step on the GPU (sm_90a), absorbed form, over the paged cache in bf16 or FP8. Maths,
// order of sums and how it works: CUDA.md.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "ops/kv_cache/kv_cache.h"

namespace pelagic {

inline constexpr int kMlaDecodeBlockTokens = 64;  // keys of a cache block
inline constexpr int kMlaDecodeLatent = 512;      // columns of a key that are its value too
inline constexpr int kMlaDecodeKey = 576;         // latent, then rope

// Keys of a cut, unless the problem says otherwise. Part of a result's definition: another number gives other bits.
inline constexpr int kMlaDecodeCutTokens = 1024;
// Few heads write little for a cut, and short cuts spread a small batch over more processors.
constexpr int mla_decode_cut_tokens(int heads) { return heads <= 32 ? 512 : kMlaDecodeCutTokens; }

// What the device noted in `errors`: words that it sets to 1 and never clears.
enum MlaDecodeError {
  kMlaDecodeBadBlock,     // a block id outside of the cache: the block's keys are left out
  kMlaDecodeBadSequence,  // row_offsets or a length out of range: the sequence is left out, its output not written
  kMlaDecodeNoRoom,       // more pieces than piece_capacity: the sequences from there on are left out
  kMlaDecodeErrors,
};

struct MlaDecodeProblem {
  int rows;            // query rows of the buffers
  int heads;           // 1 to 128
  int sequences;       // at least 1
  int max_blocks;      // columns of the block table
  int cache_blocks;    // in the cache
  int cut_tokens;      // a multiple of 64; kMlaDecodeCutTokens
  int piece_capacity;  // see mla_decode_pieces
  float scale;         // softmax scale, above 0: 192^-0.5 m^2 for DeepSeek's models
  // Device memory; q, cache, out and workspace begin at a multiple of 16 bytes. What q, cache, block_table, row_offsets
  // and lengths hold is read when the kernels run.
  const void* q;                    // bf16 [rows, heads, 576]: q_nope W_UK, then rotated q_pe
  const void* cache;                // bf16 [cache_blocks, 64, 576], or fp8 rows (ops/kv_cache/fp8_latent.h)
  const std::int32_t* block_table;  // [sequences, max_blocks]: entry t holds keys 64t .. 64t + 63
  const std::int32_t* row_offsets;  // [sequences + 1]: sequence s has query rows [row_offsets[s], row_offsets[s + 1])
  const std::int32_t* lengths;      // [sequences]: keys that the sequence's last query row sees, itself included; the
                                    // row before it sees one less, and so on
  void* out;                        // bf16 [rows, heads, 512]; zeros for a row that sees no key
  void* workspace;                  // mla_decode_workspace_bytes(piece_capacity)
  std::int32_t* errors;             // [kMlaDecodeErrors]
  KvDtype cache_dtype = KvDtype::bfloat16;
};

// Of the cache's rows; rope and scales where they are apart (fp8).
struct CacheMaps {
  CUtensorMap keys, rope, scales;
};

// Pieces of work of a sequence. piece_capacity is at least the sum over the step's sequences.
int mla_decode_pieces(int rows, int heads, int length, int cut_tokens);

std::size_t mla_decode_workspace_bytes(int piece_capacity);

// All that a launch needs. Made once for a set of buffers; launching allocates nothing and can be captured in a graph.
struct MlaDecodePlan {
  MlaDecodeProblem problem;
  CUtensorMap query_map, spread_query_map;
  CacheMaps cache_maps;
  int grid;
  // Above 0: the cuts are spread, and by so many clusters of 8 blocks. Few pieces are then done sooner, many later; no
  // bit differs. Hangs on the problem's numbers alone, not on what device memory holds.
  int spread_clusters;
};

// Clusters that the problem's pieces can be spread over, as many as there may be pieces; 0 if its cuts are longer than
// 512 keys or its cache is fp8.
int mla_decode_spread_clusters(const MlaDecodeProblem& problem);

// Throws std::invalid_argument naming the field, or std::runtime_error from the driver.
MlaDecodePlan make_mla_decode_plan(const MlaDecodeProblem& problem);

// Lists the step's pieces in the workspace: once after row_offsets or lengths changed, for all layers whose plans share
// the workspace and differ only in q, cache, block_table and out.
cudaError_t launch_mla_decode_schedule(const MlaDecodePlan& plan, cudaStream_t stream);

cudaError_t launch_mla_decode(const MlaDecodePlan& plan, cudaStream_t stream);

}  // namespace pelagic
