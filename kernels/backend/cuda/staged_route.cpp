#include "backend/cuda/staged_route.h"

namespace pelagic::cuda {

void StagedRoute::dispatch(RankGroup& group, RankGroup::Layer layer, const MoeBatch& batch, const std::byte* rows,
                           int count, int row_bytes) {
  row_bytes_ = static_cast<std::size_t>(row_bytes);
  output_bytes_ = static_cast<std::size_t>(layer.output_bytes);
  entries_ = batch.entries.size();
  const std::size_t bytes = static_cast<std::size_t>(count) * row_bytes_;
  if (count > 0) {
    reserve(host_rows_, bytes);
    check(cudaMemcpyAsync(host_rows_.get(), rows, bytes, cudaMemcpyDeviceToHost, stream_), "a copy of rows");
    wait("a copy of rows");
  }
  group.dispatch(layer, batch, {host_rows_.get<std::byte>(), row_bytes, count, row_bytes});
}

CardRows StagedRoute::inputs(RankGroup& group, const RankGroup::Inputs& inputs) {
  const std::size_t bytes = static_cast<std::size_t>(inputs.rows()) * row_bytes_;
  if (bytes == 0) return {};
  // Nothing of the layer before uses them: its outputs were waited for.
  reserve(host_inputs_, bytes);
  reserve(inputs_, bytes);
  group.gather(0, inputs.rows(), host_inputs_.get<std::byte>());
  check(cudaMemcpyAsync(inputs_.get(), host_inputs_.get(), bytes, cudaMemcpyHostToDevice, stream_), "a copy of rows");
  return {inputs_.get<std::byte>(), nullptr};
}

const std::byte* StagedRoute::outputs(RankGroup& group, const RankGroup::Inputs& inputs, const std::byte* outputs) {
  const std::size_t bytes = static_cast<std::size_t>(inputs.rows()) * output_bytes_;
  if (bytes > 0) {
    reserve(host_outputs_, bytes);
    check(cudaMemcpyAsync(host_outputs_.get(), outputs, bytes, cudaMemcpyDeviceToHost, stream_), "a copy of outputs");
    wait("a copy of outputs");
  }
  group.return_outputs(host_outputs_.get<std::byte>());
  if (entries_ == 0) return nullptr;
  // The copy out of it in the layer before is done: this layer's rows were waited for.
  reserve(host_returned_, entries_ * output_bytes_);
  reserve(returned_, entries_ * output_bytes_);
  group.collect(host_returned_.get<std::byte>());
  check(
      cudaMemcpyAsync(returned_.get(), host_returned_.get(), entries_ * output_bytes_, cudaMemcpyHostToDevice, stream_),
      "a copy of outputs");
  return returned_.get<std::byte>();
}

}  // namespace pelagic::cuda
