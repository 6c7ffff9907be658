// For tests: writes safetensors files and a tiny DeepSeek-V3 checkpoint into a temporary folder.
#pragma once

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/test.h"
#include "graph/error.h"

namespace pelagic::test {

// A folder that is removed with the object.
class TempFolder {
 public:
  TempFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "pelagic-test-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
    path_ = pattern;
  }
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

inline void write_file(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

struct TestTensor {
  std::string dtype;
  std::vector<int> shape;
  std::string bytes;
};
using TestTensors = std::map<std::string, TestTensor>;

inline std::string length_prefix(std::uint64_t n) { return std::string(reinterpret_cast<const char*>(&n), 8); }

// A whole file from a header text and data.
inline std::string safetensors_bytes(const std::string& header, const std::string& data) {
  return length_prefix(header.size()) + header + data;
}

inline std::string safetensors_bytes(const TestTensors& tensors) {
  std::string header = "{\"__metadata__\":{\"format\":\"pt\"}";
  std::string data;
  for (const auto& [name, tensor] : tensors) {
    std::string shape;
    for (const int extent : tensor.shape) shape += (shape.empty() ? "" : ",") + std::to_string(extent);
    header += ",\"" + name + "\":{\"dtype\":\"" + tensor.dtype + "\",\"shape\":[" + shape + "],\"data_offsets\":[" +
              std::to_string(data.size()) + "," + std::to_string(data.size() + tensor.bytes.size()) + "]}";
    data += tensor.bytes;
  }
  return safetensors_bytes(header + "}", data);
}

inline TestTensor f32_tensor(std::vector<int> shape, const std::vector<float>& values) {
  return {"F32", std::move(shape), std::string(reinterpret_cast<const char*>(values.data()), values.size() * 4)};
}

inline const char* const kTinyConfig = R"({
  "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "vocab_size": 40, "hidden_size": 24,
  "intermediate_size": 40, "moe_intermediate_size": 12, "num_hidden_layers": 3, "num_attention_heads": 2,
  "q_lora_rank": 20, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 6,
  "max_position_embeddings": 512, "first_k_dense_replace": 1, "n_routed_experts": 8, "n_shared_experts": 1,
  "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "norm_topk_prob": true, "routed_scaling_factor": 2.5,
  "rope_theta": 10000.0, "hidden_act": "silu", "rms_norm_eps": 1e-6, "tie_word_embeddings": false
})";

// Random weights for kTinyConfig, all F32.
inline TestTensors tiny_tensors() {
  Random random(7);
  TestTensors tensors;
  const auto add = [&](const std::string& name, std::vector<int> shape) {
    int count = 1;
    for (const int extent : shape) count *= extent;
    const float scale = shape.size() == 1 ? 1.0f : 0.4f;
    tensors[name] = f32_tensor(shape, random.floats(static_cast<std::size_t>(count), -scale, scale));
  };
  add("model.embed_tokens.weight", {40, 24});
  add("lm_head.weight", {40, 24});
  add("model.norm.weight", {24});
  const auto add_mlp = [&](const std::string& prefix, int width) {
    add(prefix + "gate_proj.weight", {width, 24});
    add(prefix + "up_proj.weight", {width, 24});
    add(prefix + "down_proj.weight", {24, width});
  };
  for (int layer = 0; layer < 3; ++layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    add(prefix + "input_layernorm.weight", {24});
    add(prefix + "post_attention_layernorm.weight", {24});
    add(prefix + "self_attn.q_a_proj.weight", {20, 24});
    add(prefix + "self_attn.q_a_layernorm.weight", {20});
    add(prefix + "self_attn.q_b_proj.weight", {2 * 12, 20});
    add(prefix + "self_attn.kv_a_proj_with_mqa.weight", {20, 24});
    add(prefix + "self_attn.kv_a_layernorm.weight", {16});
    add(prefix + "self_attn.kv_b_proj.weight", {2 * 14, 16});
    add(prefix + "self_attn.o_proj.weight", {24, 12});
    if (layer == 0) {
      add_mlp(prefix + "mlp.", 40);
      continue;
    }
    add(prefix + "mlp.gate.weight", {8, 24});
    add(prefix + "mlp.gate.e_score_correction_bias", {8});
    add_mlp(prefix + "mlp.shared_experts.", 12);
    for (int expert = 0; expert < 8; ++expert) add_mlp(prefix + "mlp.experts." + std::to_string(expert) + ".", 12);
  }
  return tensors;
}

inline void write_checkpoint(const std::filesystem::path& dir, const TestTensors& tensors,
                             const std::string& config = kTinyConfig) {
  write_file(dir / "config.json", config);
  write_file(dir / "model.safetensors", safetensors_bytes(tensors));
}

// The message of the Error that fn throws; empty if it throws none. Any other exception fails the test.
inline std::string error_of(const std::function<void()>& fn, ErrorCode code = ErrorCode::checkpoint) {
  try {
    fn();
  } catch (const Error& error) {
    return error.code() == code ? error.what() : std::string("wrong code: ") + error.what();
  }
  return "";
}

inline bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

inline std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  if (at == std::string::npos) throw std::runtime_error("no '" + from + "' to replace");
  return text.replace(at, from.size(), to);
}

}  // namespace pelagic::test

// The error must name all that a reader needs; `part` is the decisive bit of it.
#define CHECK_ERROR(expression, part)                                                                     \
  do {                                                                                                    \
    const std::string message = pelagic::test::error_of([&] { (void)(expression); });                     \
    if (!pelagic::test::contains(message, part))                                                          \
      pelagic::test::fail(__FILE__, __LINE__,                                                             \
                          std::string("expected an error with '") + (part) + "', got '" + message + "'"); \
  } while (false)
