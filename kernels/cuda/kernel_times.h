// How long each kernel ran, as the driver's profiler (CUPTI) notes it: also those of a replayed graph.
#pragma once

#include <cupti_result.h>

#include <cstdint>
#include <string>
#include <vector>

namespace pelagic {

struct KernelRun {
  std::string name;  // without namespace, template and arguments
  int blocks;        // of the grid
  std::uint64_t begin_ns;
  std::uint64_t end_ns;
};

class KernelTimes {
 public:
  // Opens libcupti.so.13 where the loader finds it. Before the first graph is made. Throws std::runtime_error.
  KernelTimes();
  // What ran since the last call, in the order of their beginnings. The device must be idle.
  std::vector<KernelRun> take();

 private:
  CUptiResult (*flush_)(std::uint32_t) = nullptr;
};

}  // namespace pelagic
