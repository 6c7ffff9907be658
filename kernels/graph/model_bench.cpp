// Times whole steps of a model, and shows which ops the time goes to:
// pelagic_model_bench [--backend cpu|cuda|cuda-fp8] DIR [threads]. On CUDA an op's time is that of asking for it; the
// card's is in finish.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/cpu_ops.h"
#include "backend/cuda/open_cuda_backend.h"
#include "base/measure.h"
#include "base/thread_pool.h"
#include "graph/model.h"

using namespace pelagic;

namespace {

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Passes every op on and adds up its time under its name.
class TimedBackend final : public Backend {
 public:
  TimedBackend(std::unique_ptr<Backend> inner, std::map<std::string, double>& times)
      : inner_(std::move(inner)), times_(times) {}

  std::unique_ptr<Activations> make_activations(std::size_t n, Precision p) override {
    return inner_->make_activations(n, p);
  }
  std::unique_ptr<Vector> make_vector(std::span<const float> v) override { return inner_->make_vector(v); }
  std::unique_ptr<Matrix> make_matrix(int n, int k, const RowSource& r) override {
    return inner_->make_matrix(n, k, r);
  }
  std::unique_ptr<Matrix> make_projection(int n, int k, const RowSource& r) override {
    return inner_->make_projection(n, k, r);
  }
  std::unique_ptr<HeadMatrices> make_head_matrices(int h, int n, int k, const HeadRowSource& r) override {
    return inner_->make_head_matrices(h, n, k, r);
  }
  std::unique_ptr<HeadMatrices> make_head_matrices_transposed(int h, int n, int k, const HeadRowSource& r) override {
    return inner_->make_head_matrices_transposed(h, n, k, r);
  }
  std::unique_ptr<Mlp> make_mlp(int w, int h, const RowSource& g, const RowSource& u, const RowSource& d) override {
    return inner_->make_mlp(w, h, g, u, d);
  }
  std::unique_ptr<Matrix> make_gate_matrix(int n, int k, const RowSource& r) override {
    return inner_->make_gate_matrix(n, k, r);
  }
  std::unique_ptr<MlpBank> make_mlp_bank(int s, int w, int h) override { return inner_->make_mlp_bank(s, w, h); }
  std::unique_ptr<Mlp> make_expert(MlpBank* b, int s, int w, int h, const RowSource& g, const RowSource& u,
                                   const RowSource& d) override {
    return inner_->make_expert(b, s, w, h, g, u, d);
  }
  std::unique_ptr<Embedding> make_embedding(int v, int h, const RowSource& r) override {
    return inner_->make_embedding(v, h, r);
  }
  std::unique_ptr<RopeAngles> make_rope(std::span<const double> f, int p, double a) override {
    return inner_->make_rope(f, p, a);
  }
  bool expands_prompts(const MlaShape& s) const override { return inner_->expands_prompts(s); }
  std::unique_ptr<KvCache> make_kv_cache(const KvLayout& l) override { return inner_->make_kv_cache(l); }

  void embed(const Embedding& e, std::span<const std::uint32_t> t, View y) override {
    time("embed", [&] { inner_->embed(e, t, y); });
  }
  void rms_norm(int rows, View x, View delta, const Vector& w, float eps, View y) override {
    time("rms_norm", [&] { inner_->rms_norm(rows, x, delta, w, eps, y); });
  }
  void linear(int rows, View x, const Matrix& w, View y) override {
    time("linear", [&] { inner_->linear(rows, x, w, y); });
  }
  void head_linear(int rows, View x, const HeadMatrices& w, View y) override {
    time("head_linear", [&] { inner_->head_linear(rows, x, w, y); });
  }
  void store_latents(const RowSet& rows, View c, const Vector& norm, float eps, const RopeAngles& rope, KvCache& cache,
                     int layer) override {
    time("store_latents", [&] { inner_->store_latents(rows, c, norm, eps, rope, cache, layer); });
  }
  void absorb_queries(const RowSet& rows, const MlaShape& s, View q, const HeadMatrices& uk, const RopeAngles& rope,
                      View a) override {
    time("absorb_queries", [&] { inner_->absorb_queries(rows, s, q, uk, rope, a); });
  }
  void attend(const RowSet& rows, const MlaShape& s, View a, float scale, const KvCache& cache, int layer,
              View u) override {
    time("attend", [&] { inner_->attend(rows, s, a, scale, cache, layer, u); });
  }
  void attend_expanded(const RowSet& rows, const MlaShape& s, View q, const Matrix& ukv, const RopeAngles& rope,
                       float scale, const KvCache& cache, int layer, View values) override {
    time("attend_expanded", [&] { inner_->attend_expanded(rows, s, q, ukv, rope, scale, cache, layer, values); });
  }
  void mlp(int rows, View x, const Mlp& w, View y) override {
    time("mlp", [&] { inner_->mlp(rows, x, w, y); });
  }
  void moe(int rows, View x, const MoeLayer& layer, View y, std::span<std::uint32_t> counts) override {
    time("moe", [&] { inner_->moe(rows, x, layer, y, counts); });
  }
  void gather(std::span<const std::uint32_t> rows, View x, int width, View y) override {
    time("gather", [&] { inner_->gather(rows, x, width, y); });
  }
  void when_done(const std::function<void()>& fn) override { inner_->when_done(fn); }
  void digest_rows(int rows, View x, int width, std::span<std::uint64_t> d) override {
    time("digest_rows", [&] { inner_->digest_rows(rows, x, width, d); });
  }
  double read_pass(std::span<const BackendObject* const> weights) override { return inner_->read_pass(weights); }
  void read_rows(int rows, View x, int width, std::span<float> out) override { inner_->read_rows(rows, x, width, out); }
  void sample(View logits, int vocab, std::span<const std::int32_t> p, std::span<const SamplingParams* const> params,
              std::span<SampleResult> results) override {
    time("sample", [&] { inner_->sample(logits, vocab, p, params, results); });
  }
  void begin_step(const StepShape& step) override { inner_->begin_step(step); }
  void finish() override {
    time("finish", [&] { inner_->finish(); });
  }
  void cancel() override { inner_->cancel(); }
  void check_model(const MlaShape& s, const KvLayout& l) override { inner_->check_model(s, l); }
  std::uint64_t pack_rows(const KvCache& c, int l, std::uint32_t b, int f, int n, std::byte* out) override {
    return inner_->pack_rows(c, l, b, f, n, out);
  }
  std::uint64_t unpack_rows(KvCache& c, int l, std::uint32_t b, int f, int n, const std::byte* data) override {
    return inner_->unpack_rows(c, l, b, f, n, data);
  }
  void copy_block(KvCache& c, std::uint32_t from, std::uint32_t to) override { inner_->copy_block(c, from, to); }

 private:
  template <class Fn>
  void time(const char* op, const Fn& fn) {
    const double start = seconds();
    fn();
    times_[op] += seconds() - start;
  }

  std::unique_ptr<Backend> inner_;
  std::map<std::string, double>& times_;
};

// One step of `sequences` sequences with `blocks` blocks each: `rows` rows from position `start` on.
double time_step(Model& model, int sequences, int blocks, int rows, int start, int round) {
  std::vector<std::uint32_t> tokens, counts, starts, table, offsets = {0}, logit_rows;
  for (int s = 0; s < sequences; ++s) {
    for (int r = 0; r < rows; ++r) {
      const std::int64_t mixed = (round * 31 + s * 17 + r * 7) % model.config().vocab_size;
      tokens.push_back(static_cast<std::uint32_t>(mixed));
    }
    counts.push_back(static_cast<std::uint32_t>(rows));
    starts.push_back(static_cast<std::uint32_t>(start));
    for (int b = 0; b < blocks; ++b) table.push_back(static_cast<std::uint32_t>(s * blocks + b));
    offsets.push_back(static_cast<std::uint32_t>(table.size()));
    if (rows == 1) logit_rows.push_back(static_cast<std::uint32_t>(s));
  }
  const SamplingParams greedy;
  const std::vector<const SamplingParams*> sampling(logit_rows.size(), &greedy);
  static StepResult result;
  const StepBatch batch{.tokens = tokens,
                        .row_counts = counts,
                        .start_positions = starts,
                        .prompt_lengths = counts,
                        .block_table = table,
                        .block_offsets = offsets,
                        .logit_rows = logit_rows,
                        .sampling = sampling};
  const double begin = seconds();
  model.step(batch, {}, result);
  return seconds() - begin;
}

void bench(Model& model, std::map<std::string, double>& op_times, int sequences, int rows, int start, int rounds) {
  const int blocks = (start + rows + kBlockRows - 1) / kBlockRows;
  // What earlier rows look like counts: attention over zeros is quicker than over latents.
  if (start > 0) time_step(model, sequences, blocks, start, 0, 0);
  for (int i = 0; i < rounds / 4 + 1; ++i) time_step(model, sequences, blocks, rows, start, i);
  op_times.clear();
  std::vector<double> times;
  for (int i = 0; i < rounds; ++i) times.push_back(time_step(model, sequences, blocks, rows, start, i));
  std::sort(times.begin(), times.end());
  const double median = times[times.size() / 2];
  std::printf("%4d sequences x %4d rows from %4d: median %8.3f ms, min %8.3f ms, %8.0f rows/s\n", sequences, rows,
              start, median * 1e3, times[0] * 1e3, sequences * rows / median);
  for (const auto& [op, total] : op_times) std::printf("      %-16s %8.3f ms\n", op.c_str(), total / rounds * 1e3);
}

}  // namespace

int main(int argc, char** argv) {
  bool cuda = false;
  CudaWeights weights = CudaWeights::bfloat16;
  if (argc > 2 && std::strcmp(argv[1], "--backend") == 0) {
    if (std::strcmp(argv[2], "cuda-fp8") == 0) weights = CudaWeights::fp8;
    cuda = std::strncmp(argv[2], "cuda", 4) == 0;
    argv += 2;
    argc -= 2;
  }
  if (argc < 2) {
    std::fprintf(stderr, "usage: pelagic_model_bench [--backend cpu|cuda|cuda-fp8] DIR [threads]\n");
    return 2;
  }
  const int threads = argc > 2 ? std::atoi(argv[2]) : 2;
  try {
    std::map<std::string, double> op_times;
    const double begin = seconds();
    Model model(argv[1],
                std::make_unique<TimedBackend>(
                    cuda ? open_cuda_backend(weights) : make_cpu_backend(best_isa(), threads), op_times),
                KvDtype::bfloat16, 256, threads, {});
    std::printf("load %.0f ms\n", (seconds() - begin) * 1e3);
    if (!cuda) {
      ThreadPool pool(threads);
      const double bandwidth = measure_read_bandwidth(pool, cpu_ops(best_isa()), model.info().weight_bytes);
      std::printf(
          "read pass: %.1f GB/s over all %.1f MB of weights: %.3f ms for the %.1f MB that a token reads; FMA %.0f "
          "GFLOP/s\n",
          bandwidth / 1e9, static_cast<double>(model.info().weight_bytes) / 1e6,
          static_cast<double>(model.info().active_weight_bytes) / bandwidth * 1e3,
          static_cast<double>(model.info().active_weight_bytes) / 1e6,
          measure_fma_rate(pool, cpu_ops(best_isa())) / 1e9);
    }
    for (const int sequences : {1, 8, 32}) bench(model, op_times, sequences, 1, 160, 400);
    bench(model, op_times, 1, 512, 0, 5);
    bench(model, op_times, 1, 2048, 0, 3);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
