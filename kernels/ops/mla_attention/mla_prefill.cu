// A block takes 128 rows of one head and walks the keys that they see, tile of 128 after tile. Two warpgroups score and
// sum 64 rows each, one thread asks the copy engine for queries, keys and values. CUDA.md.
#include <cmath>
#include <type_traits>

#include "cuda/arithmetic.cuh"
#include "cuda/pipeline.cuh"
#include "ops/mla_attention/mla_prefill_kernel.cuh"

namespace pelagic::mla_prefill {
namespace {

using sm90::kArrivals;

constexpr int kConsumers = 2;  // warpgroups, of 64 rows each
constexpr int kConsumerThreads = kConsumers * 128;
constexpr int kThreads = kConsumerThreads + 128;
constexpr int kStages = 2;
constexpr int kPanel = 64;                       // columns of a tile that lie together: 128 bytes
constexpr int kPanelBytes = kKeys * kPanel * 2;  // 128 rows of them, swizzled
constexpr int kKeyPanels = kMlaPrefillQuery / kPanel;
constexpr int kNopePanels = kMlaPrefillNope / kPanel;
constexpr int kValuePanels = kMlaPrefillValue / kPanel;
constexpr int kKeyBytes = kKeyPanels * kPanelBytes;
constexpr int kValueBytes = kValuePanels * kPanelBytes;
constexpr int kHeadColumns = kMlaPrefillNope + kMlaPrefillValue;  // of kv
constexpr int kRows = 64;                                         // of a warpgroup
constexpr int kScores = kKeys / 2;                                // of a tile, in a thread
constexpr int kTotals = kMlaPrefillValue / 2;                     // of a tile, in a thread
constexpr int kAlignment = 1024;
static_assert(kQueries == kConsumers * kRows && kQueries == kKeys);

// Named barriers; one for each warpgroup from those marked + on.
constexpr int kCleared = 1;  // values have been cleared
constexpr int kOwn = 2;      // + alone

struct Control {
  std::uint64_t queries_full;
  std::uint64_t keys_full[kStages];     // have arrived
  std::uint64_t keys_empty[kStages];    // have been scored
  std::uint64_t values_full[kStages];   // have arrived
  std::uint64_t values_empty[kStages];  // have been summed
  int sequence;
};

constexpr int kSharedBytes =
    kAlignment + kKeyBytes + kStages * (kKeyBytes + kValueBytes) + static_cast<int>(sizeof(Control));
static_assert(kSharedBytes <= 232448);  // dynamic shared memory of one block on sm_90

struct Shared {
  unsigned char* queries;  // later the result
  unsigned char* key_tiles;
  unsigned char* value_tiles;
  Control* control;

  __device__ unsigned char* keys(int stage) const { return key_tiles + stage * kKeyBytes; }
  __device__ unsigned char* values(int stage) const { return value_tiles + stage * kValueBytes; }
};

// Up to 128 rows of a sequence.
struct Piece {
  int head;
  int row;   // the first
  int rows;  // at least 1
  int key;   // the sequence's first
  int keys;  // of the sequence
  int seen;  // keys that the first row sees, each row after it one more

  __device__ int tiles() const { return (seen + rows - 1 + kKeys - 1) / kKeys; }
  __device__ int whole_tiles() const { return seen / kKeys; }  // that all rows see all of
};

using Turn = sm90::StageTurn<kStages>;
using sm90::wait;
using sm90::warp_arrive;

// ---- the thread that fetches ----

__device__ void produce(const Shared& shared, const Piece& piece, const CUtensorMap* query_map,
                        const CUtensorMap* kv_map, const CUtensorMap* rope_map) {
  Control& control = *shared.control;
  const int column = piece.head * kHeadColumns;
  const int tiles = piece.tiles();
  {
    const std::uint32_t barrier = sm90::shared_address(&control.queries_full);
    sm90::mbarrier_arrive_expect(barrier, kKeyBytes);
    for (int panel = 0; panel < kKeyPanels; ++panel)
      sm90::copy_box(sm90::shared_address(shared.queries) + panel * kPanelBytes, query_map,
                     piece.head * kMlaPrefillQuery + panel * kPanel, piece.row, barrier, sm90::kEvictFirst);
  }
  const auto fetch_keys = [&](int t, const Turn& turn) {
    wait(control.keys_empty[turn.stage], turn.parity ^ 1);
    const std::uint32_t barrier = sm90::shared_address(&control.keys_full[turn.stage]);
    const std::uint32_t target = sm90::shared_address(shared.keys(turn.stage));
    sm90::mbarrier_arrive_expect(barrier, kKeyBytes);
    for (int panel = 0; panel < kNopePanels; ++panel)
      sm90::copy_box(target + panel * kPanelBytes, kv_map, column + panel * kPanel, piece.key + t * kKeys, barrier,
                     sm90::kEvictNormal);
    sm90::copy_box(target + kNopePanels * kPanelBytes, rope_map, 0, piece.key + t * kKeys, barrier, sm90::kEvictNormal);
  };
  Turn keys, values;
  fetch_keys(0, keys);
  keys.advance();
  for (int t = 0; t < tiles; ++t, values.advance()) {
    // In the order in which room is made for them.
    if (t + 1 < tiles) {
      fetch_keys(t + 1, keys);
      keys.advance();
    }
    wait(control.values_empty[values.stage], values.parity ^ 1);
    const std::uint32_t barrier = sm90::shared_address(&control.values_full[values.stage]);
    const std::uint32_t target = sm90::shared_address(shared.values(values.stage));
    sm90::mbarrier_arrive_expect(barrier, kValueBytes);
    for (int panel = 0; panel < kValuePanels; ++panel)
      sm90::copy_box(target + panel * kPanelBytes, kv_map, column + kMlaPrefillNope + panel * kPanel,
                     piece.key + t * kKeys, barrier, sm90::kEvictNormal);
  }
}

// ---- the warpgroups that score and sum ----

// Infinities and NaN become 0.
__device__ __forceinline__ std::uint32_t finite(std::uint32_t pair) {
  if ((pair & 0x7F80u) == 0x7F80u) pair &= 0xFFFF0000u;
  if ((pair & 0x7F800000u) == 0x7F800000u) pair &= 0xFFFFu;
  return pair;
}

// A weight of 0 does not remove a NaN. Values that lie after the sequence's last key, from row `keys` of the tile on,
// become zeros; those from row `some` on, which not all of the piece's rows see, become finite. Both warpgroups.
__device__ __forceinline__ void clear_values(unsigned char* tile, int some, int keys) {
  constexpr int kChunks = kMlaPrefillValue / 8;  // of 16 bytes in a row
  const int chunk = static_cast<int>(threadIdx.x) % kChunks;
  unsigned char* const column = tile + chunk / 8 * kPanelBytes + chunk % 8 * 16;
  for (int row = some + static_cast<int>(threadIdx.x) / kChunks; row < kKeys; row += kConsumerThreads / kChunks) {
    uint4& eight = *reinterpret_cast<uint4*>(column + row * 128);
    uint4 value = {};
    if (row < keys) value = {finite(eight.x), finite(eight.y), finite(eight.z), finite(eight.w)};
    eight = value;
  }
  sm90::fence_for_engines();
  sm90::barrier_sync(kCleared, kConsumerThreads);
}

// Asks for the scores of 64 rows and 128 keys.
__device__ __forceinline__ void ask_scores(float (&s)[kScores], std::uint64_t queries, std::uint64_t keys) {
  sm90::hold(s);
  sm90::wgmma_fence();
#pragma unroll
  for (int panel = 0; panel < kKeyPanels; ++panel)
#pragma unroll
    for (int i = 0; i < kPanel / 16; ++i) {
      const int step = panel * (kPanelBytes >> 4) + 2 * i;
      sm90::Wgmma<kKeys>::bf16(s, queries + step, keys + step, panel + i);
    }
  sm90::wgmma_commit();
  sm90::hold(s);
}

// Asks for total += weights * values.
__device__ __forceinline__ void ask_sums(float (&total)[kTotals], std::uint32_t (&weights)[kScores / 2],
                                         std::uint64_t values) {
  sm90::hold(total);
  sm90::hold(weights);
  sm90::wgmma_fence();
#pragma unroll
  for (int i = 0; i < kKeys / 16; ++i)
    sm90::wgmma_bf16_registers(total, weights[4 * i], weights[4 * i + 1], weights[4 * i + 2], weights[4 * i + 3],
                               values + 128 * i);
  sm90::wgmma_commit();
  sm90::hold(total);
}

// What a thread keeps of its two rows.
struct Rows {
  int seen[2];       // keys from the tile's first on
  float largest[2];  // scaled score
  float sum[2];      // of the weights of this thread's columns
  float kept[2];     // what the totals before this tile are multiplied by
};

// Scores become weights, rounded to bf16. s[4j], s[4j + 1]: the first row, keys 8j + 2 (lane % 4) and the next;
// s[4j + 2], s[4j + 3]: the second.
template <bool kMasked>
__device__ __forceinline__ void weigh(float (&s)[kScores], Rows& rows, float log2_scale) {
  float origin[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int limit = rows.seen[i] - 2 * (static_cast<int>(threadIdx.x) % 4);
    rows.seen[i] -= kKeys;
    float top = -INFINITY;
#pragma unroll
    for (int j = 0; j < kKeys / 8; ++j) {
      float& first = s[4 * j + 2 * i];
      float& second = s[4 * j + 2 * i + 1];
      if (kMasked && 8 * j >= limit) first = -INFINITY;
      if (kMasked && 8 * j + 1 >= limit) second = -INFINITY;
      top = fmaxf(top, fmaxf(first, second));
    }
    top = fmaxf(top, __shfl_xor_sync(0xFFFFFFFFu, top, 1));
    top = fmaxf(top, __shfl_xor_sync(0xFFFFFFFFu, top, 2));
    const float new_largest = fmaxf(rows.largest[i], __fmul_rn(top, log2_scale));
    origin[i] = new_largest == -INFINITY ? 0.0f : new_largest;
    rows.kept[i] = power_of_2(__fsub_rn(rows.largest[i], origin[i]));
    rows.largest[i] = new_largest;
  }
  float tile_sum[2] = {};
#pragma unroll
  for (int j = 0; j < kKeys / 8; ++j)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const std::uint32_t pair = bf16_pair(power_of_2(__fmaf_rn(s[4 * j + 2 * i], log2_scale, -origin[i])),
                                           power_of_2(__fmaf_rn(s[4 * j + 2 * i + 1], log2_scale, -origin[i])));
      s[4 * j + 2 * i] = __uint_as_float(pair << 16);
      s[4 * j + 2 * i + 1] = __uint_as_float(pair & 0xFFFF0000u);
      // The sum is of the rounded weights, which are what meets the values.
      tile_sum[i] = __fadd_rn(tile_sum[i], s[4 * j + 2 * i]);
      tile_sum[i] = __fadd_rn(tile_sum[i], s[4 * j + 2 * i + 1]);
    }
#pragma unroll
  for (int i = 0; i < 2; ++i) rows.sum[i] = __fmaf_rn(rows.sum[i], rows.kept[i], tile_sum[i]);
}

// Pairs of weights, as ask_sums takes them: [2j] of the first row, [2j + 1] of the second. A step of its own, because
// the registers of the last tile's weights must rest until its sums are made, or the compiler makes the products wait
// for each other.
__device__ __forceinline__ void pair_weights(const float (&s)[kScores], std::uint32_t (&weights)[kScores / 2]) {
#pragma unroll
  for (int i = 0; i < kScores / 2; ++i)
    weights[i] = __byte_perm(__float_as_uint(s[2 * i]), __float_as_uint(s[2 * i + 1]), 0x7632);
}

__device__ __forceinline__ void scale(float (&total)[kTotals], const Rows& rows) {
  // A factor of 1 changes no bit.
  if (__any_sync(0xFFFFFFFFu, rows.kept[0] != 1.0f || rows.kept[1] != 1.0f)) {
#pragma unroll
    for (int i = 0; i < kTotals; i += 4) {
      total[i + 0] = __fmul_rn(total[i + 0], rows.kept[0]);
      total[i + 1] = __fmul_rn(total[i + 1], rows.kept[0]);
      total[i + 2] = __fmul_rn(total[i + 2], rows.kept[1]);
      total[i + 3] = __fmul_rn(total[i + 3], rows.kept[1]);
    }
  }
}

// A thread has two of the warpgroup's 64 rows: 16 warp + lane / 4, and the one 8 further.
__device__ void attend(const Arguments& a, const Shared& shared, const Piece& piece, int group) {
  Control& control = *shared.control;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = __shfl_sync(0xFFFFFFFFu, static_cast<int>(threadIdx.x) % 128 / 32, 0);
  const int tiles = piece.tiles();
  const int whole_tiles = piece.whole_tiles();
  const std::uint64_t queries = sm90::tile_descriptor(sm90::shared_address(shared.queries) + group * kRows * 128);
  const auto keys_of = [&](const Turn& turn) {
    return sm90::tile_descriptor(sm90::shared_address(shared.keys(turn.stage)));
  };
  const auto values_of = [&](const Turn& turn) {
    return sm90::transposed_descriptor(sm90::shared_address(shared.values(turn.stage)), kPanelBytes);
  };
  const auto clear = [&](int t, const Turn& turn) {
    wait(control.values_full[turn.stage], turn.parity);
    clear_values(shared.values(turn.stage), max(0, piece.seen - t * kKeys), piece.keys - t * kKeys);
  };

  Rows rows;
  float total[kTotals];
  float s[kScores];
  std::uint32_t weights[kScores / 2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    rows.seen[i] = min(piece.seen + group * kRows + 16 * warp + lane / 4 + 8 * i, piece.keys);
    rows.largest[i] = -INFINITY;
    rows.sum[i] = 0.0f;
  }
#pragma unroll
  for (int i = 0; i < kTotals; ++i) total[i] = 0.0f;

  Turn keys, values;
  wait(control.queries_full, 0);
  wait(control.keys_full[keys.stage], keys.parity);
  ask_scores(s, queries, keys_of(keys));
  sm90::wgmma_wait_all();
  sm90::hold(s);
  warp_arrive(control.keys_empty[keys.stage]);
  keys.advance();
  if (whole_tiles == 0) {
    weigh<true>(s, rows, a.log2_scale);
    clear(0, values);
  } else {
    weigh<false>(s, rows, a.log2_scale);
  }
  pair_weights(s, weights);

  // The scores of tile t and the sums of the tile before it, together; tile t is weighed while the sums are made.
  const auto step = [&](int t, auto masked) {
    constexpr bool kMasked = decltype(masked)::value;
    wait(control.keys_full[keys.stage], keys.parity);
    wait(control.values_full[values.stage], values.parity);
    ask_scores(s, queries, keys_of(keys));
    ask_sums(total, weights, values_of(values));
    sm90::wgmma_wait<1>();
    sm90::hold(s);
    warp_arrive(control.keys_empty[keys.stage]);
    keys.advance();
    weigh<kMasked>(s, rows, a.log2_scale);
    sm90::wgmma_wait_all();
    sm90::hold(total);
    sm90::hold(weights);
    warp_arrive(control.values_empty[values.stage]);
    values.advance();
    scale(total, rows);
    pair_weights(s, weights);
    if (kMasked) clear(t, values);
  };
  int t = 1;
  for (; t < whole_tiles; ++t) step(t, std::false_type());
  for (; t < tiles; ++t) step(t, std::true_type());

  wait(control.values_full[values.stage], values.parity);
  ask_sums(total, weights, values_of(values));
  sm90::wgmma_wait_all();
  sm90::hold(total);

  // The result goes over the warpgroup's queries, 128 columns of bf16 in their panels, and from there in whole lines.
  float inverse[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float sum = rows.sum[i];
    sum = __fadd_rn(sum, __shfl_xor_sync(0xFFFFFFFFu, sum, 1));
    sum = __fadd_rn(sum, __shfl_xor_sync(0xFFFFFFFFu, sum, 2));
    inverse[i] = sum == 0.0f ? 0.0f : __frcp_rn(sum);
  }
  sm90::barrier_sync(kOwn + group, 128);
  const int first = group * kRows + 16 * warp;  // the warp's first row
  unsigned char* const own = shared.queries + first * 128;
  // A zero comes out as +0, whether tiles that the row does not see were added to it or not.
  const auto result = [&](int j, int i) {
    return bf16_pair((total[4 * j + 2 * i] + 0.0f) * inverse[i], (total[4 * j + 2 * i + 1] + 0.0f) * inverse[i]);
  };
  const std::uint32_t target = sm90::shared_address(own) + lane % 16 * 128;
#pragma unroll
  for (int j = 0; j < kMlaPrefillValue / 8; j += 2)
    sm90::store_matrices(target + j / 8 * kPanelBytes + (((j % 8 + lane / 16) ^ (lane % 8)) * 16), result(j, 0),
                         result(j, 1), result(j + 1, 0), result(j + 1, 1));
  __syncwarp();
  const int chunk = lane % 16;  // of 8 columns
#pragma unroll
  for (int i = 0; i < 16; i += 2) {
    const int row = i + lane / 16;
    if (first + row >= piece.rows) continue;
    const uint4 eight =
        *reinterpret_cast<const uint4*>(own + chunk / 8 * kPanelBytes + row * 128 + ((chunk ^ row) % 8) * 16);
    __nv_bfloat16* out =
        a.out + (static_cast<std::int64_t>(piece.row + first + row) * a.heads + piece.head) * kMlaPrefillValue;
    *reinterpret_cast<uint4*>(out + 8 * chunk) = eight;
  }
}

__global__ void __launch_bounds__(kThreads, 1)
    prefill_kernel(const __grid_constant__ CUtensorMap query_map, const __grid_constant__ CUtensorMap kv_map,
                   const __grid_constant__ CUtensorMap rope_map, const Arguments a) {
  extern __shared__ unsigned char shared_raw[];
  unsigned char* const start = shared_raw + (-sm90::shared_address(shared_raw) & (kAlignment - 1));
  Shared shared;
  shared.queries = start;
  shared.key_tiles = start + kKeyBytes;
  shared.value_tiles = shared.key_tiles + kStages * kKeyBytes;
  shared.control = reinterpret_cast<Control*>(shared.value_tiles + kStages * kValueBytes);
  Control& control = *shared.control;
  if (threadIdx.x == 0) {
    const auto init = [](std::uint64_t& barrier, int arrivals) {
      sm90::mbarrier_init(sm90::shared_address(&barrier), arrivals);
    };
    init(control.queries_full, 1);
    for (int stage = 0; stage < kStages; ++stage) {
      init(control.keys_full[stage], 1);
      init(control.keys_empty[stage], kConsumers * 4 * kArrivals);
      init(control.values_full[stage], 1);
      init(control.values_empty[stage], kConsumers * 4 * kArrivals);
    }
    sm90::mbarrier_init_fence();
    control.sequence = -1;
  }
  __syncthreads();

  // Heads in groups whose keys fit in the L2; in a group the long pieces first.
  const int index = static_cast<int>(blockIdx.x);
  const int head_base = index / (a.slots * a.group_heads) * a.group_heads;
  const int heads = min(a.group_heads, a.heads - head_base);
  const int place = index - head_base * a.slots;
  const int slot = a.slots - 1 - place / heads;
  for (int s = static_cast<int>(threadIdx.x); s < a.sequences; s += kThreads) {
    const int row = a.row_offsets[s];
    const int end = a.row_offsets[s + 1];
    const int key = a.key_offsets[s];
    const int key_end = a.key_offsets[s + 1];
    if (0 <= row && row <= end && end <= a.rows && 0 <= key && key <= key_end && key_end <= a.keys &&
        end - row <= key_end - key) {
      if (first_slot(row, s) <= slot && slot < first_slot(end, s + 1)) control.sequence = s;
    } else {
      a.errors[kMlaPrefillBadSequence] = 1;
    }
  }
  __syncthreads();
  const int sequence = control.sequence;
  if (sequence < 0) return;
  const int first_row = a.row_offsets[sequence];
  const int all_rows = a.row_offsets[sequence + 1] - first_row;
  const int done = (slot - first_slot(first_row, sequence)) * kQueries;  // rows of the sequence before this piece
  if (done >= all_rows) return;
  Piece piece;
  piece.head = head_base + place % heads;
  piece.row = first_row + done;
  piece.rows = min(kQueries, all_rows - done);
  piece.key = a.key_offsets[sequence];
  piece.keys = a.key_offsets[sequence + 1] - piece.key;
  piece.seen = piece.keys - all_rows + done + 1;

  // Through a shuffle, so that the compiler knows it is the same in the whole warp.
  const int group = __shfl_sync(0xFFFFFFFFu, static_cast<int>(threadIdx.x) / 128, 0);
  if (group < kConsumers) {
    sm90::registers_up<240>();
    attend(a, shared, piece, group);
  } else {
    sm90::registers_down<24>();
    if (threadIdx.x % 128 == 0) produce(shared, piece, &query_map, &kv_map, &rope_map);
  }
}

}  // namespace

bool prepare() {
  return cudaFuncSetAttribute(prefill_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes) == cudaSuccess;
}

cudaError_t launch(const MlaPrefillPlan& plan, const Arguments& arguments, cudaStream_t stream) {
  prefill_kernel<<<arguments.slots * arguments.heads, kThreads, kSharedBytes, stream>>>(plan.query_map, plan.kv_map,
                                                                                        plan.rope_map, arguments);
  return cudaGetLastError();
}

}  // namespace pelagic::mla_prefill
