#pragma once

#include "cuda/bench.h"

namespace pelagic {

void bench_rope(Bench& bench);

}  // namespace pelagic
