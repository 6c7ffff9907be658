#include "backend/cuda/fp8_weights.h"

#include <algorithm>
#include <vector>

#include "backend/cuda/device_memory.h"
#include "ops/quantize/quantize_cuda.h"

namespace pelagic::cuda {
namespace {

constexpr int kBlock = 128;
// Bytes on the host before they are sent to the card.
constexpr std::size_t kUploadBytes = std::size_t{16} << 20;

std::size_t size(int a, int b) { return static_cast<std::size_t>(a) * static_cast<std::size_t>(b); }

// In whole blocks, and at least one.
int rows_at_once(int n, std::size_t row_bytes) {
  const int blocks = std::max(1, static_cast<int>(kUploadBytes / row_bytes / kBlock));
  return std::min(n, blocks * kBlock);
}

void upload_codes(std::uint8_t* codes, float* scales, int n, int k, int ld, const RowSource& source) {
  const int columns = fp8_blocks(k);
  const int at_once = rows_at_once(n, static_cast<std::size_t>(ld));
  std::vector<std::uint8_t> part(size(at_once, ld));  // zeros between k and ld
  std::vector<float> row_scales(static_cast<std::size_t>(columns)), all_scales(size(fp8_blocks(n), columns));
  for (int first = 0; first < n; first += at_once) {
    const int count = std::min(at_once, n - first);
    for (int i = 0; i < count; ++i) {
      source.fp8(first + i, part.data() + size(i, ld), row_scales.data());
      if (i % kBlock == 0)
        std::copy(row_scales.begin(), row_scales.end(),
                  all_scales.begin() + static_cast<std::ptrdiff_t>(size((first + i) / kBlock, columns)));
    }
    upload(codes + size(first, ld), part.data(), size(count, ld));
  }
  upload(scales, all_scales.data(), all_scales.size() * sizeof(float));
}

void upload_quantized(std::uint8_t* codes, float* scales, int n, int k, int ld, const RowSource& source) {
  const int columns = fp8_blocks(k);
  const int at_once = rows_at_once(n, static_cast<std::size_t>(k) * sizeof(float));
  std::vector<float> part(size(at_once, k));
  const DeviceMemory staging(part.size() * sizeof(float));
  for (int first = 0; first < n; first += at_once) {
    const int count = std::min(at_once, n - first);
    for (int i = 0; i < count; ++i) source(first + i, part.data() + size(i, k));
    upload(staging.get(), part.data(), size(count, k) * sizeof(float));
    check(quantize_weights_cuda({.n = count,
                                 .k = k,
                                 .w = staging.get<float>(),
                                 .out = codes + size(first, ld),
                                 .ld_out = ld,
                                 .scales = scales + size(first / kBlock, columns)},
                                cudaStreamLegacy),
          "the quantisation of weights");
  }
  check(cudaStreamSynchronize(cudaStreamLegacy), "the quantisation of weights");
}

}  // namespace

void upload_fp8(std::uint8_t* codes, float* scales, int n, int k, int ld, const RowSource& source) {
  (source.fp8 ? upload_codes : upload_quantized)(codes, scales, n, k, ld, source);
}

}  // namespace pelagic::cuda
