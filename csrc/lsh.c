/* An index of unit vectors by sign random projections: M. S. Charikar, "Similarity estimation techniques from rounding
 * algorithms", 2002. Two vectors at an angle t agree in a bit with probability 1 - t / pi.
 *
 * Table t has buckets named by `n_bits` bits of a code, from bit t * n_bits on. The rows in a bucket are
 * position[start[b] .. start[b + 1]) of that table, in increasing order, where b is the bucket's leading bits,
 * bucket >> shift; if that leaves some out (shift > 0), rows are sorted by bucket first and `key` has each one's
 * bucket.
 */
#include <string.h>

#include "rounds.h"

enum {
    LANES = 16,
    FETCHED = 32 * LANES, /* elements of a row that are prefetched; the hardware sees where it goes from there */
    FETCHED_BYTES = 1024, /* of a row of small integers */
    AHEAD = 16,           /* rows */
    BUCKETS = 64,         /* that are found at a time */
    LIST = 1 << 14,       /* candidates of a query that are remembered, to forget them again */
    TOGETHER = 64,        /* candidates that are ranked at a time */
    MOST_BITS = 64,       /* of a bucket */
    MOST_SMALL = 1 << 20, /* elements of a row of small integers: sums of products fit 32 bits */
    SMALL_SORT = 16       /* rows: insertion sort wins below */
};
#define CONTRADICTION SIZE_MAX

#ifdef FASTK_X86
#include <immintrin.h>
#endif

typedef float quarter_t __attribute__((vector_size(16)));
typedef void dots_t(const float *query, const float *row, size_t width, const uint32_t *position, size_t count,
                    size_t listed, float *out);
typedef void small_dots_t(const int16_t *query, const int8_t *small, size_t width, const uint32_t *position,
                          size_t count, size_t listed, int32_t *out);

#define TARGET
#define LANE_BYTES 16
#define ROWS 2
#define LEVEL(name) name##_base
#include "lsh_lanes.h"
#ifdef FASTK_X86
#define TARGET FASTK_TARGET_V3
#define LANE_BYTES 32
#define ROWS 4
#define LEVEL(name) name##_v3
#include "lsh_lanes.h"
#define TARGET FASTK_TARGET_V4
#define LANE_BYTES 64
#define ROWS 8
#define LEVEL(name) name##_v4
#include "lsh_lanes.h"
#endif

static const struct {
    dots_t *dots;
    small_dots_t *small_dots;
} lanes_of[] = {{dots_base, small_dots_base},
#ifdef FASTK_X86
                {dots_v3, small_dots_v3},
                {dots_v4, small_dots_v4}
#endif
};

#define ELEMENT(x, row, j) (*(const float *)((const char *)(x) + (intptr_t)(row)*x##_step0 + (intptr_t)(j)*x##_step1))

/* Rows over their lengths, each padded with zeros to `width`. A length is the root of a sum in double precision: 16
 * lanes, element j in lane j mod 16, added as in lsh_lanes.h. Returns the number of the first row that has no
 * direction, being zero or not finite, after which nothing is right; `rows` if there is none. */
FASTK_INLINE size_t lsh_unit_body(int level, const float *x, intptr_t x_step0, intptr_t x_step1, float *out,
                                  size_t rows, size_t d, size_t width, size_t size) {
    (void)level;
    if (width < d || (width != 0 && rows > size / width))
        return CONTRADICTION;
    for (size_t row = 0; row < rows; row++, out += width) {
        double sum[LANES] = {0};
        for (size_t j = 0; j < d; j++)
            out[j] = ELEMENT(x, row, j);
        memset(out + d, 0, (width - d) * sizeof *out);
        size_t whole = d / LANES * LANES;
        for (size_t j = 0; j < whole; j += LANES)
            FASTK_LANES for (size_t l = 0; l < LANES; l++) sum[l] += (double)out[j + l] * out[j + l];
        for (size_t j = whole; j < d; j++)
            sum[j - whole] += (double)out[j] * out[j];
        for (size_t h = LANES / 2; h; h /= 2)
            for (size_t l = 0; l < h; l++)
                sum[l] += sum[l + h];
        if (!(sum[0] > 0 && sum[0] <= __DBL_MAX__))
            return row;
        double length = __builtin_sqrt(sum[0]);
        FASTK_LANES for (size_t j = 0; j < d; j++) out[j] = (float)(out[j] / length);
    }
    return rows;
}
FASTK_STAMP(size_t, lsh_unit,
            (const float *x, intptr_t x_step0, intptr_t x_step1, float *out, size_t rows, size_t d, size_t width,
             size_t size),
            (x, x_step0, x_step1, out, rows, d, width, size))

/* The projections whose signs are the bits of simhash_f32, of the same table: the same numbers, operation by operation,
 * but that a zero is +0. */
#define LSH_PROJECT_PARAMS                                                                                             \
    const float *x, intptr_t x_step0, intptr_t x_step1, float *out, intptr_t out_step0, intptr_t out_step1,            \
        const float *table, float *work, size_t rows, size_t d, size_t bits, size_t p, size_t table_size
FASTK_INLINE void lsh_project_body(int level, LSH_PROJECT_PARAMS) {
    if (p < 2 || (p & (p - 1)) != 0)
        return;
    const hadamard_f32 *at = fastk_hadamard_f32_of[level];
    size_t blocks = table_size / 3 / p;
    for (size_t row = 0; row < rows; row++) {
        char *to = (char *)out + (intptr_t)row * out_step0;
        for (size_t block = 0; block < blocks && block * p < bits; block++) {
            size_t first = block * p, count = bits - first < p ? bits - first : p;
            rounds_f32(at, (const char *)x + (intptr_t)row * x_step0, x_step0, x_step1, d, table + block * 3 * p, work,
                       p);
            for (size_t j = 0; j < count; j++)
                *(float *)(to + (intptr_t)(first + j) * out_step1) = work[j] + 0.0f;
        }
    }
}
FASTK_STAMP(void, lsh_project, (LSH_PROJECT_PARAMS),
            (x, x_step0, x_step1, out, out_step0, out_step1, table, work, rows, d, bits, p, table_size))

/* ---- small integers
 *
 * Row x is also kept as integers c of one byte and a scale s, |x - s c| <= (1/2 + 2^-13) s in each element, which takes
 * a fourth of the memory traffic. With a query y that is rounded to integers g / Q of two bytes, in the same way,
 *
 *     |x . y - s (c . g) / Q| <= s ((1/2 + 2^-13) |y|_1 + (1/2 + 2^-13) 128 width / Q),
 *
 * and the sum in floats is off by no more than s 128 |y|_1 (width / 16 + 8) 2^-24. So a row whose bound is below the
 * worst of the best needs no look at its floats, and the results are the same as without.
 */

#define HALF (0.5 + 0x1p-13)

/* The nearest integer, within +-limit; 0 for a nan. */
FASTK_INLINE int rounded(double x, int limit) {
    if (!(x > -limit))
        return x <= -limit ? -limit : 0;
    return x >= limit ? limit : (int)(x + (x < 0 ? -0.5 : 0.5));
}

/* Rows as small integers, padded with zeros to `small_width`, and their scales. */
#define LSH_SMALL_PARAMS                                                                                               \
    const float *row, uint8_t *small, float *scale, size_t n, size_t width, size_t small_width, size_t row_size,       \
        size_t small_size
FASTK_INLINE size_t lsh_small_body(int level, LSH_SMALL_PARAMS) {
    (void)level;
    if (small_width < width || (width && n > row_size / width) || (small_width && n > small_size / small_width))
        return CONTRADICTION;
    for (size_t i = 0; i < n; i++, row += width, small += small_width) {
        float most = 0;
        for (size_t j = 0; j < width; j++) {
            float magnitude = row[j] < 0 ? -row[j] : row[j];
            most = magnitude > most ? magnitude : most;
        }
        scale[i] = most / 127;
        double factor = most > 0 ? 127 / (double)most : 0;
        for (size_t j = 0; j < width; j++)
            small[j] = (uint8_t)rounded(row[j] * factor, 127);
        memset(small + width, 0, small_width - width);
    }
    return 0;
}
FASTK_STAMP(size_t, lsh_small, (LSH_SMALL_PARAMS), (row, small, scale, n, width, small_width, row_size, small_size))

/* A query in small integers: its dot products with those of rows, which stay below 2^31, times factor and the row's
 * scale are off by no more than error times that scale. */
typedef struct {
    double factor, error;
} rounding_t;

static rounding_t round_query(const float *query, size_t width, size_t small_width, int16_t *out) {
    double most = 0, sum = 0;
    for (size_t j = 0; j < width; j++) {
        double magnitude = query[j] < 0 ? -(double)query[j] : query[j];
        most = magnitude > most ? magnitude : most;
        sum += magnitude;
    }
    double q = most > 0 ? 32767 / most : 0, fitting = (0x1p24 - (double)width) / sum;
    q = q < fitting ? q : fitting;
    for (size_t j = 0; j < width; j++)
        out[j] = (int16_t)rounded(query[j] * q, 32767);
    memset(out + width, 0, (small_width - width) * sizeof *out);
    double elements = (double)width, float_error = 128 * (elements / 16 + 8) * 0x1p-24;
    return (rounding_t){1 / q, 1.0001 * (sum * (HALF + float_error) + HALF * 128 * elements / q)};
}

/* ---- tables */

/* Bits from .. from + count of a code in little order, as a number; count <= 64. */
FASTK_INLINE uint64_t code_bits(const uint8_t *code, size_t bytes, size_t from, size_t count) {
    uint64_t word = 0;
    size_t at = from / 8, shift = from % 8;
    for (size_t i = 0; i < 8 && at + i < bytes; i++)
        word |= (uint64_t)code[at + i] << (8 * i);
    word >>= shift;
    if (shift && at + 8 < bytes)
        word |= (uint64_t)code[at + 8] << (64 - shift);
    return count < 64 ? word & ((UINT64_C(1) << count) - 1) : word;
}

FASTK_INLINE uint64_t leading_bits(uint64_t bucket, size_t shift) { return shift < 64 ? bucket >> shift : 0; }

FASTK_INLINE int after(uint64_t key_a, uint32_t position_a, uint64_t key_b, uint32_t position_b) {
    return key_a > key_b || (key_a == key_b && position_a > position_b);
}

/* Rows of a stretch, by key and then position: an insertion sort, or a heap sort of which no input makes a slow one. */
static void sort_rows(uint64_t *key, uint32_t *position, size_t n) {
    if (n <= SMALL_SORT) {
        for (size_t i = 1; i < n; i++) {
            uint64_t k = key[i];
            uint32_t p = position[i];
            size_t j = i;
            for (; j > 0 && after(key[j - 1], position[j - 1], k, p); j--) {
                key[j] = key[j - 1];
                position[j] = position[j - 1];
            }
            key[j] = k;
            position[j] = p;
        }
        return;
    }
    for (size_t first = n / 2, end = n; end > 1;) {
        uint64_t k;
        uint32_t p;
        if (first > 0) {
            first--;
            k = key[first];
            p = position[first];
        } else {
            end--;
            k = key[end];
            p = position[end];
            key[end] = key[0];
            position[end] = position[0];
        }
        size_t i = first;
        for (size_t child = 2 * i + 1; child < end; child = 2 * i + 1) {
            if (child + 1 < end && after(key[child + 1], position[child + 1], key[child], position[child]))
                child++;
            if (!after(key[child], position[child], k, p))
                break;
            key[i] = key[child];
            position[i] = position[child];
            i = child;
        }
        key[i] = k;
        position[i] = p;
    }
}

#define LSH_BUILD_PARAMS                                                                                               \
    const uint8_t *code, uint32_t *start, uint32_t *position, uint64_t *key, size_t n, size_t bytes, size_t tables,    \
        size_t first, size_t n_bits, size_t prefix, size_t code_size, size_t start_size, size_t position_size,         \
        size_t key_size
/* The tables from number `first` on of the codes of n rows, with 2^prefix + 1 starts each. Returns 0, or all ones if
 * the sizes contradict each other. */
FASTK_INLINE size_t lsh_build_body(int level, LSH_BUILD_PARAMS) {
    (void)level;
    if (n_bits > MOST_BITS || prefix > n_bits || prefix > 40 || tables == 0 || n > UINT32_MAX)
        return CONTRADICTION;
    const size_t starts = ((size_t)1 << prefix) + 1, shift = n_bits - prefix;
    if (start_size / tables < starts || position_size / tables < n || (shift && key_size / tables < n) ||
        bytes > SIZE_MAX / 8 || (n_bits && (tables > 8 * bytes / n_bits || first > 8 * bytes / n_bits - tables)) ||
        (bytes && code_size / bytes < n))
        return CONTRADICTION;
    for (size_t table = 0; table < tables; table++, start += starts, position += n, key += shift ? n : 0) {
        const size_t from = (first + table) * n_bits;
        memset(start, 0, starts * sizeof *start);
        for (size_t i = 0; i < n; i++)
            start[leading_bits(code_bits(code + i * bytes, bytes, from, n_bits), shift) + 1]++;
        for (size_t b = 1; b < starts; b++)
            start[b] += start[b - 1];
        for (size_t i = 0; i < n; i++) {
            uint64_t bucket = code_bits(code + i * bytes, bytes, from, n_bits);
            uint32_t to = start[leading_bits(bucket, shift)]++;
            position[to] = (uint32_t)i;
            if (shift)
                key[to] = bucket;
        }
        /* Each start has become the next one. */
        memmove(start + 1, start, (starts - 1) * sizeof *start);
        start[0] = 0;
        for (size_t b = 0; shift && b + 1 < starts; b++)
            sort_rows(key + start[b], position + start[b], start[b + 1] - start[b]);
    }
    return 0;
}
FASTK_STAMP(size_t, lsh_build, (LSH_BUILD_PARAMS),
            (code, start, position, key, n, bytes, tables, first, n_bits, prefix, code_size, start_size, position_size,
             key_size))

/* ---- probes */

/* A set of bits that are flipped. `last` is its last bit, in order of the margins; `rest` is the sum without it. */
typedef struct {
    double sum, rest;
    uint64_t flips, last;
} probe_t;

FASTK_INLINE int before(const probe_t *a, const probe_t *b) {
    return a->sum < b->sum || (a->sum == b->sum && a->flips < b->flips);
}

static void push(probe_t *heap, size_t *size, probe_t probe) {
    size_t i = (*size)++;
    for (; i > 0 && before(&probe, &heap[(i - 1) / 2]); i = (i - 1) / 2)
        heap[i] = heap[(i - 1) / 2];
    heap[i] = probe;
}

static probe_t pop(probe_t *heap, size_t *size) {
    probe_t first = heap[0], moved = heap[--*size];
    size_t i = 0;
    for (size_t child = 1; child < *size; child = 2 * i + 1) {
        if (child + 1 < *size && before(&heap[child + 1], &heap[child]))
            child++;
        if (!before(&heap[child], &moved))
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = moved;
    return first;
}

/* The buckets of a table to look at: the query's own, and then those with the least sum of squares of the projections
 * whose signs are flipped (Q. Lv, W. Josephson, Z. Wang, M. Charikar and K. Li, "Multi-probe LSH", 2007). From a set of
 * flips come two others, which have the next bit in place of the last, or too, so that each set is made once, from one
 * that is no later. */
static void probe_table(const float *projection, size_t n_bits, size_t probes, uint64_t *bucket, probe_t *heap) {
    double margin[MOST_BITS];
    uint64_t flip[MOST_BITS], own = 0;
    for (size_t j = 0; j < n_bits; j++) {
        double square = (double)projection[j] * projection[j];
        own |= (uint64_t)(projection[j] >= 0) << j;
        size_t i = j;
        for (; i > 0 && margin[i - 1] > square; i--) {
            margin[i] = margin[i - 1];
            flip[i] = flip[i - 1];
        }
        margin[i] = square;
        flip[i] = UINT64_C(1) << j;
    }
    size_t size = 0, i = 0;
    bucket[i++] = own;
    if (n_bits)
        push(heap, &size, (probe_t){margin[0], 0, flip[0], 0});
    while (i < probes && size) {
        probe_t probe = pop(heap, &size);
        bucket[i++] = own ^ probe.flips;
        size_t next = (size_t)probe.last + 1;
        if (next < n_bits) {
            uint64_t added = probe.flips | flip[next];
            push(heap, &size, (probe_t){probe.rest + margin[next], probe.rest, added ^ flip[probe.last], next});
            push(heap, &size, (probe_t){probe.sum + margin[next], probe.sum, added, next});
        }
    }
    for (; i < probes; i++)
        bucket[i] = own;
}

#define LSH_PROBES_PARAMS                                                                                              \
    const float *projection, uint64_t *bucket, uint64_t *work, size_t rows, size_t tables, size_t n_bits,              \
        size_t probes, size_t projection_size, size_t bucket_size, size_t room
/* Of each row and table the first `probes` buckets (rows, tables, probes). Returns 0, or the room that it needs. */
FASTK_INLINE size_t lsh_probes_body(int level, LSH_PROBES_PARAMS) {
    (void)level;
    if (n_bits > MOST_BITS || tables == 0 || probes == 0 || rows > bucket_size / probes / tables ||
        (n_bits && rows > projection_size / n_bits / tables))
        return CONTRADICTION;
    const size_t each = sizeof(probe_t) / sizeof *work;
    if (room / each < probes + 1)
        return (probes + 1) * each;
    for (size_t i = 0; i < rows * tables; i++)
        probe_table(projection + i * n_bits, n_bits, probes, bucket + i * probes, (probe_t *)(void *)work);
    return 0;
}
FASTK_STAMP(size_t, lsh_probes, (LSH_PROBES_PARAMS),
            (projection, bucket, work, rows, tables, n_bits, probes, projection_size, bucket_size, room))

/* ---- search */

/* The best k so far, as a heap whose root is the worst: by cosine, and then the larger id is the worse. */
typedef struct {
    float *cosine;
    int64_t *id;
    size_t k;
} best_t;

FASTK_INLINE int worse(float cosine_a, int64_t id_a, float cosine_b, int64_t id_b) {
    return cosine_a < cosine_b || (cosine_a == cosine_b && id_a > id_b);
}

/* Puts what is given in place of the root of the first `size`. */
static void replace(best_t best, size_t size, float cosine, int64_t id) {
    size_t i = 0;
    for (size_t child = 1; child < size; child = 2 * i + 1) {
        if (child + 1 < size && worse(best.cosine[child + 1], best.id[child + 1], best.cosine[child], best.id[child]))
            child++;
        if (!worse(best.cosine[child], best.id[child], cosine, id))
            break;
        best.cosine[i] = best.cosine[child];
        best.id[i] = best.id[child];
        i = child;
    }
    best.cosine[i] = cosine;
    best.id[i] = id;
}

/* A list with the best first becomes a heap when it is turned round. */
static void open_list(best_t best) {
    for (size_t i = 0, j = best.k; i + 1 < j; i++) {
        j--;
        float cosine = best.cosine[i];
        int64_t id = best.id[i];
        best.cosine[i] = best.cosine[j];
        best.id[i] = best.id[j];
        best.cosine[j] = cosine;
        best.id[j] = id;
    }
}

static void close_list(best_t best) {
    for (size_t end = best.k; end > 1;) {
        end--;
        float cosine = best.cosine[end];
        int64_t id = best.id[end];
        best.cosine[end] = best.cosine[0];
        best.id[end] = best.id[0];
        replace(best, end, cosine, id);
    }
}

/* What a search goes through: rows of length 1, the directory of their buckets, which may be no directory of ours. */
typedef struct {
    const float *row, *scale;
    const int8_t *small;
    const int64_t *id;
    const uint32_t *start, *position;
    const uint64_t *key, *removed;
    size_t width, small_width, n, starts, shift, words;
    int level;
} rows_t;

typedef struct {
    const float *row;
    const int16_t *small;
    rounding_t rounding;
} query_t;

/* Those of the positions whose rows may be no worse than the worst of the best. */
static size_t promising(const rows_t *rows, const query_t *query, const uint32_t *list, size_t count, size_t listed,
                        float worst, uint32_t *kept) {
    int32_t dot[TOGETHER];
    size_t m = 0;
    lanes_of[rows->level].small_dots(query->small, rows->small, rows->small_width, list, count, listed, dot);
    for (size_t i = 0; i < count; i++) {
        double bound = rows->scale[list[i]] * (dot[i] * query->rounding.factor + query->rounding.error);
        kept[m] = list[i];
        m += !(bound < worst);
    }
    return m;
}

static void rank(const rows_t *rows, const query_t *query, const uint32_t *list, size_t count, best_t best) {
    float cosine[TOGETHER];
    uint32_t kept[TOGETHER];
    for (size_t first = 0; first < count; first += TOGETHER) {
        const uint32_t *ranked = list + first;
        size_t some = count - first < TOGETHER ? count - first : TOGETHER, listed = count - first;
        if (rows->small_width) {
            if (best.cosine[0] > -1) {
                some = promising(rows, query, ranked, some, listed, best.cosine[0], kept);
                ranked = kept;
            }
            listed = some;
        }
        lanes_of[rows->level].dots(query->row, rows->row, rows->width, ranked, some, listed, cosine);
        for (size_t i = 0; i < some; i++) {
            float c = cosine[i] > 1 ? 1 : cosine[i] < -1 ? -1 : cosine[i];
            if (c < best.cosine[0])
                continue;
            int64_t id = rows->id[ranked[i]];
            if (worse(best.cosine[0], best.id[0], c, id))
                replace(best, best.k, c, id);
        }
    }
}

/* The rows of a bucket, as far as its leading bits say: position[from .. to) of its table. */
typedef struct {
    uint64_t bucket;
    size_t table, from, to;
} extent_t;

FASTK_INLINE extent_t extent_of(const rows_t *rows, uint64_t bucket, size_t table) {
    uint64_t prefix = leading_bits(bucket, rows->shift);
    if (prefix >= rows->starts - 1)
        return (extent_t){bucket, table, 0, 0};
    const uint32_t *start = rows->start + table * rows->starts + prefix;
    size_t from = start[0], to = start[1] < rows->n ? start[1] : rows->n;
    return (extent_t){bucket, table, from, to};
}

/* The part of it that has the bucket's key. */
FASTK_INLINE extent_t narrowed(const rows_t *rows, extent_t extent) {
    const uint64_t *key = rows->key + extent.table * rows->n;
    for (size_t above = extent.to; extent.from < above;) {
        size_t middle = extent.from + (above - extent.from) / 2;
        if (key[middle] < extent.bucket)
            extent.from = middle + 1;
        else
            above = middle;
    }
    size_t last = extent.from;
    while (last < extent.to && key[last] == extent.bucket)
        last++;
    extent.to = last;
    return extent;
}

/* Ranks the rows in the query's buckets, each once, and returns how many there are. `seen` is a bit a row, set for
 * those that are removed; it is so again afterwards. Buckets are found a few at a time, so that their cache misses
 * overlap. */
static size_t search(const rows_t *rows, const query_t *query, const uint64_t *bucket, size_t tables, size_t probes,
                     uint64_t *seen, uint32_t *list, best_t best) {
    extent_t extent[BUCKETS];
    size_t count = 0, total = 0, table = 0, probe = 0;
    while (table < tables) {
        size_t buckets = 0;
        for (; buckets < BUCKETS && table < tables; buckets++) {
            extent_t found = extent[buckets] = extent_of(rows, *bucket++, table);
            size_t first = table * rows->n + (found.from < found.to ? found.from : 0);
            __builtin_prefetch(rows->shift ? (const void *)(rows->key + first)
                                           : (const void *)(rows->position + first));
            if (++probe == probes) {
                probe = 0;
                table++;
            }
        }
        for (size_t i = 0; i < buckets; i++) {
            extent_t found = rows->shift ? narrowed(rows, extent[i]) : extent[i];
            const uint32_t *position = rows->position + found.table * rows->n;
            for (size_t at = found.from; at < found.to; at++) {
                uint32_t row = position[at];
                if (FASTK_UNLIKELY(row >= rows->n))
                    continue;
                uint64_t bit = UINT64_C(1) << row % 64, *word = seen + row / 64;
                list[count] = row;
                count += (*word & bit) == 0;
                *word |= bit;
                if (FASTK_UNLIKELY(count == LIST)) {
                    rank(rows, query, list, count, best);
                    total += count;
                    count = 0;
                }
            }
        }
    }
    rank(rows, query, list, count, best);
    if (total)
        memcpy(seen, rows->removed, rows->words * sizeof *seen);
    else
        for (size_t i = 0; i < count; i++)
            seen[list[i] / 64] = rows->removed[list[i] / 64];
    return total + count;
}

/* Ranks every row for every query: a few rows at a time, which stay in the cache. */
static void search_all(const rows_t *rows, const query_t *query, size_t queries, uint32_t *list, float *cosine,
                       int64_t *neighbor, size_t k, int64_t *candidates) {
    enum { BLOCK = 64 };
    for (size_t first = 0; first < rows->n; first += BLOCK) {
        size_t count = 0, some = rows->n - first < BLOCK ? rows->n - first : BLOCK;
        uint64_t removed = rows->removed[first / 64];
        for (size_t i = 0; i < some; i++) {
            list[count] = (uint32_t)(first + i);
            count += !(removed >> i & 1);
        }
        for (size_t q = 0; q < queries; q++) {
            candidates[q] += (int64_t)count;
            rank(rows, query + q, list, count, (best_t){cosine + q * k, neighbor + q * k, k});
        }
    }
}

#define LSH_QUERY_PARAMS                                                                                               \
    const float *query, const uint64_t *bucket, const float *row, const uint8_t *small, const float *scale,            \
        const int64_t *id, const uint64_t *removed, const uint32_t *start, const uint32_t *position,                   \
        const uint64_t *key, float *cosine, int64_t *neighbor, int64_t *candidates, uint64_t *work, size_t queries,    \
        size_t tables, size_t probes, size_t k, size_t width, size_t small_width, size_t n, size_t n_bits,             \
        size_t starts, size_t query_size, size_t bucket_size, size_t row_size, size_t small_size, size_t scales,       \
        size_t words, size_t start_size, size_t position_size, size_t key_size, size_t found, size_t room
#define LSH_QUERY_ARGS                                                                                                 \
    (query, bucket, row, small, scale, id, removed, start, position, key, cosine, neighbor, candidates, work, queries, \
     tables, probes, k, width, small_width, n, n_bits, starts, query_size, bucket_size, row_size, small_size, scales,  \
     words, start_size, position_size, key_size, found, room)

/* How much of the work space a search needs; all ones if the sizes contradict each other. */
FASTK_INLINE size_t lsh_room(LSH_QUERY_PARAMS) {
    (void)query, (void)bucket, (void)row, (void)small, (void)scale, (void)id, (void)removed, (void)start;
    (void)position, (void)key, (void)cosine, (void)neighbor, (void)candidates, (void)work, (void)room;
    if (n > UINT32_MAX || words < (n + 63) / 64 || width % LANES || (width && queries > query_size / width) ||
        (width && n > row_size / width) || (k && queries > found / k))
        return CONTRADICTION;
    if (small_width && (small_width < width || small_width % 64 || small_width > MOST_SMALL || n > scales ||
                        n > small_size / small_width))
        return CONTRADICTION;
    size_t each = sizeof(query_t) / sizeof *work + small_width / 4, fixed = (n + 63) / 64 + LIST / 2;
    if (queries > (SIZE_MAX - fixed) / each)
        return CONTRADICTION;
    if (probes == 0)
        return fixed + queries * each;
    if (starts < 2 || ((starts - 1) & (starts - 2)) != 0 || n_bits > MOST_BITS || tables == 0)
        return CONTRADICTION;
    size_t prefix = (size_t)__builtin_ctzll(starts - 1);
    if (prefix > n_bits || queries > bucket_size / probes / tables || starts > start_size / tables ||
        n > position_size / tables || (prefix < n_bits && n > key_size / tables))
        return CONTRADICTION;
    return fixed + queries * each;
}

/* Merges into each query's list of (cosine, neighbor), best first, (-inf, -1) where it is empty, the rows in the
 * buckets (queries, tables, probes), or with probes 0 all rows, by their dot products with the query, clipped to
 * [-1, 1]; rows whose bits are set in `removed` are left out. candidates grows by the number of rows that were ranked.
 * `starts` is 2^prefix + 1; small_width is 0 where there are no small integers. The tables may hold anything: what they
 * say is checked before it is followed. Returns 0; or, having done nothing, the room that it needs, or all ones if the
 * sizes contradict each other. */
FASTK_INLINE size_t lsh_query_body(int level, LSH_QUERY_PARAMS) {
    size_t needed = lsh_room LSH_QUERY_ARGS;
    if (room < needed)
        return needed;
    if (k == 0)
        return 0;
    rows_t rows = {.row = row, .scale = scale, .small = (const int8_t *)small, .id = id, .start = start};
    rows.position = position, rows.key = key, rows.removed = removed, rows.width = width,
    rows.small_width = small_width;
    rows.n = n, rows.starts = starts, rows.words = (n + 63) / 64, rows.level = level;
    rows.shift = probes ? n_bits - (size_t)__builtin_ctzll(starts - 1) : 0;
    uint64_t *seen = work;
    uint32_t *list = (uint32_t *)(void *)(seen + rows.words);
    query_t *asked = (query_t *)(void *)(list + LIST);
    int16_t *rounded_query = (int16_t *)(void *)(asked + queries);
    for (size_t q = 0; q < queries; q++) {
        asked[q] = (query_t){query + q * width, rounded_query + q * small_width, {0, 0}};
        if (small_width)
            asked[q].rounding = round_query(asked[q].row, width, small_width, rounded_query + q * small_width);
        open_list((best_t){cosine + q * k, neighbor + q * k, k});
    }
    if (probes == 0)
        search_all(&rows, asked, queries, list, cosine, neighbor, k, candidates);
    else
        memcpy(seen, removed, rows.words * sizeof *seen);
    for (size_t q = 0; probes && q < queries; q++) {
        best_t best = {cosine + q * k, neighbor + q * k, k};
        const uint64_t *own = bucket + q * tables * probes;
        candidates[q] += (int64_t)search(&rows, asked + q, own, tables, probes, seen, list, best);
    }
    for (size_t q = 0; q < queries; q++)
        close_list((best_t){cosine + q * k, neighbor + q * k, k});
    return 0;
}
FASTK_STAMP(size_t, lsh_query, (LSH_QUERY_PARAMS), LSH_QUERY_ARGS)
