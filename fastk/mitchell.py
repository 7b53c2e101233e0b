"""Mitchell's binary-log arithmetic: multiplication by adding the bits of the operands.

With a = 2^k (1 + x), 0 <= x < 1, log2(a) is taken to be k + x, which is what the bits of a float say already. So adding
bits multiplies, subtracting divides, halving takes roots. A product is too small by at most 1/9, a quotient too large
by at most 1/8; `mitchell_error` has these figures for every function and correction.

J. N. Mitchell, "Computer Multiplication and Division Using Binary Logarithms", IRE Transactions on Electronic
Computers, 1962.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._arrays import Output, check_out, readable
from ._backend import c
from ._check import integer
from ._mitchell_error import OPS, Correction, MitchellError, mitchell_error, plot_error, resolve
from ._threads import parallel, split
from ._ufunc import Loop, make_ufunc
from .config import config, kernels

if TYPE_CHECKING:
    mitchell_mul: np.ufunc
    mitchell_square: np.ufunc
    mitchell_div: np.ufunc
    mitchell_reciprocal: np.ufunc
    mitchell_sqrt: np.ufunc
    mitchell_rsqrt: np.ufunc
    mitchell_log2: np.ufunc
    mitchell_exp2: np.ufunc
    mitchell_pow: np.ufunc

__all__ = [
    "MitchellError",
    "mitchell_conv2d",
    "mitchell_div",
    "mitchell_dot",
    "mitchell_error",
    "mitchell_exp2",
    "mitchell_log2",
    "mitchell_matmul",
    "mitchell_mul",
    "mitchell_pow",
    "mitchell_reciprocal",
    "mitchell_rsqrt",
    "mitchell_sqrt",
    "mitchell_square",
    "mitchell_ufunc",
    "plot_error",
]

TWO_OPERANDS = ("mul", "div", "pow")
PRODUCTS = ("mul", "square")
"""Ops with loops of their own for integers."""

DTYPES = (
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "bfloat16"),
)
"""In the order of the codes that the loops know them by."""

MANTISSA_BITS = {"float16": 10, "float32": 23, "float64": 52, "bfloat16": 7}
SCALE_BITS = {"float64": 52}
"""Mantissa bits of the scale at which a dtype is computed; 23 for all others."""

DOCS = {
    "mul": """Multiply, by adding the operands' logarithms.

The product is at most 1/9 below the exact one and never above it: [-1/9, 0], mean -3.85 %, worst where both mantissas
are 1.5. It is exact where an operand is a power of two.

Integers: of 2^k + p and 2^l + q, with s = (p << l) + (q << k), the product is s + max(s, 2^(k + l)), by sign and
magnitude. It wraps only where it does not fit.
""",
    "square": """Multiply a number by itself: `mitchell_mul(a, a)`.

At most 1/9 below the exact square and never above it: [-1/9, 0], mean -3.83 %. Integers as for `mitchell_mul`.
""",
    "div": """Divide, by subtracting the operands' logarithms.

The quotient is at most 1/8 above the exact one and never below it: [0, 1/8], mean +4.10 %, worst at 1 / 1.5. It undoes
`mitchell_mul`: where nothing leaves the range, dividing a product of floats by one factor gives the other.
""",
    "reciprocal": """1 / a, by negating the logarithm: `mitchell_div(1, a)`.

At most 1/8 above the exact value and never below it: [0, 1/8], mean +8.33 %; y (1 - y) / 2 at the mantissa 1 + y.
""",
    "sqrt": """Square root, by halving the logarithm.

At most 3 / (2 sqrt 2) - 1 = 6.07 % above the exact root, worst at odd powers of two, exact at even ones; mean +2.02 %.
Halving drops a bit, so it may be one unit in the last place below that. nan where a < 0.
""",
    "rsqrt": """1 / sqrt(a), by halving and negating the logarithm.

At most 4 sqrt(6) / 9 - 1 = 8.87 % above the exact value, mean +6.16 %, worst at 8/3 times a power of four. Halving
drops a bit. nan where a < 0, inf at 0 with its sign.
""",
    "log2": """Binary logarithm: the exponent plus the mantissa's fraction.

At most 0.0860713 below the exact logarithm and never above it, worst at the mantissa 1 / ln 2, exact at powers of two;
mean -0.0573 (absolute), and the result is rounded once. -inf at 0, nan where a < 0.
""",
    "exp2": """2^a: the fraction of a becomes the mantissa.

At most 2 / (e ln 2) - 1 = 6.15 % above the exact power and never below it, exact at integers; mean +4.07 %. a is
rounded to the mantissa's last place.
""",
    "pow": """a^p, by multiplying the logarithm by p.

With p > 0 the relative error lies within [2^(-0.0860713 p) - 1, +6.15 %], with p < 0 within
[0, 1.061476 * 2^(0.0860713 |p|) - 1]. The product p log2(a) is formed in double precision. Signs, zeros, infinities and
nan are those of C's `pow`.
""",
}

COMMON = """
Floats: signs and special values are those of the exact operation (0, inf, nan), without warnings, and nan is always
the same nan. A subnormal operand is normalised first; a result below the smallest normal number is a zero, above the
largest an infinity. {dtypes}

The bits do not depend on the backend, the ISA level or the strides. Source: Mitchell (1962). Correction: {correction}.
`fastk.mitchell_error({op!r})` has the error as data.

Examples
--------
>>> import fastk
>>> {example}
"""

EXAMPLES = {
    "mul": "fastk.mitchell_mul([3, 12.3], [3, 4.56]).round(2)\narray([ 8.  , 53.68])",
    "square": "int(fastk.mitchell_square(3))\n8",
    "div": "float(fastk.mitchell_div(1.0, 1.5))\n0.75",
    "reciprocal": "float(fastk.mitchell_reciprocal(1.5))\n0.75",
    "sqrt": "fastk.mitchell_sqrt([2.0, 4.0])\narray([1.5, 2. ])",
    "rsqrt": "fastk.mitchell_rsqrt([2.0, 4.0])\narray([0.75, 0.5 ])",
    "log2": "fastk.mitchell_log2([8.0, 12.0])\narray([3. , 3.5])",
    "exp2": "fastk.mitchell_exp2([3.0, 3.5])\narray([ 8., 12.])",
    "pow": "float(fastk.mitchell_pow(1.5, 2.0))\n2.0",
}


def _docstring(op: str, correction: Correction) -> str:
    dtypes = "bfloat16 (ml_dtypes) works where it is installed."
    if op not in PRODUCTS:
        dtypes += " Integers are taken as float64."
    if correction == resolve(op, None):
        return DOCS[op] + COMMON.format(dtypes=dtypes, correction="none", op=op, example=EXAMPLES[op])
    text = "Mitchell's second pass" if correction.refined else f"a bias of {correction.bias}"
    head = f"{DOCS[op].splitlines()[0]}\n\nAs `mitchell_{op}`, with a correction: {text}.\n"
    return head + f"`mitchell_error` says what is left of the error.\n\n{dtypes}\n"


def _bfloat16() -> np.dtype[Any] | None:
    try:
        from ml_dtypes import bfloat16
    except ImportError:
        return None
    dtype: np.dtype[Any] = np.dtype(bfloat16)
    return dtype


def _places(bias: float, dtype: str) -> int:
    """A bias in units of the last place of `dtype`, at the scale it is computed at."""
    scale = SCALE_BITS.get(dtype, 23)
    own = MANTISSA_BITS.get(dtype, scale)
    places: int = round(bias * 2.0**own)
    return places << (scale - own)


def _loop_address(backend: str, op: int, dtype: int, refined: bool) -> int:
    if backend == "c":
        return c.mitchell_loop()
    from ._backend.numba.mitchell import mitchell_loop

    address: int = mitchell_loop(op, dtype, refined)
    return address


_making = threading.RLock()


@cache
def _made(backend: str, op: str, correction: Correction) -> np.ufunc:
    code, operands, loops = OPS.index(op), 1 + (op in TWO_OPERANDS), []

    def add(operand: np.dtype[Any], result: np.dtype[Any]) -> None:
        dtype, scale = DTYPES.index(operand.name), result.name
        bias, log_bias = _places(correction.bias, scale), _places(correction.log_bias, scale)
        address = _loop_address(backend, code, dtype, correction.refined)
        data = code, dtype, int(correction.refined), bias, log_bias
        loops.append(Loop(address, data, [operand] * operands, result))

    for character in "bBhHiIlLqQ":
        integer = np.dtype(character)
        add(integer, integer if op in PRODUCTS else np.dtype(np.float64))
    for character in "efd":
        add(np.dtype(character), np.dtype(character))
    if bfloat16 := _bfloat16():
        add(bfloat16, bfloat16)

    # With a bias, a product with 1 is not the other operand.
    identity = 1 if op == "mul" and not correction.bias else None
    name = f"mitchell_{op}"
    if correction != resolve(op, None):
        name += "_refined" if correction.refined else f"_bias({correction.bias!r})"
    return make_ufunc(name, _docstring(op, correction), loops, identity=identity)


def _ufunc_of(backend: str, op: str, correction: str | float | None = None) -> np.ufunc:
    with _making:
        return _made(backend, op, resolve(op, correction))


def mitchell_ufunc(op: str, correction: str | float | None = None) -> np.ufunc:
    """Return the ufunc of an operation with a correction of Mitchell's error.

    Parameters
    ----------
    op : {"mul", "square", "div", "reciprocal", "sqrt", "rsqrt", "log2", "exp2", "pow"}
        With None for the correction it is `fastk.mitchell_mul`, and so on.
    correction : {None, "minimax", "unbiased", "lmul", "refined"} or float
        A bias d is a constant that is added to the result's bits, as a fraction of one mantissa unit: d * 2^m bits with
        m mantissa bits (for log2: to the value). A float gives d, from -0.5 to 0.5; "minimax" is the d with the
        smallest largest error, "unbiased" that with mean error 0 for uniform mantissas, and "lmul" is 1/16, the choice
        of "Addition is All You Need" (for the others than products, the bias that keeps them consistent with it).
        "refined" is no bias but a second pass: the term that the first one dropped, by another Mitchell
        operation. A bias is free but in powers, a second pass takes some five times as long.

    Returns
    -------
    numpy.ufunc
        The same object each time. Dtypes are int8 to int64 and uint8 to uint64 (for "mul" and "square"; the others take
        integers as float64), float16, float32, float64, and bfloat16 if ml_dtypes is installed.

    Raises
    ------
    TypeError, ValueError
        If `op` or `correction` is none of these.

    See Also
    --------
    mitchell_error : the bounds of each.

    Notes
    -----
    With a bias d >= 0, the error of a product lies in [8 / (3 - d)^2 - 1, d]. Integers: the product's magnitude is
    rounded down, and d is a multiple of 2^-23.

    Examples
    --------
    >>> import fastk
    >>> unbiased = fastk.mitchell_ufunc("mul", "unbiased")
    >>> float(unbiased(1.5, 1.5).round(4))
    2.1132
    >>> float(fastk.mitchell_ufunc("mul", "refined")(1.5, 1.5))
    2.25
    """
    return _ufunc_of(str(config()["backend"]), op, correction)


class _Products(NamedTuple):
    """What products of two dtypes are computed in."""

    kind: str
    operand: np.dtype[Any]
    sum: np.dtype[Any]


_SMALL_INTEGERS = (np.dtype(np.int8), np.dtype(np.uint8))
_NARROW_FLOATS = ("float16", "bfloat16", "float32")
_FACTORS = (*_NARROW_FLOATS, "float64", "int8", "uint8")


@cache
def _products(a: np.dtype[Any], b: np.dtype[Any], names: str) -> _Products:
    single, double, whole = np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.int32)
    if a.name not in _FACTORS or b.name not in _FACTORS:
        raise TypeError(f"{names}: dtypes {a} and {b}; allowed are {', '.join(_FACTORS[:-1])} and {_FACTORS[-1]}")
    if a in _SMALL_INTEGERS and b in _SMALL_INTEGERS:
        return _Products("i32", single, whole)  # all of them are floats, and so are their products
    if "float64" in (a.name, b.name):
        return _Products("f64", double, double)
    return _Products("f32", single, single)


@lru_cache(maxsize=64)
def _options(correction: Correction, products: _Products) -> tuple[int, int]:
    return _places(correction.bias, products.sum.name), int(correction.refined)


_room = threading.local()
_PIECE = 1 << 21
"""Products that are worth a thread."""


def _call(name: str, *arguments: Any) -> None:
    """Call a kernel with this thread's work space, made larger if it asks for that."""
    kernel = getattr(kernels, name)
    work = getattr(_room, "work", None)
    if work is None:
        work = _room.work = np.empty(1 << 16, np.uint8)
    if needed := kernel(*arguments, work, work.size):
        work = _room.work = np.empty(needed, np.uint8)
        if kernel(*arguments, work, work.size):
            raise MemoryError(f"{name}: no work space of {needed} bytes")


def _pieces(length: int, count: int, multiple: int) -> list[slice]:
    """`count` stretches of 0 .. length, at multiples."""
    step = -(-length // (count * multiple)) * multiple
    return [slice(i, min(i + step, length)) for i in range(0, length, step)]


def _gemm(a: NDArray[Any], b: NDArray[Any], c: NDArray[Any], products: _Products, correction: Correction) -> None:
    """Stacks of matrices, one axis of stacking; the largest extent is split over the threads."""
    (stack, m, k), n = a.shape, b.shape[2]
    name = f"mitchell_gemm_{products.kind}"
    options = _options(correction, products)
    count = split(stack * m * n * k, _PIECE)
    if count == 1:
        _call(name, a, b, c, stack, m, n, k, *options)
        return
    axis = 0 if stack >= count or max(m, n) < 64 else 1 if m > n else 2
    parts = _pieces((stack, m, n)[axis], count, (1, 24, 32)[axis])

    def run(i: int) -> None:
        part, every = parts[i], slice(None)
        rows = [a[part], a[:, part], a][axis]
        columns = [b[part], b, b[:, :, part]][axis]
        sums = c[(*[every] * axis, part)]
        _call(name, rows, columns, sums, *sums.shape, k, *options)

    parallel(run, len(parts))


def _stacked(*arrays: NDArray[Any]) -> Iterator[tuple[NDArray[Any], ...]]:
    """Stacks of the same shape with one axis of stacking, the longest there is after merging, as often as it takes."""
    axes: list[tuple[int, list[int]]] = []
    for i, length in enumerate(arrays[0].shape[:-2]):
        steps = [array.strides[i] for array in arrays]
        if axes and axes[-1][1] == [step * length for step in steps]:
            axes[-1] = axes[-1][0] * length, steps
        elif length != 1:
            axes.append((length, steps))
    axes = sorted(axes, key=lambda axis: axis[0]) or [(1, [0] * len(arrays))]
    lengths = [length for length, _ in axes]
    views = [
        np.lib.stride_tricks.as_strided(
            array, (*lengths, *array.shape[-2:]), (*(steps[i] for _, steps in axes), *array.strides[-2:])
        )
        for i, array in enumerate(arrays)
    ]
    for index in np.ndindex(*lengths[:-1]):
        yield tuple(view[index] for view in views)


def mitchell_matmul(
    a: ArrayLike, b: ArrayLike, *, correction: str | float | None = None, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Multiply matrices by Mitchell products.

    Parameters
    ----------
    a, b : array_like
        Shapes as for `numpy.matmul`: (..., m, k) and (..., k, n), stacks broadcast, and a vector is a row on the left
        and a column on the right. float16, bfloat16, float32, float64, int8 or uint8; read where they are, whatever
        their strides, but for a conversion of the narrow types.
    correction : {None, "minimax", "unbiased", "lmul", "refined"} or float
        As for `mitchell_ufunc`. "refined" takes some forty times as long as the others.
    out : ndarray, optional
        Where to write the result, of its shape and of a dtype that it casts to (kind for kind: float16 is allowed).

    Returns
    -------
    ndarray
        (..., m, n), in the dtype of the sums: float32 for float32, float16 and bfloat16, float64 for float64, and int32
        for int8 and uint8.

    Raises
    ------
    TypeError, ValueError
        If the dtypes, shapes, the correction or `out` are none of these.

    Notes
    -----
    C[i, j] is the sum over k, in increasing order from +0, of ``mitchell_mul(a[i, k], b[k, j])``, rounded after each
    addition. So the bits do not depend on the backend, the ISA level or the threads. Integer products do not wrap at
    8 bits, and integer sums wrap at 32. Each product is off by [-1/9, 0]; scaling the result by 1.04 takes out the
    bias of uniform mantissas, and so does ``correction="unbiased"``, which costs nothing.

    Zeros, infinities, nans, subnormals and products that leave the range are right, and cost time only in the blocks
    that have them (of a vector and a matrix: that have numbers below 2^-32 or above 2^32 too; doubles 2^-256 and
    2^256). Uses as many threads as `fastk.config` says. Source: Mitchell (1962); Mogami, "Deep Neural Network Training
    without Multiplications", 2020.

    Examples
    --------
    >>> import fastk
    >>> fastk.mitchell_matmul([[3.0, 1.0], [0.0, 5.0]], [[3.0, 2.0], [1.0, 0.5]])
    array([[9. , 6.5],
           [5. , 2.5]])
    """
    method = resolve("mul", correction)
    a, b = np.asarray(a), np.asarray(b)
    if not (a.ndim and b.ndim):
        raise ValueError(f"a, b: shapes {a.shape} and {b.shape}; allowed are arrays of at least one dimension")
    products = _products(a.dtype, b.dtype, "a, b")
    left = a[None] if a.ndim == 1 else a
    right = b[:, None] if b.ndim == 1 else b
    if left.shape[-1] != right.shape[-2]:
        raise ValueError(f"a, b: shapes {a.shape} and {b.shape}; {left.shape[-1]} columns meet {right.shape[-2]} rows")
    try:
        stack = np.broadcast_shapes(left.shape[:-2], right.shape[:-2]) if left.ndim + right.ndim > 4 else ()
    except ValueError:
        raise ValueError(f"a, b: shapes {a.shape} and {b.shape}; the stacks do not broadcast") from None
    squeezed = (*stack, *left.shape[-2:-1][: a.ndim > 1], *right.shape[-1:][: b.ndim > 1])
    check_out(out, squeezed, products.sum)

    output = Output(out, squeezed, products.sum, a, b)
    left, right = readable(left, products.operand), readable(right, products.operand)
    full = output.array.reshape((*stack, left.shape[-2], right.shape[-1]))
    if full.size:
        if not stack:
            _gemm(left[None], right[None], full[None], products, method)
            return output.delivered()
        left = np.broadcast_to(left, (*stack, *left.shape[-2:]))
        right = np.broadcast_to(right, (*stack, *right.shape[-2:]))
        for rows, columns, sums in _stacked(left, right, full):
            _gemm(rows, columns, sums, products, method)
    return output.delivered()


def mitchell_dot(
    a: ArrayLike, b: ArrayLike, *, correction: str | float | None = None, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Dot product by Mitchell products: `mitchell_matmul` with the axes of `numpy.dot`.

    Parameters
    ----------
    a, b : array_like
        As for `numpy.dot`: the sum is over the last axis of `a` and the last but one of `b` (the only one of a
        vector), and the other axes are those of `a`, then those of `b`. Dtypes as for `mitchell_matmul`. If one is a
        scalar, the result is `mitchell_mul`'s.
    correction : {None, "minimax", "unbiased", "lmul", "refined"} or float
        As for `mitchell_ufunc`.
    out : ndarray, optional
        As for `mitchell_matmul`.

    Returns
    -------
    ndarray
        In the dtype of the sums, as for `mitchell_matmul` (with a scalar, in that of `mitchell_mul`). The order of
        summation and the error are the same too.

    Raises
    ------
    TypeError, ValueError
        As `mitchell_matmul`.

    Examples
    --------
    >>> import fastk
    >>> float(fastk.mitchell_dot([3.0, 1.0], [3.0, 0.5]))
    8.5
    """
    a, b = np.asarray(a), np.asarray(b)
    if not (a.ndim and b.ndim):
        product: NDArray[Any] = np.asarray(mitchell_ufunc("mul", correction)(a, b))
        check_out(out, product.shape, product.dtype)
        if out is None:
            return product
        np.copyto(out, product, casting="same_kind")
        return out
    if b.ndim <= 2 and a.ndim <= 2:
        return mitchell_matmul(a, b, correction=correction, out=out)
    inner = a.shape[-1]
    columns = np.moveaxis(b, -2, 0) if b.ndim > 1 else b[:, None]
    if columns.shape[0] != inner:
        raise ValueError(f"a, b: shapes {a.shape} and {b.shape}; {inner} columns meet {columns.shape[0]} rows")
    shape = (*a.shape[:-1], *(columns.shape[1:] if b.ndim > 1 else ()))
    products = _products(a.dtype, b.dtype, "a, b")
    check_out(out, shape, products.sum)
    output = Output(out, shape, products.sum, a, b)
    left = a.reshape(math.prod(a.shape[:-1]), inner)
    right = columns.reshape(inner, math.prod(columns.shape[1:]))
    output.array[...] = mitchell_matmul(left, right, correction=correction).reshape(shape)
    return output.delivered()


def _pair(value: Any, name: str, least: int) -> tuple[int, int]:
    """One number for both, or two: of rows and of columns."""
    both = tuple(value) if np.ndim(value) else (value, value)
    if len(both) != 2:
        raise ValueError(f"{name}={value!r}: allowed are one number and two")
    return integer(both[0], name, least, 2**31 - 1), integer(both[1], name, least, 2**31 - 1)


def mitchell_conv2d(
    x: ArrayLike,
    w: ArrayLike,
    *,
    stride: SupportsIndex | Sequence[SupportsIndex] = 1,
    padding: SupportsIndex | Sequence[SupportsIndex] = 0,
    dilation: SupportsIndex | Sequence[SupportsIndex] = 1,
    groups: SupportsIndex = 1,
    correction: str | float | None = None,
) -> NDArray[Any]:
    """Two-dimensional convolution (cross-correlation, as in deep learning) by Mitchell products.

    Parameters
    ----------
    x : array_like, shape (N, C, H, W)
        Images. Dtypes as for `mitchell_matmul`.
    w : array_like, shape (O, C / groups, KH, KW)
        Weights.
    stride, padding, dilation : int or pair of ints
        Of rows and of columns. The padding, with zeros, is at both ends.
    groups : int
        Divides C and O; output channels see the input channels of their group alone. ``groups=C`` is depthwise.
    correction : {None, "minimax", "unbiased", "lmul", "refined"} or float
        As for `mitchell_ufunc`.

    Returns
    -------
    ndarray, shape (N, O, (H + 2 padding - dilation (KH - 1) - 1) // stride + 1, ...)
        In the dtype of the sums, as for `mitchell_matmul`.

    Raises
    ------
    TypeError, ValueError
        If a shape, dtype or number does not fit.

    Notes
    -----
    Each output is the sum over channel, row and column of the kernel, in this order, from +0, rounded after each
    addition: the same bits as `mitchell_matmul` of the weights and the unfolded image. The image is unfolded a tile
    at a time. Zeros of the padding are zeros like any other, so an infinite weight that meets one gives nan.

    Examples
    --------
    >>> import fastk
    >>> import numpy as np
    >>> fastk.mitchell_conv2d(np.ones((1, 1, 3, 3)), np.full((1, 1, 3, 3), 1.5), padding=1)[0, 0]
    array([[ 6. ,  9. ,  6. ],
           [ 9. , 13.5,  9. ],
           [ 6. ,  9. ,  6. ]])
    """
    method = resolve("mul", correction)
    x, w = np.asarray(x), np.asarray(w)
    if x.ndim != 4 or w.ndim != 4:
        raise ValueError(f"x, w: shapes {x.shape} and {w.shape}; allowed are (N, C, H, W) and (O, C / groups, KH, KW)")
    products = _products(x.dtype, w.dtype, "x, w")
    (images, channels, *image), (m, *kernel) = x.shape, w.shape
    parts = integer(groups, "groups", 1)
    steps, pads, gaps = _pair(stride, "stride", 1), _pair(padding, "padding", 0), _pair(dilation, "dilation", 1)
    if channels % parts or m % parts or kernel[0] != channels // parts:
        raise ValueError(
            f"x, w: shapes {x.shape} and {w.shape} with groups={parts}; groups must divide {channels} and {m} "
            f"channels, and the weights have {kernel[0]} channels a group"
        )
    if 0 in kernel[1:]:
        raise ValueError(f"w: shape {w.shape}; the kernel has no elements")
    spans = [gap * (size - 1) + 1 for gap, size in zip(gaps, kernel[1:], strict=True)]
    room = [size + 2 * pad - span for size, pad, span in zip(image, pads, spans, strict=True)]
    if min(room) < 0:
        raise ValueError(
            f"x: {image[0]} x {image[1]} pixels and padding {pads}; the kernel spans {spans[0]} x {spans[1]}"
        )
    out_h, out_w = (left // step + 1 for left, step in zip(room, steps, strict=True))
    out = np.zeros((images, m, out_h * out_w), products.sum)
    if out.size and kernel[0]:
        weights = np.ascontiguousarray(readable(w, products.operand)).reshape(m, -1)
        geometry = (kernel[1], kernel[2], out_w, *steps, *pads, *gaps)
        _convolve(readable(x, products.operand), weights, out, parts, geometry, products, method)
    return out.reshape(images, m, out_h, out_w)


def _convolve(
    x: NDArray[Any],
    weights: NDArray[Any],
    out: NDArray[Any],
    groups: int,
    geometry: tuple[int, ...],
    products: _Products,
    correction: Correction,
) -> None:
    """Images, groups or output pixels are split over the threads, whichever there are enough of."""
    (images, m, pixels), k = out.shape, weights.shape[1]
    options = _options(correction, products)
    count = split(out.size * k, _PIECE)
    by_images, by_groups = images >= count, groups >= count
    length, multiple = (images, 1) if by_images else (groups, 1) if by_groups else (pixels, 32)
    parts = _pieces(length, count, multiple)

    def run(i: int) -> None:
        part, planes, rows, c, first, own = parts[i], x, weights, out, 0, groups
        if by_images:
            planes, c = x[part], out[part]
        elif by_groups:
            own = part.stop - part.start
            inputs, outputs = x.shape[1] // groups, m // groups
            channels = slice(part.start * outputs, part.stop * outputs)
            planes, rows, c = x[:, part.start * inputs : part.stop * inputs], weights[channels], out[:, channels]
        else:
            c, first = out[:, :, part], part.start
        sizes = (*planes.shape, rows.shape[0], k, c.shape[2], first, own)
        _call(f"mitchell_conv_{products.kind}", planes, rows, c, *sizes, *geometry, *options)

    parallel(run, len(parts))


def __getattr__(name: str) -> np.ufunc:
    op = name.removeprefix("mitchell_")
    if name != op and op in OPS:
        # Made when first used: on numba, making it takes its compiler.
        globals()[name] = ufunc = mitchell_ufunc(op)
        return ufunc
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
