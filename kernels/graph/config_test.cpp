#include "graph/config.h"

#include "graph/rope_plan.h"
#include "graph/test_checkpoint.h"

using namespace pelagic;
using namespace pelagic::test;

namespace {

ModelConfig with(const std::string& from, const std::string& to) {
  return parse_config(replaced(kTinyConfig, from, to), "config.json");
}
ModelConfig adding(const std::string& fields) { return with("\"vocab_size\"", fields + ", \"vocab_size\""); }

}  // namespace

TEST("a V3 config") {
  const ModelConfig config = parse_config(kTinyConfig, "config.json");
  CHECK(config.family == ModelFamily::deepseek_v3 && config.gate == GateMethod::sigmoid_noaux_tc);
  CHECK(config.vocab_size == 40 && config.query_rank == 20 && config.latent_width() == 20 &&
        config.moe_layer_count() == 2);
  CHECK(config.group_count == 2 && config.kept_group_count == 1 && config.normalize_gate_weights);
  CHECK(!config.yarn);
}

TEST("V2's gates, and queries that are not compressed") {
  const std::string v2 = replaced(kTinyConfig, "DeepseekV3ForCausalLM", "DeepseekV2ForCausalLM");
  CHECK(parse_config(v2, "c").gate == GateMethod::softmax_greedy);
  const std::string limited =
      replaced(v2, "\"vocab_size\"", "\"topk_method\": \"group_limited_greedy\", \"vocab_size\"");
  CHECK(parse_config(limited, "c").gate == GateMethod::softmax_group_limited);
  CHECK(with("\"q_lora_rank\": 20", "\"q_lora_rank\": null").query_rank == 0);
}

TEST("the published fields of DeepSeek-V3 and V2-Lite") {
  const std::string shared =
      R"("hidden_act": "silu", "attention_bias": false, "attention_dropout": 0.0, "rms_norm_eps": 1e-06,
    "rope_theta": 10000, "max_position_embeddings": 163840, "tie_word_embeddings": false, "torch_dtype": "bfloat16", "ep_size": 1,
    "moe_layer_freq": 1, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "pretraining_tp": 1,
    "seq_aux": true, "aux_loss_alpha": 0.001, "use_cache": true)";
  const std::string yarn = R"("rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096,
    "beta_fast": 32, "beta_slow": 1, )";
  const ModelConfig v3 = parse_config("{" + shared + "," + yarn + R"("mscale": 1.0, "mscale_all_dim": 1.0},
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "vocab_size": 129280, "hidden_size": 7168,
    "intermediate_size": 18432, "moe_intermediate_size": 2048, "num_hidden_layers": 61, "num_attention_heads": 128,
    "num_key_value_heads": 128, "q_lora_rank": 1536, "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8,
    "first_k_dense_replace": 3, "n_group": 8, "topk_group": 4, "topk_method": "noaux_tc", "scoring_func": "sigmoid",
    "norm_topk_prob": true, "routed_scaling_factor": 2.5, "num_nextn_predict_layers": 1, "quantization_config":
    {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]}})",
                                      "v3");
  CHECK(v3.moe_layer_count() == 58 && v3.latent_width() == 576 && v3.gate == GateMethod::sigmoid_noaux_tc && v3.yarn);
  const ModelConfig lite = parse_config("{" + shared + "," + yarn + R"("mscale": 0.707, "mscale_all_dim": 0.707},
    "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2", "vocab_size": 102400, "hidden_size": 2048,
    "intermediate_size": 10944, "moe_intermediate_size": 1408, "num_hidden_layers": 27, "num_attention_heads": 16,
    "num_key_value_heads": 16, "q_lora_rank": null, "n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6,
    "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1, "topk_method": "greedy", "scoring_func": "softmax",
    "norm_topk_prob": false, "routed_scaling_factor": 1.0})",
                                        "lite");
  CHECK(lite.query_rank == 0 && lite.gate == GateMethod::softmax_greedy && lite.shared_expert_count == 2);
}

TEST("rope by its old and its new name") {
  const std::string yarn =
      R"("factor": 40, "original_max_position_embeddings": 4096, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 0.707)";
  const ModelConfig old_names = adding("\"rope_scaling\": {\"type\": \"yarn\", " + yarn + "}");
  const ModelConfig new_names = with(
      "\"rope_theta\": 10000.0", "\"rope_parameters\": {\"rope_type\": \"yarn\", \"rope_theta\": 500.0, " + yarn + "}");
  CHECK(old_names.yarn && old_names.yarn->factor == 40 && old_names.rope_theta == 10000);
  CHECK(new_names.yarn && new_names.yarn->mscale_all_dim == 0.707 && new_names.rope_theta == 500);
  CHECK(!adding("\"rope_scaling\": null").yarn);
  CHECK_ERROR(adding("\"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}"), "rope_scaling.type is \"linear\"");
  CHECK_ERROR(adding("\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 0.5}"),
              "rope_scaling.factor must be a number from 1");
  CHECK_ERROR(adding("\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 2}"),
              "original_max_position_embeddings is missing");
}

// Check values: spec/mla.md sections 2 and 3.
TEST("YaRN frequencies and the softmax scale of DeepSeek-V3") {
  ModelConfig config;
  config.rope_dim = 64;
  config.nope_dim = 128;
  config.yarn.emplace();
  config.yarn->factor = 40;
  config.yarn->original_max_positions = 4096;
  config.yarn->mscale = config.yarn->mscale_all_dim = 1;
  const RopePlan plan = plan_rope(config);
  const auto near = [&](std::size_t i, double expected) { CHECK_NEAR(plan.frequencies[i] / expected, 1.0, 1e-6); };
  near(0, 1.0);
  near(1, 7.498942e-01);
  near(10, 5.623413e-02);
  near(11, 3.900693e-02);
  near(15, 8.334509e-03);
  near(16, 5.5e-03);
  near(20, 7.905694e-04);
  near(22, 1.778279e-04);
  near(23, 3.333804e-05);
  near(31, 3.333804e-06);
  CHECK_NEAR(plan.softmax_scale, 0.13523378, 1e-7);
  CHECK(plan.amplitude == 1);
  config.yarn->mscale = config.yarn->mscale_all_dim = 0.707;
  CHECK_NEAR(plan_rope(config).softmax_scale, 0.11472139, 1e-7);
  config.yarn.reset();
  CHECK_NEAR(plan_rope(config).softmax_scale, 0.07216878, 1e-7);
}

TEST("fields that are missing, of the wrong type or out of range are named") {
  for (const char* field : {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "kv_lora_rank",
                            "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "max_position_embeddings",
                            "intermediate_size", "moe_intermediate_size", "num_experts_per_tok", "architectures"}) {
    CHECK_ERROR(with("\"" + std::string(field) + "\"", "\"other\""),
                "config.json: " + std::string(field) + " is missing");
  }
  CHECK_ERROR(with("\"vocab_size\": 40", "\"vocab_size\": \"40\""), "vocab_size must be an integer");
  CHECK_ERROR(with("\"vocab_size\": 40", "\"vocab_size\": 0"), "vocab_size");
  CHECK_ERROR(with("\"vocab_size\": 40", "\"vocab_size\": 4000000000"), "vocab_size");
  CHECK_ERROR(with("\"num_hidden_layers\": 3", "\"num_hidden_layers\": -1"), "num_hidden_layers");
  CHECK_ERROR(with("\"qk_rope_head_dim\": 4", "\"qk_rope_head_dim\": 5"), "qk_rope_head_dim must be even");
  CHECK_ERROR(with("\"rms_norm_eps\": 1e-6", "\"rms_norm_eps\": -1"), "rms_norm_eps");
  CHECK_ERROR(with("\"first_k_dense_replace\": 1", "\"first_k_dense_replace\": 4"), "first_k_dense_replace");
  CHECK_ERROR(with("\"n_group\": 2", "\"n_group\": 3"), "n_group must divide");
  CHECK_ERROR(with("\"n_group\": 2", "\"n_group\": 8"), "at least two experts");
  CHECK_ERROR(with("\"topk_group\": 1", "\"topk_group\": 3"), "topk_group");
  CHECK_ERROR(with("\"num_experts_per_tok\": 2", "\"num_experts_per_tok\": 5"), "num_experts_per_tok is more than");
}

TEST("what is not supported is refused by name") {
  CHECK_ERROR(with("DeepseekV3ForCausalLM", "LlamaForCausalLM"),
              "LlamaForCausalLM, which this engine cannot run: it supports Deepseek");
  CHECK_ERROR(with("[\"DeepseekV3ForCausalLM\"]", "[]"), "architectures is nothing");
  CHECK_ERROR(adding("\"attention_bias\": true"), "attention_bias true is not supported");
  CHECK_ERROR(adding("\"moe_layer_freq\": 2"), "moe_layer_freq");
  CHECK_ERROR(with("\"silu\"", "\"gelu\""), "hidden_act must be \"silu\"");
  CHECK_ERROR(adding("\"rope_interleave\": false"), "rope_interleave false is not supported");
  CHECK_ERROR(adding("\"scoring_func\": \"softmax\""), "with scoring_func \"softmax\" is not supported");
  CHECK_ERROR(adding("\"topk_method\": \"other\""), "topk_method \"other\"");
  const auto quantized = [](const std::string& fields) { return adding("\"quantization_config\": {" + fields + "}"); };
  quantized(
      R"("quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128], "activation_scheme": "dynamic", "scale_fmt": "ue8m0")");
  CHECK_ERROR(quantized(R"("quant_method": "awq")"), "quantization_config.quant_method must be \"fp8\"");
  CHECK_ERROR(quantized(R"("quant_method": "fp8", "weight_block_size": [64, 128])"),
              "weight_block_size must be [128, 128]");
  CHECK_ERROR(quantized(R"("quant_method": "fp8")"), "weight_block_size is missing");
  CHECK_ERROR(quantized(R"("quant_method": "fp8", "fmt": "e5m2", "weight_block_size": [128, 128])"),
              "fmt must be \"e4m3\"");
}

TEST("a folder without config.json says so") {
  const TempFolder folder;
  CHECK_ERROR(load_config(folder.path()), "has no config.json");
}

TEST_MAIN
