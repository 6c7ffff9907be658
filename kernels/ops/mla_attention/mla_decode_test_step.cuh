// A step of MLA decode on the device, made up for the tests: what a row's query and keys are hangs on its text and its
// position alone, where they lie does not.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "cuda/device_buffer.h"
#include "cuda/random_fill.cuh"
#include "cuda/test.h"
#include "ops/mla_attention/mla_decode_reference.h"

namespace pelagic::mla_decode {

inline constexpr int kPools = 8;  // different texts that a sequence can be the beginning of
inline constexpr int kMostKeys = 4100;
inline constexpr int kBlock = kMlaDecodeBlockTokens;
inline constexpr float kScale = 0.13523378f;
inline constexpr std::uint16_t kNan = 0xFFFF;

// The first `length` keys of a text, and how many query rows end there.
struct Sequence {
  int pool;
  int length;
  int rows = 1;
};

inline std::uint16_t bits_of(float value) {
  const __nv_bfloat16 rounded = __float2bfloat16_rn(value);
  std::uint16_t bits;
  std::memcpy(&bits, &rounded, sizeof bits);
  return bits;
}

// A key hangs on the text and its position; every third text has latents far from 0, as real ones have.
inline const std::uint16_t* key_of(int pool, int position) {
  static const std::vector<std::uint16_t> keys = [] {
    std::vector<std::uint16_t> all(static_cast<std::size_t>(kPools) * kMostKeys * kMlaDecodeKey);
    for (std::size_t i = 0; i < all.size(); ++i) {
      const std::size_t of_pool = static_cast<std::size_t>(kMostKeys) * kMlaDecodeKey;
      const float offset = i / of_pool % 3 == 2 ? random_normal(52, i % kMlaDecodeKey) : 0.0f;
      all[i] = bits_of(random_normal(51, i) + offset);
    }
    return all;
  }();
  return keys.data() + (static_cast<std::size_t>(pool) * kMostKeys + position) * kMlaDecodeKey;
}

// A query hangs on the text and on the keys it sees. In odd texts few keys get most of the weight, in even ones many
// keys a little.
inline void write_query(int pool, int visible, int head, std::uint16_t* target) {
  const float size = pool % 2 == 1 ? 1.0f : 0.2f;
  for (int i = 0; i < kMlaDecodeKey; ++i)
    target[i] = bits_of(size * random_normal(60 + pool, (std::uint64_t(visible) * 128 + head) * kMlaDecodeKey + i));
}

// A step on the device.
struct Step {
  int heads = 0;
  int rows = 0;
  int max_blocks = 0;
  int cache_blocks = 0;
  std::vector<Sequence> sequences;
  std::vector<std::int32_t> table, row_offsets, lengths;
  std::vector<std::uint16_t> q;
  DeviceBuffer<std::uint16_t> device_q, cache, out;
  DeviceBuffer<std::int32_t> device_table, device_offsets, device_lengths, errors;
  DeviceBuffer<unsigned char> workspace, fp8_cache;
  bool reads_fp8 = false;
  int pieces = 0;
  static inline int spread_runs = 0;

  // Blocks lie in the cache in no order; what no sequence sees, there and after a sequence's last key, is NaN. Table
  // entries that nobody needs name no block.
  Step(int heads, const std::vector<Sequence>& sequences, int cut_tokens) : heads(heads), sequences(sequences) {
    int blocks = 0;
    for (const Sequence& s : sequences) {
      const int own = (s.length + kBlock - 1) / kBlock;
      blocks += own;
      max_blocks = std::max(max_blocks, own + 2);
      rows += s.rows;
      pieces += mla_decode_pieces(s.rows, heads, s.length, cut_tokens);
    }
    cache_blocks = blocks + 5;
    std::vector<std::int32_t> free_blocks(cache_blocks);
    for (int i = 0; i < cache_blocks; ++i) free_blocks[i] = i;
    for (int i = cache_blocks - 1; i > 0; --i)
      std::swap(free_blocks[i], free_blocks[random_bits(70 + sequences.size(), i) % (i + 1)]);

    std::vector<std::uint16_t> host_cache(static_cast<std::size_t>(cache_blocks) * kBlock * kMlaDecodeKey, kNan);
    table.assign(sequences.size() * max_blocks, -7);
    row_offsets.push_back(0);
    q.resize(static_cast<std::size_t>(rows) * heads * kMlaDecodeKey);
    for (std::size_t s = 0; s < sequences.size(); ++s) {
      const Sequence& sequence = sequences[s];
      for (int t = 0; t < sequence.length; ++t) {
        if (t % kBlock == 0) {
          table[s * max_blocks + t / kBlock] = free_blocks.back();
          free_blocks.pop_back();
        }
        const std::size_t place = static_cast<std::size_t>(table[s * max_blocks + t / kBlock]) * kBlock + t % kBlock;
        std::copy_n(key_of(sequence.pool, t), kMlaDecodeKey, host_cache.begin() + place * kMlaDecodeKey);
      }
      for (int j = 0; j < sequence.rows; ++j)
        for (int head = 0; head < heads; ++head)
          write_query(sequence.pool, visible(sequence, j), head,
                      q.data() + (static_cast<std::size_t>(row_offsets.back() + j) * heads + head) * kMlaDecodeKey);
      row_offsets.push_back(row_offsets.back() + sequence.rows);
      lengths.push_back(sequence.length);
    }
    device_q = DeviceBuffer<std::uint16_t>(q);
    cache = DeviceBuffer<std::uint16_t>(host_cache);
    out = DeviceBuffer<std::uint16_t>(static_cast<std::size_t>(rows) * heads * kMlaDecodeLatent);
    device_table = DeviceBuffer<std::int32_t>(table);
    device_offsets = DeviceBuffer<std::int32_t>(row_offsets);
    device_lengths = DeviceBuffer<std::int32_t>(lengths);
    errors = DeviceBuffer<std::int32_t>(kMlaDecodeErrors);
  }

  static int visible(const Sequence& sequence, int row) {
    return std::max(0, sequence.length - (sequence.rows - 1 - row));
  }

  // The result. Where the cuts can be spread both forms must give it, bit by bit, with the same errors: over as many
  // clusters as there may be pieces, and over three that take them in turn.
  std::vector<std::uint16_t> run(int cut_tokens, int piece_capacity) {
    workspace = DeviceBuffer<unsigned char>(mla_decode_workspace_bytes(piece_capacity));
    const MlaDecodeProblem problem = problem_of(cut_tokens, piece_capacity);
    const int clusters = mla_decode_spread_clusters(problem);
    for (const int spread : {clusters, std::min(clusters, 3)}) {
      if (spread == 0) continue;
      const std::vector<std::uint16_t> bits = run_form(problem, spread);
      const std::vector<std::int32_t> noted = errors.download();
      const std::vector<std::uint16_t> expected = run_form(problem, 0);
      ++spread_runs;
      std::size_t differing = 0;
      for (std::size_t i = 0; i < bits.size(); ++i) differing += bits[i] != expected[i];
      PELAGIC_EXPECT(differing == 0, "%d heads, %zu sequences, cuts of %d, %d clusters: %zu of %zu numbers differ",
                     heads, sequences.size(), cut_tokens, spread, differing, bits.size());
      PELAGIC_EXPECT(errors.download() == noted, "%d heads, %zu sequences, cuts of %d, %d clusters: other errors",
                     heads, sequences.size(), cut_tokens, spread);
    }
    return run_form(problem, 0);
  }

  // From a graph that ran twice.
  std::vector<std::uint16_t> run_form(const MlaDecodeProblem& problem, int spread_clusters) {
    workspace.fill_bytes(0xFF);
    out.fill_bytes(0xFF);
    errors.fill_bytes(0);
    MlaDecodePlan plan = make_mla_decode_plan(problem);
    plan.spread_clusters = spread_clusters;
    test::run_from_graph([&](cudaStream_t stream) {
      PELAGIC_CUDA(launch_mla_decode_schedule(plan, stream));
      PELAGIC_CUDA(launch_mla_decode(plan, stream));
    });
    return out.download();
  }

  MlaDecodeProblem problem_of(int cut_tokens, int piece_capacity) {
    MlaDecodeProblem problem = {};
    problem.rows = rows;
    problem.heads = heads;
    problem.sequences = static_cast<int>(sequences.size());
    problem.max_blocks = max_blocks;
    problem.cache_blocks = cache_blocks;
    problem.cut_tokens = cut_tokens;
    problem.piece_capacity = piece_capacity;
    problem.scale = kScale;
    problem.q = device_q.get();
    problem.cache = cache.get();
    if (reads_fp8) {
      problem.cache = fp8_cache.get();
      problem.cache_dtype = KvDtype::fp8;
    }
    problem.block_table = device_table.get();
    problem.row_offsets = device_offsets.get();
    problem.lengths = device_lengths.get();
    problem.out = out.get();
    problem.workspace = workspace.get();
    problem.errors = errors.get();
    return problem;
  }
};

}  // namespace pelagic::mla_decode
