/* Philox4x64-10 (Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3"): a counter-based
 * generator, so word i of a stream is a pure function of (key, i).
 *
 * The stream is that of numpy.random.Philox(key=k).random_raw(): four words a block, and block j encrypts the 256-bit
 * counter j + 1, because NumPy increments before it generates.
 */
#ifndef FASTK_PHILOX_H
#define FASTK_PHILOX_H

#include <stdint.h>

#include "isa.h"

__extension__ typedef unsigned __int128 fastk_u128;

#define PHILOX_M0 UINT64_C(0xD2E7470EE14C6C93)
#define PHILOX_M1 UINT64_C(0xCA5A826395121157)
#define PHILOX_W0 UINT64_C(0x9E3779B97F4A7C15)
#define PHILOX_W1 UINT64_C(0xBB67AE8584CAA73B)

typedef struct {
    uint64_t word[4];
} philox_block_t;

/* Block of the stream whose counter begins at (0, row, 0, tag), as numpy.random.Philox(key, counter) takes it. */
FASTK_INLINE philox_block_t philox_block_of(uint64_t key0, uint64_t key1, uint64_t row, uint64_t tag, uint64_t block) {
    uint64_t c0 = block + 1, c1 = row + (c0 == 0), c2 = c0 == 0 && c1 == 0, c3 = tag;
    for (int round = 0; round < 10; ++round) {
        fastk_u128 p0 = (fastk_u128)PHILOX_M0 * c0, p1 = (fastk_u128)PHILOX_M1 * c2;
        c0 = (uint64_t)(p1 >> 64) ^ c1 ^ key0;
        c2 = (uint64_t)(p0 >> 64) ^ c3 ^ key1;
        c1 = (uint64_t)p1;
        c3 = (uint64_t)p0;
        key0 += PHILOX_W0;
        key1 += PHILOX_W1;
    }
    return (philox_block_t){{c0, c1, c2, c3}};
}

FASTK_INLINE philox_block_t philox_block(uint64_t key0, uint64_t key1, uint64_t block) {
    return philox_block_of(key0, key1, 0, 0, block);
}

#endif
