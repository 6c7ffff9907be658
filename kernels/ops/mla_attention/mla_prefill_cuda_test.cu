// Against float64, and the row rule: a row's bits are the same however its prompt was cut into chunks, alone, in
// company and in another place.
#include <algorithm>
#include <climits>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "cuda/device_buffer.h"
#include "cuda/random_fill.cuh"
#include "cuda/test.h"
#include "ops/mla_attention/mla_prefill_reference.h"

namespace pelagic::mla_prefill {
namespace {

constexpr int kPools = 3;  // different prompts that a sequence can be the beginning of
constexpr int kMostKeys = 1600;
constexpr int kKv = kMlaPrefillNope + kMlaPrefillValue;
constexpr int kRope = kMlaPrefillRope;
constexpr int kQuery = kMlaPrefillQuery;
constexpr int kValue = kMlaPrefillValue;
constexpr float kScale = 0.13523378f;
constexpr std::uint16_t kNan = 0xFFFF;

// Rows start .. start + rows - 1 of a prompt. Without a prompt (pool -1): no rows, `start` keys of NaN.
struct Chunk {
  int pool;
  int start;
  int rows;
};

struct Arrangement {
  std::string name;
  std::vector<Chunk> chunks;
};

__global__ void scale_kernel(__nv_bfloat16* data, std::size_t count, float factor) {
  const std::size_t step = static_cast<std::size_t>(gridDim.x) * blockDim.x;
  for (std::size_t i = static_cast<std::size_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step)
    data[i] = __float2bfloat16_rn(__bfloat162float(data[i]) * factor);
}

// Whole prompts, on both sides. In odd prompts few keys get most of the weight, in even ones many keys a little.
struct Prompts {
  int heads;
  struct Prompt {
    DeviceBuffer<std::uint16_t> q, kv, rope;
    std::vector<std::uint16_t> host_q, host_kv, host_rope;
  };
  std::vector<Prompt> all;

  explicit Prompts(int heads) : heads(heads) {
    for (int pool = 0; pool < kPools; ++pool) {
      Prompt prompt;
      prompt.q = random(static_cast<std::size_t>(kMostKeys) * heads * kQuery, 60 + pool, pool % 2 == 1 ? 1.0f : 0.2f);
      prompt.kv = random(static_cast<std::size_t>(kMostKeys) * heads * kKv, 70 + pool, 1.0f);
      prompt.rope = random(static_cast<std::size_t>(kMostKeys) * kRope, 80 + pool, 1.0f);
      prompt.host_q = prompt.q.download();
      prompt.host_kv = prompt.kv.download();
      prompt.host_rope = prompt.rope.download();
      all.push_back(std::move(prompt));
    }
  }

  static DeviceBuffer<std::uint16_t> random(std::size_t count, std::uint64_t seed, float factor) {
    DeviceBuffer<std::uint16_t> buffer(count);
    __nv_bfloat16* data = reinterpret_cast<__nv_bfloat16*>(buffer.get());
    fill_random(data, count, seed, nullptr);
    if (factor != 1.0f) scale_kernel<<<2048, 256>>>(data, count, factor);
    PELAGIC_CUDA(cudaDeviceSynchronize());
    return buffer;
  }
};

void copy(std::uint16_t* target, const std::uint16_t* source, std::size_t count) {
  if (count != 0) PELAGIC_CUDA(cudaMemcpy(target, source, count * 2, cudaMemcpyDeviceToDevice));
}

// A step on the device. Behind the last row and the last key the buffers go on, and hold NaN.
struct Step {
  static constexpr int kRowsBehind = 150;
  static constexpr int kKeysBehind = 200;
  int heads;
  int rows = 0;  // of the sequences
  std::vector<Chunk> chunks;
  std::vector<std::int32_t> row_offsets = {0}, key_offsets = {0};
  DeviceBuffer<std::uint16_t> q, kv, rope, out;
  DeviceBuffer<std::int32_t> device_rows, device_keys, errors;

  Step(const Prompts& prompts, const std::vector<Chunk>& chunks) : heads(prompts.heads), chunks(chunks) {
    for (const Chunk& chunk : chunks) {
      row_offsets.push_back(row_offsets.back() + chunk.rows);
      key_offsets.push_back(key_offsets.back() + chunk.start + chunk.rows);
    }
    rows = row_offsets.back();
    const std::size_t all_rows = static_cast<std::size_t>(rows) + kRowsBehind;
    const std::size_t all_keys = static_cast<std::size_t>(key_offsets.back()) + kKeysBehind;
    q = DeviceBuffer<std::uint16_t>(all_rows * heads * kQuery);
    kv = DeviceBuffer<std::uint16_t>(all_keys * heads * kKv);
    rope = DeviceBuffer<std::uint16_t>(all_keys * kRope);
    out = DeviceBuffer<std::uint16_t>(all_rows * heads * kValue);
    for (DeviceBuffer<std::uint16_t>* buffer : {&q, &kv, &rope}) buffer->fill_bytes(0xFF);
    for (std::size_t s = 0; s < chunks.size(); ++s) {
      const Chunk& chunk = chunks[s];
      if (chunk.pool < 0) continue;
      const Prompts::Prompt& prompt = prompts.all[chunk.pool];
      const std::size_t keys = static_cast<std::size_t>(chunk.start) + chunk.rows;
      const std::size_t row = row_offsets[s], key = key_offsets[s], width = heads;
      copy(q.get() + row * width * kQuery, prompt.q.get() + chunk.start * width * kQuery, chunk.rows * width * kQuery);
      copy(kv.get() + key * width * kKv, prompt.kv.get(), keys * width * kKv);
      copy(rope.get() + key * kRope, prompt.rope.get(), keys * kRope);
    }
    device_rows = DeviceBuffer<std::int32_t>(row_offsets);
    device_keys = DeviceBuffer<std::int32_t>(key_offsets);
    errors = DeviceBuffer<std::int32_t>(kMlaPrefillErrors);
  }

  // The result, from a graph that ran twice.
  std::vector<std::uint16_t> run() {
    out.fill_bytes(0xFF);
    errors.fill_bytes(0);
    MlaPrefillProblem problem = {};
    problem.rows = rows + kRowsBehind;
    problem.keys = key_offsets.back() + kKeysBehind;
    problem.heads = heads;
    problem.sequences = static_cast<int>(chunks.size());
    problem.scale = kScale;
    problem.q = q.get();
    problem.kv = kv.get();
    problem.k_rope = rope.get();
    problem.row_offsets = device_rows.get();
    problem.key_offsets = device_keys.get();
    problem.out = out.get();
    problem.errors = errors.get();
    const MlaPrefillPlan plan = make_mla_prefill_plan(problem);
    test::run_from_graph([&](cudaStream_t stream) { PELAGIC_CUDA(launch_mla_prefill(plan, stream)); });
    return out.download();
  }
};

using Identity = std::tuple<int, int>;  // prompt, position
using RowBits = std::map<Identity, std::vector<std::uint16_t>>;

double error_of(const Prompts& prompts, const Chunk& chunk, int row, int head, const std::uint16_t* out) {
  const Prompts::Prompt& prompt = prompts.all[chunk.pool];
  const std::size_t heads = prompts.heads;
  const int position = chunk.start + row;
  return relative_error(out, reference(
                                 prompt.host_q.data() + (position * heads + head) * kQuery, position + 1, kScale,
                                 [&](int t) { return prompt.host_kv.data() + (t * heads + head) * kKv; },
                                 [&](int t) { return prompt.host_rope.data() + static_cast<std::size_t>(t) * kRope; }));
}

// All rows that are known already are compared by bits, some of all with float64.
void check(const Prompts& prompts, const Arrangement& arrangement, RowBits& known) {
  Step step(prompts, arrangement.chunks);
  const int heads = step.heads;
  const std::vector<std::uint16_t> bits = step.run();
  const std::size_t row_values = static_cast<std::size_t>(heads) * kValue;
  // In a batch of many chunks fewer rows of each.
  const int samples = arrangement.chunks.size() > 40 ? 1 : 5;
  double largest = 0;
  int differing = 0;
  for (std::size_t s = 0; s < step.chunks.size(); ++s) {
    const Chunk& chunk = step.chunks[s];
    for (int j = 0; j < chunk.rows; ++j) {
      const auto begin = bits.begin() + static_cast<std::ptrdiff_t>((step.row_offsets[s] + j) * row_values);
      const std::vector<std::uint16_t> mine(begin, begin + static_cast<std::ptrdiff_t>(row_values));
      const auto [entry, first] = known.try_emplace({chunk.pool, chunk.start + j}, mine);
      if (!first && entry->second != mine && ++differing <= 5)
        std::printf("  %s, %d heads, prompt %d, row %d of %d from %d on: other bits\n", arrangement.name.c_str(), heads,
                    chunk.pool, j, chunk.rows, chunk.start);
    }
    for (int i = 0; i < std::min(samples, chunk.rows); ++i) {
      const int row = i == 0 ? chunk.rows - 1 : i == 1 ? 0 : static_cast<int>(random_bits(90 + s, i) % chunk.rows);
      for (const int head : {0, heads - 1, static_cast<int>(random_bits(91 + s, i) % heads)}) {
        const double error =
            error_of(prompts, chunk, row, head, bits.data() + (step.row_offsets[s] + row) * row_values + head * kValue);
        if (!(error <= kTolerance))
          std::printf("  %s, %d heads, prompt %d, row %d of %d from %d on, head %d: error %.3e\n",
                      arrangement.name.c_str(), heads, chunk.pool, row, chunk.rows, chunk.start, head, error);
        if (!(error <= largest)) largest = error;
      }
    }
  }
  const auto written = bits.begin() + static_cast<std::ptrdiff_t>(step.rows * row_values);
  PELAGIC_EXPECT(std::count(written, bits.end(), kNan) == bits.end() - written,
                 "%s, %d heads: written behind the last row", arrangement.name.c_str(), heads);
  PELAGIC_EXPECT(largest <= kTolerance, "%s, %d heads: error %.3e against float64", arrangement.name.c_str(), heads,
                 largest);
  PELAGIC_EXPECT(differing == 0, "%s, %d heads: %d rows have other bits than elsewhere", arrangement.name.c_str(),
                 heads, differing);
  for (const std::int32_t error : step.errors.download())
    PELAGIC_EXPECT(error == 0, "%s, %d heads: an error is noted", arrangement.name.c_str(), heads);
}

// A prompt in chunks of `size`, each a sequence with its own copy of its keys, NaN keys between them.
Arrangement in_chunks(int pool, int rows, int size) {
  Arrangement all = {"chunks of " + std::to_string(size), {}};
  for (int start = 0; start < rows; start += size) {
    all.chunks.push_back({pool, start, std::min(size, rows - start)});
    all.chunks.push_back({-1, 1 + start % 70, 0});
  }
  return all;
}

std::vector<Arrangement> arrangements(int heads) {
  std::vector<Arrangement> all;
  all.push_back({"one chunk", {{0, 0, 1513}}});
  all.push_back({"one chunk", {{1, 0, 1513}}});
  for (const int rows : {1, 63, 64, 65, 200, 513})
    for (const int start : {0, 1, 63, 64, 1000})
      all.push_back({"alone, " + std::to_string(rows) + " rows from " + std::to_string(start) + " on",
                     {{start % 2, start, rows}}});
  all.push_back({"a batch",
                 {{0, 0, 0},
                  {1, 63, 200},
                  {-1, 70, 0},
                  {0, 1, 64},
                  {2, 0, 513},
                  {2, 500, 0},
                  {1, 1000, 513},
                  {0, 64, 1},
                  {0, 0, 0}}});
  all.push_back(
      {"another place", {{1, 1000, 513}, {-1, 1, 0}, {-1, 129, 0}, {0, 64, 1}, {2, 0, 513}, {0, 5, 300}, {1, 63, 65}}});
  for (const int size : {64, 100}) all.push_back(in_chunks(1, 513, size));
  for (const int size : {128, 333}) all.push_back(in_chunks(0, 1513, size));
  all.push_back(in_chunks(1, heads > 16 ? 200 : 513, 1));
  Arrangement backwards = in_chunks(0, 513, 37);
  backwards.name += ", the last first";
  std::reverse(backwards.chunks.begin(), backwards.chunks.end());
  all.push_back(backwards);
  return all;
}

// A row does not feel what the rows after it wrote, be it NaN.
void later_keys_are_not_felt(const Prompts& prompts) {
  const Chunk chunk = {1, 100, 150};
  Step step(prompts, {chunk});
  const std::vector<std::uint16_t> right = step.run();
  const std::vector<std::uint16_t> kv = step.kv.download(), rope = step.rope.download();
  const std::size_t heads = step.heads;
  for (const std::uint16_t poison : {std::uint16_t{0x7FC0}, std::uint16_t{0x7F80}, std::uint16_t{0xFF80}})
    for (const int key : {101, 127, 128, 163, 164, 200, 227, 228, 249}) {
      std::vector<std::uint16_t> changed = kv, changed_rope = rope;
      for (std::size_t head = 0; head < heads; ++head)
        for (const int column : {0, 77, 127, 128, 200, 255}) changed[(key * heads + head) * kKv + column] = poison;
      changed_rope[static_cast<std::size_t>(key) * kRope + 3] = poison;
      step.kv = DeviceBuffer<std::uint16_t>(changed);
      step.rope = DeviceBuffer<std::uint16_t>(changed_rope);
      const std::vector<std::uint16_t> bits = step.run();
      const auto unaware = static_cast<std::ptrdiff_t>((key - chunk.start) * heads * kValue);
      PELAGIC_EXPECT(std::equal(bits.begin(), bits.begin() + unaware, right.begin()),
                     "rows that do not see key %d have other bits when it holds %x", key, poison);
    }
}

void bad_sequences_are_left_out(const Prompts& prompts) {
  const std::vector<Chunk> chunks = {{0, 0, 40}, {1, 30, 50}, {0, 300, 60}};
  Step step(prompts, chunks);
  const std::vector<std::uint16_t> right = step.run();
  const std::size_t row_values = static_cast<std::size_t>(step.heads) * kValue;
  // Rows of the sequences named have not been written, those of the others are right.
  const auto left_out = [&](const std::vector<std::uint16_t>& bits, const std::vector<int>& names) {
    bool same = true;
    for (int s = 0; s < 3; ++s)
      for (std::size_t i = step.row_offsets[s] * row_values; i < step.row_offsets[s + 1] * row_values; ++i)
        same = same && bits[i] == (std::count(names.begin(), names.end(), s) != 0 ? kNan : right[i]);
    return same;
  };
  const auto expect = [&](const char* what, const std::vector<std::int32_t>& rows,
                          const std::vector<std::int32_t>& keys, const std::vector<int>& names) {
    step.device_rows = DeviceBuffer<std::int32_t>(rows);
    step.device_keys = DeviceBuffer<std::int32_t>(keys);
    const std::vector<std::uint16_t> bits = step.run();
    PELAGIC_EXPECT(step.errors.download()[kMlaPrefillBadSequence] == 1, "%s: taken", what);
    PELAGIC_EXPECT(left_out(bits, names), "%s: other outputs changed", what);
  };
  const std::vector<std::int32_t> rows = step.row_offsets, keys = step.key_offsets;
  const int most_rows = step.rows + Step::kRowsBehind, most_keys = keys[3] + Step::kKeysBehind;
  expect("a row past the end", {rows[0], rows[1], rows[2], most_rows + 1}, keys, {2});
  expect("a row far past the end", {rows[0], rows[1], rows[2], INT_MAX}, keys, {2});
  expect("a key past the end", rows, {keys[0], keys[1], keys[2], most_keys + 1}, {2});
  expect("rows before the first", {-1, rows[1], rows[2], rows[3]}, keys, {0});
  expect("keys before the first", rows, {INT_MIN, keys[1], keys[2], keys[3]}, {0});
  expect("fewer keys than rows", rows, {keys[0], keys[1], keys[2], keys[2] + 59}, {2});
}

void bad_problems_are_refused() {
  MlaPrefillProblem problem = {};
  problem.rows = problem.keys = problem.sequences = 1;
  problem.heads = 129;
  problem.scale = 1;
  PELAGIC_EXPECT(test::refuses([&] { make_mla_prefill_plan(problem); }), "129 heads were taken");
}

}  // namespace
}  // namespace pelagic::mla_prefill

// `mla_prefill_cuda_test quick`: one arrangement of 3 heads, for compute-sanitizer.
int main(int argc, char** argv) {
  using namespace pelagic;
  const bool quick = test::asked_quick(argc, argv);
  return test::run("mla_prefill_cuda", [quick] {
    using namespace mla_prefill;
    bad_problems_are_refused();
    for (const int heads : quick ? std::vector<int>{3} : std::vector<int>{3, 16, 128}) {
      const Prompts prompts(heads);
      RowBits known;
      for (const Arrangement& arrangement : arrangements(heads))
        if (!quick || arrangement.name == "a batch") check(prompts, arrangement, known);
      if (heads > 16) continue;
      later_keys_are_not_felt(prompts);
      bad_sequences_are_left_out(prompts);
    }
  });
}
