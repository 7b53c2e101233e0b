/* The functions of hadamard.h for one width of floats at one ISA level.
 *
 * Included with BITS, TARGET, LANE_BYTES (of a vector) and LEVEL(name). A pass does the stages of strides h, 2 h, ...,
 * radix h / 2 of an array of rows: `radix` rows, h apart, are in registers at a time. For one transform a vector is a
 * row; the stages within a vector come first.
 */
#if BITS == 32
#define BY_BITS(single, other) (single)
#define REAL float
#define WORD uint32_t
#define SIGN_BIT UINT32_C(0x80000000)
#define TABLE hadamard_f32
#else
#define BY_BITS(single, other) (other)
#define REAL double
#define WORD uint64_t
#define SIGN_BIT UINT64_C(0x8000000000000000)
#define TABLE hadamard_f64
#endif

#define V LEVEL(vector)
#define W LEVEL(words)
#define LANE FASTK_INLINE TARGET
typedef REAL V __attribute__((vector_size(LANE_BYTES)));
typedef WORD W __attribute__((vector_size(LANE_BYTES)));
enum {
    LEVEL(WIDTH) = LANE_BYTES / (BITS / 8),
    LEVEL(RADIX) = LANE_BYTES == 64 ? 16 : 8, /* half of the registers */
    LEVEL(BLOCK) = BLOCK_BYTES / (BITS / 8),
};
#define WIDTH LEVEL(WIDTH)
#define RADIX LEVEL(RADIX)
#define BLOCK LEVEL(BLOCK)

/* Lanes i with f(i, h), for i < WIDTH. */
#define LANES_2(f, h) f(0, h), f(1, h)
#define LANES_4(f, h) LANES_2(f, h), f(2, h), f(3, h)
#define LANES_8(f, h) LANES_4(f, h), f(4, h), f(5, h), f(6, h), f(7, h)
#define LANES_16(f, h) LANES_8(f, h), f(8, h), f(9, h), f(10, h), f(11, h), f(12, h), f(13, h), f(14, h), f(15, h)
#if LANE_BYTES * 8 / BITS == 16
#define LANES_ALL LANES_16
#elif LANE_BYTES * 8 / BITS == 8
#define LANES_ALL LANES_8
#elif LANE_BYTES * 8 / BITS == 4
#define LANES_ALL LANES_4
#else
#define LANES_ALL LANES_2
#endif
#define PARTNER(i, h) ((i) ^ (h)) % (LANE_BYTES * 8 / BITS)
#define NEGATIVE(i, h) ((i) & (h) ? SIGN_BIT : 0)
#define FACTOR(i, h) ((i) & (h) ? -1 : 1)

LANE V LEVEL(load)(const REAL *p) {
    V x;
    memcpy(&x, p, sizeof x);
    return x;
}
LANE void LEVEL(store)(REAL *p, V x) { memcpy(p, &x, sizeof x); }
LANE V LEVEL(splat)(REAL x) { return x - (V){0}; }

/* The stage of stride h within vectors: partner + v where bit h of the lane is clear, partner - v where it is set. The
 * product with +-1 is exact, so that fusing it changes no bit. */
#if defined(FASTK_X86) && LANE_BYTES == 64
#define SUM(v, partner, h)                                                                                             \
    (V) BY_BITS(_mm512_fmadd_ps((__m512)(v), (__m512)(V){LANES_ALL(FACTOR, h)}, (__m512)(partner)),                    \
                _mm512_fmadd_pd((__m512d)(v), (__m512d)(V){LANES_ALL(FACTOR, h)}, (__m512d)(partner)))
#elif defined(FASTK_X86) && LANE_BYTES == 32
#define SUM(v, partner, h)                                                                                             \
    (V) BY_BITS(_mm256_fmadd_ps((__m256)(v), (__m256)(V){LANES_ALL(FACTOR, h)}, (__m256)(partner)),                    \
                _mm256_fmadd_pd((__m256d)(v), (__m256d)(V){LANES_ALL(FACTOR, h)}, (__m256d)(partner)))
#else
#define SUM(v, partner, h) ((partner) + (V)((W)(v) ^ (W){LANES_ALL(NEGATIVE, h)}))
#endif
#define STAGE(v, h) SUM(v, (V)FASTK_SHUFFLE((W)(v), (W)(v), LANES_ALL(PARTNER, h)), h)

/* The stages of strides under n within vectors, whatever n is. */
LANE V LEVEL(within)(V v, size_t n) {
    if (n > 1)
        v = STAGE(v, 1);
#if LANE_BYTES * 8 / BITS > 2
    if (n > 2)
        v = STAGE(v, 2);
#endif
#if LANE_BYTES * 8 / BITS > 4
    if (n > 4)
        v = STAGE(v, 4);
#endif
#if LANE_BYTES * 8 / BITS > 8
    if (n > 8)
        v = STAGE(v, 8);
#endif
    return v;
}

#define BUTTERFLIES(type, v, radix)                                                                                    \
    _Pragma("GCC unroll 4") for (int h = 1; h < (radix); h *= 2)                                                       \
        _Pragma("GCC unroll 16") for (int i = 0; i < (radix); i++) if (!(i & h)) {                                     \
        type a = v[i], b = v[i + h];                                                                                   \
        v[i] = a + b;                                                                                                  \
        v[i + h] = a - b;                                                                                              \
    }

/* One pass over `rows` rows of w elements, which are `step` apart. The first one takes signs, and does the stages
 * within vectors. */
enum LEVEL(kind) { LEVEL(LATER), LEVEL(FIRST), LEVEL(FIRST_OF_SIGNED) };
LANE void LEVEL(pass)(const REAL *x, const REAL *sign, REAL *out, size_t rows, size_t step, size_t w, size_t h,
                      int radix, enum LEVEL(kind) kind, REAL scale) {
    V factor = LEVEL(splat)(scale);
    for (size_t from = 0; from < rows; from += h * (size_t)radix) {
        for (size_t row = from; row < from + h; row++) {
            const REAL *p = x + row * step;
            REAL *q = out + row * step;
            size_t c = 0;
            for (; c + WIDTH <= w; c += WIDTH) {
                V v[16];
                _Pragma("GCC unroll 16") for (int i = 0; i < radix; i++) {
                    v[i] = LEVEL(load)(p + (size_t)i * h * step + c);
                    if (kind == LEVEL(FIRST))
                        __builtin_prefetch((const void *)((uintptr_t)(p + (size_t)i * h * step + c) + AHEAD));
                    if (kind == LEVEL(FIRST_OF_SIGNED))
                        v[i] *= LEVEL(load)(sign + (size_t)(q - out) + (size_t)i * h * step + c);
                    if (kind != LEVEL(LATER))
                        v[i] = LEVEL(within)(v[i], WIDTH);
                }
                BUTTERFLIES(V, v, radix)
                if (scale != 1)
                    _Pragma("GCC unroll 16") for (int i = 0; i < radix; i++) v[i] *= factor;
                _Pragma("GCC unroll 16") for (int i = 0; i < radix; i++)
                    LEVEL(store)(q + (size_t)i * h * step + c, v[i]);
            }
            for (; c < w; c++) {
                REAL v[16];
                for (int i = 0; i < radix; i++)
                    v[i] = p[(size_t)i * h * step + c];
                BUTTERFLIES(REAL, v, radix)
                for (int i = 0; i < radix; i++)
                    q[(size_t)i * h * step + c] = v[i] * scale;
            }
        }
    }
}

#define FIRST_PASS(name, radix, kind)                                                                                  \
    __attribute__((noinline)) TARGET static void LEVEL(name)(const REAL *x, const REAL *sign, REAL *out, size_t rows,  \
                                                             REAL scale) {                                             \
        LEVEL(pass)(x, sign, out, rows, WIDTH, WIDTH, 1, radix, kind, scale);                                          \
    }
#define LATER_PASS(name, radix, width)                                                                                 \
    __attribute__((noinline)) TARGET static void LEVEL(name)(const REAL *x, REAL *out, size_t rows, size_t w,          \
                                                             size_t h, REAL scale) {                                   \
        LEVEL(pass)(x, NULL, out, rows, w, width, h, radix, LEVEL(LATER), scale);                                      \
    }
FIRST_PASS(first_1, 1, LEVEL(FIRST))
FIRST_PASS(first_2, 2, LEVEL(FIRST))
FIRST_PASS(first_4, 4, LEVEL(FIRST))
FIRST_PASS(first_8, 8, LEVEL(FIRST))
FIRST_PASS(first_16, 16, LEVEL(FIRST))
FIRST_PASS(signed_1, 1, LEVEL(FIRST_OF_SIGNED))
FIRST_PASS(signed_2, 2, LEVEL(FIRST_OF_SIGNED))
FIRST_PASS(signed_4, 4, LEVEL(FIRST_OF_SIGNED))
FIRST_PASS(signed_8, 8, LEVEL(FIRST_OF_SIGNED))
FIRST_PASS(signed_16, 16, LEVEL(FIRST_OF_SIGNED))
LATER_PASS(flat_2, 2, WIDTH)
LATER_PASS(flat_4, 4, WIDTH)
LATER_PASS(flat_8, 8, WIDTH)
LATER_PASS(flat_16, 16, WIDTH)
LATER_PASS(wide_2, 2, w)
LATER_PASS(wide_4, 4, w)
LATER_PASS(wide_8, 8, w)
LATER_PASS(wide_16, 16, w)

/* By log2 of the radix. */
typedef void LEVEL(first_pass)(const REAL *x, const REAL *sign, REAL *out, size_t rows, REAL scale);
typedef void LEVEL(later_pass)(const REAL *x, REAL *out, size_t rows, size_t w, size_t h, REAL scale);
static LEVEL(first_pass) *const
    LEVEL(first)[] = {LEVEL(first_1), LEVEL(first_2), LEVEL(first_4), LEVEL(first_8), LEVEL(first_16)};
static LEVEL(first_pass) *const
    LEVEL(first_of_signed)[] = {LEVEL(signed_1), LEVEL(signed_2), LEVEL(signed_4), LEVEL(signed_8), LEVEL(signed_16)};
static LEVEL(later_pass) *const LEVEL(flat)[] = {NULL, LEVEL(flat_2), LEVEL(flat_4), LEVEL(flat_8), LEVEL(flat_16)};
static LEVEL(later_pass) *const LEVEL(wide)[] = {NULL, LEVEL(wide_2), LEVEL(wide_4), LEVEL(wide_8), LEVEL(wide_16)};

/* log2 of the radix of the next of the passes that `stages` stages are spread over, as evenly as they can be. */
LANE unsigned LEVEL(share)(unsigned stages) {
    unsigned most = RADIX == 16 ? 4 : 3, passes = (stages + most - 1) / most;
    return passes ? (stages + passes - 1) / passes : 0;
}

/* A transform that fits the cache, through memory that is aligned. */
__attribute__((noinline)) TARGET static void LEVEL(block)(const REAL *x, const REAL *sign, REAL *out, size_t n,
                                                          REAL scale) {
    _Alignas(64) REAL room[BLOCK];
    size_t rows = n / WIDTH, h = 1;
    unsigned stages = (unsigned)__builtin_ctzll(rows), log = LEVEL(share)(stages);
    stages -= log;
    (sign ? LEVEL(first_of_signed) : LEVEL(first))[log](x, sign, stages ? room : out, rows, stages ? 1 : scale);
    while (stages) {
        h <<= log;
        log = LEVEL(share)(stages);
        stages -= log;
        LEVEL(flat)[log](room, stages ? room : out, rows, WIDTH, h, stages ? 1 : scale);
    }
}

/* The stages of strides h and larger, in place. */
TARGET static void LEVEL(stages)(LEVEL(later_pass) *const *pass, REAL *out, size_t rows, size_t step, size_t h,
                                 REAL scale) {
    unsigned stages = (unsigned)__builtin_ctzll(rows / h);
    while (stages) {
        unsigned log = LEVEL(share)(stages);
        stages -= log;
        pass[log](out, out, rows, step, h, stages ? 1 : scale);
        h <<= log;
    }
}

/* Transforms that are no longer than a vector: several in each. */
TARGET static void LEVEL(short_rows)(const REAL *x, const REAL *sign, REAL *out, size_t size, size_t n, REAL scale) {
    V factor = LEVEL(splat)(scale);
    size_t i = 0;
    for (; i + WIDTH <= size; i += WIDTH) {
        V v = LEVEL(load)(x + i);
        LEVEL(store)(out + i, LEVEL(within)(sign ? v * LEVEL(load)(sign + i) : v, n) * factor);
    }
    if (i < size) {
        REAL rest[WIDTH] = {0};
        for (size_t j = i; j < size; j++)
            rest[j - i] = sign ? x[j] * sign[j] : x[j];
        LEVEL(store)(rest, LEVEL(within)(LEVEL(load)(rest), n) * factor);
        memcpy(out + i, rest, (size - i) * sizeof *x);
    }
}

TARGET static void LEVEL(rows)(const REAL *x, const REAL *sign, REAL *out, size_t size, size_t n, REAL scale) {
    LEVEL(first_pass) *const *first = sign ? LEVEL(first_of_signed) : LEVEL(first);
    if (n <= WIDTH)
        LEVEL(short_rows)(x, sign, out, size, n, scale);
    else if (n <= RADIX * WIDTH)
        first[__builtin_ctzll(n / WIDTH)](x, sign, out, size / n * (n / WIDTH), scale);
    else if (n <= BLOCK)
        for (size_t i = 0; i + n <= size; i += n)
            LEVEL(block)(x + i, sign ? sign + i : NULL, out + i, n, scale);
    else
        for (size_t row = 0; row + n <= size; row += n) {
            for (size_t i = row; i < row + n; i += BLOCK)
                LEVEL(block)(x + i, sign ? sign + i : NULL, out + i, BLOCK, 1);
            LEVEL(stages)(LEVEL(flat), out + row, n / WIDTH, WIDTH, BLOCK / WIDTH, scale);
        }
}

TARGET static void LEVEL(columns)(const REAL *x, REAL *out, size_t n, size_t inner, REAL scale) {
    unsigned stages = (unsigned)__builtin_ctzll(n), log = LEVEL(share)(stages);
    if (stages == 0) {
        for (size_t i = 0; i < inner; i++)
            out[i] = x[i] * scale;
        return;
    }
    LEVEL(wide)[log](x, out, n, inner, 1, stages == log ? scale : 1);
    LEVEL(stages)(LEVEL(wide), out, n, inner, (size_t)1 << log, scale);
}

/* Bit i: lane i is at least 0. */
LANE unsigned LEVEL(signs)(V v) {
#if defined(FASTK_X86) && LANE_BYTES == 64
    return BY_BITS(_mm512_cmp_ps_mask((__m512)v, _mm512_setzero_ps(), _CMP_GE_OQ),
                   _mm512_cmp_pd_mask((__m512d)v, _mm512_setzero_pd(), _CMP_GE_OQ));
#elif defined(FASTK_X86) && LANE_BYTES == 32
    return (unsigned)BY_BITS(_mm256_movemask_ps((__m256)(v >= 0)), _mm256_movemask_pd((__m256d)(v >= 0)));
#elif defined(FASTK_X86)
    return (unsigned)BY_BITS(_mm_movemask_ps((__m128)(v >= 0)), _mm_movemask_pd((__m128d)(v >= 0)));
#else
    unsigned bits = 0;
    for (unsigned i = 0; i < WIDTH; i++)
        bits |= (unsigned)(v[i] >= 0) << i;
    return bits;
#endif
}

TARGET static void LEVEL(pack)(const REAL *x, size_t n, uint8_t *code, intptr_t step) {
    enum { SPAN = WIDTH < 8 ? 8 : WIDTH };
    size_t i = 0;
    for (; i + SPAN <= n; i += SPAN) {
        unsigned bits = 0;
        _Pragma("GCC unroll 4") for (unsigned j = 0; j < SPAN; j += WIDTH) bits |= LEVEL(signs)(LEVEL(load)(x + i + j))
                                                                                   << j;
        _Pragma("GCC unroll 2") for (unsigned j = 0; j < SPAN; j += 8, code += step) *code = (uint8_t)(bits >> j);
    }
    for (; i < n; i += 8, code += step) {
        unsigned bits = 0;
        for (size_t j = i; j < n && j < i + 8; j++)
            bits |= (unsigned)(x[j] >= 0) << (j - i);
        *code = (uint8_t)bits;
    }
}

static const TABLE LEVEL(hadamard) = {LEVEL(rows), LEVEL(columns), LEVEL(pack)};

#undef BY_BITS
#undef REAL
#undef WORD
#undef SIGN_BIT
#undef TABLE
#undef V
#undef W
#undef LANE
#undef WIDTH
#undef RADIX
#undef BLOCK
#undef LANES_2
#undef LANES_4
#undef LANES_8
#undef LANES_16
#undef LANES_ALL
#undef PARTNER
#undef NEGATIVE
#undef FACTOR
#undef SUM
#undef STAGE
#undef BUTTERFLIES
#undef FIRST_PASS
#undef LATER_PASS
#undef BITS
#undef TARGET
#undef LANE_BYTES
#undef LEVEL
