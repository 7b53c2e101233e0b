/* Records: finding them, scattering them into buckets by their keys, and putting a bucket in key order.
 *
 * The key of record i is word i of the seed's Philox stream. Level l of the scatter has fanout[l] buckets: with r the
 * key, as a fraction of 2^64, the bucket is floor(r * fanout) and the rest r' = frac(r * fanout). Both come from one
 * 128-bit product, r' is again uniform, and within a bucket it grows with the key, so ordering a bucket by the rest
 * orders it by the key.
 *
 * In a bucket a record is a frame: a 32-bit word, size << gap_bits | gap, then the record's bytes. `gap` is the
 * distance to the previous record number of that bucket, so the key is found again without being stored. Size 0 says
 * more:
 *
 *   gap 0       no record; the record number advances by 2^gap_bits - 1
 *   otherwise   a 64-bit descriptor follows, length << 1 | by_reference, and then either the bytes or, by reference,
 * the 64-bit offset of the record in the input
 *
 * Words are in the machine's byte order: scratch never leaves it.
 */
#include <string.h>

#include "philox.h"

#ifdef FASTK_X86
#include <immintrin.h>
#endif

enum {
    WORD = 4,             /* bytes of a frame's word */
    DESCRIPTOR = 8,       /* bytes of a descriptor */
    REFERENCE = 16,       /* bytes of a descriptor and an offset */
    WINDOW = 64,          /* bytes matched at a time: one bit each in a 64-bit mask */
    COPY_BY_CALL = 2048,  /* from here on the C library's memcpy is the faster one */
    PREFETCH_AHEAD = 12,  /* records */
    PREFETCH_BYTES = 256, /* of each */
    INDEX_AHEAD = 4096,   /* bytes */
    DIGIT_BITS = 12,      /* of the first radix pass */
    BIN_BITS = 6,         /* of the passes within its bins */
    SMALL_SORT = 32       /* entries: insertion sort wins below */
};
#define NO_BUCKET UINT16_MAX              /* of a record that is left out */
#define BY_REFERENCE UINT32_C(0x80000000) /* set in a size: the payload is already a descriptor and an offset */

/* tally: one row a bucket */
enum { RECORDS, SCRATCH_BYTES, OUTPUT_BYTES, FIRST_NUMBER, LAST_NUMBER, CHECK_LOW, CHECK_HIGH, TALLY_FIELDS };

/* By number, because the address may lie past the end, where a pointer must not point. */
static inline void prefetch(const uint8_t *base, size_t at) {
    __builtin_prefetch((const void *)((uintptr_t)base + at));
}

static inline uint64_t load64(const uint8_t *p) {
    uint64_t value;
    memcpy(&value, p, sizeof value);
    return value;
}

static inline uint32_t load32(const uint8_t *p) {
    uint32_t value;
    memcpy(&value, p, sizeof value);
    return value;
}

static inline void store64(uint8_t *p, uint64_t value) { memcpy(p, &value, sizeof value); }
static inline void store32(uint8_t *p, uint32_t value) { memcpy(p, &value, sizeof value); }

/* ---- finding bytes ---- */

#ifdef FASTK_X86
/* No vector extension compresses a comparison into bits; without these the scan is 4 times slower. */
FASTK_TARGET_V4 static inline uint64_t match_v4(const uint8_t *p, uint8_t byte) {
    return _mm512_cmpeq_epi8_mask(_mm512_loadu_si512((const void *)p), _mm512_set1_epi8((char)byte));
}

FASTK_TARGET_V3 static inline uint64_t match_v3(const uint8_t *p, uint8_t byte) {
    const __m256i wanted = _mm256_set1_epi8((char)byte);
    __m256i low = _mm256_cmpeq_epi8(_mm256_loadu_si256((const __m256i_u *)(const void *)p), wanted);
    __m256i high = _mm256_cmpeq_epi8(_mm256_loadu_si256((const __m256i_u *)(const void *)(p + 32)), wanted);
    return (uint64_t)(uint32_t)_mm256_movemask_epi8(high) << 32 | (uint32_t)_mm256_movemask_epi8(low);
}

static inline uint64_t match_base(const uint8_t *p, uint8_t byte) {
    const __m128i wanted = _mm_set1_epi8((char)byte);
    uint64_t mask = 0;
    for (int i = 0; i < 4; ++i) {
        __m128i equal = _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i_u *)(const void *)(p + 16 * i)), wanted);
        mask |= (uint64_t)(uint32_t)_mm_movemask_epi8(equal) << (16 * i);
    }
    return mask;
}
#else
/* Eight bytes at a time: a byte of x ^ wanted that is zero leaves its top bit set in `zero`, exactly, and the product
 * collects the eight top bits. */
static inline uint64_t match_base(const uint8_t *p, uint8_t byte) {
    const uint64_t ones = UINT64_C(0x0101010101010101), low7 = UINT64_C(0x7f7f7f7f7f7f7f7f);
    uint64_t mask = 0;
    for (int i = 0; i < 8; ++i) {
        uint64_t x = load64(p + 8 * i) ^ ones * byte;
        uint64_t zero = ~(((x & low7) + low7) | x | low7);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        zero = __builtin_bswap64(zero);
#endif
        mask |= ((zero >> 7) * UINT64_C(0x0102040810204080) >> 56) << (8 * i);
    }
    return mask;
}
#endif

/* Bit j says whether p[j] == byte, for the 64 bytes at p. */
FASTK_INLINE uint64_t match_window(int level, const uint8_t *p, uint8_t byte) {
#ifdef FASTK_X86
    if (level == FASTK_V4)
        return match_v4(p, byte);
    if (level == FASTK_V3)
        return match_v3(p, byte);
#endif
    (void)level;
    return match_base(p, byte);
}

/* The same for the n < 64 bytes at p, of which no more are read. */
FASTK_INLINE uint64_t match_tail(int level, const uint8_t *p, size_t n, uint8_t byte) {
    uint8_t window[WINDOW] = {0};
    if (n == 0)
        return 0;
    memcpy(window, p, n);
    return match_window(level, window, byte) & ((UINT64_C(1) << n) - 1);
}

FASTK_INLINE uint64_t match_at(int level, const uint8_t *buf, size_t n, size_t i, uint8_t byte) {
    return FASTK_LIKELY(n - i >= WINDOW) ? match_window(level, buf + i, byte) : match_tail(level, buf + i, n - i, byte);
}

/* Position of the first `byte`, n if there is none. */
FASTK_INLINE size_t find_byte_body(int level, const uint8_t *buf, size_t n, uint8_t byte) {
    for (size_t i = 0; i < n; i += WINDOW) {
        uint64_t mask = match_at(level, buf, n, i, byte);
        if (mask)
            return i + (size_t)__builtin_ctzll(mask);
    }
    return n;
}
FASTK_STAMP(size_t, find_byte, (const uint8_t *buf, size_t n, uint8_t byte), (buf, n, byte))

/* Position of the last `byte`, n if there is none. */
FASTK_INLINE size_t rfind_byte_body(int level, const uint8_t *buf, size_t n, uint8_t byte) {
    size_t i = n - n % WINDOW;
    uint64_t mask = match_tail(level, buf + i, n - i, byte);
    while (!mask && i) {
        i -= WINDOW;
        mask = match_window(level, buf + i, byte);
    }
    return mask ? i + 63 - (size_t)__builtin_clzll(mask) : n;
}
FASTK_STAMP(size_t, rfind_byte, (const uint8_t *buf, size_t n, uint8_t byte), (buf, n, byte))

FASTK_INLINE size_t count_byte_body(int level, const uint8_t *buf, size_t n, uint8_t byte) {
    size_t count = 0;
    for (size_t i = 0; i < n; i += WINDOW)
        count += (size_t)__builtin_popcountll(match_at(level, buf, n, i, byte));
    return count;
}
FASTK_STAMP(size_t, count_byte, (const uint8_t *buf, size_t n, uint8_t byte), (buf, n, byte))

/* ---- keys ---- */

FASTK_INLINE void philox_fill_body(int level, uint64_t key0, uint64_t key1, uint64_t start, uint64_t *out, size_t n) {
    (void)level;
    for (size_t i = 0; i < n;) {
        philox_block_t block = philox_block(key0, key1, (start + i) / 4);
        for (size_t j = (start + i) % 4; j < 4 && i < n; ++j)
            out[i++] = block.word[j];
    }
}
FASTK_STAMP(void, philox_fill, (uint64_t key0, uint64_t key1, uint64_t start, uint64_t *out, size_t n),
            (key0, key1, start, out, n))

typedef struct {
    uint64_t key0, key1, number;
    philox_block_t block;
} keys_t;

FASTK_INLINE keys_t keys_begin(uint64_t key0, uint64_t key1) {
    return (keys_t){key0, key1, 0, philox_block(key0, key1, 0)};
}

/* Key of a record. Neighbours share a block, so numbers that grow slowly cost a fourth. */
FASTK_INLINE uint64_t key_of(keys_t *keys, uint64_t number) {
    if ((keys->number ^ number) >= 4)
        keys->block = philox_block(keys->key0, keys->key1, number / 4);
    keys->number = number & ~UINT64_C(3);
    return keys->block.word[number % 4];
}

/* What is left of a key below the given levels of buckets. */
FASTK_INLINE uint64_t descend(uint64_t key, const uint64_t *fanout, size_t levels) {
    for (size_t l = 0; l < levels; ++l)
        key *= fanout[l];
    return key;
}

/* ---- splitting a block into records ---- */

/* What is known of a block, in and out: a scan goes on where the last one stopped. */
enum { RECORD_BEGIN, SCANNED, LINE_BEGIN, LINES_SEEN };

FASTK_INLINE int ends_line(const uint8_t *buf, size_t line, size_t end, const uint8_t *delimiter, size_t width) {
    return end - line >= width && buf[end - width] == *delimiter && memcmp(buf + end - width, delimiter, width) == 0;
}

/* plain: every line is a record, every byte that is found a delimiter. */
FASTK_INLINE size_t split_scan(int level, int plain, const uint8_t *buf, size_t n, const uint8_t *delimiter,
                               size_t width, size_t lines, uint64_t *state, uint32_t *start, uint32_t *size,
                               size_t capacity) {
    const uint8_t last = delimiter[width - 1];
    size_t m = 0, begin = (size_t)state[RECORD_BEGIN], line = (size_t)state[LINE_BEGIN],
           seen = (size_t)state[LINES_SEEN];
    for (size_t i = (size_t)state[SCANNED]; i < n; i += WINDOW) {
        for (uint64_t mask = match_at(level, buf, n, i, last); mask; mask &= mask - 1) {
            const size_t end = i + (size_t)__builtin_ctzll(mask) + 1;
            if (!plain && !ends_line(buf, line, end, delimiter, width))
                continue;
            line = end;
            if (!plain && ++seen < lines)
                continue;
            seen = 0;
            start[m] = (uint32_t)begin;
            size[m] = (uint32_t)(end - begin);
            begin = end;
            if (FASTK_UNLIKELY(++m == capacity)) {
                n = end; /* which ends both loops */
                break;
            }
        }
    }
    state[RECORD_BEGIN] = begin;
    state[SCANNED] = n;
    state[LINE_BEGIN] = line;
    state[LINES_SEEN] = seen;
    return m;
}

/* The whole records of buf[state[RECORD_BEGIN]:n], as (start, size), up to the capacity. A record is a number of lines;
 * a line ends with the first delimiter after its begin, and delimiters do not overlap. buf[:state[SCANNED]] has been
 * looked at before. */
FASTK_INLINE size_t split_delimited_body(int level, const uint8_t *buf, size_t n, const uint8_t *delimiter,
                                         size_t width, size_t lines, uint64_t *state, uint32_t *start, uint32_t *size,
                                         size_t capacity) {
    if (capacity == 0 || width == 0 || state[LINES_SEEN] >= lines || state[RECORD_BEGIN] > state[LINE_BEGIN] ||
        state[LINE_BEGIN] > state[SCANNED] || state[SCANNED] > n)
        return 0;
    if (width == 1 && lines == 1)
        return split_scan(level, 1, buf, n, delimiter, 1, 1, state, start, size, capacity);
    return split_scan(level, 0, buf, n, delimiter, width, lines, state, start, size, capacity);
}
FASTK_STAMP(size_t, split_delimited,
            (const uint8_t *buf, size_t n, const uint8_t *delimiter, size_t width, size_t lines, uint64_t *state,
             uint32_t *start, uint32_t *size, size_t capacity),
            (buf, n, delimiter, width, lines, state, start, size, capacity))

/* The whole frames of buf[state[0]:n], as (start, size) of the payload and record number. state holds the position and
 * the previous record number, before and after. */
FASTK_INLINE size_t split_frames_body(int level, const uint8_t *buf, size_t n, unsigned gap_bits, uint64_t *state,
                                      uint32_t *start, uint32_t *size, uint64_t *number, size_t capacity) {
    (void)level;
    const uint32_t gap_mask = (UINT32_C(1) << gap_bits) - 1;
    size_t m = 0, at = (size_t)state[0];
    uint64_t previous = state[1];
    while (m < capacity && at <= n && n - at >= WORD) {
        uint32_t word = load32(buf + at), gap = word & gap_mask, bytes = word >> gap_bits;
        size_t head = WORD;
        if (word == 0) {
            previous += gap_mask;
            at += WORD;
            continue;
        }
        uint32_t payload = bytes;
        if (bytes == 0) {
            if (n - at < WORD + DESCRIPTOR)
                break;
            uint64_t descriptor = load64(buf + at + WORD);
            if (descriptor & 1) {
                bytes = REFERENCE;
                payload = REFERENCE | BY_REFERENCE;
            } else {
                head += DESCRIPTOR;
                if (descriptor >> 1 > n - at - head)
                    break;
                payload = bytes = (uint32_t)(descriptor >> 1);
            }
        }
        if (n - at - head < bytes)
            break;
        previous += gap;
        number[m] = previous;
        start[m] = (uint32_t)(at + head);
        size[m] = payload;
        at += head + bytes;
        ++m;
    }
    state[0] = at;
    state[1] = previous;
    return m;
}
FASTK_STAMP(size_t, split_frames,
            (const uint8_t *buf, size_t n, unsigned gap_bits, uint64_t *state, uint32_t *start, uint32_t *size,
             uint64_t *number, size_t capacity),
            (buf, n, gap_bits, state, start, size, number, capacity))

/* ---- scattering ---- */

FASTK_INLINE void number_records_body(int level, uint64_t first, uint64_t *number, size_t m) {
    (void)level;
    for (size_t i = 0; i < m; ++i)
        number[i] = first + i;
}
FASTK_STAMP(void, number_records, (uint64_t first, uint64_t *number, size_t m), (first, number, m))

/* Bucket of every record below the levels given by `fanout`; NO_BUCKET if its key is not in [least, most]. */
FASTK_INLINE void bucket_records_body(int level, const uint64_t *number, size_t m, uint64_t key0, uint64_t key1,
                                      const uint64_t *fanout, size_t levels, size_t buckets, uint64_t least,
                                      uint64_t most, uint16_t *bucket) {
    (void)level;
    keys_t keys = keys_begin(key0, key1);
    for (size_t i = 0; i < m; ++i) {
        uint64_t key = key_of(&keys, number[i]), rest = descend(key, fanout, levels);
        uint16_t b = (uint16_t)((fastk_u128)rest * buckets >> 64);
        bucket[i] = key < least || key > most ? NO_BUCKET : b;
    }
}
FASTK_STAMP(void, bucket_records,
            (const uint64_t *number, size_t m, uint64_t key0, uint64_t key1, const uint64_t *fanout, size_t levels,
             size_t buckets, uint64_t least, uint64_t most, uint16_t *bucket),
            (number, m, key0, key1, fanout, levels, buckets, least, most, bucket))

/* In each bucket the records, frame bytes, output bytes, first and last record number; the sums of hashes are begun. */
FASTK_INLINE void scatter_count_body(int level, const uint8_t *buf, const uint32_t *start, const uint32_t *size,
                                     const uint64_t *number, const uint16_t *bucket, size_t m, size_t buckets,
                                     unsigned gap_bits, uint32_t reference_size, uint64_t *tally) {
    (void)level;
    const uint32_t word_size = (uint32_t)(UINT64_C(1) << (32 - gap_bits));
    const uint64_t gap_max = (UINT64_C(1) << gap_bits) - 1;
    memset(tally, 0, buckets * TALLY_FIELDS * sizeof *tally);
    for (size_t i = 0; i < m; ++i) {
        const size_t b = bucket[i];
        if (FASTK_UNLIKELY(b >= buckets))
            continue;
        uint64_t *row = tally + b * TALLY_FIELDS;
        uint64_t length = size[i], bytes = WORD + length;
        if (FASTK_UNLIKELY(length & BY_REFERENCE)) {
            length = load64(buf + start[i]) >> 1;
            bytes = WORD + REFERENCE;
        } else if (FASTK_UNLIKELY(length >= reference_size)) {
            bytes = WORD + REFERENCE;
        } else if (FASTK_UNLIKELY(length >= word_size)) {
            bytes += DESCRIPTOR;
        }
        if (row[RECORDS]++ == 0)
            row[FIRST_NUMBER] = number[i];
        else if (FASTK_UNLIKELY(number[i] - row[LAST_NUMBER] > gap_max))
            bytes += WORD * ((number[i] - row[LAST_NUMBER] - 1) / gap_max);
        row[LAST_NUMBER] = number[i];
        row[SCRATCH_BYTES] += bytes;
        row[OUTPUT_BYTES] += length;
    }
}
FASTK_STAMP(void, scatter_count,
            (const uint8_t *buf, const uint32_t *start, const uint32_t *size, const uint64_t *number,
             const uint16_t *bucket, size_t m, size_t buckets, unsigned gap_bits, uint32_t reference_size,
             uint64_t *tally),
            (buf, start, size, number, bucket, m, buckets, gap_bits, reference_size, tally))

/* Copies exactly n bytes; vectors overlap at the end instead of a loop over single bytes. */
FASTK_INLINE void copy_record(int level, uint8_t *restrict to, const uint8_t *restrict from, size_t n) {
    const size_t width = level == FASTK_V4 ? 64 : level == FASTK_V3 ? 32 : 16;
    if (FASTK_UNLIKELY(n >= COPY_BY_CALL)) {
        memcpy(to, from, n);
    } else if (n >= width) {
        for (size_t i = 0; i + width <= n; i += width)
            memcpy(to + i, from + i, width);
        memcpy(to + n - width, from + n - width, width);
    } else if (n >= 32) {
        memcpy(to, from, 32);
        memcpy(to + n - 32, from + n - 32, 32);
    } else if (n >= 16) {
        memcpy(to, from, 16);
        memcpy(to + n - 16, from + n - 16, 16);
    } else if (n >= 8) {
        memcpy(to, from, 8);
        memcpy(to + n - 8, from + n - 8, 8);
    } else if (n >= 4) {
        memcpy(to, from, 4);
        memcpy(to + n - 4, from + n - 4, 4);
    } else if (n) {
        to[0] = from[0];
        to[n / 2] = from[n / 2];
        to[n - 1] = from[n - 1];
    }
}

/* Writes each record's frame at position[bucket] of out, which moves on. previous[bucket] is the last record number
 * there; offset is that of buf[0] in the input. A record of no bucket is left out. */
FASTK_INLINE void scatter_place_body(int level, const uint8_t *buf, const uint32_t *start, const uint32_t *size,
                                     const uint64_t *number, const uint16_t *bucket, size_t m, unsigned gap_bits,
                                     uint32_t reference_size, uint64_t offset, uint64_t *previous, uint64_t *position,
                                     size_t buckets, uint8_t *out) {
    const uint32_t word_size = (uint32_t)(UINT64_C(1) << (32 - gap_bits));
    const uint64_t gap_max = (UINT64_C(1) << gap_bits) - 1;
    for (size_t i = 0; i < m; ++i) {
        const size_t b = bucket[i];
        if (FASTK_UNLIKELY(b >= buckets))
            continue;
        uint8_t *to = out + position[b];
        uint64_t gap = number[i] - previous[b];
        previous[b] = number[i];
        for (; FASTK_UNLIKELY(gap > gap_max); gap -= gap_max, to += WORD)
            store32(to, 0);
        const uint8_t *from = buf + start[i];
        const uint32_t bytes = size[i];
        if (FASTK_LIKELY(bytes < word_size && bytes < reference_size)) {
            store32(to, bytes << gap_bits | (uint32_t)gap);
            copy_record(level, to + WORD, from, bytes);
            to += WORD + bytes;
        } else {
            store32(to, (uint32_t)gap);
            to += WORD;
            if (bytes & BY_REFERENCE) {
                memcpy(to, from, REFERENCE);
                to += REFERENCE;
            } else if (bytes >= reference_size) {
                store64(to, (uint64_t)bytes << 1 | 1);
                store64(to + DESCRIPTOR, offset + start[i]);
                to += REFERENCE;
            } else {
                store64(to, (uint64_t)bytes << 1);
                memcpy(to + DESCRIPTOR, from, bytes);
                to += DESCRIPTOR + bytes;
            }
        }
        position[b] = (uint64_t)(to - out);
    }
}
FASTK_STAMP(void, scatter_place,
            (const uint8_t *buf, const uint32_t *start, const uint32_t *size, const uint64_t *number,
             const uint16_t *bucket, size_t m, unsigned gap_bits, uint32_t reference_size, uint64_t offset,
             uint64_t *previous, uint64_t *position, size_t buckets, uint8_t *out),
            (buf, start, size, number, bucket, m, gap_bits, reference_size, offset, previous, position, buckets, out))

/* ---- checksums ---- */

/* MurmurHash3_x64_128 (Appleby 2011), seed 0. Sums of it, modulo 2^128, do not depend on the order. */
typedef struct {
    uint64_t low, high;
} hash_t;

static const uint64_t MURMUR_1 = UINT64_C(0x87c37b91114253d5), MURMUR_2 = UINT64_C(0x4cf5ad432745937f);

FASTK_INLINE uint64_t little64(uint64_t value) {
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    return __builtin_bswap64(value);
#else
    return value;
#endif
}

FASTK_INLINE uint64_t little32(uint32_t value) {
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    return __builtin_bswap32(value);
#else
    return value;
#endif
}

FASTK_INLINE uint64_t rotate(uint64_t x, unsigned by) { return x << by | x >> (64 - by); }

FASTK_INLINE uint64_t hash_low(uint64_t word) { return rotate(word * MURMUR_1, 31) * MURMUR_2; }
FASTK_INLINE uint64_t hash_high(uint64_t word) { return rotate(word * MURMUR_2, 33) * MURMUR_1; }

FASTK_INLINE hash_t hash_blocks(hash_t h, const uint8_t *p, size_t blocks) {
    for (; blocks; --blocks, p += 16) {
        h.low = (rotate(h.low ^ hash_low(little64(load64(p))), 27) + h.high) * 5 + 0x52dce729;
        h.high = (rotate(h.high ^ hash_high(little64(load64(p + 8))), 31) + h.low) * 5 + 0x38495ab5;
    }
    return h;
}

FASTK_INLINE uint64_t hash_mix(uint64_t x) {
    x = (x ^ x >> 33) * UINT64_C(0xff51afd7ed558ccd);
    x = (x ^ x >> 33) * UINT64_C(0xc4ceb9fe1a85ec53);
    return x ^ x >> 33;
}

/* The n < 8 bytes at p as a number. */
FASTK_INLINE uint64_t few_bytes(const uint8_t *p, size_t n) {
    if (n >= 4)
        return little32(load32(p)) | little32(load32(p + n - 4)) << 8 * (n - 4);
    return n ? p[0] | (uint64_t)p[n / 2] << 8 * (n / 2) | (uint64_t)p[n - 1] << 8 * (n - 1) : 0;
}

/* The last n bytes of a text of some length, and what comes at its end. */
FASTK_INLINE hash_t hash_end(hash_t h, const uint8_t *p, size_t n, uint64_t length) {
    h = hash_blocks(h, p, n / 16);
    const size_t rest = n % 16;
    p += n - rest;
    if (rest >= 8) {
        h.low ^= hash_low(little64(load64(p)));
        h.high ^= hash_high(few_bytes(p + 8, rest - 8));
    } else {
        h.low ^= hash_low(few_bytes(p, rest));
    }
    h.low ^= length;
    h.high ^= length;
    h.low += h.high;
    h.high += h.low;
    h.low = hash_mix(h.low);
    h.high = hash_mix(h.high);
    h.low += h.high;
    h.high += h.low;
    return h;
}

FASTK_INLINE void add_hash(uint64_t *sum, hash_t h) {
    sum[0] += h.low;
    sum[1] += h.high + (sum[0] < h.low);
}

/* Hash of each record, added to the sum of its bucket; not of those by reference, whose bytes are elsewhere. */
FASTK_INLINE void records_checksum_body(int level, const uint8_t *buf, const uint32_t *start, const uint32_t *size,
                                        const uint16_t *bucket, size_t m, size_t buckets, uint64_t *tally) {
    (void)level;
    for (size_t i = 0; i < m; ++i)
        if (FASTK_LIKELY(bucket[i] < buckets && !(size[i] & BY_REFERENCE)))
            add_hash(tally + bucket[i] * TALLY_FIELDS + CHECK_LOW,
                     hash_end((hash_t){0, 0}, buf + start[i], size[i], size[i]));
}
FASTK_STAMP(void, records_checksum,
            (const uint8_t *buf, const uint32_t *start, const uint32_t *size, const uint16_t *bucket, size_t m,
             size_t buckets, uint64_t *tally),
            (buf, start, size, bucket, m, buckets, tally))

/* The hash of a record piece by piece: the whole blocks of 16 bytes of a piece, */
FASTK_INLINE void checksum_blocks_body(int level, const uint8_t *buf, size_t n, uint64_t *state) {
    (void)level;
    hash_t h = hash_blocks((hash_t){state[0], state[1]}, buf, n / 16);
    state[0] = h.low;
    state[1] = h.high;
}
FASTK_STAMP(void, checksum_blocks, (const uint8_t *buf, size_t n, uint64_t *state), (buf, n, state))

/* and what is left of it, once the length is known. */
FASTK_INLINE void checksum_end_body(int level, const uint8_t *tail, size_t n, uint64_t length, uint64_t *state) {
    (void)level;
    hash_t h = hash_end((hash_t){state[0], state[1]}, tail, n, length);
    state[0] = h.low;
    state[1] = h.high;
}
FASTK_STAMP(void, checksum_end, (const uint8_t *tail, size_t n, uint64_t length, uint64_t *state),
            (tail, n, length, state))

/* ---- ordering a bucket ---- */

/* An entry (rest of the key, position of the frame) for each whole frame of the segments [begin, end) of base, which
 * are read as one stretch of frames each, up to the capacity. A segment's begin moves to where its frames were whole,
 * and *previous, the record number before, to the last one. Returns the number of entries. */
FASTK_INLINE size_t frames_index_body(int level, const uint8_t *base, size_t n, uint64_t *segments, size_t count,
                                      unsigned gap_bits, uint64_t *previous, uint64_t key0, uint64_t key1,
                                      const uint64_t *fanout, size_t levels, uint64_t *entries, size_t capacity) {
    (void)level;
    const uint32_t gap_mask = (UINT32_C(1) << gap_bits) - 1;
    keys_t keys = keys_begin(key0, key1);
    uint64_t number = *previous;
    size_t m = 0;
    for (size_t s = 0; s < count; ++s) {
        size_t at = (size_t)segments[2 * s], to = (size_t)segments[2 * s + 1];
        if (to > n)
            break;
        while (m < capacity && at < to && to - at >= WORD) {
            uint32_t word = load32(base + at), gap = word & gap_mask;
            uint64_t bytes = word >> gap_bits, head = WORD;
            if (FASTK_UNLIKELY(word == 0)) {
                number += gap_mask;
                at += WORD;
                continue;
            }
            if (FASTK_UNLIKELY(bytes == 0)) {
                if (to - at < WORD + DESCRIPTOR)
                    break;
                uint64_t descriptor = load64(base + at + WORD);
                head += DESCRIPTOR;
                bytes = descriptor & 1 ? REFERENCE - DESCRIPTOR : descriptor >> 1;
            }
            if (to - at < head || to - at - head < bytes)
                break;
            /* The walk hops from word to word; without this it waits for memory at every hop. */
            for (size_t line = 0; line < head + bytes && line < PREFETCH_BYTES; line += 64)
                prefetch(base, at + INDEX_AHEAD + line);
            number += gap;
            entries[2 * m] = descend(key_of(&keys, number), fanout, levels);
            entries[2 * m + 1] = at;
            at += head + bytes;
            ++m;
        }
        segments[2 * s] = at;
    }
    *previous = number;
    return m;
}
FASTK_STAMP(size_t, frames_index,
            (const uint8_t *base, size_t n, uint64_t *segments, size_t count, unsigned gap_bits, uint64_t *previous,
             uint64_t key0, uint64_t key1, const uint64_t *fanout, size_t levels, uint64_t *entries, size_t capacity),
            (base, n, segments, count, gap_bits, previous, key0, key1, fanout, levels, entries, capacity))

typedef struct {
    uint64_t key, position;
} entry_t;

static inline entry_t entry_load(const uint64_t *e, size_t i) { return (entry_t){e[2 * i], e[2 * i + 1]}; }

static inline void entry_store(uint64_t *e, size_t i, entry_t value) {
    e[2 * i] = value.key;
    e[2 * i + 1] = value.position;
}

static inline int entry_less(entry_t a, entry_t b) {
    return a.key < b.key || (a.key == b.key && a.position < b.position);
}

static void insertion_sort(uint64_t *e, size_t m) {
    for (size_t i = 1; i < m; ++i) {
        entry_t moving = entry_load(e, i);
        size_t j = i;
        for (; j && entry_less(moving, entry_load(e, j - 1)); --j)
            entry_store(e, j, entry_load(e, j - 1));
        entry_store(e, j, moving);
    }
}

/* Digit `shift` bits from the top of the 128-bit number key:position, so that equal keys keep the order of the input.
 */
static inline size_t entry_digit(entry_t entry, unsigned shift, unsigned bits) {
    if (shift >= 64)
        return (size_t)(entry.position << (shift - 64) >> (64 - bits));
    uint64_t value = entry.key << shift;
    if (FASTK_UNLIKELY(shift + bits > 64))
        value |= entry.position >> (64 - shift);
    return (size_t)(value >> (64 - bits));
}

/* Sorts by the digit of the highest remaining bits, in place (American flag sort; McIlroy, Bostic & McIlroy 1993), and
 * leaves the ends of the bins, 2^bits of them, in `end`. */
FASTK_INLINE void flag_sort(uint64_t *e, size_t m, unsigned shift, unsigned bits, size_t *next, size_t *end) {
    const size_t bins = (size_t)1 << bits;
    memset(end, 0, bins * sizeof *end);
    for (size_t i = 0; i < m; ++i)
        ++end[entry_digit(entry_load(e, i), shift, bits)];
    for (size_t b = 0, sum = 0; b < bins; ++b) {
        next[b] = sum;
        sum += end[b];
        end[b] = sum;
    }
    for (size_t b = 0; b < bins; ++b) {
        while (next[b] < end[b]) {
            entry_t moving = entry_load(e, next[b]);
            size_t home = entry_digit(moving, shift, bits);
            while (home != b) {
                size_t slot = next[home]++;
                entry_t displaced = entry_load(e, slot);
                entry_store(e, slot, moving);
                moving = displaced;
                home = entry_digit(moving, shift, bits);
            }
            entry_store(e, next[b]++, moving);
        }
    }
}

/* Digit size that leaves a few entries a bin: keys are uniform. */
static inline unsigned digit_bits(size_t m, unsigned shift, unsigned most) {
    unsigned bits = 1;
    while (bits < most && (m >> (bits + 3)) != 0)
        ++bits;
    return bits < 128 - shift ? bits : 128 - shift;
}

/* Small digits, so that even equal keys, which come to be sorted bit by bit, do not exhaust a thread's stack. */
static void sort_bin(uint64_t *e, size_t m, unsigned shift) {
    if (m <= SMALL_SORT || shift >= 128) {
        insertion_sort(e, m);
        return;
    }
    size_t next[1 << BIN_BITS], end[1 << BIN_BITS];
    const unsigned bits = digit_bits(m, shift, BIN_BITS);
    flag_sort(e, m, shift, bits, next, end);
    for (size_t b = 0, begin = 0; b < (size_t)1 << bits; begin = end[b++])
        if (end[b] - begin > 1)
            sort_bin(e + 2 * begin, end[b] - begin, shift + bits);
}

FASTK_INLINE void entries_sort_body(int level, uint64_t *entries, size_t m) {
    (void)level;
    size_t next[1 << DIGIT_BITS], end[1 << DIGIT_BITS];
    const unsigned bits = digit_bits(m, 0, DIGIT_BITS);
    flag_sort(entries, m, 0, bits, next, end);
    for (size_t b = 0, begin = 0; b < (size_t)1 << bits; begin = end[b++])
        sort_bin(entries + 2 * begin, end[b] - begin, bits);
}
FASTK_STAMP(void, entries_sort, (uint64_t * entries, size_t m), (entries, m))

/* A record, from its frame. */
typedef struct {
    const uint8_t *begin; /* NULL if it is elsewhere */
    uint64_t bytes;
} record_t;

FASTK_INLINE record_t record_of(const uint8_t *frame, unsigned gap_bits) {
    uint64_t bytes = load32(frame) >> gap_bits;
    if (FASTK_LIKELY(bytes != 0))
        return (record_t){frame + WORD, bytes};
    uint64_t descriptor = load64(frame + WORD);
    return (record_t){descriptor & 1 ? NULL : frame + WORD + DESCRIPTOR, descriptor >> 1};
}

/* Entries lie anywhere: the bytes of one some way ahead are asked for. */
FASTK_INLINE void prefetch_entry(const uint8_t *base, const uint64_t *entries, size_t i, size_t to, size_t bytes) {
    if (i + PREFETCH_AHEAD < to)
        for (size_t line = 0; line < bytes; line += 64)
            prefetch(base, (size_t)entries[2 * (i + PREFETCH_AHEAD) + 1] + line);
}

/* Copies the records of entries[from:to] to out, one after the other, while they fit; *written gets their bytes.
 * Returns the entry it stopped at: `to`, or one that does not fit, or one by reference. */
FASTK_INLINE size_t gather_body(int level, const uint8_t *base, const uint64_t *entries, size_t from, size_t to,
                                unsigned gap_bits, uint8_t *out, size_t capacity, uint64_t *written) {
    size_t used = 0, i = from;
    for (; i < to; ++i) {
        prefetch_entry(base, entries, i, to, PREFETCH_BYTES);
        const record_t record = record_of(base + entries[2 * i + 1], gap_bits);
        if (!record.begin || record.bytes > capacity - used)
            break;
        copy_record(level, out + used, record.begin, (size_t)record.bytes);
        used += (size_t)record.bytes;
    }
    *written = used;
    return i;
}
FASTK_STAMP(size_t, gather,
            (const uint8_t *base, const uint64_t *entries, size_t from, size_t to, unsigned gap_bits, uint8_t *out,
             size_t capacity, uint64_t *written),
            (base, entries, from, to, gap_bits, out, capacity, written))

/* Bytes of the records of entries[from:to], of those by reference too. */
FASTK_INLINE size_t frames_measure_body(int level, const uint8_t *base, const uint64_t *entries, size_t from, size_t to,
                                        unsigned gap_bits, uint64_t *bytes) {
    (void)level;
    uint64_t total = 0;
    size_t i = from;
    for (; i < to; ++i) {
        prefetch_entry(base, entries, i, to, 1);
        total += record_of(base + entries[2 * i + 1], gap_bits).bytes;
    }
    *bytes = total;
    return i;
}
FASTK_STAMP(size_t, frames_measure,
            (const uint8_t *base, const uint64_t *entries, size_t from, size_t to, unsigned gap_bits, uint64_t *bytes),
            (base, entries, from, to, gap_bits, bytes))

/* Adds the hashes of the records of entries[from:to] to the sum. Returns the entry it stopped at: `to`, or one by
 * reference. */
FASTK_INLINE size_t frames_checksum_body(int level, const uint8_t *base, const uint64_t *entries, size_t from,
                                         size_t to, unsigned gap_bits, uint64_t *sum) {
    (void)level;
    size_t i = from;
    for (; i < to; ++i) {
        prefetch_entry(base, entries, i, to, PREFETCH_BYTES);
        const record_t record = record_of(base + entries[2 * i + 1], gap_bits);
        if (!record.begin)
            break;
        add_hash(sum, hash_end((hash_t){0, 0}, record.begin, (size_t)record.bytes, record.bytes));
    }
    return i;
}
FASTK_STAMP(size_t, frames_checksum,
            (const uint8_t *base, const uint64_t *entries, size_t from, size_t to, unsigned gap_bits, uint64_t *sum),
            (base, entries, from, to, gap_bits, sum))
