// The kernel of every tile. Weights stand on wgmma's M, tokens on its N: N can be as small as 8, so few rows cost little.
#pragma once

#include <cuda_bf16.h>

#include "cuda/sm90.cuh"
#include "ops/grouped_gemm/grouped_gemm_cuda.h"

namespace pelagic::grouped_gemm {

inline constexpr int kConsumerThreads = 256;  // two warpgroups: each half of the tile's weight rows
inline constexpr int kThreads = kConsumerThreads + 128;
inline constexpr int kRowBytes = 128;  // of K in a stage: one swizzled row, 128 e4m3 or 64 bf16
inline constexpr int kBarrierBytes = 1024;
inline constexpr int kSharedLimit = 232448;  // dynamic shared memory of one block on sm_90

struct KernelArguments {
  const std::int32_t* rows;
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
  static constexpr int kScaleBytes = kFp8 ? kTokenRows * 4 : 0;
  static constexpr int kScaleStride = kFp8 ? (kScaleBytes + 127) / 128 * 128 : 0;
  static constexpr int kStageBytes = kWeightBytes + kTokenBytes + kScaleStride;
  static constexpr int kPrefixBytes = 4 * 1028;  // up to 1,024 experts
  static constexpr int kAlignment = 1024;
  static constexpr int kStages = (kSharedLimit - kAlignment - kBarrierBytes - kPrefixBytes) / kStageBytes;
  static constexpr int kSharedBytes = kAlignment + kStages * kStageBytes + kBarrierBytes + kPrefixBytes;
  static_assert(kStages >= 3 && 2 * kStages * 8 + 64 <= kBarrierBytes && kSharedBytes <= kSharedLimit);
  static_assert(kTokenRows % 8 == 0 && kWeightRows % 128 == 0);
};

inline constexpr int kMaxExperts = 1024;

#ifndef PELAGIC_AHEAD
#define PELAGIC_AHEAD 6
#endif

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

// Token scale times weight scale for two neighbouring columns.
__device__ __forceinline__ float2 scale_pair(const float* token_scales, float weight_scale, int j) {
  const float2 token = *reinterpret_cast<const float2*>(token_scales + 8 * j + 2 * (threadIdx.x % 4));
  return {token.x * weight_scale, token.y * weight_scale};
}

// total += acc * scale for 8 columns of the slab.
__device__ __forceinline__ void promote(const float* acc, float2 scale, float* total) {
  total[0] = __fmaf_rn(acc[0], scale.x, total[0]);
  total[1] = __fmaf_rn(acc[1], scale.y, total[1]);
  total[2] = __fmaf_rn(acc[2], scale.x, total[2]);
  total[3] = __fmaf_rn(acc[3], scale.y, total[3]);
}

__device__ __forceinline__ std::uint32_t pack(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const std::uint32_t*>(&pair);
}

// Writes 64 weight rows x kTokenRows of the result: columns of the accumulators are rows of out, so 8x8 pieces are transposed on the way.
template <int kTokenRows>
__device__ __forceinline__ void store_slab(const float (&total)[kTokenRows / 2], const KernelArguments& arguments, const Place& place,
                                           int weight_row) {
  const int lane = threadIdx.x % 32;
  const int column = weight_row + 16 * (threadIdx.x % 128 / 32) + 2 * (lane % 4);
#pragma unroll
  for (int j = 0; j < kTokenRows / 8; ++j) {
    const std::uint32_t low = sm90::transpose_8x8(pack(total[4 * j + 0], total[4 * j + 1]));
    const std::uint32_t high = sm90::transpose_8x8(pack(total[4 * j + 2], total[4 * j + 3]));
    const int row = place.row + 8 * j + lane / 4;
    if (row < place.row_end) {
      __nv_bfloat16* target = arguments.out + static_cast<std::int64_t>(row) * arguments.n + column;
      if (column < arguments.n) *reinterpret_cast<std::uint32_t*>(target) = low;
      if (column + 8 < arguments.n) *reinterpret_cast<std::uint32_t*>(target + 8) = high;
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads, 1)
    kernel(const __grid_constant__ CUtensorMap weight_map, const __grid_constant__ CUtensorMap token_map,
           const __grid_constant__ CUtensorMap scale_map, const KernelArguments arguments) {
  extern __shared__ unsigned char shared_raw[];
  unsigned char* const shared = shared_raw + (-sm90::shared_address(shared_raw) & (T::kAlignment - 1));
  unsigned char* const weight_stages = shared;
  unsigned char* const token_stages = weight_stages + T::kStages * T::kWeightBytes;
  unsigned char* const scale_stages = token_stages + T::kStages * T::kTokenBytes;
  unsigned char* const barriers = scale_stages + T::kStages * T::kScaleStride;
  int* const warp_sums = reinterpret_cast<int*>(barriers + 2 * T::kStages * 8);
  int* const prefix = reinterpret_cast<int*>(barriers + kBarrierBytes);
  const std::uint32_t full = sm90::shared_address(barriers);
  const std::uint32_t empty = full + T::kStages * 8;

  const int rank = T::kBlocks > 1 ? static_cast<int>(sm90::cluster_rank()) : 0;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < T::kStages; ++stage) {
      sm90::mbarrier_init(full + 8 * stage, 1);
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
    // Producer: one thread asks the copy engine for every stage.
    sm90::registers_down<40>();
    if (threadIdx.x == kConsumerThreads) {
      sm90::prefetch_map(&weight_map);
      sm90::prefetch_map(&token_map);
      if constexpr (T::kFp8) sm90::prefetch_map(&scale_map);
      // With few rows a weight is read once: it should not push activations out of the L2.
      constexpr std::uint64_t kWeightPolicy = T::kTokenRows < 128 ? sm90::kEvictFirst : sm90::kEvictNormal;
      while (walk.next(rank, place)) {
        const int weight_row = place.expert * arguments.n + place.weight_row;
        for (int step = 0; step < arguments.k_steps; ++step, advance()) {
          sm90::mbarrier_wait(empty + 8 * stage, phase ^ 1);
          const std::uint32_t barrier = full + 8 * stage;
          sm90::mbarrier_arrive_expect(barrier, T::kWeightBytes + T::kTokenBytes + T::kScaleBytes);
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
          if constexpr (T::kFp8)
            sm90::copy_box(sm90::shared_address(scale_stages + stage * T::kScaleStride), &scale_map, place.row, step, barrier,
                           sm90::kEvictNormal);
        }
      }
    }
  } else {
    sm90::registers_up<232>();
    // Through a shuffle, so that the compiler knows it is the same in the whole warp and keeps descriptors in uniform registers.
    const int group = __shfl_sync(0xFFFFFFFFu, static_cast<int>(threadIdx.x) / 128, 0);
    const int lane = static_cast<int>(threadIdx.x) % 32;
    constexpr int kGroupRows = T::kWeightRows / 2;
    while (walk.next(rank, place)) {
      float total[T::kSlabs][T::kTokenRows / 2];
#pragma unroll
      for (int slab = 0; slab < T::kSlabs; ++slab)
#pragma unroll
        for (int i = 0; i < T::kTokenRows / 2; ++i) total[slab][i] = 0.0f;

      const int weight_row = place.weight_row + group * kGroupRows;
      const float* weight_scales = nullptr;
      float next_weight_scale = 0.0f;
      if constexpr (T::kFp8) {
        // Past the last block the rows are not stored: any scale does.
        const int block = min(weight_row / 128, arguments.n_blocks - 1);
        weight_scales = arguments.weight_scales + (static_cast<std::int64_t>(place.expert) * arguments.n_blocks + block) * arguments.k_steps;
        next_weight_scale = __ldg(weight_scales);
      }
      for (int step = 0; step < arguments.k_steps; ++step, advance()) {
        const float weight_scale = next_weight_scale;
        if constexpr (T::kFp8)
          if (step + 1 < arguments.k_steps) next_weight_scale = __ldg(weight_scales + step + 1);
        sm90::mbarrier_wait(full + 8 * stage, phase);
        const std::uint64_t tokens = sm90::tile_descriptor(sm90::shared_address(token_stages + stage * T::kTokenBytes));
        const std::uint64_t weights = sm90::tile_descriptor(sm90::shared_address(weight_stages + stage * T::kWeightBytes) +
                                                            group * kGroupRows * kRowBytes);
        constexpr int kSteps = 4;  // of 32 bytes in the 128 of a stage
        if constexpr (T::kFp8) {
          const float* token_scales = reinterpret_cast<const float*>(scale_stages + stage * T::kScaleStride);
          float acc[T::kTokenRows / 2];
#pragma unroll
          for (int slab = 0; slab < T::kSlabs; ++slab) {
            sm90::hold(acc);
            sm90::wgmma_fence();
#pragma unroll
            for (int i = 0; i < kSteps; ++i)
              sm90::Wgmma<T::kTokenRows>::e4m3(acc, weights + slab * (64 * kRowBytes >> 4) + 2 * i, tokens + 2 * i, i);
            sm90::wgmma_commit();
            sm90::hold(acc);
            // While the tensor cores work: the first scales, as many as registers are left for.
            constexpr int kAhead = T::kTokenRows / 8 < PELAGIC_AHEAD ? T::kTokenRows / 8 : PELAGIC_AHEAD;
            float2 ahead[kAhead + 1];
#pragma unroll
            for (int j = 0; j < kAhead; ++j) ahead[j] = scale_pair(token_scales, weight_scale, j);
            sm90::wgmma_wait_all();
            sm90::hold(acc);
#pragma unroll
            for (int j = 0; j < T::kTokenRows / 8; ++j)
              promote(acc + 4 * j, j < kAhead ? ahead[j < kAhead ? j : 0] : scale_pair(token_scales, weight_scale, j), total[slab] + 4 * j);
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
      for (int slab = 0; slab < T::kSlabs; ++slab) store_slab<T::kTokenRows>(total[slab], arguments, place, weight_row + 64 * slab);
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
  return cudaLaunchKernelEx(&config, kernel<T>, plan.weight_map, plan.token_map, plan.scale_map, arguments);
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
