#include "base/simd_avx2.h"

#include "ops/row_math/row_math_simd.h"
