#include "backend/cuda/row_kernels.h"

#include "ops/kv_cache/fp8_latent.cuh"

namespace pelagic {
namespace {

constexpr int kThreads = 128;
constexpr int kReadBlocks = 132 * 8;
constexpr int kReadThreads = 512;

__global__ void __launch_bounds__(kThreads) gather_kernel(const GatherRowsCudaCall c) {
  const int chunk = static_cast<int>(blockIdx.y) * kThreads + static_cast<int>(threadIdx.x);
  if (chunk >= c.row_bytes / 16) return;
  const char* from = static_cast<const char*>(c.x) + c.rows[blockIdx.x] * c.ldx_bytes;
  char* to = static_cast<char*>(c.out) + blockIdx.x * c.ld_out_bytes;
  reinterpret_cast<uint4*>(to)[chunk] = reinterpret_cast<const uint4*>(from)[chunk];
}

__global__ void __launch_bounds__(kReadThreads) read_kernel(const uint4* data, std::size_t count, unsigned* sink) {
  const std::size_t step = static_cast<std::size_t>(gridDim.x) * kReadThreads;
  unsigned sum = 0;
#pragma unroll 8
  for (std::size_t i = static_cast<std::size_t>(blockIdx.x) * kReadThreads + threadIdx.x; i < count; i += step) {
    const uint4 four = data[i];
    sum += four.x ^ four.y ^ four.z ^ four.w;
  }
  if (sum == 0x9E3779B9u) *sink = sum;  // almost never, but the compiler cannot know
}

// A warp for each key.
template <bool kFp8>
__global__ void __launch_bounds__(kThreads) gather_latents_kernel(const GatherLatentsCudaCall c) {
  constexpr int kBlockRows = 64, kLatentParts = 64, kRopeParts = 8;  // parts of 16 bytes
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int key = static_cast<int>(blockIdx.x) * (kThreads / 32) + static_cast<int>(threadIdx.x) / 32;
  if (key >= c.keys) return;
  int run = 0;  // the last that begins at or before the key
  for (int after = c.runs; after - run > 1;) {
    const int middle = (run + after) / 2;
    (c.key_offsets[middle] <= key ? run : after) = middle;
  }
  const int position = key - c.key_offsets[run];
  const int block = c.block_table[static_cast<std::int64_t>(run) * c.max_blocks + position / kBlockRows];
  const bool there = block >= 0 && block < c.cache_blocks;
  if (!there && lane == 0) *c.error = 1;
  constexpr int kRowParts = kFp8 ? kFp8LatentRowBytes / 16 : kLatentParts + kRopeParts;
  const uint4* from = static_cast<const uint4*>(c.cache) +
                      (static_cast<std::int64_t>(there ? block : 0) * kBlockRows + position % kBlockRows) * kRowParts;
  uint4* latents = static_cast<uint4*>(c.latents) + static_cast<std::int64_t>(key) * kLatentParts;
  uint4* rope = static_cast<uint4*>(c.rope) + static_cast<std::int64_t>(key) * kRopeParts;
  const uint4 zero = {0, 0, 0, 0};
  constexpr int kRopeAt = kFp8 ? kFp8LatentRopeAt / 16 : kLatentParts;
  const uint4 key_rope = there && lane < kRopeParts ? from[kRopeAt + lane] : zero;
  const uint4 first = there ? from[lane] : zero;
  if constexpr (kFp8) {
    const float* scales = reinterpret_cast<const float*>(from + kFp8LatentScalesAt / 16);
    const std::uint32_t scale = expanding_scale(there ? scales[lane / 8] : 0.0f);
    latents[2 * lane] = expanded_latents(first.x, first.y, scale);
    latents[2 * lane + 1] = expanded_latents(first.z, first.w, scale);
  } else {
    const uint4 second = there ? from[lane + 32] : zero;
    latents[lane] = first;
    latents[lane + 32] = second;
  }
  if (lane < kRopeParts) rope[lane] = key_rope;
}

}  // namespace

cudaError_t gather_latents_cuda(const GatherLatentsCudaCall& call, cudaStream_t stream) {
  if (call.keys < 0 || call.runs < 1) return cudaErrorInvalidValue;
  if (call.keys == 0) return cudaSuccess;
  constexpr int kKeys = kThreads / 32;
  const auto kernel = call.cache_dtype == KvDtype::fp8 ? gather_latents_kernel<true> : gather_latents_kernel<false>;
  kernel<<<static_cast<unsigned>((call.keys + kKeys - 1) / kKeys), kThreads, 0, stream>>>(call);
  return cudaGetLastError();
}

cudaError_t gather_rows_cuda(const GatherRowsCudaCall& call, cudaStream_t stream) {
  if (call.count < 0 || call.row_bytes < 16 || call.row_bytes % 16 != 0 || call.ldx_bytes % 16 != 0 ||
      call.ld_out_bytes % 16 != 0)
    return cudaErrorInvalidValue;
  if (call.count == 0) return cudaSuccess;
  const dim3 grid(static_cast<unsigned>(call.count),
                  static_cast<unsigned>((call.row_bytes / 16 + kThreads - 1) / kThreads));
  gather_kernel<<<grid, kThreads, 0, stream>>>(call);
  return cudaGetLastError();
}

cudaError_t read_bytes_cuda(const void* data, std::size_t bytes, unsigned* sink, cudaStream_t stream) {
  read_kernel<<<kReadBlocks, kReadThreads, 0, stream>>>(static_cast<const uint4*>(data), bytes / 16, sink);
  return cudaGetLastError();
}

}  // namespace pelagic
