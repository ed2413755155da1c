/* The forward and the backward kernel of every norm of this package on a CPU, in single and in double precision. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Sums run over so many rows in REAL before they are added up in double precision. */
#define CHUNK 64

/* A function is compiled for several instruction sets, and the processor's is taken when the library is loaded. */
#if defined(__x86_64__) && defined(__gnu_linux__)
#define CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define CLONES
#endif
#define PRAGMA(text) _Pragma(#text)
#define SIMD(clauses) PRAGMA(omp simd clauses)

#define REAL float
#define SQRT sqrtf
#define NAME(name) name##_float
#include "passes.h"
#undef REAL
#undef SQRT
#undef NAME

#define REAL double
#define SQRT sqrt
#define NAME(name) name##_double
#include "passes.h"
