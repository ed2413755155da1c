/* Dropout on a CPU. The mask is computed from a seed and the element's index, and never stored. */

#include <stddef.h>

#include "../norms/backends/cpu/simd.h"

#define BLOCK 1024 /* elements per call of draw */

/* Write four random 16-bit numbers to each 64-bit entry, by SplitMix64 (Steele, Lea, Flood 2014) from ``first`` on. */
CLONES static void draw(uint64_t *numbers, uint64_t first) {
    SIMD() for (int64_t i = 0; i < BLOCK / 4; i++) {
        uint64_t z = (first + i + 1) * 0x9e3779b97f4a7c15u;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        numbers[i] = z ^ (z >> 31);
    }
}

#define REAL float
#define ELEMENT float
#define LOAD IDENTITY
#define STORE IDENTITY
#define NAME(name) name##_float
#include "dropout.h"
#undef ELEMENT
#undef LOAD
#undef STORE
#undef NAME

#define ELEMENT uint16_t
#define LOAD from_bfloat16
#define STORE to_bfloat16
#define NAME(name) name##_bfloat16
#include "dropout.h"
#undef REAL
#undef ELEMENT
#undef LOAD
#undef STORE
#undef NAME

#define REAL double
#define ELEMENT double
#define LOAD IDENTITY
#define STORE IDENTITY
#define NAME(name) name##_double
#include "dropout.h"
