#include "graph/rope_plan.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace pelagic {
namespace {

double magnitude(double factor, double mscale) { return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0; }

// How many channels make fewer than `rotations` turns over the original context begin here.
double correction_channel(double rotations, double theta, double dim, double original_positions) {
  return dim * std::log(original_positions / (rotations * 2 * std::numbers::pi)) / (2 * std::log(theta));
}

void apply_yarn(const YarnConfig& yarn, double theta, double dim, RopePlan& plan) {
  const double positions = static_cast<double>(yarn.original_max_positions);
  double low = correction_channel(yarn.beta_fast, theta, dim, positions);
  double high = correction_channel(yarn.beta_slow, theta, dim, positions);
  if (yarn.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, dim - 1);
  if (low == high) high += 0.001;  // keeps the ramp finite
  for (std::size_t i = 0; i < plan.frequencies.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    const double base = plan.frequencies[i];
    plan.frequencies[i] = base / yarn.factor * ramp + base * (1 - ramp);
  }

  if (yarn.attention_factor) {
    plan.amplitude = *yarn.attention_factor;
  } else if (yarn.mscale != 0 && yarn.mscale_all_dim != 0) {
    plan.amplitude = magnitude(yarn.factor, yarn.mscale) / magnitude(yarn.factor, yarn.mscale_all_dim);
  } else {
    plan.amplitude = magnitude(yarn.factor, 1);
  }
  if (yarn.mscale_all_dim != 0) {
    const double m = magnitude(yarn.factor, yarn.mscale_all_dim);
    plan.softmax_scale *= m * m;
  }
}

}  // namespace

RopePlan plan_rope(const ModelConfig& config) {
  const double dim = static_cast<double>(config.rope_dim);
  RopePlan plan;
  plan.softmax_scale = 1 / std::sqrt(static_cast<double>(config.query_key_dim()));
  for (std::int64_t i = 0; i < config.rope_dim / 2; ++i) {
    plan.frequencies.push_back(std::pow(config.rope_theta, -2.0 * static_cast<double>(i) / dim));
  }
  if (config.yarn) apply_yarn(*config.yarn, config.rope_theta, dim, plan);
  return plan;
}

}  // namespace pelagic
