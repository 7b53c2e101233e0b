"""Attention whose cost can grow linearly with the tokens, as its weights are scalar products of features.

Taylor weights: 1 + s + s^2 / 2 in place of e^s, for a score s. The weight f(s) = 1 + s + s^2 / 2 = ((s + 1)^2 + 1) / 2
is at least 1/2: positive, as a weight must be. As a polynomial of the scalar product of a query and a key it is a
scalar product of features,

    2 f(q . k) = 2 + 2 sum_i q_i k_i + sum_i q_i^2 k_i^2 + 2 sum_(i < j) (q_i q_j) (k_i k_j) = phi_2(q) . phi_1(k),
    phi_c(x) = (c, c x_i, x_i^2, c x_i x_j with i < j),

so the sum over the keys of phi_1(k) [v, 1], which has (d + 1) (d + 2) / 2 rows, is all that a query needs to know of
them. Everything below computes 2 f: the 2 cancels.

Performer weights, an unbiased estimate of e^s itself by m positive random features, exp(w . x - |x|^2 / 2). They are
kept as exponents. What all features of a query have in common cancels, and what all keys have in common in one feature
may go to the queries: with a_f = w_f . q for a query, b_f = w_f . k - |k|^2 / 2 for a key, and c_f the largest b_f of
the keys, a weight is

    sum_f e^(a_f + b_f) = e^C sum_f e^(a_f + c_f - C) e^(b_f - c_f),  C = max_f (a_f + c_f),

where no factor is above 1, and the sum of the weights over the keys at least e^C. So nothing overflows, and nothing is
divided by 0, whatever queries and keys are.

A. de Brebisson and P. Vincent, "An Exploration of Softmax Alternatives Belonging to the Spherical Loss Family", 2016
(the weights). T. C. Nauen, S. Palacio and A. Dengel, "TaylorShift: Shifting the Complexity of Self-Attention from
Squared to Linear (and Back) using Taylor-Softmax", 2024 (attention in both forms). K. Choromanski et al., "Rethinking
Attention with Performers", 2021.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from numbers import Real
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from ._arrays import aligned
from ._check import check_seed, integer
from ._features import directions

__all__ = ["TaylorAttentionState", "performer_attention", "taylor_attention"]

_FORMS = ("auto", "direct", "linear")
_FLOATS = ("float16", "bfloat16", "float32", "float64")

_ROWS, _KEYS = 256, 512
"""Queries and keys of a block of scores. A causal block ends at the diagonal, so the one has to divide the other."""

_RUN, _STEP = 256, 128
"""Tokens whose features are made at a time, and queries of such a run that meet its keys in one block of scores."""

_TRIANGLE = 64
"""Tokens of a run in causal Performer attention, whose queries meet its keys in blocks that grow from 1 to a half."""

_TOGETHER = 1 << 17
"""Elements of the largest array that a block needs, up to which small problems of a stack are taken together."""

_WEIGHT_COST, _FEATURE_COST = 22, 24
"""What a weight and a feature cost, in multiplications of a matrix product. Fitted to the times of both forms, of 64 to
16384 tokens of 8 to 128 components, on one thread of an AVX-512 Xeon with OpenBLAS, where the form that is taken was
the faster one but for problems of a tenth of a millisecond."""

# ---- what all attention shares


class _Room:
    """Work space for the blocks of a stack of problems: arrays that are kept from block to block, by name."""

    def __init__(self, stack: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.stack, self.dtype = stack, dtype
        self._kept: dict[str, NDArray[Any]] = {}

    def __call__(self, name: str, *shape: int) -> NDArray[Any]:
        """An array of this shape for each problem; what it holds is undefined."""
        shape = (*self.stack, *shape)
        size = math.prod(shape)
        kept = self._kept.get(name)
        if kept is None or kept.size < size:
            kept = self._kept[name] = aligned(size, self.dtype)
        return kept[:size].reshape(shape)

    def rows(self, name: str, x: NDArray[Any]) -> NDArray[Any]:
        """A copy in the room's dtype, whatever the dtype, strides and alignment of x."""
        copy = self(name, *x.shape[-2:])
        np.copyto(copy, x, casting="same_kind")
        return copy

    def columns(self, name: str, x: NDArray[Any], scale: float = 1.0) -> NDArray[Any]:
        """A transposed copy: features are made of columns, and BLAS is faster with them too."""
        copy = self.rows(name, x.swapaxes(-1, -2))
        if scale != 1.0:
            np.multiply(copy, self.dtype.type(scale), out=copy)
        return copy


@lru_cache(maxsize=8)
def _ones(n: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.ones((n, 1), dtype)


def _sums(a: NDArray[Any], values: NDArray[Any], out: NDArray[Any]) -> NDArray[Any]:
    """a @ [values, 1], the ones by themselves: BLAS is slower at a matrix that is one wider than a power of two."""
    np.matmul(a, values, out=out[..., :-1])
    np.matmul(a, _ones(a.shape[-1], a.dtype), out=out[..., -1:])
    return out


def _cuts(length: int, step: int) -> list[slice]:
    return [slice(i, min(i + step, length)) for i in range(0, length, step)]


def _divide(room: _Room, sums: NDArray[Any], out: NDArray[Any]) -> None:
    quotient = out if out.dtype == room.dtype else room("quotient", *out.shape[-2:])
    np.divide(sums[..., :-1], sums[..., -1:], out=quotient, casting="same_kind")
    if quotient is not out:
        np.copyto(out, quotient, casting="same_kind")


def _batches(stack: tuple[int, ...], most: int) -> Iterator[tuple[Any, ...]]:
    """Indices that cut a stack into parts of at most so many problems, but of at least one."""
    inner, axis = 1, len(stack)
    while axis and inner * stack[axis - 1] <= most:
        axis -= 1
        inner *= stack[axis]
    if not axis:
        yield ()
        return
    for index in np.ndindex(stack[: axis - 1]):
        for part in _cuts(stack[axis - 1], max(1, most // inner)):
            yield (*index, part)


def _operand(value: ArrayLike, name: str) -> NDArray[Any]:
    array = np.asarray(value)
    if array.dtype.kind not in "biu" and array.dtype.name not in _FLOATS:
        raise TypeError(f"{name}: dtype {array.dtype}; allowed are {', '.join(_FLOATS)}, integers and bool")
    if array.ndim < 2:
        raise ValueError(f"{name}: shape {array.shape}; allowed are at least two dimensions, of tokens and components")
    return array


def _common_dtype(*arrays: NDArray[Any]) -> np.dtype[Any]:
    dtypes = {a.dtype.newbyteorder("=") if a.dtype.name in _FLOATS else np.dtype(np.float64) for a in arrays}
    if len(dtypes) == 1:
        return dtypes.pop()
    return np.dtype(np.float64 if np.dtype(np.float64) in dtypes else np.float32)


def _working(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def _check(q: NDArray[Any], k: NDArray[Any], v: NDArray[Any], causal: Any) -> tuple[int, ...]:
    """The shape of the stack; TypeError or ValueError if operands or options do not fit."""
    if q.shape[-1] != k.shape[-1]:
        raise ValueError(f"q, k: shapes {q.shape} and {k.shape}; {q.shape[-1]} components meet {k.shape[-1]}")
    if k.shape[-2] != v.shape[-2]:
        raise ValueError(f"k, v: shapes {k.shape} and {v.shape}; {k.shape[-2]} keys meet {v.shape[-2]} values")
    if not isinstance(causal, (bool, np.bool_)):
        raise TypeError(f"causal={causal!r}: allowed are True and False")
    if causal and q.shape[-2] != k.shape[-2]:
        raise ValueError(f"q, k: shapes {q.shape} and {k.shape}; with causal=True, allowed is one key a query")
    try:
        return np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    except ValueError:
        raise ValueError(f"q, k, v: shapes {q.shape}, {k.shape} and {v.shape}; the stacks do not broadcast") from None


def _over_stack(
    attention: Callable[[_Room, NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]], None],
    q: NDArray[Any],
    k: NDArray[Any],
    v: NDArray[Any],
    out: NDArray[Any],
    largest: int,
) -> NDArray[Any]:
    """`out`, filled by ``attention(room, q, k, v, out)`` for as many problems at a time as `largest` allows."""
    q, k, v = (np.broadcast_to(x, (*out.shape[:-2], *x.shape[-2:])) for x in (q, k, v))
    room = _Room((), _working(out.dtype))
    with np.errstate(all="ignore"):
        for i in _batches(out.shape[:-2], _TOGETHER // largest):
            room.stack = q[i].shape[:-2]
            attention(room, q[i], k[i], v[i], out[i])
    return out


# ---- Taylor weights


def _weights(scores: NDArray[Any]) -> None:
    """Replace each score s by (s + 1)^2 + 1 = 2 f(s)."""
    np.add(scores, 1, out=scores)
    np.multiply(scores, scores, out=scores)
    np.add(scores, 1, out=scores)


def _feature_count(d: int) -> int:
    return (d + 1) * (d + 2) // 2


def _features(x: NDArray[Any], factor: int, out: NDArray[Any]) -> None:
    """Write phi_factor of the columns of x (..., d, n) to the columns of `out`.

    Pairs come by their distance, cyclically: x_i x_(i+1) for all i, then x_i x_(i+2), and so on. So each is there once,
    and all are made in one operation, but for the largest distance of an even d, of which a half is enough.
    """
    *stack, d, n = x.shape
    pairs, scaled = out[..., : -1 - 2 * d, :], out[..., -1 - d : -1, :]
    np.multiply(x, x, out=out[..., -1 - 2 * d : -1 - d, :])
    np.multiply(x, factor, out=scaled)
    out[..., -1, :] = factor
    distances = max(d - 1, 0) // 2
    if distances:
        around = np.concatenate((x, x[..., :distances, :]), axis=-2)
        step = around.strides[-2]
        strides = (*around.strides[:-1], *around.strides[-2:])
        partners: NDArray[Any] = np.ndarray((*stack, distances, d, n), x.dtype, around, step, strides)
        products = pairs[..., : distances * d, :].reshape(partners.shape)
        np.multiply(scaled[..., None, :, :], partners, out=products)
    if d % 2 == 0:
        np.multiply(scaled[..., : d // 2, :], x[..., d // 2 :, :], out=pairs[..., distances * d :, :])


@lru_cache(maxsize=8)
def _later(n: int) -> NDArray[np.bool_]:
    """Which of n keys come after which of n queries."""
    return ~np.tri(n, dtype=bool)


def _attend(room: _Room, queries: NDArray[Any], keys: NDArray[Any], values: NDArray[Any], causal: bool) -> NDArray[Any]:
    """Sums of weights times [values, 1] over a block of keys. If causal, the last query is as late as the last key."""
    n = queries.shape[-1]
    scores = room("scores", n, keys.shape[-1])
    sums = room("block sums", n, values.shape[-1] + 1)
    np.matmul(queries.swapaxes(-1, -2), keys, out=scores)
    _weights(scores)
    if not causal:
        return _sums(scores, values, sums)
    np.copyto(scores[..., -n:], 0, where=_later(n))
    last = values[..., -n:, :]
    finite = np.isfinite(last)
    if finite.all():
        return _sums(scores, values, sums)
    # A weight of 0 does not keep nan and inf out of a sum: they go to the queries that see them, and to no others.
    wild = np.where(finite, 0, last)
    values = values.copy()
    np.copyto(values[..., -n:, :], 0, where=~finite)
    _sums(scores, values, sums)
    sums[..., :-1] += np.cumsum(wild, axis=-2)
    return sums


class _State:
    """The sum of phi_1(k) [v, 1] over keys and values: within a run in the room's dtype, over runs in float64."""

    def __init__(self, room: _Room, d: int, dv: int) -> None:
        self._room = room
        self._sums = np.zeros((*room.stack, _feature_count(d), dv + 1))
        self._rounded: NDArray[Any] | None = None

    def _features(self, x: NDArray[Any], factor: int) -> NDArray[Any]:
        features = self._room("features", self._sums.shape[-2], x.shape[-1])
        _features(x, factor, features)
        return features

    def add(self, keys: NDArray[Any], values: NDArray[Any]) -> None:
        self._sums += _sums(self._features(keys, 1), values, self._room("run sums", *self._sums.shape[-2:]))
        self._rounded = None

    def sums_of(self, queries: NDArray[Any]) -> NDArray[Any]:
        """Sums of weights times [values, 1] over all keys so far."""
        if self._rounded is None:
            self._rounded = self._room.rows("state", self._sums)
        features = self._features(queries, 2).swapaxes(-1, -2)
        sums = self._room("sums", queries.shape[-1], self._sums.shape[-1])
        np.matmul(features, self._rounded[..., :-1], out=sums[..., :-1])
        np.matmul(features, self._rounded[..., -1:], out=sums[..., -1:])
        return sums

    def update(self, k: NDArray[Any], v: NDArray[Any]) -> None:
        for run in _cuts(k.shape[-2], _RUN):
            self.add(self._room.columns("keys", k[..., run, :]), self._room.rows("values", v[..., run, :]))

    def attend(self, q: NDArray[Any], scale: float, out: NDArray[Any]) -> None:
        for run in _cuts(q.shape[-2], _RUN):
            _divide(self._room, self.sums_of(self._room.columns("queries", q[..., run, :], scale)), out[..., run, :])


def _direct(
    scale: float, causal: bool, room: _Room, q: NDArray[Any], k: NDArray[Any], v: NDArray[Any], out: NDArray[Any]
) -> None:
    for rows in _cuts(q.shape[-2], _ROWS):
        queries = room.columns("queries", q[..., rows, :], scale)
        sums = np.zeros((*room.stack, queries.shape[-1], v.shape[-1] + 1))
        for columns in _cuts(rows.stop if causal else k.shape[-2], _KEYS):
            keys, values = room.columns("keys", k[..., columns, :]), room.rows("values", v[..., columns, :])
            sums += _attend(room, queries, keys, values, causal and columns.stop == rows.stop)
        _divide(room, sums, out[..., rows, :])


def _linear(
    scale: float, causal: bool, room: _Room, q: NDArray[Any], k: NDArray[Any], v: NDArray[Any], out: NDArray[Any]
) -> None:
    state = _State(room, q.shape[-1], v.shape[-1])
    if causal:
        return _linear_causal(state, scale, room, q, k, v, out)
    state.update(k, v)
    state.attend(q, scale, out)


def _linear_causal(
    state: _State, scale: float, room: _Room, q: NDArray[Any], k: NDArray[Any], v: NDArray[Any], out: NDArray[Any]
) -> None:
    """Of the keys of its own run, a query sees a part: these it meets directly, all before them through the state."""
    for run in _cuts(q.shape[-2], _RUN):
        queries = room.columns("queries", q[..., run, :], scale)
        keys, values = room.columns("keys", k[..., run, :]), room.rows("values", v[..., run, :])
        sums = state.sums_of(queries)
        for rows in _cuts(queries.shape[-1], _STEP):
            seen = keys[..., : rows.stop], values[..., : rows.stop, :]
            sums[..., rows, :] += _attend(room, queries[..., rows], *seen, causal=True)
        _divide(room, sums, out[..., run, :])
        if run.stop < q.shape[-2]:
            state.add(keys, values)


def _largest(form: str, n: int, m: int, d: int, dv: int) -> int:
    """Elements of the largest array that a block of one problem needs."""
    if form == "direct":
        rows, keys = min(n, _ROWS), min(m, _KEYS)
        return max(rows * keys, max(rows, keys) * max(d, dv))
    run = min(max(n, m), _RUN)
    return max(_feature_count(d) * max(run, dv + 1), run * max(min(run, _STEP), d, dv))


def _cheaper(n: int, m: int, d: int, dv: int, causal: bool) -> str:
    """The form that takes less time for n queries and m keys, by their counts of multiplications."""
    scores = n * (min(n, _ROWS) + n) // 2 if causal else n * m
    near = n * (min(n, _STEP) + min(n, _RUN)) // 2 if causal else 0
    direct = scores * (d + dv + _WEIGHT_COST)
    linear = (n + m) * _feature_count(d) * (dv + _FEATURE_COST) + near * (d + dv + _WEIGHT_COST)
    return "direct" if direct <= linear else "linear"


def _checked_scale(scale: Any, d: int) -> float:
    if scale is None:
        return 1 / math.sqrt(d) if d else 1.0
    allowed = "allowed are None and finite numbers"
    if isinstance(scale, (bool, np.bool_)) or not isinstance(scale, Real):
        raise TypeError(f"scale={scale!r}: {allowed}")
    try:
        number = float(scale)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"scale={scale!r}: {allowed}")
    return number


def _check_form(form: Any) -> None:
    if not isinstance(form, str):
        raise TypeError(f"form={form!r}: a string is needed, one of {', '.join(_FORMS)}")
    if form not in _FORMS:
        raise ValueError(f"form={form!r}: allowed are {', '.join(_FORMS)}")


def taylor_attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    *,
    causal: bool = False,
    scale: float | None = None,
    form: str = "auto",
) -> NDArray[Any]:
    """Attention whose weights are Taylor polynomials: softmax attention with 1 + s + s^2 / 2 in place of e^s.

    A query's result is the mean of the values, weighted by f(s) = 1 + s + s^2 / 2, where s = scale * q . k.

    Parameters
    ----------
    q : array_like, shape (..., N, d)
        Queries. float16, bfloat16 (ml_dtypes), float32 or float64; integers and bool are taken as float64. Any strides.
    k : array_like, shape (..., M, d)
        Keys.
    v : array_like, shape (..., M, dv)
        Values. The leading axes of the three broadcast.
    causal : bool
        Query i sees the keys 0 to i alone. Needs N = M.
    scale : float, optional
        Factor of the scores; 1 / sqrt(d) if None.
    form : {"auto", "direct", "linear"}
        "direct" makes all N M weights, a block at a time: N M (d + dv) multiplications, or half of that if causal.
        "linear" sums features of the keys: (N + M) (d + 1) (d + 2) / 2 dv multiplications. "auto" takes the one that
        should be faster, from the shapes alone: with N = M and d = dv = 16, 32, 64 and 128 the linear form from
        230, 730, 2500 and 9200 tokens on, if causal from 580, 1600, 5200 and 18500 on.

    Returns
    -------
    ndarray, shape (..., N, dv)
        In the common dtype of q, k and v (float32 for float16 with bfloat16). float16 and bfloat16 are computed in
        float32 and rounded once. Without keys, M = 0, the result is zeros; with d = 0 all weights are equal.

    Raises
    ------
    TypeError, ValueError
        If a shape, dtype or option is none of these.

    Notes
    -----
    Error: let b = abs(scale) * max norm(q) * max norm(k), which no score exceeds, and u the rounding unit of the
    computation, 2^-24 or 2^-53. In the direct form, a result is within (1040 + (2 d + 4) b) u max abs(v) of the exact
    one, in the linear form within (1060 + 6 d + 2 d^2) u f(b) max abs(v), because that makes weights, which may be as
    small as 1/2, from terms as large as f(b). Random operands stay within 2 u f(b) max abs(v) in both; what comes
    nearer to the bounds are sums of terms that are all alike. Sums over blocks of keys are float64, so M has no part in
    this (but for float64 operands: add M / 64 to the numbers). The products are BLAS's: bits may depend on it and its
    threads, within these bounds, which hold for any order of summation.

    Work space: a few blocks of 2^17 elements, whatever the stack, N and M are; in the linear form a block of
    (d + 1) (d + 2) / 2 rows of 256 + 4 dv elements too, if that is more.

    A nan or inf in a query or key makes the rows that depend on it nan. So does what leaves the range: the square of a
    score (float32: of some 1e18), the sum of weights times values, and in the linear form the square of a component of
    ``scale * q`` or of k. What a query does not see leaves no trace in its result, not even a nan.

    Unlike softmax's, these weights change if a constant is added to all scores, and a score below -1 weighs the more,
    the lower it is.

    Source: de Brebisson & Vincent (2016), Nauen et al. (TaylorShift, 2024).

    Examples
    --------
    >>> import fastk.attention
    >>> import numpy as np
    >>> q, k, v = np.array([[1.0], [-1.0]]), np.array([[0.0], [1.0]]), np.array([[0.0], [7.0]])
    >>> fastk.attention.taylor_attention(q, k, v)  # weights 1 and 5/2, 1 and 1/2
    array([[5.        ],
           [2.33333333]])
    >>> fastk.attention.taylor_attention(q, k, v, causal=True)
    array([[0.        ],
           [2.33333333]])
    """
    q, k, v = _operand(q, "q"), _operand(k, "k"), _operand(v, "v")
    stack = _check(q, k, v, causal)
    _check_form(form)
    (n, d), (m, dv) = q.shape[-2:], v.shape[-2:]
    factor = _checked_scale(scale, d)
    out = np.zeros((*stack, n, dv), _common_dtype(q, k, v))
    if not (out.size and m):
        return out
    if form == "auto":
        form = _cheaper(n, m, d, dv, bool(causal))
    attention = partial(_direct if form == "direct" else _linear, factor, bool(causal))
    return _over_stack(attention, q, k, v, out, _largest(form, n, m, d, dv))


class TaylorAttentionState:
    """Causal `taylor_attention` of tokens that come a few at a time, in memory that does not grow with them.

    Parameters
    ----------
    d, dv : int
        Components of a key and of a value.
    stack : tuple of ints
        Leading axes of all operands: heads, say.
    scale : float, optional
        Factor of the scores; 1 / sqrt(d) if None.
    dtype : dtype
        Of the results: float16, bfloat16, float32 or float64.

    Attributes
    ----------
    tokens : int
        Keys and values so far.

    Raises
    ------
    TypeError, ValueError
        If an argument is none of these.

    Notes
    -----
    It keeps (d + 1) (d + 2) / 2 (dv + 1) float64 sums for each problem of the stack. Tolerance and precision are those
    of the linear form of `taylor_attention`. A state serves one thread at a time.

    Examples
    --------
    >>> from fastk.attention import TaylorAttentionState
    >>> state = TaylorAttentionState(d=1, dv=1, dtype="float64")
    >>> for q, k, v in ([[1.0]], [[0.0]], [[0.0]]), ([[-1.0]], [[1.0]], [[7.0]]):
    ...     state.update(k, v)
    ...     print(state.attend(q))
    [[0.]]
    [[2.33333333]]
    """

    def __init__(
        self,
        d: SupportsIndex,
        dv: SupportsIndex,
        *,
        stack: Sequence[SupportsIndex] = (),
        scale: float | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self._d, self._dv = integer(d, "d", 0), integer(dv, "dv", 0)
        if not isinstance(stack, (tuple, list)):
            raise TypeError(f"stack={stack!r}: a tuple of integers is needed")
        self._stack = tuple(integer(length, "stack", 0) for length in stack)
        self._scale = _checked_scale(scale, self._d)
        self._dtype = np.dtype(dtype).newbyteorder("=")
        if self._dtype.name not in _FLOATS:
            raise TypeError(f"dtype={dtype!r}: allowed are {', '.join(_FLOATS)}")
        self._state = _State(_Room(self._stack, _working(self._dtype)), self._d, self._dv)
        self.tokens = 0

    def _checked(self, value: ArrayLike, name: str, width: int) -> NDArray[Any]:
        array = _operand(value, name)
        if array.shape[:-2] != self._stack or array.shape[-1] != width:
            allowed = ", ".join(map(str, (*self._stack, "n", width)))
            raise ValueError(f"{name}: shape {array.shape}; allowed is ({allowed})")
        return array

    def update(self, k: ArrayLike, v: ArrayLike) -> None:
        """Add n tokens: keys (*stack, n, d) and values (*stack, n, dv)."""
        k, v = self._checked(k, "k", self._d), self._checked(v, "v", self._dv)
        if k.shape[-2] != v.shape[-2]:
            raise ValueError(f"k, v: shapes {k.shape} and {v.shape}; {k.shape[-2]} keys meet {v.shape[-2]} values")
        with np.errstate(all="ignore"):
            self._state.update(k, v)
        self.tokens += k.shape[-2]

    def attend(self, q: ArrayLike) -> NDArray[Any]:
        """Attention of n queries (*stack, n, d) to all tokens so far: (*stack, n, dv); zeros before the first token."""
        q = self._checked(q, "q", self._d)
        out = np.zeros((*q.shape[:-1], self._dv), self._dtype)
        if self.tokens:
            with np.errstate(all="ignore"):
                self._state.attend(q, self._scale, out)
        return out


# ---- Performer weights


class _Exponents:
    """Exponents of positive features of queries and of keys, in rows: a = w . q and b = w . k - |k|^2 / 2.

    That is of q and k over d^(1/4), which is put into the directions and the factor of |k|^2: q . k / sqrt(d) is meant.
    """

    def __init__(self, n_features: int, d: int, seed: int, dtype: np.dtype[Any]) -> None:
        self.count, scale = n_features, d**-0.25 if d else 1.0
        self._directions = (directions(n_features, d, seed, True) * scale).T.astype(dtype, order="C")
        self._half = dtype.type(scale**2 / 2)

    def of_queries(self, room: _Room, q: NDArray[Any]) -> NDArray[Any]:
        out = room("query exponents", q.shape[-2], self.count)
        np.matmul(room.rows("queries", q), self._directions, out=out)
        return out

    def of_keys(self, room: _Room, k: NDArray[Any]) -> NDArray[Any]:
        rows, out = room.rows("keys", k), room("key exponents", k.shape[-2], self.count)
        np.matmul(rows, self._directions, out=out)
        lost = np.square(rows).sum(axis=-1, keepdims=True) * self._half
        lost[~np.isfinite(lost)] = np.nan  # where it is inf, out may be as well, of either sign
        np.subtract(out, lost, out=out)
        return out


def _features_of(exponents: NDArray[Any], shift: NDArray[Any], out: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """e^(exponents + shift - level) in rows of which the largest is 1, and level."""
    np.add(exponents, shift, out=out)
    level = out.max(axis=-1, keepdims=True)
    np.subtract(out, level, out=out)
    return np.exp(out, out=out), level


def _meet(room: _Room, a: NDArray[Any], b: NDArray[Any], values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Sums of weights times [values, 1] over keys that all queries see, over e^level; and the level of each query.

    Between the stack and the rows, there may be one more axis, of blocks.
    """
    *blocks, n, count = a.shape[len(room.stack) :]
    keys, shift = b.shape[-2], b.max(axis=-2, keepdims=True)
    ours, level = _features_of(a, shift, room("query features", *blocks, n, count))
    theirs = np.subtract(b, shift, out=room("key features", *blocks, keys, count))
    np.exp(theirs, out=theirs)
    scores = np.matmul(ours, theirs.swapaxes(-1, -2), out=room("scores", *blocks, n, keys))
    return _sums(scores, values, room("block sums", *blocks, n, values.shape[-1] + 1)), level


def _join(sums: NDArray[Any], level: NDArray[Any], more: NDArray[Any], more_level: NDArray[Any]) -> None:
    """Add sums over other keys, at another level."""
    higher = np.maximum(level, more_level)
    np.multiply(sums, np.exp(level - higher), out=sums)
    np.add(sums, more * np.exp(more_level - higher), out=sums)
    np.copyto(level, higher)


class _PerformerState:
    """The sum of e^(b - c) [v, 1] over keys and values, in float64, and c, the largest b of each feature so far."""

    def __init__(self, room: _Room, count: int, dv: int) -> None:
        self._room = room
        self._largest = np.full((*room.stack, 1, count), -np.inf, room.dtype)
        self._sums = np.zeros((*room.stack, count, dv + 1))
        self._rounded: NDArray[Any] | None = None

    def add(self, b: NDArray[Any], values: NDArray[Any]) -> None:
        """Add keys. What is in b is lost."""
        largest = np.maximum(self._largest, b.max(axis=-2, keepdims=True))
        self._sums *= np.exp(self._largest - largest).swapaxes(-1, -2)
        self._largest = largest
        np.exp(np.subtract(b, largest, out=b), out=b)
        self._sums += _sums(b.swapaxes(-1, -2), values, self._room("run sums", *self._sums.shape[-2:]))
        self._rounded = None

    def sums_of(self, a: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """As `_meet` has it, over all keys so far. What is in a is lost."""
        if self._rounded is None:
            self._rounded = self._room.rows("state", self._sums)
        features, level = _features_of(a, self._largest, a)
        sums = self._room("sums", a.shape[-2], self._sums.shape[-1])
        np.matmul(features, self._rounded[..., :-1], out=sums[..., :-1])
        np.matmul(features, self._rounded[..., -1:], out=sums[..., -1:])
        return sums, level


def _performer_direct(
    exponents: _Exponents, room: _Room, q: NDArray[Any], k: NDArray[Any], v: NDArray[Any], out: NDArray[Any]
) -> None:
    for rows in _cuts(q.shape[-2], _ROWS):
        a = exponents.of_queries(room, q[..., rows, :])
        sums = np.zeros((*a.shape[:-1], v.shape[-1] + 1))
        level = np.full((*a.shape[:-1], 1), -np.inf)
        for columns in _cuts(k.shape[-2], _KEYS):
            b = exponents.of_keys(room, k[..., columns, :])
            _join(sums, level, *_meet(room, a, b, room.rows("values", v[..., columns, :])))
        _divide(room, sums, out[..., rows, :])


def _performer_linear(
    exponents: _Exponents, room: _Room, q: NDArray[Any], k: NDArray[Any], v: NDArray[Any], out: NDArray[Any]
) -> None:
    state = _PerformerState(room, exponents.count, v.shape[-1])
    for run in _cuts(k.shape[-2], _RUN):
        state.add(exponents.of_keys(room, k[..., run, :]), room.rows("values", v[..., run, :]))
    for run in _cuts(q.shape[-2], _RUN):
        _divide(room, state.sums_of(exponents.of_queries(room, q[..., run, :]))[0], out[..., run, :])


def _performer_causal(
    exponents: _Exponents, room: _Room, q: NDArray[Any], k: NDArray[Any], v: NDArray[Any], out: NDArray[Any]
) -> None:
    state = _PerformerState(room, exponents.count, v.shape[-1])
    for run in _cuts(q.shape[-2], _TRIANGLE):
        a, b = exponents.of_queries(room, q[..., run, :]), exponents.of_keys(room, k[..., run, :])
        values = room.rows("values", v[..., run, :])
        sums, level = _triangle(room, a, b, values)
        if run.start:
            _join(sums, level, *state.sums_of(a))
        _divide(room, sums, out[..., run, :])
        if run.stop < q.shape[-2]:
            state.add(b, values)


def _triangle(room: _Room, a: NDArray[Any], b: NDArray[Any], values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Sums and levels of causal attention within a run.

    What is subtracted from the exponents of keys must not depend on keys that a query does not see, lest these make
    others vanish. So no block has such: after each query's own key, the queries in every second block of 1, 2, 4, ...
    tokens meet the keys in the block before theirs.
    """
    n = a.shape[-2]
    weights, level = _features_of(a, b, room("query features", n, a.shape[-1]))
    own = weights.sum(axis=-1, keepdims=True)
    sums = np.empty((*own.shape[:-1], values.shape[-1] + 1))
    np.multiply(own, values, out=sums[..., :-1])
    sums[..., -1:] = own
    level = level.astype(np.float64)
    size = 1
    while size < n:
        whole = n - n % (2 * size)
        for part, pairs in (slice(0, whole), n // (2 * size)), (slice(whole, n), 1):
            if part.stop - part.start <= size:
                continue
            each = (x[..., part, :].reshape(*x.shape[:-2], pairs, -1, x.shape[-1]) for x in (a, b, values, sums, level))
            queries, keys, theirs, ours, levels = each
            earlier, later = (..., slice(0, size), slice(None)), (..., slice(size, None), slice(None))
            _join(ours[later], levels[later], *_meet(room, queries[later], keys[earlier], theirs[earlier]))
        size *= 2
    return sums, level


def _performer_largest(form: str, n: int, m: int, count: int, d: int, dv: int) -> int:
    """Elements of the largest array that a block of one problem needs."""
    step = {"direct": _KEYS, "linear": _RUN, "causal": _TRIANGLE}[form]
    rows = min(max(n, m), step)
    return max(rows * max(count, d, dv), min(n, step) * min(m, step), 0 if form == "direct" else count * (dv + 1))


def _performer_cheaper(n: int, m: int, count: int, d: int, dv: int) -> str:
    """The form that takes fewer multiplications; features are made anew for each block that they meet."""
    blocks = -(-n // _ROWS), -(-m // _KEYS)
    direct = n * m * (count + dv) + (n * blocks[1] + m * blocks[0]) * count * _FEATURE_COST
    linear = (n + m) * count * (dv + _FEATURE_COST)
    return "direct" if direct + m * (blocks[0] - 1) * count * d <= linear else "linear"


def performer_attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    *,
    n_features: SupportsIndex,
    causal: bool = False,
    seed: SupportsIndex = 0,
) -> NDArray[Any]:
    """Softmax attention, estimated by positive random features: its cost grows linearly with the tokens.

    A query's result is the mean of the values, weighted by ``phi(q) @ phi(k)``, where phi(x) are the orthogonal
    `positive_random_features` of x / d^(1/4): an unbiased estimate of e^(q . k / sqrt(d)), the weight of softmax
    attention.

    Parameters
    ----------
    q : array_like, shape (..., N, d)
        Queries. float16, bfloat16 (ml_dtypes), float32 or float64; integers and bool are taken as float64. Any strides.
    k : array_like, shape (..., M, d)
        Keys.
    v : array_like, shape (..., M, dv)
        Values. The leading axes of the three broadcast.
    n_features : int
        m, how many features: at least 1. The cost grows with it, and the error falls with its square root.
    causal : bool
        Query i sees the keys 0 to i alone. Needs N = M.
    seed : int
        0 to 2^128 - 1. The features are a function of it, m and d.

    Returns
    -------
    ndarray, shape (..., N, dv)
        In the common dtype of q, k and v (float32 for float16 with bfloat16). float16 and bfloat16 are computed in
        float32 and rounded once. Without keys, M = 0, the result is zeros; with d = 0 all weights are equal.

    Raises
    ------
    TypeError, ValueError
        If a shape, dtype or option is none of these.

    Notes
    -----
    Error of the estimate: the weight of a query and a key has the relative standard deviation
    sqrt((e^(|q + k|^2 / sqrt(d)) - 1) / m) or less (`positive_random_features_variance`), so both the sums of weights
    times values and the sums of weights are unbiased, and the result, their quotient, comes near softmax attention as
    1 / sqrt(m). Where |q + k|^2 / sqrt(d) is more than ln(m) for the keys that matter, do not rely on it.

    Rounding: let b be the largest of |w| (|q| + |k|) / d^(1/4) + |k|^2 / sqrt(d) over queries, keys and directions w
    (whose norms are about sqrt(d)), which no exponent exceeds, and u = 2^-24 or 2^-53. A result is within
    2 ((d + 8) b + m + 1100) u max abs(v) of the quotient that these features have in exact arithmetic, to first order.
    Sums over blocks of keys are float64, so M has no part in this (but for float64 operands: add M / 16 to the
    numbers). Products are BLAS's, and the directions come from LAPACK: bits may depend on them, within these bounds.

    Cost: (N + M) m dv multiplications, or N M (m + dv) where that is less, as for a single query: then the weights
    are made, a block at a time. A query and a key take m exponentials each, or 9 m together if causal. Work space: some
    blocks of 2^17 elements, whatever the stack, N and M are, or if more, of 512 m and of 4 m dv; no more features exist
    at a time.

    Exponents are shifted so that nothing overflows, and no sum of weights is 0: results are finite where operands are,
    as far as |k|^2 stays in the range. A nan or inf in a query or key makes the rows that depend on it nan, and so does
    a key beyond that. What a query does not see leaves no trace in its result, not even a nan.

    Source: Choromanski et al. (Performers, FAVOR+, 2021).

    Examples
    --------
    >>> import fastk.attention
    >>> import numpy as np
    >>> q, k, v = np.array([[1.0], [-1.0]]), np.array([[0.0], [1.0]]), np.array([[0.0], [7.0]])
    >>> fastk.attention.performer_attention(q, k, v, n_features=100_000).round(2)  # 5.12, 1.88 of softmax
    array([[5.09],
           [1.89]])
    >>> fastk.attention.performer_attention(q, k, v, n_features=100_000, causal=True).round(2)
    array([[0.  ],
           [1.89]])
    """
    q, k, v = _operand(q, "q"), _operand(k, "k"), _operand(v, "v")
    stack = _check(q, k, v, causal)
    count, seed = integer(n_features, "n_features", 1), check_seed(seed)
    (n, d), (m, dv) = q.shape[-2:], v.shape[-2:]
    out = np.zeros((*stack, n, dv), _common_dtype(q, k, v))
    if not (out.size and m):
        return out
    form = "causal" if causal else _performer_cheaper(n, m, count, d, dv)
    attention = {"causal": _performer_causal, "direct": _performer_direct, "linear": _performer_linear}[form]
    exponents = _Exponents(count, d, seed, _working(out.dtype))
    return _over_stack(partial(attention, exponents), q, k, v, out, _performer_largest(form, n, m, count, d, dv))
