// The cuts, plainly: a block takes a piece, vector after vector, key after key.
#include <algorithm>
#include <cmath>

#include "ops/mla_attention/mla_decode_kernel.cuh"

namespace pelagic::mla_decode {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

// Sum of 32 lanes, in every lane.
__device__ float sum_of_lanes(float value) {
#pragma unroll
  for (int step = 16; step >= 1; step /= 2) value += __shfl_xor_sync(0xFFFFFFFFu, value, step);
  return value;
}

__global__ void __launch_bounds__(kThreads) cuts_kernel(const Arguments a) {
  __shared__ float weights[kTile];
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int column = 2 * static_cast<int>(threadIdx.x);
  const int pieces = *a.piece_count;
  for (int index = static_cast<int>(blockIdx.x); index < pieces; index += static_cast<int>(gridDim.x)) {
    const Piece piece = load_piece(a, index);
    const int first_key = piece.cut * a.cut_tokens;
    const int vectors = piece.rows * a.heads;
    for (int place = 0; place < kTile; ++place) {
      const int vector = piece.tile * kTile + place;
      if (vector >= vectors) break;
      const int end = min(visible_keys(a, piece, vector), first_key + a.cut_tokens);
      const __nv_bfloat16* q = a.q + (static_cast<std::int64_t>(piece.row) * a.heads + vector) * kMlaDecodeKey;
      float largest = -INFINITY, sum = 0.0f, low = 0.0f, high = 0.0f;
      for (int key = first_key; key < end; key += kTile) {
        const int id = a.block_table[static_cast<std::int64_t>(piece.sequence) * a.max_blocks + key / kTile];
        if (id < 0 || id >= a.cache_blocks) {
          a.errors[kMlaDecodeBadBlock] = 1;
          continue;
        }
        const int keys = min(kTile, end - key);
        const __nv_bfloat16* block = a.cache + static_cast<std::int64_t>(id) * kTile * kMlaDecodeKey;
        for (int k = warp; k < keys; k += kWarps) {
          float dot = 0.0f;
          for (int i = lane; i < kMlaDecodeKey; i += 32)
            dot = __fmaf_rn(__bfloat162float(q[i]), __bfloat162float(block[k * kMlaDecodeKey + i]), dot);
          dot = sum_of_lanes(dot);
          if (lane == 0) weights[k] = dot * a.log2_scale;
        }
        __syncthreads();
        float new_largest = largest;
        for (int k = 0; k < keys; ++k) new_largest = fmaxf(new_largest, weights[k]);
        const float kept = power_of_2(largest - new_largest);
        largest = new_largest;
        sum *= kept;
        low *= kept;
        high *= kept;
        for (int k = 0; k < keys; ++k) {
          const float weight = power_of_2(weights[k] - largest);
          const __nv_bfloat16* latent = block + k * kMlaDecodeKey + column;
          sum += weight;
          low = __fmaf_rn(weight, __bfloat162float(latent[0]), low);
          high = __fmaf_rn(weight, __bfloat162float(latent[1]), high);
        }
        __syncthreads();
      }
      if (piece.cuts == 1) {
        const float inverse = inverse_of(sum);
        reinterpret_cast<std::uint32_t*>(out_of(a, piece, vector))[threadIdx.x] =
            pack((low + 0.0f) * inverse, (high + 0.0f) * inverse);
      } else {
        const std::int64_t slot = static_cast<std::int64_t>(index) * kTile + place;
        if (threadIdx.x == 0) a.stats[slot] = make_float2(largest, sum);
        reinterpret_cast<float2*>(a.partials + slot * kMlaDecodeLatent)[threadIdx.x] = make_float2(low, high);
      }
    }
  }
}

}  // namespace

int cuts_grid() {
  int device = 0;
  int processors = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 0;
  if (cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device) != cudaSuccess) return 0;
  return 4 * processors;
}

cudaError_t launch_cuts(const MlaDecodePlan& plan, const Arguments& arguments, cudaStream_t stream) {
  cuts_kernel<<<plan.grid, kThreads, 0, stream>>>(arguments);
  return cudaGetLastError();
}

}  // namespace pelagic::mla_decode
