// CUDA errors as exceptions, for tests, benches and set-up code.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace pelagic {

inline void cuda_check(cudaError_t error, const char* what) {
  if (error != cudaSuccess)
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorName(error) + ": " + cudaGetErrorString(error));
}

}  // namespace pelagic

#define PELAGIC_CUDA(call) ::pelagic::cuda_check((call), #call)
