// Gated DeltaNet between its projections: causal convolution, normalised queries and keys, the delta rule, gated norm.
//
// The delta rule runs token by token in fp32, one order of operations per element of the state, so that nothing
// depends on how a sequence is cut into calls. A thread takes a few columns of a head's state through a block of
// tokens: they lie in its first-level cache, and one pass over them does all that happens between two tokens (rank-1
// update, the query's read, the next token's decay and its key's read).
#include "lanes.h"
#include "norm.h"

namespace dl {
namespace {

constexpr int64_t TOKENS = 32;  // whose queries, keys and values are prepared together, and stay near
#if defined(__AVX512F__)
constexpr int VECTORS = 4;  // of sixteen columns each: what the registers hold with two sums for each
#elif defined(__AVX2__)
constexpr int VECTORS = 1;
#else
constexpr int VECTORS = 2;
#endif
constexpr int64_t COLUMNS = 16 * VECTORS;
constexpr int64_t MOST_TAPS = 16;
// What lies apart is not fetched unasked.
constexpr int64_t TOKENS_AHEAD = 6;  // projected rows
constexpr int64_t ROWS_AHEAD = 16;   // of a state

struct Scratch {
    float* weights;  // of the convolution, [conv_kernel][a key head's channels, each part padded to 16]
    float *q, *k;    // [TOKENS][key_pitch]
    float* v;        // [TOKENS][value_pitch], one head's
    float *decay, *beta;  // [TOKENS]
    float* panel;    // [key_dim][COLUMNS]
};

struct Mix {
    const dl_delta_net& net;
    const float* projected;
    int64_t ldp;
    float *delta, *conv_state, *out;
    int64_t group = net.value_heads / net.key_heads;
    int64_t key_pitch = round_up(net.key_dim, 16), value_pitch = round_up(net.value_dim, 16);
    int64_t weights_pitch = 2 * key_pitch + group * value_pitch;
    int64_t out_pitch = net.value_heads * net.value_dim, channels = 2 * net.key_heads * net.key_dim + out_pitch;

    const float* row(const dl_span& span, int64_t token) const { return projected + (span.start + token) * ldp; }
    float* past(const dl_span& span) const { return conv_state + span.slot * (net.conv_kernel - 1) * channels; }
};

inline void prefetch(const float* p, int64_t count) {
    for (int64_t i = 0; i < count; i += 16) __builtin_prefetch(p + i);
}

// Some of a key head's channels: where the convolution counts them, and where a projected row has them.
struct Channels {
    int64_t first, offset, count;
};
Channels queries(const Mix& m, int64_t g) {
    return {g * m.net.key_dim, m.net.q_offset + g * m.net.q_stride, m.net.key_dim};
}
Channels keys(const Mix& m, int64_t g) {
    return {(m.net.key_heads + g) * m.net.key_dim, m.net.k_offset + g * m.net.k_stride, m.net.key_dim};
}
Channels values(const Mix& m, int64_t g, int64_t j, int64_t column, int64_t count) {
    const int64_t first = 2 * m.net.key_heads * m.net.key_dim + (g * m.group + j) * m.net.value_dim + column;
    return {first, m.net.v_offset + g * m.net.v_stride + j * m.net.value_dim + column, count};
}

// A column of weights for each tap, so that lanes are channels.
void transpose_weights(const Mix& m, Channels c, float* weights) {
    const int64_t taps = m.net.conv_kernel, pitch = m.weights_pitch;
    const float* from = m.net.conv + c.first * taps;
    int64_t i = 0;
    if (taps == 4)
        for (; i + 16 <= c.count; i += 16) {
            u32v columns[4];
            transpose4((const uint8_t*)(from + 4 * i), 16, columns);
            for (int j = 0; j < 4; j++) store_words(weights + j * pitch + i, columns[j]);
        }
    for (; i < c.count; i++)
        for (int64_t j = 0; j < taps; j++) weights[j * pitch + i] = from[i * taps + j];
}

// silu of sixteen channels' convolution, the oldest input first, for `TAPS` inputs or as many as there are
template <int TAPS>
inline f32v convolved(const float* const* inputs, const float* weights, int64_t pitch, int64_t taps, int64_t i,
                      int64_t left) {
    f32v total = load_up_to(inputs[0] + i, left) * load_up_to(weights + i, left);
    for (int64_t j = 1; j < (TAPS ? TAPS : taps); j++)
        total = fma(load_up_to(inputs[j] + i, left), load_up_to(weights + j * pitch + i, left), total);
    return silu(total);
}

// The convolution at tokens first … first + n - 1 of a span: out [n][pitch], zero up to sixteen channels.
template <int TAPS>
void convolve_taps(const Mix& m, const dl_span& span, Channels c, int64_t first, int64_t n, const float* weights,
                   float* out, int64_t pitch) {
    const int64_t taps = m.net.conv_kernel, weights_pitch = m.weights_pitch;
    const float* inputs[TAPS ? TAPS : MOST_TAPS];
    for (int64_t t = first; t < first + n; t++, out += pitch) {
        if (t + TOKENS_AHEAD < span.num_rows) prefetch(m.row(span, t + TOKENS_AHEAD) + c.offset, c.count);
        for (int64_t j = 0; j < taps; j++) {
            const int64_t token = t - (taps - 1) + j;
            const float* past = m.past(span) + (taps - 1 + token) * m.channels + c.first;
            inputs[j] = token < 0 ? past : m.row(span, token) + c.offset;
        }
        by_sixteen(c.count, [&](int64_t i, int64_t left) {
            store(out + i, convolved<TAPS>(inputs, weights, weights_pitch, taps, i, left));
        });
    }
}
void convolve(const Mix& m, const dl_span& span, Channels c, int64_t first, int64_t n, const float* weights, float* out,
              int64_t pitch) {
    auto how = m.net.conv_kernel == 4 ? convolve_taps<4> : convolve_taps<0>;
    how(m, span, c, first, n, weights, out, pitch);
}

// Rows [n][pitch] of length 1, times a factor.
void normalise(float* rows, int64_t n, int64_t pitch, float eps, float factor) {
    for (int64_t t = 0; t < n; t++, rows += pitch) {
        f32v squares = zero();
        for (int64_t i = 0; i < pitch; i += 16) squares = fma(load(rows + i), load(rows + i), squares);
        const f32v inverse = set1(1.0f / std::sqrt(sum(squares) + eps));
        for (int64_t i = 0; i < pitch; i += 16) store(rows + i, load(rows + i) * inverse * set1(factor));
    }
}

// A head's decay and beta at tokens first … first + n - 1.
void gates(const Mix& m, const dl_span& span, int64_t g, int64_t j, int64_t first, int64_t n, Scratch& s) {
    const int64_t head = g * m.group + j, b = m.net.ba_offset + 2 * g * m.group + j, a = b + m.group;
    const f32v rate = set1(m.net.decay_rate[head]), bias = set1(m.net.dt_bias[head]);
    for (int64_t t = 0; t < n; t += 16) {
        float bs[16] = {}, as[16] = {};
        for (int64_t i = 0; i < least(16, n - t); i++) {
            bs[i] = m.row(span, first + t + i)[b];
            as[i] = m.row(span, first + t + i)[a];
        }
        store(s.beta + t, sigmoid(load(bs)));
        store(s.decay + t, exp(rate * softplus(load(as) + bias)));
    }
}

// `width` of a head's columns, in the memory of its slot.
struct Columns {
    float* state;
    int64_t pitch, keys;
    int64_t width;
};

template <bool WHOLE>
inline f32v load_columns(const float* p, int v, int64_t width) {
    if (WHOLE) return load(p + 16 * v);
    return 16 * v < width ? load_up_to(p + 16 * v, width - 16 * v) : zero();
}
template <bool WHOLE>
inline void store_columns(float* p, int v, int64_t width, f32v x) {
    if (WHOLE) store(p + 16 * v, x);
    else if (16 * v < width) store_up_to(p + 16 * v, width - 16 * v, x);
}

// The delta rule for n tokens: S = decay S; d = beta (v - S'k); S = S + k d'; o = S'q. The state goes from its slot to
// the panel with the first token's decay, and back with the last token's update.
template <bool WHOLE>
void delta_rule(Columns c, const Scratch& s, int64_t n, int64_t key_pitch, const float* v, int64_t value_pitch,
                float* out, int64_t out_pitch) {
    float* const panel = s.panel;
    f32v read[VECTORS], d[VECTORS], o[VECTORS];
    for (int x = 0; x < VECTORS; x++) read[x] = zero();
    const f32v first_decay = set1(s.decay[0]);
    for (int64_t i = 0; i < c.keys; i++) {
        const f32v k = set1(s.k[i]);
#pragma GCC unroll 4
        for (int x = 0; x < VECTORS; x++) {
            __builtin_prefetch(c.state + (i + ROWS_AHEAD) * c.pitch + 16 * x);
            const f32v state = first_decay * load_columns<WHOLE>(c.state + i * c.pitch, x, c.width);
            read[x] = fma(k, state, read[x]);
            store(panel + i * COLUMNS + 16 * x, state);
        }
    }
    for (int64_t t = 0; t < n; t++) {
        const float *q = s.q + t * key_pitch, *k = s.k + t * key_pitch, *next = k + key_pitch;
        const f32v beta = set1(s.beta[t]);
#pragma GCC unroll 4
        for (int x = 0; x < VECTORS; x++) {
            d[x] = beta * (load_columns<WHOLE>(v + t * value_pitch, x, c.width) - read[x]);
            o[x] = read[x] = zero();
        }
        if (t + 1 < n) {
            const f32v decay = set1(s.decay[t + 1]);
            for (int64_t i = 0; i < c.keys; i++) {
                float* row = panel + i * COLUMNS;
                const f32v ki = set1(k[i]), qi = set1(q[i]), next_ki = set1(next[i]);
#pragma GCC unroll 4
                for (int x = 0; x < VECTORS; x++) {
                    f32v state = fma(ki, d[x], load(row + 16 * x));
                    o[x] = fma(qi, state, o[x]);
                    state = decay * state;
                    read[x] = fma(next_ki, state, read[x]);
                    store(row + 16 * x, state);
                }
            }
        } else {
            for (int64_t i = 0; i < c.keys; i++) {
                const f32v ki = set1(k[i]), qi = set1(q[i]);
#pragma GCC unroll 4
                for (int x = 0; x < VECTORS; x++) {
                    const f32v state = fma(ki, d[x], load(panel + i * COLUMNS + 16 * x));
                    o[x] = fma(qi, state, o[x]);
                    store_columns<WHOLE>(c.state + i * c.pitch, x, c.width, state);
                }
            }
        }
#pragma GCC unroll 4
        for (int x = 0; x < VECTORS; x++) store_columns<WHOLE>(out + t * out_pitch, x, c.width, o[x]);
    }
}

// RMS norm, factor and silu(z) at tokens first … first + n - 1 of a head, in place.
void gated_norm(const Mix& m, const dl_span& span, int64_t g, int64_t j, int64_t first, int64_t n) {
    const int64_t dim = m.net.value_dim;
    const float* factor = m.net.norm;
    for (int64_t t = first; t < first + n; t++) {
        float* y = m.out + (span.start + t) * m.out_pitch + (g * m.group + j) * dim;
        const float* z = m.row(span, t) + m.net.z_offset + g * m.net.z_stride + j * dim;
        if (t + TOKENS_AHEAD < span.num_rows) prefetch(z + TOKENS_AHEAD * m.ldp, dim);
        const f32v inverse = set1(inverse_rms(y, dim, m.net.eps));
        by_sixteen(dim, [&](int64_t i, int64_t left) {
            const f32v normed = load_up_to(factor + i, left) * (load_up_to(y + i, left) * inverse);
            store_up_to(y + i, left, normed * silu(load_up_to(z + i, left)));
        });
    }
}

// A share of a key head's work on one span: value heads head … end_head - 1, their columns column … end_column - 1.
struct Unit {
    const dl_span& span;
    int64_t g, head, end_head, column, end_column;
};

void run(const Mix& m, const Unit& u, Scratch& s) {
    const int64_t kp = m.key_pitch, vp = m.value_pitch, dim = m.net.value_dim;
    const bool whole_heads = u.end_column - u.column == dim;
    transpose_weights(m, queries(m, u.g), s.weights);
    transpose_weights(m, keys(m, u.g), s.weights + kp);
    for (int64_t j = u.head; j < u.end_head; j++)
        transpose_weights(m, values(m, u.g, j, u.column, u.end_column - u.column), s.weights + 2 * kp + j * vp);
    for (int64_t first = 0; first < u.span.num_rows; first += TOKENS) {
        const int64_t n = least(TOKENS, u.span.num_rows - first);
        convolve(m, u.span, queries(m, u.g), first, n, s.weights, s.q, kp);
        convolve(m, u.span, keys(m, u.g), first, n, s.weights + kp, s.k, kp);
        normalise(s.q, n, kp, m.net.l2_eps, 1.0f / std::sqrt(float(m.net.key_dim)));
        normalise(s.k, n, kp, m.net.l2_eps, 1.0f);
        for (int64_t j = u.head; j < u.end_head; j++) {
            const Channels v = values(m, u.g, j, u.column, u.end_column - u.column);
            convolve(m, u.span, v, first, n, s.weights + 2 * kp + j * vp, s.v, vp);
            gates(m, u.span, u.g, j, first, n, s);
            const int64_t head = u.g * m.group + j;
            float* state = m.delta + (u.span.slot * m.net.value_heads + head) * m.net.key_dim * dim;
            float* out = m.out + (u.span.start + first) * m.out_pitch + head * dim;
            for (int64_t column = u.column; column < u.end_column; column += COLUMNS) {
                const Columns c{state + column, dim, m.net.key_dim, least(COLUMNS, u.end_column - column)};
                auto rule = c.width == COLUMNS ? delta_rule<true> : delta_rule<false>;
                rule(c, s, n, kp, s.v + column - u.column, vp, out + column, m.out_pitch);
            }
            if (whole_heads) gated_norm(m, u.span, u.g, j, first, n);
        }
    }
}

// Keep the last inputs of the convolution. Rows go from older to newer, so that one may be moved before it is replaced.
void advance_past(const Mix& m, const dl_span& span, Channels c) {
    const int64_t kept = m.net.conv_kernel - 1;
    for (int64_t r = 0; r < kept && span.num_rows; r++) {
        const int64_t token = span.num_rows - kept + r;
        float* to = m.past(span) + r * m.channels + c.first;
        const float* from = token < 0 ? to + span.num_rows * m.channels : m.row(span, token) + c.offset;
        memcpy(to, from, 4 * c.count);
    }
}

}  // namespace
}  // namespace dl

using namespace dl;

extern "C" int dl_delta_net_mix(const dl_delta_net* net, const float* projected, int64_t ldp, float* delta,
                                float* conv_state, const dl_span* spans, int64_t num_spans, float* out, int threads) {
    const Mix m{*net, projected, ldp, delta, conv_state, out};
    const int64_t group = m.group, dim = net->value_dim, blocks = div_up(dim, COLUMNS);
    // Shares of a key head repeat its convolution, so there are only as many as keep the threads busy.
    int64_t num_rows = 0, shares = 1;
    for (int64_t i = 0; i < num_spans; i++) num_rows += spans[i].num_rows;
    const int64_t finer[2] = {group, group * blocks};
    for (int i = 0; i < 2 && threads > 1; i++)
        if (num_spans * net->key_heads * shares < 2 * threads) shares = finer[i];
    const int64_t shares_of_head = shares > group ? blocks : 1, heads = shares == 1 ? group : 1;
    if (!num_rows) return DL_OK;
    if (net->conv_kernel > MOST_TAPS) return DL_UNSUPPORTED;

    auto carve = [&](Carver c, Scratch& s) {
        s.weights = c.take<float>(net->conv_kernel * m.weights_pitch);
        s.q = c.take<float>(TOKENS * m.key_pitch);
        s.k = c.take<float>(TOKENS * m.key_pitch);
        s.v = c.take<float>(TOKENS * m.value_pitch);
        s.decay = c.take<float>(TOKENS);
        s.beta = c.take<float>(TOKENS);
        s.panel = c.take<float>(net->key_dim * COLUMNS);
        return c.used;
    };
    Scratch sizes;
    const int64_t bytes = carve(Carver(nullptr), sizes);
    uint8_t* memory = Workspace::need(threads * bytes);
    if (!memory) return DL_OUT_OF_MEMORY;

#pragma omp parallel num_threads(threads)
    {
        Scratch s;
        carve(Carver(memory + this_thread() * bytes), s);
#pragma omp for schedule(dynamic)
        for (int64_t index = 0; index < num_spans * net->key_heads * shares; index++) {
            const int64_t share = index % shares, g = index / shares % net->key_heads;
            const int64_t head = share / shares_of_head * heads, column = share % shares_of_head * COLUMNS;
            const int64_t end_column = shares_of_head > 1 ? least(dim, column + COLUMNS) : dim;
            run(m, {spans[index / shares / net->key_heads], g, head, head + heads, column, end_column}, s);
        }
        // What all shares of a head had to read, or to write, first.
#pragma omp for schedule(dynamic)
        for (int64_t index = 0; index < num_spans * net->key_heads; index++) {
            const dl_span& span = spans[index / net->key_heads];
            const int64_t g = index % net->key_heads;
            advance_past(m, span, queries(m, g));
            advance_past(m, span, keys(m, g));
            for (int64_t j = 0; j < group; j++) advance_past(m, span, values(m, g, j, 0, dim));
            if (shares_of_head > 1)
                for (int64_t j = 0; j < group; j++) gated_norm(m, span, g, j, 0, span.num_rows);
        }
    }
    return DL_OK;
}
