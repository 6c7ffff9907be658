// XXH64, written from its specification (xxHash, doc/xxhash_spec.md, version 0.1.1).
#pragma once

#include <cstddef>
#include <cstdint>

namespace pelagic {

// Digest of `size` bytes. data may be null when size is 0. The value is that of the little-endian specification.
std::uint64_t xxh64(const void* data, std::size_t size, std::uint64_t seed = 0);

}  // namespace pelagic
