"""Positive random features as they are documented: by Gram and Schmidt from words of Philox, in extended precision."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastk import _philox


def gram_schmidt(g: np.ndarray) -> np.ndarray:
    """Rows made orthonormal one after the other, each on the side where it was: a uniform rotation of normal rows."""
    rows: list[np.ndarray] = []
    for row in g:
        for _ in range(2):
            row = row - sum((other @ row) * other for other in rows)
        rows.append(row / np.linalg.norm(row))
    return np.array(rows)


def directions(m: int, d: int, seed: int = 0, orthogonal: bool = True) -> np.ndarray:
    """The documented directions, from the documented words."""
    w = _philox.normal(seed, _philox.Tag.FEATURES, m, d)
    if not (orthogonal and d):
        return w
    blocks = [gram_schmidt(w[first : first + d]) for first in range(0, m, d)]
    norms = np.sqrt((_philox.normal(seed, _philox.Tag.FEATURE_NORMS, m, d) ** 2).sum(axis=1))
    return np.concatenate(blocks) * norms[:, None]


def features(x: Any, w: np.ndarray) -> np.ndarray:
    """exp(w . x - |x|^2 / 2) / sqrt(m)."""
    x = np.asarray(x).astype(np.longdouble)
    return np.exp(x @ w.T - (x**2).sum(-1, keepdims=True) / 2) / np.sqrt(np.longdouble(len(w)))


def attention(q: Any, k: Any, v: Any, w: np.ndarray, causal: bool = False) -> np.ndarray:
    """Attention with these directions, by all weights of all features."""
    q, k, v = (np.asarray(x).astype(np.longdouble) for x in (q, k, v))
    scale = np.longdouble(q.shape[-1] or 1) ** -0.25
    q, k = q * scale, k * scale
    ours, theirs = q @ w.T, k @ w.T - (k**2).sum(-1, keepdims=True) / 2
    exponents = ours[..., :, None, :] + theirs[..., None, :, :]
    if causal:
        exponents = np.where(np.tri(q.shape[-2], dtype=bool)[:, :, None], exponents, -np.inf)
    weights = np.exp(exponents - exponents.max(axis=(-1, -2), keepdims=True)).sum(axis=-1)
    return (weights @ v / weights.sum(axis=-1, keepdims=True)).astype(np.float64)
