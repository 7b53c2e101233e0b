/* Random rotations by rounds of Hadamard transforms, for both widths of floats. */
#ifndef FASTK_ROUNDS_H
#define FASTK_ROUNDS_H

#include <string.h>

#include "hadamard.h"

/* A row that comes next, by number, because it may lie past the end. A part at a time: more than the processor keeps in
 * flight would hold it up. */
FASTK_INLINE void fastk_fetch(uintptr_t from, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 64)
        __builtin_prefetch((const void *)(from + i));
}

/* flipped: v = H (x * sign, 0, ...), of p elements.
 * rounds: v = H R H D' H D x. A table is the signs D, the signs D', and the cosines and sines of R, which turns the
 * pairs (v[i], v[i + p / 2]); H is not normalised. The next x is `row` bytes on. */
#define FASTK_ROUNDS(kind, real)                                                                                       \
    FASTK_INLINE void flipped_##kind(const hadamard_##kind *at, const char *x, intptr_t step, size_t d,                \
                                     const real *sign, real *v, size_t p) {                                            \
        if (step == sizeof *v && d >= p) {                                                                             \
            at->rows((const real *)x, sign, v, p, p, 1);                                                               \
            return;                                                                                                    \
        }                                                                                                              \
        d = d < p ? d : p;                                                                                             \
        if (step == sizeof *v) {                                                                                       \
            const real *row = (const real *)x;                                                                         \
            FASTK_LANES for (size_t j = 0; j < d; j++) v[j] = row[j] * sign[j];                                        \
        } else {                                                                                                       \
            for (size_t j = 0; j < d; j++)                                                                             \
                v[j] = *(const real *)(x + (intptr_t)j * step) * sign[j];                                              \
        }                                                                                                              \
        memset(v + d, 0, (p - d) * sizeof *v);                                                                         \
        at->rows(v, NULL, v, p, p, 1);                                                                                 \
    }                                                                                                                  \
    FASTK_INLINE void rounds_##kind(const hadamard_##kind *at, const char *x, intptr_t row, intptr_t step, size_t d,   \
                                    const real *table, real *v, size_t p) {                                            \
        const real *sign = table + p, *cosine = sign + p, *sine = cosine + p / 2;                                      \
        real *w = v + p / 2;                                                                                           \
        size_t part = d * sizeof *v / 3;                                                                               \
        uintptr_t next = (uintptr_t)x + (uintptr_t)row;                                                                \
        flipped_##kind(at, x, step, d, table, v, p);                                                                   \
        fastk_fetch(next, part);                                                                                       \
        at->rows(v, sign, v, p, p, 1);                                                                                 \
        fastk_fetch(next + part, part);                                                                                \
        FASTK_LANES for (size_t j = 0; j < p / 2; j++) {                                                               \
            real a = v[j], b = w[j];                                                                                   \
            v[j] = cosine[j] * a - sine[j] * b;                                                                        \
            w[j] = sine[j] * a + cosine[j] * b;                                                                        \
        }                                                                                                              \
        fastk_fetch(next + 2 * part, d * sizeof *v - 2 * part);                                                        \
        at->rows(v, NULL, v, p, p, 1);                                                                                 \
    }

FASTK_ROUNDS(f32, float)
FASTK_ROUNDS(f64, double)

#endif
