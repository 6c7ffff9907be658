#include <limits>

#include "base/chains.h"
#include "base/exp.h"
#include "ops/row_math/row_math.h"

namespace pelagic::PELAGIC_SCALAR_NAMESPACE {

float row_max(const float* x, int n) {
  float best = -std::numeric_limits<float>::infinity();
  for (int i = 0; i < n; ++i) best = x[i] > best ? x[i] : best;
  return best;
}

float row_exp_sum(const float* x, float shift, int n, float* y) {
  float chains[kChains] = {};
  for (int i = 0; i < n; ++i) {
    const float term = exp_f32(x[i] - shift);
    chains[i % kChains] = chains[i % kChains] + term;
    if (y != nullptr) y[i] = term;
  }
  return sum_chains(chains);
}

void row_softmax(const float* x, int n, float* y) {
  const float sum = row_exp_sum(x, row_max(x, n), n, y);
  for (int i = 0; i < n; ++i) y[i] = y[i] / sum;
}

void row_sigmoid(const float* x, int n, float* y) {
  for (int i = 0; i < n; ++i) y[i] = 1.0f / (1.0f + exp_f32(-x[i]));
}

}  // namespace pelagic::PELAGIC_SCALAR_NAMESPACE
