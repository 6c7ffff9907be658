#include "ops/rope/rope.h"

#include <stdexcept>

#include "backend/cpu/cpu_ops.h"
#include "base/test.h"

namespace {

using namespace pelagic;
using Floats = std::vector<float>;

std::vector<double> frequencies(int pairs) {
  std::vector<double> out;
  for (int i = 0; i < pairs; ++i) out.push_back(std::pow(10000.0, -2.0 * i / (2 * pairs)));
  return out;
}

TEST("rotates like complex numbers; the same bits from every instruction set") {
  test::Random random(1);
  for (const int pairs : {1, 4, 8, 11, 16, 32}) {
    const RopeTable table(frequencies(pairs), 100);
    CHECK(table.pairs() == pairs && table.positions() == 100);
    const int heads = 3, stride = 2 * pairs + 5, out_stride = 2 * pairs + 1;
    const Floats x = random.floats(static_cast<std::size_t>(heads * stride));
    for (const int position : {0, 1, 57, 99}) {
      Floats expected;
      for (const CpuOps* ops : all_cpu_ops()) {
        Floats y(static_cast<std::size_t>(heads * out_stride), 3.0f);
        ops->rope(x.data(), stride, y.data(), out_stride, heads, pairs, table.cos_row(position),
                  table.sin_row(position));
        if (expected.empty()) expected = y;
        CHECK(test::same_bits(y, expected));
        Floats in_place = x;
        ops->rope(in_place.data(), stride, in_place.data(), stride, heads, pairs, table.cos_row(position),
                  table.sin_row(position));
        for (int h = 0; h < heads; ++h)
          for (int i = 0; i < 2 * pairs; ++i)
            CHECK(test::same_bits(in_place[static_cast<std::size_t>(h * stride + i)],
                                  y[static_cast<std::size_t>(h * out_stride + i)]));
      }
      for (int h = 0; h < heads; ++h) {
        for (int i = 0; i < pairs; ++i) {
          const double angle = position * frequencies(pairs)[static_cast<std::size_t>(i)];
          const double even = static_cast<double>(x[static_cast<std::size_t>(h * stride + 2 * i)]);
          const double odd = static_cast<double>(x[static_cast<std::size_t>(h * stride + 2 * i + 1)]);
          CHECK_NEAR(expected[static_cast<std::size_t>(h * out_stride + 2 * i)],
                     even * std::cos(angle) - odd * std::sin(angle), 3e-7);
          CHECK_NEAR(expected[static_cast<std::size_t>(h * out_stride + 2 * i + 1)],
                     even * std::sin(angle) + odd * std::cos(angle), 3e-7);
        }
      }
    }
  }
}

TEST("table: position 0 is the identity, amplitude scales, negative sizes are refused") {
  const RopeTable table(frequencies(4), 3, 2.0);
  CHECK(table.cos_row(0)[3] == 2.0f && table.sin_row(0)[3] == 0.0f);
  CHECK_NEAR(table.cos_row(2)[0], 2.0 * std::cos(2.0), 1e-7);
  CHECK_THROWS(RopeTable(frequencies(4), -1), std::invalid_argument);
}

}  // namespace

TEST_MAIN
