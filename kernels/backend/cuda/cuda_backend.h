// The CUDA backend: the graph's ops as kernels on one stream. Activations are bf16, the residual stream and the logits
// float32. Nothing waits for the card before finish(), but where memory grows and for other ranks. Its parts are in
// files of their own, see README.md.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <tuple>
#include <vector>

#include "backend/cuda/cuda_plugin.h"
#include "backend/cuda/event_thread.h"
#include "backend/cuda/objects.h"
#include "backend/cuda/row_route.h"
#include "backend/cuda/step_arguments.h"
#include "backend/cuda/step_rows.h"
#include "ops/gemm/gemm_cuda.h"
#include "ops/grouped_gemm/grouped_gemm_cuda.h"
#include "ops/moe/moe_cuda.h"
#include "ops/rope/rope_cuda.h"
#include "ops/sampler/sampler_cuda.h"

namespace pelagic::cuda {

// Pieces of attention work at once; 131 KB of partial sums each. A step with more goes through them in parts.
inline constexpr int kMostPieces = 4096;
// MoE layers in a step, and experts in a layer, at most: room for their counts.
inline constexpr int kMostMoeCalls = 256;
inline constexpr int kMostExperts = 256;

// The words that kernels set to 1 when an index they were given cannot be right.
inline constexpr int kErrorWords = 48;
inline constexpr int kEmbeddingErrorsAt = 0;
inline constexpr int kRopeErrorsAt = 8;
inline constexpr int kDecodeErrorsAt = 16;
inline constexpr int kMoeErrorsAt = 24;
inline constexpr int kPrefillErrorsAt = 32;
inline constexpr int kGatherErrorsAt = 40;

class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(CudaWeights weights);
  ~CudaBackend() override;
  void check_model(const MlaShape& shape, const KvLayout& layout) override;

  // ---- Memory and weights.

  std::unique_ptr<Activations> make_activations(std::size_t count, Precision precision) override;
  std::unique_ptr<Vector> make_vector(std::span<const float> data) override;
  std::unique_ptr<Matrix> make_matrix(int n, int k, const RowSource& rows) override;
  std::unique_ptr<Matrix> make_projection(int n, int k, const RowSource& rows) override;
  std::unique_ptr<Matrix> make_gate_matrix(int n, int k, const RowSource& rows) override;
  std::unique_ptr<HeadMatrices> make_head_matrices(int heads, int n, int k, const HeadRowSource& rows) override;
  std::unique_ptr<HeadMatrices> make_head_matrices_transposed(int heads, int n, int k,
                                                              const HeadRowSource& rows) override;
  std::unique_ptr<Mlp> make_mlp(int width, int hidden, const RowSource& gate, const RowSource& up,
                                const RowSource& down) override;
  std::unique_ptr<MlpBank> make_mlp_bank(int slots, int width, int hidden) override;
  std::unique_ptr<Mlp> make_expert(MlpBank* bank, int slot, int width, int hidden, const RowSource& gate,
                                   const RowSource& up, const RowSource& down) override;
  void arrange_bank(MlpBank* mlp_bank, std::span<const std::unique_ptr<Mlp>> slots) override;
  std::unique_ptr<Embedding> make_embedding(int vocab, int hidden, const RowSource& rows) override;
  std::unique_ptr<RopeAngles> make_rope(std::span<const double> frequencies, int positions, double amplitude) override;
  std::unique_ptr<KvCache> make_kv_cache(const KvLayout& layout) override;
  void reserve_attention(const MlaShape& shape, int rows, int logit_rows, int positions) override;
  std::int64_t card_bytes() const override;
  std::uint64_t allocations() const override { return DeviceMemory::grown(); }

  // ---- Ops.

  void embed(const Embedding& embedding, std::span<const std::uint32_t> tokens, View y) override;

  // With FP8 weights the rows go out in e4m3 too: the norms' readers are GEMMs.
  void rms_norm(int rows, View x, View delta, const Vector& weight, float eps, View y) override;
  void linear(int rows, View x, const Matrix& w, View y) override;
  void head_linear(int rows, View x, const HeadMatrices& w, View y) override;
  void store_latents(const RowSet& rows, View compressed, const Vector& norm, float eps, const RopeAngles& rope,
                     KvCache& cache, int layer) override;
  void absorb_queries(const RowSet& rows, const MlaShape& shape, View q, const HeadMatrices& uk, const RopeAngles& rope,
                      View absorbed) override;
  void attend(const RowSet& rows, const MlaShape& shape, View absorbed, float scale, const KvCache& cache, int layer,
              View u) override;
  bool expands_prompts(const MlaShape& shape) const override;
  void attend_expanded(const RowSet& rows, const MlaShape& shape, View q, const Matrix& ukv, const RopeAngles& rope,
                       float scale, const KvCache& cache, int layer, View values) override;
  void mlp(int rows, View x, const Mlp& w, View y) override;
  void moe(int rows, View x, const MoeLayer& layer, View y, std::span<std::uint32_t> counts) override;
  bool shares_experts() const override { return true; }

  void meet(RankGroup& group) override;
  void gather(std::span<const std::uint32_t> rows, View x, int width, View y) override;
  void when_done(const std::function<void()>& fn) override;
  void digest_rows(int rows, View x, int width, std::span<std::uint64_t> digests) override;
  void read_rows(int rows, View x, int width, std::span<float> out) override;

  // Behind everything else of the step, and in no graph: how much the parameters say differs from step to step.
  void sample(View logits, int vocab, std::span<const std::int32_t> positions,
              std::span<const SamplingParams* const> params, std::span<SampleResult> results) override;

  // A decode step is recorded as a CUDA graph the second time that one of its shape is asked for, and replayed from
  // then on: its ops then do only what they do on the host. Its arguments lie where they lay before, so the graph's
  // copies bring the new ones.
  void begin_step(const StepShape& step) override;
  void finish() override;
  void cancel() override;
  double read_pass(std::span<const BackendObject* const> weights) override;

  // ---- The cache's rows, on a stream of their own beside the step's.

  std::uint64_t pack_rows(const KvCache& cache, int layer, std::uint32_t block, int first_row, int row_count,
                          std::byte* out) override;
  std::uint64_t unpack_rows(KvCache& cache, int layer, std::uint32_t block, int first_row, int row_count,
                            const std::byte* data) override;
  void copy_block(KvCache& cache, std::uint32_t from, std::uint32_t to) override;

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
    if (mode_ != Mode::replay) check_launch(fn(), what);
  }

  template <typename T>
  const T* send(std::span<const T> values) {
    return arguments_.send(values, stream_, mode_ != Mode::replay);
  }

  // Graphs know addresses: none outlives a buffer that moved.
  void drop_graphs();

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
  void wait(const char* what);

  // Buffers grow to the largest step seen and stay; a quarter more, so that a batch that grows row by row seldom
  // allocates. What runs may still use the old one.
  void reserve(DeviceMemory& memory, std::size_t bytes);
  std::byte* copy_staging(std::size_t bytes);

  // The one GEMM of a shape.
  GemmCuda& gemm(const GemmCudaShape& shape);
  // Once the weights are there: nothing else runs then.
  void tune_gemms();
  void run_gemm(const GemmCudaShape& shape, const GemmCudaCall& call);
  std::unique_ptr<CudaHeadMatrices> new_head_matrices(int heads, int n, int k);
  void fill_bank(CudaMlpBank& bank, int slots, int width, int hidden) const;

  // Rows and columns past the MLP's own width stay zero.
  static void fill_fp8_bank(CudaMlpBank& bank, int slots, int width, int hidden);

  // width: the MLP's own.
  static void fill_slot(CudaMlp& mlp, const CudaMlpBank& bank, int slot, int width, const RowSource& gate,
                        const RowSource& up, const RowSource& down);

  // As the steps' stream is idle: on the stream that memory is filled on.
  static void move_mlp(CudaMlp& mlp, const CudaMlpBank& to, int slot);
  static void check_fp8_shape(int n, int k);

  // Latents are stored at the next launch, so that the store can share one with the queries' rope, and the queries'
  // GEMM can run beside the one that made the latents.
  void launch_pending_store();
  // Whether x W can: the last launch is the GEMM that made the latents, and x and y are none of its rows.
  bool beside_compression(int rows, View x, View y, const CudaMatrix& w) const;

  // One GEMM for each head; a head's inputs and outputs lie x_head, y_head elements apart inside a row.
  void head_gemm(int rows, View x, int x_head, const CudaHeadMatrices& w, View y, int y_head);

  // Where an op writes y. What was known of its e4m3 form is void.
  void* written(View y) {
    if (y.memory == fp8_form_.memory) fp8_form_ = {};
    return address(y);
  }

  // fp8_rows_ will hold x's e4m3 form: whoever calls this launches what makes it.
  void hold_fp8(int rows, View x, int width);

  // x's rows in e4m3: what the norm before left, or quantised here. Valid until the next norm or call of this.
  Fp8RowsView fp8_of(int rows, View x, int width);

  // activated = silu(gate) * up of gate_up's rows, in bf16, or in e4m3 with scales [width / 128, rows] where these
  // are given; count: on the card, how many of the rows exist, or null for all.
  void silu_mul(int width, int rows, const std::int32_t* count, const DeviceMemory& gate_up,
                const DeviceMemory& activated, float* scales);

  // The three parts of an MLP.
  void mlp_up(int rows, View x, const CudaMlp& w);
  void mlp_silu_mul(int rows, const CudaMlp& w);
  void mlp_down(int rows, const CudaMlp& w, void* y, std::int64_t ldy);

  // A dense GEMM: the grouped one with one expert, which keeps the row rule whatever tile is taken.
  void fp8_gemm(int rows, int n, int k, Fp8RowsView x, const void* weights, const float* weight_scales, void* y,
                std::int64_t ldy, bool beside = false);

  // FP8 where weight_scales are given, else bf16, and x has no scales.
  void grouped_gemm(int rows, int top_k, int slots, int n, int k, const std::int32_t* offsets, Fp8RowsView x,
                    const void* weights, const float* weight_scales, void* out);
  void run_grouped_gemm(const GroupedGemmProblem& problem);

  // Which slots hold an expert; nothing where slot s holds expert s.
  void send_placement(const SlotTable& table, MoeSortCudaCall& sort);

  // Of a layer's rows, on the card: [rows, top_k], offsets of the logical experts, and where the sort by slot writes.
  struct Choices {
    std::int32_t* ids;
    float* weights;
    std::int32_t* positions;
    std::int32_t* expert_offsets;  // [experts + 1]
    std::int32_t* slot_counts;     // [slots]
    std::int32_t* slot_offsets;    // [slots + 1]
  };

  // The gate in two launches, each beside the one before if told to (cuda/dependents.cuh).
  void gate_logits(int rows, View x, const MoeLayer& layer, bool beside);
  Choices choose_experts(int rows, const MoeLayer& layer, std::span<std::uint32_t> counts, bool beside);
  void combine(int rows, const MoeLayer& layer, const Choices& choices, const std::int32_t* positions,
               const void* expert_out, const void* shared, View y);

  // Rows go to the ranks that hold their experts, and this rank's slots compute those of all ranks.
  void moe_on_ranks(int rows, View x, const MoeLayer& layer, View y, std::span<std::uint32_t> counts);

  // moe_batch_ = the rows' choices by slot, over all ranks. Waits for the card.
  void plan_batch(int rows, const MoeLayer& layer, const Choices& choices);

  // Of a row that the experts' first GEMM reads, without scales.
  static int row_bytes_of(const CudaMlpBank& bank) { return bank.hidden * (bank.fp8() ? 1 : 2); }

  void reserve_experts(const CudaMlpBank& bank, int rows);

  // expert_out_ = the slots' experts of the rows of expert_in_, which are in the order of the slots; count: on the
  // card, how many of the rows exist, or null for all.
  void run_experts(const CudaMlpBank& bank, int rows, const std::int32_t* slot_offsets, const std::int32_t* count);
  const void* run_shared_experts(int rows, View x, const MoeLayer& layer, int hidden);

  // The set's rows on the card. The graph's row sets stay as they are until finish(), so their addresses name them.
  DeviceRows& device_rows(const RowSet& rows);
  static int blocks_of(const RowRun& run);
  // A row of the block table.
  void append_blocks(const RowRun& run, int max_blocks);
  RowGroups row_groups(const RowSet& rows, const DeviceRows& device);
  void plan_expanded(const RowSet& rows, DeviceRows& device);

  // The rows in pinned memory once the step is done; one copy for all who ask in a step.
  const float* host_rows(int rows, View x, int width);
  void run_sampling(const Sampling& asked);
  void forget_step();

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

}  // namespace pelagic::cuda
