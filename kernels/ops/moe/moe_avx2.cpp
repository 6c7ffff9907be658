#include "base/simd_avx2.h"

#include "ops/moe/moe_simd.h"
