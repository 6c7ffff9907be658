// MoE layers whose experts are spread over ranks: rows go out by a RowRoute and come back as outputs.
#include "backend/cuda/cuda_backend.h"

#include <algorithm>

#include "backend/cuda/fp8_weights.h"
#include "backend/cuda/open_route.h"
#include "backend/cuda/rank_row_kernels.h"

namespace pelagic::cuda {

void CudaBackend::meet(RankGroup& group) {
  drop_graphs();
  route_ = open_route(group, stream_, [this](std::span<const std::uint32_t> values) { return send(values); });
}

void CudaBackend::moe_on_ranks(int rows, View x, const MoeLayer& layer, View y, std::span<std::uint32_t> counts) {
  Choices choices = {};
  if (rows > 0) {
    gate_logits(rows, x, layer, false);
    choices = choose_experts(rows, layer, counts, false);
  }
  RankGroup& group = *layer.ranks.group;
  const auto& bank = static_cast<const CudaMlpBank&>(*layer.bank);
  const bool fp8 = bank.fp8();
  const int scale_blocks = fp8 ? fp8_blocks(bank.hidden) : 0;
  RankRowsCudaCall packed = {.rows = rows,
                             .row_bytes = row_bytes_of(bank),
                             .scale_blocks = scale_blocks,
                             .packed_bytes = row_bytes_of(bank) + (4 * scale_blocks + 15) / 16 * 16};
  if (rows > 0) {
    const Fp8RowsView in = fp8 ? fp8_of(rows, x, bank.hidden) : Fp8RowsView{};
    reserve(packed_rows_, elements(rows, packed.packed_bytes));
    launch("the packing of rows", [&] {
      return pack_rank_rows_cuda(packed, fp8 ? in.data : address(x), fp8 ? bank.hidden : x.stride * 2, in.scales,
                                 in.ld_scales, packed_rows_.get(), stream_);
    });
  }
  plan_batch(rows, layer, choices);
  route_->dispatch(group,
                   {.index = layer.ranks.layer,
                    .last = layer.ranks.last,
                    .slots_per_rank = bank.slots,
                    .output_bytes = bank.hidden * 2},
                   moe_batch_, packed_rows_.get<std::byte>(), rows, packed.packed_bytes);
  const void* shared = rows > 0 ? run_shared_experts(rows, x, layer, bank.hidden) : nullptr;

  const RankGroup::Inputs& inputs = group.receive_rows(layer.ranks.logical_of_own_slots);
  const CardRows in = route_->inputs(group, inputs);
  packed.rows = inputs.rows();
  if (packed.rows > 0) {
    reserve_experts(bank, packed.rows);
    launch("the unpacking of rows", [&] {
      return unpack_rank_rows_cuda(packed, in.data, in.index, expert_in_.get(), expert_scales_.get<float>(),
                                   packed.rows, stream_);
    });
    run_experts(bank, packed.rows, send(std::span<const std::int32_t>(inputs.slot_offsets)), nullptr);
  }
  const std::byte* returned = route_->outputs(group, inputs, expert_out_.get<std::byte>());
  if (rows == 0) return;
  const std::int32_t* positions = send(std::span<const std::int32_t>(moe_batch_.position));
  combine(rows, layer, choices, positions, returned, shared, y);
}

void CudaBackend::plan_batch(int rows, const MoeLayer& layer, const Choices& choices) {
  const std::size_t count = elements(rows, layer.gate.top_k);
  if (rows > 0) {
    if (host_ids_.bytes() < count * sizeof(std::int32_t)) host_ids_.grow(2 * count * sizeof(std::int32_t));
    check(cudaMemcpyAsync(host_ids_.get(), choices.ids, count * sizeof(std::int32_t), cudaMemcpyDeviceToHost, stream_),
          "a copy of choices");
    route_->wait("a copy of choices");
  }
  const std::int32_t* ids = host_ids_.get<std::int32_t>();
  if (std::any_of(ids, ids + count, [&](std::int32_t id) { return id < 0 || id >= layer.gate.experts; }))
    throw Error(ErrorCode::device, "the GPU chose an expert that is not there; the process must be restarted");
  // As on the CPU: ranks with few rows each would otherwise all take the same copies.
  build_moe_batch(*layer.placement, ids, rows, layer.gate.top_k, moe_batch_,
                  layer.ranks.group->rank() + layer.ranks.layer);
}

const void* CudaBackend::run_shared_experts(int rows, View x, const MoeLayer& layer, int hidden) {
  if (layer.shared == nullptr) return nullptr;
  reserve(shared_out_, elements(rows, hidden) * 2);
  const auto& shared = static_cast<const CudaMlp&>(*layer.shared);
  mlp_up(rows, x, shared);
  mlp_silu_mul(rows, shared);
  mlp_down(rows, shared, shared_out_.get(), hidden);
  return shared_out_.get();
}

}  // namespace pelagic::cuda
