// Three kernels without atomics: every place and every sum is the same whatever runs beside it. Built with -fmad=false.
#include "cuda/dependents.cuh"
#include "cuda/row.cuh"
#include "ops/moe/moe_cuda.h"

namespace pelagic {
namespace {

constexpr int kSortThreads = 1024;
constexpr int kSortWarps = kSortThreads / 32;
constexpr int kThreads = 128;
constexpr int kRanks = 8;  // of a row whose loads are under way together

// -1: no slot.
__device__ int slot_of(const MoeSortCudaCall& c, int entry) {
  const int expert = c.ids[entry];
  if (expert < 0 || expert >= c.experts) return -1;
  if (c.slot_begin == nullptr) return expert;
  const int begin = c.slot_begin[expert];
  const int count = c.slot_begin[expert + 1] - begin;
  return c.slots_by_expert[count == 1 ? begin : begin + (entry / c.top_k + entry % c.top_k) % count];
}

// A block for each slot. Each warp has a run of entries; it counts the slot's own, and those of the slots before it.
__global__ void __launch_bounds__(kSortThreads) moe_sort_kernel(const MoeSortCudaCall c) {
  begin_early(c.beside);
  __shared__ int shared_before[kSortWarps], shared_own[kSortWarps];
  const int slot = blockIdx.x;
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int entries = c.rows * c.top_k;
  const int chunk = (entries + kSortThreads - 1) / kSortThreads * 32;
  const int begin = min(warp * chunk, entries);
  const int end = min(begin + chunk, entries);
  int before = 0;
  int own = 0;
  for (int i = begin + lane; i < end; i += 32) {
    const int s = slot_of(c, i);
    before += s >= 0 && s < slot ? 1 : 0;
    own += s == slot ? 1 : 0;
    if (s < 0 && slot == 0) {
      c.positions[i] = -1;
      c.errors[kMoeBadExpert] = 1;
    }
  }
  before = __reduce_add_sync(kWarp, before);
  own = __reduce_add_sync(kWarp, own);
  if (lane == 0) {
    shared_before[warp] = before;
    shared_own[warp] = own;
  }
  __syncthreads();
  int offset = 0;  // of the slot
  int count = 0;
  int place = 0;  // of the warp's first, within the slot
#pragma unroll
  for (int w = 0; w < kSortWarps; ++w) {
    offset += shared_before[w];
    place += w < warp ? shared_own[w] : 0;
    count += shared_own[w];
  }
  const bool masked = c.row_capacity > 0;
  if (threadIdx.x == 0) {
    if (masked && count > c.row_capacity) c.errors[kMoeNoRoom] = 1;
    c.slot_counts[slot] = masked ? min(count, c.row_capacity) : count;
    c.slot_offsets[slot] = offset;
    if (slot == c.slots - 1) c.slot_offsets[c.slots] = offset + count;
  }
  for (int first = begin; first < end; first += 32) {
    const int i = first + lane;
    const bool mine = i < end && slot_of(c, i) == slot;
    const unsigned lanes = __ballot_sync(kWarp, mine);
    const int at = place + __popc(lanes & ((1u << lane) - 1));
    if (mine) c.positions[i] = !masked ? offset + at : at < c.row_capacity ? slot * c.row_capacity + at : -1;
    place += __popc(lanes);
  }
  end_beside(c.beside);
}

// Every thread reads 16 bytes once and writes them top_k times.
__global__ void __launch_bounds__(kThreads) moe_dispatch_kernel(const MoeDispatchCudaCall c) {
  begin_early();
  const std::int64_t row = blockIdx.x;
  const int chunks = c.row_bytes / 16;
  const int chunk = blockIdx.y * kThreads + threadIdx.x;
  const std::int32_t* positions = c.positions + row * c.top_k;
  if (chunk < chunks) {
    const uint4 data = reinterpret_cast<const uint4*>(static_cast<const char*>(c.x) + row * c.ldx_bytes)[chunk];
#pragma unroll 8
    for (int rank = 0; rank < c.top_k; ++rank) {
      const std::int64_t to = positions[rank];
      if (to >= 0) static_cast<uint4*>(c.out)[to * chunks + chunk] = data;
    }
  }
  if (blockIdx.y != 0) return;
  for (int block = threadIdx.x; block < c.scale_blocks; block += kThreads) {
    const float scale = c.x_scales[block * c.ld_x_scales + row];
#pragma unroll 8
    for (int rank = 0; rank < c.top_k; ++rank) {
      const std::int64_t to = positions[rank];
      if (to >= 0) c.out_scales[block * c.ld_out_scales + to] = scale;
    }
  }
}

template <typename Y>
__global__ void __launch_bounds__(kThreads) moe_combine_kernel(const MoeCombineCudaCall c) {
  begin_early();
  const std::int64_t row = blockIdx.x;
  const int group = blockIdx.y * kThreads + threadIdx.x;
  if (group >= c.width / kGroup) return;
  const std::int32_t* positions = c.positions + row * c.top_k;
  const float* weights = c.weights + row * c.top_k;
  const __nv_bfloat16* experts = static_cast<const __nv_bfloat16*>(c.expert_out) + group * kGroup;
  Group y = {};
  if (c.shared != nullptr)
    y = load_group(static_cast<const __nv_bfloat16*>(c.shared) + row * c.ld_shared + group * kGroup);
  for (int first = 0; first < c.top_k; first += kRanks) {
    bool has[kRanks];
    float weight[kRanks];
    uint4 data[kRanks];
#pragma unroll
    for (int i = 0; i < kRanks; ++i) {
      const int rank = first + i;
      const std::int64_t from = rank < c.top_k ? positions[rank] : -1;
      has[i] = from >= 0;
      weight[i] = has[i] ? weights[rank] : 0.0f;
      data[i] = has[i] ? *reinterpret_cast<const uint4*>(experts + from * c.width) : uint4{};
    }
#pragma unroll
    for (int i = 0; i < kRanks; ++i) {
      if (!has[i]) continue;
      const Group e = widen(data[i]);
#pragma unroll
      for (int j = 0; j < kGroup; ++j) y.v[j] = __fmaf_rn(weight[i], e.v[j], y.v[j]);
    }
  }
  store_group(static_cast<Y*>(c.y) + row * c.ldy + group * kGroup, y);
}

dim3 grid_of(int rows, int chunks) {
  return {static_cast<unsigned>(rows), static_cast<unsigned>((chunks + kThreads - 1) / kThreads)};
}

}  // namespace

cudaError_t moe_sort_cuda(const MoeSortCudaCall& call, cudaStream_t stream) {
  if (call.rows < 0 || call.top_k < 1 || call.experts < 1 || call.slots < 1 || call.row_capacity < 0 ||
      (call.slot_begin == nullptr && call.slots != call.experts) ||
      static_cast<std::int64_t>(call.rows) * call.top_k > INT32_MAX / 2 ||
      static_cast<std::int64_t>(call.slots) * call.row_capacity > INT32_MAX)
    return cudaErrorInvalidValue;
  return launch_early(moe_sort_kernel, static_cast<unsigned>(call.slots), kSortThreads, 0, stream, call);
}

cudaError_t moe_dispatch_cuda(const MoeDispatchCudaCall& call, cudaStream_t stream) {
  if (call.rows < 0 || call.top_k < 1 || call.row_bytes < 16 || call.row_bytes % 16 != 0 || call.scale_blocks < 0 ||
      !rows_aligned(call.x, call.ldx_bytes, 1) || !rows_aligned(call.out, 0, 1))
    return cudaErrorInvalidValue;
  if (call.rows == 0) return cudaSuccess;
  return launch_early(moe_dispatch_kernel, grid_of(call.rows, call.row_bytes / 16), kThreads, 0, stream, call);
}

cudaError_t moe_combine_cuda(const MoeCombineCudaCall& call, cudaStream_t stream) {
  if (call.rows < 0 || call.top_k < 1 || call.width < kGroup || call.width % kGroup != 0 ||
      !rows_aligned(call.expert_out, 0, 2) || !rows_aligned(call.shared, call.ld_shared, 2) ||
      !rows_aligned(call.y, call.ldy, row_type_bytes(call.y_type)))
    return cudaErrorInvalidValue;
  if (call.rows == 0) return cudaSuccess;
  const dim3 grid = grid_of(call.rows, call.width / kGroup);
  return launch_early(call.y_type == RowType::float32 ? moe_combine_kernel<float> : moe_combine_kernel<__nv_bfloat16>,
                      grid, kThreads, 0, stream, call);
}

}  // namespace pelagic
