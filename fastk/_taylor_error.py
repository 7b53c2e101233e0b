"""The errors of Taylor polynomials of exp, and of the softmax that is computed with them.

f_n(x) is the sum of x**k / k! for k up to n, n even. The derivative of f_n(x) e**-x is -x**n / n! e**-x, which is never
positive: over e**x, f_n is 1 at 0, more to the left and less to the right. So the range of its relative error on an
interval is known from the ends, and the worst row of a softmax from one function of one variable.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import lru_cache
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ._check import integer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "TaylorError",
    "TaylorMinimum",
    "check_order",
    "fast_softmax_error",
    "plot_taylor",
    "taylor_error",
    "taylor_minimum",
]

Array = npt.NDArray[np.float64]

MAX_ORDER = 12
DIGITS = 50
"""Of decimal arithmetic, which leaves floats correctly rounded but for ties."""


class TaylorMinimum(NamedTuple):
    """The one minimum of a Taylor polynomial of exp, of even order.

    Attributes
    ----------
    x : float
        Where it is: the one real zero of the polynomial of the order below, negative.
    value : float
        The polynomial there, x**order / order!, positive.
    """

    x: float
    value: float


class TaylorError(NamedTuple):
    """Range of the relative error f_n(x) / e**x - 1 of a Taylor polynomial of exp.

    Attributes
    ----------
    low, high : float
        Minimum, not positive, and maximum, not negative.
    """

    low: float
    high: float


def check_order(order: Any) -> int:
    """Return `order` as an int; TypeError or ValueError if it is no order of a Taylor softmax.

    Examples
    --------
    >>> check_order(3)
    Traceback (most recent call last):
    ...
    ValueError: order=3: allowed is 2 to 12, even: a polynomial of odd degree is negative somewhere, and no distribution
    """
    if isinstance(order, bool):
        raise TypeError(f"order={order!r}: an integer is needed")
    most = f"{MAX_ORDER}, even: a polynomial of odd degree is negative somewhere, and no distribution"
    number = integer(order, "order", 2, MAX_ORDER, most)
    if number % 2:
        raise ValueError(f"order={number}: allowed is 2 to {most}")
    return number


@lru_cache
def _minimum(order: int) -> TaylorMinimum:
    # The derivative of f_n is f_{n-1}, which rises and, to the left of its zero, is concave: Newton's steps from there
    # never pass the zero.
    x, step = Fraction(-order, 2), Fraction(1)
    while step > Fraction(1, 2**80):
        terms = [x**k / math.factorial(k) for k in range(order)]
        step = -sum(terms, Fraction(0)) / sum(terms[:-1], Fraction(0))
        x = Fraction(round((x + step) * 2**160), 2**160)
    return TaylorMinimum(float(x), float(x**order / math.factorial(order)))


def taylor_minimum(order: int) -> TaylorMinimum:
    """Return the minimum of the Taylor polynomial of exp.

    For an even order it is the only one, and the polynomial is positive there and so everywhere. To the left of it, a
    larger x has a smaller polynomial.

    Parameters
    ----------
    order : int
        Order of the polynomial: 2, 4, 6, 8, 10 or 12.

    Returns
    -------
    TaylorMinimum
        ``x`` and ``value``, correctly rounded.

    Raises
    ------
    TypeError
        If `order` is not an integer; a boolean is none.
    ValueError
        If `order` is odd or not from 2 to 12.

    Examples
    --------
    >>> taylor_minimum(2)
    TaylorMinimum(x=-1.0, value=0.5)
    >>> print("{:.6f} {:.6f}".format(*taylor_minimum(4)))
    -1.596072 0.270395
    """
    return _minimum(check_order(order))


def _relative_error(order: int, x: Decimal) -> Decimal:
    """f_n(x) / e**x - 1, which is minus the rest of the series, over e**x."""

    def terms(first: int, stop: int) -> Decimal:
        return sum((x**k / math.factorial(k) for k in range(first, stop)), Decimal(0))

    if abs(x) < 1:
        return -terms(order + 1, order + DIGITS) * (-x).exp()
    return terms(0, order + 1) * (-x).exp() - 1


def taylor_error(order: int, a: float) -> TaylorError:
    """Return the range of the relative error of the Taylor polynomial of exp on [-a, a].

    The error is f_n(x) / e**x - 1 over the reals, with n the order. It falls as x rises, so the range is that of the
    ends: ``low`` is the error at a, ``high`` at -a. Near 0 it is about -x**(n+1) / (n+1)!.

    Parameters
    ----------
    order : int
        Order of the polynomial: 2, 4, 6, 8, 10 or 12.
    a : float
        Half the width of the interval around 0: finite, at least 0.

    Returns
    -------
    TaylorError
        ``low`` and ``high``, correctly rounded; inf where ``high`` is beyond the floats.

    Raises
    ------
    TypeError
        If `order` is not an integer or `a` not a real number; a boolean is neither.
    ValueError
        If `order` is odd or not from 2 to 12, or `a` is negative or not finite.

    References
    ----------
    A. de Brebisson, P. Vincent, "An Exploration of Softmax Alternatives Belonging to the Spherical Loss Family", ICLR
    2016, has order 2; K. Banerjee et al., "Exploring Alternatives to Softmax Function", 2020, higher orders.

    Examples
    --------
    >>> print("{:.4f} {:.4f}".format(*taylor_error(2, 1)))
    -0.0803 0.3591
    >>> print("{:.3e} {:.3e}".format(*taylor_error(8, 0.001)))
    -2.753e-33 2.758e-33
    """
    order = check_order(order)
    allowed = f"a={a!r}: a finite number that is at least 0 is needed"
    if isinstance(a, (bool, np.bool_)) or not isinstance(a, Real):
        raise TypeError(allowed)
    try:
        end = float(a)
    except OverflowError:
        end = math.inf
    if not 0 <= end < math.inf:
        raise ValueError(allowed)
    with localcontext() as context:
        context.prec = DIGITS
        # At 1000 both have come to their limits.
        x = Decimal(min(end, 1000.0))
        # Adding 0 makes a positive zero of a negative one.
        return TaylorError(float(_relative_error(order, x)) + 0.0, float(_relative_error(order, -x)) + 0.0)


# The softmax by squaring: with y = m - x >= 0 below the maximum m of a row, an entry weighs v = f_n(-y/32)**32 where y
# is at most Y = 32 |x*|, else 0, and should weigh w = e**-y. TV is half the sum of |p - exact p|.
#
# Over the reals. Let g = v - w >= 0; g / w rises with y and is 0 at the maximum. Of the entries kept, let A be those
# which get too much, with sums W_A and G_A, and the rest, which has the maximum, W_B >= 1. Then
#     TV = (G_A W_B - W_A G_B) / (W (W + G)) <= s G_A / ((1 + s W_A) (1 + s (W_A + G_A))),  s = 1 / W_B <= 1,
# which is at most G_A / (1 + 2 W_A + G_A). That is a mean of g over a mean of 1/|A| + 2 w + g, so at most the largest
# g / (1/(count-1) + 2 w + g) of one y. What is dropped weighs at most e**-Y each, beside the maximum's 1; the sum of
# both bounds the TV, by the triangle inequality through the softmax of the kept entries.
#
# Rounding, u half an ulp of 1 (in terms of first order; SAFETY is for the others). t = -y/32 is off by at most 3 u: a
# difference, a factor, a product. f_n, as a product of (t - a)^2 + b, all positive, is off by |t f_n'(t) / f_n(t)| of
# that, and by (5/2 order + 2) u with the coefficients' roundings. The 32nd power makes 32 of both, five squarings add
# 16 + 8 + 4 + 2 + 1. If every weight is off by at most E, the softmax is by at most E / 2, half the largest mean
# deviation. A factor that is off by R, other for each entry, adds R / 2: the sum of blocks of 1024 entries in 16 lanes
# (64 additions in each, 4 to join them) with its rounding at the end, at most 70 u, float64 additions of the blocks,
# the reciprocal and the product, 2 u. Of one entry only these two remain. Underflow takes less than the smallest
# normal number from an entry. A narrower result's own rounding is relative, or at most half the smallest subnormal and
# no more than the entry itself.

SAFETY = 1.001
"""Factor for the terms of second order and the roundings in the bound itself, which are below 1e-4."""

SHARE = 32
"""Of the exponent in one Taylor polynomial: two to the number of squarings."""

BLOCK = 1024
EDGE = 2.0**-20
"""Relative room around Y, where rounding decides what is dropped."""

SINGLE, DOUBLE = (2.0**-24, 2.0**-126), (2.0**-53, 2.0**-1022)
COMPUTED_IN = {"float16": SINGLE, "bfloat16": SINGLE, "float32": SINGLE, "float64": DOUBLE}
"""Of the precision that a dtype is computed in: half an ulp of 1, and the smallest normal number."""

NARROW = {"float16": (2.0**-11, 2.0**-25), "bfloat16": (2.0**-8, 2.0**-134)}
"""Largest rounding of a result to a dtype narrower than that: relative, and absolute where it is subnormal."""


def _excess(order: int, t: Array) -> Array:
    """f_n(-t) / e**-t - 1 for small t >= 0: the integral of s**n / n! e**s from 0 to t, whose series has no minus."""
    term = t ** (order + 1) / math.factorial(order)
    total = term / (order + 1)
    for j in range(1, 64):
        term = term * t / j
        total += term / (order + 1 + j)
    return total


def _overweight(order: int, others: int) -> float:
    """Largest g / (1/others + 2 w + g) of all y that may be kept, or slightly more."""

    def gain(y: Array) -> Array:
        g_over_w: Array = np.expm1(SHARE * np.log1p(_excess(order, y / SHARE)))
        return g_over_w

    # g / w and 1 / w rise with y: in a cell, the fraction is at most what the one at its end and the other at its start
    # make of it. Cells that may have the maximum are split.
    edges = np.linspace(0, SHARE * -_minimum(order).x * (1 + EDGE), 1025)
    start, end = edges[:-1], edges[1:]
    for parts in (16, 16, 16, 0):
        most = gain(end)
        bound = most / (np.exp(start) / others + 2 + most)
        if parts:
            attained = np.max(most / (np.exp(end) / others + 2 + most))
            start, end = start[bound >= attained], end[bound >= attained]
            inner = np.linspace(start, end, parts + 1)
            start, end = inner[:-1].ravel(), inner[1:].ravel()
    return float(bound.max())


def _rounding(order: int, count: int, dtype: str) -> float:
    u, smallest = COMPUTED_IN[dtype]
    t = np.linspace(0, -_minimum(order).x, 1025)
    condition = np.max(t * (1 - t**order / math.factorial(order) * np.exp(t) / (1 + _excess(order, t))))
    weight = SHARE * (2.5 * order + 2 + 3 * float(condition)) + SHARE - 1
    factor = (70 + 2) * u + -(-count // BLOCK) * DOUBLE[0]
    rounding = (weight * u + factor) / 2 + count * smallest
    if dtype in NARROW:
        relative, absolute = NARROW[dtype]
        rounding += (relative + min(1.0, count * absolute)) / 2
    return rounding


@lru_cache(maxsize=512)
def _softmax_error(order: int, count: int, dtype: str) -> float:
    if count == 1:
        return SAFETY * COMPUTED_IN[dtype][0]
    dropped = (count - 1) * math.exp(SHARE * _minimum(order).x * (1 - EDGE))
    exact = _overweight(order, count - 1) + dropped / (1 + dropped)
    return min(1.0, SAFETY * (exact + _rounding(order, count, dtype)))


def _dtype_name(dtype: Any) -> str:
    try:
        name = "" if dtype is None else np.dtype(dtype).name
    except TypeError:
        name = ""
    if name not in COMPUTED_IN:
        raise TypeError(f"dtype={dtype!r}: allowed are {', '.join(COMPUTED_IN)}")
    return name


def fast_softmax_error(order: int, n: int, dtype: npt.DTypeLike = np.float32) -> float:
    """Return a bound on how far `fast_softmax` is from the softmax, over all rows of `n` entries.

    The distance is the total variation: half the sum of the absolute differences of a row's probabilities. The bound is
    proven, for any finite entries. Its part for the polynomial is all but attained: for up to a million entries by a
    factor of at most 1.3, on a row of one maximum and else equal entries some way below. Rows of ordinary logits stay
    far under it. Its part for rounding in `dtype` takes the worst case of every operation.

    Parameters
    ----------
    order : int
        Order of the polynomial: 2, 4, 6, 8, 10 or 12.
    n : int
        Entries of a row, from 1; those that are masked or -inf do not count.
    dtype : dtype, optional
        Of the row and the result: float16, bfloat16, float32 (the default) or float64. float16 and bfloat16 are
        computed in float32 and then rounded.

    Returns
    -------
    float
        The bound, at most 1.

    Raises
    ------
    TypeError
        If `order` or `n` is not an integer, or `dtype` not one of those above.
    ValueError
        If `order` is odd or not from 2 to 12, or `n` is less than 1.

    References
    ----------
    K. Banerjee et al., "Exploring Alternatives to Softmax Function", 2020, for the polynomials; squaring is the old
    remedy for the exponential of what is not small: C. Moler, C. Van Loan, "Nineteen Dubious Ways to Compute the
    Exponential of a Matrix", SIAM Review 20, 1978, method 3.

    Examples
    --------
    >>> for order in (2, 4, 6):
    ...     print(f"{fast_softmax_error(order, 1000):.1e} {fast_softmax_error(order, 1000, 'float64'):.1e}")
    2.2e-02 2.2e-02
    8.2e-05 6.5e-05
    2.3e-05 1.1e-07
    """
    order = check_order(order)
    count = integer(n, "n", 1, 2**63 - 1, "2**63 - 1")
    return _softmax_error(order, count, _dtype_name(dtype))


def plot_taylor(order: int | Iterable[int] = (2, 4, 6, 8), ax: Axes | None = None) -> Axes:
    """Draw Taylor polynomials of exp beside exp, on a logarithmic axis, with the minimum of each marked.

    Parameters
    ----------
    order : int or iterable of int
        Orders to draw: 2, 4, 6, 8, 10, 12.
    ax : matplotlib.axes.Axes, optional
        Where to draw; without it, in a new figure of its own. Nothing is shown.

    Returns
    -------
    matplotlib.axes.Axes
        `ax`, or the new figure's.

    Raises
    ------
    ImportError
        If matplotlib is missing.
    TypeError
        If an order is not an integer.
    ValueError
        If an order is odd or not from 2 to 12, or there is none.

    Examples
    --------
    >>> ax = plot_taylor([2, 4])  # doctest: +SKIP
    >>> ax.figure.savefig("taylor.png")  # doctest: +SKIP
    """
    orders = sorted({check_order(n) for n in (order if isinstance(order, Iterable) else [order])})
    if not orders:
        raise ValueError(f"order={order!r}: at least one order is needed")
    if ax is None:
        try:
            from matplotlib import pyplot
        except ImportError as missing:
            raise ImportError("plot_taylor needs matplotlib: pip install 'fastk-kernels[bench]'") from missing
        ax = pyplot.subplots(layout="constrained")[1]
    least = {n: taylor_minimum(n) for n in orders}
    x = np.union1d(np.linspace(-6, 3, 901), [least[n].x for n in orders])
    ax.plot(x, np.exp(x), color="black", linestyle="--", linewidth=1, zorder=4, label="$e^x$")
    for n in orders:
        color = f"C{n // 2 - 1}"
        value = np.polyval([1 / math.factorial(k) for k in range(n, -1, -1)], x)
        ax.plot(x, value, color=color, linewidth=1.5, label=f"order {n}")
        ax.plot(*least[n], "o", color=color, markerfacecolor="white", zorder=5)
        place = "({:.3f}, {:.4f})".format(*least[n]).replace("-", "\N{MINUS SIGN}")
        ax.annotate(place, least[n], xytext=(26, -4), textcoords="offset points",
                    va="center", color=color, fontsize="small")  # fmt: skip
    ax.set_yscale("log")
    ax.set(xlim=(-6, 3), xlabel="x", ylabel="$f_n(x)$, logarithmic")
    ax.set_title("Taylor polynomials of $e^x$ of even order $n$: positive, one minimum")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(loc="lower right", frameon=False)
    return ax
