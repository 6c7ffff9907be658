// The stages of a piece's tiles in shared memory: what lies where, and who tells whom.
#pragma once

#include "cuda/pipeline.cuh"
#include "ops/mla_attention/mla_decode_kernel.cuh"

namespace pelagic::mla_decode {

using sm90::kArrivals;

inline constexpr int kStages = 2;
inline constexpr int kPanel = 64;                                // columns of a tile that lie together: 128 bytes
inline constexpr int kPanelBytes = kTile * 128;                  // 64 rows of them, swizzled
inline constexpr int kPanels = kMlaDecodeKey / kPanel;           // the last holds the rope part
inline constexpr int kLatentPanels = kMlaDecodeLatent / kPanel;  // and, once its tile is scored, the weights
inline constexpr int kTileBytes = kPanels * kPanelBytes;
inline constexpr int kAlignment = 1024;

struct Control {
  std::uint64_t full[kStages];                 // keys have arrived
  std::uint64_t ready[kStages];                // weights and `kept` have been written
  std::uint64_t empty[kStages];                // the tile has been summed
  std::uint64_t queries_full;                  // the piece's queries have arrived
  std::uint64_t queries_empty;                 // its last tile has been scored
  std::uint64_t result_full;                   // `sums` has been written
  std::uint64_t result_empty;                  // and read
  std::uint64_t raw[kStages];                  // of the FP8 cache: the keys as they are cached have arrived
  std::int32_t keys[kStages];                  // of the tile that exist
  float kept[kStages][kTile];                  // what each vector's sums so far are multiplied by
  float sums[kTile];                           // of weights, of the whole piece
  alignas(128) float4 scales[kStages][kTile];  // of the FP8 cache
};

inline constexpr int kSharedBytes = kAlignment + (1 + kStages) * kTileBytes + static_cast<int>(sizeof(Control));
static_assert(kSharedBytes <= 232448);  // dynamic shared memory of one block on sm_90

using Turn = sm90::StageTurn<kStages>;
using sm90::wait;
using sm90::warp_arrive;

struct Shared {
  unsigned char* queries;
  unsigned char* tiles;
  Control* control;

  __device__ unsigned char* tile(int stage) const { return tiles + stage * kTileBytes; }
};

__device__ __forceinline__ int tiles_of_piece(const Arguments& a, const Piece& piece) {
  return cuts_of(min(piece.length - piece.cut * a.cut_tokens, a.cut_tokens), kTile);
}

// 64 rows of 576 columns from `row` on, panel by panel.
__device__ inline void copy_tile(unsigned char* tile, const CUtensorMap* map, int row, std::uint64_t& barrier,
                                 std::uint64_t policy) {
  const std::uint32_t target = sm90::shared_address(tile);
  const std::uint32_t address = sm90::shared_address(&barrier);
  sm90::mbarrier_arrive_expect(address, kTileBytes);
#pragma unroll
  for (int panel = 0; panel < kPanels; ++panel)
    sm90::copy_box(target + panel * kPanelBytes, map, panel * kPanel, row, address, policy);
}

}  // namespace pelagic::mla_decode
