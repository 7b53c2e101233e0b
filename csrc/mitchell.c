/* The inner loop of the Mitchell ufuncs: one function for all, told by its data which op, dtype and correction it
 * serves.
 *
 * It works in blocks of contiguous elements, which vectorise; operands and results of other strides pass through
 * buffers.
 */
#include "mitchell.h"

/* Lanes are independent: a block of outputs is either a block of inputs or apart from them. */
#if defined(__clang__)
#define FASTK_LANES _Pragma("clang loop vectorize(assume_safety)")
#else
#define FASTK_LANES _Pragma("GCC ivdep")
#endif

enum { MUL, SQUARE, DIV, RECIPROCAL, SQRT, RSQRT, LOG2, EXP2, POWER };
enum { INT8, INT16, INT32, INT64, UINT8, UINT16, UINT32, UINT64, F16, F32, F64, BF16, SAME };
enum { OP, DTYPE, REFINED, BIAS, LOG_BIAS }; /* fields of a loop's data */
enum { BLOCK = 512 };

/* ---- floats of 16 bits, as floats of 32 and back */

FASTK_INLINE uint32_t widen_f16(uint16_t h) {
    uint32_t u = h & 0x7fffu, sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t small = bits_32((float)(int32_t)(u & 0x3ff) * 0x1p-24f);
    uint32_t r = pick_32(u < 0x400, small, (u << 13) + (112u << 23));
    return sign | pick_32(u >= 0x7c00, u << 13 | 255u << 23, r);
}

FASTK_INLINE uint16_t narrow_f16(uint32_t u) {
    uint32_t sign = u >> 16 & 0x8000u, v = u & 0x7fffffffu;
    uint32_t r = v < 113u << 23 ? 0 : (v - (112u << 23)) >> 13;
    r = v >= 255u << 23 ? 0x7c00 : r;
    return (uint16_t)(sign | (v > 255u << 23 ? 0x7e00 : r));
}

/* ---- integers: exact where the product is, modulo the type's range */

/* Fractions are in units of 2^-64. */
FASTK_INLINE uint64_t whole_product(uint64_t a, uint64_t b, int64_t bias) {
    if (a == 0 || b == 0)
        return 0;
    int k = 63 - __builtin_clzll(a), l = 63 - __builtin_clzll(b);
    unsigned __int128 sum = (unsigned __int128)(a << (63 - k) << 1) + (b << (63 - l) << 1);
    sum += (unsigned __int128)1 << 64; /* so that a negative bias does not take it below 0 */
    sum += (unsigned __int128)((__int128)bias * ((int64_t)1 << 41));
    int exponent = k + l - 1 + (int)(sum >> 64) - 64;
    unsigned __int128 mantissa = (unsigned __int128)1 << 64 | (uint64_t)sum;
    return (uint64_t)(exponent < 0 ? mantissa >> -exponent : mantissa << exponent);
}

FASTK_INLINE uint64_t integer_mul_wide(uint64_t a, uint64_t b, int64_t bias, int refined) {
    uint64_t r = whole_product(a, b, bias);
    if (!refined || a == 0 || b == 0)
        return r;
    int k = 63 - __builtin_clzll(a), l = 63 - __builtin_clzll(b);
    uint64_t x = a << (63 - k) << 1, y = b << (63 - l) << 1; /* fractions */
    int carry = x + y < x;
    uint64_t s = a - ((uint64_t)1 << k), t = b - ((uint64_t)1 << l);
    return r + (carry ? whole_product(((uint64_t)1 << k) - s, ((uint64_t)1 << l) - t, 0) : whole_product(s, t, 0));
}

/* Two's complement as sign and magnitude. */
#define SIGNED_MUL(BITS, WIDE, SCALE)                                                                                  \
    FASTK_INLINE uint##BITS##_t signed_mul_##BITS(uint##BITS##_t a, uint##BITS##_t b, int64_t bias, int refined) {     \
        const uint##BITS##_t top = (uint##BITS##_t)((uint##BITS##_t)1 << (BITS - 1));                                  \
        WIDE u = (uint##BITS##_t)(a & top ? 0 - (WIDE)a : a), v = (uint##BITS##_t)(b & top ? 0 - (WIDE)b : b);         \
        WIDE r = integer_mul_##SCALE(u, v, bias, refined);                                                             \
        return (uint##BITS##_t)((a ^ b) & top ? 0 - r : r);                                                            \
    }
SIGNED_MUL(8, uint32_t, 32)
SIGNED_MUL(16, uint32_t, 32)
SIGNED_MUL(32, uint64_t, 64)
SIGNED_MUL(64, uint64_t, wide)

/* ---- blocks */

struct loop {
    char **args;
    const intptr_t *steps;
    intptr_t n, block;
    int inputs;
    int dtype;     /* of the operands */
    int converted; /* that dtype where it differs from what is computed, else SAME */
};

/* Whether block by block would differ from one by one: NumPy accumulates by a loop whose output is its next input. */
static int is_sequential(const struct loop *l) {
    const intptr_t out_step = l->steps[l->inputs], width = sizeof(uint64_t), last = l->n - 1;
    const uintptr_t out = (uintptr_t)l->args[l->inputs];
    const uintptr_t out_low = out + (uintptr_t)(out_step < 0 ? last * out_step : 0);
    const uintptr_t out_end = out + (uintptr_t)(out_step > 0 ? last * out_step : 0) + (uintptr_t)width;
    for (int i = 0; i < l->inputs; i++) {
        const uintptr_t in = (uintptr_t)l->args[i];
        const intptr_t step = l->steps[i];
        if (in == out && step == out_step && step != 0)
            continue;
        const uintptr_t low = in + (uintptr_t)(step < 0 ? last * step : 0);
        const uintptr_t end = in + (uintptr_t)(step > 0 ? last * step : 0) + (uintptr_t)width;
        if (low < out_end && out_low < end)
            return 1;
    }
    return 0;
}

#define AT(T, p, i, step) (*(T *)(void *)((p) + (i) * (step)))
#define COPIED(T, TO, VALUE)                                                                                           \
    for (intptr_t i = 0; i < n; i++) {                                                                                 \
        const T x = AT(const T, p, i, step);                                                                           \
        TO = VALUE;                                                                                                    \
    }                                                                                                                  \
    break

/* Strided elements into a buffer, and from one, converted to the scale that they are computed at. Apart from the
 * kernels on purpose: what is contiguous does not come here. */
static __attribute__((noinline)) void fetch_8(int dtype, const char *p, intptr_t step, intptr_t n, uint8_t *room) {
    (void)dtype;
    for (intptr_t i = 0; i < n; i++)
        room[i] = AT(const uint8_t, p, i, step);
}

static __attribute__((noinline)) void fetch_16(int dtype, const char *p, intptr_t step, intptr_t n, uint16_t *room) {
    (void)dtype;
    for (intptr_t i = 0; i < n; i++)
        room[i] = AT(const uint16_t, p, i, step);
}

static __attribute__((noinline)) void fetch_32(int dtype, const char *p, intptr_t step, intptr_t n, uint32_t *room) {
    switch (dtype) {
    case F16:
        COPIED(uint16_t, room[i], widen_f16(x));
    case BF16:
        COPIED(uint16_t, room[i], (uint32_t)x << 16);
    default:
        COPIED(uint32_t, room[i], x);
    }
}

static __attribute__((noinline)) void fetch_64(int dtype, const char *p, intptr_t step, intptr_t n, uint64_t *room) {
    switch (dtype) {
    case INT8:
        COPIED(int8_t, room[i], bits_64((double)x));
    case INT16:
        COPIED(int16_t, room[i], bits_64((double)x));
    case INT32:
        COPIED(int32_t, room[i], bits_64((double)x));
    case INT64:
        COPIED(int64_t, room[i], bits_64((double)x));
    case UINT8:
        COPIED(uint8_t, room[i], bits_64((double)x));
    case UINT16:
        COPIED(uint16_t, room[i], bits_64((double)x));
    case UINT32:
        COPIED(uint32_t, room[i], bits_64((double)x));
    case UINT64:
        COPIED(uint64_t, room[i], bits_64((double)x));
    default:
        COPIED(uint64_t, room[i], x);
    }
}

static __attribute__((noinline)) void store_8(int dtype, char *p, intptr_t step, intptr_t n, const uint8_t *from) {
    (void)dtype;
    for (intptr_t i = 0; i < n; i++)
        AT(uint8_t, p, i, step) = from[i];
}

static __attribute__((noinline)) void store_16(int dtype, char *p, intptr_t step, intptr_t n, const uint16_t *from) {
    (void)dtype;
    for (intptr_t i = 0; i < n; i++)
        AT(uint16_t, p, i, step) = from[i];
}

static __attribute__((noinline)) void store_32(int dtype, char *p, intptr_t step, intptr_t n, const uint32_t *from) {
    for (intptr_t i = 0; i < n; i++)
        if (dtype == F16)
            AT(uint16_t, p, i, step) = narrow_f16(from[i]);
        else if (dtype == BF16)
            AT(uint16_t, p, i, step) = (uint16_t)(from[i] >> 16);
        else
            AT(uint32_t, p, i, step) = from[i];
}

static __attribute__((noinline)) void store_64(int dtype, char *p, intptr_t step, intptr_t n, const uint64_t *from) {
    (void)dtype;
    for (intptr_t i = 0; i < n; i++)
        AT(uint64_t, p, i, step) = from[i];
}

#define LOOSE(BITS) (l->converted != SAME || step != BITS / 8)
#define BLOCKS(BITS)                                                                                                   \
    /* Elements at .. at + n of an operand: where they are if they can be read there, else in `room`. */               \
    FASTK_INLINE const uint##BITS##_t *operand_##BITS(const struct loop *l, int which, intptr_t at, intptr_t n,        \
                                                      uint##BITS##_t *room) {                                          \
        const intptr_t step = l->steps[which];                                                                         \
        char *p = l->args[which] + at * step;                                                                          \
        if (!LOOSE(BITS))                                                                                              \
            return (const uint##BITS##_t *)(void *)p;                                                                  \
        if (step != 0 || at == 0 || l->block == 1)                                                                     \
            fetch_##BITS(l->converted, p, step, n, room);                                                              \
        return room;                                                                                                   \
    }                                                                                                                  \
    FASTK_INLINE uint##BITS##_t *result_##BITS(const struct loop *l, intptr_t at, uint##BITS##_t *room) {              \
        const intptr_t step = l->steps[l->inputs];                                                                     \
        return LOOSE(BITS) ? room : (uint##BITS##_t *)(void *)(l->args[l->inputs] + at * step);                        \
    }                                                                                                                  \
    FASTK_INLINE void deliver_##BITS(const struct loop *l, intptr_t at, intptr_t n, const uint##BITS##_t *room) {      \
        const intptr_t step = l->steps[l->inputs];                                                                     \
        if (LOOSE(BITS))                                                                                               \
            store_##BITS(l->converted, l->args[l->inputs] + at * step, step, n, room);                                 \
    }
BLOCKS(8)
BLOCKS(16)
BLOCKS(32)
BLOCKS(64)

#define LANES(BITS, EXPRESSION)                                                                                        \
    FASTK_LANES for (intptr_t i = 0; i < n; i++) {                                                                     \
        const uint##BITS##_t a = pa[i], b = pb[i];                                                                     \
        (void)b;                                                                                                       \
        po[i] = (uint##BITS##_t)(EXPRESSION);                                                                          \
    }

/* The last argument computes a block: n elements of po from pa and pb, which is pa again for an op of one operand. */
#define EACH_BLOCK(BITS, ...)                                                                                          \
    do {                                                                                                               \
        uint##BITS##_t room[3][BLOCK];                                                                                 \
        for (intptr_t at = 0; at < l->n; at += l->block) {                                                             \
            const intptr_t n = l->n - at < l->block ? l->n - at : l->block;                                            \
            const uint##BITS##_t *pa = operand_##BITS(l, 0, at, n, room[0]);                                           \
            const uint##BITS##_t *pb = l->inputs == 2 ? operand_##BITS(l, 1, at, n, room[1]) : pa;                     \
            uint##BITS##_t *po = result_##BITS(l, at, room[2]);                                                        \
            __VA_ARGS__                                                                                                \
            deliver_##BITS(l, at, n, po);                                                                              \
        }                                                                                                              \
    } while (0)

#define EACH(BITS, EXPRESSION) EACH_BLOCK(BITS, LANES(BITS, EXPRESSION))

/* Where the bits of a whole block, less `low`, leave some upper bits clear, its values are so tame that no case has to
 * be looked for, and FAST does. One comparison a block: with the exponent's upper bits in `wide` that is a range of
 * exponents, and with the sign bit in it, of positive numbers. */
#define SWIFT_IN(BITS, low_a, wide_a, low_b, wide_b, FAST, EXPRESSION)                                                 \
    EACH_BLOCK(                                                                                                        \
        BITS, uint##BITS##_t seen_a = 0, seen_b = 0; for (intptr_t i = 0; i < n; i++) {                                \
            seen_a |= pa[i] - (low_a);                                                                                 \
            seen_b |= pb[i] - (low_b);                                                                                 \
        } if ((seen_a & (wide_a)) | (seen_b & (wide_b))) LANES(BITS, EXPRESSION) else LANES(BITS, FAST))

#define SWIFT(BITS, RANGE_A, RANGE_B, FAST, EXPRESSION) SWIFT_IN(BITS, RANGE_A, RANGE_B, FAST, EXPRESSION)

/* From 2^-32 to 2^32, doubles from 2^-256 to 2^256: no product or quotient of two leaves the range. */
#define TAME_32 (UINT32_C(95) << 23), UINT32_C(0x60000000)
#define TAME_64 (UINT64_C(767) << 52), UINT64_C(0x6000000000000000)
/* From 2^-64 to 2^64, doubles from 2^-512 to 2^512, and positive. */
#define POSITIVE_32 (UINT32_C(63) << 23), UINT32_C(0xc0000000)
#define POSITIVE_64 (UINT64_C(511) << 52), UINT64_C(0xc000000000000000)
/* Below 64 in size, doubles below 512, and not 0. */
#define LOGARITHM_32 (UINT32_C(5) << 23), UINT32_C(0x40000000)
#define LOGARITHM_64 (UINT64_C(8) << 52), UINT64_C(0x4000000000000000)
/* From 2^-16 to 2^16, doubles from 2^-128 to 2^128, and positive; and not 0 and below 4: no power leaves the range. */
#define BASE_32 (UINT32_C(111) << 23), UINT32_C(0xf0000000)
#define BASE_64 (UINT64_C(895) << 52), UINT64_C(0xf000000000000000)
#define EXPONENT_32 (UINT32_C(65) << 23), UINT32_C(0x60000000)
#define EXPONENT_64 (UINT64_C(513) << 52), UINT64_C(0x6000000000000000)

/* ---- one op */

/* Unrefined, and without conversion. */
#define SWIFT_FLOATS(BITS, FLOAT)                                                                                      \
    FASTK_INLINE void swift_##BITS(const struct loop *l, int op, const int64_t *data) {                                \
        const int##BITS##_t bias = (int##BITS##_t)data[BIAS], log_bias = (int##BITS##_t)data[LOG_BIAS];                \
        const uint##BITS##_t one = ONE_##BITS, up = (uint##BITS##_t)bias;                                              \
        switch (op) {                                                                                                  \
        case MUL:                                                                                                      \
        case SQUARE:                                                                                                   \
            SWIFT(BITS, TAME_##BITS, TAME_##BITS, a + b - (one - up), mul_##BITS(a, b, bias, 0, FLOAT));               \
            break;                                                                                                     \
        case DIV:                                                                                                      \
            SWIFT(BITS, TAME_##BITS, TAME_##BITS, a - b + (one + up), div_##BITS(a, b, bias, 0, FLOAT));               \
            break;                                                                                                     \
        case RECIPROCAL:                                                                                               \
            SWIFT(BITS, TAME_##BITS, TAME_##BITS, (2 * one + up) - a, div_##BITS(one, a, bias, 0, FLOAT));             \
            break;                                                                                                     \
        case SQRT:                                                                                                     \
            SWIFT(BITS, POSITIVE_##BITS, POSITIVE_##BITS, ((a + one) >> 1) + up, sqrt_##BITS(a, bias, 0, FLOAT));      \
            break;                                                                                                     \
        case RSQRT:                                                                                                    \
            SWIFT(BITS, POSITIVE_##BITS, POSITIVE_##BITS, ((3 * one - a) >> 1) + up, rsqrt_##BITS(a, bias, 0, FLOAT)); \
            break;                                                                                                     \
        case LOG2:                                                                                                     \
            SWIFT(BITS, POSITIVE_##BITS, POSITIVE_##BITS, log2_tame_##BITS(a + up), log2_##BITS(a, bias, 0, FLOAT));   \
            break;                                                                                                     \
        case EXP2:                                                                                                     \
            SWIFT(BITS, LOGARITHM_##BITS, LOGARITHM_##BITS, exp2_tame_##BITS(a) + (one + up),                          \
                  exp2_##BITS(a, bias, 0, FLOAT));                                                                     \
            break;                                                                                                     \
        default:                                                                                                       \
            SWIFT(BITS, BASE_##BITS, EXPONENT_##BITS,                                                                  \
                  (one + up) + (uint##BITS##_t)scaled_log_##BITS(a - one + (uint##BITS##_t)log_bias, real_##BITS(b)),  \
                  pow_##BITS(a, b, bias, log_bias, 0, FLOAT));                                                         \
            break;                                                                                                     \
        }                                                                                                              \
    }
SWIFT_FLOATS(32, FLOAT32)
SWIFT_FLOATS(64, FLOAT64)

/* The 32-bit scale serves three formats, so here the format is a variable. */
#define FLOATS(BITS)                                                                                                   \
    FASTK_INLINE void floats_##BITS(const struct loop *l, int op, const int64_t *data, struct format_##BITS format,    \
                                    int refined) {                                                                     \
        const int##BITS##_t bias = (int##BITS##_t)data[BIAS], log_bias = (int##BITS##_t)data[LOG_BIAS];                \
        switch (op) {                                                                                                  \
        case MUL:                                                                                                      \
        case SQUARE:                                                                                                   \
            EACH(BITS, mul_##BITS(a, b, bias, refined, format));                                                       \
            break;                                                                                                     \
        case DIV:                                                                                                      \
            EACH(BITS, div_##BITS(a, b, bias, refined, format));                                                       \
            break;                                                                                                     \
        case RECIPROCAL:                                                                                               \
            EACH(BITS, div_##BITS(ONE_##BITS, a, bias, refined, format));                                              \
            break;                                                                                                     \
        case SQRT:                                                                                                     \
            EACH(BITS, sqrt_##BITS(a, bias, refined, format));                                                         \
            break;                                                                                                     \
        case RSQRT:                                                                                                    \
            EACH(BITS, rsqrt_##BITS(a, bias, refined, format));                                                        \
            break;                                                                                                     \
        case LOG2:                                                                                                     \
            EACH(BITS, log2_##BITS(a, bias, refined, format));                                                         \
            break;                                                                                                     \
        case EXP2:                                                                                                     \
            EACH(BITS, exp2_##BITS(a, bias, refined, format));                                                         \
            break;                                                                                                     \
        default:                                                                                                       \
            EACH(BITS, pow_##BITS(a, b, bias, log_bias, refined, format));                                             \
            break;                                                                                                     \
        }                                                                                                              \
    }
FLOATS(32)
FLOATS(64)

FASTK_INLINE void integers(const struct loop *l, int64_t bias, int refined) {
    switch (l->dtype) {
    case INT8:
        EACH(8, signed_mul_8(a, b, bias, refined));
        break;
    case INT16:
        EACH(16, signed_mul_16(a, b, bias, refined));
        break;
    case INT32:
        EACH(32, signed_mul_32(a, b, bias, refined));
        break;
    case INT64:
        EACH(64, signed_mul_64(a, b, bias, refined));
        break;
    case UINT8:
        EACH(8, integer_mul_32(a, b, bias, refined));
        break;
    case UINT16:
        EACH(16, integer_mul_32(a, b, bias, refined));
        break;
    case UINT32:
        EACH(32, integer_mul_64(a, b, bias, refined));
        break;
    default:
        EACH(64, integer_mul_wide(a, b, bias, refined));
        break;
    }
}

FASTK_INLINE void mitchell_loop_of(const struct loop *l, const int64_t *data, int refined) {
    const int op = (int)data[OP];
    if (l->dtype == F32 && !refined)
        swift_32(l, op, data);
    else if (l->dtype == F64 && !refined)
        swift_64(l, op, data);
    else if (l->dtype == F64 || (l->dtype < F16 && l->converted != SAME))
        floats_64(l, op, data, FLOAT64, refined);
    else if (l->dtype < F16)
        integers(l, data[BIAS], refined);
    else
        floats_32(l, op, data, l->dtype == F32 ? FLOAT32 : l->dtype == F16 ? FLOAT16 : BFLOAT16, refined);
}

FASTK_INLINE void mitchell_loop_body(int level, char **args, const intptr_t *dimensions, const intptr_t *steps,
                                     void *data) {
    (void)level;
    const int64_t *fields = data;
    const int op = (int)fields[OP], dtype = (int)fields[DTYPE], product = op == MUL || op == SQUARE;
    const int same = dtype == F32 || dtype == F64 || (dtype < F16 && product);
    struct loop l = {
        args, steps, dimensions[0], BLOCK, op == MUL || op == DIV || op == POWER ? 2 : 1, dtype, same ? SAME : dtype};
    if (is_sequential(&l))
        l.block = 1;
    if (fields[REFINED])
        mitchell_loop_of(&l, fields, 1);
    else
        mitchell_loop_of(&l, fields, 0);
}

FASTK_STAMP(void, mitchell_loop, (char **args, const intptr_t *dimensions, const intptr_t *steps, void *data),
            (args, dimensions, steps, data))
