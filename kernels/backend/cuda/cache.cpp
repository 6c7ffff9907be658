// The latent cache, and copies of its rows on a stream of their own beside the step's.
#include "backend/cuda/cuda_backend.h"

#include <cstring>

#include "base/xxh64.h"

namespace pelagic::cuda {

std::unique_ptr<KvCache> CudaBackend::make_kv_cache(const KvLayout& layout) {
  tune_gemms();
  auto cache = std::make_unique<CudaKvCache>(layout);
  check(cudaMemset(cache->memory.get(), 0, cache->memory.bytes()), "cudaMemset");
  check(cudaDeviceSynchronize(), "loading");  // whatever thread sent what
  return cache;
}

std::uint64_t CudaBackend::pack_rows(const KvCache& cache, int layer, std::uint32_t block, int first_row, int row_count,
                                     std::byte* out) {
  const auto& kv = static_cast<const CudaKvCache&>(cache);
  const std::size_t bytes = static_cast<std::size_t>(row_count) * kv.layout.row_bytes();
  const std::lock_guard lock(copy_mutex_);
  std::byte* staging = copy_staging(bytes);
  check(cudaMemcpyAsync(staging, kv.memory.get<std::byte>() + kv.layout.offset(layer, block, first_row), bytes,
                        cudaMemcpyDeviceToHost, copy_stream_),
        "a copy of latents");
  check(cudaStreamSynchronize(copy_stream_), "a copy of latents");
  std::memcpy(out, staging, bytes);
  return xxh64(out, bytes);
}

std::uint64_t CudaBackend::unpack_rows(KvCache& cache, int layer, std::uint32_t block, int first_row, int row_count,
                                       const std::byte* data) {
  const auto& kv = static_cast<const CudaKvCache&>(cache);
  const std::size_t bytes = static_cast<std::size_t>(row_count) * kv.layout.row_bytes();
  const std::lock_guard lock(copy_mutex_);
  std::byte* staging = copy_staging(bytes);
  std::memcpy(staging, data, bytes);
  check(cudaMemcpyAsync(kv.memory.get<std::byte>() + kv.layout.offset(layer, block, first_row), staging, bytes,
                        cudaMemcpyHostToDevice, copy_stream_),
        "a copy of latents");
  const std::uint64_t sum = xxh64(staging, bytes);
  check(cudaStreamSynchronize(copy_stream_), "a copy of latents");
  return sum;
}

void CudaBackend::copy_block(KvCache& cache, std::uint32_t from, std::uint32_t to) {
  const auto& kv = static_cast<const CudaKvCache&>(cache);
  std::byte* base = kv.memory.get<std::byte>();
  const std::lock_guard lock(copy_mutex_);
  // One by one: a layer of 29,128 blocks and more is further from the next than cudaMemcpy2D can reach (2^31 - 1
  // bytes).
  for (int layer = 0; layer < kv.layout.layers; ++layer)
    check(cudaMemcpyAsync(base + kv.layout.offset(layer, to, 0), base + kv.layout.offset(layer, from, 0),
                          kv.layout.block_bytes(), cudaMemcpyDeviceToDevice, copy_stream_),
          "a copy of a block");
  check(cudaStreamSynchronize(copy_stream_), "a copy of a block");
}

std::byte* CudaBackend::copy_staging(std::size_t bytes) {
  if (copy_staging_.bytes() < bytes) copy_staging_.grow(bytes);
  return copy_staging_.get<std::byte>();
}

}  // namespace pelagic::cuda
