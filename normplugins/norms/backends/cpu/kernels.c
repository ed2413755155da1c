/* The forward and the backward kernel of every norm of this package on a CPU, in single and in double precision. */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "simd.h"

/* The number of rows that are summed in REAL before the sum is added to a total in double precision. */
#define CHUNK 64

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
