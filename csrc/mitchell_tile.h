/* The Mitchell matrix product for one element type and one vector size: packing, the tile kernels, and the loops
 * around.
 *
 * Included with SCALE (32 or 64: float or double), WHOLE (1: elements are small integers, held as floats, and the sums
 * are 32-bit integers), LANE_BYTES (of a vector), ROWS (of a tile, beside two vectors of columns), TARGET (of the
 * level) and TILE(name).
 *
 * C[i, j] is the sum over k, in increasing order from +0, of the products, rounded after each addition. The inner step
 * is one integer addition, the product, and one addition to the sum; what else a product may need is known beforehand
 * from the exponents that a panel holds. Operands are packed into panels of ROWS rows or of WIDTH columns; the rows'
 * bits are packed less those of 1, so that adding them to the columns' bits is all there is to do.
 */
#if SCALE == 32
#define UINT uint32_t
#define REAL float
#define INT int32_t
#define M_ 23
#define OP(name) name##_32
#define FLOAT_FORMAT FLOAT32
#define ONE ONE_32
#else
#define UINT uint64_t
#define REAL double
#define INT int64_t
#define M_ 52
#define OP(name) name##_64
#define FLOAT_FORMAT FLOAT64
#define ONE ONE_64
#endif
#if WHOLE
#define SUM uint32_t /* of signed terms, modulo 2^32 */
#else
#define SUM REAL
#endif

#define SIGN ((UINT)1 << (SCALE - 1))
#define INFINITE ((((UINT)1 << (SCALE - 1 - M_)) - 1) << M_)
#define EXPONENT_ONE ((int)(ONE >> M_))
#define EXPONENT_MAX ((int)(INFINITE >> M_))
#define LANES (LANE_BYTES / (SCALE / 8))
#define WIDTH (2 * LANES)
#define SQUARE (16 / (SCALE / 8)) /* lanes of a 16-byte vector */
#if SCALE == 32
#define TRANSPOSE(in, out)                                                                                             \
    do {                                                                                                               \
        TILE(square) low = FASTK_SHUFFLE(in[0], in[1], 0, 4, 1, 5), high = FASTK_SHUFFLE(in[0], in[1], 2, 6, 3, 7);    \
        TILE(square) less = FASTK_SHUFFLE(in[2], in[3], 0, 4, 1, 5), more = FASTK_SHUFFLE(in[2], in[3], 2, 6, 3, 7);   \
        out[0] = FASTK_SHUFFLE(low, less, 0, 1, 4, 5), out[1] = FASTK_SHUFFLE(low, less, 2, 3, 6, 7);                  \
        out[2] = FASTK_SHUFFLE(high, more, 0, 1, 4, 5), out[3] = FASTK_SHUFFLE(high, more, 2, 3, 6, 7);                \
    } while (0)
#else
#define TRANSPOSE(in, out) (out[0] = FASTK_SHUFFLE(in[0], in[1], 0, 2), out[1] = FASTK_SHUFFLE(in[0], in[1], 1, 3))
#endif

/* A zero is packed as a power of two whose products are so small that adding one changes no sum but 0: with the other
 * operands between 2^LEAST and 2^MOST and the products at least 2^FLOOR, sums are 0 or at least 2^(FLOOR - M), and the
 * products of zeros are below half a unit in their last place, 2^(FLOOR - 2 M - 1). A sum that ends below 2^NOTHING is
 * 0.
 */
#if WHOLE
#define ZERO_ROW ((UINT)0 - ((UINT)10 << M_))
#define ZERO_COLUMN ((UINT)40 << M_)
#elif SCALE == 32
enum { TILE(TINY) = -99, TILE(LEAST) = -26, TILE(MOST) = 14, TILE(FLOOR) = -34, TILE(NOTHING) = -60 };
#else
enum { TILE(TINY) = -620, TILE(LEAST) = -300, TILE(MOST) = 200, TILE(FLOOR) = -300, TILE(NOTHING) = -360 };
#endif
#if !WHOLE
#define LOWEST (EXPONENT_ONE + TILE(TINY) + 1)
#define ZERO_ROW ((UINT)(INT64_C(0) + TILE(TINY)) << M_)
#define ZERO_COLUMN ((UINT)(EXPONENT_ONE + TILE(TINY)) << M_)
#endif

typedef UINT TILE(bits) __attribute__((vector_size(LANE_BYTES)));
typedef REAL TILE(reals) __attribute__((vector_size(LANE_BYTES)));
typedef UINT TILE(square) __attribute__((vector_size(16)));
typedef INT TILE(ints) __attribute__((vector_size(LANE_BYTES)));
typedef SUM TILE(sums) __attribute__((vector_size(LANE_BYTES)));

/* ---- packing */

/* SQUARE lanes that are contiguous along k, side by side. */
FASTK_INLINE void TILE(transpose)(const char *from, intptr_t step, size_t k, size_t width, UINT *to) {
    size_t p = 0;
    for (; p + SQUARE <= k; p += SQUARE) {
        TILE(square) row[SQUARE], turned[SQUARE];
        FASTK_UNROLL for (int i = 0; i < SQUARE; i++)
            memcpy(&row[i], from + i * step + (intptr_t)(p * sizeof(UINT)), sizeof row[i]);
        TRANSPOSE(row, turned);
        FASTK_UNROLL for (int i = 0; i < SQUARE; i++)
            memcpy(to + (p + (size_t)i) * width, &turned[i], sizeof turned[i]);
    }
    for (; p < k; p++)
        for (int i = 0; i < SQUARE; i++)
            memcpy(to + p * width + i, from + i * step + (intptr_t)(p * sizeof(UINT)), sizeof(UINT));
}

/* `lanes` rows (or columns) of k elements, side by side; lanes that are not there are ones, and never used. */
FASTK_INLINE void TILE(gather)(const char *from, intptr_t lane_step, intptr_t k_step, size_t lanes, size_t width,
                               size_t k, UINT *to) {
    if (lane_step == SCALE / 8 && lanes == width) {
        for (size_t p = 0; p < k; p++)
            memcpy(to + p * width, from + (intptr_t)p * k_step, width * sizeof(UINT));
        return;
    }
    for (size_t p = 0; lanes < width && p < k * width; p++)
        to[p] = ONE;
    size_t i = 0;
    if (k_step == SCALE / 8)
        for (; i + SQUARE <= lanes; i += SQUARE)
            TILE(transpose)(from + (intptr_t)i * lane_step, lane_step, k, width, to + i);
    for (; i < lanes; i++) {
        const char *lane = from + (intptr_t)i * lane_step;
        for (size_t p = 0; p < k; p++)
            memcpy(to + p * width + i, lane + (intptr_t)p * k_step, sizeof(UINT));
    }
}

/* n elements, at least `most` of them, so many at a time; the last ones overlap. */
FASTK_INLINE void TILE(copy)(UINT *to, const char *from, intptr_t n, intptr_t most) {
    intptr_t i = 0;
    for (; i + most < n; i += most)
        memcpy(to + i, from + i * (SCALE / 8), (size_t)most * sizeof(UINT));
    if (n > 0)
        memcpy(to + n - most, from + (n - most) * (SCALE / 8), (size_t)most * sizeof(UINT));
}

/* n elements of a row of an image, from in_x on in steps of the stride, with zeros where there is no image. */
FASTK_INLINE void TILE(stretch)(const struct image *image, const char *row, int inside, intptr_t in_x, intptr_t n,
                                UINT *to) {
    if (inside && image->stride_w == 1 && image->column_step == SCALE / 8) {
        const intptr_t from = in_x < 0 ? (-in_x < n ? -in_x : n) : 0;
        const intptr_t end = image->in_w - in_x < n ? (image->in_w - in_x > from ? image->in_w - in_x : from) : n;
        const char *source = row + in_x * (SCALE / 8);
        if (end - from >= LANES)
            TILE(copy)(to + from, source + from * (SCALE / 8), end - from, LANES);
        else if (end - from >= SQUARE)
            TILE(copy)(to + from, source + from * (SCALE / 8), end - from, SQUARE);
        else
            TILE(copy)(to + from, source + from * (SCALE / 8), end - from, 1);
        for (intptr_t i = 0; i < from; i++)
            to[i] = 0;
        for (intptr_t i = end; i < n; i++)
            to[i] = 0;
        return;
    }
    for (intptr_t i = 0; i < n; i++, in_x += image->stride_w)
        if (inside && in_x >= 0 && in_x < image->in_w)
            memcpy(to + i, row + in_x * image->column_step, sizeof(UINT));
        else
            to[i] = 0;
}

/* Columns of an image's patches: `lanes` output pixels from the given one, and k elements of a patch from p0. */
FASTK_INLINE void TILE(unfold)(const struct image *image, const char *from, size_t pixel, size_t p0, size_t lanes,
                               size_t k, UINT *to) {
    const intptr_t area = image->kernel_h * image->kernel_w;
    const intptr_t first_y = (intptr_t)pixel / image->out_w, first_x = (intptr_t)pixel % image->out_w;
    intptr_t channel = (intptr_t)p0 / area, r = (intptr_t)p0 % area / image->kernel_w,
             s = (intptr_t)p0 % image->kernel_w;
    for (size_t p = 0; p < k; p++, to += WIDTH) {
        const char *plane = from + channel * image->channel_step;
        intptr_t y = first_y, x = first_x, lane = 0;
        while (lane < (intptr_t)lanes) { /* a stretch of one output row */
            intptr_t n = image->out_w - x < (intptr_t)lanes - lane ? image->out_w - x : (intptr_t)lanes - lane;
            intptr_t in_y = y * image->stride_h + r * image->dilation_h - image->pad_h;
            intptr_t in_x = x * image->stride_w + s * image->dilation_w - image->pad_w;
            const char *row = plane + in_y * image->row_step;
            TILE(stretch)(image, row, in_y >= 0 && in_y < image->in_h, in_x, n, to + lane);
            lane += n;
            x = 0;
            y++;
        }
        for (; lane < WIDTH; lane++)
            to[lane] = ONE;
        s = s + 1 == image->kernel_w ? 0 : s + 1;
        r = s ? r : r + 1 == image->kernel_h ? 0 : r + 1;
        channel += !s && !r;
    }
}

/* Look over a packed panel of n numbers, and turn it into what is added: less `shift`, with `zero` for zeros unless the
 * panel is special. */
FASTK_INLINE struct panel TILE(encode)(UINT *to, size_t n, UINT shift, UINT zero, int special) {
    UINT low = INFINITE, high = 0;
    int zeros = 0;
    for (size_t i = 0; i < n; i++) {
        UINT u = to[i] & ~SIGN, present = u | (0 - (UINT)(u == 0));
        low = present < low ? present : low;
        high = u > high ? u : high;
        zeros |= u == 0;
    }
    struct panel panel = {to, (int)(low >> M_), (int)(high >> M_), zeros, special};
    if (high == 0)
        panel.low = panel.high = EXPONENT_ONE;
    panel.special |= panel.low == 0 || panel.high == EXPONENT_MAX;
#if !WHOLE
    panel.special |= zeros && panel.low <= LOWEST;
#endif
    if (zeros && !panel.special)
        for (size_t i = 0; i < n; i++)
            to[i] = OP(pick)((to[i] & ~SIGN) == 0, zero, to[i] - shift);
    else if (shift)
        for (size_t i = 0; i < n; i++)
            to[i] -= shift;
    return panel;
}

/* What a pair of panels asks for. A correction's bias moves an exponent by at most 1. */
FASTK_INLINE enum path TILE(path)(struct panel a, struct panel b) {
    if (a.special || b.special)
        return CAREFUL;
#if WHOLE
    return PLAIN;
#else
    int low = a.low + b.low - EXPONENT_ONE, high = a.high + b.high - EXPONENT_ONE;
    if (low < 2 || high > EXPONENT_MAX - 3)
        return CAREFUL;
    if (!(a.zeros || b.zeros))
        return PLAIN;
    struct panel other = a.zeros ? b : a;
    int tiny = other.low >= EXPONENT_ONE + TILE(LEAST) && other.high < EXPONENT_ONE + TILE(MOST) &&
               low > EXPONENT_ONE + TILE(FLOOR);
    if (tiny && !(a.zeros && b.zeros))
        return TINY;
    /* A number may have the bits that stand for a zero in the other panel's kind. */
    return a.low > LOWEST && b.low > LOWEST ? MASKED : CAREFUL;
#endif
}

/* ---- tiles: rows * WIDTH sums over k, added to those at c */

/* Between 2^-32 and 2^32 (doubles 2^-256 and 2^256) bits - TAME leave the exponent's upper bits clear. */
#define TAME ((UINT)(EXPONENT_ONE - (1 << (SCALE == 32 ? 5 : 8))) << M_)
#define WILD ((UINT)3 << (SCALE - 3))

#if WHOLE
#define PLAIN_TERM(t) (SUM)(INT) OP(real)(t)
#define TERM(t) (TILE(sums)) __builtin_convertvector((TILE(reals))(t), TILE(ints))
#else
#define PLAIN_TERM(t) OP(real)(t)
#define TERM(t) (TILE(sums))(t)
#endif

/* `keep`: all ones beside each row's number, or zero beside a zero; NULL if none is to be masked out. */
FASTK_INLINE void TILE(sum_tile)(const UINT *a, const UINT *keep, const UINT *b, size_t k, SUM *c, size_t c_row,
                                 int rows) {
    TILE(sums) sum[ROWS][2];
    FASTK_UNROLL for (int i = 0; i < rows; i++) {
        memcpy(&sum[i][0], c + (size_t)i * c_row, LANE_BYTES);
        memcpy(&sum[i][1], c + (size_t)i * c_row + LANES, LANE_BYTES);
    }
    for (size_t p = 0; p < k; p++, a += ROWS, b += WIDTH) {
        TILE(bits) left, right, keep_left = {0}, keep_right = {0};
        memcpy(&left, b, sizeof left);
        memcpy(&right, b + LANES, sizeof right);
        if (keep) {
            keep_left = (TILE(bits))(left != (left ^ left) + ZERO_COLUMN);
            keep_right = (TILE(bits))(right != (right ^ right) + ZERO_COLUMN);
        }
        FASTK_UNROLL for (int i = 0; i < rows; i++) {
            TILE(bits) t = left + a[i], u = right + a[i];
            if (keep) {
                t = t & keep_left & keep[p * ROWS + (size_t)i];
                u = u & keep_right & keep[p * ROWS + (size_t)i];
            }
            sum[i][0] += TERM(t);
            sum[i][1] += TERM(u);
        }
    }
    FASTK_UNROLL for (int i = 0; i < rows; i++) {
        memcpy(c + (size_t)i * c_row, &sum[i][0], LANE_BYTES);
        memcpy(c + (size_t)i * c_row + LANES, &sum[i][1], LANE_BYTES);
    }
}

/* Functions of their own, so that the sums get the registers. */
#define SUM_TILE(name, rows)                                                                                           \
    static TARGET __attribute__((noinline)) void TILE(name)(const UINT *a, const UINT *b, size_t k, SUM *c,            \
                                                            size_t c_row) {                                            \
        TILE(sum_tile)(a, NULL, b, k, c, c_row, rows);                                                                 \
    }
SUM_TILE(sum_all, ROWS)
SUM_TILE(sum_half, ROWS / 2)
SUM_TILE(sum_one, 1)

static TARGET __attribute__((noinline)) void TILE(sum_masked)(const UINT *a, const UINT *b, size_t k, SUM *c,
                                                              size_t c_row) {
    UINT keep[DEPTH * ROWS];
    for (size_t i = 0; i < k * ROWS; i++)
        keep[i] = 0 - (UINT)(a[i] != ZERO_ROW);
    TILE(sum_tile)(a, keep, b, k, c, c_row, ROWS);
}
#undef SUM_TILE

#if WHOLE
/* Elements are integers of at most 8 bits. */
FASTK_INLINE SUM TILE(careful_term)(UINT a, UINT b, INT bias, int refined) {
    uint32_t u = (uint32_t)(int32_t)real_32(a & ~SIGN), v = (uint32_t)(int32_t)real_32(b & ~SIGN);
    uint32_t r = integer_mul_32(u, v, bias, refined), negative = (a ^ b) >> 31;
    return (r ^ (0 - negative)) + negative;
}
#else
FASTK_INLINE SUM TILE(careful_term)(UINT a, UINT b, INT bias, int refined) {
    return OP(real)(OP(mul)(a, b, bias, refined, FLOAT_FORMAT));
}
#endif

/* Every case looked at. Panels that are special hold zeros as they are. */
FASTK_INLINE void TILE(careful_tile)(struct panel a, struct panel b, size_t k, SUM *c, size_t c_row, size_t rows,
                                     UINT shift, int64_t bias, int refined) {
    const UINT *row = a.at, *column = b.at;
    const int a_coded = a.zeros && !a.special, b_coded = b.zeros && !b.special;
    for (size_t p = 0; p < k; p++, row += ROWS, column += WIDTH) {
        UINT columns[WIDTH];
        for (size_t j = 0; j < WIDTH; j++)
            columns[j] = OP(pick)(b_coded & (column[j] == ZERO_COLUMN), 0, column[j]);
        for (size_t i = 0; i < rows; i++) {
            const UINT value = a_coded && row[i] == ZERO_ROW ? 0 : row[i] + shift;
            SUM *sums = c + i * c_row;
            if (refined)
                for (size_t j = 0; j < WIDTH; j++)
                    sums[j] = sums[j] + TILE(careful_term)(value, columns[j], 0, 1);
            else
                for (size_t j = 0; j < WIDTH; j++)
                    sums[j] = sums[j] + TILE(careful_term)(value, columns[j], (INT)bias, 0);
        }
    }
}

#if !WHOLE
/* Whether a sum so far is small enough to be changed by the product of a zero. */
FASTK_INLINE int TILE(has_small)(const SUM *c, size_t c_row, size_t rows) {
    int small = 0;
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < WIDTH; j++) {
            UINT u = OP(bits)(c[i * c_row + j]) & ~SIGN;
            small |= (u != 0) & (u < (UINT)(EXPONENT_ONE + TILE(FLOOR)) << M_);
        }
    return small;
}

FASTK_INLINE void TILE(drop_nothing)(SUM *c, size_t c_row, size_t rows) {
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < WIDTH; j++) {
            UINT u = OP(bits)(c[i * c_row + j]);
            c[i * c_row + j] = OP(real)(OP(pick)((u & ~SIGN) < (UINT)(EXPONENT_ONE + TILE(NOTHING)) << M_, 0, u));
        }
}

/* The same nan on every machine. */
FASTK_INLINE void TILE(settle_nans)(SUM *c, size_t c_row, size_t rows, size_t columns) {
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < columns; j++) {
            UINT u = OP(bits)(c[i * c_row + j]);
            c[i * c_row + j] = OP(real)(OP(pick)((u & ~SIGN) > INFINITE, INFINITE | (UINT)1 << (M_ - 1), u));
        }
}
#endif

/* Add the products of a panel of rows and a panel of columns to a tile. */
FASTK_INLINE void TILE(add)(struct panel a, struct panel b, size_t k, SUM *c, size_t c_row, size_t rows, int first,
                            const struct gemm *g) {
    enum path path = TILE(path)(a, b);
#if WHOLE
    (void)first;
#else
    if (path == TINY && !first && TILE(has_small)(c, c_row, rows))
        path = MASKED;
#endif
    if (path == CAREFUL)
        TILE(careful_tile)(a, b, k, c, c_row, rows, ONE - (UINT)g->bias, g->bias, g->refined);
    else if (path == MASKED)
        TILE(sum_masked)(a.at, b.at, k, c, c_row);
    else if (rows > ROWS / 2)
        TILE(sum_all)(a.at, b.at, k, c, c_row);
    else if (rows > 1)
        TILE(sum_half)(a.at, b.at, k, c, c_row);
    else
        TILE(sum_one)(a.at, b.at, k, c, c_row);
#if !WHOLE
    if (path == TINY)
        TILE(drop_nothing)(c, c_row, rows);
#endif
}

/* ---- blocks */

/* A stretch of k, and whether it is the first and the last. */
struct TILE(stage) {
    size_t p, k;
    int first, last;
};

FASTK_INLINE struct panel TILE(pack_rows)(const struct gemm *g, size_t i, struct TILE(stage) s, UINT *to) {
    const char *from = g->a + (intptr_t)i * g->a_row + (intptr_t)s.p * g->a_col;
    TILE(gather)(from, g->a_row, g->a_col, g->m - i < ROWS ? g->m - i : ROWS, ROWS, s.k, to);
    return TILE(encode)(to, s.k * ROWS, ONE - (UINT)g->bias, ZERO_ROW, g->refined);
}

FASTK_INLINE struct panel TILE(pack_columns)(const struct gemm *g, size_t j, struct TILE(stage) s, UINT *to) {
    const size_t columns = g->n - j < WIDTH ? g->n - j : WIDTH;
    if (g->image) {
        TILE(unfold)(g->image, g->b, g->image->first + j, s.p, columns, s.k, to);
        return TILE(encode)(to, s.k * WIDTH, 0, ZERO_COLUMN, g->refined);
    }
    const char *from = g->b + (intptr_t)j * g->b_col + (intptr_t)s.p * g->b_row;
    TILE(gather)(from, g->b_col, g->b_row, columns, WIDTH, s.k, to);
    return TILE(encode)(to, s.k * WIDTH, 0, ZERO_COLUMN, g->refined);
}

/* A tile of C that is cut off at an edge, or whose columns are not contiguous, is summed in a room of its own. */
FASTK_INLINE void TILE(update)(const struct gemm *g, size_t i, size_t j, struct panel a, struct panel b,
                               struct TILE(stage) s) {
    const size_t rows = g->m - i < ROWS ? g->m - i : ROWS, columns = g->n - j < WIDTH ? g->n - j : WIDTH;
    char *at = g->c + (intptr_t)i * g->c_row + (intptr_t)j * g->c_col;
    const int whole = rows == ROWS && columns == WIDTH && g->c_col == sizeof(SUM) && g->c_row > 0;
    SUM room[ROWS * WIDTH];
    SUM *c = whole ? (SUM *)(void *)at : room;
    const size_t c_row = whole ? (size_t)g->c_row / sizeof(SUM) : WIDTH;
    if (s.first || !whole)
        for (size_t r = 0; r < ROWS; r++)
            memset(c + r * c_row, 0, WIDTH * sizeof(SUM));
    if (!s.first && !whole)
        for (size_t r = 0; r < rows; r++)
            for (size_t q = 0; q < columns; q++)
                memcpy(room + r * WIDTH + q, at + (intptr_t)r * g->c_row + (intptr_t)q * g->c_col, sizeof(SUM));
    if (whole && i + 2 * ROWS <= g->m)
        FASTK_UNROLL for (int r = 0; r < ROWS; r++) {
            __builtin_prefetch(c + (size_t)(ROWS + r) * c_row, 1);
            __builtin_prefetch(c + (size_t)(ROWS + r) * c_row + WIDTH - 1, 1);
        }
    TILE(add)(a, b, s.k, c, c_row, rows, s.first, g);
#if !WHOLE
    if (s.last)
        TILE(settle_nans)(c, c_row, rows, WIDTH);
#endif
    if (!whole)
        for (size_t r = 0; r < rows; r++)
            for (size_t q = 0; q < columns; q++)
                memcpy(at + (intptr_t)r * g->c_row + (intptr_t)q * g->c_col, room + r * WIDTH + q, sizeof(SUM));
}

/* ---- a vector times a matrix: packing would cost more than the products */

/* Strips of columns, where rows of B are contiguous; returns 0, having added nothing, if there is anything but tame
 * numbers. */
static TARGET __attribute__((noinline)) int TILE(strip)(const UINT *a, const char *b, intptr_t b_row, size_t k,
                                                        SUM *c) {
    TILE(sums) sum[STRIP];
    TILE(bits) seen = {0};
    memcpy(sum, c, sizeof sum);
    for (size_t p = 0; p < k; p++, b += b_row)
        FASTK_UNROLL for (size_t i = 0; i < STRIP; i++) {
            TILE(bits) t;
            memcpy(&t, b + i * LANE_BYTES, LANE_BYTES);
            seen |= t - TAME;
            t += a[p];
            sum[i] += TERM(t);
        }
    for (size_t i = 0; i < LANES; i++)
        if (seen[i] & WILD)
            return 0;
    memcpy(c, sum, sizeof sum);
    return 1;
}

/* Numbers of a vector, less `shift`; whether all are tame. */
FASTK_INLINE int TILE(fetch)(const char *from, intptr_t step, size_t n, UINT shift, UINT *to) {
    UINT seen = 0;
    for (size_t q = 0; q < n; q++)
        memcpy(&to[q], from + (intptr_t)q * step, sizeof(UINT));
    for (size_t q = 0; q < n; q++) {
        seen |= to[q] - TAME;
        to[q] -= shift;
    }
    return (seen & WILD) == 0;
}

FASTK_INLINE SUM TILE(any_term)(UINT a, UINT b, const struct gemm *g) {
    return g->refined ? TILE(careful_term)(a, b, 0, 1) : TILE(careful_term)(a, b, (INT)g->bias, 0);
}

FASTK_INLINE void TILE(strips)(const struct gemm *g, size_t columns) {
    const UINT shift = ONE - (UINT)g->bias;
    for (size_t j = 0; j < columns; j += STRIP * LANES) {
        SUM sum[STRIP * LANES] = {0};
        for (size_t p = 0; p < g->k; p += STRETCH) {
            const size_t n = g->k - p < STRETCH ? g->k - p : STRETCH;
            const char *b = g->b + (intptr_t)p * g->b_row + (intptr_t)j * g->b_col;
            UINT a[STRETCH];
            if (TILE(fetch)(g->a + (intptr_t)p * g->a_col, g->a_col, n, shift, a) && !g->refined &&
                TILE(strip)(a, b, g->b_row, n, sum))
                continue;
            for (size_t q = 0; q < n; q++, b += g->b_row) {
                UINT v[STRIP * LANES];
                memcpy(v, b, sizeof v);
                for (size_t i = 0; i < STRIP * LANES; i++)
                    sum[i] += TILE(any_term)(a[q] + shift, v[i], g);
            }
        }
#if !WHOLE
        TILE(settle_nans)(sum, 0, 1, STRIP * LANES);
#endif
        for (size_t i = 0; i < STRIP * LANES; i++)
            memcpy(g->c + (intptr_t)(j + i) * g->c_col, &sum[i], sizeof(SUM));
    }
}

/* Where columns of B are contiguous: products along k, and CHAINS sums at a time, since one waits for its last
 * addition. */
FASTK_INLINE void TILE(chains)(const struct gemm *g) {
    const UINT shift = ONE - (UINT)g->bias;
    for (size_t j = 0; j < g->n; j += CHAINS) {
        const size_t columns = g->n - j < CHAINS ? g->n - j : CHAINS;
        SUM sum[CHAINS] = {0}, product[CHAINS][STRETCH] = {{0}};
        for (size_t p = 0; p < g->k; p += STRETCH) {
            const size_t n = g->k - p < STRETCH ? g->k - p : STRETCH;
            UINT a[STRETCH], b[STRETCH];
            const int tame = TILE(fetch)(g->a + (intptr_t)p * g->a_col, g->a_col, n, shift, a) && !g->refined;
            for (size_t i = 0; i < columns; i++)
                if (TILE(fetch)(g->b + (intptr_t)p * g->b_row + (intptr_t)(j + i) * g->b_col, SCALE / 8, n, 0, b) &&
                    tame)
                    for (size_t q = 0; q < n; q++)
                        product[i][q] = PLAIN_TERM(a[q] + b[q]);
                else
                    for (size_t q = 0; q < n; q++)
                        product[i][q] = TILE(any_term)(a[q] + shift, b[q], g);
            for (size_t q = 0; q < n; q++)
                FASTK_UNROLL for (size_t i = 0; i < CHAINS; i++) sum[i] += product[i][q];
        }
#if !WHOLE
        TILE(settle_nans)(sum, 0, 1, CHAINS);
#endif
        for (size_t i = 0; i < columns; i++)
            memcpy(g->c + (intptr_t)(j + i) * g->c_col, &sum[i], sizeof(SUM));
    }
}

/* ---- the whole */

FASTK_INLINE void TILE(panels)(const struct gemm *g, char *work) {
    const size_t depth = depth_of(g->k);
    const size_t n_most = g->n < COLUMNS_MOST ? (g->n + WIDTH - 1) / WIDTH * WIDTH : COLUMNS_MOST;
    UINT *b_block = (UINT *)(void *)work, *a_block = b_block + n_most * depth;
    struct panel b_panels[COLUMNS_MOST / WIDTH], a_panels[ROWS_MOST / ROWS];
    for (size_t j0 = 0; j0 < g->n; j0 += n_most)
        for (size_t p = 0; p == 0 || p < g->k; p += depth) { /* once even for no k: C is written */
            const size_t k = g->k - p < depth ? g->k - p : depth, n_end = j0 + n_most < g->n ? j0 + n_most : g->n;
            const struct TILE(stage) s = {p, k, p == 0, p + k == g->k};
            for (size_t i0 = 0; i0 < g->m; i0 += ROWS_MOST) {
                const size_t i_end = i0 + ROWS_MOST < g->m ? i0 + ROWS_MOST : g->m;
                for (size_t i = i0; i < i_end; i += ROWS)
                    a_panels[(i - i0) / ROWS] = TILE(pack_rows)(g, i, s, a_block + (i - i0) * k);
                for (size_t j = j0; j < n_end; j += WIDTH) {
                    struct panel *b = &b_panels[(j - j0) / WIDTH];
                    if (i0 == 0) /* rows of one block have done with a panel before the next is packed */
                        *b = TILE(pack_columns)(g, j, s, b_block + (g->m > ROWS_MOST ? (j - j0) * k : 0));
                    for (size_t i = i0; i < i_end; i += ROWS)
                        TILE(update)(g, i, j, a_panels[(i - i0) / ROWS], *b, s);
                }
            }
        }
}

FASTK_INLINE void TILE(blocks)(const struct gemm *g, char *work) {
    struct gemm rest = *g;
    if (g->m == 1 && !g->image && g->b_row == SCALE / 8) {
        TILE(chains)(g);
        return;
    }
    if (g->m == 1 && !g->image && g->b_col == SCALE / 8) {
        const size_t columns = g->n / (STRIP * LANES) * (STRIP * LANES);
        TILE(strips)(g, columns);
        rest.n -= columns;
        rest.b += (intptr_t)columns * g->b_col;
        rest.c += (intptr_t)columns * g->c_col;
    }
    TILE(panels)(&rest, work);
}

#undef UINT
#undef REAL
#undef INT
#undef SUM
#undef M_
#undef OP
#undef FLOAT_FORMAT
#undef ONE
#undef SIGN
#undef INFINITE
#undef EXPONENT_ONE
#undef EXPONENT_MAX
#undef LANES
#undef WIDTH
#undef SQUARE
#undef TRANSPOSE
#undef ZERO_ROW
#undef LOWEST
#undef ZERO_COLUMN
#undef TERM
#undef PLAIN_TERM
#undef TAME
#undef WILD
#undef SCALE
#undef WHOLE
#undef LANE_BYTES
#undef ROWS
#undef TILE
#undef TARGET
