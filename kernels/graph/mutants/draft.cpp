#include "graph/mutants/draft.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <stdexcept>

#include "base/bfloat16.h"
#include "base/test_values.h"

namespace pelagic::mutants {
namespace {

constexpr char kRawMark = '\x01';

void write_text(const std::string& text, std::string& out) {
  out += '"';
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      static constexpr char kHex[] = "0123456789abcdef";
      out += "\\u00";
      out += kHex[(c >> 4) & 15];
      out += kHex[c & 15];
    } else {
      out += c;
    }
  }
  out += '"';
}

void write(const Json& json, std::string& out) {
  if (std::holds_alternative<std::nullptr_t>(json.value)) {
    out += "null";
  } else if (const auto* flag = std::get_if<bool>(&json.value)) {
    out += *flag ? "true" : "false";
  } else if (const auto* integer = std::get_if<std::int64_t>(&json.value)) {
    out += std::to_string(*integer);
  } else if (const auto* number = std::get_if<double>(&json.value)) {
    char buffer[32];
    std::string text(buffer, std::to_chars(buffer, buffer + sizeof buffer, *number).ptr);
    if (text.find_first_of(".e") == std::string::npos) text += ".0";
    out += text;
  } else if (const auto* text = std::get_if<std::string>(&json.value)) {
    if (!text->empty() && text->front() == kRawMark) {
      out.append(*text, 1);
    } else {
      write_text(*text, out);
    }
  } else if (const auto* array = std::get_if<Json::Array>(&json.value)) {
    out += '[';
    for (std::size_t i = 0; i < array->size(); ++i) {
      if (i > 0) out += ',';
      write((*array)[i], out);
    }
    out += ']';
  } else {
    const auto& object = std::get<Json::Object>(json.value);
    out += '{';
    for (std::size_t i = 0; i < object.size(); ++i) {
      if (i > 0) out += ',';
      write_text(object[i].key, out);
      out += ':';
      write(object[i].value, out);
    }
    out += '}';
  }
}

template <class T>
std::string bytes_of(const std::vector<T>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

// Numbers of up to `scale` in one of the dtypes.
std::string random_bytes(test::Random& random, const std::string& dtype, std::size_t count, float scale) {
  const std::vector<float> values = random.floats(count, -scale, scale);
  if (dtype == "F32") return bytes_of(values);
  std::vector<std::uint16_t> halves;
  for (const float value : values) {
    if (dtype == "BF16") {
      halves.push_back(f32_to_bf16(value));
    } else {
      // F16: sign, an exponent that makes it 2^-6 to 2^-2, any mantissa.
      const std::uint32_t bits = random.bits();
      const auto exponent = static_cast<std::uint32_t>(9 + (bits >> 20) % 4);
      halves.push_back(static_cast<std::uint16_t>((bits & 0x83FFu) | exponent << 10));
    }
  }
  return bytes_of(halves);
}

class Builder {
 public:
  Builder(Draft& draft, const Sizes& sizes, std::uint32_t seed) : draft_(draft), sizes_(sizes), random_(seed) {}

  void build() {
    const Sizes& s = sizes_;
    matrix("model.embed_tokens.weight", s.vocab, s.hidden, false);
    if (!s.tied) matrix("lm_head.weight", s.vocab, s.hidden, false);
    vector("model.norm.weight", s.hidden);
    for (int layer = 0; layer < s.layers; ++layer) {
      const std::string prefix = "model.layers." + std::to_string(layer) + ".";
      add_attention(prefix);
      if (s.experts == 0 || layer < s.first_dense) {
        add_mlp(prefix + "mlp.", s.dense);
      } else {
        add_experts(prefix + "mlp.");
      }
    }
    // What a loader passes over: a layer for multi-token prediction, and a saved buffer.
    vector("model.layers." + std::to_string(s.layers) + ".eh_proj.weight", 3);
    vector("model.layers.0.self_attn.rotary_emb.inv_freq", s.rope / 2);
    if (s.shards > 1) draft_.index = Json{Json::Object{{"metadata", Json{Json::Object{}}}, {"weight_map", index_}}};
  }

 private:
  void add_attention(const std::string& prefix) {
    const Sizes& s = sizes_;
    const std::string attention = prefix + "self_attn.";
    vector(prefix + "input_layernorm.weight", s.hidden);
    vector(prefix + "post_attention_layernorm.weight", s.hidden);
    vector(attention + "kv_a_layernorm.weight", s.kv_rank);
    if (s.query_rank > 0) {
      vector(attention + "q_a_layernorm.weight", s.query_rank);
      matrix(attention + "q_a_proj.weight", s.query_rank, s.hidden);
      matrix(attention + "q_b_proj.weight", s.heads * (s.nope + s.rope), s.query_rank);
    } else {
      matrix(attention + "q_proj.weight", s.heads * (s.nope + s.rope), s.hidden);
    }
    matrix(attention + "kv_a_proj_with_mqa.weight", s.kv_rank + s.rope, s.hidden);
    matrix(attention + "kv_b_proj.weight", s.heads * (s.nope + s.value), s.kv_rank);
    matrix(attention + "o_proj.weight", s.hidden, s.heads * s.value);
  }

  void add_mlp(const std::string& prefix, int width) {
    matrix(prefix + "gate_proj.weight", width, sizes_.hidden);
    matrix(prefix + "up_proj.weight", width, sizes_.hidden);
    matrix(prefix + "down_proj.weight", sizes_.hidden, width);
  }

  void add_experts(const std::string& prefix) {
    matrix(prefix + "gate.weight", sizes_.experts, sizes_.hidden, false);
    if (sizes_.v3) vector(prefix + "gate.e_score_correction_bias", sizes_.experts);
    if (sizes_.shared > 0) add_mlp(prefix + "shared_experts.", sizes_.shared * sizes_.moe);
    for (int expert = 0; expert < sizes_.experts; ++expert) {
      add_mlp(prefix + "experts." + std::to_string(expert) + ".", sizes_.moe);
    }
  }

  void vector(const std::string& name, int size) {
    const std::string dtype = sizes_.dtype == "F8_E4M3" ? "F32" : sizes_.dtype;
    add(name, dtype, {size}, random_bytes(random_, dtype, static_cast<std::size_t>(size), 1.0f));
  }

  void matrix(const std::string& name, int rows, int columns, bool may_be_fp8 = true) {
    const std::size_t count = static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns);
    if (sizes_.dtype != "F8_E4M3")
      return add(name, sizes_.dtype, {rows, columns}, random_bytes(random_, sizes_.dtype, count, 0.4f));
    if (!may_be_fp8) return add(name, "BF16", {rows, columns}, random_bytes(random_, "BF16", count, 0.4f));
    std::string codes(count, '\0');
    for (char& code : codes) code = static_cast<char>((random_.bits() & 0xBFu) | 0x10u);  // no NaN, up to 1.875
    add(name, "F8_E4M3", {rows, columns}, codes);
    const int row_blocks = (rows + 127) / 128, column_blocks = (columns + 127) / 128;
    std::vector<float> scales;
    for (int i = 0; i < row_blocks * column_blocks; ++i) scales.push_back(random_.uniform(0.05f, 0.2f));
    add(name + "_scale_inv", "F32", {row_blocks, column_blocks}, bytes_of(scales));
  }

  void add(const std::string& name, const std::string& dtype, const std::vector<std::int64_t>& shape,
           const std::string& bytes) {
    std::string shard = "model.safetensors";
    if (sizes_.shards > 1) {
      shard = "model-0000" + std::to_string(1 + count_++ % sizes_.shards) + "-of-0000" + std::to_string(sizes_.shards) +
              ".safetensors";
      set_member(index_, name, Json{shard});
    }
    draft_.shards[shard].add(name, dtype, shape, bytes);
  }

  Draft& draft_;
  const Sizes& sizes_;
  test::Random random_;
  Json index_ = Json{Json::Object{}};
  int count_ = 0;
};

Json config_of(const Sizes& s) {
  Json config{Json::Object{}};
  const auto set = [&](const char* key, auto value) {
    using T = decltype(value);
    if constexpr (std::is_same_v<T, int>) {
      set_member(config, key, Json{std::int64_t{value}});
    } else if constexpr (std::is_same_v<T, const char*>) {
      set_member(config, key, Json{std::string(value)});
    } else {
      set_member(config, key, Json{value});
    }
  };
  set_member(config, "architectures",
             Json{Json::Array{Json{std::string(s.v3 ? "DeepseekV3ForCausalLM" : "DeepseekV2ForCausalLM")}}});
  set("model_type", s.v3 ? "deepseek_v3" : "deepseek_v2");
  set("vocab_size", s.vocab);
  set("hidden_size", s.hidden);
  set("intermediate_size", s.dense);
  set("num_hidden_layers", s.layers);
  set("num_attention_heads", s.heads);
  set("max_position_embeddings", s.positions);
  set("kv_lora_rank", s.kv_rank);
  if (s.query_rank > 0) {
    set("q_lora_rank", s.query_rank);
  } else {
    set("q_lora_rank", nullptr);
  }
  set("qk_nope_head_dim", s.nope);
  set("qk_rope_head_dim", s.rope);
  set("v_head_dim", s.value);
  set("rms_norm_eps", 1e-6);
  set("hidden_act", "silu");
  set("tie_word_embeddings", s.tied);
  set("rope_theta", 10000.0);
  set("bos_token_id", 0);
  set("eos_token_id", 1);
  if (s.experts > 0) {
    set("n_routed_experts", s.experts);
    set("n_shared_experts", s.shared);
    set("moe_intermediate_size", s.moe);
    set("first_k_dense_replace", s.first_dense);
    set("num_experts_per_tok", s.top_k);
    set("routed_scaling_factor", 2.5);
    set("norm_topk_prob", s.v3);
    set("topk_method", s.v3 ? "noaux_tc" : s.groups > 1 ? "group_limited_greedy" : "greedy");
    set("scoring_func", s.v3 ? "sigmoid" : "softmax");
    set("n_group", s.groups);
    set("topk_group", s.kept_groups);
  }
  if (s.yarn) {
    Json rope{Json::Object{}};
    for (const auto& [key, value] : std::initializer_list<std::pair<const char*, Json>>{
             {"type", Json{std::string("yarn")}},
             {"factor", Json{40.0}},
             {"original_max_position_embeddings", Json{std::int64_t{64}}},
             {"beta_fast", Json{std::int64_t{32}}},
             {"beta_slow", Json{std::int64_t{1}}},
             {"mscale", Json{0.707}},
             {"mscale_all_dim", Json{0.707}}}) {
      set_member(rope, key, value);
    }
    set_member(config, "rope_scaling", rope);
  }
  if (s.dtype == "F8_E4M3") {
    Json quantization{Json::Object{}};
    set_member(quantization, "quant_method", Json{std::string("fp8")});
    set_member(quantization, "fmt", Json{std::string("e4m3")});
    set_member(quantization, "activation_scheme", Json{std::string("dynamic")});
    set_member(quantization, "weight_block_size", json_list({128, 128}));
    set_member(config, "quantization_config", quantization);
  }
  return config;
}

}  // namespace

Json raw_json(const std::string& text) { return Json{kRawMark + text}; }

std::string write_json(const Json& value) {
  std::string out;
  write(value, out);
  return out;
}

Json& member(Json& object, const std::string& key) {
  for (JsonMember& one : std::get<Json::Object>(object.value)) {
    if (one.key == key) return one.value;
  }
  throw std::runtime_error("no member " + key);
}

const Json& member(const Json& object, const std::string& key) { return member(const_cast<Json&>(object), key); }

bool has_member(const Json& object, const std::string& key) {
  const auto& members = std::get<Json::Object>(object.value);
  return std::any_of(members.begin(), members.end(), [&](const JsonMember& one) { return one.key == key; });
}

void set_member(Json& object, const std::string& key, Json value) {
  if (has_member(object, key)) {
    member(object, key) = std::move(value);
  } else {
    std::get<Json::Object>(object.value).push_back({key, std::move(value)});
  }
}

void remove_member(Json& object, const std::string& key) {
  std::erase_if(std::get<Json::Object>(object.value), [&](const JsonMember& one) { return one.key == key; });
}

Json json_list(const std::vector<std::int64_t>& values) {
  Json::Array list;
  for (const std::int64_t value : values) list.push_back(Json{value});
  return Json{std::move(list)};
}

void ShardDraft::add(const std::string& name, const std::string& dtype, const std::vector<std::int64_t>& shape,
                     const std::string& bytes) {
  const auto begin = static_cast<std::int64_t>(data.size());
  data += bytes;
  set_member(header, name,
             Json{Json::Object{{"dtype", Json{dtype}},
                               {"shape", json_list(shape)},
                               {"data_offsets", json_list({begin, static_cast<std::int64_t>(data.size())})}}});
}

std::string ShardDraft::file() const {
  const std::string text = write_json(header) + padding;
  const std::uint64_t length = header_bytes.value_or(text.size());
  return std::string(reinterpret_cast<const char*>(&length), 8) + text + data;
}

std::map<std::string, std::string> Draft::files() const {
  std::map<std::string, std::string> out = {{"config.json", write_json(config)}};
  for (const auto& [file, shard] : shards) out[file] = shard.file();
  if (index) out["model.safetensors.index.json"] = write_json(*index);
  return out;
}

Draft make_draft(const std::string& name, const Sizes& sizes, std::uint32_t seed) {
  Draft draft{.name = name, .config = config_of(sizes), .shards = {}, .index = std::nullopt};
  Builder(draft, sizes, seed).build();
  return draft;
}

const std::vector<Draft>& sound_drafts() {
  static const std::vector<Draft> drafts = {
      make_draft("V3, F32, one file", {}, 1),
      make_draft("V3, BF16, three shards", {.dtype = "BF16", .shards = 3}, 2),
      make_draft("V3, FP8 with scales, YaRN, two shards", {.dense = 136, .yarn = true, .dtype = "F8_E4M3", .shards = 2},
                 3),
      make_draft(
          "V2, F16, group-limited, tied",
          {.v3 = false, .query_rank = 0, .shared = 2, .groups = 4, .kept_groups = 2, .tied = true, .dtype = "F16"}, 4),
      make_draft("V2, dense, no experts", {.v3 = false, .query_rank = 0, .first_dense = 0, .experts = 0}, 5),
  };
  return drafts;
}

}  // namespace pelagic::mutants
