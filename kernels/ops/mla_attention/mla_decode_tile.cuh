// What a warpgroup does with a tile of keys, and what comes of its sums, in both forms of the cuts: the same steps in
// the same order, hence the same bits. A thread has two of the 64 vectors, 16 warp + lane / 4 and the one 8 further.
#pragma once

#include <cmath>

#include "ops/mla_attention/mla_decode_stages.cuh"

namespace pelagic::mla_decode {

// s[4j], s[4j + 1]: the first vector, keys 8j + 2 (lane % 4) and the next; s[4j + 2], s[4j + 3]: the second.
using Scores = float[kTile / 2];
using Weights = std::uint32_t[kTile / 4];  // pairs of keys: [2j] of the first vector, [2j + 1] of the second

// await(panel) returns when the panel and those before it may be read.
template <typename Await>
__device__ __forceinline__ void score_tile(Scores& s, std::uint64_t queries, std::uint64_t keys, const Await& await) {
  sm90::hold(s);
  sm90::wgmma_fence();
#pragma unroll
  for (int panel = 0; panel < kPanels; ++panel) {
    await(panel);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int step = panel * (kPanelBytes >> 4) + 2 * i;
      sm90::Wgmma<kTile>::bf16(s, queries + step, keys + step, panel + i);
    }
  }
  sm90::wgmma_commit();
  sm90::hold(s);
  sm90::wgmma_wait_all();
  sm90::hold(s);
}

// Of the thread's vector i, which sees the tile's first `seen` keys: the others' scores become -inf. The largest.
__device__ __forceinline__ float mask_scores(Scores& s, int i, int seen, int lane) {
  const int limit = seen - 2 * (lane % 4);
  float top = -INFINITY;
#pragma unroll
  for (int j = 0; j < kTile / 8; ++j) {
    float& first = s[4 * j + 2 * i];
    float& second = s[4 * j + 2 * i + 1];
    if (8 * j >= limit) first = -INFINITY;
    if (8 * j + 1 >= limit) second = -INFINITY;
    top = fmaxf(top, fmaxf(first, second));
  }
  top = fmaxf(top, __shfl_xor_sync(0xFFFFFFFFu, top, 1));
  return fmaxf(top, __shfl_xor_sync(0xFFFFFFFFu, top, 2));
}

// What is taken from the scores when the largest so far is this.
__device__ __forceinline__ float origin_of(float largest) { return largest == -INFINITY ? 0.0f : largest; }

// The sums are of the rounded weights, which are what meets the latents.
__device__ __forceinline__ void weigh_scores(const Scores& s, float log2_scale, const float (&origin)[2],
                                             Weights& weights, float (&tile_sum)[2]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) tile_sum[i] = 0.0f;
#pragma unroll
  for (int j = 0; j < kTile / 8; ++j)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const std::uint32_t pair = bf16_pair(power_of_2(__fmaf_rn(s[4 * j + 2 * i], log2_scale, -origin[i])),
                                           power_of_2(__fmaf_rn(s[4 * j + 2 * i + 1], log2_scale, -origin[i])));
      weights[2 * j + i] = pair;
      tile_sum[i] += __uint_as_float(pair << 16);
      tile_sum[i] += __uint_as_float(pair & 0xFFFF0000u);
    }
}

// To a panel of 64 vectors by 64 keys.
__device__ __forceinline__ void store_weights(std::uint32_t panel, const Weights& weights, int warp, int lane) {
  const int row = 16 * warp + lane % 16;
#pragma unroll
  for (int j = 0; j < kTile / 8; j += 2)
    sm90::store_matrices(panel + row * 128 + ((j + lane / 16) ^ (row % 8)) * 16, weights[2 * j], weights[2 * j + 1],
                         weights[2 * j + 2], weights[2 * j + 3]);
}

// Infinities and NaN become 0.
__device__ __forceinline__ std::uint32_t finite(std::uint32_t pair) {
  if ((pair & 0x7F80u) == 0x7F80u) pair &= 0xFFFF0000u;
  if ((pair & 0x7F800000u) == 0x7F800000u) pair &= 0xFFFFu;
  return pair;
}

// A weight of 0 does not remove a NaN. What lies after a sequence's last key, from row `keys` of the tile on, becomes
// zeros; the keys before it which not all of the sequence's rows see become finite. A row that sees such a key has its
// NaN from the score.
__device__ __forceinline__ void clear_latents(unsigned char* at, int row, int keys) {
  uint4& eight = *reinterpret_cast<uint4*>(at);
  uint4 value = {};
  if (row < keys) value = {finite(eight.x), finite(eight.y), finite(eight.z), finite(eight.w)};
  eight = value;
}

// A factor of 1 changes no bit. Vectors that are not there may hold anything: they meet no other.
template <int kValues>
__device__ __forceinline__ void scale_sums(float (&total)[kValues], float upper, float lower) {
#pragma unroll
  for (int i = 0; i < kValues; i += 4) {
    total[i + 0] *= upper;
    total[i + 1] *= upper;
    total[i + 2] *= lower;
    total[i + 3] *= lower;
  }
}

// The sums of the thread's vectors over columns from `column` on (the warpgroup's, of 2 kValues): to the output if the
// cut is the only one, else to the partial results of the piece with this number.
template <int kValues>
__device__ __forceinline__ void write_sums(const Arguments& a, const Piece& piece, int index, int place, int column,
                                           int lane, const float (&total)[kValues], const float (&sums)[2]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int vector = piece.tile * kTile + place + 8 * i;
    if (vector >= piece.rows * a.heads) continue;
    const int first = column + 2 * (lane % 4);
    if (piece.cuts == 1) {
      // As merge_kernel does it with one cut: 0 + total, times the inverse.
      const float inverse = inverse_of(sums[i]);
      __nv_bfloat16* out = out_of(a, piece, vector) + first;
#pragma unroll
      for (int j = 0; j < kValues / 4; ++j)
        *reinterpret_cast<std::uint32_t*>(out + 8 * j) =
            bf16_pair((total[4 * j + 2 * i] + 0.0f) * inverse, (total[4 * j + 2 * i + 1] + 0.0f) * inverse);
    } else {
      float* partial =
          a.partials + (static_cast<std::int64_t>(index) * kTile + place + 8 * i) * kMlaDecodeLatent + first;
#pragma unroll
      for (int j = 0; j < kValues / 4; ++j)
        *reinterpret_cast<float2*>(partial + 8 * j) = make_float2(total[4 * j + 2 * i], total[4 * j + 2 * i + 1]);
    }
  }
}

}  // namespace pelagic::mla_decode
