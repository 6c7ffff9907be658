#include "ops/gate/gate.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <set>
#include <stdexcept>

#include "backend/cpu/cpu_ops.h"
#include "base/test.h"

namespace {

using namespace pelagic;
using Floats = std::vector<float>;

struct Choice {
  std::vector<std::int32_t> ids;
  Floats weights;
};

Choice route(const GateConfig& config, const CpuOps& ops, Floats logits, int rows = 1) {
  const auto k = static_cast<std::size_t>(rows * config.top_k);
  Choice out{std::vector<std::int32_t>(k), Floats(k)};
  Floats scratch(static_cast<std::size_t>(2 * config.experts + config.groups));
  check_gate_config(config);
  gate_rows(config, ops, logits.data(), config.experts, 0, rows, out.ids.data(), out.weights.data(), scratch.data());
  return out;
}

// spec/moe.md section 2 in float64, with sorts of whole lists.
struct Slow {
  std::vector<std::int32_t> ids;
  std::vector<double> weights;
};

std::vector<int> order_of(const std::vector<double>& scores) {
  std::vector<int> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
    return scores[static_cast<std::size_t>(a)] > scores[static_cast<std::size_t>(b)];
  });
  return order;
}

Slow slow_route(const GateConfig& config, const Floats& logits) {
  const auto experts = logits.size();
  const bool sigmoid = config.method == GateMethod::sigmoid_noaux_tc;
  std::vector<double> s(experts);
  double total = 0.0;
  for (std::size_t e = 0; e < experts; ++e) {
    const double x = static_cast<double>(logits[e]);
    s[e] = sigmoid ? 1.0 / (1.0 + std::exp(-x)) : std::exp(x);
    total += s[e];
  }
  if (!sigmoid)
    for (double& x : s) x /= total;
  std::vector<double> choice = s;
  if (sigmoid && config.bias != nullptr)
    for (std::size_t e = 0; e < experts; ++e) choice[e] += static_cast<double>(config.bias[e]);
  if (config.method != GateMethod::softmax_greedy) {
    const std::size_t size = experts / static_cast<std::size_t>(config.groups);
    std::vector<double> groups;
    for (std::size_t g = 0; g < static_cast<std::size_t>(config.groups); ++g) {
      std::vector<double> group(choice.begin() + static_cast<std::ptrdiff_t>(g * size),
                                choice.begin() + static_cast<std::ptrdiff_t>((g + 1) * size));
      std::sort(group.rbegin(), group.rend());
      groups.push_back(sigmoid && size > 1 ? group[0] + group[1] : group[0]);
    }
    const std::vector<int> order = order_of(groups);
    for (std::size_t i = static_cast<std::size_t>(config.top_k_groups); i < order.size(); ++i)
      for (std::size_t e = 0; e < size; ++e)
        choice[static_cast<std::size_t>(order[i]) * size + e] =
            sigmoid ? -std::numeric_limits<double>::infinity() : 0.0;
    if (!sigmoid) s = choice;
  }
  Slow out;
  double sum = 0.0;
  for (const int e : order_of(choice)) {
    if (out.ids.size() == static_cast<std::size_t>(config.top_k)) break;
    out.ids.push_back(e);
    out.weights.push_back(s[static_cast<std::size_t>(e)]);
    sum += out.weights.back();
  }
  for (double& w : out.weights) {
    if (config.normalize && (sigmoid || config.top_k > 1)) w /= sum + 1e-20;
    w *= static_cast<double>(config.routed_scaling_factor);
  }
  return out;
}

TEST("against the specification in float64, and the same bits from every instruction set") {
  test::Random random(1);
  for (int trial = 0; trial < 300; ++trial) {
    const auto method = static_cast<GateMethod>(trial % 3);
    const int groups = random.integer(1, 4), experts = groups * random.integer(1, 20);
    GateConfig config{
        method, experts, random.integer(1, std::min(experts, 8)), groups, random.integer(1, groups), trial % 2 == 0,
        2.5f,   nullptr};
    const Floats logits = random.floats(static_cast<std::size_t>(experts), -4.0f, 4.0f);
    const Floats bias = random.floats(static_cast<std::size_t>(experts), -0.3f, 0.3f);
    if (trial % 4 != 0) config.bias = bias.data();
    const Slow slow = slow_route(config, logits);
    const Choice expected = route(config, cpu_ops(Isa::scalar), logits);
    CHECK(expected.ids == slow.ids);
    for (std::size_t i = 0; i < expected.weights.size(); ++i) CHECK_NEAR(expected.weights[i], slow.weights[i], 2e-6);
    for (const CpuOps* ops : all_cpu_ops()) {
      const Choice other = route(config, *ops, logits);
      CHECK(other.ids == expected.ids && test::same_bits(other.weights, expected.weights));
    }
  }
}

TEST("ties go to the lowest id, in groups too") {
  const Floats flat(8, 0.5f);
  for (int method = 0; method < 3; ++method) {
    const Choice choice = route({static_cast<GateMethod>(method), 8, 3, 4, 2}, cpu_ops(Isa::scalar), flat);
    CHECK((choice.ids == std::vector<std::int32_t>{0, 1, 2}));
  }
}

TEST("the bias chooses and does not weigh") {
  Floats logits(4, 0.0f), bias{0.0f, 0.0f, 5.0f, 0.0f};
  logits[1] = 1.0f;
  const Choice choice =
      route({GateMethod::sigmoid_noaux_tc, 4, 2, 1, 1, false, 1.0f, bias.data()}, cpu_ops(Isa::scalar), logits);
  CHECK((choice.ids == std::vector<std::int32_t>{2, 1}));
  CHECK(choice.weights[0] == 0.5f);
}

TEST("a row does not depend on the others; counts add up") {
  test::Random random(2);
  const GateConfig config{GateMethod::sigmoid_noaux_tc, 32, 4, 4, 2, true, 2.5f, nullptr};
  const Floats logits = random.floats(32 * 9, -3.0f, 3.0f);
  const Choice all = route(config, cpu_ops(best_isa()), logits, 9);
  for (std::size_t row = 0; row < 9; ++row) {
    const Choice one = route(config, cpu_ops(best_isa()),
                             Floats(logits.begin() + static_cast<std::ptrdiff_t>(32 * row),
                                    logits.begin() + static_cast<std::ptrdiff_t>(32 * row + 32)));
    for (std::size_t i = 0; i < 4; ++i)
      CHECK(one.ids[i] == all.ids[4 * row + i] && test::same_bits(one.weights[i], all.weights[4 * row + i]));
  }
  std::vector<std::uint32_t> counts(32, 10);
  count_experts(all.ids.data(), 36, counts.data());
  CHECK(std::accumulate(counts.begin(), counts.end(), 0u) == 320 + 36);
}

TEST("NaN and infinite logits: valid, distinct ids") {
  test::Random random(3);
  for (int trial = 0; trial < 90; ++trial) {
    Floats logits = random.floats(16);
    for (int i = random.integer(1, 16); i > 0; --i) {
      const float bad[] = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                           -std::numeric_limits<float>::infinity()};
      logits[static_cast<std::size_t>(random.integer(0, 15))] = bad[random.integer(0, 2)];
    }
    const Choice choice =
        route({static_cast<GateMethod>(trial % 3), 16, 8, 4, 1, true, 1.0f, nullptr}, cpu_ops(best_isa()), logits);
    const std::set<std::int32_t> distinct(choice.ids.begin(), choice.ids.end());
    CHECK(distinct.size() == 8 && *distinct.begin() >= 0 && *distinct.rbegin() < 16);
  }
}

TEST("bad configurations are refused") {
  CHECK_THROWS(check_gate_config({GateMethod::softmax_greedy, 4, 5}), std::invalid_argument);
  CHECK_THROWS(check_gate_config({GateMethod::softmax_greedy, 4, 0}), std::invalid_argument);
  CHECK_THROWS(check_gate_config({GateMethod::sigmoid_noaux_tc, 6, 2, 4, 1}), std::invalid_argument);
  CHECK_THROWS(check_gate_config({GateMethod::sigmoid_noaux_tc, 8, 2, 4, 5}), std::invalid_argument);
}

}  // namespace

TEST_MAIN
