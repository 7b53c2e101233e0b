/* Rows of any strides and storage, block by block, for one width of floats: included with BITS.
 *
 * What is not contiguous, or stored otherwise, passes through buffers. Rows whose elements lie closer to those of the
 * next row than to each other are taken sixteen at a time.
 */
#if BITS == 32
#define NAME(name) name##_32
#define REAL float
#define WORD uint32_t
#define OWN STORED_F32
#define LARGEST 0x1p126f
#define LEAST 0x1p-126f
#else
#define NAME(name) name##_64
#define REAL double
#define WORD uint64_t
#define OWN STORED_F64
#define LARGEST 0x1p960
#define LEAST 0x1p-1022
#endif

struct NAME(room) {
    REAL x[ROOM], g[ROOM], out[ROOM];
    WORD mask[ROOM];
    uint64_t raw[ROOM];
    _Alignas(64) REAL kept[KEPT_BYTES / sizeof(REAL) + GROUP];
    REAL state[TILE][STATE];
};

static struct NAME(polynomial) NAME(polynomial_of)(const double *p, double rate, double floor, int degree) {
    struct NAME(polynomial) f = {degree / 2,
                                 (REAL)(rate * p[POLY_SCALE]),
                                 (REAL)(floor * p[POLY_SCALE]),
                                 (REAL)p[POLY_LEAD],
                                 (REAL)p[POLY_ROOT],
                                 {0},
                                 {0}};
    for (int k = 0; k < PAIRS; k++) {
        f.a[k] = (REAL)p[POLY_A + k];
        f.b[k] = (REAL)p[POLY_B + k];
    }
    return f;
}

/* Elements at .. at + n of rows r .. r + tile: pointers where they can be read, `pitch` from row to row. */
static const REAL *NAME(fetched)(const struct task *t, const struct view *view, const NAME(lanes) * lanes, size_t r,
                                 size_t tile, size_t at, size_t n, size_t pitch, REAL *to, uint64_t *raw) {
    const int width = WIDTHS[t->storage];
    const char *p = contiguous(t, view, width) && tile == 1 ? element(t, view, r, at) : NULL;
    if (p && t->storage == OWN)
        return (const REAL *)(const void *)p;
    if (p) {
        lanes->widen[t->storage](p, to, n);
        return to;
    }
    void *const own = t->storage == OWN ? (void *)to : (void *)raw;
    gather(t, view, width, r, tile, at, n, pitch, own);
    if (own != to)
        for (size_t i = 0; i < tile; i++)
            lanes->widen[t->storage]((const char *)own + i * pitch * (size_t)width, to + i * pitch, n);
    return to;
}

static const WORD *NAME(fetched_mask)(const struct task *t, const NAME(lanes) * lanes, size_t r, size_t tile, size_t at,
                                      size_t n, size_t pitch, WORD *to, uint64_t *raw) {
    if (!t->masked)
        return NAME(all);
    if (tile == 1 && contiguous(t, &t->where, 1)) {
        lanes->words(element(t, &t->where, r, at), to, n);
        return to;
    }
    gather(t, &t->where, 1, r, tile, at, n, pitch, raw);
    for (size_t i = 0; i < tile; i++)
        lanes->words((const char *)raw + i * pitch, to + i * pitch, n);
    return to;
}

/* A block of the rows, where it is not that already. */
struct NAME(block) {
    const REAL *x, *g;
    const WORD *mask;
    size_t at;
};
static void NAME(fetch)(const struct task *t, struct NAME(block) * block, const NAME(lanes) * lanes,
                        struct NAME(room) * room, size_t r, size_t tile, size_t at, size_t n, size_t pitch) {
    if (block->at == at)
        return;
    block->at = at;
    block->x = NAME(fetched)(t, &t->x, lanes, r, tile, at, n, pitch, room->x, room->raw);
    if (t->second)
        block->g = NAME(fetched)(t, &t->g, lanes, r, tile, at, n, pitch, room->g, room->raw);
    block->mask = NAME(fetched_mask)(t, lanes, r, tile, at, n, pitch, room->mask, room->raw);
}

/* The last of a block's elements, fewer than 64, with a mask. */
static __attribute__((noinline)) void NAME(run_rest)(const struct task *t, NAME(pass) pass,
                                                     const struct NAME(row) * row, const REAL *x, const REAL *g,
                                                     const WORD *mask, REAL *out, size_t n, REAL *state) {
    REAL last_x[GROUP] = {0}, last_g[GROUP], last_out[GROUP];
    WORD last_mask[GROUP];
    memcpy(last_x, x, n * sizeof *x);
    if (g) {
        memset(last_g, 0, sizeof last_g);
        memcpy(last_g, g, n * sizeof *g);
    }
    if (t->masked) {
        memset(last_mask, 0, sizeof last_mask);
        memcpy(last_mask, mask, n * sizeof *mask);
    }
    pass(row, last_x, g ? last_g : NULL, t->masked ? last_mask : NAME(some) + GROUP - n, out ? last_out : NULL, GROUP,
         state);
    if (out)
        memcpy(out, last_out, n * sizeof *out);
}

/* A pass over n elements of a block. */
FASTK_INLINE void NAME(run_pass)(const struct task *t, const NAME(lanes) * lanes, int which,
                                 const struct NAME(row) * row, const struct NAME(block) * block, size_t from, REAL *out,
                                 size_t n, REAL *state) {
    const NAME(pass) *const entry = lanes->pass[which][t->kind];
    const size_t rest = n % GROUP, whole = n - rest;
    const REAL *const x = block->x + from, *const g = block->g ? block->g + from : NULL;
    const WORD *const mask = t->masked && block->mask ? block->mask + from : NAME(all);
    if (whole)
        entry[t->plain](row, x, g, mask, out, whole, state);
    if (rest)
        NAME(run_rest)
    (t, entry[0], row, x + whole, g ? g + whole : NULL, t->masked ? mask + whole : NULL, out ? out + whole : NULL, rest,
     state);
}

/* Results of some rows to where they go. */
static void NAME(stored)(const struct task *t, const NAME(lanes) * lanes, size_t r, size_t rows, size_t at, size_t n,
                         size_t pitch, const REAL *from, uint64_t *raw) {
    const int width = WIDTHS[t->storage], there = rows == 1 && contiguous(t, &t->out, width);
    const void *own = from;
    if (t->storage != OWN) {
        char *const to = there ? element(t, &t->out, r, at) : (char *)raw;
        for (size_t i = 0; i < rows; i++)
            lanes->narrow[t->storage](from + i * pitch, to + i * pitch * (size_t)width, n);
        own = to;
    } else if (there)
        memcpy(element(t, &t->out, r, at), from, n * sizeof *from);
    if (!there)
        scatter(t, width, r, rows, at, n, pitch, own);
}

/* The sum of 16 lanes, which start anew. */
FASTK_INLINE REAL NAME(tree)(REAL *lane) {
    REAL sum[LANES];
    memcpy(sum, lane, sizeof sum);
    for (int i = 0; i < 8; i++)
        sum[i] += sum[i + 8];
    for (int i = 0; i < 4; i++)
        sum[i] += sum[i + 4];
    for (int i = 0; i < 2; i++)
        sum[i] += sum[i + 2];
    memset(lane, 0, LANES * sizeof *lane);
    return sum[0] + sum[1];
}

/* What the second pass over a row needs. 0 if there is a sum that it can go by. */
static int NAME(finished)(const struct task *t, struct NAME(row) * row, const struct totals *sums, const REAL *state) {
    const double sum = sums->first, safe = sum == 0 ? 1 : sum;
    (void)state;
    switch (t->op) {
    case SOFTMAX:
    case FAST:
        row->now.factor = (REAL)(1 / safe);
        return !(sum < (double)LARGEST);
#if BITS == 64
    case LOG:
        return log_finished(in_pairs(t), row, state);
#endif
    case SOFTMAX_VJP:
        row->now.factor = (REAL)(t->ratio / safe);
        break;
    case LOG_VJP:
        row->now.factor = (REAL)t->ratio;
        break;
    }
    row->now.mean = (REAL)(sums->second / safe);
    /* A factor that is not normal has lost places; so has the mean of the log form, which a sum of f made small. */
    const REAL factor = row->now.factor;
    const int whole = t->op == SOFTMAX_VJP || sums->second == 0 || fabs(sums->second / safe) >= (double)LEAST;
    return !(sum < (double)LARGEST && fabs(sums->second) < (double)LARGEST && factor >= LEAST && factor <= 1 / LEAST &&
             whole);
}

FASTK_INLINE REAL NAME(largest)(REAL *lane) {
    for (int i = 0; i < 8; i++)
        lane[i] = lane[i + 8] > lane[i] ? lane[i + 8] : lane[i];
    for (int i = 0; i < 4; i++)
        lane[i] = lane[i + 4] > lane[i] ? lane[i + 4] : lane[i];
    for (int i = 0; i < 2; i++)
        lane[i] = lane[i + 2] > lane[i] ? lane[i + 2] : lane[i];
    return lane[1] > lane[0] ? lane[1] : lane[0];
}

/* Some rows on their way through the passes. */
struct NAME(tile) {
    const struct task *t;
    const NAME(lanes) * lanes;
    struct NAME(row) * row;
    struct NAME(room) * room;
    size_t first, rows, n, chunk, pitch;
    struct NAME(block) block;
    struct totals sums[TILE];
    __typeof__(((struct NAME(row) *)NULL)->now) now[TILE];
};

FASTK_INLINE size_t NAME(load)(struct NAME(tile) * s, size_t at) {
    const size_t count = s->n - at < s->chunk ? s->n - at : s->chunk;
    NAME(fetch)(s->t, &s->block, s->lanes, s->room, s->first, s->rows, at, count, s->pitch);
    return count;
}

FASTK_INLINE void NAME(find_largest)(struct NAME(tile) * s, int pass) {
    for (size_t i = 0; i < s->rows; i++)
        for (int k = 0; k < LANES; k++)
            s->room->state[i][k] = (REAL)-INFINITY;
    for (size_t at = 0; at < s->n; at += s->chunk) {
        const size_t count = NAME(load)(s, at);
        for (size_t i = 0; i < s->rows; i++)
            NAME(run_pass)(s->t, s->lanes, pass, s->row, &s->block, i * s->pitch, NULL, count, s->room->state[i]);
    }
    for (size_t i = 0; i < s->rows; i++) {
        s->now[i].max = NAME(largest)(s->room->state[i]);
    }
}

FASTK_INLINE void NAME(sum_up)(struct NAME(tile) * s, int pass, int keeps, int second) {
    for (size_t i = 0; i < s->rows; i++) {
        s->sums[i] = (struct totals){0, 0};
        memset(s->room->state[i], 0, sizeof s->room->state[i]);
    }
    for (size_t at = 0; at < s->n; at += s->chunk) {
        const size_t count = NAME(load)(s, at);
        for (size_t i = 0; i < s->rows; i++) {
            REAL *const kept = keeps ? s->room->kept + i * s->n + at : NULL, *const state = s->room->state[i];
            s->row->now.max = s->now[i].max;
            NAME(run_pass)(s->t, s->lanes, pass, s->row, &s->block, i * s->pitch, kept, count, state);
            if (s->t->op == LOG || ((at + count) % SUM_BLOCK && at + count < s->n))
                continue;
            s->sums[i].first += (double)NAME(tree)(state);
            if (second)
                s->sums[i].second += (double)NAME(tree)(state + LANES);
        }
    }
}

/* Inline, so that one row is not treated as many. */
FASTK_INLINE void NAME(tile_of_rows)(const struct task *t, struct NAME(row) * row, const NAME(lanes) * lanes,
                                     struct NAME(room) * room, size_t first, size_t rows) {
    const int *const passes = PASSES_OF_OP[in_pairs(t) ? LOG_PAIR : t->op];
    const size_t n = t->m * t->n, chunk = rows > 1 ? ROOM / TILE : ROOM;
    const int keeps = (t->op == SOFTMAX || t->op == FAST) && n * rows <= KEPT_BYTES / sizeof(REAL);
    const int there = rows == 1 && t->storage == OWN && contiguous(t, &t->out, sizeof(REAL));
    struct NAME(tile) s;
    s.t = t, s.lanes = lanes, s.row = row, s.room = room;
    s.first = first, s.rows = rows, s.n = n, s.chunk = chunk, s.pitch = rows > 1 ? chunk : 0;
    s.block = (struct NAME(block)){NULL, NULL, NULL, SIZE_MAX};
    if (passes[0])
        NAME(find_largest)(&s, passes[0]);
    NAME(sum_up)(&s, passes[1], keeps, t->second);

    uint32_t irregular = 0;
    for (size_t i = 0; i < rows; i++) {
        irregular |= (uint32_t)(NAME(finished)(t, row, &s.sums[i], room->state[i]) != 0) << i;
        row->now.max = s.now[i].max;
        s.now[i] = row->now;
    }
    for (size_t at = 0; at < n; at += chunk) {
        const size_t count = keeps ? (n - at < chunk ? n - at : chunk) : NAME(load)(&s, at);
        for (size_t i = 0; i < rows; i++) {
            if (irregular >> i & 1)
                continue;
            REAL *const out = there ? (REAL *)(void *)element(t, &t->out, first, at) : room->out + i * s.pitch;
            const struct NAME(block) kept = {room->kept + i * n + at, NULL, NULL, 0};
            row->now = s.now[i];
            NAME(run_pass)
            (t, lanes, keeps ? PASS_SCALE : passes[2], row, keeps ? &kept : &s.block, keeps ? 0 : i * s.pitch, out,
             count, NULL);
            if (!there && irregular)
                NAME(stored)(t, lanes, first + i, 1, at, count, 0, out, room->raw);
        }
        if (!there && !irregular)
            NAME(stored)(t, lanes, first, rows, at, count, s.pitch, room->out, room->raw);
    }
    for (size_t i = 0; i < rows; i++)
        if (irregular >> i & 1)
            irregular_row(t, first + i);
}

/* Contiguous rows without a mask, so short that f is kept from the first pass to the second. */
static void NAME(short_rows)(const struct task *t, struct NAME(row) * row, const NAME(lanes) * lanes,
                             struct NAME(room) * room) {
    const size_t n = t->m * t->n;
    const int fast = t->op == FAST;
    /* Into the cache: what is written next, and the next row, which begins on a page that the processor does not see
     * coming. Long rows would push themselves out, and gain only if they come from memory. */
    const int ahead = n <= FEW || t->rows * n > MANY;
    const int close = t->x.row == (intptr_t)(n * sizeof(REAL));
    const NAME(pass) *const entry = lanes->pass[fast ? PASS_SUM_FAST : PASS_SUM][t->kind];
    const NAME(pass) scale = lanes->pass[PASS_SCALE][t->kind][1];
    REAL *const state = room->state[0];
    memset(state, 0, LANES * sizeof *state);
    for (size_t r = 0; r < t->rows; r++) {
        const REAL *const x = (const REAL *)(const void *)element(t, &t->x, r, 0);
        REAL *const out = (REAL *)(void *)element(t, &t->out, r, 0);
        const REAL *const next =
            ahead && r + 1 < t->rows ? (const REAL *)(const void *)element(t, &t->x, r + 1, 0) : NULL;
        const struct NAME(block) block = {x, ahead ? out : NULL, NULL, 0};
        if (fast) {
            REAL lane[LANES];
            for (int k = 0; k < LANES; k++)
                lane[k] = (REAL)-INFINITY;
            NAME(run_pass)(t, lanes, PASS_MAX, row, &block, 0, NULL, n, lane);
            row->now.max = NAME(largest)(lane);
        }
        double sum = 0;
        for (size_t at = 0; at < n; at += SUM_BLOCK) {
            const size_t count = n - at < SUM_BLOCK ? n - at : SUM_BLOCK, rest = count % GROUP, whole = count - rest;
            if (whole)
                entry[t->plain](row, x + at, block.g ? out + at : NULL, NAME(all), room->kept + at, whole, state);
            if (rest && (t->rows - r) * n - at - whole >= GROUP && close)
                /* What follows in memory is masked. */
                entry[0](row, x + at + whole, NULL, NAME(some) + GROUP - rest, room->kept + at + whole, GROUP, state);
            else if (rest)
                NAME(run_rest)(t, entry[0], row, x + at + whole, NULL, NULL, room->kept + at + whole, rest, state);
            sum += (double)NAME(tree)(state);
        }
        if (sum < (double)LARGEST) {
            row->now.factor = (REAL)(1 / sum);
            const size_t whole = n - n % GROUP;
            if (whole)
                scale(row, room->kept, next, NULL, out, whole, NULL);
            for (size_t i = whole; i < n; i++)
                out[i] = room->kept[i] * row->now.factor;
        } else
            irregular_row(t, r);
    }
}

static void NAME(map)(const struct task *t, const struct NAME(row) * row, const NAME(lanes) * lanes,
                      struct NAME(room) * room, size_t r, size_t at, size_t n, int direct) {
    const REAL *const x = NAME(fetched)(t, &t->x, lanes, r, 1, at, n, 0, room->x, room->raw);
    REAL *const out = direct ? (REAL *)(void *)element(t, &t->out, r, at) : room->out;
    const struct NAME(block) block = {x, NULL, NULL, 0};
    NAME(run_pass)(t, lanes, PASSES_OF_OP[t->op][2], row, &block, 0, out, n, NULL);
    if (!direct)
        NAME(stored)(t, lanes, r, 1, at, n, 0, out, room->raw);
}

static void NAME(rows)(const struct task *t, const NAME(lanes) * lanes) {
    struct NAME(room) room;
    struct NAME(row) row = {0};
    const int order = (int)t->plan[PLAN_ORDER];
    row.f = NAME(polynomial_of)(t->plan + PLAN_VALUE, t->plan[PLAN_RATE], t->plan[PLAN_FLOOR], order);
    row.d = NAME(polynomial_of)(t->plan + PLAN_SLOPE, t->plan[PLAN_RATE], t->plan[PLAN_FLOOR], order - 1);
    if (in_pairs(t)) {
        row.f.scale = (REAL)t->plan[PLAN_RATE]; /* powers are summed as they are */
        row.f.floor = (REAL)t->plan[PLAN_FLOOR];
    }
    const int direct = t->storage == OWN && contiguous(t, &t->x, sizeof(REAL)) && contiguous(t, &t->out, sizeof(REAL));
    if (t->op >= EXP) {
        const size_t n = t->m * t->n;
        for (size_t r = 0; r < t->rows; r++)
            for (size_t at = 0; at < n; at += ROOM)
                NAME(map)(t, &row, lanes, &room, r, at, n - at < ROOM ? n - at : ROOM, direct);
        return;
    }
    const intptr_t apart = t->x.row < 0 ? -t->x.row : t->x.row, step = t->x.step < 0 ? -t->x.step : t->x.step;
    const size_t tile = apart < step && t->rows > 1 ? TILE : 1;
    if (direct && tile == 1 && !t->masked && (t->op == SOFTMAX || t->op == FAST) &&
        t->m * t->n <= KEPT_BYTES / sizeof(REAL))
        NAME(short_rows)(t, &row, lanes, &room);
    else if (tile == 1)
        for (size_t r = 0; r < t->rows; r++)
            NAME(tile_of_rows)(t, &row, lanes, &room, r, 1);
    else
        for (size_t r = 0; r < t->rows; r += tile)
            NAME(tile_of_rows)(t, &row, lanes, &room, r, t->rows - r < tile ? t->rows - r : tile);
}

#undef BITS
#undef NAME
#undef REAL
#undef WORD
#undef OWN
#undef LARGEST
#undef LEAST
