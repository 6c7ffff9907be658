// The list of pieces before the cuts, the merge after them, and the plan.
#include <algorithm>
#include <cmath>
#include <numbers>
#include <stdexcept>

#include "cuda/dependents.cuh"
#include "cuda/tensor_map.h"
#include "ops/kv_cache/fp8_latent.h"
#include "ops/mla_attention/mla_decode_kernel.cuh"

namespace pelagic {
namespace mla_decode {
namespace {

constexpr unsigned kAllLanes = 0xFFFFFFFFu;
constexpr int kScheduleThreads = 1024;
constexpr int kMergeWarps = 8;
constexpr int kMergeBlocks = 1024;
constexpr int kMergeBlocksOfRow = 64;
// Hardly more clusters run at once; one processor a piece is then as quick.
constexpr int kMostSpreadPieces = 16;

// Whole cuts are worked on first, in the list's order, and what is left of sequences last: so that the processors'
// shares end together.
__device__ void order_pieces(const Arguments& a, int pieces) {
  __shared__ int warp_sums[kScheduleThreads / 32];
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  int whole_before = 0;
  for (int base = 0; base < pieces; base += kScheduleThreads) {
    const int index = base + static_cast<int>(threadIdx.x);
    bool whole = false;
    if (index < pieces) {
      const Piece& piece = a.pieces[index];
      whole = (piece.cut + 1) * a.cut_tokens <= piece.length;
    }
    const unsigned votes = __ballot_sync(kAllLanes, whole);
    if (lane == 0) warp_sums[warp] = __popc(votes);
    __syncthreads();
    int before = whole_before;
    for (int w = 0; w < kScheduleThreads / 32; ++w) {
      if (w < warp) before += warp_sums[w];
      whole_before += warp_sums[w];
    }
    before += __popc(votes & ((1u << lane) - 1));
    if (index < pieces) a.pieces[whole ? before : pieces - 1 - (index - before)].walked = index;
    __syncthreads();
  }
}

// One block: sequence by sequence, where its pieces begin, and the pieces.
__global__ void __launch_bounds__(kScheduleThreads) schedule_kernel(const Arguments a) {
  begin_early();
  __shared__ int warp_sums[kScheduleThreads / 32];
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  int before = 0;
  for (int base = 0; base < a.sequences; base += kScheduleThreads) {
    const int sequence = base + static_cast<int>(threadIdx.x);
    Piece piece = {};
    int tiles = 0;
    if (sequence < a.sequences) {
      const int begin = a.row_offsets[sequence];
      const int end = a.row_offsets[sequence + 1];
      const int length = a.lengths[sequence];
      const bool right =
          begin >= 0 && begin <= end && end <= a.rows && length >= 0 && length <= a.max_blocks * kMlaDecodeBlockTokens;
      if (right) {
        piece = {sequence, begin, end - begin, length, 0, 0, max(1, cuts_of(length, a.cut_tokens)), 0};
        tiles = tiles_of(piece.rows, a.heads);
      } else {
        a.errors[kMlaDecodeBadSequence] = 1;
      }
    }
    const int count = tiles * piece.cuts;
    int sum = count;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const int left = __shfl_up_sync(kAllLanes, sum, step);
      if (lane >= step) sum += left;
    }
    if (lane == 31) warp_sums[warp] = sum;
    __syncthreads();
    int all = 0;
    for (int w = 0; w < kScheduleThreads / 32; ++w) {
      if (w == warp) sum += all;
      all += warp_sums[w];
    }
    const int end = before + sum;
    if (end <= a.piece_capacity) {
      Piece* target = a.pieces + (end - count);
      for (piece.cut = 0; piece.cut < piece.cuts; ++piece.cut)
        for (piece.tile = 0; piece.tile < tiles; ++piece.tile) *target++ = piece;
    } else if (end - count <= a.piece_capacity) {
      // The first that does not fit: the list ends before it.
      *a.piece_count = end - count;
      a.errors[kMlaDecodeNoRoom] = 1;
    }
    before += all;
    __syncthreads();
  }
  if (threadIdx.x == 0 && before <= a.piece_capacity) *a.piece_count = before;
  __syncthreads();
  order_pieces(a, *static_cast<volatile std::int32_t*>(a.piece_count));
}

// Merges the cuts of each vector in ascending order, in float32. Vectors with one cut have their result already.
__global__ void __launch_bounds__(kMergeWarps * 32) merge_kernel(const Arguments a) {
  allow_dependents();
  const int lane = static_cast<int>(threadIdx.x) % 32;
  // The cuts' kernel allowed this one once it had awaited the list: that may be read before the cuts are done.
  const int units = *a.piece_count * kTile;
  const int first = static_cast<int>(blockIdx.x) * kMergeWarps + static_cast<int>(threadIdx.x) / 32;
  Piece piece = {};
  if (first < a.piece_capacity * kTile) piece = load_piece(a, first / kTile);
  await_predecessors();
  for (int unit = first; unit < units; unit += static_cast<int>(gridDim.x) * kMergeWarps) {
    const int index = unit / kTile;
    if (unit != first) piece = load_piece(a, index);
    if (piece.cut != 0 || piece.cuts == 1) continue;
    const int place = unit % kTile;
    const int vector = piece.tile * kTile + place;
    if (vector >= piece.rows * a.heads) continue;
    const int cuts = cuts_of(visible_keys(a, piece, vector), a.cut_tokens);
    const std::int64_t step = static_cast<std::int64_t>(tiles_of(piece.rows, a.heads)) * kTile;  // to the next cut
    const float2* stats = a.stats + static_cast<std::int64_t>(index) * kTile + place;
    const float4* partial = reinterpret_cast<const float4*>(
                                a.partials + (static_cast<std::int64_t>(index) * kTile + place) * kMlaDecodeLatent) +
                            lane;
    float largest = -INFINITY;
    for (int cut = lane; cut < cuts; cut += 32) largest = fmaxf(largest, stats[cut * step].x);
#pragma unroll
    for (int distance = 16; distance >= 1; distance /= 2)
      largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, distance));
    const float origin = largest == -INFINITY ? 0.0f : largest;
    float4 total[4] = {};  // columns 4 lane + 128 i
    float sum = 0.0f;
    for (int base = 0; base < cuts; base += 32) {
      const float2 mine = base + lane < cuts ? stats[(base + lane) * step] : make_float2(-INFINITY, 0.0f);
      const float my_weight = power_of_2(mine.x - origin);
      const int end = min(32, cuts - base);
#pragma unroll 4
      for (int i = 0; i < end; ++i) {
        const float weight = __shfl_sync(kAllLanes, my_weight, i);
        sum = __fmaf_rn(__shfl_sync(kAllLanes, mine.y, i), weight, sum);
#pragma unroll
        for (int part = 0; part < 4; ++part) {
          const float4 four = partial[(base + i) * step * (kMlaDecodeLatent / 4) + 32 * part];
          total[part].x = __fmaf_rn(four.x, weight, total[part].x);
          total[part].y = __fmaf_rn(four.y, weight, total[part].y);
          total[part].z = __fmaf_rn(four.z, weight, total[part].z);
          total[part].w = __fmaf_rn(four.w, weight, total[part].w);
        }
      }
    }
    const float inverse = inverse_of(sum);
    uint2* out = reinterpret_cast<uint2*>(out_of(a, piece, vector)) + lane;
#pragma unroll
    for (int part = 0; part < 4; ++part)
      out[32 * part] = make_uint2(bf16_pair(total[part].x * inverse, total[part].y * inverse),
                                  bf16_pair(total[part].z * inverse, total[part].w * inverse));
  }
}

std::size_t rounded(std::size_t bytes) { return (bytes + 255) / 256 * 256; }

Arguments arguments_of(const MlaDecodeProblem& p) {
  Arguments a = {};
  a.rows = p.rows;
  a.heads = p.heads;
  a.sequences = p.sequences;
  a.max_blocks = p.max_blocks;
  a.cache_blocks = p.cache_blocks;
  a.cut_tokens = p.cut_tokens;
  a.piece_capacity = p.piece_capacity;
  a.log2_scale = static_cast<float>(static_cast<double>(p.scale) * std::numbers::log2e);
  a.q = static_cast<const __nv_bfloat16*>(p.q);
  a.block_table = p.block_table;
  a.row_offsets = p.row_offsets;
  a.lengths = p.lengths;
  a.out = static_cast<__nv_bfloat16*>(p.out);
  a.errors = p.errors;
  const std::size_t pieces = static_cast<std::size_t>(p.piece_capacity);
  unsigned char* next = static_cast<unsigned char*>(p.workspace);
  a.piece_count = reinterpret_cast<std::int32_t*>(next);
  next += 256;
  a.pieces = reinterpret_cast<Piece*>(next);
  next += rounded(pieces * sizeof(Piece));
  a.stats = reinterpret_cast<float2*>(next);
  next += rounded(pieces * kTile * sizeof(float2));
  a.partials = reinterpret_cast<float*>(next);
  return a;
}

// key: of the bf16 cache.
CacheMaps cache_maps(const MlaDecodeProblem& problem, const MapShape& key) {
  if (problem.cache_dtype == KvDtype::bfloat16) {
    const CUtensorMap map = make_tensor_map(problem.cache, key);
    return {map, map, map};
  }
  const unsigned char* base = static_cast<const unsigned char*>(problem.cache);
  MapShape latent = key, rope = key, scales = key;
  latent.row_bytes = rope.row_bytes = scales.row_bytes = kFp8LatentRowBytes;
  latent.type = CU_TENSOR_MAP_DATA_TYPE_UINT8;
  latent.columns = kMlaDecodeLatent;
  latent.box_columns = 128;
  rope.columns = kMlaDecodeKey - kMlaDecodeLatent;
  scales.type = CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
  scales.columns = scales.box_columns = kMlaDecodeLatent / kFp8Block;
  scales.swizzle = MapSwizzle::none;
  return {make_tensor_map(base, latent), make_tensor_map(base + kFp8LatentRopeAt, rope),
          make_tensor_map(base + kFp8LatentScalesAt, scales)};
}

}  // namespace
}  // namespace mla_decode

int mla_decode_pieces(int rows, int heads, int length, int cut_tokens) {
  return mla_decode::tiles_of(rows, heads) * std::max(1, mla_decode::cuts_of(length, cut_tokens));
}

int mla_decode_spread_clusters(const MlaDecodeProblem& p) {
  using namespace mla_decode;
  if (p.cut_tokens > kSpreadTiles * kTile || p.cache_dtype != KvDtype::bfloat16) return 0;
  // A sequence's last tile of query vectors may be any part of one.
  const std::int64_t tiles = std::int64_t{p.rows} * p.heads / kTile + p.sequences;
  const std::int64_t pieces = tiles * cuts_of(p.max_blocks * kMlaDecodeBlockTokens, p.cut_tokens);
  return static_cast<int>(std::min<std::int64_t>(pieces, p.piece_capacity));
}

std::size_t mla_decode_workspace_bytes(int piece_capacity) {
  using namespace mla_decode;
  const std::size_t pieces = static_cast<std::size_t>(piece_capacity);
  return 256 + rounded(pieces * sizeof(Piece)) + rounded(pieces * kTile * sizeof(float2)) +
         pieces * kTile * kMlaDecodeLatent * sizeof(float);
}

MlaDecodePlan make_mla_decode_plan(const MlaDecodeProblem& problem) {
  const auto require = [](bool ok, const char* what) {
    if (!ok) throw std::invalid_argument(what);
  };
  const auto aligned = [](const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0; };
  require(problem.rows >= 1, "rows must be at least 1");
  require(problem.heads >= 1 && problem.heads <= 128, "heads must be 1 to 128");
  require(problem.sequences >= 1, "sequences must be at least 1");
  require(problem.max_blocks >= 1 && problem.max_blocks <= INT32_MAX / kMlaDecodeBlockTokens,
          "max_blocks must be 1 to 2^25 - 1");
  require(problem.cache_blocks >= 1 && problem.cache_blocks < INT32_MAX / kMlaDecodeBlockTokens,
          "cache_blocks must be 1 to 2^25 - 2");
  require(problem.cut_tokens >= kMlaDecodeBlockTokens && problem.cut_tokens % kMlaDecodeBlockTokens == 0 &&
              problem.cut_tokens <= 1 << 20,
          "cut_tokens must be a multiple of 64, at most 2^20");
  require(problem.piece_capacity >= 1 && problem.piece_capacity <= INT32_MAX / mla_decode::kTile,
          "piece_capacity must be 1 to 2^25 - 1");
  require(problem.cache_dtype != KvDtype::float32, "cache_dtype must be bfloat16 or fp8");
  require(problem.scale > 0 && std::isfinite(problem.scale), "scale must be above 0");
  require(aligned(problem.q) && aligned(problem.cache) && aligned(problem.out) && aligned(problem.workspace),
          "q, cache, out and workspace must begin at a multiple of 16 bytes");

  MapShape shape = {};
  shape.type = CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  shape.columns = kMlaDecodeKey;
  shape.rows = static_cast<std::uint64_t>(problem.rows) * problem.heads;
  shape.row_bytes = kMlaDecodeKey * 2;
  shape.box_columns = 64;
  shape.box_rows = mla_decode::kTile;
  shape.swizzle = MapSwizzle::bytes_128;
  MlaDecodePlan plan = {};
  plan.problem = problem;
  require(shape.rows <= INT32_MAX, "rows * heads exceeds 2^31 - 1");
  plan.query_map = make_tensor_map(problem.q, shape);
  shape.box_rows = mla_decode::kSpreadQueryRows;
  plan.spread_query_map = make_tensor_map(problem.q, shape);
  shape.box_rows = mla_decode::kTile;
  shape.rows = static_cast<std::uint64_t>(problem.cache_blocks) * kMlaDecodeBlockTokens;
  plan.cache_maps = mla_decode::cache_maps(problem, shape);
  plan.grid = mla_decode::cuts_grid();
  if (plan.grid == 0 || !mla_decode::spread_runs()) throw std::runtime_error("the device cannot run MLA decode");
  const int clusters = mla_decode_spread_clusters(problem);
  plan.spread_clusters = clusters <= mla_decode::kMostSpreadPieces ? clusters : 0;
  return plan;
}

cudaError_t launch_mla_decode_schedule(const MlaDecodePlan& plan, cudaStream_t stream) {
  return launch_early(mla_decode::schedule_kernel, 1, mla_decode::kScheduleThreads, 0, stream,
                      mla_decode::arguments_of(plan.problem));
}

cudaError_t launch_mla_decode(const MlaDecodePlan& plan, cudaStream_t stream) {
  const mla_decode::Arguments arguments = mla_decode::arguments_of(plan.problem);
  const cudaError_t error = plan.spread_clusters > 0 ? mla_decode::launch_spread(plan, arguments, stream)
                                                     : mla_decode::launch_cuts(plan, arguments, stream);
  if (error != cudaSuccess) return error;
  // No more blocks than the longest possible list has vectors.
  const int most =
      std::min(mla_decode::kMergeBlocks, plan.problem.piece_capacity * (mla_decode::kTile / mla_decode::kMergeWarps));
  const int blocks = static_cast<int>(
      std::clamp<std::int64_t>(std::int64_t{plan.problem.rows} * mla_decode::kMergeBlocksOfRow, 1, most));
  return launch_early(mla_decode::merge_kernel, static_cast<unsigned>(blocks), mla_decode::kMergeWarps * 32, 0, stream,
                      arguments);
}

}  // namespace pelagic
