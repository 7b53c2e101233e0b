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
    size_t i = 0;
    if (k_step == SCALE / 8)
        for (; i + SQUARE <= lanes; i += SQUARE)
            TILE(transpose)(from + (intptr_t)i * lane_step, lane_step, k, width, to + i);
    for (; i < width; i++) {
        const char *lane = from + (intptr_t)i * lane_step;
        for (size_t p = 0; p < k; p++)
            if (i < lanes)
                memcpy(to + p * width + i, lane + (intptr_t)p * k_step, sizeof(UINT));
            else
                to[p * width + i] = ONE;
    }
}

/* n elements of a row of an image, from in_x on in steps of the stride, with zeros where there is no image. */
FASTK_INLINE void TILE(stretch)(const struct image *image, const char *row, int inside, intptr_t in_x, intptr_t n,
                                UINT *to) {
    if (inside && image->stride_w == 1 && image->column_step == SCALE / 8) {
        const intptr_t from = in_x < 0 ? (-in_x < n ? -in_x : n) : 0;
        const intptr_t end = image->in_w - in_x < n ? (image->in_w - in_x > from ? image->in_w - in_x : from) : n;
        const char *source = row + in_x * (SCALE / 8);
        intptr_t i = 0;
        for (; i < from; i++)
            to[i] = 0;
        for (; i + SQUARE <= end; i += SQUARE)
            memcpy(to + i, source + i * (SCALE / 8), SQUARE * sizeof(UINT));
        for (; i < end; i++)
            memcpy(to + i, source + i * (SCALE / 8), sizeof(UINT));
        for (; i < n; i++)
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
    intptr_t channel = (intptr_t)p0 / area, r = (intptr_t)p0 % area / image->kernel_w,
             s = (intptr_t)p0 % image->kernel_w;
    for (size_t p = 0; p < k; p++, to += WIDTH) {
        const char *plane = from + channel * image->channel_step;
        intptr_t y = (intptr_t)pixel / image->out_w, x = (intptr_t)pixel % image->out_w, lane = 0;
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

/* Look over a panel, and turn it into what is added: less `shift`, with `zero` for zeros. */
FASTK_INLINE struct panel TILE(encode)(UINT *to, size_t n, UINT shift, UINT zero, int raw) {
    UINT low = INFINITE, high = 0;
    int zeros = 0;
    for (size_t i = 0; i < n; i++) {
        UINT u = to[i] & ~SIGN, present = u | (0 - (UINT)(u == 0));
        low = present < low ? present : low;
        high = u > high ? u : high;
        zeros |= u == 0;
    }
    struct panel panel = {(int)(low >> M_), (int)(high >> M_), zeros, raw};
    if (high == 0)
        panel.low = panel.high = EXPONENT_ONE;
    panel.special |= panel.low == 0 || panel.high == EXPONENT_MAX;
#if !WHOLE
    panel.special |= zeros && panel.low <= LOWEST;
#endif
    if (panel.special || !zeros)
        for (size_t i = 0; i < n; i++)
            to[i] -= shift;
    else
        for (size_t i = 0; i < n; i++) {
            UINT mask = 0 - (UINT)((to[i] & ~SIGN) == 0);
            to[i] = (zero & mask) | ((to[i] - shift) & ~mask);
        }
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

#if WHOLE
#define TERM(t) (TILE(sums)) __builtin_convertvector((TILE(reals))(t), TILE(ints))
#else
#define TERM(t) (TILE(sums))(t)
#endif

FASTK_INLINE void TILE(sum_tile)(const UINT *a, const UINT *b, size_t k, SUM *c, size_t c_row, int rows, int masked) {
    TILE(sums) sum[ROWS][2];
    FASTK_UNROLL for (int i = 0; i < rows; i++) {
        memcpy(&sum[i][0], c + (size_t)i * c_row, LANE_BYTES);
        memcpy(&sum[i][1], c + (size_t)i * c_row + LANES, LANE_BYTES);
    }
    for (size_t p = 0; p < k; p++, a += ROWS, b += WIDTH) {
        TILE(bits) left, right;
        memcpy(&left, b, sizeof left);
        memcpy(&right, b + LANES, sizeof right);
        FASTK_UNROLL for (int i = 0; i < rows; i++) {
            TILE(bits) t = left + a[i], u = right + a[i];
            if (masked) {
                TILE(bits) row = (left ^ left) + a[i], zero_row = (left ^ left) + ZERO_ROW;
                TILE(bits) zero_column = (left ^ left) + ZERO_COLUMN, present = (TILE(bits))(row != zero_row);
                t &= present & (TILE(bits))(left != zero_column);
                u &= present & (TILE(bits))(right != zero_column);
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
#define SUM_TILE(name, rows, masked)                                                                                   \
    static TARGET __attribute__((noinline)) void TILE(name)(const UINT *a, const UINT *b, size_t k, SUM *c,            \
                                                            size_t c_row) {                                            \
        TILE(sum_tile)(a, b, k, c, c_row, rows, masked);                                                               \
    }
SUM_TILE(sum_masked, ROWS, 1)
SUM_TILE(sum_all, ROWS, 0)
SUM_TILE(sum_half, ROWS / 2, 0)
SUM_TILE(sum_one, 1, 0)
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
FASTK_INLINE void TILE(careful_tile)(const UINT *a, const UINT *b, size_t k, SUM *c, size_t c_row, size_t rows,
                                     int a_zeros, int b_zeros, UINT shift, int64_t bias, int refined) {
    for (size_t p = 0; p < k; p++) {
        UINT columns[WIDTH];
        for (size_t j = 0; j < WIDTH; j++)
            columns[j] = OP(pick)(b_zeros & (b[p * WIDTH + j] == ZERO_COLUMN), 0, b[p * WIDTH + j]);
        for (size_t i = 0; i < rows; i++) {
            const UINT row = a[p * ROWS + i], value = a_zeros && row == ZERO_ROW ? 0 : row + shift;
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
FASTK_INLINE void TILE(settle_nans)(SUM *c, size_t c_row, size_t rows) {
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < WIDTH; j++) {
            UINT u = OP(bits)(c[i * c_row + j]);
            c[i * c_row + j] = OP(real)(OP(pick)((u & ~SIGN) > INFINITE, INFINITE | (UINT)1 << (M_ - 1), u));
        }
}
#endif

FASTK_INLINE void TILE(tile)(const UINT *a, struct panel pa, const UINT *b, struct panel pb, size_t k, SUM *c,
                             size_t c_row, size_t rows, const struct gemm *g) {
    enum path path = TILE(path)(pa, pb);
#if !WHOLE
    if (path == TINY && TILE(has_small)(c, c_row, rows))
        path = MASKED;
#endif
    if (path == CAREFUL) {
        TILE(careful_tile)
        (a, b, k, c, c_row, rows, pa.zeros && !pa.special, pb.zeros && !pb.special, ONE - (UINT)g->bias, g->bias,
         g->refined);
        return;
    }
    if (path == MASKED)
        TILE(sum_masked)(a, b, k, c, c_row);
    else if (rows > ROWS / 2)
        TILE(sum_all)(a, b, k, c, c_row);
    else if (rows > 1)
        TILE(sum_half)(a, b, k, c, c_row);
    else
        TILE(sum_one)(a, b, k, c, c_row);
#if !WHOLE
    if (path == TINY)
        TILE(drop_nothing)(c, c_row, rows);
#endif
}

/* ---- blocks */

/* A tile of C that is cut off at an edge, or whose columns are not contiguous, is summed in `room`. */
FASTK_INLINE void TILE(through)(char *c, const struct gemm *g, size_t rows, size_t columns, SUM *room, int out) {
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < columns; j++) {
            char *at = c + (intptr_t)i * g->c_row + (intptr_t)j * g->c_col;
            if (out)
                memcpy(at, room + i * WIDTH + j, sizeof(SUM));
            else
                memcpy(room + i * WIDTH + j, at, sizeof(SUM));
        }
}

FASTK_INLINE void TILE(blocks)(const struct gemm *g, char *work) {
    const size_t k_most = g->k < DEPTH ? g->k : DEPTH;
    const size_t n_most = g->n < COLUMNS_MOST ? (g->n + WIDTH - 1) / WIDTH * WIDTH : COLUMNS_MOST;
    UINT *b_block = (UINT *)(void *)work, *a_panel_room = b_block + n_most * k_most;
    struct panel *b_panels = (struct panel *)(void *)(a_panel_room + ROWS_MOST * k_most);
    SUM room[ROWS * WIDTH];
    for (size_t j0 = 0; j0 < g->n; j0 += n_most) {
        const size_t n = g->n - j0 < n_most ? g->n - j0 : n_most;
        for (size_t p0 = 0; p0 < g->k; p0 += k_most) {
            const size_t k = g->k - p0 < k_most ? g->k - p0 : k_most;
            for (size_t j = 0; j < n; j += WIDTH) {
                UINT *to = b_block + j * k;
                const size_t columns = n - j < WIDTH ? n - j : WIDTH;
                if (g->image)
                    TILE(unfold)(g->image, g->b, g->image->first + j0 + j, p0, columns, k, to);
                else
                    TILE(gather)
                (g->b + (intptr_t)(j0 + j) * g->b_col + (intptr_t)p0 * g->b_row, g->b_col, g->b_row, columns, WIDTH, k,
                 to);
                b_panels[j / WIDTH] = TILE(encode)(to, k * WIDTH, 0, ZERO_COLUMN, g->refined);
            }
            for (size_t i0 = 0; i0 < g->m; i0 += ROWS_MOST / ROWS * ROWS) {
                const size_t most = ROWS_MOST / ROWS * ROWS, m = g->m - i0 < most ? g->m - i0 : most;
                struct panel a_panels[ROWS_MOST / ROWS];
                for (size_t i = 0; i < m; i += ROWS) {
                    const size_t rows = m - i < ROWS ? m - i : ROWS;
                    TILE(gather)
                    (g->a + (intptr_t)(i0 + i) * g->a_row + (intptr_t)p0 * g->a_col, g->a_row, g->a_col, rows, ROWS, k,
                     a_panel_room + i * k);
                    a_panels[i / ROWS] =
                        TILE(encode)(a_panel_room + i * k, k * ROWS, ONE - (UINT)g->bias, ZERO_ROW, g->refined);
                }
                for (size_t j = 0; j < n; j += WIDTH)
                    for (size_t i = 0; i < m; i += ROWS) {
                        const size_t rows = m - i < ROWS ? m - i : ROWS, columns = n - j < WIDTH ? n - j : WIDTH;
                        char *at = g->c + (intptr_t)(i0 + i) * g->c_row + (intptr_t)(j0 + j) * g->c_col;
                        const int whole = rows == ROWS && columns == WIDTH && g->c_col == sizeof(SUM) &&
                                          g->c_row % (intptr_t)sizeof(SUM) == 0 && g->c_row > 0;
                        SUM *c = whole ? (SUM *)(void *)at : room;
                        const size_t c_row = whole ? (size_t)g->c_row / sizeof(SUM) : WIDTH;
                        if (p0 == 0 || !whole)
                            for (size_t r = 0; r < ROWS; r++)
                                memset(c + r * c_row, 0, WIDTH * sizeof(SUM));
                        if (p0 != 0 && !whole)
                            TILE(through)(at, g, rows, columns, room, 0);
                        TILE(tile)
                        (a_panel_room + i * k, a_panels[i / ROWS], b_block + j * k, b_panels[j / WIDTH], k, c, c_row,
                         rows, g);
#if !WHOLE
                        if (p0 + k == g->k)
                            TILE(settle_nans)(c, c_row, rows);
#endif
                        if (!whole)
                            TILE(through)(at, g, rows, columns, room, 1);
                    }
            }
        }
    }
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
#undef SCALE
#undef WHOLE
#undef LANE_BYTES
#undef ROWS
#undef TILE
#undef TARGET
