// Keys of the FP8 cache: one thread asks the copy engine for them as they are cached, and the four warps of its
// warpgroup make them bf16 in the tile that score and accumulate read, in place. CUDA.md.
#pragma once

#include "ops/kv_cache/fp8_latent.cuh"
#include "ops/mla_attention/mla_decode_stages.cuh"

namespace pelagic::mla_decode {

inline constexpr int kRawPanel = 4;  // of a tile: the first of four that hold its e4m3, 128 columns each
inline constexpr int kRawColumns = 128;
inline constexpr int kQuarters = kMlaDecodeLatent / kRawColumns;
inline constexpr int kRawBytes = (kQuarters + 1) * kPanelBytes + kTile * static_cast<int>(sizeof(float4));

// A tile as it is cached: e4m3 in panels 4 to 7, the rope columns where they stay, and the scales.
__device__ inline void copy_raw(const Shared& shared, int stage, const CacheMaps& maps, int row, std::uint64_t policy) {
  Control& control = *shared.control;
  const std::uint32_t tile = sm90::shared_address(shared.tile(stage));
  const std::uint32_t barrier = sm90::shared_address(&control.raw[stage]);
  sm90::mbarrier_arrive_expect(barrier, kRawBytes);
#pragma unroll
  for (int quarter = 0; quarter < kQuarters; ++quarter)
    sm90::copy_box(tile + (kRawPanel + quarter) * kPanelBytes, &maps.keys, quarter * kRawColumns, row, barrier, policy);
  sm90::copy_box(tile + kLatentPanels * kPanelBytes, &maps.rope, 0, row, barrier, policy);
  sm90::copy_box(sm90::shared_address(control.scales[stage]), &maps.scales, 0, row, barrier, policy);
}

// Asks for queries and tiles in the order in which they are worked on. One thread's.
class Fetcher {
 public:
  __device__ Fetcher(const Arguments& a, const Shared& shared, const CUtensorMap* query_map, const CacheMaps& maps)
      : a_(a), shared_(shared), query_map_(query_map), maps_(maps), pieces_(*a.piece_count) {
    n_ = static_cast<int>(blockIdx.x);
    begin_piece();
  }

  __device__ bool done() const { return n_ >= pieces_; }

  // Asks for the next tile, and for the queries before it; true if it has. Where a place is still in use it waits for
  // it, or, unless told to, leaves it for the next call.
  __device__ bool fetch(bool waits) {
    Control& control = *shared_.control;
    while (n_ < pieces_) {
      if (!has_queries_) {
        if (!is_free(control.queries_empty, piece_parity_ ^ 1, waits)) return false;
        copy_tile(shared_.queries, query_map_, piece_.row * a_.heads + piece_.tile * kTile, control.queries_full,
                  sm90::kEvictNormal);
        piece_parity_ ^= 1;
        has_queries_ = true;
      }
      if (t_ < tiles_) {
        if (!is_free(control.empty[turn_.stage], turn_.parity ^ 1, waits)) return false;
        const int first_key = piece_.cut * a_.cut_tokens + t_ * kTile;
        const int block =
            __ldg(a_.block_table + static_cast<std::int64_t>(piece_.sequence) * a_.max_blocks + first_key / kTile);
        const bool right = block >= 0 && block < a_.cache_blocks;
        if (!right) a_.errors[kMlaDecodeBadBlock] = 1;
        control.keys[turn_.stage] = right ? min(kTile, piece_.length - first_key) : 0;
        // Past the cache's end zeros arrive.
        copy_raw(shared_, turn_.stage, maps_, (right ? block : a_.cache_blocks) * kTile,
                 piece_.rows * a_.heads <= kTile ? sm90::kEvictFirst : sm90::kEvictNormal);
        turn_.advance();
        if (++t_ == tiles_) next_piece();
        return true;
      }
      next_piece();
    }
    return false;
  }

 private:
  __device__ static bool is_free(std::uint64_t& barrier, std::uint32_t parity, bool waits) {
    if (!waits) return sm90::mbarrier_test(sm90::shared_address(&barrier), parity);
    wait(barrier, parity);
    return true;
  }
  __device__ void begin_piece() {
    if (n_ >= pieces_) return;
    piece_ = load_piece(a_, walked_piece(a_, n_));
    tiles_ = tiles_of_piece(a_, piece_);
    t_ = 0;
    has_queries_ = false;
  }
  __device__ void next_piece() {
    n_ += static_cast<int>(gridDim.x);
    begin_piece();
  }

  const Arguments& a_;
  const Shared& shared_;
  const CUtensorMap* query_map_;
  const CacheMaps& maps_;
  int pieces_, n_, t_, tiles_;
  Piece piece_;
  Turn turn_;
  std::uint32_t piece_parity_ = 0;
  bool has_queries_;
};

// A warp's 16 keys of a tile. What it reads and writes is of these keys alone; a panel is written once what lay there
// has been read.
__device__ __forceinline__ void expand(unsigned char* tile, const float4* scales, int warp, int lane) {
  constexpr int kKeys = 2;               // of a lane, eight apart
  constexpr int kSteps = 2 * kQuarters;  // 64 columns each
  const int key = 16 * warp + lane % 8;
  const int part = lane / 8;  // 16 of the columns
  std::uint32_t scale[kKeys][kQuarters];
#pragma unroll
  for (int i = 0; i < kKeys; ++i) {
    const float4 four = scales[key + 8 * i];
    scale[i][0] = expanding_scale(four.x);
    scale[i][1] = expanding_scale(four.y);
    scale[i][2] = expanding_scale(four.z);
    scale[i][3] = expanding_scale(four.w);
  }
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    uint4 raw[kKeys];
#pragma unroll
    for (int i = 0; i < kKeys; ++i)
      raw[i] = *reinterpret_cast<const uint4*>(tile + (kRawPanel + step / 2) * kPanelBytes + (key + 8 * i) * 128 +
                                               ((4 * (step % 2) + part) ^ (key % 8)) * 16);
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kKeys; ++i) {
      unsigned char* row = tile + step * kPanelBytes + (key + 8 * i) * 128;
      *reinterpret_cast<uint4*>(row + ((2 * part) ^ (key % 8)) * 16) =
          expanded_latents(raw[i].x, raw[i].y, scale[i][step / 2]);
      *reinterpret_cast<uint4*>(row + ((2 * part + 1) ^ (key % 8)) * 16) =
          expanded_latents(raw[i].z, raw[i].w, scale[i][step / 2]);
    }
  }
}

// The warpgroup that fetches and expands. Its first thread asks for a tile while the one before is on its way or is
// expanded; it waits for a place only when all that it has asked for is expanded, since only then the others can go on.
__device__ inline void produce_fp8(const Arguments& a, const Shared& shared, const CUtensorMap* query_map,
                                   const CacheMaps& maps) {
  Control& control = *shared.control;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = __shfl_sync(0xFFFFFFFFu, static_cast<int>(threadIdx.x) % 128 / 32, 0);
  const bool fetches = threadIdx.x % 128 == 0;
  Fetcher fetcher(a, shared, query_map, maps);
  if (fetches) {
    sm90::prefetch_map(query_map);
    sm90::prefetch_map(&maps.keys);
    sm90::prefetch_map(&maps.rope);
    sm90::prefetch_map(&maps.scales);
  }
  int asked = 0;  // for tiles, by the thread that fetches
  const int pieces = *a.piece_count;
  Turn turn;
  for (int n = static_cast<int>(blockIdx.x); n < pieces; n += static_cast<int>(gridDim.x)) {
    const int tiles = tiles_of_piece(a, load_piece(a, walked_piece(a, n)));
    for (int t = 0; t < tiles; ++t, turn.advance()) {
      if (fetches) {
        if (asked == 0) asked += fetcher.fetch(true);
        do {
          if (asked < kStages) asked += fetcher.fetch(false);
        } while (!sm90::mbarrier_test(sm90::shared_address(&control.raw[turn.stage]), turn.parity));
        --asked;
      }
      __syncwarp();
      wait(control.raw[turn.stage], turn.parity);
      expand(shared.tile(turn.stage), control.scales[turn.stage], warp, lane);
      sm90::fence_for_engines();
      warp_arrive(control.full[turn.stage]);
    }
  }
  // Queries of pieces without keys.
  if (fetches)
    while (!fetcher.done()) fetcher.fetch(true);
}

}  // namespace pelagic::mla_decode
