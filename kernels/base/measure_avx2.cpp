#include "base/simd_avx2.h"

#include "base/measure_simd.h"
