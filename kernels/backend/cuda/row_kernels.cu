#include "backend/cuda/row_kernels.h"

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

}  // namespace

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
