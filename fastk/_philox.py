"""Matrices of random entries as pure functions of (seed, row, column), from Philox4x64-10.

Word j of row i of the matrix that a tag names is word j of ``numpy.random.Philox(key=seed, counter=[0, i, 0, tag])``,
so any part of a matrix can be made by itself, in any order, with the same bits on every machine.

J. K. Salmon, M. A. Moraes, R. O. Dror and D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .config import kernels

WORD = 1 << 64


class Tag(IntEnum):
    """What a stream of words is for: no two matrices share words."""

    GAUSSIAN = 1
    RADEMACHER = 2
    SPARSE = 3
    SRHT_SIGNS = 4
    SRHT_SAMPLE = 5
    SIMHASH_SIGNS = 6
    SIMHASH_ROTATION = 7
    SIMHASH_DENSE = 8
    CROSS_POLYTOPE = 9
    FLY = 10
    BIO = 11
    FEATURES = 12
    FEATURE_NORMS = 13
    SVD = 14
    INDEX = 15


def words(seed: int, tag: int, rows: int, n: int, *, first_row: int = 0, first: int = 0) -> NDArray[np.uint64]:
    """Words `first` to `first + n - 1` of rows `first_row` to `first_row + rows - 1`, uint64 (rows, n)."""
    out = np.empty((rows, n), np.uint64)
    kernels.philox_rows(seed % WORD, seed // WORD, tag, first_row, first, out, out.size, n)
    return out


def normal(seed: int, tag: int, rows: int, n: int, *, first_row: int = 0, first: int = 0) -> NDArray[np.float64]:
    """Independent standard normal numbers, float64 (rows, n), of the words in the same places.

    The top bit of a word is the sign, the next 52 bits u give the probability (u + 1/2) 2^-53 of a larger magnitude.
    No number is larger than 8.3 in magnitude.
    """
    out = np.empty((rows, n))
    kernels.philox_normal(seed % WORD, seed // WORD, tag, first_row, first, out, out.size, n)
    return out


def signs(seed: int, tag: int, rows: int, n: int, *, first_row: int = 0, dtype: Any = np.float32) -> NDArray[Any]:
    """Independent signs, (rows, n): +1 where bit j % 64 of word j // 64 is set, otherwise -1."""
    bits = words(seed, tag, rows, -(-n // 64), first_row=first_row)
    set_ = np.unpackbits(bits.astype("<u8", copy=False).view(np.uint8), axis=-1, count=n, bitorder="little")
    table = np.array([-1, 1], dtype)
    taken: NDArray[Any] = table[set_]
    return taken
