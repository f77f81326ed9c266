// Products of one panel (sixteen rows of a weight matrix, expanded) with tokens, in tiles of sixteen tokens.
//
// Lanes are the panel's rows. What a token gets never depends on the other tokens of its tile: sums run over columns
// in one fixed order, the 8-bit products are exact within a group, and fp32 adds run over groups in order. In the INT8
// and F32 forms all instruction sets agree bit for bit; the bf16 form has the order its instructions give it.
#pragma once
#include "common.h"

namespace dl {

constexpr int TILE = 16;  // tokens

// INT8: 32 columns of sixteen tokens, each with its scale, -scale * Σ q, and -32 * Σ q of either half.
struct Int8Inputs {
    int8_t q[TILE][32];
    float scale[TILE], sum[TILE];
    int32_t half_sum[2][TILE];
};

// Inputs of sixteen tokens, as each form wants them. Rows are padded, or all sixteen would share a few cache sets.
struct TileShape {
    int64_t columns;

    int64_t int8_bytes() const { return columns / 32 * int64_t(sizeof(Int8Inputs)); }

    // bf16: pairs of columns, zero past the last: [16 tokens][pitch], but for AMX [pairs][16 tokens] as its tiles are
    int64_t bf16_columns() const { return round_up(columns, 32); }
    int64_t bf16_pitch() const { return bf16_columns() + 32; }
#if defined(__AMX_BF16__)
    int64_t bf16_bytes() const { return 2 * TILE * bf16_columns(); }
#else
    int64_t bf16_bytes() const { return 2 * TILE * bf16_pitch(); }
#endif

    // F32: [16][pitch]; zero past the columns
    int64_t f32_columns() const { return round_up(columns, 4); }
    int64_t f32_pitch() const { return round_up(columns, 16) + 16; }
    int64_t f32_bytes() const { return 4 * TILE * f32_pitch(); }

    int64_t bytes(int form) const {
        return round_up(form == DL_FORM_INT8 ? int8_bytes() : form == DL_FORM_BF16 ? bf16_bytes() : f32_bytes(), 64);
    }
};

// Put one token's inputs into its place in a tile.
void fill(int form, const TileShape& shape, const float* x, uint8_t* tile, int token);
// Copy a token's inputs from one tile to another.
void move(int form, const TileShape& shape, const uint8_t* from, int token, uint8_t* to, int place);

static inline int64_t panels_of(const dl_matrix& m) { return div_up(m.rows, 16); }
// Panels a thread takes at a time, to share them out about `shares` times.
static inline int64_t chunk_of(int64_t panels, int64_t shares) { return least(16, greatest(1, panels / shares)); }

constexpr int AT_ONCE = 128;  // tokens whose sums are kept at a time

// Takes products as they come: (first token, number, float [number][16]). Refers to a function that must outlive it.
class Take {
public:
    template <class Function>
    Take(const Function& function) : function(&function), call(&call_of<Function>) {}
    void operator()(int64_t first, int64_t n, const float* y) const { call(function, first, n, y); }

private:
    template <class Function>
    static void call_of(const void* function, int64_t first, int64_t n, const float* y) {
        (*(const Function*)function)(first, n, y);
    }
    const void* function;
    void (*call)(const void*, int64_t, int64_t, const float*);
};

class Panel {
public:
    // Scratch memory for one panel: its values in any form, and its file bytes in case its rows are fewer than 16.
    static int64_t bytes(const dl_matrix& m) { return round_up(96 * round_up(m.columns, 32) + 16 * m.row_bytes, 64); }
    // Scratch memory for the sums of AT_ONCE tokens; the products are left at its start.
    static constexpr int64_t SUM_BYTES = AT_ONCE * 16 * 4 * 4;

    Panel(const dl_matrix& matrix, uint8_t* scratch) : m(matrix), scratch(scratch) {}

    const uint8_t* start_of(int part, int64_t row0) const { return m.parts[part] + row0 * m.row_bytes; }

    // Products of rows row0 … row0 + 15 of a part with tokens in consecutive tiles. Rows past the end count as zero
    // bytes. `next` is what will be read after this panel. False when the format is not known.
    bool multiply(int part, int64_t row0, const uint8_t* next, const uint8_t* tiles, int64_t tokens, float* sum, const Take& take) const;

    // Expand one row's columns into fp32, for embeddings: value i is at 16 * i of the scratch memory.
    bool expand_all() const;

private:
    const dl_matrix& m;
    uint8_t* scratch;
};

}  // namespace dl
