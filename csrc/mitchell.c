/* The inner loop of the Mitchell ufuncs: one function for all, told by its data which op, dtype and correction it
 * serves.
 *
 * It works in blocks of contiguous elements, which vectorise; operands and results of other strides pass through
 * buffers.
 */
#include "mitchell.h"
#include "half.h"

/* Keeps a vector in the register that it was read into, where the compiler would read it twice. */
#ifdef FASTK_X86
#define FASTK_ONCE(vector) __asm__("" : "+x"(vector))
#else
#define FASTK_ONCE(vector) (void)(vector)
#endif

enum { MUL, SQUARE, DIV, RECIPROCAL, SQRT, RSQRT, LOG2, EXP2, POWER, OPS_COUNT };
enum { INT8, INT16, INT32, INT64, UINT8, UINT16, UINT32, UINT64, F16, F32, F64, BF16, SAME };
static const intptr_t WIDTHS[] = {1, 2, 4, 8, 1, 2, 4, 8, 2, 4, 8, 2}; /* in bytes, by dtype */
enum { OP, DTYPE, REFINED, BIAS, LOG_BIAS };                           /* fields of a loop's data */
enum { PLAIN, SECOND_PASS, TAME_FIRST, METHODS };                      /* methods */
enum { BLOCK = 1024 };

/* Rounded towards zero: bits below the last place are 0 but in roots. */
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

/* ---- kernels: what they are told, and their table at each level */

struct task {
    int64_t bias, log_bias;
    struct format_32 format;
};

#define KERNEL_TYPE(BITS)                                                                                              \
    typedef void (*kernel_##BITS)(const uint##BITS##_t *pa, const uint##BITS##_t *pb, uint##BITS##_t *po, intptr_t n,  \
                                  const struct task *task);
KERNEL_TYPE(8)
KERNEL_TYPE(16)
KERNEL_TYPE(32)
KERNEL_TYPE(64)

/* Integers: signed, unsigned, and both refined. Floats: by method and op. */
struct kernels {
    kernel_8 integers_8[4];
    kernel_16 integers_16[4];
    kernel_32 integers_32[4];
    kernel_64 integers_64[4];
    kernel_32 floats_32[METHODS][OPS_COUNT];
    kernel_64 floats_64[METHODS][OPS_COUNT];
};

/* From 2^-32 to 2^32, doubles from 2^-256 to 2^256: no product or quotient of two leaves the range. */
#define TAME_32 (UINT32_C(95) << 23), UINT32_C(0x60000000)
#define TAME_64 (UINT64_C(767) << 52), UINT64_C(0x6000000000000000)
/* From 2^-64 to 2^64, doubles from 2^-512 to 2^512, and positive. */
#define POSITIVE_32 (UINT32_C(63) << 23), UINT32_C(0xc0000000)
#define POSITIVE_64 (UINT64_C(511) << 52), UINT64_C(0xc000000000000000)
/* Below 64 in size, doubles below 512, and not 0. */
#define LOGARITHM_32 (UINT32_C(5) << 23), UINT32_C(0x40000000)
#define LOGARITHM_64 (UINT64_C(8) << 52), UINT64_C(0x4000000000000000)
/* From 2^-16 to 2^16, doubles from 2^-128 to 2^128, and positive; and 2^-62 (2^-510) to 4: no power leaves the range.
 */
#define BASE_32 (UINT32_C(111) << 23), UINT32_C(0xf0000000)
#define BASE_64 (UINT64_C(895) << 52), UINT64_C(0xf000000000000000)
#define EXPONENT_32 (UINT32_C(65) << 23), UINT32_C(0x60000000)
#define EXPONENT_64 (UINT64_C(513) << 52), UINT64_C(0x6000000000000000)
/* The smallest normal number, and infinity. */
#define LEAST_32 (UINT32_C(1) << 23)
#define LEAST_64 (UINT64_C(1) << 52)
#define INF_32 (UINT32_C(255) << 23)
#define INF_64 (UINT64_C(2047) << 52)

#define TARGET
#define LANE_BYTES 16
#define LEVEL(name) name##_base
#include "mitchell_lanes.h"
#ifdef FASTK_X86
#define TARGET FASTK_TARGET_V3
#define LANE_BYTES 32
#define LEVEL(name) name##_v3
#include "mitchell_lanes.h"
#define TARGET FASTK_TARGET_V4
#define LANE_BYTES 64
#define LEVEL(name) name##_v4
#include "mitchell_lanes.h"
#endif

/* ---- blocks */

struct loop {
    char **args;
    const intptr_t *steps;
    intptr_t n, block;
    int inputs;
    int converted; /* dtype of the operands where it differs from what is computed, else SAME */
};

/* Bytes from the first byte of n elements to behind the last. */
static uintptr_t low_of(const char *p, intptr_t step, intptr_t n) {
    return (uintptr_t)p + (uintptr_t)(step < 0 ? (n - 1) * step : 0);
}
static uintptr_t end_of(const char *p, intptr_t step, intptr_t n, intptr_t width) {
    return (uintptr_t)p + (uintptr_t)(step > 0 ? (n - 1) * step : 0) + (uintptr_t)width;
}

/* Whether block by block would differ from one by one: NumPy accumulates by a loop whose output is its next input.
 * Elements are `width` bytes, and those of the result `out_width`. */
static int is_sequential(const struct loop *l, intptr_t width, intptr_t out_width) {
    const intptr_t out_step = l->steps[l->inputs];
    const char *out = l->args[l->inputs];
    for (int i = 0; i < l->inputs; i++) {
        const char *in = l->args[i];
        const intptr_t step = l->steps[i];
        if (in == out && step == out_step && step != 0)
            continue;
        if (low_of(in, step, l->n) >= end_of(out, out_step, l->n, out_width) ||
            low_of(out, out_step, l->n) >= end_of(in, step, l->n, width))
            continue;
        if (step == out_step && step > 0) { /* side by side, like two columns of a matrix */
            const intptr_t gap = ((intptr_t)((uintptr_t)out - (uintptr_t)in) % step + step) % step;
            if (gap >= width && gap + out_width <= step)
                continue;
        }
        return 1;
    }
    return 0;
}

#define AT(T, p, i, step) (*(T *)(void *)((p) + (i) * (step)))
#define COPIED(T, TO, VALUE)                                                                                           \
    if (step == 0) {                                                                                                   \
        const T x = AT(const T, p, 0, 0);                                                                              \
        const __typeof__(*room) value = VALUE;                                                                         \
        for (intptr_t i = 0; i < n; i++)                                                                               \
            TO = value;                                                                                                \
    } else                                                                                                             \
        for (intptr_t i = 0; i < n; i++) {                                                                             \
            const T x = AT(const T, p, i, step);                                                                       \
            TO = VALUE;                                                                                                \
        }                                                                                                              \
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

/* Elements at .. at + n of each operand, where they are if they can be read there and else in a buffer; the kernel; and
 * the results to where they go. */
#define BLOCKS(BITS)                                                                                                   \
    static void blocks_##BITS(const struct loop *l, kernel_##BITS kernel, const struct task *task) {                   \
        uint##BITS##_t room[3][BLOCK];                                                                                 \
        const intptr_t width = l->converted == SAME ? BITS / 8 : 0, *steps = l->steps;                                 \
        for (intptr_t at = 0; at < l->n; at += l->block) {                                                             \
            const intptr_t n = l->n - at < l->block ? l->n - at : l->block;                                            \
            const uint##BITS##_t *in[2];                                                                               \
            for (int i = 0; i < l->inputs; i++) {                                                                      \
                const char *p = l->args[i] + at * steps[i];                                                            \
                in[i] = width && steps[i] == width ? (const uint##BITS##_t *)(const void *)p : room[i];                \
                if (in[i] == room[i] && (steps[i] != 0 || at == 0 || l->block == 1))                                   \
                    fetch_##BITS(l->converted, p, steps[i], n, room[i]);                                               \
            }                                                                                                          \
            char *p = l->args[l->inputs] + at * steps[l->inputs];                                                      \
            const int there = width && steps[l->inputs] == width;                                                      \
            uint##BITS##_t *out = there ? (uint##BITS##_t *)(void *)p : room[2];                                       \
            kernel(in[0], in[l->inputs - 1], out, n, task);                                                            \
            if (!there)                                                                                                \
                store_##BITS(l->converted, p, steps[l->inputs], n, out);                                               \
        }                                                                                                              \
    }
BLOCKS(8)
BLOCKS(16)
BLOCKS(32)
BLOCKS(64)

static void run(const struct kernels *kernels, char **args, const intptr_t *dimensions, const intptr_t *steps,
                const int64_t *fields) {
    const int op = (int)fields[OP], dtype = (int)fields[DTYPE], refined = fields[REFINED] != 0;
    const int product = op == MUL || op == SQUARE, integer = dtype < F16, is_unsigned = dtype >= UINT8;
    const int same = dtype == F32 || dtype == F64 || (integer && product);
    struct loop l = {
        args, steps, dimensions[0], BLOCK, op == MUL || op == DIV || op == POWER ? 2 : 1, same ? SAME : dtype};
    const intptr_t width = WIDTHS[dtype], out_width = integer && !product ? WIDTHS[F64] : width;
    if (is_sequential(&l, width, out_width))
        l.block = 1;
    const struct task task = {fields[BIAS], fields[LOG_BIAS],
                              dtype == F16    ? FLOAT16
                              : dtype == BF16 ? BFLOAT16
                                              : FLOAT32};
    /* With a bias a power of 1 is a case of its own. */
    const int tame = same && !(op == POWER && (fields[BIAS] || fields[LOG_BIAS]));
    const int method = refined ? SECOND_PASS : tame ? TAME_FIRST : PLAIN, whole = 2 * refined + is_unsigned;
    if (dtype == F64 || (integer && !product))
        blocks_64(&l, kernels->floats_64[method][op], &task);
    else if (!integer)
        blocks_32(&l, kernels->floats_32[method][op], &task);
    else if (dtype == INT8 || dtype == UINT8)
        blocks_8(&l, kernels->integers_8[whole], &task);
    else if (dtype == INT16 || dtype == UINT16)
        blocks_16(&l, kernels->integers_16[whole], &task);
    else if (dtype == INT32 || dtype == UINT32)
        blocks_32(&l, kernels->integers_32[whole], &task);
    else
        blocks_64(&l, kernels->integers_64[whole], &task);
}

FASTK_INLINE void mitchell_loop_body(int level, char **args, const intptr_t *dimensions, const intptr_t *steps,
                                     void *data) {
#ifdef FASTK_X86
    const struct kernels *kernels = level == FASTK_V4 ? &kernels_v4 : level == FASTK_V3 ? &kernels_v3 : &kernels_base;
#else
    const struct kernels *kernels = &kernels_base;
    (void)level;
#endif
    run(kernels, args, dimensions, steps, data);
}

FASTK_STAMP(void, mitchell_loop, (char **args, const intptr_t *dimensions, const intptr_t *steps, void *data),
            (args, dimensions, steps, data))
