/* Every function that the compiled core exports, once. cffi reads this file, so it holds plain prototypes.
 *
 * Pointers are to memory of the caller's; counts are in elements, positions and sizes in bytes.
 */
#ifndef FASTK_H
#define FASTK_H
#ifndef FASTK_CDEF
#include <stddef.h>
#include <stdint.h>
#endif

int fastk_isa_max(void);
int fastk_isa_select(int level);
const char *fastk_compiler(void);

void fastk_philox_fill(uint64_t key0, uint64_t key1, uint64_t start, uint64_t *out, size_t n);

void fastk_philox_rows(uint64_t key0, uint64_t key1, uint64_t tag, uint64_t first_row, uint64_t first, uint64_t *out,
                       size_t size, size_t n);
void fastk_philox_normal(uint64_t key0, uint64_t key1, uint64_t tag, uint64_t first_row, uint64_t first, double *out,
                         size_t size, size_t n);

size_t fastk_find_byte(const uint8_t *buf, size_t n, uint8_t byte);
size_t fastk_rfind_byte(const uint8_t *buf, size_t n, uint8_t byte);
size_t fastk_count_byte(const uint8_t *buf, size_t n, uint8_t byte);

size_t fastk_split_delimited(const uint8_t *buf, size_t n, const uint8_t *delimiter, size_t width, size_t lines,
                             uint64_t *state, uint32_t *start, uint32_t *size, size_t capacity);
size_t fastk_split_frames(const uint8_t *buf, size_t n, unsigned gap_bits, uint64_t *state, uint32_t *start,
                          uint32_t *size, uint64_t *number, size_t capacity);

void fastk_number_records(uint64_t first, uint64_t *number, size_t m);
void fastk_bucket_records(const uint64_t *number, size_t m, uint64_t key0, uint64_t key1, const uint64_t *fanout,
                          size_t levels, size_t buckets, uint64_t least, uint64_t most, uint16_t *bucket);
void fastk_scatter_count(const uint8_t *buf, const uint32_t *start, const uint32_t *size, const uint64_t *number,
                         const uint16_t *bucket, size_t m, size_t buckets, unsigned gap_bits, uint32_t reference_size,
                         uint64_t *tally);
void fastk_scatter_place(const uint8_t *buf, const uint32_t *start, const uint32_t *size, const uint64_t *number,
                         const uint16_t *bucket, size_t m, unsigned gap_bits, uint32_t reference_size, uint64_t offset,
                         uint64_t *previous, uint64_t *position, size_t buckets, uint8_t *out);

void fastk_records_checksum(const uint8_t *buf, const uint32_t *start, const uint32_t *size, const uint16_t *bucket,
                            size_t m, size_t buckets, uint64_t *tally);
void fastk_checksum_blocks(const uint8_t *buf, size_t n, uint64_t *state);
void fastk_checksum_end(const uint8_t *tail, size_t n, uint64_t length, uint64_t *state);

size_t fastk_frames_index(const uint8_t *base, size_t n, uint64_t *segments, size_t count, unsigned gap_bits,
                          uint64_t *previous, uint64_t key0, uint64_t key1, const uint64_t *fanout, size_t levels,
                          uint64_t *entries, size_t capacity);
void fastk_entries_sort(uint64_t *entries, size_t m);
size_t fastk_gather(const uint8_t *base, const uint64_t *entries, size_t from, size_t to, unsigned gap_bits,
                    uint8_t *out, size_t capacity, uint64_t *written);
size_t fastk_frames_measure(const uint8_t *base, const uint64_t *entries, size_t from, size_t to, unsigned gap_bits,
                            uint64_t *bytes);
size_t fastk_frames_checksum(const uint8_t *base, const uint64_t *entries, size_t from, size_t to, unsigned gap_bits,
                             uint64_t *sum);

void fastk_mitchell_loop(char **args, const intptr_t *dimensions, const intptr_t *steps, void *data);
size_t fastk_mitchell_gemm_f32(const float *a, intptr_t a_step0, intptr_t a_step1, intptr_t a_step2, const float *b,
                               intptr_t b_step0, intptr_t b_step1, intptr_t b_step2, float *c, intptr_t c_step0,
                               intptr_t c_step1, intptr_t c_step2, size_t stack, size_t m, size_t n, size_t k,
                               int64_t bias, uint8_t refined, uint8_t *work, size_t room);
size_t fastk_mitchell_gemm_f64(const double *a, intptr_t a_step0, intptr_t a_step1, intptr_t a_step2, const double *b,
                               intptr_t b_step0, intptr_t b_step1, intptr_t b_step2, double *c, intptr_t c_step0,
                               intptr_t c_step1, intptr_t c_step2, size_t stack, size_t m, size_t n, size_t k,
                               int64_t bias, uint8_t refined, uint8_t *work, size_t room);
size_t fastk_mitchell_gemm_i32(const float *a, intptr_t a_step0, intptr_t a_step1, intptr_t a_step2, const float *b,
                               intptr_t b_step0, intptr_t b_step1, intptr_t b_step2, int32_t *c, intptr_t c_step0,
                               intptr_t c_step1, intptr_t c_step2, size_t stack, size_t m, size_t n, size_t k,
                               int64_t bias, uint8_t refined, uint8_t *work, size_t room);
size_t fastk_mitchell_conv_f32(const float *x, intptr_t x_step0, intptr_t x_step1, intptr_t x_step2, intptr_t x_step3,
                               const float *a, intptr_t a_step0, intptr_t a_step1, float *c, intptr_t c_step0,
                               intptr_t c_step1, intptr_t c_step2, size_t images, size_t channels, size_t h, size_t w,
                               size_t m, size_t k, size_t n, size_t first, size_t groups, size_t kernel_h,
                               size_t kernel_w, size_t out_w, size_t stride_h, size_t stride_w, size_t pad_h,
                               size_t pad_w, size_t dilation_h, size_t dilation_w, int64_t bias, uint8_t refined,
                               uint8_t *work, size_t room);
size_t fastk_mitchell_conv_f64(const double *x, intptr_t x_step0, intptr_t x_step1, intptr_t x_step2, intptr_t x_step3,
                               const double *a, intptr_t a_step0, intptr_t a_step1, double *c, intptr_t c_step0,
                               intptr_t c_step1, intptr_t c_step2, size_t images, size_t channels, size_t h, size_t w,
                               size_t m, size_t k, size_t n, size_t first, size_t groups, size_t kernel_h,
                               size_t kernel_w, size_t out_w, size_t stride_h, size_t stride_w, size_t pad_h,
                               size_t pad_w, size_t dilation_h, size_t dilation_w, int64_t bias, uint8_t refined,
                               uint8_t *work, size_t room);
size_t fastk_mitchell_conv_i32(const float *x, intptr_t x_step0, intptr_t x_step1, intptr_t x_step2, intptr_t x_step3,
                               const float *a, intptr_t a_step0, intptr_t a_step1, int32_t *c, intptr_t c_step0,
                               intptr_t c_step1, intptr_t c_step2, size_t images, size_t channels, size_t h, size_t w,
                               size_t m, size_t k, size_t n, size_t first, size_t groups, size_t kernel_h,
                               size_t kernel_w, size_t out_w, size_t stride_h, size_t stride_w, size_t pad_h,
                               size_t pad_w, size_t dilation_h, size_t dilation_w, int64_t bias, uint8_t refined,
                               uint8_t *work, size_t room);

void fastk_taylor_plain_f16(uint8_t op, const uint16_t *x, uint16_t *out, size_t size, size_t n, const double *plan);
void fastk_taylor_plain_bf16(uint8_t op, const uint16_t *x, uint16_t *out, size_t size, size_t n, const double *plan);
void fastk_taylor_plain_f32(uint8_t op, const float *x, float *out, size_t size, size_t n, const double *plan);
void fastk_taylor_plain_f64(uint8_t op, const double *x, double *out, size_t size, size_t n, const double *plan);
void fastk_taylor_rows_f16(uint8_t op, const uint16_t *x, intptr_t x_step0, intptr_t x_step1, intptr_t x_step2,
                           const uint16_t *g, intptr_t g_step0, intptr_t g_step1, intptr_t g_step2,
                           const uint8_t *where, intptr_t where_step0, intptr_t where_step1, intptr_t where_step2,
                           uint16_t *out, intptr_t out_step0, intptr_t out_step1, intptr_t out_step2, size_t rows,
                           size_t m, size_t n, uint8_t masked, const double *plan);
void fastk_taylor_rows_bf16(uint8_t op, const uint16_t *x, intptr_t x_step0, intptr_t x_step1, intptr_t x_step2,
                            const uint16_t *g, intptr_t g_step0, intptr_t g_step1, intptr_t g_step2,
                            const uint8_t *where, intptr_t where_step0, intptr_t where_step1, intptr_t where_step2,
                            uint16_t *out, intptr_t out_step0, intptr_t out_step1, intptr_t out_step2, size_t rows,
                            size_t m, size_t n, uint8_t masked, const double *plan);
void fastk_taylor_rows_f32(uint8_t op, const float *x, intptr_t x_step0, intptr_t x_step1, intptr_t x_step2,
                           const float *g, intptr_t g_step0, intptr_t g_step1, intptr_t g_step2, const uint8_t *where,
                           intptr_t where_step0, intptr_t where_step1, intptr_t where_step2, float *out,
                           intptr_t out_step0, intptr_t out_step1, intptr_t out_step2, size_t rows, size_t m, size_t n,
                           uint8_t masked, const double *plan);
void fastk_taylor_rows_f64(uint8_t op, const double *x, intptr_t x_step0, intptr_t x_step1, intptr_t x_step2,
                           const double *g, intptr_t g_step0, intptr_t g_step1, intptr_t g_step2, const uint8_t *where,
                           intptr_t where_step0, intptr_t where_step1, intptr_t where_step2, double *out,
                           intptr_t out_step0, intptr_t out_step1, intptr_t out_step2, size_t rows, size_t m, size_t n,
                           uint8_t masked, const double *plan);
void fastk_taylor_loss_f16(const uint16_t *x, intptr_t x_step0, intptr_t x_step1, const int64_t *label, double *loss,
                           size_t rows, size_t n, const double *plan);
void fastk_taylor_loss_bf16(const uint16_t *x, intptr_t x_step0, intptr_t x_step1, const int64_t *label, double *loss,
                            size_t rows, size_t n, const double *plan);
void fastk_taylor_loss_f32(const float *x, intptr_t x_step0, intptr_t x_step1, const int64_t *label, double *loss,
                           size_t rows, size_t n, const double *plan);
void fastk_taylor_loss_f64(const double *x, intptr_t x_step0, intptr_t x_step1, const int64_t *label, double *loss,
                           size_t rows, size_t n, const double *plan);
void fastk_taylor_loss_vjp_f16(const double *g, const uint16_t *x, intptr_t x_step0, intptr_t x_step1,
                               const int64_t *label, uint16_t *out, intptr_t out_step0, intptr_t out_step1, size_t rows,
                               size_t n, const double *plan);
void fastk_taylor_loss_vjp_bf16(const double *g, const uint16_t *x, intptr_t x_step0, intptr_t x_step1,
                                const int64_t *label, uint16_t *out, intptr_t out_step0, intptr_t out_step1,
                                size_t rows, size_t n, const double *plan);
void fastk_taylor_loss_vjp_f32(const double *g, const float *x, intptr_t x_step0, intptr_t x_step1,
                               const int64_t *label, float *out, intptr_t out_step0, intptr_t out_step1, size_t rows,
                               size_t n, const double *plan);
void fastk_taylor_loss_vjp_f64(const double *g, const double *x, intptr_t x_step0, intptr_t x_step1,
                               const int64_t *label, double *out, intptr_t out_step0, intptr_t out_step1, size_t rows,
                               size_t n, const double *plan);

void fastk_hadamard_f32(const float *x, float *out, size_t size, size_t n, size_t inner, uint8_t normalize);
void fastk_hadamard_f64(const double *x, double *out, size_t size, size_t n, size_t inner, uint8_t normalize);
void fastk_simhash_f32(const float *x, intptr_t x_step0, intptr_t x_step1, uint8_t *code, intptr_t code_step0,
                       intptr_t code_step1, const float *table, float *work, size_t rows, size_t d, size_t bytes,
                       size_t bits, size_t p, size_t table_size);
void fastk_simhash_f64(const double *x, intptr_t x_step0, intptr_t x_step1, uint8_t *code, intptr_t code_step0,
                       intptr_t code_step1, const double *table, double *work, size_t rows, size_t d, size_t bytes,
                       size_t bits, size_t p, size_t table_size);
void fastk_srht_f32(const float *x, intptr_t x_step0, intptr_t x_step1, float *out, intptr_t out_step0,
                    intptr_t out_step1, const float *sign, const uint32_t *sample, const float *scale, float *work,
                    size_t rows, size_t d, size_t k, size_t p);
void fastk_srht_f64(const double *x, intptr_t x_step0, intptr_t x_step1, double *out, intptr_t out_step0,
                    intptr_t out_step1, const double *sign, const uint32_t *sample, const double *scale, double *work,
                    size_t rows, size_t d, size_t k, size_t p);
size_t fastk_sparse_project_f32(const float *x, intptr_t x_step0, intptr_t x_step1, float *out, intptr_t out_step0,
                                intptr_t out_step1, const int64_t *start, const uint32_t *entry, const float *scale,
                                float *work, size_t rows, size_t d, size_t k, size_t k1, size_t nonzeros, size_t room);
size_t fastk_sparse_project_f64(const double *x, intptr_t x_step0, intptr_t x_step1, double *out, intptr_t out_step0,
                                intptr_t out_step1, const int64_t *start, const uint32_t *entry, const double *scale,
                                double *work, size_t rows, size_t d, size_t k, size_t k1, size_t nonzeros, size_t room);
void fastk_sparse_project_csr_f32(const float *data, const int64_t *column, const int64_t *start, float *out,
                                  intptr_t out_step0, intptr_t out_step1, const int64_t *first, const uint32_t *entry,
                                  const float *scale, size_t nnz, size_t rows1, size_t rows, size_t k, size_t d1,
                                  size_t nonzeros);
void fastk_sparse_project_csr_f64(const double *data, const int64_t *column, const int64_t *start, double *out,
                                  intptr_t out_step0, intptr_t out_step1, const int64_t *first, const uint32_t *entry,
                                  const double *scale, size_t nnz, size_t rows1, size_t rows, size_t k, size_t d1,
                                  size_t nonzeros);
void fastk_pack_signs_f32(const float *x, intptr_t x_step0, intptr_t x_step1, uint8_t *code, intptr_t code_step0,
                          intptr_t code_step1, size_t rows, size_t n, size_t bytes);
void fastk_pack_signs_f64(const double *x, intptr_t x_step0, intptr_t x_step1, uint8_t *code, intptr_t code_step0,
                          intptr_t code_step1, size_t rows, size_t n, size_t bytes);

size_t fastk_hamming_topk(const uint8_t *query, intptr_t query_step0, intptr_t query_step1, const uint8_t *code,
                          intptr_t code_step0, intptr_t code_step1, int32_t *distance, intptr_t distance_step0,
                          intptr_t distance_step1, int64_t *id, intptr_t id_step0, intptr_t id_step1, uint64_t *work,
                          size_t queries, size_t n, size_t bytes, size_t k, int64_t first, size_t room);
size_t fastk_hamming_range(const uint8_t *query, intptr_t query_step0, intptr_t query_step1, const uint8_t *code,
                           intptr_t code_step0, intptr_t code_step1, const int64_t *position, int64_t *count,
                           int32_t *distance, int64_t *id, uint64_t *work, size_t queries, size_t n, size_t bytes,
                           int64_t radius, int64_t first, size_t hits, size_t room);
void fastk_hamming_pairs(const uint8_t *a, intptr_t a_step0, intptr_t a_step1, const uint8_t *b, intptr_t b_step0,
                         intptr_t b_step1, int32_t *out, size_t rows, size_t bytes);

size_t fastk_lsh_unit(const float *x, intptr_t x_step0, intptr_t x_step1, float *out, size_t rows, size_t d,
                      size_t width, size_t size);
void fastk_lsh_project(const float *x, intptr_t x_step0, intptr_t x_step1, float *out, intptr_t out_step0,
                       intptr_t out_step1, const float *table, float *work, size_t rows, size_t d, size_t bits,
                       size_t p, size_t table_size);
size_t fastk_lsh_build(const uint8_t *code, uint32_t *start, uint32_t *position, uint64_t *key, size_t n, size_t bytes,
                       size_t tables, size_t first, size_t n_bits, size_t prefix, size_t code_size, size_t start_size,
                       size_t position_size, size_t key_size);
size_t fastk_lsh_probes(const float *projection, uint64_t *bucket, uint64_t *work, size_t rows, size_t tables,
                        size_t n_bits, size_t probes, size_t projection_size, size_t bucket_size, size_t room);
size_t fastk_lsh_small(const float *row, uint8_t *small, float *scale, size_t n, size_t width, size_t small_width,
                       size_t row_size, size_t small_size);
size_t fastk_lsh_query(const float *query, const uint64_t *bucket, const float *row, const uint8_t *small,
                       const float *scale, const int64_t *id, const uint64_t *removed, const uint32_t *start,
                       const uint32_t *position, const uint64_t *key, float *cosine, int64_t *neighbor,
                       int64_t *candidates, uint64_t *work, size_t queries, size_t tables, size_t probes, size_t k,
                       size_t width, size_t small_width, size_t n, size_t n_bits, size_t starts, size_t query_size,
                       size_t bucket_size, size_t row_size, size_t small_size, size_t scales, size_t words,
                       size_t start_size, size_t position_size, size_t key_size, size_t found, size_t room);

#endif
