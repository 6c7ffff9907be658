#include "ops/embedding/embedding.h"

#include <cstring>
#include <stdexcept>

#include "base/bfloat16.h"
#include "base/test.h"

namespace {

using namespace pelagic;

TEST("rows of float32 and bfloat16 tables, unaligned") {
  const int vocab = 7, width = 5;
  std::vector<std::byte> f32(1 + vocab * width * 4), b16(1 + vocab * width * 2);
  for (int i = 0; i < vocab * width; ++i) {
    const auto value = static_cast<float>(i) * 0.5f;
    const bfloat16_bits bits = f32_to_bf16(value);
    std::memcpy(f32.data() + 1 + i * 4, &value, 4);
    std::memcpy(b16.data() + 1 + i * 2, &bits, 2);
  }
  const std::vector<std::uint32_t> ids{6, 0, 3, 3};
  for (const EmbeddingTable& table : {EmbeddingTable{f32.data() + 1, EmbeddingDtype::float32, vocab, width},
                                      EmbeddingTable{b16.data() + 1, EmbeddingDtype::bfloat16, vocab, width}}) {
    std::vector<float> out(ids.size() * 6, -1.0f);
    embed_tokens(table, ids, out.data(), 6);
    for (std::size_t i = 0; i < ids.size(); ++i) {
      for (std::size_t j = 0; j < 5; ++j) CHECK(out[i * 6 + j] == static_cast<float>(ids[i] * 5 + j) * 0.5f);
      CHECK(out[i * 6 + 5] == -1.0f);
    }
    const std::vector<std::uint32_t> bad{0, 7};
    std::vector<float> untouched(12, -1.0f);
    CHECK_THROWS(embed_tokens(table, bad, untouched.data(), 6), std::out_of_range);
    CHECK(untouched[0] == -1.0f);
  }
}

}  // namespace

TEST_MAIN
