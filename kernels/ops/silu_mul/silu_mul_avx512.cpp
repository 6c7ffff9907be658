#include "base/simd_avx512.h"

#include "ops/silu_mul/silu_mul_simd.h"
