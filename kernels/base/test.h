// A small test harness: TEST("name") { CHECK(...); } in any file that ends with TEST_MAIN. One file is one program.
#pragma once

#include <cmath>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "base/test_values.h"

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
