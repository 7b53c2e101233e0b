/* Hamming distances of packed codes: of pairs, the k nearest, and all within a radius.
 *
 * The searches go through the codes by blocks. A block is transposed once and meets all queries while it is in the
 * cache; of its distances only those that enter a result are looked at one by one.
 */
#include <string.h>

#include "isa.h"

#ifdef FASTK_X86
#include <immintrin.h>
#endif

enum {
    STEP = 32,             /* codes: what the distances are made by is a multiple of no more */
    MOST_CODES = 256,      /* of a block */
    BLOCK_WORDS = 1 << 11, /* of a block, if it has more than STEP codes */
    AHEAD = 1024,          /* bytes that are fetched before they are looked at */
    FEW = 2,               /* queries, for which transposing does not pay */
    WORD = 8               /* bytes */
};

/* What hamming_lanes.h defines for a level: both give the distances of some codes to a query, and tell whether one of
 * them is below the limit. Vectors are of `width` words. */
struct distances {
    int (*of_block)(const uint64_t *block, size_t codes, const uint64_t *query, size_t words, uint32_t limit,
                    uint64_t *distance);
    int (*in_place)(const uint8_t *code, intptr_t step, size_t codes, const uint64_t *query, size_t words,
                    uint32_t limit, uint64_t *distance);
    /* The words of some codes to a block, or NULL; returns how many codes it did. */
    size_t (*transpose)(const uint8_t *code, intptr_t step, size_t codes, size_t words, uint64_t *block, size_t stride);
    size_t width;
};

#define TARGET
#define LANE_BYTES 16
#define LEVEL(name) name##_base
#include "hamming_lanes.h"
#ifdef FASTK_X86
#define TARGET FASTK_TARGET_V3
#define LANE_BYTES 32
#define LEVEL(name) name##_v3
#include "hamming_lanes.h"
#define TARGET FASTK_TARGET_V4
#define LANE_BYTES 64
#define LEVEL(name) name##_v4
#include "hamming_lanes.h"
#define TARGET_POPCOUNT __attribute__((target(FASTK_FEATURES_V4 ",avx512vpopcntdq")))
#define FASTK_POPCOUNT
#define TARGET TARGET_POPCOUNT
#define LANE_BYTES 64
#define LEVEL(name) name##_popcount
#include "hamming_lanes.h"
#define FASTK_POPCOUNT
#define TARGET TARGET_POPCOUNT
#define LANE_BYTES 32
#define LEVEL(name) name##_popcount_half
#include "hamming_lanes.h"
#endif

static const struct distances *distances_of(int level, size_t words, int few) {
#ifdef FASTK_X86
    int half = few && words % 8 != 0 && words % 4 == 0;
    if (level == FASTK_V4 && fastk_vectors_count)
        return half ? &kernels_popcount_half : &kernels_popcount;
    if (level == FASTK_V4 && !half)
        return &kernels_v4;
    if (level >= FASTK_V3)
        return &kernels_v3;
#endif
    (void)level, (void)words, (void)few;
    return &kernels_base;
}

/* ---- the walk that both searches share */

struct search {
    const uint8_t *query, *code;
    intptr_t query_step0, query_step1, code_step0, code_step1;
    size_t queries, n, bytes;
};

static size_t words_of(size_t bytes) { return bytes / WORD + (bytes % WORD != 0); }

static size_t codes_of(size_t bytes) {
    size_t words = words_of(bytes), codes = words ? BLOCK_WORDS / words / STEP * STEP : MOST_CODES;
    return codes < STEP ? STEP : codes > MOST_CODES ? MOST_CODES : codes;
}

/* Words of work space: a block, the distances of its codes, and a query. */
static size_t room_of(size_t bytes) { return (words_of(bytes) + 1) * codes_of(bytes) + words_of(bytes) + WORD; }

/* Word w of a code. */
FASTK_INLINE uint64_t word_at(const uint8_t *code, intptr_t step, size_t bytes, size_t w) {
    uint64_t word = 0;
    size_t from = w * WORD, count = bytes - from < WORD ? bytes - from : WORD;
    if (step == 1 && count == WORD) {
        memcpy(&word, code + from, sizeof word);
        return word;
    }
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    if (step == 1 && bytes >= WORD) { /* the last word ends where the code does */
        memcpy(&word, code + from + count - WORD, sizeof word);
        return word >> 8 * (WORD - count);
    }
    if (step == 1 && bytes >= 4) {
        uint32_t low, high;
        memcpy(&low, code, sizeof low);
        memcpy(&high, code + bytes - sizeof high, sizeof high);
        return low | (uint64_t)high << 8 * (bytes - sizeof high);
    }
#endif
    for (size_t i = 0; i < count; i++)
        word |= (uint64_t)code[(intptr_t)(from + i) * step] << 8 * i;
    return word;
}

/* The blocks of codes, with what a block needs: its words by words, distances, and a query. */
struct walk {
    const struct distances *distances;
    size_t codes, words;
    uint64_t *block, *found, *bits;
    int whole, in_place;
};

FASTK_INLINE struct walk walk_of(int level, const struct search *s, uint64_t *work) {
    size_t codes = codes_of(s->bytes), words = words_of(s->bytes);
    const struct distances *distances = distances_of(level, words, s->queries <= FEW);
    uint64_t *block = work + (WORD - (uintptr_t)work / WORD % WORD) % WORD;
    int whole = s->code_step1 == 1 && s->bytes % WORD == 0;
    return (struct walk){distances,
                         codes,
                         words,
                         block,
                         block + words * codes,
                         block + (words + 1) * codes,
                         whole,
                         whole && words % distances->width == 0 && s->queries <= FEW};
}

FASTK_INLINE void transpose(const struct search *s, const struct walk *walk, size_t from, size_t count) {
    size_t words = walk->words, codes = walk->codes, c = 0;
    uint64_t *block = walk->block;
    if (walk->whole && walk->distances->transpose)
        c = walk->distances->transpose(s->code + (intptr_t)from * s->code_step0, s->code_step0, count, words, block,
                                       codes);
    for (; c < count; c++) {
        const uint8_t *code = s->code + (intptr_t)(from + c) * s->code_step0;
        for (size_t w = 0; w < words; w++)
            block[w * codes + c] = word_at(code, s->code_step1, s->bytes, w);
    }
    for (size_t w = 0; count < codes && w < words; w++)
        memset(block + w * codes + count, 0, (codes - count) * sizeof *block);
}

/* Distances of the block of codes from `from` on to one query; whether one of them may be below the limit. */
FASTK_INLINE int distances_to(const struct search *s, const struct walk *walk, size_t from, size_t count, size_t number,
                              uint32_t limit) {
    const uint8_t *query = s->query + (intptr_t)number * s->query_step0;
    for (size_t w = 0; w < walk->words; w++)
        walk->bits[w] = word_at(query, s->query_step1, s->bytes, w);
    if (!walk->in_place)
        return walk->distances->of_block(walk->block, walk->codes, walk->bits, walk->words, limit, walk->found);
    const uint8_t *code = s->code + (intptr_t)from * s->code_step0;
    return walk->distances->in_place(code, s->code_step0, count, walk->bits, walk->words, limit, walk->found);
}

/* ---- the k nearest: lists are heaps, the worst of (distance, id) on top, until they are sorted at the end */

struct heap {
    char *distance, *id;
    intptr_t distance_step, id_step;
    size_t k;
};
struct entry {
    int32_t distance;
    int64_t id;
};

FASTK_INLINE struct entry get(const struct heap *h, size_t i) {
    return (struct entry){*(const int32_t *)(h->distance + (intptr_t)i * h->distance_step),
                          *(const int64_t *)(h->id + (intptr_t)i * h->id_step)};
}

FASTK_INLINE void set(const struct heap *h, size_t i, struct entry e) {
    *(int32_t *)(h->distance + (intptr_t)i * h->distance_step) = e.distance;
    *(int64_t *)(h->id + (intptr_t)i * h->id_step) = e.id;
}

FASTK_INLINE int worse(struct entry a, struct entry b) {
    return a.distance > b.distance || (a.distance == b.distance && a.id > b.id);
}

/* Put an entry at the root of the first n and let it sink. */
static void sink(const struct heap *h, size_t n, struct entry e) {
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && worse(get(h, child + 1), get(h, child)))
            child++;
        if (!worse(get(h, child), e))
            break;
        set(h, at, get(h, child));
    }
    set(h, at, e);
}

/* A list from the worst on is a heap. */
static void reverse(const struct heap *h) {
    for (size_t i = 0, j = h->k; i + 1 < j; i++) {
        struct entry e = get(h, i);
        set(h, i, get(h, --j));
        set(h, j, e);
    }
}

static void sort(const struct heap *h) {
    for (size_t n = h->k; n > 1; n--) {
        struct entry e = get(h, n - 1);
        set(h, n - 1, get(h, 0));
        sink(h, n - 1, e);
    }
}

/* A code at this distance or a larger one does not enter: its id is at least `next`. */
FASTK_INLINE uint32_t limit_of(const struct heap *h, int64_t next) {
    struct entry worst = get(h, 0);
    return (uint32_t)worst.distance + (next < worst.id);
}

#define TOPK_PARAMS                                                                                                    \
    const uint8_t *query, intptr_t query_step0, intptr_t query_step1, const uint8_t *code, intptr_t code_step0,        \
        intptr_t code_step1, int32_t *distance, intptr_t distance_step0, intptr_t distance_step1, int64_t *id,         \
        intptr_t id_step0, intptr_t id_step1, uint64_t *work, size_t queries, size_t n, size_t bytes, size_t k,        \
        int64_t first, size_t room
FASTK_INLINE size_t hamming_topk_body(int level, TOPK_PARAMS) {
    struct search s = {query, code, query_step0, query_step1, code_step0, code_step1, queries, n, bytes};
    if (room < room_of(bytes) || k == 0)
        return room_of(bytes);
    struct heap h = {NULL, NULL, distance_step1, id_step1, k};
#define EACH_LIST                                                                                                      \
    for (size_t q = 0; h.distance = (char *)distance + (intptr_t)q * distance_step0,                                   \
                h.id = (char *)id + (intptr_t)q * id_step0, q < queries;                                               \
         q++)
    EACH_LIST reverse(&h);
    struct walk walk = walk_of(level, &s, work);
    for (size_t from = 0, count; from < n; from += count) {
        count = n - from < walk.codes ? n - from : walk.codes;
        if (!walk.in_place)
            transpose(&s, &walk, from, count);
        EACH_LIST {
            int64_t next = first + (int64_t)from;
            uint32_t limit = limit_of(&h, next);
            if (!distances_to(&s, &walk, from, count, q, limit))
                continue;
            for (size_t c = 0; c < count; c++) {
                struct entry e = {(int32_t)walk.found[c], next + (int64_t)c};
                if (walk.found[c] < limit && worse(get(&h, 0), e)) {
                    sink(&h, k, e);
                    limit = limit_of(&h, next);
                }
            }
        }
    }
    EACH_LIST sort(&h);
    return room_of(bytes);
}
FASTK_STAMP(size_t, hamming_topk, (TOPK_PARAMS),
            (query, query_step0, query_step1, code, code_step0, code_step1, distance, distance_step0, distance_step1,
             id, id_step0, id_step1, work, queries, n, bytes, k, first, room))

/* ---- all within a radius */

#define RANGE_PARAMS                                                                                                   \
    const uint8_t *query, intptr_t query_step0, intptr_t query_step1, const uint8_t *code, intptr_t code_step0,        \
        intptr_t code_step1, const int64_t *position, int64_t *count, int32_t *distance, int64_t *id, uint64_t *work,  \
        size_t queries, size_t n, size_t bytes, int64_t radius, int64_t first, size_t hits, size_t room
FASTK_INLINE size_t hamming_range_body(int level, RANGE_PARAMS) {
    struct search s = {query, code, query_step0, query_step1, code_step0, code_step1, queries, n, bytes};
    if (queries > SIZE_MAX / 2 || room < room_of(bytes) + queries || radius < 0)
        return room_of(bytes) + queries;
    uint64_t *hit = work + room_of(bytes); /* of this call, for each query */
    for (size_t q = 0; q < queries; q++)
        hit[q] = 0;
    uint32_t limit = (uint32_t)(radius < INT32_MAX ? radius : INT32_MAX - 1) + 1;
    struct walk walk = walk_of(level, &s, work);
    for (size_t from = 0, in_block; from < n; from += in_block) {
        in_block = n - from < walk.codes ? n - from : walk.codes;
        if (!walk.in_place)
            transpose(&s, &walk, from, in_block);
        for (size_t q = 0; q < queries; q++) {
            if (!distances_to(&s, &walk, from, in_block, q, limit))
                continue;
            for (size_t c = 0; c < in_block; c++) {
                if (walk.found[c] >= limit)
                    continue;
                uint64_t place = (uint64_t)position[q] + hit[q]++;
                if (place < hits) {
                    distance[place] = (int32_t)walk.found[c];
                    id[place] = first + (int64_t)(from + c);
                }
            }
        }
    }
    for (size_t q = 0; q < queries; q++)
        count[q] += (int64_t)hit[q];
    return room_of(bytes) + queries;
}
FASTK_STAMP(size_t, hamming_range, (RANGE_PARAMS),
            (query, query_step0, query_step1, code, code_step0, code_step1, position, count, distance, id, work,
             queries, n, bytes, radius, first, hits, room))

/* ---- pairs */

#define PAIRS_PARAMS                                                                                                   \
    const uint8_t *a, intptr_t a_step0, intptr_t a_step1, const uint8_t *b, intptr_t b_step0, intptr_t b_step1,        \
        int32_t *out, size_t rows, size_t bytes
FASTK_INLINE void hamming_pairs_body(int level, PAIRS_PARAMS) {
    (void)level;
    size_t words = words_of(bytes);
    for (size_t row = 0; row < rows; row++) {
        const uint8_t *p = a + (intptr_t)row * a_step0, *q = b + (intptr_t)row * b_step0;
        uint64_t sum = 0;
        for (size_t w = 0; w < words; w++)
            sum += (uint64_t)__builtin_popcountll(word_at(p, a_step1, bytes, w) ^ word_at(q, b_step1, bytes, w));
        out[row] = (int32_t)sum;
    }
}
FASTK_STAMP(void, hamming_pairs, (PAIRS_PARAMS), (a, a_step0, a_step1, b, b_step0, b_step1, out, rows, bytes))
