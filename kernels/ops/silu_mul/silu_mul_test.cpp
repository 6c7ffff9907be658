#include "ops/silu_mul/silu_mul.h"

#include <limits>

#include "backend/cpu/cpu_ops.h"
#include "base/test.h"

namespace {

using namespace pelagic;
using Floats = std::vector<float>;

TEST("against float64, and the same bits from every instruction set") {
  test::Random random(1);
  for (int trial = 0; trial < 40; ++trial) {
    const int width = random.integer(1, 200), rows = random.integer(1, 4), pairs = (width + 31) / 32,
              ld_out = width + 2;
    const Floats gate_up = random.floats(static_cast<std::size_t>(rows * pairs * 64), -12.0f, 12.0f);
    Floats expected;
    for (const CpuOps* ops : all_cpu_ops()) {
      Floats out(static_cast<std::size_t>(rows * ld_out), 5.0f);
      const SiluMulCall call{gate_up.data(), pairs * 64, out.data(), ld_out, width, rows};
      const int cut = random.integer(0, pairs);
      ops->silu_mul(call, cut, pairs);
      ops->silu_mul(call, 0, cut);
      if (expected.empty()) expected = out;
      CHECK(test::same_bits(out, expected));
    }
    for (int row = 0; row < rows; ++row) {
      for (int i = 0; i < ld_out; ++i) {
        const float actual = expected[static_cast<std::size_t>(row * ld_out + i)];
        if (i >= width) {
          CHECK(actual == 5.0f);
          continue;
        }
        const std::size_t at = static_cast<std::size_t>(row * pairs * 64 + i / 32 * 64 + i % 32);
        const double g = static_cast<double>(gate_up[at]), u = static_cast<double>(gate_up[at + 32]);
        CHECK_NEAR(actual, g / (1.0 + std::exp(-g)) * u, 2e-6 * (1.0 + std::fabs(g * u)));
      }
    }
  }
}

TEST("extremes") {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  Floats gate_up(64, 1.0f), out(32);
  gate_up[0] = -200.0f;
  gate_up[1] = 200.0f;
  gate_up[2] = kInfinity;
  gate_up[3] = std::numeric_limits<float>::quiet_NaN();
  gate_up[4] = 0.0f;
  for (const CpuOps* ops : all_cpu_ops()) {
    ops->silu_mul({gate_up.data(), 64, out.data(), 32, 32, 1}, 0, 1);
    CHECK(out[0] == 0.0f && out[1] == 200.0f && out[2] == kInfinity && std::isnan(out[3]) && out[4] == 0.0f);
  }
}

}  // namespace

TEST_MAIN
