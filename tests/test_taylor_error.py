"""The errors of Taylor polynomials of exp, against 50-digit arithmetic, and the bound of fast_softmax on hard rows."""

from __future__ import annotations

import importlib
import json
import math
import sys
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import special

import fastk
from fastk import _taylor_error as under_test
from fastk._taylor_error import (
    TaylorError,
    TaylorMinimum,
    check_order,
    fast_softmax_error,
    plot_taylor,
    taylor_error,
    taylor_minimum,
)

ORDERS = (2, 4, 6, 8, 10, 12)
EPS = 2.0**-52
MP = mpmath.mp.clone()
MP.dps = 50

orders = st.sampled_from(ORDERS)


def f(order: int, x: Any) -> Any:
    """The polynomial, in the arithmetic of x: Fraction or mpmath."""
    return sum(x**k / math.factorial(k) for k in range(order + 1))


def error_at(order: int, x: float) -> Any:
    """f_n(x) / e^x - 1 to 50 digits, by as many more as cancel."""
    digits = 60 + (order + 2) * max(0, -math.floor(math.log10(abs(x)))) if x else 60
    with MP.workdps(digits):
        return f(order, MP.mpf(x)) * MP.exp(-MP.mpf(x)) - 1


# Orders.


@pytest.mark.parametrize("order", [*ORDERS, np.int8(4), np.uint64(12)])
def test_orders(order: Any) -> None:
    checked = check_order(order)
    assert checked == order
    assert type(checked) is int


CALLS: dict[str, Callable[[Any], Any]] = {
    "check_order": check_order,
    "taylor_minimum": taylor_minimum,
    "taylor_error": lambda order: taylor_error(order, 1),
    "fast_softmax_error": lambda order: fast_softmax_error(order, 10),
    "plot_taylor": plot_taylor,
    "plot_taylor of many": lambda order: plot_taylor([2, order]),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize(
    ("order", "kind", "message"),
    [
        (3, ValueError, "order=3: allowed is 2 to 12, even: a polynomial of odd degree is negative somewhere"),
        (1, ValueError, "order=1: allowed is 2 to 12, even: a polynomial of odd degree is negative"),
        (-1, ValueError, "order=-1: allowed is 2 to 12, even"),
        (13, ValueError, "order=13: allowed is 2 to 12, even: a polynomial of odd"),
        (0, ValueError, "order=0: allowed is 2 to 12, even"),
        (14, ValueError, "order=14: allowed is 2 to 12, even"),
        (np.int16(5), ValueError, "order=5: allowed"),
        (10**30, ValueError, "order=10+: allowed"),
        (True, TypeError, "order=True: an integer is needed"),
        (np.True_, TypeError, "order=.*True.*: an integer is needed"),
        (2.0, TypeError, "order=2.0: an integer is needed"),
        ("2", TypeError, "order='2': an integer"),
        (None, TypeError, "order=None: an integer"),
        (Fraction(2), TypeError, "order=Fraction"),
    ],
)
def test_bad_orders(call: Callable[[Any], Any], order: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=f"^{message}"):
        call(order)


# Minima.

TABLE = {
    2: (-1, 0.5, 8.03e-2, 0.359, 0.323, 6.39),
    4: (-1.59607164, 0.270394765, 3.66e-3, 1.94e-2, 5.27e-2, 1.46),
    6: (-2.18060712, 0.149324842, 8.32e-5, 4.79e-4, 4.53e-3, 0.149),
    8: (-2.75900271, 0.0832715202, 1.13e-6, 6.81e-6, 2.37e-4, 8.67e-3),
    10: (-3.33355149, 0.0466991136, 1.01e-8, 6.28e-8, 8.31e-6, 3.24e-4),
}
"""Minimum's place and value, magnitudes of the relative errors at +1, -1, +2, -2."""


@pytest.mark.parametrize("order", ORDERS)
def test_minimum(order: int) -> None:
    minimum = taylor_minimum(order)
    assert isinstance(minimum, TaylorMinimum)
    assert [type(part) for part in minimum] == [float, float]
    # Correctly rounded: the derivative changes its sign within half an ulp, and nowhere else has f_n this value.
    x, half = Fraction(minimum.x), Fraction(math.ulp(minimum.x)) / 2
    assert f(order - 1, x - half) < 0 < f(order - 1, x + half)
    root = MP.findroot(lambda x: f(order - 1, x), MP.mpf(minimum.x))
    assert minimum.value == float(root**order / math.factorial(order))
    assert minimum.value == float(f(order, root))


@pytest.mark.parametrize("order", ORDERS)
def test_minimum_is_the_only_one(order: int) -> None:
    descending = [1 / math.factorial(k) for k in range(order - 1, -1, -1)]
    real = [root.real for root in np.roots(descending) if abs(root.imag) < 1e-9]
    assert real == pytest.approx([taylor_minimum(order).x], rel=1e-9)


@given(orders, st.fractions(-50, 50))
def test_nothing_is_below_the_minimum(order: int, x: Fraction) -> None:
    assert f(order, x) >= Fraction(taylor_minimum(order).value) * (1 - Fraction(1, 2**53))


def test_minimum_of_order_2_is_exact() -> None:
    assert taylor_minimum(2) == (-1, 0.5)


def test_minimum_is_kept() -> None:
    assert taylor_minimum(6) is taylor_minimum(np.int32(6))  # type: ignore[arg-type]


@pytest.mark.parametrize("order", TABLE)
def test_table(order: int) -> None:
    x, value, *errors = TABLE[order]
    assert taylor_minimum(order) == (pytest.approx(x, rel=4e-9), pytest.approx(value, rel=2e-9))
    one, two = taylor_error(order, 1), taylor_error(order, 2)
    assert [-one.low, one.high, -two.low, two.high] == pytest.approx(errors, rel=6e-3)


# The relative error.

HALF_WIDTHS = [2.0**k for k in range(-40, 10)] + [0.999, 1.001, 1e-9, 0.1, 3, 7.5, 37, 38, 123.4, 690]


@pytest.mark.parametrize("order", ORDERS)
def test_error_is_that_at_the_ends(order: int) -> None:
    for a in HALF_WIDTHS:
        error = taylor_error(order, a)
        assert isinstance(error, TaylorError)
        assert [type(end) for end in error] == [float, float]
        assert error == (float(error_at(order, a)), float(error_at(order, -a))), a


@given(orders, st.floats(0, 700), st.floats(-1, 1))
def test_error_stays_in_the_range(order: int, a: float, fraction: float) -> None:
    low, high = taylor_error(order, a)
    error = float(error_at(order, a * fraction))
    assert low <= error <= high


@given(orders, st.floats(0, 700), st.floats(0, 700))
def test_wider_is_worse(order: int, a: float, b: float) -> None:
    narrow, wide = (taylor_error(order, end) for end in sorted((a, b)))
    assert wide.low <= narrow.low <= 0 <= narrow.high <= wide.high


@pytest.mark.parametrize("order", ORDERS)
def test_error_against_the_incomplete_gamma_function(order: int) -> None:
    for a in (1e-3, 0.5, 1, 4, 20, 100):
        assert -taylor_error(order, a).low == pytest.approx(special.gammainc(order + 1, a), rel=1e-12)
        assert 1 + taylor_error(order, a).low == pytest.approx(special.gammaincc(order + 1, a), rel=1e-12, abs=EPS)


@pytest.mark.parametrize("order", ORDERS)
def test_tiny_interval(order: int) -> None:
    for a in (1e-5, 1e-15, 2.0**-70):
        leading = a ** (order + 1) / math.factorial(order + 1)
        low, high = taylor_error(order, a)
        assert (low, high) == (pytest.approx(-leading, rel=2 * a + 1e-14), pytest.approx(leading, rel=2 * a + 1e-14))
        assert -low <= leading <= high
    for a in (0, 0.0, -0.0, 5e-324):
        error = taylor_error(order, a)
        assert error == (0, 0)
        assert [math.copysign(1, end) for end in error] == [1, 1]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("a", [720, 1e4, 1e308, sys.float_info.max])
def test_huge_interval(order: int, a: float) -> None:
    assert taylor_error(order, a) == (-1, math.inf)


@pytest.mark.parametrize("a", [Fraction(3, 2), np.float32(1.5), np.float64(1.5), np.float16(1.5)])
def test_real_types(a: Any) -> None:
    assert taylor_error(4, a) == taylor_error(4, 1.5)
    assert taylor_error(4, 2) == taylor_error(4, np.int8(2)) == taylor_error(4, 2.0)


@pytest.mark.parametrize(
    ("a", "kind", "message"),
    [
        (-1, ValueError, "a=-1: a finite number that is at least 0 is needed"),
        (-5e-324, ValueError, "a=-5e-324: a finite"),
        (math.nan, ValueError, "a=nan: a finite"),
        (math.inf, ValueError, "a=inf: a finite"),
        (-math.inf, ValueError, "a=-inf: a finite"),
        pytest.param(10**400, ValueError, "a=10+: a finite", id="huge"),
        (True, TypeError, "a=True: a finite"),
        (np.False_, TypeError, "a=.*False.*: a finite"),
        ("1", TypeError, "a='1': a finite"),
        (1j, TypeError, "a=1j: a finite"),
        (None, TypeError, "a=None: a finite"),
        ([1.0], TypeError, r"a=\[1.0\]: a finite"),
    ],
)
def test_bad_half_widths(a: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=f"^{message}"):
        taylor_error(2, a)


# The bound of fast_softmax. A row is distances y below its maximum and how often each occurs, in 50 digits or arrays.


def exact_distance(order: int, row: list[tuple[Any, int]]) -> Any:
    """Total variation between the method over the reals and softmax; the maximum itself, y = 0, is put before `row`."""
    row = [(0, 1), *row]
    reach = -32 * MP.mpf(least(order))
    weights = [MP.exp(-y) for y, _ in row]
    squared = [f(order, -MP.mpf(y) / 32) ** 32 if y <= reach else MP.mpf(0) for y, _ in row]
    total, rough = (sum(w * times for w, (_, times) in zip(side, row, strict=True)) for side in (weights, squared))
    return sum(times * abs(v / rough - w / total) for v, w, (_, times) in zip(squared, weights, row, strict=True)) / 2


@cache
def least(order: int) -> Any:
    """Where f_n is least."""
    return MP.findroot(lambda x: f(order - 1, x), -0.2785 * order - 0.55)


@cache
def factors(order: int) -> list[tuple[float, float]]:
    """(a, b^2) for which the product of (t - a)^2 + b^2 is order! f_n(t): no term of it is negative."""
    near = np.roots([1 / math.factorial(k) for k in range(order, -1, -1)])
    found = [MP.findroot(lambda x: f(order, x), MP.mpc(root)) for root in near if root.imag > 0]
    assert len(found) == order / 2
    return [(float(root.real), float(root.imag**2)) for root in found]


def emulation(x: Any, order: int, noise: float = 0) -> Any:
    """The method in NumPy, on rows of float32 or float64; f_n is off by as much as it may, times `noise`."""
    dtype = x.dtype.type
    t = (x - x.max(axis=-1, keepdims=True)) / dtype(32)
    dropped = t < dtype(taylor_minimum(order).x)
    t[dropped] = 0
    value = np.ones(t.shape)
    for a, b_squared in factors(order):
        value *= (np.float64(t) - a) ** 2 + b_squared
    value /= math.factorial(order)
    unit = float(np.finfo(dtype).eps) / 2
    random = np.random.default_rng(5).choice([-noise, noise], size=t.shape) if noise else 0
    e = (value * (1 + random * (2.5 * order + 2) * unit)).astype(dtype)
    with np.errstate(under="ignore"):
        for _ in range(5):
            e = e * e
        e[dropped] = 0
        e *= dtype(1) / e.sum(axis=-1, keepdims=True, dtype=dtype)
    return e


def distance(p: Any, x: Any) -> Any:
    """Total variation between rows p and the softmax of rows x, which holds float16, float32 or float64."""
    x = x.astype(np.longdouble)
    w = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.abs(p.astype(np.longdouble) - w / w.sum(axis=-1, keepdims=True)).sum(axis=-1) / 2


METHODS: dict[str, Callable[..., Any]] = {
    "fast_softmax": lambda x, order: fastk.fast_softmax(x, order),
    "emulation": emulation,
    "worst rounding": lambda x, order: emulation(x, order, 1),
}


@pytest.mark.parametrize("order", ORDERS)
def test_rounding_of_the_polynomial(order: int) -> None:
    # To first order, in units of u: of a, t - a, the square, b, the sum; then of the products and of the last factor.
    t = np.linspace(taylor_minimum(order).x, 0, 1000)
    total = np.full(t.shape, order / 2 + 1)
    for a, b in factors(order):
        u = np.abs(t - a)
        total += (2 * u * (abs(a) + u) + u**2 + b) / (u**2 + b) + 1
    assert total.max() <= 2.5 * order + 2


def two_values(dtype: Any, order: int, n: int, count: int) -> Any:
    """Rows of a maximum and n - 1 equal entries, up to somewhat beyond where they are dropped."""
    y = np.linspace(0, 33 * -taylor_minimum(order).x, count)
    rows = np.repeat(-y[:, None], n, axis=1)
    rows[:, n // 2] = 0
    return rows.astype(dtype)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("others", [1, 2, 9, 999, 10**6, 10**12])
def test_bound_of_exact_arithmetic_is_all_but_attained(order: int, others: int) -> None:
    reach = -32 * float(least(order))
    worst = max(exact_distance(order, [(y, others)]) for y in np.linspace(0, reach * 1.01, 200))
    bound = fast_softmax_error(order, others + 1, np.float64)
    assert worst <= bound
    # Rounding is at most 800 u and, for the sum of many blocks, one u of each.
    dropped, rounding = others * math.exp(-reach), (800 + others / 1024) * 2.0**-53
    assert bound <= 1.35 * worst + dropped / (1 + dropped) + rounding


@given(orders, st.lists(st.tuples(st.floats(0, 1.05), st.integers(1, 10**6)), max_size=6))
def test_bound_of_exact_arithmetic(order: int, row: list[tuple[float, int]]) -> None:
    reach = -32 * float(least(order))
    n = 1 + sum(times for _, times in row)
    assert exact_distance(order, [(part * reach, times) for part, times in row]) <= fast_softmax_error(order, n, "f8")


@pytest.mark.parametrize("order", [2, 4])
@pytest.mark.parametrize("method", METHODS)
def test_bound_is_not_vacuous(method: str, order: int) -> None:
    x = two_values(np.float64, order, 1000, 200)
    bound = fast_softmax_error(order, 1000, np.float64)
    assert bound / 1.2 <= distance(METHODS[method](x, order), x).max() <= bound


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bound_of_rounding_is_not_vacuous(dtype: Any) -> None:
    # Of order 12 and few entries the polynomial's own error is nothing.
    x = np.zeros((1, 100), dtype)
    bound = fast_softmax_error(12, 100, dtype)
    assert bound / 1.5 <= distance(METHODS["worst rounding"](x, 12), x)[0] <= bound


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("method", METHODS)
def test_bound_on_two_values(method: str, order: int, dtype: Any) -> None:
    for n in (1, 2, 3, 16, 17, 100, 1025):
        x = two_values(dtype, order, n, 50)
        assert distance(METHODS[method](x, order), x).max() <= fast_softmax_error(order, n, dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("order", [2, 4, 12])
@pytest.mark.parametrize("method", METHODS)
def test_bound_on_a_million_entries(method: str, order: int, dtype: Any) -> None:
    x = np.full((1, 10**6), -15, dtype)
    x[0, 77] = 0
    assert distance(METHODS[method](x, order), x).max() <= fast_softmax_error(order, 10**6, dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("method", METHODS)
def test_bound_on_random_logits(method: str, order: int, dtype: Any) -> None:
    rng = np.random.default_rng(order)
    for n in (2, 10, 1000):
        spread = np.exp2(rng.uniform(-20, 20, (20, 1)))
        for noise in (rng.standard_normal((20, n)), rng.random((20, n)), rng.exponential(size=(20, n))):
            x = (spread * noise + rng.uniform(-100, 100, (20, 1))).astype(dtype)
            assert distance(METHODS[method](x, order), x).max() <= fast_softmax_error(order, n, dtype)


@pytest.mark.parametrize("method", METHODS)
@given(data=st.data())
def test_bound_on_any_row(method: str, data: st.DataObject) -> None:
    width = data.draw(st.sampled_from([32, 64]))
    limit = {32: 2.0**126, 64: 1e308}[width]
    entry = st.floats(-limit, limit, width=width) | st.floats(-128, 0, width=width)
    x = np.array([data.draw(st.lists(entry, min_size=1, max_size=40))], f"f{width // 8}")
    order = data.draw(orders)
    with np.errstate(over="ignore"):
        assert distance(METHODS[method](x, order), x)[0] <= fast_softmax_error(order, x.size, x.dtype)


@pytest.mark.parametrize("order", ORDERS)
def test_bound_of_float16(order: int) -> None:
    rng = np.random.default_rng(16)
    for n in (2, 100, 40_000):
        single = two_values(np.float32, order, n, 9)
        single[5] = 0  # 1 / n for all, which may be subnormal
        single[6] = rng.standard_normal(n)
        x = single.astype(np.float16)
        bound = fast_softmax_error(order, n, np.float16)
        emulated = emulation(x.astype(np.float32), order).astype(np.float16)
        for p in (emulated, fastk.fast_softmax(x, order)):
            assert p.dtype == np.float16
            assert distance(p, x).max() <= bound
        assert bound > fast_softmax_error(order, n, np.float32)


def test_bound_of_float16_covers_what_rounds_to_nothing() -> None:
    # Every 1/n is below the smallest subnormal's half: no probability is left.
    assert fast_softmax_error(4, 2**26, np.float16) >= 0.5


@pytest.mark.parametrize("order", ORDERS)
def test_bound_of_bfloat16(order: int) -> None:
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    x = two_values(np.float32, order, 100, 50).astype(bfloat16)
    bound = fast_softmax_error(order, 100, bfloat16)
    emulated = emulation(x.astype(np.float32), order).astype(bfloat16)
    for p in (emulated, fastk.fast_softmax(x, order)):
        assert p.dtype == bfloat16
        assert distance(p.astype(np.float32), x.astype(np.float32)).max() <= bound
    assert bound == pytest.approx(fast_softmax_error(order, 100) + 2.0**-9, rel=2e-3)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("order", ORDERS)
def test_one_entry(order: int, dtype: Any) -> None:
    bound = fast_softmax_error(order, 1, dtype)
    assert bound == pytest.approx(2.0 ** -(53 if dtype == np.float64 else 24), rel=2e-3)
    assert abs(float(fastk.fast_softmax(np.array([3.7], dtype), order)[0]) - 1) / 2 <= bound


@given(orders, st.integers(1, 2**63 - 1), st.integers(1, 2**63 - 1), st.sampled_from(["f2", "f4", "f8"]))
def test_bound_rises_with_the_entries(order: int, n: int, more: int, dtype: str) -> None:
    assume(n < more)
    small, large = (fast_softmax_error(order, count, dtype) for count in (n, more))
    assert 0 <= small <= large * (1 + 1e-3)
    assert large <= 1


@given(st.integers(2, 10**7))
def test_bound_falls_with_the_order(n: int) -> None:
    bounds = [fast_softmax_error(order, n, np.float64) for order in (2, 4, 6)]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[0] > 10 * bounds[1] > 100 * bounds[2] > 0


def test_dtypes_are_one() -> None:
    bound = fast_softmax_error(4, 50)
    for dtype in (np.float32, "float32", "<f4", ">f4", np.dtype("f4")):
        assert fast_softmax_error(4, np.int16(50), dtype) == bound  # type: ignore[arg-type]
    assert type(bound) is float


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ((2, 0), ValueError, "n=0: allowed is 1 to"),
        ((2, -5), ValueError, "n=-5: allowed is 1 to"),
        ((2, 2**63), ValueError, r"n=9223372036854775808: allowed is 1 to 2\*\*63 - 1"),
        ((2, 1.0), TypeError, "n=1.0: an integer is needed"),
        ((2, "5"), TypeError, "n='5': an integer"),
        ((2, None), TypeError, "n=None: an integer"),
        ((2, 5, np.int32), TypeError, "dtype=.*int32.*: allowed are float16, bfloat16, float32, float64"),
        ((2, 5, complex), TypeError, "dtype=<class 'complex'>: allowed"),
        ((2, 5, np.dtype("V4")), TypeError, "dtype=.*V4.*: allowed"),
        ((2, 5, "nonsense"), TypeError, "dtype='nonsense': allowed"),
        ((2, 5, None), TypeError, "dtype=None: allowed"),
        ((2, 5, object()), TypeError, "dtype=<object .*: allowed"),
    ],
)
def test_bad_arguments_of_the_bound(arguments: tuple[Any, ...], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=f"^{message}"):
        fast_softmax_error(*arguments)


def test_raises_no_floating_point_errors() -> None:
    under_test._softmax_error.cache_clear()
    with np.errstate(all="raise", under="ignore"):
        for n in (2, 1000, 2**63 - 1):
            assert 0 < fast_softmax_error(12, n, np.float16) <= 1


def test_needs_numpy_alone(run_python: Callable[..., Any]) -> None:
    code = (
        "import json, sys; from fastk._taylor_error import *; taylor_minimum(4); fast_softmax_error(4, 9);"
        "print(json.dumps([name for name in ('scipy', 'matplotlib', 'mpmath') if name in sys.modules]))"
    )
    run = run_python("-c", code)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == []


# The drawing.


@pytest.fixture
def pyplot(monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("matplotlib").use("Agg")
    pyplot = importlib.import_module("matplotlib.pyplot")

    def show(*_: Any, **__: Any) -> None:
        raise AssertionError("shown")

    monkeypatch.setattr(pyplot, "show", show)
    yield pyplot
    pyplot.close("all")


@pytest.mark.parametrize("order", [(2, 4, 6, 8), [12, 2], 10, {4}, np.array([6, 8]), range(2, 13, 2)])
def test_drawing(pyplot: Any, order: Any) -> None:
    ax = plot_taylor(order)
    drawn = sorted([order] if isinstance(order, int) else map(int, order))
    curves = {line.get_label(): line for line in ax.lines if line.get_marker() == "None"}
    assert list(curves) == ["$e^x$", *(f"order {n}" for n in drawn)]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(curves)
    for label, line in curves.items():
        x, y = line.get_xydata().T
        assert (x[0], x[-1]) == ax.get_xlim() == (-6, 3)
        assert len(x) > 500
        if label == "$e^x$":
            oracle = [float(MP.exp(a)) for a in x]
        else:
            oracle = [float(f(int(label.split()[1]), Fraction(a))) for a in x]
        np.testing.assert_allclose(y, oracle, rtol=1e-12)
    points = [line for line in ax.lines if line.get_marker() == "o"]
    assert [tuple(*line.get_xydata()) for line in points] == [taylor_minimum(n) for n in drawn]
    for n, point in zip(drawn, points, strict=True):
        assert point.get_color() == curves[f"order {n}"].get_color()
        assert taylor_minimum(n).x in curves[f"order {n}"].get_xdata()
    assert len({curve.get_color() for curve in curves.values()}) == len(curves)
    assert ax.get_xlabel() == "x"
    assert "f_n" in ax.get_ylabel()
    assert "Taylor" in ax.get_title()
    ax.figure.canvas.draw()


def test_minima_are_written_beside_their_marks(pyplot: Any) -> None:
    texts = {text.xy: text.get_text() for text in plot_taylor((2, 8)).texts}
    assert texts == {
        tuple(taylor_minimum(2)): "(\N{MINUS SIGN}1.000, 0.5000)",
        tuple(taylor_minimum(8)): "(\N{MINUS SIGN}2.759, 0.0833)",
    }


def test_draws_where_it_is_told(pyplot: Any) -> None:
    figure, (left, right) = pyplot.subplots(1, 2)
    assert plot_taylor(ax=left) is left
    assert plot_taylor(4, right) is right
    assert pyplot.get_fignums() == [figure.number]
    assert plot_taylor(2).figure is not figure
    assert len(pyplot.get_fignums()) == 2


def test_no_order_to_draw(pyplot: Any) -> None:
    with pytest.raises(ValueError, match=r"^order=\(\): at least one order is needed$"):
        plot_taylor(())
    assert pyplot.get_fignums() == []


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"plot_taylor needs matplotlib: pip install 'fastk-kernels\[bench\]'"):
        plot_taylor()
    assert taylor_error(2, 1).low < 0
