// A checkpoint's tensors as the graph uses them: checked against the config, widened to float32 row by row, packed by
// the backend.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "graph/config.h"
#include "graph/safetensors.h"
#include "ranks/expert_plan.h"

namespace pelagic {

inline MlaShape mla_shape(const ModelConfig& config) {
  return {.heads = static_cast<int>(config.head_count),
          .nope_dim = static_cast<int>(config.nope_dim),
          .rope_dim = static_cast<int>(config.rope_dim),
          .value_dim = static_cast<int>(config.value_dim),
          .kv_rank = static_cast<int>(config.kv_rank)};
}

struct LayerWeights {
  std::unique_ptr<Vector> input_norm;
  std::unique_ptr<Vector> post_norm;
  std::unique_ptr<Vector> kv_norm;
  std::unique_ptr<Vector> query_norm;  // null without query compression
  std::unique_ptr<Matrix>
      compress;  // [W_DKV; W_DQ]: kv_rank + dr rows, then query_rank rows (none without query compression)
  std::unique_ptr<Matrix> query;     // W_UQ [H (dn + dr), query_rank], or W_Q [H (dn + dr), D]
  std::unique_ptr<HeadMatrices> uk;  // by head: n = kv_rank, k = dn
  std::unique_ptr<HeadMatrices> uv;  // by head: n = dv, k = kv_rank
  std::unique_ptr<Matrix> ukv;       // kv_b_proj, where the backend expands prompts; else null
  std::unique_ptr<Matrix> output;    // W_O [D, H dv]
  std::unique_ptr<Mlp> mlp;          // a dense layer's MLP; an MoE layer's shared experts, or null

  // MoE layers only.
  std::unique_ptr<Matrix> gate;             // [experts, D]
  std::unique_ptr<Vector> gate_bias;        // null in the V2 family
  SlotTable placement;                      // of all ranks
  std::unique_ptr<MlpBank> bank;            // of the slots; null where the backend has none
  std::vector<std::unique_ptr<Mlp>> slots;  // of this rank; null: spare
};

struct ModelWeights {
  std::unique_ptr<Embedding> embedding;
  std::vector<LayerWeights> layers;
  std::unique_ptr<Vector> final_norm;
  std::unique_ptr<Matrix> head;  // lm_head [vocab, D]
};

// Which slots of a plan are loaded here.
struct RankPlan {
  ExpertPlan plan;
  int rank = 0;

  std::span<const std::int32_t> own_slots(std::size_t moe_layer) const {
    const auto slots = static_cast<std::size_t>(plan.slots_per_rank);
    return std::span(plan.layers[moe_layer]).subspan(static_cast<std::size_t>(rank) * slots, slots);
  }
};

// Called with bytes of the checkpoint read so far, one call at a time, from any thread.
using LoadProgress = std::function<void(std::uint64_t bytes_done, std::uint64_t bytes_total)>;

// Loads everything with `threads` threads. Of a plan's experts those of the rank's slots, and all others are only
// checked by shape; without one each MoE layer gets one slot for each expert, in order. Tensors of layers
// past the config's (multi-token prediction) are passed over. Throws Error(checkpoint) naming the tensor: missing,
// unexpected, of another shape or dtype than the config says, FP8 without its scales, or holding a NaN or infinity.
ModelWeights load_weights(const ModelConfig& config, const Checkpoint& checkpoint, Backend& backend, int threads,
                          const LoadProgress& progress, const RankPlan* plan = nullptr);

// One routed expert of an MoE layer (counted among these), as load_weights makes it.
struct LoadedExpert {
  std::unique_ptr<Mlp> mlp;
  std::uint64_t bytes;  // read from the checkpoint
};
LoadedExpert load_expert(const ModelConfig& config, const Checkpoint& checkpoint, Backend& backend, int moe_layer,
                         int expert);

// Random ones of the config's shapes, for benches.
ModelWeights random_weights(const ModelConfig& config, Backend& backend, int threads);

}  // namespace pelagic
