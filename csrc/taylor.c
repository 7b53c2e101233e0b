/* Taylor polynomials of exp: softmax by them and its kin, by row, and maps, by element (also GELU).
 *
 * f_n(x) = sum of x^k / k!, k <= n, n even: a factorisation into positive quadratics (taylor.h). Rows take two passes,
 * since nothing overflows for ordinary numbers: the sum of f, and f times a factor. Short rows keep f in between, long
 * ones compute it again. Rows of numbers so large that a sum overflows, of infinities and of nans are irregular: they
 * are done again one element at a time, in float64, with exponents apart.
 */
#include "taylor.h"

#include <float.h>

#ifdef FASTK_X86
#include <immintrin.h>
#endif

enum { ROOM = 1024, TILE = 16, KEPT_BYTES = 16384, SUM_BLOCK = 1024 };
enum { FEW = 2048, MANY = 1 << 18 }; /* elements of a row, and of all, for fetching ahead */
static const int WIDTHS[STORAGES] = {2, 2, 4, 8};

enum { LOG_PAIR = OPS };
static const int PASSES_OF_OP[][3] = {
    [SOFTMAX] = {PASS_NONE, PASS_SUM, PASS_PUT},
    [LOG] = {PASS_NONE, PASS_SUM_LOG, PASS_PUT_LOG},
    [SOFTMAX_VJP] = {PASS_NONE, PASS_SUM_VJP, PASS_PUT_VJP},
    [LOG_VJP] = {PASS_NONE, PASS_SUM_LOGVJP, PASS_PUT_LOGVJP},
    [FAST] = {PASS_MAX, PASS_SUM_FAST, PASS_PUT_FAST},
    [EXP] = {PASS_NONE, PASS_NONE, PASS_EXP},
    [GELU] = {PASS_NONE, PASS_NONE, PASS_GELU},
    [GELU_TANH] = {PASS_NONE, PASS_NONE, PASS_GELU_TANH},
    [GELU_SIGMOID] = {PASS_NONE, PASS_NONE, PASS_GELU_SIGMOID},
    [LOG_PAIR] = {PASS_NONE, PASS_SUM_LOG_PAIR, PASS_PUT_LOG_PAIR},
};

/* ---- constants */

static const double LOG2_E = 0x1.71547652b82fep0, LN2_HIGH = 0x1.62e42feep-1, LN2_LOW = 0x1.a39ef35793c76p-33;
static const double SQRT_HALF = 0x1.6a09e667f3bcdp-1;
static const double GELU_1 = 0x1.9884533d43651p+0,
                    GELU_3 = 0x1.2444f2a4d8b4bp-4; /* 2 sqrt(2 / pi), 0.044715 times it */
static const float GELU_1F = 0x1.988454p+0f, GELU_3F = 0x1.2444f2p-4f;

/* (e^r - 1 - r) / r^2 for |r| <= ln(2) / 2, to 8e-9 and 2e-19 of e^r: Chebyshev interpolation. */
static const float EXP_32[] = {0x1p-1f, 0x1.5554dcp-3f, 0x1.55551ap-5f, 0x1.120b6ep-7f, 0x1.6d110ap-10f};
static const double EXP_64[] = {0x1p-1,
                                0x1.5555555555557p-3,
                                0x1.5555555555556p-5,
                                0x1.11111111100dcp-7,
                                0x1.6c16c16c162d4p-10,
                                0x1.a01a01abe7fe1p-13,
                                0x1.a01a01a6d889cp-16,
                                0x1.71de0231960ebp-19,
                                0x1.27e4db646b17ep-22,
                                0x1.af4de97ca4194p-26,
                                0x1.1f730349868cep-29};
/* (log((1 + s) / (1 - s)) - 2 s) / s^3 by powers of s^2, for sqrt(1/2) <= (1 + s) / (1 - s) <= sqrt(2), to 6e-20. */
static const double LOG_64[] = {0x1.5555555555555p-1, 0x1.9999999999a38p-2, 0x1.2492492476c42p-2, 0x1.c71c720168526p-3,
                                0x1.745cf8fe328f9p-3, 0x1.3b1c36b445cebp-3, 0x1.0fbe71ad855c9p-3, 0x1.0c05166ec4148p-3};
/* e^(u^2 / 2) erfc(u / sqrt(2)) (1 + sqrt(2) u) / 2 by powers of (u - 5) / (u + 5), for 0 <= u <= 14, to 5e-9, and for
 * u <= 38, to 4e-19. */
static const float TAIL_32[] = {0x1.3ddc3ep-1f,  -0x1.1eef4ap-4f,  -0x1.12d528p-8f, 0x1.86571ap-5f,
                                -0x1.d4436ap-5f, 0x1.6baf12p-5f,   -0x1.9c4b64p-6f, 0x1.4f54b8p-7f,
                                -0x1.476d46p-9f, -0x1.ebabdcp-14f, 0x1.3ed6eap-12f};
static const double TAIL_64[] = {
    0x1.3ddc3d8fef7c6p-1,   -0x1.1eef47981a4a3p-4,  -0x1.12d6bf7985a25p-8,  0x1.86567c44c3b86p-5,
    -0x1.d43f36c0286d6p-5,  0x1.6bb7292c70adep-5,   -0x1.9c86836552e4bp-6,  0x1.4e860d6a6e694p-7,
    -0x1.429a5a6f7aa7ap-9,  -0x1.76224aef8f0ccp-15, 0x1.28a1816ecad83p-12,  -0x1.3fa706399893ap-14,
    -0x1.18f8ddcce70e7p-16, 0x1.bf9b2602101ddp-17,  0x1.823e982b48950p-23,  -0x1.0606ec94e5608p-19,
    0x1.4022071395d11p-23,  0x1.3f67369a8dadap-22,  -0x1.1528ec1c7e0aep-25, -0x1.aaabc4e425b31p-25,
    0x1.e39caf1ae9a49p-29,  0x1.22d88eec22280p-27,  0x1.e29232321fea0p-32,  -0x1.1f8539849ca88p-30,
    -0x1.0dd2e125539abp-32};

#define WORDS_4(...) __VA_ARGS__, __VA_ARGS__, __VA_ARGS__, __VA_ARGS__
#define WORDS_16(...) WORDS_4(WORDS_4(__VA_ARGS__))
#define WORDS_64(...) WORDS_4(WORDS_16(__VA_ARGS__))
#define WORDS_1024(...) WORDS_4(WORDS_4(WORDS_64(__VA_ARGS__)))
/* Lanes that count, and then some that do not. */
static const uint32_t all_32[ROOM] = {WORDS_1024(UINT32_MAX)}, some_32[2 * GROUP] = {WORDS_64(UINT32_MAX)};
static const uint64_t all_64[ROOM] = {WORDS_1024(UINT64_MAX)}, some_64[2 * GROUP] = {WORDS_64(UINT64_MAX)};

#define BITS 32
#define TARGET
#define LANE_BYTES 16
#define LEVEL(name) name##_32_base
#include "taylor_lanes.h"
#define BITS 64
#define TARGET
#define LANE_BYTES 16
#define LEVEL(name) name##_64_base
#include "taylor_lanes.h"
#ifdef FASTK_X86
#define BITS 32
#define TARGET FASTK_TARGET_V3
#define LANE_BYTES 32
#define LEVEL(name) name##_32_v3
#include "taylor_lanes.h"
#define BITS 64
#define TARGET FASTK_TARGET_V3
#define LANE_BYTES 32
#define LEVEL(name) name##_64_v3
#include "taylor_lanes.h"
#define BITS 32
#define TARGET FASTK_TARGET_V4
#define LANE_BYTES 64
#define LEVEL(name) name##_32_v4
#include "taylor_lanes.h"
#define BITS 64
#define TARGET FASTK_TARGET_V4
#define LANE_BYTES 64
#define LEVEL(name) name##_64_v4
#include "taylor_lanes.h"
#endif

static const lanes_32 *const lanes_32_of[] = {&lanes_32_base,
#ifdef FASTK_X86
                                              &lanes_32_v3, &lanes_32_v4
#endif
};
static const lanes_64 *const lanes_64_of[] = {&lanes_64_base,
#ifdef FASTK_X86
                                              &lanes_64_v3, &lanes_64_v4
#endif
};

/* ---- what a call is about */

/* Element (r, i, j) is at + r * row + i * outer + j * step; a row is one of m * n elements. */
struct view {
    char *at;
    intptr_t row, outer, step;
};
struct task {
    int op, storage, masked, kind, plain, second; /* the last three follow from op and plan */
    size_t rows, m, n;
    struct view x, g, where, out;
    const double *plan;
    double ratio; /* of the derivative to what is computed of it and of f */
};
struct totals {
    double first, second;
};

/* Whether the log form is carried to twice the precision. */
static int in_pairs(const struct task *t) { return t->op == LOG && t->storage == STORED_F64; }

static char *element(const struct task *t, const struct view *view, size_t r, size_t at) {
    const size_t i = t->m == 1 ? 0 : at / t->n, j = at - i * t->n;
    return view->at + (intptr_t)r * view->row + (intptr_t)i * view->outer + (intptr_t)j * view->step;
}

static int contiguous(const struct task *t, const struct view *view, int width) {
    return (view->step == width || t->n == 1) && (t->m == 1 || view->outer == (intptr_t)t->n * width);
}

#define MOVE(T, TO, FROM)                                                                                              \
    case sizeof(T):                                                                                                    \
        for (size_t k = 0; k < count; k++)                                                                             \
            for (size_t i = 0; i < tile; i++)                                                                          \
                memcpy(TO, FROM, sizeof(T));                                                                           \
        break

/* `lines` lines of `n` words of 4 bytes each, to n lines of so many words; lines are so many bytes apart. */
static void transpose(const char *from, intptr_t from_line, char *to, intptr_t to_line, size_t lines, size_t n) {
    size_t i = 0;
    for (; i + 4 <= lines; i += 4) {
        const char *p = from + (intptr_t)i * from_line;
        char *q = to + i * 4;
        size_t k = 0;
#ifdef FASTK_X86
        for (; k + 4 <= n; k += 4) {
            __m128 a = _mm_loadu_ps((const float *)(const void *)(p + 4 * k));
            __m128 b = _mm_loadu_ps((const float *)(const void *)(p + from_line + 4 * (intptr_t)k));
            __m128 c = _mm_loadu_ps((const float *)(const void *)(p + 2 * from_line + 4 * (intptr_t)k));
            __m128 d = _mm_loadu_ps((const float *)(const void *)(p + 3 * from_line + 4 * (intptr_t)k));
            _MM_TRANSPOSE4_PS(a, b, c, d);
            _mm_storeu_ps((float *)(void *)(q + (intptr_t)k * to_line), a);
            _mm_storeu_ps((float *)(void *)(q + ((intptr_t)k + 1) * to_line), b);
            _mm_storeu_ps((float *)(void *)(q + ((intptr_t)k + 2) * to_line), c);
            _mm_storeu_ps((float *)(void *)(q + ((intptr_t)k + 3) * to_line), d);
        }
#endif
        for (; k < n; k++)
            for (int j = 0; j < 4; j++)
                memcpy(q + (intptr_t)k * to_line + 4 * j, p + j * from_line + 4 * (intptr_t)k, 4);
    }
    for (; i < lines; i++)
        for (size_t k = 0; k < n; k++)
            memcpy(to + (intptr_t)k * to_line + 4 * i, from + (intptr_t)i * from_line + 4 * k, 4);
}

/* Elements at .. at + n of some rows, `pitch` elements from row to row. */
static void gather(const struct task *t, const struct view *view, int width, size_t r, size_t tile, size_t at, size_t n,
                   size_t pitch, void *to) {
    for (size_t done = 0, count; done < n; done += count) {
        const size_t j = t->m == 1 ? at + done : (at + done) % t->n;
        count = n - done < t->n - j ? n - done : t->n - j;
        const char *const p = element(t, view, r, at + done);
        char *const q = (char *)to + done * (size_t)width;
        const intptr_t row = view->row, step = view->step;
#define HERE p + (intptr_t)i *row + (intptr_t)k *step
#define THERE(T) q + (i * pitch + k) * sizeof(T)
        if (width == 4 && row == 4)
            transpose(p, step, q, (intptr_t)pitch * 4, count, tile);
        else
            switch (width) {
                MOVE(uint8_t, THERE(uint8_t), HERE);
                MOVE(uint16_t, THERE(uint16_t), HERE);
                MOVE(uint32_t, THERE(uint32_t), HERE);
                MOVE(uint64_t, THERE(uint64_t), HERE);
            }
    }
}

static void scatter(const struct task *t, int width, size_t r, size_t tile, size_t at, size_t n, size_t pitch,
                    const void *from) {
    for (size_t done = 0, count; done < n; done += count) {
        const size_t j = t->m == 1 ? at + done : (at + done) % t->n;
        count = n - done < t->n - j ? n - done : t->n - j;
        char *const p = element(t, &t->out, r, at + done);
        const char *const q = (const char *)from + done * (size_t)width;
        const intptr_t row = t->out.row, step = t->out.step;
        if (width == 4 && row == 4)
            transpose(q, (intptr_t)pitch * 4, p, step, tile, count);
        else
            switch (width) {
                MOVE(uint16_t, HERE, THERE(uint16_t));
                MOVE(uint32_t, HERE, THERE(uint32_t));
                MOVE(uint64_t, HERE, THERE(uint64_t));
            }
    }
}

static double loaded(int storage, const char *p) {
    uint16_t half;
    float single;
    double x;
    switch (storage) {
    case STORED_F64:
        memcpy(&x, p, sizeof x);
        return x;
    case STORED_F32:
        memcpy(&single, p, sizeof single);
        return single;
    }
    memcpy(&half, p, sizeof half);
    return bits_float(storage == STORED_F16 ? widen_f16(half) : (uint32_t)half << 16);
}

static void put(int storage, char *p, double x) {
    const float single = (float)x;
    const uint32_t odd = odd_bits(x);
    const uint16_t half = storage == STORED_F16 ? round_f16(odd) : round_bf16(odd);
    switch (storage) {
    case STORED_F64:
        memcpy(p, &x, sizeof x);
        break;
    case STORED_F32:
        memcpy(p, &single, sizeof single);
        break;
    default:
        memcpy(p, &half, sizeof half);
    }
}

/* ---- one element at a time */

/* x 2^e, in steps that are normal numbers. */
static double scaled(double x, int e) {
    for (; e > 1000; e -= 1000)
        x *= 0x1p1000;
    for (; e < -1000; e += 1000)
        x *= 0x1p-1000;
    const uint64_t u = (uint64_t)(1023 + e) << 52;
    double power;
    memcpy(&power, &u, sizeof power);
    return x * power;
}

/* The exponent of a normal number's size. */
static int exponent(double x) {
    uint64_t u;
    memcpy(&u, &x, sizeof u);
    return (int)(u >> 52 & 0x7ff) - 1023;
}

/* size * 2^power */
struct wide {
    double size;
    int power;
};

/* A polynomial at x, whatever its size. */
static struct wide wide_value(const double *plan, const double *p, int degree, double x) {
    const double rate = plan[PLAN_RATE] * p[POLY_SCALE], floor = plan[PLAN_FLOOR] * p[POLY_SCALE];
    int k = 0;
    if (!(fabs(x) < 0x1p30 && fabs(x * rate) < 0x1p30)) {
        const int own = exponent(x), of_rate = exponent(rate);
        x = scaled(x, -own) * scaled(rate, -of_rate);
        const int more = exponent(x);
        x = scaled(x, -more);
        k = own + of_rate + more;
        if (k <= 30) {
            x = scaled(x, k);
            k = 0;
        }
    } else
        x *= rate;
    if (k == 0 ? x < floor : x < 0 && floor > -INFINITY) {
        x = floor;
        k = 0;
    }
    double y = degree % 2 ? x - scaled(p[POLY_ROOT], -k) : 1;
    for (int i = 0; i < degree / 2; i++) {
        const double u = x - scaled(p[POLY_A + i], -k);
        y *= u * u + scaled(p[POLY_B + i], -2 * k);
    }
    return (struct wide){y, degree * k};
}

/* 0 where f does not change. */
static struct wide wide_slope(const double *plan, double x) {
    const double floor = plan[PLAN_FLOOR];
    if (x * plan[PLAN_RATE] < floor)
        return (struct wide){0, 0};
    struct wide y = wide_value(plan, plan + PLAN_SLOPE, (int)plan[PLAN_ORDER] - 1, x);
    const int k = exponent(plan[PLAN_RATE]);
    y.size *= plan[PLAN_SLOPE + POLY_LEAD] / plan[PLAN_VALUE + POLY_LEAD] * scaled(plan[PLAN_RATE], -k);
    y.power += k;
    return y;
}

static int is_normal(double x) { return fabs(x) >= DBL_MIN && fabs(x) <= DBL_MAX; }

static double exact_rest(double a, double b, double product) {
    const double splitter = 0x1p27 + 1, c = splitter * a, d = splitter * b;
    const double a1 = c - (c - a), b1 = d - (d - b), a2 = a - a1, b2 = b - b1;
    return ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2;
}

/* a += b; what rounding loses goes to low. */
static void add(double *a, double *low, double b) {
    const double sum = *a + b, c = sum - *a;
    *low += (*a - (sum - c)) + (b - c);
    *a = sum;
}

/* k log(2) + log(1 + t), for 1 + t near 1. */
static double log_near(double k, double t) {
    const double s = t / (2 + t), s2 = s * s, s4 = s2 * s2, half = 0.5 * t * t;
    const double odd = s2 * (LOG_64[0] + s4 * (LOG_64[2] + s4 * (LOG_64[4] + s4 * LOG_64[6])));
    const double even = s4 * (LOG_64[1] + s4 * (LOG_64[3] + s4 * (LOG_64[5] + s4 * LOG_64[7])));
    return k * LN2_HIGH - ((half - (s * (half + (even + odd)) + k * LN2_LOW)) - t);
}

/* log(x 2^k), x positive and normal. */
static double log_of(double x, int k) {
    const int e = exponent(x / SQRT_HALF);
    return log_near(k + e, scaled(x, -e) - 1);
}

/* log(1 + z), -1/2 <= z <= 1. */
static double log_1p(double z) {
    if (z < SQRT_HALF - 1)
        return log_near(-1, 1 + (z + z));
    if (z > 1 / SQRT_HALF - 1)
        return log_near(1, 0.5 * (z - 1));
    return log_near(0, z);
}

/* The lanes of a row's log form, put together. */
static int log_finished(int pair, struct row_64 *row, const double *state) {
    double top = 0, top_low = 0, rest = 0, rest_low = 0;
    for (int i = 0; i < LANES; i++) {
        double other = state[i], other_low = pair ? state[2 * LANES + i] : 0;
        if (other > top) {
            const double high = top, low = top_low;
            top = other, top_low = other_low;
            other = high, other_low = low;
        }
        add(&rest, &rest_low, other);
        add(&rest, &rest_low, state[LANES + i]);
        rest_low += other_low + (pair ? state[3 * LANES + i] : 0);
    }
    double sum = rest, low = rest_low + top_low;
    add(&sum, &low, top);
    const double safe = sum > 0 ? sum : 1, ratio = rest / safe, product = ratio * safe;
    row->now.sum = sum;
    row->now.sum_low = low;
    row->now.inverse = 1 / safe;
    row->now.near_one =
        -(ratio + (((rest - product) - exact_rest(ratio, safe, product)) + (rest_low - ratio * low)) / safe);
    return !(sum < 0x1p960);
}

static int counts(const struct task *t, size_t r, size_t at) { return !t->masked || *element(t, &t->where, r, at); }

/* A row with numbers of any size. If one that counts is nan, or infinite and not below the floor, all are nan. */
static __attribute__((noinline)) void irregular_row(const struct task *t, size_t r) {
    const size_t n = t->m * t->n;
    const double *const plan = t->plan, *const p = plan + PLAN_VALUE;
    const int order = (int)plan[PLAN_ORDER];
    int most = 0, nothing = t->op == FAST;
    for (size_t at = 0; at < n && !nothing; at++) {
        const double x = loaded(t->storage, element(t, &t->x, r, at));
        nothing = !(fabs(x) < INFINITY) && !(x < 0 && plan[PLAN_FLOOR] > -INFINITY) && counts(t, r, at);
    }
    for (size_t at = 0; at < n && !nothing; at++)
        if (counts(t, r, at)) {
            const int power = wide_value(plan, p, order, loaded(t->storage, element(t, &t->x, r, at))).power;
            most = power > most ? power : most;
        }
    double sum = 0, second = 0, top = 0, rest = 0;
    for (size_t at = 0; at < n && !nothing; at++)
        if (counts(t, r, at)) {
            const struct wide y = wide_value(plan, p, order, loaded(t->storage, element(t, &t->x, r, at)));
            const double e = scaled(y.size, y.power - most);
            rest += e > top ? top : e;
            top = e > top ? e : top;
        }
    sum = rest + top;
    if (t->op == SOFTMAX_VJP || t->op == LOG_VJP)
        for (size_t at = 0; at < n && !nothing; at++)
            if (counts(t, r, at)) {
                const struct wide y = wide_value(plan, p, order, loaded(t->storage, element(t, &t->x, r, at)));
                const double g = loaded(t->storage, element(t, &t->g, r, at));
                second += t->op == LOG_VJP ? g : g * scaled(y.size / sum, y.power - most);
            }
    for (size_t at = 0; at < n; at++) {
        const double x = loaded(t->storage, element(t, &t->x, r, at));
        double result = t->op == LOG ? -INFINITY : 0;
        if (counts(t, r, at) && nothing)
            result = NAN;
        else if (counts(t, r, at)) {
            const struct wide y = wide_value(plan, p, order, x);
            const double e = scaled(y.size / sum, y.power - most);
            if (t->op == SOFTMAX)
                result = e;
            else if (t->op == LOG)
                result = e > 0.5 ? log_1p(-rest / sum) : log_of(y.size / sum, y.power - most);
            else {
                const double g = loaded(t->storage, element(t, &t->g, r, at));
                const struct wide d = wide_slope(plan, x);
                result = t->op == SOFTMAX_VJP ? scaled(d.size / sum, d.power - most) * (g - second)
                                              : scaled(d.size / y.size, d.power - y.power) * (g - e * second);
                result = result == result ? result : NAN;
            }
        }
        put(t->storage, element(t, &t->out, r, at), result);
    }
}

#define BITS 32
#include "taylor_rows.h"
#define BITS 64
#include "taylor_rows.h"

static int known(const double *plan) { return plan[PLAN_ORDER] >= 2 && plan[PLAN_ORDER] <= 2 * PAIRS; }

static void run(struct task *t, int level) {
    const double *const plan = t->plan;
    if (t->rows == 0 || t->m == 0 || t->n == 0 || t->op >= OPS || !known(plan))
        return;
    t->kind = plan[PLAN_ORDER] == 2 ? ORDER_2 : plan[PLAN_ORDER] == 4 ? ORDER_4 : ANY_ORDER;
    t->plain = !t->masked && (t->op == FAST || (plan[PLAN_RATE] == 1 && plan[PLAN_FLOOR] == -INFINITY));
    t->second = t->op == SOFTMAX_VJP || t->op == LOG_VJP;
    t->ratio = plan[PLAN_RATE] * plan[PLAN_SLOPE + POLY_LEAD] / plan[PLAN_VALUE + POLY_LEAD];
    if (t->storage == STORED_F64 || t->op == LOG)
        rows_64(t, lanes_64_of[level]);
    else
        rows_32(t, lanes_32_of[level]);
}

/* ---- cross-entropy: -log of f at the label, whose logit is less by a margin, over the sum of f */

static const double ones[ROOM] = {WORDS_1024(1.0)};

/* Of a row: f at the label, and the sum of f at the others times 2^-power. */
struct odds {
    struct wide own;
    double others;
    int power, finite;
};

static struct odds irregular_odds(const struct task *t, size_t r, size_t label, double z) {
    const double *const p = t->plan + PLAN_VALUE;
    const int order = (int)t->plan[PLAN_ORDER];
    struct odds odds = {{0, 0}, 0, 0, 0};
    for (int pass = 0; pass < 2; pass++)
        for (size_t at = 0; at < t->n; at++) {
            const double x = at == label ? z : loaded(t->storage, element(t, &t->x, r, at));
            if (!(fabs(x) < INFINITY))
                return odds;
            const struct wide y = wide_value(t->plan, p, order, x);
            if (pass == 0)
                odds.power = y.power > odds.power ? y.power : odds.power;
            else if (at == label)
                odds.own = y;
            else
                odds.others += scaled(y.size, y.power - odds.power);
        }
    odds.finite = 1;
    return odds;
}

static struct odds odds_of(const struct task *t, const lanes_64 *lanes, const struct row_64 *row, struct room_64 *room,
                           size_t r, size_t label, double z) {
    double others = 0;
    memset(room->state, 0, sizeof *room->state);
    for (size_t at = 0; at < t->n; at += ROOM) {
        const size_t count = t->n - at < ROOM ? t->n - at : ROOM;
        const double *x = fetched_64(t, &t->x, lanes, r, 1, at, count, 0, room->x, room->raw);
        const int here = label - at < count;
        if (here)
            room->mask[label - at] = 0;
        run_pass_64(t, lanes, PASS_SUM, row, &(struct block_64){x, NULL, room->mask, 0}, 0, NULL, count,
                    room->state[0]);
        if (here)
            room->mask[label - at] = UINT64_MAX;
        others += tree_64(room->state[0]);
    }
    if (others < 0x1p960 && fabs(z * t->plan[PLAN_RATE]) < 0x1p30) {
        const struct wide own = wide_value(t->plan, t->plan + PLAN_VALUE, (int)t->plan[PLAN_ORDER], z);
        if (own.power == 0)
            return (struct odds){own, others, 0, 1};
    }
    return irregular_odds(t, r, label, z);
}

/* Losses if there are no g, else gradients times g. */
static void entropy(struct task *t, int level, const int64_t *labels, double *losses, const double *g) {
    const double *const plan = t->plan;
    const lanes_64 *const lanes = lanes_64_of[level];
    if (!known(plan))
        return;
    const int order = (int)plan[PLAN_ORDER];
    struct room_64 room;
    struct row_64 row = {0};
    row.f = polynomial_of_64(plan + PLAN_VALUE, plan[PLAN_RATE], plan[PLAN_FLOOR], order);
    row.d = polynomial_of_64(plan + PLAN_SLOPE, plan[PLAN_RATE], plan[PLAN_FLOOR], order - 1);
    t->second = 1;
    t->kind = order == 2 ? ORDER_2 : order == 4 ? ORDER_4 : ANY_ORDER;
    memcpy(room.mask, all_64, sizeof room.mask);
    for (size_t r = 0; r < t->rows; r++) {
        const size_t label = (size_t)labels[r];
        if (label >= t->n) /* not from Python, which has looked */
            continue;
        const double z = loaded(t->storage, element(t, &t->x, r, label)) - plan[PLAN_MARGIN];
        const struct odds odds = odds_of(t, lanes, &row, &room, r, label, z);
        const double own = scaled(odds.own.size, odds.own.power - odds.power), sum = own + odds.others;
        const double ratio = odds.others / own;
        if (!g) {
            losses[r] = !odds.finite ? NAN
                        : ratio <= 1 ? log_1p(ratio)
                                     : -log_of(odds.own.size / sum, odds.own.power - odds.power);
            continue;
        }
        row.now.mean = 0;
        row.now.factor = plan[PLAN_RATE] * plan[PLAN_SLOPE + POLY_LEAD] / plan[PLAN_VALUE + POLY_LEAD] / sum * g[r];
        const int regular = odds.finite && odds.power == 0 && is_normal(row.now.factor);
        for (size_t at = 0; at < t->n; at += ROOM) {
            const size_t count = t->n - at < ROOM ? t->n - at : ROOM;
            const double *x = fetched_64(t, &t->x, lanes, r, 1, at, count, 0, room.x, room.raw);
            if (regular)
                run_pass_64(t, lanes, PASS_PUT_VJP, &row, &(struct block_64){x, ones, room.mask, 0}, 0, room.out, count,
                            NULL);
            else
                for (size_t i = 0; i < count; i++) {
                    const struct wide d = wide_slope(plan, x[i]);
                    room.out[i] = odds.finite ? scaled(d.size / sum, d.power - odds.power) * g[r] : NAN;
                }
            if (odds.finite && label - at < count) {
                const struct wide d = wide_slope(plan, z), f = wide_value(plan, plan + PLAN_VALUE, order, z);
                room.out[label - at] = -scaled(d.size / f.size, d.power - f.power) * (odds.others / sum) * g[r];
            }
            for (size_t i = 0; i < count; i++)
                if (room.out[i] != room.out[i])
                    room.out[i] = NAN;
            stored_64(t, lanes, r, 1, at, count, 0, room.out, room.raw);
        }
    }
}

/* ---- kernels */

#define VIEW(name)                                                                                                     \
    { (char *)name, name##_step0, name##_step1, name##_step2 }

/* Operation op on rows of m * n elements. g is read by the vjps alone, where if `masked`. */
#define ROWS(STORAGE, name, T)                                                                                         \
    FASTK_INLINE void taylor_rows_##name##_body(                                                                       \
        int level, uint8_t op, const T *x, intptr_t x_step0, intptr_t x_step1, intptr_t x_step2, const T *g,           \
        intptr_t g_step0, intptr_t g_step1, intptr_t g_step2, const uint8_t *where, intptr_t where_step0,              \
        intptr_t where_step1, intptr_t where_step2, T *out, intptr_t out_step0, intptr_t out_step1,                    \
        intptr_t out_step2, size_t rows, size_t m, size_t n, uint8_t masked, const double *plan) {                     \
        struct task t = {.op = op,                                                                                     \
                         .storage = STORAGE,                                                                           \
                         .masked = masked,                                                                             \
                         .rows = rows,                                                                                 \
                         .m = m,                                                                                       \
                         .n = n,                                                                                       \
                         .x = VIEW(x),                                                                                 \
                         .g = VIEW(g),                                                                                 \
                         .where = VIEW(where),                                                                         \
                         .out = VIEW(out),                                                                             \
                         .plan = plan};                                                                                \
        run(&t, level);                                                                                                \
    }                                                                                                                  \
    FASTK_STAMP(void, taylor_rows_##name,                                                                              \
                (uint8_t op, const T *x, intptr_t x_step0, intptr_t x_step1, intptr_t x_step2, const T *g,             \
                 intptr_t g_step0, intptr_t g_step1, intptr_t g_step2, const uint8_t *where, intptr_t where_step0,     \
                 intptr_t where_step1, intptr_t where_step2, T *out, intptr_t out_step0, intptr_t out_step1,           \
                 intptr_t out_step2, size_t rows, size_t m, size_t n, uint8_t masked, const double *plan),             \
                (op, x, x_step0, x_step1, x_step2, g, g_step0, g_step1, g_step2, where, where_step0, where_step1,      \
                 where_step2, out, out_step0, out_step1, out_step2, rows, m, n, masked, plan))
ROWS(STORED_F16, f16, uint16_t)
ROWS(STORED_BF16, bf16, uint16_t)
ROWS(STORED_F32, f32, float)
ROWS(STORED_F64, f64, double)

/* The same on contiguous rows of n elements, `size` in all, without g and where. */
#define PLAIN(STORAGE, name, T)                                                                                        \
    FASTK_INLINE void taylor_plain_##name##_body(int level, uint8_t op, const T *x, T *out, size_t size, size_t n,     \
                                                 const double *plan) {                                                 \
        const intptr_t row = (intptr_t)(n * sizeof(T)), step = sizeof(T);                                              \
        struct view from = {(char *)x, row, 0, step}, to = {(char *)out, row, 0, step};                                \
        struct task t = {.op = op,                                                                                     \
                         .storage = STORAGE,                                                                           \
                         .rows = n ? size / n : 0,                                                                     \
                         .m = 1,                                                                                       \
                         .n = n,                                                                                       \
                         .x = from,                                                                                    \
                         .g = from,                                                                                    \
                         .where = from,                                                                                \
                         .out = to,                                                                                    \
                         .plan = plan};                                                                                \
        run(&t, level);                                                                                                \
    }                                                                                                                  \
    FASTK_STAMP(void, taylor_plain_##name,                                                                             \
                (uint8_t op, const T *x, T *out, size_t size, size_t n, const double *plan),                           \
                (op, x, out, size, n, plan))
PLAIN(STORED_F16, f16, uint16_t)
PLAIN(STORED_BF16, bf16, uint16_t)
PLAIN(STORED_F32, f32, float)
PLAIN(STORED_F64, f64, double)

#define FLAT                                                                                                           \
    { NULL, 0, 0, 0 }

/* The cross-entropy of each row of n logits. */
#define LOSS(STORAGE, name, T)                                                                                         \
    FASTK_INLINE void taylor_loss_##name##_body(int level, const T *x, intptr_t x_step0, intptr_t x_step1,             \
                                                const int64_t *label, double *loss, size_t rows, size_t n,             \
                                                const double *plan) {                                                  \
        struct task t = {.op = LOG,                                                                                    \
                         .storage = STORAGE,                                                                           \
                         .masked = 1,                                                                                  \
                         .rows = rows,                                                                                 \
                         .m = 1,                                                                                       \
                         .n = n,                                                                                       \
                         .x = {(char *)x, x_step0, 0, x_step1},                                                        \
                         .plan = plan};                                                                                \
        entropy(&t, level, label, loss, NULL);                                                                         \
    }                                                                                                                  \
    FASTK_STAMP(void, taylor_loss_##name,                                                                              \
                (const T *x, intptr_t x_step0, intptr_t x_step1, const int64_t *label, double *loss, size_t rows,      \
                 size_t n, const double *plan),                                                                        \
                (x, x_step0, x_step1, label, loss, rows, n, plan))
LOSS(STORED_F16, f16, uint16_t)
LOSS(STORED_BF16, bf16, uint16_t)
LOSS(STORED_F32, f32, float)
LOSS(STORED_F64, f64, double)

/* Its gradient, a row times its g. */
#define LOSS_VJP(STORAGE, name, T)                                                                                     \
    FASTK_INLINE void taylor_loss_vjp_##name##_body(                                                                   \
        int level, const double *g, const T *x, intptr_t x_step0, intptr_t x_step1, const int64_t *label, T *out,      \
        intptr_t out_step0, intptr_t out_step1, size_t rows, size_t n, const double *plan) {                           \
        struct task t = {.op = LOG,                                                                                    \
                         .storage = STORAGE,                                                                           \
                         .masked = 1,                                                                                  \
                         .rows = rows,                                                                                 \
                         .m = 1,                                                                                       \
                         .n = n,                                                                                       \
                         .x = {(char *)x, x_step0, 0, x_step1},                                                        \
                         .out = {(char *)out, out_step0, 0, out_step1},                                                \
                         .plan = plan};                                                                                \
        entropy(&t, level, label, NULL, g);                                                                            \
    }                                                                                                                  \
    FASTK_STAMP(void, taylor_loss_vjp_##name,                                                                          \
                (const double *g, const T *x, intptr_t x_step0, intptr_t x_step1, const int64_t *label, T *out,        \
                 intptr_t out_step0, intptr_t out_step1, size_t rows, size_t n, const double *plan),                   \
                (g, x, x_step0, x_step1, label, out, out_step0, out_step1, rows, n, plan))
LOSS_VJP(STORED_F16, f16, uint16_t)
LOSS_VJP(STORED_BF16, bf16, uint16_t)
LOSS_VJP(STORED_F32, f32, float)
LOSS_VJP(STORED_F64, f64, double)
