// The CUDA embedding against embedding.cpp: equal bits; an id outside of the vocabulary writes nothing and is noted.
#include <bit>
#include <span>
#include <vector>

#include "cuda/device_buffer.h"
#include "cuda/row_reference.h"
#include "cuda/test.h"
#include "ops/embedding/embedding.h"
#include "ops/embedding/embedding_cuda.h"

namespace pelagic {
namespace {

constexpr int kVocab = 301;

void check(int rows, int width, bool bad) {
  const std::int64_t ld = width + 8;
  const std::vector<bfloat16_bits> table = random_bf16(1, static_cast<std::size_t>(kVocab) * width);
  std::vector<std::uint32_t> ids;
  for (int row = 0; row < rows; ++row)
    ids.push_back(row == 0 ? kVocab - 1 : static_cast<std::uint32_t>(random_bits(2, row) % kVocab));
  std::vector<std::uint32_t> device_ids = ids;
  if (bad) device_ids[rows / 2] = rows % 2 == 0 ? kVocab : 0xFFFFFFFFu;
  std::vector<float> expected(static_cast<std::size_t>(rows + 1) * ld, 0.0f);
  embed_tokens({reinterpret_cast<const std::byte*>(table.data()), EmbeddingDtype::bfloat16, kVocab, width}, ids,
               expected.data(), ld);
  const DeviceBuffer<bfloat16_bits> d_table(table);
  const DeviceBuffer<std::uint32_t> d_ids(device_ids);
  const DeviceBuffer<std::int32_t> errors(std::vector<std::int32_t>(kEmbeddingErrors, 0));
  DeviceBuffer<std::uint32_t> out(expected.size());
  DeviceBuffer<bfloat16_bits> out_bf16(expected.size());
  out.fill_bytes(0xFF);
  out_bf16.fill_bytes(0xFF);
  EmbeddingCudaCall call = {.rows = rows,
                            .width = width,
                            .vocab = kVocab,
                            .table = d_table.get(),
                            .ids = d_ids.get(),
                            .out = out.get(),
                            .out_type = RowType::float32,
                            .ld_out = ld,
                            .errors = errors.get()};
  test::run_from_graph([&](cudaStream_t stream) { PELAGIC_CUDA(embedding_cuda(call, stream)); });
  call.out = out_bf16.get();
  call.out_type = RowType::bfloat16;
  test::run_from_graph([&](cudaStream_t stream) { PELAGIC_CUDA(embedding_cuda(call, stream)); });
  const std::vector<std::uint32_t> got = out.download();
  const std::vector<bfloat16_bits> got_bf16 = out_bf16.download();
  int wrong = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const std::size_t row = i / ld;
    const bool written = row < ids.size() && i % ld < static_cast<std::size_t>(width) && device_ids[row] == ids[row];
    const std::uint32_t bits = written ? std::bit_cast<std::uint32_t>(expected[i]) : 0xFFFFFFFFu;
    wrong += got[i] != bits || got_bf16[i] != bits >> 16;
  }
  PELAGIC_EXPECT(wrong == 0, "%d rows of %d, bad %d: %d elements", rows, width, bad, wrong);
  PELAGIC_EXPECT(errors.download()[kEmbeddingBadToken] == (bad ? 1 : 0), "%d rows, bad %d: errors", rows, bad);
}

}  // namespace
}  // namespace pelagic

int main() {
  using namespace pelagic;
  return test::run("embedding_cuda", [] {
    for (const int width : {8, 1032, 7168}) {
      check(0, width, false);
      check(1, width, false);
      check(37, width, false);
      check(37, width, true);
      check(38, width, true);
    }
    EmbeddingCudaCall call = {};
    call.width = 12;
    call.vocab = 1;
    PELAGIC_EXPECT(embedding_cuda(call, nullptr) == cudaErrorInvalidValue, "width 12");
  });
}
