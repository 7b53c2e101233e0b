"""Splits one call over a few threads that are kept for the next."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from .config import get_num_threads

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_size = 0


def _forget() -> None:
    """A forked child has none of its parent's threads."""
    global _lock, _pool
    _lock, _pool = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _pool_of(size: int) -> ThreadPoolExecutor:
    """A pool of at least so many threads. One that is too small ends when the last call that uses it does."""
    global _pool, _size
    with _lock:
        if _pool is None or _size < size:
            _pool, _size = ThreadPoolExecutor(size, thread_name_prefix="fastk"), size
        return _pool


def split(work: int, least: int) -> int:
    """How many pieces to make of so much work, none of them smaller than the least that is worth a thread."""
    return max(1, min(get_num_threads(), work // least))


def parallel(function: Callable[[int], None], pieces: int) -> None:
    """Call ``function(0)`` to ``function(pieces - 1)``, one of them in this thread, and return when all have."""
    if pieces == 1:
        return function(0)
    pool = _pool_of(pieces - 1)
    others: list[Future[None]] = []
    try:
        for i in range(1, pieces):
            try:
                others.append(pool.submit(function, i))
            except RuntimeError:  # the interpreter is ending, and starts no more threads
                function(i)
        function(0)
    finally:
        wait(others)
    for other in others:
        other.result()
