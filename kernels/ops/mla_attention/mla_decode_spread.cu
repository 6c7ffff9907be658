// The cuts spread: where there are few pieces, each is a cluster's. A block scores one of the cut's eight tiles and
// tells the others the largest scores, weighs it and hands out the weights, then sums 64 of the 512 columns over all
// tiles. Every number comes of the same steps as in mla_decode_cuts.cu. CUDA.md.
#include "cuda/dependents.cuh"
#include "ops/mla_attention/mla_decode_tile.cuh"

namespace pelagic::mla_decode {
namespace {

constexpr int kThreads = 128;
constexpr int kBlocks = kSpreadTiles;  // of a cluster
static_assert(kBlocks == kLatentPanels && kBlocks * kPanelBytes <= kTileBytes);

// Of a tile, from the block that weighed it.
struct Weighed {
  float kept[kTile];     // what each vector's sums so far are multiplied by
  float sums[kTile][4];  // of its weights, in the four threads that have the vector
};

struct SpreadControl {
  std::uint64_t scored_full;               // queries and the block's own tile have arrived
  std::uint64_t values_full;               // the block's columns of all tiles
  std::uint64_t tops_full;                 // the other blocks' largest scores
  std::uint64_t weights_full;              // their weights
  std::int32_t keys[kBlocks];              // of each tile that exist
  alignas(16) float tops[kBlocks][kTile];  // largest scaled score of each tile
  Weighed weighed[kBlocks];
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

// Warp 0: a lane for each tile, and for each panel of the block's own.
__device__ void load(const Arguments& a, const SpreadShared& shared, const CUtensorMap* query_map,
                     const CUtensorMap* cache_map, const Piece& piece, int tiles, int rank, int lane) {
  SpreadControl& control = *shared.control;
  const int first_key = piece.cut * a.cut_tokens;
  const std::uint64_t policy = piece.rows * a.heads <= kTile ? sm90::kEvictFirst : sm90::kEvictNormal;
  int row = a.cache_blocks * kTile;  // past the cache's end zeros arrive
  int keys = 0;
  if (lane < tiles) {
    const int block =
        __ldg(a.block_table + static_cast<std::int64_t>(piece.sequence) * a.max_blocks + first_key / kTile + lane);
    if (block >= 0 && block < a.cache_blocks) {
      row = block * kTile;
      keys = min(kTile, piece.length - first_key - lane * kTile);
    } else {
      a.errors[kMlaDecodeBadBlock] = 1;
    }
  }
  if (lane < kBlocks) control.keys[lane] = keys;
  const int live = min(kTile, piece.rows * a.heads - piece.tile * kTile);
  const bool scores = rank < tiles;
  if (lane == 0) {
    sm90::mbarrier_arrive_expect(sm90::shared_address(&control.scored_full), scores ? 2 * kTileBytes : 0);
    sm90::mbarrier_arrive_expect(sm90::shared_address(&control.values_full), tiles * kPanelBytes);
    sm90::mbarrier_arrive_expect(sm90::shared_address(&control.tops_full), (kBlocks - 1) * kTile * sizeof(float));
    sm90::mbarrier_arrive_expect(sm90::shared_address(&control.weights_full),
                                 (tiles - (scores ? 1 : 0)) * (live * 128 + static_cast<int>(sizeof(Weighed))));
  }
  __syncwarp();
  const int own_row = __shfl_sync(0xFFFFFFFFu, row, rank);
  const std::uint32_t full = sm90::shared_address(&control.scored_full);
  if (scores && lane < kPanels) {
    sm90::copy_box(sm90::shared_address(shared.keys) + lane * kPanelBytes, cache_map, lane * kPanel, own_row, full,
                   sm90::kEvictNormal);
    sm90::copy_box(sm90::shared_address(shared.queries) + lane * kPanelBytes, query_map, lane * kPanel,
                   piece.row * a.heads + piece.tile * kTile, full, sm90::kEvictNormal);
  }
  if (lane < tiles)
    sm90::copy_box(sm90::shared_address(shared.values) + lane * kPanelBytes, cache_map, rank * kPanel, row,
                   sm90::shared_address(&control.values_full), policy);
}

// The block's columns of the keys that not all of the sequence's rows see.
__device__ __forceinline__ void clear_values(const Arguments& a, const SpreadShared& shared, const Piece& piece,
                                             int tiles) {
  const int all_see = visible_keys(a, piece, 0) - piece.cut * a.cut_tokens;
  const int thread = static_cast<int>(threadIdx.x);
  for (int t = 0; t < tiles; ++t) {
    const int keys = shared.control->keys[t];
    for (int row = max(0, min(all_see - t * kTile, keys)) + thread / 8; row < kTile; row += kThreads / 8)
      clear_latents(shared.values + t * kPanelBytes + row * 128 + thread % 8 * 16, row, keys);
  }
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
  SpreadControl& control = *shared.control;
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32;
  const int warp = __shfl_sync(0xFFFFFFFFu, thread / 32, 0);
  const int place = 16 * warp + lane / 4;
  const int rank = static_cast<int>(sm90::cluster_rank());
  if (thread == 0) {
    for (std::uint64_t* barrier :
         {&control.scored_full, &control.values_full, &control.tops_full, &control.weights_full})
      sm90::mbarrier_init(sm90::shared_address(barrier), 1);
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
  std::uint32_t parity = 0;
  while (index < pieces) {
    const int tiles = tiles_of_piece(a, piece);
    const bool scores = rank < tiles;
    if (warp == 0) load(a, shared, &query_map, &cache_map, piece, tiles, rank, lane);
    __syncthreads();

    Scores s;
    float top[2] = {-INFINITY, -INFINITY};
    if (scores) {
      wait(control.scored_full, parity);
      score_tile(s, sm90::tile_descriptor(sm90::shared_address(shared.queries)),
                 sm90::tile_descriptor(sm90::shared_address(shared.keys)));
      const int first_key = piece.cut * a.cut_tokens + rank * kTile;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int seen = visible_keys(a, piece, piece.tile * kTile + place + 8 * i) - first_key;
        top[i] = mask_scores(s, i, min(seen, control.keys[rank]), lane) * a.log2_scale;
      }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i)
      if (lane % 4 == 0) control.tops[rank][place + 8 * i] = top[i];
    // All warps have read the queries too: their place may hold weights.
    __syncthreads();
    constexpr int kParts = kThreads / kBlocks;  // of 4 vectors
    static_assert(kParts * 4 == kTile);
    if (thread / kParts != rank) {
      float* part = &control.tops[rank][thread % kParts * 4];
      sm90::store_async_at(sm90::shared_address(part), sm90::shared_address(&control.tops_full),
                           static_cast<std::uint32_t>(thread / kParts), *reinterpret_cast<const uint4*>(part));
    }
    wait(control.tops_full, parity);
    float largest[2] = {-INFINITY, -INFINITY};
    float kept[2], origin[2];
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
    const std::uint32_t weights = sm90::shared_address(shared.queries);
    if (scores) {
      Weights own;
      float tile_sum[2];
      weigh_scores(s, a.log2_scale, origin, own, tile_sum);
      store_weights(weights + rank * kPanelBytes, own, warp, lane);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        control.weighed[rank].sums[place + 8 * i][lane % 4] = tile_sum[i];
        if (lane % 4 == 0) control.weighed[rank].kept[place + 8 * i] = kept[i];
      }
    }
    wait(control.values_full, parity);
    clear_values(a, shared, piece, tiles);
    sm90::fence_for_engines();
    __syncthreads();
    if (scores && thread < kBlocks && thread != rank) {
      const int live = min(kTile, piece.rows * a.heads - piece.tile * kTile);
      const std::uint32_t full = sm90::shared_address(&control.weights_full);
      sm90::copy_to_block(weights + rank * kPanelBytes, live * 128, full, static_cast<std::uint32_t>(thread));
      sm90::copy_to_block(sm90::shared_address(&control.weighed[rank]), sizeof(Weighed), full,
                          static_cast<std::uint32_t>(thread));
    }
    __syncwarp();
    wait(control.weights_full, parity);
    // That all have received says that all have been read: a block may end, or begin anew.
    sm90::cluster_arrive();

    float total[kPanel / 2], sums[2] = {};
#pragma unroll
    for (float& value : total) value = 0.0f;
    for (int t = 0; t < tiles; ++t) {
      const Weighed& weighed = control.weighed[t];
      const float upper = weighed.kept[place], lower = weighed.kept[place + 8];
      sums[0] = __fmaf_rn(sums[0], upper, weighed.sums[place][lane % 4]);
      sums[1] = __fmaf_rn(sums[1], lower, weighed.sums[place + 8][lane % 4]);
      if (__any_sync(0xFFFFFFFFu, upper != 1.0f || lower != 1.0f)) scale_sums(total, upper, lower);
      const std::uint64_t a_tile = sm90::tile_descriptor(weights + t * kPanelBytes);
      const std::uint64_t latents =
          sm90::transposed_descriptor(sm90::shared_address(shared.values) + t * kPanelBytes, kPanelBytes);
      sm90::hold(total);
      sm90::wgmma_fence();
#pragma unroll
      for (int i = 0; i < 4; ++i) sm90::Wgmma<kPanel>::bf16_transposed(total, a_tile + 2 * i, latents + 128 * i, 1);
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
    __syncthreads();
    sm90::cluster_wait();
    parity ^= 1;
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
                      kSpreadSharedBytes, stream, plan.query_map, plan.cache_maps.keys, arguments);
}

}  // namespace pelagic::mla_decode
