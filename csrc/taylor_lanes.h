/* The passes of taylor.h over a block of contiguous elements, for one width of floats at one ISA level.
 *
 * Included with BITS, TARGET, LANE_BYTES (of a vector) and LEVEL(name). Element i of a row belongs to lane i mod 16,
 * whatever the vectors: 64 elements are added at a time, four to a lane as (e0 + e1) + (e2 + e3), and then to the
 * lane's sum. What is absent from the last 64 counts as masked. Each pass is a function of its own, so that its
 * constants stay in registers.
 */
#if BITS == 32
#define BY_BITS(single, other) (single)
#define REAL float
#define WORD uint32_t
#define ROW struct row_32
#define POLYNOMIAL struct polynomial_32
#define TABLE lanes_32
#else
#define BY_BITS(single, other) (other)
#define REAL double
#define WORD uint64_t
#define ROW struct row_64
#define POLYNOMIAL struct polynomial_64
#define TABLE lanes_64
#endif

#define V LEVEL(vector)
#define W LEVEL(words)
#define LANE FASTK_INLINE TARGET
#define PASS_PARAMETERS const ROW *row, const REAL *x, const REAL *g, const WORD *mask, REAL *out, size_t n, REAL *state

typedef REAL V __attribute__((vector_size(LANE_BYTES)));
typedef WORD W __attribute__((vector_size(LANE_BYTES)));
enum {
    LEVEL(WIDTH) = LANE_BYTES / (BITS / 8),
    LEVEL(VECTORS) = LANES / LEVEL(WIDTH), /* of a lane each */
};
#define WIDTH LEVEL(WIDTH)
#define VECTORS LEVEL(VECTORS)
#define EACH_SLICE _Pragma("GCC unroll 4") for (int s = 0; s < GROUP / LANES; s++)

LANE V LEVEL(load)(const REAL *p) {
    V x;
    memcpy(&x, p, sizeof x);
    return x;
}
LANE W LEVEL(load_words)(const WORD *p) {
    W x;
    memcpy(&x, p, sizeof x);
    return x;
}
LANE void LEVEL(store)(REAL *p, V x) { memcpy(p, &x, sizeof x); }
LANE V LEVEL(splat)(REAL x) { return x - (V){0}; }
LANE V LEVEL(where)(W mask, V x) { return (V)((W)x & mask); }
LANE V LEVEL(pick)(W mask, V yes, V no) { return (V)(((W)yes & mask) | ((W)no & ~mask)); }

/* a > b ? a : b and a < b ? a : b: of a nan, b. */
LANE V LEVEL(larger)(V a, V b) {
#if defined(FASTK_X86) && LANE_BYTES == 64
    return (V)BY_BITS(_mm512_max_ps((__m512)a, (__m512)b), _mm512_max_pd((__m512d)a, (__m512d)b));
#elif defined(FASTK_X86) && LANE_BYTES == 32
    return (V)BY_BITS(_mm256_max_ps((__m256)a, (__m256)b), _mm256_max_pd((__m256d)a, (__m256d)b));
#elif defined(FASTK_X86)
    return (V)BY_BITS(_mm_max_ps((__m128)a, (__m128)b), _mm_max_pd((__m128d)a, (__m128d)b));
#else
    return LEVEL(pick)((W)(a > b), a, b);
#endif
}
LANE V LEVEL(smaller)(V a, V b) {
#if defined(FASTK_X86) && LANE_BYTES == 64
    return (V)BY_BITS(_mm512_min_ps((__m512)a, (__m512)b), _mm512_min_pd((__m512d)a, (__m512d)b));
#elif defined(FASTK_X86) && LANE_BYTES == 32
    return (V)BY_BITS(_mm256_min_ps((__m256)a, (__m256)b), _mm256_min_pd((__m256d)a, (__m256d)b));
#elif defined(FASTK_X86)
    return (V)BY_BITS(_mm_min_ps((__m128)a, (__m128)b), _mm_min_pd((__m128d)a, (__m128d)b));
#else
    return LEVEL(pick)((W)(a < b), a, b);
#endif
}

/* ---- polynomials, without lead */

LANE V LEVEL(argument)(const POLYNOMIAL *p, V x, int plain, int kind) {
    if (plain && kind == ORDER_2)
        return x;
    x = x * p->scale;
    return plain ? x : LEVEL(larger)(LEVEL(splat)(p->floor), x);
}

LANE V LEVEL(pair)(const POLYNOMIAL *p, int k, V t) {
    V u = t - p->a[k];
    return u * u + p->b[k];
}

LANE V LEVEL(value)(const POLYNOMIAL *p, V t, int kind) {
    if (kind == ORDER_2) {
        V u = t + 1;
        return u * u + 1;
    }
    V y = LEVEL(pair)(p, 0, t);
    if (kind == ORDER_4)
        return y * LEVEL(pair)(p, 1, t);
    for (int k = 1; k < p->pairs; k++)
        y = y * LEVEL(pair)(p, k, t);
    return y;
}

LANE V LEVEL(derivative)(const POLYNOMIAL *p, V t, int kind) {
    if (kind == ORDER_2)
        return t + 1;
    V y = t - p->root;
    if (kind == ORDER_4)
        return y * LEVEL(pair)(p, 0, t);
    for (int k = 0; k < p->pairs; k++)
        y = y * LEVEL(pair)(p, k, t);
    return y;
}

/* f((x - max) / 32)^32, and 0 left of the minimum; nan stays. In the units of its plan, lead is 1. */
LANE V LEVEL(fast)(REAL max, const POLYNOMIAL *p, V x, int kind) {
    V t = (x - max) * p->scale, y = LEVEL(pair)(p, 0, t);
    if (kind == ORDER_4)
        y = y * LEVEL(pair)(p, 1, t);
    for (int k = 1; kind == ANY_ORDER && k < p->pairs; k++)
        y = y * LEVEL(pair)(p, k, t);
    y = y * y;
    y = y * y;
    y = y * y;
    y = y * y;
    y = y * y;
    return LEVEL(where)(~(W)(t < p->floor), y);
}

/* ---- passes over n elements, a multiple of 64: STEP for four of each lane, between BEFORE and AFTER. One vector of
 * lanes after the other, so that sums stay in registers. */

#define PASS(name, kind_, plain_, BEFORE, STEP, AFTER)                                                                 \
    static TARGET __attribute__((noinline)) void LEVEL(name)(PASS_PARAMETERS) {                                        \
        const int kind = kind_, plain = plain_;                                                                        \
        const POLYNOMIAL f = row->f, d = row->d;                                                                       \
        const __typeof__(row->now) now = row->now;                                                                     \
        (void)kind, (void)plain, (void)f, (void)d, (void)now, (void)x, (void)g, (void)mask, (void)out, (void)state;    \
        for (int v = 0; v < VECTORS; v++) {                                                                            \
            BEFORE()                                                                                                   \
            for (size_t i = 0; i < n; i += GROUP) {                                                                    \
                STEP()                                                                                                 \
            }                                                                                                          \
            AFTER()                                                                                                    \
        }                                                                                                              \
    }
#define NOTHING()
/* By kind, each for all cases and plain. */
#define PASSES_OF(name, BEFORE, STEP, AFTER)                                                                           \
    PASS(name##_2, ORDER_2, 0, BEFORE, STEP, AFTER)                                                                    \
    PASS(name##_4, ORDER_4, 0, BEFORE, STEP, AFTER)                                                                    \
    PASS(name##_any, ANY_ORDER, 0, BEFORE, STEP, AFTER)
#define PLAIN_PASSES_OF(name, BEFORE, STEP, AFTER)                                                                     \
    PASS(name##_2_plain, ORDER_2, 1, BEFORE, STEP, AFTER)                                                              \
    PASS(name##_4_plain, ORDER_4, 1, BEFORE, STEP, AFTER)                                                              \
    PASS(name##_any_plain, ANY_ORDER, 1, BEFORE, STEP, AFTER)
#define ENTRIES(two, four, any, two_plain, four_plain, any_plain)                                                      \
    {                                                                                                                  \
        {LEVEL(two), LEVEL(two_plain)}, {LEVEL(four), LEVEL(four_plain)}, { LEVEL(any), LEVEL(any_plain) }             \
    }
#define ENTRIES_OF(name) ENTRIES(name##_2, name##_4, name##_any, name##_2, name##_4, name##_any)
#define ENTRIES_OF_BOTH(name) ENTRIES(name##_2, name##_4, name##_any, name##_2_plain, name##_4_plain, name##_any_plain)
#define ENTRIES_OF_ONE(name) ENTRIES(name, name, name, name, name, name)

#define AT(s) (i + LANES * (size_t)(s) + WIDTH * (size_t)v)
#define MASKED(s, y) (plain ? (y) : LEVEL(where)(LEVEL(load_words)(mask + AT(s)), y))

LANE V LEVEL(four)(const V *e) { return (e[0] + e[1]) + (e[2] + e[3]); }

#define SUMS(name, place) V name = LEVEL(load)(state + (place)*LANES + WIDTH * v);
#define KEEP(name, place) LEVEL(store)(state + (place)*LANES + WIDTH * v, name);

#define MAX_STEP()                                                                                                     \
    V e[GROUP / LANES];                                                                                                \
    EACH_SLICE {                                                                                                       \
        e[s] = LEVEL(load)(x + AT(s));                                                                                 \
        if (!plain)                                                                                                    \
            e[s] = LEVEL(pick)(LEVEL(load_words)(mask + AT(s)), e[s], LEVEL(splat)((REAL)-INFINITY));                  \
        if (g)                                                                                                         \
            __builtin_prefetch(g + AT(s), 1);                                                                          \
    }                                                                                                                  \
    most = LEVEL(larger)(LEVEL(larger)(LEVEL(larger)(e[0], e[1]), LEVEL(larger)(e[2], e[3])), most);
#define MAX_BEFORE() SUMS(most, 0)
#define MAX_AFTER() KEEP(most, 0)

#define SUM_STEP()                                                                                                     \
    {                                                                                                                  \
        V e[GROUP / LANES];                                                                                            \
        EACH_SLICE {                                                                                                   \
            V t = LEVEL(argument)(&f, LEVEL(load)(x + AT(s)), plain, kind);                                            \
            e[s] = MASKED(s, LEVEL(value)(&f, t, kind));                                                               \
            if (out)                                                                                                   \
                LEVEL(store)(out + AT(s), e[s]);                                                                       \
            if (g)                                                                                                     \
                __builtin_prefetch(g + AT(s), 1);                                                                      \
        }                                                                                                              \
        sum += LEVEL(four)(e);                                                                                         \
    }
#define SUM_BEFORE() SUMS(sum, 0)
#define SUM_AFTER() KEEP(sum, 0)

#define PUT_STEP()                                                                                                     \
    {                                                                                                                  \
        EACH_SLICE {                                                                                                   \
            V t = LEVEL(argument)(&f, LEVEL(load)(x + AT(s)), plain, kind);                                            \
            LEVEL(store)(out + AT(s), MASKED(s, LEVEL(value)(&f, t, kind) * now.factor));                              \
        }                                                                                                              \
    }

#define SCALE_STEP()                                                                                                   \
    EACH_SLICE {                                                                                                       \
        LEVEL(store)(out + AT(s), LEVEL(load)(x + AT(s)) * now.factor);                                                \
        if (g)                                                                                                         \
            __builtin_prefetch(g + AT(s));                                                                             \
    }

#define SUM_FAST_STEP()                                                                                                \
    {                                                                                                                  \
        V e[GROUP / LANES];                                                                                            \
        EACH_SLICE {                                                                                                   \
            e[s] = MASKED(s, LEVEL(fast)(now.max, &f, LEVEL(load)(x + AT(s)), kind));                                  \
            if (out)                                                                                                   \
                LEVEL(store)(out + AT(s), e[s]);                                                                       \
        }                                                                                                              \
        sum += LEVEL(four)(e);                                                                                         \
    }

#define PUT_FAST_STEP()                                                                                                \
    {                                                                                                                  \
        EACH_SLICE LEVEL(store)(out + AT(s),                                                                           \
                                MASKED(s, LEVEL(fast)(now.max, &f, LEVEL(load)(x + AT(s)), kind) * now.factor));       \
    }

#define SUM_VJP_STEP()                                                                                                 \
    {                                                                                                                  \
        V e[GROUP / LANES], ge[GROUP / LANES];                                                                         \
        EACH_SLICE {                                                                                                   \
            V t = LEVEL(argument)(&f, LEVEL(load)(x + AT(s)), plain, kind);                                            \
            e[s] = MASKED(s, LEVEL(value)(&f, t, kind));                                                               \
            ge[s] = MASKED(s, LEVEL(load)(g + AT(s))) * e[s];                                                          \
        }                                                                                                              \
        sum += LEVEL(four)(e);                                                                                         \
        weighted += LEVEL(four)(ge);                                                                                   \
    }
#define SUM_VJP_BEFORE() SUMS(sum, 0) SUMS(weighted, 1)
#define SUM_VJP_AFTER() KEEP(sum, 0) KEEP(weighted, 1)

/* Left of the floor f does not change. */
LANE V LEVEL(slope)(const POLYNOMIAL *d, V x, int plain, int kind) {
    if (plain && kind == ORDER_2)
        return LEVEL(derivative)(d, x, kind);
    V t = x * d->scale;
    V y = LEVEL(derivative)(d, t, kind);
    return plain ? y : LEVEL(where)(~(W)(t < d->floor), y);
}

#define PUT_VJP_STEP()                                                                                                 \
    {                                                                                                                  \
        EACH_SLICE {                                                                                                   \
            V y = LEVEL(slope)(&d, LEVEL(load)(x + AT(s)), plain, kind) * now.factor;                                  \
            LEVEL(store)(out + AT(s), MASKED(s, y * (LEVEL(load)(g + AT(s)) - now.mean)));                             \
        }                                                                                                              \
    }

#define SUM_LOGVJP_STEP()                                                                                              \
    {                                                                                                                  \
        V e[GROUP / LANES], h[GROUP / LANES];                                                                          \
        EACH_SLICE {                                                                                                   \
            V t = LEVEL(argument)(&f, LEVEL(load)(x + AT(s)), plain, kind);                                            \
            e[s] = MASKED(s, LEVEL(value)(&f, t, kind));                                                               \
            h[s] = MASKED(s, LEVEL(load)(g + AT(s)));                                                                  \
        }                                                                                                              \
        sum += LEVEL(four)(e);                                                                                         \
        whole += LEVEL(four)(h);                                                                                       \
    }
#define SUM_LOGVJP_BEFORE() SUMS(sum, 0) SUMS(whole, 1)
#define SUM_LOGVJP_AFTER() KEEP(sum, 0) KEEP(whole, 1)

#define PUT_LOGVJP_STEP()                                                                                              \
    {                                                                                                                  \
        EACH_SLICE {                                                                                                   \
            V z = LEVEL(load)(x + AT(s));                                                                              \
            V y = LEVEL(value)(&f, LEVEL(argument)(&f, z, plain, kind), kind);                                         \
            V r = LEVEL(slope)(&d, z, plain, kind) / y * now.factor;                                                   \
            LEVEL(store)(out + AT(s), MASKED(s, r * (LEVEL(load)(g + AT(s)) - y * now.mean)));                         \
        }                                                                                                              \
    }

PASS(max_all, ANY_ORDER, 0, MAX_BEFORE, MAX_STEP, MAX_AFTER)
PASS(max_plain, ANY_ORDER, 1, MAX_BEFORE, MAX_STEP, MAX_AFTER)
PASS(scale, ANY_ORDER, 1, NOTHING, SCALE_STEP, NOTHING)
PASSES_OF(sum, SUM_BEFORE, SUM_STEP, SUM_AFTER)
PLAIN_PASSES_OF(sum, SUM_BEFORE, SUM_STEP, SUM_AFTER)
PASSES_OF(put, NOTHING, PUT_STEP, NOTHING)
PLAIN_PASSES_OF(put, NOTHING, PUT_STEP, NOTHING)
PASSES_OF(sum_fast, SUM_BEFORE, SUM_FAST_STEP, SUM_AFTER)
PLAIN_PASSES_OF(sum_fast, SUM_BEFORE, SUM_FAST_STEP, SUM_AFTER)
PASSES_OF(put_fast, NOTHING, PUT_FAST_STEP, NOTHING)
PASSES_OF(sum_vjp, SUM_VJP_BEFORE, SUM_VJP_STEP, SUM_VJP_AFTER)
PASSES_OF(put_vjp, NOTHING, PUT_VJP_STEP, NOTHING)
PASSES_OF(sum_logvjp, SUM_LOGVJP_BEFORE, SUM_LOGVJP_STEP, SUM_LOGVJP_AFTER)
PASSES_OF(put_logvjp, NOTHING, PUT_LOGVJP_STEP, NOTHING)

/* ---- the log form, in float64 alone */

#if BITS == 64
/* a * b = product + what is returned, exactly. */
LANE V LEVEL(product_rest)(V a, V b, V product) {
#if defined(FASTK_X86) && LANE_BYTES == 64
    return (V)_mm512_fmsub_pd((__m512d)a, (__m512d)b, (__m512d)product);
#elif defined(FASTK_X86) && LANE_BYTES == 32
    return (V)_mm256_fmsub_pd((__m256d)a, (__m256d)b, (__m256d)product);
#else
    const double splitter = 0x1p27 + 1;
    V c = splitter * a, d = splitter * b;
    V a1 = c - (c - a), b1 = d - (d - b), a2 = a - a1, b2 = b - b1;
    return ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2;
#endif
}

LANE V LEVEL(sum_rest)(V a, V b, V sum) {
    V c = sum - a;
    return (a - (sum - c)) + (b - c);
}

/* order! f as a sum of two, the second below the rounding of the first: Horner's rule, whose coefficients are integers,
 * with the errors of its operations carried along by a second one. */
LANE V LEVEL(value_pair)(int order, V t, V *low) {
    double coefficient = order;
    V y = t + coefficient, c = LEVEL(splat)(coefficient), e = LEVEL(sum_rest)(t, c, y);
    for (int k = order - 1; k > 0; k--) {
        coefficient *= k;
        c = LEVEL(splat)(coefficient);
        V product = y * t, rest = LEVEL(product_rest)(y, t, product);
        y = product + c;
        e = e * t + (rest + LEVEL(sum_rest)(product, c, y));
    }
    V sum = y + e;
    *low = e - (sum - y);
    return sum;
}

/* Of a row: the largest value, and the sum of the others. */
#define SUM_LOG_STEP()                                                                                                 \
    {                                                                                                                  \
        EACH_SLICE {                                                                                                   \
            V t = LEVEL(argument)(&f, LEVEL(load)(x + AT(s)), 0, kind);                                                \
            V e = MASKED(s, LEVEL(value)(&f, t, kind));                                                                \
            rest += LEVEL(smaller)(top, e);                                                                            \
            top = LEVEL(larger)(e, top);                                                                               \
        }                                                                                                              \
    }
#define SUM_LOG_BEFORE() SUMS(top, 0) SUMS(rest, 1)
#define SUM_LOG_AFTER() KEEP(top, 0) KEEP(rest, 1)

/* The same to twice the precision. */
#define SUM_LOG_PAIR_STEP()                                                                                            \
    {                                                                                                                  \
        EACH_SLICE {                                                                                                   \
            V low,                                                                                                     \
                e = LEVEL(value_pair)(2 * f.pairs, LEVEL(argument)(&f, LEVEL(load)(x + AT(s)), 0, ANY_ORDER), &low);   \
            W counts = plain ? ~(W){0} : LEVEL(load_words)(mask + AT(s));                                              \
            e = LEVEL(where)(counts, e), low = LEVEL(where)(counts, low);                                              \
            W above = (W)(e > top);                                                                                    \
            V other = LEVEL(pick)(above, top, e), other_low = LEVEL(pick)(above, top_low, low);                        \
            top = LEVEL(pick)(above, e, top), top_low = LEVEL(pick)(above, low, top_low);                              \
            V sum = rest + other;                                                                                      \
            rest_low += LEVEL(sum_rest)(rest, other, sum) + other_low;                                                 \
            rest = sum;                                                                                                \
        }                                                                                                              \
    }
#define SUM_LOG_PAIR_BEFORE() SUMS(top, 0) SUMS(rest, 1) SUMS(top_low, 2) SUMS(rest_low, 3)
#define SUM_LOG_PAIR_AFTER() KEEP(top, 0) KEEP(rest, 1) KEEP(top_low, 2) KEEP(rest_low, 3)

/* log(r + low), 0 < r <= 1 and normal; but where `near_one` it is log(1 + z), -1/2 <= z <= 0. r = 2^k m, and with
 * s = t / (2 + t), t = m - 1, log(m) = 2 s + s^3 (2/3 + ...): the polynomial is Chebyshev's of that series. */
LANE V LEVEL(log)(V r, V low, W near_one, V z) {
    const W root_half = (W){0} + UINT64_C(0x3fe6a09e667f3bcd), one = (W){0} + UINT64_C(0x3ff0000000000000);
    W u = (W)r + (one - root_half), exponent = u >> 52;
    V k = (V)(exponent | UINT64_C(0x4330000000000000)) - (0x1p52 + 1023);
    V m = (V)((u & UINT64_C(0xfffffffffffff)) + root_half);
    V t = (m - 1) + low * (V)(one + one - (exponent << 52)); /* times 2^-k */
    W far = (W)(z < SQRT_HALF - 1);
    t = LEVEL(pick)(near_one, LEVEL(pick)(far, 1 + (z + z), z), t);
    k = LEVEL(pick)(near_one, LEVEL(where)(far, LEVEL(splat)(-1)), k);
    V s = t / (2 + t), s2 = s * s, s4 = s2 * s2, half = 0.5 * t * t;
    V odd = s2 * (LOG_64[0] + s4 * (LOG_64[2] + s4 * (LOG_64[4] + s4 * LOG_64[6])));
    V even = s4 * (LOG_64[1] + s4 * (LOG_64[3] + s4 * (LOG_64[5] + s4 * LOG_64[7])));
    return k * LN2_HIGH - ((half - (s * (half + (even + odd)) + k * LN2_LOW)) - t);
}

#define LOG_OUT(s, y)                                                                                                  \
    LEVEL(store)                                                                                                       \
    (out + AT(s), plain ? (y) : LEVEL(pick)(LEVEL(load_words)(mask + AT(s)), y, LEVEL(splat)(-INFINITY)))
#define PUT_LOG_STEP()                                                                                                 \
    {                                                                                                                  \
        EACH_SLICE {                                                                                                   \
            V e = LEVEL(value)(&f, LEVEL(argument)(&f, LEVEL(load)(x + AT(s)), 0, kind), kind);                        \
            LOG_OUT(s, LEVEL(log)(e * now.inverse, (V){0}, (W)(e + e > now.sum), LEVEL(splat)(now.near_one)));         \
        }                                                                                                              \
    }

#define PUT_LOG_PAIR_STEP()                                                                                            \
    {                                                                                                                  \
        EACH_SLICE {                                                                                                   \
            V low,                                                                                                     \
                e = LEVEL(value_pair)(2 * f.pairs, LEVEL(argument)(&f, LEVEL(load)(x + AT(s)), 0, ANY_ORDER), &low);   \
            V r = e * now.inverse, product = r * now.sum;                                                              \
            V rest =                                                                                                   \
                ((e - product) - LEVEL(product_rest)(r, LEVEL(splat)(now.sum), product)) + (low - r * now.sum_low);    \
            LOG_OUT(s, LEVEL(log)(r, rest * now.inverse, (W)(e + e > now.sum), LEVEL(splat)(now.near_one)));           \
        }                                                                                                              \
    }

PASSES_OF(sum_log, SUM_LOG_BEFORE, SUM_LOG_STEP, SUM_LOG_AFTER)
PASSES_OF(put_log, NOTHING, PUT_LOG_STEP, NOTHING)
PASS(sum_log_pair, ANY_ORDER, 0, SUM_LOG_PAIR_BEFORE, SUM_LOG_PAIR_STEP, SUM_LOG_PAIR_AFTER)
PASS(put_log_pair, ANY_ORDER, 0, NOTHING, PUT_LOG_PAIR_STEP, NOTHING)
#endif

/* ---- maps */

/* e^(z + low), z clamped to where the result is normal: 2^k e^r with r = z - k ln 2, and e^r = 1 + r + r^2 q(r). */
LANE V LEVEL(exp)(V z, V low) {
    z = LEVEL(larger)(LEVEL(splat)(BY_BITS(-87, -708)), z);
    z = LEVEL(smaller)(LEVEL(splat)(BY_BITS(88, 709)), z);
    V magic = LEVEL(splat)(BY_BITS(0x1.8p23f, 0x1.8p52)), k = z * BY_BITS(0x1.715476p0f, LOG2_E) + magic;
    W exponent = ((W)k << BY_BITS(23, 52)) + BY_BITS(UINT32_C(127) << 23, UINT64_C(1023) << 52);
    k = k - magic;
    V r = ((z - k * BY_BITS(0x1.62e4p-1f, LN2_HIGH)) - k * BY_BITS(0x1.7f7d1cp-20f, LN2_LOW)) + low;
#if BITS == 32
    V q = EXP_32[0] + r * (EXP_32[1] + r * (EXP_32[2] + r * (EXP_32[3] + r * EXP_32[4])));
#else
    V r2 = r * r, r4 = r2 * r2;
    V q = ((EXP_64[0] + r * EXP_64[1]) + r2 * (EXP_64[2] + r * EXP_64[3])) +
          r4 * (((EXP_64[4] + r * EXP_64[5]) + r2 * (EXP_64[6] + r * EXP_64[7])) +
                r4 * ((EXP_64[8] + r * EXP_64[9]) + r2 * EXP_64[10]));
#endif
    return (1 + (r + r * r * q)) * (V)exponent;
}

LANE V LEVEL(one_nan)(V y) { return LEVEL(pick)((W)(y == y), y, LEVEL(splat)(NAN)); }

#define EXP_STEP()                                                                                                     \
    {                                                                                                                  \
        EACH_SLICE {                                                                                                   \
            V t = LEVEL(argument)(&f, LEVEL(load)(x + AT(s)), 0, kind), u = t + 1;                                     \
            V y = kind == ORDER_2 ? u * (BY_BITS(0.5f, 0.5) * u) + BY_BITS(0.5f, 0.5)                                  \
                                  : LEVEL(value)(&f, t, kind) * f.lead;                                                \
            LEVEL(store)(out + AT(s), LEVEL(one_nan)(y));                                                              \
        }                                                                                                              \
    }
PASS(exp_2, ORDER_2, 0, NOTHING, EXP_STEP, NOTHING)
PASS(exp_4, ORDER_4, 0, NOTHING, EXP_STEP, NOTHING)
PASS(exp_any, ANY_ORDER, 0, NOTHING, EXP_STEP, NOTHING)

/* x times the normal distribution's integral up to x. Up to -|x| that is e^(-x^2 / 2) P(t) / (1 + sqrt(2) |x|), P a
 * polynomial in t = (|x| - 5) / (|x| + 5): Chebyshev's of erfcx. x^2 is taken exactly, as a sum of two. */
LANE V LEVEL(normal_gelu)(V x) {
    const W sign = (W)LEVEL(splat)(-0.0f);
    const V limit = LEVEL(splat)(BY_BITS(13.125f, 37.5));
    V size = LEVEL(smaller)(limit, (V)((W)x & ~sign));
    V high = (V)((W)size & ~(W){0} << BY_BITS(12, 27));
    V z = high * high * BY_BITS(-0.5f, -0.5), low = (size - high) * (size + high) * BY_BITS(-0.5f, -0.5);
    V t = (size - 5) / (size + 5);
    const REAL *const tail = BY_BITS(TAIL_32, TAIL_64);
    const int count = (int)BY_BITS(sizeof TAIL_32 / sizeof *TAIL_32, sizeof TAIL_64 / sizeof *TAIL_64);
    V y = LEVEL(splat)(tail[count - 1]);
    for (int k = count - 2; k >= 0; k--)
        y = y * t + tail[k];
    y = LEVEL(exp)(z, low) * y / (1 + size * BY_BITS(0x1.6a09e6p0f, 0x1.6a09e667f3bcdp0));
    y = x * LEVEL(pick)((W)(x < 0), y, 1 - y);
    return LEVEL(pick)((W)(x < -limit), (V)sign, y);
}

/* x / (1 + e^z). */
LANE V LEVEL(logistic_gelu)(V x, V z) {
    V y = x / (1 + LEVEL(exp)(z, (V){0}));
    return LEVEL(pick)((W)(z > BY_BITS(88, 709)), LEVEL(splat)(-0.0f), y);
}

LANE V LEVEL(tanh_argument)(V x) { return -x * (BY_BITS(GELU_1F, GELU_1) + BY_BITS(GELU_3F, GELU_3) * (x * x)); }

#define GELU_STEP()                                                                                                    \
    {                                                                                                                  \
        EACH_SLICE {                                                                                                   \
            V z = LEVEL(load)(x + AT(s));                                                                              \
            LEVEL(store)(out + AT(s), LEVEL(one_nan)(FORM));                                                           \
        }                                                                                                              \
    }
#define FORM LEVEL(normal_gelu)(z)
PASS(gelu, ANY_ORDER, 0, NOTHING, GELU_STEP, NOTHING)
#undef FORM
#define FORM LEVEL(logistic_gelu)(z, LEVEL(tanh_argument)(z))
PASS(gelu_tanh, ANY_ORDER, 0, NOTHING, GELU_STEP, NOTHING)
#undef FORM
#define FORM LEVEL(logistic_gelu)(z, z * BY_BITS(-1.702f, -1.702))
PASS(gelu_sigmoid, ANY_ORDER, 0, NOTHING, GELU_STEP, NOTHING)
#undef FORM

/* ---- elements as they are stored, from and to this width */

#define CONVERSION(name, FROM, TO, VALUE)                                                                              \
    static TARGET __attribute__((noinline)) void LEVEL(name)(const void *from, void *to, size_t n) {                   \
        const FROM *p = from;                                                                                          \
        TO *q = to;                                                                                                    \
        FASTK_LANES for (size_t i = 0; i < n; i++) {                                                                   \
            const FROM e = p[i];                                                                                       \
            q[i] = (TO)(VALUE);                                                                                        \
        }                                                                                                              \
    }
CONVERSION(from_f16, uint16_t, REAL, bits_float(widen_f16(e)))
CONVERSION(from_bf16, uint16_t, REAL, bits_float((uint32_t)e << 16))
CONVERSION(to_f16, REAL, uint16_t, round_f16(BY_BITS(float_bits((float)e), odd_bits((double)e))))
CONVERSION(to_bf16, REAL, uint16_t, round_bf16(BY_BITS(float_bits((float)e), odd_bits((double)e))))
CONVERSION(to_words, uint8_t, WORD, (WORD)0 - (e != 0))
#if BITS == 64
CONVERSION(from_f32, float, double, e)
CONVERSION(to_f32, double, float, e)
#endif

static const TABLE LEVEL(lanes) = {
    .pass =
        {
            [PASS_MAX] = ENTRIES(max_all, max_all, max_all, max_plain, max_plain, max_plain),
            [PASS_SCALE] = ENTRIES_OF_ONE(scale),
            [PASS_SUM] = ENTRIES_OF_BOTH(sum),
            [PASS_PUT] = ENTRIES_OF_BOTH(put),
            [PASS_SUM_FAST] = ENTRIES_OF_BOTH(sum_fast),
            [PASS_PUT_FAST] = ENTRIES_OF(put_fast),
            [PASS_SUM_VJP] = ENTRIES_OF(sum_vjp),
            [PASS_PUT_VJP] = ENTRIES_OF(put_vjp),
            [PASS_SUM_LOGVJP] = ENTRIES_OF(sum_logvjp),
            [PASS_PUT_LOGVJP] = ENTRIES_OF(put_logvjp),
            [PASS_EXP] = ENTRIES_OF(exp),
            [PASS_GELU] = ENTRIES_OF_ONE(gelu),
            [PASS_GELU_TANH] = ENTRIES_OF_ONE(gelu_tanh),
            [PASS_GELU_SIGMOID] = ENTRIES_OF_ONE(gelu_sigmoid),
#if BITS == 64
            [PASS_SUM_LOG] = ENTRIES_OF(sum_log),
            [PASS_PUT_LOG] = ENTRIES_OF(put_log),
            [PASS_SUM_LOG_PAIR] = ENTRIES_OF_ONE(sum_log_pair),
            [PASS_PUT_LOG_PAIR] = ENTRIES_OF_ONE(put_log_pair),
#endif
        },
    .widen = {[STORED_F16] = LEVEL(from_f16),
              [STORED_BF16] = LEVEL(from_bf16),
#if BITS == 64
              [STORED_F32] = LEVEL(from_f32)
#endif
    },
    .narrow = {[STORED_F16] = LEVEL(to_f16),
               [STORED_BF16] = LEVEL(to_bf16),
#if BITS == 64
               [STORED_F32] = LEVEL(to_f32)
#endif
    },
    .words = LEVEL(to_words),
};

#undef BITS
#undef TARGET
#undef LANE_BYTES
#undef LEVEL
#undef BY_BITS
#undef REAL
#undef WORD
#undef ROW
#undef POLYNOMIAL
#undef TABLE
