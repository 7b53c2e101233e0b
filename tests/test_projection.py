"""The Walsh-Hadamard transform and random projections, against exact arithmetic and the laws that they obey.

Matrices are compared with numpy.random.Philox, products with fractions, distributions with theirs: the thresholds are
p-values of 1e-7 or 5.5 standard deviations, and all seeds are fixed.
"""

from __future__ import annotations

import copy
import importlib.util
import itertools
import json
import math
import pickle
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import Any

import numpy as np
import projection_oracle as oracle
import pytest
from conftest import running_on, variants
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import linalg, sparse, stats
from test_mitchell import dtype_of, same

import fastk
from fastk import _estimator, _philox, _random_matrix, projection
from fastk.projection import RandomProjection, hadamard_transform

KINDS = ["gaussian", "sparse", "rademacher", "hadamard"]
OWN_SUMS = ["sparse", "hadamard"]
WIDE = ["float32", "float64"]
FLOATS = ["float16"] + ["bfloat16"] * bool(importlib.util.find_spec("ml_dtypes")) + WIDE
# Lanes, blocks and their edges.
LENGTHS = [1 << k for k in range(15)]
SEED = 2**127 + 5


@pytest.fixture(params=variants())
def variant(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The public functions, once for each backend and level."""
    with running_on(request.param) as bound:
        for module in (projection, _random_matrix, _philox):
            monkeypatch.setattr(module, "kernels", bound)
        yield request.param


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """How many threads a call may use, until the test ends."""
    before = fastk.config()["threads"]
    yield fastk.set_num_threads
    fastk.set_num_threads(before)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is kept, everything is made and converted in small parts, and a few elements are worth a thread."""
    for name, value in (("KEPT_BYTES", 800), ("_MADE", 64), ("_CHUNK", 50), ("_PIECE", 16), ("_GAP", 3)):
        monkeypatch.setattr(_random_matrix, name, value)


def sample(shape: Any, name: str = "float64", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype_of(name))


def thin(shape: Any, name: str = "float64", part: float = 0.3) -> np.ndarray:
    """Rows most of which is zero; the first has nothing."""
    rng = np.random.default_rng(7)
    x = np.where(rng.random(shape) < part, rng.standard_normal(shape), 0)
    x[0] = 0
    return x.astype(dtype_of(name))


def misaligned(x: np.ndarray) -> np.ndarray:
    memory = np.zeros(x.nbytes + 1, np.uint8)[1:]
    view = memory.view(x.dtype).reshape(x.shape)
    view[...] = x
    return view


def unit(name: str) -> float:
    """Half a unit in the last place of 1."""
    return {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}[name]


# ---- Walsh-Hadamard: values


def test_oracle_of_the_transform():
    for n in (1, 2, 8, 64):
        matrix = linalg.hadamard(n)
        np.testing.assert_array_equal(oracle.sylvester(range(n), range(n)), matrix)
        x = np.random.default_rng(n).integers(-99, 99, (3, n))
        np.testing.assert_array_equal(oracle.walsh(x), x @ matrix)
        np.testing.assert_array_equal(oracle.walsh_exactly(x), x @ matrix)


def scale_of(n: int, dtype: np.dtype) -> Any:
    k = n.bit_length() - 1
    return dtype.type(math.sqrt(0.5) if k % 2 else 1) * dtype.type(2.0 ** -(k // 2))


@pytest.mark.parametrize("name", WIDE)
def test_bits_of_the_transform(variant, name):
    for n in LENGTHS:
        x = sample((3, n), name, n)
        wanted = oracle.walsh(x)
        same(hadamard_transform(x), wanted)
        same(hadamard_transform(x, normalize=True), wanted * scale_of(n, x.dtype))
        for inner in (2, 3, 17):
            if n * inner < 20000:
                y = sample((2, n, inner), name, n)
                rows = y.transpose(0, 2, 1).reshape(-1, n)
                across = oracle.walsh(rows).reshape(2, inner, n).transpose(0, 2, 1)
                same(hadamard_transform(y, axis=1), across)
                same(hadamard_transform(y, axis=-2, normalize=True), across * scale_of(n, x.dtype))


@pytest.mark.parametrize("name", FLOATS[:-2])
def test_narrow_floats(variant, name):
    for shape, axis in (((5, 1 << 9), 1), ((1 << 6, 700), 0), ((3, 1 << 16), -1), ((2, 4, 3), 1), ((1 << 7, 2), 0)):
        x = sample(shape, name)
        for normalize in (False, True):
            wide = hadamard_transform(x.astype(np.float32), axis=axis, normalize=normalize)
            same(hadamard_transform(x, axis=axis, normalize=normalize), wide.astype(x.dtype))
    many = np.full(1 << 13, 30, dtype_of(name))
    assert np.isinf(hadamard_transform(many)[0]) == (name == "float16")


def test_integers_are_exact():
    for dtype in ("bool", "int8", "uint16", "int64"):
        x = np.random.default_rng(1).integers(0, 2 if dtype == "bool" else 100, (4, 256)).astype(dtype)
        got = hadamard_transform(x)
        assert got.dtype == np.float64
        np.testing.assert_array_equal(got, x.astype(int) @ linalg.hadamard(256))
    assert hadamard_transform([1, 2]).tolist() == [3, -1]


@pytest.mark.parametrize("name", WIDE)
@given(data=st.data())
def test_error_of_the_transform(name, data):
    k = data.draw(st.integers(0, 7), "k")
    width = 8 * np.dtype(name).itemsize
    elements = st.floats(-(2.0**100), 2.0**100, width=width).filter(lambda v: v == 0 or abs(v) > 2.0**-80)
    x = data.draw(hnp.arrays(name, (2, 1 << k), elements=elements), "x")
    normalize = data.draw(st.booleans(), "normalize")
    exact = oracle.walsh_exactly([[Fraction(float(value)) for value in row] for row in x])
    got = hadamard_transform(x, normalize=normalize)
    u = Fraction(unit(name))
    growth = (1 + u) ** (k + 2 * (normalize and k % 2)) - 1
    for row, values, results in zip(x, exact, got, strict=True):
        c = oracle.mp.sqrt(oracle.mp.mpf(2) ** -k) if normalize else 1
        wanted = [oracle.mp.mpf(v.numerator) / v.denominator * c for v in values]
        errors = [abs(oracle.mp.mpf(float(result)) - value) for result, value in zip(results, wanted, strict=True)]
        bound = oracle.mp.mpf(growth.numerator) / growth.denominator * (1 + oracle.mp.mpf(10) ** -30)
        norm = oracle.mp.sqrt(sum(oracle.mp.mpf(float(value)) ** 2 for value in row))
        assert max(errors) <= bound * sum(abs(oracle.mp.mpf(float(value))) for value in row) * c
        assert oracle.mp.sqrt(sum(error**2 for error in errors)) <= bound * oracle.mp.sqrt(2**k) * norm * c


def test_normalized_transform_undoes_itself():
    for k in (5, 6):
        x = sample((3, 1 << k))
        back = hadamard_transform(hadamard_transform(x, normalize=True), normalize=True)
        np.testing.assert_allclose(back, x, atol=1e-14)
        norms = np.linalg.norm(hadamard_transform(x, normalize=True), axis=1)
        np.testing.assert_allclose(norms, np.linalg.norm(x, axis=1))


def test_what_is_not_finite(variant):
    x = np.ones((4, 64), np.float32)
    x[1, 5], x[2, 9], x[3, 3:5] = np.nan, np.inf, (np.inf, -np.inf)
    with np.errstate(invalid="ignore"):
        got, wanted = hadamard_transform(x), oracle.walsh(x)
    np.testing.assert_array_equal(got, wanted)
    assert np.isfinite(got[0]).all()
    assert np.isnan(got[1]).all()


# ---- Walsh-Hadamard: layouts


@pytest.mark.parametrize("name", FLOATS)
def test_layouts(variant, name):
    x = sample((4, 8, 16), name)
    for axis in range(-3, 3):
        wanted = hadamard_transform(np.ascontiguousarray(np.moveaxis(x, axis, -1)))
        wanted = np.moveaxis(wanted, -1, axis)
        wide = np.zeros((8, 16, 48), x.dtype)
        wide[::2, ::2, ::3] = np.resize(x, (4, 8, 16))
        read_only = x.copy()
        read_only.flags.writeable = False
        for view in (
            x,
            read_only,
            np.asfortranarray(x),
            wide[::2, ::2, ::3],
            x[:, ::-1][:, ::-1],
            misaligned(x),
            *([x.astype(x.dtype.newbyteorder())] if name != "bfloat16" else []),
        ):
            before = view.tobytes()
            got = hadamard_transform(view, axis=axis)
            same(got, np.ascontiguousarray(wanted))
            assert got.flags.c_contiguous
            assert view.tobytes() == before
    same(hadamard_transform(np.broadcast_to(x[:1], x.shape), axis=1)[2], hadamard_transform(x[0], axis=0))


@pytest.mark.parametrize("name", FLOATS)
def test_out(variant, name):
    x = sample((6, 8, 4), name)
    for axis in (0, 1, 2):
        if axis == 0:
            x = x[:4]
        wanted = hadamard_transform(x, axis=axis)
        outs = [np.empty_like(x), np.empty(x.shape, x.dtype, order="F"), np.empty((*x.shape, 2), x.dtype)[..., 0]]
        outs += [misaligned(np.empty_like(x)), np.empty_like(x)[::-1]]
        for out in outs:
            assert hadamard_transform(x, axis=axis, out=out) is out
            same(np.ascontiguousarray(out), wanted)
        for order in "CF":
            inside = x.copy(order)
            assert hadamard_transform(inside, axis=axis, out=inside) is inside
            same(np.ascontiguousarray(inside), wanted)
        memory = np.zeros((len(x) + 1, *x.shape[1:]), x.dtype)
        for of, to in ((slice(0, -1), slice(1, None)), (slice(1, None), slice(0, -1))):
            memory[of] = x
            hadamard_transform(memory[of], axis=axis, out=memory[to])
            same(memory[to], wanted)
        memory[:-1] = x
        hadamard_transform(memory[:-1], axis=axis, out=memory[-2::-1])
        same(np.ascontiguousarray(memory[-2::-1]), wanted)
    out = np.empty(x.shape, np.float64)
    hadamard_transform(x, out=out)
    np.testing.assert_array_equal(out, hadamard_transform(x).astype(float))


@pytest.mark.parametrize("name", FLOATS)
def test_threads_of_the_transform(variant, threads, monkeypatch, name):
    monkeypatch.setattr(projection, "_PIECE", 16)
    monkeypatch.setattr(projection, "_TILE", 64)
    monkeypatch.setattr(projection, "_RUN", 4)
    layouts = [((7, 64), 1), ((1, 256), 1), ((2, 512), 1), ((3, 256, 5), 1), ((2, 3, 100), 0), ((64, 33), 0)]
    layouts += [((1, 200), 0), ((2, 1, 128), 0), ((1024,), 0), ((5, 1), 1), ((4, 100), 0)]
    for shape, axis in layouts:
        x = sample(shape, name)
        for normalize in (False, True):
            threads(1)
            wanted = hadamard_transform(x, axis=axis, normalize=normalize)
            for count in (2, 3, 8):
                threads(count)
                same(hadamard_transform(x, axis=axis, normalize=normalize), wanted)
                inside = x.copy()
                hadamard_transform(inside, axis=axis, normalize=normalize, out=inside)
                same(inside, wanted)


def test_threads_of_large_transforms(threads):
    for shape, axis in (((1, 1 << 18), 1), ((1 << 6, 5000), 0)):
        x = sample(shape, "float32")
        threads(1)
        wanted = hadamard_transform(x, axis=axis, normalize=True)
        threads(3)
        same(hadamard_transform(x, axis=axis, normalize=True), wanted)


def test_nothing_and_little(variant):
    assert hadamard_transform(np.empty((0, 8))).shape == (0, 8)
    assert hadamard_transform(np.empty((8, 0)), axis=0).shape == (8, 0)
    assert hadamard_transform(np.full((2, 1), 3.0)).tolist() == [[3], [3]]
    assert hadamard_transform(np.float32([[1, 2]]), axis=0).tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ([[1, 2, 3]], {}, ValueError, "x: length 3 along axis -1; allowed are powers of two"),
        ([np.empty((2, 0))], {}, ValueError, "x: length 0 along axis -1"),
        ([[1j, 2]], {}, TypeError, "x: dtype complex128; allowed are float16, bfloat16"),
        ([["a", "b"]], {}, TypeError, "x: dtype <U1"),
        ([np.ones(2, object)], {}, TypeError, "x: dtype object"),
        ([np.ones(2, np.longdouble)], {}, TypeError, "x: dtype "),
        ([1.0], {}, np.exceptions.AxisError, "axis -1 is out of bounds"),
        ([np.ones(2)], {"axis": 1}, np.exceptions.AxisError, "axis 1 is out of bounds"),
        ([np.ones(2)], {"axis": 0.0}, TypeError, "axis=0.0: an integer is needed"),
        ([np.ones(2)], {"axis": None}, TypeError, "axis=None: an integer is needed"),
        ([np.ones(2)], {"normalize": 1}, TypeError, "normalize=1: a bool is needed"),
        ([np.ones(2)], {"out": [0, 0]}, TypeError, r"out=\[0, 0\]: an array is needed"),
        ([np.ones(2)], {"out": np.empty(3)}, ValueError, r"out: shape \(3,\); allowed is \(2,\)"),
        ([np.ones(2)], {"out": np.empty(2, int)}, TypeError, "out: dtype int64; allowed is what float64 casts to"),
        ([np.ones(2)], {"out": np.broadcast_to(0.0, 2)}, ValueError, "out: the array is read-only"),
    ],
)
def test_wrong_arguments_of_the_transform(arguments, options, error, message):
    with pytest.raises(error, match=message):
        hadamard_transform(*arguments, **options)


# ---- matrices


def fitted(kind: str, k: int, d: int, seed: int = SEED, **options: Any) -> RandomProjection:
    """An estimator that knows only how many columns there are."""
    return RandomProjection(k, kind=kind, seed=seed, **options).fit(np.broadcast_to(0.0, (1, d)))


def test_published_vectors():
    stored = json.loads(oracle.VECTORS.read_text())
    made = oracle.vectors(lambda seed, row, n: _philox.normal(seed, oracle.TAGS["gaussian"], 1, n, first_row=row)[0])
    assert stored == made
    for case in stored["cases"]:
        for word, value in zip(case["words"]["gaussian"], case["normal"], strict=True):
            exact = oracle.normal_exactly(int(word, 16))
            assert abs(oracle.mp.mpf(float.fromhex(value)) / exact - 1) < 1e-15


def test_matrices_are_the_published_vectors(variant):
    for case in json.loads(oracle.VECTORS.read_text())["cases"]:
        seed, row, density = int(case["seed"]), case["row"], float.fromhex(case["density"])
        k = row + 1
        gaussian = fitted("gaussian", k, 12, seed).matrix([row])[0]
        same(gaussian, np.array([float.fromhex(value) for value in case["normal"]]) / math.sqrt(k))
        rademacher = fitted("rademacher", k, 128, seed).matrix([row])[0] * math.sqrt(k)
        np.testing.assert_array_equal(rademacher.round(9), [{"-": -1, "+": 1}[sign] for sign in case["rademacher"]])
        few = fitted("sparse", k, 24, seed, density=density)
        row_of = few.matrix([row])[0] * math.sqrt(few.density_ * k)
        wanted = np.zeros(24)
        wanted[np.abs(case["sparse"]) - 1] = np.sign(case["sparse"])
        np.testing.assert_array_equal(row_of.round(9), wanted)
        if row < 100:
            block = fitted("hadamard", 16 * k, 16, seed).matrix(slice(16 * row, None)) * math.sqrt(16 * k)
            signs = [{"-": -1, "+": 1}[sign] for sign in case["hadamard_signs"]]
            wanted = oracle.sylvester(case["hadamard_order"], range(16)) * signs
            np.testing.assert_array_equal(block.round(9), wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_matrices_are_those_of_numpy(variant, kind):
    for k, d, seed in ((1, 1, 0), (5, 3, 1), (3, 70, SEED), (40, 16, 2**128 - 1), (33, 129, 7)):
        for density in (0.3, 1, "auto") if kind == "sparse" else ("auto",):
            estimator = fitted(kind, k, d, seed, density=density)
            wanted = oracle.matrix(kind, seed, k, d, estimator.density_)
            matrix = estimator.components_
            assert matrix.dtype == np.float64
            np.testing.assert_allclose(matrix, wanted, rtol=0 if kind == "gaussian" else 1e-15, atol=2e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_matrices(kind):
    estimator = fitted(kind, 40, 300)
    whole = estimator.matrix()
    cuts = [None, slice(3, 30), slice(None, None, -7), slice(5, 5), [0], [7, -1, 7, 39], np.array([20, 3]), []]
    for rows in cuts:
        for columns in [*cuts, slice(64, 128), [150, 299, -300]]:
            wanted = whole[slice(None) if rows is None else np.array(rows, int) if isinstance(rows, list) else rows]
            chosen = slice(None) if columns is None else columns
            wanted = wanted[:, np.array(chosen, int) if isinstance(chosen, list) else chosen]
            same(estimator.matrix(rows, columns), np.ascontiguousarray(wanted))


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_components_are_the_first(kind):
    many, few = fitted(kind, 50, 20), fitted(kind, 7, 20)
    np.testing.assert_allclose(few.matrix() * math.sqrt(7), many.matrix(slice(7)) * math.sqrt(50), rtol=1e-14)


def test_matrices_share_nothing():
    d = 4096
    rows = [np.sign(fitted(kind, 2, d, seed, density=1).matrix()) for kind in KINDS for seed in (0, 1)]
    rows = np.concatenate(rows)
    correlation = rows @ rows.T / math.sqrt(d)
    np.fill_diagonal(correlation, 0)
    assert np.abs(correlation).max() < 5.5


@pytest.mark.parametrize("kind", ["gaussian", "sparse", "rademacher"])
def test_part_of_a_huge_matrix(kind):
    huge = fitted(kind, 2**40, 10**6, density=0.5)
    row, column = [0, 2**33 + 1, 2**40 - 1], slice(999_000, None)
    got = huge.matrix(row, column) * 2**20
    assert got.shape == (3, 1000)
    if kind == "gaussian":
        wanted = [oracle.normals(oracle.words(SEED, kind, i, 10**6)[column]) for i in row[1:2]]
        np.testing.assert_allclose(got[1:2], wanted, atol=1e-14)
    assert np.abs((got**2).mean() - 1) < 0.2


# ---- laws


def p_value_of_variance(values: np.ndarray, variance: float) -> float:
    """Of the sample variance, from the fourth moment."""
    centred = (values - values.mean()) ** 2
    error = math.sqrt((np.mean(centred**2) - np.mean(centred) ** 2) / len(values))
    return float(2 * stats.norm.sf(abs(centred.mean() - variance) / error))


def p_value_of_mean(values: np.ndarray, mean: float) -> float:
    return float(2 * stats.norm.sf(abs(values.mean() - mean) / values.std() * math.sqrt(len(values))))


VECTOR = np.array([3.0, -1, 0.5, 0.25, 2, 0, 1, -1.5])
VECTOR /= np.linalg.norm(VECTOR)


def squared_norms(kind: str, n: int, groups: int, **options: Any) -> np.ndarray:
    """Of many independent projections of VECTOR to n components: groups of rows of a large matrix."""
    y = fitted(kind, n * groups, len(VECTOR), **options).transform(VECTOR[None])[0]
    return (y.reshape(groups, n) ** 2).sum(1) * groups


@pytest.mark.parametrize("n", [1, 5, 64])
def test_squared_norms_of_gaussian_are_chi_square(n):
    norms = squared_norms("gaussian", n, 100_000 // n)
    assert stats.kstest(n * norms, stats.chi2(n).cdf).pvalue > 1e-7
    assert p_value_of_variance(norms, 2 / n) > 1e-7


def test_gaussian_entries_are_normal():
    entries = fitted("gaussian", 100, 1000).matrix().ravel() * 10
    assert stats.kstest(entries, stats.norm.cdf).pvalue > 1e-7
    x = fitted("gaussian", 10_000, 2).matrix() * 100
    assert p_value_of_mean(x[:, 0] * x[:, 1], 0) > 1e-7
    assert p_value_of_mean(x[1:, 0] * x[:-1, 0], 0) > 1e-7


@pytest.mark.parametrize(("kind", "s"), [("rademacher", 1), ("sparse", 1), ("sparse", 3), ("sparse", 10)])
def test_variance_of_sparse_and_rademacher(kind, s):
    n = 4
    norms = squared_norms(kind, n, 50_000, density=1 / s)
    assert p_value_of_mean(norms, 1) > 1e-7
    assert p_value_of_variance(norms, (2 + (s - 3) * (VECTOR**4).sum()) / n) > 1e-7


@pytest.mark.parametrize("density", [1.0, 1 / 3, 0.01, "auto"])
def test_density(density):
    k, d = 200, 500
    estimator = fitted("sparse", k, d, density=density)
    probability = 1 / math.sqrt(d) if density == "auto" else density
    assert estimator.density_ == pytest.approx(probability, abs=2.0**-32)
    assert estimator.density_ * 2**31 == round(estimator.density_ * 2**31)
    values = estimator.matrix()
    nonzero = np.count_nonzero(values)
    assert stats.binomtest(nonzero, k * d, estimator.density_).pvalue > 1e-7
    assert stats.binomtest(int((values > 0).sum()), nonzero).pvalue > 1e-7
    np.testing.assert_allclose(np.unique(np.abs(values[values != 0])), math.sqrt(1 / (estimator.density_ * k)))


@pytest.mark.parametrize("k", [1, 3, 7])
def test_variance_of_hadamard(k):
    # Blocks are independent, and the first rows of each are a sample without replacement.
    n, blocks = len(VECTOR), 30_000
    y = fitted("hadamard", n * blocks, n).transform(VECTOR[None])[0].reshape(blocks, n)[:, :k]
    norms = (y**2).sum(1) * n * blocks / k
    assert p_value_of_mean(norms, 1) > 1e-7
    assert p_value_of_variance(norms, (2 - 2 * (VECTOR**4).sum()) * (n - k) / (k * (n - 1))) > 1e-7


def test_variance_of_hadamard_over_seeds():
    k, n = 5, len(VECTOR)
    norms = np.array([(fitted("hadamard", k, n, seed).transform(VECTOR[None]) ** 2).sum() for seed in range(3000)])
    assert p_value_of_mean(norms, 1) > 1e-7
    assert p_value_of_variance(norms, (2 - 2 * (VECTOR**4).sum()) * (n - k) / (k * (n - 1))) > 1e-7


def test_samples_of_hadamard_are_uniform():
    n, blocks = 8, 20_000
    rows = fitted("hadamard", n * blocks, n)._matrix
    orders = np.array([rows._order(block) for block in range(0, blocks, 20)])
    assert (np.sort(orders, axis=1) == np.arange(n)).all()
    for place in range(n):
        assert stats.chisquare(np.bincount(orders[:, place], minlength=n)).pvalue > 1e-7


def test_whole_blocks_of_hadamard_keep_norms():
    x = sample((5, 64))
    y = fitted("hadamard", 192, 64).transform(x)
    np.testing.assert_allclose(np.linalg.norm(y, axis=1), np.linalg.norm(x, axis=1))


# ---- products


def products_are_right(estimator: RandomProjection, x: Any, got: np.ndarray, columns: Any = None) -> None:
    """Against fractions, within the bound that the docstring states."""
    dense = np.asarray(x.todense()) if sparse.issparse(x) else x
    name = got.dtype.name
    compute = name if name in WIDE else "float32"
    a = estimator.matrix(None, columns)
    assert got.shape == (len(dense), len(a))
    d = dense.shape[1]
    steps = d + 2 if estimator.kind != "hadamard" else (d - 1).bit_length() + 3
    exact_a = [[Fraction(value) for value in row] for row in a.tolist()]
    for row, results in zip(dense.astype(float).tolist(), got.astype(float).tolist(), strict=True):
        places = [(j, Fraction(value)) for j, value in enumerate(row) if value]
        for entries, result in zip(exact_a, results, strict=True):
            terms = [value * entries[j] for j, value in places]
            bound = steps * Fraction(unit(compute)) * sum(map(abs, terms))
            exact = sum(terms)
            if compute != name:
                bound += Fraction(unit(name)) * (abs(exact) + bound) + Fraction(2) ** -25
            assert abs(Fraction(result) - exact) <= bound


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("kind", KINDS)
def test_products(variant, kind, name):
    for rows, d, k in ((1, 1, 1), (3, 5, 2), (7, 33, 9), (2, 16, 40)):
        estimator = fitted(kind, k, d, density=0.4)
        x = sample((rows, d), name)
        before = x.tobytes()
        got = estimator.transform(x)
        assert got.dtype == x.dtype
        assert x.tobytes() == before
        products_are_right(estimator, x, got)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_any_product(kind, data):
    name = data.draw(st.sampled_from(FLOATS), "dtype")
    rows, d, k = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 40), st.integers(1, 20)), "shape")
    estimator = fitted(kind, k, d, data.draw(st.integers(0, 2**128 - 1), "seed"), density=0.5)
    memory = data.draw(hnp.arrays(np.float64, (2 * rows, 2 * d), elements=st.floats(-100, 100, width=16)), "x")
    memory = memory.astype(dtype_of(name))
    views = (memory[:rows, :d], memory[::2, ::2], memory[::-2, -d:], memory.T[: 2 * d, :rows].T[:, ::-2])
    x = data.draw(st.sampled_from(views), "view")
    got = estimator.transform(x)
    products_are_right(estimator, x, got)
    wanted = estimator.transform(np.ascontiguousarray(x))
    if kind in OWN_SUMS:
        same(got, wanted)
    # Powers of two change no rounding, where nothing is subnormal or too large.
    if name in WIDE and kind in OWN_SUMS:
        same(estimator.transform(x * x.dtype.type(8)), got * x.dtype.type(8))


def test_other_dtypes_are_taken_as_float64():
    estimator = fitted("sparse", 6, 10)
    x = np.random.default_rng(3).integers(0, 2, (4, 10))
    wanted = estimator.transform(x.astype(float))
    for given_ in (
        x.tolist(),
        x.astype(bool),
        x.astype("u1"),
        x.astype(object),
        x.astype(">i4"),
        x.astype("longdouble"),
    ):
        same(estimator.transform(given_), wanted)
    for name in ("f2", "f4", "f8"):
        swapped = x.astype(name).astype(np.dtype(name).newbyteorder())
        same(estimator.transform(swapped), estimator.transform(x.astype(name)))
        same(estimator.transform(misaligned(x.astype(name))), estimator.transform(x.astype(name)))


FORMATS = [sparse.csr_matrix, sparse.csr_array, sparse.csc_array, sparse.coo_matrix, sparse.lil_matrix]


@pytest.mark.parametrize("name", WIDE)
@pytest.mark.parametrize("kind", KINDS)
def test_sparse_input(variant, kind, name):
    for rows, d, k in ((6, 30, 7), (1, 1, 3), (4, 100, 150)):
        estimator = fitted(kind, k, d, density=0.2)
        x = thin((rows, d), name)
        wanted = estimator.transform(x)
        for made in [make(x) for make in FORMATS]:
            before = made.toarray()
            got = estimator.transform(made)
            np.testing.assert_array_equal(made.toarray(), before)
            assert type(got) is np.ndarray
            if kind in OWN_SUMS:
                same(got, wanted)
            elif made.format == "csr":
                assert got.dtype == wanted.dtype
                products_are_right(estimator, made, got)


@pytest.mark.parametrize("kind", KINDS)
def test_sparse_input_that_is_not_canonical(kind):
    estimator = fitted(kind, 5, 10, density=0.5)
    # Unsorted, twice, a stored zero, and room after the end.
    data, column = np.array([1.0, 2, 4, 0, 3, 99]), np.array([7, 2, 7, 1, 0, 5])
    wanted = estimator.transform(sparse.csr_array([[0, 0, 2, 0, 0, 0, 0, 5, 0, 0], [3] + [0] * 9]))
    for index in (np.int32, np.int64):
        x = sparse.csr_matrix((2, 10))
        x.data, x.indices, x.indptr = data.copy(), column.astype(index), np.array([0, 4, 5], index)
        got = estimator.transform(x)
        assert x.data.tolist() == data.tolist()
        assert x.indices.tolist() == column.tolist()
        if kind in OWN_SUMS:
            same(got, wanted)
        np.testing.assert_allclose(got, wanted)
    empty = sparse.csr_array((3, 10))
    same(estimator.transform(empty), np.zeros((3, 5)))
    same(estimator.transform(empty.astype(np.float32)), np.zeros((3, 5), np.float32))
    same(
        estimator.transform(sparse.csr_array(np.eye(10, dtype=int)[:2])),
        estimator.transform(sparse.csr_array(np.eye(10)[:2])),
    )


def broken(**parts: Any) -> sparse.csr_matrix:
    x = sparse.csr_matrix(np.eye(3))
    for name, value in parts.items():
        setattr(x, name, np.array(value))
    return x


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "parts",
    [
        {"indices": [0, 3, 1]},
        {"indices": [0, -1, 1]},
        {"indptr": [0, 2, 1, 3]},
        {"indptr": [1, 2, 2, 3]},
        {"indptr": [0, 1, 2, 4]},
        {"indptr": [0, 3]},
        {"data": [1.0, 2.0]},
    ],
    ids=str,
)
def test_sparse_input_that_is_broken(kind, parts):
    with pytest.raises(ValueError, match="X: the CSR arrays are inconsistent"):
        fitted(kind, 2, 3).transform(broken(**parts))


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("kind", KINDS)
def test_small_parts_give_what_whole_matrices_give(monkeypatch, request, threads, kind, name):
    x = thin((20, 90), name, 0.1)
    cases = []
    for k in (1, 13, 150):
        estimator = fitted(kind, k, 90, density=0.3)
        cases.append((k, estimator.transform(x)))
    request.getfixturevalue("small_parts")
    for k, wanted in cases:
        for count in (1, 4):
            threads(count)
            estimator = fitted(kind, k, 90, density=0.3)
            got = [
                estimator.transform(x),
                estimator.transform(np.asfortranarray(x)),
                estimator.transform(x[::-1])[::-1],
            ]
            if name in WIDE:
                got.append(estimator.transform(sparse.csr_array(x)))
                got.append(estimator.transform(sparse.csr_array(np.where(np.arange(90) % 31 == 0, 1, 0) * x)))
            if kind in OWN_SUMS:
                for each in got[:4]:
                    same(np.ascontiguousarray(each), wanted)
            for each in got[:4]:
                np.testing.assert_allclose(each.astype(float), wanted.astype(float), atol=30 * unit(name))
            for each in got[4:]:
                thinner = estimator.transform(np.where(np.arange(90) % 31 == 0, 1, 0).astype(x.dtype) * x)
                np.testing.assert_allclose(each, thinner, atol=30 * unit(name))
            matrix = estimator._matrix
            assert not matrix.kept or kind == "hadamard" or k * 90 * 4 * 0.3 < 1000


@pytest.mark.parametrize("kind", OWN_SUMS)
def test_bits_depend_on_nothing_else(monkeypatch, on_each, threads, kind):
    x, rng = thin((50, 200), "float32"), np.random.default_rng(0)

    def bits(bound: Any) -> list[bytes]:
        for module in (projection, _random_matrix, _philox):
            monkeypatch.setattr(module, "kernels", bound)
        estimator = fitted(kind, 300, 200)
        results = []
        for count in (1, 2, 5):
            threads(count)
            for name in WIDE:
                whole = estimator.transform(x.astype(name))
                cut = rng.integers(1, 49)
                same(
                    np.concatenate(
                        [estimator.transform(x[:cut].astype(name)), estimator.transform(x[cut:].astype(name))]
                    ),
                    whole,
                )
                same(estimator.transform(sparse.csr_array(x.astype(name))), whole)
                results.append((name, whole.tobytes()))
        assert len(set(results)) == 2
        return sorted(set(results))

    monkeypatch.setattr(_random_matrix, "_PIECE", 128)
    results = on_each(bits)
    assert all(each == next(iter(results.values())) for each in results.values())


def test_matrices_have_equal_bits_on_each(monkeypatch, on_each):
    def bits(bound: Any) -> bytes:
        for module in (projection, _random_matrix, _philox):
            monkeypatch.setattr(module, "kernels", bound)
        return b"".join(fitted(kind, 100, 333).matrix().tobytes() for kind in KINDS)

    assert len(set(on_each(bits).values())) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_memory_is_bounded(monkeypatch, kind):
    monkeypatch.setattr(_random_matrix, "KEPT_BYTES", 1 << 20)
    monkeypatch.setattr(_random_matrix, "_MADE", 1 << 14)
    k, d = 256, 1 << 16
    inputs = [sparse.random_array((100, d), density=1e-4, format="csr", rng=np.random.default_rng(0))]
    if kind in OWN_SUMS:
        inputs.append(inputs[0][:1].toarray())
    estimator = fitted(kind, k, d)
    estimator.transform(inputs[0][:1])  # imports
    for x in inputs:
        tracemalloc.start()
        try:
            estimator.transform(x)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 32 << 20  # the matrix in float64 has 128 MiB


# ---- parts


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("kind", ["gaussian", "sparse", "rademacher"])
def test_partial(kind, name):
    x = thin((4, 150), name, 0.5)
    estimator = fitted(kind, 9, 150, density=0.3)
    for edges in ([0, 150], [0, 1, 150], [0, 37, 64, 65, 149, 150]):
        total = np.zeros((4, 9))
        for first, last in itertools.pairwise(edges):
            part = estimator.partial(x[:, first:last], first)
            assert part.dtype == x.dtype
            products_are_right(estimator, x[:, first:last], part, slice(first, last))
            total += part
            if name in WIDE:
                other = estimator.partial(sparse.csr_array(x[:, first:last]), first)
                products_are_right(estimator, x[:, first:last], other, slice(first, last))
                if kind == "sparse":
                    same(other, part)
        np.testing.assert_allclose(total, estimator.transform(x).astype(float), atol=40 * unit(name))


@pytest.mark.parametrize("kind", ["gaussian", "sparse", "rademacher"])
def test_partial_of_what_is_not_kept(small_parts, kind):
    x = thin((4, 150), "float64", 0.5)
    estimator = fitted(kind, 20, 150, density=0.3)
    for first, last in ((0, 150), (3, 90), (149, 150)):
        part = x[:, first:last]
        products_are_right(estimator, part, estimator.partial(part, first), slice(first, last))
        products_are_right(estimator, part, estimator.partial(sparse.csr_array(part), first), slice(first, last))


def test_partial_of_many_columns():
    # A row of this matrix has 8 GB.
    estimator = RandomProjection(3, seed=1).fit(sparse.csr_array((1, 2**30)))
    x = sample((2, 5))
    y = estimator.partial(x, 2**30 - 5)
    products_are_right(estimator, x, y, slice(2**30 - 5, None))
    data, column = np.arange(1.0, 4), np.array([5, 2**29, 2**30 - 1])
    y = estimator.transform(sparse.csr_array((data, column, np.array([0, 3])), shape=(1, 2**30)))
    np.testing.assert_allclose(y[0], estimator.matrix(None, column) @ data)


# ---- the estimator


@pytest.mark.parametrize("kind", KINDS)
def test_pickles_are_small(kind):
    x = sample((3, 1000))
    estimator = RandomProjection(500, kind=kind, seed=SEED).fit(x)
    wanted = estimator.transform(x)
    pickled = pickle.dumps(estimator)
    assert len(pickled) < 500
    same(pickle.loads(pickled).transform(x), wanted)


def test_copies():
    x = sample((3, 50))
    estimator = RandomProjection(4, kind="sparse").fit(x)
    wanted = estimator.transform(x)
    other = copy.deepcopy(estimator)
    assert other._kept is not estimator._kept
    same(other.transform(x), wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_callers_threads(threads, kind):
    x = thin((40, 300), "float32")
    wanted, wanted_of_sparse = (fitted(kind, 30, 300).transform(each) for each in (x, sparse.csr_array(x)))
    threads(2)
    estimator = fitted(kind, 30, 300)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda i: estimator.transform(sparse.csr_array(x) if i % 2 else x), range(32)))
    for i, result in enumerate(results):
        expected = wanted_of_sparse if i % 2 else wanted
        np.testing.assert_allclose(result, expected, atol=1e-5)
        if kind in OWN_SUMS:
            same(result, expected)


def test_parameters():
    estimator = RandomProjection(3, kind="sparse", seed=4)
    assert repr(estimator) == "RandomProjection(n_components=3, kind='sparse', seed=4)"
    assert estimator.get_params() == {"n_components": 3, "kind": "sparse", "density": "auto", "seed": 4}
    assert estimator.set_params(seed=5, density=0.5) is estimator
    assert (estimator.seed, estimator.density) == (5, 0.5)
    with pytest.raises(ValueError, match="sed=1: no parameter of RandomProjection; allowed are n_components, kind"):
        estimator.set_params(seed=6, sed=1)
    assert estimator.seed == 5
    assert repr(RandomProjection(2)) == "RandomProjection(n_components=2)"


def test_parameters_take_effect_at_fit():
    x = sample((3, 20))
    estimator = RandomProjection(4, kind="sparse").fit(x)
    before = estimator.transform(x)
    same(estimator.set_params(kind="gaussian", seed=9, n_components=2).transform(x), before)
    same(estimator.fit_transform(x), RandomProjection(2, seed=9).fit_transform(x))
    assert estimator.density_ == 1


def test_parameters_within_parameters():
    class Outer(_estimator.Estimator):
        def __init__(self, inner: Any, scale: float = 1.0) -> None:
            self.inner = inner
            self.scale = scale

    outer = Outer(RandomProjection(3))
    assert outer.get_params()["inner__n_components"] == 3
    assert "inner__seed" not in outer.get_params(deep=False)
    outer.set_params(inner__seed=8, scale=2.0)
    assert (outer.inner.seed, outer.scale) == (8, 2.0)


def test_estimators_that_need_dense_input():
    class Dense(_estimator.Transformer):
        def fit(self, X: Any, y: Any = None) -> Any:  # noqa: N803
            _estimator.validate(X, self, reset=True)
            return self

    with pytest.raises(TypeError, match=r"X: Sparse data was passed, but Dense needs a dense array; use X.toarray\(\)"):
        Dense().fit(sparse.csr_array(np.eye(3)))
    assert Dense().fit(np.eye(3)).n_features_in_ == 3
    assert repr(Dense()) == "Dense()"


def test_partial_fit():
    estimator = RandomProjection(2)
    assert estimator.partial_fit(np.zeros((1, 4))) is estimator
    same(
        estimator.partial_fit(np.ones((3, 4))).transform(np.ones((1, 4))),
        RandomProjection(2).fit_transform(np.ones((1, 4))),
    )
    with pytest.raises(ValueError, match="X has 5 features, but RandomProjection is expecting 4 features as input"):
        estimator.partial_fit(np.zeros((1, 5)))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_components": 0}, ValueError, "n_components=0: allowed is at least 1"),
        ({"n_components": 2.0}, TypeError, "n_components=2.0: an integer is needed"),
        ({"n_components": "auto"}, TypeError, "n_components='auto': an integer is needed"),
        ({"kind": "normal"}, ValueError, "kind='normal': allowed are gaussian, sparse, rademacher, hadamard"),
        ({"kind": 1}, TypeError, "kind=1: a string is needed"),
        ({"density": 0}, ValueError, 'density=0: "auto" or a number from 2\\*\\*-31 to 1 is needed'),
        ({"density": 1.1}, ValueError, "density=1.1: "),
        ({"density": math.nan}, ValueError, "density=nan: "),
        ({"density": 2.0**-32}, ValueError, "density="),
        ({"density": "low"}, ValueError, "density='low': "),
        ({"density": None}, TypeError, "density=None: "),
        ({"density": True}, TypeError, "density=True: "),
        ({"seed": -1}, ValueError, r"seed=-1: allowed is 0 to 2\*\*128 - 1"),
        ({"seed": 2**128}, ValueError, "seed="),
        ({"seed": None}, TypeError, "seed=None: an integer is needed"),
    ],
)
def test_wrong_parameters(options, error, message):
    estimator = RandomProjection(**{"n_components": 2} | options)
    with pytest.raises(error, match=message):
        estimator.fit(np.ones((2, 3)))
    with pytest.raises(ValueError, match="not fitted"):
        estimator.transform(np.ones((2, 3)))


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.ones(3), ValueError, r"X: shape \(3,\). Expected 2D array, got 1D array instead"),
        (1.0, ValueError, "Expected 2D array, got scalar array instead"),
        (np.ones((1, 2, 3)), ValueError, "Expected 2D array, got 3D array instead"),
        (np.ones((0, 3)), ValueError, r"0 sample\(s\) \(shape=\(0, 3\)\) while a minimum of 1 is required"),
        (np.ones((3, 0)), ValueError, r"0 feature\(s\) \(shape=\(3, 0\)\) while a minimum of 1 is required"),
        (np.ones((2, 2)), ValueError, "X has 2 features, but RandomProjection is expecting 3 features as input"),
        (sparse.csr_array(np.ones((2, 2))), ValueError, "X has 2 features, but RandomProjection is expecting 3"),
        ([["a", "b", "c"]], TypeError, "X: dtype <U1; allowed are float16"),
        ([[1j, 2, 3]], ValueError, "Complex data not supported"),
        (np.full((1, 3), "2020", "M8[Y]"), TypeError, "X: dtype datetime64"),
        ([[1, 2, math.nan]], ValueError, "X: Input X contains NaN or infinity"),
        (np.array([[1, 2, -math.inf]], np.float16), ValueError, "X: Input X contains NaN or infinity"),
        (sparse.csr_array([[0, 0, math.inf]]), ValueError, "X: Input X contains NaN or infinity"),
        ([[1, 2], [1, 2, 3]], ValueError, "inhomogeneous"),
        ([[1, 2, {}]], TypeError, "argument must be .* string.* number"),
    ],
)
def test_wrong_input(x, error, message):
    with pytest.raises(error, match=message):
        fitted("sparse", 2, 3).transform(x)


def test_wrong_calls():
    estimator = fitted("gaussian", 4, 10)
    for start, x, message in (
        (-1, np.ones((1, 3)), "start=-1: allowed is at least 0"),
        (8, np.ones((1, 3)), "start=8: allowed is 0 to 7 for 3 of 10 columns"),
        (0, np.ones((1, 11)), "X: 11 columns; allowed are at most 10"),
        (0, np.full((1, 3), math.nan), "X: Input X contains NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            estimator.partial(x, start)
    with pytest.raises(TypeError, match="start=None: an integer is needed"):
        estimator.partial(np.ones((1, 3)), None)
    with pytest.raises(ValueError, match="kind='hadamard': partial needs"):
        fitted("hadamard", 4, 10).partial(np.ones((1, 3)), 0)
    for rows, columns, error, message in (
        ([4], None, ValueError, r"rows=\[4\]: allowed are numbers from -4 to 3"),
        (None, [-11], ValueError, r"columns=\[-11\]: allowed are numbers from -10 to 9"),
        (1, None, TypeError, "rows=1: a slice or a sequence of integers is needed"),
        (None, [0.5], TypeError, r"columns=\[0.5\]: a slice"),
        ([True, False], None, TypeError, "rows="),
    ):
        with pytest.raises(error, match=message):
            estimator.matrix(rows, columns)
    for name in ("matrix", "get_feature_names_out"):
        with pytest.raises(ValueError, match="This RandomProjection instance is not fitted yet"):
            getattr(RandomProjection(2), name)()
    with pytest.raises(ValueError, match="not fitted yet"):
        RandomProjection(2).partial(np.ones((1, 1)), 0)
    assert not hasattr(RandomProjection(2), "components_")
    with pytest.raises(ValueError, match=r"X: 2147483649 features; allowed are at most 2\*\*31"):
        RandomProjection(2).fit(sparse.csr_array((1, 2**31 + 1)))


def test_large_numbers_are_finite():
    x = np.full((2, 100), 3e38, np.float32)  # whose sum is not
    assert np.isfinite(fitted("sparse", 3, 100).fit(x).density_)
    assert fitted("hadamard", 3, 100).transform(x).dtype == np.float32


def test_nothing_is_imported(run_python):
    code = """
import sys, warnings, numpy as np
from fastk.projection import RandomProjection, hadamard_transform
for kind in ("gaussian", "sparse", "rademacher", "hadamard"):
    RandomProjection(2, kind=kind).fit_transform(np.eye(3))
try:
    RandomProjection(2).transform(np.eye(3))
except (ValueError, AttributeError) as error:
    assert type(error).__module__.startswith("fastk"), type(error)
hadamard_transform(np.eye(4))
assert not {"scipy", "sklearn", "pandas", "torch"} & set(sys.modules), sorted(sys.modules)
"""
    run = run_python("-c", code)
    assert run.returncode == 0, run.stderr


# ---- scikit-learn


@pytest.mark.parametrize("kind", KINDS)
def test_checks_of_sklearn(kind):
    checks = pytest.importorskip("sklearn.utils.estimator_checks")
    if not hasattr(checks, "estimator_checks_generator"):
        pytest.skip("scikit-learn 1.6 or newer is needed")
    with warnings.catch_warnings():
        # One says that it is no subclass of BaseEstimator, which would need scikit-learn to be imported.
        warnings.simplefilter("ignore")
        results = checks.check_estimator(RandomProjection(3, kind=kind, density=0.5), on_fail=None, on_skip=None)
    failed = [f"{each['check_name']}: {each['exception']}" for each in results if each["status"] == "failed"]
    assert not failed, "\n".join(failed)
    # What is left needs settings of SciPy that are read when it is imported.
    assert {each["check_name"] for each in results if each["status"] != "passed"} <= {"check_array_api_input"}
    assert len(results) > 30


@pytest.mark.parametrize(
    "check",
    [
        "check_n_features_in",
        "check_n_features_in_after_fitting",
        "check_dataframe_column_names_consistency",
        "check_transformer_get_feature_names_out",
        "check_transformer_get_feature_names_out_pandas",
        "check_set_output_transform",
        "check_set_output_transform_pandas",
        "check_global_output_transform_pandas",
        "check_set_output_transform_polars",
        "check_global_set_output_transform_polars",
    ],
)
def test_more_checks_of_sklearn(check):
    checks = pytest.importorskip("sklearn.utils.estimator_checks")
    function = getattr(checks, check)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the names of columns
        try:
            function("RandomProjection", RandomProjection(3, kind="hadamard"))
        except checks.SkipTest as reason:
            pytest.skip(str(reason))


def test_within_sklearn():
    base = pytest.importorskip("sklearn.base")
    from sklearn import datasets, exceptions, linear_model, pipeline

    x, y = datasets.load_digits(return_X_y=True)
    estimator = RandomProjection(32, kind="hadamard", seed=3)
    other = base.clone(estimator)
    assert other.get_params() == estimator.get_params()
    assert not other.__sklearn_is_fitted__()
    with pytest.raises(exceptions.NotFittedError, match="This RandomProjection instance is not fitted yet"):
        other.transform(x)
    model = pipeline.make_pipeline(other, linear_model.RidgeClassifier())
    assert model.fit(x[:1000], y[:1000]).score(x[1000:], y[1000:]) > 0.8
    model.set_params(randomprojection__n_components=2, randomprojection__kind="gaussian").fit(x[:100], y[:100])
    assert model[0].transform(x[:5]).shape == (5, 2)
    assert "RandomProjection" in model._repr_html_()
    assert base.clone(model).get_params()["randomprojection__n_components"] == 2


def test_data_frames():
    pandas = pytest.importorskip("pandas")
    x = pandas.DataFrame(sample((4, 3)), columns=["a", "b", "c"], index=[3, 1, 4, 5])
    estimator = RandomProjection(2).set_output(transform="pandas")
    frame = estimator.fit_transform(x)
    assert frame.columns.tolist() == ["randomprojection0", "randomprojection1"]
    assert frame.index.tolist() == [3, 1, 4, 5]
    assert estimator.feature_names_in_.tolist() == ["a", "b", "c"]
    same(frame.to_numpy(), RandomProjection(2).fit_transform(x.to_numpy()))
    with pytest.raises(ValueError, match=r"(?s)Feature names unseen at fit time.*- d.*yet now missing.*- c"):
        estimator.transform(x.rename(columns={"c": "d"}))
    with pytest.raises(ValueError, match="must be in the same order"):
        estimator.transform(x[["b", "a", "c"]])
    with pytest.warns(UserWarning, match="X does not have valid feature names, but RandomProjection was fitted with"):
        estimator.transform(x.to_numpy())
    with pytest.warns(UserWarning, match="X has feature names, but RandomProjection was fitted without"):
        fitted("gaussian", 2, 3).transform(x)
    with pytest.raises(TypeError, match="only supported if all input features have string names"):
        estimator.fit(x.rename(columns={"a": 1}))
    assert not hasattr(estimator.fit(x.to_numpy()), "feature_names_in_")
    with pytest.raises(ValueError, match=r"output config must be in \['default', 'pandas', 'polars'\], got csv"):
        estimator.set_output(transform="csv").transform(x.to_numpy())
    assert type(estimator.set_output(transform="default").transform(x.to_numpy())) is np.ndarray
