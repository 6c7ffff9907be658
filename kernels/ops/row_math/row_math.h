// Small maths over one row, shared by gate and sampler. Order of every sum: 16 interleaved chains, then the tree.
#pragma once

#include "base/cpu_features.h"

namespace pelagic {

PELAGIC_DECLARE_FOR_EACH_ISA(
    // Largest of x[0..n); NaN elements may or may not be seen. -infinity for n = 0.
    float row_max(const float* x, int n);
    // Sum of exp(x[i] - shift) over [0, n); y, unless null, receives each term. y may be x.
    float row_exp_sum(const float* x, float shift, int n, float* y);
    // y[i] = exp(x[i] - max) / sum. y may be x.
    void row_softmax(const float* x, int n, float* y);
    // y[i] = 1 / (1 + exp(-x[i])). y may be x.
    void row_sigmoid(const float* x, int n, float* y);)

}  // namespace pelagic
