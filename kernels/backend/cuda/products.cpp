// Products of rows and weights, in bf16 or e4m3, and the MLPs made of them.
#include "backend/cuda/cuda_backend.h"

#include <cmath>
#include <utility>

#include "backend/cuda/fp8_weights.h"
#include "cuda/fp8_scale.h"
#include "ops/quantize/quantize_cuda.h"
#include "ops/silu_mul/silu_mul_cuda.h"

namespace pelagic::cuda {

void CudaBackend::linear(int rows, View x, const Matrix& w, View y) {
  const auto& matrix = static_cast<const CudaMatrix&>(w);
  const bool beside = beside_compression(rows, x, y, matrix);
  const std::optional<PendingStore> store = beside ? std::exchange(pending_store_, std::nullopt) : std::nullopt;
  if (matrix.fp8()) {
    const Fp8RowsView in = fp8_of(rows, x, matrix.k);
    fp8_gemm(rows, matrix.n, matrix.k, in, matrix.memory.get(), matrix.scales.get<float>(), written(y), y.stride,
             beside);
  } else {
    run_gemm({matrix.n, matrix.k, 1, type_of(y)}, {.rows = rows,
                                                   .x = address(x),
                                                   .ldx = x.stride,
                                                   .w = matrix.memory.get(),
                                                   .y = written(y),
                                                   .ldy = y.stride,
                                                   .beside = beside});
  }
  if (beside) pending_store_ = store;
}

void CudaBackend::head_linear(int rows, View x, const HeadMatrices& w, View y) {
  const auto& matrices = static_cast<const CudaHeadMatrices&>(w);
  head_gemm(rows, x, matrices.k, matrices, y, matrices.n);
}

void CudaBackend::mlp(int rows, View x, const Mlp& w, View y) {
  const auto& mlp = static_cast<const CudaMlp&>(w);
  mlp_up(rows, x, mlp);
  mlp_silu_mul(rows, mlp);
  mlp_down(rows, mlp, written(y), y.stride);
}

GemmCuda& CudaBackend::gemm(const GemmCudaShape& shape) {
  const std::tuple key(shape.n, shape.k, shape.batch, shape.out_type);
  const std::lock_guard lock(gemm_mutex_);
  const auto found = gemms_.find(key);
  if (found != gemms_.end()) return found->second;
  return guarded("a dense GEMM", [&]() -> GemmCuda& {
    GemmCuda& made = gemms_.emplace(key, GemmCuda(gemm_library_, shape)).first->second;
    if (is_tuned_) made.tune();
    return made;
  });
}

void CudaBackend::tune_gemms() {
  const std::lock_guard lock(gemm_mutex_);
  is_tuned_ = true;
  guarded("a dense GEMM", [&] {
    for (auto& [key, gemm] : gemms_) gemm.tune();
  });
}

void CudaBackend::run_gemm(const GemmCudaShape& shape, const GemmCudaCall& call) {
  launch_pending_store();
  last_is_gemm_ = !call.beside;
  if (mode_ != Mode::replay) guarded("a dense GEMM", [&] { gemm(shape).launch(call, stream_); });
}

bool CudaBackend::beside_compression(int rows, View x, View y, const CudaMatrix& w) const {
  if (!pending_store_.has_value() || !pending_store_->follows_gemm) return false;
  if (x.memory == pending_store_->from || y.memory == pending_store_->from) return false;
  return !w.fp8() || fp8_form_ == Fp8Form{x.memory, x.offset, x.stride, rows, w.k};
}

void CudaBackend::head_gemm(int rows, View x, int x_head, const CudaHeadMatrices& w, View y, int y_head) {
  run_gemm({w.n, w.k, w.heads, type_of(y)}, {.rows = rows,
                                             .x = address(x),
                                             .ldx = x.stride,
                                             .x_batch = x_head,
                                             .w = w.memory.get(),
                                             .y = written(y),
                                             .ldy = y.stride,
                                             .y_batch = y_head});
}

void CudaBackend::hold_fp8(int rows, View x, int width) {
  reserve(fp8_rows_, elements(rows, width));
  reserve(fp8_row_scales_, elements(rows, fp8_blocks(width)) * sizeof(float));
  fp8_form_ = {x.memory, x.offset, x.stride, rows, width};
}

Fp8RowsView CudaBackend::fp8_of(int rows, View x, int width) {
  if (fp8_form_ != Fp8Form{x.memory, x.offset, x.stride, rows, width}) {
    hold_fp8(rows, x, width);
    launch("the quantisation of rows", [&] {
      return quantize_rows_cuda({.rows = rows,
                                 .width = width,
                                 .x = address(x),
                                 .ldx = x.stride,
                                 .out = fp8_rows_.get<std::uint8_t>(),
                                 .scales = fp8_row_scales_.get<float>(),
                                 .ld_scales = rows},
                                stream_);
    });
  }
  return {fp8_rows_.get(), fp8_row_scales_.get<float>(), rows};
}

void CudaBackend::silu_mul(int width, int rows, const std::int32_t* count, const DeviceMemory& gate_up,
                           const DeviceMemory& activated, float* scales) {
  launch("silu_mul", [&] {
    return silu_mul_cuda({.width = width,
                          .groups = 1,
                          .rows = rows,
                          .counts = count,
                          .gate_up = gate_up.get(),
                          .out = scales == nullptr ? activated.get() : nullptr,
                          .out_fp8 = scales == nullptr ? nullptr : activated.get<std::uint8_t>(),
                          .out_scales = scales,
                          .ld_out_scales = rows},
                         stream_);
  });
}

void CudaBackend::mlp_up(int rows, View x, const CudaMlp& w) {
  reserve(mlp_gate_up_, elements(rows, 2 * w.width) * 2);
  reserve(mlp_activated_, elements(rows, w.width) * (w.fp8() ? 1 : 2));
  if (w.fp8()) {
    reserve(mlp_scales_, elements(rows, fp8_blocks(w.width)) * sizeof(float));
    fp8_gemm(rows, 2 * w.width, w.hidden, fp8_of(rows, x, w.hidden), w.gate_up, w.gate_up_scales, mlp_gate_up_.get(),
             2 * w.width);
    return;
  }
  run_gemm(
      {2 * w.width, w.hidden, 1, RowType::bfloat16},
      {.rows = rows, .x = address(x), .ldx = x.stride, .w = w.gate_up, .y = mlp_gate_up_.get(), .ldy = 2 * w.width});
}

void CudaBackend::mlp_silu_mul(int rows, const CudaMlp& w) {
  silu_mul(w.width, rows, nullptr, mlp_gate_up_, mlp_activated_, w.fp8() ? mlp_scales_.get<float>() : nullptr);
}

void CudaBackend::mlp_down(int rows, const CudaMlp& w, void* y, std::int64_t ldy) {
  if (w.fp8())
    return fp8_gemm(rows, w.hidden, w.width, {mlp_activated_.get(), mlp_scales_.get<float>(), rows}, w.down,
                    w.down_scales, y, ldy);
  run_gemm({w.hidden, w.width, 1, RowType::bfloat16},
           {.rows = rows, .x = mlp_activated_.get(), .ldx = w.width, .w = w.down, .y = y, .ldy = ldy});
}

void CudaBackend::fp8_gemm(int rows, int n, int k, Fp8RowsView x, const void* weights, const float* weight_scales,
                           void* y, std::int64_t ldy, bool beside) {
  if (ldy != n) throw Error(ErrorCode::internal, "an FP8 GEMM writes rows without gaps");
  if (rows == 0) return;
  run_grouped_gemm({.type = GroupedGemmType::fp8_block_scaled,
                    .layout = GroupedGemmLayout::contiguous,
                    .tile = dense_gemm_tile_for(rows, n),
                    .experts = 1,
                    .n = n,
                    .k = k,
                    .row_capacity = rows,
                    .rows = nullptr,
                    .x = x.data,
                    .x_scales = x.scales,
                    .ld_x_scales = x.ld_scales,
                    .weights = weights,
                    .weight_scales = weight_scales,
                    .out = y,
                    .beside = beside});
}

void CudaBackend::grouped_gemm(int rows, int top_k, int slots, int n, int k, const std::int32_t* offsets, Fp8RowsView x,
                               const void* weights, const float* weight_scales, void* out) {
  // Rows of most experts, were they routed at random. Speed only.
  const double mean = static_cast<double>(rows) * top_k / slots;
  const int typical = static_cast<int>(std::ceil(mean + 2 * std::sqrt(mean)));
  run_grouped_gemm({.type = weight_scales == nullptr ? GroupedGemmType::bf16 : GroupedGemmType::fp8_block_scaled,
                    .layout = GroupedGemmLayout::contiguous,
                    .tile = grouped_gemm_tile_for(typical),
                    .experts = slots,
                    .n = n,
                    .k = k,
                    .row_capacity = rows * top_k,
                    .rows = offsets,
                    .x = x.data,
                    .x_scales = x.scales,
                    .ld_x_scales = x.ld_scales,
                    .weights = weights,
                    .weight_scales = weight_scales,
                    .out = out});
}

void CudaBackend::run_grouped_gemm(const GroupedGemmProblem& problem) {
  launch("the grouped GEMM", [&] {
    return launch_grouped_gemm(guarded("the grouped GEMM", [&] { return make_grouped_gemm_plan(problem); }), stream_);
  });
  last_is_gemm_ = !problem.beside;
}

}  // namespace pelagic::cuda
