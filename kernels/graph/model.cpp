#include "graph/model.h"

#include <unistd.h>

#include <algorithm>
#include <new>
#include <stdexcept>
#include <string>

#include "graph/error.h"

namespace pelagic {
namespace {

// The latent norms' epsilon is fixed, whatever rms_norm_eps says: so in DeepSeek's and Hugging Face's code.
constexpr float kLatentNormEps = 1e-6f;

[[noreturn]] void refuse(const std::string& what) { throw Error(ErrorCode::argument, what); }

std::string indexed(const char* field, std::size_t index) {
  return std::string(field) + "[" + std::to_string(index) + "]";
}

void check_length(const char* field, std::size_t actual, std::size_t wanted) {
  if (actual != wanted) {
    refuse(std::string(field) + " has " + std::to_string(actual) + " elements, expected " + std::to_string(wanted));
  }
}

}  // namespace

// Rows in the order that they are computed in: those in expanded form first.
struct Model::PlannedRows {
  RowSet all;
  RowSet expanded;  // the first of them; no runs: none, and the absorbed ones are `all`
  RowSet rest;
  const RowSet& absorbed() const { return expanded.runs.empty() ? all : rest; }

  void clear() {
    for (RowSet* set : {&all, &expanded, &rest}) {
      set->runs.clear();
      set->positions.clear();
    }
  }
  // Called for expanded rows first. goes_on: they follow the rows added last, in the same sequence and form.
  void add(bool expand, int first_position, int rows, const std::uint32_t* blocks, bool goes_on) {
    const auto to = [&](RowSet& set) {
      if (goes_on) {
        set.runs.back().rows += rows;
      } else {
        set.runs.push_back({first_position, rows, blocks});
      }
      for (int r = 0; r < rows; ++r) set.positions.push_back(first_position + r);
    };
    to(all);
    if (expand) {
      to(expanded);
    } else if (!expanded.runs.empty()) {
      to(rest);
    }
  }
};

// Activations of a step, for the largest batch seen so far. One row for each token.
struct Model::Workspace {
  int capacity = 0;  // rows
  int logit_capacity = 0;
  int absorbed_capacity = 0;
  std::unique_ptr<Activations> stream;      // D, full precision: the residual stream
  std::unique_ptr<Activations> hidden[2];   // D: a norm's output, what the next norm adds to the stream
  std::unique_ptr<Activations> compressed;  // kv_rank + dr + query_rank
  std::unique_ptr<Activations> queries;     // H (dn + dr)
  std::unique_ptr<Activations> absorbed;    // H (kv_rank + dr)
  std::unique_ptr<Activations> contexts;    // H kv_rank: attention's weighted sums of latents
  std::unique_ptr<Activations> values;      // H dv
  std::unique_ptr<Activations> kept;        // D, full precision: the stream of the rows whose logits are wanted
  std::unique_ptr<Activations> logits;      // vocab, full precision

  View x;      // the residual stream
  View h;      // a norm's output
  View delta;  // what the next norm adds to x

  PlannedRows rows;        // all rows of the call
  PlannedRows logit_rows;  // those whose logits are wanted
  // Where rows are computed in another order than the call's (in_order false): the call's row of each, for logit rows
  // the call's place among them, and what goes with them.
  bool in_order = true;
  std::vector<std::uint32_t> tokens;
  std::vector<std::uint32_t> logit_places;
  std::vector<const SamplingParams*> sampling;
  std::vector<std::uint32_t> logit_indices;  // of each logit row among `rows`
  std::vector<std::uint32_t>
      block_writers;  // [KV blocks]: 1 + the sequence that writes to the block in this call; 0 between calls
};

Model::Model(const std::filesystem::path& dir, std::unique_ptr<Backend> backend, KvDtype kv_dtype,
             std::int64_t kv_blocks, int threads, const LoadProgress& progress, std::optional<RankPlan> plan)
    : Model(
          load_config(dir), std::move(backend), kv_dtype, kv_blocks,
          [&](const ModelConfig& config, Backend& to, const RankPlan* own) {
            const Checkpoint checkpoint(dir);  // unmapped as soon as the weights are packed
            return load_weights(config, checkpoint, to, threads, progress, own);
          },
          plan ? &*plan : nullptr) {
  if (plan) mover_ = std::make_unique<ExpertMover>(config_, dir, *backend_, weights_.layers, std::move(*plan));
}

Model::Model(const ModelConfig& config, std::unique_ptr<Backend> backend, KvDtype kv_dtype, std::int64_t kv_blocks,
             int threads)
    : Model(
          config, std::move(backend), kv_dtype, kv_blocks,
          [&](const ModelConfig& c, Backend& to, const RankPlan*) { return random_weights(c, to, threads); }, nullptr) {
}

Model::Model(const ModelConfig& config, std::unique_ptr<Backend> backend, KvDtype kv_dtype, std::int64_t kv_blocks,
             const MakeWeights& make_weights, const RankPlan* plan)
    : config_(config),
      rope_plan_(plan_rope(config_)),
      backend_(std::move(backend)),
      work_(std::make_unique<Workspace>()) {
  shape_ = mla_shape(config_);
  expands_prompts_ = backend_->expands_prompts(shape_);
  kv_layout_ = {.layers = static_cast<int>(config_.layer_count),
                .blocks = 0,
                .kv_rank = shape_.kv_rank,
                .rope_dim = shape_.rope_dim,
                .dtype = kv_dtype};
  const auto block_bytes = config_.layer_count * static_cast<std::int64_t>(kv_layout_.block_bytes());
  const std::int64_t card = backend_->card_bytes();
  const std::int64_t memory =
      card > 0 ? card : static_cast<std::int64_t>(::sysconf(_SC_PHYS_PAGES)) * ::sysconf(_SC_PAGESIZE);
  if (kv_blocks < 1) refuse("kvBlocks must be at least 1");
  if (kv_blocks > memory / block_bytes) {
    throw Error(ErrorCode::memory, "kvBlocks: " + std::to_string(kv_blocks) + " blocks of " +
                                       std::to_string(block_bytes) + " bytes do not fit in " +
                                       (card > 0 ? "the card's" : "this machine's") + " memory (" +
                                       std::to_string(memory) + " bytes)");
  }
  kv_layout_.blocks = static_cast<int>(kv_blocks);
  backend_->check_model(shape_, kv_layout_);
  if (plan != nullptr) {
    if (!backend_->shares_experts()) refuse("this backend cannot share experts with other ranks");
    check_plan(plan->plan, plan->plan.rank_count, static_cast<int>(config_.moe_layer_count()),
               static_cast<int>(config_.expert_count));
    if (plan->rank < 0 || plan->rank >= plan->plan.rank_count)
      refuse("rank is " + std::to_string(plan->rank) + ", the plan has " + std::to_string(plan->plan.rank_count));
  }
  try {
    weights_ = make_weights(config_, *backend_, plan);
    cache_ = backend_->make_kv_cache(kv_layout_);
    work_->block_writers.resize(static_cast<std::size_t>(kv_blocks));
    // No sequence is longer than the whole cache.
    const std::int64_t positions = std::min(config_.max_positions, kv_blocks * kBlockRows);
    rope_ = backend_->make_rope(rope_plan_.frequencies, static_cast<int>(positions), rope_plan_.amplitude);
  } catch (const std::bad_alloc&) {
    throw Error(ErrorCode::memory, "not enough memory for the weights and " + std::to_string(kv_blocks) +
                                       " KV blocks of " + std::to_string(block_bytes) + " bytes");
  }
  measure();
}

Model::~Model() = default;

// Fills info_.
void Model::measure() {
  const auto add = [&](const BackendObject* object, double active_share = 1) {
    if (object == nullptr) return;
    info_.weight_bytes += object->bytes();
    info_.active_weight_bytes += static_cast<std::uint64_t>(static_cast<double>(object->bytes()) * active_share);
  };
  add(weights_.embedding.get(), 1 / static_cast<double>(config_.vocab_size));
  for (const LayerWeights& layer : weights_.layers) {
    for (const BackendObject* object : std::initializer_list<const BackendObject*>{
             layer.input_norm.get(), layer.post_norm.get(), layer.kv_norm.get(), layer.query_norm.get(),
             layer.compress.get(), layer.query.get(), layer.uk.get(), layer.uv.get(), layer.output.get(),
             layer.mlp.get(), layer.gate.get(), layer.gate_bias.get()}) {
      add(object);
    }
    add(layer.ukv.get(), 0);  // no decode token's
    // With other ranks: this one's share of them.
    for (const auto& slot : layer.slots)
      add(slot.get(), static_cast<double>(config_.experts_per_token) / static_cast<double>(layer.placement.slots()));
  }
  add(weights_.final_norm.get());
  add(weights_.head.get());

  const std::int64_t heads = config_.head_count;
  const std::int64_t query_input = config_.query_rank > 0 ? config_.query_rank : config_.hidden_size;
  const std::int64_t attention = (config_.latent_width() + config_.query_rank) * config_.hidden_size +
                                 heads * config_.query_key_dim() * query_input +
                                 heads * (config_.nope_dim + config_.value_dim) * config_.kv_rank +
                                 heads * config_.value_dim * config_.hidden_size;
  const std::int64_t dense = 3 * config_.hidden_size * config_.dense_intermediate;
  const std::int64_t moe =
      config_.hidden_size * (config_.expert_count + 3 * config_.expert_intermediate *
                                                        (config_.experts_per_token + config_.shared_expert_count));
  const std::int64_t products = config_.layer_count * attention + config_.dense_layer_count * dense +
                                config_.moe_layer_count() * moe + config_.vocab_size * config_.hidden_size;
  info_.gemm_flops_per_row = 2.0 * static_cast<double>(products);
  info_.attention_flops_per_pair =
      2.0 * static_cast<double>(config_.layer_count * heads * (config_.latent_width() + config_.kv_rank));
}

void Model::prepare(int rows, int logit_rows) {
  if (mover_ && group_ == nullptr) {
    unprepared_ = {rows, logit_rows};
    return;
  }
  const auto positions =
      static_cast<int>(std::min<std::int64_t>(config_.max_positions, std::int64_t{kv_layout_.blocks} * kBlockRows));
  // Sequences until there are enough rows, or no more blocks to write them to; the first is the longest there can be.
  std::vector<std::uint32_t> counts, starts, blocks, offsets = {0};
  int made = 0, free_blocks = kv_layout_.blocks;
  while (made < rows && free_blocks > 0) {
    const int count = static_cast<int>(
        std::min<std::int64_t>(std::min(rows - made, positions), std::int64_t{free_blocks} * kBlockRows));
    const int start = made == 0 ? positions - count : 0;
    counts.push_back(static_cast<std::uint32_t>(count));
    starts.push_back(static_cast<std::uint32_t>(start));
    for (int block = 0; block * kBlockRows < start + count; ++block)
      blocks.push_back(static_cast<std::uint32_t>(kv_layout_.blocks - free_blocks--));
    offsets.push_back(static_cast<std::uint32_t>(blocks.size()));
    made += count;
  }
  rows = made;
  logit_rows = std::min(logit_rows, rows);
  backend_->reserve_attention(shape_, rows, logit_rows, positions);
  const std::vector<std::uint32_t> tokens(static_cast<std::size_t>(rows));
  // The last rows have logits and take the absorbed form, the others the expanded one where there is one.
  std::vector<std::uint32_t> logits, prompts;
  for (int row = rows - logit_rows; row < rows; ++row) logits.push_back(static_cast<std::uint32_t>(row));
  int end_row = 0;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    end_row += static_cast<int>(counts[i]);
    const int with_logits = std::clamp(end_row - (rows - logit_rows), 0, static_cast<int>(counts[i]));
    prompts.push_back(starts[i] + counts[i] - static_cast<std::uint32_t>(with_logits) + 1);
  }
  const SamplingParams greedy;
  const std::vector<const SamplingParams*> sampling(logits.size(), &greedy);
  StepResult result;
  step({.tokens = tokens,
        .row_counts = counts,
        .start_positions = starts,
        .prompt_lengths = prompts,
        .block_table = blocks,
        .block_offsets = offsets,
        .logit_rows = logits,
        .sampling = sampling},
       {}, result);
}

Model::ReadPass Model::read_weights(std::span<const std::uint32_t> expert_counts) {
  const auto experts = static_cast<std::size_t>(config_.expert_count);
  if (mover_) refuse("the model holds the experts of one rank only: read a whole one");
  check_length("expertCounts", expert_counts.size(), static_cast<std::size_t>(config_.moe_layer_count()) * experts);
  std::vector<const BackendObject*> weights;
  std::size_t moe_layer = 0;
  for (const LayerWeights& layer : weights_.layers) {
    for (const BackendObject* object : std::initializer_list<const BackendObject*>{
             layer.compress.get(), layer.query.get(), layer.uk.get(), layer.uv.get(), layer.output.get(),
             layer.gate.get(), layer.mlp.get()}) {
      if (object != nullptr) weights.push_back(object);
    }
    if (layer.slots.empty()) continue;
    for (std::size_t slot = 0; slot < layer.slots.size(); ++slot) {
      // Without redundancy, slot i holds expert i.
      if (expert_counts[moe_layer * experts + slot] > 0) weights.push_back(layer.slots[slot].get());
    }
    ++moe_layer;
  }
  weights.push_back(weights_.head.get());
  ReadPass pass{0, 0};
  for (const BackendObject* object : weights) pass.bytes += object->bytes();
  pass.seconds = backend_->read_pass(weights);
  return pass;
}

void Model::check_batch(const StepBatch& batch) {
  const std::size_t sequences = batch.row_counts.size();
  if (batch.tokens.empty()) refuse("tokens is empty: a step needs at least one row");
  if (batch.tokens.size() > (1u << 24)) refuse("tokens has more than 16777216 rows");
  check_length("startPositions", batch.start_positions.size(), sequences);
  check_length("promptLengths", batch.prompt_lengths.size(), sequences);
  check_length("blockOffsets", batch.block_offsets.size(), sequences + 1);
  check_length("sampling", batch.sampling.size(), batch.logit_rows.size());
  for (std::size_t i = 0; i < batch.tokens.size(); ++i) {
    if (batch.tokens[i] >= static_cast<std::uint64_t>(config_.vocab_size)) {
      refuse(indexed("tokens", i) + " is " + std::to_string(batch.tokens[i]) + ", the vocabulary has " +
             std::to_string(config_.vocab_size));
    }
  }
  for (std::size_t i = 0; i < batch.block_table.size(); ++i) {
    if (batch.block_table[i] >= static_cast<std::uint32_t>(kv_layout_.blocks)) {
      refuse(indexed("blockTable", i) + " is " + std::to_string(batch.block_table[i]) + ", the cache has " +
             std::to_string(kv_layout_.blocks) + " blocks");
    }
  }
  std::uint64_t rows = 0;
  for (std::size_t i = 0; i < sequences; ++i) {
    const std::uint64_t end = std::uint64_t{batch.start_positions[i]} + batch.row_counts[i];
    if (batch.row_counts[i] == 0) refuse(indexed("rowCounts", i) + " is 0");
    if (end > static_cast<std::uint64_t>(config_.max_positions)) {
      refuse(indexed("startPositions", i) + ": rows end at position " + std::to_string(end) + ", the model has " +
             std::to_string(config_.max_positions));
    }
    const std::uint32_t first_block = batch.block_offsets[i];
    const std::uint32_t last_block = batch.block_offsets[i + 1];
    if (first_block > last_block || last_block > batch.block_table.size()) {
      refuse(indexed("blockOffsets", i) + " is out of order or beyond blockTable");
    }
    if (end > std::uint64_t{last_block - first_block} * kBlockRows) {
      refuse(indexed("blockOffsets", i) + ": the sequence has " + std::to_string(last_block - first_block) +
             " blocks, its rows end at position " + std::to_string(end));
    }
    rows += batch.row_counts[i];
  }
  check_length("tokens", batch.tokens.size(), rows);
  for (std::size_t i = 0; i < batch.logit_rows.size(); ++i) {
    if (batch.logit_rows[i] >= batch.tokens.size() || (i > 0 && batch.logit_rows[i] <= batch.logit_rows[i - 1])) {
      refuse(indexed("logitRows", i) + " is out of order or not a row of this call");
    }
    if (batch.sampling[i] == nullptr) continue;
    try {
      check_sampling_params(*batch.sampling[i], static_cast<int>(config_.vocab_size));
    } catch (const std::invalid_argument& error) {
      refuse(indexed("sampling", i) + ": " + error.what());
    }
  }

  // Two sequences may share blocks they read, never one that a row of this call is written to.
  std::vector<std::uint32_t>& writers = work_->block_writers;
  const auto each_written_block = [&](const auto& visit) {
    for (std::size_t i = 0; i < sequences; ++i) {
      const std::uint32_t first = batch.start_positions[i] / kBlockRows;
      const std::uint32_t last = (batch.start_positions[i] + batch.row_counts[i] - 1) / kBlockRows;
      for (std::uint32_t t = first; t <= last; ++t) visit(i, batch.block_offsets[i] + t);
    }
  };
  std::string clash;
  each_written_block([&](std::size_t, std::uint32_t entry) {
    if (writers[batch.block_table[entry]]++ != 0) clash = indexed("blockTable", entry);
  });
  each_written_block([&](std::size_t, std::uint32_t entry) { writers[batch.block_table[entry]] = 0; });
  if (!clash.empty()) refuse(clash + " is written to twice in this call");
}

// Fills the workspace's row sets and makes room for the batch.
void Model::plan_rows(const StepBatch& batch) {
  Workspace& work = *work_;
  work.rows.clear();
  work.logit_rows.clear();
  work.in_order = true;
  work.tokens.clear();
  work.logit_places.clear();
  work.logit_indices.clear();
  work.sampling.clear();
  int last_row = -1;
  for (const bool expand : {true, false}) {
    if (expand && !expands_prompts_) continue;
    std::size_t next_logit = 0;
    int first_row = 0;
    for (std::size_t i = 0; i < batch.row_counts.size(); ++i) {
      const std::uint32_t* blocks = batch.block_table.data() + batch.block_offsets[i];
      const int start = static_cast<int>(batch.start_positions[i]);
      const int count = static_cast<int>(batch.row_counts[i]);
      const std::int64_t prompt_rows = std::int64_t{batch.prompt_lengths[i]} - 1 - start;
      const int split = expands_prompts_ ? static_cast<int>(std::clamp<std::int64_t>(prompt_rows, 0, count)) : 0;
      // The sequence's rows of this form, in the call.
      const int begin = first_row + (expand ? 0 : split), end = first_row + (expand ? split : count);
      const int planned = work.rows.all.rows();
      if (begin < end) {
        work.in_order = work.in_order && begin == last_row + 1;
        last_row = end - 1;
        work.rows.add(expand, start + begin - first_row, end - begin, blocks, false);
        work.tokens.insert(work.tokens.end(), batch.tokens.begin() + begin, batch.tokens.begin() + end);
      }
      int before = -1;  // the logit row seen last
      while (next_logit < batch.logit_rows.size() && static_cast<int>(batch.logit_rows[next_logit]) < begin)
        ++next_logit;
      for (; next_logit < batch.logit_rows.size() && static_cast<int>(batch.logit_rows[next_logit]) < end;
           ++next_logit) {
        const int row = static_cast<int>(batch.logit_rows[next_logit]);
        work.logit_rows.add(expand, start + row - first_row, 1, blocks, before >= 0 && before + 1 == row);
        work.logit_places.push_back(static_cast<std::uint32_t>(next_logit));
        work.logit_indices.push_back(static_cast<std::uint32_t>(planned + row - begin));
        work.sampling.push_back(batch.sampling[next_logit]);
        before = row;
      }
      first_row += count;
    }
  }

  // A little more than needed, so that a batch that grows row by row does not reallocate at each step.
  const auto roomy = [](int rows) { return rows + rows / 4 + 8; };
  const auto make_for = [&](int capacity, std::int64_t width, Precision precision) {
    return backend_->make_activations(static_cast<std::size_t>(capacity) * static_cast<std::size_t>(width), precision);
  };
  const int rows = work.rows.all.rows();
  if (rows > work.capacity) {
    const int capacity = roomy(rows);
    const auto make = [&](std::int64_t width) { return make_for(capacity, width, Precision::working); };
    work.capacity = 0;  // until all of them are there
    for (auto& buffer : work.hidden) buffer = make(config_.hidden_size);
    work.stream = make_for(capacity, config_.hidden_size, Precision::full);
    work.compressed = make(config_.latent_width() + config_.query_rank);
    work.queries = make(config_.head_count * config_.query_key_dim());
    work.values = make(config_.head_count * config_.value_dim);
    work.capacity = capacity;
  }
  const int absorbed = std::max(work.rows.absorbed().rows(), work.logit_rows.absorbed().rows());
  if (absorbed > work.absorbed_capacity) {
    const int capacity = roomy(absorbed);
    work.absorbed_capacity = 0;
    work.absorbed = make_for(capacity, config_.head_count * config_.latent_width(), Precision::working);
    work.contexts = make_for(capacity, config_.head_count * config_.kv_rank, Precision::working);
    work.absorbed_capacity = capacity;
  }
  if (work.logit_rows.all.rows() > work.logit_capacity) {
    const int capacity = roomy(work.logit_rows.all.rows());
    const auto make = [&](std::int64_t width) { return make_for(capacity, width, Precision::full); };
    work.logit_capacity = 0;
    work.kept = make(config_.hidden_size);
    work.logits = make(config_.vocab_size);
    work.logit_capacity = capacity;
  }
  work.x = {work.stream.get(), 0, config_.hidden_size};
  work.h = {work.hidden[0].get(), 0, config_.hidden_size};
  work.delta = {work.hidden[1].get(), 0, config_.hidden_size};
}

void Model::step(const StepBatch& batch, const std::function<void(int)>& on_layer, StepResult& result) {
  check_batch(batch);
  try {
    plan_rows(batch);
    if (mover_) begin_ranks(work_->rows.all.rows(), work_->logit_rows.all.rows());
    compute(batch, on_layer, result);
    backend_->finish();
  } catch (...) {
    backend_->cancel();
    leave_failed();
    throw;
  }
  restore_order(result);
}

// Results as the call has its logit rows.
void Model::restore_order(StepResult& result) const {
  if (work_->in_order) return;
  const std::vector<std::uint32_t>& places = work_->logit_places;
  const auto restore = [&](auto& values, std::size_t width) {
    if (values.empty()) return;
    auto ordered = values;
    for (std::size_t i = 0; i < places.size(); ++i)
      std::move(values.begin() + static_cast<std::ptrdiff_t>(i * width),
                values.begin() + static_cast<std::ptrdiff_t>((i + 1) * width),
                ordered.begin() + static_cast<std::ptrdiff_t>(places[i] * width));
    values = std::move(ordered);
  };
  restore(result.samples, 1);
  restore(result.digests, 1);
  restore(result.logits, static_cast<std::size_t>(config_.vocab_size));
}

void Model::join(std::unique_ptr<ExpertExchange> exchange, RankView view) {
  if (!mover_) refuse("the model was loaded without an expert plan: it has no other ranks");
  const RankPlan& own = mover_->own();
  if (exchange->rank() != own.rank || exchange->rank_count() != own.plan.rank_count)
    refuse("the exchange is of rank " + std::to_string(exchange->rank()) + " of " +
           std::to_string(exchange->rank_count()) + ", the model of rank " + std::to_string(own.rank) + " of " +
           std::to_string(own.plan.rank_count));
  if (view.ranks_per_node < 1) refuse("ranksPerNode must be at least 1");
  auto group = std::make_unique<RankGroup>(std::move(exchange), std::move(view), rank_counters());
  std::vector<SlotTable> reachable;
  for (const LayerWeights& layer : weights_.layers) {
    if (layer.gate == nullptr) continue;
    reachable.push_back(reachable_slots(layer.placement, own.plan.slots_per_rank, group->view()));
  }
  backend_->meet(*group);
  mover_->drop_next();
  group_ = std::move(group);
  reachable_ = std::move(reachable);
  if (!unprepared_) return;
  prepare(unprepared_->first, unprepared_->second);
  unprepared_.reset();
}

void Model::leave(const GroupEnd& end) {
  if (group_ != nullptr) group_->leave(end);
}

RankCounters Model::rank_counters() const { return group_ != nullptr ? group_->counters() : RankCounters{}; }

void Model::begin_ranks(int rows, int logit_rows) {
  if (group_ == nullptr) throw Error(ErrorCode::rank_lost, "the ranks have not met yet");
  const PlacementOffer offer = mover_->offer();
  const int ready = group_->begin_step(rows, logit_rows, offer);
  const ExpertMover::Taken taken = mover_->take_layers(ready, offer);
  for (int layer = taken.first; layer < taken.last; ++layer) {
    const auto i = static_cast<std::size_t>(layer);
    const LayerWeights& weights = weights_.layers[static_cast<std::size_t>(config_.dense_layer_count) + i];
    reachable_[i] = reachable_slots(weights.placement, mover_->own().plan.slots_per_rank, group_->view());
  }
}

// In a catch block: the others learn that this rank has left the step, and why.
void Model::leave_failed() {
  if (group_ == nullptr) return;
  try {
    throw;
  } catch (const Error& error) {
    if (error.code() == ErrorCode::rank_lost) return group_->leave({error.what(), error.by_itself()});
    group_->leave({"rank " + std::to_string(mover_->own().rank) + " is lost: " + error.what()});
  } catch (const std::exception& error) {
    group_->leave({"rank " + std::to_string(mover_->own().rank) + " is lost: " + error.what()});
  }
}

bool Model::take_part() {
  if (group_ == nullptr) return false;
  try {
    if (!group_->others_began() && !mover_->has_news()) return false;
    StepResult result;
    result.expert_counts.resize(static_cast<std::size_t>(config_.moe_layer_count() * config_.expert_count));
    begin_ranks(0, 0);
    for (std::int64_t index = config_.dense_layer_count; index < config_.layer_count; ++index) {
      if (index + 1 == config_.layer_count && !runs_last_layer(0)) break;
      run_feed_forward(weights_.layers[static_cast<std::size_t>(index)], static_cast<int>(index), 0, result);
    }
    backend_->finish();
  } catch (...) {
    backend_->cancel();
    leave_failed();
    throw;
  }
  return true;
}

// Where it has experts, they are wanted if any rank has logit rows.
bool Model::runs_last_layer(int logit_rows) const {
  if (logit_rows > 0) return true;
  return group_ != nullptr && config_.is_moe_layer(config_.layer_count - 1) && group_->any_logit_rows();
}

// All of a step's ops, the last of which may still run.
void Model::compute(const StepBatch& batch, const std::function<void(int)>& on_layer, StepResult& result) {
  Workspace& work = *work_;
  const int rows = work.rows.all.rows();
  const int logit_rows = work.logit_rows.all.rows();
  const int layer_count = static_cast<int>(config_.layer_count);
  const int vocab = static_cast<int>(config_.vocab_size);
  const float eps = static_cast<float>(config_.norm_eps);
  const View compressed{work.compressed.get(), 0, config_.latent_width() + config_.query_rank};
  result.expert_counts.assign(static_cast<std::size_t>(config_.moe_layer_count() * config_.expert_count), 0);
  result.samples.resize(batch.logit_rows.size());
  result.digests.resize(batch.digests ? batch.logit_rows.size() : 0);
  result.logits.resize(batch.logits ? batch.logit_rows.size() * static_cast<std::size_t>(vocab) : 0);

  backend_->begin_step({.rows = &work.rows.all,
                        .logit_rows = logit_rows,
                        .digests = batch.digests,
                        .logits = batch.logits,
                        .reports_layers = static_cast<bool>(on_layer),
                        .expands = !work.rows.expanded.runs.empty(),
                        .ranks = group_ != nullptr});
  backend_->embed(*weights_.embedding, work.tokens, work.x);
  for (int index = 0; index < layer_count; ++index) {
    const LayerWeights& layer = weights_.layers[static_cast<std::size_t>(index)];
    backend_->rms_norm(rows, work.x, index > 0 ? work.delta : View{}, *layer.input_norm, eps, work.h);
    backend_->linear(rows, work.h, *layer.compress, compressed);
    backend_->store_latents(work.rows.all, compressed, *layer.kv_norm, kLatentNormEps, *rope_, *cache_, index);
    if (on_layer) backend_->when_done([&on_layer, index] { on_layer(index); });

    const bool last = index + 1 == layer_count;
    if (last && logit_rows == 0) {
      // The other ranks' logit rows may need this one's experts.
      if (runs_last_layer(0)) run_feed_forward(layer, index, 0, result);
      break;
    }
    // Where all rows have logits, they are in the same order.
    const bool fewer = last && logit_rows < rows;
    if (fewer) keep_logit_rows(layer);
    const PlannedRows& planned = fewer ? work.logit_rows : work.rows;
    run_attention(layer, index, planned);
    backend_->rms_norm(planned.all.rows(), work.x, work.delta, *layer.post_norm, eps, work.h);
    run_feed_forward(layer, index, planned.all.rows(), result);
  }
  if (logit_rows > 0) {
    const View logits{work.logits.get(), 0, vocab};
    backend_->rms_norm(logit_rows, work.x, work.delta, *weights_.final_norm, eps, work.h);
    backend_->linear(logit_rows, work.h, *weights_.head, logits);
    if (batch.digests) backend_->digest_rows(logit_rows, logits, vocab, result.digests);
    if (batch.logits) backend_->read_rows(logit_rows, logits, vocab, result.logits);
    backend_->sample(logits, vocab, work.logit_rows.all.positions, work.sampling, result.samples);
  }
}

// Before the last layer's attention: only rows whose logits are wanted go on. Their bits do not depend on the rows
// beside them.
void Model::keep_logit_rows(const LayerWeights& last) {
  Workspace& work = *work_;
  const int width = static_cast<int>(config_.hidden_size);
  const View kept{work.kept.get(), 0, config_.hidden_size};
  backend_->gather(work.logit_indices, work.x, width, kept);
  work.x = kept;
  backend_->gather(work.logit_indices, work.h, width, work.delta);  // delta is free: the input norm has added it to x
  std::swap(work.h, work.delta);
  if (config_.query_rank == 0) return;
  const View compressed{work.compressed.get(), 0, config_.latent_width() + config_.query_rank};
  backend_->linear(work.logit_rows.all.rows(), work.h, *last.compress, compressed);
}

// delta = attention of the rows, from h and from the compressed queries that lie behind the latents.
void Model::run_attention(const LayerWeights& layer, int index, const PlannedRows& planned) {
  Workspace& work = *work_;
  const int rows = planned.all.rows(), expanded = planned.expanded.rows();
  const RowSet& absorbed_rows = planned.absorbed();
  const float scale = static_cast<float>(rope_plan_.softmax_scale);
  const View queries{work.queries.get(), 0, config_.head_count * config_.query_key_dim()};
  const View values{work.values.get(), 0, config_.head_count * config_.value_dim};
  if (config_.query_rank > 0) {
    const View compressed{work.compressed.get(), config_.latent_width(), config_.latent_width() + config_.query_rank};
    backend_->rms_norm(rows, compressed, View{}, *layer.query_norm, kLatentNormEps, compressed);
    backend_->linear(rows, compressed, *layer.query, queries);
  } else {
    backend_->linear(rows, work.h, *layer.query, queries);
  }
  if (expanded > 0)
    backend_->attend_expanded(planned.expanded, shape_, queries, *layer.ukv, *rope_, scale, *cache_, index, values);
  if (absorbed_rows.rows() > 0) {
    const View absorbed{work.absorbed.get(), 0, config_.head_count * config_.latent_width()};
    const View contexts{work.contexts.get(), 0, config_.head_count * config_.kv_rank};
    const auto from = [&](View view) { return View{view.memory, view.offset + expanded * view.stride, view.stride}; };
    backend_->absorb_queries(absorbed_rows, shape_, from(queries), *layer.uk, *rope_, absorbed);
    backend_->attend(absorbed_rows, shape_, absorbed, scale, *cache_, index, contexts);
    backend_->head_linear(absorbed_rows.rows(), contexts, *layer.uv, from(values));
  }
  backend_->linear(rows, values, *layer.output, work.delta);
}

// delta = FFN(h).
void Model::run_feed_forward(const LayerWeights& layer, int index, int rows, StepResult& result) {
  Workspace& work = *work_;
  if (!config_.is_moe_layer(index)) {
    backend_->mlp(rows, work.h, *layer.mlp, work.delta);
    return;
  }
  const std::size_t experts = static_cast<std::size_t>(config_.expert_count);
  const std::size_t moe_index = static_cast<std::size_t>(index - config_.dense_layer_count);
  const MoeLayer moe{
      .gate = {.method = config_.gate,
               .experts = static_cast<int>(config_.expert_count),
               .top_k = static_cast<int>(config_.experts_per_token),
               .groups = static_cast<int>(config_.group_count),
               .top_k_groups = static_cast<int>(config_.kept_group_count),
               .normalize = config_.normalize_gate_weights,
               .routed_scaling_factor = static_cast<float>(config_.routed_scale)},
      .gate_weights = layer.gate.get(),
      .gate_bias = layer.gate_bias.get(),
      .placement = group_ != nullptr ? &reachable_[moe_index] : &layer.placement,
      .slots = layer.slots,
      .bank = layer.bank.get(),
      .shared = layer.mlp.get(),
      .ranks = {.group = group_.get(),
                .layer = static_cast<int>(moe_index),
                .last = index + 1 == static_cast<int>(config_.layer_count),
                .logical_of_own_slots = mover_ ? mover_->own().own_slots(moe_index) : std::span<const std::int32_t>()}};
  backend_->moe(rows, work.h, moe, work.delta, std::span(result.expert_counts).subspan(moe_index * experts, experts));
}

void Model::check_rows(int layer, std::uint32_t block, int first_row, int row_count, std::size_t bytes) const {
  if (layer < 0 || layer >= kv_layout_.layers)
    refuse("layer " + std::to_string(layer) + " is not a layer of the model");
  if (block >= static_cast<std::uint32_t>(kv_layout_.blocks))
    refuse("block " + std::to_string(block) + " is not in the cache");
  if (first_row < 0 || row_count < 0 || first_row > kBlockRows || row_count > kBlockRows - first_row) {
    refuse("firstRow " + std::to_string(first_row) + " and rowCount " + std::to_string(row_count) + " leave the block");
  }
  if (bytes != static_cast<std::size_t>(row_count) * kv_layout_.row_bytes()) {
    refuse("the bytes given are not rowCount * " + std::to_string(kv_layout_.row_bytes()));
  }
}

std::uint64_t Model::pack_rows(int layer, std::uint32_t block, int first_row, int row_count,
                               std::span<std::byte> out) const {
  check_rows(layer, block, first_row, row_count, out.size());
  return backend_->pack_rows(*cache_, layer, block, first_row, row_count, out.data());
}

std::uint64_t Model::unpack_rows(int layer, std::uint32_t block, int first_row, int row_count,
                                 std::span<const std::byte> data) {
  check_rows(layer, block, first_row, row_count, data.size());
  return backend_->unpack_rows(*cache_, layer, block, first_row, row_count, data.data());
}

void Model::copy_block(std::uint32_t from, std::uint32_t to) {
  for (const std::uint32_t block : {from, to}) {
    if (block >= static_cast<std::uint32_t>(kv_layout_.blocks))
      refuse("block " + std::to_string(block) + " is not in the cache");
  }
  backend_->copy_block(*cache_, from, to);
}

}  // namespace pelagic
