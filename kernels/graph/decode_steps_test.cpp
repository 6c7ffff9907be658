#include "graph/decode_steps.h"

#include "backend/cpu/cpu_backend.h"
#include "graph/test_checkpoint.h"

using namespace pelagic;
using namespace pelagic::test;

namespace {

constexpr std::chrono::microseconds kAnHour = std::chrono::hours(1);
constexpr std::uint32_t kFirstPosition = 60;  // four rows before a block ends

// Two sequences in mid-answer: one greedy, one drawn with penalties over what it has said.
struct Decoding {
  TempFolder folder;
  std::unique_ptr<Model> model;
  std::vector<std::uint32_t> tokens{5, 6}, row_counts{1, 1}, positions{kFirstPosition, kFirstPosition - 3},
      prompt_lengths{9, 9}, block_table{0, 1, 2, 3}, block_offsets{0, 2, 4}, logit_rows{0, 1}, said{1, 2, 3};
  SamplingParams greedy, drawn;
  std::vector<const SamplingParams*> sampling{&greedy, &drawn};
  std::vector<std::vector<std::uint32_t>> stop_tokens{{}, {}};

  Decoding() {
    write_checkpoint(folder.path(), tiny_tensors());
    model = std::make_unique<Model>(folder.path(), make_cpu_backend(best_isa(), 2), KvDtype::bfloat16, 8, 1,
                                    LoadProgress{});
    std::vector<std::uint32_t> prompt(2 * kFirstPosition);
    for (std::size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<std::uint32_t>(i * 7 % 40);
    const std::vector<std::uint32_t> counts{kFirstPosition, kFirstPosition}, starts{0, 0};
    StepResult ignored;
    model->step({.tokens = prompt,
                 .row_counts = counts,
                 .start_positions = starts,
                 .prompt_lengths = prompt_lengths,
                 .block_table = block_table,
                 .block_offsets = block_offsets,
                 .logit_rows = {},
                 .sampling = {}},
                {}, ignored);
    drawn.temperature = 1.0f;
    drawn.seed = 7;
    drawn.repetition_penalty = 1.3f;
    drawn.presence_penalty = 0.5f;
    drawn.frequency_penalty = 0.25f;
    drawn.output_tokens = said;
    drawn.logprobs = 2;
  }

  StepBatch batch() const {
    return {.tokens = tokens,
            .row_counts = row_counts,
            .start_positions = positions,
            .prompt_lengths = prompt_lengths,
            .block_table = block_table,
            .block_offsets = block_offsets,
            .logit_rows = logit_rows,
            .sampling = sampling,
            .digests = true};
  }
  std::vector<StepResult> run(int steps, std::chrono::microseconds budget = kAnHour) {
    return run_steps(*model, batch(), {.steps = steps, .budget = budget, .stop_tokens = stop_tokens}, {});
  }
  std::string refusal(int steps) {
    return error_of([&] { run(steps); }, ErrorCode::argument);
  }
};

bool same(const StepResult& a, const StepResult& b) {
  bool equal = a.digests == b.digests && a.expert_counts == b.expert_counts && a.samples.size() == b.samples.size();
  for (std::size_t i = 0; equal && i < a.samples.size(); ++i) {
    equal = a.samples[i].token == b.samples[i].token && a.samples[i].top_tokens == b.samples[i].top_tokens &&
            a.samples[i].top_logprobs == b.samples[i].top_logprobs;
  }
  return equal;
}

// Steps asked for one by one, each with the tokens of the last.
std::vector<StepResult> one_by_one(Decoding& d, int steps) {
  std::vector<StepResult> results(static_cast<std::size_t>(steps));
  for (StepResult& result : results) {
    d.model->step(d.batch(), {}, result);
    for (std::size_t i = 0; i < 2; ++i) {
      d.tokens[i] = static_cast<std::uint32_t>(result.samples[i].token);
      ++d.positions[i];
    }
    d.said.push_back(d.tokens[1]);
    d.drawn.output_tokens = d.said;
  }
  return results;
}

}  // namespace

TEST("several steps in one call are the steps of several calls, over a block's end and with penalties") {
  Decoding single, several;
  const std::vector<StepResult> wanted = one_by_one(single, 12);
  const std::vector<StepResult> got = several.run(12);
  CHECK(got.size() == 12);
  for (std::size_t i = 0; i < got.size(); ++i) CHECK(same(got[i], wanted[i]));
  CHECK(!same(wanted[0], wanted[1]));
}

TEST("the step that draws a sequence's stop token is the last one") {
  Decoding free, stopped;
  const std::vector<StepResult> wanted = free.run(12);
  const int stop = wanted[4].samples[1].token;
  std::size_t last = 0;
  while (wanted[last].samples[1].token != stop) ++last;
  // The same token ends nothing where the other sequence draws it.
  stopped.stop_tokens[1] = {39, static_cast<std::uint32_t>(stop)};
  const std::vector<StepResult> got = stopped.run(12);
  CHECK(got.size() == last + 1);
  CHECK(same(got[last], wanted[last]));
}

TEST("no step begins after the budget, but the first always does") {
  Decoding d;
  CHECK(d.run(12, std::chrono::microseconds(0)).size() == 1);
}

TEST("a run of steps that cannot be made is refused, naming the argument") {
  Decoding d;
  CHECK(d.refusal(1).empty());
  CHECK(contains(d.refusal(0), "steps must be at least 1"));
  CHECK(contains(d.refusal(69), "blockOffsets[0]: the sequence has 2 blocks, its 69 steps end at position 129"));
  CHECK(contains(d.refusal(453), "startPositions[0]: 453 steps end at position 513"));
  d.sampling[1] = nullptr;
  CHECK(d.refusal(1).empty());
  CHECK(contains(d.refusal(2), "sampling[1] is null"));
  d.sampling.pop_back();
  CHECK(contains(d.refusal(2), "stop_tokens"));
  d.stop_tokens.pop_back();
  d.logit_rows.pop_back();
  CHECK(contains(d.refusal(2), "exactly one row"));
}

TEST_MAIN
