/* One pass of a norm over its rows in the precision REAL: included by kernels.c for float and for double. */

/* The forward computes y = scale z + bias and sums over rows, where z is x, x - centre, or x with each channel group
   divided by its root mean square. */
struct NAME(forward_pass) {
    const REAL *x;           /* (N, C) */
    const uint8_t *padding;  /* (N), not 0 where padding, or NULL */
    const REAL *centre;      /* (C) or NULL */
    const REAL *scale;       /* (C) */
    const REAL *bias;        /* (C) or NULL */
    REAL *y;                 /* (N, C), or NULL: compute sums only; 0 at padding unless padding is normalized */
    REAL *inverse;           /* (N, groups) receives 1 / root mean square of each group */
    REAL *sums;              /* (C) receives the sums of z over tokens, or NULL */
    REAL *squares;           /* (C) receives the sums of z^2 over tokens, or NULL */
    REAL *padding_squares;   /* (C) receives the sums of z^2 over padding, or NULL */
    double eps;
    int64_t rows, channels, groups; /* groups: 0 for none */
    int64_t padding_as_tokens;      /* padding is normalized like tokens */
    int64_t threads;
};

/* The backward computes dL/dz = of_g g + of_z z + constant, from it dL/dx, and sums over rows; z as in the forward. */
struct NAME(backward_pass) {
    const REAL *g, *x;       /* (N, C) */
    const uint8_t *padding;  /* (N) or NULL */
    const REAL *centre;      /* (C) or NULL */
    const REAL *inverse;     /* (N, groups), as the forward left it */
    const REAL *of_g;        /* (C) */
    const REAL *of_z;        /* (C) or NULL */
    const REAL *constant;    /* (C) or NULL */
    REAL *dx;                /* (N, C), or NULL: compute sums only; 0 at padding unless padding is normalized */
    REAL *products;          /* (C) receives the sums of g z, or NULL */
    REAL *sums;              /* (C) receives the sums of g, or NULL */
    int64_t rows, channels, groups, padding_as_tokens, threads;
};

/* An absent vector counts as 0 (``zeros``) or 1, so that one loop serves every norm. */

CLONES static void NAME(forward_chunk)(const void *pass, int64_t begin, int64_t end, REAL *zeros, REAL *chunk_sums) {
    const struct NAME(forward_pass) *p = pass;
    const int64_t C = p->channels, groups = p->groups ? p->groups : 1, width = C / groups;
    const REAL *centre = p->centre ? p->centre : zeros, *bias = p->bias ? p->bias : zeros, *scale = p->scale;
    for (int64_t i = begin; i < end; i++) {
        const int padding = p->padding && p->padding[i];
        REAL *y = p->y ? p->y + i * C : NULL;
        if (padding && !p->padding_as_tokens) {
            if (y) memset(y, 0, C * sizeof(REAL));
            continue;
        }
        const REAL *x = p->x + i * C;
        REAL *sums = chunk_sums, *squares = chunk_sums + (padding ? 2 : 1) * C;
        for (int64_t group = 0; group < groups; group++) {
            const int64_t first = group * width, last = first + width;
            REAL inverse = 1;
            if (p->groups) {
                REAL total = 0;
                SIMD(reduction(+ : total)) for (int64_t c = first; c < last; c++) total += x[c] * x[c];
                p->inverse[i * groups + group] = inverse = 1 / SQRT(total / width + (REAL)p->eps);
            }
            if (!y) {
                SIMD() for (int64_t c = first; c < last; c++) {
                    const REAL z = (x[c] - centre[c]) * inverse;
                    sums[c] += z;
                    squares[c] += z * z;
                }
            } else {
                SIMD() for (int64_t c = first; c < last; c++) {
                    const REAL z = (x[c] - centre[c]) * inverse;
                    squares[c] += z * z;
                    y[c] = z * scale[c] + bias[c];
                }
            }
        }
    }
}

CLONES static void NAME(backward_chunk)(const void *pass, int64_t begin, int64_t end, REAL *zeros, REAL *chunk_sums) {
    const struct NAME(backward_pass) *p = pass;
    const int64_t C = p->channels, groups = p->groups ? p->groups : 1, width = C / groups;
    const REAL *centre = p->centre ? p->centre : zeros, *constant = p->constant ? p->constant : zeros;
    const REAL *of_g = p->of_g, *of_z = p->of_z ? p->of_z : zeros;
    REAL *products = chunk_sums, *sums = chunk_sums + C;
    for (int64_t i = begin; i < end; i++) {
        REAL *dx = p->dx ? p->dx + i * C : NULL;
        if (p->padding && p->padding[i] && !p->padding_as_tokens) {
            if (dx) memset(dx, 0, C * sizeof(REAL));
            continue;
        }
        const REAL *g = p->g + i * C, *x = p->x + i * C;
        for (int64_t group = 0; group < groups; group++) {
            const int64_t first = group * width, last = first + width;
            const REAL inverse = p->groups ? p->inverse[i * groups + group] : 1;
            if (!dx) {
                SIMD() for (int64_t c = first; c < last; c++) {
                    products[c] += g[c] * ((x[c] - centre[c]) * inverse);
                    sums[c] += g[c];
                }
                continue;
            }
            REAL mean = 0; /* of z dL/dz */
            SIMD(reduction(+ : mean)) for (int64_t c = first; c < last; c++) {
                const REAL z = (x[c] - centre[c]) * inverse, dz = g[c] * of_g[c] + z * of_z[c] + constant[c];
                products[c] += g[c] * z;
                sums[c] += g[c];
                mean += z * dz;
                dx[c] = dz;
            }
            if (!p->groups) continue;
            mean /= width;
            SIMD() for (int64_t c = first; c < last; c++) dx[c] = inverse * (dx[c] - x[c] * inverse * mean);
        }
    }
}

/* Add a chunk's sums to the thread's sums, in double precision. */
CLONES static void NAME(collect)(REAL *chunk, double *total, int64_t n) {
    for (int64_t c = 0; c < n; c++) {
        total[c] += chunk[c];
        chunk[c] = 0;
    }
}

/* Call a pass's function on chunks of rows, contiguous chunks on each thread, and add up the sums. */
static void NAME(over_chunks)(void (*function)(const void *, int64_t, int64_t, REAL *, REAL *), const void *pass,
                              int64_t rows, int64_t C, int64_t threads, int64_t kinds, REAL *const *sums) {
    const int64_t chunks = (rows + CHUNK - 1) / CHUNK, columns = kinds * C;
    double *totals = calloc(threads * columns, sizeof(double));
    _Pragma("omp parallel for num_threads(threads) schedule(static, 1)") for (int64_t t = 0; t < threads; t++) {
        REAL work[(kinds + 1) * C]; /* zeros, and a chunk's sums */
        memset(work, 0, sizeof work);
        for (int64_t chunk = chunks * t / threads; chunk < chunks * (t + 1) / threads; chunk++) {
            const int64_t end = (chunk + 1) * CHUNK;
            function(pass, chunk * CHUNK, end < rows ? end : rows, work, work + C);
            NAME(collect)(work + C, totals + t * columns, columns);
        }
    }
    for (int64_t k = 0; k < kinds; k++)
        for (int64_t c = 0; sums[k] && c < C; c++) {
            double total = 0;
            for (int64_t t = 0; t < threads; t++) total += totals[t * columns + k * C + c];
            sums[k][c] = (REAL)total;
        }
    free(totals);
}

void NAME(forward)(const struct NAME(forward_pass) *p) {
    REAL *const sums[] = {p->sums, p->squares, p->padding_squares}; /* "sums" are computed only without y */
    NAME(over_chunks)(NAME(forward_chunk), p, p->rows, p->channels, p->threads, 3, sums);
}

void NAME(backward)(const struct NAME(backward_pass) *p) {
    REAL *const sums[] = {p->products, p->sums};
    NAME(over_chunks)(NAME(backward_chunk), p, p->rows, p->channels, p->threads, 2, sums);
}
