/* Kernels that multiply rows by structured random matrices, for one width of floats: included with BITS.
 * Bodies are named as FASTK_STAMP calls them; their parameters are listed in project.c. */
#if BITS == 32
#define REAL float
#define NAME(name) name##_f32
#define BODY(name) name##_f32_body
#define WORD uint32_t
#define TRANSFORM fastk_hadamard_f32_of
#define TRANSFORMS hadamard_f32
#else
#define REAL double
#define NAME(name) name##_f64
#define BODY(name) name##_f64_body
#define WORD uint64_t
#define TRANSFORM fastk_hadamard_f64_of
#define TRANSFORMS hadamard_f64
#endif
#define ELEMENT(p, i, step) (*(const REAL *)((const char *)(p) + (intptr_t)(i) * (step)))

/* Signs of rotated rows, for as many blocks as there are bits for. */
FASTK_INLINE void BODY(simhash)(int level, SIMHASH_PARAMS(REAL)) {
    if (p < 2 || (p & (p - 1)) != 0)
        return;
    const TRANSFORMS *at = TRANSFORM[level];
    bits = bits < 8 * bytes ? bits : 8 * bytes;
    size_t blocks = table_size / 3 / p;
    for (size_t row = 0; row < rows; row++) {
        const char *from = (const char *)x + (intptr_t)row * x_step0;
        uint8_t *to = code + (intptr_t)row * code_step0;
        for (size_t i = 0; i < bytes; i++)
            to[(intptr_t)i * code_step1] = 0;
        for (size_t block = 0; block < blocks && block * p < bits; block++) {
            size_t first = block * p, count = bits - first < p ? bits - first : p;
            NAME(rounds)(at, from, x_step0, x_step1, d, table + block * 3 * p, work, p);
            if (p >= 8)
                at->pack(work, count, to + (intptr_t)(first / 8) * code_step1, code_step1);
            else
                for (size_t j = 0; j < count; j++)
                    to[(intptr_t)((first + j) / 8) * code_step1] |= (uint8_t)((work[j] >= 0) << (first + j) % 8);
        }
    }
}

/* Rows of a subsampled transform: out[i] = (H D x)[sample[i]] * scale. */
FASTK_INLINE void BODY(srht)(int level, SRHT_PARAMS(REAL)) {
    if (p == 0 || (p & (p - 1)) != 0)
        return;
    for (size_t row = 0; row < rows; row++) {
        NAME(flipped)(TRANSFORM[level], (const char *)x + (intptr_t)row * x_step0, x_step1, d, sign, work, p);
        char *to = (char *)out + (intptr_t)row * out_step0;
        for (size_t i = 0; i < k; i++)
            *(REAL *)(to + (intptr_t)i * out_step1) = work[sample[i] & (p - 1)] * *scale;
    }
}

/* A sparse matrix of +1 and -1 times rows, `TOGETHER` of them side by side in vectors: start[i] .. start[i + 1] are the
 * entries of component i, column << 1 | negative. Each sum goes from +0 over the entries in order. */
typedef REAL NAME(vector) __attribute__((vector_size(64)));
typedef WORD NAME(words) __attribute__((vector_size(64)));
enum { NAME(TOGETHER) = 4 * 64 / (BITS / 8) };
#define TOGETHER NAME(TOGETHER)

FASTK_INLINE void NAME(transpose)(const char *x, intptr_t step0, intptr_t step1, size_t rows, size_t d, REAL *out) {
    enum { TILE = 16 };
    for (size_t from = 0; from < d; from += TILE) {
        size_t to = from + TILE < d ? from + TILE : d;
        for (size_t row = 0; row < TOGETHER; row++)
            for (size_t j = from; j < to; j++)
                out[j * TOGETHER + row] = row < rows ? ELEMENT(x + (intptr_t)row * step0, j, step1) : 0;
    }
}

FASTK_INLINE size_t BODY(sparse_project)(int level, SPARSE_PARAMS(REAL)) {
    (void)level;
    enum { LINE = 64 / sizeof(REAL) };
    size_t needed = d * TOGETHER + LINE;
    if (room < needed || k1 <= k || (uint64_t)start[k] > nonzeros)
        return needed;
    REAL *columns = work + (LINE - (uintptr_t)work / sizeof *work % LINE) % LINE;
    for (size_t row = 0; row < rows; row += TOGETHER) {
        size_t count = rows - row < TOGETHER ? rows - row : TOGETHER;
        NAME(transpose)((const char *)x + (intptr_t)row * x_step0, x_step0, x_step1, count, d, columns);
        for (size_t i = 0; i < k; i++) {
            NAME(vector) a = {0}, b = {0}, c = {0}, e = {0};
            for (int64_t n = start[i]; n < start[i + 1]; n++) {
                const REAL *column = columns + (size_t)(entry[n] >> 1) * TOGETHER;
                NAME(words) v[4], sign = (NAME(words)){0} + ((WORD)(entry[n] & 1) << (BITS - 1));
                memcpy(v, column, sizeof v);
                a += (NAME(vector))(v[0] ^ sign);
                b += (NAME(vector))(v[1] ^ sign);
                c += (NAME(vector))(v[2] ^ sign);
                e += (NAME(vector))(v[3] ^ sign);
            }
            REAL sums[TOGETHER];
            memcpy(sums, &a, sizeof a);
            memcpy(sums + TOGETHER / 4, &b, sizeof b);
            memcpy(sums + TOGETHER / 2, &c, sizeof c);
            memcpy(sums + TOGETHER / 4 * 3, &e, sizeof e);
            char *to = (char *)out + (intptr_t)row * out_step0 + (intptr_t)i * out_step1;
            for (size_t j = 0; j < count; j++, to += out_step0)
                *(REAL *)to = sums[j] * *scale;
        }
    }
    return needed;
}

/* The same for rows that are sparse themselves, the matrix by columns: entry = component << 1 | negative. */
FASTK_INLINE void BODY(sparse_project_csr)(int level, SPARSE_CSR_PARAMS(REAL)) {
    (void)level;
    if (rows1 <= rows || (uint64_t)start[rows] > nnz || d1 == 0 || (uint64_t)first[d1 - 1] > nonzeros)
        return;
    for (size_t row = 0; row < rows; row++) {
        char *to = (char *)out + (intptr_t)row * out_step0;
        for (size_t i = 0; i < k; i++)
            *(REAL *)(to + (intptr_t)i * out_step1) = 0;
        for (int64_t at = start[row]; at < start[row + 1]; at++) {
            if ((uint64_t)column[at] >= d1 - 1)
                continue;
            for (int64_t n = first[column[at]]; n < first[column[at] + 1]; n++)
                *(REAL *)(to + (intptr_t)(entry[n] >> 1) * out_step1) += entry[n] & 1 ? -data[at] : data[at];
        }
        for (size_t i = 0; i < k; i++)
            *(REAL *)(to + (intptr_t)i * out_step1) *= *scale;
    }
}

FASTK_INLINE void BODY(pack_signs)(int level, PACK_PARAMS(REAL)) {
    enum { PIECE = 512 };
    REAL piece[PIECE];
    n = n < 8 * bytes ? n : 8 * bytes;
    for (size_t row = 0; row < rows; row++) {
        const char *from = (const char *)x + (intptr_t)row * x_step0;
        uint8_t *to = code + (intptr_t)row * code_step0;
        for (size_t i = n / 8; i < bytes; i++)
            to[(intptr_t)i * code_step1] = 0;
        for (size_t i = 0; i < n; i += PIECE) {
            size_t count = n - i < PIECE ? n - i : PIECE;
            const REAL *values = piece;
            if (x_step1 == sizeof *piece)
                values = (const REAL *)from + i;
            else
                for (size_t j = 0; j < count; j++)
                    piece[j] = ELEMENT(from, i + j, x_step1);
            TRANSFORM[level]->pack(values, count, to + (intptr_t)(i / 8) * code_step1, code_step1);
        }
    }
}

#undef ELEMENT
#undef REAL
#undef WORD
#undef TRANSFORM
#undef TRANSFORMS
#undef TOGETHER
#undef NAME
#undef BODY
#undef BITS
