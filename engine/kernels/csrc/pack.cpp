// Weights in the order the products read them.
#include "common.h"
#include "lanes.h"

namespace dl {
namespace {

// Bytes at … at + size - 1 of sixteen rows, one row after the other.
void interleave(const uint8_t* rows, int64_t stride, int at, int size, uint8_t* out) {
    for (int row = 0; row < 16; row++) memcpy(out + 16 * at + size * row, rows + row * stride + at, size);
}

void pack_block(const uint8_t* rows, int64_t stride, int head, int bytes, uint8_t* out) {
    int at = 0;
    if (head >= 4) interleave(rows, stride, 0, 4, out), at = 4;
    if (head > at) interleave(rows, stride, at, head - at, out), at = head;
    for (; at + 16 <= bytes; at += 16) {
        u32v words[4];
        transpose4(rows + at, stride, words);
        for (int i = 0; i < 4; i++) store_words(out + 16 * (at + 4 * i), words[i]);
    }
    for (; at + 4 <= bytes; at += 4) interleave(rows, stride, at, 4, out);
    if (at < bytes) interleave(rows, stride, at, bytes - at, out);
}

}  // namespace
}  // namespace dl

extern "C" int dl_pack(int head, int block_bytes, const uint8_t* const* parts, int64_t num_parts, int64_t rows, int64_t row_bytes,
                       uint8_t* out, int threads) {
    using namespace dl;
    const int64_t panels = rows / 16;
    uint8_t* copies = Workspace::need(threads * round_up(16 * row_bytes, 64));
    if (!copies) return DL_OUT_OF_MEMORY;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 4)
    for (int64_t i = 0; i < num_parts * panels; i++) {
        uint8_t *copy = copies + this_thread() * round_up(16 * row_bytes, 64), *to = out + i * 16 * row_bytes;
        memcpy(copy, parts[i / panels] + i % panels * 16 * row_bytes, 16 * row_bytes);
        for (int64_t at = 0; at < row_bytes; at += block_bytes) pack_block(copy + at, row_bytes, head, block_bytes, to + 16 * at);
    }
    return DL_OK;
}
