// Programmatic dependent launch (PTX ISA, "griddepcontrol"): a kernel launched with launch_early() may begin while the
// one before it in the stream still runs, as soon as all blocks of that one have allowed it or ended. Until it has
// called await_predecessors() it may touch nothing that any earlier kernel writes or reads.
#pragma once

#include <cuda_runtime_api.h>

namespace pelagic {

// Harmless where what follows was launched the ordinary way.
__device__ __forceinline__ void allow_dependents() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

// Returns when all earlier kernels are done and what they wrote is visible.
__device__ __forceinline__ void await_predecessors() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

inline cudaLaunchAttribute launch_early() {
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  return attribute;
}

}  // namespace pelagic
