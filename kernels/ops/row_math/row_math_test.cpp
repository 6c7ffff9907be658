#include "ops/row_math/row_math.h"

#include <algorithm>
#include <limits>

#include "backend/cpu/cpu_ops.h"
#include "base/exp.h"
#include "base/test.h"

namespace {

using namespace pelagic;
using Floats = std::vector<float>;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST("exp is the same in every instruction set, special values included") {
  constexpr int kBatch = 4096;
  Floats x(kBatch), y(kBatch);
  for (const CpuOps* ops : all_cpu_ops()) {
    for (std::uint64_t bits = 0; bits < (1ull << 32); bits += 1013ull * kBatch) {
      for (std::size_t i = 0; i < kBatch; ++i) x[i] = std::bit_cast<float>(static_cast<std::uint32_t>(bits + 1013 * i));
      ops->row_exp_sum(x.data(), 0.0f, kBatch, y.data());
      for (std::size_t i = 0; i < kBatch; ++i)
        CHECK(test::same_bits(y[i], exp_f32(x[i])) || (std::isnan(x[i]) && std::isnan(y[i])));
    }
    Floats special{kInfinity,
                   -kInfinity,
                   0.0f,
                   -0.0f,
                   88.7228f,
                   88.7229f,
                   -87.4f,
                   -103.9f,
                   -104.0f,
                   1e-40f,
                   std::numeric_limits<float>::quiet_NaN()};
    Floats out(special.size());
    ops->row_exp_sum(special.data(), 0.0f, static_cast<int>(special.size()), out.data());
    for (std::size_t i = 0; i < special.size(); ++i)
      CHECK(test::same_bits(out[i], exp_f32(special[i])) || std::isnan(special[i]));
  }
}

TEST("sums, softmax and sigmoid: against float64, and the same bits everywhere") {
  test::Random random(2);
  for (int trial = 0; trial < 100; ++trial) {
    const int n = random.integer(1, 300);
    const Floats x = random.floats(static_cast<std::size_t>(n), -10.0f, 10.0f);
    double sum = 0.0;
    for (const float one : x) sum += std::exp(static_cast<double>(one));
    float expected_sum = 0.0f;
    Floats expected_softmax, expected_sigmoid;
    for (const CpuOps* ops : all_cpu_ops()) {
      CHECK(ops->row_max(x.data(), n) == *std::max_element(x.begin(), x.end()));
      Floats softmax(x.size() + 1, 3.0f), sigmoid = x;
      sigmoid.push_back(3.0f);
      const float exp_sum = ops->row_exp_sum(x.data(), 0.0f, n, nullptr);
      ops->row_softmax(x.data(), n, softmax.data());
      ops->row_sigmoid(sigmoid.data(), n, sigmoid.data());
      CHECK(softmax.back() == 3.0f && sigmoid.back() == 3.0f);
      if (expected_softmax.empty()) {
        expected_sum = exp_sum;
        expected_softmax = softmax;
        expected_sigmoid = sigmoid;
        CHECK_NEAR(exp_sum / sum, 1.0, 1e-6);
        for (std::size_t i = 0; i < x.size(); ++i) {
          CHECK_NEAR(softmax[i], std::exp(static_cast<double>(x[i])) / sum, 1e-6);
          CHECK_NEAR(sigmoid[i], 1.0 / (1.0 + std::exp(-static_cast<double>(x[i]))), 3e-7);
        }
      }
      CHECK(test::same_bits(exp_sum, expected_sum));
      CHECK(test::same_bits(softmax, expected_softmax));
      CHECK(test::same_bits(sigmoid, expected_sigmoid));
    }
  }
}

TEST("empty rows") {
  for (const CpuOps* ops : all_cpu_ops()) {
    CHECK(ops->row_max(nullptr, 0) == -kInfinity);
    CHECK(ops->row_exp_sum(nullptr, 0.0f, 0, nullptr) == 0.0f);
  }
}

}  // namespace

TEST_MAIN
