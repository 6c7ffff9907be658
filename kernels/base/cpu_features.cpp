#include "base/cpu_features.h"

namespace pelagic {

std::string_view isa_name(Isa isa) {
  switch (isa) {
    case Isa::scalar:
      return "scalar";
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
  }
  return "unknown";
}

#if defined(__x86_64__)

// __builtin_cpu_supports reads cpuid and, for the wide registers, XCR0.
bool fma_supported() { return __builtin_cpu_supports("avx") && __builtin_cpu_supports("fma"); }

bool isa_supported(Isa isa) {
  const bool avx2 = __builtin_cpu_supports("avx2") && fma_supported();
  switch (isa) {
    case Isa::scalar:
      return true;
    case Isa::avx2:
      return avx2;
    case Isa::avx512:
      return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  }
  return false;
}

#else

bool fma_supported() { return false; }
bool isa_supported(Isa isa) { return isa == Isa::scalar; }

#endif

Isa best_isa() {
  if (isa_supported(Isa::avx512)) return Isa::avx512;
  return isa_supported(Isa::avx2) ? Isa::avx2 : Isa::scalar;
}

}  // namespace pelagic
