"""Parameters of an index for a recall, from the law of collisions and the angles that a sample has.

A bit of two vectors at an angle t is the same with probability 1 - t / pi. If the query's projection is a >= 0 (a unit
vector's, onto a standard normal one), it is another with probability Phi(-a / tan t): the neighbour's projection is
a cos t + g sin t with g standard normal. So the probability P(t) that a neighbour is in one of the buckets that a table
is asked for is a sum of products over the bits, whose mean over a is taken over draws, and L tables find it with
probability 1 - (1 - P(t))**L.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._index_file import SMALL_FROM, SMALL_TO
from ._philox import Tag, words
from .config import kernels

Array = NDArray[Any]

DRAWS = 256
NODES = np.linspace(0, math.pi, 49)
"""Angles at which P is computed; its logarithm is nearly linear in between."""
BINS = 512
"""Of a histogram of angles."""
_TINY = 1e-300
_EQUAL = 1e-6
"""Relative deviation below which draws are taken to be the same."""
_FAR = 6.0
"""Standard deviations from which on a tail is taken to be at its limit."""
PROBES = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
TABLES = np.arange(1, 65)
LEAST_ROOM = 256
"""Bytes a vector that tables may take, if the vector itself takes less."""

# What a query costs, in nanoseconds or so: only how they compare matters.
PER_QUERY, PER_COORDINATE, PER_BUCKET, PER_ENTRY, PER_ROW = 2000.0, 2.5, 45.0, 1.5, 12.0
PER_ELEMENT, PER_SMALL_ELEMENT = 0.25, 0.07
"""Of a row that is ranked: as floats, and if there are small integers."""
PER_SCANNED_ROW, PER_SCANNED, PER_SMALL_SCANNED = 4.0, 0.1, 0.025
"""A row and its elements when all are ranked."""


class Choice(NamedTuple):
    """Parameters, and what is expected of them."""

    n_tables: int
    n_bits: int
    n_probes: int
    recall: float
    candidates: float
    cost: float


def histogram(cosines: Array) -> Array:
    """Shares of the angles of cosines in bins of equal width from 0 to pi."""
    t = np.arccos(np.clip(cosines.astype(np.float64), -1, 1))
    counts, _ = np.histogram(t, bins=BINS, range=(0, math.pi))
    shares: Array = counts / max(1, counts.sum())
    return shares


def list_buckets(projection: Array, buckets: Array) -> None:
    """Fill (rows, tables, probes) with the buckets to look at, from projections (rows, tables * n_bits)."""
    rows, tables, probes = buckets.shape
    room = 4 * (probes + 1)
    sizes = rows, tables, projection.shape[1] // tables, probes, projection.size, buckets.size, room
    if kernels.lsh_probes(projection, buckets, np.empty(room, np.uint64), *sizes):
        raise AssertionError(f"lsh_probes: {sizes}")


def _below(z: Array) -> Array:
    """Phi(-z), to 1e-7 (Abramowitz and Stegun 7.1.26)."""
    x = np.abs(z) / math.sqrt(2)
    t = 1 / (1 + 0.3275911 * x)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    half = series * np.exp(-x * x) / 2
    return np.where(z < 0, 1 - half, half)


def _draws(n_bits: int, seed: int) -> Array:
    """Magnitudes of projections, (DRAWS, n_bits): of each bit the quantiles of their law, in random order."""
    z = np.linspace(0, 9, 1 << 14)
    quantiles = np.interp((np.arange(DRAWS) + 0.5) / DRAWS, 1 - 2 * _below(z), z)
    order = np.argsort(words(seed, Tag.INDEX, n_bits, DRAWS, first_row=n_bits * DRAWS), axis=1)
    return np.ascontiguousarray(quantiles[order].T)


def found(n_bits: int, n_probes: int, rotated: int, seed: int) -> Array:
    """P of one table, at the middles of the bins, for 0 to n_probes buckets beyond the first: (n_probes + 1, BINS).

    The projections are coordinates of a rotation of so many dimensions, in which the query and the rest of the
    neighbour stay orthogonal: the covariance of g is not I but I - a a^T / rotated. Each product is multiplied by the
    mean of the ratio of the densities, (1 - s / rotated)**-1/2 exp(-(a^T g)**2 / (2 (rotated - s))) with s = a^T a,
    where a^T g is taken to be normal with the mean and variance that it has among the g that give these bits.
    """
    a = _draws(n_bits, seed)
    buckets = np.empty((DRAWS, 1, n_probes + 1), np.uint64)
    list_buckets(a.astype(np.float32), buckets)
    flips = (buckets[:, 0] ^ buckets[:, :, 0])[..., None] >> np.arange(n_bits, dtype=np.uint64) & np.uint64(1)

    def total(same: Array, other: Array) -> Array:
        """The sum over the bits of each set of flips, (DRAWS, n_probes + 1, nodes)."""
        summed: Array = same.sum(axis=1)[:, None] + flips.astype(float) @ (other - same)
        return summed

    c = a[..., None] / np.tan(np.clip(NODES, 1e-6, math.pi - 1e-6))
    other = np.clip(_below(c), _TINY, 1 - 1e-16)
    density = np.exp(-c * c / 2) / math.sqrt(2 * math.pi)
    # Means of g given g > -c and g < -c; far out they are at the limit itself.
    mean_same = np.where(c < -_FAR, -c, density / (1 - other))
    mean_other = np.where(c > _FAR, -c, -density / other)
    means, scale = (mean_same, mean_other), a[..., None]
    mean = total(*(scale * m for m in means))
    variance = total(*(scale**2 * np.clip(1 - c * m - m * m, 0, 1) for m in means))
    s = (a * a).sum(axis=1)[:, None, None]
    rest = np.maximum(rotated - s, 1)
    independent = np.exp(total(np.log1p(-other), np.log(other)))
    p = independent * np.exp(-(mean**2) / (2 * (rest + variance))) * np.sqrt(rotated / rest / (1 + variance / rest))
    # What the draws miss of the law for one bucket, which is known, they miss of the others' in proportion.
    known, level = (1 - NODES / math.pi) ** n_bits, independent[:, 0].mean(axis=0)
    missed = independent[:, 0] - level
    slope = (missed[:, None] * p).mean(axis=0) / ((missed**2).mean(axis=0) + (_EQUAL * level) ** 2 + _TINY)
    p = p.mean(axis=0) + slope * (known - level)
    at_nodes = np.clip(np.cumsum(p, axis=0), 0, 1)
    middles = (np.arange(BINS) + 0.5) * (math.pi / BINS)
    return np.exp([np.interp(middles, NODES, row) for row in np.log(np.maximum(at_nodes, _TINY))])


def choose(near: Array, far: Array, rows: int, width: int, rotated: int, recall: float, seed: int) -> Choice:
    """The cheapest parameters that reach a recall.

    Parameters
    ----------
    near, far : ndarray, shape (BINS,)
        Histograms of the angles between queries and their neighbours, and between queries and all rows.
    rows, width : int
        How many rows there are, and elements of each.
    rotated : int
        Dimensions of the random rotations.
    recall : float
        Expected share of the neighbours that are found, below 1.
    seed : int
        Of the draws.
    """
    small = SMALL_FROM <= width <= SMALL_TO
    ranked = PER_ROW + width * (PER_SMALL_ELEMENT if small else PER_ELEMENT)
    scan = PER_QUERY + rows * (PER_SCANNED_ROW + width * (PER_SMALL_SCANNED if small else PER_SCANNED))
    best = Choice(1, 1, 1, 1.0, float(rows), scan)
    size = max(rows, 2).bit_length()
    for n_bits in range(max(1, size - 11), min(64, size + 3) + 1):
        p = found(n_bits, min(PROBES[-1], 2**n_bits - 1), rotated, seed)
        p = p[[probes for probes in PROBES if probes < min(len(p), 2**n_bits - 1)]]
        if not len(p):
            continue
        table_bytes = 4 + 4 + 8 * (n_bits >= size)
        tables = TABLES[: max(1, max(4 * width, LEAST_ROOM) // table_bytes)]
        for probes, row in zip(PROBES, p, strict=False):
            hit = -np.expm1(np.outer(tables, np.log1p(-np.minimum(row, 1 - 1e-16))))
            reached, candidates = hit @ near, rows * (hit @ far)
            blocks = -(-tables * n_bits // rotated)
            cost = PER_QUERY + PER_COORDINATE * rotated * blocks + tables * (1 + probes) * PER_BUCKET
            cost = cost + tables * rows * float(row @ far) * PER_ENTRY + candidates * ranked
            i = int(np.argmin(np.where(reached >= recall, cost, np.inf)))
            if reached[i] >= recall and cost[i] < best.cost:
                best = Choice(int(tables[i]), n_bits, probes, float(reached[i]), float(candidates[i]), float(cost[i]))
    return best
