// The CUDA backend, opened at run time, so that one build runs with and without a GPU.
#pragma once

#include <memory>

#include "backend/backend.h"
#include "backend/cuda/cuda_plugin.h"

namespace pelagic {

// Opens pelagic_cuda.so: PELAGIC_CUDA_LIBRARY where that is set, else the one beside this code's own file. The first
// card that CUDA sees is taken; CUDA_VISIBLE_DEVICES chooses. Throws Error(device) in one line: the library is
// missing or was built for another engine, no driver, no card, a card that is not sm_90, no cuBLASLt; Error(memory).
// One thread at a time may call the ops.
std::unique_ptr<Backend> open_cuda_backend(CudaWeights weights);

}  // namespace pelagic
