#include "ops/sampler/sampler_cuda_bench.h"

#include <string>

#include "cuda/random_fill.cuh"
#include "ops/row_math/row_math.h"
#include "ops/sampler/sampler_cuda.h"
#include "ops/sampler/sampler_test_rows.h"

namespace pelagic {
namespace {

// What a language model's rows are like: most of the probability on a few ids, a broad bulk far below.
__global__ void fill_logits_kernel(float* logits, std::size_t count, int vocab) {
  const std::size_t step = static_cast<std::size_t>(gridDim.x) * blockDim.x;
  for (std::size_t i = static_cast<std::size_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {
    float logit = 2.5f * random_normal(1, i);
    // About 40 ids of a row rise above the bulk.
    if (random_uniform(2, i) < 40.0f / static_cast<float>(vocab)) logit = 8.0f + 8.0f * random_uniform(3, i);
    logits[i] = logit;
  }
}

// Some rows against sampler.cpp's choices.
BenchCheck compared(const DeviceBuffer<float>& logits, int vocab, const std::vector<std::int32_t>& positions,
                    const SamplingParams& params, const DeviceBuffer<SampledRow>& results) {
  CpuOps ops = {};
  ops.row_max = &scalar::row_max;
  ops.row_exp_sum = &scalar::row_exp_sum;
  SamplerScratch scratch;
  BenchCheck seen;
  std::vector<int> sample = sampled_rows(static_cast<int>(positions.size()));
  sample.resize(4);
  for (const int row : sample) {
    SampleResult expected;
    const std::vector<float> own = logits.download(static_cast<std::size_t>(row) * vocab, vocab);
    sample_row(ops, own.data(), vocab, static_cast<std::uint32_t>(positions[row]), params, scratch, expected);
    seen.expect(test::difference(results.download(row, 1)[0], expected).empty());
  }
  return seen;
}

}  // namespace

void bench_sampler(Bench& bench) {
  constexpr int kVocab = 129280, kMostRows = 256;
  constexpr std::size_t kCount = static_cast<std::size_t>(kMostRows) * kVocab;
  DeviceBuffer<float> logits(kCount);
  fill_logits_kernel<<<2048, 256, 0, bench.stream()>>>(logits.get(), kCount, kVocab);
  PELAGIC_CUDA(cudaGetLastError());
  DeviceBuffer<SampledRow> results(kMostRows);
  struct Kind {
    const char* name;
    SamplingParams params;
  };
  SamplingParams plain, nucleus, few, all;
  plain.temperature = 1.0f;
  nucleus.temperature = 0.6f;
  nucleus.top_p = 0.95f;
  few = nucleus;
  few.top_k = 50;
  SamplingParams masked = nucleus;
  const std::vector<std::uint32_t> every_other((kVocab + 31) / 32, 0x55555555u);
  masked.allowed = every_other;
  all = nucleus;
  all.logprobs = kMostTopLogprobs;
  const Kind kinds[] = {{"greedy", SamplingParams{}},
                        {"temperature 1", plain},
                        {"temperature 0.6, top-p 0.95", nucleus},
                        {"the same with top-k 50", few},
                        {"the same with half of the ids forbidden", masked},
                        {"the same with 20 logprobs, without top-k", all}};
  for (const int rows : {1, 32, 256}) {
    for (const Kind& kind : kinds) {
      std::vector<const SamplingParams*> params(static_cast<std::size_t>(rows), &kind.params);
      std::vector<std::int32_t> positions;
      for (int row = 0; row < rows; ++row) positions.push_back(1000 + row);
      std::vector<std::byte> bytes(packed_sampling_bytes(params, kVocab));
      PackScratch scratch;
      bytes.resize(pack_sampling(params, positions, kVocab, scratch, bytes));
      const DeviceBuffer<std::byte> packed(bytes);
      SamplerCudaCall call = {};
      call.rows = rows;
      call.vocab = kVocab;
      call.logits = logits.get();
      call.ld_logits = kVocab;
      call.packed = packed.get();
      call.results = results.get();
      const std::string what = "sampler 129280, " + std::to_string(rows) + " rows, " + kind.name;
      const auto run = [&](cudaStream_t s) { PELAGIC_CUDA(sample_rows_cuda(call, s)); };
      results.fill_bytes(0x77);
      bench.run(run);
      bench.check(what, compared(logits, kVocab, positions, kind.params, results));
      const double us = bench.time_us(run, 40);
      bench.add(what, us, "us", bench.ceilings().empty_us + bench.roof_us(4.0 * kVocab * rows, 0, 0));
    }
  }
}

}  // namespace pelagic
