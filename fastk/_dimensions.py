"""How many dimensions are enough, and what angles random directions make in them.

The angle of two independent, uniform directions in n dimensions has the density C sin(t)^(n - 2) on [0, pi], where
C = Gamma(n/2) / (Gamma((n - 1)/2) sqrt(pi)): as n grows, nearly all directions are nearly orthogonal, which is why
random projections keep distances.

T. Cai, J. Fan and T. Jiang, "Distributions of Angles in Random Packing on Spheres", 2013.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._check import real

__all__ = ["angle_cdf", "angle_pdf", "entropy_min_dim", "johnson_lindenstrauss_min_dim"]

Doubles = NDArray[np.float64]

_MOST = 2.0**63
_ENTROPY = 8.33
"""Dimensions for each e-fold of what is to be told apart."""

_EXACT = 64
"""Dimensions from which the asymptotic series of the constant C is exact to rounding."""

_EDGE = 4, 6
"""The series of angle_cdf is for squares of the cosine below 4 / (n + 6), or two standard deviations."""

_SERIES, _FRACTION = 64, 96
"""Their terms. At the edge, where both are worst, they leave out 2^-61 for the worst n, or less."""


def _numbers(value: Any, name: str, allowed: str) -> Doubles:
    """`value` as float64; TypeError if there are no real numbers in it."""
    if isinstance(value, Real):
        return np.asarray(real(value, name, allowed))
    array = np.asarray(value)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{name}: dtype {array.dtype}; {allowed}")
    return array.astype(np.float64)


def _checked(value: Any, right: Any, array: Doubles, name: str, allowed: str) -> None:
    """ValueError with the first number of `array` that is not right."""
    if not np.all(right):
        wrong = value if array.ndim == 0 else float(array[~right][0])
        raise ValueError(f"{name}={wrong!r}: {allowed}")


def _counts(value: ArrayLike) -> Doubles:
    allowed = "finite numbers that are at least 1 are needed"
    n = _numbers(value, "n", allowed)
    _checked(value, (n >= 1) & (n < math.inf), n, "n", allowed)
    return n


def _whole(values: Any) -> Any:
    """Rounded numbers as an int or as int64."""
    return int(values) if np.ndim(values) == 0 else values.astype(np.int64)


def johnson_lindenstrauss_min_dim(n: ArrayLike, eps: ArrayLike) -> Any:
    """Return in how many dimensions a random projection keeps the distances of n points.

    It is floor(4 ln n / (eps^2 / 2 - eps^3 / 3)). With so many rows, a random projection changes the squares of all
    distances of n points by a factor within 1 - eps and 1 + eps, with a probability of at least 1 / n; so some
    projection does.

    Parameters
    ----------
    n : array_like
        How many points: at least 1.
    eps : array_like
        The largest distortion of a squared distance: between 0 and 1, both excluded. Broadcasts with `n`.

    Returns
    -------
    int or ndarray of int64
        The dimension: an int if both are scalars. It is that of scikit-learn's function of the same name.

    Raises
    ------
    TypeError
        If `n` or `eps` are not real numbers.
    ValueError
        If `n` or `eps` are out of range, they do not broadcast, or the dimension is beyond int64.

    References
    ----------
    S. Dasgupta and A. Gupta, "An Elementary Proof of a Theorem of Johnson and Lindenstrauss", 2003, Theorem 2.1.

    Examples
    --------
    >>> johnson_lindenstrauss_min_dim(100, 0.1)
    3947
    >>> johnson_lindenstrauss_min_dim(1e6, [0.5, 0.1, 0.01])
    array([    663,   11841, 1112658])
    """
    allowed = "numbers between 0 and 1, both excluded, are needed"
    points, distortion = _counts(n), _numbers(eps, "eps", allowed)
    _checked(eps, (distortion > 0) & (distortion < 1), distortion, "eps", allowed)
    _check_broadcast("n, eps", points, distortion)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        exact = 4 * np.log(points) / (distortion**2 / 2 - distortion**3 / 3)
    if not np.all(exact < _MOST):
        raise ValueError(f"eps={float(distortion.min())!r}: too small; the dimension is beyond int64")
    return _whole(np.floor(exact))


def entropy_min_dim(n: ArrayLike) -> Any:
    """Return how many dimensions word vectors or attention heads need to tell n words or tokens apart.

    It is 8.33 ln n, rounded to the nearest integer. The constant is a rule of thumb of two digits or so, from where
    the entropy of what a skip-gram model of n words predicts falls to 0; the Johnson-Lindenstrauss lemma, which asks
    for more than that of the vectors, has no part in it.

    Parameters
    ----------
    n : array_like
        How many words or tokens: at least 1.

    Returns
    -------
    int or ndarray of int64
        The dimension: an int if `n` is a scalar.

    Raises
    ------
    TypeError
        If `n` is not of real numbers.
    ValueError
        If `n` is less than 1 or not finite.

    References
    ----------
    Jianlin Su, "Minimum Entropy Principle (VI): How to Choose the Dimension of Word Vectors?", 2020.

    Examples
    --------
    >>> entropy_min_dim([512, 100_000, 5_000_000])
    array([ 52,  96, 128])
    """
    return _whole(np.rint(_ENTROPY * np.log(_counts(n))))


# ---- angles


@lru_cache(maxsize=1)
def _exact_constants() -> Doubles:
    """C of 2 to 63 dimensions, correctly rounded to within the rounding of pi: C(n + 2) = C(n) n / (n - 1)."""
    table = [Fraction(0), Fraction(0), Fraction(1), Fraction(1, 2)]  # that of an even n is times pi
    for n in range(2, _EXACT - 2):
        table.append(table[n] * n / (n - 1))
    return np.array([float(c) / (1 if n % 2 else math.pi) for n, c in enumerate(table)])


def _constant(n: Doubles) -> Doubles:
    """C = Gamma(n/2) / (Gamma((n - 1)/2) sqrt(pi)).

    With w = n/2 - 3/4, ln Gamma(w + 3/4) - ln Gamma(w + 1/4) has the asymptotic series
    ln(w)/2 - sum_(k >= 1) E_(2k) / (k 4^(2k + 1) w^2k), with Euler's numbers E_2 = -1, E_4 = 5, E_6 = -61, E_8 = 1385.
    """
    w = np.maximum(n, _EXACT) / 2 - 0.75
    y = (4 * w) ** -2
    series = y / 4 * (1 - y * (5 / 2 - y * (61 / 3 - y * (1385 / 4))))
    few = n < _EXACT
    constant: Doubles = np.where(
        few, _exact_constants()[np.where(few, n, 0).astype(np.int64)], np.sqrt(w / math.pi) * np.exp(series)
    )
    return constant


def _density(n: Doubles, sine: Doubles, cosine: Doubles) -> Doubles:
    """C sin^(n - 2), by the logarithm of the sine or of what it lacks to 1, whichever is known better."""
    near = np.abs(cosine) < 0.7
    log = np.where(near, np.log1p(-((near * cosine) ** 2)) / 2, np.log(sine))
    density: Doubles = _constant(n) * np.exp((n - 2) * np.where(n == 2, 0, log))
    return density


def _center(n: Doubles, square: Doubles) -> Doubles:
    """2F1(1, n/2; 3/2; square): the sum over k of square^k (n/2)_k / (3/2)_k, by Horner's rule. All is positive."""
    total = np.ones_like(n)
    for k in range(_SERIES - 1, -1, -1):
        total = 1 + total * square * ((n / 2 + k) / (1.5 + k))
    return total


def _tail(n: Doubles, square: Doubles) -> Doubles:
    """2F1(1, 1/2; (n + 1)/2; -square), as Gauss's continued fraction 1/(1 + e_1/(1 + e_2/(1 + ...))), all positive.

    What is left out, 1 + e_(k+1)/(1 + ...), is taken for what it would be if the e did not change from there.
    """
    v = (n - 1) / 2

    def e(k: int) -> Any:
        return square * (k / 2) * (v + (k - 1) / 2) / ((v + (k - 1)) * (v + k))

    total: Doubles = (1 + np.sqrt(1 + 4 * e(_FRACTION + 1))) / 2
    for k in range(_FRACTION, 0, -1):
        total = 1 + e(k) / total
    return 1 / total


def _check_broadcast(names: str, *arrays: NDArray[Any]) -> None:
    try:
        np.broadcast_shapes(*(a.shape for a in arrays))
    except ValueError:
        shapes = " and ".join(str(a.shape) for a in arrays)
        raise ValueError(f"{names}: shapes {shapes} do not broadcast") from None


def _angles(theta: ArrayLike, n: ArrayLike) -> tuple[Doubles, Doubles]:
    angle = _numbers(theta, "theta", "real numbers are needed")
    dimensions = np.asarray(n)
    if dimensions.dtype.kind not in "iu":
        held = f"n={n!r}" if dimensions.ndim == 0 else f"n: dtype {dimensions.dtype}"
        raise TypeError(f"{held}: integers up to 2**63 - 1 are needed")
    if dimensions.size and dimensions.min() < 2:
        raise ValueError(f"n={dimensions.min()}: at least 2 dimensions are needed")
    _check_broadcast("theta, n", angle, dimensions)
    angle, dimensions = np.broadcast_arrays(angle, dimensions.astype(np.float64))
    return angle, dimensions


def angle_pdf(theta: ArrayLike, n: ArrayLike) -> Any:
    """Return the density of the angle between two independent random directions.

    It is Gamma(n/2) / (Gamma((n - 1)/2) sqrt(pi)) sin(theta)^(n - 2) in n dimensions.

    Parameters
    ----------
    theta : array_like
        Angles, in radians. Outside of 0 to pi, the density is 0; that of nan is nan.
    n : array_like of int
        Dimensions: at least 2. Broadcasts with `theta`.

    Returns
    -------
    float64 or ndarray of float64
        The density, a scalar if both are.

    Raises
    ------
    TypeError
        If `theta` is not of real numbers or `n` not of integers.
    ValueError
        If `n` is less than 2, or they do not broadcast.

    Notes
    -----
    The relative error is at most 40 (1 + L) 2^-53 with L = -ln sin(theta)^(n - 2), for any n, as far out as the density
    is a normal number: so at most 4e-12. That allows four units in the last place to each of NumPy's sin, cos, log,
    log1p and exp; 5 (1 + L) is more than what was found.

    The mean is pi/2. The variance is 0.4674 for n = 3, 0.1107 for 10, 0.0101 for 100; that of the cosine is 1 / n.

    References
    ----------
    T. Cai, J. Fan and T. Jiang, "Distributions of Angles in Random Packing on Spheres", 2013.

    Examples
    --------
    >>> import numpy as np
    >>> angle_pdf(np.pi / 3, [2, 3, 100])
    array([3.18309886e-01, 4.33012702e-01, 2.98973630e-06])
    """
    angle, dimensions = _angles(theta, n)
    with np.errstate(all="ignore"):
        density = _density(dimensions, np.sin(angle), np.cos(angle))
        outside = (angle < 0) | (angle > math.pi)
        return np.where(outside, 0, np.where(np.isnan(angle), angle, density))[()]


def angle_cdf(theta: ArrayLike, n: ArrayLike) -> Any:
    """Return the probability that two independent random directions make an angle of at most theta.

    Parameters
    ----------
    theta : array_like
        Angles, in radians. Below 0 the probability is 0, above pi it is 1; that of nan is nan.
    n : array_like of int
        Dimensions: at least 2. Broadcasts with `theta`.

    Returns
    -------
    float64 or ndarray of float64
        The probability, a scalar if both are. That of a larger angle is that of at most ``pi - theta``.

    Raises
    ------
    TypeError
        If `theta` is not of real numbers or `n` not of integers.
    ValueError
        If `n` is less than 2, or they do not broadcast.

    Notes
    -----
    The relative error is at most (5000 + 40 L) 2^-53 with L = -ln sin(theta)^(n - 2) for angles up to pi/2, for any n
    and as far out as the probability is a normal number: so at most 4e-12. Beyond pi/2, the result is 1 less a number
    with such an error. As for `angle_pdf`, that is the worst case; 60 + 5 L is more than what was found.

    With p the density, s and c the sine and the cosine of theta, and Gauss's hypergeometric function, it is both
    1/2 - p s c 2F1(1, n/2; 3/2; c^2) and p s / ((n - 1) c) 2F1(1, 1/2; (n + 1)/2; -s^2/c^2). The first is taken near
    pi/2, where c^2 < 4 / (n + 6), as 64 terms of its series; the second, elsewhere, as 96 of its continued fraction.

    References
    ----------
    T. Cai, J. Fan and T. Jiang, "Distributions of Angles in Random Packing on Spheres", 2013. NIST's "Digital Library
    of Mathematical Functions", 15.7 (the fraction), 8.17 (the incomplete beta function, which this is).

    Examples
    --------
    >>> import numpy as np
    >>> angle_cdf(np.pi / 3, [2, 3, 100])
    array([3.33333333e-01, 2.50000000e-01, 5.08725891e-08])
    """
    angle, dimensions = _angles(theta, n)
    result: Doubles = np.array(np.where(angle > 0, 1.0, 0.0), ndmin=1)
    result[np.isnan(angle)] = np.nan
    inside = np.atleast_1d((angle > 0) & (angle <= math.pi))
    t, m = np.atleast_1d(angle)[inside], np.atleast_1d(dimensions)[inside]
    with np.errstate(all="ignore"):
        s, c = np.sin(t), np.cos(t)
        density = _density(m, s, c)
        lower = np.empty_like(t)
        near = c * c < _EDGE[0] / (m + _EDGE[1])
        far = ~near
        lower[near] = 0.5 - density[near] * s[near] * c[near] * _center(m[near], c[near] ** 2)
        tangent = s[far] / np.abs(c[far])
        tail = density[far] * tangent / (m[far] - 1) * _tail(m[far], tangent**2)
        lower[far] = np.where(c[far] > 0, tail, 1 - tail)
    result[inside] = lower
    return result.reshape(angle.shape)[()]
