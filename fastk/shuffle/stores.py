"""Where scattered records wait for their turn: in memory while they fit, else in private files, one a bucket."""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from .checksum import as_number
from .codecs import scratch_compress, scratch_decompress
from .scratch import PAGE, Scratch, punch_hole, read_exactly

PIECE = 512 * 1024
"""Bytes of scratch that are compressed at a time."""
SCRATCH_MEMORY = 3 << 20
"""Memory that a thread takes for that."""
PIECE_HEADER = struct.Struct("=QII")
"""Offset of a compressed piece among the bucket's frames, its bytes there and as they are stored."""
Extent = tuple[int, int]
"""Offset and length of a piece of a file."""

U64 = npt.NDArray[np.uint64]
U8 = npt.NDArray[np.uint8]


class FrameReader(Protocol):
    """Frames of a bucket, from the first one on."""

    path: str

    def readinto(self, view: memoryview, /) -> int:
        """Fill the view as far as that goes at once; the number of bytes, 0 at the end."""


class ExtentReader:
    """Reads stretches of a file, one after the other; what was read can be given back to the file system."""

    def __init__(self, fd: int, path: str, extents: list[Extent], scratch: Scratch | None = None) -> None:
        self.path = path
        self._fd = fd
        self._extents = list(extents)
        self._scratch = scratch

    def readinto(self, view: memoryview, /) -> int:
        while self._extents and not self._extents[0][1]:
            del self._extents[0]
        if not self._extents:
            return 0
        offset, length = self._extents[0]
        count = min(length, len(view))
        read_exactly(self._fd, view[:count], offset, self.path)
        if self._scratch is not None:
            punch_hole(self._fd, offset, count)
            self._scratch.consumed(count)
        self._extents[0] = (offset + count, length - count)
        return count


class PieceReader:
    """Reads compressed pieces, which say themselves what they are, in the order of the frames."""

    def __init__(self, fd: int, path: str, end: int) -> None:
        self.path = path
        self._fd = fd
        self._rest = memoryview(b"")
        self._pieces = sorted(self._list(end), reverse=True)
        self._at = 0

    def _list(self, end: int) -> Iterator[tuple[int, int, int, int]]:
        header, at = bytearray(PIECE_HEADER.size), 0
        while at < end:
            read_exactly(self._fd, memoryview(header), at, self.path)
            offset, size, stored = PIECE_HEADER.unpack(header)
            at += PIECE_HEADER.size
            if size > PIECE or stored > end - at:
                raise self._damaged()
            yield offset, size, at, stored
            at += stored

    def _damaged(self) -> OSError:
        return OSError(errno.EIO, "the scratch file is damaged", self.path)

    def readinto(self, view: memoryview, /) -> int:
        if not self._rest:
            if not self._pieces:
                return 0
            offset, size, at, stored = self._pieces.pop()
            data = bytearray(stored)
            read_exactly(self._fd, memoryview(data), at, self.path)
            if offset != self._at:
                raise self._damaged()
            try:
                self._rest = memoryview(scratch_decompress(data, size))
            except OSError as error:
                raise self._damaged() from error
            self._at += size
        count = min(len(view), len(self._rest))
        view[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


@dataclass
class Bucket:
    """What a bucket holds and where it goes.

    ``fanouts`` is the number of buckets at each level down to this one, ``first`` the output offset of its first byte
    and ``rank`` the number of its first record there. ``check`` is the sum of its records' hashes.
    """

    index: int
    fanouts: tuple[int, ...]
    gap_bits: int
    records: int
    scratch_bytes: int
    output_bytes: int
    first: int
    rank: int
    check: int
    store: Store


class Store:
    """Frames of the buckets of one scatter. Space is reserved in the order of the input, under the scatter's turn."""

    in_memory = False

    def __init__(self, fanout: int) -> None:
        self.fanout = fanout
        self.writing: AbstractContextManager[object] = nullcontext()
        self.previous: U64 = np.full(fanout, 2**64 - 1, np.uint64)
        self.totals: U64 = np.zeros((fanout, 3), np.uint64)
        self.checks: U64 = np.zeros((fanout, 2), np.uint64)

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
        self.checks[:, 0] += tally[:, 5]
        self.checks[:, 1] += tally[:, 6] + (self.checks[:, 0] < tally[:, 5])
        return sizes, before

    def reserve(self, sizes: U64) -> U64:
        """Where a batch's frames begin, bucket by bucket."""
        raise NotImplementedError

    def write(self, index: int, pieces: list[memoryview], offset: int) -> None:
        """Write pieces of a bucket, one after the other, where they were reserved."""
        raise NotImplementedError

    def reading(self, bucket: Bucket, give_back: bool = False) -> AbstractContextManager[FrameReader]:
        """The frames of a bucket, in the order of the input; if asked, what has been read is given back at once."""
        raise NotImplementedError

    def release(self, index: int) -> None:
        """The bucket's frames are no longer needed."""

    def finish(self) -> None:
        """No more is written."""

    def buckets(self, fanouts: tuple[int, ...], gap_bits: int, first: int, rank: int = 0) -> Iterator[Bucket]:
        """The buckets that are not empty, in the order of the output."""
        for index, (records, scratch_bytes, output_bytes) in enumerate(self.totals.tolist()):
            if records:
                check = as_number(self.checks[index])
                yield Bucket(index, fanouts, gap_bits, records, scratch_bytes, output_bytes, first, rank, check, self)
            first += output_bytes
            rank += records


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
        for begin, size in self.extents_of(index):
            self._give_back(begin, size)


class FileStore(Store):
    """Frames in files, one a bucket, spread over the scratch directories.

    ``kept`` files are not deleted when they have been read, but when they are released: a run that goes on with them
    may have to read them again.
    """

    def __init__(self, fanout: int, scratch: Scratch, label: str, compressed: bool = False, kept: bool = False) -> None:
        super().__init__(fanout)
        self.compressed = compressed
        self._kept = kept
        self._scratch = scratch
        self._label = label
        self.ends: U64 = np.zeros(fanout, np.uint64)
        self.stored: U64 = np.zeros(fanout, np.uint64)
        self._fds: dict[int, int] = {}
        self._lock = threading.Lock()

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
            with self._lock:
                fd = self._fds.get(index)
                if fd is None:
                    fd = self._fds[index] = self._open(index)
        if self.compressed:
            self._write_compressed(fd, index, pieces, offset)
        else:
            self._scratch.write(fd, pieces, offset, self.path(index))

    def _open(self, index: int) -> int:
        path = self.path(index)
        if self._kept and os.path.lexists(path):
            fd = self._scratch.open(path)
            os.ftruncate(fd, int(self.stored[index]))
            return fd
        return self._scratch.create(path)

    def _write_compressed(self, fd: int, index: int, pieces: list[memoryview], offset: int) -> None:
        for some in _portions(pieces, PIECE):
            size = sum(map(len, some))
            data = scratch_compress(some)
            with self._lock:
                at = int(self.stored[index])
                self.stored[index] += np.uint64(PIECE_HEADER.size + len(data))
            header = PIECE_HEADER.pack(offset, size, len(data))
            self._scratch.write(fd, [memoryview(header), memoryview(data)], at, self.path(index))
            offset += size

    def finish(self) -> None:
        if not self.compressed:
            self.stored[:] = self.ends
        if not self._kept:
            self.close()

    def close(self) -> None:
        """Close the files."""
        with self._lock:
            for fd in self._fds.values():
                os.close(fd)
            self._fds.clear()

    def sync(self) -> None:
        """What was written is on disk."""
        for fd in self._fds.values():
            try:
                os.fdatasync(fd)
            except OSError as error:
                raise OSError(error.errno, error.strerror, self._scratch.directory()) from error

    def state(self) -> dict[str, list[int]]:
        """What is in the files, for a run that goes on with them."""
        arrays = {"ends": self.ends, "stored": self.stored, "previous": self.previous}
        arrays |= {"totals": self.totals.ravel(), "checks": self.checks.ravel()}
        return {name: array.tolist() for name, array in arrays.items()}

    def restore(self, state: dict[str, list[int]], released: set[int]) -> None:
        """Take over the files of an earlier run, as far as they were complete then."""
        for name in ("ends", "stored", "previous", "totals", "checks"):
            array: U64 = getattr(self, name)
            array.flat[:] = np.array(state[name], np.uint64)
        for index in np.flatnonzero(self.totals[:, 0]).tolist():
            if index not in released:
                self._take_over(index, int(self.stored[index]))

    def _take_over(self, index: int, size: int) -> None:
        path = self.path(index)
        try:
            fd = self._scratch.open(path)
        except FileNotFoundError:
            why = "a scratch file of the earlier run is missing; --clean removes the rest, to begin anew"
            raise OSError(errno.ENOENT, why, path) from None
        self._fds[index] = fd
        if os.fstat(fd).st_size < size:
            raise OSError(errno.EIO, "a scratch file of the earlier run is cut short; --clean begins anew", path)
        os.ftruncate(fd, size)
        self._scratch.count(size)

    def adopt(self, memory: MemoryStore) -> None:
        """Take over what a store in memory holds, and its place in the record numbers."""
        self.previous, self.totals, self.checks = memory.previous, memory.totals, memory.checks
        view = memoryview(memory.arena)
        for index in range(self.fanout):
            pieces = [view[begin : begin + size] for begin, size in memory.extents_of(index) if size]
            self.ends[index] = sum(map(len, pieces))
            if pieces:
                self.write(index, pieces, 0)

    @contextmanager
    def reading(self, bucket: Bucket, give_back: bool = False) -> Iterator[FrameReader]:
        """The frames of a bucket; unless they are kept, they are deleted afterwards."""
        path = self.path(bucket.index)
        fd = self._scratch.open(path)
        try:
            if self.compressed:
                yield PieceReader(fd, path, int(self.stored[bucket.index]))
            else:
                give_back &= not self._kept
                yield ExtentReader(fd, path, [(0, bucket.scratch_bytes)], self._scratch if give_back else None)
        finally:
            os.close(fd)
        if not self._kept:
            self._delete(bucket.index, 0 if give_back and not self.compressed else int(self.stored[bucket.index]))

    def release(self, index: int) -> None:
        if self._kept and self.totals[index, 0]:
            self._delete(index, int(self.stored[index]))

    def _delete(self, index: int, size: int) -> None:
        self._scratch.delete(self.path(index))
        self._scratch.consumed(size)


def _portions(pieces: Sequence[memoryview], size: int) -> Iterator[list[memoryview]]:
    """The same bytes in portions of at most `size`."""
    portion: list[memoryview] = []
    room = size
    for piece in pieces:
        rest = piece
        while len(rest):
            portion.append(rest[:room])
            rest = rest[room:]
            room -= len(portion[-1])
            if room == 0:
                yield portion
                portion, room = [], size
    if portion:
        yield portion


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

    def output_fits(self, first: int, output_bytes: Sequence[int]) -> bool:
        """Whether the output of each bucket, from `first` on, ends before the region of the next one begins."""
        starts = (np.arange(self.fanout, dtype=np.uint64) + np.uint64(2)) * np.uint64(self.region)
        ends = np.cumsum(np.array(output_bytes, np.uint64)) + np.uint64(first)
        return bool(np.all(ends <= starts))

    @contextmanager
    def reading(self, bucket: Bucket, give_back: bool = False) -> Iterator[FrameReader]:
        """The frames of a bucket."""
        yield ExtentReader(self.fd, self._path, self.extents_of(bucket.index), self._scratch if give_back else None)
        if not give_back:
            self._scratch.consumed(bucket.scratch_bytes)
