// RMS norm of one row.
#pragma once
#include "common.h"

namespace dl {

// 1 / sqrt(mean(x²) + eps)
static inline float inverse_rms(const float* x, int64_t n, float eps) {
    f32v squares = zero();
    by_sixteen(n, [&](int64_t i, int64_t left) {
        const f32v a = load_up_to(x + i, left);
        squares = fma(a, a, squares);
    });
    return 1.0f / std::sqrt(sum(squares) / float(n) + eps);
}

static inline void rms_norm(const float* x, int64_t n, const float* factor, float eps, float* out) {
    const float inverse = inverse_rms(x, n, eps);
    for (int64_t i = 0; i < n; i++) out[i] = x[i] * inverse * factor[i];
}

}  // namespace dl
