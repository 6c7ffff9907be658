// Streams and memory, and a step from its begin to its end: as launches, or as a graph of them.
#include "backend/cuda/cuda_backend.h"

#include <utility>

#include "ops/gate/gate_cuda.h"
#include "ops/mla_attention/mla_decode_cuda.h"

namespace pelagic::cuda {

namespace {

// Larger steps keep the card busy without a graph.
constexpr int kMostGraphRows = 256;
constexpr std::size_t kMostGraphs = 64;

}  // namespace

CudaBackend::CudaBackend(CudaWeights weights) : fp8_(weights == CudaWeights::fp8) {
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
  int least = 0, greatest = 0;
  check(cudaDeviceGetStreamPriorityRange(&least, &greatest), "cudaDeviceGetStreamPriorityRange");
  // Latents leave beside the step: first come, first served would have them wait for it.
  check(cudaStreamCreateWithPriority(&copy_stream_, cudaStreamNonBlocking, greatest), "cudaStreamCreate");
  device_errors_.grow(kErrorWords * sizeof(std::int32_t));
  host_errors_.grow(kErrorWords * sizeof(std::int32_t));
  device_counts_.grow(elements(kMostMoeCalls, kMostExperts) * sizeof(std::int32_t));
  host_counts_.grow(device_counts_.bytes());
  gate_workspace_.grow(kGateCudaWorkspace * sizeof(std::uint32_t));
  check(cudaMemset(device_errors_.get(), 0, device_errors_.bytes()), "cudaMemset");
  check(cudaMemset(gate_workspace_.get(), 0, gate_workspace_.bytes()), "cudaMemset");
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
}

CudaBackend::~CudaBackend() {
  cancel();
  drop_graphs();
  route_.reset();
  cudaStreamDestroy(stream_);
  cudaStreamDestroy(copy_stream_);
}

void CudaBackend::check_model(const MlaShape& shape, const KvLayout& layout) {
  heads_ = shape.heads;
  const auto refuse = [](const std::string& what) { throw Error(ErrorCode::argument, "the CUDA backend " + what); };
  if (layout.dtype == KvDtype::float32) refuse("has no float32 latents: kvDtype must be \"bfloat16\" or \"fp8\"");
  if (layout.kv_rank != kLatentCudaColumns)
    refuse("needs kv_lora_rank 512; this model has " + std::to_string(layout.kv_rank));
  if (layout.rope_dim != kRopeCudaColumns)
    refuse("needs qk_rope_head_dim 64; this model has " + std::to_string(layout.rope_dim));
  if (shape.heads > 128) refuse("takes at most 128 heads; this model has " + std::to_string(shape.heads));
  if (shape.nope_dim % 8 != 0 || shape.value_dim % 8 != 0)
    refuse("needs qk_nope_head_dim and v_head_dim that are multiples of 8");
}

std::int64_t CudaBackend::card_bytes() const {
  std::size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  return static_cast<std::int64_t>(total);
}

std::unique_ptr<Activations> CudaBackend::make_activations(std::size_t count, Precision precision) {
  drop_graphs();
  return std::make_unique<CudaActivations>(count, precision == Precision::full ? RowType::float32 : RowType::bfloat16);
}

std::unique_ptr<Vector> CudaBackend::make_vector(std::span<const float> data) {
  auto vector = std::make_unique<CudaVector>();
  vector->size = static_cast<int>(data.size());
  vector->memory.grow(data.size_bytes());
  upload(vector->memory.get(), data.data(), data.size_bytes());
  return vector;
}

void CudaBackend::when_done(const std::function<void()>& fn) {
  launch_pending_store();
  events_.when_done(stream_, fn);
}

void CudaBackend::begin_step(const StepShape& step) {
  mode_ = Mode::direct;
  const RowSet& rows = *step.rows;
  if (step.ranks || step.reports_layers || step.expands || step.logit_rows != rows.rows() ||
      rows.rows() > kMostGraphRows || !is_decode(rows))
    return;
  int blocks = 1, pieces = 0;
  for (const RowRun& run : rows.runs) {
    blocks = std::max(blocks, run.first_position / kBlockRows + 1);
    pieces += mla_decode_pieces(1, heads_, run.first_position + 1, mla_decode_cut_tokens(heads_));
  }
  if (pieces > kMostPieces) return;
  graph_key_ = {rows.rows(), table_columns(blocks), piece_capacity(pieces),
                (step.digests ? 1 : 0) + (step.logits ? 2 : 0)};
  if (graphs_.size() >= kMostGraphs && !graphs_.contains(graph_key_)) drop_graphs();
  const auto [found, is_new] = graphs_.try_emplace(graph_key_, nullptr);
  if (is_new) return;  // the buffers grow to what it needs
  mode_ = found->second == nullptr ? Mode::record : Mode::replay;
  if (mode_ == Mode::record)
    check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "recording a step");
}

void CudaBackend::finish() {
  launch_pending_store();
  if (mode_ == Mode::record) {
    cudaGraph_t graph = nullptr;
    mode_ = Mode::direct;
    check(cudaStreamEndCapture(stream_, &graph), "recording a step");
    cudaGraphExec_t runnable = nullptr;
    const cudaError_t error = cudaGraphInstantiate(&runnable, graph, 0);
    cudaGraphDestroy(graph);
    check(error, "recording a step");
    graphs_[graph_key_] = runnable;
    check(cudaGraphLaunch(runnable, stream_), "a recorded step");
  } else if (mode_ == Mode::replay) {
    mode_ = Mode::direct;
    check(cudaGraphLaunch(graphs_.at(graph_key_), stream_), "a recorded step");
  }
  if (sampling_.has_value()) run_sampling(*sampling_);
  check(
      cudaMemcpyAsync(host_errors_.get(), device_errors_.get(), host_errors_.bytes(), cudaMemcpyDeviceToHost, stream_),
      "finish");
  if (moe_calls_ > 0) {
    check(cudaMemcpyAsync(host_counts_.get(), device_counts_.get(),
                          elements(moe_calls_, kMostExperts) * sizeof(std::int32_t), cudaMemcpyDeviceToHost, stream_),
          "finish");
  }
  wait("a step");
  events_.drain();
  const std::int32_t* words = host_errors_.get<std::int32_t>();
  for (int i = 0; i < kErrorWords; ++i) {
    if (words[i] == 0) continue;
    throw Error(ErrorCode::device, "the GPU was given an index out of range (error word " + std::to_string(i) +
                                       "); the process must be restarted");
  }
  for (const std::function<void()>& fn : after_) fn();
  forget_step();
}

void CudaBackend::cancel() {
  if (mode_ == Mode::record) {
    cudaGraph_t graph = nullptr;
    if (cudaStreamEndCapture(stream_, &graph) == cudaSuccess) cudaGraphDestroy(graph);
  }
  mode_ = Mode::direct;
  if (route_ != nullptr) route_->abort();
  cudaStreamSynchronize(stream_);
  events_.drain();
  forget_step();
}

void CudaBackend::drop_graphs() {
  for (const auto& [key, graph] : graphs_)
    if (graph != nullptr) cudaGraphExecDestroy(graph);
  graphs_.clear();
}

void CudaBackend::wait(const char* what) {
  if (route_ == nullptr) return check(cudaStreamSynchronize(stream_), what);
  route_->wait(what);
}

void CudaBackend::reserve(DeviceMemory& memory, std::size_t bytes) {
  if (memory.bytes() >= bytes) return;
  if (mode_ == Mode::record) throw Error(ErrorCode::internal, "a recorded step needs more memory than before");
  wait("a step");
  drop_graphs();
  memory.grow(bytes + bytes / 4);
  if (&memory == &attention_workspace_) scheduled_ = nullptr;
}

void CudaBackend::launch_pending_store() {
  if (!pending_store_.has_value()) return;
  const PendingStore store = *std::exchange(pending_store_, std::nullopt);
  launch("the store of latents", [&] { return store_latents_cuda(store.call, stream_); });
}

void CudaBackend::forget_step() {
  after_.clear();
  sampling_.reset();
  pending_store_.reset();
  last_is_gemm_ = false;
  device_rows_.clear();
  scheduled_ = nullptr;
  copied_from_ = nullptr;
  fp8_form_ = {};
  moe_calls_ = 0;
  arguments_.reset();
}

}  // namespace pelagic::cuda
