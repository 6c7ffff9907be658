// Weights on the card as e4m3 with a float32 scale for each 128 x 128, as the grouped GEMM reads them.
#pragma once

#include <cstdint>

#include "backend/backend.h"

namespace pelagic::cuda {

constexpr int fp8_blocks(int extent) { return (extent + 127) / 128; }

// Writes n rows of k numbers, ld bytes apart, and their scales [ceil(n / 128), ceil(ld / 128)]: the checkpoint's own
// where it has them, else quantised on the card. ld has no more blocks of 128 than k. Throws Error.
void upload_fp8(std::uint8_t* codes, float* scales, int n, int k, int ld, const RowSource& source);

}  // namespace pelagic::cuda
