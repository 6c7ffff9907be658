// One mutation in the making: the draft to be changed, and what shall become of it.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/test_values.h"
#include "graph/mutants/mutate.h"

namespace pelagic::mutants {

struct Mutation {
  test::Random random;
  Draft draft;
  Mutant out;

  std::size_t below(std::size_t count) { return random.bits() % count; }
  bool coin() { return random.bits() % 2 == 0; }
  template <class List>
  auto pick(const List& list) {
    return list[below(std::size(list))];
  }
  std::int64_t bits62() {
    return static_cast<std::int64_t>(std::uint64_t{random.bits()} << 32 | random.bits()) & (INT64_MAX >> 1);
  }
  // Zero, one more or less, the bounds of integer types, what is no integer, and what is no number.
  Json hostile_value();

  void say(const std::string& what) { out.what += out.what.empty() ? what : "; " + what; }
  void blame(const std::string& culprit) { out.culprits.push_back(culprit); }
};

// One tensor of the draft's headers, blamed for what goes wrong.
struct TensorAt {
  std::string file;
  std::string name;
  Json* entry;

  std::vector<std::int64_t> shape() const;
  std::string dtype() const;
  std::int64_t begin() const;
  std::int64_t end() const;
  void set_offsets(std::int64_t begin, std::int64_t end) const {
    member(*entry, "data_offsets") = json_list({begin, end});
  }
  void set_shape(const std::vector<std::int64_t>& shape) const { member(*entry, "shape") = json_list(shape); }
  // The loader passes over tensors of layers for multi-token prediction: what they are does not matter, where they are
  // does.
  bool passed_over(const Draft& draft) const;
};

TensorAt pick_tensor(Mutation& m);
TensorAt tensor_at(Draft& draft, const std::string& file, std::size_t place);
std::size_t element_bytes(const std::string& dtype);

// Each changes the draft and returns true, or finds that it cannot be done to this one.
struct Kind {
  const char* name;
  bool (*apply)(Mutation& m);
};

extern const std::vector<Kind> offset_lies, shape_lies, dtype_lies, shard_lies;
extern const std::vector<Kind> neutral_changes, damaged_headers, wrong_configs, damaged_values, wrong_folders;

}  // namespace pelagic::mutants
