"""Hamming distances of packed codes: of pairs, the nearest few, all within a radius. No matrix of distances is made."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._check import integer
from ._threads import parallel, split
from .config import kernels

Array = NDArray[Any]

FARTHEST = 2**31 - 1
"""The distance of what is not there; its id is -1."""
_MOST_BYTES = 2**28 - 1
_PIECE = 1 << 22
"""Bytes compared that are worth a thread."""
_CALL = 1 << 33
"""Bytes compared between two looks at signals."""
_REUSE = 64
"""Queries that make good use of codes in cache."""
_LISTS = 1 << 20
"""Entries of lists that are merged at a time."""
_ROWS = 1 << 16
"""Rows of operands that have to be copied at a time."""
_MERGED = 1 << 22
"""Bytes of operands of several axes that are repeated to make one call."""
_NONE = np.empty(0, np.uint64)


# ---- operands


def _codes(a: ArrayLike, name: str) -> Array:
    array = np.asarray(a)
    if array.dtype != np.uint8:
        raise TypeError(f"{name}: dtype {array.dtype}; allowed is uint8")
    if array.ndim == 0:
        raise ValueError(f"{name}: shape (); allowed are codes along the last axis, (..., bytes)")
    if array.shape[-1] > _MOST_BYTES:
        raise ValueError(f"{name}: {array.shape[-1]} bytes a code; allowed are up to {_MOST_BYTES}")
    return array


def _same_width(a: Array, b: Array, a_name: str, b_name: str) -> None:
    if a.shape[-1] != b.shape[-1]:
        raise ValueError(f"{b_name}: {b.shape[-1]} bytes a code; allowed is that of {a_name}, {a.shape[-1]}")


def _searched(queries: ArrayLike, codes: ArrayLike) -> tuple[Array, Array, bool]:
    """Queries as rows, codes, and whether there is a single query."""
    query, code = _codes(queries, "queries"), _codes(codes, "codes")
    if query.ndim > 2:
        raise ValueError(f"queries: shape {query.shape}; allowed are (queries, bytes) and (bytes,)")
    if code.ndim != 2:
        raise ValueError(f"codes: shape {code.shape}; allowed is (codes, bytes)")
    _same_width(query, code, "queries", "codes")
    return np.atleast_2d(query), code, query.ndim == 1


# ---- pairs


def hamming_distance(a: ArrayLike, b: ArrayLike) -> Any:
    """Number of bits in which codes differ.

    Parameters
    ----------
    a, b : array_like of uint8, shape (..., bytes)
        Packed codes along the last axis, of any strides. Leading axes broadcast as in NumPy, without copies where
        strides allow it.

    Returns
    -------
    ndarray of int32 or int32, shape (...)
        Their distances; a scalar for two single codes.

    Raises
    ------
    TypeError, ValueError
        If a dtype or shape is none of these.

    See Also
    --------
    hamming_topk : the nearest codes.
    hamming_range : all codes within a radius.

    Examples
    --------
    >>> import numpy as np
    >>> from fastk.hashing import hamming_distance
    >>> codes = np.array([[0, 255], [1, 255], [7, 0]], np.uint8)
    >>> hamming_distance(codes, codes[0])
    array([ 0,  1, 11], dtype=int32)
    >>> hamming_distance(codes[:, None], codes)
    array([[ 0,  1, 11],
           [ 1,  0, 10],
           [11, 10,  0]], dtype=int32)
    """
    x, y = _codes(a, "a"), _codes(b, "b")
    _same_width(x, y, "a", "b")
    try:
        shape = np.broadcast_shapes(x.shape[:-1], y.shape[:-1])
    except ValueError:
        raise ValueError(f"b: shape {y.shape}; allowed is what broadcasts with that of a, {x.shape}") from None
    width, full = x.shape[-1], shape or (1,)
    x, y = np.broadcast_to(x, (*full, width)), np.broadcast_to(y, (*full, width))
    # A call runs along one axis at least, best along the longest.
    longest = int(np.argmax(full)) if full[-1] < _REUSE else len(full) - 1
    out = np.empty(full[:longest] + full[longest + 1 :] + (full[longest],), np.int32)
    _pairs(np.moveaxis(x, longest, -2), np.moveaxis(y, longest, -2), out, width)
    result = np.ascontiguousarray(np.moveaxis(out, -1, longest))
    return result if shape else result[0]


def _pairs(x: Array, y: Array, out: Array, width: int) -> None:
    """Distances of codes of one shape. The last axes that are few rows together make one call."""
    if not out.size:
        return
    inner, few = out.ndim - 1, min(_ROWS, _MERGED // max(1, width))
    while inner > 0 and math.prod(out.shape[inner - 1 :]) <= few:
        inner -= 1
    outer, rows = out.shape[:inner], math.prod(out.shape[inner:])
    cuts = -(-rows // _ROWS)
    tasks = math.prod(outer) * cuts
    pieces = min(split(out.size * width, _PIECE), tasks)

    def run(i: int) -> None:
        for task in range(tasks * i // pieces, tasks * (i + 1) // pieces):
            index = np.unravel_index(task // cuts, outer) if outer else ()
            part = slice(rows * (task % cuts) // cuts, rows * (task % cuts + 1) // cuts)
            n = part.stop - part.start
            operands = [operand[index].reshape(rows, width)[part] for operand in (x, y)]
            kernels.hamming_pairs(*operands, out[index].reshape(rows)[part], n, width)

    parallel(run, pieces)


# ---- search


def _worked(kernel: Callable[..., int], *arguments: Any, sizes: tuple[int, ...]) -> None:
    """Call a kernel with the room that it asks for; with enough, the first call has done the work."""
    room = kernel(*arguments, _NONE, *sizes, 0)
    if room:
        kernel(*arguments, np.empty(room, np.uint64), *sizes, room)


def _steps(queries: int, first: int, last: int, width: int) -> list[tuple[int, int]]:
    """Parts of the codes from `first` to `last` that are short enough for one call."""
    step = max(1 << 12, _CALL // max(1, queries * width))
    return [(at, min(last, at + step)) for at in range(first, last, step)]


def _cut(n: int, pieces: int) -> list[tuple[int, int]]:
    return [(n * i // pieces, n * (i + 1) // pieces) for i in range(pieces)]


def _nearest(query: Array, code: Array, distance: Array, ids: Array, first: int, last: int) -> None:
    """Merge codes `first` to `last - 1` into the lists."""
    (queries, width), k = query.shape, distance.shape[1]
    for at, end in _steps(queries, first, last, width):
        sizes = queries, end - at, width, k, at
        _worked(kernels.hamming_topk, query, code[at:end], distance, ids, sizes=sizes)


def _empty_lists(*shape: int) -> tuple[Array, Array]:
    return np.full(shape, FARTHEST, np.int32), np.full(shape, -1, np.int64)


def _nearest_by_codes(query: Array, code: Array, distance: Array, ids: Array, pieces: int) -> None:
    """The same for all codes, a part of them in each thread."""
    parts, k = _cut(len(code), pieces), distance.shape[1]
    step = max(1, _LISTS // (pieces * k))
    for at in range(0, len(query), step):
        some = query[at : at + step]
        distances, numbers = _empty_lists(pieces, len(some), k)

        def run(i: int, some: Array = some, distances: Array = distances, numbers: Array = numbers) -> None:
            _nearest(some, code, distances[i], numbers[i], *parts[i])

        parallel(run, pieces)
        distances = distances.transpose(1, 0, 2).reshape(len(some), -1)
        numbers = numbers.transpose(1, 0, 2).reshape(len(some), -1)
        order = np.lexsort((numbers, distances), axis=-1)[:, :k]
        distance[at : at + step] = np.take_along_axis(distances, order, -1)
        ids[at : at + step] = np.take_along_axis(numbers, order, -1)


def hamming_topk(queries: ArrayLike, codes: ArrayLike, k: int) -> tuple[Array, Array]:
    """The k nearest codes to each query, by Hamming distance.

    Parameters
    ----------
    queries : array_like of uint8, shape (queries, bytes) or (bytes,)
        Packed codes.
    codes : array_like of uint8, shape (codes, bytes)
        What is searched: of any strides; it may be read-only or a memory map, and is not copied.
    k : int
        How many, at least 1.

    Returns
    -------
    distances : ndarray of int32, shape (queries, k) or (k,)
        Nearest first.
    ids : ndarray of int64, of the same shape
        Rows of `codes`; of equal distances the smaller id comes first. Where there are fewer codes than k, what is left
        has distance 2**31 - 1 and id -1.

    Raises
    ------
    TypeError, ValueError
        If a dtype, a shape or k is none of these.

    Notes
    -----
    Every code is compared with every query, a block of codes at a time with many queries. Memory is that of the result
    and a few MB, whatever the numbers of queries and codes; the matrix of distances never exists. The result does not
    depend on the threads.

    Examples
    --------
    >>> import numpy as np
    >>> from fastk.hashing import hamming_topk
    >>> codes = np.array([[0, 255], [1, 255], [7, 0], [2, 255]], np.uint8)
    >>> distances, ids = hamming_topk(codes[0], codes, 3)
    >>> distances, ids
    (array([0, 1, 1], dtype=int32), array([0, 1, 3]))
    """
    query, code, single = _searched(queries, codes)
    k = integer(k, "k", 1)
    distance, ids = _empty_lists(len(query), k)
    pieces = min(split(query.size * len(code), _PIECE), max(1, len(code)))
    if pieces == 1:
        _nearest(query, code, distance, ids, 0, len(code))
    elif len(query) >= pieces * _REUSE or pieces * k > len(code):
        parts = _cut(len(query), min(pieces, len(query)))

        def run(i: int) -> None:
            part = slice(*parts[i])
            _nearest(query[part], code, distance[part], ids[part], 0, len(code))

        parallel(run, len(parts))
    else:
        _nearest_by_codes(query, code, distance, ids, pieces)
    return (distance[0], ids[0]) if single else (distance, ids)


def hamming_range(queries: ArrayLike, codes: ArrayLike, radius: int) -> tuple[Array, Array, Array]:
    """All codes within a Hamming distance of each query.

    Parameters
    ----------
    queries, codes : array_like of uint8
        As for `hamming_topk`.
    radius : int
        The largest distance that counts, at least 0.

    Returns
    -------
    lims : ndarray of int64, shape (queries + 1,)
        Query i has the results from ``lims[i]`` to ``lims[i + 1] - 1``. A single query has two limits.
    distances : ndarray of int32, shape (lims[-1],)
        Nearest first within a query.
    ids : ndarray of int64, of the same shape
        Rows of `codes`; of equal distances the smaller id comes first.

    Raises
    ------
    TypeError, ValueError
        If a dtype, a shape or the radius is none of these.

    Notes
    -----
    The codes are read twice: to count and to write. Memory is that of the result and a few MB.

    Examples
    --------
    >>> import numpy as np
    >>> from fastk.hashing import hamming_range
    >>> codes = np.array([[0, 255], [1, 255], [7, 0], [2, 255]], np.uint8)
    >>> hamming_range(codes[:2], codes, 1)
    (array([0, 3, 5]), array([0, 1, 1, 0, 1], dtype=int32), array([0, 1, 3, 1, 0]))
    """
    query, code, _ = _searched(queries, codes)
    width = query.shape[1]
    radius = min(integer(radius, "radius", 0), 8 * width)
    n, count = len(code), len(query)
    pieces = split(query.size * n, _PIECE)
    by_queries = count >= pieces * _REUSE
    pieces = min(pieces, max(1, count if by_queries else n))
    whole = [(0, count)] * pieces, [(0, n)] * pieces
    query_parts, code_parts = (_cut(count, pieces), whole[1]) if by_queries else (whole[0], _cut(n, pieces))
    # Of each thread and query: first how many hits there are, then where the next one goes.
    position = np.zeros((pieces, count), np.int64)
    distances, ids = np.empty(0, np.int32), np.empty(0, np.int64)

    def run(i: int) -> None:
        part = slice(*query_parts[i])
        some, own = query[part], position[i, part]
        for at, end in _steps(len(some), *code_parts[i], width):
            found = np.zeros(len(some), np.int64)
            sizes = len(some), end - at, width, radius, at, ids.size
            _worked(kernels.hamming_range, some, code[at:end], own, found, distances, ids, sizes=sizes)
            own += found

    parallel(run, pieces)
    lims = np.zeros(count + 1, np.int64)
    np.cumsum(position.sum(axis=0), out=lims[1:])
    if lims[-1]:
        before = np.cumsum(position, axis=0) - position
        position = before + lims[:-1]
        distances, ids = np.empty(lims[-1], np.int32), np.empty(lims[-1], np.int64)
        parallel(run, pieces)
    for first, last in zip(lims[:-1].tolist(), lims[1:].tolist(), strict=True):
        if last - first > 1:
            order = np.argsort(distances[first:last], kind="stable")
            distances[first:last] = distances[first:last][order]
            ids[first:last] = ids[first:last][order]
    return lims, distances, ids
