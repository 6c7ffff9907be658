// out = silu(gate) * up on the GPU, out as bf16, as e4m3 with scales, or both. Maths: README.md; CUDA.md.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace pelagic {

struct SiluMulCudaCall {
  int width;   // of out, a multiple of 8
  int groups;  // at least 1
  int rows;    // of each group: row r of group g is row g * rows + r of the buffers
  // Device memory; rows begin at a multiple of 16 bytes.
  const std::int32_t* counts;  // [groups]: rows of a group that exist (more than `rows` count as `rows`); null: all.
                               // Masked experts: their counts. Contiguous ones: one group, counts = offsets + experts.
  const void* gate_up;         // bf16 [groups * rows, 2 * width]: gate, then up
  void* out;                   // bf16 [groups * rows, width] or null
  std::uint8_t* out_fp8;       // e4m3 [groups * rows, width] or null: the bf16 numbers, rounded again
  float* out_scales;           // [ceil(width / 128), ld_out_scales], as the grouped GEMM reads them
  std::int64_t ld_out_scales;
};

// Rows that do not exist are neither read nor written. Others may run beside it (cuda/dependents.cuh).
// cudaErrorInvalidValue for shapes not named above.
cudaError_t silu_mul_cuda(const SiluMulCudaCall& call, cudaStream_t stream);

}  // namespace pelagic
