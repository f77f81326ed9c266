// From file bytes to a panel: sixteen rows of a weight matrix in the form the products take.
//
// INT8 form: weight = scale * q - min, with q in 0 … 255, scale and min for each row and group of 16 or 32 columns.
// q lies as [columns / 4][16 rows][4], the operand order of the 8-bit dot products; scale and min as [groups][16 rows].
// The bytes come from `FileRows` or `PackedRows`. `next` is where the following panel starts: its bytes are prefetched
// on the way, or one core alone could not keep the memory busy.
#pragma once
#include "common.h"
#include "lanes.h"

namespace dl {

struct Int8Panel {
    uint8_t* q;
    float* scale;
    float* min;
};

// The codebooks of the IQ types, given once at start; see dl_set_codebook.
struct Codebooks {
    const uint8_t *iq2_xxs, *iq2_xs, *iq2_s, *iq3_xxs, *iq3_s;
};
extern Codebooks codebooks;

static inline void prefetch_line(const uint8_t* p) { __builtin_prefetch(p, 0, 2); }
static inline void prefetch(const uint8_t* p, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) prefetch_line(p + i);
}

// The blocks of sixteen rows, as they lie in a file: rows `stride` bytes apart. Offsets are bytes in a block.
struct FileRows {
    static constexpr bool BY_ROW = true;
    const uint8_t* p;
    int64_t stride;
    void skip(int64_t bytes) { p += bytes; }
    void four(int at, u32v* words) const { transpose4(p + at, stride, words); }
    void eight(int at, u32v* words) const { four(at, words), four(at + 16, words + 4); }
    u32v word(int at) const { return gather_words(p + at, stride); }
    u32v half(int at) const { return at < 2 ? word(at) : word(at - 2) >> 16; }  // nothing after a block's end is read
    u32v byte(int at) const { return word(at) & set1_word(0xff); }
};

// The same interleaved, see dl_pack: what stands at byte `at` of sixteen rows' blocks starts at byte 16 * at here.
struct PackedRows {
    static constexpr bool BY_ROW = false;
    const uint8_t* p;
    void skip(int64_t bytes) { p += 16 * bytes; }
    void four(int at, u32v* words) const {
        for (int i = 0; i < 4; i++) words[i] = word(at + 4 * i);
    }
    void eight(int at, u32v* words) const { four(at, words), four(at + 16, words + 4); }
    u32v word(int at) const { return load_words(p + 16 * at); }
    u32v half(int at) const { return load_shorts(p + 16 * at); }
    u32v byte(int at) const { return load_bytes(p + 16 * at); }
};

// Columns that share a scale.
static inline int group_of(int format) {
    switch (format) {
        case DL_Q2_K: case DL_Q3_K: case DL_Q6_K: case DL_IQ2_XS: case DL_IQ2_S: case DL_NVFP4: return 16;
        default: return 32;
    }
}

// Loops over a block's parts, whose values would go through memory otherwise.
#if defined(__AVX512F__)
#define UNROLL _Pragma("GCC unroll 16")
#else
#define UNROLL
#endif

namespace blocks {

constexpr uint32_t LOW = 0x0f0f0f0f;

// Where the values of a block go. With every sixteen rows of four columns, the memory of the next panel's is asked for:
// spread out like this, reading and computing overlap.
template <class Block>
struct Sink {
    uint8_t* q;
    float *scale, *min;
    const uint8_t* next;
    void put(int index, u32v words) const {
        store_words(q + 64 * index, words);
        prefetch_line(next + index * 64 * Block::bytes / Block::columns);
    }
    void scales(int group, f32v s, f32v m) const { store(scale + 16 * group, s), store(min + 16 * group, m); }
};

// Sixteen bytes of nibbles: the low ones are values 0–15, the high ones 16–31 (eight words of q).
template <class In, class Out, class Map>
static inline void nibbles32(const In& in, int from, Out& out, int at, Map map) {
    u32v w[4];
    in.four(from, w);
    UNROLL
    for (int j = 0; j < 4; j++) {
        out.put(at + j, map(w[j] & set1_word(LOW), j));
        out.put(at + 4 + j, map((w[j] >> 4) & set1_word(LOW), 4 + j));
    }
}
static inline u32v as_is(u32v w, int) { return w; }

struct Q4_0 {
    static constexpr int columns = 32, bytes = 18, groups = 1;
    template <class In, class Out>
    static void expand(const In& in, Out& out) {
        const f32v d = half_to_float(in.half(0));
        nibbles32(in, 2, out, 0, as_is);
        out.scales(0, d, d * set1(8.0f));
    }
};

struct Q4_1 {
    static constexpr int columns = 32, bytes = 20, groups = 1;
    template <class In, class Out>
    static void expand(const In& in, Out& out) {
        const u32v header = in.word(0);
        nibbles32(in, 4, out, 0, as_is);
        out.scales(0, half_to_float(header), zero() - half_to_float(header >> 16));
    }
};

// Bit i of the low nibble of each word to bit 4 of byte i.
static inline u32v fifth_bits(u32v w) {
    const u32v bits = (w & set1_word(1)) | ((w << 7) & set1_word(0x100)) | ((w << 14) & set1_word(0x10000)) |
                      ((w << 21) & set1_word(0x1000000));
    return bits << 4;
}

struct Q5_0 {
    static constexpr int columns = 32, bytes = 22, groups = 1;
    template <class In, class Out>
    static void expand(const In& in, Out& out) {
        const f32v d = half_to_float(in.half(0));
        const u32v high = in.word(2);
        nibbles32(in, 6, out, 0, [&](u32v w, int j) { return w | fifth_bits(high >> (4 * j)); });
        out.scales(0, d, d * set1(16.0f));
    }
};

struct Q5_1 {
    static constexpr int columns = 32, bytes = 24, groups = 1;
    template <class In, class Out>
    static void expand(const In& in, Out& out) {
        const u32v header = in.word(0), high = in.word(4);
        nibbles32(in, 8, out, 0, [&](u32v w, int j) { return w | fifth_bits(high >> (4 * j)); });
        out.scales(0, half_to_float(header), zero() - half_to_float(header >> 16));
    }
};

struct Q8_0 {
    static constexpr int columns = 32, bytes = 34, groups = 1;
    template <class In, class Out>
    static void expand(const In& in, Out& out) {
        u32v w[8];
        in.eight(2, w);
        UNROLL
        for (int j = 0; j < 8; j++) out.put(j, w[j] ^ set1_word(0x80808080));
        const f32v d = half_to_float(in.half(0));
        out.scales(0, d, d * set1(128.0f));
    }
};

struct Q2_K {
    static constexpr int columns = 256, bytes = 84, groups = 16;
    template <class In, class Out>
    static void expand(const In& in, Out& out) {
        u32v s[4], w[8];
        in.four(0, s);
        UNROLL
        for (int half = 0; half < 2; half++) {
            in.eight(16 + 32 * half, w);
            UNROLL
            for (int g = 0; g < 4; g++)
                UNROLL
                for (int j = 0; j < 8; j++) out.put(32 * half + 8 * g + j, (w[j] >> (2 * g)) & set1_word(0x03030303));
        }
        const u32v header = in.word(80);
        const f32v d = half_to_float(header), dmin = half_to_float(header >> 16);
        UNROLL
        for (int i = 0; i < 16; i++) {
            const u32v b = byte_of(s[i / 4], i % 4);
            out.scales(i, d * to_float(b & set1_word(15)), dmin * to_float(b >> 4));
        }
    }
};

struct Q3_K {
    static constexpr int columns = 256, bytes = 110, groups = 16;
    template <class In, class Out>
    static void expand(const In& in, Out& out) {
        u32v high[8], w[8], s[4];
        in.eight(0, high);
        UNROLL
        for (int half = 0; half < 2; half++) {
            in.eight(32 + 32 * half, w);
            UNROLL
            for (int g = 0; g < 4; g++)
                UNROLL
                for (int j = 0; j < 8; j++) {
                    const u32v third = ((high[j] >> (4 * half + g)) & set1_word(0x01010101)) << 2;
                    out.put(32 * half + 8 * g + j, ((w[j] >> (2 * g)) & set1_word(0x03030303)) | third);
                }
        }
        UNROLL
        for (int i = 0; i < 3; i++) s[i] = in.word(96 + 4 * i);
        const f32v d = half_to_float(in.half(108));
        UNROLL
        for (int i = 0; i < 16; i++) {
            u32v low = byte_of(s[i % 8 / 4], i % 4);
            low = i < 8 ? low & set1_word(15) : low >> 4;
            const u32v top = (byte_of(s[2], i % 4) >> (2 * (i / 4))) & set1_word(3);
            const f32v unit = d * (to_float(low | (top << 4)) - set1(32.0f));
            out.scales(i, unit, unit * set1(4.0f));
        }
    }
};

// The six-bit scales and mins of Q4_K and Q5_K, from the four words that open a block.
template <class In, class Out>
static inline void k_scales(const In& in, Out& out) {
    u32v w[4];
    in.four(0, w);
    const f32v d = half_to_float(w[0]), dmin = half_to_float(w[0] >> 16);
    // four at a time, as the bytes of a word
    const u32v six = set1_word(0x3f3f3f3f), two = set1_word(0x30303030), low = set1_word(LOW);
    const u32v scales[2] = {w[1] & six, (w[3] & low) | ((w[1] >> 2) & two)};
    const u32v mins[2] = {w[2] & six, ((w[3] >> 4) & low) | ((w[2] >> 2) & two)};
    UNROLL
    for (int i = 0; i < 8; i++) {
        out.scales(i, d * to_float(byte_of(scales[i / 4], i % 4)), dmin * to_float(byte_of(mins[i / 4], i % 4)));
    }
}

struct Q4_K {
    static constexpr int columns = 256, bytes = 144, groups = 8;
    template <class In, class Out>
    static void expand(const In& in, Out& out) {
        k_scales(in, out);
        UNROLL
        for (int i = 0; i < 4; i++) {
            u32v w[8];
            in.eight(16 + 32 * i, w);
            UNROLL
            for (int j = 0; j < 8; j++) {
                out.put(16 * i + j, w[j] & set1_word(LOW));
                out.put(16 * i + 8 + j, (w[j] >> 4) & set1_word(LOW));
            }
        }
    }
};

struct Q5_K {
    static constexpr int columns = 256, bytes = 176, groups = 8;
    template <class In, class Out>
    static void expand(const In& in, Out& out) {
        k_scales(in, out);
        u32v high[8];
        in.eight(16, high);
        const u32v bit = set1_word(0x01010101);
        UNROLL
        for (int i = 0; i < 4; i++) {
            u32v w[8];
            in.eight(48 + 32 * i, w);
            UNROLL
            for (int j = 0; j < 8; j++) {
                out.put(16 * i + j, (w[j] & set1_word(LOW)) | (((high[j] >> (2 * i)) & bit) << 4));
                out.put(16 * i + 8 + j, ((w[j] >> 4) & set1_word(LOW)) | (((high[j] >> (2 * i + 1)) & bit) << 4));
            }
        }
    }
};

struct Q6_K {
    static constexpr int columns = 256, bytes = 210, groups = 16;
    template <class In, class Out>
    static void expand(const In& in, Out& out) {
        const u32v low = set1_word(LOW), top = set1_word(0x30303030);
        UNROLL
        for (int half = 0; half < 2; half++) {
            u32v a[8], b[8], h[8];
            in.eight(64 * half, a);
            in.eight(64 * half + 32, b);
            in.eight(128 + 32 * half, h);
            UNROLL
            for (int j = 0; j < 8; j++) {
                out.put(32 * half + j, (a[j] & low) | ((h[j] << 4) & top));
                out.put(32 * half + 8 + j, (b[j] & low) | ((h[j] << 2) & top));
                out.put(32 * half + 16 + j, ((a[j] >> 4) & low) | (h[j] & top));
                out.put(32 * half + 24 + j, ((b[j] >> 4) & low) | ((h[j] >> 2) & top));
            }
        }
        u32v s[4];
        in.four(192, s);
        const f32v d = half_to_float(in.half(208));
        UNROLL
        for (int i = 0; i < 16; i++) {
            const f32v unit = d * to_float(sign_extend_byte(s[i / 4] >> (8 * (i % 4))));
            out.scales(i, unit, unit * set1(32.0f));
        }
    }
};

// The sixteen levels of IQ4_NL, 128 added.
alignas(16) static const uint8_t IQ4_LEVELS[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};

struct IQ4_NL {
    static constexpr int columns = 32, bytes = 18, groups = 1;
    template <class In, class Out>
    static void expand(const In& in, Out& out) {
        const f32v d = half_to_float(in.half(0));
        nibbles32(in, 2, out, 0, [](u32v w, int) { return lookup(w, IQ4_LEVELS); });
        out.scales(0, d, d * set1(128.0f));
    }
};

struct IQ4_XS {
    static constexpr int columns = 256, bytes = 136, groups = 8;
    template <class In, class Out>
    static void expand(const In& in, Out& out) {
        const u32v header = in.word(0), low = in.word(4), high = header >> 16;
        const f32v d = half_to_float(header);
        UNROLL
        for (int i = 0; i < 8; i++) {
            nibbles32(in, 8 + 16 * i, out, 8 * i, [](u32v w, int) { return lookup(w, IQ4_LEVELS); });
            const u32v six = ((low >> (4 * i)) & set1_word(15)) | (((high >> (2 * i)) & set1_word(3)) << 4);
            const f32v unit = d * (to_float(six) - set1(32.0f));
            out.scales(i, unit, unit * set1(128.0f));
        }
    }
};

// Twice the sixteen values of FP4 (E2M1), 12 added.
alignas(16) static const uint8_t FP4_LEVELS[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};

struct MXFP4 {
    static constexpr int columns = 32, bytes = 17, groups = 1;
    template <class In, class Out>
    static void expand(const In& in, Out& out) {
        nibbles32(in, 1, out, 0, [](u32v w, int) { return lookup(w, FP4_LEVELS); });
        uint32_t exponent[16];
        float unit[16];
        store_words(exponent, in.byte(0));
        for (int row = 0; row < 16; row++) unit[row] = std::ldexp(1.0f, int(exponent[row]) - 128);
        out.scales(0, load(unit), load(unit) * set1(12.0f));
    }
};

// The sub-blocks' unsigned E4M3 scales first, then 8 bytes for each 16 values: low nibbles, then high ones.
struct NVFP4 {
    static constexpr int columns = 64, bytes = 36, groups = 4;
    template <class In, class Out>
    static void expand(const In& in, Out& out) {
        const u32v scales = in.word(0);
        UNROLL
        for (int i = 0; i < 4; i++) {
            const f32v unit = half_to_float((byte_of(scales, i) & set1_word(0x7f)) << 7) * set1(128.0f);
            out.scales(i, unit, unit * set1(12.0f));
        }
        u32v w[8];
        in.eight(4, w);
        UNROLL
        for (int i = 0; i < 4; i++)
            UNROLL
            for (int j = 0; j < 2; j++) {
                out.put(4 * i + j, lookup(w[2 * i + j] & set1_word(LOW), FP4_LEVELS));
                out.put(4 * i + 2 + j, lookup((w[2 * i + j] >> 4) & set1_word(LOW), FP4_LEVELS));
            }
    }
};

// The IQ2 and IQ3 types index codebooks of magnitudes, so each row is decoded by itself. Values are kept with 64 added.
template <class Block>  // with decode(a row's block, values[256], scales[groups])
struct ByRow {
    template <class In>
    static void expand(const In& in, const Sink<Block>& out) {
        for (int row = 0; row < 16; row++) {
            prefetch(out.next + row * Block::bytes, Block::bytes);
            uint8_t values[256];
            float scales[16];
            Block::decode(in.p + row * in.stride, values, scales);
            for (int i = 0; i < 64; i++) memcpy(out.q + 64 * i + 4 * row, values + 4 * i, 4);
            for (int i = 0; i < Block::groups; i++) out.scale[16 * i + row] = scales[i], out.min[16 * i + row] = 64.0f * scales[i];
        }
    }
};
static inline uint32_t word_at(const uint8_t* p) {
    uint32_t word;
    memcpy(&word, p, 4);
    return word;
}
static inline uint32_t short_at(const uint8_t* p) { return uint32_t(p[0]) | uint32_t(p[1]) << 8; }
static inline float half_at(const uint8_t* p) { return first_lane(half_to_float(set1_word(short_at(p)))); }
static inline int nibble_at(const uint8_t* p, int i) { return p[i / 2] >> (4 * (i % 2)) & 15; }
// `n` magnitudes with the signs of the bits of `signs`
static inline void signed_values(uint8_t* out, const uint8_t* magnitudes, uint32_t signs, int n) {
    for (int i = 0; i < n; i++) out[i] = signs >> i & 1 ? 64 - magnitudes[i] : 64 + magnitudes[i];
}
// Seven sign bits; the eighth makes their number even.
static inline uint32_t even_signs(uint32_t seven) { return seven | uint32_t(__builtin_parity(seven)) << 7; }
static inline void iq2_scales(float d, const uint8_t* nibbles, float* scales) {
    for (int i = 0; i < 16; i++) scales[i] = d * (0.5f + float(nibble_at(nibbles, i))) * 0.25f;
}

struct IQ2_XXS : ByRow<IQ2_XXS> {
    static constexpr int columns = 256, bytes = 66, groups = 8;
    static void decode(const uint8_t* block, uint8_t* values, float* scales) {
        const float d = half_at(block);
        for (int i = 0; i < 8; i++) {
            const uint8_t* index = block + 2 + 8 * i;
            const uint32_t signs = word_at(index + 4);
            scales[i] = d * (0.5f + float(signs >> 28)) * 0.25f;
            for (int j = 0; j < 4; j++)
                signed_values(values + 32 * i + 8 * j, codebooks.iq2_xxs + 8 * index[j], even_signs(signs >> (7 * j) & 127), 8);
        }
    }
};

struct IQ2_XS : ByRow<IQ2_XS> {
    static constexpr int columns = 256, bytes = 74, groups = 16;
    static void decode(const uint8_t* block, uint8_t* values, float* scales) {
        for (int i = 0; i < 32; i++) {
            const uint32_t code = short_at(block + 2 + 2 * i);
            signed_values(values + 8 * i, codebooks.iq2_xs + 8 * (code & 511), even_signs(code >> 9), 8);
        }
        iq2_scales(half_at(block), block + 66, scales);
    }
};

struct IQ2_S : ByRow<IQ2_S> {
    static constexpr int columns = 256, bytes = 82, groups = 16;
    static void decode(const uint8_t* block, uint8_t* values, float* scales) {
        for (int i = 0; i < 32; i++) {
            const int code = block[2 + i] | (block[66 + i / 4] >> (2 * (i % 4)) & 3) << 8;
            signed_values(values + 8 * i, codebooks.iq2_s + 8 * code, block[34 + i], 8);
        }
        iq2_scales(half_at(block), block + 74, scales);
    }
};

struct IQ3_XXS : ByRow<IQ3_XXS> {
    static constexpr int columns = 256, bytes = 98, groups = 8;
    static void decode(const uint8_t* block, uint8_t* values, float* scales) {
        const float d = half_at(block);
        for (int i = 0; i < 8; i++) {
            const uint32_t signs = word_at(block + 66 + 4 * i);
            scales[i] = d * (0.5f + float(signs >> 28)) * 0.5f;
            for (int j = 0; j < 8; j++)
                signed_values(values + 32 * i + 4 * j, codebooks.iq3_xxs + 4 * block[2 + 8 * i + j],
                              even_signs(signs >> (7 * (j / 2)) & 127) >> (4 * (j % 2)), 4);
        }
    }
};

struct IQ3_S : ByRow<IQ3_S> {
    static constexpr int columns = 256, bytes = 110, groups = 8;
    static void decode(const uint8_t* block, uint8_t* values, float* scales) {
        const float d = half_at(block);
        for (int i = 0; i < 64; i++) {
            const int code = block[2 + i] | (block[66 + i / 8] >> (i % 8) & 1) << 8;
            signed_values(values + 4 * i, codebooks.iq3_s + 4 * code, uint32_t(nibble_at(block + 74, i)), 4);
        }
        for (int i = 0; i < 8; i++) scales[i] = d * float(1 + 2 * nibble_at(block + 106, i));
    }
};

}  // namespace blocks

// INT4: runs of `group` columns with an fp32 scale, a zero point and nibbles as in Q4_0.
struct Int4Run {
    static constexpr int columns = 32, bytes = 21;  // at most: a block's header is shared by its runs
};
template <class In>
static inline void expand_int4(In in, int64_t begin, int64_t end, int group, Int8Panel panel, const uint8_t* next) {
    const int64_t bytes = group / 2 + 5;
    in.skip(begin / group * bytes), next += 16 * (begin / group) * bytes;
    for (int64_t block = begin / group; block < end / group; block++, in.skip(bytes), next += 16 * bytes) {
        const f32v scale = as_float(in.word(0));
        const f32v min = scale * to_float(in.byte(4));
        for (int i = 0; i < group / 32; i++) {
            const blocks::Sink<Int4Run> out{panel.q, panel.scale, panel.min, next + 256 * i};
            blocks::nibbles32(in, 5 + 16 * i, out, 0, blocks::as_is);
            out.scales(0, scale, min);
            panel.q += 512, panel.scale += 16, panel.min += 16;
        }
    }
}

template <class Block, class In>
static inline void expand_blocks(In in, int64_t begin, int64_t end, Int8Panel panel, const uint8_t* next) {
    blocks::Sink<Block> out{panel.q, panel.scale, panel.min, next + 16 * (begin / Block::columns) * Block::bytes};
    in.skip(begin / Block::columns * Block::bytes);
    for (int64_t block = begin / Block::columns; block < end / Block::columns; block++) {
        Block::expand(in, out);
        in.skip(Block::bytes), out.next += 16 * Block::bytes;
        out.q += 16 * Block::columns, out.scale += 16 * Block::groups, out.min += 16 * Block::groups;
    }
}

// Columns begin … end - 1 of sixteen rows of a quantised matrix; false when the format is not known here.
template <class In>
static inline bool expand_int8(const dl_matrix& m, int64_t begin, int64_t end, const In& in, Int8Panel out, const uint8_t* next) {
    using namespace blocks;
    switch (m.format) {
        case DL_INT4: return expand_int4(in, begin, end, m.group, out, next), true;
#define DL_CASE(type) case DL_##type: return expand_blocks<type>(in, begin, end, out, next), true
        DL_CASE(Q4_0); DL_CASE(Q4_1); DL_CASE(Q5_0); DL_CASE(Q5_1); DL_CASE(Q8_0);
        DL_CASE(Q2_K); DL_CASE(Q3_K); DL_CASE(Q4_K); DL_CASE(Q5_K); DL_CASE(Q6_K);
        DL_CASE(IQ4_NL); DL_CASE(IQ4_XS); DL_CASE(MXFP4); DL_CASE(NVFP4);
        default: break;
    }
    if constexpr (In::BY_ROW) {
        switch (m.format) {
            DL_CASE(IQ2_XXS); DL_CASE(IQ2_XS); DL_CASE(IQ2_S); DL_CASE(IQ3_XXS); DL_CASE(IQ3_S);
            default: break;
        }
    }
#undef DL_CASE
    return false;
}

// bf16 form: pairs of neighbouring columns, [columns / 2][16 rows][2], from rows of bf16. `columns` is even.
static inline void expand_bf16(const uint8_t* p, int64_t stride, int64_t columns, uint32_t* out, const uint8_t* next) {
    int64_t pair = 0;
    for (; pair + 4 <= columns / 2; pair += 4) {
        prefetch(next + 64 * pair, 256);
        u32v w[4];
        transpose4(p + 4 * pair, stride, w);
        for (int j = 0; j < 4; j++) store_words(out + 16 * (pair + j), w[j]);
    }
    for (; pair < columns / 2; pair++)
        for (int row = 0; row < 16; row++) memcpy(out + 16 * pair + row, p + row * stride + 4 * pair, 4);
}

// FP8 E4M3: its bits moved into a half are 2^-8 of the value.
static inline f32v e4m3_to_float(u32v w) {
    const u32v half = ((w & set1_word(0x80)) << 8) | ((w & set1_word(0x7f)) << 7);
    return half_to_float(half) * set1(256.0f);
}
static inline u32v round_to_bf16(f32v a) {  // in the low 16 bits
    const u32v bits = as_words(a);
    return add_words(bits, add_words(set1_word(0x7fff), (bits >> 16) & set1_word(1))) >> 16;
}
// Scale of each row of a panel for the block of columns `block`.
static inline f32v fp8_scales(const dl_matrix& m, int part, int64_t row0, int64_t block) {
    const int64_t across = div_up(m.columns, m.group);
    float lanes[16];
    for (int row = 0; row < 16; row++) {
        lanes[row] = m.scales[part][least(row0 + row, m.rows - 1) / m.scale_rows * across + block];
    }
    return load(lanes);
}
#if defined(__AVX512F__)
// One row, rounded to bf16.
static inline void fp8_row_to_bf16(const dl_matrix& m, int part, int64_t row, const uint8_t* p, uint16_t* out) {
    const float* scales = m.scales[part] + least(row, m.rows - 1) / m.scale_rows * div_up(m.columns, m.group);
    for (int64_t column = 0; column < m.columns; column += 16) {
        const int64_t count = least(16, m.columns - column);
        const __m128i bytes = _mm_maskz_loadu_epi8(__mmask16((1 << count) - 1), p + column);
        float scale[16];
        for (int i = 0; i < 16; i++) scale[i] = scales[least(column + i, m.columns - 1) / m.group];
        uint16_t values[16];
        store_bf16(values, e4m3_to_float({_mm512_cvtepu8_epi32(bytes)}) * load(scale));
        memcpy(out + column, values, 2 * count);
    }
}
#endif
template <class Put>  // put(first column, four f32v)
static inline void expand_fp8(const dl_matrix& m, int part, int64_t row0, const uint8_t* p, int64_t stride, Put put) {
    f32v scale = zero();
    for (int64_t column = 0; column < m.columns; column += 4) {
        if (column % m.group == 0) scale = fp8_scales(m, part, row0, column / m.group);
        const u32v w = gather_words(p + column, stride);
        f32v v[4];
        for (int j = 0; j < 4; j++) v[j] = e4m3_to_float(byte_of(w, j)) * scale;
        put(column, v);
    }
}

}  // namespace dl
