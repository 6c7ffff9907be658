// Weights on their way to the card, and experts between the slots of their layer's bank.
#include "backend/cuda/cuda_backend.h"

#include <algorithm>
#include <string>
#include <utility>

#include "backend/cuda/fp8_weights.h"
#include "backend/cuda/row_kernels.h"
#include "base/bfloat16.h"
#include "cuda/fp8_scale.h"
#include "ops/rope/rope.h"

namespace pelagic::cuda {

namespace {

// Bytes of bf16 weights converted before they are sent to the card.
constexpr std::size_t kUploadBytes = std::size_t{16} << 20;

// Writes rows of k float32 numbers as bf16, from `to` on.
void upload_bf16(void* to, int rows, int k, const std::function<void(int, float*)>& row_source) {
  const std::size_t width = static_cast<std::size_t>(k);
  const int rows_at_once = std::max(1, static_cast<int>(kUploadBytes / 2 / width));
  std::vector<float> row(width);
  std::vector<bfloat16_bits> part(width * static_cast<std::size_t>(std::min(rows, rows_at_once)));
  for (int first = 0; first < rows; first += rows_at_once) {
    const int count = std::min(rows_at_once, rows - first);
    for (int i = 0; i < count; ++i) {
      row_source(first + i, row.data());
      std::transform(row.begin(), row.end(), part.begin() + static_cast<std::ptrdiff_t>(width) * i, f32_to_bf16);
    }
    upload(static_cast<bfloat16_bits*>(to) + width * static_cast<std::size_t>(first), part.data(),
           width * static_cast<std::size_t>(count) * sizeof(bfloat16_bits));
  }
}

}  // namespace

std::unique_ptr<Matrix> CudaBackend::make_matrix(int n, int k, const RowSource& rows) {
  auto matrix = std::make_unique<CudaMatrix>();
  matrix->n = n;
  matrix->k = k;
  matrix->memory.grow(elements(n, k) * sizeof(bfloat16_bits));
  upload_bf16(matrix->memory.get(), n, k, rows);
  gemm({n, k, 1, RowType::bfloat16});
  return matrix;
}

std::unique_ptr<Matrix> CudaBackend::make_projection(int n, int k, const RowSource& rows) {
  if (!fp8_) return make_matrix(n, k, rows);
  check_fp8_shape(n, k);
  auto matrix = std::make_unique<CudaMatrix>();
  matrix->n = n;
  matrix->k = k;
  matrix->memory.grow(elements(n, k));
  matrix->scales.grow(elements(fp8_blocks(n), fp8_blocks(k)) * sizeof(float));
  upload_fp8(matrix->memory.get<std::uint8_t>(), matrix->scales.get<float>(), n, k, k, rows);
  return matrix;
}

std::unique_ptr<Matrix> CudaBackend::make_gate_matrix(int n, int k, const RowSource& rows) {
  if (n > kMostExperts)
    throw Error(ErrorCode::argument, "the CUDA backend takes at most " + std::to_string(kMostExperts) +
                                         " experts; this model has " + std::to_string(n));
  auto matrix = std::make_unique<CudaMatrix>();
  matrix->n = n;
  matrix->k = k;
  std::vector<float> all(elements(n, k));
  for (int row = 0; row < n; ++row) rows(row, all.data() + elements(row, k));
  matrix->memory.grow(all.size() * sizeof(float));
  upload(matrix->memory.get(), all.data(), all.size() * sizeof(float));
  return matrix;
}

std::unique_ptr<HeadMatrices> CudaBackend::make_head_matrices(int heads, int n, int k, const HeadRowSource& rows) {
  auto matrices = new_head_matrices(heads, n, k);
  upload_bf16(matrices->memory.get(), heads * n, k, [&](int row, float* out) { rows(row / n, row % n, out); });
  return matrices;
}

std::unique_ptr<HeadMatrices> CudaBackend::make_head_matrices_transposed(int heads, int n, int k,
                                                                         const HeadRowSource& rows) {
  auto matrices = new_head_matrices(heads, n, k);
  std::vector<float> transposed(elements(k, n));
  int loaded = -1;
  upload_bf16(matrices->memory.get(), heads * n, k, [&](int row, float* out) {
    const int head = row / n;
    if (head != loaded) {
      for (int i = 0; i < k; ++i) rows(head, i, transposed.data() + elements(i, n));
      loaded = head;
    }
    for (int i = 0; i < k; ++i) out[i] = transposed[elements(i, n) + static_cast<std::size_t>(row % n)];
  });
  return matrices;
}

std::unique_ptr<Mlp> CudaBackend::make_mlp(int width, int hidden, const RowSource& gate, const RowSource& up,
                                           const RowSource& down) {
  auto mlp = std::make_unique<CudaMlp>();
  fill_bank(mlp->own, 1, width, hidden);
  fill_slot(*mlp, mlp->own, 0, width, gate, up, down);
  if (mlp->fp8()) return mlp;
  gemm({2 * width, hidden, 1, RowType::bfloat16});
  gemm({hidden, width, 1, RowType::bfloat16});
  return mlp;
}

std::unique_ptr<MlpBank> CudaBackend::make_mlp_bank(int slots, int width, int hidden) {
  auto bank = std::make_unique<CudaMlpBank>();
  fill_bank(*bank, slots, width, hidden);
  return bank;
}

std::unique_ptr<Mlp> CudaBackend::make_expert(MlpBank* bank, int slot, int width, int hidden, const RowSource& gate,
                                              const RowSource& up, const RowSource& down) {
  auto mlp = std::make_unique<CudaMlp>();
  if (bank == nullptr) fill_bank(mlp->own, 1, width, hidden);
  fill_slot(*mlp, bank != nullptr ? static_cast<CudaMlpBank&>(*bank) : mlp->own, slot, width, gate, up, down);
  return mlp;
}

void CudaBackend::arrange_bank(MlpBank* mlp_bank, std::span<const std::unique_ptr<Mlp>> slots) {
  const auto& bank = static_cast<const CudaMlpBank&>(*mlp_bank);
  std::vector<std::pair<CudaMlp*, int>> displaced;
  for (std::size_t slot = 0; slot < slots.size(); ++slot) {
    auto* mlp = static_cast<CudaMlp*>(slots[slot].get());
    if (mlp != nullptr && mlp->gate_up != bank.slot(static_cast<int>(slot)).gate_up)
      displaced.push_back({mlp, static_cast<int>(slot)});
  }
  // Those inside of the bank leave it first: their new places are others' old ones.
  for (const auto& [mlp, slot] : displaced) {
    if (mlp->own.slots > 0) continue;
    CudaMlpBank own;
    fill_bank(own, 1, bank.width, bank.hidden);
    move_mlp(*mlp, own, 0);
    mlp->own = std::move(own);
  }
  for (const auto& [mlp, slot] : displaced) move_mlp(*mlp, bank, slot);
  check(cudaStreamSynchronize(cudaStreamLegacy), "a copy of experts");
  for (const auto& [mlp, slot] : displaced) mlp->own = CudaMlpBank();
}

std::unique_ptr<Embedding> CudaBackend::make_embedding(int vocab, int hidden, const RowSource& rows) {
  if (hidden % 8 != 0) throw Error(ErrorCode::argument, "the CUDA backend needs a hidden_size that is a multiple of 8");
  if (vocab % 4 != 0 || vocab > kMostSamplerCudaVocab)
    throw Error(ErrorCode::argument, "the CUDA backend needs a vocab_size that is a multiple of 4 and at most " +
                                         std::to_string(kMostSamplerCudaVocab));
  auto embedding = std::make_unique<CudaEmbedding>();
  embedding->vocab = vocab;
  embedding->hidden = hidden;
  embedding->memory.grow(elements(vocab, hidden) * sizeof(bfloat16_bits));
  upload_bf16(embedding->memory.get(), vocab, hidden, rows);
  return embedding;
}

std::unique_ptr<RopeAngles> CudaBackend::make_rope(std::span<const double> frequencies, int positions,
                                                   double amplitude) {
  const RopeTable table(frequencies, positions, amplitude);
  auto angles = std::make_unique<CudaRopeAngles>();
  angles->positions = positions;
  const std::size_t bytes = elements(positions, kRopeCudaColumns / 2) * sizeof(float);
  angles->memory.grow(2 * bytes);
  upload(angles->memory.get(), table.cos_row(0), bytes);
  upload(angles->memory.get<char>() + bytes, table.sin_row(0), bytes);
  return angles;
}

double CudaBackend::read_pass(std::span<const BackendObject* const> weights) {
  struct Part {
    const void* data;
    std::size_t bytes;
  };
  std::vector<Part> parts;
  for (const BackendObject* object : weights) {
    if (const auto* matrix = dynamic_cast<const CudaMatrix*>(object))
      parts.insert(parts.end(),
                   {{matrix->memory.get(), matrix->memory.bytes()}, {matrix->scales.get(), matrix->scales.bytes()}});
    if (const auto* heads = dynamic_cast<const CudaHeadMatrices*>(object))
      parts.push_back({heads->memory.get(), heads->memory.bytes()});
    if (const auto* mlp = dynamic_cast<const CudaMlp*>(object)) {
      parts.push_back({mlp->gate_up, mlp->gate_up_bytes()});
      parts.push_back({mlp->down, mlp->down_bytes()});
    }
  }
  cudaEvent_t begin = nullptr, end = nullptr;
  check(cudaEventCreate(&begin), "cudaEventCreate");
  check(cudaEventCreate(&end), "cudaEventCreate");
  const DeviceMemory sink(sizeof(unsigned));
  check(cudaEventRecord(begin, stream_), "cudaEventRecord");
  for (const Part& part : parts)
    check(read_bytes_cuda(part.data, part.bytes, sink.get<unsigned>(), stream_), "a read pass");
  check(cudaEventRecord(end, stream_), "cudaEventRecord");
  check(cudaEventSynchronize(end), "a read pass");
  float milliseconds = 0;
  check(cudaEventElapsedTime(&milliseconds, begin, end), "cudaEventElapsedTime");
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  return milliseconds * 1e-3;
}

std::unique_ptr<CudaHeadMatrices> CudaBackend::new_head_matrices(int heads, int n, int k) {
  auto matrices = std::make_unique<CudaHeadMatrices>();
  matrices->heads = heads;
  matrices->n = n;
  matrices->k = k;
  matrices->memory.grow(elements(heads, n, k) * sizeof(bfloat16_bits));
  gemm({n, k, heads, RowType::bfloat16});
  return matrices;
}

void CudaBackend::fill_bank(CudaMlpBank& bank, int slots, int width, int hidden) const {
  if (fp8_) return fill_fp8_bank(bank, slots, width, hidden);
  bank.slots = slots;
  bank.width = width;
  bank.hidden = hidden;
  bank.gate_up.grow(elements(slots, 2 * width, hidden) * sizeof(bfloat16_bits));
  bank.down.grow(elements(slots, width, hidden) * sizeof(bfloat16_bits));
}

void CudaBackend::fill_fp8_bank(CudaMlpBank& bank, int slots, int width, int hidden) {
  check_fp8_shape(hidden, hidden);
  bank.slots = slots;
  bank.width = fp8_blocks(width) * kFp8Block;
  bank.hidden = hidden;
  bank.gate_up.grow(elements(slots, 2 * bank.width, hidden));
  bank.down.grow(elements(slots, bank.width, hidden));
  bank.gate_up_scales.grow(elements(slots, 2 * fp8_blocks(width), fp8_blocks(hidden)) * sizeof(float));
  bank.down_scales.grow(elements(slots, fp8_blocks(hidden), fp8_blocks(width)) * sizeof(float));
  check(cudaMemset(bank.gate_up.get(), 0, bank.gate_up.bytes()), "cudaMemset");
  check(cudaMemset(bank.down.get(), 0, bank.down.bytes()), "cudaMemset");
}

void CudaBackend::fill_slot(CudaMlp& mlp, const CudaMlpBank& bank, int slot, int width, const RowSource& gate,
                            const RowSource& up, const RowSource& down) {
  mlp.width = bank.width;
  mlp.hidden = bank.hidden;
  if (bank.fp8()) {
    const int hidden = bank.hidden;
    const std::size_t gate_scales = elements(fp8_blocks(width), fp8_blocks(hidden));
    std::uint8_t* gate_up = bank.gate_up.get<std::uint8_t>() + elements(slot, 2 * bank.width, hidden);
    std::uint8_t* down_rows = bank.down.get<std::uint8_t>() + elements(slot, hidden, bank.width);
    float* gate_up_scales = bank.gate_up_scales.get<float>() + 2 * static_cast<std::size_t>(slot) * gate_scales;
    float* down_scales = bank.down_scales.get<float>() + static_cast<std::size_t>(slot) * gate_scales;
    upload_fp8(gate_up, gate_up_scales, width, hidden, hidden, gate);
    upload_fp8(gate_up + elements(bank.width, hidden), gate_up_scales + gate_scales, width, hidden, hidden, up);
    upload_fp8(down_rows, down_scales, hidden, width, bank.width, down);
    mlp.gate_up = gate_up;
    mlp.down = down_rows;
    mlp.gate_up_scales = gate_up_scales;
    mlp.down_scales = down_scales;
    mlp.scale_bytes = 3 * gate_scales * sizeof(float);
    return;
  }
  bfloat16_bits* gate_up = bank.gate_up.get<bfloat16_bits>() + elements(slot, 2 * bank.width, bank.hidden);
  bfloat16_bits* down_rows = bank.down.get<bfloat16_bits>() + elements(slot, bank.hidden, bank.width);
  upload_bf16(gate_up, bank.width, bank.hidden, gate);
  upload_bf16(gate_up + elements(bank.width, bank.hidden), bank.width, bank.hidden, up);
  upload_bf16(down_rows, bank.hidden, bank.width, down);
  mlp.gate_up = gate_up;
  mlp.down = down_rows;
}

void CudaBackend::move_mlp(CudaMlp& mlp, const CudaMlpBank& to, int slot) {
  const CudaMlpSlot from = mlp, place = to.slot(slot);
  const std::size_t gate_up = to.gate_up.bytes() / static_cast<std::size_t>(to.slots);
  const std::size_t gate_up_scales = to.gate_up_scales.bytes() / static_cast<std::size_t>(to.slots);
  const auto copy = [](const void* to_data, const void* from_data, std::size_t bytes) {
    if (bytes == 0) return;
    check(cudaMemcpyAsync(const_cast<void*>(to_data), from_data, bytes, cudaMemcpyDeviceToDevice, cudaStreamLegacy),
          "a copy of experts");
  };
  copy(place.gate_up, from.gate_up, gate_up);
  copy(place.down, from.down, gate_up / 2);
  copy(place.gate_up_scales, from.gate_up_scales, gate_up_scales);
  copy(place.down_scales, from.down_scales, gate_up_scales / 2);
  static_cast<CudaMlpSlot&>(mlp) = place;
}

void CudaBackend::check_fp8_shape(int n, int k) {
  if (n % 8 == 0 && k % 16 == 0) return;
  throw Error(ErrorCode::argument,
              "the CUDA backend's FP8 weights need rows that are a multiple of 8 and columns "
              "that are one of 16; a matrix of this model is " +
                  std::to_string(n) + " x " + std::to_string(k));
}

}  // namespace pelagic::cuda
