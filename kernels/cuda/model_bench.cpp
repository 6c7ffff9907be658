// cuda_model_bench [--json FILE] [--commit ID] [--weights bfloat16|fp8] [--latents bfloat16|fp8] [--kernels] DIR
//
// A whole model on the card: random weights of DIR/config.json's shapes, prefill and decode steps by the clock of a
// caller of Model::step, beside the ceilings of the same run. --kernels instead shows which kernels a step's time goes
// to. README.md says what a row's ceiling counts.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <thread>

#include "backend/cuda/open_cuda_backend.h"
#include "cuda/bench.h"
#include "cuda/kernel_times.h"
#include "graph/model.h"

namespace {

using namespace pelagic;

// Rows of a prefill step at most.
constexpr int kChunkRows = 8192;
constexpr int kRepeats = 5;       // of a prefill
constexpr int kDecodeSteps = 40;  // timed
constexpr int kSpareBlocks = 8;

struct Prefill {
  int sequences, rows;
};
struct Decode {
  int sequences, context;
};
constexpr Prefill kPrefills[] = {{1, 512}, {1, 2048}, {1, 8192}, {16, 2048}, {1, 32768}};
constexpr Decode kDecodes[] = {{1, 2048}, {8, 2048}, {32, 2048}, {128, 2048}, {256, 2048}, {32, 8192}};

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

int blocks_for(int rows) { return (rows + kBlockRows - 1) / kBlockRows; }

// Rows of sequences that lie in the cache one after the other, `blocks` each.
struct Rows {
  int first_sequence, sequences, blocks, start, rows, prompt_length;
  bool samples;  // each sequence's last row
};

class Runner {
 public:
  explicit Runner(Model& model) : model_(model) {}

  const StepResult& step(const Rows& asked) {
    std::vector<std::uint32_t> tokens, counts, starts, prompts, table, offsets = {0}, logit_rows;
    for (int s = 0; s < asked.sequences; ++s) {
      for (int r = 0; r < asked.rows; ++r)
        tokens.push_back(
            static_cast<std::uint32_t>(engine_() % static_cast<std::uint64_t>(model_.config().vocab_size)));
      counts.push_back(static_cast<std::uint32_t>(asked.rows));
      starts.push_back(static_cast<std::uint32_t>(asked.start));
      prompts.push_back(static_cast<std::uint32_t>(asked.prompt_length));
      for (int b = 0; b < asked.blocks; ++b)
        table.push_back(static_cast<std::uint32_t>((asked.first_sequence + s) * asked.blocks + b));
      offsets.push_back(static_cast<std::uint32_t>(table.size()));
      if (asked.samples) logit_rows.push_back(static_cast<std::uint32_t>(tokens.size() - 1));
    }
    const std::vector<const SamplingParams*> sampling(logit_rows.size(), &greedy_);
    const double begin = seconds();
    model_.step({.tokens = tokens,
                 .row_counts = counts,
                 .start_positions = starts,
                 .prompt_lengths = prompts,
                 .block_table = table,
                 .block_offsets = offsets,
                 .logit_rows = logit_rows,
                 .sampling = sampling},
                {}, result_);
    seconds_ = seconds() - begin;
    return result_;
  }
  // Of the last step.
  double step_seconds() const { return seconds_; }

  // All rows of the sequences, in steps of up to kChunkRows; the last rows sampled. Seconds.
  double prefill(const Prefill& p) {
    const int at_once = std::max(1, std::min(p.sequences, kChunkRows / p.rows));
    double total = 0;
    for (int first = 0; first < p.sequences; first += at_once) {
      for (int start = 0; start < p.rows; start += kChunkRows) {
        const int rows = std::min(kChunkRows, p.rows - start);
        step({.first_sequence = first,
              .sequences = std::min(at_once, p.sequences - first),
              .blocks = blocks_for(p.rows),
              .start = start,
              .rows = rows,
              .prompt_length = p.rows,
              .samples = start + rows == p.rows});
        total += seconds_;
      }
    }
    return total;
  }

  // Latents of `context` rows for every sequence: computed for one, copied for the others.
  void fill(const Decode& d) {
    const int blocks = blocks_for(d.context + 1);
    for (int start = 0; start < d.context; start += kChunkRows)
      step({0, 1, blocks, start, std::min(kChunkRows, d.context - start), d.context + 1, false});
    for (int s = 1; s < d.sequences; ++s)
      for (int b = 0; b < blocks; ++b)
        model_.copy_block(static_cast<std::uint32_t>(b), static_cast<std::uint32_t>(s * blocks + b));
  }
  const StepResult& decode(const Decode& d) {
    return step({0, d.sequences, blocks_for(d.context + 1), d.context, 1, 1, true});
  }

 private:
  Model& model_;
  std::mt19937_64 engine_{1};
  const SamplingParams greedy_;
  StepResult result_;
  double seconds_ = 0;
};

double median(std::vector<double> times) {
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

// What an answer needs at least: every weight that a row uses is read once, and the latents; products by rows. In the
// last layer rows that are not sampled need their latents alone.
class Roof {
 public:
  Roof(const ModelConfig& c, int weight_bytes, std::size_t latent_bytes, double copy_gbs, double tflops)
      : config_(c),
        weight_bytes_(weight_bytes),
        latent_bytes_(static_cast<double>(latent_bytes)),
        copy_(copy_gbs * 1e9),
        flops_(tflops * 1e12) {
    const double query_input = static_cast<double>(c.query_rank > 0 ? c.query_rank : c.hidden_size);
    const double heads = static_cast<double>(c.head_count), hidden = static_cast<double>(c.hidden_size);
    compress_ = static_cast<double>(c.latent_width() + c.query_rank) * hidden;
    attention_ = heads * static_cast<double>(c.query_key_dim()) * query_input +
                 heads * static_cast<double>(c.nope_dim + c.value_dim) * static_cast<double>(c.kv_rank) +
                 heads * static_cast<double>(c.value_dim) * hidden;
    expert_ = 3 * hidden * static_cast<double>(c.expert_intermediate);
    dense_ = 3 * hidden * static_cast<double>(c.dense_intermediate);
    gate_ = hidden * static_cast<double>(c.expert_count);
    head_ = hidden * static_cast<double>(c.vocab_size);
  }

  double prefill_seconds(const Prefill& p) const {
    const double rows = static_cast<double>(p.sequences) * p.rows, layers = static_cast<double>(config_.layer_count);
    const double moe = static_cast<double>(config_.moe_layer_count()) - 1;
    const double shared = static_cast<double>(config_.shared_expert_count);
    const double used = moe * (gate_ + expert_ * (shared + static_cast<double>(config_.experts_per_token)));
    const double all_experts = moe * (gate_ + expert_ * (shared + static_cast<double>(config_.expert_count)));
    const double others =
        layers * compress_ + (layers - 1) * attention_ + static_cast<double>(config_.dense_layer_count) * dense_;
    const double pairs = static_cast<double>(p.sequences) * p.rows * (p.rows + 1.0) / 2;
    const double pair = static_cast<double>(config_.head_count * (config_.query_key_dim() + config_.value_dim));
    const double products = rows * (others + used) + (layers - 1) * pairs * pair + p.sequences * head_;
    return std::max(2 * products / flops_, weight_bytes_ * (others + all_experts + head_) / copy_);
  }

  double decode_seconds(const Decode& d, const std::vector<std::uint32_t>& expert_counts) const {
    const double layers = static_cast<double>(config_.layer_count);
    const double moe = static_cast<double>(config_.moe_layer_count());
    const double shared = static_cast<double>(config_.shared_expert_count);
    const auto hit = static_cast<double>(
        std::count_if(expert_counts.begin(), expert_counts.end(), [](std::uint32_t n) { return n > 0; }));
    const double others = layers * (compress_ + attention_) + moe * (gate_ + expert_ * shared) +
                          static_cast<double>(config_.dense_layer_count) * dense_ + head_;
    const double pairs = static_cast<double>(d.sequences) * (d.context + 1);
    const double latents = layers * pairs * latent_bytes_;
    // The absorbed form: the latents are its keys and its values.
    const double pair = static_cast<double>(config_.head_count * (config_.latent_width() + config_.kv_rank));
    const double products =
        d.sequences * (others + moe * expert_ * static_cast<double>(config_.experts_per_token)) + layers * pairs * pair;
    return std::max(2 * products / flops_, (weight_bytes_ * (others + hit * expert_) + latents) / copy_);
  }

 private:
  const ModelConfig& config_;
  double weight_bytes_, latent_bytes_, copy_, flops_;
  double compress_, attention_, expert_, dense_, gate_, head_;  // products of a row, and weights
};

std::string name_of(const Prefill& p) {
  return "prefill " + std::to_string(p.sequences) + " x " + std::to_string(p.rows);
}
std::string name_of(const Decode& d) {
  return "decode step, batch " + std::to_string(d.sequences) + " at " + std::to_string(d.context);
}

void time_all(Bench& bench, Runner& runner, const Roof& roof) {
  for (const Prefill& p : kPrefills) {
    std::vector<double> times;
    for (int i = 0; i < kRepeats + 1; ++i) times.push_back(runner.prefill(p));
    times.erase(times.begin());
    bench.add(name_of(p), median(times) * 1e6, "us", roof.prefill_seconds(p) * 1e6);
  }
  for (const Decode& d : kDecodes) {
    runner.fill(d);
    for (int i = 0; i < 4; ++i) runner.decode(d);
    std::vector<double> times, roofs;
    for (int i = 0; i < kDecodeSteps; ++i) {
      const StepResult& result = runner.decode(d);
      times.push_back(runner.step_seconds());
      roofs.push_back(roof.decode_seconds(d, result.expert_counts));
    }
    bench.add(name_of(d), median(times) * 1e6, "us", median(roofs) * 1e6);
  }
}

// Kernels of equal name and grid of one step: the time by which each made it longer, from the end of the last kernel
// before to its own, since a kernel may begin, and wait, while others run. What lies between kernels is no kernel's;
// the profiler's own cost is in there.
void add_kernels(Bench& bench, const std::string& step, std::vector<KernelRun> runs, int steps) {
  std::sort(runs.begin(), runs.end(), [](const KernelRun& a, const KernelRun& b) { return a.end_ns < b.end_ns; });
  std::map<std::pair<std::string, int>, std::pair<double, int>> sums;
  double busy = 0;
  auto ended_ns = runs.empty() ? 0 : runs.front().begin_ns;
  for (const KernelRun& run : runs) {
    auto& [us, count] = sums[{run.name, run.blocks}];
    const double added = static_cast<double>(run.end_ns - std::max(run.begin_ns, ended_ns)) * 1e-3;
    ended_ns = run.end_ns;
    us += added;
    busy += added;
    ++count;
  }
  std::vector<std::pair<std::pair<std::string, int>, std::pair<double, int>>> sorted(sums.begin(), sums.end());
  std::sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
  for (const auto& [kernel, sum] : sorted)
    bench.add(step + ": " + std::to_string(sum.second / steps) + " x " + kernel.first + " of " +
                  std::to_string(kernel.second) + " blocks",
              sum.first / steps, "us", 0);
  bench.add(step + ": all kernels", busy / steps, "us", 0);
}

void show_kernels(Bench& bench, Runner& runner, KernelTimes& kernels) {
  for (const Prefill& p : {Prefill{1, 512}, Prefill{1, 8192}}) {
    runner.prefill(p);
    kernels.take();
    runner.prefill(p);
    add_kernels(bench, name_of(p), kernels.take(), 1);
  }
  for (const Decode& d : {Decode{1, 2048}, Decode{32, 2048}, Decode{256, 2048}}) {
    runner.fill(d);
    for (int i = 0; i < 4; ++i) runner.decode(d);
    kernels.take();
    constexpr int kSteps = 4;
    for (int i = 0; i < kSteps; ++i) runner.decode(d);
    add_kernels(bench, name_of(d), kernels.take(), kSteps);
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::string json, commit, dir;
  CudaWeights weights = CudaWeights::bfloat16;
  KvDtype latents = KvDtype::bfloat16;
  bool by_kernel = false;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--json" && i + 1 < argc) {
      json = argv[++i];
    } else if (argument == "--commit" && i + 1 < argc) {
      commit = argv[++i];
    } else if (argument == "--weights" && i + 1 < argc) {
      weights = std::string(argv[++i]) == "fp8" ? CudaWeights::fp8 : CudaWeights::bfloat16;
    } else if (argument == "--latents" && i + 1 < argc) {
      latents = std::string(argv[++i]) == "fp8" ? KvDtype::fp8 : KvDtype::bfloat16;
    } else if (argument == "--kernels") {
      by_kernel = true;
    } else {
      dir = argument;
    }
  }
  if (dir.empty()) {
    std::fprintf(
        stderr,
        "usage: cuda_model_bench [--json FILE] [--commit ID] [--weights bfloat16|fp8] [--latents bfloat16|fp8] "
        "[--kernels] DIR\n");
    return 2;
  }
  try {
    std::optional<KernelTimes> kernels;
    if (by_kernel) kernels.emplace();
    const bool fp8 = weights == CudaWeights::fp8;
    Bench bench(dir + (fp8 ? ", fp8 weights" : ", bf16 weights") + (latents == KvDtype::fp8 ? ", fp8 latents" : ""),
                commit);
    std::int64_t blocks = 0;
    for (const Decode& d : kDecodes)
      blocks = std::max<std::int64_t>(blocks, std::int64_t{d.sequences} * blocks_for(d.context + 1));
    for (const Prefill& p : kPrefills)
      blocks = std::max<std::int64_t>(blocks, std::int64_t{p.sequences} * blocks_for(p.rows));
    const double begin = seconds();
    const ModelConfig config = load_config(dir);
    Model model(config, open_cuda_backend(weights), latents, blocks + kSpareBlocks,
                static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, 16u)));
    std::printf("%.1f GB of random weights in %.1f s\n", static_cast<double>(model.info().weight_bytes) * 1e-9,
                seconds() - begin);
    Runner runner(model);
    // fp8: the projections' and MLPs' rate; the rest of the products are few.
    const Roof roof(model.config(), fp8 ? 1 : 2, model.kv_layout().row_bytes(), bench.ceilings().copy_gbs,
                    fp8 ? bench.ceilings().fp8_tflops : bench.ceilings().bf16_tflops);
    if (by_kernel) {
      show_kernels(bench, runner, *kernels);
    } else {
      time_all(bench, runner, roof);
    }
    bench.print();
    if (!json.empty()) bench.write_json(json);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
