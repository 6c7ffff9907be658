// Headers that are JSON of the right form and say what is not so.
#include <algorithm>
#include <array>

#include "graph/mutants/mutation.h"

namespace pelagic::mutants {
namespace {

std::int64_t some_distance(Mutation& m) {
  static constexpr std::int64_t kDistances[] = {
      1, 2, 4, 8, 24, 4096, INT64_C(1) << 31, INT64_C(1) << 32, INT64_C(1) << 40, INT64_C(1) << 53, INT64_C(1) << 62};
  return m.pick(kDistances);
}

// Never past what an integer holds: that would be another mistake.
std::int64_t moved(std::int64_t at, std::int64_t by) {
  std::int64_t out = 0;
  return __builtin_add_overflow(at, by, &out) ? INT64_MAX : out;
}

bool move_begin(Mutation& m) {
  const TensorAt tensor = pick_tensor(m);
  const std::int64_t by = some_distance(m);
  tensor.set_offsets(m.coin() ? moved(tensor.begin(), by) : moved(tensor.begin(), -by), tensor.end());
  return true;
}

bool move_end(Mutation& m) {
  const TensorAt tensor = pick_tensor(m);
  const std::int64_t by = some_distance(m);
  tensor.set_offsets(tensor.begin(), m.coin() ? moved(tensor.end(), by) : moved(tensor.end(), -by));
  return true;
}

// The span stays right, so only the place is wrong.
bool move_both(Mutation& m) {
  const TensorAt tensor = pick_tensor(m);
  const std::int64_t by = m.coin() ? some_distance(m) : -some_distance(m);
  tensor.set_offsets(moved(tensor.begin(), by), moved(tensor.end(), by));
  return true;
}

bool reverse(Mutation& m) {
  const TensorAt tensor = pick_tensor(m);
  tensor.set_offsets(tensor.end(), tensor.begin());
  return true;
}

// Of two tensors one lies where the other does. Of one size: both are where they can be, hence another model.
bool swap_places(Mutation& m) {
  const TensorAt one = pick_tensor(m);
  const auto& members = std::get<Json::Object>(m.draft.shards.at(one.file).header.value);
  const TensorAt other = tensor_at(m.draft, one.file, m.below(members.size()));
  if (one.name == other.name) return false;
  m.say("with " + other.name);
  m.blame(other.name);
  const auto [begin, end] = std::pair(one.begin(), one.end());
  const bool same_size = end - begin == other.end() - other.begin();
  one.set_offsets(other.begin(), other.end());
  other.set_offsets(begin, end);
  if (same_size) {
    m.out.fate = Fate::either;
    m.out.sound_weights = false;
  }
  return true;
}

bool share_bytes(Mutation& m) {
  const TensorAt one = pick_tensor(m);
  const auto& members = std::get<Json::Object>(m.draft.shards.at(one.file).header.value);
  const TensorAt other = tensor_at(m.draft, one.file, m.below(members.size()));
  if (one.name == other.name) return false;
  one.set_offsets(other.begin(), other.end());
  return true;
}

// Every offset from this tensor on, as if there were more bytes before it.
bool move_all_behind(Mutation& m) {
  const TensorAt tensor = pick_tensor(m);
  const std::int64_t from = tensor.begin(), by = m.coin() ? 4 : INT64_C(1) << 40;
  ShardDraft& shard = m.draft.shards.at(tensor.file);
  for (std::size_t i = 0; i < std::get<Json::Object>(shard.header.value).size(); ++i) {
    const TensorAt one = tensor_at(m.draft, tensor.file, i);
    if (one.begin() >= from) one.set_offsets(one.begin() + by, one.end() + by);
  }
  return true;
}

// Shape and offsets agree on terabytes that no file has.
bool claim_terabytes(Mutation& m) {
  const TensorAt tensor = pick_tensor(m);
  const std::int64_t rows = INT64_C(1) << m.random.integer(40, 50);
  const auto bytes = static_cast<std::int64_t>(element_bytes(tensor.dtype()));
  tensor.set_shape({rows, 64});
  tensor.set_offsets(tensor.begin(), tensor.begin() + rows * 64 * bytes);
  return true;
}

bool other_extent(Mutation& m) {
  const TensorAt tensor = pick_tensor(m);
  std::vector<std::int64_t> shape = tensor.shape();
  std::int64_t& extent = shape[m.below(shape.size())];
  const std::int64_t others[] = {extent + 1,       extent - 1,       extent * 2, extent / 2,   0,
                                 INT64_C(1) << 31, INT64_C(1) << 62, INT64_MAX,  extent + 128, 1};
  const std::int64_t wanted = m.pick(others);
  if (wanted == extent) return false;
  extent = wanted;
  tensor.set_shape(shape);
  return true;
}

bool negative_extents(Mutation& m) {
  const TensorAt tensor = pick_tensor(m);
  std::vector<std::int64_t> shape = tensor.shape();
  for (std::int64_t& extent : shape) extent = -extent;
  tensor.set_shape(shape);
  m.out.lie = Lie::none;  // no header says so
  return true;
}

// As many elements in another form.
bool other_form(Mutation& m) {
  const TensorAt tensor = pick_tensor(m);
  const std::vector<std::int64_t> old = tensor.shape();
  std::vector<std::int64_t> shape = old;
  switch (m.below(5)) {
    case 0:
      std::reverse(shape.begin(), shape.end());
      break;
    case 1:
      shape.insert(shape.begin(), 1);
      break;
    case 2:
      shape.push_back(1);
      break;
    case 3:
      shape = {old[0] * (old.size() > 1 ? old[1] : 1)};
      break;
    default:
      if (shape[0] % 2 != 0) return false;
      shape[0] /= 2;
      shape.push_back(2);
      break;
  }
  if (shape == old) return false;
  tensor.set_shape(shape);
  if (tensor.passed_over(m.draft)) m.out.fate = Fate::same;
  return true;
}

bool many_dimensions(Mutation& m) {
  const TensorAt tensor = pick_tensor(m);
  std::vector<std::int64_t> shape = tensor.shape();
  const std::size_t dimensions = m.coin() ? 9 : 5'000;
  while (shape.size() < dimensions) shape.push_back(1);
  tensor.set_shape(shape);
  return true;
}

// A product that is the right number of bytes modulo 2^64.
bool wrapping_product(Mutation& m) {
  const TensorAt tensor = pick_tensor(m);
  const std::uint64_t elements =
      static_cast<std::uint64_t>(tensor.end() - tensor.begin()) / element_bytes(tensor.dtype());
  const std::uint64_t x = static_cast<std::uint64_t>(m.bits62()) | 1;
  std::uint64_t inverse = x;  // Newton: doubles the right bits each time
  for (int i = 0; i < 6; ++i) inverse *= 2 - x * inverse;
  std::uint64_t y = elements * inverse;
  // What is above bit 62 costs a power of two on the element size, which F32 and wider do not see.
  y &= ~std::uint64_t{0} >> 1;
  tensor.set_shape({static_cast<std::int64_t>(x), static_cast<std::int64_t>(y)});
  return true;
}

// Header and bytes agree on one row more, so only the config knows better.
bool another_row(Mutation& m) {
  const TensorAt tensor = pick_tensor(m);
  std::vector<std::int64_t> shape = tensor.shape();
  const std::int64_t row = (tensor.end() - tensor.begin()) / shape[0];
  const std::int64_t at = tensor.end();
  ++shape[0];
  tensor.set_shape(shape);
  ShardDraft& shard = m.draft.shards.at(tensor.file);
  for (std::size_t i = 0; i < std::get<Json::Object>(shard.header.value).size(); ++i) {
    const TensorAt one = tensor_at(m.draft, tensor.file, i);
    if (one.begin() >= at) one.set_offsets(one.begin() + row, one.end() + row);
  }
  tensor.set_offsets(tensor.begin(), at + row);
  shard.data.insert(static_cast<std::size_t>(at), static_cast<std::size_t>(row), '\0');
  if (tensor.passed_over(m.draft)) m.out.fate = Fate::same;
  return true;
}

bool no_elements(Mutation& m) {
  const TensorAt tensor = pick_tensor(m);
  tensor.set_shape(m.coin() ? std::vector<std::int64_t>{} : std::vector<std::int64_t>{0, INT64_MAX});
  return true;
}

constexpr const char* kKnown[] = {"F32",     "BF16",    "F16", "F8_E4M3", "I32", "BOOL", "U8",  "I8",
                                  "F8_E5M2", "F8_E8M0", "I16", "U16",     "U32", "F64",  "I64", "U64"};

bool other_width(Mutation& m) {
  const TensorAt tensor = pick_tensor(m);
  const std::string dtype = m.pick(kKnown);
  if (element_bytes(dtype) == element_bytes(tensor.dtype())) return false;
  member(*tensor.entry, "dtype") = Json{dtype};
  return true;
}

// The bytes fit; what they mean is another thing.
bool same_width(Mutation& m) {
  const TensorAt tensor = pick_tensor(m);
  const std::string dtype = m.pick(kKnown);
  if (dtype == tensor.dtype() || element_bytes(dtype) != element_bytes(tensor.dtype())) return false;
  member(*tensor.entry, "dtype") = Json{dtype};
  if (tensor.passed_over(m.draft)) {
    m.out.fate = Fate::same;
  } else if (dtype == "BF16" || dtype == "F16") {
    m.out.fate = Fate::either;
    m.out.sound_weights = false;
  }
  return true;
}

// Other elements, as many bytes: the shape is scaled to fit.
bool dtype_and_shape(Mutation& m) {
  const TensorAt tensor = pick_tensor(m);
  const std::string dtype = m.pick(kKnown);
  const auto bytes = tensor.end() - tensor.begin();
  const auto width = static_cast<std::int64_t>(element_bytes(dtype));
  std::vector<std::int64_t> shape = tensor.shape();
  const std::int64_t rows = shape.size() > 1 ? shape[0] : 1;
  if (element_bytes(tensor.dtype()) == element_bytes(dtype) || bytes % (width * rows) != 0) return false;
  shape.back() = bytes / width / rows;
  tensor.set_shape(shape);
  member(*tensor.entry, "dtype") = Json{dtype};
  if (tensor.passed_over(m.draft)) m.out.fate = Fate::same;
  return true;
}

bool unknown_dtype(Mutation& m) {
  static const std::string names[] = {"",
                                      "f32",
                                      "F32 ",
                                      " F32",
                                      "FLOAT",
                                      "F4",
                                      "F8",
                                      "E4M3",
                                      "F32\n",
                                      "F8_E4M3FNUZ",
                                      "I4",
                                      "C64",
                                      std::string(1 << 20, 'F'),
                                      std::string("F32\0", 4),
                                      "\xC3\xA9"};
  member(*pick_tensor(m).entry, "dtype") = Json{m.pick(names)};
  return true;
}

// As FP8, with scales that are missing, or as the wrong kind of scales.
bool becomes_fp8(Mutation& m) {
  const TensorAt tensor = pick_tensor(m);
  const std::string old = tensor.dtype();
  if (old == "F8_E4M3" || tensor.name.ends_with("_scale_inv")) return false;
  const auto bytes = tensor.end() - tensor.begin();
  member(*tensor.entry, "dtype") = Json{std::string("F8_E4M3")};
  // The right shape needs fewer bytes: what is left over is cut out of the file.
  const std::int64_t elements = bytes / static_cast<std::int64_t>(element_bytes(old));
  const std::int64_t unused = bytes - elements, at = tensor.begin() + elements;
  ShardDraft& shard = m.draft.shards.at(tensor.file);
  shard.data.erase(static_cast<std::size_t>(at), static_cast<std::size_t>(unused));
  for (std::size_t i = 0; i < std::get<Json::Object>(shard.header.value).size(); ++i) {
    const TensorAt one = tensor_at(m.draft, tensor.file, i);
    if (one.begin() >= at + unused) one.set_offsets(one.begin() - unused, one.end() - unused);
  }
  tensor.set_offsets(tensor.begin(), at);
  if (tensor.passed_over(m.draft)) m.out.fate = Fate::same;
  return true;
}

}  // namespace

const std::vector<Kind> offset_lies = {
    {"begin elsewhere", move_begin},
    {"end elsewhere", move_end},
    {"both elsewhere", move_both},
    {"end before begin", reverse},
    {"two have changed places", swap_places},
    {"on another's bytes", share_bytes},
    {"all that follow elsewhere", move_all_behind},
    {"terabytes", claim_terabytes},
};
const std::vector<Kind> shape_lies = {
    {"another extent", other_extent},     {"negative extents", negative_extents},     {"another form", other_form},
    {"many dimensions", many_dimensions}, {"a product that wraps", wrapping_product}, {"one row more", another_row},
    {"no elements", no_elements},
};
const std::vector<Kind> dtype_lies = {
    {"of another width", other_width},           {"of the same width", same_width},
    {"with a shape that fits", dtype_and_shape}, {"that nobody knows", unknown_dtype},
    {"FP8 without scales", becomes_fp8},
};

}  // namespace pelagic::mutants
