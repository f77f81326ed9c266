// Drawing tokens from logits, each row by itself. The torch reference has the steps and their order; results are the
// same to the last bit, because a weight is 2^34 e^((x - most) / temperature) rounded to a whole number, and sums of
// whole numbers are exact in any order.
//
// Much of a row is read once only: the largest logit of each block of 128 is noted, and tells which blocks can hold one
// of the most likely tokens.
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <functional>
#include <numeric>

#include "common.h"

namespace dl {
namespace {

constexpr int64_t BLOCK = 128;
constexpr int64_t FIRST_PREFIX = 64, GROWTH = 8;  // top-p looks at so many of the most likely tokens, then at more
constexpr float MOST_WEIGHT = 17179869184.0f;     // 2^34
constexpr float LOG2_E = 1.44269504f;
constexpr float NEVER = -INFINITY;

// The first n logits of a row, and a thread's scratch memory.
struct Row {
    float* x;
    int64_t n;
    float *block_most, *spare;    // [blocks]
    double* block_weight;         // [blocks]
    float *weights, *before;      // [vocab]
    uint64_t *keys, *other_keys;  // [vocab]

    static Row carve(Carver& memory, int64_t vocab) {
        const int64_t blocks = div_up(vocab, BLOCK);
        Row r{};
        r.block_most = memory.take<float>(blocks);
        r.spare = memory.take<float>(blocks);
        r.block_weight = memory.take<double>(blocks);
        r.weights = memory.take<float>(vocab);
        r.before = memory.take<float>(vocab);
        r.keys = memory.take<uint64_t>(vocab);
        r.other_keys = memory.take<uint64_t>(vocab);
        return r;
    }
    int64_t blocks() const { return div_up(n, BLOCK); }
    int64_t end(int64_t block) const { return least(n, (block + 1) * BLOCK); }
};

f32v load_or_never(const float* p, int64_t n) {
    if (n >= 16) return load(p);
    float lanes[16];
    for (int64_t i = 0; i < 16; i++) lanes[i] = i < n ? p[i] : NEVER;
    return load(lanes);
}

// Note the largest logit of each block, from a block on; whether all that was looked at is finite.
bool note_most(const Row& r, int64_t block) {
    f32v sums = zero();  // x · 0 is not 0 for infinities and what is no number
    for (; block < r.blocks(); block++) {
        const float* x = r.x + block * BLOCK;
        f32v most = set1(NEVER);
        by_sixteen(r.end(block) - block * BLOCK, [&](int64_t i, int64_t left) {
            most = max(load_or_never(x + i, left), most);
            sums = sums + load_up_to(x + i, left) * zero();
        });
        r.block_most[block] = largest(most);
    }
    return sum(sums) == 0.0f;
}

// The first of the largest.
int64_t find_best(const Row& r) {
    const int64_t block = std::max_element(r.block_most, r.block_most + r.blocks()) - r.block_most;
    return std::max_element(r.x + block * BLOCK, r.x + r.end(block)) - r.x;
}

// 2^34 · 2^((x - most) · scale), rounded to whole numbers, for x up to most; 0 from 2^-35 of the most down. Products
// and sums are rounded one by one, as torch does it.
f32v weigh(f32v x, float most, float scale) {
    const f32v y = max((x - set1(most)) * set1(scale), set1(-40.0f));
    const f32v n = round_even(y), r = y - n;
    f32v p = set1(1.32647482e-3f * MOST_WEIGHT) * r + set1(9.67151299e-3f * MOST_WEIGHT);
    p = p * r + set1(5.55073358e-2f * MOST_WEIGHT);
    p = p * r + set1(2.40222424e-1f * MOST_WEIGHT);
    p = p * r + set1(6.93147004e-1f * MOST_WEIGHT);
    p = p * r + set1(MOST_WEIGHT);
    return round_even(p * pow2(n));
}

// Sixteen exact sums at once; weights below the least one do not count.
typedef float floats8 __attribute__((vector_size(32)));
typedef double doubles8 __attribute__((vector_size(64)));
struct Sums {
    doubles8 low = {}, high = {};
    void add(f32v weights, float least_weight) {
        floats8 halves[2];
        store((float*)halves, weights);
        low += __builtin_convertvector(halves[0] >= least_weight ? halves[0] : floats8{}, doubles8);
        high += __builtin_convertvector(halves[1] >= least_weight ? halves[1] : floats8{}, doubles8);
    }
    double total() const {
        const doubles8 both = low + high;
        return ((both[0] + both[1]) + (both[2] + both[3])) + ((both[4] + both[5]) + (both[6] + both[7]));
    }
};

// The weights of a block together.
double weigh_block(const Row& r, int64_t block, float most, float scale, float least_weight) {
    if ((r.block_most[block] - most) * scale < -36.0f) return 0.0;
    Sums sums;
    int64_t i = block * BLOCK;
    const int64_t end = r.end(block);
    for (; i + 16 <= end; i += 16) sums.add(weigh(load(r.x + i), most, scale), least_weight);
    if (i < end) sums.add(weigh(load_or_never(r.x + i, end - i), most, scale), least_weight);
    return sums.total();
}

double weigh_blocks(const Row& r, float most, float scale, float least_weight) {
    double total = 0.0;
    for (int64_t block = 0; block < r.blocks(); block++)
        total += r.block_weight[block] = weigh_block(r, block, most, scale, least_weight);
    return total;
}

// Ascending keys are descending logits, equal ones by ascending id.
uint64_t key_of(float x, int64_t id) {
    uint32_t bits;
    x += 0.0f;  // no minus zero
    memcpy(&bits, &x, 4);
    return uint64_t(bits >> 31 ? bits : bits ^ 0x7fffffff) << 32 | uint64_t(id);
}
int64_t id_of(uint64_t key) { return int64_t(key & 0xffffffff); }

// Sort all keys by their upper halves; equal ones stay in order.
void sort_keys(const Row& r) {
    constexpr int BITS = 11;
    uint64_t *from = r.keys, *to = r.other_keys;
    for (int shift = 32; shift < 64; shift += BITS) {
        int64_t starts[(1 << BITS) + 1] = {};
        const auto digit = [&](uint64_t key) { return key >> shift & ((1 << BITS) - 1); };
        for (int64_t i = 0; i < r.n; i++) starts[digit(from[i]) + 1]++;
        std::partial_sum(starts, starts + (1 << BITS), starts);
        for (int64_t i = 0; i < r.n; i++) to[starts[digit(from[i])]++] = from[i];
        std::swap(from, to);
    }
    std::copy(from, from + r.n, r.keys);
}

// The keys of the k most likely tokens, in order, to the front of r.keys.
void find_most_likely(const Row& r, int64_t k) {
    if (k >= r.blocks()) {
        for (int64_t i = 0; i < r.n; i++) r.keys[i] = key_of(r.x[i], i);
        return sort_keys(r);
    }
    if (k == 0) return;
    std::copy(r.block_most, r.block_most + r.blocks(), r.spare);
    std::nth_element(r.spare, r.spare + k - 1, r.spare + r.blocks(), std::greater<float>());
    const float threshold = r.spare[k - 1];  // k blocks reach it, and so do at least k tokens
    int64_t count = 0;
    for (int64_t block = 0; block < r.blocks(); block++)
        if (r.block_most[block] >= threshold)
            for (int64_t i = block * BLOCK; i < r.end(block); i++)
                if (r.x[i] >= threshold) r.keys[count++] = key_of(r.x[i], i);
    if (k < count) std::nth_element(r.keys, r.keys + k, r.keys + count);
    std::sort(r.keys, r.keys + k);
}

// The weights of the first k keys to r.weights.
void weigh_most_likely(const Row& r, int64_t k, float most, float scale) {
    for (int64_t i = 0; i < k; i++) r.weights[i] = r.x[id_of(r.keys[i])];
    by_sixteen(k, [&](int64_t i, int64_t left) {
        store_up_to(r.weights + i, left, weigh(load_or_never(r.weights + i, left), most, scale));
    });
}

// How much weight comes before the token to be drawn.
double point(double total, double uniform) { return std::min(std::floor(uniform * total), total - 1.0); }

int64_t draw_from_all(const Row& r, const dl_draw& d, float most) {
    const float least_weight = d.min_p * MOST_WEIGHT;
    double left = point(weigh_blocks(r, most, d.scale, least_weight), d.uniform);
    int64_t block = 0;
    while (left >= r.block_weight[block]) left -= r.block_weight[block++];
    for (int64_t i = block * BLOCK;; i++) {
        const float weight = first_lane(weigh(set1(r.x[i]), most, d.scale));
        if (weight < least_weight) continue;
        if (left < weight) return i;
        left -= weight;
    }
}

int64_t draw_from_top(const Row& r, const dl_draw& d, float most, int64_t top_k) {
    const bool all = top_k == r.n;
    double total = all ? weigh_blocks(r, most, d.scale, 0.0f) : 0.0, weight = 0.0;
    int64_t k = all ? least(FIRST_PREFIX, r.n) : top_k, kept = 0;
    for (;; k = k * GROWTH < r.blocks() ? k * GROWTH : top_k) {
        find_most_likely(r, k);
        weigh_most_likely(r, k, most, d.scale);
        if (!all) total = std::accumulate(r.weights, r.weights + k, 0.0);
        for (kept = 0, weight = 0.0; kept < k && weight < d.top_p * total; kept++) weight += r.weights[kept];
        if (k == top_k || weight >= d.top_p * total) break;
    }
    std::replace_if(r.weights, r.weights + kept, [&](float w) { return w < d.min_p * MOST_WEIGHT; }, 0.0f);
    double left = point(std::accumulate(r.weights, r.weights + kept, 0.0), d.uniform);
    int64_t i = 0;
    while (left >= r.weights[i]) left -= r.weights[i++];
    return id_of(r.keys[i]);
}

int64_t draw(const Row& r, const dl_draw& d) {
    const int64_t best = find_best(r);
    const float most = r.x[best];
    if (most == NEVER) return DL_ALL_BARRED;
    if (d.scale == 0.0f) return best;
    const int64_t top_k = d.top_k ? least(d.top_k, r.n) : r.n;
    return top_k < r.n || d.top_p < 1.0 ? draw_from_top(r, d, most, top_k) : draw_from_all(r, d, most);
}

// An extreme penalty overflows, and 0 times it is no number: such values are held where they can be computed with.
float penalise(float x, float repetition) {
    x = x > 0.0f ? x / repetition : x * repetition;
    return x != x ? 0.0f : std::min(std::max(x, -FLT_MAX), FLT_MAX);
}

bool is_adjusted(const dl_draw& d) { return d.num_seen || d.num_biases || d.allowed_ids || d.mask || d.num_barred; }

// Only tokens whose bits are set stay. Eight at once, because most bytes have all bits alike.
void apply_mask(const Row& r, const uint8_t* mask, int64_t num_bytes) {
    for (int64_t i = 0; i < r.n; i += 8) {
        const uint8_t bits = i / 8 < num_bytes ? mask[i / 8] : 0;
        if (bits == 0xff) continue;
        for (int64_t j = i; j < least(i + 8, r.n); j++)
            if (!(bits >> (j - i) & 1)) r.x[j] = NEVER;
    }
}

// Penalties, bias, mask and bars.
void adjust(const Row& r, const dl_draw& d) {
    for (int64_t i = 0; i < d.num_seen; i++) {
        float& x = r.x[d.seen_ids[i]];
        if (d.repetition != 1.0f) x = penalise(x, d.repetition);
        if (d.seen_counts[i]) x -= d.frequency * float(d.seen_counts[i]) + d.presence;
    }
    for (int64_t i = 0; i < d.num_biases; i++) r.x[d.bias_ids[i]] += d.biases[i];
    if (d.allowed_ids) {
        std::fill(r.weights, r.weights + r.n, NEVER);
        for (int64_t i = 0; i < d.num_allowed; i++) r.weights[d.allowed_ids[i]] = r.x[d.allowed_ids[i]];
        std::copy(r.weights, r.weights + r.n, r.x);
    }
    if (d.mask) apply_mask(r, d.mask, d.num_mask_bytes);
    for (int64_t i = 0; i < d.num_barred; i++) r.x[d.barred_ids[i]] = NEVER;
}

// The most likely tokens with their log-probabilities; returns what is to be subtracted from any logit.
double tell_logprobs(const Row& r, const dl_draw& d) {
    const float most = r.x[find_best(r)];
    const double total = most + std::log(weigh_blocks(r, most, LOG2_E, 0.0f) / MOST_WEIGHT);
    const int64_t k = least(d.num_logprobs, r.n);
    find_most_likely(r, k);
    for (int64_t i = 0; i < k; i++) {
        d.top_ids[i] = id_of(r.keys[i]);
        d.top_logprobs[i] = r.x[d.top_ids[i]] - total;
    }
    return total;
}

void sample(Row r, int64_t used, dl_draw& d) {
    d.token_id = DL_NOT_FINITE;
    if (!note_most(r, 0)) return;
    const bool adjusted = is_adjusted(d), tells = d.num_logprobs >= 0;
    const double total = tells ? tell_logprobs(r, d) : 0.0;
    if (tells && adjusted) std::copy(r.x, r.x + r.n, r.before);
    adjust(r, d);
    r.n = used;
    note_most(r, adjusted ? 0 : used / BLOCK);
    d.token_id = draw(r, d);
    if (tells && d.token_id >= 0) d.logprob = (adjusted ? r.before : r.x)[d.token_id] - total;
}

}  // namespace
}  // namespace dl

using namespace dl;

int dl_sample(float* logits, int64_t rows, int64_t vocab, int64_t used, dl_draw* draws, int threads) {
    const int team = int(least(threads, rows));
    Carver shape(nullptr);
    Row::carve(shape, vocab);
    const int64_t bytes = shape.used;
    uint8_t* memory = Workspace::need(team * bytes);
    if (!memory) return DL_OUT_OF_MEMORY;
#pragma omp parallel for num_threads(team) schedule(dynamic, 1)
    for (int64_t i = 0; i < rows; i++) {
        Carver mine(memory + this_thread() * bytes);
        Row r = Row::carve(mine, vocab);
        r.x = logits + i * vocab;
        r.n = vocab;
        sample(r, used, draws[i]);
    }
    return DL_OK;
}
