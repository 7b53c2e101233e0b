"""The file of an index: one header, then arrays as they are used, so that they can be mapped. See docs/index_format.md.

Everything is little-endian and follows from the parameters in the header, so that the same content has the same bytes
on every machine, and a header cannot point anywhere else. CRC-32 finds every change of up to 32 bits in a row.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import secrets
import struct
import sys
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Path = str | os.PathLike[str]

MAGIC = b"\x89FKLSH\r\n"
VERSION = 1
ALIGNMENT = 64
HASHERS = {"simhash": 1}
LANES = 16
"""Rows are padded with zeros to a multiple of so many elements."""

_FIXED = struct.Struct("<8s I I Q I I I I Q 16s Q Q Q I I")
_SECTION = struct.Struct("<8s Q Q I I")
_CRC = struct.Struct("<I")
_NAMES = ("rows", "ids", "codes", "small", "scale", "start", "position", "key")
_KINDS = ("<f4", "<i8", "|u1", "|u1", "<f4", "<u4", "<u4", "<u8")
HEADER = -(-(_FIXED.size + len(_NAMES) * _SECTION.size + _CRC.size) // ALIGNMENT) * ALIGNMENT
_PART = 1 << 24
"""Bytes that are looked at together."""

MOST_TABLES = 1 << 16
MOST_BITS = 64
MOST_PROBES = (1 << 63) - 1
MOST_ROWS = (1 << 32) - 1
SMALL_FROM, SMALL_TO = 64, 1 << 20
"""Least and most elements of rows that are kept as small integers too: of shorter ones they would save nothing."""


def width_of(dimension: int) -> int:
    """Elements of a padded row."""
    return -(-dimension // LANES) * LANES


def small_width_of(dimension: int) -> int:
    """Elements of a row of small integers: whole cache lines."""
    return -(-dimension // ALIGNMENT) * ALIGNMENT if SMALL_FROM <= width_of(dimension) <= SMALL_TO else 0


@dataclass(frozen=True)
class Description:
    """What a header says; the layout of the file follows from it."""

    hasher: str
    n_tables: int
    n_bits: int
    n_probes: int
    seed: int
    dimension: int
    rows: int
    prefix: int
    next_id: int

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the sections, in order."""
        keys = self.rows if self.prefix < self.n_bits else 0
        n, tables = self.rows, self.n_tables
        code, small = -(-tables * self.n_bits // 8), small_width_of(self.dimension)
        vectors = (n, width_of(self.dimension)), (n,), (n, code), (n, small), (n, int(small > 0))
        return *vectors, (tables, 2**self.prefix + 1), (tables, n), (tables, keys)

    def layout(self) -> list[tuple[str, int, int]]:
        """Name, offset and size in bytes of each section."""
        sections, end = [], HEADER
        for name, kind, shape in zip(_NAMES, _KINDS, self.shapes, strict=True):
            size = np.dtype(kind).itemsize
            for extent in shape:
                size *= extent
            offset = -(-end // ALIGNMENT) * ALIGNMENT
            sections.append((name, offset, size))
            end = offset + size
        return sections

    def size(self) -> int:
        """Bytes of the file."""
        _, offset, size = self.layout()[-1]
        return offset + size


def _header(description: Description, checksums: Iterable[int]) -> bytes:
    d = description
    fixed = _FIXED.pack(
        *(MAGIC, VERSION, HEADER, d.size(), HASHERS[d.hasher], d.n_tables, d.n_bits, d.prefix, d.n_probes),
        *(d.seed.to_bytes(16, "little"), d.dimension, d.rows, d.next_id, len(_NAMES), 0),
    )
    sections = b"".join(
        _SECTION.pack(name.encode(), offset, size, checksum, 0)
        for (name, offset, size), checksum in zip(d.layout(), checksums, strict=True)
    )
    text = (fixed + sections).ljust(HEADER - _CRC.size, b"\0")
    return text + _CRC.pack(zlib.crc32(text))


# ---- writing


def _bytes_of(array: Array, kind: str) -> Iterator[memoryview]:
    """An array's bytes as they go to the file, a part at a time."""
    flat = array.reshape(-1)
    step = _PART // flat.itemsize
    for first in range(0, flat.size, step):
        part = np.ascontiguousarray(flat[first : first + step].astype(kind, copy=False))
        yield memoryview(part.view(np.uint8))


def _write_all(fd: int, data: memoryview | bytes, offset: int) -> None:
    rest = memoryview(data)
    while rest:
        written = os.pwrite(fd, rest, offset)
        rest, offset = rest[written:], offset + written


def _sync_directory(path: str) -> None:
    fd = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write(path: Path, description: Description, sections: Iterable[Iterable[Array]]) -> None:
    """Write a file beside the path, and give it that name when it is complete and on disk.

    `sections` are the arrays of each section, one after the other.
    """
    target = os.path.realpath(os.fspath(path))
    if isinstance(target, bytes):
        target = os.fsdecode(target)
    partial = f"{target}.{secrets.token_hex(8)}.partial"
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        try:
            os.ftruncate(fd, description.size())
            checksums = []
            for (_, offset, size), kind, arrays in zip(description.layout(), _KINDS, sections, strict=True):
                checksum, end = 0, offset + size
                for part in (part for array in arrays for part in _bytes_of(array, kind)):
                    _write_all(fd, part, offset)
                    checksum, offset = zlib.crc32(part, checksum), offset + len(part)
                assert offset == end
                checksums.append(checksum)
            _write_all(fd, _header(description, checksums), 0)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(partial, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise
    _sync_directory(target)


# ---- reading


def _refused(path: str, why: str) -> ValueError:
    return ValueError(f"path={path!r}: {why}")


def _parsed(path: str, header: bytes, actual: int) -> tuple[Description, list[int]]:
    """What the header says, once it is sure that it is one, and the checksums of the sections."""
    if header[: len(MAGIC)] != MAGIC[: len(header)] or not header:
        raise _refused(path, f"this is no index of fastk, or its first {len(MAGIC)} bytes are damaged")
    if len(header) < 16:
        raise _refused(path, f"the file is truncated: it has {actual} bytes, and the header alone has {HEADER}")
    version = int.from_bytes(header[8:12], "little")
    if version > VERSION:
        raise _refused(path, f"the file has version {version} of the format; this fastk reads version {VERSION}")
    if version != VERSION or int.from_bytes(header[12:16], "little") != HEADER:
        raise _refused(path, "the header is damaged")
    if len(header) < HEADER:
        raise _refused(path, f"the file is truncated: it has {actual} bytes, and the header alone has {HEADER}")
    if zlib.crc32(header[: -_CRC.size]) != _CRC.unpack(header[-_CRC.size :])[0]:
        raise _refused(path, "the header is damaged: its checksum does not match")
    (_, _, _, size, code, tables, bits, prefix, probes, seed, dimension, rows, next_id, count, _) = _FIXED.unpack_from(
        header
    )
    hashers = {code: name for name, code in HASHERS.items()}
    # From here on the file was made by a program, if not by this one.
    if (
        code not in hashers
        or not 1 <= tables <= MOST_TABLES
        or not 1 <= bits <= MOST_BITS
        or not prefix <= min(bits, 32)
        or probes > MOST_PROBES
        or rows > MOST_ROWS
        or dimension > 2**40
        or (rows and not dimension)
        or next_id > 2**63
        or count != len(_NAMES)
    ):
        raise _refused(path, "the header has values that no index has")
    description = Description(
        hashers[code], tables, bits, probes, int.from_bytes(seed, "little"), dimension, rows, prefix, next_id
    )
    stored = [_SECTION.unpack_from(header, _FIXED.size + i * _SECTION.size) for i in range(count)]
    expected = [(name.encode().ljust(8, b"\0"), offset, bytes_) for name, offset, bytes_ in description.layout()]
    if [tuple(section[:3]) for section in stored] != expected or size != description.size():
        raise _refused(path, "the header contradicts itself: the sections are not those of its parameters")
    if actual < size:
        raise _refused(path, f"the file is truncated: it has {actual} bytes instead of {size}")
    if actual > size:
        raise _refused(path, f"the file has {actual} bytes instead of {size}: something was appended")
    if _header(description, [section[3] for section in stored]) != header:
        raise _refused(path, "the header has something where zeros belong")
    return description, [section[3] for section in stored]


def _check_sections(path: str, whole: Array, description: Description, checksums: list[int]) -> None:
    end = HEADER
    for (name, offset, size), expected in zip(description.layout(), checksums, strict=True):
        if whole[end:offset].any():
            raise _refused(path, f"the bytes before section {name!r} are damaged")
        checksum, end = 0, offset + size
        for first in range(offset, end, _PART):
            checksum = zlib.crc32(whole[first : min(end, first + _PART)], checksum)
        if checksum != expected:
            raise _refused(path, f"section {name!r} (bytes {offset} to {end}) is damaged: its checksum does not match")


def _check_tables(path: str, arrays: list[Array], description: Description) -> None:
    """The tables of a program that computed the right checksums of wrong tables."""
    rows, ids, _, _, scale, start, position, key = arrays
    n = description.rows
    if (ids[1:] <= ids[:-1]).any() or (n and int(ids[-1]) >= description.next_id):
        raise _refused(path, "section 'ids' is wrong: ids do not increase up to the next one")
    step = max(1, _PART // max(1, rows.shape[1] * 4))
    if not all(np.isfinite(rows[first : first + step]).all() for first in range(0, n, step)):
        raise _refused(path, "section 'rows' is wrong: not all are finite")
    if not ((scale >= 0) & (scale < 1)).all():
        raise _refused(path, "section 'scale' is wrong: not all are between 0 and 1")
    if (start[:, 0] != 0).any() or (start[:, -1] != n).any():
        raise _refused(path, "section 'start' is wrong: a table does not begin at 0 and end with all rows")
    for table in range(description.n_tables):
        if (start[table, 1:] < start[table, :-1]).any():
            raise _refused(path, "section 'start' is wrong: a bucket ends before it begins")
        if n and position[table].max() >= n:
            raise _refused(path, "section 'position' is wrong: it names a row that is not there")
        if (key[table, 1:] < key[table, :-1]).any():
            raise _refused(path, "section 'key' is wrong: buckets are not in order")


def read(path: Path, *, mapped: bool, verify: bool) -> tuple[Description, list[Array]]:
    """The description and the sections of a file, mapped (and then read-only) or in memory.

    Raises
    ------
    ValueError
        If it is not a whole and undamaged file of an index. With `verify` every byte is looked at, otherwise only the
        header and the size.
    OSError
        If it cannot be read.
    """
    shown = os.fsdecode(os.fspath(path))
    with open(path, "rb") as file:
        header = file.read(HEADER)
        actual = os.fstat(file.fileno()).st_size
        description, checksums = _parsed(shown, header, actual)
        whole: Array
        if mapped:
            whole = np.frombuffer(mmap.mmap(file.fileno(), actual, access=mmap.ACCESS_READ), np.uint8)
        else:
            room = np.empty(actual + ALIGNMENT, np.uint8)
            whole = room[-room.__array_interface__["data"][0] % ALIGNMENT :][:actual]
            file.seek(0)
            done = 0
            while count := file.readinto(memoryview(whole)[done:]):
                done += count
            if done != actual:
                raise _refused(shown, f"the file is truncated: {done} bytes could be read instead of {actual}")
    if verify:
        _check_sections(shown, whole, description, checksums)
    arrays = []
    for (_, offset, size), kind, shape in zip(description.layout(), _KINDS, description.shapes, strict=True):
        array = whole[offset : offset + size].view(kind).reshape(shape)
        arrays.append(array if sys.byteorder == "little" else array.astype(array.dtype.newbyteorder("=")))
    if verify:
        _check_tables(shown, arrays, description)
    return description, arrays
