// Rotary position embedding, interleaved layout. Maths and order: README.md.
#pragma once

#include <cstdint>
#include <span>

#include "base/aligned_buffer.h"
#include "base/cpu_features.h"

namespace pelagic {

// cos and sin of position * frequency, computed in float64 at load and rounded to float32 once.
class RopeTable {
 public:
  RopeTable() = default;
  // frequencies: rope_dim / 2 angles per position (YaRN already applied). positions >= 0. amplitude multiplies both
  // (YaRN's mscale ratio, 1 for every published checkpoint).
  RopeTable(std::span<const double> frequencies, int positions, double amplitude = 1.0);

  int pairs() const { return pairs_; }
  int positions() const { return positions_; }
  const float* cos_row(int position) const {
    return cos_.data() + static_cast<std::size_t>(position) * static_cast<std::size_t>(pairs_);
  }
  const float* sin_row(int position) const {
    return sin_.data() + static_cast<std::size_t>(position) * static_cast<std::size_t>(pairs_);
  }

 private:
  int pairs_ = 0;
  int positions_ = 0;
  AlignedBuffer<float> cos_;
  AlignedBuffer<float> sin_;
};

// Rotates `vectors` vectors (heads) of one token, each 2 * pairs floats, `stride` floats apart (out_stride in the
// output):
//   y[2i] = x[2i] cos_i - x[2i+1] sin_i;  y[2i+1] = x[2i] sin_i + x[2i+1] cos_i
// cos, sin: RopeTable rows, [pairs]. y may be x.
PELAGIC_DECLARE_FOR_EACH_ISA(void rope(const float* x, std::int64_t stride, float* y, std::int64_t out_stride,
                                       int vectors, int pairs, const float* cos, const float* sin);)

}  // namespace pelagic
