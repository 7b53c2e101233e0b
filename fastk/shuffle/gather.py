"""Second pass: each bucket is put in the order of its keys and written where it belongs in the output."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import struct
import sys
import threading
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from ..config import kernels
from .plan import Plan, Workspace, bucket_cost
from .records import Source
from .scatter import Key
from .scratch import NO_SPACE, Bucket, Extent, MemoryStore, NoSpaceError, Scratch, read_exactly, write_pieces
from .workers import Crew, Turn

STDOUT, STDOUT_FD = "-", 1
LOAD_BYTES = 512 * 1024
"""Bytes of a bucket that are read at a time: what a second-level cache keeps."""

BEFORE_THE_FIRST = np.array([2**64 - 1], np.uint64)
"""The record number from which a bucket's first gap counts."""

U8 = npt.NDArray[np.uint8]
Write = Callable[[memoryview], None]
U64 = npt.NDArray[np.uint64]


class Output:
    """The output file: written under another name in its directory, and renamed when it is complete.

    Standard output and files that are not regular are written in order instead.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.name = os.fspath(path)
        self.expected = 0
        self.written = 0
        self._fd: int | None = None
        self._partial: str | None = None
        self._counting = threading.Lock()
        if self.name == STDOUT:
            self.ordered = True
            return
        self._target = os.path.realpath(self.name)
        try:
            status = os.stat(self._target)
        except FileNotFoundError:
            self.ordered = False
        else:
            if stat.S_ISDIR(status.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), self.name)
            self.ordered = not stat.S_ISREG(status.st_mode)
        directory = os.path.dirname(self._target)
        if not os.path.isdir(directory):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), directory)
        if not self.ordered and not os.access(directory, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), directory)

    @property
    def directory(self) -> str | None:
        """Where the output will be, if it is a file that can be written anywhere and renamed."""
        return None if self.ordered else os.path.dirname(self._target)

    def open(self, directory: str | None = None) -> None:
        """Start writing, in a directory of the same file system (None: where the output will be)."""
        if self.name == STDOUT:
            if sys.stdout is not None:
                sys.stdout.flush()
            self._fd = os.dup(STDOUT_FD)
        elif self.ordered:
            self._fd = os.open(self._target, os.O_WRONLY | os.O_CLOEXEC)
        else:
            beside, base = os.path.split(self._target)
            # a name of its own, so that two runs with one output do not write into each other's file
            partial = os.path.join(directory or beside, f".{base[:200]}.{secrets.token_hex(6)}.partial")
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            self._partial = partial  # noted before it is made: a signal between the two must not leave it behind
            self._fd = os.open(partial, flags, 0o666)

    @property
    def file(self) -> tuple[int, str]:
        """The open file and its path."""
        assert self._fd is not None
        return self._fd, self._partial or self.name

    def write(self, data: memoryview, offset: int) -> None:
        """Write a piece; `offset` is where it belongs, and where it comes next if the output is written in order."""
        assert self._fd is not None
        try:
            write_pieces(self._fd, [data], None if self.ordered else offset)
        except OSError as error:
            if error.errno in NO_SPACE:
                missing = max(len(data), self.expected - self.written)
                raise NoSpaceError(error, self.name, "the output", missing, "free some space there") from error
            raise OSError(error.errno, error.strerror, self.name) from error
        with self._counting:
            self.written += len(data)

    def commit(self) -> None:
        """The output is complete: give it its name."""
        if self._partial is not None and self._fd is not None:
            os.ftruncate(self._fd, self.written)
        self._close()
        if self._partial is not None:
            os.replace(self._partial, self._target)
            self._partial = None

    def discard(self) -> None:
        """Remove what was written, unless it was committed."""
        self._close()
        if self._partial is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._partial)
            self._partial = None

    def _close(self) -> None:
        if self._fd is not None:
            fd, self._fd = self._fd, None
            try:
                os.close(fd)
            except OSError as error:
                raise OSError(error.errno, error.strerror, self.name) from error


class Gather:
    """Orders buckets of one store and writes them."""

    def __init__(
        self,
        source: Source,
        output: Output,
        key: Key,
        plan: Plan,
        workspace: Workspace,
        scratch: Scratch,
        crew: Crew,
    ) -> None:
        self._source = source
        self._scratch = scratch
        self._output = output
        self._key = key
        self._plan = plan
        self._workspace = workspace
        self._crew = crew

    def run(self, buckets: list[Bucket], threads: int) -> None:
        """Write the buckets, which are neighbours in the output, on so many threads at once."""
        if not buckets:
            return
        in_memory = buckets[0].store.in_memory
        self._workspace.reset(self._plan.arena if in_memory else 0)
        threads = min(threads, len(buckets))
        self._loading = Turn(self._crew)
        self._writing = Turn(self._crew)
        self._todo: Iterator[tuple[int, Bucket]] = enumerate(buckets)
        scratch_bytes = 0 if in_memory else max(bucket.scratch_bytes for bucket in buckets)
        records = max(bucket.records for bucket in buckets)
        self._spaces = [
            (
                self._workspace.cut(scratch_bytes),
                self._workspace.cut(2 * records, np.uint64),
                self._workspace.cut(self._plan.chunk),
            )
            for _ in range(threads)
        ]
        self._crew.run(self._work, threads)

    def _work(self) -> None:
        with self._crew.changed:
            space, entries, chunk = self._spaces.pop()
        while True:
            self._crew.check()
            with self._crew.changed:
                step, bucket = next(self._todo, (0, None))
            if bucket is None:
                return
            base = self._order(step, bucket, space, entries)
            if self._output.ordered:
                with self._writing.of(step):
                    self._write(bucket, base, entries, chunk)
            else:
                self._write(bucket, base, entries, chunk)
            if isinstance(bucket.store, MemoryStore):
                bucket.store.release(bucket.index)

    def _order(self, step: int, bucket: Bucket, space: U8, entries: U64) -> U8:
        """Load a bucket and sort its entries; returns the memory that they point into."""
        store = bucket.store
        if isinstance(store, MemoryStore):
            base, previous = store.arena, BEFORE_THE_FIRST.copy()
            found = self._index(bucket, base, store.segments_of(bucket.index), previous, entries, 0)
        else:
            base = space
            # In order, so that no output covers frames that are still to be loaded.
            with self._loading.of(step), store.reading(bucket) as (fd, extents, path):
                found = self._load(bucket, base, entries, fd, extents, path)
            self._scratch.consumed(bucket.scratch_bytes)
        if found != bucket.records:
            raise OSError(errno.EIO, f"scratch is damaged: bucket {bucket.index} has lost records")
        self._crew.check()
        kernels.entries_sort(entries, found)
        return base

    def _load(self, bucket: Bucket, base: U8, entries: U64, fd: int, extents: list[Extent], path: str) -> int:
        """Read a bucket's frames and index them piece by piece, while they are in the cache."""
        view = memoryview(base)
        segment, previous = np.zeros((1, 2), np.uint64), BEFORE_THE_FIRST.copy()
        filled = found = 0
        for offset, length in extents:
            for done in range(0, length, LOAD_BYTES):
                self._crew.check()
                count = min(LOAD_BYTES, length - done)
                read_exactly(fd, view[filled : filled + count], offset + done, path)
                filled += count
                segment[0, 1] = filled
                found += self._index(bucket, base, segment, previous, entries, found)
        return found

    def _index(self, bucket: Bucket, base: U8, segments: U64, previous: U64, entries: U64, found: int) -> int:
        """Make the entries of the whole frames in the segments, behind those that were found before."""
        count: int = kernels.frames_index(
            base, len(base), segments, len(segments), bucket.gap_bits, previous, *self._key.words,
            np.array(bucket.fanouts, np.uint64), len(bucket.fanouts), entries[2 * found :], bucket.records - found,
        )  # fmt: skip
        return count

    def _write(self, bucket: Bucket, base: U8, entries: U64, chunk: U8) -> None:
        position = bucket.first
        view, written = memoryview(chunk), np.zeros(1, np.uint64)

        def write(piece: memoryview) -> None:
            nonlocal position
            self._output.write(piece, position)
            position += len(piece)

        at = 0
        while at < bucket.records:
            self._crew.check()
            at = kernels.gather(
                base, entries, at, bucket.records, bucket.gap_bits, chunk, len(chunk), written
            )
            count = int(written[0])
            if count:
                write(view[:count])
            elif at < bucket.records:  # a reference, or larger than the chunk
                self._write_large(base, int(entries[2 * at + 1]), bucket.gap_bits, view, write)
                at += 1
        if position != bucket.first + bucket.output_bytes:
            raise OSError(errno.EIO, f"scratch is damaged: bucket {bucket.index} has lost bytes")

    def _write_large(self, base: U8, frame: int, gap_bits: int, view: memoryview, write: Write) -> None:
        memory = memoryview(base)
        (word,) = struct.unpack_from("=I", memory, frame)
        begin, length = frame + 4, word >> gap_bits
        if length == 0:
            descriptor, offset = struct.unpack_from("=QQ", memory[begin : begin + 16].tobytes().ljust(16))
            begin, length = begin + 8, descriptor >> 1
            if descriptor & 1:
                self._source.copy(offset, length, view, write)
                return
        write(memory[begin : begin + length])


def handling(bucket: Bucket, plan: Plan) -> str:
    """How a bucket is put in order: "together" with others, "alone" on one thread, or by a "split" before."""
    in_memory = bucket.store.in_memory
    cost = bucket_cost(0 if in_memory else bucket.scratch_bytes, bucket.records)
    if cost <= plan.bucket_limit(plan.threads, in_memory):
        return "together"
    return "alone" if cost <= plan.bucket_limit(1, in_memory) else "split"
