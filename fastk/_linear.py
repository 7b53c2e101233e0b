"""Linear algebra of many rows: whitening by a streamed covariance, and the randomized singular value decomposition."""
# ruff: noqa: N803  (X is what scikit-learn passes by name)

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._check import boolean, check_seed, integer
from ._dimensions import angle_cdf, angle_pdf, entropy_min_dim, johnson_lindenstrauss_min_dim
from ._estimator import FLOATS, Transformer, checked, validate
from ._philox import Tag, normal

__all__ = [
    "Whitening",
    "angle_cdf",
    "angle_pdf",
    "entropy_min_dim",
    "johnson_lindenstrauss_min_dim",
    "randomized_svd",
    "randomized_svd_error",
]

Array = NDArray[Any]
Doubles = NDArray[np.float64]
Self = TypeVar("Self", bound="Whitening")

_ROWS = 512
"""Rows whose products are summed in one matrix product."""

_LARGEST = 2.0**500
"""Of an entry: more could make sums of squares leave the range."""

_UNIT = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float32": 2.0**-24, "float64": 2.0**-53}
"""Half an ulp of 1."""


def _signs(vectors: Array) -> Array:
    """Signs that make the largest component of each column positive; of components that are all but equal, the first.

    With the first of those that are within rounding of the largest, rounding has no say in the choice.
    """
    size = np.abs(vectors)
    near = size >= size.max(axis=0) * (1 - math.sqrt(np.finfo(vectors.dtype).eps))
    leading = np.take_along_axis(vectors, near.argmax(axis=0)[None], axis=0)[0]
    signs: Array = np.where(leading < 0, -1, 1).astype(vectors.dtype)
    return signs


# ---- whitening


class _Moments:
    """How many rows there were, their mean, and the sum of (x - mean) (x - mean)^T."""

    def __init__(self, n: int, mean: Doubles, scatter: Doubles) -> None:
        self.n, self.mean, self.scatter = n, mean, scatter

    @classmethod
    def of(cls, rows: Doubles) -> _Moments:
        n = len(rows)
        mean = rows.sum(axis=0) / n
        centered = rows - mean
        rest = centered.sum(axis=0) / n  # what rounding left of the mean
        centered -= rest
        return cls(n, mean + rest, centered.T @ centered)

    def copy(self) -> _Moments:
        return _Moments(self.n, self.mean.copy(), self.scatter.copy())

    def add(self, other: _Moments) -> None:
        n = self.n + other.n
        step = other.mean - self.mean
        self.mean += step * (other.n / n)
        self.scatter += other.scatter
        # The product of a vector with itself is symmetric to the last bit.
        step *= math.sqrt(self.n * (other.n / n))
        self.scatter += np.outer(step, step)
        self.n = n


class _Stream:
    """Moments of rows that come in chunks of any sizes, always taken up in blocks of the same rows.

    So how a stream is cut has no part in the result. `unit` is the coarsest rounding unit of the chunks so far.
    """

    def __init__(self, d: int) -> None:
        self.n, self.unit = 0, 0.0
        self._blocks = _Moments(0, np.zeros(d), np.zeros((d, d)))
        self._rest = np.empty((_ROWS, d))
        self._filled = 0
        self._solved: tuple[Any, ...] | None = None

    def add(self, x: Array) -> None:
        first = 0
        while first < len(x):
            count = min(len(x) - first, _ROWS - self._filled)
            self._rest[self._filled : self._filled + count] = x[first : first + count]
            first, self._filled = first + count, self._filled + count
            if self._filled == _ROWS:
                self._blocks.add(_Moments.of(self._rest))
                self._filled = 0
        self.n += len(x)
        self.unit = max(self.unit, _UNIT[x.dtype.name])
        self._solved = None

    def _moments(self) -> _Moments:
        moments = self._blocks
        if self._filled:
            moments = moments.copy()
            moments.add(_Moments.of(self._rest[: self._filled]))
        return moments

    def join(self, other: _Stream) -> None:
        self._blocks, self._filled = self._moments(), 0
        self._blocks.add(other._moments())
        self.n, self.unit, self._solved = self.n + other.n, max(self.unit, other.unit), None

    def solved(self) -> tuple[Doubles, Doubles, Doubles, Doubles, int]:
        """Mean, covariance, variances in falling order, their directions as rows, and how many are not nothing."""
        if self._solved is None:
            moments = self._moments()
            d = len(moments.mean)
            covariance = moments.scatter / max(moments.n - 1, 1)
            variances, directions = np.linalg.eigh(covariance)
            variances, directions = np.maximum(variances[::-1], 0), directions[:, ::-1]
            directions = np.ascontiguousarray((directions * _signs(directions)).T)
            size = moments.scatter.diagonal() / moments.n + moments.mean**2
            noise = 2 * self.unit**2 * size.max() * max(1, d / moments.n) + 2.0**-52 * d * variances[0]
            rank = int(np.count_nonzero(variances > noise))
            self._solved = moments.mean.copy(), covariance, variances, directions, rank
            for array in self._solved[:-1]:
                array.flags.writeable = False
        return self._solved


class Whitening(Transformer):
    """Rotate rows to their principal directions, and scale each of these to variance 1.

    With the eigenvalues l_i of the covariance and its eigenvectors as rows of C, y = diag(l)^(-1/2) C (x - mean). The
    covariance of the result is the identity. It is learned from a stream in any chunks, in one pass.

    Parameters
    ----------
    n_components : int, optional
        How many directions are kept: those of the largest variance. All if None.
    center : bool
        Whether the mean is subtracted. It has no part in the rotation and the scale, which are those of the covariance
        in any case.
    scale : bool
        Whether variances become 1. If not, and without a cut, `transform` is a rotation (with a shift, if `center`).

    Attributes
    ----------
    mean_ : ndarray, shape (d,)
        Mean of the rows so far. This and the others are float64 and read-only.
    covariance_ : ndarray, shape (d, d)
        Their covariance, divided by one less than their number; zeros after one row.
    components_ : ndarray, shape (n_components, d)
        Orthonormal directions as rows, of falling variance. The largest component of each is positive, the first of
        them if some are equal to within rounding.
    explained_variance_, explained_variance_ratio_ : ndarray, shape (n_components,)
        Variances along them, and their shares of the sum of all d.
    rank_ : int
        How many of all d directions have a variance that is more than rounding.
    n_samples_seen_ : int
        Rows so far.
    n_features_in_ : int
        d.

    Raises
    ------
    TypeError, ValueError
        From `fit` and `partial_fit`, if a parameter is none of these, or more components than columns are asked for.

    Notes
    -----
    The computation is in float64 whatever the rows are; results are rounded once, to the dtype of the rows.

    Chunks: rows are taken up in blocks of 512, whatever the chunks are, so `partial_fit` of chunks and `fit` of all
    rows give the same bits where the BLAS gives the same for the same product. `merge` and another BLAS change only
    roundings: each entry of ``covariance_`` is within (1000 + n / 100) 2^-53 (s_i r_j + r_i s_j) of that of exact
    arithmetic, to first order, where n rows have the standard deviations s and the largest magnitudes r in the columns
    i and j. It takes about 8 (2 d + 512) d bytes, however long the stream is.

    Directions without variance: where the rows span less than d dimensions, some variances are nothing but rounding.
    With `scale`, such a direction is not blown up to variance 1: its column of the result is zeros. It is one whose
    variance is at most d 2^-52 times the largest, the rounding of the decomposition, plus 2 u^2 max(1, d / n) times the
    largest mean square of a column, the rounding of the rows themselves, u being half an ulp of 1 in the coarsest of
    their dtypes.

    Directions of equal variances are not unique, and may come out differently with another BLAS.

    Source: T. F. Chan, G. H. Golub and R. J. LeVeque, "Algorithms for Computing the Sample Variance", 1983 (merging).
    Jianlin Su et al., "Whitening Sentence Representations for Better Semantics and Faster Retrieval", 2021 (the cut).

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[2.0, 0.0], [0.0, 1.0], [-2.0, 0.0], [0.0, -1.0]])
    >>> Whitening().fit_transform(x).round(4) + 0.0
    array([[ 1.2247,  0.    ],
           [ 0.    ,  1.2247],
           [-1.2247,  0.    ],
           [ 0.    , -1.2247]])
    >>> stream = Whitening(n_components=1)
    >>> for chunk in x[:3], x[3:]:
    ...     stream = stream.partial_fit(chunk)
    >>> stream.components_, stream.explained_variance_.round(4)
    (array([[1., 0.]]), array([2.6667]))
    """

    def __init__(self, n_components: int | None = None, *, center: bool = True, scale: bool = True) -> None:
        self.n_components = n_components
        self.center = center
        self.scale = scale

    # ---- learning

    def fit(self: Self, X: Any, y: Any = None) -> Self:
        """Learn from these rows alone.

        Parameters
        ----------
        X : array_like, shape (n, d)
            Rows of finite numbers, not above 2^500.
        y : object
            Not used.

        Returns
        -------
        self
        """
        options = self._checked_options()
        x = validate(X, self, reset=True)
        self._begin(options, self.n_features_in_)
        return self._take(x)

    def partial_fit(self: Self, X: Any, y: Any = None) -> Self:
        """Go on learning: from all rows since `fit`, or since the first chunk.

        Parameters
        ----------
        X : array_like, shape (n, d)
            The next rows.
        y : object
            Not used.

        Returns
        -------
        self
        """
        if not self.__sklearn_is_fitted__():
            return self.fit(X)
        return self._take(validate(X, self, reset=False))

    def merge(self: Self, other: Whitening) -> Self:
        """Add the rows that another has seen, as if they had come in this stream.

        Parameters
        ----------
        other : Whitening
            Of rows of the same length. Its parameters have no part in it; it is not changed.

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            If `other` is no Whitening, is not fitted, or has seen rows of another length.
        """
        if not isinstance(other, Whitening):
            raise TypeError(f"other={other!r}: a Whitening is needed")
        other._check_fitted()
        if not self.__sklearn_is_fitted__():
            self._begin(self._checked_options(), other.n_features_in_)
            self.n_features_in_ = other.n_features_in_
        elif other.n_features_in_ != self.n_features_in_:
            raise ValueError(f"other: rows of {other.n_features_in_} features; allowed are {self.n_features_in_}")
        self._stream.join(other._stream)
        return self

    def _checked_options(self) -> tuple[int | None, bool, bool]:
        n = self.n_components
        kept = n if n is None else integer(n, "n_components", 1)
        return kept, boolean(self.center, "center"), boolean(self.scale, "scale")

    def _begin(self, options: tuple[int | None, bool, bool], d: int) -> None:
        self._stream: _Stream
        self.__dict__.pop("_stream", None)
        kept, center, scale = options
        kept = d if kept is None else integer(kept, "n_components", 1, d, f"{d}, the features of X")
        self._options = kept, center, scale
        self._stream = _Stream(d)

    def _take(self: Self, x: Any) -> Self:
        largest = float(max(x.max(), -x.min()))
        if largest > _LARGEST:
            if not self._stream.n:
                del self._stream
            raise ValueError(f"X: a magnitude of {largest:g}; allowed is at most 2**500")
        self._stream.add(x)
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return "_stream" in self.__dict__

    # ---- what was learned

    def _solved(self) -> tuple[Doubles, Doubles, Doubles, Doubles, int]:
        self._check_fitted()
        return self._stream.solved()

    @property
    def n_samples_seen_(self) -> int:
        self._check_fitted()
        return self._stream.n

    @property
    def mean_(self) -> Doubles:
        return self._solved()[0]

    @property
    def covariance_(self) -> Doubles:
        return self._solved()[1]

    @property
    def explained_variance_(self) -> Doubles:
        return self._solved()[2][: self._n_features_out]

    @property
    def explained_variance_ratio_(self) -> Doubles:
        total = self._solved()[2].sum()
        return self.explained_variance_ / (total if total else 1.0)

    @property
    def components_(self) -> Doubles:
        return self._solved()[3][: self._n_features_out]

    @property
    def rank_(self) -> int:
        return self._solved()[4]

    @property
    def _n_features_out(self) -> int:
        return self._options[0]

    def _factors(self, power: float) -> Doubles:
        """The standard deviations of the directions to this power, and 0 where there is none; ones without `scale`."""
        factors = np.ones(self._n_features_out)
        if self._options[2]:
            rank = self.rank_
            factors[:rank] = self.explained_variance_[:rank] ** (power / 2)
            factors[rank:] = 0
        return factors

    # ---- application

    def transform(self, X: Any) -> Any:
        """Whiten rows.

        Parameters
        ----------
        X : array_like, shape (n, d)
            Rows of finite numbers.

        Returns
        -------
        ndarray, shape (n, n_components)
            float16, bfloat16, float32 or float64 as X is; float64 for other numbers.
        """
        self._check_fitted()
        x: Any = validate(X, self, reset=False)
        matrix = (self.components_ * self._factors(-1)[:, None]).T
        return self._contained(_mapped(x, self.mean_ * self._options[1], matrix, 0.0), X)

    def inverse_transform(self, X: ArrayLike) -> Array:
        """Undo `transform`: exactly, to rounding, if no direction was cut that has a variance.

        Parameters
        ----------
        X : array_like, shape (n, n_components)
            Whitened rows.

        Returns
        -------
        ndarray, shape (n, d)
            Rows, in the subspace of the directions that were kept; in the dtype of X, or float64 for integers.
        """
        self._check_fitted()
        y: Any = checked(X, type(self).__name__)
        if y.shape[1] != self._n_features_out:
            raise ValueError(f"X: shape {y.shape}; allowed is (n, {self._n_features_out})")
        return _mapped(y, 0.0, self.components_ * self._factors(1)[:, None], self.mean_ * self._options[1])


def _mapped(x: Array, before: Any, matrix: Doubles, after: Any) -> Array:
    """(x - before) @ matrix + after, rounded once to the dtype of x."""
    out: Array = np.empty((len(x), matrix.shape[1]), x.dtype)
    with np.errstate(over="ignore"):
        for first in range(0, len(x), _ROWS):
            part = slice(first, first + _ROWS)
            rows: Doubles = x[part].astype(np.float64)
            rows -= before
            out[part] = rows @ matrix + after
    return out


# ---- singular values

Product = Callable[[Array], Array]


def _float(dtype: Any, name: str) -> np.dtype[Any]:
    """float64, or float32 for what is no wider; TypeError for what is no real number."""
    if dtype.kind not in "biuf" and dtype.name not in FLOATS:
        raise TypeError(f"{name}: dtype {dtype}; allowed are real numbers")
    narrow = dtype.name in ("float16", "bfloat16", "float32")
    return np.dtype(np.float32 if narrow else np.float64)


def _transposed_product(a: Any) -> Product:
    """How to multiply by the transpose of an operator."""
    if hasattr(a, "T"):
        transpose = a.T
        return lambda x: np.asarray(transpose @ x)
    if hasattr(a, "rmatmat"):
        return lambda x: np.asarray(a.rmatmat(x))
    if hasattr(a, "__rmatmul__"):
        return lambda x: np.asarray(a.__rmatmul__(x.T)).T
    raise TypeError(f"a={a!r}: an operator without a transpose (.T, .rmatmat or .__rmatmul__)")


def _products(a: Any) -> tuple[tuple[int, int], np.dtype[Any], Product, Product]:
    """Shape, dtype of the computation, and how to multiply by `a` and by its transpose."""
    operator = not isinstance(a, np.ndarray) and not hasattr(a, "__array__") and hasattr(a, "__matmul__")
    if not operator:
        a = np.asarray(a)
    elif not hasattr(a, "shape"):
        raise TypeError(f"a={a!r}: an operator without a shape")
    shape = tuple(a.shape)
    if len(shape) != 2:
        raise ValueError(f"a: shape {shape}; allowed are two dimensions")
    given = getattr(a, "dtype", None)
    dtype = _float(np.dtype(np.float64 if given is None else given), "a")
    if operator:
        return shape, dtype, lambda x: np.asarray(a @ x), _transposed_product(a)
    matrix: Array = a.astype(dtype, copy=False)
    return shape, dtype, lambda x: matrix @ x, lambda x: matrix.T @ x


def _checked_product(product: Product, rows: int, dtype: np.dtype[Any]) -> Product:
    """The product, in this dtype; ValueError if it has another shape or is not finite."""

    def multiply(x: Array) -> Array:
        with np.errstate(all="ignore"):
            y = product(x)
        if y.shape != (rows, x.shape[1]):
            raise ValueError(f"a: a product of shape {y.shape}; allowed is {(rows, x.shape[1])}")
        if not np.isfinite(y).all():
            raise ValueError("a: a product with it has a nan or inf; allowed are finite numbers that do not overflow")
        return y.astype(dtype, copy=False)

    return multiply


def randomized_svd(
    a: Any, k: int, *, oversample: int = 10, n_iter: int = 2, seed: int = 0
) -> tuple[Array, Array, Array]:
    """Return the k largest singular values of a matrix, with their vectors, by random projection.

    An orthonormal basis Q of (A A^T)^n_iter A G is made, where G has k + oversample normal columns, and with it the
    singular value decomposition of Q^T A. Each product with A or A^T is followed by a QR factorization, so that
    rounding does not lose the small values.

    Parameters
    ----------
    a : array_like, sparse matrix or linear operator, shape (m, n)
        A, of real numbers. A sparse matrix of SciPy or an operator is only multiplied: it needs ``shape``, ``a @ x``
        and one of ``a.T @ x``, ``a.rmatmat(x)`` and ``x @ a``, for matrices x; without a ``dtype`` it is taken as one
        of float64.
    k : int
        How many: 1 to min(m, n).
    oversample : int
        Columns of G more than k.
    n_iter : int
        Power iterations. Each divides the error by about the ratio of the values that are kept and lost, squared.
    seed : int
        0 to 2^128 - 1. G is a function of it and of the position alone: it has the same bits everywhere.

    Returns
    -------
    u : ndarray, shape (m, k)
        Left singular vectors as columns. The largest component of each is positive, the first of them if some are
        equal to within rounding.
    s : ndarray, shape (k,)
        Singular values, falling.
    vt : ndarray, shape (k, n)
        Right singular vectors as rows. All three are float32 if `a` is float32 or narrower, otherwise float64.

    Raises
    ------
    TypeError, ValueError
        If an argument is none of these, or a product is not finite.

    Notes
    -----
    `randomized_svd_error` is the bound of the expected error, in the spectral norm. It is zero for a matrix of rank k
    or less: such a matrix comes back to within rounding, about 2^-53 (2^-24) times its norm and sqrt(m). The matrix
    products and factorizations are BLAS's and LAPACK's: bits may depend on them, within such a rounding.

    If m < n, it is the transpose that is decomposed.

    Source: N. Halko, P. G. Martinsson and J. A. Tropp, "Finding Structure with Randomness", SIAM Review 53, 2011,
    Algorithms 4.4 and 5.1.

    Examples
    --------
    >>> import numpy as np
    >>> a = np.outer([3.0, 0.0, 4.0], [1.0, 0.0])
    >>> u, s, vt = randomized_svd(a, 1)
    >>> (u @ np.diag(s) @ vt).round(12) + 0.0
    array([[3., 0.],
           [0., 0.],
           [4., 0.]])
    """
    shape, dtype, product, transposed = _products(a)
    few = min(shape)
    k = integer(k, "k", 1, few, f"{few}, the smaller side of a")
    width = min(k + integer(oversample, "oversample", 0), few)
    n_iter, seed = integer(n_iter, "n_iter", 0), check_seed(seed)
    forward = _checked_product(product, shape[0], dtype)
    backward = _checked_product(transposed, shape[1], dtype)
    wide = shape[0] < shape[1]
    if wide:
        forward, backward = backward, forward

    def basis(x: Array) -> Array:
        return np.linalg.qr(x)[0]

    q = basis(forward(normal(seed, Tag.SVD, few, width).astype(dtype, copy=False)))
    for _ in range(n_iter):
        q = basis(forward(basis(backward(q))))
    v, s, ut = np.linalg.svd(backward(q), full_matrices=False)
    u = q @ ut[:k].T
    v, s = v[:, :k], s[:k].copy()
    if wide:
        u, v = v, u
    signs = _signs(u)
    return np.ascontiguousarray(u * signs), s, np.ascontiguousarray((v * signs).T)


def randomized_svd_error(s: ArrayLike, k: int, *, oversample: int = 10, n_iter: int = 2) -> float:
    """Return a bound of the expected error of `randomized_svd`, in the spectral norm.

    It bounds the mean, over all seeds, of the norm of A - U S V^T. No approximation of rank k has a smaller error than
    the singular value number k + 1. With q iterations and p columns more than k, this adds at most

        [(1 + sqrt(k/(p-1))) s_(k+1)^(2q+1) + e sqrt(k+p)/p (sum_(j>k) s_j^(2 (2q+1)))^(1/2)]^(1/(2q+1)).

    Parameters
    ----------
    s : array_like
        All min(m, n) singular values of A, in any order.
    k, oversample, n_iter : int
        As for `randomized_svd`.

    Returns
    -------
    float
        The bound, of exact arithmetic; inf for less than two columns more than k, of which the theorem says nothing.

    Raises
    ------
    TypeError, ValueError
        If `s` is not a vector of finite numbers from 0, or another argument is none of these.

    References
    ----------
    N. Halko, P. G. Martinsson and J. A. Tropp, "Finding Structure with Randomness", SIAM Review 53, 2011: Theorems 9.3
    and 10.6, and Corollary 10.10.

    Examples
    --------
    >>> s = [0.5**j for j in range(40)]
    >>> print(f"{s[5]:.4f} {randomized_svd_error(s, 5):.4f}")
    0.0312 0.0696
    """
    values = np.asarray(s)
    if values.dtype.kind not in "biuf":
        raise TypeError(f"s: dtype {values.dtype}; allowed are real numbers")
    values = values.astype(np.float64)
    if values.ndim != 1 or not (np.isfinite(values) & (values >= 0)).all():
        raise ValueError(f"s: shape {values.shape}; allowed is a vector of finite numbers that are at least 0")
    k = integer(k, "k", 1, len(values), f"{len(values)}, the length of s")
    p, q = integer(oversample, "oversample", 0), integer(n_iter, "n_iter", 0)
    lost = np.sort(values)[::-1][k:]
    if not (lost.size and lost[0]):
        return 0.0
    if p >= lost.size:  # the basis is of the whole space
        return float(lost[0])
    if p < 2:
        return math.inf
    power = 2 * q + 1
    tail = float(np.linalg.norm((lost / lost[0]) ** power))
    factor = 1 + math.sqrt(k / (p - 1)) + math.e * math.sqrt(k + p) / p * tail
    return float(lost[0]) * (1 + math.pow(factor, 1 / power))
