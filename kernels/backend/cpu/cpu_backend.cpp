#include "backend/cpu/cpu_backend.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "backend/cpu/cpu_ops.h"
#include "base/aligned_buffer.h"
#include "base/large_memory.h"
#include "base/thread_pool.h"
#include "base/xxh64.h"
#include "graph/error.h"
#include "ops/embedding/embedding.h"
#include "ranks/rank_group.h"

namespace pelagic {
namespace {

// ---- What the backend's objects are here. Activations are float32.

struct CpuActivations final : Activations {
  explicit CpuActivations(std::size_t elements) : data(elements) {}
  std::size_t bytes() const override { return data.size() * sizeof(float); }
  AlignedBuffer<float> data;
};

struct CpuVector final : Vector {
  explicit CpuVector(std::span<const float> values) : data(values.size()) {
    std::copy(values.begin(), values.end(), data.data());
  }
  std::size_t bytes() const override { return data.size() * sizeof(float); }
  AlignedBuffer<float> data;
};

struct CpuMatrix final : Matrix {
  explicit CpuMatrix(PackedMatrix m) : packed(std::move(m)) {}
  std::size_t bytes() const override { return packed.bytes(); }
  PackedMatrix packed;
};

struct CpuHeadMatrices final : HeadMatrices {
  std::size_t bytes() const override {
    std::size_t sum = 0;
    for (const PackedMatrix& head : heads) sum += head.bytes();
    return sum;
  }
  std::vector<PackedMatrix> heads;
};

struct CpuMlp final : Mlp {
  std::size_t bytes() const override { return gate_up.bytes() + down.bytes(); }
  int width = 0;
  PackedMatrix gate_up;  // columns in pairs: 32 of gate, 32 of up
  PackedMatrix down;
};

struct CpuEmbedding final : Embedding {
  CpuEmbedding(std::int64_t vocab, std::int64_t hidden) : data(static_cast<std::size_t>(vocab * hidden)) {
    table = {reinterpret_cast<const std::byte*>(data.data()), EmbeddingDtype::float32, vocab, hidden};
  }
  std::size_t bytes() const override { return data.size() * sizeof(float); }
  AlignedBuffer<float> data;
  EmbeddingTable table{};
};

struct CpuRopeAngles final : RopeAngles {
  explicit CpuRopeAngles(RopeTable t) : table(std::move(t)) {}
  std::size_t bytes() const override {
    return sizeof(float) * 2 * static_cast<std::size_t>(table.pairs()) * static_cast<std::size_t>(table.positions());
  }
  RopeTable table;
};

struct CpuKvCache final : KvCache {
  explicit CpuKvCache(const KvLayout& l) : layout(l), data(large_memory(l.total_bytes())) {}
  std::size_t bytes() const override { return layout.total_bytes(); }
  KvLayout layout;
  std::shared_ptr<std::byte[]> data;
};

float* address(View view) { return static_cast<CpuActivations*>(view.memory)->data.data() + view.offset; }
const float* values(const Vector& vector) { return static_cast<const CpuVector&>(vector).data.data(); }

// The packed matrices in an object; what is not one (norms, the embedding) is too little to matter.
void append_matrices(const BackendObject& object, std::vector<std::span<const float>>& out) {
  const auto add = [&](const PackedMatrix& m) { out.emplace_back(m.panel(0), m.bytes() / sizeof(float)); };
  if (const auto* matrix = dynamic_cast<const CpuMatrix*>(&object)) add(matrix->packed);
  if (const auto* heads = dynamic_cast<const CpuHeadMatrices*>(&object)) {
    for (const PackedMatrix& head : heads->heads) add(head);
  }
  if (const auto* mlp = dynamic_cast<const CpuMlp*>(&object)) {
    add(mlp->gate_up);
    add(mlp->down);
  }
}

// Below this many numbers an op is over sooner than a second thread has woken up.
constexpr std::int64_t kSerialFloats = 16 * 1024;
// Rows that one task of a row-wise op takes.
constexpr int kRowGrain = 16;

// Part of one expert's GEMM: its rows are entries [begin, end) of the MoE batch; panels or panel pairs [first, last).
struct MlpTask {
  const CpuMlp* w;
  int begin;
  int end;
  int first;
  int last;
};

class CpuBackend final : public Backend {
 public:
  CpuBackend(Isa isa, int threads)
      : ops_(cpu_ops(isa)),
        pool_(threads),
        thread_scratch_(static_cast<std::size_t>(threads)),
        sampler_scratch_(static_cast<std::size_t>(threads)) {}

  void check_model(const MlaShape&, const KvLayout& layout) override {
    if (layout.dtype == KvDtype::fp8)
      throw Error(ErrorCode::argument,
                  "the CPU backend has no FP8 latents: kvDtype must be \"float32\" or \"bfloat16\"");
  }

  std::unique_ptr<Activations> make_activations(std::size_t elements, Precision) override {
    ++allocations_;
    return std::make_unique<CpuActivations>(elements);
  }
  std::uint64_t allocations() const override { return allocations_; }
  std::unique_ptr<Vector> make_vector(std::span<const float> data) override {
    return std::make_unique<CpuVector>(data);
  }
  std::unique_ptr<Matrix> make_matrix(int n, int k, const RowSource& rows) override {
    return std::make_unique<CpuMatrix>(PackedMatrix::from_rows(n, k, rows));
  }

  std::unique_ptr<HeadMatrices> make_head_matrices(int heads, int n, int k, const HeadRowSource& rows) override {
    auto matrices = std::make_unique<CpuHeadMatrices>();
    for (int head = 0; head < heads; ++head) {
      matrices->heads.push_back(PackedMatrix::from_rows(n, k, [&](int row, float* out) { rows(head, row, out); }));
    }
    return matrices;
  }

  std::unique_ptr<HeadMatrices> make_head_matrices_transposed(int heads, int n, int k,
                                                              const HeadRowSource& rows) override {
    auto matrices = std::make_unique<CpuHeadMatrices>();
    std::vector<float> transposed(static_cast<std::size_t>(k) * static_cast<std::size_t>(n));
    for (int head = 0; head < heads; ++head) {
      for (int row = 0; row < k; ++row) rows(head, row, transposed.data() + static_cast<std::size_t>(row) * n);
      matrices->heads.push_back(PackedMatrix::from_transposed(n, k, transposed.data(), n));
    }
    return matrices;
  }

  std::unique_ptr<Mlp> make_mlp(int width, int hidden, const RowSource& gate, const RowSource& up,
                                const RowSource& down) override {
    auto mlp = std::make_unique<CpuMlp>();
    mlp->width = width;
    mlp->gate_up = PackedMatrix::from_gate_up(width, hidden, gate, up);
    mlp->down = PackedMatrix::from_rows(hidden, width, down);
    return mlp;
  }

  std::unique_ptr<Embedding> make_embedding(int vocab, int hidden, const RowSource& rows) override {
    auto embedding = std::make_unique<CpuEmbedding>(vocab, hidden);
    for (int row = 0; row < vocab; ++row) {
      rows(row, embedding->data.data() + static_cast<std::size_t>(row) * static_cast<std::size_t>(hidden));
    }
    return embedding;
  }

  std::unique_ptr<RopeAngles> make_rope(std::span<const double> frequencies, int positions, double amplitude) override {
    return std::make_unique<CpuRopeAngles>(RopeTable(frequencies, positions, amplitude));
  }
  std::unique_ptr<KvCache> make_kv_cache(const KvLayout& layout) override {
    return std::make_unique<CpuKvCache>(layout);
  }

  void embed(const Embedding& embedding, std::span<const std::uint32_t> tokens, View y) override {
    embed_tokens(static_cast<const CpuEmbedding&>(embedding).table, tokens, address(y), y.stride);
  }

  void rms_norm(int rows, View x, View delta, const Vector& weight, float eps, View y) override {
    const int width = static_cast<int>(static_cast<const CpuVector&>(weight).data.size());
    const RmsNormCall call{.x = address(x),
                           .ldx = x.stride,
                           .delta = delta.memory != nullptr ? address(delta) : nullptr,
                           .ld_delta = delta.stride,
                           .weight = values(weight),
                           .y = address(y),
                           .ldy = y.stride,
                           .width = width,
                           .eps = eps};
    for_rows(rows, width, [&](int begin, int end) { ops_.rms_norm(call, begin, end); });
  }

  void linear(int rows, View x, const Matrix& w, View y) override {
    const PackedMatrix& packed = static_cast<const CpuMatrix&>(w).packed;
    const GemmCall call{.a = address(x), .lda = x.stride, .m = rows, .w = &packed, .c = address(y), .ldc = y.stride};
    run_gemm(call);
  }

  void head_linear(int rows, View x, const HeadMatrices& w, View y) override {
    const auto& heads = static_cast<const CpuHeadMatrices&>(w).heads;
    run_head_gemms(rows, heads, address(x), x.stride, heads[0].k(), address(y), y.stride, heads[0].n());
  }

  void store_latents(const RowSet& rows, View compressed, const Vector& norm, float eps, const RopeAngles& rope,
                     KvCache& cache, int layer) override {
    CpuKvCache& kv = static_cast<CpuKvCache&>(cache);
    const RopeTable& table = static_cast<const CpuRopeAngles&>(rope).table;
    const int kv_rank = kv.layout.kv_rank;
    const RmsNormCall call{.x = address(compressed),
                           .ldx = compressed.stride,
                           .delta = nullptr,
                           .ld_delta = 0,
                           .weight = values(norm),
                           .y = address(compressed),
                           .ldy = compressed.stride,
                           .width = kv_rank,
                           .eps = eps};
    flatten(rows);
    for_rows(rows.rows(), kv.layout.latent_width(), [&](int begin, int end) {
      ops_.rms_norm(call, begin, end);
      for (int row = begin; row < end; ++row) {
        float* latent = address(compressed) + row * compressed.stride;
        const int position = rows.positions[static_cast<std::size_t>(row)];
        float* key = latent + kv_rank;
        ops_.rope(key, 0, key, 0, 1, table.pairs(), table.cos_row(position), table.sin_row(position));
        const std::uint32_t block = row_blocks_[static_cast<std::size_t>(row)][position / kBlockRows];
        kv_write_row(kv.layout, kv.data.get(), layer, block, position % kBlockRows, latent, key);
      }
    });
  }

  void absorb_queries(const RowSet& rows, const MlaShape& shape, View q, const HeadMatrices& uk, const RopeAngles& rope,
                      View absorbed) override {
    const auto& heads = static_cast<const CpuHeadMatrices&>(uk).heads;
    const RopeTable& table = static_cast<const CpuRopeAngles&>(rope).table;
    const int query_dim = shape.nope_dim + shape.rope_dim;
    const int latent_width = shape.kv_rank + shape.rope_dim;
    run_head_gemms(rows.rows(), heads, address(q), q.stride, query_dim, address(absorbed), absorbed.stride,
                   latent_width);
    for_rows(rows.rows(), shape.heads * shape.rope_dim, [&](int begin, int end) {
      for (int row = begin; row < end; ++row) {
        const int position = rows.positions[static_cast<std::size_t>(row)];
        ops_.rope(address(q) + row * q.stride + shape.nope_dim, query_dim,
                  address(absorbed) + row * absorbed.stride + shape.kv_rank, latent_width, shape.heads, table.pairs(),
                  table.cos_row(position), table.sin_row(position));
      }
    });
  }

  void attend(const RowSet& rows, const MlaShape& shape, View absorbed, float scale, const KvCache& cache, int layer,
              View u) override {
    const CpuKvCache& kv = static_cast<const CpuKvCache&>(cache);
    attention_sequences_.clear();
    attention_calls_.clear();
    int first_row = 0;
    for (const RowRun& run : rows.runs) {
      attention_sequences_.push_back({run.rows, run.first_position});
      attention_calls_.push_back({.layout = &kv.layout,
                                  .cache = kv.data.get(),
                                  .layer = layer,
                                  .blocks = run.blocks,
                                  .first_position = run.first_position,
                                  .scale = scale,
                                  .q = address(absorbed) + first_row * absorbed.stride,
                                  .q_row_stride = absorbed.stride,
                                  .q_head_stride = shape.kv_rank + shape.rope_dim,
                                  .u = address(u) + first_row * u.stride,
                                  .u_row_stride = u.stride,
                                  .u_head_stride = shape.kv_rank});
      first_row += run.rows;
    }
    plan_attention(kv.layout, attention_sequences_, shape.heads, pool_.size(), attention_plan_);
    reserve_thread_scratch(mla_attention_scratch_floats(kv.layout));
    scratch_pointers_.clear();
    for (int thread = 0; thread < pool_.size(); ++thread) scratch_pointers_.push_back(scratch(thread));
    run_attention(pool_, ops_, attention_calls_, shape.heads, attention_plan_, scratch_pointers_);
  }

  void mlp(int rows, View x, const Mlp& w, View y) override {
    const CpuMlp& mlp = static_cast<const CpuMlp&>(w);
    mlp_tasks_.clear();
    reserve(gate_up_out_, rows * static_cast<std::int64_t>(mlp.gate_up.n()));
    reserve(activated_, rows * static_cast<std::int64_t>(mlp.width));
    add_gate_up_tasks(mlp, 0, rows);
    run_gate_up(address(x), x.stride, mlp.gate_up.n(), mlp.width);
    const GemmCall down{
        .a = activated_.data(), .lda = mlp.width, .m = rows, .w = &mlp.down, .c = address(y), .ldc = y.stride};
    run_gemm(down);
  }

  bool shares_experts() const override { return true; }

  void moe(int rows, View x, const MoeLayer& layer, View y, std::span<std::uint32_t> counts) override {
    const int top_k = layer.gate.top_k;
    const int hidden = static_cast<const CpuMatrix&>(*layer.gate_weights).packed.k();
    RankGroup* group = layer.ranks.group;
    if (rows > 0) route(rows, x, layer);
    count_experts(expert_ids_.data(), static_cast<std::int64_t>(rows) * top_k, counts.data());
    // Ranks with few rows each would otherwise all take the same copies.
    const int turn = group != nullptr ? group->rank() + layer.ranks.layer : 0;
    build_moe_batch(*layer.placement, expert_ids_.data(), rows, top_k, moe_batch_, turn);
    MoeCombineCall combine{.batch = &moe_batch_,
                           .weights = expert_weights_.data(),
                           .top_k = top_k,
                           .expert_out = nullptr,
                           .ld_expert_out = hidden,
                           .shared = nullptr,
                           .ld_shared = 0,
                           .y = rows > 0 ? address(y) : nullptr,
                           .ldy = y.stride,
                           .width = hidden};
    if (group == nullptr) {
      run_experts_here(rows, x, layer, combine);
    } else {
      run_experts_on_ranks(rows, x, layer, y, combine);
    }
    for_rows(rows, hidden * (top_k + 1), [&](int begin, int end) { ops_.moe_combine(combine, begin, end); });
  }

  void gather(std::span<const std::uint32_t> rows, View x, int width, View y) override {
    for (std::size_t i = 0; i < rows.size(); ++i) {
      std::copy_n(address(x) + rows[i] * x.stride, width, address(y) + static_cast<std::int64_t>(i) * y.stride);
    }
  }

  void when_done(const std::function<void()>& fn) override { fn(); }

  void digest_rows(int rows, View x, int width, std::span<std::uint64_t> digests) override {
    pool_.parallel_for(rows, [&](int row, int) {
      digests[static_cast<std::size_t>(row)] =
          xxh64(address(x) + row * x.stride, static_cast<std::size_t>(width) * sizeof(float));
    });
  }

  void read_rows(int rows, View x, int width, std::span<float> out) override {
    for (int row = 0; row < rows; ++row) {
      std::copy_n(address(x) + row * x.stride, width, out.data() + static_cast<std::int64_t>(row) * width);
    }
  }

  void sample(View logits, int vocab, std::span<const std::int32_t> positions,
              std::span<const SamplingParams* const> params, std::span<SampleResult> results) override {
    pool_.parallel_for(static_cast<int>(params.size()), [&](int index, int thread) {
      const std::size_t i = static_cast<std::size_t>(index);
      if (params[i] == nullptr) return;
      sample_row(ops_, address(logits) + index * logits.stride, vocab, static_cast<std::uint32_t>(positions[i]),
                 *params[i], sampler_scratch_[static_cast<std::size_t>(thread)], results[i]);
    });
  }

  void finish() override {}

  double read_pass(std::span<const BackendObject* const> weights) override {
    // One job for all of it: every thread reads its share of each matrix, as the ops' threads do, without their joins.
    std::vector<std::span<const float>> matrices;
    for (const BackendObject* object : weights) append_matrices(*object, matrices);
    const int threads = pool_.size();
    std::vector<float> sums(static_cast<std::size_t>(threads));
    const auto start = std::chrono::steady_clock::now();
    pool_.parallel_for(threads, [&](int part, int) {
      float sum = 0;
      for (const std::span<const float> matrix : matrices) {
        const std::size_t lines = matrix.size() / 16;
        const std::size_t first = lines * static_cast<std::size_t>(part) / static_cast<std::size_t>(threads);
        const std::size_t last = lines * (static_cast<std::size_t>(part) + 1) / static_cast<std::size_t>(threads);
        sum += ops_.read_pass(matrix.data() + first * 16, (last - first) * 16);
      }
      sums[static_cast<std::size_t>(part)] = sum;
    });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    volatile float keep = 0;
    for (const float sum : sums) keep = keep + sum;
    return seconds.count();
  }

  std::uint64_t pack_rows(const KvCache& cache, int layer, std::uint32_t block, int first_row, int row_count,
                          std::byte* out) override {
    const CpuKvCache& kv = static_cast<const CpuKvCache&>(cache);
    return kv_pack_rows(kv.layout, kv.data.get(), layer, block, first_row, row_count, out);
  }
  std::uint64_t unpack_rows(KvCache& cache, int layer, std::uint32_t block, int first_row, int row_count,
                            const std::byte* data) override {
    CpuKvCache& kv = static_cast<CpuKvCache&>(cache);
    return kv_unpack_rows(kv.layout, kv.data.get(), layer, block, first_row, row_count, data);
  }
  void copy_block(KvCache& cache, std::uint32_t from, std::uint32_t to) override {
    CpuKvCache& kv = static_cast<CpuKvCache&>(cache);
    kv_copy_block(kv.layout, kv.data.get(), from, to);
  }

 private:
  // Buffers grow to the largest step seen and stay; a quarter more, so that a batch that grows row by row seldom
  // reallocates.
  static void reserve(AlignedBuffer<float>& buffer, std::int64_t floats) {
    if (static_cast<std::int64_t>(buffer.size()) >= floats) return;
    buffer = AlignedBuffer<float>();  // first let go of the old one
    buffer = AlignedBuffer<float>(static_cast<std::size_t>(floats + floats / 4));
  }

  void reserve_thread_scratch(std::size_t floats) {
    for (AlignedBuffer<float>& buffer : thread_scratch_) reserve(buffer, static_cast<std::int64_t>(floats));
  }
  float* scratch(int thread) { return thread_scratch_[static_cast<std::size_t>(thread)].data(); }

  // fn(begin, end) over all rows, on one thread where that is quicker. floats: numbers that one row touches.
  template <class Fn>
  void for_rows(int rows, int floats, const Fn& fn) {
    if (static_cast<std::int64_t>(rows) * floats <= kSerialFloats) {
      if (rows > 0) fn(0, rows);
      return;
    }
    const int grain = std::max(1, std::min(kRowGrain, rows / pool_.size()));
    pool_.parallel_ranges(rows, grain, [&](int begin, int end, int) { fn(begin, end); });
  }

  void run_gemm(const GemmCall& call) {
    const int grain = gemm_panels_per_task(*call.w, call.m, pool_.size());
    pool_.parallel_ranges(call.w->panels(), grain, [&](int begin, int end, int) { ops_.gemm(call, begin, end); });
  }

  // One GEMM for each head; a head's inputs and outputs lie a_head, c_head floats apart inside a row.
  void run_head_gemms(int rows, const std::vector<PackedMatrix>& heads, const float* a, std::int64_t lda, int a_head,
                      float* c, std::int64_t ldc, int c_head) {
    const int grain = gemm_panels_per_task(heads[0], rows, pool_.size());
    const int pieces = (heads[0].panels() + grain - 1) / grain;
    pool_.parallel_for(static_cast<int>(heads.size()) * pieces, [&](int index, int) {
      const int head = index / pieces;
      const int begin = index % pieces * grain;
      const PackedMatrix& w = heads[static_cast<std::size_t>(head)];
      const GemmCall call{.a = a + static_cast<std::int64_t>(head) * a_head,
                          .lda = lda,
                          .m = rows,
                          .w = &w,
                          .c = c + static_cast<std::int64_t>(head) * c_head,
                          .ldc = ldc};
      ops_.gemm(call, begin, std::min(begin + grain, w.panels()));
    });
  }

  // row_blocks_[row] = block table of the row's sequence.
  void flatten(const RowSet& rows) {
    row_blocks_.clear();
    for (const RowRun& run : rows.runs)
      row_blocks_.insert(row_blocks_.end(), static_cast<std::size_t>(run.rows), run.blocks);
  }

  // Fills expert_ids_ and expert_weights_: [rows, top_k].
  void route(int rows, View x, const MoeLayer& layer) {
    GateConfig gate = layer.gate;
    gate.bias = layer.gate_bias != nullptr ? values(*layer.gate_bias) : nullptr;
    const PackedMatrix& w = static_cast<const CpuMatrix&>(*layer.gate_weights).packed;
    reserve(gate_logits_, static_cast<std::int64_t>(rows) * gate.experts);
    reserve(expert_weights_, static_cast<std::int64_t>(rows) * gate.top_k);
    expert_ids_.resize(static_cast<std::size_t>(rows) * static_cast<std::size_t>(gate.top_k));
    reserve_thread_scratch(static_cast<std::size_t>(2 * gate.experts + gate.groups));
    const GemmCall call{
        .a = address(x), .lda = x.stride, .m = rows, .w = &w, .c = gate_logits_.data(), .ldc = gate.experts};
    if (static_cast<std::int64_t>(rows) * w.n() * w.k() <= kSerialFloats) {
      ops_.gemm(call, 0, w.panels());
    } else {
      run_gemm(call);
    }
    pool_.parallel_ranges(rows, kRowGrain, [&](int begin, int end, int thread) {
      gate_rows(gate, ops_, gate_logits_.data(), gate.experts, begin, end, expert_ids_.data(), expert_weights_.data(),
                scratch(thread));
    });
  }

  // All of moe_batch_, and the shared experts among it.
  void run_experts_here(int rows, View x, const MoeLayer& layer, MoeCombineCall& combine) {
    const CpuMlp* shared = static_cast<const CpuMlp*>(layer.shared);
    const int hidden = combine.width;
    // Rows of all buffers: the entries of the batch, slot after slot, then the shared expert's rows.
    const int entries = rows * layer.gate.top_k;
    reserve(gathered_, static_cast<std::int64_t>(entries + (shared != nullptr ? rows : 0)) * hidden);
    for_rows(entries, hidden, [&](int begin, int end) {
      gather_rows(moe_batch_, begin, end, address(x), x.stride,
                  gathered_.data() + static_cast<std::int64_t>(begin) * hidden, hidden, hidden);
    });
    if (shared != nullptr) {
      for_rows(rows, hidden, [&](int begin, int end) {
        for (int row = begin; row < end; ++row) {
          std::copy_n(address(x) + row * x.stride, hidden,
                      gathered_.data() + static_cast<std::int64_t>(entries + row) * hidden);
        }
      });
    }
    run_experts(layer, moe_batch_.slot_offsets, moe_batch_.active_slots, shared, shared != nullptr ? rows : 0, hidden);
    combine.expert_out = expert_out_.data();
    if (shared == nullptr) return;
    combine.shared = expert_out_.data() + static_cast<std::int64_t>(entries) * hidden;
    combine.ld_shared = hidden;
  }

  // The entries of moe_batch_ that are for this rank, those of other ranks' rows that are, and the shared experts of
  // the own rows while messages travel.
  void run_experts_on_ranks(int rows, View x, const MoeLayer& layer, View y, MoeCombineCall& combine) {
    RankGroup& group = *layer.ranks.group;
    const int hidden = combine.width;
    const auto bytes = [](auto* floats) { return reinterpret_cast<std::byte*>(floats); };
    const int row_bytes = hidden * static_cast<int>(sizeof(float));
    group.dispatch({.index = layer.ranks.layer,
                    .last = layer.ranks.last,
                    .slots_per_rank = static_cast<int>(layer.slots.size()),
                    .output_bytes = row_bytes},
                   moe_batch_,
                   {rows > 0 ? bytes(address(x)) : nullptr, x.stride * std::int64_t{sizeof(float)}, rows, row_bytes});
    if (layer.shared != nullptr && rows > 0) {
      mlp(rows, x, *layer.shared, y);
      combine.shared = address(y);
      combine.ld_shared = y.stride;
    }
    const RankGroup::Inputs& inputs = group.receive_rows(layer.ranks.logical_of_own_slots);
    reserve(gathered_, static_cast<std::int64_t>(inputs.rows()) * hidden);
    for_rows(inputs.rows(), hidden, [&](int begin, int end) {
      group.gather(begin, end, bytes(gathered_.data() + static_cast<std::int64_t>(begin) * hidden));
    });
    run_experts(layer, inputs.slot_offsets, inputs.active_slots, nullptr, 0, hidden);
    group.return_outputs(bytes(expert_out_.data()));
    reserve(returned_, static_cast<std::int64_t>(rows) * layer.gate.top_k * hidden);
    group.collect(bytes(returned_.data()));
    combine.expert_out = returned_.data();
  }

  // expert_out_ = each active slot's expert of its rows of gathered_, and the shared expert of the rows behind them.
  void run_experts(const MoeLayer& layer, std::span<const std::int32_t> slot_offsets,
                   std::span<const std::int32_t> active_slots, const CpuMlp* shared, int shared_rows, int hidden) {
    const int entries = slot_offsets.back();
    const auto for_each_mlp = [&](const auto& visit) {
      if (shared_rows > 0) visit(*shared, entries, entries + shared_rows);
      for (const std::int32_t slot : active_slots) {
        visit(static_cast<const CpuMlp&>(*layer.slots[static_cast<std::size_t>(slot)]),
              slot_offsets[static_cast<std::size_t>(slot)], slot_offsets[static_cast<std::size_t>(slot) + 1]);
      }
    };
    int width = 0, gate_up_width = 0;
    for_each_mlp([&](const CpuMlp& w, int, int) {
      width = std::max(width, w.width);
      gate_up_width = std::max(gate_up_width, w.gate_up.n());
    });
    const std::int64_t all = entries + shared_rows;
    reserve(gate_up_out_, all * gate_up_width);
    reserve(activated_, all * width);
    reserve(expert_out_, all * hidden);
    mlp_tasks_.clear();
    for_each_mlp([&](const CpuMlp& w, int begin, int end) { add_gate_up_tasks(w, begin, end); });
    run_gate_up(gathered_.data(), hidden, gate_up_width, width);
    mlp_tasks_.clear();
    for_each_mlp([&](const CpuMlp& w, int begin, int end) { add_gemm_tasks(w, w.down, begin, end); });
    run_down(width, hidden);
  }

  // Tasks over panel pairs of an MLP's first GEMM for batch rows [begin, end).
  void add_gate_up_tasks(const CpuMlp& w, int begin, int end) {
    const int pairs = w.gate_up.panels() / 2;
    const int grain = gemm_panels_per_task(w.gate_up, end - begin, pool_.size()) / 2;
    for (int pair = 0; pair < pairs; pair += grain) {
      mlp_tasks_.push_back({&w, begin, end, pair, std::min(pair + grain, pairs)});
    }
  }
  void add_gemm_tasks(const CpuMlp& w, const PackedMatrix& matrix, int begin, int end) {
    const int grain = gemm_panels_per_task(matrix, end - begin, pool_.size());
    for (int panel = 0; panel < matrix.panels(); panel += grain) {
      mlp_tasks_.push_back({&w, begin, end, panel, std::min(panel + grain, matrix.panels())});
    }
  }

  // activated_ = silu(gate) * up for all mlp_tasks_. x: one row for each batch row.
  void run_gate_up(const float* x, std::int64_t ldx, int gate_up_width, int width) {
    pool_.parallel_for(static_cast<int>(mlp_tasks_.size()), [&](int index, int) {
      const MlpTask& task = mlp_tasks_[static_cast<std::size_t>(index)];
      float* gate_up = gate_up_out_.data() + static_cast<std::int64_t>(task.begin) * gate_up_width;
      const GemmCall gemm{.a = x + task.begin * ldx,
                          .lda = ldx,
                          .m = task.end - task.begin,
                          .w = &task.w->gate_up,
                          .c = gate_up,
                          .ldc = gate_up_width};
      ops_.gemm(gemm, 2 * task.first, 2 * task.last);
      const SiluMulCall silu{.gate_up = gate_up,
                             .ld_gate_up = gate_up_width,
                             .out = activated_.data() + static_cast<std::int64_t>(task.begin) * width,
                             .ld_out = width,
                             .width = task.w->width,
                             .rows = task.end - task.begin};
      ops_.silu_mul(silu, task.first, task.last);
    });
  }

  // expert_out_ = W_down activated_ for all mlp_tasks_.
  void run_down(int width, int hidden) {
    pool_.parallel_for(static_cast<int>(mlp_tasks_.size()), [&](int index, int) {
      const MlpTask& task = mlp_tasks_[static_cast<std::size_t>(index)];
      const GemmCall gemm{.a = activated_.data() + static_cast<std::int64_t>(task.begin) * width,
                          .lda = width,
                          .m = task.end - task.begin,
                          .w = &task.w->down,
                          .c = expert_out_.data() + static_cast<std::int64_t>(task.begin) * hidden,
                          .ldc = hidden};
      ops_.gemm(gemm, task.first, task.last);
    });
  }

  const CpuOps& ops_;
  ThreadPool pool_;
  std::vector<AlignedBuffer<float>> thread_scratch_;
  std::uint64_t allocations_ = 0;
  std::vector<SamplerScratch> sampler_scratch_;

  std::vector<const std::uint32_t*> row_blocks_;
  std::vector<AttentionSequence> attention_sequences_;
  std::vector<MlaAttentionCall> attention_calls_;
  AttentionPlan attention_plan_;
  std::vector<float*> scratch_pointers_;

  AlignedBuffer<float> gate_logits_;
  std::vector<std::int32_t> expert_ids_;
  AlignedBuffer<float> expert_weights_;
  MoeBatch moe_batch_;
  std::vector<MlpTask> mlp_tasks_;
  AlignedBuffer<float> gathered_;
  AlignedBuffer<float> gate_up_out_;
  AlignedBuffer<float> activated_;
  AlignedBuffer<float> expert_out_;
  AlignedBuffer<float> returned_;
};

}  // namespace

std::unique_ptr<Backend> make_cpu_backend(Isa isa, int threads) { return std::make_unique<CpuBackend>(isa, threads); }

}  // namespace pelagic
