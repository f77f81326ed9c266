// Gated attention between its projections: normalised and rotated queries and keys, keys and values to the paged cache,
// causal softmax attention, gate.
//
// A context is cut into segments of a fixed number of keys from position 0 on. Within one the softmax is exact; the
// segments' sums are merged in order. So a query's result depends on its position and the cache alone, and segments can
// be shared out to threads. All the queries that share a KV head meet its keys together, sixteen to a tile.
#include "attention_segment.h"
#include "norm.h"

namespace dl {
namespace {

constexpr int64_t MOST_ROWS = 512;      // queries of a unit, which share the preparation of keys and values
constexpr int64_t ROWS_OF_SPLIT = 64;   // queries of a span whose segments are shared out

// A softmax over some keys, for the queries of a tile: its sums are relative to 2^most.
struct Partial {
    float *most, *total;  // [16]
    float* sums;          // [16][padded dim]

    static int64_t size(int64_t padded) { return (2 + padded) * LANES; }
    static Partial at(float* memory) { return {memory, memory + LANES, memory + 2 * LANES}; }
};

// One thread's work: some tokens of a span at one KV head, and some segments of their context.
struct Unit {
    int64_t span, head, token, num_tokens, segment, end_segment;
    float* partials;  // where to leave them, one a tile; null when this is the whole context
};

struct Mix {
    const dl_attention& net;
    const float* projected;
    int64_t ldp;
    const float *cos, *sin;
    const dl_span* spans;
    float* out;
    int64_t dim = net.head_dim, padded = round_up(net.head_dim, 32), group = net.num_heads / net.num_kv_heads;

    int64_t tiles(int64_t tokens) const { return div_up(tokens * group, LANES); }
    int64_t segments(const dl_span& s) const { return div_up(s.position + s.num_rows, SEGMENT); }
    const float* query(const dl_span& s, int64_t token, int64_t head) const {
        return projected + (s.start + token) * ldp + head * 2 * dim;
    }
};

// RMS norm, rotation and a scale: x [head_dim] to y [padded dim].
void prepare(const Mix& m, const float* x, const float* factor, int64_t batch_row, float scale, float* __restrict y) {
    const int64_t half = m.net.rotary_half, dim = m.dim;
    const f32v inverse = set1(inverse_rms(x, dim, m.net.eps) * scale);
    for (int64_t i = dim / 16 * 16; i < m.padded; i += 16) store(y + i, zero());
    by_sixteen(dim, [&](int64_t i, int64_t left) {
        store(y + i, load_up_to(x + i, left) * inverse * load_up_to(factor + i, left));
    });
    const float *__restrict cos = m.cos + batch_row * half, *__restrict sin = m.sin + batch_row * half;
    for (int64_t i = 0; i < half; i++) {
        const float a = y[i], b = y[i + half];
        y[i] = a * cos[i] - b * sin[i];
        y[i + half] = b * cos[i] + a * sin[i];
    }
}

inline void convert(float x, float& to) { to = x; }
inline void convert(float x, uint16_t& to) { to = f32_to_bf16(x); }

// Keys and values of one row of the batch to the cache.
template <class T>
void remember(const Mix& m, int64_t row, int64_t kv_row, T* keys, T* values, float* spare) {
    for (int64_t head = 0; head < m.net.num_kv_heads; head++) {
        const float* x = m.projected + row * m.ldp + head * m.dim;
        const int64_t at = (kv_row * m.net.num_kv_heads + head) * m.dim;
        prepare(m, x + m.net.k_offset, m.net.k_norm, row, 1.0f, spare);
        for (int64_t i = 0; i < m.dim; i++) convert(spare[i], keys[at + i]);
        for (int64_t i = 0; i < m.dim; i++) convert(x[m.net.v_offset + i], values[at + i]);
    }
}

// Turns a tile's scores [keys][16], in whole blocks, into weights, a few keys at a time.
class Softmax {
public:
    void start(float* of, int64_t keys, const Partial& to) {
        scores = of, n = keys, at = 0, result = to;
        f32v m[4];
        for (int j = 0; j < 4; j++) m[j] = set1(-3.0e38f);
        for (int64_t key = 0; key < n; key += 4)
            for (int j = 0; j < 4; j++) m[j] = max(m[j], load(scores + (key + j) * LANES));
        most = max(max(m[0], m[1]), max(m[2], m[3]));
        total = zero();
        for (f32v& p : part) p = zero();
    }

    // Eight keys more, if there are any; `weigh` hears of every block.
    template <class Weigh>
    bool some(Weigh weigh) {
        if (at == n) return false;
        float* s = scores + at * LANES;
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) {
            const f32v weight = exp2(load(s + j * LANES) - most);
            part[j % 4] = part[j % 4] + weight;
            store(s + j * LANES, weight);
        }
        at += 8;
        if (at % BLOCK) return true;
        total = total + ((part[0] + part[1]) + (part[2] + part[3]));
        for (f32v& p : part) p = zero();
        weigh(at - BLOCK, scores + (at - BLOCK) * LANES);
        if (at == n) store(result.most, most), store(result.total, total);
        return true;
    }

private:
    f32v most, total, part[4];
    float* scores;
    int64_t n = 0, at = 0;
    Partial result;
};

// Add `from`, of the segment that starts at position `first`, to `to`, of all segments before it. `rows` queries from
// `row` of the unit on; those that lie before the segment have nothing there.
void merge(const Mix& m, const Partial& to, const Partial& from, int64_t position, int64_t row, int64_t rows,
           int64_t first) {
    const f32v a = load(to.most), b = load(from.most), most = max(a, b);
    float keep[LANES], gain[LANES];
    store(keep, exp2(a - most));
    store(gain, exp2(b - most));
    for (int64_t i = 0; i < rows; i++) {
        if (position + (row + i) / m.group < first) continue;
        to.most[i] = to.most[i] > from.most[i] ? to.most[i] : from.most[i];
        to.total[i] = to.total[i] * keep[i] + from.total[i] * gain[i];
        float *x = to.sums + i * m.padded, *y = from.sums + i * m.padded;
        const f32v k = set1(keep[i]), g = set1(gain[i]);
        for (int64_t j = 0; j < m.padded; j += 16) store(x + j, fma(load(y + j), g, load(x + j) * k));
    }
}

// sums / total · sigmoid(gate)
inline f32v gated(f32v sums, f32v total, f32v gate) { return sums / (total * (set1(1.0f) + exp(zero() - gate))); }

// The outputs of `rows` queries from `row` on.
void finish(const Mix& m, const Partial& p, const Unit& u, int64_t row, int64_t rows) {
    const dl_span& span = m.spans[u.span];
    for (int64_t i = 0; i < rows; i++) {
        const int64_t token = u.token + (row + i) / m.group, head = u.head * m.group + (row + i) % m.group;
        const float *gate = m.query(span, token, head) + m.dim, *sums = p.sums + i * m.padded;
        float* y = m.out + ((span.start + token) * m.net.num_heads + head) * m.dim;
        const f32v total = set1(p.total[i]);
        by_sixteen(m.dim, [&](int64_t j, int64_t left) {
            store_up_to(y + j, left, gated(load(sums + j), total, load_up_to(gate + j, left)));
        });
    }
}

// What a thread writes to on its way.
template <class T>
struct Scratch {
    Segment<T> segment;
    uint8_t* queries;
    float *rows, *scores, *partials;

    Scratch(const Mix& m, int64_t tiles, Carver& c) : segment(m.dim, c) {
        queries = c.take<uint8_t>(tiles * Segment<T>::query_bytes(m.dim));
        rows = c.take<float>(LANES * m.padded);
        scores = c.take<float>(2 * 2 * SEGMENT * LANES);
        partials = c.take<float>((tiles + 2) * Partial::size(m.padded));
    }
};

// One unit's work: pairs of tiles, segment by segment. While the scores of one pair are computed, those of the pair
// before it become weights, since tile products and vector arithmetic can go on at once.
template <class T>
class Worker {
public:
    Worker(const Mix& m, const Unit& u, const T* keys, const T* values, Scratch<T>& s)
        : m(m), u(u), s(s), span(m.spans[u.span]), segment(s.segment) {
        const int64_t head = u.head * m.dim, pitch = m.net.num_kv_heads * m.dim;
        cache = {keys + head, values + head, span.block_ids, m.net.block_size, pitch, m.dim};
        partials = u.partials ? u.partials : s.partials;
    }

    void run() {
        pack_queries();
        for (index = u.segment; index < u.end_segment; index++) {
            segment.open(cache, first(), seen(rows));
            for (int64_t tile = 0; tile < tiles; tile += 2) {
                const int64_t keys = seen(LANES * (tile + 2));
                if (keys <= 0) continue;
                const int count = int(least(2, tiles - tile));
                segment.scores(queries(tile), count, keys, scores(tile), [this] { weigh_some(); });
                add_values();
                start(tile, count, keys);
            }
            add_values();
        }
        if (u.partials) return;
        for (int64_t tile = 0; tile < tiles; tile++) finish(m, partial(tile), u, LANES * tile, rows_of(tile));
    }

private:
    int64_t first() const { return index * SEGMENT; }
    int64_t rows_of(int64_t tile) const { return least(LANES, rows - LANES * tile); }
    int64_t position_of(int64_t row) const { return span.position + u.token + least(row, rows - 1) / m.group; }
    // Keys of this segment that the rows before `end_row` see.
    int64_t seen(int64_t end_row) const { return least(SEGMENT, position_of(end_row - 1) + 1 - first()); }
    uint8_t* queries(int64_t tile) const { return s.queries + tile * Segment<T>::query_bytes(m.dim); }
    float* scores(int64_t tile) const { return s.scores + tile / 2 % 2 * 2 * SEGMENT * LANES; }  // of it and its pair
    Partial partial(int64_t tile) const { return Partial::at(partials + tile * Partial::size(m.padded)); }
    Partial spare(int64_t i) const { return Partial::at(s.partials + (tiles + i) * Partial::size(m.padded)); }

    void pack_queries() {
        const float scale = float(1.44269504088896 / std::sqrt(double(m.dim)));  // the softmax is one of powers of two
        for (int64_t row = 0; row < LANES * tiles; row++) {
            float* y = s.rows + row % LANES * m.padded;
            const int64_t token = u.token + row / m.group, head = u.head * m.group + row % m.group;
            if (row < rows) prepare(m, m.query(span, token, head), m.net.q_norm, span.start + token, scale, y);
            else memset(y, 0, 4 * m.padded);
            if (row % LANES == LANES - 1) segment.pack_queries(s.rows, queries(row / LANES));
        }
    }

    // The scores of one or two tiles are there. Keys that a query must not see get none.
    void start(int64_t tile, int count, int64_t keys) {
        pending_tile = tile, pending = count, pending_keys = keys;
        for (int i = 0; i < count; i++) {
            const int64_t row = LANES * (tile + i), n = round_up(keys, BLOCK);
            float* of = scores(tile) + i * SEGMENT * LANES;
            int64_t seen_by[LANES];
            for (int64_t lane = 0; lane < LANES; lane++) seen_by[lane] = seen(row + lane + 1);
            for (int64_t key = seen_by[0] < 0 ? 0 : seen_by[0]; key < n; key++)
                for (int64_t lane = 0; lane < LANES; lane++)
                    if (key >= seen_by[lane]) of[key * LANES + lane] = -INFINITY;
            result[i] = index == u.segment ? partial(tile + i) : spare(i);
            softmax[i].start(of, n, result[i]);
        }
    }

    bool weigh_some() {
        for (int i = 0; i < pending; i++) {
            auto weigh = [&](int64_t key, const float* weights) { segment.weigh(i, key, weights); };
            if (softmax[i].some(weigh)) return true;
        }
        return false;
    }

    // Weighted sums of the pending tiles.
    void add_values() {
        if (!pending) return;
        while (weigh_some()) {}
        float* sums[2] = {result[0].sums, result[1].sums};
        const int used[2] = {int(rows_of(pending_tile)), int(rows_of(pending_tile + 1))};
        segment.sums(pending, used, pending_keys, scores(pending_tile), sums);
        const int64_t position = span.position + u.token;
        for (int i = 0; i < pending && index > u.segment; i++)
            merge(m, partial(pending_tile + i), result[i], position, LANES * (pending_tile + i), used[i], first());
        pending = 0;
    }

    const Mix& m;
    const Unit& u;
    const Scratch<T>& s;
    const dl_span& span;
    Segment<T>& segment;
    Cache<T> cache;
    int64_t rows = u.num_tokens * m.group, tiles = m.tiles(u.num_tokens), index = 0;
    float* partials;
    Softmax softmax[2];
    Partial result[2] = {};
    int64_t pending_tile = 0, pending_keys = 0;
    int pending = 0;
};

// How the work is cut. A short span is cut into its segments, a long one into runs of tokens.
struct Plan {
    const Mix& m;
    int64_t tokens_of_unit;  // of a long span

    bool split(const dl_span& s) const { return s.num_rows * m.group <= ROWS_OF_SPLIT && m.segments(s) > 1; }
    int64_t units(const dl_span& s) const {
        const int64_t each = split(s) ? m.segments(s) : div_up(s.num_rows, tokens_of_unit);
        return each * m.net.num_kv_heads;
    }
    int64_t partial_floats(const dl_span& s) const {
        return split(s) ? units(s) * m.tiles(s.num_rows) * Partial::size(m.padded) : 0;
    }

    // A span's units. Heads change fastest: what one reads lies between what the others read.
    void list(int64_t index, float* partials, Unit* units) const {
        const dl_span& s = m.spans[index];
        const int64_t size = m.tiles(s.num_rows) * Partial::size(m.padded);
        for (int64_t i = 0; i < m.segments(s) && split(s); i++)
            for (int64_t head = 0; head < m.net.num_kv_heads; head++, partials += size)
                *units++ = {index, head, 0, s.num_rows, i, i + 1, partials};
        for (int64_t token = 0; token < s.num_rows && !split(s); token += tokens_of_unit)
            for (int64_t head = 0; head < m.net.num_kv_heads; head++) {
                const int64_t n = least(tokens_of_unit, s.num_rows - token), last = s.position + token + n - 1;
                *units++ = {index, head, token, n, 0, last / SEGMENT + 1, nullptr};
            }
    }
};

template <class T>
int attend(const Mix& m, const int64_t* kv_rows, T* keys, T* values, int64_t num_spans, int threads) {
    int64_t num_rows = 0, most_rows = 0;
    for (int64_t i = 0; i < num_spans; i++) {
        num_rows += m.spans[i].num_rows;
        most_rows = greatest(most_rows, m.spans[i].num_rows);
    }
    if (!num_rows) return DL_OK;
    // Long enough to share what is prepared, short enough to keep the threads busy.
    int64_t tokens = div_up(MOST_ROWS, m.group);
    const int64_t fair = threads > 1 ? num_rows * m.net.num_kv_heads / (4 * threads) : tokens;
    while (tokens > fair && tokens * m.group > 2 * LANES) tokens = (tokens + 1) / 2;
    const Plan plan{m, tokens};
    int64_t num_units = 0, num_floats = 0, unit_tokens = least(tokens, most_rows);
    for (int64_t i = 0; i < num_spans; i++) {
        num_units += plan.units(m.spans[i]);
        num_floats += plan.partial_floats(m.spans[i]);
        if (plan.split(m.spans[i])) unit_tokens = greatest(unit_tokens, m.spans[i].num_rows);
    }
    Unit* units;
    float* partials;
    int64_t shared, stride;  // bytes: what all threads use, and what each takes after it
    auto carve = [&](Carver c) {
        units = c.take<Unit>(num_units);
        partials = c.take<float>(num_floats);
        shared = c.used;
        Scratch<T>(m, m.tiles(unit_tokens), c);
        stride = c.used - shared;
        return shared + threads * stride;
    };
    uint8_t* memory = Workspace::need(carve(Carver(nullptr)));
    if (!memory) return DL_OUT_OF_MEMORY;
    carve(Carver(memory));
    for (int64_t i = 0, at = 0, floats = 0; i < num_spans; i++) {
        plan.list(i, partials + floats, units + at);
        at += plan.units(m.spans[i]);
        floats += plan.partial_floats(m.spans[i]);
    }

#pragma omp parallel num_threads(threads)
    {
        const TileRegisters registers;
        Carver c(memory + shared + this_thread() * stride);
        Scratch<T> s(m, m.tiles(unit_tokens), c);
#pragma omp for schedule(dynamic, 8)
        for (int64_t row = 0; row < num_rows; row++) remember(m, row, kv_rows[row], keys, values, s.rows);
        // Later units see longer contexts: they go first.
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < num_units; i++) Worker<T>(m, units[num_units - 1 - i], keys, values, s).run();
        // The segments of one head of one span, tile by tile, at the unit of the first of them.
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < num_units; i++) {
            const Unit& u = units[i];
            if (!u.partials || u.segment) continue;
            const dl_span& span = m.spans[u.span];
            const int64_t rows = u.num_tokens * m.group, size = Partial::size(m.padded);
            for (int64_t row = 0; row < rows; row += LANES) {
                const Partial to = Partial::at(u.partials + row / LANES * size);
                for (int64_t segment = 1; segment < m.segments(span); segment++) {
                    const Unit& next = units[i + segment * m.net.num_kv_heads];
                    const Partial from = Partial::at(next.partials + row / LANES * size);
                    merge(m, to, from, span.position, row, least(LANES, rows - row), segment * SEGMENT);
                }
                finish(m, to, u, row, least(LANES, rows - row));
            }
        }
    }
    return DL_OK;
}

}  // namespace
}  // namespace dl

using namespace dl;

extern "C" int dl_attention_mix(const dl_attention* attention, const float* projected, int64_t ldp, const float* cos,
                                const float* sin, const int64_t* kv_rows, void* keys, void* values,
                                const dl_span* spans, int64_t num_spans, float* out, int threads) {
    const Mix m{*attention, projected, ldp, cos, sin, spans, out};
    if (attention->kv_is_bf16) return attend(m, kv_rows, (uint16_t*)keys, (uint16_t*)values, num_spans, threads);
    return attend(m, kv_rows, (float*)keys, (float*)values, num_spans, threads);
}
