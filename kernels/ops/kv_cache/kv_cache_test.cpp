#include "ops/kv_cache/kv_cache.h"

#include <cstring>

#include "base/aligned_buffer.h"
#include "base/bfloat16.h"
#include "base/test.h"
#include "base/xxh64.h"

namespace {

using namespace pelagic;

TEST("layout of the real models") {
  const KvLayout layout{61, 10, 512, 64, KvDtype::bfloat16};
  CHECK(layout.row_bytes() == 1152);
  CHECK(layout.block_bytes() == 73728);
  CHECK(layout.offset(1, 2, 3) == 10 * 73728 + 2 * 73728 + 3 * 1152);
  CHECK(layout.total_bytes() == 61ull * 10 * 73728);
  const KvLayout fp8{61, 10, 512, 64, KvDtype::fp8};
  CHECK(fp8.row_bytes() == 656);
  CHECK(fp8.total_bytes() == 61ull * 10 * 41984);
}

TEST("write, pack, unpack, copy") {
  test::Random random(1);
  for (const KvDtype dtype : {KvDtype::float32, KvDtype::bfloat16}) {
    const KvLayout layout{3, 4, 24, 8, dtype};
    AlignedBuffer<std::byte> cache(layout.total_bytes());
    const std::vector<float> latent = random.floats(24), rope = random.floats(8);
    kv_write_row(layout, cache.data(), 2, 1, 63, latent.data(), rope.data());
    const std::byte* row = cache.data() + layout.offset(2, 1, 63);
    for (std::size_t i = 0; i < 32; ++i) {
      const float value = i < 24 ? latent[i] : rope[i - 24];
      if (dtype == KvDtype::float32) {
        CHECK(std::memcmp(row + 4 * i, &value, 4) == 0);
      } else {
        const bfloat16_bits bits = f32_to_bf16(value);
        CHECK(std::memcmp(row + 2 * i, &bits, 2) == 0);
      }
    }
    for (std::size_t i = 0; i < cache.size(); ++i)
      if (cache.data() + i < row || cache.data() + i >= row + layout.row_bytes()) CHECK(cache[i] == std::byte{0});

    std::vector<std::byte> packed(1 + 5 * layout.row_bytes());
    const std::uint64_t digest = kv_pack_rows(layout, cache.data(), 2, 1, 59, 5, packed.data() + 1);
    CHECK(digest == xxh64(packed.data() + 1, 5 * layout.row_bytes()));
    CHECK(std::memcmp(packed.data() + 1, cache.data() + layout.offset(2, 1, 59), 5 * layout.row_bytes()) == 0);
    CHECK(kv_unpack_rows(layout, cache.data(), 0, 3, 10, 5, packed.data() + 1) == digest);
    CHECK(std::memcmp(cache.data() + layout.offset(0, 3, 14), row, layout.row_bytes()) == 0);

    kv_copy_block(layout, cache.data(), 1, 2);
    kv_copy_block(layout, cache.data(), 2, 2);
    for (int layer = 0; layer < 3; ++layer)
      CHECK(std::memcmp(cache.data() + layout.offset(layer, 1, 0), cache.data() + layout.offset(layer, 2, 0),
                        layout.block_bytes()) == 0);
  }
}

}  // namespace

TEST_MAIN
