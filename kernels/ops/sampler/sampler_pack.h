// What the sampler on the GPU is told and what it answers, as bytes that one copy moves: a batch's parameters packed by
// the host, and a fixed record for each row. Nothing of CUDA here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "ops/sampler/sampler.h"

namespace pelagic {

inline constexpr int kMostTopLogprobs = 20;

// One row's parameters. Lists lie behind the rows, at byte offsets from the first row, by ascending id.
struct PackedSampling {
  std::uint64_t seed;
  std::uint32_t sampled;  // 0: nothing is sampled from this row, and its record stays as it is
  std::uint32_t position;
  std::uint32_t choice;
  float temperature;
  std::int32_t top_k;
  float top_p;
  float min_p;
  float repetition_penalty;
  float presence_penalty;
  float frequency_penalty;
  std::int32_t logprobs;
  std::uint32_t biases;     // how many PackedBias
  std::uint32_t bias_at;    // bytes
  std::uint32_t penalties;  // how many PackedPenalty
  std::uint32_t penalty_at;
  std::uint32_t allowed_at;  // bytes, to (vocab + 31) / 32 words of SamplingParams::allowed; 0: every id may be chosen
};

// An id may come several times: its values are added in this order.
struct PackedBias {
  std::uint32_t id;
  float value;
};

// An id comes once.
struct PackedPenalty {
  std::uint32_t id;
  std::uint32_t output_count;  // 0: in the prompt only
};

// A row's SampleResult.
struct SampledRow {
  std::int32_t token;
  std::int32_t valid;
  float logprob;
  std::int32_t rank;
  std::int32_t tops;
  std::uint32_t top_tokens[kMostTopLogprobs];
  float top_logprobs[kMostTopLogprobs];
};

// Reused from call to call.
struct PackScratch {
  std::vector<std::uint32_t> places;  // [vocab], all zero between calls
};

// Bytes that pack_sampling needs at most for these rows.
std::size_t packed_sampling_bytes(std::span<const SamplingParams* const> params, int vocab);

// Row i samples from logits row i at positions[i] by params[i], which has been checked; null: it does not sample.
// out: 8-byte aligned, at least packed_sampling_bytes(params, vocab). Returns the bytes written. Allocates nothing once
// the scratch has seen the vocabulary. Penalties that are off leave their tokens out. Throws std::invalid_argument:
// lengths that differ, out too small or not aligned, 4 GiB or more, logprobs above kMostTopLogprobs.
std::size_t pack_sampling(std::span<const SamplingParams* const> params, std::span<const std::int32_t> positions,
                          int vocab, PackScratch& scratch, std::span<std::byte> out);

void read_sampled_row(const SampledRow& row, SampleResult& result);

}  // namespace pelagic
