// AMX's tile registers: each thread has to describe them before use. Nothing to do for other instruction sets.
#pragma once
#if defined(__AMX_BF16__)
#include <immintrin.h>

#include <cstdint>

// The tile instructions do not say that they read memory: what was written before must be there.
#define COMPILER_BARRIER __asm__ volatile("" ::: "memory")
#endif

namespace dl {

#if defined(__AMX_BF16__)
struct alignas(64) TileConfig {  // sixteen rows of 64 bytes each
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
struct TileRegisters {
    TileRegisters() {
        static constexpr TileConfig config;
        _tile_loadconfig(&config);
    }
    ~TileRegisters() { _tile_release(); }
    TileRegisters(const TileRegisters&) = delete;
};
#else
struct TileRegisters {
    TileRegisters() {}
};
#endif

}  // namespace dl
