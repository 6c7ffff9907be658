// Rows for the tests of the GPU's sampler, with everything that makes choices hard: ties, infinities, NaN, constant and
// peaked rows, temperatures from tiny to huge, and any parameters together. What the CPU chooses for them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <string>
#include <vector>

#include "backend/cpu/cpu_ops.h"
#include "base/test_values.h"
#include "ops/sampler/sampler_pack.h"

namespace pelagic::test {

class SamplerRows {
 public:
  SamplerRows(int vocab_size, std::size_t count, std::uint32_t seed)
      : vocab(vocab_size), ld((vocab_size + 3) / 4 * 4), lists(count) {
    Random random(seed);
    logits.resize(count * ld);
    kinds.resize(count);
    params.resize(count);
    for (std::size_t row = 0; row < count; ++row) {
      fill(row, random);
      choose(row, random);
      positions.push_back(static_cast<std::int32_t>(random.bits() % 100000));
    }
  }

  const float* logits_of(std::size_t row) const { return logits.data() + row * ld; }

  // Some rows do not sample.
  bool samples(std::size_t row) const { return row % 9 != 8; }

  std::vector<const SamplingParams*> pointers() const {
    std::vector<const SamplingParams*> all;
    for (std::size_t row = 0; row < params.size(); ++row) all.push_back(samples(row) ? &params[row] : nullptr);
    return all;
  }

  std::vector<std::byte> packed() const {
    const auto all = pointers();
    std::vector<std::byte> out(packed_sampling_bytes(all, vocab));
    PackScratch scratch;
    out.resize(pack_sampling(all, positions, vocab, scratch, out));
    return out;
  }

  std::vector<SampleResult> expected(const CpuOps& ops) const {
    std::vector<SampleResult> results(params.size());
    SamplerScratch scratch;
    for (std::size_t row = 0; row < params.size(); ++row) {
      if (!samples(row)) continue;
      check_sampling_params(params[row], vocab);
      sample_row(ops, logits_of(row), vocab, static_cast<std::uint32_t>(positions[row]), params[row], scratch,
                 results[row]);
    }
    return results;
  }

  std::string describe(std::size_t row) const {
    const SamplingParams& p = params[row];
    return "row " + std::to_string(row) + ", kind " + std::to_string(kinds[row]) + ", temperature " +
           std::to_string(p.temperature) + ", top_k " + std::to_string(p.top_k) + ", top_p " + std::to_string(p.top_p) +
           ", min_p " + std::to_string(p.min_p);
  }

  int vocab;
  std::size_t ld;  // a multiple of 4; NaN past the vocabulary
  std::vector<float> logits;
  std::vector<int> kinds;
  std::vector<SamplingParams> params;
  std::vector<std::int32_t> positions;

 private:
  struct Lists {
    std::vector<std::uint32_t> biased, prompt, output, allowed;
    std::vector<float> bias;
  };

  // splitmix64's output function (Steele, Lea and Flood, 2014).
  static std::uint64_t mix(std::uint64_t counter) {
    std::uint64_t z = (counter + 1) * 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
  }

  void fill(std::size_t row, Random& random) {
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
    float* const x = logits.data() + row * ld;
    const int kind = kinds[row] = random.integer(0, 11);
    const float scale = random.integer(0, 3) == 0 ? random.uniform(0.01f, 40.0f) : random.uniform(1.0f, 4.0f);
    const std::uint64_t start = static_cast<std::uint64_t>(random.bits()) << 32;
    for (std::size_t id = 0; id < ld; ++id) {
      const std::uint64_t bits = mix(start + id);
      const bool one_of_two = bits % 2 == 0;
      // A triangle: the best are few.
      x[id] = scale * (static_cast<float>(bits >> 40) - static_cast<float>(bits >> 16 & 0xFFFFFF)) * 0x1p-23f;
      if (kind == 3) x[id] = static_cast<float>(static_cast<int>(x[id]));          // many ties
      if (kind == 4) x[id] = static_cast<float>(static_cast<int>(x[id] * 8)) / 8;  // bfloat16's, say
      if (kind == 5) x[id] = scale;                                                // constant
      if (kind == 6) x[id] = one_of_two ? kNaN : x[id];
      if (kind == 7) x[id] = bits % 4 != 0 ? -kInfinity : x[id];
      if (kind == 9) x[id] = one_of_two ? -0.0f : 0.0f;
      if (kind == 10) x[id] = x[id] * 1e-40f;                  // subnormal
      if (kind == 11) x[id] = one_of_two ? kNaN : -kInfinity;  // not valid
      if (id >= static_cast<std::size_t>(vocab)) x[id] = kNaN;
    }
    const auto any = [&] { return random.bits() % static_cast<std::uint32_t>(vocab); };
    if (kind == 1 || kind == 2)  // peaked
      for (int i = random.integer(1, 5); i > 0; --i) x[any()] += scale * random.uniform(3.0f, 30.0f);
    if (kind == 8)
      for (int i = random.integer(1, 3); i > 0; --i) x[any()] = kInfinity;
  }

  void choose(std::size_t row, Random& random) {
    SamplingParams& p = params[row];
    Lists& own = lists[row];
    const auto some_ids = [&](int most) {
      std::vector<std::uint32_t> ids(static_cast<std::size_t>(random.integer(0, most)));
      const std::uint32_t among = random.integer(0, 1) ? static_cast<std::uint32_t>(vocab) : 5;
      for (std::uint32_t& id : ids) id = random.bits() % std::min(among, static_cast<std::uint32_t>(vocab));
      return ids;
    };
    own.prompt = some_ids(60);
    own.output = some_ids(60);
    const auto one_in = [&](int n) { return random.integer(1, n) == 1; };
    if (!one_in(6))
      p.temperature = one_in(8)    ? random.uniform(1e-6f, 1e-3f)
                      : one_in(8)  ? random.uniform(10.0f, 1e5f)
                      : one_in(20) ? 1e-38f
                      : one_in(20) ? 1e38f
                                   : random.uniform(0.1f, 2.0f);
    if (one_in(3)) p.top_k = one_in(2) ? random.integer(1, 60) : random.integer(1, vocab + 2);
    if (one_in(2)) p.top_p = one_in(4) ? random.uniform(1e-6f, 0.01f) : one_in(4) ? 0.5f : random.uniform(0.01f, 1.0f);
    if (one_in(12)) p.top_p = 0.99999994f;
    if (one_in(4)) p.min_p = one_in(5) ? 1.0f : random.uniform(0.0f, 0.3f);
    if (one_in(3)) p.repetition_penalty = random.uniform(0.7f, 1.6f);
    if (one_in(3)) p.presence_penalty = random.uniform(-1.0f, 1.0f);
    if (one_in(3)) p.frequency_penalty = one_in(10) ? 3e38f : random.uniform(-1.0f, 1.0f);
    if (one_in(3)) {
      own.biased = some_ids(30);
      own.bias = random.floats(own.biased.size(), -3.0f, 3.0f);
      if (!own.bias.empty() && one_in(5))
        own.bias[0] = std::numeric_limits<float>::infinity() * (one_in(2) ? -1.0f : 1.0f);
    }
    if (one_in(4)) {
      // Many, few, none at all.
      const int every = one_in(2) ? 2 : one_in(10) ? 0 : 40;
      own.allowed.resize((static_cast<std::size_t>(vocab) + 31) / 32);
      for (std::uint32_t& word : own.allowed)
        for (int bit = 0; bit < 32; ++bit)
          if (every > 0 && one_in(every)) word |= 1u << bit;
    }
    p.allowed = own.allowed;
    p.bias_tokens = own.biased;
    p.bias_values = own.bias;
    p.prompt_tokens = own.prompt;
    p.output_tokens = own.output;
    p.seed = static_cast<std::uint64_t>(random.bits()) << 32 | random.bits();
    p.choice = random.bits() % 3;
    if (one_in(3)) p.logprobs = random.integer(0, kMostTopLogprobs);
  }

  std::vector<Lists> lists;
};

// Empty where the record holds the CPU's result to the bit; NaN equals NaN.
inline std::string difference(const SampledRow& got, const SampleResult& expected) {
  const auto same = [](float a, float b) { return same_bits(a, b) || (a != a && b != b); };
  SampleResult result;
  if (got.tops < 0 || got.tops > kMostTopLogprobs) return "a list of " + std::to_string(got.tops);
  read_sampled_row(got, result);
  if (result.token != expected.token)
    return "token " + std::to_string(result.token) + ", not " + std::to_string(expected.token);
  if (result.valid != expected.valid) return "valid";
  if (!same(result.logprob, expected.logprob))
    return "logprob " + std::to_string(result.logprob) + ", not " + std::to_string(expected.logprob);
  if (result.top_tokens != expected.top_tokens) return "top tokens";
  if (result.rank != expected.rank)
    return "rank " + std::to_string(result.rank) + ", not " + std::to_string(expected.rank);
  for (std::size_t i = 0; i < expected.top_logprobs.size(); ++i)
    if (!same(result.top_logprobs[i], expected.top_logprobs[i])) return "top logprobs";
  return "";
}

}  // namespace pelagic::test
