// What the backend's objects are on the card. Weights are bf16 (rounded from the float32 rows the loader gives, to
// nearest even: an FP8 block-scaled checkpoint's numbers lose bits there) or, where that was asked for, the projections
// and MLPs e4m3 with a float32 scale for each 128 x 128; norms, the gate and its bias are float32.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "backend/backend.h"
#include "backend/cuda/device_memory.h"
#include "cuda/row_type.h"
#include "ops/rope/rope_cuda.h"

namespace pelagic::cuda {

struct CudaActivations final : Activations {
  CudaActivations(std::size_t elements, RowType t)
      : memory(elements * static_cast<std::size_t>(row_type_bytes(t))), type(t) {}
  std::size_t bytes() const override { return memory.bytes(); }
  DeviceMemory memory;
  RowType type;
};

struct CudaVector final : Vector {
  std::size_t bytes() const override { return memory.bytes(); }
  DeviceMemory memory;  // float32
  int size = 0;
};

struct CudaMatrix final : Matrix {
  std::size_t bytes() const override { return memory.bytes() + scales.bytes(); }
  bool fp8() const { return scales.bytes() > 0; }
  DeviceMemory memory;  // [n, k], bf16 or e4m3; the gate's float32
  DeviceMemory scales;  // [ceil(n / 128), ceil(k / 128)] of e4m3
  int n = 0;
  int k = 0;
};

struct CudaHeadMatrices final : HeadMatrices {
  std::size_t bytes() const override { return memory.bytes(); }
  DeviceMemory memory;  // bf16 [heads, n, k]
  int heads = 0;
  int n = 0;
  int k = 0;
};

// Where an MLP's weights are.
struct CudaMlpSlot {
  const void* gate_up = nullptr;
  const void* down = nullptr;
  const float* gate_up_scales = nullptr;
  const float* down_scales = nullptr;
};

struct CudaMlpBank final : MlpBank {
  std::size_t bytes() const override {
    return gate_up.bytes() + down.bytes() + gate_up_scales.bytes() + down_scales.bytes();
  }
  bool fp8() const { return gate_up_scales.bytes() > 0; }
  CudaMlpSlot slot(int index) const {
    const auto at = [&](const DeviceMemory& memory) -> const std::byte* {
      if (memory.bytes() == 0) return nullptr;
      return memory.get<std::byte>() +
             memory.bytes() / static_cast<std::size_t>(slots) * static_cast<std::size_t>(index);
    };
    return {at(gate_up), at(down), reinterpret_cast<const float*>(at(gate_up_scales)),
            reinterpret_cast<const float*>(at(down_scales))};
  }
  DeviceMemory gate_up;  // [slots, 2 width, hidden]: gate, then up
  DeviceMemory down;     // [slots, hidden, width]
  // e4m3 only: a scale for each 128 x 128 of a slot's gate_up and down.
  DeviceMemory gate_up_scales, down_scales;
  int slots = 0;
  int width = 0;  // e4m3: the next multiple of 128, zeros past the MLP's own, so that up begins with a block
  int hidden = 0;
};

// In memory of its own, or a slot of a bank.
struct CudaMlp final : Mlp, CudaMlpSlot {
  std::size_t bytes() const override { return gate_up_bytes() + down_bytes() + scale_bytes; }
  std::size_t gate_up_bytes() const { return 2 * down_bytes(); }
  std::size_t down_bytes() const {
    return (fp8() ? 1 : 2) * static_cast<std::size_t>(width) * static_cast<std::size_t>(hidden);
  }
  bool fp8() const { return gate_up_scales != nullptr; }
  CudaMlpBank own;
  std::size_t scale_bytes = 0;
  int width = 0;
  int hidden = 0;
};

struct CudaEmbedding final : Embedding {
  std::size_t bytes() const override { return memory.bytes(); }
  DeviceMemory memory;  // bf16 [vocab, hidden]
  int vocab = 0;
  int hidden = 0;
};

struct CudaRopeAngles final : RopeAngles {
  std::size_t bytes() const override { return memory.bytes(); }
  RopeCudaTable table() const {
    const float* cos = memory.get<float>();
    return {cos, cos + static_cast<std::int64_t>(positions) * (kRopeCudaColumns / 2), positions};
  }
  DeviceMemory memory;  // cos, then sin: float32 [positions, 32]
  int positions = 0;
};

struct CudaKvCache final : KvCache {
  explicit CudaKvCache(const KvLayout& l) : layout(l), memory(l.total_bytes()) {}
  std::size_t bytes() const override { return memory.bytes(); }
  std::byte* layer(int index) const { return memory.get<std::byte>() + layout.offset(index, 0, 0); }
  KvLayout layout;
  DeviceMemory memory;
};

// Where a view's rows begin, and of what type they are.
inline void* address(View view) {
  const auto& activations = static_cast<const CudaActivations&>(*view.memory);
  return activations.memory.get<char>() + view.offset * row_type_bytes(activations.type);
}
inline RowType type_of(View view) { return static_cast<const CudaActivations&>(*view.memory).type; }
inline const float* values(const Vector& vector) { return static_cast<const CudaVector&>(vector).memory.get<float>(); }

inline std::size_t elements(int a, int b, int c = 1) {
  return static_cast<std::size_t>(a) * static_cast<std::size_t>(b) * static_cast<std::size_t>(c);
}

}  // namespace pelagic::cuda
