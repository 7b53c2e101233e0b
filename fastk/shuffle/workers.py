"""A few threads that pass ordered steps: everything that is the same for scattering and gathering."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

POLL_SECONDS = 0.05


class CancelledError(Exception):
    """Raised in a worker when another one failed or the caller was interrupted."""


class Turn:
    """Lets steps 0, 1, 2, ... through a section of code one at a time and in this order."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._next = 0

    @contextmanager
    def of(self, step: int) -> Iterator[None]:
        """Wait until all earlier steps have left, and leave at the end."""
        with self._crew.changed:
            while self._next != step:
                self._crew.check()
                self._crew.changed.wait()
        yield
        with self._crew.changed:
            self._next = step + 1
            self._crew.changed.notify_all()


class Crew:
    """Runs the same work on several threads; the first failure stops them all and is raised in the caller."""

    def __init__(self, threads: int, poll: Callable[[], None] = lambda: None) -> None:
        self.threads = threads
        self.changed = threading.Condition()
        self._poll = poll
        self._error: BaseException | None = None
        self._stop = False

    def check(self) -> None:
        """Raise CancelledError if the work is to stop."""
        if self._stop:
            raise CancelledError

    def _fail(self, error: BaseException | None) -> None:
        with self.changed:
            self._stop = True
            self._error = self._error or error
            self.changed.notify_all()

    def run(self, work: Callable[[], None], threads: int | None = None) -> None:
        """Call ``work()`` on each thread, and ``poll()`` in this one until they have returned."""

        def guarded() -> None:
            try:
                work()
            except CancelledError:
                pass
            except BaseException as error:
                self._fail(error)
            finally:
                with self.changed:
                    ended.append(True)
                    self.changed.notify_all()

        ended: list[bool] = []
        count = self.threads if threads is None else threads
        running = [threading.Thread(target=guarded, name=f"fastk-{i}", daemon=True) for i in range(count)]
        try:
            for thread in running:
                thread.start()
            while len(ended) < count:
                with self.changed:
                    self.changed.wait_for(lambda: len(ended) == count, POLL_SECONDS)
                self._poll()
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            # Not by Thread.join, which takes a thread for ended when a signal's handler raised in it (bpo-45274). One
            # that has no number yet sees that it is to stop before it does anything.
            with self.changed:
                while len(ended) < sum(thread.ident is not None for thread in running):
                    self.changed.wait(POLL_SECONDS)
        if self._error is not None:
            raise self._error
