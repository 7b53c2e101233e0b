"""Positive random features: exact laws of their directions and estimates, and their definition in float64."""

from __future__ import annotations

import importlib.util
import math
import tracemalloc
from functools import cache
from typing import Any

import numpy as np
import pytest
from features_oracle import directions, features
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fastk import _features, _philox
from fastk._features import positive_random_features, positive_random_features_variance

UNLIKELY = 1e-7
"""The probability below which what is seen is no accident."""

DEVIATIONS = float(stats.norm.isf(UNLIKELY / 2))
"""Standard deviations that a normal number exceeds with that probability."""

HALVES = ["float16", *["bfloat16"] * bool(importlib.util.find_spec("ml_dtypes"))]
UNIT = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float32": 2.0**-24, "float64": 2.0**-53}


def dtype_of(name: str) -> np.dtype:
    return np.dtype(pytest.importorskip("ml_dtypes").bfloat16) if name == "bfloat16" else np.dtype(name)


def bound(x: Any, w: np.ndarray, unit: float) -> np.ndarray:
    """The relative error that the docstring allows."""
    size = np.linalg.norm(np.asarray(x).astype(float), axis=-1, keepdims=True)
    m, d = w.shape
    return ((d + 4) * (size * np.linalg.norm(w, axis=1) + size**2 / 2) + math.log(m) + 8) * unit


# ---- definition


@given(
    shape=st.sampled_from([(), (1,), (7,), (2, 3), (0,), (3, 0, 2)]),
    d=st.sampled_from([0, 1, 2, 3, 8, 17]),
    m=st.integers(1, 40),
    seed=st.sampled_from([0, 1, 2**64, 2**128 - 1]),
    orthogonal=st.booleans(),
    size=st.sampled_from([0.0, 0.1, 1.0, 4.0]),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_features_are_within_their_bound(
    shape: tuple[int, ...], d: int, m: int, seed: int, orthogonal: bool, size: float, dtype: Any
) -> None:
    x = (size * np.random.default_rng(m).standard_normal((*shape, d))).astype(dtype)
    phi = positive_random_features(x, m, seed=seed, orthogonal=orthogonal)
    assert phi.shape == (*shape, m)
    assert phi.dtype == dtype
    w = directions(m, d, seed, orthogonal)
    expected = features(x, w)
    unit = UNIT[np.dtype(dtype).name] + 1e-14 * orthogonal  # two ways to make rows orthogonal
    smallest = float(np.finfo(dtype).tiny)
    assert (np.abs(phi - expected) <= bound(x, w, unit) * expected + (expected < 2 * smallest) * smallest).all()


@pytest.mark.parametrize(("m", "d"), [(1, 1), (5, 8), (8, 8), (9, 8), (64, 8), (70, 3), (12, 1)])
def test_directions(m: int, d: int) -> None:
    w = _features.directions(m, d, 5, True)
    np.testing.assert_allclose(w, directions(m, d, 5), rtol=0, atol=1e-13)
    assert not w.flags.writeable
    for first in range(0, m, d):
        products = w[first : first + d] @ w[first : first + d].T
        np.testing.assert_allclose(products, np.diag(np.diag(products)), atol=1e-12)
    np.testing.assert_array_equal(_features.directions(m, d, 5, False), directions(m, d, 5, False))
    more = _features.directions(3 * m + 1, d, 5, True)
    np.testing.assert_allclose(more[:m], w, rtol=0, atol=1e-13)


def test_seeds_and_kinds_differ() -> None:
    x = np.ones(4)
    results = [
        positive_random_features(x, 8, seed=seed, orthogonal=orthogonal)
        for seed in (0, 1, 2**64, 2**127)
        for orthogonal in (True, False)
    ]
    assert len({result.tobytes() for result in results}) == 8


# ---- laws


@pytest.mark.parametrize("d", [2, 8, 32])
def test_each_direction_is_normal(d: int) -> None:
    """In blocks too: along (1, ..., 1) and an axis, the first and the last row of 4000 blocks; and the norms."""
    w = _features.directions(4000 * d, d, 11, True).reshape(4000, d, d)
    for row in 0, d - 1:
        for unit in np.ones(d) / math.sqrt(d), np.eye(d)[0], np.eye(d)[d - 1]:
            assert stats.kstest(w[:, row] @ unit, "norm").pvalue > UNLIKELY
        assert stats.kstest((w[:, row] ** 2).sum(axis=1), stats.chi2(d).cdf).pvalue > UNLIKELY


ONES = np.ones(16) / 4
VECTORS = {
    "ones": (ONES, ONES),
    "opposite ones": (ONES / 2, -ONES / 2),
    "ones and an axis": (ONES, np.eye(16)[0] / 2),
    "axes": (np.eye(16)[0] / 2, np.eye(16)[15]),
    "random": tuple(np.random.default_rng(3).standard_normal((2, 16)) / 8),
}
BLOCKS = 20_000


@cache
def products(orthogonal: bool, scale: float = 1.0) -> dict[str, np.ndarray]:
    """What each feature makes of e^(x . y): blocks of 16 for all pairs of vectors, times their number."""
    rows = scale * np.array([vector for pair in VECTORS.values() for vector in pair])
    phi = positive_random_features(rows, 16 * BLOCKS, seed=1, orthogonal=orthogonal) * math.sqrt(16 * BLOCKS)
    return {name: (phi[2 * i] * phi[2 * i + 1]).reshape(BLOCKS, 16) for i, name in enumerate(VECTORS)}


def block_estimates(name: str, orthogonal: bool = True) -> np.ndarray:
    """Estimates of e^(x . y), each by the 16 features of a block."""
    return products(orthogonal)[name].mean(axis=1)


@pytest.mark.parametrize("orthogonal", [True, False])
@pytest.mark.parametrize("name", VECTORS)
def test_the_estimate_is_unbiased(name: str, orthogonal: bool) -> None:
    x, y = VECTORS[name]
    estimates = block_estimates(name, orthogonal)
    error = estimates.std() / math.sqrt(BLOCKS)
    assert error < 0.02 * math.exp(x @ y)  # so that a bias of some percent is seen
    assert abs(estimates.mean() - math.exp(x @ y)) < DEVIATIONS * error + 1e-14


def test_without_the_signs_of_the_factorization_it_would_not_be() -> None:
    """What many programs do, seen by the test above: the Q of LAPACK as it comes."""
    g = _philox.normal(1, _philox.Tag.FEATURES, 16 * BLOCKS, 16).reshape(BLOCKS, 16, 16)
    norms = np.linalg.norm(_philox.normal(1, _philox.Tag.FEATURE_NORMS, 16 * BLOCKS, 16), axis=1)
    w = np.linalg.qr(g)[0] * norms.reshape(BLOCKS, 16, 1)
    estimates = np.exp(w @ (2 * ONES) - 1).mean(axis=1)
    assert abs(estimates.mean() - math.e) > 3 * DEVIATIONS * estimates.std() / math.sqrt(BLOCKS)


@pytest.mark.parametrize("name", VECTORS)
def test_the_variance_of_independent_features(name: str) -> None:
    """A product of features is log-normal, so the variance of its sample variance is known as well."""
    x, y = (0.6 * v for v in VECTORS[name])
    m = 16 * BLOCKS
    variance = m * positive_random_features_variance(x, y, m)
    w = math.exp(((x + y) ** 2).sum())
    fourth = variance**2 * (w**4 + 2 * w**3 + 3 * w**2 - 3)
    deviation = math.sqrt((fourth - variance**2) / m)
    assert deviation < 0.1 * variance or variance < 1e-12
    assert abs(products(False, 0.6)[name].var() - variance) <= DEVIATIONS * deviation + 1e-12


@pytest.mark.parametrize("name", VECTORS)
def test_orthogonal_features_vary_less(name: str) -> None:
    x, y = VECTORS[name]
    estimates = block_estimates(name)
    spread = ((estimates - estimates.mean()) ** 2).std() / math.sqrt(BLOCKS)
    variance = positive_random_features_variance(x, y, 16)
    spread += 1e-28
    assert estimates.var() <= variance + DEVIATIONS * spread
    # Theorem 2: less by at least this, up to d features.
    less = 2 * 15 / (16 * 18) * (math.exp(x @ y) - math.exp(-(x @ x + y @ y) / 2)) ** 2
    assert estimates.var() <= variance - less + DEVIATIONS * spread


def test_variance() -> None:
    x, y = np.array([0.6, 0.0]), np.array([0.3, 0.4])
    expected = math.exp(2 * 0.18) * (math.exp(0.97) - 1) / 50
    assert positive_random_features_variance(x, y, 50) == pytest.approx(expected, rel=1e-14)
    assert positive_random_features_variance(x, -x, 50) == 0
    assert positive_random_features_variance([1e-9], [1e-9], 1) == pytest.approx(4e-18, rel=1e-12)
    assert positive_random_features_variance([0.0] * 3, [0.0] * 3, 1) == 0
    assert positive_random_features_variance([40.0], [0.0], 7) == math.inf
    far = positive_random_features_variance([25.0, 0.0], [-20.0, 30.0], 2)  # neither factor is a float
    assert far == pytest.approx(math.exp(-1000 + 925) / 2, rel=1e-10)
    many = positive_random_features_variance(np.ones((3, 1, 2)), np.zeros((4, 2), np.int8), 5)
    assert many.shape == (3, 4)
    np.testing.assert_allclose(many, math.expm1(2) / 5)


# ---- range and dtypes


@pytest.mark.parametrize("name", ["float32", "float64", *HALVES])
def test_nothing_overflows_where_the_result_is_finite(name: str) -> None:
    dtype = dtype_of(name)
    unit = np.finfo(np.float16).max if name == "float16" else 1e19 if name != "float64" else 1e160
    x = np.array([[unit, 0, -unit], [unit, unit, unit], [3.0, 0, 0], [0, 0, 0]]).astype(dtype)
    with np.errstate(all="raise"):
        phi = positive_random_features(x, 30).astype(float)
    np.testing.assert_array_equal(phi[:2], 0)
    assert (phi[2] > 0).all()
    np.testing.assert_allclose(phi[3], 1 / math.sqrt(30), rtol=2 * UNIT[name])
    largest = np.finfo(np.float32 if name != "float64" else np.float64).max / 2
    np.testing.assert_array_equal(positive_random_features(np.full(5, largest).astype(dtype_of("float64")), 8), 0)


def test_a_feature_near_the_largest_float() -> None:
    """e^(|w|^2 / 2) is the largest feature of a direction: for 200 dimensions beyond float32, but not over sqrt(m)."""
    d, m = 200, 400
    w = directions(m, d)
    norm = np.linalg.norm(w, axis=1).max()
    exponent = math.log(float(np.finfo(np.float32).max)) + 2
    x = w[np.linalg.norm(w, axis=1).argmax()] / norm * (norm - math.sqrt(norm**2 - 2 * exponent))
    phi = positive_random_features(x.astype(np.float32), m)
    wide = positive_random_features(x.astype(np.float32).astype(np.float64), m)
    assert np.isfinite(phi).all()
    np.testing.assert_allclose(phi, wide, rtol=2e-3)
    assert wide.max() * math.sqrt(m) > 2 * float(np.finfo(np.float32).max)


def test_what_is_not_finite_is_seen() -> None:
    x = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
    before = positive_random_features(x, 9)
    for row, bad in enumerate([math.nan, math.inf, -math.inf]):
        x[row, 1] = bad
    with np.errstate(all="raise"):
        after = positive_random_features(x, 9)
    assert np.isnan(after[:3]).all()
    np.testing.assert_array_equal(after[3:], before[3:])


@pytest.mark.parametrize("name", HALVES)
def test_narrow_types_are_rounded_once(name: str) -> None:
    x = np.random.default_rng(0).standard_normal((50, 6)).astype(dtype_of(name))
    phi = positive_random_features(x, 20)
    assert phi.dtype == x.dtype
    np.testing.assert_array_equal(phi, positive_random_features(x.astype(np.float32), 20).astype(x.dtype))


def test_layouts_and_other_numbers() -> None:
    x = np.random.default_rng(0).integers(-2, 3, (5, 4, 3)).astype(np.float64)
    expected = positive_random_features(x, 7)
    strided = np.repeat(x, 2, -1)[..., ::2]
    for same in x.astype(">f8"), np.asfortranarray(x), strided, x[::-1].copy()[::-1], x.astype(np.int8), x.tolist():
        result = positive_random_features(same, 7)
        assert result.dtype == np.float64
        assert result.dtype.isnative
        assert result.flags.c_contiguous
        np.testing.assert_allclose(result, expected, rtol=1e-14)
    assert positive_random_features(x > 0, 7).dtype == np.float64


def test_memory_does_not_grow_beside_the_result() -> None:
    def peak(n: int, dtype: Any) -> int:
        x = np.zeros((n, 8), dtype)
        positive_random_features(x[:1], 64)
        tracemalloc.start()
        try:
            phi = positive_random_features(x, 64)
            return tracemalloc.get_traced_memory()[1] - phi.nbytes
        finally:
            tracemalloc.stop()

    for dtype in np.float16, np.float32, np.float64:
        few, many = peak(9000, dtype), peak(36_000, dtype)
        assert few < 2**21 + 2**20
        assert many < 1.05 * few + 4096


OK = np.ones((2, 3))
ERRORS = [
    (TypeError, "x: dtype complex128; allowed are float16", lambda: positive_random_features(OK.astype(complex), 2)),
    (TypeError, "x: dtype <U1", lambda: positive_random_features(["a"], 2)),
    (ValueError, r"x: shape \(\); allowed is at least one dimension", lambda: positive_random_features(1.0, 2)),
    (ValueError, "n_features=0: allowed is at least 1", lambda: positive_random_features(OK, 0)),
    (TypeError, "n_features=2.0: an integer", lambda: positive_random_features(OK, 2.0)),
    (ValueError, "seed=-1: allowed", lambda: positive_random_features(OK, 2, seed=-1)),
    (TypeError, "orthogonal=1: a bool", lambda: positive_random_features(OK, 2, orthogonal=1)),
    (TypeError, "y: dtype object", lambda: positive_random_features_variance(OK, np.array([None]), 2)),
    (ValueError, "n_features=-1", lambda: positive_random_features_variance(OK, OK, -1)),
    (ValueError, "x, y: shapes .*; 3 components meet 2", lambda: positive_random_features_variance(OK, OK[:, :2], 2)),
    (ValueError, "x, y: .* do not broadcast", lambda: positive_random_features_variance(OK, np.ones((3, 3)), 2)),
]


@pytest.mark.parametrize(("error", "match", "call"), ERRORS, ids=[match for _, match, _ in ERRORS])
def test_errors(error: type[Exception], match: str, call: Any) -> None:
    with pytest.raises(error, match=f"^{match}"):
        call()
