"""The second pass over buckets: those that fit are put in order and written, the others split and then written."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import groupby

from .gather import Gather, handling
from .output import Target
from .plan import Plan, Workspace
from .records import BucketSource, Source
from .scatter import Key, Scatter
from .scratch import Scratch
from .stores import Bucket, FileStore
from .workers import Crew


@dataclass
class Means:
    """What a pass works with."""

    plan: Plan
    workspace: Workspace
    crew: Crew
    scratch: Scratch
    compressed: bool = False


class SecondPass:
    """Writes buckets to an output, up to a number of records.

    ``checks`` asks for the sum of the hashes of what is read but not written, in ``left_out``. ``depth`` is the number
    of scatters that any record went through.
    """

    def __init__(
        self,
        means: Means,
        source: Source | None,
        output: Target,
        *,
        most: int | None = None,
        checks: bool = False,
        written: Callable[[Bucket], None] = lambda bucket: None,
    ) -> None:
        self.left_out = 0
        self.depth = 1
        self._means = means
        self._source = source
        self._output = output
        self._most = most
        self._checks = checks
        self._written = written
        self._splits = 0

    def run(self, buckets: Iterable[Bucket], key: Key) -> None:
        """Write buckets that are neighbours in the output."""
        self._drain(buckets, key, 1)

    def _drain(self, buckets: Iterable[Bucket], key: Key, depth: int) -> None:
        means = self._means
        written = self._written if depth == 1 else lambda bucket: None
        gather = Gather(
            self._source, self._output, key, means.plan, means.workspace, means.crew, self._most, self._checks, written
        )
        for how, members in groupby(buckets, partial(handling, plan=means.plan)):
            if how == "split":
                for bucket in members:
                    self._split(bucket, key, depth)
                    written(bucket)
            else:
                gather.run(list(members), means.plan.threads if how == "together" else 1)
        self.left_out += gather.left_out

    def _split(self, bucket: Bucket, key: Key, depth: int) -> None:
        """Scatter a bucket again, by the next bits of the keys, and write what that gives."""
        means = self._means
        self._splits += 1
        self.depth = max(self.depth, depth + 1)
        fanout = means.plan.split_fanout(means.plan.cost(bucket.scratch_bytes, bucket.records))
        lower = key.below(bucket, fanout, means.workspace)
        means.workspace.reset()
        store = FileStore(fanout, means.scratch, f"s{self._splits}-", means.compressed)
        with bucket.store.reading(bucket, give_back=True) as reader:
            source = BucketSource(bucket, reader)
            Scatter(source, store, None, lower, means.plan, means.workspace, means.crew).run()
        lower.close()
        # All of them: what is not written of this bucket has to be left out of its checksum.
        below = store.buckets(lower.fanouts, lower.gap_bits, bucket.first, bucket.rank)
        self._drain(below, lower, depth + 1)
