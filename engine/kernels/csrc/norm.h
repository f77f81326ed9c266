// RMS norm of one row.
#pragma once
#include "simd.h"

namespace dl {

static inline f16v load_part(const float* p, int64_t n) {  // n < 16; zeros after them
    float lanes[16] = {};
    memcpy(lanes, p, 4 * n);
    return load(lanes);
}

// 1 / sqrt(mean(x²) + eps)
static inline float inverse_rms(const float* x, int64_t n, float eps) {
    f16v squares = zero();
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        const f16v a = load(x + i);
        squares = fma(a, a, squares);
    }
    if (i < n) {
        const f16v a = load_part(x + i, n - i);
        squares = fma(a, a, squares);
    }
    return 1.0f / std::sqrt(sum(squares) / float(n) + eps);
}

static inline void rms_norm(const float* x, int64_t n, const float* factor, float eps, float* out) {
    const float inverse = inverse_rms(x, n, eps);
    for (int64_t i = 0; i < n; i++) out[i] = x[i] * inverse * factor[i];
}

}  // namespace dl
