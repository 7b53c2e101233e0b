"""The Taylor softmax family on every backend and level, against 50 digits and extended precision.

Accuracy is tested on rows that are contiguous; whatever is laid out otherwise, has other axes, goes in place or over
several threads must then give the very same bits.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import itertools
import math
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import softmax_oracle as oracle
from conftest import running_on, variants
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import special
from softmax_oracle import LD, ORDERS, mp
from test_mitchell import dtype_of, misaligned, same

import fastk
from fastk import softmax

WIDE = ["float32", "float64"]
NARROW = ["float16"] + ["bfloat16"] * bool(importlib.util.find_spec("ml_dtypes"))
FLOATS = NARROW + WIDE
TAYLOR = ["taylor_softmax", "log_taylor_softmax", "taylor_softmax_vjp", "log_taylor_softmax_vjp"]
ROWWISE = [*TAYLOR, "fast_softmax"]
GELUS = ["none", "tanh", "sigmoid"]
# Lanes, blocks and their edges.
LENGTHS = [*range(1, 21), 31, 32, 33, 47, 48, 49, 63, 64, 65, 127, 128, 129]
LENGTHS += [1023, 1024, 1025, 1040, 1088, 4095, 4096, 4097, 5000]
COLUMNS = [1, 2, 15, 16, 17, 33]
FEWER = settings(max_examples=max(1, settings.default.max_examples // 2))


@pytest.fixture(params=variants())
def variant(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The public functions, once for each backend and level."""
    with running_on(request.param) as bound:
        monkeypatch.setattr(softmax, "kernels", bound)
        yield request.param


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """How many threads a call may use, until the test ends."""
    before = fastk.config()["threads"]
    yield fastk.set_num_threads
    fastk.set_num_threads(before)


# ---- calls, and what they have to give


def sample(rng: np.random.Generator, shape: Any, name: str, spread: float = 4) -> np.ndarray:
    return (spread * rng.standard_normal(shape)).astype(dtype_of(name))


def operands(name: str, x: np.ndarray) -> tuple[np.ndarray, ...]:
    """What a function takes: x alone, or with a gradient before it."""
    return (sample(np.random.default_rng(x.size), x.shape, x.dtype.name, 1), x) if name.endswith("vjp") else (x,)


def call(name: str, *arrays: Any, order: int = 4, **options: Any) -> Any:
    """A public function; it may raise no floating-point flag, and change nothing but `out`."""
    before, out = [np.asarray(a).tobytes() for a in arrays], options.get("out")
    with np.errstate(all="raise"):
        result = getattr(softmax, name)(*arrays, order, **options)
    assert out is None or result is out
    for array, contents in zip(arrays, before, strict=True):
        assert (out is not None and np.may_share_memory(array, out)) or np.asarray(array).tobytes() == contents
    return result


entropy = functools.partial(call, "taylor_cross_entropy")
entropy_vjp = functools.partial(call, "taylor_cross_entropy_vjp")


def truth(name: str, *arrays: np.ndarray, order: int = 4, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """Exact results for rows of float32 or float64, and how far off they may be."""
    x, kind = arrays[-1], arrays[-1].dtype.name
    eps, tiny, length = LD(np.finfo(kind).eps) / 2, LD(np.finfo(kind).tiny), x.shape[-1]
    units = 2 * order + 80 + (length / 16 if kind == "float64" else 0)
    if name == "fast_softmax":
        p = oracle.fast_softmax(x, order, **options)
        return p, (units + 32 * (2 * order + 2)) * eps * p + tiny
    if name == "taylor_softmax":
        p = oracle.weights(x, order, **options).p
        return p, units * eps * p + tiny
    if name == "log_taylor_softmax":
        w = oracle.weights(x, order, compute="float64", **options)
        value, far = oracle.log_of(w), np.abs(w.t).max(-1, keepdims=True, initial=0)
        bound = (4 if kind == "float64" else 1) * oracle.ulp(np.where(np.isfinite(value), value, 0), kind)
        # Beyond |x| = 50, doubles are as exact as the logarithms that they subtract.
        spare = 4 * order * eps * np.log(np.where(np.isfinite(far), np.maximum(far, 1), 1))
        return value, bound + np.where((far > 50) & (kind == "float64"), spare, 0)
    vjp = oracle.softmax_vjp if name == "taylor_softmax_vjp" else oracle.log_softmax_vjp
    value, size = vjp(*arrays, order, **options)
    # Where p is subnormal, its own error times g.
    lost = tiny * (1 + np.abs(arrays[0].astype(LD)).sum(-1, keepdims=True)) / min(1, options.get("temperature", 1))
    return value, units * eps * size + 4 * lost


def close(got: Any, wanted: np.ndarray, bound: Any) -> None:
    got = np.asarray(got)
    assert got.shape == wanted.shape
    got, bound = got.astype(LD), np.broadcast_to(bound, wanted.shape)
    with np.errstate(invalid="ignore"):
        good = (got == wanted) | (np.isnan(got) & np.isnan(wanted)) | (np.abs(got - wanted) <= bound)
    if not good.all():
        i = np.flatnonzero(~good.ravel())[0]
        values = [a.ravel()[i] for a in (got, wanted, bound)]
        pytest.fail(f"{(~good).sum()} of {got.size} are off, first [{i}]: {values[0]}, not {values[1]} +- {values[2]}")


def check(name: str, *arrays: np.ndarray, **options: Any) -> np.ndarray:
    got = call(name, *arrays, **options)
    assert got.dtype == arrays[-1].dtype
    close(got, *truth(name, *arrays, **options))
    return got


def by_rows(name: str, *arrays: np.ndarray, axis: Any = -1, where: Any = None, **options: Any) -> np.ndarray:
    """The result by way of contiguous rows, in which the reduced axes are in C order."""
    shape, ndim = arrays[-1].shape, arrays[-1].ndim
    axes = range(ndim) if axis is None else sorted(a % ndim for a in np.atleast_1d(np.array(axis, int)))
    places = [a for a in range(ndim) if a not in axes] + list(axes)
    moved = tuple(shape[a] for a in places)
    length = math.prod(shape[a] for a in axes)

    def flat(array: Any) -> np.ndarray:
        array = np.broadcast_to(array, shape).transpose(places).reshape(-1 if length else 0, length)
        return np.array(array, array.dtype.newbyteorder("=") if array.dtype.kind == "f" else None)

    mask = None if where is None else flat(where)
    result = call(name, *map(flat, arrays), where=mask, **options)
    return result.reshape(moved).transpose(np.argsort(places))


# ---- the oracle itself


ANY = [-3e4, -50.0, -12.5, -4.0, -3.9, -2.18, -1.6, -1.0, -0.1, -1e-9, 0.0, 1e-3, 0.7, 2.0, 9.5, 50.0, 1e15]


@pytest.mark.parametrize("order", ORDERS)
def test_oracle_of_f(order):
    for n in (order, order - 1):
        exact = [oracle.taylor(Fraction(v), n) for v in ANY]
        wanted = oracle.extended([mp.mpf(f.numerator) / f.denominator for f in exact])
        close(oracle.bulk_taylor(np.array(ANY), n), wanted, 2e-18 * (np.abs(wanted) + n % 2))
        for v, f in zip(ANY, exact, strict=True):
            assert abs(oracle.taylor(mp.mpf(v), n) - mp.mpf(f.numerator) / f.denominator) <= 1e-40 * abs(f)
    x = np.linspace(0, 100, 41)
    np.testing.assert_allclose(oracle.bulk_taylor(x, order).astype(float), oracle.taylor_by_gamma(x, order), rtol=1e-13)
    least, value = oracle.minimum(order)
    assert abs(value / (least**order / mp.factorial(order)) - 1) < 1e-45
    assert oracle.taylor(least - mp.mpf("1e-9"), order) > value < oracle.taylor(least + mp.mpf("1e-9"), order)


@pytest.mark.parametrize("order", ORDERS)
def test_oracle_of_rows(order):
    """In bulk as in 50 digits, and closed forms of gradients as differences and complex steps."""
    for x in ([-4.0, 0.3, 2.0, 3.5], [50.0, -1.5, 0.1], [0.7], [-50.0, -50.0]):
        x, g = np.array(x), np.linspace(-1, 2, len(x)) ** 3
        p, logs = oracle.extended(oracle.row_softmax(x, order)), oracle.extended(oracle.row_log_softmax(x, order))
        w = oracle.weights(x, order)
        close(w.p, p, 1e-17 * p)
        close(oracle.log_of(w), logs, 1e-17 * np.abs(logs))
        for vjp, form in ((oracle.softmax_vjp, oracle.row_softmax), (oracle.log_softmax_vjp, oracle.row_log_softmax)):
            slopes = oracle.differences(lambda t, g=g, form=form: mp.fdot(g.tolist(), form(t, order)), x)
            value, size = vjp(g, x, order)
            close(value, oracle.extended(slopes), 1e-17 * size)
        steps = [oracle.taylor(x + 1e-30j * (np.arange(len(x)) == j), order) for j in range(len(x))]
        steps = [(g * np.log(f / f.sum())).sum().imag / 1e-30 for f in steps]
        np.testing.assert_allclose(oracle.log_softmax_vjp(g, x, order)[0].astype(float), steps, rtol=1e-9, atol=1e-12)
        entropy = oracle.cross_entropy(x, np.array(0), order, margin=0.4, scale=1.5)
        exact = oracle.row_cross_entropy(x, 0, order, margin=0.4, scale=1.5)
        close(entropy.loss, oracle.extended([exact])[0], 1e-17 * entropy.loss)
        slopes = oracle.differences(lambda t: oracle.row_cross_entropy(t, 0, order, margin=0.4, scale=1.5), x)
        close(entropy.gradient, oracle.extended(slopes), 1e-17 * entropy.size)


def test_oracle_of_fast_softmax():
    x = np.random.default_rng(0).standard_normal((5, 40)) * 5
    np.testing.assert_allclose(oracle.fast_softmax(x, 12).astype(float), special.softmax(x, -1), rtol=1e-9, atol=1e-50)


# ---- facts


FACTS = {
    2: (-1, 0.5, 8.03e-2, 0.359, 0.323, 6.39),
    4: (-1.59607164, 0.270394765, 3.66e-3, 1.94e-2, 5.27e-2, 1.46),
    6: (-2.18060712, 0.149324842, 8.32e-5, 4.79e-4, 4.53e-3, 0.149),
    8: (-2.75900271, 0.0832715202, 1.13e-6, 6.81e-6, 2.37e-4, 8.67e-3),
    10: (-3.33355149, 0.0466991136, 1.01e-8, 6.28e-8, 8.31e-6, 3.24e-4),
}
"""Of each order: place and value of the minimum, and relative errors at +1, -1, +2 and -2."""


@pytest.mark.parametrize("order", ORDERS)
def test_minimum_and_error(order):
    least = softmax.taylor_minimum(order)
    assert least == (least.x, least.value) == pytest.approx([float(v) for v in oracle.minimum(order)], rel=2**-52)
    for a in (0.01, 0.5, 1, 2.0, 10, 50):
        error = softmax.taylor_error(order, a)
        assert error == (error.low, error.high)
        wanted = [float(oracle.taylor(mp.mpf(x), order) / mp.exp(x) - 1) for x in (a, -a)]
        assert error == pytest.approx(wanted, rel=1e-9)
    if order in FACTS:
        x, value, *errors = FACTS[order]
        assert least == pytest.approx((x, value), rel=1e-8)
        one, two = softmax.taylor_error(order, 1), softmax.taylor_error(order, 2)
        assert [-one.low, one.high, -two.low, two.high] == pytest.approx(errors, rel=6e-3)
    with pytest.raises(ValueError, match="-1"):
        softmax.taylor_error(order, -1)
    with pytest.raises(ValueError, match="nan"):
        softmax.taylor_error(order, math.nan)


@pytest.mark.parametrize("order", ORDERS)
def test_error_is_that_of_the_kernel(variant, order):
    for a in (1.0, 2.0):
        x = np.linspace(-a, a, 101)
        ratio = call("taylor_exp", x, order=order) / np.exp(x) - 1
        assert (ratio.min(), ratio.max()) == pytest.approx(softmax.taylor_error(order, a), rel=1e-9, abs=1e-14)


def test_overflow_of_order_10(variant):
    """float32 does not overflow until |x| > 3e4."""
    x = np.array([3e4, -3e4, 3.2e4, -3.2e4, 3.3e4, -3.3e4], np.float32)
    assert np.isfinite(call("taylor_exp", x, order=10)).tolist() == [True] * 4 + [False] * 2
    check("taylor_softmax", x[None], order=10)


def test_powers_overflow_float16(variant):
    """16^4 is no float16, and the results are none the worse."""
    x = np.array([[16, -20, 100, 3], [300, -300, 65504, 0]], np.float16)
    p = call("taylor_softmax", x)
    close(p, oracle.weights(x, 4).p, 2**-11 * oracle.weights(x, 4).p + 2.0**-25)


def test_trap_of_the_shift(variant):
    """N(0, 1) logits, order 4: far from softmax once the row's maximum is subtracted."""
    x = np.random.default_rng(1).standard_normal((200, 500))
    wanted = special.softmax(x, -1)
    plain, shifted = (call("taylor_softmax", v) for v in (x, x - x.max(-1, keepdims=True)))
    assert oracle.total_variation(plain, wanted).mean() == pytest.approx(0.02, abs=0.004)
    assert oracle.total_variation(shifted, wanted).mean() == pytest.approx(0.70, abs=0.04)


def test_trap_of_the_additive_mask(variant):
    x = np.array([[1.0, 2.0, -1e9]])
    assert call("taylor_exp", np.array(-1e9), order=2) == pytest.approx(5e17)
    assert call("taylor_softmax", x, order=2)[0, 2] > 1 - 1e-15
    assert np.isnan(call("taylor_softmax", np.array([1, 2, -np.inf]), order=2)).all()
    # f_2 is 2.5 at 1, and 5 at 2.
    close(call("taylor_softmax", x, order=2, where=x > -1e8), np.array([[LD(1) / 3, LD(2) / 3, 0]]), 1e-15)


@pytest.mark.parametrize("order", ORDERS)
def test_trap_left_of_the_minimum(variant, order):
    """A higher logit has less probability there; clamped, all that is there is alike."""
    least = softmax.taylor_minimum(order).x
    x = np.array([[least - 3, least - 2, least - 1, least, least + 0.5]])
    p = call("taylor_softmax", x, order=order)[0]
    assert p[0] > p[1] > p[2] > p[3] < p[4]
    clamped = check("taylor_softmax", x, order=order, monotone=True)[0]
    assert clamped[0] == clamped[1] == clamped[2] == clamped[3] < clamped[4]


@pytest.mark.parametrize(("order", "figure"), [(2, 1.5e-3), (4, 1.4e-6)])
def test_distance_of_fast_softmax(variant, order, figure):
    x = np.random.default_rng(2).standard_normal((40, 1000))
    p, wanted = call("fast_softmax", x, order=order), special.softmax(x, -1)
    assert oracle.total_variation(p, wanted).mean() == pytest.approx(figure, rel=0.3)


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("order", ORDERS)
def test_bound_of_fast_softmax(variant, order, name):
    """Holds for the worst row there is, and for others; and says little more than that row shows."""
    rng, dtype = np.random.default_rng(3), dtype_of(name)
    for n in (1, 2, 10, 1000, 4096):
        below, worst = oracle.worst_row(order, n)
        level = np.full(n, -below)
        level[n // 2] = 0
        rows = np.stack([level, *(spread * rng.standard_normal(n) for spread in (0.1, 1, 3, 10, 100))]).astype(dtype)
        distance = oracle.total_variation(call("fast_softmax", rows, order=order), special.softmax(rows.astype(LD), -1))
        bound = softmax.fast_softmax_error(order, n, dtype)
        assert distance.max() <= bound
        if name in WIDE:
            assert worst <= bound <= 4 * worst + 2000 * np.finfo(name).eps
    assert softmax.fast_softmax_error(order, 10) == softmax.fast_softmax_error(order, 10, np.float32)


def test_distances_of_gelu(variant):
    x = np.linspace(-6, 6, 12001)
    exact = x * special.ndtr(x)
    for approximate, figure, place in (("tanh", 4.73e-4, 2.70), ("sigmoid", 2.03e-2, 2.27)):
        error = np.abs(softmax.gelu(x, approximate) - exact)
        assert error.max() == pytest.approx(figure, rel=2e-3)
        assert abs(x[error.argmax()]) == pytest.approx(place, abs=0.01)


# ---- accuracy


def elements(name: str, limit: float | None = None) -> st.SearchStrategy[float]:
    """Finite, of all sizes if there is no limit, with more around the minima and near 0."""
    width = np.finfo(name).bits
    minima = [float(dtype_of(name).type(float(oracle.minimum(order)[0]))) for order in ORDERS]
    usual = st.floats(-10, 10, width=width) | st.sampled_from([*minima, 0.0, -0.0, 1.0, -50.0, 50.0])
    if limit is None:
        return usual | st.floats(width=width, allow_nan=False, allow_infinity=False)
    return usual | st.floats(-limit, limit, width=width)


def rows(name: str, limit: float | None = None) -> st.SearchStrategy[np.ndarray]:
    shapes = st.tuples(st.integers(1, 3), st.integers(1, 35))
    return hnp.arrays(dtype_of(name), shapes, elements=elements(name, limit))


@pytest.mark.parametrize("name", ROWWISE)
@given(st.data())
def test_any_finite_rows(variant, name, data):
    options: dict[str, Any] = {"order": data.draw(st.sampled_from(ORDERS))}
    temperature = None
    if name != "fast_softmax":
        options["monotone"] = data.draw(st.booleans())
        temperature = data.draw(st.none() | st.sampled_from([0.5, 0.7, 3, np.float32(0.3)]) | st.floats(1e-3, 1e3))
    if temperature is not None:
        options["temperature"] = temperature
    # x / temperature is to be finite too.
    x = data.draw(st.sampled_from(WIDE).flatmap(lambda kind: rows(kind, None if temperature is None else 1000)))
    if data.draw(st.booleans()):
        options["where"] = data.draw(hnp.arrays(bool, x.shape))
    got = check(name, *operands(name, x), **options)
    assert (got >= 0).all() or name not in ("taylor_softmax", "fast_softmax")


@pytest.mark.parametrize("kind", WIDE)
@given(st.data())
def test_any_exponentials(variant, kind, data):
    order, monotone = data.draw(st.sampled_from(ORDERS)), data.draw(st.booleans())
    x = data.draw(hnp.arrays(kind, st.integers(0, 70), elements=elements(kind)))
    got = call("taylor_exp", x, order=order, monotone=monotone)
    assert got.dtype == x.dtype
    least, info = LD(np.dtype(kind).type(float(oracle.minimum(order)[0]))), np.finfo(kind)
    wanted = oracle.bulk_taylor(np.maximum(x.astype(LD), least) if monotone else x, order)
    bound = (2 * order + 2) * (LD(info.eps) / 2) * wanted
    edge = np.abs(wanted - info.max) <= bound
    close(np.where(edge, 0, got), np.where(edge, 0, np.where(wanted > info.max, LD(np.inf), wanted)), bound)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", WIDE)
def test_exponentials_everywhere(variant, kind, order):
    """A sweep of magnitudes, exact fractions at some of them, and the edge of overflow."""
    info = np.finfo(kind)
    eps, most = LD(info.eps) / 2, LD(info.max)
    top = float((most * math.factorial(order)) ** (LD(1) / order))
    x = np.geomspace(info.smallest_subnormal, min(float(most), 8 * top), 1000).astype(kind)
    x = np.concatenate([x, -x, sample(np.random.default_rng(order), 1000, kind, 5), [0, -0.0, np.inf, -np.inf]])
    x = x.astype(kind)
    with np.errstate(over="ignore"):
        wanted = oracle.bulk_taylor(x, order)
    bound = (2 * order + 2) * eps * wanted
    edge = np.abs(wanted - most) <= (2 * order + 2) * eps * most
    got = call("taylor_exp", x, order=order)
    close(got[~edge], np.where(wanted > most, LD(np.inf), wanted)[~edge], bound[~edge])
    assert (np.isinf(got[:2000]) & (x[:2000] < 0)).any()
    assert np.isnan(call("taylor_exp", np.array([np.nan, 1], kind), order=order)).tolist() == [True, False]
    for v in x[::37][np.isfinite(x[::37])]:
        exact = oracle.taylor(Fraction(float(v)), order)
        if exact < Fraction(float(most)) * (1 - Fraction(1, 10**5)):
            assert abs(Fraction(float(call("taylor_exp", v, order=order))) / exact - 1) <= (2 * order + 2) * float(eps)
    least = softmax.taylor_minimum(order)
    clamped = call("taylor_exp", np.array([-np.inf, -info.max, -100, least.x], kind), order=order, monotone=True)
    assert len(set(clamped.tolist())) == 1
    assert clamped[0] == pytest.approx(least.value, rel=(2 * order + 3) * float(eps))


@functools.cache
def cases_of_lengths(name: str, kind: str) -> list[tuple[Any, ...]]:
    cases, rng = [], np.random.default_rng(5)
    for length, masked in itertools.product(LENGTHS, (False, True)):
        arrays = operands(name, sample(rng, (3, length), kind))
        options = {"order": ORDERS[length % 6], "where": rng.random((3, length)) < 0.8 if masked else None}
        cases.append((arrays, options, *truth(name, *arrays, **options)))
    return cases


@pytest.mark.parametrize("kind", WIDE)
@pytest.mark.parametrize("name", ROWWISE)
def test_lengths(variant, name, kind):
    for arrays, options, wanted, bound in cases_of_lengths(name, kind):
        guarded = np.full(wanted.size + 128, 7, kind)
        out = guarded[64:-64].reshape(wanted.shape)
        call(name, *arrays, out=out, **options)
        close(out, wanted, bound)
        assert (guarded[:64] == 7).all()
        assert (guarded[-64:] == 7).all()


@pytest.mark.parametrize("kind", NARROW)
@pytest.mark.parametrize("name", ROWWISE)
def test_narrow_floats(variant, name, kind):
    """As in float32, or for logarithms in float64, and rounded once."""
    rng = np.random.default_rng(6)
    shapes = [(2, 1), (3, 7), (2, 16), (5, 33), (2, 130), (1, 1025), (3000, 5)]
    for shape, order, spread in itertools.product(shapes, (2, 6, 12), (4, 1e4)):
        arrays = operands(name, sample(rng, shape, kind, spread))
        options: dict[str, Any] = {"order": order, "where": rng.random(shape) < 0.8 if order > 2 else None}
        if name != "fast_softmax":
            options |= {"temperature": 0.7, "monotone": order == 6}
        got = call(name, *arrays, **options)
        wide = [a.astype("float64" if name == "log_taylor_softmax" else "float32") for a in arrays]
        if name == "log_taylor_softmax":
            wanted = call(name, *wide, **options)
            finite = np.isfinite(wanted)
            same(np.isfinite(got), finite)
            same(got[finite], oracle.rounded(wanted[finite], got.dtype))
        elif name == "log_taylor_softmax_vjp":
            value, bound = truth(name, *wide, **options)
            close(got, value, oracle.ulp(value, kind) / 2 + bound)
        else:
            same(got, call(name, *wide, **options).astype(arrays[0].dtype))


@pytest.mark.parametrize("kind", NARROW)
def test_every_narrow_float(variant, kind):
    x = np.arange(1 << 16, dtype=np.uint16).view(dtype_of(kind))
    with np.errstate(all="ignore"):
        wide = x.astype(np.float32)
    functions = [functools.partial(softmax.taylor_exp, order=order, monotone=order == 4) for order in ORDERS]
    functions += [functools.partial(softmax.gelu, approximate=approximate) for approximate in GELUS]
    for function in functions:
        with np.errstate(all="raise"):
            got, wanted = function(x), function(wide)
        with np.errstate(all="ignore"):
            wanted = wanted.astype(x.dtype)
        same(np.isnan(got), np.isnan(wide))
        same(got[~np.isnan(got)], wanted[~np.isnan(got)])


def test_a_long_row(variant):
    """The bound of float32 has no term for the length."""
    rng = np.random.default_rng(7)
    for x in (np.full((1, 1_000_003), 0.3, np.float32), sample(rng, (1, 1_000_003), "float32", 2)):
        for name in ("taylor_softmax", "log_taylor_softmax"):
            check(name, x, order=2)


# ---- logarithms


@functools.cache
def logarithms() -> list[tuple[np.ndarray, int, np.ndarray]]:
    """Rows and their logarithms, from 50 digits."""
    rng, cases = np.random.default_rng(8), []
    for order in ORDERS:
        least = float(oracle.minimum(order)[0])
        made = [rng.uniform(-50, 50, n) for n in (1, 2, 3, 5, 16, 17, 33, 100, 257)]
        # One entry dominates (p near 1, other p tiny), ties, f near its least, all p alike.
        made += [np.where(np.arange(n) == n // 3, 50.0, rng.uniform(-2, 0, n)) for n in (2, 9, 40)]
        made += [np.array([50.0, least]), np.array([-50.0, least, least]), np.full(48, 50.0), np.full(1000, least)]
        made += [np.array([50.0, 50.0]), np.array([-50.0, 50.0, 49.5]), rng.uniform(-0.01, 0.01, 31)]
        made += [np.array([v, least - 0.1, least + 0.1]) for v in (5.0, 10.0, 20.0, 30.0)]
        cases += [(x, order, oracle.extended(oracle.row_log_softmax(x, order))) for x in made]
    return cases


def test_logarithms(variant):
    for x, order, wanted in logarithms():
        close(call("log_taylor_softmax", x, order=order), wanted, 4 * oracle.ulp(wanted, "float64"))
        # A column of several, next to each other.
        columns = call("log_taylor_softmax", np.repeat(x[:, None], 3, 1), order=order, axis=0)
        close(columns[:, 1], wanted, 4 * oracle.ulp(wanted, "float64"))
    for kind in ("float32", *NARROW):
        # float32 may be rounded once more on the way; the others are not.
        units = 1 if kind == "float32" else 0.5001
        for x, order, _ in logarithms()[::3]:
            x = x.astype(dtype_of(kind))[None]
            wanted = oracle.log_of(oracle.weights(x, order, compute="float64"))
            close(call("log_taylor_softmax", x, order=order), wanted, units * oracle.ulp(wanted, kind))


# ---- what follows from the definitions


@pytest.mark.parametrize("kind", WIDE)
@FEWER
@given(st.data())
def test_invariants(variant, kind, data):
    order, x = data.draw(st.sampled_from(ORDERS)), data.draw(rows(kind, 50))
    eps, shuffled = np.finfo(kind).eps / 2, np.random.default_rng(x.size).permutation(x.shape[1])
    units, options = 2 * order + 80, {"order": order, "monotone": data.draw(st.booleans())}
    p, logs = call("taylor_softmax", x, **options), call("log_taylor_softmax", x, **options)
    assert (p > 0).all()
    assert (logs <= 0).all()
    close(p.astype(LD).sum(-1), np.ones(len(x), LD), units * eps)
    np.testing.assert_allclose(call("taylor_softmax", x[:, shuffled], **options), p[:, shuffled], rtol=2 * units * eps)
    # The logarithm is rounded too, by up to an ulp.
    np.testing.assert_allclose(np.exp(logs.astype(LD)).astype(kind), p, rtol=float((units + 80 + 4 * 64) * eps))
    # What is added to all of g alike changes nothing of the softmax's gradient; and each gradient gives the other.
    g, _ = operands("taylor_softmax_vjp", x)
    wanted, bound = truth("taylor_softmax_vjp", g, x, **options)
    close(call("taylor_softmax_vjp", g + g.dtype.type(1), x, **options), wanted, 4 * bound + 4 * units * eps * p)
    _, size = oracle.log_softmax_vjp(g * p, x, **options)
    close(call("log_taylor_softmax_vjp", g * p, x, **options), wanted, bound + 4 * units * eps * size)


@functools.cache
def gradients() -> list[tuple[Any, ...]]:
    """Of both forms: g, x, options, and the gradient by differences in 50 digits."""
    rng, cases = np.random.default_rng(9), []
    for order, (temperature, monotone, masked) in itertools.product(ORDERS, [(1, False, False), (0.7, True, True)]):
        x, g = rng.uniform(-5, 4, 5), rng.standard_normal(5)
        mask = np.array([True, True, False, True, True]) if masked else np.ones(5, bool)
        least = oracle.minimum(order)[0]

        def value(name, v, order=order, g=g, mask=mask, temperature=temperature, floor=least if monotone else None):
            t = [a * mp.mpf(1 / temperature) for a, counts in zip(v, mask, strict=True) if counts]
            t = t if floor is None else [max(a, floor) for a in t]
            form = oracle.row_softmax if name == "taylor_softmax_vjp" else oracle.row_log_softmax
            return mp.fdot(g[mask].tolist(), form(t, order))

        options = {"order": order, "where": mask, "temperature": temperature, "monotone": monotone}
        for name in ("taylor_softmax_vjp", "log_taylor_softmax_vjp"):
            slopes = oracle.differences(functools.partial(value, name), x)
            cases.append((name, g, x, options, oracle.extended(slopes)))
    return cases


def test_gradients_by_differences(variant):
    for name, g, x, options, wanted in gradients():
        close(call(name, g, x, **options), wanted, truth(name, g, x, **options)[1])


def test_gradients_of_torch(variant):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(10)
    for order, axis in itertools.product(ORDERS, (0, 1)):
        x, g = rng.uniform(-5, 4, (6, 7)), rng.standard_normal((6, 7))
        for log in (False, True):
            t = torch.tensor(x, dtype=torch.float64, requires_grad=True)
            p = oracle.taylor(t / 0.8, order)
            p = p / p.sum(axis, keepdim=True)
            (p.log() if log else p).backward(torch.tensor(g))
            name = "log_taylor_softmax_vjp" if log else "taylor_softmax_vjp"
            got = call(name, g, x, order=order, axis=axis, temperature=0.8)
            np.testing.assert_allclose(got, t.grad.numpy(), rtol=1e-9, atol=1e-12)


# ---- huge, tiny and special values


@pytest.mark.parametrize("name", ROWWISE)
@pytest.mark.parametrize("kind", WIDE)
def test_huge_and_tiny(variant, name, kind):
    most, tiny = float(np.finfo(kind).max), float(np.finfo(kind).smallest_subnormal)
    huge = 1e30 if kind == "float32" else 1e300
    cases = [[huge, 1, -huge], [most, most, -most], [huge, huge / 3, 5, 0, -0.0, tiny], [-most], [tiny, -tiny, 0]]
    cases += [[huge] * 33, [most] * 20, [*range(-20, 20), -huge], [1e20, 1e19, -1e18, 5], [huge] + [-3] * 40]
    cases += [[1e10 * (-1) ** i * i for i in range(50)]]
    for row, order in itertools.product(cases, ORDERS):
        arrays = operands(name, np.array([row], kind))
        check(name, *arrays, order=order)
        if name != "fast_softmax":
            check(name, *arrays, order=order, temperature=100.0)
            check(name, *arrays, order=order, monotone=True)
            arrays[-1][...] /= np.dtype(kind).type(1e4)
            check(name, *arrays, order=order, temperature=1e-3)


@pytest.mark.parametrize("name", ROWWISE)
@pytest.mark.parametrize("kind", WIDE)
def test_sweep_of_magnitudes(variant, name, kind):
    """Across where powers, f, sums of f and reciprocals of sums leave the range."""
    info = np.finfo(kind)
    size = np.geomspace(info.smallest_subnormal, info.max / 2, 400)[:, None]
    pattern = np.array([1, -0.5, 1, 0, 0.999, -1, *[0.9] * 14])
    x = (size * pattern).astype(kind)
    for order in ORDERS:
        check(name, *operands(name, x), order=order)
        top = float(info.max) ** (1 / order) * math.factorial(order) ** (1 / order)
        near = (np.linspace(0.3, 1.3, 60)[:, None] * top * pattern).astype(kind)
        check(name, *operands(name, near), order=order)


@pytest.mark.parametrize("kind", WIDE)
def test_quotients_beyond_the_range(variant, kind):
    """x / temperature may be, too: only the highest powers are left, as they are at 2^80."""
    pattern, scalar = np.array([[4, -3, 2, 0.01, 4]], kind), np.dtype(kind).type
    x = pattern * scalar(2.0 ** (np.finfo(kind).maxexp - 4))
    for order in ORDERS:
        options = {"order": order, "temperature": 1e-12}
        for name in ("taylor_softmax", "log_taylor_softmax"):
            close(call(name, x, **options), *truth(name, pattern * scalar(2.0**80), order=order))
        for name in ("taylor_softmax_vjp", "log_taylor_softmax_vjp"):
            assert np.isfinite(call(name, *operands(name, x), **options)).all()


def outlier_rows(name: str, outlier: float, n: int = 70) -> tuple[np.ndarray, np.ndarray]:
    """Rows of which every other one has the outlier, each elsewhere; and the same with 1.5 in its place."""
    clean = sample(np.random.default_rng(11), (2 * n, n), name)
    clean[2 * np.arange(n), np.arange(n)] = 1.5
    x = clean.copy()
    x[2 * np.arange(n), np.arange(n)] = outlier
    return x, clean


@pytest.mark.parametrize("axis", [-1, 0])
@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("name", ROWWISE)
def test_outliers_keep_to_their_rows(variant, name, kind, axis):
    for outlier in (np.nan, np.inf, -np.inf, 3e4 if kind == "float16" else 1e30):
        x, clean = (a if axis else a.T.copy() for a in outlier_rows(kind, outlier))
        g = operands(name, x)[:-1]
        for options in ({"order": 12}, {"order": 2, "monotone": True}):
            if name == "fast_softmax":
                options.pop("monotone", None)
            got, wanted = (call(name, *g, a, axis=axis, **options) for a in (x, clean))
            got, wanted = (a if axis else a.T for a in (got, wanted))
            same(got[1::2], wanted[1::2])
            lowest = outlier == -np.inf and (options.get("monotone") or name == "fast_softmax")
            if np.isfinite(outlier) or lowest:
                assert np.isfinite(got[::2]).all()
            else:
                assert np.isnan(got[::2]).all()
            if lowest and name == "fast_softmax":
                assert (np.diagonal(got[::2]) == 0).all()
                rest = call(name, *g, x, axis=axis, where=np.isfinite(x), **options)
                same(got, rest if axis else rest.T)
            elif lowest:
                least = x.copy()
                least[~np.isfinite(x)] = -3e4
                least = call(name, *g, least, axis=axis, **options)
                same(got, least if axis else least.T)


def test_rows_of_minus_infinity(variant):
    low = np.full((2, 5), -np.inf)
    low[1, 2] = 3
    assert np.isnan(call("fast_softmax", low)[0]).all()
    assert call("fast_softmax", low)[1].tolist() == [0, 0, 1, 0, 0]
    close(call("taylor_softmax", low, monotone=True)[0], np.full(5, LD(0.2)), 1e-14)
    assert (call("taylor_softmax_vjp", np.eye(2, 5), low, monotone=True)[0] == 0).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("name", ["taylor_softmax_vjp", "log_taylor_softmax_vjp"])
def test_gradients_that_are_not_finite(variant, name, kind, value):
    g, x = operands(name, sample(np.random.default_rng(12), (9, 33), kind))
    bad = g.copy()
    bad[4, 20] = value
    got, wanted = call(name, bad, x), call(name, g, x)
    assert not np.isfinite(got[4]).any()
    assert np.isnan(got[4]).all() or not np.isnan(value)
    same(np.delete(got, 4, 0), np.delete(wanted, 4, 0))


@pytest.mark.parametrize("kind", WIDE)
@pytest.mark.parametrize("name", ["taylor_softmax_vjp", "log_taylor_softmax_vjp"])
def test_no_gradient_where_clamped(variant, name, kind):
    for order in ORDERS:
        least = softmax.taylor_minimum(order).x
        x = sample(np.random.default_rng(order), (4, 50), kind)
        got = call(name, *operands(name, x), order=order, temperature=2.0, monotone=True)
        assert ((got == 0) == (x < 2 * least)).all()
        assert (got == 0).any()


# ---- rows, axes and memory


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("name", ROWWISE)
def test_axes(variant, name, kind):
    rng = np.random.default_rng(13)
    x = sample(rng, (3, 17, 2, 33), kind)
    axes = [0, 1, 2, 3, -1, -3, (0,), (0, 2), (1, 3), (3, 1), (0, 2, 3), (-1, -4), np.int64(1), None, ()]
    arrays = operands(name, x)
    for axis, where in itertools.product(axes, (None, rng.random(x.shape) < 0.7)):
        same(call(name, *arrays, axis=axis, where=where), by_rows(name, *arrays, axis=axis, where=where))


@pytest.mark.parametrize("kind", WIDE)
@pytest.mark.parametrize("name", ROWWISE)
def test_columns(variant, name, kind):
    rng = np.random.default_rng(14)
    for length, width in itertools.product((1, 2, 5, 16, 33, 70), (*COLUMNS, 64, 130)):
        for shape in ((length, width), (3, length, width)):
            x = sample(rng, shape, kind)
            x[..., 0, 0] = 1e20  # a row that overflows beside others
            where = rng.random(shape) < 0.8 if length % 2 else None
            got = call(name, *operands(name, x), axis=-2, where=where, order=10)
            same(got, by_rows(name, *operands(name, x), axis=-2, where=where, order=10))


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("name", ROWWISE)
def test_scalars_and_nothing(variant, name, kind):
    dtype = dtype_of(kind)
    arrays = operands(name, np.array(3, dtype))
    row = call(name, *(a[None] for a in arrays))
    for axis in (-1, 0, None, ()):
        got, out = call(name, *arrays, axis=axis), np.array(7, dtype)
        assert type(got) is dtype.type
        same(got, row[0])
        same(call(name, *arrays, axis=axis, out=out), row[0])
        masked = call(name, *arrays, axis=axis, where=False)
        assert float(masked) == (-math.inf if name == "log_taylor_softmax" else 0)
    for shape in ((0,), (3, 0), (0, 3), (2, 0, 4)):
        for axis in (-1, 0, None, (), tuple(range(len(shape)))):
            x = np.empty(shape, dtype)
            got = call(name, *operands(name, x), axis=axis)
            assert (got.shape, got.dtype) == (shape, dtype)


def layouts(array: np.ndarray) -> dict[str, np.ndarray]:
    """Arrays of the same elements, each in memory in another way."""
    spread = np.zeros([2 * n + 1 for n in array.shape], array.dtype)
    spread = spread[tuple(slice(0, 2 * n, 2) for n in array.shape)]
    spread[...] = array
    frozen = array.copy()
    frozen.flags.writeable = False
    back = (slice(None, None, -1),) * array.ndim
    made = {
        "strided": spread,
        "reversed": array[back].copy()[back],
        "transposed": array.T.copy().T,
        "swapped": np.swapaxes(np.swapaxes(array, 0, 1).copy(), 0, 1),
        "read-only": frozen,
        "misaligned": misaligned(array).reshape(array.shape),
    }
    if array.dtype.kind == "f":
        made["byte-swapped"] = array.astype(array.dtype.newbyteorder())
    return made


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("name", ROWWISE)
def test_layouts(variant, name, kind):
    rng = np.random.default_rng(16)
    for shape in ((5, 3, 37), (2, 40, 18)):
        x = sample(rng, shape, kind)
        mask = rng.random(shape) < 0.8
        for axis, where in itertools.product((-1, 1, (0, 2)), (None, mask)):
            wanted = call(name, *operands(name, x), axis=axis, where=where)
            assert wanted.flags.c_contiguous
            views = zip(*(layouts(a).values() for a in operands(name, x)), strict=True)
            for arrays, layout in zip(views, layouts(x), strict=True):
                laid = None if where is None else layouts(where).get(layout, where)
                got = call(name, *arrays, axis=axis, where=laid)
                assert got.flags.c_contiguous
                same(got.astype(x.dtype, copy=False), wanted)
    for shape, axis in itertools.product(((1, 3, 37), (5, 1, 37), (5, 3, 1), (1, 1, 1)), (-1, 1, None)):
        arrays = operands(name, sample(rng, shape, kind))
        repeated = [np.broadcast_to(a, (5, 3, 37)) for a in arrays]
        same(call(name, *repeated, axis=axis), call(name, *(a.copy() for a in repeated), axis=axis))


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("name", ROWWISE)
def test_out(variant, name, kind):
    rng, dtype = np.random.default_rng(17), dtype_of(kind)
    for shape, axis in (((6, 40), -1), ((40, 6), 0), ((7, 7), 1), ((7, 7), 0), ((1, 2100), 1), ((3, 4, 5), (0, 2))):
        x = sample(rng, shape, kind)
        arrays = operands(name, x)
        for where in (None, rng.random(shape) < 0.7):
            options = {"axis": axis, "where": where}
            wanted = call(name, *arrays, **options)
            unaligned = np.zeros(x.nbytes + 1, np.uint8)[1:].view(dtype).reshape(shape)
            for out in (unaligned, *(v for v in layouts(np.full_like(x, 7)).values() if v.flags.writeable)):
                call(name, *arrays, out=out, **options)
                same(out.astype(dtype), wanted)
            # A window in the middle of a larger array.
            frame = np.full([n + 2 for n in shape], 7, dtype)
            inside = (slice(1, -1),) * len(shape)
            call(name, *arrays, out=frame[inside], **options)
            same(frame[inside], wanted)
            frame[inside] = 7
            assert (frame == 7).all()
            # In place, and where x or g is read backwards, transposed or shifted in the same memory.
            for i in range(len(arrays)):
                views = [lambda a: a, lambda a: a[::-1], lambda a: a[..., ::-1]]
                for view in views + [np.transpose] * (shape == (7, 7)):
                    own = [a.copy() for a in arrays]
                    same(call(name, *own, out=view(own[i]), **options), wanted)
                for shift in (-2, 1, 5):
                    memory = np.zeros(x.size + 10, dtype)
                    own = [a.copy() for a in arrays]
                    own[i] = memory[5 : 5 + x.size].reshape(shape)
                    own[i][...] = arrays[i]
                    out = memory[5 + shift : 5 + shift + x.size].reshape(shape)
                    same(call(name, *own, out=out, **options), wanted)


@pytest.mark.parametrize("name", ROWWISE)
def test_out_of_other_dtypes(variant, name):
    arrays = operands(name, sample(np.random.default_rng(18), (5, 33), "float32"))
    wanted = call(name, *arrays)
    for dtype in (np.float64, np.longdouble, np.float16):
        out = np.zeros((5, 33), dtype)
        assert (call(name, *arrays, out=out) == wanted.astype(dtype)).all()


def elementwise() -> dict[str, Callable[..., Any]]:
    functions = {f"gelu {a}": functools.partial(softmax.gelu, approximate=a) for a in GELUS}
    functions["taylor_exp"] = functools.partial(softmax.taylor_exp, order=6)
    return functions | {"monotone": functools.partial(softmax.taylor_exp, order=2, monotone=True)}


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("function", elementwise().values(), ids=elementwise())
def test_memory_of_elementwise_functions(variant, function, kind):
    rng, dtype = np.random.default_rng(19), dtype_of(kind)
    for length in LENGTHS[:-6]:
        x = sample(rng, length, kind)
        one_by_one = np.array([function(v) for v in x], dtype)
        guarded = np.full(length + 64, 7, dtype)
        assert function(x, out=guarded[32:-32]).base is not None
        same(guarded[32:-32], one_by_one)
        assert (guarded[:32] == 7).all()
        assert (guarded[-32:] == 7).all()
        same(function(x), one_by_one)
        memory = np.concatenate([x, x[:1]])
        same(function(memory[:-1], out=memory[1:]), one_by_one)
        same(function(x, out=x), one_by_one)
    x = sample(rng, (5, 3, 37), kind)
    wanted = function(x)
    for view in layouts(x).values():
        before = view.tobytes()
        same(function(view).astype(dtype, copy=False), wanted)
        assert view.tobytes() == before
        if view.flags.writeable:
            assert function(x, out=view) is view
            same(view.astype(dtype), wanted)
    assert (function(x, out=np.zeros(x.shape, np.longdouble)) == wanted.astype(np.longdouble)).all()
    scalar = function(x[0, 0, 0])
    assert type(scalar) is dtype.type
    assert function(np.empty((3, 0), dtype)).shape == (3, 0)


# ---- where


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("name", ROWWISE)
def test_where(variant, name, kind):
    rng = np.random.default_rng(20)
    x = sample(rng, (4, 5, 18), kind)
    arrays = operands(name, x)
    nothing = -np.inf if name == "log_taylor_softmax" else 0
    for shape in ((18,), (5, 1), (4, 1, 1), (1, 5, 18), (1,), (), (4, 5, 18)):
        mask = np.asarray(rng.random(shape) < 0.6)
        for axis in (-1, 1, None):
            full = np.broadcast_to(mask, x.shape)
            got = call(name, *arrays, axis=axis, where=mask)
            same(got, by_rows(name, *arrays, axis=axis, where=full))
            assert (got[~full] == nothing).all()
            same(call(name, *arrays, axis=axis, where=mask.tolist()), got)
            # Whatever is under the mask, of x and of g.
            for hidden in (np.nan, np.inf, -np.inf, 1e30, -1e4):
                with np.errstate(over="ignore"):
                    covered = [np.where(full, a, dtype_of(kind).type(hidden)) for a in arrays]
                same(call(name, *covered, axis=axis, where=mask), got)
    same(call(name, *arrays, where=True), call(name, *arrays))
    none = call(name, *arrays, where=False)
    assert (none == nothing).all()
    rowless = np.arange(4)[:, None, None] != 2
    some = call(name, *(np.where(rowless, a, dtype_of(kind).type(np.nan)) for a in arrays), where=rowless)
    assert (some[2] == nothing).all()
    assert np.isfinite(some[[0, 1, 3]]).all()


def test_nan_beside_the_mask(variant):
    """The unmasked entries of the row are nan, the masked ones what they always are."""
    x, mask = np.array([[1.0, np.nan, 2.0], [1.0, 2.0, 3.0]]), np.array([True, True, False])
    for name in ROWWISE:
        got = call(name, *operands(name, x), where=mask)
        assert np.isnan(got[0, :2]).all()
        assert got[0, 2] == got[1, 2] == (-np.inf if name == "log_taylor_softmax" else 0)
        assert np.isfinite(got[1, :2]).all()


# ---- equal bits


def everything(seed: int) -> list[np.ndarray]:
    """Results of every function on rows of all kinds."""
    results, rng = [], np.random.default_rng(seed)
    for kind, order in itertools.product(FLOATS, ORDERS):
        x = sample(rng, (6, 77), kind, 6)
        x[0] = sample(rng, 77, kind, 1e4 if kind == "float16" else 1e30)
        x[1, 5], x[2, 70], x[3] = np.nan, np.inf, sample(rng, 77, kind, 1e-6)
        mask = rng.random(x.shape) < 0.9
        for name, axis in itertools.product(ROWWISE, (-1, 0, None)):
            results += [call(name, *operands(name, x[3:]), order=order, axis=axis)]
            results += [call(name, *operands(name, x), order=order, axis=axis, where=mask)]
        for name in TAYLOR:
            results += [call(name, *operands(name, x), order=order, temperature=0.37, monotone=True)]
        labels = np.arange(6)
        with np.errstate(all="raise"):
            results += [softmax.taylor_exp(x, order), *(softmax.gelu(x, a) for a in GELUS)]
            results += [softmax.taylor_cross_entropy(x, labels, order, margin=0.3, scale=2.0)]
            results += [softmax.taylor_cross_entropy_vjp(x[:, 9], x, labels, order, margin=0.3, scale=2.0)]
    return results


def test_equal_bits_on_each(monkeypatch):
    first: list[np.ndarray] = []
    for variant in variants():
        with running_on(variant) as bound, monkeypatch.context() as patch:
            patch.setattr(softmax, "kernels", bound)
            results = everything(22)
        first = first or results
        for got, wanted in zip(results, first, strict=True):
            same(got, wanted)


@FEWER
@given(st.data())
def test_equal_bits_of_any_rows_on_each(monkeypatch, data):
    kind, name, order = (data.draw(st.sampled_from(of)) for of in (WIDE, ROWWISE, ORDERS))
    x = data.draw(rows(kind))
    results = []
    for variant in variants():
        with running_on(variant) as bound, monkeypatch.context() as patch:
            patch.setattr(softmax, "kernels", bound)
            results.append(call(name, *operands(name, x), order=order))
    for result in results:
        same(result, results[0], x)


SPLIT = {"rows": ((1100, 1031), -1), "columns": ((1031, 1100), 0), "middle": ((9, 130, 900), 1), "row": ((1, 2**20), 1)}


@pytest.mark.parametrize("how", SPLIT)
@pytest.mark.parametrize("kind", ["float32", "float64", "float16"])
def test_threads(variant, threads, kind, how):
    """Arrays that are worth several threads, and a row that is."""
    shape, axis = SPLIT[how]
    x = sample(np.random.default_rng(23), shape, kind)
    mask = (np.arange(shape[1]) % 7 > 0)[:, None] if len(shape) == 3 else np.arange(shape[1]) % 7 > 0
    arrays = operands("vjp", x)
    functions: list[Callable[[], Any]] = [
        lambda name=name, where=where: call(name, *arrays[-1 - name.endswith("vjp") :], axis=axis, where=where)
        for name, where in [*((name, None) for name in ROWWISE), ("taylor_softmax", mask)]
    ]
    functions += [lambda: softmax.taylor_exp(x / 8, 6), lambda: softmax.gelu(x)]
    if len(shape) == 2:
        labels = np.arange(shape[0]) % shape[1]
        functions += [lambda: softmax.taylor_cross_entropy(x, labels, 4, margin=0.2)]
        functions += [lambda: softmax.taylor_cross_entropy_vjp(x[:, 3], x, labels, 4, scale=1.1)]
    for function in functions:
        threads(1)
        wanted = function()
        assert np.isfinite(wanted).all()
        for count in (2, 3):
            threads(count)
            same(function(), wanted)


def test_callers_threads(variant, threads):
    """Calls from several threads at once, each with rows of its own."""
    threads(2)
    inputs = [sample(np.random.default_rng(i), (50, 700), "float32") for i in range(4)]
    wanted = [[call(name, *operands(name, x)) for name in ROWWISE] for x in inputs]
    got: list[Any] = [None] * 4

    def work(i: int) -> None:
        for _ in range(5):
            got[i] = [getattr(softmax, name)(*operands(name, inputs[i]), 4) for name in ROWWISE]

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for results, others in zip(got, wanted, strict=True):
        for one, other in zip(results, others, strict=True):
            same(one, other)


# ---- cross-entropy


def check_entropy(logits: np.ndarray, labels: np.ndarray, order: int, **options: Any) -> None:
    kind = logits.dtype.name
    g = sample(np.random.default_rng(24), logits.shape[:-1], kind, 1)
    wanted = oracle.cross_entropy(logits, labels, order, **options)
    # In doubles: errors of z, which f has n times, of f and of the sum; beyond 50, of logarithms that are subtracted.
    units, most = (8 * order + 16) * 2.0**-53, np.abs(logits.astype(LD)).max()
    far = 8 * order * 2.0**-53 * np.log(most) if most > 50 else 0
    # And one rounding; that of float32 may have been another one on the way.
    last = {"float64": 0, "float32": 1}.get(kind, 0.5001)
    options = {"order": order} | options
    loss, gradient = entropy(logits, labels, **options), entropy_vjp(g, logits, labels, **options)
    assert np.asarray(loss).dtype == gradient.dtype == logits.dtype
    close(loss, wanted.loss, units * wanted.loss + far + last * oracle.ulp(wanted.loss, kind))
    value, size = (np.asarray(g)[..., None].astype(LD) * a for a in (wanted.gradient, wanted.size))
    close(gradient, value, units * np.abs(size) + last * oracle.ulp(value, kind) + np.finfo(float).tiny)


@pytest.mark.parametrize("kind", FLOATS)
def test_cross_entropy(variant, kind):
    rng = np.random.default_rng(25)
    shapes = [(1,), (7,), (5, 1), (6, 33), (2, 3, 17), (1, 1500), (3, 2)]
    margins = [{}, {"margin": 0.35, "scale": 2.5}, {"margin": -1, "scale": 0.2}]
    for shape, order, options in itertools.product(shapes, ORDERS, margins):
        labels = np.asarray(rng.integers(0, shape[-1], shape[:-1]))
        check_entropy(sample(rng, shape, kind), labels, order, **options)


@pytest.mark.parametrize("kind", WIDE)
@FEWER
@given(st.data())
def test_any_cross_entropy(variant, kind, data):
    logits = data.draw(rows(kind, 50))
    labels = data.draw(hnp.arrays(np.int64, len(logits), elements=st.integers(0, logits.shape[1] - 1)))
    margin, scale = data.draw(st.floats(-5, 5)), data.draw(st.floats(0.125, 1))
    check_entropy(logits, labels, data.draw(st.sampled_from(ORDERS)), margin=margin, scale=scale)


@pytest.mark.parametrize("order", ORDERS)
def test_small_losses(variant, order):
    """The label dominates, ever more: the loss keeps its digits, and so does the label's gradient."""
    for kind in WIDE:
        logits = np.geomspace(5, 1e15, 40)[:, None] * np.array([0, 1, 0, 0]) + np.array([0.3, 0, -1, 0.2])
        check_entropy(logits.astype(kind), np.ones(40, int), order=order)
        check_entropy(-logits.astype(kind), np.ones(40, int), order, margin=0.5)
        # Far below the rounding of 1.
        assert 0 < entropy(np.array([[0, 1e18 ** (2 / order), 0]], kind), [1], order=order)[0] < 1e-20


def test_cross_entropy_is_the_logarithm(variant):
    rng = np.random.default_rng(26)
    for order in ORDERS:
        x, labels = sample(rng, (20, 40), "float64"), rng.integers(0, 40, 20)
        logs = call("log_taylor_softmax", x, order=order)
        at = np.arange(20), labels
        np.testing.assert_allclose(entropy(x, labels, order=order), -logs[at], rtol=(8 * order + 30) * 2.0**-53)
        g, hot = sample(rng, 20, "float64"), np.zeros_like(x)
        hot[at] = -g
        slopes = call("log_taylor_softmax_vjp", hot, x, order=order)
        np.testing.assert_allclose(entropy_vjp(g, x, labels, order=order), slopes, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("kind", NARROW)
def test_narrow_cross_entropy_is_rounded_once(variant, kind):
    rng = np.random.default_rng(27)
    x, labels = sample(rng, (20_000, 3), kind), rng.integers(0, 3, 20_000)
    g = sample(rng, 20_000, kind)
    wide = x.astype(np.float64)
    same(entropy(x, labels, order=6), oracle.rounded(entropy(wide, labels, order=6), x.dtype))
    wanted = entropy_vjp(g.astype(np.float64), wide, labels, order=6)
    same(entropy_vjp(g, x, labels, order=6), oracle.rounded(wanted, x.dtype))


@pytest.mark.parametrize("kind", WIDE)
def test_cross_entropy_of_what_is_not_ordinary(variant, kind):
    x = sample(np.random.default_rng(28), (6, 20), kind)
    clean, labels, g = entropy(x, np.arange(6)), np.arange(6), np.ones(6, kind)
    gradient = entropy_vjp(g, x, labels)
    for value, column in itertools.product((np.nan, np.inf, -np.inf), (2, 9)):
        bad = x.copy()
        bad[2, column] = value
        loss, slopes = entropy(bad, labels), entropy_vjp(g, bad, labels)
        assert np.isnan(loss[2])
        assert np.isnan(slopes[2]).all()
        same(np.delete(loss, 2), np.delete(clean, 2))
        same(np.delete(slopes, 2, 0), np.delete(gradient, 2, 0))
    huge = float(np.finfo(kind).max) / 4
    logits = np.array([[huge, -huge, 1, 0], [1, 2, huge, 3], [huge] * 4], kind)
    for order in ORDERS:
        check_entropy(logits, np.array([0, 2, 1]), order=order)
        assert np.isfinite(entropy(logits, np.array([2, 0, 3]), order=order)).all()
        assert np.isfinite(entropy_vjp(g[:3], logits, np.array([2, 0, 3]), order=order)).all()
    assert entropy(np.empty((0, 5), kind), np.empty(0, int)).shape == (0,)
    assert entropy_vjp(np.empty(0, kind), np.empty((0, 5), kind), np.empty(0, int)).shape == (0, 5)


def test_labels_and_layouts(variant):
    rng = np.random.default_rng(29)
    x, labels = sample(rng, (4, 3, 9), "float32"), rng.integers(0, 9, (4, 3))
    g = sample(rng, (4, 3), "float32")
    loss, slopes = entropy(x, labels, order=6), entropy_vjp(g, x, labels, order=6)
    for dtype in "bBhHiIlLqQ":
        same(entropy(x, labels.astype(dtype), order=6), loss)
        same(entropy_vjp(g, x, labels.astype(dtype), order=6), slopes)
    same(entropy(x, labels.tolist(), order=6), loss)
    big_endian = labels.astype(">i4")
    for a, b, c in zip(*(layouts(v).values() for v in (x, g, labels[..., None])), strict=False):
        for indices in (c[..., 0], big_endian):
            same(entropy(a, indices, order=6), loss)
            same(entropy_vjp(b, a, indices, order=6), slopes)
    same(entropy_vjp(g.astype(np.float64), x, labels, order=6), slopes)
    same(entropy([1, 2, 3], 1), entropy(np.array([1.0, 2.0, 3.0]), 1))
    first = labels * 0 + [[7], [9], [8], [10]]
    bad = [(-1 - labels * 0, -1), (first, 9), (labels * 0 - 2**40, -(2**40)), (np.full((4, 3), 2**64 - 1), 2**64 - 1)]
    for wrong, value in bad:
        with pytest.raises(ValueError, match=rf"(?<!\d){value}(?!\d)"):
            entropy(x, wrong)
        with pytest.raises(ValueError, match=rf"(?<!\d){value}(?!\d)"):
            entropy_vjp(g, x, wrong)
    for wrong in (labels.astype(float), labels > 3, labels.astype("U1"), labels.astype(object)):
        with pytest.raises(TypeError, match="labels"):
            entropy(x, wrong)
    for wrong in (labels[0], labels[..., None], labels.T, 3):
        with pytest.raises(ValueError, match="labels"):
            entropy(x, wrong)
    with pytest.raises(ValueError, match=r"^g\b"):
        entropy_vjp(g[0], x, labels)
    with pytest.raises(TypeError, match=r"^g\b"):
        entropy_vjp(g.astype(complex), x, labels)
    for logits, none in ((np.float64(3), 0), (np.empty((4, 0)), np.zeros(4, int))):
        with pytest.raises(ValueError, match="logits"):
            entropy(logits, none)


@pytest.mark.parametrize("name", ["margin", "scale"])
def test_wrong_margins_and_scales(variant, name):
    x = np.ones((2, 3))
    for function in (functools.partial(entropy, x, [0, 1]), functools.partial(entropy_vjp, np.ones(2), x, [0, 1])):
        for value in (math.nan, math.inf, -math.inf) + (0.0, -1) * (name == "scale"):
            with pytest.raises(ValueError, match=name):
                function(**{name: value})
        for value in ("1", None, 1j, [1.0]):
            with pytest.raises(TypeError, match=name):
                function(**{name: value})


# ---- gelu


@functools.cache
def gelu_points(kind: str, approximate: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(30)
    low, info = (-37 if kind == "float64" else -13), np.finfo(kind)
    small = np.geomspace(info.smallest_subnormal, 5, 60)
    x = np.concatenate([np.linspace(low, 40, 300), rng.standard_normal(300), small, -small, [0, 1e10, info.max]])
    x = x.astype(kind)
    return x, oracle.extended([oracle.gelu(float(v), approximate) for v in x])


@pytest.mark.parametrize("approximate", GELUS)
@pytest.mark.parametrize("kind", WIDE)
def test_gelu(variant, kind, approximate):
    x, wanted = gelu_points(kind, approximate)
    with np.errstate(all="raise"):
        got = softmax.gelu(x, approximate)
        limits = softmax.gelu(np.array([-np.inf, np.inf, -0.0, 0.0, np.nan], kind), approximate)
        low = softmax.gelu(-np.geomspace(14 if kind == "float32" else 38, 1e38, 50).astype(kind), approximate)
    if approximate == "none":
        relative = LD(1e-6 if kind == "float32" else 1e-14)
        close(got, wanted, relative * np.abs(wanted) + np.finfo(kind).smallest_subnormal)
        assert (np.abs(low.astype(LD)) <= (1e-40 if kind == "float32" else 1e-300)).all()
    else:
        close(got, wanted, 4 * oracle.ulp(x, kind))
    assert ((low <= 0) & np.isfinite(low)).all()
    assert limits[:4].tolist() == [0, np.inf, 0, 0]
    assert np.signbit(limits[:4]).tolist() == [True, False, True, False]
    assert np.isnan(limits[4])
    assert got.dtype == x.dtype


# ---- arguments


X = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)
"""For tests of arguments; as g too."""


def takers(*skipped: str) -> list[Callable[..., Any]]:
    """All functions that take x, with g given to those that need it."""
    names = [name for name in (*ROWWISE, "taylor_exp", "gelu") if name not in skipped]
    return [functools.partial(getattr(softmax, n), X) if n.endswith("vjp") else getattr(softmax, n) for n in names]


def refused(error: type[Exception], match: str | None, functions: list[Callable[..., Any]], **options: Any) -> None:
    """By each function, before it writes anything."""
    for function in functions:
        out = np.full(X.shape, 7, np.float32)
        with pytest.raises(error, match=match):
            function(X, **({"out": out} | options))
        assert (out == 7).all()


def test_wrong_orders(variant):
    functions = takers("gelu")
    for order in (3, 5, 11, 1):
        refused(ValueError, "(?i)odd.*negative|negative.*odd" if order > 1 else None, functions, order=order)
    for order in (0, -2, 14, 100):
        refused(ValueError, r"\b2\b.*\b12\b", functions, order=order)
    for order in (2.0, True, "2", None, 4 + 0j):
        refused(TypeError, "order", functions, order=order)
    for function in functions:
        same(function(X, order=np.int8(6)), function(X, order=6))
    others: list[Callable[..., Any]] = [softmax.taylor_minimum, lambda order: softmax.taylor_error(order, 1.0)]
    others += [lambda order: softmax.fast_softmax_error(order, 10), functools.partial(entropy, X, [0, 1, 2])]
    others += [functools.partial(entropy_vjp, X[:, 0], X, [0, 1, 2])]
    for order, error in ((3, ValueError), (14, ValueError), (0, ValueError), (2.0, TypeError), (True, TypeError)):
        for function in others:
            with pytest.raises(error, match="order"):
                function(order=order)
    with pytest.raises(ValueError, match="n="):
        softmax.fast_softmax_error(4, 0)


def test_wrong_axes_and_masks(variant):
    functions = takers("gelu", "taylor_exp")
    for axis in (2, -3, (0, 2), 100):
        refused(np.exceptions.AxisError, None, functions, axis=axis)
    for axis in ((0, 0), (1, -1)):
        refused(ValueError, "axis", functions, axis=axis)
    for axis in (1.0, "0", (0, 1.5)):
        refused(TypeError, None, functions, axis=axis)
    for where in (np.ones(5, bool), np.ones((2, 4), bool), np.ones((2, 3, 4), bool), np.ones((1, 3, 4), bool)):
        refused(ValueError, "where", functions, where=where)
    for where in (1, np.ones((3, 4), int), np.ones(4), "yes", [None]):
        refused(TypeError, "where", functions, where=where)
    with pytest.raises(np.exceptions.AxisError):
        softmax.taylor_softmax(3.0, axis=1)


def test_forms_of_gelu(variant):
    same(softmax.gelu(X), softmax.gelu(X, "none"))
    for wrong in ("fast", "", "Tanh"):
        refused(ValueError, r"approximate=.*none.*tanh.*sigmoid", [softmax.gelu], approximate=wrong)


def test_wrong_temperatures(variant):
    functions = takers("gelu", "taylor_exp", "fast_softmax")
    for temperature in (0, 0.0, -1.0, math.nan, math.inf, -math.inf):
        refused(ValueError, "temperature", functions, temperature=temperature)
    for temperature in ("1", None, 1j, True, [1.0]):
        refused(TypeError, "temperature", functions, temperature=temperature)
    for function in functions:
        same(function(X, temperature=np.float32(2)), function(X, temperature=2))
        same(function(X, temperature=2), function(X / np.float32(2)) / np.float32(2 if "vjp" in repr(function) else 1))


def test_wrong_out(variant):
    for shape in ((4,), (3, 4, 1), (1, 3, 4), (4, 3)):
        refused(ValueError, "out", takers(), out=np.zeros(shape, np.float32))
    frozen = np.zeros((3, 4), np.float32)
    frozen.flags.writeable = False
    refused(ValueError, "out", takers(), out=frozen)
    for dtype in (np.int32, bool, "U5", "M8[s]"):
        refused(TypeError, "out", takers(), out=np.zeros((3, 4), dtype))
    for out in ([0.0] * 12, 3.0, "out", X.tolist()):
        refused(TypeError, "out", takers(), out=out)


WRONG_DTYPES = ["complex64", "complex128", "object", "U3", "S3", "M8[s]", "m8[s]"]
WRONG_DTYPES += ["longdouble"] * (np.dtype("longdouble") != np.dtype("float64"))


def test_dtypes(variant):
    for dtype, name in itertools.product(WRONG_DTYPES, (*ROWWISE, "taylor_exp", "gelu")):
        x = np.zeros((3, 4), dtype)
        with pytest.raises(TypeError):
            getattr(softmax, name)(*(x,) * (1 + name.endswith("vjp")))
    for dtype in WRONG_DTYPES:
        with pytest.raises(TypeError):
            softmax.taylor_cross_entropy(np.zeros((3, 4), dtype), [0, 1, 2])
    whole = np.array([[1, 0, 3], [2, 5, 1]])
    for name in ROWWISE:
        wanted = call(name, *operands(name, whole.astype(float)))
        for dtype in ("int8", "uint8", "int32", "uint64", ">i2"):
            got = call(name, *operands(name, whole.astype(float))[:-1], whole.astype(dtype))
            same(got, wanted)
        truths = getattr(softmax, name)(*operands(name, whole.astype(float))[:-1], whole > 1)
        same(truths, getattr(softmax, name)(*operands(name, whole.astype(float))[:-1], (whole > 1).astype(float)))
        lists = [a.tolist() for a in operands(name, whole.astype(float))]
        same(getattr(softmax, name)(*lists, 4), wanted)
    for function in elementwise().values():
        same(function(whole), function(whole.astype(float)))
        assert type(function(2)) is type(function(1.5)) is np.float64


@pytest.mark.parametrize("name", ["taylor_softmax_vjp", "log_taylor_softmax_vjp"])
def test_gradients_of_other_dtypes_and_shapes(variant, name):
    g, x = operands(name, sample(np.random.default_rng(31), (5, 20), "float32"))
    wanted = call(name, g, x)
    same(call(name, g.astype(np.float64), x), wanted)
    same(call(name, g.astype(">f8"), x), wanted)
    same(call(name, np.rint(g).astype(np.int8), x), call(name, np.rint(g) + np.float32(0), x))
    for wrong in (g.astype(complex), g.astype("U9"), g.astype(object)):
        with pytest.raises(TypeError, match=r"^g\b"):
            getattr(softmax, name)(wrong, x)
    for wrong in (g[0], g[:1], g[:, :1], g[None], g.T, 1.0):
        with pytest.raises(ValueError, match=r"^g\b"):
            getattr(softmax, name)(wrong, x)


SIGNATURES = {
    "taylor_exp": "(x, order=2, *, out=None, monotone=False)",
    "taylor_minimum": "(order)",
    "taylor_error": "(order, a)",
    "taylor_softmax": "(x, order=2, *, axis=-1, where=None, out=None, temperature=1.0, monotone=False)",
    "log_taylor_softmax": "(x, order=2, *, axis=-1, where=None, out=None, temperature=1.0, monotone=False)",
    "taylor_softmax_vjp": "(g, x, order=2, *, axis=-1, where=None, out=None, temperature=1.0, monotone=False)",
    "log_taylor_softmax_vjp": "(g, x, order=2, *, axis=-1, where=None, out=None, temperature=1.0, monotone=False)",
    "taylor_cross_entropy": "(logits, labels, order=2, *, margin=0.0, scale=1.0)",
    "taylor_cross_entropy_vjp": "(g, logits, labels, order=2, *, margin=0.0, scale=1.0)",
    "fast_softmax": "(x, order=4, *, axis=-1, where=None, out=None)",
    "gelu": "(x, approximate='none', *, out=None)",
}


def test_signatures():
    for name, wanted in SIGNATURES.items():
        function = getattr(fastk, name)
        assert function is getattr(softmax, name)
        assert name in dir(fastk)
        parameters = [p.replace(annotation=p.empty) for p in inspect.signature(function).parameters.values()]
        assert str(inspect.Signature(parameters)) == wanted
    assert fastk.softmax is softmax
    assert fastk.fast_softmax_error is softmax.fast_softmax_error
