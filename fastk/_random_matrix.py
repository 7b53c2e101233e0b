"""Random matrices whose entries are pure functions of (seed, row, column), and products of rows with them.

A matrix is (k, d); k only scales it. What has been made is kept if it is small, and otherwise made again, part by part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _philox
from ._estimator import CSR
from ._philox import Tag
from ._threads import parallel, split
from .config import kernels

Array = NDArray[Any]
Columns = range | NDArray[np.int64]
"""Numbers of columns, increasing."""

KEPT_BYTES = 1 << 26
"""The most of a matrix that is kept, or made together."""
_MADE = 1 << 20
"""Entries that are made together in float64."""
_CHUNK = 1 << 18
"""Elements of input that are converted together."""


def haar(g: Array) -> Array:
    """Orthonormal rows, uniformly distributed, from normal numbers (..., rows, columns), with rows <= columns.

    They are the rows of g made orthonormal one after the other, as Gram and Schmidt did: the QR factorization for which
    the diagonal of R is positive. That of LAPACK has signs of its own, which are not independent of Q.
    """
    if not g.size:
        return g
    q, r = np.linalg.qr(g.swapaxes(-1, -2))
    sign = np.where(np.diagonal(r, axis1=-2, axis2=-1) < 0, -1.0, 1.0)
    oriented: Array = (q * sign[..., None, :]).swapaxes(-1, -2)
    return oriented

_PIECE = 1 << 16
"""Elements of input that are worth a thread."""
_GAP = 64
"""Columns that are made for nothing rather than asking for those after them separately."""
MOST_COLUMNS = 1 << 31
"""A column and a sign go into 32 bits."""


def computed(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype in which input of this one is computed."""
    return np.dtype(np.float32) if dtype.itemsize == 2 else dtype


def made_at(make: Callable[[int, int], Array], columns: Columns) -> Array:
    """The columns out of what ``make(first, n)`` makes of n columns from the first on."""
    if isinstance(columns, range):
        return make(columns.start, len(columns))
    breaks = np.flatnonzero(np.diff(columns) > _GAP) + 1
    parts = [make(int(run[0]), int(run[-1] - run[0]) + 1)[:, run - run[0]] for run in np.split(columns, breaks)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def _by_rows(x: Array, out: Array, call: Callable[[Array, Array], None]) -> None:
    """``call(x, out)`` on some rows after the other, over threads, in the dtype that is computed in."""
    compute, rows = computed(x.dtype), len(x)
    pieces = min(split(x.size, _PIECE), rows)
    step = max(1, _CHUNK // x.shape[1])

    def run(i: int) -> None:
        begin, end = rows * i // pieces, rows * (i + 1) // pieces
        if x.dtype == compute:
            call(x[begin:end], out[begin:end])
            return
        for first in range(begin, end, step):
            part = slice(first, min(first + step, end))
            result = np.empty(out[part].shape, compute)
            call(x[part].astype(compute), result)
            with np.errstate(all="ignore"):
                out[part] = result

    parallel(run, pieces)


def _by_stored(x: CSR, call: Callable[[int, int], None]) -> None:
    """``call(first row, last row)`` on rows with about as many stored elements each, over threads."""
    rows = x.shape[0]
    pieces = min(split(x.data.size + rows, _PIECE), rows)
    bounds = np.searchsorted(x.start, x.data.size * np.arange(1, pieces) // pieces)
    edges = [0, *bounds.tolist(), rows]
    parallel(lambda i: call(edges[i], edges[i + 1]), pieces)


def _occurring(x: CSR) -> tuple[Columns, Array]:
    """The columns that occur, and where among them each stored element's is."""
    d = x.shape[1]
    if d > 16 * x.column.size:
        unique, place = np.unique(x.column, return_inverse=True)
        return unique, place.reshape(-1)
    occurs = np.zeros(d, np.bool_)
    occurs[x.column] = True
    unique = np.flatnonzero(occurs)
    if len(unique) == d:
        return range(d), x.column
    number = np.cumsum(occurs) - 1
    return unique, number[x.column]


def _shifted(columns: Columns, by: int) -> Columns:
    return range(columns.start + by, columns.stop + by) if isinstance(columns, range) else columns + by


class RandomMatrix:
    """A matrix A of shape (k, d)."""

    def __init__(self, k: int, d: int, density: float, seed: int) -> None:
        self.k, self.d, self.density, self.seed = k, d, density, seed
        self.kept: dict[Any, Any] = {}

    def entries(self, first_row: int, rows: int, columns: Columns) -> NDArray[np.float64]:
        """Some entries of some rows."""
        raise NotImplementedError

    def times(self, x: Array, start: int = 0) -> Array:
        """``x @ A[:, start : start + x.shape[1]].T``, in the dtype of x."""
        raise NotImplementedError

    def times_csr(self, x: CSR, start: int = 0) -> Array:
        """`times` without densifying."""
        raise NotImplementedError


# ---- gaussian and rademacher: products by BLAS


class DenseMatrix(RandomMatrix):
    """Nearly no entry is zero. What products need is the transpose, so that is what is made."""

    def _filled(self, out: Array, first_row: int, columns: Columns) -> Array:
        """`out`, filled with the transpose of rows from the first on, over threads."""
        step = max(1, _MADE // len(columns))
        rows = out.shape[1]
        pieces = min(split(out.size, _PIECE), rows)

        def run(i: int) -> None:
            end = rows * (i + 1) // pieces
            for first in range(rows * i // pieces, end, step):
                n = min(step, end - first)
                out[:, first : first + n] = self.entries(first_row + first, n, columns).T

        parallel(run, pieces)
        return out

    def _all(self, dtype: np.dtype[Any]) -> Array | None:
        """The transpose of the matrix, if it is small enough to be kept."""
        if self.k * self.d * dtype.itemsize > KEPT_BYTES:
            return None
        if dtype not in self.kept:
            self.kept[dtype] = self._filled(np.empty((self.d, self.k), dtype), 0, range(self.d))
        kept: Array = self.kept[dtype]
        return kept

    def _blocks(self, start: int, width: int, dtype: np.dtype[Any]) -> Iterator[tuple[int, Array]]:
        """The transposes of blocks of rows, some columns of them, and the number of the first row of each."""
        kept = self._all(dtype)
        if kept is not None:
            yield 0, kept[start : start + width]
            return
        step = max(1, KEPT_BYTES // (width * dtype.itemsize))
        for first in range(0, self.k, step):
            block = np.empty((width, min(step, self.k - first)), dtype)
            yield first, self._filled(block, first, range(start, start + width))

    def times(self, x: Array, start: int = 0) -> Array:
        rows, width = x.shape
        compute = computed(x.dtype)
        out = np.empty((rows, self.k), x.dtype)
        # BLAS takes rows or columns that are contiguous; NumPy multiplies others one by one.
        ready = x.dtype == compute and (x.flags.c_contiguous or x.flags.f_contiguous)
        step = rows if ready else max(1, _CHUNK // width)
        with np.errstate(all="ignore"):
            for first, block in self._blocks(start, width, compute):
                for row in range(0, rows, step):
                    part, result = x[row : row + step], out[row : row + step, first : first + block.shape[1]]
                    if ready:
                        np.matmul(part, block, out=result)
                    else:
                        result[...] = np.ascontiguousarray(part, compute) @ block
        return out

    def times_csr(self, x: CSR, start: int = 0) -> Array:
        rows, compute = x.shape[0], computed(x.dtype)
        data = x.data.astype(compute, copy=False)
        with np.errstate(all="ignore"):
            if (kept := self._all(compute)) is not None:
                matrix = x.container((data, x.column, x.start), shape=x.shape)
                product: Array = matrix @ kept[start : start + x.shape[1]]
                return product.astype(x.dtype, copy=False)
            out = np.zeros((rows, self.k), compute)
            columns, place = _occurring(x)
            row = np.repeat(np.arange(rows), np.diff(x.start))
            order = np.argsort(place, kind="stable")
            step = max(1, KEPT_BYTES // (self.k * compute.itemsize))
            for first in range(0, len(columns), step):
                taken = _shifted(columns[first : first + step], start)
                lower, upper = np.searchsorted(place, (first, first + len(taken)), sorter=order)
                part = order[lower:upper]
                matrix = x.container((data[part], (row[part], place[part] - first)), shape=(rows, len(taken)))
                out += matrix @ self._filled(np.empty((len(taken), self.k), compute), 0, taken)
            return out.astype(x.dtype, copy=False)


class Gaussian(DenseMatrix):
    """Independent normal numbers of variance 1 / k."""

    def entries(self, first_row: int, rows: int, columns: Columns) -> NDArray[np.float64]:
        def make(first: int, n: int) -> Array:
            return _philox.normal(self.seed, Tag.GAUSSIAN, rows, n, first_row=first_row, first=first)

        block = made_at(make, columns)
        block /= math.sqrt(self.k)
        return block


class Rademacher(DenseMatrix):
    """Independent signs over sqrt(k)."""

    def entries(self, first_row: int, rows: int, columns: Columns) -> NDArray[np.float64]:
        value = 1 / math.sqrt(self.k)

        def make(first: int, n: int) -> Array:
            word, skipped = divmod(first, 64)
            words = _philox.words(
                self.seed, Tag.RADEMACHER, rows, -(-(skipped + n) // 64), first_row=first_row, first=word
            )
            octets = words.astype("<u8", copy=False).view(np.uint8)
            bits = np.unpackbits(octets, axis=-1, count=skipped + n, bitorder="little")[:, skipped:]
            return np.array([-value, value])[bits]

        return made_at(make, columns)


# ---- sparse: sums of fastk's own


class Sparse(RandomMatrix):
    """Independent entries, 0 or +-sqrt(1 / (density k))."""

    def __init__(self, k: int, d: int, density: float, seed: int) -> None:
        super().__init__(k, d, density, seed)
        self.threshold = round(density * 2**31)
        self.value = math.sqrt(1 / (density * k))

    def _halves(self, first_row: int, rows: int, columns: Columns) -> NDArray[np.uint32]:
        """The 32 bits that decide on an entry: 31 of them whether it is zero, the last one its sign."""

        def make(first: int, n: int) -> Array:
            word, skipped = divmod(first, 2)
            words = _philox.words(self.seed, Tag.SPARSE, rows, (skipped + n + 1) // 2, first_row=first_row, first=word)
            return words.astype("<u8", copy=False).view("<u4")[:, skipped : skipped + n]

        return made_at(make, columns)

    def entries(self, first_row: int, rows: int, columns: Columns) -> NDArray[np.float64]:
        halves = self._halves(first_row, rows, columns)
        signed = np.array([self.value, -self.value])[halves & 1]
        return np.where(halves >> 1 < self.threshold, signed, 0.0)

    def _listed(self, first_row: int, rows: int, columns: Columns, by_column: bool) -> tuple[Array, Array]:
        """Where the lists of nonzero entries begin, of each row or column; and the entries, place << 1 | negative."""
        width = len(columns)
        counts, entries = [], []
        step = max(1, _MADE // (rows if by_column else max(1, width)))
        for first in range(0, width if by_column else rows, step):
            if by_column:
                halves = self._halves(first_row, rows, columns[first : first + step]).T
            else:
                halves = self._halves(first_row + first, min(step, rows - first), columns)
            nonzero = halves >> 1 < self.threshold
            counts.append(np.count_nonzero(nonzero, axis=1))
            entries.append((np.nonzero(nonzero)[1] << 1 | halves[nonzero] & 1).astype(np.uint32))
        start = np.concatenate([[0], *counts]).cumsum().astype(np.int64, copy=False)
        return start, np.concatenate(entries) if entries else np.empty(0, np.uint32)

    def _bytes(self, columns: Columns, by_column: bool) -> int:
        """About how many the lists of some columns have."""
        return math.ceil(4 * self.density * len(columns) * self.k) + 8 * (1 + (len(columns) if by_column else self.k))

    def _is_kept(self, columns: Columns, by_column: bool) -> bool:
        whole = isinstance(columns, range) and columns == range(self.d)
        return whole and self._bytes(columns, by_column) <= KEPT_BYTES

    def _blocks(self, columns: Columns, by_column: bool) -> Iterator[tuple[int, int, Array, Array]]:
        """First row, number of rows and lists of blocks whose lists are not too large."""
        if self._is_kept(columns, by_column):
            if by_column not in self.kept:
                self.kept[by_column] = self._listed(0, self.k, columns, by_column)
            yield 0, self.k, *self.kept[by_column]
            return
        step = max(1, min(self.k, self.k * KEPT_BYTES // self._bytes(columns, by_column)))
        for first in range(0, self.k, step):
            rows = min(step, self.k - first)
            yield first, rows, *self._listed(first, rows, columns, by_column)

    def times(self, x: Array, start: int = 0) -> Array:
        d, compute = x.shape[1], computed(x.dtype)
        out = np.empty((len(x), self.k), x.dtype)
        kernel = getattr(kernels, f"sparse_project_f{8 * compute.itemsize}")
        scale = np.array([self.value], compute)

        def block(first: int, k: int, begin: Array, entry: Array) -> None:
            def call(x: Array, out: Array) -> None:
                operands = x, out, begin, entry, scale
                sizes = len(x), d, k, k + 1, entry.size
                if room := kernel(*operands, np.empty(0, compute), *sizes, 0):
                    kernel(*operands, np.empty(room, compute), *sizes, room)

            _by_rows(x, out[:, first : first + k], call)

        for each in self._blocks(range(start, start + d), False):
            block(*each)
        return out

    def times_csr(self, x: CSR, start: int = 0) -> Array:
        compute = computed(x.dtype)
        data, column = x.data.astype(compute, copy=False), x.column
        columns: Columns = range(start, start + x.shape[1])
        if not self._is_kept(columns, True):
            columns, column = _occurring(x)
            columns = _shifted(columns, start)
        out = np.empty((x.shape[0], self.k), compute)
        kernel = getattr(kernels, f"sparse_project_csr_f{8 * compute.itemsize}")
        scale = np.array([self.value], compute)

        def block(first: int, k: int, begin: Array, entry: Array) -> None:
            def call(top: int, end: int) -> None:
                part, result = x.start[top : end + 1], out[top:end, first : first + k]
                sizes = data.size, part.size, end - top, k, begin.size, entry.size
                kernel(data, column, part, result, begin, entry, scale, *sizes)

            _by_stored(x, call)

        for each in self._blocks(columns, True):
            block(*each)
        with np.errstate(all="ignore"):
            return out.astype(x.dtype, copy=False)


# ---- hadamard: sign flips, transform, sample


class Hadamard(RandomMatrix):
    """Blocks of p rows, p being the power of two that d is padded to: H times signs, rows in random order."""

    def __init__(self, k: int, d: int, density: float, seed: int) -> None:
        super().__init__(k, d, density, seed)
        self.p = 1 << (d - 1).bit_length()

    def _order(self, block: int) -> NDArray[np.uint32]:
        """Rows of H in the order in which they are taken."""
        n = min(self.p, self.k - block * self.p)
        words = _philox.words(self.seed, Tag.SRHT_SAMPLE, 1, self.p, first_row=block)[0]
        return np.argsort(words, kind="stable")[:n].astype(np.uint32)

    def _signs(self, block: int, dtype: Any) -> Array:
        row: Array = _philox.signs(self.seed, Tag.SRHT_SIGNS, 1, self.p, first_row=block, dtype=dtype)[0]
        return row

    def _blocks(self, dtype: Any) -> Iterable[tuple[Array, Array]]:
        """Signs and order of each block."""
        count = -(-self.k // self.p)
        made = ((self._signs(block, dtype), self._order(block)) for block in range(count))
        if np.dtype(dtype).itemsize * (count + 1) * self.p > KEPT_BYTES:
            return made
        if dtype not in self.kept:
            self.kept[dtype] = list(made)
        kept: list[tuple[Array, Array]] = self.kept[dtype]
        return kept

    def entries(self, first_row: int, rows: int, columns: Columns) -> NDArray[np.float64]:
        column = np.asarray(columns, np.uint32)
        out = np.empty((rows, len(column)))
        for block, (sign, order) in enumerate(self._blocks(np.dtype(np.float64))):
            low, high = max(first_row, block * self.p), min(first_row + rows, (block + 1) * self.p)
            if low >= high:
                continue
            common = order[low - block * self.p : high - block * self.p, None] & column
            for shift in (16, 8, 4, 2, 1):
                common ^= common >> shift
            odd = (common & 1).astype(np.bool_)
            signed = sign[column] / math.sqrt(self.k)
            out[low - first_row : high - first_row] = np.where(odd, -signed, signed)
        return out

    def _products(self, dtype: np.dtype[Any]) -> Iterator[tuple[slice, Callable[[Array, Array], None]]]:
        """Of each block: its components, and what computes them in this dtype."""
        kernel = getattr(kernels, f"srht_f{8 * dtype.itemsize}")
        scale = np.array([1 / math.sqrt(self.k)], dtype)

        def product(sign: Array, order: Array) -> Callable[[Array, Array], None]:
            def call(x: Array, out: Array) -> None:
                kernel(x, out, sign, order, scale, np.empty(self.p, dtype), *x.shape, order.size, self.p)

            return call

        for block, (sign, order) in enumerate(self._blocks(dtype)):
            yield slice(block * self.p, block * self.p + order.size), product(sign, order)

    def times(self, x: Array, start: int = 0) -> Array:
        out = np.empty((len(x), self.k), x.dtype)
        for components, product in self._products(computed(x.dtype)):
            _by_rows(x, out[:, components], product)
        return out

    def times_csr(self, x: CSR, start: int = 0) -> Array:
        rows, compute = x.shape[0], computed(x.dtype)
        out = np.empty((rows, self.k), compute)
        step = max(1, _CHUNK // self.d)
        pieces = min(split(rows * self.d, _PIECE), rows)
        products = list(self._products(compute))

        def run(i: int) -> None:
            end = rows * (i + 1) // pieces
            for first in range(rows * i // pieces, end, step):
                last = min(first + step, end)
                dense = x.dense(first, last, compute)
                for components, product in products:
                    product(dense, out[first:last, components])

        parallel(run, pieces)
        with np.errstate(all="ignore"):
            return out.astype(x.dtype, copy=False)


MATRICES: dict[str, type[RandomMatrix]] = {
    "gaussian": Gaussian,
    "sparse": Sparse,
    "rademacher": Rademacher,
    "hadamard": Hadamard,
}
