/* Random matrices whose entries are pure functions of (seed, row, column), and products with them.
 *
 * Word j of row i of a matrix is word j of the Philox stream of (i, tag): see philox.h.
 */
#include <string.h>

#include "philox.h"
#include "rounds.h"

#define PHILOX_ROWS_PARAMS uint64_t key0, uint64_t key1, uint64_t tag, uint64_t first_row, uint64_t first

/* Words first .. first + n - 1 of the rows from first_row on. */
FASTK_INLINE void philox_rows_body(int level, PHILOX_ROWS_PARAMS, uint64_t *out, size_t size, size_t n) {
    (void)level;
    for (size_t row = 0; n != 0 && row < size / n; ++row, out += n) {
        for (size_t i = 0; i < n;) {
            philox_block_t block = philox_block_of(key0, key1, first_row + row, tag, (first + i) / 4);
            for (size_t j = (first + i) % 4; j < 4 && i < n; ++j)
                out[i++] = block.word[j];
        }
    }
}
FASTK_STAMP(void, philox_rows, (PHILOX_ROWS_PARAMS, uint64_t *out, size_t size, size_t n),
            (key0, key1, tag, first_row, first, out, size, n))

/* Polynomials of algorithm AS 241 (M. J. Wichura 1988, "The percentage points of the normal distribution"), lowest
 * power first; relative error about 1e-16. */
enum { TERMS = 8, LOG_TERMS = 12 };
static const double CENTRE[2][TERMS] = {
    {3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3, 1.3731693765509461125e4,
     4.5921953931549871457e4, 6.7265770927008700853e4, 3.3430575583588128105e4, 2.5090809287301226727e3},
    {1, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3, 2.1213794301586595867e4,
     3.9307895800092710610e4, 2.8729085735721942674e4, 5.2264952788528545610e3}};
static const double NEAR[2][TERMS] = {
    {1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0, 3.64784832476320460504e0,
     1.27045825245236838258e0, 2.41780725177450611770e-1, 2.27238449892691845833e-2, 7.74545014278341407640e-4},
    {1, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1, 1.48103976427480074590e-1,
     1.51986665636164571966e-2, 5.47593808499534494600e-4, 1.05075007164441684324e-9}};
static const double FAR[2][TERMS] = {
    {6.65790464350110377720e0, 5.46378491116411436990e0, 1.78482653991729133580e0, 2.96560571828504891230e-1,
     2.65321895265761230930e-2, 1.24266094738807843860e-3, 2.71155556874348757815e-5, 2.01033439929228813265e-7},
    {1, 5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2, 7.86869131145613259100e-4,
     1.84631831751005468180e-5, 1.42151175831644588870e-7, 2.04426310338993978564e-15}};
static const double ARTANH[LOG_TERMS] = {1.0,      1.0 / 3,  1.0 / 5,  1.0 / 7,  1.0 / 9,  1.0 / 11,
                                         1.0 / 13, 1.0 / 15, 1.0 / 17, 1.0 / 19, 1.0 / 21, 1.0 / 23};
#define LN2 0.6931471805599453
#define SQRT2 1.4142135623730951

FASTK_INLINE double polynomial(const double *c, int terms, double x) {
    double sum = c[terms - 1];
    for (int i = terms - 2; i >= 0; --i)
        sum = sum * x + c[i];
    return sum;
}

FASTK_INLINE double quotient(const double c[2][TERMS], double x) {
    return polynomial(c[0], TERMS, x) / polynomial(c[1], TERMS, x);
}

/* log of a positive normal number, by 2 artanh((m - 1) / (m + 1)): the same bits with every C library. */
FASTK_INLINE double log_of(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    double exponent = (double)((int64_t)(bits >> 52) - 1023), m;
    bits = (bits & UINT64_C(0xfffffffffffff)) | UINT64_C(0x3ff0000000000000);
    memcpy(&m, &bits, sizeof m);
    if (m > SQRT2) {
        m *= 0.5;
        exponent += 1;
    }
    double s = (m - 1) / (m + 1);
    return exponent * LN2 + 2 * s * polynomial(ARTANH, LOG_TERMS, s * s);
}

/* The number that a normal variable exceeds with probability (u + 1/2) 2^-53 < 1/2, u being 52 bits of the word; its
 * top bit is the sign. */
FASTK_INLINE double normal_of(uint64_t word) {
    double p = ((double)(int64_t)(word >> 11 & UINT64_C(0xfffffffffffff)) + 0.5) * 0x1p-53;
    double q = 0.5 - p, magnitude;
    if (FASTK_LIKELY(q <= 0.425)) {
        magnitude = q * quotient(CENTRE, 0.180625 - q * q);
    } else {
        double t = __builtin_sqrt(-log_of(p)); /* IEEE 754 fixes every bit of a square root */
        magnitude = t <= 5 ? quotient(NEAR, t - 1.6) : quotient(FAR, t - 5);
    }
    return word >> 63 ? -magnitude : magnitude;
}

FASTK_INLINE void philox_normal_body(int level, PHILOX_ROWS_PARAMS, double *out, size_t size, size_t n) {
    (void)level;
    for (size_t row = 0; n != 0 && row < size / n; ++row, out += n) {
        for (size_t i = 0; i < n;) {
            philox_block_t block = philox_block_of(key0, key1, first_row + row, tag, (first + i) / 4);
            for (size_t j = (first + i) % 4; j < 4 && i < n; ++j)
                out[i++] = normal_of(block.word[j]);
        }
    }
}
FASTK_STAMP(void, philox_normal, (PHILOX_ROWS_PARAMS, double *out, size_t size, size_t n),
            (key0, key1, tag, first_row, first, out, size, n))

#define SIMHASH_PARAMS(real)                                                                                           \
    const real *x, intptr_t x_step0, intptr_t x_step1, uint8_t *code, intptr_t code_step0, intptr_t code_step1,        \
        const real *table, real *work, size_t rows, size_t d, size_t bytes, size_t bits, size_t p, size_t table_size
#define SRHT_PARAMS(real)                                                                                              \
    const real *x, intptr_t x_step0, intptr_t x_step1, real *out, intptr_t out_step0, intptr_t out_step1,              \
        const real *sign, const uint32_t *sample, const real *scale, real *work, size_t rows, size_t d, size_t k,      \
        size_t p
#define SPARSE_PARAMS(real)                                                                                            \
    const real *x, intptr_t x_step0, intptr_t x_step1, real *out, intptr_t out_step0, intptr_t out_step1,              \
        const int64_t *start, const uint32_t *entry, const real *scale, real *work, size_t rows, size_t d, size_t k,   \
        size_t k1, size_t nonzeros, size_t room
#define SPARSE_CSR_PARAMS(real)                                                                                        \
    const real *data, const int64_t *column, const int64_t *start, real *out, intptr_t out_step0, intptr_t out_step1,  \
        const int64_t *first, const uint32_t *entry, const real *scale, size_t nnz, size_t rows1, size_t rows,         \
        size_t k, size_t d1, size_t nonzeros
#define PACK_PARAMS(real)                                                                                              \
    const real *x, intptr_t x_step0, intptr_t x_step1, uint8_t *code, intptr_t code_step0, intptr_t code_step1,        \
        size_t rows, size_t n, size_t bytes

#define BITS 32
#include "project_kernels.h"
#define BITS 64
#include "project_kernels.h"

#define STAMPS(kind, real)                                                                                             \
    FASTK_STAMP(void, simhash_##kind, (SIMHASH_PARAMS(real)),                                                          \
                (x, x_step0, x_step1, code, code_step0, code_step1, table, work, rows, d, bytes, bits, p, table_size)) \
    FASTK_STAMP(void, srht_##kind, (SRHT_PARAMS(real)),                                                                \
                (x, x_step0, x_step1, out, out_step0, out_step1, sign, sample, scale, work, rows, d, k, p))            \
    FASTK_STAMP(                                                                                                       \
        size_t, sparse_project_##kind, (SPARSE_PARAMS(real)),                                                          \
        (x, x_step0, x_step1, out, out_step0, out_step1, start, entry, scale, work, rows, d, k, k1, nonzeros, room))   \
    FASTK_STAMP(                                                                                                       \
        void, sparse_project_csr_##kind, (SPARSE_CSR_PARAMS(real)),                                                    \
        (data, column, start, out, out_step0, out_step1, first, entry, scale, nnz, rows1, rows, k, d1, nonzeros))      \
    FASTK_STAMP(void, pack_signs_##kind, (PACK_PARAMS(real)),                                                          \
                (x, x_step0, x_step1, code, code_step0, code_step1, rows, n, bytes))
STAMPS(f32, float)
STAMPS(f64, double)
