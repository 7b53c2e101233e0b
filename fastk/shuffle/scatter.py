"""First pass: every record goes to the bucket that the leading bits of its key name.

Each thread takes a block, finds its records, and places them bucket by bucket in a batch; a batch that is full is
written by one thread while the others fill the next. Two short steps go in the order of the input, so that the result
does not depend on the threads: reading, which numbers the records, and reserving space.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from .._backend.kernels import TALLY_FIELDS
from ..config import kernels
from .plan import BATCH_TARGET, SLACK, Plan, Workspace
from .records import NEVER, Block, Buffers
from .scratch import FileStore, MemoryStore, Store
from .workers import Crew, Turn

U8 = npt.NDArray[np.uint8]
U64 = npt.NDArray[np.uint64]


class BlockSource(Protocol):
    """What a scatter reads: the inputs, or a bucket that is split again."""

    bytes_read: int

    def read(self, buffers: Buffers, limit: int) -> Block | None:
        """The next block, or None at the end."""


@dataclass
class Key:
    """What turns a record number into a bucket: the seed as Philox's key, and the buckets of all levels."""

    seed: int
    fanouts: tuple[int, ...]
    gap_bits: int
    reference_size: int = NEVER

    def __post_init__(self) -> None:
        self.words = (self.seed & (2**64 - 1), self.seed >> 64)
        self.ancestors: U64 = np.array(self.fanouts[:-1], np.uint64)


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
    ) -> None:
        self.store = store
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
        """Number the records and find their buckets; what each bucket gets."""
        key = self._key
        if block.first is not None:
            kernels.number_records(block.first, buffers.number, block.records)
        tally = np.empty((key.fanouts[-1], len(TALLY_FIELDS)), np.uint64)
        kernels.scatter_count(
            buffers.block, buffers.start, buffers.size, buffers.number, block.records, *key.words, key.ancestors,
            len(key.ancestors), key.fanouts[-1], key.gap_bits, key.reference_size, buffers.bucket, tally,
        )  # fmt: skip
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
        assert self._spill is not None
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
