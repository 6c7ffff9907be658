#include "graph/weights.h"

#include <atomic>
#include <charconv>
#include <exception>
#include <mutex>
#include <thread>
#include <unordered_set>

#include "base/xxh64.h"
#include "graph/error.h"
#include "graph/weight_tensor.h"

namespace pelagic {
namespace {

// Takes tensors out of a checkpoint by name and expected shape, and remembers which were taken. Without a checkpoint:
// random ones.
class TensorSource {
 public:
  explicit TensorSource(const Checkpoint* checkpoint) : checkpoint_(checkpoint) {}

  WeightTensor take(const std::string& name, const std::vector<std::int64_t>& shape) {
    if (checkpoint_ == nullptr) return WeightTensor::random(shape, xxh64(name.data(), name.size()));
    const Tensor* tensor = checkpoint_->find(name);
    if (tensor == nullptr)
      throw Error(ErrorCode::checkpoint, name + " is missing from the checkpoint: config.json asks for it");
    if (tensor->shape != shape) {
      throw Error(ErrorCode::checkpoint, tensor->file + ": " + name + " has shape " + shape_text(tensor->shape) +
                                             ", config.json implies " + shape_text(shape));
    }
    taken_.insert(tensor);
    const Tensor* scale = tensor->dtype == DType::f8_e4m3 ? checkpoint_->find(name + "_scale_inv") : nullptr;
    if (scale != nullptr) taken_.insert(scale);
    return WeightTensor(*tensor, scale);
  }

  // A tensor that the config does not describe could change the result (a bias, another expert), so it is an error.
  void refuse_leftovers(const ModelConfig& config) const {
    if (checkpoint_ == nullptr) return;
    for (const Tensor* tensor : checkpoint_->tensors()) {
      if (taken_.contains(tensor) || may_be_ignored(tensor->name, config)) continue;
      throw Error(ErrorCode::checkpoint,
                  tensor->file + ": " + tensor->name + " is unexpected: config.json describes no such tensor");
    }
  }

 private:
  // Multi-token prediction layers; buffers that old checkpoints saved; the head of a model that uses its embedding
  // instead.
  static bool may_be_ignored(const std::string& name, const ModelConfig& config) {
    static const std::string kLayers = "model.layers.";
    if (name.ends_with(".rotary_emb.inv_freq")) return true;
    if (name == "lm_head.weight") return config.tied_embeddings;
    if (!name.starts_with(kLayers)) return false;
    std::int64_t layer = -1;
    const char* digits = name.data() + kLayers.size();
    const auto parsed = std::from_chars(digits, name.data() + name.size(), layer);
    return parsed.ec == std::errc() && layer >= config.layer_count;
  }

  const Checkpoint* checkpoint_;
  std::unordered_set<const Tensor*> taken_;
};

RowSource rows_of(const WeightTensor& tensor) {
  RowSource source = [tensor](int row, float* out) { tensor.read_row(row, out); };
  if (tensor.is_fp8())
    source.fp8 = [tensor](int row, std::uint8_t* codes, float* scales) { tensor.read_fp8_row(row, codes, scales); };
  return source;
}

// Pieces of packing work, independent of one another. Collected first, so that all names and shapes are checked before
// any work is done.
class LoadJobs {
 public:
  void add(std::uint64_t bytes, std::function<void()> run) {
    jobs_.push_back({bytes, std::move(run)});
    total_bytes_ += bytes;
  }

  void run(int threads, const LoadProgress& progress) {
    std::atomic<std::size_t> next{0};
    std::mutex mutex;  // guards bytes_done, failure and progress calls
    std::uint64_t bytes_done = 0;
    std::exception_ptr failure;
    const auto work = [&] {
      for (std::size_t i = next++; i < jobs_.size(); i = next++) {
        try {
          jobs_[i].run();
          const std::lock_guard lock(mutex);
          bytes_done += jobs_[i].bytes;
          if (progress && !failure) progress(bytes_done, total_bytes_);
        } catch (...) {
          const std::lock_guard lock(mutex);
          if (!failure) failure = std::current_exception();
          next = jobs_.size();
        }
      }
    };
    {
      std::vector<std::jthread> helpers;
      for (int i = 1; i < threads; ++i) helpers.emplace_back(work);
      work();
    }
    if (failure) std::rethrow_exception(failure);
  }

 private:
  struct Job {
    std::uint64_t bytes;
    std::function<void()> run;
  };
  std::vector<Job> jobs_;
  std::uint64_t total_bytes_ = 0;
};

// Describes the packing of every tensor of a model; nothing is read before LoadJobs::run.
class Loader {
 public:
  // checkpoint: null for random weights.
  Loader(const ModelConfig& config, const Checkpoint* checkpoint, Backend& backend, const RankPlan* plan)
      : config_(config), source_(checkpoint), backend_(backend), plan_(plan) {}

  ModelWeights load(int threads, const LoadProgress& progress) {
    ModelWeights weights;
    weights.layers.resize(static_cast<std::size_t>(config_.layer_count));
    const WeightTensor embedding = source_.take("model.embed_tokens.weight", {config_.vocab_size, config_.hidden_size});
    jobs_.add(embedding.bytes(), [this, &weights, embedding] {
      weights.embedding =
          backend_.make_embedding(narrow(config_.vocab_size), narrow(config_.hidden_size), rows_of(embedding));
    });
    for (std::int64_t layer = 0; layer < config_.layer_count; ++layer) {
      LayerWeights& out = weights.layers[static_cast<std::size_t>(layer)];
      const std::string prefix = "model.layers." + std::to_string(layer) + ".";
      describe_attention(prefix, out);
      if (config_.is_moe_layer(layer)) {
        describe_experts(prefix + "mlp.", out);
      } else {
        describe_mlp(prefix + "mlp.", config_.dense_intermediate, out.mlp);
      }
    }
    vector("model.norm.weight", config_.hidden_size, weights.final_norm);
    matrix(config_.tied_embeddings ? "model.embed_tokens.weight" : "lm_head.weight", config_.vocab_size,
           config_.hidden_size, weights.head);
    source_.refuse_leftovers(config_);
    for (LayerWeights* layer : banks_) {
      layer->bank = backend_.make_mlp_bank(static_cast<int>(layer->slots.size()), narrow(config_.expert_intermediate),
                                           narrow(config_.hidden_size));
    }
    jobs_.run(threads, progress);
    return weights;
  }

 private:
  static int narrow(std::int64_t value) { return static_cast<int>(value); }

  void vector(const std::string& name, std::int64_t size, std::unique_ptr<Vector>& out) {
    const WeightTensor tensor = source_.take(name, {size});
    jobs_.add(tensor.bytes(), [this, &out, tensor] {
      std::vector<float> values(static_cast<std::size_t>(tensor.columns()));
      tensor.read_row(0, values.data());
      out = backend_.make_vector(values);
    });
  }

  void matrix(const std::string& name, std::int64_t n, std::int64_t k, std::unique_ptr<Matrix>& out) {
    const WeightTensor tensor = source_.take(name, {n, k});
    jobs_.add(tensor.bytes(), [this, &out, tensor] {
      out = backend_.make_matrix(narrow(tensor.rows()), narrow(tensor.columns()), rows_of(tensor));
    });
  }

  void projection(const std::string& name, std::int64_t n, std::int64_t k, std::unique_ptr<Matrix>& out) {
    const WeightTensor tensor = source_.take(name, {n, k});
    jobs_.add(tensor.bytes(), [this, &out, tensor] {
      out = backend_.make_projection(narrow(tensor.rows()), narrow(tensor.columns()), rows_of(tensor));
    });
  }

  void describe_attention(const std::string& prefix, LayerWeights& out) {
    const std::int64_t hidden = config_.hidden_size;
    const std::string attention = prefix + "self_attn.";
    vector(prefix + "input_layernorm.weight", hidden, out.input_norm);
    vector(prefix + "post_attention_layernorm.weight", hidden, out.post_norm);
    vector(attention + "kv_a_layernorm.weight", config_.kv_rank, out.kv_norm);
    const std::int64_t query_rows = config_.head_count * config_.query_key_dim();
    if (config_.query_rank > 0) {
      vector(attention + "q_a_layernorm.weight", config_.query_rank, out.query_norm);
      projection(attention + "q_b_proj.weight", query_rows, config_.query_rank, out.query);
    } else {
      projection(attention + "q_proj.weight", query_rows, hidden, out.query);
    }
    describe_compress(attention, out);
    describe_absorbed(attention, out);
    projection(attention + "o_proj.weight", hidden, config_.head_count * config_.value_dim, out.output);
  }

  // W_DKV and W_DQ read the same input, so they are one GEMM; stacking rows (n) changes no sum.
  void describe_compress(const std::string& attention, LayerWeights& out) {
    const WeightTensor kv =
        source_.take(attention + "kv_a_proj_with_mqa.weight", {config_.latent_width(), config_.hidden_size});
    WeightTensor query;
    if (config_.query_rank > 0)
      query = source_.take(attention + "q_a_proj.weight", {config_.query_rank, config_.hidden_size});
    jobs_.add(kv.bytes() + (config_.query_rank > 0 ? query.bytes() : 0), [this, &out, kv, query] {
      const int kv_rows = narrow(kv.rows());
      out.compress =
          backend_.make_matrix(kv_rows + narrow(query.rows()), narrow(kv.columns()), [&](int row, float* to) {
            if (row < kv_rows) {
              kv.read_row(row, to);
            } else {
              query.read_row(row - kv_rows, to);
            }
          });
    });
  }

  // kv_b_proj viewed as [H, dn + dv, kv_rank]: a head's first dn rows are W_UK, the others W_UV.
  void describe_absorbed(const std::string& attention, LayerWeights& out) {
    const int nope = narrow(config_.nope_dim);
    const int band = nope + narrow(config_.value_dim);
    const WeightTensor kv_b =
        source_.take(attention + "kv_b_proj.weight", {config_.head_count * band, config_.kv_rank});
    jobs_.add(kv_b.bytes(), [this, &out, kv_b, nope, band] {
      const int heads = narrow(config_.head_count);
      const int rank = narrow(config_.kv_rank);
      out.uk = backend_.make_head_matrices_transposed(heads, rank, nope, [&](int head, int row, float* to) {
        kv_b.read_row(static_cast<std::int64_t>(head) * band + row, to);
      });
      out.uv = backend_.make_head_matrices(heads, band - nope, rank, [&](int head, int row, float* to) {
        kv_b.read_row(static_cast<std::int64_t>(head) * band + nope + row, to);
      });
      if (backend_.expands_prompts(mla_shape(config_)))
        out.ukv = backend_.make_matrix(heads * band, rank, [&](int row, float* to) { kv_b.read_row(row, to); });
    });
  }

  void describe_mlp(const std::string& prefix, std::int64_t width, std::unique_ptr<Mlp>& out) {
    const std::int64_t hidden = config_.hidden_size;
    const WeightTensor gate = source_.take(prefix + "gate_proj.weight", {width, hidden});
    const WeightTensor up = source_.take(prefix + "up_proj.weight", {width, hidden});
    const WeightTensor down = source_.take(prefix + "down_proj.weight", {hidden, width});
    jobs_.add(gate.bytes() + up.bytes() + down.bytes(), [this, &out, gate, up, down] {
      out = backend_.make_mlp(narrow(gate.rows()), narrow(gate.columns()), rows_of(gate), rows_of(up), rows_of(down));
    });
  }

  // slots: those that the expert goes to.
  void describe_expert(const std::string& prefix, const std::vector<int>& slots, LayerWeights& out) {
    const std::int64_t hidden = config_.hidden_size;
    const std::int64_t width = config_.expert_intermediate;
    const WeightTensor gate = source_.take(prefix + "gate_proj.weight", {width, hidden});
    const WeightTensor up = source_.take(prefix + "up_proj.weight", {width, hidden});
    const WeightTensor down = source_.take(prefix + "down_proj.weight", {hidden, width});
    for (const int slot : slots) {
      jobs_.add(gate.bytes() + up.bytes() + down.bytes(), [this, &out, slot, gate, up, down] {
        out.slots[static_cast<std::size_t>(slot)] =
            backend_.make_expert(out.bank.get(), slot, narrow(gate.rows()), narrow(gate.columns()), rows_of(gate),
                                 rows_of(up), rows_of(down));
      });
    }
  }

  void describe_experts(const std::string& prefix, LayerWeights& out) {
    const WeightTensor gate = source_.take(prefix + "gate.weight", {config_.expert_count, config_.hidden_size});
    jobs_.add(gate.bytes(), [this, &out, gate] {
      out.gate = backend_.make_gate_matrix(narrow(gate.rows()), narrow(gate.columns()), rows_of(gate));
    });
    if (config_.gate == GateMethod::sigmoid_noaux_tc) {
      vector(prefix + "gate.e_score_correction_bias", config_.expert_count, out.gate_bias);
    }
    if (config_.shared_expert_count > 0) {
      describe_mlp(prefix + "shared_experts.", config_.shared_expert_count * config_.expert_intermediate, out.mlp);
    }
    std::vector<std::vector<int>> slots_of(static_cast<std::size_t>(config_.expert_count));
    if (plan_ == nullptr) {
      out.placement = SlotTable::identity(narrow(config_.expert_count));
      out.slots.resize(slots_of.size());
      for (std::size_t expert = 0; expert < slots_of.size(); ++expert) slots_of[expert] = {static_cast<int>(expert)};
    } else {
      const std::size_t layer = banks_.size();
      out.placement = SlotTable(plan_->plan.layers[layer], narrow(config_.expert_count));
      const auto own = plan_->own_slots(layer);
      out.slots.resize(own.size());
      for (std::size_t slot = 0; slot < own.size(); ++slot) {
        if (own[slot] >= 0) slots_of[static_cast<std::size_t>(own[slot])].push_back(static_cast<int>(slot));
      }
    }
    for (std::int64_t expert = 0; expert < config_.expert_count; ++expert) {
      describe_expert(prefix + "experts." + std::to_string(expert) + ".", slots_of[static_cast<std::size_t>(expert)],
                      out);
    }
    banks_.push_back(&out);
  }

  const ModelConfig& config_;
  TensorSource source_;
  Backend& backend_;
  const RankPlan* plan_;  // null: one rank
  LoadJobs jobs_;
  std::vector<LayerWeights*> banks_;  // the MoE layers
};

}  // namespace

ModelWeights load_weights(const ModelConfig& config, const Checkpoint& checkpoint, Backend& backend, int threads,
                          const LoadProgress& progress, const RankPlan* plan) {
  return Loader(config, &checkpoint, backend, plan).load(threads, progress);
}

LoadedExpert load_expert(const ModelConfig& config, const Checkpoint& checkpoint, Backend& backend, int moe_layer,
                         int expert) {
  TensorSource source(&checkpoint);
  const std::string prefix = "model.layers." + std::to_string(config.dense_layer_count + moe_layer) + ".mlp.experts." +
                             std::to_string(expert) + ".";
  const std::int64_t hidden = config.hidden_size, width = config.expert_intermediate;
  const WeightTensor gate = source.take(prefix + "gate_proj.weight", {width, hidden});
  const WeightTensor up = source.take(prefix + "up_proj.weight", {width, hidden});
  const WeightTensor down = source.take(prefix + "down_proj.weight", {hidden, width});
  return {backend.make_expert(nullptr, 0, static_cast<int>(width), static_cast<int>(hidden), rows_of(gate), rows_of(up),
                              rows_of(down)),
          gate.bytes() + up.bytes() + down.bytes()};
}

ModelWeights random_weights(const ModelConfig& config, Backend& backend, int threads) {
  return Loader(config, nullptr, backend, nullptr).load(threads, {});
}

}  // namespace pelagic
