#pragma once

#include "cuda/bench.h"

namespace pelagic {

void bench_sampler(Bench& bench);

}  // namespace pelagic
