#include "ops/mla_attention/mla_attention.h"

#include <algorithm>

#include "backend/cpu/cpu_ops.h"

namespace pelagic {

std::size_t mla_attention_scratch_floats(const KvLayout& layout) {
  return static_cast<std::size_t>(layout.latent_width()) * kBlockRows;
}

namespace {

// Costs are in (query vector, key) pairs. About five microseconds of one thread: less is not worth a task.
constexpr std::int64_t kMinimumCost = 256;
// Heads that a task of a head-cut row should have at least, so that it computes more than it reads.
constexpr int kHeadsPerTask = 8;
// Parts of a shared row begin at multiples of these.
constexpr int kPartKeys = 16;
constexpr int kPartColumns = 64;

int divide_up(int a, int b) { return (a + b - 1) / b; }

// [0, count) in at most `pieces` nearly equal parts that begin at multiples of `step`.
void add_parts(int shared_row, int count, int pieces, int step, std::vector<SharedAttentionPart>& parts) {
  const int length = divide_up(divide_up(count, pieces), step) * step;
  for (int begin = 0; begin < count; begin += length)
    parts.push_back({shared_row, begin, std::min(begin + length, count)});
}

}  // namespace

void plan_attention(const KvLayout& layout, std::span<const AttentionSequence> sequences, int heads, int threads,
                    AttentionPlan& plan) {
  plan.items.clear();
  plan.shared_rows.clear();
  plan.score_parts.clear();
  plan.value_parts.clear();
  const auto row_cost = [&](const AttentionSequence& sequence, int row) {
    return static_cast<std::int64_t>(heads) * (sequence.first_position + row + 1);
  };
  std::int64_t total = 0;
  for (const AttentionSequence& sequence : sequences) {
    const std::int64_t rows = sequence.rows;
    total += heads * (rows * (sequence.first_position + 1) + rows * (rows - 1) / 2);
  }
  // Four tasks a thread even out.
  const std::int64_t target = std::max(total / (4 * threads), kMinimumCost);
  std::int64_t score_floats = 0;
  for (std::size_t s = 0; s < sequences.size(); ++s) {
    const AttentionSequence& sequence = sequences[s];
    const int id = static_cast<int>(s);
    for (int row = 0; row < sequence.rows;) {
      int row_end = row;
      std::int64_t cost = 0;
      while (row_end < sequence.rows && cost < target) cost += row_cost(sequence, row_end++);
      // One row alone over the target is cut further, in at most a piece for each thread.
      const int pieces =
          row_end - row > 1 ? 1 : static_cast<int>(std::min<std::int64_t>((cost + target - 1) / target, threads));
      if (pieces > 1 && heads < pieces * kHeadsPerTask) {
        const int keys = sequence.first_position + row + 1;
        const int shared = static_cast<int>(plan.shared_rows.size());
        const std::int64_t ld = divide_up(keys, kBlockRows) * kBlockRows;
        plan.shared_rows.push_back({id, row, score_floats, ld});
        score_floats += ld * heads;
        add_parts(shared, keys, pieces, kPartKeys, plan.score_parts);
        add_parts(shared, layout.kv_rank, pieces, kPartColumns, plan.value_parts);
      } else {
        const int length = divide_up(divide_up(heads, pieces), pieces > 1 ? 4 : 1) *
                           (pieces > 1 ? 4 : 1);  // the kernel's block of heads
        for (int head = 0; head < heads; head += length)
          plan.items.push_back({id, row, row_end, head, std::min(head + length, heads)});
      }
      row = row_end;
    }
  }
  if (static_cast<std::int64_t>(plan.scores.size()) < score_floats)
    plan.scores =
        AlignedBuffer<float>(static_cast<std::size_t>(score_floats + score_floats / 4));  // room for the next tokens
  const auto item_cost = [&](const AttentionItem& item) {
    const std::int64_t keys =
        sequences[static_cast<std::size_t>(item.sequence)].first_position + (item.row_begin + item.row_end + 1) / 2;
    return keys * (item.row_end - item.row_begin) * (item.head_end - item.head_begin);
  };
  std::sort(plan.items.begin(), plan.items.end(),
            [&](const AttentionItem& a, const AttentionItem& b) { return item_cost(a) > item_cost(b); });
}

void run_attention(ThreadPool& pool, const CpuOps& ops, std::span<const MlaAttentionCall> calls, int heads,
                   AttentionPlan& plan, std::span<float* const> scratch) {
  // Whole items go first: they are the longest.
  const int items = static_cast<int>(plan.items.size());
  pool.parallel_for(items + static_cast<int>(plan.score_parts.size()), [&](int index, int thread) {
    if (index < items) {
      const AttentionItem& item = plan.items[static_cast<std::size_t>(index)];
      ops.mla_attention(calls[static_cast<std::size_t>(item.sequence)], item.row_begin, item.row_end, item.head_begin,
                        item.head_end, scratch[static_cast<std::size_t>(thread)]);
      return;
    }
    const SharedAttentionPart& part = plan.score_parts[static_cast<std::size_t>(index - items)];
    const SharedAttentionRow& shared = plan.shared_rows[static_cast<std::size_t>(part.shared_row)];
    ops.mla_scores(calls[static_cast<std::size_t>(shared.sequence)], shared.row, 0, heads, part.begin, part.end,
                   plan.scores.data() + shared.scores_offset, shared.ld_scores);
  });
  pool.parallel_for(static_cast<int>(plan.value_parts.size()), [&](int index, int) {
    const SharedAttentionPart& part = plan.value_parts[static_cast<std::size_t>(index)];
    const SharedAttentionRow& shared = plan.shared_rows[static_cast<std::size_t>(part.shared_row)];
    ops.mla_values(calls[static_cast<std::size_t>(shared.sequence)], shared.row, 0, heads, part.begin, part.end,
                   plan.scores.data() + shared.scores_offset, shared.ld_scores);
  });
}

}  // namespace pelagic
