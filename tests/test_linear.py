"""Dimensions and angles, whitening and the randomized SVD, against exact laws, mpmath, SciPy and scikit-learn."""

from __future__ import annotations

import copy
import importlib.util
import itertools
import math
import pickle
import tracemalloc
import warnings
from fractions import Fraction
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import sparse, special, stats
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from fastk import _linear, _philox
from fastk._linear import (
    Whitening,
    angle_cdf,
    angle_pdf,
    entropy_min_dim,
    johnson_lindenstrauss_min_dim,
    randomized_svd,
    randomized_svd_error,
)

UNLIKELY = 1e-7
"""The probability below which what is seen is no accident."""

HALVES = ["float16", *["bfloat16"] * bool(importlib.util.find_spec("ml_dtypes"))]
UNIT = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float32": 2.0**-24, "float64": 2.0**-53}
U = 2.0**-53


def dtype_of(name: str) -> np.dtype:
    return np.dtype(pytest.importorskip("ml_dtypes").bfloat16) if name == "bfloat16" else np.dtype(name)


# ---- dimensions


@pytest.mark.parametrize(
    ("n", "eps", "dimension"),
    [(100, 0.1, 3947), (1e4, 0.1, 7894), (10**6, 0.5, 663), (1e6, 0.01, 1112658), (1, 0.3, 0)],
)
def test_johnson_lindenstrauss(n: float, eps: float, dimension: int) -> None:
    result = johnson_lindenstrauss_min_dim(n, eps)
    assert type(result) is int
    assert result == dimension


def test_johnson_lindenstrauss_is_scikit_learns() -> None:
    peer = pytest.importorskip("sklearn.random_projection").johnson_lindenstrauss_min_dim
    n = np.unique(np.geomspace(1, 10**15, 200).astype(np.int64))[:, None]
    eps = np.linspace(0.001, 0.999, 97)
    result = johnson_lindenstrauss_min_dim(n, eps)
    assert result.dtype == np.int64
    np.testing.assert_array_equal(result, peer(n, eps=eps))


def test_johnson_lindenstrauss_of_the_smallest_distortion_that_fits() -> None:
    assert johnson_lindenstrauss_min_dim(2, 1e-9) == pytest.approx(8 * math.log(2) * 1e18, rel=1e-8)
    assert johnson_lindenstrauss_min_dim(1, 1e-100) == 0
    assert johnson_lindenstrauss_min_dim(10**300, 0.5) == math.floor(4 * math.log(10**300) * 12)


@pytest.mark.parametrize(("n", "dimension"), [(512, 52), (100_000, 96), (5_000_000, 128), (1e5, 96), (1, 0)])
def test_entropy_rule(n: float, dimension: int) -> None:
    result = entropy_min_dim(n)
    assert type(result) is int
    assert result == dimension
    array = entropy_min_dim([n, n])
    assert array.dtype == np.int64
    np.testing.assert_array_equal(array, dimension)


DIMENSION_ERRORS = [
    (TypeError, "n: dtype <U1; finite", lambda: entropy_min_dim("7")),
    (TypeError, "n=True: finite", lambda: entropy_min_dim(True)),
    (TypeError, "n: dtype complex128; finite", lambda: entropy_min_dim(np.ones(2, complex))),
    (ValueError, "n=0: finite numbers that are at least 1", lambda: entropy_min_dim(0)),
    (ValueError, "n=0.5: finite", lambda: entropy_min_dim([3, 0.5])),
    (ValueError, "n=nan: finite", lambda: entropy_min_dim(math.nan)),
    (ValueError, "n=inf: finite", lambda: johnson_lindenstrauss_min_dim(math.inf, 0.1)),
    (TypeError, "eps: dtype <U1; numbers between", lambda: johnson_lindenstrauss_min_dim(7, "a")),
    (ValueError, "eps=0: numbers between 0 and 1", lambda: johnson_lindenstrauss_min_dim(7, 0)),
    (ValueError, "eps=1.0: numbers", lambda: johnson_lindenstrauss_min_dim(7, [0.5, 1.0])),
    (ValueError, "eps=nan: numbers", lambda: johnson_lindenstrauss_min_dim(7, math.nan)),
    (ValueError, "eps=1e-10: too small", lambda: johnson_lindenstrauss_min_dim(7, 1e-10)),
    (ValueError, "eps=1e-300: too small", lambda: johnson_lindenstrauss_min_dim(7, 1e-300)),
    (ValueError, "n, eps: shapes .* do not broadcast", lambda: johnson_lindenstrauss_min_dim([7] * 2, [0.1] * 3)),
    (TypeError, "theta: dtype <U1; real", lambda: angle_pdf("a", 3)),
    (TypeError, "theta: dtype bool", lambda: angle_cdf([True], 3)),
    (TypeError, "n=3.0: integers", lambda: angle_cdf(1.0, 3.0)),
    (TypeError, "n: dtype bool: integers", lambda: angle_cdf(1.0, [True])),
    (TypeError, "n=1180591620717411303424: integers up to", lambda: angle_cdf(1.0, 2**70)),
    (ValueError, "n=1: at least 2", lambda: angle_pdf(1.0, [5, 1])),
    (ValueError, "theta, n: shapes .* do not broadcast", lambda: angle_pdf([1.0] * 2, [3] * 3)),
]


@pytest.mark.parametrize(("error", "match", "call"), DIMENSION_ERRORS, ids=[match for _, match, _ in DIMENSION_ERRORS])
def test_errors_of_dimensions_and_angles(error: type[Exception], match: str, call: Any) -> None:
    with pytest.raises(error, match=f"^{match}"):
        call()


# ---- angles


def exact_density(theta: Any, n: int) -> Any:
    constant = mpmath.exp(mpmath.loggamma(mpmath.mpf(n) / 2) - mpmath.loggamma(mpmath.mpf(n - 1) / 2))
    return constant / mpmath.sqrt(mpmath.pi) * mpmath.sin(theta) ** (n - 2)


def exact_probability(theta: Any, n: int) -> Any:
    """Of an angle up to pi/2: an integral, over as many times the length in which the density falls as matter."""
    fall = 1 / ((n - 2) * mpmath.cot(theta) + mpmath.sqrt(n))
    edges = sorted({max(theta - fall * step, mpmath.mpf(0)) for step in (0, 3, 10, 25, 60, 110)})
    ratio = mpmath.quad(lambda t: (mpmath.sin(t) / mpmath.sin(theta)) ** (n - 2) / fall, edges)  # near 1, as quad needs
    return ratio * fall * exact_density(theta, n)


DIMENSIONS = [2, 3, 4, 5, 8, 13, 30, 62, 63, 64, 65, 100, 999, 10**4, 123_456, 10**6, 10**9]


def angles_of(n: int) -> list[float]:
    """Up to pi/2: by standard deviations from there, on both sides of the seam of the two forms, and small."""
    deviations = np.array([0, 1e-8, 0.1, 0.7, 1.5, 2.4, 3.5, 6.0, 11.0, 23.0, 36.0]) / math.sqrt(n)
    seam = math.sqrt(4 / (n + 6))
    cosines = [*deviations[deviations < 0.99], seam * (1 - 1e-9), seam * (1 + 1e-9)]
    return [math.acos(c) for c in cosines] + [1.4, 1.0, 0.5, 0.1, 1e-3, 1e-10]


@pytest.mark.parametrize("n", DIMENSIONS)
def test_angles_are_within_their_bounds(n: int) -> None:
    compared = 0
    with mpmath.workdps(40):
        for theta in map(float, angles_of(n)):
            t = mpmath.mpf(theta)
            decades = float(-mpmath.log(mpmath.sin(t)) * (n - 2))
            if decades > 690:
                assert angle_cdf(theta, n) <= angle_pdf(theta, n) < 1e-290
                continue
            density, probability = exact_density(t, n), exact_probability(t, n)
            compared += 1
            error = abs(mpmath.mpf(float(angle_pdf(theta, n))) / density - 1)
            assert error <= 40 * (1 + decades) * U, theta
            assert error <= 8 * (1 + decades) * U, f"{theta}: within the bound, but more than is usual"
            error = abs(mpmath.mpf(float(angle_cdf(theta, n))) / probability - 1)
            assert error <= (5000 + 40 * decades) * U, theta
            assert error <= (150 + 8 * decades) * U, f"{theta}: within the bound, but more than is usual"
    assert compared >= 10


def test_probability_is_an_incomplete_beta_function() -> None:
    theta, n = np.linspace(0.01, math.pi / 2, 200)[:, None], np.array([2, 3, 4, 7, 20, 100, 500])
    expected = special.betainc((n - 1) / 2, 0.5, np.sin(theta) ** 2) / 2
    np.testing.assert_allclose(angle_cdf(theta, n), expected, rtol=1e-10, atol=1e-300)


@pytest.mark.parametrize(
    ("n", "exact"),
    [
        (2, lambda t: t / math.pi),
        (3, lambda t: (1 - np.cos(t)) / 2),
        (4, lambda t: (t - np.sin(t) * np.cos(t)) / math.pi),
        (5, lambda t: (2 - 3 * np.cos(t) + np.cos(t) ** 3) / 4),
    ],
)
def test_probability_in_few_dimensions(n: int, exact: Any) -> None:
    theta = np.linspace(0, math.pi, 1001)
    np.testing.assert_allclose(angle_cdf(theta, n), exact(theta), rtol=0, atol=4e-15)


@pytest.mark.parametrize("n", [2, 3, 4, 10, 64, 1000, 10**6])
def test_probability_rises_and_is_symmetric(n: int) -> None:
    theta = math.pi / 2 + np.linspace(-math.pi / 2, math.pi / 2, 20001) / math.sqrt(n / 2)
    probability = angle_cdf(theta, n)
    assert (np.diff(probability) >= -1e-15).all()
    np.testing.assert_allclose(probability + angle_cdf(math.pi - theta, n), 1, rtol=0, atol=1e-12)
    assert angle_cdf(math.pi / 2, n) == pytest.approx(0.5, abs=1e-12)
    slopes = np.diff(probability)[1:-1] / np.diff(theta)[1:-1]
    middle = (theta[1:-2] + theta[2:-1]) / 2
    np.testing.assert_allclose(slopes, angle_pdf(middle, n), rtol=1e-4, atol=1e-7 * math.sqrt(n))


@pytest.mark.parametrize(
    ("n", "variance"), [(3, 0.467401), (10, 0.110661), (100, 0.0101007), (1000, 0.001001), (2, math.pi**2 / 12)]
)
def test_moments_of_the_angle(n: int, variance: float) -> None:
    x, weight = special.roots_legendre(400)
    theta = (x + 1) * math.pi / 2
    weight = weight * math.pi / 2 * angle_pdf(theta, n)
    assert weight.sum() == pytest.approx(1, rel=1e-13)
    assert (weight * (theta - math.pi / 2) ** 2).sum() == pytest.approx(variance, rel=2e-5)
    assert (weight * np.cos(theta) ** 2).sum() == pytest.approx(1 / n, rel=1e-12)


@pytest.mark.parametrize("n", [2, 3, 7, 50])
def test_random_directions_make_these_angles(n: int) -> None:
    x, y = np.random.Generator(np.random.Philox(n)).standard_normal((2, 20_000, n))
    cosine = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    assert stats.kstest(np.arccos(cosine), lambda t: angle_cdf(t, n)).pvalue > UNLIKELY


def test_angles_outside_and_shapes() -> None:
    theta = np.array([-math.inf, -1e-300, 0, math.pi, np.nextafter(math.pi, 4), 9, math.inf, math.nan])
    for n in 2, 3, 500:
        ends = 1 / math.pi if n == 2 else 0
        density, probability = angle_pdf(theta, n), angle_cdf(theta, n)
        np.testing.assert_allclose(density, [0, 0, ends, ends, 0, 0, 0, math.nan], atol=1e-15)
        np.testing.assert_array_equal(probability, [0, 0, 0, 1, 1, 1, 1, math.nan])
    for function in angle_pdf, angle_cdf:
        assert type(function(1, 3)) is np.float64
        assert type(function(Fraction(1, 2), np.int8(3))) is np.float64
        assert function(np.float32(1.5), 3) == function(float(np.float32(1.5)), 3)
        assert function(np.ones((3, 1)), np.full(4, 9, np.uint8)).shape == (3, 4)
        assert function(np.ones((0, 2)), 3).shape == (0, 2)
        assert np.isfinite(function(1.5, 2**63 - 1))
        # Every element is computed by itself.
        many = function(np.linspace(0.1, 3, 50), 40)
        np.testing.assert_allclose([function(t, 40) for t in np.linspace(0.1, 3, 50)], many, rtol=1e-14)


# ---- whitening


def rows_of(n: int, d: int, seed: int = 0, dtype: Any = np.float64, shift: float = 3.0) -> np.ndarray:
    """Correlated rows, of variances from 1 to 1/100 along directions of no axis."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.standard_normal((d, d)))[0]
    x = rng.standard_normal((n, d)) * np.geomspace(1, 0.1, d) @ turn
    return (x + shift * rng.standard_normal(d)).astype(dtype)


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("d", [1, 2, 7, 40])
def test_the_covariance_of_the_result_is_the_identity(center: bool, d: int) -> None:
    x = rows_of(700, d)
    y = Whitening(center=center).fit_transform(x)
    np.testing.assert_allclose(np.cov(y.T).reshape(d, d), np.eye(d), rtol=0, atol=1e-11)
    mean = y.mean(axis=0)
    assert (np.abs(mean) < 1e-11).all() == center


def test_attributes() -> None:
    x = rows_of(700, 6)
    model = Whitening(4).fit(x)
    np.testing.assert_allclose(model.mean_, x.mean(0), rtol=1e-14)
    np.testing.assert_allclose(model.covariance_, np.cov(x.T), rtol=0, atol=1e-15)
    np.testing.assert_array_equal(model.covariance_, model.covariance_.T)
    assert model.components_.shape == (4, 6)
    np.testing.assert_allclose(model.components_ @ model.components_.T, np.eye(4), atol=1e-14)
    variances = np.linalg.eigvalsh(np.cov(x.T))[::-1]
    np.testing.assert_allclose(model.explained_variance_, variances[:4], rtol=1e-12)
    np.testing.assert_allclose(model.explained_variance_ratio_, variances[:4] / variances.sum(), rtol=1e-12)
    assert (model.n_samples_seen_, model.n_features_in_, model.rank_) == (700, 6, 6)
    with pytest.raises(ValueError, match="read-only"):
        model.components_[0] = 0
    assert Whitening(4).get_params() == {"n_components": 4, "center": True, "scale": True}
    assert repr(Whitening(4, scale=False)) == "Whitening(n_components=4, scale=False)"


@pytest.mark.parametrize("kept", [1, 3, 7])
def test_the_cut_keeps_the_leading_directions(kept: int) -> None:
    x = rows_of(900, 7)
    whole, cut = Whitening().fit(x), Whitening(kept).fit(x)
    np.testing.assert_allclose(cut.transform(x), whole.transform(x)[:, :kept], rtol=0, atol=1e-12)
    np.testing.assert_allclose(np.cov(cut.transform(x).T).reshape(kept, kept), np.eye(kept), atol=1e-12)
    back = cut.inverse_transform(cut.transform(x))
    lost = np.linalg.eigvalsh(np.cov(x.T))[: 7 - kept].sum()
    assert ((x - back) ** 2).sum() / 899 == pytest.approx(lost, rel=1e-10, abs=1e-20)


def test_principal_components_of_scikit_learn() -> None:
    decomposition = pytest.importorskip("sklearn.decomposition")
    x = rows_of(400, 9)
    for scale in True, False:
        peer = decomposition.PCA(5, whiten=scale, svd_solver="full").fit_transform(x)
        ours = Whitening(5, scale=scale).fit_transform(x)
        np.testing.assert_allclose(np.abs(ours), np.abs(peer), rtol=0, atol=1e-10)


def test_without_center_scale_and_cut_it_is_a_rotation() -> None:
    x = rows_of(50, 12)
    y = Whitening(center=False, scale=False).fit_transform(x)
    np.testing.assert_allclose(y @ y.T, x @ x.T, rtol=1e-13, atol=1e-13)
    centered = Whitening(scale=False).fit_transform(x)
    np.testing.assert_allclose(np.linalg.norm(centered, axis=1), np.linalg.norm(x - x.mean(0), axis=1), rtol=1e-13)
    assert not np.allclose(centered, y)


@given(
    cuts=st.lists(st.integers(1, 700), min_size=1, max_size=6),
    d=st.integers(1, 5),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 99),
)
@example(cuts=[512, 512, 3], d=2, dtype=np.float64, seed=0)
def test_chunks_have_no_part_in_the_result(cuts: list[int], d: int, dtype: Any, seed: int) -> None:
    x = rows_of(sum(cuts), d, seed, dtype)
    stream = Whitening()
    for first, last in itertools.pairwise([0, *itertools.accumulate(cuts)]):
        stream.partial_fit(x[first:last])
        assert stream.n_samples_seen_ == last
        stream.transform(x[:1])  # looking at it does not change it
    whole = Whitening().fit(x)
    for name in "mean_", "covariance_", "components_", "explained_variance_":
        np.testing.assert_array_equal(getattr(stream, name), getattr(whole, name))
    np.testing.assert_array_equal(stream.transform(x), whole.transform(x))


def exact_covariance(x: np.ndarray) -> np.ndarray:
    """Of integers, by integers: (n sum x_i x_j - sum x_i sum x_j) / (n (n - 1))."""
    whole = x.astype(np.int64).astype(object)
    n, total = len(whole), whole.sum(axis=0)
    products = n * (whole.T @ whole) - np.outer(total, total)
    return np.array([[float(Fraction(int(p), n * (n - 1))) for p in row] for row in products])


@pytest.mark.parametrize("shift", [0, 10**4, 10**9, 10**13])
@pytest.mark.parametrize("pieces", [1, 7])
def test_the_covariance_is_within_its_bound_of_the_exact_one(shift: int, pieces: int) -> None:
    rng = np.random.default_rng(shift % 97)
    x = (rng.integers(-1000, 1000, (5000, 4)) @ rng.integers(-3, 4, (4, 4)) + shift).astype(np.float64)
    model = Whitening()
    for part in np.array_split(x, pieces):
        model.merge(Whitening().fit(part))
    spread, size = x.std(axis=0), np.abs(x).max(axis=0)
    unit = spread[:, None] * size
    bound = (1000 + len(x) / 100) * U * (unit + unit.T)
    assert (np.abs(model.covariance_ - exact_covariance(x)) <= bound).all()
    assert bound.max() < 0.01 * spread.min() ** 2


@given(st.lists(st.integers(1, 1200), min_size=2, max_size=4), st.integers(1, 4), st.randoms(use_true_random=False))
def test_streams_join(lengths: list[int], d: int, random: Any) -> None:
    x = rows_of(sum(lengths), d, shift=100.0)
    parts = [Whitening().fit(part) for part in np.split(x, np.cumsum(lengths)[:-1])]
    random.shuffle(parts)
    others = [(part.n_samples_seen_, part.covariance_.copy()) for part in parts]
    joined = Whitening()
    for part in parts:
        assert joined.merge(part) is joined
    for part, (n, covariance) in zip(parts, others, strict=True):
        assert part.n_samples_seen_ == n
        np.testing.assert_array_equal(part.covariance_, covariance)
    whole = Whitening().fit(x)
    assert joined.n_samples_seen_ == len(x)
    assert joined.n_features_in_ == d
    np.testing.assert_allclose(joined.mean_, whole.mean_, rtol=1e-13)
    np.testing.assert_allclose(joined.covariance_, whole.covariance_, rtol=0, atol=1e-10)
    joined.partial_fit(x[:2])
    assert joined.n_samples_seen_ == len(x) + 2
    assert parts[0].n_samples_seen_ == others[0][0]


def test_a_stream_joins_itself() -> None:
    x = rows_of(600, 3)
    model = Whitening().fit(x)
    model.merge(model)
    np.testing.assert_allclose(model.covariance_, np.cov(np.tile(x, (2, 1)).T), rtol=1e-12)


def test_fit_starts_anew() -> None:
    x = rows_of(600, 3)
    model = Whitening().fit(rows_of(50, 8)).fit(x)
    np.testing.assert_array_equal(model.covariance_, Whitening().fit(x).covariance_)
    with pytest.raises(ValueError, match="n_components=4"):
        model.set_params(n_components=4).fit(x)
    assert not hasattr(model, "mean_")


@pytest.mark.parametrize("name", ["float64", "float32", *HALVES])
@pytest.mark.parametrize("shift", [0.0, 30.0])
def test_directions_without_variance_are_not_blown_up(name: str, shift: float) -> None:
    rng = np.random.default_rng(8)
    d, rank = 20, 3
    x = (rng.standard_normal((2000, rank)) @ rng.standard_normal((rank, d)) + shift).astype(dtype_of(name))
    model = Whitening().fit(x)
    assert model.rank_ == rank
    y = model.transform(x).astype(np.float64)
    np.testing.assert_array_equal(y[:, rank:], 0)
    np.testing.assert_allclose(np.cov(y[:, :rank].T), np.eye(rank), atol=20 * UNIT[name])
    # A rotation does not divide by a variance, so it keeps all there is.
    plain = Whitening(scale=False).fit(x)
    np.testing.assert_allclose(
        plain.inverse_transform(plain.transform(x)).astype(float),
        x.astype(float),
        rtol=0,
        atol=100 * UNIT[name] * (shift + 5),
    )


def test_the_coarsest_chunk_says_what_is_rounding() -> None:
    rng = np.random.default_rng(8)
    x = rng.standard_normal((500, 3)) @ rng.standard_normal((3, 8)) + 20
    narrow, wide = x.astype(np.float32), x.astype(np.float32).astype(np.float64)
    assert Whitening().fit(wide).rank_ == 8
    for first, second in (narrow, wide), (wide, narrow):
        assert Whitening().fit(first).partial_fit(second).rank_ == 3
        assert Whitening().fit(first).merge(Whitening().fit(second)).rank_ == 3


def test_small_variances_are_kept_if_they_are_more_than_rounding() -> None:
    rng = np.random.default_rng(4)
    sizes = np.array([1.0, 1e-3, 1e-5, 1e-7])
    x = rng.standard_normal((1000, 4)) * sizes
    model = Whitening().fit(x)
    assert model.rank_ == 4
    np.testing.assert_allclose(np.cov(model.transform(x).T), np.eye(4), atol=1e-2)
    assert Whitening().fit(x * [1, 1, 1, 1e-3]).rank_ == 3
    assert Whitening().fit(x.astype(np.float32)).rank_ == 4
    assert Whitening().fit((x * [1, 1, 1, 0.1]).astype(np.float32)).rank_ == 3


@pytest.mark.parametrize("n", [1, 2, 5])
def test_fewer_rows_than_columns(n: int) -> None:
    x = rows_of(n, 9)
    model = Whitening().fit(x)
    y = model.transform(x)
    assert model.rank_ == n - 1
    np.testing.assert_array_equal(y[:, n - 1 :], 0)
    np.testing.assert_allclose(model.inverse_transform(y), x, rtol=1e-10)
    assert np.isfinite(y).all()


@pytest.mark.parametrize("value", [0.0, 0.1, -1e9])
def test_rows_that_are_all_alike(value: float) -> None:
    x = np.full((1500, 3), value)
    for chunks in 1, 4:
        model = Whitening()
        for part in np.array_split(x, chunks):
            model.merge(Whitening().fit(part))
        assert model.rank_ == 0
        np.testing.assert_array_equal(model.transform(x), 0)
        np.testing.assert_allclose(model.inverse_transform(model.transform(x)), x, rtol=1e-15)
        assert np.isfinite(model.explained_variance_ratio_).all()


def test_signs_are_the_same_for_what_is_the_same() -> None:
    x = rows_of(300, 5)
    components = Whitening().fit(x).components_
    largest = np.abs(components).argmax(axis=1)
    assert (components[np.arange(5), largest] > 0).all()
    # A pair of equal components: which is larger after rounding must not matter.
    rng = np.random.default_rng(1)
    for seed in range(20):
        z = rng.standard_normal((400, 1)) * [1, -1] + 1e-9 * np.random.default_rng(seed).standard_normal((400, 2))
        leading = Whitening().fit(z).components_[0]
        assert leading[0] > 0 > leading[1]


@pytest.mark.parametrize("name", ["float64", "float32", *HALVES, "int16", "bool"])
def test_dtypes(name: str) -> None:
    x = rows_of(600, 4, shift=0.5)
    x = (
        (x > 0).astype(bool)
        if name == "bool"
        else (100 * x).astype(name)
        if name == "int16"
        else x.astype(dtype_of(name))
    )
    model = Whitening().fit(x)
    y = model.transform(x)
    wide = Whitening().fit(x.astype(np.float64))
    assert y.dtype == (x.dtype if name in UNIT else np.float64)
    np.testing.assert_array_equal(y, wide.transform(x.astype(np.float64)).astype(y.dtype))
    assert model.mean_.dtype == model.covariance_.dtype == model.components_.dtype == np.float64
    assert model.inverse_transform(y).dtype == y.dtype


def test_layouts() -> None:
    x = rows_of(1100, 3)
    expected = Whitening().fit_transform(x)
    for same in np.asfortranarray(x), np.repeat(x, 2, 1)[:, ::2], x.astype(">f8"), x.tolist():
        np.testing.assert_array_equal(Whitening().fit_transform(same), expected)


def test_memory_does_not_grow_with_the_rows() -> None:
    def peak(n: int) -> int:
        x = np.random.default_rng(0).standard_normal((n, 30), np.float32)
        tracemalloc.start()
        try:
            model = Whitening(2).fit(x)
            y = model.transform(x)
            return tracemalloc.get_traced_memory()[1] - y.nbytes
        finally:
            tracemalloc.stop()

    few, many = peak(5000), peak(40_000)
    assert many < 1.05 * few + 4096
    assert few < 8 * 30 * (2 * 30 + 3 * 512) + 2**16


def test_copies() -> None:
    x = rows_of(700, 3)
    model = Whitening(2).partial_fit(x[:650])
    for same in pickle.loads(pickle.dumps(model)), copy.deepcopy(model):
        np.testing.assert_array_equal(same.transform(x), model.transform(x))
        same.partial_fit(x[650:])
        np.testing.assert_array_equal(same.mean_, Whitening().fit(x).mean_)
    assert model.n_samples_seen_ == 650


def test_scikit_learn_agrees() -> None:
    checks = pytest.importorskip("sklearn.utils.estimator_checks")
    clone = pytest.importorskip("sklearn.base").clone
    model = Whitening(2, scale=False)
    assert clone(model.fit(rows_of(9, 3))).get_params() == model.get_params()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for each in Whitening(), Whitening(1, center=False, scale=False):
            results = checks.check_estimator(each, on_fail=None)
            assert [r["check_name"] for r in results if r["status"] == "failed"] == []
            assert sum(r["status"] == "passed" for r in results) > 30


OK = np.arange(6.0).reshape(3, 2)
WHITENING_ERRORS = [
    (TypeError, "n_components='a'", lambda: Whitening("a").fit(OK)),
    (ValueError, "n_components=0: allowed is at least 1", lambda: Whitening(0).fit(OK)),
    (ValueError, "n_components=3: allowed is 1 to 2, the features of X", lambda: Whitening(3).fit(OK)),
    (TypeError, "center=1", lambda: Whitening(center=1).fit(OK)),
    (TypeError, "scale=None", lambda: Whitening(scale=None).partial_fit(OK)),
    (ValueError, "X: .*NaN", lambda: Whitening().fit([[math.nan]])),
    (ValueError, "X: a magnitude of 1e[+]160; allowed is at most 2[*][*]500", lambda: Whitening().fit([[-1e160, 1]])),
    (TypeError, "X: .*[Ss]parse", lambda: Whitening().fit(sparse.csr_array(OK))),
    (ValueError, "This Whitening instance is not fitted", lambda: Whitening().transform(OK)),
    (AttributeError, "not fitted", lambda: Whitening().mean_),
    (ValueError, "X has 1 features", lambda: Whitening().fit(OK).transform(OK[:, :1])),
    (ValueError, "X has 1 features", lambda: Whitening().fit(OK).partial_fit(OK[:, :1])),
    (ValueError, r"X: shape \(3, 2\); allowed is \(n, 1\)", lambda: Whitening(1).fit(OK).inverse_transform(OK)),
    (TypeError, "X: dtype", lambda: Whitening().fit(OK).inverse_transform([["a", "b"]])),
    (TypeError, "other=3: a Whitening", lambda: Whitening().merge(3)),
    (ValueError, "not fitted", lambda: Whitening().fit(OK).merge(Whitening())),
    (
        ValueError,
        "other: rows of 1 features; allowed are 2",
        lambda: Whitening().fit(OK).merge(Whitening().fit(OK[:, :1])),
    ),
    (ValueError, "n_components=3", lambda: Whitening(3).merge(Whitening().fit(OK))),
]


@pytest.mark.parametrize(("error", "match", "call"), WHITENING_ERRORS, ids=[match for _, match, _ in WHITENING_ERRORS])
def test_errors_of_whitening(error: type[Exception], match: str, call: Any) -> None:
    with pytest.raises(error, match=match):
        call()


def test_a_chunk_that_is_refused_leaves_no_trace() -> None:
    x = rows_of(20, 2)
    model = Whitening().partial_fit(x)
    for bad in [[math.inf, 1.0]], [[1e200, 1.0]], [[1.0]]:
        with pytest.raises(ValueError, match="X"):
            model.partial_fit(bad)
    assert model.n_samples_seen_ == 20
    np.testing.assert_array_equal(model.transform(x), Whitening().fit(x).transform(x))


# ---- randomized SVD


class Bare:
    """An operator that has what is named, and nothing else."""

    def __init__(self, a: np.ndarray, *names: str) -> None:
        self._a, self.shape = a, a.shape
        if "T" in names:
            self.T = a.T
        if "rmatmat" in names:
            self.rmatmat = lambda x: a.T @ x
        if "dtype" in names:
            self.dtype = a.dtype

    def __matmul__(self, x: np.ndarray) -> np.ndarray:
        return self._a @ x


class Reflected(Bare):
    def __rmatmul__(self, x: np.ndarray) -> np.ndarray:
        return x @ self._a


KINDS = {
    "array": lambda a: a,
    "list": lambda a: a.tolist(),
    "fortran": np.asfortranarray,
    "csr_array": sparse.csr_array,
    "csr_matrix": sparse.csr_matrix,
    "csc_array": sparse.csc_array,
    "operator": aslinearoperator,
    "functions": lambda a: LinearOperator(a.shape, matvec=lambda x: a @ x, rmatvec=lambda x: a.T @ x, dtype=a.dtype),
    "T": lambda a: Bare(a, "T"),
    "rmatmat": lambda a: Bare(a, "rmatmat", "dtype"),
    "reflected": Reflected,
}


def of_rank(m: int, n: int, rank: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((m, rank)) @ rng.standard_normal((rank, n))


def with_spectrum(s: np.ndarray, m: int, n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    u, v = (np.linalg.qr(rng.standard_normal((side, len(s))))[0] for side in (m, n))
    return u * s @ v.T


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(60, 25), (25, 60), (30, 30)])
def test_a_matrix_of_rank_k_comes_back(kind: str, shape: tuple[int, int]) -> None:
    a = of_rank(*shape, 4)
    u, s, vt = randomized_svd(KINDS[kind](a), 4)
    assert (u.shape, s.shape, vt.shape) == ((shape[0], 4), (4,), (4, shape[1]))
    assert u.dtype == s.dtype == vt.dtype == np.float64
    norm = np.linalg.norm(a, 2)
    np.testing.assert_allclose(u * s @ vt, a, rtol=0, atol=1e-14 * norm)
    np.testing.assert_allclose(u.T @ u, np.eye(4), atol=1e-14)
    np.testing.assert_allclose(vt @ vt.T, np.eye(4), atol=1e-14)
    np.testing.assert_allclose(s, np.linalg.svd(a)[1][:4], rtol=1e-13)


@pytest.mark.parametrize("name", ["float32", *HALVES])
@pytest.mark.parametrize("make", [np.asarray, sparse.csr_array], ids=["dense", "sparse"])
def test_narrow_matrices_are_decomposed_in_float32(name: str, make: Any) -> None:
    if name != "float32" and make is not np.asarray:
        pytest.skip("no sparse matrix of such elements")
    a = np.round(of_rank(50, 40, 3)).astype(dtype_of(name))
    u, s, vt = randomized_svd(make(a), 40)
    assert u.dtype == s.dtype == vt.dtype == np.float32
    norm = np.linalg.norm(a.astype(float), 2)
    np.testing.assert_allclose(u * s @ vt, a.astype(float), rtol=0, atol=3e-6 * norm)


@pytest.mark.parametrize("name", ["int8", "uint64", "bool"])
def test_integers_are_taken_as_float64(name: str) -> None:
    a = (of_rank(20, 10, 10) > 0).astype(name)
    for given_ in a, sparse.csr_array(a):
        u, s, vt = randomized_svd(given_, 10)
        assert s.dtype == np.float64
        np.testing.assert_allclose(u * s @ vt, a.astype(float), rtol=0, atol=1e-13)


@pytest.mark.parametrize("decay", ["fast", "slow", "step", "flat"])
@pytest.mark.parametrize("n_iter", [0, 1, 2])
@pytest.mark.parametrize("shape", [(80, 50), (50, 80)])
def test_the_mean_error_is_within_its_bound(decay: str, n_iter: int, shape: tuple[int, int]) -> None:
    k, j = 6, np.arange(50.0)
    s = {"fast": 0.7**j, "slow": 1 / (1 + j), "step": np.where(j < 6, 1, 1e-3), "flat": np.ones(50)}[decay]
    a = with_spectrum(s, *shape)
    bound = randomized_svd_error(s, k, oversample=5, n_iter=n_iter)
    errors = []
    for seed in range(12):
        u, values, vt = randomized_svd(a, k, oversample=5, n_iter=n_iter, seed=seed)
        errors.append(np.linalg.norm(a - u * values @ vt, 2))
        assert (values <= s[:k] * (1 + 1e-12)).all()
    assert np.mean(errors) <= bound
    assert min(errors) >= s[k] * (1 - 1e-12)
    if decay == "step" and n_iter == 2:
        assert np.mean(errors) < 1.01 * s[k]
    assert bound < 30 * s[k]


def test_the_bound_by_hand() -> None:
    s = [8.0, 4.0, 2.0, 1.0, 0.5, 0.25]
    head = (1 + math.sqrt(2 / 2)) * 2 + math.e * math.sqrt(5) / 3 * math.sqrt(4 + 1 + 0.25 + 0.0625)
    assert randomized_svd_error(s, 2, oversample=3, n_iter=0) == pytest.approx(2 + head)
    powers = [x**3 for x in s]
    head = (1 + math.sqrt(2 / 2)) * 8 + math.e * math.sqrt(5) / 3 * math.sqrt(sum(x * x for x in powers[2:]))
    assert randomized_svd_error(s[::-1], 2, oversample=3, n_iter=1) == pytest.approx(2 + head ** (1 / 3))
    assert randomized_svd_error(s, 2, oversample=1) == math.inf
    assert randomized_svd_error(s, 2, oversample=4) == 2
    assert randomized_svd_error(s, 6) == 0
    assert randomized_svd_error([3, 0, 0, 0], 1, oversample=2) == 0
    tiny = np.array(s) * 1e-200
    assert randomized_svd_error(tiny, 2, oversample=3) == pytest.approx(
        1e-200 * randomized_svd_error(s, 2, oversample=3)
    )


def test_more_work_makes_it_better() -> None:
    a = with_spectrum(1 / (1 + np.arange(100.0)), 150, 100)

    def error(**options: int) -> float:
        u, s, vt = randomized_svd(a, 10, **options)
        return float(np.linalg.norm(a - u * s @ vt, 2))

    best = 1 / 11
    assert error(n_iter=0, oversample=0) > 1.1 * error(n_iter=0, oversample=30) > 1.1 * best
    assert error(n_iter=0, oversample=5) > 1.2 * error(n_iter=4, oversample=5)
    assert error(n_iter=8, oversample=20) == pytest.approx(best, rel=1e-6)
    assert error(oversample=90) == pytest.approx(best, rel=1e-12)


def test_power_iterations_do_not_lose_small_values() -> None:
    """Without orthonormal bases in between, all but those above 1e-3 would be gone after two iterations."""
    s = np.geomspace(1, 1e-12, 13)
    a = with_spectrum(s, 60, 40)
    np.testing.assert_allclose(randomized_svd(a, 13, n_iter=4)[1], s, rtol=1e-3)


def test_the_basis_is_that_of_the_documented_words() -> None:
    a = with_spectrum(0.8 ** np.arange(20.0), 30, 20)
    g = _philox.normal(7, _philox.Tag.SVD, 20, 5)
    q = np.linalg.qr(a @ g)[0]
    q = np.linalg.qr(a @ (a.T @ q))[0]
    expected = q @ q.T @ a
    u, s, vt = randomized_svd(a, 5, oversample=0, n_iter=1, seed=7)
    np.testing.assert_allclose(u * s @ vt, expected, atol=1e-13)
    transposed = randomized_svd(a.T, 5, oversample=0, n_iter=1, seed=7)
    np.testing.assert_allclose(transposed[0] * transposed[1] @ transposed[2], expected.T, atol=1e-13)
    assert not np.allclose(randomized_svd(a, 5, oversample=0, n_iter=1, seed=2**128 - 1)[1], s, rtol=1e-6)


def test_signs_of_singular_vectors() -> None:
    a = with_spectrum(0.5 ** np.arange(8.0), 20, 8)
    for given_ in a, -a, a.T:
        u, s, vt = randomized_svd(given_, 8)
        assert (u[np.abs(u).argmax(axis=0), np.arange(8)] > 0).all()
        np.testing.assert_allclose(u * s @ vt, given_, atol=1e-14)
    for seed in range(10):  # equal components, but for rounding
        u = randomized_svd(np.outer([1, -1, 1, -1], [0.3, -0.7]), 1, seed=seed)[0]
        np.testing.assert_allclose(u[:, 0], [0.5, -0.5, 0.5, -0.5], rtol=1e-14)
    np.testing.assert_array_equal(_linear._signs(np.array([[0.0, -1.0], [0.0, 0.5]])), [1, -1])


def test_matrices_of_nothing_and_of_one() -> None:
    u, s, vt = randomized_svd(np.zeros((5, 3)), 2)
    np.testing.assert_array_equal(s, 0)
    np.testing.assert_allclose(u.T @ u, np.eye(2), atol=1e-15)
    np.testing.assert_allclose(vt @ vt.T, np.eye(2), atol=1e-15)
    u, s, vt = randomized_svd([[-3.0]], 1)
    np.testing.assert_allclose([u[0, 0], s[0], vt[0, 0]], [1, 3, -1])


def test_scale_has_no_part() -> None:
    a = with_spectrum(0.5 ** np.arange(8.0), 20, 8)
    s = randomized_svd(a, 3, oversample=2)[1]
    for scale in 2.0**-900, 2.0**900:
        np.testing.assert_allclose(randomized_svd(a * scale, 3, oversample=2)[1], s * scale, rtol=1e-12)


SVD_ERRORS = [
    (ValueError, "k=3: allowed is 1 to 2, the smaller side of a", lambda: randomized_svd(OK, 3)),
    (ValueError, "k=0: allowed", lambda: randomized_svd(OK, 0)),
    (TypeError, "k=1.0: an integer", lambda: randomized_svd(OK, 1.0)),
    (ValueError, "oversample=-1: allowed is at least 0", lambda: randomized_svd(OK, 1, oversample=-1)),
    (ValueError, "n_iter=-1: allowed is at least 0", lambda: randomized_svd(OK, 1, n_iter=-1)),
    (ValueError, "seed=-1: allowed", lambda: randomized_svd(OK, 1, seed=-1)),
    (ValueError, r"a: shape \(2,\); allowed are two dimensions", lambda: randomized_svd(OK[0], 1)),
    (TypeError, "a: dtype complex128; allowed are real", lambda: randomized_svd(OK.astype(complex), 1)),
    (TypeError, "a: dtype complex64", lambda: randomized_svd(sparse.csr_array(OK.astype("F")), 1)),
    (TypeError, "a: dtype <U1", lambda: randomized_svd([["a"]], 1)),
    (ValueError, "a: a product with it has a nan or inf", lambda: randomized_svd([[1.0, math.nan]], 1)),
    (ValueError, "a: a product with it has a nan or inf", lambda: randomized_svd(sparse.csr_array([[1, math.inf]]), 1)),
    (ValueError, "k=1: allowed is 1 to 0", lambda: randomized_svd(np.ones((0, 3)), 1)),
    (TypeError, "a=.*: an operator without a transpose", lambda: randomized_svd(Bare(OK), 1)),
    (
        ValueError,
        r"a: a product of shape \(3, 2\); allowed is \(2, 2\)",
        lambda: randomized_svd(Bare(OK, "T").shaped(2, 2), 1),
    ),
    (TypeError, "s: dtype complex", lambda: randomized_svd_error([1j], 1)),
    (ValueError, r"s: shape \(1, 1\)", lambda: randomized_svd_error([[1.0]], 1)),
    (ValueError, "s: shape", lambda: randomized_svd_error([-1.0], 1)),
    (ValueError, "k=2: allowed is 1 to 1, the length of s", lambda: randomized_svd_error([1.0], 2)),
]


def _shaped(self: Bare, *shape: int) -> Bare:
    self.shape = shape
    return self


Bare.shaped = _shaped


@pytest.mark.parametrize(("error", "match", "call"), SVD_ERRORS, ids=[match for _, match, _ in SVD_ERRORS])
def test_errors_of_the_svd(error: type[Exception], match: str, call: Any) -> None:
    with pytest.raises(error, match=f"^{match}"):
        call()
