"""Taylor attention in both forms, against sums over all pairs of tokens in float64 and in fractions.

And Performer attention, against the definition with all weights, and softmax attention where features are many.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import cache
from typing import Any

import features_oracle
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastk import attention
from fastk.attention import TaylorAttentionState, performer_attention, taylor_attention

FORMS = ["direct", "linear"]
HALVES = ["float16", *["bfloat16"] * bool(importlib.util.find_spec("ml_dtypes"))]
UNIT = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float32": 2.0**-24, "float64": 2.0**-53}

# Blocks have 256 queries and 512 keys; runs of features 256 tokens, which are met in steps of 128.
LENGTHS = [1, 2, 3, 127, 128, 129, 255, 256, 257, 385, 511, 512, 513, 770]
WIDTHS = [0, 1, 2, 3, 4, 5, 8, 9, 16, 33]
SCALES = [None, 0.0, 1.0, -0.7]


def dtype_of(name: str) -> np.dtype:
    return np.dtype(pytest.importorskip("ml_dtypes").bfloat16) if name == "bfloat16" else np.dtype(name)


def factor_of(scale: float | None, d: int) -> float:
    return scale if scale is not None else 1 / math.sqrt(d) if d else 1.0


def exact(q: Any, k: Any, v: Any, causal: bool = False, scale: float | None = None) -> np.ndarray:
    """The definition, in float64, with all N x M weights."""
    q, k, v = (np.asarray(x).astype(np.float64) for x in (q, k, v))
    s = factor_of(scale, q.shape[-1]) * np.einsum("...id,...jd->...ij", q, k)
    weights = 1 + s + s**2 / 2
    if causal:
        weights = weights * np.tri(q.shape[-2])
    return np.einsum("...ij,...jc->...ic", weights, v) / weights.sum(-1)[..., None]


def tolerance(q: Any, k: Any, v: Any, form: str, scale: float | None = None, usual: bool = False) -> float:
    """The docstring's bound (or twice what it says of random operands), and the rounding to a narrow type."""
    dtype = attention._common_dtype(*map(np.asarray, (q, k, v)))
    q, k, v = (np.asarray(x).astype(np.float64) for x in (q, k, v))
    m, d = k.shape[-2:]
    b = abs(factor_of(scale, d)) * np.linalg.norm(q, axis=-1).max() * np.linalg.norm(k, axis=-1).max()
    largest = 1 + b + b**2 / 2
    units = 1040 + (2 * d + 4) * b if form == "direct" else (1060 + 6 * d + 2 * d**2) * largest
    if dtype == np.float64:
        units += m / 64
    if usual:
        units = 4 * largest
    narrow = UNIT[dtype.name] if dtype.itemsize == 2 else 0
    return float((units * UNIT["float64" if dtype == np.float64 else "float32"] + narrow) * abs(v).max())


def operands(
    *shapes: tuple[int, ...], dtype: Any = np.float32, seed: int = 0, size: float = 1.0, kind: str = "normal"
) -> list[np.ndarray]:
    """Random operands, or with all entries alike, whose rounding errors add up."""
    rng = np.random.default_rng(seed)
    make = {
        "normal": lambda shape: rng.standard_normal(shape),
        "positive": lambda shape: rng.random(shape),
        "alike": lambda shape: np.full(shape, rng.uniform(0.5, 1)),
    }[kind]
    return [(size * make(shape)).astype(dtype) for shape in shapes]


def token_operands(n: int, d: int, dv: int, **options: Any) -> list[np.ndarray]:
    return operands((n, d), (n, d), (n, dv), **options)


def assert_close(form: str, q: Any, k: Any, v: Any, causal: bool = False, scale: float | None = None) -> None:
    result = taylor_attention(q, k, v, causal=causal, scale=scale, form=form)
    expected = exact(q, k, v, causal, scale)
    assert result.shape == expected.shape
    np.testing.assert_allclose(result.astype(np.float64), expected, rtol=0, atol=tolerance(q, k, v, form, scale))


@given(
    form=st.sampled_from(FORMS),
    n=st.sampled_from(LENGTHS),
    m=st.sampled_from(LENGTHS),
    d=st.sampled_from(WIDTHS),
    dv=st.integers(1, 9),
    causal=st.booleans(),
    scale=st.sampled_from(SCALES),
    size=st.sampled_from([0.01, 0.3, 1.0, 5.0]),
    kind=st.sampled_from(["normal", "positive", "alike"]),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 2**32),
)
def test_each_form_is_within_its_tolerance(
    form: str, n: int, m: int, d: int, dv: int, causal: bool, scale: Any, size: float, kind: str, dtype: Any, seed: int
) -> None:
    m = n if causal else m
    q, k, v = operands((n, d), (m, d), (m, dv), dtype=dtype, seed=seed, size=size, kind=kind)
    assert_close(form, q, k, v, causal, scale)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("n", LENGTHS)
def test_every_edge_of_a_block(form: str, causal: bool, n: int) -> None:
    assert_close(form, *token_operands(n, 6, 3, seed=n), causal)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("d", [1, 2, 7, 32, 64])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_error_with_random_operands(form: str, causal: bool, d: int, dtype: Any) -> None:
    for n in 1, 30, 600:
        q, k, v = token_operands(n, d, 3, dtype=dtype, seed=d)
        result = taylor_attention(q, k, v, causal=causal, form=form)
        atol = tolerance(q, k, v, form, usual=True)
        np.testing.assert_allclose(result, exact(q, k, v, causal), rtol=0, atol=atol)


@given(
    data=st.lists(st.tuples(*[st.integers(-3, 3)] * 5), min_size=1, max_size=5),
    causal=st.booleans(),
    form=st.sampled_from([*FORMS, "auto"]),
)
def test_fractions(data: list[tuple[int, ...]], causal: bool, form: str) -> None:
    table = np.array(data)
    q, k, v = table[:, :2], table[:, 2:4], table[:, 4:]
    result = taylor_attention(q, k, v, causal=causal, scale=0.5, form=form)
    assert result.dtype == np.float64
    for i in range(len(data)):
        seen = range(i + 1 if causal else len(data))
        scores = [Fraction(int(q[i] @ k[j]), 2) for j in seen]
        weights = [1 + s + s * s / 2 for s in scores]
        mean = sum(w * int(v[j, 0]) for w, j in zip(weights, seen, strict=True)) / sum(weights)
        assert result[i, 0] == pytest.approx(float(mean), rel=1e-14, abs=1e-14)


@pytest.mark.parametrize("d", range(12))
@pytest.mark.parametrize("stack", [(), (3,), (2, 2)])
def test_features_multiply_to_twice_the_weight(d: int, stack: tuple[int, ...]) -> None:
    rng = np.random.default_rng(d)
    q, k = (rng.integers(-9, 10, (*stack, d, 7)).astype(np.float64) for _ in range(2))
    features = []
    for x, factor in (q, 2), (k, 1):
        out = np.full((*stack, (d + 1) * (d + 2) // 2, 7), np.nan)
        attention._features(x, factor, out)
        features.append(out)
    scores = np.einsum("...dn,...dm->...nm", q, k)
    products = np.einsum("...fn,...fm->...nm", *features)
    np.testing.assert_array_equal(products, 2 + 2 * scores + scores**2)
    attention._weights(scores)
    np.testing.assert_array_equal(products, scores)


STACKS = [
    ((), (3,), ()),
    ((2, 1), (3,), (1, 3)),
    ((2, 3), (2, 1), (2, 3)),
    ((5,), (5,), (5,)),
    ((1, 4), (3, 1), ()),
    ((2, 1, 2), (1, 3, 1), (2, 1, 2)),
]


@pytest.mark.parametrize("stacks", STACKS)
@pytest.mark.parametrize("n", [1, 9, 130, 260])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("causal", [False, True])
def test_stacks_broadcast(stacks: tuple[tuple[int, ...], ...], n: int, form: str, causal: bool) -> None:
    q, k, v = operands(*((*stack, n, 4) for stack in stacks), seed=n)
    assert_close(form, q, k, v, causal)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("n", "d", "stack"), [(5, 3, (40, 70)), (64, 8, (7, 11)), (20, 40, (30,)), (300, 5, (3, 2))])
def test_problems_that_are_taken_together_do_not_mix(form: str, n: int, d: int, stack: tuple[int, ...]) -> None:
    q, k, v = operands((*stack, n, d), (*stack, n, d), (*stack, n, 2), seed=n)
    result = taylor_attention(q, k, v, causal=True, form=form)
    for index in itertools.islice(np.ndindex(*stack), 0, None, 13):
        alone = taylor_attention(q[index], k[index], v[index], causal=True, form=form)
        atol = 2 * tolerance(q[index], k[index], v[index], form)
        np.testing.assert_allclose(result[index], alone, rtol=0, atol=atol)
    assert_close(form, q, k, v, True)


@given(
    stack=st.lists(st.integers(1, 9), max_size=4).map(tuple),
    most=st.integers(0, 40),
)
def test_batches_cover_a_stack_once(stack: tuple[int, ...], most: int) -> None:
    seen = np.zeros(stack, int)
    for index in attention._batches(stack, most):
        assert seen[index].size <= max(most, 1)
        seen[index] += 1
    assert (seen == 1).all()


def misaligned(x: np.ndarray) -> np.ndarray:
    room = np.empty(x.nbytes + 1, np.uint8)
    view = np.ndarray(x.shape, x.dtype, room.data, 1)
    view[...] = x
    return view


LAYOUTS = {
    "strided": lambda x: np.repeat(np.repeat(x, 2, -1), 3, -2)[..., ::3, ::2],
    "reversed": lambda x: x[..., ::-1, ::-1].copy()[..., ::-1, ::-1],
    "transposed": lambda x: x.swapaxes(-1, -2).copy().swapaxes(-1, -2),
    "stack last": lambda x: np.moveaxis(np.moveaxis(x, 0, -1).copy(), -1, 0),
    "misaligned": misaligned,
    "byte-swapped": lambda x: x.astype(x.dtype.newbyteorder()),
    "list": lambda x: x.astype(np.float64).tolist(),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_give_the_same_bits(form: str, layout: str) -> None:
    arrays = operands((3, 140, 5), (3, 140, 5), (3, 140, 2), dtype=np.float64)
    same = [LAYOUTS[layout](x) for x in arrays]
    copies = [np.array(x) for x in same]
    for x in same:
        if isinstance(x, np.ndarray):
            x.flags.writeable = False
    result = taylor_attention(*same, causal=True, form=form)
    assert result.dtype.isnative
    assert result.flags.c_contiguous
    np.testing.assert_array_equal(result, taylor_attention(*arrays, causal=True, form=form))
    for x, copy in zip(same, copies, strict=True):
        np.testing.assert_array_equal(x, copy)


@pytest.mark.parametrize("name", HALVES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("causal", [False, True])
def test_narrow_types_are_rounded_once(name: str, form: str, causal: bool) -> None:
    arrays = token_operands(300, 8, 3, dtype=dtype_of(name))
    result = taylor_attention(*arrays, causal=causal, form=form)
    wide = taylor_attention(*(x.astype(np.float32) for x in arrays), causal=causal, form=form)
    assert result.dtype == dtype_of(name)
    np.testing.assert_array_equal(result, wide.astype(result.dtype))
    assert_close(form, *arrays, causal)


def test_narrow_types_do_not_overflow() -> None:
    q, k, v = token_operands(40, 4, 2, dtype=np.float16, size=1000.0)
    for form in FORMS:
        assert np.isfinite(taylor_attention(q, k, v, form=form)).all()


DTYPES = ["bool", "uint8", "int64", *HALVES, "float32", "float64"]


@pytest.mark.parametrize("names", [*itertools.product(DTYPES, repeat=3)])
def test_common_dtype(names: tuple[str, ...]) -> None:
    floats = {name if name in UNIT else "float64" for name in names}
    expected = floats.pop() if len(floats) == 1 else "float64" if "float64" in floats else "float32"
    arrays = [np.ones((3, 2), dtype_of(name)) for name in names]
    for form in FORMS:
        result = taylor_attention(*arrays, form=form)
        assert result.dtype.name == expected
        np.testing.assert_array_equal(result.astype(float), 1)


OK = np.ones((3, 2))
BAD = [
    (TypeError, "q: dtype complex128", {"q": OK.astype(complex)}),
    (TypeError, f"k: dtype {np.dtype(np.longdouble)}", {"k": OK.astype(np.longdouble)}),
    (TypeError, "v: dtype object", {"v": OK.astype(object)}),
    (TypeError, "v: dtype <U", {"v": [["a"]]}),
    (TypeError, r"q: dtype datetime64\[s\]", {"q": np.zeros((3, 2), "M8[s]")}),
    (ValueError, r"q: shape \(2,\)", {"q": OK[0]}),
    (ValueError, r"k: shape \(\)", {"k": 1.0}),
    (ValueError, "q, k: shapes .*; 1 components meet 2", {"q": OK[:, :1]}),
    (ValueError, "k, v: shapes .*; 3 keys meet 2 values", {"v": OK[:2]}),
    (ValueError, "q, k: shapes .*causal=True", {"q": OK[:2], "causal": True}),
    (ValueError, "do not broadcast", {"q": np.ones((2, 3, 2)), "k": np.ones((3, 3, 2))}),
    (TypeError, "causal=1: allowed", {"causal": 1}),
    (TypeError, "causal=None: allowed", {"causal": None}),
    (TypeError, "scale='1'", {"scale": "1"}),
    (TypeError, "scale=True", {"scale": True}),
    (TypeError, r"scale=array", {"scale": np.ones(2)}),
    (TypeError, r"scale=1j", {"scale": 1j}),
    (ValueError, "scale=nan: allowed", {"scale": math.nan}),
    (ValueError, "scale=-inf: allowed", {"scale": -math.inf}),
    (ValueError, "scale=1000.*: allowed", {"scale": 10**400}),
    (ValueError, "form='quadratic': allowed are auto, direct, linear", {"form": "quadratic"}),
    (TypeError, "form=None: a string", {"form": None}),
]


@pytest.mark.parametrize(("error", "match", "change"), BAD, ids=[match for _, match, _ in BAD])
def test_errors_name_what_is_wrong(error: type[Exception], match: str, change: dict[str, Any]) -> None:
    with pytest.raises(error, match=match):
        taylor_attention(**{"q": OK, "k": OK, "v": OK, **change})


@pytest.mark.parametrize("scale", [2, np.float32(2), Fraction(2), np.int8(2)])
def test_a_scale_is_any_real_number(scale: Any) -> None:
    q, k, v = token_operands(5, 2, 2, dtype=np.float64)
    np.testing.assert_array_equal(taylor_attention(q, k, v, scale=scale), taylor_attention(q, k, v, scale=2.0))


@pytest.mark.parametrize("form", [*FORMS, "auto"])
def test_nothing_to_attend_to(form: str) -> None:
    def shaped(n: int, m: int, d: int, dv: int, stack: tuple[int, ...] = (), **options: Any) -> np.ndarray:
        return taylor_attention(*operands((n, d), (*stack, m, d), (m, dv)), form=form, **options)

    assert shaped(0, 4, 3, 2).shape == (0, 2)
    assert shaped(0, 0, 3, 2, causal=True).shape == (0, 2)
    assert shaped(4, 4, 3, 0).shape == (4, 0)
    assert shaped(4, 4, 3, 2, (0,)).shape == (0, 4, 2)
    np.testing.assert_array_equal(shaped(4, 0, 3, 2), np.zeros((4, 2)))
    v = np.arange(8.0).reshape(4, 2)
    q, k = np.ones((3, 0)), np.ones((4, 0))
    np.testing.assert_array_equal(taylor_attention(q, k, v, form=form), np.broadcast_to(v.mean(0), (3, 2)))
    running = np.cumsum(v, axis=0) / np.arange(1, 5)[:, None]
    np.testing.assert_allclose(taylor_attention(k, k, v, causal=True, form=form), running, rtol=1e-15)


SPOILERS = [1e30, -5.0, math.nan, math.inf, -math.inf]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("at", [1, 100, 128, 255, 256, 500, 599])
@pytest.mark.parametrize("spoiler", SPOILERS)
def test_later_tokens_leave_no_trace(form: str, at: int, spoiler: float) -> None:
    q, k, v = token_operands(600, 5, 3)
    before = taylor_attention(q, k, v, causal=True, form=form)
    for which in range(3):
        changed = [q.copy(), k.copy(), v.copy()]
        changed[which][at:, 1:] = spoiler
        with np.errstate(all="raise"):
            after = taylor_attention(*changed, causal=True, form=form)
        np.testing.assert_array_equal(after[:at], before[:at])
        assert not np.array_equal(after[at], before[at])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("at", [0, 100, 300, 599])
def test_what_is_not_finite_spoils_what_depends_on_it(form: str, causal: bool, at: int) -> None:
    q, k, v = token_operands(600, 4, 3)
    before = taylor_attention(q, k, v, causal=causal, form=form)
    depend = np.arange(600) >= at if causal else np.ones(600, bool)
    for bad in math.nan, math.inf, -math.inf:
        spoilt = k.copy()
        spoilt[at, 2] = bad
        result = taylor_attention(q, spoilt, v, causal=causal, form=form)
        assert np.isnan(result[depend]).all()
        assert np.isfinite(result[~depend]).all()
        spoilt = v.copy()
        spoilt[at, 1] = bad
        result = taylor_attention(q, k, spoilt, causal=causal, form=form)
        assert not np.isfinite(result[depend, 1]).any()
        np.testing.assert_array_equal(result[:, ::2], before[:, ::2])
        spoilt = q.copy()
        spoilt[at, 0] = bad
        result = taylor_attention(spoilt, k, v, causal=causal, form=form)
        assert np.isnan(result[at]).all()
        np.testing.assert_array_equal(np.delete(result, at, 0), np.delete(before, at, 0))


def test_values_of_inf_add_up_as_numbers_do() -> None:
    q, k, v = token_operands(6, 2, 3)
    v[2, 0], v[3, 0], v[4, 1] = math.inf, -math.inf, -math.inf
    result = taylor_attention(q, k, v, causal=True, form="direct")
    np.testing.assert_array_equal(result[2:4, 0], [math.inf, math.nan])
    np.testing.assert_array_equal(result[4:, 1], [-math.inf, -math.inf])
    assert np.isfinite(result[:2]).all()
    assert np.isfinite(result[:, 2]).all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("d", [1, 16])
def test_weights_sum_to_one(form: str, causal: bool, d: int) -> None:
    q, k, v = token_operands(700, d, 2)
    v[...] = 1
    np.testing.assert_allclose(
        taylor_attention(q, k, v, causal=causal, form=form), v, rtol=0, atol=tolerance(q, k, v, form)
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["normal", "positive"])
def test_the_error_does_not_grow_with_the_keys(form: str, kind: str) -> None:
    q, k, v = operands((3, 4), (512, 4), (512, 2), kind=kind)
    once = taylor_attention(q, k, v, form=form)
    often = taylor_attention(q, np.tile(k, (600, 1)), np.tile(v, (600, 1)), form=form)
    np.testing.assert_allclose(often, once, rtol=0, atol=tolerance(q, k, v, form, usual=True))


def test_causal_sums_do_not_drift() -> None:
    q, k, v = token_operands(512, 3, 2, kind="positive")
    q, k, v = (np.tile(x, (150, 1)) for x in (q, k, v))
    result = taylor_attention(q, k, v, causal=True, form="linear")
    expected = taylor_attention(q[-1:], k, v, form="direct")
    np.testing.assert_allclose(result[-1:], expected, rtol=0, atol=tolerance(q, k, v, "linear", usual=True))


def peak(stack: int, n: int, d: int, causal: bool, form: str, dtype: str = "float32") -> int:
    """Memory that a call takes beside its result."""
    q, k, v = operands((stack, n, d), (stack, n, d), (stack, n, 4), dtype=dtype_of(dtype))
    tracemalloc.start()
    try:
        result = taylor_attention(q, k, v, causal=causal, form=form)
        return tracemalloc.get_traced_memory()[1] - result.nbytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("form", "n"), [("direct", 1500), ("linear", 4000)])
def test_memory_does_not_grow_with_the_tokens(form: str, n: int, causal: bool, dtype: str) -> None:
    small, large = (peak(1, length, 12, causal, form, dtype) for length in (n, 4 * n))
    blocks = 4 * 4 * (1 << 17) if form == "direct" else 4 * 91 * (256 + 4 * 5) + (1 << 19)
    assert small < blocks
    assert large < 1.05 * small + 4096


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_memory_does_not_grow_with_the_stack(form: str, causal: bool) -> None:
    small, large = (peak(stack, 48, 6, causal, form) for stack in (300, 1200))
    assert small < 4 * 4 * (1 << 17)
    assert large < 1.05 * small + 4096


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("d", [16, 32, 64])
def test_auto_takes_one_form_below_the_crossover_and_the_other_above(
    monkeypatch: pytest.MonkeyPatch, causal: bool, d: int
) -> None:
    taken = []
    for form in FORMS:
        monkeypatch.setattr(attention, f"_{form}", lambda *_, form=form: taken.append(form))
    lengths = range(16, 3 * d * d, max(1, d * d // 50))
    for n in lengths:
        taylor_attention(*np.zeros((3, n, d)), causal=causal)
    turn = taken.index("linear")
    assert turn > 0
    assert taken == ["direct"] * turn + ["linear"] * (len(taken) - turn)
    assert (0.9 if causal else 0.4) * d * d < lengths[turn] < (2.5 if causal else 1.2) * d * d


def test_auto_minds_the_keys() -> None:
    assert attention._cheaper(1, 100_000, 32, 32, False) == "direct"
    assert attention._cheaper(100_000, 1, 32, 32, False) == "direct"
    assert attention._cheaper(100_000, 100_000, 32, 32, False) == "linear"


def test_auto_gives_the_bits_of_the_form_it_takes() -> None:
    for n, form in (60, "direct"), (900, "linear"):
        q, k, v = token_operands(n, 8, 8)
        np.testing.assert_array_equal(taylor_attention(q, k, v), taylor_attention(q, k, v, form=form))


@given(
    cuts=st.lists(st.integers(0, 60), min_size=1, max_size=6),
    d=st.integers(0, 6),
    dv=st.integers(0, 3),
    stack=st.sampled_from([(), (2,), (2, 3)]),
    scale=st.sampled_from(SCALES),
    dtype=st.sampled_from(["float16", "float32", "float64"]),
)
def test_a_state_goes_on_where_it_was(
    cuts: list[int], d: int, dv: int, stack: tuple[int, ...], scale: Any, dtype: str
) -> None:
    n = sum(cuts)
    q, k, v = operands((*stack, n, d), (*stack, n, d), (*stack, n, dv), dtype=dtype, seed=n)
    state, first = TaylorAttentionState(d, dv, stack=stack, scale=scale, dtype=dtype), 0
    for length in cuts:
        part = slice(first, first + length)
        state.update(k[..., part, :], v[..., part, :])
        first += length
        assert state.tokens == first
        result = state.attend(q)
        assert result.dtype == dtype
        assert result.shape == (*q.shape[:-1], dv)
        if first and result.size:
            seen = k[..., :first, :], v[..., :first, :]
            atol = tolerance(q, *seen, "linear", scale)
            np.testing.assert_allclose(result.astype(float), exact(q, *seen, scale=scale), rtol=0, atol=atol)


def test_a_state_token_by_token_is_causal_attention() -> None:
    q, k, v = operands((2, 40, 5), (2, 40, 5), (2, 40, 3))
    state = TaylorAttentionState(5, 3, stack=(2,))
    np.testing.assert_array_equal(state.attend(q), np.zeros((2, 40, 3)))
    rows = []
    for i in range(40):
        state.update(k[:, i : i + 1], v[:, i : i + 1])
        rows.append(state.attend(q[:, i : i + 1]))
    expected = taylor_attention(q, k, v, causal=True)
    np.testing.assert_allclose(np.concatenate(rows, 1), expected, rtol=0, atol=2 * tolerance(q, k, v, "linear"))


STATE_ERRORS = [
    (TypeError, "d=1.5", lambda: TaylorAttentionState(1.5, 2)),
    (ValueError, "dv=-1", lambda: TaylorAttentionState(1, -1)),
    (TypeError, "stack=3", lambda: TaylorAttentionState(1, 2, stack=3)),
    (TypeError, "stack='a'", lambda: TaylorAttentionState(1, 2, stack=["a"])),
    (ValueError, "stack=-2", lambda: TaylorAttentionState(1, 2, stack=(-2,))),
    (ValueError, "scale=inf", lambda: TaylorAttentionState(1, 2, scale=math.inf)),
    (TypeError, "dtype='int8': allowed are float16", lambda: TaylorAttentionState(1, 2, dtype="int8")),
    (ValueError, r"k: shape \(3, 1\); allowed is \(n, 2\)", lambda: TaylorAttentionState(2, 2).update(OK[:, :1], OK)),
    (ValueError, "k, v: .*3 keys meet 2", lambda: TaylorAttentionState(2, 2).update(OK, OK[:2])),
    (ValueError, r"q: .*allowed is \(4, n, 2\)", lambda: TaylorAttentionState(2, 2, stack=(4,)).attend(OK)),
    (TypeError, "v: dtype complex64", lambda: TaylorAttentionState(2, 2).update(OK, OK.astype("complex64"))),
]


@pytest.mark.parametrize(("error", "match", "call"), STATE_ERRORS, ids=[match for _, match, _ in STATE_ERRORS])
def test_errors_of_a_state(error: type[Exception], match: str, call: Any) -> None:
    with pytest.raises(error, match=match):
        call()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("causal", [False, True])
def test_small_scores_are_softmax_attention(form: str, causal: bool) -> None:
    """Where the cubic term is nothing, torch's attention is the same function: default scale, stacks, causality."""
    torch = pytest.importorskip("torch")
    q, k, v = operands((2, 3, 130, 8), (2, 3, 130, 8), (2, 3, 130, 5), dtype=np.float64)
    q *= 1e-3
    expected = torch.nn.functional.scaled_dot_product_attention(*map(torch.from_numpy, (q, k, v)), is_causal=causal)
    np.testing.assert_allclose(taylor_attention(q, k, v, causal=causal, form=form), expected.numpy(), rtol=0, atol=1e-7)


# ---- Performer


@contextmanager
def form_of_performer(form: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "_performer_cheaper", lambda *_: form)
        yield


@cache
def directions(n_features: int, d: int, seed: int = 0) -> np.ndarray:
    return features_oracle.directions(n_features, d, seed)


def performer_tolerance(q: Any, k: Any, v: Any, n_features: int, seed: int = 0) -> float:
    """The docstring's bound, with what the exact directions are not, and the rounding to a narrow type."""
    dtype = attention._common_dtype(*map(np.asarray, (q, k, v)))
    q, k, v = (np.asarray(x).astype(np.float64) for x in (q, k, v))
    m, d = k.shape[-2:]
    w = np.linalg.norm(directions(n_features, d, seed), axis=1).max()
    sizes = [np.linalg.norm(x, axis=-1).max() / max(d, 1) ** 0.25 for x in (q, k)]
    b = w * sum(sizes) + sizes[1] ** 2
    units = (d + 8) * b + n_features + 1100 + (m / 16 + 100 * b) * (dtype == np.float64)
    narrow = UNIT[dtype.name] if dtype.itemsize == 2 else 0
    return float((2 * units * UNIT["float64" if dtype == np.float64 else "float32"] + narrow) * abs(v).max())


def assert_performs(q: Any, k: Any, v: Any, n_features: int = 10, causal: bool = False, seed: int = 0) -> None:
    result = performer_attention(q, k, v, n_features=n_features, causal=causal, seed=seed)
    expected = features_oracle.attention(q, k, v, directions(n_features, np.shape(q)[-1], seed), causal)
    assert result.shape == expected.shape
    atol = performer_tolerance(q, k, v, n_features, seed)
    np.testing.assert_allclose(result.astype(np.float64), expected, rtol=0, atol=atol)


@given(
    form=st.sampled_from([*FORMS, "causal"]),
    n=st.sampled_from([1, 2, 3, 31, 63, 64, 65, 130]),
    m=st.sampled_from([1, 2, 5, 64, 200]),
    d=st.sampled_from(WIDTHS),
    dv=st.integers(1, 9),
    n_features=st.integers(1, 20),
    size=st.sampled_from([0.01, 0.5, 2.0, 10.0]),
    kind=st.sampled_from(["normal", "positive", "alike"]),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 3),
)
def test_performer_is_within_its_tolerance(
    form: str, n: int, m: int, d: int, dv: int, n_features: int, size: float, kind: str, dtype: Any, seed: int
) -> None:
    m = n if form == "causal" else m
    q, k, v = operands((n, d), (m, d), (m, dv), dtype=dtype, seed=seed, size=size, kind=kind)
    with form_of_performer(form):
        assert_performs(q, k, v, n_features, form == "causal", seed)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 9, 16, 33, 48, 63, 64, 65, 66, 96, 127, 128, 129, 191, 193])
def test_performer_at_every_edge_of_a_triangle(n: int) -> None:
    assert_performs(*token_operands(n, 4, 3, seed=n, dtype=np.float64), 6, causal=True)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("n", "m"), [(1, 511), (1, 512), (1, 513), (255, 3), (256, 3), (257, 3), (3, 1030), (300, 700)]
)
def test_performer_at_every_edge_of_a_block(form: str, n: int, m: int) -> None:
    with form_of_performer(form):
        assert_performs(*operands((n, 4), (m, 4), (m, 3), seed=n, dtype=np.float64), 6)


@pytest.mark.parametrize("n", [1, 5, 64, 70, 200])
def test_causal_performer_is_that_of_the_prefix(n: int) -> None:
    q, k, v = token_operands(200, 8, 3, dtype=np.float64)
    causal = performer_attention(q, k, v, n_features=32, causal=True)
    for form in FORMS:
        with form_of_performer(form):
            prefix = performer_attention(q[n - 1 : n], k[:n], v[:n], n_features=32)
        np.testing.assert_allclose(causal[n - 1 : n], prefix, rtol=0, atol=1e-13)


def softmax_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, causal: bool = False) -> np.ndarray:
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])
    if causal:
        scores = np.where(np.tri(q.shape[-2], dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True) @ v


@pytest.mark.parametrize("causal", [False, True])
def test_performer_comes_near_softmax_attention(causal: bool) -> None:
    """As the square root of the number of features."""
    q, k, v = operands((4, 80, 8), (4, 80, 8), (4, 80, 4), dtype=np.float64, size=0.4)
    v /= 0.4
    expected = softmax_attention(q, k, v, causal)

    def error(n_features: int) -> float:
        results = [performer_attention(q, k, v, n_features=n_features, causal=causal, seed=seed) for seed in range(8)]
        return float(np.sqrt(np.mean((np.array(results) - expected) ** 2)))

    few, more, many = error(16), error(256), error(4096)
    assert 3.2 < few / more < 5
    assert 3.2 < more / many < 5
    assert many < 0.01 < few < 0.5


@pytest.mark.parametrize("causal", [False, True])
def test_performer_with_many_features_is_the_attention_of_torch(causal: bool) -> None:
    torch = pytest.importorskip("torch")
    q, k, v = operands((2, 3, 70, 8), (2, 3, 70, 8), (2, 3, 70, 5), dtype=np.float64, size=0.5)
    expected = torch.nn.functional.scaled_dot_product_attention(*map(torch.from_numpy, (q, k, v)), is_causal=causal)
    result = performer_attention(q, k, v, n_features=20_000, causal=causal)
    np.testing.assert_allclose(result, expected.numpy(), rtol=0, atol=0.02)


@pytest.mark.parametrize("form", [*FORMS, "causal"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1e-30, 30.0, 1e3, 1e6, 1e12])
def test_performer_is_finite_where_operands_are(form: str, dtype: Any, size: float) -> None:
    """Weights whose own exponentials are beyond any float, and queries that are opposite to all keys."""
    q, k, v = token_operands(140, 6, 2, dtype=dtype)
    for queries, keys in (q, k), (q, -q), (np.abs(q), -np.abs(k)):
        with form_of_performer(form), np.errstate(all="raise"):
            result = performer_attention(
                (size * queries).astype(dtype), (size * keys).astype(dtype), v, n_features=16, causal=form == "causal"
            )
        assert np.isfinite(result).all()
        assert (np.abs(result) <= np.abs(v).max() * (1 + 1e-4)).all()


@pytest.mark.parametrize("form", FORMS)
def test_performer_of_opposite_queries_and_keys(form: str) -> None:
    """Features of the query are largest where those of the keys vanish: e^(-200) in each product."""
    q, k, v = token_operands(40, 4, 3, dtype=np.float64)
    q, k = q[:1] * 40, -q[:1] * 40 + 0.01 * k
    with form_of_performer(form):
        assert_performs(q, k, v, 12)
        narrow = performer_attention(*(x.astype(np.float32) for x in (q, k, v)), n_features=12)
    expected = features_oracle.attention(q, k, v, directions(12, 4))
    np.testing.assert_allclose(narrow, expected, rtol=0, atol=2e-3)


def test_a_later_key_of_large_weight_does_not_make_earlier_ones_vanish() -> None:
    q, k, v = token_operands(130, 4, 2)
    k = k * np.where(np.arange(130) % 3 == 2, 0.1, 40)[:, None].astype(np.float32)
    k[:100] *= 3
    assert_performs(q, k, v, 8, causal=True)


@pytest.mark.parametrize("at", [1, 2, 31, 63, 64, 100, 139])
@pytest.mark.parametrize("spoiler", [*SPOILERS, 0.0, 1e3])
def test_later_tokens_leave_no_trace_in_performer(at: int, spoiler: float) -> None:
    q, k, v = token_operands(140, 5, 3)
    before = performer_attention(q, k, v, n_features=24, causal=True)
    for which in range(3):
        changed = [q.copy(), k.copy(), v.copy()]
        changed[which][at:, 1:] = spoiler
        with np.errstate(all="raise"):
            after = performer_attention(*changed, n_features=24, causal=True)
        np.testing.assert_array_equal(after[:at], before[:at])
        assert not np.array_equal(after[at], before[at])


@pytest.mark.parametrize("form", [*FORMS, "causal"])
@pytest.mark.parametrize("at", [0, 63, 64, 139])
def test_what_is_not_finite_spoils_what_depends_on_it_in_performer(form: str, at: int) -> None:
    q, k, v = token_operands(140, 4, 3)
    depend = np.arange(140) >= at if form == "causal" else np.ones(140, bool)

    def attend(*arrays: np.ndarray, n_features: int = 9) -> np.ndarray:
        with form_of_performer(form):
            return performer_attention(*arrays, n_features=n_features, causal=form == "causal")

    before = attend(q, k, v)
    for bad in math.nan, math.inf, -math.inf, 1e30:
        for n_features in 1, 9:
            spoilt = k.copy()
            spoilt[at, 2] = bad
            result = attend(q, spoilt, v, n_features=n_features)
            assert np.isnan(result[depend]).all()
            assert np.isfinite(result[~depend]).all()
        if bad == 1e30:
            continue
        spoilt = v.copy()
        spoilt[at, 1] = bad
        result = attend(q, k, spoilt)
        assert not np.isfinite(result[depend, 1]).any()
        np.testing.assert_array_equal(result[:, ::2], before[:, ::2])
        np.testing.assert_array_equal(result[~depend], before[~depend])
        spoilt = q.copy()
        spoilt[at, 0] = bad
        result = attend(spoilt, k, v)
        assert np.isnan(result[at]).all()
        np.testing.assert_array_equal(np.delete(result, at, 0), np.delete(before, at, 0))


@pytest.mark.parametrize("stacks", STACKS)
@pytest.mark.parametrize("n", [1, 9, 70])
@pytest.mark.parametrize("form", [*FORMS, "causal"])
def test_stacks_broadcast_in_performer(stacks: tuple[tuple[int, ...], ...], n: int, form: str) -> None:
    q, k, v = operands(*((*stack, n, 4) for stack in stacks), seed=n)
    result_stack = np.broadcast_shapes(*stacks)
    with form_of_performer(form):
        result = performer_attention(q, k, v, n_features=6, causal=form == "causal")
    wide = [np.broadcast_to(x, (*result_stack, *x.shape[-2:])) for x in (q, k, v)]
    assert result.shape == wide[2].shape
    for index in np.ndindex(*result_stack):
        each = [x[index] for x in wide]
        expected = features_oracle.attention(*each, directions(6, 4), form == "causal")
        np.testing.assert_allclose(result[index], expected, rtol=0, atol=performer_tolerance(*each, 6))


@pytest.mark.parametrize(("n", "d", "stack"), [(5, 3, (40, 70)), (64, 8, (7, 11)), (130, 5, (30, 2))])
def test_problems_that_performer_takes_together_do_not_mix(n: int, d: int, stack: tuple[int, ...]) -> None:
    q, k, v = operands((*stack, n, d), (*stack, n, d), (*stack, n, 2), seed=n)
    for causal in False, True:
        result = performer_attention(q, k, v, n_features=12, causal=causal)
        for index in itertools.islice(np.ndindex(*stack), 0, None, 13):
            alone = performer_attention(q[index], k[index], v[index], n_features=12, causal=causal)
            atol = 2 * performer_tolerance(q[index], k[index], v[index], 12)
            np.testing.assert_allclose(result[index], alone, rtol=0, atol=atol)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_give_the_same_bits_in_performer(causal: bool, layout: str) -> None:
    arrays = operands((3, 140, 5), (3, 140, 5), (3, 140, 2), dtype=np.float64)
    same = [LAYOUTS[layout](x) for x in arrays]
    copies = [np.array(x) for x in same]
    for x in same:
        if isinstance(x, np.ndarray):
            x.flags.writeable = False
    result = performer_attention(*same, n_features=20, causal=causal)
    assert result.dtype.isnative
    assert result.flags.c_contiguous
    np.testing.assert_array_equal(result, performer_attention(*arrays, n_features=20, causal=causal))
    for x, copy in zip(same, copies, strict=True):
        np.testing.assert_array_equal(x, copy)


@pytest.mark.parametrize("name", HALVES)
@pytest.mark.parametrize("form", [*FORMS, "causal"])
def test_performer_rounds_narrow_types_once(name: str, form: str) -> None:
    arrays = token_operands(140, 8, 3, dtype=dtype_of(name))
    with form_of_performer(form):
        result = performer_attention(*arrays, n_features=16, causal=form == "causal")
        wide = performer_attention(*(x.astype(np.float32) for x in arrays), n_features=16, causal=form == "causal")
        assert result.dtype == dtype_of(name)
        np.testing.assert_array_equal(result, wide.astype(result.dtype))
        assert_performs(*arrays, 16, form == "causal")


@pytest.mark.parametrize("names", [*itertools.combinations_with_replacement(DTYPES, 3)])
def test_common_dtype_of_performer(names: tuple[str, ...]) -> None:
    arrays = [np.ones((3, 2), dtype_of(name)) for name in names]
    result = performer_attention(*arrays, n_features=5)
    assert result.dtype == taylor_attention(*arrays).dtype
    np.testing.assert_allclose(result.astype(float), 1, rtol=1e-6)


@pytest.mark.parametrize("form", [*FORMS, "causal"])
def test_nothing_to_attend_to_in_performer(form: str) -> None:
    causal = form == "causal"

    def shaped(n: int, m: int, d: int, dv: int, stack: tuple[int, ...] = ()) -> np.ndarray:
        arrays = operands((n, d), (*stack, m, d), (m, dv))
        return performer_attention(*arrays, n_features=3, causal=causal)

    with form_of_performer(form):
        assert shaped(0, 0, 3, 2).shape == (0, 2)
        assert shaped(4, 4, 3, 0).shape == (4, 0)
        assert shaped(4, 4, 3, 2, (0,)).shape == (0, 4, 2)
        v = np.arange(8.0).reshape(4, 2)
        k = np.ones((4, 0))
        expected = np.cumsum(v, axis=0) / np.arange(1, 5)[:, None] if causal else np.broadcast_to(v.mean(0), (4, 2))
        np.testing.assert_allclose(performer_attention(k, k, v, n_features=3, causal=causal), expected, rtol=1e-15)
        if not causal:
            assert shaped(0, 4, 3, 2).shape == (0, 2)
            np.testing.assert_array_equal(shaped(4, 0, 3, 2), np.zeros((4, 2)))


@pytest.mark.parametrize(
    ("error", "match", "change"),
    [
        *(bad for bad in BAD if not {"form", "scale"} & set(bad[2])),
        (ValueError, "n_features=0: allowed is at least 1", {"n_features": 0}),
        (TypeError, "n_features=None: an integer", {"n_features": None}),
        (ValueError, "seed=-1: allowed is 0 to", {"seed": -1}),
        (TypeError, "seed=0.5: an integer", {"seed": 0.5}),
    ],
)
def test_errors_of_performer_name_what_is_wrong(error: type[Exception], match: str, change: dict[str, Any]) -> None:
    with pytest.raises(error, match=match):
        performer_attention(**{"q": OK, "k": OK, "v": OK, "n_features": 4, **change})


def test_performer_needs_to_be_told_how_many_features() -> None:
    with pytest.raises(TypeError, match="n_features"):
        performer_attention(OK, OK, OK)


def test_seeds_of_performer_differ() -> None:
    q, k, v = token_operands(5, 3, 2)
    results = [performer_attention(q, k, v, n_features=8, seed=seed) for seed in (0, 1, 2**64, 2**128 - 1)]
    assert len({result.tobytes() for result in results}) == 4
    np.testing.assert_array_equal(performer_attention(q, k, v, n_features=8), results[0])


def test_causal_sums_of_performer_do_not_drift() -> None:
    q, k, v = token_operands(64, 3, 2, kind="positive")
    q, k, v = (np.tile(x, (300, 1)) for x in (q, k, v))
    result = performer_attention(q, k, v, n_features=8, causal=True)
    expected = performer_attention(q[-1:], k[:64], v[:64], n_features=8)
    np.testing.assert_allclose(result[-1:], expected, rtol=0, atol=4e-7)


def performer_peak(stack: int, n: int, m: int, causal: bool, dtype: str = "float32") -> int:
    """Memory that a call takes beside its result."""
    q, k, v = operands((stack, n, 12), (stack, m, 12), (stack, m, 4), dtype=dtype)
    performer_attention(q[:1, :1], k[:1, :1], v[:1, :1], n_features=100)
    tracemalloc.start()
    try:
        result = performer_attention(q, k, v, n_features=100, causal=causal)
        return tracemalloc.get_traced_memory()[1] - result.nbytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("n", "m", "causal"), [(2000, 2000, True), (2000, 2000, False), (1, 4000, False)])
def test_memory_of_performer_does_not_grow_with_the_tokens(n: int, m: int, causal: bool, dtype: str) -> None:
    small, large = (
        performer_peak(1, min(n, times * n) if n == 1 else times * n, times * m, causal, dtype) for times in (1, 4)
    )
    assert small < 4 * 6 * (1 << 17)
    assert large < 1.05 * small + 4096


@pytest.mark.parametrize("causal", [False, True])
def test_memory_of_performer_does_not_grow_with_the_stack(causal: bool) -> None:
    small, large = (performer_peak(stack, 48, 48, causal) for stack in (100, 400))
    assert small < 4 * 8 * (1 << 17)
    assert large < 1.05 * small + 4096


def test_performer_takes_the_form_of_fewer_multiplications(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    for form in [*FORMS, "causal"]:
        monkeypatch.setattr(attention, f"_performer_{form}", lambda *_, form=form: taken.append(form))

    def form_for(n: int, m: int, **options: Any) -> str:
        q, k, v = np.zeros((n, 64)), np.zeros((m, 64)), np.zeros((m, 64))
        performer_attention(q, k, v, n_features=256, **options)
        return taken.pop()

    assert form_for(1, 10_000) == form_for(10_000, 1) == form_for(60, 60) == "direct"
    assert form_for(1000, 1000) == form_for(200, 10_000) == form_for(10_000, 200) == "linear"
    assert form_for(60, 60, causal=True) == form_for(1000, 1000, causal=True) == "causal"
