"""Records of the inputs: a stream of blocks that end at a record's end, and single records read again by offset.

The inputs form one stream, in the order given, with the delimiter that an input lacks at its end added there. Offsets
are into that stream.
"""

from __future__ import annotations

import bisect
import errno
import itertools
import os
import select
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..config import kernels
from .plan import SLACK, Plan, Workspace
from .scratch import PAGE, Bucket, Extent, Scratch, punch_hole, read_exactly

STDIN, STDIN_FD = "-", 0
BY_REFERENCE = 0x80000000
REFERENCE_BYTES = 16
NEVER = 0x7FFFFFFF
"""A reference size that no record of a block reaches."""
READ_BYTES = 1 << 20
"""Bytes of a block that are read at a time: what a second-level cache keeps."""
WAIT_MILLISECONDS = 50
SAMPLES = 16
SAMPLE_BYTES = 64 * 1024


class InputChangedError(OSError):
    """An input was not the same file, or not of the same size or time, when it was read again."""


class Buffers:
    """Memory of one thread that scatters: a block, and the records found in it."""

    def __init__(self, workspace: Workspace, plan: Plan) -> None:
        self.block = workspace.cut(plan.block + SLACK)
        self.view = memoryview(self.block)
        self.start = workspace.cut(plan.records, np.uint32)
        self.size = workspace.cut(plan.records, np.uint32)
        self.number = workspace.cut(plan.records, np.uint64)
        self.bucket = workspace.cut(plan.records, np.uint16)


@dataclass
class Block:
    """Records in the buffers they were read into.

    ``offset`` is that of the buffer's first byte in the stream, ``first`` the number of the first record; None says
    that the buffers hold a number for each.
    """

    records: int
    offset: int
    first: int | None


@dataclass(frozen=True)
class _Identity:
    device: int
    inode: int
    size: int
    modified: int

    @classmethod
    def of(cls, status: os.stat_result) -> _Identity:
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class Inputs:
    """The files to be shuffled, checked before anything is written."""

    def __init__(self, paths: Sequence[str | os.PathLike[str]]) -> None:
        self.paths = [os.fspath(path) for path in paths]
        if self.paths.count(STDIN) > 1:
            raise ValueError("inputs: '-' (standard input) can be given once")
        self.identities: list[_Identity] = []
        self.regular = True
        self._sizes: list[int | None] = []
        for path in self.paths:
            status = os.fstat(STDIN_FD) if path == STDIN else self._probe(path)
            self.identities.append(_Identity.of(status))
            regular = stat.S_ISREG(status.st_mode)
            self.regular &= regular and path != STDIN
            self._sizes.append(max(0, status.st_size - self._begin(path)) if regular else None)

    @staticmethod
    def _begin(path: str) -> int:
        return os.lseek(STDIN_FD, 0, os.SEEK_CUR) if path == STDIN else 0

    @staticmethod
    def _probe(path: str) -> os.stat_result:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if stat.S_ISREG(status.st_mode):
            os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        elif not os.access(path, os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return status

    @property
    def total(self) -> int | None:
        """Bytes of all inputs; None if one of them does not say."""
        sizes = [size for size in self._sizes if size is not None]
        return sum(sizes) if len(sizes) == len(self._sizes) else None

    def open(self, index: int) -> int:
        """Open an input for reading; regular files must still be the ones that were checked."""
        path = self.paths[index]
        if path == STDIN:
            return os.dup(STDIN_FD)
        # Without blocking, because a named pipe may have no writer yet; _read waits for it.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self.check(index, fd)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def check(self, index: int, fd: int) -> None:
        """InputChangedError unless the open file is the one that was checked at the start, unchanged."""
        status = os.fstat(fd)
        path = self.paths[index]
        if stat.S_ISREG(status.st_mode) and path != STDIN and _Identity.of(status) != self.identities[index]:
            raise InputChangedError(errno.EIO, "the input changed while it was shuffled; nothing was written", path)

    def mean_record(self, delimiter: int) -> float:
        """Estimate of the mean record size, from samples spread over the inputs. It affects speed alone."""
        total = self.total
        if not total:
            return 1.0
        buffer = np.empty(SAMPLE_BYTES, np.uint8)
        read = found = 0
        ends = list(itertools.accumulate(size or 0 for size in self._sizes))
        for sample in range(SAMPLES):
            at = total * sample // SAMPLES
            index = bisect.bisect_right(ends, at)
            fd = self.open(index)
            try:
                within = at - (ends[index - 1] if index else 0)
                count = os.preadv(fd, [memoryview(buffer)], self._begin(self.paths[index]) + within)
            finally:
                os.close(fd)
            read += count
            found += kernels.count_byte(buffer, count, delimiter)
            if total <= SAMPLE_BYTES:
                break
        return read / max(found, 1)


class Source:
    """Reads the inputs block by block; one thread at a time."""

    def __init__(self, inputs: Inputs, delimiter: int, scratch: Scratch, check: Callable[[], None]) -> None:
        self.inputs = inputs
        self.delimiter = delimiter
        self.bytes_read = 0
        self.records = 0
        self._scratch = scratch
        self._check = check
        self._carry = b""
        self._position = 0
        self._starts: list[int] = []
        self._fd: int | None = None
        self._index = -1
        self._last = delimiter
        self._spool: tuple[int, str] | None = None
        self._spooled = 0

    def close(self) -> None:
        """Close what is open."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        if self._spool is not None:
            os.close(self._spool[0])
            self._spool = None

    def _read(self, view: memoryview) -> int:
        """Next bytes of the stream; 0 at its end."""
        while True:
            if self._fd is None:
                if self._index + 1 == len(self.inputs.paths):
                    return 0
                self._index += 1
                self._fd = self.inputs.open(self._index)
                self._starts.append(self._position)
                self._last = self.delimiter
            try:
                if not self.inputs.regular:
                    self._wait(self._fd)
                count = os.readv(self._fd, [view])
            except BlockingIOError:
                continue
            except OSError as error:
                raise OSError(error.errno, error.strerror, self.inputs.paths[self._index]) from error
            if count:
                self._last = view[count - 1]
                self._position += count
                self.bytes_read += count
                return count
            self.inputs.check(self._index, self._fd)
            os.close(self._fd)
            self._fd = None
            if self._last != self.delimiter:
                view[0] = self.delimiter
                self._position += 1
                return 1

    def _wait(self, fd: int) -> None:
        """Wait for a pipe or terminal to have something, or its end; the run can be interrupted meanwhile."""
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        while not poll.poll(WAIT_MILLISECONDS):
            self._check()

    def read(self, buffers: Buffers, limit: int) -> Block | None:
        """Fill the buffers with whole records, of at most `limit` bytes together; None at the end."""
        view, block = buffers.view, buffers.block
        filled = len(self._carry)
        view[:filled] = self._carry
        offset = self._position - filled
        found = end = scanned = 0
        while True:
            # Piece by piece, so that delimiters are looked for while the bytes are in the cache.
            count = kernels.split_delimited(
                block, filled, end, scanned, self.delimiter, buffers.start[found:], buffers.size[found:],
                len(buffers.start) - found,
            )  # fmt: skip
            if count:
                found += count
                end = int(buffers.start[found - 1]) + int(buffers.size[found - 1])
            scanned = filled
            if filled == limit or found == len(buffers.start):
                break
            self._check()
            # No more than the records' arrays are likely to hold: what is left over is carried on.
            likely = (len(buffers.start) - found) * self._position // (self.records + found or 1)
            count = self._read(view[filled : min(filled + max(PAGE, min(READ_BYTES, likely)), limit)])
            if count == 0:
                break
            filled += count
        if filled == 0:
            return None
        first = self.records
        if found == 0:
            self.records += 1
            return self._read_giant(buffers, filled, limit, offset, first)
        self.records += found
        self._carry = bytes(view[end:filled])
        return Block(found, offset, first)

    def _read_giant(self, buffers: Buffers, filled: int, limit: int, offset: int, first: int) -> Block:
        """A record that does not end in the block: it is read on to its end and passed on by reference."""
        length, begin, end = 0, offset if self.inputs.regular else self._spooled, filled
        while end == filled:
            length += filled
            self._keep(buffers.view[:filled])
            self._check()
            filled = self._read(buffers.view[:limit])
            end = kernels.find_byte(buffers.block, filled, self.delimiter)
        self._keep(buffers.view[: end + 1])
        self._carry = bytes(buffers.view[end + 1 : filled])
        descriptor = (length + end + 1) << 1 | 1
        buffers.block[:REFERENCE_BYTES].view(np.uint64)[:] = (descriptor, begin)
        buffers.start[0] = 0
        buffers.size[0] = REFERENCE_BYTES | BY_REFERENCE
        return Block(1, offset, first)

    def _keep(self, data: memoryview) -> None:
        """Save a piece of a giant record if it cannot be read again."""
        if self.inputs.regular:
            return
        if self._spool is None:
            path = self._scratch.path("giants")
            self._spool = self._scratch.create(path), path
        fd, path = self._spool
        self._scratch.write(fd, [data], self._spooled, path)
        self._spooled += len(data)

    def copy(self, offset: int, length: int, through: memoryview, write: Callable[[memoryview], None]) -> None:
        """Write a record that was passed on by reference; any thread."""
        if self._spool is not None:
            fd, path = self._spool
            for done in range(0, length, len(through)):
                piece = through[: min(len(through), length - done)]
                read_exactly(fd, piece, offset + done, path)
                self._check()
                write(piece)
            return
        index = bisect.bisect_right(self._starts, offset) - 1
        begin = offset - self._starts[index]
        here = min(length, self.inputs.identities[index].size - begin)
        fd = self.inputs.open(index)
        try:
            for done in range(0, here, len(through)):
                piece = through[: min(len(through), here - done)]
                read_exactly(fd, piece, begin + done, self.inputs.paths[index])
                self._check()
                write(piece)
            self.inputs.check(index, fd)
        finally:
            os.close(fd)
        if here < length:
            write(memoryview(bytes([self.delimiter])))


class BucketSource:
    """Reads a bucket's frames back, to split it again; one thread at a time."""

    def __init__(self, bucket: Bucket, fd: int, extents: list[Extent], path: str, scratch: Scratch) -> None:
        self._gap_bits = bucket.gap_bits
        self._scratch = scratch
        self._path = path
        self._fd = fd
        self._extents = extents
        self._carry = b""
        self._state = np.array([0, 2**64 - 1], np.uint64)
        self._mean = bucket.scratch_bytes / bucket.records
        self.bytes_read = 0

    def _fill(self, view: memoryview) -> int:
        """Read on into the view and give the space on disk back; the bytes read."""
        filled = 0
        while self._extents and filled < len(view):
            offset, length = self._extents[0]
            count = min(length, len(view) - filled)
            read_exactly(self._fd, view[filled : filled + count], offset, self._path)
            punch_hole(self._fd, offset, count)
            self._scratch.consumed(count)
            self._extents[:1] = [(offset + count, length - count)] if count < length else []
            filled += count
        return filled

    def read(self, buffers: Buffers, limit: int) -> Block | None:
        """Fill the buffers with whole frames and list their records; None at the end."""
        filled = len(self._carry)
        buffers.view[:filled] = self._carry
        wanted = max(filled + SLACK, int(self._mean * len(buffers.start)))
        while True:
            count = self._fill(buffers.view[filled : min(wanted, len(buffers.view))])
            filled += count
            if filled == 0:
                return None
            self._state[0] = 0
            records = kernels.split_frames(
                buffers.block, filled, self._gap_bits, self._state, buffers.start, buffers.size, buffers.number,
                len(buffers.start),
            )  # fmt: skip
            used = int(self._state[0])
            if used:
                break
            if count == 0:
                raise OSError(errno.EIO, "the scratch file is damaged", self._path)
            wanted *= 2
        self._carry = bytes(buffers.view[used:filled])
        self.bytes_read += used
        return Block(records, 0, None)

