// cuBLASLt sees columns where we see rows: y^T [n, m] = W [n, k] x^T [k, m].
#include "ops/gemm/gemm_cuda.h"

#include <cublasLt.h>
#include <dlfcn.h>

#include <stdexcept>
#include <string>

namespace pelagic {

struct GemmCudaLibrary::Functions {
  void* library = nullptr;
  decltype(&cublasLtCreate) create;
  decltype(&cublasLtDestroy) destroy;
  decltype(&cublasLtMatmulDescCreate) desc_create;
  decltype(&cublasLtMatmulDescDestroy) desc_destroy;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set;
  decltype(&cublasLtMatrixLayoutCreate) layout_create;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy;
  decltype(&cublasLtMatrixLayoutSetAttribute) layout_set;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic;
  decltype(&cublasLtMatmulAlgoConfigGetAttribute) algo_get;
  decltype(&cublasLtMatmulAlgoCheck) algo_check;
  decltype(&cublasLtMatmul) matmul;
};

namespace {

constexpr const char* kLibraryName = "libcublasLt.so.13";
// The algorithm is the heuristic's first choice for this many rows: wide enough for prompts, not too wide for a decode
// batch. Part of a result's definition.
constexpr int kChoiceRows = 128;
constexpr int kMostRows = 1 << 16;
constexpr int kCandidates = 32;
constexpr std::uint32_t kAlignment = 16;
// The library's kernels ask for one word, to hand out tiles. Too little for anybody's partial sums.
constexpr std::size_t kGemmCudaWorkspaceBytes = 256;

void check(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw std::runtime_error("cuBLASLt: " + std::string(what) + " failed with status " + std::to_string(status));
}

template <typename F>
void find(void* library, const char* name, F& function) {
  function = reinterpret_cast<F>(dlsym(library, name));
  if (function == nullptr) throw std::runtime_error(std::string(kLibraryName) + " has no " + name);
}

cudaDataType_t type_of(RowType type) { return type == RowType::float32 ? CUDA_R_32F : CUDA_R_16BF; }

}  // namespace

GemmCudaLibrary::GemmCudaLibrary() : functions_(std::make_unique<Functions>()) {
  Functions& f = *functions_;
  f.library = dlopen(kLibraryName, RTLD_NOW | RTLD_LOCAL);
  if (f.library == nullptr) {
    const char* reason = dlerror();
    throw std::runtime_error(std::string(kLibraryName) + " cannot be opened (" + (reason ? reason : "no reason given") +
                             "): install cuBLAS 13 or add its folder to LD_LIBRARY_PATH");
  }
  find(f.library, "cublasLtCreate", f.create);
  find(f.library, "cublasLtDestroy", f.destroy);
  find(f.library, "cublasLtMatmulDescCreate", f.desc_create);
  find(f.library, "cublasLtMatmulDescDestroy", f.desc_destroy);
  find(f.library, "cublasLtMatmulDescSetAttribute", f.desc_set);
  find(f.library, "cublasLtMatrixLayoutCreate", f.layout_create);
  find(f.library, "cublasLtMatrixLayoutDestroy", f.layout_destroy);
  find(f.library, "cublasLtMatrixLayoutSetAttribute", f.layout_set);
  find(f.library, "cublasLtMatmulPreferenceCreate", f.preference_create);
  find(f.library, "cublasLtMatmulPreferenceDestroy", f.preference_destroy);
  find(f.library, "cublasLtMatmulPreferenceSetAttribute", f.preference_set);
  find(f.library, "cublasLtMatmulAlgoGetHeuristic", f.heuristic);
  find(f.library, "cublasLtMatmulAlgoConfigGetAttribute", f.algo_get);
  find(f.library, "cublasLtMatmulAlgoCheck", f.algo_check);
  find(f.library, "cublasLtMatmul", f.matmul);
  cublasLtHandle_t handle = nullptr;
  check(f.create(&handle), "cublasLtCreate");
  handle_ = handle;
  if (cudaMalloc(&workspace_, kGemmCudaWorkspaceBytes) != cudaSuccess ||
      cudaMemset(workspace_, 0, kGemmCudaWorkspaceBytes) != cudaSuccess)
    throw std::runtime_error("no device memory for cuBLASLt's workspace");
}

// The library stays open: it keeps device state of its own.
GemmCudaLibrary::~GemmCudaLibrary() {
  cudaFree(workspace_);
  if (handle_ != nullptr) functions_->destroy(static_cast<cublasLtHandle_t>(handle_));
}

struct GemmCuda::State {
  State(const GemmCudaLibrary& library, const GemmCudaShape& s) : f(library.functions()), shape(s) {
    lt = static_cast<cublasLtHandle_t>(library.handle());
    workspace = library.workspace();
    check(f.desc_create(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
    const cublasOperation_t transposed = CUBLAS_OP_T;
    check(f.desc_set(desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed), "TRANSA");
    const auto k = static_cast<std::uint64_t>(shape.k), n = static_cast<std::uint64_t>(shape.n);
    check(f.layout_create(&weights, CUDA_R_16BF, k, n, shape.k), "cublasLtMatrixLayoutCreate");
    check(f.layout_create(&input, CUDA_R_16BF, k, kChoiceRows, shape.k), "cublasLtMatrixLayoutCreate");
    check(f.layout_create(&output, type_of(shape.out_type), n, kChoiceRows, shape.n), "cublasLtMatrixLayoutCreate");
    const std::int32_t batch = shape.batch;
    for (const cublasLtMatrixLayout_t layout : {weights, input, output})
      check(f.layout_set(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch, sizeof batch), "BATCH_COUNT");
    const std::int64_t stride = static_cast<std::int64_t>(shape.n) * shape.k;
    check(f.layout_set(weights, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, sizeof stride), "BATCH_OFFSET");
  }
  ~State() {
    for (const cublasLtMatrixLayout_t layout : {weights, input, output})
      if (layout != nullptr) f.layout_destroy(layout);
    if (desc != nullptr) f.desc_destroy(desc);
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  void set(cublasLtMatrixLayout_t layout, int rows, std::int64_t ld, std::int64_t batch_offset) const {
    const auto columns = static_cast<std::uint64_t>(rows);
    check(f.layout_set(layout, CUBLASLT_MATRIX_LAYOUT_COLS, &columns, sizeof columns), "COLS");
    check(f.layout_set(layout, CUBLASLT_MATRIX_LAYOUT_LD, &ld, sizeof ld), "LD");
    check(f.layout_set(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &batch_offset, sizeof batch_offset),
          "BATCH_OFFSET");
  }

  // As the heads lie in a row of x and of y, or one GEMM's rows.
  void set_rows(int rows) const {
    set(input, rows, static_cast<std::int64_t>(shape.batch) * shape.k, shape.k);
    set(output, rows, static_cast<std::int64_t>(shape.batch) * shape.n, shape.n);
  }

  // No sum is ever shared by blocks: no split of K, no reduction, and no room to do either in.
  // Empty, or why not.
  std::string unfit(const cublasLtMatmulAlgo_t& candidate) const {
    std::int32_t splits = 0;
    std::uint32_t reduction = 0;
    std::size_t written = 0;
    const cublasStatus_t got_splits =
        f.algo_get(&candidate, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &splits, sizeof splits, &written);
    const cublasStatus_t got_reduction =
        f.algo_get(&candidate, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &reduction, sizeof reduction, &written);
    if (got_splits != CUBLAS_STATUS_SUCCESS || got_reduction != CUBLAS_STATUS_SUCCESS)
      return "unreadable " + std::to_string(got_splits) + "/" + std::to_string(got_reduction);
    if ((splits != 0 && splits != 1) || reduction != CUBLASLT_REDUCTION_SCHEME_NONE)
      return "splits " + std::to_string(splits) + ", reduction " + std::to_string(reduction);
    for (const int rows : {1, kChoiceRows, kMostRows}) {
      set_rows(rows);
      cublasLtMatmulHeuristicResult_t result = {};
      const cublasStatus_t status = f.algo_check(lt, desc, weights, input, output, output, &candidate, &result);
      if (status != CUBLAS_STATUS_SUCCESS)
        return "status " + std::to_string(status) + " for " + std::to_string(rows) + " rows";
      if (result.workspaceSize > kGemmCudaWorkspaceBytes) return "workspace " + std::to_string(result.workspaceSize);
    }
    return "";
  }

  void choose() {
    cublasLtMatmulPreference_t preference = nullptr;
    check(f.preference_create(&preference), "cublasLtMatmulPreferenceCreate");
    const std::size_t workspace = 0;
    f.preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace);
    for (const auto attribute :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
      f.preference_set(preference, attribute, &kAlignment, sizeof kAlignment);
    set_rows(kChoiceRows);
    cublasLtMatmulHeuristicResult_t found[kCandidates];
    int count = 0;
    const cublasStatus_t status =
        f.heuristic(lt, desc, weights, input, output, output, preference, kCandidates, found, &count);
    f.preference_destroy(preference);
    std::string reasons = "heuristic status " + std::to_string(status) + ", " + std::to_string(count) + " found";
    for (int i = 0; status == CUBLAS_STATUS_SUCCESS && i < count; ++i) {
      const std::string reason = unfit(found[i].algo);
      if (reason.empty()) {
        algo = found[i].algo;
        return;
      }
      reasons += "; " + reason;
    }
    throw std::runtime_error("cuBLASLt has no algorithm without shared sums for n " + std::to_string(shape.n) + ", k " +
                             std::to_string(shape.k) + ", " + std::to_string(shape.batch) + " GEMMs (" + reasons + ")");
  }

  const GemmCudaLibrary::Functions& f;
  GemmCudaShape shape;
  cublasLtHandle_t lt = nullptr;
  void* workspace = nullptr;
  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatrixLayout_t weights = nullptr;
  cublasLtMatrixLayout_t input = nullptr;
  cublasLtMatrixLayout_t output = nullptr;
  cublasLtMatmulAlgo_t algo = {};
};

GemmCuda::GemmCuda(const GemmCudaLibrary& library, const GemmCudaShape& shape) : shape_(shape) {
  if (shape.n < 8 || shape.n % 8 != 0) throw std::invalid_argument("n must be a multiple of 8");
  if (shape.k < 8 || shape.k % 8 != 0) throw std::invalid_argument("k must be a multiple of 8");
  if (shape.batch < 1) throw std::invalid_argument("batch must be at least 1");
  state_ = std::make_unique<State>(library, shape);
  state_->choose();
}
GemmCuda::~GemmCuda() = default;
GemmCuda::GemmCuda(GemmCuda&&) noexcept = default;

void GemmCuda::launch(const GemmCudaCall& call, cudaStream_t stream) {
  if (call.rows == 0) return;
  if (call.rows < 0 || call.rows > kMostRows) throw std::runtime_error("a GEMM's rows are out of range");
  if (!rows_aligned(call.x, call.ldx, 2) || !rows_aligned(call.x, call.x_batch, 2) || !rows_aligned(call.w, 0, 2) ||
      !rows_aligned(call.y, call.ldy, row_type_bytes(shape_.out_type)) ||
      !rows_aligned(call.y, call.y_batch, row_type_bytes(shape_.out_type)))
    throw std::runtime_error("a GEMM's rows do not begin at multiples of 16 bytes");
  State& s = *state_;
  s.set(s.input, call.rows, call.ldx, call.x_batch);
  s.set(s.output, call.rows, call.ldy, call.y_batch);
  const float one = 1.0f, zero = 0.0f;
  check(s.f.matmul(s.lt, s.desc, &one, call.w, s.weights, call.x, s.input, &zero, call.y, s.output, call.y, s.output,
                   &s.algo, s.workspace, kGemmCudaWorkspaceBytes, stream),
        "cublasLtMatmul");
}

}  // namespace pelagic
