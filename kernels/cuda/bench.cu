#include "cuda/bench.h"

#include <algorithm>
#include <cstdio>
#include <stdexcept>
#include <utility>

#include "cuda/random_fill.cuh"

namespace pelagic {
namespace {

__global__ void empty_kernel() {}

__global__ void read_kernel(const uint4* data, std::size_t count, unsigned* sink) {
  unsigned all = 0;
  const std::size_t step = static_cast<std::size_t>(gridDim.x) * blockDim.x;
  std::size_t i = static_cast<std::size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  for (; i + 3 * step < count; i += 4 * step) {
    const uint4 a = data[i], b = data[i + step], c = data[i + 2 * step], d = data[i + 3 * step];
    all ^= a.x ^ a.y ^ a.z ^ a.w ^ b.x ^ b.y ^ b.z ^ b.w ^ c.x ^ c.y ^ c.z ^ c.w ^ d.x ^ d.y ^ d.z ^ d.w;
  }
  for (; i < count; i += step) all ^= data[i].x;
  if (all == 0x12345678u) *sink = all;
}

}  // namespace

Bench::Bench(std::string name, std::string commit) : name_(std::move(name)), commit_(std::move(commit)) {
  int device = 0;
  cudaDeviceProp properties;
  PELAGIC_CUDA(cudaGetDevice(&device));
  PELAGIC_CUDA(cudaGetDeviceProperties(&properties, device));
  machine_ = properties.name;
  PELAGIC_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  flush_ = DeviceBuffer<unsigned char>(4 * static_cast<std::size_t>(properties.l2CacheSize));
  measure_ceilings();
}

void Bench::run(const std::function<void(cudaStream_t)>& call) {
  PELAGIC_CUDA(cudaDeviceSynchronize());  // what was filled by other streams
  call(stream_);
  PELAGIC_CUDA(cudaStreamSynchronize(stream_));
  PELAGIC_CUDA(cudaGetLastError());
}

void Bench::check(const std::string& what, const BenchCheck& seen) {
  if (seen.looked_at == 0) throw std::runtime_error(what + ": nothing of its result was looked at");
  if (seen.wrong > 0) {
    throw std::runtime_error(what + ": " + std::to_string(seen.wrong) + " of the " + std::to_string(seen.looked_at) +
                             " numbers looked at are wrong");
  }
  checked_ = true;
}

double Bench::time_us(const std::function<void(cudaStream_t)>& call, int repeats, bool warm) {
  std::vector<cudaEvent_t> begins(repeats), ends(repeats);
  for (cudaEvent_t& event : begins) PELAGIC_CUDA(cudaEventCreate(&event));
  for (cudaEvent_t& event : ends) PELAGIC_CUDA(cudaEventCreate(&event));
  for (int i = 0; i < 2; ++i) call(stream_);
  PELAGIC_CUDA(cudaStreamSynchronize(stream_));
  for (int i = 0; i < repeats; ++i) {
    // Warm calls come after the same pause, of a memset that fits in the cache beside their data.
    PELAGIC_CUDA(cudaMemsetAsync(flush_.get(), i, warm ? flush_.bytes() / 64 : flush_.bytes(), stream_));
    PELAGIC_CUDA(cudaEventRecord(begins[i], stream_));
    call(stream_);
    PELAGIC_CUDA(cudaEventRecord(ends[i], stream_));
  }
  PELAGIC_CUDA(cudaStreamSynchronize(stream_));
  PELAGIC_CUDA(cudaGetLastError());
  std::vector<float> times(repeats);
  for (int i = 0; i < repeats; ++i) {
    PELAGIC_CUDA(cudaEventElapsedTime(&times[i], begins[i], ends[i]));
    PELAGIC_CUDA(cudaEventDestroy(begins[i]));
    PELAGIC_CUDA(cudaEventDestroy(ends[i]));
  }
  std::nth_element(times.begin(), times.begin() + repeats / 2, times.end());
  return 1e3 * times[repeats / 2];
}

double Bench::roof_us(double bytes, double flops, double tflops) const {
  const double memory = bytes / (ceilings_.copy_gbs * 1e3);
  return tflops > 0 ? std::max(memory, flops / (tflops * 1e6)) : memory;
}

void Bench::measure_ceilings() {
  constexpr std::size_t kBytes = std::size_t{1} << 30;
  DeviceBuffer<unsigned char> source(2 * kBytes);
  DeviceBuffer<unsigned> sink(1);
  fill_random(reinterpret_cast<unsigned*>(source.get()), source.bytes() / 4, 1, stream_);
  const double copy = time_us([&](cudaStream_t s) {
    PELAGIC_CUDA(cudaMemcpyAsync(source.get() + kBytes, source.get(), kBytes, cudaMemcpyDeviceToDevice, s));
  });
  ceilings_.copy_gbs = 2.0 * kBytes / copy / 1e3;
  const double read = time_us([&](cudaStream_t s) {
    read_kernel<<<132 * 8, 512, 0, s>>>(reinterpret_cast<const uint4*>(source.get()), source.bytes() / 16, sink.get());
  });
  ceilings_.read_gbs = 2.0 * kBytes / read / 1e3;
  ceilings_.empty_us = time_us([](cudaStream_t s) { empty_kernel<<<1, 32, 0, s>>>(); }, 50);
  ceilings_.bf16_tflops = cublaslt_tflops(*this, 8192, false);
  ceilings_.fp8_tflops = cublaslt_tflops(*this, 8192, true);
  add("copy", ceilings_.copy_gbs, "GB/s", 0);
  add("read", ceilings_.read_gbs, "GB/s", 0);
  add("bf16 GEMM 8192 (cuBLASLt)", ceilings_.bf16_tflops, "TFLOP/s", 0);
  add("fp8 GEMM 8192 (cuBLASLt)", ceilings_.fp8_tflops, "TFLOP/s", 0);
  add("empty kernel", ceilings_.empty_us, "us", 0);
}

void Bench::add(const std::string& what, double value, const std::string& unit, double ceiling) {
  const double ratio = ceiling == 0 ? 0 : unit == "us" ? ceiling / value : value / ceiling;
  if (in_op_ && !checked_) throw std::runtime_error(what + ": was not checked before it was timed");
  rows_.push_back({what, value, unit, ceiling, ratio, in_op_});
}

void Bench::print() const {
  std::printf("%s, %s\n", name_.c_str(), machine_.c_str());
  for (const Row& row : rows_)
    std::printf("%-64s %10.2f %-8s ceiling %10.2f ratio %.3f%s\n", row.what.c_str(), row.value, row.unit.c_str(),
                row.ceiling, row.ratio, row.checked ? ", checked" : "");
}

void Bench::write_json(const std::string& path) const {
  std::FILE* file = std::fopen(path.c_str(), "w");
  if (file == nullptr) throw std::runtime_error("cannot write " + path);
  std::fprintf(file, "{\"bench\": \"%s\", \"machine\": \"%s\", \"commit\": \"%s\", \"rows\": [", name_.c_str(),
               machine_.c_str(), commit_.c_str());
  const char* separator = "";
  for (const Row& row : rows_) {
    std::fprintf(file, "%s\n  {\"what\": \"%s\", \"value\": %.6g, \"unit\": \"%s\"", separator, row.what.c_str(),
                 row.value, row.unit.c_str());
    if (row.ceiling != 0) std::fprintf(file, ", \"ceiling\": %.6g, \"ratio\": %.4f", row.ceiling, row.ratio);
    if (row.checked) std::fprintf(file, ", \"checked\": true");
    std::fprintf(file, "}");
    separator = ",";
  }
  std::fprintf(file, "\n]}\n");
  std::fclose(file);
}

}  // namespace pelagic
