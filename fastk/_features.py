"""Positive random features of the exponential kernel: vectors phi(x) with E phi(x) . phi(y) = e^(x . y).

With w of independent normal components, e^(w . x - |x|^2 / 2) e^(w . y - |y|^2 / 2) has the mean e^(x . y), as
E e^(w . z) = e^(|z|^2 / 2) for z = x + y. The mean of m such products estimates e^(x . y), from above 0. It is the
better if the vectors w are orthogonal to each other, in blocks of d, while each by itself is what it was: a row of a
uniformly distributed (Haar) orthogonal matrix, times the norm of an independent normal vector.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._check import boolean, check_seed, integer
from ._estimator import FLOATS
from ._philox import Tag, normal
from ._random_matrix import haar

__all__ = ["positive_random_features", "positive_random_features_variance"]

Array = NDArray[Any]
Doubles = NDArray[np.float64]

_KEPT = 1 << 18
"""Elements of the largest matrix of directions that is kept for the next call."""

_BLOCK = 1 << 18
"""Elements of a block of results."""

_FAR = 2.0**40
"""A square of a norm, halved, that no scalar product with a direction makes up for, in less than 2^30 dimensions."""


def _directions(n_features: int, d: int, seed: int, orthogonal: bool) -> Doubles:
    w = normal(seed, Tag.FEATURES, n_features, d)
    if orthogonal and d:
        whole = n_features // d * d
        w[:whole] = haar(w[:whole].reshape(-1, d, d)).reshape(-1, d)
        w[whole:] = haar(w[whole:])
        w *= np.linalg.norm(normal(seed, Tag.FEATURE_NORMS, n_features, d), axis=1)[:, None]
    w.flags.writeable = False
    return w


_kept_directions = lru_cache(maxsize=8)(_directions)


def directions(n_features: int, d: int, seed: int, orthogonal: bool) -> Doubles:
    """The vectors w, float64 (n_features, d), read-only. Those of fewer features are the first ones of these."""
    make = _kept_directions if n_features * d <= _KEPT else _directions
    return make(n_features, d, seed, orthogonal)


def _operand(value: ArrayLike, name: str) -> Array:
    array = np.asarray(value)
    if array.dtype.kind not in "biu" and array.dtype.name not in FLOATS:
        raise TypeError(f"{name}: dtype {array.dtype}; allowed are {', '.join(FLOATS)}, integers and bool")
    if not array.ndim:
        raise ValueError(f"{name}: shape (); allowed is at least one dimension, of components")
    return array


def positive_random_features(x: ArrayLike, n_features: int, *, seed: int = 0, orthogonal: bool = True) -> Array:
    """Return positive random features: the mean of ``phi(x) @ phi(y)``, over the seeds, is e^(x . y).

    phi(x) = exp(w . x - |x|^2 / 2) / sqrt(m) for m random directions w: normal numbers or, with `orthogonal`, blocks of
    d directions that are orthogonal to each other and uniformly distributed, scaled by norms of normal vectors.

    Parameters
    ----------
    x : array_like, shape (..., d)
        float16, bfloat16 (ml_dtypes), float32 or float64; integers and bool are taken as float64. Any strides.
    n_features : int
        m: at least 1.
    seed : int
        0 to 2^128 - 1. x and y need the same. The directions are a function of it; those of fewer features are the
        first ones of more.
    orthogonal : bool
        Whether the directions are orthogonal in blocks. The estimate is unbiased in any case.

    Returns
    -------
    ndarray, shape (..., n_features)
        Features, not negative, in the dtype of x. float16 and bfloat16 are computed in float32 and rounded once.

    Raises
    ------
    TypeError, ValueError
        If an argument is none of these.

    Notes
    -----
    The estimate has the variance e^(2 x . y) (e^(|x + y|^2) - 1) / m with independent directions, and at most that with
    orthogonal ones (`positive_random_features_variance`); so norms of x and y should be small. For the kernel
    e^(x . y / sqrt(d)) of attention, divide both by d^(1/4); for the Gaussian kernel e^(-|x - y|^2 / 2), multiply the
    features by e^(-|x|^2 / 2).

    Rounding: with u = 2^-24 or 2^-53 the unit of the computation, a feature that is a normal number is within
    ((d + 4) (|w| |x| + |x|^2 / 2) + ln m + 8) u of itself. Independent directions have the same bits everywhere,
    orthogonal ones are the same to within the rounding of LAPACK's QR factorization in float64. Products are BLAS's.

    A nan or inf in x makes its features nan. What is beyond the range of the dtype becomes 0 or inf, and nothing else
    does: the exponent is made before its exponential is.

    References
    ----------
    K. Choromanski et al., "Rethinking Attention with Performers", 2021, Lemma 1 and Theorem 2. F. Mezzadri, "How to
    Generate Random Matrices from the Classical Compact Groups", 2007, has what a QR factorization needs to be uniform:
    without it, orthogonal features are biased.

    Examples
    --------
    >>> import numpy as np
    >>> x, y = np.array([0.6, 0.0]), np.array([0.3, 0.4])
    >>> phi = positive_random_features([x, y], 10_000)
    >>> print(f"{phi[0] @ phi[1]:.3f} {np.exp(x @ y):.3f}")
    1.182 1.197
    """
    array = _operand(x, "x")
    m, seed = integer(n_features, "n_features", 1), check_seed(seed)
    orthogonal = boolean(orthogonal, "orthogonal")
    dtype = array.dtype.newbyteorder("=") if array.dtype.name in FLOATS else np.dtype(np.float64)
    working = np.dtype(np.float64 if dtype == np.float64 else np.float32)
    d = array.shape[-1]
    out = np.empty((*array.shape[:-1], m), dtype)
    if not out.size:
        return out
    matrix = directions(m, d, seed, orthogonal).T.astype(working)
    count = math.prod(array.shape[:-1])
    rows, results = array.reshape(count, d), out.reshape(count, m)
    step = max(1, _BLOCK // max(m, d))
    with np.errstate(all="ignore"):
        for first in range(0, count, step):
            block, result = rows[first : first + step], results[first : first + step]
            part = block.astype(working)
            lost = np.square(part, dtype=np.float64).sum(axis=-1) / 2
            far = ~(lost < _FAR)
            if far.any():
                lost[far] = np.where(np.isfinite(part[far]).all(axis=-1), math.inf, math.nan)
                part[far] = 0
            exponents = np.matmul(part, matrix, out=result if dtype == working else None)
            exponents -= (lost + math.log(m) / 2)[:, None].astype(working)
            np.exp(exponents, out=exponents)
            if exponents is not result:
                result[...] = exponents
    return out


def positive_random_features_variance(x: ArrayLike, y: ArrayLike, n_features: int) -> Any:
    """Return the variance of the estimate of e^(x . y) by `positive_random_features`.

    It is e^(2 x . y) (e^(|x + y|^2) - 1) / m for independent directions, and a bound for orthogonal ones.

    Parameters
    ----------
    x, y : array_like, shape (..., d)
        Vectors, of real numbers. The leading axes broadcast.
    n_features : int
        m: at least 1.

    Returns
    -------
    float64 or ndarray of float64, shape (...)
        The variance, to a relative error of (8 d + 32) 2^-53 (1 + |x + y|^2 + 2 |x| |y|); inf beyond the range.

    Raises
    ------
    TypeError, ValueError
        If an argument is none of these, or x and y do not broadcast.

    References
    ----------
    K. Choromanski et al., "Rethinking Attention with Performers", 2021, Lemma 2 and Theorem 2.

    Examples
    --------
    >>> variance = positive_random_features_variance([0.6, 0.0], [0.3, 0.4], 10_000)
    >>> print(f"{variance**0.5:.4f}")
    0.0153
    """
    a, b = (_operand(value, name).astype(np.float64) for value, name in ((x, "x"), (y, "y")))
    m = integer(n_features, "n_features", 1)
    if a.shape[-1] != b.shape[-1]:
        raise ValueError(f"x, y: shapes {a.shape} and {b.shape}; {a.shape[-1]} components meet {b.shape[-1]}")
    try:
        a, b = np.broadcast_arrays(a, b)
    except ValueError:
        raise ValueError(f"x, y: shapes {a.shape} and {b.shape} do not broadcast") from None
    with np.errstate(all="ignore"):
        spread = np.square(a + b).sum(axis=-1)
        return np.exp(2 * (a * b).sum(axis=-1) + spread + np.log(-np.expm1(-spread)) - math.log(m))[()]
