"""Second pass: each bucket is put in the order of its keys and written where it belongs in the output."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from ..config import kernels
from .checksum import MODULUS, RecordHash, as_number
from .output import Target
from .plan import Plan, Workspace
from .records import Source
from .scatter import Key
from .stores import Bucket, FrameReader, MemoryStore
from .workers import Crew, Turn

LOAD_BYTES = 512 * 1024
"""Bytes of a bucket that are read at a time: what a second-level cache keeps."""

BEFORE_THE_FIRST = np.array([2**64 - 1], np.uint64)
"""The record number from which a bucket's first gap counts."""

U8 = npt.NDArray[np.uint8]
Write = Callable[[memoryview], None]
U64 = npt.NDArray[np.uint64]


class Gather:
    """Orders buckets of one store and writes them, up to a number of records.

    ``checks`` asks for the sum of the hashes of what the last bucket holds beyond that.
    """

    def __init__(
        self,
        source: Source | None,
        output: Target,
        key: Key,
        plan: Plan,
        workspace: Workspace,
        crew: Crew,
        most: int | None = None,
        checks: bool = False,
        written: Callable[[Bucket], None] = lambda bucket: None,
    ) -> None:
        self.left_out = 0
        self._source = source
        self._output = output
        self._key = key
        self._plan = plan
        self._workspace = workspace
        self._crew = crew
        self._most = most
        self._checks = checks
        self._written = written

    def run(self, buckets: list[Bucket], threads: int) -> None:
        """Write the buckets, which are neighbours in the output, on so many threads at once."""
        if not buckets:
            return
        in_memory = buckets[0].store.in_memory
        self._workspace.reset(self._plan.arena if in_memory else 0)
        threads = min(threads, len(buckets))
        self._loading = Turn(self._crew)
        self._measuring = Turn(self._crew)
        self._writing = Turn(self._crew)
        self._todo: Iterator[tuple[int, Bucket]] = enumerate(buckets)
        scratch_bytes = 0 if in_memory else max(bucket.scratch_bytes for bucket in buckets)
        records = max(bucket.records for bucket in buckets)
        self._spaces = [
            (
                self._workspace.cut(scratch_bytes),
                self._workspace.cut(self._plan.entry_bytes // 8 * records, np.uint64),
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
            if self._output.sharded:
                # In order: the later ones have to know where the shards begin.
                with self._measuring.of(step):
                    self._measure_shards(bucket, base, entries)
            if self._output.ordered:
                with self._writing.of(step):
                    self._write(bucket, base, entries, chunk)
            else:
                self._write(bucket, base, entries, chunk)
            if isinstance(bucket.store, MemoryStore):
                bucket.store.release(bucket.index)
            self._written(bucket)

    def _order(self, step: int, bucket: Bucket, space: U8, entries: U64) -> U8:
        """Load a bucket and sort its entries; returns the memory that they point into."""
        store = bucket.store
        if isinstance(store, MemoryStore):
            base, previous = store.arena, BEFORE_THE_FIRST.copy()
            found = self._index(bucket, base, store.segments_of(bucket.index), previous, entries, 0)
        else:
            base = space
            # In order, so that no output covers frames that are still to be loaded.
            with self._loading.of(step), store.reading(bucket) as reader:
                found = self._load(bucket, base, entries, reader)
        if found != bucket.records:
            raise OSError(errno.EIO, f"scratch is damaged: bucket {bucket.index} has lost records")
        self._crew.check()
        self._key.order(bucket, entries)
        return base

    def _count(self, bucket: Bucket) -> int:
        """How many of a bucket's records are written."""
        return bucket.records if self._most is None else max(0, min(bucket.records, self._most - bucket.rank))

    def _measure_shards(self, bucket: Bucket, base: U8, entries: U64) -> None:
        done, offset, size = 0, bucket.first, np.zeros(1, np.uint64)

        def measure(record: int) -> int:
            nonlocal done, offset
            kernels.frames_measure(base, entries, done, record, bucket.gap_bits, size)
            done, offset = record, offset + int(size[0])
            return offset

        self._output.start_shards(bucket.rank, self._count(bucket), measure)

    def _load(self, bucket: Bucket, base: U8, entries: U64, reader: FrameReader) -> int:
        """Read a bucket's frames and index them piece by piece, while they are in the cache."""
        view = memoryview(base)[: bucket.scratch_bytes]
        segment, previous = np.zeros((1, 2), np.uint64), BEFORE_THE_FIRST.copy()
        filled = found = 0
        while count := reader.readinto(view[filled : filled + LOAD_BYTES]):
            self._crew.check()
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

        at, end = 0, self._count(bucket)
        while at < end:
            self._crew.check()
            at = kernels.gather(base, entries, at, end, bucket.gap_bits, chunk, len(chunk), written)
            count = int(written[0])
            if count:
                write(view[:count])
            elif at < end:  # a reference, or larger than the chunk
                self._write_large(base, int(entries[2 * at + 1]), bucket.gap_bits, view, write)
                at += 1
        if end < bucket.records:
            if self._checks:
                self._leave_out(bucket, base, entries, end, view)
        elif position != bucket.first + bucket.output_bytes:
            raise OSError(errno.EIO, f"scratch is damaged: bucket {bucket.index} has lost bytes")

    def _leave_out(self, bucket: Bucket, base: U8, entries: U64, at: int, view: memoryview) -> None:
        """Sum the hashes of the records that are not written."""
        sums, end = np.zeros(2, np.uint64), bucket.records
        while (at := kernels.frames_checksum(base, entries, at, end, bucket.gap_bits, sums)) < end:
            digest = RecordHash()
            self._write_large(base, int(entries[2 * at + 1]), bucket.gap_bits, view, digest.update)
            self.left_out += digest.value()
            at += 1
        self.left_out = (self.left_out + as_number(sums)) % MODULUS

    def _write_large(self, base: U8, frame: int, gap_bits: int, view: memoryview, write: Write) -> None:
        memory = memoryview(base)
        (word,) = struct.unpack_from("=I", memory, frame)
        begin, length = frame + 4, word >> gap_bits
        if length == 0:
            descriptor, offset = struct.unpack_from("=QQ", memory[begin : begin + 16].tobytes().ljust(16))
            begin, length = begin + 8, descriptor >> 1
            if descriptor & 1:
                assert self._source is not None
                self._source.copy(offset, length, view, write)
                return
        write(memory[begin : begin + length])


def handling(bucket: Bucket, plan: Plan) -> str:
    """How a bucket is put in order: "together" with others, "alone" on one thread, or by a "split" before."""
    in_memory = bucket.store.in_memory
    cost = plan.cost(0 if in_memory else bucket.scratch_bytes, bucket.records)
    if cost <= plan.bucket_limit(plan.threads, in_memory):
        return "together"
    return "alone" if cost <= plan.bucket_limit(1, in_memory) else "split"
