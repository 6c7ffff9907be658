// A thread rotates eight columns; a warp stores a latent row. Built with -fmad=false.
#include "cuda/dependents.cuh"
#include "cuda/row.cuh"
#include "cuda/row_type.h"
#include "ops/kv_cache/fp8_latent.h"
#include "ops/rope/rope_cuda.h"

namespace pelagic {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kBlockRows = 64;
constexpr int kPairs = kRopeCudaColumns / 2;
constexpr int kRopeGroups = kRopeCudaColumns / kGroup;      // 8
constexpr int kLatentGroups = kLatentCudaColumns / kGroup;  // 64: two of each lane

// rope_ref.cpp for columns [8 group, 8 group + 8).
__device__ Group rotated(const Group& x, const RopeCudaTable& table, int position, int group) {
  const std::int64_t at = static_cast<std::int64_t>(position) * kPairs + group * (kGroup / 2);
  const float4 c4 = *reinterpret_cast<const float4*>(table.cos + at);
  const float4 s4 = *reinterpret_cast<const float4*>(table.sin + at);
  const float cos[4] = {c4.x, c4.y, c4.z, c4.w};
  const float sin[4] = {s4.x, s4.y, s4.z, s4.w};
  Group y;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float even = x.v[2 * i];
    const float odd = x.v[2 * i + 1];
    y.v[2 * i] = __fmaf_rn(even, cos[i], -__fmul_rn(odd, sin[i]));
    y.v[2 * i + 1] = __fmaf_rn(odd, cos[i], __fmul_rn(even, sin[i]));
  }
  return y;
}

__device__ void rotate(const RopeCudaCall& c, unsigned of_block) {
  const std::int64_t at = static_cast<std::int64_t>(of_block) * kThreads + threadIdx.x;
  const int group = static_cast<int>(at % kRopeGroups);
  const std::int64_t vector = at / kRopeGroups;
  const std::int64_t row = vector / c.heads;
  const std::int64_t head = vector % c.heads;
  if (row >= c.rows) return;
  const int position = c.row_positions[row];
  if (position < 0 || position >= c.table.positions) {
    c.errors[kRopeBadPosition] = 1;
    return;
  }
  const __nv_bfloat16* x =
      static_cast<const __nv_bfloat16*>(c.x) + row * c.x_row_stride + head * c.x_head_stride + group * kGroup;
  __nv_bfloat16* y = static_cast<__nv_bfloat16*>(c.y) + row * c.y_row_stride + head * c.y_head_stride + group * kGroup;
  store_group(y, rotated(load_group(x), c.table, position, group));
}

// Eight columns of a row of the FP8 cache, and the scale of their 128. A warp calls it together; sixteen lanes hold a
// block.
__device__ void store_fp8_latents(unsigned char* row, int group, const Group& g) {
  std::uint32_t largest = 0;  // NaN is larger than all numbers
#pragma unroll
  for (int j = 0; j < kGroup; ++j) largest = max(largest, __float_as_uint(fabsf(g.v[j])));
#pragma unroll
  for (int step = kFp8Groups / 2; step >= 1; step /= 2) largest = max(largest, __shfl_xor_sync(kWarp, largest, step));
  const Fp8Scale scale = fp8_latent_scale(largest);
  *reinterpret_cast<uint2*>(row + group * kGroup) = to_e4m3(g, scale.inverse);
  if (group % kFp8Groups == 0) reinterpret_cast<float*>(row + kFp8LatentScalesAt)[group / kFp8Groups] = scale.scale;
}

__device__ void store_latents(const StoreLatentsCudaCall& c, unsigned of_block) {
  const int lane = threadIdx.x % 32;
  const std::int64_t row = static_cast<std::int64_t>(of_block) * kWarps + threadIdx.x / 32;
  if (row >= c.rows) return;
  // What comes from far away is asked for first.
  const __nv_bfloat16* in = static_cast<const __nv_bfloat16*>(c.compressed) + row * c.ld_compressed;
  Group v[2] = {load_group(in + lane * kGroup), load_group(in + (lane + 32) * kGroup)};
  const bool has_rope = lane < kRopeGroups;
  const Group key = has_rope ? load_group(in + kLatentCudaColumns + lane * kGroup) : Group{};
  const int position = c.row_positions[row];
  const int sequence = c.row_sequences == nullptr ? static_cast<int>(row) : c.row_sequences[row];
  if (position < 0 || position >= c.table.positions) {
    if (lane == 0) c.errors[kRopeBadPosition] = 1;
    return;
  }
  const int entry = position / kBlockRows;
  const bool in_table = sequence >= 0 && sequence < c.sequences && entry < c.max_blocks;
  const int block = in_table ? c.block_table[static_cast<std::int64_t>(sequence) * c.max_blocks + entry] : -1;
  if (block < 0 || block >= c.cache_blocks) {
    if (lane == 0) c.errors[kRopeBadBlock] = 1;
    return;
  }
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < 2; ++i)
#pragma unroll
    for (int j = 0; j < kGroup; ++j) sum = __fmaf_rn(v[i].v[j], v[i].v[j], sum);
#pragma unroll
  for (int step = 16; step >= 1; step /= 2) sum = sum + __shfl_xor_sync(kWarp, sum, step);
  const float mean = sum / static_cast<float>(kLatentCudaColumns);
  const float scale = 1.0f / __fsqrt_rn(mean + c.eps);
  const bool fp8 = c.cache_dtype == KvDtype::fp8;
  const int row_bytes = fp8 ? kFp8LatentRowBytes : 2 * kLatentCudaRow;
  unsigned char* out = static_cast<unsigned char*>(c.cache) +
                       (static_cast<std::int64_t>(block) * kBlockRows + position % kBlockRows) * row_bytes;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int g = lane + 32 * i;
    const Group weight = load_group(c.weight + g * kGroup);
#pragma unroll
    for (int j = 0; j < kGroup; ++j) v[i].v[j] = __fmul_rn(__fmul_rn(v[i].v[j], scale), weight.v[j]);
    if (fp8)
      store_fp8_latents(out, g, v[i]);
    else
      store_group(reinterpret_cast<__nv_bfloat16*>(out) + g * kGroup, v[i]);
  }
  __nv_bfloat16* rope = reinterpret_cast<__nv_bfloat16*>(out + (fp8 ? kFp8LatentRopeAt : 2 * kLatentCudaColumns));
  if (has_rope) store_group(rope + lane * kGroup, rotated(key, c.table, position, lane));
}

static_assert(kLatentGroups == 2 * 32);

__global__ void __launch_bounds__(kThreads) rope_kernel(const RopeCudaCall c) {
  begin_early(c.beside);
  rotate(c, blockIdx.x);
  end_beside(c.beside);
}

__global__ void __launch_bounds__(kThreads) store_latents_kernel(const StoreLatentsCudaCall c) {
  begin_early();
  store_latents(c, blockIdx.x);
}

__global__ void __launch_bounds__(kThreads)
    rope_and_store_kernel(const RopeCudaCall rope, const StoreLatentsCudaCall store, unsigned rope_blocks) {
  begin_early(rope.beside);
  if (blockIdx.x < rope_blocks)
    rotate(rope, blockIdx.x);
  else
    store_latents(store, blockIdx.x - rope_blocks);
  end_beside(rope.beside);
}

unsigned blocks_of(const RopeCudaCall& call) {
  const std::int64_t threads = static_cast<std::int64_t>(call.rows) * call.heads * kRopeGroups;
  return static_cast<unsigned>((threads + kThreads - 1) / kThreads);
}
unsigned blocks_of(const StoreLatentsCudaCall& call) {
  return static_cast<unsigned>((call.rows + kWarps - 1) / kWarps);
}

bool good(const RopeCudaTable& table) {
  return table.positions >= 0 && rows_aligned(table.cos, 0, 4) && rows_aligned(table.sin, 0, 4);
}

bool good(const RopeCudaCall& call) {
  return call.rows >= 0 && call.heads >= 1 && good(call.table) && rows_aligned(call.x, call.x_row_stride, 2) &&
         rows_aligned(call.x, call.x_head_stride, 2) && rows_aligned(call.y, call.y_row_stride, 2) &&
         rows_aligned(call.y, call.y_head_stride, 2);
}
bool good(const StoreLatentsCudaCall& call) {
  return call.rows >= 0 && call.sequences >= 0 && call.max_blocks >= 0 && call.cache_blocks >= 0 && good(call.table) &&
         rows_aligned(call.compressed, call.ld_compressed, 2) && rows_aligned(call.weight, 0, 4) &&
         rows_aligned(call.cache, 0, 2);
}

}  // namespace

cudaError_t rope_cuda(const RopeCudaCall& call, cudaStream_t stream) {
  if (!good(call)) return cudaErrorInvalidValue;
  if (call.rows == 0) return cudaSuccess;
  return launch_early(rope_kernel, blocks_of(call), kThreads, 0, stream, call);
}

cudaError_t store_latents_cuda(const StoreLatentsCudaCall& call, cudaStream_t stream) {
  if (!good(call)) return cudaErrorInvalidValue;
  if (call.rows == 0) return cudaSuccess;
  return launch_early(store_latents_kernel, blocks_of(call), kThreads, 0, stream, call);
}

cudaError_t rope_and_store_cuda(const RopeCudaCall& rope, const StoreLatentsCudaCall& store, cudaStream_t stream) {
  if (!good(rope) || !good(store)) return cudaErrorInvalidValue;
  const unsigned blocks = blocks_of(rope) + blocks_of(store);
  if (blocks == 0) return cudaSuccess;
  return launch_early(rope_and_store_kernel, blocks, kThreads, 0, stream, rope, store, blocks_of(rope));
}

}  // namespace pelagic
