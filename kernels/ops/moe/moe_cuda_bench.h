#pragma once

#include "cuda/bench.h"

namespace pelagic {

void bench_moe(Bench& bench);

}  // namespace pelagic
