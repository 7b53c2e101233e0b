"""Search by codes and by LSHIndex on real vectors, scikit-learn's digits, against every cosine in float64.

The codes do not depend on the machine, so neither does what they find, but for neighbours at nearly one distance. The
thresholds are below the least that twelve seeds showed.
"""

from __future__ import annotations

import subprocess
import sysconfig
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fastk.hashing import SimHash, hamming_topk
from fastk.index import LSHIndex

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "retrieval.py"
K = 10
SEEDS = range(3)
CANDIDATES = 100
"""Of 1397 vectors."""

Array = NDArray[Any]


@pytest.fixture(scope="module")
def digits() -> tuple[Array, Array, Array]:
    """1397 vectors, 400 others to search for, and the numbers of the ten nearest to each, from every cosine."""
    x = pytest.importorskip("sklearn.datasets").load_digits().data
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    order = np.random.default_rng(0).permutation(len(x))
    base, queries = x[order[400:]], x[order[:400]]
    nearest = np.argsort(-(queries @ base.T), axis=1, kind="stable")[:, :K]
    return base.astype(np.float32), queries.astype(np.float32), nearest


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = spec_from_file_location("retrieval", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def recall(found: Array, nearest: Array) -> float:
    """Share of the nearest that were found."""
    assert found.shape == nearest.shape
    shared = [len(set(ids) & set(right)) for ids, right in zip(found.tolist(), nearest.tolist(), strict=True)]
    return sum(shared) / nearest.size


def mean_recall(search: Callable[[int], Array], nearest: Array) -> float:
    return float(np.mean([recall(search(seed), nearest) for seed in SEEDS]))


@pytest.mark.parametrize("method", ["hadamard", "gaussian", "orthogonal"])
@pytest.mark.parametrize(("bits", "alone", "compared"), [(64, 0.36, 0.87), (256, 0.61, 0.985), (1024, 0.79, 0.995)])
def test_codes_find_the_nearest(
    digits: tuple[Array, Array, Array], method: str, bits: int, alone: float, compared: float
) -> None:
    """By Hamming distance alone, and with the cosines of the best candidates."""
    base, queries, nearest = digits

    def candidates(seed: int) -> Array:
        hasher = SimHash(bits, method=method, seed=seed).fit(base)
        return hamming_topk(hasher.encode(queries), hasher.encode(base), CANDIDATES)[1]

    def best(seed: int) -> Array:
        ids = candidates(seed)
        cosine = np.einsum("qcd,qd->qc", base[ids], queries)
        return np.take_along_axis(ids, np.argsort(-cosine, axis=1, kind="stable")[:, :K], 1)

    assert mean_recall(lambda seed: candidates(seed)[:, :K], nearest) >= alone
    assert mean_recall(best, nearest) >= compared


@pytest.mark.parametrize("bits", [64, 256])
def test_codes_find_no_less_than_independent_planes_do(digits: tuple[Array, Array, Array], bits: int) -> None:
    base, queries, nearest = digits

    def by_rounds(seed: int) -> Array:
        hasher = SimHash(bits, seed=seed).fit(base)
        return hamming_topk(hasher.encode(queries), hasher.encode(base), K)[1]

    def by_planes(seed: int) -> Array:
        planes = np.random.default_rng(seed).standard_normal((base.shape[1], bits))
        a, b = np.where(queries @ planes >= 0, 1, -1), np.where(base @ planes >= 0, 1, -1)
        return np.argsort(-(a @ b.T), axis=1, kind="stable")[:, :K]

    assert mean_recall(by_rounds, nearest) >= mean_recall(by_planes, nearest) - 0.02


@pytest.mark.parametrize(("wanted", "least"), [(0.7, 0.65), (0.9, 0.88), (0.99, 0.97)])
def test_a_tuned_index_finds_what_it_was_asked_for(
    digits: tuple[Array, Array, Array], wanted: float, least: float
) -> None:
    base, queries, nearest = digits

    def search(seed: int) -> Array:
        index = LSHIndex.tuned(base, recall=wanted, k=K, seed=seed)
        assert wanted > 0.9 or index.tuning_.candidates < len(base) / 2
        index.add(base)
        cosine, ids = index.query(queries, K)
        exact = np.einsum("qkd,qd->qk", base[ids], queries)
        np.testing.assert_allclose(cosine[ids >= 0], exact[ids >= 0], rtol=0, atol=1e-6)
        assert (np.diff(np.where(ids >= 0, cosine, -2), axis=1) <= 0).all()
        return ids

    assert mean_recall(search, nearest) >= least


def test_a_saved_index_finds_the_same(digits: tuple[Array, Array, Array], tmp_path: Path) -> None:
    base, queries, nearest = digits
    index = LSHIndex.tuned(base, recall=0.9, k=K)
    index.add(base)
    index.save(tmp_path / "digits.lsh")
    cosine, ids = index.query(queries, K)
    for mmap in (False, True):
        loaded = LSHIndex.load(tmp_path / "digits.lsh", mmap=mmap)
        again = loaded.query(queries, K)
        np.testing.assert_array_equal(again[0], cosine)
        np.testing.assert_array_equal(again[1], ids)
    assert recall(ids, nearest) > 0.5


# examples/retrieval.py.


def test_the_example_searches_exactly(example: ModuleType, digits: tuple[Array, Array, Array]) -> None:
    base, queries, nearest = digits
    found = example.exact(base, queries, K)
    assert recall(found, nearest) > 0.999  # float32 tells a few neighbours apart in another order
    assert example.recall(found, nearest) == pytest.approx(recall(found, nearest))
    everything = np.broadcast_to(np.arange(len(base)), (len(queries), len(base)))
    assert recall(example.best_of(everything[:50, ::-1], base, queries[:50], K), nearest[:50]) > 0.999


def test_the_example_keeps_each_vector_once(example: ModuleType) -> None:
    x = np.array([[3, 4], [0, 0], [6, 8], [1, 0]])
    np.testing.assert_allclose(example.unit(x), [[0.6, 0.8], [1, 0]], rtol=1e-6)
    base, queries = example.split(np.arange(20.0).reshape(10, 2))
    assert (len(base), len(queries)) == (8, 2)
    np.testing.assert_array_equal(np.sort(np.concatenate([base, queries]), axis=0), np.arange(20.0).reshape(10, 2))


def test_the_example_reads_sentences(example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = "The first sentence of two, of some length.", "The other one, which is long enough too."
    (tmp_path / "a.py").write_text(f'"""{one} {two}\n\n>>> example of some length, not of words.\n"""\n')
    (tmp_path / "b.py").write_text(f'class A:\n    def f(self):\n        """{two}\n\n        Short.\n        """\n')
    (tmp_path / "broken.py").write_text("def")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "c.py").write_text('"""A sentence in a test that is left out here."""')
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    assert example.sentences() == [one, two]


@pytest.mark.usefixtures("digits")
def test_the_example_runs(run_python: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    np.save(tmp_path / "vectors.npy", rng.standard_normal((600, 4)) @ rng.standard_normal((4, 24)))
    done = run_python(str(EXAMPLE), "--vectors", str(tmp_path / "vectors.npy"))
    assert not done.returncode, done.stderr
    assert "vectors.npy: 450 vectors of 24 numbers, 150 queries" in done.stdout
    ways = {line[:44].rstrip(): line[44:].split() for line in done.stdout.splitlines() if line[44:55].strip()}
    assert float(ways["every cosine"][0]) == 1
    assert float(ways["SimHash, 256 bits, cosines of the best 100"][0]) > 0.95
    assert float(ways["LSHIndex.tuned(recall=0.9)"][0]) > 0.8
