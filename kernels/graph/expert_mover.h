// A rank's experts while plans change: a thread loads those of the next plan beside those in force, a layer after the
// other and at a bounded pace, and steps take the layers over when every rank has them.
#pragma once

#include <condition_variable>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "graph/config.h"
#include "graph/weights.h"
#include "ranks/rank_group.h"

namespace pelagic {

struct PlacementState {
  std::uint64_t version = 0;  // of the plan that a layer was taken from last
  int layers_taken = 0;       // the first ones of it; the others are of the plan before
  std::uint64_t next = 0;     // version of the plan whose experts are loaded; 0: none
  int ready_layers = 0;       // of the next plan
  std::string failure;        // why no more of them get ready; empty: nothing
  // All only grow.
  std::uint64_t loaded_experts = 0;
  std::uint64_t loaded_bytes = 0;  // read from the checkpoint
};

class ExpertMover {
 public:
  // layers: the model's, whose MoE layers have the experts of `own` in their slots. on_ready: a layer is ready; called
  // on the loading thread.
  ExpertMover(const ModelConfig& config, std::filesystem::path dir, Backend& backend, std::span<LayerWeights> layers,
              RankPlan own);
  ~ExpertMover();

  // ---- From any thread.

  // Loads the experts of `next`, at most so many bytes of the checkpoint a second, in place of the plan that was being
  // loaded, if any. False: there is one at least as new, and nothing is done. Throws Error(argument) for a plan that is
  // none for this model and these ranks, or has other slots than the one in force.
  bool stage(ExpertPlan next, std::uint64_t bytes_per_second);
  PlacementState state() const;
  ExpertPlan in_force() const;
  void on_ready(std::function<void()> fn);

  // ---- On the thread that steps.

  const RankPlan& own() const { return own_; }
  // Another layer has got ready since the last offer.
  bool has_news() const;
  PlacementOffer offer();
  // Takes layers of the next plan until the first `ready` of them are in force. offered: what offer() gave in this
  // step. Returns the first and the last layer taken, the last not included.
  struct Taken {
    int first, last;
  };
  Taken take_layers(int ready, const PlacementOffer& offered);
  // Forgets the next plan: it was for another group of ranks.
  void drop_next();
  // Goes by `plan` at once, whatever was being loaded: loads with `threads` threads what is not there. Throws
  // Error(argument) as stage() does, but for the number of slots, Error(checkpoint), Error(memory); then all is as
  // before, except that nothing is being loaded. Where a backend's banks have no room for another number of slots and
  // memory for new ones ends in their middle, the model is of no more use.
  void conform(const ExpertPlan& plan, int threads);

 private:
  using Slots = std::vector<std::unique_ptr<Mlp>>;
  struct Next {
    ExpertPlan plan;
    std::uint64_t digest;
    std::uint64_t bytes_per_second;
    int taken = 0;
    std::vector<Slots> loaded;  // by layer that is ready; those not taken, in their slots
    int ready() const { return static_cast<int>(loaded.size()); }
  };

  void run();
  bool may_load() const;
  void free_given_up(std::unique_lock<std::mutex>& lock);
  void load_layer(std::unique_lock<std::mutex>& lock, const std::shared_ptr<Next>& next);
  const Checkpoint& checkpoint();
  LayerWeights& moe_layer(int layer) const;
  Slots settle(int layer, const std::vector<SlotSource>& sources, Slots loaded);
  static std::span<const std::int32_t> slots_of(const ExpertPlan& plan, int layer, int rank);

  const ModelConfig& config_;
  const std::filesystem::path dir_;
  Backend& backend_;
  const std::span<LayerWeights> layers_;

  std::mutex checkpoint_mutex_;
  std::unique_ptr<Checkpoint> checkpoint_;  // mapped when it is first wanted again

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded; own_ is written by the stepping thread alone, which reads it without the lock.
  RankPlan own_;
  std::uint64_t own_digest_;
  PlacementState state_;
  std::shared_ptr<Next> next_;
  std::vector<Slots> given_up_;  // freed by the loading thread
  std::function<void()> on_ready_;
  bool news_ = false;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace pelagic
