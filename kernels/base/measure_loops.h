// The inner loops behind measure.h, one for each instruction set.
#pragma once

#include <cstddef>

#include "base/cpu_features.h"

namespace pelagic {

PELAGIC_DECLARE_FOR_EACH_ISA(
    // Reads data[0..floats), floats a multiple of 16, data on a 64-byte boundary. Returns the sum, in no promised
    // order.
    float read_pass(const float* data, std::size_t floats);
    // `iterations` rounds of FMAs on enough independent registers to fill the pipeline. Returns the FLOP done.
    double fma_burst(int iterations);)

}  // namespace pelagic
