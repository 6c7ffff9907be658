#include "base/simd_avx2.h"

#include "ops/gemm/gemm_simd.h"
