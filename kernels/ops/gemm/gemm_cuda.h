// Dense GEMMs on the GPU: y[m, n] = sum_k x[m, k] W[n, k]. bf16 by cuBLASLt, opened at run time; float32 weights by a
// kernel of our own. Which algorithm, and the row rule: CUDA.md.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>

#include "cuda/row_type.h"

namespace pelagic {

// cuBLASLt and a handle of it. Must outlive what is made with it.
class GemmCudaLibrary {
 public:
  // Throws std::runtime_error when libcublasLt.so.13 is not where the loader looks nor beside our own shared object, or
  // lacks a function.
  GemmCudaLibrary();
  ~GemmCudaLibrary();
  GemmCudaLibrary(const GemmCudaLibrary&) = delete;
  GemmCudaLibrary& operator=(const GemmCudaLibrary&) = delete;

  // Throws what the constructor does where there is none. Needs no card.
  static void check_installed();

  struct Functions;
  const Functions& functions() const { return *functions_; }
  void* handle() const { return handle_; }  // cublasLtHandle_t
  void* workspace() const { return workspace_; }

 private:
  std::unique_ptr<Functions> functions_;
  void* handle_ = nullptr;
  void* workspace_ = nullptr;  // device memory, a few words: so all GEMMs of a library run on one stream at a time
};

struct GemmCudaShape {
  int n;          // a multiple of 8
  int k;          // a multiple of 8
  int batch = 1;  // GEMMs side by side: heads
  RowType out_type = RowType::bfloat16;
};

// Device memory; every row of x, w and y begins at a multiple of 16 bytes.
struct GemmCudaCall {
  int rows;
  const void* x;  // bf16 [rows, k], ldx elements apart
  std::int64_t ldx;
  std::int64_t x_batch = 0;  // elements from one GEMM of the batch to the next
  const void* w;             // bf16 [batch, n, k]
  void* y;                   // [rows, n], ldy elements apart
  std::int64_t ldy;
  std::int64_t y_batch = 0;
  bool beside = false;  // cuda/dependents.cuh; others may always run beside it
};

// The algorithms for one (n, k, batch, type): all give the same bits.
class GemmCuda {
 public:
  // Throws std::invalid_argument naming the field, or std::runtime_error when cuBLASLt has no algorithm that keeps the
  // row rule.
  GemmCuda(const GemmCudaLibrary& library, const GemmCudaShape& shape);
  ~GemmCuda();
  GemmCuda(GemmCuda&&) noexcept;
  GemmCuda& operator=(GemmCuda&&) = delete;

  const GemmCudaShape& shape() const { return shape_; }
  // Looks for quicker algorithms for many and for few rows, by time; each has shown the first one's bits. Takes device
  // memory meanwhile, up to the weights' size and 512 MiB more. Throws std::runtime_error.
  void tune();
  // Allocates no device memory and waits for nothing; can be captured in a graph. One thread at a time. Throws
  // std::invalid_argument beyond 65,536 rows, else std::runtime_error.
  void launch(const GemmCudaCall& call, cudaStream_t stream);

 private:
  struct State;
  GemmCudaShape shape_;
  std::unique_ptr<State> state_;
};

// The same with float32 weights and products: the gate's logits. Every output is one fixed sum: a lane's FMA chain over
// its groups of 8 columns, then lanes by halves.
struct GemmF32CudaCall {
  int rows;
  int n;
  int k;  // a multiple of 8
  // Device memory; rows of x and w begin at a multiple of 16 bytes.
  const void* x;  // bf16 [rows, k]
  std::int64_t ldx;
  const float* w;  // [n, k]
  float* y;        // [rows, n]
  std::int64_t ldy;
  bool beside = false;  // cuda/dependents.cuh
};

// cudaErrorInvalidValue for shapes not named above.
cudaError_t gemm_f32_cuda(const GemmF32CudaCall& call, cudaStream_t stream);

}  // namespace pelagic
