// The two ceilings that benches print beside their figures, measured on the same threads.
#pragma once

#include <cstddef>

#include "base/thread_pool.h"

namespace pelagic {

struct CpuOps;

// Reads `bytes` of memory (rounded down to whole 64-byte lines a thread, at least one), split evenly over the pool's
// threads, again and again; returns the best of a few averages over 20 ms, in bytes/s. Allocates `bytes`: a size beyond
// the last-level cache measures DRAM.
double measure_read_bandwidth(ThreadPool& pool, const CpuOps& ops, std::size_t bytes);

// The float32 rate of independent fused multiply-adds in registers, all threads together, in FLOP/s (an FMA counts 2).
double measure_fma_rate(ThreadPool& pool, const CpuOps& ops);

}  // namespace pelagic
