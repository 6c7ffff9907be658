// The kernel of every tile. In narrow tiles weights stand on wgmma's M and tokens on its N, which can be as small as 8:
// few rows cost little. In wide tiles tokens stand on M: then a thread needs two token scales and not one for each of
// its columns, and shared memory, whose bandwidth is what such a tile runs out of first, is spared that. An element's
// products and sums are the same either way.
#pragma once

#include <cuda_bf16.h>

#include "cuda/arithmetic.cuh"
#include "cuda/dependents.cuh"
#include "cuda/sm90.cuh"
#include "ops/grouped_gemm/grouped_gemm_cuda.h"

namespace pelagic::grouped_gemm {

inline constexpr int kRowBytes = 128;  // of K in a stage: one swizzled row, 128 e4m3 or 64 bf16
inline constexpr int kBarrierBytes = 1024;
inline constexpr int kMaxExperts = 1024;
inline constexpr int kSharedLimit = 232448;  // dynamic shared memory of one block on sm_90
inline constexpr int kLeanSharedLimit = 208 * 1024;

using sm90::kArrivals;

struct KernelArguments {
  const std::int32_t* rows;
  const float* x_scales;
  std::int64_t ld_x_scales;
  const float* weight_scales;
  __nv_bfloat16* out;
  std::int64_t ld_out;
  std::int64_t out_step;  // from expert to expert, side by side
  int x_step;
  int experts;
  int n;
  int k_steps;
  int n_blocks;  // of 128, in weight_scales
  int row_capacity;
  bool masked;
  bool beside;
};

template <GroupedGemmType kTypeOf, int kWeightRowsOf, int kTokenRowsOf, int kBlocksOf>
struct Tile {
  static constexpr GroupedGemmType kType = kTypeOf;
  static constexpr bool kFp8 = kType == GroupedGemmType::fp8_block_scaled;
  static constexpr int kWeightRows = kWeightRowsOf;
  static constexpr int kTokenRows = kTokenRowsOf;
  static constexpr int kBlocks = kBlocksOf;  // of a cluster
  static constexpr int kColumns = kFp8 ? 128 : 64;
  static constexpr bool kWide = kTokenRows == 128;
  // Warpgroups that multiply, and one more that brings.
  static constexpr int kGroups = kWeightRows == 64 ? 1 : 2;
  static constexpr int kConsumerThreads = kGroups * 128;
  static constexpr int kThreads = kConsumerThreads + 128;
  static constexpr int kBoxRows = kWeightRows < 128 ? kWeightRows : 128;  // of weights, that are asked for together
  // A warpgroup owns 64 weight rows of the tile, or, in a wide tile, 64 token rows, which it does in parts of 128
  // weight rows.
  static constexpr int kParts = kWide ? kWeightRows / 128 : 1;
  static constexpr int kPartValues = kWide ? 64 : kTokenRows / 2;  // accumulators of a part in a thread
  static constexpr int kWeightBytes = kWeightRows * kRowBytes;
  static constexpr int kTokenBytes = kTokenRows * kRowBytes;
  // Scales of a stage: wide tiles keep token scales, then the weight scale of each part; narrow ones the products.
  static constexpr int kScales = !kFp8 ? 0 : kWide ? kTokenRows + 32 : kTokenRows < 16 ? 16 : kTokenRows;
  static constexpr int kScaleBytes = kScales * 4;
  static constexpr int kStageBytes = kWeightBytes + kTokenBytes + kScaleBytes;
  static constexpr int kOutTokens =
      kTokenRows < 64 ? kTokenRows : 64;  // that a warpgroup stores together, 64 columns of each
  static constexpr int kGroupOutBytes = kOutTokens * kRowBytes;
  static constexpr int kOutBytes = kGroups * kGroupOutBytes;
  static constexpr int kPrefixBytes = 4 * (kMaxExperts + 4);
  static constexpr int kAlignment = 1024;
  static constexpr int kFixedBytes = kAlignment + kOutBytes + kBarrierBytes + kPrefixBytes;
  // The smallest leave registers and shared memory to what runs beside them.
  static constexpr bool kLean = kTokenRows <= 16;
  static constexpr int kStages = ((kLean ? kLeanSharedLimit : kSharedLimit) - kFixedBytes) / kStageBytes;
  static constexpr int kSharedBytes = kFixedBytes + kStages * kStageBytes;
  static_assert(kStages >= 3 && 2 * kStages * 8 + 64 <= kBarrierBytes && kSharedBytes <= kSharedLimit);
  static_assert(kWide ? kWeightRows % 128 == 0
                      : (kWeightRows == 64 || kWeightRows == 128) && kTokenRows % 8 == 0 && kTokenRows <= 64);
};

struct RowRange {
  int begin;
  int end;
};

// The expert's rows of x and out. Never beyond the buffers, whatever the counts say.
__device__ __forceinline__ RowRange rows_of(const KernelArguments& arguments, int expert) {
  if (arguments.rows == nullptr) return {0, arguments.row_capacity};
  const int first = arguments.rows[expert];
  if (arguments.masked) {
    const int begin = expert * arguments.row_capacity;
    return {begin, begin + max(0, min(first, arguments.row_capacity))};
  }
  const int begin = max(0, first);
  return {begin, max(begin, min(arguments.rows[expert + 1], arguments.row_capacity))};
}

// A tile of the output: token rows [row, row + kTokenRows) of the expert, weight rows from weight_row.
struct Place {
  int expert;
  int weight_row;
  int row;      // in x and out
  int row_end;  // of the expert
};

// Walks the output tiles of this block in order. prefix[e]: token tiles of the experts before e. Tiles of one expert
// and one weight tile are neighbours, so that blocks that run together read the same weights.
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
    const RowRange rows = rows_of(arguments_, expert_);
    place.expert = expert_;
    place.weight_row = weight_tile * T::kWeightRows;
    place.row = rows.begin + token_tile * T::kTokenRows;
    place.row_end = rows.end;
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
  for (int base = 0; base < arguments.experts; base += T::kThreads) {
    const int expert = base + static_cast<int>(threadIdx.x);
    int tiles = 0;
    if (expert < arguments.experts) {
      const RowRange rows = rows_of(arguments, expert);
      tiles = (rows.end - rows.begin + kRowsOfUnit - 1) / kRowsOfUnit;
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
    for (int w = 0; w < T::kThreads / 32; ++w) {
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

// Where the scale of token column t stands in a narrow tile: a consumer thread then reads its four of each 16 columns
// at once.
__device__ __forceinline__ int scale_place(int t) { return (t / 16 * 4 + t % 8 / 2) * 4 + t / 8 % 2 * 2 + t % 2; }

// One warp keeps the stages' scales. Plain loads and not the copy engine, which takes no row that begins off a multiple
// of 16 bytes; an expert's first row can be any.
template <typename T, typename Advance>
__device__ void produce_scales(const KernelArguments& arguments, Walk<T>& walk, int rank, float* scale_stages,
                               std::uint32_t full, std::uint32_t empty, const int& stage, const std::uint32_t& phase,
                               const Advance& advance) {
  constexpr int kPerLane = (T::kTokenRows + 31) / 32;
  constexpr int kBatch = kPerLane > 1 ? 2 : 4;  // steps whose loads are under way together
  const int lane = static_cast<int>(threadIdx.x) % 32;
  Place place;
  while (walk.next(rank, place)) {
    // Lane l brings the weight scale of part l (of wide tiles; a narrow tile has one). Past the last block of 128 the
    // columns are not stored: any scale does.
    const int block = min(place.weight_row / 128 + lane % T::kParts, arguments.n_blocks - 1);
    const float* weight_scales =
        arguments.weight_scales +
        (static_cast<std::int64_t>(place.expert) * arguments.n_blocks + block) * arguments.k_steps;
    const float* token_scales = arguments.x_scales + place.row + lane;
    for (int begin = 0; begin < arguments.k_steps; begin += kBatch) {
      float token[kBatch][kPerLane];
      float weight[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const int step = min(begin + i, arguments.k_steps - 1);
#pragma unroll
        for (int p = 0; p < kPerLane; ++p)
          token[i][p] =
              place.row + lane + 32 * p < place.row_end ? token_scales[step * arguments.ld_x_scales + 32 * p] : 0.0f;
        weight[i] = __ldg(weight_scales + step);
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        if (begin + i == arguments.k_steps) break;
        sm90::mbarrier_wait(empty + 8 * stage, phase ^ 1);
        float* target = scale_stages + stage * T::kScales;
        if constexpr (T::kWide) {
#pragma unroll
          for (int p = 0; p < kPerLane; ++p) target[lane + 32 * p] = token[i][p];
          target[T::kTokenRows + lane] = weight[i];
        } else {
#pragma unroll
          for (int p = 0; p < kPerLane; ++p)
            if (lane + 32 * p < T::kTokenRows) target[scale_place(lane + 32 * p)] = token[i][p] * weight[i];
        }
        __syncwarp();
        if (lane < kArrivals) sm90::mbarrier_arrive(full + 8 * stage);
        advance();
      }
    }
  }
}

// total += acc * (token scale * weight scale). Narrow: scales holds the products, one for each column.
template <int kTokenRows>
__device__ __forceinline__ void promote_narrow(const float (&acc)[kTokenRows / 2], const float* scales,
                                               float (&total)[kTokenRows / 2]) {
  const float4* mine = reinterpret_cast<const float4*>(scales) + threadIdx.x % 4;
#pragma unroll
  for (int i = 0; i < kTokenRows / 2; i += 8) {
    const float4 scale = mine[i / 2];
    total[i + 0] = __fmaf_rn(acc[i + 0], scale.x, total[i + 0]);
    total[i + 1] = __fmaf_rn(acc[i + 1], scale.y, total[i + 1]);
    total[i + 2] = __fmaf_rn(acc[i + 2], scale.x, total[i + 2]);
    total[i + 3] = __fmaf_rn(acc[i + 3], scale.y, total[i + 3]);
    if constexpr (kTokenRows > 8) {
      total[i + 4] = __fmaf_rn(acc[i + 4], scale.z, total[i + 4]);
      total[i + 5] = __fmaf_rn(acc[i + 5], scale.w, total[i + 5]);
      total[i + 6] = __fmaf_rn(acc[i + 6], scale.z, total[i + 6]);
      total[i + 7] = __fmaf_rn(acc[i + 7], scale.w, total[i + 7]);
    }
  }
}

// Wide: one scale for the thread's upper row, one for its lower.
__device__ __forceinline__ void promote_wide(const float (&acc)[64], float upper, float lower, float (&total)[64]) {
#pragma unroll
  for (int i = 0; i < 64; i += 4) {
    total[i + 0] = __fmaf_rn(acc[i + 0], upper, total[i + 0]);
    total[i + 1] = __fmaf_rn(acc[i + 1], upper, total[i + 1]);
    total[i + 2] = __fmaf_rn(acc[i + 2], lower, total[i + 2]);
    total[i + 3] = __fmaf_rn(acc[i + 3], lower, total[i + 3]);
  }
}

// The warpgroup's piece of shared memory -> out: kTokens rows from `row` on, 64 columns from `column` on, 16 bytes a
// thread. A token has 128 bytes there, its 16-byte pieces swizzled by the token so that no two lanes meet in a bank.
template <int kTokens>
__device__ __forceinline__ void copy_out(const KernelArguments& arguments, const Place& place, int row, int column,
                                         const unsigned char* out_stage) {
  const int thread = static_cast<int>(threadIdx.x) % 128;
  column += thread % 8 * 8;
  __nv_bfloat16* const out = arguments.out + place.expert * arguments.out_step;
#pragma unroll
  for (int i = 0; i < (kTokens * 8 + 127) / 128; ++i) {
    const int token = (thread + 128 * i) / 8;
    if (token < kTokens && row + token < place.row_end && column < arguments.n)
      *reinterpret_cast<uint4*>(out + (row + token) * arguments.ld_out + column) =
          *reinterpret_cast<const uint4*>(out_stage + token * kRowBytes + ((thread % 8 ^ token % 8) * 16));
  }
}

// Writes the warpgroup's part of the result, rounded to bf16: kTokenRows x 64 columns (narrow), 64 rows x 128 columns
// (wide).
template <typename T>
__device__ __forceinline__ void store_part(const float (&total)[T::kPartValues], const KernelArguments& arguments,
                                           const Place& place, int part, int group, unsigned char* out_stage) {
  const int thread = static_cast<int>(threadIdx.x) % 128;
  const int lane = thread % 32;
  const int barrier = 1 + group;
  const std::uint32_t stage = sm90::shared_address(out_stage);
  const auto four = [&](int i, std::uint32_t address, auto store) {
    store(address, bf16_pair(total[i], total[i + 1]), bf16_pair(total[i + 2], total[i + 3]),
          bf16_pair(total[i + 4], total[i + 5]), bf16_pair(total[i + 6], total[i + 7]));
  };
  if constexpr (T::kWide) {
    const int token = 16 * (thread / 32) + lane % 16;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      sm90::barrier_sync(barrier, 128);
#pragma unroll
      for (int piece = 0; piece < 8; piece += 2)
        four(32 * half + 4 * piece, stage + token * kRowBytes + (((piece + lane / 16) ^ (token % 8)) * 16),
             [](auto... x) { sm90::store_matrices(x...); });
      sm90::barrier_sync(barrier, 128);
      copy_out<64>(arguments, place, place.row + 64 * group, place.weight_row + 128 * part + 64 * half, out_stage);
    }
  } else {
    // Columns of the accumulators are rows of out: transposed on the way.
    const int piece = 2 * (thread / 32) + lane / 8 % 2;
    const std::uint32_t mine = stage + (lane / 16 * 8 + lane % 8) * kRowBytes + ((piece ^ (lane % 8)) * 16);
    sm90::barrier_sync(barrier, 128);
    if constexpr (T::kTokenRows == 8) {
      sm90::store_transposed(mine, bf16_pair(total[0], total[1]), bf16_pair(total[2], total[3]));
    } else {
#pragma unroll
      for (int t = 0; t < T::kTokenRows; t += 16)
        four(t / 2, mine + t * kRowBytes, [](auto... x) { sm90::store_transposed(x...); });
    }
    sm90::barrier_sync(barrier, 128);
    copy_out<T::kTokenRows>(arguments, place, place.row, place.weight_row + 64 * group, out_stage);
  }
}

template <typename T>
__global__ void __launch_bounds__(T::kThreads, T::kLean ? 2 : 1)
    kernel(const __grid_constant__ CUtensorMap weight_map, const __grid_constant__ CUtensorMap token_map,
           const KernelArguments arguments) {
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
      sm90::mbarrier_init(full + 8 * stage, 1 + (T::kFp8 ? kArrivals : 0));  // the copies' producer, the scales' warp
      sm90::mbarrier_init(empty + 8 * stage, T::kConsumerThreads / 32 * kArrivals * T::kBlocks);
    }
    sm90::mbarrier_init_fence();
  }
  const auto await_tokens = [&] {
    if (!arguments.beside) await_predecessors();
    allow_dependents();
  };
  // Row counts come from the kernels before. A dense GEMM has none: its first weights are on their way while the kernel
  // that makes its tokens still runs.
  if (arguments.rows != nullptr) await_tokens();
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

  if (threadIdx.x >= T::kConsumerThreads) {
    // Producers: one thread asks the copy engine for every stage, another warp brings the scales.
    if constexpr (!T::kLean) sm90::registers_down<56>();
    if (threadIdx.x == T::kConsumerThreads) {
      sm90::prefetch_map(&weight_map);
      sm90::prefetch_map(&token_map);
      // With few rows a weight is read once: it should not push activations out of the L2.
      constexpr std::uint64_t kWeightPolicy = T::kTokenRows < 128 ? sm90::kEvictFirst : sm90::kEvictNormal;
      const auto ask_for_weights = [&](int to, const Place& of, int step) {
        const std::uint32_t barrier = full + 8 * to;
        sm90::mbarrier_arrive_expect(barrier, T::kWeightBytes + T::kTokenBytes);
        const std::uint32_t weights = sm90::shared_address(weight_stages + to * T::kWeightBytes);
        const int weight_row = of.expert * arguments.n + of.weight_row;
        const int column = step * T::kColumns;
        constexpr int kBoxBytes = T::kBoxRows * kRowBytes;
        if constexpr (T::kBlocks > 1) {
          static_assert(T::kWeightRows == 128 * T::kBlocks);
          sm90::copy_box_multicast(weights + rank * kBoxBytes, &weight_map, column, weight_row + 128 * rank, barrier,
                                   (1 << T::kBlocks) - 1, kWeightPolicy);
        } else {
#pragma unroll
          for (int box = 0; box < T::kWeightRows / T::kBoxRows; ++box)
            sm90::copy_box(weights + box * kBoxBytes, &weight_map, column, weight_row + T::kBoxRows * box, barrier,
                           kWeightPolicy);
        }
      };
      int early = 0;  // stages whose weights are asked for before their tokens exist
      if (arguments.rows == nullptr) {
        Walk<T> ahead = walk;
        while (early < T::kStages && ahead.next(rank, place))
          for (int step = 0; step < arguments.k_steps && early < T::kStages; ++step)
            ask_for_weights(early++, place, step);
        await_tokens();
      }
      while (walk.next(rank, place)) {
        for (int step = 0; step < arguments.k_steps; ++step, advance()) {
          const std::uint32_t barrier = full + 8 * stage;
          const int column = step * T::kColumns;
          if (early > 0) {
            --early;
          } else {
            sm90::mbarrier_wait(empty + 8 * stage, phase ^ 1);
            ask_for_weights(stage, place, step);
          }
          sm90::copy_box(sm90::shared_address(token_stages + stage * T::kTokenBytes), &token_map,
                         column + place.expert * arguments.x_step, place.row, barrier, sm90::kEvictNormal);
        }
      }
    } else if (T::kFp8 && threadIdx.x / 32 == T::kConsumerThreads / 32 + 1) {
      await_tokens();
      produce_scales<T>(arguments, walk, rank, scale_stages, full, empty, stage, phase, advance);
    }
  } else {
    if constexpr (!T::kLean) sm90::registers_up<224>();
    await_tokens();
    // Through a shuffle, so that the compiler knows it is the same in the whole warp and keeps descriptors in uniform
    // registers.
    const int group = __shfl_sync(0xFFFFFFFFu, static_cast<int>(threadIdx.x) / 128, 0);
    const int lane = static_cast<int>(threadIdx.x) % 32;
    // The warp is done with a stage: tells the producers of every block that fills it.
    const auto release = [&](int done) {
      __syncwarp();
      if constexpr (T::kBlocks > 1) {
#pragma unroll
        for (int block = 0; block < T::kBlocks; ++block)
          if (lane == block || kArrivals > 1) sm90::mbarrier_arrive_at(empty + 8 * done, block);
      } else {
        if (lane < kArrivals) sm90::mbarrier_arrive(empty + 8 * done);
      }
    };
    while (walk.next(rank, place)) {
      if (T::kWide && place.row + 64 * group >= place.row_end) {
        // None of this warpgroup's rows exists: it leaves the tensor cores to the other.
        for (int step = 0; step < arguments.k_steps; ++step, advance()) {
          sm90::mbarrier_wait(full + 8 * stage, phase);
          release(stage);
        }
        continue;
      }
      float total[T::kParts][T::kPartValues];
#pragma unroll
      for (int part = 0; part < T::kParts; ++part)
#pragma unroll
        for (int i = 0; i < T::kPartValues; ++i) total[part][i] = 0.0f;

      // What the stage that is next in line multiplies, when it is there.
      constexpr int kSteps = 4;                          // of 32 bytes in the 128 of a stage
      constexpr int kPartStride = 128 * kRowBytes >> 4;  // of weights, in a descriptor
      constexpr int kWidth = T::kWide ? 128 : T::kTokenRows;
      std::uint64_t a = 0, b = 0;
      const auto await_stage = [&] {
        sm90::mbarrier_wait(full + 8 * stage, phase);
        constexpr int kGroupBytes = 64 * kRowBytes;
        const std::uint32_t token_tile =
            sm90::shared_address(token_stages + stage * T::kTokenBytes) + (T::kWide ? group * kGroupBytes : 0);
        const std::uint32_t weight_tile =
            sm90::shared_address(weight_stages + stage * T::kWeightBytes) + (T::kWide ? 0 : group * kGroupBytes);
        a = sm90::tile_descriptor(T::kWide ? token_tile : weight_tile);
        b = sm90::tile_descriptor(T::kWide ? weight_tile : token_tile);
      };
      if constexpr (T::kFp8 && T::kWide) {
        for (int step = 0; step < arguments.k_steps; ++step, advance()) {
          await_stage();
          const float* scales = scale_stages + stage * T::kScales;
          float acc[T::kPartValues];
          const int row = 64 * group + 16 * (threadIdx.x % 128 / 32) + lane / 4;
          const float upper = scales[row];
          const float lower = scales[row + 8];
#pragma unroll
          for (int part = 0; part < T::kParts; ++part) {
            sm90::hold(acc);
            sm90::wgmma_fence();
#pragma unroll
            for (int i = 0; i < kSteps; ++i)
              sm90::Wgmma<kWidth>::e4m3(acc, a + 2 * i, b + part * kPartStride + 2 * i, i);
            sm90::wgmma_commit();
            sm90::hold(acc);
            const float weight_scale = scales[T::kTokenRows + part];
            sm90::wgmma_wait_all();
            sm90::hold(acc);
            promote_wide(acc, upper * weight_scale, lower * weight_scale, total[part]);
          }
          release(stage);
        }
      } else if constexpr (T::kFp8) {
        // The tensor cores sum a stage while the one before is promoted: a narrow tile waits for latencies, not for
        // them.
        float even[T::kPartValues], odd[T::kPartValues];
        int even_stage = 0, odd_stage = 0;
        const auto begin = [&](float(&acc)[T::kPartValues], int& its_stage) {
          await_stage();
          sm90::hold(acc);
          sm90::wgmma_fence();
#pragma unroll
          for (int i = 0; i < kSteps; ++i) sm90::Wgmma<kWidth>::e4m3(acc, a + 2 * i, b + 2 * i, i);
          sm90::wgmma_commit();
          sm90::hold(acc);
          its_stage = stage;
          advance();
        };
        const auto end = [&](float(&acc)[T::kPartValues], int its_stage) {
          sm90::hold(acc);
          promote_narrow<T::kTokenRows>(acc, scale_stages + its_stage * T::kScales, total[0]);
          release(its_stage);
        };
        begin(even, even_stage);
        int step = 1;
        for (; step + 1 < arguments.k_steps; step += 2) {
          begin(odd, odd_stage);
          sm90::wgmma_wait<1>();
          end(even, even_stage);
          begin(even, even_stage);
          sm90::wgmma_wait<1>();
          end(odd, odd_stage);
        }
        if (step < arguments.k_steps) {
          begin(odd, odd_stage);
          sm90::wgmma_wait<1>();
          end(even, even_stage);
          sm90::wgmma_wait_all();
          end(odd, odd_stage);
        } else {
          sm90::wgmma_wait_all();
          end(even, even_stage);
        }
      } else {
        // A narrow tile lets the instructions of two stages queue up, for the same reason.
        constexpr int kPending = T::kWide ? 0 : 1;
        int before = -1;  // the stage whose instructions may still run
        for (int step = 0; step < arguments.k_steps; ++step, advance()) {
          await_stage();
#pragma unroll
          for (int part = 0; part < T::kParts; ++part) sm90::hold(total[part]);
          sm90::wgmma_fence();
#pragma unroll
          for (int part = 0; part < T::kParts; ++part)
#pragma unroll
            for (int i = 0; i < kSteps; ++i)
              sm90::Wgmma<kWidth>::bf16(total[part], a + 2 * i, b + part * kPartStride + 2 * i, 1);
          sm90::wgmma_commit();
#pragma unroll
          for (int part = 0; part < T::kParts; ++part) sm90::hold(total[part]);
          sm90::wgmma_wait<kPending>();
          if (kPending == 0) {
            release(stage);
          } else {
            if (before >= 0) release(before);
            before = stage;
          }
        }
        sm90::wgmma_wait_all();
#pragma unroll
        for (int part = 0; part < T::kParts; ++part) sm90::hold(total[part]);
        if (before >= 0) release(before);
      }
#pragma unroll
      for (int part = 0; part < T::kParts; ++part)
        store_part<T>(total[part], arguments, place, part, group, out_stages + group * T::kGroupOutBytes);
    }
  }
  if constexpr (T::kBlocks > 1) {
    // The other block still arrives at this one's barriers.
    __syncwarp();
    sm90::cluster_arrive();
    sm90::cluster_wait();
  }
  if (blockIdx.x == 0) end_beside(arguments.beside);
}

template <typename T>
int grid_of() {
  int device = 0;
  int processors = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 0;
  if (cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device) != cudaSuccess) return 0;
  if (cudaFuncSetAttribute(kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, T::kSharedBytes) != cudaSuccess)
    return 0;
  if constexpr (T::kBlocks > 1) {
    // Each block walks its share of the tiles: all of them must run at once, and a processor left over in its group has
    // no partner.
    cudaLaunchConfig_t config = {};
    config.gridDim = processors / T::kBlocks * T::kBlocks;
    config.blockDim = T::kThreads;
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
  config.blockDim = T::kThreads;
  config.dynamicSmemBytes = T::kSharedBytes;
  config.stream = stream;
  cudaLaunchAttribute attributes[2] = {early_launch(), {}};
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {T::kBlocks, 1, 1};
  config.attrs = attributes;
  config.numAttrs = 2;
  return cudaLaunchKernelEx(&config, kernel<T>, plan.weight_map, plan.token_map, arguments);
}

// One entry of the table that turns (type, tile) into a kernel.
struct Entry {
  int box_rows;
  int token_rows;
  int (*grid)();
  cudaError_t (*launch)(const GroupedGemmPlan&, const KernelArguments&, cudaStream_t);
};

template <typename T>
constexpr Entry entry_of() {
  return {T::kBoxRows, T::kTokenRows, &grid_of<T>, &launch<T>};
}

const Entry& fp8_entry(GroupedGemmTile tile);
const Entry& bf16_entry(GroupedGemmTile tile);

}  // namespace pelagic::grouped_gemm
