// A ring of stages in shared memory, each handed from warp to warp by barriers.
#pragma once

#include "cuda/sm90.cuh"

namespace pelagic::sm90 {

// Which stage is next, and the parity of its barriers.
template <int STAGES>
struct StageTurn {
  int stage = 0;
  std::uint32_t parity = 0;

  __device__ void advance() {
    if (++stage == STAGES) {
      stage = 0;
      parity ^= 1;
    }
  }
};

__device__ __forceinline__ void wait(std::uint64_t& barrier, std::uint32_t parity) {
  mbarrier_wait(shared_address(&barrier), parity);
}

// Says for this warp, whose lanes are all done, that it has arrived.
__device__ __forceinline__ void warp_arrive(std::uint64_t& barrier) {
  __syncwarp();
  if (static_cast<int>(threadIdx.x) % 32 < kArrivals) mbarrier_arrive(shared_address(&barrier));
}

}  // namespace pelagic::sm90
