// The row rule on the CUDA backend, over the embedded model: pelagic_cuda_model_test DIR [WEIGHTS [LATENTS]], each
// bfloat16 or fp8. Needs the card. With fp8 weights, a copy of the model in float32 that is quantised at load gives the
// bits of one that is e4m3 in its file.
//
// Prompts of the model's tasks. Every row's digest and every latent are equal to the bit in one call, in chunks, token
// by token, with neighbours and in other blocks, and with latents that were packed and unpacked on the way. Greedy
// answers beside the CPU backend's: the share of equal tokens is printed and must be 0.9 at least (bf16 may turn a near
// tie, and everything after it differs). Exit 0 only if all of it holds.
#include <algorithm>
#include <cstdio>
#include <string>

#include "backend/cpu/cpu_backend.h"
#include "backend/cuda/open_cuda_backend.h"
#include "graph/error.h"
#include "graph/model.h"
#include "graph/test_model_copy.h"
#include "graph/test_step.h"

using namespace pelagic;
using namespace pelagic::test;

namespace {

using Tokens = std::vector<std::uint32_t>;

constexpr int kBlocksEach = 12;  // of a sequence
constexpr int kSequences = 6;
constexpr int kAnswerTokens = 160;
constexpr int kCacheBlocks = 2 * kBlocksEach * kSequences;

// The model's template: bytes, between DeepSeek's special tokens.
Tokens prompt_of(const std::string& question) {
  Tokens tokens = {256, 258};
  for (const char c : question) tokens.push_back(static_cast<unsigned char>(c));
  tokens.insert(tokens.end(), {259, 260, '\n'});
  return tokens;
}

std::vector<Tokens> prompts() {
  std::string codes = "The codes are:";
  for (int i = 0; i < 24; ++i)
    codes += " item " + std::to_string(i) + " is " + std::to_string((i * 7919 + 113) % 1000) + ",";
  return {prompt_of("What is 48213 + 9127?"),           prompt_of("What is 731 * 46?"),
          prompt_of("How many r's are in strawberry?"), prompt_of("Sort these numbers: 53, 8, 91, 17, 40"),
          prompt_of("Reverse the word planet"),         prompt_of(codes + " what is the code of item 9?")};
}

// Rows [start, start + count) of a sequence.
SequenceRows rows_of(const Tokens& tokens, int start, int count, Tokens blocks) {
  return {std::span(tokens).subspan(static_cast<std::size_t>(start), static_cast<std::size_t>(count)), start,
          std::move(blocks), static_cast<std::uint32_t>(tokens.size())};
}
SequenceRows all_rows(const Tokens& tokens, Tokens blocks) {
  return rows_of(tokens, 0, static_cast<int>(tokens.size()), std::move(blocks));
}
StepResult run(Model& model, const std::vector<SequenceRows>& sequences) { return run_rows(model, sequences, false); }

// Out of order, and no two sequences' beside one another; `set` gives others.
Tokens blocks_of(int sequence, int set = 0) {
  Tokens blocks;
  for (int b = kBlocksEach - 1; b >= 0; --b)
    blocks.push_back(static_cast<std::uint32_t>(set * kBlocksEach * kSequences + b * kSequences + sequence));
  return blocks;
}

// XXH64 of all layers' latents of rows [0, count).
std::vector<std::uint64_t> latents(const Model& model, const Tokens& blocks, int count) {
  const KvLayout& layout = model.kv_layout();
  std::vector<std::byte> bytes(layout.block_bytes());
  std::vector<std::uint64_t> sums;
  for (int layer = 0; layer < layout.layers; ++layer) {
    for (int first = 0; first < count; first += kBlockRows) {
      const int rows = std::min(kBlockRows, count - first);
      const auto out = std::span(bytes).first(static_cast<std::size_t>(rows) * layout.row_bytes());
      sums.push_back(model.pack_rows(layer, blocks[static_cast<std::size_t>(first / kBlockRows)], 0, rows, out));
    }
  }
  return sums;
}

struct Bits {
  std::vector<std::uint64_t> digests, latents;
  bool operator==(const Bits&) const = default;
};

Bits in_chunks(Model& model, const Tokens& tokens, const Tokens& blocks, const std::vector<int>& chunks) {
  Bits bits;
  const int total = static_cast<int>(tokens.size());
  int start = 0;
  for (std::size_t i = 0; start < total; ++i) {
    const int count = std::min(chunks[std::min(i, chunks.size() - 1)], total - start);
    const StepResult result = run(model, {rows_of(tokens, start, count, blocks)});
    bits.digests.insert(bits.digests.end(), result.digests.begin(), result.digests.end());
    start += count;
  }
  bits.latents = latents(model, blocks, total);
  return bits;
}

bool failed = false;
void expect(bool good, const std::string& what) {
  std::printf("%s %s\n", good ? "ok  " : "FAIL", what.c_str());
  failed = failed || !good;
}

// Each prompt's in one call of its own.
std::vector<Bits> bits_of(Model& model, const std::vector<Tokens>& all) {
  std::vector<Bits> alone;
  for (std::size_t s = 0; s < all.size(); ++s)
    alone.push_back(in_chunks(model, all[s], blocks_of(static_cast<int>(s)), {1 << 20}));
  return alone;
}

std::vector<Bits> check_rows(Model& model, const std::vector<Tokens>& all) {
  const std::vector<Bits> alone = bits_of(model, all);
  const auto same = [&](const std::vector<int>& chunks) {
    bool equal = true;
    for (std::size_t s = 0; s < all.size(); ++s)
      equal = equal && in_chunks(model, all[s], blocks_of(static_cast<int>(s), 1), chunks) == alone[s];
    return equal;
  };
  expect(same({1 << 20}), "again, in other blocks");
  expect(same({37, 64, 1 << 20}), "chunks of 37, 64 and the rest");
  expect(same({64}), "chunks of 64");
  expect(same({3, 5, 2, 7, 1}), "chunks of 3, 5, 2, 7, and then token by token");
  expect(same({1}), "token by token");

  // All of them in one call, each a run of its own length.
  std::vector<SequenceRows> batch;
  for (std::size_t s = all.size(); s-- > 0;) batch.push_back(all_rows(all[s], blocks_of(static_cast<int>(s), 1)));
  const StepResult together = run(model, batch);
  bool equal = true;
  std::size_t at = 0;
  for (std::size_t i = 0; i < batch.size(); ++i) {
    const Bits& expected = alone[all.size() - 1 - i];
    equal = equal && std::equal(expected.digests.begin(), expected.digests.end(),
                                together.digests.begin() + static_cast<std::ptrdiff_t>(at));
    equal = equal && latents(model, batch[i].blocks, static_cast<int>(batch[i].tokens.size())) == expected.latents;
    at += batch[i].tokens.size();
  }
  expect(equal, "all prompts in one call");

  // Latents that went out and came back into other blocks, and a block copied inside of the cache.
  const KvLayout& layout = model.kv_layout();
  const Tokens& tokens = all.back();
  const int last = static_cast<int>(tokens.size()) - 1;
  const Tokens from = blocks_of(static_cast<int>(all.size()) - 1), to = blocks_of(0, 1);
  std::vector<std::byte> bytes(layout.block_bytes());
  bool sums = true;
  for (int layer = 0; layer < layout.layers; ++layer) {
    for (int first = kBlockRows; first < last; first += kBlockRows) {
      const int rows = std::min(kBlockRows, last - first);
      const auto span = std::span(bytes).first(static_cast<std::size_t>(rows) * layout.row_bytes());
      const auto block = static_cast<std::size_t>(first / kBlockRows);
      sums = sums &&
             model.pack_rows(layer, from[block], 0, rows, span) == model.unpack_rows(layer, to[block], 0, rows, span);
    }
  }
  model.copy_block(from[0], to[0]);
  const StepResult resumed = run(model, {rows_of(tokens, last, 1, to)});
  expect(sums && resumed.digests[0] == alone.back().digests.back(), "after latents were moved");
  return alone;
}

// After prepare() no step of its size takes memory of the card, whatever sequences it is made of.
void check_prepared(Model& model, const std::vector<Tokens>& all) {
  int rows = 0;
  std::vector<SequenceRows> prompts, steps;
  for (std::size_t s = 0; s < all.size(); ++s) {
    const auto blocks = blocks_of(static_cast<int>(s));
    const int last = static_cast<int>(all[s].size()) - 1;
    prompts.push_back(all_rows(all[s], blocks));
    prompts.back().logit_rows = 1;
    steps.push_back(rows_of(all[s], last, 1, blocks));
    rows += last + 1;
  }
  model.prepare(rows, static_cast<int>(all.size()));
  const std::uint64_t taken = model.allocations();
  run(model, prompts);
  for (int i = 0; i < 3; ++i) run(model, steps);  // recorded, then replayed
  run(model, {prompts.back()});
  expect(taken > 0 && model.allocations() == taken, "no memory of the card taken after the largest step's");
}

std::vector<Tokens> answers(Model& model, const std::vector<Tokens>& all) {
  std::vector<Tokens> sequences = all, out(all.size());
  std::vector<SequenceRows> first;
  for (std::size_t s = 0; s < all.size(); ++s) first.push_back(all_rows(all[s], blocks_of(static_cast<int>(s))));
  const StepResult result = run(model, first);
  std::size_t at = 0;
  std::vector<std::uint32_t> next;
  for (const Tokens& prompt : all) {
    at += prompt.size();
    next.push_back(static_cast<std::uint32_t>(result.samples[at - 1].token));
  }
  for (int i = 0; i < kAnswerTokens; ++i) {
    std::vector<SequenceRows> rows;
    for (std::size_t s = 0; s < all.size(); ++s) {
      out[s].push_back(next[s]);
      sequences[s].push_back(next[s]);
    }
    for (std::size_t s = 0; s < all.size(); ++s)
      rows.push_back(
          rows_of(sequences[s], static_cast<int>(sequences[s].size()) - 1, 1, blocks_of(static_cast<int>(s))));
    const StepResult step = run(model, rows);
    for (std::size_t s = 0; s < all.size(); ++s) next[s] = static_cast<std::uint32_t>(step.samples[s].token);
  }
  for (Tokens& tokens : out) {
    const auto end = std::find(tokens.begin(), tokens.end(), 257u);
    tokens.erase(end, tokens.end());
  }
  return out;
}

std::string text_of(const Tokens& tokens) {
  std::string text;
  for (const std::uint32_t token : tokens) {
    if (token < 256) text += token == '\n' ? '/' : static_cast<char>(token);
    if (token == 261) text += "</think>";
  }
  return text;
}

void compare_answers(Model& cuda, Model& cpu, const std::vector<Tokens>& all) {
  const std::vector<Tokens> got = answers(cuda, all), expected = answers(cpu, all);
  std::size_t equal = 0, total = 0, whole = 0;
  for (std::size_t s = 0; s < all.size(); ++s) {
    const std::size_t length = std::max(got[s].size(), expected[s].size());
    total += length;
    whole += got[s] == expected[s];
    for (std::size_t i = 0; i < std::min(got[s].size(), expected[s].size()); ++i) equal += got[s][i] == expected[s][i];
    std::printf("     cuda: %s\n", text_of(got[s]).c_str());
    if (got[s] != expected[s]) std::printf("     cpu:  %s\n", text_of(expected[s]).c_str());
  }
  const double share = static_cast<double>(equal) / static_cast<double>(total);
  expect(share >= 0.9, "greedy answers: " + std::to_string(share) + " of " + std::to_string(total) +
                           " tokens equal the CPU's, " + std::to_string(whole) + " of " + std::to_string(all.size()) +
                           " answers");
}

}  // namespace

int main(int argc, char** argv) {
  const auto known = [](const std::string& dtype) { return dtype == "bfloat16" || dtype == "fp8"; };
  const std::string weights = argc > 2 ? argv[2] : "bfloat16", latents = argc > 3 ? argv[3] : "bfloat16";
  if (argc < 2 || argc > 4 || !known(weights) || !known(latents)) {
    std::fprintf(stderr, "usage: pelagic_cuda_model_test DIR [bfloat16|fp8 [bfloat16|fp8]]\n");
    return 2;
  }
  const bool fp8 = weights == "fp8";
  try {
    const std::vector<Tokens> all = prompts();
    const KvDtype kv_dtype = latents == "fp8" ? KvDtype::fp8 : KvDtype::bfloat16;
    const auto load = [kv_dtype](const std::filesystem::path& dir, CudaWeights cuda_weights) {
      return std::make_unique<Model>(dir, open_cuda_backend(cuda_weights), kv_dtype, kCacheBlocks, 2, LoadProgress{});
    };
    std::filesystem::path dir = argv[1];
    const std::unique_ptr<Model> cuda = load(dir, fp8 ? CudaWeights::fp8 : CudaWeights::bfloat16);
    check_prepared(*cuda, all);
    std::string refusal;
    try {
      Model(dir, open_cuda_backend(CudaWeights::bfloat16), kv_dtype, std::int64_t{1} << 40, 2, {});
    } catch (const Error& error) {
      refusal = error.what();
    }
    expect(refusal.find("the card's memory") != std::string::npos,
           "a cache larger than the card is refused: " + refusal);
    const std::vector<Bits> bits = check_rows(*cuda, all);
    if (fp8) {
      expect(bits_of(*load(dir, CudaWeights::bfloat16), all) != bits, "other bits than bf16 weights give");
      const TempFolder wide, quantised;
      write_copy(dir, wide.path(), false);
      write_copy(wide.path(), quantised.path(), true);
      expect(
          bits_of(*load(wide.path(), CudaWeights::fp8), all) == bits_of(*load(quantised.path(), CudaWeights::fp8), all),
          "quantised at load and before: the same bits");
    }
    if (kv_dtype == KvDtype::fp8) {
      Model wide(dir, open_cuda_backend(fp8 ? CudaWeights::fp8 : CudaWeights::bfloat16), KvDtype::bfloat16,
                 kCacheBlocks, 2, {});
      expect(bits_of(wide, all) != bits, "other bits than bf16 latents give");
    }
    Model cpu(dir, make_cpu_backend(best_isa(), 2), KvDtype::bfloat16, kCacheBlocks, 2, {});
    compare_answers(*cuda, cpu, all);
  } catch (const std::exception& error) {
    std::printf("FAIL %s\n", error.what());
    failed = true;
  }
  return failed ? 1 : 0;
}
