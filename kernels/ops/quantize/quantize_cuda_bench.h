#pragma once

#include "cuda/bench.h"

namespace pelagic {

void bench_quantize(Bench& bench);

}  // namespace pelagic
