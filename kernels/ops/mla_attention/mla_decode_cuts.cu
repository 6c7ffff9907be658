// The cuts: a block takes a piece, tile of 64 keys after tile. One warpgroup scores and weighs, two multiply the
// weights with the latents, each for half of the columns, one thread asks the copy engine for queries and keys. Keys of
// the FP8 cache are made bf16 by the warpgroup of that thread. CUDA.md.
#include <algorithm>
#include <cmath>

#include "cuda/dependents.cuh"
#include "ops/mla_attention/mla_decode_fp8.cuh"
#include "ops/mla_attention/mla_decode_tile.cuh"

namespace pelagic::mla_decode {
namespace {

constexpr int kThreads = 512;
constexpr int kScoreGroup = 2;  // warpgroups 0 and 1 hold the sums
constexpr int kScoreBarrier = 1;
constexpr int kHalf = kMlaDecodeLatent / 2;  // columns of a warpgroup's sums
constexpr int kPartColumns = 128;            // of them in one instruction
constexpr int kParts = kHalf / kPartColumns;
constexpr int kPartValues = kPartColumns / 2;  // in a thread

// One thread.
__device__ void produce(const Arguments& a, const Shared& shared, const CUtensorMap* query_map,
                        const CUtensorMap* cache_map) {
  Control& control = *shared.control;
  sm90::prefetch_map(query_map);
  sm90::prefetch_map(cache_map);
  const int pieces = *a.piece_count;
  Turn turn;
  std::uint32_t piece_parity = 0;
  for (int n = static_cast<int>(blockIdx.x); n < pieces; n += static_cast<int>(gridDim.x)) {
    const int index = walked_piece(a, n);
    const Piece piece = load_piece(a, index);
    const int first_key = piece.cut * a.cut_tokens;
    const int tiles = tiles_of_piece(a, piece);
    const std::int32_t* blocks =
        a.block_table + static_cast<std::int64_t>(piece.sequence) * a.max_blocks + first_key / kTile;
    // Keys that only one piece reads should not push others' out of the L2.
    const std::uint64_t policy = piece.rows * a.heads <= kTile ? sm90::kEvictFirst : sm90::kEvictNormal;
    wait(control.queries_empty, piece_parity ^ 1);
    copy_tile(shared.queries, query_map, piece.row * a.heads + piece.tile * kTile, control.queries_full,
              sm90::kEvictNormal);
    piece_parity ^= 1;
    for (int t = 0; t < tiles; ++t, turn.advance()) {
      const int block = __ldg(blocks + t);
      const bool right = block >= 0 && block < a.cache_blocks;
      if (!right) a.errors[kMlaDecodeBadBlock] = 1;
      wait(control.empty[turn.stage], turn.parity ^ 1);
      control.keys[turn.stage] = right ? min(kTile, piece.length - first_key - t * kTile) : 0;
      // Past the cache's end zeros arrive.
      copy_tile(shared.tile(turn.stage), cache_map, (right ? block : a.cache_blocks) * kTile, control.full[turn.stage],
                policy);
    }
  }
}

// Rows of the tile from `some` on.
__device__ __forceinline__ void clear_rows(unsigned char* tile, int some, int keys, int warp, int lane) {
  for (int row = some + warp; row < kTile; row += 4)
#pragma unroll
    for (int i = 0; i < kLatentPanels; i += 4)
      clear_latents(tile + (i + lane / 8) * kPanelBytes + row * 128 + lane % 8 * 16, row, keys);
}

// The warpgroup that scores.
__device__ void score(const Arguments& a, const Shared& shared) {
  Control& control = *shared.control;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = __shfl_sync(0xFFFFFFFFu, static_cast<int>(threadIdx.x) % 128 / 32, 0);
  const int place = 16 * warp + lane / 4;
  const std::uint64_t queries = sm90::tile_descriptor(sm90::shared_address(shared.queries));
  const int pieces = *a.piece_count;
  Turn turn;
  std::uint32_t piece_parity = 0;
  for (int n = static_cast<int>(blockIdx.x); n < pieces; n += static_cast<int>(gridDim.x)) {
    const int index = walked_piece(a, n);
    const Piece piece = load_piece(a, index);
    const int tiles = tiles_of_piece(a, piece);
    const int first_key = piece.cut * a.cut_tokens;
    int all_see = visible_keys(a, piece, 0) - first_key;  // keys from the tile's first on that every row sees
    int seen[2];                                          // that the thread's vectors see
    float largest[2] = {-INFINITY, -INFINITY};
    float sum[2] = {};  // of this thread's columns
#pragma unroll
    for (int i = 0; i < 2; ++i) seen[i] = visible_keys(a, piece, piece.tile * kTile + place + 8 * i) - first_key;
    wait(control.queries_full, piece_parity);
    for (int t = 0; t < tiles; ++t, turn.advance()) {
      const std::uint32_t tile = sm90::shared_address(shared.tile(turn.stage));
      wait(control.full[turn.stage], turn.parity);
      const int keys = control.keys[turn.stage];
      Scores s;
      score_tile(s, queries, sm90::tile_descriptor(tile), [](int) {});
      // All warps have read the tile: the rope part may become weights.
      sm90::barrier_sync(kScoreBarrier, 128);
      const int some = max(0, min(all_see, keys));
      all_see -= kTile;
      if (some < kTile) clear_rows(shared.tile(turn.stage), some, keys, warp, lane);

      float kept[2], origin[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float top = mask_scores(s, i, min(seen[i], keys), lane);
        seen[i] -= kTile;
        const float new_largest = fmaxf(largest[i], top * a.log2_scale);
        origin[i] = origin_of(new_largest);
        kept[i] = power_of_2(largest[i] - origin[i]);
        largest[i] = new_largest;
      }
      Weights weights;
      float tile_sum[2];
      weigh_scores(s, a.log2_scale, origin, weights, tile_sum);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        sum[i] = __fmaf_rn(sum[i], kept[i], tile_sum[i]);
        if (lane % 4 == 0) control.kept[turn.stage][place + 8 * i] = kept[i];
      }
      store_weights(tile + kLatentPanels * kPanelBytes, weights, warp, lane);
      sm90::fence_for_engines();
      warp_arrive(control.ready[turn.stage]);
    }
    warp_arrive(control.queries_empty);
    wait(control.result_empty, piece_parity ^ 1);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      sum[i] += __shfl_xor_sync(0xFFFFFFFFu, sum[i], 1);
      sum[i] += __shfl_xor_sync(0xFFFFFFFFu, sum[i], 2);
      if (lane % 4 == 0) {
        control.sums[place + 8 * i] = sum[i];
        if (piece.cuts > 1)
          a.stats[static_cast<std::int64_t>(index) * kTile + place + 8 * i] = make_float2(largest[i], sum[i]);
      }
    }
    warp_arrive(control.result_full);
    piece_parity ^= 1;
  }
}

__device__ __forceinline__ void hold_all(float (&total)[kParts][kPartValues]) {
#pragma unroll
  for (int part = 0; part < kParts; ++part) sm90::hold(total[part]);
}

// A warpgroup that sums: columns [256 half, 256 half + 256) of all 64 vectors.
__device__ void accumulate(const Arguments& a, const Shared& shared, int half) {
  Control& control = *shared.control;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int place = static_cast<int>(threadIdx.x) % 128 / 32 * 16 + lane / 4;
  const int pieces = *a.piece_count;
  Turn turn;
  std::uint32_t piece_parity = 0;
  for (int n = static_cast<int>(blockIdx.x); n < pieces; n += static_cast<int>(gridDim.x)) {
    const int index = walked_piece(a, n);
    const Piece piece = load_piece(a, index);
    const int tiles = tiles_of_piece(a, piece);
    float total[kParts][kPartValues];
#pragma unroll
    for (int part = 0; part < kParts; ++part)
#pragma unroll
      for (int i = 0; i < kPartValues; ++i) total[part][i] = 0.0f;
    for (int t = 0; t < tiles; ++t, turn.advance()) {
      wait(control.full[turn.stage], turn.parity);
      wait(control.ready[turn.stage], turn.parity);
      const float upper = control.kept[turn.stage][place];
      const float lower = control.kept[turn.stage][place + 8];
      if (__any_sync(0xFFFFFFFFu, upper != 1.0f || lower != 1.0f)) {
#pragma unroll
        for (int part = 0; part < kParts; ++part) scale_sums(total[part], upper, lower);
      }
      const std::uint32_t tile = sm90::shared_address(shared.tile(turn.stage));
      const std::uint64_t weights = sm90::tile_descriptor(tile + kLatentPanels * kPanelBytes);
      const std::uint64_t latents =
          sm90::transposed_descriptor(tile + half * (kLatentPanels / 2) * kPanelBytes, kPanelBytes);
      hold_all(total);
      sm90::wgmma_fence();
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int part = 0; part < kParts; ++part)
          sm90::Wgmma<kPartColumns>::bf16_transposed(
              total[part], weights + 2 * i, latents + part * (kPartColumns / kPanel) * (kPanelBytes >> 4) + 128 * i, 1);
      sm90::wgmma_commit();
      hold_all(total);
      sm90::wgmma_wait_all();
      hold_all(total);
      warp_arrive(control.empty[turn.stage]);
    }
    wait(control.result_full, piece_parity);
    const float sums[2] = {control.sums[place], control.sums[place + 8]};
    warp_arrive(control.result_empty);
    piece_parity ^= 1;

#pragma unroll
    for (int part = 0; part < kParts; ++part)
      write_sums(a, piece, index, place, half * kHalf + part * kPartColumns, lane, total[part], sums);
  }
}

template <bool kFp8>
__global__ void __launch_bounds__(kThreads, 1) cuts_kernel(const __grid_constant__ CUtensorMap query_map,
                                                           const __grid_constant__ CacheMaps cache, const Arguments a) {
  extern __shared__ unsigned char shared_raw[];
  unsigned char* const start = shared_raw + (-sm90::shared_address(shared_raw) & (kAlignment - 1));
  Shared shared;
  shared.queries = start;
  shared.tiles = start + kTileBytes;
  shared.control = reinterpret_cast<Control*>(start + (1 + kStages) * kTileBytes);
  if (threadIdx.x == 0) {
    constexpr int kGroup = 4 * kArrivals;  // arrivals of a warpgroup
    Control& control = *shared.control;
    const auto init = [](std::uint64_t& barrier, int arrivals) {
      sm90::mbarrier_init(sm90::shared_address(&barrier), arrivals);
    };
    for (int stage = 0; stage < kStages; ++stage) {
      init(control.full[stage], kFp8 ? kGroup : 1);
      init(control.raw[stage], 1);
      init(control.ready[stage], kGroup);
      init(control.empty[stage], 2 * kGroup);
    }
    init(control.queries_full, 1);
    init(control.queries_empty, kGroup);
    init(control.result_full, kGroup);
    init(control.result_empty, 2 * kGroup);
    sm90::mbarrier_init_fence();
  }
  begin_with_others();  // merge_kernel reads the list before it waits
  __syncthreads();
  // Through a shuffle, so that the compiler knows it is the same in the whole warp.
  const int group = __shfl_sync(0xFFFFFFFFu, static_cast<int>(threadIdx.x) / 128, 0);
  // 512 threads begin with 128 registers each: the score warpgroup keeps its own.
  if (group < kScoreGroup) {
    sm90::registers_up<kFp8 ? 160 : 176>();
    accumulate(a, shared, group);
  } else if (group == kScoreGroup) {
    score(a, shared);
  } else if constexpr (kFp8) {
    sm90::registers_down<64>();
    produce_fp8(a, shared, &query_map, cache);
  } else {
    sm90::registers_down<32>();
    if (threadIdx.x % 128 == 0) produce(a, shared, &query_map, &cache.keys);
  }
}

}  // namespace

int cuts_grid() {
  int device = 0;
  int processors = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 0;
  if (cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device) != cudaSuccess) return 0;
  for (const auto kernel : {cuts_kernel<false>, cuts_kernel<true>})
    if (cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes) != cudaSuccess)
      return 0;
  return processors;
}

cudaError_t launch_cuts(const MlaDecodePlan& plan, const Arguments& arguments, cudaStream_t stream) {
  const auto kernel = plan.problem.cache_dtype == KvDtype::fp8 ? cuts_kernel<true> : cuts_kernel<false>;
  return launch_early(kernel, static_cast<unsigned>(plan.grid), kThreads, kSharedBytes, stream, plan.query_map,
                      plan.cache_maps, arguments);
}

}  // namespace pelagic::mla_decode
