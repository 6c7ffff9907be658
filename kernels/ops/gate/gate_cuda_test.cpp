// The CUDA gate against gate.cpp with the scalar row maths: ids, weights, counts and offsets equal to the bit.
#include <cmath>
#include <cstring>
#include <limits>
#include <string_view>
#include <vector>

#include "backend/cpu/cpu_ops.h"
#include "cuda/device_buffer.h"
#include "cuda/random.h"
#include "cuda/test.h"
#include "ops/gate/gate_cuda.h"
#include "ops/gemm/gemm_cuda.h"

namespace pelagic {
namespace {

constexpr GateCudaPath kPaths[] = {GateCudaPath::cluster_8, GateCudaPath::cluster_16, GateCudaPath::grid};

struct Shape {
  const char* name;
  GateConfig config;
  bool bias;
};

std::vector<Shape> shapes() {
  using enum GateMethod;
  return {
      {"V3",
       {.method = sigmoid_noaux_tc,
        .experts = 256,
        .top_k = 8,
        .groups = 8,
        .top_k_groups = 4,
        .normalize = true,
        .routed_scaling_factor = 2.5f},
       true},
      {"V3 without bias",
       {.method = sigmoid_noaux_tc, .experts = 256, .top_k = 8, .groups = 8, .top_k_groups = 4},
       false},
      {"V2",
       {.method = softmax_group_limited,
        .experts = 160,
        .top_k = 6,
        .groups = 8,
        .top_k_groups = 3,
        .routed_scaling_factor = 16.0f},
       false},
      {"V2-Lite", {.method = softmax_greedy, .experts = 64, .top_k = 6}, false},
      {"greedy, experts no multiple of 32",
       {.method = softmax_greedy, .experts = 70, .top_k = 3, .normalize = true},
       false},
      {"small",
       {.method = sigmoid_noaux_tc, .experts = 16, .top_k = 4, .groups = 4, .top_k_groups = 2, .normalize = true},
       true},
      {"groups of one",
       {.method = sigmoid_noaux_tc, .experts = 8, .top_k = 2, .groups = 8, .top_k_groups = 3, .normalize = true},
       true},
      {"more chosen than kept",
       {.method = softmax_group_limited, .experts = 32, .top_k = 20, .groups = 4, .top_k_groups = 1},
       false},
      {"one expert", {.method = softmax_greedy, .experts = 1, .top_k = 1}, false},
  };
}

enum class Data { random, ties, all_equal, extreme };

std::vector<float> make_logits(Data data, int rows, int experts, std::int64_t ld) {
  std::vector<float> logits(static_cast<std::size_t>(rows * ld), std::numeric_limits<float>::quiet_NaN());
  for (int row = 0; row < rows; ++row) {
    for (int e = 0; e < experts; ++e) {
      const float normal = 2.0f * random_normal(7, static_cast<std::uint64_t>(row) * experts + e);
      float value = normal;
      if (data == Data::ties) value = std::round(normal);  // few values: most choices are decided by the lower id
      if (data == Data::all_equal) value = -0.0f;
      if (data == Data::extreme) value = normal * 60.0f;  // sigmoids of exactly 0 and 1, subnormal softmax terms
      logits[static_cast<std::size_t>(row * ld + e)] = value;
    }
  }
  return logits;
}

struct Result {
  std::vector<std::int32_t> ids, counts, offsets;
  std::vector<float> weights;
};

Result on_gpu(const GateConfig& config, const std::vector<float>& logits, std::int64_t ld, int rows,
              const std::vector<float>& bias, GateCudaPath path, DeviceBuffer<std::uint32_t>& workspace) {
  const DeviceBuffer<float> device_logits(logits);
  const DeviceBuffer<float> device_bias(bias);
  DeviceBuffer<std::int32_t> ids(static_cast<std::size_t>(rows + 1) * config.top_k), counts(config.experts),
      offsets(config.experts + 1);
  DeviceBuffer<float> weights(static_cast<std::size_t>(rows + 1) * config.top_k);
  ids.fill_bytes(0xFF);
  counts.fill_bytes(0xFF);
  offsets.fill_bytes(0xFF);
  weights.fill_bytes(0xFF);
  GateCudaCall call = {config,        device_logits.get(), ld, rows, ids.get(), weights.get(), counts.get(),
                       offsets.get(), workspace.get()};
  call.config.bias = bias.empty() ? nullptr : device_bias.get();
  test::run_from_graph([&](cudaStream_t stream) { PELAGIC_CUDA(gate_cuda(call, path, stream)); });
  Result result = {ids.download(), counts.download(), offsets.download(), weights.download()};
  for (int i = 0; i < config.top_k; ++i) {
    PELAGIC_EXPECT(result.ids.back() == -1, "wrote past the last row");
    result.ids.pop_back();
    result.weights.pop_back();
  }
  return result;
}

void compare(const Shape& shape, Data data, int rows, DeviceBuffer<std::uint32_t>& workspace) {
  GateConfig config = shape.config;
  const std::int64_t ld = config.experts % 4 == 0 ? config.experts + 4 : config.experts;
  const std::vector<float> logits = make_logits(data, rows, config.experts, ld);
  std::vector<float> bias;
  for (int e = 0; shape.bias && e < config.experts; ++e)
    bias.push_back(data == Data::random ? 0.1f * random_normal(9, e) : 0.0f);
  config.bias = shape.bias ? bias.data() : nullptr;

  CpuOps ops = {};
  ops.row_softmax = &scalar::row_softmax;
  ops.row_sigmoid = &scalar::row_sigmoid;
  std::vector<float> scores = logits;
  std::vector<float> scratch(2 * config.experts + config.groups);
  Result expected;
  expected.ids.resize(static_cast<std::size_t>(rows) * config.top_k);
  expected.weights.resize(expected.ids.size());
  gate_rows(config, ops, scores.data(), ld, 0, rows, expected.ids.data(), expected.weights.data(), scratch.data());
  std::vector<std::uint32_t> counts(config.experts, 0);
  count_experts(expected.ids.data(), static_cast<std::int64_t>(expected.ids.size()), counts.data());
  expected.offsets.push_back(0);
  for (const std::uint32_t count : counts) {
    expected.counts.push_back(static_cast<std::int32_t>(count));
    expected.offsets.push_back(expected.offsets.back() + static_cast<std::int32_t>(count));
  }

  for (const GateCudaPath path : kPaths) {
    const Result actual = on_gpu(config, logits, ld, rows, bias, path, workspace);
    const int p = static_cast<int>(path);
    const int d = static_cast<int>(data);
    PELAGIC_EXPECT(actual.ids == expected.ids, "ids: %s, data %d, %d rows, path %d", shape.name, d, rows, p);
    PELAGIC_EXPECT(std::memcmp(actual.weights.data(), expected.weights.data(), actual.weights.size() * 4) == 0,
                   "weights: %s, data %d, %d rows, path %d", shape.name, d, rows, p);
    PELAGIC_EXPECT(actual.counts == expected.counts, "counts: %s, data %d, %d rows, path %d", shape.name, d, rows, p);
    PELAGIC_EXPECT(actual.offsets == expected.offsets, "offsets: %s, data %d, %d rows, path %d", shape.name, d, rows,
                   p);
  }
}

// Right behind the kernel that makes its logits, which still runs when the gate begins: nothing of what lay there
// before may get into the choice.
void logits_are_awaited(int width, DeviceBuffer<std::uint32_t>& workspace) {
  constexpr int kRows = 64;
  for (const Shape& shape : shapes()) {
    const int experts = shape.config.experts;
    const DeviceBuffer<std::uint16_t> x(
        std::vector<std::uint16_t>(static_cast<std::size_t>(kRows) * width, 0x3F80));  // ones
    std::vector<float> weights(static_cast<std::size_t>(experts) * width, 0.0f);
    for (int e = 0; e < experts; ++e) weights[static_cast<std::size_t>(e) * width] = static_cast<float>(e % 7);
    const DeviceBuffer<float> w(weights);
    DeviceBuffer<float> logits(static_cast<std::size_t>(kRows) * experts), chosen_weights(kRows * shape.config.top_k);
    DeviceBuffer<std::int32_t> ids(kRows * shape.config.top_k), counts(experts), offsets(experts + 1);
    for (const GateCudaPath path : kPaths) {
      GateCudaCall call = {shape.config,         logits.get(), experts,       kRows,          ids.get(),
                           chosen_weights.get(), counts.get(), offsets.get(), workspace.get()};
      call.config.bias = nullptr;
      logits.fill_bytes(0xFF);
      test::run_from_graph([&](cudaStream_t stream) {
        PELAGIC_CUDA(cudaMemsetAsync(logits.get(), 0xFF, logits.bytes(), stream));
        PELAGIC_CUDA(gemm_f32_cuda({.rows = kRows,
                                    .n = experts,
                                    .k = width,
                                    .x = x.get(),
                                    .ldx = width,
                                    .w = w.get(),
                                    .y = logits.get(),
                                    .ldy = experts},
                                   stream));
        PELAGIC_CUDA(gate_cuda(call, path, stream));
      });
      int stale = 0;
      for (const float weight : chosen_weights.download()) stale += std::isnan(weight) ? 1 : 0;
      PELAGIC_EXPECT(stale == 0, "%s, path %d: %d choices by logits that were not there yet", shape.name,
                     static_cast<int>(path), stale);
    }
  }
}

void nan_rows_are_valid(DeviceBuffer<std::uint32_t>& workspace) {
  for (const Shape& shape : shapes()) {
    const int rows = 3;
    std::vector<float> logits = make_logits(Data::random, rows, shape.config.experts, shape.config.experts);
    for (int e = 0; e < shape.config.experts; ++e) logits[e] = std::numeric_limits<float>::quiet_NaN();
    logits[shape.config.experts] = std::numeric_limits<float>::quiet_NaN();
    for (const GateCudaPath path : kPaths) {
      const Result result = on_gpu(shape.config, logits, shape.config.experts, rows, {}, path, workspace);
      for (int row = 0; row < rows; ++row) {
        std::vector<bool> seen(shape.config.experts, false);
        for (int rank = 0; rank < shape.config.top_k; ++rank) {
          const std::size_t at = static_cast<std::size_t>(row) * shape.config.top_k + rank;
          const std::int32_t id = result.ids[at];
          const bool valid = id >= 0 && id < shape.config.experts && !seen[id];
          PELAGIC_EXPECT(valid, "%s: id %d in a row with NaN", shape.name, id);
          if (valid) seen[id] = true;
          PELAGIC_EXPECT(std::isnan(result.weights[at]) == (row < 2), "%s: weight %f in row %d", shape.name,
                         result.weights[at], row);
        }
      }
      PELAGIC_EXPECT(result.offsets.back() == rows * shape.config.top_k, "%s: %d choices", shape.name,
                     result.offsets.back());
    }
  }
}

void unsupported_shapes_are_refused(DeviceBuffer<std::uint32_t>& workspace) {
  GateCudaCall call = {};
  call.workspace = workspace.get();
  call.config = {.method = GateMethod::softmax_greedy, .experts = 257, .top_k = 1};
  PELAGIC_EXPECT(gate_cuda(call, GateCudaPath::grid, nullptr) == cudaErrorInvalidValue, "257 experts");
  call.config = {.method = GateMethod::softmax_greedy, .experts = 64, .top_k = 33};
  PELAGIC_EXPECT(gate_cuda(call, GateCudaPath::grid, nullptr) == cudaErrorInvalidValue, "top 33");
}

}  // namespace
}  // namespace pelagic

// `gate_cuda_test quick`: few rows, for compute-sanitizer.
int main(int argc, char** argv) {
  using namespace pelagic;
  const bool quick = test::asked_quick(argc, argv);
  return test::run("gate_cuda", [quick] {
    DeviceBuffer<std::uint32_t> workspace(kGateCudaWorkspace);
    workspace.fill_bytes(0);
    for (const Shape& shape : shapes())
      for (const Data data : {Data::random, Data::ties, Data::all_equal, Data::extreme})
        for (const int rows : {1, 37, 300})
          if (!quick || (rows == 37 && data == Data::random)) compare(shape, data, rows, workspace);
    compare(shapes().front(), Data::random, 0, workspace);
    if (!quick) {
      compare(shapes().front(), Data::random, 4096, workspace);
      compare(shapes().front(), Data::ties, 40000, workspace);  // more rows than warps
    }
    logits_are_awaited(quick ? 1 << 10 : 1 << 15, workspace);
    nan_rows_are_valid(workspace);
    unsupported_shapes_are_refused(workspace);
  });
}
