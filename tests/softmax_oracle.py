"""What the Taylor softmax family is, twice: one row at a time in 50 digits, and in bulk in NumPy's extended precision.

The first is the definition read aloud, with derivatives by differences; f_n is Horner's rule, exact on fractions. In
bulk f_n is the product of its quadratic factors, so that nothing cancels, and gradients are closed forms. The two have
to agree with each other (and with SciPy) in test_softmax.py. Rows lie along the last axis.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import mpmath
import numpy as np
from scipy import special

ORDERS = (2, 4, 6, 8, 10, 12)
LD = np.longdouble
mp = mpmath.mp.clone()
mp.dps = 50

DIGITS = {"float16": (11, -13), "bfloat16": (8, -125), "float32": (24, -125), "float64": (53, -1021)}
"""Of each format: bits of the significand, and the exponent of the least normal number as frexp gives it."""


# ---- one element, one row: any precision


def taylor(x: Any, order: int) -> Any:
    """f_order by Horner's rule in the arithmetic of x: exact for Fraction, 50 digits for mpf, any arrays."""
    total: Any = 1
    for k in range(order, 0, -1):
        total = 1 + x * total / k
    return total


def taylor_by_gamma(x: Any, order: int) -> Any:
    """f_order(x) = exp(x) Q(order + 1, x) for x >= 0, in doubles."""
    return np.exp(x) * special.gammaincc(order + 1, x)


@functools.cache
def roots(order: int) -> tuple[Any, ...]:
    """All roots of f_order: the derivative is f_(order - 1), so that Newton's method is one line."""
    found = [mp.mpmathify(complex(z)) for z in np.roots([1 / math.factorial(k) for k in range(order, -1, -1)])]
    for _ in range(7):
        found = [z - taylor(z, order) / taylor(z, order - 1) for z in found]
    return tuple(found)


@functools.cache
def minimum(order: int) -> tuple[Any, Any]:
    """Place and value of the one minimum of f_order: its derivative f_(order - 1) has one real root."""
    x = mp.findroot(lambda t: taylor(t, order - 1), -0.3 * order - 0.4)
    return x, taylor(x, order)


def row_softmax(t: Sequence[Any], order: int) -> list[Any]:
    f = [taylor(mp.mpf(v), order) for v in t]
    total = mp.fsum(f)
    return [v / total for v in f]


def row_log_softmax(t: Sequence[Any], order: int) -> list[Any]:
    """50 digits are enough to be plain: at |t| <= 50 no p is nearer to 1 than 1e-14."""
    return [mp.log(p) for p in row_softmax(t, order)]


def row_cross_entropy(logits: Sequence[Any], label: int, order: int, margin: float = 0.0, scale: float = 1.0) -> Any:
    z = [mp.mpf(scale) * (mp.mpf(v) - (mp.mpf(margin) if j == label else 0)) for j, v in enumerate(logits)]
    return -row_log_softmax(z, order)[label]


def differences(function: Callable[[list[Any]], Any], at: Sequence[Any]) -> list[Any]:
    """The gradient, by central differences: 28 digits or so."""
    step, x, slopes = mp.mpf(10) ** -15, [mp.mpf(v) for v in at], []
    for j, middle in enumerate(x):
        ends = []
        for x[j] in (middle + step, middle - step):
            ends.append(function(x))
        x[j] = middle
        slopes.append((ends[0] - ends[1]) / (2 * step))
    return slopes


def gelu(x: float, approximate: str) -> Any:
    v = mp.mpf(x)
    if approximate == "none":
        return v * mp.erfc(-v / mp.sqrt(2)) / 2
    if approximate == "tanh":
        return v * (1 + mp.tanh(mp.sqrt(2 / mp.pi) * (v + mp.mpf("0.044715") * v**3))) / 2
    return v / (1 + mp.exp(-mp.mpf("1.702") * v))


def extended(values: Any) -> np.ndarray:
    """Numbers of mpmath as an array."""
    return np.array([LD(mp.nstr(v, 25)) for v in values], LD)


# ---- formats


def ulp(value: Any, name: str) -> np.ndarray:
    """Distance between the numbers of a format around a value."""
    digits, least = DIGITS[name]
    return np.ldexp(LD(1), np.maximum(np.frexp(np.asarray(value))[1], least) - digits)


def rounded(value: Any, dtype: np.dtype) -> np.ndarray:
    """To a format, to nearest even, in one step (a cast to bfloat16 may take two); values must be in its range."""
    unit = ulp(value, dtype.name)
    return (np.rint(value / unit) * unit).astype(dtype)


# ---- in bulk


@functools.cache
def factors(order: int) -> tuple[LD | None, list[tuple[LD, LD]]]:
    """Of order! f_order: the real root of an odd order, and a, b^2 of the factors (x - a)^2 + b^2."""
    real = [extended([mp.re(z)])[0] for z in roots(order) if abs(mp.im(z)) < 1e-30]
    pairs = [(extended([mp.re(z)])[0], extended([mp.im(z) ** 2])[0]) for z in roots(order) if mp.im(z) > 1e-30]
    return (real[0] if real else None), pairs


def bulk_taylor(x: Any, order: int) -> np.ndarray:
    """f_order in extended precision: a product of terms that are positive (but for the real root of an odd order)."""
    x = np.asarray(x).astype(LD)
    root, pairs = factors(order)
    total = np.ones_like(x) if root is None else x - root
    for k, (a, b2) in enumerate(pairs):
        # Parts of the factorial on the way keep the product in range.
        total = total * ((x - a) ** 2 + b2) / ((2 * k + 1) * (2 * k + 2))
    return total / (order if root is not None else 1)


class Weights(NamedTuple):
    """Of each entry: what f is evaluated at, f (0 where masked), p, and which entries count, are clamped, have no p."""

    t: np.ndarray
    f: np.ndarray
    p: np.ndarray
    mask: np.ndarray
    clamped: np.ndarray
    bad: np.ndarray


def weights(
    x: np.ndarray, order: int, where: Any = None, temperature: float = 1.0, monotone: bool = False, compute: Any = None
) -> Weights:
    """With x times the reciprocal of the temperature rounded to the dtype `compute`, as documented, and then exact."""
    dtype = np.dtype(compute or ("float64" if x.dtype == np.float64 else "float32"))
    mask = np.broadcast_to(True if where is None else where, x.shape)
    least = dtype.type(float(minimum(order)[0]))
    with np.errstate(all="ignore"):
        t = (x.astype(dtype) * dtype.type(1 / float(temperature))).astype(LD)
        clamped = mask & monotone & (t < least)
        t = np.where(clamped, LD(least), np.where(mask, t, 0))
        bad = mask & ~np.isfinite(t).all(-1, keepdims=True)
        f = np.where(mask & ~bad, bulk_taylor(np.where(bad, 0, t), order), LD(0))
        total = f.sum(-1, keepdims=True)
        p = np.where(bad, LD(np.nan), f / np.where(total == 0, LD(1), total))
    return Weights(t, f, p, mask, clamped, bad)


def log_of(w: Weights) -> np.ndarray:
    """log p, with the sum of the others at the largest entry, where log(f / total) would cancel."""
    if not w.f.size:
        return w.f
    with np.errstate(all="ignore"):
        top = np.arange(w.f.shape[-1]) == w.f.argmax(-1)[..., None]
        largest = w.f.max(-1, keepdims=True)
        rest = np.where(top, 0, w.f).sum(-1, keepdims=True) / largest
        result = np.where(top, LD(0), np.log(w.f / largest)) - np.log1p(rest)
    return np.where(w.mask, np.where(w.bad, LD(np.nan), result), LD(-np.inf))


def slope(t: np.ndarray, order: int) -> tuple[np.ndarray, np.ndarray]:
    """r = f_(n-1) / f_n, and a size that errors are measured by: r goes through 0 at the minimum, and as n / t to 0."""
    r = bulk_taylor(t, order - 1) / bulk_taylor(t, order)
    return r, np.abs(r) + np.minimum(LD(1), order / np.maximum(np.abs(t), LD(1)))


Gradient = tuple[np.ndarray, np.ndarray]
"""Values, and what their errors are measured by: the sum of the magnitudes of all that is added."""


def softmax_vjp(g: np.ndarray, x: np.ndarray, order: int, temperature: float = 1.0, **options: Any) -> Gradient:
    """r p (g - sum of g p) / temperature, 0 where masked or clamped."""
    w = weights(x, order, temperature=temperature, **options)
    r, size = slope(np.where(w.bad, 0, w.t), order)
    g = np.where(w.mask, g.astype(LD), 0)
    with np.errstate(invalid="ignore"):
        value = r * w.p * (g - (g * w.p).sum(-1, keepdims=True)) / temperature
        size = size * w.p * (np.abs(g) + (np.abs(g) * w.p).sum(-1, keepdims=True)) / temperature
    return np.where(w.mask & ~(w.clamped & ~w.bad), value, 0), size


def log_softmax_vjp(g: np.ndarray, x: np.ndarray, order: int, temperature: float = 1.0, **options: Any) -> Gradient:
    """r (g - p sum of g) / temperature, 0 where masked or clamped."""
    w = weights(x, order, temperature=temperature, **options)
    r, size = slope(np.where(w.bad, 0, w.t), order)
    g = np.where(w.mask, g.astype(LD), 0)
    with np.errstate(invalid="ignore"):
        value = r * (g - w.p * g.sum(-1, keepdims=True)) / temperature
        size = size * (np.abs(g) + w.p * np.abs(g).sum(-1, keepdims=True)) / temperature
    return np.where(w.mask & ~(w.clamped & ~w.bad), value, 0), size


class CrossEntropy(NamedTuple):
    """Losses, gradients of the logits (for g = 1), and what the errors of these are measured by."""

    loss: np.ndarray
    gradient: np.ndarray
    size: np.ndarray


def cross_entropy(
    logits: np.ndarray, labels: np.ndarray, order: int, margin: float = 0.0, scale: float = 1.0
) -> CrossEntropy:
    """log(1 + others / f(z_label)), where nothing cancels however small the loss; so too for the gradient."""
    at_label = np.arange(logits.shape[-1]) == np.asarray(labels)[..., None]
    z = LD(scale) * (logits.astype(LD) - np.where(at_label, LD(margin), LD(0)))
    f = bulk_taylor(z, order)
    others = np.where(at_label, 0, f).sum(-1, keepdims=True)
    loss = np.log1p(others / np.where(at_label, f, 0).sum(-1, keepdims=True))
    r, size = slope(z, order)
    share = np.where(at_label, others, f) / f.sum(-1, keepdims=True)
    return CrossEntropy(loss[..., 0], scale * r * share * np.where(at_label, -1, 1), scale * size * share)


def fast_softmax(x: np.ndarray, order: int, where: Any = None) -> np.ndarray:
    """The documented approximation: f_n((x - m) / 32)^32, 0 left of the minimum; (x - m) / 32 as x's dtype has it."""
    mask = np.broadcast_to(True if where is None else where, x.shape)
    with np.errstate(all="ignore"):
        m = np.where(mask, x, x.dtype.type(-np.inf)).max(-1, keepdims=True, initial=-np.inf)
        t = ((x - m) / x.dtype.type(32)).astype(LD)
        bad = mask & ~(np.isfinite(m) & ~np.isnan(np.where(mask, x, 0)).any(-1, keepdims=True))
        e = np.where(mask & (t >= extended([minimum(order)[0]])[0]), bulk_taylor(t, order) ** 32, LD(0))
        total = e.sum(-1, keepdims=True)
        return np.where(bad, LD(np.nan), e / np.where(total > 0, total, 1))


def total_variation(p: Any, q: Any) -> np.ndarray:
    return np.abs(np.asarray(p).astype(LD) - np.asarray(q).astype(LD)).sum(-1) / 2


def worst_row(order: int, n: int) -> tuple[float, float]:
    """Of rows with one entry at the maximum and all others so far below: where fast_softmax is farthest from softmax.

    f_n(t)^32 is above exp(32 t), the more so the lower t, so that what is below gains; and it gains most in all if
    it is level. Distance below the maximum, and the total variation.
    """
    below = np.linspace(0.05, 31, 4000, dtype=LD)
    mass = (n - 1) * np.exp(-below)
    grown = (n - 1) * bulk_taylor(-below / 32, order) ** 32
    variation = np.abs(grown / (1 + grown) - mass / (1 + mass))
    at = int(variation.argmax())
    return float(below[at]), float(variation[at])
