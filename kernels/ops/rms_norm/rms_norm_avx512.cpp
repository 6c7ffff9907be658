#include "base/simd_avx512.h"

#include "ops/rms_norm/rms_norm_simd.h"
