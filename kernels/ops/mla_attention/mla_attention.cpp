#include "ops/mla_attention/mla_attention.h"

#include <algorithm>

namespace pelagic {

std::size_t mla_attention_scratch_floats(const KvLayout& layout) {
  return static_cast<std::size_t>(layout.latent_width()) * kBlockRows;
}

void split_attention(const AttentionSequence* sequences, int sequence_count, int heads, int threads,
                     std::vector<AttentionItem>& items) {
  items.clear();
  // Cost in (query vector, key) pairs.
  const auto row_cost = [&](const AttentionSequence& sequence, int row) {
    return static_cast<std::int64_t>(heads) * (sequence.first_position + row + 1);
  };
  std::int64_t total = 0;
  for (int s = 0; s < sequence_count; ++s) {
    const std::int64_t rows = sequences[s].rows;
    total += heads * (rows * (sequences[s].first_position + 1) + rows * (rows - 1) / 2);
  }
  // Four items a thread even out; a few hundred pairs are about ten microseconds, less is not worth a task.
  constexpr std::int64_t kMinimumCost = 512;
  const std::int64_t target = std::max(total / (4 * threads), kMinimumCost);
  for (int s = 0; s < sequence_count; ++s) {
    const AttentionSequence& sequence = sequences[s];
    for (int row = 0; row < sequence.rows;) {
      int row_end = row;
      std::int64_t cost = 0;
      while (row_end < sequence.rows && cost < target) cost += row_cost(sequence, row_end++);
      // One row alone over the target: by heads, at most a piece for each thread, since every piece reads the keys again.
      int pieces = 1;
      if (row_end - row == 1) {
        const auto wanted = static_cast<int>(std::min<std::int64_t>((cost + target - 1) / target, threads));
        pieces = std::clamp(wanted, 1, heads);
      }
      int heads_per_piece = (heads + pieces - 1) / pieces;
      if (heads_per_piece > 4) heads_per_piece = (heads_per_piece + 3) / 4 * 4;  // the kernel's block of queries
      for (int head = 0; head < heads; head += heads_per_piece)
        items.push_back({s, row, row_end, head, std::min(head + heads_per_piece, heads)});
      row = row_end;
    }
  }
  const auto item_cost = [&](const AttentionItem& item) {
    const std::int64_t keys = sequences[item.sequence].first_position + (item.row_begin + item.row_end + 1) / 2;
    return keys * (item.row_end - item.row_begin) * (item.head_end - item.head_begin);
  };
  std::sort(items.begin(), items.end(), [&](const AttentionItem& a, const AttentionItem& b) { return item_cost(a) > item_cost(b); });
}

}  // namespace pelagic
