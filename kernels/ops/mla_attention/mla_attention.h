// Latent attention in the absorbed form over the paged cache. Maths and order: README.md; formulas: spec/mla.md 4.2.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/cpu_features.h"
#include "ops/kv_cache/kv_cache.h"

namespace pelagic {

// One sequence's rows of a step in one layer. The rows' own latents are already in the cache.
struct MlaAttentionCall {
  const KvLayout* layout;
  const std::byte* cache;      // start of the whole cache
  int layer;
  const std::uint32_t* blocks; // the sequence's block table: block t holds positions 64t .. 64t+63
  int first_position;          // absolute position of row 0: row r attends to keys 0 .. first_position + r
  float scale;                 // softmax scale, e.g. 192^-0.5 m^2
  const float* q;              // [rows][heads][kv_rank + rope_dim]: q_nope W_UK, then rotated q_pe
  std::int64_t q_row_stride;   // floats
  std::int64_t q_head_stride;  // floats
  float* u;                    // [rows][heads][kv_rank]: sum over keys of p * latent
  std::int64_t u_row_stride;   // floats
  std::int64_t u_head_stride;  // floats
};

// Floats of scratch that each thread needs (64-byte aligned), whatever the item.
std::size_t mla_attention_scratch_floats(const KvLayout& layout);

// Rows [row_begin, row_end) x heads [head_begin, head_end) of one call; writes their u and nothing else. Every split gives the same bits.
PELAGIC_DECLARE_FOR_EACH_ISA(void mla_attention(const MlaAttentionCall& call, int row_begin, int row_end, int head_begin,
                                                int head_end, float* scratch);)

// One task for parallel_for.
struct AttentionItem {
  int sequence;
  int row_begin;
  int row_end;
  int head_begin;
  int head_end;
};

struct AttentionSequence {
  int rows;
  int first_position;
};

// Cuts a step's attention into items for `threads` threads, longest first: by row groups, and by head groups where there
// are too few rows. Appends to items (cleared first; its capacity is kept, so a steady state allocates nothing).
void split_attention(const AttentionSequence* sequences, int sequence_count, int heads, int threads, std::vector<AttentionItem>& items);

}  // namespace pelagic
