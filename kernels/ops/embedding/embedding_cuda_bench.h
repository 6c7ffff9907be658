#pragma once

#include "cuda/bench.h"

namespace pelagic {

void bench_embedding(Bench& bench);

}  // namespace pelagic
