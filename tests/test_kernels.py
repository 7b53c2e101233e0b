"""Every kernel of the table, on every backend and level, against references by other methods and bit against bit."""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hashing_oracle
import mmh3
import numpy as np
import oracle
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracle import BEFORE_FIRST, NO_BUCKET, WORD, Frame

import fastk
from fastk._backend import c
from fastk._backend.kernels import DTYPES, KERNELS, RANGES, TALLY_FIELDS, Kernel, Parameter
from fastk._taylor import fast_plan, plan

CSRC = Path(__file__).resolve().parent.parent / "csrc"

# On both sides of a word of 8 bytes, of the vectors of each level, of the window of 64 bytes, and of several of these.
LENGTHS = [0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 191, 192, 193, 1000]
COPY_BY_CALL = 2048
SIZES = [*LENGTHS[1:-1], 255, 256, 257, COPY_BY_CALL - 1, COPY_BY_CALL, COPY_BY_CALL + 1, 5000]
SMALL_SORT = 24
NEVER = 2**31 - 1
BY_REFERENCE = 2**31
SEEDS = [0, 1, 7, 2**64 - 1, 2**64, 2**128 - 1, 0x0123456789ABCDEF_FEDCBA9876543210]

seeds = st.sampled_from(SEEDS) | st.integers(0, 2**128 - 1)
generators = st.builds(np.random.default_rng, st.integers(0, 2**32 - 1))
lengths = st.sampled_from(LENGTHS) | st.integers(0, 300)
gap_bits_allowed = st.integers(6, 24) | st.integers(1, 31)
fanouts_allowed = st.sampled_from([1, 2, 3, 7, 16, 100, 512])
level_lists = st.lists(fanouts_allowed, max_size=3)
fanout_lists = st.lists(fanouts_allowed, min_size=1, max_size=3)


def words(seed: int) -> tuple[int, int]:
    """Halves of a seed, as kernels take it."""
    return seed % WORD, seed // WORD


def u64(values: Any) -> np.ndarray:
    return np.array(values, np.uint64)


def levels_of(fanouts: Sequence[int]) -> tuple[np.ndarray, int]:
    """The fanouts of some levels, which may be none, as kernels take them."""
    return u64(fanouts), len(fanouts)


def scatter_levels(fanouts: Sequence[int]) -> tuple[np.ndarray, int, int]:
    """The fanouts of the levels above the last, and that of the last, as the scatter takes them."""
    return *levels_of(fanouts[:-1]), fanouts[-1]


def unaligned(data: bytes, odd: int = 1) -> np.ndarray:
    """The bytes, at an odd address and between bytes that do not belong to them."""
    return np.frombuffer(bytearray(b"\n" * odd + data + b"\n" * 64), np.uint8)[odd : odd + len(data)]


class Guarded:
    """An output array between elements that must stay as they are; bytes begin at an odd address."""

    MARGIN = 33

    def __init__(self, n: int, dtype: type[np.generic], fill: int = 0xA5) -> None:
        self.whole = np.full((n + 2 * self.MARGIN) * np.dtype(dtype).itemsize, fill, np.uint8).view(dtype)
        self.untouched = self.whole.copy()
        self.array = self.whole[self.MARGIN : self.MARGIN + n]

    def written(self, n: int) -> np.ndarray:
        """The first n elements, once it is sure that no other was written."""
        end = self.MARGIN + n
        np.testing.assert_array_equal(self.whole[: self.MARGIN], self.untouched[: self.MARGIN])
        np.testing.assert_array_equal(self.whole[end:], self.untouched[end:])
        return self.array[:n]


# ---- finding bytes


@pytest.mark.parametrize("wanted", [0, 10, 127, 128, 255])
def test_find_every_position(kernels, wanted):
    other = wanted ^ 0x80
    for n in LENGTHS:
        for odd in (0, 1, 3):
            around = np.full(n + odd + 64, wanted, np.uint8)
            buf = around[odd : odd + n]
            buf[:] = other
            assert kernels.find_byte(buf, n, wanted) == n
            assert kernels.rfind_byte(buf, n, wanted) == n
            assert kernels.count_byte(buf, n, wanted) == 0
            for at in range(n) if odd == 1 else {0, n // 2, n - 1} - {-1}:
                if n:
                    buf[at] = wanted
                    assert kernels.find_byte(buf, n, wanted) == at
                    assert kernels.rfind_byte(buf, n, wanted) == at
                    assert kernels.count_byte(buf, n, wanted) == 1
                    buf[at] = other


@pytest.mark.parametrize("n", LENGTHS)
def test_find_all_equal(kernels, n):
    buf = unaligned(b"\xff" * n)
    assert kernels.find_byte(buf, n, 0xFF) == 0
    assert kernels.rfind_byte(buf, n, 0xFF) == max(0, n - 1)
    assert kernels.count_byte(buf, n, 0xFF) == n


# Neighbours of the wanted byte, and its top bit flipped, are what an inexact search in words confuses with it.
@given(lengths, generators, st.sampled_from([0, 1, 9, 10, 127, 128, 254, 255]), st.integers(0, 9))
def test_find_against_bytes(kernels, n, rng, wanted, odd):
    alphabet = np.array([wanted, wanted ^ 1, wanted ^ 0x80, (wanted + 1) % 256, 0, 255], np.uint8)
    data = rng.choice(alphabet, n, p=[0.05, 0.25, 0.2, 0.2, 0.15, 0.15]).tobytes()
    buf, byte = unaligned(data, odd), bytes([wanted])
    assert kernels.find_byte(buf, n, wanted) == data.find(byte) % (n + 1)
    assert kernels.rfind_byte(buf, n, wanted) == data.rfind(byte) % (n + 1)
    assert kernels.count_byte(buf, n, wanted) == data.count(byte)


def test_find_reads_n_bytes_only(kernels):
    buf = np.full(300, 10, np.uint8)
    buf[:200] = 0
    for n in (0, 1, 63, 64, 65, 200):
        assert kernels.find_byte(buf, n, 10) == kernels.rfind_byte(buf, n, 10) == n
        assert kernels.count_byte(buf, n, 10) == 0


# ---- keys


@pytest.mark.parametrize("seed", SEEDS)
def test_philox_is_that_of_numpy(kernels, seed):
    for n in LENGTHS:
        out = Guarded(n, np.uint64)
        kernels.philox_fill(*words(seed), 0, out.array, n)
        np.testing.assert_array_equal(out.written(n), oracle.keys(n, seed))


@given(
    seeds,
    st.sampled_from([0, 1, 2, 3, 5, 2**32 - 1, 2**63 - 3, 2**63, WORD - 1001]) | st.integers(0, WORD - 1001),
    lengths,
)
@example(0, WORD - 1, 1)
@example(2**128 - 1, WORD - 3, 3)
@example(7, WORD - 64, 64)
def test_philox_from_anywhere(kernels, seed, start, n):
    out = Guarded(n + 2, np.uint64)
    kernels.philox_fill(*words(seed), start, out.array, n)
    np.testing.assert_array_equal(out.written(n), oracle.philox(seed, start, n))


@given(st.sampled_from([0, 1, 2**32 - 2, 2**63, WORD - 1001]) | st.integers(0, WORD - 1001), lengths)
def test_number_records(kernels, first, n):
    out = Guarded(n, np.uint64)
    kernels.number_records(first, out.array, n)
    assert out.written(n).tolist() == list(range(first, first + n))


# ---- splitting at delimiters


def split_delimited(
    kernels, data: bytes, delimiter: bytes, lines: int, state: Sequence[int], capacity: int
) -> tuple[list[tuple[int, int]], list[int]]:
    """(start, size) of what is found, and the state afterwards."""
    starts, sizes, states = Guarded(capacity, np.uint32), Guarded(capacity, np.uint32), Guarded(4, np.uint64)
    states.array[:] = u64(state)
    pattern = unaligned(delimiter, 3)
    m = kernels.split_delimited(
        unaligned(data), len(data), pattern, len(delimiter), lines, states.array, starts.array, sizes.array, capacity
    )
    assert m <= capacity
    found = zip(starts.written(m).tolist(), sizes.written(m).tolist(), strict=True)
    return list(found), states.written(4).tolist()


def expected_spans(data: bytes, delimiter: bytes, lines: int, start: int) -> tuple[list[tuple[int, int]], list[int]]:
    """What a scan of data[start:] finds, and the state after it."""
    sizes = [len(record) for record in oracle.ended_records(data[start:], delimiter, lines)]
    ends = [start + sum(sizes[: i + 1]) for i in range(len(sizes))]
    ended = oracle.ended_lines(data[start:], delimiter)
    spans = [(end - size, size) for end, size in zip(ends, sizes, strict=True)]
    return spans, [ends[-1] if ends else start, len(data), start + len(b"".join(ended)), len(ended) % lines]


def text_of(rng: np.random.Generator, n: int, delimiter: bytes, density: float) -> bytes:
    """Bytes with some delimiters, whole and in parts, and bytes that an inexact search would take for theirs."""
    last = delimiter[-1]
    alphabet = bytes({last ^ 1, last ^ 0x80, 0, 255, *delimiter[: rng.choice([0, len(delimiter)])]} - {last})
    alphabet += delimiter * int(rng.choice([0, 1])) if len(delimiter) > 1 else b""
    text = bytearray(rng.choice(np.frombuffer(alphabet, np.uint8), n).tobytes())
    for at in np.flatnonzero(rng.random(n) < density).tolist():
        text[at : at + len(delimiter)] = delimiter
    return bytes(text[:n])


delimiters = (
    st.sampled_from([b"\n", b"\0", b"\x80", b"\xff", b"aa", b"aaa", b"\r\n", b"\n\n", b"abab", b"aab", b"abaab"])
    | st.binary(min_size=1, max_size=40)
    | st.builds(lambda unit, width: (unit * width)[:width], st.sampled_from([b"a", b"ab", b"aab"]), st.integers(1, 40))
)


@given(lengths, generators, delimiters, st.sampled_from([0.003, 0.05, 0.5, 1.0]), st.integers(1, 5), st.data())
def test_split_delimited(kernels, n, rng, delimiter, density, lines, data):
    text, start = text_of(rng, n, delimiter, density), data.draw(st.integers(0, n))
    before = [start, start, start, 0]
    spans, after = expected_spans(text, delimiter, lines, start)
    for capacity in {1, data.draw(st.integers(1, n + 1)), max(1, len(spans)), len(spans) + 1}:
        found, state = split_delimited(kernels, text, delimiter, lines, before, capacity)
        assert found == spans[:capacity]
        end = sum(found[-1]) if found else start
        assert state == (after if len(spans) < capacity else [end, end, end, 0])
        if capacity > 1:  # the bytes before the first line's end are known to hold none
            clear = data.draw(st.integers(start, text.find(delimiter, start) % (n + 1)))
            known = [start, clear, start, 0]
            assert split_delimited(kernels, text, delimiter, lines, known, capacity) == (found, state)


@given(lengths, generators, delimiters, st.sampled_from([0.05, 0.5]), st.integers(1, 5), st.data())
def test_split_delimited_piece_by_piece(kernels, n, rng, delimiter, density, lines, data):
    text, start = text_of(rng, n, delimiter, density), data.draw(st.integers(0, n))
    cuts = sorted(data.draw(st.lists(st.integers(start, n), max_size=6)))
    capacity, spans, state = data.draw(st.integers(1, 9)), [], [start, start, start, 0]
    for cut in [*cuts, n]:
        while True:
            found, state = split_delimited(kernels, text[:cut], delimiter, lines, state, capacity)
            spans += found
            if len(found) < capacity:
                break
        assert (spans, state) == expected_spans(text[:cut], delimiter, lines, start)


@pytest.mark.parametrize("unit", [b"a", b"ab", b"abc", bytes(range(65, 65 + 40))], ids=lambda unit: f"{len(unit)}")
def test_split_at_every_width_and_window_edge(kernels, unit):
    for width in range(1, 41):
        delimiter = (unit * width)[:width]
        for end in sorted({width, *range(60, 70), *range(126, 132)}):
            if end < width:
                continue
            text = b"-" * (end - width) + delimiter + b"-" * (end % 3)
            expected = [(0, end)], [end, len(text), end, 0]
            assert split_delimited(kernels, text, delimiter, 1, [0, 0, 0, 0], 2) == expected
            for scanned in {0, end - width, end // 2, end - 1}:
                assert split_delimited(kernels, text, delimiter, 1, [0, scanned, 0, 0], 2) == expected
            # The line begins within the delimiter: it is none.
            late = [0, end - width + 1, end - width + 1, 0]
            unfound = [], [0, len(text), end - width + 1, 0]
            assert split_delimited(kernels, text, delimiter, 1, late, 2) == unfound


@pytest.mark.parametrize("n", LENGTHS)
def test_split_one_record_and_a_rest(kernels, n):
    for rest in (b"", b"x", b"x" * 64):
        data = b"x" * n + b"\n" + rest
        expected = [(0, n + 1)], [n + 1, len(data), n + 1, 0]
        assert split_delimited(kernels, data, b"\n", 1, [0, 0, 0, 0], 3) == expected
        assert split_delimited(kernels, data, b"\n", 1, [0, n, 0, 0], 3) == expected
        assert split_delimited(kernels, data, b"\n", 1, [n + 1, n + 1, n + 1, 0], 3) == ([], expected[1])
        unfinished = [0, len(data), n + 1, 1]
        assert split_delimited(kernels, data, b"\n", 2, [0, 0, 0, 0], 3) == ([], unfinished)
    assert split_delimited(kernels, b"\n" * n, b"\n", 1, [0] * 4, n + 1)[0] == [(i, 1) for i in range(n)]
    assert split_delimited(kernels, b"x" * n, b"\n", 1, [0] * 4, 3) == ([], [0, n, 0, 0])
    for width in (2, 3, 5, 40):
        found, state = split_delimited(kernels, b"a" * n, b"a" * width, 1, [0] * 4, n + 1)
        assert found == [(i, width) for i in range(0, n - width + 1, width)]
        assert state == [n - n % width, n, n - n % width, 0]


@pytest.mark.parametrize(
    ("delimiter", "lines", "state", "capacity"),
    [
        (b"\n", 1, [0, 0, 0, 0], 0),
        (b"\n", 3, [1, 5, 3, 1], 0),
        (b"", 1, [0, 0, 0, 0], 9),
        (b"\n", 0, [0, 0, 0, 0], 9),
        (b"", 0, [0, 0, 0, 0], 9),
        *(
            (delimiter, lines, state, 9)
            for delimiter, lines in ((b"\n", 1), (b"\n", 3), (b"b\n", 1), (b"b\n", 2))
            for state in (
                [1, 0, 0, 0], [1, 1, 0, 0], [0, 3, 4, 0], [5, 3, 4, 0], [0, 9, 0, 0], [9, 9, 9, 0], [0, 0, 0, 3],
                [0, 2**63, 0, 0], [2**63, 2**63, 2**63, 0], [WORD - 1, 0, 0, 0], [0, 0, WORD - 1, 0], [WORD - 1] * 4,
                [0, 0, 0, WORD - 1], [0, 0, 0, 2**63],
            )
        ),
    ],
)
def test_split_of_a_state_that_cannot_be(kernels, delimiter, lines, state, capacity):
    assert split_delimited(kernels, b"ab\nab\n--", delimiter, lines, state, capacity) == ([], state)


def test_split_with_a_delimiter_longer_than_the_block(kernels):
    for n in (0, 1, 63, 64, 65, 200):
        for width in (n + 1, n + 64, 1000):
            assert split_delimited(kernels, b"a" * n, b"a" * width, 1, [0] * 4, 3) == ([], [0, n, 0, 0])


# ---- scattering


@dataclass
class Batch:
    """Records of a block, as the scatter gets them."""

    buf: np.ndarray
    start: np.ndarray
    size: np.ndarray
    frames: list[Frame]
    gap_bits: int
    before: int

    @property
    def number(self) -> np.ndarray:
        return u64([frame.number for frame in self.frames])

    def stored(self, reference_size: int, offset: int) -> list[Frame]:
        """The frames that are to be placed: large records by reference to the input, in which buf begins at offset."""
        return [
            Frame(frame.number, reference=(len(frame.data), offset + start))
            if frame.reference is None and len(frame.data) >= reference_size
            else frame
            for frame, start in zip(self.frames, self.start.tolist(), strict=True)
        ]


@st.composite
def batches(draw, max_records: int = 40) -> Batch:
    """Records of all sizes, some by reference, with numbers that grow by small steps and by steps that need skips."""
    rng, gap_bits = draw(generators), draw(gap_bits_allowed)
    count = draw(st.integers(0, max_records))
    largest_gap = 2**gap_bits - 1
    room = (count + 2) * 4 * largest_gap
    before = draw(st.sampled_from([BEFORE_FIRST, 0, 2, 2**32 - 2, WORD - room]) | st.integers(0, WORD - room))
    number, frames, pieces, start, size, at = before, [], [], [], [], 0
    for _ in range(count):
        number = (number + int(rng.choice([1, 2, 3, largest_gap, largest_gap + 1, 3 * largest_gap + 1]))) % WORD
        if rng.random() < 0.1:
            frame = Frame(number, reference=(int(rng.integers(1, 2**40)), int(rng.integers(0, 2**62))))
            piece = frame.payload()
            size.append(len(piece) | BY_REFERENCE)
        else:
            piece = rng.choice(np.array([0, 10, 255, 65], np.uint8), rng.choice(SIZES)).tobytes()
            frame = Frame(number, piece)
            size.append(len(piece))
        gap = int(rng.integers(0, 3))
        pieces.append(b"-" * gap + piece)
        start.append(at + gap)
        at += len(pieces[-1])
        frames.append(frame)
    buf = unaligned(b"".join(pieces), draw(st.integers(0, 3)))
    return Batch(buf, np.array(start, np.uint32), np.array(size, np.uint32), frames, gap_bits, before)


reference_sizes = st.sampled_from([1, 17, 64, 300, COPY_BY_CALL, NEVER])


WHOLE_RANGE = (0, WORD - 1)
key_ranges = st.just(WHOLE_RANGE) | st.tuples(st.integers(0, WORD - 1), st.integers(0, WORD - 1))


def find_buckets(kernels, number: np.ndarray, seed: int, fanouts: Sequence[int], least: int, most: int) -> list[int]:
    m = len(number)
    bucket = Guarded(m, np.uint16)
    kernels.bucket_records(number, m, *words(seed), *scatter_levels(fanouts), least, most, bucket.array)
    return bucket.written(m).tolist()


@given(batches(), seeds, fanout_lists, reference_sizes, st.integers(0, 2**50), key_ranges, generators)
def test_scatter(kernels, batch, seed, fanouts, reference_size, offset, key_range, rng):
    m, gap_bits, last = len(batch.frames), batch.gap_bits, fanouts[-1]
    places, buckets = oracle.scatter(batch.frames, seed, fanouts, *key_range)
    _, stored = oracle.scatter(batch.stored(reference_size, offset), seed, fanouts, *key_range)
    assert find_buckets(kernels, batch.number, seed, fanouts, *key_range) == places

    # A bucket that there is not is none, whichever it is.
    none = rng.integers(last, 2**16, m)
    bucket = np.where(np.array(places, int) == NO_BUCKET, none, places).astype(np.uint16)
    common, tally = (batch.buf, batch.start, batch.size, batch.number, bucket, m), Guarded(7 * last, np.uint64)
    kernels.scatter_count(*common, last, gap_bits, reference_size, tally.array)
    table = tally.written(7 * last).reshape(last, -1)

    begins, previous, at = np.zeros(last, np.uint64), np.full(last, batch.before, np.uint64), 0
    encoded = {}
    for b in range(last):
        row = dict(zip(TALLY_FIELDS, table[b].tolist(), strict=True))
        if b not in buckets:
            assert row == dict.fromkeys(TALLY_FIELDS, 0)
            begins[b] = at
            continue
        first, final = stored[b].frames[0].number, stored[b].frames[-1].number
        # The tally leaves out the skips before the first record: only its writer knows what came before.
        assert row == {
            "records": len(stored[b].frames),
            "scratch_bytes": len(oracle.encode_frames(stored[b].frames, gap_bits, first - 1)),
            "output_bytes": buckets[b].output_bytes,
            "first_number": first,
            "last_number": final,
            "check_low": 0,
            "check_high": 0,
        }
        encoded[b] = oracle.encode_frames(stored[b].frames, gap_bits, batch.before)
        at += 5
        begins[b] = at
        at += len(encoded[b])
    out = Guarded(at, np.uint8)
    untouched = np.ones(at, bool)
    position = begins.copy()
    kernels.scatter_place(*common, gap_bits, reference_size, offset, previous, position, last, out.array)
    whole = out.written(at)
    for b in range(last):
        begin = int(begins[b])
        if b not in encoded:
            assert (position[b], previous[b]) == (begin, batch.before)
            continue
        end = begin + len(encoded[b])
        assert whole[begin:end].tobytes() == encoded[b]
        assert (position[b], previous[b]) == (end, stored[b].frames[-1].number)
        untouched[begin:end] = False
    assert (whole[untouched] == 0xA5).all()


@pytest.mark.parametrize("fanouts", [[1], [65535], [1, 1, 5], [512, 512, 512], [3, 65535]])
def test_buckets_of_many_records(kernels, fanouts):
    m, seed, last = 5000, 12345, fanouts[-1]
    number = np.arange(3, m + 3, dtype=np.uint64)
    expected = [oracle.descend(key, fanouts)[0] for key in oracle.philox(seed, 3, m).tolist()]
    found = find_buckets(kernels, number, seed, fanouts, *WHOLE_RANGE)
    assert found == expected
    bucket, tally = np.array(found, np.uint16), Guarded(7 * last, np.uint64)
    kernels.scatter_count(
        np.zeros(0, np.uint8), np.zeros(m, np.uint32), np.full(m, 9, np.uint32), number, bucket, m, last, 20, NEVER,
        tally.array,
    )
    counts = tally.written(7 * last).reshape(last, -1)[:, TALLY_FIELDS.index("records")]
    np.testing.assert_array_equal(counts, np.bincount(expected, minlength=last))


@pytest.mark.parametrize("fanouts", [[7], [3, 5], [1]])
def test_buckets_of_a_range_of_keys(kernels, fanouts):
    m, seed = 50, 99
    number = np.arange(2**40, 2**40 + m, dtype=np.uint64)
    keys = oracle.philox(seed, 2**40, m).tolist()
    places = [oracle.descend(key, fanouts)[0] for key in keys]
    smallest, middle, largest = np.sort(u64(keys))[[0, m // 2, -1]].tolist()
    ends = [0, 1, smallest - 1, smallest, smallest + 1, middle - 1, middle, middle + 1, largest, largest + 1, WORD - 1]
    for least in ends:
        for most in ends:
            expected = [p if least <= key <= most else NO_BUCKET for p, key in zip(places, keys, strict=True)]
            assert find_buckets(kernels, number, seed, fanouts, least, most) == expected


@pytest.mark.parametrize("gap_bits", [1, 6, 8, 15, 24, 31])
def test_place_every_size(kernels, gap_bits):
    limit = 2 ** (32 - gap_bits)
    sizes = {*range(1, 140), *SIZES, limit - 1, limit, limit + 1}
    for size in (s for s in sizes if s < 300_000):
        data = (np.arange(size) * 7 % 251).astype(np.uint8).tobytes()
        expected = oracle.encode_frames([Frame(5, data)], gap_bits, 4)
        out, position = Guarded(len(expected), np.uint8), u64([0])
        kernels.scatter_place(
            unaligned(data), np.zeros(1, np.uint32), np.array([size], np.uint32), u64([5]), np.zeros(1, np.uint16), 1,
            gap_bits, NEVER, 0, u64([4]), position, 1, out.array,
        )
        assert out.written(len(expected)).tobytes() == expected
        assert position.tolist() == [len(expected)]


# ---- checksums


HASHED = [*range(101), 127, 128, 129, 1000, 4095, 4096, 4097, 100_003]


def halves(value: int) -> tuple[int, int]:
    """The low and the high word of a checksum."""
    return value % WORD, value // WORD % WORD


def hashed(kernels, data: bytes, cuts: Sequence[int] = (), odd: int = 1) -> tuple[int, int]:
    """The hash of data that comes in pieces of whole blocks, and a last one."""
    state = Guarded(2, np.uint64)
    state.array[:] = 0
    begins = [0, *(cut - cut % 16 for cut in sorted(cuts))]
    for begin, end in itertools.pairwise(begins):
        kernels.checksum_blocks(unaligned(data[begin:end], odd), end - begin, state.array)
    kernels.checksum_end(unaligned(data[begins[-1] :], odd), len(data) - begins[-1], len(data), state.array)
    low, high = state.written(2).tolist()
    return low, high


def test_hash_of_a_known_text(kernels):
    data = b"The quick brown fox jumps over the lazy dog"
    assert hashed(kernels, data) == (0xE34BBC7BBC071B6C, 0x7A433CA9C49A9347)
    assert hashed(kernels, b"") == (0, 0)


def test_hash_of_every_length(kernels):
    rng = np.random.default_rng(5)
    for n in HASHED:
        for data in (rng.bytes(n), b"\xff" * n, b"\0" * n):
            expected = mmh3.hash64(data, 0, True, signed=False)
            assert halves(oracle.checksum([data])) == expected
            assert hashed(kernels, data, [n]) == expected
            assert hashed(kernels, data, [], n % 5) == expected
            tally = u64([0] * 7)
            buf, start, size = unaligned(data), np.zeros(1, np.uint32), np.array([n], np.uint32)
            kernels.records_checksum(buf, start, size, np.zeros(1, np.uint16), 1, 1, tally)
            assert tuple(tally[5:].tolist()) == expected


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=4), st.integers(0, 7))
def test_hash_piece_by_piece(kernels, data, cuts, odd):
    cuts = [min(cut, len(data)) for cut in cuts]
    assert hashed(kernels, data, cuts, odd) == mmh3.hash64(data, 0, True, signed=False)


def test_blocks_are_whole(kernels):
    buf = unaligned(bytes(range(64)))
    for n in (0, 1, 15, 16, 17, 31, 32, 47):
        states = [u64([3, WORD - 5]) for _ in range(2)]
        kernels.checksum_blocks(buf, n, states[0])
        kernels.checksum_blocks(buf, n - n % 16, states[1])
        assert states[0].tolist() == states[1].tolist()
        assert (states[0].tolist() == [3, WORD - 5]) == (n < 16)


SUMS = st.sampled_from([0, 1, WORD - 1, WORD, 2**128 - 1, 2**128 - WORD]) | st.integers(0, 2**128 - 1)


@given(batches(), st.sampled_from([1, 2, 7, 600, 65535]), generators, st.lists(SUMS, min_size=3, max_size=3))
def test_checksum_of_records(kernels, batch, buckets, rng, sums):
    m = len(batch.frames)
    bucket = np.where(rng.random(m) < 0.2, 2**16 - 1, rng.integers(0, buckets + 1, m)).astype(np.uint16)
    tally = Guarded(7 * buckets, np.uint64, 7)
    table = tally.array.reshape(buckets, 7)
    before = [sums[b % 3] for b in range(buckets)]
    table[:, 5:] = [halves(value) for value in before]
    kernels.records_checksum(batch.buf, batch.start, batch.size, bucket, m, buckets, tally.array)
    for b, frame in zip(bucket.tolist(), batch.frames, strict=True):
        if b < buckets and frame.reference is None:
            before[b] += oracle.checksum([frame.data])
    assert tally.written(7 * buckets).reshape(buckets, 7)[:, 5:].tolist() == [list(halves(value)) for value in before]
    assert (table[:, :5] == 0x0707070707070707).all()


def test_checksum_carries(kernels):
    data, carries = b"carry\n", set()
    low, high = mmh3.hash64(data, 0, True, signed=False)
    buf, start, size = unaligned(data), np.zeros(1, np.uint32), np.array([len(data)], np.uint32)
    frame = unaligned(oracle.encode_frames([Frame(0, data)], 8))
    for before in ((WORD - low, 0), (WORD - low - 1, 0), (WORD - 1, WORD - 1), (WORD - low, WORD - high - 1), (0, 0)):
        expected = list(halves(before[0] + WORD * before[1] + low + WORD * high))
        tally, total = u64([0] * 5 + list(before)), u64(before)
        kernels.records_checksum(buf, start, size, np.zeros(1, np.uint16), 1, 1, tally)
        assert tally[5:].tolist() == expected
        assert kernels.frames_checksum(frame, u64([0, 0]), 0, 1, 8, total) == 1
        assert total.tolist() == expected
        carries.add(before[0] + low >= WORD)
    assert carries == {False, True}


# ---- reading frames


def split_frames(kernels, data: bytes, gap_bits: int, position: int, previous: int, capacity: int):
    state = u64([position, previous])
    start, size = Guarded(capacity, np.uint32), Guarded(capacity, np.uint32)
    number = Guarded(capacity, np.uint64)
    m = kernels.split_frames(
        unaligned(data), len(data), gap_bits, state, start.array, size.array, number.array, capacity
    )
    found = zip(start.written(m).tolist(), size.written(m).tolist(), number.written(m).tolist(), strict=True)
    return list(found), *state.tolist()


@dataclass
class Indexed:
    """What an index of segments gives: entries (rest of the key, position), and where it ended."""

    entries: list[tuple[int, int]]
    segments: list[tuple[int, int]]
    previous: int


def index_segments(
    kernels, data: bytes, n: int, gap_bits: int, segments: Sequence[tuple[int, int]], previous: int, capacity: int,
    seed: int, fanouts: Sequence[int],
) -> Indexed:
    rows, before, entries = Guarded(2 * len(segments), np.uint64), u64([previous]), Guarded(2 * capacity, np.uint64)
    rows.array[:] = u64(segments).reshape(-1)
    m = kernels.frames_index(
        unaligned(data), n, rows.array, len(segments), gap_bits, before, *words(seed), *levels_of(fanouts),
        entries.array, capacity,
    )
    written = entries.written(2 * m), rows.written(2 * len(segments))
    return Indexed(*(list(map(tuple, array.reshape(-1, 2).tolist())) for array in written), int(before[0]))


def frames_index(kernels, data: bytes, gap_bits: int, position: int, previous: int, capacity: int, seed: int, fanouts):
    case = (data, len(data), gap_bits, [(position, len(data))], previous, capacity, seed, fanouts)
    indexed = index_segments(kernels, *case)
    [(position, end)] = indexed.segments
    assert end == len(data)
    return indexed.entries, position, indexed.previous


def expected_split(data, gap_bits, position, previous, capacity):
    frames, at, last = oracle.decode_frames(data, gap_bits, position, previous, capacity)
    found = [(f.start, 16 | BY_REFERENCE if f.frame.reference else len(f.frame.data), f.frame.number) for f in frames]
    return found, at, last


def expected_entries(data, gap_bits, position, previous, capacity, seed, fanouts):
    frames, at, last = oracle.decode_frames(data, gap_bits, position, previous, capacity)
    rests = [oracle.descend(int(oracle.philox(seed, f.frame.number, 1)[0]), fanouts)[1] for f in frames]
    return [(rest, f.position) for rest, f in zip(rests, frames, strict=True)], at, last


def expected_index(data, n, gap_bits, segments, previous, capacity, seed, fanouts) -> Indexed:
    result = Indexed([], list(segments), previous)
    for i, (begin, end) in enumerate(segments):
        if end > n:
            break
        room = capacity - len(result.entries)
        found, at, result.previous = expected_entries(
            data[:end], gap_bits, begin, result.previous, room, seed, fanouts
        )
        result.entries += found
        result.segments[i] = at, end
    return result


@given(batches(), seeds, level_lists, reference_sizes, st.data())
def test_frames_back(kernels, batch, seed, fanouts, reference_size, data):
    frames, gap_bits, before = batch.stored(reference_size, 0), batch.gap_bits, batch.before
    encoded = oracle.encode_frames(frames, gap_bits, before)
    capacity = len(frames) + 1

    found, at, last = split_frames(kernels, encoded, gap_bits, 0, before, capacity)
    assert (at, last) == (len(encoded), frames[-1].number if frames else before)
    assert [number for _, _, number in found] == [frame.number for frame in frames]
    for (start, size, _), frame in zip(found, frames, strict=True):
        payload = frame.payload() if frame.reference else frame.data
        assert encoded[start : start + size % BY_REFERENCE] == payload
        assert (size >= BY_REFERENCE) == (frame.reference is not None)

    # A batch at a time, from a prefix that may end inside a frame.
    cut, capacity = data.draw(st.integers(0, len(encoded))), data.draw(st.integers(0, 5))
    position, previous = 0, before
    for prefix in (encoded[:cut], encoded):
        while True:
            case = (prefix, gap_bits, position, previous, capacity)
            result = split_frames(kernels, *case)
            assert result == expected_split(*case)
            indexed = frames_index(kernels, *case, seed, fanouts)
            assert indexed == expected_entries(*case, seed, fanouts)
            assert result[1:] == indexed[1:]
            if (position, previous) == result[1:]:
                break
            _, position, previous = result


def test_frames_cut_anywhere(kernels):
    frames = [Frame(0, b"a"), Frame(200, b"b" * 64), Frame(201, reference=(2**40, 2**50)), Frame(202, b"c" * 300)]
    for gap_bits in (1, 6, 24, 31):
        encoded = oracle.encode_frames(frames, gap_bits)
        for cut in range(len(encoded) + 1):
            case = (encoded[:cut], gap_bits, 0, BEFORE_FIRST, 9)
            assert split_frames(kernels, *case) == expected_split(*case)
            assert frames_index(kernels, *case, 7, [3, 5]) == expected_entries(*case, 7, [3, 5])


@given(generators, st.integers(0, 400), gap_bits_allowed, st.integers(0, WORD - 1), seeds, st.integers(0, 50))
def test_frames_of_noise(kernels, rng, n, gap_bits, previous, seed, capacity):
    data = rng.choice(np.array([0, 0, 0, 0, 1, 3, 255], np.uint8), n).tobytes()
    case = (data, gap_bits, min(n, 3), previous, capacity)
    assert split_frames(kernels, *case) == expected_split(*case)
    assert frames_index(kernels, *case, seed, [5, 1]) == expected_entries(*case, seed, [5, 1])


def test_skips_carry_the_number_past_2_64(kernels):
    encoded = oracle.encode_frames([Frame(WORD - 1, b"x"), Frame(2, b"y")], 6, WORD - 100)
    case = (encoded, 6, 0, WORD - 100, 5)
    assert split_frames(kernels, *case) == expected_split(*case)
    assert [number for _, _, number in split_frames(kernels, *case)[0]] == [WORD - 1, 2]
    assert frames_index(kernels, *case, 3, [4]) == expected_entries(*case, 3, [4])


POSITIONS_PAST = [1, 4, 8, 1000, 2**32, 2**62, 2**63 - 1, 2**64 - 10_000]


@pytest.mark.parametrize("past", POSITIONS_PAST)
def test_frames_from_past_the_end(kernels, past):
    data = oracle.encode_frames([Frame(i, b"abc") for i in range(5)], 8)
    begin = len(data) + past
    assert split_frames(kernels, data, 8, begin, 3, 9) == ([], begin, 3)
    assert split_frames(kernels, data * 100, 8, len(data) * 100 + past, 3, 9)[0] == []
    for n in range(8):
        assert split_frames(kernels, data[:n], 8, n + past, 3, 9) == ([], n + past, 3)
    assert frames_index(kernels, data, 8, begin, 3, 9, 1, [2]) == ([], begin, 3)


@st.composite
def segmented(draw) -> tuple[bytes, Batch, list[tuple[int, int]]]:
    """Frames of one bucket in segments with other bytes between them, and some of them cut short."""
    batch, rng = draw(batches()), draw(generators)
    frames = batch.stored(draw(reference_sizes), 0)
    cuts = sorted(draw(st.lists(st.integers(0, len(frames)), max_size=5)))
    data, segments, previous = b"", [], batch.before
    for begin, end in zip([0, *cuts], [*cuts, len(frames)], strict=True):
        run = oracle.encode_frames(frames[begin:end], batch.gap_bits, previous)
        previous = frames[end - 1].number if end else previous
        data += rng.bytes(int(rng.integers(0, 9)))
        lost = draw(st.sampled_from([0, 0, 0, 1, 4, 13]) | st.integers(0, len(run)))
        segments.append((len(data), len(data) + max(0, len(run) - lost)))
        data += run
    return data + rng.bytes(int(rng.integers(0, 9))), batch, segments


@given(segmented(), seeds, level_lists, st.data())
def test_index_of_segments(kernels, case, seed, fanouts, data):
    encoded, batch, segments = case
    previous, most = batch.before, len(batch.frames) + 1
    # Also fewer bytes than the segments name: those past the end, and any after them, are not read.
    for n in (len(encoded), data.draw(st.integers(0, len(encoded)))):
        arguments = (encoded, n, batch.gap_bits, segments, previous)
        whole = index_segments(kernels, *arguments, most, seed, fanouts)
        assert whole == expected_index(*arguments, most, seed, fanouts)
        # In pieces it is the same.
        capacity, pieces, at = data.draw(st.integers(1, most)), [], Indexed([], segments, previous)
        while True:
            here = (encoded, n, batch.gap_bits, at.segments, at.previous, capacity)
            after = index_segments(kernels, *here, seed, fanouts)
            assert after == expected_index(*here, seed, fanouts)
            pieces += after.entries
            if (after.segments, after.previous) == (at.segments, at.previous):
                break
            at = after
        assert Indexed(pieces, at.segments, at.previous) == whole
        nothing = index_segments(kernels, *arguments, 0, seed, fanouts)
        assert nothing == Indexed([], segments, previous)


def test_unfinished_frame_at_the_end_of_a_segment(kernels):
    first = oracle.encode_frames([Frame(0, b"abc"), Frame(2, b"d" * 20)], 8)
    second = oracle.encode_frames([Frame(3, b"ef"), Frame(9, b"g")], 8, 2)
    data = first + second
    for end in range(len(first) - 24, len(first)):
        result = index_segments(kernels, data, len(data), 8, [(0, end), (len(first), len(data))], WORD - 1, 9, 5, [])
        # The unfinished frame is left for later, and its number is not counted.
        keys = oracle.keys(9, 5).tolist()
        assert result.entries == [(keys[0], 0), (keys[1], len(first)), (keys[7], len(first) + 6)]
        assert result.segments == [(7, end), (len(data), len(data))]
        assert result.previous == 7


@pytest.mark.parametrize("past", POSITIONS_PAST)
def test_segment_that_ends_past_the_end_is_not_read(kernels, past):
    frame = oracle.encode_frames([Frame(0, b"abc")], 8)
    data = frame * 4
    n, size, keys = len(data), len(frame), oracle.keys(4, 5).tolist()
    for begin in (0, 2 * size, n, n + 1):
        segments = [(0, size), (begin, n + past), (size, 2 * size)]
        result = index_segments(kernels, data, n, 8, segments, WORD - 1, 9, 5, [])
        assert result == Indexed([(keys[0], 0)], [(size, size), *segments[1:]], 0)
    # The end counts, not the size of the array.
    assert index_segments(kernels, data, n - 1, 8, [(0, n)], 3, 9, 5, []) == Indexed([], [(0, n)], 3)
    assert len(index_segments(kernels, data, n, 8, [(0, n)], 3, 9, 5, []).entries) == 4


def test_no_segments_and_empty_ones(kernels):
    data = oracle.encode_frames([Frame(0, b"abc")], 8)
    n = len(data)
    assert index_segments(kernels, data, n, 8, [], 3, 9, 5, []) == Indexed([], [], 3)
    empty = [(0, 0), (n, n), (5, 5), (5, 1), (n, 0), (n + 9, n)]
    assert index_segments(kernels, data, n, 8, empty, 3, 9, 5, []) == Indexed([], empty, 3)


# ---- ordering


def check_sort(kernels, key: np.ndarray, position: np.ndarray) -> None:
    m = len(key)
    entries = Guarded(2 * m, np.uint64)
    entries.array[0::2], entries.array[1::2] = key, position
    kernels.entries_sort(entries.array, m)
    result, expected = entries.written(2 * m), np.lexsort((position, key))
    np.testing.assert_array_equal(result[0::2], key[expected])
    np.testing.assert_array_equal(result[1::2], position[expected])


KEYS = {
    "uniform": lambda rng, m: rng.integers(0, WORD, m, np.uint64),
    "all equal": lambda rng, m: np.full(m, 0xFEDCBA9876543210, np.uint64),
    "all zero": lambda rng, m: np.zeros(m, np.uint64),
    "all ones": lambda rng, m: np.full(m, WORD - 1, np.uint64),
    "two": lambda rng, m: rng.choice(u64([0, WORD - 1]), m),
    "many ties": lambda rng, m: rng.integers(0, max(1, m // 5), m).astype(np.uint64) * np.uint64(2**40 + 1),
    "low bits": lambda rng, m: rng.integers(0, max(1, m), m).astype(np.uint64),
    "high bits": lambda rng, m: rng.integers(0, 16, m).astype(np.uint64) << np.uint64(60),
    "ascending": lambda rng, m: np.sort(rng.integers(0, WORD, m, np.uint64)),
    "descending": lambda rng, m: np.sort(rng.integers(0, WORD, m, np.uint64))[::-1],
}
POSITIONS = {
    "ascending": lambda rng, m: np.arange(m, dtype=np.uint64) * np.uint64(37),
    "descending": lambda rng, m: np.arange(m, dtype=np.uint64)[::-1] + np.uint64(2**40),
    "anywhere": lambda rng, m: rng.permutation(m).astype(np.uint64) * np.uint64(2**40 + 1),
    "all bits": lambda rng, m: rng.integers(0, WORD, m, np.uint64),
    "all equal": lambda rng, m: np.full(m, 12, np.uint64),
}
SORT_LENGTHS = [0, 1, 2, 3, SMALL_SORT - 1, SMALL_SORT, SMALL_SORT + 1, 31, 32, 33, 63, 64, 65, 127, 128, 129, 1000]


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("key", KEYS)
def test_sort(kernels, key, position):
    rng = np.random.default_rng(1)
    for m in SORT_LENGTHS:
        check_sort(kernels, KEYS[key](rng, m), POSITIONS[position](rng, m))


@pytest.mark.parametrize("m", [4096, 65537, 200_000])
@pytest.mark.parametrize("key", ["uniform", "all equal", "many ties", "descending"])
def test_sort_many(kernels, key, m):
    rng = np.random.default_rng(m)
    check_sort(kernels, KEYS[key](rng, m), POSITIONS["anywhere"](rng, m))


@pytest.mark.parametrize("position", ["anywhere", "all equal"])
@pytest.mark.parametrize("m", [40, 200_000])
def test_sort_equal_keys_on_a_small_stack(kernels, m, position):
    rng, failed = np.random.default_rng(m), []
    key, at = KEYS["all equal"](rng, m), POSITIONS[position](rng, m)
    _ = kernels.entries_sort  # what numba compiles, it compiles here

    def run() -> None:
        try:
            check_sort(kernels, key, at)
        except BaseException as error:
            failed.append(error)

    before = threading.stack_size(512 * 1024)
    try:
        thread = threading.Thread(target=run)
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    assert not failed


@given(generators, st.integers(0, 2000), st.integers(0, 64), st.integers(0, 63))
def test_sort_some_bits(kernels, rng, m, bits, shift):
    mask = np.uint64((2**bits - 1) << shift & (WORD - 1))
    check_sort(kernels, rng.integers(0, WORD, m, np.uint64) & mask, rng.permutation(m).astype(np.uint64))


@given(batches(), st.integers(0, 300), st.data())
def test_gather(kernels, batch, odd, data):
    frames = batch.stored(300, 0)
    encoded = oracle.encode_frames(frames, batch.gap_bits, batch.before)
    placed, _, _ = oracle.decode_frames(encoded, batch.gap_bits, 0, batch.before)
    placed = data.draw(st.permutations(placed))
    begin = data.draw(st.integers(0, len(placed)))
    to = data.draw(st.integers(begin, len(placed)))
    entries = u64([(7, frame.position) for frame in placed]).reshape(-1)
    total = sum(len(frame.frame.data) for frame in placed)
    for capacity in {0, 1, total, data.draw(st.integers(0, total))}:
        at, expected = begin, b""
        while at < to and placed[at].frame.reference is None:
            record = placed[at].frame.data
            if len(expected) + len(record) > capacity:
                break
            expected, at = expected + record, at + 1
        out, written = Guarded(capacity, np.uint8), Guarded(1, np.uint64)
        result = kernels.gather(
            unaligned(encoded, odd), entries, begin, to, batch.gap_bits, out.array, capacity, written.array
        )
        assert (result, written.written(1).tolist()) == (at, [len(expected)])
        assert out.written(len(expected)).tobytes() == expected


def test_gather_every_size(kernels):
    for size in [*range(1, 200), *SIZES]:
        frames = [Frame(0, bytes([size % 251]) * size), Frame(1, b"\xff" * size), Frame(2, b"\0")]
        encoded = oracle.encode_frames(frames, 20)
        placed, _, _ = oracle.decode_frames(encoded, 20)
        entries = u64([(0, frame.position) for frame in placed]).reshape(-1)
        out, written = Guarded(2 * size + 1, np.uint8), u64([0])
        assert kernels.gather(unaligned(encoded), entries, 0, 3, 20, out.array, 2 * size, written) == 2
        assert out.written(written[0]).tobytes() == frames[0].data + frames[1].data


@given(batches(), st.integers(0, 7), SUMS, st.data())
def test_frames_are_measured_and_summed(kernels, batch, odd, before, data):
    frames, gap_bits = batch.stored(data.draw(reference_sizes), 0), batch.gap_bits
    encoded = oracle.encode_frames(frames, gap_bits, batch.before)
    placed, _, _ = oracle.decode_frames(encoded, gap_bits, 0, batch.before)
    placed = data.draw(st.permutations(placed))
    begin = data.draw(st.integers(0, len(placed)))
    to = data.draw(st.integers(begin, len(placed)))
    entries = u64([(7, frame.position) for frame in placed]).reshape(-1)
    base, length = unaligned(encoded, odd), Guarded(1, np.uint64)
    assert kernels.frames_measure(base, entries, begin, to, gap_bits, length.array) == to
    assert length.written(1).tolist() == [sum(frame.frame.length for frame in placed[begin:to])]

    stop = next((i for i in range(begin, to) if placed[i].frame.reference is not None), to)
    total = Guarded(2, np.uint64)
    total.array[:] = halves(before)
    assert kernels.frames_checksum(base, entries, begin, to, gap_bits, total.array) == stop
    records = [frame.frame.data for frame in placed[begin:stop]]
    assert tuple(total.written(2).tolist()) == halves(before + oracle.checksum(records))


# ---- all together


@dataclass
class Pieces:
    """Records of a block or of a bucket, as arrays."""

    buf: np.ndarray
    start: np.ndarray
    size: np.ndarray
    number: np.ndarray

    @classmethod
    def room(cls, buf: np.ndarray, m: int) -> Pieces:
        return cls(buf, np.empty(m, np.uint32), np.empty(m, np.uint32), np.empty(m, np.uint64))


def scatter_once(kernels, pieces: Pieces, seed: int, fanouts: list[int], gap_bits: int) -> list[tuple[np.ndarray, int]]:
    """(frames, records) of each bucket of the last level."""
    m, last = len(pieces.number), fanouts[-1]
    bucket, tally = np.empty(m, np.uint16), np.empty((last, len(TALLY_FIELDS)), np.uint64)
    common = (pieces.buf, pieces.start, pieces.size, pieces.number, bucket, m)
    kernels.bucket_records(pieces.number, m, *words(seed), *scatter_levels(fanouts), *WHOLE_RANGE, bucket)
    kernels.scatter_count(*common, last, gap_bits, NEVER, tally)
    records, scratch, _, first, *_ = tally.T.astype(object)
    ends = np.cumsum(scratch + 4 * (first // (2**gap_bits - 1))).tolist()
    begins = [0, *ends[:-1]]
    out, position, previous = np.zeros(ends[-1], np.uint8), u64(begins), np.full(last, BEFORE_FIRST, np.uint64)
    kernels.scatter_place(*common, gap_bits, NEVER, 0, previous, position, last, out)
    assert position.tolist() == ends
    return [(out[begin:end], inside) for begin, end, inside in zip(begins, ends, records, strict=True)]


def in_key_order(kernels, frames: np.ndarray, m: int, seed: int, fanouts: list[int], gap_bits: int) -> bytes:
    """Records of a bucket."""
    n = len(frames)
    segments, previous, entries = u64([0, n]), u64([BEFORE_FIRST]), np.empty(2 * m, np.uint64)
    out, written = np.empty(n, np.uint8), u64([0])
    arguments = (frames, n, segments, 1, gap_bits, previous, *words(seed), *levels_of(fanouts), entries, m)
    assert kernels.frames_index(*arguments) == m
    assert segments.tolist() == [n, n]
    kernels.entries_sort(entries, m)
    assert kernels.gather(frames, entries, 0, m, gap_bits, out, n, written) == m
    return out[: int(written[0])].tobytes()


@given(generators, st.integers(0, 300), seeds, st.lists(st.integers(1, 9), min_size=1, max_size=3), gap_bits_allowed)
def test_kernels_shuffle(kernels, rng, count, seed, fanouts, gap_bits):
    sizes = rng.choice([1, 1, 2, 10, 64, 300], count).tolist()
    data = b"".join(rng.bytes(size - 1).replace(b"\n", b"\xff") + b"\n" for size in sizes)
    whole = Pieces.room(unaligned(data), count)
    newline, state = np.full(1, 10, np.uint8), u64([0] * 4)
    arguments = (whole.buf, len(data), newline, 1, 1, state, whole.start, whole.size, count)
    assert kernels.split_delimited(*arguments) == count
    kernels.number_records(0, whole.number, count)
    contents = [whole]
    for level in range(1, len(fanouts) + 1):
        buckets = [b for pieces in contents for b in scatter_once(kernels, pieces, seed, fanouts[:level], gap_bits)]
        contents = []
        for frames, m in buckets:
            inside, state = Pieces.room(frames, m), u64([0, BEFORE_FIRST])
            outputs = (inside.start, inside.size, inside.number)
            assert kernels.split_frames(frames, len(frames), gap_bits, state, *outputs, m) == m
            contents.append(inside)
    result = b"".join(in_key_order(kernels, frames, m, seed, fanouts, gap_bits) for frames, m in buckets)
    assert result == oracle.shuffled([data], seed)


# ---- random matrices


TAGS = st.sampled_from([0, 1, 15, WORD - 1]) | st.integers(0, WORD - 1)
FIRST_ROWS = st.sampled_from([0, 1, 2**32 - 2, 2**63 - 1, WORD - 2]) | st.integers(0, WORD - 1)
FIRST_WORDS = st.sampled_from([0, 1, 2, 3, 4, 5, 2**32 - 1, 2**63 - 3, WORD - 1001]) | st.integers(0, WORD - 1001)
FAR = [17677941378, 39458076325, 124067192117]
"""Words of (seed 0, tag 1, row 0) whose normal number is larger than any that AS 241 does not call far: 1 in 2^35."""


@given(seeds, TAGS, FIRST_ROWS, FIRST_WORDS, st.integers(0, 4), lengths, st.integers(0, 2))
@example(0, 0, 0, 0, 1, 9, 0)
@example(2**128 - 1, WORD - 1, WORD - 1, WORD - 3, 2, 3, 0)
def test_rows_of_words(kernels, seed, tag, first_row, first, rows, n, more):
    out = Guarded(rows * n + more, np.uint64)
    size = rows * n + min(more, max(0, n - 1))  # the part of a row is left as it is
    kernels.philox_rows(*words(seed), tag, first_row, first, out.array, size, n)
    expected = hashing_oracle.words(seed, tag, first_row, rows, first, n)
    np.testing.assert_array_equal(out.written(rows * n).reshape(rows, n), expected)


@given(seeds, TAGS, FIRST_ROWS, FIRST_WORDS, st.integers(0, 4), lengths, st.integers(0, 2))
def test_rows_of_normal_numbers(kernels, seed, tag, first_row, first, rows, n, more):
    out = Guarded(rows * n + more, np.float64)
    size = rows * n + min(more, max(0, n - 1))
    kernels.philox_normal(*words(seed), tag, first_row, first, out.array, size, n)
    word = hashing_oracle.words(seed, tag, first_row, rows, first, n)
    got = out.written(rows * n).reshape(rows, n)
    np.testing.assert_allclose(got, hashing_oracle.normal(word), rtol=2e-15)


def normal_number(kernels, seed: int, tag: int, first: int, n: int) -> np.ndarray:
    out = np.empty(n)
    kernels.philox_normal(*words(seed), tag, 0, first, out, n, n)
    return out


@pytest.mark.parametrize("first", [0, *FAR])
def test_normal_numbers_to_the_last_digits(kernels, first):
    n = 400 if first == 0 else 1
    word = hashing_oracle.words(0, 1, 0, 1, first, n)[0]
    got = normal_number(kernels, 0, 1, first, n)
    assert first == 0 or abs(got[0]) > 6.6
    for number, exact in zip(got.tolist(), map(hashing_oracle.normal_digits, word.tolist()), strict=True):
        assert abs(number / exact - 1) < 6e-16


# ---- transforms


REALS = {"f32": np.float32, "f64": np.float64}
each_width = pytest.mark.parametrize("kind", REALS)
powers = st.integers(0, 10).map(lambda k: 2**k)
widths = st.sampled_from([n for n in LENGTHS if n < 130]) | st.integers(0, 140)


def real_numbers(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Numbers of some sizes, zeros of both signs, and now and then what is tiny, huge or no number."""
    values = np.ldexp(rng.uniform(-2, 2, shape), rng.integers(-15, 15, shape))
    values = np.where(rng.random(shape) < rng.choice([0, 0.3]), rng.choice([0.0, -0.0], shape), values)
    special = rng.choice([np.nan, np.inf, -np.inf, 1e-40, -1e-45, 5e-324, 3e38, -1.7e308], shape)
    with np.errstate(all="ignore"):
        return np.where(rng.random(shape) < rng.choice([0, 0, 0.03]), special, values).astype(dtype)


def whole_numbers(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    return rng.integers(-9, 10, shape).astype(dtype)


def operand(rng: np.random.Generator, values: np.ndarray) -> np.ndarray:
    """The values as a kernel may get them: whole at any element, of any strides, or one row or column for all."""
    how = rng.integers(0, 6)
    if how < 2:
        whole = np.zeros(values.size + 16, values.dtype)[rng.integers(0, 16) :][: values.size]
        whole[:] = values.ravel()
        return whole.reshape(values.shape)
    view = laid_out(values, rng)
    if how == 2 and values.size:
        axis = rng.integers(0, values.ndim)
        view = np.broadcast_to(np.take(view, [0], axis), values.shape)
    return view


class GuardedRows:
    """An output array of some layout, between elements that must stay as they are."""

    MARGIN = 3

    def __init__(self, shape: tuple[int, ...], dtype: Any, rng: np.random.Generator) -> None:
        order = rng.permutation(len(shape)) if rng.random() < 0.5 else np.arange(len(shape))
        steps = rng.choice([1, 1, 2, 3], len(shape))
        room = [n * step + 2 * self.MARGIN for n, step in zip(shape, steps, strict=True)]
        memory = np.full([*(room[axis] for axis in order), np.dtype(dtype).itemsize], 0xA5, np.uint8)
        self.whole = memory.view(dtype)[..., 0].transpose(np.argsort(order))
        self.inside = tuple(
            slice(self.MARGIN, self.MARGIN + n * step, step) for n, step in zip(shape, steps, strict=True)
        )
        self.array = self.whole[self.inside]
        self.fill = self.whole.flat[0]

    def written(self) -> np.ndarray:
        """The array, once it is sure that nothing else was written."""
        around = np.ones(self.whole.shape, bool)
        around[self.inside] = False
        assert (self.whole[around] == self.fill).all()
        return self.array

    def untouched(self) -> bool:
        return bool((self.whole == self.fill).all())


def assert_same_numbers(got: np.ndarray, expected: np.ndarray) -> None:
    """Equal bits, but for those of a nan."""
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)
    known = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(got[known]), np.signbit(expected[known]))


def hadamard(kernels, kind: str, x: np.ndarray, normalize: int = 0, in_place: bool = False) -> np.ndarray:
    """Transforms of x (rows, n, inner), at an odd element."""
    out = Guarded(x.size, x.dtype.type)
    source = out.array if in_place else Guarded(x.size, x.dtype.type).array
    source[:] = x.ravel()
    getattr(kernels, f"hadamard_{kind}")(source, out.array, x.size, *x.shape[1:], normalize)
    if not in_place:
        np.testing.assert_array_equal(source, x.ravel())
    return out.written(x.size).reshape(x.shape)


@each_width
@pytest.mark.parametrize("inner", [1, 2, 3, 17, 65])
def test_hadamard_is_a_product_with_the_matrix(kernels, kind, inner):
    rng = np.random.default_rng(inner)
    for n in [2**k for k in range(11)]:
        x = whole_numbers(rng, (2, n, inner), REALS[kind])
        expected = hashing_oracle.sylvester(n) @ x.astype(np.int64)
        np.testing.assert_array_equal(hadamard(kernels, kind, x), expected)
        normalized = hadamard(kernels, kind, x, 1)
        np.testing.assert_allclose(normalized, expected / np.sqrt(n), rtol=2 * np.finfo(x.dtype).eps)


@each_width
@given(generators, powers, st.sampled_from([1, 1, 1, 2, 3, 4, 5, 8, 15, 16, 17, 64, 65, 130]), st.data())
def test_hadamard_rounds_stage_by_stage(kernels, kind, rng, n, inner, data):
    x = real_numbers(rng, (data.draw(st.integers(0, max(1, 4096 // (n * inner)))), n, inner), REALS[kind])
    normalize, in_place = data.draw(st.integers(0, 1)), data.draw(st.booleans())
    got = hadamard(kernels, kind, x, normalize, in_place)
    assert_same_numbers(got, hashing_oracle.hadamard(x, bool(normalize)))


@each_width
@pytest.mark.parametrize(
    ("rows", "n", "inner"),
    [(2, 2**11, 1), (3, 2**12, 1), (1, 2**13, 1), (1, 2**16, 1), (1, 2**11, 3), (1, 2**12, 16), (2, 2, 9001)],
)
def test_hadamard_of_rows_larger_than_the_cache(kernels, kind, rows, n, inner):
    x = np.random.default_rng(n).standard_normal((rows, n, inner)).astype(REALS[kind])
    for normalize in (0, 1):
        expected = hashing_oracle.hadamard(x, bool(normalize))
        for in_place in (False, True):
            assert_same_numbers(hadamard(kernels, kind, x, normalize, in_place), expected)


@each_width
@pytest.mark.parametrize(
    ("size", "n", "inner"),
    [(8, 0, 1), (8, 3, 1), (8, 4, 0), (8, 0, 0), (8, 16, 1), (8, 8, 2), (0, 1, 1), (8, 2**62, 1), (8, 4, 2**62)],
)
def test_hadamard_of_sizes_that_are_none(kernels, kind, size, n, inner):
    out = Guarded(8, REALS[kind])
    getattr(kernels, f"hadamard_{kind}")(np.ones(8, REALS[kind]), out.array, size, n, inner, 1)
    out.written(0)


@each_width
def test_hadamard_leaves_what_is_no_whole_row(kernels, kind):
    for n, inner, size, rows in [(4, 1, 11, 2), (16, 1, 40, 2), (2, 3, 17, 2), (1, 5, 9, 1), (64, 1, 127, 1)]:
        out = Guarded(size, REALS[kind])
        getattr(kernels, f"hadamard_{kind}")(np.ones(size, REALS[kind]), out.array, size, n, inner, 0)
        expected = hashing_oracle.hadamard(np.ones((rows, n, inner), REALS[kind]))
        np.testing.assert_array_equal(out.written(rows * n * inner), expected.ravel())


@st.composite
def simhash_sizes(draw) -> tuple[int, int, int, int, int, int]:
    """rows, d, bytes, bits, p, blocks: there may be more bits than blocks hold, or than bytes do, or fewer."""
    p = 2 ** draw(st.integers(1, 9))
    blocks = draw(st.integers(0, 3))
    size = draw(st.integers(0, -(-p * (blocks + 1) // 8)))
    bits = draw(st.integers(max(0, 8 * size - 9), 8 * size + 9) | st.integers(0, p * (blocks + 1)))
    return draw(st.integers(0, 4)), draw(st.integers(0, p)), size, bits, p, blocks


def simhash(kernels, kind: str, x: np.ndarray, table: np.ndarray, size: int, bits: int, rng: Any) -> np.ndarray:
    """Codes; the table is (blocks, 3, p), and may have a part of a block more."""
    p, part = table.shape[-1], int(rng.integers(0, 3 * table.shape[-1]))
    flat, work = np.concatenate([table.ravel(), np.ones(part, x.dtype)]), Guarded(p, x.dtype.type)
    code = GuardedRows((len(x), size), np.uint8, rng)
    getattr(kernels, f"simhash_{kind}")(x, code.array, flat, work.array, *x.shape, size, bits, p, flat.size)
    work.written(p)
    return code.written()


@each_width
@given(generators, simhash_sizes())
def test_simhash_is_the_signs_of_products_with_matrices(kernels, kind, rng, sizes):
    """With quarter turns everything is an integer, and many are 0."""
    rows, d, size, bits, p, blocks = sizes
    p, d, blocks = min(p, 64), min(d, 64), min(blocks, 2)
    x = operand(rng, rng.integers(-2, 3, (rows, d)).astype(REALS[kind]))
    first, second = rng.choice([-1, 1], (2, blocks, p))
    quarter = rng.integers(0, 4, (blocks, p // 2))
    cosine, sine = np.array([1, 0, -1, 0])[quarter], np.array([0, 1, 0, -1])[quarter]
    matrix, values = hashing_oracle.sylvester(p), np.zeros((rows, blocks, p), np.int64)
    for b in range(blocks):
        turn = np.block([[np.diag(cosine[b]), -np.diag(sine[b])], [np.diag(sine[b]), np.diag(cosine[b])]])
        whole = matrix @ turn @ matrix @ np.diag(second[b]) @ matrix @ np.diag(first[b])
        values[:, b] = x.astype(np.int64) @ whole[:, :d].T
    expected = hashing_oracle.packed(values.reshape(rows, blocks * p)[:, :bits] >= 0, size)
    table = np.stack([first, second, np.concatenate([cosine, sine], axis=1)], axis=1).astype(x.dtype)
    np.testing.assert_array_equal(simhash(kernels, kind, x, table, size, bits, rng), expected)


def simhash_table(rng: np.random.Generator, blocks: int, p: int, dtype: Any) -> np.ndarray:
    """Signs, signs, and cosines and sines that are scaled."""
    angle = rng.uniform(0, 7, (blocks, p // 2))
    turns = np.concatenate([np.cos(angle), np.sin(angle)], axis=1) * 2.0 ** -rng.integers(0, 9)
    return np.stack([*rng.choice([-1, 1], (2, blocks, p)), turns], axis=1).astype(dtype)


@each_width
@given(generators, simhash_sizes())
def test_simhash_rounds_step_by_step(kernels, kind, rng, sizes):
    rows, d, size, bits, p, blocks = sizes
    x = operand(rng, real_numbers(rng, (rows, d), REALS[kind]))
    table = simhash_table(rng, blocks, p, x.dtype)
    values = hashing_oracle.simhash_values(x, table) if blocks else np.zeros((rows, 0))
    expected = hashing_oracle.packed(values[:, :bits] >= 0, size)
    np.testing.assert_array_equal(simhash(kernels, kind, x, table, size, bits, rng), expected)


@each_width
@given(generators, powers, st.data())
def test_srht(kernels, kind, rng, p, data):
    dtype, (rows, d, k) = REALS[kind], [data.draw(st.integers(0, most)) for most in (4, p, 40)]
    whole = data.draw(st.booleans())
    x = operand(rng, (whole_numbers if whole else real_numbers)(rng, (rows, d), dtype))
    sign, sample = rng.choice([-1, 1], p).astype(dtype), rng.integers(0, 2**32, k, np.uint32)
    scale = dtype([data.draw(st.sampled_from([1.0, 0.125, -3.7]))])
    out, work = GuardedRows((rows, k), dtype, rng), Guarded(p, dtype)
    getattr(kernels, f"srht_{kind}")(x, out.array, sign, sample, scale, work.array, rows, d, k, p)
    work.written(p)
    got = out.written()
    assert_same_numbers(got, hashing_oracle.srht(x, sign, sample, scale[0]))
    if whole:
        product = x.astype(np.int64) @ (hashing_oracle.sylvester(p) * sign.astype(np.int64))[sample % p, :d].T
        np.testing.assert_array_equal(got, product.astype(dtype) * scale[0])


@each_width
@pytest.mark.parametrize("p", [0, 1, 3, 12])
def test_transforms_of_no_power_of_two(kernels, kind, p):
    rng, dtype = np.random.default_rng(p), REALS[kind]
    x, ones = np.ones((2, p), dtype), np.ones(3 * p, dtype)
    code, out = GuardedRows((2, 2), np.uint8, rng), GuardedRows((2, 3), dtype, rng)
    getattr(kernels, f"simhash_{kind}")(x, code.array, ones, ones.copy(), 2, p, 2, 16, p, 3 * p)
    assert code.untouched()
    sample = np.zeros(3, np.uint32)
    getattr(kernels, f"srht_{kind}")(x, out.array, ones, sample, ones[:1] if p else dtype([1]), ones.copy(), 2, p, 3, p)
    assert out.untouched() == (p != 1)


# ---- products with sparse matrices


def ternary(rng: np.random.Generator, k: int, d: int) -> np.ndarray:
    """int64 (k, d) of -1, 0 and 1, some rows and columns of zeros."""
    density = rng.choice([0, 0.05, 0.4, 1])
    return np.where(rng.random((k, d)) < density, rng.choice([-1, 1], (k, d)), 0)


def worked(kernels, name: str, *arguments: Any) -> None:
    """Call a kernel with no room, and then with just the room that it asks for, if it does."""
    parameters = KERNELS[name].parameters
    work = [p.name for p in parameters].index("work")
    call, dtype = getattr(kernels, name), parameters[work].dtype
    if needed := call(*arguments[:work], np.zeros(0, dtype), *arguments[work:], 0):
        room = Guarded(needed, dtype)
        assert call(*arguments[:work], room.array, *arguments[work:], needed) <= needed
        room.written(needed)


few_rows = st.sampled_from([0, 1, 2, 3, 4, 5, 15, 16, 17, 31, 33, 63, 64, 65]) | st.integers(0, 70)


@each_width
@given(generators, few_rows, widths, st.integers(0, 12), st.booleans(), st.sampled_from([1.0, 0.5, -1.7]))
def test_sparse_project(kernels, kind, rng, rows, d, k, whole, scale):
    dtype, matrix = REALS[kind], ternary(rng, k, d)
    x = operand(rng, (whole_numbers if whole else real_numbers)(rng, (rows, d), dtype))
    start, entry = hashing_oracle.signed_entries(matrix)
    out = GuardedRows((rows, k), dtype, rng)
    sizes = rows, d, k, len(start), len(entry)
    worked(kernels, f"sparse_project_{kind}", x, out.array, start, entry, dtype([scale]), *sizes)
    got = out.written()
    if whole:
        np.testing.assert_array_equal(got, (x.astype(np.int64) @ matrix.T).astype(dtype) * dtype(scale))
    else:
        assert_same_numbers(got, hashing_oracle.sparse_project(x, matrix, dtype(scale)))


def stored_rows(rng: np.random.Generator, rows: int, d: int, dtype: Any, whole: bool) -> list[tuple[Any, Any]]:
    """Columns, in any order and some more than once, and values."""
    counts = rng.integers(0, min(2 * d, 30) + 1, rows)
    values = whole_numbers if whole else real_numbers
    return [(rng.integers(0, d, n), values(rng, (n,), dtype)) for n in counts.tolist()]


def csr(stored: list[tuple[Any, Any]], dtype: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """data, column, start"""
    start = np.cumsum([0, *(len(values) for _, values in stored)])
    column = np.concatenate([np.zeros(0, np.int64), *(columns for columns, _ in stored)])
    return np.concatenate([np.zeros(0, dtype), *(values for _, values in stored)]), column, start


@each_width
@given(generators, few_rows, widths, st.integers(0, 12), st.booleans(), st.sampled_from([1.0, 0.5, -1.7]))
def test_sparse_project_of_sparse_rows(kernels, kind, rng, rows, d, k, whole, scale):
    dtype, matrix = REALS[kind], ternary(rng, k, d)
    stored = stored_rows(rng, rows, d, dtype, whole)
    data, column, start = csr(stored, dtype)
    first, entry = hashing_oracle.signed_entries(matrix.T)
    out = GuardedRows((rows, k), dtype, rng)
    sizes = len(data), rows + 1, rows, k, d + 1, len(entry)
    operands = data, column, start, out.array, first, entry, dtype([scale])
    getattr(kernels, f"sparse_project_csr_{kind}")(*operands, *sizes)
    got = out.written()
    if whole:
        x = np.zeros((rows, d), np.int64)
        for row, (columns, values) in zip(x, stored, strict=True):
            np.add.at(row, columns, values.astype(np.int64))
        np.testing.assert_array_equal(got, (x @ matrix.T).astype(dtype) * dtype(scale))
    else:
        assert_same_numbers(got, hashing_oracle.sparse_project_stored(stored, matrix, dtype(scale)))


@each_width
def test_sparse_matrices_that_contradict_their_sizes(kernels, kind):
    rng, dtype = np.random.default_rng(0), REALS[kind]
    matrix = np.ones((3, 4), np.int64)
    x, scale, room = np.ones((5, 4), dtype), dtype([1]), np.zeros(4096, dtype)
    start, entry = hashing_oracle.signed_entries(matrix)
    call = getattr(kernels, f"sparse_project_{kind}")
    sizes = {"k1": 4, "nonzeros": 12}
    for wrong in ({}, {"k1": 3}, {"k1": 0}, {"nonzeros": 11}, {"nonzeros": 0}):
        out = GuardedRows((5, 3), dtype, rng)
        call(x, out.array, start, entry, scale, room, 5, 4, 3, *(sizes | wrong).values(), 4096)
        assert out.untouched() == bool(wrong)
    first, entry = hashing_oracle.signed_entries(matrix.T)
    data, column, begin = np.ones(20, dtype), np.tile(np.arange(4), 5), np.arange(0, 21, 4)
    call = getattr(kernels, f"sparse_project_csr_{kind}")
    sizes = {"nnz": 20, "rows1": 6, "rows": 5, "k": 3, "d1": 5, "nonzeros": 12}
    for wrong in ({}, {"nnz": 19}, {"rows1": 5}, {"rows1": 0}, {"d1": 0}, {"nonzeros": 11}):
        out = GuardedRows((5, 3), dtype, rng)
        call(data, column, begin, out.array, first, entry, scale, *(sizes | wrong).values())
        assert out.untouched() == bool(wrong)
    column[::4] = [-1, 4, 5, -(2**63), 2**63 - 1]
    call(data, column, begin, out.array, first, entry, scale, *sizes.values())
    assert (out.written() == 3).all()


# ---- codes


@each_width
@given(generators, st.integers(0, 5), lengths, st.data())
def test_pack_signs(kernels, kind, rng, rows, n, data):
    size = data.draw(st.sampled_from([-(-n // 8), 0, max(0, n // 8 - 1), n // 8 + 9]))
    x = operand(rng, real_numbers(rng, (rows, n), REALS[kind]))
    code = GuardedRows((rows, size), np.uint8, rng)
    getattr(kernels, f"pack_signs_{kind}")(x, code.array, rows, n, size)
    np.testing.assert_array_equal(code.written(), hashing_oracle.packed(x >= 0, size))


code_sizes = st.integers(0, 65) | st.sampled_from([8, 16, 24, 32, 64, 96, 128, 248, 256, 264, 4096])


def some_codes(rng: np.random.Generator, n: int, size: int) -> np.ndarray:
    """Codes of which many are equal or near."""
    kinds = rng.integers(0, 256, (int(rng.choice([1, 2, 5, 300])), size), np.uint8)
    codes = kinds[rng.integers(0, len(kinds), n)]
    flips = rng.integers(0, 256, codes.shape, np.uint8) & rng.integers(0, 256, codes.shape, np.uint8)
    return np.where(rng.random(codes.shape) < rng.choice([0, 0.1]), codes ^ flips, codes)


@given(generators, lengths, code_sizes)
def test_hamming_pairs(kernels, rng, rows, size):
    rows = min(rows, 1 << 16 >> size.bit_length())
    a, b = (operand(rng, some_codes(rng, rows, size)) for _ in range(2))
    out = Guarded(rows, np.int32)
    kernels.hamming_pairs(a, b, out.array, rows, size)
    np.testing.assert_array_equal(out.written(rows), hashing_oracle.distances(a, b))


@pytest.mark.parametrize("size", [*range(1, 66), 128, 4096])
def test_every_bit_counts(kernels, size):
    bits = np.unique(np.r_[0 : min(8 * size, 32), 8 * size - min(8 * size, 32) : 8 * size, 8 * (size // 2)])
    codes = np.zeros((len(bits), 8 * size), np.uint8)
    codes[np.arange(len(bits)), bits] = 1
    codes = np.packbits(codes, axis=1)
    full, n = np.full((1, size), 255, np.uint8), len(codes)
    out = np.zeros(n, np.int32)
    kernels.hamming_pairs(codes, np.broadcast_to(full, codes.shape), out, n, size)
    assert (out == 8 * size - 1).all()
    distance, ids = np.full((1, n), 2**31 - 1, np.int32), np.full((1, n), -1)
    worked(kernels, "hamming_topk", full, codes, distance, ids, 1, n, size, n, 0)
    assert (distance == 8 * size - 1).all()
    assert ids[0].tolist() == list(range(n))


@st.composite
def searches(draw) -> tuple[np.random.Generator, np.ndarray, np.ndarray]:
    """Queries and codes."""
    rng, size = draw(generators), draw(code_sizes)
    queries, n = draw(st.sampled_from([0, 1, 2, 3, 4, 5, 8, 9, 16, 17, 33])), draw(lengths)
    n = min(n, (1 << 18) // max(1, size * max(1, queries)))
    codes = some_codes(rng, queries + n, size)
    return rng, operand(rng, codes[:queries]), operand(rng, codes[queries:])


def parts(rng: np.random.Generator, n: int) -> list[tuple[int, int]]:
    """0 .. n - 1 in pieces, in any order."""
    cuts = np.sort(rng.integers(0, n + 1, rng.integers(0, 4))).tolist()
    pieces = list(zip([0, *cuts], [*cuts, n], strict=True))
    return [pieces[i] for i in rng.permutation(len(pieces))]


@given(searches(), st.sampled_from([0, 1, 2, 3, 7, 8, 9, 16, 17, 50]) | st.integers(0, 400), st.data())
def test_hamming_topk(kernels, search, k, data):
    rng, query, code = search
    queries, size = query.shape
    first = data.draw(st.sampled_from([0, 5, 2**31 - 3, 2**63 - 1 - len(code)]))
    distance, ids = GuardedRows((queries, k), np.int32, rng), GuardedRows((queries, k), np.int64, rng)
    distance.array[...], ids.array[...] = hashing_oracle.FARTHEST, hashing_oracle.NOBODY
    for begin, end in parts(rng, len(code)):
        lists = distance.array, ids.array
        worked(kernels, "hamming_topk", query, code[begin:end], *lists, queries, end - begin, size, k, first + begin)
    table = hashing_oracle.distances(query[:, None], code[None])
    numbers = first + np.arange(len(code))
    got, got_ids = distance.written(), ids.written()
    for q in range(queries):
        expected, expected_ids = hashing_oracle.nearest(table[q], numbers, k)
        np.testing.assert_array_equal(got[q], expected)
        np.testing.assert_array_equal(got_ids[q], expected_ids)


@given(searches(), st.integers(0, 9), st.data())
def test_hamming_range(kernels, search, shift, data):
    """First hits are counted, then they are written, each query's to a place of its own; what finds no room is lost."""
    rng, query, code = search
    (queries, size), n = query.shape, len(code)
    table = hashing_oracle.distances(query[:, None], code[None])
    chosen = int(rng.choice(table.ravel())) if table.size else 0
    radius = data.draw(st.sampled_from([chosen, chosen - 1, -1, 0, 8 * size, 2**63 - 1]))
    first = data.draw(st.sampled_from([0, 5, 2**63 - 1 - n]))
    pieces = parts(rng, n)
    total, nothing = np.full(queries, 3, np.int64), (np.zeros(0, np.int32), np.zeros(0, np.int64))
    for begin, end in pieces:
        arguments = query, code[begin:end], np.zeros(queries, np.int64), total, *nothing
        worked(kernels, "hamming_range", *arguments, queries, end - begin, size, radius, first + begin, 0)
    order = np.concatenate([np.arange(*piece) for piece in pieces])
    found = [order[table[q, order] <= radius] for q in range(queries)]
    assert total.tolist() == [3 + len(hits) for hits in found]
    limits = shift + np.cumsum([0, *map(len, found)])
    room = max(0, int(limits[-1]) - data.draw(st.sampled_from([0, 0, 1, shift, int(limits[-1]) // 2])))
    distance, ids = Guarded(room, np.int32), Guarded(room, np.int64)
    before, position = distance.array[:shift].copy(), limits[:-1].copy()
    for begin, end in pieces if room else ():
        count = np.zeros(queries, np.int64)
        arguments = query, code[begin:end], position, count, distance.array, ids.array
        worked(kernels, "hamming_range", *arguments, queries, end - begin, size, radius, first + begin, room)
        position += count
    got, got_ids = distance.written(room), ids.written(room)
    np.testing.assert_array_equal(got[:shift], before[:room])
    for q, hits in enumerate(found):
        place = slice(int(limits[q]), int(limits[q + 1]))
        np.testing.assert_array_equal(got[place], table[q, hits][: max(0, room - place.start)])
        np.testing.assert_array_equal(got_ids[place], (first + hits)[: max(0, room - place.start)])


@pytest.mark.parametrize(("n", "size"), [(5000, 8), (4100, 16), (2100, 1), (700, 65)])
def test_searches_in_many_codes(kernels, n, size):
    rng = np.random.default_rng(n)
    code, query, k = rng.integers(0, 256, (n, size), np.uint8), rng.integers(0, 256, (3, size), np.uint8), 40
    table = hashing_oracle.distances(query[:, None], code[None])
    for rows in (code, code[np.argsort(table[0], kind="stable")], code[np.argsort(-table[0], kind="stable")]):
        table = hashing_oracle.distances(query[:, None], rows[None])
        distance, ids = np.full((3, k), 2**31 - 1, np.int32), np.full((3, k), -1)
        worked(kernels, "hamming_topk", query, rows, distance, ids, 3, n, size, k, 0)
        expected = [hashing_oracle.nearest(row, np.arange(n), k) for row in table]
        np.testing.assert_array_equal(distance, [row for row, _ in expected])
        np.testing.assert_array_equal(ids, [row for _, row in expected])
        radius, count = 4 * size - 2, np.zeros(3, np.int64)
        position, hits = np.arange(3) * n, np.full((2, 3 * n), -1)
        found = hits[0].astype(np.int32), hits[1]
        worked(kernels, "hamming_range", query, rows, position, count, *found, 3, n, size, radius, 0, 3 * n)
        for q in range(3):
            expected_ids = np.flatnonzero(table[q] <= radius)
            assert count[q] == len(expected_ids)
            np.testing.assert_array_equal(found[1][n * q :][: count[q]], expected_ids)
            np.testing.assert_array_equal(found[0][n * q :][: count[q]], table[q, expected_ids])


# ---- bit against bit


@st.composite
def byte_searches(draw) -> list[Any]:
    data = draw(generators).choice(np.array([0, 9, 10, 11, 138, 255], np.uint8), draw(lengths)).tobytes()
    return [unaligned(data, draw(st.integers(0, 9))), len(data), draw(st.sampled_from([0, 10, 255]))]


@st.composite
def philox_calls(draw) -> list[Any]:
    n = draw(lengths)
    return [*words(draw(seeds)), draw(st.integers(0, WORD - 1)), np.zeros(n, np.uint64), n]


@st.composite
def delimited_calls(draw) -> list[Any]:
    rng, n, delimiter = draw(generators), draw(lengths), draw(delimiters)
    buf = unaligned(text_of(rng, n, delimiter, draw(st.sampled_from([0.01, 0.3]))), draw(st.integers(0, 9)))
    lines, capacity = draw(st.integers(1, 5)), draw(st.integers(0, n))
    begin, line, scanned = sorted(draw(st.lists(st.integers(0, n), min_size=3, max_size=3)))
    state = u64([begin, scanned, line, draw(st.integers(0, lines - 1))])
    outputs = [np.zeros(capacity, np.uint32) for _ in range(2)]
    return [buf, n, unaligned(delimiter), len(delimiter), lines, state, *outputs, capacity]


@st.composite
def numberings(draw) -> list[Any]:
    n = draw(lengths)
    return [draw(st.integers(0, WORD - 1)), np.zeros(n, np.uint64), n]


@st.composite
def encoded_batches(draw) -> tuple[Batch, np.ndarray]:
    batch = draw(batches())
    stored = batch.stored(draw(reference_sizes), 0)
    return batch, unaligned(oracle.encode_frames(stored, batch.gap_bits, batch.before), draw(st.integers(0, 3)))


@st.composite
def split_frames_calls(draw) -> list[Any]:
    batch, buf = draw(encoded_batches())
    capacity = draw(st.integers(0, len(batch.frames) + 1))
    outputs = [np.zeros(capacity, dtype) for dtype in (np.uint32, np.uint32, np.uint64)]
    return [buf, draw(st.integers(0, len(buf))), batch.gap_bits, u64([0, batch.before]), *outputs, capacity]


@st.composite
def frames_index_calls(draw) -> list[Any]:
    data, batch, segments = draw(segmented())
    buf = unaligned(data, draw(st.integers(0, 3)))
    capacity, n = draw(st.integers(0, len(batch.frames) + 1)), draw(st.just(len(buf)) | st.integers(0, len(buf)))
    return [
        buf, n, u64(segments).reshape(-1), len(segments), batch.gap_bits, u64([batch.before]), *words(draw(seeds)),
        *levels_of(draw(level_lists)), np.zeros(2 * capacity, np.uint64), capacity,
    ]


@st.composite
def bucket_calls(draw) -> list[Any]:
    batch = draw(batches())
    m, levels = len(batch.frames), scatter_levels(draw(fanout_lists))
    return [batch.number, m, *words(draw(seeds)), *levels, *draw(key_ranges), np.zeros(m, np.uint16)]


def some_buckets(rng: np.random.Generator, m: int, buckets: int) -> np.ndarray:
    """Buckets of records, some of which are left out."""
    return rng.choice([*range(buckets + 1), NO_BUCKET], m).astype(np.uint16)


@st.composite
def scatter_count_calls(draw) -> list[Any]:
    batch, buckets = draw(batches()), draw(fanouts_allowed)
    m = len(batch.frames)
    bucket, tally = some_buckets(draw(generators), m, buckets), np.ones(7 * buckets, np.uint64)
    common = batch.buf, batch.start, batch.size, batch.number, bucket
    return [*common, m, buckets, batch.gap_bits, draw(reference_sizes), tally]


@st.composite
def records_checksum_calls(draw) -> list[Any]:
    batch, rng, buckets = draw(batches()), draw(generators), draw(fanouts_allowed)
    m = len(batch.frames)
    tally = rng.integers(0, WORD, 7 * buckets, np.uint64)
    return [batch.buf, batch.start, batch.size, some_buckets(rng, m, buckets), m, buckets, tally]


@st.composite
def checksum_calls(draw, length: bool) -> list[Any]:
    rng, n = draw(generators), draw(lengths)
    state = rng.integers(0, WORD, 2, np.uint64)
    return [unaligned(rng.bytes(n), draw(st.integers(0, 7))), n, *[draw(st.integers(0, WORD - 1))] * length, state]


@st.composite
def scatter_place_calls(draw) -> list[Any]:
    batch, fanout, reference_size = draw(batches()), draw(st.integers(1, 20)), draw(reference_sizes)
    bucket = some_buckets(draw(generators), len(batch.frames), fanout)
    sizes = [0] * fanout
    stored = batch.stored(reference_size, 0)
    for b in range(fanout):
        here = [frame for frame, place in zip(stored, bucket.tolist(), strict=True) if place == b]
        sizes[b] = len(oracle.encode_frames(here, batch.gap_bits, batch.before))
    position = u64([sum(sizes[:b]) for b in range(fanout)])
    return [
        batch.buf, batch.start, batch.size, batch.number, bucket, len(batch.frames), batch.gap_bits, reference_size, 0,
        np.full(fanout, batch.before, np.uint64), position, fanout, np.zeros(sum(sizes) + 8, np.uint8),
    ]


@st.composite
def sort_calls(draw) -> list[Any]:
    rng, m = draw(generators), draw(st.integers(0, 3000))
    keys = KEYS[draw(st.sampled_from(sorted(KEYS)))](rng, m)
    entries = np.stack([keys, POSITIONS["anywhere"](rng, m)], axis=1).reshape(-1)
    return [entries, m]


@st.composite
def gather_calls(draw) -> list[Any]:
    batch, base = draw(encoded_batches())
    placed, _, _ = oracle.decode_frames(base.tobytes(), batch.gap_bits, 0, batch.before)
    entries = u64([(0, frame.position) for frame in draw(st.permutations(placed))]).reshape(-1)
    capacity = draw(st.integers(0, len(base)))
    begin = draw(st.integers(0, len(placed)))
    out = np.zeros(capacity, np.uint8)
    return [base, entries, begin, len(placed), batch.gap_bits, out, capacity, np.zeros(1, np.uint64)]


@st.composite
def frames_calls(draw, results: int) -> list[Any]:
    base, entries, begin, to, gap_bits, *_ = draw(gather_calls())
    return [base, entries, begin, to, gap_bits, draw(generators).integers(0, WORD, results, np.uint64)]


FLOAT_KINDS = {"f32": (np.float32, np.float32), "f64": (np.float64, np.float64), "i32": (np.float32, np.int32)}
"""Dtypes of the operands and of the sums, by the end of a kernel's name."""


def laid_out(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same elements in memory of any order, with any gaps, some axes backwards."""
    order = rng.permutation(array.ndim)
    steps = rng.choice([1, 1, 1, 2, 3], array.ndim)
    spread = np.zeros([n * step for n, step in zip(array.shape, steps, strict=True)], array.dtype)
    turned = np.ascontiguousarray(spread.transpose(order)).transpose(np.argsort(order))
    view = turned[tuple(slice(None, None, step) for step in steps)]
    view = view[tuple(slice(None, None, direction) for direction in rng.choice([1, 1, -1], array.ndim))]
    view[...] = array
    return view


def mitchell_operand(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Numbers of some sizes, zeros, and now and then what is no number."""
    if kind == "i32":
        values = rng.integers(-128, 256, shape).astype(np.float32)
    else:
        values = np.ldexp(rng.uniform(-2, 2, shape), rng.integers(-40, 40, shape)).astype(FLOAT_KINDS[kind][0])
        special = np.array([np.inf, -np.inf, np.nan, 1e-310, 1e-40, 2.0**-99, 2.0**-620]).astype(values.dtype)
        values = np.where(rng.random(shape) < rng.choice([0, 0.01]), rng.choice(special, shape), values)
    values = np.where(rng.random(shape) < rng.choice([0, 0.2]), -values.dtype.type(0), values)
    return laid_out(values, rng)


@st.composite
def gemm_calls(draw, kind: str) -> list[Any]:
    rng = draw(generators)
    stack, m, n, k = draw(st.tuples(*(st.integers(0, most) for most in (3, 20, 40, 40))))
    c = laid_out(np.full((stack, m, n), 7, FLOAT_KINDS[kind][1]), rng)
    operands = mitchell_operand(kind, (stack, m, k), rng), mitchell_operand(kind, (stack, k, n), rng)
    bias = draw(st.sampled_from([0, 500000, -500000]))
    return [*operands, c, stack, m, n, k, bias, int(not bias and draw(st.booleans())), np.zeros(ROOM, np.uint8), ROOM]


@st.composite
def conv_calls(draw, kind: str) -> list[Any]:
    rng, some = draw(generators), lambda least, most: draw(st.integers(least, most))
    images, groups, h, w, kernel_h, kernel_w = some(0, 2), some(1, 3), some(1, 9), some(1, 9), some(1, 3), some(1, 3)
    channels, m = groups * some(1, 3), groups * some(1, 8)
    stride, pad, dilation = ([some(least, most) for _ in range(2)] for least, most in ((1, 3), (0, 2), (1, 2)))
    spans = [dilation[0] * (kernel_h - 1) + 1, dilation[1] * (kernel_w - 1) + 1]
    out_h, out_w = (
        max(1, (size + 2 * pad[i] - spans[i]) // stride[i] + 1) for i, size in enumerate((h, w))
    )  # past the image there are zeros
    first = some(0, out_h * out_w - 1)
    n, k = some(0, out_h * out_w - first), channels // groups * kernel_h * kernel_w
    x, a = mitchell_operand(kind, (images, channels, h, w), rng), mitchell_operand(kind, (m, k), rng)
    c = laid_out(np.full((images, m, n), 7, FLOAT_KINDS[kind][1]), rng)
    bias = draw(st.sampled_from([0, 500000, -500000]))
    return [
        x, a, c, images, channels, h, w, m, k, n, first, groups, kernel_h, kernel_w, out_w, *stride, *pad, *dilation,
        bias, int(not bias and draw(st.booleans())), np.zeros(ROOM, np.uint8), ROOM,
    ]


TAYLOR_KINDS = {"f16": np.float16, "bf16": np.float32, "f32": np.float32, "f64": np.float64}
TAYLOR_OPS = range(9)
FAST = 4
ENTRIES = st.sampled_from([0, 1, 2, 15, 16, 17, 63, 64, 65, 129, 1025]) | st.integers(0, 70)


def stored_logits(kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Numbers as they are stored, and now and then what is no number or huge."""
    values = rng.standard_normal(shape) * rng.choice([0.01, 1, 4, 30])
    special = rng.choice([np.nan, np.inf, -np.inf, 1e30, -1e300, 1e-40, 0.0, -0.0], shape)
    values = np.where(rng.random(shape) < rng.choice([0, 0, 0.02]), special, values)
    with np.errstate(all="ignore"):
        values = values.astype(TAYLOR_KINDS[kind])
    if kind == "bf16":
        return (values.view(np.uint32) >> 16).astype(np.uint16)
    return values.view(np.uint16) if kind == "f16" else values


@st.composite
def plans(draw, op: int | None = None) -> np.ndarray:
    order = draw(st.sampled_from([2, 4, 6, 8, 10, 12]))
    if op == FAST:
        return fast_plan(order)
    margin = draw(st.sampled_from([0.0, 0.5])) if op is None else 0.0
    return plan(order, draw(st.sampled_from([1.0, 1.0, 0.3, 1e-30])), op is not None and draw(st.booleans()), margin)


@st.composite
def taylor_plain_calls(draw, kind: str) -> list[Any]:
    rng, op, n = draw(generators), draw(st.sampled_from(TAYLOR_OPS)), draw(ENTRIES)
    size = n * draw(st.integers(0, 3))
    x = stored_logits(kind, (size,), rng)
    return [op, x, np.full_like(x, 7), size, n, draw(plans(op))]


@st.composite
def taylor_rows_calls(draw, kind: str) -> list[Any]:
    rng, op, n = draw(generators), draw(st.sampled_from(TAYLOR_OPS)), draw(ENTRIES)
    shape = (draw(st.sampled_from([0, 1, 2, 5, 17])), draw(st.integers(1, 3)), n)
    x, g, out = (laid_out(stored_logits(kind, shape, rng), rng) for _ in range(3))
    masked = int(op <= FAST and draw(st.booleans()))
    where = laid_out((rng.random(shape) < rng.choice([0.1, 0.9])).astype(np.uint8), rng)
    return [op, x, g, where, out, *shape, masked, draw(plans(op))]


@st.composite
def taylor_loss_calls(draw, kind: str, vjp: bool) -> list[Any]:
    rng = draw(generators)
    rows, n = draw(st.integers(0, 5)), draw(ENTRIES.filter(bool))
    x = laid_out(stored_logits(kind, (rows, n), rng), rng)
    label, g = rng.integers(0, n, rows), rng.standard_normal(rows)
    if vjp:
        return [g, x, label, laid_out(stored_logits(kind, (rows, n), rng), rng), rows, n, draw(plans())]
    return [x, label, g, rows, n, draw(plans())]


@st.composite
def philox_row_calls(draw, dtype: type[np.generic]) -> list[Any]:
    n = draw(lengths)
    size = draw(st.integers(0, 3 * n + 3))
    where = draw(TAGS), draw(FIRST_ROWS), draw(st.integers(0, WORD - 1))
    return [*words(draw(seeds)), *where, np.zeros(size, dtype), size, n]


@st.composite
def hadamard_calls(draw, kind: str) -> list[Any]:
    rng, n = draw(generators), draw(powers | st.sampled_from([0, 3, 8192]))
    inner = draw(st.sampled_from([1, 1, 0, 2, 3, 16, 17, 65]))
    size = n * inner * draw(st.integers(0, 3 if n * inner < 2000 else 1)) + draw(st.integers(0, 5))
    x, out = (real_numbers(rng, (size + 1,), REALS[kind])[1:] for _ in range(2))
    return [x, out, size, n, inner, draw(st.integers(0, 1))]


@st.composite
def simhash_calls(draw, kind: str) -> list[Any]:
    rng, (rows, d, size, bits, p, blocks) = draw(generators), draw(simhash_sizes())
    x = operand(rng, real_numbers(rng, (rows, d), REALS[kind]))
    code = laid_out(np.full((rows, size), 7, np.uint8), rng)
    table = simhash_table(rng, blocks, p, x.dtype).ravel()
    return [x, code, table, np.zeros(p, x.dtype), rows, d, size, bits, p, table.size]


@st.composite
def srht_calls(draw, kind: str) -> list[Any]:
    rng, p = draw(generators), draw(powers)
    rows, d, k = draw(st.integers(0, 4)), draw(st.integers(0, p)), draw(st.integers(0, 70))
    x = operand(rng, real_numbers(rng, (rows, d), REALS[kind]))
    out = laid_out(np.full((rows, k), 7, x.dtype), rng)
    sign, sample = rng.choice([-1, 1], p).astype(x.dtype), rng.integers(0, 2**32, k, np.uint32)
    return [x, out, sign, sample, np.array([0.3], x.dtype), np.zeros(p, x.dtype), rows, d, k, p]


@st.composite
def sparse_calls(draw, kind: str) -> list[Any]:
    rng, rows, d, k = draw(generators), draw(few_rows), draw(widths), draw(st.integers(0, 12))
    x = operand(rng, real_numbers(rng, (rows, d), REALS[kind]))
    start, entry = hashing_oracle.signed_entries(ternary(rng, k, d))
    out, sizes = laid_out(np.full((rows, k), 7, x.dtype), rng), (rows, d, k, k + 1, len(entry))
    return [x, out, start, entry, np.array([0.3], x.dtype), np.zeros(SPACE, x.dtype), *sizes, SPACE]


@st.composite
def sparse_csr_calls(draw, kind: str) -> list[Any]:
    rng, rows, d, k = draw(generators), draw(few_rows), draw(widths), draw(st.integers(0, 12))
    data, column, start = csr(stored_rows(rng, rows, d, REALS[kind], False), REALS[kind])
    first, entry = hashing_oracle.signed_entries(ternary(rng, k, d).T)
    out, scale = laid_out(np.full((rows, k), 7, data.dtype), rng), np.array([0.3], data.dtype)
    return [data, column, start, out, first, entry, scale, len(data), rows + 1, rows, k, d + 1, len(entry)]


@st.composite
def pack_calls(draw, kind: str) -> list[Any]:
    rng, rows, n = draw(generators), draw(st.integers(0, 4)), draw(lengths)
    size = draw(st.sampled_from([-(-n // 8), n // 16, n // 8 + 3]))
    x = operand(rng, real_numbers(rng, (rows, n), REALS[kind]))
    return [x, laid_out(np.full((rows, size), 7, np.uint8), rng), rows, n, size]


@st.composite
def pair_calls(draw) -> list[Any]:
    rng, rows, size = draw(generators), draw(few_rows), draw(code_sizes)
    a, b = (operand(rng, some_codes(rng, rows, size)) for _ in range(2))
    return [a, b, np.full(rows, 7, np.int32), rows, size]


@st.composite
def topk_calls(draw) -> list[Any]:
    """The lists hold something already."""
    (rng, query, code), k = draw(searches()), draw(st.integers(0, 40))
    (queries, size), n = query.shape, len(code)
    first = draw(st.sampled_from([0, 50, 2**40]))
    distance, ids = rng.integers(0, 8 * size + 1, (queries, k)), rng.integers(0, 100, (queries, k))
    none = rng.random((queries, k)) < rng.choice([0, 0.5, 1])
    distance, ids = np.where(none, hashing_oracle.FARTHEST, distance), np.where(none, hashing_oracle.NOBODY, ids)
    order = np.lexsort((ids, distance), axis=-1)
    distance, ids = (np.take_along_axis(each, order, -1) for each in (distance, ids))
    lists = laid_out(distance.astype(np.int32), rng), laid_out(ids, rng)
    return [query, code, *lists, np.zeros(SPACE, np.uint64), queries, n, size, k, first, SPACE]


@st.composite
def range_calls(draw) -> list[Any]:
    """Each query has a place of its own, which may be past the end."""
    rng, query, code = draw(searches())
    (queries, size), n = query.shape, len(code)
    hits, radius = draw(st.sampled_from([0, 1, 50, 3000])), draw(st.integers(-1, 8 * size))
    position, count = rng.permutation(queries) * n + draw(st.integers(0, 9)), rng.integers(0, 9, queries)
    found = np.full(hits, 7, np.int32), np.full(hits, 7, np.int64)
    sizes = queries, n, size, radius, draw(st.integers(0, 99)), hits
    return [query, code, position, count, *found, np.zeros(SPACE, np.uint64), *sizes, SPACE]


@st.composite
def unit_calls(draw) -> list[Any]:
    rng, rows, d = draw(generators), draw(few_rows), draw(widths)
    x = operand(rng, real_numbers(rng, (rows, d), np.float32))
    width = -(-d // 16) * 16
    return [x, np.full(rows * width, 7, np.float32), rows, d, width, rows * width]


@st.composite
def lsh_project_calls(draw) -> list[Any]:
    rng, (rows, d, _, bits, p, blocks) = draw(generators), draw(simhash_sizes())
    x = operand(rng, rng.standard_normal((rows, d)).astype(np.float32))
    out, table = laid_out(np.full((rows, bits), 7, np.float32), rng), simhash_table(rng, blocks, p, x.dtype).ravel()
    return [x, out, table, np.zeros(p, np.float32), rows, d, bits, p, table.size]


@st.composite
def lsh_build_calls(draw) -> list[Any]:
    rng, n, n_bits, tables = draw(generators), draw(lengths), draw(st.integers(0, 64)), draw(st.integers(1, 3))
    first, prefix = draw(st.integers(0, 2)), min(n_bits, draw(st.integers(0, 9)))
    size = -(-(first + tables) * n_bits // 8)
    code = rng.choice(np.array([0, 1, 128, 255], np.uint8), n * size, p=[0.7, 0.1, 0.1, 0.1])
    shapes = tables * (2**prefix + 1), tables * n, tables * n * (prefix < n_bits)
    arrays = [np.full(length, 7, t) for length, t in zip(shapes, (np.uint32, np.uint32, np.uint64), strict=True)]
    return [code, *arrays, n, size, tables, first, n_bits, prefix, code.size, *shapes]


@st.composite
def lsh_probes_calls(draw) -> list[Any]:
    rng, rows, tables = draw(generators), draw(st.integers(0, 3)), draw(st.integers(1, 3))
    n_bits, probes = draw(st.integers(0, 64)), draw(st.integers(1, 70))
    projection = rng.standard_normal(rows * tables * n_bits)
    projection = np.round(projection) if draw(st.booleans()) else projection
    bucket = np.full(rows * tables * probes, 7, np.uint64)
    sizes = rows, tables, n_bits, probes, projection.size, bucket.size
    return [projection.astype(np.float32), bucket, np.zeros(SPACE, np.uint64), *sizes, SPACE]


@st.composite
def lsh_query_calls(draw) -> list[Any]:
    """Tables of rows of small integers, whose dot products are often the same, or with anything in them."""
    rng, queries, n, k = draw(generators), draw(st.integers(0, 4)), draw(lengths), draw(st.integers(0, 12))
    width, tables, probes = 16 * draw(st.integers(0, 9)), draw(st.integers(1, 3)), draw(st.integers(0, 5))
    n_bits = draw(st.integers(0, 9))
    prefix = draw(st.integers(0, n_bits))
    starts, shift = 2**prefix + 1, n_bits - prefix
    bucket = rng.integers(0, 2**n_bits, (tables, n)).astype(np.uint64)
    position = np.argsort(bucket, axis=1, kind="stable")
    key = np.take_along_axis(bucket, position, axis=1)
    start = np.array([np.searchsorted(row >> np.uint64(shift), np.arange(starts, dtype=np.uint64)) for row in key])
    if draw(st.booleans()):
        start, position = (rng.integers(0, draw(st.sampled_from([n + 2, 2**32])), a.shape) for a in (start, position))
        key = rng.integers(0, 2**64, key.shape, np.uint64)
    wanted = rng.integers(0, 2 ** min(63, n_bits + (rng.random() < 0.2)), (queries, tables, probes)).astype(np.uint64)
    query, row = (rng.integers(-2, 3, (count, width)).astype(np.float32) / 16 for count in (queries, n))
    small, scale = hashing_oracle.small_integers(row, -(-width // 64) * 64 * draw(st.integers(0, 1)))
    ids, removed = rng.permutation(n) - n // 2, rng.integers(0, 2**64, -(-n // 64), np.uint64)
    removed &= rng.integers(0, 2**64, removed.size, np.uint64)
    cosine = -np.sort(-rng.integers(-1, 2, (queries, k)).astype(np.float32))
    cosine[:, k // 2 :] = -np.inf
    neighbor = np.where(np.isfinite(cosine), np.sort(rng.integers(1000, 2000, (queries, k))), -1)
    arrays = [query, wanted, row, small, scale, removed, start.astype(np.uint32), position.astype(np.uint32)]
    arrays += [key if shift else key[:, :0], cosine, ids, neighbor, rng.integers(0, 9, queries)]
    arrays = [np.ascontiguousarray(array).reshape(-1) for array in arrays]
    sizes = [queries, tables, probes, k, width, small.shape[1], n, n_bits, starts, *(a.size for a in arrays[:10])]
    ordered = [*arrays[:5], arrays[10], *arrays[5:10], *arrays[11:]]
    return [*ordered, np.zeros(SPACE, np.uint64), *sizes, SPACE]


@st.composite
def lsh_small_calls(draw) -> list[Any]:
    rng, n, width = draw(generators), draw(few_rows), 16 * draw(st.integers(0, 9))
    row = real_numbers(rng, (n, width), np.float32)
    small_width = width + draw(st.sampled_from([0, 1, 64]))
    small, scale = np.full(n * small_width, 7, np.uint8), np.full(n, 7, np.float32)
    return [row, small, scale, n, width, small_width, row.size, small.size]


ROOM = 1 << 20
"""Bytes of work that are enough for the calls of Mitchell products."""

SPACE = 1 << 15
"""Elements of work that are enough for the other calls."""

CALLS: dict[str, st.SearchStrategy[list[Any]]] = {
    "philox_fill": philox_calls(),
    "find_byte": byte_searches(),
    "rfind_byte": byte_searches(),
    "count_byte": byte_searches(),
    "split_delimited": delimited_calls(),
    "split_frames": split_frames_calls(),
    "number_records": numberings(),
    "bucket_records": bucket_calls(),
    "scatter_count": scatter_count_calls(),
    "scatter_place": scatter_place_calls(),
    "records_checksum": records_checksum_calls(),
    "checksum_blocks": checksum_calls(False),
    "checksum_end": checksum_calls(True),
    "frames_index": frames_index_calls(),
    "entries_sort": sort_calls(),
    "gather": gather_calls(),
    "frames_measure": frames_calls(1),
    "frames_checksum": frames_calls(2),
    **{f"mitchell_gemm_{kind}": gemm_calls(kind) for kind in FLOAT_KINDS},
    **{f"mitchell_conv_{kind}": conv_calls(kind) for kind in FLOAT_KINDS},
    **{f"taylor_plain_{kind}": taylor_plain_calls(kind) for kind in TAYLOR_KINDS},
    **{f"taylor_rows_{kind}": taylor_rows_calls(kind) for kind in TAYLOR_KINDS},
    **{f"taylor_loss_{kind}": taylor_loss_calls(kind, False) for kind in TAYLOR_KINDS},
    **{f"taylor_loss_vjp_{kind}": taylor_loss_calls(kind, True) for kind in TAYLOR_KINDS},
    "philox_rows": philox_row_calls(np.uint64),
    "philox_normal": philox_row_calls(np.float64),
    **{f"hadamard_{kind}": hadamard_calls(kind) for kind in REALS},
    **{f"simhash_{kind}": simhash_calls(kind) for kind in REALS},
    **{f"srht_{kind}": srht_calls(kind) for kind in REALS},
    **{f"sparse_project_{kind}": sparse_calls(kind) for kind in REALS},
    **{f"sparse_project_csr_{kind}": sparse_csr_calls(kind) for kind in REALS},
    **{f"pack_signs_{kind}": pack_calls(kind) for kind in REALS},
    "hamming_pairs": pair_calls(),
    "hamming_topk": topk_calls(),
    "hamming_range": range_calls(),
    "lsh_unit": unit_calls(),
    "lsh_project": lsh_project_calls(),
    "lsh_build": lsh_build_calls(),
    "lsh_probes": lsh_probes_calls(),
    "lsh_small": lsh_small_calls(),
    "lsh_query": lsh_query_calls(),
}
"""Arguments for every kernel of the table."""

SCRATCH = ("work", "room")
"""Arguments that say nothing: they differ between backends."""

ANY_NAN = ("hadamard", "srht", "sparse_project")
"""Kernels that tell no nan from another: of two operands that are nan, a sum may be either, with either sign."""


def duplicate(argument: Any) -> Any:
    """A copy of an array in memory of its own, with the same strides."""
    if not isinstance(argument, np.ndarray) or argument.flags.c_contiguous:
        return argument.copy() if isinstance(argument, np.ndarray) else argument
    ends = [(n - 1) * stride for n, stride in zip(argument.shape, argument.strides, strict=True)] * (argument.size > 0)
    below, above = -sum(min(0, end) for end in ends), sum(max(0, end) for end in ends)
    memory = np.zeros(below + above + argument.itemsize, np.uint8)
    copy = np.ndarray(argument.shape, argument.dtype, memory, below, argument.strides)
    copy[...] = argument
    return copy


def values_of(name: str, arguments: Sequence[Any]) -> list[Any]:
    """Arguments as they can be compared, less the scratch and how much of it there is."""
    values: list[Any] = []
    for parameter, argument in zip(KERNELS[name].parameters, arguments, strict=True):
        if parameter.name in SCRATCH:
            continue
        if name.startswith(ANY_NAN) and isinstance(argument, np.ndarray) and argument.dtype.kind == "f":
            argument = np.where(np.isnan(argument), argument.dtype.type(np.nan), argument)
        values.append(argument.tobytes() if isinstance(argument, np.ndarray) else argument)
    return values


def test_every_kernel_is_called():
    assert set(CALLS) == set(KERNELS)


@pytest.mark.parametrize("name", CALLS)
@given(data=st.data())
def test_same_bits(on_each, name, data):
    arguments = data.draw(CALLS[name])

    def run(kernels) -> list[Any]:
        own = [duplicate(argument) for argument in arguments]
        returned = getattr(kernels, name)(*own)
        if KERNELS[name].parameters[-1].name == "room":
            returned = returned <= own[-1]
        return [returned, *values_of(name, own)]

    results = on_each(run)
    first = next(iter(results))
    for variant, result in results.items():
        assert result == results[first], f"{variant} differs from {first}"


# ---- read-only arrays


@pytest.mark.parametrize("name", CALLS)
@settings(max_examples=10)
@given(data=st.data())
def test_read_only_arrays(kernels, name, data):
    arguments, parameters = data.draw(CALLS[name]), KERNELS[name].parameters
    call = getattr(kernels, name)

    def own(read_only: set[int]) -> list[Any]:
        copies = [duplicate(argument) for argument in arguments]
        for i in read_only:
            copies[i].flags.writeable = False
        return copies

    usual, constant = own(set()), own({i for i, p in enumerate(parameters) if p.constant})
    assert call(*usual) == call(*constant)
    assert values_of(name, usual) == values_of(name, constant)
    for i, parameter in enumerate(parameters):
        if parameter.constant:
            assert usual[i].tobytes() == arguments[i].tobytes()
        elif parameter.kind == "array":
            refused = own({i})
            with pytest.raises(ValueError, match=f"{name}: {parameter.name} is written, but the array is read-only"):
                call(*refused)
            assert values_of(name, refused) == values_of(name, arguments)


# ---- work space


@pytest.mark.parametrize("name", [name for name in CALLS if KERNELS[name].parameters[-1].name == "room"])
@settings(max_examples=10)
@given(data=st.data())
def test_room_that_is_asked_for(kernels, name, data):
    """With too little room nothing is written, and what is returned is enough."""
    arguments, call = data.draw(CALLS[name]), getattr(kernels, name)
    place, dtype = next((i, p.dtype) for i, p in enumerate(KERNELS[name].parameters) if p.name == "work")
    room = arguments[-1]

    def run(own: list[Any], work: np.ndarray, room: int) -> int:
        return call(*own[:place], work, *own[place + 1 : -1], room)

    wanted, mine = ([duplicate(argument) for argument in arguments] for _ in range(2))
    assert run(wanted, np.zeros(room, dtype), room) <= room
    if needed := run(mine, np.zeros(0, dtype), 0):
        assert values_of(name, mine) == values_of(name, arguments)
        assert run(mine, np.zeros(needed, dtype), needed - 1) == needed
        assert values_of(name, mine) == values_of(name, arguments)
        work = Guarded(needed, dtype)
        assert run(mine, work.array, needed) <= needed
        work.written(needed)
    assert values_of(name, mine) == values_of(name, wanted)


CONTRADICTIONS = [
    {"groups": 0}, {"kernel_h": 0}, {"kernel_w": 0}, {"out_w": 0}, {"groups": 3}, {"groups": 2}, {"k": 37}, {"k": 0},
]


@pytest.mark.parametrize("kind", FLOAT_KINDS)
@pytest.mark.parametrize("wrong", CONTRADICTIONS, ids=str)
def test_sizes_that_contradict_each_other(kernels, kind, wrong):
    kernel = KERNELS[f"mitchell_conv_{kind}"]
    sizes = dict.fromkeys((p.name for p in kernel.parameters), 1)
    sizes |= {"channels": 4, "h": 5, "w": 5, "m": 4, "k": 36, "n": 9, "kernel_h": 3, "kernel_w": 3, "out_w": 3}
    sizes |= dict.fromkeys(("first", "pad_h", "pad_w", "bias", "refined"), 0) | {"room": ROOM}
    for given_sizes, returned in ((sizes, 0), (sizes | wrong, 2**64 - 1)):
        arguments: list[Any] = [given_sizes[p.name] for p in kernel.parameters]
        for i, p in enumerate(kernel.parameters):
            if p.dtype:
                arguments[i] = np.full(shape_needed(p, arguments), 3, p.dtype)
        assert getattr(kernels, kernel.name)(*arguments) == returned
        # Products of 3 and 3 are 8.
        assert (arguments[2] == (3 if returned else 36 * 8)).all()


# ---- arguments


ARRAYS = [(name, i) for name, kernel in KERNELS.items() for i, p in enumerate(kernel.parameters) if p.kind == "array"]
ARRAY_IDS = [f"{name}-{KERNELS[name].parameters[i].name}" for name, i in ARRAYS]
SCALARS = [(name, i) for name, kernel in KERNELS.items() for i, p in enumerate(kernel.parameters) if p.kind != "array"]
SCALAR_IDS = [f"{name}-{KERNELS[name].parameters[i].name}" for name, i in SCALARS]
NO_ARRAYS = [None, 3, b"abcdefgh", bytearray(64), memoryview(bytes(64)), [0] * 64, np.uint64(5)]
NO_INTEGERS = [None, 1.0, 1.5, np.float64(2), "1", b"\x01", [1], 1j, np.zeros(2, np.uint8)]


def shape_needed(parameter: Parameter, arguments: Sequence[Any]) -> tuple[int, ...]:
    """Shape of an array of this call: of one dimension, the least."""
    if parameter.strided:
        return tuple([arguments[i] for i in parameter.extents])
    return (parameter.times * (arguments[parameter.extents[0]] if parameter.extents else 1),)


def plain_arguments(kernel: Kernel, extent: int = 4) -> list[Any]:
    """Arguments that pass the checks: every size 4, every flag 1, every array as large as it must be."""
    arguments: list[Any] = [min(extent, RANGES[p.kind][1]) if p.dtype is None else None for p in kernel.parameters]
    for i, p in enumerate(kernel.parameters):
        if p.dtype:
            arguments[i] = np.zeros(shape_needed(p, arguments), p.dtype)
    return arguments


@pytest.fixture
def unreached() -> Callable[[Kernel], Callable[..., Any]]:
    """A kernel whose body must not be reached."""

    def body(*arguments: Any) -> None:
        raise AssertionError(f"reached with {arguments}")

    return lambda kernel: kernel.checked(body, lambda parameter, array: (array,))


@pytest.mark.parametrize("name", KERNELS)
def test_plain_arguments_pass(name):
    kernel = KERNELS[name]
    arguments = plain_arguments(kernel)
    call = kernel.checked(lambda *reached: len(reached), lambda parameter, array: (array,))
    assert call(*arguments) == len(arguments)


@pytest.mark.parametrize("name", KERNELS)
def test_number_of_arguments(name, unreached):
    arguments = plain_arguments(KERNELS[name])
    for wrong in (arguments[:-1], [*arguments, 1], []):
        with pytest.raises(TypeError, match=rf"{name} takes {len(arguments)} arguments, got {len(wrong)}"):
            unreached(KERNELS[name])(*wrong)


@pytest.mark.parametrize(("name", "i"), ARRAYS, ids=ARRAY_IDS)
def test_wrong_arrays(name, i, unreached):
    kernel = KERNELS[name]
    parameter, good = kernel.parameters[i], plain_arguments(kernel)
    call = unreached(kernel)
    right = good[i] if good[i].size else np.zeros(4, parameter.dtype)
    others = [dtype for dtype in [*DTYPES.values(), np.int64, np.float64, np.int8, object] if dtype != parameter.dtype]
    wrong = [right.astype(dtype) for dtype in others]
    if right.itemsize > 1:
        wrong.append(right.astype(right.dtype.newbyteorder()))
        shifted = np.zeros(right.nbytes + 8, np.uint8)[1:][: right.nbytes].view(right.dtype)
        wrong.append(shifted.reshape(right.shape))
    if not parameter.strided:
        wrong += [np.zeros(2 * right.size + 8, right.dtype)[::2], np.zeros((8, 8), right.dtype)[:, :3]]
        wrong += [np.zeros(right.size + 4, right.dtype)[::-1], np.asfortranarray(np.zeros((8, 8), right.dtype))]
    kind = "an aligned" if parameter.strided else "a contiguous"
    for array in wrong:
        with pytest.raises(TypeError, match=rf"{name}: {parameter.name} must be {kind} array"):
            call(*good[:i], array, *good[i + 1 :])
    if parameter.strided:
        return
    if shape_needed(parameter, good) != (0,):
        short = right[:-1]
        with pytest.raises(ValueError, match=rf"{name}: {parameter.name} has {short.size} elements, needs"):
            call(*good[:i], short, *good[i + 1 :])


STRIDED = [(name, i) for name, i in ARRAYS if KERNELS[name].parameters[i].strided]
STRIDED_IDS = [f"{name}-{KERNELS[name].parameters[i].name}" for name, i in STRIDED]


@pytest.mark.parametrize(("name", "i"), STRIDED, ids=STRIDED_IDS)
def test_wrong_shapes(name, i, unreached):
    kernel = KERNELS[name]
    parameter = kernel.parameters[i]
    sizes = {p.name: 2 + j for j, p in enumerate(kernel.parameters) if p.kind == "size"}
    good = [sizes.get(p.name, value) for p, value in zip(kernel.parameters, plain_arguments(kernel), strict=True)]
    for j, p in enumerate(kernel.parameters):
        if p.strided:
            good[j] = np.broadcast_to(np.zeros(1, p.dtype), shape_needed(p, good))
            good[j].flags.writeable = not p.constant
        elif p.dtype:
            good[j] = np.zeros(shape_needed(p, good), p.dtype)
    shape = good[i].shape
    assert shape == tuple([good[j] for j in parameter.extents])
    wrong = [shape[1:], (*shape, 1), (1, *shape), shape[::-1], (), (0,) * len(shape)]
    wrong += [(*shape[:j], size, *shape[j + 1 :]) for j in range(len(shape)) for size in (shape[j] - 1, shape[j] + 1)]
    for other in wrong:
        array = np.lib.stride_tricks.as_strided(np.zeros(1, parameter.dtype), other, (0,) * len(other))
        message = re.escape(f"{name}: {parameter.name} has shape {other}, not {shape}")
        with pytest.raises(ValueError, match=message):
            unreached(kernel)(*good[:i], array, *good[i + 1 :])


@pytest.mark.parametrize(("name", "i"), STRIDED, ids=STRIDED_IDS)
def test_any_strides_pass(name, i):
    kernel = KERNELS[name]
    good = plain_arguments(kernel)
    reach = kernel.checked(lambda *reached: reached[i], lambda parameter, array: (array,))
    for seed in range(20):
        array = laid_out(good[i], np.random.default_rng(seed))
        assert reach(*good[:i], array, *good[i + 1 :]) is array
    whole = np.zeros([2 * n for n in good[i].shape], good[i].dtype)
    array = whole[tuple(slice(None, None, 2) for _ in good[i].shape)]
    assert reach(*good[:i], array, *good[i + 1 :]) is array


@pytest.mark.parametrize(("name", "i"), ARRAYS, ids=ARRAY_IDS)
def test_not_an_array(name, i, unreached):
    kernel = KERNELS[name]
    good, call = plain_arguments(kernel), unreached(kernel)
    for wrong in NO_ARRAYS:
        message = f"{name}: {kernel.parameters[i].name} must be an array, not {type(wrong).__name__}"
        with pytest.raises(TypeError, match=message):
            call(*good[:i], wrong, *good[i + 1 :])


@pytest.mark.parametrize(("name", "i"), ARRAYS, ids=ARRAY_IDS)
def test_read_only_only_if_constant(name, i, unreached):
    kernel = KERNELS[name]
    parameter, good = kernel.parameters[i], plain_arguments(kernel)
    good[i].flags.writeable = False
    if parameter.constant:
        kernel.checked(lambda *reached: None, lambda parameter, array: (array,))(*good)
        return
    with pytest.raises(ValueError, match=f"{name}: {parameter.name} is written, but the array is read-only"):
        unreached(kernel)(*good)


def test_kinds_of_scalars():
    assert RANGES == {
        "u8": (0, 2**8 - 1),
        "u32": (0, 2**32 - 1),
        "u64": (0, 2**64 - 1),
        "i64": (-(2**63), 2**63 - 1),
        "flag": (0, 1),
        "size": (0, 2**63 - 1),
        "bits": (1, 31),
        "fanout": (1, 2**16 - 1),
    }
    assert {KERNELS[name].parameters[i].kind for name, i in SCALARS} == RANGES.keys()


@pytest.mark.parametrize(("name", "i"), SCALARS, ids=SCALAR_IDS)
def test_scalars(name, i, unreached):
    kernel = KERNELS[name]
    parameter, good = kernel.parameters[i], plain_arguments(kernel)
    least, most = RANGES[parameter.kind]
    for wrong in NO_INTEGERS:
        with pytest.raises(TypeError, match=rf"{name}: {parameter.name}=.*: an integer is needed"):
            unreached(kernel)(*good[:i], wrong, *good[i + 1 :])
    for wrong in (least - 1, *[np.int64(-3)] * (least >= 0), most + 1, most + 2, 2**64, -(2**200), 2**200):
        with pytest.raises(ValueError, match=rf"{name}: {parameter.name}={wrong}: allowed is {least} to {most}"):
            unreached(kernel)(*good[:i], wrong, *good[i + 1 :])

    taken = kernel.checked(lambda *reached: reached[i], lambda parameter, array: (array,))
    right = [good[i], np.uint8(good[i]), np.int64(good[i]), np.array(good[i])]
    if not any(p.strided and i in p.extents for p in kernel.parameters):
        right.append(least)
    if not any(i in p.extents for p in kernel.parameters):
        right.append(most)
    for value in right:
        reached = taken(*good[:i], value, *good[i + 1 :])
        assert (type(reached), reached) == (int, value)


def test_wrong_arguments_on_each(kernels):
    buf = np.zeros(8, np.uint8)
    with pytest.raises(TypeError, match="find_byte takes 3 arguments, got 2"):
        kernels.find_byte(buf, 8)
    with pytest.raises(TypeError, match="buf must be a contiguous array"):
        kernels.find_byte(buf.view(np.int8), 8, 10)
    with pytest.raises(TypeError, match="buf must be a contiguous array"):
        kernels.find_byte(buf[::2], 4, 10)
    with pytest.raises(ValueError, match="buf has 8 elements, needs 9"):
        kernels.find_byte(buf, 9, 10)
    out = np.zeros(8, np.uint64)
    with pytest.raises(ValueError, match="out has 8 elements, needs 9"):
        kernels.philox_fill(1, 2, 0, out, 9)
    assert not out.any()
    m, number = 3, np.zeros(3, np.uint64)
    start, bucket, nothing = np.zeros(3, np.uint32), np.zeros(3, np.uint16), np.zeros(0, np.uint64)
    common = (buf, start, start, number)
    with pytest.raises(ValueError, match="tally has 27 elements, needs 28"):
        kernels.scatter_count(*common, bucket, m, 4, 20, 9, np.zeros(27, np.uint64))
    with pytest.raises(ValueError, match="tally has 27 elements, needs 28"):
        kernels.records_checksum(buf, start, start, bucket, m, 4, np.zeros(27, np.uint64))
    with pytest.raises(ValueError, match="fanout has 0 elements, needs 1"):
        kernels.bucket_records(number, m, 0, 0, nothing, 1, 4, 0, 9, bucket)
    with pytest.raises(ValueError, match="state has 3 elements, needs 4"):
        kernels.split_delimited(buf, 8, buf, 1, 1, number, start, start, 3)
    with pytest.raises(ValueError, match="delimiter has 8 elements, needs 9"):
        kernels.split_delimited(buf, 8, buf, 9, 1, out, start, start, 3)
    for name, (previous, position) in {"previous": (2, 3), "position": (3, 2)}.items():
        two = (np.zeros(previous, np.uint64), np.zeros(position, np.uint64))
        with pytest.raises(ValueError, match=f"{name} has 2 elements, needs 3"):
            kernels.scatter_place(*common, bucket, m, 20, 9, 0, *two, 3, buf)
    with pytest.raises(ValueError, match="segments has 3 elements, needs 4"):
        kernels.frames_index(buf, 8, np.zeros(3, np.uint64), 2, 8, number, 0, 0, nothing, 0, out, 4)
    a, work = np.zeros((2, 4, 3), np.float32), np.zeros(ROOM, np.uint8)
    b, c = a.swapaxes(1, 2), np.ones((2, 4, 4), np.float32)
    rest = (2, 4, 4, 3, 0, 0, work, ROOM)
    with pytest.raises(ValueError, match=r"a has shape \(2, 3, 4\), not \(2, 4, 3\)"):
        kernels.mitchell_gemm_f32(b, b, c, *rest)
    with pytest.raises(ValueError, match=r"b has shape \(2, 4, 3\), not \(2, 3, 4\)"):
        kernels.mitchell_gemm_f32(a, a, c, *rest)
    with pytest.raises(ValueError, match=r"c has shape \(1, 4, 4\), not \(2, 4, 4\)"):
        kernels.mitchell_gemm_f32(a, b, c[:1], *rest)
    with pytest.raises(TypeError, match=r"a must be an aligned array of .*float32"):
        kernels.mitchell_gemm_f32(a.astype(np.float64), b, c, *rest)
    with pytest.raises(TypeError, match=r"b must be an aligned array of .*float32"):
        kernels.mitchell_gemm_f32(a, unaligned(b.tobytes())[: b.nbytes].view(np.float32).reshape(b.shape), c, *rest)
    with pytest.raises(ValueError, match="work has 9 elements, needs 10"):
        kernels.mitchell_gemm_f32(a, b, c, *rest[:-2], work[:9], 10)
    assert (c == 1).all()
    assert kernels.mitchell_gemm_f32(a, b, c, *rest) == 0
    assert not c.any()
    with pytest.raises(AttributeError, match="no kernel 'find'"):
        _ = kernels.find


def test_larger_and_2d_arrays_pass(kernels):
    buf = np.zeros((4, 8), np.uint8)
    buf[3, 7] = 10
    assert kernels.find_byte(buf, 32, 10) == 31
    assert kernels.find_byte(buf, 5, 10) == 5


def test_read_only_inputs(kernels):
    buf = np.frombuffer(b"-a\nbc\n", np.uint8)[1:]
    assert not buf.flags.writeable
    assert kernels.find_byte(buf, 5, 10) == 1
    assert kernels.rfind_byte(buf, 5, 10) == 4
    assert kernels.count_byte(buf, 5, 10) == 2
    assert kernels.find_byte(buf[:0], 0, 10) == 0


def test_read_only_outputs_are_refused(kernels):
    out = np.zeros(4, np.uint64)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out is written, but the array is read-only"):
        kernels.philox_fill(1, 2, 0, out, 4)
    assert not out.any()


@pytest.mark.parametrize("wrong", NO_ARRAYS, ids=lambda wrong: type(wrong).__name__)
def test_not_an_array_on_each(kernels, wrong):
    with pytest.raises(TypeError, match=f"buf must be an array, not {type(wrong).__name__}"):
        kernels.find_byte(wrong, 3, 10)


def test_wrong_scalars_on_each(kernels):
    buf, out = np.zeros(8, np.uint8), np.zeros(8, np.uint64)
    start, state = np.zeros(1, np.uint32), np.zeros(2, np.uint64)
    none, work = np.zeros((0, 0, 0), np.float32), np.zeros(ROOM, np.uint8)

    def frames(bits: Any) -> int:
        return kernels.split_frames(buf, 0, bits, state, start, start, out, 1)

    def place(reference_size: Any, buckets: Any) -> None:
        nothing = (buf, start, start, out, np.zeros(1, np.uint16), 0)
        kernels.scatter_place(*nothing, 8, reference_size, 0, out, out, buckets, buf)

    calls = {
        "size": lambda n: kernels.find_byte(buf, n, 10),
        "u8": lambda byte: kernels.find_byte(buf, 8, byte),
        "u32": lambda reference_size: place(reference_size, 1),
        "u64": lambda start: kernels.philox_fill(1, 2, start, out, 0),
        "bits": frames,
        "fanout": lambda buckets: place(8, buckets),
        "i64": lambda bias: kernels.mitchell_gemm_f32(none, none, none, 0, 0, 0, 0, bias, 0, work, ROOM),
        "flag": lambda refined: kernels.mitchell_gemm_f32(none, none, none, 0, 0, 0, 0, 0, refined, work, ROOM),
    }
    assert calls.keys() == RANGES.keys()
    for kind, call in calls.items():
        least, most = RANGES[kind]
        for wrong in NO_INTEGERS:
            with pytest.raises(TypeError, match="an integer is needed"):
                call(wrong)
        for wrong in (*[-1, -(2**63)] * (least >= 0), least - 1, most + 1, 2**64, 2**200):
            with pytest.raises(ValueError, match=f"allowed is {least} to {most}"):
                call(wrong)
        for right in (least, np.uint8(min(7, most)), np.int64(min(8, most))):
            call(right)
        if kind not in ("size", "fanout"):
            call(most)
    assert not buf.any()
    assert not out.any()


# ---- memory past the end


PAST_THE_END = """
import ctypes, mmap, sys
import numpy as np
from fastk._backend import Kernels, c

page = mmap.PAGESIZE
memory = mmap.mmap(-1, 2 * page)
whole = np.frombuffer(memory, np.uint8)
libc = ctypes.CDLL(None, use_errno=True)
assert libc.mprotect(ctypes.c_void_p(whole.ctypes.data + page), ctypes.c_size_t(page), 0) == 0
kernels = Kernels(sys.argv[1])
start, size, number = np.zeros(200, np.uint32), np.zeros(200, np.uint32), np.zeros(200, np.uint64)
for isa in c.available_isa() if sys.argv[1] == "c" else ["none"]:
    if isa != "none":
        c.select_isa(isa)
    for n in range(200):
        buf = whole[page - n : page]
        buf[:] = 65
        assert kernels.find_byte(buf, n, 10) == kernels.rfind_byte(buf, n, 10) == n
        assert kernels.count_byte(buf, n, 65) == n
        for width in {1, 2, 5, min(n, 40)} - {0}:
            delimiter = whole[page - width : page]
            delimiter[:] = buf[:] = 65
            for lines in (1, 3):
                state, found = np.array([n // 2] * 3 + [0], np.uint64), (n - n // 2) // width // lines
                assert kernels.split_delimited(buf, n, delimiter, width, lines, state, start, size, 200) == found
        check, tally = np.zeros(2, np.uint64), np.zeros(7, np.uint64)
        kernels.checksum_blocks(buf, n, check)
        kernels.checksum_end(buf[n - n % 16 :], n % 16, n, check)
        one = np.array([n], np.uint32), np.zeros(1, np.uint16)
        kernels.records_checksum(buf, np.zeros(1, np.uint32), *one, 1, 1, tally)
        assert tally[5:].tolist() == check.tolist()
        assert kernels.split_frames(buf, n, 8, np.zeros(2, np.uint64), start, size, number, 200) == 0
        entries, previous = np.zeros(400, np.uint64), np.zeros(1, np.uint64)
        segments, key = np.array([0, n, n // 2, n, n + 1, n + 9], np.uint64), (0, 0, np.ones(1, np.uint64), 1)
        assert kernels.frames_index(buf, n, segments, 3, 8, previous, *key, entries, 200) == 0
        assert segments.tolist() == [0, n, n // 2, n, n + 1, n + 9]
        if n > 4:
            out, written, state = np.zeros(n, np.uint8), np.zeros(1, np.uint64), np.zeros(2, np.uint64)
            buf[:4] = np.array([(n - 4) << 8 | 1], np.uint32).view(np.uint8)
            assert kernels.split_frames(buf, n, 8, state, start, size, number, 200) == 1
            segments = np.array([0, n], np.uint64)
            assert kernels.frames_index(buf, n, segments, 1, 8, previous, *key, entries, 200) == 1
            assert (segments.tolist(), entries[1]) == ([n, n], 0)
            assert kernels.gather(buf, entries, 0, 1, 8, out, n, written) == 1
            assert kernels.frames_measure(buf, entries, 0, 1, 8, written) == 1
            assert written[0] == n - 4
            assert kernels.frames_checksum(buf, entries, 0, 1, 8, check) == 1
            kernels.scatter_place(
                buf[4:], np.zeros(1, np.uint32), np.array([n - 4], np.uint32), np.ones(1, np.uint64),
                np.zeros(1, np.uint16), 1, 8, 2**31 - 1, 0, np.zeros(1, np.uint64), np.zeros(1, np.uint64), 1, out,
            )
        # A word, and of its descriptor what there is of it.
        if n >= 4:
            buf[:] = 0
            buf[:4] = np.array([1], np.uint32).view(np.uint8)
            for descriptor in (0, 1, 2**64 - 1, 2**64 - 2, 2 * max(0, n - 11)):
                buf[4:12] = np.array([descriptor], np.uint64).view(np.uint8)[: min(n - 4, 8)]
                whole_frame = n >= 20 if descriptor % 2 else n - 12 >= descriptor // 2
                state, segments = np.zeros(2, np.uint64), np.array([0, n], np.uint64)
                # Capacity 1: the zeros that follow are skips.
                assert kernels.split_frames(buf, n, 8, state, start, size, number, 1) == whole_frame
                assert kernels.frames_index(buf, n, segments, 1, 8, previous, *key, entries, 1) == whole_frame
print("done")
"""


def test_nothing_past_the_end_is_read(run_python, backend):
    done = run_python("-c", PAST_THE_END, backend)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


AROUND_MATRICES = """
import ctypes, itertools, mmap, sys
import numpy as np
from fastk._backend import Kernels, c

page, libc = mmap.PAGESIZE, ctypes.CDLL(None, use_errno=True)

def between_walls(pages):
    whole = np.frombuffer(mmap.mmap(-1, (pages + 2) * page), np.uint8)
    for at in (0, (pages + 1) * page):
        assert libc.mprotect(ctypes.c_void_p(whole.ctypes.data + at), ctypes.c_size_t(page), 0) == 0
    return whole[page:-page]

regions = [between_walls(pages) for pages in (4, 4, 4, 256)]

def placed(i, array, at_end, turned=False):
    begin = len(regions[i]) - array.nbytes if at_end else 0
    source = array.swapaxes(-1, -2) if turned else array
    own = regions[i][begin : begin + array.nbytes].view(array.dtype).reshape(source.shape)
    own[...] = source
    return own.swapaxes(-1, -2) if turned else own

def check(call, arrays, *rest):
    wanted = arrays[2].copy()
    work = np.zeros(len(regions[3]), np.uint8)
    assert call(*arrays[:2], wanted, *rest, work, work.size) == 0
    needed = call(*arrays, *rest, work, 0)
    assert needed <= work.size
    for at_end, *turned in itertools.product((False, True), repeat=4):
        own = [placed(i, array, at_end, turned[i] and array.ndim < 4) for i, array in enumerate(arrays)]
        assert call(*own, *rest, placed(3, work[:needed], at_end), needed) == 0
        assert own[2].tobytes() == wanted.tobytes()

kernels, rng = Kernels(sys.argv[1]), np.random.default_rng(1)
for isa in c.available_isa() if sys.argv[1] == "c" else ["none"]:
    if isa != "none":
        c.select_isa(isa)
    for kind, operand, result in (("f32", "f4", "f4"), ("f64", "f8", "f8"), ("i32", "f4", "i4")):
        gemm, conv = getattr(kernels, "mitchell_gemm_" + kind), getattr(kernels, "mitchell_conv_" + kind)
        for m, n, k in itertools.product((1, 3, 8, 13), (1, 7, 16, 33), (1, 4, 13)):
            for low in (0, 1):
                a, b = rng.integers(low, 9, (1, m, k)).astype(operand), rng.integers(low, 9, (1, k, n)).astype(operand)
                check(gemm, (a, b, np.zeros((1, m, n), result)), 1, m, n, k, 0, 0)
        for size, kernel, stride, pad, dilation in itertools.product((5, 8, 17), (1, 3), (1, 2), (0, 1), (1, 2)):
            out = (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
            n, k = out * out, 2 * kernel * kernel
            x, a = rng.integers(1, 9, (1, 2, size, size)).astype(operand), rng.integers(1, 9, (3, k)).astype(operand)
            sizes = (1, 2, size, size, 3, k, n, 0, 1, kernel, kernel, out)
            steps = (stride, stride, pad, pad, dilation, dilation)
            check(conv, (x, a, np.zeros((1, 3, n), result)), *sizes, *steps, 0, 0)
print("done")
"""


def test_nothing_around_matrices_is_touched(run_python, backend):
    done = run_python("-c", AROUND_MATRICES, backend)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


AROUND_CODES = """
import ctypes, itertools, mmap, sys
import numpy as np
from fastk._backend import Kernels, c
from fastk._backend.kernels import KERNELS

page, libc = mmap.PAGESIZE, ctypes.CDLL(None, use_errno=True)

def between_walls(pages):
    whole = np.frombuffer(mmap.mmap(-1, (pages + 2) * page), np.uint8)
    for at in (0, (pages + 1) * page):
        assert libc.mprotect(ctypes.c_void_p(whole.ctypes.data + at), ctypes.c_size_t(page), 0) == 0
    return whole[page:-page]

regions = [between_walls(16) for _ in range(8)]

def placed(i, array, at_end, turned):
    begin = len(regions[i]) - array.nbytes if at_end else 0
    source = array.T if turned else array
    own = regions[i][begin : begin + array.nbytes].view(array.dtype).reshape(source.shape)
    own[...] = source
    return own.T if turned else own

def check(name, *arguments):
    parameters, call = KERNELS[name].parameters, getattr(kernels, name)
    arguments = [np.ascontiguousarray(a) if isinstance(a, np.ndarray) else a for a in arguments]
    if parameters[-1].name == "room":
        work = [p.name for p in parameters].index("work")
        dtype = parameters[work].dtype
        rest = [a.copy() if isinstance(a, np.ndarray) else a for a in arguments]
        needed = call(*rest[:work], np.zeros(0, dtype), *rest[work:], 0)
        arguments = [*arguments[:work], np.zeros(needed, dtype), *arguments[work:], needed]
    wanted = [a.copy() if isinstance(a, np.ndarray) else a for a in arguments]
    call(*wanted)
    for at_end, turned in itertools.product((False, True), repeat=2):
        own = [placed(i, a, at_end, turned) if isinstance(a, np.ndarray) else a for i, a in enumerate(arguments)]
        call(*own)
        for p, mine, right in zip(parameters, own, wanted):
            assert p.kind != "array" or p.name == "work" or mine.tobytes() == right.tobytes(), (name, p.name)

rng = np.random.default_rng(1)
for isa in c.available_isa() if sys.argv[1] == "c" else ["none"]:
    kernels = Kernels(sys.argv[1])
    if isa != "none":
        c.select_isa(isa)
    for kind in ("f32", "f64"):
        real = np.dtype(kind.replace("f32", "f4").replace("f64", "f8"))
        scale = np.full(1, 0.5, real)
        for n, inner in itertools.product((1, 2, 4, 8, 16, 32, 64), (1, 2, 3, 17)):
            x = rng.integers(-9, 9, n * inner).astype(real)
            check("hadamard_" + kind, x, x.copy(), x.size, n, inner, 1)
        for d, p in ((1, 2), (2, 2), (3, 4), (7, 8), (8, 8), (9, 16), (33, 64), (64, 64)):
            x, sign = rng.integers(-9, 9, (2, d)).astype(real), rng.integers(1, 9, 6 * p).astype(real)
            size, k = -(-2 * p // 8), 3
            check("simhash_" + kind, x, np.zeros((2, size), "u1"), sign, np.zeros(p, real), 2, d, size, 2 * p, p, 6 * p)
            sample = rng.integers(0, p, k).astype(np.uint32)
            check("srht_" + kind, x, np.zeros((2, k), real), sign[:p], sample, scale, np.zeros(p, real), 2, d, k, p)
        for rows, d in itertools.product((1, 5, 17), (1, 3, 16, 33)):
            x, k = rng.integers(-9, 9, (rows, d)).astype(real), 3
            start, entry = np.arange(k + 1) * d, np.tile(np.arange(d) * 2, k).astype(np.uint32) + 1
            out, column, first = np.zeros((rows, k), real), np.tile(np.arange(d), rows), np.arange(d + 1) * k
            check("sparse_project_" + kind, x, out, start, entry, scale, rows, d, k, k + 1, entry.size)
            entry = np.tile(np.arange(k) * 2, d).astype(np.uint32)
            begin, sizes = np.arange(rows + 1) * d, (x.size, rows + 1, rows, k, d + 1, entry.size)
            check("sparse_project_csr_" + kind, x.ravel(), column, begin, out, first, entry, scale, *sizes)
        for n in range(70):
            x, size = rng.integers(-9, 9, (2, n)).astype(real), -(-n // 8)
            check("pack_signs_" + kind, x, np.zeros((2, size), "u1"), 2, n, size)
    for size, queries, n in itertools.product([*range(1, 34), 63, 64, 65, 128], (1, 3, 9), (1, 2, 9, 35)):
        query, code = rng.integers(0, 256, (queries, size), "u1"), rng.integers(0, 256, (n, size), "u1")
        lists = np.full((queries, 4), 2**31 - 1, np.int32), np.full((queries, 4), -1)
        check("hamming_topk", query, code, *lists, queries, n, size, 4, 0)
        where, found = np.arange(queries) * n, (np.zeros(queries * n, np.int32), np.zeros(queries * n, int))
        check("hamming_range", query, code, where, where * 0, *found, queries, n, size, 4 * size, 0, queries * n)
        check("hamming_pairs", code, code[::-1].copy(), np.zeros(n, np.int32), n, size)
print("done")
"""


def test_nothing_around_codes_is_touched(run_python, backend):
    done = run_python("-c", AROUND_CODES, backend)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


# ---- the lists of kernels


C_TYPES = {"void": "void", "size": "size_t", "fanout": "size_t", "bits": "unsigned", "u8": "uint8_t"}
C_TYPES |= {"u32": "uint32_t", "u64": "uint64_t", "i64": "int64_t", "flag": "uint8_t"}
C_ELEMENTS = {np.float32: "float", np.float64: "double"}
OTHER_FUNCTIONS = {"isa_max", "isa_select", "compiler"}
UFUNC_LOOPS = {"mitchell_loop"}
"""Stamped for each level like a kernel, but it is NumPy that calls them."""

needs_sources = pytest.mark.skipif(not CSRC.is_dir(), reason="the sources of the C core are not there")


def prototypes() -> dict[str, tuple[str, list[tuple[str, str, bool]]]]:
    """Name, and then type and (type, name, whether const) of the arguments, of every function; "*" marks a pointer."""
    text = re.sub(r"/\*.*?\*/|^#.*?$", "", (CSRC / "fastk.h").read_text(), flags=re.DOTALL | re.MULTILINE)
    found = {}
    for returns, name, inside in re.findall(r"([\w ]+?[ *]+)fastk_(\w+)\(([^)]*)\);", text):
        arguments = []
        for argument in inside.split(","):
            kind, _, variable = argument.replace("*", "* ").strip().rpartition(" ")
            constant = kind.startswith("const ")
            arguments.append((kind.removeprefix("const ").replace(" ", ""), variable, constant))
        found[name] = (returns.strip(), arguments)
    return found


def c_arguments(parameter: Parameter) -> list[tuple[str, str, bool]]:
    """What a row's argument is in C, as prototypes() gives it: an array with strides has one more for each axis."""
    if parameter.dtype is None:
        return [(C_TYPES[parameter.kind], parameter.name, False)]
    element = C_ELEMENTS.get(parameter.dtype) or f"{np.dtype(parameter.dtype).name}_t"
    steps = range(len(parameter.extents)) if parameter.strided else ()
    pointer = (f"{element}*", parameter.name, parameter.constant)
    return [pointer, *(("intptr_t", f"{parameter.name}_step{axis}", False) for axis in steps)]


@needs_sources
def test_table_and_header_agree():
    declared = prototypes()
    assert declared.keys() >= OTHER_FUNCTIONS | UFUNC_LOOPS
    assert declared.keys() - OTHER_FUNCTIONS - UFUNC_LOOPS == KERNELS.keys()
    for name, kernel in KERNELS.items():
        arguments = [argument for p in kernel.parameters for argument in c_arguments(p)]
        assert declared[name] == (C_TYPES[kernel.returns], arguments), name
    arrays = [p for kernel in KERNELS.values() for p in kernel.parameters if p.kind == "array"]
    assert {(p.constant, p.strided) for p in arrays} == {(False, False), (False, True), (True, False), (True, True)}
    loop = [("char**", "args", False), ("intptr_t*", "dimensions", True), ("intptr_t*", "steps", True)]
    assert declared["mitchell_loop"] == ("void", [*loop, ("void*", "data", False)])


@needs_sources
def test_table_and_dispatch_agree():
    listed = re.search(r"#define FASTK_KERNELS\(X\)((?:.*\\\n)+.*)", (CSRC / "isa.h").read_text())
    names = re.findall(r"\bX\((\w+)\)", listed.group(1))
    assert len(names) == len(set(names))
    assert set(names) == KERNELS.keys() | UFUNC_LOOPS


def test_core_exports_the_table():
    if c.lib is None:
        pytest.skip("the C core is not there")
    exported = {name.removeprefix("fastk_") for name in dir(c.lib)}
    assert exported == KERNELS.keys() | OTHER_FUNCTIONS | UFUNC_LOOPS
    assert c.available_isa()[0] == "base"
    assert fastk.config()["compiler"] == c.compiler()
