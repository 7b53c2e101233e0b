/* float16 and bfloat16, as bits, from and to float32. */
#ifndef FASTK_HALF_H
#define FASTK_HALF_H

#include <string.h>

#include "isa.h"

FASTK_INLINE uint32_t float_bits(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}
FASTK_INLINE float bits_float(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}
/* By masks, since a select would not become a vector's. */
FASTK_INLINE uint32_t either(int condition, uint32_t yes, uint32_t no) {
    const uint32_t mask = 0 - (uint32_t)condition;
    return (yes & mask) | (no & ~mask);
}

/* x as a float32 whose last bit is 1 if it is not exact: what is rounded from that is rounded once. */
FASTK_INLINE uint32_t odd_bits(double x) {
    const float y = (float)x;
    return (float_bits(y) - (__builtin_fabs((double)y) > __builtin_fabs(x))) | ((double)y != x);
}

FASTK_INLINE uint32_t widen_f16(uint16_t h) {
    uint32_t u = h & 0x7fffu, sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t small = float_bits((float)(int32_t)(u & 0x3ff) * 0x1p-24f);
    uint32_t r = either(u < 0x400, small, (u << 13) + (112u << 23));
    return sign | either(u >= 0x7c00, u << 13 | 255u << 23, r);
}

/* To nearest, ties to even; every nan becomes one. Below 2^-14 the last place is that of 1/2 in float32. */
FASTK_INLINE uint16_t round_f16(uint32_t u) {
    uint32_t sign = u >> 16 & 0x8000u, v = u & 0x7fffffffu;
    uint32_t small = float_bits(bits_float(either(v < 113u << 23, v, 0)) + 0.5f) - float_bits(0.5f);
    uint32_t r = either(v < 113u << 23, small, (v - (112u << 23) + 0xfff + (v >> 13 & 1)) >> 13);
    r = either(v >= 0x477ff000u, 0x7c00, r);
    return (uint16_t)either(v > 255u << 23, 0x7e00, sign | r);
}

FASTK_INLINE uint16_t round_bf16(uint32_t u) {
    uint32_t r = (u + 0x7fff + (u >> 16 & 1)) >> 16;
    return (uint16_t)either((u & 0x7fffffffu) > 255u << 23, 0x7fc0, r);
}

#endif
