"""First pass: every record goes to the bucket that the leading bits of its key name.

Each thread takes a block, finds its records, and places them bucket by bucket in a batch; a batch that is full is
written by one thread while the others fill the next. Two short steps go in the order of the input, so that the result
does not depend on the threads: reading, which numbers the records, and reserving space.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from .._backend.kernels import TALLY_FIELDS
from ..config import kernels
from .plan import BATCH_TARGET, SLACK, Plan, Workspace, gap_bits
from .records import NEVER, Block, BlockSource, Buffers
from .stores import Bucket, FileStore, MemoryStore, Store
from .workers import Crew, Turn

ALL_KEYS = 2**64 - 1
CHECK_LOW = TALLY_FIELDS.index("check_low")
BIN_BITS = 16
"""Bits of a key by which the first records of the order are told from the others."""
BINS = 1 << BIN_BITS
BIN_SHIFT = 64 - BIN_BITS

U8 = npt.NDArray[np.uint8]
U64 = npt.NDArray[np.uint64]


class Key:
    """What turns a record number into a bucket: the seed as Philox's key, and the buckets of all levels.

    Records whose keys are not from `least` to `most` are left out.
    """

    def __init__(
        self,
        seed: int,
        fanouts: tuple[int, ...],
        gap_bits: int,
        reference_size: int = NEVER,
        least: int = 0,
        most: int = ALL_KEYS,
        first: FirstRecords | None = None,
    ) -> None:
        self.seed = seed
        self.fanouts = fanouts
        self.gap_bits = gap_bits
        self.reference_size = reference_size
        self.words = (seed & (2**64 - 1), seed >> 64)
        self._ancestors: U64 = np.array(fanouts[:-1], np.uint64)
        self._least = least
        self._most = most
        self._first = first

    @property
    def most(self) -> int:
        """The largest key that may still be needed."""
        return self._most if self._first is None else min(self._most, self._first.most)

    def assign(self, block: Block, buffers: Buffers) -> None:
        """Number the records of a block and find the bucket of each."""
        if block.first is not None:
            kernels.number_records(block.first, buffers.number, block.records)
            if self._first is not None:
                self._first.add(block.first, block.records)
        kernels.bucket_records(
            buffers.number, block.records, *self.words, self._ancestors, len(self._ancestors), self.fanouts[-1],
            self._least, self.most, buffers.bucket,
        )  # fmt: skip

    def wants(self, number: int) -> bool:
        """Whether a record may still be needed."""
        key = np.empty(1, np.uint64)
        kernels.philox_fill(*self.words, number, key, 1)
        return self._least <= int(key[0]) <= self.most

    def order(self, bucket: Bucket, entries: U64) -> None:
        """Put the entries of a bucket in the order of the output."""
        kernels.entries_sort(entries, bucket.records)

    def close(self) -> None:
        """No more is assigned by this key."""

    def below(self, bucket: Bucket, fanout: int, workspace: Workspace) -> Key:
        """The key by which a bucket is split again."""
        fanouts = (*bucket.fanouts, fanout)
        return Key(self.seed, fanouts, gap_bits(fanouts))


class FirstRecords:
    """Which keys the first records of the order can have: the bound falls as more records are seen."""

    def __init__(self, seed: int, count: int) -> None:
        self.most = ALL_KEYS
        self._words = (seed & (2**64 - 1), seed >> 64)
        self._count = count
        self._found: U64 = np.zeros(BINS, np.uint64)
        self._lock = threading.Lock()

    def add_all(self, records: int) -> None:
        """Count the keys of so many records from the first on."""
        for first in range(0, records, BINS):
            self.add(first, min(BINS, records - first))

    def add(self, first: int, records: int) -> None:
        """Count the keys of more records; in any order."""
        keys = np.empty(records, np.uint64)
        kernels.philox_fill(*self._words, first, keys, records)
        found = np.bincount((keys >> np.uint64(BIN_SHIFT)).astype(np.intp), minlength=BINS)
        with self._lock:
            self._found += found.astype(np.uint64)
            last = int(np.searchsorted(np.cumsum(self._found), self._count))
            if last < BINS:
                self.most = ((last + 1) << BIN_SHIFT) - 1


class StoreFullError(Exception):
    """Memory does not hold what it was planned to hold, and there is nowhere else to put it."""


class Batch:
    """A stretch of memory in which frames are placed piece by piece, until it is full and written bucket by bucket."""

    def __init__(self, out: U8) -> None:
        self.out = out
        self.view = memoryview(out)
        self.clear()

    def clear(self) -> None:
        """Begin again, with nothing in it."""
        self.used = 0
        self.placing = 0
        self.closed = False
        self.pieces: list[tuple[U64, U64]] = []
        self.offsets: U64 | None = None

    def reserve(self, sizes: U64, total: int) -> U64:
        """Positions at which the frames of a block begin, bucket by bucket."""
        begins: U64 = np.cumsum(sizes, dtype=np.uint64) + np.uint64(self.used) - sizes
        self.pieces.append((begins, begins + sizes))
        self.used += total
        self.placing += 1
        return begins

    def buckets(self) -> Iterator[tuple[int, int, list[memoryview]]]:
        """What is to be written: bucket, offset and pieces."""
        assert self.offsets is not None
        begins = np.stack([begin for begin, _ in self.pieces], axis=1)
        ends = np.stack([end for _, end in self.pieces], axis=1)
        for index, offset in enumerate(self.offsets.tolist()):
            pairs = zip(begins[index].tolist(), ends[index].tolist(), strict=True)
            pieces = [self.view[begin:end] for begin, end in pairs if begin < end]
            if pieces:
                yield index, offset, pieces


class Scatter:
    """One scatter, from a source into a store."""

    def __init__(
        self,
        source: BlockSource,
        store: Store,
        spill: FileStore | None,
        key: Key,
        plan: Plan,
        workspace: Workspace,
        crew: Crew,
        hashed: bool = False,
    ) -> None:
        self.store = store
        self._hashed = hashed
        self._source = source
        self._spill = spill
        self._key = key
        self._plan = plan
        self._crew = crew
        self._waiting = [Buffers(workspace, plan) for _ in range(crew.threads)]
        self._free: list[Batch] = []
        if isinstance(store, MemoryStore):
            self._batch = Batch(store.arena)
        else:
            self._make_batches(workspace.cut(min(workspace.free - SLACK, plan.batches * BATCH_TARGET)))
        self._steps = 0
        self._reading = Turn(crew)
        self._reserving = Turn(crew)

    def run(self) -> Store:
        """Scatter everything; returns the store that holds it."""
        self._crew.run(self._work)
        if isinstance(self.store, MemoryStore):
            return self.store
        self._close()
        self._write(self._batch)
        self.store.finish()
        return self.store

    def _make_batches(self, memory: U8) -> None:
        size = len(memory) // self._plan.batches
        self._free = [Batch(memory[i * size : (i + 1) * size]) for i in range(self._plan.batches)]
        self._batch = self._free.pop()

    def _work(self) -> None:
        with self._crew.changed:
            buffers = self._waiting.pop()
        while True:
            self._crew.check()
            with self._crew.changed:
                step = self._steps
                self._steps += 1
            with self._reading.of(step):
                block = self._source.read(buffers, self._plan.block)
            if block is None:
                return
            tally = self._count(block, buffers)
            with self._reserving.of(step):
                full, batch, positions, before = self._reserve(tally)
            if full is not None:
                self._write(full)
            self._place(block, buffers, batch, positions, before)

    def _count(self, block: Block, buffers: Buffers) -> U64:
        """Find the buckets of the records; what each bucket gets."""
        key, buckets = self._key, self.store.fanout
        key.assign(block, buffers)
        tally = np.empty((buckets, len(TALLY_FIELDS)), np.uint64)
        kernels.scatter_count(
            buffers.block, buffers.start, buffers.size, buffers.number, buffers.bucket, block.records, buckets,
            key.gap_bits, key.reference_size, tally,
        )  # fmt: skip
        if self._hashed:
            kernels.records_checksum(
                buffers.block, buffers.start, buffers.size, buffers.bucket, block.records, buckets, tally
            )
            if block.check and buffers.bucket[0] < buckets:
                words = (block.check & (2**64 - 1), block.check >> 64)
                tally[buffers.bucket[0], CHECK_LOW : CHECK_LOW + 2] = words
        return tally

    def _reserve(self, tally: U64) -> tuple[Batch | None, Batch, U64, U64]:
        """Take space for a block: a batch that is now to be written, the block's batch, positions, numbers before."""
        sizes, before = self.store.link(tally, self._key.gap_bits)
        total = int(sizes.sum())
        full = None
        with self._crew.changed:
            if isinstance(self.store, MemoryStore):
                if self.store.room(sizes):
                    self._batch.placing += 1
                    return None, self._batch, self.store.reserve(sizes), before
                self._leave_memory(self.store)
            if self._batch.used + total > len(self._batch.out):
                full = self._close()
                while not self._free:
                    self._crew.check()
                    self._crew.changed.wait()
                self._batch = self._free.pop()
            if self._batch.used + total > len(self._batch.out):
                raise MemoryError(f"the frames of a block take {total} bytes of {len(self._batch.out)}")
            positions = self._batch.reserve(sizes, total)
        return full, self._batch, positions, before

    def _close(self) -> Batch | None:
        """Nothing more goes to the batch; returns it if all of it has been placed."""
        batch = self._batch
        batch.closed = True
        total = np.zeros(self.store.fanout, np.uint64)
        for begins, ends in batch.pieces:
            total += ends - begins
        batch.offsets = self.store.reserve(total)
        return batch if batch.placing == 0 else None

    def _leave_memory(self, memory: MemoryStore) -> None:
        """The arena is full: move what it holds to files, and go on with batches in its place."""
        while self._batch.placing:
            self._crew.check()
            self._crew.changed.wait()
        if self._spill is None:
            raise StoreFullError
        self._spill.adopt(memory)
        self._make_batches(memory.arena)
        self.store = self._spill

    def _place(self, block: Block, buffers: Buffers, batch: Batch, positions: U64, before: U64) -> None:
        key = self._key
        kernels.scatter_place(
            buffers.block, buffers.start, buffers.size, buffers.number, buffers.bucket, block.records, key.gap_bits,
            key.reference_size, block.offset, before, positions.copy(), len(positions), batch.out,
        )  # fmt: skip
        with self._crew.changed:
            batch.placing -= 1
            last = batch.closed and batch.placing == 0
            self._crew.changed.notify_all()
        if last:
            self._write(batch)

    def _write(self, batch: Batch) -> None:
        """Write a batch, and make it free for others."""
        if batch.pieces:
            with self.store.writing:
                for index, offset, pieces in batch.buckets():
                    self._crew.check()
                    self.store.write(index, pieces, offset)
        with self._crew.changed:
            batch.clear()
            self._free.append(batch)
            self._crew.changed.notify_all()
