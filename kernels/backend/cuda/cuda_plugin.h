// The one entry of pelagic_cuda.so. Engine and shared object are built apart, with the same compiler ABI; what they
// have in common is hashed into an interface id, so that a pair that does not fit is refused instead of crashing.
#pragma once

#include <cstddef>

#include "graph/error.h"

namespace pelagic {

class Backend;

// What the projections and MLPs are held and multiplied in.
enum class CudaWeights {
  bfloat16,
  fp8,  // e4m3 with a scale for each 128 x 128; activations e4m3 with a scale for each row and 128 columns
};

// Where a failed call says why.
struct CudaPluginFailure {
  ErrorCode code;
  char message[512];
};

// A backend, owned by the caller and deleted as any object; null, and *failure filled in, where there is none.
// interface_id: of the engine that opens it.
using CudaPluginOpen = Backend*(const char* interface_id, CudaWeights weights, CudaPluginFailure* failure);
inline constexpr const char* kCudaPluginOpen = "pelagic_cuda_open";

}  // namespace pelagic
