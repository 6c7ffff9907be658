#include "graph/config.h"

#include "graph/error.h"
#include "graph/json.h"
#include "graph/safetensors.h"

namespace pelagic {
namespace {

// Ranges far above any real model, low enough that products of two sizes fit in int64.
constexpr int64_t kMaxWidth = 1 << 20;
constexpr int64_t kMaxVocab = 1 << 24;
constexpr int64_t kMaxPositions = 1 << 28;
constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxHeads = 4096;
constexpr int64_t kMaxExperts = 4096;

int64_t integer_or(const JsonField& config, const char* key, int64_t fallback, int64_t low, int64_t high) {
  return config.has(key) ? config.at(key).integer(low, high) : fallback;
}

double number_or(const JsonField& config, const char* key, double fallback, double low, double high) {
  return config.has(key) ? config.at(key).number(low, high) : fallback;
}

bool boolean_or(const JsonField& config, const char* key, bool fallback) {
  return config.has(key) ? config.at(key).boolean() : fallback;
}

std::string string_or(const JsonField& config, const char* key, const std::string& fallback) {
  return config.has(key) ? config.at(key).string() : fallback;
}

ModelFamily read_family(const JsonField& config) {
  const JsonField names = config.at("architectures");
  for (size_t i = 0; i < names.size(); ++i) {
    if (names.element(i).string() == "DeepseekV2ForCausalLM") return ModelFamily::deepseek_v2;
    if (names.element(i).string() == "DeepseekV3ForCausalLM") return ModelFamily::deepseek_v3;
  }
  const std::string found = names.size() > 0 ? names.element(0).string() : "nothing";
  names.fail("is " + found +
             ", which this engine cannot run: it supports DeepseekV2ForCausalLM (V2, V2-Lite, V2.5) and "
             "DeepseekV3ForCausalLM (V3, V3.1, R1)");
}

void refuse_unsupported_options(const JsonField& config) {
  for (const char* bias : {"attention_bias", "mlp_bias"}) {
    if (boolean_or(config, bias, false)) config.at(bias).fail("true is not supported: projections have no bias");
  }
  if (string_or(config, "hidden_act", "silu") != "silu") config.at("hidden_act").fail("must be \"silu\"");
  if (integer_or(config, "moe_layer_freq", 1, 1, kMaxLayers) != 1) {
    config.at("moe_layer_freq").fail("other than 1 is not supported");
  }
  if (!boolean_or(config, "rope_interleave", true)) {
    config.at("rope_interleave").fail("false is not supported: rotary channels must be stored in pairs (2i, 2i+1)");
  }
}

void check_quantization(const JsonField& config) {
  if (!config.has("quantization_config")) return;
  const JsonField quantization = config.at("quantization_config");
  if (quantization.at("quant_method").string() != "fp8") {
    quantization.at("quant_method").fail("must be \"fp8\": other quantization methods are not supported");
  }
  if (string_or(quantization, "fmt", "e4m3") != "e4m3") quantization.at("fmt").fail("must be \"e4m3\"");
  if (string_or(quantization, "activation_scheme", "dynamic") != "dynamic") {
    quantization.at("activation_scheme").fail("must be \"dynamic\"");
  }
  const JsonField block = quantization.at("weight_block_size");
  if (block.size() != 2 || block.element(0).integer(1, kMaxWidth) != 128 ||
      block.element(1).integer(1, kMaxWidth) != 128) {
    block.fail("must be [128, 128]");
  }
}

YarnConfig read_yarn(const JsonField& rope) {
  YarnConfig yarn;
  yarn.factor = rope.at("factor").number(1, 1e6);
  yarn.original_max_positions = rope.at("original_max_position_embeddings").integer(1, kMaxPositions);
  yarn.beta_fast = number_or(rope, "beta_fast", 32, 1e-3, 1e6);
  yarn.beta_slow = number_or(rope, "beta_slow", 1, 1e-3, 1e6);
  yarn.mscale = number_or(rope, "mscale", 0, 0, 100);
  yarn.mscale_all_dim = number_or(rope, "mscale_all_dim", 0, 0, 100);
  if (rope.has("attention_factor")) yarn.attention_factor = rope.at("attention_factor").number(1e-3, 1e3);
  yarn.truncate = boolean_or(rope, "truncate", true);
  return yarn;
}

// rope_parameters {rope_theta, rope_type, ...} (new), or rope_theta and rope_scaling {type, ...} or null (published
// checkpoints).
void read_rope(const JsonField& config, ModelConfig& model) {
  model.rope_theta = number_or(config, "rope_theta", 10000, 1, 1e12);
  const char* key = config.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  if (!config.has(key)) return;
  const JsonField rope = config.at(key);
  model.rope_theta = number_or(rope, "rope_theta", model.rope_theta, 1, 1e12);
  if (number_or(rope, "partial_rotary_factor", 1, 0, 1) != 1) {
    rope.at("partial_rotary_factor").fail("other than 1 is not supported");
  }
  const char* type_key = rope.has("rope_type") ? "rope_type" : "type";
  const std::string type = string_or(rope, type_key, "default");
  if (type == "yarn") {
    model.yarn = read_yarn(rope);
  } else if (type != "default") {
    rope.at(type_key).fail("is \"" + type + "\"; supported are \"default\" and \"yarn\"");
  }
}

GateMethod read_gate_kind(const JsonField& config, ModelFamily family) {
  const bool v3 = family == ModelFamily::deepseek_v3;
  const std::string method = string_or(config, "topk_method", v3 ? "noaux_tc" : "greedy");
  const std::string scoring = string_or(config, "scoring_func", method == "noaux_tc" ? "sigmoid" : "softmax");
  if (method == "noaux_tc" && scoring == "sigmoid") return GateMethod::sigmoid_noaux_tc;
  if (method == "greedy" && scoring == "softmax") return GateMethod::softmax_greedy;
  if (method == "group_limited_greedy" && scoring == "softmax") return GateMethod::softmax_group_limited;
  config.fail("topk_method \"" + method + "\" with scoring_func \"" + scoring +
              "\" is not supported: use greedy or group_limited_greedy with softmax, or noaux_tc with sigmoid");
}

void read_experts(const JsonField& config, ModelConfig& model) {
  const bool v3 = model.family == ModelFamily::deepseek_v3;
  model.expert_count = integer_or(config, "n_routed_experts", 0, 0, kMaxExperts);
  model.dense_layer_count = model.layer_count;
  if (model.expert_count == 0) return;
  model.dense_layer_count = integer_or(config, "first_k_dense_replace", v3 ? 3 : 0, 0, model.layer_count);
  model.shared_expert_count = integer_or(config, "n_shared_experts", 0, 0, 64);
  model.expert_intermediate = config.at("moe_intermediate_size").integer(1, kMaxWidth);
  model.experts_per_token = config.at("num_experts_per_tok").integer(1, model.expert_count);
  model.gate = read_gate_kind(config, model.family);
  model.normalize_gate_weights = boolean_or(config, "norm_topk_prob", v3);
  model.routed_scale = number_or(config, "routed_scaling_factor", v3 ? 2.5 : 1.0, 1e-6, 1e6);
  if (model.gate == GateMethod::softmax_greedy) return;

  model.group_count = integer_or(config, "n_group", 1, 1, model.expert_count);
  model.kept_group_count = integer_or(config, "topk_group", model.group_count, 1, model.group_count);
  if (model.expert_count % model.group_count != 0) {
    config.at("n_group").fail("must divide n_routed_experts (" + std::to_string(model.expert_count) + ")");
  }
  const int64_t group_size = model.expert_count / model.group_count;
  if (model.gate == GateMethod::sigmoid_noaux_tc && group_size < 2) {
    config.at("n_group").fail("must leave at least two experts in a group");
  }
  if (model.experts_per_token > model.kept_group_count * group_size) {
    config.at("num_experts_per_tok").fail("is more than the experts in topk_group groups");
  }
}

}  // namespace

ModelConfig parse_config(const std::string& text, const std::string& where) {
  const Json json = parse_json(text, where, {.bytes = 4u << 20, .values = 1u << 18, .depth = 32});
  const JsonField config(json, where);
  ModelConfig model;
  model.family = read_family(config);
  refuse_unsupported_options(config);
  check_quantization(config);

  model.vocab_size = config.at("vocab_size").integer(1, kMaxVocab);
  model.hidden_size = config.at("hidden_size").integer(1, kMaxWidth);
  model.layer_count = config.at("num_hidden_layers").integer(1, kMaxLayers);
  model.head_count = config.at("num_attention_heads").integer(1, kMaxHeads);
  model.max_positions = config.at("max_position_embeddings").integer(1, kMaxPositions);
  model.norm_eps = number_or(config, "rms_norm_eps", 1e-6, 1e-12, 0.1);
  model.tied_embeddings = boolean_or(config, "tie_word_embeddings", false);

  model.query_rank = integer_or(config, "q_lora_rank", 0, 1, kMaxWidth);
  model.kv_rank = config.at("kv_lora_rank").integer(1, kMaxWidth);
  model.nope_dim = config.at("qk_nope_head_dim").integer(1, kMaxWidth);
  model.rope_dim = config.at("qk_rope_head_dim").integer(2, kMaxWidth);
  model.value_dim = config.at("v_head_dim").integer(1, kMaxWidth);
  if (model.rope_dim % 2 != 0) config.at("qk_rope_head_dim").fail("must be even");

  read_rope(config, model);
  read_experts(config, model);
  if (model.dense_layer_count > 0) model.dense_intermediate = config.at("intermediate_size").integer(1, kMaxWidth);
  return model;
}

ModelConfig load_config(const std::filesystem::path& dir) {
  const std::filesystem::path path = dir / "config.json";
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) {
    throw Error(ErrorCode::checkpoint, dir.string() +
                                           " has no config.json: give the folder of a Hugging Face checkpoint "
                                           "(config.json, model.safetensors, tokenizer.json)");
  }
  return parse_config(read_small_file(path, 4u << 20), "config.json");
}

}  // namespace pelagic
