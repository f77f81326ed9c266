// Small things that all kernels share.
#pragma once
#include "api.h"
#include "simd.h"
#include "workspace.h"

namespace dl {

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t greatest(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t div_up(int64_t n, int64_t size) { return (n + size - 1) / size; }
static inline int64_t round_up(int64_t n, int64_t multiple) { return div_up(n, multiple) * multiple; }

// Sixteen floats of which `n` exist, or more: zeros after them, and nothing is read or written there.
static inline f32v load_up_to(const float* p, int64_t n) {
    if (n >= 16) return load(p);
    float lanes[16] = {};
    memcpy(lanes, p, 4 * n);
    return load(lanes);
}
static inline void store_up_to(float* p, int64_t n, f32v x) {
    if (n >= 16) return store(p, x);
    float lanes[16];
    store(lanes, x);
    memcpy(p, lanes, 4 * n);
}

// use(i, how many there are) for every sixteen of n, and for the rest.
template <class Use>
static inline void by_sixteen(int64_t n, Use use) {
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) use(i, 16);
    if (i < n) use(i, n - i);
}

}  // namespace dl
