// Seeded inputs and comparisons for tests, whichever harness runs them.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/philox.h"

namespace pelagic::test {

// Seeded numbers for inputs, the same on every machine.
class Random {
 public:
  explicit Random(std::uint32_t seed) : seed_(seed) {}
  std::uint32_t bits() { return philox4x32_10({counter_++, 0, 0, 0}, {seed_, 0x7E57})[0]; }
  int integer(int lowest, int highest) {  // both included
    return lowest + static_cast<int>(bits() % static_cast<std::uint32_t>(highest - lowest + 1));
  }
  float uniform(float lowest, float highest) {
    return lowest + (highest - lowest) * (static_cast<float>(bits() >> 8) * 0x1p-24f);
  }
  std::vector<float> floats(std::size_t count, float lowest = -1.0f, float highest = 1.0f) {
    std::vector<float> out(count);
    for (float& x : out) x = uniform(lowest, highest);
    return out;
  }

 private:
  std::uint32_t seed_;
  std::uint32_t counter_ = 0;
};

inline bool same_bits(float a, float b) { return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b); }

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i)
    if (!same_bits(a[i], b[i])) return false;
  return true;
}

}  // namespace pelagic::test
