"""The fast Walsh-Hadamard transform, in natural order, and the signs of its results: csrc/hadamard.c."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from .memory import pointer
from .mitchell_gemm import bytes_of, offset

LANES = 16
BLOCK_BYTES = 1 << 14  # of a row, done at a time: half of the smallest first-level cache
SINGLE, DOUBLE, ONE = np.float32(0), np.float64(0), np.int64(1)  # a literal would be a type of its own
ROOT_HALF = 0.7071067811865476


def lanes_at(builder, start, at, lanes):
    """A pointer to a vector from the element `at` on, and how it is aligned."""
    vector = ir.VectorType(start.type.pointee, lanes)
    align = 4 if isinstance(vector.element, ir.FloatType) else 8
    return builder.bitcast(builder.gep(start, [at]), vector.as_pointer()), align


@intrinsic
def butterflies(typing_context, start, at, apart, stages, lanes):
    """So many stages, the first of stride `apart`, of vectors from the element `at` on."""
    if not (isinstance(stages, types.IntegerLiteral) and isinstance(lanes, types.IntegerLiteral)):
        return None
    radix = 2**stages.literal_value

    def generate(context, builder, signature, arguments):
        start, at, apart = arguments[:3]
        places = []
        for _ in range(radix):
            places.append(lanes_at(builder, start, at, lanes.literal_value))
            at = builder.add(at, apart)
        v = [builder.load(place, align=align) for place, align in places]
        for h in [2**stage for stage in range(stages.literal_value)]:
            for i in range(radix):
                if not i & h:
                    v[i], v[i + h] = builder.fadd(v[i], v[i + h]), builder.fsub(v[i], v[i + h])
        for value, (place, align) in zip(v, places, strict=True):
            builder.store(value, place, align=align)
        return context.get_dummy_value()

    return types.void(start, types.int64, types.int64, stages, lanes), generate


@intrinsic
def within(typing_context, start, at):
    """The stages of strides 1, 2, ... LANES / 2, of the vector from the element `at` on."""

    def generate(context, builder, signature, arguments):
        place, align = lanes_at(builder, *arguments, LANES)
        v = builder.load(place, align=align)
        places = ir.VectorType(ir.IntType(32), LANES)
        for h in [2**stage for stage in range(LANES.bit_length() - 1)]:
            partner = builder.shuffle_vector(v, v, ir.Constant(places, [i ^ h for i in range(LANES)]))
            pair = builder.fadd(v, partner), builder.fsub(partner, v)
            v = builder.shuffle_vector(*pair, ir.Constant(places, [i + LANES * (i & h > 0) for i in range(LANES)]))
        builder.store(v, place, align=align)
        return context.get_dummy_value()

    return types.void(start, types.int64), generate


@njit(inline="always")
def stage(v, begin, end, apart):
    """The stage of stride `apart`."""
    for i in range(begin, end, 2 * apart):
        whole = i + (apart & -LANES)
        for j in range(i, whole, LANES):
            butterflies(v, j, apart, 1, LANES)
        for j in range(whole, i + apart):
            butterflies(v, j, apart, 1, 1)


@njit(inline="always")
def two_stages(v, begin, end, apart):
    """The stages of strides `apart` and twice that, in one pass."""
    for i in range(begin, end, 4 * apart):
        whole = i + (apart & -LANES)
        for j in range(i, whole, LANES):
            butterflies(v, j, apart, 2, LANES)
        for j in range(whole, i + apart):
            butterflies(v, j, apart, 2, 1)


@njit(cache=True)
def transform(v, n, inner, block_size):
    """All stages of n x inner elements: a block that fits the cache, then what joins it with the blocks before it."""
    size, block = n * inner, n
    while block > 1 and block * inner > block_size:
        block >>= 1
    block *= inner
    for begin in range(0, size, block):
        end, apart = begin + block, inner
        if inner == 1 and block >= LANES:
            for i in range(begin, end, LANES):
                within(v, i)
            apart = LANES
        while 4 * apart <= block:
            two_stages(v, begin, end, apart)
            apart *= 4
        if 2 * apart <= block:
            stage(v, begin, end, apart)
        apart, number = block, end // block
        while number & 1 == 0:
            stage(v, end - 2 * apart, end, apart)
            apart, number = 2 * apart, number >> 1


@njit(inline="always")
def scale_of(n, root_half):
    """1 / sqrt(n), n being a power of two; the root is rounded to the type, and the product exact."""
    scale = 1.0
    while n >= 4:
        scale, n = scale * 0.5, n >> 2
    return scale * root_half if n == 2 else scale


@intrinsic
def signs(typing_context, start, at):
    """Bit i: number i from the element `at` on is at least 0, for LANES numbers."""

    def generate(context, builder, signature, arguments):
        place, align = lanes_at(builder, *arguments, LANES)
        v = builder.load(place, align=align)
        positive = builder.fcmp_ordered(">=", v, ir.Constant(v.type, None))
        return builder.zext(builder.bitcast(positive, ir.IntType(LANES)), ir.IntType(64))

    return types.int64(start, types.int64), generate


@njit(inline="always")
def pack(v, n, code, row, first):
    """The signs of n numbers as the bits of a code from the bit `first` on, where it has zeros.

    If there are LANES or more, `first` begins a byte.
    """
    whole = n & -LANES
    for i in range(0, whole, LANES):
        word = signs(v, i)
        code[row, (first + i) >> 3] = word
        code[row, ((first + i) >> 3) + 1] = word >> 8
    for i in range(whole, n):
        code[row, (first + i) >> 3] |= (v[i] >= 0) << ((first + i) & 7)


@njit(inline="always")
def hadamard(x, out, size, n, inner, scale, block_size, like):
    row = n * inner
    for begin in range(0, size // row * row, row):
        v = offset(pointer(bytes_of(out), 0, like), begin)
        source = offset(pointer(bytes_of(x), 0, like), begin)
        for i in range(row):
            v[i] = source[i]
        transform(v, n, inner, block_size)
        if scale != 1:
            for i in range(row):
                v[i] *= scale


@njit(inline="always")
def transformable(size, n, inner):
    return n > 0 and n & (n - 1) == 0 and inner > 0 and n <= size and inner <= size // n


def hadamard_f32(x, out, size, n, inner, normalize):
    if transformable(size, n, inner):
        scale = np.float32(scale_of(n, np.float32(ROOT_HALF)) if normalize else 1.0)
        hadamard(x, out, size, n, inner, scale, BLOCK_BYTES // 4, SINGLE)


def hadamard_f64(x, out, size, n, inner, normalize):
    if transformable(size, n, inner):
        scale = scale_of(n, ROOT_HALF) if normalize else 1.0
        hadamard(x, out, size, n, inner, scale, BLOCK_BYTES // 8, DOUBLE)
