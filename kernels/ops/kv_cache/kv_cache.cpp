#include "ops/kv_cache/kv_cache.h"

#include <cstring>

#include "base/bfloat16.h"
#include "base/xxh64.h"

namespace pelagic {
namespace {

std::byte* write_rounded(KvDtype dtype, const float* values, int count, std::byte* out) {
  const auto n = static_cast<std::size_t>(count);
  if (dtype == KvDtype::float32) {
    std::memcpy(out, values, n * sizeof(float));
    return out + n * sizeof(float);
  }
  auto* rounded = reinterpret_cast<bfloat16_bits*>(out);
  for (std::size_t i = 0; i < n; ++i) rounded[i] = f32_to_bf16(values[i]);
  return out + n * sizeof(bfloat16_bits);
}

}  // namespace

void kv_write_row(const KvLayout& layout, std::byte* cache, int layer, std::uint32_t block, int row,
                  const float* latent, const float* rope) {
  std::byte* out = cache + layout.offset(layer, block, row);
  out = write_rounded(layout.dtype, latent, layout.kv_rank, out);
  write_rounded(layout.dtype, rope, layout.rope_dim, out);
}

std::uint64_t kv_pack_rows(const KvLayout& layout, const std::byte* cache, int layer, std::uint32_t block,
                           int first_row, int row_count, std::byte* out) {
  const std::size_t bytes = layout.row_bytes() * static_cast<std::size_t>(row_count);
  const std::byte* rows = cache + layout.offset(layer, block, first_row);
  return xxh64_copy(out, rows, bytes);
}

std::uint64_t kv_unpack_rows(const KvLayout& layout, std::byte* cache, int layer, std::uint32_t block, int first_row,
                             int row_count, const std::byte* data) {
  return xxh64_copy(cache + layout.offset(layer, block, first_row), data,
                    layout.row_bytes() * static_cast<std::size_t>(row_count));
}

void kv_copy_block(const KvLayout& layout, std::byte* cache, std::uint32_t from, std::uint32_t to) {
  if (from == to) return;
  for (int layer = 0; layer < layout.layers; ++layer)
    std::memcpy(cache + layout.offset(layer, to, 0), cache + layout.offset(layer, from, 0), layout.block_bytes());
}

}  // namespace pelagic
