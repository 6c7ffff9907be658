#pragma once

#include "cuda/bench.h"

namespace pelagic {

// Throws std::runtime_error when a result is further from float64 than rounding explains.
void bench_mla_prefill(Bench& bench);

}  // namespace pelagic
