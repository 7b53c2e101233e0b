"""Softmax by Taylor polynomials of exp: a distribution of its own, with its gradients; a fast softmax; and GELU.

The polynomial of even order n, f_n(x) = 1 + x + x^2 / 2! + ... + x^n / n!, is positive everywhere. So f_n(x_i) over
its sum is a distribution, but not an approximation of softmax: its tails are long (a power law, where softmax decays
exponentially), the largest logit never gets more than softmax gives it, and no maximum need be subtracted first.
`fast_softmax` approximates softmax.

Three traps:

* It does not ignore shifts. Subtracting the row's maximum, as one does for softmax, makes another distribution of it.
* An additive mask inverts: f_n(-1e9) is huge. Masks are given as `where`.
* f_n has a minimum, at x = -1 for n = 2 (`taylor_minimum`). Left of it, a larger logit has less probability;
  ``monotone=True`` keeps f_n at its minimum there.

A. de Brebisson and P. Vincent, "An Exploration of Softmax Alternatives Belonging to the Spherical Loss Family", 2016.
K. Banerjee et al., "Exploring Alternatives to Softmax Function", 2020.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._arrays import Output, check_out, readable
from ._check import boolean, finite, integer
from ._taylor import fast_plan, plan
from ._taylor_error import (
    TaylorError,
    TaylorMinimum,
    check_order,
    fast_softmax_error,
    plot_taylor,
    taylor_error,
    taylor_minimum,
)
from ._threads import parallel, split
from .config import kernels

__all__ = [
    "TaylorError",
    "TaylorMinimum",
    "fast_softmax",
    "fast_softmax_error",
    "gelu",
    "log_taylor_softmax",
    "log_taylor_softmax_vjp",
    "plot_taylor",
    "taylor_cross_entropy",
    "taylor_cross_entropy_vjp",
    "taylor_error",
    "taylor_exp",
    "taylor_minimum",
    "taylor_softmax",
    "taylor_softmax_vjp",
]

Array = NDArray[Any]
Axis = SupportsIndex | Sequence[SupportsIndex] | None

SOFTMAX, LOG, SOFTMAX_VJP, LOG_VJP, FAST, EXP, GELU, GELU_TANH, GELU_SIGMOID = range(9)
"""Operations, as the kernels know them."""

NAMES = {"float16": "f16", "bfloat16": "bf16", "float32": "f32", "float64": "f64"}
KINDS: dict[np.dtype[Any], str] = {np.dtype(name): kind for name, kind in NAMES.items() if name != "bfloat16"}
"""What kernels call a dtype; bfloat16, which is not NumPy's, is added when it is met."""
_PIECE = 1 << 16
"""Elements that are worth a thread."""

_TRUE = np.ones((), np.uint8)


# ---- operands


def _floating(x: ArrayLike, name: str) -> Array:
    """An aligned array in a dtype that kernels take."""
    array = x if type(x) is np.ndarray else np.asarray(x)
    dtype = array.dtype
    if dtype in KINDS and array.flags.aligned:
        return array
    if dtype.kind in "biu":
        return array.astype(np.float64)
    if dtype.name not in NAMES:
        raise TypeError(f"{name}: dtype {dtype}; allowed are {', '.join(NAMES)}, and integers")
    native = dtype.newbyteorder("=")
    KINDS[native] = NAMES[dtype.name]
    return readable(array, native)


def _gradient(g: ArrayLike, x: Array) -> Array:
    array = np.asarray(g)
    if array.shape != x.shape:
        raise ValueError(f"g: shape {array.shape}; allowed is that of x, {x.shape}")
    if array.dtype.kind in "OSUTcmM" or not np.can_cast(array.dtype, x.dtype, "same_kind"):
        raise TypeError(f"g: dtype {array.dtype}; allowed is what casts to {x.dtype}")
    return readable(array, x.dtype)


def _mask(where: ArrayLike | None, x: Array) -> Array | None:
    if where is None:
        return None
    array = np.asarray(where)
    if array.dtype != np.bool_:
        raise TypeError(f"where: dtype {array.dtype}; allowed is bool")
    try:
        return np.broadcast_to(array, x.shape).view(np.uint8)
    except ValueError:
        raise ValueError(f"where: shape {array.shape}; allowed is what broadcasts to {x.shape}") from None


def _axes(axis: Axis, ndim: int) -> list[int]:
    if axis is None:
        return list(range(ndim))
    given = list(axis) if isinstance(axis, (tuple, list)) else [axis]
    axes = []
    for each in given:
        index = integer(each, "axis", -(2**31))
        if not ndim and len(given) == 1 and index in (-1, 0):
            return []
        if not -ndim <= index < ndim:
            raise np.exceptions.AxisError(index, ndim)
        axes.append(index % ndim)
    if len(set(axes)) < len(axes):
        raise ValueError(f"axis={axis!r}: an axis is there twice")
    return sorted(axes)


# ---- calls of kernels


def _merged(axes: Iterable[int], arrays: Sequence[Array]) -> list[tuple[int, list[int]]]:
    """Length and steps of axes, those put together that are one in all arrays, and those of length 1 left out."""
    merged: list[tuple[int, list[int]]] = []
    for axis in axes:
        length, steps = arrays[0].shape[axis], [array.strides[axis] for array in arrays]
        if length == 1:
            continue
        if merged and merged[-1][1] == [step * length for step in steps]:
            merged[-1] = merged[-1][0] * length, steps
        else:
            merged.append((length, steps))
    return merged


def _stored(array: Array) -> Array:
    return array.view(np.uint16) if array.dtype.itemsize == 2 else array


def _strided(op: int, arrays: list[Array], masked: bool, numbers: Array, axes: list[int], kind: str) -> None:
    """Rows along some axes, of any strides; those of x, g, where and out."""
    x = arrays[0]
    rest = sorted(set(range(x.ndim)) - set(axes), key=lambda axis: -abs(x.strides[axis]))
    outer, inner = _merged(rest, arrays), _merged(axes, arrays)
    if op >= EXP:
        outer, inner = outer[:-2], outer[-2:]
    if len(inner) > 2:
        turned = [np.ascontiguousarray(array.transpose(rest + axes)) for array in arrays]
        _strided(op, turned, masked, numbers, list(range(len(rest), x.ndim)), kind)
        arrays[3].transpose(rest + axes)[...] = turned[3]
        return
    inner = [(1, [0] * 4)] * (2 - len(inner)) + inner
    outer = [(1, [0] * 4)] * (not outer) + outer
    layout = outer + inner
    shape = [length for length, _ in layout]
    views = [
        np.lib.stride_tricks.as_strided(array, shape, [steps[i] for _, steps in layout])
        for i, array in enumerate(arrays)
    ]
    *stack, rows, m, n = shape
    kernel = getattr(kernels, f"taylor_rows_{kind}")
    count = math.prod(stack) * rows
    pieces = min(split(x.size, _PIECE), count)

    def run(i: int) -> None:
        at, end = count * i // pieces, count * (i + 1) // pieces
        while at < end:
            index, first = np.unravel_index(at // rows, stack) if stack else (), at % rows
            last = min(rows, first + end - at)
            part = [view[index][first:last] for view in views]
            kernel(op, *part, last - first, m, n, int(masked), numbers)
            at += last - first

    parallel(run, pieces)


def _contiguous(op: int, x: Array, out: Array, n: int, numbers: Array, kind: str) -> None:
    """Contiguous rows of n elements; n = 1 for what goes by elements."""
    kernel, size = getattr(kernels, f"taylor_plain_{kind}"), x.size
    pieces = 1 if size < 2 * _PIECE else split(size, _PIECE)
    if pieces == 1:
        kernel(op, x, out, size, size if op >= EXP else n, numbers)
        return
    flat_x, flat_out, rows = x.reshape(-1), out.reshape(-1), size // n
    pieces = min(pieces, rows)

    def run(i: int) -> None:
        part = slice(rows * i // pieces * n, rows * (i + 1) // pieces * n)
        length = part.stop - part.start
        kernel(op, flat_x[part], flat_out[part], length, length if op >= EXP else n, numbers)

    parallel(run, pieces)


def _apply(
    op: int,
    x: Array,
    numbers: Array,
    axis: Axis = (),
    out: Array | None = None,
    where: ArrayLike | None = None,
    g: Array | None = None,
) -> Any:
    kind, shape = KINDS[x.dtype], x.shape
    # Nearly all calls are of this kind, and quickly seen to be right.
    last = op >= EXP or (type(axis) is int and axis == -1)
    if last and where is None and g is None and shape and x.flags.c_contiguous and x.size:
        result = np.empty(shape, x.dtype) if out is None else out
        if out is None or (
            type(out) is np.ndarray
            and out.dtype is x.dtype
            and out.shape == shape
            and out.flags.carray
            and (out is x or not np.may_share_memory(out, x))
        ):
            _contiguous(op, _stored(x), _stored(result), 1 if op >= EXP else shape[-1], numbers, kind)
            return result
    check_out(out, shape, x.dtype)
    axes = _axes(axis, x.ndim)
    mask = _mask(where, x)
    inputs = [array for array in (x, g, mask) if array is not None]
    output = Output(out, shape, x.dtype, *inputs, in_place=True)
    if x.size:
        stored = _stored(x)
        arrays = [
            stored,
            stored if g is None else _stored(g),
            np.broadcast_to(_TRUE, shape) if mask is None else mask,
            _stored(output.array),
        ]
        _strided(op, arrays, mask is not None, numbers, axes, kind)
    output.delivered()
    return output.out[()] if out is None and not shape else output.out


def _rate(temperature: float, x: Array) -> float:
    number = finite(temperature, "temperature", above=0)
    most = float(np.finfo(np.float64 if x.dtype == np.float64 else np.float32).max)
    if number * most < 1:
        raise ValueError(f"temperature={temperature!r}: allowed is at least {1 / most:g}, whose reciprocal is a number")
    return 1 / number


def _rows(
    op: int,
    x: ArrayLike,
    order: int,
    axis: Axis,
    where: ArrayLike | None,
    out: Array | None,
    temperature: float,
    monotone: bool,
    g: ArrayLike | None = None,
) -> Any:
    order, array = check_order(order), _floating(x, "x")
    rate = 1.0 if type(temperature) is float and temperature == 1 else _rate(temperature, array)
    numbers = plan(order, rate, boolean(monotone, "monotone"))
    return _apply(op, array, numbers, axis, out, where, None if g is None else _gradient(g, array))


# ---- what is public


def taylor_exp(x: ArrayLike, order: int = 2, *, out: Array | None = None, monotone: bool = False) -> Any:
    """The Taylor polynomial of exp, element by element.

    Parameters
    ----------
    x : array_like
        float16, bfloat16 (ml_dtypes), float32 or float64; integers are taken as float64.
    order : {2, 4, 6, 8, 10, 12}
        Its degree n. Even, so that it is positive.
    out : ndarray, optional
        Where to write the result, of its shape and of a dtype that it casts to. It may be `x`.
    monotone : bool
        Whether the polynomial stays at its minimum left of it, and so never falls.

    Returns
    -------
    ndarray or scalar
        In the shape and dtype of `x`.

    Raises
    ------
    TypeError, ValueError
        If a dtype, the order or `out` is none of these.

    See Also
    --------
    taylor_error : how far it is from exp.
    taylor_minimum : where its minimum is.

    Notes
    -----
    The relative rounding error is at most (2.5 * order + 2) * 2^-24 (float64: 2^-53), near the minimum too: a product
    of positive quadratics is evaluated, not a sum of powers. float16 and bfloat16 are computed in float32 and rounded
    once. +-inf give inf (-inf with `monotone` the minimum), nan gives nan. The bits do not depend on the backend, the
    ISA level, the threads or the strides.

    Examples
    --------
    >>> import fastk
    >>> fastk.taylor_exp([-4.0, -1.0, 0.0, 1.0])
    array([5. , 0.5, 1. , 2.5])
    >>> fastk.taylor_exp([-4.0, -1.0, 0.0, 1.0], monotone=True)
    array([0.5, 0.5, 1. , 2.5])
    """
    array = _floating(x, "x")
    return _apply(EXP, array, plan(check_order(order), 1.0, boolean(monotone, "monotone")), out=out)


def taylor_softmax(
    x: ArrayLike,
    order: int = 2,
    *,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    out: Array | None = None,
    temperature: float = 1.0,
    monotone: bool = False,
) -> Any:
    """Softmax with the Taylor polynomial of exp in the place of exp.

    It is a distribution of its own, positive, with long tails: the odds of two logits are at most a power of their
    ratio. It is not an approximation of softmax; that is `fast_softmax`.

    Parameters
    ----------
    x : array_like
        Logits. float16, bfloat16 (ml_dtypes), float32 or float64; integers are taken as float64.
    order : {2, 4, 6, 8, 10, 12}
        Degree of the polynomial. Even: those of odd degree are negative somewhere.
    axis : int, tuple of int or None
        Along which the result sums to 1; None is all axes.
    where : array_like of bool, optional
        What counts, in a shape that broadcasts to that of `x`. The rest is as if it were not there, whatever it holds,
        and has probability 0. Where nothing counts, all are 0. An additive mask does not work: f(-1e9) is huge.
    out : ndarray, optional
        Where to write the result, of its shape and of a dtype that it casts to. It may be `x`.
    temperature : float
        Positive. The polynomial is evaluated at x / temperature.
    monotone : bool
        Whether the polynomial stays at its minimum left of it (at x = -1 for order 2), so that a larger logit never
        has less probability.

    Returns
    -------
    ndarray
        In the shape and dtype of `x`.

    Raises
    ------
    TypeError, ValueError
        If a dtype, a shape, the order or the temperature is none of these.
    numpy.exceptions.AxisError
        If there is no such axis.

    See Also
    --------
    fast_softmax : the ordinary softmax.
    log_taylor_softmax : its logarithm, accurate where probabilities are close to 1.

    Notes
    -----
    It depends on shifts of the logits, so nothing is subtracted from them. No row of finite numbers overflows. A nan
    makes its row nan, and so does an infinity, whose polynomial is infinite (-inf with `monotone` is at the minimum).

    Each probability's relative error is at most (5 * order + 80) * 2^-24, for float64 2^-53 (temperature 1): twice that
    of `taylor_exp`, and that of the sum. Along a row, in C order of the axes, 1024 elements at a time are summed in 16
    lanes in the dtype that is computed in, and these sums in float64; so the bits do not depend on the backend, the ISA
    level, the threads or the strides. float16 and bfloat16 are computed in float32 and rounded once. Rows with numbers
    whose polynomial leaves the range (in float32, for order 12 some 1e4) are right, and some hundred times slower.

    The mask of a masked array is not looked at. Source: de Brebisson and Vincent (2016).

    Examples
    --------
    >>> import fastk
    >>> fastk.taylor_softmax([0.0, 1.0, 3.0]).round(4)
    array([0.0833, 0.2083, 0.7083])
    >>> fastk.taylor_softmax([0.0, 1.0, 3.0], where=[True, True, False]).round(4)
    array([0.2857, 0.7143, 0.    ])
    """
    return _rows(SOFTMAX, x, order, axis, where, out, temperature, monotone)


def log_taylor_softmax(
    x: ArrayLike,
    order: int = 2,
    *,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    out: Array | None = None,
    temperature: float = 1.0,
    monotone: bool = False,
) -> Any:
    """The logarithm of `taylor_softmax`.

    Parameters
    ----------
    x, order, axis, where, out, temperature, monotone
        As for `taylor_softmax`.

    Returns
    -------
    ndarray
        In the shape and dtype of `x`; -inf where `where` is False.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As `taylor_softmax`.

    Notes
    -----
    In float64 within 4 units in the last place of the exact logarithm, for all orders (temperature 1, |x| <= 50),
    where the probability is close to 1 as where it is tiny: the polynomial and its sum are carried to twice the
    precision, and the largest element is held apart from the sum of the others. The other dtypes are computed in
    float64 and rounded. Every row of finite numbers has a finite result.

    Examples
    --------
    >>> import fastk
    >>> fastk.log_taylor_softmax([0.0, 1.0, 1e8])
    array([-3.61482143e+01, -3.52319236e+01, -6.99999986e-16])
    """
    return _rows(LOG, x, order, axis, where, out, temperature, monotone)


def taylor_softmax_vjp(
    g: ArrayLike,
    x: ArrayLike,
    order: int = 2,
    *,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    out: Array | None = None,
    temperature: float = 1.0,
    monotone: bool = False,
) -> Any:
    """Vector-Jacobian product of `taylor_softmax`: the gradient of x from that of the probabilities.

    With p the probabilities and r = f' / f it is r * p * (g - sum(g * p)) / temperature; f' is the polynomial of the
    order below. The sums must not overflow.

    Parameters
    ----------
    g : array_like
        Gradient of the probabilities, in the shape of `x`; it is computed in the dtype of `x`.
    x, order, axis, where, temperature, monotone
        As for `taylor_softmax`.
    out : ndarray, optional
        Where to write the result. It may be `g` or `x`.

    Returns
    -------
    ndarray
        In the shape and dtype of `x`; 0 where `where` is False, and where `monotone` holds the polynomial.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As `taylor_softmax`.

    Examples
    --------
    >>> import fastk
    >>> fastk.taylor_softmax_vjp([0.0, 0.0, 1.0], [0.0, 1.0, 3.0]).round(4)
    array([-0.059 , -0.1181,  0.0972])
    """
    return _rows(SOFTMAX_VJP, x, order, axis, where, out, temperature, monotone, g)


def log_taylor_softmax_vjp(
    g: ArrayLike,
    x: ArrayLike,
    order: int = 2,
    *,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    out: Array | None = None,
    temperature: float = 1.0,
    monotone: bool = False,
) -> Any:
    """Vector-Jacobian product of `log_taylor_softmax`: r * (g - p * sum(g)) / temperature, r = f' / f.

    Parameters
    ----------
    g, x, order, axis, where, out, temperature, monotone
        As for `taylor_softmax_vjp`.

    Returns
    -------
    ndarray
        In the shape and dtype of `x`.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As `taylor_softmax`.

    Examples
    --------
    >>> import fastk
    >>> fastk.log_taylor_softmax_vjp([0.0, 0.0, 1.0], [0.0, 1.0, 3.0]).round(4)
    array([-0.0833, -0.1667,  0.1373])
    """
    return _rows(LOG_VJP, x, order, axis, where, out, temperature, monotone, g)


def _losses(
    logits: ArrayLike, labels: ArrayLike, order: int, margin: float, scale: float
) -> tuple[Array, Array, Array, str]:
    """Logits as rows, labels, the plan, and the kind of kernel."""
    order, x = check_order(order), _floating(logits, "logits")
    offset, rate = finite(margin, "margin"), finite(scale, "scale", above=0)
    if not x.ndim or not x.shape[-1]:
        raise ValueError(f"logits: shape {x.shape}; allowed is (..., classes), with one class at least")
    index = np.asarray(labels)
    if index.dtype.kind not in "iu" and index.size:
        raise TypeError(f"labels: dtype {index.dtype}; allowed are integers")
    if index.shape != x.shape[:-1]:
        raise ValueError(f"labels: shape {index.shape}; allowed is {x.shape[:-1]}, that of logits but its last axis")
    wrong = (index < 0) | (index >= x.shape[-1])
    if wrong.any():
        first = index[wrong].flat[0]
        raise ValueError(f"labels: {first}; allowed is 0 to {x.shape[-1] - 1}")
    rows = _stored(x).reshape(index.size, x.shape[-1])
    numbers = plan(order, rate, False, offset)
    return rows, np.require(index, np.int64, ["C", "A"]).reshape(-1), numbers, KINDS[x.dtype]


def _by_rows(call: Any, rows: int, columns: int) -> None:
    pieces = min(split(rows * columns, _PIECE), rows)
    if pieces:
        parallel(lambda i: call(slice(rows * i // pieces, rows * (i + 1) // pieces)), pieces)


def taylor_cross_entropy(
    logits: ArrayLike, labels: ArrayLike, order: int = 2, *, margin: float = 0.0, scale: float = 1.0
) -> Any:
    """Cross-entropy of labels under `taylor_softmax`, with an additive margin.

    The loss of a row is -log(f(z_label) / sum f(z)), where z is scale * logits, and scale * (logit - margin) at the
    label.

    Parameters
    ----------
    logits : array_like, shape (..., classes)
        float16, bfloat16 (ml_dtypes), float32 or float64; integers are taken as float64.
    labels : array_like of int, shape (...)
        The class of each row, from 0.
    order : {2, 4, 6, 8, 10, 12}
        As for `taylor_softmax`.
    margin : float
        By which the label's logit must be ahead.
    scale : float
        Positive.

    Returns
    -------
    ndarray or scalar, shape (...)
        The losses, in the dtype of `logits`. Their mean is what one minimises.

    Raises
    ------
    TypeError, ValueError
        If a dtype, a shape, a label or a number is none of these.

    Notes
    -----
    Computed in float64 and rounded, accurate where the loss is tiny: it is log(1 + odds), with the odds of the other
    classes from a sum of their own. A row with a nan or an infinity has loss nan, and so has one whose logit at the
    label leaves the range by the margin.

    Source: de Brebisson and Vincent (2016); Banerjee et al. (2020) for the soft margin.

    Examples
    --------
    >>> import fastk
    >>> fastk.taylor_cross_entropy([[0.0, 1.0, 3.0], [0.0, 1.0, 3.0]], [2, 0]).round(4)
    array([0.3448, 2.4849])
    >>> float(fastk.taylor_cross_entropy([0.0, 1.0, 3.0], 2, margin=0.5).round(4))
    0.4242
    """
    rows, index, numbers, kind = _losses(logits, labels, order, margin, scale)
    loss = np.empty(index.size)
    kernel = getattr(kernels, f"taylor_loss_{kind}")

    def call(part: slice) -> None:
        kernel(rows[part], index[part], loss[part], part.stop - part.start, rows.shape[1], numbers)

    _by_rows(call, *rows.shape)
    dtype = _floating(logits, "logits").dtype
    with np.errstate(all="ignore"):
        if KINDS[dtype] == "bf16":  # whose cast goes through float32
            single = loss.astype(np.float32)
            words = single.view(np.uint32)
            words -= np.abs(single) > np.abs(loss)
            words |= words.view(np.float32) != loss
            return single.astype(dtype).reshape(np.shape(labels))[()]
        return loss.astype(dtype).reshape(np.shape(labels))[()]


def taylor_cross_entropy_vjp(
    g: ArrayLike, logits: ArrayLike, labels: ArrayLike, order: int = 2, *, margin: float = 0.0, scale: float = 1.0
) -> Any:
    """Vector-Jacobian product of `taylor_cross_entropy`: the gradient of the logits from that of the losses.

    Parameters
    ----------
    g : array_like, shape (...)
        Gradient of the losses; 1 / rows for that of their mean.
    logits, labels, order, margin, scale
        As for `taylor_cross_entropy`.

    Returns
    -------
    ndarray, shape (..., classes)
        In the dtype of `logits`.

    Raises
    ------
    TypeError, ValueError
        As `taylor_cross_entropy`.

    Examples
    --------
    >>> import fastk
    >>> fastk.taylor_cross_entropy_vjp(1.0, [0.0, 1.0, 3.0], 2).round(4)
    array([ 0.0833,  0.1667, -0.1373])
    """
    rows, index, numbers, kind = _losses(logits, labels, order, margin, scale)
    gradient, shape = np.asarray(g), np.shape(labels)
    if gradient.shape != shape:
        raise ValueError(f"g: shape {gradient.shape}; allowed is that of labels, {shape}")
    if gradient.dtype.kind in "OSUTcmM" or not np.can_cast(gradient.dtype, np.float64, "same_kind"):
        raise TypeError(f"g: dtype {gradient.dtype}; allowed is what casts to float64")
    flat = np.require(gradient, np.float64, ["C", "A"]).reshape(-1)
    x = _floating(logits, "logits")
    out = np.empty(x.shape, x.dtype)
    result = _stored(out).reshape(rows.shape)
    kernel = getattr(kernels, f"taylor_loss_vjp_{kind}")

    def call(part: slice) -> None:
        kernel(flat[part], rows[part], index[part], result[part], part.stop - part.start, rows.shape[1], numbers)

    _by_rows(call, *rows.shape)
    return out


def fast_softmax(
    x: ArrayLike, order: int = 4, *, axis: Axis = -1, where: ArrayLike | None = None, out: Array | None = None
) -> Any:
    """The ordinary softmax, with exp by range reduction: f(t / 32) squared five times, f the Taylor polynomial.

    Parameters
    ----------
    x : array_like
        Logits. float16, bfloat16 (ml_dtypes), float32 or float64; integers are taken as float64.
    order : {2, 4, 6, 8, 10, 12}
        Degree of the polynomial.
    axis, where, out
        As for `taylor_softmax`.

    Returns
    -------
    ndarray
        In the shape and dtype of `x`.

    Raises
    ------
    TypeError, ValueError, numpy.exceptions.AxisError
        As `taylor_softmax`.

    See Also
    --------
    fast_softmax_error : a bound on the total-variation distance to softmax.

    Notes
    -----
    The row's maximum is subtracted first. Where t / 32 is left of the polynomial's minimum (x more than 32 below the
    maximum for order 2, 51 for order 4), the result is 0. -inf has probability 0, as an additive mask needs. A row is
    nan if it has a nan or +inf, or if all that counts is -inf.

    The total-variation distance to softmax is at most ``fast_softmax_error(order, n)`` for rows of n elements. Of
    standard normal logits it is some 1.5e-3 (order 2) and 1.4e-6 (order 4). The bits do not depend on the backend, the
    ISA level, the threads or the strides.

    Examples
    --------
    >>> import fastk
    >>> fastk.fast_softmax([0.0, 1.0, 3.0]).round(4)
    array([0.042 , 0.1142, 0.8438])
    """
    array = _floating(x, "x")
    return _apply(FAST, array, fast_plan(check_order(order)), axis, out, where)


GELUS = {"none": GELU, "tanh": GELU_TANH, "sigmoid": GELU_SIGMOID}


def gelu(x: ArrayLike, approximate: str = "none", *, out: Array | None = None) -> Any:
    """Gaussian error linear unit: x times the normal distribution function of x.

    Parameters
    ----------
    x : array_like
        float16, bfloat16 (ml_dtypes), float32 or float64; integers are taken as float64.
    approximate : {"none", "tanh", "sigmoid"}
        The exact form; x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))), off by at most 4.73e-4, at x = -2.70; or
        x * sigmoid(1.702 x), off by at most 2.03e-2, at x = 2.27.
    out : ndarray, optional
        Where to write the result, of its shape and of a dtype that it casts to. It may be `x`.

    Returns
    -------
    ndarray or scalar
        In the shape and dtype of `x`.

    Raises
    ------
    TypeError, ValueError
        If a dtype, the name of the form or `out` is none of these.

    Notes
    -----
    The exact form's relative error is at most 1e-6 for x >= -13 (float64: 1e-14 for x >= -37) where the result is a
    normal number, in the left tail too; left of that the result is -0. The error of the others, beside their formulas,
    is at most 4 units in the last place of x. +inf gives inf, -inf gives -0. The bits do not depend on the backend, the
    ISA level or the strides.

    Source: Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016.

    Examples
    --------
    >>> import fastk
    >>> fastk.gelu([-1.0, 0.0, 2.0]).round(6)
    array([-0.158655,  0.      ,  1.9545  ])
    """
    if not isinstance(approximate, str):
        raise TypeError(f"approximate={approximate!r}: a string is needed, one of {', '.join(GELUS)}")
    if approximate not in GELUS:
        raise ValueError(f"approximate={approximate!r}: allowed are {', '.join(GELUS)}")
    return _apply(GELUS[approximate], _floating(x, "x"), plan(2), out=out)
