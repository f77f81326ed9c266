// Products, form by form; see products.h. Here for all that multiply, since compiling them takes long.
#include "products.h"

#include "expand.h"
#include "tiles.h"

namespace dl {

Codebooks codebooks;

// ---- Inputs

static inline void fill_int8(const TileShape& shape, const float* x, uint8_t* tile, int token) {
    Int8Inputs* out = (Int8Inputs*)tile;
    for (int64_t column = 0; column < shape.columns; column += 32, out++) {
        const f32v a = load(x + column), b = load(x + column + 16);
        const float most = largest(max(abs(a), abs(b)));
        // A group without a finite largest number makes its token's outputs NaN, as floating point would.
        const bool finite = sum(abs(a) + abs(b)) < INFINITY;
        const float scale = finite ? most / 127.0f : NAN;
        const f32v inverse = set1(finite && most > 1e-30f ? 127.0f / most : 0.0f);
        const f32v low = finite ? round_even(a * inverse) : zero(), high = finite ? round_even(b * inverse) : zero();
        store_bytes(out->q[token], low), store_bytes(out->q[token] + 16, high);
        const float low_sum = sum(low), high_sum = sum(high);  // of whole numbers: exact
        out->scale[token] = scale;
        out->sum[token] = -scale * (low_sum + high_sum);
        out->half_sum[0][token] = int32_t(-32.0f * low_sum);
        out->half_sum[1][token] = int32_t(-32.0f * high_sum);
    }
}
static inline void fill_bf16(const TileShape& shape, const float* x, uint8_t* tile, int token) {
#if defined(__AMX_BF16__)
    uint32_t* out = (uint32_t*)tile + token;
    for (int64_t i = 0; i < shape.bf16_columns(); i += 16, out += 8 * TILE) {
        uint32_t pairs[8];
        store_bf16((uint16_t*)pairs, i < shape.columns ? load_up_to(x + i, shape.columns - i) : zero());
        for (int j = 0; j < 8; j++) out[TILE * j] = pairs[j];
    }
#else
    uint16_t* out = (uint16_t*)tile + token * shape.bf16_pitch();
    for (int64_t i = 0; i < shape.bf16_columns(); i += 16)
        store_bf16(out + i, i < shape.columns ? load_up_to(x + i, shape.columns - i) : zero());
#endif
}
static inline void fill_f32(const TileShape& shape, const float* x, uint8_t* tile, int token) {
    float* out = (float*)tile + token * shape.f32_pitch();
    memcpy(out, x, 4 * shape.columns);
    for (int64_t i = shape.columns; i < shape.f32_columns(); i++) out[i] = 0.0f;
}
void fill(int form, const TileShape& shape, const float* x, uint8_t* tile, int token) {
    if (form == DL_FORM_INT8) fill_int8(shape, x, tile, token);
    else if (form == DL_FORM_BF16) fill_bf16(shape, x, tile, token);
    else fill_f32(shape, x, tile, token);
}
void move(int form, const TileShape& shape, const uint8_t* from, int token, uint8_t* to, int place) {
    if (form == DL_FORM_BF16) {
#if defined(__AMX_BF16__)
        const uint32_t* source = (const uint32_t*)from + token;
        uint32_t* target = (uint32_t*)to + place;
        for (int64_t i = 0; i < TILE / 2 * shape.bf16_columns(); i += TILE) target[i] = source[i];
#else
        const int64_t row = 2 * shape.bf16_pitch();
        memcpy(to + place * row, from + token * row, row);
#endif
    } else if (form == DL_FORM_F32) {
        const int64_t row = 4 * shape.f32_pitch();
        memcpy(to + place * row, from + token * row, row);
    } else {
        const Int8Inputs* source = (const Int8Inputs*)from;
        Int8Inputs* target = (Int8Inputs*)to;
        for (int64_t i = 0; i < shape.columns / 32; i++, source++, target++) {
            memcpy(target->q[place], source->q[token], 32);
            target->scale[place] = source->scale[token], target->sum[place] = source->sum[token];
            for (int half = 0; half < 2; half++) target->half_sum[half][place] = source->half_sum[half][token];
        }
    }
}

// ---- INT8

#if defined(__AVX512VNNI__)
static inline u32v dot4(u32v sum, u32v weights, const int8_t* inputs) {
    int four;
    memcpy(&four, inputs, 4);
    return {_mm512_dpbusd_epi32(sum.v, weights.v, _mm512_set1_epi32(four))};
}
#elif defined(__AVX2__)
static inline __m256i dot4_8(__m256i sum, __m256i w, __m256i even, __m256i odd) {
    const __m256i low = _mm256_set1_epi32(0x00ff00ff);
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_and_si256(w, low), even));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_and_si256(_mm256_srli_epi32(w, 8), low), odd));
}
static inline u32v dot4(u32v sum, u32v w, const int8_t* inputs) {
    const __m256i even = _mm256_set1_epi32(int((uint32_t(inputs[0]) & 0xffff) | uint32_t(inputs[2]) << 16));
    const __m256i odd = _mm256_set1_epi32(int((uint32_t(inputs[1]) & 0xffff) | uint32_t(inputs[3]) << 16));
    return {dot4_8(sum.a, w.a, even, odd), dot4_8(sum.b, w.b, even, odd)};
}
#elif defined(__AVX512F__)
#error "AVX-512 without VNNI is built as AVX2"
#else
static inline u32v dot4(u32v sum, u32v w, const int8_t* inputs) {
    for (int b = 0; b < 4; b++) sum.v += (w.v >> (8 * b) & 0xff) * uint32_t(int(inputs[b]));
    return sum;
}
#endif

// How the values of a panel stand to its weights: a scale and a minimum for 32 columns or for 16, or a scale for 16 and
// q - 32, as only Q6_K has it.
enum Scaling { BY_32, BY_16, CENTRED_BY_16 };
static inline Scaling scaling_of(int format) {
    return format == DL_Q6_K ? CENTRED_BY_16 : group_of(format) == 16 ? BY_16 : BY_32;
}

static inline f32v add_32(f32v total, u32v dot, f32v scale, f32v min, float unit, float sum) {
    total = fma(to_float(dot), scale * set1(unit), total);
    return fma(min, set1(sum), total);
}
static inline u32v half_sum(const Int8Inputs& x, int half, int token) { return set1_word(uint32_t(x.half_sum[half][token])); }
// What a sum of products begins with.
template <Scaling SCALING>
static inline u32v first_sum(const Int8Inputs& x, int half, int token) {
    return SCALING == CENTRED_BY_16 ? half_sum(x, half, token) : set1_word(0);
}
// The sums over 32 columns' halves, with their scales and minima.
template <Scaling SCALING>
static inline f32v add_halves(f32v total, const u32v* dot, const f32v* scale, const f32v* min, const Int8Inputs& x, int token) {
    f32v weighted = fma(to_float(dot[1]), scale[1], to_float(dot[0]) * scale[0]);
    if (SCALING == BY_16) {
        const f32v part = set1(1.0f / 32.0f);
        for (int half = 0; half < 2; half++) weighted = fma(to_float(half_sum(x, half, token)) * part, min[half], weighted);
    }
    return fma(weighted, set1(x.scale[token]), total);
}

// Columns that one step of a product covers: `begin` and `end` in the matrix, the panel starting at `begin`.
struct Columns {
    int64_t begin, end;
    int64_t count() const { return end - begin; }
};

template <int TOKENS, Scaling SCALING>
static inline void int8_tokens(const Int8Panel& panel, Columns columns, const uint8_t* tile, int first, float* sum) {
    f32v total[TOKENS];
    for (int t = 0; t < TOKENS; t++) total[t] = load(sum + 16 * (first + t));
    const Int8Inputs* x = (const Int8Inputs*)tile + columns.begin / 32;
    const uint8_t* q = panel.q;
    const float *scale = panel.scale, *min = panel.min;
    for (int64_t column = columns.begin; column < columns.end; column += 32, x++, q += 512) {
        u32v dot[2][TOKENS];  // of either half: one sum each would wait for itself
        for (int half = 0; half < 2; half++)
            for (int t = 0; t < TOKENS; t++) dot[half][t] = first_sum<SCALING>(*x, half, first + t);
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            const u32v w = load_words(q + 64 * i);
#pragma GCC unroll 8
            for (int t = 0; t < TOKENS; t++) dot[i / 4][t] = dot4(dot[i / 4][t], w, x->q[first + t] + 4 * i);
        }
        constexpr int GROUPS = SCALING == BY_32 ? 1 : 2;
        const f32v scales[2] = {load(scale), load(scale + 16 * (GROUPS - 1))}, mins[2] = {load(min), load(min + 16 * (GROUPS - 1))};
#pragma GCC unroll 8
        for (int t = 0; t < TOKENS; t++) {
            const u32v halves[2] = {dot[0][t], dot[1][t]};
            if (SCALING == BY_32)
                total[t] = add_32(total[t], add_words(halves[0], halves[1]), scales[0], mins[0], x->scale[first + t], x->sum[first + t]);
            else
                total[t] = add_halves<SCALING>(total[t], halves, scales, mins, *x, first + t);
        }
        scale += 16 * GROUPS, min += 16 * GROUPS;
    }
    for (int t = 0; t < TOKENS; t++) store(sum + 16 * (first + t), total[t]);
}

#if defined(__AVX512F__)
// Where the values of a packed block go when few tokens meet it: straight into their products, as int8_tokens finds them.
template <class Block, int TOKENS>
struct Products {
    static constexpr int GROUP = Block::columns / Block::groups;
    const Int8Inputs* x;
    const uint8_t* next;
    u32v dot[TOKENS][Block::groups];
    f32v scale[Block::groups], min[Block::groups];

    void put(int index, u32v words) {
        const int column = 4 * index;
#pragma GCC unroll 4
        for (int t = 0; t < TOKENS; t++) {
            u32v& sum = dot[t][column / GROUP];
            sum = dot4(sum, words, x[column / 32].q[t] + column % 32);
        }
        prefetch_line(next + index * 64 * Block::bytes / Block::columns);
    }
    void scales(int group, f32v s, f32v m) { scale[group] = s, min[group] = m; }
};

template <class Block, Scaling SCALING, int TOKENS>
static inline void direct_tokens(PackedRows in, Columns columns, const uint8_t* tile, float* sum, const uint8_t* next) {
    constexpr int GROUPS = SCALING == BY_32 ? 1 : 2;  // in 32 columns
    f32v total[TOKENS];
    for (int t = 0; t < TOKENS; t++) total[t] = load(sum + 16 * t);
    const Int8Inputs* x = (const Int8Inputs*)tile + columns.begin / 32;
    in.skip(columns.begin / Block::columns * Block::bytes), next += 16 * (columns.begin / Block::columns) * Block::bytes;
    for (int64_t block = 0; block < columns.count() / Block::columns; block++, x += Block::columns / 32) {
        Products<Block, TOKENS> products{x, next, {}, {}, {}};
        UNROLL
        for (int g = 0; g < Block::groups; g++)
#pragma GCC unroll 4
            for (int t = 0; t < TOKENS; t++) products.dot[t][g] = first_sum<SCALING>(x[g / GROUPS], g % 2, t);
        Block::expand(in, products);
        UNROLL
        for (int i = 0; i < Block::columns / 32; i++)
#pragma GCC unroll 4
            for (int t = 0; t < TOKENS; t++) {
                const u32v* dot = products.dot[t] + GROUPS * i;
                const f32v *scale = products.scale + GROUPS * i, *min = products.min + GROUPS * i;
                if (SCALING == BY_32) total[t] = add_32(total[t], *dot, *scale, *min, x[i].scale[t], x[i].sum[t]);
                else total[t] = add_halves<SCALING>(total[t], dot, scale, min, x[i], t);
            }
        in.skip(Block::bytes), next += 16 * Block::bytes;
    }
    for (int t = 0; t < TOKENS; t++) store(sum + 16 * t, total[t]);
}

template <class Block, Scaling SCALING = BY_32>
static inline bool direct_products(const uint8_t* p, Columns columns, const uint8_t* tile, int tokens, float* sum, const uint8_t* next) {
    switch (tokens) {
        case 1: return direct_tokens<Block, SCALING, 1>({p}, columns, tile, sum, next), true;
        case 2: return direct_tokens<Block, SCALING, 2>({p}, columns, tile, sum, next), true;
        case 3: return direct_tokens<Block, SCALING, 3>({p}, columns, tile, sum, next), true;
        case 4: return direct_tokens<Block, SCALING, 4>({p}, columns, tile, sum, next), true;
        default: return false;
    }
}
#endif

#if defined(__AMX_BF16__)
// Sixteen tokens at once. The tile of sums has to be emptied after every group, to meet its scales: the vector registers
// do that for one group while the tiles work at the next. (For groups of 16 columns this gains nothing.)
static inline void int8_tile(const Int8Panel& panel, Columns columns, const uint8_t* tile, float* sum) {
    alignas(64) int32_t dots[2][TILE * TILE];
    f32v total[TILE];
    for (int t = 0; t < TILE; t++) total[t] = load(sum + 16 * t);
    const Int8Inputs* x = (const Int8Inputs*)tile + columns.begin / 32;
    auto add = [&](int64_t group) {
        const f32v scale = load(panel.scale + 16 * group), min = load(panel.min + 16 * group);
        const int32_t* dot = dots[group % 2];
#pragma GCC unroll 16
        for (int t = 0; t < TILE; t++)
            total[t] = add_32(total[t], load_words(dot + TILE * t), scale, min, x[group].scale[t], x[group].sum[t]);
    };
    const int64_t groups = columns.count() / 32;
    COMPILER_BARRIER;
    for (int64_t group = 0; group < groups; group++) {
        _tile_zero(0);
        _tile_loadd(1, x[group].q, 32);
        _tile_loadd(2, panel.q + 512 * group, 64);
        _tile_dpbsud(0, 1, 2);
        _tile_stored(0, dots[group % 2], 64);
        COMPILER_BARRIER;
        if (group) add(group - 1);
    }
    add(groups - 1);
    for (int t = 0; t < TILE; t++) store(sum + 16 * t, total[t]);
}
#endif

template <Scaling SCALING>
static inline void int8_products(const Int8Panel& panel, Columns columns, const uint8_t* tile, int tokens, float* sum) {
    int first = 0;
#if defined(__AMX_BF16__)
    if (SCALING == BY_32 && tokens > 8) return int8_tile(panel, columns, tile, sum);  // takes as long for fewer than sixteen
#endif
#if defined(__AVX512F__)
    for (; tokens - first >= 8; first += 8) int8_tokens<8, SCALING>(panel, columns, tile, first, sum);
    for (; tokens - first >= 4; first += 4) int8_tokens<4, SCALING>(panel, columns, tile, first, sum);
#endif
    for (; tokens - first >= 2; first += 2) int8_tokens<2, SCALING>(panel, columns, tile, first, sum);
    if (tokens > first) int8_tokens<1, SCALING>(panel, columns, tile, first, sum);
}

// ---- bf16: one sum over even columns and one over odd ones, but for AMX, whose tiles add pairs themselves

#if defined(__AMX_BF16__)
constexpr int BF16_SUMS = 1;
constexpr int64_t STEP = 32;  // columns

static inline void transpose16(float* square) {
    u32v rows[16];
    for (int i = 0; i < 16; i += 4) transpose4((const uint8_t*)(square + i), 64, rows + i);
    for (int i = 0; i < 16; i++) store_words(square + 16 * i, rows[i]);
}

// Tile registers: 0–3 sums, 6 inputs, 7 weights.
// The weights are taken as they lie in a file: sixteen rows, `stride` bytes apart. Sums [tiles][16 rows][16 tokens].
static inline void bf16_products(const uint8_t* rows, int64_t stride, int64_t columns, const uint8_t* tiles, int64_t tile_bytes,
                                 int num_tiles, float* sum, const uint8_t* next) {
    constexpr int64_t input_bytes = 2 * TILE * STEP;
    for (int tile = 0; tile < num_tiles; tile += 4, tiles += 4 * tile_bytes, sum += 4 * 256) {
        const int n = num_tiles - tile;
        COMPILER_BARRIER;
        _tile_loadd(0, sum, 64);
        if (n > 1) _tile_loadd(1, sum + 256, 64);
        if (n > 2) _tile_loadd(2, sum + 512, 64);
        if (n > 3) _tile_loadd(3, sum + 768, 64);
        const uint8_t* x = tiles;
        for (int64_t step = 0; step < columns / STEP; step++, x += input_bytes) {
            if (tile == 0) prefetch(next + step * input_bytes, input_bytes);
            _tile_loadd(7, rows + step * 2 * STEP, stride);
#define DL_PRODUCT(c)                           \
    if (n > c) {                                \
        _tile_loadd(6, x + c * tile_bytes, 64); \
        _tile_dpbf16ps(c, 7, 6);                \
    }
            DL_PRODUCT(0) DL_PRODUCT(1) DL_PRODUCT(2) DL_PRODUCT(3)
#undef DL_PRODUCT
        }
        _tile_stored(0, sum, 64);
        if (n > 1) _tile_stored(1, sum + 256, 64);
        if (n > 2) _tile_stored(2, sum + 512, 64);
        if (n > 3) _tile_stored(3, sum + 768, 64);
        COMPILER_BARRIER;
    }
}
#else
constexpr int BF16_SUMS = 2;
struct PairSum {
    f32v a, b;
#if defined(__AVX512BF16__)
    void add(u32v even_pair, u32v odd_pair, const uint32_t* x) {
        a.v = _mm512_dpbf16_ps(a.v, (__m512bh)even_pair.v, (__m512bh)_mm512_set1_epi32(int(x[0])));
        b.v = _mm512_dpbf16_ps(b.v, (__m512bh)odd_pair.v, (__m512bh)_mm512_set1_epi32(int(x[1])));
    }
#else
    void add_pair(u32v w, uint32_t x) {
        a = fma(as_float(w << 16), set1(bf16_to_f32(uint16_t(x))), a);
        b = fma(as_float(w & set1_word(0xffff0000)), set1(bf16_to_f32(uint16_t(x >> 16))), b);
    }
    void add(u32v even_pair, u32v odd_pair, const uint32_t* x) { add_pair(even_pair, x[0]), add_pair(odd_pair, x[1]); }
#endif
};
template <int TOKENS>
static inline void bf16_tokens(const TileShape& shape, const uint32_t* panel, Columns columns, const uint8_t* tile, int first, float* sum) {
    PairSum total[TOKENS];
    for (int t = 0; t < TOKENS; t++) total[t] = {load(sum + 16 * (first + t)), load(sum + 256 + 16 * (first + t))};
    const int64_t pitch = shape.bf16_pitch() / 2;
    const uint32_t* x = (const uint32_t*)tile + first * pitch + columns.begin / 2;
    for (int64_t pair = 0; pair < columns.count() / 2; pair += 2) {
        const u32v even = load_words(panel + 16 * pair), odd = load_words(panel + 16 * pair + 16);
#pragma GCC unroll 8
        for (int t = 0; t < TOKENS; t++) total[t].add(even, odd, x + t * pitch + pair);
    }
    for (int t = 0; t < TOKENS; t++) store(sum + 16 * (first + t), total[t].a), store(sum + 256 + 16 * (first + t), total[t].b);
}
static inline void bf16_products(const TileShape& shape, const uint32_t* panel, Columns columns, const uint8_t* tiles, int64_t tile_bytes,
                                 int num_tiles, int tokens, float* sum) {
    for (int tile = 0; tile < num_tiles; tile++, tiles += tile_bytes, sum += 512) {
        const int here = int(least(TILE, tokens - TILE * tile));
        int first = 0;
        for (; here - first >= 8; first += 8) bf16_tokens<8>(shape, panel, columns, tiles, first, sum);
        for (; here - first >= 4; first += 4) bf16_tokens<4>(shape, panel, columns, tiles, first, sum);
        for (; here > first; first++) bf16_tokens<1>(shape, panel, columns, tiles, first, sum);
    }
}
#endif

// ---- F32: four sums, of every fourth column

constexpr int F32_SUMS = 4;
template <int TOKENS>
static inline void f32_tokens(const TileShape& shape, const float* panel, Columns columns, const uint8_t* tile, int first, float* sum) {
    f32v total[TOKENS][4];
    for (int t = 0; t < TOKENS; t++)
        for (int i = 0; i < 4; i++) total[t][i] = load(sum + 256 * i + 16 * (first + t));
    const float* x = (const float*)tile + first * shape.f32_pitch() + columns.begin;
    for (int64_t column = 0; column < columns.count(); column += 4)
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            const f32v w = load(panel + 16 * (column + i));
#pragma GCC unroll 4
            for (int t = 0; t < TOKENS; t++) total[t][i] = fma(w, set1(x[t * shape.f32_pitch() + column + i]), total[t][i]);
        }
    for (int t = 0; t < TOKENS; t++)
        for (int i = 0; i < 4; i++) store(sum + 256 * i + 16 * (first + t), total[t][i]);
}
static inline void f32_products(const TileShape& shape, const float* panel, Columns columns, const uint8_t* tile, int tokens, float* sum) {
    int first = 0;
    for (; tokens - first >= 4; first += 4) f32_tokens<4>(shape, panel, columns, tile, first, sum);
    for (; tokens > first; first++) f32_tokens<1>(shape, panel, columns, tile, first, sum);
}

// ---- A panel of any matrix

namespace {

constexpr int64_t STRETCH = 256;  // columns of a panel that are expanded at a time: they stay in the first-level cache

// A panel and what is made of it.
class Work {
public:
    Work(const dl_matrix& matrix, uint8_t* scratch) : m(matrix), shape{matrix.columns}, words((uint32_t*)scratch) {
        int8 = {scratch, (float*)(scratch + 16 * m.columns), nullptr};
        int8.min = int8.scale + m.columns;  // a scale serves 16 columns or more
        spare = scratch + 96 * round_up(m.columns, 32);
    }

    bool multiply(int part, int64_t row0, const uint8_t* next, const uint8_t* tiles, int64_t tokens, float* sum, const Take& take) {
        const uint8_t* p = m.parts[part] + row0 * m.row_bytes;
        if (row0 + 16 > m.rows) {
            const int64_t have = (m.rows - row0) * m.row_bytes;
            memcpy(spare, p, have);
            memset(spare + have, 0, 16 * m.row_bytes - have);
            p = spare;
        }
        for (int64_t first = 0; first < tokens; first += AT_ONCE, tiles += AT_ONCE / TILE * shape.bytes(m.form), next = p) {
            const int64_t here = least(AT_ONCE, tokens - first), all = padded_columns(), step = stretch();
            memset(sum, 0, round_up(here, TILE) * 64 * sums());
            const bool done = multiply_directly({0, all}, p, next, tiles, int(here), sum);
            for (int64_t column = done ? all : 0; column < all; column += step) {
                const Columns columns{column, least(all, column + step)};
                if (!expand(columns, part, row0, p, next)) return false;
                add_products(columns, tiles, int(here), sum, next);
            }
            add_sums(int(here), sum);
            take(first, here, sum);
        }
        return true;
    }

    bool expand_all() { return expand({0, padded_columns()}, 0, 0, m.parts[0], m.parts[0]); }

private:
    int64_t padded_columns() const {
        return m.form == DL_FORM_INT8 ? m.columns : m.form == DL_FORM_BF16 ? shape.bf16_columns() : shape.f32_columns();
    }
    int64_t stretch() const {
#if defined(__AMX_BF16__)
        if (m.form == DL_FORM_BF16) return padded_columns();  // nothing is expanded
#endif
        if (m.format == DL_FP8_E4M3 || (m.format == DL_INT4 && STRETCH % m.group)) return padded_columns();
        return STRETCH;
    }
    int sums() const { return m.form == DL_FORM_INT8 ? 1 : m.form == DL_FORM_BF16 ? BF16_SUMS : F32_SUMS; }

    // Without a panel between, where that is faster; false where it is not.
    bool multiply_directly([[maybe_unused]] Columns columns, [[maybe_unused]] const uint8_t* p, [[maybe_unused]] const uint8_t* next,
                           [[maybe_unused]] const uint8_t* tiles, [[maybe_unused]] int tokens, [[maybe_unused]] float* sum) const {
#if defined(__AVX512F__)
        if (m.form != DL_FORM_INT8 || !m.packed) return false;
        if (m.format == DL_Q4_K) return direct_products<blocks::Q4_K>(p, columns, tiles, tokens, sum, next);
        if (m.format == DL_Q5_K) return direct_products<blocks::Q5_K>(p, columns, tiles, tokens, sum, next);
        if (m.format == DL_Q6_K) return direct_products<blocks::Q6_K, CENTRED_BY_16>(p, columns, tiles, tokens, sum, next);
        if (m.format == DL_Q8_0) return direct_products<blocks::Q8_0>(p, columns, tiles, tokens, sum, next);
#endif
        return false;
    }

    void add_products(Columns columns, const uint8_t* tiles, int tokens, float* sum, [[maybe_unused]] const uint8_t* next) const {
        const int64_t tile_bytes = shape.bytes(m.form);
        const int num_tiles = int(div_up(tokens, TILE));
        const Scaling scaling = scaling_of(m.format);
#if defined(__AMX_BF16__)
        if (m.form == DL_FORM_BF16) TileRegisters::describe(SQUARE_TILES);
        else if (tokens > 8) TileRegisters::describe(INT8_TILES);
#endif
        if (m.form == DL_FORM_BF16)
#if defined(__AMX_BF16__)
            return bf16_products(rows, row_stride, columns.end, tiles, tile_bytes, num_tiles, sum, next);
#else
            return bf16_products(shape, words, columns, tiles, tile_bytes, num_tiles, tokens, sum);
#endif
        for (int tile = 0; tile < num_tiles; tile++, tiles += tile_bytes, sum += 256 * sums()) {
            const int here = int(least(TILE, tokens - TILE * tile));
            if (m.form == DL_FORM_F32) f32_products(shape, (const float*)words, columns, tiles, here, sum);
            else if (scaling == BY_32) int8_products<BY_32>(int8, columns, tiles, here, sum);
            else if (scaling == BY_16) int8_products<BY_16>(int8, columns, tiles, here, sum);
            else int8_products<CENTRED_BY_16>(int8, columns, tiles, here, sum);
        }
    }

    // Add a token's partial sums, and bring the tokens together.
    void add_sums(int tokens, float* sum) const {
        const int n = sums();
#if defined(__AMX_BF16__)
        if (m.form == DL_FORM_BF16)
            for (int t = 0; t < tokens; t += TILE) transpose16(sum + 16 * t);
#endif
        if (n == 1) return;
        for (int t = 0; t < tokens; t++) {
            const float* from = sum + t / 16 * 256 * n + t % 16 * 16;
            f32v total = load(from) + load(from + 256);
            if (n == 4) total = total + (load(from + 512) + load(from + 768));
            store(sum + 16 * t, total);
        }
    }

    // Expand columns of the rows at p; the panel in the scratch memory starts with the first of them.
    bool expand(Columns columns, int part, int64_t row0, const uint8_t* p, const uint8_t* next) {
        if (m.form == DL_FORM_INT8) return to_int8(columns, p, int8, next);
        if (m.form == DL_FORM_BF16) return expand_to_bf16(columns, part, row0, p, next);
        return expand_to_f32(columns, part, row0, p, next);
    }

    bool to_int8(Columns columns, const uint8_t* p, Int8Panel to, const uint8_t* next) const {
        if (m.packed) return expand_int8(m, columns.begin, columns.end, PackedRows{p}, to, next);
        return expand_int8(m, columns.begin, columns.end, FileRows{p, m.row_bytes}, to, next);
    }

#if defined(__AMX_BF16__)
    // The file's own rows where they are bf16 and whole steps of columns, or rows with zeros after the last column.
    bool expand_to_bf16(Columns columns, int part, int64_t row0, const uint8_t* p, const uint8_t*) {
        if (m.format == DL_BF16 && m.columns % STEP == 0) return rows = p, row_stride = m.row_bytes, true;
        rows = (const uint8_t*)words, row_stride = 2 * columns.end;
        for (int row = 0; row < 16; row++, p += m.row_bytes) {
            uint16_t* out = (uint16_t*)words + row * columns.end;
            memset(out + m.columns, 0, 2 * (columns.end - m.columns));
            if (m.format == DL_BF16) memcpy(out, p, 2 * m.columns);
            else if (m.format == DL_FP8_E4M3) fp8_row_to_bf16(m, part, row0 + row, p, out);
            else return false;
        }
        return true;
    }
#else
    bool expand_to_bf16(Columns columns, int part, int64_t row0, const uint8_t* p, const uint8_t* next) {
        const int64_t end = least(columns.end, m.columns), count = end - columns.begin;
        if (m.format == DL_BF16) {
            p += 2 * columns.begin;
            expand_bf16(p, m.row_bytes, count / 2 * 2, words, next + 32 * columns.begin);
            if (count % 2)
                for (int row = 0; row < 16; row++) {
                    uint16_t last;
                    memcpy(&last, p + row * m.row_bytes + 2 * (count - 1), 2);
                    words[16 * (count / 2) + row] = last;
                }
        } else if (m.format == DL_FP8_E4M3 && m.columns % 4 == 0) {
            prefetch(next, 16 * m.row_bytes);
            expand_fp8(m, part, row0, p, m.row_bytes, [&](int64_t column, const f32v* v) {
                for (int j = 0; j < 2; j++)
                    store_words(words + 16 * (column / 2 + j), round_to_bf16(v[2 * j]) | (round_to_bf16(v[2 * j + 1]) << 16));
            });
        } else {
            return false;
        }
        for (int64_t pair = (count + 1) / 2; pair < columns.count() / 2; pair++) store_words(words + 16 * pair, set1_word(0));
        return true;
    }
#endif

    bool expand_to_f32(Columns columns, int part, int64_t row0, const uint8_t* p, const uint8_t* next) {
        float* out = (float*)words;
        const int64_t end = least(columns.end, m.columns), count = end - columns.begin;
        auto value_of = [&](int64_t column, int size) {  // of each row, in the low bits
            uint32_t lanes[16] = {};
            for (int row = 0; row < 16; row++) memcpy(lanes + row, p + row * m.row_bytes + column * size, size);
            return load_words(lanes);
        };
        int64_t i = 0;
        switch (m.format) {
            case DL_F32:
                p += 4 * columns.begin;
                for (; i + 4 <= count; i += 4) {
                    prefetch(next + 64 * (columns.begin + i), 256);
                    u32v w[4];
                    transpose4(p + 4 * i, m.row_bytes, w);
                    for (int j = 0; j < 4; j++) store_words(words + 16 * (i + j), w[j]);
                }
                for (; i < count; i++) store_words(words + 16 * i, value_of(i, 4));
                break;
            case DL_BF16:
            case DL_F16: {
                const bool half = m.format == DL_F16;
                p += 2 * columns.begin;
                for (; i + 8 <= count; i += 8) {
                    prefetch(next + 32 * (columns.begin + i), 256);
                    u32v w[4];
                    transpose4(p + 2 * i, m.row_bytes, w);
                    for (int j = 0; j < 4; j++) {
                        store(out + 16 * (i + 2 * j), half ? half_to_float(w[j]) : as_float(w[j] << 16));
                        store(out + 16 * (i + 2 * j + 1), half ? half_to_float(w[j] >> 16) : as_float(w[j] & set1_word(0xffff0000)));
                    }
                }
                for (; i < count; i++) {
                    const u32v w = value_of(i, 2);
                    store(out + 16 * i, half ? half_to_float(w) : as_float(w << 16));
                }
                break;
            }
            case DL_FP8_E4M3:
                if (m.columns % 4) return false;
                prefetch(next, 16 * m.row_bytes);
                expand_fp8(m, part, row0, p, m.row_bytes, [&](int64_t at, const f32v* v) {
                    for (int j = 0; j < 4; j++) store(out + 16 * (at + j), v[j]);
                });
                break;
            default:
                if (!quantised_to_f32(columns, p, next, out)) return false;
        }
        for (i = count; i < columns.count(); i++) store(out + 16 * i, zero());
        return true;
    }

    // The 8-bit form first, at the end of the scratch memory, then its values.
    bool quantised_to_f32(Columns columns, const uint8_t* p, const uint8_t* next, float* out) {
        Int8Panel at;
        at.q = (uint8_t*)(out + 16 * round_up(m.columns, 32));
        at.scale = (float*)(at.q + 16 * columns.count()), at.min = at.scale + columns.count();
        if (!to_int8(columns, p, at, next)) return false;
        const int group = group_of(m.format);
        for (int64_t i = 0; i < columns.count(); i++) {
            const u32v q = byte_of(load_words(at.q + 16 * (i & ~3)), int(i & 3));
            const f32v scale = load(at.scale + 16 * (i / group)), min = load(at.min + 16 * (i / group));
            store(out + 16 * i, to_float(q) * scale - min);
        }
        return true;
    }

    const dl_matrix& m;
    TileShape shape;
    uint32_t* words;
#if defined(__AMX_BF16__)
    const uint8_t* rows = nullptr;  // what the bf16 products read
    int64_t row_stride = 0;
#endif
    Int8Panel int8;
    uint8_t* spare;
};

}  // namespace

bool Panel::multiply(int part, int64_t row0, const uint8_t* next, const uint8_t* tiles, int64_t tokens, float* sum, const Take& take) const {
    return Work(m, scratch).multiply(part, row0, next, tiles, tokens, sum, take);
}

bool Panel::expand_all() const { return Work(m, scratch).expand_all(); }

}  // namespace dl

extern "C" int dl_set_codebook(int format, const uint8_t* values) {
    switch (format) {
        case DL_IQ2_XXS: dl::codebooks.iq2_xxs = values; break;
        case DL_IQ2_XS: dl::codebooks.iq2_xs = values; break;
        case DL_IQ2_S: dl::codebooks.iq2_s = values; break;
        case DL_IQ3_XXS: dl::codebooks.iq3_xxs = values; break;
        case DL_IQ3_S: dl::codebooks.iq3_s = values; break;
        default: return DL_UNSUPPORTED;
    }
    return DL_OK;
}
