// Tensor maps for the bulk copy engine.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace pelagic {

enum class MapSwizzle { none, bytes_128 };

struct MapShape {
  CUtensorMapDataType type;
  std::uint64_t columns;  // contiguous dimension, elements
  std::uint64_t rows;
  std::uint64_t row_bytes;    // distance of rows, a multiple of 16
  std::uint32_t box_columns;  // with bytes_128: 128 bytes' worth
  std::uint32_t box_rows;     // 1 .. 256
  MapSwizzle swizzle;
};

// The driver is asked at run time, so that nothing here needs it at link time. Throws std::runtime_error when it is
// absent or refuses the shape.
CUtensorMap make_tensor_map(const void* base, const MapShape& shape);

}  // namespace pelagic
