"""The errors of the Mitchell operations, against their definitions over the reals, evaluated densely and integrated."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import integrate

from fastk import _mitchell_error as under_test
from fastk._mitchell_error import BIAS, OPS, Correction, mitchell_error, plot_error, relative_error, resolve

ONE_OPERAND = ("square", "reciprocal", "sqrt", "rsqrt", "log2", "exp2")
TWO_OPERANDS = ("mul", "div")
DRAWN = (*TWO_OPERANDS, *ONE_OPERAND)
BIASES = (0.5, 0.3, 0.0625, 1e-3, -1e-3, -0.0625, -0.3, -0.5)
CORRECTIONS = (None, "minimax", "unbiased", "lmul", "refined", *BIASES)
LN2 = math.log(2)

# The oracle: the definitions, on fractions x and y of the mantissas; sqrt and rsqrt take the logarithm's 0 <= u < 2.


def antilog(t: Any) -> Any:
    """P(t) = 2^floor(t) (1 + frac(t))."""
    return 2.0 ** np.floor(t) * (1 + t - np.floor(t))


def product(*factors: Any, by: Any = 1.0) -> Any:
    """Mitchell's product, divided by one number, as powers of two and fractions of each."""

    def reading(number: Any) -> Any:
        whole = np.floor(np.log2(number))
        return whole + (number / 2.0**whole - 1)

    with np.errstate(divide="ignore", invalid="ignore"):
        value = antilog(sum(map(reading, factors)) - reading(by))
    return np.where(np.minimum.reduce(np.broadcast_arrays(*factors)) > 0, value, 0.0)


def refined_fraction(x: Any, sign: int) -> Any:
    return x + sign * 0.375 * product(x, 1 - x)


def refined_antilog(t: Any) -> Any:
    return 2.0 ** np.floor(t) * (1 + refined_fraction(t - np.floor(t), -1))


def refined_quotient(x: Any, y: Any) -> Any:
    above = 1 + (x - y) - product(y, x - y, by=1 + y)
    below = (2 - (y - x) - product(1 - y, y - x, by=1 + y)) / 2
    return np.where(x >= y, above, below)


def refined_product(x: Any, y: Any) -> Any:
    return np.where(x + y < 1, 1 + x + y + product(x, y), 2 * (x + y) + product(1 - x, 1 - y))


def refined_reading(u: Any) -> Any:
    return np.floor(u) + refined_fraction(u - np.floor(u), 1)


EXACT: dict[str, Callable[..., Any]] = {
    "mul": lambda x, y: (1 + x) * (1 + y),
    "div": lambda x, y: (1 + x) / (1 + y),
    "square": lambda x: (1 + x) ** 2,
    "reciprocal": lambda x: 1 / (1 + x),
    "sqrt": lambda u: np.sqrt(antilog(u)),
    "rsqrt": lambda u: 1 / np.sqrt(antilog(u)),
    "log2": lambda x: np.log2(1 + x),
    "exp2": lambda f: 2.0**f,
}
PLAIN: dict[str, Callable[..., Any]] = {
    "mul": lambda d, x, y: antilog(x + y + d),
    "div": lambda d, x, y: antilog(x - y + d),
    "square": lambda d, x: antilog(2 * x + d),
    "reciprocal": lambda d, x: antilog(d - x),
    "sqrt": lambda d, u: antilog(u / 2 + d),
    "rsqrt": lambda d, u: antilog(d - u / 2),
    "log2": lambda d, x: x + d,
    "exp2": lambda d, f: antilog(f + d),
}
REFINED: dict[str, Callable[..., Any]] = {
    "mul": refined_product,
    "div": refined_quotient,
    "square": lambda x: refined_product(x, x),
    "reciprocal": lambda x: refined_quotient(0 * x, x),
    "sqrt": lambda u: refined_antilog(refined_reading(u) / 2),
    "rsqrt": lambda u: refined_antilog(-refined_reading(u) / 2),
    "log2": lambda x: refined_fraction(x, 1),
    "exp2": refined_antilog,
}


def bias_of(op: str, correction: Any) -> float:
    return BIAS[op][correction] if isinstance(correction, str) else correction or 0.0


def oracle(op: str, correction: Any, *fractions: Any) -> Any:
    """The error at fractions of mantissas."""
    refined = correction == "refined"
    approx = REFINED[op](*fractions) if refined else PLAIN[op](bias_of(op, correction), *fractions)
    exact = EXACT[op](*fractions)
    return approx - exact if op == "log2" else approx / exact - 1


def fractions_of(op: str, operands: tuple[float, ...]) -> tuple[float, ...]:
    if op == "exp2":
        return operands
    return tuple(math.floor(math.log2(a)) + a / 2.0 ** math.floor(math.log2(a)) - 1 for a in operands)


def span(op: str) -> int:
    return 2 if op in ("sqrt", "rsqrt") else 1


def midpoints(n: int) -> np.ndarray:
    return (np.arange(n) + 0.5) / n


def grid(op: str, n: int) -> tuple[np.ndarray, ...]:
    """n + 1 points with both ends, for two operands in each direction."""
    if op in TWO_OPERANDS:
        side = np.arange(n + 1) / n
        return side[:, None], side[None, :]
    return (np.arange(span(op) * n + 1) / n,)


def extreme(op: str, correction: Any, sign: int) -> float:
    """The highest (sign 1) or lowest (-1) error, by grids that shrink around the best point of the one before."""
    operands = 2 if op in TWO_OPERANDS else 1
    n = 512 if operands == 2 else 2**14
    low, high = np.zeros(operands), np.full(operands, float(span(op)))
    best = -math.inf
    for _ in range(12):
        axes = [np.linspace(a, b, n + 1) for a, b in zip(low, high, strict=True)]
        points = np.meshgrid(*axes, indexing="ij")
        error = sign * oracle(op, correction, *points)
        top = int(error.argmax())
        best = max(best, float(error.flat[top]))
        centre, step = np.array([p.flat[top] for p in points]), (high - low) / n
        low, high = np.maximum(centre - 4 * step, 0), np.minimum(centre + 4 * step, span(op))
        n = 32
    return sign * best


# Facts.

LOG_GAP = 1 - 1 / LN2 - math.log2(LN2)
FACTS: dict[tuple[str, Any], tuple[float, float, float | None, tuple[float, ...]]] = {
    ("mul", None): (-1 / 9, 0, -0.038488, (1.5, 1.5)),
    ("square", None): (-1 / 9, 0, 14 * LN2 - 2 * math.log(3) - 4 * math.log(4) - 2, (1.5,)),
    ("div", None): (0, 1 / 8, 0.041018, (1.0, 1.5)),
    ("reciprocal", None): (0, 1 / 8, 1 / 12, (1.5,)),
    ("sqrt", None): (0, 3 / math.sqrt(8) - 1, (4 / 3 + math.sqrt(0.5)) / 2 - 1, (2.0,)),
    ("rsqrt", None): (0, 4 * math.sqrt(6) / 9 - 1, (17 / 15 + 0.7 * math.sqrt(2)) / 2 - 1, (8 / 3,)),
    ("log2", None): (-LOG_GAP, 0, 1 / LN2 - 1.5, (1 / LN2,)),
    ("exp2", None): (0, 2 / (math.e * LN2) - 1, 1 / (2 * LN2**2) - 1, (1 / LN2 - 1,)),
    ("mul", "lmul"): (8 / (3 - 1 / 16) ** 2 - 1, 1 / 16, 0.004082, (1.46875, 1.46875)),
    ("mul", "unbiased"): (-0.076582, 0.056623, 0, (1.471688, 1.471688)),
    ("mul", "minimax"): (-0.0688575, 0.0688575, None, (1.0, 1.0)),
    ("mul", "refined"): (-1 / 121, 0, -0.001447, (1.375, 1.375)),
    ("square", "refined"): (-1 / 121, 0, None, (1.375,)),
    ("div", "refined"): (-1 / 64, 1 / 144, None, (1.0, 1.5)),
    ("reciprocal", "refined"): (-1 / 64, 1 / 144, None, (1.5,)),
    ("log2", "unbiased"): (1.5 - 1 / LN2 - LOG_GAP, 1.5 - 1 / LN2, 0, (1.0,)),
}


@pytest.mark.parametrize(("op", "correction"), FACTS)
def test_known_errors(op: str, correction: Any) -> None:
    error = mitchell_error(op, correction)
    low, high, mean, attained_at = FACTS[op, correction]
    rounded = 1e-6 if correction in ("minimax", "unbiased") else 1e-14
    assert error.low == pytest.approx(low, abs=rounded)
    assert error.high == pytest.approx(high, abs=rounded)
    assert mean is None or error.mean == pytest.approx(mean, abs=5e-7)
    assert error.attained_at == pytest.approx(attained_at, abs=1e-6)


def test_known_rms() -> None:
    assert mitchell_error("mul", "unbiased").rms == pytest.approx(0.03055, abs=5e-6)


@pytest.mark.parametrize(("op", "bias"), [("mul", 0.0688575), ("log2", LOG_GAP / 2), ("reciprocal", 24**0.5 - 5)])
def test_known_minimax(op: str, bias: float) -> None:
    assert BIAS[op]["minimax"] == pytest.approx(bias, abs=5e-8)


def test_no_correction_is_never_on_the_other_side() -> None:
    for op in DRAWN:
        error = mitchell_error(op)
        assert (error.high if op in ("mul", "square", "log2") else error.low) == 0.0
        assert "-0.0" not in map(str, error)


# Ranges.


@pytest.mark.parametrize("correction", CORRECTIONS)
@pytest.mark.parametrize("op", DRAWN)
def test_range_bounds_the_error_and_is_attained(op: str, correction: Any) -> None:
    error = mitchell_error(op, correction)
    points = grid(op, 720 if op in TWO_OPERANDS else 2**15 * 3)
    values = oracle(op, correction, *points)
    assert error.low - 1e-14 <= values.min()
    assert values.max() <= error.high + 1e-14
    for end, sign in ((error.low, -1), (error.high, 1)):
        assert extreme(op, correction, sign) == pytest.approx(end, abs=1e-9)


@pytest.mark.parametrize("correction", CORRECTIONS)
@pytest.mark.parametrize("op", DRAWN)
def test_attained_at_is_where_the_largest_error_is(op: str, correction: Any) -> None:
    error = mitchell_error(op, correction)
    largest = max(error[:2], key=abs)
    at = float(oracle(op, correction, *fractions_of(op, error.attained_at)))
    assert abs(at) == pytest.approx(abs(largest), rel=1e-12)
    assert at == pytest.approx(error.low, abs=1e-14) or at == pytest.approx(error.high, abs=1e-14)
    assert all(type(operand) is float for operand in error.attained_at)


@given(st.sampled_from(DRAWN), st.floats(-0.5, 0.5))
@example("mul", -0.0)
@example("div", 5e-324)
@example("reciprocal", 1e-41)
@example("square", -1e-16)
@example("rsqrt", -math.nextafter(0.5, 0))
def test_any_bias(op: str, bias: float) -> None:
    error = mitchell_error(op, bias)
    two = op in TWO_OPERANDS
    values = oracle(op, bias, *grid(op, 120 if two else 3000))
    near = 0.04 if two else 2e-3
    assert error.low - 1e-14 <= values.min() <= error.low + near
    assert error.high - near <= values.max() <= error.high + 1e-14
    middle = midpoints(120 if two else 3000)
    values = oracle(op, bias, *((middle[:, None], middle[None, :]) if two else (span(op) * middle,)))
    assert error.mean == pytest.approx(values.mean(), abs=1e-4 if two else 1e-6)
    assert error.rms == pytest.approx(math.sqrt(np.mean(values**2)), abs=1e-4 if two else 1e-6)
    assert error.low <= error.mean <= error.high
    assert abs(error.mean) <= error.rms * (1 + 1e-12)


@pytest.mark.parametrize("bias", [0.0, 0.01, 0.0625, 0.2, 0.5])
def test_closed_form_of_mul(bias: float) -> None:
    error = mitchell_error("mul", bias)
    assert error.low == pytest.approx(8 / (3 - bias) ** 2 - 1, abs=1e-15)
    assert error.high == pytest.approx(bias, abs=1e-15)


# Named biases.


@pytest.mark.parametrize("op", DRAWN)
def test_minimax_is_minimal(op: str) -> None:
    def largest(bias: float) -> float:
        return max(map(abs, mitchell_error(op, bias)[:2]))

    best = BIAS[op]["minimax"]
    error = mitchell_error(op, "minimax")
    assert error.high == pytest.approx(-error.low, abs=1e-15)
    for step in (1e-12, 1e-6, 0.01):
        assert largest(best - step) > largest(best) < largest(best + step)
    everywhere = [np.abs(oracle(op, bias, *grid(op, 200))).max() for bias in np.linspace(-0.5, 0.5, 41)]
    assert largest(best) < min(everywhere)


@pytest.mark.parametrize("op", DRAWN)
def test_unbiased_has_mean_zero(op: str) -> None:
    assert mitchell_error(op, "unbiased").mean == pytest.approx(0, abs=1e-14)
    points = midpoints(2**18) * span(op)
    if op in ONE_OPERAND:
        assert np.mean(oracle(op, "unbiased", points)) == pytest.approx(0, abs=1e-10)


def test_lmul_reads_every_logarithm_a_sixteenth_too_high() -> None:
    sixteenths = {"div": -1, "reciprocal": -1, "sqrt": -0.5, "rsqrt": -0.5, "exp2": -1}
    assert {op: 16 * BIAS[op]["lmul"] for op in DRAWN} == dict.fromkeys(("mul", "square", "log2"), 1) | sixteenths


def test_every_op_has_every_named_bias() -> None:
    assert set(BIAS) == set(OPS)
    assert all(set(named) == {"minimax", "unbiased", "lmul"} for named in BIAS.values())
    assert BIAS["pow"] == BIAS["exp2"]


# Means.


def mean_and_rms(values: np.ndarray) -> tuple[float, float]:
    return float(values.mean()), math.sqrt(np.mean(values**2))


@pytest.mark.parametrize("correction", CORRECTIONS)
@pytest.mark.parametrize("op", ONE_OPERAND)
def test_moments_of_one_operand(op: str, correction: Any) -> None:
    expected = mean_and_rms(oracle(op, correction, midpoints(3 * 2**17) * span(op)))
    assert mitchell_error(op, correction)[2:4] == pytest.approx(expected, abs=2e-11)


def product_weights(s: float) -> tuple[float, float]:
    """Integrals of 1 / ((1 + x) (1 + y)) and of its square along x + y = s."""
    low, high = max(s - 1, 0), min(s, 1)
    first = 2 * math.log((1 + high) / (1 + low)) / (2 + s)
    return first, 2 * (1 / (1 + low) - 1 / (1 + high) + first) / (2 + s) ** 2


def quotient_weights(s: float) -> tuple[float, float]:
    """Integrals of (1 + y) / (1 + x) and of its square along x - y = s."""
    low, high = 1 + max(s, 0), 1 + min(1 + s, 1)
    log = math.log(high / low)
    return high - low - s * log, high - low - 2 * s * log + s * s * (1 / low - 1 / high)


@pytest.mark.parametrize("correction", [c for c in CORRECTIONS if c != "refined"])
@pytest.mark.parametrize("op", TWO_OPERANDS)
def test_moments_of_two_operands(op: str, correction: Any) -> None:
    d = bias_of(op, correction)
    start, weights = (0, product_weights) if op == "mul" else (-1, quotient_weights)
    points = sorted({start + 1.0, *(n - d for n in range(-1, 3) if start < n - d < start + 2)})
    first, second = (
        integrate.quad(
            lambda s, k=k: antilog(s + d) ** (k + 1) * weights(s)[k],
            start,
            start + 2,
            points=points,
            epsabs=1e-14,
            epsrel=1e-13,
        )[0]
        for k in (0, 1)
    )
    error = mitchell_error(op, correction)
    assert error.mean == pytest.approx(first - 1, abs=1e-12)
    assert error.rms == pytest.approx(math.sqrt(second - 2 * first + 1), abs=1e-11)


def cell_moment(i: int, j: int, power: int) -> float:
    """Integral of a power of the error of the refined product over the octaves u = (1 + a) / 2^i, v = (1 + b) / 2^j.

    What is dropped of u v, below u + v = 1, is a b or (1 - a) (1 - b) over 2^(i + j); u and v are the fractions x and y
    or, above x + y = 1, 1 - x and 1 - y.
    """
    unit = 0.5 ** (i + j)
    ratio = 2.0 ** (1 - j)

    def side(b: float) -> float:
        return 1 - ratio * (1 + b) if i == 1 else 1.0

    def density(a: float, b: float, missing: float) -> float:
        u, v = (1 + a) * 0.5**i, (1 + b) * 0.5**j
        lost = -missing * unit
        return unit * ((lost / ((1 + u) * (1 + v))) ** power + (lost / ((2 - u) * (2 - v))) ** power)

    # Where a + b = 1 meets u + v = 1.
    split = ratio / (1 - ratio) if i == 1 else 0.0
    parts = [(0.0, split, lambda b: 0.0, side, lambda a, b: a * b)] if i == 1 else []
    if split < 1:
        parts.append((split, 1.0, lambda b: 0.0, lambda b: 1 - b, lambda a, b: a * b))
        parts.append((split, 1.0, lambda b: 1 - b, side, lambda a, b: (1 - a) * (1 - b)))
    return sum(
        integrate.dblquad(
            lambda a, b, lost=lost: density(a, b, lost(a, b)), low, high, start, end, epsabs=1e-13, epsrel=1e-9
        )[0]
        for low, high, start, end, lost in parts
    )


def test_moments_of_the_refined_product() -> None:
    cells = [(i, j) for j in range(2, 17) for i in range(1, j + 1) if i + j <= 18]
    mean, square = (sum((1 + (i != j)) * cell_moment(i, j, k) for i, j in cells) for k in (1, 2))
    error = mitchell_error("mul", "refined")
    assert error.mean == pytest.approx(mean, abs=1e-10)
    assert error.rms == pytest.approx(math.sqrt(square), abs=1e-10)


@pytest.mark.parametrize("op", TWO_OPERANDS)
def test_moments_of_refined_two_operands(op: str) -> None:
    side = midpoints(2048)
    values = np.concatenate([oracle(op, "refined", x[:, None], side) for x in np.split(side, 16)])
    assert mitchell_error(op, "refined")[2:4] == pytest.approx(mean_and_rms(values), abs=1e-7)


# pow.

EXPONENTS = (2, 3.0, 0.5, 17.25, 1e-3, -1, -0.37, -6)


def pow_parts(correction: Any, p: float, x: Any, f: Any) -> tuple[Any, Any]:
    """What the logarithm and the exponential multiply the result of pow by, at independent fractions."""
    if correction == "refined":
        return 2.0 ** (p * oracle("log2", "refined", x)), 1 + oracle("exp2", "refined", f)
    shift = BIAS["log2"][correction] if isinstance(correction, str) else 0.0
    return 2.0 ** (p * oracle("log2", shift, x)), 1 + oracle("exp2", bias_of("pow", correction), f)


@pytest.mark.parametrize("correction", CORRECTIONS)
@pytest.mark.parametrize("p", EXPONENTS)
def test_pow_with_an_exponent(correction: Any, p: float) -> None:
    error = mitchell_error("pow", correction, exponent=p)
    log, exp = pow_parts(correction, p, *[np.arange(2**15 * 3 + 1) / (2**15 * 3)] * 2)
    low, high = log.min() * exp.min() - 1, log.max() * exp.max() - 1
    assert error.low - 1e-14 <= low == pytest.approx(error.low, abs=1e-5)
    assert error.high + 1e-12 >= high == pytest.approx(error.high, abs=1e-5)
    log, exp = pow_parts(correction, p, *[midpoints(3 * 2**16)] * 2)
    assert error.mean == pytest.approx(log.mean() * exp.mean() - 1, abs=2e-9)
    square = np.mean(log**2) * np.mean(exp**2) - 2 * log.mean() * exp.mean() + 1
    assert error.rms == pytest.approx(math.sqrt(square), abs=2e-9)
    assert error.attained_at == ()


@given(st.sampled_from(CORRECTIONS), st.floats(-20, 20), st.floats(-3, 3), st.floats(0, 1))
def test_pow_is_inside(correction: Any, p: float, whole: float, x: float) -> None:
    error = mitchell_error("pow", correction, exponent=p)
    if p == 0:
        return
    whole = math.floor(whole)
    if correction == "refined":
        approx = refined_antilog(p * (whole + refined_fraction(x, 1)))
    else:
        shift = BIAS["log2"][correction] if isinstance(correction, str) else 0.0
        approx = antilog(p * (whole + x + shift) + bias_of("pow", correction))
    exact = (2.0**whole * (1 + x)) ** p
    assert error.low - 1e-12 <= approx / exact - 1 <= error.high * (1 + 1e-12) + 1e-12
    assert relative_error("pow", correction, 2.0**whole * (1 + x), p) == pytest.approx(approx / exact - 1, abs=1e-9)


def test_pow_closed_forms() -> None:
    above, below = mitchell_error("pow", exponent=3), mitchell_error("pow", exponent=-3)
    assert above.low == pytest.approx(2 ** (-3 * LOG_GAP) - 1, abs=1e-15)
    assert above.high == pytest.approx(2 / (math.e * LN2) - 1, abs=1e-15)
    assert below.low == 0
    assert below.high == pytest.approx(2 / (math.e * LN2) * 2 ** (3 * LOG_GAP) - 1, abs=1e-15)


def test_pow_over_all_exponents() -> None:
    for correction in ("lmul", "refined", None, 0.25):
        error = mitchell_error("pow", correction)
        assert error[:2] == (-1, math.inf)
        assert math.isnan(error.mean)
        assert math.isnan(error.rms)
        assert error.attained_at == ()


@pytest.mark.parametrize("correction", CORRECTIONS)
@pytest.mark.parametrize("zero", [0, 0.0, -0.0])
def test_pow_of_exponent_zero_is_exact(correction: Any, zero: float) -> None:
    assert mitchell_error("pow", correction, exponent=zero) == (0, 0, 0, 0, ())


def test_pow_with_large_exponents() -> None:
    # The integral of 2^(p e(x)) by Laplace: e has the second derivative ln 2 at its minimum, and slopes at its ends.
    gap, gain = 2**LOG_GAP, 1 / (2 * LN2**2)
    error = mitchell_error("pow", exponent=-4000)
    assert error.high == pytest.approx(gap**4000 * 2 / (math.e * LN2) - 1, rel=1e-10)
    assert error.mean == pytest.approx(gap**4000 * gain * math.sqrt(2 * math.pi / (4000 * LN2**2)), rel=1e-3)
    error = mitchell_error("pow", exponent=1e12)
    slopes = 1 / (1 - LN2) + 1 / (LN2 - 0.5)
    assert error.mean + 1 == pytest.approx(gain * slopes / 1e12, abs=1e-15)
    assert error.rms == pytest.approx(1, abs=1e-11)
    assert error[:2] == (-1, pytest.approx(2 / (math.e * LN2) - 1))
    assert mitchell_error("pow", exponent=-1e9)[1:4] == (math.inf, math.inf, math.inf)


# Arguments.


@pytest.mark.parametrize(
    ("op", "correction", "expected"),
    [
        ("mul", None, (False, 0, 0)),
        ("sqrt", "refined", (True, 0, 0)),
        ("pow", "refined", (True, 0, 0)),
        ("rsqrt", "lmul", (False, -1 / 32, 0)),
        ("log2", "unbiased", (False, 1.5 - 1 / LN2, 0)),
        ("pow", "lmul", (False, -1 / 16, 1 / 16)),
        ("pow", "minimax", (False, BIAS["exp2"]["minimax"], BIAS["log2"]["minimax"])),
        ("pow", 0.125, (False, 0.125, 0)),
        ("div", 0, (False, 0, 0)),
        ("div", np.int8(0), (False, 0, 0)),
        ("mul", np.float32(0.25), (False, 0.25, 0)),
        ("mul", np.float64(-0.5), (False, -0.5, 0)),
        ("mul", Fraction(1, 2), (False, 0.5, 0)),
    ],
)
def test_resolve(op: str, correction: Any, expected: tuple[bool, float, float]) -> None:
    resolved = resolve(op, correction)
    assert isinstance(resolved, Correction)
    assert resolved == pytest.approx(expected, abs=1e-16)
    assert [type(part) for part in resolved] == [bool, float, float]


@pytest.mark.parametrize(
    ("op", "correction", "kind", "message"),
    [
        ("add", None, ValueError, r"op='add': allowed are mul, square, div, .* pow$"),
        ("MUL", None, ValueError, r"op='MUL': allowed"),
        (1, None, TypeError, r"op=1: a string is needed, one of mul"),
        (["mul"], None, TypeError, r"op=\['mul'\]: a string"),
        (None, None, TypeError, r"op=None"),
        ("mul", "best", ValueError, r"correction='best': allowed are minimax, unbiased, lmul, refined, None"),
        ("mul", "0.1", ValueError, r"correction='0.1'"),
        ("mul", True, TypeError, r"correction=True: allowed are"),
        ("mul", np.False_, TypeError, r"correction=.*False.*: allowed are"),
        ("mul", b"lmul", TypeError, r"correction=b'lmul'"),
        ("mul", [0.1], TypeError, r"correction=\[0.1\]"),
        ("mul", 0.1j, TypeError, r"correction=0.1j"),
        ("mul", 0.51, ValueError, r"correction=0.51: allowed are .* None and numbers from -0.5 to 0.5"),
        ("log2", -1, ValueError, r"correction=-1: allowed are"),
        ("mul", math.nextafter(0.5, 1), ValueError, r"correction=0.50"),
        ("mul", math.nan, ValueError, r"correction=nan"),
        ("mul", -math.inf, ValueError, r"correction=-inf"),
        ("mul", np.float32(2), ValueError, r"correction=.*2.0.*: allowed"),
        pytest.param("mul", 10**400, ValueError, r"correction=10", id="mul-huge"),
    ],
)
def test_bad_op_or_correction(op: Any, correction: Any, kind: type[Exception], message: str) -> None:
    calls = (resolve, mitchell_error, plot_error, lambda op, correction: relative_error(op, correction, 1.5, 1.5))
    for call in calls:
        with pytest.raises(kind, match=f"^{message}"):
            call(op, correction)


@pytest.mark.parametrize(
    ("exponent", "kind", "message"),
    [
        (True, TypeError, "exponent=True: a real number is needed"),
        ("2", TypeError, "exponent='2': a real number"),
        (1j, TypeError, "exponent=1j"),
        (math.nan, ValueError, "exponent=nan: a finite number is needed"),
        (math.inf, ValueError, "exponent=inf"),
        pytest.param(-(10**400), ValueError, "exponent=-10", id="huge"),
    ],
)
def test_bad_exponent(exponent: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=f"^{message}"):
        mitchell_error("pow", exponent=exponent)


@pytest.mark.parametrize("op", DRAWN)
def test_exponent_with_another_op(op: str) -> None:
    with pytest.raises(ValueError, match=rf"^exponent=2: allowed with op='pow' only, not with '{op}'$"):
        mitchell_error(op, exponent=2)


def test_exponent_is_by_keyword() -> None:
    with pytest.raises(TypeError):
        mitchell_error("pow", None, 2)  # type: ignore[misc]


def test_exponent_types_are_one() -> None:
    assert mitchell_error("pow", exponent=np.float32(2)) == mitchell_error("pow", exponent=2)


@pytest.mark.parametrize("correction", ["minimax", "refined", 5e-324, 1e-41, -1e-17])
@pytest.mark.parametrize("op", OPS)
def test_raises_no_floating_point_errors(op: str, correction: Any) -> None:
    under_test._cached_error.cache_clear()
    with np.errstate(all="raise"):
        for exponent in (2, -1e300, 1e300, 5e-324) if op == "pow" else (None,):
            assert mitchell_error(op, correction, exponent=exponent).rms > 0


# The pointwise error.


@pytest.mark.parametrize("correction", CORRECTIONS)
@pytest.mark.parametrize("op", DRAWN)
def test_relative_error(op: str, correction: Any) -> None:
    rng = np.random.default_rng(7)
    fractions = rng.random((len(fractions_of(op, mitchell_error(op).attained_at)), 500)) * span(op)
    # Powers of two (of four for roots; integers for exp2) do not change the error.
    shift = span(op) * rng.integers(-30, 30, fractions.shape)
    operands = fractions + shift if op == "exp2" else antilog(fractions) * 2.0**shift
    error = relative_error(op, correction, *operands)
    assert error.shape == (500,)
    np.testing.assert_allclose(error, oracle(op, correction, *fractions), rtol=0, atol=2e-14)


def test_relative_error_broadcasts() -> None:
    assert relative_error("mul", None, [[1.0], [1.5]], [1.0, 1.5, 1.75]).shape == (2, 3)
    assert relative_error("mul", None, 1.5, 1.5) == pytest.approx(-1 / 9)


@pytest.mark.parametrize("op", OPS)
def test_relative_error_needs_its_operands(op: str) -> None:
    y = None if op in ("mul", "div", "pow") else 1.5
    with pytest.raises(TypeError, match=rf"^y={y}: {op} takes"):
        relative_error(op, None, 1.5, y)


def test_results_are_kept() -> None:
    assert mitchell_error("div", 0.123) is mitchell_error("div", np.float64(0.123))


def test_needs_numpy_alone(run_python: Callable[..., Any]) -> None:
    code = (
        "import json, sys; from fastk._mitchell_error import mitchell_error; mitchell_error('mul', 'refined');"
        "print(json.dumps([name for name in ('scipy', 'matplotlib') if name in sys.modules]))"
    )
    run = run_python("-c", code)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == []


# The drawing.


@pytest.fixture
def pyplot(monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("matplotlib").use("Agg")
    from matplotlib import pyplot

    def show(*_: Any, **__: Any) -> None:
        raise AssertionError("shown")

    monkeypatch.setattr(pyplot, "show", show)
    yield pyplot
    pyplot.close("all")


def marker(ax: Any) -> tuple[float, ...]:
    (points,) = [line.get_xydata() for line in ax.lines if line.get_marker() == "o"]
    (point,) = points
    return tuple(map(float, point))


@pytest.mark.parametrize("correction", [None, "minimax", "refined", 0.3])
@pytest.mark.parametrize("op", TWO_OPERANDS)
def test_map(pyplot: Any, op: str, correction: Any) -> None:
    ax = plot_error(op, correction)
    error = mitchell_error(op, correction)
    from matplotlib.contour import ContourSet

    filled, lines = (c for c in ax.collections if isinstance(c, ContourSet))
    assert filled.filled
    assert not lines.filled
    assert filled.levels[0] <= 100 * error.low < filled.levels[1]
    assert filled.levels[-2] < 100 * error.high <= filled.levels[-1] + 1e-12
    # Along every line the error is the line's level.
    checked = 0
    for level, path in zip(lines.levels, lines.get_paths(), strict=True):
        if len(path.vertices):
            value = 100 * oracle(op, correction, *path.vertices.T)
            assert np.median(np.abs(value - level)) < 0.01 * (filled.levels[-1] - filled.levels[0])
            checked += 1
    assert checked >= 4
    assert marker(ax) == pytest.approx(tuple(a - 1 for a in error.attained_at))
    assert ax.get_xlim() == ax.get_ylim() == (0, 1)
    assert "first operand" in ax.get_xlabel()
    assert "second operand" in ax.get_ylabel()
    assert ax.figure.axes[1].get_ylabel() == "relative error (%)"
    ax.figure.canvas.draw()


@pytest.mark.parametrize("correction", [None, "minimax", "refined", -0.25])
@pytest.mark.parametrize("op", ONE_OPERAND)
def test_curve(pyplot: Any, op: str, correction: Any) -> None:
    ax = plot_error(op, correction)
    error = mitchell_error(op, correction)
    scale = 1 if op == "log2" else 100
    (curve,) = (line for line in ax.lines if len(line.get_xdata()) > 100)
    x, value = curve.get_xydata().T
    ends = (0, 1) if op == "exp2" else (1, 2 ** span(op))
    assert (x[0], x[-1]) == ax.get_xlim() == ends
    # The ends are limits, where rounding may take the fraction past the kink.
    fractions = x if op == "exp2" else np.array([fractions_of(op, (a,))[0] for a in x])
    np.testing.assert_allclose(value, scale * oracle(op, correction, fractions), rtol=0, atol=1e-10)
    assert (value.min(), value.max()) == pytest.approx((scale * error.low, scale * error.high), abs=1e-12)
    largest = max(error[:2], key=abs)
    assert abs(marker(ax)[1]) == pytest.approx(scale * abs(largest))
    assert marker(ax)[1] == pytest.approx(float(np.interp(marker(ax)[0], x, value)))
    assert ax.get_ylabel() == ("absolute error" if op == "log2" else "relative error (%)")
    assert ax.get_xlabel()
    ax.figure.canvas.draw()


def test_titles(pyplot: Any) -> None:
    titles = [plot_error(*arguments).get_title() for arguments in [("mul",), ("mul", "minimax"), ("div", 0.25)]]
    titles += [plot_error("log2", "minimax").get_title()]
    assert titles[0] == "mitchell_mul, no correction: -11.111 % to 0"
    assert titles[1] == "mitchell_mul, minimax: -6.886 % to +6.886 %"
    assert titles[2].startswith("mitchell_div, bias 0.25: +")
    assert titles[3] == "mitchell_log2, minimax: -0.0430 to +0.0430"


def test_draws_where_it_is_told(pyplot: Any) -> None:
    figure, (left, right) = pyplot.subplots(1, 2)
    assert plot_error("mul", ax=left) is left
    assert plot_error("sqrt", "lmul", ax=right) is right
    assert pyplot.get_fignums() == [figure.number]
    assert plot_error("sqrt").figure is not figure
    assert len(pyplot.get_fignums()) == 2


def test_pow_is_not_drawn(pyplot: Any) -> None:
    with pytest.raises(ValueError, match=r"^op='pow': allowed are mul, .*exp2; the error of pow depends"):
        plot_error("pow")
    assert pyplot.get_fignums() == []


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'fastk-kernels\[bench\]'"):
        plot_error("mul")
    assert under_test.mitchell_error("mul").low < 0
