#include <algorithm>
#include <stdexcept>

#include "cuda/tensor_map.h"
#include "ops/grouped_gemm/grouped_gemm_kernel.cuh"

namespace pelagic {
namespace {

using grouped_gemm::Entry;

const Entry& entry_for(const GroupedGemmProblem& problem) {
  return problem.type == GroupedGemmType::bf16 ? grouped_gemm::bf16_entry(problem.tile)
                                               : grouped_gemm::fp8_entry(problem.tile);
}

int blocks_of(int value, int block) { return (value + block - 1) / block; }

}  // namespace

GroupedGemmTile grouped_gemm_tile_for(int rows_of_most_experts) {
  if (rows_of_most_experts <= 8) return GroupedGemmTile::w128_t8;
  if (rows_of_most_experts <= 16) return GroupedGemmTile::w128_t16;
  if (rows_of_most_experts <= 32) return GroupedGemmTile::w128_t32;
  if (rows_of_most_experts <= 64) return GroupedGemmTile::w128_t64;
  // A pair spends 256 rows on an expert that has 129: sharing the weights is still worth more.
  return rows_of_most_experts <= 128 ? GroupedGemmTile::w256_t128 : GroupedGemmTile::w256_t128_pair;
}

GroupedGemmTile dense_gemm_tile_for(int rows, int n) {
  // Of an H100 or H200: bytes that come to a processor, and FLOPs that it does, in a nanosecond.
  constexpr int kProcessors = 132;
  constexpr double kBytesPerNs = 45, kFlopsPerNs = 10600;
  constexpr int kStep = 128;  // of K
  struct Choice {
    GroupedGemmTile tile;
    int weight_rows, token_rows, blocks;
  };
  constexpr Choice kChoices[] = {
      {GroupedGemmTile::w64_t8, 64, 8, 1},
      {GroupedGemmTile::w64_t16, 64, 16, 1},
      {GroupedGemmTile::w64_t32, 64, 32, 1},
      {GroupedGemmTile::w64_t64, 64, 64, 1},
      {GroupedGemmTile::w128_t8, 128, 8, 1},
      {GroupedGemmTile::w128_t16, 128, 16, 1},
      {GroupedGemmTile::w128_t32, 128, 32, 1},
      {GroupedGemmTile::w128_t64, 128, 64, 1},
      {GroupedGemmTile::w256_t128_pair, 256, 256, 2},
      {GroupedGemmTile::w256_t128, 256, 128, 1},
  };
  GroupedGemmTile best = GroupedGemmTile::w128_t8;
  double least = 0;
  for (const Choice& c : kChoices) {
    const std::int64_t tiles = std::int64_t{blocks_of(n, c.weight_rows)} * blocks_of(rows, c.token_rows);
    const std::int64_t at_once = kProcessors / c.blocks;
    const double waves = static_cast<double>((tiles + at_once - 1) / at_once);
    const double bytes = static_cast<double>(c.weight_rows + c.token_rows) * kStep / c.blocks;
    const double flops = 2.0 * c.weight_rows * c.token_rows * kStep / c.blocks;
    const double cost = waves * std::max(bytes / kBytesPerNs, flops / kFlopsPerNs);
    if (least == 0 || cost < least) {
      least = cost;
      best = c.tile;
    }
  }
  return best;
}

GroupedGemmPlan make_grouped_gemm_plan(const GroupedGemmProblem& problem) {
  const auto require = [](bool ok, const char* what) {
    if (!ok) throw std::invalid_argument(what);
  };
  const bool fp8 = problem.type == GroupedGemmType::fp8_block_scaled;
  const int element_bytes = fp8 ? 1 : 2;
  const std::int64_t rows =
      std::int64_t{problem.row_capacity} * (problem.layout == GroupedGemmLayout::masked ? problem.experts : 1);
  require(problem.experts >= 1 && problem.experts <= grouped_gemm::kMaxExperts, "experts must be 1 to 1,024");
  const bool side_by_side = problem.layout == GroupedGemmLayout::side_by_side;
  require(problem.rows != nullptr || problem.experts == 1 || side_by_side,
          "rows is missing: only one expert can do without");
  require(problem.n >= 8 && problem.n % 8 == 0, "n must be a multiple of 8");
  require(problem.k >= 16 && problem.k * element_bytes % 16 == 0, "a row of k must be a multiple of 16 bytes");
  require(problem.row_capacity >= 1, "row_capacity must be at least 1");
  require(rows <= INT32_MAX && std::int64_t{problem.experts} * problem.n <= INT32_MAX,
          "rows or experts * n exceed 2^31 - 1");
  require(!fp8 || problem.ld_x_scales >= rows, "ld_x_scales must be at least the rows");
  if (side_by_side) {
    require(!fp8 && problem.rows == nullptr, "experts side by side are bf16 and have all rows");
    require(problem.ldx % 8 == 0 && problem.ldx >= problem.k && problem.ldx <= INT32_MAX && problem.ld_out % 8 == 0 &&
                problem.ld_out >= problem.n,
            "ldx and ld_out must be multiples of 8 and hold a row");
    require(problem.experts == 1 ||
                (problem.k % 64 == 0 && problem.x_step % 8 == 0 && problem.x_step >= problem.k &&
                 problem.x_step * (problem.experts - 1) + problem.k <= problem.ldx && problem.out_step % 8 == 0),
            "experts side by side need a k that is a multiple of 64 and steps that are multiples of 8 and fit a row");
  }

  const Entry& entry = entry_for(problem);
  const CUtensorMapDataType type = fp8 ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  MapShape shape = {};
  shape.type = type;
  shape.columns = static_cast<std::uint64_t>(problem.k);
  shape.rows = static_cast<std::uint64_t>(problem.experts) * problem.n;
  shape.row_bytes = static_cast<std::uint64_t>(problem.k) * element_bytes;
  shape.box_columns = grouped_gemm::kRowBytes / element_bytes;
  shape.box_rows = static_cast<std::uint32_t>(entry.box_rows);
  shape.swizzle = MapSwizzle::bytes_128;
  GroupedGemmPlan plan = {};
  plan.problem = problem;
  plan.weight_map = make_tensor_map(problem.weights, shape);
  if (side_by_side) {
    shape.columns = static_cast<std::uint64_t>(problem.x_step * (problem.experts - 1) + problem.k);
    shape.row_bytes = static_cast<std::uint64_t>(problem.ldx) * element_bytes;
  }
  shape.rows = static_cast<std::uint64_t>(rows);
  shape.box_rows = static_cast<std::uint32_t>(entry.token_rows);
  plan.token_map = make_tensor_map(problem.x, shape);
  plan.grid = entry.grid();
  if (plan.grid == 0) throw std::runtime_error("the device cannot run this grouped GEMM");
  return plan;
}

cudaError_t launch_grouped_gemm(const GroupedGemmPlan& plan, cudaStream_t stream) {
  const GroupedGemmProblem& problem = plan.problem;
  grouped_gemm::KernelArguments arguments = {};
  arguments.rows = problem.rows;
  arguments.x_scales = problem.x_scales;
  arguments.ld_x_scales = problem.ld_x_scales;
  arguments.weight_scales = problem.weight_scales;
  arguments.out = static_cast<__nv_bfloat16*>(problem.out);
  const bool side_by_side = problem.layout == GroupedGemmLayout::side_by_side;
  arguments.ld_out = side_by_side ? problem.ld_out : problem.n;
  arguments.out_step = side_by_side && problem.experts > 1 ? problem.out_step : 0;
  arguments.x_step = side_by_side && problem.experts > 1 ? static_cast<int>(problem.x_step) : 0;
  arguments.beside = problem.beside && problem.rows == nullptr;
  arguments.experts = problem.experts;
  arguments.n = problem.n;
  arguments.k_steps = blocks_of(problem.k, problem.type == GroupedGemmType::bf16 ? 64 : 128);
  arguments.n_blocks = blocks_of(problem.n, 128);
  arguments.row_capacity = problem.row_capacity;
  arguments.masked = problem.layout == GroupedGemmLayout::masked;
  return entry_for(problem).launch(plan, arguments, stream);
}

}  // namespace pelagic
