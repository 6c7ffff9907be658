#include "graph/mutants/mutate.h"

#include <algorithm>
#include <iterator>
#include <stdexcept>

#include "base/xxh64.h"
#include "graph/mutants/mutation.h"

namespace pelagic::mutants {
namespace {

struct Group {
  const char* name;
  int weight;
  Lie lie;
  const std::vector<Kind>* kinds;
};

const Group kGroups[] = {
    {"offsets", 16, Lie::offsets, &offset_lies}, {"shape", 18, Lie::shapes, &shape_lies},
    {"dtype", 16, Lie::dtypes, &dtype_lies},     {"shard", 14, Lie::shards, &shard_lies},
    {"neutral", 9, Lie::none, &neutral_changes}, {"header", 7, Lie::none, &damaged_headers},
    {"config", 11, Lie::none, &wrong_configs},   {"values", 5, Lie::none, &damaged_values},
    {"folder", 4, Lie::none, &wrong_folders},
};

const Group& pick_group(test::Random& random) {
  int total = 0;
  for (const Group& group : kGroups) total += group.weight;
  int at = random.integer(0, total - 1);
  for (const Group& group : kGroups) {
    if ((at -= group.weight) < 0) return group;
  }
  throw std::logic_error("no group");
}

std::uint32_t mixed(std::uint32_t seed, std::uint32_t index) {
  const std::uint32_t both[] = {seed, index};
  return static_cast<std::uint32_t>(xxh64(both, sizeof both));
}

}  // namespace

Json Mutation::hostile_value() {
  static const std::vector<Json> values = {
      Json{nullptr},
      Json{true},
      Json{false},
      Json{std::int64_t{0}},
      Json{std::int64_t{-1}},
      Json{std::int64_t{1}},
      Json{std::int64_t{2}},
      Json{std::int64_t{3}},
      Json{std::int64_t{7}},
      Json{std::int64_t{64}},
      Json{std::int64_t{1} << 20},
      Json{std::int64_t{INT32_MAX}},
      Json{std::int64_t{INT32_MAX} + 1},
      Json{std::int64_t{1} << 32},
      Json{std::int64_t{1} << 53},
      Json{std::int64_t{INT64_MAX}},
      Json{std::int64_t{INT64_MIN}},
      Json{0.5},
      Json{-0.5},
      Json{1e-30},
      Json{1e30},
      raw_json("9223372036854775808"),
      raw_json("1e400"),
      raw_json("-1e400"),
      raw_json("1e-400"),
      raw_json("NaN"),
      raw_json("Infinity"),
      raw_json("-0"),
      raw_json("0x10"),
      raw_json("01"),
      raw_json("tru"),
      raw_json("\"\\ud800\""),
      raw_json("\"\xff\""),
      raw_json("{\"a\":1,\"a\":2}"),
      Json{std::string()},
      Json{std::string("F32")},
      Json{std::string("yes")},
      Json{std::string(70'000, 'x')},
      Json{Json::Array{}},
      Json{Json::Object{}},
      json_list({1, 2}),
      raw_json(std::string(40, '[') + std::string(40, ']')),
      raw_json(std::string(100'000, '[')),
  };
  return pick(values);
}

std::vector<std::int64_t> TensorAt::shape() const {
  std::vector<std::int64_t> out;
  for (const Json& extent : std::get<Json::Array>(member(*entry, "shape").value))
    out.push_back(std::get<std::int64_t>(extent.value));
  return out;
}

std::string TensorAt::dtype() const { return std::get<std::string>(member(*entry, "dtype").value); }

std::int64_t TensorAt::begin() const {
  return std::get<std::int64_t>(std::get<Json::Array>(member(*entry, "data_offsets").value)[0].value);
}

std::int64_t TensorAt::end() const {
  return std::get<std::int64_t>(std::get<Json::Array>(member(*entry, "data_offsets").value)[1].value);
}

bool TensorAt::passed_over(const Draft& draft) const {
  const std::int64_t layers = std::get<std::int64_t>(member(draft.config, "num_hidden_layers").value);
  return name.starts_with("model.layers." + std::to_string(layers) + ".") || name.ends_with("inv_freq");
}

TensorAt tensor_at(Draft& draft, const std::string& file, std::size_t place) {
  JsonMember& one = std::get<Json::Object>(draft.shards.at(file).header.value)[place];
  return {file, one.key, &one.value};
}

TensorAt pick_tensor(Mutation& m) {
  const auto shard = std::next(m.draft.shards.begin(), static_cast<std::ptrdiff_t>(m.below(m.draft.shards.size())));
  const auto& members = std::get<Json::Object>(shard->second.header.value);
  const TensorAt tensor = tensor_at(m.draft, shard->first, m.below(members.size()));
  m.say(tensor.file + ": " + tensor.name);
  m.blame(tensor.file);
  m.blame(tensor.name);
  return tensor;
}

std::size_t element_bytes(const std::string& dtype) {
  if (dtype == "F64" || dtype == "I64" || dtype == "U64") return 8;
  if (dtype == "F32" || dtype == "I32" || dtype == "U32") return 4;
  return dtype == "BF16" || dtype == "F16" || dtype == "I16" || dtype == "U16" ? 2 : 1;
}

Mutant make_mutant(std::uint32_t seed, std::uint32_t index) {
  const std::vector<Draft>& drafts = sound_drafts();
  test::Random random(mixed(seed, index));
  for (;;) {
    const Group& group = pick_group(random);
    const Kind& kind = (*group.kinds)[random.bits() % group.kinds->size()];
    Mutation m{.random = test::Random(random.bits()), .draft = {}, .out = {}};
    m.out.base = random.bits() % drafts.size();
    m.draft = drafts[m.out.base];
    m.out.lie = group.lie;
    m.out.fate = group.lie == Lie::none ? Fate::either : Fate::refused;
    m.say(m.draft.name + "; " + group.name + ", " + kind.name);
    if (!kind.apply(m)) continue;
    if (m.out.files.empty()) m.out.files = m.draft.files();
    return std::move(m.out);
  }
}

}  // namespace pelagic::mutants
