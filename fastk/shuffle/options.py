"""What a run is asked to do: every option, checked once, whoever asks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .._check import check_seed, integer
from .codecs import CODECS, Codec, codec_of
from .plan import parse_size
from .report import PROGRESS

STANDARD = "-"
"""Standard input or output."""
MOST_DELIMITER = 255
"""Bytes of a delimiter: what buffers keep free behind a block."""
MOST = 2**62
"""Records, lines or bytes that an option can ask for."""
MOST_SHARDS = 1_000_000
APPEND_NEWLINE = ("auto", "never")
SCRATCH = ("auto", "none")
COMPRESS = ("auto", "none", *CODECS)

Path = str | os.PathLike[str]


@dataclass(frozen=True)
class RecordFormat:
    """How a stream of bytes is cut into records.

    Attributes
    ----------
    delimiter : bytes
        What ends a line.
    lines : int
        Lines of a record.
    size : int or None
        Bytes of a record, if all have as many; then nothing is looked for.
    header : int
        Lines, or records of fixed size, at the beginning of each input that are not shuffled.
    repair : bool
        Whether a delimiter that is missing at the end of an input is added.
    """

    delimiter: bytes = b"\n"
    lines: int = 1
    size: int | None = None
    header: int = 0
    repair: bool = True


@dataclass(frozen=True)
class Options:
    """One shuffle, as it was asked for: the keywords of `fastk.shuffle_file`, checked."""

    inputs: list[str]
    output: str
    mem: int
    seed: int | None
    threads: int | None
    tmp: list[str]
    progress: str
    format: RecordFormat
    head_count: int | None
    inverse: bool
    shards: int | None
    records_per_shard: int | None
    codec: Codec | None
    compress_scratch: bool
    scratch: str
    resume: bool
    clean: bool
    verify: bool
    fsync: bool
    asked: dict[str, Any] = field(repr=False)
    """What a run that goes on must be asked for again."""


def make_options(
    inputs: Path | Sequence[Path],
    output: Path,
    *,
    mem: str | int = "2G",
    seed: int | None = None,
    threads: int | None = None,
    tmp: Path | Sequence[Path] = (),
    progress: str = "never",
    null: bool = False,
    delimiter: bytes | None = None,
    lines_per_record: int = 1,
    record_size: int | None = None,
    header: int = 0,
    head_count: int | None = None,
    inverse: bool = False,
    shards: int | None = None,
    records_per_shard: int | None = None,
    append_newline: str = "auto",
    compress: str = "auto",
    compress_scratch: bool = False,
    scratch: str = "auto",
    resume: bool = False,
    clean: bool = False,
    verify: bool = False,
    fsync: bool = False,
) -> Options:
    """Check the options, each and together; TypeError or ValueError names the one that makes no sense."""
    sources = paths_of(inputs, "inputs")
    if not sources:
        raise ValueError("inputs: at least one is needed")
    if sources.count(STANDARD) > 1:
        raise ValueError("inputs: '-' (standard input) can be given once")
    target = one_path(output, "output")
    _choice("progress", progress, PROGRESS)
    _choice("append_newline", append_newline, APPEND_NEWLINE)
    _choice("compress", compress, COMPRESS)
    _choice("scratch", scratch, SCRATCH)
    shards = None if shards is None else integer(shards, "shards", 1, MOST_SHARDS)
    records_per_shard = _count(records_per_shard, "records_per_shard")
    form = _format(null, delimiter, lines_per_record, record_size, header, append_newline)
    piped = STANDARD in sources
    if resume:
        _excluded("resume", **{"scratch='none'": scratch == "none", "standard input": piped})
    if scratch == "none":
        _excluded("scratch='none'", inverse=inverse, compress_scratch=compress_scratch, **{"standard input": piped})
    if inverse:
        _excluded("inverse", head_count=head_count is not None)
        if seed is None:
            raise ValueError("inverse: the seed of the shuffle that is to be undone is needed")
    if shards and records_per_shard:
        raise ValueError("shards and records_per_shard exclude each other")
    if target == STANDARD:
        _excluded("output='-'", resume=resume, verify=verify, shards=bool(shards or records_per_shard))
    codec = codec_of(target) if compress == "auto" else CODECS.get(compress)
    if codec is not None:
        codec.load(target)
    head_count = None if head_count is None else integer(head_count, "head_count", 0, MOST)
    threads = None if threads is None else integer(threads, "threads", 1)
    asked: dict[str, Any] = {"threads": threads, "scratch": scratch, "compress": compress}
    asked |= {"compress_scratch": bool(compress_scratch), "verify": bool(verify), "inverse": bool(inverse)}
    asked |= {"append_newline": append_newline, "head_count": head_count, "shards": shards}
    asked |= {"records_per_shard": records_per_shard}
    asked |= {"lines_per_record": form.lines, "record_size": form.size, "header": form.header}
    asked |= {"delimiter": form.delimiter.hex(), "mem": parse_size(mem), "tmp": paths_of(tmp, "tmp")}
    return Options(
        sources, target, parse_size(mem), None if seed is None else check_seed(seed), threads, paths_of(tmp, "tmp"),
        progress, form, head_count, bool(inverse), shards, records_per_shard, codec, bool(compress_scratch), scratch,
        bool(resume), bool(clean), bool(verify), bool(fsync), asked,
    )  # fmt: skip


def _format(
    null: bool, delimiter: bytes | None, lines: int, size: int | None, header: int, append_newline: str
) -> RecordFormat:
    lines, header = integer(lines, "lines_per_record", 1, MOST), integer(header, "header", 0, MOST)
    if delimiter is not None:
        if not isinstance(delimiter, bytes | bytearray | memoryview):
            raise TypeError(f"delimiter={delimiter!r}: bytes are needed")
        delimiter = bytes(delimiter)
        if not 1 <= len(delimiter) <= MOST_DELIMITER:
            raise ValueError(f"delimiter: of {len(delimiter)} bytes; allowed are 1 to {MOST_DELIMITER}")
        _excluded("delimiter", null=null)
    if size is not None:
        size = integer(size, "record_size", 1, MOST)
        _excluded("record_size", null=null, delimiter=delimiter is not None, lines_per_record=lines != 1)
    ending = b"\0" if null else b"\n" if delimiter is None else delimiter
    return RecordFormat(ending, lines, size, header, append_newline == "auto")


def one_path(path: Path, name: str) -> str:
    """A path as a string; TypeError names the argument."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"{name}={path!r}: a path is needed")
    text = os.fspath(path)
    if not isinstance(text, str):
        raise TypeError(f"{name}={path!r}: a path of str is needed")
    return text


def paths_of(paths: Path | Sequence[Path], name: str) -> list[str]:
    """One path or several, as a list."""
    return [one_path(each, name) for each in ([paths] if isinstance(paths, str | os.PathLike) else paths)]


def _choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}={value!r}: allowed are {', '.join(allowed)}")


def _count(value: int | None, name: str) -> int | None:
    return None if value is None else integer(value, name, 1, MOST)


def _excluded(first: str, **others: bool) -> None:
    for name, given in others.items():
        if given:
            raise ValueError(f"{first} and {name} exclude each other")
