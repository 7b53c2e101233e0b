"""Numeric kernels that state their bounds and give the same bits everywhere, and an out-of-core shuffle of records.

The functions that need more than the standard library are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._version import __version__
from .config import config, set_num_threads

if TYPE_CHECKING:
    from . import attention, mitchell, shuffle, softmax
    from .attention import taylor_attention
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
    from .softmax import (
        TaylorError,
        TaylorMinimum,
        fast_softmax,
        fast_softmax_error,
        gelu,
        log_taylor_softmax,
        log_taylor_softmax_vjp,
        taylor_cross_entropy,
        taylor_cross_entropy_vjp,
        taylor_error,
        taylor_exp,
        taylor_minimum,
        taylor_softmax,
        taylor_softmax_vjp,
    )

__all__ = [
    "MitchellError",
    "ShuffleReport",
    "TaylorError",
    "TaylorMinimum",
    "__version__",
    "attention",
    "config",
    "fast_softmax",
    "fast_softmax_error",
    "gelu",
    "log_taylor_softmax",
    "log_taylor_softmax_vjp",
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
    "softmax",
    "taylor_attention",
    "taylor_cross_entropy",
    "taylor_cross_entropy_vjp",
    "taylor_error",
    "taylor_exp",
    "taylor_minimum",
    "taylor_softmax",
    "taylor_softmax_vjp",
]

_MODULES = ("attention", "mitchell", "shuffle", "softmax")
_LAZY = dict.fromkeys(("shuffle_file", "ShuffleReport"), "shuffle") | {"taylor_attention": "attention"}
_LAZY |= {name: "mitchell" for name in __all__ if name.lower().startswith("mitchell") and name != "mitchell"}
_LAZY |= {name: "softmax" for name in __all__ if name not in _LAZY and name not in _MODULES}


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
