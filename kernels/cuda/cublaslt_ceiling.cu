// The dense GEMM rate of the vendor's library, opened at run time: a ceiling to compare with.
#include <cublasLt.h>
#include <dlfcn.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <vector>

#include "cuda/bench.h"
#include "cuda/random_fill.cuh"

namespace pelagic {
namespace {

struct Library {
  void* handle = dlopen("libcublasLt.so.13", RTLD_NOW | RTLD_LOCAL);
  template <typename F>
  F* find(const char* name) const {
    return reinterpret_cast<F*>(dlsym(handle, name));
  }
};

template <typename T>
double rate(const Library& library, Bench& bench, int n, cudaDataType_t type) {
  const auto create = library.find<decltype(cublasLtCreate)>("cublasLtCreate");
  const auto desc_create = library.find<decltype(cublasLtMatmulDescCreate)>("cublasLtMatmulDescCreate");
  const auto desc_set = library.find<decltype(cublasLtMatmulDescSetAttribute)>("cublasLtMatmulDescSetAttribute");
  const auto layout_create = library.find<decltype(cublasLtMatrixLayoutCreate)>("cublasLtMatrixLayoutCreate");
  const auto preference_create =
      library.find<decltype(cublasLtMatmulPreferenceCreate)>("cublasLtMatmulPreferenceCreate");
  const auto preference_set =
      library.find<decltype(cublasLtMatmulPreferenceSetAttribute)>("cublasLtMatmulPreferenceSetAttribute");
  const auto heuristic = library.find<decltype(cublasLtMatmulAlgoGetHeuristic)>("cublasLtMatmulAlgoGetHeuristic");
  const auto matmul = library.find<decltype(cublasLtMatmul)>("cublasLtMatmul");
  if (!create || !desc_create || !desc_set || !layout_create || !preference_create || !preference_set || !heuristic ||
      !matmul)
    return 0;

  const std::size_t count = static_cast<std::size_t>(n) * n;
  DeviceBuffer<T> a(count), b(count);
  DeviceBuffer<__nv_bfloat16> c(count);
  DeviceBuffer<unsigned char> workspace(std::size_t{64} << 20);
  DeviceBuffer<float> scale(std::vector<float>{1.0f / 16384});
  fill_random(a.get(), count, 2, bench.stream());
  fill_random(b.get(), count, 3, bench.stream());

  // Handles live as long as the process: this runs twice.
  cublasLtHandle_t lt = nullptr;
  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatrixLayout_t operand = nullptr, result = nullptr;
  cublasLtMatmulPreference_t preference = nullptr;
  if (create(&lt) != CUBLAS_STATUS_SUCCESS ||
      desc_create(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F) != CUBLAS_STATUS_SUCCESS)
    return 0;
  const cublasOperation_t transposed = CUBLAS_OP_T;
  desc_set(desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed);
  if (type == CUDA_R_8F_E4M3) {
    const void* pointer = scale.get();
    const std::int8_t fast = 1;
    desc_set(desc, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &pointer, sizeof pointer);
    desc_set(desc, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &pointer, sizeof pointer);
    desc_set(desc, CUBLASLT_MATMUL_DESC_FAST_ACCUM, &fast, sizeof fast);
  }
  layout_create(&operand, type, n, n, n);
  layout_create(&result, CUDA_R_16BF, n, n, n);
  preference_create(&preference);
  const std::size_t most = workspace.bytes();
  preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &most, sizeof most);
  constexpr int kCandidates = 4;
  cublasLtMatmulHeuristicResult_t found[kCandidates];
  int count_found = 0;
  if (heuristic(lt, desc, operand, operand, result, result, preference, kCandidates, found, &count_found) !=
      CUBLAS_STATUS_SUCCESS)
    return 0;
  const float one = 1.0f, zero = 0.0f;
  double best_us = std::numeric_limits<double>::infinity();
  for (int i = 0; i < count_found; ++i) {
    bool ok = true;
    const double us = bench.time_us([&](cudaStream_t s) {
      ok = ok && matmul(lt, desc, &one, a.get(), operand, b.get(), operand, &zero, c.get(), result, c.get(), result,
                        &found[i].algo, workspace.get(), workspace.bytes(), s) == CUBLAS_STATUS_SUCCESS;
    });
    if (ok) best_us = std::min(best_us, us);
  }
  return 2.0 * n * n * n / best_us / 1e6;
}

}  // namespace

double cublaslt_tflops(Bench& bench, int n, bool fp8) {
  static const Library library;
  if (library.handle == nullptr) return 0;
  return fp8 ? rate<__nv_fp8_e4m3>(library, bench, n, CUDA_R_8F_E4M3)
             : rate<__nv_bfloat16>(library, bench, n, CUDA_R_16BF);
}

}  // namespace pelagic
