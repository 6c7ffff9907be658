// Seed and index to one wrong, or unusual but right, model folder.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "graph/mutants/draft.h"

namespace pelagic::mutants {

// What a mutant's headers or index say that is not so.
enum class Lie { none, offsets, shapes, dtypes, shards };
constexpr const char* kLieNames[] = {"none", "offsets", "shapes", "dtypes", "shards"};

enum class Fate {
  refused,  // an error that names the culprit
  same,     // loads, and computes what the sound draft does
  loads,    // loads, and computes the same on every instruction set
  either,   // refused, or loads
};

struct Mutant {
  std::string what;  // for a person
  std::size_t base = 0;
  Lie lie = Lie::none;
  Fate fate = Fate::either;
  bool sound_weights = true;          // if it loads, no logit is infinite or NaN
  std::vector<std::string> culprits;  // an error names one of them
  std::map<std::string, std::string> files;
  std::function<void(const std::filesystem::path&)> in_folder;  // what bytes of files cannot say
};

Mutant make_mutant(std::uint32_t seed, std::uint32_t index);

}  // namespace pelagic::mutants
