// Thousands of wrong model folders, loaded by the product's own Model: each is an error that names the culprit, or a
// model that computes what it should. Never a crash, never a hang, never memory that only a header asked for.
//   checkpoint_mutants_test [--seed S] [--count N] [--only INDEX]
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string_view>

#include "backend/cpu/cpu_backend.h"
#include "graph/model.h"
#include "graph/mutants/mutate.h"
#include "graph/test_checkpoint.h"
#include "graph/test_step.h"

#if defined(__SANITIZE_ADDRESS__)
// Of sanitizer/allocator_interface.h and common_interface_defs.h, which not every compiler brings.
extern "C" {
int __sanitizer_install_malloc_and_free_hooks(void (*on_malloc)(const volatile void*, std::size_t),
                                              void (*on_free)(const volatile void*));
std::size_t __sanitizer_get_allocated_size(const volatile void* pointer);
void __sanitizer_set_death_callback(void (*callback)());
}
#endif

using namespace pelagic;
using namespace pelagic::mutants;
using namespace pelagic::test;

namespace {

constexpr int kSecondsEach = 20;
constexpr std::int64_t kKvBlocks = 2;
constexpr int kRows = 70;  // across the end of a block
constexpr std::uint64_t kMemoryBesideFiles = 32u << 20;
constexpr std::uint64_t kMemoryPerFileByte = 24;

std::uint32_t seed = 1, index_now = 0;

// Without allocation or locks: it may run in a signal handler.
void say_where() {
  char text[160];
  const int length = std::snprintf(text, sizeof text, "\nin mutant %u: checkpoint_mutants_test --seed %u --only %u\n",
                                   index_now, seed, index_now);
  if (::write(STDERR_FILENO, text, static_cast<std::size_t>(length)) < 0) return;
}

void on_signal(int number) {
  static constexpr char kHang[] = "\nno end within the bound";
  if (number == SIGALRM && ::write(STDERR_FILENO, kHang, sizeof kHang - 1) < 0) return;
  say_where();
  ::_exit(1);
}

// Bytes held by malloc and operator new, and the most so far. Only AddressSanitizer counts them.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kCounted = true;
#else
constexpr bool kCounted = false;
#endif
std::atomic<std::int64_t> held{0}, most_held{0};

void watch() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_set_death_callback(say_where);
  __sanitizer_install_malloc_and_free_hooks(
      [](const volatile void*, std::size_t size) {
        const std::int64_t now = held += static_cast<std::int64_t>(size);
        for (std::int64_t most = most_held; now > most && !most_held.compare_exchange_weak(most, now);) continue;
      },
      [](const volatile void* pointer) { held -= static_cast<std::int64_t>(__sanitizer_get_allocated_size(pointer)); });
#else
  for (const int number : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT}) ::signal(number, on_signal);
#endif
  ::signal(SIGALRM, on_signal);
}

struct Outcome {
  std::string error;  // empty: it loaded
  std::vector<std::uint64_t> digests;
  bool finite = true;
  bool agree = true;  // every instruction set gives the same
};

Outcome run(const std::filesystem::path& dir) {
  Outcome out;
  for (const Isa isa : {Isa::scalar, Isa::avx2, Isa::avx512}) {
    if (!isa_supported(isa)) continue;
    std::optional<Model> model;
    try {
      model.emplace(dir, make_cpu_backend(isa, 1), KvDtype::float32, kKvBlocks, 2, LoadProgress{});
    } catch (const Error& error) {
      if (error.code() != ErrorCode::checkpoint && error.code() != ErrorCode::memory) throw;
      out.error = error.what();
      return out;
    }
    std::vector<std::uint32_t> tokens;
    const auto rows = static_cast<std::uint32_t>(std::min<std::int64_t>(kRows, model->config().max_positions));
    for (std::uint32_t p = 0; p < rows; ++p)
      tokens.push_back((p * 7 + 3 + p * p) % static_cast<std::uint32_t>(model->config().vocab_size));
    const StepResult result = run_rows(*model, {{.tokens = tokens, .start = 0, .blocks = {1, 0}}}, true);
    for (const float logit : result.logits) out.finite &= std::isfinite(logit);
    // NaNs have many forms, and no rule says which.
    if (out.digests.empty()) out.digests = result.digests;
    out.agree &= !out.finite || out.digests == result.digests;
  }
  return out;
}

struct Tally {
  std::uint32_t headers_that_lie = 0, refused = 0, loaded = 0, equal = 0;
  std::uint32_t by_lie[std::size(kLieNames)] = {};
  std::uint32_t failed = 0;
  std::uint64_t most_bytes = 0;
};

// Every shard there is begins with a header of the right form: tensors with a dtype, a shape and two offsets.
bool headers_parse(const Mutant& mutant) {
  for (const auto& [file, bytes] : mutant.files) {
    if (file.ends_with(".json")) continue;
    try {
      std::uint64_t length = 0;
      if (bytes.size() < 8) return false;
      std::memcpy(&length, bytes.data(), 8);
      if (length > bytes.size() - 8) return false;
      const Json header = parse_json(std::string_view(bytes).substr(8, length), file);
      for (const JsonMember& one : JsonField(header, file).object()) {
        if (one.key == "__metadata__") continue;
        const JsonField tensor(one.value, one.key);
        tensor.at("dtype").string();
        for (std::size_t i = 0; i < tensor.at("shape").size(); ++i) tensor.at("shape").element(i).integer(0, INT64_MAX);
        if (tensor.at("data_offsets").size() != 2) return false;
        for (std::size_t i = 0; i < 2; ++i) tensor.at("data_offsets").element(i).integer(INT64_MIN, INT64_MAX);
      }
    } catch (const Error&) {
      return false;
    }
  }
  return true;
}

// What is wrong with the outcome; empty if nothing is.
std::string judge(const Mutant& mutant, const Outcome& outcome, const Outcome& sound) {
  if (!outcome.error.empty()) {
    if (mutant.fate == Fate::same || mutant.fate == Fate::loads) return "refused: " + outcome.error;
    for (const std::string& culprit : mutant.culprits) {
      if (!culprit.empty() && contains(outcome.error, culprit)) return "";
    }
    return "an error that names no culprit: " + outcome.error;
  }
  if (mutant.fate == Fate::refused) return "loaded";
  if (mutant.fate == Fate::same && outcome.digests != sound.digests) return "computes something else";
  if (!outcome.agree) return "instruction sets disagree";
  if (mutant.sound_weights && !outcome.finite) return "computes infinities or NaNs from sound weights";
  return "";
}

void test_mutant(const std::vector<Outcome>& sound, Tally& tally, bool print) {
  const Mutant mutant = make_mutant(seed, index_now);
  if (print) std::printf("mutant %u: %s\n", index_now, mutant.what.c_str());
  const TempFolder folder;
  std::uint64_t bytes = 0;
  for (const auto& [file, content] : mutant.files) {
    write_file(folder.path() / file, content);
    bytes += content.size();
  }
  if (mutant.in_folder) mutant.in_folder(folder.path());

  const std::int64_t before = held;
  most_held = before;
  ::alarm(kSecondsEach);
  Outcome outcome;
  std::string wrong;
  try {
    outcome = run(folder.path());
    wrong = judge(mutant, outcome, sound[mutant.base]);
  } catch (const std::exception& error) {
    wrong = std::string("another exception than one of a checkpoint: ") + error.what();
  }
  ::alarm(0);
  const auto took = static_cast<std::uint64_t>(most_held - before);
  if (took > kMemoryBesideFiles + kMemoryPerFileByte * bytes)
    wrong = "took " + std::to_string(took) + " bytes for files of " + std::to_string(bytes);

  if (print) std::printf("%s\n", outcome.error.empty() ? "loads" : outcome.error.c_str());
  tally.most_bytes = std::max(tally.most_bytes, took);
  tally.refused += outcome.error.empty() ? 0 : 1;
  tally.loaded += outcome.error.empty() ? 1 : 0;
  tally.equal += mutant.fate == Fate::same && outcome.digests == sound[mutant.base].digests ? 1 : 0;
  if (mutant.lie != Lie::none && headers_parse(mutant)) {
    ++tally.headers_that_lie;
    ++tally.by_lie[static_cast<std::size_t>(mutant.lie)];
  }
  if (wrong.empty()) return;
  ++tally.failed;
  std::printf("FAILED: --seed %u --only %u: %s\n  %s\n", seed, index_now, wrong.substr(0, 1000).c_str(),
              mutant.what.substr(0, 2000).c_str());
}

// Sound drafts load, and compute the same on every instruction set.
std::vector<Outcome> run_sound_drafts() {
  std::vector<Outcome> out;
  for (const Draft& draft : sound_drafts()) {
    const TempFolder folder;
    for (const auto& [file, content] : draft.files()) write_file(folder.path() / file, content);
    out.push_back(run(folder.path()));
    if (!out.back().error.empty() || !out.back().finite || !out.back().agree)
      throw std::runtime_error(draft.name + ": " + out.back().error);
  }
  return out;
}

std::uint32_t number(const char* text) {
  char* end = nullptr;
  const unsigned long value = std::strtoul(text, &end, 10);
  if (*text == '\0' || *end != '\0' || value > UINT32_MAX)
    throw std::runtime_error(std::string(text) + " is no number");
  return static_cast<std::uint32_t>(value);
}

}  // namespace

int main(int argc, char** argv) {
  std::uint32_t count = 2000;
  std::optional<std::uint32_t> only;
  try {
    for (int i = 1; i < argc; i += 2) {
      const std::string_view option = argv[i];
      if (i + 1 == argc) throw std::runtime_error(std::string(option) + " needs a number");
      if (option == "--seed") {
        seed = number(argv[i + 1]);
      } else if (option == "--count") {
        count = number(argv[i + 1]);
      } else if (option == "--only") {
        only = number(argv[i + 1]);
      } else {
        throw std::runtime_error(std::string(option) + ": only --seed, --count and --only are known");
      }
    }
    watch();
    const std::vector<Outcome> sound = run_sound_drafts();
    Tally tally;
    for (index_now = only.value_or(0); index_now < (only ? *only + 1 : count); ++index_now)
      test_mutant(sound, tally, only.has_value());

    struct rusage usage{};
    ::getrusage(RUSAGE_SELF, &usage);
    std::printf(
        "{\"seed\":%u,\"mutants\":%u,\"headersThatParseAndLie\":%u,\"offsets\":%u,\"shapes\":%u,\"dtypes\":%u,"
        "\"shards\":%u,\"refused\":%u,"
        "\"loaded\":%u,\"equalToTheSoundOne\":%u,\"failed\":%u,\"mostBytesForOne\":%s,\"maxRssBytes\":%llu}\n",
        seed, only ? 1 : count, tally.headers_that_lie, tally.by_lie[1], tally.by_lie[2], tally.by_lie[3],
        tally.by_lie[4], tally.refused, tally.loaded, tally.equal, tally.failed,
        kCounted ? std::to_string(tally.most_bytes).c_str() : "null",
        static_cast<unsigned long long>(usage.ru_maxrss) * 1024);
    if (!only && count >= 500 && tally.headers_that_lie * 2 < count) {
      std::printf("FAILED: fewer than half of the mutants have a header that parses and lies\n");
      return 1;
    }
    return tally.failed == 0 ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "checkpoint_mutants_test: %s\n", error.what());
    return 1;
  }
}
