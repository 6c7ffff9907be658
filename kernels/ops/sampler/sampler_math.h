// The sampler's arithmetic for one id, the same text on the CPU and on the GPU: what is chosen must not depend on where
// it is worked out. Built without contraction of products and sums.
#pragma once

#include <array>
#include <cstdint>
#include <limits>

#include "base/log.h"
#include "base/philox.h"

namespace pelagic {

// NaN would break the orderings: it counts as the worst logit.
constexpr float number(float x) { return x == x ? x : -std::numeric_limits<float>::infinity(); }

// allowed: SamplingParams::allowed.
constexpr bool is_allowed(const std::uint32_t* allowed, std::uint32_t id) {
  return (allowed[id / 32] >> (id % 32) & 1) != 0;
}

// Hugging Face's rule, once for each id of the prompt or the output.
constexpr float penalize_repetition(float logit, float penalty) {
  return logit > 0.0f ? logit / penalty : logit * penalty;
}

// For an id that the output holds `count` times, at least once.
constexpr float penalize_output(float logit, float frequency, float presence, std::uint32_t count) {
  const float less = logit - frequency * static_cast<float>(count);
  return less - presence;
}

// How far a logit is below the largest, in units of the temperature: +0 for the largest, infinity for what cannot be
// chosen. z of README.md is the negative of this. An infinite logit equals the largest and must not become NaN.
constexpr float distance_below(float logit, float largest, float temperature) {
  return logit == largest ? 0.0f : (largest - logit) / temperature;
}

// Sums of probabilities are sums of integers, so that no order of adding them is wrong: e^z in units of 2^-40, cut off.
// 2^24 ids fit into 64 bits.
inline constexpr std::uint64_t kWholeWeight = std::uint64_t{1} << 40;
inline constexpr int kMostSampledVocab = 1 << 24;

// probability: e^z, 0 to 1.
constexpr std::uint64_t integer_weight(float probability) { return static_cast<std::uint64_t>(probability * 0x1p40f); }

// The least weight that is top_p of the total, at least 1.
constexpr std::uint64_t weight_to_reach(float top_p, std::uint64_t total) {
  const double wanted = static_cast<double>(top_p) * static_cast<double>(total);
  const auto below = static_cast<std::uint64_t>(wanted);
  const std::uint64_t least = static_cast<double>(below) < wanted ? below + 1 : below;
  return least > 1 ? least : 1;
}

// The words of ids 4 * group to 4 * group + 3.
constexpr std::array<std::uint32_t, 4> noise_words(std::uint64_t seed, std::uint32_t choice, std::uint32_t position,
                                                   std::uint32_t group) {
  return philox4x32_10({group, position, choice, 0},
                       {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
}

// u is at most 1 - 2^-33 and at least 2^-33, hence the noise is between -3.14 and 22.9.
inline constexpr double kLargestNoise = 23.0;

// z + g, g = -log(-log(u)).
constexpr double with_noise(float z, std::uint32_t word) {
  const double u = (word + 0.5) * 0x1p-32;
  return static_cast<double>(z) - log_f64(-log_f64(u));
}

// The log of the sum of e^(logit - largest), from the sum of the integer weights.
constexpr double log_of_weights(std::uint64_t total) { return log_f64(static_cast<double>(total) * 0x1p-40); }

// log_sum: log_of_weights of the row. NaN counts as -infinity, and the largest may be infinite.
constexpr float log_probability(float logit, float largest, double log_sum) {
  const double below =
      number(logit) == largest ? 0.0 : static_cast<double>(number(logit)) - static_cast<double>(largest);
  return static_cast<float>(below - log_sum);
}

}  // namespace pelagic
