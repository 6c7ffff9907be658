// Other bytes, the same model.
#include <algorithm>
#include <cstring>
#include <iterator>

#include "base/bfloat16.h"
#include "graph/mutants/mutation.h"

namespace pelagic::mutants {
namespace {

template <class T>
void shuffle(Mutation& m, std::vector<T>& list) {
  for (std::size_t i = list.size(); i > 1; --i) std::swap(list[i - 1], list[m.below(i)]);
}

std::vector<std::string> shard_names(const Draft& draft) {
  std::vector<std::string> out;
  for (const auto& [file, shard] : draft.shards) out.push_back(file);
  return out;
}

bool same(Mutation& m) {
  m.out.fate = Fate::same;
  return true;
}

bool padded(Mutation& m) {
  static const std::string paddings[] = {" ", std::string(7, ' '), "\n\t \r", std::string(1 << 20, ' ')};
  for (auto& [file, shard] : m.draft.shards) shard.padding = m.pick(paddings);
  return same(m);
}

bool header_shuffled(Mutation& m) {
  for (auto& [file, shard] : m.draft.shards) {
    auto& members = std::get<Json::Object>(shard.header.value);
    shuffle(m, members);
    for (JsonMember& one : members) shuffle(m, std::get<Json::Object>(one.value.value));
  }
  return same(m);
}

// All tensors anew into shards, in any order.
bool repacked(Mutation& m) {
  struct Whole {
    std::string name, dtype;
    std::vector<std::int64_t> shape;
    std::string bytes;
  };
  std::vector<Whole> all;
  for (const std::string& file : shard_names(m.draft)) {
    const ShardDraft& shard = m.draft.shards.at(file);
    for (std::size_t i = 0; i < std::get<Json::Object>(shard.header.value).size(); ++i) {
      const TensorAt one = tensor_at(m.draft, file, i);
      all.push_back({one.name, one.dtype(), one.shape(),
                     shard.data.substr(static_cast<std::size_t>(one.begin()),
                                       static_cast<std::size_t>(one.end() - one.begin()))});
    }
  }
  shuffle(m, all);
  m.draft.shards.clear();
  m.draft.index.reset();
  const std::size_t shards = 1 + m.below(9);
  m.say("into " + std::to_string(shards));
  Json map{Json::Object{}};
  for (const Whole& one : all) {
    const std::string file = shards == 1 ? "model.safetensors" : "part " + std::to_string(m.below(shards));
    m.draft.shards[file].add(one.name, one.dtype, one.shape, one.bytes);
    set_member(map, one.name, Json{file});
  }
  if (shards > 1) m.draft.index = Json{Json::Object{{"weight_map", map}}};
  return same(m);
}

bool metadata(Mutation& m) {
  for (auto& [file, shard] : m.draft.shards) {
    static const Json values[] = {Json{Json::Object{{"format", Json{std::string("pt")}}}}, Json{Json::Object{}},
                                  Json{nullptr}, Json{std::string("anything")}};
    auto& members = std::get<Json::Object>(shard.header.value);
    members.insert(members.begin() + static_cast<std::ptrdiff_t>(m.below(members.size())),
                   {"__metadata__", m.pick(values)});
  }
  return same(m);
}

bool other_spelling(Mutation& m) {
  for (auto& [file, shard] : m.draft.shards) {
    std::string text = write_json(shard.header);
    for (const auto& [from, to] :
         std::initializer_list<std::pair<const char*, const char*>>{{"\"model.norm", "\"\\u006d\\u006Fdel\\u002enorm"},
                                                                    {",\"shape\"", "\n,\t\"sh\\u0061pe\""},
                                                                    {"[0,", "[ 0 , "}}) {
      const std::size_t at = text.find(from);
      if (at != std::string::npos) text.replace(at, std::strlen(from), to);
    }
    shard.header = raw_json(text);
  }
  return same(m);
}

// BF16 as F32: what the loader widens to anyway.
bool widened(Mutation& m) {
  bool any = false;
  for (const std::string& file : shard_names(m.draft)) {
    const ShardDraft old = m.draft.shards.at(file);
    ShardDraft& shard = m.draft.shards.at(file);
    ShardDraft out;
    for (std::size_t i = 0; i < std::get<Json::Object>(old.header.value).size(); ++i) {
      const TensorAt one = tensor_at(m.draft, file, i);
      std::string bytes =
          old.data.substr(static_cast<std::size_t>(one.begin()), static_cast<std::size_t>(one.end() - one.begin()));
      std::string dtype = one.dtype();
      if (dtype == "BF16" && m.coin()) {
        std::string wide;
        for (std::size_t at = 0; at < bytes.size(); at += 2) {
          std::uint16_t half = 0;
          std::memcpy(&half, bytes.data() + at, 2);
          const float value = bf16_to_f32(half);
          wide.append(reinterpret_cast<const char*>(&value), 4);
        }
        bytes = wide;
        dtype = "F32";
        any = true;
      }
      out.add(one.name, dtype, one.shape(), bytes);
    }
    shard = out;
  }
  return any && same(m);
}

bool more_passed_over(Mutation& m) {
  const std::string file = m.pick(shard_names(m.draft));
  static const char* const dtypes[] = {"I64", "BOOL", "F8_E8M0", "F64", "U16"};
  const std::string dtype = m.pick(dtypes);
  const std::int64_t layers = std::get<std::int64_t>(member(m.draft.config, "num_hidden_layers").value);
  const std::string name = "model.layers." + std::to_string(layers + static_cast<std::int64_t>(m.below(3))) + ".extra";
  m.draft.shards.at(file).add(name, dtype, {3, 1, 2}, std::string(6 * element_bytes(dtype), '\xff'));
  m.draft.shards.at(file).add(name + "s", dtype, {4, 0}, "");
  return same(m);
}

// Bytes that would be read only by who believed that every tensor is wanted: 64 GiB of them.
bool huge_passed_over(Mutation& m) {
  const std::string file = m.pick(shard_names(m.draft));
  ShardDraft& shard = m.draft.shards.at(file);
  const std::int64_t begin = static_cast<std::int64_t>(shard.data.size()), size = INT64_C(64) << 30;
  set_member(shard.header, "model.layers.900.huge",
             Json{Json::Object{{"dtype", Json{std::string("U8")}},
                               {"shape", json_list({size})},
                               {"data_offsets", json_list({begin, begin + size})}}});
  const std::uint64_t bytes = shard.file().size() + static_cast<std::uint64_t>(size);
  m.out.in_folder = [file, bytes](const std::filesystem::path& dir) {
    std::filesystem::resize_file(dir / file, bytes);
  };
  return same(m);
}

bool config_words(Mutation& m) {
  auto& members = std::get<Json::Object>(m.draft.config.value);
  shuffle(m, members);
  for (const char* key :
       {"transformers_version", "", "torch_dtype", "__proto__", "auto_map", "num_nextn_predict_layers"}) {
    Json value = m.hostile_value();
    // What no JSON reader takes would be another mistake.
    if (const auto* text = std::get_if<std::string>(&value.value);
        text != nullptr && !text->empty() && text->front() == '\x01')
      continue;
    members.push_back({key, value});
  }
  return same(m);
}

bool index_words(Mutation& m) {
  if (!m.draft.index) return false;
  auto& entries = std::get<Json::Object>(member(*m.draft.index, "weight_map").value);
  shuffle(m, entries);
  set_member(*m.draft.index, "metadata", Json{Json::Object{{"total_size", Json{-1.5}}}});
  // A tensor that the index leaves out is still in its shard.
  entries.pop_back();
  return same(m);
}

// One whole file wins over an index.
bool unused_index(Mutation& m) {
  if (m.draft.index) return false;
  m.out.files = m.draft.files();
  m.out.files["model.safetensors.index.json"] = m.coin() ? "garbage" : "{\"weight_map\":{\"a\":\"../b\"}}";
  m.out.files["model-00001-of-00002.safetensors"] = "garbage";
  return same(m);
}

// Sizes that nobody chose: one of everything, odd widths, every expert chosen.
bool other_sizes(Mutation& m) {
  test::Random& r = m.random;
  Sizes s{.v3 = m.coin()};
  s.vocab = r.integer(1, 70);
  s.hidden = r.integer(1, 40);
  s.dense = r.integer(1, 40);
  s.moe = r.integer(1, 20);
  s.layers = r.integer(1, 3);
  s.heads = r.integer(1, 5);
  s.query_rank = m.coin() ? 0 : r.integer(1, 20);
  s.kv_rank = r.integer(1, 40);
  s.nope = r.integer(1, 20);
  s.rope = 2 * r.integer(1, 10);
  s.value = r.integer(1, 20);
  s.positions = r.integer(1, 200);
  s.first_dense = r.integer(0, s.layers);
  s.groups = r.integer(1, 4);
  s.experts = m.below(5) == 0 ? 0 : s.groups * r.integer(2, 4);
  s.kept_groups = r.integer(1, s.groups);
  s.shared = r.integer(0, 2);
  s.top_k = s.experts == 0 ? 1 : r.integer(1, s.kept_groups * (s.experts / s.groups));
  s.tied = m.coin();
  s.yarn = m.coin();
  static const char* const dtypes[] = {"F32", "BF16", "F16", "F8_E4M3"};
  s.dtype = m.pick(dtypes);
  s.shards = r.integer(1, 3);
  m.draft = make_draft("other sizes", s, r.bits());
  m.say(write_json(m.draft.config));
  m.out.fate = Fate::loads;
  return true;
}

}  // namespace

const std::vector<Kind> neutral_changes = {
    {"padded", padded},
    {"header in another order", header_shuffled},
    {"repacked", repacked},
    {"metadata", metadata},
    {"other spelling", other_spelling},
    {"widened to F32", widened},
    {"more that is passed over", more_passed_over},
    {"64 GiB that are passed over", huge_passed_over},
    {"unknown words in the config", config_words},
    {"unknown words in the index", index_words},
    {"an index beside one whole file", unused_index},
    {"other sizes", other_sizes},
    {"other sizes", other_sizes},
    {"other sizes", other_sizes},
};

}  // namespace pelagic::mutants
