#include "base/simd_avx512.h"

#include "ops/mla_attention/mla_attention_simd.h"
