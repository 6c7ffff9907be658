#include "ops/sampler/sampler.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "backend/cpu/cpu_ops.h"
#include "ops/sampler/sampler_math.h"

namespace pelagic {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

bool has_penalties(const SamplingParams& params) {
  return params.repetition_penalty != 1.0f || params.presence_penalty != 0.0f || params.frequency_penalty != 0.0f;
}

void apply_penalties(const SamplingParams& params, std::vector<float>& logits, std::vector<std::uint32_t>& counts) {
  counts.resize(std::max(counts.size(), logits.size()));
  if (params.repetition_penalty != 1.0f) {
    const auto penalize_once = [&](std::uint32_t id) {
      if (counts[id]++ != 0) return;
      logits[id] = penalize_repetition(logits[id], params.repetition_penalty);
    };
    for (const std::uint32_t id : params.prompt_tokens) penalize_once(id);
    for (const std::uint32_t id : params.output_tokens) penalize_once(id);
    for (const std::uint32_t id : params.prompt_tokens) counts[id] = 0;
    for (const std::uint32_t id : params.output_tokens) counts[id] = 0;
  }
  for (const std::uint32_t id : params.output_tokens) ++counts[id];
  for (const std::uint32_t id : params.output_tokens) {
    if (counts[id] == 0) continue;  // an earlier occurrence has paid for all
    logits[id] = penalize_output(logits[id], params.frequency_penalty, params.presence_penalty, counts[id]);
    counts[id] = 0;
  }
}

// The lowest id among the largest.
std::uint32_t argmax(const std::vector<float>& logits) {
  return static_cast<std::uint32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

// Orders ids by descending value, the lower id first on a tie.
struct Better {
  const float* values;
  bool operator()(std::uint32_t a, std::uint32_t b) const {
    return values[a] != values[b] ? values[a] > values[b] : a < b;
  }
};

// Narrows `candidates` by top-k, top-p and min-p. z: (logit - largest) / temperature, so the largest is 0. README.md
// gives the order.
void filter(const CpuOps& ops, const SamplingParams& params, const std::vector<float>& z,
            std::vector<std::uint32_t>& candidates, std::vector<float>& probabilities) {
  const Better better{z.data()};
  if (params.top_k > 0 && static_cast<std::size_t>(params.top_k) < candidates.size()) {
    std::nth_element(candidates.begin(), candidates.begin() + (params.top_k - 1), candidates.end(), better);
    candidates.resize(static_cast<std::size_t>(params.top_k));
    std::sort(candidates.begin(), candidates.end());
  }
  if (params.top_p >= 1.0f && params.min_p <= 0.0f) return;
  probabilities.resize(z.size());
  ops.row_exp_sum(z.data(), 0.0f, static_cast<int>(z.size()), probabilities.data());
  if (params.top_p < 1.0f) {
    std::uint64_t total = 0;
    for (const std::uint32_t id : candidates) total += integer_weight(probabilities[id]);
    const std::uint64_t wanted = weight_to_reach(params.top_p, total);
    // A heap gives the best first without sorting the whole vocabulary. The kept ones gather at the end.
    const auto worse = [&](std::uint32_t a, std::uint32_t b) { return better(b, a); };
    std::make_heap(candidates.begin(), candidates.end(), worse);
    auto rest = candidates.end();
    std::uint64_t kept = 0;
    do {
      std::pop_heap(candidates.begin(), rest, worse);
      --rest;
      kept += integer_weight(probabilities[*rest]);
    } while (kept < wanted && rest != candidates.begin());
    candidates.erase(candidates.begin(), rest);
    std::sort(candidates.begin(), candidates.end());
  }
  if (params.min_p > 0.0f)
    std::erase_if(candidates, [&](std::uint32_t id) { return probabilities[id] < params.min_p; });
}

// Gumbel-max: the largest of z + g, g = -log(-log(u)), is a draw from softmax(z). Ascending ids.
std::uint32_t draw(const SamplingParams& params, std::uint32_t position, const std::vector<float>& z,
                   const std::vector<std::uint32_t>& candidates) {
  std::array<std::uint32_t, 4> words{};
  std::int64_t words_of = -1;
  std::uint32_t best_id = candidates.front();
  double best = -std::numeric_limits<double>::infinity();
  for (const std::uint32_t id : candidates) {
    // A candidate that could not win with the largest noise needs none.
    if (static_cast<double>(z[id]) + kLargestNoise <= best) continue;
    if (words_of != id / 4) {
      words_of = id / 4;
      words = noise_words(params.seed, params.choice, position, id / 4);
    }
    const double noisy = with_noise(z[id], words[id % 4]);
    if (noisy > best) {
      best = noisy;
      best_id = id;
    }
  }
  return best_id;
}

void report_logprobs(const CpuOps& ops, const float* logits, int vocab, const SamplingParams& params,
                     SamplerScratch& scratch, SampleResult& result) {
  std::vector<float>& values = scratch.logits;
  values.resize(static_cast<std::size_t>(vocab));
  std::transform(logits, logits + vocab, values.begin(), number);
  const float largest = ops.row_max(values.data(), vocab);
  scratch.probabilities.resize(values.size());
  ops.row_exp_sum(values.data(), largest, vocab, scratch.probabilities.data());
  std::uint64_t total = 0;
  for (std::size_t id = 0; id < values.size(); ++id)
    total += values[id] == largest ? kWholeWeight : integer_weight(scratch.probabilities[id]);
  const double log_sum = log_of_weights(total);
  const auto logprob = [&](std::uint32_t id) { return log_probability(logits[id], largest, log_sum); };
  const auto token = static_cast<std::uint32_t>(result.token);
  result.logprob = logprob(token);
  result.rank = 1;
  for (std::uint32_t id = 0; id < values.size(); ++id)
    result.rank += values[id] > values[token] || (values[id] == values[token] && id < token) ? 1 : 0;
  const auto wanted = static_cast<std::size_t>(std::min(params.logprobs, vocab));
  if (wanted == 0) return;
  scratch.candidates.resize(static_cast<std::size_t>(vocab));
  for (std::size_t id = 0; id < scratch.candidates.size(); ++id)
    scratch.candidates[id] = static_cast<std::uint32_t>(id);
  const auto end = scratch.candidates.begin() + static_cast<std::ptrdiff_t>(wanted);
  std::partial_sort(scratch.candidates.begin(), end, scratch.candidates.end(), Better{values.data()});
  for (auto id = scratch.candidates.begin(); id != end; ++id) {
    result.top_tokens.push_back(*id);
    result.top_logprobs.push_back(logprob(*id));
  }
}

}  // namespace

void check_sampling_params(const SamplingParams& params, int vocab) {
  const auto require = [](bool ok, const char* what) {
    if (!ok) throw std::invalid_argument(what);
  };
  // Written so that NaN fails.
  require(params.temperature >= 0.0f && std::isfinite(params.temperature),
          "temperature must be a finite number of at least 0");
  require(params.top_k >= 0, "top_k must not be negative");
  require(params.top_p > 0.0f && params.top_p <= 1.0f, "top_p must be above 0 and at most 1");
  require(params.min_p >= 0.0f && params.min_p <= 1.0f, "min_p must be 0 to 1");
  require(params.repetition_penalty > 0.0f && std::isfinite(params.repetition_penalty),
          "repetition_penalty must be a finite number above 0");
  require(std::isfinite(params.presence_penalty), "presence_penalty must be finite");
  require(std::isfinite(params.frequency_penalty), "frequency_penalty must be finite");
  require(params.bias_tokens.size() == params.bias_values.size(),
          "bias_tokens and bias_values must have the same length");
  const auto in_vocab = [&](std::uint32_t id) { return id < static_cast<std::uint32_t>(vocab); };
  require(std::all_of(params.bias_tokens.begin(), params.bias_tokens.end(), in_vocab),
          "bias_tokens holds an id outside the vocabulary");
  require(std::none_of(params.bias_values.begin(), params.bias_values.end(), [](float x) { return std::isnan(x); }),
          "bias_values must be numbers");
  require(params.allowed.empty() || params.allowed.size() >= (static_cast<std::size_t>(vocab) + 31) / 32,
          "allowed_tokens must have a bit for every id of the vocabulary");
  require(std::all_of(params.prompt_tokens.begin(), params.prompt_tokens.end(), in_vocab),
          "prompt_tokens holds an id outside the vocabulary");
  require(std::all_of(params.output_tokens.begin(), params.output_tokens.end(), in_vocab),
          "output_tokens holds an id outside the vocabulary");
}

void sample_row(const CpuOps& ops, const float* logits, int vocab, std::uint32_t position, const SamplingParams& params,
                SamplerScratch& scratch, SampleResult& result) {
  result.valid = true;
  result.logprob = kNaN;
  result.rank = 0;
  result.top_tokens.clear();
  result.top_logprobs.clear();

  std::vector<float>& z = scratch.logits;
  z.assign(logits, logits + vocab);
  for (std::size_t i = 0; i < params.bias_tokens.size(); ++i) {
    float& logit = z[params.bias_tokens[i]];
    logit = logit + params.bias_values[i];
  }
  if (has_penalties(params)) apply_penalties(params, z, scratch.counts);
  if (!params.allowed.empty())
    for (std::size_t id = 0; id < z.size(); ++id)
      if (!is_allowed(params.allowed.data(), static_cast<std::uint32_t>(id))) z[id] = kMinusInfinity;
  std::transform(z.begin(), z.end(), z.begin(), number);

  const std::uint32_t best = argmax(z);
  const float largest = z[best];
  result.token = static_cast<std::int32_t>(best);
  if (largest == kMinusInfinity) {
    result.valid = false;
    return;
  }
  if (params.temperature > 0.0f) {
    scratch.candidates.clear();
    for (std::size_t id = 0; id < z.size(); ++id) {
      z[id] = -distance_below(z[id], largest, params.temperature);
      if (z[id] != kMinusInfinity) scratch.candidates.push_back(static_cast<std::uint32_t>(id));
    }
    filter(ops, params, z, scratch.candidates, scratch.probabilities);
    result.token = static_cast<std::int32_t>(draw(params, position, z, scratch.candidates));
  }
  if (params.logprobs >= 0) report_logprobs(ops, logits, vocab, params, scratch, result);
}

}  // namespace pelagic
