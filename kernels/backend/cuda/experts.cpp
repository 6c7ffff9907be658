// MoE layers: gate, sort by slot, the slots' experts, and their sum. With other ranks: rank_experts.cpp.
#include "backend/cuda/cuda_backend.h"

#include <algorithm>

#include "backend/cuda/fp8_weights.h"
#include "ops/gate/gate_cuda.h"

namespace pelagic::cuda {

void CudaBackend::moe(int rows, View x, const MoeLayer& layer, View y, std::span<std::uint32_t> counts) {
  if (layer.ranks.group != nullptr) return moe_on_ranks(rows, x, layer, y, counts);
  if (rows == 0) return;
  const auto& bank = static_cast<const CudaMlpBank&>(*layer.bank);
  const int top_k = layer.gate.top_k;
  const int entries = rows * top_k;
  // The shared experts beside the choice of the others, step by step: each waits for all before but its neighbour.
  const auto* shared = static_cast<const CudaMlp*>(layer.shared);
  const bool beside = shared != nullptr;
  const bool fp8 = bank.fp8();
  const Fp8RowsView in = fp8 ? fp8_of(rows, x, bank.hidden) : Fp8RowsView{};
  if (beside) {
    reserve(shared_out_, elements(rows, bank.hidden) * 2);
    mlp_up(rows, x, *shared);
  }
  gate_logits(rows, x, layer, beside);
  if (beside) mlp_silu_mul(rows, *shared);
  const Choices choices = choose_experts(rows, layer, counts, beside);
  MoeSortCudaCall sort = {.rows = rows,
                          .top_k = top_k,
                          .experts = layer.gate.experts,
                          .slots = bank.slots,
                          .row_capacity = 0,
                          .ids = choices.ids,
                          .slot_begin = nullptr,
                          .slots_by_expert = nullptr,
                          .positions = choices.positions,
                          .slot_counts = choices.slot_counts,
                          .slot_offsets = choices.slot_offsets,
                          .errors = errors(kMoeErrorsAt),
                          .beside = beside};
  send_placement(*layer.placement, sort);
  if (beside) mlp_down(rows, *shared, shared_out_.get(), bank.hidden);
  launch("the sort by expert", [&] { return moe_sort_cuda(sort, stream_); });

  reserve_experts(bank, entries);
  launch("dispatch", [&] {
    return moe_dispatch_cuda({.rows = rows,
                              .top_k = top_k,
                              .row_bytes = row_bytes_of(bank),
                              .positions = choices.positions,
                              .x = fp8 ? in.data : address(x),
                              .ldx_bytes = fp8 ? bank.hidden : x.stride * 2,
                              .out = expert_in_.get(),
                              .scale_blocks = fp8 ? fp8_blocks(bank.hidden) : 0,
                              .x_scales = in.scales,
                              .ld_x_scales = in.ld_scales,
                              .out_scales = expert_scales_.get<float>(),
                              .ld_out_scales = entries},
                             stream_);
  });
  run_experts(bank, entries, choices.slot_offsets, choices.slot_offsets + bank.slots);
  combine(rows, layer, choices, choices.positions, expert_out_.get(), beside ? shared_out_.get() : nullptr, y);
}

void CudaBackend::gate_logits(int rows, View x, const MoeLayer& layer, bool beside) {
  const auto& gate = static_cast<const CudaMatrix&>(*layer.gate_weights);
  const int experts = layer.gate.experts;
  if (moe_calls_ >= kMostMoeCalls)
    throw Error(ErrorCode::argument,
                "the CUDA backend takes at most " + std::to_string(kMostMoeCalls) + " layers with experts");
  reserve(gate_logits_, elements(rows, experts) * sizeof(float));
  launch("the gate's logits", [&] {
    return gemm_f32_cuda({.rows = rows,
                          .n = experts,
                          .k = gate.k,
                          .x = address(x),
                          .ldx = x.stride,
                          .w = gate.memory.get<float>(),
                          .y = gate_logits_.get<float>(),
                          .ldy = experts,
                          .beside = beside},
                         stream_);
  });
}

CudaBackend::Choices CudaBackend::choose_experts(int rows, const MoeLayer& layer, std::span<std::uint32_t> counts,
                                                 bool beside) {
  const int experts = layer.gate.experts;
  const int slots = static_cast<const CudaMlpBank&>(*layer.bank).slots;
  const std::int64_t entries = static_cast<std::int64_t>(rows) * layer.gate.top_k;
  reserve(choices_, (elements(rows, layer.gate.top_k, 3) + elements(experts, 1) + 2 * elements(slots, 1) + 2) * 4);
  std::int32_t* const words = choices_.get<std::int32_t>();
  Choices out = {};
  out.ids = words;
  out.weights = reinterpret_cast<float*>(words + entries);
  out.positions = words + 2 * entries;
  out.expert_offsets = out.positions + entries;
  out.slot_counts = out.expert_offsets + experts + 1;
  out.slot_offsets = out.slot_counts + slots;
  const std::size_t counts_at = elements(moe_calls_++, kMostExperts);
  GateConfig config = layer.gate;
  config.bias = layer.gate_bias != nullptr ? values(*layer.gate_bias) : nullptr;
  launch("the gate", [&] {
    return gate_cuda({.config = config,
                      .logits = gate_logits_.get<float>(),
                      .ld_logits = experts,
                      .rows = rows,
                      .ids = out.ids,
                      .weights = out.weights,
                      .counts = device_counts_.get<std::int32_t>() + counts_at,
                      .offsets = out.expert_offsets,
                      .workspace = gate_workspace_.get<std::uint32_t>(),
                      .beside = beside},
                     gate_cuda_path_for(rows), stream_);
  });
  after_.push_back([this, counts, counts_at] {
    const std::int32_t* from = host_counts_.get<std::int32_t>() + counts_at;
    for (std::size_t e = 0; e < counts.size(); ++e) counts[e] += static_cast<std::uint32_t>(from[e]);
  });
  return out;
}

void CudaBackend::send_placement(const SlotTable& table, MoeSortCudaCall& sort) {
  bool identity = table.slots() == table.logical_experts();
  for (int slot = 0; identity && slot < table.slots(); ++slot) identity = table.logical(slot) == slot;
  if (identity) return;
  placement_.clear();
  placement_.push_back(0);
  for (int expert = 0; expert < table.logical_experts(); ++expert)
    placement_.push_back(placement_.back() + static_cast<std::int32_t>(table.slots_of(expert).size()));
  for (int expert = 0; expert < table.logical_experts(); ++expert) {
    const auto slots = table.slots_of(expert);
    placement_.insert(placement_.end(), slots.begin(), slots.end());
  }
  sort.slot_begin = send(std::span<const std::int32_t>(placement_));
  sort.slots_by_expert = sort.slot_begin + table.logical_experts() + 1;
}

void CudaBackend::reserve_experts(const CudaMlpBank& bank, int rows) {
  const int blocks = bank.fp8() ? std::max(fp8_blocks(bank.hidden), fp8_blocks(bank.width)) : 0;
  reserve(expert_in_, elements(rows, row_bytes_of(bank)));
  reserve(expert_scales_, elements(rows, blocks) * sizeof(float));
  reserve(gate_up_, elements(rows, 2 * bank.width) * 2);
  reserve(activated_, elements(rows, bank.width) * (bank.fp8() ? 1 : 2));
  reserve(expert_out_, elements(rows, bank.hidden) * 2);
}

void CudaBackend::run_experts(const CudaMlpBank& bank, int rows, const std::int32_t* slot_offsets,
                              const std::int32_t* count) {
  float* scales = expert_scales_.get<float>();
  grouped_gemm(rows, 1, bank.slots, 2 * bank.width, bank.hidden, slot_offsets, {expert_in_.get(), scales, rows},
               bank.gate_up.get(), bank.gate_up_scales.get<float>(), gate_up_.get());
  silu_mul(bank.width, rows, count, gate_up_, activated_, bank.fp8() ? scales : nullptr);
  grouped_gemm(rows, 1, bank.slots, bank.hidden, bank.width, slot_offsets, {activated_.get(), scales, rows},
               bank.down.get(), bank.down_scales.get<float>(), expert_out_.get());
}

void CudaBackend::combine(int rows, const MoeLayer& layer, const Choices& choices, const std::int32_t* positions,
                          const void* expert_out, const void* shared, View y) {
  const int hidden = static_cast<const CudaMlpBank&>(*layer.bank).hidden;
  launch("combine", [&] {
    return moe_combine_cuda({.rows = rows,
                             .top_k = layer.gate.top_k,
                             .width = hidden,
                             .positions = positions,
                             .weights = choices.weights,
                             .expert_out = expert_out,
                             .shared = shared,
                             .ld_shared = hidden,
                             .y = written(y),
                             .y_type = type_of(y),
                             .ldy = y.stride},
                            stream_);
  });
}

}  // namespace pelagic::cuda
