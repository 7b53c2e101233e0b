"""Makes ``numpy.ufunc`` objects from loop pointers, through NumPy's C API.

The two functions used have stood at the same place of the API table since NumPy 1.0, so no NumPy header is needed and
one build serves 1.26 and 2.x.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

FROM_FUNC_AND_DATA = 1
REGISTER_LOOP_FOR_TYPE = 2
IDENTITIES = {1: 1, None: -1}
"""PyUFunc_One and PyUFunc_None."""


class Loop(NamedTuple):
    """One inner loop: address, int64 fields that it gets as its data, dtypes of the operands and of the result."""

    address: int
    data: Sequence[int]
    operands: Sequence[np.dtype[Any]]
    result: np.dtype[Any]


def _api() -> Any:
    try:
        core = import_module("numpy._core._multiarray_umath")
    except ImportError:
        core = import_module("numpy.core._multiarray_umath")
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return ctypes.cast(pointer(core._UFUNC_API, None), ctypes.POINTER(ctypes.c_void_p))


_FROM_FUNC_AND_DATA = ctypes.PYFUNCTYPE(
    ctypes.py_object,
    ctypes.c_void_p,  # loops
    ctypes.c_void_p,  # their data
    ctypes.c_void_p,  # type numbers
    ctypes.c_int,  # loops
    ctypes.c_int,  # operands
    ctypes.c_int,  # results
    ctypes.c_int,  # identity
    ctypes.c_char_p,  # name
    ctypes.c_char_p,  # docstring
    ctypes.c_int,  # unused
)
_REGISTER_LOOP_FOR_TYPE = ctypes.PYFUNCTYPE(
    ctypes.c_int, ctypes.py_object, ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int), ctypes.c_void_p
)

_kept: list[Any] = []
"""What NumPy points into for as long as a ufunc lives: for good, since ufuncs are made once each."""


def make_ufunc(name: str, doc: str, loops: Sequence[Loop], identity: int | None = None) -> np.ufunc:
    """A ufunc of one result. Loops of NumPy's own dtypes come in the order in which NumPy is to look for one."""
    data = [(ctypes.c_int64 * len(loop.data))(*loop.data) for loop in loops]
    own = [i for i, loop in enumerate(loops) if loop.result.isbuiltin == 1]
    functions = (ctypes.c_void_p * len(own))(*(loops[i].address for i in own))
    pointers = (ctypes.c_void_p * len(own))(*(ctypes.addressof(data[i]) for i in own))
    numbers = bytes(dtype.num for i in own for dtype in (*loops[i].operands, loops[i].result))
    types = ctypes.create_string_buffer(numbers, len(numbers))
    texts = name.encode(), doc.encode()
    _kept.append((data, functions, pointers, types, texts))

    api = _api()
    inputs = len(loops[0].operands)
    create = _FROM_FUNC_AND_DATA(api[FROM_FUNC_AND_DATA])
    ufunc: np.ufunc = create(
        ctypes.cast(functions, ctypes.c_void_p),
        ctypes.cast(pointers, ctypes.c_void_p),
        ctypes.cast(types, ctypes.c_void_p),
        len(own),
        inputs,
        1,
        IDENTITIES[identity],
        *texts,
        0,
    )
    register = _REGISTER_LOOP_FOR_TYPE(api[REGISTER_LOOP_FOR_TYPE])
    for i, loop in enumerate(loops):
        if i not in own:
            kinds = (ctypes.c_int * (inputs + 1))(*(dtype.num for dtype in (*loop.operands, loop.result)))
            register(ufunc, loop.result.num, loop.address, kinds, ctypes.addressof(data[i]))
    return ufunc
