// How rows of a MoE layer get from this rank's card to another's, and their outputs back: through host memory and the
// ranks' messages (staged_route), or from card to card (nccl_route). What is said of the rows goes through messages on
// both.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "backend/cuda/device_memory.h"
#include "ranks/rank_group.h"

namespace pelagic::cuda {

// Rows on the card: row i is the index[i]-th of data, or the i-th without an index.
struct CardRows {
  const std::byte* data;
  const std::uint32_t* index;
};

// One thread at a time. All may throw Error(rank_lost).
class RowRoute {
 public:
  explicit RowRoute(cudaStream_t stream) : stream_(stream) {}
  virtual ~RowRoute() = default;

  // Returns when the stream is done, or throws when it waits for a rank that is lost.
  virtual void wait(const char* what) { check(cudaStreamSynchronize(stream_), what); }
  // The stream waits for no other rank from now on; the route carries nothing any more. Does not throw.
  virtual void abort() {}

  // ---- One MoE layer: dispatch, RankGroup::receive_rows, inputs, outputs.
  // rows: the own ones [count, row_bytes] on the card; they stay as they are until inputs().
  virtual void dispatch(RankGroup& group, RankGroup::Layer layer, const MoeBatch& batch, const std::byte* rows,
                        int count, int row_bytes) = 0;
  // The input rows in the order of the slots.
  virtual CardRows inputs(RankGroup& group, const RankGroup::Inputs& inputs) = 0;
  // outputs: [input rows, output_bytes] on the card. Gives those of the own entries, in the order of the batch.
  virtual const std::byte* outputs(RankGroup& group, const RankGroup::Inputs& inputs, const std::byte* outputs) = 0;

 protected:
  // Keeps nothing. The stream may still use the old memory.
  template <bool kPinned>
  void reserve(Memory<kPinned>& memory, std::size_t bytes) {
    if (memory.bytes() >= bytes) return;
    wait("a step");
    memory.grow(bytes + bytes / 4);
  }
  const cudaStream_t stream_;
};

}  // namespace pelagic::cuda
