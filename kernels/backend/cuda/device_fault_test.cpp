// A device that faults: the process that caused it gets Error(device), and gets it for everything it asks for from then
// on; the next process finds the card as it was. Each case is a process of its own, since a CUDA context does not
// outlive a fault. The fault is a real one: an op is told to read where no memory is. What no kernel takes is none.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "backend/cuda/open_cuda_backend.h"
#include "graph/error.h"

using namespace pelagic;

namespace {

constexpr int kWidth = 64;
constexpr std::int64_t kNowhere = std::int64_t{1} << 40;  // in elements, behind the buffer's begin
constexpr unsigned kMostSeconds = 60;

// The norm of a token's row of ones, from `offset` in the buffer on.
std::vector<float> norm_of_ones(Backend& backend, std::int64_t offset) {
  const auto ones = [](int, float* out) { std::fill_n(out, kWidth, 1.0f); };
  const auto embedding = backend.make_embedding(4, kWidth, RowSource{ones});
  const auto weight = backend.make_vector(std::vector<float>(kWidth, 1.0f));
  const auto x = backend.make_activations(kWidth, Precision::full);
  const auto y = backend.make_activations(kWidth, Precision::working);
  const auto head = backend.make_matrix(8, kWidth, RowSource{ones});
  const auto out = backend.make_activations(8, Precision::full);
  std::vector<float> read(8);
  const std::vector<std::uint32_t> token = {1};
  backend.embed(*embedding, token, View{x.get(), 0, kWidth});
  backend.rms_norm(1, View{x.get(), offset, kWidth}, {}, *weight, 0.0f, View{y.get(), 0, kWidth});
  backend.linear(1, View{y.get(), 0, kWidth}, *head, View{out.get(), 0, 8});
  backend.read_rows(1, View{out.get(), 0, 8}, 8, read);
  backend.finish();
  return read;
}

// Exit status of a case: 0 as it should be.
int fault() {
  const auto backend = open_cuda_backend(CudaWeights::bfloat16);
  for (const std::int64_t offset : {kNowhere, std::int64_t{0}}) {
    try {
      norm_of_ones(*backend, offset);
      std::printf("no error at offset %lld\n", static_cast<long long>(offset));
      return 1;
    } catch (const Error& error) {
      std::printf("%s: %s\n", error_code_name(error.code()), error.what());
      if (error.code() != ErrorCode::device) return 1;
    }
    backend->cancel();
  }
  return 0;
}

int check_sound(Backend& backend) {
  for (const float value : norm_of_ones(backend, 0)) {
    if (value == static_cast<float>(kWidth)) continue;
    std::printf("%g where %d is right\n", static_cast<double>(value), kWidth);
    return 1;
  }
  return 0;
}

int sound() { return check_sound(*open_cuda_backend(CudaWeights::bfloat16)); }

// A width that no kernel takes is no fault: the process goes on.
int refused() {
  constexpr int kOddWidth = 12;
  const auto backend = open_cuda_backend(CudaWeights::bfloat16);
  const auto weight = backend->make_vector(std::vector<float>(kOddWidth, 1.0f));
  const auto x = backend->make_activations(kWidth, Precision::full);
  const auto y = backend->make_activations(kWidth, Precision::working);
  try {
    backend->rms_norm(1, View{x.get(), 0, kWidth}, {}, *weight, 0.0f, View{y.get(), 0, kWidth});
    std::printf("a norm of %d columns was taken\n", kOddWidth);
    return 1;
  } catch (const Error& error) {
    std::printf("%s: %s\n", error_code_name(error.code()), error.what());
    if (error.code() != ErrorCode::argument) return 1;
  }
  backend->cancel();
  return check_sound(*backend);
}

int run(const char* self, const char* name) {
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    alarm(kMostSeconds);
    execl("/proc/self/exe", self, name, static_cast<char*>(nullptr));
    _exit(127);
  }
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child) return 1;
  const bool ok = WIFEXITED(status) && WEXITSTATUS(status) == 0;
  std::printf("%-4s %s\n", ok ? "ok" : "FAIL", name);
  return ok ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    int failed = 0;
    for (const char* name : {"sound", "refused", "fault", "sound"}) failed += run(argv[0], name);
    return failed == 0 ? 0 : 1;
  }
  try {
    const std::string name = argv[1];
    return name == "fault" ? fault() : name == "refused" ? refused() : sound();
  } catch (const std::exception& error) {
    std::printf("%s\n", error.what());
    return 1;
  }
}
