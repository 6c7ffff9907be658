// The one entry of pelagic_cuda.so. Engine and shared object are built apart, with the same compiler ABI; what they
// have in common is hashed into an interface id, so that a pair that does not fit is refused instead of crashing.
#pragma once

#include <cstddef>

#include "graph/error.h"

namespace pelagic {

class Backend;
struct CpuOps;

// What the shared object uses of the engine. Outlives the backend.
struct CudaPluginHost {
  const char* interface_id;
  const CpuOps* ops;  // for what is still done on the host: sampling
};

// Where a failed call says why.
struct CudaPluginFailure {
  ErrorCode code;
  char message[512];
};

// A backend, owned by the caller and deleted as any object; null, and *failure filled in, where there is none.
using CudaPluginOpen = Backend*(const CudaPluginHost* host, CudaPluginFailure* failure);
inline constexpr const char* kCudaPluginOpen = "pelagic_cuda_open";

}  // namespace pelagic
