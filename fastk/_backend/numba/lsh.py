"""An index of unit vectors by sign random projections: csrc/lsh.c, where the tables and the method are explained."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from .hadamard import BLOCK_BYTES, DOUBLE, LANES, SINGLE, lanes_at, transform
from .memory import pointer, stack
from .mitchell_gemm import bytes_of, offset
from .project import spread

LIST = 1 << 14
MOST_SMALL = 1 << 20
QUERY = 4  # words that C keeps of a query
MOST_BITS = 64
MOST_ROWS = 2**32 - 1
MOST_BYTES = 2**61 - 1
SMALL_SORT = 16
PROBE = 4  # words: the sum and the rest of it, as doubles, the flips, the last bit
CONTRADICTION = -1
LARGEST = 1.7976931348623157e308
ZERO, ONE = np.uint64(0), np.uint64(1)


@intrinsic
def dot(typing_context, a, at, b, begin, n):
    """The sum of n products, a multiple of LANES, by lanes."""

    def generate(context, builder, signature, arguments):
        a, at, b, begin, n = arguments
        total = cgutils.alloca_once_value(builder, ir.Constant(ir.VectorType(ir.FloatType(), LANES), None))
        zero, step = ir.Constant(n.type, 0), ir.Constant(n.type, LANES)
        with cgutils.for_range_slice(builder, zero, n, step) as (j, _):
            places = [lanes_at(builder, start, builder.add(first, j), LANES) for start, first in ((a, at), (b, begin))]
            x, y = (builder.load(place, align=align) for place, align in places)
            builder.store(builder.fadd(builder.load(total), builder.fmul(x, y)), total)
        v = builder.load(total)
        positions = ir.VectorType(ir.IntType(32), LANES)
        for h in (8, 4, 2, 1):
            above = ir.Constant(positions, [(i + h) % LANES for i in range(LANES)])
            v = builder.fadd(v, builder.shuffle_vector(v, v, above))
        return builder.extract_element(v, ir.Constant(ir.IntType(32), 0))

    return types.float32(a, types.int64, b, types.int64, types.int64), generate


def lsh_unit(x, out, rows, d, width, size):
    if width < d or (width != 0 and rows > size // width):
        return CONTRADICTION
    sums = stack(16, DOUBLE)
    for row in range(rows):
        to = row * width
        for j in range(d):
            out[to + j] = x[row, j]
        for j in range(d, width):
            out[to + j] = SINGLE
        for lane in range(LANES):
            sums[lane] = DOUBLE
        for j in range(d):
            element = np.float64(out[to + j])
            sums[j & (LANES - 1)] += element * element
        h = LANES >> 1
        while h:
            for lane in range(h):
                sums[lane] += sums[lane + h]
            h >>= 1
        if not 0 < sums[0] <= LARGEST:
            return row
        length = np.sqrt(sums[0])
        for j in range(d):
            out[to + j] = np.float32(np.float64(out[to + j]) / length)
    return rows


def lsh_project(x, out, table, work, rows, d, bits, p, table_size):
    if p < 2 or p & (p - 1) != 0:
        return
    v, half = pointer(bytes_of(work), 0, SINGLE), p >> 1
    for r in range(rows):
        for b in range(min(table_size // 3 // p, (bits + p - 1) // p)):
            first = offset(pointer(bytes_of(table), 0, SINGLE), 3 * p * b)
            second, cosine = offset(first, p), offset(first, 2 * p)
            sine = offset(cosine, half)
            spread(x, r, first, d, v, p, SINGLE)
            transform(v, p, 1, BLOCK_BYTES // 4)
            for i in range(p):
                v[i] *= second[i]
            transform(v, p, 1, BLOCK_BYTES // 4)
            for i in range(half):
                low, high = v[i], v[i + half]
                v[i] = cosine[i] * low - sine[i] * high
                v[i + half] = sine[i] * low + cosine[i] * high
            transform(v, p, 1, BLOCK_BYTES // 4)
            for i in range(min(p, bits - b * p)):
                out[r, b * p + i] = v[i] + SINGLE


# ---- small integers


@njit(inline="always")
def rounded(x, limit):
    """The nearest integer, within +-limit; 0 for a nan."""
    if not x > -limit:
        return -limit if x <= -limit else 0
    return limit if x >= limit else np.int64(x + (-0.5 if x < 0 else 0.5))


def lsh_small(row, small, scale, n, width, small_width, row_size, small_size):
    if small_width < width or (width and n > row_size // width) or (small_width and n > small_size // small_width):
        return CONTRADICTION
    for i in range(n):
        begin, to, most = i * width, i * small_width, SINGLE
        for j in range(width):
            magnitude = -row[begin + j] if row[begin + j] < 0 else row[begin + j]
            most = magnitude if magnitude > most else most
        scale[i] = most / np.float32(127)
        factor = 127 / np.float64(most) if most > 0 else 0.0
        for j in range(width):
            small[to + j] = rounded(np.float64(row[begin + j]) * factor, 127) & 255
        for j in range(width, small_width):
            small[to + j] = 0
    return 0


# ---- tables


@njit(inline="always")
def code_bits(code, row, size, start, count):
    """Bits of a code in little order, as a number."""
    word, at, shift = ZERO, start >> 3, start & 7
    for i in range(min(8, size - at)):
        word |= np.uint64(code[row + at + i]) << np.uint64(8 * i)
    word >>= np.uint64(shift)
    if shift and at + 8 < size:
        word |= np.uint64(code[row + at + 8]) << np.uint64(64 - shift)
    return word & ((ONE << np.uint64(count)) - ONE) if count < 64 else word


@njit(inline="always")
def leading_bits(bucket, shift):
    return np.int64(bucket >> np.uint64(shift)) if shift < 64 else 0


@njit(inline="always")
def after(key_a, position_a, key_b, position_b):
    return key_a > key_b or (key_a == key_b and position_a > position_b)


@njit(cache=True)
def sort_rows(key, position, at, base, n):
    """Rows base .. base + n of the positions and at .. at + n of the keys, by key and then position."""
    if n <= SMALL_SORT:
        for i in range(1, n):
            k, p = key[at + i], position[base + i]
            j = i
            while j > 0 and after(key[at + j - 1], position[base + j - 1], k, p):
                key[at + j], position[base + j] = key[at + j - 1], position[base + j - 1]
                j -= 1
            key[at + j], position[base + j] = k, p
        return
    first, end = n >> 1, n
    while end > 1:
        if first > 0:
            first -= 1
            k, p = key[at + first], position[base + first]
        else:
            end -= 1
            k, p = key[at + end], position[base + end]
            key[at + end], position[base + end] = key[at], position[base]
        i = first
        child = 2 * i + 1
        while child < end:
            if child + 1 < end and after(
                key[at + child + 1], position[base + child + 1], key[at + child], position[base + child]
            ):
                child += 1
            if not after(key[at + child], position[base + child], k, p):
                break
            key[at + i], position[base + i] = key[at + child], position[base + child]
            i = child
            child = 2 * i + 1
        key[at + i], position[base + i] = k, p


def lsh_build(
    code, start, position, key, n, size, tables, first, n_bits, prefix, code_size, start_size, position_size, key_size
):
    if n_bits > MOST_BITS or prefix > n_bits or prefix > 40 or tables == 0 or n > MOST_ROWS:
        return CONTRADICTION
    starts, shift = (1 << prefix) + 1, n_bits - prefix
    if start_size // tables < starts or position_size // tables < n or (shift and key_size // tables < n):
        return CONTRADICTION
    if size > MOST_BYTES or (size and code_size // size < n):
        return CONTRADICTION
    if n_bits and (tables > 8 * size // n_bits or first > 8 * size // n_bits - tables):
        return CONTRADICTION
    for table in range(tables):
        begin, base, bit = table * starts, table * n, (first + table) * n_bits
        for b in range(starts):
            start[begin + b] = 0
        for i in range(n):
            start[begin + leading_bits(code_bits(code, i * size, size, bit, n_bits), shift) + 1] += 1
        for b in range(1, starts):
            start[begin + b] += start[begin + b - 1]
        for i in range(n):
            bucket = code_bits(code, i * size, size, bit, n_bits)
            b = begin + leading_bits(bucket, shift)
            to = base + np.int64(start[b])
            start[b] += 1
            position[to] = i
            if shift:
                key[to] = bucket
        for b in range(starts - 1, 0, -1):
            start[begin + b] = start[begin + b - 1]
        start[begin] = 0
        if shift:
            for b in range(starts - 1):
                at = base + np.int64(start[begin + b])
                sort_rows(key, position, at, at, np.int64(start[begin + b + 1]) + base - at)
    return 0


# ---- probes


@njit(inline="always")
def before(sum_a, flips_a, sum_b, flips_b):
    return sum_a < sum_b or (sum_a == sum_b and flips_a < flips_b)


@njit(inline="always")
def put(heap, real, i, total, rest, flips, last):
    real[PROBE * i] = total
    real[PROBE * i + 1] = rest
    heap[PROBE * i + 2] = flips
    heap[PROBE * i + 3] = last


@njit(inline="always")
def move(heap, to, i):
    for j in range(PROBE):
        heap[PROBE * to + j] = heap[PROBE * i + j]


@njit(cache=True)
def push(heap, real, size, total, rest, flips, last):
    i = size
    while i > 0:
        parent = (i - 1) >> 1
        if not before(total, flips, real[PROBE * parent], heap[PROBE * parent + 2]):
            break
        move(heap, i, parent)
        i = parent
    put(heap, real, i, total, rest, flips, last)


@njit(cache=True)
def sink(heap, real, size, total, rest, flips, last):
    """Put what is given in place of the first of a heap."""
    i, child = 0, 1
    while child < size:
        if child + 1 < size and before(
            real[PROBE * child + PROBE], heap[PROBE * child + PROBE + 2], real[PROBE * child], heap[PROBE * child + 2]
        ):
            child += 1
        if not before(real[PROBE * child], heap[PROBE * child + 2], total, flips):
            break
        move(heap, i, child)
        i = child
        child = 2 * i + 1
    put(heap, real, i, total, rest, flips, last)


def lsh_probes(projection, bucket, work, rows, tables, n_bits, probes, projection_size, bucket_size, room):
    if n_bits > MOST_BITS or tables == 0 or probes == 0 or rows > bucket_size // probes // tables:
        return CONTRADICTION
    if n_bits and rows > projection_size // n_bits // tables:
        return CONTRADICTION
    if room // PROBE < probes + 1:
        return (probes + 1) * PROBE
    real = work.view(np.float64)
    margin, flip = stack(64, DOUBLE), stack(64, ZERO)
    for table in range(rows * tables):
        own, at, to = ZERO, table * n_bits, table * probes
        for j in range(n_bits):
            value = np.float64(projection[at + j])
            square = value * value
            own |= np.uint64(value >= 0) << np.uint64(j)
            i = j
            while i > 0 and margin[i - 1] > square:
                margin[i], flip[i] = margin[i - 1], flip[i - 1]
                i -= 1
            margin[i], flip[i] = square, ONE << np.uint64(j)
        bucket[to] = own
        size, i = 0, 1
        if n_bits:
            push(work, real, size, margin[0], DOUBLE, flip[0], ZERO)
            size = 1
        while i < probes and size:
            total, rest, flips, last = real[0], real[1], work[2], np.int64(work[3])
            size -= 1
            end = PROBE * size
            sink(work, real, size, real[end], real[end + 1], work[end + 2], work[end + 3])
            bucket[to + i] = own ^ flips
            i += 1
            following = last + 1
            if following < n_bits:
                added = flips | flip[following]
                following_word = np.uint64(following)
                push(work, real, size, rest + margin[following], rest, added ^ flip[last], following_word)
                push(work, real, size + 1, total + margin[following], total, added, following_word)
                size += 2
        while i < probes:
            bucket[to + i] = own
            i += 1
    return 0


# ---- search


@njit(inline="always")
def worse(cosine_a, id_a, cosine_b, id_b):
    return cosine_a < cosine_b or (cosine_a == cosine_b and id_a > id_b)


@njit(cache=True)
def replace(cosine, neighbor, at, size, value, number):
    """Put what is given in place of the root of a heap that begins at `at`."""
    i, child = 0, 1
    while child < size:
        if child + 1 < size and worse(
            cosine[at + child + 1], neighbor[at + child + 1], cosine[at + child], neighbor[at + child]
        ):
            child += 1
        if not worse(cosine[at + child], neighbor[at + child], value, number):
            break
        cosine[at + i], neighbor[at + i] = cosine[at + child], neighbor[at + child]
        i = child
        child = 2 * i + 1
    cosine[at + i], neighbor[at + i] = value, number


@njit(inline="always")
def rank(query, begin, row, width, id_, position, cosine, neighbor, at, k):
    value = dot(query, begin, row, position * width, width)
    value = np.float32(1) if value > 1 else np.float32(-1) if value < -1 else value
    if value >= cosine[at]:
        number = id_[position]
        if worse(cosine[at], neighbor[at], value, number):
            replace(cosine, neighbor, at, k, value, number)


@njit(inline="always")
def extent(start, begin, starts, shift, key, base, n, bucket):
    """Where the rows of a bucket are among the positions of its table."""
    prefix = leading_bits(bucket, shift)
    if prefix < 0 or prefix >= starts - 1:
        return 0, 0
    first, end = np.int64(start[begin + prefix]), min(np.int64(start[begin + prefix + 1]), n)
    if shift:
        above = end
        while first < above:
            middle = first + ((above - first) >> 1)
            if key[base + middle] < bucket:
                first = middle + 1
            else:
                above = middle
        last = first
        while last < end and key[base + last] == bucket:
            last += 1
        end = last
    return first, end


def lsh_query(
    query, bucket, row, small, scale, id_, removed, start, position, key, cosine, neighbor, candidates, work, queries,
    tables, probes, k, width, small_width, n, n_bits, starts, query_size, bucket_size, row_size, small_size, scales,
    words, start_size, position_size, key_size, found, room,
):  # fmt: skip
    # Rows of small integers only save C a look at floats: this ranks all by these.
    if n > MOST_ROWS or words < (n + 63) >> 6 or width & (LANES - 1) or (k and queries > found // k):
        return CONTRADICTION
    if width and (queries > query_size // width or n > row_size // width):
        return CONTRADICTION
    if small_width and (small_width < width or small_width & 63 or small_width > MOST_SMALL or n > scales):
        return CONTRADICTION
    if small_width and n > small_size // small_width:
        return CONTRADICTION
    shift = 0
    if probes:
        if starts < 2 or (starts - 1) & (starts - 2) != 0 or n_bits > MOST_BITS or tables == 0:
            return CONTRADICTION
        prefix = 0
        while starts - 1 > 1 << prefix:
            prefix += 1
        shift = n_bits - prefix
        if shift < 0 or queries > bucket_size // probes // tables or starts > start_size // tables:
            return CONTRADICTION
        if n > position_size // tables or (shift and n > key_size // tables):
            return CONTRADICTION
    words = (n + 63) >> 6
    needed = words + (LIST >> 1) + queries * (QUERY + (small_width >> 2))
    if room < needed:
        return needed
    if k == 0:
        return 0
    point, rows = pointer(bytes_of(query), 0, SINGLE), pointer(bytes_of(row), 0, SINGLE)
    for q in range(queries):
        at = q * k
        for i in range(k >> 1):
            j = k - 1 - i
            cosine[at + i], cosine[at + j] = cosine[at + j], cosine[at + i]
            neighbor[at + i], neighbor[at + j] = neighbor[at + j], neighbor[at + i]
    if probes == 0:
        for i in range(n):
            if removed[i >> 6] >> np.uint64(i & 63) & ONE == ZERO:
                for q in range(queries):
                    candidates[q] += 1
                    rank(point, q * width, rows, width, id_, i, cosine, neighbor, q * k, k)
    else:
        for i in range(words):
            work[i] = removed[i]
    for q in range(queries if probes else 0):
        count = 0
        for table in range(tables):
            base = table * n
            for i in range(probes):
                wanted = bucket[(q * tables + table) * probes + i]
                first, end = extent(start, table * starts, starts, shift, key, base, n, wanted)
                for at in range(first, end):
                    place = np.int64(position[base + at])
                    if place >= n:
                        continue
                    bit = ONE << np.uint64(place & 63)
                    if work[place >> 6] & bit == ZERO:
                        work[place >> 6] |= bit
                        if count < LIST >> 1:
                            work[words + count] = np.uint64(place)
                        count += 1
                        rank(point, q * width, rows, width, id_, place, cosine, neighbor, q * k, k)
        candidates[q] += count
        if count > LIST >> 1:
            for i in range(words):
                work[i] = removed[i]
        else:
            for i in range(count):
                word = np.int64(work[words + i]) >> 6
                work[word] = removed[word]
    for q in range(queries):
        for end in range(k - 1, 0, -1):
            at = q * k
            value, number = cosine[at + end], neighbor[at + end]
            cosine[at + end], neighbor[at + end] = cosine[at], neighbor[at]
            replace(cosine, neighbor, at, end, value, number)
    return 0
