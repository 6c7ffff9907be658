#include "ops/sampler/sampler_pack.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

namespace pelagic {
namespace {

bool repeats_count(const SamplingParams& p) { return p.repetition_penalty != 1.0f; }
bool outputs_count(const SamplingParams& p) {
  return repeats_count(p) || p.presence_penalty != 0.0f || p.frequency_penalty != 0.0f;
}

std::size_t allowed_words(int vocab) { return (static_cast<std::size_t>(vocab) + 31) / 32; }

std::size_t list_bytes(const SamplingParams& p, int vocab) {
  return (p.allowed.empty() ? 0 : allowed_words(vocab) * sizeof(std::uint32_t)) +
         p.bias_tokens.size() * sizeof(PackedBias) +
         (repeats_count(p) ? p.prompt_tokens.size() * sizeof(PackedPenalty) : 0) +
         (outputs_count(p) ? p.output_tokens.size() * sizeof(PackedPenalty) : 0);
}

// A bias for an id that came before goes behind that one. Lists are short or sorted already: an insertion each.
std::uint32_t write_biases(const SamplingParams& p, PackedBias* out) {
  std::uint32_t count = 0;
  for (std::size_t i = 0; i < p.bias_tokens.size(); ++i) {
    const PackedBias bias{p.bias_tokens[i], p.bias_values[i]};
    PackedBias* const at = std::upper_bound(out, out + count, bias.id,
                                            [](std::uint32_t id, const PackedBias& other) { return id < other.id; });
    std::move_backward(at, out + count, out + count + 1);
    *at = bias;
    ++count;
  }
  return count;
}

// places: of an id in `out`, plus 1.
std::uint32_t write_penalties(const SamplingParams& p, std::vector<std::uint32_t>& places, PackedPenalty* out) {
  std::uint32_t count = 0;
  const auto add = [&](std::uint32_t id, std::uint32_t times) {
    if (places[id] == 0) {
      out[count] = {id, 0};
      places[id] = ++count;
    }
    out[places[id] - 1].output_count += times;
  };
  if (repeats_count(p))
    for (const std::uint32_t id : p.prompt_tokens) add(id, 0);
  if (outputs_count(p))
    for (const std::uint32_t id : p.output_tokens) add(id, 1);
  for (std::uint32_t i = 0; i < count; ++i) places[out[i].id] = 0;
  std::sort(out, out + count, [](const PackedPenalty& a, const PackedPenalty& b) { return a.id < b.id; });
  return count;
}

}  // namespace

std::size_t packed_sampling_bytes(std::span<const SamplingParams* const> params, int vocab) {
  std::size_t bytes = params.size() * sizeof(PackedSampling);
  for (const SamplingParams* const p : params)
    if (p != nullptr) bytes += list_bytes(*p, vocab);
  return bytes;
}

std::size_t pack_sampling(std::span<const SamplingParams* const> params, std::span<const std::int32_t> positions,
                          int vocab, PackScratch& scratch, std::span<std::byte> out) {
  const auto require = [](bool ok, const char* what) {
    if (!ok) throw std::invalid_argument(what);
  };
  const std::size_t most = packed_sampling_bytes(params, vocab);
  require(params.size() == positions.size(), "params and positions must have the same length");
  require(most <= out.size() && most <= std::numeric_limits<std::uint32_t>::max(),
          "sampling parameters do not fit into their buffer");
  require(reinterpret_cast<std::uintptr_t>(out.data()) % alignof(PackedSampling) == 0,
          "the buffer of sampling parameters must be 8-byte aligned");
  for (const SamplingParams* const p : params)
    require(p == nullptr || p->logprobs <= kMostTopLogprobs, "logprobs is above what the GPU's sampler reports");
  if (scratch.places.size() < static_cast<std::size_t>(vocab)) scratch.places.resize(static_cast<std::size_t>(vocab));

  auto* const rows = reinterpret_cast<PackedSampling*>(out.data());
  auto at = static_cast<std::uint32_t>(params.size() * sizeof(PackedSampling));
  for (std::size_t i = 0; i < params.size(); ++i) {
    PackedSampling row{};
    if (params[i] != nullptr) {
      const SamplingParams& p = *params[i];
      row = {.seed = p.seed,
             .sampled = 1,
             .position = static_cast<std::uint32_t>(positions[i]),
             .choice = p.choice,
             .temperature = p.temperature,
             .top_k = p.top_k,
             .top_p = p.top_p,
             .min_p = p.min_p,
             .repetition_penalty = p.repetition_penalty,
             .presence_penalty = p.presence_penalty,
             .frequency_penalty = p.frequency_penalty,
             .logprobs = p.logprobs,
             .biases = 0,
             .bias_at = at,
             .penalties = 0,
             .penalty_at = 0,
             .allowed_at = 0};
      row.biases = write_biases(p, reinterpret_cast<PackedBias*>(out.data() + at));
      at += row.biases * static_cast<std::uint32_t>(sizeof(PackedBias));
      row.penalty_at = at;
      row.penalties = write_penalties(p, scratch.places, reinterpret_cast<PackedPenalty*>(out.data() + at));
      at += row.penalties * static_cast<std::uint32_t>(sizeof(PackedPenalty));
      if (!p.allowed.empty()) {
        row.allowed_at = at;
        std::copy_n(p.allowed.begin(), allowed_words(vocab), reinterpret_cast<std::uint32_t*>(out.data() + at));
        at += static_cast<std::uint32_t>(allowed_words(vocab) * sizeof(std::uint32_t));
      }
    }
    rows[i] = row;
  }
  return at;
}

void read_sampled_row(const SampledRow& row, SampleResult& result) {
  result.token = row.token;
  result.valid = row.valid != 0;
  result.logprob = row.logprob;
  result.rank = row.rank;
  result.top_tokens.assign(row.top_tokens, row.top_tokens + row.tops);
  result.top_logprobs.assign(row.top_logprobs, row.top_logprobs + row.tops);
}

}  // namespace pelagic
