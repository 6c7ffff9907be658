// The team that samples from a row (sampler_row.h): a cluster of eight blocks, so that the row lies in their shared
// memory, or one block for a short row. Built with -fmad=false: products and sums are rounded one by one, as on the
// CPU.
#include <algorithm>

#include "cuda/exp.cuh"
#include "cuda/sm90.cuh"
#include "ops/sampler/sampler_cuda.h"
#include "ops/sampler/sampler_row.h"

namespace pelagic {
namespace {

constexpr unsigned kAllLanes = 0xFFFFFFFFu;
constexpr int kThreadCount = 512;
constexpr int kWarps = kThreadCount / 32;
constexpr int kClusterBlocks = 8;
constexpr int kBlockVocab = 8192;  // at most this for a single block
static_assert(kMostSamplerCudaVocab <= kMostSampledVocab);

struct WarpScratch {
  Ranked best[kWarps];
  std::uint64_t sums[kWarps];
};

template <int kBlockCount>
class ClusterTeam {
 public:
  static constexpr int kThreads = kThreadCount;
  static constexpr int kBlocks = kBlockCount;

  __device__ explicit ClusterTeam(WarpScratch& scratch)
      : scratch_(scratch), block_(kBlocks == 1 ? 0 : static_cast<int>(sm90::cluster_rank())) {}

  __device__ int thread() const { return static_cast<int>(threadIdx.x); }
  __device__ int block() const { return block_; }

  __device__ void sync() { __syncthreads(); }
  __device__ void sync_all() {
    if constexpr (kBlocks == 1) {
      __syncthreads();
    } else {
      __syncwarp();  // the barrier wants whole warps
      sm90::cluster_arrive();
      sm90::cluster_wait();
    }
  }

  template <typename T>
  __device__ const T* peer(const T* place, int block) const {
    if constexpr (kBlocks == 1) return place;
    const T* there;
    asm("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(place), "r"(block));
    return there;
  }

  __device__ std::uint32_t add(std::uint32_t* place, std::uint32_t amount) { return atomicAdd_block(place, amount); }
  // By halves: shared memory adds 32 bits by itself, while 64 take a loop that starts again whenever another thread was
  // quicker. The sum is right once all have added.
  __device__ void add(std::uint64_t* place, std::uint64_t amount) {
    auto* const halves = reinterpret_cast<std::uint32_t*>(place);
    const auto low = static_cast<std::uint32_t>(amount);
    const std::uint32_t carry = atomicAdd_block(halves, low) + low < low ? 1 : 0;
    const std::uint32_t high = static_cast<std::uint32_t>(amount >> 32) + carry;
    if (high != 0) atomicAdd_block(halves + 1, high);
  }

  __device__ Ranked best_of_block(Ranked mine) {
    mine = best_of_warp(mine);
    const int lane = thread() % 32;
    if (lane == 0) scratch_.best[thread() / 32] = mine;
    __syncthreads();
    if (thread() >= 32) return mine;
    return best_of_warp(scratch_.best[lane % kWarps]);
  }

  __device__ std::uint64_t sum_up_to(std::uint64_t value, std::uint64_t* total) {
    const int lane = thread() % 32;
    const int warp = thread() / 32;
    std::uint64_t sum = value;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const std::uint64_t left = __shfl_up_sync(kAllLanes, sum, step);
      if (lane >= step) sum += left;
    }
    if (lane == 31) scratch_.sums[warp] = sum;
    __syncthreads();
    std::uint64_t all = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      if (w == warp) sum += all;
      all += scratch_.sums[w];
    }
    *total = all;
    return sum;
  }

  __device__ float exp(float x) const { return exp_f32_device(x); }

  __device__ static Four load(const float* from) {
    const float4 x = __ldg(reinterpret_cast<const float4*>(from));
    return {{x.x, x.y, x.z, x.w}};
  }

 private:
  __device__ static Ranked best_of_warp(Ranked mine) {
#pragma unroll
    for (int step = 16; step >= 1; step /= 2) {
      const Ranked other = {__shfl_xor_sync(kAllLanes, mine.value, step), __shfl_xor_sync(kAllLanes, mine.id, step)};
      if (is_better(other, mine)) mine = other;
    }
    return mine;
  }

  WarpScratch& scratch_;
  const int block_;
};

template <int kBlockCount>
__global__ void __launch_bounds__(kThreadCount, 2) sample_rows_kernel(const SamplerCudaCall c) {
  extern __shared__ Four fours[];
  __shared__ RowShared<kBlockCount> shared;
  __shared__ WarpScratch scratch;
  const unsigned row = blockIdx.x / kBlockCount;
  const char* const packed = static_cast<const char*>(c.packed);
  const PackedSampling& p = reinterpret_cast<const PackedSampling*>(packed)[row];
  if (p.sampled == 0) return;  // the whole cluster
  ClusterTeam<kBlockCount> team(scratch);
  RowSampler<ClusterTeam<kBlockCount>> sampler(team, shared, fours, p, packed, c.logits + row * c.ld_logits, c.vocab);
  sampler.run(c.results[row]);
}

template <int kBlockCount>
cudaError_t launch(const SamplerCudaCall& call, cudaStream_t stream) {
  const std::size_t bytes = static_cast<std::size_t>(fours_of_block(call.vocab, kBlockCount)) * sizeof(Four);
  // A block may have more than 48 KB only once its kernel says so. Always the same: another thread may launch too.
  constexpr int kMostBytes = kMostSamplerCudaVocab / kClusterBlocks * 4;
  const cudaError_t error =
      cudaFuncSetAttribute(sample_rows_kernel<kBlockCount>, cudaFuncAttributeMaxDynamicSharedMemorySize, kMostBytes);
  if (error != cudaSuccess) return error;
  cudaLaunchConfig_t config = {};
  config.gridDim = {static_cast<unsigned>(call.rows) * kBlockCount, 1, 1};
  config.blockDim = {kThreadCount, 1, 1};
  config.dynamicSmemBytes = bytes;
  config.stream = stream;
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {kBlockCount, 1, 1};
  config.attrs = &cluster;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, sample_rows_kernel<kBlockCount>, call);
}

}  // namespace

cudaError_t sample_rows_cuda(const SamplerCudaCall& call, cudaStream_t stream) {
  if (call.rows < 0 || call.rows > INT32_MAX / kClusterBlocks || call.vocab < 1 || call.vocab > kMostSamplerCudaVocab ||
      call.ld_logits < call.vocab || call.ld_logits % 4 != 0 ||
      reinterpret_cast<std::uintptr_t>(call.logits) % 16 != 0 ||
      reinterpret_cast<std::uintptr_t>(call.packed) % alignof(PackedSampling) != 0)
    return cudaErrorInvalidValue;
  if (call.rows == 0) return cudaSuccess;
  return call.vocab <= kBlockVocab ? launch<1>(call, stream) : launch<kClusterBlocks>(call, stream);
}

}  // namespace pelagic
