// From dense weights to the formats made while loading: Q8_0, and INT4 with a scale and a zero point for 32 values. The
// same bytes as engine/quant/quantise.py makes, where the choices are explained. Lanes are blocks.
#include "common.h"
#include "lanes.h"

namespace dl {
namespace {

constexpr int64_t VALUES = 32, LANES = 16;  // of a block; blocks at once
constexpr int64_t PIECE = 128 * LANES;      // blocks that a thread takes at a time
constexpr int64_t Q8_0_BYTES = 34, INT4_BYTES = 21;
constexpr uint32_t ONE_IN_F16 = 0x3c00, LARGEST_F16 = 0x7bff;
constexpr float FINER[] = {1.0f, 1.04f, 0.94f};
constexpr float TO_MANTISSA = 12582912.0f;  // added to a small whole number, it leaves that in the lowest bits

int64_t block_bytes(int format) { return VALUES * (format == DL_F32 ? 4 : 2); }

// Value k of sixteen blocks, for each k.
void load_blocks(int format, const uint8_t* p, f32v* x) {
    const int64_t bytes = block_bytes(format);
    for (int64_t at = 0; at < bytes; at += 16) {
        u32v words[4];
        transpose4(p + at, bytes, words);
        for (const u32v word : words) {
            if (format == DL_F32) {
                *x++ = as_float(word);
            } else if (format == DL_F16) {
                *x++ = half_to_float(word & set1_word(0xffff));
                *x++ = half_to_float(word >> 16);
            } else {
                *x++ = as_float(word << 16);
                *x++ = as_float(word & set1_word(0xffff0000));
            }
        }
    }
}

bool all_finite(const f32v* x) {
    f32v zeros = zero();
    for (int k = 0; k < VALUES; k++) zeros = zeros + (x[k] - x[k]);
    return sum(zeros) == 0;
}

// Four whole numbers in [-128, 255] to the bytes of a word.
u32v bytes_of(const f32v* numbers) {
    u32v word = set1_word(0);
    for (int i = 0; i < 4; i++) word = word | (as_words(numbers[i] + set1(TO_MANTISSA)) & set1_word(0xff)) << (8 * i);
    return word;
}

// Numbers as bytes, behind the header of each block.
template <int NUM_WORDS>
void store_bytes_of(const f32v* numbers, int64_t num_blocks, uint8_t* out, int64_t header, int64_t bytes) {
    uint32_t words[NUM_WORDS][LANES];
    for (int j = 0; j < NUM_WORDS; j++) store_words(words[j], bytes_of(numbers + 4 * j));
    for (int64_t i = 0; i < num_blocks; i++)
        for (int j = 0; j < NUM_WORDS; j++) memcpy(out + i * bytes + header + 4 * j, &words[j][i], 4);
}

// The bits of the least f16 that is not below x, which is not negative.
uint32_t f16_not_below(float x) {
    if (x < 0x1p-14f) return uint32_t(std::ceil(x * 0x1p24f));
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return ((bits + 0x1fff) >> 13) - (112 << 10);
}

// These and to_int4 return whether there are scales for all blocks.
bool to_q8_0(const f32v* x, int64_t num_blocks, uint8_t* out) {
    f32v greatest = zero();
    for (int k = 0; k < VALUES; k++) greatest = max(greatest, abs(x[k]));
    float wanted[LANES];
    store(wanted, greatest / set1(127.0f));
    uint32_t scales[LANES];
    bool fits = true;
    for (int i = 0; i < LANES; i++) {
        scales[i] = f16_not_below(wanted[i]);
        fits = fits && scales[i] <= LARGEST_F16;
        if (i < num_blocks) memcpy(out + i * Q8_0_BYTES, &scales[i], 2);
        if (!scales[i]) scales[i] = ONE_IN_F16;
    }
    const f32v scale = half_to_float(load_words(scales));
    f32v q[VALUES];
    for (int k = 0; k < VALUES; k++) q[k] = round_even(x[k] / scale);
    store_bytes_of<8>(q, num_blocks, out, 2, Q8_0_BYTES);
    return fits;
}

// A sum over the values of a block in a tree: values 16 apart, then 8, 4, 2, 1.
template <class Term>
f32v tree(Term term) {
    f32v sums[VALUES / 2];
    for (int k = 0; k < VALUES / 2; k++) sums[k] = term(k) + term(k + VALUES / 2);
    for (int step = VALUES / 4; step; step /= 2)
        for (int k = 0; k < step; k++) sums[k] = sums[k] + sums[k + step];
    return sums[0];
}

struct Fit {
    f32v q[VALUES], dot, square;
    Fit(const f32v* x, f32v finer, f32v first) {
        const f32v last = first + set1(15.0f);
        for (int k = 0; k < VALUES; k++) q[k] = min(max(round_even(x[k] * finer), first), last);
        dot = tree([&](int k) { return x[k] * q[k]; });
        square = max(tree([&](int k) { return q[k] * q[k]; }), set1(1.0f));
    }
};

// How much finer the best step is.
f32v best_finer(const f32v* x, f32v first) {
    float gain[LANES] = {}, finer[LANES];
    for (float& each : finer) each = 1.0f;
    for (const float candidate : FINER) {
        const Fit fit(x, set1(candidate), first);
        float gains[LANES], ratios[LANES];
        store(gains, fit.dot * fit.dot / fit.square);
        store(ratios, fit.square / fit.dot);
        for (int i = 0; i < LANES; i++)
            if (gains[i] > gain[i]) gain[i] = gains[i], finer[i] = ratios[i];
    }
    return load(finer);
}

bool to_int4(const f32v* values, int64_t num_blocks, uint8_t* out) {
    f32v low = zero(), high = zero();
    for (int k = 0; k < VALUES; k++) low = min(low, values[k]), high = max(high, values[k]);
    const f32v step = (high - low) / set1(15.0f);
    float divisors[LANES];
    store(divisors, step);
    bool fits = true;
    for (float& divisor : divisors) {
        fits = fits && divisor < INFINITY;
        if (!divisor) divisor = 1.0f;
    }
    if (!fits) return false;
    const f32v divisor = load(divisors), first = round_even(low / divisor);
    f32v x[VALUES];
    for (int k = 0; k < VALUES; k++) x[k] = values[k] / divisor;

    const Fit fit(x, best_finer(x, first), first);
    float scales[LANES], zero_points[LANES];
    store(scales, step * (fit.dot / fit.square));
    store(zero_points, zero() - first);
    for (int64_t i = 0; i < num_blocks; i++) {
        memcpy(out + i * INT4_BYTES, &scales[i], 4);
        out[i * INT4_BYTES + 4] = uint8_t(zero_points[i]);
    }
    f32v pairs[VALUES / 2];
    for (int k = 0; k < VALUES / 2; k++) pairs[k] = fit.q[k] - first + (fit.q[k + VALUES / 2] - first) * set1(16.0f);
    store_bytes_of<4>(pairs, num_blocks, out, 5, INT4_BYTES);
    return true;
}

// Up to sixteen blocks; returns whether their weights can be quantised.
bool quantise(int from, int to, const uint8_t* weights, int64_t num_blocks, uint8_t* out) {
    uint8_t padded[LANES * VALUES * 4];
    if (num_blocks < LANES) {
        memset(padded, 0, sizeof(padded));
        memcpy(padded, weights, num_blocks * block_bytes(from));
        weights = padded;
    }
    f32v x[VALUES];
    load_blocks(from, weights, x);
    const bool fits = to == DL_Q8_0 ? to_q8_0(x, num_blocks, out) : to_int4(x, num_blocks, out);
    return fits && all_finite(x);
}

}  // namespace
}  // namespace dl

using namespace dl;

extern "C" int dl_quantise(int from, int to, const uint8_t* const* parts, int64_t num_parts, int64_t num_blocks,
                           uint8_t* out, int threads) {
    if (from > DL_BF16 || (to != DL_Q8_0 && to != DL_INT4)) return DL_UNSUPPORTED;
    const int64_t from_bytes = block_bytes(from), to_bytes = to == DL_Q8_0 ? Q8_0_BYTES : INT4_BYTES;
    const int64_t num_pieces = div_up(num_blocks, PIECE);
    bool fits = true;
#pragma omp parallel for num_threads(threads) schedule(dynamic) reduction(&& : fits)
    for (int64_t i = 0; i < num_parts * num_pieces; i++) {
        const int64_t part = i / num_pieces, start = i % num_pieces * PIECE, end = least(start + PIECE, num_blocks);
        for (int64_t block = start; block < end; block += LANES)
            fits = quantise(from, to, parts[part] + block * from_bytes, least(LANES, end - block),
                            out + (part * num_blocks + block) * to_bytes) && fits;
    }
    return fits ? DL_OK : DL_NO_SCALE;
}
