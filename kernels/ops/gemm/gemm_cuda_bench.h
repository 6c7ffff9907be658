#pragma once

#include "cuda/bench.h"

namespace pelagic {

void bench_gemm(Bench& bench);

}  // namespace pelagic
