// The kernel of every tile. Weights stand on wgmma's M, tokens on its N: N can be as small as 8, so few rows cost little.
#pragma once

#include <cuda_bf16.h>

#include "cuda/sm90.cuh"
#include "ops/grouped_gemm/grouped_gemm_cuda.h"

#ifndef PELAGIC_AHEAD
#define PELAGIC_AHEAD 4
#endif
#ifndef PELAGIC_TURNS
#define PELAGIC_TURNS 1
#endif

namespace pelagic::grouped_gemm {

inline constexpr int kConsumerThreads = 256;  // two warpgroups: each half of the tile's weight rows
inline constexpr int kThreads = kConsumerThreads + 128;
inline constexpr int kRowBytes = 128;  // of K in a stage: one swizzled row, 128 e4m3 or 64 bf16
inline constexpr int kBarrierBytes = 1024;
inline constexpr int kSharedLimit = 232448;  // dynamic shared memory of one block on sm_90

struct KernelArguments {
  const std::int32_t* rows;
  const float* x_scales;
  std::int64_t ld_x_scales;
  const float* weight_scales;
  __nv_bfloat16* out;
  int experts;
  int n;
  int k_steps;
  int n_blocks;  // of 128, in weight_scales
  int row_capacity;
  bool masked;
};

template <GroupedGemmType kTypeOf, int kWeightRowsOf, int kTokenRowsOf, int kBlocksOf>
struct Tile {
  static constexpr GroupedGemmType kType = kTypeOf;
  static constexpr bool kFp8 = kType == GroupedGemmType::fp8_block_scaled;
  static constexpr int kWeightRows = kWeightRowsOf;
  static constexpr int kTokenRows = kTokenRowsOf;
  static constexpr int kBlocks = kBlocksOf;  // of a cluster
  static constexpr int kColumns = kFp8 ? 128 : 64;
  static constexpr int kSlabs = kWeightRows / 128;  // of 64 weight rows, for each warpgroup
  static constexpr int kWeightBytes = kWeightRows * kRowBytes;
  static constexpr int kTokenBytes = kTokenRows * kRowBytes;
  static constexpr int kScaleGroups = kSlabs;  // 128-row blocks of weights in the tile
  static constexpr int kScales = kFp8 ? (kTokenRows < 16 ? 16 : kTokenRows) : 0;  // room for each block
  static constexpr int kScaleBytes = kScaleGroups * kScales * 4;
  static constexpr int kStageBytes = kWeightBytes + kTokenBytes + kScaleBytes;
  static constexpr int kOutTokens = kTokenRows < 64 ? kTokenRows : 64;  // that leave together
  static constexpr int kOutBytes = 2 * kOutTokens * kRowBytes;
  static constexpr bool kTurns = kSlabs > 1 && PELAGIC_TURNS;
  static constexpr int kPrefixBytes = 4 * 1028;  // up to 1,024 experts
  static constexpr int kAlignment = 1024;
  static constexpr int kFixedBytes = kAlignment + kOutBytes + kBarrierBytes + kPrefixBytes;
  static constexpr int kStages = (kSharedLimit - kFixedBytes) / kStageBytes;
  static constexpr int kSharedBytes = kFixedBytes + kStages * kStageBytes;
  static_assert(kStages >= 3 && 2 * kStages * 8 + 64 <= kBarrierBytes && kSharedBytes <= kSharedLimit);
  static_assert(kTokenRows % 8 == 0 && kWeightRows % 128 == 0);
};

inline constexpr int kMaxExperts = 1024;

// A tile of the output: token rows [row, row + kTokenRows) of the expert, weight rows from weight_row.
struct Place {
  int expert;
  int weight_row;
  int row;      // in x and out
  int row_end;  // first row that is not the expert's
};

// Walks the output tiles of this block in order. prefix[e]: token tiles of the experts before e. Tiles of one expert and one weight tile
// are neighbours, so that blocks that run together read the same weights.
template <typename T>
class Walk {
 public:
  __device__ Walk(const KernelArguments& arguments, const int* prefix, int first, int step)
      : arguments_(arguments), prefix_(prefix), next_(first), step_(step) {
    weight_tiles_ = (arguments.n + T::kWeightRows - 1) / T::kWeightRows;
    total_ = prefix[arguments.experts] * weight_tiles_;
  }

  __device__ bool next(int rank, Place& place) {
    if (next_ >= total_) return false;
    while (next_ >= prefix_[expert_ + 1] * weight_tiles_) ++expert_;
    const int begin = prefix_[expert_];
    const int token_tiles = prefix_[expert_ + 1] - begin;
    const int local = next_ - begin * weight_tiles_;
    const int weight_tile = local / token_tiles;
    const int token_tile = (local - weight_tile * token_tiles) * T::kBlocks + rank;
    const int first_row = arguments_.masked ? expert_ * arguments_.row_capacity : __ldg(arguments_.rows + expert_);
    place.expert = expert_;
    place.weight_row = weight_tile * T::kWeightRows;
    place.row = first_row + token_tile * T::kTokenRows;
    place.row_end = arguments_.masked ? first_row + min(__ldg(arguments_.rows + expert_), arguments_.row_capacity)
                                      : __ldg(arguments_.rows + expert_ + 1);
    next_ += step_;
    return true;
  }

 private:
  const KernelArguments& arguments_;
  const int* prefix_;
  int next_;
  int step_;
  int weight_tiles_;
  int total_;
  int expert_ = 0;
};

// prefix[e] = token tiles of experts [0, e), in units of kBlocks tiles. All threads of the block; ends with a barrier.
template <typename T>
__device__ void count_tiles(const KernelArguments& arguments, int* prefix, int* warp_sums) {
  constexpr int kRowsOfUnit = T::kTokenRows * T::kBlocks;
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  int before = 0;
  for (int base = 0; base < arguments.experts; base += kThreads) {
    const int expert = base + static_cast<int>(threadIdx.x);
    int tiles = 0;
    if (expert < arguments.experts) {
      const int rows = arguments.masked ? min(__ldg(arguments.rows + expert), arguments.row_capacity)
                                        : __ldg(arguments.rows + expert + 1) - __ldg(arguments.rows + expert);
      tiles = (max(rows, 0) + kRowsOfUnit - 1) / kRowsOfUnit;
    }
    int sum = tiles;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const int left = __shfl_up_sync(0xFFFFFFFFu, sum, step);
      if (lane >= step) sum += left;
    }
    if (lane == 31) warp_sums[warp] = sum;
    __syncthreads();
    int all = 0;
#pragma unroll
    for (int w = 0; w < kThreads / 32; ++w) {
      if (w == warp) sum += all;
      all += warp_sums[w];
    }
    if (expert < arguments.experts) prefix[expert + 1] = before + sum;
    before += all;
    __syncthreads();
  }
  if (threadIdx.x == 0) prefix[0] = 0;
  __syncthreads();
}

// Where the scale of token column t stands: a consumer thread then reads its four of each 16 columns at once.
__device__ __forceinline__ int scale_place(int t) { return (t / 16 * 4 + t % 8 / 2) * 4 + t / 8 % 2 * 2 + t % 2; }

// One warp keeps the stages' scales: token scale times weight scale, for each token of the tile and each 128 weight rows. Plain loads and not
// the copy engine, which takes no row that begins off a multiple of 16 bytes; an expert's first row can be any.
template <typename T, typename Advance>
__device__ void produce_scales(const KernelArguments& arguments, Walk<T>& walk, int rank, float* scale_stages, std::uint32_t full,
                               std::uint32_t empty, const int& stage, const std::uint32_t& phase, const Advance& advance) {
  constexpr int kPerLane = (T::kTokenRows + 31) / 32;
  constexpr int kBatch = kPerLane > 1 ? 2 : 4;  // steps whose loads are under way together
  const int lane = static_cast<int>(threadIdx.x) % 32;
  Place place;
  while (walk.next(rank, place)) {
    const float* weight_scales[T::kScaleGroups];
#pragma unroll
    for (int g = 0; g < T::kScaleGroups; ++g) {
      // Past the last block the rows are not stored: any scale does.
      const int block = min(place.weight_row / 128 + g, arguments.n_blocks - 1);
      weight_scales[g] = arguments.weight_scales + (static_cast<std::int64_t>(place.expert) * arguments.n_blocks + block) * arguments.k_steps;
    }
    const float* token_scales = arguments.x_scales + place.row + lane;
    for (int begin = 0; begin < arguments.k_steps; begin += kBatch) {
      float token[kBatch][kPerLane];
      float weight[kBatch][T::kScaleGroups];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const int step = min(begin + i, arguments.k_steps - 1);
#pragma unroll
        for (int p = 0; p < kPerLane; ++p)
          token[i][p] = place.row + lane + 32 * p < place.row_end ? __ldg(token_scales + step * arguments.ld_x_scales + 32 * p) : 0.0f;
#pragma unroll
        for (int g = 0; g < T::kScaleGroups; ++g) weight[i][g] = __ldg(weight_scales[g] + step);
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        if (begin + i == arguments.k_steps) break;
        sm90::mbarrier_wait(empty + 8 * stage, phase ^ 1);
        float* target = scale_stages + stage * (T::kScaleBytes / 4);
#pragma unroll
        for (int g = 0; g < T::kScaleGroups; ++g)
#pragma unroll
          for (int p = 0; p < kPerLane; ++p)
            if (lane + 32 * p < T::kTokenRows) target[g * T::kScales + scale_place(lane + 32 * p)] = token[i][p] * weight[i][g];
        __syncwarp();
        if (lane == 0) sm90::mbarrier_arrive(full + 8 * stage);
        advance();
      }
    }
  }
}

// total += acc * scale for up to 16 columns of the slab: 8 where kColumns is 8.
template <int kColumns>
__device__ __forceinline__ void promote(const float* acc, float4 scale, float* total) {
  total[0] = __fmaf_rn(acc[0], scale.x, total[0]);
  total[1] = __fmaf_rn(acc[1], scale.y, total[1]);
  total[2] = __fmaf_rn(acc[2], scale.x, total[2]);
  total[3] = __fmaf_rn(acc[3], scale.y, total[3]);
  if constexpr (kColumns == 16) {
    total[4] = __fmaf_rn(acc[4], scale.z, total[4]);
    total[5] = __fmaf_rn(acc[5], scale.w, total[5]);
    total[6] = __fmaf_rn(acc[6], scale.z, total[6]);
    total[7] = __fmaf_rn(acc[7], scale.w, total[7]);
  }
}

__device__ __forceinline__ std::uint32_t pack(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const std::uint32_t*>(&pair);
}

// Writes 64 weight rows x kTokenRows of the result. Columns of the accumulators are rows of out: they are transposed through the
// warpgroup's part of shared memory, 128 bytes for each token, 16-byte pieces swizzled by the token so that no two lanes meet in a bank.
template <typename T>
__device__ __forceinline__ void store_slab(const float (&total)[T::kTokenRows / 2], const KernelArguments& arguments, const Place& place,
                                           int weight_row, unsigned char* out_stage, int group) {
  constexpr int kTokens = T::kOutTokens;
  const int thread = static_cast<int>(threadIdx.x) % 128;
  const int lane = thread % 32;
  const int piece = 2 * (thread / 32) + lane / 8 % 2;
  const int barrier = 3 + group;
  const std::uint32_t stage = sm90::shared_address(out_stage);
  const std::uint32_t mine = stage + (lane / 16 * 8 + lane % 8) * kRowBytes + ((piece ^ (lane % 8)) * 16);
#pragma unroll
  for (int begin = 0; begin < T::kTokenRows; begin += kTokens) {
    sm90::barrier_sync(barrier, 128);
    if constexpr (kTokens == 8) {
      sm90::store_transposed(mine, pack(total[0], total[1]), pack(total[2], total[3]));
    } else {
#pragma unroll
      for (int t = 0; t < kTokens; t += 16) {
        const float* from = total + (begin + t) / 2;
        sm90::store_transposed(mine + t * kRowBytes, pack(from[0], from[1]), pack(from[2], from[3]), pack(from[4], from[5]),
                               pack(from[6], from[7]));
      }
    }
    sm90::barrier_sync(barrier, 128);
#pragma unroll
    for (int i = 0; i < (kTokens * 8 + 127) / 128; ++i) {
      const int token = (thread + 128 * i) / 8;
      const int column = weight_row + thread % 8 * 8;
      const int row = place.row + begin + token;
      if (token < kTokens && row < place.row_end && column < arguments.n)
        *reinterpret_cast<uint4*>(arguments.out + static_cast<std::int64_t>(row) * arguments.n + column) =
            *reinterpret_cast<const uint4*>(out_stage + token * kRowBytes + ((thread % 8 ^ token % 8) * 16));
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads, 1)
    kernel(const __grid_constant__ CUtensorMap weight_map, const __grid_constant__ CUtensorMap token_map, const KernelArguments arguments) {
  extern __shared__ unsigned char shared_raw[];
  unsigned char* const shared = shared_raw + (-sm90::shared_address(shared_raw) & (T::kAlignment - 1));
  unsigned char* const weight_stages = shared;
  unsigned char* const token_stages = weight_stages + T::kStages * T::kWeightBytes;
  unsigned char* const out_stages = token_stages + T::kStages * T::kTokenBytes;
  float* const scale_stages = reinterpret_cast<float*>(out_stages + T::kOutBytes);
  unsigned char* const barriers = reinterpret_cast<unsigned char*>(scale_stages) + T::kStages * T::kScaleBytes;
  int* const warp_sums = reinterpret_cast<int*>(barriers + 2 * T::kStages * 8);
  int* const prefix = reinterpret_cast<int*>(barriers + kBarrierBytes);
  const std::uint32_t full = sm90::shared_address(barriers);
  const std::uint32_t empty = full + T::kStages * 8;

  const int rank = T::kBlocks > 1 ? static_cast<int>(sm90::cluster_rank()) : 0;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < T::kStages; ++stage) {
      sm90::mbarrier_init(full + 8 * stage, T::kFp8 ? 2 : 1);  // the copies' producer, the scales' producer
      sm90::mbarrier_init(empty + 8 * stage, kConsumerThreads / 32 * T::kBlocks);
    }
    sm90::mbarrier_init_fence();
  }
  count_tiles<T>(arguments, prefix, warp_sums);
  if constexpr (T::kBlocks > 1) {
    sm90::cluster_arrive();
    sm90::cluster_wait();
  }

  Walk<T> walk(arguments, prefix, static_cast<int>(blockIdx.x) / T::kBlocks, static_cast<int>(gridDim.x) / T::kBlocks);
  Place place;
  int stage = 0;
  std::uint32_t phase = 0;
  const auto advance = [&] {
    if (++stage == T::kStages) {
      stage = 0;
      phase ^= 1;
    }
  };

  if (threadIdx.x >= kConsumerThreads) {
    // Producers: one thread asks the copy engine for every stage, another warp brings the scales.
    sm90::registers_down<56>();
    if (threadIdx.x == kConsumerThreads) {
      sm90::prefetch_map(&weight_map);
      sm90::prefetch_map(&token_map);
      // With few rows a weight is read once: it should not push activations out of the L2.
      constexpr std::uint64_t kWeightPolicy = T::kTokenRows < 128 ? sm90::kEvictFirst : sm90::kEvictNormal;
      while (walk.next(rank, place)) {
        const int weight_row = place.expert * arguments.n + place.weight_row;
        for (int step = 0; step < arguments.k_steps; ++step, advance()) {
          sm90::mbarrier_wait(empty + 8 * stage, phase ^ 1);
          const std::uint32_t barrier = full + 8 * stage;
          sm90::mbarrier_arrive_expect(barrier, T::kWeightBytes + T::kTokenBytes);
          const std::uint32_t weights = sm90::shared_address(weight_stages + stage * T::kWeightBytes);
          const int column = step * T::kColumns;
          constexpr int kBoxBytes = 128 * kRowBytes;
          if constexpr (T::kBlocks > 1) {
            static_assert(T::kWeightRows == 128 * T::kBlocks);
            sm90::copy_box_multicast(weights + rank * kBoxBytes, &weight_map, column, weight_row + 128 * rank, barrier,
                                     (1 << T::kBlocks) - 1, kWeightPolicy);
          } else {
#pragma unroll
            for (int box = 0; box < T::kWeightRows / 128; ++box)
              sm90::copy_box(weights + box * kBoxBytes, &weight_map, column, weight_row + 128 * box, barrier, kWeightPolicy);
          }
          sm90::copy_box(sm90::shared_address(token_stages + stage * T::kTokenBytes), &token_map, column, place.row, barrier,
                         sm90::kEvictNormal);
        }
      }
    } else if (T::kFp8 && threadIdx.x / 32 == kConsumerThreads / 32 + 1) {
      produce_scales<T>(arguments, walk, rank, scale_stages, full, empty, stage, phase, advance);
    }
  } else {
    sm90::registers_up<224>();
    // Through a shuffle, so that the compiler knows it is the same in the whole warp and keeps descriptors in uniform registers.
    const int group = __shfl_sync(0xFFFFFFFFu, static_cast<int>(threadIdx.x) / 128, 0);
    const int lane = static_cast<int>(threadIdx.x) % 32;
    constexpr int kGroupRows = T::kWeightRows / 2;
    // The warpgroups take turns at the tensor cores: while one multiplies, the other promotes. Left alone they fall into step and do both
    // together. The last turn that the second one gives stays unused.
    if constexpr (T::kFp8 && T::kTurns)
      if (group == 1) sm90::barrier_arrive(1, kConsumerThreads);
    while (walk.next(rank, place)) {
      float total[T::kSlabs][T::kTokenRows / 2];
#pragma unroll
      for (int slab = 0; slab < T::kSlabs; ++slab)
#pragma unroll
        for (int i = 0; i < T::kTokenRows / 2; ++i) total[slab][i] = 0.0f;

      const int weight_row = place.weight_row + group * kGroupRows;
      for (int step = 0; step < arguments.k_steps; ++step, advance()) {
        sm90::mbarrier_wait(full + 8 * stage, phase);
        const std::uint64_t tokens = sm90::tile_descriptor(sm90::shared_address(token_stages + stage * T::kTokenBytes));
        const std::uint64_t weights = sm90::tile_descriptor(sm90::shared_address(weight_stages + stage * T::kWeightBytes) +
                                                            group * kGroupRows * kRowBytes);
        constexpr int kSteps = 4;  // of 32 bytes in the 128 of a stage
        if constexpr (T::kFp8) {
          const float4* scales = reinterpret_cast<const float4*>(scale_stages + stage * (T::kScaleBytes / 4) +
                                                                 (T::kScaleGroups > 1 ? group * T::kScales : 0)) +
                                 threadIdx.x % 4;
          constexpr int kParts = T::kScales / 16;
          constexpr int kPartColumns = T::kTokenRows < 16 ? 8 : 16;
          // While the tensor cores work: the first scales, as many as registers are left for.
          constexpr int kAhead = kParts < PELAGIC_AHEAD ? kParts : PELAGIC_AHEAD;
          float acc[T::kTokenRows / 2];
#pragma unroll
          for (int slab = 0; slab < T::kSlabs; ++slab) {
            if constexpr (T::kTurns) sm90::barrier_sync(1 + group, kConsumerThreads);
            sm90::hold(acc);
            sm90::wgmma_fence();
#pragma unroll
            for (int i = 0; i < kSteps; ++i)
              sm90::Wgmma<T::kTokenRows>::e4m3(acc, weights + slab * (64 * kRowBytes >> 4) + 2 * i, tokens + 2 * i, i);
            sm90::wgmma_commit();
            sm90::hold(acc);
            if constexpr (T::kTurns) sm90::barrier_arrive(2 - group, kConsumerThreads);
            float4 ahead[kAhead + 1];
#pragma unroll
            for (int part = 0; part < kAhead; ++part) ahead[part] = scales[4 * part];
            sm90::wgmma_wait_all();
            sm90::hold(acc);
#pragma unroll
            for (int part = 0; part < kParts; ++part)
              promote<kPartColumns>(acc + 8 * part, part < kAhead ? ahead[part < kAhead ? part : 0] : scales[4 * part], total[slab] + 8 * part);
            // Or the compiler would leave part of this until after the next wait for a turn.
            if constexpr (T::kTurns) sm90::hold(total[slab]);
          }
        } else {
#pragma unroll
          for (int slab = 0; slab < T::kSlabs; ++slab) sm90::hold(total[slab]);
          sm90::wgmma_fence();
#pragma unroll
          for (int slab = 0; slab < T::kSlabs; ++slab)
#pragma unroll
            for (int i = 0; i < kSteps; ++i)
              sm90::Wgmma<T::kTokenRows>::bf16(total[slab], weights + slab * (64 * kRowBytes >> 4) + 2 * i, tokens + 2 * i, 1);
          sm90::wgmma_commit();
#pragma unroll
          for (int slab = 0; slab < T::kSlabs; ++slab) sm90::hold(total[slab]);
          sm90::wgmma_wait_all();
#pragma unroll
          for (int slab = 0; slab < T::kSlabs; ++slab) sm90::hold(total[slab]);
        }
        __syncwarp();
        if constexpr (T::kBlocks > 1) {
          if (lane < T::kBlocks) sm90::mbarrier_arrive_at(empty + 8 * stage, lane);
        } else {
          if (lane == 0) sm90::mbarrier_arrive(empty + 8 * stage);
        }
      }
#pragma unroll
      for (int slab = 0; slab < T::kSlabs; ++slab)
        store_slab<T>(total[slab], arguments, place, weight_row + 64 * slab, out_stages + group * (T::kOutBytes / 2), group);
    }
  }
  if constexpr (T::kBlocks > 1) {
    // The other block still arrives at this one's barriers.
    __syncwarp();
    sm90::cluster_arrive();
    sm90::cluster_wait();
  }
}

template <typename T>
int grid_of() {
  int device = 0;
  int processors = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 0;
  if (cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device) != cudaSuccess) return 0;
  if (cudaFuncSetAttribute(kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, T::kSharedBytes) != cudaSuccess) return 0;
  if constexpr (T::kBlocks > 1) {
    // Each block walks its share of the tiles: all of them must run at once, and a processor left over in its group has no partner.
    cudaLaunchConfig_t config = {};
    config.gridDim = processors / T::kBlocks * T::kBlocks;
    config.blockDim = kThreads;
    config.dynamicSmemBytes = T::kSharedBytes;
    cudaLaunchAttribute attribute;
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {T::kBlocks, 1, 1};
    config.attrs = &attribute;
    config.numAttrs = 1;
    int clusters = 0;
    if (cudaOccupancyMaxActiveClusters(&clusters, kernel<T>, &config) != cudaSuccess) return 0;
    return min(clusters, processors / T::kBlocks) * T::kBlocks;
  }
  return processors;
}

template <typename T>
cudaError_t launch(const GroupedGemmPlan& plan, const KernelArguments& arguments, cudaStream_t stream) {
  cudaLaunchConfig_t config = {};
  config.gridDim = plan.grid;
  config.blockDim = kThreads;
  config.dynamicSmemBytes = T::kSharedBytes;
  config.stream = stream;
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {T::kBlocks, 1, 1};
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel<T>, plan.weight_map, plan.token_map, arguments);
}

// One entry of the table that turns (type, tile) into a kernel.
struct Entry {
  int token_rows;
  int (*grid)();
  cudaError_t (*launch)(const GroupedGemmPlan&, const KernelArguments&, cudaStream_t);
};

template <typename T>
constexpr Entry entry_of() {
  return {T::kTokenRows, &grid_of<T>, &launch<T>};
}

const Entry& fp8_entry(GroupedGemmTile tile);
const Entry& bf16_entry(GroupedGemmTile tile);

}  // namespace pelagic::grouped_gemm
