/* The fast Walsh-Hadamard transform of one contiguous row, and the signs of one, at each ISA level. */
#ifndef FASTK_HADAMARD_H
#define FASTK_HADAMARD_H

#include "isa.h"

/* rows: out[i] = scale * sum_j (-1)^popcount(i & j) x[j] sign[j] for each n = 2^k elements, out being x or apart; no
 * sign is NULL, and there are as many as elements. Stages go by growing stride, a butterfly is (a + b, a - b), and each
 * operation rounds: the order is the same at every level. columns: the same for `inner` transforms side by side, whose
 * elements are `inner` apart. pack: bit j of the code is x[j] >= 0, in little order; byte i of the code is at i * step.
 */
typedef struct {
    void (*rows)(const float *x, const float *sign, float *out, size_t size, size_t n, float scale);
    void (*columns)(const float *x, float *out, size_t n, size_t inner, float scale);
    void (*pack)(const float *x, size_t n, uint8_t *code, intptr_t step);
} hadamard_f32;
typedef struct {
    void (*rows)(const double *x, const double *sign, double *out, size_t size, size_t n, double scale);
    void (*columns)(const double *x, double *out, size_t n, size_t inner, double scale);
    void (*pack)(const double *x, size_t n, uint8_t *code, intptr_t step);
} hadamard_f64;

extern const hadamard_f32 *const fastk_hadamard_f32_of[];
extern const hadamard_f64 *const fastk_hadamard_f64_of[];

#endif
