// Sixteen 32-bit words, one for each row of a panel, and byte arithmetic on them: what expanding quantised blocks
// takes. Every operation is exact, so all instruction sets agree.
#pragma once
#include "simd.h"

namespace dl {

#if defined(__AVX512F__)

struct u32v {
    __m512i v;
};
static inline u32v load_words(const void* p) { return {_mm512_loadu_si512(p)}; }
static inline void store_words(void* p, u32v a) { _mm512_storeu_si512(p, a.v); }
static inline u32v load_shorts(const void* p) { return {_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p))}; }
static inline u32v load_bytes(const void* p) { return {_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p))}; }
static inline u32v set1_word(uint32_t x) { return {_mm512_set1_epi32(int(x))}; }
static inline u32v operator&(u32v a, u32v b) { return {_mm512_and_si512(a.v, b.v)}; }
static inline u32v operator|(u32v a, u32v b) { return {_mm512_or_si512(a.v, b.v)}; }
static inline u32v operator^(u32v a, u32v b) { return {_mm512_xor_si512(a.v, b.v)}; }
static inline u32v operator<<(u32v a, int n) { return {_mm512_slli_epi32(a.v, unsigned(n))}; }
static inline u32v operator>>(u32v a, int n) { return {_mm512_srli_epi32(a.v, unsigned(n))}; }
static inline u32v add_words(u32v a, u32v b) { return {_mm512_add_epi32(a.v, b.v)}; }
static inline f32v to_float(u32v a) { return {_mm512_cvtepi32_ps(a.v)}; }  // as signed
static inline f32v as_float(u32v a) { return {_mm512_castsi512_ps(a.v)}; }
static inline u32v as_words(f32v a) { return {_mm512_castps_si512(a.v)}; }
static inline f32v half_to_float(u32v a) { return {_mm512_cvtph_ps(_mm512_cvtepi32_epi16(a.v))}; }  // low 16 bits
// each byte b becomes table[b & 15]; bytes must be below 128
static inline u32v lookup(u32v a, const uint8_t* table) {
    return {_mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)table)), a.v)};
}
// out[j] = word j of the 16 bytes at row r, for all rows
static inline void transpose4(const uint8_t* p, int64_t stride, u32v* out) {
    __m512i row[4];
    for (int i = 0; i < 4; i++) {
        const uint8_t* q = p + i * stride;
        __m512i x = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i*)q));
        x = _mm512_inserti32x4(x, _mm_loadu_si128((const __m128i*)(q + 4 * stride)), 1);
        x = _mm512_inserti32x4(x, _mm_loadu_si128((const __m128i*)(q + 8 * stride)), 2);
        row[i] = _mm512_inserti32x4(x, _mm_loadu_si128((const __m128i*)(q + 12 * stride)), 3);
    }
    const __m512i a = _mm512_unpacklo_epi32(row[0], row[1]), b = _mm512_unpackhi_epi32(row[0], row[1]);
    const __m512i c = _mm512_unpacklo_epi32(row[2], row[3]), d = _mm512_unpackhi_epi32(row[2], row[3]);
    out[0].v = _mm512_unpacklo_epi64(a, c);
    out[1].v = _mm512_unpackhi_epi64(a, c);
    out[2].v = _mm512_unpacklo_epi64(b, d);
    out[3].v = _mm512_unpackhi_epi64(b, d);
}
static inline u32v gather_words(const uint8_t* p, int64_t stride) {
    const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    return {_mm512_i32gather_epi32(_mm512_mullo_epi32(lane, _mm512_set1_epi32(int(stride))), p, 1)};
}

#elif defined(__AVX2__)

struct u32v {
    __m256i a, b;
};
static inline u32v load_words(const void* p) {
    return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)p + 1)};
}
static inline void store_words(void* p, u32v x) {
    _mm256_storeu_si256((__m256i*)p, x.a), _mm256_storeu_si256((__m256i*)p + 1, x.b);
}
static inline u32v load_shorts(const void* p) {
    const __m128i* half = (const __m128i*)p;
    return {_mm256_cvtepu16_epi32(_mm_loadu_si128(half)), _mm256_cvtepu16_epi32(_mm_loadu_si128(half + 1))};
}
static inline u32v load_bytes(const void* p) {
    const __m128i x = _mm_loadu_si128((const __m128i*)p);
    return {_mm256_cvtepu8_epi32(x), _mm256_cvtepu8_epi32(_mm_srli_si128(x, 8))};
}
static inline u32v set1_word(uint32_t x) { return {_mm256_set1_epi32(int(x)), _mm256_set1_epi32(int(x))}; }
static inline u32v operator&(u32v x, u32v y) { return {_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)}; }
static inline u32v operator|(u32v x, u32v y) { return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)}; }
static inline u32v operator^(u32v x, u32v y) { return {_mm256_xor_si256(x.a, y.a), _mm256_xor_si256(x.b, y.b)}; }
static inline u32v operator<<(u32v x, int n) {
    return {_mm256_slli_epi32(x.a, n), _mm256_slli_epi32(x.b, n)};
}
static inline u32v operator>>(u32v x, int n) {
    return {_mm256_srli_epi32(x.a, n), _mm256_srli_epi32(x.b, n)};
}
static inline u32v add_words(u32v x, u32v y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
static inline f32v to_float(u32v x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
static inline f32v as_float(u32v x) { return {_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)}; }
static inline u32v as_words(f32v x) { return {_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)}; }
static inline __m256 half8_to_float(__m256i x) {
    const __m256i low = _mm256_and_si256(x, _mm256_set1_epi32(0xffff));
    return _mm256_cvtph_ps(_mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1)));
}
static inline f32v half_to_float(u32v x) { return {half8_to_float(x.a), half8_to_float(x.b)}; }
static inline u32v lookup(u32v x, const uint8_t* table) {
    const __m256i t = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)table));
    return {_mm256_shuffle_epi8(t, x.a), _mm256_shuffle_epi8(t, x.b)};
}
static inline __m256i two_rows(const uint8_t* p, int64_t stride) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i*)p)),
                                   _mm_loadu_si128((const __m128i*)(p + 4 * stride)), 1);
}
static inline void transpose4_8(const uint8_t* p, int64_t stride, __m256i* out) {
    const __m256i r0 = two_rows(p, stride), r1 = two_rows(p + stride, stride);
    const __m256i r2 = two_rows(p + 2 * stride, stride), r3 = two_rows(p + 3 * stride, stride);
    const __m256i a = _mm256_unpacklo_epi32(r0, r1), b = _mm256_unpackhi_epi32(r0, r1);
    const __m256i c = _mm256_unpacklo_epi32(r2, r3), d = _mm256_unpackhi_epi32(r2, r3);
    out[0] = _mm256_unpacklo_epi64(a, c);
    out[1] = _mm256_unpackhi_epi64(a, c);
    out[2] = _mm256_unpacklo_epi64(b, d);
    out[3] = _mm256_unpackhi_epi64(b, d);
}
static inline void transpose4(const uint8_t* p, int64_t stride, u32v* out) {
    __m256i low[4], high[4];
    transpose4_8(p, stride, low);
    transpose4_8(p + 8 * stride, stride, high);
    for (int j = 0; j < 4; j++) out[j] = {low[j], high[j]};
}
static inline u32v gather_words(const uint8_t* p, int64_t stride) {
    const __m256i lane = _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
    const __m256i index = _mm256_mullo_epi32(lane, _mm256_set1_epi32(int(stride)));
    return {_mm256_i32gather_epi32((const int*)p, index, 1), _mm256_i32gather_epi32((const int*)(p + 8 * stride), index, 1)};
}

#else

typedef uint32_t words16 __attribute__((vector_size(64)));
struct u32v {
    words16 v;
};
static inline u32v load_words(const void* p) { return lanes_at<u32v>(p); }
static inline void store_words(void* p, u32v a) { memcpy(p, &a.v, 64); }
static inline u32v load_shorts(const void* p) {
    uint16_t shorts __attribute__((vector_size(32)));
    memcpy(&shorts, p, 32);
    return {__builtin_convertvector(shorts, words16)};
}
static inline u32v load_bytes(const void* p) {
    uint8_t bytes __attribute__((vector_size(16)));
    memcpy(&bytes, p, 16);
    return {__builtin_convertvector(bytes, words16)};
}
static inline u32v set1_word(uint32_t x) { return {x - words16{}}; }
static inline u32v operator&(u32v a, u32v b) { return {a.v & b.v}; }
static inline u32v operator|(u32v a, u32v b) { return {a.v | b.v}; }
static inline u32v operator^(u32v a, u32v b) { return {a.v ^ b.v}; }
static inline u32v operator<<(u32v a, int n) { return {a.v << n}; }
static inline u32v operator>>(u32v a, int n) { return {a.v >> n}; }
static inline u32v add_words(u32v a, u32v b) { return {a.v + b.v}; }
static inline f32v to_float(u32v a) { return {__builtin_convertvector((ints16)a.v, floats16)}; }
static inline f32v as_float(u32v a) { return {(floats16)a.v}; }
static inline u32v as_words(f32v a) { return {(words16)a.v}; }
static inline f32v half_to_float(u32v a) {
    const words16 sign = (a.v & 0x8000) << 16, exponent = a.v >> 10 & 31, mantissa = a.v & 0x3ff;
    const words16 normal = (exponent + 112) << 23 | mantissa << 13, special = 0x7f800000 | mantissa << 13;
    const words16 small = (words16)(__builtin_convertvector((ints16)mantissa, floats16) * 0x1p-24f);
    return {(floats16)(sign | (exponent == 31 ? special : exponent == 0 ? small : normal))};
}
static inline u32v lookup(u32v a, const uint8_t* table) {
    uint8_t bytes[64];
    memcpy(bytes, &a.v, 64);
    for (int i = 0; i < 64; i++) bytes[i] = table[bytes[i] & 15];
    return load_words(bytes);
}
static inline void transpose4(const uint8_t* p, int64_t stride, u32v* out) {
    uint32_t words[4][16];
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 4; j++) memcpy(&words[j][i], p + i * stride + 4 * j, 4);
    for (int j = 0; j < 4; j++) out[j] = load_words(words[j]);
}
static inline u32v gather_words(const uint8_t* p, int64_t stride) {
    uint32_t words[16];
    for (int i = 0; i < 16; i++) memcpy(words + i, p + i * stride, 4);
    return load_words(words);
}

#endif

// Sixteen bf16, rounded to nearest even; a NaN stays one.
static inline void store_bf16(uint16_t* p, f32v a) {
#if defined(__AVX512F__)
    const u32v bits = as_words(a);
    const __mmask16 nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
    const u32v rounded = add_words(bits, add_words(set1_word(0x7fff), (bits >> 16) & set1_word(1)));
    const __m512i chosen = _mm512_mask_mov_epi32(rounded.v, nan, (bits | set1_word(0x400000)).v);
    _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(chosen, 16)));
#else
    float lanes[16];
    store(lanes, a);
    for (int i = 0; i < 16; i++) p[i] = f32_to_bf16(lanes[i]);
#endif
}

static inline u32v byte_of(u32v a, int index) { return (a >> (8 * index)) & set1_word(0xff); }
// bits 0–7 as a signed number
static inline u32v sign_extend_byte(u32v a) {
    const u32v sign = set1_word(0x80);
    u32v flipped = (a & set1_word(0xff)) ^ sign;
    return add_words(flipped, set1_word(uint32_t(-128)));
}

}  // namespace dl
