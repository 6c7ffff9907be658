// The cuts spread: where there are few pieces, each is a cluster's. A block scores one of the cut's eight tiles and
// tells the others the largest scores, weighs it and hands out the weights, then sums 64 of the 512 columns over all
// tiles. Every number comes of the same steps as in mla_decode_cuts.cu. CUDA.md.
#include "cuda/dependents.cuh"
#include "ops/mla_attention/mla_decode_tile.cuh"

namespace pelagic::mla_decode {
namespace {

constexpr int kWorkers = 128;  // a warpgroup; one more warp fetches
constexpr int kThreads = kWorkers + 32;
constexpr int kWorkerBarrier = 1;
constexpr int kBlocks = kSpreadTiles;  // of a cluster
static_assert(kBlocks == kLatentPanels && kBlocks * kPanelBytes <= kTileBytes);
constexpr int kTurnPanels = 3;  // of the own tile's, fetched and waited for together
constexpr int kTurns = kPanels / kTurnPanels;

struct SpreadControl {
  std::uint64_t keys_full[kTurns];         // a turn of the own tile's panels has arrived; with the first, the queries
  std::uint64_t values_full;               // the block's columns of all tiles have arrived
  std::uint64_t values_ready;              // and are finite
  std::uint64_t tops_full;                 // the other blocks' largest scores have arrived
  std::uint64_t weights_full;              // what they weighed
  std::int32_t keys[kBlocks];              // of each tile that exist
  alignas(16) float tops[kBlocks][kTile];  // largest scaled score
  float kept[kBlocks][kTile];              // what each vector's sums so far are multiplied by
  float sums[kBlocks][kTile][4];           // of weights, in the four threads that have the vector
};

constexpr int kSpreadSharedBytes =
    kAlignment + 2 * kTileBytes + kBlocks * kPanelBytes + static_cast<int>(sizeof(SpreadControl));
static_assert(kSpreadSharedBytes <= 232448);

struct SpreadShared {
  unsigned char* queries;  // and, once all blocks have scored, a panel of weights for each tile
  unsigned char* keys;     // the block's own tile
  unsigned char* values;   // its 64 columns of each tile
  SpreadControl* control;
};

// What a block is to do for a piece.
struct Share {
  Piece piece;
  int tiles;    // of the piece
  int rank;     // of the block: the tile that it scores, and the columns that it sums
  bool scores;  // its tile is there
  int live;     // vectors that are there
};

__device__ __forceinline__ Share share_of(const Arguments& a, const Piece& piece, int rank) {
  const int tiles = tiles_of_piece(a, piece);
  return {piece, tiles, rank, rank < tiles, min(kTile, piece.rows * a.heads - piece.tile * kTile)};
}

// Bytes of so many vectors' numbers, as they are sent.
__device__ __forceinline__ int kept_bytes(int vectors) { return (vectors + 3) / 4 * 16; }
__device__ __forceinline__ int sums_bytes(int vectors) { return vectors * 16; }
__device__ __forceinline__ int weights_bytes(int vectors) { return vectors * 128; }

// The fetching warp: a lane for each tile or panel.
__device__ void fetch(const Arguments& a, const SpreadShared& shared, const CUtensorMap* query_map,
                      const CUtensorMap* cache_map, const Share& share, int lane) {
  SpreadControl& control = *shared.control;
  const Piece& piece = share.piece;
  const int first_key = piece.cut * a.cut_tokens;
  int block = -1;
  if (lane < share.tiles)
    block = __ldg(a.block_table + static_cast<std::int64_t>(piece.sequence) * a.max_blocks + first_key / kTile + lane);
  const int query_boxes = (share.live + kSpreadQueryRows - 1) / kSpreadQueryRows;
  constexpr int kQueryBoxBytes = kSpreadQueryRows * 128;
  const int turn_bytes = share.scores ? kTurnPanels * kPanelBytes : 0;
  if (lane == 0) {
    const int query_bytes = share.scores ? kPanels * query_boxes * kQueryBoxBytes : 0;
    for (int turn = 0; turn < kTurns - 1; ++turn)
      sm90::mbarrier_arrive_expect(sm90::shared_address(&control.keys_full[turn]),
                                   turn_bytes + (turn == 0 ? query_bytes : 0));
    sm90::mbarrier_arrive_expect(sm90::shared_address(&control.values_full), share.tiles * kPanelBytes);
    sm90::mbarrier_arrive_expect(sm90::shared_address(&control.tops_full),
                                 (kBlocks - 1) * kTile * static_cast<int>(sizeof(float)));
    sm90::mbarrier_arrive_expect(sm90::shared_address(&control.weights_full),
                                 (share.tiles - (share.scores ? 1 : 0)) *
                                     (kept_bytes(share.live) + sums_bytes(share.live) + weights_bytes(share.live)));
  }
  __syncwarp();
  if (share.scores && lane < kPanels)
    for (int box = 0; box < query_boxes; ++box)
      sm90::copy_box(sm90::shared_address(shared.queries) + lane * kPanelBytes + box * kQueryBoxBytes, query_map,
                     lane * kPanel, piece.row * a.heads + piece.tile * kTile + box * kSpreadQueryRows,
                     sm90::shared_address(&control.keys_full[0]), sm90::kEvictNormal);
  int keys = 0;
  int row = a.cache_blocks * kTile;  // past the cache's end zeros arrive
  if (lane < share.tiles) {
    if (block >= 0 && block < a.cache_blocks) {
      row = block * kTile;
      keys = min(kTile, piece.length - first_key - lane * kTile);
    } else {
      a.errors[kMlaDecodeBadBlock] = 1;
    }
  }
  const int own_row = __shfl_sync(0xFFFFFFFFu, row, share.rank);
  if (share.scores && lane < kPanels)
    sm90::copy_box(sm90::shared_address(shared.keys) + lane * kPanelBytes, cache_map, lane * kPanel, own_row,
                   sm90::shared_address(&control.keys_full[lane / kTurnPanels]), sm90::kEvictNormal);
  // Whoever has waited for the last turn sees these.
#pragma unroll
  for (int t = 0; t < kBlocks; ++t) {
    const int of_tile = __shfl_sync(0xFFFFFFFFu, keys, t);
    if (lane == 0) control.keys[t] = of_tile;
  }
  if (lane == 0) sm90::mbarrier_arrive_expect(sm90::shared_address(&control.keys_full[kTurns - 1]), turn_bytes);
  if (lane < share.tiles)
    sm90::copy_box(sm90::shared_address(shared.values) + lane * kPanelBytes, cache_map, share.rank * kPanel, row,
                   sm90::shared_address(&control.values_full),
                   piece.rows * a.heads <= kTile ? sm90::kEvictFirst : sm90::kEvictNormal);
}

// The fetching warp: the block's columns of the keys that not all of the sequence's rows see.
__device__ void clear_values(const Arguments& a, const SpreadShared& shared, const Share& share, std::uint32_t parity,
                             int lane) {
  const int all_see = visible_keys(a, share.piece, 0) - share.piece.cut * a.cut_tokens;
  wait(shared.control->values_full, parity);
  for (int t = 0; t < share.tiles; ++t) {
    const int keys = shared.control->keys[t];
    for (int row = max(0, min(all_see - t * kTile, keys)) + lane / 8; row < kTile; row += 4)
      clear_latents(shared.values + t * kPanelBytes + row * 128 + lane % 8 * 16, row, keys);
  }
  sm90::fence_for_engines();
  warp_arrive(shared.control->values_ready);
}

// `bytes` from `address` on to the same place in block `rank`, by 16 threads, of which this is number `thread`.
__device__ __forceinline__ void send(const void* address, int bytes, std::uint64_t& barrier, int rank, int thread) {
  const char* from = static_cast<const char*>(address);
  for (int at = 16 * thread; at < bytes; at += 256)
    sm90::store_async_at(sm90::shared_address(from + at), sm90::shared_address(&barrier),
                         static_cast<std::uint32_t>(rank), *reinterpret_cast<const uint4*>(from + at));
}

// The warpgroup's part.
__device__ __forceinline__ void work(const Arguments& a, const SpreadShared& shared, const Share& share, int index,
                                     std::uint32_t parity) {
  SpreadControl& control = *shared.control;
  const Piece& piece = share.piece;
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32;
  const int warp = __shfl_sync(0xFFFFFFFFu, thread / 32, 0);
  const int place = 16 * warp + lane / 4;
  const int rank = share.rank;
  const int target = thread / (kWorkers / kBlocks), part = thread % (kWorkers / kBlocks);  // what it sends, and to whom

  Scores s;
  float top[2] = {-INFINITY, -INFINITY};
  if (share.scores) {
    int seen[2];
#pragma unroll
    for (int i = 0; i < 2; ++i)
      seen[i] = visible_keys(a, piece, piece.tile * kTile + place + 8 * i) - piece.cut * a.cut_tokens - rank * kTile;
    score_tile(s, sm90::tile_descriptor(sm90::shared_address(shared.queries)),
               sm90::tile_descriptor(sm90::shared_address(shared.keys)), [&](int panel) {
                 if (panel % kTurnPanels != 0) return;
                 wait(control.keys_full[panel / kTurnPanels], parity);
                 sm90::wgmma_fence();
               });
#pragma unroll
    for (int i = 0; i < 2; ++i) top[i] = mask_scores(s, i, min(seen[i], control.keys[rank]), lane) * a.log2_scale;
  } else {
    // Nothing comes; but a barrier that is armed again should have been waited for.
    for (std::uint64_t& full : control.keys_full) wait(full, parity);
  }
#pragma unroll
  for (int i = 0; i < 2; ++i)
    if (lane % 4 == 0) control.tops[rank][place + 8 * i] = top[i];
  // All warps have read the queries too: their place may hold weights.
  sm90::barrier_sync(kWorkerBarrier, kWorkers);
  if (target != rank) send(control.tops[rank], sizeof control.tops[rank], control.tops_full, target, part);
  wait(control.tops_full, parity);

  float largest[2] = {-INFINITY, -INFINITY};
  float kept[2] = {}, origin[2] = {};
#pragma unroll
  for (int t = 0; t < kBlocks; ++t)  // -inf where there is no tile
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float new_largest = fmaxf(largest[i], control.tops[t][place + 8 * i]);
      if (t == rank) {
        origin[i] = origin_of(new_largest);
        kept[i] = power_of_2(largest[i] - origin[i]);
      }
      largest[i] = new_largest;
    }
  if (share.scores) {
    Weights own;
    float tile_sum[2];
    weigh_scores(s, a.log2_scale, origin, own, tile_sum);
    store_weights(sm90::shared_address(shared.queries) + rank * kPanelBytes, own, warp, lane);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      control.sums[rank][place + 8 * i][lane % 4] = tile_sum[i];
      if (lane % 4 == 0) control.kept[rank][place + 8 * i] = kept[i];
    }
  }
  sm90::barrier_sync(kWorkerBarrier, kWorkers);
  if (share.scores && target != rank) {
    send(shared.queries + rank * kPanelBytes, weights_bytes(share.live), control.weights_full, target, part);
    send(control.sums[rank], sums_bytes(share.live), control.weights_full, target, part);
    send(control.kept[rank], kept_bytes(share.live), control.weights_full, target, part);
  }
  wait(control.weights_full, parity);
  sm90::fence_for_engines();
  sm90::barrier_sync(kWorkerBarrier, kWorkers);

  // Of vectors that are not there, anything may lie here: they meet no other.
  float upper[kBlocks], lower[kBlocks], sums[2] = {};
  unsigned scaled = 0;  // a bit for each tile
#pragma unroll
  for (int t = 0; t < kBlocks; ++t) {
    if (t >= share.tiles) break;
    upper[t] = control.kept[t][place];
    lower[t] = control.kept[t][place + 8];
    sums[0] = __fmaf_rn(sums[0], upper[t], control.sums[t][place][lane % 4]);
    sums[1] = __fmaf_rn(sums[1], lower[t], control.sums[t][place + 8][lane % 4]);
    if (__any_sync(0xFFFFFFFFu, upper[t] != 1.0f || lower[t] != 1.0f)) scaled |= 1u << t;
  }
  float total[kPanel / 2];
#pragma unroll
  for (float& value : total) value = 0.0f;
  wait(control.values_ready, parity);
#pragma unroll
  for (int t = 0; t < kBlocks; ++t) {
    if (t >= share.tiles) break;
    if (scaled >> t & 1) scale_sums(total, upper[t], lower[t]);
    const std::uint64_t weights = sm90::tile_descriptor(sm90::shared_address(shared.queries) + t * kPanelBytes);
    const std::uint64_t latents =
        sm90::transposed_descriptor(sm90::shared_address(shared.values) + t * kPanelBytes, kPanelBytes);
    sm90::hold(total);
    sm90::wgmma_fence();
#pragma unroll
    for (int i = 0; i < 4; ++i) sm90::Wgmma<kPanel>::bf16_transposed(total, weights + 2 * i, latents + 128 * i, 1);
    sm90::wgmma_commit();
    sm90::hold(total);
    sm90::wgmma_wait_all();
    sm90::hold(total);
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    sums[i] += __shfl_xor_sync(0xFFFFFFFFu, sums[i], 1);
    sums[i] += __shfl_xor_sync(0xFFFFFFFFu, sums[i], 2);
    if (rank == 0 && lane % 4 == 0 && piece.cuts > 1)
      a.stats[static_cast<std::int64_t>(index) * kTile + place + 8 * i] = make_float2(largest[i], sums[i]);
  }
  write_sums(a, piece, index, place, rank * kPanel, lane, total, sums);
}

__global__ void __cluster_dims__(kBlocks, 1, 1) __launch_bounds__(kThreads, 1)
    spread_kernel(const __grid_constant__ CUtensorMap query_map, const __grid_constant__ CUtensorMap cache_map,
                  const Arguments a) {
  extern __shared__ unsigned char shared_raw[];
  unsigned char* const start = shared_raw + (-sm90::shared_address(shared_raw) & (kAlignment - 1));
  SpreadShared shared;
  shared.queries = start;
  shared.keys = start + kTileBytes;
  shared.values = start + 2 * kTileBytes;
  shared.control = reinterpret_cast<SpreadControl*>(start + 2 * kTileBytes + kBlocks * kPanelBytes);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = __shfl_sync(0xFFFFFFFFu, static_cast<int>(threadIdx.x) / 32, 0);
  const int rank = static_cast<int>(sm90::cluster_rank());
  if (threadIdx.x == 0) {
    SpreadControl& control = *shared.control;
    const auto init = [](std::uint64_t& barrier, int arrivals) {
      sm90::mbarrier_init(sm90::shared_address(&barrier), arrivals);
    };
    for (std::uint64_t& barrier : control.keys_full) init(barrier, 1);
    init(control.values_full, 1);
    init(control.values_ready, kArrivals);
    init(control.tops_full, 1);
    init(control.weights_full, 1);
    sm90::mbarrier_init_fence();
    sm90::prefetch_map(&query_map);
    sm90::prefetch_map(&cache_map);
  }
  allow_dependents();
  sm90::cluster_arrive();
  sm90::cluster_wait();
  await_predecessors();

  const int clusters = static_cast<int>(gridDim.x) / kBlocks;
  int index = static_cast<int>(blockIdx.x) / kBlocks;
  Piece piece = load_piece(a, index);  // beside the count: there is room for as many pieces as clusters
  const int pieces = *a.piece_count;
  for (std::uint32_t parity = 0; index < pieces; parity ^= 1) {
    const Share share = share_of(a, piece, rank);
    if (warp == kWorkers / 32) {
      fetch(a, shared, &query_map, &cache_map, share, lane);
      __syncwarp();
      clear_values(a, shared, share, parity, lane);
    } else {
      work(a, shared, share, index, parity);
    }
    // What others send for the next piece may not meet what is still read of this one.
    sm90::cluster_arrive();
    sm90::cluster_wait();
    index += clusters;
    if (index < pieces) piece = load_piece(a, index);
  }
}

}  // namespace

bool spread_runs() {
  return cudaFuncSetAttribute(spread_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSpreadSharedBytes) ==
         cudaSuccess;
}

cudaError_t launch_spread(const MlaDecodePlan& plan, const Arguments& arguments, cudaStream_t stream) {
  return launch_early(spread_kernel, static_cast<unsigned>(plan.spread_clusters * kBlocks), kThreads,
                      kSpreadSharedBytes, stream, plan.spread_query_map, plan.cache_maps.keys, arguments);
}

}  // namespace pelagic::mla_decode
