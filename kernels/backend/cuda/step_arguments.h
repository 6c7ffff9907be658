// What the host tells the card in a step (tokens, positions, block tables): through pinned memory, which is written
// once and stays as it is until the step is done.
#pragma once

#include <algorithm>
#include <cstring>
#include <span>
#include <vector>

#include "backend/cuda/device_memory.h"

namespace pelagic::cuda {

class StepArguments {
 public:
  // Copies values to the card on the stream and returns where they are. Valid until reset(). Allocates only where a
  // step needs more than any before it. A step that sends the same sizes in the same order finds the same places; where
  // a recorded graph does its copies, `copy` is false.
  template <typename T>
  const T* send(std::span<const T> values, cudaStream_t stream, bool copy) {
    if (values.empty()) return nullptr;
    const std::size_t bytes = values.size_bytes();
    const Place place = reserve(bytes);
    std::memcpy(place.host, values.data(), bytes);
    if (copy)
      check(cudaMemcpyAsync(place.device, place.host, bytes, cudaMemcpyHostToDevice, stream), "a copy of arguments");
    return reinterpret_cast<const T*>(place.device);
  }

  // Makes room for so many bytes more than a small step needs. Between steps.
  void take(std::size_t bytes) {
    const bool is_there =
        std::any_of(chunks_.begin(), chunks_.end(), [&](const Chunk& chunk) { return chunk.host.bytes() >= bytes; });
    if (!is_there) add_chunk(bytes);
  }

  // The step is done: its places may be used again.
  void reset() {
    chunk_ = 0;
    used_ = 0;
  }

 private:
  static constexpr std::size_t kChunkBytes = std::size_t{1} << 20;
  static constexpr std::size_t kAlignment = 256;
  struct Place {
    std::byte* host;
    std::byte* device;
  };
  struct Chunk {
    PinnedMemory host;
    DeviceMemory device;
  };

  void add_chunk(std::size_t bytes) {
    const std::size_t size = std::max(kChunkBytes, bytes);
    chunks_.push_back({PinnedMemory(size), DeviceMemory(size)});
  }

  Place reserve(std::size_t bytes) {
    const std::size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    while (chunk_ < chunks_.size() && used_ + rounded > chunks_[chunk_].host.bytes()) {
      ++chunk_;
      used_ = 0;
    }
    if (chunk_ == chunks_.size()) add_chunk(rounded);
    const Place place = {chunks_[chunk_].host.get<std::byte>() + used_,
                         chunks_[chunk_].device.get<std::byte>() + used_};
    used_ += rounded;
    return place;
  }

  std::vector<Chunk> chunks_;
  std::size_t chunk_ = 0;
  std::size_t used_ = 0;
};

}  // namespace pelagic::cuda
