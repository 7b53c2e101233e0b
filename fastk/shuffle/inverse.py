"""Undoing a shuffle: record j of the input is record order[j] of the output.

Which bucket a record belongs to depends on the rank of keys, which are more than memory holds. So the buckets of all
record numbers are shuffled first, as any records are, and then read along with the input. Within a bucket nothing need
be looked up: the records of a range of the output come in the order of their keys.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..config import kernels
from .passes import Means, SecondPass
from .plan import Plan, Workspace, gap_bits
from .records import NEVER, Block, Buffers
from .scatter import U64, Key, Scatter
from .scratch import Scratch, read_exactly
from .stores import Bucket, FileStore, MemoryStore, Store

ID_BYTES = 2
STEP = 1 << 16
"""Entries that are moved at a time."""


class BucketIds:
    """The buckets of all record numbers, as records of two bytes in the order of the numbers."""

    def __init__(self, records: int, buckets: int) -> None:
        self.bytes_read = 0
        self.records = records
        self._buckets = buckets
        self._next = 0

    def read(self, buffers: Buffers, limit: int) -> Block | None:
        """The next block, or None at the end."""
        first = self._next
        count = min(self.records - first, len(buffers.start), limit // ID_BYTES)
        if count == 0:
            return None
        self._next += count
        numbers = np.arange(first, first + count, dtype=np.uint64)
        buffers.block[: ID_BYTES * count].view(np.uint16)[:] = bucket_of(numbers, self.records, self._buckets)
        buffers.start[:count] = np.arange(0, ID_BYTES * count, ID_BYTES, dtype=np.uint32)
        buffers.size[:count] = ID_BYTES
        self.bytes_read += ID_BYTES * count
        return Block(count, ID_BYTES * first, first, first)


def bucket_of(numbers: U64, records: int, buckets: int) -> U64:
    """The bucket of each of so many output records: ranges of as many records, within one."""
    size, larger = divmod(records, buckets)
    # The first ones have one record more; no product here can overflow.
    border = np.uint64(larger * (size + 1))
    low = numbers // np.uint64(size + 1)
    high = np.uint64(larger) + (np.maximum(numbers, border) - border) // np.uint64(max(size, 1))
    return np.where(numbers < border, low, high)


class InverseKey(Key):
    """Takes the bucket of each record from a file, and puts a bucket in the order before the shuffle."""

    def __init__(
        self,
        seed: int,
        fanouts: tuple[int, ...],
        gap_bits: int,
        reference_size: int,
        scratch: Scratch,
        ids: tuple[int, str],
    ) -> None:
        super().__init__(seed, fanouts, gap_bits, reference_size)
        self._scratch = scratch
        self._ids = ids

    def assign(self, block: Block, buffers: Buffers) -> None:
        if block.first is not None:
            kernels.number_records(block.first, buffers.number, block.records)
        fd, path = self._ids
        into = memoryview(buffers.bucket[: block.records].view(np.uint8))
        read_exactly(fd, into, ID_BYTES * block.rank, path)

    def wants(self, number: int) -> bool:
        return True

    def order(self, bucket: Bucket, entries: U64) -> None:
        m = bucket.records
        ranks = self._ranks(bucket, entries[2 * m : 4 * m])
        # The keys of `ranks` are not needed any more: they make room for the positions.
        ranks[0::2] = entries[1 : 2 * m : 2]
        positions = entries[1 : 2 * m : 2]
        for at in range(0, m, STEP):
            some = ranks[2 * at : 2 * min(at + STEP, m)]
            positions[some[1::2].astype(np.intp)] = some[0::2]

    def _ranks(self, bucket: Bucket, work: U64) -> U64:
        """Pairs of words for the records of a bucket in the order of the input; the second one is the place of the
        record among those of the bucket in the output."""
        m = bucket.records
        for at in range(0, m, STEP):
            count = min(STEP, m - at)
            keys = np.empty(count, np.uint64)
            kernels.philox_fill(*self.words, bucket.rank + at, keys, count)
            work[2 * at : 2 * (at + count) : 2] = keys
            work[2 * at + 1 : 2 * (at + count) : 2] = np.arange(at, at + count, dtype=np.uint64)
        kernels.entries_sort(work, m)
        return work


    def close(self) -> None:
        self._scratch.close(self._ids[0])

    def below(self, bucket: Bucket, fanout: int, workspace: Workspace) -> Key:
        """The ranks of a bucket's records are in its keys' order, so what they are to be split by is found at once."""
        m, path = bucket.records, f"{self._ids[1]}{len(bucket.fanouts)}"
        workspace.reset()
        ranks = self._ranks(bucket, workspace.cut(2 * m, np.uint64))
        fd = self._scratch.replace(path)
        fanouts = (*bucket.fanouts, fanout)
        for at in range(0, m, STEP):
            some = ranks[2 * at + 1 : 2 * min(at + STEP, m) : 2]
            data = bucket_of(some, m, fanout).astype(np.uint16)
            self._scratch.write(fd, [memoryview(data).cast("B")], ID_BYTES * at, path)
        return InverseKey(self.seed, fanouts, gap_bits(fanouts), NEVER, self._scratch, (fd, path))


class IdsFile:
    """The scratch file in which the buckets of the input's records are, in the order of the input."""

    ordered = sharded = False

    def __init__(self, scratch: Scratch, path: str) -> None:
        self.path = path
        self.fd = scratch.replace(path)
        self._scratch = scratch

    def write(self, data: memoryview, offset: int) -> None:
        """Write a piece where it belongs."""
        self._scratch.write(self.fd, [data], offset, self.path)

    def start_shards(self, rank: int, records: int, measure: Callable[[int], int]) -> None:
        """There are none."""


def inverse_key(means: Means, ids_plan: Plan, seed: int, records: int, reference_size: int) -> InverseKey:
    """Shuffle the buckets of so many record numbers into a scratch file, and take them from there."""
    ids_means = replace(means, plan=ids_plan)
    ids = IdsFile(means.scratch, means.scratch.path("ids"))
    fanouts = (ids_plan.fanout,)
    key = Key(seed, fanouts, gap_bits(fanouts))
    files = FileStore(ids_plan.fanout, means.scratch, "i", means.compressed)
    store: Store = files
    if ids_plan.arena:
        store = MemoryStore(ids_plan.fanout, means.workspace.cut(ids_plan.arena), means.workspace.give_back)
    source = BucketIds(records, means.plan.fanout)
    store = Scatter(source, store, files, key, ids_plan, means.workspace, means.crew).run()
    SecondPass(ids_means, None, ids).run(store.buckets(fanouts, key.gap_bits, 0), key)
    means.workspace.reset()
    fanouts = (means.plan.fanout,)
    return InverseKey(seed, fanouts, gap_bits(fanouts), reference_size, means.scratch, (ids.fd, ids.path))


def inverse_fanout(plan: Plan, records: int) -> int:
    """How many buckets to make: as planned, and so many that the records of one can be ordered on any thread."""
    limit = plan.bucket_limit(plan.threads) // 2
    return max(1, min(plan.max_fanout, max(plan.fanout, -(-plan.entry_bytes * records // limit))))
