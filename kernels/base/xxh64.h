// XXH64, written from its specification (xxHash, doc/xxhash_spec.md, version 0.1.1).
#pragma once

#include <cstddef>
#include <cstdint>

namespace pelagic {

// Digest of `size` bytes. data may be null when size is 0. The value is that of the little-endian specification.
std::uint64_t xxh64(const void* data, std::size_t size, std::uint64_t seed = 0);

// Copies `size` bytes to `out`, which must not overlap them, and returns the digest of what was written there (seed 0):
// one pass over memory for both.
std::uint64_t xxh64_copy(void* out, const void* data, std::size_t size);

}  // namespace pelagic
