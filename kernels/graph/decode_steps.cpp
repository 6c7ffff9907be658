#include "graph/decode_steps.h"

#include <algorithm>
#include <string>

#include "graph/error.h"

namespace pelagic {
namespace {

[[noreturn]] void refuse(const std::string& what) { throw Error(ErrorCode::argument, what); }

// What Model::step cannot see: that the steps after the first have what they need.
void check_run(const Model& model, const StepBatch& batch, const StepRun& run) {
  if (run.steps < 1) refuse("steps must be at least 1");
  if (run.stop_tokens.size() != batch.sampling.size()) refuse("stop_tokens must have one entry for each logit row");
  if (run.steps == 1) return;
  const std::size_t sequences = batch.row_counts.size();
  if (batch.logit_rows.size() != sequences || batch.tokens.size() != sequences ||
      batch.start_positions.size() != sequences || batch.block_offsets.size() != sequences + 1) {
    refuse("steps is " + std::to_string(run.steps) + ": every sequence needs exactly one row, and its logits");
  }
  for (std::size_t i = 0; i < sequences; ++i) {
    const std::string index = "[" + std::to_string(i) + "]";
    if (batch.sampling[i] == nullptr)
      refuse("sampling" + index + " is null, and steps is " + std::to_string(run.steps));
    const std::uint64_t end = std::uint64_t{batch.start_positions[i]} + static_cast<std::uint64_t>(run.steps);
    if (end > static_cast<std::uint64_t>(model.config().max_positions)) {
      refuse("startPositions" + index + ": " + std::to_string(run.steps) + " steps end at position " +
             std::to_string(end) + ", the model has " + std::to_string(model.config().max_positions));
    }
    const std::int64_t blocks =
        std::int64_t{batch.block_offsets[i + 1]} - static_cast<std::int64_t>(batch.block_offsets[i]);
    if (static_cast<std::int64_t>(end) > blocks * kBlockRows) {
      refuse("blockOffsets" + index + ": the sequence has " + std::to_string(blocks) + " blocks, its " +
             std::to_string(run.steps) + " steps end at position " + std::to_string(end));
    }
  }
}

}  // namespace

std::vector<StepResult> run_steps(Model& model, const StepBatch& batch, const StepRun& run,
                                  const std::function<void(int)>& on_layer) {
  check_run(model, batch, run);
  const auto deadline = std::chrono::steady_clock::now() + run.budget;
  std::vector<StepResult> results(1);
  model.step(batch, on_layer, results.back());
  if (run.steps == 1) return results;

  // The batch of the next step: only tokens, positions and what penalties count differ.
  const std::size_t rows = batch.tokens.size();
  std::vector<std::uint32_t> tokens(batch.tokens.begin(), batch.tokens.end());
  std::vector<std::uint32_t> positions(batch.start_positions.begin(), batch.start_positions.end());
  std::vector<SamplingParams> params;
  std::vector<const SamplingParams*> sampling;
  std::vector<std::vector<std::uint32_t>> outputs(rows);
  params.reserve(rows);
  for (std::size_t i = 0; i < rows; ++i) {
    params.push_back(*batch.sampling[i]);
    sampling.push_back(&params.back());
    const auto seen = params.back().output_tokens;
    outputs[i].assign(seen.begin(), seen.end());
  }
  StepBatch next = batch;
  next.tokens = tokens;
  next.start_positions = positions;
  next.sampling = sampling;

  while (static_cast<int>(results.size()) < run.steps) {
    const std::vector<SampleResult>& samples = results.back().samples;
    for (std::size_t i = 0; i < rows; ++i) {
      const auto token = static_cast<std::uint32_t>(samples[i].token);
      const auto& stops = run.stop_tokens[i];
      if (!samples[i].valid || std::find(stops.begin(), stops.end(), token) != stops.end()) return results;
      tokens[i] = token;
      ++positions[i];
      outputs[i].push_back(token);
      params[i].output_tokens = outputs[i];
    }
    if (std::chrono::steady_clock::now() >= deadline) break;
    results.emplace_back();
    model.step(next, on_layer, results.back());
  }
  return results;
}

}  // namespace pelagic
