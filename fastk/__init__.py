"""Numeric kernels that state their bounds and give the same bits everywhere, and an out-of-core shuffle of records.

The functions that need more than the standard library are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._version import __version__
from .config import config, set_num_threads

if TYPE_CHECKING:
    from . import shuffle
    from .shuffle import ShuffleReport, shuffle_file

__all__ = ["ShuffleReport", "__version__", "config", "set_num_threads", "shuffle", "shuffle_file"]

_LAZY = {"shuffle_file": "shuffle", "ShuffleReport": "shuffle"}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "shuffle":
        return import_module(".shuffle", __name__)
    if name in _LAZY:
        return getattr(import_module("." + _LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
