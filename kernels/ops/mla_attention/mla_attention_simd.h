// mla_attention_ref.cpp for many query vectors at once: a tile of keys is read (and widened) once for a group of them.
#pragma once

#include <algorithm>
#include <cstring>
#include <limits>

#include "base/bfloat16.h"
#include "ops/mla_attention/mla_attention.h"

namespace pelagic::PELAGIC_SIMD_NAMESPACE {
namespace {

// Query vectors (row, head) that walk the keys together. Their scores of one tile lie on the stack.
constexpr int kGroupQueries = 64;
// Queries (heads of one row) x keys of a score block, and queries x vectors of an update block, in accumulator
// registers.
constexpr int kScoreQueries = kVectorRegisters == 32 ? 4 : 1;
constexpr int kScoreKeys = 4;
constexpr int kUpdateQueries = 4;
constexpr int kUpdateVectors = kVectorRegisters == 32 ? 4 : 1;
// Keys that all queries of a group are scored against before the next keys: they fit in L1 beside one block of queries.
constexpr int kKeysInL1 = 8;
// Up to here (decode) a group is bound by reading the cache: bfloat16 is widened in registers at each use, not once
// into scratch, and keys are fetched ahead. More queries than this use a key often enough that neither pays.
constexpr int kFewQueries = 16;

// One group: rows [row_begin, row_end) x heads [head_begin, head_end), at most kGroupQueries query vectors; columns of
// u.
struct Group {
  const MlaAttentionCall& call;
  int row_begin, row_end, head_begin, head_end;
  int column_begin, column_end;
  float scores[kGroupQueries][kBlockRows];  // of one tile; after the softmax step the weights p
  float maximum[kGroupQueries];
  float sum[kGroupQueries];
  float correction[kGroupQueries];

  int width() const { return call.layout->latent_width(); }
  int heads() const { return head_end - head_begin; }
  int query(int row, int head) const { return (row - row_begin) * heads() + head - head_begin; }
  const float* q(int row, int head) const { return call.q + row * call.q_row_stride + head * call.q_head_stride; }
  float* u(int row, int head) const { return call.u + row * call.u_row_stride + head * call.u_head_stride; }
  // Keys of the tile that a row attends to: 0 or less for a row before the tile.
  int keys_of(int row, int first_key) const { return std::min(kBlockRows, call.first_position + row + 1 - first_key); }
};

// Rows [0, keys) of one bfloat16 block as float32.
const float* widen_tile(const KvLayout& layout, const bfloat16_bits* block, int keys, float* scratch) {
  const int count = keys * layout.latent_width();
  int i = 0;
  for (; i + 16 <= count; i += 16) F32x16::load_bf16(block + i).store(scratch + i);
  for (; i < count; ++i) scratch[i] = bf16_to_f32(block[i]);
  return scratch;
}

inline F32x16 load_lanes(const float* p) { return F32x16::load(p); }
inline F32x16 load_lanes(const bfloat16_bits* p) { return F32x16::load_bf16(p); }
inline F32x16 load_first_lanes(const float* p, int lanes) { return F32x16::load_first(p, lanes); }
inline F32x16 load_first_lanes(const bfloat16_bits* p, int lanes) {
  alignas(32) bfloat16_bits padded[16] = {};
  for (int i = 0; i < lanes; ++i) padded[i] = p[i];
  return F32x16::load_bf16(padded);
}

// Dot products of QUERIES heads with kScoreKeys keys. Lane i is chain i. PREFETCH: also fetches the next kScoreKeys
// keys, and the first of those at `next`, in the tile after this one, unless it is null: update_block fetches the
// others, so that the reading is spread over all of the arithmetic.
template <int QUERIES, bool PREFETCH, class Element>
void score_block(const float* q, std::int64_t q_stride, const Element* keys, [[maybe_unused]] const Element* next,
                 int width, float scale, float* scores, std::int64_t score_stride) {
  F32x16 acc[QUERIES][kScoreKeys];
#pragma GCC unroll 8
  for (int i = 0; i < QUERIES; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < kScoreKeys; ++j) acc[i][j] = F32x16::zero();
  int d = 0;
  for (; d + 16 <= width; d += 16) {
    F32x16 key[kScoreKeys];
#pragma GCC unroll 8
    for (int j = 0; j < kScoreKeys; ++j) {
      if constexpr (PREFETCH) {
        _mm_prefetch(reinterpret_cast<const char*>(keys + (j + kScoreKeys) * width + d), _MM_HINT_T0);
        if (j == 0 && next != nullptr) _mm_prefetch(reinterpret_cast<const char*>(next + d), _MM_HINT_T1);
      }
      key[j] = load_lanes(keys + j * width + d);
    }
#pragma GCC unroll 8
    for (int i = 0; i < QUERIES; ++i) {
      const F32x16 x = F32x16::load(q + i * q_stride + d);
#pragma GCC unroll 8
      for (int j = 0; j < kScoreKeys; ++j) acc[i][j] = fma(x, key[j], acc[i][j]);
    }
  }
  if (d < width) {
    const int lanes = width - d;
#pragma GCC unroll 8
    for (int i = 0; i < QUERIES; ++i) {
      const F32x16 x = F32x16::load_first(q + i * q_stride + d, lanes);
#pragma GCC unroll 8
      for (int j = 0; j < kScoreKeys; ++j)
        acc[i][j] =
            F32x16::first_of(lanes, fma(x, load_first_lanes(keys + j * width + d, lanes), acc[i][j]), acc[i][j]);
    }
  }
  if constexpr (QUERIES == 4 && kScoreKeys == 4) {
    (sum_lanes_of_16(acc) * F32x16::splat(scale)).store_quarters(scores, score_stride);
  } else {
    for (int i = 0; i < QUERIES; ++i) {
      const __m128 dots = sum_lanes_of_4(acc[i][0], acc[i][1], acc[i][2], acc[i][3]);
      _mm_storeu_ps(scores + i * score_stride, _mm_mul_ps(dots, _mm_set1_ps(scale)));
    }
  }
}

// The largest score of one query's `keys` keys of a tile. Later keys are given a score whose weight is 0.
inline float tile_maximum(float* scores, int keys) {
  const F32x16 lowest = F32x16::splat(-std::numeric_limits<float>::infinity());
  F32x16 largest = lowest;
  for (int first = 0; first < kBlockRows; first += 16) {
    const int lanes = std::clamp(keys - first, 0, 16);
    const F32x16 x = F32x16::first_of(lanes, F32x16::load(scores + first), lowest);
    if (lanes < 16) x.store(scores + first);
    largest = max_of(x, largest);
  }
  return max_lanes(largest);
}

// Scores -> weights of one query and tile; returns their sum.
inline float softmax_weights(float* scores, float maximum) {
  const F32x16 shift = F32x16::splat(maximum);
  F32x16 chains = F32x16::zero();
  for (int first = 0; first < kBlockRows; first += 16) {
    const F32x16 p = softmax_exp(F32x16::load(scores + first) - shift);
    chains = chains + p;
    p.store(scores + first);
  }
  return sum_lanes(chains);
}

// u = u * correction, then u = fma(p_j, c_j, u) for j ascending: QUERIES heads x VECTORS * 16 columns, or `lanes`
// columns of one vector.
template <int QUERIES, int VECTORS, bool PARTIAL, class Element>
void update_block(const float (*p)[kBlockRows], const float* correction, const Element* latents, const Element* next,
                  int width, int keys, float* u, std::int64_t u_stride, int lanes) {
  const auto load = [&](const auto* x) { return PARTIAL ? load_first_lanes(x, lanes) : load_lanes(x); };
  F32x16 acc[QUERIES][VECTORS];
#pragma GCC unroll 8
  for (int i = 0; i < QUERIES; ++i)
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; ++v) acc[i][v] = load(u + i * u_stride + 16 * v) * F32x16::splat(correction[i]);
  for (int j = 0; j < keys; ++j) {
    F32x16 latent[VECTORS];
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; ++v) {
      const bool new_line = v * 16 * sizeof(Element) % 64 == 0;
      if (next != nullptr && new_line && j % kScoreKeys != 0)
        _mm_prefetch(reinterpret_cast<const char*>(next + j * width + 16 * v), _MM_HINT_T1);
      latent[v] = load(latents + j * width + 16 * v);
    }
#pragma GCC unroll 8
    for (int i = 0; i < QUERIES; ++i) {
      const F32x16 weight = F32x16::splat(p[i][j]);
#pragma GCC unroll 8
      for (int v = 0; v < VECTORS; ++v) acc[i][v] = fma(weight, latent[v], acc[i][v]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < QUERIES; ++i)
#pragma GCC unroll 8
    for (int v = 0; v < VECTORS; ++v) {
      if (PARTIAL) {
        acc[i][v].store_first(u + i * u_stride + 16 * v, lanes);
      } else {
        acc[i][v].store(u + i * u_stride + 16 * v);
      }
    }
}

// Calls fn.template operator()<n>(first) for blocks of at most MAX heads.
template <int MAX, class Fn>
inline void for_head_blocks(int head_begin, int head_end, Fn&& fn) {
  int head = head_begin;
  for (; head + MAX <= head_end; head += MAX) fn.template operator()<MAX>(head);
  if constexpr (MAX > 1) {
    switch (head_end - head) {
      case 1:
        return fn.template operator()<1>(head);
      case 2:
        if constexpr (MAX > 2) return fn.template operator()<2>(head);
        break;
      case 3:
        if constexpr (MAX > 3) return fn.template operator()<3>(head);
        break;
      default:
        break;
    }
  }
}

template <bool PREFETCH, class Element>
void score_tile(Group& group, const Element* tile, const Element* next, int first_key, int first_row, int tile_keys) {
  for (int begin = 0; begin < tile_keys; begin += kKeysInL1) {
    for (int row = first_row; row < group.row_end; ++row) {
      // Rounded up to whole score blocks: scores past the row's keys (always rows of this same block) are never used.
      const int end = std::min(begin + kKeysInL1, group.keys_of(row, first_key));
      for_head_blocks<kScoreQueries>(group.head_begin, group.head_end, [&]<int N>(int head) {
        const int query = group.query(row, head);
        for (int j = begin; j < end; j += kScoreKeys)
          score_block<N, PREFETCH>(group.q(row, head), group.call.q_head_stride, tile + j * group.width(),
                                   next == nullptr ? nullptr : next + j * group.width(), group.width(),
                                   group.call.scale, &group.scores[query][j], kBlockRows);
      });
    }
  }
}

template <int VECTORS, bool PARTIAL, class Element>
void update_columns(Group& group, const Element* tile, const Element* next, int first_key, int first_row, int column,
                    int lanes) {
  for (int row = first_row; row < group.row_end; ++row) {
    const int keys = group.keys_of(row, first_key);
    for_head_blocks<kUpdateQueries>(group.head_begin, group.head_end, [&]<int N>(int head) {
      const int query = group.query(row, head);
      update_block<N, VECTORS, PARTIAL>(&group.scores[query], &group.correction[query], tile + column,
                                        next == nullptr ? nullptr : next + column, group.width(), keys,
                                        group.u(row, head) + column, group.call.u_head_stride, lanes);
    });
  }
}

template <class Element>
void update_tile(Group& group, const Element* tile, const Element* next, int first_key, int first_row) {
  int column = group.column_begin;
  for (; column + 16 * kUpdateVectors <= group.column_end; column += 16 * kUpdateVectors)
    update_columns<kUpdateVectors, false>(group, tile, next, first_key, first_row, column, 16);
  for (; column + 16 <= group.column_end; column += 16)
    update_columns<1, false>(group, tile, next, first_key, first_row, column, 16);
  if (column < group.column_end)
    update_columns<1, true>(group, tile, next, first_key, first_row, column, group.column_end - column);
}

// Scores -> weights of a tile, and each query's running maximum, sum and correction. Step by step for all queries, as
// each step alone is a chain of dependent operations.
void softmax_tile(Group& group, int first_key, int first_row) {
  const int begin = group.query(first_row, group.head_begin);
  const int end = group.query(group.row_end, group.head_begin);
  float old_maximum[kGroupQueries];
  for (int query = begin; query < end; ++query) {
    const int row = group.row_begin + query / group.heads();
    const float largest = tile_maximum(group.scores[query], group.keys_of(row, first_key));
    old_maximum[query] = group.maximum[query];
    if (largest > group.maximum[query]) group.maximum[query] = largest;
  }
  for (int query = begin; query < end; query += 16) {
    const int lanes = std::min(16, end - query);
    const F32x16 drop =
        F32x16::load_first(old_maximum + query, lanes) - F32x16::load_first(group.maximum + query, lanes);
    softmax_exp(drop).store_first(group.correction + query, lanes);
  }
  for (int query = begin; query < end; ++query) {
    const float sum = softmax_weights(group.scores[query], group.maximum[query]);
    group.sum[query] = group.sum[query] * group.correction[query] + sum;
  }
}

// Before the first tile: nothing seen, u = 0.
void start(Group& group) {
  for (int row = group.row_begin; row < group.row_end; ++row) {
    for (int head = group.head_begin; head < group.head_end; ++head) {
      group.maximum[group.query(row, head)] = -std::numeric_limits<float>::infinity();
      group.sum[group.query(row, head)] = 0.0f;
      float* u = group.u(row, head);
      for (int i = group.column_begin; i < group.column_end; ++i) u[i] = 0.0f;
    }
  }
}

// After the last: u = u / sum.
void finish(Group& group) {
  for (int row = group.row_begin; row < group.row_end; ++row) {
    for (int head = group.head_begin; head < group.head_end; ++head) {
      const F32x16 divisor = F32x16::splat(group.sum[group.query(row, head)]);
      float* u = group.u(row, head);
      int i = group.column_begin;
      for (; i + 16 <= group.column_end; i += 16) (F32x16::load(u + i) / divisor).store(u + i);
      const int rest = group.column_end - i;
      if (rest > 0) (F32x16::load_first(u + i, rest) / divisor).store_first(u + i, rest);
    }
  }
}

const std::byte* block_at(const MlaAttentionCall& call, int key) {
  return call.cache + call.layout->offset(call.layer, call.blocks[key / kBlockRows], 0);
}

// All rows of the group over one tile of keys. next: the tile after it, to be fetched ahead, or null.
template <bool PREFETCH, class Element>
void attend_tile(Group& group, const Element* tile, const Element* next, int first_key, int first_row) {
  score_tile<PREFETCH>(group, tile, next, first_key, first_row, group.keys_of(group.row_end - 1, first_key));
  softmax_tile(group, first_key, first_row);
  update_tile(group, tile, next, first_key, first_row);
}

template <class Element>
void attend_few(Group& group) {
  const int key_count = group.call.first_position + group.row_end;  // of the last row
  for (int first_key = 0; first_key < key_count; first_key += kBlockRows) {
    const int first_row =
        std::max(group.row_begin, first_key - group.call.first_position);  // earlier rows end before this tile
    const bool last = first_key + kBlockRows >= key_count;
    const auto* tile = reinterpret_cast<const Element*>(block_at(group.call, first_key));
    const auto* next = last ? nullptr : reinterpret_cast<const Element*>(block_at(group.call, first_key + kBlockRows));
    attend_tile<true>(group, tile, next, first_key, first_row);
  }
}

void attend_many(Group& group, float* scratch) {
  const KvLayout& layout = *group.call.layout;
  const int key_count = group.call.first_position + group.row_end;
  for (int first_key = 0; first_key < key_count; first_key += kBlockRows) {
    const int first_row = std::max(group.row_begin, first_key - group.call.first_position);
    const std::byte* block = block_at(group.call, first_key);
    const float* tile = reinterpret_cast<const float*>(block);
    if (layout.dtype == KvDtype::bfloat16) {
      // Rounded up to whole score blocks, as score_tile reads them.
      const int keys = (group.keys_of(group.row_end - 1, first_key) + kScoreKeys - 1) / kScoreKeys * kScoreKeys;
      tile = widen_tile(layout, reinterpret_cast<const bfloat16_bits*>(block), keys, scratch);
    }
    attend_tile<false, float>(group, tile, nullptr, first_key, first_row);
  }
}

void attend_group(Group& group, float* scratch) {
  start(group);
  if ((group.row_end - group.row_begin) * group.heads() > kFewQueries) {
    attend_many(group, scratch);
  } else if (group.call.layout->dtype == KvDtype::float32) {
    attend_few<float>(group);
  } else {
    attend_few<bfloat16_bits>(group);
  }
  finish(group);
}

template <class Element>
void scores_of_row(const MlaAttentionCall& call, int row, int head_begin, int head_end, int key_begin, int key_end,
                   float* scores, std::int64_t ld_scores) {
  const int width = call.layout->latent_width();
  for (int key = key_begin; key < key_end; key += kScoreKeys) {  // a score block never crosses a cache block
    const Element* keys = reinterpret_cast<const Element*>(block_at(call, key)) + key % kBlockRows * width;
    for_head_blocks<kScoreQueries>(head_begin, head_end, [&]<int N>(int head) {
      score_block<N, true>(call.q + row * call.q_row_stride + head * call.q_head_stride, call.q_head_stride, keys,
                           static_cast<const Element*>(nullptr), width, call.scale,
                           scores + (head - head_begin) * ld_scores + key, ld_scores);
    });
  }
}

template <class Element>
void values_of_row(Group& group, const float* scores, std::int64_t ld_scores) {
  const int key_count = group.call.first_position + group.row_end;
  start(group);
  for (int first_key = 0; first_key < key_count; first_key += kBlockRows) {
    for (int query = 0; query < group.heads(); ++query)
      std::memcpy(group.scores[query], scores + query * ld_scores + first_key, sizeof group.scores[query]);
    softmax_tile(group, first_key, group.row_begin);
    const bool last = first_key + kBlockRows >= key_count;
    const auto* tile = reinterpret_cast<const Element*>(block_at(group.call, first_key));
    const auto* next = last ? nullptr : reinterpret_cast<const Element*>(block_at(group.call, first_key + kBlockRows));
    update_tile(group, tile, next, first_key, group.row_begin);
  }
  finish(group);
}

}  // namespace

void mla_attention(const MlaAttentionCall& call, int row_begin, int row_end, int head_begin, int head_end,
                   float* scratch) {
  for (int head = head_begin; head < head_end; head += kGroupQueries) {
    const int heads = std::min(kGroupQueries, head_end - head);
    const int group_rows = kGroupQueries / heads;
    for (int row = row_begin; row < row_end; row += group_rows) {
      Group group{call, row, std::min(row + group_rows, row_end), head, head + heads, 0, call.layout->kv_rank, {}, {},
                  {},   {}};
      attend_group(group, scratch);
    }
  }
}

void mla_scores(const MlaAttentionCall& call, int row, int head_begin, int head_end, int key_begin, int key_end,
                float* scores, std::int64_t ld_scores) {
  const auto run = call.layout->dtype == KvDtype::float32 ? scores_of_row<float> : scores_of_row<bfloat16_bits>;
  run(call, row, head_begin, head_end, key_begin, key_end, scores, ld_scores);
}

void mla_values(const MlaAttentionCall& call, int row, int head_begin, int head_end, int column_begin, int column_end,
                const float* scores, std::int64_t ld_scores) {
  const auto run = call.layout->dtype == KvDtype::float32 ? values_of_row<float> : values_of_row<bfloat16_bits>;
  for (int head = head_begin; head < head_end; head += kGroupQueries) {
    Group group{call, row, row + 1, head, std::min(head + kGroupQueries, head_end), column_begin, column_end,
                {},   {},  {},      {}};
    run(group, scores + (head - head_begin) * ld_scores, ld_scores);
  }
}

}  // namespace pelagic::PELAGIC_SIMD_NAMESPACE
