"""Numeric kernels that state their bounds and give the same bits everywhere, and an out-of-core shuffle of records.

The functions that need more than the standard library are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._version import __version__
from .config import config, set_num_threads

if TYPE_CHECKING:
    from . import mitchell, shuffle
    from .mitchell import (
        MitchellError,
        mitchell_conv2d,
        mitchell_div,
        mitchell_dot,
        mitchell_error,
        mitchell_exp2,
        mitchell_log2,
        mitchell_matmul,
        mitchell_mul,
        mitchell_pow,
        mitchell_reciprocal,
        mitchell_rsqrt,
        mitchell_sqrt,
        mitchell_square,
        mitchell_ufunc,
    )
    from .shuffle import ShuffleReport, shuffle_file

__all__ = [
    "MitchellError",
    "ShuffleReport",
    "__version__",
    "config",
    "mitchell",
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
    "set_num_threads",
    "shuffle",
    "shuffle_file",
]

_MODULES = ("mitchell", "shuffle")
_LAZY = {"shuffle_file": "shuffle", "ShuffleReport": "shuffle", "MitchellError": "mitchell"}
_LAZY |= {name: "mitchell" for name in __all__ if name.startswith("mitchell_")}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _MODULES:
        return import_module("." + name, __name__)
    if name in _LAZY:
        globals()[name] = value = getattr(import_module("." + _LAZY[name], __name__), name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
