// What tests of whole models share: some rows of some sequences in one call.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "graph/model.h"

namespace pelagic::test {

// Rows of one sequence: tokens of positions `start` on.
struct SequenceRows {
  std::span<const std::uint32_t> tokens;
  int start;
  std::vector<std::uint32_t> blocks;
  std::uint32_t prompt_length = 1;
  int logit_rows = -1;  // of the last so many; negative: of all
};

// One step over them, with digests and a greedy choice for every row that has logits, and those if asked for.
inline StepResult run_rows(Model& model, const std::vector<SequenceRows>& sequences, bool logits) {
  std::vector<std::uint32_t> tokens, counts, starts, prompts, table, offsets = {0}, logit_rows;
  for (const SequenceRows& rows : sequences) {
    const std::size_t wanted = rows.logit_rows < 0 ? rows.tokens.size() : static_cast<std::size_t>(rows.logit_rows);
    for (std::size_t i = rows.tokens.size() - wanted; i < rows.tokens.size(); ++i)
      logit_rows.push_back(static_cast<std::uint32_t>(tokens.size() + i));
    tokens.insert(tokens.end(), rows.tokens.begin(), rows.tokens.end());
    counts.push_back(static_cast<std::uint32_t>(rows.tokens.size()));
    starts.push_back(static_cast<std::uint32_t>(rows.start));
    prompts.push_back(rows.prompt_length);
    table.insert(table.end(), rows.blocks.begin(), rows.blocks.end());
    offsets.push_back(static_cast<std::uint32_t>(table.size()));
  }
  const SamplingParams greedy;
  const std::vector<const SamplingParams*> sampling(logit_rows.size(), &greedy);
  StepResult result;
  model.step({.tokens = tokens,
              .row_counts = counts,
              .start_positions = starts,
              .prompt_lengths = prompts,
              .block_table = table,
              .block_offsets = offsets,
              .logit_rows = logit_rows,
              .sampling = sampling,
              .digests = true,
              .logits = logits},
             {}, result);
  return result;
}

}  // namespace pelagic::test
