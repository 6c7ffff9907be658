// Plainly, without the tensor cores: a block takes 128 rows of one head, row after row.
#include <cmath>

#include "ops/mla_attention/mla_prefill_kernel.cuh"

namespace pelagic::mla_prefill {
namespace {

constexpr int kThreads = 128;
static_assert(kThreads == kKeys && kThreads == kMlaPrefillValue);

__global__ void __launch_bounds__(kThreads) prefill_kernel(const Arguments a) {
  __shared__ float query[kMlaPrefillQuery];
  __shared__ float weights[kKeys];
  __shared__ float tops[kThreads / 32];
  __shared__ int found;
  const int thread = static_cast<int>(threadIdx.x);
  const int slot = static_cast<int>(blockIdx.x) / a.heads;
  const int head = static_cast<int>(blockIdx.x) % a.heads;
  if (thread == 0) found = -1;
  __syncthreads();
  for (int s = thread; s < a.sequences; s += kThreads) {
    const int row = a.row_offsets[s], end = a.row_offsets[s + 1];
    const int key = a.key_offsets[s], key_end = a.key_offsets[s + 1];
    const bool right =
        0 <= row && row <= end && end <= a.rows && 0 <= key && key <= key_end && key_end <= a.keys &&
        end - row <= key_end - key;
    if (!right) a.errors[kMlaPrefillBadSequence] = 1;
    if (right && first_slot(row, s) <= slot && slot < first_slot(end, s + 1)) found = s;
  }
  __syncthreads();
  if (found < 0) return;
  const int sequence = found;
  const int first_row = a.row_offsets[sequence], end_row = a.row_offsets[sequence + 1];
  const int first_key = a.key_offsets[sequence], keys = a.key_offsets[sequence + 1] - first_key;
  const int start = keys - (end_row - first_row);
  const int begin = first_row + (slot - first_slot(first_row, sequence)) * kQueries;
  for (int row = begin; row < min(begin + kQueries, end_row); ++row) {
    const int visible = start + row - first_row + 1;
    __syncthreads();
    for (int i = thread; i < kMlaPrefillQuery; i += kThreads)
      query[i] = __bfloat162float(a.q[(static_cast<std::int64_t>(row) * a.heads + head) * kMlaPrefillQuery + i]);
    float largest = -INFINITY, sum = 0, total = 0;
    for (int base = 0; base < visible; base += kKeys) {
      __syncthreads();
      float score = -INFINITY;
      if (base + thread < visible) {
        const std::int64_t key = first_key + base + thread;
        float dot = 0;
        for (int i = 0; i < kMlaPrefillNope; ++i)
          dot = __fmaf_rn(query[i], __bfloat162float(a.kv[(key * a.heads + head) * 256 + i]), dot);
        for (int i = 0; i < kMlaPrefillRope; ++i)
          dot = __fmaf_rn(query[kMlaPrefillNope + i], __bfloat162float(a.k_rope[key * kMlaPrefillRope + i]), dot);
        score = dot * a.log2_scale;
      }
      float top = score;
      for (int distance = 16; distance >= 1; distance /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, distance));
      if (thread % 32 == 0) tops[thread / 32] = top;
      __syncthreads();
      const float now = fmaxf(largest, fmaxf(fmaxf(tops[0], tops[1]), fmaxf(tops[2], tops[3])));
      const float kept = exp2f(largest - now);
      largest = now;
      weights[thread] = __bfloat162float(__float2bfloat16_rn(exp2f(score - now)));
      __syncthreads();
      sum = __fmul_rn(sum, kept);
      total = __fmul_rn(total, kept);
      for (int t = 0; t < min(kKeys, visible - base); ++t) {
        const std::int64_t key = first_key + base + t;
        sum = __fadd_rn(sum, weights[t]);
        total = __fmaf_rn(
            weights[t], __bfloat162float(a.kv[(key * a.heads + head) * 256 + kMlaPrefillNope + thread]), total);
      }
    }
    a.out[(static_cast<std::int64_t>(row) * a.heads + head) * kMlaPrefillValue + thread] =
        __float2bfloat16_rn(total / sum);
  }
}

}  // namespace

bool prepare() { return true; }

cudaError_t launch(const MlaPrefillPlan&, const Arguments& arguments, cudaStream_t stream) {
  prefill_kernel<<<arguments.slots * arguments.heads, kThreads, 0, stream>>>(arguments);
  return cudaGetLastError();
}

}  // namespace pelagic::mla_prefill
