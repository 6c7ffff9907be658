// Indexes that name other shards than the tensors are in, and shards that are not what the index says.
#include <algorithm>
#include <iterator>

#include "graph/mutants/mutation.h"

namespace pelagic::mutants {
namespace {

const std::string kIndexFile = "model.safetensors.index.json";

JsonMember* pick_entry(Mutation& m) {
  if (!m.draft.index) return nullptr;
  auto& entries = std::get<Json::Object>(member(*m.draft.index, "weight_map").value);
  JsonMember& entry = entries[m.below(entries.size())];
  m.say(kIndexFile + ": " + entry.key);
  m.blame(kIndexFile);
  m.blame(entry.key);
  return &entry;
}

std::string pick_shard(Mutation& m) {
  return std::next(m.draft.shards.begin(), static_cast<std::ptrdiff_t>(m.below(m.draft.shards.size())))->first;
}

bool another_shard(Mutation& m) {
  JsonMember* entry = pick_entry(m);
  if (entry == nullptr) return false;
  const std::string shard = pick_shard(m);
  if (std::get<std::string>(entry->value.value) == shard) return false;
  entry->value = Json{shard};
  return true;
}

bool no_such_shard(Mutation& m) {
  JsonMember* entry = pick_entry(m);
  if (entry == nullptr) return false;
  static const std::string names[] = {"model-00009-of-00009.safetensors",
                                      "",
                                      ".",
                                      "..",
                                      "../model.safetensors",
                                      "/etc/hostname",
                                      "x/model.safetensors",
                                      "config.json",
                                      kIndexFile,
                                      std::string(300, 'm'),
                                      std::string("a\0b", 3),
                                      "\xF0\x9F\x90\x9A"};
  const std::string name = m.pick(names);
  m.blame(name.empty() ? entry->key : name);
  entry->value = Json{name};
  return true;
}

bool no_file_name(Mutation& m) {
  JsonMember* entry = pick_entry(m);
  if (entry == nullptr) return false;
  static const Json values[] = {Json{nullptr}, Json{true}, Json{std::int64_t{1}}, Json{Json::Array{}},
                                Json{Json::Object{}}};
  entry->value = m.pick(values);
  return true;
}

// The tensor is in another file than the index says.
bool moved_tensor(Mutation& m) {
  if (!m.draft.index) return false;
  const TensorAt tensor = pick_tensor(m);
  const std::string other = pick_shard(m);
  if (other == tensor.file) return false;
  ShardDraft& from = m.draft.shards.at(tensor.file);
  m.draft.shards.at(other).add(tensor.name, tensor.dtype(), tensor.shape(),
                               from.data.substr(static_cast<std::size_t>(tensor.begin()),
                                                static_cast<std::size_t>(tensor.end() - tensor.begin())));
  const std::string name = tensor.name;
  if (m.coin()) {
    m.say("in both");
    return true;
  }
  // Its bytes stay, under a name that the loader passes over.
  const std::string unused = "model.layers.77." + name;
  for (JsonMember& one : std::get<Json::Object>(from.header.value)) {
    if (one.key == name) one.key = unused;
  }
  return true;
}

// The index names a tensor that nobody has.
bool invented_tensor(Mutation& m) {
  if (!m.draft.index) return false;
  const std::string name = m.coin() ? "model.layers.0.invented.weight" : "";
  m.say("a tensor \"" + name + "\"");
  m.blame(kIndexFile);
  set_member(member(*m.draft.index, "weight_map"), name, Json{pick_shard(m)});
  return true;
}

// A shard is all there is of another one, too.
bool shard_twice(Mutation& m) {
  if (!m.draft.index) return false;
  const std::string one = pick_shard(m), other = pick_shard(m);
  if (one == other) return false;
  m.say(one + " is a copy of " + other);
  m.draft.shards[one] = m.draft.shards[other];
  for (const auto& [file, shard] : m.draft.shards) m.blame(file);
  return true;
}

// Its tensors go by other names: some are missing, some are strangers.
bool renamed_tensor(Mutation& m) {
  const TensorAt tensor = pick_tensor(m);
  if (tensor.passed_over(m.draft)) return false;
  std::string name = tensor.name;
  switch (m.below(6)) {
    case 0:
      name += " ";
      break;
    case 1:
      name = "model." + name;
      break;
    case 2:
      name[m.below(name.size())] ^= 1;
      break;
    case 3:
      name.insert(name.find('.') + 1, std::string(1, '\0'));
      break;
    case 4:
      name.clear();
      break;
    default: {
      const std::size_t digit = name.find_first_of("0123456789");
      if (digit == std::string::npos) return false;
      name.insert(digit, m.coin() ? "0" : "+");
      break;
    }
  }
  const std::string old = tensor.name;
  m.say("as \"" + name + "\"");
  m.blame(name.empty() ? old : name);
  for (JsonMember& one : std::get<Json::Object>(m.draft.shards.at(tensor.file).header.value)) {
    if (one.key == old) one.key = name;
  }
  if (m.draft.index && m.coin()) {
    for (JsonMember& one : std::get<Json::Object>(member(*m.draft.index, "weight_map").value)) {
      if (one.key == old) one.key = name;
    }
  }
  return true;
}

bool missing_tensor(Mutation& m) {
  const TensorAt tensor = pick_tensor(m);
  if (tensor.passed_over(m.draft)) return false;
  const std::string old = tensor.name;
  for (JsonMember& one : std::get<Json::Object>(m.draft.shards.at(tensor.file).header.value)) {
    if (one.key == old) one.key = "model.layers.88." + old;
  }
  if (m.draft.index) remove_member(member(*m.draft.index, "weight_map"), old);
  return true;
}

}  // namespace

const std::vector<Kind> shard_lies = {
    {"another shard in the index", another_shard},
    {"no such shard", no_such_shard},
    {"no file name", no_file_name},
    {"a tensor in another shard", moved_tensor},
    {"a tensor that is nowhere", invented_tensor},
    {"a shard that is another's copy", shard_twice},
    {"another name", renamed_tensor},
    {"a missing tensor", missing_tensor},
};

}  // namespace pelagic::mutants
