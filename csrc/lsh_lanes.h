/* Dot products of a query with many rows, of floats and of small integers, at one ISA level.
 *
 * Included with TARGET, LANE_BYTES (of a vector), ROWS (that are in registers at a time) and LEVEL(name). Element j of
 * a row belongs to lane j mod 16, whatever the vectors; each lane is a sum from +0 of rounded products in increasing
 * order of j, and the lanes are added as i and i + 8, i and i + 4, i and i + 2, 0 and 1.
 */
#define V LEVEL(vector)
typedef float V __attribute__((vector_size(LANE_BYTES)));
enum { LEVEL(WIDTH) = LANE_BYTES / sizeof(float), LEVEL(VECTORS) = LANES / LEVEL(WIDTH) };
#define WIDTH LEVEL(WIDTH)
#define VECTORS LEVEL(VECTORS)
#define EACH_ROW _Pragma("GCC unroll 8") for (int r = 0; r < ROWS; r++)
#define EACH_VECTOR _Pragma("GCC unroll 4") for (int v = 0; v < VECTORS; v++)

FASTK_INLINE TARGET V LEVEL(load)(const float *p) {
    V x;
    memcpy(&x, p, sizeof x);
    return x;
}

/* out[i] = query . row[position[i]], i < count, for rows of `width` elements, a multiple of 16. Of `listed` >= count
 * positions, those behind `count` are for a later call, and are prefetched. */
static TARGET __attribute__((noinline)) void LEVEL(dots)(const float *query, const float *row, size_t width,
                                                         const uint32_t *position, size_t count, size_t listed,
                                                         float *out) {
    const size_t fetched = width < FETCHED ? width : FETCHED;
    for (size_t first = 0; first < count; first += ROWS) {
        const float *at[ROWS];
        V sum[ROWS][VECTORS];
        EACH_ROW {
            size_t here = first + (size_t)r, next = here + AHEAD;
            at[r] = row + position[here < count ? here : first] * width;
            if (next < listed) {
                const float *later = row + position[next] * width;
                for (size_t j = 0; j < fetched; j += LANES)
                    __builtin_prefetch(later + j);
            }
            EACH_VECTOR sum[r][v] = (V){0};
        }
        for (size_t j = 0; j < width; j += LANES)
            EACH_VECTOR {
                V q = LEVEL(load)(query + j + v * WIDTH);
                EACH_ROW sum[r][v] += q * LEVEL(load)(at[r] + j + v * WIDTH);
            }
        EACH_ROW if (first + (size_t)r < count) {
            quarter_t s[4];
            memcpy(s, sum[r], sizeof s);
            s[0] = (s[0] + s[2]) + (s[1] + s[3]);
            out[first + (size_t)r] = (s[0][0] + s[0][2]) + (s[0][1] + s[0][3]);
        }
    }
}

/* out[i] = query . small[position[i]], exactly, for rows of `width` elements, a multiple of 64. */
static TARGET __attribute__((noinline)) void LEVEL(small_dots)(const int16_t *query, const int8_t *small, size_t width,
                                                               const uint32_t *position, size_t count, size_t listed,
                                                               int32_t *out) {
    const size_t fetched = width < FETCHED_BYTES ? width : FETCHED_BYTES;
    for (size_t i = 0; i < count; i++) {
        const int8_t *row = small + position[i] * width;
        if (i + AHEAD < listed) {
            const int8_t *later = small + position[i + AHEAD] * width;
            for (size_t j = 0; j < fetched; j += 64)
                __builtin_prefetch(later + j);
        }
#if defined(FASTK_X86) && LANE_BYTES == 64
        __m512i sum = _mm512_setzero_si512();
        for (size_t j = 0; j < width; j += 32) {
            __m512i x = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i_u *)(const void *)(row + j)));
            sum = _mm512_add_epi32(sum, _mm512_madd_epi16(x, _mm512_loadu_si512((const void *)(query + j))));
        }
        out[i] = _mm512_reduce_add_epi32(sum);
#elif defined(FASTK_X86) && LANE_BYTES == 32
        __m256i sums = _mm256_setzero_si256();
        for (size_t j = 0; j < width; j += 16) {
            __m256i x = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i_u *)(const void *)(row + j)));
            __m256i y = _mm256_loadu_si256((const __m256i_u *)(const void *)(query + j));
            sums = _mm256_add_epi32(sums, _mm256_madd_epi16(x, y));
        }
        int32_t sum[4];
        __m128i half = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
        _mm_storeu_si128((__m128i_u *)(void *)sum, half);
        out[i] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
#elif defined(FASTK_X86)
        /* Bytes go to the upper halves of words, and then down. */
        __m128i low = _mm_setzero_si128(), high = low;
        for (size_t j = 0; j < width; j += 16) {
            const __m128i_u *at = (const __m128i_u *)(const void *)(query + j);
            __m128i x = _mm_loadu_si128((const __m128i_u *)(const void *)(row + j));
            __m128i a = _mm_srai_epi16(_mm_unpacklo_epi8(x, x), 8), b = _mm_srai_epi16(_mm_unpackhi_epi8(x, x), 8);
            low = _mm_add_epi32(low, _mm_madd_epi16(a, _mm_loadu_si128(at)));
            high = _mm_add_epi32(high, _mm_madd_epi16(b, _mm_loadu_si128(at + 1)));
        }
        int32_t sum[4];
        _mm_storeu_si128((__m128i_u *)(void *)sum, _mm_add_epi32(low, high));
        out[i] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
#else
        int32_t sum = 0;
        for (size_t j = 0; j < width; j++)
            sum += row[j] * query[j];
        out[i] = sum;
#endif
    }
}

#undef V
#undef WIDTH
#undef VECTORS
#undef EACH_ROW
#undef EACH_VECTOR
#undef TARGET
#undef LANE_BYTES
#undef ROWS
#undef LEVEL
