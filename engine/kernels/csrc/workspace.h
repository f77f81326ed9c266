// Scratch memory that the calling thread keeps between calls; it only grows. All of a call's scratch is taken at once,
// before its threads start, so that nothing can fail among them.
#pragma once
#include <cstdint>
#include <cstdlib>
#if defined(_OPENMP)
#include <omp.h>
#endif

namespace dl {

static inline int this_thread() {
#if defined(_OPENMP)
    return omp_get_thread_num();
#else
    return 0;
#endif
}

class Workspace {
public:
    // At least `bytes` bytes, aligned to a cache line; null when there is no more memory.
    static uint8_t* need(int64_t bytes) {
        thread_local Workspace mine;
        if (bytes > mine.size) {
            free(mine.memory);
            mine.size = (bytes + bytes / 4 + 4095) / 4096 * 4096;
            mine.memory = (uint8_t*)aligned_alloc(4096, mine.size);
            if (!mine.memory) mine.size = 0;
        }
        return mine.memory;
    }

private:
    Workspace() = default;
    ~Workspace() { free(memory); }
    uint8_t* memory = nullptr;
    int64_t size = 0;
};

// Hands out pieces of memory one after the other. The first pass, without memory, tells how much is needed.
class Carver {
public:
    explicit Carver(uint8_t* memory) : base(memory) {}
    template <class T>
    T* take(int64_t count) {
        T* here = (T*)(uintptr_t(base) + used);
        used += (count * int64_t(sizeof(T)) + 63) / 64 * 64;
        return here;
    }
    int64_t used = 0;

private:
    uint8_t* base;
};

}  // namespace dl
