// Several decode steps in one call: what a step samples is the next step's token, so that nobody is asked in between.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "graph/model.h"

namespace pelagic {

struct StepRun {
  // At most so many steps, at least one. More than one: every sequence has one row in the batch, it is sampled, and its
  // blocks hold the rows to come.
  int steps = 1;
  // No further step begins when this time has passed.
  std::chrono::microseconds budget{0};
  // For each logit row: tokens after which no further step begins, whichever sequence drew one.
  std::span<const std::vector<std::uint32_t>> stop_tokens;
};

// Model::step, and again with the sampled tokens, one position further each time; penalties see what was sampled. One
// result for each step made. A row without a valid token ends the run as well. Throws Error(argument) naming the field,
// before anything is computed.
std::vector<StepResult> run_steps(Model& model, const StepBatch& batch, const StepRun& run,
                                  const std::function<void(int)>& on_layer);

}  // namespace pelagic
