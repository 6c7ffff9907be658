// Blocks walk the rows that exist; a thread takes eight columns. Built with -fmad=false.
#include <algorithm>

#include "cuda/dependents.cuh"
#include "cuda/exp.cuh"
#include "cuda/row.cuh"
#include "ops/silu_mul/silu_mul_cuda.h"

namespace pelagic {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocks = 132 * 8 * 2;  // about what runs at once, twice
constexpr int kMostGroups = 65535;    // of the grid's y

__global__ void __launch_bounds__(kThreads) silu_mul_kernel(const SiluMulCudaCall c) {
  begin_with_others();
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.y) * c.rows;
  const int count = c.counts == nullptr ? c.rows : min(c.counts[blockIdx.y], c.rows);
  const int groups = c.width / kGroup;
  const int rounded_groups = (groups + 31) / 32 * 32;  // whole warps: their lanes find the largest number together
  const Fp8Rows fp8 = {c.out_fp8, c.out_scales, c.ld_out_scales};
  for (int r = blockIdx.x; r < count; r += gridDim.x) {
    const std::int64_t row = first + r;
    const __nv_bfloat16* gate = static_cast<const __nv_bfloat16*>(c.gate_up) + row * 2 * c.width;
    for (int g = threadIdx.x; g < rounded_groups; g += kThreads) {
      const bool valid = g < groups;
      uint4 rounded = {};
      if (valid) {
        const Group x = load_group(gate + g * kGroup);
        const Group up = load_group(gate + c.width + g * kGroup);
        Group y;
#pragma unroll
        for (int j = 0; j < kGroup; ++j)
          y.v[j] = __fmul_rn(__fdiv_rn(x.v[j], __fadd_rn(1.0f, exp_f32_device(-x.v[j]))), up.v[j]);
        rounded = to_bf16(y);
        if (c.out != nullptr)
          *reinterpret_cast<uint4*>(static_cast<__nv_bfloat16*>(c.out) + row * c.width + g * kGroup) = rounded;
      }
      if (c.out_fp8 != nullptr) store_fp8(fp8, row, c.width, g, valid, widen(rounded));
    }
  }
}

}  // namespace

cudaError_t silu_mul_cuda(const SiluMulCudaCall& call, cudaStream_t stream) {
  const auto aligned = [](const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; };
  if (call.rows < 0 || call.groups < 1 || call.groups > kMostGroups || call.width < kGroup ||
      call.width % kGroup != 0 || !aligned(call.gate_up) || !aligned(call.out) || !aligned(call.out_fp8))
    return cudaErrorInvalidValue;
  if (call.rows == 0) return cudaSuccess;
  const int blocks = std::clamp(kBlocks / call.groups, 1, call.rows);
  return launch_early(silu_mul_kernel, dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(call.groups)),
                      kThreads, 0, stream, call);
}

}  // namespace pelagic
