#pragma once

#include "cuda/bench.h"

namespace pelagic {

void bench_rms_norm(Bench& bench);

}  // namespace pelagic
