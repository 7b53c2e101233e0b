"""Projections: the fast Walsh-Hadamard transform, random projections, and linear algebra around them.

A random projection of d numbers to k keeps squared norms, and those of differences, up to a factor of
1 +- O(sqrt(1 / k)), whatever d is. Its matrix is a pure function of (seed, row, column), from Philox words: it need not
be stored, any part of it can be made by itself, and it has the same bits on every machine.

W. B. Johnson and J. Lindenstrauss, "Extensions of Lipschitz mappings into a Hilbert space", 1984.
D. Achlioptas, "Database-friendly random projections", 2003. P. Li, T. Hastie and K. Church, "Very sparse random
projections", 2006. N. Ailon and B. Chazelle, "The fast Johnson-Lindenstrauss transform", 2009. J. Tropp, "Improved
analysis of the subsampled randomized Hadamard transform", 2011.
"""
# ruff: noqa: N803  (X is what scikit-learn passes by name)

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._arrays import Output, check_out, readable
from ._check import boolean, check_seed, integer, real
from ._estimator import CSR, FLOATS, Transformer, Unpickled, checked, validate
from ._features import positive_random_features, positive_random_features_variance
from ._linear import (
    Whitening,
    angle_cdf,
    angle_pdf,
    entropy_min_dim,
    johnson_lindenstrauss_min_dim,
    randomized_svd,
    randomized_svd_error,
)
from ._random_matrix import MATRICES, MOST_COLUMNS, Columns, RandomMatrix, computed, made_at
from ._threads import parallel, split
from .config import kernels

__all__ = [
    "RandomProjection",
    "Whitening",
    "angle_cdf",
    "angle_pdf",
    "entropy_min_dim",
    "hadamard_transform",
    "johnson_lindenstrauss_min_dim",
    "positive_random_features",
    "positive_random_features_variance",
    "randomized_svd",
    "randomized_svd_error",
]

Array = NDArray[Any]
Part = slice | Sequence[SupportsIndex] | NDArray[np.integer[Any]] | None

_USUAL = np.dtype(np.float32), np.dtype(np.float64)
_PIECE = 1 << 16
"""Elements that are worth a thread."""
_TILE = 1 << 15
"""Elements that are gathered, transformed and put back together."""
_RUN = 32
"""The least number of neighbours that a tile takes, so that no cache line is fetched for a few of its elements."""
_LEAST_DENSITY = 2.0**-31
_HALF_ROOT = 0.7071067811865476


# ---- Walsh-Hadamard


def _operand(x: ArrayLike) -> Array:
    array = x if type(x) is np.ndarray else np.asarray(x)
    if array.dtype in _USUAL and array.flags.aligned:
        return array
    if array.dtype.kind in "biu":
        return array.astype(np.float64)
    if array.dtype.name not in FLOATS:
        raise TypeError(f"x: dtype {array.dtype}; allowed are {', '.join(FLOATS)}, and integers")
    return readable(array, array.dtype.newbyteorder("="))


def _scale(n: int, dtype: np.dtype[Any]) -> Any:
    """What a transform of length n is normalized with, as kernels compute it."""
    log = n.bit_length() - 1
    return dtype.type(_HALF_ROOT if log % 2 else 1) * dtype.type(2.0 ** -(log // 2))


def _tiles(x: Array, out: Array, scale: Any) -> None:
    """Transform (rows, n, inner) along the middle, tile by tile over threads, with scale None for not normalized."""
    rows, n, inner = x.shape
    compute = computed(x.dtype)
    width = min(inner, max(_RUN, _TILE // n))
    height = max(1, _TILE // (n * width)) if width == inner else 1
    across = -(-inner // width)
    count = -(-rows // height) * across
    pieces = min(split(x.size, _PIECE), count)
    kernel = getattr(kernels, f"hadamard_f{8 * compute.itemsize}")

    def run(i: int) -> None:
        for tile in range(count * i // pieces, count * (i + 1) // pieces):
            row, column = tile // across * height, tile % across * width
            part = slice(row, row + height), slice(None), slice(column, column + width)
            work = np.empty(x[part].shape, compute)
            work[...] = x[part]
            kernel(work, work, work.size, n, work.shape[2], 0)
            with np.errstate(all="ignore"):
                out[part] = work if scale is None else np.multiply(work, scale, out=work)

    parallel(run, pieces)


def _transform(x: Array, out: Array, normalize: bool) -> None:
    """Transform (rows, n, inner) along the middle; both are contiguous."""
    rows, n, inner = x.shape
    scale = _scale(n, computed(x.dtype)) if normalize else None
    pieces = 1 if x.size < 2 * _PIECE else split(x.size, _PIECE)
    if x.dtype.itemsize == 2 or pieces > rows * n:
        _tiles(x, out, scale)
        return
    kernel = getattr(kernels, f"hadamard_f{8 * x.dtype.itemsize}")
    if pieces == 1:
        kernel(x, out, x.size, n, inner, int(normalize))
        return
    if rows < pieces and inner >= _RUN * pieces:
        _tiles(x, out, scale)
        return
    # Too few rows are cut into parts of a power of two: first the stages within them, then those across.
    cut = 1 if rows >= pieces else 1 << (-(-pieces // rows) - 1).bit_length()
    short, parts = n // cut, rows * cut
    of, to = x.reshape(parts, short, inner), out.reshape(parts, short, inner)

    def run(i: int) -> None:
        part = slice(parts * i // pieces, parts * (i + 1) // pieces)
        kernel(of[part], to[part], of[part].size, short, inner, int(normalize and cut == 1))

    parallel(run, pieces)
    if cut > 1:
        across = out.reshape(rows, cut, short * inner)
        _tiles(across, across, scale)


def hadamard_transform(
    x: ArrayLike, *, axis: SupportsIndex = -1, normalize: bool = False, out: Array | None = None
) -> Array:
    """Fast Walsh-Hadamard transform, in natural order.

    out[i] = sum_j (-1)^popcount(i & j) x[j]: the product with ``scipy.linalg.hadamard(n)``, in n log2(n) additions.

    Parameters
    ----------
    x : array_like
        float16, bfloat16 (ml_dtypes), float32 or float64; integers are taken as float64. Its length along `axis` is a
        power of two.
    axis : int
        Along which to transform.
    normalize : bool
        Whether the result is divided by sqrt(n). Then the transform keeps norms, and undoes itself.
    out : ndarray, optional
        Where to write the result, of the shape of `x` and of a dtype that it casts to. It may be `x`, or overlap it.

    Returns
    -------
    ndarray
        In the shape and dtype of `x`.

    Raises
    ------
    TypeError, ValueError
        If a dtype, the length or `out` is none of these.
    numpy.exceptions.AxisError
        If there is no such axis.

    Notes
    -----
    With n = 2^k and u = 2^-24 (float64: 2^-53), an element is off by at most ((1 + u)^k - 1) * sum(abs(x)), and the
    vector of all errors is at most ((1 + u)^k - 1) * sqrt(n) * norm(x) long. For an element is a sum of +-x[j], each of
    which goes through k additions, whose results are rounded by at most u; and a stage, which makes every vector
    sqrt(2) times as long, adds an error of at most u times that. `normalize` adds two roundings if k is odd, and none
    if it is even and nothing underflows. float16 and bfloat16 are computed in float32 and rounded once.

    Butterflies fix the order of the sums: the bits do not depend on the backend, the ISA level, the threads, the axis
    or the strides. A nan makes its row nan; infinities give infinities or nan.

    Source: Fino and Algazi, "Unified matrix treatment of the fast Walsh-Hadamard transform", 1976.

    Examples
    --------
    >>> import fastk
    >>> fastk.hadamard_transform([1, 0, 1, 0, 0, 1, 1, 0])
    array([ 4.,  2.,  0., -2.,  0.,  2.,  0.,  2.])
    >>> fastk.hadamard_transform([[3.0, 1.0], [0.0, 2.0]], axis=0, normalize=True).round(3)
    array([[ 2.121,  2.121],
           [ 2.121, -0.707]])
    """
    array = _operand(x)
    normalize = boolean(normalize, "normalize")
    index = integer(axis, "axis", -(2**31))
    if not -array.ndim <= index < array.ndim:
        raise np.exceptions.AxisError(index, array.ndim)
    shape = array.shape
    n = shape[index]
    if n & (n - 1) or not n:
        raise ValueError(f"x: length {n} along axis {index}; allowed are powers of two")
    check_out(out, shape, array.dtype)
    output = Output(out, shape, array.dtype, array, in_place=True)
    if array.size:
        target = output.array
        work = target if target.flags.c_contiguous else np.empty(shape, array.dtype)
        if not array.flags.c_contiguous:
            np.copyto(work, array)
            array = work
        inner = math.prod(shape[index % len(shape) + 1 :])
        layout = array.size // (n * inner), n, inner
        _transform(array.reshape(layout), work.reshape(layout), normalize)
        if work is not target:
            target[...] = work
    return output.delivered()


# ---- random projection


def _check_kind(kind: Any) -> str:
    if not isinstance(kind, str):
        raise TypeError(f"kind={kind!r}: a string is needed, one of {', '.join(MATRICES)}")
    if kind not in MATRICES:
        raise ValueError(f"kind={kind!r}: allowed are {', '.join(MATRICES)}")
    return kind


def _check_density(density: Any) -> float | None:
    """A multiple of 2^-31, or None for what depends on the number of columns."""
    allowed = '"auto" or a number from 2**-31 to 1 is needed'
    if isinstance(density, str):
        if density != "auto":
            raise ValueError(f"density={density!r}: {allowed}")
        return None
    number = real(density, "density", allowed)
    if not _LEAST_DENSITY <= number <= 1:
        raise ValueError(f"density={density!r}: {allowed}")
    return round(number / _LEAST_DENSITY) * _LEAST_DENSITY


def _numbers(part: Part, n: int, name: str) -> range | NDArray[np.int64]:
    """Indices that are asked for, from 0 up."""
    if part is None:
        return range(n)
    if isinstance(part, slice):
        return range(n)[part]
    array = np.asarray(part)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and array.size):
        raise TypeError(f"{name}={part!r}: a slice or a sequence of integers is needed")
    if array.size and not (-n <= array.min() and array.max() < n):
        raise ValueError(f"{name}={part!r}: allowed are numbers from {-n} to {n - 1}")
    numbers: NDArray[np.int64] = array.astype(np.int64)
    return np.where(numbers < 0, numbers + n, numbers)


def _taken(numbers: range | NDArray[np.int64]) -> tuple[Columns, Any]:
    """Increasing numbers without repetition, and where among them those that are asked for are."""
    if isinstance(numbers, range) and numbers.step == 1:
        return numbers, slice(None)
    unique, place = np.unique(np.asarray(numbers, np.int64), return_inverse=True)
    return unique, place.reshape(-1)


class RandomProjection(Transformer):
    """Random projection: multiply rows by a random matrix, which keeps distances on average.

    For every x, the mean of ``norm(transform(x))**2`` over seeds is ``norm(x)**2``.

    Parameters
    ----------
    n_components : int
        Columns of the result, k; at least 1. It may be more than there are features.
    kind : {"gaussian", "sparse", "rademacher", "hadamard"}
        The matrix. "gaussian": independent normal numbers of variance 1 / k. "rademacher": independent signs over
        sqrt(k). "sparse": independent, 0 or +-sqrt(1 / (density * k)); the kernel adds and subtracts what is not zero.
        "hadamard": random signs, a Walsh-Hadamard transform and a sample of its rows, in O(p log p) a row where p is
        the power of two that features are padded to, and more only if n_components is more than p.
    density : float or "auto"
        Of "sparse", the probability that an entry is not zero, rounded to a multiple of 2^-31, which is the least.
        "auto" is 1 / sqrt(n_features), Li's; 1 / 3 is Achlioptas's.
    seed : int
        From 0 to 2^128 - 1.

    Attributes
    ----------
    n_features_in_ : int
        Features seen by `fit`.
    feature_names_in_ : ndarray of str, shape (n_features_in_,)
        Their names, if `fit` was given a data frame whose column names are strings.
    density_ : float
        Part of the matrix that is not zero, on average.
    components_ : ndarray, shape (n_components, n_features_in_)
        The matrix in float64, made whenever it is asked for.

    See Also
    --------
    johnson_lindenstrauss_min_dim : how many components keep all distances of n points.

    Notes
    -----
    With A = `components_` and u = 2^-24 (float64: 2^-53), an element of the result is within
    ``(n_features + 2) * u * (abs(X) @ abs(A).T)`` of the exact product. The matrix is computed in float64 and
    rounded to the dtype of X; float16 and bfloat16 are computed in float32 and rounded once more. For "hadamard" it is
    ``log2(p) + 3`` instead.

    The variance of the squared norm of a projected unit vector u is 2 / k for "gaussian", where k times it has a
    chi-square distribution; (2 + (1 / density - 3) * sum(u^4)) / k for "sparse", and "rademacher", whose density is
    1; and (2 - 2 * sum(u^4)) * (n - k) / (k * (n - 1)) for "hadamard" if n, the number of features, is a power of two
    and k <= n.

    "sparse" and "hadamard" sum in an order of their own, and give the same bits on every backend, ISA level and
    machine, over any threads, for any part of the rows and for sparse input. "gaussian" and "rademacher" multiply by
    NumPy's BLAS, or by SciPy for sparse input: the matrix has the same bits everywhere, products agree within the bound
    above.

    The matrix in words of `numpy.random.Philox`: word i of stream (t, r) is word i of
    ``Philox(key=seed, counter=[0, r, 0, t]).random_raw()``.

    * "gaussian": entry (i, j) is made of word j of stream (1, i). Its top bit is the sign, and the magnitude is that
      which a normal number exceeds with probability (v + 1/2) * 2^-53, v being bits 11 to 62; over sqrt(k).
    * "rademacher": bit j % 64 of word j // 64 of stream (2, i) is 1 for a plus.
    * "sparse": half j % 2, the low one first, of word j // 2 of stream (3, i); the entry is not zero if half >> 1 is
      less than density * 2^31, and negative if the last bit is 1.
    * "hadamard": row i is of block b = i // p. Column j has the sign of bit j % 64 of word j // 64 of stream (4, b), 1
      for a plus, and row i is row ``numpy.argsort(w, kind="stable")[i % p]`` of the transform, w being the first p
      words of stream (5, b).

    So row i does not depend on n_components, but for the factor 1 / sqrt(k): the first components of a projection are
    a projection to fewer. What has been made of the matrix is kept if it has at most 64 MiB (a dtype), and not
    pickled; of a larger one blocks are made as they are needed, by every call.

    Input of any kind may be a sparse matrix of SciPy; it is not densified as a whole, and for matrices too large to be
    kept only the columns that occur are made. ("hadamard" densifies some rows at a time.)

    Examples
    --------
    >>> import numpy as np
    >>> from fastk import RandomProjection
    >>> X = np.random.default_rng(0).normal(size=(1000, 500))
    >>> Y = RandomProjection(100, kind="hadamard", seed=3).fit_transform(X)
    >>> Y.shape
    (1000, 100)
    >>> ratio = np.linalg.norm(Y[1:] - Y[0], axis=1) / np.linalg.norm(X[1:] - X[0], axis=1)
    >>> float(ratio.mean().round(2)), float(ratio.std().round(2))
    (1.01, 0.05)
    """

    _accepts_sparse = True

    def __init__(
        self,
        n_components: int,
        *,
        kind: str = "gaussian",
        density: float | str = "auto",
        seed: int = 0,
    ) -> None:
        self.n_components = n_components
        self.kind = kind
        self.density = density
        self.seed = seed

    def fit(self, X: Any, y: Any = None) -> RandomProjection:
        """Check the parameters and note the number of features.

        Parameters
        ----------
        X : array_like or sparse matrix, shape (rows, features)
            Only its shape counts. Where there are no rows yet, ``numpy.broadcast_to(0.0, (1, features))`` has one.
        y : object
            Not used.

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            If a parameter is not allowed, or X has nan, infinities, no rows or no columns.
        """
        k, kind = integer(self.n_components, "n_components", 1), _check_kind(self.kind)
        density, seed = _check_density(self.density), check_seed(self.seed)
        columns = validate(X, self, reset=True, accept_sparse=True).shape[1]
        if columns > MOST_COLUMNS:
            raise ValueError(f"X: {columns} features; allowed are at most 2**31")
        if kind != "sparse":
            density = 1.0
        elif density is None:
            density = round(1 / (math.sqrt(columns) * _LEAST_DENSITY)) * _LEAST_DENSITY
        self.density_: float = density
        self._fitted = kind, k, columns, density, seed
        self._kept = Unpickled()
        return self

    def partial_fit(self, X: Any, y: Any = None) -> RandomProjection:
        """`fit` at the first call; later ones check that X has as many features.

        Parameters
        ----------
        X : array_like or sparse matrix, shape (rows, features)
            A part of the rows.
        y : object
            Not used.

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            As `fit`.
        """
        if not self.__sklearn_is_fitted__():
            return self.fit(X, y)
        validate(X, self, reset=False, accept_sparse=True)
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_fitted")

    @property
    def _n_features_out(self) -> int:
        return self._fitted[1]

    @property
    def _matrix(self) -> RandomMatrix:
        self._check_fitted()
        if "matrix" not in self._kept:
            kind, *arguments = self._fitted
            self._kept["matrix"] = MATRICES[kind](*arguments)
        matrix: RandomMatrix = self._kept["matrix"]
        return matrix

    def transform(self, X: Any) -> Any:
        """Project rows.

        Parameters
        ----------
        X : array_like or sparse matrix, shape (rows, n_features_in_)
            float16, bfloat16 (ml_dtypes), float32 or float64; other real numbers are taken as float64.

        Returns
        -------
        ndarray, shape (rows, n_components)
            In the dtype of X. A data frame if `set_output` asks for one.

        Raises
        ------
        TypeError, ValueError
            If X has nan, infinities, another number of features or no rows; or there was no `fit`.
        """
        matrix = self._matrix
        rows = validate(X, self, reset=False, accept_sparse=True)
        out = matrix.times_csr(rows) if isinstance(rows, CSR) else matrix.times(rows)
        return self._contained(out, X)

    def partial(self, X: Any, start: int) -> Array:
        """Project some of the columns: what they contribute to `transform`.

        The sum over all columns is `transform`, but for rounding: for data that arrives column by column, or whose rows
        do not fit into memory.

        Parameters
        ----------
        X : array_like or sparse matrix, shape (rows, columns)
            Columns `start` to ``start + X.shape[1] - 1`` of the data.
        start : int
            From 0.

        Returns
        -------
        ndarray, shape (rows, n_components)
            In the dtype of X.

        Raises
        ------
        TypeError, ValueError
            As `transform`; if there are not so many features; and if `kind` is "hadamard", whose transform needs all
            columns at once.

        Examples
        --------
        >>> import numpy as np
        >>> from fastk import RandomProjection
        >>> X = np.random.default_rng(0).normal(size=(3, 100))
        >>> projection = RandomProjection(8, kind="sparse").fit(X)
        >>> summed = projection.partial(X[:, :60], 0) + projection.partial(X[:, 60:], 60)
        >>> np.allclose(summed, projection.transform(X))
        True
        """
        matrix = self._matrix
        if self._fitted[0] == "hadamard":
            raise ValueError("kind='hadamard': partial needs a matrix whose columns are independent; use another kind")
        rows = checked(X, type(self).__name__, True)
        first, width = integer(start, "start", 0), rows.shape[1]
        if first + width > self.n_features_in_:
            most = self.n_features_in_ - width
            raise ValueError(
                f"start={first}: allowed is 0 to {most} for {width} of {self.n_features_in_} columns"
                if most >= 0
                else f"X: {width} columns; allowed are at most {self.n_features_in_}, those seen by fit"
            )
        return matrix.times_csr(rows, first) if isinstance(rows, CSR) else matrix.times(rows, first)

    def matrix(self, rows: Part = None, columns: Part = None) -> NDArray[np.float64]:
        """Return the matrix A, or a part of it: `transform` is ``X @ A.T``, but for rounding.

        Parameters
        ----------
        rows, columns : slice or sequence of int, optional
            Which part, all of them by default. Only that is made.

        Returns
        -------
        ndarray of float64, shape (n_components, n_features_in_), or that of the part
            The entries, before they are rounded to the dtype of X.

        Raises
        ------
        TypeError, ValueError
            If there are no such rows or columns, or there was no `fit`.

        Examples
        --------
        >>> import numpy as np
        >>> from fastk import RandomProjection
        >>> projection = RandomProjection(4, kind="rademacher").fit(np.broadcast_to(0.0, (1, 10**6)))
        >>> projection.matrix([0, 1], slice(1000, 1004))
        array([[-0.5, -0.5, -0.5,  0.5],
               [ 0.5, -0.5, -0.5, -0.5]])
        """
        matrix = self._matrix
        _, k, d, *_ = self._fitted
        down, across = _numbers(rows, k, "rows"), _numbers(columns, d, "columns")
        if not len(down) or not len(across):
            return np.empty((len(down), len(across)))
        (r, row), (c, column) = _taken(down), _taken(across)
        # Columns of the transpose are rows.
        part: NDArray[np.float64] = made_at(lambda first, n: matrix.entries(first, n, c).T, r).T
        chosen: NDArray[np.float64] = part[row][:, column]
        return chosen

    @property
    def components_(self) -> NDArray[np.float64]:
        """The matrix in float64, shape (n_components, n_features_in_)."""
        return self.matrix()
