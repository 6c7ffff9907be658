#include "backend/cpu/cpu_ops.h"

#include <stdexcept>
#include <string>

#include "base/measure_loops.h"

namespace pelagic {
namespace {

#define PELAGIC_OPS_OF(isa, name)                                                                                    \
  CpuOps {                                                                                                           \
    isa, name::gemm, name::rms_norm, name::silu_mul, name::rope, name::mla_attention, name::mla_scores,              \
        name::mla_values, name::moe_combine, name::row_max, name::row_exp_sum, name::row_softmax, name::row_sigmoid, \
        name::read_pass, name::fma_burst                                                                             \
  }

constexpr CpuOps kScalar = PELAGIC_OPS_OF(Isa::scalar, scalar);
#if defined(__x86_64__)
constexpr CpuOps kScalarFma = PELAGIC_OPS_OF(Isa::scalar, scalar_fma);
constexpr CpuOps kAvx2 = PELAGIC_OPS_OF(Isa::avx2, avx2);
constexpr CpuOps kAvx512 = PELAGIC_OPS_OF(Isa::avx512, avx512);
#endif

}  // namespace

const CpuOps& cpu_ops(Isa isa) {
  if (!isa_supported(isa)) throw std::invalid_argument("this processor has no " + std::string(isa_name(isa)));
#if defined(__x86_64__)
  if (isa == Isa::avx512) return kAvx512;
  if (isa == Isa::avx2) return kAvx2;
  // Without FMA instructions std::fma is a call: right, and many times slower.
  if (fma_supported()) return kScalarFma;
#endif
  return kScalar;
}

const CpuOps& cpu_ops_without_fma() { return kScalar; }

std::vector<const CpuOps*> all_cpu_ops() {
  std::vector<const CpuOps*> all{&cpu_ops_without_fma()};
  for (const Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512})
    if (isa_supported(isa) && &cpu_ops(isa) != all.front()) all.push_back(&cpu_ops(isa));
  return all;
}

}  // namespace pelagic
