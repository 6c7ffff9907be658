// The few lines a CUDA test needs: expectations that say what differed, an exit status, what is refused, and a call
// made from a graph.
#pragma once

#include <cstdio>
#include <exception>
#include <stdexcept>
#include <string_view>

#include "cuda/check.h"

namespace pelagic::test {

inline int failures = 0;

#define PELAGIC_EXPECT(condition, ...)                                     \
  do {                                                                     \
    if (!(condition)) {                                                    \
      ++::pelagic::test::failures;                                         \
      std::printf("%s:%d: %s is false: ", __FILE__, __LINE__, #condition); \
      std::printf(__VA_ARGS__);                                            \
      std::printf("\n");                                                   \
    }                                                                      \
  } while (false)

// Captures what `launch(stream)` does, runs it twice from the graph and waits.
template <typename Launch>
void run_from_graph(const Launch& launch) {
  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t runnable = nullptr;
  PELAGIC_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  PELAGIC_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  launch(stream);
  PELAGIC_CUDA(cudaStreamEndCapture(stream, &graph));
  PELAGIC_CUDA(cudaGraphInstantiate(&runnable, graph, 0));
  for (int i = 0; i < 2; ++i) PELAGIC_CUDA(cudaGraphLaunch(runnable, stream));
  PELAGIC_CUDA(cudaStreamSynchronize(stream));
  PELAGIC_CUDA(cudaGraphExecDestroy(runnable));
  PELAGIC_CUDA(cudaGraphDestroy(graph));
  PELAGIC_CUDA(cudaStreamDestroy(stream));
}

// Whether the command asks for the short form, for compute-sanitizer.
inline bool asked_quick(int argc, char** argv) { return argc > 1 && std::string_view(argv[1]) == "quick"; }

// Whether the call throws std::invalid_argument.
template <typename Call>
bool refuses(const Call& call) {
  try {
    call();
  } catch (const std::invalid_argument&) {
    return true;
  }
  return false;
}

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
