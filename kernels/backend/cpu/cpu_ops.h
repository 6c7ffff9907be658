// The ops of one instruction set as a table. Signatures and shapes: the header of each op.
#pragma once

#include <cstddef>
#include <vector>

#include "base/cpu_features.h"
#include "ops/gemm/gemm.h"
#include "ops/mla_attention/mla_attention.h"
#include "ops/moe/moe.h"
#include "ops/rms_norm/rms_norm.h"
#include "ops/rope/rope.h"
#include "ops/row_math/row_math.h"
#include "ops/silu_mul/silu_mul.h"

namespace pelagic {

// Embedding, KV cache, gate and sampler have one implementation each (they take this table where they need exp or
// sums).
struct CpuOps {
  Isa isa;
  decltype(&scalar::gemm) gemm;
  decltype(&scalar::rms_norm) rms_norm;
  decltype(&scalar::silu_mul) silu_mul;
  decltype(&scalar::rope) rope;
  decltype(&scalar::mla_attention) mla_attention;
  decltype(&scalar::mla_scores) mla_scores;
  decltype(&scalar::mla_values) mla_values;
  decltype(&scalar::moe_combine) moe_combine;
  decltype(&scalar::row_max) row_max;
  decltype(&scalar::row_exp_sum) row_exp_sum;
  decltype(&scalar::row_softmax) row_softmax;
  decltype(&scalar::row_sigmoid) row_sigmoid;
  // For base/measure.h: reads `floats` (a multiple of 16) and returns something that depends on all of them;
  // and runs `iterations` rounds of independent FMAs, returning how many FLOP that was.
  float (*read_pass)(const float* data, std::size_t floats);
  double (*fma_burst)(int iterations);
};

// Throws std::invalid_argument when this processor lacks the instruction set.
const CpuOps& cpu_ops(Isa isa);

// What Isa::scalar is on a processor without FMA instructions. Slow; for tests that it gives the same bits.
const CpuOps& cpu_ops_without_fma();

// Every table that this processor can run, cpu_ops_without_fma() first: what tests compare.
std::vector<const CpuOps*> all_cpu_ops();

}  // namespace pelagic
