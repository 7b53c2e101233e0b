"""Hamming distances of codes, and searches among them: csrc/hamming.c."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from .memory import load32, load64
from .philox import ZERO

BLOCK_BYTES = 1 << 14  # of codes that all queries meet before the next: half of the smallest first-level cache


@intrinsic
def popcount(typing_context, word):
    def generate(context, builder, signature, arguments):
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


@njit(inline="always")
def distance_of(a, i, b, j, n):
    """Bits that differ in row i of a and row j of b."""
    total = ZERO
    if a.strides[1] == 1 and b.strides[1] == 1:
        at, to, whole = i * a.strides[0], j * b.strides[0], n & -8
        for k in range(0, whole, 8):
            total += popcount(load64(a, at + k) ^ load64(b, to + k))
        if n & 4:
            total += popcount(np.uint64(load32(a, at + whole) ^ load32(b, to + whole)))
            whole += 4
        for k in range(whole, n):
            total += popcount(np.uint64(a[i, k] ^ b[j, k]))
    else:
        for k in range(n):
            total += popcount(np.uint64(a[i, k] ^ b[j, k]))
    return np.int64(total)


def hamming_pairs(a, b, out, rows, size):
    for r in range(rows):
        out[r] = distance_of(a, r, b, r, size)


@njit(inline="always")
def codes_in_block(size):
    return max(1, BLOCK_BYTES // max(1, size))


@njit(inline="always")
def reverse(distance, number, q, k):
    for i in range(k >> 1):
        j = k - 1 - i
        distance[q, i], distance[q, j] = distance[q, j], distance[q, i]
        number[q, i], number[q, j] = number[q, j], number[q, i]


@njit(inline="always")
def sift(distance, number, q, size, new_distance, new_number):
    """Put an entry in the place of the largest of a heap."""
    i = 0
    while 2 * i + 1 < size:
        j = 2 * i + 1
        other = j + 1
        if other < size and (
            distance[q, other] > distance[q, j]
            or (distance[q, other] == distance[q, j] and number[q, other] > number[q, j])
        ):
            j = other
        if distance[q, j] < new_distance or (distance[q, j] == new_distance and number[q, j] <= new_number):
            break
        distance[q, i] = distance[q, j]
        number[q, i] = number[q, j]
        i = j
    distance[q, i] = new_distance
    number[q, i] = new_number


@njit(inline="always")
def falling(distance, number, q, k):
    for i in range(1, k):
        if distance[q, i - 1] < distance[q, i] or (
            distance[q, i - 1] == distance[q, i] and number[q, i - 1] < number[q, i]
        ):
            return False
    return True


def hamming_topk(query, code, distance, number, work, queries, n, size, k, first, room):
    """A list that falls is a heap with the largest entry on top; in the end the heap is sorted."""
    if k == 0:
        return 0
    for q in range(queries):
        reverse(distance, number, q, k)
    step = codes_in_block(size)
    for begin in range(0, n, step):
        for q in range(queries):
            worst, worst_number = np.int64(distance[q, 0]), number[q, 0]
            for i in range(begin, min(n, begin + step)):
                d = distance_of(query, q, code, i, size)
                if d < worst or (d == worst and first + i < worst_number):
                    sift(distance, number, q, k, d, first + i)
                    worst, worst_number = np.int64(distance[q, 0]), number[q, 0]
    for q in range(queries):
        if falling(distance, number, q, k):
            reverse(distance, number, q, k)
            continue
        for last in range(k - 1, 0, -1):
            d, i = distance[q, last], number[q, last]
            distance[q, last], number[q, last] = distance[q, 0], number[q, 0]
            sift(distance, number, q, last, d, i)
    return 0


def hamming_range(query, code, position, count, distance, number, work, queries, n, size, radius, first, hits, room):
    """The work holds how many hits of a query there have been."""
    needed = queries if hits > 0 else 0
    if room < needed:
        return needed
    for q in range(needed):
        work[q] = 0
    step = codes_in_block(size)
    for begin in range(0, n, step):
        for q in range(queries):
            before = np.int64(work[q]) if hits > 0 else 0
            found = before
            for i in range(begin, min(n, begin + step)):
                d = distance_of(query, q, code, i, size)
                if d <= radius:
                    at = position[q] + found
                    if 0 <= at < hits:
                        distance[at] = d
                        number[at] = first + i
                    found += 1
            count[q] += found - before
            if hits > 0:
                work[q] = found
    return needed
