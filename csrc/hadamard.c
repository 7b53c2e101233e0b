/* The fast Walsh-Hadamard transform (B. J. Fino and V. R. Algazi 1976), in natural (Sylvester) order. */
#include <string.h>

#include "hadamard.h"

#ifdef FASTK_X86
#include <immintrin.h>
#endif

enum {
    BLOCK_BYTES = 1 << 14, /* of a row, done at a time: half of the smallest first-level cache */
    AHEAD = 4096           /* bytes that are fetched before they are looked at */
};

#define BITS 32
#define TARGET
#define LANE_BYTES 16
#define LEVEL(name) name##_32_base
#include "hadamard_lanes.h"
#define BITS 64
#define TARGET
#define LANE_BYTES 16
#define LEVEL(name) name##_64_base
#include "hadamard_lanes.h"
#ifdef FASTK_X86
#define BITS 32
#define TARGET FASTK_TARGET_V3
#define LANE_BYTES 32
#define LEVEL(name) name##_32_v3
#include "hadamard_lanes.h"
#define BITS 64
#define TARGET FASTK_TARGET_V3
#define LANE_BYTES 32
#define LEVEL(name) name##_64_v3
#include "hadamard_lanes.h"
#define BITS 32
#define TARGET FASTK_TARGET_V4
#define LANE_BYTES 64
#define LEVEL(name) name##_32_v4
#include "hadamard_lanes.h"
#define BITS 64
#define TARGET FASTK_TARGET_V4
#define LANE_BYTES 64
#define LEVEL(name) name##_64_v4
#include "hadamard_lanes.h"
#endif

const hadamard_f32 *const fastk_hadamard_f32_of[] = {&hadamard_32_base,
#ifdef FASTK_X86
                                                     &hadamard_32_v3, &hadamard_32_v4
#endif
};
const hadamard_f64 *const fastk_hadamard_f64_of[] = {&hadamard_64_base,
#ifdef FASTK_X86
                                                     &hadamard_64_v3, &hadamard_64_v4
#endif
};

/* x and out are (size / (n inner), n, inner). */
#define HADAMARD(kind, real)                                                                                           \
    FASTK_INLINE void hadamard_##kind##_body(int level, const real *x, real *out, size_t size, size_t n, size_t inner, \
                                             uint8_t normalize) {                                                      \
        if (n == 0 || (n & (n - 1)) != 0 || inner == 0 || n > size || inner > size / n)                                \
            return;                                                                                                    \
        unsigned log = (unsigned)__builtin_ctzll(n);                                                                   \
        real scale = log % 2 && normalize ? (real)0.7071067811865476 : 1;                                              \
        for (unsigned i = 0; normalize && i < log / 2; i++)                                                            \
            scale *= (real)0.5;                                                                                        \
        const hadamard_##kind *at = fastk_hadamard_##kind##_of[level];                                                 \
        if (inner == 1)                                                                                                \
            at->rows(x, NULL, out, size / n * n, n, scale);                                                            \
        for (size_t i = 0, row = n * inner; inner > 1 && i < size / row; i++)                                          \
            at->columns(x + i * row, out + i * row, n, inner, scale);                                                  \
    }                                                                                                                  \
    FASTK_STAMP(void, hadamard_##kind,                                                                                 \
                (const real *x, real *out, size_t size, size_t n, size_t inner, uint8_t normalize),                    \
                (x, out, size, n, inner, normalize))

HADAMARD(f32, float)
HADAMARD(f64, double)
