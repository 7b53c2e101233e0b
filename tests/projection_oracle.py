"""What the projections are, from numpy.random.Philox and definitions: test_projection.py compares fastk with it.

``python projection_oracle.py`` writes data/projection_vectors.json anew: words, and what becomes of them, for other
implementations to check themselves against. Its normal numbers are fastk's, as hexadecimal floats; they are compared
with 40 digits.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
from scipy import special

VECTORS = Path(__file__).with_name("data") / "projection_vectors.json"
TAGS = {"gaussian": 1, "rademacher": 2, "sparse": 3, "hadamard signs": 4, "hadamard order": 5}
SEEDS = (0, 20240229, 2**128 - 1)
mp = mpmath.mp.clone()
mp.dps = 40


def words(seed: int, kind: str, row: int, n: int) -> np.ndarray:
    return np.random.Philox(key=seed, counter=[0, row, 0, TAGS[kind]]).random_raw(n)


def normal_exactly(word: int) -> Any:
    """Its normal number to 40 digits."""
    p = (mp.mpf(word >> 11 & (1 << 52) - 1) + mp.mpf(0.5)) * mp.mpf(2) ** -53
    return (-1 if word >> 63 else 1) * mp.sqrt(2) * mp.erfinv(1 - 2 * p)


def normals(word: np.ndarray) -> np.ndarray:
    """Normal numbers, within some 1e-15."""
    p = ((word >> np.uint64(11) & np.uint64((1 << 52) - 1)).astype(float) + 0.5) * 2.0**-53
    return np.where(word >> np.uint64(63) == 1, special.ndtri(p), -special.ndtri(p))


def bits(word: np.ndarray, n: int) -> np.ndarray:
    return np.array([int(word[j // 64]) >> j % 64 & 1 for j in range(n)], dtype=int)


def halves(word: np.ndarray, n: int) -> np.ndarray:
    return np.array([int(word[j // 2]) >> 32 * (j % 2) & 0xFFFFFFFF for j in range(n)], dtype=np.int64)


def sparse_row(word: np.ndarray, n: int, density: float) -> np.ndarray:
    """0 and +-1."""
    half = halves(word, n)
    return np.where(half >> 1 < round(density * 2**31), 1 - 2 * (half & 1), 0)


def sylvester(rows: Any, columns: Any) -> np.ndarray:
    """Entries of the Walsh-Hadamard matrix in natural order."""
    return np.array([[1 - 2 * (bin(int(i) & int(j)).count("1") % 2) for j in columns] for i in rows])


def matrix(kind: str, seed: int, k: int, d: int, density: float = 1.0) -> np.ndarray:
    """All entries, in float64."""
    if kind == "gaussian":
        return np.array([normals(words(seed, kind, i, d)) for i in range(k)]) / math.sqrt(k)
    if kind == "rademacher":
        return np.array([2 * bits(words(seed, kind, i, -(-d // 64)), d) - 1 for i in range(k)]) / math.sqrt(k)
    if kind == "sparse":
        rows = [sparse_row(words(seed, kind, i, -(-d // 2)), d, density) for i in range(k)]
        return np.array(rows) * math.sqrt(1 / (density * k))
    p = 1 << (d - 1).bit_length()
    blocks = []
    for b in range(-(-k // p)):
        sign = 2 * bits(words(seed, "hadamard signs", b, -(-p // 64)), p) - 1
        order = np.argsort(words(seed, "hadamard order", b, p), kind="stable")[: k - b * p]
        blocks.append(sylvester(order, range(d)) * sign[:d])
    return np.concatenate(blocks) / math.sqrt(k)


def walsh(x: np.ndarray) -> np.ndarray:
    """The transform along the last axis, stage by stage in the dtype of x: the very roundings of the kernels."""
    n, h = x.shape[-1], 1
    x = x.reshape(-1, n)
    while h < n:
        pairs = x.reshape(len(x), -1, 2, h)
        a, b = pairs[:, :, 0], pairs[:, :, 1]
        x = np.stack([a + b, a - b], axis=2).reshape(len(x), n)
        h *= 2
    return x


def walsh_exactly(x: np.ndarray) -> list[list[Any]]:
    """The transform of rows of fractions or mpf."""
    result = []
    for row in x:
        values, h = list(row), 1
        while h < len(values):
            for i in range(len(values)):
                if not i & h:
                    values[i], values[i + h] = values[i] + values[i + h], values[i] - values[i + h]
            h *= 2
        result.append(values)
    return result


def vectors(normal: Callable[[int, int, int], np.ndarray]) -> dict[str, Any]:
    """What the file holds; ``normal(seed, row, n)`` gives normal numbers."""
    cases = []
    for seed, row, density in zip(SEEDS, (0, 3, 2**33 + 1), (1 / 3, 1 / 8, 1.0), strict=True):
        word = {kind: words(seed, kind, row, n) for kind, n in zip(TAGS, (12, 2, 12, 1, 16), strict=True)}
        signed = sparse_row(word["sparse"], 24, density)
        case: dict[str, Any] = {"seed": str(seed), "row": row}
        case["words"] = {kind: [f"{each:016x}" for each in word[kind].tolist()] for kind in TAGS}
        case["normal"] = [value.hex() for value in normal(seed, row, 12).tolist()]
        case["rademacher"] = "".join("-+"[bit] for bit in bits(word["rademacher"], 128))
        case["density"] = density.hex()
        case["sparse"] = [int((j + 1) * signed[j]) for j in np.flatnonzero(signed)]
        case["hadamard_signs"] = "".join("-+"[bit] for bit in bits(word["hadamard signs"], 16))
        case["hadamard_order"] = np.argsort(word["hadamard order"], kind="stable").tolist()
        cases.append(case)
    about = {
        "words": "numpy.random.Philox(key=seed, counter=[0, row, 0, tag]).random_raw(), in hexadecimal; tags: "
        + ", ".join(f"{tag} {kind}" for kind, tag in TAGS.items()),
        "normal": "of the words of tag 1: hexadecimal floats, within 1e-15 of the exact quantiles; over sqrt(k)",
        "rademacher": "signs of columns 0 to 127, from the words of tag 2; over sqrt(k)",
        "sparse": "of columns 0 to 23: those that are not zero, counted from 1, negative where the entry is",
        "hadamard_signs": "for p = 16 and block number `row`",
        "hadamard_order": "rows of the transform of 16, as components take them",
    }
    return {"about": about, "cases": cases}


if __name__ == "__main__":
    from fastk import _philox

    VECTORS.parent.mkdir(exist_ok=True)
    made = vectors(lambda seed, row, n: _philox.normal(seed, TAGS["gaussian"], 1, n, first_row=row)[0])
    text = json.dumps(made, indent=1)
    VECTORS.write_text(text + "\n")
