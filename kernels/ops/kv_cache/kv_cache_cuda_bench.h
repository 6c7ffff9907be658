#pragma once

#include "cuda/bench.h"

namespace pelagic {

void bench_kv_cache(Bench& bench);

}  // namespace pelagic
