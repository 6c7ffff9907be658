// Two ranks as processes: pelagic_cuda_ranks_test [--fp8] [--link nccl|host] DIR. They meet over TCP. nccl: each has a
// card of its own; host: they share one. Every logits row has the digest that one rank gives it, for placements without
// and with redundancy, and rows went from card to card, or through host memory, as they should. Then one rank dies in
// the middle of a layer, when it has promised rows that it does not send: the other's step ends with its name, and it
// goes on alone with the same bits. Prints what a decode step takes.
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <numeric>
#include <string>

#include "graph/test_step.h"
#include "ranks/test_backend.h"
#include "ranks/test_group.h"

namespace pelagic::test {
namespace {

constexpr int kRanks = 2;
constexpr int kSequences = 16;  // of each rank
constexpr int kPromptRows = 100;
constexpr int kDecodeSteps = 40;
constexpr int kBlocks = 3 * kSequences;
constexpr RankTimes kTimes{
    .meet = std::chrono::seconds(30), .silence = std::chrono::seconds(3), .longest_wait = std::chrono::seconds(30)};
constexpr int kRounds = 3;        // placements
constexpr int kDyingMessage = 9;  // of `rows`, in the last round

struct Options {
  std::string dir;
  TestBackend backend{.name = "cuda"};
  bool expects_nccl = true;
};

// What the processes have in common.
struct Shared {
  std::atomic<int> busy[kRounds] = {kRanks, kRanks, kRanks};
};

using Tokens = std::vector<std::uint32_t>;

Tokens tokens_of(int rank, int sequence, std::int64_t vocab) {
  Tokens tokens(kPromptRows + kDecodeSteps);
  std::uint32_t state = static_cast<std::uint32_t>(1000 * rank + sequence + 1);
  for (std::uint32_t& token : tokens) {
    state = state * 1664525u + 1013904223u;
    token = (state >> 8) % static_cast<std::uint32_t>(vocab);
  }
  return tokens;
}

struct Run {
  std::vector<std::uint64_t> digests;
  double decode_step_us = 0;
};

// Prompts in two calls with all their logits, then decode steps of one row each. Rank 1 has fewer rows than rank 0.
Run run_sequences(Model& model, int rank) {
  const int sequences = kSequences - 5 * rank;
  std::vector<Tokens> tokens;
  for (int s = 0; s < sequences; ++s) tokens.push_back(tokens_of(rank, s, model.config().vocab_size));
  Run run;
  const auto step = [&](int start, int count) {
    std::vector<SequenceRows> rows;
    for (int s = 0; s < sequences; ++s) {
      const auto block = static_cast<std::uint32_t>(3 * s);
      rows.push_back({std::span(tokens[static_cast<std::size_t>(s)])
                          .subspan(static_cast<std::size_t>(start), static_cast<std::size_t>(count)),
                      start,
                      {block, block + 1, block + 2}});
    }
    const StepResult result = run_rows(model, rows, false);
    run.digests.insert(run.digests.end(), result.digests.begin(), result.digests.end());
  };
  step(0, 37 + rank);
  step(37 + rank, kPromptRows - 37 - rank);
  std::vector<double> seconds;
  for (int i = 0; i < kDecodeSteps; ++i) {
    const auto start = std::chrono::steady_clock::now();
    step(kPromptRows + i, 1);
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::nth_element(seconds.begin(), seconds.begin() + kDecodeSteps / 2, seconds.end());
  run.decode_step_us = 1e6 * seconds[kDecodeSteps / 2];
  return run;
}

// Round 0: each expert once. Round 1: some twice, and spare slots. Round 2: each on both ranks.
ExpertPlan plan_of(const ModelConfig& config, int round) {
  const int experts = static_cast<int>(config.expert_count);
  ExpertPlan plan;
  plan.version = static_cast<std::uint64_t>(round) + 1;
  plan.rank_count = kRanks;
  plan.slots_per_rank = round == 0 ? (experts + 1) / 2 : round == 1 ? experts / 2 + 3 : experts;
  for (std::int64_t layer = 0; layer < config.moe_layer_count(); ++layer) {
    std::vector<std::int32_t> slots(static_cast<std::size_t>(kRanks * plan.slots_per_rank), -1);
    for (std::size_t slot = 0; slot < slots.size(); ++slot) {
      const int at = static_cast<int>(slot);
      if (at < experts) slots[slot] = at;
      if (round == 1 && at >= experts && at < experts + 4) slots[slot] = (7 * at + static_cast<int>(layer)) % experts;
      if (round == 2) slots[slot] = ((at < experts ? at : 2 * experts - 1 - at) + static_cast<int>(layer)) % experts;
    }
    // Out of order over both ranks; in round 2 a rank keeps one of each.
    if (round < 2) std::rotate(slots.begin(), slots.begin() + 5 + layer, slots.end());
    plan.layers.push_back(std::move(slots));
  }
  return plan;
}

// Ends this process when it has received so many messages of rows.
class DyingExchange final : public ExpertExchange {
 public:
  DyingExchange(std::unique_ptr<ExpertExchange> inner, int exit_code)
      : inner_(std::move(inner)), exit_code_(exit_code) {}
  int rank() const override { return inner_->rank(); }
  int rank_count() const override { return inner_->rank_count(); }
  bool is_member(int rank) const override { return inner_->is_member(rank); }
  void send(int to, MessageTag tag, std::span<const std::byte> bytes) override { inner_->send(to, tag, bytes); }
  std::span<const std::byte> receive(int from, MessageTag tag) override {
    const auto bytes = inner_->receive(from, tag);
    if (tag.kind == MessageKind::rows && ++rows_ == kDyingMessage) {
      ::usleep(100'000);  // until the other rank waits on its card
      ::_exit(exit_code_);
    }
    return bytes;
  }
  void leave(const GroupEnd& end) override { inner_->leave(end); }
  void check() const override { inner_->check(); }
  bool has_message() const override { return inner_->has_message(); }
  void on_arrival(std::function<void()> fn) override { inner_->on_arrival(std::move(fn)); }

 private:
  const std::unique_ptr<ExpertExchange> inner_;
  const int exit_code_;
  int rows_ = 0;
};

bool expect(bool good, int rank, const std::string& what) {
  std::printf("%s rank %d: %s\n", good ? "ok  " : "FAIL", rank, what.c_str());
  std::fflush(stdout);
  return good;
}

// A group's steps until both ranks have no work left.
Run run_in_group(Model& model, Shared& shared, int round, int rank) {
  Run run = run_sequences(model, rank);
  std::atomic<int>& busy = shared.busy[round];
  --busy;
  while (busy > 0) {
    if (!model.take_part()) ::usleep(50);
  }
  return run;
}

// The last round: the other rank dies.
bool lose_other(Model& model, const std::vector<std::uint64_t>& wanted) {
  bool good = true;
  const auto start = std::chrono::steady_clock::now();
  std::string message;
  try {
    run_sequences(model, 0);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::rank_lost) throw;
    message = error.what();
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  good = expect(message.find("rank 1") != std::string::npos && seconds < 10, 0,
                "the other died in a layer; after " + std::to_string(seconds) + " s: " + message) &&
         good;
  model.join(std::move(make_local_exchanges(kRanks, kTimes.longest_wait, {true, false})[0]), RankView{});
  return expect(run_sequences(model, 0).digests == wanted, 0, "goes on alone with the same bits") && good;
}

bool run_rank(const Options& options, Shared& shared, std::vector<std::unique_ptr<RankListener>>& listeners,
              const std::vector<RankAddress>& addresses, int rank) {
  ::setenv("CUDA_VISIBLE_DEVICES", std::to_string(options.expects_nccl ? rank : 0).c_str(), 1);
  const ModelConfig config = load_config(options.dir);
  const auto load = [&](std::optional<RankPlan> plan) {
    return std::make_unique<Model>(options.dir, options.backend.open(), options.backend.kv_dtype(), kBlocks, 2,
                                   LoadProgress{}, std::move(plan));
  };
  const Run wanted = run_sequences(*load({}), rank);
  bool good = true;
  for (int round = 0; round < kRounds; ++round) {
    const auto model = load(RankPlan{plan_of(config, round), rank});
    auto exchange = meet_ranks(*listeners[static_cast<std::size_t>(rank)],
                               GroupId{static_cast<std::uint8_t>(round + 1)}, rank, addresses, kTimes);
    const bool last = round == kRounds - 1;
    if (last && rank == 1) exchange = std::make_unique<DyingExchange>(std::move(exchange), good ? 0 : 1);
    const auto start = std::chrono::steady_clock::now();
    model->join(std::move(exchange), RankView{});
    const double met = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (last && rank == 0) return lose_other(*model, wanted.digests) && good;
    const Run run = run_in_group(*model, shared, round, rank);
    const std::size_t equal = static_cast<std::size_t>(std::inner_product(
        run.digests.begin(), run.digests.end(), wanted.digests.begin(), 0, std::plus<>(), std::equal_to<>()));
    const RankCounters counters = model->rank_counters();
    good = expect(run.digests.size() == wanted.digests.size() && equal == run.digests.size(), rank,
                  "round " + std::to_string(round) + ": " + std::to_string(equal) + " of " +
                      std::to_string(run.digests.size()) + " rows have the bits of one rank; decode step " +
                      std::to_string(run.decode_step_us) + " us, of one rank " + std::to_string(wanted.decode_step_us) +
                      " us; joined in " + std::to_string(met) + " s") &&
           good;
    good = expect((counters.card_bytes > 0) == options.expects_nccl, rank,
                  std::to_string(counters.card_bytes) + " bytes from card to card, " +
                      std::to_string(counters.sent_bytes) + " in messages") &&
           good;
  }
  return expect(false, rank, "it should have died");
}

int run(const Options& options) {
  void* memory = ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return 2;
  Shared& shared = *new (memory) Shared;
  std::vector<std::unique_ptr<RankListener>> listeners;
  std::vector<RankAddress> addresses;
  for (int rank = 0; rank < kRanks; ++rank) {
    RankSecret secret{};
    secret[0] = static_cast<std::uint8_t>(rank + 1);
    listeners.push_back(std::make_unique<RankListener>("127.0.0.1", 0, secret));
    addresses.push_back({"127.0.0.1", listeners.back()->port(), secret, true});
  }
  std::vector<pid_t> children;
  for (int rank = 0; rank < kRanks; ++rank) {
    const pid_t child = ::fork();
    if (child != 0) {
      children.push_back(child);
      continue;
    }
    ::alarm(180);
    bool good = false;
    try {
      good = run_rank(options, shared, listeners, addresses, rank);
    } catch (const std::exception& error) {
      expect(false, rank, error.what());
    }
    std::fflush(nullptr);
    ::_exit(good ? 0 : 1);
  }
  bool good = true;
  for (const pid_t child : children) {
    int status = 0;
    good = ::waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0 && good;
  }
  std::printf("%s\n", good ? "all good" : "FAIL");
  return good ? 0 : 1;
}

}  // namespace
}  // namespace pelagic::test

int main(int argc, char** argv) {
  pelagic::test::Options options;
  bool usage = false;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--fp8") {
      options.backend.name = "cuda-fp8";
    } else if (word == "--link" && i + 1 < argc) {
      const std::string link = argv[++i];
      usage = usage || (link != "nccl" && link != "host");
      options.expects_nccl = link == "nccl";
    } else {
      usage = usage || !options.dir.empty() || word[0] == '-';
      options.dir = word;
    }
  }
  if (usage || options.dir.empty()) {
    std::fprintf(stderr, "usage: pelagic_cuda_ranks_test [--fp8] [--link nccl|host] DIR\n");
    return 2;
  }
  return pelagic::test::run(options);
}
