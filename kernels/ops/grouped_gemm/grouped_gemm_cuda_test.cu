// Against float64, and the row rule: a row's bits are the same in every tile, layout, position and company.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string_view>
#include <utility>
#include <vector>

#include "cuda/random_fill.cuh"
#include "cuda/test.h"
#include "ops/grouped_gemm/grouped_gemm_reference.cuh"

namespace pelagic::grouped_gemm {
namespace {

constexpr int kExperts = 6;
constexpr int kPool = 301;  // different rows that an expert can be given
constexpr int kN = 392;     // no multiple of a tile, nor of 128
constexpr int kK = 1168;    // no multiple of 128
constexpr int kKBlocks = (kK + 127) / 128;
constexpr int kNBlocks = (kN + 127) / 128;
constexpr std::uint16_t kPoison = 0xFFFF;

constexpr GroupedGemmTile kTiles[] = {
    GroupedGemmTile::w64_t8,    GroupedGemmTile::w64_t16,       GroupedGemmTile::w64_t32,  GroupedGemmTile::w64_t64,
    GroupedGemmTile::w128_t8,   GroupedGemmTile::w128_t16,      GroupedGemmTile::w128_t32, GroupedGemmTile::w128_t64,
    GroupedGemmTile::w256_t128, GroupedGemmTile::w256_t128_pair};

// Which pool rows each expert gets, in order. One expert alone: without offsets.
struct Arrangement {
  const char* name;
  GroupedGemmLayout layout;
  int capacity;  // row_capacity
  std::vector<std::vector<int>> rows;
};

std::vector<int> range(int begin, int end) {
  std::vector<int> rows;
  for (int i = begin; i != end; i += begin < end ? 1 : -1) rows.push_back(i);
  return rows;
}

std::vector<Arrangement> arrangements() {
  using enum GroupedGemmLayout;
  return {
      {"long", contiguous, 509, {range(0, 301), {}, {0}, range(0, 7), range(0, 130), range(0, 64)}},
      {"reversed", contiguous, 309, {range(300, 297), {5, 9}, range(8, -1), range(40, 0), range(253, 0), {33}}},
      {"one row each", contiguous, 8, {{3}, {2}, {1}, {0}, {12}, {63}}},
      {"no rows", contiguous, 5, {{}, {}, {}, {}, {}, {}}},
      {"dense", contiguous, 150, {range(40, 190)}},
      {"masked", masked, 136, {range(100, 236), {}, {0}, range(0, 33), range(120, 128), range(2, 137)}},
  };
}

template <typename T>
struct Pool {
  std::vector<T> x;           // [experts, pool, k]
  std::vector<float> scales;  // [experts, pool, k blocks]
  DeviceBuffer<T> weights{static_cast<std::size_t>(kExperts) * kN * kK};
  DeviceBuffer<float> weight_scales{static_cast<std::size_t>(kExperts) * kNBlocks * kKBlocks};

  Pool()
      : x(static_cast<std::size_t>(kExperts) * kPool * kK),
        scales(static_cast<std::size_t>(kExperts) * kPool * kKBlocks) {
    for (std::size_t i = 0; i < x.size(); ++i) random_value(21, i, x[i]);
    for (std::size_t i = 0; i < scales.size(); ++i) scales[i] = 0.01f * (0.5f + random_uniform(22, i));
    fill_random(weights.get(), weights.size(), 23, nullptr);
    fill_random(weight_scales.get(), weight_scales.size(), 24, nullptr);
  }
};

using RowBits = std::map<std::pair<int, int>, std::vector<std::uint16_t>>;  // (expert, pool row) -> its output

template <typename T>
void run(GroupedGemmType type, const Pool<T>& pool, const Arrangement& arrangement, GroupedGemmTile tile,
         RowBits& known) {
  const bool is_masked = arrangement.layout == GroupedGemmLayout::masked;
  const int experts = static_cast<int>(arrangement.rows.size());
  const int rows = arrangement.capacity * (is_masked ? experts : 1);
  const std::int64_t ld = rows + 3;
  // Rows that nobody has are NaN: they must reach no result.
  T nan_element;
  const std::uint16_t nan_bits = 0x7FFF;
  std::memcpy(&nan_element, &nan_bits, sizeof nan_element);
  std::vector<T> x(static_cast<std::size_t>(rows) * kK, nan_element);
  std::vector<float> scales(static_cast<std::size_t>(kKBlocks) * ld, std::nanf(""));
  std::vector<std::int32_t> row_list;
  std::vector<Sample> samples;
  std::vector<int> pool_rows;
  int next = 0;
  if (!is_masked) row_list.push_back(0);
  for (int e = 0; e < experts; ++e) {
    if (is_masked) next = e * arrangement.capacity;
    for (const int from : arrangement.rows[e]) {
      const std::size_t source = static_cast<std::size_t>(e) * kPool + from;
      std::copy_n(pool.x.begin() + source * kK, kK, x.begin() + static_cast<std::size_t>(next) * kK);
      for (int block = 0; block < kKBlocks; ++block) scales[block * ld + next] = pool.scales[source * kKBlocks + block];
      samples.push_back({e, next});
      pool_rows.push_back(from);
      ++next;
    }
    row_list.push_back(is_masked ? static_cast<int>(arrangement.rows[e].size()) : next);
  }

  const DeviceBuffer<T> device_x(x);
  const DeviceBuffer<float> device_scales(scales);
  const DeviceBuffer<std::int32_t> device_rows(row_list);
  DeviceBuffer<std::uint16_t> out(static_cast<std::size_t>(rows) * kN);
  out.fill_bytes(0xFF);
  GroupedGemmProblem problem = {};
  problem.type = type;
  problem.layout = arrangement.layout;
  problem.tile = tile;
  problem.experts = experts;
  problem.n = kN;
  problem.k = kK;
  problem.row_capacity = arrangement.capacity;
  problem.rows = experts == 1 ? nullptr : device_rows.get();
  problem.x = device_x.get();
  problem.x_scales = device_scales.get();
  problem.ld_x_scales = ld;
  problem.weights = pool.weights.get();
  problem.weight_scales = pool.weight_scales.get();
  problem.out = out.get();
  const GroupedGemmPlan plan = make_grouped_gemm_plan(problem);
  test::run_from_graph([&](cudaStream_t stream) { PELAGIC_CUDA(launch_grouped_gemm(plan, stream)); });

  const int t = static_cast<int>(tile);
  if (!samples.empty()) {
    const double error = largest_error(problem, samples);
    PELAGIC_EXPECT(error <= kTolerance, "%s, tile %d: error %.3e against float64", arrangement.name, t, error);
  }
  const std::vector<std::uint16_t> bits = out.download();
  std::vector<bool> owned(static_cast<std::size_t>(rows), false);
  int differing = 0;
  for (std::size_t i = 0; i < samples.size(); ++i) {
    const auto begin = bits.begin() + static_cast<std::ptrdiff_t>(samples[i].row) * kN;
    std::vector<std::uint16_t> row(begin, begin + kN);
    owned[static_cast<std::size_t>(samples[i].row)] = true;
    const auto [entry, first] = known.try_emplace({samples[i].expert, pool_rows[i]}, row);
    if (!first && entry->second != row) ++differing;
  }
  PELAGIC_EXPECT(differing == 0, "%s, tile %d: %d of %zu rows have other bits than elsewhere", arrangement.name, t,
                 differing, samples.size());
  int touched = 0;
  for (int row = 0; row < rows; ++row)
    for (int n = 0; n < kN; ++n)
      if (!owned[static_cast<std::size_t>(row)] && bits[static_cast<std::size_t>(row) * kN + n] != kPoison) ++touched;
  PELAGIC_EXPECT(touched == 0, "%s, tile %d: %d elements of rows that no expert has were written", arrangement.name, t,
                 touched);
}

template <typename T>
void all_tiles_and_arrangements(GroupedGemmType type, bool quick) {
  const Pool<T> pool;
  RowBits known;
  for (const Arrangement& arrangement : arrangements())
    if (!quick || arrangement.name == std::string_view("reversed") || arrangement.rows.size() == 1)
      for (const GroupedGemmTile tile : kTiles) run(type, pool, arrangement, tile, known);
}

void bad_problems_are_refused() {
  GroupedGemmProblem problem = {};
  problem.experts = 1;
  problem.n = 12;
  problem.k = 128;
  problem.row_capacity = 1;
  PELAGIC_EXPECT(test::refuses([&] { make_grouped_gemm_plan(problem); }), "n = 12 was taken");
  problem.n = 16;
  problem.experts = 2;
  PELAGIC_EXPECT(test::refuses([&] { make_grouped_gemm_plan(problem); }), "two experts without rows were taken");
}

}  // namespace
}  // namespace pelagic::grouped_gemm

// `grouped_gemm_cuda_test quick`: one arrangement, for compute-sanitizer.
int main(int argc, char** argv) {
  using namespace pelagic;
  const bool quick = test::asked_quick(argc, argv);
  return test::run("grouped_gemm_cuda", [quick] {
    grouped_gemm::all_tiles_and_arrangements<__nv_fp8_e4m3>(GroupedGemmType::fp8_block_scaled, quick);
    grouped_gemm::all_tiles_and_arrangements<__nv_bfloat16>(GroupedGemmType::bf16, quick);
    grouped_gemm::bad_problems_are_refused();
  });
}
