// Weights in the order the products read them.
#include "common.h"
#include "lanes.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace dl {
namespace {

// What a block has before its first whole word; a rest follows its last one. Negative: a format that is not packed.
int head_bytes(int format) {
    switch (format) {
        case DL_INT4: return 5;
        case DL_MXFP4: return 1;
        case DL_Q4_0: case DL_Q5_0: case DL_Q8_0: case DL_IQ4_NL: return 2;
        case DL_Q4_1: case DL_Q5_1: case DL_Q2_K: case DL_Q3_K: case DL_Q4_K: case DL_Q5_K: case DL_Q6_K: case DL_IQ4_XS:
        case DL_NVFP4: return 0;
        default: return -1;
    }
}

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

// Ask for large pages: the processor finds its way through them with less effort. `memory` has not been touched yet.
void want_large_pages([[maybe_unused]] uint8_t* memory, [[maybe_unused]] int64_t bytes) {
#if defined(__linux__)
    const uintptr_t page = 4096, start = (uintptr_t(memory) + page - 1) / page * page, end = (uintptr_t(memory) + bytes) / page * page;
    if (end > start) madvise((void*)start, end - start, MADV_HUGEPAGE);  // where it fails, small ones serve
#endif
}

}  // namespace
}  // namespace dl

extern "C" int dl_pack(int format, int block_bytes, const uint8_t* const* parts, int64_t num_parts, int64_t rows, int64_t row_bytes,
                       uint8_t* out, int threads) {
    using namespace dl;
    const int head = head_bytes(format);
    if (head < 0) return DL_UNSUPPORTED;
    const int64_t panels = rows / 16;
    want_large_pages(out, num_parts * rows * row_bytes);
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
