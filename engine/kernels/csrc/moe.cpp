// The feed-forward half of a layer: routed experts and a shared one, or a plain SwiGLU, added to the hidden states.
//
// Tokens are brought together by expert, so that an expert's weights are read once however many tokens chose it. Three
// passes: gate and up projections of every expert, then the inner activations made ready, then the down projections by
// output rows, where each token's experts are added in ascending order, the shared one last.
#include <atomic>
#include <new>
#include <utility>
#include <vector>

#include "norm.h"
#include "products.h"
#include "tiles.h"

namespace dl {
namespace {

constexpr int64_t TOKENS_AT_ONCE = 2048;

struct Expert {
    const dl_matrix *gate, *up, *down;
    int part;
    int64_t tokens;      // how many chose it
    int64_t first_slot;  // its tokens' places in the slot arrays, a multiple of 16
    bool shared;
};

struct Task {
    int32_t expert, first_panel, end_panel;
};

// The tokens of one call, and its scratch memory.
struct Batch {
    const dl_moe& moe;
    float* x;
    int64_t m, hidden;
    int threads;

    float *normed = nullptr, *logits = nullptr, *sum = nullptr, *shared_weight = nullptr;
    int32_t* chosen = nullptr;      // [m][top_k], ascending
    float* weights = nullptr;       // [m][top_k]
    int32_t* slot_token = nullptr;  // which token a slot holds, [slots]
    float* slot_weight = nullptr;   // and with what weight its expert counts
    bool forms[3] = {};             // those that matrices take the normed inputs in
    uint8_t* tiles[3] = {};         // every token's normed inputs, by form
    uint8_t* gathered[3] = {};      // the same by slot
    float* inner = nullptr;         // silu(gate) * up, [slots][intermediate]
    uint8_t* inner_tiles = nullptr; // the same in the form the down projection takes
    uint8_t* scratch = nullptr;     // for each thread: a panel, its sums, and gate products of all tokens
    int64_t scratch_bytes = 0, panel_bytes = 0;

    TileShape input_shape() const { return {hidden}; }
    bool routed() const { return moe.router != nullptr; }
};

void use(bool* forms, const dl_matrix* matrix) {
    if (matrix) forms[matrix->form] = true;
}

// Softmax over all experts, the top k of them in ascending order, and their weights.
void choose(const float* logits, int64_t num_experts, int top_k, bool normalise, int32_t* chosen, float* weights) {
    float most = logits[0];
    for (int64_t e = 1; e < num_experts; e++) most = logits[e] > most ? logits[e] : most;
    int count = 0;
    for (int64_t e = 0; e < num_experts; e++) {  // kept from best to worst; the lower number wins a tie
        if (count == top_k && !(logits[e] > logits[chosen[count - 1]])) continue;
        int place = count < top_k ? count++ : count - 1;
        for (; place > 0 && logits[e] > logits[chosen[place - 1]]; place--) chosen[place] = chosen[place - 1];
        chosen[place] = int32_t(e);
    }
    float total = 0.0f;
    auto weigh = [&](float logit) { return first_lane(exp(set1(logit) - set1(most))); };
    if (normalise) {
        for (int i = 0; i < top_k; i++) total += weights[i] = weigh(logits[chosen[i]]);
    } else {
        f32v sums = zero();
        int64_t e = 0;
        for (; e + 16 <= num_experts; e += 16) sums = sums + exp(load(logits + e) - set1(most));
        total = sum(sums);
        for (; e < num_experts; e++) total += weigh(logits[e]);
        for (int i = 0; i < top_k; i++) weights[i] = weigh(logits[chosen[i]]);
    }
    for (int i = 0; i < top_k; i++) weights[i] /= total;
    for (int i = 1; i < top_k; i++)  // ascending by number
        for (int j = i; j > 0 && chosen[j] < chosen[j - 1]; j--) {
            std::swap(chosen[j], chosen[j - 1]);
            std::swap(weights[j], weights[j - 1]);
        }
}

float dot(const float* a, const float* b, int64_t n) {
    f32v total = zero();
    by_sixteen(n, [&](int64_t i, int64_t left) {
        total = fma(load_up_to(a + i, left), load_up_to(b + i, left), total);
    });
    return sum(total);
}

// Give every expert that was chosen its slots, sixteen at a time.
void assign_slots(Batch& b, std::vector<Expert>& experts) {
    const dl_moe& moe = b.moe;
    int64_t slot = 0;
    experts.clear();
    if (b.routed()) {
        const int64_t num_experts = moe.router->rows, pairs = b.m * moe.top_k;
        std::vector<int64_t> next(num_experts, 0);
        for (int64_t i = 0; i < pairs; i++) next[b.chosen[i]]++;
        for (int64_t e = 0; e < num_experts; e++) {
            if (!next[e]) continue;
            experts.push_back({moe.gate, moe.up, moe.down, int(e), next[e], slot, false});
            const int64_t begin = slot;
            slot += round_up(next[e], 16);
            next[e] = begin;
        }
        for (int64_t i = 0; i < pairs; i++) {
            const int64_t at = next[b.chosen[i]]++;
            b.slot_token[at] = int32_t(i / moe.top_k);
            b.slot_weight[at] = b.weights[i];
        }
    }
    if (moe.shared_gate_proj) {
        experts.push_back({moe.shared_gate_proj, moe.shared_up, moe.shared_down, 0, b.m, slot, true});
        for (int64_t t = 0; t < b.m; t++) b.slot_token[slot + t] = int32_t(t), b.slot_weight[slot + t] = b.shared_weight[t];
    }
}

void cut_tasks(const Batch& b, const std::vector<Expert>& experts, std::vector<Task>& tasks) {
    int64_t total = 0;
    for (const Expert& e : experts) total += panels_of(*e.gate);
    const int64_t chunk = chunk_of(total, b.threads * 8);
    tasks.clear();
    for (size_t e = 0; e < experts.size(); e++)
        for (int64_t p = 0, end = panels_of(*experts[e].gate); p < end; p += chunk)
            tasks.push_back({int32_t(e), int32_t(p), int32_t(least(end, p + chunk))});
}

void gather(Batch& b, const Expert& e) {
    const TileShape shape = b.input_shape();
    bool forms[3] = {};
    use(forms, e.gate), use(forms, e.up);
    for (int form = 0; form < 3; form++) {
        if (!forms[form] || e.shared) continue;
        const int64_t bytes = shape.bytes(form);
        for (int64_t i = 0; i < e.tokens; i++) {
            const int64_t slot = e.first_slot + i, token = b.slot_token[slot];
            move(form, shape, b.tiles[form] + token / 16 * bytes, int(token % 16), b.gathered[form] + slot / 16 * bytes, int(slot % 16));
        }
    }
}

uint8_t* inputs_of(const Batch& b, const Expert& e, int form) {
    const int64_t bytes = b.input_shape().bytes(form);
    return e.shared ? b.tiles[form] : b.gathered[form] + e.first_slot / 16 * bytes;
}

// All that lie before an expert are routed ones, of one size: the shared one comes last.
float* inner_of(const Batch& b, const Expert& e) { return b.inner + (b.routed() ? e.first_slot * b.moe.gate->rows : 0); }
uint8_t* inner_tiles_of(const Batch& b, const Expert& e) {
    return b.inner_tiles + (b.routed() ? e.first_slot / 16 * TileShape{b.moe.down->columns}.bytes(b.moe.down->form) : 0);
}

bool gate_and_up(const Batch& b, const Expert& e, const Task& task, uint8_t* scratch) {
    Panel gate(*e.gate, scratch), up(*e.up, scratch);
    float *sum = (float*)(scratch + b.panel_bytes), *gated = (float*)(scratch + b.panel_bytes + Panel::SUM_BYTES);
    float* inner = inner_of(b, e);
    const int64_t size = e.gate->rows;
    for (int64_t p = task.first_panel; p < task.end_panel; p++) {
        const int64_t rows = least(16, size - 16 * p);
        const uint8_t* next = gate.start_of(e.part, p + 1 < task.end_panel ? 16 * (p + 1) : 0);
        const bool done = gate.multiply(e.part, 16 * p, up.start_of(e.part, 16 * p), inputs_of(b, e, e.gate->form), e.tokens, sum,
                                        [&](int64_t t0, int64_t n, const float* y) { memcpy(gated + 16 * t0, y, 64 * n); }) &&
                          up.multiply(e.part, 16 * p, next, inputs_of(b, e, e.up->form), e.tokens, sum,
                                      [&](int64_t t0, int64_t n, const float* y) {
            for (int64_t t = 0; t < n; t++)
                store_up_to(inner + (t0 + t) * size + 16 * p, rows, silu(load(gated + 16 * (t0 + t))) * load(y + 16 * t));
        });
        if (!done) return false;
    }
    return true;
}

bool down(const Batch& b, const std::vector<Expert>& experts, int64_t first_panel, int64_t end_panel, uint8_t* scratch) {
    const int64_t column = 16 * first_panel, width = least(b.hidden, 16 * end_panel) - column;
    float* sum = (float*)(scratch + b.panel_bytes);
    for (int64_t t = 0; t < b.m; t++) memset(b.sum + t * b.hidden + column, 0, 4 * width);
    for (size_t i = 0; i < experts.size(); i++) {
        const Expert& e = experts[i];
        Panel panel(*e.down, scratch);
        for (int64_t p = first_panel; p < end_panel; p++) {
            const uint8_t* next = panel.start_of(e.part, 16 * (p + 1));
            if (p + 1 == end_panel && i + 1 < experts.size())
                next = experts[i + 1].down->parts[experts[i + 1].part] + column * experts[i + 1].down->row_bytes;
            const int64_t rows = least(16, b.hidden - 16 * p);
            const bool done = panel.multiply(e.part, 16 * p, next, inner_tiles_of(b, e), e.tokens, sum,
                                             [&](int64_t t0, int64_t n, const float* y) {
                for (int64_t t = 0; t < n; t++) {
                    const int64_t slot = e.first_slot + t0 + t;
                    float* to = b.sum + b.slot_token[slot] * b.hidden + 16 * p;
                    store_up_to(to, rows, fma(set1(b.slot_weight[slot]), load(y + 16 * t), load_up_to(to, rows)));
                }
            });
            if (!done) return false;
        }
    }
    for (int64_t t = 0; t < b.m; t++)
        for (int64_t i = column; i < column + width; i++) b.x[t * b.hidden + i] += b.sum[t * b.hidden + i];
    return true;
}

// Take the scratch memory apart; without memory, tell how much it takes.
int64_t carve(Batch& b, Carver c) {
    const dl_moe& moe = b.moe;
    const TileShape shape = b.input_shape();
    const int64_t tokens = round_up(b.m, AT_ONCE), pairs = b.routed() ? b.m * moe.top_k : 0;
    const int64_t chosen_experts = b.routed() ? least(pairs, moe.router->rows) : 0;
    // Tiles are looked at up to four at a time: three more than there are may be read.
    const int64_t routed_slots = b.routed() ? round_up(pairs, 16) + 16 * (chosen_experts + 4) : 0;
    const int64_t slots = routed_slots + tokens + 64;
    bool by_slot[3] = {};
    use(by_slot, moe.gate), use(by_slot, moe.up);
    for (const dl_matrix* matrix : {moe.router, moe.gate, moe.up, moe.shared_gate_proj, moe.shared_up}) use(b.forms, matrix);
    b.normed = c.take<float>(b.m * b.hidden);
    b.logits = c.take<float>(b.m * (b.routed() ? moe.router->rows : 0));
    b.sum = c.take<float>(b.m * b.hidden);
    b.shared_weight = c.take<float>(b.m);
    b.chosen = c.take<int32_t>(pairs);
    b.weights = c.take<float>(pairs);
    b.slot_token = c.take<int32_t>(slots);
    b.slot_weight = c.take<float>(slots);
    for (int form = 0; form < 3; form++) {
        b.tiles[form] = c.take<uint8_t>(b.forms[form] ? (tokens / 16 + 4) * shape.bytes(form) : 0);
        b.gathered[form] = c.take<uint8_t>(by_slot[form] ? (routed_slots / 16 + 4) * shape.bytes(form) : 0);
    }
    int64_t inner = 0, inner_tiles = 0;
    b.panel_bytes = 0;
    for (const dl_matrix* matrix : {moe.router, moe.gate, moe.up, moe.down, moe.shared_gate_proj, moe.shared_up, moe.shared_down})
        if (matrix) b.panel_bytes = greatest(b.panel_bytes, Panel::bytes(*matrix));
    if (b.routed()) {
        inner += routed_slots * moe.gate->rows;
        inner_tiles += (routed_slots / 16 + 4) * TileShape{moe.down->columns}.bytes(moe.down->form);
    }
    if (moe.shared_gate_proj) {
        inner += (tokens + 64) * moe.shared_gate_proj->rows;
        inner_tiles += (tokens / 16 + 8) * TileShape{moe.shared_down->columns}.bytes(moe.shared_down->form);
    }
    b.inner = c.take<float>(inner);
    b.inner_tiles = c.take<uint8_t>(inner_tiles);
    b.scratch_bytes = b.panel_bytes + Panel::SUM_BYTES + 64 * tokens;
    b.scratch = c.take<uint8_t>(b.threads * b.scratch_bytes);
    return c.used;
}

int add_experts(const dl_moe& moe, float* x, int64_t m, int64_t hidden, int threads) {
    Batch b{moe, x, m, hidden, threads};
    uint8_t* memory = Workspace::need(carve(b, Carver(nullptr)));
    if (!memory) return DL_OUT_OF_MEMORY;
    carve(b, Carver(memory));
    const TileShape shape = b.input_shape();
    const int64_t output_panels = div_up(hidden, 16), output_chunk = chunk_of(output_panels, threads * 4);
    std::vector<Expert> experts;
    std::vector<Task> tasks;
    std::atomic<bool> known{true};
    bool enough_memory = true;

#pragma omp parallel num_threads(threads)
    {
        const TileRegisters registers;
        uint8_t* scratch = b.scratch + this_thread() * b.scratch_bytes;
#pragma omp for schedule(static)
        for (int64_t t = 0; t < m; t++) {
            float* row = b.normed + t * hidden;
            rms_norm(x + t * hidden, hidden, moe.norm, moe.eps, row);
            for (int form = 0; form < 3; form++)
                if (b.forms[form]) fill(form, shape, row, b.tiles[form] + t / 16 * shape.bytes(form), int(t % 16));
            b.shared_weight[t] = moe.shared_gate ? first_lane(sigmoid(set1(dot(row, moe.shared_gate, hidden)))) : 1.0f;
        }
        if (b.routed()) {
            const int64_t num_experts = moe.router->rows;
#pragma omp for schedule(dynamic)
            for (int64_t p = 0; p < panels_of(*moe.router); p++) {
                Panel panel(*moe.router, scratch);
                float* sum = (float*)(scratch + b.panel_bytes);
                const int64_t rows = least(16, num_experts - 16 * p);
                const bool done = panel.multiply(0, 16 * p, panel.start_of(0, 16 * (p + 1)), b.tiles[moe.router->form], m, sum,
                                                 [&](int64_t t0, int64_t n, const float* y) {
                    for (int64_t t = 0; t < n; t++) memcpy(b.logits + (t0 + t) * num_experts + 16 * p, y + 16 * t, 4 * rows);
                });
                if (!done) known = false;
            }
#pragma omp for schedule(static)
            for (int64_t t = 0; t < m; t++)
                choose(b.logits + t * num_experts, num_experts, moe.top_k, moe.normalise, b.chosen + t * moe.top_k, b.weights + t * moe.top_k);
        }
#pragma omp single
        try {
            assign_slots(b, experts);
            cut_tasks(b, experts, tasks);
        } catch (const std::bad_alloc&) {
            enough_memory = false;
            experts.clear(), tasks.clear();
        }
#pragma omp for schedule(dynamic)
        for (size_t e = 0; e < experts.size(); e++) gather(b, experts[e]);
#pragma omp for schedule(dynamic)
        for (size_t i = 0; i < tasks.size(); i++)
            if (!gate_and_up(b, experts[tasks[i].expert], tasks[i], scratch)) known = false;
#pragma omp for schedule(dynamic)
        for (size_t i = 0; i < experts.size(); i++) {
            const Expert& e = experts[i];
            const TileShape inner{e.down->columns};
            for (int64_t t = 0; t < e.tokens; t++)
                fill(e.down->form, inner, inner_of(b, e) + t * e.down->columns, inner_tiles_of(b, e) + t / 16 * inner.bytes(e.down->form), int(t % 16));
        }
#pragma omp for schedule(dynamic)
        for (int64_t p = 0; p < output_panels; p += output_chunk)
            if (enough_memory && !down(b, experts, p, least(output_panels, p + output_chunk), scratch)) known = false;
    }
    return !enough_memory ? DL_OUT_OF_MEMORY : known ? DL_OK : DL_UNSUPPORTED;
}

}  // namespace
}  // namespace dl

extern "C" int dl_moe_add(const dl_moe* moe, float* x, int64_t m, int threads) {
    const int64_t hidden = moe->router ? moe->router->columns : moe->shared_gate_proj->columns;
    for (int64_t first = 0; first < m; first += dl::TOKENS_AT_ONCE) {
        const int64_t tokens = dl::least(dl::TOKENS_AT_ONCE, m - first);
        const int failed = dl::add_experts(*moe, x + first * hidden, tokens, hidden, threads);
        if (failed) return failed;
    }
    return DL_OK;
}

extern "C" int dl_mlp_add(const float* norm, float eps, const dl_matrix* gate, const dl_matrix* up, const dl_matrix* down, float* x,
                          int64_t m, int threads) {
    dl_moe only_shared{};
    only_shared.norm = norm, only_shared.eps = eps;
    only_shared.shared_gate_proj = gate, only_shared.shared_up = up, only_shared.shared_down = down;
    return dl_moe_add(&only_shared, x, m, threads);
}
