/* Three ISA levels, one body a kernel.
 *
 * A kernel is an always-inline body `name_body(params)`. FASTK_STAMP compiles it once per level under that level's
 * target attribute and adds the exported `fastk_name`, which calls through the table that the probe filled.
 * FASTK_KERNELS is the one list of kernels on the C side; prototypes live in fastk.h alone.
 */
#ifndef FASTK_ISA_H
#define FASTK_ISA_H

#include <stddef.h>
#include <stdint.h>

#include "fastk.h"

#if !defined(__GNUC__)
#error "fastk needs GCC or Clang (GNU vector extensions, target attributes)"
#endif

#if defined(__FAST_MATH__)
#error "fastk gives the same bits everywhere: do not build it with -ffast-math"
#endif

#if defined(__AVX2__) || defined(__AVX512F__)
#error "compile fastk with the target's default flags: the levels are chosen at run time"
#endif

#define FASTK_KERNELS(X)                                                                                               \
    X(philox_fill)                                                                                                     \
    X(find_byte)                                                                                                       \
    X(rfind_byte)                                                                                                      \
    X(count_byte)                                                                                                      \
    X(split_delimited)                                                                                                 \
    X(split_frames)                                                                                                    \
    X(number_records)                                                                                                  \
    X(bucket_records)                                                                                                  \
    X(scatter_count)                                                                                                   \
    X(scatter_place)                                                                                                   \
    X(records_checksum)                                                                                                \
    X(checksum_blocks)                                                                                                 \
    X(checksum_end)                                                                                                    \
    X(frames_index)                                                                                                    \
    X(entries_sort)                                                                                                    \
    X(gather)                                                                                                          \
    X(frames_measure)                                                                                                  \
    X(frames_checksum)                                                                                                 \
    X(mitchell_loop)                                                                                                   \
    X(mitchell_gemm_f32)                                                                                               \
    X(mitchell_gemm_f64)                                                                                               \
    X(mitchell_gemm_i32)                                                                                               \
    X(mitchell_conv_f32)                                                                                               \
    X(mitchell_conv_f64)                                                                                               \
    X(mitchell_conv_i32)                                                                                               \
    X(taylor_plain_f16)                                                                                                \
    X(taylor_plain_bf16)                                                                                               \
    X(taylor_plain_f32)                                                                                                \
    X(taylor_plain_f64)                                                                                                \
    X(taylor_rows_f16)                                                                                                 \
    X(taylor_rows_bf16)                                                                                                \
    X(taylor_rows_f32)                                                                                                 \
    X(taylor_rows_f64)                                                                                                 \
    X(taylor_loss_f16)                                                                                                 \
    X(taylor_loss_bf16)                                                                                                \
    X(taylor_loss_f32)                                                                                                 \
    X(taylor_loss_f64)                                                                                                 \
    X(taylor_loss_vjp_f16)                                                                                             \
    X(taylor_loss_vjp_bf16)                                                                                            \
    X(taylor_loss_vjp_f32)                                                                                             \
    X(taylor_loss_vjp_f64)                                                                                             \
    X(philox_rows)                                                                                                     \
    X(philox_normal)                                                                                                   \
    X(lsh_unit)                                                                                                        \
    X(lsh_project)                                                                                                     \
    X(lsh_build)                                                                                                       \
    X(lsh_small)                                                                                                       \
    X(lsh_probes)                                                                                                      \
    X(lsh_query)                                                                                                       \
    X(hadamard_f32)                                                                                                    \
    X(hadamard_f64)                                                                                                    \
    X(simhash_f32)                                                                                                     \
    X(simhash_f64)                                                                                                     \
    X(srht_f32)                                                                                                        \
    X(srht_f64)                                                                                                        \
    X(sparse_project_f32)                                                                                              \
    X(sparse_project_f64)                                                                                              \
    X(sparse_project_csr_f32)                                                                                          \
    X(sparse_project_csr_f64)                                                                                          \
    X(pack_signs_f32)                                                                                                  \
    X(pack_signs_f64)                                                                                                  \
    X(hamming_pairs)                                                                                                   \
    X(hamming_topk)                                                                                                    \
    X(hamming_range)

enum { FASTK_BASE = 0, FASTK_V3 = 1, FASTK_V4 = 2 };

#define FASTK_INLINE static inline __attribute__((always_inline))
#define FASTK_LIKELY(x) __builtin_expect(!!(x), 1)
#define FASTK_UNLIKELY(x) __builtin_expect(!!(x), 0)

#if defined(__x86_64__) && !defined(FASTK_PORTABLE)
#define FASTK_X86 1
#define FASTK_FEATURES_V3 "avx,avx2,bmi,bmi2,f16c,fma,lzcnt,movbe,popcnt"
#define FASTK_FEATURES_V4 FASTK_FEATURES_V3 ",avx512f,avx512bw,avx512cd,avx512dq,avx512vl"
#define FASTK_TARGET_V3 __attribute__((target(FASTK_FEATURES_V3)))
#define FASTK_TARGET_V4 __attribute__((target(FASTK_FEATURES_V4)))
#endif

/* Before a loop whose iterations are independent: what it writes is what it reads, element by element, or apart. */
#if defined(__clang__)
#define FASTK_LANES _Pragma("clang loop vectorize(assume_safety)")
#else
#define FASTK_LANES _Pragma("GCC ivdep")
#endif

/* Elements of two vectors of integers, by number. */
#if defined(__clang__) || __GNUC__ >= 12
#define FASTK_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define FASTK_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (__typeof__(a)){__VA_ARGS__})
#endif

/* The type of a table entry is the type of the exported function, so a prototype is written once, in fastk.h. */
#define FASTK_MEMBER(name) __typeof__(&fastk_##name) name;
struct fastk_table {
    FASTK_KERNELS(FASTK_MEMBER)
};
#undef FASTK_MEMBER
extern struct fastk_table fastk_active;

#define FASTK_DECLARE_LEVELS(name)                                                                                     \
    __typeof__(fastk_##name) fastk_##name##_base;                                                                      \
    __typeof__(fastk_##name) fastk_##name##_v3;                                                                        \
    __typeof__(fastk_##name) fastk_##name##_v4;
FASTK_KERNELS(FASTK_DECLARE_LEVELS)
#undef FASTK_DECLARE_LEVELS

/* Whether vectors of the highest level count bits (AVX512_VPOPCNTDQ), which not every processor of that level does;
 * set with the level. */
extern int fastk_vectors_count;

/* FASTK_ARGS(a, b) gives a body its level as a first, constant argument. */
#define FASTK_ARGS(...) __VA_ARGS__)
#define FASTK_CALL(name, level, args) name##_body(level, FASTK_ARGS args

#ifdef FASTK_X86
#define FASTK_STAMP(ret, name, params, args)                                                                           \
    ret fastk_##name##_base params { return FASTK_CALL(name, FASTK_BASE, args); }                                      \
    FASTK_TARGET_V3 ret fastk_##name##_v3 params { return FASTK_CALL(name, FASTK_V3, args); }                          \
    FASTK_TARGET_V4 ret fastk_##name##_v4 params { return FASTK_CALL(name, FASTK_V4, args); }                          \
    ret fastk_##name params { return fastk_active.name args; }
#else
#define FASTK_STAMP(ret, name, params, args)                                                                           \
    ret fastk_##name##_base params { return FASTK_CALL(name, FASTK_BASE, args); }                                      \
    ret fastk_##name params { return fastk_active.name args; }
#endif

#endif
