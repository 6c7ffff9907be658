#include "base/simd_avx512.h"

#include "ops/row_math/row_math_simd.h"
