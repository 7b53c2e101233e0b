"""What a shuffle writes, with every kind of record, by splitting and joining bytes."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Sequence
from dataclasses import dataclass

import oracle


class RefusedError(Exception):
    """The input is not made of whole records."""


@dataclass(frozen=True)
class Form:
    """Options that say what a record is."""

    delimiter: bytes = b"\n"
    lines: int = 1
    size: int | None = None
    header: int = 0

    def keywords(self) -> dict[str, object]:
        """The keywords of `shuffle_file`."""
        if self.size is not None:
            return {"record_size": self.size, "header": self.header}
        return {"delimiter": self.delimiter, "lines_per_record": self.lines, "header": self.header}


def lines_of(data: bytes, form: Form) -> list[bytes]:
    """Lines of one input, or its records of fixed size."""
    if form.size is not None:
        if len(data) % form.size:
            raise RefusedError
        return [data[i : i + form.size] for i in range(0, len(data), form.size)]
    *lines, last = data.split(form.delimiter)
    if last and (last + form.delimiter).find(form.delimiter) < len(last):
        raise RefusedError  # what is added could not be told from what is there
    return [line + form.delimiter for line in lines + [last] * (last != b"")]


def parts(inputs: Sequence[bytes], form: Form) -> tuple[bytes, list[bytes]]:
    """The header, and all records in the order of the inputs."""
    header, records = b"", []
    for i, data in enumerate(inputs):
        lines = lines_of(data, form)
        if i == 0:
            header = b"".join(lines[: form.header])
        lines = lines[form.header :]
        if len(lines) % form.lines:
            raise RefusedError
        records += [b"".join(lines[k : k + form.lines]) for k in range(0, len(lines), form.lines)]
    return header, records


def shuffled(inputs: Sequence[bytes], form: Form, seed: int, count: int | None = None) -> tuple[bytes, list[bytes]]:
    """The header, and the records in the order of the output."""
    header, records = parts(inputs, form)
    return header, [records[i] for i in oracle.order(len(records), seed)[:count]]


def shards(header: bytes, records: list[bytes], count: int) -> list[bytes]:
    """Contents of so many files."""
    borders = [len(records) * i // count for i in range(count + 1)]
    found = [b"".join(records[borders[i] : borders[i + 1]]) for i in range(count)]
    return [header + found[0], *found[1:]]


def compress(data: bytes, suffix: str) -> bytes:
    """Compressed by another implementation than the shuffle's where there is one; "" leaves it as it is."""
    if suffix == ".zst":
        import zstandard

        return zstandard.ZstdCompressor().compress(data)
    return {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress}[suffix](data)


def decompress(data: bytes, suffix: str) -> bytes:
    """The bytes of one or many members."""
    if suffix == ".zst":
        import zstandard

        return zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read()
    return {"": bytes, ".gz": gzip.decompress, ".xz": lzma.decompress, ".bz2": bz2.decompress}[suffix](data)
