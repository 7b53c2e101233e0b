"""Splits one call over a few threads that are kept for the next."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from .config import get_num_threads

_pool: ThreadPoolExecutor | None = None
_size = 0


def _forget() -> None:
    """A forked child has none of its parent's threads."""
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def split(work: int, least: int) -> int:
    """How many pieces to make of so much work, none of them smaller than the least that is worth a thread."""
    return max(1, min(get_num_threads(), work // least))


def parallel(function: Callable[[int], None], pieces: int) -> None:
    """Call ``function(0)`` to ``function(pieces - 1)``, the first in this thread, and return when all have."""
    global _pool, _size
    if pieces == 1:
        return function(0)
    if _pool is None or _size < pieces - 1:
        if _pool is not None:
            _pool.shutdown(wait=False)
        _pool, _size = ThreadPoolExecutor(pieces - 1, thread_name_prefix="fastk"), pieces - 1
    others = [_pool.submit(function, i) for i in range(1, pieces)]
    try:
        function(0)
    finally:
        for other in others:
            other.exception()
    for other in others:
        other.result()
