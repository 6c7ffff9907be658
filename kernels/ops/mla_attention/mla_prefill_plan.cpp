#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>
#include <stdexcept>

#include "cuda/tensor_map.h"
#include "ops/mla_attention/mla_prefill_kernel.cuh"

namespace pelagic {
namespace {

constexpr std::size_t kKeyBytesAtOnce = std::size_t{16} << 20;  // of keys and values worked on at the same time: in L2
constexpr std::size_t kKeyBytes = (kMlaPrefillNope + kMlaPrefillValue) * 2;  // of a key for one head

}  // namespace

MlaPrefillPlan make_mla_prefill_plan(const MlaPrefillProblem& problem) {
  const auto require = [](bool ok, const char* what) {
    if (!ok) throw std::invalid_argument(what);
  };
  const auto aligned = [](const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0; };
  require(problem.rows >= 1 && problem.rows <= 1 << 24, "rows must be 1 to 2^24");
  require(problem.keys >= 1 && problem.keys <= 1 << 28, "keys must be 1 to 2^28");
  require(problem.heads >= 1 && problem.heads <= 128, "heads must be 1 to 128");
  require(problem.sequences >= 1 && problem.sequences <= 1 << 20, "sequences must be 1 to 2^20");
  require(problem.scale > 0 && std::isfinite(problem.scale), "scale must be above 0");
  require(aligned(problem.q) && aligned(problem.kv) && aligned(problem.k_rope) && aligned(problem.out),
          "q, kv, k_rope and out must begin at a multiple of 16 bytes");

  MlaPrefillPlan plan = {};
  plan.problem = problem;
  MapShape shape = {};
  shape.type = CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  shape.box_columns = 64;
  shape.swizzle = MapSwizzle::bytes_128;
  const auto map = [&](const void* base, int columns, int rows, int box_rows) {
    shape.columns = static_cast<std::uint64_t>(columns);
    shape.rows = static_cast<std::uint64_t>(rows);
    shape.row_bytes = shape.columns * 2;
    shape.box_rows = static_cast<std::uint32_t>(box_rows);
    return make_tensor_map(base, shape);
  };
  plan.query_map = map(problem.q, problem.heads * kMlaPrefillQuery, problem.rows, mla_prefill::kQueries);
  plan.kv_map = map(problem.kv, problem.heads * (kMlaPrefillNope + kMlaPrefillValue), problem.keys, mla_prefill::kKeys);
  plan.rope_map = map(problem.k_rope, kMlaPrefillRope, problem.keys, mla_prefill::kKeys);
  if (!mla_prefill::prepare()) throw std::runtime_error("the device cannot run MLA prefill");
  return plan;
}

cudaError_t launch_mla_prefill(const MlaPrefillPlan& plan, cudaStream_t stream) {
  const MlaPrefillProblem& p = plan.problem;
  mla_prefill::Arguments a = {};
  a.rows = p.rows;
  a.keys = p.keys;
  a.heads = p.heads;
  a.sequences = p.sequences;
  a.slots = mla_prefill::slots_of(p.rows, p.sequences);
  const std::size_t at_once = kKeyBytesAtOnce / (static_cast<std::size_t>(p.keys) * kKeyBytes);
  a.group_heads = static_cast<int>(std::clamp<std::size_t>(at_once, 1, static_cast<std::size_t>(p.heads)));
  a.log2_scale = static_cast<float>(static_cast<double>(p.scale) * std::numbers::log2e);
  a.q = static_cast<const __nv_bfloat16*>(p.q);
  a.kv = static_cast<const __nv_bfloat16*>(p.kv);
  a.k_rope = static_cast<const __nv_bfloat16*>(p.k_rope);
  a.row_offsets = p.row_offsets;
  a.key_offsets = p.key_offsets;
  a.out = static_cast<__nv_bfloat16*>(p.out);
  a.errors = p.errors;
  return mla_prefill::launch(plan, a, stream);
}

}  // namespace pelagic
