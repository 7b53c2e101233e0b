"""Hashes and searches among codes, on every backend and level, against oracles and the laws that they obey.

Laws are tested over blocks of one long code, which are independent as codes of different seeds are. All seeds are
fixed; the thresholds are p-values of 1e-7 or 5.5 standard errors.
"""

from __future__ import annotations

import copy
import importlib.util
import math
import pickle
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import hashing_oracle as oracle
import numpy as np
import pytest
from conftest import running_on, variants
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse, stats

import fastk
from fastk import _hamming, _philox, _random_matrix, _sparse_hashes, hashing
from fastk.hashing import (
    BioHash,
    CrossPolytopeHash,
    FlyHash,
    SimHash,
    hamming_distance,
    hamming_range,
    hamming_topk,
)

MODULES = (hashing, _hamming, _random_matrix, _philox)
WIDE = ["float32", "float64"]
METHODS = ["hadamard", "gaussian", "orthogonal"]
HASHERS: list[Any] = [
    SimHash(300),
    SimHash(100, method="gaussian", seed=2**127 + 5),
    SimHash(100, method="orthogonal", seed=3),
    CrossPolytopeHash(21, seed=3),
    CrossPolytopeHash(40, n_dims=10),
    CrossPolytopeHash(9, method="gaussian"),
    FlyHash(123, 9, seed=2**64),
    BioHash(41, 5, epochs=2),
]
EQUAL_BITS = [hasher for hasher in HASHERS if hasher.get_params().get("method", "") in ("", "hadamard")][:-1]
SIMHASH_SIGNS, SIMHASH_ROTATION, SIMHASH_DENSE, CROSS_POLYTOPE, FLY, BIO = 6, 7, 8, 9, 10, 11
SIGMAS = 5.5
LEAST_P = 1e-7


def label(hasher: Any) -> str:
    return repr(hasher).replace(" ", "")


@pytest.fixture(params=variants())
def variant(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The public functions, once for each backend and level."""
    with running_on(request.param) as bound:
        for module in MODULES:
            monkeypatch.setattr(module, "kernels", bound)
        yield request.param


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """How many threads a call may use, until the test ends; little is worth one."""
    before = fastk.config()["threads"]
    for module in (*MODULES[:3], _sparse_hashes):
        monkeypatch.setattr(module, "_PIECE", 16)
    yield fastk.set_num_threads
    fastk.set_num_threads(before)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is kept, and everything is made and converted in small parts."""
    for name, value in (("STORED", 0), ("_BLOCK", 4000), ("_ROWS", 100), ("_CACHE", 600)):
        monkeypatch.setattr(hashing, name, value)
    monkeypatch.setattr(_sparse_hashes, "_ROWS", 300)
    for name, value in (("KEPT_BYTES", 800), ("_MADE", 64), ("_CHUNK", 50)):
        monkeypatch.setattr(_random_matrix, name, value)
    for name, value in (("_CALL", 1 << 14), ("_LISTS", 30), ("_ROWS", 50), ("_REUSE", 8)):
        monkeypatch.setattr(_hamming, name, value)


def sample(shape: Any, dtype: Any = np.float32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def thin(shape: Any, dtype: Any = np.float32) -> np.ndarray:
    """Rows most of which is zero; the first has nothing."""
    rng = np.random.default_rng(7)
    x = np.where(rng.random(shape) < 0.2, rng.standard_normal(shape), 0)
    x[0] = 0
    return x.astype(dtype)


def equal(a: Any, b: Any) -> None:
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)


def encoded(hasher: Any, x: Any) -> np.ndarray:
    """Codes, by a copy that is fitted to this; no floating-point flag may be raised."""
    with np.errstate(all="raise"):
        return copy.deepcopy(hasher).fit(x).encode(x)


def pair(d: int, degrees: float, kind: str = "normal", seed: int = 1) -> np.ndarray:
    """Two unit vectors at an angle."""
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((2, d)) if kind == "normal" else np.eye(2, d)
    if kind == "ones":
        a, b = np.ones(d), np.where(np.arange(d) % 2, -1.0, 1.0)
    a = a / np.linalg.norm(a)
    b = b - a * (a @ b)
    b = b / np.linalg.norm(b)
    t = math.radians(degrees)
    return np.array([a, math.cos(t) * a + math.sin(t) * b])


def bits_of(codes: np.ndarray, n: int) -> np.ndarray:
    return np.unpackbits(codes, axis=-1, count=n, bitorder="little").astype(bool)


# ---- SimHash


def signs(seed: int, tag: int, row: int, n: int) -> np.ndarray:
    words = oracle.words(seed, tag, row, 1, 0, -(-n // 64))[0]
    return np.array([1.0 if int(words[j // 64]) >> j % 64 & 1 else -1.0 for j in range(n)])


def rotation_table(p: int, first: np.ndarray, second: np.ndarray, g: np.ndarray, dtype: Any) -> np.ndarray:
    """(3, p) of a rotation by rounds."""
    u, v = np.split(g, 2)
    r = np.sqrt(u * u + v * v) * 2.0 ** (int(math.log2(p)) // 2)
    return np.array([first, second, np.concatenate([u / r, v / r])]).astype(dtype)


def padded_length(d: int) -> int:
    return max(256, 2 ** math.ceil(math.log2(d)))


def simhash_by_oracle(x: np.ndarray, n_bits: int, seed: int) -> np.ndarray:
    p = padded_length(x.shape[1])
    table = []
    for block in range(-(-n_bits // p)):
        pairs = [signs(seed, SIMHASH_SIGNS, 2 * block + i, p) for i in (0, 1)]
        # The normal numbers themselves are tested elsewhere, to the last bit.
        g = _philox.normal(seed, SIMHASH_ROTATION, 1, p, first_row=block)[0]
        table.append(rotation_table(p, *pairs, g, x.dtype))
    values = oracle.simhash_values(x, np.array(table))[:, :n_bits]
    return oracle.packed(values >= 0, -(-n_bits // 8))


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize(
    ("d", "n_bits"), [(1, 1), (2, 8), (3, 9), (100, 255), (256, 257), (257, 512), (300, 600), (1000, 2049)]
)
def test_simhash_by_rounds(variant, dtype, d, n_bits):
    x = sample((5, d), dtype)
    x[1] = 0
    seed = 2**100 + d
    got = SimHash(n_bits, seed=seed).fit(x).encode(x)
    equal(got, simhash_by_oracle(x, n_bits, seed))
    assert bits_of(got, n_bits)[1].all()
    assert not np.unpackbits(got, axis=1, bitorder="little")[:, n_bits:].any()


@pytest.mark.parametrize("dtype", WIDE)
def test_simhash_by_normal_numbers(variant, dtype):
    x = sample((20, 37), dtype)
    got = SimHash(333, method="gaussian", seed=9).fit(x).encode(x)
    matrix = oracle.normal(oracle.words(9, SIMHASH_DENSE, 0, 333, 0, 37))
    values = x.astype(np.float64) @ matrix.T
    sure = np.abs(values) > 1e-4
    assert sure.mean() > 0.99
    np.testing.assert_array_equal(bits_of(got, 333)[sure], (values >= 0)[sure])


def haar_by_reflections(g: np.ndarray) -> np.ndarray:
    """The rows of g, made orthonormal one after the other (Gram and Schmidt, twice)."""
    rows: list[np.ndarray] = []
    for row in g:
        for _ in range(2):
            for other in rows:
                row = row - other * (other @ row)
        rows.append(row / np.linalg.norm(row))
    return np.array(rows)


def test_simhash_by_orthogonal_rows(variant):
    x = sample((50, 13), np.float64)
    got = SimHash(45, method="orthogonal", seed=9).fit(x).encode(x)
    g = oracle.normal(oracle.words(9, SIMHASH_DENSE, 0, 45, 0, 13))
    matrix = np.concatenate([haar_by_reflections(g[i : i + 13]) for i in range(0, 45, 13)])
    np.testing.assert_array_equal(bits_of(got, 45), x @ matrix.T >= 0)


@pytest.mark.parametrize(
    ("hasher", "wanted"),
    [
        (SimHash(64), ["356accc4816128c9", "2569c8c7d1e12829"]),
        (FlyHash(64, 8), ["0840201004008044", "0840201000009044"]),
        (CrossPolytopeHash(6), [[25, 54, 14, 47, 31, 54], [58, 38, 58, 29, 46, 54]]),
    ],
    ids=["simhash", "fly", "polytope"],
)
def test_published_vectors(variant, hasher, wanted):
    x = ((np.arange(60).reshape(2, 30) * 37) % 101 - 50.0).astype(np.float32)
    assert [row.tobytes().hex() if row.dtype == np.uint8 else row.tolist() for row in encoded(hasher, x)] == wanted


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("d", [3, 300, 5000])
def test_range_of_rounds(variant, dtype, d):
    """Codes of vectors at the limits that are promised are those of others with their direction."""
    x = sample((3, d), dtype)
    x[0] = 1
    p = padded_length(d)
    wanted = encoded(SimHash(2 * p), x)
    most, least = (127, -100) if dtype == "float32" else (1023, -1000)
    # The norm, to the power of two below it.
    norm = math.floor(np.log2(np.linalg.norm(x.astype(np.float64), axis=1).max())) + 1
    for exponent in (most - int(math.log2(p)) - norm, least - norm + 1):
        equal(SimHash(2 * p).fit(x).encode(np.ldexp(x, exponent)), wanted)


@pytest.mark.parametrize("d", [256, 512])
def test_no_rounds_overflow(variant, d):
    """With what comes to lie along one axis, or is far from all of them, after the last stage."""
    pairs = [signs(0, SIMHASH_SIGNS, i, d) for i in (0, 1)]
    g = _philox.normal(0, SIMHASH_ROTATION, 1, d)[0]
    table = rotation_table(d, *pairs, g, np.float64)
    c, s = np.split(table[2], 2)
    axes = np.eye(4, d)
    # The rotation backwards.
    low, high = np.split(oracle.hadamard_rows(axes), 2, axis=1)
    turned = np.concatenate([c * low + s * high, c * high - s * low], axis=1)
    x = oracle.hadamard_rows(oracle.hadamard_rows(turned) * table[1]) * table[0]
    x *= 0.999 * 2.0**127 / d / np.linalg.norm(x, axis=1, keepdims=True)
    values = oracle.simhash_values(x.astype(np.float32), table[None].astype(np.float32))
    assert 0.6 * 2.0**127 < np.abs(values).max() < math.inf
    wanted = encoded(SimHash(d), np.ldexp(x, -60).astype(np.float32))
    equal(encoded(SimHash(d), x.astype(np.float32)), wanted)


def law(codes: np.ndarray, block: int, t: float) -> tuple[float, float, float]:
    """The mean part of bits that differ less t / pi, its standard error, and the variance beside a binomial law's."""
    distance = hamming_distance(*codes.reshape(2, -1, block // 8)).astype(float)
    p = t / math.pi
    ratio = distance.var() / (block * p * (1 - p))
    return distance.mean() / block - p, distance.std() / block / math.sqrt(distance.size), ratio


@pytest.mark.parametrize("degrees", [5, 60, 90])
@pytest.mark.parametrize("kind", ["normal", "one-hot", "ones"])
@pytest.mark.parametrize("d", [2, 3, 16, 64, 1000])
def test_simhash_by_rounds_is_unbiased(d, kind, degrees):
    block = padded_length(d)
    x = pair(d, degrees, kind)
    error, deviation, ratio = law(SimHash(2**20, seed=d).fit(x).encode(x), block, math.radians(degrees))
    assert deviation < 5e-4
    assert abs(error) < SIGMAS * deviation
    assert ratio < 1 + SIGMAS * math.sqrt(2 * block / 2**20)


@pytest.mark.parametrize("kind", ["normal", "ones"])
@pytest.mark.parametrize("d", [2, 3, 16, 64])
def test_simhash_by_orthogonal_rows_is_unbiased(d, kind):
    """With x along (1, ..., 1), where rows that are orthogonal but not uniform are far off."""
    block, count = 8 * d, 4000 if d < 64 else 400
    x = pair(d, 60, kind)
    codes = SimHash(count * block, method="orthogonal", seed=d).fit(x).encode(x)
    error, deviation, ratio = law(codes, block, math.pi / 3)
    assert deviation > 0
    assert abs(error) < SIGMAS * deviation
    # Of many dimensions; less for few.
    assert ratio < 0.66 * (1 + SIGMAS * math.sqrt(2 / count))


def test_orthogonal_rows_are_uniform():
    """The first entry of each block's first row, and its sign, which QR would always make the same."""
    d, count = 4, 4000
    ((_, matrix),) = hashing._Matrix(1, SIMHASH_DENSE, d * count, d, 8, True).blocks(np.dtype(np.float64))
    blocks = matrix.reshape(count, d, d)
    np.testing.assert_allclose(blocks @ blocks.transpose(0, 2, 1), np.broadcast_to(np.eye(d), blocks.shape), atol=1e-12)
    for i in range(d):
        for j in range(d):
            # The square of an entry of a unit vector of d dimensions is of a beta distribution.
            assert stats.kstest(blocks[:, i, j] ** 2, stats.beta(0.5, (d - 1) / 2).cdf).pvalue > LEAST_P
            assert stats.binomtest(int((blocks[:, i, j] > 0).sum()), count).pvalue > LEAST_P


@pytest.mark.parametrize("degrees", [20, 60, 120])
@pytest.mark.parametrize("d", [2, 30])
def test_simhash_by_normal_numbers_is_binomial(d, degrees):
    n, count, p = 16, 6000, degrees / 180
    x = pair(d, degrees)
    codes = SimHash(n * count, method="gaussian", seed=degrees).fit(x).encode(x)
    distance = hamming_distance(*codes.reshape(2, count, n // 8))
    wanted = count * stats.binom(n, p).pmf(np.arange(n + 1))
    rare = wanted < 5
    got = np.bincount(distance, minlength=n + 1)
    observed, expected = np.append(got[~rare], got[rare].sum()), np.append(wanted[~rare], wanted[rare].sum())
    assert stats.chisquare(observed, expected).pvalue > LEAST_P
    # The variance, by that of its estimate.
    fourth = n * p * (1 - p) * (1 + 3 * (n - 2) * p * (1 - p))
    variance = n * p * (1 - p)
    deviation = math.sqrt((fourth - variance**2) / count)
    assert abs(((distance - n * p) ** 2).mean() - variance) < SIGMAS * deviation


def test_angle_and_cosine():
    hasher = SimHash(40)
    equal(hasher.angle([[0, 10], [20, 40]]), np.array([[0, 10], [20, 40]]) * (np.pi / 40))
    np.testing.assert_allclose(
        hasher.cosine(np.array([0, 10, 20, 40], np.int32)), [1, math.sqrt(0.5), 0, -1], atol=1e-15
    )
    assert hasher.angle(np.int32(20)) == pytest.approx(math.pi / 2)
    assert np.ndim(hasher.cosine(7)) == 0
    for bad in (-1, 41, [3, 2**31 - 1], math.nan):
        with pytest.raises(ValueError, match=r"distance=.*allowed is 0 to n_bits, 40"):
            hasher.angle(bad)
    with pytest.raises(ValueError, match="n_bits=0"):
        SimHash(0).angle(0)
    with pytest.raises(TypeError, match="distance: dtype"):
        hasher.cosine("3")
    np.testing.assert_allclose(hasher.collision_probability([0, math.pi / 4, math.pi]), [1, 0.75, 0])
    for bad in (-0.1, 3.2):
        with pytest.raises(ValueError, match=r"angle=.*allowed is 0 to pi"):
            hasher.collision_probability(bad)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("n_bits", [1, 8, 700])
def test_one_number_that_is_not_finite(variant, wrong, n_bits):
    """It is found behind the codes that were made of it, wherever it is."""
    x = sample((300, 20), np.float32)
    hasher = SimHash(n_bits, seed=n_bits).fit(x)
    for place in [(0, 0), (7, 19), (299, 3), *np.ndindex(1, 20)]:
        y = x.copy()
        y[place] = wrong
        with pytest.raises(ValueError, match=r"^X: Input X contains NaN or infinity"):
            hasher.encode(y)
    hasher.encode(-x)


@pytest.mark.parametrize("method", METHODS)
def test_shorter_codes_are_prefixes(method):
    x = sample((9, 20), np.float64)
    long = SimHash(500, method=method, seed=4).fit(x).encode(x)
    for n_bits in (8, 64, 248):
        equal(SimHash(n_bits, method=method, seed=4).fit(x).encode(x), long[:, : n_bits // 8])


# ---- cross-polytope


def axis_of(values: np.ndarray) -> np.ndarray:
    """(..., n): the place of the first number of largest magnitude, with its sign."""
    n = values.shape[-1]
    both = np.concatenate([values, -values], axis=-1)
    order = np.lexsort((np.broadcast_to(np.tile(np.arange(n), 2), both.shape), -both), axis=-1)
    return order[..., 0].astype(np.int32)


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize(
    ("d", "n_dims", "n_hashes"), [(1, None, 3), (20, None, 19), (20, 10, 60), (300, 700, 3), (300, 1, 5)]
)
def test_polytope_by_rounds(variant, dtype, d, n_dims, n_hashes):
    x = sample((6, d), dtype)
    x[1] = 0
    seed = 2**70 + d
    got = CrossPolytopeHash(n_hashes, n_dims=n_dims, seed=seed).fit(x).encode(x)
    n = n_dims or 2 ** math.ceil(math.log2(d))
    p = max(2048, 2 ** math.ceil(math.log2(max(d, 16 * n))))
    values = []
    for i in range(-(-n_hashes // (p // n))):
        row = 2**63 + 3 * i
        g = _philox.normal(seed, CROSS_POLYTOPE, 1, p, first_row=row + 2)[0]
        pairs = [signs(seed, CROSS_POLYTOPE, row + k, p) for k in (0, 1)]
        turned = oracle.simhash_values(x, rotation_table(p, *pairs, g, dtype)[None])
        values.append(turned[:, : p // n * n].reshape(len(x), p // n, n))
    equal(got, axis_of(np.concatenate(values, axis=1)[:, :n_hashes]))
    assert not got[1].any()


@pytest.mark.parametrize("dtype", WIDE)
def test_polytope_by_normal_numbers(variant, dtype):
    x = sample((20, 11), dtype)
    got = CrossPolytopeHash(30, n_dims=7, method="gaussian", seed=9).fit(x).encode(x)
    matrix = oracle.normal(oracle.words(9, CROSS_POLYTOPE, 0, 210, 0, 11))
    equal(got, axis_of((x.astype(np.float64) @ matrix.T).reshape(20, 30, 7)))


def collision(n_dims: int, degrees: Any) -> Any:
    return CrossPolytopeHash(1, n_dims=n_dims).fit(np.eye(1)).collision_probability(np.radians(degrees))


def test_collision_probability():
    np.testing.assert_allclose(collision(16, [30, 60, 90]), [0.48896, 0.17299, 0.03125], atol=5e-6)
    np.testing.assert_allclose(collision(128, [30, 60, 90]), [0.36523, 0.07470, 0.00391], atol=6e-6)
    degrees = np.array([0, 0.01, 1, 20, 90, 130, 179, 180])
    # With one dimension a hash is a sign, with two it is two.
    np.testing.assert_allclose(collision(1, degrees), 1 - degrees / 180, atol=1e-7)
    np.testing.assert_allclose(collision(2, degrees), (1 - degrees / 180) ** 2, atol=1e-7)
    for n_dims in (3, 1000, 10**6):
        assert collision(n_dims, 90) == pytest.approx(1 / (2 * n_dims), rel=1e-6)
    assert np.ndim(collision(16, 30)) == 0
    with pytest.raises((ValueError, AttributeError), match="not fitted"):
        CrossPolytopeHash(1).collision_probability(1)


def test_collision_probability_by_other_integrals():
    """For three dimensions: what is within both boxes, by SciPy."""
    rho = math.cos(1)
    both = stats.multivariate_normal(cov=[[1, rho], [rho, 1]])
    node, weight = np.polynomial.legendre.leggauss(60)
    node, weight = (node + 1) * 4, weight * 4
    total = 0.0
    for u, du in zip(node, weight, strict=True):
        corners = [(both.cdf(np.stack([np.full(60, a * u), b * node], -1)), a * b) for a in (1, -1) for b in (1, -1)]
        inside = sum(value * sign for value, sign in corners)
        density = both.pdf(np.stack([np.full(60, u), node], -1))
        total += du * (density * inside**2 * weight).sum()
    assert CrossPolytopeHash(1, n_dims=3).fit(np.eye(1)).collision_probability(1.0) == pytest.approx(
        6 * total, abs=1e-4
    )


@pytest.mark.parametrize("method", ["gaussian", "hadamard"])
@pytest.mark.parametrize(
    ("d", "degrees", "count"), [(16, 30, 20000), (16, 60, 20000), (16, 90, 20000), (128, 30, 1500), (128, 60, 1500)]
)
def test_collisions(method, d, degrees, count):
    x = pair(d, degrees)
    codes = CrossPolytopeHash(count, method=method, seed=d).fit(x).encode(x)
    p = collision(d, degrees)
    same = int((codes[0] == codes[1]).sum())
    if method == "gaussian":
        assert stats.binomtest(same, count, p).pvalue > LEAST_P
    else:  # of a rotation, not of normal numbers: a little less
        assert abs(same / count - p) < SIGMAS * math.sqrt(p / count) + 0.05 * p
    for row in codes:
        expected = np.full(2 * d, count / (2 * d))
        assert stats.chisquare(np.bincount(row, minlength=2 * d), expected).pvalue > LEAST_P


# ---- FlyHash


def fly_by_oracle(x: np.ndarray, hasher: FlyHash) -> np.ndarray:
    k, d = hasher.n_components, x.shape[1]
    halves = oracle.words(hasher.seed, FLY, 0, k, 0, -(-d // 2)).astype("<u8").view("<u4")[:, :d]
    matrix = (halves < hasher.density * 2**32).astype(np.int8)
    one = x.dtype.type(1)
    sums = oracle.sparse_project(x, matrix, one)
    mean = oracle.sparse_project(x, np.ones((1, d), np.int8), one) / x.dtype.type(d)
    values = sums - mean * matrix.sum(axis=1).astype(x.dtype)
    bits = np.zeros(values.shape, bool)
    for row, value in zip(bits, values, strict=True):
        row[np.argsort(-value, kind="stable")[: hasher.n_active]] = True
    return oracle.packed(bits, -(-k // 8))


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize(
    "hasher",
    [FlyHash(1, 1), FlyHash(50, 7), FlyHash(65, 65, 0.5), FlyHash(200, 10, 0.02, 2**90), FlyHash(33, 4, 1.0)],
    ids=label,
)
def test_fly_hash(variant, hasher, dtype):
    x = sample((9, 21), dtype)
    x[0], x[1] = 0, np.arange(21) % 3
    got = encoded(hasher, x)
    equal(got, fly_by_oracle(x, hasher))
    assert (np.unpackbits(got, axis=1).sum(axis=1) == hasher.n_active).all()


def test_density_of_connections():
    matrix = _sparse_hashes.Connections(400, 300, 0.1, 5)
    degree = matrix.times(np.ones((1, 300)))[0]
    assert stats.binomtest(int(degree.sum()), 400 * 300, 0.1).pvalue > LEAST_P
    spread = stats.chi2(399).sf((degree.var() * 400) / (300 * 0.09))
    assert LEAST_P < spread < 1 - LEAST_P


def test_winners():
    values = np.array(
        [[1, 3, 3, 2, 3], [0, 0, 0, 0, 0], [np.nan, 1, np.nan, -np.inf, 2], [np.inf, 5, np.inf, 1, np.inf]]
    )
    wanted = [[0, 1, 1, 0, 0], [1, 1, 0, 0, 0], [0, 1, 0, 0, 1], [1, 0, 1, 0, 0]]
    np.testing.assert_array_equal(_sparse_hashes.winners(values, 2), np.array(wanted, bool))
    assert _sparse_hashes.winners(values, 5).all()
    rng = np.random.default_rng(0)
    values = rng.integers(0, 4, (500, 23)).astype(np.float32)
    got = _sparse_hashes.winners(values, 9)
    order = np.argsort(-values, axis=1, kind="stable")[:, :9]
    wanted = np.zeros(values.shape, bool)
    np.put_along_axis(wanted, order, True, 1)
    np.testing.assert_array_equal(got, wanted)


def test_fly_hash_ignores_length_and_offset():
    x = np.random.default_rng(0).integers(0, 100, (20, 64)).astype(float)
    wanted = encoded(FlyHash(300, 15), x)
    equal(encoded(FlyHash(300, 15), 4 * x), wanted)
    equal(encoded(FlyHash(300, 15), x + 32), wanted)


def test_codes_of_numbers_that_overflow():
    x = np.array([[3e38] * 30, [3e38] * 15 + [-3e38] * 15], np.float32)
    for hasher in (FlyHash(40, 5, 0.5), BioHash(40, 5)):
        codes = encoded(hasher, x)
        assert (np.unpackbits(codes, axis=1).sum(axis=1) == 5).all()


# ---- BioHash


def learnt(w: np.ndarray, batch: np.ndarray, rate: float, p: float, delta: float, rank: int) -> np.ndarray:
    """Components after a batch, by the rule as it is written."""
    changes = np.zeros_like(w)
    weights = np.zeros(len(w))
    for v in batch:
        v = v / (np.linalg.norm(v) or 1)
        inner = np.array([(np.sign(row) * np.abs(row) ** (p - 1) * v).sum() for row in w])
        unit = [row / (np.abs(row) ** p).sum() ** (1 / p) for row in w]
        compared = np.array([(np.sign(row) * np.abs(row) ** (p - 1) * v).sum() for row in unit])
        order = np.argsort(-compared, kind="stable")
        for place, weight in ((order[0], 1), (order[rank - 1], -delta)):
            changes[place] += weight * (v - inner[place] * w[place])
            weights[place] += abs(weight)
    mean = changes / np.where(weights > 0, weights, 1)[:, None]
    return w + mean * (1 - (1 - rate) ** weights)[:, None]


@pytest.mark.parametrize("epochs", [None, 1, 5])
@pytest.mark.parametrize(("p", "delta", "rank"), [(2, 0, 2), (2, 0.3, 2), (3, 0.25, 4), (1.5, 0.5, 3)])
def test_rule_of_bio_hash(p, delta, rank, epochs):
    x = sample((50, 6), np.float64, seed=5)
    hasher = BioHash(8, 2, learning_rate=0.6, batch_size=20, p=p, delta=delta, rank=rank, seed=11)
    w = oracle.normal(oracle.words(11, BIO, 0, 8, 0, 6))
    w /= (np.abs(w) ** p).sum(axis=1, keepdims=True) ** (1 / p)
    if epochs is None:
        hasher.partial_fit(x)
        orders, rates = [np.arange(50)], [0.6]
    else:
        hasher.set_params(epochs=epochs).fit(x)
        orders = [np.argsort(oracle.words(11, BIO, 2**63 + i, 1, 0, 50)[0], kind="stable") for i in range(epochs)]
        rates = [0.6 * (epochs - i) / epochs for i in range(epochs)]
    centred = x - x.mean(axis=0)
    for order, rate in zip(orders, rates, strict=True):
        for first in range(0, 50, 20):
            w = learnt(w, centred[order[first : first + 20]], rate, p, delta, rank)
    np.testing.assert_allclose(hasher.components_, w, rtol=1e-7, atol=1e-9)
    bits = np.zeros((50, 8), bool)
    np.put_along_axis(bits, np.argsort(-(centred @ w.T), axis=1)[:, :2], True, 1)
    equal(hasher.encode(x), oracle.packed(bits, 1))


def precision(hasher: Any, base: np.ndarray, queries: np.ndarray, relevant: np.ndarray) -> float:
    """Mean average precision over all of the base."""
    hasher.fit(base)
    order = np.argsort(hamming_distance(hasher.encode(queries)[:, None], hasher.encode(base)), axis=1, kind="stable")
    hits = np.take_along_axis(relevant, order, 1)
    ranks = np.arange(1, base.shape[0] + 1)
    return float(((np.cumsum(hits, axis=1) / ranks * hits).sum(axis=1) / hits.sum(axis=1)).mean())


@pytest.mark.parametrize(("n_active", "margin"), [(2, 0.25), (4, 0.2), (8, 0.1)])
def test_bio_hash_beats_fly_hash(n_active, margin):
    """Digits of the same kind, found by codes whose part of active bits is 5 %."""
    x, y = pytest.importorskip("sklearn.datasets").load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order].astype(np.float32), y[order]
    task = x[300:], x[:300], y[:300, None] == y[300:]
    bio = precision(BioHash(20 * n_active, n_active), *task)
    fly = precision(FlyHash(20 * n_active, n_active), *task)
    assert bio > 0.5
    assert bio > fly + margin


def test_bio_hash_by_parts():
    x = sample((60, 7), np.float64)
    hasher = BioHash(20, 3, batch_size=10)
    parts = [x[:20], x[20:21], x[21:]]
    for i, rows in enumerate(parts):
        assert hasher.partial_fit(rows) is hasher
        seen = np.concatenate(parts[: i + 1])
        np.testing.assert_allclose(hasher.mean_, seen.mean(axis=0), atol=1e-14)
        assert hasher.n_samples_seen_ == len(seen)
    with pytest.raises(ValueError, match="n_components=21: allowed is that of the first fit, 20"):
        hasher.set_params(n_components=21).partial_fit(x)
    with pytest.raises(ValueError, match="X has 3 features"):
        hasher.set_params(n_components=20).partial_fit(x[:, :3])
    # A fit begins anew.
    equal(hasher.fit(x).components_, BioHash(20, 3, batch_size=10).fit(x).components_)
    assert not np.array_equal(hasher.components_, BioHash(20, 3, batch_size=10, seed=1).fit(x).components_)


def test_rows_of_bio_hash_have_norm_one():
    x = np.repeat(sample((5, 12)), 40, axis=0) + 0.1 * sample((200, 12), seed=1)
    w = BioHash(10, 2, epochs=30).fit(x).components_
    assert w.dtype == np.float32
    norm = np.linalg.norm(w, axis=1)
    centred = x - x.mean(axis=0)
    cosine = centred @ w.T / np.linalg.norm(centred, axis=1)[:, None] / norm
    # Each group of the data has a component that stands for it.
    assert cosine.max(axis=1).min() > 0.95
    np.testing.assert_allclose(norm[cosine.argmax(axis=1)], 1, atol=0.01)


# ---- what all have in common


@pytest.mark.parametrize("hasher", HASHERS, ids=label)
def test_sparse_input(variant, hasher):
    for dtype in WIDE:
        x = thin((23, 40), dtype)
        wanted = encoded(hasher, x)
        for kind in (sparse.csr_matrix, sparse.csr_array, sparse.csc_matrix, sparse.coo_matrix):
            equal(encoded(hasher, kind(x)), wanted)


@pytest.mark.parametrize("hasher", HASHERS, ids=label)
def test_layouts(variant, hasher):
    x = sample((12, 20))
    fitted = copy.deepcopy(hasher).fit(x)
    wanted = fitted.encode(x)
    wide = np.zeros((24, 40), np.float32)
    wide[::2, ::-2] = x
    frozen = x.copy()
    frozen.flags.writeable = False
    odd = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)
    swapped = x.astype(">f4")
    for other in (np.asfortranarray(x), wide[::2, ::-2], frozen, odd, swapped):
        before = other.tobytes()
        equal(fitted.encode(other), wanted)
        assert other.tobytes() == before
    for rows in (slice(0, 1), slice(5, 6), slice(3, 9)):
        equal(fitted.encode(x[rows]), wanted[rows])


@pytest.mark.parametrize("hasher", HASHERS, ids=label)
def test_dtypes(variant, hasher):
    exact = np.random.default_rng(0).integers(-50, 50, (12, 20))
    single, double = exact.astype(np.float32), exact.astype(np.float64)
    wanted, wanted_double = encoded(hasher, single), encoded(hasher, double)
    narrow = [np.dtype(np.float16)]
    if importlib.util.find_spec("ml_dtypes"):
        import ml_dtypes

        narrow.append(np.dtype(ml_dtypes.bfloat16))
    for dtype in narrow:
        equal(encoded(hasher, exact.astype(dtype)), wanted)
    for dtype in (np.int8, np.int64):
        equal(encoded(hasher, exact.astype(dtype)), wanted_double)
    equal(encoded(hasher, exact.tolist()), wanted_double)


@pytest.mark.parametrize("hasher", HASHERS, ids=label)
def test_threads(variant, threads, hasher):
    x = sample((50, 20))
    for rows in (x, sparse.csr_matrix(thin((50, 20)))):
        threads(1)
        wanted = encoded(hasher, rows)
        for n in (2, 3, 7):
            threads(n)
            equal(encoded(hasher, rows), wanted)


@pytest.mark.parametrize("hasher", HASHERS, ids=label)
def test_small_parts(request, variant, hasher):
    x = sample((50, 20), np.float64)
    operands = x, sparse.csr_matrix(thin((50, 20), np.float64)), x.astype(np.float16)
    wanted = [encoded(hasher, operand) for operand in operands]
    request.getfixturevalue("small_parts")
    for operand, codes in zip(operands, wanted, strict=True):
        equal(encoded(hasher, operand), codes)


@pytest.mark.parametrize("hasher", EQUAL_BITS, ids=label)
def test_equal_bits(on_each, monkeypatch, hasher):
    x = sample((40, 333))
    codes = []

    def run(bound: Any) -> None:
        for module in MODULES:
            monkeypatch.setattr(module, "kernels", bound)
        codes.append([encoded(hasher, x), encoded(hasher, x.astype(np.float64)), encoded(hasher, sparse.csr_matrix(x))])

    on_each(run)
    for other in codes[1:]:
        for got, wanted in zip(other, codes[0], strict=True):
            equal(got, wanted)


@pytest.mark.parametrize("hasher", HASHERS, ids=label)
def test_estimator(hasher):
    x = sample((30, 50))
    hasher = copy.deepcopy(hasher)
    with pytest.raises((ValueError, AttributeError), match="not fitted"):
        hasher.encode(x)
    assert hasher.fit(x) is hasher
    wanted = hasher.encode(x)
    equal(hasher.transform(x), wanted)
    equal(copy.deepcopy(hasher).fit_transform(x), wanted)
    stored = pickle.dumps(hasher)
    assert len(stored) < 1000 + hasher.__dict__.get("components_", np.empty(0)).nbytes + 8 * 50
    equal(pickle.loads(stored).encode(x), wanted)
    equal(hasher.encode(x), wanted)
    again = type(hasher)(**hasher.get_params())
    assert repr(again) == repr(hasher)
    equal(again.fit(x).encode(x), wanted)
    assert not np.array_equal(again.set_params(seed=77).fit(x).encode(x), wanted)
    # Parameters take effect with the next fit.
    hasher.set_params(seed=77)
    equal(hasher.encode(x), wanted)


@pytest.mark.parametrize(
    "hasher",
    [SimHash(20), SimHash(20, method="gaussian"), CrossPolytopeHash(3), FlyHash(30, 1), BioHash(30, 1, epochs=1)],
    ids=label,
)
def test_checks_of_sklearn(hasher):
    checks = pytest.importorskip("sklearn.utils.estimator_checks")
    if not hasattr(checks, "estimator_checks_generator"):
        pytest.skip("scikit-learn 1.6 or newer is needed")
    with warnings.catch_warnings():
        # One says that it is no subclass of BaseEstimator, which would need scikit-learn to be imported.
        warnings.simplefilter("ignore")
        results = checks.check_estimator(hasher, on_fail=None, on_skip=None)
    failed = [f"{each['check_name']}: {each['exception']}" for each in results if each["status"] == "failed"]
    assert not failed, "\n".join(failed)
    assert {each["check_name"] for each in results if each["status"] != "passed"} <= {"check_array_api_input"}
    assert len(results) > 30


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: SimHash(0), ValueError, "n_bits=0: allowed is 1 to"),
        (lambda: SimHash(1.5), TypeError, "n_bits=1.5: an integer is needed"),
        (lambda: SimHash(8, seed=-1), ValueError, "seed=-1"),
        (lambda: SimHash(8, method="haar"), ValueError, "method='haar': allowed are hadamard, gaussian, orthogonal"),
        (lambda: SimHash(8, method=None), TypeError, "method=None: a string is needed"),
        (lambda: CrossPolytopeHash(0), ValueError, "n_hashes=0: allowed is 1 to"),
        (lambda: CrossPolytopeHash(1, n_dims=0), ValueError, "n_dims=0: allowed is 1 to"),
        (lambda: CrossPolytopeHash(1, method="orthogonal"), ValueError, "method='orthogonal': allowed are hadamard, g"),
        (lambda: FlyHash(10, 11), ValueError, "n_active=11: allowed is 1 to n_components, 10"),
        (lambda: FlyHash(10, 0), ValueError, "n_active=0"),
        (lambda: FlyHash(0, 0), ValueError, "n_components=0"),
        (lambda: FlyHash(10, 1, 0.0), ValueError, "density=0.0: a number from"),
        (lambda: FlyHash(10, 1, 1.5), ValueError, "density=1.5"),
        (lambda: FlyHash(10, 1, "auto"), TypeError, "density='auto'"),
        (lambda: FlyHash(10, 1, seed=2**128), ValueError, "seed="),
        (lambda: BioHash(10, 11), ValueError, "n_active=11"),
        (lambda: BioHash(10, 1, epochs=0), ValueError, "epochs=0"),
        (lambda: BioHash(10, 1, learning_rate=0), ValueError, "learning_rate=0"),
        (lambda: BioHash(10, 1, learning_rate=1.01), ValueError, "learning_rate=1.01: a number above 0, up to 1"),
        (lambda: BioHash(10, 1, batch_size=0), ValueError, "batch_size=0"),
        (lambda: BioHash(10, 1, p=1), ValueError, "p=1: a finite number above 1"),
        (lambda: BioHash(10, 1, delta=-0.1), ValueError, "delta=-0.1: a number that is at least 0"),
        (lambda: BioHash(10, 1, rank=1), ValueError, "rank=1"),
        (lambda: BioHash(10, 1, delta=0.1, rank=11), ValueError, "rank=11: allowed is 2 to n_components, 10"),
        (lambda: BioHash(10, 1, seed="1"), TypeError, "seed='1'"),
    ],
)
def test_parameters_that_are_refused(make, error, message):
    hasher = make()  # scikit-learn's way: what is wrong is said by fit
    with pytest.raises(error, match=f"^{message}".replace("*", r"\*")):
        hasher.fit(np.eye(3))
    assert not hasattr(hasher, "n_features_in_")


@pytest.mark.parametrize("hasher", HASHERS, ids=label)
@pytest.mark.parametrize(
    ("x", "error"),
    [
        (np.ones(3), ValueError),
        (np.ones((2, 4)), ValueError),
        (np.ones((0, 3)), ValueError),
        (np.array([[1, 2, np.nan]]), ValueError),
        (np.array([[1, 2, np.inf]]), ValueError),
        (np.ones((2, 3), complex), ValueError),
        (np.array([["a", "b", "c"]]), (TypeError, ValueError)),
    ],
)
def test_input_that_is_refused(hasher, x, error):
    hasher = copy.deepcopy(hasher).fit(np.eye(3))
    with pytest.raises(error, match=r"^X|could not convert"):
        hasher.encode(x)


def test_nothing_is_imported(run_python):
    code = """
import sys, numpy as np
from fastk.hashing import BioHash, CrossPolytopeHash, FlyHash, SimHash, hamming_topk
for hasher in (SimHash(9), SimHash(9, method="orthogonal"), CrossPolytopeHash(2), FlyHash(9, 2), BioHash(9, 2)):
    codes = hasher.fit_transform(np.eye(3))
CrossPolytopeHash(2).fit(np.eye(3)).collision_probability(1)
hamming_topk(codes, codes, 2)
assert not {"scipy", "sklearn", "pandas", "torch"} & set(sys.modules), sorted(sys.modules)
"""
    run = run_python("-c", code)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("method", METHODS)
def test_memory_of_simhash(monkeypatch, method):
    """Neither the matrix nor the projections are there as a whole."""
    x = sample((2000, 64))
    hasher = SimHash(20000, method=method).fit(x)
    monkeypatch.setattr(hashing, "STORED", 0)
    monkeypatch.setattr(hashing, "_BLOCK", 1 << 20)
    tracemalloc.start()
    code = hasher.encode(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The matrix has 10 MB in float64, the projections have 160 MB.
    assert peak < code.nbytes + (12 << 20)


# ---- Hamming distances


def random_codes(shape: Any, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


WIDTHS = [0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 1000, 4096]


@pytest.mark.parametrize("width", WIDTHS)
def test_distances_of_pairs(variant, width):
    a, b = random_codes((37, width)), random_codes((37, width), 1)
    a[3], b[3] = 0, 255
    a[4] = b[4]
    equal(hamming_distance(a, b), oracle.distances(a, b).astype(np.int32))
    got = hamming_distance(a[3], b[3])
    assert isinstance(got, np.int32)
    assert got == 8 * width


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((), ()),
        ((), (5,)),
        ((7,), ()),
        ((6, 1), (5,)),
        ((300, 1), (2,)),
        ((1, 1), (1,)),
        ((3, 1, 4), (2, 1)),
        ((4, 1, 5, 1), (3, 1, 6)),
        ((0,), (0,)),
        ((3, 1), (0,)),
        ((2, 70), (2, 70)),
    ],
)
def test_broadcasting(variant, threads, monkeypatch, one, other):
    monkeypatch.setattr(_hamming, "_ROWS", 40)
    a, b = random_codes((*one, 9)), random_codes((*other, 9), 1)
    for n in (1, 3):
        threads(n)
        got = hamming_distance(a, b)
        wanted = oracle.distances(a, b).astype(np.int32)
        equal(np.asarray(got), np.asarray(wanted))
        assert got.shape == wanted.shape
        assert got.ndim == 0 or got.flags.c_contiguous
        turned = hamming_distance(a[..., ::-1], np.asfortranarray(b)[..., ::-1])
        equal(np.asarray(turned), np.asarray(wanted))


def test_distances_do_not_copy_operands():
    a, b = random_codes((3000, 1, 64)), random_codes((500, 64))
    tracemalloc.start()
    out = hamming_distance(a, b)
    flat = hamming_distance(a[:, 0], b[0])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < out.nbytes + flat.nbytes + (1 << 20)


def by_sorting(queries: np.ndarray, codes: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    lists = [oracle.nearest(oracle.distances(query, codes), np.arange(len(codes)), k) for query in queries]
    return (
        np.array([one[0] for one in lists], np.int32).reshape(len(queries), k),
        np.array([one[1] for one in lists], np.int64).reshape(len(queries), k),
    )


def within(queries: np.ndarray, codes: np.ndarray, radius: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    lims, distances, ids = [0], [], []
    for query in queries:
        distance = oracle.distances(query, codes).astype(np.int32)
        found = np.flatnonzero(distance <= radius)
        found = found[np.lexsort((found, distance[found]))]
        distances.append(distance[found])
        ids.append(found.astype(np.int64))
        lims.append(lims[-1] + len(found))
    empty = [np.empty(0, np.int32)], [np.empty(0, np.int64)]
    return np.array(lims, np.int64), np.concatenate(empty[0] + distances), np.concatenate(empty[1] + ids)


def check_search(queries: np.ndarray, codes: np.ndarray, k: int, radius: int) -> None:
    for got, wanted in zip(hamming_topk(queries, codes, k), by_sorting(queries, codes, k), strict=True):
        equal(got, wanted)
    for got, wanted in zip(hamming_range(queries, codes, radius), within(queries, codes, radius), strict=True):
        equal(got, wanted)


@pytest.mark.parametrize("width", WIDTHS)
def test_search(variant, width):
    codes = random_codes((200, width))
    queries = random_codes((5, width), 1)
    queries[0] = codes[7]
    codes[50:60] = codes[7]
    for k, radius in ((1, 0), (12, 4 * width), (200, 8 * width)):
        check_search(queries, codes, k, radius)


@given(
    st.integers(0, 40),
    st.integers(0, 150),
    st.integers(1, 5),
    st.integers(1, 170),
    st.integers(0, 12),
    st.integers(0, 2**32 - 1),
)
def test_search_with_ties(variant, queries, n, width, k, radius, seed):
    """Few bits are set, so that most distances are there many times."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 4, (n, width), dtype=np.uint8)
    check_search(rng.integers(0, 4, (queries, width), dtype=np.uint8), codes, k, radius)


@pytest.mark.parametrize("n_threads", [1, 2, 3, 7])
@pytest.mark.parametrize("queries", [0, 1, 2, 9, 40, 200])
@pytest.mark.parametrize("n", [0, 1, 5, 300])
def test_search_over_threads(threads, small_parts, queries, n, n_threads):
    threads(n_threads)
    rng = np.random.default_rng(n)
    codes, some = rng.integers(0, 16, (n, 3), dtype=np.uint8), rng.integers(0, 16, (queries, 3), dtype=np.uint8)
    for k, radius in ((1, 0), (5, 3), (150, 8), (310, 24)):
        check_search(some, codes, k, radius)


def test_search_in_many_calls(variant, monkeypatch):
    monkeypatch.setattr(_hamming, "_CALL", 1)
    codes, queries = random_codes((13000, 2)), random_codes((2, 2), 1)
    check_search(queries, codes, 30, 3)


def test_single_query(variant):
    codes, query = random_codes((50, 4)), random_codes(4, 1)
    distances, ids = hamming_topk(query, codes, 6)
    wanted = by_sorting(query[None], codes, 6)
    equal(distances, wanted[0][0])
    equal(ids, wanted[1][0])
    for got, other in zip(hamming_range(query, codes, 12), within(query[None], codes, 12), strict=True):
        equal(got, other)


def test_layouts_of_codes(variant, tmp_path):
    codes, queries = random_codes((101, 24)), random_codes((7, 24), 1)
    path = tmp_path / "codes"
    codes.tofile(path)
    mapped = np.memmap(path, np.uint8, "r", shape=codes.shape)
    wide = np.zeros((202, 48), np.uint8)
    wide[::2, ::2] = codes
    turned = np.zeros((202, 24), np.uint8)
    turned[::-2] = codes
    shared = np.broadcast_to(codes[:1], codes.shape)
    for layout in (mapped, wide[::2, ::2], turned[::-2], np.asfortranarray(codes), shared):
        check_search(queries, layout, 9, 90)
        check_search(layout[3:5], codes, 9, 90)
        equal(hamming_distance(layout, codes), oracle.distances(np.asarray(layout), codes).astype(np.int32))


def test_equal_results(on_each, monkeypatch):
    codes, queries = random_codes((3000, 40)), random_codes((20, 40), 1)

    def run(bound: Any) -> list[np.ndarray]:
        monkeypatch.setattr(_hamming, "kernels", bound)
        return [
            *hamming_topk(queries, codes, 10),
            *hamming_range(queries, codes, 140),
            hamming_distance(queries[0], codes),
        ]

    first, *others = on_each(run).values()
    for other in others:
        for got, wanted in zip(other, first, strict=True):
            equal(got, wanted)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_memory_of_search(threads, n_threads):
    """The matrix of distances would have 160 MB."""
    threads(n_threads)
    codes, queries = random_codes((100_000, 4)), random_codes((400, 4), 1)
    tracemalloc.start()
    hamming_topk(queries, codes, 10)
    lims, _, ids = hamming_range(queries, codes, 4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert lims[-1] == ids.size
    assert peak < 12 * ids.size + (1 << 20)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda c: hamming_distance(c.astype(int), c), TypeError, "a: dtype int64; allowed is uint8"),
        (lambda c: hamming_distance(c, c.view(np.int8)), TypeError, "b: dtype int8; allowed is uint8"),
        (lambda c: hamming_distance(np.uint8(3), c), ValueError, r"a: shape \(\)"),
        (lambda c: hamming_distance(c, c[:, :2]), ValueError, "b: 2 bytes a code; allowed is that of a, 3"),
        (lambda c: hamming_distance(c, c[:4]), ValueError, r"b: shape \(4, 3\); allowed is what broadcasts"),
        (lambda c: hamming_topk(c[None], c, 1), ValueError, r"queries: shape \(1, 5, 3\)"),
        (lambda c: hamming_topk(c, c[0], 1), ValueError, r"codes: shape \(3,\); allowed is \(codes, bytes\)"),
        (lambda c: hamming_topk(c, c[:, :2], 1), ValueError, "codes: 2 bytes a code; allowed is that of queries, 3"),
        (lambda c: hamming_topk(c, c, 0), ValueError, "k=0: allowed is at least 1"),
        (lambda c: hamming_topk(c, c, 1.0), TypeError, "k=1.0: an integer is needed"),
        (lambda c: hamming_topk(c > 3, c, 1), TypeError, "queries: dtype bool"),
        (lambda c: hamming_range(c, c, -1), ValueError, "radius=-1: allowed is at least 0"),
        (lambda c: hamming_range(c, c, None), TypeError, "radius=None"),
        (lambda c: hamming_range(c, c.astype(float), 1), TypeError, "codes: dtype float64"),
    ],
)
def test_searches_that_are_refused(call, error, message):
    with pytest.raises(error, match=f"^{message}"):
        call(random_codes((5, 3)))


def test_any_radius():
    codes = random_codes((5, 3))
    lims, _, _ = hamming_range(codes, codes, 2**70)
    assert lims[-1] == 25


@settings(max_examples=5)
@given(st.integers(0, 2**32 - 1))
def test_codes_find_what_is_near(seed):
    """From vectors to neighbours, as one uses it."""
    rng = np.random.default_rng(seed)
    base = rng.standard_normal((500, 40)).astype(np.float32)
    queries = base[:20] + 0.1 * rng.standard_normal((20, 40)).astype(np.float32)
    hasher = SimHash(512).fit(base)
    distances, ids = hamming_topk(hasher.encode(queries), hasher.encode(base), 3)
    np.testing.assert_array_equal(ids[:, 0], np.arange(20))
    a, b = queries.astype(float), base[:20].astype(float)
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert np.abs(hasher.angle(distances[:, 0]) - np.arccos(cosine)).max() < 8 * math.pi * math.sqrt(0.25 / 512)
