// The few lines a CUDA test needs: expectations that say what differed, and an exit status.
#pragma once

#include <cstdio>
#include <exception>

namespace pelagic::test {

inline int failures = 0;

#define PELAGIC_EXPECT(condition, ...)                                    \
  do {                                                                    \
    if (!(condition)) {                                                   \
      ++::pelagic::test::failures;                                        \
      std::printf("%s:%d: %s is false: ", __FILE__, __LINE__, #condition); \
      std::printf(__VA_ARGS__);                                           \
      std::printf("\n");                                                  \
    }                                                                     \
  } while (false)

// Runs the test's body; a thrown error is a failure.
template <typename Body>
int run(const char* name, const Body& body) {
  try {
    body();
  } catch (const std::exception& error) {
    ++failures;
    std::printf("%s: %s\n", name, error.what());
  }
  std::printf("%s: %s\n", name, failures == 0 ? "passed" : "FAILED");
  return failures == 0 ? 0 : 1;
}

}  // namespace pelagic::test
