// Files that are no safetensors, no config or no numbers; fields out of every range; folders that are not what they
// seem.
#include <sys/stat.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <iterator>
#include <limits>

#include "graph/mutants/mutation.h"

namespace pelagic::mutants {
namespace {

std::string pick_file(Mutation& m, bool shards_only) {
  std::vector<std::string> names;
  for (const auto& [file, bytes] : m.draft.files()) {
    if (!shards_only || m.draft.shards.contains(file)) names.push_back(file);
  }
  const std::string file = m.pick(names);
  m.say(file);
  m.blame(file);
  return file;
}

// Headers

bool header_length(Mutation& m) {
  ShardDraft& shard = m.draft.shards.at(pick_file(m, true));
  const std::uint64_t length = shard.file().size() - 8 - shard.data.size();
  const std::uint64_t lengths[] = {0,
                                   1,
                                   2,
                                   length - 1,
                                   length + 1,
                                   length + shard.data.size(),
                                   length + shard.data.size() + 1,
                                   100u << 20,
                                   (100u << 20) + 1,
                                   INT64_MAX,
                                   UINT64_MAX,
                                   UINT64_MAX - 7};
  shard.header_bytes = m.pick(lengths);
  m.out.fate = Fate::refused;
  return true;
}

// Text that goes on to the end of the file's last page, of which the header says that it goes on behind it.
bool endless_text(Mutation& m) {
  const std::string file = pick_file(m, true);
  const std::uint64_t length = UINT64_C(4096) << m.below(4);
  m.out.files = m.draft.files();
  m.out.files[file] = std::string(reinterpret_cast<const char*>(&length), 8) + "{\"" + std::string(4096 - 10, 'x');
  m.out.fate = Fate::refused;
  return true;
}

bool flipped_bytes(Mutation& m) {
  const std::string file = pick_file(m, false);
  m.out.files = m.draft.files();
  std::string& bytes = m.out.files[file];
  const std::size_t end =
      m.draft.shards.contains(file) ? bytes.size() - m.draft.shards.at(file).data.size() : bytes.size();
  for (std::size_t i = 1 + m.below(4); i > 0; --i) bytes[m.below(end)] = static_cast<char>(m.random.bits());
  for (const auto& [name, shard] : m.draft.shards) {
    m.blame(name);
    for (const JsonMember& one : std::get<Json::Object>(shard.header.value)) m.blame(one.key);
  }
  m.blame("config.json");
  m.out.sound_weights = false;
  return true;
}

bool cut(Mutation& m) {
  const std::string file = pick_file(m, true);
  m.out.files = m.draft.files();
  std::string& bytes = m.out.files[file];
  bytes.resize(m.coin() ? m.below(bytes.size()) : m.below(20));
  m.out.fate = Fate::refused;
  return true;
}

bool bytes_behind(Mutation& m) {
  m.draft.shards.at(pick_file(m, true)).data += std::string(1 + m.below(100), 'x');
  m.out.fate = Fate::refused;
  return true;
}

bool another_document(Mutation& m) {
  static const std::string documents[] = {"",
                                          "{}",
                                          "[]",
                                          "null",
                                          "1",
                                          "\"x\"",
                                          "{",
                                          "{\"a\":{}}",
                                          std::string("\0\0\0\0\0\0\0\0", 8),
                                          std::string(1 << 20, ' '),
                                          std::string(1 << 20, '['),
                                          "\xEF\xBB\xBF{}",
                                          std::string("{\0\"\0a\0", 6),
                                          "{\"__metadata__\":{}}",
                                          "{\"a\":1}"};
  m.draft.shards.at(pick_file(m, true)).header = raw_json(m.pick(documents));
  m.out.fate = Fate::refused;
  return true;
}

// Somewhere in a document stands something else.
void change_somewhere(Mutation& m, Json& json, std::string path) {
  if (auto* object = std::get_if<Json::Object>(&json.value); object != nullptr && !object->empty() && m.below(8) != 0) {
    JsonMember& one = (*object)[m.below(object->size())];
    m.blame(one.key);
    switch (m.below(12)) {
      case 0:
        m.say(path + "." + one.key + " is not there");
        object->erase(object->begin() + (&one - object->data()));
        return;
      case 1:
        m.say(path + "." + one.key + " is there twice");
        object->push_back({one.key, m.coin() ? one.value : m.hostile_value()});
        return;
      default:
        return change_somewhere(m, one.value, path + "." + one.key);
    }
  }
  if (auto* array = std::get_if<Json::Array>(&json.value); array != nullptr && !array->empty() && m.below(4) != 0) {
    const std::size_t at = m.below(array->size());
    return change_somewhere(m, (*array)[at], path + "[" + std::to_string(at) + "]");
  }
  json = m.hostile_value();
  m.say(path + " is " + write_json(json).substr(0, 60));
}

bool header_value(Mutation& m) {
  change_somewhere(m, m.draft.shards.at(pick_file(m, true)).header, "");
  return true;
}

bool index_value(Mutation& m) {
  if (!m.draft.index) return false;
  m.blame("model.safetensors.index.json");
  for (const auto& [file, shard] : m.draft.shards) m.blame(file);
  change_somewhere(m, *m.draft.index, "index");
  return true;
}

// Configs

bool config_value(Mutation& m) {
  m.blame("config.json");
  change_somewhere(m, m.draft.config, "config");
  return true;
}

// Within what its own range allows, as far out as it goes.
bool config_extreme(Mutation& m) {
  m.blame("config.json");
  static const std::pair<const char*, std::vector<double>> extremes[] = {
      {"rms_norm_eps", {1e-12, 0.1}}, {"rope_theta", {1, 1.0000001, 1e12}}, {"routed_scaling_factor", {1e-6, 1e6}},
      {"factor", {1, 1e6}},           {"beta_fast", {1e-3, 1e6}},           {"beta_slow", {1e-3, 1e6}},
      {"mscale", {0, 1e-30, 100}},    {"mscale_all_dim", {0, 1e-30, 100}},  {"attention_factor", {1e-3, 1e3}},
  };
  static const std::pair<const char*, std::vector<std::int64_t>> sizes[] = {
      {"max_position_embeddings", {1, 2, 69, 1 << 28}},
      {"original_max_position_embeddings", {1, 2, 1 << 28}},
      {"num_experts_per_tok", {1, 2, 4}},
      {"topk_group", {1, 2}},
      {"n_group", {1, 2, 4, 8}},
      {"first_k_dense_replace", {0, 1, 3}},
      {"num_attention_heads", {1, 4096}},
      {"vocab_size", {1, 1 << 24}},
      {"num_hidden_layers", {1, 2, 4, 1024}},
      {"hidden_size", {1, 1 << 20}},
      {"kv_lora_rank", {1, 1 << 20}},
      {"qk_rope_head_dim", {2, 1 << 20}},
      {"n_routed_experts", {0, 1, 4096}},
      {"moe_intermediate_size", {1, 1 << 20}},
  };
  for (std::size_t changes = 1 + m.below(3); changes > 0; --changes) {
    Json* at = &m.draft.config;
    std::string key;
    Json value;
    if (m.below(3) != 0) {
      const auto& [name, values] = extremes[m.below(std::size(extremes))];
      key = name;
      value = Json{m.pick(values)};
      const bool of_rope =
          key == "factor" || key.starts_with("beta") || key.starts_with("mscale") || key == "attention_factor";
      if (of_rope && !has_member(*at, "rope_scaling")) return false;
      if (of_rope) at = &member(*at, "rope_scaling");
    } else {
      const auto& [name, values] = sizes[m.below(std::size(sizes))];
      key = name;
      value = Json{m.pick(values)};
      if (key.starts_with("original")) {
        if (!has_member(*at, "rope_scaling")) return false;
        at = &member(*at, "rope_scaling");
      }
    }
    set_member(*at, key, value);
    m.blame(key);
    m.say(key + " is " + write_json(value));
  }
  return true;
}

bool no_config(Mutation& m) {
  static const std::string documents[] = {"",
                                          "{}",
                                          "[]",
                                          "null",
                                          "\xEF\xBB\xBF{}",
                                          std::string(5 << 20, ' '),
                                          std::string(1 << 20, '['),
                                          "{\"architectures\":[]}",
                                          "{\"architectures\":[\"LlamaForCausalLM\"]}"};
  m.out.files = m.draft.files();
  m.out.files["config.json"] = m.pick(documents);
  m.blame("config.json");
  m.out.fate = Fate::refused;
  return true;
}

// Values

// Of a scale, what it scales is told.
void blame_scaled(Mutation& m, const std::string& name) {
  static const std::string kScale = "_scale_inv";
  m.blame(name);
  if (name.ends_with(kScale)) m.blame(name.substr(0, name.size() - kScale.size()));
}

// Element `i` of a tensor's bytes, written over.
template <class T>
void put(ShardDraft& shard, const TensorAt& tensor, std::size_t i, T value) {
  std::memcpy(shard.data.data() + tensor.begin() + i * sizeof value, &value, sizeof value);
}

bool not_finite(Mutation& m) {
  const TensorAt tensor = pick_tensor(m);
  if (tensor.passed_over(m.draft)) return false;
  ShardDraft& shard = m.draft.shards.at(tensor.file);
  const std::size_t i =
      m.below(static_cast<std::size_t>(tensor.end() - tensor.begin()) / element_bytes(tensor.dtype()));
  const bool nan = m.coin();
  if (tensor.dtype() == "F32") {
    put(shard, tensor, i, nan ? std::numeric_limits<float>::quiet_NaN() : -std::numeric_limits<float>::infinity());
  } else if (tensor.dtype() == "BF16") {
    put(shard, tensor, i, static_cast<std::uint16_t>(nan ? 0x7FC1 : 0xFF80));
  } else if (tensor.dtype() == "F16") {
    put(shard, tensor, i, static_cast<std::uint16_t>(nan ? 0x7E01 : 0xFC00));
  } else {
    put(shard, tensor, i, static_cast<std::uint8_t>(nan ? 0x7F : 0xFF));
  }
  blame_scaled(m, tensor.name);
  m.out.fate = Fate::refused;
  return true;
}

bool flipped_values(Mutation& m) {
  const TensorAt tensor = pick_tensor(m);
  ShardDraft& shard = m.draft.shards.at(tensor.file);
  const auto size = static_cast<std::size_t>(tensor.end() - tensor.begin());
  for (std::size_t i = 1 + m.below(8); i > 0; --i) {
    char& byte = shard.data[static_cast<std::size_t>(tensor.begin()) + m.below(size)];
    byte = static_cast<char>(byte ^ 1 << m.below(8));
  }
  blame_scaled(m, tensor.name);
  m.out.fate = tensor.passed_over(m.draft) ? Fate::same : Fate::either;
  m.out.sound_weights = false;
  return true;
}

// As large as numbers go, of either sign: sums overflow, and scores are infinite or NaN.
bool enormous_values(Mutation& m) {
  const bool everywhere = m.coin();
  const TensorAt only = pick_tensor(m);
  ShardDraft& shard = m.draft.shards.at(only.file);
  for (std::size_t i = 0; i < std::get<Json::Object>(shard.header.value).size(); ++i) {
    const TensorAt tensor = tensor_at(m.draft, only.file, i);
    if (!everywhere && tensor.name != only.name) continue;
    blame_scaled(m, tensor.name);
    const auto size = static_cast<std::size_t>(tensor.end() - tensor.begin());
    for (std::size_t at = 0; at < size / element_bytes(tensor.dtype()); ++at) {
      const bool minus = m.coin();
      if (tensor.dtype() == "F32") put(shard, tensor, at, minus ? -3e38f : 3e38f);
      if (tensor.dtype() == "BF16") put(shard, tensor, at, static_cast<std::uint16_t>(minus ? 0xFF7F : 0x7F7F));
      if (tensor.dtype() == "F16") put(shard, tensor, at, static_cast<std::uint16_t>(minus ? 0xFBFF : 0x7BFF));
      if (tensor.dtype() == "F8_E4M3") put(shard, tensor, at, static_cast<std::uint8_t>(minus ? 0xFE : 0x7E));
    }
  }
  m.say(everywhere ? "and all others in the file" : "only");
  m.out.fate = !everywhere && only.passed_over(m.draft) ? Fate::same : Fate::either;
  m.out.sound_weights = false;
  return true;
}

bool zeros(Mutation& m) {
  const TensorAt tensor = pick_tensor(m);
  std::string& data = m.draft.shards.at(tensor.file).data;
  std::fill(data.begin() + tensor.begin(), data.begin() + tensor.end(), '\0');
  m.out.fate = tensor.passed_over(m.draft) ? Fate::same : Fate::loads;
  return true;
}

// Folders

bool missing_file(Mutation& m) {
  m.out.files = m.draft.files();
  const std::string file = pick_file(m, false);
  m.out.files.erase(file);
  m.out.fate = Fate::refused;
  return true;
}

bool other_than_a_file(Mutation& m) {
  m.out.files = m.draft.files();
  const std::string file = pick_file(m, false);
  const std::size_t what = m.below(4);
  m.out.in_folder = [file, what](const std::filesystem::path& dir) {
    std::filesystem::remove(dir / file);
    if (what == 0) std::filesystem::create_directory(dir / file);
    if (what == 1) ::mkfifo((dir / file).c_str(), 0600);
    if (what == 2) std::filesystem::create_symlink(file, dir / file);
    if (what == 3) std::filesystem::create_symlink("/dev/zero", dir / file);
  };
  m.out.fate = Fate::refused;
  return true;
}

}  // namespace

const std::vector<Kind> damaged_headers = {
    {"length", header_length}, {"endless text", endless_text}, {"bytes", flipped_bytes},
    {"cut short", cut},        {"bytes behind", bytes_behind}, {"another document", another_document},
    {"a value", header_value}, {"a value", header_value},      {"a value of the index", index_value},
};
const std::vector<Kind> wrong_configs = {
    {"a value", config_value},   {"a value", config_value},   {"a value", config_value},
    {"extreme", config_extreme}, {"extreme", config_extreme}, {"another document", no_config},
};
const std::vector<Kind> damaged_values = {
    {"not finite", not_finite},
    {"flipped", flipped_values},
    {"enormous", enormous_values},
    {"zeros", zeros},
};
const std::vector<Kind> wrong_folders = {{"a missing file", missing_file}, {"other than a file", other_than_a_file}};

}  // namespace pelagic::mutants
