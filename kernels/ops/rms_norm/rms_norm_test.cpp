#include "ops/rms_norm/rms_norm.h"

#include "backend/cpu/cpu_ops.h"
#include "base/test.h"

namespace {

using namespace pelagic;
using Floats = std::vector<float>;

TEST("against float64, with and without a delta") {
  test::Random random(1);
  for (const int width : {1, 5, 16, 64, 100, 512, 1000}) {
    const auto n = static_cast<std::size_t>(width);
    Floats x = random.floats(n), y(n);
    const Floats delta = random.floats(n), weight = random.floats(n), before = x;
    cpu_ops(Isa::scalar)
        .rms_norm({x.data(), width, delta.data(), width, weight.data(), y.data(), width, width, 1e-6f}, 0, 1);
    double squares = 0.0;
    for (std::size_t i = 0; i < n; ++i) {
      CHECK(x[i] == before[i] + delta[i]);
      squares += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    }
    for (std::size_t i = 0; i < n; ++i)
      CHECK_NEAR(y[i], static_cast<double>(x[i]) / std::sqrt(squares / width + 1e-6) * static_cast<double>(weight[i]),
                 2e-6);
  }
}

TEST("all instruction sets give the same bits, in place too") {
  test::Random random(2);
  for (int trial = 0; trial < 60; ++trial) {
    const int width = random.integer(1, 600), rows = random.integer(1, 5), ld = width + random.integer(0, 3);
    const auto size = static_cast<std::size_t>(rows * ld);
    const Floats x = random.floats(size), delta = random.floats(size),
                 weight = random.floats(static_cast<std::size_t>(width));
    const bool add = trial % 2 == 0;
    Floats expected_x, expected_y;
    for (const CpuOps* ops : all_cpu_ops()) {
      Floats in = x, out(size, 9.0f);
      ops->rms_norm({in.data(), ld, add ? delta.data() : nullptr, ld, weight.data(), out.data(), ld, width, 1e-6f}, 0,
                    rows);
      if (expected_y.empty()) {
        expected_x = in;
        expected_y = out;
      }
      CHECK(test::same_bits(in, expected_x));
      CHECK(test::same_bits(out, expected_y));
      if (add) continue;
      ops->rms_norm({in.data(), ld, nullptr, 0, weight.data(), in.data(), ld, width, 1e-6f}, 0, rows);
      for (int row = 0; row < rows; ++row)
        for (int i = 0; i < width; ++i)
          CHECK(test::same_bits(in[static_cast<std::size_t>(row * ld + i)],
                                expected_y[static_cast<std::size_t>(row * ld + i)]));
    }
  }
}

}  // namespace

TEST_MAIN
