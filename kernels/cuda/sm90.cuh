// Hopper's own instructions (sm_90a) as small functions: mbarrier, bulk tensor copies (TMA), wgmma, clusters.
// Names follow the PTX ISA; section titles in comments are those of its manual, version 9.0.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace pelagic::sm90 {

__device__ __forceinline__ std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

// ---- mbarrier ("Parallel Synchronization and Communication Instructions: mbarrier") ----

__device__ __forceinline__ void mbarrier_init(std::uint32_t barrier, std::uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

// Makes initialised barriers visible to the copy engine and to the other blocks of the cluster; a block or cluster
// barrier must follow.
__device__ __forceinline__ void mbarrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// One arrival, and `bytes` more to come from the copy engine before the phase ends.
__device__ __forceinline__ void mbarrier_arrive_expect(std::uint32_t barrier, std::uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

__device__ __forceinline__ void mbarrier_arrive(std::uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Arrives at the barrier that lies at the same offset in block `rank` of the cluster (its own rank allowed). Releases
// at block scope, for the same reason as mbarrier_wait: at cluster scope every arrival would drain all memory traffic
// of the thread.
__device__ __forceinline__ void mbarrier_arrive_at(std::uint32_t barrier, std::uint32_t rank) {
  asm volatile(
      "{\n"
      ".reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [remote];\n"
      "}\n" ::"r"(barrier),
      "r"(rank)
      : "memory");
}

// Returns once the phase of this parity is over. Acquires at block scope: at cluster scope each wait would also empty
// the L1 cache, and what is handed over here was either written by the copy engine or only read by the other block.
__device__ __forceinline__ void mbarrier_wait(std::uint32_t barrier, std::uint32_t parity) {
  std::uint32_t done = 0;
  while (done == 0) {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n"
        "}\n"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
  }
}

// Whether the phase of this parity is over.
__device__ __forceinline__ bool mbarrier_test(std::uint32_t barrier, std::uint32_t parity) {
  std::uint32_t done = 0;
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;\n"
      "selp.u32 %0, 1, 0, p;\n"
      "}\n"
      : "=r"(done)
      : "r"(barrier), "r"(parity)
      : "memory");
  return done != 0;
}

// Lanes of a warp that arrive at a barrier when the warp is done: one for all, after __syncwarp. compute-sanitizer's
// racecheck follows a barrier only from the threads that arrive themselves; the build for it lets all of them.
#ifdef PELAGIC_RACECHECK
inline constexpr int kArrivals = 32;
#else
inline constexpr int kArrivals = 1;
#endif

// ---- named barriers of a block (0 is __syncthreads') ----

__device__ __forceinline__ void barrier_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// ---- clusters ----

__device__ __forceinline__ std::uint32_t cluster_rank() {
  std::uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// Orders nothing: says only that this block runs, so that others may reach its shared memory.
__device__ __forceinline__ void cluster_arrive_relaxed() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}
__device__ __forceinline__ void cluster_arrive() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
__device__ __forceinline__ void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }

// Stores 16 bytes to the shared memory of block `rank`, at the offset that `address` has in this one, and tells the
// barrier that lies there at the offset of `barrier`: whoever waits there for the bytes sees them.
__device__ __forceinline__ void store_async_at(std::uint32_t address, std::uint32_t barrier, std::uint32_t rank,
                                               uint4 value) {
  asm volatile(
      "{\n"
      ".reg .b32 remote, told;\n"
      "mapa.shared::cluster.u32 remote, %0, %2;\n"
      "mapa.shared::cluster.u32 told, %1, %2;\n"
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.u32 [remote], {%3, %4, %5, %6}, [told];\n"
      "}\n" ::"r"(address),
      "r"(barrier), "r"(rank), "r"(value.x), "r"(value.y), "r"(value.z), "r"(value.w)
      : "memory");
}

// ---- bulk tensor copies ----

// Cache policies as `createpolicy.fractional` makes them for the whole access (the encodings CUTLASS ships as
// constants).
inline constexpr std::uint64_t kEvictNormal = 0x1000000000000000;
inline constexpr std::uint64_t kEvictFirst = 0x12F0000000000000;

// The box at (column, row) of a 2-D tensor map -> shared memory; completes on the barrier. What lies outside the tensor
// arrives as zeros and counts as bytes.
__device__ __forceinline__ void copy_box(std::uint32_t target, const CUtensorMap* map, int column, int row,
                                         std::uint32_t barrier, std::uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(target),
      "l"(map), "r"(column), "r"(row), "r"(barrier), "l"(policy)
      : "memory");
}

// The same box to the same offsets in every block of `blocks` (a bit for each rank); completes on each one's barrier.
__device__ __forceinline__ void copy_box_multicast(std::uint32_t target, const CUtensorMap* map, int column, int row,
                                                   std::uint32_t barrier, std::uint16_t blocks, std::uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster.L2::cache_"
      "hint"
      " [%0], [%1, {%2, %3}], [%4], %5, %6;" ::"r"(target),
      "l"(map), "r"(column), "r"(row), "r"(barrier), "h"(blocks), "l"(policy)
      : "memory");
}

// The box into the L2.
__device__ __forceinline__ void prefetch_box(const CUtensorMap* map, int column, int row) {
  asm volatile("cp.async.bulk.prefetch.tensor.2d.L2.global.tile [%0, {%1, %2}];" ::"l"(map), "r"(column), "r"(row)
               : "memory");
}

__device__ __forceinline__ void prefetch_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// Lets wgmma and the copy engine see what this thread stored to shared memory; then a barrier must follow.
__device__ __forceinline__ void fence_for_engines() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// ---- registers of a warpgroup ----

template <int kRegisters>
__device__ __forceinline__ void registers_up() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void registers_down() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// ---- wgmma ("Asynchronous Warpgroup Level Matrix Instructions") ----

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_wait_all() { asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory"); }
// All but the last kPending groups are done.
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Keeps the compiler from moving uses of the accumulators across this point: the instructions that write them are
// asynchronous.
template <int kCount>
__device__ __forceinline__ void hold(float (&values)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(values[i])::"memory");
}
template <int kCount>
__device__ __forceinline__ void hold(std::uint32_t (&values)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+r"(values[i])::"memory");
}

// Matrix descriptor of a tile whose rows are 128 bytes, K contiguous, in the 128-byte swizzle that copy_box wrote; the
// tile begins at a multiple of 1,024 bytes. Eight rows are 1,024 bytes apart (stride field); the leading field has no
// meaning here. Add 2 to step 32 bytes in K.
__device__ __forceinline__ std::uint64_t tile_descriptor(std::uint32_t address) {
  return static_cast<std::uint64_t>((address & 0x3FFFF) >> 4) | (std::uint64_t{1} << 16) |
         (std::uint64_t{1024 >> 4} << 32) | (std::uint64_t{1} << 62);
}

// The same for b given as [k, N], N contiguous (bf16): columns of 64 side by side, each as copy_box wrote it, 128-byte
// rows of k in the 128-byte swizzle, the next 64 columns `panel_bytes` on (leading field). Eight k are 1,024 bytes
// apart (stride field). Add 128 to step 16 k.
__device__ __forceinline__ std::uint64_t transposed_descriptor(std::uint32_t address, std::uint32_t panel_bytes) {
  return static_cast<std::uint64_t>((address & 0x3FFFF) >> 4) | (static_cast<std::uint64_t>(panel_bytes >> 4) << 16) |
         (std::uint64_t{1024 >> 4} << 32) | (std::uint64_t{1} << 62);
}

// d[64, N] = a[64, k] b[N, k]^T (+ d if accumulate): k = 32 for e4m3, 16 for bf16, float32 accumulators;
// bf16_transposed takes b as [k, N]. Thread t of the warpgroup holds, of each 8 columns j, d[4j], d[4j+1]: row 16 (t /
// 32) + t % 32 / 4, columns 8j + 2 (t % 4) and the next; d[4j+2], d[4j+3]: the row 8 below.
template <int N>
struct Wgmma;

#define PELAGIC_WGMMA(N, LIST, OPERANDS, A, B, ACCUMULATE)                                                             \
  template <>                                                                                                          \
  struct Wgmma<N> {                                                                                                    \
    __device__ __forceinline__ static void e4m3(float (&d)[N / 2], std::uint64_t a, std::uint64_t b, int accumulate) { \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #ACCUMULATE ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N       \
                   "k32.f32.e4m3.e4m3 {" LIST "}, %" #A ", %" #B ", p, 1, 1;\n}\n"                                     \
                   : OPERANDS                                                                                          \
                   : "l"(a), "l"(b), "r"(accumulate));                                                                 \
    }                                                                                                                  \
    __device__ __forceinline__ static void bf16(float (&d)[N / 2], std::uint64_t a, std::uint64_t b, int accumulate) { \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #ACCUMULATE ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N       \
                   "k16.f32.bf16.bf16 {" LIST "}, %" #A ", %" #B ", p, 1, 1, 0, 0;\n}\n"                               \
                   : OPERANDS                                                                                          \
                   : "l"(a), "l"(b), "r"(accumulate));                                                                 \
    }                                                                                                                  \
    __device__ __forceinline__ static void bf16_transposed(float (&d)[N / 2], std::uint64_t a, std::uint64_t b,        \
                                                           int accumulate) {                                           \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #ACCUMULATE ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N       \
                   "k16.f32.bf16.bf16 {" LIST "}, %" #A ", %" #B ", p, 1, 1, 0, 1;\n}\n"                               \
                   : OPERANDS                                                                                          \
                   : "l"(a), "l"(b), "r"(accumulate));                                                                 \
    }                                                                                                                  \
  };

#define PELAGIC_LIST_4 "%0,%1,%2,%3"
#define PELAGIC_LIST_8 PELAGIC_LIST_4 ",%4,%5,%6,%7"
#define PELAGIC_LIST_16 PELAGIC_LIST_8 ",%8,%9,%10,%11,%12,%13,%14,%15"
#define PELAGIC_LIST_32 PELAGIC_LIST_16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define PELAGIC_LIST_64                                                                              \
  PELAGIC_LIST_32                                                                                    \
  ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55" \
  ",%56,%57,%58,%59,%60,%61,%62,%63"
#define PELAGIC_IO_4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define PELAGIC_IO_8(i) PELAGIC_IO_4(i), PELAGIC_IO_4(i + 4)
#define PELAGIC_IO_16(i) PELAGIC_IO_8(i), PELAGIC_IO_8(i + 8)
#define PELAGIC_IO_32(i) PELAGIC_IO_16(i), PELAGIC_IO_16(i + 16)
#define PELAGIC_IO_64(i) PELAGIC_IO_32(i), PELAGIC_IO_32(i + 32)

PELAGIC_WGMMA(8, PELAGIC_LIST_4, PELAGIC_IO_4(0), 4, 5, 6)
PELAGIC_WGMMA(16, PELAGIC_LIST_8, PELAGIC_IO_8(0), 8, 9, 10)
PELAGIC_WGMMA(32, PELAGIC_LIST_16, PELAGIC_IO_16(0), 16, 17, 18)
PELAGIC_WGMMA(64, PELAGIC_LIST_32, PELAGIC_IO_32(0), 32, 33, 34)
PELAGIC_WGMMA(128, PELAGIC_LIST_64, PELAGIC_IO_64(0), 64, 65, 66)

// d[64, 128] += a[64, 16] b[16, 128] in bf16 with a in registers, b as in bf16_transposed. a: the thread's rows as in
// d; [0] its columns 2 (t % 4) and the next of the upper row, [1] of the lower, [2] and [3] the columns 8 further.
__device__ __forceinline__ void wgmma_bf16_registers(float (&d)[64], std::uint32_t a0, std::uint32_t a1,
                                                     std::uint32_t a2, std::uint32_t a3, std::uint64_t b) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.eq.b32 p, 0, 0;\nwgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16"
      " {" PELAGIC_LIST_64 "}, {%64,%65,%66,%67}, %68, p, 1, 1, 1;\n}\n"
      : PELAGIC_IO_64(0)
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b));
}

#undef PELAGIC_WGMMA
#undef PELAGIC_LIST_4
#undef PELAGIC_LIST_8
#undef PELAGIC_LIST_16
#undef PELAGIC_LIST_32
#undef PELAGIC_LIST_64
#undef PELAGIC_IO_4
#undef PELAGIC_IO_8
#undef PELAGIC_IO_16
#undef PELAGIC_IO_32
#undef PELAGIC_IO_64

// Stores four 8x8 matrices of 16-bit elements: lane l holds row l / 4, columns 2 (l % 4) and the next of each, and
// names in `address` the 16 bytes for row l % 8 of matrix l / 8.
__device__ __forceinline__ void store_matrices(std::uint32_t address, std::uint32_t a, std::uint32_t b, std::uint32_t c,
                                               std::uint32_t d) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(a), "r"(b),
               "r"(c), "r"(d)
               : "memory");
}

// The same transposed: `address` is for column l % 8 of matrix l / 8.
__device__ __forceinline__ void store_transposed(std::uint32_t address, std::uint32_t a, std::uint32_t b) {
  asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(address), "r"(a), "r"(b)
               : "memory");
}
__device__ __forceinline__ void store_transposed(std::uint32_t address, std::uint32_t a, std::uint32_t b,
                                                 std::uint32_t c, std::uint32_t d) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(a), "r"(b),
               "r"(c), "r"(d)
               : "memory");
}

}  // namespace pelagic::sm90
