// The grouped GEMM in float64, as it reads: for tests and for the check before a timing.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include <cmath>
#include <vector>

#include "cuda/device_buffer.h"
#include "ops/grouped_gemm/grouped_gemm_cuda.h"

namespace pelagic::grouped_gemm {

struct Sample {
  std::int32_t expert;
  std::int32_t row;  // in x and out
};

// squares: for each sample, the sum over n of (out - reference)^2 and of reference^2. One block for each sample.
template <typename T>
__global__ void compare_kernel(GroupedGemmProblem p, const Sample* samples, double* squares) {
  const Sample sample = samples[blockIdx.x];
  const T* x = static_cast<const T*>(p.x) + static_cast<std::int64_t>(sample.row) * p.k;
  const __nv_bfloat16* out = static_cast<const __nv_bfloat16*>(p.out) + static_cast<std::int64_t>(sample.row) * p.n;
  const int k_blocks = (p.k + 127) / 128;
  const int n_blocks = (p.n + 127) / 128;
  double error = 0.0;
  double norm = 0.0;
  for (int n = threadIdx.x; n < p.n; n += blockDim.x) {
    const T* w = static_cast<const T*>(p.weights) + (static_cast<std::int64_t>(sample.expert) * p.n + n) * p.k;
    double total = 0.0;
    for (int block = 0; block < k_blocks; ++block) {
      double part = 0.0;
      for (int k = 128 * block; k < min(p.k, 128 * block + 128); ++k)
        part += static_cast<double>(float(x[k])) * static_cast<double>(float(w[k]));
      if (p.type == GroupedGemmType::fp8_block_scaled)
        part *= static_cast<double>(p.x_scales[block * p.ld_x_scales + sample.row]) *
                p.weight_scales[(static_cast<std::int64_t>(sample.expert) * n_blocks + n / 128) * k_blocks + block];
      total += part;
    }
    const double difference = static_cast<double>(__bfloat162float(out[n])) - total;
    error += difference * difference;
    norm += total * total;
  }
  __shared__ double sums[2][256];
  sums[0][threadIdx.x] = error;
  sums[1][threadIdx.x] = norm;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int i = 1; i < 256; ++i) {
    sums[0][0] += sums[0][i];
    sums[1][0] += sums[1][i];
  }
  squares[2 * blockIdx.x] = sums[0][0];
  squares[2 * blockIdx.x + 1] = sums[1][0];
}

// The largest ||out - reference|| / ||reference|| of the sampled rows; NaN if one is NaN. `problem.out` holds a result.
inline double largest_error(const GroupedGemmProblem& problem, const std::vector<Sample>& samples) {
  const DeviceBuffer<Sample> device_samples(samples);
  DeviceBuffer<double> squares(2 * samples.size());
  if (problem.type == GroupedGemmType::bf16)
    compare_kernel<__nv_bfloat16>
        <<<static_cast<unsigned>(samples.size()), 256>>>(problem, device_samples.get(), squares.get());
  else
    compare_kernel<__nv_fp8_e4m3>
        <<<static_cast<unsigned>(samples.size()), 256>>>(problem, device_samples.get(), squares.get());
  PELAGIC_CUDA(cudaGetLastError());
  PELAGIC_CUDA(cudaDeviceSynchronize());
  const std::vector<double> host = squares.download();
  double largest = 0.0;
  for (std::size_t i = 0; i < samples.size(); ++i) {
    const double error = std::sqrt(host[2 * i] / host[2 * i + 1]);
    if (!(error <= largest)) largest = error;
  }
  return largest;
}

// Rounding to bf16 alone gives 0.0017; the tensor core's short accumulator of e4m3 products adds less than that.
inline constexpr double kTolerance = 4e-3;

}  // namespace pelagic::grouped_gemm
