#include "base/simd_avx2.h"

#include "ops/silu_mul/silu_mul_simd.h"
