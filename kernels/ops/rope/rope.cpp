#include "ops/rope/rope.h"

#include <cmath>
#include <stdexcept>

namespace pelagic {

RopeTable::RopeTable(std::span<const double> frequencies, int positions, double amplitude)
    : pairs_(static_cast<int>(frequencies.size())), positions_(positions) {
  if (positions < 0) throw std::invalid_argument("a rope table needs 0 or more positions");
  const std::size_t count = frequencies.size() * static_cast<std::size_t>(positions);
  cos_ = AlignedBuffer<float>(count);
  sin_ = AlignedBuffer<float>(count);
  std::size_t out = 0;
  for (int position = 0; position < positions; ++position) {
    for (const double frequency : frequencies) {
      const double angle = position * frequency;
      cos_[out] = static_cast<float>(std::cos(angle) * amplitude);
      sin_[out] = static_cast<float>(std::sin(angle) * amplitude);
      ++out;
    }
  }
}

}  // namespace pelagic
