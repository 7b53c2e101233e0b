/* Distances of a block of codes to one query, at one ISA level. Included with TARGET, LANE_BYTES, LEVEL(name), and
 * FASTK_POPCOUNT for a level whose vectors count bits by themselves.
 *
 * The block is transposed: word w of code c is at [w * codes + c], so that a lane is a code and nothing is added across
 * lanes.
 */
#if LANE_BYTES == 64
#define BY_BYTES(whole, half) whole
#else
#define BY_BYTES(whole, half) half
#endif
#define V LEVEL(words)
#define LANE FASTK_INLINE TARGET
typedef uint64_t V __attribute__((vector_size(LANE_BYTES)));
typedef int32_t LEVEL(halves) __attribute__((vector_size(LANE_BYTES)));
enum { LEVEL(WIDTH) = LANE_BYTES / 8 };
#define WIDTH LEVEL(WIDTH)

LANE V LEVEL(load)(const uint64_t *p) {
    V x;
    memcpy(&x, p, sizeof x);
    return x;
}

LANE V LEVEL(load_bytes)(const uint8_t *p) {
    V x;
    memcpy(&x, p, sizeof x);
    return x;
}
LANE void LEVEL(store)(uint64_t *p, V x) { memcpy(p, &x, sizeof x); }

/* Set bits of the bytes of each word, 8 counts a word; `total` adds these up. A level that counts words skips both. */
LANE V LEVEL(count)(V x) {
#if defined(FASTK_POPCOUNT)
    return (V)BY_BYTES(_mm512_popcnt_epi64((__m512i)x), _mm256_popcnt_epi64((__m256i)x));
#elif defined(FASTK_X86) && LANE_BYTES == 64
    const __m512i table = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    V low = x & UINT64_C(0x0f0f0f0f0f0f0f0f), high = x >> 4 & UINT64_C(0x0f0f0f0f0f0f0f0f);
    return (V)_mm512_add_epi8(_mm512_shuffle_epi8(table, (__m512i)low), _mm512_shuffle_epi8(table, (__m512i)high));
#elif defined(FASTK_X86) && LANE_BYTES == 32
    const __m256i table = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    V low = x & UINT64_C(0x0f0f0f0f0f0f0f0f), high = x >> 4 & UINT64_C(0x0f0f0f0f0f0f0f0f);
    return (V)_mm256_add_epi8(_mm256_shuffle_epi8(table, (__m256i)low), _mm256_shuffle_epi8(table, (__m256i)high));
#else
    x -= x >> 1 & UINT64_C(0x5555555555555555);
    x = (x & UINT64_C(0x3333333333333333)) + (x >> 2 & UINT64_C(0x3333333333333333));
    return (x + (x >> 4)) & UINT64_C(0x0f0f0f0f0f0f0f0f);
#endif
}

LANE V LEVEL(total)(V x) {
#if defined(FASTK_POPCOUNT)
    return x;
#elif defined(FASTK_X86) && LANE_BYTES == 64
    return (V)_mm512_sad_epu8((__m512i)x, _mm512_setzero_si512());
#elif defined(FASTK_X86) && LANE_BYTES == 32
    return (V)_mm256_sad_epu8((__m256i)x, _mm256_setzero_si256());
#elif defined(FASTK_X86)
    return (V)_mm_sad_epu8((__m128i)x, _mm_setzero_si128());
#else
    x = (x & UINT64_C(0x00ff00ff00ff00ff)) + (x >> 8 & UINT64_C(0x00ff00ff00ff00ff));
    return (x * UINT64_C(0x0001000100010001)) >> 48;
#endif
}

/* Lanes that are below the limit, and whether there are any; distances and limits have no upper halves. */
LANE V LEVEL(below)(V a, V limit) { return (V)((LEVEL(halves))a < (LEVEL(halves))limit); }
LANE int LEVEL(any)(V mask) {
#if defined(FASTK_X86) && LANE_BYTES == 64
    return _mm512_test_epi64_mask((__m512i)mask, (__m512i)mask) != 0;
#elif defined(FASTK_X86) && LANE_BYTES == 32
    return !_mm256_testz_si256((__m256i)mask, (__m256i)mask);
#elif defined(FASTK_X86)
    return _mm_movemask_epi8((__m128i)mask) != 0;
#else
    uint64_t found = 0;
    for (int i = 0; i < WIDTH; i++)
        found |= mask[i];
    return found != 0;
#endif
}

/* Distances of all codes of the block; returns whether one of them may be below the limit. */
__attribute__((noinline)) TARGET static int LEVEL(distances)(const uint64_t *block, size_t codes, const uint64_t *query,
                                                             size_t words, uint32_t limit, uint64_t *distance) {
    enum { BYTES_FULL = 31 }; /* words whose byte counts fit a byte */
    int found = 0;
    for (size_t c = 0; c < codes; c += 4 * WIDTH) {
        V sum[4] = {{0}, {0}, {0}, {0}};
        for (size_t w = 0; w < words;) {
            size_t end = words - w < BYTES_FULL ? words : w + BYTES_FULL;
            V part[4] = {{0}, {0}, {0}, {0}};
            for (; w < end; w++) {
                const uint64_t *p = block + w * codes + c;
                V bits = (V){0} + query[w];
                _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) part[i] +=
                    LEVEL(count)(LEVEL(load)(p + i * WIDTH) ^ bits);
            }
            _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) sum[i] += LEVEL(total)(part[i]);
        }
        V most = (V){0} + limit;
        found |= LEVEL(any)(LEVEL(below)(sum[0], most) | LEVEL(below)(sum[1], most) | LEVEL(below)(sum[2], most) |
                            LEVEL(below)(sum[3], most));
        memcpy(distance + c, sum, sizeof sum);
    }
    return found;
}

/* Lane i: the sum of the lanes of v[i]. */
LANE V LEVEL(totals)(V *v) {
#if LANE_BYTES == 64
    for (int i = 0; i < 4; i++)
        v[i] = FASTK_SHUFFLE(v[2 * i], v[2 * i + 1], 0, 8, 2, 10, 4, 12, 6, 14) +
               FASTK_SHUFFLE(v[2 * i], v[2 * i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
    for (int i = 0; i < 2; i++)
        v[i] = FASTK_SHUFFLE(v[2 * i], v[2 * i + 1], 0, 1, 8, 9, 4, 5, 12, 13) +
               FASTK_SHUFFLE(v[2 * i], v[2 * i + 1], 2, 3, 10, 11, 6, 7, 14, 15);
    return FASTK_SHUFFLE(v[0], v[1], 0, 1, 2, 3, 8, 9, 10, 11) + FASTK_SHUFFLE(v[0], v[1], 4, 5, 6, 7, 12, 13, 14, 15);
#elif LANE_BYTES == 32
    for (int i = 0; i < 2; i++)
        v[i] = FASTK_SHUFFLE(v[2 * i], v[2 * i + 1], 0, 4, 2, 6) + FASTK_SHUFFLE(v[2 * i], v[2 * i + 1], 1, 5, 3, 7);
    return FASTK_SHUFFLE(v[0], v[1], 0, 1, 4, 5) + FASTK_SHUFFLE(v[0], v[1], 2, 3, 6, 7);
#else
    return FASTK_SHUFFLE(v[0], v[1], 0, 2) + FASTK_SHUFFLE(v[0], v[1], 1, 3);
#endif
}

/* The same as they lie, `step` apart, for codes that are whole vectors: for few queries, which reading alone delays. */
__attribute__((noinline)) TARGET static int LEVEL(in_place)(const uint8_t *code, intptr_t step, size_t codes,
                                                            const uint64_t *query, size_t words, uint32_t limit,
                                                            uint64_t *distance) {
    int found = 0;
    for (size_t c = 0; c < codes; c += WIDTH) {
        V sum[WIDTH];
        size_t last = codes - 1;
        _Pragma("GCC unroll 8") for (size_t i = 0; i < WIDTH; i++) {
            const uint8_t *p = code + (intptr_t)(c + i < last ? c + i : last) * step;
            sum[i] = (V){0};
            for (size_t w = 0; w < words; w += WIDTH, p += sizeof(V)) {
                __builtin_prefetch((const void *)((uintptr_t)p + AHEAD));
                sum[i] += LEVEL(total)(LEVEL(count)(LEVEL(load_bytes)(p) ^ LEVEL(load)(query + w)));
            }
        }
        V total = LEVEL(totals)(sum);
        found |= LEVEL(any)(LEVEL(below)(total, (V){0} + limit));
        memcpy(distance + c, &total, sizeof total);
    }
    return found;
}
#if LANE_BYTES == 64
/* v[i], 8 words of code i, become v[j], word j of 8 codes. */
LANE void LEVEL(transpose_8)(V *v) {
    V a[8];
    _Pragma("GCC unroll 4") for (int i = 0; i < 8; i += 2) {
        a[i] = FASTK_SHUFFLE(v[i], v[i + 1], 0, 8, 2, 10, 4, 12, 6, 14);
        a[i + 1] = FASTK_SHUFFLE(v[i], v[i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
    }
    _Pragma("GCC unroll 4") for (int i = 0; i < 8; i += 4) for (int j = i; j < i + 2; j++) {
        v[j] = FASTK_SHUFFLE(a[j], a[j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
        v[j + 2] = FASTK_SHUFFLE(a[j], a[j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    }
    _Pragma("GCC unroll 4") for (int i = 0; i < 4; i++) {
        V low = v[i], high = v[i + 4];
        v[i] = FASTK_SHUFFLE(low, high, 0, 1, 2, 3, 8, 9, 10, 11);
        v[i + 4] = FASTK_SHUFFLE(low, high, 4, 5, 6, 7, 12, 13, 14, 15);
    }
}

/* The same for codes of 4 or 2 words, 8 of which lie together. */
LANE void LEVEL(part_4)(V *v) {
    V a = FASTK_SHUFFLE(v[0], v[1], 0, 4, 8, 12, 1, 5, 9, 13),
      b = FASTK_SHUFFLE(v[0], v[1], 2, 6, 10, 14, 3, 7, 11, 15);
    V c = FASTK_SHUFFLE(v[2], v[3], 0, 4, 8, 12, 1, 5, 9, 13),
      d = FASTK_SHUFFLE(v[2], v[3], 2, 6, 10, 14, 3, 7, 11, 15);
    v[0] = FASTK_SHUFFLE(a, c, 0, 1, 2, 3, 8, 9, 10, 11);
    v[1] = FASTK_SHUFFLE(a, c, 4, 5, 6, 7, 12, 13, 14, 15);
    v[2] = FASTK_SHUFFLE(b, d, 0, 1, 2, 3, 8, 9, 10, 11);
    v[3] = FASTK_SHUFFLE(b, d, 4, 5, 6, 7, 12, 13, 14, 15);
}
LANE void LEVEL(part_2)(V *v) {
    V a = v[0];
    v[0] = FASTK_SHUFFLE(a, v[1], 0, 2, 4, 6, 8, 10, 12, 14);
    v[1] = FASTK_SHUFFLE(a, v[1], 1, 3, 5, 7, 9, 11, 13, 15);
}

__attribute__((noinline)) TARGET static size_t LEVEL(transpose)(const uint8_t *code, intptr_t step, size_t codes,
                                                                size_t words, uint64_t *block, size_t stride) {
    int together = step == (intptr_t)(words * sizeof *block) && (words == 1 || words == 2 || words == 4);
    if (words % WIDTH != 0 && !together)
        return 0;
    size_t whole = codes / WIDTH * WIDTH;
    for (size_t c = 0; c < whole; c += WIDTH) {
        const uint8_t *p = code + (intptr_t)c * step;
        uint64_t *out = block + c;
        V v[8];
        for (size_t w = 0; !together && w < words; w += WIDTH) {
            _Pragma("GCC unroll 8") for (int i = 0; i < 8; i++) v[i] =
                LEVEL(load_bytes)(p + (intptr_t)i * step + w * sizeof *out);
            LEVEL(transpose_8)(v);
            _Pragma("GCC unroll 8") for (size_t i = 0; i < 8; i++) LEVEL(store)(out + (w + i) * stride, v[i]);
        }
        for (size_t w = 0; together && w < words; w++)
            v[w] = LEVEL(load_bytes)(p + w * sizeof *v);
        if (words == 4)
            LEVEL(part_4)(v);
        else if (words == 2)
            LEVEL(part_2)(v);
        for (size_t w = 0; together && w < words; w++)
            LEVEL(store)(out + w * stride, v[w]);
    }
    return whole;
}
#define TRANSPOSE LEVEL(transpose)
#else
#define TRANSPOSE NULL
#endif
static const struct distances LEVEL(kernels) = {LEVEL(distances), LEVEL(in_place), TRANSPOSE, WIDTH};

#undef TRANSPOSE
#undef BY_BYTES
#undef V
#undef LANE
#undef WIDTH
#undef TARGET
#undef LANE_BYTES
#undef LEVEL
#undef FASTK_POPCOUNT
