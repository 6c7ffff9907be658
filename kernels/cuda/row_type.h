// Element type of rows that an op takes in either.
#pragma once

#include <cstdint>

namespace pelagic {

enum class RowType { float32, bfloat16 };

constexpr std::int64_t row_type_bytes(RowType type) { return type == RowType::float32 ? 4 : 2; }

// Whether rows that begin at `data`, `ld` elements apart, all begin at a multiple of 16 bytes.
inline bool rows_aligned(const void* data, std::int64_t ld, std::int64_t element_bytes) {
  return reinterpret_cast<std::uintptr_t>(data) % 16 == 0 && ld * element_bytes % 16 == 0;
}

}  // namespace pelagic
