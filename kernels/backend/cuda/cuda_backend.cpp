// The CUDA backend: the graph's ops as kernels on one stream. Activations are bf16, the residual stream and the logits
// float32. Nothing waits for the card before finish().
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "backend/cuda/cuda_plugin.h"
#include "backend/cuda/event_thread.h"
#include "backend/cuda/fp8_weights.h"
#include "backend/cuda/objects.h"
#include "backend/cuda/open_route.h"
#include "backend/cuda/rank_row_kernels.h"
#include "backend/cuda/row_kernels.h"
#include "backend/cuda/step_arguments.h"
#include "base/bfloat16.h"
#include "base/xxh64.h"
#include "cuda/fp8_scale.h"
#include "cuda/launch_order.h"
#include "ops/embedding/embedding_cuda.h"
#include "ops/gate/gate_cuda.h"
#include "ops/gemm/gemm_cuda.h"
#include "ops/grouped_gemm/grouped_gemm_cuda.h"
#include "ops/mla_attention/mla_decode_cuda.h"
#include "ops/mla_attention/mla_prefill_cuda.h"
#include "ops/moe/moe_cuda.h"
#include "ops/quantize/quantize_cuda.h"
#include "ops/rms_norm/rms_norm_cuda.h"
#include "ops/rope/rope.h"
#include "ops/sampler/sampler_cuda.h"
#include "ops/silu_mul/silu_mul_cuda.h"

namespace pelagic::cuda {
namespace {

// MLA decode takes up to so many query rows of a sequence at once: longer runs are cut into groups.
constexpr int kGroupRows = 4;
// Pieces of attention work at once; 131 KB of partial sums each. A step with more goes through them in parts.
constexpr int kMostPieces = 4096;
// Keys expanded at once, though a run's all are: bounds the memory for them.
constexpr int kMostExpandedKeys = 1 << 16;
// MoE layers in a step, and experts in a layer, at most: room for their counts.
constexpr int kMostMoeCalls = 256;
constexpr int kMostExperts = 256;
// Larger steps keep the card busy without a graph.
constexpr int kMostGraphRows = 256;
constexpr std::size_t kMostGraphs = 64;
// Bytes of bf16 weights converted before they are sent to the card.
constexpr std::size_t kUploadBytes = std::size_t{16} << 20;

// The words that kernels set to 1 when an index they were given cannot be right.
constexpr int kErrorWords = 48;
constexpr int kEmbeddingErrorsAt = 0;
constexpr int kRopeErrorsAt = 8;
constexpr int kDecodeErrorsAt = 16;
constexpr int kMoeErrorsAt = 24;
constexpr int kPrefillErrorsAt = 32;
constexpr int kGatherErrorsAt = 40;

void* address(View view) {
  const auto& activations = static_cast<const CudaActivations&>(*view.memory);
  return activations.memory.get<char>() + view.offset * row_type_bytes(activations.type);
}
RowType type_of(View view) { return static_cast<const CudaActivations&>(*view.memory).type; }
const float* values(const Vector& vector) { return static_cast<const CudaVector&>(vector).memory.get<float>(); }

// Writes rows of k float32 numbers as bf16, from `to` on.
void upload_bf16(void* to, int rows, int k, const std::function<void(int, float*)>& row_source) {
  const std::size_t width = static_cast<std::size_t>(k);
  const int rows_at_once = std::max(1, static_cast<int>(kUploadBytes / 2 / width));
  std::vector<float> row(width);
  std::vector<bfloat16_bits> part(width * static_cast<std::size_t>(std::min(rows, rows_at_once)));
  for (int first = 0; first < rows; first += rows_at_once) {
    const int count = std::min(rows_at_once, rows - first);
    for (int i = 0; i < count; ++i) {
      row_source(first + i, row.data());
      std::transform(row.begin(), row.end(), part.begin() + static_cast<std::ptrdiff_t>(width) * i, f32_to_bf16);
    }
    upload(static_cast<bfloat16_bits*>(to) + width * static_cast<std::size_t>(first), part.data(),
           width * static_cast<std::size_t>(count) * sizeof(bfloat16_bits));
  }
}

std::size_t elements(int a, int b, int c = 1) {
  return static_cast<std::size_t>(a) * static_cast<std::size_t>(b) * static_cast<std::size_t>(c);
}

// What a library or the driver throws is the GPU's failure too.
template <typename Fn>
decltype(auto) guarded(const char* what, const Fn& fn) {
  try {
    return fn();
  } catch (const std::invalid_argument& error) {
    throw Error(ErrorCode::argument, std::string("the CUDA backend: ") + what + ": " + error.what());
  } catch (const Error&) {
    throw;
  } catch (const std::runtime_error& error) {
    throw Error(ErrorCode::device,
                std::string("the GPU failed at ") + what + ": " + error.what() + "; the process must be restarted");
  }
}

// Groups of up to kGroupRows rows of a run: what MLA decode calls sequences.
struct RowGroups {
  const std::int32_t* block_table;  // [groups, max_blocks]
  const std::int32_t* row_offsets;  // [groups + 1]
  const std::int32_t* lengths;      // [groups]: keys that its last row sees
  std::vector<std::int32_t> host_offsets;
  std::vector<std::int32_t> host_lengths;
  int groups() const { return static_cast<int>(host_lengths.size()); }
};

// Runs whose keys are expanded at once.
struct ExpandedRuns {
  int first_run, runs;
  int first_row, rows;
  int keys;
  const std::int32_t* row_offsets;  // [runs + 1], from 0 on
  const std::int32_t* key_offsets;  // [runs + 1]
};

// A RowSet on the card, for one step.
struct DeviceRows {
  const std::int32_t* positions;    // [rows]
  const std::int32_t* row_runs;     // [rows]
  const std::int32_t* block_table;  // [runs, max_blocks]
  int max_blocks;
  std::optional<RowGroups> groups;     // once attend() has asked
  std::vector<ExpandedRuns> expanded;  // once attend_expanded() has
};

// Rows in e4m3: [rows, columns], and a scale for each row and 128 columns: [ceil(columns / 128), ld_scales].
struct Fp8RowsView {
  const void* data;
  const float* scales;
  std::int64_t ld_scales;
};

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(CudaWeights weights) : fp8_(weights == CudaWeights::fp8) {
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
    int least = 0, greatest = 0;
    check(cudaDeviceGetStreamPriorityRange(&least, &greatest), "cudaDeviceGetStreamPriorityRange");
    // Latents leave beside the step: first come, first served would have them wait for it.
    check(cudaStreamCreateWithPriority(&copy_stream_, cudaStreamNonBlocking, greatest), "cudaStreamCreate");
    device_errors_.grow(kErrorWords * sizeof(std::int32_t));
    host_errors_.grow(kErrorWords * sizeof(std::int32_t));
    device_counts_.grow(elements(kMostMoeCalls, kMostExperts) * sizeof(std::int32_t));
    host_counts_.grow(device_counts_.bytes());
    gate_workspace_.grow(kGateCudaWorkspace * sizeof(std::uint32_t));
    check(cudaMemset(device_errors_.get(), 0, device_errors_.bytes()), "cudaMemset");
    check(cudaMemset(gate_workspace_.get(), 0, gate_workspace_.bytes()), "cudaMemset");
    check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  }

  ~CudaBackend() override {
    cancel();
    drop_graphs();
    route_.reset();
    cudaStreamDestroy(stream_);
    cudaStreamDestroy(copy_stream_);
  }

  void check_model(const MlaShape& shape, const KvLayout& layout) override {
    heads_ = shape.heads;
    const auto refuse = [](const std::string& what) { throw Error(ErrorCode::argument, "the CUDA backend " + what); };
    if (layout.dtype == KvDtype::float32) refuse("has no float32 latents: kvDtype must be \"bfloat16\" or \"fp8\"");
    if (layout.kv_rank != kLatentCudaColumns)
      refuse("needs kv_lora_rank 512; this model has " + std::to_string(layout.kv_rank));
    if (layout.rope_dim != kRopeCudaColumns)
      refuse("needs qk_rope_head_dim 64; this model has " + std::to_string(layout.rope_dim));
    if (shape.heads > 128) refuse("takes at most 128 heads; this model has " + std::to_string(shape.heads));
    if (shape.nope_dim % 8 != 0 || shape.value_dim % 8 != 0)
      refuse("needs qk_nope_head_dim and v_head_dim that are multiples of 8");
  }

  // ---- Memory and weights.

  std::unique_ptr<Activations> make_activations(std::size_t count, Precision precision) override {
    drop_graphs();
    return std::make_unique<CudaActivations>(count,
                                             precision == Precision::full ? RowType::float32 : RowType::bfloat16);
  }

  std::unique_ptr<Vector> make_vector(std::span<const float> data) override {
    auto vector = std::make_unique<CudaVector>();
    vector->size = static_cast<int>(data.size());
    vector->memory.grow(data.size_bytes());
    upload(vector->memory.get(), data.data(), data.size_bytes());
    return vector;
  }

  std::unique_ptr<Matrix> make_matrix(int n, int k, const RowSource& rows) override {
    auto matrix = std::make_unique<CudaMatrix>();
    matrix->n = n;
    matrix->k = k;
    matrix->memory.grow(elements(n, k) * sizeof(bfloat16_bits));
    upload_bf16(matrix->memory.get(), n, k, rows);
    gemm({n, k, 1, RowType::bfloat16});
    return matrix;
  }

  std::unique_ptr<Matrix> make_projection(int n, int k, const RowSource& rows) override {
    if (!fp8_) return make_matrix(n, k, rows);
    check_fp8_shape(n, k);
    auto matrix = std::make_unique<CudaMatrix>();
    matrix->n = n;
    matrix->k = k;
    matrix->memory.grow(elements(n, k));
    matrix->scales.grow(elements(fp8_blocks(n), fp8_blocks(k)) * sizeof(float));
    upload_fp8(matrix->memory.get<std::uint8_t>(), matrix->scales.get<float>(), n, k, k, rows);
    return matrix;
  }

  std::unique_ptr<Matrix> make_gate_matrix(int n, int k, const RowSource& rows) override {
    auto matrix = std::make_unique<CudaMatrix>();
    matrix->n = n;
    matrix->k = k;
    std::vector<float> all(elements(n, k));
    for (int row = 0; row < n; ++row) rows(row, all.data() + elements(row, k));
    matrix->memory.grow(all.size() * sizeof(float));
    upload(matrix->memory.get(), all.data(), all.size() * sizeof(float));
    return matrix;
  }

  std::unique_ptr<HeadMatrices> make_head_matrices(int heads, int n, int k, const HeadRowSource& rows) override {
    auto matrices = new_head_matrices(heads, n, k);
    upload_bf16(matrices->memory.get(), heads * n, k, [&](int row, float* out) { rows(row / n, row % n, out); });
    return matrices;
  }

  std::unique_ptr<HeadMatrices> make_head_matrices_transposed(int heads, int n, int k,
                                                              const HeadRowSource& rows) override {
    auto matrices = new_head_matrices(heads, n, k);
    std::vector<float> transposed(elements(k, n));
    int loaded = -1;
    upload_bf16(matrices->memory.get(), heads * n, k, [&](int row, float* out) {
      const int head = row / n;
      if (head != loaded) {
        for (int i = 0; i < k; ++i) rows(head, i, transposed.data() + elements(i, n));
        loaded = head;
      }
      for (int i = 0; i < k; ++i) out[i] = transposed[elements(i, n) + static_cast<std::size_t>(row % n)];
    });
    return matrices;
  }

  std::unique_ptr<Mlp> make_mlp(int width, int hidden, const RowSource& gate, const RowSource& up,
                                const RowSource& down) override {
    auto mlp = std::make_unique<CudaMlp>();
    fill_bank(mlp->own, 1, width, hidden);
    fill_slot(*mlp, mlp->own, 0, width, gate, up, down);
    if (mlp->fp8()) return mlp;
    gemm({2 * width, hidden, 1, RowType::bfloat16});
    gemm({hidden, width, 1, RowType::bfloat16});
    return mlp;
  }

  std::unique_ptr<MlpBank> make_mlp_bank(int slots, int width, int hidden) override {
    auto bank = std::make_unique<CudaMlpBank>();
    fill_bank(*bank, slots, width, hidden);
    return bank;
  }

  std::unique_ptr<Mlp> make_expert(MlpBank* bank, int slot, int width, int hidden, const RowSource& gate,
                                   const RowSource& up, const RowSource& down) override {
    auto mlp = std::make_unique<CudaMlp>();
    if (bank == nullptr) fill_bank(mlp->own, 1, width, hidden);
    fill_slot(*mlp, bank != nullptr ? static_cast<CudaMlpBank&>(*bank) : mlp->own, slot, width, gate, up, down);
    return mlp;
  }

  void arrange_bank(MlpBank* mlp_bank, std::span<const std::unique_ptr<Mlp>> slots) override {
    const auto& bank = static_cast<const CudaMlpBank&>(*mlp_bank);
    std::vector<std::pair<CudaMlp*, int>> displaced;
    for (std::size_t slot = 0; slot < slots.size(); ++slot) {
      auto* mlp = static_cast<CudaMlp*>(slots[slot].get());
      if (mlp != nullptr && mlp->gate_up != bank.slot(static_cast<int>(slot)).gate_up)
        displaced.push_back({mlp, static_cast<int>(slot)});
    }
    // Those inside of the bank leave it first: their new places are others' old ones.
    for (const auto& [mlp, slot] : displaced) {
      if (mlp->own.slots > 0) continue;
      CudaMlpBank own;
      fill_bank(own, 1, bank.width, bank.hidden);
      move_mlp(*mlp, own, 0);
      mlp->own = std::move(own);
    }
    for (const auto& [mlp, slot] : displaced) move_mlp(*mlp, bank, slot);
    check(cudaStreamSynchronize(cudaStreamLegacy), "a copy of experts");
    for (const auto& [mlp, slot] : displaced) mlp->own = CudaMlpBank();
  }

  std::unique_ptr<Embedding> make_embedding(int vocab, int hidden, const RowSource& rows) override {
    if (hidden % 8 != 0)
      throw Error(ErrorCode::argument, "the CUDA backend needs a hidden_size that is a multiple of 8");
    if (vocab % 4 != 0 || vocab > kMostSamplerCudaVocab)
      throw Error(ErrorCode::argument, "the CUDA backend needs a vocab_size that is a multiple of 4 and at most " +
                                           std::to_string(kMostSamplerCudaVocab));
    auto embedding = std::make_unique<CudaEmbedding>();
    embedding->vocab = vocab;
    embedding->hidden = hidden;
    embedding->memory.grow(elements(vocab, hidden) * sizeof(bfloat16_bits));
    upload_bf16(embedding->memory.get(), vocab, hidden, rows);
    return embedding;
  }

  std::unique_ptr<RopeAngles> make_rope(std::span<const double> frequencies, int positions, double amplitude) override {
    const RopeTable table(frequencies, positions, amplitude);
    auto angles = std::make_unique<CudaRopeAngles>();
    angles->positions = positions;
    const std::size_t bytes = elements(positions, kRopeCudaColumns / 2) * sizeof(float);
    angles->memory.grow(2 * bytes);
    upload(angles->memory.get(), table.cos_row(0), bytes);
    upload(angles->memory.get<char>() + bytes, table.sin_row(0), bytes);
    return angles;
  }

  std::unique_ptr<KvCache> make_kv_cache(const KvLayout& layout) override {
    tune_gemms();
    auto cache = std::make_unique<CudaKvCache>(layout);
    check(cudaMemset(cache->memory.get(), 0, cache->memory.bytes()), "cudaMemset");
    check(cudaDeviceSynchronize(), "loading");  // whatever thread sent what
    return cache;
  }

  // ---- Ops.

  void embed(const Embedding& embedding, std::span<const std::uint32_t> tokens, View y) override {
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

  // With FP8 weights the rows go out in e4m3 too: the norms' readers are GEMMs.
  void rms_norm(int rows, View x, View delta, const Vector& weight, float eps, View y) override {
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

  void linear(int rows, View x, const Matrix& w, View y) override {
    const auto& matrix = static_cast<const CudaMatrix&>(w);
    const bool beside = beside_compression(rows, x, y, matrix);
    const std::optional<PendingStore> store = beside ? std::exchange(pending_store_, std::nullopt) : std::nullopt;
    if (matrix.fp8()) {
      const Fp8RowsView in = fp8_of(rows, x, matrix.k);
      fp8_gemm(rows, matrix.n, matrix.k, in, matrix.memory.get(), matrix.scales.get<float>(), written(y), y.stride,
               beside);
    } else {
      run_gemm({matrix.n, matrix.k, 1, type_of(y)}, {.rows = rows,
                                                     .x = address(x),
                                                     .ldx = x.stride,
                                                     .w = matrix.memory.get(),
                                                     .y = written(y),
                                                     .ldy = y.stride,
                                                     .beside = beside});
    }
    if (beside) pending_store_ = store;
  }

  void head_linear(int rows, View x, const HeadMatrices& w, View y) override {
    const auto& matrices = static_cast<const CudaHeadMatrices&>(w);
    head_gemm(rows, x, matrices.k, matrices, y, matrices.n);
  }

  void store_latents(const RowSet& rows, View compressed, const Vector& norm, float eps, const RopeAngles& rope,
                     KvCache& cache, int layer) override {
    const auto& kv = static_cast<const CudaKvCache&>(cache);
    const DeviceRows& device = device_rows(rows);
    launch_pending_store();
    pending_store_ = {{.rows = rows.rows(),
                       .eps = eps,
                       .table = static_cast<const CudaRopeAngles&>(rope).table(),
                       .compressed = address(compressed),
                       .ld_compressed = compressed.stride,
                       .weight = values(norm),
                       .row_positions = device.positions,
                       .row_sequences = device.row_runs,
                       .block_table = device.block_table,
                       .sequences = static_cast<int>(rows.runs.size()),
                       .max_blocks = device.max_blocks,
                       .cache = kv.layer(layer),
                       .cache_blocks = kv.layout.blocks,
                       .errors = errors(kRopeErrorsAt),
                       .cache_dtype = kv.layout.dtype},
                      compressed.memory,
                      last_is_gemm_};
  }

  void absorb_queries(const RowSet& rows, const MlaShape& shape, View q, const HeadMatrices& uk, const RopeAngles& rope,
                      View absorbed) override {
    const int query_dim = shape.nope_dim + shape.rope_dim;
    const int latent_width = shape.kv_rank + shape.rope_dim;
    const DeviceRows& device = device_rows(rows);
    const std::optional<PendingStore> store = std::exchange(pending_store_, std::nullopt);
    head_gemm(rows.rows(), q, query_dim, static_cast<const CudaHeadMatrices&>(uk), absorbed, latent_width);
    // Beside the GEMM, which writes the other columns.
    const RopeCudaCall call = {.rows = rows.rows(),
                               .heads = shape.heads,
                               .table = static_cast<const CudaRopeAngles&>(rope).table(),
                               .row_positions = device.positions,
                               .x = static_cast<const bfloat16_bits*>(address(q)) + shape.nope_dim,
                               .x_row_stride = q.stride,
                               .x_head_stride = query_dim,
                               .y = static_cast<bfloat16_bits*>(written(absorbed)) + shape.kv_rank,
                               .y_row_stride = absorbed.stride,
                               .y_head_stride = latent_width,
                               .errors = errors(kRopeErrorsAt),
                               .beside = true};
    launch("rope", [&] {
      return store.has_value() ? rope_and_store_cuda(call, store->call, stream_) : rope_cuda(call, stream_);
    });
  }

  void attend(const RowSet& rows, const MlaShape& shape, View absorbed, float scale, const KvCache& cache, int layer,
              View u) override {
    const auto& kv = static_cast<const CudaKvCache&>(cache);
    DeviceRows& device = device_rows(rows);
    if (!device.groups) device.groups = row_groups(rows, device);
    const RowGroups& groups = *device.groups;
    const auto pieces_of = [&](int group) {
      const auto g = static_cast<std::size_t>(group);
      return mla_decode_pieces(groups.host_offsets[g + 1] - groups.host_offsets[g], shape.heads, groups.host_lengths[g],
                               mla_decode_cut_tokens(shape.heads));
    };
    for (int first = 0; first < groups.groups();) {
      int pieces = pieces_of(first);
      int end = first + 1;
      for (; end < groups.groups() && pieces + pieces_of(end) <= kMostPieces; ++end) pieces += pieces_of(end);
      const int capacity = piece_capacity(pieces);
      reserve(attention_workspace_, mla_decode_workspace_bytes(capacity));
      const MlaDecodeProblem problem = {
          .rows = rows.rows(),
          .heads = shape.heads,
          .sequences = end - first,
          .max_blocks = device.max_blocks,
          .cache_blocks = kv.layout.blocks,
          .cut_tokens = mla_decode_cut_tokens(shape.heads),
          .piece_capacity = capacity,
          .scale = scale,
          .q = address(absorbed),
          .cache = kv.layer(layer),
          .block_table = groups.block_table + static_cast<std::int64_t>(first) * device.max_blocks,
          .row_offsets = groups.row_offsets + first,
          .lengths = groups.lengths + first,
          .out = written(u),
          .workspace = attention_workspace_.get(),
          .errors = errors(kDecodeErrorsAt),
          .cache_dtype = kv.layout.dtype};
      // One list of pieces serves all layers of a step that goes through in one part.
      const bool listed = first == 0 && end == groups.groups() && scheduled_ == &device;
      scheduled_ = first == 0 && end == groups.groups() ? &device : nullptr;
      launch("MLA decode", [&] {
        const MlaDecodePlan plan = guarded("MLA decode", [&] { return make_mla_decode_plan(problem); });
        const cudaError_t error = listed ? cudaSuccess : launch_mla_decode_schedule(plan, stream_);
        return error == cudaSuccess ? launch_mla_decode(plan, stream_) : error;
      });
      first = end;
    }
  }

  bool expands_prompts(const MlaShape& shape) const override {
    return shape.nope_dim == kMlaPrefillNope && shape.rope_dim == kMlaPrefillRope &&
           shape.value_dim == kMlaPrefillValue && shape.kv_rank == kLatentCudaColumns;
  }

  void attend_expanded(const RowSet& rows, const MlaShape& shape, View q, const Matrix& ukv, const RopeAngles& rope,
                       float scale, const KvCache& cache, int layer, View values) override {
    const auto& kv = static_cast<const CudaKvCache&>(cache);
    const auto& weights = static_cast<const CudaMatrix&>(ukv);
    DeviceRows& device = device_rows(rows);
    if (device.expanded.empty()) plan_expanded(rows, device);
    bfloat16_bits* queries = static_cast<bfloat16_bits*>(written(q));
    bfloat16_bits* out = static_cast<bfloat16_bits*>(written(values));
    launch("rope", [&] {
      return rope_cuda({.rows = rows.rows(),
                        .heads = shape.heads,
                        .table = static_cast<const CudaRopeAngles&>(rope).table(),
                        .row_positions = device.positions,
                        .x = queries + shape.nope_dim,
                        .x_row_stride = q.stride,
                        .x_head_stride = kMlaPrefillQuery,
                        .y = queries + shape.nope_dim,
                        .y_row_stride = q.stride,
                        .y_head_stride = kMlaPrefillQuery,
                        .errors = errors(kRopeErrorsAt)},
                       stream_);
    });
    for (const ExpandedRuns& part : device.expanded) {
      reserve(key_latents_, elements(part.keys, kLatentCudaColumns) * 2);
      reserve(key_rope_, elements(part.keys, kRopeCudaColumns) * 2);
      reserve(expanded_keys_, elements(part.keys, weights.n) * 2);
      launch("the gathering of latents", [&] {
        return gather_latents_cuda(
            {.keys = part.keys,
             .runs = part.runs,
             .max_blocks = device.max_blocks,
             .cache_blocks = kv.layout.blocks,
             .key_offsets = part.key_offsets,
             .block_table = device.block_table + static_cast<std::int64_t>(part.first_run) * device.max_blocks,
             .cache = kv.layer(layer),
             .cache_dtype = kv.layout.dtype,
             .latents = key_latents_.get(),
             .rope = key_rope_.get(),
             .error = errors(kGatherErrorsAt)},
            stream_);
      });
      for (int first = 0; first < part.keys; first += kMostExpandedKeys) {
        run_gemm({weights.n, weights.k, 1, RowType::bfloat16},
                 {.rows = std::min(kMostExpandedKeys, part.keys - first),
                  .x = key_latents_.get<bfloat16_bits>() + elements(first, kLatentCudaColumns),
                  .ldx = kLatentCudaColumns,
                  .w = weights.memory.get(),
                  .y = expanded_keys_.get<bfloat16_bits>() + elements(first, weights.n),
                  .ldy = weights.n});
      }
      launch("MLA prefill", [&] {
        return launch_mla_prefill(guarded("MLA prefill",
                                          [&] {
                                            return make_mla_prefill_plan({.rows = part.rows,
                                                                          .keys = part.keys,
                                                                          .heads = shape.heads,
                                                                          .sequences = part.runs,
                                                                          .scale = scale,
                                                                          .q = queries + part.first_row * q.stride,
                                                                          .kv = expanded_keys_.get(),
                                                                          .k_rope = key_rope_.get(),
                                                                          .row_offsets = part.row_offsets,
                                                                          .key_offsets = part.key_offsets,
                                                                          .out = out + part.first_row * values.stride,
                                                                          .errors = errors(kPrefillErrorsAt)});
                                          }),
                                  stream_);
      });
    }
  }

  void mlp(int rows, View x, const Mlp& w, View y) override {
    const auto& mlp = static_cast<const CudaMlp&>(w);
    mlp_up(rows, x, mlp);
    mlp_silu_mul(rows, mlp);
    mlp_down(rows, mlp, written(y), y.stride);
  }

  void moe(int rows, View x, const MoeLayer& layer, View y, std::span<std::uint32_t> counts) override {
    if (layer.ranks.group != nullptr) return moe_on_ranks(rows, x, layer, y, counts);
    if (rows == 0) return;
    const auto& gate = static_cast<const CudaMatrix&>(*layer.gate_weights);
    const auto& bank = static_cast<const CudaMlpBank&>(*layer.bank);
    const int experts = layer.gate.experts;
    const int top_k = layer.gate.top_k;
    const int entries = rows * top_k;
    if (experts > kMostExperts || moe_calls_ >= kMostMoeCalls)
      throw Error(ErrorCode::argument, "the CUDA backend takes at most 256 experts in 256 layers");

    // The shared experts beside the choice of the others, step by step: each waits for all before but its neighbour.
    const auto* shared_mlp = static_cast<const CudaMlp*>(layer.shared);
    const bool fp8 = bank.fp8();
    const Fp8RowsView in = fp8 ? fp8_of(rows, x, bank.hidden) : Fp8RowsView{};
    const bool beside = shared_mlp != nullptr;
    if (beside) {
      reserve(shared_out_, elements(rows, bank.hidden) * 2);
      mlp_up(rows, x, *shared_mlp);
    }
    reserve(gate_logits_, elements(rows, experts) * sizeof(float));
    launch("the gate's logits", [&] {
      return gemm_f32_cuda({.rows = rows,
                            .n = experts,
                            .k = gate.k,
                            .x = address(x),
                            .ldx = x.stride,
                            .w = gate.memory.get<float>(),
                            .y = gate_logits_.get<float>(),
                            .ldy = experts,
                            .beside = beside},
                           stream_);
    });
    // Ids, weights and places of all choices, and the experts' offsets.
    reserve(choices_, elements(entries, 3) * 4 + (elements(experts, 1) + 2 * elements(bank.slots, 1) + 2) * 4);
    std::int32_t* ids = choices_.get<std::int32_t>();
    float* weights = reinterpret_cast<float*>(ids + entries);
    std::int32_t* positions = ids + 2 * static_cast<std::int64_t>(entries);
    std::int32_t* expert_offsets = positions + entries;
    std::int32_t* slot_counts = expert_offsets + experts + 1;
    std::int32_t* slot_offsets = slot_counts + bank.slots;
    const std::size_t counts_at = elements(moe_calls_++, kMostExperts);
    GateConfig config = layer.gate;
    config.bias = layer.gate_bias != nullptr ? values(*layer.gate_bias) : nullptr;
    if (beside) mlp_silu_mul(rows, *shared_mlp);
    launch("the gate", [&] {
      return gate_cuda({.config = config,
                        .logits = gate_logits_.get<float>(),
                        .ld_logits = experts,
                        .rows = rows,
                        .ids = ids,
                        .weights = weights,
                        .counts = device_counts_.get<std::int32_t>() + counts_at,
                        .offsets = expert_offsets,
                        .workspace = gate_workspace_.get<std::uint32_t>(),
                        .beside = beside},
                       gate_cuda_path_for(rows), stream_);
    });
    after_.push_back([this, counts, counts_at] {
      const std::int32_t* from = host_counts_.get<std::int32_t>() + counts_at;
      for (std::size_t e = 0; e < counts.size(); ++e) counts[e] += static_cast<std::uint32_t>(from[e]);
    });

    MoeSortCudaCall sort = {.rows = rows,
                            .top_k = top_k,
                            .experts = experts,
                            .slots = bank.slots,
                            .row_capacity = 0,
                            .ids = ids,
                            .slot_begin = nullptr,
                            .slots_by_expert = nullptr,
                            .positions = positions,
                            .slot_counts = slot_counts,
                            .slot_offsets = slot_offsets,
                            .errors = errors(kMoeErrorsAt),
                            .beside = beside};
    send_placement(*layer.placement, sort);
    if (beside) mlp_down(rows, *shared_mlp, shared_out_.get(), bank.hidden);
    launch("the sort by expert", [&] { return moe_sort_cuda(sort, stream_); });

    const std::size_t bytes = fp8 ? 1 : 2;  // of an element that a GEMM reads
    const int hidden_blocks = fp8 ? fp8_blocks(bank.hidden) : 0;
    const int width_blocks = fp8 ? fp8_blocks(bank.width) : 0;
    reserve(expert_in_, elements(entries, bank.hidden) * bytes);
    reserve(expert_scales_, elements(entries, std::max(hidden_blocks, width_blocks)) * sizeof(float));
    reserve(gate_up_, elements(entries, 2 * bank.width) * 2);
    reserve(activated_, elements(entries, bank.width) * bytes);
    reserve(expert_out_, elements(entries, bank.hidden) * 2);
    float* scales = expert_scales_.get<float>();
    launch("dispatch", [&] {
      return moe_dispatch_cuda({.rows = rows,
                                .top_k = top_k,
                                .row_bytes = static_cast<int>(static_cast<std::size_t>(bank.hidden) * bytes),
                                .positions = positions,
                                .x = fp8 ? in.data : address(x),
                                .ldx_bytes = fp8 ? bank.hidden : x.stride * 2,
                                .out = expert_in_.get(),
                                .scale_blocks = hidden_blocks,
                                .x_scales = in.scales,
                                .ld_x_scales = in.ld_scales,
                                .out_scales = scales,
                                .ld_out_scales = entries},
                               stream_);
    });
    grouped_gemm(rows, top_k, bank.slots, 2 * bank.width, bank.hidden, slot_offsets,
                 {expert_in_.get(), scales, entries}, bank.gate_up.get(), bank.gate_up_scales.get<float>(),
                 gate_up_.get());
    silu_mul(bank.width, entries, slot_offsets + bank.slots, gate_up_, activated_, fp8 ? scales : nullptr);
    grouped_gemm(rows, top_k, bank.slots, bank.hidden, bank.width, slot_offsets, {activated_.get(), scales, entries},
                 bank.down.get(), bank.down_scales.get<float>(), expert_out_.get());

    launch("combine", [&] {
      return moe_combine_cuda({.rows = rows,
                               .top_k = top_k,
                               .width = bank.hidden,
                               .positions = positions,
                               .weights = weights,
                               .expert_out = expert_out_.get(),
                               .shared = beside ? shared_out_.get() : nullptr,
                               .ld_shared = bank.hidden,
                               .y = written(y),
                               .y_type = type_of(y),
                               .ldy = y.stride},
                              stream_);
    });
  }

  bool shares_experts() const override { return true; }

  void meet(RankGroup& group) override {
    drop_graphs();
    route_ = open_route(group, stream_, [this](std::span<const std::uint32_t> values) { return send(values); });
  }

  void gather(std::span<const std::uint32_t> rows, View x, int width, View y) override {
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

  void when_done(const std::function<void()>& fn) override {
    launch_pending_store();
    events_.when_done(stream_, fn);
  }

  void digest_rows(int rows, View x, int width, std::span<std::uint64_t> digests) override {
    const float* copied = host_rows(rows, x, width);
    after_.push_back([copied, width, digests] {
      for (std::size_t i = 0; i < digests.size(); ++i) {
        const std::size_t count = static_cast<std::size_t>(width);
        digests[i] = xxh64(copied + i * count, count * sizeof(float));
      }
    });
  }

  void read_rows(int rows, View x, int width, std::span<float> out) override {
    const float* copied = host_rows(rows, x, width);
    after_.push_back([copied, out] { std::copy_n(copied, out.size(), out.data()); });
  }

  // Behind everything else of the step, and in no graph: how much the parameters say differs from step to step.
  void sample(View logits, int vocab, std::span<const std::int32_t> positions,
              std::span<const SamplingParams* const> params, std::span<SampleResult> results) override {
    if (std::none_of(params.begin(), params.end(), [](const SamplingParams* p) { return p != nullptr; })) return;
    sampling_ = {logits, vocab, positions, params, results};
  }

  // A decode step is recorded as a CUDA graph the second time that one of its shape is asked for, and replayed from
  // then on: its ops then do only what they do on the host. Its arguments lie where they lay before, so the graph's
  // copies bring the new ones.
  void begin_step(const StepShape& step) override {
    mode_ = Mode::direct;
    const RowSet& rows = *step.rows;
    if (step.ranks || step.reports_layers || step.expands || step.logit_rows != rows.rows() ||
        rows.rows() > kMostGraphRows || !is_decode(rows))
      return;
    int blocks = 1, pieces = 0;
    for (const RowRun& run : rows.runs) {
      blocks = std::max(blocks, run.first_position / kBlockRows + 1);
      pieces += mla_decode_pieces(1, heads_, run.first_position + 1, mla_decode_cut_tokens(heads_));
    }
    if (pieces > kMostPieces) return;
    graph_key_ = {rows.rows(), table_columns(blocks), piece_capacity(pieces),
                  (step.digests ? 1 : 0) + (step.logits ? 2 : 0)};
    if (graphs_.size() > kMostGraphs) drop_graphs();
    const auto [found, is_new] = graphs_.try_emplace(graph_key_, nullptr);
    if (is_new) return;  // the buffers grow to what it needs
    mode_ = found->second == nullptr ? Mode::record : Mode::replay;
    if (mode_ == Mode::record)
      check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "recording a step");
  }

  void finish() override {
    launch_pending_store();
    if (mode_ == Mode::record) {
      cudaGraph_t graph = nullptr;
      mode_ = Mode::direct;
      check(cudaStreamEndCapture(stream_, &graph), "recording a step");
      cudaGraphExec_t runnable = nullptr;
      const cudaError_t error = cudaGraphInstantiate(&runnable, graph, 0);
      cudaGraphDestroy(graph);
      check(error, "recording a step");
      graphs_[graph_key_] = runnable;
      check(cudaGraphLaunch(runnable, stream_), "a recorded step");
    } else if (mode_ == Mode::replay) {
      mode_ = Mode::direct;
      check(cudaGraphLaunch(graphs_.at(graph_key_), stream_), "a recorded step");
    }
    if (sampling_.has_value()) run_sampling(*sampling_);
    check(cudaMemcpyAsync(host_errors_.get(), device_errors_.get(), host_errors_.bytes(), cudaMemcpyDeviceToHost,
                          stream_),
          "finish");
    if (moe_calls_ > 0) {
      check(cudaMemcpyAsync(host_counts_.get(), device_counts_.get(),
                            elements(moe_calls_, kMostExperts) * sizeof(std::int32_t), cudaMemcpyDeviceToHost, stream_),
            "finish");
    }
    wait("a step");
    events_.drain();
    const std::int32_t* words = host_errors_.get<std::int32_t>();
    for (int i = 0; i < kErrorWords; ++i) {
      if (words[i] == 0) continue;
      throw Error(ErrorCode::device, "the GPU was given an index out of range (error word " + std::to_string(i) +
                                         "); the process must be restarted");
    }
    for (const std::function<void()>& fn : after_) fn();
    forget_step();
  }

  void cancel() override {
    if (mode_ == Mode::record) {
      cudaGraph_t graph = nullptr;
      if (cudaStreamEndCapture(stream_, &graph) == cudaSuccess) cudaGraphDestroy(graph);
    }
    mode_ = Mode::direct;
    if (route_ != nullptr) route_->abort();
    cudaStreamSynchronize(stream_);
    events_.drain();
    forget_step();
  }

  double read_pass(std::span<const BackendObject* const> weights) override {
    struct Part {
      const void* data;
      std::size_t bytes;
    };
    std::vector<Part> parts;
    for (const BackendObject* object : weights) {
      if (const auto* matrix = dynamic_cast<const CudaMatrix*>(object))
        parts.insert(parts.end(),
                     {{matrix->memory.get(), matrix->memory.bytes()}, {matrix->scales.get(), matrix->scales.bytes()}});
      if (const auto* heads = dynamic_cast<const CudaHeadMatrices*>(object))
        parts.push_back({heads->memory.get(), heads->memory.bytes()});
      if (const auto* mlp = dynamic_cast<const CudaMlp*>(object)) {
        parts.push_back({mlp->gate_up, mlp->gate_up_bytes()});
        parts.push_back({mlp->down, mlp->down_bytes()});
      }
    }
    cudaEvent_t begin = nullptr, end = nullptr;
    check(cudaEventCreate(&begin), "cudaEventCreate");
    check(cudaEventCreate(&end), "cudaEventCreate");
    const DeviceMemory sink(sizeof(unsigned));
    check(cudaEventRecord(begin, stream_), "cudaEventRecord");
    for (const Part& part : parts)
      check(read_bytes_cuda(part.data, part.bytes, sink.get<unsigned>(), stream_), "a read pass");
    check(cudaEventRecord(end, stream_), "cudaEventRecord");
    check(cudaEventSynchronize(end), "a read pass");
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, begin, end), "cudaEventElapsedTime");
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    return milliseconds * 1e-3;
  }

  // ---- The cache's rows, on a stream of their own beside the step's.

  std::uint64_t pack_rows(const KvCache& cache, int layer, std::uint32_t block, int first_row, int row_count,
                          std::byte* out) override {
    const auto& kv = static_cast<const CudaKvCache&>(cache);
    const std::size_t bytes = static_cast<std::size_t>(row_count) * kv.layout.row_bytes();
    const std::lock_guard lock(copy_mutex_);
    std::byte* staging = copy_staging(bytes);
    check(cudaMemcpyAsync(staging, kv.memory.get<std::byte>() + kv.layout.offset(layer, block, first_row), bytes,
                          cudaMemcpyDeviceToHost, copy_stream_),
          "a copy of latents");
    check(cudaStreamSynchronize(copy_stream_), "a copy of latents");
    std::memcpy(out, staging, bytes);
    return xxh64(out, bytes);
  }

  std::uint64_t unpack_rows(KvCache& cache, int layer, std::uint32_t block, int first_row, int row_count,
                            const std::byte* data) override {
    const auto& kv = static_cast<const CudaKvCache&>(cache);
    const std::size_t bytes = static_cast<std::size_t>(row_count) * kv.layout.row_bytes();
    const std::lock_guard lock(copy_mutex_);
    std::byte* staging = copy_staging(bytes);
    std::memcpy(staging, data, bytes);
    check(cudaMemcpyAsync(kv.memory.get<std::byte>() + kv.layout.offset(layer, block, first_row), staging, bytes,
                          cudaMemcpyHostToDevice, copy_stream_),
          "a copy of latents");
    const std::uint64_t sum = xxh64(staging, bytes);
    check(cudaStreamSynchronize(copy_stream_), "a copy of latents");
    return sum;
  }

  void copy_block(KvCache& cache, std::uint32_t from, std::uint32_t to) override {
    const auto& kv = static_cast<const CudaKvCache&>(cache);
    std::byte* base = kv.memory.get<std::byte>();
    const std::lock_guard lock(copy_mutex_);
    check(cudaMemcpy2DAsync(base + kv.layout.offset(0, to, 0), kv.layout.layer_bytes(),
                            base + kv.layout.offset(0, from, 0), kv.layout.layer_bytes(), kv.layout.block_bytes(),
                            static_cast<std::size_t>(kv.layout.layers), cudaMemcpyDeviceToDevice, copy_stream_),
          "a copy of a block");
    check(cudaStreamSynchronize(copy_stream_), "a copy of a block");
  }

 private:
  struct Sampling {
    View logits;
    int vocab;
    std::span<const std::int32_t> positions;
    std::span<const SamplingParams* const> params;
    std::span<SampleResult> results;
  };

  // direct: ops are launched as they are asked for. record: into a graph. replay: not at all, a graph has them.
  enum class Mode { direct, record, replay };

  template <typename Fn>
  void launch(const char* what, const Fn& fn) {
    launch_pending_store();
    last_is_gemm_ = false;
    choose_launches();
    if (mode_ != Mode::replay) check(fn(), what);
  }

  // Steps with other ranks stop for copies and for the host all the time: there kernels follow one another. On two
  // cards early ones gave other bits.
  void choose_launches() const { launches_begin_early = route_ == nullptr; }

  template <typename T>
  const T* send(std::span<const T> values) {
    return arguments_.send(values, stream_, mode_ != Mode::replay);
  }

  // Graphs know addresses: none outlives a buffer that moved.
  void drop_graphs() {
    for (const auto& [key, graph] : graphs_)
      if (graph != nullptr) cudaGraphExecDestroy(graph);
    graphs_.clear();
  }

  // One row of each sequence.
  static bool is_decode(const RowSet& rows) { return rows.runs.size() == rows.positions.size(); }
  // Sizes in steps of two, so that a growing sequence seldom needs another graph.
  static int table_columns(int blocks) {
    return static_cast<int>(std::bit_ceil(static_cast<unsigned>(std::max(blocks, 4))));
  }
  static int piece_capacity(int pieces) {
    return static_cast<int>(std::bit_ceil(static_cast<unsigned>(std::max(pieces, kMostPieces / 16))));
  }

  std::int32_t* errors(int at) const { return device_errors_.get<std::int32_t>() + at; }

  // For the stream. With other ranks it may wait for one that is lost: then this throws.
  void wait(const char* what) {
    if (route_ == nullptr) return check(cudaStreamSynchronize(stream_), what);
    route_->wait(what);
  }

  // Buffers grow to the largest step seen and stay; a quarter more, so that a batch that grows row by row seldom
  // allocates. What runs may still use the old one.
  void reserve(DeviceMemory& memory, std::size_t bytes) {
    if (memory.bytes() >= bytes) return;
    if (mode_ == Mode::record) throw Error(ErrorCode::internal, "a recorded step needs more memory than before");
    wait("a step");
    drop_graphs();
    memory.grow(bytes + bytes / 4);
    if (&memory == &attention_workspace_) scheduled_ = nullptr;
  }

  std::byte* copy_staging(std::size_t bytes) {
    if (copy_staging_.bytes() < bytes) copy_staging_.grow(bytes);
    return copy_staging_.get<std::byte>();
  }

  // The one GEMM of a shape.
  GemmCuda& gemm(const GemmCudaShape& shape) {
    const std::tuple key(shape.n, shape.k, shape.batch, shape.out_type);
    const std::lock_guard lock(gemm_mutex_);
    const auto found = gemms_.find(key);
    if (found != gemms_.end()) return found->second;
    return guarded("a dense GEMM", [&]() -> GemmCuda& {
      GemmCuda& made = gemms_.emplace(key, GemmCuda(gemm_library_, shape)).first->second;
      if (is_tuned_) made.tune();
      return made;
    });
  }
  // Once the weights are there: nothing else runs then.
  void tune_gemms() {
    const std::lock_guard lock(gemm_mutex_);
    is_tuned_ = true;
    guarded("a dense GEMM", [&] {
      for (auto& [key, gemm] : gemms_) gemm.tune();
    });
  }
  void run_gemm(const GemmCudaShape& shape, const GemmCudaCall& call) {
    launch_pending_store();
    last_is_gemm_ = !call.beside;
    choose_launches();
    if (mode_ != Mode::replay) guarded("a dense GEMM", [&] { gemm(shape).launch(call, stream_); });
  }

  std::unique_ptr<CudaHeadMatrices> new_head_matrices(int heads, int n, int k) {
    auto matrices = std::make_unique<CudaHeadMatrices>();
    matrices->heads = heads;
    matrices->n = n;
    matrices->k = k;
    matrices->memory.grow(elements(heads, n, k) * sizeof(bfloat16_bits));
    gemm({n, k, heads, RowType::bfloat16});
    return matrices;
  }

  void fill_bank(CudaMlpBank& bank, int slots, int width, int hidden) const {
    if (fp8_) return fill_fp8_bank(bank, slots, width, hidden);
    bank.slots = slots;
    bank.width = width;
    bank.hidden = hidden;
    bank.gate_up.grow(elements(slots, 2 * width, hidden) * sizeof(bfloat16_bits));
    bank.down.grow(elements(slots, width, hidden) * sizeof(bfloat16_bits));
  }

  // Rows and columns past the MLP's own width stay zero.
  static void fill_fp8_bank(CudaMlpBank& bank, int slots, int width, int hidden) {
    check_fp8_shape(hidden, hidden);
    bank.slots = slots;
    bank.width = fp8_blocks(width) * kFp8Block;
    bank.hidden = hidden;
    bank.gate_up.grow(elements(slots, 2 * bank.width, hidden));
    bank.down.grow(elements(slots, bank.width, hidden));
    bank.gate_up_scales.grow(elements(slots, 2 * fp8_blocks(width), fp8_blocks(hidden)) * sizeof(float));
    bank.down_scales.grow(elements(slots, fp8_blocks(hidden), fp8_blocks(width)) * sizeof(float));
    check(cudaMemset(bank.gate_up.get(), 0, bank.gate_up.bytes()), "cudaMemset");
    check(cudaMemset(bank.down.get(), 0, bank.down.bytes()), "cudaMemset");
  }

  // width: the MLP's own.
  static void fill_slot(CudaMlp& mlp, const CudaMlpBank& bank, int slot, int width, const RowSource& gate,
                        const RowSource& up, const RowSource& down) {
    mlp.width = bank.width;
    mlp.hidden = bank.hidden;
    if (bank.fp8()) {
      const int hidden = bank.hidden;
      const std::size_t gate_scales = elements(fp8_blocks(width), fp8_blocks(hidden));
      std::uint8_t* gate_up = bank.gate_up.get<std::uint8_t>() + elements(slot, 2 * bank.width, hidden);
      std::uint8_t* down_rows = bank.down.get<std::uint8_t>() + elements(slot, hidden, bank.width);
      float* gate_up_scales = bank.gate_up_scales.get<float>() + 2 * static_cast<std::size_t>(slot) * gate_scales;
      float* down_scales = bank.down_scales.get<float>() + static_cast<std::size_t>(slot) * gate_scales;
      upload_fp8(gate_up, gate_up_scales, width, hidden, hidden, gate);
      upload_fp8(gate_up + elements(bank.width, hidden), gate_up_scales + gate_scales, width, hidden, hidden, up);
      upload_fp8(down_rows, down_scales, hidden, width, bank.width, down);
      mlp.gate_up = gate_up;
      mlp.down = down_rows;
      mlp.gate_up_scales = gate_up_scales;
      mlp.down_scales = down_scales;
      mlp.scale_bytes = 3 * gate_scales * sizeof(float);
      return;
    }
    bfloat16_bits* gate_up = bank.gate_up.get<bfloat16_bits>() + elements(slot, 2 * bank.width, bank.hidden);
    bfloat16_bits* down_rows = bank.down.get<bfloat16_bits>() + elements(slot, bank.hidden, bank.width);
    upload_bf16(gate_up, bank.width, bank.hidden, gate);
    upload_bf16(gate_up + elements(bank.width, bank.hidden), bank.width, bank.hidden, up);
    upload_bf16(down_rows, bank.hidden, bank.width, down);
    mlp.gate_up = gate_up;
    mlp.down = down_rows;
  }

  // As the steps' stream is idle: on the stream that memory is filled on.
  static void move_mlp(CudaMlp& mlp, const CudaMlpBank& to, int slot) {
    const CudaMlpSlot from = mlp, place = to.slot(slot);
    const std::size_t gate_up = to.gate_up.bytes() / static_cast<std::size_t>(to.slots);
    const std::size_t gate_up_scales = to.gate_up_scales.bytes() / static_cast<std::size_t>(to.slots);
    const auto copy = [](const void* to_data, const void* from_data, std::size_t bytes) {
      if (bytes == 0) return;
      check(cudaMemcpyAsync(const_cast<void*>(to_data), from_data, bytes, cudaMemcpyDeviceToDevice, cudaStreamLegacy),
            "a copy of experts");
    };
    copy(place.gate_up, from.gate_up, gate_up);
    copy(place.down, from.down, gate_up / 2);
    copy(place.gate_up_scales, from.gate_up_scales, gate_up_scales);
    copy(place.down_scales, from.down_scales, gate_up_scales / 2);
    static_cast<CudaMlpSlot&>(mlp) = place;
  }

  static void check_fp8_shape(int n, int k) {
    if (n % 8 == 0 && k % 16 == 0) return;
    throw Error(ErrorCode::argument,
                "the CUDA backend's FP8 weights need rows that are a multiple of 8 and columns "
                "that are one of 16; a matrix of this model is " +
                    std::to_string(n) + " x " + std::to_string(k));
  }

  // Latents are stored at the next launch, so that the store can share one with the queries' rope, and the queries'
  // GEMM can run beside the one that made the latents.
  void launch_pending_store() {
    if (!pending_store_.has_value()) return;
    const PendingStore store = *std::exchange(pending_store_, std::nullopt);
    launch("the store of latents", [&] { return store_latents_cuda(store.call, stream_); });
  }
  // Whether x W can: the last launch is the GEMM that made the latents, and x and y are none of its rows.
  bool beside_compression(int rows, View x, View y, const CudaMatrix& w) const {
    if (!pending_store_.has_value() || !pending_store_->follows_gemm) return false;
    if (x.memory == pending_store_->from || y.memory == pending_store_->from) return false;
    return !w.fp8() || fp8_form_ == Fp8Form{x.memory, x.offset, x.stride, rows, w.k};
  }

  // One GEMM for each head; a head's inputs and outputs lie x_head, y_head elements apart inside a row.
  void head_gemm(int rows, View x, int x_head, const CudaHeadMatrices& w, View y, int y_head) {
    run_gemm({w.n, w.k, w.heads, type_of(y)}, {.rows = rows,
                                               .x = address(x),
                                               .ldx = x.stride,
                                               .x_batch = x_head,
                                               .w = w.memory.get(),
                                               .y = written(y),
                                               .ldy = y.stride,
                                               .y_batch = y_head});
  }

  // Where an op writes y. What was known of its e4m3 form is void.
  void* written(View y) {
    if (y.memory == fp8_form_.memory) fp8_form_ = {};
    return address(y);
  }

  // fp8_rows_ will hold x's e4m3 form: whoever calls this launches what makes it.
  void hold_fp8(int rows, View x, int width) {
    reserve(fp8_rows_, elements(rows, width));
    reserve(fp8_row_scales_, elements(rows, fp8_blocks(width)) * sizeof(float));
    fp8_form_ = {x.memory, x.offset, x.stride, rows, width};
  }

  // x's rows in e4m3: what the norm before left, or quantised here. Valid until the next norm or call of this.
  Fp8RowsView fp8_of(int rows, View x, int width) {
    if (fp8_form_ != Fp8Form{x.memory, x.offset, x.stride, rows, width}) {
      hold_fp8(rows, x, width);
      launch("the quantisation of rows", [&] {
        return quantize_rows_cuda({.rows = rows,
                                   .width = width,
                                   .x = address(x),
                                   .ldx = x.stride,
                                   .out = fp8_rows_.get<std::uint8_t>(),
                                   .scales = fp8_row_scales_.get<float>(),
                                   .ld_scales = rows},
                                  stream_);
      });
    }
    return {fp8_rows_.get(), fp8_row_scales_.get<float>(), rows};
  }

  // activated = silu(gate) * up of gate_up's rows, in bf16, or in e4m3 with scales [width / 128, rows] where these
  // are given; count: on the card, how many of the rows exist, or null for all.
  void silu_mul(int width, int rows, const std::int32_t* count, const DeviceMemory& gate_up,
                const DeviceMemory& activated, float* scales) {
    launch("silu_mul", [&] {
      return silu_mul_cuda({.width = width,
                            .groups = 1,
                            .rows = rows,
                            .counts = count,
                            .gate_up = gate_up.get(),
                            .out = scales == nullptr ? activated.get() : nullptr,
                            .out_fp8 = scales == nullptr ? nullptr : activated.get<std::uint8_t>(),
                            .out_scales = scales,
                            .ld_out_scales = rows},
                           stream_);
    });
  }

  // The three parts of an MLP.
  void mlp_up(int rows, View x, const CudaMlp& w) {
    reserve(mlp_gate_up_, elements(rows, 2 * w.width) * 2);
    reserve(mlp_activated_, elements(rows, w.width) * (w.fp8() ? 1 : 2));
    if (w.fp8()) {
      reserve(mlp_scales_, elements(rows, fp8_blocks(w.width)) * sizeof(float));
      fp8_gemm(rows, 2 * w.width, w.hidden, fp8_of(rows, x, w.hidden), w.gate_up, w.gate_up_scales, mlp_gate_up_.get(),
               2 * w.width);
      return;
    }
    run_gemm(
        {2 * w.width, w.hidden, 1, RowType::bfloat16},
        {.rows = rows, .x = address(x), .ldx = x.stride, .w = w.gate_up, .y = mlp_gate_up_.get(), .ldy = 2 * w.width});
  }
  void mlp_silu_mul(int rows, const CudaMlp& w) {
    silu_mul(w.width, rows, nullptr, mlp_gate_up_, mlp_activated_, w.fp8() ? mlp_scales_.get<float>() : nullptr);
  }
  void mlp_down(int rows, const CudaMlp& w, void* y, std::int64_t ldy) {
    if (w.fp8())
      return fp8_gemm(rows, w.hidden, w.width, {mlp_activated_.get(), mlp_scales_.get<float>(), rows}, w.down,
                      w.down_scales, y, ldy);
    run_gemm({w.hidden, w.width, 1, RowType::bfloat16},
             {.rows = rows, .x = mlp_activated_.get(), .ldx = w.width, .w = w.down, .y = y, .ldy = ldy});
  }

  // A dense GEMM: the grouped one with one expert, which keeps the row rule whatever tile is taken.
  void fp8_gemm(int rows, int n, int k, Fp8RowsView x, const void* weights, const float* weight_scales, void* y,
                std::int64_t ldy, bool beside = false) {
    if (ldy != n) throw Error(ErrorCode::internal, "an FP8 GEMM writes rows without gaps");
    if (rows == 0) return;
    run_grouped_gemm({.type = GroupedGemmType::fp8_block_scaled,
                      .layout = GroupedGemmLayout::contiguous,
                      .tile = dense_gemm_tile_for(rows, n),
                      .experts = 1,
                      .n = n,
                      .k = k,
                      .row_capacity = rows,
                      .rows = nullptr,
                      .x = x.data,
                      .x_scales = x.scales,
                      .ld_x_scales = x.ld_scales,
                      .weights = weights,
                      .weight_scales = weight_scales,
                      .out = y,
                      .beside = beside});
  }

  // FP8 where weight_scales are given, else bf16, and x has no scales.
  void grouped_gemm(int rows, int top_k, int slots, int n, int k, const std::int32_t* offsets, Fp8RowsView x,
                    const void* weights, const float* weight_scales, void* out) {
    // Rows of most experts, were they routed at random. Speed only.
    const double mean = static_cast<double>(rows) * top_k / slots;
    const int typical = static_cast<int>(std::ceil(mean + 2 * std::sqrt(mean)));
    run_grouped_gemm({.type = weight_scales == nullptr ? GroupedGemmType::bf16 : GroupedGemmType::fp8_block_scaled,
                      .layout = GroupedGemmLayout::contiguous,
                      .tile = grouped_gemm_tile_for(typical),
                      .experts = slots,
                      .n = n,
                      .k = k,
                      .row_capacity = rows * top_k,
                      .rows = offsets,
                      .x = x.data,
                      .x_scales = x.scales,
                      .ld_x_scales = x.ld_scales,
                      .weights = weights,
                      .weight_scales = weight_scales,
                      .out = out});
  }

  void run_grouped_gemm(const GroupedGemmProblem& problem) {
    launch("the grouped GEMM", [&] {
      return launch_grouped_gemm(guarded("the grouped GEMM", [&] { return make_grouped_gemm_plan(problem); }), stream_);
    });
    last_is_gemm_ = !problem.beside;
  }

  // Which slots hold an expert; nothing where slot s holds expert s.
  void send_placement(const SlotTable& table, MoeSortCudaCall& sort) {
    bool identity = table.slots() == table.logical_experts();
    for (int slot = 0; identity && slot < table.slots(); ++slot) identity = table.logical(slot) == slot;
    if (identity) return;
    placement_.clear();
    placement_.push_back(0);
    for (int expert = 0; expert < table.logical_experts(); ++expert)
      placement_.push_back(placement_.back() + static_cast<std::int32_t>(table.slots_of(expert).size()));
    for (int expert = 0; expert < table.logical_experts(); ++expert) {
      const auto slots = table.slots_of(expert);
      placement_.insert(placement_.end(), slots.begin(), slots.end());
    }
    sort.slot_begin = send(std::span<const std::int32_t>(placement_));
    sort.slots_by_expert = sort.slot_begin + table.logical_experts() + 1;
  }

  // Of a layer's rows, on the card.
  struct Choices {
    std::int32_t* ids;  // [rows, top_k]
    float* weights;     // [rows, top_k]
  };

  Choices choose_experts(int rows, View x, const MoeLayer& layer, std::span<std::uint32_t> counts) {
    const auto& gate = static_cast<const CudaMatrix&>(*layer.gate_weights);
    const int experts = layer.gate.experts;
    const int entries = rows * layer.gate.top_k;
    if (experts > kMostExperts || moe_calls_ >= kMostMoeCalls)
      throw Error(ErrorCode::argument, "the CUDA backend takes at most 256 experts in 256 layers");

    reserve(gate_logits_, elements(rows, experts) * sizeof(float));
    launch("the gate's logits", [&] {
      return gemm_f32_cuda({.rows = rows,
                            .n = experts,
                            .k = gate.k,
                            .x = address(x),
                            .ldx = x.stride,
                            .w = gate.memory.get<float>(),
                            .y = gate_logits_.get<float>(),
                            .ldy = experts},
                           stream_);
    });
    // Ids and weights of all choices, and the experts' offsets.
    reserve(choices_, (elements(entries, 2) + elements(experts, 1) + 1) * 4);
    std::int32_t* ids = choices_.get<std::int32_t>();
    float* weights = reinterpret_cast<float*>(ids + entries);
    const std::size_t counts_at = elements(moe_calls_++, kMostExperts);
    GateConfig config = layer.gate;
    config.bias = layer.gate_bias != nullptr ? values(*layer.gate_bias) : nullptr;
    launch("the gate", [&] {
      return gate_cuda({.config = config,
                        .logits = gate_logits_.get<float>(),
                        .ld_logits = experts,
                        .rows = rows,
                        .ids = ids,
                        .weights = weights,
                        .counts = device_counts_.get<std::int32_t>() + counts_at,
                        .offsets = ids + 2 * static_cast<std::int64_t>(entries),
                        .workspace = gate_workspace_.get<std::uint32_t>()},
                       gate_cuda_path_for(rows), stream_);
    });
    after_.push_back([this, counts, counts_at] {
      const std::int32_t* from = host_counts_.get<std::int32_t>() + counts_at;
      for (std::size_t e = 0; e < counts.size(); ++e) counts[e] += static_cast<std::uint32_t>(from[e]);
    });
    return {ids, weights};
  }

  // Rows go to the ranks that hold their experts, and this rank's slots compute those of all ranks.
  void moe_on_ranks(int rows, View x, const MoeLayer& layer, View y, std::span<std::uint32_t> counts) {
    const Choices choices = rows > 0 ? choose_experts(rows, x, layer, counts) : Choices{};
    RankGroup& group = *layer.ranks.group;
    const auto& bank = static_cast<const CudaMlpBank&>(*layer.bank);
    const bool fp8 = bank.fp8();
    const int scale_blocks = fp8 ? fp8_blocks(bank.hidden) : 0;
    RankRowsCudaCall packed = {.rows = rows,
                               .row_bytes = row_bytes_of(bank),
                               .scale_blocks = scale_blocks,
                               .packed_bytes = row_bytes_of(bank) + (4 * scale_blocks + 15) / 16 * 16};
    if (rows > 0) {
      const Fp8RowsView in = fp8 ? fp8_of(rows, x, bank.hidden) : Fp8RowsView{};
      reserve(packed_rows_, elements(rows, packed.packed_bytes));
      launch("the packing of rows", [&] {
        return pack_rank_rows_cuda(packed, fp8 ? in.data : address(x), fp8 ? bank.hidden : x.stride * 2, in.scales,
                                   in.ld_scales, packed_rows_.get(), stream_);
      });
    }
    plan_batch(rows, layer, choices);
    route_->dispatch(group,
                     {.index = layer.ranks.layer,
                      .last = layer.ranks.last,
                      .slots_per_rank = bank.slots,
                      .output_bytes = bank.hidden * 2},
                     moe_batch_, packed_rows_.get<std::byte>(), rows, packed.packed_bytes);
    const void* shared = rows > 0 ? run_shared_experts(rows, x, layer, bank.hidden) : nullptr;

    const RankGroup::Inputs& inputs = group.receive_rows(layer.ranks.logical_of_own_slots);
    const CardRows in = route_->inputs(group, inputs);
    packed.rows = inputs.rows();
    if (packed.rows > 0) {
      reserve_experts(bank, packed.rows);
      launch("the unpacking of rows", [&] {
        return unpack_rank_rows_cuda(packed, in.data, in.index, expert_in_.get(), expert_scales_.get<float>(),
                                     packed.rows, stream_);
      });
      run_experts(bank, packed.rows, send(std::span<const std::int32_t>(inputs.slot_offsets)));
    }
    const std::byte* returned = route_->outputs(group, inputs, expert_out_.get<std::byte>());
    if (rows == 0) return;
    const std::int32_t* positions = send(std::span<const std::int32_t>(moe_batch_.position));
    launch("combine", [&] {
      return moe_combine_cuda({.rows = rows,
                               .top_k = layer.gate.top_k,
                               .width = bank.hidden,
                               .positions = positions,
                               .weights = choices.weights,
                               .expert_out = returned,
                               .shared = shared,
                               .ld_shared = bank.hidden,
                               .y = written(y),
                               .y_type = type_of(y),
                               .ldy = y.stride},
                              stream_);
    });
  }

  // moe_batch_ = the rows' choices by slot, over all ranks. Waits for the card.
  void plan_batch(int rows, const MoeLayer& layer, const Choices& choices) {
    const std::size_t count = elements(rows, layer.gate.top_k);
    if (rows > 0) {
      if (host_ids_.bytes() < count * sizeof(std::int32_t)) host_ids_.grow(2 * count * sizeof(std::int32_t));
      check(
          cudaMemcpyAsync(host_ids_.get(), choices.ids, count * sizeof(std::int32_t), cudaMemcpyDeviceToHost, stream_),
          "a copy of choices");
      route_->wait("a copy of choices");
    }
    const std::int32_t* ids = host_ids_.get<std::int32_t>();
    if (std::any_of(ids, ids + count, [&](std::int32_t id) { return id < 0 || id >= layer.gate.experts; }))
      throw Error(ErrorCode::device, "the GPU chose an expert that is not there; the process must be restarted");
    // As on the CPU: ranks with few rows each would otherwise all take the same copies.
    build_moe_batch(*layer.placement, ids, rows, layer.gate.top_k, moe_batch_,
                    layer.ranks.group->rank() + layer.ranks.layer);
  }

  // Of a row that the experts' first GEMM reads, without scales.
  static int row_bytes_of(const CudaMlpBank& bank) { return bank.hidden * (bank.fp8() ? 1 : 2); }

  void reserve_experts(const CudaMlpBank& bank, int rows) {
    const int blocks = bank.fp8() ? std::max(fp8_blocks(bank.hidden), fp8_blocks(bank.width)) : 0;
    reserve(expert_in_, elements(rows, row_bytes_of(bank)));
    reserve(expert_scales_, elements(rows, blocks) * sizeof(float));
    reserve(gate_up_, elements(rows, 2 * bank.width) * 2);
    reserve(activated_, elements(rows, bank.width) * (bank.fp8() ? 1 : 2));
    reserve(expert_out_, elements(rows, bank.hidden) * 2);
  }

  // expert_out_ = the slots' experts of the rows of expert_in_, which are in the order of the slots.
  void run_experts(const CudaMlpBank& bank, int rows, const std::int32_t* slot_offsets) {
    float* scales = expert_scales_.get<float>();
    grouped_gemm(rows, 1, bank.slots, 2 * bank.width, bank.hidden, slot_offsets, {expert_in_.get(), scales, rows},
                 bank.gate_up.get(), bank.gate_up_scales.get<float>(), gate_up_.get());
    silu_mul(bank.width, rows, nullptr, gate_up_, activated_, bank.fp8() ? scales : nullptr);
    grouped_gemm(rows, 1, bank.slots, bank.hidden, bank.width, slot_offsets, {activated_.get(), scales, rows},
                 bank.down.get(), bank.down_scales.get<float>(), expert_out_.get());
  }

  const void* run_shared_experts(int rows, View x, const MoeLayer& layer, int hidden) {
    if (layer.shared == nullptr) return nullptr;
    reserve(shared_out_, elements(rows, hidden) * 2);
    const auto& shared = static_cast<const CudaMlp&>(*layer.shared);
    mlp_up(rows, x, shared);
    mlp_silu_mul(rows, shared);
    mlp_down(rows, shared, shared_out_.get(), hidden);
    return shared_out_.get();
  }

  // The set's rows on the card. The graph's row sets stay as they are until finish(), so their addresses name them.
  DeviceRows& device_rows(const RowSet& rows) {
    const auto found = device_rows_.find(&rows);
    if (found != device_rows_.end()) return found->second;
    DeviceRows out = {};
    out.max_blocks = 1;
    for (const RowRun& run : rows.runs) out.max_blocks = std::max(out.max_blocks, blocks_of(run));
    if (is_decode(rows)) out.max_blocks = table_columns(out.max_blocks);
    row_runs_.clear();
    block_table_.clear();
    for (std::size_t i = 0; i < rows.runs.size(); ++i) {
      row_runs_.insert(row_runs_.end(), static_cast<std::size_t>(rows.runs[i].rows), static_cast<std::int32_t>(i));
      append_blocks(rows.runs[i], out.max_blocks);
    }
    out.positions = send(std::span(rows.positions));
    out.row_runs = send(std::span<const std::int32_t>(row_runs_));
    out.block_table = send(std::span<const std::int32_t>(block_table_));
    return device_rows_.emplace(&rows, std::move(out)).first->second;
  }
  static int blocks_of(const RowRun& run) { return (run.first_position + run.rows - 1) / kBlockRows + 1; }
  // A row of the block table.
  void append_blocks(const RowRun& run, int max_blocks) {
    const int blocks = blocks_of(run);
    for (int block = 0; block < blocks; ++block) block_table_.push_back(static_cast<std::int32_t>(run.blocks[block]));
    block_table_.resize(block_table_.size() + static_cast<std::size_t>(max_blocks - blocks));
  }

  RowGroups row_groups(const RowSet& rows, const DeviceRows& device) {
    RowGroups out = {};
    block_table_.clear();
    out.host_offsets.push_back(0);
    const bool cut =
        std::any_of(rows.runs.begin(), rows.runs.end(), [](const RowRun& r) { return r.rows > kGroupRows; });
    for (const RowRun& run : rows.runs) {
      for (int first = 0; first < run.rows; first += kGroupRows) {
        const int count = std::min(kGroupRows, run.rows - first);
        out.host_offsets.push_back(out.host_offsets.back() + count);
        out.host_lengths.push_back(run.first_position + first + count);
        if (cut) append_blocks(run, device.max_blocks);
      }
    }
    out.block_table = cut ? send(std::span<const std::int32_t>(block_table_)) : device.block_table;
    out.row_offsets = send(std::span<const std::int32_t>(out.host_offsets));
    out.lengths = send(std::span<const std::int32_t>(out.host_lengths));
    return out;
  }

  void plan_expanded(const RowSet& rows, DeviceRows& device) {
    const auto keys_of = [&](int run) {
      const RowRun& r = rows.runs[static_cast<std::size_t>(run)];
      return r.first_position + r.rows;
    };
    const int runs = static_cast<int>(rows.runs.size());
    for (int first = 0, row = 0; first < runs;) {
      std::vector<std::int32_t> row_offsets = {0}, key_offsets = {0};
      int end = first;
      do {
        row_offsets.push_back(row_offsets.back() + rows.runs[static_cast<std::size_t>(end)].rows);
        key_offsets.push_back(key_offsets.back() + keys_of(end));
        ++end;
      } while (end < runs && key_offsets.back() + keys_of(end) <= kMostExpandedKeys);
      device.expanded.push_back({.first_run = first,
                                 .runs = end - first,
                                 .first_row = row,
                                 .rows = row_offsets.back(),
                                 .keys = key_offsets.back(),
                                 .row_offsets = send(std::span<const std::int32_t>(row_offsets)),
                                 .key_offsets = send(std::span<const std::int32_t>(key_offsets))});
      row += row_offsets.back();
      first = end;
    }
  }

  // The rows in pinned memory once the step is done; one copy for all who ask in a step.
  const float* host_rows(int rows, View x, int width) {
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

  void run_sampling(const Sampling& asked) {
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

  void forget_step() {
    after_.clear();
    sampling_.reset();
    pending_store_.reset();
    last_is_gemm_ = false;
    device_rows_.clear();
    scheduled_ = nullptr;
    copied_from_ = nullptr;
    fp8_form_ = {};
    moe_calls_ = 0;
    arguments_.reset();
  }

  const bool fp8_;  // the projections' and MLPs' weights
  cudaStream_t stream_ = nullptr;
  cudaStream_t copy_stream_ = nullptr;
  const GemmCudaLibrary gemm_library_;
  std::mutex gemm_mutex_;  // weights are loaded by several threads
  bool is_tuned_ = false;
  std::map<std::tuple<int, int, int, RowType>, GemmCuda> gemms_;

  int heads_ = 1;
  Mode mode_ = Mode::direct;
  // Rows, columns of the block table, piece capacity, what is read: all that a decode step's launches depend on.
  using GraphKey = std::array<int, 4>;
  GraphKey graph_key_ = {};                     // of the step that is asked for
  std::map<GraphKey, cudaGraphExec_t> graphs_;  // null: asked for once so far

  // Of the step that is asked for.
  StepArguments arguments_;
  std::map<const RowSet*, DeviceRows> device_rows_;
  struct PendingStore {
    StoreLatentsCudaCall call;
    const Activations* from;
    bool follows_gemm;
  };
  std::optional<PendingStore> pending_store_;
  bool last_is_gemm_ = false;              // that others may run beside
  const DeviceRows* scheduled_ = nullptr;  // whose pieces the attention's workspace lists
  // Whose e4m3 form fp8_rows_ has; memory null: nobody's.
  struct Fp8Form {
    const Activations* memory = nullptr;
    std::int64_t offset = 0, stride = 0;
    int rows = 0, width = 0;
    bool operator==(const Fp8Form&) const = default;
  };
  Fp8Form fp8_form_;
  const float* copied_from_ = nullptr;  // whose rows host_rows_ has
  int moe_calls_ = 0;
  std::vector<std::function<void()>> after_;  // what is left to do on the host when the card is done
  std::optional<Sampling> sampling_;
  PackScratch pack_scratch_;
  std::vector<std::int32_t> row_runs_, block_table_, placement_;  // reused

  DeviceMemory device_errors_, device_counts_, gate_workspace_;
  PinnedMemory host_errors_, host_counts_, host_rows_;
  DeviceMemory device_sampling_, device_samples_;
  PinnedMemory host_sampling_, host_samples_;
  DeviceMemory key_latents_, key_rope_, expanded_keys_;
  DeviceMemory attention_workspace_, gate_logits_, choices_, expert_in_, gate_up_, activated_, expert_out_, shared_out_;
  DeviceMemory fp8_rows_, fp8_row_scales_, expert_scales_;
  DeviceMemory mlp_gate_up_, mlp_activated_, mlp_scales_;  // of dense MLPs and shared experts

  std::unique_ptr<RowRoute> route_;  // null: no ranks have met
  MoeBatch moe_batch_;
  PinnedMemory host_ids_;
  DeviceMemory packed_rows_;

  std::mutex copy_mutex_;
  PinnedMemory copy_staging_;
  EventThread events_;  // last: its thread ends first
};

// Throws Error(device) where there is no card that the kernels run on.
void check_device() {
  const auto refuse = [](const std::string& what) { throw Error(ErrorCode::device, what); };
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaErrorInsufficientDriver)
    refuse("no NVIDIA driver, or one older than 580, is installed: the CUDA backend needs it");
  if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0))
    refuse("no GPU is visible: the CUDA backend needs an H100 or H200 (is CUDA_VISIBLE_DEVICES set?)");
  check(error, "cudaGetDeviceCount");
  cudaDeviceProp properties = {};
  check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  if (properties.major != 9 || properties.minor != 0) {
    refuse(std::string("the GPU is a ") + properties.name + " of compute capability " +
           std::to_string(properties.major) + "." + std::to_string(properties.minor) +
           ": the CUDA backend needs 9.0 (H100, H200)");
  }
}

}  // namespace
}  // namespace pelagic::cuda

extern "C" __attribute__((visibility("default"))) pelagic::Backend* pelagic_cuda_open(
    const char* interface_id, pelagic::CudaWeights weights, pelagic::CudaPluginFailure* failure) {
  using namespace pelagic;
  const auto fail = [&](ErrorCode code, const char* message) -> Backend* {
    failure->code = code;
    std::snprintf(failure->message, sizeof failure->message, "%s", message);
    return nullptr;
  };
  if (std::string(interface_id) != PELAGIC_INTERFACE_ID)
    return fail(ErrorCode::device, "pelagic_cuda.so was built from other sources than this engine: build both again");
  try {
    cuda::check_device();
    return new cuda::CudaBackend(weights);
  } catch (const Error& error) {
    return fail(error.code(), error.what());
  } catch (const std::bad_alloc&) {
    return fail(ErrorCode::memory, "not enough memory for the CUDA backend");
  } catch (const std::exception& error) {
    return fail(ErrorCode::device, error.what());
  }
}
static_assert(std::is_same_v<decltype(pelagic_cuda_open), pelagic::CudaPluginOpen>);
