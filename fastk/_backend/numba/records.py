"""Records: the kernels of csrc/records.c, where the frame format and the keys are explained."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numpy as np
from numba import njit

from .memory import copy, load32, load64, store32, store64
from .philox import THREE, TWO, ZERO, multiply_wide, philox_block, word_of

WORD = 4
DESCRIPTOR = 8
REFERENCE = 16
ELSEWHERE = -1
BY_REFERENCE = 0x80000000
NO_BUCKET = 0xFFFF
RECORDS, SCRATCH_BYTES, OUTPUT_BYTES, FIRST_NUMBER, LAST_NUMBER, CHECK_LOW, CHECK_HIGH, TALLY_FIELDS = range(8)
RECORD_BEGIN, SCANNED, LINE_BEGIN, LINES_SEEN = range(4)
DIGIT_BITS = 11
SMALL_SORT = 24

U1 = np.uint64(1)
U5 = np.uint64(5)
U33 = np.uint64(33)
ONES = np.uint64(0x0101010101010101)
TOPS = np.uint64(0x8080808080808080)
MURMUR_1 = np.uint64(0x87C37B91114253D5)
MURMUR_2 = np.uint64(0x4CF5AD432745937F)
MURMUR_LOW = np.uint64(0x52DCE729)
MURMUR_HIGH = np.uint64(0x38495AB5)
MURMUR_MIX_1 = np.uint64(0xFF51AFD7ED558CCD)
MURMUR_MIX_2 = np.uint64(0xC4CEB9FE1A85EC53)


@njit(inline="always")
def has_byte(word, pattern):
    difference = word ^ pattern
    return (difference - ONES) & ~difference & TOPS != ZERO


def find_byte(buf, n, byte):
    pattern = np.uint64(byte) * ONES
    i = 0
    while i + 8 <= n and not has_byte(load64(buf, i), pattern):
        i += 8
    while i < n and buf[i] != byte:
        i += 1
    return i


def rfind_byte(buf, n, byte):
    pattern = np.uint64(byte) * ONES
    i = n
    while i >= 8 and not has_byte(load64(buf, i - 8), pattern):
        i -= 8
    while i > 0 and buf[i - 1] != byte:
        i -= 1
    return i - 1 if i > 0 else n


def count_byte(buf, n, byte):
    count = 0
    for i in range(n):
        count += buf[i] == byte
    return count


def philox_fill(key0, key1, start, out, n):
    block = philox_block(key0, key1, start >> TWO)
    for i in range(n):
        number = start + np.uint64(i)
        if number & THREE == ZERO:
            block = philox_block(key0, key1, number >> TWO)
        out[i] = word_of(block, number)


@njit(inline="always")
def descend(key, fanout, levels):
    for level in range(levels):
        key *= fanout[level]
    return key


@njit(inline="always")
def ends_line(buf, line, end, delimiter, width):
    equal = 0
    while equal < width <= end - line and buf[end - width + equal] == delimiter[equal]:
        equal += 1
    return equal == width


def split_delimited(buf, n, delimiter, width, lines, state, start, size, capacity):
    begin, scanned = np.int64(state[RECORD_BEGIN]), np.int64(state[SCANNED])
    line, seen = np.int64(state[LINE_BEGIN]), np.int64(state[LINES_SEEN])
    if capacity == 0 or width == 0 or not (0 <= begin <= line <= scanned <= n and 0 <= seen < lines):
        return 0
    last = delimiter[width - 1]
    pattern = np.uint64(last) * ONES
    m = 0
    i = scanned
    while i < n:
        if i + 8 <= n and not has_byte(load64(buf, i), pattern):
            i += 8
            continue
        for j in range(i, min(i + 8, n)):
            if buf[j] != last or not ends_line(buf, line, j + 1, delimiter, width):
                continue
            line = j + 1
            seen += 1
            if seen < lines:
                continue
            seen = 0
            start[m] = begin
            size[m] = line - begin
            begin = line
            m += 1
            if m == capacity:
                n = line  # which ends both loops
                break
        i += 8
    state[RECORD_BEGIN] = np.uint64(begin)
    state[SCANNED] = np.uint64(n)
    state[LINE_BEGIN] = np.uint64(line)
    state[LINES_SEEN] = np.uint64(seen)
    return m


def split_frames(buf, n, gap_bits, state, start, size, number, capacity):
    gap_mask = (1 << gap_bits) - 1
    m = 0
    at = np.int64(state[0])
    previous = state[1]
    while m < capacity and at >= 0 and n - at >= WORD:
        word = load32(buf, at)
        if word == 0:
            previous += np.uint64(gap_mask)
            at += WORD
            continue
        length = word >> gap_bits
        payload = length
        head = WORD
        if length == 0:
            if n - at < WORD + DESCRIPTOR:
                break
            descriptor = load64(buf, at + WORD)
            if descriptor & U1:
                length = REFERENCE
                payload = REFERENCE | BY_REFERENCE
            else:
                head += DESCRIPTOR
                length = np.int64(descriptor >> U1)
                payload = length
        if n - at - head < length:
            break
        previous += np.uint64(word & gap_mask)
        number[m] = previous
        start[m] = at + head
        size[m] = payload
        at += head + length
        m += 1
    state[0] = np.uint64(at)
    state[1] = previous
    return m


def number_records(first, number, m):
    for i in range(m):
        number[i] = first + np.uint64(i)


def bucket_records(number, m, key0, key1, fanout, levels, buckets, least, most, bucket):
    shared = ZERO
    block = philox_block(key0, key1, ZERO)
    for i in range(m):
        if number[i] >> TWO != shared:
            shared = number[i] >> TWO
            block = philox_block(key0, key1, shared)
        key = word_of(block, number[i])
        if key < least or key > most:
            bucket[i] = NO_BUCKET
        else:
            bucket[i] = np.int64(multiply_wide(descend(key, fanout, levels), np.uint64(buckets))[0])


def scatter_count(buf, start, size, number, bucket, m, buckets, gap_bits, reference_size, tally):
    word_size = 1 << (32 - gap_bits)
    gap_max = np.uint64((1 << gap_bits) - 1)
    tally[: buckets * TALLY_FIELDS] = 0
    for i in range(m):
        b = np.int64(bucket[i])
        if b >= buckets:
            continue
        length = np.int64(size[i])
        added = WORD + length
        if length & BY_REFERENCE:
            length = np.int64(load64(buf, np.int64(start[i])) >> U1)
            added = WORD + REFERENCE
        elif length >= reference_size:
            added = WORD + REFERENCE
        elif length >= word_size:
            added += DESCRIPTOR
        row = b * TALLY_FIELDS
        if tally[row + RECORDS] == ZERO:
            tally[row + FIRST_NUMBER] = number[i]
        elif number[i] - tally[row + LAST_NUMBER] > gap_max:
            added += WORD * np.int64((number[i] - tally[row + LAST_NUMBER] - U1) // gap_max)
        tally[row + RECORDS] += U1
        tally[row + LAST_NUMBER] = number[i]
        tally[row + SCRATCH_BYTES] += np.uint64(added)
        tally[row + OUTPUT_BYTES] += np.uint64(length)


def scatter_place(
    buf, start, size, number, bucket, m, gap_bits, reference_size, offset, previous, position, buckets, out
):
    word_size = 1 << (32 - gap_bits)
    gap_max = np.uint64((1 << gap_bits) - 1)
    for i in range(m):
        b = np.int64(bucket[i])
        if b >= buckets:
            continue
        to = np.int64(position[b])
        gap = number[i] - previous[b]
        previous[b] = number[i]
        while gap > gap_max:
            store32(out, to, 0)
            gap -= gap_max
            to += WORD
        begin = np.int64(start[i])
        length = np.int64(size[i])
        if length < word_size and length < reference_size:
            store32(out, to, length << gap_bits | np.int64(gap))
            copy(out, to + WORD, buf, begin, length)
            to += WORD + length
        else:
            store32(out, to, np.int64(gap))
            to += WORD
            if length & BY_REFERENCE:
                copy(out, to, buf, begin, REFERENCE)
                to += REFERENCE
            elif length >= reference_size:
                store64(out, to, np.uint64(length) << U1 | U1)
                store64(out, to + DESCRIPTOR, offset + np.uint64(begin))
                to += REFERENCE
            else:
                store64(out, to, np.uint64(length) << U1)
                copy(out, to + DESCRIPTOR, buf, begin, length)
                to += DESCRIPTOR + length
        position[b] = np.uint64(to)


@njit(inline="always")
def rotate(x, by):
    return x << np.uint64(by) | x >> np.uint64(64 - by)


@njit(inline="always")
def hash_low(word):
    return rotate(word * MURMUR_1, 31) * MURMUR_2


@njit(inline="always")
def hash_high(word):
    return rotate(word * MURMUR_2, 33) * MURMUR_1


@njit(inline="always")
def hash_blocks(low, high, buf, begin, blocks):
    for i in range(blocks):
        at = begin + 16 * i
        low = (rotate(low ^ hash_low(load64(buf, at)), 27) + high) * U5 + MURMUR_LOW
        high = (rotate(high ^ hash_high(load64(buf, at + 8)), 31) + low) * U5 + MURMUR_HIGH
    return low, high


@njit(inline="always")
def hash_mix(x):
    x = (x ^ x >> U33) * MURMUR_MIX_1
    x = (x ^ x >> U33) * MURMUR_MIX_2
    return x ^ x >> U33


@njit(inline="always")
def few_bytes(buf, at, n):
    word = ZERO
    for i in range(n):
        word |= np.uint64(buf[at + i]) << np.uint64(8 * i)
    return word


@njit(inline="always")
def hash_end(low, high, buf, begin, n, length):
    low, high = hash_blocks(low, high, buf, begin, n // 16)
    rest = n % 16
    at = begin + n - rest
    if rest >= 8:
        low ^= hash_low(load64(buf, at))
        high ^= hash_high(few_bytes(buf, at + 8, rest - 8))
    else:
        low ^= hash_low(few_bytes(buf, at, rest))
    low ^= length
    high ^= length
    low += high
    high += low
    low = hash_mix(low)
    high = hash_mix(high)
    low += high
    return low, high + low


@njit(inline="always")
def add_hash(total, at, low, high):
    total[at] += low
    total[at + 1] += high + np.uint64(total[at] < low)


def records_checksum(buf, start, size, bucket, m, buckets, tally):
    for i in range(m):
        length = np.int64(size[i])
        b = np.int64(bucket[i])
        if b < buckets and not length & BY_REFERENCE:
            low, high = hash_end(ZERO, ZERO, buf, np.int64(start[i]), length, np.uint64(length))
            add_hash(tally, b * TALLY_FIELDS + CHECK_LOW, low, high)


def checksum_blocks(buf, n, state):
    state[0], state[1] = hash_blocks(state[0], state[1], buf, 0, n // 16)


def checksum_end(tail, n, length, state):
    state[0], state[1] = hash_end(state[0], state[1], tail, 0, n, length)


def frames_index(base, n, segments, count, gap_bits, previous, key0, key1, fanout, levels, entries, capacity):
    gap_mask = (1 << gap_bits) - 1
    number = previous[0]
    shared = ZERO
    block = philox_block(key0, key1, ZERO)
    m = 0
    for s in range(count):
        at = np.int64(segments[2 * s])
        to = np.int64(segments[2 * s + 1])
        if to < 0 or to > n:
            break
        while m < capacity and 0 <= at < to and to - at >= WORD:
            word = load32(base, at)
            if word == 0:
                number += np.uint64(gap_mask)
                at += WORD
                continue
            length = word >> gap_bits
            head = WORD
            if length == 0:
                if to - at < WORD + DESCRIPTOR:
                    break
                descriptor = load64(base, at + WORD)
                head += DESCRIPTOR
                length = REFERENCE - DESCRIPTOR if descriptor & U1 else np.int64(descriptor >> U1)
            if to - at < head or to - at - head < length:
                break
            number += np.uint64(word & gap_mask)
            if number >> TWO != shared:
                shared = number >> TWO
                block = philox_block(key0, key1, shared)
            entries[2 * m] = descend(word_of(block, number), fanout, levels)
            entries[2 * m + 1] = np.uint64(at)
            at += head + length
            m += 1
        segments[2 * s] = np.uint64(at)
    previous[0] = number
    return m


@njit(inline="always")
def digit(key, position, shift, bits):
    if shift < 64:
        value = key << np.uint64(shift)
        if shift + bits > 64:
            value |= position >> np.uint64(64 - shift)
    else:
        value = position << np.uint64(shift - 64)
    return np.int64(value >> np.uint64(64 - bits))


@njit(cache=True)
def insertion_sort(entries, begin, end):
    for i in range(begin + 1, end):
        key, position = entries[2 * i], entries[2 * i + 1]
        j = i
        while j > begin and (
            key < entries[2 * j - 2] or (key == entries[2 * j - 2] and position < entries[2 * j - 1])
        ):
            entries[2 * j] = entries[2 * j - 2]
            entries[2 * j + 1] = entries[2 * j - 1]
            j -= 1
        entries[2 * j] = key
        entries[2 * j + 1] = position


@njit("void(uint64[::1], int64, int64, int64)", cache=True)
def radix_sort(entries, begin, end, shift):
    count = end - begin
    if count <= SMALL_SORT or shift >= 128:
        insertion_sort(entries, begin, end)
        return
    bits = 1
    while bits < DIGIT_BITS and count >> (bits + 3) != 0:
        bits += 1
    bits = min(bits, 128 - shift)
    bins = 1 << bits
    ends = np.zeros(bins, np.int64)
    following = np.empty(bins, np.int64)
    for i in range(begin, end):
        ends[digit(entries[2 * i], entries[2 * i + 1], shift, bits)] += 1
    total = begin
    for b in range(bins):
        following[b] = total
        total += ends[b]
        ends[b] = total
    for b in range(bins):
        while following[b] < ends[b]:
            i = following[b]
            key, position = entries[2 * i], entries[2 * i + 1]
            home = digit(key, position, shift, bits)
            while home != b:
                slot = following[home]
                following[home] += 1
                key, entries[2 * slot] = entries[2 * slot], key
                position, entries[2 * slot + 1] = entries[2 * slot + 1], position
                home = digit(key, position, shift, bits)
            entries[2 * i] = key
            entries[2 * i + 1] = position
            following[b] += 1
    first = begin
    for b in range(bins):
        if ends[b] - first > 1:
            radix_sort(entries, first, ends[b], shift + bits)
        first = ends[b]


def entries_sort(entries, m):
    radix_sort(entries, 0, m, 0)


@njit(inline="always")
def record_of(base, frame, gap_bits):
    length = load32(base, frame) >> gap_bits
    if length != 0:
        return frame + WORD, length
    descriptor = load64(base, frame + WORD)
    length = np.int64(descriptor >> U1)
    if descriptor & U1:
        return ELSEWHERE, length
    return frame + WORD + DESCRIPTOR, length


def gather(base, entries, from_, to, gap_bits, out, capacity, written):
    used = 0
    i = from_
    while i < to:
        begin, length = record_of(base, np.int64(entries[2 * i + 1]), gap_bits)
        if begin == ELSEWHERE or length > capacity - used:
            break
        copy(out, used, base, begin, length)
        used += length
        i += 1
    written[0] = np.uint64(used)
    return i


def frames_measure(base, entries, from_, to, gap_bits, bytes_):
    total = 0
    i = from_
    while i < to:
        total += record_of(base, np.int64(entries[2 * i + 1]), gap_bits)[1]
        i += 1
    bytes_[0] = np.uint64(total)
    return i


def frames_checksum(base, entries, from_, to, gap_bits, total):
    i = from_
    while i < to:
        begin, length = record_of(base, np.int64(entries[2 * i + 1]), gap_bits)
        if begin == ELSEWHERE:
            break
        low, high = hash_end(ZERO, ZERO, base, begin, length, np.uint64(length))
        add_hash(total, 0, low, high)
        i += 1
    return i
