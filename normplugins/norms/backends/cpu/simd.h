/* Macros that compile loops for the vector units of the processor. */

#include <stdint.h>

/* A function is compiled for several instruction sets; the best one for the processor is selected at run time. */
#if defined(__x86_64__) && defined(__GLIBC__)
#define CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define CLONES
#endif

#define PRAGMA(text) _Pragma(#text)
#define SIMD(clauses) PRAGMA(omp simd clauses)
