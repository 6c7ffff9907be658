// A checkpoint folder in parts that can be changed one by one, each still free to be wrong.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "graph/json.h"

namespace pelagic::mutants {

// Text that stands in a document as it is, valid JSON or not.
Json raw_json(const std::string& text);
std::string write_json(const Json& value);

Json& member(Json& object, const std::string& key);
const Json& member(const Json& object, const std::string& key);
bool has_member(const Json& object, const std::string& key);
void set_member(Json& object, const std::string& key, Json value);
void remove_member(Json& object, const std::string& key);
Json json_list(const std::vector<std::int64_t>& values);

// One safetensors file. Tensors stand in the header in the order of their bytes, until somebody changes that.
struct ShardDraft {
  Json header = Json{Json::Object{}};
  std::string data;
  std::string padding;                        // behind the header's JSON
  std::optional<std::uint64_t> header_bytes;  // what the file says of its header's length, if not the truth

  void add(const std::string& name, const std::string& dtype, const std::vector<std::int64_t>& shape,
           const std::string& bytes);
  std::string file() const;
};

struct Draft {
  std::string name;
  Json config;
  std::map<std::string, ShardDraft> shards;
  std::optional<Json> index;

  std::map<std::string, std::string> files() const;
};

// The sizes of a model, and how its weights are written.
struct Sizes {
  bool v3 = true;
  int vocab = 40, hidden = 24, dense = 40, moe = 12, layers = 3, heads = 2, query_rank = 20, kv_rank = 16;
  int nope = 8, rope = 4, value = 6, positions = 512, first_dense = 1;
  int experts = 8, shared = 1, top_k = 2, groups = 2, kept_groups = 1;
  bool tied = false, yarn = false;
  std::string dtype = "F32";  // or BF16, F16, F8_E4M3
  int shards = 1;             // more than one: with an index
};

// A sound checkpoint of these sizes with small random weights.
Draft make_draft(const std::string& name, const Sizes& sizes, std::uint32_t seed);

// Between them: both families, every dtype, one file and several, every kind of gate, tied embeddings, YaRN.
const std::vector<Draft>& sound_drafts();

}  // namespace pelagic::mutants
