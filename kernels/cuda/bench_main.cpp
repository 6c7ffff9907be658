// cuda_bench [--json FILE] [--commit ID] [op ...]: every op, or those named. What an op computes is looked at before it
// is timed; one that is wrong is named and the exit status is 1.
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "cuda/bench.h"
#include "ops/embedding/embedding_cuda_bench.h"
#include "ops/gate/gate_cuda_bench.h"
#include "ops/gemm/gemm_cuda_bench.h"
#include "ops/grouped_gemm/grouped_gemm_cuda_bench.h"
#include "ops/kv_cache/kv_cache_cuda_bench.h"
#include "ops/mla_attention/mla_decode_cuda_bench.h"
#include "ops/mla_attention/mla_prefill_cuda_bench.h"
#include "ops/moe/moe_cuda_bench.h"
#include "ops/quantize/quantize_cuda_bench.h"
#include "ops/rms_norm/rms_norm_cuda_bench.h"
#include "ops/rope/rope_cuda_bench.h"
#include "ops/sampler/sampler_cuda_bench.h"
#include "ops/silu_mul/silu_mul_cuda_bench.h"

int main(int argc, char** argv) {
  struct Op {
    const char* name;
    void (*run)(pelagic::Bench&);
    bool checks_itself = false;
  };
  constexpr Op kOps[] = {{"gate", &pelagic::bench_gate},
                         {"gemm", &pelagic::bench_gemm},
                         {"grouped_gemm", &pelagic::bench_grouped_gemm, true},
                         {"mla_decode", &pelagic::bench_mla_decode, true},
                         {"mla_prefill", &pelagic::bench_mla_prefill, true},
                         {"rms_norm", &pelagic::bench_rms_norm},
                         {"quantize", &pelagic::bench_quantize},
                         {"silu_mul", &pelagic::bench_silu_mul},
                         {"rope", &pelagic::bench_rope},
                         {"moe", &pelagic::bench_moe},
                         {"kv_cache", &pelagic::bench_kv_cache},
                         {"embedding", &pelagic::bench_embedding},
                         {"sampler", &pelagic::bench_sampler}};
  std::string json, commit;
  std::vector<std::string> wanted;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--json" && i + 1 < argc) {
      json = argv[++i];
    } else if (argument == "--commit" && i + 1 < argc) {
      commit = argv[++i];
    } else {
      wanted.push_back(argument);
    }
  }
  int status = 0;
  try {
    pelagic::Bench bench("cuda kernels", commit);
    for (const Op& op : kOps) {
      bool run = wanted.empty();
      for (const std::string& name : wanted) run = run || name == op.name;
      if (!run) continue;
      try {
        bench.begin_op(op.checks_itself);
        op.run(bench);
      } catch (const std::exception& error) {
        std::fprintf(stderr, "%s: %s\n", op.name, error.what());
        status = 1;
      }
    }
    bench.print();
    if (!json.empty()) bench.write_json(json);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    status = 1;
  }
  return status;
}
