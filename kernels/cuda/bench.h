// Timing on the GPU: CUDA events around one call, the L2 emptied before each, the median of many; ceilings measured in
// the same run.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>
#include <string>
#include <vector>

#include "cuda/bench_check.h"
#include "cuda/device_buffer.h"

namespace pelagic {

// What this card does at best, measured by Bench's constructor. A rate is 0 where it could not be measured (no cuBLASLt
// on the machine).
struct Ceilings {
  double copy_gbs = 0;  // device to device, bytes read + bytes written
  double read_gbs = 0;
  double bf16_tflops = 0;  // cuBLASLt, 8192 x 8192 x 8192
  double fp8_tflops = 0;   // the same, e4m3, one scale for each matrix
  double empty_us = 0;     // a kernel that does nothing
};

class Bench {
 public:
  Bench(std::string name, std::string commit);

  const Ceilings& ceilings() const { return ceilings_; }
  cudaStream_t stream() const { return stream_; }

  // What is added from here on is an op's. checks_itself: it adds only what it has compared itself, by other means than
  // check().
  void begin_op(bool checks_itself) {
    in_op_ = true;
    checked_ = checks_itself;
  }
  // One call, and waits for it: what check looks at.
  void run(const std::function<void(cudaStream_t)>& call);
  // What of a result was looked at before it is timed. Throws where any of it is wrong, or nothing was looked at; rows
  // that are added from here on say that they were checked.
  void check(const std::string& what, const BenchCheck& seen);
  // Median microseconds of one call, L2 emptied before each unless `warm`.
  double time_us(const std::function<void(cudaStream_t)>& call, int repeats = 20, bool warm = false);

  // The larger of the time to move `bytes` at the copy rate and to do `flops` at `tflops` (left out where that is 0).
  double roof_us(double bytes, double flops, double tflops) const;

  // ratio: ceiling / value for times, value / ceiling for rates; ceiling 0 = none. Throws where nothing of the op was
  // checked.
  void add(const std::string& what, double value, const std::string& unit, double ceiling);
  void print() const;
  void write_json(const std::string& path) const;

 private:
  struct Row {
    std::string what;
    double value;
    std::string unit;
    double ceiling;
    double ratio;
    bool checked;
  };

  void measure_ceilings();

  std::string name_;
  std::string machine_;
  std::string commit_;
  cudaStream_t stream_ = nullptr;
  DeviceBuffer<unsigned char> flush_;
  Ceilings ceilings_;
  std::vector<Row> rows_;
  bool in_op_ = false;  // else the ceilings'
  bool checked_ = false;
};

// A dense GEMM of n x n x n by cuBLASLt in TFLOP/s, the library opened at run time; 0 when it is not there or has no
// algorithm.
double cublaslt_tflops(Bench& bench, int n, bool fp8);

}  // namespace pelagic
