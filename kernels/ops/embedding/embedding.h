// Rows of the embedding table, as float32.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace pelagic {

enum class EmbeddingDtype { float32, bfloat16 };

struct EmbeddingTable {
  const std::byte* data;  // [vocab, width], any alignment: it may be a mapped checkpoint
  EmbeddingDtype dtype;
  std::int64_t vocab;
  std::int64_t width;
};

// out[i, :] = table[ids[i], :]; out: [ids.size(), width] with ld_out floats between rows. Throws std::out_of_range for
// an id >= vocab (before anything is written).
void embed_tokens(const EmbeddingTable& table, std::span<const std::uint32_t> ids, float* out, std::int64_t ld_out);

}  // namespace pelagic
