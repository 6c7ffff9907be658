// CUDA rope and latent stores against rope_ref.cpp and the norm on the host, equal to the bit after rounding; bad
// positions and blocks write nothing and are noted.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <string_view>
#include <vector>

#include "cuda/device_buffer.h"
#include "cuda/row_reference.h"
#include "cuda/test.h"
#include "ops/kv_cache/fp8_latent.h"
#include "ops/rope/rope.h"
#include "ops/rope/rope_cuda.h"

namespace pelagic {
namespace {

constexpr int kPairs = kRopeCudaColumns / 2;
constexpr int kPositions = 700;
constexpr float kEps = 1e-6f;

struct Table {
  RopeTable host;
  DeviceBuffer<float> cos, sin;

  Table() {
    std::vector<double> frequencies;
    for (int i = 0; i < kPairs; ++i) frequencies.push_back(std::pow(10000.0, -2.0 * i / kRopeCudaColumns));
    host = RopeTable(frequencies, kPositions, 1.1);
    const std::size_t count = static_cast<std::size_t>(kPositions) * kPairs;
    cos = DeviceBuffer<float>(std::vector<float>(host.cos_row(0), host.cos_row(0) + count));
    sin = DeviceBuffer<float>(std::vector<float>(host.sin_row(0), host.sin_row(0) + count));
  }
  RopeCudaTable device() const { return {cos.get(), sin.get(), kPositions}; }

  std::vector<bfloat16_bits> rotated(const bfloat16_bits* x, int position) const {
    std::vector<float> v;
    for (int i = 0; i < kRopeCudaColumns; ++i) v.push_back(bf16_to_f32(x[i]));
    scalar::rope(v.data(), 0, v.data(), 0, 1, kPairs, host.cos_row(position), host.sin_row(position));
    std::vector<bfloat16_bits> rounded;
    for (const float f : v) rounded.push_back(f32_to_bf16(f));
    return rounded;
  }
};

std::vector<std::int32_t> zeros() { return std::vector<std::int32_t>(kRopeErrors, 0); }

// Rotates the last 64 of each head's 192 columns, in place or to the last 64 of 576.
void queries(const Table& table, int rows, int heads, bool in_place, bool bad) {
  constexpr int kQuery = 192, kNope = 128;
  const int out_head = in_place ? kQuery : kLatentCudaRow;
  const int out_first = in_place ? kNope : kLatentCudaColumns;
  const std::int64_t x_stride = heads * kQuery + 16;
  const std::int64_t y_stride = in_place ? x_stride : heads * out_head;
  const std::vector<bfloat16_bits> x = random_bf16(1, static_cast<std::size_t>((rows + 1) * x_stride));
  std::vector<std::int32_t> positions;
  for (int row = 0; row < rows; ++row) positions.push_back((row * 37 + 5) % kPositions);
  if (bad) positions[0] = kPositions;
  if (bad && rows > 2) positions[2] = -1;
  const DeviceBuffer<bfloat16_bits> d_x(x);
  const DeviceBuffer<std::int32_t> d_positions(positions), errors(zeros());
  DeviceBuffer<bfloat16_bits> y(static_cast<std::size_t>((rows + 1) * y_stride));
  y.fill_bytes(0xFF);
  bfloat16_bits* out = in_place ? d_x.get() : y.get();
  const RopeCudaCall call = {.rows = rows,
                             .heads = heads,
                             .table = table.device(),
                             .row_positions = d_positions.get(),
                             .x = d_x.get() + kNope,
                             .x_row_stride = x_stride,
                             .x_head_stride = kQuery,
                             .y = out + out_first,
                             .y_row_stride = y_stride,
                             .y_head_stride = out_head,
                             .errors = errors.get()};
  PELAGIC_CUDA(rope_cuda(call, nullptr));  // once: it may change its input
  PELAGIC_CUDA(cudaDeviceSynchronize());
  std::vector<bfloat16_bits> expected = in_place ? x : std::vector<bfloat16_bits>(y.size(), 0xFFFF);
  for (int row = 0; row < rows; ++row) {
    if (positions[row] < 0 || positions[row] >= kPositions) continue;
    for (int head = 0; head < heads; ++head) {
      const std::vector<bfloat16_bits> one =
          table.rotated(x.data() + row * x_stride + head * kQuery + kNope, positions[row]);
      std::copy(one.begin(), one.end(), expected.begin() + row * y_stride + head * out_head + out_first);
    }
  }
  PELAGIC_EXPECT((in_place ? d_x : y).download() == expected, "rope of %d rows, %d heads, in place %d, bad %d", rows,
                 heads, in_place, bad);
  const std::vector<std::int32_t> noted = errors.download();
  PELAGIC_EXPECT((noted == std::vector<std::int32_t>{bad ? 1 : 0, 0}), "rope, bad %d: errors %d %d", bad, noted[0],
                 noted[1]);
}

// normed: its first columns before they are rounded.
std::vector<bfloat16_bits> latent_row(const Table& table, const bfloat16_bits* x, const std::vector<float>& weight,
                                      int position, std::vector<float>& normed) {
  // CUDA.md's order: lane l has groups of eight columns l and l + 32, then lanes by halves.
  float lanes[32] = {};
  for (int i = 0; i < kLatentCudaColumns; ++i) {
    float& sum = lanes[i / 8 % 32];
    sum = std::fma(bf16_to_f32(x[i]), bf16_to_f32(x[i]), sum);
  }
  for (int half = 16; half >= 1; half /= 2)
    for (int i = 0; i < half; ++i) lanes[i] = lanes[i] + lanes[i + half];
  const float scale = 1.0f / std::sqrt(lanes[0] / static_cast<float>(kLatentCudaColumns) + kEps);
  for (int i = 0; i < kLatentCudaColumns; ++i) normed[i] = bf16_to_f32(x[i]) * scale * weight[i];
  std::vector<bfloat16_bits> row;
  for (const float value : normed) row.push_back(f32_to_bf16(value));
  for (const bfloat16_bits bits : table.rotated(x + kLatentCudaColumns, position)) row.push_back(bits);
  return row;
}

// The normed columns and the rope columns of a bf16 row as a row of the FP8 cache.
std::vector<unsigned char> fp8_row(const std::vector<float>& normed, const std::vector<bfloat16_bits>& row) {
  std::vector<unsigned char> out(kFp8LatentRowBytes);
  for (int block = 0; block < kLatentCudaColumns; block += kFp8Block) {
    float largest = 0.0f;
    for (int i = block; i < block + kFp8Block; ++i) largest = std::max(largest, std::fabs(normed[i]));
    const Fp8Scale scale = fp8_latent_scale(std::bit_cast<std::uint32_t>(largest));
    const bool is_power_of_two = (std::bit_cast<std::uint32_t>(scale.scale) & 0x7FFFFFu) == 0;
    PELAGIC_EXPECT(is_power_of_two && scale.scale * scale.inverse == 1.0f && largest <= 448.0f * scale.scale,
                   "the scale of %g is %g", largest, scale.scale);
    std::memcpy(out.data() + kFp8LatentScalesAt + block / kFp8Block * sizeof(float), &scale.scale, sizeof(float));
    for (int i = block; i < block + kFp8Block; ++i)
      out[i] = __nv_cvt_float_to_fp8(normed[i] * scale.inverse, __NV_SATFINITE, __NV_E4M3);
  }
  std::memcpy(out.data() + kFp8LatentRopeAt, row.data() + kLatentCudaColumns, kRopeCudaColumns * 2);
  return out;
}

struct Latent {
  int sequence, position;
};

void latents(const Table& table, const char* name, const std::vector<Latent>& rows, bool by_row,
             std::vector<std::int32_t> expected_errors) {
  constexpr int kSequences = 3, kMaxBlocks = 4, kCacheBlocks = 9;
  constexpr std::int64_t kLd = kLatentCudaRow + 24;
  // Two entries out of range, one on each side.
  const std::vector<std::int32_t> blocks = {4, 0, 8, 9, 1, -1, 3, 5, 2, 7, 6, 1 << 30};
  std::vector<bfloat16_bits> compressed(static_cast<std::size_t>(rows.size() + 1) * kLd, 0xFFFF);
  std::vector<std::int32_t> positions, sequences;
  std::vector<bfloat16_bits> expected(static_cast<std::size_t>(kCacheBlocks) * 64 * kLatentCudaRow, 0xFFFF);
  std::vector<unsigned char> expected_fp8(static_cast<std::size_t>(kCacheBlocks) * 64 * kFp8LatentRowBytes, 0xFF);
  const std::vector<float> weight = random_f32(4, kLatentCudaColumns);
  for (std::size_t row = 0; row < rows.size(); ++row) {
    const auto [sequence, position] = rows[row];
    positions.push_back(position);
    sequences.push_back(sequence);
    // The data of a token hang on the token alone: the row rule is that its cached bits do too.
    const float size = position % 5 == 1 ? 0.0f : position % 5 == 2 ? 40.0f : 1.0f;
    bfloat16_bits* x = compressed.data() + row * kLd;
    for (int i = 0; i < kLatentCudaRow; ++i)
      x[i] = f32_to_bf16(size * random_normal(7, static_cast<std::uint64_t>(sequence * 1000 + position) * 1024 + i));
    if (sequence < 0 || sequence >= kSequences || position < 0 || position >= kMaxBlocks * 64) continue;
    const std::int32_t block = blocks[sequence * kMaxBlocks + position / 64];
    if (block < 0 || block >= kCacheBlocks) continue;
    std::vector<float> normed(kLatentCudaColumns);
    const std::vector<bfloat16_bits> one = latent_row(table, x, weight, position, normed);
    const std::vector<unsigned char> one_fp8 = fp8_row(normed, one);
    std::copy(one_fp8.begin(), one_fp8.end(), expected_fp8.begin() + (block * 64 + position % 64) * kFp8LatentRowBytes);
    std::copy(one.begin(), one.end(), expected.begin() + (block * 64 + position % 64) * kLatentCudaRow);
    double squares = 0.0;
    for (int i = 0; i < kLatentCudaColumns; ++i) squares += std::pow(static_cast<double>(bf16_to_f32(x[i])), 2);
    for (int i = 0; i < kLatentCudaColumns; ++i) {
      const double exact =
          bf16_to_f32(x[i]) / std::sqrt(squares / kLatentCudaColumns + static_cast<double>(kEps)) * weight[i];
      PELAGIC_EXPECT(std::fabs(bf16_to_f32(one[i]) - exact) <= 0.0040 * std::fabs(exact) + 1e-30,
                     "%s: far from float64", name);
    }
  }
  const DeviceBuffer<bfloat16_bits> d_compressed(compressed);
  const DeviceBuffer<std::int32_t> d_positions(positions), d_sequences(sequences), d_blocks(blocks), errors(zeros());
  const DeviceBuffer<float> d_weight(weight);
  DeviceBuffer<bfloat16_bits> cache(expected.size());
  cache.fill_bytes(0xFF);
  StoreLatentsCudaCall call = {.rows = static_cast<int>(rows.size()),
                               .eps = kEps,
                               .table = table.device(),
                               .compressed = d_compressed.get(),
                               .ld_compressed = kLd,
                               .weight = d_weight.get(),
                               .row_positions = d_positions.get(),
                               .row_sequences = by_row ? nullptr : d_sequences.get(),
                               .block_table = d_blocks.get(),
                               .sequences = kSequences,
                               .max_blocks = kMaxBlocks,
                               .cache = cache.get(),
                               .cache_blocks = kCacheBlocks,
                               .errors = errors.get()};
  test::run_from_graph([&](cudaStream_t stream) { PELAGIC_CUDA(store_latents_cuda(call, stream)); });
  PELAGIC_EXPECT(cache.download() == expected, "latents, %s", name);
  PELAGIC_EXPECT(errors.download() == expected_errors, "latents, %s: errors", name);
  DeviceBuffer<unsigned char> fp8_cache(expected_fp8.size());
  fp8_cache.fill_bytes(0xFF);
  call.cache = fp8_cache.get();
  call.cache_dtype = KvDtype::fp8;
  test::run_from_graph([&](cudaStream_t stream) { PELAGIC_CUDA(store_latents_cuda(call, stream)); });
  PELAGIC_EXPECT(fp8_cache.download() == expected_fp8, "latents in fp8, %s", name);
}

}  // namespace
}  // namespace pelagic

int main() {
  using namespace pelagic;
  return test::run("rope_cuda", [] {
    const Table table;
    for (const bool in_place : {true, false}) {
      queries(table, 0, 16, in_place, false);
      queries(table, 1, 128, in_place, false);
      queries(table, 37, 5, in_place, false);
      queries(table, 37, 5, in_place, true);
    }
    latents(table, "none", {}, false, {0, 0});
    latents(table, "one", {{1, 3}}, false, {0, 0});
    latents(table, "a decode step", {{0, 130}, {1, 62}, {2, 0}}, true, {0, 0});
    std::vector<Latent> prefill;
    for (int position = 60; position < 190; ++position) prefill.push_back({0, position});
    for (int position = 0; position < 64; ++position) prefill.push_back({2, position});
    latents(table, "prefill", prefill, false, {0, 0});
    // The same tokens and some that cannot be stored.
    std::vector<Latent> bad = prefill;
    bad.insert(bad.begin() + 7, {0, 200});
    bad.insert(bad.begin() + 9, {1, 64});
    bad.insert(bad.begin() + 70, {2, 200});
    bad.insert(bad.begin() + 71, {3, 1});
    bad.insert(bad.begin() + 72, {-1, 1});
    bad.insert(bad.begin() + 73, {0, 256});
    latents(table, "bad blocks", bad, false, {0, 1});
    bad.push_back({0, kPositions});
    bad.push_back({0, -1});
    latents(table, "bad positions", bad, false, {1, 1});
  });
}
