// Which instruction sets this processor and its operating system allow, and the macro that declares one op for each of
// them.
#pragma once

#include <string_view>

namespace pelagic {

// Every instruction set gives the same bits; they differ in speed only.
enum class Isa { scalar, avx2, avx512 };

std::string_view isa_name(Isa isa);

// Hardware and operating system support (XCR0 is read: a kernel that does not save zmm registers has no AVX-512).
// avx2 means AVX2 + FMA; avx512 means F + BW + DQ + VL and everything of avx2.
bool isa_supported(Isa isa);
Isa best_isa();

// True when scalar FMA instructions may be used: then the scalar ops come from translation units built with -mfma.
bool fma_supported();

}  // namespace pelagic

// An op is compiled several times with different flags. Each copy lives in its own namespace, so that the linker can
// never take code of one instruction set for another. `scalar` and `scalar_fma` are the same reference sources.
#if defined(__x86_64__)
#define PELAGIC_DECLARE_FOR_EACH_ISA(...) \
  namespace scalar {                      \
  __VA_ARGS__                             \
  }                                       \
  namespace scalar_fma {                  \
  __VA_ARGS__                             \
  }                                       \
  namespace avx2 {                        \
  __VA_ARGS__                             \
  }                                       \
  namespace avx512 {                      \
  __VA_ARGS__                             \
  }
#else
#define PELAGIC_DECLARE_FOR_EACH_ISA(...) \
  namespace scalar {                      \
  __VA_ARGS__                             \
  }
#endif
