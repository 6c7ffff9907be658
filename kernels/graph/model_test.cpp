#include "graph/model.h"

#include <numeric>

#include "backend/cpu/cpu_backend.h"
#include "graph/test_checkpoint.h"

using namespace pelagic;
using namespace pelagic::test;

namespace {

// The tiny model, and a batch that tests change before they run it.
struct Fixture {
  TempFolder folder;
  std::unique_ptr<Model> model;

  std::vector<std::uint32_t> tokens, row_counts, start_positions, prompt_lengths, block_table, block_offsets,
      logit_rows;
  std::vector<const SamplingParams*> sampling;
  std::vector<int> layers;  // as reported

  explicit Fixture(KvDtype dtype = KvDtype::float32, int threads = 2, Isa isa = best_isa(), std::int64_t blocks = 8) {
    write_checkpoint(folder.path(), tiny_tensors());
    model = std::make_unique<Model>(folder.path(), make_cpu_backend(isa, threads), dtype, blocks, 1, LoadProgress{});
    clear();
  }

  void clear() {
    for (auto* list : {&tokens, &row_counts, &start_positions, &prompt_lengths, &block_table, &logit_rows})
      list->clear();
    block_offsets = {0};
    sampling.clear();
  }

  // Rows [start, start + count) of sequence `seed`; the token at a position depends on both only.
  void add(std::uint32_t seed, std::uint32_t start, std::uint32_t count, std::vector<std::uint32_t> blocks) {
    for (std::uint32_t p = start; p < start + count; ++p) tokens.push_back((p * 7 + seed * 13 + p * p) % 40);
    row_counts.push_back(count);
    start_positions.push_back(start);
    prompt_lengths.push_back(1);
    block_table.insert(block_table.end(), blocks.begin(), blocks.end());
    block_offsets.push_back(static_cast<std::uint32_t>(block_table.size()));
  }
  void want_logits(std::vector<std::uint32_t> rows) {
    logit_rows = std::move(rows);
    sampling.assign(logit_rows.size(), nullptr);
  }
  void want_all_logits() {
    std::vector<std::uint32_t> rows(tokens.size());
    std::iota(rows.begin(), rows.end(), 0u);
    want_logits(rows);
  }

  StepResult run() {
    StepResult result;
    layers.clear();
    model->step(
        {.tokens = tokens,
         .row_counts = row_counts,
         .start_positions = start_positions,
         .prompt_lengths = prompt_lengths,
         .block_table = block_table,
         .block_offsets = block_offsets,
         .logit_rows = logit_rows,
         .sampling = sampling,
         .digests = true},
        [&](int layer) { layers.push_back(layer); }, result);
    return result;
  }
  // What the batch is refused for.
  std::string refusal() {
    return error_of([&] { run(); }, ErrorCode::argument);
  }
};

// Digests of 100 rows of sequence 1, computed alone in one call.
std::vector<std::uint64_t> reference(KvDtype dtype) {
  Fixture f(dtype, 1, Isa::scalar);
  f.add(1, 0, 100, {0, 1});
  f.want_all_logits();
  return f.run().digests;
}

}  // namespace

TEST("rows have the same bits alone and beside others, in chunks, on every instruction set and number of threads") {
  for (const KvDtype dtype : {KvDtype::float32, KvDtype::bfloat16}) {
    const std::vector<std::uint64_t> wanted = reference(dtype);
    for (const Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512}) {
      if (!isa_supported(isa)) continue;
      for (const int threads : {1, 3}) {
        Fixture f(dtype, threads, isa);
        std::vector<std::uint64_t> got;
        for (const auto& [start, count] : {std::pair{0u, 37u}, {37u, 27u}, {64u, 1u}, {65u, 35u}}) {
          f.clear();
          f.add(9, start, 5, {6, 7});
          f.add(1, start, count, {4, 2});
          std::vector<std::uint32_t> rows(count);
          std::iota(rows.begin(), rows.end(), 5u);
          f.want_logits(rows);
          const StepResult result = f.run();
          got.insert(got.end(), result.digests.begin(), result.digests.end());
        }
        CHECK(got == wanted);
      }
    }
  }
}

TEST("rows whose logits are not wanted leave the last layer early and change nothing") {
  const std::vector<std::uint64_t> wanted = reference(KvDtype::float32);
  Fixture f;
  f.add(1, 0, 100, {0, 1});
  f.add(1, 0, 100, {3, 5});
  f.want_logits({3, 4, 99, 100, 170, 171, 172, 199});
  const StepResult result = f.run();
  const std::vector<std::uint64_t> some = {wanted[3],  wanted[4],  wanted[99], wanted[0],
                                           wanted[70], wanted[71], wanted[72], wanted[99]};
  CHECK(result.digests == some);

  f.clear();
  f.add(1, 0, 99, {0, 1});
  CHECK(f.run().digests.empty());  // a prefill: latents only
  CHECK((f.layers == std::vector<int>{0, 1, 2}));
  f.clear();
  f.add(1, 99, 1, {0, 1});
  f.want_all_logits();
  CHECK(f.run().digests[0] == wanted[99]);
}

TEST("latents that were packed and unpacked elsewhere give the same bits") {
  const std::vector<std::uint64_t> wanted = reference(KvDtype::bfloat16);
  Fixture from(KvDtype::bfloat16), to(KvDtype::bfloat16);
  from.add(1, 0, 99, {0, 1});
  from.run();
  const std::size_t row_bytes = from.model->kv_layout().row_bytes();
  for (int layer = 0; layer < 3; ++layer) {
    for (int block = 0; block < 2; ++block) {
      const int rows = block == 0 ? 64 : 35;
      std::vector<std::byte> bytes(static_cast<std::size_t>(rows) * row_bytes);
      const std::uint64_t hash = from.model->pack_rows(layer, static_cast<std::uint32_t>(block), 0, rows, bytes);
      to.model->unpack_rows(layer, static_cast<std::uint32_t>(5 - block), 0, rows, bytes);
      CHECK(to.model->pack_rows(layer, static_cast<std::uint32_t>(5 - block), 0, rows, bytes) == hash);
    }
  }
  to.model->copy_block(4, 6);
  to.add(1, 99, 1, {5, 6});
  to.want_all_logits();
  CHECK(to.run().digests[0] == wanted[99]);
}

TEST("expert counts add up: all rows in each MoE layer but the last, logit rows there") {
  Fixture f;
  f.add(1, 0, 50, {0});
  f.want_logits({49});
  const std::vector<std::uint32_t> counts = f.run().expert_counts;
  CHECK(counts.size() == 2 * 8);
  CHECK(std::accumulate(counts.begin(), counts.begin() + 8, 0u) == 50 * 2);
  CHECK(std::accumulate(counts.begin() + 8, counts.end(), 0u) == 2);
}

TEST("sampling reports a token for the rows that ask for one") {
  Fixture f;
  SamplingParams greedy;
  greedy.logprobs = 2;
  f.add(1, 0, 3, {0});
  f.want_all_logits();
  f.sampling[2] = &greedy;
  const StepResult result = f.run();
  CHECK(result.samples[2].valid && result.samples[2].top_tokens.size() == 2);
  CHECK(result.samples[2].top_tokens[0] == static_cast<std::uint32_t>(result.samples[2].token));
}

TEST("an impossible batch is refused, naming the argument") {
  Fixture f;
  const auto check = [&](const std::string& part, const std::function<void()>& damage) {
    f.clear();
    f.add(1, 0, 10, {0});
    f.add(2, 60, 10, {1, 2});
    f.want_logits({9, 19});
    damage();
    const std::string message = f.refusal();
    if (!contains(message, part)) fail(__FILE__, __LINE__, "expected '" + part + "', got '" + message + "'");
  };
  check("", [] {});
  check("tokens[3] is 40", [&] { f.tokens[3] = 40; });
  check("tokens has 21 elements, expected 20", [&] { f.tokens.push_back(1); });
  check("tokens is empty", [&] { f.clear(); });
  check("rowCounts[1] is 0", [&] { f.row_counts[1] = 0; });
  check("tokens has 20 elements, expected", [&] { f.row_counts[1] = 40; });
  check("blockOffsets[1]: the sequence has 2 blocks", [&] { f.row_counts[1] = 100; });
  check("startPositions has 1", [&] { f.start_positions.pop_back(); });
  check("startPositions[0]: rows end at position 4294967305", [&] { f.start_positions[0] = 0xFFFFFFFF; });
  check("startPositions[1]: rows end at position 513", [&] { f.start_positions[1] = 503; });
  check("promptLengths has 3", [&] { f.prompt_lengths.push_back(1); });
  check("blockTable[2] is 8", [&] { f.block_table[2] = 8; });
  check("blockOffsets has 2", [&] { f.block_offsets.pop_back(); });
  check("blockOffsets[1] is out of order", [&] { f.block_offsets[2] = 0; });
  check("blockOffsets[1] is out of order", [&] { f.block_offsets[2] = 9; });
  check("blockTable[2] is written to twice", [&] { f.block_table[2] = 0; });
  check("logitRows[1]", [&] { f.logit_rows[1] = 20; });
  check("logitRows[1]", [&] { f.logit_rows[1] = 9; });
  check("sampling has 1", [&] { f.sampling.pop_back(); });
  SamplingParams wrong;
  wrong.temperature = -1.0f;
  check("sampling[1]: ", [&] { f.sampling[1] = &wrong; });
}

TEST("rows, layers and blocks that do not exist are refused") {
  Fixture f;
  const std::size_t row_bytes = f.model->kv_layout().row_bytes();
  std::vector<std::byte> bytes(64 * row_bytes);
  const auto pack = [&](int layer, std::uint32_t block, int first, int count, std::size_t size) {
    return error_of([&] { f.model->pack_rows(layer, block, first, count, std::span(bytes).first(size)); },
                    ErrorCode::argument);
  };
  CHECK(pack(2, 7, 0, 64, 64 * row_bytes).empty());
  CHECK(pack(0, 0, 64, 0, 0).empty());
  CHECK(contains(pack(3, 0, 0, 1, row_bytes), "layer 3"));
  CHECK(contains(pack(-1, 0, 0, 1, row_bytes), "layer -1"));
  CHECK(contains(pack(0, 8, 0, 1, row_bytes), "block 8"));
  CHECK(contains(pack(0, 0, 63, 2, 2 * row_bytes), "leave the block"));
  CHECK(contains(pack(0, 0, -1, 2, 2 * row_bytes), "leave the block"));
  CHECK(contains(pack(0, 0, 0, 2, row_bytes), "bytes"));
  CHECK(contains(error_of([&] { f.model->copy_block(0, 8); }, ErrorCode::argument), "block 8"));
}

TEST("taking a step's memory before the first one changes no bit, whatever size is asked for") {
  for (const auto& [rows, logit_rows] : {std::pair{1, 1}, {100, 7}, {1 << 20, 1 << 20}}) {
    Fixture f;
    f.model->prepare(rows, logit_rows);
    f.add(1, 0, 100, {4, 2});
    f.want_all_logits();
    CHECK(f.run().digests == reference(KvDtype::float32));
  }
}

TEST(
    "after a step's memory was taken, no step of that size takes more: not of sequences that are longer together than "
    "any") {
  // 24 blocks hold three of the longest sequences.
  Fixture f(KvDtype::float32, 2, best_isa(), 24);
  f.model->prepare(1000, 30);
  const std::uint64_t taken = f.model->allocations();
  const auto step = [&](std::uint32_t each, std::uint32_t rows) {
    f.clear();
    for (std::uint32_t s = 0; s * each < rows; ++s) {
      std::vector<std::uint32_t> blocks(each / 64 + 1);
      std::iota(blocks.begin(), blocks.end(), s * static_cast<std::uint32_t>(blocks.size()));
      f.add(s, 0, std::min(each, rows - s * each), blocks);
    }
    std::vector<std::uint32_t> last(30);
    std::iota(last.begin(), last.end(), rows - 30);
    f.want_logits(last);
    f.run();
  };
  for (const auto& [each, rows] : {std::pair{500u, 1000u}, {125u, 1000u}, {60u, 1000u}, {100u, 30u}}) step(each, rows);
  CHECK(f.model->allocations() == taken);
  step(500, 1400);
  CHECK(f.model->allocations() > taken);
}

TEST("latents that the backend does not have are refused by name") {
  const TempFolder folder;
  write_checkpoint(folder.path(), tiny_tensors());
  const auto make = [&] { Model(folder.path(), make_cpu_backend(Isa::scalar, 1), KvDtype::fp8, 2, 1, {}); };
  CHECK(contains(error_of(make, ErrorCode::argument), "has no FP8 latents: kvDtype"));
}

TEST("a cache larger than the machine is refused") {
  const TempFolder folder;
  write_checkpoint(folder.path(), tiny_tensors());
  const auto make = [&](std::int64_t blocks) {
    Model(folder.path(), make_cpu_backend(Isa::scalar, 1), KvDtype::float32, blocks, 1, {});
  };
  CHECK(contains(error_of([&] { make(INT64_MAX); }, ErrorCode::memory), "kvBlocks"));
  CHECK(contains(error_of([&] { make(0); }, ErrorCode::argument), "kvBlocks"));
}

TEST_MAIN
