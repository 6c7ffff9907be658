// What a step's rows are on the card: a RowSet as attention reads it, and rows in e4m3.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace pelagic::cuda {

// MLA decode takes up to so many query rows of a sequence at once: longer runs are cut into groups.
inline constexpr int kGroupRows = 4;

// Groups of up to kGroupRows rows of a run: what MLA decode calls sequences.
struct RowGroups {
  const std::int32_t* block_table;  // [groups, max_blocks]
  const std::int32_t* row_offsets;  // [groups + 1]
  const std::int32_t* lengths;      // [groups]: keys that its last row sees
  std::vector<std::int32_t> host_offsets;
  std::vector<std::int32_t> host_lengths;
  int groups() const { return static_cast<int>(host_lengths.size()); }
};

// Runs whose keys are expanded at once.
struct ExpandedRuns {
  int first_run, runs;
  int first_row, rows;
  int keys;
  const std::int32_t* row_offsets;  // [runs + 1], from 0 on
  const std::int32_t* key_offsets;  // [runs + 1]
};

// A RowSet on the card, for one step.
struct DeviceRows {
  const std::int32_t* positions;    // [rows]
  const std::int32_t* row_runs;     // [rows]
  const std::int32_t* block_table;  // [runs, max_blocks]
  int max_blocks;
  std::optional<RowGroups> groups;     // once attend() has asked
  std::vector<ExpandedRuns> expanded;  // once attend_expanded() has
};

// Rows in e4m3: [rows, columns], and a scale for each row and 128 columns: [ceil(columns / 128), ld_scales].
struct Fp8RowsView {
  const void* data;
  const float* scales;
  std::int64_t ld_scales;
};

}  // namespace pelagic::cuda
