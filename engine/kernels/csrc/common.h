// Small things the kernels of the two mixers share.
#pragma once
#include "api.h"
#include "norm.h"
#include "workspace.h"

namespace dl {

static inline int64_t up_to_multiple(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }
static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// Sixteen floats of which `n` exist, or more: zeros after them, and nothing is read or written there.
static inline f16v load_up_to(const float* p, int64_t n) { return n >= 16 ? load(p) : load_part(p, n); }
static inline void store_up_to(float* p, int64_t n, f16v x) {
    if (n >= 16) return store(p, x);
    float lanes[16];
    store(lanes, x);
    memcpy(p, lanes, 4 * n);
}

}  // namespace dl
