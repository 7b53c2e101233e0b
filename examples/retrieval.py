"""Searches real vectors by hashing, and says how many of the ten nearest each way finds, in how much time.

    python examples/retrieval.py                          # digits of scikit-learn, and sentences if wordllama is there
    python examples/retrieval.py --vectors FILE.npy       # rows of an array of yours
    python examples/retrieval.py --ask "how do I read a file line by line?"

The sentences are those of the docstrings in this Python's library and packages, as wordllama embeds them
(`pip install wordllama`, which brings its 16 MB of weights along: nothing is downloaded when this runs).
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from fastk.hashing import SimHash, hamming_topk
from fastk.index import LSHIndex

Vectors = NDArray[np.float32]
Ids = NDArray[np.int64]

K = 10
QUERIES = 500
BLOCK = 256
"""Queries that are compared with all vectors, or with their candidates, at a time."""


# Real vectors.


def unit(vectors: NDArray[np.floating]) -> Vectors:
    """Rows of length 1, without those that are 0, and each once."""
    vectors = np.asarray(vectors, np.float32)
    length = np.linalg.norm(vectors, axis=1)
    rows = vectors[length > 0] / length[length > 0, None]
    return rows[np.sort(np.unique(rows, axis=0, return_index=True)[1])]


def digits() -> Vectors:
    """1797 handwritten digits, 8 x 8 pixels each."""
    from sklearn.datasets import load_digits

    return unit(load_digits().data)


def docstrings(node: ast.AST) -> Iterator[str]:
    """Those of a module, its classes and functions."""
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        if text := ast.get_docstring(node):
            yield text
        for child in node.body:
            yield from docstrings(child)


def sentences() -> list[str]:
    """Those of the docstrings in this installation, each once, in a fixed order."""
    found: dict[str, None] = {}
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if not {"test", "tests"} & set(path.parts):
            try:
                module = ast.parse(path.read_bytes())
            except (OSError, SyntaxError, ValueError):
                continue
            for text in docstrings(module):
                for paragraph in re.split(r"\n\s*\n", text):
                    parts = re.split(r"(?<=[.?!]) +(?=[A-Z])", " ".join(paragraph.split()))
                    found |= {part: None for part in parts if re.fullmatch(r"[A-Z][^>=*|]{28,300}[.?!]", part)}
    return list(found)


def embed(texts: list[str]) -> Vectors:
    """Rows of length 1, 256 numbers each: means of what wordllama has for the tokens."""
    import wordllama

    # Its own files are all that it needs, but it looks for them in a cache.
    model = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
    embedded: Vectors = model.embed(texts, norm=True)
    return embedded


def split(vectors: Vectors, queries: int = QUERIES) -> tuple[Vectors, Vectors]:
    """Vectors to search among, and others, drawn from the same, to search for."""
    order = np.random.default_rng(0).permutation(len(vectors))
    held = min(queries, len(vectors) // 4)
    return vectors[order[held:]], vectors[order[:held]]


# Ways to search. All rows have length 1, so a scalar product is a cosine.


def exact(base: Vectors, queries: Vectors, k: int = K) -> Ids:
    """The k nearest of each query, best first: every cosine is computed."""
    found = []
    for first in range(0, len(queries), BLOCK):
        cosine = queries[first : first + BLOCK] @ base.T
        best = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(cosine, best, 1), axis=1, kind="stable")
        found.append(np.take_along_axis(best, order, 1))
    return np.concatenate(found)


def best_of(candidates: Ids, base: Vectors, queries: Vectors, k: int = K) -> Ids:
    """The k nearest among each query's candidates, (queries, candidates), best first."""
    found = []
    for first in range(0, len(queries), BLOCK):
        ids = candidates[first : first + BLOCK]
        cosine = (base[ids] @ queries[first : first + BLOCK, :, None])[..., 0]
        order = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
        found.append(np.take_along_axis(ids, order, 1))
    return np.concatenate(found)


def recall(found: Ids, nearest: Ids) -> float:
    """Share of the nearest that were found."""
    return float(np.mean([np.isin(right, ids).mean() for ids, right in zip(found, nearest, strict=True)]))


def compare(name: str, vectors: Vectors, bits: int = 256, candidates: int = 100) -> None:
    base, queries = split(vectors)
    d = base.shape[1]
    candidates = min(candidates, len(base))
    print(f"\n{name}: {len(base)} vectors of {d} numbers, {len(queries)} queries, the {K} nearest by cosine\n")

    hasher = SimHash(bits).fit(base)
    codes = hasher.encode(base)
    index = LSHIndex.tuned(base, recall=0.9, k=K)
    index.add(base)

    def by_codes(k: int) -> Ids:
        return hamming_topk(hasher.encode(queries), codes, k)[1]

    ways: dict[str, Callable[[], Ids]] = {
        "every cosine": lambda: exact(base, queries),
        f"SimHash, {bits} bits": lambda: by_codes(K),
        f"SimHash, {bits} bits, cosines of the best {candidates}": lambda: best_of(by_codes(candidates), base, queries),
        "LSHIndex.tuned(recall=0.9)": lambda: index.query(queries, K)[1],
    }
    nearest = exact(base, queries)
    print(f"{'way':44}{'recall@10':>11}{'queries a second':>18}")
    for way, search in ways.items():
        begun = perf_counter()
        found = search()
        seconds = perf_counter() - begun
        print(f"{way:44}{recall(found, nearest):11.3f}{len(queries) / seconds:18,.0f}")
    print(f"A code has {codes.shape[1]} bytes, a vector {4 * d}. {index}")


def answer(question: str) -> None:
    """The sentences nearest to a question."""
    texts = sentences()
    vectors = embed(texts)
    index = LSHIndex.tuned(vectors, recall=0.9, k=K)
    index.add(vectors)
    cosine, ids = index.query(embed([question]), K)
    for c, i in zip(cosine[0], ids[0], strict=True):
        if i >= 0:
            print(f"{c:.3f}  {texts[i]}")


def main() -> None:
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--vectors", type=Path, metavar="FILE.npy", help="an array of rows to search instead")
    command.add_argument("--ask", metavar="QUESTION", help="print the sentences nearest to it")
    options = command.parse_args()
    if options.ask:
        answer(options.ask)
    elif options.vectors:
        compare(options.vectors.name, unit(np.load(options.vectors)))
    else:
        if not find_spec("sklearn"):
            sys.exit("scikit-learn is not installed, which has the digits: pip install scikit-learn, or give --vectors")
        compare("digits", digits())
        if find_spec("wordllama"):
            warnings.simplefilter("ignore", SyntaxWarning)  # of what is read
            compare("sentences", unit(embed(sentences())))
        else:
            print("\nwordllama is not installed: sentences left out")


if __name__ == "__main__":
    main()
