// Rotary frequencies and the softmax scale of a model: plain RoPE or YaRN (spec: mla.md sections 2 and 3).
#pragma once

#include <vector>

#include "graph/config.h"

namespace pelagic {

struct RopePlan {
  std::vector<double> frequencies;  // [dr / 2]; angle(t, i) = t * frequencies[i]
  double amplitude = 1;             // multiplies cos and sin
  double softmax_scale = 1;         // (dn + dr)^-0.5 m^2
};

// Without YaRN: frequency_i = theta^(-2i/dr), amplitude 1, m = 1. With it (always on, as in Hugging Face's classes):
//   corr(r)     = dr ln(original / (2 pi r)) / (2 ln theta);  low = floor(corr(beta_fast)), high =
//   ceil(corr(beta_slow)) ramp_i      = clamp((i - low) / (high - low), 0, 1);  frequency_i = base_i / factor * ramp_i
//   + base_i (1 - ramp_i) mscale(x)   = 0.1 x ln(factor) + 1 amplitude   = mscale(mscale) / mscale(mscale_all_dim), or
//   mscale(1) where one of them is not given m           = mscale(mscale_all_dim), 1 where it is not given
RopePlan plan_rope(const ModelConfig& config);

}  // namespace pelagic
