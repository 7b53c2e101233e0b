"""LSHIndex: its results against exact search in NumPy, its probes against a sort of all of them, its laws, its file."""

from __future__ import annotations

import copy
import hashlib
import itertools
import math
import pickle
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hashing_oracle
import numpy as np
import pytest
import scipy.stats
from conftest import running_on, variants
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import fastk
from fastk import _index_file, _index_tuning, _philox, hashing
from fastk import index as index_module
from fastk._index_file import HEADER, Description
from fastk.hashing import SimHash
from fastk.index import LSHIndex, Tuning

LARGEST, SMALLEST = 2**63 - 1, -(2**63)
NOTHING = 2**64 - 1
"""What a kernel returns whose sizes contradict each other."""
SINGLE = np.dtype(np.float32)


@pytest.fixture(params=variants())
def variant(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The index on each backend and level."""
    with running_on(request.param) as bound:
        for module in (index_module, _index_tuning, _philox, hashing):
            monkeypatch.setattr(module, "kernels", bound)
        yield request.param


# ---- what is true


def lane_sums(terms: np.ndarray) -> np.ndarray:
    """Sums over the last axis, in 16 lanes that are added in halves."""
    padded = np.zeros((*terms.shape[:-1], -(-terms.shape[-1] // 16) * 16), terms.dtype)
    padded[..., : terms.shape[-1]] = terms
    lanes = np.zeros((*terms.shape[:-1], 16), terms.dtype)
    for first in range(0, padded.shape[-1], 16):
        lanes = lanes + padded[..., first : first + 16]
    for half in (8, 4, 2, 1):
        lanes = lanes[..., :half] + lanes[..., half:]
    return lanes[..., 0]


def units(x: Any) -> np.ndarray:
    """Rows of length 1, as the index keeps them."""
    rows = np.asarray(x).astype(np.float32).astype(np.float64)
    return (rows / np.sqrt(lane_sums(rows * rows))[:, None]).astype(np.float32)


def cosines(queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Of rows of length 1, in float32."""
    return np.clip(lane_sums(queries[:, None] * rows[None]), -1, 1)


def ranked(cosine: np.ndarray, ids: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The best k of one query."""
    order = np.lexsort((ids, -cosine))[:k]
    values, names = np.full(k, -np.inf, np.float32), np.full(k, -1)
    values[: len(order)], names[: len(order)] = cosine[order], ids[order]
    return values, names


def exact(x: Any, ids: Any, queries: Any, k: int, among: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """The best k of each query among all rows, or those that `among` (queries, rows) allows."""
    ids, table = np.asarray(ids), cosines(units(queries), units(x))
    among = np.ones(table.shape, bool) if among is None else among
    found = [ranked(row[some], ids[some], k) for row, some in zip(table, among, strict=True)]
    return np.array([values for values, _ in found]), np.array([names for _, names in found])


def projections(index: LSHIndex, x: Any) -> np.ndarray:
    """(rows, tables, bits): what buckets are the signs of."""
    rows = units(x)
    coder = hashing._Rounds(index.seed, index.n_tables * index.n_bits, rows.shape[1])
    table = coder._table(SINGLE).reshape(-1, 3, coder.p)
    values = hashing_oracle.simhash_values(rows, table)[:, : index.n_tables * index.n_bits]
    return values.reshape(len(rows), index.n_tables, index.n_bits)


def bucket_of(values: np.ndarray) -> np.ndarray:
    """The numbers whose bits are the signs along the last axis."""
    weights = np.uint64(1) << np.arange(values.shape[-1], dtype=np.uint64)
    return ((values >= 0) * weights).sum(axis=-1, dtype=np.uint64)


def all_probes(values: np.ndarray) -> list[int]:
    """Every bucket of a table, by the sum of squares of the flipped projections, added from the smallest up."""
    squares = values.astype(np.float64) ** 2
    order, own = np.argsort(squares, kind="stable"), int(bucket_of(values))
    sets = []
    for chosen in itertools.product((False, True), repeat=len(values)):
        total, flips = 0.0, 0
        for j in order[list(chosen)]:
            total, flips = total + squares[j], flips | 1 << int(j)
        sets.append((total, flips))
    return [own ^ flips for _, flips in sorted(sets)]


def probed(index: LSHIndex, x: Any, queries: Any, n_probes: int) -> np.ndarray:
    """Which rows are in the buckets that each query looks into, (queries, rows)."""
    rows, points = bucket_of(projections(index, x)), projections(index, queries)
    among = np.zeros((len(points), len(rows)), bool)
    for q, tables in enumerate(points):
        for t, values in enumerate(tables):
            among[q] |= np.isin(rows[:, t], np.array(all_probes(values)[: n_probes + 1], np.uint64))
    return among


def low_rank(n: int, d: int, rank: int, seed: int) -> np.ndarray:
    """Vectors near a subspace, as embeddings are."""
    basis = np.random.default_rng(99).standard_normal((rank, d)) * np.linspace(1, 0.2, rank)[:, None]
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, rank)) @ basis + 0.05 * rng.standard_normal((n, d))).astype(np.float32)


def check(index: LSHIndex, queries: Any, k: int, expected: tuple[np.ndarray, np.ndarray], **options: Any) -> None:
    """Equal bits."""
    cosine, ids = index.query(queries, k, **options)
    assert (cosine.dtype, ids.dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(ids, expected[1])
    np.testing.assert_array_equal(cosine, expected[0])


# ---- search


@pytest.mark.parametrize("d", [1, 2, 15, 16, 17, 33, 128, 300])
def test_every_bucket_is_exact_search(variant, d):
    rng = np.random.default_rng(d)
    x, queries = rng.standard_normal((300, d)), rng.standard_normal((9, d))
    index = LSHIndex(n_tables=2, n_bits=5, n_probes=31, seed=d)
    index.add(x)
    for k in (1, 10, 300, 310):
        check(index, queries, k, exact(x, np.arange(300), queries, k))
        assert index.n_candidates_.tolist() == [300] * 9


@pytest.mark.parametrize(("n_tables", "n_bits", "n"), [(3, 6, 400), (2, 8, 100), (1, 11, 1000), (4, 2, 70), (5, 9, 1)])
@pytest.mark.parametrize("d", [3, 40])
def test_candidates_are_the_rows_of_the_probed_buckets(variant, n_tables, n_bits, n, d):
    rng = np.random.default_rng(n_bits + d)
    x, queries = rng.standard_normal((n, d)), rng.standard_normal((4, d))
    index = LSHIndex(n_tables=n_tables, n_bits=n_bits, seed=2**128 - 1 - n)
    index.add(x)
    for n_probes in (0, 1, 2, 2**n_bits // 3, 2**n_bits - 2):
        among = probed(index, x, queries, n_probes)
        check(index, queries, 7, exact(x, np.arange(n), queries, 7, among), n_probes=n_probes)
        assert index.n_candidates_.tolist() == among.sum(axis=1).tolist()


def test_more_bits_than_a_rotation_has(variant):
    """Tables reach over several blocks of the codes."""
    x, queries = low_rank(500, 20, 4, 1), low_rank(20, 20, 4, 2)
    index = LSHIndex(n_tables=33, n_bits=13)
    index.add(x)
    own = bucket_of(projections(index, queries))
    among = (bucket_of(projections(index, x))[None] == own[:, None]).any(axis=2)
    assert 0 < among.sum() < among.size / 2
    check(index, queries, 20, exact(x, np.arange(500), queries, 20, among))


def test_buckets_of_64_bits(variant):
    x = low_rank(300, 8, 2, 1)
    queries = np.concatenate([x[:20], -x[:20], 1.001 * x[:20] + 1e-4])
    index = LSHIndex(n_tables=2, n_bits=64)
    index.add(x)
    own = bucket_of(projections(index, queries))
    among = (bucket_of(projections(index, x))[None] == own[:, None]).any(axis=2)
    assert 20 < among.sum() < 1000
    check(index, queries, 9, exact(x, np.arange(300), queries, 9, among))
    _, ids = index.query(x, 1, n_probes=100)
    assert (ids[:, 0] == np.arange(300)).all()


def test_more_candidates_than_are_remembered(variant):
    """The bits of rows that were seen are forgotten as a whole, and the next query sees all again."""
    rng = np.random.default_rng(5)
    x, queries = rng.standard_normal((40000, 3)), rng.standard_normal((3, 3))
    index = LSHIndex(n_tables=3, n_bits=1)
    index.add(x)
    index.remove(np.arange(0, 40000, 3))
    kept = np.flatnonzero(np.arange(40000) % 3)
    own = bucket_of(projections(index, queries))
    among = (bucket_of(projections(index, x[kept]))[None] == own[:, None]).any(axis=2)
    assert among.sum(axis=1).min() > 1 << 14
    check(index, queries, 50, exact(x[kept], kept, queries, 50, among))
    assert index.n_candidates_.tolist() == among.sum(axis=1).tolist()


def test_ties_go_to_the_smaller_id(variant):
    x = np.repeat([[1.0, 2.0, 2.0], [1.0, 2.0, 2.5]], 40, axis=0)
    ids = np.random.default_rng(0).permutation(80) - 40
    index = LSHIndex(n_tables=2, n_bits=3)
    for part in np.array_split(np.arange(80), 7):
        index.add(x[part], ids[part])
    cosine, found = index.query([[2.0, 4.0, 4.0]], 30)
    assert found[0].tolist() == sorted(ids[:40].tolist())[:30]
    assert (cosine == 1).all()


def test_fewer_than_k(variant):
    index = LSHIndex(n_bits=2, n_probes=3)
    index.add([[3.0, 4.0], [4.0, 3.0]], [-1, 8])
    cosine, ids = index.query([[3.0, 4.0]], 4)
    assert ids.tolist() == [[-1, 8, -1, -1]]
    np.testing.assert_allclose(cosine, [[1, 0.96, -np.inf, -np.inf]], atol=1e-6)


def test_empty():
    index = LSHIndex()
    assert (len(index), index.dimension, index.nbytes, index.ids.tolist()) == (0, None, 0, [])
    cosine, ids = index.query(np.ones((3, 5)), 2)
    assert cosine.tolist() == [[-math.inf] * 2] * 3
    assert ids.tolist() == [[-1] * 2] * 3
    assert index.add(np.empty((0, 5))).tolist() == []
    assert index.dimension is None
    index.remove([])
    index.add(np.ones((2, 3)))
    index.remove([0, 1])
    assert (len(index), index.dimension, index.nbytes) == (0, 3, 0)
    assert index.query(np.ones((1, 3)), 1)[1].tolist() == [[-1]]
    cosine, ids = index.query(np.empty((0, 3)), 4)
    assert (cosine.shape, ids.shape, index.n_candidates_.shape) == ((0, 4), (0, 4), (0,))
    assert index.add(np.ones((1, 3))).tolist() == [2]


@pytest.mark.parametrize("d", [1, 7, 128, 1000])
def test_cosines_are_within_their_bound(variant, d):
    rng = np.random.default_rng(d)
    x = np.ldexp(rng.standard_normal((60, d)), rng.integers(-30, 30, (60, 1))).astype(np.float32)
    x[-1] = rng.choice([3e38, -3e38], d)
    x[-2] = 1e-45
    queries = np.concatenate([x, rng.standard_normal((20, d)).astype(np.float32)])
    index = LSHIndex(n_tables=1, n_bits=1, n_probes=1)
    index.add(x)
    cosine, ids = index.query(queries, len(x))
    a, b = (rows.astype(np.longdouble) for rows in (queries, x))
    a, b = (rows / np.sqrt((rows * rows).sum(axis=1, keepdims=True)) for rows in (a, b))
    error = np.abs(cosine - np.take_along_axis(a @ b.T, ids, axis=1))
    assert error.max() <= index.cosine_error == (-(-d // 16) + 8) / 2**24
    assert error.max() > 0 or d == 1
    assert np.abs(cosine).max() <= 1


def test_buckets_are_the_codes_of_simhash(variant):
    """Projections have the very signs that the codes are made of."""
    x = np.random.default_rng(3).standard_normal((50, 21))
    index = LSHIndex(n_tables=7, n_bits=45, seed=9)
    index.add(x)
    run = index._runs[0]
    np.testing.assert_array_equal(run.codes, SimHash(315, seed=9).fit(units(x)).encode(units(x)))
    buckets = index._buckets(index._coder, run.rows[:, :21], 1)[:, :, 0]
    np.testing.assert_array_equal(buckets, bucket_of(projections(index, x)))
    bits = np.unpackbits(run.codes, axis=1, count=315, bitorder="little").reshape(50, 7, 45)
    np.testing.assert_array_equal(buckets, bucket_of(bits.astype(np.float64) - 0.5))


def hard_to_tell_apart(n: int, d: int, seed: int) -> np.ndarray:
    """Vectors whose cosines are equal, or nearly, or have a few large elements, or hardly any that are not equal."""
    rng = np.random.default_rng(seed)
    centre = rng.standard_normal(d)
    near = centre + np.ldexp(rng.standard_normal((n // 4, d)), rng.integers(-24, -3, (n // 4, 1)))
    signs = rng.choice([-1.0, 1.0], (n // 4, d))
    few = np.where(rng.random((n // 4, d)) < 3 / d, rng.standard_normal((n // 4, d)), 1e-9)
    return rng.permutation(np.concatenate([near, np.repeat(near[:3], n // 12, axis=0), signs, few, -near]))


@pytest.mark.parametrize("d", [49, 64, 65, 128, 129, 300, 1000])
def test_small_integers_change_nothing(variant, d):
    """Rows that their bound rules out are those that the floats rule out."""
    x = hard_to_tell_apart(600, d, d).astype(np.float32)
    queries = np.concatenate([x[:20], np.random.default_rng(0).standard_normal((10, d)), np.eye(2, d)])
    index = LSHIndex(n_tables=3, n_bits=2, n_probes=1)
    index.add(x)
    assert index._runs[0].small.shape == (len(x), -(-d // 64) * 64)
    among = probed(index, x, queries, 1)
    for k in (1, 10, 200):
        check(index, queries, k, exact(x, np.arange(len(x)), queries, k, among))
        check(index, queries, k, exact(x, np.arange(len(x)), queries, k), n_probes=3)


def test_small_integers_are_used(tmp_path):
    """With others in their place rows are not found."""
    x = np.random.default_rng(0).standard_normal((2000, 80))
    index = LSHIndex(n_tables=1, n_bits=1, n_probes=1)
    index.add(x)
    assert index.query(x, 1)[1][:, 0].tolist() == list(range(2000))
    index._runs[0].small[:] = 0
    found = index.query(x, 1)[1][:, 0] == np.arange(2000)
    assert found[:64].all()
    # numba ranks all by floats.
    assert found[64:].mean() < 0.1 or fastk.config()["backend"] == "numba"


# ---- the law


@pytest.mark.parametrize(("n_bits", "degrees"), [(1, 20), (1, 90), (1, 160), (4, 45), (4, 80), (10, 15)])
def test_collision_law(n_bits, degrees):
    """Buckets are shared with probability (1 - t / pi)**n_bits, over seeds."""
    trials, t = 1500, math.radians(degrees)
    rng = np.random.default_rng(degrees)
    collisions = 0
    for seed in range(trials):
        basis = np.linalg.qr(rng.standard_normal((30, 2)))[0].T
        index = LSHIndex(n_tables=1, n_bits=n_bits, seed=seed)
        index.add(basis[:1])
        index.query([math.cos(t) * basis[0] + math.sin(t) * basis[1]], 1)
        collisions += int(index.n_candidates_[0])
    expected = (1 - t / math.pi) ** n_bits
    assert scipy.stats.binomtest(collisions, trials, expected).pvalue > 1e-7
    for other in (expected + 0.08, expected - 0.08):
        assert scipy.stats.binomtest(collisions, trials, min(max(other, 0), 1)).pvalue < 1e-2


@pytest.mark.parametrize(("n_bits", "degrees"), [(12, 40), (12, 75), (17, 60)])
def test_law_of_probes(n_bits, degrees):
    """The share of neighbours that n probes find, as tuning expects it."""
    t, probes, tables = math.radians(degrees), 64, 256 // n_bits
    rng = np.random.default_rng(0)
    hits, pairs = np.zeros(probes + 1), 0
    for seed in range(40):
        x, z = rng.standard_normal((2, 600, 50))
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        z -= (z * x).sum(axis=1, keepdims=True) * x
        z /= np.linalg.norm(z, axis=1, keepdims=True)
        index = LSHIndex(n_tables=tables, n_bits=n_bits, seed=seed)
        coder = index._coder_of(50)
        neighbours = (math.cos(t) * x + math.sin(t) * z).astype(np.float32)
        shared = index._buckets(coder, x.astype(np.float32), probes + 1) == index._buckets(coder, neighbours, 1)
        hits, pairs = hits + shared.sum(axis=(0, 1)), pairs + shared.shape[0] * tables
    middles = (np.arange(_index_tuning.BINS) + 0.5) * math.pi / _index_tuning.BINS
    law = [np.interp(t, middles, np.log(row)) for row in _index_tuning.found(n_bits, probes, 256, 0)]
    found = np.cumsum(hits) / pairs
    for n in (0, 1, 8, 64):
        assert found[n] == pytest.approx(math.exp(law[n]), rel=0.02 + 4 / math.sqrt(found[n] * pairs))


def test_all_probes_find_all():
    for n_bits in (1, 3, 6):
        law = _index_tuning.found(n_bits, 2**n_bits - 1, 256, 5)
        np.testing.assert_allclose(law[-1], 1, rtol=0.02)
        assert (np.diff(law, axis=0) >= 0).all()


# ---- changes


COMPONENTS = st.integers(-3, 3)
VECTORS = st.lists(COMPONENTS, min_size=3, max_size=3).filter(any)
IDS = st.integers(-4, 30) | st.sampled_from([LARGEST, LARGEST - 1, SMALLEST, 2**40, -(2**40)])


class Index(RuleBasedStateMachine):
    """Additions, removals, copies and files, in any order, against a dictionary. Many vectors have equal cosines."""

    directory: Path

    @initialize(n_tables=st.integers(1, 4), n_bits=st.integers(1, 9) | st.just(40), seed=st.integers(0, 9))
    def begin(self, n_tables, n_bits, seed):
        self.index = LSHIndex(n_tables=n_tables, n_bits=n_bits, seed=seed)
        self.model: dict[int, list[int]] = {}
        self.next_id = 0

    @rule(vectors=st.lists(VECTORS, max_size=8), repeated=st.integers(1, 9))
    def add(self, vectors, repeated):
        x = np.array(vectors * repeated, np.int64).reshape(-1, 3)
        last = self.next_id + len(x) - 1
        if last > LARGEST:
            with pytest.raises(ValueError, match="ids=None"):
                self.index.add(x)
            return
        ids = self.index.add(x)
        assert ids.tolist() == list(range(self.next_id, self.next_id + len(x)))
        self.model |= dict(zip(ids.tolist(), x.tolist(), strict=True))
        self.next_id += len(x)

    @rule(entries=st.dictionaries(IDS, VECTORS, max_size=6))
    def add_own(self, entries):
        x, ids = np.array(list(entries.values()), np.float32).reshape(-1, 3), np.array(list(entries), np.int64)
        if entries.keys() & self.model.keys():
            with pytest.raises(ValueError, match=r"ids: -?\d+ is in the index"):
                self.index.add(x, ids)
            return
        assert self.index.add(x, ids).tolist() == list(entries)
        self.model |= entries
        if entries:
            self.next_id = max(self.next_id, max(entries) + 1)

    @rule(data=st.data())
    def remove(self, data):
        ids = data.draw(st.lists(st.sampled_from(sorted(self.model)), unique=True)) if self.model else []
        self.index.remove(ids)
        for each in ids:
            del self.model[each]

    @precondition(lambda self: len(self.model) > 1)
    @rule(keep=st.integers(0, 2))
    def remove_nearly_all(self, keep):
        ids = sorted(self.model)[keep:]
        self.index.remove(ids)
        for each in ids:
            del self.model[each]

    @rule(other=IDS)
    def refused(self, other):
        """What is wrong changes nothing."""
        here = next(iter(self.model), None)
        wrong = [other] * 2 if here is None else [here, here]
        with pytest.raises(ValueError, match="given twice"):
            self.index.remove(wrong)
        with pytest.raises(ValueError, match="given twice"):
            self.index.add(np.ones((2, 3)), wrong)
        if other not in self.model:
            with pytest.raises(ValueError, match=rf"ids: {other} is not in the index"):
                self.index.remove([other] if here is None else [here, other])

    @rule(mmap=st.booleans(), verify=st.booleans())
    def through_a_file(self, mmap, verify):
        path = self.directory / "through"
        self.index.save(path)
        self.index = LSHIndex.load(path, mmap, verify=verify)

    @rule(copied=st.sampled_from([copy.copy, copy.deepcopy, lambda index: pickle.loads(pickle.dumps(index))]))
    def copy(self, copied):
        before, self.index = self.index, copied(self.index)
        assert before is not self.index

    @rule(vectors=st.lists(VECTORS, min_size=1, max_size=3), k=st.integers(1, 12), n_probes=st.integers(0, 6))
    def same_as_built_at_once(self, vectors, k, n_probes):
        old = self.index
        fresh = LSHIndex(n_tables=old.n_tables, n_bits=old.n_bits, seed=old.seed)
        if self.model:
            fresh.add(list(self.model.values()), list(self.model))
        expected = fresh.query(vectors, k, n_probes=n_probes)
        check(self.index, vectors, k, expected, n_probes=n_probes)
        assert self.index.n_candidates_.tolist() == fresh.n_candidates_.tolist()

    @invariant()
    def holds_the_model(self):
        if not hasattr(self, "model"):
            return
        ids = sorted(self.model)
        assert len(self.index) == len(ids)
        assert self.index.ids.tolist() == ids
        assert self.index.contains([*ids, 12345]).tolist() == [True] * len(ids) + [12345 in self.model]
        assert 77777 not in self.index
        query = [[1, 2, -1]]
        if ids:
            expected = exact([self.model[each] for each in ids], ids, query, 5)
            check(self.index, query, 5, expected, n_probes=2**20)
            assert ids[0] in self.index


def test_like_a_dictionary(tmp_path):
    from hypothesis.stateful import run_state_machine_as_test

    Index.directory = tmp_path
    run_state_machine_as_test(Index, settings=settings(max_examples=25, stateful_step_count=25, deadline=None))


def test_one_by_one(variant):
    """Runs stay few, and what is found is what one addition gives."""
    x, queries = low_rank(300, 10, 3, 1), low_rank(10, 10, 3, 2)
    whole, index = (LSHIndex(n_tables=3, n_bits=6, n_probes=2) for _ in range(2))
    whole.add(x)
    most = 0
    for row in x:
        index.add(row[None])
        most = max(most, len(index._runs))
    assert 1 < most <= 6
    check(index, queries, 8, whole.query(queries, 8))
    index.remove(np.arange(150))
    whole.remove(np.arange(150))
    assert index.nbytes < whole.nbytes * 1.3
    check(index, queries, 8, whole.query(queries, 8))


def test_space_is_given_back():
    x = low_rank(5000, 64, 10, 1)
    index = LSHIndex(n_tables=4, n_bits=8)
    index.add(x)
    before = index.nbytes
    index.remove(np.arange(2400))
    assert index.nbytes == before
    index.remove(np.arange(2400, 2600))
    assert index.nbytes < 0.6 * before
    assert index.ids.tolist() == list(range(2600, 5000))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "uint64", "bfloat16", ">f4"])
def test_dtypes_and_layouts(variant, dtype):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    rng = np.random.default_rng(0)
    x = rng.integers(1, 100, (50, 9)).astype(dtype)
    expected = LSHIndex(n_tables=2, n_bits=4)
    expected.add(x.astype(np.float32))
    for layout in (x, np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2], x[::-1][::-1], x.tolist()):
        index = LSHIndex(n_tables=2, n_bits=4)
        index.add(layout)
        check(index, layout, 5, expected.query(x.astype(np.float32), 5))


def test_float64_rounds_once():
    x = np.random.default_rng(0).standard_normal((20, 5))
    index = LSHIndex(n_tables=1, n_bits=1, n_probes=1)
    index.add(x)
    np.testing.assert_array_equal(index._runs[0].rows[:, :5], units(x))
    assert not index._runs[0].rows[:, 5:].any()


def test_default_ids_follow_the_largest():
    index = LSHIndex(n_bits=3)
    one = np.ones((1, 2))
    assert index.add(one, [-9]).tolist() == [-9]
    assert index.add(one).tolist() == [0]
    assert index.add(one, [41]).tolist() == [41]
    assert index.add(one).tolist() == [42]
    index.remove([42])
    assert index.add(one).tolist() == [43]
    assert index.add(one, np.array([LARGEST - 1], np.uint64)).tolist() == [LARGEST - 1]
    assert index.add(one).tolist() == [LARGEST]
    with pytest.raises(ValueError, match="ids=None: after 9223372036854775807 there are not 1 more"):
        index.add(one)
    assert index.ids.tolist() == [-9, 0, 41, 43, LARGEST - 1, LARGEST]
    for id_ in (-9, LARGEST, np.int64(43), True):
        assert (id_ in index) is (id_ is not True)
    for id_ in (2**63, "43", None, 43.0, -(2**70)):
        assert id_ not in index


# ---- arguments


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"hasher": "fly"}, ValueError, "hasher='fly': allowed are simhash"),
        ({"hasher": 3}, TypeError, "hasher=3: a string is needed"),
        ({"n_tables": 0}, ValueError, "n_tables=0: allowed is 1 to 65536"),
        ({"n_tables": 1.0}, TypeError, "n_tables=1.0: an integer is needed"),
        ({"n_bits": 65}, ValueError, "n_bits=65: allowed is 1 to 64"),
        ({"n_bits": 0}, ValueError, "n_bits=0"),
        ({"n_probes": -1}, ValueError, r"n_probes=-1: allowed is 0 to 2\*\*63 - 1"),
        ({"seed": -1}, ValueError, "seed=-1"),
        ({"seed": 2**128}, ValueError, "seed="),
        ({"seed": None}, TypeError, "seed=None"),
    ],
)
def test_wrong_parameters(options, error, message):
    with pytest.raises(error, match=message):
        LSHIndex(**options)


WRONG_VECTORS = [
    (np.ones(3), ValueError, r"X: shape \(3,\); allowed is \(vectors, dimension\)"),
    (np.ones((2, 0)), ValueError, r"X: shape \(2, 0\)"),
    (np.ones((2, 4)), ValueError, r"X: shape \(2, 4\); allowed is \(vectors, 3\)"),
    (np.ones((2, 3), complex), TypeError, "X: dtype complex128"),
    (np.array([["a", "b", "c"]]), TypeError, "X: dtype"),
    (np.ones((2, 3), bool), TypeError, "X: dtype bool"),
    ([[1, 2, 3], [0, 0, 0]], ValueError, "X: row 1 is zero or not finite"),
    ([[1, 2, 3], [1, 2, 3], [1, np.nan, 3]], ValueError, "X: row 2 is zero or not finite"),
    ([[1, 2, np.inf]], ValueError, "X: row 0 is zero or not finite"),
    ([[1e300, 2, 3]], ValueError, "X: row 0 is zero or not finite"),
    ([[1e-60, 1e-50, 0]], ValueError, "X: row 0 is zero or not finite"),
    (scipy.sparse.csr_matrix(np.ones((2, 3))), TypeError, "X: sparse data"),
]


@pytest.mark.parametrize(("wrong", "error", "message"), WRONG_VECTORS)
def test_wrong_vectors(variant, wrong, error, message):
    index = LSHIndex(n_bits=2)
    index.add(np.ones((4, 3)))
    for call in (lambda: index.add(wrong), lambda: index.query(wrong, 2)):
        with pytest.raises(error, match=message):
            call()
    assert index.ids.tolist() == [0, 1, 2, 3]
    assert index.add(np.ones((1, 3))).tolist() == [4]


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([1], ValueError, r"ids: shape \(1,\); allowed is \(2,\)"),
        ([[1, 2]], ValueError, r"ids: shape \(1, 2\)"),
        ([1.0, 2.0], TypeError, "ids: dtype float64"),
        ([True, False], TypeError, "ids: dtype bool"),
        (["a", "b"], TypeError, "ids: dtype"),
        ([7, 7], ValueError, "ids: 7 is given twice"),
        ([7, 2], ValueError, "ids: 2 is in the index"),
        (np.array([7, 2**63], np.uint64), ValueError, "ids: 9223372036854775808 is too large"),
    ],
)
def test_wrong_ids(ids, error, message):
    index = LSHIndex(n_bits=2)
    index.add(np.ones((4, 3)))
    with pytest.raises(error, match=message):
        index.add(np.ones((2, 3)), ids)
    assert index.ids.tolist() == [0, 1, 2, 3]


def test_wrong_searches_and_removals():
    index = LSHIndex(n_bits=2)
    index.add(np.ones((4, 3)))
    for k, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError), (None, TypeError)):
        with pytest.raises(error, match=f"k={k}"):
            index.query(np.ones((1, 3)), k)
    with pytest.raises(ValueError, match="n_probes=-1"):
        index.query(np.ones((1, 3)), 1, n_probes=-1)
    for ids in ([9], [1, 1], [1, 9], 1, [1.0]):
        with pytest.raises(TypeError if ids == [1.0] else ValueError, match="ids"):
            index.remove(ids)
    assert len(index) == 4
    with pytest.raises(AttributeError):
        index.n_bits = 3
    with pytest.raises(ValueError, match="n_probes=-2"):
        index.n_probes = -2
    assert index.n_probes == 0
    for mmap in (None, 1, "r"):
        with pytest.raises(TypeError, match=f"mmap={mmap!r}"):
            LSHIndex.load("nothing", mmap)


def test_repr():
    index = LSHIndex(n_tables=3, n_bits=7, n_probes=2, seed=5)
    shown = "LSHIndex(hasher='simhash', n_tables=3, n_bits=7, n_probes=2, seed=5)"
    assert repr(index) == f"<{shown} with no vectors>"
    index.add(np.ones((4, 3)))
    assert repr(index) == f"<{shown} with 4 vectors of dimension 3>"


# ---- files


def small_index() -> LSHIndex:
    """Content that is the same everywhere: small integers."""
    x = np.arange(1, 61).reshape(12, 5) % 7 - 3 + np.eye(12, 5)
    index = LSHIndex(n_tables=2, n_bits=5, n_probes=3, seed=7)
    index.add(x, [5, -3, 8, 2**40, 0, 1, 2, 3, 4, 70, 71, -(2**50)])
    return index


SMALL_SHA256 = "d5247e2f2d23132d0760b301ac7a2e8d9d6c2b1361cbaca1069da52f1dc8c639"
SECTION = struct.Struct("<8sQQII")


def parsed(data: bytes) -> tuple[dict[str, int], dict[str, np.ndarray]]:
    """A file as docs/index_format.md describes it."""
    names = ("version", "header", "size", "hasher", "n_tables", "n_bits", "prefix", "n_probes")
    fields = dict(zip(names, struct.unpack_from("<IIQIIIIQ", data, 8), strict=True))
    fields["seed"] = int.from_bytes(data[48:64], "little")
    fields |= zip(("dimension", "rows", "next_id", "sections"), struct.unpack_from("<QQQI", data, 64), strict=True)
    assert data[:8] == bytes.fromhex("89464B4C53480D0A")
    assert zlib.crc32(data[:380]) == int.from_bytes(data[380:384], "little")
    assert (fields["version"], fields["header"], fields["size"], fields["sections"]) == (1, 384, len(data), 8)
    n, tables, d = fields["rows"], fields["n_tables"], fields["dimension"]
    keys = n if fields["prefix"] < fields["n_bits"] else 0
    small = -(-d // 64) * 64 if d > 48 else 0
    expected = [
        ("rows", "<f4", (n, -(-d // 16) * 16)), ("ids", "<i8", (n,)),
        ("codes", "u1", (n, -(-tables * fields["n_bits"] // 8))), ("small", "i1", (n, small)),
        ("scale", "<f4", (n, 1 if small else 0)), ("start", "<u4", (tables, 2 ** fields["prefix"] + 1)),
        ("position", "<u4", (tables, n)), ("key", "<u8", (tables, keys)),
    ]  # fmt: skip
    arrays, end = {}, 384
    for i, (name, dtype, shape) in enumerate(expected):
        stored, offset, size, checksum, zero = SECTION.unpack_from(data, 96 + 32 * i)
        assert (stored.rstrip(b"\0"), offset, zero) == (name.encode(), -(-end // 64) * 64, 0)
        assert not any(data[end:offset])
        end = offset + size
        assert zlib.crc32(data[offset:end]) == checksum
        arrays[name] = np.frombuffer(data[offset:end], dtype).reshape(shape)
    assert end == len(data)
    return fields, arrays


@pytest.mark.parametrize("d", [21, 70])
@pytest.mark.parametrize(("n", "n_bits"), [(0, 5), (1, 5), (40, 3), (40, 5), (40, 17), (40, 64), (700, 9)])
def test_the_file_is_as_described(variant, tmp_path, n, n_bits, d):
    x, ids = low_rank(n, d, 4, 1), np.random.default_rng(0).permutation(n) * 3 - 50
    index = LSHIndex(n_tables=3, n_bits=n_bits, n_probes=6, seed=2**127 + 5)
    for part in np.array_split(np.arange(n), 4):
        index.add(x[part], ids[part])
    index.save(tmp_path / "index")
    fields, arrays = parsed((tmp_path / "index").read_bytes())
    order = np.argsort(ids)
    assert fields["seed"] == 2**127 + 5
    assert (fields["n_probes"], fields["rows"], fields["dimension"]) == (6, n, d if n else 0)
    assert fields["next_id"] == (max(0, ids.max() + 1) if n else 0)
    assert fields["prefix"] == min(n_bits, math.floor(math.log2(max(n, 1))))
    np.testing.assert_array_equal(arrays["ids"], ids[order])
    if not n:
        return
    np.testing.assert_array_equal(arrays["rows"][:, :d], units(x)[order])
    if d > 48:
        small, scale = hashing_oracle.small_integers(arrays["rows"], 128)
        np.testing.assert_array_equal(arrays["small"].view(np.uint8), small)
        np.testing.assert_array_equal(arrays["scale"][:, 0], scale)
    np.testing.assert_array_equal(arrays["codes"], SimHash(3 * n_bits, seed=2**127 + 5).fit(x).encode(units(x))[order])
    buckets = bucket_of(projections(index, x))[order]
    shift = n_bits - fields["prefix"]
    for t in range(3):
        position = np.lexsort((np.arange(n), buckets[:, t]))
        np.testing.assert_array_equal(arrays["position"][t], position)
        ordered = buckets[position, t]
        leading = ordered >> np.uint64(shift) if shift < 64 else ordered * np.uint64(0)
        start = np.searchsorted(leading, np.arange(2 ** fields["prefix"] + 1, dtype=np.uint64))
        np.testing.assert_array_equal(arrays["start"][t], start)
        if shift:
            np.testing.assert_array_equal(arrays["key"][t], ordered)


def test_the_same_bytes_everywhere(variant, tmp_path):
    """The file of a content is fixed: a change of it is a new version of the format."""
    small_index().save(tmp_path / "index")
    assert hashlib.sha256((tmp_path / "index").read_bytes()).hexdigest() == SMALL_SHA256


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("verify", [True, False])
def test_save_and_load(variant, tmp_path, mmap, verify):
    x, queries = low_rank(900, 30, 5, 1), low_rank(20, 30, 5, 2)
    index = LSHIndex(n_tables=5, n_bits=12, n_probes=4, seed=3)
    index.add(x, np.arange(900) * 7)
    path = tmp_path / "index"
    index.save(path)
    loaded = LSHIndex.load(path, mmap, verify=verify)
    assert repr(loaded) == repr(index)
    check(loaded, queries, 10, index.query(queries, 10))
    again = tmp_path / "again"
    loaded.save(again)
    assert again.read_bytes() == path.read_bytes()

    for each in (index, loaded):
        each.remove(np.arange(0, 900, 2) * 7)
        assert each.add(x[:5]).tolist() == list(range(899 * 7 + 1, 899 * 7 + 6))
    check(loaded, queries, 10, index.query(queries, 10))
    assert again.read_bytes() == path.read_bytes()
    loaded.save(path)
    index.save(again)
    assert again.read_bytes() == path.read_bytes()
    check(loaded, queries, 10, index.query(queries, 10))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "index"]


def test_rows_begin_at_cache_lines(tmp_path):
    x = low_rank(100, 64, 5, 1)
    index = LSHIndex(n_tables=1, n_bits=3)
    for ids in (np.arange(100), np.arange(300, 200, -1), np.arange(400, 500)):
        index.add(x, ids)
        index.remove(ids[:60])
        copied = pickle.loads(pickle.dumps(index))
        for run in (*index._runs, *copied._runs):
            assert {array.__array_interface__["data"][0] % 64 for array in (run.rows, run.small)} == {0}


def test_mapped_arrays_are_the_file(tmp_path):
    index = small_index()
    index.save(tmp_path / "index")
    for mmap, writeable in ((True, False), (False, True)):
        run = LSHIndex.load(tmp_path / "index", mmap)._runs[0]
        arrays = (run.rows, run.ids, run.codes, *run.tables[1:])
        assert {array.flags.writeable for array in arrays} == {writeable}
        assert {array.__array_interface__["data"][0] % 64 for array in arrays} == {0}


def test_content_decides_the_bytes(tmp_path):
    """Not the order of additions, nor what was removed; but the next id does."""
    x = low_rank(200, 10, 3, 1)
    paths = [tmp_path / name for name in "abc"]
    one, other, third = (LSHIndex(n_tables=2, n_bits=6) for _ in range(3))
    one.add(x)
    for part in np.array_split(np.random.default_rng(0).permutation(200), 13):
        other.add(x[part], part)
        other.add(x[part] * 2, part + 1000)
        other.remove(part + 1000)
    third.add(x)
    third.add(x[:1])
    third.remove([200])
    for index, path in zip((one, other, third), paths, strict=True):
        index.save(path)
    a, b, c = (path.read_bytes() for path in paths)
    (fields, arrays), (other_fields, other_arrays) = parsed(a), parsed(b)
    assert fields | {"next_id": 1200} == other_fields
    assert [v.tobytes() for v in arrays.values()] == [v.tobytes() for v in other_arrays.values()]
    assert a != c
    assert parsed(c)[0]["next_id"] == 201


def refused(path: Path, data: bytes, *, verify: bool = True) -> str:
    path.write_bytes(data)
    messages = []
    for mmap in (True, False):
        with pytest.raises(ValueError, match=r"^path=") as caught:
            LSHIndex.load(path, mmap, verify=verify)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert messages[0].startswith(f"path={str(path)!r}: ")
    return messages[0].partition(": ")[2]


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, bytes]:
    small_index().save(tmp_path / "index")
    return tmp_path / "index", (tmp_path / "index").read_bytes()


def test_every_changed_byte_is_found(saved):
    path, data = saved
    rng = np.random.default_rng(0)
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= int(rng.integers(1, 256)) if at % 2 else 1 << at // 2 % 8
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=r"^path="):
            LSHIndex.load(path, bool(at % 3))
        if at < HEADER:
            with pytest.raises(ValueError, match=r"^path="):
                LSHIndex.load(path, bool(at % 3), verify=False)


def test_every_length_is_refused_but_one(saved):
    path, data = saved
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match="truncated" if length else "no index of fastk"):
            LSHIndex.load(path, bool(length % 2), verify=False)
    assert "something was appended" in refused(path, data + b"\0", verify=False)
    path.write_bytes(data)
    assert len(LSHIndex.load(path)) == 12


@given(st.data())
def test_random_damage_is_found(data):
    """Runs of bytes that are overwritten, exchanged, removed or inserted."""
    directory = Index.directory
    small_index().save(directory / "damaged")
    whole = (directory / "damaged").read_bytes()
    begin = data.draw(st.integers(0, len(whole) - 1))
    end = data.draw(st.integers(begin, min(len(whole), begin + 200)))
    changed = whole[:begin] + data.draw(st.binary(max_size=200)) + whole[end:]
    (directory / "damaged").write_bytes(changed)
    if changed == whole:
        assert len(LSHIndex.load(directory / "damaged")) == 12
        return
    with pytest.raises(ValueError, match=r"^path="):
        LSHIndex.load(directory / "damaged")


@pytest.fixture(autouse=True, scope="module")
def _directory(tmp_path_factory: pytest.TempPathFactory) -> None:
    Index.directory = tmp_path_factory.mktemp("index")


def test_what_is_wrong_is_said(saved):
    path, data = saved

    def with_header(at: int, field: bytes) -> bytes:
        head = data[:at] + field + data[at + len(field) : 380]
        return head + struct.pack("<I", zlib.crc32(head)) + data[384:]

    assert refused(path, b"") == "this is no index of fastk, or its first 8 bytes are damaged"
    assert refused(path, b"PK\x03\x04" * 500).startswith("this is no index")
    assert refused(path, data.replace(b"\r\n", b"\n")).startswith("this is no index")
    assert refused(path, data[:100]) == "the file is truncated: it has 100 bytes, and the header alone has 384"
    assert refused(path, data[:-1]) == f"the file is truncated: it has {len(data) - 1} bytes instead of {len(data)}"
    newer = "the file has version 2 of the format; this fastk reads version 1"
    assert refused(path, data[:8] + b"\2\0\0\0" + data[12:]) == newer
    assert refused(path, with_header(8, b"\2\0\0\0")) == newer
    assert refused(path, data[:30] + b"\1" + data[31:]) == "the header is damaged: its checksum does not match"
    for at, field in ((24, b"\2"), (28, b"\0"), (32, b"\x41"), (36, b"\6"), (47, b"\xff"), (80, b"\1" + b"\xff" * 7)):
        assert refused(path, with_header(at, field)) == "the header has values that no index has"
    for at, field in ((64, b"\x40"), (72, b"\x0d"), (16, b"\7"), (96, b"R"), (104, b"\x40"), (112, b"\1"), (36, b"\2")):
        assert refused(path, with_header(at, field)).startswith("the header contradicts itself")
    for at in (92, 124, 353, 379):
        assert refused(path, with_header(at, b"\1")) == "the header has something where zeros belong"
    offset = 384 + 12 * 64 + 12 * 8
    damaged = "section 'ids' (bytes 1152 to 1248) is damaged: its checksum does not match"
    assert refused(path, data[: offset - 1] + b"\7" + data[offset:]) == damaged
    assert refused(path, data[:offset] + b"\7" + data[offset + 1 :]) == "the bytes before section 'codes' are damaged"
    with pytest.raises(FileNotFoundError):
        LSHIndex.load(path.parent / "nothing")
    with pytest.raises(IsADirectoryError):
        LSHIndex.load(path.parent)


def test_tables_that_are_wrong_with_the_right_checksums(saved):
    """What a program has made wrong is told from what was damaged."""
    path, data = saved
    fields, whole = parsed(data)
    description = _index_file.read(path, mapped=False, verify=True)[0]
    assert description.rows == fields["rows"]

    def written(**changes: Callable[[np.ndarray], None]) -> bytes:
        arrays = {name: array.copy() for name, array in whole.items()}
        for name, change in changes.items():
            change(arrays[name])
        _index_file.write(path, description, [[array] for array in arrays.values()])
        return path.read_bytes()

    assert written() == data

    def put(*where: int, value: Any) -> Callable[[np.ndarray], None]:
        return lambda array: array.__setitem__(where, value)

    for name, change, why in (
        ("ids", put(3, value=-(2**50)), "do not increase"),
        ("ids", put(11, value=2**60), "do not increase up to the next one"),
        ("rows", put(4, 2, value=np.nan), "not all are finite"),
        ("start", put(1, 0, value=1), "does not begin at 0"),
        ("start", put(0, 8, value=2**32 - 1), "does not begin at 0 and end with all rows"),
        ("start", put(0, 3, value=2**31), "a bucket ends before it begins"),
        ("position", put(1, 5, value=12), "it names a row that is not there"),
        ("key", put(0, 0, value=31), "buckets are not in order"),
    ):
        assert refused(path, written(**{name: change})) == f"section {name!r} is wrong: " + refused_reason(why, path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e-3, 1.0])
def test_scales_that_are_wrong_with_the_right_checksums(tmp_path, value):
    path = tmp_path / "index"
    index = LSHIndex(n_tables=1, n_bits=2)
    index.add(low_rank(9, 70, 3, 1))
    index.save(path)
    description, arrays = _index_file.read(path, mapped=False, verify=True)
    arrays[4][7] = value
    _index_file.write(path, description, [[array] for array in arrays])
    assert refused(path, path.read_bytes()) == "section 'scale' is wrong: not all are between 0 and 1"


def refused_reason(part: str, path: Path) -> str:
    """The whole reason, of which a part is known."""
    with pytest.raises(ValueError, match=part) as caught:
        LSHIndex.load(path)
    return str(caught.value).rpartition("is wrong: ")[2]


@pytest.mark.parametrize("seed", range(30))
def test_damage_that_is_not_looked_for_reads_nothing_outside(variant, saved, seed):
    """With verify=False any content of the sections gives some result, and no crash."""
    path, data = saved
    rng = np.random.default_rng(seed)
    noise = np.frombuffer(data, np.uint8).copy()
    some = np.arange(len(data)) >= (HEADER if seed % 2 else HEADER + 12 * 64 + 12 * 8)
    some &= rng.random(len(data)) < rng.choice([0.01, 0.3, 1])
    noise[some] = rng.integers(0, 256, some.sum()) if seed % 3 else 255
    path.write_bytes(noise.tobytes())
    index = LSHIndex.load(path, bool(seed % 2), verify=False)
    with np.errstate(all="ignore"):
        for n_probes in (0, 5, 31):
            cosine, ids = index.query(rng.standard_normal((6, 5)), 20, n_probes=n_probes)
            assert cosine.shape == ids.shape == (6, 20)
            assert not (np.abs(cosine[np.isfinite(cosine)]) > 1).any()
            assert (index.n_candidates_ <= 12).all()
        index.contains([5, 2**40])


def test_a_failed_write_leaves_what_was_there(saved, monkeypatch):
    path, data = saved
    index = small_index()

    def fail(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    for name in ("pwrite", "fsync", "replace", "ftruncate"):
        with monkeypatch.context() as patch:
            patch.setattr(_index_file.os, name, fail)
            with pytest.raises(OSError, match="No space left"):
                index.save(path)
        assert [p.name for p in path.parent.iterdir()] == ["index"]
        assert path.read_bytes() == data
    with pytest.raises(FileNotFoundError):
        index.save(path.parent / "nowhere" / "index")


def test_through_a_link(saved):
    path, data = saved
    link = path.parent / "link"
    link.symlink_to(path)
    index = LSHIndex.load(link)
    index.remove([5])
    index.save(link)
    assert link.is_symlink()
    assert path.read_bytes() != data
    assert 5 not in LSHIndex.load(str(path).encode())


def test_parts_of_files(tmp_path, monkeypatch):
    """Files are written, read and checked a part at a time."""
    x = low_rank(500, 40, 5, 1)
    index = LSHIndex(n_tables=2, n_bits=7)
    for part in np.array_split(np.arange(500), 3):
        index.add(x[part], part)
    index.remove([7])
    index.save(tmp_path / "a")
    monkeypatch.setattr(_index_file, "_PART", 4096)
    monkeypatch.setattr(index_module, "_PART", 1000)
    index.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    check(LSHIndex.load(tmp_path / "b"), x[:9], 5, index.query(x[:9], 5))


def test_description_of_nothing():
    description = Description("simhash", 3, 5, 0, 0, 0, 0, 0, 0)
    assert description.size() >= HEADER == 384
    assert [size for _, _, size in description.layout()] == [0, 0, 0, 0, 0, 24, 0, 0]


# ---- threads


def test_threads_change_nothing(variant):
    x, queries = low_rank(2000, 24, 5, 1), low_rank(300, 24, 5, 2)
    before = fastk.config()["threads"]
    results = []
    try:
        for threads in (1, 2, 5):
            fastk.set_num_threads(threads)
            index = LSHIndex(n_tables=3, n_bits=8, n_probes=3)
            index.add(x)
            results.append([*index.query(queries, 6), index.n_candidates_, *index.query(queries, 6, n_probes=255)])
    finally:
        fastk.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_queries_together_are_those_alone(variant, monkeypatch):
    x, queries = low_rank(500, 24, 5, 1), low_rank(40, 24, 5, 2)
    index = LSHIndex(n_tables=3, n_bits=8, n_probes=3)
    index.add(x)
    cosine, ids = index.query(queries, 6)
    for q in range(40):
        check(index, queries[q : q + 1], 6, (cosine[q : q + 1], ids[q : q + 1]))
    monkeypatch.setattr(index_module, "_BUCKETS", 70)
    monkeypatch.setattr(index_module, "_QUERIES", 7)
    check(index, queries, 6, (cosine, ids))


def test_queries_from_threads_while_it_changes():
    x, queries = low_rank(3000, 16, 4, 1), low_rank(20, 16, 4, 2)
    index = LSHIndex(n_tables=4, n_bits=7, n_probes=4)
    index.add(x[:1000])
    table, stop, failures = cosines(units(queries), units(x)), threading.Event(), []

    def ask() -> None:
        while not stop.is_set():
            cosine, ids = index.query(queries, 10)
            found = ids >= 0
            row = np.broadcast_to(np.arange(20)[:, None], ids.shape)[found]
            if not np.array_equal(table[row, ids[found] % 3000], cosine[found]):
                failures.append("a cosine is not that of its vector")
            if any(len(set(row[row >= 0])) < (row >= 0).sum() for row in ids):
                failures.append("an id is there twice")
            if (ids[:, 0] < 0).all():
                failures.append("nothing was found")

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    rng = np.random.default_rng(0)
    for first in range(1000, 3000, 50):
        index.add(x[first : first + 50])
        index.remove(rng.choice(index.ids, 30, replace=False))
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    ids = index.ids
    assert len(ids) == 3000 - 40 * 30
    check(index, queries, 10, exact(x[ids], ids, queries, 10), n_probes=127)


# ---- equal bits


def test_equal_bits_on_each(on_each, monkeypatch, tmp_path):
    rng = np.random.default_rng(0)
    cases = []
    for d, n, *parameters in ((1, 60, 1, 3, 1), (16, 700, 3, 9, 5), (200, 300, 4, 20, 40), (33, 500, 2, 64, 3)):
        cases.append((low_rank(n, d, 5, n), rng.standard_normal((30, d)), parameters))

    def run(kernels: Any) -> list[bytes]:
        for module in (index_module, _index_tuning, _philox, hashing):
            monkeypatch.setattr(module, "kernels", kernels)
        results = []
        for x, queries, (n_tables, n_bits, n_probes) in cases:
            index = LSHIndex(n_tables=n_tables, n_bits=n_bits, n_probes=n_probes)
            index.add(x)
            index.remove(np.arange(0, len(x), 5))
            for probes in (n_probes, 2**20):
                cosine, ids = index.query(np.concatenate([x[:30], queries]), 12, n_probes=probes)
                results += [cosine.tobytes(), ids.tobytes(), index.n_candidates_.tobytes()]
            index.save(tmp_path / "index")
            results.append((tmp_path / "index").read_bytes())
        return results

    results = on_each(run)
    first = next(iter(results))
    for variant, result in results.items():
        assert result == results[first], f"{variant} differs from {first}"


# ---- tuning


def recall_of(index: LSHIndex, x: np.ndarray, queries: np.ndarray, k: int) -> float:
    index.add(x)
    _, found = index.query(queries, k)
    _, wanted = index.query(queries, k, n_probes=2**20)
    index.query(queries, k)
    return float((found[:, :, None] == wanted[:, None]).any(axis=1).mean())


def clusters(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(98).standard_normal((200, 64))
    return centres[rng.integers(0, 200, n)] + 0.6 * rng.standard_normal((n, 64))


@pytest.mark.parametrize("data", [clusters, lambda n, seed: low_rank(n, 100, 12, seed)], ids=["clusters", "low_rank"])
@pytest.mark.parametrize(("recall", "k"), [(0.5, 10), (0.9, 10), (0.97, 1)])
def test_tuned_reaches_its_recall(data, recall, k):
    """On other data of the same law, with the work that was expected."""
    x, queries = data(20000, 1), data(1000, 2)
    index = LSHIndex.tuned(x, recall, k)
    tuning = index.tuning_
    assert isinstance(tuning, Tuning)
    assert (len(index), index.dimension, tuning.rows) == (0, None, 20000)
    assert tuning.recall >= recall
    reached = recall_of(index, x, queries, k)
    assert reached >= recall - 0.02
    assert reached == pytest.approx(tuning.recall, abs=0.05)
    assert index.n_candidates_.mean() == pytest.approx(tuning.candidates, rel=0.35)
    assert index.n_candidates_.mean() < 0.1 * len(x)


def test_tuned_for_more_rows_than_the_sample():
    x = clusters(8000, 1)
    own, more = LSHIndex.tuned(x[:2000], 0.8), LSHIndex.tuned(x[:2000], 0.8, n_rows=8000)
    assert (own.tuning_.rows, more.tuning_.rows) == (2000, 8000)
    assert recall_of(more, x, clusters(500, 2), 10) >= 0.8


def test_tuned_to_look_at_everything():
    rng = np.random.default_rng(0)
    everything = (1, 1, 1)
    for x, recall in (
        (rng.standard_normal((3000, 100)), 0.99),
        (clusters(5000, 1), 1),
        (rng.standard_normal((2, 5)), 0.5),
        (rng.standard_normal((1, 5)), 0.5),
        (np.empty((0, 5)), 0.5),
        (np.ones((50, 3)), 0.5),
    ):
        index = LSHIndex.tuned(x, recall, seed=8)
        assert (index.n_tables, index.n_bits, index.n_probes) == everything
        assert index.seed == 8
        assert index.tuning_.recall == 1


@pytest.mark.parametrize("n", [3, 5, 11, 40])
def test_tuned_on_small_samples(n):
    x = low_rank(n, 6, 2, 1)
    index = LSHIndex.tuned(x, 0.7, k=10)
    index.add(x)
    assert index.query(x, 1)[1][:, 0].tolist() == list(range(n))


def test_tuned_is_the_same_each_time():
    x = clusters(4000, 3)
    one, other = LSHIndex.tuned(x, 0.6), LSHIndex.tuned(x, 0.6)
    assert (repr(one), one.tuning_) == (repr(other), other.tuning_)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"recall": 0}, ValueError, "recall=0: allowed is above 0 and at most 1"),
        ({"recall": 1.01}, ValueError, "recall=1.01"),
        ({"recall": math.nan}, ValueError, "recall=nan"),
        ({"recall": "0.9"}, TypeError, "recall='0.9'"),
        ({"k": 0}, ValueError, "k=0"),
        ({"k": 1.0}, TypeError, "k=1.0"),
        ({"n_rows": 0}, ValueError, "n_rows=0"),
        ({"seed": -1}, ValueError, "seed=-1"),
        ({"X": [[1.0, 2.0]] * 5 + [[0.0, 0.0]]}, ValueError, "X: row 5 is zero"),
        ({"X": [[0.0, 0.0]]}, ValueError, "X: row 0 is zero"),
        ({"X": [1.0, 2.0]}, ValueError, "X: shape"),
    ],
)
def test_wrong_tuning(options, error, message):
    with pytest.raises(error, match=message):
        LSHIndex.tuned(**({"X": np.eye(20)} | options))


# ---- kernels


@given(st.integers(0, 60), st.sampled_from([1, 7, 8, 20, 33, 64]), st.integers(1, 3), st.integers(0, 7), st.data())
def test_tables_are_sorted(kernels, n, n_bits, tables, prefix, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    prefix, first = min(prefix, n_bits), data.draw(st.integers(0, 2))
    bits = rng.random((n, (first + tables) * n_bits + 3)) < data.draw(st.sampled_from([0.5, 0.05]))
    codes = np.packbits(bits, axis=1, bitorder="little")
    buckets = bucket_of(bits[:, first * n_bits : (first + tables) * n_bits].reshape(n, tables, n_bits) - 0.5)
    starts, keys = 2**prefix + 1, n if prefix < n_bits else 0
    start, position = np.full((tables, starts), 9, np.uint32), np.full((tables, n), 9, np.uint32)
    key = np.full((tables, keys), 9, np.uint64)
    sizes = n, codes.shape[1], tables, first, n_bits, prefix, codes.size, start.size, position.size, key.size
    assert kernels.lsh_build(codes, start, position, key, *sizes) == 0
    for t in range(tables):
        order = np.lexsort((np.arange(n), buckets[:, t]))
        assert position[t].tolist() == order.tolist()
        leading = [int(bucket) >> (n_bits - prefix) for bucket in buckets[order, t]]
        assert start[t].tolist() == np.searchsorted(leading, np.arange(starts)).tolist()
        assert key[t].tolist() == (buckets[order, t].tolist() if keys else [])


def test_tables_of_many_rows_in_a_bucket(kernels):
    """The longest stretches are sorted too, whatever their order."""
    n, n_bits, prefix = 3000, 24, 2
    for kind in ("random", "increasing", "decreasing", "few"):
        rng = np.random.default_rng(0)
        values = rng.integers(0, 2**24 if kind != "few" else 5, n).astype("<u4")
        values = np.sort(values)[:: -1 if kind == "decreasing" else 1] if "creasing" in kind else values
        codes = np.ascontiguousarray(values).view(np.uint8).reshape(n, 4)[:, :3].copy()
        start, position, key = np.zeros(5, np.uint32), np.zeros(n, np.uint32), np.zeros(n, np.uint64)
        assert kernels.lsh_build(codes, start, position, key, n, 3, 1, 0, n_bits, prefix, codes.size, 5, n, n) == 0
        assert position.tolist() == np.argsort(values, kind="stable").tolist()
        assert key.tolist() == sorted(values.tolist())


@given(st.integers(1, 7), st.integers(1, 3), st.integers(1, 140), st.integers(0, 99), st.booleans())
def test_probes_are_in_order(kernels, n_bits, tables, probes, seed, ties):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((2, tables, n_bits)).astype(np.float32)
    if ties:
        values = rng.choice([-2.0, -1.0, 0.0, 1.0, 2.0], values.shape).astype(np.float32)
    buckets = np.zeros((2, tables, probes), np.uint64)
    room = 4 * (probes + 1)
    sizes = 2, tables, n_bits, probes, values.size, buckets.size, room
    assert kernels.lsh_probes(values, buckets, np.empty(room, np.uint64), *sizes) == 0
    for q, t in itertools.product(range(2), range(tables)):
        wanted = all_probes(values[q, t])
        assert buckets[q, t].tolist() == (wanted + [wanted[0]] * probes)[:probes]


def test_probes_of_64_bits(kernels):
    values = np.linspace(-3.1, 2.9, 64).astype(np.float32)
    buckets, work = np.zeros(50, np.uint64), np.empty(204, np.uint64)
    assert kernels.lsh_probes(values, buckets, work, 1, 1, 64, 50, 64, 50, 204) == 0
    flips = [int(bucket) ^ int(bucket_of(values)) for bucket in buckets]
    sums = [sum(float(values[j]) ** 2 for j in range(64) if flip >> j & 1) for flip in flips]
    assert len(set(flips)) == 50
    np.testing.assert_allclose(sums, np.sort(sums), atol=1e-12)
    assert sums[-1] < 1


@given(st.integers(0, 6), st.integers(0, 70), st.integers(0, 3), st.integers(0, 99))
def test_unit_rows(kernels, rows, d, extra, seed):
    rng = np.random.default_rng(seed)
    x = np.ldexp(rng.standard_normal((rows, d)), rng.integers(-120, 120, (rows, 1))).astype(np.float32)
    bad = rng.random(rows) < 0.2
    if d:
        x[bad, 0] = rng.choice([np.nan, np.inf, -np.inf], bad.sum())
        x[rng.random(rows) < 0.1] = 0
    wrong = np.flatnonzero(bad | ~x.any(axis=1))
    width = -(-d // 16) * 16 + 16 * (extra == 3)
    out = np.full((rows, width), 7, np.float32)
    layout = np.asfortranarray(x) if extra == 1 else x
    good = int(wrong[0]) if len(wrong) else rows
    assert kernels.lsh_unit(layout, out, rows, d, width, out.size) == good
    np.testing.assert_array_equal(out[:good, :d], units(x[:good]) if d else x[:good])
    assert not out[:good, d:].any()


@given(st.integers(0, 5), st.integers(1, 40), st.sampled_from([2, 4, 16, 64]), st.integers(1, 3), st.integers(0, 200))
def test_projections(kernels, rows, d, p, blocks, bits):
    rng = np.random.default_rng(bits)
    d = min(d, p)
    x, table = rng.standard_normal((rows, d)).astype(np.float32), rng.standard_normal((blocks, 3, p)).astype(np.float32)
    out = np.full((rows, bits), 7, np.float32)
    kernels.lsh_project(x, out, table, np.empty(p, np.float32), rows, d, bits, p, table.size)
    expected = np.full((rows, bits), 7, np.float32)
    values = hashing_oracle.simhash_values(x, table)[:, :bits]
    expected[:, : values.shape[1]] = values
    np.testing.assert_array_equal(out, expected)


@given(st.integers(0, 6), st.integers(0, 70), st.integers(0, 99))
def test_small_integers(kernels, n, d, seed):
    rng = np.random.default_rng(seed)
    width, small_width = -(-d // 16) * 16, -(-d // 64) * 64
    rows = np.zeros((n, width), np.float32)
    rows[:, :d] = np.ldexp(rng.standard_normal((n, d)), rng.integers(-20, 20, (n, 1)))
    small, scale = np.full((n, small_width), 7, np.uint8), np.full(n, 7, np.float32)
    assert kernels.lsh_small(rows, small, scale, n, width, small_width, rows.size, small.size) == 0
    expected = hashing_oracle.small_integers(rows, small_width)
    np.testing.assert_array_equal(scale, expected[1])
    np.testing.assert_array_equal(small, expected[0])
    error = np.abs(rows.astype(np.float64) - small.view(np.int8)[:, :width] * scale.astype(np.float64)[:, None])
    assert (error <= (0.5 + 2.0**-13) * scale[:, None]).all()


CONTRADICTIONS = {
    "lsh_unit": ({"d": 2, "width": 16, "rows": 2, "size": 32}, [{"width": 1}, {"size": 31}]),
    "lsh_build": (
        {"n": 8, "bytes": 2, "tables": 2, "first": 0, "n_bits": 8, "prefix": 3, "code_size": 16, "start_size": 18}
        | {"position_size": 16, "key_size": 16},
        [
            {"n_bits": 65}, {"n_bits": 9}, {"first": 1}, {"prefix": 9}, {"tables": 0}, {"tables": 3}, {"code_size": 15},
            {"start_size": 17}, {"position_size": 15}, {"key_size": 15}, {"n": 9}, {"bytes": 1}, {"n": 2**32},
        ],
    ),
    "lsh_probes": (
        {"rows": 2, "tables": 2, "n_bits": 4, "probes": 3, "projection_size": 16, "bucket_size": 12, "room": 16},
        [{"tables": 0}, {"probes": 0}, {"n_bits": 65}, {"n_bits": 5}, {"rows": 3}, {"projection_size": 15}],
    ),
    "lsh_small": (
        {"n": 3, "width": 16, "small_width": 17, "row_size": 48, "small_size": 51},
        [{"small_width": 15}, {"n": 4}, {"row_size": 47}, {"small_size": 50}],
    ),
    "lsh_query": (
        {"queries": 2, "tables": 2, "probes": 3, "k": 2, "width": 16, "n": 5, "n_bits": 4, "starts": 9, "words": 1}
        | {"small_width": 64, "small_size": 320, "scales": 5}
        | {"query_size": 32, "bucket_size": 12, "row_size": 80, "start_size": 18, "position_size": 10, "key_size": 10}
        | {"found": 4, "room": 1 << 14},
        [
            {"width": 15}, {"width": 32}, {"n": 6}, {"n": 2**33}, {"words": 0}, {"k": 3}, {"queries": 3}, {"tables": 0},
            {"tables": 3}, {"probes": 4}, {"starts": 10}, {"starts": 1}, {"starts": 33},
            {"starts": 17, "start_size": 33}, {"n_bits": 2}, {"n_bits": 65}, {"key_size": 9}, {"position_size": 9},
            {"row_size": 79}, {"query_size": 31}, {"bucket_size": 11}, {"found": 3},
            {"small_width": 63}, {"small_width": 128}, {"small_width": 2**21}, {"small_size": 319}, {"scales": 4},
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_sizes_that_contradict_each_other(kernels, name):
    """They are refused by the kernel itself, and nothing is written."""
    from fastk._backend.kernels import KERNELS

    right, changes = CONTRADICTIONS[name]
    parameters = KERNELS[name].parameters
    for change in [{}, *changes]:
        sizes = right | change
        large = {"x": (sizes.get("rows", 0), sizes.get("d", 0))}
        arrays = {p.name: np.zeros(large.get(p.name, 1 << 15), p.dtype) for p in parameters if p.dtype}
        if "n" in change and change["n"] > 100 and name == "lsh_query":
            continue  # ids of so many rows are not to be had
        if name == "lsh_unit":
            arrays["x"][:] = 1
        if name == "lsh_query":
            arrays["start"][1:9] = 5
        for p in parameters:
            if p.dtype and not p.constant:
                arrays[p.name][...] = 7
        kept = {p.name: arrays[p.name].copy() for p in parameters if p.dtype and p.name != "work"}
        arguments = [arrays[p.name] if p.dtype else sizes[p.name] for p in parameters]
        result = getattr(kernels, name)(*arguments)
        if change:
            assert result == NOTHING, change
            assert all(np.array_equal(arrays[each], kept[each]) for each in kept), change
        else:
            assert result != NOTHING
            assert any(not np.array_equal(arrays[each], kept[each]) for each in kept)
