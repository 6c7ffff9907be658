// The GPU's choices and logprobs against sampler.cpp, to the bit.
#include "ops/sampler/sampler_cuda.h"

#include <cstring>
#include <string>

#include "cuda/device_buffer.h"
#include "cuda/test.h"
#include "ops/row_math/row_math.h"
#include "ops/sampler/sampler_test_rows.h"

namespace pelagic {
namespace {

CpuOps scalar_ops() {
  CpuOps ops = {};
  ops.row_max = &scalar::row_max;
  ops.row_exp_sum = &scalar::row_exp_sum;
  return ops;
}

constexpr int kPoison = 0x77;

bool same_record(const SampledRow& a, const SampledRow& b) { return std::memcmp(&a, &b, sizeof a) == 0; }

// Rows [first, first + rows) of a batch from a graph, then each of the last few alone.
void check(int vocab, std::size_t count, std::uint32_t seed) {
  const test::SamplerRows rows(vocab, count, seed);
  const std::string name = "vocab " + std::to_string(vocab) + ", seed " + std::to_string(seed);
  const DeviceBuffer<float> logits(rows.logits);
  const DeviceBuffer<std::byte> packed(rows.packed());
  DeviceBuffer<SampledRow> results(count + 1);
  results.fill_bytes(kPoison);
  const SamplerCudaCall call = {.rows = static_cast<int>(count),
                                .vocab = vocab,
                                .logits = logits.get(),
                                .ld_logits = static_cast<std::int64_t>(rows.ld),
                                .packed = packed.get(),
                                .results = results.get()};
  test::run_from_graph([&](cudaStream_t stream) { PELAGIC_CUDA(sample_rows_cuda(call, stream)); });
  const std::vector<SampledRow> got = results.download();
  SampledRow poison;
  std::memset(&poison, kPoison, sizeof poison);
  PELAGIC_EXPECT(same_record(got[count], poison), "%s: wrote past the last row", name.c_str());
  const std::vector<SampleResult> expected = rows.expected(scalar_ops());
  int wrong = 0;
  for (std::size_t row = 0; row < count; ++row) {
    const std::string differs = !rows.samples(row) ? same_record(got[row], poison) ? "" : "a row that does not sample"
                                                   : test::difference(got[row], expected[row]);
    if (differs.empty()) continue;
    ++wrong;
    PELAGIC_EXPECT(wrong > 5, "%s, %s: %s", name.c_str(), rows.describe(row).c_str(), differs.c_str());
  }
  PELAGIC_EXPECT(wrong == 0, "%s: %d of %zu rows differ", name.c_str(), wrong, count);
  const std::vector<float> after = logits.download();
  PELAGIC_EXPECT(std::memcmp(after.data(), rows.logits.data(), logits.bytes()) == 0, "%s: logits changed",
                 name.c_str());

  // A row alone has the bits that it has among others.
  const std::vector<const SamplingParams*> params = rows.pointers();
  PackScratch scratch;
  for (std::size_t row = count - std::min<std::size_t>(count, 12); row < count; ++row) {
    if (params[row] == nullptr) continue;
    std::vector<std::byte> bytes(packed_sampling_bytes({&params[row], 1}, vocab));
    bytes.resize(pack_sampling({&params[row], 1}, {&rows.positions[row], 1}, vocab, scratch, bytes));
    const DeviceBuffer<std::byte> own(bytes);
    DeviceBuffer<SampledRow> result(1);
    result.fill_bytes(kPoison);
    SamplerCudaCall alone = call;
    alone.rows = 1;
    alone.logits += row * rows.ld;
    alone.packed = own.get();
    alone.results = result.get();
    PELAGIC_CUDA(sample_rows_cuda(alone, nullptr));
    PELAGIC_EXPECT(same_record(result.download()[0], got[row]), "%s: row %zu alone differs", name.c_str(), row);
  }
}

void bad_calls_are_refused() {
  SamplerCudaCall call = {};
  call.vocab = 320;
  call.ld_logits = 320;
  PELAGIC_EXPECT(sample_rows_cuda(call, nullptr) == cudaSuccess, "no rows");
  call.vocab = 321;
  PELAGIC_EXPECT(sample_rows_cuda(call, nullptr) == cudaErrorInvalidValue, "rows that overlap");
  call.ld_logits = 322;
  PELAGIC_EXPECT(sample_rows_cuda(call, nullptr) == cudaErrorInvalidValue, "rows that are not aligned");
  call.vocab = kMostSamplerCudaVocab + 1;
  call.ld_logits = kMostSamplerCudaVocab + 4;
  PELAGIC_EXPECT(sample_rows_cuda(call, nullptr) == cudaErrorInvalidValue, "a vocabulary that does not fit");
  call.vocab = 0;
  PELAGIC_EXPECT(sample_rows_cuda(call, nullptr) == cudaErrorInvalidValue, "no vocabulary");
}

}  // namespace
}  // namespace pelagic

// `sampler_cuda_test quick`: few rows, for compute-sanitizer.
int main(int argc, char** argv) {
  using namespace pelagic;
  const bool quick = test::asked_quick(argc, argv);
  return test::run("sampler_cuda", [quick] {
    bad_calls_are_refused();
    check(320, quick ? 40 : 6000, 1);
    check(5, quick ? 8 : 500, 2);
    check(1001, quick ? 8 : 1000, 3);
    check(8193, quick ? 4 : 500, 4);  // the least for a cluster, with a ragged end
    check(129280, quick ? 2 : 250, 5);
    if (quick) return;
    for (std::uint32_t seed = 6; seed < 14; ++seed) check(129280, 250, seed);
    check(kMostSamplerCudaVocab, 30, 14);
  });
}
