"""The errors of the Mitchell operations: exact extremes, means, and the biases that balance them.

Mitchell reads a float's bits as its binary logarithm: 2**e * (1 + x) with 0 <= x < 1 has the logarithm e + x, and a
logarithm t stands for P(t) = 2**floor(t) * (1 + t - floor(t)). Every operation here is P of a linear function of such
logarithms plus a bias d, so between kinks it is linear in the mantissa, and its error over the exact result has its
extremes at kinks, at ends, and where a linear function over a power (or 2**f) is level. Those points are few, and the
error is evaluated at each. Nothing is searched for.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ._check import real

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["BIAS", "OPS", "Correction", "MitchellError", "mitchell_error", "plot_error", "relative_error", "resolve"]

Array = npt.NDArray[np.float64]

OPS = ("mul", "square", "div", "reciprocal", "sqrt", "rsqrt", "log2", "exp2", "pow")
NAMED = ("minimax", "unbiased", "lmul", "refined")
LIMIT = 0.5

# minimax: the highest error is minus the lowest. unbiased: the mean is 0, over uniform mantissas and, for sqrt and
# rsqrt, both parities of the exponent. lmul: every logarithm is read 1/16 too high. Where d < 0, P(t + d) wraps below
# 1 for t < -d and has half the slope there; the equations include that. ln is the natural logarithm.
BIAS: dict[str, dict[str, float]] = {
    "mul": {
        "minimax": 0.068857536246463947,  # (1 - d) (3 - d)^2 = 8: low 8 / (3 - d)^2 - 1, high d
        # The integral of P(s + d) w(s) from 0 to 2 is 1, w(s) = 2 ln(min(1 + s, 2 / s)) / (2 + s): the mean of
        # 1 / ((1 + x) (1 + y)) along x + y = s.
        "unbiased": 0.056623270688619274,
        "lmul": 1 / 16,
    },
    "square": {
        "minimax": 0.068857536246463947,  # as mul, whose extremes are at x = y
        "unbiased": 0.056374288726628732,  # 14 ln 2 - 2 ln(3 - d) - 4 ln(4 - d) = 2 + d
        "lmul": 1 / 16,
    },
    "div": {
        "minimax": -0.074803154050451521,  # (1 - d) (3 + d)^2 = 8 (1 - 2 d): low d / (1 - d), high (3 + d)^2 / 8 - 1
        # The integral of P(s + d) w(s) from -1 to 1 is 1, w(s) = 1 - s - s ln(2 / (1 + s)) for s >= 0 and
        # 1 + s - s ln(2 + s) for s < 0: the integral of (1 + y) / (1 + x) along x - y = s.
        "unbiased": -0.057995113487905745,
        "lmul": -1 / 16,
    },
    "reciprocal": {
        "minimax": -0.10102051443364380,  # 2 sqrt(6) - 5: low d / 2, high (3 + d)^2 / 8 - 1
        "unbiased": -0.11547001962463162,  # d^3 + 6 d^2 + 18 d + 2 = 0
        "lmul": -1 / 16,
    },
    "sqrt": {
        "minimax": -0.036646187120815182,  # (3/2 + d) / sqrt(2) + 1 / sqrt(1 - 2 d) = 2: high and low, each plus 1
        "unbiased": -0.028887738839887057,  # (1 - 2 d)^(3/2) / 3 + (1 + sqrt(2)) d = 1 - 1 / sqrt(2)
        "lmul": -1 / 32,
    },
    "rsqrt": {
        "minimax": -0.067255110040556805,  # 2 ((2 + d) / 3)^(3/2) + sqrt(1 + d) = 2: high and low, each plus 1
        "unbiased": -0.086278592159894240,  # 8 (1 + d)^(5/2) + 10 (1 + sqrt(2)) d = 34 - 21 sqrt(2)
        "lmul": -1 / 32,
    },
    "log2": {
        "minimax": 0.043035666027967103,  # (1 - 1 / ln 2 - log2(ln 2)) / 2: the range is 2 d wide
        "unbiased": 0.057304959111036593,  # 3/2 - 1 / ln 2
        "lmul": 1 / 16,
    },
    "exp2": {
        "minimax": -0.043677448903601848,  # 1 - log2(1 + 2 / (e ln 2)): low 2^d - 1, high 2^d 2 / (e ln 2) - 1
        "unbiased": -0.057532745889795228,  # 1 + 2 log2(ln 2): the mean is 2^d / (2 (ln 2)^2) - 1
        "lmul": -1 / 16,
    },
}
BIAS["pow"] = dict(BIAS["exp2"])  # its other half, the logarithm, has the bias of log2


class Correction(NamedTuple):
    """What a correction means for one operation.

    Attributes
    ----------
    refined : bool
        The dropped term is added by a second Mitchell operation.
    bias : float
        Added to the logarithm of the result; for log2 to the result.
    log_bias : float
        Added to the logarithm of the base, before it is multiplied by the exponent. 0 for all but pow.
    """

    refined: bool
    bias: float
    log_bias: float


class MitchellError(NamedTuple):
    """Error of a Mitchell operation over all mantissas: approx / exact - 1, for log2 approx - exact.

    Attributes
    ----------
    low, high : float
        Infimum and supremum.
    mean, rms : float
        Mean and root of the mean square, for uniform and independent mantissas.
    attained_at : tuple of float
        Operands where the error of the largest magnitude is attained, or that it is approached at. Of several the
        smallest. Empty for pow.
    """

    low: float
    high: float
    mean: float
    rms: float
    attained_at: tuple[float, ...]


def _check_op(op: Any) -> None:
    if not isinstance(op, str):
        raise TypeError(f"op={op!r}: a string is needed, one of {', '.join(OPS)}")
    if op not in OPS:
        raise ValueError(f"op={op!r}: allowed are {', '.join(OPS)}")


def resolve(op: str, correction: str | float | None = None) -> Correction:
    """Return what `correction` means for `op`; TypeError or ValueError if either is none that there is.

    Examples
    --------
    >>> resolve("sqrt", "lmul")
    Correction(refined=False, bias=-0.03125, log_bias=0.0)
    """
    _check_op(op)
    if correction is None:
        return Correction(False, 0.0, 0.0)
    allowed = f"allowed are {', '.join(NAMED)}, None and numbers from {-LIMIT} to {LIMIT}"
    if isinstance(correction, str):
        if correction not in NAMED:
            raise ValueError(f"correction={correction!r}: {allowed}")
        if correction == "refined":
            return Correction(True, 0.0, 0.0)
        return Correction(False, BIAS[op][correction], BIAS["log2"][correction] if op == "pow" else 0.0)
    bias = real(correction, "correction", allowed)
    if not abs(bias) <= LIMIT:
        raise ValueError(f"correction={correction!r}: {allowed}")
    return Correction(False, bias, 0.0)


# The operations over the reals.


def _log(x: Array) -> Array:
    """Mitchell's logarithm of positive numbers."""
    mantissa, exponent = np.frexp(x)
    log: Array = (exponent - 2.0) + 2 * mantissa
    return log


def _antilog(t: Array) -> Array:
    floor: Array = np.floor(t)
    return (1 + (t - floor)) * np.exp2(floor)


def _product(u: Array, v: Array, less: Array | float = 0.0) -> Array:
    """Mitchell's product of u and v, divided by what has the logarithm `less`; 0 where u or v is 0."""
    zero = (u <= 0) | (v <= 0)
    t = _log(np.where(zero, 1.0, u)) + _log(np.where(zero, 1.0, v)) - less
    return np.where(zero, 0.0, _antilog(t))


def _refine_log(t: Array) -> Array:
    """Second pass of the logarithm: log2(1 + x) exceeds x by about 3/8 x (1 - x)."""
    x = t - np.floor(t)
    return t + 0.375 * _product(x, 1 - x)


def _refine_exp(t: Array) -> Array:
    f = t - np.floor(t)
    return t - 0.375 * _product(f, 1 - f)


def _dropped(op: str, x: Array, y: Array) -> Array:
    """Relative error of the refined mul or div of 1 + x and 1 + y: that of the dropped term, which alone is inexact."""
    if op == "mul":
        # (1 + x) (1 + y) is 1 + x + y and the dropped x y, or 2 (x + y) and the dropped (1 - x) (1 - y).
        carry = x + y >= 1
        u, v = np.where(carry, 1 - x, x), np.where(carry, 1 - y, y)
        rest: Array = _product(u, v) - u * v
        return rest / ((1 + x) * (1 + y))
    # (1 + x) / (1 + y) is 1 + x - y less v g / (1 + y), or half of 2 - g less v g / (1 + y), with g = |x - y|.
    borrow = x < y
    gap, v = np.abs(x - y), np.where(borrow, 1 - y, y)
    rest = v * gap - (1 + y) * _product(v, gap, y)
    return rest / ((1 + x) * np.where(borrow, 2.0, 1.0))


def _error(op: str, c: Correction, x: Array, y: Array) -> Array:
    """The error at operands x and y (which mul, div and pow alone use)."""
    if op in ("square", "reciprocal"):
        return _error("mul", c, x, x) if op == "square" else _error("div", c, np.ones_like(x), x)
    if op == "exp2":
        x = x - np.floor(x)
        t, exact = x + c.bias, np.exp2(x)
        return (_antilog(_refine_exp(t) if c.refined else t) - exact) / exact
    log = _log(x)
    if op in ("mul", "div"):
        # Powers of two cancel.
        x, y = 2 * np.frexp(x)[0], 2 * np.frexp(y)[0]
        if c.refined:
            return _dropped(op, x - 1, y - 1)
        if op == "mul":
            return (_antilog(x + y - 2 + c.bias) - x * y) / (x * y)
        return (_antilog(x - y + c.bias) * y - x) / x
    if c.refined:
        log = _refine_log(log)
    if op == "log2":
        return log + c.bias - np.log2(x)
    if op == "pow":
        t = y * (log + c.log_bias) + c.bias
        t = _refine_exp(t) if c.refined else t
        floor = np.floor(t)
        return (1 + (t - floor)) * np.exp2(floor - y * np.log2(x)) - 1
    half = log / 2 if op == "sqrt" else -log / 2
    t = (_refine_exp(half) if c.refined else half) + c.bias
    root = np.sqrt(x)
    return (_antilog(t) - root) / root if op == "sqrt" else _antilog(t) * root - 1


def relative_error(
    op: str, correction: str | float | None, x: npt.ArrayLike, y: npt.ArrayLike | None = None
) -> npt.NDArray[np.float64]:
    """Return the error of an operation at given operands, over the reals: no format rounds it.

    Parameters
    ----------
    op : str
        One of ``OPS``.
    correction : str, float or None
        As `mitchell_error` takes it.
    x : array_like
        First operands: positive (for exp2 any), finite.
    y : array_like, optional
        Second operands, for mul, div and pow: positive (for pow any), finite. Broadcast against `x`.

    Returns
    -------
    ndarray of float64
        approx / exact - 1, for log2 approx - exact.

    Raises
    ------
    TypeError
        If `op` or `correction` has a wrong type, or `y` is missing or too much.
    ValueError
        If `op` or `correction` is out of range.

    Examples
    --------
    >>> print(relative_error("div", None, 1.0, [1.0, 1.5, 1.75]))
    [0.      0.125   0.09375]
    """
    c = resolve(op, correction)
    if (y is None) == (op in ("mul", "div", "pow")):
        raise TypeError(f"y={y!r}: {op} takes {'two operands' if y is None else 'one operand'}")
    first, second = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(1.0 if y is None else y, np.float64))
    return _error(op, c, first, second)


# Kinks and extremes. Below 2**-DEPTH, what a second pass drops is below 4**-DEPTH.

DEPTH = 24
_OCTAVES: Array = np.exp2(-np.arange(1.0, DEPTH + 1))
_POWER = {"square": 2.0, "reciprocal": -1.0, "sqrt": 0.5, "rsqrt": -0.5}
_SLOPE = {"square": 2.0, "reciprocal": -1.0, "sqrt": 0.5, "rsqrt": -0.5, "exp2": 1.0}


def _mirrored(points: Array) -> Array:
    return np.unique(np.concatenate(([0.0, 1.0], points, 1 - points)))


# Of the product of x and 1 - x: with x = 2^-i (1 + a) and 1 - x = (1 + b) / 2, a + b = 1 at x = 1 / (2^i - 2).
_KINKS = _mirrored(np.concatenate((_OCTAVES, 1 / (1 / _OCTAVES[2:] - 2))))


def _whole(slope: float, bias: float, low: float, high: float) -> Array:
    """Where slope * u + bias is an integer, within [low, high], and both ends."""
    u = (np.arange(-4, 5) - bias) / slope
    return np.unique(np.concatenate(([low, high], u[(low < u) & (u < high)])))


def _kinks(op: str, c: Correction) -> Array:
    """Kinks of a one-operand op and its ends, as logarithms of the operand; for exp2 as operands."""
    if not c.refined:
        if op == "log2":
            return np.array([0.0, 1.0])
        if op in ("sqrt", "rsqrt"):
            return np.union1d(_whole(_SLOPE[op], c.bias, 0.0, 2.0), 1.0)
        return _whole(_SLOPE[op], c.bias, 0.0, 1.0)
    if op == "square":
        # x x has its kink where both mantissas are 1.5, and so has (1 - x) (1 - x).
        return _mirrored(np.concatenate((_OCTAVES, 1.5 * _OCTAVES[1:])))
    if op == "reciprocal":
        # (1 - y) y / (1 + y), y below 1/2: the logarithm is 2^i y - 3 y and an integer; above 1/2: (2^i - 1) (1 - y).
        below, above = 1 / (1 / _OCTAVES[2:] - 3), 1 - 1 / (1 / _OCTAVES[1:] - 1)
        return np.unique(np.concatenate((_mirrored(_OCTAVES), below, above)))
    if op in ("sqrt", "rsqrt"):
        # The kinks of the logarithm, and what it takes to those of the exponential, which are symmetric about 1/2.
        back = [e + np.interp(2 * _KINKS - e, _refine_log(_KINKS), _KINKS) for e in (0, 1)]
        return np.unique(np.concatenate((_KINKS, 1 + _KINKS, *back)))
    return _KINKS


def _operand(op: str, log: Array) -> Array:
    return log if op == "exp2" else _antilog(log)


def _critical(op: str, x: Array, value: Array) -> Array:
    """Where the error is level inside pieces with ends x, on which the result is linear and has these values."""
    # Kinks as close as numbers can be have no piece between them: nothing that comes of it lies inside.
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        slope = np.diff(value) / np.diff(x)
        start = value[:-1] - slope * x[:-1]
        if op == "log2":
            level = 1 / (slope * math.log(2))
        elif op == "exp2":
            level = 1 / math.log(2) - start / slope
        else:
            # Of (start + slope x) / x^q.
            level = _POWER[op] * start / (slope * (1 - _POWER[op]))
    return level[(x[:-1] < level) & (level < x[1:])]


def _candidates(op: str, c: Correction) -> tuple[Array, ...]:
    """Operands among which are those of the lowest and the highest error, or of their limits."""
    if op == "mul":
        if c.refined:
            # At most 2^-(i+j) / 4 is missing of x y, at the middle of an octave of each: the most, 1/64 of 121/64, at
            # x = y = 3/8 (octaves of 1/2 leave less room below x + y = 1).
            return np.array([1.0, 1.375]), np.array([1.0, 1.375])
        # (1 + x) (1 + y) along x + y = s is largest at x = y and smallest at an end, where it is 1 + s or 2 s. Between
        # kinks P(s + d) is monotone over these, and over (1 + s/2)^2 level at most where it is highest.
        s = np.union1d(_whole(1.0, c.bias, 0.0, 2.0), 1.0)
        low, high = np.maximum(s - 1, 0), np.minimum(s, 1)
        return 1 + np.concatenate((low, s / 2)), 1 + np.concatenate((high, s / 2))
    if op == "div":
        if c.refined:
            # Between kinks the error is a Moebius function of x, so both extremes are on kinks; the highest and the
            # lowest of those are on x = 0, at two kinks of the reciprocal.
            return np.array([1.0, 1.0, 1.0]), np.array([1.0, 1.5, 5 / 3])
        # (1 + y) / (1 + x) along x - y = s is extreme at its ends, and those with x = 0 or y = 0 are enough: 2 is as
        # good an operand as 1. Between kinks P(s + d) / (1 + s) is monotone; P(s + d) (1 - s) is level at (n - d) / 2.
        s = np.union1d(_whole(1.0, c.bias, -1.0, 1.0), np.append(_whole(2.0, c.bias, -1.0, 1.0), 0.0))
        return 1 + np.maximum(s, 0), 1 + np.maximum(-s, 0)
    x = _operand(op, _kinks(op, c))
    error = _error(op, c, x, x)
    exact = {"log2": np.log2, "exp2": np.exp2}.get(op, lambda x: x ** _POWER[op])(x)
    value = error + exact if op == "log2" else (1 + error) * exact
    return (np.union1d(x, _critical(op, x, value)),)


# Means, by Gauss-Legendre quadrature between kinks.


def _gauss(edges: Array, count: int = 16) -> tuple[Array, Array]:
    """Nodes and weights for the panels between edges along the last axis; one new axis for each panel's nodes."""
    node, weight = np.polynomial.legendre.leggauss(count)
    width = np.diff(edges)[..., None]
    return edges[..., :-1, None] + width * (node + 1) / 2, width * weight / 2


def _triangle(drift: float) -> tuple[Array, Array, Array]:
    """Nodes v, g and weights for the triangle v + g < 1, between kinks of Mitchell's product of v, g and 2**(drift v).

    In the octaves 2^-j of v and 2^-i of g, the product has a kink where m v - 1 + 2^i g - 1, m = 2^j + drift, is an
    integer.
    """
    v_edges: list[Array] = [_OCTAVES, 1 - _OCTAVES, np.ones(1)]
    for octave in _OCTAVES:
        m = 1 / octave + drift
        k = np.arange(4.0)
        # Kinks of g that pass the side g = 1 - v.
        crossing = (1 - _OCTAVES * (k[:, None] + 1)) / (1 - _OCTAVES * m)
        inside = np.append(k / m, crossing)
        v_edges.append(inside[(octave < inside) & (inside < 2 * octave)])
    v, v_weight = (a.ravel() for a in _gauss(np.unique(np.concatenate(v_edges)), 8))
    log = (1 / np.exp2(np.floor(np.log2(v))) + drift) * v - 1
    kink = _OCTAVES * (2 - (log - np.floor(log)))[:, None]
    octaves = np.broadcast_to(np.append(_OCTAVES, 1.0), (len(v), DEPTH + 1))
    edges = np.sort(np.minimum(np.concatenate((kink, octaves), axis=1), 1 - v[:, None]), axis=1)
    g, g_weight = _gauss(edges, 8)
    full = np.broadcast_to(v[:, None, None], g.shape)
    return full, g, v_weight[:, None, None] * g_weight


def _area(op: str, c: Correction) -> tuple[tuple[Array, Array, Array], ...]:
    """Nodes x, y and weights over the unit square of fractional mantissas of mul or div."""
    if c.refined and op == "mul":
        v, g, weight = _triangle(0.0)
        return (v, g, weight), (1 - v, 1 - g, weight)
    if c.refined:
        v, g, weight = _triangle(-1.0)
        w, h, mirrored = _triangle(1.0)
        return (v + g, v, weight), (1 - w - h, 1 - w, mirrored)
    # Along x + y = s or x - y = s the result is one number.
    start = 0.0 if op == "mul" else -1.0
    s, s_weight = (a.ravel() for a in _gauss(np.union1d(_whole(1.0, c.bias, start, start + 2), start + 1)))
    low, high = (s - 1, s) if op == "mul" else (s, 1 + s)
    x, x_weight = (a[:, 0] for a in _gauss(np.stack((np.maximum(low, 0), np.minimum(high, 1)), axis=1)))
    y = s[:, None] - x if op == "mul" else x - s[:, None]
    return ((x, y, s_weight[:, None] * x_weight),)


def _graded(edges: Array) -> Array:
    """`edges` and more, closer by halves to each: a large power of the error is concentrated at one of them."""
    step = np.multiply.outer(0.5 ** np.arange(1, 2 * DEPTH), np.diff(edges))
    return np.unique(np.concatenate((edges, (edges[:-1] + step).ravel(), (edges[1:] - step).ravel())))


def _moments(op: str, c: Correction) -> tuple[float, float]:
    """Mean and root of the mean square of the error."""
    if op in ("mul", "div"):
        parts = [(_error(op, c, 1 + x, 1 + y), weight) for x, y, weight in _area(op, c)]
    else:
        edges = _kinks(op, c)
        log, weight = _gauss(edges)
        x = _operand(op, log)
        parts = [(_error(op, c, x, x), weight / edges[-1])]
    mean = sum(float(np.sum(error * weight)) for error, weight in parts)
    square = sum(float(np.sum(error * error * weight)) for error, weight in parts)
    return mean, math.sqrt(square)


def _pow_error(c: Correction, exponent: float | None) -> MitchellError:
    """The error is 2**(p times the error of log2) times (1 + the error of exp2), less 1."""
    if exponent is None:
        return MitchellError(-1.0, math.inf, math.nan, math.nan, ())
    if exponent == 0:
        return MitchellError(0.0, 0.0, 0.0, 0.0, ())
    log, exp = Correction(c.refined, c.log_bias, 0.0), Correction(c.refined, c.bias, 0.0)
    log_ends, exp_range = _extremes("log2", log)[:2], _extremes("exp2", exp)[:2]
    shift = sorted(exponent * end for end in log_ends)
    (x,) = _candidates("log2", log)
    fraction, weight = _gauss(_graded(_log(x)))
    error = _error("log2", log, 1 + fraction, fraction)
    low, high = (float(np.exp2(s) * (1 + e) - 1) for s, e in zip(shift, exp_range, strict=True))
    # In units of the largest power, which may overflow.
    top = shift[1]
    power = np.exp2(exponent * error - top)
    first, second = float(np.sum(power * weight)), float(np.sum(power * power * weight))
    unit, inverse = float(np.exp2(top)), float(np.exp2(-top))
    exp_mean, exp_rms = _moments("exp2", exp)
    mean = unit * first * (1 + exp_mean) - 1
    exp_second = 1 + 2 * exp_mean + exp_rms**2
    rms = unit * math.sqrt(max(second * exp_second - 2 * inverse * first * (1 + exp_mean) + inverse**2, 0.0))
    return MitchellError(low, high, mean, rms, ())


def _extremes(op: str, c: Correction) -> tuple[float, float, tuple[float, ...]]:
    operands = _candidates(op, c)
    error = _error(op, c, operands[0], operands[-1])
    size = np.abs(error)
    largest = np.flatnonzero(size >= size.max() * (1 - 1e-12))
    points = sorted(tuple(float(x[i]) for x in operands) for i in largest)
    # Adding 0 makes a positive zero of a negative one.
    return float(error.min()) + 0.0, float(error.max()) + 0.0, points[0]


@lru_cache(maxsize=512)
def _cached_error(op: str, c: Correction, exponent: float | None) -> MitchellError:
    # Errors beyond the floats are inf, and kinks as close as subnormals, or closer, are no matter.
    with np.errstate(all="ignore"):
        if op == "pow":
            return _pow_error(c, exponent)
        low, high, attained_at = _extremes(op, c)
        return MitchellError(low, high, *_moments(op, c), attained_at)


def mitchell_error(op: str, correction: str | float | None = None, *, exponent: float | None = None) -> MitchellError:
    """Return the range, mean and root mean square of the error of a Mitchell operation.

    The error is relative, approx / exact - 1; for log2 it is absolute, approx - exact. It is that of the operation over
    the reals, for results within the range of the format. What a format adds:

    * mul, square, div, reciprocal: nothing but the rounding of the bias to a multiple of 2**-m, m the mantissa bits.
    * sqrt, rsqrt: the logarithm is halved towards minus infinity, which lowers the result by up to half a unit in the
      last place.
    * log2: the result is rounded, once.
    * exp2, pow: the logarithm of the result is rounded to a multiple of 2**-m, once; for pow in double precision the
      two products of the exponent with the logarithm's parts are rounded before.
    * with "refined": the roundings of the second pass, in the last place or below, and one of the result.

    Parameters
    ----------
    op : {"mul", "square", "div", "reciprocal", "sqrt", "rsqrt", "log2", "exp2", "pow"}
        The operation.
    correction : {"minimax", "unbiased", "lmul", "refined"}, float or None
        "minimax" makes the largest error smallest, "unbiased" makes the mean 0, "lmul" reads every logarithm 1/16 too
        high, each by adding a constant to the result's bits; "refined" adds the dropped term by a second Mitchell
        operation; a float from -0.5 to 0.5 is such a constant, in units of 2**m.
    exponent : float, optional
        For pow only: the exponent p. Without it, the result covers all exponents.

    Returns
    -------
    MitchellError
        ``low``, ``high``: infimum and supremum over all mantissas, exact to some 1e-15. ``mean``, ``rms``: over
        uniform, independent mantissas (for sqrt and rsqrt, also both parities of the exponent; for exp2, a uniform
        fraction of the argument), to some 1e-13. ``attained_at``: operands with the error of the largest magnitude, up
        to powers of two (for sqrt and rsqrt, of four; for exp2, integers).

        For pow with an exponent, the fraction of the base's logarithm and that of the result's are taken as
        independent and uniform: every error is inside the range, though for some exponents none comes near its ends.
        A supremum, mean or rms above the largest float is inf. Exponent 0 is exact. Without an exponent the range is
        from -1 to inf, mean and rms are nan, and ``attained_at`` is empty, as it is for pow always.

    Raises
    ------
    TypeError
        If `op` is not a string, or `correction` or `exponent` not of a type above; booleans are no numbers.
    ValueError
        If `op` or `correction` is unknown, a number is not finite or out of range, or `exponent` comes with another
        operation than pow.

    Examples
    --------
    >>> error = mitchell_error("mul")
    >>> print(f"{error.low:.6f} {error.high:.6f} {error.mean:.6f} {error.attained_at}")
    -0.111111 0.000000 -0.038488 (1.5, 1.5)
    >>> error = mitchell_error("mul", "minimax")
    >>> print(f"{error.low:.6f} {error.high:.6f}")
    -0.068858 0.068858
    """
    c = resolve(op, correction)
    if exponent is None:
        return _cached_error(op, c, None)
    if op != "pow":
        raise ValueError(f"exponent={exponent!r}: allowed with op='pow' only, not with {op!r}")
    power = real(exponent, "exponent", "a real number is needed")
    if not math.isfinite(power):
        raise ValueError(f"exponent={exponent!r}: a finite number is needed")
    return _cached_error(op, c, power)


def _caption(op: str, correction: str | float | None, error: MitchellError) -> str:
    if correction is None or isinstance(correction, str):
        name = correction or "no correction"
    else:
        name = f"bias {float(correction):g}"
    scale, form, unit = (1.0, "+.4f", "") if op == "log2" else (100.0, "+.3f", " %")
    low, high = (f"{scale * end:{form}}{unit}" if end else "0" for end in error[:2])
    return f"mitchell_{op}, {name}: {low} to {high}"


def _draw_area(ax: Axes, op: str, c: Correction, error: MitchellError) -> None:
    from matplotlib.ticker import MaxNLocator

    side = np.linspace(0, 1, 257)
    x, y = np.meshgrid(side, side)
    levels = MaxNLocator(24, steps=[1, 2, 5, 10]).tick_values(100 * error.low, 100 * error.high)
    # A rounding beyond the outer levels would stay white.
    percent = np.clip(100 * _error(op, c, 1 + x, 1 + y), levels[0], levels[-1])
    bound = float(np.abs(levels).max())
    # White is no error, in every map.
    filled = ax.contourf(x, y, percent, levels=levels, cmap="RdBu_r", vmin=-bound, vmax=bound)
    ax.contour(x, y, percent, levels=levels[1:-1:2], colors="0.25", linewidths=0.4, linestyles="solid")
    ax.figure.colorbar(filled, ax=ax, ticks=MaxNLocator(8)).set_label("relative error (%)")
    at = [operand - 1 for operand in error.attained_at]
    ax.plot(at[:1], at[1:], "o", color="black", markerfacecolor="white", markersize=7, clip_on=False, zorder=5)
    ax.set(xlabel="mantissa fraction x of the first operand", ylabel="mantissa fraction y of the second operand")
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")


def _draw_line(ax: Axes, op: str, c: Correction, error: MitchellError) -> None:
    (exact,) = _candidates(op, c)
    end = exact.max()
    x = np.union1d(exact, np.linspace(exact.min(), end, 1025))
    scale = 1.0 if op == "log2" else 100.0
    value = scale * _error(op, c, x, x)
    ax.axhline(0, color="0.6", linewidth=0.8)
    ax.fill_between(x, value, color="C0", alpha=0.15, linewidth=0)
    ax.plot(x, value, color="C0", linewidth=1.5)
    at = np.array(error.attained_at)
    marked = scale * _error(op, c, at, at)
    ax.plot(at, marked, "o", color="C0", markerfacecolor="white", clip_on=False, zorder=5)
    operand = "argument f" if op == "exp2" else "operand, up to powers of " + ("four" if end == 4 else "two")
    ax.set(xlabel=operand, ylabel="absolute error" if op == "log2" else "relative error (%)", xlim=(exact.min(), end))
    ax.spines[["top", "right"]].set_visible(False)


def plot_error(op: str, correction: str | float | None = None, ax: Axes | None = None) -> Axes:
    """Draw the error of a Mitchell operation over the mantissas, with its largest value marked.

    mul and div become a map in percent over the fractions of both mantissas, with lines of equal error; the others a
    curve over the operand: one octave of it, two for sqrt and rsqrt, one unit for exp2.

    Parameters
    ----------
    op : {"mul", "square", "div", "reciprocal", "sqrt", "rsqrt", "log2", "exp2"}
        The operation. pow is not drawn: its error depends on the exponent.
    correction : {"minimax", "unbiased", "lmul", "refined"}, float or None
        As `mitchell_error` takes it.
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
        If `op` or `correction` has a wrong type.
    ValueError
        If `op` or `correction` is out of range, or `op` is pow.

    Examples
    --------
    >>> ax = plot_error("mul", "minimax")  # doctest: +SKIP
    >>> ax.figure.savefig("mul.png")  # doctest: +SKIP
    """
    c = resolve(op, correction)
    if op == "pow":
        raise ValueError(f"op={op!r}: allowed are {', '.join(OPS[:-1])}; the error of pow depends on the exponent")
    if ax is None:
        try:
            from matplotlib import pyplot
        except ImportError as missing:
            raise ImportError("plot_error needs matplotlib: pip install 'fastk-kernels[bench]'") from missing
        ax = pyplot.subplots(layout="constrained")[1]
    error = mitchell_error(op, correction)
    (_draw_area if op in ("mul", "div") else _draw_line)(ax, op, c, error)
    ax.set_title(_caption(op, correction, error))
    return ax
