// The CPU backend: CpuOps of one instruction set, driven by a pool of threads. Every op is done when its call returns.
#pragma once

#include <memory>

#include "backend/backend.h"
#include "base/cpu_features.h"

namespace pelagic {

// threads: compute threads including the caller, at least 1. Throws std::invalid_argument when the processor lacks the
// instruction set. One thread at a time may call the ops.
std::unique_ptr<Backend> make_cpu_backend(Isa isa, int threads);

}  // namespace pelagic
