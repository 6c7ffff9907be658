// The one entry of pelagic_cuda.so. Engine and shared object are built apart, with the same compiler ABI; what they
// have in common is hashed into an interface id, so that a pair that does not fit is refused instead of crashing.
#pragma once

#include <cstddef>

#include "graph/error.h"

namespace pelagic {

class Backend;

// Where a failed call says why.
struct CudaPluginFailure {
  ErrorCode code;
  char message[512];
};

// A backend, owned by the caller and deleted as any object; null, and *failure filled in, where there is none.
// interface_id: of the engine that opens it.
using CudaPluginOpen = Backend*(const char* interface_id, CudaPluginFailure* failure);
inline constexpr const char* kCudaPluginOpen = "pelagic_cuda_open";

}  // namespace pelagic
