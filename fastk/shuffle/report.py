"""What a run says while it works and when it is done."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TextIO

from .plan import format_size

PROGRESS = ("auto", "always", "never")


@dataclass(frozen=True)
class ShuffleReport:
    """What a shuffle did.

    Attributes
    ----------
    records : int
        Records written.
    bytes_in, bytes_out : int
        Bytes read from the inputs and written to the output; they differ by the delimiters that inputs lacked.
    seed : int
        The seed used: with it the run can be repeated.
    passes : int
        How often the data was written: 1 in memory, 2 with scratch, more if buckets were split again.
    buckets : int
        Buckets of the first pass.
    scratch_bytes : int
        Most bytes that scratch files held at once.
    reads : int
        How often the inputs were read from the start.
    resumed : bool
        Whether this went on where a killed run was.
    verified : bool
        Whether the output was read again, and held the records of the input.
    checksum : str or None
        If so, the sum of the records' hashes, in 32 hexadecimal digits; None for a pair.
    peak_memory : int
        Peak resident memory of the process in bytes, interpreter included.
    memory : int
        The promise, `mem`, in bytes.
    seconds : float
        Wall time.
    threads : int
        Threads used.
    backend, isa : str
        What the kernels ran on; `isa` is None on numba.
    output : str
        Where the records went, as it was given.
    outputs : tuple of str
        The files that were made: shards, or that one.
    leftovers : tuple of str
        What runs that were killed have left in the same directories, a sentence each.
    """

    records: int
    bytes_in: int
    bytes_out: int
    seed: int
    passes: int
    buckets: int
    scratch_bytes: int
    reads: int
    resumed: bool
    verified: bool
    checksum: str | None
    peak_memory: int
    memory: int
    seconds: float
    threads: int
    backend: str
    isa: str | None
    output: str
    outputs: tuple[str, ...]
    leftovers: tuple[str, ...]

    @property
    def rate(self) -> float:
        """Output bytes per second."""
        return self.bytes_out / self.seconds if self.seconds else 0.0

    def as_dict(self) -> dict[str, Any]:
        """All fields and the rate, for JSON."""
        return {**asdict(self), "rate": self.rate}

    def __str__(self) -> str:
        where = "in one pass, in memory,"
        if self.scratch_bytes:
            scratch = format_size(self.scratch_bytes)
            where = f"in {self.passes} passes through {self.buckets} buckets, {scratch} of scratch,"
        elif self.reads > 1:
            where = f"in {self.reads} reads of the input, without scratch,"
        on = f"{self.backend} {self.isa}" if self.isa else self.backend
        return textwrap.fill(
            f"Shuffled {self.records:,} record{'' if self.records == 1 else 's'} ({format_size(self.bytes_out)}) "
            f"{where} in {self.seconds:.3g} s ({format_size(self.rate)}/s) on {self.threads} thread"
            f"{'' if self.threads == 1 else 's'} of {on}. Peak memory {format_size(self.peak_memory)} of the "
            f"{format_size(self.memory)} allowed. {'Resumed. ' if self.resumed else ''}"
            f"{'Verified. ' if self.verified else ''}Seed {self.seed}: the same "
            "seed and records give the same order again.",
            width=100,
            break_long_words=False,
            break_on_hyphens=False,
        )


def merge_reports(reports: Sequence[ShuffleReport]) -> ShuffleReport:
    """One report of several shuffles that belong together: sums, and the largest of what does not add up."""
    def values(name: str) -> list[Any]:
        return [getattr(each, name) for each in reports]

    most = {name: max(values(name)) for name in ("passes", "buckets", "scratch_bytes", "peak_memory", "reads")}
    return replace(
        reports[-1], **most,
        bytes_in=sum(values("bytes_in")), bytes_out=sum(values("bytes_out")),
        seconds=max(each.seconds for each in reports),
        output=", ".join(each.output for each in reports),
        outputs=tuple(name for each in reports for name in each.outputs),
        leftovers=tuple(dict.fromkeys(left for each in reports for left in each.leftovers)),
        resumed=any(each.resumed for each in reports),
        checksum=None,
    )  # fmt: skip


class Progress:
    """A bar for each phase on standard error, if it is wanted; without tqdm a line for each phase."""

    def __init__(self, when: str, stream: TextIO | None = None) -> None:
        if when not in PROGRESS:
            raise ValueError(f"progress={when!r}: allowed are {', '.join(PROGRESS)}")
        self._stream = sys.stderr if stream is None else stream
        self._bar: Any = None
        self._tqdm: Any = None
        self.shown = when == "always" or (when == "auto" and self._stream is not None and self._stream.isatty())
        if self.shown:
            try:
                from tqdm import tqdm
            except ImportError:
                self._stream.write("fastk-shuffle: for a progress bar, pip install 'fastk-kernels[io]'\n")
            else:
                self._tqdm = tqdm

    def phase(self, name: str, total: int | None) -> None:
        """Begin a phase that handles so many bytes."""
        self.close()
        if self._tqdm is not None:
            self._bar = self._tqdm(
                total=total, desc=name, unit="B", unit_scale=True, unit_divisor=1024, file=self._stream, leave=False,
                mininterval=0.1, dynamic_ncols=True,
            )  # fmt: skip
        elif self.shown:
            self._stream.write(f"fastk-shuffle: {name}{'' if total is None else ' ' + format_size(total)}\n")
            self._stream.flush()

    def reached(self, done: int) -> None:
        """So many bytes of the phase are done."""
        if self._bar is not None:
            self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """End the phase."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
