// The paged latent cache: what one row, block and layer look like in memory, and the copies in and out.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pelagic {

// fp8: the latent in e4m3 with a float32 scale for each 128 columns, which is a power of two, then the rotated key in
// bf16. On the GPU only (fp8_latent.h).
enum class KvDtype { float32, bfloat16, fp8 };

// Tokens of one block; also the attention's tile of keys.
inline constexpr int kBlockRows = 64;

// [layer][block][64 rows][latent_width]; a row is kv_rank normed latent numbers, then rope_dim rotated key numbers.
struct KvLayout {
  int layers;
  int blocks;
  int kv_rank;
  int rope_dim;
  KvDtype dtype;

  int latent_width() const { return kv_rank + rope_dim; }
  std::size_t row_bytes() const {
    const std::size_t latent = static_cast<std::size_t>(kv_rank), rope = static_cast<std::size_t>(rope_dim);
    if (dtype == KvDtype::fp8) return latent + 4 * ((latent + 127) / 128) + 2 * rope;
    return (latent + rope) * (dtype == KvDtype::float32 ? 4 : 2);
  }
  std::size_t block_bytes() const { return row_bytes() * kBlockRows; }  // of one layer
  std::size_t layer_bytes() const { return block_bytes() * static_cast<std::size_t>(blocks); }
  std::size_t total_bytes() const { return layer_bytes() * static_cast<std::size_t>(layers); }
  // Bytes from the start of the cache.
  std::size_t offset(int layer, std::uint32_t block, int row) const {
    return static_cast<std::size_t>(layer) * layer_bytes() + block * block_bytes() +
           static_cast<std::size_t>(row) * row_bytes();
  }
};

// All functions: the caller has checked layer, block and row against the layout. `cache` is the start of the whole
// cache, 64-byte aligned.

// Rounds (nearest, ties to even) and writes one row in float32 or bf16. latent: [kv_rank] after its norm; rope:
// [rope_dim] after rotation.
void kv_write_row(const KvLayout& layout, std::byte* cache, int layer, std::uint32_t block, int row,
                  const float* latent, const float* rope);

// Copies rows [first_row, first_row + row_count) of one block and layer to out (row_count * row_bytes, any alignment);
// returns their XXH64 (seed 0).
std::uint64_t kv_pack_rows(const KvLayout& layout, const std::byte* cache, int layer, std::uint32_t block,
                           int first_row, int row_count, std::byte* out);

// The inverse; returns the XXH64 too and compares it with nothing.
std::uint64_t kv_unpack_rows(const KvLayout& layout, std::byte* cache, int layer, std::uint32_t block, int first_row,
                             int row_count, const std::byte* data);

// Copies a whole block in every layer.
void kv_copy_block(const KvLayout& layout, std::byte* cache, std::uint32_t from, std::uint32_t to);

}  // namespace pelagic
