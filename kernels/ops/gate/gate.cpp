#include "ops/gate/gate.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "backend/cpu/cpu_ops.h"

namespace pelagic {
namespace {

constexpr float kTaken = 1.0f;

// The largest untaken score, the lowest index on a tie, marked as taken. Also when scores are NaN or -infinity it is an
// index not given before.
int take_best(const float* scores, float* taken, int count) {
  int best = -1;
  for (int i = 0; i < count; ++i) {
    if (taken[i] == kTaken) continue;
    if (best < 0 || scores[i] > scores[best]) best = i;
  }
  taken[best] = kTaken;
  return best;
}

float group_max(const float* scores, int count) { return *std::max_element(scores, scores + count); }

float group_top2_sum(const float* scores, int count) {
  float first = -std::numeric_limits<float>::infinity();
  float second = first;
  for (int i = 0; i < count; ++i) {
    if (scores[i] > first) {
      second = first;
      first = scores[i];
    } else if (scores[i] > second) {
      second = scores[i];
    }
  }
  return count == 1 ? first : first + second;
}

// Sets `choice` to `value` in all groups but the best top_k_groups.
void mask_groups(const GateConfig& config, float* choice, float value, float* taken, float* group_scores) {
  const int group_size = config.experts / config.groups;
  for (int g = 0; g < config.groups; ++g) {
    const float* group = choice + g * group_size;
    group_scores[g] = config.method == GateMethod::sigmoid_noaux_tc ? group_top2_sum(group, group_size)
                                                                    : group_max(group, group_size);
  }
  std::fill_n(taken, config.groups, 0.0f);
  for (int i = 0; i < config.top_k_groups; ++i) take_best(group_scores, taken, config.groups);
  for (int g = 0; g < config.groups; ++g)
    if (taken[g] != kTaken) std::fill(choice + g * group_size, choice + (g + 1) * group_size, value);
}

void gate_row(const GateConfig& config, const CpuOps& ops, float* scores, std::int32_t* ids, float* weights,
              float* scratch) {
  float* choice = scratch;
  float* taken = scratch + config.experts;
  float* group_scores = taken + config.experts;
  const bool sigmoid = config.method == GateMethod::sigmoid_noaux_tc;
  // Weights come from `source`: the scores, except that V2 also takes the masked zeros as they are.
  const float* source = scores;
  if (sigmoid) {
    ops.row_sigmoid(scores, config.experts, scores);
    for (int e = 0; e < config.experts; ++e)
      choice[e] = config.bias == nullptr ? scores[e] : scores[e] + config.bias[e];
    mask_groups(config, choice, -std::numeric_limits<float>::infinity(), taken, group_scores);
  } else {
    ops.row_softmax(scores, config.experts, scores);
    std::copy(scores, scores + config.experts, choice);
    if (config.method == GateMethod::softmax_group_limited) {
      mask_groups(config, choice, 0.0f, taken, group_scores);
      source = choice;
    }
  }
  std::fill(taken, taken + config.experts, 0.0f);
  float sum = 0.0f;
  for (int rank = 0; rank < config.top_k; ++rank) {
    ids[rank] = take_best(choice, taken, config.experts);
    weights[rank] = source[ids[rank]];
    sum = sum + weights[rank];
  }
  const bool normalize = config.normalize && (sigmoid || config.top_k > 1);
  for (int rank = 0; rank < config.top_k; ++rank) {
    if (normalize) weights[rank] = weights[rank] / (sum + 1e-20f);
    weights[rank] = weights[rank] * config.routed_scaling_factor;
  }
}

}  // namespace

void check_gate_config(const GateConfig& config) {
  const auto require = [](bool ok, const char* what) {
    if (!ok) throw std::invalid_argument(what);
  };
  require(config.experts >= 1, "experts must be at least 1");
  require(config.top_k >= 1 && config.top_k <= config.experts, "top_k must be 1 to experts");
  if (config.method == GateMethod::softmax_greedy) return;
  require(config.groups >= 1 && config.experts % config.groups == 0, "groups must divide experts");
  require(config.top_k_groups >= 1 && config.top_k_groups <= config.groups, "top_k_groups must be 1 to groups");
}

void gate_rows(const GateConfig& config, const CpuOps& ops, float* logits, std::int64_t ld_logits, int row_begin,
               int row_end, std::int32_t* ids, float* weights, float* scratch) {
  for (int row = row_begin; row < row_end; ++row)
    gate_row(config, ops, logits + row * ld_logits, ids + static_cast<std::int64_t>(row) * config.top_k,
             weights + static_cast<std::int64_t>(row) * config.top_k, scratch);
}

void count_experts(const std::int32_t* ids, std::int64_t id_count, std::uint32_t* counts) {
  for (std::int64_t i = 0; i < id_count; ++i) ++counts[ids[i]];
}

}  // namespace pelagic
