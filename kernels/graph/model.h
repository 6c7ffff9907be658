// A loaded DeepSeek-V2 or V3 model with its latent cache: forward(batch) as one call. The graph is written over
// backend/backend.h.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "graph/config.h"
#include "graph/expert_mover.h"
#include "graph/rope_plan.h"
#include "graph/weights.h"
#include "ranks/rank_group.h"

namespace pelagic {

struct ModelInfo {
  std::uint64_t weight_bytes = 0;  // as packed
  std::uint64_t active_weight_bytes =
      0;                          // packed bytes that one decode token reads: active experts only, one embedding row
  double gemm_flops_per_row = 0;  // attention over the context not counted
  double attention_flops_per_pair = 0;  // of one (row, key) pair, all layers
};

// One call: some rows of some sequences. All spans must stay valid during step().
struct StepBatch {
  std::span<const std::uint32_t> tokens;      // of all rows, sequence after sequence
  std::span<const std::uint32_t> row_counts;  // rows of each sequence
  std::span<const std::uint32_t>
      start_positions;  // absolute position of each sequence's first row; earlier latents are in its blocks
  std::span<const std::uint32_t> prompt_lengths;    // P of each sequence: rows before P-1 are prompt rows, which a
                                                    // backend may compute in another form
  std::span<const std::uint32_t> block_table;       // block ids of all sequences, concatenated
  std::span<const std::uint32_t> block_offsets;     // [sequences + 1] into block_table
  std::span<const std::uint32_t> logit_rows;        // rows of this call whose logits are wanted, ascending
  std::span<const SamplingParams* const> sampling;  // one for each logit row; null: nothing is sampled
  bool digests = false;
  bool logits = false;
};

struct StepResult {
  std::vector<SampleResult> samples;         // [logit rows]; meaningful where sampling was asked for
  std::vector<std::uint64_t> digests;        // [logit rows] XXH64 of each float32 logits row, if asked for
  std::vector<float> logits;                 // [logit rows, vocab], if asked for
  std::vector<std::uint32_t> expert_counts;  // [MoE layers, experts]: rows sent to each logical expert
};

class Model {
 public:
  // Loads a Hugging Face folder and allocates `kv_blocks` blocks of 64 tokens. threads: for loading. Throws
  // Error(checkpoint), Error(argument) for kv_blocks, Error(memory).
  // plan: this is one of several ranks and loads the experts of its own slots only; it steps once it has joined the
  // others.
  Model(const std::filesystem::path& dir, std::unique_ptr<Backend> backend, KvDtype kv_dtype, std::int64_t kv_blocks,
        int threads, const LoadProgress& progress, std::optional<RankPlan> plan = {});
  // For benches: random weights.
  Model(const ModelConfig& config, std::unique_ptr<Backend> backend, KvDtype kv_dtype, std::int64_t kv_blocks,
        int threads);
  ~Model();

  const ModelConfig& config() const { return config_; }
  const ModelInfo& info() const { return info_; }
  const KvLayout& kv_layout() const { return kv_layout_; }
  // Rows before P-1 are computed in another form than those from P-1 on.
  bool expands_prompts() const { return expands_prompts_; }

  // Computes the batch: writes the latents of all its rows to their blocks, and the logits of the logit rows.
  // on_layer(layer), unless empty, is called when a layer's latents of all rows are in the cache, while later ops may
  // still run. In the last layer only logit rows go on after that, so its expert counts cover these only. Throws
  // Error(argument) naming the field, before anything is computed. One call at a time.
  void step(const StepBatch& batch, const std::function<void(int)>& on_layer, StepResult& result);

  // ---- With other ranks. All of them step together: step() waits for the others, and those without work call
  // take_part(). A rank that fails in a step leaves the group; its own and every other rank's steps then throw
  // Error(rank_lost) until they join another one. What a failed step has written is written again, to the same bits, by
  // the step that repeats it.

  // Steps go with these ranks from now on; of view only ranks_per_node and local_first count. Throws Error(argument)
  // for a model without a plan or an exchange of another rank, Error(rank_lost) where the members lack an expert.
  void join(std::unique_ptr<ExpertExchange> exchange, RankView view);
  // The other ranks' waits end with this.
  void leave(const GroupEnd& end);
  // Makes a step without rows if others have begun one or a layer of the next plan is ready here, and says whether it
  // has. Throws Error(rank_lost).
  bool take_part();
  // Of all groups so far.
  RankCounters rank_counters() const;

  // What becomes of the plan while steps go on; null without one. Between steps ranks may conform() to another plan
  // before they join: all members of a group go by the same one.
  ExpertMover* experts() { return mover_.get(); }

  // Takes the memory of a step of `rows` rows of which `logit_rows` have logits, by making one: later steps up to that
  // size allocate nothing. Overwrites the cache: before anything is in it. Throws Error(memory). With other ranks,
  // which such a step needs too, it is made when they first join: that may throw the same.
  void prepare(int rows, int logit_rows);
  // Backend::allocations.
  std::uint64_t allocations() const { return backend_->allocations(); }

  // For benches: reads the weights that a step reads whose expert_counts ([MoE layers, experts]) these are, and nothing
  // else. Throws Error(argument). One call at a time, like step().
  struct ReadPass {
    std::uint64_t bytes;
    double seconds;
  };
  ReadPass read_weights(std::span<const std::uint32_t> expert_counts);

  // Rows of one block and layer as bytes in the KV dtype: row_count * kv_layout().row_bytes(). Both return the XXH64 of
  // what they copied. Throw Error(argument)
  // for indices out of range or a span of another size. May be called while a step runs, for rows whose layer it has
  // reported, or that it does not touch.
  std::uint64_t pack_rows(int layer, std::uint32_t block, int first_row, int row_count, std::span<std::byte> out) const;
  std::uint64_t unpack_rows(int layer, std::uint32_t block, int first_row, int row_count,
                            std::span<const std::byte> data);
  void copy_block(std::uint32_t from, std::uint32_t to);

 private:
  struct PlannedRows;
  struct Workspace;
  // Makes the weights, once the backend has taken the model.
  using MakeWeights = std::function<ModelWeights(const ModelConfig&, Backend&, const RankPlan*)>;

  Model(const ModelConfig& config, std::unique_ptr<Backend> backend, KvDtype kv_dtype, std::int64_t kv_blocks,
        const MakeWeights& make_weights, const RankPlan* plan);
  void measure();
  void check_batch(const StepBatch& batch);
  void check_rows(int layer, std::uint32_t block, int first_row, int row_count, std::size_t bytes) const;
  void plan_rows(const StepBatch& batch);
  void begin_ranks(int rows, int logit_rows);
  void leave_failed();
  void compute(const StepBatch& batch, const std::function<void(int)>& on_layer, StepResult& result);
  void run_attention(const LayerWeights& layer, int index, const PlannedRows& rows);
  void restore_order(StepResult& result) const;
  void run_feed_forward(const LayerWeights& layer, int index, int rows, StepResult& result);
  bool runs_last_layer(int logit_rows) const;
  void keep_logit_rows(const LayerWeights& last);

  ModelConfig config_;
  RopePlan rope_plan_;
  MlaShape shape_{};
  bool expands_prompts_ = false;
  KvLayout kv_layout_{};
  ModelInfo info_;
  std::unique_ptr<Backend> backend_;
  ModelWeights weights_;
  std::unique_ptr<ExpertMover> mover_;             // null: there is one rank
  std::unique_ptr<RankGroup> group_;               // null: not joined yet
  std::vector<SlotTable> reachable_;               // [MoE layers] of the group
  std::optional<std::pair<int, int>> unprepared_;  // what to prepare() for once joined
  std::unique_ptr<RopeAngles> rope_;
  std::unique_ptr<KvCache> cache_;
  std::unique_ptr<Workspace> work_;
};

}  // namespace pelagic
