// Sixteen fp32 lanes and what the kernels do with them, for AVX-512, AVX2 with FMA, and plain C++ that any compiler
// vectorises. All three round alike: products are added with one rounding (fma) exactly where `fma` is written, so
// that results do not depend on the instruction set. Compile with -ffp-contract=off.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace dl {

#if defined(__AVX512F__)

struct f32v {  // sixteen floats
    __m512 v;
};
static inline f32v load(const float* p) { return {_mm512_loadu_ps(p)}; }
static inline void store(float* p, f32v a) { _mm512_storeu_ps(p, a.v); }
static inline f32v set1(float x) { return {_mm512_set1_ps(x)}; }
static inline f32v operator+(f32v a, f32v b) { return {_mm512_add_ps(a.v, b.v)}; }
static inline f32v operator-(f32v a, f32v b) { return {_mm512_sub_ps(a.v, b.v)}; }
static inline f32v operator*(f32v a, f32v b) { return {_mm512_mul_ps(a.v, b.v)}; }
static inline f32v operator/(f32v a, f32v b) { return {_mm512_div_ps(a.v, b.v)}; }
static inline f32v fma(f32v a, f32v b, f32v c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
static inline f32v max(f32v a, f32v b) { return {_mm512_max_ps(a.v, b.v)}; }
static inline f32v min(f32v a, f32v b) { return {_mm512_min_ps(a.v, b.v)}; }
static inline f32v round_even(f32v a) { return {_mm512_roundscale_ps(a.v, 0x08)}; }
static inline f32v abs(f32v a) { return {_mm512_abs_ps(a.v)}; }
// whole numbers in [-128, 127] as sixteen bytes
static inline void store_bytes(int8_t* p, f32v a) { _mm_storeu_si128((__m128i*)p, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a.v))); }
static inline __m256 low_half(f32v a) { return _mm512_castps512_ps256(a.v); }
static inline __m256 high_half(f32v a) { return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a.v), 1)); }
// 2^n for whole n in [-126, 127]
static inline f32v pow2(f32v n) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127)), 23))};
}

#elif defined(__AVX2__)

struct f32v {
    __m256 a, b;
};
static inline f32v load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
static inline void store(float* p, f32v x) { _mm256_storeu_ps(p, x.a), _mm256_storeu_ps(p + 8, x.b); }
static inline f32v set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
static inline f32v operator+(f32v x, f32v y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
static inline f32v operator-(f32v x, f32v y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
static inline f32v operator*(f32v x, f32v y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
static inline f32v operator/(f32v x, f32v y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
static inline f32v fma(f32v x, f32v y, f32v z) {
    return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
static inline f32v max(f32v x, f32v y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
static inline f32v min(f32v x, f32v y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
static inline f32v round_even(f32v x) { return {_mm256_round_ps(x.a, 0x08), _mm256_round_ps(x.b, 0x08)}; }
static inline f32v abs(f32v x) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
static inline void store_bytes(int8_t* p, f32v x) {
    const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b));  // a low, b low, a high, b high
    const __m128i low = _mm256_castsi256_si128(words), high = _mm256_extracti128_si256(words, 1);
    const __m128i bytes = _mm_packs_epi16(low, high);  // a 0–3, b 0–3, a 4–7, b 4–7
    _mm_storeu_si128((__m128i*)p, _mm_shuffle_epi32(bytes, _MM_SHUFFLE(3, 1, 2, 0)));
}
static inline __m256 low_half(f32v x) { return x.a; }
static inline __m256 high_half(f32v x) { return x.b; }
static inline f32v pow2(f32v n) {
    const __m256i bias = _mm256_set1_epi32(127);
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n.a), bias), 23)),
            _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n.b), bias), 23))};
}

#else

// The compiler's own vectors, which it cuts to what the machine has.
typedef float floats16 __attribute__((vector_size(64)));
typedef int32_t ints16 __attribute__((vector_size(64)));
struct f32v {
    floats16 v;
};
template <class V>
static inline V lanes_at(const void* p) {
    V lanes;
    memcpy(&lanes.v, p, 64);
    return lanes;
}
static inline f32v load(const float* p) { return lanes_at<f32v>(p); }
static inline void store(float* p, f32v a) { memcpy(p, &a.v, 64); }
static inline f32v set1(float x) { return {x - floats16{}}; }
static inline f32v operator+(f32v a, f32v b) { return {a.v + b.v}; }
static inline f32v operator-(f32v a, f32v b) { return {a.v - b.v}; }
static inline f32v operator*(f32v a, f32v b) { return {a.v * b.v}; }
static inline f32v operator/(f32v a, f32v b) { return {a.v / b.v}; }
static inline f32v fma(f32v a, f32v b, f32v c) {
    f32v r;
    for (int i = 0; i < 16; i++) r.v[i] = __builtin_fmaf(a.v[i], b.v[i], c.v[i]);
    return r;
}
// as the x86 instructions: the second operand when one is not a number
static inline f32v max(f32v a, f32v b) { return {a.v > b.v ? a.v : b.v}; }
static inline f32v min(f32v a, f32v b) { return {a.v < b.v ? a.v : b.v}; }
static inline f32v round_even(f32v a) {
    f32v r;
    for (int i = 0; i < 16; i++) r.v[i] = __builtin_rintf(a.v[i]);
    return r;
}
static inline f32v abs(f32v a) { return {(floats16)((ints16)a.v & 0x7fffffff)}; }
static inline void store_bytes(int8_t* p, f32v a) {
    for (int i = 0; i < 16; i++) p[i] = int8_t(a.v[i]);
}
static inline f32v pow2(f32v n) { return {(floats16)((__builtin_convertvector(n.v, ints16) + 127) << 23)}; }

#endif

static inline f32v zero() { return set1(0.0f); }
static inline float first_lane(f32v a) {
    float lanes[16];
    store(lanes, a);
    return lanes[0];
}

// Sums in one fixed tree: lanes 8 apart, then 4, 2, 1; the largest lane likewise.
#if defined(__AVX512F__) || defined(__AVX2__)
static inline float sum(f32v a) {
    const __m256 eight = _mm256_add_ps(low_half(a), high_half(a));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
static inline float largest(f32v a) {
    const __m256 eight = _mm256_max_ps(low_half(a), high_half(a));
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}
#else
static inline float sum(f32v a) {
    float x[16];
    store(x, a);
    for (int step = 8; step; step /= 2)
        for (int i = 0; i < step; i++) x[i] += x[i + step];
    return x[0];
}
static inline float largest(f32v a) {
    float x[16];
    store(x, a);
    for (int step = 8; step; step /= 2)
        for (int i = 0; i < step; i++) x[i] = x[i] > x[i + step] ? x[i] : x[i + step];
    return x[0];
}
#endif

// e^x to within 2 units in the last place; held at 1e-38 below -87.3 and at 2.4e38 above 88.37. A NaN stays one.
static inline f32v exp(f32v x) {
    f32v bounded = min(set1(88.37f), max(set1(-87.3f), x));
    f32v n = round_even(bounded * set1(1.44269504f));
    f32v r = fma(n, set1(-0.693359375f), bounded);
    r = fma(n, set1(2.12194440e-4f), r);
    f32v p = set1(1.9875691500e-4f);
    p = fma(p, r, set1(1.3981999507e-3f));
    p = fma(p, r, set1(8.3334519073e-3f));
    p = fma(p, r, set1(4.1665795894e-2f));
    p = fma(p, r, set1(1.6666665459e-1f));
    p = fma(p, r, set1(5.0000001201e-1f));
    p = fma(p, r * r, r) + set1(1.0f);
    return p * pow2(n);
}
static inline f32v sigmoid(f32v x) { return set1(1.0f) / (set1(1.0f) + exp(zero() - x)); }
static inline f32v silu(f32v x) { return x / (set1(1.0f) + exp(zero() - x)); }

// 2^x for x up to 127, to within 2 units in the last place, exact for whole numbers; 0 from -126.5 down, and for
// minus infinity. A NaN stays one.
static inline f32v exp2(f32v x) {
#if !defined(__AVX512F__)
    x = max(set1(-127.0f), x);
#endif
    f32v n = round_even(x);
    f32v r = x - n;
    f32v p = set1(1.32647273e-3f);
    p = fma(p, r, set1(9.67151299e-3f));
    p = fma(p, r, set1(5.55073358e-2f));
    p = fma(p, r, set1(2.40222424e-1f));
    p = fma(p, r, set1(6.93147004e-1f));
    p = fma(p, r, set1(1.0f));
#if defined(__AVX512F__)
    return {_mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(n.v, _mm512_set1_ps(-126.0f), _CMP_NLT_UQ), p.v, n.v)};
#else
    return p * pow2(n);
#endif
}

// log(1 + e^x) to within a few units in the last place: max(x, 0) + log(1 + e) with e = e^-|x|, whose logarithm is
// 2 (s + s^3 / 3 + s^5 / 5 + ...) with s = e / (2 + e).
static inline f32v softplus(f32v x) {
    f32v e = exp(min(x, zero() - x));
    f32v s = e / (set1(2.0f) + e);
    f32v z = s * s;
    f32v p = set1(2.0f / 17);
    p = fma(p, z, set1(2.0f / 15));
    p = fma(p, z, set1(2.0f / 13));
    p = fma(p, z, set1(2.0f / 11));
    p = fma(p, z, set1(2.0f / 9));
    p = fma(p, z, set1(2.0f / 7));
    p = fma(p, z, set1(2.0f / 5));
    p = fma(p, z, set1(2.0f / 3));
    p = fma(p, z, set1(2.0f));
    return max(zero(), x) + p * s;
}

static inline float bf16_to_f32(uint16_t h) {
    uint32_t bits = uint32_t(h) << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
// Round to nearest even; NaN stays NaN.
static inline uint16_t f32_to_bf16(float f) {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return uint16_t(bits >> 16) | 0x40;
    return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

}  // namespace dl
