// The op interface that the model graph is written over. The graph decides what is computed and in which order; a
// backend owns memory, packed weights and threads or streams. Two backends: cpu (backend/cpu), and cuda, a shared
// object opened at run time.
//
// All ops are asynchronous in principle: they take effect in the order of the calls, and what they write to host memory
// (counts, digests, logits, samples) is there after finish(). Host memory that an op reads must stay as it is until
// then. The cpu backend happens to finish each op before it returns.
//
// A backend keeps the row rule: the bits of an output row depend on that row's inputs only, never on how many rows a
// call has.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "ops/gate/gate.h"
#include "ops/kv_cache/kv_cache.h"
#include "ops/moe/moe.h"
#include "ops/sampler/sampler.h"

namespace pelagic {

class RankGroup;

// Something that lives in the backend's memory. The graph only holds and passes it; each backend knows its own kinds.
class BackendObject {
 public:
  virtual ~BackendObject() = default;
  // Bytes it occupies, as packed.
  virtual std::size_t bytes() const = 0;
};

class Activations : public BackendObject {};   // [elements]
class Vector : public BackendObject {};        // [n], float32
class Matrix : public BackendObject {};        // W [n, k]
class HeadMatrices : public BackendObject {};  // W_h [heads, n, k]
class Mlp : public BackendObject {};           // gate and up [width, hidden], down [hidden, width]
class MlpBank : public BackendObject {};       // room for equal MLPs side by side: a layer's experts by slot
class Embedding : public BackendObject {};     // [vocab, hidden]
class RopeAngles : public BackendObject {};    // cos and sin by position
class KvCache : public BackendObject {};       // [layer][block][64 rows][kv_rank + rope_dim]

// What activations are held in. Working: the backend's own element type (cpu float32, cuda bfloat16). Full: float32 on
// all of them, for the residual stream and the logits.
enum class Precision { working, full };

// Some rows of activations: row i starts at element offset + i * stride.
struct View {
  Activations* memory = nullptr;
  std::int64_t offset = 0;
  std::int64_t stride = 0;
};

// Writes row `row` of a weight matrix, as float32, to out. Called from several threads at once for different matrices.
struct RowSource : std::function<void(int row, float* out)> {
  using function::function;
  // Where the checkpoint holds e4m3 with a scale for each 128 x 128, else empty: the row as it is there, its k codes
  // and ceil(k / 128) scales.
  std::function<void(int row, std::uint8_t* codes, float* scales)> fp8;
};
using HeadRowSource = std::function<void(int head, int row, float* out)>;

// Rows of a step: runs of consecutive positions of one sequence, in the order of the rows.
struct RowRun {
  int first_position;
  int rows;
  const std::uint32_t* blocks;  // the sequence's block table: block t holds positions 64t .. 64t+63
};
struct RowSet {
  std::vector<RowRun> runs;
  std::vector<std::int32_t> positions;  // of every row
  int rows() const { return static_cast<int>(positions.size()); }
};

struct MlaShape {
  int heads;
  int nope_dim;   // dn
  int rope_dim;   // dr
  int value_dim;  // dv
  int kv_rank;
};

// Where a layer's rows meet the experts of other ranks.
struct MoeRanks {
  RankGroup* group;
  int layer;  // among the MoE layers
  bool last;  // only logit rows are left
  std::span<const std::int32_t> logical_of_own_slots;
};

// One layer's experts: weights by physical slot, and which logical expert a slot holds.
struct MoeLayer {
  GateConfig gate;                              // its bias pointer is unused: gate_bias
  const Matrix* gate_weights;                   // [experts, hidden], of make_gate_matrix
  const Vector* gate_bias;                      // [experts] or null
  const SlotTable* placement;                   // of all ranks; slots_of: those that rows may go to
  std::span<const std::unique_ptr<Mlp>> slots;  // of this rank; null: spare
  const MlpBank* bank;                          // of the slots; null where the backend has none
  const Mlp* shared;                            // null: no shared experts
  MoeRanks ranks;                               // group null: there is one rank
};

// A step before its ops: all that decides which they are, beside the model.
struct StepShape {
  const RowSet* rows;
  int logit_rows;
  bool digests;
  bool logits;
  bool reports_layers;  // when_done is used
  bool expands;         // attend_expanded is used
  bool ranks;           // MoE layers go over several ranks
};

class Backend {
 public:
  virtual ~Backend() = default;

  // Throws Error naming the field where the backend has no kernels for the model. Before anything is loaded.
  virtual void check_model(const MlaShape& /*shape*/, const KvLayout& /*layout*/) {}
  // Of the card that holds weights and cache; 0: the machine's own memory does.
  virtual std::int64_t card_bytes() const { return 0; }
  // Whether moe can share a layer's experts with other ranks.
  virtual bool shares_experts() const { return false; }
  // This rank has met the others of a group, with which its next steps go. Throws Error(rank_lost).
  virtual void meet(RankGroup& /*group*/) {}

  // ---- Memory and weights. The make_ functions may be called from several threads at once. They throw std::bad_alloc.

  virtual std::unique_ptr<Activations> make_activations(std::size_t elements, Precision precision) = 0;
  virtual std::unique_ptr<Vector> make_vector(std::span<const float> values) = 0;
  virtual std::unique_ptr<Matrix> make_matrix(int n, int k, const RowSource& rows) = 0;
  // One that a backend may hold in fewer bits, as it may the MLPs: not the latents' nor the head's.
  virtual std::unique_ptr<Matrix> make_projection(int n, int k, const RowSource& rows) {
    return make_matrix(n, k, rows);
  }
  // The gate's: its products are float32 on every backend.
  virtual std::unique_ptr<Matrix> make_gate_matrix(int n, int k, const RowSource& rows) {
    return make_matrix(n, k, rows);
  }
  virtual std::unique_ptr<HeadMatrices> make_head_matrices(int heads, int n, int k, const HeadRowSource& rows) = 0;
  // The same from W_h^T: rows(head, i) writes row i in [0, k) of the [k, n] matrix.
  virtual std::unique_ptr<HeadMatrices> make_head_matrices_transposed(int heads, int n, int k,
                                                                      const HeadRowSource& rows) = 0;
  virtual std::unique_ptr<Mlp> make_mlp(int width, int hidden, const RowSource& gate, const RowSource& up,
                                        const RowSource& down) = 0;
  // Room for `slots` MLPs, where the backend wants a layer's experts side by side; null where it does not.
  virtual std::unique_ptr<MlpBank> make_mlp_bank(int /*slots*/, int /*width*/, int /*hidden*/) { return nullptr; }
  // make_mlp in a slot of a bank, which outlives it; bank: what make_mlp_bank gave. Null: an expert that is to come to
  // a bank later; may be made while steps run.
  virtual std::unique_ptr<Mlp> make_expert(MlpBank* /*bank*/, int /*slot*/, int width, int hidden,
                                           const RowSource& gate, const RowSource& up, const RowSource& down) {
    return make_mlp(width, hidden, gate, up, down);
  }
  // Between steps: slots hold other experts from now on, some of them still elsewhere.
  virtual void arrange_bank(MlpBank* /*bank*/, std::span<const std::unique_ptr<Mlp>> /*slots*/) {}
  virtual std::unique_ptr<Embedding> make_embedding(int vocab, int hidden, const RowSource& rows) = 0;
  // Angles position * frequency for positions [0, positions); amplitude multiplies cos and sin.
  virtual std::unique_ptr<RopeAngles> make_rope(std::span<const double> frequencies, int positions,
                                                double amplitude) = 0;
  virtual std::unique_ptr<KvCache> make_kv_cache(const KvLayout& layout) = 0;

  // ---- Ops. x, y, ...: one row for each token.

  // Steps of at most so many rows will come, so many of them with logits, none at or beyond position `positions`: takes
  // the most that attention can need for any of them, which depends on more than the number of rows. Throws
  // Error(memory).
  virtual void reserve_attention(const MlaShape& /*shape*/, int /*rows*/, int /*logit_rows*/, int /*positions*/) {}
  // How often memory that steps use has been taken so far: for tests of what a step takes.
  virtual std::uint64_t allocations() const { return 0; }

  // The ops of one step follow, up to finish(). A backend may replay what it recorded of a step of the same shape.
  virtual void begin_step(const StepShape& /*step*/) {}

  // y[i, :] = embedding[tokens[i], :].
  virtual void embed(const Embedding& embedding, std::span<const std::uint32_t> tokens, View y) = 0;

  // x = x + delta, where delta.memory is given (the residual stream); y = x / sqrt(mean(x^2) + eps) * weight. width: of
  // weight.
  virtual void rms_norm(int rows, View x, View delta, const Vector& weight, float eps, View y) = 0;

  // y[m, n] = sum_k x[m, k] W[n, k], in y's precision.
  virtual void linear(int rows, View x, const Matrix& w, View y) = 0;

  // y[m, h, n] = sum_k x[m, h, k] W[h, n, k]; heads lie side by side in a row of x and of y.
  virtual void head_linear(int rows, View x, const HeadMatrices& w, View y) = 0;

  // Writes rows' latents of one layer to the cache. compressed: [rows, kv_rank + rope_dim] = W_DKV h:
  //   c = rms_norm(compressed[: kv_rank]; norm), k_pe = rope(compressed[kv_rank :], position).
  virtual void store_latents(const RowSet& rows, View compressed, const Vector& norm, float eps, const RopeAngles& rope,
                             KvCache& cache, int layer) = 0;

  // q: [rows, heads, dn + dr] -> absorbed: [rows, heads, kv_rank + dr]
  //   absorbed_h = (q_nope_h W_UK_h, rope(q_pe_h, position)); uk: W_UK^T by head, n = kv_rank, k = dn.
  virtual void absorb_queries(const RowSet& rows, const MlaShape& shape, View q, const HeadMatrices& uk,
                              const RopeAngles& rope, View absorbed) = 0;

  // u: [rows, heads, kv_rank]; u_h = sum_s softmax_s(scale * absorbed_h . K[s]) c[s] over the row's keys s <= position.
  virtual void attend(const RowSet& rows, const MlaShape& shape, View absorbed, float scale, const KvCache& cache,
                      int layer, View u) = 0;

  // Whether such a model's prompt rows (p < P-1) take attend_expanded; if not, all rows take the absorbed form.
  virtual bool expands_prompts(const MlaShape& /*shape*/) const { return false; }

  // The same attention with keys and values of their own for each head, made from the latents: where many rows see the
  // same keys. q: [rows, heads, dn + dr], which is overwritten; ukv: kv_b_proj [heads (dn + dv), kv_rank].
  //   values: [rows, heads, dv]; values_h = sum_s softmax_s(scale * (q_nope_h W_UK_h c[s] + rope(q_pe_h) . k_pe[s]))
  //   W_UV_h c[s]
  virtual void attend_expanded(const RowSet& /*rows*/, const MlaShape& /*shape*/, View /*q*/, const Matrix& /*ukv*/,
                               const RopeAngles& /*rope*/, float /*scale*/, const KvCache& /*cache*/, int /*layer*/,
                               View /*values*/) {}

  // y = W_down (silu(W_gate x) * W_up x).
  virtual void mlp(int rows, View x, const Mlp& w, View y) = 0;

  // y = shared(x) + sum over the top k of weight * expert(x). counts: [experts], the rows sent to each are added. With
  // other ranks every one of them makes this call, with no rows where it has none.
  virtual void moe(int rows, View x, const MoeLayer& layer, View y, std::span<std::uint32_t> counts) = 0;

  // y[i, :] = x[rows[i], :].
  virtual void gather(std::span<const std::uint32_t> rows, View x, int width, View y) = 0;

  // Calls fn when everything asked for so far is done, while later ops may already run. Called on any thread.
  virtual void when_done(const std::function<void()>& fn) = 0;

  // digests[i] = XXH64 of row i as float32 bytes.
  virtual void digest_rows(int rows, View x, int width, std::span<std::uint64_t> digests) = 0;

  // Copies rows as float32 to out: [rows, width].
  virtual void read_rows(int rows, View x, int width, std::span<float> out) = 0;

  // results[i] = a token sampled from logits row i at positions[i], where params[i] is not null.
  virtual void sample(View logits, int vocab, std::span<const std::int32_t> positions,
                      std::span<const SamplingParams* const> params, std::span<SampleResult> results) = 0;

  // Returns when everything asked for is done. What failed on the way is thrown here, if not before.
  virtual void finish() = 0;

  // Instead of finish(), after an op has thrown: waits, and forgets what was asked for. Does not throw.
  virtual void cancel() {}

  // ---- For benches: seconds that reading these weights once takes and nothing else, with the ops' threads. What a
  // step that reads the same weights cannot beat.
  virtual double read_pass(std::span<const BackendObject* const> weights) = 0;

  // ---- The cache's rows as bytes in the KV dtype, synchronous. May be called from another thread while a step runs,
  // for rows that the step does not write any more (their layer was reported) or not at all. Callers have checked all
  // indices.

  // Copies rows [first_row, first_row + row_count) of one block and layer to out and returns the bytes' XXH64.
  virtual std::uint64_t pack_rows(const KvCache& cache, int layer, std::uint32_t block, int first_row, int row_count,
                                  std::byte* out) = 0;
  // The inverse; returns the XXH64 of what it stored.
  virtual std::uint64_t unpack_rows(KvCache& cache, int layer, std::uint32_t block, int first_row, int row_count,
                                    const std::byte* data) = 0;
  // Copies a whole block, all layers.
  virtual void copy_block(KvCache& cache, std::uint32_t from, std::uint32_t to) = 0;
};

}  // namespace pelagic
