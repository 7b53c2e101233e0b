"""Random matrices, projections, codes and searches, by other methods than the code under test.

A Hadamard transform is twice here: as the matrix of SciPy, which is exact on small integers, and as sums and
differences of halves of an array, which round as the kernels must. Distances are sums of unpacked bits, searches are
whole sorts.
"""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import scipy.linalg
import scipy.special

WORD = 2**64
FARTHEST, NOBODY = 2**31 - 1, -1
"""Distance and id of what was not found."""


# ---- random matrices


def words(seed: int, tag: int, first_row: int, rows: int, first: int, n: int) -> np.ndarray:
    """uint64 (rows, n): of each row, the words from `first` on of NumPy's stream."""
    block, skipped = divmod(first, 4)
    out = np.empty((rows, n), np.uint64)
    for i in range(rows):
        counter = np.array([block, (first_row + i) % WORD, 0, tag], np.uint64)
        out[i] = np.random.Philox(key=seed, counter=counter).random_raw(skipped + n)[skipped:]
    return out


def upper_tail(word: Any) -> Any:
    """The probability of a larger magnitude: (u + 1/2) 2^-53, u being the 52 bits below the sign."""
    return ((word >> np.uint64(11) & np.uint64(2**52 - 1)).astype(np.float64) + 0.5) * 2.0**-53


def normal(word: np.ndarray) -> np.ndarray:
    """The normal numbers of words, by SciPy's inverse."""
    return np.where(word >> np.uint64(63), 1, -1) * scipy.special.ndtri(upper_tail(word))


def normal_digits(word: int) -> Any:
    """The same of one word in 40 digits."""
    with mpmath.workdps(40):
        u = (word >> 11) % 2**52
        magnitude = mpmath.sqrt(2) * mpmath.erfinv(1 - (mpmath.mpf(2 * u + 1)) / 2**53)
        return -magnitude if word >> 63 else magnitude


# ---- Hadamard transforms


def sylvester(n: int) -> np.ndarray:
    """The matrix, int64 (n, n)."""
    return scipy.linalg.hadamard(n, np.int64)


def hadamard(x: np.ndarray, normalize: bool = False) -> np.ndarray:
    """Transforms of (rows, n, inner), each sum and difference rounded to the type, by growing stride."""
    rows, n, inner = x.shape
    v, stride = x.copy(), 1
    with np.errstate(all="ignore"):
        while stride < n:
            low, high = np.moveaxis(v.reshape(rows, n // (2 * stride), 2, stride, inner), 2, 0)
            v = np.stack([low + high, low - high], axis=2).reshape(x.shape)
            stride *= 2
        half, odd = divmod(n.bit_length() - 1, 2)
        return v * np.ldexp(x.dtype.type(np.sqrt(0.5) if odd else 1), -half) if normalize else v


def hadamard_rows(v: np.ndarray) -> np.ndarray:
    return hadamard(v[:, :, None])[:, :, 0]


def padded(x: np.ndarray, p: int) -> np.ndarray:
    """x with columns of zeros, to p of them."""
    out = np.zeros((len(x), p), x.dtype)
    out[:, : x.shape[1]] = x
    return out


def packed(bits: np.ndarray, size: int) -> np.ndarray:
    """Codes of so many bytes, in little bit order; what is missing is 0."""
    room = np.zeros((len(bits), 8 * size), bool)
    kept = bits[:, : 8 * size]
    room[:, : kept.shape[1]] = kept
    return np.packbits(room, axis=1, bitorder="little")


def simhash_values(x: np.ndarray, table: np.ndarray) -> np.ndarray:
    """(rows, blocks p): what codes hold the signs of. The table is (blocks, 3, p)."""
    out = []
    with np.errstate(all="ignore"):
        for first, second, angles in table:
            v = hadamard_rows(padded(x * first[: x.shape[1]], len(first)))
            low, high = np.split(hadamard_rows(v * second), 2, axis=1)
            cosine, sine = np.split(angles, 2)
            turned = [cosine * low - sine * high, sine * low + cosine * high]
            out.append(hadamard_rows(np.concatenate(turned, axis=1)))
    return np.concatenate(out, axis=1)


def srht(x: np.ndarray, sign: np.ndarray, sample: np.ndarray, scale: Any) -> np.ndarray:
    with np.errstate(all="ignore"):
        v = hadamard_rows(padded(x * sign[: x.shape[1]], len(sign)))
        return v[:, sample % len(sign)] * scale


# ---- sparse matrices


def signed_entries(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each row of a matrix of -1, 0 and 1 begins (int64), and its entries, column << 1 | negative (uint32)."""
    row, column = np.nonzero(matrix)
    start = np.searchsorted(row, np.arange(len(matrix) + 1))
    return start.astype(np.int64), (2 * column + (matrix[row, column] < 0)).astype(np.uint32)


def summed(terms: np.ndarray) -> Any:
    """Sum from +0 on, one term after the other, each rounded."""
    with np.errstate(all="ignore"):
        return np.add.accumulate(np.concatenate([np.zeros(1, terms.dtype), terms]))[-1]


def sparse_project(x: np.ndarray, matrix: np.ndarray, scale: Any) -> np.ndarray:
    """Of rows x (rows, d) and a matrix (k, d) of -1, 0 and 1."""
    out = np.empty((len(x), len(matrix)), x.dtype)
    for i, component in enumerate(matrix):
        columns = np.flatnonzero(component)
        for r, row in enumerate(x):
            out[r, i] = summed(row[columns] * component[columns].astype(x.dtype))
    with np.errstate(all="ignore"):
        return out * scale


def sparse_project_stored(rows: list[tuple[np.ndarray, np.ndarray]], matrix: np.ndarray, scale: Any) -> np.ndarray:
    """Of rows that are given as (columns, values), which are taken in that order."""
    dtype = scale.dtype
    out = np.zeros((len(rows), len(matrix)), dtype)
    with np.errstate(all="ignore"):
        for r, (columns, values) in enumerate(rows):
            for i, component in enumerate(matrix):
                signs = component[columns].astype(dtype)
                out[r, i] = summed((values * signs)[signs != 0])
        return out * scale


# ---- codes


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Bits that differ, over the last axis, which holds bytes; the others broadcast."""
    return np.unpackbits(a ^ b, axis=-1).sum(axis=-1, dtype=np.int64)


def nearest(distance: np.ndarray, ids: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k least of a list by (distance, id), and what stands for nothing if there are fewer."""
    order = np.lexsort((ids, distance))[:k]
    missing = k - len(order)
    return (
        np.concatenate([distance[order], np.full(missing, FARTHEST)]).astype(np.int32),
        np.concatenate([ids[order], np.full(missing, NOBODY)]).astype(np.int64),
    )


# ---- rows of an index


def small_integers(rows: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """float32 rows as bytes, int8 in two's complement padded to a width, and scales."""
    if not width:
        return np.empty((len(rows), 0), np.uint8), np.zeros(len(rows), np.float32)
    most = np.abs(rows).max(axis=1, initial=0)
    with np.errstate(divide="ignore"):
        factor = np.where(most > 0, 127 / most.astype(np.float64), 0)
    x = rows * factor[:, None]
    out = np.zeros((len(rows), width), np.int8)
    out[:, : rows.shape[1]] = np.trunc(x + np.copysign(0.5, x))
    return out.view(np.uint8), most / np.float32(127)
