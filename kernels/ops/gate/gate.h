// Routing: logits of one token -> the ids and weights of its top-k experts. Formulas: spec/moe.md section 2.
#pragma once

#include <cstdint>

namespace pelagic {

struct CpuOps;

enum class GateMethod {
  softmax_greedy,         // V2-Lite: top-k of the softmax
  softmax_group_limited,  // V2 "group_limited_greedy": group score = its largest; scores of other groups become 0
  sigmoid_noaux_tc,       // V3: sigmoid; score + bias chooses only; group score = sum of its two largest; other groups
                          // -infinity
};

struct GateConfig {
  GateMethod method;
  int experts;           // logical experts E
  int top_k;             // 1 .. E
  int groups = 1;        // divides E; used by the two group-limited methods
  int top_k_groups = 1;  // 1 .. groups; groups kept
  bool normalize =
      false;  // norm_topk_prob: w = w / (sum of the chosen w + 1e-20), when top_k > 1 (softmax) or always (sigmoid)
  float routed_scaling_factor = 1.0f;  // multiplied last, also after normalising (as newer Hugging Face code does)
  const float* bias = nullptr;         // [E], e_score_correction_bias; sigmoid_noaux_tc only, may be null
};

// Throws std::invalid_argument with the field's name.
void check_gate_config(const GateConfig& config);

// logits: [rows, E], ld_logits floats between rows, overwritten with the scores. ids, weights: [rows, top_k], in
// descending order of the choosing score, the lower id first on a tie. NaN logits give ids that are valid and distinct,
// and NaN weights. One row's result depends on its logits only. scratch: [2 * E + groups] floats, one for each thread.
void gate_rows(const GateConfig& config, const CpuOps& ops, float* logits, std::int64_t ld_logits, int row_begin,
               int row_end, std::int32_t* ids, float* weights, float* scratch);

// counts[e] += how many of ids[0..id_count) are e. counts: [E], logical experts.
void count_experts(const std::int32_t* ids, std::int64_t id_count, std::uint32_t* counts);

}  // namespace pelagic
