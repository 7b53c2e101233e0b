"""Arrays as kernels take them: what can be read where it is, and what can be written."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def readable(a: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """`a`, or a copy of that dtype if it has another one or is misaligned."""
    if a.dtype == dtype and a.flags.aligned:
        return a
    with np.errstate(all="ignore"):  # a signalling nan is not worth a warning
        return np.require(a, dtype, "A")


_LINE = 64
"""Bytes of a cache line."""


def aligned(size: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Memory for so many elements that begins with a cache line: vectors that straddle two take twice as long."""
    spare = _LINE // dtype.itemsize
    memory: NDArray[Any] = np.empty(size + spare, dtype)
    first = -memory.ctypes.data % _LINE // dtype.itemsize
    return memory[first : first + size]


def check_out(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """TypeError or ValueError if a result of this shape and dtype cannot go there."""
    if out is None:
        return
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out={out!r}: an array is needed")
    if out.shape != shape:
        raise ValueError(f"out: shape {out.shape}; allowed is {shape}")
    if out.dtype != dtype and (out.dtype.kind in "OSUT" or not np.can_cast(dtype, out.dtype, "same_kind")):
        raise TypeError(f"out: dtype {out.dtype}; allowed is what {dtype} casts to")
    if not out.flags.writeable:
        raise ValueError("out: the array is read-only")


def _same_elements(a: NDArray[Any], b: NDArray[Any]) -> bool:
    place, other = a.__array_interface__["data"][0], b.__array_interface__["data"][0]
    return place == other and a.strides == b.strides and a.dtype == b.dtype


class Output:
    """An array that a kernel can write, and how it gets to where it was asked for.

    It is apart from the inputs, or, in place, the very elements of one.
    """

    def __init__(
        self,
        out: NDArray[Any] | None,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        *inputs: NDArray[Any],
        in_place: bool = False,
    ) -> None:
        self.array: NDArray[Any]
        self.out: NDArray[Any]
        if out is None:
            self.array = self.out = np.empty(shape, dtype)
            return
        apart = all(
            (in_place and out is a) or not np.may_share_memory(out, a) or (in_place and _same_elements(out, a))
            for a in inputs
        )
        self.array = out if apart and out.dtype == dtype and out.flags.aligned else np.empty(shape, dtype)
        self.out = out

    def delivered(self) -> NDArray[Any]:
        """The array that was asked for, filled."""
        if self.array is not self.out:
            with np.errstate(all="ignore"):
                np.copyto(self.out, self.array, casting="same_kind")
        return self.out
