// A small test harness: TEST("name") { CHECK(...); } in any file that ends with TEST_MAIN. One file is one program.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "base/philox.h"

namespace pelagic::test {

struct Case {
  const char* name;
  void (*run)();
};

inline std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}

struct Register {
  Register(const char* name, void (*run)()) { cases().push_back({name, run}); }
};

// Failures of the running case. The first few are printed: one wrong kernel fails millions of times.
inline int& failures() {
  static int count = 0;
  return count;
}

inline void fail(const char* file, int line, const std::string& message) {
  constexpr int kPrinted = 10;
  if (failures()++ < kPrinted) std::printf("%s:%d: %s\n", file, line, message.c_str());
}

inline int run_all() {
  int passed = 0, failed = 0;
  for (const Case& one : cases()) {
    failures() = 0;
    try {
      one.run();
    } catch (const std::exception& error) {
      fail(one.name, 0, std::string("exception: ") + error.what());
    }
    if (failures() == 0) {
      ++passed;
    } else {
      ++failed;
      std::printf("FAILED: %s (%d checks)\n", one.name, failures());
    }
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 ? 0 : 1;
}

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

#define PELAGIC_TEST_JOIN2(a, b) a##b
#define PELAGIC_TEST_JOIN(a, b) PELAGIC_TEST_JOIN2(a, b)
#define TEST(name)                                                                  \
  static void PELAGIC_TEST_JOIN(test_case_, __LINE__)();                            \
  static const pelagic::test::Register PELAGIC_TEST_JOIN(test_register_, __LINE__)( \
      name, PELAGIC_TEST_JOIN(test_case_, __LINE__));                               \
  static void PELAGIC_TEST_JOIN(test_case_, __LINE__)()

#define CHECK(condition)                                                   \
  do {                                                                     \
    if (!(condition)) pelagic::test::fail(__FILE__, __LINE__, #condition); \
  } while (false)

#define CHECK_NEAR(actual, expected, tolerance)                                                                       \
  do {                                                                                                                \
    const double actual_value = (actual), expected_value = (expected);                                                \
    if (!(std::fabs(actual_value - expected_value) <= (tolerance)))                                                   \
      pelagic::test::fail(__FILE__, __LINE__,                                                                         \
                          #actual " is " + std::to_string(actual_value) + ", not " + std::to_string(expected_value)); \
  } while (false)

#define CHECK_THROWS(expression, type)                                                         \
  do {                                                                                         \
    bool thrown = false;                                                                       \
    try {                                                                                      \
      (void)(expression);                                                                      \
    } catch (const type&) {                                                                    \
      thrown = true;                                                                           \
    }                                                                                          \
    if (!thrown) pelagic::test::fail(__FILE__, __LINE__, #expression " did not throw " #type); \
  } while (false)

#define TEST_MAIN \
  int main() { return pelagic::test::run_all(); }
