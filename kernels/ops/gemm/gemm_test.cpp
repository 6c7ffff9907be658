#include "ops/gemm/gemm.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "backend/cpu/cpu_ops.h"
#include "base/test.h"
#include "base/thread_pool.h"

namespace {

using namespace pelagic;
using Floats = std::vector<float>;

struct Problem {
  int m, n, k, lda, ldc;
  Floats a, w, residual;

  Problem(test::Random& random, int m_, int n_, int k_)
      : m(m_), n(n_), k(k_), lda(k_ + random.integer(0, 5)), ldc(n_ + random.integer(0, 5)) {
    a = random.floats(static_cast<std::size_t>(m) * static_cast<std::size_t>(lda));
    w = random.floats(static_cast<std::size_t>(n) * static_cast<std::size_t>(k));
    residual = random.floats(static_cast<std::size_t>(m) * static_cast<std::size_t>(ldc));
  }
  PackedMatrix packed() const { return PackedMatrix::from_rows(n, k, w.data(), k); }
  GemmCall call(const PackedMatrix& matrix, Floats& c, bool add) const {
    return {a.data(), lda, m, &matrix, c.data(), ldc, add ? residual.data() : nullptr, ldc};
  }
  Floats untouched() const { return Floats(static_cast<std::size_t>(m) * static_cast<std::size_t>(ldc), -7.5f); }
};

Floats run(const CpuOps& ops, const Problem& problem, const PackedMatrix& matrix, bool add) {
  Floats c = problem.untouched();
  ops.gemm(problem.call(matrix, c, add), 0, matrix.panels());
  return c;
}

TEST("against float64") {
  test::Random random(1);
  for (int trial = 0; trial < 20; ++trial) {
    const Problem problem(random, random.integer(1, 9), random.integer(1, 70), random.integer(1, 400));
    const Floats c = run(cpu_ops(Isa::scalar), problem, problem.packed(), true);
    for (int m = 0; m < problem.m; ++m) {
      for (int n = 0; n < problem.n; ++n) {
        double sum = static_cast<double>(problem.residual[static_cast<std::size_t>(m * problem.ldc + n)]);
        for (int k = 0; k < problem.k; ++k)
          sum += static_cast<double>(problem.a[static_cast<std::size_t>(m * problem.lda + k)]) *
                 static_cast<double>(problem.w[static_cast<std::size_t>(n * problem.k + k)]);
        CHECK_NEAR(c[static_cast<std::size_t>(m * problem.ldc + n)], sum, 1e-5 * std::sqrt(problem.k) + 1e-6);
      }
    }
  }
}

TEST("the order is the written one: runs of 128, ascending") {
  test::Random random(2);
  const Problem problem(random, 1, 3, 300);
  const Floats c = run(cpu_ops(Isa::scalar), problem, problem.packed(), false);
  for (int n = 0; n < 3; ++n) {
    float total = 0.0f;
    for (const auto& [begin, end] : {std::pair{0, 128}, {128, 256}, {256, 300}}) {
      float acc = 0.0f;
      for (int k = begin; k < end; ++k)
        acc = std::fma(problem.a[static_cast<std::size_t>(k)], problem.w[static_cast<std::size_t>(n * 300 + k)], acc);
      total = total + acc;
    }
    CHECK(test::same_bits(c[static_cast<std::size_t>(n)], total));
  }
}

TEST("all instruction sets give the same bits, and write nothing beyond C") {
  test::Random random(3);
  for (int trial = 0; trial < 120; ++trial) {
    const int k = trial % 4 == 0 ? random.integer(500, 1300) : random.integer(1, 300);
    const Problem problem(random, random.integer(1, 40), random.integer(1, 330), k);
    const PackedMatrix matrix = problem.packed();
    const bool add = trial % 2 == 0;
    const Floats expected = run(cpu_ops(Isa::scalar), problem, matrix, add);
    for (const CpuOps* ops : all_cpu_ops()) {
      if (ops == &cpu_ops_without_fma() && trial > 10) continue;  // slow
      CHECK(test::same_bits(run(*ops, problem, matrix, add), expected));
    }
    for (int m = 0; m < problem.m; ++m)
      for (int n = problem.n; n < problem.ldc; ++n)
        CHECK(expected[static_cast<std::size_t>(m * problem.ldc + n)] == -7.5f);
  }
}

TEST("a row's bits do not depend on how many rows, panels or threads a call has") {
  test::Random random(4);
  for (const CpuOps* ops : all_cpu_ops()) {
    const Problem whole(random, 40, 200, ops == &cpu_ops_without_fma() ? 140 : 700);
    const PackedMatrix matrix = whole.packed();
    const Floats expected = run(*ops, whole, matrix, false);
    for (int m = 1; m <= 40; ++m) {
      Problem part = whole;
      part.m = m;
      Floats c = part.untouched();
      const int cut = random.integer(0, matrix.panels());
      ops->gemm(part.call(matrix, c, false), cut, matrix.panels());
      ops->gemm(part.call(matrix, c, false), 0, cut);
      for (std::size_t i = 0; i < c.size(); ++i) CHECK(test::same_bits(c[i], expected[i]));
    }
    for (const int threads : {1, 2, 5}) {
      ThreadPool pool(threads);
      Floats c = whole.untouched();
      const GemmCall call = whole.call(matrix, c, false);
      pool.parallel_ranges(matrix.panels(), gemm_panels_per_task(matrix, whole.m, threads),
                           [&](int begin, int end, int) { ops->gemm(call, begin, end); });
      CHECK(test::same_bits(c, expected));
    }
  }
}

TEST("the residual may be C itself") {
  test::Random random(5);
  for (const int m : {1, 3, 17}) {
    const Problem problem(random, m, 50, 900);
    const PackedMatrix matrix = problem.packed();
    for (const CpuOps* ops : all_cpu_ops()) {
      Floats c = problem.residual;
      GemmCall call = problem.call(matrix, c, true);
      call.residual = c.data();
      ops->gemm(call, 0, matrix.panels());
      const Floats expected = run(*ops, problem, matrix, true);
      for (int row = 0; row < m; ++row)
        for (int n = 0; n < 50; ++n) {
          const auto i = static_cast<std::size_t>(row * problem.ldc + n);
          CHECK(test::same_bits(c[i], expected[i]));
        }
    }
  }
}

TEST("packing: columns past n are zero, and all sources agree") {
  test::Random random(6);
  const int n = 45, k = 21;
  const Floats rows = random.floats(static_cast<std::size_t>(n * k));
  Floats transposed(rows.size());
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < k; ++j)
      transposed[static_cast<std::size_t>(j * n + i)] = rows[static_cast<std::size_t>(i * k + j)];
  const PackedMatrix a = PackedMatrix::from_rows(n, k, rows.data(), k);
  const PackedMatrix b = PackedMatrix::from_transposed(n, k, transposed.data(), n);
  const PackedMatrix c = PackedMatrix::from_rows(
      n, k, [&](int row, float* out) { std::copy_n(&rows[static_cast<std::size_t>(row * k)], k, out); });
  CHECK(a.panels() == 2 && a.panel_floats() == 21 * 32);
  for (int p = 0; p < 2; ++p) {
    CHECK(reinterpret_cast<std::uintptr_t>(a.panel(p)) % 64 == 0);
    for (int j = 0; j < k; ++j) {
      for (int column = 0; column < 32; ++column) {
        const int row = p * 32 + column;
        const float expected = row < n ? rows[static_cast<std::size_t>(row * k + j)] : 0.0f;
        CHECK(a.panel(p)[j * 32 + column] == expected);
        CHECK(b.panel(p)[j * 32 + column] == expected);
        CHECK(c.panel(p)[j * 32 + column] == expected);
      }
    }
  }
}

TEST("packing: gate and up lie in alternating panels") {
  const int width = 40, k = 3;
  const PackedMatrix matrix = PackedMatrix::from_gate_up(
      width, k,
      [](int row, float* out) {
        for (int i = 0; i < k; ++i) out[i] = static_cast<float>(row * 10 + i);
      },
      [](int row, float* out) {
        for (int i = 0; i < k; ++i) out[i] = static_cast<float>(-row * 10 - i);
      });
  CHECK(matrix.n() == 128 && matrix.panels() == 4);
  CHECK(matrix.panel(0)[32 + 5] == 51.0f);
  CHECK(matrix.panel(1)[32 + 5] == -51.0f);
  CHECK(matrix.panel(2)[2 * 32 + 7] == 392.0f);
  CHECK(matrix.panel(3)[2 * 32 + 7] == -392.0f);
  CHECK(matrix.panel(2)[8] == 0.0f);
  for (const int m : {1, 8, 512})
    for (const int threads : {1, 2, 64}) CHECK(gemm_panels_per_task(matrix, m, threads) % 2 == 0);
}

TEST("bad sizes are refused") {
  const float one = 1.0f;
  CHECK_THROWS(PackedMatrix::from_rows(0, 1, &one, 1), std::invalid_argument);
  CHECK_THROWS(PackedMatrix::from_rows(1, 0, &one, 1), std::invalid_argument);
  CHECK_THROWS(PackedMatrix::from_gate_up(0, 1, {}, {}), std::invalid_argument);
}

TEST("NaN and infinity pass through, and stay in their row") {
  test::Random random(7);
  Problem problem(random, 6, 40, 200);
  const PackedMatrix matrix = problem.packed();
  const Floats clean = run(cpu_ops(Isa::scalar), problem, matrix, false);
  problem.a[static_cast<std::size_t>(2 * problem.lda + 5)] = std::numeric_limits<float>::quiet_NaN();
  problem.a[static_cast<std::size_t>(4 * problem.lda + 9)] = std::numeric_limits<float>::infinity();
  for (const CpuOps* ops : all_cpu_ops()) {
    const Floats c = run(*ops, problem, matrix, false);
    for (int m = 0; m < 6; ++m)
      for (int n = 0; n < 40; ++n) {
        const auto i = static_cast<std::size_t>(m * problem.ldc + n);
        if (m == 2) CHECK(std::isnan(c[i]));
        if (m == 4) CHECK(std::isinf(c[i]));
        if (m != 2 && m != 4) CHECK(test::same_bits(c[i], clean[i]));
      }
  }
}

}  // namespace

TEST_MAIN
