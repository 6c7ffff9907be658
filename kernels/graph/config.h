// What config.json says about the model, checked. Both the names of DeepSeek's published checkpoints (rope_theta,
// rope_scaling) and those of newer Hugging Face releases (rope_parameters) are read.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "ops/gate/gate.h"

namespace pelagic {

enum class ModelFamily { deepseek_v2, deepseek_v3 };

struct YarnConfig {
  double factor = 1;
  int64_t original_max_positions = 0;
  double beta_fast = 32;
  double beta_slow = 1;
  double mscale = 0;
  double mscale_all_dim = 0;
  std::optional<double> attention_factor;  // overrides the cos/sin multiplier
  bool truncate = true;                    // round the ramp's ends to whole channels
};

struct ModelConfig {
  ModelFamily family = ModelFamily::deepseek_v3;
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;         // D
  int64_t dense_intermediate = 0;  // width of the dense layers' MLP
  int64_t layer_count = 0;
  int64_t dense_layer_count = 0;  // the first layers; all others are MoE
  int64_t head_count = 0;         // H
  int64_t max_positions = 0;
  double norm_eps = 1e-6;
  bool tied_embeddings = false;

  int64_t query_rank = 0;  // 0: queries are not compressed (q_lora_rank null)
  int64_t kv_rank = 0;
  int64_t nope_dim = 0;   // dn
  int64_t rope_dim = 0;   // dr
  int64_t value_dim = 0;  // dv

  double rope_theta = 10000;
  std::optional<YarnConfig> yarn;

  // All zero in a model without experts.
  int64_t expert_count = 0;
  int64_t shared_expert_count = 0;
  int64_t experts_per_token = 0;
  int64_t expert_intermediate = 0;
  int64_t group_count = 1;
  int64_t kept_group_count = 1;
  GateMethod gate = GateMethod::sigmoid_noaux_tc;
  bool normalize_gate_weights = false;
  double routed_scale = 1;

  int64_t query_key_dim() const { return nope_dim + rope_dim; }
  int64_t latent_width() const { return kv_rank + rope_dim; }
  int64_t moe_layer_count() const { return layer_count - dense_layer_count; }
  bool is_moe_layer(int64_t layer) const { return layer >= dense_layer_count; }
};

// Reads dir/config.json. Throws Error(checkpoint) naming the field: missing, of the wrong type, out of range, or an
// option that this engine does not support.
ModelConfig load_config(const std::filesystem::path& dir);

// The same from text; `where` starts error messages.
ModelConfig parse_config(const std::string& text, const std::string& where);

}  // namespace pelagic
