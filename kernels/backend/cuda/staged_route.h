// Rows through pinned host memory and the ranks' messages: for ranks on one card, on cards without NCCL, and alone.
#pragma once

#include "backend/cuda/row_route.h"

namespace pelagic::cuda {

class StagedRoute final : public RowRoute {
 public:
  using RowRoute::RowRoute;
  void dispatch(RankGroup& group, RankGroup::Layer layer, const MoeBatch& batch, const std::byte* rows, int count,
                int row_bytes) override;
  CardRows inputs(RankGroup& group, const RankGroup::Inputs& inputs) override;
  const std::byte* outputs(RankGroup& group, const RankGroup::Inputs& inputs, const std::byte* outputs) override;

 private:
  std::size_t row_bytes_ = 0, output_bytes_ = 0, entries_ = 0;  // of the layer that runs
  PinnedMemory host_rows_, host_inputs_, host_outputs_, host_returned_;
  DeviceMemory inputs_, returned_;
};

}  // namespace pelagic::cuda
