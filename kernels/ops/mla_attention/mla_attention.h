// Latent attention in the absorbed form over the paged cache. Maths and order: README.md; formulas: spec/mla.md 4.2.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/cpu_features.h"
#include "base/thread_pool.h"
#include "ops/kv_cache/kv_cache.h"

namespace pelagic {

struct CpuOps;

// One sequence's rows of a step in one layer. The rows' own latents are already in the cache.
struct MlaAttentionCall {
  const KvLayout* layout;
  const std::byte* cache;  // start of the whole cache
  int layer;
  const std::uint32_t* blocks;  // the sequence's block table: block t holds positions 64t .. 64t+63
  int first_position;           // absolute position of row 0: row r attends to keys 0 .. first_position + r
  float scale;                  // softmax scale, e.g. 192^-0.5 m^2
  const float* q;               // [rows][heads][kv_rank + rope_dim]: q_nope W_UK, then rotated q_pe
  std::int64_t q_row_stride;    // floats
  std::int64_t q_head_stride;   // floats
  float* u;                     // [rows][heads][kv_rank]: sum over keys of p * latent
  std::int64_t u_row_stride;    // floats
  std::int64_t u_head_stride;   // floats
};

// Floats of scratch that each thread needs (64-byte aligned), whatever the item.
std::size_t mla_attention_scratch_floats(const KvLayout& layout);

// Rows [row_begin, row_end) x heads [head_begin, head_end) of one call; writes their u and nothing else. Every split
// gives the same bits.
PELAGIC_DECLARE_FOR_EACH_ISA(void mla_attention(const MlaAttentionCall& call, int row_begin, int row_end,
                                                int head_begin, int head_end, float* scratch);)

PELAGIC_DECLARE_FOR_EACH_ISA(
    // The same for one row in two steps, so that several threads share a row of few heads and none reads all of its
    // keys twice. Step 1, by keys: scores[(head - head_begin) * ld_scores + key] = scale q_head . K[key] for keys
    // [key_begin, key_end) of the row; key_begin a multiple of 16. May write up to 3 floats past key_end: ld_scores is
    // a multiple of 64, at least the row's keys.
    void mla_scores(const MlaAttentionCall& call, int row, int head_begin, int head_end, int key_begin, int key_end,
                    float* scores, std::int64_t ld_scores);
    // Step 2, by columns, when all scores are there: the softmax (repeated by each part, a small share of the work) and
    // columns [column_begin, column_end) of u.
    void mla_values(const MlaAttentionCall& call, int row, int head_begin, int head_end, int column_begin,
                    int column_end, const float* scores, std::int64_t ld_scores);)

// Rows [row_begin, row_end) x heads [head_begin, head_end) of one sequence: a task of mla_attention.
struct AttentionItem {
  int sequence;
  int row_begin;
  int row_end;
  int head_begin;
  int head_end;
};

// A row that threads share, and one part of it: keys of mla_scores, then columns of mla_values.
struct SharedAttentionRow {
  int sequence;
  int row;
  std::int64_t scores_offset;  // floats into AttentionPlan::scores
  std::int64_t ld_scores;
};
struct SharedAttentionPart {
  int shared_row;
  int begin;
  int end;
};

// How a step's attention is cut into tasks. Reused from layer to layer and step to step, so that a steady state
// allocates nothing.
struct AttentionPlan {
  std::vector<AttentionItem> items;  // longest first
  std::vector<SharedAttentionRow> shared_rows;
  std::vector<SharedAttentionPart> score_parts;
  std::vector<SharedAttentionPart> value_parts;
  AlignedBuffer<float> scores;
};

struct AttentionSequence {
  int rows;
  int first_position;
};

// Cuts by groups of rows; where a step has too few rows for its threads, by heads, and where there are few heads too,
// by keys and columns. No cut changes a bit. Replaces what the plan held.
void plan_attention(const KvLayout& layout, std::span<const AttentionSequence> sequences, int heads, int threads,
                    AttentionPlan& plan);

// Runs a plan: calls[i] belongs to sequences[i] of plan_attention. scratch[t]: mla_attention_scratch_floats for thread
// t of the pool.
void run_attention(ThreadPool& pool, const CpuOps& ops, std::span<const MlaAttentionCall> calls, int heads,
                   AttentionPlan& plan, std::span<float* const> scratch);

}  // namespace pelagic
