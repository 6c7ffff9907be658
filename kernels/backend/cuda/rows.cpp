// Ops on rows one by one: embedding, norm, gather, what the host reads of them, sampling.
#include "backend/cuda/cuda_backend.h"

#include <algorithm>

#include "backend/cuda/row_kernels.h"
#include "base/xxh64.h"
#include "ops/embedding/embedding_cuda.h"
#include "ops/rms_norm/rms_norm_cuda.h"

namespace pelagic::cuda {

void CudaBackend::embed(const Embedding& embedding, std::span<const std::uint32_t> tokens, View y) {
  const auto& e = static_cast<const CudaEmbedding&>(embedding);
  const std::uint32_t* ids = send(tokens);
  launch("the embedding", [&] {
    return embedding_cuda({.rows = static_cast<int>(tokens.size()),
                           .width = e.hidden,
                           .vocab = e.vocab,
                           .table = e.memory.get(),
                           .ids = ids,
                           .out = written(y),
                           .out_type = type_of(y),
                           .ld_out = y.stride,
                           .errors = errors(kEmbeddingErrorsAt)},
                          stream_);
  });
}

void CudaBackend::rms_norm(int rows, View x, View delta, const Vector& weight, float eps, View y) {
  const bool adds = delta.memory != nullptr;
  const int width = static_cast<const CudaVector&>(weight).size;
  void* out = written(y);
  if (fp8_) hold_fp8(rows, y, width);
  launch("rms_norm", [&] {
    return rms_norm_cuda({.rows = rows,
                          .width = width,
                          .eps = eps,
                          .x = address(x),
                          .x_type = type_of(x),
                          .ldx = x.stride,
                          .delta = adds ? address(delta) : nullptr,
                          .delta_type = adds ? type_of(delta) : RowType::bfloat16,
                          .ld_delta = delta.stride,
                          .weight = values(weight),
                          .y = out,
                          .ldy = y.stride,
                          .y_fp8 = fp8_ ? fp8_rows_.get<std::uint8_t>() : nullptr,
                          .y_scales = fp8_ ? fp8_row_scales_.get<float>() : nullptr,
                          .ld_y_scales = rows},
                         stream_);
  });
}

void CudaBackend::gather(std::span<const std::uint32_t> rows, View x, int width, View y) {
  const std::int64_t bytes = row_type_bytes(type_of(x));
  const std::uint32_t* indices = send(rows);
  launch("gather", [&] {
    return gather_rows_cuda({.count = static_cast<int>(rows.size()),
                             .row_bytes = static_cast<int>(width * bytes),
                             .rows = indices,
                             .x = address(x),
                             .ldx_bytes = x.stride * bytes,
                             .out = written(y),
                             .ld_out_bytes = y.stride * bytes},
                            stream_);
  });
}

void CudaBackend::digest_rows(int rows, View x, int width, std::span<std::uint64_t> digests) {
  const float* copied = host_rows(rows, x, width);
  after_.push_back([copied, width, digests] {
    for (std::size_t i = 0; i < digests.size(); ++i) {
      const std::size_t count = static_cast<std::size_t>(width);
      digests[i] = xxh64(copied + i * count, count * sizeof(float));
    }
  });
}

void CudaBackend::read_rows(int rows, View x, int width, std::span<float> out) {
  const float* copied = host_rows(rows, x, width);
  after_.push_back([copied, out] { std::copy_n(copied, out.size(), out.data()); });
}

void CudaBackend::sample(View logits, int vocab, std::span<const std::int32_t> positions,
                         std::span<const SamplingParams* const> params, std::span<SampleResult> results) {
  if (std::none_of(params.begin(), params.end(), [](const SamplingParams* p) { return p != nullptr; })) return;
  sampling_ = {logits, vocab, positions, params, results};
}

const float* CudaBackend::host_rows(int rows, View x, int width) {
  if (type_of(x) != RowType::float32) throw Error(ErrorCode::internal, "only float32 rows are read from the GPU");
  const float* device = static_cast<const float*>(address(x));
  if (copied_from_ == device) return host_rows_.get<float>();
  if (copied_from_ != nullptr) throw Error(ErrorCode::internal, "one buffer's rows are read in a step, not two");
  const std::size_t row_bytes = static_cast<std::size_t>(width) * sizeof(float);
  const std::size_t bytes = row_bytes * static_cast<std::size_t>(rows);
  if (host_rows_.bytes() < bytes) {
    drop_graphs();
    host_rows_.grow(bytes + bytes / 4);
  }
  launch("a copy of logits", [&] {
    return cudaMemcpy2DAsync(host_rows_.get(), row_bytes, device, static_cast<std::size_t>(x.stride) * sizeof(float),
                             row_bytes, static_cast<std::size_t>(rows), cudaMemcpyDeviceToHost, stream_);
  });
  copied_from_ = device;
  return host_rows_.get<float>();
}

void CudaBackend::run_sampling(const Sampling& asked) {
  const std::size_t rows = asked.params.size();
  const std::size_t most = packed_sampling_bytes(asked.params, asked.vocab);
  // The step before is done: nothing uses the old ones.
  if (device_sampling_.bytes() < most) {
    device_sampling_.grow(most + most / 4);
    host_sampling_.grow(device_sampling_.bytes());
  }
  if (device_samples_.bytes() < rows * sizeof(SampledRow)) {
    device_samples_.grow(2 * rows * sizeof(SampledRow));
    host_samples_.grow(device_samples_.bytes());
  }
  const std::size_t bytes = guarded("sampling", [&] {
    return pack_sampling(asked.params, asked.positions, asked.vocab, pack_scratch_,
                         {host_sampling_.get<std::byte>(), host_sampling_.bytes()});
  });
  check(cudaMemcpyAsync(device_sampling_.get(), host_sampling_.get(), bytes, cudaMemcpyHostToDevice, stream_),
        "sampling");
  check(sample_rows_cuda({.rows = static_cast<int>(rows),
                          .vocab = asked.vocab,
                          .logits = static_cast<const float*>(address(asked.logits)),
                          .ld_logits = asked.logits.stride,
                          .packed = device_sampling_.get(),
                          .results = device_samples_.get<SampledRow>()},
                         stream_),
        "sampling");
  check(cudaMemcpyAsync(host_samples_.get(), device_samples_.get(), rows * sizeof(SampledRow), cudaMemcpyDeviceToHost,
                        stream_),
        "sampling");
  after_.push_back([this, asked] {
    for (std::size_t i = 0; i < asked.params.size(); ++i)
      if (asked.params[i] != nullptr) read_sampled_row(host_samples_.get<SampledRow>()[i], asked.results[i]);
  });
}

}  // namespace pelagic::cuda
