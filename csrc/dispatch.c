/* The probe (what the CPU has and the operating system saves) and the table of the active level's kernels. */
#include "isa.h"

#ifdef FASTK_X86
#include <cpuid.h>

enum {
    LEAF1_ECX_V3 =
        1u << 12 | 1u << 22 | 1u << 23 | 1u << 27 | 1u << 28 | 1u << 29, /* fma movbe popcnt osxsave avx f16c */
    LEAF7_EBX_V3 = 1u << 3 | 1u << 5 | 1u << 8,                          /* bmi avx2 bmi2 */
    LEAFX_ECX_V3 = 1u << 5,                                              /* lzcnt */
    LEAF7_ECX_VPOPCNTDQ = 1u << 14,
    XCR0_V3 = 0x06, /* xmm and ymm state */
    XCR0_V4 = 0xe6  /* and opmask, zmm0-15, zmm16-31 */
};
static const uint32_t LEAF7_EBX_V4 = 1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31; /* f dq cd bw vl */

static uint32_t xcr0(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static int probe(void) {
    uint32_t a, b, c, d, leaf7_ebx;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & LEAF1_ECX_V3) != LEAF1_ECX_V3)
        return FASTK_BASE;
    uint32_t saved = xcr0();
    if (!__get_cpuid_count(7, 0, &a, &leaf7_ebx, &c, &d) || (leaf7_ebx & LEAF7_EBX_V3) != LEAF7_EBX_V3)
        return FASTK_BASE;
    if (!__get_cpuid(0x80000001u, &a, &b, &c, &d) || (c & LEAFX_ECX_V3) != LEAFX_ECX_V3)
        return FASTK_BASE;
    if ((saved & XCR0_V3) != XCR0_V3)
        return FASTK_BASE;
    if ((leaf7_ebx & LEAF7_EBX_V4) != LEAF7_EBX_V4 || (saved & XCR0_V4) != XCR0_V4)
        return FASTK_V3;
    return FASTK_V4;
}

static int counts_words(void) {
    uint32_t a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (c & LEAF7_ECX_VPOPCNTDQ) != 0;
}
#else
static int probe(void) { return FASTK_BASE; }
static int counts_words(void) { return 0; }
#endif

#define ENTRY_BASE(name) .name = fastk_##name##_base,
#define ENTRY_V3(name) .name = fastk_##name##_v3,
#define ENTRY_V4(name) .name = fastk_##name##_v4,

static const struct fastk_table levels[] = {
    {FASTK_KERNELS(ENTRY_BASE)},
#ifdef FASTK_X86
    {FASTK_KERNELS(ENTRY_V3)},
    {FASTK_KERNELS(ENTRY_V4)},
#endif
};

/* Usable before any selection: the base level runs everywhere. */
struct fastk_table fastk_active = {FASTK_KERNELS(ENTRY_BASE)};

int fastk_vectors_count = 0;

int fastk_isa_max(void) { return probe(); }

int fastk_isa_select(int level) {
    if (level < FASTK_BASE || level > probe())
        return -1;
    fastk_active = levels[level];
    fastk_vectors_count = level == FASTK_V4 && counts_words();
    return level;
}

const char *fastk_compiler(void) {
#if defined(__clang__)
    return "clang " __clang_version__;
#else
    return "gcc " __VERSION__;
#endif
}
