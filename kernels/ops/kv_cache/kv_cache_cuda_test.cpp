// Packing and unpacking rows of the paged cache: every byte, in and out, and none beside them.
#include <algorithm>
#include <vector>

#include "cuda/device_buffer.h"
#include "cuda/random.h"
#include "cuda/test.h"
#include "ops/kv_cache/kv_cache.h"
#include "ops/kv_cache/kv_cache_cuda.h"

namespace pelagic {
namespace {

constexpr int kCacheBlocks = 7;

void check(int row_bytes, int first, int rows, const std::vector<std::int32_t>& table) {
  using Bytes = std::vector<std::uint8_t>;
  Bytes cache(static_cast<std::size_t>(kCacheBlocks) * kBlockRows * row_bytes);
  for (std::size_t i = 0; i < cache.size(); ++i) cache[i] = static_cast<std::uint8_t>(random_bits(1, i));
  Bytes data(static_cast<std::size_t>(rows + 1) * row_bytes);
  for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::uint8_t>(random_bits(2, i));
  Bytes packed(data.size(), 0xFF), unpacked = cache;
  bool bad = false;
  for (int row = 0; row < rows; ++row) {
    const std::size_t entry = static_cast<std::size_t>(first + row) / kBlockRows;
    const std::int32_t block = entry < table.size() ? table[entry] : -1;
    if (block < 0 || block >= kCacheBlocks) {
      bad = true;
      continue;
    }
    const std::size_t cached = static_cast<std::size_t>(block * kBlockRows + (first + row) % kBlockRows) * row_bytes;
    std::copy_n(cache.begin() + cached, row_bytes, packed.begin() + static_cast<std::size_t>(row) * row_bytes);
    std::copy_n(data.begin() + static_cast<std::size_t>(row) * row_bytes, row_bytes, unpacked.begin() + cached);
  }
  const DeviceBuffer<std::uint8_t> d_cache(cache), d_data(data);
  DeviceBuffer<std::uint8_t> d_packed(data.size());
  d_packed.fill_bytes(0xFF);
  const DeviceBuffer<std::int32_t> d_table(table), errors(std::vector<std::int32_t>(kKvCacheErrors, 0));
  KvRowsCudaCall call = {.row_bytes = row_bytes,
                         .first_position = first,
                         .rows = rows,
                         .blocks = d_table.get(),
                         .table_blocks = static_cast<int>(table.size()),
                         .cache = d_cache.get(),
                         .cache_blocks = kCacheBlocks,
                         .buffer = d_packed.get(),
                         .errors = errors.get()};
  test::run_from_graph([&](cudaStream_t stream) { PELAGIC_CUDA(kv_pack_cuda(call, stream)); });
  PELAGIC_EXPECT(d_packed.download() == packed, "packed: %d bytes, %d rows from %d", row_bytes, rows, first);
  PELAGIC_EXPECT(d_cache.download() == cache, "packing changed the cache: %d rows from %d", rows, first);
  call.buffer = d_data.get();
  test::run_from_graph([&](cudaStream_t stream) { PELAGIC_CUDA(kv_unpack_cuda(call, stream)); });
  PELAGIC_EXPECT(d_cache.download() == unpacked, "unpacked: %d bytes, %d rows from %d", row_bytes, rows, first);
  PELAGIC_EXPECT(errors.download()[kKvBadBlock] == (bad ? 1 : 0), "errors: %d rows from %d", rows, first);
}

}  // namespace
}  // namespace pelagic

int main() {
  using namespace pelagic;
  return test::run("kv_cache_cuda", [] {
    const std::vector<std::int32_t> table = {5, 0, 6, 2};
    for (const int row_bytes : {16, 1152, 2304}) {
      check(row_bytes, 0, 0, table);
      check(row_bytes, 77, 1, table);
      check(row_bytes, 0, 64, table);
      check(row_bytes, 30, 200, table);
      check(row_bytes, 200, 70, table);  // past the table's end
      check(row_bytes, 3, 250, {1, -1, 3, kCacheBlocks});
    }
    KvRowsCudaCall call = {};
    call.row_bytes = 24;
    PELAGIC_EXPECT(kv_pack_cuda(call, nullptr) == cudaErrorInvalidValue, "24 bytes");
  });
}
