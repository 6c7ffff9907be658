// One token from one row of logits. Order of the steps and the noise: README.md.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace pelagic {

struct CpuOps;

// Fields at their defaults are off.
struct SamplingParams {
  float temperature = 0.0f;  // 0: the largest logit after bias and penalties, the lowest id on a tie
  int top_k = 0;
  float top_p = 1.0f;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;  // over prompt and output ids
  float presence_penalty = 0.0f;    // over output ids
  float frequency_penalty = 0.0f;   // over output ids, times the count
  std::span<const std::uint32_t> bias_tokens;
  std::span<const float> bias_values;  // as many as bias_tokens
  std::span<const std::uint32_t> prompt_tokens;
  std::span<const std::uint32_t> output_tokens;
  // Bit id % 32 of word id / 32: the ids that may be chosen at all. Empty: every id. Words past the vocabulary's are
  // not looked at.
  std::span<const std::uint32_t> allowed;
  std::uint64_t seed = 0;
  std::uint32_t choice = 0;
  int logprobs = -1;  // most likely tokens to report beside the chosen one; negative: no logprobs at all
};

struct SampleResult {
  std::int32_t token = 0;
  bool valid = true;      // false: no allowed logit is a number above -infinity; token is then 0
  float logprob = 0.0f;   // natural log of the chosen token's probability under the raw logits; NaN where not asked for
  std::int32_t rank = 0;  // the chosen token's place among the raw logits, 1 for the best; 0 where not asked for
  std::vector<std::uint32_t> top_tokens;  // best first, the lower id first on a tie
  std::vector<float> top_logprobs;
};

// Reused from call to call (one for each thread), so that a steady state allocates nothing.
struct SamplerScratch {
  std::vector<float> logits;          // [vocab]
  std::vector<std::uint32_t> counts;  // [vocab], all zero between calls
  std::vector<std::uint32_t> candidates;
  std::vector<float> probabilities;
};

// Throws std::invalid_argument with the field's name: lengths that differ, a token id >= vocab, a number out of range
// (`allowed` too short,
// temperature < 0, top_p outside (0, 1], min_p outside [0, 1], repetition_penalty <= 0, top_k < 0, anything not
// finite).
void check_sampling_params(const SamplingParams& params, int vocab);

// logits: [vocab], not changed. position: the absolute position of the row (its noise is Philox(seed, choice,
// position)). params have been checked.
void sample_row(const CpuOps& ops, const float* logits, int vocab, std::uint32_t position, const SamplingParams& params,
                SamplerScratch& scratch, SampleResult& result);

}  // namespace pelagic
