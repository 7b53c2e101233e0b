"""Hashing of real vectors to packed codes, and search among codes by Hamming distance.

`SimHash` and `CrossPolytopeHash` are about angles; `FlyHash` and `BioHash` make long sparse codes, as a fly does.
Each is an estimator as scikit-learn has them: `fit` checks the parameters and learns (for the first three only the
number of features), `encode` makes the codes. All randomness is a function of the seed, the same on every machine.
"""
# ruff: noqa: N803  (X is what scikit-learn passes by name)

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._arrays import aligned
from ._check import check_seed, integer
from ._estimator import CSR, Transformer, Unpickled, check_finite, validate
from ._hamming import hamming_distance, hamming_range, hamming_topk
from ._philox import Tag, normal, signs
from ._random_matrix import computed, haar
from ._sparse_hashes import MOST_BITS, BioHash, FlyHash
from ._threads import parallel, split
from .config import kernels

__all__ = [
    "BioHash",
    "CrossPolytopeHash",
    "FlyHash",
    "SimHash",
    "hamming_distance",
    "hamming_range",
    "hamming_topk",
]

Array = NDArray[Any]

LEAST_ROTATION = 256
"""Dimensions that rotations by Hadamard rounds have at least."""
LEAST_SHARED = 2048
"""The same, where a hash takes several of them."""
SHARE = 16
"""One of so many dimensions of a rotation is the most that a hash takes."""
ROUNDS = 1 << 63
"""The first row of cross-polytope rotations by rounds, apart from rows of Gaussian ones."""
STORED = 1 << 26
"""Bytes of a matrix that is kept."""
_BLOCK = 1 << 24
"""Bytes of a part of a matrix that is not kept."""
_PIECE = 1 << 15
"""Elements of rotations that are worth a thread."""
_ROWS = 1 << 20
"""Elements of a part of the rows."""
_CACHE = 1 << 18
"""Elements that stay in cache from one pass to the next."""


# ---- what the estimators share


def _choice(value: Any, name: str, allowed: tuple[str, ...]) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name}={value!r}: a string is needed, one of {', '.join(allowed)}")
    if value not in allowed:
        raise ValueError(f"{name}={value!r}: allowed are {', '.join(allowed)}")
    return value


def _part(x: Array | CSR, first: int, last: int, dtype: np.dtype[Any]) -> Array:
    """Some rows as an array of a dtype, in place if they are one."""
    return x.dense(first, last, dtype) if isinstance(x, CSR) else x[first:last].astype(dtype, copy=False)


def _parts(x: Array | CSR, dtype: np.dtype[Any], elements: int, first: int = 0, last: int | None = None) -> Any:
    """Rows a few at a time: where they begin and end, and themselves."""
    last = x.shape[0] if last is None else last
    step = max(1, elements // x.shape[1])
    for at in range(first, last, step):
        end = min(last, at + step)
        yield at, end, _part(x, at, end, dtype)


def _over_rows(run: Callable[[int, int], None], rows: int, elements: int) -> None:
    """Call it for parts of the rows, one in each thread."""
    pieces = min(split(rows * elements, _PIECE), rows)
    parallel(lambda i: run(rows * i // pieces, rows * (i + 1) // pieces), pieces)


def _rotation(seed: int, sign_tag: int, sign_row: int, normal_tag: int, normal_row: int, p: int, n: int) -> Array:
    """The tables of n rotations by Hadamard rounds, float64 (n, 3 p).

    A rotation is H R H D2 H D1: D1 and D2 are random signs, R turns coordinates i and i + p / 2 by a random angle and
    keeps H, which is not normalised, from growing the numbers more than p sqrt(2) times.
    """
    table = np.empty((n, 3 * p))
    pairs = signs(seed, sign_tag, 2 * n, p, first_row=sign_row, dtype=np.float64)
    table[:, : 2 * p] = pairs.reshape(n, 2 * p)
    g = normal(seed, normal_tag, n, p, first_row=normal_row)
    u, v = g[:, : p // 2], g[:, p // 2 :]
    r = np.sqrt(u * u + v * v)
    scale = 2.0 ** -((p.bit_length() - 1) // 2)
    table[:, 2 * p : 2 * p + p // 2] = u / r * scale
    table[:, 2 * p + p // 2 :] = v / r * scale
    return table


def _power_of_two(n: int) -> int:
    """The least power of two that is not below n."""
    return 1 << (n - 1).bit_length()


class _Matrix:
    """Rows of a random matrix, kept if they are few, otherwise made a block at a time."""

    def __init__(self, seed: int, tag: Tag, rows: int, columns: int, multiple: int, orthogonal: bool = False) -> None:
        self.seed, self.tag, self.rows, self.columns = seed, tag, rows, columns
        self.multiple, self.orthogonal = multiple, orthogonal
        self.kept = Unpickled()

    def blocks(self, dtype: np.dtype[Any]) -> Iterator[tuple[int, Array]]:
        """The number of the first row, and some rows: a multiple of them, but for the last block."""
        kept = self.kept.get(dtype.name)
        if kept is None and self.rows * self.columns * dtype.itemsize <= STORED:
            kept = np.empty((self.rows, self.columns), dtype)
            for first, block in self._made():
                kept[first : first + len(block)] = block
            self.kept[dtype.name] = kept
        if kept is not None:
            yield 0, kept
            return
        for first, block in self._made():
            yield first, block.astype(dtype)

    def _made(self) -> Iterator[tuple[int, Array]]:
        if self.orthogonal:
            yield from self._orthogonal()
            return
        step = max(1, _BLOCK // (8 * self.columns * self.multiple)) * self.multiple
        for first in range(0, self.rows, step):
            yield first, normal(self.seed, self.tag, min(step, self.rows - first), self.columns, first_row=first)

    def _orthogonal(self) -> Iterator[tuple[int, Array]]:
        """Haar blocks, a few of them together; what is more than a multiple of rows goes before the next."""
        d = self.columns
        step = max(1, _BLOCK // (8 * d * d)) * d
        first, rest = 0, np.empty((0, d))
        for row in range(0, self.rows, step):
            count = min(step, self.rows - row)
            whole = count // d * d
            g = normal(self.seed, self.tag, count, d, first_row=row)
            block = np.concatenate([rest, *haar(g[:whole].reshape(-1, d, d)), *haar(g[whole:][None])])
            last = row + count == self.rows
            some = len(block) if last else len(block) // self.multiple * self.multiple
            yield first, block[:some]
            first, rest = first + some, block[some:]


# ---- SimHash


class _Rounds:
    """SimHash codes by Hadamard rounds."""

    def __init__(self, seed: int, n_bits: int, n_features: int) -> None:
        self.seed, self.n_bits = seed, n_bits
        self.p = max(LEAST_ROTATION, _power_of_two(n_features))
        self.blocks = -(-n_bits // self.p)
        self.kept = Unpickled()

    def _table(self, dtype: np.dtype[Any]) -> Array:
        table = self.kept.get(dtype.name)
        if table is None:
            tags = (Tag.SIMHASH_SIGNS, 0, Tag.SIMHASH_ROTATION, 0)
            table = _rotation(self.seed, *tags, self.p, self.blocks).astype(dtype).reshape(-1)
            if table.nbytes <= STORED:
                self.kept[dtype.name] = table
        return table

    def encode(self, x: Array | CSR, code: Array) -> None:
        dtype = computed(x.dtype)
        table = self._table(dtype)
        kernel = kernels.simhash_f64 if dtype == np.float64 else kernels.simhash_f32

        def run(first: int, last: int) -> None:
            work = aligned(self.p, dtype)
            for at, end, rows in _parts(x, dtype, _CACHE, first, last):
                shape = *rows.shape, code.shape[1]
                kernel(rows, code[at:end], table, work, *shape, self.n_bits, self.p, table.size)
                # A nan or infinity has gone everywhere, and no bit is set: few rows are left to look at.
                check_finite(rows[~code[at:end].any(axis=1)], "SimHash")

        _over_rows(run, x.shape[0], self.p * self.blocks)


class _Dense:
    """SimHash codes by products with a matrix."""

    def __init__(self, seed: int, n_bits: int, n_features: int, orthogonal: bool) -> None:
        self.matrix = _Matrix(seed, Tag.SIMHASH_DENSE, n_bits, n_features, 8, orthogonal)

    def encode(self, x: Array | CSR, code: Array) -> None:
        dtype = computed(x.dtype)
        kernel = kernels.pack_signs_f64 if dtype == np.float64 else kernels.pack_signs_f32
        for first, matrix in self.matrix.blocks(dtype):
            n, step = len(matrix), max(1, _ROWS // max(len(matrix), x.shape[1]))
            columns = code[:, first // 8 : -(-(first + n) // 8)]
            for at, end, rows in _parts(x, dtype, step * x.shape[1]):
                with np.errstate(all="ignore"):
                    projected = rows @ matrix.T
                kernel(projected, columns[at:end], end - at, n, columns.shape[1])


class SimHash(Transformer):
    """Codes whose Hamming distance estimates the angle between vectors: the signs of random projections.

    A bit of the codes of two vectors with angle t differs with probability t / pi. So the distance of codes of n bits
    has mean n t / pi, and `angle` is an unbiased estimate.

    Parameters
    ----------
    n_bits : int
        Length of the codes; it may be more than the number of features.
    method : {"hadamard", "gaussian", "orthogonal"}
        How vectors are projected.

        "hadamard": by random rotations of p dimensions, three fast Hadamard transforms with random signs and random
        plane rotations in between; p is the power of two from the number of features up, at least 256. It takes
        some 3 log2(p) operations a bit, and no matrix.

        "gaussian": by independent normal vectors. Over seeds the distance is exactly Binomial(n_bits, t / pi).

        "orthogonal": by the rows of random orthogonal matrices (Haar measure), one after the other. The mean is the
        same and the variance smaller: down to 0.6 times that, at 90 degrees, if n_bits is the number of features.
    seed : int
        Key of the random numbers, 0 to 2**128 - 1. Shorter codes of a seed are the first bits of longer ones.

    Attributes
    ----------
    n_features_in_ : int
        Number of features seen in `fit`.

    Notes
    -----
    float16, bfloat16 and float32 are computed in float32, other numbers in float64. Rows of a sparse matrix are made
    dense, a few at a time. Codes depend on the direction of a vector alone, in the range below; the bits of zero are
    all 1.

    The mean is exact for "gaussian" and "orthogonal". "hadamard" is no uniform rotation, but no difference was
    found: over 10^8 bits each, of vectors of 2, 3 and 64 features, also one-hot, the part that differed was t / pi
    within 1e-4, less than three standard errors (within 4e-4 over 10^7 bits, of 2 to 1000 features, 5 to 120 degrees).
    The variance is as with "orthogonal" in p dimensions.

    With "hadamard", codes have the same bits on every backend, ISA level and machine, whatever the threads. No number
    leaves the range while the norm of a vector is at most 2**127 / p (float32; 2**1023 / p for float64), and precision
    is full from a norm of 2**-100 up (float64: 2**-1000): bring others into this range before. With the other methods,
    the product is by BLAS: a projection that is smaller than its rounding error, some 1e-7 of the norm, may come out
    with either sign.

    Source: Charikar, "Similarity estimation techniques from rounding algorithms", 2002; for "orthogonal" Ji et al.,
    "Super-bit locality-sensitive hashing", 2012; for the rounds of "hadamard" Andoni et al., "Practical and optimal LSH
    for angular distance", 2015.

    Examples
    --------
    >>> import numpy as np
    >>> from fastk.hashing import SimHash, hamming_distance
    >>> x = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 4.0], [-1.0, -2.0, -3.0]])
    >>> hasher = SimHash(4096).fit(x)
    >>> codes = hasher.encode(x)
    >>> codes.shape, codes.dtype
    ((3, 512), dtype('uint8'))
    >>> distance = hamming_distance(codes, codes[0])
    >>> hasher.cosine(distance).round(2)
    array([ 1.  ,  0.99, -1.  ])
    """

    _accepts_sparse = True
    _preserves_dtype = ()

    def __init__(self, n_bits: int, *, method: str = "hadamard", seed: int = 0) -> None:
        self.n_bits = n_bits
        self.method = method
        self.seed = seed

    def fit(self, X: Any, y: Any = None) -> SimHash:
        """Check the parameters, and learn the number of features.

        Parameters
        ----------
        X : array_like or sparse matrix, shape (rows, features)
            Vectors.
        y : object
            Not used.

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            If a parameter or X is not what is allowed.
        """
        n_bits, seed = integer(self.n_bits, "n_bits", 1, MOST_BITS), check_seed(self.seed)
        method = _choice(self.method, "method", ("hadamard", "gaussian", "orthogonal"))
        d = validate(X, self, reset=True, accept_sparse=True).shape[1]
        self._n_bits = n_bits
        self._coder: _Rounds | _Dense
        if method == "hadamard":
            self._coder = _Rounds(seed, n_bits, d)
        else:
            self._coder = _Dense(seed, n_bits, d, method == "orthogonal")
        return self

    def encode(self, X: Any) -> NDArray[np.uint8]:
        """Return the codes of vectors.

        Parameters
        ----------
        X : array_like or sparse matrix, shape (rows, features)
            Vectors.

        Returns
        -------
        ndarray of uint8, shape (rows, ceil(n_bits / 8))
            Bit j of a code is ``numpy.unpackbits(code, bitorder="little")[j]``: 1 where the projection is >= 0. Bits
            from `n_bits` on are 0.

        Raises
        ------
        TypeError, ValueError
            If X is not what is allowed, or `fit` was not called.
        """
        self._check_fitted()
        x = validate(X, self, reset=False, accept_sparse=True, finite=not isinstance(self._coder, _Rounds))
        code = np.empty((x.shape[0], self._n_features_out), np.uint8)
        self._coder.encode(x, code)
        return code

    def transform(self, X: Any) -> Any:
        """Return the codes of vectors: `encode`, in the container that `set_output` asks for."""
        return self._contained(self.encode(X), X)

    @property
    def _n_features_out(self) -> int:
        return -(-self._n_bits // 8)

    def angle(self, distance: ArrayLike) -> Any:
        """Return the angle that a Hamming distance of codes estimates, pi * distance / n_bits.

        Parameters
        ----------
        distance : array_like of real numbers
            Hamming distances, from 0 to `n_bits`.

        Returns
        -------
        ndarray or scalar of float64
            Radians, 0 to pi. The estimate is unbiased.

        Raises
        ------
        TypeError, ValueError
            If a distance is none.
        """
        n_bits = self._n_bits if self.__sklearn_is_fitted__() else integer(self.n_bits, "n_bits", 1, MOST_BITS)
        d = np.asarray(distance)
        if d.dtype.kind not in "iuf":
            raise TypeError(f"distance: dtype {d.dtype}; allowed are real numbers")
        if not ((d >= 0) & (d <= n_bits)).all():
            bad = d[~((d >= 0) & (d <= n_bits))].flat[0]
            raise ValueError(f"distance={bad}: allowed is 0 to n_bits, {n_bits}")
        return np.multiply(d, math.pi / n_bits, dtype=np.float64)

    def cosine(self, distance: ArrayLike) -> Any:
        """Return the cosine of `angle`.

        Parameters
        ----------
        distance : array_like of real numbers
            As for `angle`.

        Returns
        -------
        ndarray or scalar of float64
            -1 to 1. Unlike the angle, it is biased towards 0, by some ``cosine * angle * (pi - angle) / (2 n_bits)``.

        Raises
        ------
        TypeError, ValueError
            As `angle`.
        """
        return np.cos(self.angle(distance))

    def collision_probability(self, angle: ArrayLike) -> Any:
        """Return the probability that a bit is the same for two vectors, 1 - angle / pi.

        Parameters
        ----------
        angle : array_like of real numbers
            Radians, 0 to pi.

        Returns
        -------
        ndarray or scalar of float64

        Raises
        ------
        TypeError, ValueError
            If an angle is none.
        """
        return 1 - _angles(angle) / math.pi


def _angles(angle: ArrayLike) -> Array:
    t = np.asarray(angle)
    if t.dtype.kind not in "iuf":
        raise TypeError(f"angle: dtype {t.dtype}; allowed are real numbers")
    if not ((t >= 0) & (t <= math.pi)).all():
        bad = t[~((t >= 0) & (t <= math.pi))].flat[0]
        raise ValueError(f"angle={bad}: allowed is 0 to pi")
    return t.astype(np.float64)


# ---- cross-polytope


class CrossPolytopeHash(Transformer):
    """Hashes that are the nearest signed axis after a random rotation; vectors at a small angle collide often.

    Parameters
    ----------
    n_hashes : int
        How many hashes a vector has.
    n_dims : int, optional
        Dimensions after the rotation, 1 to 2**30. None is the power of two from the number of features up. Fewer
        dimensions collide more often, and tell near from far less well.
    method : {"hadamard", "gaussian"}
        How vectors are rotated.

        "hadamard": by the rotations of `SimHash`, of p dimensions: the power of two from the number of features and
        from 16 `n_dims` up, at least 2048. As many hashes as fit share a rotation, each with dimensions of its own.

        "gaussian": by independent normal vectors, the law that `collision_probability` computes.
    seed : int
        Key of the random numbers, 0 to 2**128 - 1. The first hashes of a seed do not depend on how many there are.

    Attributes
    ----------
    n_features_in_ : int
        Number of features seen in `fit`.
    n_dims_ : int
        Dimensions after the rotation.

    Notes
    -----
    With "hadamard" collisions are those of a true rotation of p dimensions, which are a little rarer than
    `collision_probability` says: at 90 degrees, where that shows most, by less than 2 %.

    Precision, range and equal bits are as for `SimHash`. Of dimensions with the same magnitude the first counts; so
    zero has hash 0.

    Source: Terasawa and Tanaka, "Spherical LSH for approximate nearest neighbor search on unit hypersphere", 2007;
    Andoni et al., "Practical and optimal LSH for angular distance", 2015.

    Examples
    --------
    >>> import numpy as np
    >>> from fastk.hashing import CrossPolytopeHash
    >>> x = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.5], [-1.0, -2.0, -3.0]])
    >>> hasher = CrossPolytopeHash(1000).fit(x)
    >>> codes = hasher.encode(x)
    >>> codes.shape, codes.dtype
    ((3, 1000), dtype('int32'))
    >>> (codes == codes[0]).mean(axis=1).round(2)
    array([1.  , 0.95, 0.  ])
    """

    _accepts_sparse = True
    _preserves_dtype = ()

    def __init__(self, n_hashes: int, *, n_dims: int | None = None, method: str = "hadamard", seed: int = 0) -> None:
        self.n_hashes = n_hashes
        self.n_dims = n_dims
        self.method = method
        self.seed = seed

    def fit(self, X: Any, y: Any = None) -> CrossPolytopeHash:
        """Check the parameters, and learn the number of features.

        Parameters
        ----------
        X : array_like or sparse matrix, shape (rows, features)
            Vectors.
        y : object
            Not used.

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            If a parameter or X is not what is allowed.
        """
        n_hashes, seed = integer(self.n_hashes, "n_hashes", 1, 2**31 - 1), check_seed(self.seed)
        method = _choice(self.method, "method", ("hadamard", "gaussian"))
        n_dims = None if self.n_dims is None else integer(self.n_dims, "n_dims", 1, 2**30)
        d = validate(X, self, reset=True, accept_sparse=True).shape[1]
        self.n_dims_ = _power_of_two(d) if n_dims is None else n_dims
        self._n_hashes = n_hashes
        self._coder: _Turned | _Projected
        if method == "hadamard":
            self._coder = _Turned(seed, n_hashes, self.n_dims_, d)
        else:
            self._coder = _Projected(seed, n_hashes, self.n_dims_, d)
        return self

    def encode(self, X: Any) -> NDArray[np.int32]:
        """Return the hashes of vectors.

        Parameters
        ----------
        X : array_like or sparse matrix, shape (rows, features)
            Vectors.

        Returns
        -------
        ndarray of int32, shape (rows, n_hashes)
            i where the coordinate of largest magnitude is the positive number i, and i + n_dims_ where it is negative.

        Raises
        ------
        TypeError, ValueError
            If X is not what is allowed, or `fit` was not called.
        """
        self._check_fitted()
        x = validate(X, self, reset=False, accept_sparse=True)
        code = np.empty((x.shape[0], self._n_hashes), np.int32)
        with np.errstate(all="ignore"):
            self._coder.encode(x, code)
        return code

    def transform(self, X: Any) -> Any:
        """Return the hashes of vectors: `encode`, in the container that `set_output` asks for."""
        return self._contained(self.encode(X), X)

    @property
    def _n_features_out(self) -> int:
        return self._n_hashes

    def collision_probability(self, angle: ArrayLike) -> Any:
        """Return the probability that a hash is the same for two vectors, with independent normal projections.

        Parameters
        ----------
        angle : array_like of real numbers
            Radians, 0 to pi.

        Returns
        -------
        ndarray or scalar of float64
            Accurate to 1e-7. The class says how far "hadamard" is from it.

        Raises
        ------
        TypeError, ValueError
            If an angle is none, or `fit` was not called.
        """
        self._check_fitted()
        t = _angles(angle)
        return np.array([_collision(self.n_dims_, each) for each in t.flat]).reshape(t.shape)[()]


def _nearest_axis(v: Array, code: Array) -> None:
    """The hashes of rotated rows, (rows, hashes, n_dims)."""
    place = np.abs(v).argmax(axis=-1)
    value = np.take_along_axis(v, place[..., None], -1)[..., 0]
    code[...] = place + v.shape[-1] * (value < 0)


class _Turned:
    """Cross-polytope hashes by Hadamard rounds."""

    def __init__(self, seed: int, n_hashes: int, n_dims: int, n_features: int) -> None:
        self.seed, self.n_hashes, self.n_dims = seed, n_hashes, n_dims
        self.p = max(LEAST_SHARED, _power_of_two(max(n_features, SHARE * n_dims)))
        self.each = self.p // n_dims
        self.rotations = -(-n_hashes // self.each)
        self.kept = Unpickled()

    def _tables(self, dtype: np.dtype[Any]) -> Iterator[Array]:
        tables = self.kept.get(dtype.name)
        if tables is not None:
            yield from tables
            return
        keep = self.rotations * 3 * self.p * dtype.itemsize <= STORED
        made = []
        for i in range(self.rotations):
            tags = Tag.CROSS_POLYTOPE, ROUNDS + 3 * i, Tag.CROSS_POLYTOPE, ROUNDS + 3 * i + 2
            table = _rotation(self.seed, *tags, self.p, 1)[0].astype(dtype)
            if keep:
                made.append(table)
            yield table
        if keep:
            self.kept[dtype.name] = made

    def encode(self, x: Array | CSR, code: Array) -> None:
        dtype = computed(x.dtype)
        for i, table in enumerate(self._tables(dtype)):
            hashes = code[:, i * self.each : (i + 1) * self.each]

            def run(first: int, last: int, table: Array = table, hashes: Array = hashes) -> None:
                count = hashes.shape[1]
                step = max(1, _CACHE // self.p)
                for at in range(first, last, step):
                    end = min(last, at + step)
                    turned = self._turned(_part(x, at, end, dtype), table)[:, : count * self.n_dims]
                    _nearest_axis(turned.reshape(end - at, count, self.n_dims), hashes[at:end])

            _over_rows(run, x.shape[0], self.p)

    def _turned(self, x: Array, table: Array) -> Array:
        d, p, half = x.shape[1], self.p, self.p // 2
        kernel = kernels.hadamard_f64 if x.dtype == np.float64 else kernels.hadamard_f32
        v = np.zeros((len(x), p), x.dtype)
        np.multiply(x, table[:d], out=v[:, :d])
        kernel(v, v, v.size, p, 1, 0)
        v *= table[p : 2 * p]
        kernel(v, v, v.size, p, 1, 0)
        c, s, a, b = table[2 * p : 2 * p + half], table[2 * p + half :], v[:, :half], v[:, half:]
        v[:, :half], v[:, half:] = c * a - s * b, s * a + c * b
        kernel(v, v, v.size, p, 1, 0)
        return v


class _Projected:
    """Cross-polytope hashes by products with a Gaussian matrix."""

    def __init__(self, seed: int, n_hashes: int, n_dims: int, n_features: int) -> None:
        self.n_dims = n_dims
        self.matrix = _Matrix(seed, Tag.CROSS_POLYTOPE, n_hashes * n_dims, n_features, n_dims)

    def encode(self, x: Array | CSR, code: Array) -> None:
        dtype = computed(x.dtype)
        for first, matrix in self.matrix.blocks(dtype):
            hashes = code[:, first // self.n_dims : (first + len(matrix)) // self.n_dims]
            step = max(1, _ROWS // max(matrix.shape))
            for at, end, rows in _parts(x, dtype, step * x.shape[1]):
                projected = (rows @ matrix.T).reshape(end - at, -1, self.n_dims)
                _nearest_axis(projected, hashes[at:end])


_TAIL = 8.5
"""Where a normal density is nothing."""


@cache
def _nodes(n: int) -> tuple[Array, Array]:
    """Nodes and weights of Gauss-Legendre quadrature on [0, 1]."""
    node, weight = np.polynomial.legendre.leggauss(n)
    return (node + 1) / 2, weight / 2


def _collision(n: int, angle: float) -> float:
    """Probability that the largest of n pairs of normal variables is the same, sign included.

    It is 2 n times the integral, over u, v > 0, of the density of a pair with correlation cos(angle), times the
    probability that another pair lies in [-u, u] x [-v, v], to the power n - 1. By Plackett's identity, the derivative
    of that probability by the correlation is twice the difference of the densities at (u, v) and (u, -v).
    """
    rho, sigma = math.cos(angle), math.sin(angle)
    if n == 1 or sigma < 1e-9:
        return max(0.0, 1 - angle / math.pi)
    (u, du), (z, dz), (w, dw) = _nodes(192), _nodes(128), _nodes(48)
    u, du = u[:, None] * (_TAIL + 2), du[:, None] * (_TAIL + 2)
    least = np.clip(-rho * u / sigma, -_TAIL, _TAIL)
    z, dz = least + z * (_TAIL - least), dz * (_TAIL - least)
    v = np.maximum(rho * u + sigma * z, 0)
    erf = np.vectorize(math.erf, otypes=[float])
    inside = erf(u / math.sqrt(2)) * erf(v / math.sqrt(2))
    # In y = pi / 2 - asin(correlation), on a scale of logarithms: near 0 all happens.
    near = min(angle, math.pi - angle)
    span = math.log(math.pi / 2 / near)
    for each, weight in zip(near * np.exp(span * w), dw, strict=True):
        gap, spread = 2 * math.sin(each) ** 2, 1 + math.cos(each)
        same = np.exp(-((u - v) ** 2) / gap - u * v / spread)
        opposite = np.exp(-((u + v) ** 2) / gap + u * v / spread)
        inside += weight * span * each / math.pi * (same - opposite)
    density = np.exp(-(u * u + z * z) / 2) / (2 * math.pi)
    return float(2 * n * (density * np.clip(inside, 0, 1) ** (n - 1) * du * dz).sum())
