"""What fits where: sizes as people write them, the memory promise, and how many buckets of what size follow from it."""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

MIB = 1 << 20
GIB = 1 << 30

SMALLEST_MEMORY = {"c": 64 * MIB, "numba": 300 * MIB}
"""Least ``mem`` of each backend; numba's compiler is what needs more."""

INTERPRETER_GROWTH = 5 * MIB
"""What the interpreter may still grow by once the plan is made: thread stacks, small objects, late imports."""

SMALLEST_WORKSPACE = 8 * MIB
MOST_WORKSPACE = 1 << 42
"""What can be asked of any system, which gives it page by page."""

ENTRY_BYTES = 16
"""Memory that ordering takes for a record of a bucket."""

WORD_BYTES = 4
"""Scratch that a record takes beside its bytes."""

RECORD_ARRAYS_BYTES = 4 + 4 + 8 + 2
"""Start, size, number and bucket of a record of a block."""

HEADROOM = 1.15
"""Buckets differ by chance: plan for mean size times this; the few above it are split or taken alone."""

MAX_BUCKETS = 512

SEGMENT_LEAST = 16 * MIB
SEGMENT_BATCHES = 8
"""Batches that a run which can be resumed writes from one time to the next that it makes sure of them."""

SLACK = 256
"""Room beside each buffer: alignment, and what a frame adds to a record that fills a block."""


def parse_size(text: str | int, name: str = "mem") -> int:
    """Bytes of a size such as 64M, 2G, 1.5GiB, 50% (of the machine's memory) or 1000000.

    Suffixes K, M, G, T, with or without B or iB, are powers of 1024.
    """
    if isinstance(text, bool) or not isinstance(text, str | int):
        raise TypeError(f"{name}={text!r}: an int or a string such as '2G' is needed")
    if isinstance(text, int):
        size = text
    else:
        match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(%|([kmgt]?)(?:i?b)?)\s*", text, re.IGNORECASE)
        if match is None:
            raise ValueError(f"{name}={text!r}: write a size such as 64M, 2G, 1.5GiB or 50%")
        number, suffix, unit = match.groups()
        factor = machine_memory() / 100 if suffix == "%" else 1024.0 ** " kmgt".index((unit or " ").lower())
        if suffix == "%" and float(number) > 100:
            raise ValueError(f"{name}={text!r}: at most 100%")
        size = int(float(number) * factor)
    if size <= 0:
        raise ValueError(f"{name}={text!r}: must be above zero")
    return size


def format_size(size: float) -> str:
    """A size as people read it: 3.2 GiB."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1000 or (unit == "bytes" and size < 1024):
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} TiB"


def machine_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or its control group's if that is less."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(path) as file:
                text = file.read().strip()
        except OSError:
            continue
        if text.isdecimal():
            total = min(total, int(text))
    return total


def resident_memory() -> tuple[int, int]:
    """Bytes of this process in memory, now and at their highest."""
    try:
        with open("/proc/self/status") as file:
            fields = dict(line.split(":", 1) for line in file)
        return int(fields["VmRSS"].split()[0]) * 1024, int(fields["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError):
        import resource
        import sys

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return peak, peak


class Workspace:
    """The one large piece of memory of a run, from which every buffer is cut: it bounds what the buffers can take.

    Pages that a phase has touched are used again by the next one, so they are paid for once.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        # Private, because shared memory would come in small pages.
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
        self._map = mmap.mmap(-1, max(size, mmap.PAGESIZE), flags=flags)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # a kernel without huge pages
                self._map.madvise(mmap.MADV_HUGEPAGE)
        self.bytes: npt.NDArray[np.uint8] = np.frombuffer(self._map, dtype=np.uint8)
        self._used = 0

    @property
    def free(self) -> int:
        """Bytes that can still be cut."""
        return self.size - self._used

    def cut(self, count: int, dtype: type[np.generic] = np.uint8) -> npt.NDArray[Any]:
        """Take an array of `count` elements."""
        begin = -(-self._used // 64) * 64
        end = begin + count * np.dtype(dtype).itemsize
        if end > self.size:
            raise MemoryError(f"the plan cuts {end} bytes from a workspace of {self.size}")
        self._used = end
        return self.bytes[begin:end].view(dtype)

    def give_back(self, begin: int, size: int) -> None:
        """Return the whole pages of a stretch to the system; its bytes are no longer needed."""
        first, last = -(-begin // mmap.PAGESIZE), (begin + size) // mmap.PAGESIZE
        if first < last and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED, first * mmap.PAGESIZE, (last - first) * mmap.PAGESIZE)

    def reset(self, kept: int = 0) -> None:
        """Take back all but the first `kept` bytes; the caller no longer uses what was cut there."""
        self._used = kept


@dataclass(frozen=True)
class Plan:
    """Sizes of a run. Everything but the output depends on them.

    Attributes
    ----------
    workspace : int
        Bytes for all buffers together.
    threads : int
    block : int
        Bytes of input that a thread takes at a time at most; a record that is longer is passed on by reference.
    records : int
        Records of a block at most.
    fanout : int
        Buckets of the first level.
    arena : int
        Bytes of scratch that may stay in memory; 0 sends it to files from the start.
    chunk : int
        Bytes that are written to the output at a time.
    max_fanout : int
        Buckets at any level.
    in_place : bool
        Whether scratch may be the file that becomes the output.
    entry_bytes : int
        Memory that ordering takes for a record of a bucket.
    segment : int
        Bytes of input after which a run that can be resumed makes sure that all is on disk.
    """

    workspace: int
    threads: int
    block: int
    records: int
    fanout: int
    arena: int
    chunk: int
    max_fanout: int = MAX_BUCKETS
    in_place: bool = True
    entry_bytes: int = ENTRY_BYTES
    segment: int = SEGMENT_LEAST

    @property
    def batches(self) -> int:
        """Batches of frames: one to fill and, while threads place, others to write."""
        return max(2, self.threads // 2 + 1)

    @property
    def placed(self) -> int:
        """Bytes that the frames of a block can take, which a batch must hold: its bytes, a word each, and skips."""
        return self.block + SLACK + (WORD_BYTES + 1) * self.records + 64 * self.max_fanout

    @property
    def buffers(self) -> int:
        """Bytes of a thread that scatters: a block, and its records."""
        return self.block + RECORD_ARRAYS_BYTES * self.records + 8 * SLACK

    def reference_size(self) -> int:
        """Records from this size on are not copied to scratch but read again from the input."""
        return max(64, min(self.block // 2, self.bucket_limit(self.threads) // 32))

    def bucket_limit(self, threads: int, in_memory: bool = False) -> int:
        """Memory that ordering a bucket may take when so many threads order one each."""
        return (self.workspace - (self.arena if in_memory else 0)) // threads - self.chunk - 4 * SLACK

    def cost(self, scratch_bytes: float, records: float) -> float:
        """Memory for ordering a bucket; its bytes count only if they are not in memory already."""
        return scratch_bytes + self.entry_bytes * records

    def split_fanout(self, cost: float) -> int:
        """How many buckets to make of something that costs so much memory to order."""
        return max(2, min(self.max_fanout, math.ceil(HEADROOM * cost / self.bucket_limit(self.threads))))


def gap_bits(fanouts: tuple[int, ...]) -> int:
    """Bits for the distance between neighbours in a bucket: 32 times the mean, so one in e^32 needs a skip."""
    return min(24, max(6, math.prod(fanouts).bit_length() + 5))


def check_memory(mem: int, backend: str, codecs: int = 0) -> int:
    """Bytes left for the workspace within `mem`, of which compression takes its part.

    ValueError says what is needed if that is too little.
    """
    smallest = SMALLEST_MEMORY[backend]
    if mem < smallest:
        raise ValueError(
            f"mem={format_size(mem)}: the {backend} backend needs at least {smallest // MIB}M"
            f"{' (its compiler; the C core works from 64M)' if backend == 'numba' else ''}"
        )
    resident = resident_memory()[0]
    # What blocks leave for the next one is held outside the workspace; in the least memory they are small.
    carried = min(BLOCK_TARGET, (mem - smallest) // 32)
    workspace = min(mem - resident - INTERPRETER_GROWTH - mem // 64 - carried - codecs, MOST_WORKSPACE)
    if workspace < SMALLEST_WORKSPACE:
        needed = -(-(resident + INTERPRETER_GROWTH + SMALLEST_WORKSPACE + codecs) * 64 // 63 // MIB)
        if codecs:
            raise ValueError(
                f"mem={format_size(mem)}: compression takes {format_size(codecs)} here, so at least {needed}M is needed"
            )
        raise ValueError(
            f"mem={format_size(mem)}: this process already holds {format_size(resident)}, so at least "
            f"{needed}M is needed; or run `python -m fastk.shuffle` in a process of its own"
        )
    return workspace


BUCKET_TARGET = 48 * MIB
BUCKET_RECORDS = 128 * 1024
"""Entries that sort within a second-level cache."""
BATCH_TARGET = 64 * MIB
BLOCK_TARGET = 8 * MIB
CHUNK_TARGET = 1 * MIB
THREAD_SHARE = 6 * MIB
"""Memory below which one more thread costs more than it brings."""
BLOCKS_OF_SHARE = 8
"""Blocks in a thread's share of memory; what they leave is for batches."""
RECORD_SHARE = 32
"""Bytes of a block for each record that its arrays hold."""


def make_plan(
    workspace: int,
    threads: int,
    total: int | None,
    mean_record: float,
    *,
    stream: int | None = None,
    in_memory: bool = True,
    entry_bytes: int = ENTRY_BYTES,
) -> Plan:
    """Choose block, buckets and arena for `total` bytes (None: unknown) in records of that mean size.

    ``stream`` is what is read to find them, if that is more; ``in_memory`` says whether they may stay in memory.
    """
    threads = max(1, min(threads, workspace // THREAD_SHARE))
    chunk = min(CHUNK_TARGET, workspace // (16 * threads))
    most = workspace // (BLOCKS_OF_SHARE * threads)

    def plan(block: int, fanout: int, arena: int) -> Plan:
        block = max(64 * 1024, min(BLOCK_TARGET, block))
        made = Plan(workspace, threads, block, block // RECORD_SHARE, fanout, arena, chunk, entry_bytes=entry_bytes)
        batches = min(BATCH_TARGET, workspace // 2) * SEGMENT_BATCHES
        return replace(made, segment=max(SEGMENT_LEAST, batches))

    if total is None:
        # Should the arena overflow, its memory becomes the batches.
        return plan(most, MAX_BUCKETS // 2, workspace // 2 if in_memory else 0)

    records = total / max(1.0, mean_record)
    framed = total + WORD_BYTES * records
    ordering = framed + entry_bytes * records

    wanted = max(math.ceil(ordering / BUCKET_TARGET), math.ceil(records / BUCKET_RECORDS))
    fanout = min(MAX_BUCKETS, max(wanted, threads if total > MIB else 1))
    fitting = plan(min(most, max(total, stream or 0) // threads), fanout, 0)
    arena = max(int(1.07 * framed) + MIB, fitting.batches * fitting.placed)
    fitting = replace(fitting, arena=arena)
    gathering = threads * (entry_bytes * records * HEADROOM / fanout + chunk + 4 * SLACK)
    if in_memory and arena + max(gathering, threads * fitting.buffers) <= workspace:
        return fitting

    limit = workspace // threads - chunk - 4 * SLACK
    fanout = max(2, math.ceil(HEADROOM * ordering / limit), wanted)
    return plan(most, min(MAX_BUCKETS, fanout), 0)


REREADING_SHARE = 4
"""The part of memory, one in so many, that a run which reads its input again leaves beside its arena."""


def make_rereading_plan(workspace: int, threads: int, total: int | None, mean_record: float) -> tuple[Plan, int]:
    """Sizes for reading the input again and again, each time for as many records as memory holds, and how often."""
    base = make_plan(workspace, threads, total, mean_record, in_memory=False)
    beside = max(workspace // REREADING_SHARE, base.threads * base.buffers + 8 * SLACK)
    block = base.block
    while beside > workspace // 2 and block > 64 * 1024:
        block //= 2
        base = replace(base, block=block, records=block // RECORD_SHARE)
        beside = max(workspace // REREADING_SHARE, base.threads * base.buffers + 8 * SLACK)
    arena = workspace - beside
    framed = (total if total is not None else 4 * arena) * (1 + WORD_BYTES / mean_record)
    reads = max(1, math.ceil(HEADROOM * HEADROOM * framed / arena))
    entries = base.entry_bytes * arena / (mean_record + WORD_BYTES)
    limit = beside // base.threads - base.chunk - 4 * SLACK
    fanout = min(MAX_BUCKETS, max(2 * base.threads, math.ceil(HEADROOM * entries / limit)))
    return replace(base, arena=arena, fanout=fanout), reads
