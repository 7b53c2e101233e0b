"""A run from end to end: plan, scatter, gather, split what does not fit, verify, and give the output its name."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any

from ..config import config, get_num_threads, kernels
from .checksum import MODULUS, digest
from .cleaning import JOURNAL, leftovers
from .gather import handling
from .inputs import InputChangedError, InputFormatError, Inputs
from .inverse import ID_BYTES, InverseKey, inverse_fanout, inverse_key
from .journal import Journal, check_same
from .options import Options
from .output import Output
from .passes import Means, SecondPass
from .plan import (
    ENTRY_BYTES,
    WORD_BYTES,
    Plan,
    Workspace,
    check_memory,
    gap_bits,
    make_plan,
    make_rereading_plan,
    resident_memory,
)
from .records import NEVER, Source
from .report import Progress, ShuffleReport, merge_reports
from .scatter import BINS, FirstRecords, Key, Scatter, StoreFullError
from .scratch import PAGE, PREFIX, NoSpaceError, Scratch, default_directory, free_space
from .stores import SCRATCH_MEMORY, Bucket, FileStore, MemoryStore, RegionStore, Store
from .verify import VerificationError, Verifier, forget
from .workers import Crew

DRAWN_SEED_BITS = 53
"""A seed that is drawn fits a JSON reader's double exactly."""

HEADROOM_OF_REGIONS = 1.02
"""Buckets differ by chance: what a region holds beyond the mean. More than that goes to the end of the file."""

TOKEN_DIGITS = 16
"""Of the names that a run which goes on has to find again."""

PASSING = ("i", "s")
"""What the names of scratch files begin with that are made again by a run that goes on."""

MOST_PARTS = 1 << 40
"""Parts of the keys; smaller ones would hold single records."""

PART_OF_ARENA = 64
"""One in so many: larger records are not held, but read again."""

INVERSE_ENTRY_BYTES = 2 * ENTRY_BYTES
"""Ordering a bucket of a shuffle that is undone takes the keys beside the positions."""

KERNELS = (
    *("philox_fill", "split_delimited", "split_frames", "number_records", "bucket_records"),
    *("scatter_count", "scatter_place", "frames_index", "entries_sort", "gather", "frames_measure"),
    *("records_checksum", "checksum_blocks", "checksum_end", "frames_checksum"),
)
"""What a run uses, rare cases included."""


class Job:
    """One shuffle of some inputs to one output."""

    def __init__(self, options: Options, plan: Plan | None = None) -> None:
        self._started = time.monotonic()
        self._settings = config()
        self._options = options
        self.seed = _drawn_seed() if options.seed is None else options.seed
        self._threads = options.threads or get_num_threads()
        self._progress = Progress(options.progress)
        form = options.format
        self._inputs = Inputs(options.inputs, options.mem, form.delimiter, form.lines)
        self._output = Output(options.output, options.codec, options.shards, options.records_per_shard)
        self._check_together()
        directory = self._output.directory
        # Each once, for the locks in them.
        given = options.tmp or [default_directory(directory)]
        self._directories = list({os.path.realpath(each): each for each in reversed(given)}.values())[::-1]
        for each in self._directories:
            if not os.path.isdir(each):
                raise NotADirectoryError(errno.ENOTDIR, "no such directory for scratch files", each)
        kernels.bind(KERNELS)
        self._mean = float(form.size or self._inputs.mean_record)
        self._total = self._inputs.total
        self._workspace_size = self._check_memory()
        self._given_plan = plan
        self._plan = plan or self._make_plan()
        if options.inverse:
            self._plan = replace(self._plan, entry_bytes=INVERSE_ENTRY_BYTES)
        name = _token(self._output) if options.resume else None
        self._framed = int((self._expected() or 0) * (1 + WORD_BYTES / self._mean))
        self._scratch = Scratch(self._directories, self._framed, name)
        self.own: set[str] = set() if name is None else {name}
        self._journal: Journal | None = None
        self._lock = threading.Lock()
        self._first: FirstRecords | None = None
        self._measure: Callable[[], int] = lambda: 0
        self._depth = 1
        self._reads = 1
        self._check = 0
        self._checksum: str | None = None
        self._done: list[Bucket] = []
        self._released: set[int] = set()
        self._unsaved = 0
        self._resumed = False
        self._source: Source | None = None
        self._store: Store | None = None
        self._replaced: Output | None = None
        self._kept = False
        self._leftovers: list[str] = []
        self.before_commit: Callable[[], None] = lambda: None

    def _check_together(self) -> None:
        """Refuse what the inputs or the output do not allow."""
        options = self._options
        if (options.scratch == "none" or options.inverse) and not self._inputs.rereadable:
            asked = "scratch='none'" if options.scratch == "none" else "inverse"
            raise ValueError(f"{asked}: the inputs are read more than once, so they cannot be pipes")
        if options.resume and (self._output.local is None or not self._inputs.local):
            raise ValueError("resume: the inputs and the output have to be files of this machine")
        sources = {os.path.realpath(each.path) for each in self._inputs if options.resume}
        if self._output.local is not None and self._output.local.target in sources:
            raise ValueError("resume: an input that is the output would not be there to go on with")
        if options.verify and self._output.local is None:
            raise ValueError(f"verify: what was written to {self._output.name} cannot be read again")
        size = options.format.size
        for each in self._inputs if size and not options.format.header else ():
            if size and each.size is not None and each.size % size:
                raise InputFormatError(f"{each.path}: of {each.size} bytes, not a multiple of the {size} of a record")

    # ---- sizes

    def _check_memory(self) -> int:
        """Bytes for the workspace; on fewer threads, if compression leaves too little else."""
        while True:
            codecs = self._inputs.memory + self._output.memory(self._threads)
            codecs += SCRATCH_MEMORY * (self._threads + 1) if self._options.compress_scratch else 0
            try:
                return check_memory(self._options.mem, self._settings["backend"], codecs)
            except ValueError:
                if codecs == self._inputs.memory or self._threads == 1:
                    raise
                self._threads -= 1

    def _expected(self) -> int | None:
        """About how many bytes are to be shuffled; None if nobody knows."""
        options, total = self._options, self._inputs.estimate
        if total is None or options.head_count is None:
            return total
        records = options.head_count + total / self._mean / BINS
        return min(total, int(records * self._mean) + 1)

    def _make_plan(self) -> Plan:
        options = self._options
        in_memory = not (options.resume and self._inputs.estimate is None)
        return make_plan(
            self._workspace_size, self._threads, self._expected(), self._mean, stream=self._inputs.estimate,
            in_memory=in_memory, entry_bytes=INVERSE_ENTRY_BYTES if options.inverse else ENTRY_BYTES,
        )  # fmt: skip

    def _check_space(self, in_place: bool) -> None:
        """NoSpaceError if what is to be written does not fit on a file system; what is not known is not counted."""
        output, needed = self._output, dict[int, tuple[str, int]]()

        def add(directory: str, size: int) -> None:
            device = os.stat(directory).st_dev
            needed[device] = (directory, needed.get(device, (directory, 0))[1] + size)

        expected = self._expected()
        if self._total is None or expected is None:
            return
        beside = output.directory is not None and output.codec is None
        spilled = not self._plan.arena and self._options.scratch != "none" and not self._options.compress_scratch
        if spilled and in_place:
            assert output.directory is not None
            add(output.directory, self._framed)
        else:
            devices = set()
            for each in self._scratch.parents if spilled else ():
                add(each, self._framed // len(self._scratch.parents))
                devices.add(os.stat(each).st_dev)
            # Scratch beside the output is given back as the output grows.
            if beside and output.directory is not None and os.stat(output.directory).st_dev not in devices:
                add(output.directory, expected)
        for directory, size in needed.values():
            if size > free_space(directory):
                cause = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                what = "scratch and output, which has not begun"
                advice = "free some space, or name other directories with --tmp (tmp=)"
                raise NoSpaceError(cause, os.path.join(directory, ""), what, size, advice)

    # ---- the run

    def run(self) -> ShuffleReport:
        """Do it; whatever happens, scratch is gone afterwards, and the output is complete or absent."""
        try:
            self.work()
            self.commit()
        finally:
            self.close()
        return self.report()

    def work(self) -> None:
        """Everything but giving the output its name."""
        try:
            self._work()
        except (InputFormatError, InputChangedError, VerificationError):
            self._kept = False  # going on would end in the same way
            raise

    def _work(self) -> None:
        options = self._options
        state = self._begin()
        if options.head_count is not None:
            self._first = FirstRecords(self.seed, options.head_count)
        self._workspace = Workspace(self._plan.workspace)
        self._crew = Crew(self._plan.threads, self._poll)
        in_place = self._in_place()
        self._output.threads = self._plan.threads
        self._output.expected = self._expected() or 0
        if state is None:
            self._check_space(in_place)
        elsewhere = self._scratch.directory() if in_place and options.tmp else None
        complete = state is not None and state["phase"] == "commit"
        self._output.open(elsewhere, self._scratch.name, fresh=state is None, complete=complete)
        if state is None or state["phase"] != "commit":
            if options.scratch == "none":
                self._work_by_rereading()
            else:
                self._work_with_scratch(state, in_place)
            self._progress.close()
            self._output.finish(options.fsync or self._journal is not None)
            if options.verify:
                self._verify()
            if self._journal is not None and self._source is not None:
                source = self._source.state()
                self._save(
                    "commit", shards=self._output.shards.count, written=self._output.written, source=source,
                    identities=self._output.identities(), checksum=self._checksum,
                )  # fmt: skip
        else:
            self._source = self._new_source(None)
            self._source.restore(state["source"], spool=False, read=False)
            self._output.shards.count, self._output.written = state["shards"], state["written"]
            self._output.check_identities(state["identities"])
            self._checksum = state["checksum"]
        self._workspace.reset()
        self._workspace.give_back(0, self._workspace.size)

    def _begin(self) -> dict[str, Any] | None:
        """Look for what dead runs have left; the state to go on from."""
        options, scratch = self._options, self._scratch
        places = [*self._directories, *([self._output.directory] if self._output.directory else [])]
        for left in leftovers(places):
            ours = any(name in os.path.basename(left.path) for name in self.own)
            if options.clean:
                left.remove()
                self._leftovers.append(f"removed {left.path}")
            elif not ours:
                self._leftovers.append(str(left))
        if not options.resume:
            return None
        self._journal = Journal(scratch.path(JOURNAL))
        self._kept = True  # whatever it says
        state = self._journal.load()
        if state is None:
            self._kept = False
            scratch.keep_only(lambda name: False)
            return None
        check_same(self._journal.path, state, self._request())
        scratch.keep_only(lambda name: not name.startswith(PASSING))
        self.seed, self._resumed = state["seed"], True
        plan = Plan(**state["plan"])
        self._plan = replace(plan, workspace=min(plan.workspace, self._workspace_size))
        return state

    def _request(self) -> dict[str, Any]:
        return {
            "asked": self._options.asked, "inputs": self._inputs.identities, "seed": self._options.seed,
            "output": os.path.realpath(self._options.output),
        }  # fmt: skip

    def _save(self, phase: str, **more: Any) -> None:
        assert self._journal is not None
        self._journal.save(self._request() | {"phase": phase, "seed": self.seed, "plan": asdict(self._plan)} | more)
        self._kept = True

    def _work_with_scratch(self, state: dict[str, Any] | None, in_place: bool) -> None:
        options = self._options
        source = self._source = self._new_source(self._scratch)
        key = self._inverse_key(state) if options.inverse else self._key()
        source.wanted = key.wants
        store = self._store = self._scatter(source, key, in_place, state)
        self._output.shards.plan(self.records)
        buckets = self._buckets(store, key)
        if store.in_memory and any(handling(bucket, self._plan) == "split" for bucket in buckets):
            store = self._store = self._leave_memory(store)  # far more records than the samples promised
            buckets = self._buckets(store, key)
        self._output.expected = len(source.header) + sum(bucket.output_bytes for bucket in buckets)
        if isinstance(store, RegionStore) and not store.output_fits(len(source.header), store.totals[:, 2].tolist()):
            # Large records by reference: the output would overtake the frames, so it goes to a file of its own.
            self._replaced, self._output = self._output, Output(options.output)
            self._output.expected = self._replaced.expected
            self._output.open()
        self._measure = lambda: self._output.written
        self._progress.phase("ordering", self._output.expected)
        if state is not None and state["phase"] == "gather":
            self._output.restore(state["output_state"])
            if self._output.durable is None:
                self._output.written = sum(bucket.output_bytes for bucket in buckets if bucket.index in self._released)
        if source.header:
            self._output.write(memoryview(source.header), 0)
        self._check = sum(bucket.check for bucket in buckets)
        self._drain([bucket for bucket in buckets if bucket.index not in self._released], key)

    def _new_source(self, scratch: Scratch | None) -> Source:
        return Source(self._inputs, self._options.format, scratch, self._crew.check, self._options.verify)

    def _key(self) -> Key:
        fanouts = (self._plan.fanout,)
        return Key(self.seed, fanouts, gap_bits(fanouts), self._reference_size(), first=self._first)

    def _reference_size(self) -> int:
        return NEVER if self._plan.arena or not self._inputs.seekable else self._plan.reference_size()

    def _in_place(self) -> bool:
        """Whether scratch can be the file that becomes the output: of known size, and on the same file system."""
        output, options = self._output, self._options
        if output.directory is None or output.ordered or output.sharded or self._plan.arena or not self._plan.in_place:
            return False
        if self._total is None or options.resume or options.compress_scratch or options.scratch == "none":
            return False
        if options.head_count is not None:
            return False
        return all(os.stat(tmp).st_dev == os.stat(output.directory).st_dev for tmp in self._scratch.parents)

    def _poll(self) -> None:
        self._progress.reached(self._measure())

    # ---- first pass

    def _scatter(self, source: Source, key: Key, in_place: bool, state: dict[str, Any] | None) -> Store:
        plan, options = self._plan, self._options
        files = FileStore(plan.fanout, self._scratch, "b", options.compress_scratch, options.resume)
        store: Store = files
        if plan.arena:
            store = MemoryStore(plan.fanout, self._workspace.cut(plan.arena), self._workspace.give_back)
        elif in_place:
            region = int(HEADROOM_OF_REGIONS * self._framed / plan.fanout) + PAGE
            store = RegionStore(plan.fanout, self._scratch, *self._output.file, region)
        if state is not None:
            self._restore(source, files, state)
            store = files
            if state["phase"] == "gather":
                files.close()
                return store
        self._measure = lambda: source.bytes_read
        self._progress.phase("reading" if plan.arena else "scattering", self._inputs.total)
        while True:
            if self._journal is not None and not plan.arena:
                source.until = source.position + plan.segment
            store = self._run_scatter(source, store, files, key)
            if self._journal is not None and isinstance(store, FileStore):
                store.sync()
                source.sync()
                self._scratch.sync()
                phase = "scatter" if source.paused else "gather"
                self._save(phase, **self._state(source, store))
            if not source.paused:
                files.close()
                return store
            self._workspace.reset()

    def _run_scatter(self, source: Source, store: Store, spill: FileStore | None, key: Key) -> Store:
        scatter = Scatter(source, store, spill, key, self._plan, self._workspace, self._crew, self._options.verify)
        return scatter.run()

    def _means(self) -> Means:
        return Means(self._plan, self._workspace, self._crew, self._scratch, self._options.compress_scratch)

    def _state(self, source: Source, store: FileStore) -> dict[str, Any]:
        return {
            "source": source.state(), "store": store.state(), "released": sorted(self._released),
            "output_state": self._output.state(),
        }  # fmt: skip

    def _restore(self, source: Source, store: FileStore, state: dict[str, Any]) -> None:
        """Go on where the killed run was."""
        self._released = set(state["released"])
        used = {os.path.basename(store.path(i)) for i in range(store.fanout) if i not in self._released}
        kept = {JOURNAL, "ids"} | ({"giants"} if state["source"]["spooled"] else set())
        self._scratch.keep_only(lambda name: name in used or name in kept)
        source.restore(state["source"], read=state["phase"] == "scatter")
        if self._first is not None:
            self._first.add_all(source.records)
        store.restore(state["store"], self._released)

    def _leave_memory(self, memory: Store) -> FileStore:
        assert isinstance(memory, MemoryStore)
        files = FileStore(memory.fanout, self._scratch, "b", self._options.compress_scratch, self._options.resume)
        files.adopt(memory)
        files.finish()
        if self._journal is not None:
            files.sync()
            self._scratch.sync()
            files.close()
        return files

    def _buckets(self, store: Store, key: Key, first: int | None = None, rank: int = 0) -> list[Bucket]:
        """Buckets of which something is written."""
        assert self._source is not None
        begin = len(self._source.header) if first is None else first
        most = self._options.head_count
        buckets = store.buckets(key.fanouts, key.gap_bits, begin, rank)
        return [bucket for bucket in buckets if most is None or bucket.rank < most]

    # ---- second pass

    def _second_pass(self) -> SecondPass:
        written = self._bucket_done if self._journal is not None else lambda bucket: None
        return SecondPass(
            self._means(), self._source, self._output, most=self._options.head_count, checks=self._options.verify,
            written=written,
        )  # fmt: skip

    def _drain(self, buckets: Iterable[Bucket], key: Key) -> None:
        second = self._second_pass()
        second.run(buckets, key)
        self._depth = max(self._depth, second.depth)
        self._check = (self._check - second.left_out) % MODULUS

    def _bucket_done(self, bucket: Bucket) -> None:
        """A bucket is written; from time to time this is noted, and its scratch is given back."""
        most = self._options.head_count
        if most is not None and bucket.rank + bucket.records > most:
            return  # written in part, it is written again by a run that goes on
        with self._lock:
            self._done.append(bucket)
            self._unsaved += bucket.output_bytes
            store, source = self._store, self._source
            if self._unsaved < self._plan.segment or not isinstance(store, FileStore) or source is None:
                return
            self._unsaved = 0
            done, self._done = self._done, []
            self._output.sync()
            durable = self._output.durable
            for each in done:
                if durable is not None and each.first + each.output_bytes > durable:
                    self._done.append(each)
                else:
                    self._released.add(each.index)
            self._save("gather", **self._state(source, store))
            for each in done:
                if each.index in self._released:
                    store.release(each.index)

    # ---- without scratch

    def _work_by_rereading(self) -> None:
        """Read the input as often as it takes, each time for the next part of the keys."""
        parts = 1
        if not self._plan.arena:
            self._plan, parts = self._rereading_plan()
        most, rank, offset = self._options.head_count, 0, 0
        self._reads = 0
        rest = [(parts, part) for part in reversed(range(parts))]
        while rest and (most is None or rank < most or self._source is None):
            parts, part = rest.pop()
            found = self._read_part(parts, part, offset, rank)
            if found is not None:
                offset, rank = found
            elif parts == 1 and self._given_plan is None:
                # What the samples promised does not hold.
                self._plan, parts = self._rereading_plan()
                rest = [(max(2, parts), each) for each in reversed(range(max(2, parts)))]
            elif parts > MOST_PARTS:
                raise MemoryError("mem= does not hold the records that share the leading bits of a key")
            else:
                rest += [(2 * parts, 2 * part + 1), (2 * parts, 2 * part)]

    def _rereading_plan(self) -> tuple[Plan, int]:
        return make_rereading_plan(self._plan.workspace, self._plan.threads, self._expected(), self._mean)

    def _read_part(self, parts: int, part: int, offset: int, rank: int) -> tuple[int, int] | None:
        """Write the records of one of so many parts of the keys; where the output then ends, None if memory is full."""
        plan = self._plan
        self._workspace.reset()
        source = self._new_source(None)
        try:
            fanouts = (parts, plan.fanout)
            least, after = (-(-(each << 64) // parts) for each in (part, part + 1))
            size = max(64, min(plan.block // 2, plan.arena // PART_OF_ARENA)) if self._inputs.seekable else NEVER
            if self._source is None and self._options.head_count is not None:
                self._first = FirstRecords(self.seed, self._options.head_count)  # a part that fails counts for nothing
            last = after - 1 if self._first is None else min(after - 1, self._first.most)
            first = self._first if self._source is None else None
            key = Key(self.seed, fanouts, gap_bits(fanouts), size, least, last, first)
            source.wanted = key.wants
            store = MemoryStore(plan.fanout, self._workspace.cut(plan.arena), self._workspace.give_back)
            self._reads += 1
            self._measure = lambda: source.bytes_read
            self._progress.phase(f"reading, part {part + 1} of {parts}", self._inputs.total)
            try:
                self._run_scatter(source, store, None, key)
            except StoreFullError:
                self._crew = Crew(plan.threads, self._poll)
                return None
            buckets = list(store.buckets(key.fanouts, key.gap_bits, 0))
            if any(handling(bucket, plan) == "split" for bucket in buckets):
                return None
            if self._source is None:
                self._output.shards.plan(self._records_of(source))
                self._output.write(memoryview(source.header), 0)
                offset = len(source.header)
            self._source = source
            buckets = self._buckets(store, key, offset, rank)
            self._check += sum(bucket.check for bucket in buckets)
            self._drain(buckets, key)
            self._reads += source.rereads
            records, _, size = store.totals.sum(axis=0).tolist()
            return offset + size, rank + records
        finally:
            source.close()

    # ---- undoing a shuffle

    def _inverse_key(self, state: dict[str, Any] | None) -> InverseKey:
        """Count the records, and find the bucket of each."""
        counting = self._verifier(self._inputs, hashed=False)
        self._progress.phase("counting", self._inputs.total)
        self._measure = lambda: counting.source.bytes_read
        counting.run()
        self._workspace.reset()
        self._reads += 1
        if state is None:
            self._plan = replace(self._plan, fanout=inverse_fanout(self._plan, counting.records))
        ids_plan = make_plan(self._plan.workspace, self._plan.threads, ID_BYTES * counting.records, ID_BYTES)
        if self._given_plan is not None:
            ids_plan = replace(self._given_plan, entry_bytes=ENTRY_BYTES)
        ids_plan = replace(ids_plan, threads=self._plan.threads)
        self._progress.phase("ranking", None)
        self._measure = lambda: 0
        return inverse_key(self._means(), ids_plan, self.seed, counting.records, self._reference_size())

    # ---- the end

    def _verifier(self, files: Inputs, hashed: bool = True) -> Verifier:
        return Verifier(files, self._options.format, self._plan, self._workspace, self._crew, hashed)

    def _verify(self) -> None:
        """Read the output from disk again; VerificationError if it does not hold the records that were read."""
        assert self._source is not None
        paths = self._output.paths()
        for path in paths:
            forget(path)
        form = replace(self._options.format, repair=False, header=self._source.header_lines)
        self._progress.phase("verifying", self._output.written)
        try:
            files = Inputs(paths, self._options.mem, codec=self._output.codec, named=False)
            verifier = Verifier(files, form, self._plan, self._workspace, self._crew)
            self._measure = lambda: verifier.source.bytes_read
            verifier.run()
        except (ValueError, OSError) as error:
            raise VerificationError(self._output.name, str(error)) from error
        if verifier.source.header != self._source.header:
            raise VerificationError(self._output.name, "the header is not that of the input")
        if verifier.records != self.records:
            raise VerificationError(self._output.name, f"{verifier.records} records instead of {self.records}")
        if verifier.check != self._check % MODULUS:
            raise VerificationError(self._output.name, "the checksum of the records is not that of the input's")
        self._checksum = f"{verifier.check:032x}"
        self._progress.close()

    def commit(self) -> None:
        """Give the output its name."""
        self.before_commit()
        self._output.commit(self._options.fsync)
        self._kept = False

    def journaled_seed(self) -> int | None:
        """The seed of a killed run that this one goes on with, if there is one."""
        for parent in self._scratch.parents if self._options.resume and not self._options.clean else []:
            with contextlib.suppress(OSError):
                state = Journal(os.path.join(parent, f"{PREFIX}{self._scratch.name}", JOURNAL)).load()
                if state is not None:
                    return int(state["seed"])
        return None

    def forget(self) -> None:
        """Leave nothing to go on with."""
        self._kept = False

    def close(self) -> None:
        """Remove scratch and what is not complete, but for what a run can go on with."""
        self._progress.close()
        if self._kept:
            self._output.leave()
        else:
            self._output.discard()
        if self._replaced is not None:
            self._replaced.discard()
        if self._source is not None:
            self._source.close()
        if self._kept:
            self._scratch.release()
        else:
            self._scratch.remove()

    @property
    def output(self) -> str:
        """The output, as it was given."""
        return self._output.name

    @property
    def records(self) -> int:
        """Records of the output, once the input has been read."""
        return self._records_of(self._source) if self._source is not None else 0

    def _records_of(self, source: Source) -> int:
        most = self._options.head_count
        return source.records if most is None else min(source.records, most)

    def report(self) -> ShuffleReport:
        """What was done."""
        source = self._source
        assert source is not None
        return ShuffleReport(
            records=self.records,
            bytes_in=source.bytes_read,
            bytes_out=self._output.written,
            seed=self.seed,
            passes=self._depth + 1 if self._scratch.peak else 1,
            buckets=self._plan.fanout,
            scratch_bytes=self._scratch.peak,
            reads=self._reads,
            resumed=self._resumed,
            verified=self._options.verify,
            checksum=self._checksum,
            peak_memory=resident_memory()[1],
            memory=self._options.mem,
            seconds=time.monotonic() - self._started,
            threads=self._plan.threads,
            backend=self._settings["backend"],
            isa=self._settings["isa"],
            output=self._output.name,
            outputs=tuple(self._output.names()),
            leftovers=tuple(self._leftovers),
        )


def run_pair(jobs: Sequence[Job]) -> ShuffleReport:
    """Shuffle files that belong together, line by line; no output gets its name before all are complete."""
    reports = []
    own = {name for job in jobs for name in job.own}
    seeds = [seed for job in jobs if (seed := job.journaled_seed()) is not None]
    try:
        for job in jobs:
            job.seed, job.own = (seeds or [jobs[0].seed])[0], own
            job.work()
            if job.seed != jobs[0].seed:
                raise ValueError(f"pair: the run that was killed had another seed for {job.output}")
            if job.records != jobs[0].records:
                for each in jobs:
                    each.forget()
                raise InputFormatError(
                    f"pair: {job.records} records for {job.output}, but {jobs[0].records} for {jobs[0].output}"
                )
        for job in jobs:
            job.commit()
            reports.append(job.report())
    finally:
        for job in jobs:
            job.close()
    return merge_reports(reports)


def _drawn_seed() -> int:
    return int.from_bytes(os.urandom(8), "little") >> (64 - DRAWN_SEED_BITS)


def _token(output: Output) -> str:
    """What a run with this output finds its scratch by."""
    assert output.local is not None
    return f"{digest(os.fsencode(output.local.target)):032x}"[:TOKEN_DIGITS]
