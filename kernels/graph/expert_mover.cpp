#include "graph/expert_mover.h"

#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <new>
#include <utility>

#include "graph/error.h"

namespace pelagic {
namespace {

// Layers whose new copies may wait for the other ranks: what a change of plans needs of memory beside the slots.
constexpr int kMostWaitingLayers = 4;
// The loading thread gives way to those that compute.
constexpr int kLoaderNiceness = 10;

}  // namespace

ExpertMover::ExpertMover(const ModelConfig& config, std::filesystem::path dir, Backend& backend,
                         std::span<LayerWeights> layers, RankPlan own)
    : config_(config),
      dir_(std::move(dir)),
      backend_(backend),
      layers_(layers),
      own_(std::move(own)),
      own_digest_(plan_digest(own_.plan)) {
  state_.version = own_.plan.version;
  state_.layers_taken = static_cast<int>(own_.plan.layers.size());
  thread_ = std::thread([this] { run(); });
}

ExpertMover::~ExpertMover() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

std::span<const std::int32_t> ExpertMover::slots_of(const ExpertPlan& plan, int layer, int rank) {
  const auto slots = static_cast<std::size_t>(plan.slots_per_rank);
  return std::span(plan.layers[static_cast<std::size_t>(layer)]).subspan(static_cast<std::size_t>(rank) * slots, slots);
}

LayerWeights& ExpertMover::moe_layer(int layer) const {
  return layers_[static_cast<std::size_t>(config_.dense_layer_count + layer)];
}

const Checkpoint& ExpertMover::checkpoint() {
  const std::lock_guard lock(checkpoint_mutex_);
  if (checkpoint_ == nullptr) checkpoint_ = std::make_unique<Checkpoint>(dir_);
  return *checkpoint_;
}

bool ExpertMover::stage(ExpertPlan next, std::uint64_t bytes_per_second) {
  if (bytes_per_second < 1) throw Error(ErrorCode::argument, "bytesPerSecond must be at least 1");
  check_plan(next, in_force().rank_count, static_cast<int>(config_.moe_layer_count()),
             static_cast<int>(config_.expert_count));
  auto staged = std::make_shared<Next>();
  staged->digest = plan_digest(next);
  staged->plan = std::move(next);
  staged->bytes_per_second = bytes_per_second;
  std::shared_ptr<Next> before;  // freed without the lock
  {
    const std::lock_guard lock(mutex_);
    if (staged->plan.slots_per_rank != own_.plan.slots_per_rank) {
      throw Error(ErrorCode::argument, "plan.slotsPerRank is " + std::to_string(staged->plan.slots_per_rank) +
                                           ", the ranks have " + std::to_string(own_.plan.slots_per_rank));
    }
    if (staged->plan.version <= std::max(state_.version, state_.next)) return false;
    before = std::exchange(next_, staged);
    state_.next = staged->plan.version;
    state_.ready_layers = 0;
    state_.failure.clear();
  }
  changed_.notify_all();
  return true;
}

PlacementState ExpertMover::state() const {
  const std::lock_guard lock(mutex_);
  return state_;
}

ExpertPlan ExpertMover::in_force() const {
  const std::lock_guard lock(mutex_);
  return own_.plan;
}

void ExpertMover::on_ready(std::function<void()> fn) {
  const std::lock_guard lock(mutex_);
  on_ready_ = std::move(fn);
}

bool ExpertMover::has_news() const {
  const std::lock_guard lock(mutex_);
  return news_;
}

PlacementOffer ExpertMover::offer() {
  const std::lock_guard lock(mutex_);
  news_ = false;
  if (next_ == nullptr) return {.in_force = own_digest_};
  return {.in_force = own_digest_, .next = next_->digest, .ready_layers = static_cast<std::uint32_t>(next_->ready())};
}

// Nothing of it is loaded here: the weights change hands, and what is given up is freed elsewhere.
ExpertMover::Taken ExpertMover::take_layers(int ready, const PlacementOffer& offered) {
  const std::lock_guard lock(mutex_);
  // One that came while this step began is not what the others have been told of.
  if (next_ == nullptr || next_->digest != offered.next || ready <= next_->taken) return {0, 0};
  const Taken taken{next_->taken, ready};
  for (int layer = taken.first; layer < taken.last; ++layer) {
    const auto i = static_cast<std::size_t>(layer);
    const auto sources = slot_sources(slots_of(own_.plan, layer, own_.rank), slots_of(next_->plan, layer, own_.rank));
    LayerWeights& weights = moe_layer(layer);
    given_up_.push_back(std::exchange(weights.slots, settle(layer, sources, std::move(next_->loaded[i]))));
    weights.placement = SlotTable(next_->plan.layers[i], static_cast<int>(config_.expert_count));
    own_.plan.layers[i] = next_->plan.layers[i];
  }
  next_->taken = taken.last;
  own_.plan.version = state_.version = next_->plan.version;
  own_digest_ = plan_digest(own_.plan);
  state_.layers_taken = taken.last;
  if (next_->taken == static_cast<int>(own_.plan.layers.size())) {
    next_.reset();
    state_.next = 0;
    state_.ready_layers = 0;
  }
  changed_.notify_all();
  return taken;
}

ExpertMover::Slots ExpertMover::settle(int layer, const std::vector<SlotSource>& sources, Slots loaded) {
  Slots& before = moe_layer(layer).slots;
  for (std::size_t slot = 0; slot < sources.size(); ++slot) {
    if (sources[slot].kind == SlotSource::Kind::slot)
      loaded[slot] = std::move(before[static_cast<std::size_t>(sources[slot].slot)]);
  }
  backend_.arrange_bank(moe_layer(layer).bank.get(), loaded);
  return loaded;
}

void ExpertMover::drop_next() {
  std::shared_ptr<Next> dropped;  // freed without the lock
  const std::lock_guard lock(mutex_);
  dropped = std::exchange(next_, nullptr);
  state_.next = 0;
  state_.ready_layers = 0;
  state_.failure.clear();
}

void ExpertMover::conform(const ExpertPlan& plan, int threads) {
  check_plan(plan, own_.plan.rank_count, static_cast<int>(config_.moe_layer_count()),
             static_cast<int>(config_.expert_count));
  drop_next();
  const std::size_t layers = plan.layers.size();
  struct Job {
    int layer, slot;
  };
  std::vector<std::vector<SlotSource>> sources;
  std::vector<Slots> loaded(layers);
  std::vector<Job> jobs;
  for (int layer = 0; layer < static_cast<int>(layers); ++layer) {
    sources.push_back(slot_sources(slots_of(own_.plan, layer, own_.rank), slots_of(plan, layer, own_.rank)));
    loaded[static_cast<std::size_t>(layer)].resize(sources.back().size());
    for (int slot = 0; slot < plan.slots_per_rank; ++slot) {
      if (sources.back()[static_cast<std::size_t>(slot)].kind == SlotSource::Kind::load) jobs.push_back({layer, slot});
    }
  }

  std::atomic<std::size_t> next_job{0};
  std::mutex failure_mutex;
  std::exception_ptr failure;
  std::atomic<std::uint64_t> bytes{0};
  const auto work = [&] {
    for (std::size_t i = next_job++; i < jobs.size(); i = next_job++) {
      const auto layer = static_cast<std::size_t>(jobs[i].layer), slot = static_cast<std::size_t>(jobs[i].slot);
      try {
        const int expert = slots_of(plan, jobs[i].layer, own_.rank)[slot];
        LoadedExpert one = load_expert(config_, checkpoint(), backend_, jobs[i].layer, expert);
        loaded[layer][slot] = std::move(one.mlp);
        bytes += one.bytes;
      } catch (...) {
        const std::lock_guard lock(failure_mutex);
        if (!failure) failure = std::current_exception();
        next_job = jobs.size();
      }
    }
  };
  {
    std::vector<std::jthread> helpers;
    for (int i = 1; i < threads && i < static_cast<int>(jobs.size()); ++i) helpers.emplace_back(work);
    work();
  }
  if (failure) {
    try {
      std::rethrow_exception(failure);
    } catch (const std::bad_alloc&) {
      throw Error(ErrorCode::memory, "not enough memory for the experts of plan " + std::to_string(plan.version));
    }
  }

  const std::lock_guard lock(mutex_);
  for (std::size_t layer = 0; layer < layers; ++layer) {
    LayerWeights& weights = moe_layer(static_cast<int>(layer));
    std::unique_ptr<MlpBank> before;
    if (weights.bank != nullptr && plan.slots_per_rank != own_.plan.slots_per_rank)
      before = std::exchange(weights.bank,
                             backend_.make_mlp_bank(plan.slots_per_rank, static_cast<int>(config_.expert_intermediate),
                                                    static_cast<int>(config_.hidden_size)));
    weights.slots = settle(static_cast<int>(layer), sources[layer], std::move(loaded[layer]));
    weights.placement = SlotTable(plan.layers[layer], static_cast<int>(config_.expert_count));
  }
  own_.plan = plan;
  own_digest_ = plan_digest(plan);
  state_.version = plan.version;
  state_.layers_taken = static_cast<int>(layers);
  state_.loaded_experts += jobs.size();
  state_.loaded_bytes += bytes;
}

// ---- The loading thread.

bool ExpertMover::may_load() const {
  return next_ != nullptr && state_.failure.empty() && next_->ready() < static_cast<int>(next_->plan.layers.size()) &&
         next_->ready() - next_->taken < kMostWaitingLayers;
}

void ExpertMover::run() {
  // Of this thread alone, on Linux.
  ::setpriority(PRIO_PROCESS, static_cast<id_t>(::syscall(SYS_gettid)), kLoaderNiceness);
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    changed_.wait(lock, [&] { return stopping_ || !given_up_.empty() || may_load(); });
    if (!given_up_.empty()) {
      free_given_up(lock);
    } else if (!stopping_) {
      load_layer(lock, next_);
    }
  }
}

void ExpertMover::free_given_up(std::unique_lock<std::mutex>& lock) {
  if (given_up_.empty()) return;
  std::vector<Slots> freed = std::exchange(given_up_, {});
  lock.unlock();
  freed.clear();
  lock.lock();
}

// One more layer of `next`, unless another plan takes its place meanwhile.
void ExpertMover::load_layer(std::unique_lock<std::mutex>& lock, const std::shared_ptr<Next>& staged) {
  const std::shared_ptr<Next> next = staged;
  const int layer = next->ready();
  const auto wanted = slots_of(next->plan, layer, own_.rank);
  const auto sources = slot_sources(slots_of(own_.plan, layer, own_.rank), wanted);
  Slots loaded(wanted.size());
  const auto dropped = [&] { return stopping_ || next_ != next; };
  for (std::size_t slot = 0; slot < wanted.size() && !dropped(); ++slot) {
    if (sources[slot].kind != SlotSource::Kind::load) continue;
    // A layer takes its time at a bounded pace: steps may have given up as many as may wait meanwhile.
    free_given_up(lock);
    lock.unlock();
    const auto start = std::chrono::steady_clock::now();
    std::string failure;
    std::uint64_t bytes = 0;
    try {
      LoadedExpert expert = load_expert(config_, checkpoint(), backend_, layer, wanted[slot]);
      loaded[slot] = std::move(expert.mlp);
      bytes = expert.bytes;
    } catch (const std::bad_alloc&) {
      failure = "not enough memory for its experts";
    } catch (const std::exception& error) {
      failure = error.what();
    }
    lock.lock();
    if (!failure.empty()) {
      if (next_ == next) state_.failure = "plan " + std::to_string(next->plan.version) + ": " + failure;
      return;
    }
    ++state_.loaded_experts;
    state_.loaded_bytes += bytes;
    const std::chrono::duration<double> pace(static_cast<double>(bytes) / static_cast<double>(next->bytes_per_second));
    changed_.wait_until(lock, start + std::chrono::duration_cast<std::chrono::steady_clock::duration>(pace), dropped);
  }
  if (dropped()) {
    given_up_.push_back(std::move(loaded));
    // And what had been loaded of it before: without the lock, and before another plan's.
    if (next_ != next) {
      for (Slots& slots : next->loaded) given_up_.push_back(std::move(slots));
      next->loaded.clear();
    }
    return;
  }
  next->loaded.push_back(std::move(loaded));
  state_.ready_layers = next->ready();
  news_ = true;
  if (!on_ready_) return;
  const std::function<void()> tell = on_ready_;
  lock.unlock();
  tell();
  lock.lock();
}

}  // namespace pelagic
