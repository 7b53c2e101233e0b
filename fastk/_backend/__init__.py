"""Picks the backend and hands out its kernels: ``kernels.find_byte(...)`` runs on C or on numba."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from . import c
from .kernels import KERNELS

BACKENDS = ("c", "numba")


class Kernels:
    """Kernels of one backend as attributes, bound when first used, so that numba is imported only if it serves."""

    def __init__(self, backend: str) -> None:
        self.backend = backend

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in KERNELS:
            raise AttributeError(f"no kernel {name!r}")
        if self.backend == "c":
            bound = c.bind(name)
        else:
            from . import numba

            bound = numba.bind(name)
        setattr(self, name, bound)
        return bound

    def bind(self, names: Iterable[str]) -> None:
        """Bind kernels now, so that what numba's compiler takes is taken before memory is planned."""
        for name in names:
            getattr(self, name)


def choose(backend: str, isa: str) -> tuple[str, str | None]:
    """Resolve the two settings to a backend and an ISA level (None on numba), or raise ImportError saying why not."""
    if backend not in ("auto", *BACKENDS):
        raise ImportError(f"FASTK_BACKEND={backend!r}: allowed are auto, c, numba")
    if isa not in ("auto", *c.ISA_LEVELS):
        raise ImportError(f"FASTK_ISA={isa!r}: allowed are auto, {', '.join(c.ISA_LEVELS)}")
    if backend == "c" and c.lib is None:
        raise ImportError(f"FASTK_BACKEND='c': the compiled core is not installed ({c.MISSING})")
    if backend == "numba" or c.lib is None:
        if isa != "auto":
            raise ImportError(f"FASTK_ISA={isa!r}: the numba backend has no ISA levels; only auto is allowed")
        return "numba", None
    levels = c.available_isa()
    if isa != "auto" and isa not in levels:
        raise ImportError(f"FASTK_ISA={isa!r}: this machine has {', '.join(levels)}")
    return "c", levels[-1] if isa == "auto" else isa
