"""Backend, ISA level and threads: read from the environment once, at import.

``FASTK_BACKEND=auto|c|numba``, ``FASTK_ISA=auto|base|v3|v4`` and ``FASTK_NUM_THREADS=N``. A value that is unknown or
that this machine does not have raises ImportError.
"""

from __future__ import annotations

import os
from typing import Any, SupportsIndex

from . import _backend
from ._backend import c
from ._check import integer
from ._version import __version__

__all__ = ["config", "get_num_threads", "kernels", "set_num_threads"]


def _available_cpus() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def _threads_from_environment() -> int:
    text = os.environ.get("FASTK_NUM_THREADS", "")
    if not text:
        return _available_cpus()
    if not text.isdecimal() or int(text) < 1:
        raise ImportError(f"FASTK_NUM_THREADS={text!r}: allowed are whole numbers from 1 up")
    return int(text)


_backend_name, _isa = _backend.choose(
    os.environ.get("FASTK_BACKEND", "") or "auto", os.environ.get("FASTK_ISA", "") or "auto"
)
if _isa is not None:
    c.select_isa(_isa)
_threads = _threads_from_environment()

kernels = _backend.Kernels(_backend_name)
"""The kernels of the backend in use."""


def set_num_threads(n: SupportsIndex) -> None:
    """Set how many threads a call may use.

    Parameters
    ----------
    n : int
        At least 1. The result of a kernel does not depend on it.

    Raises
    ------
    TypeError
        If `n` is not an integer.
    ValueError
        If `n` is less than 1.

    Examples
    --------
    >>> import fastk
    >>> before = fastk.config()["threads"]
    >>> fastk.set_num_threads(1)
    >>> fastk.config()["threads"]
    1
    >>> fastk.set_num_threads(before)
    """
    global _threads
    _threads = integer(n, "n", least=1)


def get_num_threads() -> int:
    """Return how many threads a call may use."""
    return _threads


def config() -> dict[str, Any]:
    """Return what this installation runs on.

    Returns
    -------
    dict
        ``version``; ``backend``, "c" or "numba"; ``isa``, the level of the C kernels ("base", "v3" or "v4"; None on
        numba); ``isa_available``, the levels that this machine has; ``compiler``, what built the C core (None without
        it); ``threads``.

    Examples
    --------
    >>> import fastk
    >>> fastk.config()["backend"] in ("c", "numba")
    True
    """
    return {
        "version": __version__,
        "backend": _backend_name,
        "isa": _isa,
        "isa_available": list(c.available_isa()),
        "compiler": c.compiler() if c.lib is not None else None,
        "threads": _threads,
    }
