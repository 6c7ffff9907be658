// Programmatic dependent launch (PTX ISA, "griddepcontrol"): a kernel launched by launch_early() may begin while the
// one before it in the stream still runs, as soon as all blocks of that one have allowed it or ended. Until it has
// called await_predecessors() it may touch nothing that any earlier kernel writes or reads; every one must call it,
// since the next relies on its end for all that came before. What an earlier kernel writes is read by plain loads:
// __ldg and const __restrict__ say that nobody writes it while this kernel runs, which is not so, and let the compiler
// move the load before the wait (it did, in the gate of up to 32 experts).
//
// `beside` in a call: the kernel needs nothing of the one launched just before it, nor touches what that one does, and
// does not wait for it to begin. That one must allow dependents only after its own await (it says so, and is not
// `beside` itself); the kernel awaits it before it ends, for those that follow.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

namespace pelagic {

// Harmless where what follows was launched the ordinary way.
__device__ __forceinline__ void allow_dependents() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

// Returns when all earlier kernels are done and what they wrote is visible.
__device__ __forceinline__ void await_predecessors() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

// For kernels that have nothing to do before.
__device__ __forceinline__ void begin_early() {
  allow_dependents();
  await_predecessors();
}

// For those that may run beside the one before.
__device__ __forceinline__ void begin_early(bool beside) {
  allow_dependents();
  if (!beside) await_predecessors();
}
// At least one thread that has done its work must call it.
__device__ __forceinline__ void end_beside(bool beside) {
  if (beside) await_predecessors();
}

// For those that others may run beside.
__device__ __forceinline__ void begin_with_others() {
  await_predecessors();
  allow_dependents();
}

inline cudaLaunchAttribute early_launch() {
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  return attribute;
}

template <typename... Parameters, typename... Arguments>
cudaError_t launch_early(void (*kernel)(Parameters...), dim3 grid, unsigned threads, std::size_t shared_bytes,
                         cudaStream_t stream, const Arguments&... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = threads;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  cudaLaunchAttribute attribute = early_launch();
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

}  // namespace pelagic
