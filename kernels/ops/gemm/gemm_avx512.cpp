#include "base/simd_avx512.h"

#include "ops/gemm/gemm_simd.h"
