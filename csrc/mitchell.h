/* Mitchell's binary-log arithmetic (J. N. Mitchell, "Computer Multiplication and Division Using Binary Logarithms",
 * 1962).
 *
 * With a = 2^k (1 + x), 0 <= x < 1, log2(a) is taken to be k + x, which is what the bits of a float say already.
 * Adding, subtracting and halving those bits multiplies, divides and takes roots; no result is off by more than 1/8,
 * and no product by more than 1/9. A correction is a constant that is added to the result's bits (`bias`), or
 * Mitchell's second pass (`refined`), which adds the dropped term by another such operation.
 */
#ifndef FASTK_MITCHELL_H
#define FASTK_MITCHELL_H

#include <string.h>

#include "isa.h"

#define ONE_32 (UINT32_C(127) << 23)
#define ONE_64 (UINT64_C(1023) << 52)

#define SCALE 64
#include "mitchell_scale.h"
#define SCALE 32
#include "mitchell_scale.h"

static const struct format_64 FLOAT64 = {0, (uint64_t)1 << 52, (uint64_t)2047 << 52};
static const struct format_32 FLOAT32 = {0, 1u << 23, 255u << 23};
static const struct format_32 FLOAT16 = {13, 113u << 23, 143u << 23};
static const struct format_32 BFLOAT16 = {16, 1u << 23, 255u << 23};

/* The whole part of a float at bits u, modulo 2^32 or 2^64; it is below 2^(M + 15). Shifts stay small even for what is
 * not used: where there is no vector shift, clang goes through floats, and 2^31 would raise. */
FASTK_INLINE uint32_t whole_32(uint32_t u) {
    uint32_t mantissa = (u & 0x7fffffu) | 0x800000u;
    int32_t up = (int32_t)(u >> 23) - 150;
    return up < 0 ? mantissa >> (-up & 31) : mantissa << (up < 0 ? 0 : up & 15);
}

FASTK_INLINE uint64_t whole_64(uint64_t u) {
    uint64_t mantissa = (u & 0xfffffffffffffu) | 0x10000000000000u;
    int64_t up = (int64_t)(u >> 52) - 1075;
    return up < 0 ? mantissa >> (-up & 63) : mantissa << (up < 0 ? 0 : up & 15);
}

/* Integers of up to 16 bits are floats, and of up to 32 bits doubles, whose Mitchell product is exact. */
#define INTEGER_MUL(SCALE, UINT, REAL, M, ONE)                                                                         \
    FASTK_INLINE UINT integer_mul_##SCALE(UINT a, UINT b, int64_t bias, int refined) {                                 \
        const UINT mask = ((UINT)1 << M) - 1, integer = ONE + ((UINT)M << M); /* bits of 2^M */                        \
        REAL f = real_##SCALE(integer | a) - real_##SCALE(integer),                                                    \
             g = real_##SCALE(integer | b) - real_##SCALE(integer);                                                    \
        UINT u = bits_##SCALE(f), v = bits_##SCALE(g);                                                                 \
        UINT sum = u + v - ONE + ((UINT)bias << (M - 23));                                                             \
        UINT r = whole_##SCALE(sum);                                                                                   \
        if (refined) {                                                                                                 \
            int carry = (u & mask) + (v & mask) > mask;                                                                \
            REAL x = real_##SCALE(u & ~mask), y = real_##SCALE(v & ~mask);                                             \
            UINT s = pick_##SCALE(carry, bits_##SCALE(2 * x - f), bits_##SCALE(f - x));                                \
            UINT t = pick_##SCALE(carry, bits_##SCALE(2 * y - g), bits_##SCALE(g - y));                                \
            r += pick_##SCALE((s == 0) | (t == 0), 0, whole_##SCALE(s + t - ONE));                                     \
        }                                                                                                              \
        return pick_##SCALE((a == 0) | (b == 0), 0, r);                                                                \
    }
INTEGER_MUL(32, uint32_t, float, 23, (127u << 23))
INTEGER_MUL(64, uint64_t, double, 52, ((uint64_t)1023 << 52))

#endif
