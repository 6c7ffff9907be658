// MLA decode of one query vector in float64, as it reads: for tests and for the check before a timing.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include <cuda_fp8.h>

#include "ops/kv_cache/fp8_latent.h"
#include "ops/mla_attention/mla_decode_cuda.h"

namespace pelagic::mla_decode {

inline double from_bf16(std::uint16_t bits) {
  const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

// key(t): the bf16 of key t, or nullptr for a key that is left out. All zeros if there is none.
template <typename Key>
std::vector<double> reference(const std::uint16_t* q, int keys, double scale, const Key& key) {
  std::vector<double> wide_q(kMlaDecodeKey);
  for (int i = 0; i < kMlaDecodeKey; ++i) wide_q[i] = from_bf16(q[i]);
  std::vector<double> scores(keys, -INFINITY);
  for (int t = 0; t < keys; ++t) {
    const std::uint16_t* k = key(t);
    if (k == nullptr) continue;
    double dot = 0;
    for (int i = 0; i < kMlaDecodeKey; ++i) dot += wide_q[i] * from_bf16(k[i]);
    scores[t] = dot * scale;
  }
  const double largest = keys == 0 ? 0 : *std::max_element(scores.begin(), scores.end());
  std::vector<double> u(kMlaDecodeLatent, 0.0);
  double sum = 0;
  for (int t = 0; t < keys; ++t) {
    const std::uint16_t* k = key(t);
    if (k == nullptr) continue;
    const double weight = std::exp(scores[t] - largest);
    sum += weight;
    for (int i = 0; i < kMlaDecodeLatent; ++i) u[i] += weight * from_bf16(k[i]);
  }
  for (double& value : u) value = sum == 0 ? 0 : value / sum;
  return u;
}

// A bf16 key as a row of the FP8 cache, and the bf16 numbers that this row stands for.
inline void to_fp8_row(const std::uint16_t* key, unsigned char* row, std::uint16_t* exact) {
  for (int block = 0; block < kMlaDecodeLatent; block += kFp8Block) {
    std::uint32_t largest = 0;
    for (int i = block; i < block + kFp8Block; ++i)
      largest = std::max(largest, (static_cast<std::uint32_t>(key[i]) & 0x7FFFu) << 16);
    const Fp8Scale scale = fp8_latent_scale(largest);
    std::memcpy(row + kFp8LatentScalesAt + block / kFp8Block * sizeof(float), &scale.scale, sizeof(float));
    for (int i = block; i < block + kFp8Block; ++i) {
      const float value = static_cast<float>(from_bf16(key[i])) * scale.inverse;
      row[i] = __nv_cvt_float_to_fp8(value, __NV_SATFINITE, __NV_E4M3);
      const float back = __half2float(__half(__nv_cvt_fp8_to_halfraw(row[i], __NV_E4M3))) * scale.scale;
      std::uint32_t bits;
      std::memcpy(&bits, &back, sizeof bits);
      exact[i] = static_cast<std::uint16_t>(bits >> 16);
    }
  }
  std::memcpy(row + kFp8LatentRopeAt, key + kMlaDecodeLatent, (kMlaDecodeKey - kMlaDecodeLatent) * 2);
  std::copy_n(key + kMlaDecodeLatent, kMlaDecodeKey - kMlaDecodeLatent, exact + kMlaDecodeLatent);
}

// ||out - reference|| / ||reference||; NaN if out holds one. Where the reference is zero: 0 if out is, else infinite.
inline double relative_error(const std::uint16_t* out, const std::vector<double>& reference) {
  double error = 0;
  double norm = 0;
  for (int i = 0; i < kMlaDecodeLatent; ++i) {
    const double difference = from_bf16(out[i]) - reference[i];
    error += difference * difference;
    norm += reference[i] * reference[i];
  }
  return error == 0 ? 0 : std::sqrt(error / norm);
}

// Rounding to bf16 gives 0.0017 of the norm twice: in the result, and in the weights before they meet the latents
// (where keys differ at random; less where one key has all the weight). Together 0.0024.
inline constexpr double kTolerance = 4e-3;

}  // namespace pelagic::mla_decode
