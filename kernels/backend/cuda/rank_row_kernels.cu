#include "backend/cuda/rank_row_kernels.h"

namespace pelagic {
namespace {

constexpr int kThreads = 128;

// A block for each row and 128 parts of 16 bytes of it; the first also takes the scales.
__global__ void __launch_bounds__(kThreads) pack_kernel(const RankRowsCudaCall c, const char* x, std::int64_t ldx,
                                                        const float* scales, std::int64_t ld_scales, char* packed) {
  const std::int64_t row = blockIdx.x;
  const int part = static_cast<int>(blockIdx.y) * kThreads + static_cast<int>(threadIdx.x);
  char* to = packed + row * c.packed_bytes;
  if (part < c.row_bytes / 16) reinterpret_cast<uint4*>(to)[part] = reinterpret_cast<const uint4*>(x + row * ldx)[part];
  if (blockIdx.y != 0) return;
  float* to_scales = reinterpret_cast<float*>(to + c.row_bytes);
  for (int i = static_cast<int>(threadIdx.x); i < c.scale_blocks; i += kThreads)
    to_scales[i] = scales[i * ld_scales + row];
}

__global__ void __launch_bounds__(kThreads)
    unpack_kernel(const RankRowsCudaCall c, const char* packed, const std::uint32_t* index, char* out, float* scales,
                  std::int64_t ld_scales) {
  const std::int64_t row = blockIdx.x;
  const int part = static_cast<int>(blockIdx.y) * kThreads + static_cast<int>(threadIdx.x);
  const std::int64_t from_row = index != nullptr ? static_cast<std::int64_t>(index[row]) : row;
  const char* from = packed + from_row * c.packed_bytes;
  if (part < c.row_bytes / 16)
    reinterpret_cast<uint4*>(out + row * c.row_bytes)[part] = reinterpret_cast<const uint4*>(from)[part];
  if (blockIdx.y != 0) return;
  const float* from_scales = reinterpret_cast<const float*>(from + c.row_bytes);
  for (int i = static_cast<int>(threadIdx.x); i < c.scale_blocks; i += kThreads)
    scales[i * ld_scales + row] = from_scales[i];
}

bool is_valid(const RankRowsCudaCall& c) {
  return c.rows >= 0 && c.row_bytes >= 16 && c.row_bytes % 16 == 0 && c.packed_bytes % 16 == 0 && c.scale_blocks >= 0 &&
         c.packed_bytes >= c.row_bytes + 4 * c.scale_blocks;
}

dim3 grid_of(const RankRowsCudaCall& c) {
  return {static_cast<unsigned>(c.rows), static_cast<unsigned>((c.row_bytes / 16 + kThreads - 1) / kThreads)};
}

}  // namespace

cudaError_t pack_rank_rows_cuda(const RankRowsCudaCall& call, const void* x, std::int64_t ldx_bytes,
                                const float* scales, std::int64_t ld_scales, void* packed, cudaStream_t stream) {
  if (!is_valid(call) || ldx_bytes % 16 != 0) return cudaErrorInvalidValue;
  if (call.rows == 0) return cudaSuccess;
  pack_kernel<<<grid_of(call), kThreads, 0, stream>>>(call, static_cast<const char*>(x), ldx_bytes, scales, ld_scales,
                                                      static_cast<char*>(packed));
  return cudaGetLastError();
}

cudaError_t unpack_rank_rows_cuda(const RankRowsCudaCall& call, const void* packed, const std::uint32_t* index,
                                  void* out, float* scales, std::int64_t ld_scales, cudaStream_t stream) {
  if (!is_valid(call)) return cudaErrorInvalidValue;
  if (call.rows == 0) return cudaSuccess;
  unpack_kernel<<<grid_of(call), kThreads, 0, stream>>>(call, static_cast<const char*>(packed), index,
                                                        static_cast<char*>(out), scales, ld_scales);
  return cudaGetLastError();
}

}  // namespace pelagic
