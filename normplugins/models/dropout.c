/* Dropout on a CPU whose mask is drawn where it is used, from a seed and an element's number alone. */

#include <stddef.h>

#include "../norms/backends/cpu/simd.h"

#define BLOCK 1024 /* elements that are drawn for at once */

/* Four 16-bit numbers a place, by SplitMix64 (Steele, Lea and Flood 2014) counted from ``first``. */
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
#define LOAD AS_IT_IS
#define STORE AS_IT_IS
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
#define LOAD AS_IT_IS
#define STORE AS_IT_IS
#define NAME(name) name##_double
#include "dropout.h"
