#pragma once

#include "cuda/bench.h"

namespace pelagic {

void bench_silu_mul(Bench& bench);

}  // namespace pelagic
