"""Where scattered records wait for their turn: in memory while they fit, else in private files, one a bucket."""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .plan import format_size

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PAGE = 4096
MOST_PIECES = 1024
"""Pieces of one call: the least limit that systems have."""
Extent = tuple[int, int]
"""Offset and length of a piece of a file."""
FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE = 1, 2

U64 = npt.NDArray[np.uint64]
U8 = npt.NDArray[np.uint8]


class NoSpaceError(OSError):
    """A file system is full.

    Attributes
    ----------
    filename : str
        The path that was written.
    missing : int
        Bytes that were still to be written there, as far as they are known.
    """

    def __init__(self, cause: OSError, path: str, what: str, missing: int, advice: str) -> None:
        directory = os.path.dirname(path) or "."
        try:
            free = f", where {format_size(shutil.disk_usage(directory).free)} is free"
        except OSError:
            free = ""
        least = f"{format_size(missing)} ({missing} bytes) more was needed" if missing else "more was needed"
        why = os.strerror(cause.errno or 0)
        super().__init__(cause.errno, f"{why} while writing {what}: {least}{free}; {advice}", path)
        self.missing = missing


def write_pieces(fd: int, pieces: Sequence[memoryview], offset: int | None) -> None:
    """Write all pieces one after the other, at `offset` or (None) where the file stands."""
    rest = list(pieces)
    while rest:
        some = rest[:MOST_PIECES]
        written = os.writev(fd, some) if offset is None else os.pwritev(fd, some, offset)
        if offset is not None:
            offset += written
        done = 0
        while done < len(rest) and written >= len(rest[done]):
            written -= len(rest[done])
            done += 1
        del rest[:done]
        if written:
            rest[0] = rest[0][written:]


def read_exactly(fd: int, into: memoryview, offset: int, path: str) -> None:
    """Fill `into` from the file; OSError if it ends too early."""
    done = 0
    while done < len(into):
        count = os.preadv(fd, [into[done:]], offset + done)
        if count == 0:
            raise OSError(errno.EIO, "the file has become shorter", path)
        done += count


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Give the blocks of a range back to the file system, where it can do that."""
    try:
        fallocate = ctypes.CDLL(None, use_errno=True).fallocate
    except (OSError, AttributeError):
        return
    fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length)


@dataclass
class Bucket:
    """What a bucket holds and where it goes.

    ``fanouts`` is the number of buckets at each level down to this one, ``first`` the output offset of its first byte.
    """

    index: int
    fanouts: tuple[int, ...]
    gap_bits: int
    records: int
    scratch_bytes: int
    output_bytes: int
    first: int
    store: Store


class Store:
    """Frames of the buckets of one scatter. Space is reserved in the order of the input, under the scatter's turn."""

    in_memory = False

    def __init__(self, fanout: int) -> None:
        self.fanout = fanout
        self.writing: AbstractContextManager[object] = nullcontext()
        self.previous: U64 = np.full(fanout, 2**64 - 1, np.uint64)
        self.totals: U64 = np.zeros((fanout, 3), np.uint64)

    def link(self, tally: U64, gap_bits: int) -> tuple[U64, U64]:
        """Chain a batch to what came before: the bytes of each bucket, and the record numbers before its first ones."""
        gap_max = np.uint64(2**gap_bits - 1)
        some = tally[:, 0] > 0
        skipped: U64 = (tally[:, 3] - self.previous - np.uint64(1)) // gap_max * some.astype(np.uint64)
        sizes: U64 = tally[:, 1] + skipped * np.uint64(4)
        before = self.previous.copy()
        self.previous[some] = tally[some, 4]
        self.totals[:, 0] += tally[:, 0]
        self.totals[:, 1] += sizes
        self.totals[:, 2] += tally[:, 2]
        return sizes, before

    def reserve(self, sizes: U64) -> U64:
        """Where a batch's frames begin, bucket by bucket."""
        raise NotImplementedError

    def write(self, index: int, pieces: list[memoryview], offset: int) -> None:
        """Write pieces of a bucket, one after the other, where they were reserved."""
        raise NotImplementedError

    def reading(self, bucket: Bucket) -> AbstractContextManager[tuple[int, list[Extent], str]]:
        """The open file that holds a bucket, where in it the frames are, and its path."""
        raise NotImplementedError

    def finish(self) -> None:
        """No more is written."""

    def buckets(self, fanouts: tuple[int, ...], gap_bits: int, first: int) -> Iterator[Bucket]:
        """The buckets that are not empty, in the order of the output."""
        for index, (records, scratch_bytes, output_bytes) in enumerate(self.totals.tolist()):
            if records:
                yield Bucket(index, fanouts, gap_bits, records, scratch_bytes, output_bytes, first, self)
            first += output_bytes


class Regions(Store):
    """Frames of each bucket in a region of its own; one that overflows goes on in extents behind the last region."""

    def __init__(self, fanout: int, first: int, region: int) -> None:
        super().__init__(fanout)
        self.region = region
        self._begins: U64 = np.uint64(first) + np.arange(fanout, dtype=np.uint64) * np.uint64(region)
        self.ends = self._begins.copy()
        self._limits: U64 = self._begins + np.uint64(region)
        self._tail = first + fanout * region
        self._extents: dict[int, list[Extent]] = {}

    def _overflowing(self, sizes: U64) -> list[int]:
        return [int(index) for index in np.flatnonzero(self.ends + sizes > self._limits)]

    def _extent(self, size: int) -> int:
        """Bytes of a new extent for so many bytes."""
        return max(size, self.region // 8)

    def reserve(self, sizes: U64) -> U64:
        for index in self._overflowing(sizes):
            begin, end = int(self._begins[index]), int(self.ends[index])
            self._extents.setdefault(index, []).append((begin, end - begin))
            self._begins[index] = self.ends[index] = self._tail
            self._tail += self._extent(int(sizes[index]))
            self._limits[index] = self._tail
        begins: U64 = self.ends.copy()
        self.ends += sizes
        return begins

    def extents_of(self, index: int) -> list[Extent]:
        """Where a bucket's frames are, in the order of the input."""
        begin, end = int(self._begins[index]), int(self.ends[index])
        return [*self._extents.get(index, []), (begin, end - begin)]


class MemoryStore(Regions):
    """Frames that stay in an arena. What a bucket took is given back once it is written, for the output to use."""

    in_memory = True

    def __init__(self, fanout: int, arena: U8, give_back: Callable[[int, int], None]) -> None:
        super().__init__(fanout, 0, len(arena) * 23 // 24 // fanout)
        self.arena = arena
        self._give_back = give_back

    def room(self, sizes: U64) -> bool:
        """Whether that much still fits."""
        extents = sum(self._extent(int(sizes[index])) for index in self._overflowing(sizes))
        return self._tail + extents <= len(self.arena)

    def segments_of(self, index: int) -> U64:
        """Stretches of the arena that hold a bucket, in the order of the input: an array of (begin, end)."""
        return np.array([(begin, begin + size) for begin, size in self.extents_of(index)], np.uint64)

    def release(self, index: int) -> None:
        """The bucket's frames are no longer needed."""
        for begin, size in self.extents_of(index):
            self._give_back(begin, size)


class FileStore(Store):
    """Frames in files, one a bucket, spread over the scratch directories."""

    def __init__(self, fanout: int, scratch: Scratch, label: str) -> None:
        super().__init__(fanout)
        self._scratch = scratch
        self._label = label
        self.ends: U64 = np.zeros(fanout, np.uint64)
        self._fds: dict[int, int] = {}
        self._opening = threading.Lock()

    def path(self, index: int) -> str:
        """File of a bucket."""
        return self._scratch.path(f"{self._label}{index:04d}", index)

    def reserve(self, sizes: U64) -> U64:
        """Offsets in the buckets' files at which a batch's frames begin."""
        begins: U64 = self.ends.copy()
        self.ends += sizes
        return begins

    def write(self, index: int, pieces: list[memoryview], offset: int) -> None:
        fd = self._fds.get(index)
        if fd is None:
            with self._opening:
                fd = self._fds.get(index)
                if fd is None:
                    fd = self._fds[index] = self._scratch.create(self.path(index))
        self._scratch.write(fd, pieces, offset, self.path(index))

    def finish(self) -> None:
        with self._opening:
            for fd in self._fds.values():
                os.close(fd)
            self._fds.clear()

    def adopt(self, memory: MemoryStore) -> None:
        """Take over what a store in memory holds, and its place in the record numbers."""
        self.previous, self.totals = memory.previous, memory.totals
        view = memoryview(memory.arena)
        for index in range(self.fanout):
            pieces = [view[begin : begin + size] for begin, size in memory.extents_of(index) if size]
            self.ends[index] = sum(map(len, pieces))
            if pieces:
                self.write(index, pieces, 0)

    @contextmanager
    def reading(self, bucket: Bucket) -> Iterator[tuple[int, list[Extent], str]]:
        """The open file of a bucket, where in it the bucket's frames are, and its path; it is deleted afterwards."""
        path = self.path(bucket.index)
        fd = self._scratch.open(path)
        try:
            yield fd, [(0, bucket.scratch_bytes)], path
        finally:
            os.close(fd)
        self._scratch.delete(path)


class RegionStore(Regions):
    """Frames in the very file that becomes the output: a region a bucket, each behind the place of its own output.

    A bucket's output is written when its frames, and those of all buckets before it, are in memory, so it only covers
    what has been used; the pages of the file are used twice and no more disk is needed than the data and the frames'
    words take.
    """

    def __init__(self, fanout: int, scratch: Scratch, fd: int, path: str, region: int) -> None:
        region = -(-region // PAGE) * PAGE
        super().__init__(fanout, region, region)
        # One batch at a time: a file has one lock, and threads that take it in turns write slower than one alone.
        self.writing = threading.Lock()
        self.fd = fd
        self._scratch = scratch
        self._path = path

    def write(self, index: int, pieces: list[memoryview], offset: int) -> None:
        self._scratch.write(self.fd, pieces, offset, self._path)

    def output_fits(self, output_bytes: Sequence[int]) -> bool:
        """Whether the output of each bucket ends before the region of the next one begins."""
        starts = (np.arange(self.fanout, dtype=np.uint64) + np.uint64(2)) * np.uint64(self.region)
        return bool(np.all(np.cumsum(np.array(output_bytes, np.uint64)) <= starts))

    @contextmanager
    def reading(self, bucket: Bucket) -> Iterator[tuple[int, list[Extent], str]]:
        """The file, where in it a bucket's frames are, and its path."""
        yield self.fd, self.extents_of(bucket.index), self._path


class Scratch:
    """The private directories of one run, made when first needed and removed at the end."""

    def __init__(self, directories: Sequence[str | os.PathLike[str]], expected: int) -> None:
        self._parents = [os.fspath(d) for d in directories]
        self._made: list[str] = []
        self._expected = expected
        self._lock = threading.Lock()
        self.written = 0
        self.held = 0
        self.peak = 0

    @property
    def parents(self) -> list[str]:
        """The directories in which the private ones are made."""
        return self._parents

    def directory(self, index: int = 0) -> str:
        """A private directory; `index` spreads files over them."""
        with self._lock:
            for parent in self._parents[len(self._made) :]:
                # Noted before it is made: a signal between the two must not leave it behind.
                self._made.append(os.path.join(parent, f"fastk-shuffle-{secrets.token_hex(8)}"))
                try:
                    os.mkdir(self._made[-1], 0o700)
                except OSError as error:
                    raise OSError(error.errno, f"cannot make scratch files: {error.strerror}", parent) from error
            return self._made[index % len(self._made)]

    def path(self, name: str, index: int = 0) -> str:
        """Path of a scratch file."""
        return os.path.join(self.directory(index), name)

    def create(self, path: str) -> int:
        """Open a new scratch file for writing."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def open(self, path: str) -> int:
        """Open a scratch file for reading."""
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)

    def write(self, fd: int, pieces: list[memoryview], offset: int, path: str) -> None:
        """Write pieces one after the other, counting; NoSpaceError when the file system is full."""
        size = sum(map(len, pieces))
        try:
            write_pieces(fd, pieces, offset)
        except OSError as error:
            if error.errno in NO_SPACE:
                missing = max(size, self._expected - self.written)
                advice = "free some space, or name other directories with --tmp (tmp=)"
                raise NoSpaceError(error, path, "scratch", missing, advice) from error
            raise OSError(error.errno, error.strerror, path) from error
        with self._lock:
            self.written += size
            self.held += size
            self.peak = max(self.peak, self.held)

    def consumed(self, size: int) -> None:
        """Count scratch that has been given back."""
        with self._lock:
            self.held -= size

    def delete(self, path: str) -> None:
        """Delete a file, which has been used."""
        os.unlink(path)

    def remove(self) -> None:
        """Remove everything."""
        for directory in self._made:
            shutil.rmtree(directory, ignore_errors=True)


def default_directory(output: str | os.PathLike[str] | None) -> str:
    """TMPDIR if it is set, else beside the output: /tmp is often small or in memory."""
    if os.environ.get("TMPDIR"):
        return os.environ["TMPDIR"]
    if output is None:
        return tempfile.gettempdir()
    return str(Path(output).resolve().parent)

