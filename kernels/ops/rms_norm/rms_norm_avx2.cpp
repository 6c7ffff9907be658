#include "base/simd_avx2.h"

#include "ops/rms_norm/rms_norm_simd.h"
