// Natural logarithm in float64 without libm, for the sampler: the same bits on every processor.
#pragma once

namespace pelagic {

// x finite and > 0 (subnormals included). x = 2^k m with m in [sqrt(1/2), sqrt(2)); log m = 2 atanh((m-1)/(m+1)) as an
// odd series. Only +, -, *, / in the written order (no fused multiply-add). Relative error under 4e-15.
double log_f64(double x);

}  // namespace pelagic
