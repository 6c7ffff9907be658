#include "base/simd_avx2.h"

#include "ops/mla_attention/mla_attention_simd.h"
