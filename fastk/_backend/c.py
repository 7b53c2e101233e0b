"""Binds the table of kernels to the compiled core."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from .kernels import KERNELS, Parameter

ISA_LEVELS = ("base", "v3", "v4")

ffi: Any = None
lib: Any = None
MISSING: str | None = None
"""Why there is no compiled core, if there is none."""
try:
    _core = import_module("fastk._c")
except ImportError as error:
    MISSING = str(error)
else:
    ffi, lib = _core.ffi, _core.lib

POINTERS: dict[Any, str] = {np.uint8: "uint8_t", np.uint16: "uint16_t", np.uint32: "uint32_t", np.uint64: "uint64_t"}
POINTERS |= {np.int32: "int32_t", np.int64: "int64_t", np.float32: "float", np.float64: "double"}


def available_isa() -> tuple[str, ...]:
    """Levels that this machine has, lowest first."""
    return ISA_LEVELS[: lib.fastk_isa_max() + 1] if lib else ()


def select_isa(isa: str) -> None:
    """Make the kernels of one level the active ones, for the whole process."""
    if lib.fastk_isa_select(ISA_LEVELS.index(isa)) < 0:
        raise ValueError(f"isa={isa!r}: this machine has {', '.join(available_isa())}")


def compiler() -> str:
    """Compiler that built the core, with its version."""
    return str(ffi.string(lib.fastk_compiler()).decode())


def _buffer(parameter: Parameter) -> Callable[[Any], Any]:
    return partial(ffi.from_buffer, POINTERS[parameter.dtype] + "[]")


def _strided(parameter: Parameter, array: np.ndarray[Any, Any]) -> Iterable[Any]:
    element = POINTERS[parameter.dtype]
    if array.flags.c_contiguous and array.size:
        return ffi.from_buffer(element + "[]", array), *array.strides
    address = array.__array_interface__["data"][0]
    return ffi.cast(element + "*", address), *array.strides


def bind(name: str) -> Callable[..., Any]:
    """One kernel of the active level, its arguments checked. It runs without the GIL."""
    return KERNELS[name].checked(getattr(lib, f"fastk_{name}"), _strided, _buffer)


def mitchell_loop() -> int:
    """Address of the ufunc loop, which is one for all: its data says what it serves."""
    return int(ffi.cast("uintptr_t", ffi.addressof(lib, "fastk_mitchell_loop")))
