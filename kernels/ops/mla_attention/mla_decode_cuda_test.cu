// Against float64, and the row rule: a row's bits are the same alone, in company, in another place, among the rows of a
// verification step, and whether or not the cuts are spread over clusters.
#include <algorithm>
#include <climits>
#include <map>
#include <string_view>
#include <tuple>
#include <vector>

#include "ops/mla_attention/mla_decode_test_step.cuh"

namespace pelagic::mla_decode {
namespace {

struct Arrangement {
  const char* name;
  std::vector<Sequence> sequences;
};

using Identity = std::tuple<int, int, int>;  // heads, text, keys seen
using RowBits = std::map<Identity, std::vector<std::uint16_t>>;

std::vector<int> sampled_heads(int heads) {
  std::vector<int> sample = {0, heads / 2 - 1, heads / 2, heads - 1};
  if (heads > 64) sample.insert(sample.end(), {15, 16, 63, 64});
  std::sort(sample.begin(), sample.end());
  sample.erase(std::unique(sample.begin(), sample.end()), sample.end());
  return sample;
}

// Rows already known are compared by bits, new ones with float64. A null `known` compares all with float64.
void check(const Arrangement& arrangement, int heads, int cut_tokens, RowBits* known) {
  Step step(heads, arrangement.sequences, cut_tokens);
  const std::vector<std::uint16_t> bits = step.run(cut_tokens, step.pieces);
  const std::size_t row_values = static_cast<std::size_t>(heads) * kMlaDecodeLatent;
  double largest = 0;
  int differing = 0;
  for (std::size_t s = 0; s < step.sequences.size(); ++s) {
    const Sequence& sequence = step.sequences[s];
    for (int j = 0; j < sequence.rows; ++j) {
      const int visible = Step::visible(sequence, j);
      const std::size_t row = step.row_offsets[s] + j;
      const auto begin = bits.begin() + static_cast<std::ptrdiff_t>(row * row_values);
      const std::vector<std::uint16_t> mine(begin, begin + static_cast<std::ptrdiff_t>(row_values));
      if (known != nullptr) {
        const auto [entry, first] = known->try_emplace({heads, sequence.pool, visible}, mine);
        if (!first) {
          if (entry->second != mine) {
            ++differing;
            std::printf("  %s, %d heads, sequence %zu, row %d: text %d, %d keys: other bits\n", arrangement.name, heads,
                        s, j, sequence.pool, visible);
          }
          continue;
        }
      }
      for (const int head : sampled_heads(heads)) {
        const std::vector<double> expected = reference(step.q.data() + (row * heads + head) * kMlaDecodeKey, visible,
                                                       kScale, [&](int t) { return key_of(sequence.pool, t); });
        const double error = relative_error(mine.data() + static_cast<std::size_t>(head) * kMlaDecodeLatent, expected);
        if (!(error <= kTolerance))
          std::printf("  %s, %d heads, sequence %zu, row %d, head %d, %d keys: error %.3e\n", arrangement.name, heads,
                      s, j, head, visible, error);
        if (!(error <= largest)) largest = error;
      }
    }
  }
  PELAGIC_EXPECT(largest <= kTolerance, "%s, %d heads, cuts of %d: error %.3e against float64", arrangement.name, heads,
                 cut_tokens, largest);
  PELAGIC_EXPECT(differing == 0, "%s, %d heads: %d rows have other bits than elsewhere", arrangement.name, heads,
                 differing);
  for (const std::int32_t error : step.errors.download())
    PELAGIC_EXPECT(error == 0, "%s, %d heads: an error is noted", arrangement.name, heads);
}

std::vector<Arrangement> arrangements() {
  std::vector<Arrangement> all;
  for (const Sequence& s : {Sequence{0, 1}, {1, 63}, {2, 64}, {3, 65}, {4, 513}, {5, 4097}, {2, 1}, {1, 1024}, {6, 0}})
    all.push_back({"alone", {s}});
  all.push_back({"seven", {{5, 4097}, {0, 1}, {1, 63}, {2, 64}, {3, 65}, {4, 513}, {6, 0}}});
  all.push_back({"another place", {{6, 0}, {6, 700}, {4, 513}, {3, 65}, {0, 1}, {5, 4097}, {2, 64}, {7, 1500}}});
  // Rows of a verification step: their neighbours see a key, a tile or a cut that they do not.
  all.push_back({"verification",
                 {{2, 66, 4}, {1, 1025, 2}, {0, 2, 2}, {2, 1, 3}, {5, 4099, 3}, {4, 515, 4}, {3, 65, 2}, {6, 0, 2}}});
  return all;
}

void all_arrangements(bool quick) {
  RowBits known;
  for (const Arrangement& arrangement : arrangements())
    for (const int heads : {16, 40, 64, 128})
      if (!quick || (heads == 40 && arrangement.name == std::string_view("verification")))
        check(arrangement, heads, kMlaDecodeCutTokens, &known);
}

// Many cuts, and cuts whose first tile is their last: the error is the same. More sequences than the schedule has
// threads for at once.
void other_cuts() {
  for (const int cut_tokens : {64, 128, 512, 2048})
    check({"other cuts", {{5, 4097, 2}, {4, 513}, {2, 64, 3}, {6, 0}}}, 16, cut_tokens, nullptr);
  std::vector<Sequence> many;
  for (int i = 0; i < 1500; ++i) many.push_back({i % kPools, static_cast<int>(random_bits(53, i) % 3), 1 + i % 2});
  check({"1,500 sequences", many}, 16, kMlaDecodeCutTokens, nullptr);
}

// A row of a verification step does not feel what the rows after it wrote, be it NaN.
void later_keys_are_not_felt() {
  constexpr int kHeads = 40;
  const Sequence sequence = {2, 66, 4};  // the rows see 63 to 66 keys
  Step step(kHeads, {sequence}, kMlaDecodeCutTokens);
  const std::vector<std::uint16_t> right = step.run(kMlaDecodeCutTokens, step.pieces);
  const std::vector<std::uint16_t> cache = step.cache.download();
  for (const std::uint16_t poison : {std::uint16_t{0x7FC0}, std::uint16_t{0x7F80}, std::uint16_t{0xFF80}})
    for (int key = 63; key < 66; ++key) {
      std::vector<std::uint16_t> changed = cache;
      const std::size_t place = static_cast<std::size_t>(step.table[key / kBlock]) * kBlock + key % kBlock;
      for (const int column : {0, 5, 300, 511, 575}) changed[place * kMlaDecodeKey + column] = poison;
      step.cache = DeviceBuffer<std::uint16_t>(changed);
      const std::vector<std::uint16_t> bits = step.run(kMlaDecodeCutTokens, step.pieces);
      // Key 63 is seen from the second row on.
      const std::ptrdiff_t unaware = static_cast<std::ptrdiff_t>(key - 62) * kHeads * kMlaDecodeLatent;
      PELAGIC_EXPECT(std::equal(bits.begin(), bits.begin() + unaware, right.begin()),
                     "rows that do not see key %d have other bits when it holds %x", key, poison);
    }
}

void bad_blocks_are_left_out() {
  constexpr int kHeads = 64;
  const std::vector<Sequence> sequences = {{4, 1200, 2}, {3, 65}};
  Step step(kHeads, sequences, kMlaDecodeCutTokens);
  const std::vector<std::uint16_t> right = step.run(kMlaDecodeCutTokens, step.pieces);
  const std::size_t row_values = static_cast<std::size_t>(kHeads) * kMlaDecodeLatent;
  const std::vector<std::int32_t> table = step.table;
  for (const std::int32_t id : {-1, step.cache_blocks, INT_MIN, INT_MAX}) {
    // The first tile of a cut, one in the middle and the last, half-filled one; then every one.
    for (const std::vector<int>& blocks : {std::vector<int>{0}, {16}, {5}, {18}, {0, 3, 4, 17}, {}}) {
      const auto is_bad = [&](int t) { return blocks.empty() || std::count(blocks.begin(), blocks.end(), t) != 0; };
      std::vector<std::int32_t> changed = table;
      for (int t = 0; t < (1200 + kBlock - 1) / kBlock; ++t)
        if (is_bad(t)) changed[t] = id;
      step.device_table = DeviceBuffer<std::int32_t>(changed);
      const std::vector<std::uint16_t> bits = step.run(kMlaDecodeCutTokens, step.pieces);
      PELAGIC_EXPECT(step.errors.download()[kMlaDecodeBadBlock] == 1, "block %d was taken", id);
      for (int j = 0; j < 2; ++j)
        for (const int head : {0, 63}) {
          const std::size_t vector = static_cast<std::size_t>(j) * kHeads + head;
          const std::vector<double> expected =
              reference(step.q.data() + vector * kMlaDecodeKey, 1199 + j, kScale,
                        [&](int t) { return is_bad(t / kBlock) ? nullptr : key_of(4, t); });
          const double error = relative_error(bits.data() + vector * kMlaDecodeLatent, expected);
          PELAGIC_EXPECT(error <= kTolerance, "block %d, %zu blocks left out: error %.3e", id, blocks.size(), error);
        }
      PELAGIC_EXPECT(std::equal(bits.begin() + 2 * row_values, bits.end(), right.begin() + 2 * row_values),
                     "block %d changed another sequence", id);
    }
  }
}

void bad_sequences_are_left_out() {
  constexpr int kHeads = 16;
  const std::vector<Sequence> sequences = {{1, 63}, {2, 64}, {3, 1500}};
  Step step(kHeads, sequences, kMlaDecodeCutTokens);
  const std::vector<std::uint16_t> right = step.run(kMlaDecodeCutTokens, step.pieces);
  const std::ptrdiff_t row_values = kHeads * kMlaDecodeLatent;
  const auto others_are_right = [&](const std::vector<std::uint16_t>& bits, int left_out) {
    bool same = true;
    for (int row = 0; row < 3; ++row)
      for (std::ptrdiff_t i = row * row_values; i < (row + 1) * row_values; ++i)
        same = same && bits[i] == (row == left_out ? kNan : right[i]);
    return same;
  };
  for (const int length : {-1, INT_MIN, step.max_blocks * kBlock + 1, INT_MAX}) {
    step.device_lengths = DeviceBuffer<std::int32_t>(std::vector<std::int32_t>{63, length, 1500});
    const std::vector<std::uint16_t> bits = step.run(kMlaDecodeCutTokens, step.pieces);
    PELAGIC_EXPECT(step.errors.download()[kMlaDecodeBadSequence] == 1, "length %d was taken", length);
    PELAGIC_EXPECT(others_are_right(bits, 1), "length %d: other outputs changed", length);
  }
  step.device_lengths = DeviceBuffer<std::int32_t>(step.lengths);
  step.device_offsets = DeviceBuffer<std::int32_t>(std::vector<std::int32_t>{0, 1, 2, 4});
  std::vector<std::uint16_t> bits = step.run(kMlaDecodeCutTokens, step.pieces);
  PELAGIC_EXPECT(step.errors.download()[kMlaDecodeBadSequence] == 1, "a row past the end was taken");
  PELAGIC_EXPECT(others_are_right(bits, 2), "a row past the end: other outputs changed");
  step.device_offsets = DeviceBuffer<std::int32_t>(step.row_offsets);
  bits = step.run(kMlaDecodeCutTokens, step.pieces - 1);
  PELAGIC_EXPECT(step.errors.download()[kMlaDecodeNoRoom] == 1, "there was room for too many pieces");
  PELAGIC_EXPECT(others_are_right(bits, 2), "no room: other outputs changed");
}

// What the FP8 cache holds is exactly some bf16: a step over it has the bits of a step over those, errors included.
void expect_same_over_fp8(const char* name, Step& step, std::vector<std::uint16_t> cache, int cut_tokens) {
  std::vector<unsigned char> rows(cache.size() / kMlaDecodeKey * kFp8LatentRowBytes);
  std::vector<std::uint16_t> exact(cache.size());
  for (std::size_t i = 0; i < cache.size() / kMlaDecodeKey; ++i)
    to_fp8_row(cache.data() + i * kMlaDecodeKey, rows.data() + i * kFp8LatentRowBytes,
               exact.data() + i * kMlaDecodeKey);
  step.cache = DeviceBuffer<std::uint16_t>(exact);
  step.fp8_cache = DeviceBuffer<unsigned char>(rows);
  step.reads_fp8 = false;
  const std::vector<std::uint16_t> expected = step.run(cut_tokens, step.pieces);
  const std::vector<std::int32_t> errors = step.errors.download();
  step.reads_fp8 = true;
  const std::vector<std::uint16_t> bits = step.run(cut_tokens, step.pieces);
  std::size_t differing = 0;
  for (std::size_t i = 0; i < bits.size(); ++i) differing += bits[i] != expected[i];
  PELAGIC_EXPECT(differing == 0, "%s, %d heads, fp8: %zu numbers differ from those over the same bf16", name,
                 step.heads, differing);
  PELAGIC_EXPECT(step.errors.download() == errors, "%s, %d heads, fp8: other errors", name, step.heads);
}

void fp8_cache_gives_the_same_bits(bool quick) {
  for (const Arrangement& arrangement : arrangements())
    for (const int heads : {16, 40, 64, 128}) {
      if (quick && (heads != 40 || arrangement.name != std::string_view("verification"))) continue;
      Step step(heads, arrangement.sequences, kMlaDecodeCutTokens);
      expect_same_over_fp8(arrangement.name, step, step.cache.download(), kMlaDecodeCutTokens);
    }
  // Keys that only some rows see hold NaN; blocks that are not there; cuts of one tile.
  Step step(40, {{2, 66, 4}, {6, 0}, {4, 515, 2}}, kMlaDecodeBlockTokens);
  const std::vector<std::uint16_t> cache = step.cache.download();
  for (int key = 63; key < 66; ++key) {
    std::vector<std::uint16_t> changed = cache;
    const std::size_t place = static_cast<std::size_t>(step.table[key / kBlock]) * kBlock + key % kBlock;
    for (const int column : {5, 300, 575}) changed[place * kMlaDecodeKey + column] = 0x7FC0;
    expect_same_over_fp8("NaN", step, changed, kMlaDecodeBlockTokens);
  }
  for (const std::int32_t id : {-1, step.cache_blocks, INT_MIN, INT_MAX}) {
    std::vector<std::int32_t> changed = step.table;
    changed[2 * step.max_blocks + 1] = changed[2 * step.max_blocks + 8] = id;
    step.device_table = DeviceBuffer<std::int32_t>(changed);
    expect_same_over_fp8("bad blocks", step, cache, kMlaDecodeBlockTokens);
    PELAGIC_EXPECT(step.errors.download()[kMlaDecodeBadBlock] == 1, "block %d was taken", id);
  }
}

// Step::run compares the forms.
void spread_cuts_give_the_same_bits(bool quick) {
  for (const Arrangement& arrangement : arrangements())
    for (const int heads : {16, 40, 64, 128}) {
      if (quick && (heads != 40 || arrangement.name != std::string_view("verification"))) continue;
      check(arrangement, heads, 512, nullptr);
    }
  // Keys that only some rows see hold NaN or infinities; blocks that are not there, a whole cut of them too.
  Step step(40, {{2, 66, 4}, {6, 0}, {4, 515, 2}, {5, 1100, 3}}, 512);
  const std::vector<std::uint16_t> cache = step.cache.download();
  for (int key = 63; key < (quick ? 64 : 66); ++key)
    for (const std::uint16_t poison : {std::uint16_t{0x7FC0}, std::uint16_t{0x7F80}, std::uint16_t{0xFF80}}) {
      if (quick && poison != 0x7FC0) continue;
      std::vector<std::uint16_t> changed = cache;
      const std::size_t place = static_cast<std::size_t>(step.table[key / kBlock]) * kBlock + key % kBlock;
      for (const int column : {0, 5, 300, 511, 575}) changed[place * kMlaDecodeKey + column] = poison;
      step.cache = DeviceBuffer<std::uint16_t>(changed);
      step.run(512, step.pieces);
    }
  step.cache = DeviceBuffer<std::uint16_t>(cache);
  for (const std::int32_t id : {-1, step.cache_blocks, INT_MIN, INT_MAX})
    for (const std::vector<int>& blocks :
         {std::vector<int>{0, 3, 4, 17}, {0}, {7}, {8}, {17}, {8, 9, 10, 11, 12, 13, 14, 15}}) {
      if (quick && (id != -1 || blocks.size() != 4)) continue;
      std::vector<std::int32_t> changed = step.table;
      for (const int block : blocks) changed[static_cast<std::size_t>(3 * step.max_blocks + block)] = id;
      step.device_table = DeviceBuffer<std::int32_t>(changed);
      step.run(512, step.pieces);
      PELAGIC_EXPECT(step.errors.download()[kMlaDecodeBadBlock] == 1, "block %d was taken", id);
    }
  if (quick) return;
  constexpr int kSteps = 60;
  for (int n = 0; n < kSteps; ++n) {
    std::uint64_t draw = static_cast<std::uint64_t>(n) * 1000;
    const auto random_below = [&](int end) {
      return static_cast<int>(random_bits(54, draw++) % static_cast<unsigned>(end));
    };
    std::vector<Sequence> sequences(static_cast<std::size_t>(1 + random_below(9)));
    for (Sequence& s : sequences) {
      const int pool = random_below(kPools);
      // As many short ones as long ones.
      const int length = random_below(2) == 0 ? random_below(200) : random_below(kMostKeys - 4);
      s = {pool, length, 1 + random_below(4)};
    }
    const int heads = std::vector{16, 17, 24, 32, 40, 64, 100, 128}[static_cast<std::size_t>(random_below(8))];
    const int cut_tokens = std::vector{512, 512, 512, 448, 128, 64}[static_cast<std::size_t>(random_below(6))];
    Step random_step(heads, sequences, cut_tokens);
    const int before = Step::spread_runs;
    random_step.run(cut_tokens, random_step.pieces);
    PELAGIC_EXPECT(Step::spread_runs == before + 2, "%d heads, cuts of %d were not spread", heads, cut_tokens);
  }
}

// What the choice hangs on: a decode step's rows, and columns of its block table.
void few_pieces_are_spread() {
  MlaDecodeProblem problem = Step(16, {{0, 65}}, 512).problem_of(512, 256);
  const auto clusters = [&](int rows, int max_blocks) {
    problem.rows = problem.sequences = rows;
    problem.max_blocks = max_blocks;
    return make_mla_decode_plan(problem).spread_clusters;
  };
  PELAGIC_EXPECT(clusters(1, 64) == 8, "one row of up to 4,096 keys");
  PELAGIC_EXPECT(clusters(2, 64) == 16, "two rows");
  PELAGIC_EXPECT(clusters(1, 128) == 16, "one row of up to 8,192 keys");
  PELAGIC_EXPECT(clusters(1, 256) == 0, "one row of up to 16,384 keys");
  PELAGIC_EXPECT(clusters(8, 64) == 0, "eight rows");
  problem.cut_tokens = 1024;
  PELAGIC_EXPECT(clusters(1, 64) == 0, "cuts of 1,024 keys");
  problem.cut_tokens = 512;
  problem.cache_dtype = KvDtype::fp8;
  PELAGIC_EXPECT(clusters(1, 64) == 0, "fp8");
}

void bad_problems_are_refused() {
  MlaDecodeProblem problem = {};
  problem.rows = problem.sequences = problem.max_blocks = problem.cache_blocks = problem.piece_capacity = 1;
  problem.heads = 16;
  problem.scale = 1;
  problem.cut_tokens = 100;
  PELAGIC_EXPECT(test::refuses([&] { make_mla_decode_plan(problem); }), "cuts of 100 keys were taken");
}

}  // namespace
}  // namespace pelagic::mla_decode

// `mla_decode_cuda_test quick`: one arrangement, for compute-sanitizer.
int main(int argc, char** argv) {
  using namespace pelagic;
  const bool quick = test::asked_quick(argc, argv);
  return test::run("mla_decode_cuda", [quick] {
    mla_decode::all_arrangements(quick);
    mla_decode::later_keys_are_not_felt();
    mla_decode::bad_sequences_are_left_out();
    mla_decode::fp8_cache_gives_the_same_bits(quick);
    mla_decode::spread_cuts_give_the_same_bits(quick);
    mla_decode::few_pieces_are_spread();
    mla_decode::bad_problems_are_refused();
    if (quick) return;
    mla_decode::bad_blocks_are_left_out();
    mla_decode::other_cuts();
  });
}
