"""Reading an output again, to see that it holds the records that were read."""

from __future__ import annotations

import errno
import os

import numpy as np

from .._backend.kernels import TALLY_FIELDS
from ..config import kernels
from .checksum import MODULUS, as_number
from .inputs import Inputs
from .options import RecordFormat
from .plan import Plan, Workspace
from .records import Block, Buffers, Source
from .scatter import CHECK_LOW, U64
from .workers import Crew, Turn


class VerificationError(OSError):
    """The output does not hold the records of the input."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(errno.EIO, f"verification failed: {why}; there is no output", path)


class Verifier:
    """Counts the records of files and, if asked, sums their hashes, on all threads."""

    def __init__(
        self, files: Inputs, form: RecordFormat, plan: Plan, workspace: Workspace, crew: Crew, hashed: bool = True
    ) -> None:
        self.source = Source(files, form, None, crew.check, hashed)
        self._hashed = hashed
        self._plan = plan
        self._crew = crew
        workspace.reset()
        self._waiting = [Buffers(workspace, plan) for _ in range(crew.threads)]
        self._reading = Turn(crew)
        self._steps = 0
        self.records = 0
        self.check = 0

    def run(self) -> None:
        """Read everything."""
        try:
            self._crew.run(self._work)
        finally:
            self.source.close()

    def _work(self) -> None:
        with self._crew.changed:
            buffers = self._waiting.pop()
            tally = np.zeros((1, len(TALLY_FIELDS)), np.uint64)
        while True:
            self._crew.check()
            with self._crew.changed:
                step = self._steps
                self._steps += 1
            with self._reading.of(step):
                block = self.source.read(buffers, self._plan.block)
            if block is None:
                return
            found = self._hash(block, buffers, tally) if self._hashed else 0
            with self._crew.changed:
                self.records += block.records
                self.check = (self.check + found) % MODULUS


    @staticmethod
    def _hash(block: Block, buffers: Buffers, tally: U64) -> int:
        buffers.bucket[: block.records] = 0
        tally[:] = 0
        kernels.records_checksum(
            buffers.block, buffers.start, buffers.size, buffers.bucket, block.records, 1, tally
        )  # fmt: skip
        return as_number(tally[0, CHECK_LOW : CHECK_LOW + 2]) + block.check


def forget(path: str) -> None:
    """Have the file read from disk the next time, not from memory."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.fdatasync(fd)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        os.close(fd)
