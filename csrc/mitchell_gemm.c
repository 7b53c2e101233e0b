/* The Mitchell matrix product, and convolution as a product with an image's patches. */
#include "mitchell.h"

enum {
    DEPTH = 512,         /* elements of k in a block: a panel of columns stays in the nearest caches */
    ROWS_MOST = 192,     /* of A in a block, in the second-level cache; a multiple of every tile's rows */
    COLUMNS_MOST = 2048, /* of B in a block; a multiple of every tile's columns */
    STRETCH = 256,       /* elements of k that a vector and a matrix are multiplied by at a time */
    STRIP = 8,           /* vectors of columns in that */
    CHAINS = 8,          /* or columns, one by one */
    WORK_ALIGNMENT = 64
};

/* Exponents of the numbers in a panel that are not zero, whether there are zeros, and whether it has to be read with
 * care: it holds subnormals, infinities or nans. */
struct panel {
    const void *at; /* the numbers, packed */
    int low, high, zeros, special;
};

/* PLAIN: nothing can go wrong. TINY: zeros, packed so that they need no further care. MASKED: zeros are masked out.
 * CAREFUL: every product is looked at. */
enum path { PLAIN, TINY, MASKED, CAREFUL };

/* Steps are in bytes. */
struct image {
    intptr_t channel_step, row_step, column_step;
    intptr_t in_h, in_w, kernel_h, kernel_w, out_w;
    intptr_t stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
    size_t first; /* output pixel */
};

struct gemm {
    const char *a, *b;
    char *c;
    intptr_t a_row, a_col, b_row, b_col, c_row, c_col;
    size_t m, n, k;
    int64_t bias;
    int refined;
    const struct image *image; /* b is an image, and B its patches */
};

/* Blocks of k are as equal as they can be. */
static size_t depth_of(size_t k) {
    const size_t blocks = (k + DEPTH - 1) / DEPTH;
    return blocks ? (k + blocks - 1) / blocks : 1;
}

#if defined(__clang__)
#define FASTK_UNROLL _Pragma("clang loop unroll(full)")
#else
#define FASTK_UNROLL _Pragma("GCC unroll 16")
#endif

#define SCALE 32
#define WHOLE 0
#define LANE_BYTES 16
#define ROWS 6
#define TARGET
#define TILE(name) name##_f32_base
#include "mitchell_tile.h"

#define SCALE 64
#define WHOLE 0
#define LANE_BYTES 16
#define ROWS 6
#define TARGET
#define TILE(name) name##_f64_base
#include "mitchell_tile.h"

#define SCALE 32
#define WHOLE 1
#define LANE_BYTES 16
#define ROWS 6
#define TARGET
#define TILE(name) name##_i32_base
#include "mitchell_tile.h"

#ifdef FASTK_X86
#define SCALE 32
#define WHOLE 0
#define LANE_BYTES 32
#define ROWS 6
#define TARGET FASTK_TARGET_V3
#define TILE(name) name##_f32_v3
#include "mitchell_tile.h"

#define SCALE 64
#define WHOLE 0
#define LANE_BYTES 32
#define ROWS 6
#define TARGET FASTK_TARGET_V3
#define TILE(name) name##_f64_v3
#include "mitchell_tile.h"

#define SCALE 32
#define WHOLE 1
#define LANE_BYTES 32
#define ROWS 6
#define TARGET FASTK_TARGET_V3
#define TILE(name) name##_i32_v3
#include "mitchell_tile.h"

#define SCALE 32
#define WHOLE 0
#define LANE_BYTES 64
#define ROWS 8
#define TARGET FASTK_TARGET_V4
#define TILE(name) name##_f32_v4
#include "mitchell_tile.h"

#define SCALE 64
#define WHOLE 0
#define LANE_BYTES 64
#define ROWS 8
#define TARGET FASTK_TARGET_V4
#define TILE(name) name##_f64_v4
#include "mitchell_tile.h"

#define SCALE 32
#define WHOLE 1
#define LANE_BYTES 64
#define ROWS 8
#define TARGET FASTK_TARGET_V4
#define TILE(name) name##_i32_v4
#include "mitchell_tile.h"

#define BLOCKS_AT(kind, level)                                                                                         \
    if (level == FASTK_V4)                                                                                             \
        blocks_##kind##_v4(g, work);                                                                                   \
    else if (level == FASTK_V3)                                                                                        \
        blocks_##kind##_v3(g, work);                                                                                   \
    else                                                                                                               \
        blocks_##kind##_base(g, work)
#else
#define BLOCKS_AT(kind, level)                                                                                         \
    (void)level;                                                                                                       \
    blocks_##kind##_base(g, work)
#endif

#define BLOCKS(kind)                                                                                                   \
    FASTK_INLINE void blocks_##kind(int level, const struct gemm *g, char *work) { BLOCKS_AT(kind, level); }
BLOCKS(f32)
BLOCKS(f64)
BLOCKS(i32)

/* Bytes of work that a product needs at any level, wherever they begin. */
static size_t room_needed(size_t n, size_t k) {
    const size_t depth = depth_of(k), columns = n < COLUMNS_MOST ? n + 64 : COLUMNS_MOST;
    return (columns + ROWS_MOST) * depth * sizeof(uint64_t) + WORK_ALIGNMENT;
}

static char *aligned(uint8_t *work) { return (char *)work + (-(uintptr_t)work & (WORK_ALIGNMENT - 1)); }

/* C = A B for each of `stack` matrices; 0, or the bytes of work that it needs if `room` is too small. The vectors of a
 * tile lie along n, so a product with few columns is taken as its transpose: products commute. */
#define GEMM(kind, IN, OUT)                                                                                            \
    FASTK_INLINE size_t mitchell_gemm_##kind##_body(                                                                   \
        int level, const IN *a, intptr_t a_step0, intptr_t a_step1, intptr_t a_step2, const IN *b, intptr_t b_step0,   \
        intptr_t b_step1, intptr_t b_step2, OUT *c, intptr_t c_step0, intptr_t c_step1, intptr_t c_step2,              \
        size_t stack, size_t m, size_t n, size_t k, int64_t bias, uint8_t refined, uint8_t *work, size_t room) {       \
        const int turned = n < m && n < 16;                                                                            \
        const size_t needed = room_needed(turned ? m : n, k);                                                          \
        if (room < needed)                                                                                             \
            return needed;                                                                                             \
        struct gemm g = {(const char *)a,                                                                              \
                         (const char *)b,                                                                              \
                         (char *)c,                                                                                    \
                         a_step1,                                                                                      \
                         a_step2,                                                                                      \
                         b_step1,                                                                                      \
                         b_step2,                                                                                      \
                         c_step1,                                                                                      \
                         c_step2,                                                                                      \
                         m,                                                                                            \
                         n,                                                                                            \
                         k,                                                                                            \
                         bias,                                                                                         \
                         refined,                                                                                      \
                         NULL};                                                                                        \
        if (turned)                                                                                                    \
            g = (struct gemm){(const char *)b,                                                                         \
                              (const char *)a,                                                                         \
                              (char *)c,                                                                               \
                              b_step2,                                                                                 \
                              b_step1,                                                                                 \
                              a_step2,                                                                                 \
                              a_step1,                                                                                 \
                              c_step2,                                                                                 \
                              c_step1,                                                                                 \
                              n,                                                                                       \
                              m,                                                                                       \
                              k,                                                                                       \
                              bias,                                                                                    \
                              refined,                                                                                 \
                              NULL};                                                                                   \
        for (size_t i = 0; i < stack; i++) {                                                                           \
            blocks_##kind(level, &g, aligned(work));                                                                   \
            g.a += turned ? b_step0 : a_step0;                                                                         \
            g.b += turned ? a_step0 : b_step0;                                                                         \
            g.c += c_step0;                                                                                            \
        }                                                                                                              \
        return 0;                                                                                                      \
    }                                                                                                                  \
    FASTK_STAMP(size_t, mitchell_gemm_##kind,                                                                          \
                (const IN *a, intptr_t a_step0, intptr_t a_step1, intptr_t a_step2, const IN *b, intptr_t b_step0,     \
                 intptr_t b_step1, intptr_t b_step2, OUT *c, intptr_t c_step0, intptr_t c_step1, intptr_t c_step2,     \
                 size_t stack, size_t m, size_t n, size_t k, int64_t bias, uint8_t refined, uint8_t *work,             \
                 size_t room),                                                                                         \
                (a, a_step0, a_step1, a_step2, b, b_step0, b_step1, b_step2, c, c_step0, c_step1, c_step2, stack, m,   \
                 n, k, bias, refined, work, room))

GEMM(f32, float, float)
GEMM(f64, double, double)
GEMM(i32, float, int32_t)

/* Output pixels first .. first + n of a convolution: for each image and group, the weights' matrix times the columns of
 * patches of the group's channels, zeros around the image. Patches are unfolded panel by panel. Returns as the product
 * does; SIZE_MAX if the sizes contradict each other. */
#define CONV(kind, IN, OUT)                                                                                            \
    FASTK_INLINE size_t mitchell_conv_##kind##_body(                                                                   \
        int level, const IN *x, intptr_t x_step0, intptr_t x_step1, intptr_t x_step2, intptr_t x_step3, const IN *a,   \
        intptr_t a_step0, intptr_t a_step1, OUT *c, intptr_t c_step0, intptr_t c_step1, intptr_t c_step2,              \
        size_t images, size_t channels, size_t h, size_t w, size_t m, size_t k, size_t n, size_t first, size_t groups, \
        size_t kernel_h, size_t kernel_w, size_t out_w, size_t stride_h, size_t stride_w, size_t pad_h, size_t pad_w,  \
        size_t dilation_h, size_t dilation_w, int64_t bias, uint8_t refined, uint8_t *work, size_t room) {             \
        if (groups == 0 || kernel_h == 0 || kernel_w == 0 || out_w == 0 || channels % groups || m % groups ||          \
            k != channels / groups * kernel_h * kernel_w)                                                              \
            return SIZE_MAX;                                                                                           \
        const size_t needed = room_needed(n, k);                                                                       \
        if (room < needed)                                                                                             \
            return needed;                                                                                             \
        const struct image image = {x_step1,                                                                           \
                                    x_step2,                                                                           \
                                    x_step3,                                                                           \
                                    (intptr_t)h,                                                                       \
                                    (intptr_t)w,                                                                       \
                                    (intptr_t)kernel_h,                                                                \
                                    (intptr_t)kernel_w,                                                                \
                                    (intptr_t)out_w,                                                                   \
                                    (intptr_t)stride_h,                                                                \
                                    (intptr_t)stride_w,                                                                \
                                    (intptr_t)pad_h,                                                                   \
                                    (intptr_t)pad_w,                                                                   \
                                    (intptr_t)dilation_h,                                                              \
                                    (intptr_t)dilation_w,                                                              \
                                    first};                                                                            \
        const intptr_t in_channels = (intptr_t)(channels / groups), out_channels = (intptr_t)(m / groups);             \
        for (intptr_t i = 0; i < (intptr_t)images; i++)                                                                \
            for (intptr_t g = 0; g < (intptr_t)groups; g++) {                                                          \
                const struct gemm gemm = {(const char *)a + g * out_channels * a_step0,                                \
                                          (const char *)x + i * x_step0 + g * in_channels * x_step1,                   \
                                          (char *)c + i * c_step0 + g * out_channels * c_step1,                        \
                                          a_step0,                                                                     \
                                          a_step1,                                                                     \
                                          0,                                                                           \
                                          0,                                                                           \
                                          c_step1,                                                                     \
                                          c_step2,                                                                     \
                                          m / groups,                                                                  \
                                          n,                                                                           \
                                          k,                                                                           \
                                          bias,                                                                        \
                                          refined,                                                                     \
                                          &image};                                                                     \
                blocks_##kind(level, &gemm, aligned(work));                                                            \
            }                                                                                                          \
        return 0;                                                                                                      \
    }                                                                                                                  \
    FASTK_STAMP(size_t, mitchell_conv_##kind,                                                                          \
                (const IN *x, intptr_t x_step0, intptr_t x_step1, intptr_t x_step2, intptr_t x_step3, const IN *a,     \
                 intptr_t a_step0, intptr_t a_step1, OUT *c, intptr_t c_step0, intptr_t c_step1, intptr_t c_step2,     \
                 size_t images, size_t channels, size_t h, size_t w, size_t m, size_t k, size_t n, size_t first,       \
                 size_t groups, size_t kernel_h, size_t kernel_w, size_t out_w, size_t stride_h, size_t stride_w,      \
                 size_t pad_h, size_t pad_w, size_t dilation_h, size_t dilation_w, int64_t bias, uint8_t refined,      \
                 uint8_t *work, size_t room),                                                                          \
                (x, x_step0, x_step1, x_step2, x_step3, a, a_step0, a_step1, c, c_step0, c_step1, c_step2, images,     \
                 channels, h, w, m, k, n, first, groups, kernel_h, kernel_w, out_w, stride_h, stride_w, pad_h, pad_w,  \
                 dilation_h, dilation_w, bias, refined, work, room))

CONV(f32, float, float)
CONV(f64, double, double)
CONV(i32, float, int32_t)
