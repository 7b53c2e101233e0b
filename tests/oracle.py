"""Slow, obvious references, by other methods than the code under test."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import mmh3
import numpy as np
import numpy.typing as npt

WORD = 2**64
"""Keys, record numbers and positions are taken modulo this."""

BEFORE_FIRST = WORD - 1
"""Record number before the first one, so that record 0 has a gap of 1."""

NO_BUCKET = 2**16 - 1
"""Bucket of a record that is left out."""


def philox(seed: int, start: int, n: int) -> npt.NDArray[np.uint64]:
    """Words start to start + n of NumPy's Philox stream, four to a value of its counter."""
    block, skipped = divmod(start, 4)
    return np.random.Philox(key=seed, counter=block).random_raw(skipped + n)[skipped:]


def keys(n: int, seed: int) -> npt.NDArray[np.uint64]:
    """Keys of the first n records."""
    return np.random.Philox(key=seed).random_raw(n)


def order(n: int, seed: int) -> npt.NDArray[np.int64]:
    """Output record j is input record order[j]."""
    return np.argsort(keys(n, seed), kind="stable")


def records(data: bytes, delimiter: bytes = b"\n") -> list[bytes]:
    """Records of a file, each with its delimiter; the last one gets it if it lacks it."""
    pieces = data.split(delimiter)
    last = pieces.pop()
    return [piece + delimiter for piece in pieces + [last] * (last != b"")]


def ended_lines(data: bytes, delimiter: bytes = b"\n") -> list[bytes]:
    """Lines of a file that have their delimiter."""
    return [line + delimiter for line in data.split(delimiter)[:-1]]


def ended_records(data: bytes, delimiter: bytes = b"\n", lines: int = 1) -> list[bytes]:
    """Records of so many lines each, of a file; what follows the last of them is no record."""
    ended = ended_lines(data, delimiter)
    return [b"".join(ended[i : i + lines]) for i in range(0, len(ended) - lines + 1, lines)]


def checksum(records: Iterable[bytes]) -> int:
    """Sum of the MurmurHash3_x64_128 of records, modulo 2^128."""
    return sum(mmh3.hash128(record, 0, True, signed=False) for record in records) % 2**128


def shuffled(inputs: Iterable[bytes], seed: int, delimiter: bytes = b"\n") -> bytes:
    """What a shuffle of these files writes."""
    lines = [record for data in inputs for record in records(data, delimiter)]
    return b"".join(lines[i] for i in order(len(lines), seed))


def descend(key: int, fanouts: Iterable[int]) -> tuple[int, int]:
    """(bucket at the last level, rest of the key): floor and fraction of key * fanout, level after level."""
    bucket = 0
    for fanout in fanouts:
        bucket, key = divmod(key * fanout, WORD)
    return bucket, key


@dataclass(frozen=True)
class Frame:
    """A record of a bucket: its bytes, or (length, offset in the input) where it is only referred to."""

    number: int
    data: bytes = b""
    reference: tuple[int, int] | None = None

    @property
    def length(self) -> int:
        """Bytes of the record."""
        return self.reference[0] if self.reference else len(self.data)

    def payload(self) -> bytes:
        """What follows the word of a frame by reference: a descriptor and an offset."""
        assert self.reference is not None
        length, offset = self.reference
        return _integer(length << 1 | 1, 8) + _integer(offset, 8)


@dataclass(frozen=True)
class Placed:
    """A decoded frame, where it begins and where its bytes (or its descriptor, by reference) begin."""

    frame: Frame
    position: int
    start: int


def _integer(value: int, size: int) -> bytes:
    return value.to_bytes(size, sys.byteorder)


def encode_frames(frames: Iterable[Frame], gap_bits: int, previous: int = BEFORE_FIRST) -> bytes:
    """Frames of one bucket, as they are kept in scratch."""
    largest_gap = 2**gap_bits - 1
    out = []
    for frame in frames:
        gap = (frame.number - previous) % WORD
        skips = (gap - 1) // largest_gap if gap else 0
        gap -= skips * largest_gap
        out.append(_integer(0, 4) * skips)
        if frame.reference is not None:
            out += [_integer(gap, 4), frame.payload()]
        elif 0 < len(frame.data) < 2 ** (32 - gap_bits):
            out += [_integer(len(frame.data) << gap_bits | gap, 4), frame.data]
        else:
            out += [_integer(gap, 4), _integer(len(frame.data) << 1, 8), frame.data]
        previous = frame.number
    return b"".join(out)


def decode_frames(
    data: bytes, gap_bits: int, position: int = 0, previous: int = BEFORE_FIRST, capacity: int | None = None
) -> tuple[list[Placed], int, int]:
    """(whole frames, position after them, last record number), up to a number of frames."""
    frames: list[Placed] = []
    while len(frames) != capacity and position + 4 <= len(data):
        word = int.from_bytes(data[position : position + 4], sys.byteorder)
        size, gap = divmod(word, 2**gap_bits)
        number = (previous + gap) % WORD
        start = position + 4
        if word == 0:
            position, previous = start, (previous + 2**gap_bits - 1) % WORD
            continue
        reference = None
        if size == 0:
            if start + 8 > len(data):
                break
            size, by_reference = divmod(int.from_bytes(data[start : start + 8], sys.byteorder), 2)
            if by_reference:
                reference = size, int.from_bytes(data[start + 8 : start + 16], sys.byteorder)
                size = 16
            else:
                start += 8
        if start + size > len(data):
            break
        frame = Frame(number, b"" if reference else data[start : start + size], reference)
        frames.append(Placed(frame, position, start))
        position, previous = start + size, number
    return frames, position, previous


@dataclass
class Bucket:
    """What one scatter puts in a bucket."""

    frames: list[Frame]

    @property
    def output_bytes(self) -> int:
        """Bytes of its records, of those by reference too."""
        return sum(frame.length for frame in self.frames)

    @property
    def checksum(self) -> int:
        """Checksum of its records, of those by reference not."""
        return checksum(frame.data for frame in self.frames if frame.reference is None)


def scatter(
    frames: Sequence[Frame], seed: int, fanouts: Sequence[int], least: int = 0, most: int = WORD - 1
) -> tuple[list[int], dict[int, Bucket]]:
    """(bucket of every record, contents of the buckets that get any), of the records whose keys are in a range."""
    found = [int(philox(seed, frame.number, 1)[0]) for frame in frames]
    places = [descend(key, fanouts)[0] if least <= key <= most else NO_BUCKET for key in found]
    buckets: dict[int, Bucket] = {}
    for frame, place in zip(frames, places, strict=True):
        if place != NO_BUCKET:
            buckets.setdefault(place, Bucket([])).frames.append(frame)
    return places, buckets
