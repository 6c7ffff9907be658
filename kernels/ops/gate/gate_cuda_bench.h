#pragma once

#include "cuda/bench.h"

namespace pelagic {

void bench_gate(Bench& bench);

}  // namespace pelagic
