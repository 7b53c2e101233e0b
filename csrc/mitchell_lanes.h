/* The block kernels of the Mitchell ufuncs at one ISA level: n contiguous elements of po from pa and pb.
 *
 * Included once a level, with TARGET, LANE_BYTES (of a vector) and LEVEL(name). Each is a function of its own, so that
 * its constants stay in registers.
 */
#define KERNEL(name, BITS)                                                                                             \
    static TARGET void LEVEL(name)(const uint##BITS##_t *pa, const uint##BITS##_t *pb, uint##BITS##_t *po, intptr_t n, \
                                   const struct task *task)

/* a, b: an element of each operand. */
#define LANES(name, BITS, EXPRESSION)                                                                                  \
    KERNEL(name, BITS) {                                                                                               \
        const struct task t = *task;                                                                                   \
        (void)t, (void)pb;                                                                                             \
        FASTK_LANES for (intptr_t i = 0; i < n; i++) {                                                                 \
            const uint##BITS##_t a = pa[i], b = pb[i];                                                                 \
            (void)b;                                                                                                   \
            po[i] = (uint##BITS##_t)(EXPRESSION);                                                                      \
        }                                                                                                              \
    }

/* Where the bits of a whole block, less `low`, leave some upper bits clear, its values are so tame that no case has to
 * be looked for, and FAST does. One comparison a block: with the exponent's upper bits in `wide` that is a range of
 * exponents, and with the sign bit in it, of positive numbers. */
#define LOOK_IN(name, BITS, low_a, wide_a, low_b, wide_b, ELSE)                                                        \
    KERNEL(name##_swift, BITS) {                                                                                       \
        uint##BITS##_t seen_a = 0, seen_b = 0;                                                                         \
        for (intptr_t i = 0; i < n; i++) {                                                                             \
            seen_a |= pa[i] - (low_a);                                                                                 \
            seen_b |= pb[i] - (low_b);                                                                                 \
        }                                                                                                              \
        if ((seen_a & (wide_a)) | (seen_b & (wide_b)))                                                                 \
            LEVEL(ELSE)(pa, pb, po, n, task);                                                                          \
        else                                                                                                           \
            LEVEL(name##_tame)(pa, pb, po, n, task);                                                                   \
    }
#define LOOK(name, BITS, RANGE_A, RANGE_B, ELSE) LOOK_IN(name, BITS, RANGE_A, RANGE_B, ELSE)
/* RANGE expands to two arguments. */
#define SWIFT(name, BITS, RANGE, FAST)                                                                                 \
    LANES(name##_tame, BITS, FAST)                                                                                     \
    LOOK_IN(name, BITS, RANGE, RANGE, name)

/* For sums of bits alone, which cannot go wrong but be wrong: FAST goes ahead, and is done again if a block is not
 * tame. By vectors, each read once, which counts where they are not aligned. */
#define SUMS(name, BITS, low, wide, FAST, ELSE)                                                                        \
    LANES(name##_tame, BITS, FAST)                                                                                     \
    KERNEL(name##_swift, BITS) {                                                                                       \
        typedef uint##BITS##_t vector __attribute__((vector_size(LANE_BYTES)));                                        \
        enum { STEP = LANE_BYTES / (BITS / 8) };                                                                       \
        const struct task t = *task;                                                                                   \
        vector seen = {0};                                                                                             \
        intptr_t i = 0;                                                                                                \
        for (; i + STEP <= n && po != pa && po != pb; i += STEP) {                                                     \
            vector a, b;                                                                                               \
            memcpy(&a, pa + i, sizeof a);                                                                              \
            memcpy(&b, pb + i, sizeof b);                                                                              \
            FASTK_ONCE(a);                                                                                             \
            FASTK_ONCE(b);                                                                                             \
            seen |= (a - (low)) | (b - (low));                                                                         \
            a = FAST;                                                                                                  \
            memcpy(po + i, &a, sizeof a);                                                                              \
        }                                                                                                              \
        uint##BITS##_t rest = 0;                                                                                       \
        for (intptr_t j = i; j < n; j++)                                                                               \
            rest |= (pa[j] - (low)) | (pb[j] - (low));                                                                 \
        for (int j = 0; j < STEP; j++)                                                                                 \
            rest |= seen[j];                                                                                           \
        if (rest & (wide))                                                                                             \
            LEVEL(ELSE)(pa, pb, po, n, &t);                                                                            \
        else                                                                                                           \
            LEVEL(name##_tame)(pa + i, pb + i, po + i, n - i, &t);                                                     \
    }

/* Products where all but zeros is tame. */
#define ZEROS_IN(name, BITS, low, wide)                                                                                \
    LANES(name##_signed, BITS,                                                                                         \
          pick_##BITS(IS_ZERO(a) | IS_ZERO(b), (a ^ b) & ~(UINT##BITS##_MAX >> 1), a + b - (ONE_##BITS - UP(BITS))))   \
    KERNEL(name##_zeros, BITS) {                                                                                       \
        uint##BITS##_t seen = 0;                                                                                       \
        for (intptr_t i = 0; i < n; i++) {                                                                             \
            const uint##BITS##_t a = pa[i], b = pb[i];                                                                 \
            seen |= pick_##BITS(IS_ZERO(a), 0, a - (low)) | pick_##BITS(IS_ZERO(b), 0, b - (low));                     \
        }                                                                                                              \
        if (seen & (wide))                                                                                             \
            LEVEL(name)(pa, pb, po, n, task);                                                                          \
        else                                                                                                           \
            LEVEL(name##_signed)(pa, pb, po, n, task);                                                                 \
    }
#define ZEROS(name, BITS, RANGE) ZEROS_IN(name, BITS, RANGE)
#define IS_ZERO(u) ((u) << 1 == 0)

/* Powers: in the tame ranges, or where the largest exponent and logarithm of a block leave the product in range. */
#define SWIFT_POW(BITS)                                                                                                \
    LANES(pow_##BITS##_tame, BITS, ONE_##BITS + (uint##BITS##_t)tame_log_##BITS(a - ONE_##BITS, real_##BITS(b)))       \
    KERNEL(pow_##BITS##_wide, BITS) {                                                                                  \
        uint##BITS##_t above = 0, log = 0, exponent = 0;                                                               \
        for (intptr_t i = 0; i < n; i++) {                                                                             \
            const uint##BITS##_t u = pa[i] - LEAST_##BITS, size = pb[i] & (UINT##BITS##_MAX >> 1);                     \
            const int##BITS##_t l = (int##BITS##_t)(pa[i] - ONE_##BITS);                                               \
            const uint##BITS##_t distance = l < 0 ? 0 - (uint##BITS##_t)l : (uint##BITS##_t)l;                         \
            above = u > above ? u : above;                                                                             \
            log = distance > log ? distance : log;                                                                     \
            exponent = size > exponent ? size : exponent;                                                              \
        }                                                                                                              \
        if (above < INF_##BITS - LEAST_##BITS && exponent < bits_##BITS(0x1p20) &&                                     \
            (double)log * (double)real_##BITS(exponent) < (double)(ONE_##BITS - 2 * LEAST_##BITS))                     \
            LEVEL(pow_##BITS##_tame)(pa, pb, po, n, task);                                                             \
        else                                                                                                           \
            LEVEL(pow_##BITS)(pa, pb, po, n, task);                                                                    \
    }                                                                                                                  \
    LOOK(pow_##BITS, BITS, BASE_##BITS, EXPONENT_##BITS, pow_##BITS##_wide)

#define SWIFT_SUMS(name, BITS, RANGE, FAST, ELSE) SUMS(name, BITS, RANGE, FAST, ELSE)

/* The 32-bit scale serves three formats, so the format is a variable. */
#define FORMAT_32 t.format
#define FORMAT_64 FLOAT64
#define OPS(BITS, REFINED, suffix)                                                                                     \
    LANES(mul##suffix, BITS, mul_##BITS(a, b, BIAS(BITS), REFINED, FORMAT_##BITS))                                     \
    LANES(div##suffix, BITS, div_##BITS(a, b, BIAS(BITS), REFINED, FORMAT_##BITS))                                     \
    LANES(reciprocal##suffix, BITS, div_##BITS(ONE_##BITS, a, BIAS(BITS), REFINED, FORMAT_##BITS))                     \
    LANES(sqrt##suffix, BITS, sqrt_##BITS(a, BIAS(BITS), REFINED, FORMAT_##BITS))                                      \
    LANES(rsqrt##suffix, BITS, rsqrt_##BITS(a, BIAS(BITS), REFINED, FORMAT_##BITS))                                    \
    LANES(log2##suffix, BITS, log2_##BITS(a, BIAS(BITS), REFINED, FORMAT_##BITS))                                      \
    LANES(exp2##suffix, BITS, exp2_##BITS(a, BIAS(BITS), REFINED, FORMAT_##BITS))                                      \
    LANES(pow##suffix, BITS, pow_##BITS(a, b, BIAS(BITS), LOG_BIAS(BITS), REFINED, FORMAT_##BITS))
#define BIAS(BITS) ((int##BITS##_t)t.bias)
#define LOG_BIAS(BITS) ((int##BITS##_t)t.log_bias)
OPS(32, 0, _32)
OPS(32, 1, _refined_32)
OPS(64, 0, _64)
OPS(64, 1, _refined_64)

#define SWIFT_OPS(BITS)                                                                                                \
    ZEROS(mul_##BITS, BITS, TAME_##BITS)                                                                               \
    SWIFT_SUMS(mul_##BITS, BITS, TAME_##BITS, a + b - (ONE_##BITS - UP(BITS)), mul_##BITS##_zeros)                     \
    SWIFT_SUMS(div_##BITS, BITS, TAME_##BITS, a - b + (ONE_##BITS + UP(BITS)), div_##BITS)                             \
    SWIFT_SUMS(reciprocal_##BITS, BITS, TAME_##BITS, (2 * ONE_##BITS + UP(BITS)) - a, reciprocal_##BITS)               \
    SWIFT_SUMS(sqrt_##BITS, BITS, POSITIVE_##BITS, ((a + ONE_##BITS) >> 1) + UP(BITS), sqrt_##BITS)                    \
    SWIFT_SUMS(rsqrt_##BITS, BITS, POSITIVE_##BITS, ((3 * ONE_##BITS - a) >> 1) + UP(BITS), rsqrt_##BITS)              \
    SWIFT(log2_##BITS, BITS, POSITIVE_##BITS, log2_tame_##BITS(a + UP(BITS)))                                          \
    SWIFT(exp2_##BITS, BITS, LOGARITHM_##BITS, exp2_tame_##BITS(a) + (ONE_##BITS + UP(BITS)))                          \
    SWIFT_POW(BITS)
#define UP(BITS) ((uint##BITS##_t)t.bias)
SWIFT_OPS(32)
SWIFT_OPS(64)

#define INTEGERS(name, BITS, MUL)                                                                                      \
    LANES(name, BITS, MUL(a, b, t.bias, 0))                                                                            \
    LANES(name##_refined, BITS, MUL(a, b, t.bias, 1))
INTEGERS(mul_int8, 8, signed_mul_8)
INTEGERS(mul_int16, 16, signed_mul_16)
INTEGERS(mul_int32, 32, signed_mul_32)
INTEGERS(mul_int64, 64, signed_mul_64)
INTEGERS(mul_uint8, 8, integer_mul_32)
INTEGERS(mul_uint16, 16, integer_mul_32)
INTEGERS(mul_uint32, 32, integer_mul_64)
INTEGERS(mul_uint64, 64, integer_mul_wide)

/* By method and op. */
#define ROW(BITS, suffix)                                                                                              \
    {                                                                                                                  \
        LEVEL(mul##suffix), LEVEL(mul##suffix), LEVEL(div##suffix), LEVEL(reciprocal##suffix), LEVEL(sqrt##suffix),    \
            LEVEL(rsqrt##suffix), LEVEL(log2##suffix), LEVEL(exp2##suffix), LEVEL(pow##suffix)                         \
    }
static const struct kernels LEVEL(kernels) = {
    {LEVEL(mul_int8), LEVEL(mul_uint8), LEVEL(mul_int8_refined), LEVEL(mul_uint8_refined)},
    {LEVEL(mul_int16), LEVEL(mul_uint16), LEVEL(mul_int16_refined), LEVEL(mul_uint16_refined)},
    {LEVEL(mul_int32), LEVEL(mul_uint32), LEVEL(mul_int32_refined), LEVEL(mul_uint32_refined)},
    {LEVEL(mul_int64), LEVEL(mul_uint64), LEVEL(mul_int64_refined), LEVEL(mul_uint64_refined)},
    {ROW(32, _32), ROW(32, _refined_32), ROW(32, _32_swift)},
    {ROW(64, _64), ROW(64, _refined_64), ROW(64, _64_swift)},
};

#undef KERNEL
#undef LANES
#undef LOOK_IN
#undef LOOK
#undef SWIFT
#undef SUMS
#undef ZEROS_IN
#undef ZEROS
#undef IS_ZERO
#undef SWIFT_SUMS
#undef SWIFT_POW
#undef LANE_BYTES
#undef FORMAT_32
#undef FORMAT_64
#undef OPS
#undef BIAS
#undef LOG_BIAS
#undef SWIFT_OPS
#undef UP
#undef INTEGERS
#undef ROW
#undef TARGET
#undef LEVEL
