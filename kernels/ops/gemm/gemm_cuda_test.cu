// The dense GEMMs: a row has the same bits for every number of rows and in every place; against float64. "quick": small
// shapes only.
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "cuda/device_buffer.h"
#include "cuda/random_fill.cuh"
#include "cuda/test.h"
#include "ops/gemm/gemm_cuda.h"
#include "ops/gemm/gemm_cuda_reference.cuh"

namespace pelagic {
namespace {

constexpr int kMostRows = 4096;

// differences: elements of the rows of `a` whose bits are not those of rows `first` and on of `b`.
__global__ void differ_kernel(const char* a, std::int64_t a_row_bytes, const char* b, std::int64_t b_row_bytes,
                              int row_words, unsigned* differences) {
  const auto* mine = reinterpret_cast<const unsigned*>(a + blockIdx.x * a_row_bytes);
  const auto* other = reinterpret_cast<const unsigned*>(b + blockIdx.x * b_row_bytes);
  unsigned count = 0;
  for (int i = threadIdx.x; i < row_words; i += blockDim.x) count += mine[i] != other[i];
  if (count > 0) atomicAdd(differences, count);
}

template <typename Y>
void check(const GemmCudaLibrary& library, const char* what, const GemmCudaShape& shape) {
  GemmCuda gemm(library, shape);
  // Rows wider than needed, as views are.
  const std::int64_t ldx = static_cast<std::int64_t>(shape.batch) * shape.k + 64;
  const std::int64_t ldy = static_cast<std::int64_t>(shape.batch) * shape.n + 64;
  const DeviceBuffer<__nv_bfloat16> x(static_cast<std::size_t>(kMostRows) * ldx);
  const DeviceBuffer<__nv_bfloat16> w(static_cast<std::size_t>(shape.batch) * shape.n * shape.k);
  DeviceBuffer<Y> all(static_cast<std::size_t>(kMostRows) * ldy), some(static_cast<std::size_t>(kMostRows) * ldy);
  fill_random(x.get(), x.size(), 1, nullptr);
  fill_random(w.get(), w.size(), 2, nullptr);
  all.fill_bytes(0xFF);
  GemmCudaCall call = {.rows = kMostRows,
                       .x = x.get(),
                       .ldx = ldx,
                       .x_batch = shape.k,
                       .w = w.get(),
                       .y = all.get(),
                       .ldy = ldy,
                       .y_batch = shape.n};
  gemm.launch(call, nullptr);
  gemm.tune();  // what follows is compared with the untuned

  constexpr int kRowStep = 371;
  DeviceBuffer<double> errors(std::vector<double>{0, 0});
  gemm_cuda::compare_kernel<__nv_bfloat16, Y>
      <<<dim3(kMostRows / kRowStep, shape.batch), 256>>>(shape, call, kRowStep, 1, errors.get());
  PELAGIC_CUDA(cudaGetLastError());
  const std::vector<double> sums = errors.download();
  const double error = std::sqrt(sums[0] / sums[1]);
  PELAGIC_EXPECT(error < (sizeof(Y) == 2 ? 4e-3 : 2e-5), "%s: error %.3g of the norm", what, error);

  DeviceBuffer<unsigned> differences(1);
  for (const int rows : {1, 2, 3, 17, 64, 100, 200, 300, 1027, kMostRows}) {
    for (const int first : {0, 1, 77, kMostRows - rows}) {
      if (first + rows > kMostRows) continue;
      some.fill_bytes(0xFF);
      differences.fill_bytes(0);
      call.rows = rows;
      call.x = x.get() + first * ldx;
      call.y = some.get();
      gemm.launch(call, nullptr);
      const std::int64_t row_bytes = ldy * static_cast<std::int64_t>(sizeof(Y));
      const std::int64_t bytes = static_cast<std::int64_t>(shape.batch) * shape.n * sizeof(Y);
      differ_kernel<<<rows, 256>>>(reinterpret_cast<const char*>(some.get()), row_bytes,
                                   reinterpret_cast<const char*>(all.get() + first * ldy), row_bytes,
                                   static_cast<int>(bytes / 4), differences.get());
      PELAGIC_CUDA(cudaGetLastError());
      const unsigned count = differences.download()[0];
      PELAGIC_EXPECT(count == 0, "%s: %d rows from %d: %u words differ", what, rows, first, count);
    }
  }
  call.y = some.get();
  test::run_from_graph([&](cudaStream_t stream) { gemm.launch(call, stream); });
  std::printf("%s: %d x %d, batch %d: error %.3g of the norm\n", what, shape.n, shape.k, shape.batch, error);
}

void check_f32(int n, int k) {
  constexpr int kRows = 300;
  const std::int64_t ldx = k + 8;
  const DeviceBuffer<__nv_bfloat16> x(static_cast<std::size_t>(kRows) * ldx);
  const DeviceBuffer<float> w(static_cast<std::size_t>(n) * k);
  DeviceBuffer<float> all(static_cast<std::size_t>(kRows) * n), some(static_cast<std::size_t>(kRows) * n);
  fill_random(x.get(), x.size(), 1, nullptr);
  fill_random(w.get(), w.size(), 2, nullptr);
  all.fill_bytes(0xFF);
  GemmF32CudaCall call = {kRows, n, k, x.get(), ldx, w.get(), all.get(), n};
  PELAGIC_CUDA(gemm_f32_cuda(call, nullptr));
  DeviceBuffer<double> errors(std::vector<double>{0, 0});
  gemm_cuda::compare_kernel<float, float><<<dim3(kRows, 1), 256>>>(
      {n, k}, {.rows = kRows, .x = x.get(), .ldx = ldx, .w = w.get(), .y = all.get(), .ldy = n}, 1, 1, errors.get());
  const std::vector<double> sums = errors.download();
  const double error = std::sqrt(sums[0] / sums[1]);
  PELAGIC_EXPECT(error < 1e-6, "float32 %d x %d: error %.3g of the norm", n, k, error);
  DeviceBuffer<unsigned> differences(1);
  for (const int rows : {1, 2, 3, 17, 64, 299}) {
    for (const int first : {0, 1, kRows - rows}) {
      some.fill_bytes(0xFF);
      differences.fill_bytes(0);
      call.rows = rows;
      call.x = x.get() + first * ldx;
      call.y = some.get();
      PELAGIC_CUDA(gemm_f32_cuda(call, nullptr));
      differ_kernel<<<rows, 256>>>(reinterpret_cast<const char*>(some.get()), n * 4,
                                   reinterpret_cast<const char*>(all.get() + static_cast<std::int64_t>(first) * n),
                                   n * 4, n, differences.get());
      const unsigned count = differences.download()[0];
      PELAGIC_EXPECT(count == 0, "float32 %d x %d: %d rows from %d: %u words differ", n, k, rows, first, count);
    }
  }
}

}  // namespace
}  // namespace pelagic

int main(int argc, char** argv) {
  using namespace pelagic;
  return test::run("gemm_cuda", [&] {
    check_f32(8, 8);
    check_f32(30, 264);
    check_f32(256, 7168);
    PELAGIC_EXPECT(gemm_f32_cuda({1, 8, 12, nullptr, 16, nullptr, nullptr, 8}, nullptr) == cudaErrorInvalidValue,
                   "k 12");
    const GemmCudaLibrary library;
    PELAGIC_EXPECT(test::refuses([&] { GemmCuda gemm(library, {.n = 12, .k = 64}); }), "n 12");
    PELAGIC_EXPECT(test::refuses([&] { GemmCuda gemm(library, {.n = 16, .k = 12}); }), "k 12");
    check<__nv_bfloat16>(library, "compress of a small model", {704, 256});
    check<__nv_bfloat16>(library, "queries of a small model", {768, 128});
    check<float>(library, "head of a small model", {320, 256, 1, RowType::float32});
    check<__nv_bfloat16>(library, "4 heads' W_UK", {512, 128, 4});
    check<__nv_bfloat16>(library, "4 heads' W_UV", {128, 512, 4});
    if (test::asked_quick(argc, argv)) return;
    check<__nv_bfloat16>(library, "V3 compress", {2112, 7168});
    check<__nv_bfloat16>(library, "V3 queries", {24576, 1536});
    check<__nv_bfloat16>(library, "V3 output", {7168, 16384});
    check<__nv_bfloat16>(library, "V3 shared gate and up", {4096, 7168});
    check<__nv_bfloat16>(library, "V3 shared down", {7168, 2048});
    check<__nv_bfloat16>(library, "V3 W_UK", {512, 128, 128});
    check<__nv_bfloat16>(library, "V3 W_UV", {128, 512, 128});
    check<float>(library, "V3 head", {129280, 7168, 1, RowType::float32});
    check<__nv_bfloat16>(library, "V2-Lite queries", {3072, 2048});
  });
}
