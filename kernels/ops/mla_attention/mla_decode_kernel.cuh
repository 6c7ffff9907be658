// What the parts of MLA decode share: the pieces of work, where their results lie, and the last steps of a row.
#pragma once

#include <cuda_bf16.h>

#include "cuda/arithmetic.cuh"
#include "cuda/sm90.cuh"
#include "ops/mla_attention/mla_decode_cuda.h"

namespace pelagic::mla_decode {

inline constexpr int kTile = 64;  // vectors (query row, head) of a piece, and keys of a tile
static_assert(kTile == kMlaDecodeBlockTokens);
inline constexpr int kSpreadTiles = 8;       // of a cut that can be spread, at most
inline constexpr int kSpreadQueryRows = 16;  // asked for at once

// One tile of 64 query vectors of a sequence against one cut of its keys. A sequence's vectors are numbered row by row,
// head by head. Its pieces are neighbours in the list: cut by cut, tile by tile.
struct alignas(16) Piece {
  std::int32_t sequence;
  std::int32_t row;     // the sequence's first
  std::int32_t rows;    // of the sequence
  std::int32_t length;  // keys that the last of them sees
  std::int32_t tile;
  std::int32_t cut;
  std::int32_t cuts;    // of the sequence, at least 1
  std::int32_t walked;  // not the piece's own: which piece is the nth to be worked on, n this one's place in the list
};

struct Arguments {
  int rows;
  int heads;
  int sequences;
  int max_blocks;
  int cache_blocks;
  int cut_tokens;
  int piece_capacity;
  float log2_scale;  // scale * log2(e): scores are powers of 2
  const __nv_bfloat16* q;
  const std::int32_t* block_table;
  const std::int32_t* row_offsets;
  const std::int32_t* lengths;
  __nv_bfloat16* out;
  std::int32_t* errors;
  // In the workspace.
  std::int32_t* piece_count;
  Piece* pieces;
  float2* stats;    // [pieces][64]: largest scaled score, sum of weights
  float* partials;  // [pieces][64][512]: sum of weights times latents
};

__host__ __device__ inline int tiles_of(int rows, int heads) { return (rows * heads + kTile - 1) / kTile; }
__host__ __device__ inline int cuts_of(int length, int cut_tokens) { return (length + cut_tokens - 1) / cut_tokens; }

__device__ __forceinline__ Piece load_piece(const Arguments& a, int index) {
  const int4* words = reinterpret_cast<const int4*>(a.pieces + index);
  const int4 low = __ldg(words);
  const int4 high = __ldg(words + 1);
  return {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
}

// The piece that is worked on as the nth.
__device__ __forceinline__ int walked_piece(const Arguments& a, int n) { return __ldg(&a.pieces[n].walked); }

// Keys that the query vector with this number in the sequence sees; none if there is no such vector.
__device__ __forceinline__ int visible_keys(const Arguments& a, const Piece& piece, int vector) {
  const int row = vector / a.heads;
  return row < piece.rows ? max(0, piece.length - (piece.rows - 1 - row)) : 0;
}

// Where a vector's 512 results go.
__device__ __forceinline__ __nv_bfloat16* out_of(const Arguments& a, const Piece& piece, int vector) {
  return a.out + (static_cast<std::int64_t>(piece.row) * a.heads + vector) * kMlaDecodeLatent;
}

// What the sums of a row are multiplied by at the end.
__device__ __forceinline__ float inverse_of(float sum) { return sum == 0.0f ? 0.0f : __frcp_rn(sum); }

int cuts_grid();  // 0 if the device cannot run it
cudaError_t launch_cuts(const MlaDecodePlan& plan, const Arguments& arguments, cudaStream_t stream);

bool spread_runs();
cudaError_t launch_spread(const MlaDecodePlan& plan, const Arguments& arguments, cudaStream_t stream);

}  // namespace pelagic::mla_decode
