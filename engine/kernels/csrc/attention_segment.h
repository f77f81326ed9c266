// Sixteen query rows, or two times sixteen, against the keys and values of one segment of a context: scores before the
// softmax and weighted sums after it, in fp32 or in bf16.
//
// Scores lie with keys along rows and queries along lanes, so that a softmax is arithmetic between whole rows. Sums run
// over dimensions and over keys in one order, whatever the number of queries. The two arithmetics have the same
// interface; `Segment<T>` is the one for a cache of T.
#pragma once
#include "common.h"
#include "tiles.h"

namespace dl {
namespace {

constexpr int64_t SEGMENT = 512;  // keys
constexpr int64_t BLOCK = 32;     // keys: scores and weights come in whole blocks
constexpr int64_t LANES = 16;     // queries of a tile

// The keys and values of one sequence that one KV head sees.
template <class T>
struct Cache {
    const T *keys, *values;
    const int64_t* block_ids;
    int64_t block_size;
    int64_t pitch;  // from one token to the next within a block
    int64_t dim;

    // Where `n` tokens from `position` on lie, in elements.
    template <class Use>
    void each(int64_t position, int64_t n, Use use) const {
        int64_t block = position / block_size, offset = position % block_size;
        for (int64_t i = 0; i < n; i++) {
            use(i, (block_ids[block] * block_size + offset) * pitch);
            if (++offset == block_size) offset = 0, block++;
        }
    }
};

// ---- fp32 throughout; a bf16 cache is widened block by block

template <class T>
class FloatSegment {
public:
    static int64_t query_bytes(int64_t dim) { return LANES * 4 * round_up(dim, 32); }

    FloatSegment(int64_t dim, Carver& c) : dim(dim), padded(round_up(dim, 32)) {
        wide = c.take<float>(BLOCK * padded);
        keys = c.take<const T*>(SEGMENT);
        values = c.take<const T*>(SEGMENT);
    }

    // rows [16][padded dim], which end as [padded dim][16]
    void pack_queries(const float* rows, uint8_t* tile) const {
        float* out = (float*)tile;
        for (int64_t i = 0; i < padded; i++)
            for (int64_t lane = 0; lane < LANES; lane++) out[i * LANES + lane] = rows[lane * padded + i];
    }

    // Keys first … first + n - 1 of a context are what follows is about.
    void open(const Cache<T>& cache, int64_t first, int64_t n) {
        cache.each(first, n, [&](int64_t i, int64_t at) { keys[i] = cache.keys + at, values[i] = cache.values + at; });
    }

    // out [tiles][SEGMENT][16] = scores of the first n keys. What is to be done between products is welcome: it may be
    // called, not often enough to rely on.
    template <class Between>
    void scores(const uint8_t* queries, int tiles, int64_t n, float* out, Between) {
        for (int64_t first = 0; first < n; first += BLOCK) {
            const int64_t here = least(BLOCK, n - first);
            const float* k[BLOCK];
            rows_of(keys + first, here, k);
            const float* q = (const float*)queries;
            for (int tile = 0; tile < tiles;) {
                const bool several = tile + TILES <= tiles;
                auto block = several ? &FloatSegment::block<TILES> : &FloatSegment::block<1>;
                (this->*block)(q + tile * LANES * padded, k, here, out + tile * SEGMENT * LANES);
                tile += several ? TILES : 1;
            }
            out += BLOCK * LANES;
        }
    }

    // The weights of a block of keys have replaced their scores.
    void weigh(int, int64_t, const float*) {}

    // out[tile] [16][padded dim] = the weighted sums of the first n values, for the first `rows` queries of each tile.
    void sums(int tiles, const int* rows, int64_t n, const float* weights, float* const* out) {
        for (int64_t first = 0; first < n; first += BLOCK) {
            const int64_t here = least(BLOCK, n - first);
            const float* v[BLOCK];
            rows_of(values + first, here, v);
            for (int tile = 0; tile < tiles; tile++)
                for (int row = 0; row < rows[tile]; row += ROWS) {
                    const float* w = weights + (tile * SEGMENT + first) * LANES + row;
                    for (int64_t i = 0; i < padded; i += 16 * VECTORS)
                        add(v, here, w, i, out[tile] + row * padded + i, !first);
                }
        }
    }

private:
#if defined(__AVX512F__)
    static constexpr int KEYS = 8, TILES = 2, ROWS = 4, VECTORS = 2;  // what the registers hold
#else
    static constexpr int KEYS = 4, TILES = 1, ROWS = 2, VECTORS = 2;
#endif

    // Scores of n keys.
    template <int COUNT>
    void block(const float* q, const float* const* k, int64_t n, float* out) const {
        int64_t i = 0;
        for (; i + KEYS <= n; i += KEYS) dots<KEYS, COUNT>(q, k + i, out + i * LANES);
        for (; i < n; i++) dots<1, COUNT>(q, k + i, out + i * LANES);
    }
    template <int N, int COUNT>
    void dots(const float* q, const float* const* k, float* out) const {
        f32v total[COUNT][N];
        for (int c = 0; c < COUNT; c++)
            for (int j = 0; j < N; j++) total[c][j] = zero();
        for (int64_t i = 0; i < dim; i++) {
            f32v x[COUNT];
            for (int c = 0; c < COUNT; c++) x[c] = load(q + (c * padded + i) * LANES);
#pragma GCC unroll 8
            for (int j = 0; j < N; j++) {
                const f32v key = set1(k[j][i]);
#pragma GCC unroll 2
                for (int c = 0; c < COUNT; c++) total[c][j] = fma(key, x[c], total[c][j]);
            }
        }
        for (int c = 0; c < COUNT; c++)
            for (int j = 0; j < N; j++) store(out + (c * SEGMENT + j) * LANES, total[c][j]);
    }

    // ROWS queries, 16 VECTORS dimensions from i on
    void add(const float* const* v, int64_t n, const float* weights, int64_t i, float* out, bool first) const {
        f32v total[ROWS][VECTORS];
        for (int r = 0; r < ROWS; r++)
            for (int x = 0; x < VECTORS; x++) total[r][x] = first ? zero() : load(out + r * padded + 16 * x);
        for (int64_t key = 0; key < n; key++) {
            f32v value[VECTORS];
#pragma GCC unroll 2
            for (int x = 0; x < VECTORS; x++) value[x] = load(v[key] + i + 16 * x);
#pragma GCC unroll 4
            for (int r = 0; r < ROWS; r++) {
                const f32v weight = set1(weights[key * LANES + r]);
#pragma GCC unroll 2
                for (int x = 0; x < VECTORS; x++) total[r][x] = fma(weight, value[x], total[r][x]);
            }
        }
        for (int r = 0; r < ROWS; r++)
            for (int x = 0; x < VECTORS; x++) store(out + r * padded + 16 * x, total[r][x]);
    }

    // Rows of fp32, as long as the padded dimension and zero there.
    void rows_of(const T* const* from, int64_t n, const float** rows) {
        for (int64_t i = 0; i < n; i++) {
            if constexpr (sizeof(T) == 4)
                if (dim == padded) {
                    rows[i] = from[i];
                    continue;
                }
            float* to = wide + i * padded;
            for (int64_t j = 0; j < dim; j++) to[j] = as_float32(from[i][j]);
            for (int64_t j = dim; j < padded; j++) to[j] = 0.0f;
            rows[i] = to;
        }
    }
    static float as_float32(float x) { return x; }
    static float as_float32(uint16_t x) { return bf16_to_f32(x); }

    int64_t dim, padded;
    float* wide;
    const T **keys, **values;
};

template <class T>
struct SegmentFor {
    using type = FloatSegment<T>;
};

#if defined(__AVX512BF16__)

// ---- bf16 products with fp32 sums: pairs of dimensions make scores, pairs of keys make weighted sums

// Row i and word j change places.
inline void transpose16(__m512i* rows) {
    __m512i pairs[16], fours[16];
    for (int i = 0; i < 16; i += 2) {
        pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)  // fours[i + j]: words 4 w + j of rows i to i + 3, for w = 0 to 3
        for (int j = 0; j < 2; j++) {
            fours[i + 2 * j] = _mm512_unpacklo_epi64(pairs[i + j], pairs[i + j + 2]);
            fours[i + 2 * j + 1] = _mm512_unpackhi_epi64(pairs[i + j], pairs[i + j + 2]);
        }
    for (int j = 0; j < 4; j++) {
        const __m512i a = _mm512_shuffle_i32x4(fours[j], fours[j + 4], 0x88);
        const __m512i b = _mm512_shuffle_i32x4(fours[j], fours[j + 4], 0xdd);
        const __m512i c = _mm512_shuffle_i32x4(fours[j + 8], fours[j + 12], 0x88);
        const __m512i d = _mm512_shuffle_i32x4(fours[j + 8], fours[j + 12], 0xdd);
        rows[j] = _mm512_shuffle_i32x4(a, c, 0x88);
        rows[j + 8] = _mm512_shuffle_i32x4(a, c, 0xdd);
        rows[j + 4] = _mm512_shuffle_i32x4(b, d, 0x88);
        rows[j + 12] = _mm512_shuffle_i32x4(b, d, 0xdd);
    }
}

class PairSegment {
public:
    static constexpr int64_t AHEAD = 16;  // values
    static constexpr int64_t PITCH = SEGMENT / 2 * 16;  // words: sixteen dimensions of all values

    static int64_t query_bytes(int64_t dim) { return LANES * 2 * round_up(dim, 32); }

    PairSegment(int64_t dim, Carver& c) : dim(dim), padded(round_up(dim, 32)) {
        packed_keys = c.take<uint16_t>(SEGMENT * padded);
        packed_values = c.take<uint32_t>(padded / 16 * PITCH);
        weights = c.take<uint32_t>(SEGMENT * LANES);
        keys = c.take<const uint16_t*>(SEGMENT);
        spare = c.take<uint16_t>(2 * padded);
    }

    // rows [16][padded dim], which end as pairs [padded dim / 2][16]
    void pack_queries(const float* rows, uint8_t* tile) const {
        for (int64_t i = 0; i < padded; i += 32) {
            __m512i lanes[LANES];
            for (int lane = 0; lane < LANES; lane++) {
                const float* row = rows + lane * padded + i;
                lanes[lane] = (__m512i)_mm512_cvtne2ps_pbh(load(row + 16).v, load(row).v);
            }
            transpose16(lanes);
            for (int j = 0; j < 16; j++) _mm512_store_si512(tile + (i / 2 + j) * 64, lanes[j]);
        }
    }

    void open(const Cache<uint16_t>& cache, int64_t first, int64_t n) {
        const bool copied = must_copy(cache);
        key_pitch = copied ? padded : cache.pitch;
        const uint16_t* values[SEGMENT + AHEAD];
        cache.each(first, n, [&](int64_t i, int64_t at) { keys[i] = cache.keys + at, values[i] = cache.values + at; });
        for (int64_t i = 0; i < n && copied; i++) {
            uint16_t* to = packed_keys + i * padded;
            memcpy(to, keys[i], 2 * dim);
            for (int64_t j = dim; j < padded; j++) to[j] = 0;
            keys[i] = to;
        }
        for (int64_t i = n; i < round_up(n, BLOCK); i++) keys[i] = keys[0];  // what they give is not looked at
        for (int64_t i = n; i < n + AHEAD; i++) values[i] = values[n - 1];
        for (int64_t i = 0; i < round_up(n, BLOCK); i += 2) {
            // Keys come next; nobody else fetches rows that lie apart.
            prefetch(keys[i]), prefetch(keys[i + 1]);
            if (i < n) prefetch(values[i + AHEAD - 2]), prefetch(values[i + AHEAD - 1]);
            pack_pair(i / 2, i < n ? values[i] : nullptr, i + 1 < n ? values[i + 1] : nullptr);
        }
    }

private:
    // Values 2 pair and 2 pair + 1, side by side: [padded dim / 16][PITCH]
    void pack_pair(int64_t pair, const uint16_t* a, const uint16_t* b) {
        if (!a || !b || dim != padded) {
            memset(spare, 0, 4 * padded);
            if (a) memcpy(spare, a, 2 * dim);
            if (b) memcpy(spare + padded, b, 2 * dim);
            a = spare, b = spare + padded;
        }
        for (int64_t i = 0; i < padded; i += 16) {
            const __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(a + i)));
            const __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(b + i)));
            const __m512i both = _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
            _mm512_store_si512(packed_values + i / 16 * PITCH + pair * 16, both);
        }
    }

    void prefetch(const uint16_t* row) const {
        for (int64_t i = 0; i < dim; i += 32) _mm_prefetch((const char*)(row + i), _MM_HINT_T1);
    }

    // Two keys' weights as pairs.
    static __m512i paired(const float* p) {
        alignas(64) static constexpr uint16_t order[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                           21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                           11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
        const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(load(p + LANES).v, load(p).v);
        return _mm512_permutexvar_epi16(_mm512_load_si512(order), both);
    }

#if defined(__AMX_BF16__)

public:
    template <class Between>
    void scores(const uint8_t* queries, int tiles, int64_t n, float* out, Between between) {
        COMPILER_BARRIER;
        const int64_t steps = padded / 32, stride = 2 * key_pitch;
        const uint8_t *q0 = queries, *q1 = queries + query_bytes(dim);
        for (int64_t key = 0; key < n; key += BLOCK, out += BLOCK * LANES) {
            const uint8_t *k0 = (const uint8_t*)keys[key], *k1 = (const uint8_t*)keys[key + 16];
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
            for (int64_t i = 0; i < steps; i++) {
                _tile_loadd(4, k0 + 64 * i, stride);
                _tile_loadd(6, q0 + 1024 * i, 64);
                _tile_dpbf16ps(0, 4, 6);
                _tile_loadd(5, k1 + 64 * i, stride);
                _tile_dpbf16ps(1, 5, 6);
                if (tiles == 1) continue;
                _tile_loadd(7, q1 + 1024 * i, 64);
                _tile_dpbf16ps(2, 4, 7);
                _tile_dpbf16ps(3, 5, 7);
                between();
            }
            _tile_stored(0, out, 64);
            _tile_stored(1, out + 16 * LANES, 64);
            if (tiles == 1) continue;
            _tile_stored(2, out + SEGMENT * LANES, 64);
            _tile_stored(3, out + (SEGMENT + 16) * LANES, 64);
        }
    }

    // [tiles][SEGMENT / 32] tiles of 16 queries, 32 keys each
    void weigh(int tile, int64_t key, const float* p) {
        __m512i pairs[LANES];
        for (int i = 0; i < 16; i++) pairs[i] = paired(p + 2 * i * LANES);
        transpose16(pairs);
        uint32_t* to = weights + (tile * SEGMENT + key) / 2 * LANES;
        for (int i = 0; i < 16; i++) _mm512_store_si512(to + 16 * i, pairs[i]);
    }

    void sums(int tiles, const int*, int64_t n, const float*, float* const* out) {
        COMPILER_BARRIER;
        const int64_t steps = div_up(n, BLOCK), stride = 4 * padded;
        const uint32_t *w0 = weights, *w1 = weights + SEGMENT / 2 * LANES;
        for (int64_t i = 0; i < padded; i += 32) {
            const uint32_t *v0 = packed_values + i / 16 * PITCH, *v1 = v0 + PITCH;
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
            for (int64_t step = 0; step < steps; step++) {
                _tile_loadd(4, w0 + 256 * step, 64);
                _tile_loadd(6, v0 + 256 * step, 64);
                _tile_dpbf16ps(0, 4, 6);
                _tile_loadd(7, v1 + 256 * step, 64);
                _tile_dpbf16ps(1, 4, 7);
                if (tiles == 1) continue;
                _tile_loadd(5, w1 + 256 * step, 64);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            }
            _tile_stored(0, out[0] + i, stride);
            _tile_stored(1, out[0] + i + 16, stride);
            if (tiles == 1) continue;
            _tile_stored(2, out[1] + i, stride);
            _tile_stored(3, out[1] + i + 16, stride);
        }
    }

private:
    // Tiles take sixteen keys at one stride.
    bool must_copy(const Cache<uint16_t>& cache) const { return dim != padded || cache.block_size % 16; }

#else

public:
    template <class Between>
    void scores(const uint8_t* queries, int tiles, int64_t n, float* out, Between) {
        for (int64_t key = 0; key < n; key += 8, out += 8 * LANES)
            for (int tile = 0; tile < tiles; tile++) {
                const uint8_t* q = queries + tile * query_bytes(dim);
                f32v total[8];
                for (int j = 0; j < 8; j++) total[j] = zero();
                for (int64_t pair = 0; pair < padded / 2; pair++) {
                    const __m512i x = _mm512_load_si512(q + 64 * pair);
#pragma GCC unroll 8
                    for (int j = 0; j < 8; j++) total[j] = dot(total[j], x, keys[key + j] + 2 * pair);
                }
                for (int j = 0; j < 8; j++) store(out + (tile * SEGMENT + j) * LANES, total[j]);
            }
    }

    // [tiles][SEGMENT / 2][16]
    void weigh(int tile, int64_t key, const float* p) {
        uint32_t* to = weights + (tile * SEGMENT + key) / 2 * LANES;
        for (int i = 0; i < 16; i++) _mm512_store_si512(to + i * LANES, paired(p + 2 * i * LANES));
    }

    void sums(int tiles, const int* rows, int64_t n, const float*, float* const* out) {
        for (int tile = 0; tile < tiles; tile++)
            for (int row = 0; row < rows[tile]; row += 4)
                for (int64_t i = 0; i < padded; i += 32) {
                    const uint32_t* w = weights + tile * SEGMENT / 2 * LANES + row;
                    const uint32_t* v = packed_values + i / 16 * PITCH;
                    f32v total[4][2];
                    for (int r = 0; r < 4; r++) total[r][0] = total[r][1] = zero();
                    for (int64_t pair = 0; pair < (n + 1) / 2; pair++) {
                        const __m512i v0 = _mm512_load_si512(v + 16 * pair);
                        const __m512i v1 = _mm512_load_si512(v + PITCH + 16 * pair);
#pragma GCC unroll 4
                        for (int r = 0; r < 4; r++) {
                            total[r][0] = dot(total[r][0], v0, w + pair * LANES + r);
                            total[r][1] = dot(total[r][1], v1, w + pair * LANES + r);
                        }
                    }
                    for (int r = 0; r < 4; r++)
                        for (int x = 0; x < 2; x++) store(out[tile] + (row + r) * padded + i + 16 * x, total[r][x]);
                }
    }

private:
    static f32v dot(f32v total, __m512i x, const void* pair) {
        int word;
        memcpy(&word, pair, 4);
        return {_mm512_dpbf16_ps(total.v, (__m512bh)x, (__m512bh)_mm512_set1_epi32(word))};
    }
    bool must_copy(const Cache<uint16_t>&) const { return dim != padded; }

#endif

    int64_t dim, padded, key_pitch = 0;
    uint16_t *packed_keys, *spare;
    uint32_t *packed_values, *weights;
    const uint16_t** keys;
};

template <>
struct SegmentFor<uint16_t> {
    using type = PairSegment;
};

#endif

template <class T>
using Segment = typename SegmentFor<T>::type;

}  // namespace
}  // namespace dl
