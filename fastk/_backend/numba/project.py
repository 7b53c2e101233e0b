"""Random matrices whose entries are pure functions of (seed, row, column), and products with them: csrc/project.c."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from .hadamard import BLOCK_BYTES, DOUBLE, LANES, ONE, SINGLE, lanes_at, pack, transform
from .memory import pointer, stack
from .mitchell_gemm import bytes_of, offset
from .philox import THREE, TWO, ZERO, philox_block_of, word_of

# ---- random numbers


def philox_rows(key0, key1, tag, first_row, first, out, size, n):
    if n == 0:
        return
    for row in range(size // n):
        number = first_row + np.uint64(row)
        block = philox_block_of(key0, key1, number, tag, first >> TWO)
        for i in range(n):
            word = first + np.uint64(i)
            if word & THREE == ZERO:
                block = philox_block_of(key0, key1, number, tag, word >> TWO)
            out[row * n + i] = word_of(block, word)


# Algorithm AS 241: csrc/project.c.
CENTRE = (
    (
        3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3, 1.3731693765509461125e4,
        4.5921953931549871457e4, 6.7265770927008700853e4, 3.3430575583588128105e4, 2.5090809287301226727e3,
    ),
    (
        1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3,
        2.1213794301586595867e4, 3.9307895800092710610e4, 2.8729085735721942674e4, 5.2264952788528545610e3,
    ),
)  # fmt: skip
NEAR = (
    (
        1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0, 3.64784832476320460504e0,
        1.27045825245236838258e0, 2.41780725177450611770e-1, 2.27238449892691845833e-2, 7.74545014278341407640e-4,
    ),
    (
        1.0, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1,
        1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4, 1.05075007164441684324e-9,
    ),
)  # fmt: skip
FAR = (
    (
        6.65790464350110377720e0, 5.46378491116411436990e0, 1.78482653991729133580e0, 2.96560571828504891230e-1,
        2.65321895265761230930e-2, 1.24266094738807843860e-3, 2.71155556874348757815e-5, 2.01033439929228813265e-7,
    ),
    (
        1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2,
        7.86869131145613259100e-4, 1.84631831751005468180e-5, 1.42151175831644588870e-7, 2.04426310338993978564e-15,
    ),
)  # fmt: skip
ARTANH = tuple(1 / n for n in range(1, 24, 2))
LN2, SQRT2 = 0.6931471805599453, 1.4142135623730951


@njit(inline="always")
def polynomial(c, x):
    total = c[len(c) - 1]
    for i in range(len(c) - 2, -1, -1):
        total = total * x + c[i]
    return total


@njit(inline="always")
def quotient(c, x):
    return polynomial(c[0], x) / polynomial(c[1], x)


@njit(inline="always")
def log_of(x):
    """Log of a positive normal number: the same bits with every C library."""
    m, exponent = math.frexp(x)
    m, exponent = 2 * m, exponent - 1
    if m > SQRT2:
        m, exponent = 0.5 * m, exponent + 1
    s = (m - 1) / (m + 1)
    return exponent * LN2 + 2 * s * polynomial(ARTANH, s * s)


@njit(inline="never", cache=True)
def normal_of(word):
    p = (np.int64(word >> np.uint64(11) & np.uint64(2**52 - 1)) + 0.5) * 2.0**-53
    q = 0.5 - p
    if q <= 0.425:
        magnitude = q * quotient(CENTRE, 0.180625 - q * q)
    else:
        t = math.sqrt(-log_of(p))
        magnitude = quotient(NEAR, t - 1.6) if t <= 5 else quotient(FAR, t - 5)
    return -magnitude if word >> np.uint64(63) else magnitude


def philox_normal(key0, key1, tag, first_row, first, out, size, n):
    if n == 0:
        return
    for row in range(size // n):
        number = first_row + np.uint64(row)
        block = philox_block_of(key0, key1, number, tag, first >> TWO)
        for i in range(n):
            word = first + np.uint64(i)
            if word & THREE == ZERO:
                block = philox_block_of(key0, key1, number, tag, word >> TWO)
            out[row * n + i] = normal_of(word_of(block, word))


# ---- by Hadamard transforms


@njit(inline="always")
def spread(x, r, sign, d, v, p, zero):
    d = min(d, p)
    for i in range(d):
        v[i] = x[r, i] * sign[i]
    for i in range(d, p):
        v[i] = zero


@njit(inline="always")
def simhash(x, code, table, work, rows, d, size, bits, p, table_size, block_size, zero):
    if p < 2 or p & (p - 1) != 0:
        return
    v, half, bits = pointer(bytes_of(work), 0, zero), p >> 1, min(bits, 8 * size)
    for r in range(rows):
        for i in range(size):
            code[r, i] = 0
        for b in range(min(table_size // 3 // p, (bits + p - 1) // p)):
            first = offset(pointer(bytes_of(table), 0, zero), 3 * p * b)
            second, cosine = offset(first, p), offset(first, 2 * p)
            sine = offset(cosine, half)
            spread(x, r, first, d, v, p, zero)
            transform(v, p, ONE, block_size)
            for i in range(p):
                v[i] *= second[i]
            transform(v, p, ONE, block_size)
            for i in range(half):
                low, high = v[i], v[i + half]
                v[i] = cosine[i] * low - sine[i] * high
                v[i + half] = sine[i] * low + cosine[i] * high
            transform(v, p, ONE, block_size)
            pack(v, min(p, bits - b * p), code, r, b * p)


def simhash_f32(x, code, table, work, rows, d, size, bits, p, table_size):
    simhash(x, code, table, work, rows, d, size, bits, p, table_size, BLOCK_BYTES // 4, SINGLE)


def simhash_f64(x, code, table, work, rows, d, size, bits, p, table_size):
    simhash(x, code, table, work, rows, d, size, bits, p, table_size, BLOCK_BYTES // 8, DOUBLE)


@njit(inline="always")
def srht(x, out, sign, sample, scale, work, rows, d, k, p, block_size, zero):
    if p == 0 or p & (p - 1) != 0:
        return
    v = pointer(bytes_of(work), 0, zero)
    for r in range(rows):
        spread(x, r, sign, d, v, p, zero)
        transform(v, p, ONE, block_size)
        for i in range(k):
            out[r, i] = v[sample[i] & (p - 1)] * scale[0]


def srht_f32(x, out, sign, sample, scale, work, rows, d, k, p):
    srht(x, out, sign, sample, scale, work, rows, d, k, p, BLOCK_BYTES // 4, SINGLE)


def srht_f64(x, out, sign, sample, scale, work, rows, d, k, p):
    srht(x, out, sign, sample, scale, work, rows, d, k, p, BLOCK_BYTES // 8, DOUBLE)


@njit(inline="always")
def pack_signs(x, code, rows, n, size, zero):
    taken = stack(LANES, zero)
    n = min(n, 8 * size)
    for r in range(rows):
        for i in range(size):
            code[r, i] = 0
        for i in range(0, n, LANES):
            count = min(LANES, n - i)
            for j in range(count):
                taken[j] = x[r, i + j]
            pack(taken, count, code, r, i)


def pack_signs_f32(x, code, rows, n, size):
    pack_signs(x, code, rows, n, size, SINGLE)


def pack_signs_f64(x, code, rows, n, size):
    pack_signs(x, code, rows, n, size, DOUBLE)


# ---- sparse matrices

FEW = 4  # rows: fewer are done one by one


@intrinsic
def add_columns(typing_context, columns, entry, begin, end, sums):
    """From +0: for each entry, + or - LANES numbers of its column."""

    def generate(context, builder, signature, arguments):
        columns, entry, begin, end, sums = arguments
        to, align = lanes_at(builder, sums, begin.type(0), LANES)
        zero = ir.Constant(to.type.pointee, None)
        total = cgutils.alloca_once_value(builder, zero)
        with cgutils.for_range_slice(builder, begin, end, begin.type(1)) as (i, _):
            word = builder.zext(builder.load(builder.gep(entry, [i])), begin.type)
            at = builder.mul(builder.lshr(word, begin.type(1)), begin.type(LANES))
            place, _ = lanes_at(builder, columns, at, LANES)
            column, before = builder.load(place, align=align), builder.load(total)
            after = builder.fsub(before, column), builder.fadd(before, column)
            builder.store(builder.select(builder.trunc(word, ir.IntType(1)), *after), total)
        builder.store(builder.load(total), to, align=align)
        return context.get_dummy_value()

    return types.void(columns, entry, types.int64, types.int64, sums), generate


@njit(inline="always")
def sparse_project(x, out, start, entry, scale, work, rows, d, k, k1, nonzeros, room, zero):
    """LANES rows at a time, which are turned so that a column of them is a vector."""
    needed = d * LANES if rows >= FEW else 0
    if room < needed or k1 <= k or not 0 <= start[k] <= nonzeros:
        return needed
    turned, entries = pointer(bytes_of(work), 0, zero), pointer(bytes_of(entry), 0, np.uint32(0))
    sums = stack(LANES, zero)
    for first in range(0, rows, LANES):
        count = min(LANES, rows - first)
        if count < FEW:
            for r in range(first, rows):
                for i in range(k):
                    total = zero
                    for e in range(start[i], start[i + 1]):
                        value = x[r, entries[e] >> 1]
                        total = total - value if entries[e] & 1 else total + value
                    out[r, i] = total * scale[0]
            break
        for j in range(d):
            for r in range(LANES):
                turned[j * LANES + r] = x[first + r, j] if r < count else zero
        for i in range(k):
            add_columns(turned, entries, start[i], start[i + 1], sums)
            for r in range(count):
                out[first + r, i] = sums[r] * scale[0]
    return needed


def sparse_project_f32(x, out, start, entry, scale, work, rows, d, k, k1, nonzeros, room):
    return sparse_project(x, out, start, entry, scale, work, rows, d, k, k1, nonzeros, room, SINGLE)


def sparse_project_f64(x, out, start, entry, scale, work, rows, d, k, k1, nonzeros, room):
    return sparse_project(x, out, start, entry, scale, work, rows, d, k, k1, nonzeros, room, DOUBLE)


@njit(inline="always")
def sparse_project_csr(data, column, start, out, first, entry, scale, nnz, rows1, rows, k, d1, nonzeros, zero):
    if rows1 <= rows or not 0 <= start[rows] <= nnz or d1 == 0 or not 0 <= first[d1 - 1] <= nonzeros:
        return
    for r in range(rows):
        for i in range(k):
            out[r, i] = zero
        for s in range(start[r], start[r + 1]):
            if not 0 <= column[s] < d1 - 1:
                continue
            for e in range(first[column[s]], first[column[s] + 1]):
                i = entry[e] >> 1
                out[r, i] = out[r, i] - data[s] if entry[e] & 1 else out[r, i] + data[s]
        for i in range(k):
            out[r, i] *= scale[0]


def sparse_project_csr_f32(data, column, start, out, first, entry, scale, nnz, rows1, rows, k, d1, nonzeros):
    sparse_project_csr(data, column, start, out, first, entry, scale, nnz, rows1, rows, k, d1, nonzeros, SINGLE)


def sparse_project_csr_f64(data, column, start, out, first, entry, scale, nnz, rows1, rows, k, d1, nonzeros):
    sparse_project_csr(data, column, start, out, first, entry, scale, nnz, rows1, rows, k, d1, nonzeros, DOUBLE)
