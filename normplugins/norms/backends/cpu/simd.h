/* Macros that compile loops for the vector units of the processor. */

#include <stdint.h>

/* Compile a function for several instruction sets; the best one for the processor is selected at run time. */
#if defined(__x86_64__) && defined(__GLIBC__)
#define CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define CLONES
#endif

/* bfloat16 is the upper half of a float. */
static inline float from_bfloat16(uint16_t x) {
    const union { uint32_t bits; float number; } wide = {(uint32_t)x << 16};
    return wide.number;
}

static inline uint16_t to_bfloat16(float x) { /* rounds to nearest even */
    const union { float number; uint32_t bits; } wide = {x};
    const uint32_t bits = wide.bits;
    return x != x ? (bits >> 16) | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

#define IDENTITY(x) (x)
#define PRAGMA(text) _Pragma(#text)
#define SIMD(clauses) PRAGMA(omp simd clauses)
