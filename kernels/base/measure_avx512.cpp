#include "base/simd_avx512.h"

#include "base/measure_simd.h"
