// A warp routes a row: lane l holds experts [l * kPerLane, (l + 1) * kPerLane) in registers. Built with -fmad=false:
// the products and sums are rounded one by one, as on the CPU.
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "cuda/dependents.cuh"
#include "cuda/exp.cuh"
#include "cuda/sm90.cuh"
#include "ops/gate/gate_cuda.h"

namespace pelagic {
namespace {

constexpr unsigned kAllLanes = 0xFFFFFFFFu;
constexpr int kMaxExperts = 256;
constexpr int kClusterWarps = 128;   // of a cluster: rows that are under way together
constexpr std::uint32_t kTaken = 0;  // below the key of every number
constexpr std::uint32_t kNanKey = 1;

struct Arguments {
  GateConfig config;
  const float* logits;
  std::int64_t ld_logits;
  int rows;
  std::int32_t* ids;
  float* weights;
  std::int32_t* counts;
  std::int32_t* offsets;
  std::uint32_t* workspace;
  bool vector_loads;
  int lanes_per_group;
  bool beside;
};

// Unsigned order = the numbers' order, -0 equal to 0.
__device__ std::uint32_t order_key(float value) {
  if (value != value) return kNanKey;
  const std::uint32_t bits = __float_as_uint(value + 0.0f);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

// This lane's part of a row of [experts] numbers; 0 past the last expert. No __ldg: another kernel may have just
// written them (cuda/dependents.cuh).
template <int kPerLane>
__device__ void load_row(const Arguments& a, const float* row, int lane, float (&x)[kPerLane]) {
  const int first = lane * kPerLane;
  if constexpr (kPerLane % 4 == 0) {
    if (a.vector_loads) {
#pragma unroll
      for (int j = 0; j < kPerLane; j += 4) {
        const float4 four = first < a.config.experts ? *reinterpret_cast<const float4*>(row + first + j) : float4{};
        x[j] = four.x;
        x[j + 1] = four.y;
        x[j + 2] = four.z;
        x[j + 3] = four.w;
      }
      return;
    }
  }
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) x[j] = first + j < a.config.experts ? row[first + j] : 0.0f;
}

// row_softmax's bits: 16 chains over the row, then the tree. terms: shared memory of this warp, [experts].
template <int kPerLane>
__device__ void softmax(const Arguments& a, int lane, float (&x)[kPerLane], float* terms) {
  const int first = lane * kPerLane;
  float largest = -INFINITY;
#pragma unroll
  for (int j = 0; j < kPerLane; ++j)
    if (first + j < a.config.experts) largest = fmaxf(largest, x[j]);
#pragma unroll
  for (int step = 16; step >= 1; step /= 2) largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, step));
  __syncwarp();
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) {
    x[j] = exp_f32_device(x[j] - largest);
    if (first + j < a.config.experts) terms[first + j] = x[j];
  }
  __syncwarp();
  float chain = 0.0f;
  for (int e = lane; e < a.config.experts && lane < 16; e += 16) chain = chain + terms[e];
#pragma unroll
  for (int half = 8; half >= 1; half /= 2) chain = chain + __shfl_down_sync(kAllLanes, chain, half);
  const float sum = __shfl_sync(kAllLanes, chain, 0);
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) x[j] = x[j] / sum;
}

// 1 / y for y >= 1, rounded as the CPU rounds it. The compiler's division carries its rare cases with every element,
// and this kernel's code is fetched from far away: one test for all elements instead. Below 2^126 the quotient is
// normal, and one Newton step from the approximation gives the nearest float (the compiler's own division does the same
// there).
template <int kCount>
__device__ void reciprocals(float (&y)[kCount]) {
  bool rare = false;
#pragma unroll
  for (int j = 0; j < kCount; ++j) rare = rare || !(y[j] < 0x1p126f);
  if (__any_sync(kAllLanes, rare)) {
#pragma unroll
    for (int j = 0; j < kCount; ++j) y[j] = 1.0f / y[j];
    return;
  }
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    float approximate;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(approximate) : "f"(y[j]));
    y[j] = __fmaf_rn(approximate, __fmaf_rn(-y[j], approximate, 1.0f), approximate);
  }
}

struct Top2 {
  float best, second;
};

// Of two pairs, each with best >= second.
__device__ Top2 merge(Top2 a, Top2 b) {
  return {fmaxf(a.best, b.best), fmaxf(fminf(a.best, b.best), fmaxf(a.second, b.second))};
}

// The group that a lane's experts belong to. Worked out before the logits arrive: it takes a division.
struct LaneGroup {
  int own;
  int first_lane;
};

__device__ LaneGroup group_of_lane(const Arguments& a, int lane) {
  const int own = lane / a.lanes_per_group;
  return {own, own * a.lanes_per_group};
}

// Whether this lane's group is among the best top_k_groups. choice: the scores that choose.
template <int kPerLane, bool kTop2>
__device__ bool group_is_kept(const Arguments& a, LaneGroup group, const float (&choice)[kPerLane]) {
  Top2 pairs[kPerLane];
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) pairs[j] = {choice[j], -INFINITY};
#pragma unroll
  for (int width = 1; width < kPerLane; width *= 2)
#pragma unroll
    for (int j = 0; j + width < kPerLane; j += 2 * width) pairs[j] = merge(pairs[j], pairs[j + width]);
  Top2 all = {-INFINITY, -INFINITY};
#pragma unroll 1
  for (int i = 0; i < a.lanes_per_group; i += 4) {
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      // Lanes past the last expert read a lane that exists; their result is not used.
      const float best = __shfl_sync(kAllLanes, pairs[0].best, group.first_lane + i + step);
      const float second = kTop2 ? __shfl_sync(kAllLanes, pairs[0].second, group.first_lane + i + step) : -INFINITY;
      const bool belongs = i + step < a.lanes_per_group;
      all = merge(all, {belongs ? best : -INFINITY, belongs ? second : -INFINITY});
    }
  }
  const bool single = a.config.experts == a.config.groups;
  const std::uint32_t key = order_key(kTop2 && !single ? all.best + all.second : all.best);
  int better = 0;
#pragma unroll 1
  for (int g = 0; g < a.config.groups; g += 8) {
#pragma unroll
    for (int step = 0; step < 8; ++step) {
      const std::uint32_t other = __shfl_sync(kAllLanes, key, (g + step) * a.lanes_per_group);
      // An equal group is better if it comes first.
      const std::uint32_t level = g + step < group.own ? key - 1 : key;
      better += g + step < a.config.groups && other > level ? 1 : 0;
    }
  }
  return better < a.config.top_k_groups;
}

struct Choice {
  std::int32_t id;  // -1 from lanes past top_k
  float weight;
};

// A warp's shared memory.
struct alignas(16) Chosen {
  float scores[kMaxExperts];
  std::int32_t ids[32];  // by rank
};

// Routes one row of logits (overwritten): lane r gets the choice of rank r.
template <GateMethod kMethod, int kPerLane>
__device__ Choice route_row(const Arguments& a, int lane, LaneGroup group, float (&score)[kPerLane],
                            const float (&bias)[kPerLane], Chosen& chosen) {
  constexpr bool kSigmoid = kMethod == GateMethod::sigmoid_noaux_tc;
  const GateConfig& config = a.config;
  const int first = lane * kPerLane;
  bool nan = false;
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) nan = nan || score[j] != score[j];
  nan = __any_sync(kAllLanes, nan);

  std::uint32_t key[kPerLane];
  if constexpr (kSigmoid) {
    float choice[kPerLane];
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) score[j] = 1.0f + exp_f32_device(-score[j]);
    reciprocals(score);
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) choice[j] = config.bias != nullptr ? score[j] + bias[j] : score[j];
    const bool kept = group_is_kept<kPerLane, true>(a, group, choice);
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) key[j] = order_key(kept ? choice[j] : -INFINITY);
  } else {
    softmax<kPerLane>(a, lane, score, chosen.scores);
    if constexpr (kMethod == GateMethod::softmax_group_limited) {
      const bool kept = group_is_kept<kPerLane, false>(a, group, score);
#pragma unroll
      for (int j = 0; j < kPerLane; ++j) score[j] = kept ? score[j] : 0.0f;
    }
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) key[j] = order_key(score[j]);
  }
#pragma unroll
  for (int j = 0; j < kPerLane; ++j)
    if (first + j >= config.experts) key[j] = kTaken;

  // Scores go to shared memory, where whoever gets an expert finds its weight.
  __syncwarp();
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) chosen.scores[first + j] = score[j];

#pragma unroll 1
  for (int rank = 0; rank < config.top_k; ++rank) {
    std::uint32_t own = key[0];
#pragma unroll
    for (int j = 1; j < kPerLane; ++j) own = max(own, key[j]);
    const std::uint32_t best = __reduce_max_sync(kAllLanes, own);
    int place = 0;
#pragma unroll
    for (int j = kPerLane - 1; j >= 0; --j) place = key[j] == own ? j : place;
    // The lowest expert with the best key: the lowest place in the lowest lane. That lane notes it down; nobody waits
    // for it.
    const bool mine = lane == __ffs(__ballot_sync(kAllLanes, own == best)) - 1;
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) key[j] = mine && place == j ? kTaken : key[j];
    if (mine) chosen.ids[rank] = first + place;
  }
  __syncwarp();
  float sum = 0.0f;
  // Eight at once is what models choose; these loads do not wait for one another.
#pragma unroll
  for (int rank = 0; rank < 8; ++rank)
    if (rank < config.top_k) sum = sum + chosen.scores[chosen.ids[rank]];
#pragma unroll 1
  for (int rank = 8; rank < config.top_k; ++rank) sum = sum + chosen.scores[chosen.ids[rank]];
  if (lane >= config.top_k) return {-1, 0.0f};
  Choice mine = {chosen.ids[lane], chosen.scores[chosen.ids[lane]]};
  if (config.normalize && (kSigmoid || config.top_k > 1)) mine.weight = mine.weight / (sum + 1e-20f);
  mine.weight = mine.weight * config.routed_scaling_factor;
  if (nan) mine.weight = NAN;
  return mine;
}

__device__ void write_choice(const Arguments& a, int row, int lane, Choice choice) {
  if (choice.id < 0) return;
  const std::int64_t target = static_cast<std::int64_t>(row) * a.config.top_k + lane;
  a.ids[target] = choice.id;
  a.weights[target] = choice.weight;
}

// counts and offsets from one number for each expert in thread `expert`; 0 from other threads. All threads of the
// block, at least 256.
__device__ void write_counts(const Arguments& a, std::uint32_t mine, std::uint32_t* warp_sums) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  std::uint32_t sum = mine;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const std::uint32_t left = __shfl_up_sync(kAllLanes, sum, step);
    if (lane >= step) sum += left;
  }
  if (lane == 31 && warp < kMaxExperts / 32) warp_sums[warp] = sum;
  __syncthreads();
  if (threadIdx.x >= a.config.experts) return;
#pragma unroll
  for (int w = 0; w < kMaxExperts / 32; ++w)
    if (w < warp) sum += warp_sums[w];
  a.counts[threadIdx.x] = static_cast<std::int32_t>(mine);
  a.offsets[threadIdx.x + 1] = static_cast<std::int32_t>(sum);
  if (threadIdx.x == 0) a.offsets[0] = 0;
}

template <int kWarps>
struct Shared {
  alignas(16) std::uint32_t histogram[kMaxExperts];
  std::uint32_t warp_sums[kMaxExperts / 32];
  bool last;
  Chosen chosen[kWarps];
};

// One cluster takes all rows: every block sends its histogram to the first one, and only that one waits.
template <GateMethod kMethod, int kPerLane, int kBlocks>
__global__ void __launch_bounds__(kClusterWarps / kBlocks * 32) gate_cluster_kernel(const Arguments a) {
  constexpr int kWarps = kClusterWarps / kBlocks;
  static_assert(kWarps * 32 >= kMaxExperts);
  __shared__ Shared<kWarps> shared;
  __shared__ alignas(16) std::uint32_t received[kBlocks][kMaxExperts];
  __shared__ alignas(8) std::uint64_t all_received;
  const std::uint32_t barrier = sm90::shared_address(&all_received);
  if (threadIdx.x == 0) {
    sm90::mbarrier_init(barrier, 1);
    sm90::mbarrier_init_fence();
    sm90::mbarrier_arrive_expect(barrier, sizeof received);
  }
  __syncwarp();
  sm90::cluster_arrive_relaxed();
  begin_early(a.beside);
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  // Neighbouring rows go to different blocks, so that few rows spread over many processors.
  int row = warp * kBlocks + blockIdx.x;
  // All that comes from far away is asked for at once.
  float score[kPerLane] = {};
  float bias[kPerLane] = {};
  if (row < a.rows) load_row<kPerLane>(a, a.logits + row * a.ld_logits, lane, score);
  if (a.config.bias != nullptr) load_row<kPerLane>(a, a.config.bias, lane, bias);
  const LaneGroup group = group_of_lane(a, lane);
  if (threadIdx.x < kMaxExperts) shared.histogram[threadIdx.x] = 0;
  __syncthreads();
  Choice choice = {-1, 0.0f};
  int last = row;
  while (row < a.rows) {
    choice = route_row<kMethod, kPerLane>(a, lane, group, score, bias, shared.chosen[warp]);
    if (choice.id >= 0) atomicAdd(shared.histogram + choice.id, 1u);
    last = row;
    row += kClusterWarps;
    if (row < a.rows) {
      write_choice(a, last, lane, choice);
      load_row<kPerLane>(a, a.logits + row * a.ld_logits, lane, score);
    }
  }
  __syncthreads();
  // The first block runs and its barrier is ready.
  sm90::cluster_wait();
  if (threadIdx.x < kMaxExperts / 4)
    sm90::store_async_at(sm90::shared_address(&received[blockIdx.x][4 * threadIdx.x]), barrier, 0,
                         reinterpret_cast<const uint4*>(shared.histogram)[threadIdx.x]);
  write_choice(a, last, lane, choice);
  end_beside(a.beside);
  if (blockIdx.x != 0) return;
  sm90::mbarrier_wait(barrier, 0);
  std::uint32_t mine = 0;
  if (threadIdx.x < kMaxExperts)
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) mine += received[block][threadIdx.x];
  write_counts(a, mine, shared.warp_sums);
}

// Any number of rows: a histogram for each block, added to the workspace; the block that finishes last turns it into
// counts and clears it.
template <GateMethod kMethod, int kPerLane, int kWarps>
__global__ void __launch_bounds__(kWarps * 32) gate_grid_kernel(const Arguments a) {
  __shared__ Shared<kWarps> shared;
  begin_early(a.beside);
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  float score[kPerLane] = {};
  float bias[kPerLane] = {};
  const int step = kWarps * gridDim.x;
  int row = warp * gridDim.x + blockIdx.x;
  if (row < a.rows) load_row<kPerLane>(a, a.logits + row * a.ld_logits, lane, score);
  if (a.config.bias != nullptr) load_row<kPerLane>(a, a.config.bias, lane, bias);
  const LaneGroup group = group_of_lane(a, lane);
  if (threadIdx.x < kMaxExperts) shared.histogram[threadIdx.x] = 0;
  __syncthreads();
  while (row < a.rows) {
    const Choice choice = route_row<kMethod, kPerLane>(a, lane, group, score, bias, shared.chosen[warp]);
    if (choice.id >= 0) atomicAdd(shared.histogram + choice.id, 1u);
    write_choice(a, row, lane, choice);
    row += step;
    if (row < a.rows) load_row<kPerLane>(a, a.logits + row * a.ld_logits, lane, score);
  }
  __syncthreads();
  std::uint32_t* ticket = a.workspace + kMaxExperts;
  if (threadIdx.x < kMaxExperts && shared.histogram[threadIdx.x] != 0)
    atomicAdd(a.workspace + threadIdx.x, shared.histogram[threadIdx.x]);
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    shared.last = atomicAdd(ticket, 1u) == gridDim.x - 1;
    __threadfence();
  }
  __syncthreads();
  end_beside(a.beside);
  if (!shared.last) return;
  if (threadIdx.x == 0) *ticket = 0;
  const bool owner = threadIdx.x < kMaxExperts;
  write_counts(a, owner ? atomicExch(a.workspace + threadIdx.x, 0u) : 0, shared.warp_sums);
}

template <GateMethod kMethod, int kPerLane>
cudaError_t launch(const Arguments& a, GateCudaPath path, cudaStream_t stream) {
  if (path == GateCudaPath::grid) {
    constexpr int kWarps = 32;
    constexpr int kMostBlocks = 1024;
    const int blocks = std::clamp((a.rows + kWarps - 1) / kWarps, 1, kMostBlocks);
    return launch_early(gate_grid_kernel<kMethod, kPerLane, kWarps>, static_cast<unsigned>(blocks), kWarps * 32, 0,
                        stream, a);
  }
  const bool wide = path == GateCudaPath::cluster_16;
  const unsigned blocks = wide ? 16 : 8;
  auto* const kernel = wide ? gate_cluster_kernel<kMethod, kPerLane, 16> : gate_cluster_kernel<kMethod, kPerLane, 8>;
  if (wide) {
    const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
    if (error != cudaSuccess) return error;
  }
  cudaLaunchConfig_t config = {};
  config.stream = stream;
  cudaLaunchAttribute attributes[2] = {early_launch(), {}};
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {blocks, 1, 1};
  config.attrs = attributes;
  config.numAttrs = 2;
  config.gridDim = blocks;
  config.blockDim = kClusterWarps / blocks * 32;
  return cudaLaunchKernelEx(&config, kernel, a);
}

template <GateMethod kMethod>
cudaError_t launch_for(int per_lane, const Arguments& a, GateCudaPath path, cudaStream_t stream) {
  switch (per_lane) {
    case 1:
      return launch<kMethod, 1>(a, path, stream);
    case 2:
      return launch<kMethod, 2>(a, path, stream);
    case 4:
      return launch<kMethod, 4>(a, path, stream);
    case 5:
      return launch<kMethod, 5>(a, path, stream);
    default:
      return launch<kMethod, 8>(a, path, stream);
  }
}

// The fewest experts in a lane such that 32 lanes hold them all and no lane holds experts of two groups; 0 if there is
// none.
int experts_per_lane(const GateConfig& config) {
  const bool grouped = config.method != GateMethod::softmax_greedy;
  const int group_size = grouped ? config.experts / config.groups : config.experts;
  for (const int per_lane : {1, 2, 4, 5, 8})
    if (config.experts <= 32 * per_lane && (!grouped || group_size % per_lane == 0)) return per_lane;
  return 0;
}

}  // namespace

GateCudaPath gate_cuda_path_for(int rows) { return rows <= 256 ? GateCudaPath::cluster_16 : GateCudaPath::grid; }

cudaError_t gate_cuda(const GateCudaCall& call, GateCudaPath path, cudaStream_t stream) {
  const int per_lane = experts_per_lane(call.config);
  if (per_lane == 0 || call.config.top_k > 32 || call.rows < 0) return cudaErrorInvalidValue;
  const bool aligned =
      (reinterpret_cast<std::uintptr_t>(call.logits) | reinterpret_cast<std::uintptr_t>(call.config.bias)) % 16 == 0 &&
      call.ld_logits % 4 == 0;
  const Arguments a = {
      call.config,
      call.logits,
      call.ld_logits,
      call.rows,
      call.ids,
      call.weights,
      call.counts,
      call.offsets,
      call.workspace,
      aligned && call.config.experts % per_lane == 0,
      call.config.method == GateMethod::softmax_greedy ? 32 : call.config.experts / call.config.groups / per_lane,
      call.beside};
  switch (call.config.method) {
    case GateMethod::softmax_greedy:
      return launch_for<GateMethod::softmax_greedy>(per_lane, a, path, stream);
    case GateMethod::softmax_group_limited:
      return launch_for<GateMethod::softmax_group_limited>(per_lane, a, path, stream);
    case GateMethod::sigmoid_noaux_tc:
      return launch_for<GateMethod::sigmoid_noaux_tc>(per_lane, a, path, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace pelagic
