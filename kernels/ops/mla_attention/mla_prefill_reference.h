// MLA prefill of one query vector in float64, as it reads: for tests and for the check before a timing.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "ops/mla_attention/mla_decode_reference.h"
#include "ops/mla_attention/mla_prefill_cuda.h"

namespace pelagic::mla_prefill {

using mla_decode::from_bf16;

// kv(t): the 256 bf16 of key t for this head, rope(t): its 64. The first `keys` keys are seen, at least one.
template <typename Kv, typename Rope>
std::vector<double> reference(const std::uint16_t* q, int keys, double scale, const Kv& kv, const Rope& rope) {
  std::vector<double> wide_q(kMlaPrefillQuery);
  for (int i = 0; i < kMlaPrefillQuery; ++i) wide_q[i] = from_bf16(q[i]);
  std::vector<double> scores(keys);
  for (int t = 0; t < keys; ++t) {
    const std::uint16_t* own = kv(t);
    const std::uint16_t* shared = rope(t);
    double dot = 0;
    for (int i = 0; i < kMlaPrefillNope; ++i) dot += wide_q[i] * from_bf16(own[i]);
    for (int i = 0; i < kMlaPrefillRope; ++i) dot += wide_q[kMlaPrefillNope + i] * from_bf16(shared[i]);
    scores[t] = dot * scale;
  }
  const double largest = *std::max_element(scores.begin(), scores.end());
  std::vector<double> out(kMlaPrefillValue, 0.0);
  double sum = 0;
  for (int t = 0; t < keys; ++t) {
    const std::uint16_t* value = kv(t) + kMlaPrefillNope;
    const double weight = std::exp(scores[t] - largest);
    sum += weight;
    for (int i = 0; i < kMlaPrefillValue; ++i) out[i] += weight * from_bf16(value[i]);
  }
  for (double& value : out) value /= sum;
  return out;
}

// ||out - reference|| / ||reference||; NaN if out holds one.
inline double relative_error(const std::uint16_t* out, const std::vector<double>& reference) {
  double error = 0;
  double norm = 0;
  for (int i = 0; i < kMlaPrefillValue; ++i) {
    const double difference = from_bf16(out[i]) - reference[i];
    error += difference * difference;
    norm += reference[i] * reference[i];
  }
  return error == 0 ? 0 : std::sqrt(error / norm);
}

// Rounding to bf16 gives 0.0017 of the norm twice: in the result, and in the weights before they meet the values (where
// keys differ at random; less where one key has all the weight). Together 0.0024, and over 128 columns some more or
// less.
inline constexpr double kTolerance = 4e-3;

}  // namespace pelagic::mla_prefill
