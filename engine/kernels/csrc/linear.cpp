// Linear layers, with the norm before them; embedding rows and the norm alone.
#include <atomic>

#include "norm.h"
#include "products.h"
#include "tiles.h"

namespace dl {
namespace {

constexpr int64_t TOKENS_AT_ONCE = 128;  // their inputs stay in the second-level cache

struct Scratch {
    uint8_t* tiles[3];  // by form
    float* normed;      // a row for each thread
    uint8_t* panel;     // for each thread
    float* sum;         // for each thread
};

}  // namespace
}  // namespace dl

using namespace dl;

extern "C" int dl_linear(const float* x, int64_t ldx, int64_t m, const float* norm, float eps,
                         const dl_matrix* const* matrices, int num_matrices, float* out, int64_t ldo, int accumulate,
                         int threads) {
    if (!m) return DL_OK;
    const int64_t columns = matrices[0]->columns;
    const TileShape shape{columns};
    bool uses[3] = {};
    int64_t num_panels = 0, panel_bytes = 0;
    for (int i = 0; i < num_matrices; i++) {
        uses[matrices[i]->form] = true;
        num_panels += panels_of(*matrices[i]);
        panel_bytes = greatest(panel_bytes, Panel::bytes(*matrices[i]));
    }
    const int64_t at_once = least(TOKENS_AT_ONCE, round_up(m, 64));
    Scratch s;
    auto carve = [&](Carver c) {
        for (int form = 0; form < 3; form++)
            s.tiles[form] = uses[form] ? c.take<uint8_t>(at_once / 16 * shape.bytes(form)) : nullptr;
        s.normed = c.take<float>(threads * round_up(columns, 16));
        s.panel = c.take<uint8_t>(threads * panel_bytes);
        s.sum = c.take<float>(threads * Panel::SUM_BYTES / 4);
        return c.used;
    };
    uint8_t* memory = Workspace::need(carve(Carver(nullptr)));
    if (!memory) return DL_OUT_OF_MEMORY;
    carve(Carver(memory));
    const int64_t chunk = chunk_of(num_panels, threads * 8);
    std::atomic<bool> known{true};

#pragma omp parallel num_threads(threads)
    {
        const TileRegisters registers;
        const int thread = this_thread();
        uint8_t* panel_scratch = s.panel + thread * panel_bytes;
        float *normed = s.normed + thread * round_up(columns, 16), *sum = s.sum + thread * Panel::SUM_BYTES / 4;
        for (int64_t first = 0; first < m; first += at_once) {
            const int64_t tokens = least(at_once, m - first);
#pragma omp for schedule(static)
            for (int64_t t = 0; t < tokens; t++) {
                const float* row = x + (first + t) * ldx;
                if (norm) rms_norm(row, columns, norm, eps, normed), row = normed;
                for (int form = 0; form < 3; form++)
                    if (uses[form]) fill(form, shape, row, s.tiles[form] + t / 16 * shape.bytes(form), int(t % 16));
            }
#pragma omp for schedule(dynamic, chunk)
            for (int64_t index = 0; index < num_panels; index++) {
                int64_t here = index, at = 0;
                int which = 0;
                for (; here >= panels_of(*matrices[which]); which++) {
                    here -= panels_of(*matrices[which]);
                    at += matrices[which]->rows;
                }
                const dl_matrix& matrix = *matrices[which];
                Panel panel(matrix, panel_scratch);
                const int64_t row0 = 16 * here, rows = least(16, matrix.rows - row0);
                float* to = out + first * ldo + at + row0;
                const bool done = panel.multiply(0, row0, panel.start_of(0, row0 + 16), s.tiles[matrix.form], tokens, sum,
                                                 [&](int64_t t0, int64_t n, const float* y) {
                    for (int64_t t = 0; t < n; t++) {
                        float* row = to + (t0 + t) * ldo;
                        if (accumulate)
                            for (int64_t i = 0; i < rows; i++) row[i] += y[16 * t + i];
                        else
                            memcpy(row, y + 16 * t, 4 * rows);
                    }
                });
                if (!done) known = false;
            }
        }
    }
    return known ? DL_OK : DL_UNSUPPORTED;
}

extern "C" int dl_rms_norm(const float* x, int64_t m, int64_t n, const float* factor, float eps, float* out, int threads) {
#pragma omp parallel for num_threads(threads) if (m > 16)
    for (int64_t i = 0; i < m; i++) rms_norm(x + i * n, n, factor, eps, out + i * n);
    return DL_OK;
}

extern "C" int dl_embed(const dl_matrix* matrix, const int64_t* ids, int64_t m, float* out, int) {
    const int64_t columns = matrix->columns;
    // A panel whose sixteen rows are all the same one, since nothing may be read after the last: its values are lane 0.
    dl_matrix row = *matrix;
    row.form = DL_FORM_F32, row.row_bytes = 0;
    uint8_t* memory = Workspace::need(Panel::bytes(row));
    if (!memory) return DL_OUT_OF_MEMORY;
    for (int64_t i = 0; i < m; i++) {
        const uint8_t* part = matrix->parts[0] + ids[i] * matrix->row_bytes;
        if (matrix->format == DL_F32) {
            memcpy(out + i * columns, part, 4 * columns);
            continue;
        }
        if (matrix->format == DL_FP8_E4M3) return DL_UNSUPPORTED;
        row.parts = &part;
        Panel panel(row, memory);
        if (!panel.expand_all()) return DL_UNSUPPORTED;
        const float* values = (const float*)memory;
        for (int64_t j = 0; j < columns; j++) out[i * columns + j] = values[16 * j];
    }
    return DL_OK;
}
