#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>
#include <string_view>

#include "backend/cpu/cpu_ops.h"
#include "base/aligned_buffer.h"
#include "base/bfloat16.h"
#include "base/exp.h"
#include "base/float8.h"
#include "base/log.h"
#include "base/measure.h"
#include "base/test.h"
#include "base/xxh64.h"

namespace {

using namespace pelagic;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

double ulps(float actual, double exact) {
  const float rounded = static_cast<float>(exact);
  const double step = static_cast<double>(std::nextafter(rounded, kInfinity)) - static_cast<double>(rounded);
  return std::fabs(static_cast<double>(actual) - exact) / step;
}

TEST("bfloat16: every code survives the round trip") {
  for (std::uint32_t code = 0; code < 65536; ++code) {
    const auto bits = static_cast<bfloat16_bits>(code);
    const float value = bf16_to_f32(bits);
    if (std::isnan(value)) {
      CHECK(std::isnan(bf16_to_f32(f32_to_bf16(value))));
    } else {
      CHECK(f32_to_bf16(value) == bits);
    }
  }
}

TEST("bfloat16: rounds to the nearest, ties to even") {
  CHECK(f32_to_bf16(1.0f + 0x1p-8f) == 0x3F80);            // a tie, down to even
  CHECK(f32_to_bf16(1.0f + 0x1p-7f + 0x1p-8f) == 0x3F82);  // a tie, up to even
  CHECK(f32_to_bf16(1.0f + 0x1p-8f + 0x1p-20f) == 0x3F81);
  CHECK(f32_to_bf16(std::numeric_limits<float>::max()) == 0x7F80);
  CHECK(f32_to_bf16(-kInfinity) == 0xFF80);
  CHECK(std::isnan(bf16_to_f32(f32_to_bf16(std::bit_cast<float>(0x7F800001u)))));  // a payload that would round away
}

TEST("float8 e4m3: values of the format") {
  CHECK(kF8e4m3ToF32[0x00] == 0.0f);
  CHECK(std::signbit(kF8e4m3ToF32[0x80]));
  CHECK(kF8e4m3ToF32[0x01] == 0x1p-9f);
  CHECK(kF8e4m3ToF32[0x07] == 7 * 0x1p-9f);
  CHECK(kF8e4m3ToF32[0x08] == 0x1p-6f);
  CHECK(kF8e4m3ToF32[0x38] == 1.0f);
  CHECK(kF8e4m3ToF32[0x7E] == 448.0f);
  CHECK(kF8e4m3ToF32[0xFE] == -448.0f);
  CHECK(std::isnan(kF8e4m3ToF32[0x7F]));
  CHECK(std::isnan(kF8e4m3ToF32[0xFF]));
  for (std::size_t code = 1; code < 0x7F; ++code) CHECK(kF8e4m3ToF32[code] > kF8e4m3ToF32[code - 1]);
}

TEST("exp: within 2 ulp over the whole range") {
  double worst = 0.0;
  for (std::uint64_t bits = 0; bits < (1ull << 32); bits += 1009) {
    const float x = std::bit_cast<float>(static_cast<std::uint32_t>(bits));
    if (std::isnan(x)) {
      CHECK(std::isnan(exp_f32(x)));
      continue;
    }
    const double exact = std::exp(static_cast<double>(x));
    if (exact > static_cast<double>(std::numeric_limits<float>::max()) * (1 + 0x1p-25)) {
      CHECK(exp_f32(x) == kInfinity);
    } else {
      worst = std::max(worst, ulps(exp_f32(x), exact));
    }
  }
  CHECK(worst <= 2.0);
  std::printf("exp: at most %.3f ulp\n", worst);
}

TEST("exp: limits") {
  CHECK(exp_f32(0.0f) == 1.0f);
  CHECK(exp_f32(-0.0f) == 1.0f);
  CHECK(exp_f32(kInfinity) == kInfinity);
  CHECK(exp_f32(-kInfinity) == 0.0f);
  CHECK(exp_f32(88.72283f) < kInfinity);
  CHECK(exp_f32(88.72285f) == kInfinity);
  CHECK(exp_f32(-103.0f) > 0.0f);  // a subnormal
  CHECK(exp_f32(-104.5f) == 0.0f);
  CHECK(softmax_exp_f32(-64.0f) == exp_f32(-64.0f) && softmax_exp_f32(-64.0f) > 0.0f);
  CHECK(softmax_exp_f32(-64.00001f) == 0.0f);
  CHECK(softmax_exp_f32(-kInfinity) == 0.0f);
  CHECK(std::isnan(softmax_exp_f32(std::numeric_limits<float>::quiet_NaN())));
}

TEST("log: against the C library") {
  test::Random random(5);
  double worst = 0.0;
  const auto check = [&](double x) {
    const double exact = std::log(x);
    worst = std::max(worst, std::fabs(log_f64(x) - exact) / std::max(std::fabs(exact), 1e-300));
  };
  for (int i = 0; i < 200000; ++i) check((random.bits() + 0.5) * 0x1p-32);
  for (int i = 0; i < 200000; ++i) check(std::ldexp(1.0 + random.bits() * 0x1p-32, random.integer(-1074, 1023)));
  for (int i = 1; i < 60; ++i) check(1.0 - std::ldexp(1.0, -i));
  CHECK(log_f64(1.0) == 0.0);
  CHECK(worst < 4e-15);
  std::printf("log: relative error at most %.2e\n", worst);
}

TEST("philox4x32-10: the vectors of its authors (Random123 kat_vectors)") {
  using Words = std::array<std::uint32_t, 4>;
  CHECK((philox4x32_10({0, 0, 0, 0}, {0, 0}) == Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  CHECK((philox4x32_10({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}) ==
         Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  CHECK((philox4x32_10({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
         Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST("xxh64: vectors") {
  const auto digest = [](std::string_view text, std::uint64_t seed = 0) {
    return xxh64(text.data(), text.size(), seed);
  };
  CHECK(digest("") == 0xEF46DB3751D8E999ull);
  CHECK(xxh64(nullptr, 0) == 0xEF46DB3751D8E999ull);
  CHECK(digest("a") == 0xD24EC4F1A98C6E5Bull);
  CHECK(digest("abc") == 0x44BC2CF5AD770999ull);
  // xxHash's own sanity check: bytes of a multiplicative generator, lengths that reach every branch.
  unsigned char bytes[222];
  std::uint64_t generator = 2654435761u;
  for (unsigned char& byte : bytes) {
    byte = static_cast<unsigned char>(generator >> 56);
    generator *= 11400714785074694797ull;
  }
  CHECK(xxh64(bytes, 0, 2654435761u) == 0xAC75FDA2929B17EFull);
  CHECK(xxh64(bytes, 1) == 0xE934A84ADB052768ull);
  CHECK(xxh64(bytes, 1, 2654435761u) == 0x5014607643A9B4C3ull);
  CHECK(xxh64(bytes, 4) == 0x9136A0DCA57457EEull);
  CHECK(xxh64(bytes, 14) == 0x8282DCC4994E35C8ull);
  CHECK(xxh64(bytes, 14, 2654435761u) == 0xC3BD6BF63DEB6DF0ull);
  CHECK(xxh64(bytes, 222) == 0xB641AE8CB691C174ull);
  CHECK(xxh64(bytes, 222, 2654435761u) == 0x20CB8AB7AE10C14Aull);
}

TEST("xxh64: a copy has the digest of its bytes, at any size and alignment") {
  std::vector<unsigned char> bytes(200), out(202);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<unsigned char>(i * 37 + 11);
  for (std::size_t size = 0; size + 3 <= bytes.size(); ++size) {
    std::fill(out.begin(), out.end(), 0xAA);
    CHECK(xxh64_copy(out.data() + 1, bytes.data() + 3, size) == xxh64(bytes.data() + 3, size));
    CHECK(std::memcmp(out.data() + 1, bytes.data() + 3, size) == 0);
    CHECK(out[0] == 0xAA && out[1 + size] == 0xAA);
  }
}

TEST("aligned buffer: zeroed, aligned, moved, never too large") {
  AlignedBuffer<float> buffer(33);
  CHECK(reinterpret_cast<std::uintptr_t>(buffer.data()) % 64 == 0);
  for (const float x : buffer.span()) CHECK(x == 0.0f);
  buffer[32] = 4.0f;
  AlignedBuffer<float> other(std::move(buffer));
  CHECK(buffer.size() == 0 && other.size() == 33 && other[32] == 4.0f);
  CHECK(AlignedBuffer<float>(0).size() == 0);
  CHECK_THROWS(AlignedBuffer<float>(std::numeric_limits<std::size_t>::max() / 2), std::bad_alloc);
}

TEST("measure: both ceilings are positive with every instruction set") {
  ThreadPool pool(2);
  for (const CpuOps* ops : all_cpu_ops()) {
    CHECK(measure_read_bandwidth(pool, *ops, 1 << 20) > 1e6);
    if (ops != &cpu_ops_without_fma()) CHECK(measure_fma_rate(pool, *ops) > 1e6);
  }
  CHECK(measure_read_bandwidth(pool, cpu_ops(Isa::scalar), 0) > 0);
}

}  // namespace

TEST_MAIN
