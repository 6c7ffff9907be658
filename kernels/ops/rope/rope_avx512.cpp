#include "base/simd_avx512.h"

#include "ops/rope/rope_simd.h"
