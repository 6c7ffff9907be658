#include "base/simd_avx512.h"

#include "ops/moe/moe_simd.h"
