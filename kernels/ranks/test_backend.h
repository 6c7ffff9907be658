// For tests of ranks: what the models compute with. --backend cpu (the default), cuda or cuda-fp8.
#pragma once

#include <memory>
#include <string>

#include "backend/cpu/cpu_backend.h"
#include "backend/cuda/open_cuda_backend.h"

namespace pelagic::test {

struct TestBackend {
  std::string name = "cpu";

  bool is_known() const { return name == "cpu" || name == "cuda" || name == "cuda-fp8"; }
  bool is_cuda() const { return name != "cpu"; }
  std::unique_ptr<Backend> open() const {
    if (!is_cuda()) return make_cpu_backend(best_isa(), 1);
    return open_cuda_backend(name == "cuda" ? CudaWeights::bfloat16 : CudaWeights::fp8);
  }
  KvDtype kv_dtype() const { return is_cuda() ? KvDtype::bfloat16 : KvDtype::float32; }
};

}  // namespace pelagic::test
