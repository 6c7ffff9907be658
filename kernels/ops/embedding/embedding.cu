// A thread copies or widens eight columns.
#include "cuda/dependents.cuh"
#include "cuda/row.cuh"
#include "ops/embedding/embedding_cuda.h"

namespace pelagic {
namespace {

constexpr int kThreads = 128;

template <typename Out>
__global__ void __launch_bounds__(kThreads) embedding_kernel(const EmbeddingCudaCall c) {
  begin_early();
  const std::int64_t row = blockIdx.x;
  const int group = blockIdx.y * kThreads + threadIdx.x;
  if (group >= c.width / kGroup) return;
  const std::uint32_t id = c.ids[row];
  if (id >= static_cast<std::uint32_t>(c.vocab)) {
    c.errors[kEmbeddingBadToken] = 1;
    return;
  }
  const uint4 data = *reinterpret_cast<const uint4*>(static_cast<const __nv_bfloat16*>(c.table) +
                                                     static_cast<std::int64_t>(id) * c.width + group * kGroup);
  Out* out = static_cast<Out*>(c.out) + row * c.ld_out + group * kGroup;
  if constexpr (sizeof(Out) == 2)
    *reinterpret_cast<uint4*>(out) = data;
  else
    store_group(out, widen(data));
}

}  // namespace

cudaError_t embedding_cuda(const EmbeddingCudaCall& call, cudaStream_t stream) {
  if (call.rows < 0 || call.width < kGroup || call.width % kGroup != 0 || call.vocab < 1 ||
      !rows_aligned(call.table, 0, 2) || !rows_aligned(call.out, call.ld_out, row_type_bytes(call.out_type)))
    return cudaErrorInvalidValue;
  if (call.rows == 0) return cudaSuccess;
  const dim3 grid(static_cast<unsigned>(call.rows),
                  static_cast<unsigned>((call.width / kGroup + kThreads - 1) / kThreads));
  return launch_early(call.out_type == RowType::float32 ? embedding_kernel<float> : embedding_kernel<__nv_bfloat16>,
                      grid, kThreads, 0, stream, call);
}

}  // namespace pelagic
