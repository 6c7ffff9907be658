#include "base/simd_avx2.h"

#include "ops/rope/rope_simd.h"
