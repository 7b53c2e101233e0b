"""Long sparse codes, after a fly's sense of smell: FlyHash, with random connections, and BioHash, which learns."""
# ruff: noqa: N803  (X is what scikit-learn passes by name)

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from . import _philox
from ._check import check_seed, finite, integer, real
from ._estimator import CSR, Transformer, Unpickled, validate
from ._philox import Tag
from ._random_matrix import MOST_COLUMNS, Columns, Sparse, computed, made_at
from ._threads import parallel, split

Array = NDArray[Any]
Self = TypeVar("Self", bound="WinnersTakeAll")

MOST_BITS = 2**31 - 8
"""Bits of a code: distances are int32."""
ORDERS = 1 << 63
"""The first row of the words that order samples, apart from those of weights."""
_PIECE = 1 << 15
"""Elements that are worth a thread."""
_ROWS = 1 << 20
"""Elements of a part of the rows."""


def part(x: Array | CSR, first: int, last: int) -> Array | CSR:
    """Some rows, without a copy."""
    if not isinstance(x, CSR):
        return x[first:last]
    stored = slice(x.start[first], x.start[last])
    start = x.start[first : last + 1] - x.start[first]
    return replace(x, data=x.data[stored], column=x.column[stored], start=start, shape=(last - first, x.shape[1]))


def dense(x: Array | CSR) -> Array:
    """Rows as an array in the dtype that is computed in."""
    dtype = computed(x.dtype)
    return x.dense(dtype=dtype) if isinstance(x, CSR) else x.astype(dtype, copy=False)


def gathered(x: Array | CSR, rows: NDArray[np.int64]) -> Array:
    """Some rows, in any order, as `dense` has them."""
    if not isinstance(x, CSR):
        return dense(x[rows])
    count = np.diff(x.start)[rows]
    start = np.concatenate([[0], np.cumsum(count)])
    stored = np.repeat(x.start[rows] - start[:-1], count) + np.arange(start[-1])
    return dense(replace(x, data=x.data[stored], column=x.column[stored], start=start, shape=(len(rows), x.shape[1])))


def winners(values: Array, n_active: int) -> NDArray[np.bool_]:
    """Where the largest values of each row are; of equal ones the first."""
    if np.isnan(values).any():
        values = np.where(np.isnan(values), -np.inf, values)
    at = values.shape[1] - n_active
    least = np.partition(values, at, axis=1)[:, at, None]
    active: NDArray[np.bool_] = values > least
    tied = values == least
    missing = n_active - np.count_nonzero(active, axis=1)
    many = np.flatnonzero(np.count_nonzero(tied, axis=1) > missing)
    tied[many] &= np.cumsum(tied[many], axis=1) <= missing[many, None]
    active |= tied
    return active


class WinnersTakeAll(Transformer):
    """Codes that have bits set for the components that respond most."""

    _accepts_sparse = True
    _preserves_dtype = ()
    n_components: int
    n_active: int
    seed: int

    def _sizes(self) -> tuple[int, int]:
        n_components = integer(self.n_components, "n_components", 1, MOST_BITS)
        return n_components, integer(self.n_active, "n_active", 1, n_components, f"n_components, {n_components}")

    def _responses(self, x: Array | CSR) -> Array:
        """(rows, components) of some rows."""
        raise NotImplementedError

    def encode(self, X: Any) -> NDArray[np.uint8]:
        """Return the codes of vectors.

        Parameters
        ----------
        X : array_like or sparse matrix, shape (rows, features)
            Vectors.

        Returns
        -------
        ndarray of uint8, shape (rows, ceil(n_components / 8))
            Bit j of a code, ``numpy.unpackbits(code, bitorder="little")[j]``, is 1 if component j is one of the
            `n_active` that respond most; of equal ones the first count. So that many bits are set.

        Raises
        ------
        TypeError, ValueError
            If X is not what is allowed, or `fit` was not called.
        """
        self._check_fitted()
        x = validate(X, self, reset=False, accept_sparse=True)
        n_components, n_active = self._fitted_sizes
        code = np.empty((x.shape[0], self._n_features_out), np.uint8)
        step = max(1, _ROWS // n_components)
        for first in range(0, len(code), step):
            codes = code[first : first + step]
            with np.errstate(all="ignore"):
                values = self._responses(part(x, first, first + len(codes)))
            pieces = min(split(values.size, _PIECE), len(codes))

            def run(i: int, values: Array = values, codes: Array = codes, pieces: int = pieces) -> None:
                rows = slice(len(codes) * i // pieces, len(codes) * (i + 1) // pieces)
                codes[rows] = np.packbits(winners(values[rows], n_active), axis=1, bitorder="little")

            parallel(run, pieces)
        return code

    def transform(self, X: Any) -> Any:
        """Return the codes of vectors: `encode`, in the container that `set_output` asks for."""
        return self._contained(self.encode(X), X)

    _fitted_sizes: tuple[int, int]

    @property
    def _n_features_out(self) -> int:
        return -(-self._fitted_sizes[0] // 8)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_fitted_sizes")


# ---- FlyHash


class Connections(Sparse):
    """A 0/1 matrix: an entry is 1 if its 32 bits are below the density times 2^32."""

    def __init__(self, k: int, d: int, density: float, seed: int) -> None:
        super().__init__(k, d, density, seed)
        self.below = math.ceil(density * 2**32)
        self.threshold, self.value = 1, 1.0

    def _halves(self, first_row: int, rows: int, columns: Columns) -> NDArray[np.uint32]:
        """What the base takes for a positive entry, 0, or none."""

        def make(first: int, n: int) -> Array:
            word, skipped = divmod(first, 2)
            words = _philox.words(self.seed, Tag.FLY, rows, (skipped + n + 1) // 2, first_row=first_row, first=word)
            half = words.astype("<u8", copy=False).view("<u4")[:, skipped : skipped + n]
            return np.where(half < np.uint64(self.below), np.uint32(0), np.uint32(2**32 - 2))

        return made_at(make, columns)


class FlyHash(WinnersTakeAll):
    """Sparse codes by random connections: each component sums a few features, and the largest sums win.

    Parameters
    ----------
    n_components : int
        Length of the codes, usually several times the number of features.
    n_active : int
        How many bits of a code are set.
    density : float
        The probability that a feature and a component are connected, 2**-32 to 1.
    seed : int
        Key of the random numbers, 0 to 2**128 - 1.

    Attributes
    ----------
    n_features_in_ : int
        Number of features seen in `fit`.

    See Also
    --------
    BioHash : learns the connections.

    Notes
    -----
    The response of a component is the sum of the features that it is connected with, each less the mean of the vector's
    features. In the fly, and in the paper, division brings all vectors to the same mean, which changes no winner; here
    the mean becomes 0, so that components with more connections than others do not win whatever the vector is. Codes
    do not depend on the length of a vector, nor on a constant that is added to its features.

    Connections are independent: that of component i and feature j is there if a half of word j // 2 of
    ``numpy.random.Philox(key=seed, counter=[0, i, 0, 10])``, the low half for even j, is below density * 2^32. Sums go
    by growing feature, in float32 (float64 for float64) as `RandomProjection` has them: codes have the same bits on
    every backend, ISA level and machine, of dense and of sparse input, whatever the threads.

    Source: Dasgupta, Stevens and Navlakha, "A neural algorithm for a fundamental computing problem", 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from fastk.hashing import FlyHash, hamming_distance
    >>> x = np.random.default_rng(0).random((3, 50))
    >>> x[1] = x[0] + 0.01 * x[1]
    >>> codes = FlyHash(2000, 100).fit(x).encode(x)
    >>> codes.shape, np.unpackbits(codes, axis=1).sum(axis=1).tolist()
    ((3, 250), [100, 100, 100])
    >>> near, far = hamming_distance(codes[1:], codes[0])
    >>> bool(near < far / 2)
    True
    """

    def __init__(self, n_components: int, n_active: int, density: float = 0.1, seed: int = 0) -> None:
        self.n_components = n_components
        self.n_active = n_active
        self.density = density
        self.seed = seed

    def fit(self, X: Any, y: Any = None) -> FlyHash:
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
        sizes, seed = self._sizes(), check_seed(self.seed)
        allowed = "a number from 2**-32 to 1 is needed"
        density = real(self.density, "density", allowed)
        if not 2.0**-32 <= density <= 1:
            raise ValueError(f"density={self.density!r}: {allowed}")
        d = validate(X, self, reset=True, accept_sparse=True).shape[1]
        if d > MOST_COLUMNS:
            raise ValueError(f"X: {d} features; allowed are at most 2**31")
        self._fitted_sizes = sizes
        self._connected = d, density, seed
        self._kept = Unpickled()
        return self

    def _matrices(self) -> tuple[Connections, Connections, Array]:
        """The connections, one component that is connected with all, and how many connections components have."""
        if "made" not in self._kept:
            d, density, seed = self._connected
            matrix, whole = Connections(self._fitted_sizes[0], d, density, seed), Connections(1, d, 1.0, seed)
            self._kept["made"] = matrix, whole, matrix.times(np.ones((1, d)))
        made: tuple[Connections, Connections, Array] = self._kept["made"]
        return made

    def _responses(self, x: Array | CSR) -> Array:
        matrix, whole, degree = self._matrices()
        if isinstance(x, CSR):
            x = replace(x, data=x.data.astype(computed(x.dtype), copy=False))
            sums, total = matrix.times_csr(x), whole.times_csr(x)
        else:
            x = dense(x)
            sums, total = matrix.times(x), whole.times(x)
        sums -= total / sums.dtype.type(x.shape[1]) * degree.astype(sums.dtype)
        return sums


# ---- BioHash


class BioHash(WinnersTakeAll):
    """Sparse codes by components that learn: each comes to stand for a part of the data, and the nearest win.

    Parameters
    ----------
    n_components : int
        Length of the codes.
    n_active : int
        How many bits of a code are set.
    epochs : int
        How often `fit` goes through the data.
    learning_rate : float
        Above 0, up to 1: the part of the way that a winner goes towards a sample. In `fit` it falls to 0 with the
        epochs.
    batch_size : int
        How many samples are learnt at once.
    p : float
        Above 1: rows come to have p-norm 1, and are compared in its geometry while they learn.
    delta : float
        At least 0: how strongly the component of a rank goes away from a sample, as a part of how the winner comes.
    rank : int
        That rank, 2 to `n_components`; it matters if `delta` is not 0.
    seed : int
        Key of the random numbers, 0 to 2**128 - 1.

    Attributes
    ----------
    n_features_in_ : int
        Number of features seen in `fit`.
    components_ : ndarray, shape (n_components, n_features_in_)
        What has been learnt, w. float32, or float64 if X was.
    mean_ : ndarray of float64, shape (n_features_in_,)
        Mean of the data.
    n_samples_seen_ : int
        How many rows it is of.

    See Also
    --------
    FlyHash : does not learn.

    Notes
    -----
    The mean is taken from the data, and samples are scaled to length 1. Of a sample x, with
    ``[w, x] = sum(sign(w) * abs(w)**(p - 1) * x)``, which is the inner product for p = 2, the component with the
    largest ``[w, x]`` over that of ``w / norm(w)`` with itself, that is, ``[w / norm(w), x]``, wins. It learns
    ``w += learning_rate * (x - [w, x] * w)``, and the one of the given rank ``-delta`` times that. What m samples of a
    batch teach a component is averaged, and learnt with ``1 - (1 - learning_rate)**m``. It starts from normal numbers,
    scaled to norm 1; samples are ordered by Philox words.

    A code has the components of largest ``<x - mean, w>``; here w is not normalized.

    Products are by BLAS: on one machine, with as many of its threads, results are the same; on another one they may
    differ as roundings do, also in codes.

    Source: Ryali, Hopfield, Grinberg and Krotov, "Bio-inspired hashing for unsupervised similarity search", 2020;
    Krotov and Hopfield, "Unsupervised learning by competing hidden units", 2019.

    Examples
    --------
    >>> import numpy as np
    >>> from fastk.hashing import BioHash, hamming_distance
    >>> rng = np.random.default_rng(0)
    >>> x = np.repeat(rng.random((4, 20)), 50, axis=0) + 0.1 * rng.random((200, 20))
    >>> codes = BioHash(64, 4).fit_transform(x)
    >>> codes.shape, np.unpackbits(codes[:3], axis=1).sum(axis=1).tolist()
    ((200, 8), [4, 4, 4])
    >>> distance = hamming_distance(codes[0], codes)
    >>> bool(distance[:50].mean() < distance[50:].mean())
    True
    """

    def __init__(
        self,
        n_components: int,
        n_active: int,
        *,
        epochs: int = 20,
        learning_rate: float = 0.1,
        batch_size: int = 100,
        p: float = 2.0,
        delta: float = 0.0,
        rank: int = 2,
        seed: int = 0,
    ) -> None:
        self.n_components = n_components
        self.n_active = n_active
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.p = p
        self.delta = delta
        self.rank = rank
        self.seed = seed

    def _checked(self) -> tuple[tuple[int, int], int, int]:
        """The sizes of codes, the epochs and the seed; all parameters are checked."""
        sizes, epochs, seed = self._sizes(), integer(self.epochs, "epochs", 1), check_seed(self.seed)
        integer(self.batch_size, "batch_size", 1)
        if finite(self.learning_rate, "learning_rate", above=0) > 1:
            raise ValueError(f"learning_rate={self.learning_rate!r}: a number above 0, up to 1, is needed")
        finite(self.p, "p", above=1)
        if finite(self.delta, "delta") < 0:
            raise ValueError(f"delta={self.delta!r}: a number that is at least 0 is needed")
        if self.delta:
            integer(self.rank, "rank", 2, sizes[0], f"n_components, {sizes[0]}")
        else:
            integer(self.rank, "rank", 2)
        return sizes, epochs, seed

    def _begin(self, x: Array | CSR, sizes: tuple[int, int], seed: int) -> None:
        """Components that have learnt nothing."""
        w = _philox.normal(seed, Tag.BIO, sizes[0], x.shape[1])
        w /= _norm(w, self.p)
        self.components_ = w.astype(computed(x.dtype))
        self.mean_ = np.zeros(x.shape[1])
        self.n_samples_seen_ = 0
        self._fitted_sizes = sizes

    def _see(self, x: Array | CSR) -> None:
        """Take rows into the mean."""
        total = np.zeros(x.shape[1])
        step = max(1, _ROWS // x.shape[1])
        for first in range(0, x.shape[0], step):
            total += dense(part(x, first, min(first + step, x.shape[0]))).sum(axis=0, dtype=np.float64)
        self.n_samples_seen_ += x.shape[0]
        self.mean_ = self.mean_ + (total - x.shape[0] * self.mean_) / self.n_samples_seen_

    def _learn(self, x: Array, rate: float) -> None:
        """One batch, less the mean."""
        w, p = self.components_, self.p
        x = (x - self.mean_).astype(w.dtype, copy=False)
        length = np.sqrt(np.einsum("ij,ij->i", x, x))[:, None]
        x = np.divide(x, length, out=np.zeros_like(x), where=length > 0)
        product = x @ (w if p == 2 else np.sign(w) * np.abs(w) ** (p - 1)).T
        compared = product / _norm(w, p).T ** (p - 1)
        rows = np.arange(len(x))
        g = np.zeros_like(product)
        g[rows, compared.argmax(axis=1)] = 1
        if self.delta:
            ordered = np.argsort(-compared, axis=1, kind="stable")
            g[rows, ordered[:, self.rank - 1]] = -self.delta
        count = np.abs(g).sum(axis=0)
        taught = np.flatnonzero(count)
        g, product, count = g[:, taught], product[:, taught], count[taught]
        change = g.T @ x - (g * product).sum(axis=0)[:, None] * w[taught]
        w[taught] += change * ((1 - (1 - rate) ** count) / count)[:, None]

    def _pass(self, x: Array | CSR, order: Array | None, rate: float) -> None:
        """All rows once, in an order."""
        for first in range(0, x.shape[0], self.batch_size):
            last = min(first + self.batch_size, x.shape[0])
            self._learn(dense(part(x, first, last)) if order is None else gathered(x, order[first:last]), rate)

    def fit(self, X: Any, y: Any = None) -> BioHash:
        """Learn the components.

        Parameters
        ----------
        X : array_like or sparse matrix, shape (rows, features)
            The data.
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
        sizes, epochs, seed = self._checked()
        x = validate(X, self, reset=True, accept_sparse=True)
        with np.errstate(all="ignore"):
            self._begin(x, sizes, seed)
            self._see(x)
            for epoch in range(epochs):
                key = _philox.words(seed, Tag.BIO, 1, x.shape[0], first_row=ORDERS + epoch)[0]
                self._pass(x, np.argsort(key, kind="stable"), self.learning_rate * (1 - epoch / epochs))
        return self

    def partial_fit(self, X: Any, y: Any = None) -> BioHash:
        """Learn from more data: once, in its order, with `learning_rate` as it is.

        Parameters
        ----------
        X : array_like or sparse matrix, shape (rows, features)
            More rows of the data.
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
        fitted = self.__sklearn_is_fitted__()
        sizes, _, seed = self._checked()
        if fitted and sizes[0] != self._fitted_sizes[0]:
            raise ValueError(f"n_components={sizes[0]}: allowed is that of the first fit, {self._fitted_sizes[0]}")
        x = validate(X, self, reset=not fitted, accept_sparse=True)
        with np.errstate(all="ignore"):
            if not fitted:
                self._begin(x, sizes, seed)
            self._fitted_sizes = sizes
            self._see(x)
            self._pass(x, None, self.learning_rate)
        return self

    def _responses(self, x: Array | CSR) -> Array:
        rows = dense(x)
        w = self.components_.astype(rows.dtype, copy=False)
        responses: Array = rows @ w.T - w @ self.mean_.astype(rows.dtype)
        return responses


def _norm(w: Array, p: float) -> Array:
    """The p-norm of rows, as a column."""
    squares = np.einsum("ij,ij->i", w, w) if p == 2 else (np.abs(w) ** p).sum(axis=1)
    norm: Array = squares[:, None] ** (1 / p)
    return norm
