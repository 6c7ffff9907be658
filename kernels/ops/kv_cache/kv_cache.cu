// A thread copies 16 bytes.
#include "ops/kv_cache/kv_cache.h"
#include "ops/kv_cache/kv_cache_cuda.h"

namespace pelagic {
namespace {

constexpr int kThreads = 256;

template <bool kPack>
__global__ void __launch_bounds__(kThreads) kv_rows_kernel(const KvRowsCudaCall c) {
  const int chunks = c.row_bytes / 16;
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const std::int64_t row = at / chunks;
  if (row >= c.rows) return;
  const std::int64_t position = c.first_position + row;
  const std::int64_t entry = position / kBlockRows;
  const int block = entry < c.table_blocks ? c.blocks[entry] : -1;
  if (block < 0 || block >= c.cache_blocks) {
    c.errors[kKvBadBlock] = 1;
    return;
  }
  uint4* cached = static_cast<uint4*>(c.cache) +
                  (static_cast<std::int64_t>(block) * kBlockRows + position % kBlockRows) * chunks + at % chunks;
  uint4* packed = static_cast<uint4*>(c.buffer) + at;
  if constexpr (kPack)
    *packed = *cached;
  else
    *cached = *packed;
}

template <bool kPack>
cudaError_t launch(const KvRowsCudaCall& call, cudaStream_t stream) {
  const auto aligned = [](const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; };
  if (call.row_bytes < 16 || call.row_bytes % 16 != 0 || call.first_position < 0 || call.rows < 0 ||
      call.table_blocks < 0 || call.cache_blocks < 0 || !aligned(call.cache) || !aligned(call.buffer))
    return cudaErrorInvalidValue;
  if (call.rows == 0) return cudaSuccess;
  const std::int64_t threads = static_cast<std::int64_t>(call.rows) * (call.row_bytes / 16);
  kv_rows_kernel<kPack><<<static_cast<unsigned>((threads + kThreads - 1) / kThreads), kThreads, 0, stream>>>(call);
  return cudaGetLastError();
}

}  // namespace

cudaError_t kv_pack_cuda(const KvRowsCudaCall& call, cudaStream_t stream) { return launch<true>(call, stream); }
cudaError_t kv_unpack_cuda(const KvRowsCudaCall& call, cudaStream_t stream) { return launch<false>(call, stream); }

}  // namespace pelagic
