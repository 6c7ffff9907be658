#include "ops/sampler/sampler.h"

#include <algorithm>
#include <limits>
#include <map>
#include <numeric>
#include <stdexcept>

#include "backend/cpu/cpu_ops.h"
#include "base/philox.h"
#include "base/test.h"
#include "ops/sampler/sampler_math.h"

namespace {

using namespace pelagic;
using Floats = std::vector<float>;
using Ids = std::vector<std::uint32_t>;

SampleResult sample(const Floats& logits, const SamplingParams& params, std::uint32_t position = 0,
                    const CpuOps& ops = cpu_ops(best_isa())) {
  static SamplerScratch scratch;
  SampleResult result;
  check_sampling_params(params, static_cast<int>(logits.size()));
  sample_row(ops, logits.data(), static_cast<int>(logits.size()), position, params, scratch, result);
  return result;
}

// README.md step by step in float64 with full sorts. Returns the kept ids with their unnormalised log-weights.
std::map<std::uint32_t, double> slow_kept(const Floats& logits, const SamplingParams& params) {
  std::vector<double> l(logits.begin(), logits.end());
  for (std::size_t i = 0; i < params.bias_tokens.size(); ++i)
    l[params.bias_tokens[i]] += static_cast<double>(params.bias_values[i]);
  for (std::size_t id = 0; id < l.size(); ++id) {
    const auto in_output = std::count(params.output_tokens.begin(), params.output_tokens.end(), id);
    const auto in_prompt = std::count(params.prompt_tokens.begin(), params.prompt_tokens.end(), id);
    const double repetition = static_cast<double>(params.repetition_penalty);
    if (in_output + in_prompt > 0) l[id] = l[id] > 0 ? l[id] / repetition : l[id] * repetition;
    l[id] -= static_cast<double>(params.frequency_penalty) * static_cast<double>(in_output);
    if (in_output > 0) l[id] -= static_cast<double>(params.presence_penalty);
  }
  Ids order(l.size());
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) { return l[a] > l[b]; });
  if (params.temperature == 0.0f) return {{order[0], 0.0}};
  const double largest = l[order[0]];
  if (params.top_k > 0) order.resize(std::min(order.size(), static_cast<std::size_t>(params.top_k)));
  const auto weight = [&](std::uint32_t id) {
    return std::exp((l[id] - largest) / static_cast<double>(params.temperature));
  };
  double total = 0.0, kept = 0.0;
  for (const std::uint32_t id : order) total += weight(id);
  std::map<std::uint32_t, double> out;
  for (const std::uint32_t id : order) {
    if (params.top_p < 1.0f && kept >= static_cast<double>(params.top_p) * total) break;
    kept += weight(id);
    if (weight(id) >= static_cast<double>(params.min_p))
      out[id] = (l[id] - largest) / static_cast<double>(params.temperature);
  }
  return out;
}

std::uint32_t slow_draw(const std::map<std::uint32_t, double>& kept, const SamplingParams& params,
                        std::uint32_t position) {
  std::uint32_t best_id = 0;
  double best = -std::numeric_limits<double>::infinity();
  for (const auto& [id, z] : kept) {
    const auto words =
        philox4x32_10({id / 4, position, params.choice, 0},
                      {static_cast<std::uint32_t>(params.seed), static_cast<std::uint32_t>(params.seed >> 32)});
    const double value = z - std::log(-std::log((words[id % 4] + 0.5) / 4294967296.0));
    if (value > best) {
      best = value;
      best_id = id;
    }
  }
  return best_id;
}

TEST("every filter and penalty against the slow version") {
  test::Random random(1);
  int draws = 0;
  for (int trial = 0; trial < 3000; ++trial) {
    const auto vocab = static_cast<std::size_t>(random.integer(1, 90));
    const Floats logits = random.floats(vocab, -6.0f, 6.0f);
    const auto some_ids = [&] {
      Ids ids(static_cast<std::size_t>(random.integer(0, 12)));
      for (std::uint32_t& id : ids) id = random.bits() % static_cast<std::uint32_t>(vocab);
      return ids;
    };
    const Ids prompt = some_ids(), output = some_ids(), biased = some_ids();
    const Floats bias = random.floats(biased.size(), -3.0f, 3.0f);
    SamplingParams params;
    params.temperature = trial % 10 == 0 ? 0.0f : random.uniform(0.1f, 2.0f);
    if (random.integer(0, 1)) params.top_k = random.integer(1, 100);
    if (random.integer(0, 1)) params.top_p = random.uniform(0.05f, 1.0f);
    if (random.integer(0, 2) == 0) params.min_p = random.uniform(0.0f, 0.3f);
    if (random.integer(0, 2) == 0) params.repetition_penalty = random.uniform(0.7f, 1.6f);
    if (random.integer(0, 2) == 0) params.presence_penalty = random.uniform(-1.0f, 1.0f);
    if (random.integer(0, 2) == 0) params.frequency_penalty = random.uniform(-1.0f, 1.0f);
    if (random.integer(0, 1)) {
      params.bias_tokens = biased;
      params.bias_values = bias;
    }
    params.prompt_tokens = prompt;
    params.output_tokens = output;
    params.seed = (static_cast<std::uint64_t>(random.bits()) << 32) | random.bits();
    params.choice = random.bits() % 3;
    const std::map<std::uint32_t, double> kept = slow_kept(logits, params);
    for (std::uint32_t position = 0; position < 4; ++position, ++draws)
      CHECK(static_cast<std::uint32_t>(sample(logits, params, position).token) == slow_draw(kept, params, position));
  }
  CHECK(draws == 12000);
}

TEST("chi-square: draws follow the softmax") {
  const Floats logits{1.0f, 0.0f, -1.0f, 2.0f, 0.5f, -0.5f, 1.5f, -2.0f, 0.25f, -3.0f};
  constexpr int kDraws = 20000;
  for (const std::uint64_t seed : {1ull, 42ull, 0x123456789ABCDEFull, 0xFFFFFFFFFFFFFFFFull}) {
    for (const float temperature : {0.7f, 1.0f}) {
      SamplingParams params;
      params.temperature = temperature;
      params.seed = seed;
      std::vector<int> counts(logits.size());
      for (std::uint32_t position = 0; position < kDraws; ++position)
        ++counts[static_cast<std::size_t>(sample(logits, params, position).token)];
      double total = 0.0, chi_square = 0.0;
      for (const float logit : logits) total += std::exp(static_cast<double>(logit / temperature));
      for (std::size_t id = 0; id < logits.size(); ++id) {
        const double expected = kDraws * std::exp(static_cast<double>(logits[id] / temperature)) / total;
        chi_square += (counts[id] - expected) * (counts[id] - expected) / expected;
      }
      CHECK(chi_square < 27.88);  // the 0.999 quantile with 9 degrees of freedom
    }
  }
}

TEST("the same from every instruction set; seed, position and choice each matter") {
  test::Random random(3);
  const Floats logits = random.floats(1001, -2.0f, 2.0f);
  SamplingParams params;
  params.temperature = 1.0f;
  params.top_p = 0.9f;
  params.seed = 77;
  params.logprobs = 5;
  int differ_seed = 0, differ_choice = 0, differ_position = 0;
  for (std::uint32_t position = 0; position < 100; ++position) {
    const SampleResult expected = sample(logits, params, position);
    for (const CpuOps* ops : all_cpu_ops()) {
      const SampleResult result = sample(logits, params, position, *ops);
      CHECK(result.token == expected.token && test::same_bits(result.logprob, expected.logprob));
      CHECK(result.top_tokens == expected.top_tokens && test::same_bits(result.top_logprobs, expected.top_logprobs));
    }
    SamplingParams other = params;
    other.seed = 77ull | (1ull << 40);
    differ_seed += sample(logits, other, position).token != expected.token;
    other = params;
    other.choice = 1;
    differ_choice += sample(logits, other, position).token != expected.token;
    differ_position += sample(logits, params, position + 1).token != expected.token;
  }
  CHECK(differ_seed > 80 && differ_choice > 80 && differ_position > 80);
}

TEST("greedy, and ties to the lowest id") {
  SamplingParams greedy;
  CHECK(sample({1.0f, 3.0f, 3.0f, 2.0f}, greedy).token == 1);
  SamplingParams top1;
  top1.temperature = 1.0f;
  top1.top_k = 1;
  for (std::uint32_t position = 0; position < 50; ++position)
    CHECK(sample({1.0f, 3.0f, 3.0f, 2.0f}, top1, position).token == 1);
  top1.top_k = 0;
  top1.top_p = 1e-6f;
  for (std::uint32_t position = 0; position < 50; ++position)
    CHECK(sample({1.0f, 3.0f, 3.0f, 2.0f}, top1, position).token == 1);
  top1.top_p = 1.0f;
  top1.temperature = 1e-30f;
  CHECK(sample({1.0f, 2.0f, 3.0f}, top1, 9).token == 2);
}

TEST("logprobs are of the raw logits; the top list is ordered") {
  const Floats logits{0.5f, 2.0f, -1.0f, 2.0f, 1.0f};
  const Ids biased{2};
  const Floats bias{100.0f};
  SamplingParams params;
  params.logprobs = 3;
  params.bias_tokens = biased;
  params.bias_values = bias;
  const Ids second{3};
  SamplingParams tied = params;
  tied.bias_tokens = second;
  CHECK(sample(logits, tied).token == 3 && sample(logits, tied).rank == 2);
  const SampleResult result = sample(logits, params);
  double sum = 0.0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit));
  CHECK(result.token == 2);
  CHECK_NEAR(result.logprob, -1.0 - std::log(sum), 1e-6);
  CHECK((result.top_tokens == Ids{1, 3, 4}));
  CHECK_NEAR(result.top_logprobs[0], 2.0 - std::log(sum), 1e-6);
  CHECK(result.rank == 5);
  params.logprobs = 0;
  CHECK(sample(logits, params).top_tokens.empty() && std::isfinite(sample(logits, params).logprob));
  params.logprobs = -1;
  CHECK(std::isnan(sample(logits, params).logprob));
  params.logprobs = 20;
  CHECK(sample(logits, params).top_tokens.size() == 5);
}

TEST("only allowed ids are chosen, whatever bias and penalties say; without any the row is not valid") {
  test::Random random(5);
  const Ids biased{3};
  const Floats bias{1000.0f};
  for (int trial = 0; trial < 300; ++trial) {
    const Floats logits = random.floats(70, -3.0f, 3.0f);
    Ids allowed(3);
    for (int i = random.integer(1, 4); i > 0; --i) {
      const auto id = static_cast<std::uint32_t>(random.integer(4, 69));
      allowed[id / 32] |= 1u << (id % 32);
    }
    SamplingParams params;
    params.bias_tokens = biased;
    params.bias_values = bias;
    params.allowed = allowed;
    params.temperature = trial % 3 == 0 ? 0.0f : 1.0f;
    if (trial % 2 == 0) params.top_p = 0.5f;
    params.logprobs = 0;
    const SampleResult result = sample(logits, params, static_cast<std::uint32_t>(trial));
    CHECK(result.valid && is_allowed(allowed.data(), static_cast<std::uint32_t>(result.token)));
    params.allowed = {};
    CHECK(sample(logits, params).token == 3);
    // Logprobs are of the raw logits.
    params.bias_tokens = {};
    params.bias_values = {};
    Ids only(3);
    only[static_cast<std::size_t>(result.token / 32)] = 1u << (result.token % 32);
    params.allowed = only;
    CHECK(sample(logits, params).logprob == result.logprob && sample(logits, params).token == result.token);
  }
  const Ids none(3);
  SamplingParams params;
  params.allowed = none;
  CHECK(!sample(Floats(70, 1.0f), params).valid);
}

TEST("sums of weights are exact integers") {
  CHECK(integer_weight(1.0f) == kWholeWeight && integer_weight(0x1p-40f) == 1 && integer_weight(0x1.8p-41f) == 0);
  CHECK(weight_to_reach(0.5f, 4) == 2 && weight_to_reach(0.5f, 5) == 3 && weight_to_reach(1e-30f, 5) == 1);
  // Half of a hundred equal ids are the first fifty, to the last bit.
  SamplingParams params;
  params.temperature = 1.0f;
  params.top_p = 0.5f;
  const Floats equal(100, 3.0f);
  std::uint32_t highest = 0;
  for (std::uint32_t position = 0; position < 2000; ++position)
    highest = std::max(highest, static_cast<std::uint32_t>(sample(equal, params, position).token));
  CHECK(highest == 49);
  params.logprobs = 0;
  CHECK(test::same_bits(sample(equal, params).logprob, static_cast<float>(-log_f64(100.0))));
}

TEST("logprobs of rows with NaN and infinities") {
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN(), kInfinity = std::numeric_limits<float>::infinity();
  SamplingParams params;
  params.logprobs = 3;
  const SampleResult with_nan = sample({kNaN, 1.0f, 1.0f}, params);
  CHECK(with_nan.token == 1 && test::same_bits(with_nan.logprob, static_cast<float>(-log_f64(2.0))));
  CHECK((with_nan.top_tokens == Ids{1, 2, 0}) && with_nan.top_logprobs[2] == -kInfinity);
  const SampleResult infinite = sample({1.0f, kInfinity, -kInfinity}, params);
  CHECK(infinite.token == 1 && infinite.logprob == 0.0f);
  CHECK((infinite.top_tokens == Ids{1, 0, 2}) && infinite.top_logprobs[1] == -kInfinity);
}

TEST("NaN and infinite logits") {
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN(), kInfinity = std::numeric_limits<float>::infinity();
  for (const float temperature : {0.0f, 1.0f}) {
    SamplingParams params;
    params.temperature = temperature;
    params.top_p = 0.9f;
    params.min_p = 0.1f;
    params.top_k = 3;
    params.logprobs = 2;
    CHECK(!sample({kNaN, kNaN}, params).valid && sample({kNaN, kNaN}, params).token == 0);
    CHECK(!sample({-kInfinity, kNaN}, params).valid);
    CHECK(sample({kNaN, 1.0f, -kInfinity}, params).token == 1);
    CHECK(sample({1.0f, kInfinity, 5.0f}, params).token == 1);
  }
}

TEST("bad parameters are refused") {
  const auto refused = [](auto change, int vocab = 10) {
    SamplingParams params;
    change(params);
    try {
      check_sampling_params(params, vocab);
    } catch (const std::invalid_argument&) {
      return true;
    }
    return false;
  };
  const Ids ten{10};
  const Floats one{1.0f};
  CHECK(!refused([](SamplingParams&) {}));
  CHECK(refused([](SamplingParams& p) { p.temperature = -1.0f; }));
  CHECK(refused([](SamplingParams& p) { p.temperature = std::numeric_limits<float>::quiet_NaN(); }));
  CHECK(refused([](SamplingParams& p) { p.top_p = 0.0f; }));
  CHECK(refused([](SamplingParams& p) { p.top_p = 1.1f; }));
  CHECK(refused([](SamplingParams& p) { p.min_p = -0.1f; }));
  CHECK(refused([](SamplingParams& p) { p.top_k = -1; }));
  CHECK(refused([](SamplingParams& p) { p.repetition_penalty = 0.0f; }));
  const Ids word(1);
  CHECK(!refused([&](SamplingParams& p) { p.allowed = word; }, 32));
  CHECK(refused([&](SamplingParams& p) { p.allowed = word; }, 33));
  CHECK(refused([&](SamplingParams& p) { p.bias_values = one; }));
  CHECK(refused([&](SamplingParams& p) {
    p.bias_tokens = ten;
    p.bias_values = one;
  }));
  CHECK(refused([&](SamplingParams& p) { p.prompt_tokens = ten; }));
  CHECK(refused([&](SamplingParams& p) { p.output_tokens = ten; }));
}

}  // namespace

TEST_MAIN
