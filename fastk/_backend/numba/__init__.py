"""Binds the table of kernels to numba: the same kernels in Python, compiled when first used and cached on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numba
import numpy as np

from ..kernels import KERNELS, Kernel, Parameter
from . import hadamard, hamming, lsh, mitchell_gemm, project, records, taylor

MODULES = (records, mitchell_gemm, taylor, hadamard, project, hamming, lsh)

# Positions and sizes are signed here: numba turns uint64 combined with int64 into float64.
SCALARS = dict.fromkeys(("size", "fanout", "bits", "u32", "i64", "flag"), numba.int64)
SCALARS |= {"u64": numba.uint64, "u8": numba.uint8}
ARRAYS = {np.uint8: numba.uint8, np.uint16: numba.uint16, np.uint32: numba.uint32, np.uint64: numba.uint64}
ARRAYS |= {np.int32: numba.int32, np.int64: numba.int64, np.float32: numba.float32, np.float64: numba.float64}


def _array(parameter: Parameter) -> Any:
    layout, dimensions = ("A", len(parameter.extents)) if parameter.strided else ("C", 1)
    return numba.types.Array(ARRAYS[parameter.dtype], dimensions, layout, readonly=parameter.constant)


def _signature(kernel: Kernel) -> Any:
    types = [SCALARS[p.kind] if p.dtype is None else _array(p) for p in kernel.parameters]
    return (numba.void if kernel.returns == "void" else numba.int64)(*types)


def _flat(parameter: Parameter, array: np.ndarray[Any, Any]) -> Iterable[Any]:
    return (array if parameter.strided else array.reshape(-1),)


def bind(name: str) -> Callable[..., Any]:
    """One kernel, compiled for the types of its row, its arguments checked. It runs without the GIL."""
    kernel = KERNELS[name]
    python = next(getattr(module, name) for module in MODULES if hasattr(module, name))
    compiled = numba.njit(_signature(kernel), nogil=True, cache=True)(python)
    if kernel.returns == "void":
        return kernel.checked(compiled, _flat)

    def unsigned(*arguments: Any) -> int:
        return int(compiled(*arguments)) % 2**64

    return kernel.checked(unsigned, _flat)
