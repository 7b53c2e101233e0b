/* What the kernels of Taylor polynomials share: plans, polynomials, the passes over a block. */
#ifndef FASTK_TAYLOR_H
#define FASTK_TAYLOR_H

#include <math.h>
#include <string.h>

#include "half.h"
#include "isa.h"

enum { STORED_F16, STORED_BF16, STORED_F32, STORED_F64, STORAGES };
/* What is done to rows, and from EXP on to elements. */
enum { SOFTMAX, LOG, SOFTMAX_VJP, LOG_VJP, FAST, EXP, GELU, GELU_TANH, GELU_SIGMOID, OPS };
enum { ORDER_2, ORDER_4, ANY_ORDER, KINDS }; /* of polynomials: two have code of their own */

/* Passes over a block of a row. */
enum {
    PASS_NONE,
    PASS_MAX,        /* of x */
    PASS_SUM,        /* f */
    PASS_PUT,        /* f times a factor */
    PASS_SCALE,      /* x times a factor */
    PASS_SUM_VJP,    /* f and g f */
    PASS_PUT_VJP,    /* f' (g - mean) times a factor */
    PASS_SUM_LOGVJP, /* f and g */
    PASS_PUT_LOGVJP, /* f' / f (g - f mean) times a factor */
    PASS_SUM_FAST,   /* f((x - max) / 32)^32 */
    PASS_PUT_FAST,   /* the same times a factor */
    PASS_SUM_LOG,    /* f: the largest, and the sum of the others */
    PASS_PUT_LOG,    /* log of f over the sum */
    PASS_SUM_LOG_PAIR,
    PASS_PUT_LOG_PAIR, /* both to twice the precision */
    PASS_EXP,          /* f, with lead */
    PASS_GELU,
    PASS_GELU_TANH,
    PASS_GELU_SIGMOID,
    PASSES
};

enum { PAIRS = 6, LANES = 16, GROUP = 64, STATE = 4 * LANES };

/* Entries of a plan, which fastk/_taylor.py makes. */
enum { POLY_SCALE, POLY_LEAD, POLY_ROOT, POLY_A, POLY_B = POLY_A + PAIRS, POLY_SIZE = POLY_B + PAIRS };
enum { PLAN_ORDER, PLAN_RATE, PLAN_FLOOR, PLAN_VALUE, PLAN_SLOPE = PLAN_VALUE + POLY_SIZE };
enum { PLAN_MARGIN = PLAN_SLOPE + POLY_SIZE, PLAN_SIZE };

/* lead * (t - root) * ((t - a[0])^2 + b[0]) * ..., t = scale * x but not below floor; the root in odd degrees only. A
 * product of what is positive is accurate, and positive, where the sum of powers cancels. Lead cancels in what is
 * normalised, so only PASS_EXP and PASS_..._FAST multiply by it. */
#define TYPES(BITS, REAL)                                                                                              \
    struct polynomial_##BITS {                                                                                         \
        int pairs;                                                                                                     \
        REAL scale, floor, lead, root, a[PAIRS], b[PAIRS];                                                             \
    };                                                                                                                 \
    struct row_##BITS {                                                                                                \
        struct polynomial_##BITS f, d; /* and its derivative */                                                        \
        struct {                                                                                                       \
            REAL max, factor, mean;                                                                                    \
            REAL sum, sum_low, near_one, inverse; /* of the log form */                                                \
        } now;                                                                                                         \
    };                                                                                                                 \
    typedef void (*pass_##BITS)(const struct row_##BITS *row, const REAL *x, const REAL *g,                            \
                                const uint##BITS##_t *mask, REAL *out, size_t n, REAL *state);                         \
    typedef struct {                                                                                                   \
        pass_##BITS pass[PASSES][KINDS][2]; /* for all cases; without mask, scale and floor */                         \
        void (*widen[STORAGES])(const void *from, void *to, size_t n);                                                 \
        void (*narrow[STORAGES])(const void *from, void *to, size_t n);                                                \
        void (*words)(const void *from, void *to, size_t n);                                                           \
    } lanes_##BITS;
TYPES(32, float)
TYPES(64, double)
#undef TYPES

#endif
