#include "ops/embedding/embedding.h"

#include <cstring>
#include <stdexcept>
#include <string>

#include "base/bfloat16.h"

namespace pelagic {

void embed_tokens(const EmbeddingTable& table, std::span<const std::uint32_t> ids, float* out, std::int64_t ld_out) {
  for (const std::uint32_t id : ids) {
    if (id >= static_cast<std::uint64_t>(table.vocab))
      throw std::out_of_range("token id " + std::to_string(id) + " is not below the vocabulary size " +
                              std::to_string(table.vocab));
  }
  const auto width = static_cast<std::size_t>(table.width);
  const std::size_t row_bytes =
      width * (table.dtype == EmbeddingDtype::float32 ? sizeof(float) : sizeof(bfloat16_bits));
  for (const std::uint32_t id : ids) {
    const std::byte* row = table.data + id * row_bytes;
    if (table.dtype == EmbeddingDtype::float32) {
      std::memcpy(out, row, row_bytes);
    } else {
      for (std::size_t i = 0; i < width; ++i) {
        bfloat16_bits bits;
        std::memcpy(&bits, row + i * sizeof bits, sizeof bits);
        out[i] = bf16_to_f32(bits);
      }
    }
    out += ld_out;
  }
}

}  // namespace pelagic
