"""Projection, hashing and search beside what their user would run instead: faiss, FFHT, scikit-learn, NumPy.

    python bench/bench_hashing.py                                 # every table, some minutes
    python bench/bench_hashing.py --quick                         # seconds, small sizes: does it run?
    python bench/bench_hashing.py --only simhash hamming          # some of the parts
    python bench/bench_hashing.py --only picture --save docs      # measures and draws docs/retrieval.png
    python bench/bench_hashing.py --vectors FILE.npy              # retrieval on the rows of an array of yours

The C code of FFHT (https://github.com/FALCONN-LIB/FFHT) is on no package index: `pip install` its repository, or name a
library that exports its functions with --ffht; without it, its rows are left out. Retrieval is on sentences if
wordllama is installed, and otherwise on scikit-learn's digits.

Both sides of a ratio run in one process, in turn, on the same operands, into arrays that exist where they take one; the
table has the least time of each. Before anything is timed, results are compared. All run on one thread unless a row
says otherwise. Times on shared machines drift: compare ratios, not seconds.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import tracemalloc
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import faiss
import numba
import numpy
import scipy
import sklearn
from report import (
    Call,
    Effort,
    Report,
    Row,
    blas,
    command_line,
    duration,
    level,
    machine,
    one_thread,
    pyplot,
    ratio,
    run,
    save_figure,
    table,
)
from sklearn.random_projection import GaussianRandomProjection, SparseRandomProjection

import fastk
from fastk.hashing import SimHash, hamming_distance, hamming_range, hamming_topk
from fastk.index import LSHIndex
from fastk.projection import RandomProjection, hadamard_transform

Array = numpy.ndarray[Any, Any]

K = 10


@dataclass(frozen=True)
class Scale(Effort):
    """Sizes, and the time that a ratio takes."""

    rows: int = 10_000
    codes: int = 1_000_000
    bytes: Sequence[int] = (1, 2, 4, 8, 16, 64, 256, 1024, 4096)
    logarithms: Sequence[int] = range(7, 15)
    batch: int = 1 << 17
    long: int = 1 << 24
    seeds: int = 5
    vectors: int = 20_000
    queries: int = 1000
    few: int = 50
    """Queries that are asked for one by one."""
    pairs: Sequence[tuple[int, int]] = ((10_000, 1000), (100_000, 1000), (1_000_000, 1), (1_000_000, 1000))
    levels: Sequence[float] = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
    embedded: bool = True
    """Whether there are sentences, which take a minute to embed."""


QUICK = Scale(
    0.0, 1, rows=200, codes=20_000, bytes=(1, 8, 64), logarithms=(7, 10), batch=1 << 14, long=1 << 16, seeds=2,
    vectors=2000, queries=100, few=5, pairs=((1000, 100), (10_000, 100)), levels=(0.8,),
    embedded=False,
)  # fmt: skip


def random(*shape: int) -> Array:
    return numpy.random.default_rng(1).standard_normal(shape, numpy.float32)


def unit(x: Array) -> Array:
    return x / numpy.linalg.norm(x, axis=1, keepdims=True)


def recall(found: Array, nearest: Array) -> float:
    """Share of the nearest that were found."""
    return float(numpy.mean([numpy.isin(right, ids).mean() for ids, right in zip(found, nearest, strict=True)]))


def example() -> Any:
    """examples/retrieval.py: real vectors, and exact search."""
    path = Path(__file__).resolve().parent.parent / "examples" / "retrieval.py"
    spec = spec_from_file_location("retrieval", path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


retrieval = example()


# SimHash.


def lsh(d: int, bits: int, seed: int = 5) -> Any:
    """faiss's SimHash: a random rotation, and signs. 5 is its own seed."""
    index = faiss.IndexLSH(d, bits, True, False)
    index.rrot.init(seed)
    return index


def simhash(d: int, bits: int, scale: Scale) -> Row:
    x = random(scale.rows, d)
    hasher, index = SimHash(bits).fit(x), lsh(d, bits)
    if hasher.encode(x).shape != index.sa_encode(x).shape:
        raise SystemExit(f"SimHash, {d} to {bits} bits: codes of another size than faiss's")
    seconds = ratio(partial(hasher.encode, x), partial(index.sa_encode, x), scale)
    return Row(f"SimHash, {d} to {bits} bits, {len(x)} rows", "faiss IndexLSH.sa_encode", *seconds, len(x) * bits)


def simhash_by_numpy(d: int, bits: int, scale: Scale) -> Row:
    """Beside a product with a matrix that exists, its signs packed."""
    x, g = random(scale.rows, d), numpy.random.default_rng(2).standard_normal((d, bits), numpy.float32)

    def theirs() -> Array:
        return numpy.packbits(x @ g >= 0, axis=1, bitorder="little")

    hasher = SimHash(bits).fit(x)
    seconds = ratio(partial(hasher.encode, x), theirs, scale)
    case = f"SimHash, {d} to {bits} bits, {len(x)} rows"
    return Row(case, "numpy.packbits(x @ g >= 0)", *seconds, len(x) * bits)


def simhash_options(scale: Scale) -> Iterator[Row]:
    """Other dtypes, methods and threads, beside the plain call."""
    d, x = 1024, random(scale.rows, 1024)
    hasher = SimHash(d).fit(x)
    plain = partial(hasher.encode, x)
    case = f"SimHash, {d} to {d} bits"
    for dtype in ("float16", "float64"):
        seconds = ratio(partial(hasher.encode, x.astype(dtype)), plain, scale)
        yield Row(f"{case}, {dtype}", "float32", *seconds, x.size)
    for method in ("gaussian", "orthogonal"):
        other = SimHash(d, method=method).fit(x)
        yield Row(f"{case}, {method}", "hadamard", *ratio(partial(other.encode, x), plain, scale), x.size)
    if (os.cpu_count() or 1) > 1:
        yield threaded(f"{case}, 2 threads", 2, plain, x.size, scale)


def threaded(case: str, threads: int, call: Call, work: int, scale: Scale) -> Row:
    def on(count: int) -> None:
        fastk.set_num_threads(count)
        call()

    seconds = ratio(partial(on, threads), partial(on, 1), scale)
    fastk.set_num_threads(1)
    return Row(case, "one thread", *seconds, work)


def latent(n: int, d: int, inner: int = 32) -> Array:
    """Rows of length 1 near a plane of few dimensions, as embeddings are."""
    rng = numpy.random.default_rng(3)
    plane = rng.standard_normal((inner, d), numpy.float32)
    noise = rng.standard_normal((n, d), numpy.float32)
    return unit(rng.standard_normal((n, inner), numpy.float32) @ plane + noise)


def code_recall(name: str, vectors: Array, bits: int, scale: Scale) -> list[str]:
    """recall@10 of codes by Hamming distance against every cosine: mean and spread over seeds, faiss's beside ours."""
    base, queries = retrieval.split(vectors, scale.queries)
    nearest = retrieval.exact(base, queries, K)
    ways: dict[str, Callable[[int], tuple[Array, Array]]] = {}
    for method in ("hadamard", "gaussian", "orthogonal"):

        def ours(seed: int, method: str = method) -> tuple[Array, Array]:
            hasher = SimHash(bits, method=method, seed=seed).fit(base)
            return hasher.encode(base), hasher.encode(queries)

        ways[method] = ours

    def theirs(seed: int) -> tuple[Array, Array]:
        index = lsh(base.shape[1], bits, seed)
        return index.sa_encode(base), index.sa_encode(queries)

    ways["faiss"] = theirs
    cells = [f"{name}, {len(base)} x {base.shape[1]}, {bits} bits"]
    for encode in ways.values():
        seen = []
        for seed in range(scale.seeds):
            codes, queried = encode(seed)
            seen.append(recall(hamming_topk(queried, codes, K)[1], nearest))
        cells.append(f"{numpy.mean(seen):.3f} +- {numpy.std(seen, ddof=1):.3f}")
    return cells


def code_recalls(scale: Scale) -> str:
    data = {"random, 32 of 1024 dimensions": latent(scale.vectors, 1024), "digits": retrieval.digits()}
    if find_spec("wordllama") and scale.embedded:
        data["sentences"] = sentences()[: scale.vectors]
    rows = [code_recall(name, vectors, 1024, scale) for name, vectors in data.items()]
    rows.append(code_recall("digits", data["digits"], 64, scale))
    return table(["recall@10 by Hamming distance", "SimHash", "gaussian", "orthogonal", "faiss IndexLSH"], rows)


# Hadamard.


class FFHT:
    """The C code of FFHT, a row after the other in a compiled loop."""

    def __init__(self, path: str) -> None:
        # Lazily: its module names functions that NumPy no longer has.
        library = ctypes.CDLL(path, os.RTLD_LAZY)
        self.rows = {"float32": self._loop(library.fht_float), "float64": self._loop(library.fht_double)}

    @staticmethod
    def _loop(function: Any) -> Callable[..., int]:
        function.argtypes, function.restype = (ctypes.c_void_p, ctypes.c_int), ctypes.c_int

        @numba.njit
        def rows(address: int, stride: int, count: int, logarithm: int) -> int:
            failed = 0
            for i in range(count):
                failed |= function(address + i * stride, logarithm)
            return failed

        return rows

    def call(self, x: Array) -> Call:
        """What transforms the rows of x in place."""
        rows, logarithm = self.rows[x.dtype.name], x.shape[1].bit_length() - 1
        return lambda x=x: rows(x.ctypes.data, x.strides[0], len(x), logarithm)


def ffht(path: str | None) -> FFHT | None:
    """From --ffht, or from where its module is installed."""
    if path is None:
        spec = find_spec("ffht")
        path = spec.origin if spec else None
    try:
        return FFHT(path) if path else None
    except (OSError, AttributeError) as error:
        print(f"\n{path}: {error}")
        return None


def aligned(x: Array) -> Array:
    """A copy that begins at a cache line."""
    room = numpy.empty(x.nbytes + 64, numpy.uint8)
    first = -room.ctypes.data % 64
    copy = room[first : first + x.nbytes].view(x.dtype).reshape(x.shape)
    copy[...] = x
    return copy


def hadamard_by_hand(x: Array) -> None:
    """In place, as one writes it in NumPy."""
    h = 1
    while h < x.shape[1]:
        y = x.reshape(len(x), -1, 2, h)
        difference = y[:, :, 0] - y[:, :, 1]
        y[:, :, 0] += y[:, :, 1]
        y[:, :, 1] = difference
        h *= 2


def hadamard(elements: int, scale: Scale, peer: FFHT | None) -> Iterator[Row]:
    """In place; what is timed are rows of zeros, which do not leave the range however often."""
    for dtype in ("float32", "float64"):
        for logarithm in scale.logarithms:
            n = 1 << logarithm
            x = aligned(random(max(1, elements // n), n).astype(dtype))
            case = f"hadamard_transform, {dtype}, {len(x)} x {n}"
            right, zeros = aligned(x), aligned(numpy.zeros_like(x))
            hadamard_by_hand(right)
            ours = partial(hadamard_transform, zeros, out=zeros)
            compare(case, hadamard_transform(x), right)
            if peer:
                found = aligned(x)
                peer.call(found)()
                compare(f"FFHT, {case}", found, right)
                yield Row(case, "FFHT", *ratio(ours, peer.call(zeros), scale), zeros.size)
            if logarithm == 10:
                by_hand = partial(hadamard_by_hand, zeros)
                yield Row(case, "the same in NumPy", *ratio(ours, by_hand, scale), zeros.size)
                matrix, product = scipy.linalg.hadamard(n, dtype), numpy.empty_like(x)
                by_blas = partial(numpy.matmul, x, matrix, out=product)
                yield Row(case, "x @ scipy.linalg.hadamard(n)", *ratio(ours, by_blas, scale), zeros.size)


def compare(name: str, found: Array, right: Array) -> None:
    """End the run if they differ by more than roundings."""
    tolerance = 64 * numpy.finfo(right.dtype).eps * numpy.abs(right).max()
    numpy.testing.assert_allclose(found, right, 0, tolerance, err_msg=name)


def hadamard_options(scale: Scale) -> Iterator[Row]:
    """Other layouts, normalisation, threads, beside the plain call."""
    n = 1024
    x = numpy.zeros((scale.batch // n, n), numpy.float32)
    case, plain = f"hadamard_transform, {len(x)} x {n}", partial(hadamard_transform, x, out=x)
    half, columns, copy = x.astype(numpy.float16), numpy.zeros((n, len(x)), numpy.float32), numpy.empty_like(x)
    calls = {
        "normalize": partial(plain, normalize=True),
        "not in place": partial(hadamard_transform, x, out=copy),
        "axis 0": partial(hadamard_transform, columns, axis=0, out=columns),
        "float16": partial(hadamard_transform, half, out=half),
    }
    for name, call in calls.items():
        yield Row(f"{case}, {name}", "in place", *ratio(call, plain, scale), x.size)
    if (os.cpu_count() or 1) > 1:
        large = numpy.zeros((scale.long // n, n), numpy.float32)
        call = partial(hadamard_transform, large, out=large)
        yield threaded(f"hadamard_transform, {len(large)} x {n}, 2 threads", 2, call, large.size, scale)


# Hamming distance.


def random_codes(n: int, width: int, seed: int) -> Array:
    return numpy.random.default_rng(seed).integers(0, 256, (n, width), numpy.uint8)


def asked(count: int) -> str:
    return "1 query" if count == 1 else f"{count} queries"


def binary_flat(codes: Array) -> Any:
    index = faiss.IndexBinaryFlat(8 * codes.shape[1])
    index.add(codes)
    return index


def topk(width: int, counts: Sequence[int], k: int, scale: Scale) -> Iterator[Row]:
    """hamming_topk beside faiss: the same distances, whose ids differ where they tie."""
    n = min(scale.codes, (1 << 28) // width)
    codes = random_codes(n, width, 4)
    index = binary_flat(codes)
    for count in counts:
        queries = random_codes(count, width, 5)
        ours, theirs = partial(hamming_topk, queries, codes, k), partial(index.search, queries, k)
        case = f"hamming_topk, {n} codes of {8 * width} bits, k = {k}, {asked(count)}"
        found = ours()[0]
        numpy.testing.assert_array_equal(found, theirs()[0], case)
        yield Row(case, "faiss IndexBinaryFlat", *ratio(ours, theirs, scale), count * n)


def hamming_others(scale: Scale) -> Iterator[Row]:
    """Pairs, ranges, threads."""
    width, n = 32, scale.codes
    codes, queries = random_codes(n, width, 4), random_codes(16, width, 5)
    index, radius = binary_flat(codes), 96
    limits, distances, _ = index.range_search(queries, radius + 1)  # faiss leaves the radius itself out
    found = hamming_range(queries, codes, radius)
    numpy.testing.assert_array_equal(found[0], limits.astype(numpy.int64))
    numpy.testing.assert_array_equal(numpy.sort(found[1]), numpy.sort(distances.astype(numpy.int32)))
    ours, theirs = partial(hamming_range, queries, codes, radius), partial(index.range_search, queries, radius + 1)
    case = f"hamming_range, {n} codes of {8 * width} bits, radius {radius}, 16 queries"
    yield Row(case, "faiss IndexBinaryFlat.range_search", *ratio(ours, theirs, scale), 16 * n)
    if hasattr(numpy, "bitwise_count"):
        other = random_codes(n, width, 6)

        def by_numpy() -> Array:
            words = codes.view(numpy.uint64) ^ other.view(numpy.uint64)
            return numpy.bitwise_count(words).sum(1, dtype=numpy.int32)

        numpy.testing.assert_array_equal(hamming_distance(codes, other), by_numpy())
        seconds = ratio(partial(hamming_distance, codes, other), by_numpy, scale)
        yield Row(f"hamming_distance, {n} pairs of {8 * width} bits", "numpy.bitwise_count", *seconds, n)
    if (os.cpu_count() or 1) > 1:
        call = partial(hamming_topk, queries, codes, K)
        case = f"hamming_topk, {n} codes of {8 * width} bits, k = {K}, 16 queries, 2 threads"
        yield threaded(case, 2, call, 16 * n, scale)


def peak(call: Call) -> int:
    """Most bytes that were allocated in a call, by NumPy and Python, results included."""
    call()
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def memory(scale: Scale) -> str:
    rows = []
    for n, count in scale.pairs:
        codes, queries = random_codes(n, 32, 4), random_codes(count, 32, 5)
        results = count * K * (4 + 8)
        most = peak(partial(hamming_topk, queries, codes, K))
        cells = (most, results, count * n * 4)
        rows.append([f"{n} codes of 256 bits, {asked(count)}", *(f"{value / 1000:.0f} kB" for value in cells)])
    return table(["hamming_topk, k = 10", "peak", "its results", "a matrix of all distances"], rows)


# Projection.


def fitted(projection: Any, x: Array) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns where components are no fewer than features
        return projection.fit(x)


def kept(name: str, projected: Array, x: Array) -> None:
    """End the run if the squared norms of rows are not kept on average."""
    mean = float(numpy.mean((projected.astype(float) ** 2).sum(1) / (x.astype(float) ** 2).sum(1)))
    if abs(mean - 1) > 0.2:
        raise SystemExit(f"{name}: squared norms are {mean} times what they were")


def projections(scale: Scale) -> Iterator[Row]:
    d, k = 1024, 256
    x = random(scale.rows, d)
    case = f"{{}}, {d} to {k}, {len(x)} rows"
    gaussian = fitted(GaussianRandomProjection(k, random_state=1), x)
    sparse = fitted(SparseRandomProjection(k, dense_output=True, random_state=1), x)
    third = fitted(SparseRandomProjection(k, density=1 / 3, dense_output=True, random_state=1), x)
    pairs = [
        ("sparse", {}, "SparseRandomProjection", sparse),
        ("sparse, density 1/3", {"density": 1 / 3}, "SparseRandomProjection, density 1/3", third),
        ("gaussian", {}, "GaussianRandomProjection", gaussian),
        ("rademacher", {}, "GaussianRandomProjection", gaussian),
        ("hadamard", {}, "GaussianRandomProjection", gaussian),
    ]
    for name, options, peer, theirs in pairs:
        ours = RandomProjection(k, kind=name.partition(",")[0], **options).fit(x)
        kept(name, ours.transform(x), x)
        kept(peer, theirs.transform(x), x)
        seconds = ratio(partial(ours.transform, x), partial(theirs.transform, x), scale)
        yield Row(case.format(name), f"sklearn {peer}", *seconds, len(x) * d)


def projections_of_sparse(scale: Scale) -> Iterator[Row]:
    """CSR input, of which one in a hundred is stored."""
    d, k = 10_000, 256
    x = scipy.sparse.random_array((scale.rows, d), density=0.01, rng=numpy.random.default_rng(1), dtype=numpy.float32)
    x = x.tocsr()
    peers = {
        "sparse": SparseRandomProjection(k, dense_output=True, random_state=1),
        "gaussian": GaussianRandomProjection(k, random_state=1),
    }
    for kind, peer in peers.items():
        ours, theirs = RandomProjection(k, kind=kind).fit(x), fitted(peer, x)
        kept(kind, ours.transform(x), x.toarray())
        seconds = ratio(partial(ours.transform, x), partial(theirs.transform, x), scale)
        case = f"{kind}, CSR of density 1/100, {d} to {k}, {scale.rows} rows"
        yield Row(case, f"sklearn {type(peer).__name__}", *seconds, x.nnz)


# Retrieval.


class Way(NamedTuple):
    """A way to search at one setting of what trades recall for time."""

    name: str
    setting: str
    recall: float
    together: float
    """Queries a second, all in one call."""
    single: float
    """The same, one in each call."""
    build: float
    """Seconds."""


Search = Callable[[Array], Array]
"""Queries to the ids of what was found."""


def sentences() -> Array:
    if not hasattr(sentences, "vectors"):
        sentences.vectors = retrieval.unit(retrieval.embed(retrieval.sentences()))
    return sentences.vectors


def real_vectors(path: Path | None, scale: Scale) -> tuple[str, Array]:
    if path:
        return path.name, retrieval.unit(numpy.load(path))
    if find_spec("wordllama") and scale.embedded:
        return "sentences from docstrings, embedded by wordllama", sentences()
    return "scikit-learn's digits", retrieval.digits()


class Trial:
    """Vectors, queries, and what is right."""

    def __init__(self, vectors: Array, scale: Scale) -> None:
        self.base, self.queries = retrieval.split(vectors, scale.queries)
        self.nearest = retrieval.exact(self.base, self.queries, K)
        self.scale = scale

    def way(self, name: str, setting: str, search: Search, build: float) -> Way:
        few = [self.queries[i : i + 1] for i in range(self.scale.few)]

        def one_by_one() -> None:
            for query in few:
                search(query)

        found = search(self.queries)
        together = len(self.queries) / self.least(partial(search, self.queries))
        return Way(name, setting, recall(found, self.nearest), together, len(few) / self.least(one_by_one), build)

    def least(self, call: Call) -> float:
        """Least seconds of some calls."""
        least, rounds, end = float("inf"), 0, perf_counter() + self.scale.seconds / 2
        while rounds < self.scale.repeats or perf_counter() < end:
            begun = perf_counter()
            call()
            least, rounds = min(least, perf_counter() - begun), rounds + 1
        return least


def built(make: Callable[[], Any]) -> tuple[Any, float]:
    begun = perf_counter()
    made = make()
    return made, perf_counter() - begun


def added(index: Any, base: Array) -> Any:
    if not index.is_trained:
        index.train(base)
    index.add(base)
    return index


def ours(trial: Trial) -> Iterator[Way]:
    base = trial.base
    for bits in (128, 256, 512, 1024):
        hasher = SimHash(bits).fit(base)
        codes, build = built(partial(hasher.encode, base))
        for candidates in (K, 30, 100, 300, 1000):
            count = min(candidates, len(base))

            def search(queries: Array, hasher: Any = hasher, codes: Array = codes, count: int = count) -> Array:
                ids = hamming_topk(hasher.encode(queries), codes, count)[1]
                return retrieval.best_of(ids, base, queries, K) if count > K else ids

            setting = f"{bits} bits" + f", best {count}" * (count > K)
            yield trial.way("fastk SimHash" + ", cosines of the best" * (count > K), setting, search, build)
    for wanted in trial.scale.levels:

        def make(wanted: float = wanted) -> LSHIndex:
            index = LSHIndex.tuned(base, recall=wanted, k=K)
            index.add(base)
            return index

        index, build = built(make)

        def query(queries: Array, index: LSHIndex = index) -> Array:
            return index.query(queries, K)[1]

        yield trial.way("fastk LSHIndex.tuned", f"recall={wanted}", query, build)


def theirs(trial: Trial) -> Iterator[Way]:
    base, d = trial.base, trial.base.shape[1]

    def search(index: Any) -> Search:
        return lambda queries: index.search(queries, K)[1]

    index, build = built(lambda: added(faiss.IndexFlatIP(d), base))
    yield trial.way("faiss IndexFlatIP", "exact", search(index), build)
    for bits in (128, 256, 512, 1024):
        index, build = built(lambda bits=bits: added(lsh(d, bits), base))
        yield trial.way("faiss IndexLSH", f"{bits} bits", search(index), build)
    lists = max(1, round(len(base) ** 0.5))
    quantizer = faiss.IndexFlatIP(d)
    index, build = built(lambda: added(faiss.IndexIVFFlat(quantizer, d, lists, faiss.METRIC_INNER_PRODUCT), base))
    for probes in (1, 2, 4, 8, 16, 32, 64):
        index.nprobe = probes
        yield trial.way("faiss IndexIVFFlat", f"{lists} lists, nprobe={probes}", search(index), build)
    index, build = built(lambda: added(faiss.IndexHNSWFlat(d, 32, faiss.METRIC_INNER_PRODUCT), base))
    for breadth in (10, 20, 40, 80, 160, 320):
        index.hnsw.efSearch = breadth
        yield trial.way("faiss IndexHNSWFlat", f"M=32, efSearch={breadth}", search(index), build)


def ways_table(ways: Sequence[Way], queries: int) -> str:
    rows = [
        [f"{way.name}, {way.setting}", f"{way.recall:.3f}", f"{way.together:.0f}", f"{way.single:.0f}",
         duration(way.build)]
        for way in ways
    ]  # fmt: skip
    return table(["way", "recall@10", f"queries a second, {queries} at a time", "one at a time", "to build"], rows)


def draw_ways(ways: Sequence[Way], title: str, queries: int, path: Path) -> None:
    """Recall against queries a second; of a way only the settings that none of its others beats in both."""
    figure, axes = pyplot().subplots(1, 2, figsize=(11, 4.8), sharex=True, sharey=True, layout="constrained")
    names = list(dict.fromkeys(way.name for way in ways))
    rates: list[Callable[[Way], float]] = [lambda way: way.together, lambda way: way.single]
    for ax, rate, batch in zip(axes, rates, (f"{queries} queries at a time", "one query at a time"), strict=True):
        for i, name in enumerate(names):
            group = sorted((way for way in ways if way.name == name), key=rate, reverse=True)
            best = [way for j, way in enumerate(group) if all(way.recall > other.recall for other in group[:j])]
            ours = name.startswith("fastk")
            ax.plot([way.recall for way in best], [rate(way) for way in best], color=f"C{i}", markersize=5,
                    marker="o" if ours else "s", linewidth=1.8 if ours else 1.1, linestyle="-" if ours else "--",
                    label=name)  # fmt: skip
        ax.set_yscale("log")
        ax.set(xlabel="recall@10", title=batch)
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("queries a second, one thread")
    axes[0].legend(frameon=False, fontsize=8, loc="lower left")
    figure.suptitle(title)
    save_figure(figure, path)


# The run.


class Bench:
    """The parts, and what the picture needs of them."""

    def __init__(self, options: argparse.Namespace, scale: Scale, report: Report) -> None:
        self.options, self.scale, self.report = options, scale, report
        self.ways: list[Way] = []
        self.trial: Trial | None = None

    def simhash(self) -> None:
        scale = self.scale
        shapes = [(1024, 1024), (64, 64), (64, 1024), (768, 768), (1024, 256), (1024, 4096)]
        rows = [simhash(*shape, scale) for shape in shapes]
        rows += [simhash_by_numpy(*shape, scale) for shape in shapes]
        self.report.add_rows(f"SimHash, float32, {level()}, {blas()}, one thread", rows)
        self.report.add_rows(f"SimHash by options, {level()}, one thread", list(simhash_options(scale)))
        title = f"recall@10 of codes against every cosine, mean and standard deviation of {scale.seeds} seeds"
        self.report.add(title, code_recalls(scale))

    def hadamard(self) -> None:
        peer = ffht(self.options.ffht)
        if not peer:
            print("\nFFHT is not installed: what stands beside it is left out")
        for elements in (self.scale.batch, self.scale.long):
            title = f"Hadamard transform in place, {elements} elements, {level()}, one thread"
            self.report.add_rows(title, list(hadamard(elements, self.scale, peer)))
        title = f"Hadamard transform by options, float32 unless named, {level()}, one thread"
        self.report.add_rows(title, list(hadamard_options(self.scale)))

    def hamming(self) -> None:
        scale = self.scale
        rows = [row for width in (32, 128) for row in topk(width, (1, 16), K, scale)]
        self.report.add_rows(f"Hamming search, {level()}, one thread", rows)
        rows = [row for width in scale.bytes for row in topk(width, (1, 16), K, scale)]
        rows += [row for k in (1, 100) for row in topk(32, (1, 16, 256), k, scale)]
        self.report.add_rows(f"Hamming search by sizes, {level()}, one thread", [*rows, *hamming_others(scale)])
        self.report.add("Memory of hamming_topk", memory(scale))

    def projection(self) -> None:
        rows = [*projections(self.scale), *projections_of_sparse(self.scale)]
        self.report.add_rows(f"Random projection, float32, {level()}, {blas()}, one thread", rows)

    def retrieval(self) -> None:
        name, vectors = real_vectors(self.options.vectors, self.scale)
        self.trial = trial = Trial(vectors, self.scale)
        n, d = trial.base.shape
        self.title = f"{n} {name}, {d} numbers each"
        self.ways = [*ours(trial), *theirs(trial)]
        title = f"Retrieval, {self.title}: the {K} nearest by cosine, {level()}, {blas()}, one thread"
        self.report.add(title, ways_table(self.ways, len(trial.queries)))

    def draw(self, folder: Path) -> None:
        """Of what `retrieval` measured, or measures now."""
        if not self.ways:
            self.retrieval()
        draw_ways(self.ways, self.title, len(self.trial.queries), folder / "retrieval.png")


PARTS = ("simhash", "hadamard", "hamming", "projection", "retrieval")


def main() -> None:
    command = command_line(__doc__, PARTS)
    command.add_argument("--ffht", metavar="LIBRARY", help="that exports fht_float and fht_double of FFHT")
    command.add_argument("--vectors", type=Path, metavar="FILE.npy", help="rows for retrieval")
    options = command.parse_args()
    scale = QUICK if options.quick else Scale(options.seconds)
    versions = [f"faiss {faiss.__version__}", f"scikit-learn {sklearn.__version__}"]
    report = Report("hashing", machine(*versions))
    bench = Bench(options, scale, report)
    faiss.omp_set_num_threads(1)
    with one_thread():
        run(report, {name: getattr(bench, name) for name in PARTS}, bench.draw, options)


if __name__ == "__main__":
    main()
