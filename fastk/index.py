"""An index for nearest neighbours by cosine: locality-sensitive hashing, query-directed probes, exact re-ranking."""
# ruff: noqa: N803  (X is what scikit-learn passes by name)

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _index_file, _index_tuning
from ._arrays import readable
from ._check import boolean, check_seed, integer, real
from ._index_file import (
    HASHERS,
    LANES,
    MOST_BITS,
    MOST_PROBES,
    MOST_ROWS,
    MOST_TABLES,
    Description,
    small_width_of,
    width_of,
)
from ._philox import Tag, words
from ._threads import parallel, split
from .config import kernels
from .hashing import _Rounds

__all__ = ["LSHIndex", "Tuning"]

Array = NDArray[Any]
Path = str | os.PathLike[str]

GROWTH = 4
"""Rows that are added are merged with those before them, unless these are more than so many times as many."""
_QUERIES = 256
"""Queries that go through the index together."""
_BUCKETS = 1 << 17
"""Buckets that are listed together."""
_PART = 1 << 22
"""Elements of rows that are worth a thread, or are moved together."""
_LEAST_QUERIES = 4
"""That are worth a thread."""
_EXHAUSTIVE = 1 << 20
"""Probes from which on all vectors are ranked: to list more buckets takes longer."""
_LIST = 1 << 13
"""Words of the list of candidates that a search keeps."""
_SAMPLE, _OTHERS = 512, 2048
"""Vectors whose neighbours are looked at for tuning, and those that stand for all vectors."""
_LARGEST_ID = 2**63 - 1
_SINGLE = np.dtype(np.float32)


def _aligned(shape: tuple[int, ...], dtype: Any) -> Array:
    """An array that begins at a cache line."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    room = np.empty(size + 64, np.uint8)
    first = -room.__array_interface__["data"][0] % 64
    array: Array = room[first : first + size].view(dtype).reshape(shape)
    return array


def _vectors(X: Any, dimension: int | None) -> Array:
    """X as an array (n, d) of real numbers."""
    if hasattr(X, "tocsr"):
        raise TypeError("X: sparse data; a dense array is needed (X.toarray())")
    array = X if type(X) is np.ndarray else np.asarray(X)
    if array.ndim != 2 or not array.shape[1]:
        raise ValueError(f"X: shape {array.shape}; allowed is (vectors, dimension)")
    if array.dtype.kind not in "iuf" and array.dtype.name != "bfloat16":
        raise TypeError(f"X: dtype {array.dtype}; allowed are real numbers")
    if dimension is not None and array.shape[1] != dimension:
        raise ValueError(f"X: shape {array.shape}; allowed is (vectors, {dimension}), the dimension of the index")
    return array


def _unit_rows(x: Array) -> Array:
    """Rows over their lengths, float32, padded with zeros to a multiple of 16; ValueError if one has no direction."""
    n, d = x.shape
    width = width_of(d)
    out = _aligned((n, width), np.float32)
    pieces = max(1, min(split(n * d, _PART), n))
    first_bad = [n] * pieces

    def run(i: int) -> None:
        last, step = n * (i + 1) // pieces, max(1, _PART // d)
        for at in range(n * i // pieces, last, step):
            part = x[at : min(last, at + step)]
            to = out[at : at + len(part)]
            right = kernels.lsh_unit(readable(part, _SINGLE), to, len(part), d, width, to.size)
            if right < len(part):
                first_bad[i] = at + right
                return

    parallel(run, pieces)
    if (row := min(first_bad)) < n:
        raise ValueError(f"X: row {row} is zero or not finite as float32; allowed are vectors that have a direction")
    return out


def _identifiers(ids: Any, n: int | None = None) -> NDArray[np.int64]:
    """Ids as int64 (n,), a copy."""
    array = np.asarray(ids)
    if array.ndim != 1 or (n is not None and len(array) != n):
        raise ValueError(f"ids: shape {array.shape}; allowed is {'one dimension' if n is None else (n,)}")
    if not array.size:
        return np.empty(0, np.int64)
    if array.dtype.kind not in "iu":
        raise TypeError(f"ids: dtype {array.dtype}; allowed are integers")
    if array.dtype.kind == "u" and array.max() > _LARGEST_ID:
        raise ValueError(f"ids: {array.max()} is too large; allowed is -2**63 to 2**63 - 1")
    return array.astype(np.int64)


def _prefix(n: int, n_bits: int) -> int:
    """Leading bits of a bucket that its rows are found by: no more than there are rows for."""
    return min(n_bits, max(n, 1).bit_length() - 1)


class _Rows:
    """Rows of length 1 in order of their ids. Nothing changes but which are removed.

    They are kept as float32, as codes, and, if they are long enough for that to pay, as integers of one byte with a
    scale.
    """

    kinds = ("rows", "codes", "small", "scale")

    def __init__(self, ids: Array, rows: Array, codes: Array, small: Array, scale: Array) -> None:
        self.ids, self.rows, self.codes, self.small, self.scale = ids, rows, codes, small, scale
        self.removed = np.zeros(-(-len(ids) // 64), np.uint64)
        self.size = len(ids)

    @classmethod
    def of(cls, ids: Array, rows: Array, codes: Array, dimension: int) -> _Rows:
        """Rows of which there are no integers yet."""
        n, width = len(rows), small_width_of(dimension)
        small, scale = _aligned((n, width), np.uint8), _aligned((n, int(width > 0)), np.float32)
        pieces = max(1, min(split(rows.size, _PART), n))

        def run(i: int) -> None:
            part = slice(n * i // pieces, n * (i + 1) // pieces)
            some, to = rows[part], small[part]
            if kernels.lsh_small(some, to, scale[part], len(some), rows.shape[1], width, some.size, to.size):
                raise AssertionError(f"lsh_small: {some.shape}, {to.shape}")

        if width:
            parallel(run, pieces)
        return cls(ids, rows, codes, small, scale)

    def find(self, ids: Array) -> tuple[Array, Array]:
        """Which of the ids are here and not removed, and where."""
        at = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        gone = self.removed[at >> 6] >> (at & 63).astype(np.uint64) & np.uint64(1)
        return (self.ids[at] == ids) & (gone == 0), at

    def remove(self, at: Array) -> None:
        """Mark rows as removed."""
        np.bitwise_or.at(self.removed, at >> 6, np.uint64(1) << (at & 63).astype(np.uint64))
        self.size -= len(at)

    def kept(self) -> Array:
        """Positions of the rows that are not removed."""
        if self.size == len(self.ids):
            return np.arange(self.size)
        bits = np.unpackbits(self.removed.astype("<u8").view(np.uint8), count=len(self.ids), bitorder="little")
        return np.flatnonzero(bits == 0)


class _Union:
    """What is kept of several parts, in order of the ids."""

    def __init__(self, parts: Sequence[_Rows]) -> None:
        self.parts = parts
        kept = [part.kept() for part in parts]
        ids = np.concatenate([part.ids[at] for part, at in zip(parts, kept, strict=True)])
        order = np.argsort(ids, kind="stable")
        self.ids = ids[order]
        self._part = np.repeat(np.arange(len(parts)), [len(at) for at in kept])[order]
        self._at = np.concatenate(kept)[order]

    def all(self) -> _Rows:
        """Everything, in one."""
        return _Rows(self.ids, *(self.taken(name) for name in _Rows.kinds))

    def taken(self, name: str, first: int = 0, last: int | None = None) -> Array:
        """One kind of array of some rows."""
        part, at = self._part[first:last], self._at[first:last]
        arrays = [getattr(rows, name) for rows in self.parts]
        out = _aligned((len(at), arrays[0].shape[1]), arrays[0].dtype)
        for i, array in enumerate(arrays):
            here = np.flatnonzero(part == i)
            if len(here) and here[-1] - here[0] == len(here) - 1 == at[here[-1]] - at[here[0]]:
                out[here[0] : here[-1] + 1] = array[at[here[0]] : at[here[-1]] + 1]
            else:
                out[here] = array[at[here]]
        return out

    def pieces(self, name: str) -> Iterator[Array]:
        """One kind of array of all rows, a part at a time."""
        step = max(1, _PART // max(1, getattr(self.parts[0], name).shape[1]))
        for first in range(0, len(self.ids), step):
            yield self.taken(name, first, first + step)


class _Tables(NamedTuple):
    """Buckets as csrc/lsh.c explains them: (tables, 2**prefix + 1), (tables, n), and (tables, n) or (tables, 0)."""

    prefix: int
    start: Array
    position: Array
    key: Array

    @classmethod
    def of(cls, codes: Array, n_tables: int, n_bits: int) -> _Tables:
        n = len(codes)
        prefix = _prefix(n, n_bits)
        shapes = (n_tables, 2**prefix + 1), (n_tables, n), (n_tables, n if prefix < n_bits else 0)
        arrays = [_aligned(shape, t) for shape, t in zip(shapes, (np.uint32, np.uint32, np.uint64), strict=True)]
        codes = np.ascontiguousarray(codes)
        pieces = min(split(n * n_tables, _PART // 16), n_tables)

        def run(i: int) -> None:
            first, last = n_tables * i // pieces, n_tables * (i + 1) // pieces
            parts = [array[first:last] for array in arrays]
            sizes = n, codes.shape[1], last - first, first, n_bits, prefix, codes.size, *(part.size for part in parts)
            if kernels.lsh_build(codes, *parts, *sizes):
                raise AssertionError(f"lsh_build: {sizes}")

        parallel(run, pieces)
        return cls(prefix, *arrays)


class _Run(_Rows):
    """Rows with their tables."""

    def __init__(self, rows: _Rows, tables: _Tables) -> None:
        super().__init__(rows.ids, *(getattr(rows, name) for name in self.kinds))
        self.tables = tables

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        arrays = (self.ids, self.removed, *self.tables[1:], *(getattr(self, name) for name in self.kinds))
        return sum(array.nbytes for array in arrays)


class Tuning(NamedTuple):
    """What `LSHIndex.tuned` expects of an index.

    Attributes
    ----------
    recall : float
        Share of the k nearest neighbours that a query finds, on average.
    candidates : float
        Rows that are ranked for a query, on average.
    rows : int
        How many rows this is for.
    """

    recall: float
    candidates: float
    rows: int


class LSHIndex:
    """Nearest neighbours by cosine, among vectors that can be added, removed and saved.

    Each of `n_tables` tables puts a vector into a bucket that is named by `n_bits` signs of random projections. Two
    vectors at an angle t share a bucket with probability (1 - t / pi)**n_bits. A query looks into its own bucket of
    each table and the `n_probes` next ones, and ranks every vector that it finds there by the exact cosine.

    Parameters
    ----------
    hasher : {"simhash"}
        Where buckets come from: table t is named by bits ``t * n_bits`` to ``(t + 1) * n_bits - 1`` of the codes of
        ``SimHash(n_tables * n_bits, seed=seed)``, made of the vectors scaled to length 1.
    n_tables : int
        1 to 65536. More tables find more, and take 4 to 16 bytes a vector each.
    n_bits : int
        1 to 64. More bits make smaller buckets, which are faster and find less; about the binary logarithm of the
        number of vectors is a good start.
    n_probes : int
        Buckets of each table beyond the query's own, by increasing sum of squares of the projections whose signs they
        flip. With ``2**n_bits - 1`` or 2**20 or more, every vector is ranked: an exact search. It can be set at any
        time, and given to `query`.
    seed : int
        Key of the random numbers, 0 to 2**128 - 1.

    Attributes
    ----------
    dimension : int or None
        Of the vectors; None before the first are added.
    ids : ndarray of int64, shape (len(index),)
        In increasing order.
    cosine_error : float
        Bound of the error of a cosine.
    nbytes : int
        Of all arrays, mapped ones included.
    n_candidates_ : ndarray of int64, shape (n,)
        How many vectors were ranked for each query of the last call of `query` that ended.
    tuning_ : Tuning or None
        What to expect, if `tuned` made the index.

    Notes
    -----
    Vectors and queries are rounded to float32 once, if they are not of that or a narrower type, scaled to length 1 in
    double precision, and kept as float32. A cosine is the dot product of two, in 16 sums of every 16th element from +0,
    clipped to [-1, 1]. For d dimensions it differs from that of the vectors as float32 by at most `cosine_error`,
    ``(ceil(d / 16) + 8) * 2**-24``.

    Vectors of more than 48 dimensions are kept as integers of one byte too, 5 bytes an element in all. These bound a
    cosine from above, so that the float32 elements of most vectors need not be looked at; results are as without.

    Results have the same bits on every backend and ISA level, whatever the threads and the order in which vectors were
    added and removed. Any number of threads may query while one adds or removes; a query that has begun may or may not
    see that. What is added is merged with what was added before, so that adding n vectors one by one takes
    O(log n) moves each.

    Source: Charikar, "Similarity estimation techniques from rounding algorithms", 2002; Lv et al., "Multi-probe LSH",
    2007; Andoni et al., "Practical and optimal LSH for angular distance", 2015.

    Examples
    --------
    >>> import numpy as np
    >>> from fastk.index import LSHIndex
    >>> x = np.random.default_rng(0).standard_normal((1000, 32))
    >>> index = LSHIndex(n_tables=8, n_bits=8, n_probes=4)
    >>> added = index.add(x)
    >>> cosine, ids = index.query(x[:2], 3)
    >>> ids[:, 0]
    array([0, 1])
    >>> cosine.shape, cosine.dtype
    ((2, 3), dtype('float32'))
    """

    def __init__(
        self, hasher: str = "simhash", n_tables: int = 8, n_bits: int = 16, n_probes: int = 0, seed: int = 0
    ) -> None:
        if not isinstance(hasher, str):
            raise TypeError(f"hasher={hasher!r}: a string is needed, one of {', '.join(HASHERS)}")
        if hasher not in HASHERS:
            raise ValueError(f"hasher={hasher!r}: allowed are {', '.join(HASHERS)}")
        self._hasher = hasher
        self._n_tables = integer(n_tables, "n_tables", 1, MOST_TABLES)
        self._n_bits = integer(n_bits, "n_bits", 1, MOST_BITS)
        self.n_probes = n_probes
        self._seed = check_seed(seed)
        self._dimension: int | None = None
        self._coder: _Rounds | None = None
        self._runs: tuple[_Run, ...] = ()
        self._next_id = 0
        self._lock = threading.RLock()
        self.n_candidates_: NDArray[np.int64] = np.zeros(0, np.int64)
        self.tuning_: Tuning | None = None

    # ---- what it is

    @property
    def hasher(self) -> str:
        """Where buckets come from."""
        return self._hasher

    @property
    def n_tables(self) -> int:
        """Number of tables."""
        return self._n_tables

    @property
    def n_bits(self) -> int:
        """Bits that name a bucket."""
        return self._n_bits

    @property
    def n_probes(self) -> int:
        """Buckets of each table beyond the query's own."""
        return self._n_probes

    @n_probes.setter
    def n_probes(self, value: int) -> None:
        self._n_probes = integer(value, "n_probes", 0, MOST_PROBES, "2**63 - 1")

    @property
    def seed(self) -> int:
        """Key of the random numbers."""
        return self._seed

    @property
    def dimension(self) -> int | None:
        """Dimension of the vectors, None before the first are added."""
        return self._dimension

    @property
    def ids(self) -> NDArray[np.int64]:
        """Ids of the vectors, in increasing order."""
        with self._lock:
            parts = [run.ids[run.kept()] for run in self._runs]
        return np.sort(np.concatenate(parts)) if parts else np.empty(0, np.int64)

    @property
    def cosine_error(self) -> float:
        """Bound of the absolute error of a cosine."""
        return (-(-(self._dimension or 0) // LANES) + 8) * 2.0**-24

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, mapped ones included."""
        return sum(run.nbytes for run in self._runs)

    def __len__(self) -> int:
        return sum(run.size for run in self._runs)

    def __contains__(self, id: object) -> bool:
        if isinstance(id, (int, np.integer)) and -_LARGEST_ID - 1 <= id <= _LARGEST_ID:
            return bool(self.contains([int(id)])[0])
        return False

    def __repr__(self) -> str:
        names = ("hasher", "n_tables", "n_bits", "n_probes", "seed")
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        held = f"{len(self)} vectors of dimension {self._dimension}" if self._dimension else "no vectors"
        return f"<LSHIndex({shown}) with {held}>"

    def contains(self, ids: ArrayLike) -> NDArray[np.bool_]:
        """Return which ids are in the index.

        Parameters
        ----------
        ids : array_like of integers, shape (n,)
            Ids.

        Returns
        -------
        ndarray of bool, shape (n,)

        Raises
        ------
        TypeError, ValueError
            If `ids` is not of integers, or not of one dimension.
        """
        wanted = _identifiers(ids)
        found = np.zeros(len(wanted), bool)
        for run in self._runs:
            found |= run.find(wanted)[0]
        return found

    # ---- changes

    def add(self, X: Any, ids: ArrayLike | None = None) -> NDArray[np.int64]:
        """Add vectors.

        Parameters
        ----------
        X : array_like, shape (n, dimension)
            Real numbers of any dtype; they are taken as float32.
        ids : array_like of integers, shape (n,), optional
            From -2**63 to 2**63 - 1, in any order. By default the numbers after the largest id that was ever added,
            from 0 up.

        Returns
        -------
        ndarray of int64, shape (n,)
            The ids.

        Raises
        ------
        TypeError, ValueError
            If X or `ids` is not what is allowed, a vector is zero or not finite, or an id is given twice or in the
            index already. Nothing is added then.

        Examples
        --------
        >>> from fastk.index import LSHIndex
        >>> index = LSHIndex(n_bits=4)
        >>> index.add([[1.0, 0.0], [0.0, 1.0]])
        array([0, 1])
        >>> index.add([[1.0, 1.0]], ids=[-7])
        array([-7])
        """
        with self._lock:
            x = _vectors(X, self._dimension)
            n, d = x.shape
            if ids is None:
                if self._next_id + n > _LARGEST_ID + 1:
                    raise ValueError(f"ids=None: after {self._next_id - 1} there are not {n} more; allowed are own ids")
                own = np.arange(n, dtype=np.int64) + np.int64(self._next_id) if n else np.empty(0, np.int64)
            else:
                own = _identifiers(ids, n)
            if not n:
                return own
            if len(self) + n > MOST_ROWS:
                raise ValueError(f"X: {n} vectors beside {len(self)} are too many; allowed are {MOST_ROWS} in all")
            order = np.argsort(own, kind="stable")
            ordered = own[order]
            if len(same := np.flatnonzero(ordered[1:] == ordered[:-1])):
                raise ValueError(f"ids: {ordered[same[0]]} is given twice; allowed are different ids")
            if ids is not None and (there := self.contains(ordered)).any():
                raise ValueError(f"ids: {ordered[there][0]} is in the index; allowed are new ids")
            coder = self._coder or self._coder_of(d)
            rows = _unit_rows(x)
            if (order[1:] < order[:-1]).any():
                rows = np.take(rows, order, axis=0, out=_aligned(rows.shape, np.float32))
            new = _Rows.of(ordered, rows, self._codes(coder, rows, d), d)

            kept = list(self._runs)
            merged: list[_Rows] = [new]
            size = n
            while kept and kept[-1].size <= GROWTH * size:
                merged.append(kept.pop())
                size += merged[-1].size
            kept.append(self._run_of(merged))
            self._coder, self._dimension = coder, d
            self._next_id = max(self._next_id, int(ordered[-1]) + 1)
            self._runs = tuple(kept)
            return own

    def remove(self, ids: ArrayLike) -> None:
        """Remove vectors. Their memory is given back when half of those that were added together are removed.

        Parameters
        ----------
        ids : array_like of integers, shape (n,)
            Ids of vectors in the index, each once.

        Raises
        ------
        TypeError, ValueError
            If one is not in the index, or given twice. Nothing is removed then.

        Examples
        --------
        >>> from fastk.index import LSHIndex
        >>> index = LSHIndex(n_bits=4)
        >>> added = index.add([[1.0, 0.0], [0.0, 1.0]])
        >>> index.remove([0])
        >>> 0 in index, len(index)
        (False, 1)
        """
        with self._lock:
            wanted = np.sort(_identifiers(ids))
            if len(same := np.flatnonzero(wanted[1:] == wanted[:-1])):
                raise ValueError(f"ids: {wanted[same[0]]} is given twice; allowed are different ids")
            found = np.zeros(len(wanted), bool)
            places = []
            for run in self._runs:
                here, at = run.find(wanted)
                places.append(at[here])
                found |= here
            if not found.all():
                raise ValueError(f"ids: {wanted[~found][0]} is not in the index; allowed are ids that are")
            for run, at in zip(self._runs, places, strict=True):
                run.remove(at)
            runs = (run if 2 * run.size >= len(run.ids) else self._run_of([run]) for run in self._runs if run.size)
            self._runs = tuple(runs)

    def _coder_of(self, dimension: int) -> _Rounds:
        return _Rounds(self._seed, self._n_tables * self._n_bits, dimension)

    def _codes(self, coder: _Rounds, rows: Array, dimension: int) -> Array:
        codes = np.empty((len(rows), -(-self._n_tables * self._n_bits // 8)), np.uint8)
        coder.encode(rows[:, :dimension], codes)
        return codes

    def _run_of(self, parts: Sequence[_Rows]) -> _Run:
        whole = len(parts) == 1 and parts[0].size == len(parts[0].ids)
        rows = parts[0] if whole else _Union(parts).all()
        return _Run(rows, _Tables.of(rows.codes, self._n_tables, self._n_bits))

    # ---- search

    def query(self, X: Any, k: int, *, n_probes: int | None = None) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the nearest vectors among those in the buckets of each query.

        Parameters
        ----------
        X : array_like, shape (n, dimension)
            Queries, as vectors for `add`.
        k : int
            How many to return for each, at least 1.
        n_probes : int, optional
            Instead of that of the index.

        Returns
        -------
        cosine : ndarray of float32, shape (n, k)
            Best first; -inf where fewer than k were found.
        ids : ndarray of int64, shape (n, k)
            By decreasing cosine, the smaller id first where that is the same; -1 where fewer were found.

        Raises
        ------
        TypeError, ValueError
            If X, `k` or `n_probes` is not what is allowed, or a query is zero or not finite.
        """
        runs, coder, dimension = self._runs, self._coder, self._dimension
        x = _vectors(X, dimension)
        k = integer(k, "k", 1)
        probes = self._n_probes if n_probes is None else integer(n_probes, "n_probes", 0, MOST_PROBES, "2**63 - 1")
        queries = _unit_rows(x)
        n = len(x)
        cosine = np.full((n, k), -np.inf, np.float32)
        neighbor = np.full((n, k), -1, np.int64)
        candidates = np.zeros(n, np.int64)
        if runs and coder is not None:
            exhaustive = probes >= min(2**self._n_bits - 1, _EXHAUSTIVE)
            probes = 0 if exhaustive else probes + 1
            pieces = min(split(n, _LEAST_QUERIES), max(n, 1))

            def run(i: int) -> None:
                last, step = n * (i + 1) // pieces, _QUERIES
                if probes:
                    step = max(1, min(step, _BUCKETS // (self._n_tables * probes)))
                for at in range(n * i // pieces, last, step):
                    part = slice(at, min(last, at + step))
                    outputs = cosine[part], neighbor[part], candidates[part]
                    buckets = self._buckets(coder, queries[part, : x.shape[1]], probes)
                    for rows in runs:
                        self._search(rows, queries[part], buckets, probes, *outputs)

            parallel(run, pieces)
        self.n_candidates_ = candidates
        return cosine, neighbor

    def _buckets(self, coder: _Rounds, units: Array, probes: int) -> Array:
        """The buckets of each query and table to look at, (n, n_tables, probes)."""
        n, bits = len(units), self._n_tables * self._n_bits
        buckets = np.empty((n, self._n_tables, probes), np.uint64)
        if not probes:
            return buckets
        table, p = coder._table(_SINGLE), coder.p
        projection = np.empty((n, bits), np.float32)
        kernels.lsh_project(units, projection, table, np.empty(p, np.float32), *units.shape, bits, p, table.size)
        _index_tuning.list_buckets(projection, buckets)
        return buckets

    def _search(
        self, run: _Run, queries: Array, buckets: Array, probes: int, cosine: Array, neighbor: Array, candidates: Array
    ) -> None:
        """Merge what a run has into the lists of some queries."""
        n, k = cosine.shape
        (_, start, position, key), rows, small, scale = run.tables, run.rows, run.small, run.scale
        width, small_width = rows.shape[1], small.shape[1]
        sizes = [n, self._n_tables, probes, k, width, small_width, len(rows), self._n_bits, start.shape[1]]
        arrays = [queries, buckets, rows, small, scale, run.removed, start, position, key, cosine]
        sizes += [array.size for array in arrays]
        arrays = [*arrays[:5], run.ids, *arrays[5:], neighbor, candidates]
        room = run.removed.size + _LIST + n * (4 + small_width // 4)
        if kernels.lsh_query(*arrays, np.empty(room, np.uint64), *sizes, room):
            raise AssertionError(f"lsh_query: {sizes}")

    # ---- files

    def save(self, path: Path) -> None:
        """Write the index to a file, which appears under its name when it is complete and on disk.

        Parameters
        ----------
        path : path-like
            Where to; a file that is there is replaced. An index that maps that very file keeps what it has.

        Raises
        ------
        OSError
            If it cannot be written. What was there stays then.

        Notes
        -----
        docs/index_format.md describes the file. Its bytes depend on the parameters, the vectors, their ids and the next
        default id alone.
        """
        with self._lock:
            runs, d = self._runs, self._dimension or 0
            tables: _Tables
            vectors: list[Iterable[Array]]
            if len(runs) == 1 and runs[0].size == len(runs[0].ids):
                ids, tables = runs[0].ids, runs[0].tables
                vectors = [[getattr(runs[0], name)] for name in _Rows.kinds]
            elif runs:
                union = _Union(runs)
                ids, codes = union.ids, union.taken("codes")
                tables = _Tables.of(codes, self._n_tables, self._n_bits)
                vectors = [union.pieces("rows"), [codes], union.pieces("small"), union.pieces("scale")]
            else:
                codes = np.empty((0, -(-self._n_tables * self._n_bits // 8)), np.uint8)
                ids, tables = np.empty(0, np.int64), _Tables.of(codes, self._n_tables, self._n_bits)
                vectors = [[]] * 4
            parameters = self._hasher, self._n_tables, self._n_bits, self._n_probes, self._seed
            description = Description(*parameters, d, len(ids), tables.prefix, self._next_id)
            sections = [vectors[0], [ids], *vectors[1:], *([array] for array in tables[1:])]
            _index_file.write(path, description, sections)

    @classmethod
    def load(cls, path: Path, mmap: bool = True, *, verify: bool = True) -> LSHIndex:
        """Return the index that was saved to a file.

        Parameters
        ----------
        path : path-like
            The file.
        mmap : bool
            Map the file instead of reading it: several processes share its memory, and what is not used is not kept.
            The file is never written; `add` and `remove` work in memory. It must not be changed while it is mapped, but
            may be replaced, as `save` does.
        verify : bool
            Compare all checksums, and look at every table, which reads the whole file once. Without it only the header
            and the size are checked: then a damaged file may give wrong results, though no access outside of it.

        Returns
        -------
        LSHIndex

        Raises
        ------
        ValueError
            If the file is truncated, damaged, of a newer version, or no index.
        OSError
            If it cannot be read.
        """
        description, arrays = _index_file.read(path, mapped=boolean(mmap, "mmap"), verify=boolean(verify, "verify"))
        d = description
        index = cls(d.hasher, d.n_tables, d.n_bits, d.n_probes, d.seed)
        index._next_id = d.next_id
        if d.dimension:
            index._dimension, index._coder = d.dimension, index._coder_of(d.dimension)
        if d.rows:
            rows, ids, codes, small, scale, *tables = arrays
            index._runs = (_Run(_Rows(ids, rows, codes, small, scale), _Tables(d.prefix, *tables)),)
        return index

    def __getstate__(self) -> dict[str, Any]:
        with self._lock:
            union = _Union(self._runs) if self._runs else None
            return {
                "parameters": (self._hasher, self._n_tables, self._n_bits, self._n_probes, self._seed),
                "dimension": self._dimension,
                "next_id": self._next_id,
                "ids": union.ids if union else None,
                "rows": union.taken("rows") if union else None,
                "tuning": self.tuning_,
            }

    def __setstate__(self, state: dict[str, Any]) -> None:
        LSHIndex.__init__(self, *state["parameters"])
        self._dimension, self._next_id, self.tuning_ = state["dimension"], state["next_id"], state["tuning"]
        if self._dimension:
            self._coder = self._coder_of(self._dimension)
            if state["ids"] is not None:
                rows = _aligned(state["rows"].shape, np.float32)
                rows[...] = state["rows"]
                codes = self._codes(self._coder, rows, self._dimension)
                self._runs = (self._run_of([_Rows.of(state["ids"], rows, codes, self._dimension)]),)

    # ---- parameters for a recall

    @classmethod
    def tuned(cls, X: Any, recall: float = 0.9, k: int = 10, *, n_rows: int | None = None, seed: int = 0) -> LSHIndex:
        """Return an empty index with parameters for data like a sample.

        Parameters
        ----------
        X : array_like, shape (n, dimension)
            A sample of the vectors, or all of them. Queries should have the same distribution.
        recall : float
            The share of the k nearest neighbours that queries are to find on average, above 0 and at most 1.
        k : int
            How many neighbours, at least 1.
        n_rows : int, optional
            How many vectors the index is to hold; n by default. With more than n, their neighbours are taken to be as
            far as they are in the sample, though they are nearer: what is found is more than what is asked for.
        seed : int
            Of the index.

        Returns
        -------
        LSHIndex
            Empty. Its ``tuning_`` says what to expect.

        Raises
        ------
        TypeError, ValueError
            If an argument is not what is allowed.

        Notes
        -----
        The angles to the k nearest and to all vectors are measured for up to 512 of the sample; from them follow, by
        the law of collisions, the recall and the number of vectors to rank for any number of tables, bits and probes.
        Of those with a recall that is expected to be one standard error of this measurement above what is asked for,
        the ones with the least work are chosen, with tables that take no more memory than the vectors (or 256 bytes a
        vector). If looking at every vector is no more work, or `recall` is 1, the index does that.

        Examples
        --------
        >>> import numpy as np
        >>> from fastk.index import LSHIndex
        >>> centres = np.random.default_rng(0).standard_normal((100, 32))
        >>> x = np.repeat(centres, 50, axis=0) + np.random.default_rng(1).standard_normal((5000, 32)) / 3
        >>> index = LSHIndex.tuned(x, recall=0.8)
        >>> len(index), bool(index.tuning_.recall > 0.8)
        (0, True)
        """
        x = _vectors(X, None)
        wanted = real(recall, "recall", "a number above 0 and at most 1 is needed")
        if not 0 < wanted <= 1:
            raise ValueError(f"recall={recall!r}: allowed is above 0 and at most 1")
        k, seed = integer(k, "k", 1), check_seed(seed)
        n, d = x.shape
        rows = n if n_rows is None else integer(n_rows, "n_rows", 1, MOST_ROWS)
        if wanted == 1 or n < 3:
            chosen = _index_tuning.Choice(1, 1, 1, 1.0, float(rows), 0.0)
            if n:
                _unit_rows(x)
        else:
            whole = cls(n_tables=1, n_bits=1, n_probes=1)
            whole.add(x)
            order = np.argsort(words(seed, Tag.INDEX, 1, n)[0], kind="stable")
            sample, others = np.sort(order[:_SAMPLE]), np.sort(order[-_OTHERS:])
            cosine, ids = whole.query(x[sample], min(k, n - 1) + 1)
            itself = ids == sample[:, None]
            itself[:, -1] |= ~itself.any(axis=1)
            near = _index_tuning.histogram(cosine[~itself])
            rest = cls(n_tables=1, n_bits=1, n_probes=1)
            rest.add(x[others], others)
            cosine, ids = rest.query(x[sample], len(others))
            far = _index_tuning.histogram(cosine[ids != sample[:, None]])
            error = math.sqrt(wanted * (1 - wanted) / len(sample))
            width = width_of(d)
            rotated = whole._coder_of(d).p
            chosen = _index_tuning.choose(near, far, rows, width, rotated, min(wanted + error, 1 - 1e-9), seed)
        index = cls("simhash", chosen.n_tables, chosen.n_bits, chosen.n_probes, seed)
        index.tuning_ = Tuning(chosen.recall, chosen.candidates, rows)
        return index
