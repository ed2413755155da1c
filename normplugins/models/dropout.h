/* Dropout of numbers of the type ELEMENT, computed in REAL: included by dropout.c for each type. */

CLONES static void NAME(drop_block)(const ELEMENT *x, const ELEMENT *residual, ELEMENT *y, int64_t n,
                                    const uint16_t *numbers, uint16_t dropped, REAL scale, int64_t relu) {
    if (relu) {
        SIMD() for (int64_t i = 0; i < n; i++) {
            const REAL from = LOAD(x[i]);
            y[i] = STORE(numbers[i] >= dropped ? (from < 0 ? 0 : from) * scale : 0);
        }
    } else if (residual) {
        SIMD() for (int64_t i = 0; i < n; i++) {
            const REAL scaled = LOAD(x[i]) * scale, to = LOAD(residual[i]);
            y[i] = STORE(to + (numbers[i] >= dropped ? scaled : 0));
        }
    } else {
        SIMD() for (int64_t i = 0; i < n; i++) {
            const REAL scaled = LOAD(x[i]) * scale;
            y[i] = STORE(numbers[i] >= dropped ? scaled : 0);
        }
    }
}

/* Compute y = dropout(x), residual + dropout(x) or dropout(relu(x)) for n numbers. Each is dropped with probability
   ``dropped`` / 65536, and the others are divided by the probability of being kept. ``residual``: NULL for none. */
void NAME(dropout)(const ELEMENT *x, const ELEMENT *residual, ELEMENT *y, int64_t n, uint64_t seed, int64_t dropped,
                   int64_t relu, int64_t threads) {
    const REAL scale = (REAL)65536 / (65536 - dropped);
    _Pragma("omp parallel for num_threads(threads) schedule(static)") for (int64_t at = 0; at < n; at += BLOCK) {
        uint64_t numbers[BLOCK / 4];
        draw(numbers, seed + at / 4);
        NAME(drop_block)(x + at, residual ? residual + at : NULL, y + at, n - at < BLOCK ? n - at : BLOCK,
                         (const uint16_t *)numbers, (uint16_t)dropped, scale, relu);
    }
}
