"""First pass: every record goes to the bucket that the leading bits of its key name.

Each thread takes a block, finds its records, and places them bucket by bucket. Two short steps go in the order of the
input, so that the result does not depend on the threads: reading, which numbers the records, and reserving space.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from .._backend.kernels import TALLY_FIELDS
from ..config import kernels
from .plan import Plan, Workspace
from .records import NEVER, Block, Buffers
from .scratch import FileStore, MemoryStore, Store
from .workers import Crew, Turn

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
        self._workspace = workspace
        self._crew = crew
        self._buffers = [Buffers(workspace, plan, not store.in_memory) for _ in range(crew.threads)]
        self._waiting = list(self._buffers)
        self._steps = 0
        self._reading = Turn(crew)
        self._reserving = Turn(crew)
        self._placing = 0

    def run(self) -> Store:
        """Scatter everything; returns the store that holds it."""
        self._crew.run(self._work)
        self.store.finish()
        return self.store

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
            self._scatter(step, block, buffers)

    def _scatter(self, step: int, block: Block, buffers: Buffers) -> None:
        tally = self._count(block, buffers)
        with self._reserving.of(step):
            placing = self._reserve(tally)
        self._place(block, buffers, placing)

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

    def _reserve(self, tally: U64) -> tuple[Store, U64, U64, U64]:
        """Take space for a batch: the store, and for each bucket the bytes, their place and the number before."""
        sizes, before = self.store.link(tally, self._key.gap_bits)
        if isinstance(self.store, MemoryStore) and not self.store.room(int(sizes.sum())):
            self._leave_memory()
        places = self.store.reserve(sizes)
        if self.store.in_memory:
            with self._crew.changed:
                self._placing += 1
        return self.store, sizes, places, before

    def _leave_memory(self) -> None:
        """The arena is full: move what it holds to files, and use its memory to place frames in."""
        with self._crew.changed:
            while self._placing:
                self._crew.check()
                self._crew.changed.wait()
        assert isinstance(self.store, MemoryStore)
        assert self._spill is not None
        self._spill.adopt(self.store)
        arena, size = self.store.arena, self._plan.placed
        for i, buffers in enumerate(self._buffers):
            buffers.placed = arena[i * size : (i + 1) * size]
        self.store = self._spill

    def _place(self, block: Block, buffers: Buffers, placing: tuple[Store, U64, U64, U64]) -> None:
        store, sizes, places, before = placing
        key = self._key
        if isinstance(store, MemoryStore):
            out, positions = store.arena, places.copy()
        else:
            assert buffers.placed is not None
            out = buffers.placed
            positions = np.cumsum(sizes, dtype=np.uint64) - sizes
            if int(sizes.sum()) > len(out):
                raise MemoryError(f"a batch of {block.records} records takes {int(sizes.sum())} bytes of {len(out)}")
        begins = positions.tolist()
        kernels.scatter_place(
            buffers.block, buffers.start, buffers.size, buffers.number, buffers.bucket, block.records, key.gap_bits,
            key.reference_size, block.offset, before, positions, len(positions), out,
        )  # fmt: skip
        if not store.in_memory:
            view = memoryview(out)
            offsets = places.tolist()
            with store.writing:
                for index, size in enumerate(sizes.tolist()):
                    if size:
                        self._crew.check()
                        store.write(index, view[begins[index] : begins[index] + size], offsets[index])
        else:
            with self._crew.changed:
                self._placing -= 1
                self._crew.changed.notify_all()

