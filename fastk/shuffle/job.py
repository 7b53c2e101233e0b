"""A run from end to end: plan, scatter, gather, and split what does not fit."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import groupby

from .._check import check_seed, integer
from ..config import config, get_num_threads, kernels
from .gather import Gather, Output, handling
from .plan import (
    WORD_BYTES,
    Plan,
    Workspace,
    bucket_cost,
    check_memory,
    gap_bits,
    make_plan,
    parse_size,
    resident_memory,
)
from .records import NEVER, BucketSource, Inputs, Source
from .report import Progress, ShuffleReport
from .scatter import Key, Scatter
from .scratch import PAGE, Bucket, FileStore, MemoryStore, RegionStore, Scratch, Store, default_directory
from .workers import Crew

NEWLINE = 0x0A
DRAWN_SEED_BITS = 53
"""A seed that is drawn fits a JSON reader's double exactly."""

HEADROOM_OF_REGIONS = 1.02
"""Buckets differ by chance: what a region holds beyond the mean. More than that goes to the end of the file."""

Path = str | os.PathLike[str]


KERNELS = (
    *("philox_fill", "find_byte", "count_byte", "split_delimited", "split_frames", "number_records"),
    *("scatter_count", "scatter_place", "frames_index", "entries_sort", "gather"),
)
"""What a run uses, rare cases included."""


class Job:
    """One shuffle."""

    def __init__(
        self,
        inputs: Sequence[Path],
        output: Path,
        *,
        mem: str | int,
        seed: int | None,
        threads: int | None,
        tmp: Sequence[Path],
        progress: str,
        plan: Plan | None = None,
    ) -> None:
        self._started = time.monotonic()
        self._settings = config()
        self.seed = secrets.randbits(DRAWN_SEED_BITS) if seed is None else check_seed(seed)
        self.memory = parse_size(mem)
        self._threads = get_num_threads() if threads is None else integer(threads, "threads", 1)
        if not inputs:
            raise ValueError("inputs: at least one is needed")
        self._progress = Progress(progress)
        self._inputs = Inputs(inputs)
        self._output = Output(output)
        directories = list(tmp) or [default_directory(None if self._output.ordered else output)]
        for directory in directories:
            if not os.path.isdir(directory):
                raise NotADirectoryError(20, "no such directory for scratch files", os.fspath(directory))
        kernels.bind(KERNELS)
        total = self._inputs.total
        mean = self._inputs.mean_record(NEWLINE)
        self._plan = plan or make_plan(
            check_memory(self.memory, self._settings["backend"]), self._threads, total, mean
        )
        self._tmp = bool(tmp)
        self._framed = int((total or 0) * (1 + WORD_BYTES / mean))
        self._scratch = Scratch(directories, expected=self._framed)
        self._measure: Callable[[], int] = lambda: 0
        self._depth = 1
        self._splits = 0

    def run(self) -> ShuffleReport:
        """Do it; whatever happens, scratch is gone afterwards, and the output is complete or absent."""
        source: Source | None = None
        scratch_file: Output | None = None
        try:
            self._workspace = Workspace(self._plan.workspace)
            self._crew = Crew(self._plan.threads, self._poll)
            self._source = source = Source(self._inputs, NEWLINE, self._scratch, self._crew.check)
            in_place = self._in_place()
            self._output.open(self._scratch.directory() if in_place and self._tmp else None)
            store = self._scatter_inputs(source, in_place)
            fanouts = (store.fanout,)
            buckets = list(store.buckets(fanouts, gap_bits(fanouts), 0))
            if store.in_memory and any(handling(bucket, self._plan) == "split" for bucket in buckets):
                store = self._leave_memory(store)  # far more records than the samples promised
                buckets = list(store.buckets(fanouts, gap_bits(fanouts), 0))
            self._output.expected = sum(bucket.output_bytes for bucket in buckets)
            if isinstance(store, RegionStore) and not store.output_fits(store.totals[:, 2].tolist()):
                # Large records by reference: the output would overtake the frames, so it goes to a file of its own.
                scratch_file, self._output = self._output, Output(self._output.name)
                self._output.expected = scratch_file.expected
                self._output.open()
            self._measure = lambda: self._output.written
            self._progress.phase("ordering", self._output.expected)
            self._drain(buckets)
            self._progress.close()
            self._output.commit()
        finally:
            self._progress.close()
            self._output.discard()
            if scratch_file is not None:
                scratch_file.discard()
            if source is not None:
                source.close()
            self._scratch.remove()
        return ShuffleReport(
            records=source.records,
            bytes_in=source.bytes_read,
            bytes_out=self._output.written,
            seed=self.seed,
            passes=self._depth + 1 if self._scratch.peak else 1,
            buckets=store.fanout,
            scratch_bytes=self._scratch.peak,
            peak_memory=resident_memory()[1],
            memory=self.memory,
            seconds=time.monotonic() - self._started,
            threads=self._plan.threads,
            backend=self._settings["backend"],
            isa=self._settings["isa"],
            output=self._output.name,
        )

    def _poll(self) -> None:
        self._progress.reached(self._measure())

    def _in_place(self) -> bool:
        """Whether scratch can be the file that becomes the output: of known size, and on the same file system."""
        directory = self._output.directory
        if directory is None or self._inputs.total is None or self._plan.arena or not self._plan.in_place:
            return False
        return all(os.stat(tmp).st_dev == os.stat(directory).st_dev for tmp in self._scratch.parents)

    def _scatter_inputs(self, source: Source, in_place: bool) -> Store:
        plan = self._plan
        files = FileStore(plan.fanout, self._scratch, "b")
        store: Store = files
        if plan.arena:
            store = MemoryStore(plan.fanout, self._workspace.cut(plan.arena), self._workspace.give_back)
        elif in_place:
            region = int(HEADROOM_OF_REGIONS * self._framed / plan.fanout) + PAGE
            store = RegionStore(plan.fanout, self._scratch, *self._output.file, region)
        reference_size = NEVER if plan.arena or not self._inputs.regular else plan.reference_size()
        fanouts = (plan.fanout,)
        key = Key(self.seed, fanouts, gap_bits(fanouts), reference_size)
        self._measure = lambda: source.bytes_read
        self._progress.phase("reading" if plan.arena else "scattering", self._inputs.total)
        return Scatter(source, store, files, key, plan, self._workspace, self._crew).run()

    def _leave_memory(self, memory: Store) -> FileStore:
        assert isinstance(memory, MemoryStore)
        files = FileStore(memory.fanout, self._scratch, "b")
        files.adopt(memory)
        files.finish()
        return files

    def _drain(self, buckets: Iterable[Bucket]) -> None:
        """Write buckets that are neighbours in the output."""
        key = Key(self.seed, (), 0)
        gather = Gather(
            self._source, self._output, key, self._plan, self._workspace, self._scratch, self._crew
        )  # fmt: skip
        for how, members in groupby(buckets, partial(handling, plan=self._plan)):
            if how == "together":
                gather.run(list(members), self._plan.threads)
            elif how == "alone":
                gather.run(list(members), 1)
            else:
                for bucket in members:
                    self._drain(self._split(bucket))

    def _split(self, bucket: Bucket) -> list[Bucket]:
        """Scatter a bucket again, by the next bits of the keys."""
        self._splits += 1
        self._depth = max(self._depth, len(bucket.fanouts) + 1)
        fanouts = (*bucket.fanouts, self._plan.split_fanout(bucket_cost(bucket.scratch_bytes, bucket.records)))
        self._workspace.reset()
        store = FileStore(fanouts[-1], self._scratch, f"s{self._splits}-")
        key = Key(self.seed, fanouts, gap_bits(fanouts))
        with bucket.store.reading(bucket) as (fd, extents, path):
            source = BucketSource(bucket, fd, extents, path, self._scratch)
            Scatter(source, store, None, key, self._plan, self._workspace, self._crew).run()
        return list(store.buckets(fanouts, gap_bits(fanouts), bucket.first))

