// AMX's tile registers: each thread has to describe them before use. Nothing to do for other instruction sets.
#pragma once
#if defined(__AMXBF16__) && !defined(__AMX_BF16__)  // as older clangs call it
#define __AMX_BF16__ 1
#endif
#if defined(__AMX_BF16__)
#include <immintrin.h>

#include <cstdint>

// The tile instructions do not say that they read memory: what was written before must be there.
#define COMPILER_BARRIER __asm__ volatile("" ::: "memory")
#endif

namespace dl {

#if defined(__AMX_BF16__)
struct alignas(64) TileConfig {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16];
    uint8_t rows[16];
};
// Sixteen rows of 64 bytes each: what everything in bf16 wants.
static constexpr TileConfig SQUARE_TILES{1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
// For 32 columns in 8 bits. 0: sums, 1: inputs, 2: weights.
static constexpr TileConfig INT8_TILES{1, 0, {}, {64, 32, 64}, {16, 16, 8}};

class TileRegisters {
public:
    TileRegisters() { describe(SQUARE_TILES); }
    ~TileRegisters() { _tile_release(), now = nullptr; }
    TileRegisters(const TileRegisters&) = delete;

    // What follows on this thread uses these tiles; all of them are cleared if they were others before.
    static void describe(const TileConfig& config) {
        if (now == &config) return;
        _tile_loadconfig(&config);
        now = &config;
    }

private:
    static inline thread_local const TileConfig* now = nullptr;
};
#else
struct TileRegisters {
    TileRegisters() {}
};
#endif

}  // namespace dl
