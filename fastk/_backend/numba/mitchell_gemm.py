"""Mitchell matrix products and convolutions, as in csrc/mitchell_gemm.c and csrc/mitchell_tile.h.

There the method is explained. Here a tile is one row wide: a row is packed without its zeros, whose products change no
sum, less the bits of 1, and meets a panel of columns, whose zeros are masked out. What else a product may need follows
from the exponents that the row and the panel hold.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from .memory import address, pointer, stack
from .mitchell import S32, S64, U1, Format, mul, pick, word

ROWS = 256  # of A in a block
DEPTH = 128  # elements of k in a block: a panel stays in the first-level cache
WIDE, NARROW = 256, 64  # bytes of sums that are in registers together; the row of a panel is a wide one
FEW = 16  # columns
PANEL_BYTES, VALUE_BYTES, PLACE_BYTES = DEPTH * WIDE, ROWS * DEPTH * 8, ROWS * DEPTH * 4
ROOM = NARROW + PANEL_BYTES + VALUE_BYTES + PLACE_BYTES
FAR = 1 << 20  # beyond every exponent
BYTE, PLACE = np.uint8(0), np.int32(0)


class Matrix(NamedTuple):
    """A pointer to bytes, and steps in bytes."""

    start: Any
    row: Any
    column: Any


class Image(NamedTuple):
    """Steps in bytes, sizes, and the first output pixel. If the kernel is empty, there is no image."""

    channel: Any
    row: Any
    column: Any
    h: Any
    w: Any
    kernel_h: Any
    kernel_w: Any
    out_w: Any
    stride_h: Any
    stride_w: Any
    pad_h: Any
    pad_w: Any
    dilation_h: Any
    dilation_w: Any
    first: Any


NO_IMAGE = Image(*[0] * 15)


class Seen(NamedTuple):
    """Of the bits of numbers without signs: the least less 1 but for zeros, the least, and the largest."""

    low: Any
    least: Any
    most: Any


@intrinsic
def bytes_of(typing_context, array):
    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.bitcast(data, ir.IntType(8).as_pointer())

    return types.CPointer(types.uint8)(array), generate


@intrinsic
def offset(typing_context, start, n):
    """A pointer to the n-th number."""

    def generate(context, builder, signature, arguments):
        return builder.gep(arguments[0], [arguments[1]])

    return start(start, types.int64), generate


def scale_of(total):
    """The scale of the products of which this is a sum."""


@overload(scale_of)
def _scale_of(total):
    s = S64 if total == types.float64 else S32
    return lambda total: s


def _added(builder, total, u):
    """A sum, or a vector of them, and the float at bits u: its whole part, if the sum is an integer."""
    lanes = total.type.count if isinstance(total.type, ir.VectorType) else None
    if isinstance(total.type.element if lanes else total.type, ir.IntType):
        term = builder.bitcast(u, ir.VectorType(ir.FloatType(), lanes) if lanes else ir.FloatType())
        return builder.add(total, builder.fptosi(term, total.type))
    return builder.fadd(total, builder.bitcast(u, total.type))


@intrinsic
def added(typing_context, total, u):
    return total(total, u), lambda context, builder, signature, arguments: _added(builder, *arguments)


@intrinsic
def settled(typing_context, total):
    """A sum, with the same nan on every machine."""

    def generate(context, builder, signature, arguments):
        total = arguments[0]
        if signature.return_type == types.int32:
            return total
        quiet = S64.quiet if signature.return_type == types.float64 else S32.quiet
        quiet = builder.bitcast(ir.IntType(8 * quiet.itemsize)(int(quiet)), total.type)
        return builder.select(builder.fcmp_unordered("uno", total, total), quiet, total)

    return total(total), generate


@intrinsic
def add_products(typing_context, values, places, count, panel, sums, j, width, masked):
    """Add a row's products with the panel to so many bytes of sums from j on, in registers; `masked`: it has zeros."""
    if not isinstance(width, types.IntegerLiteral):
        return None

    def generate(context, builder, signature, arguments):
        values, places, count, panel, sums, j, _, masked = arguments
        index = ir.IntType(32)
        align = values.type.pointee.width // 8
        bits = ir.VectorType(values.type.pointee, width.literal_value // align)
        zero = ir.Constant(bits, None)
        to = builder.bitcast(builder.gep(sums, [j]), ir.VectorType(sums.type.pointee, bits.count).as_pointer())
        total = cgutils.alloca_once_value(builder, builder.load(to, align=align))
        with builder.if_else(builder.trunc(masked, ir.IntType(1))) as branches:
            for some_are_zero, branch in zip((True, False), branches, strict=True):
                with branch, cgutils.for_range(builder, count) as loop:
                    value = builder.load(builder.gep(values, [loop.index]))
                    row = builder.insert_element(zero, value, index(0))
                    row = builder.shuffle_vector(row, zero, ir.Constant(ir.VectorType(index, bits.count), None))
                    place = builder.sext(builder.load(builder.gep(places, [loop.index])), j.type)
                    at = builder.gep(panel, [builder.add(place, j)])
                    column = builder.load(builder.bitcast(at, bits.as_pointer()), align=align)
                    product = builder.add(column, row)
                    if some_are_zero:
                        product = builder.select(builder.icmp_unsigned("==", column, zero), zero, product)
                    builder.store(_added(builder, builder.load(total), product), total)
        builder.store(builder.load(total), to, align=align)
        return context.get_dummy_value()

    return types.void(values, places, count, panel, sums, j, width, masked), generate


# ---- packing


@njit(forceinline=True)
def nothing_seen(s):
    return Seen(word(-1, s), word(-1, s), word(0, s))


@njit(forceinline=True)
def fetch(start, step, size, n, to, to_step):
    """n elements that are `step` bytes apart."""
    if step == size and to_step == 1:
        near = pointer(start, 0, to[0])
        for j in range(n):
            to[j] = near[j]
    else:
        for j in range(n):
            to[j * to_step] = pointer(start, j * step, to[0])[0]


@njit(forceinline=True)
def stretch(start, step, size, stride, x, w, n, to):
    """n elements of an image's row from x on, with zeros where there is no image."""
    for j in range(n):
        to[j] = 0
    if stride == 1 and step == size:
        near = pointer(start, x * step, to[0])
        for j in range(max(0, -x), min(n, w - x)):
            to[j] = near[j]
    else:
        for j in range(n):
            if 0 <= x + j * stride < w:
                to[j] = pointer(start, (x + j * stride) * step, to[0])[0]


@njit(forceinline=True)
def unfold(start, image, size, p0, k, pixel, n, panel, pitch):
    """Columns of an image's patches: n output pixels, and k elements of a patch from p0."""
    y0 = pixel // image.out_w
    for p in range(k):
        row = (p0 + p) // image.kernel_w
        q = p0 + p - row * image.kernel_w
        channel = row // image.kernel_h
        r = row - channel * image.kernel_h
        j, y, x = 0, y0, pixel - y0 * image.out_w
        while j < n:
            count = min(n - j, image.out_w - x)
            in_y = y * image.stride_h + r * image.dilation_h - image.pad_h
            in_x = x * image.stride_w + q * image.dilation_w - image.pad_w
            w = image.w if 0 <= in_y < image.h else 0
            at = pointer(start, channel * image.channel + in_y * image.row, BYTE)
            stretch(at, image.column, size, image.stride_w, in_x, w, count, offset(panel, p * pitch + j))
            j, x, y = j + count, 0, y + 1


@njit(forceinline=True)
def gather(b, size, k, n, panel, pitch):
    if abs(b.row) < abs(b.column):
        for j in range(n):
            fetch(pointer(b.start, j * b.column, BYTE), b.row, size, k, offset(panel, j), pitch)
    else:
        for p in range(k):
            fetch(pointer(b.start, p * b.row, BYTE), b.column, size, n, offset(panel, p * pitch), 1)


@njit(forceinline=True)
def look_over(words, n, seen, s):
    """What these are too; -0 becomes +0."""
    low, least, most = seen
    for j in range(n):
        size = words[j] & s.size
        words[j] = pick(size == 0, 0, words[j], s)
        below = word(size - U1, s)
        low = pick(below < low, below, low, s)
        least = pick(size < least, size, least, s)
        most = pick(size > most, size, most, s)
    return Seen(low, least, most)


@njit(forceinline=True)
def exponents(seen, s):
    """Least and largest of what is not zero; far off for subnormals, infinities and nans."""
    low, high = np.int64(word(seen.low + U1, s) >> s.m), np.int64(seen.most >> s.m)
    if seen.most == 0:
        low = high = np.int64(s.one >> s.m)
    return -FAR if low == 0 else low, FAR if high == np.int64(s.infinite >> s.m) else high


@njit(forceinline=True)
def pack_row(start, step, size, k, shift, values, places, pitch, s):
    """What is not zero, less the shift, and the places in the panel of what it meets."""
    fetch(start, step, size, k, values, 1)
    seen = look_over(values, k, nothing_seen(s), s)
    if seen.least != 0:
        for p in range(k):
            values[p] = word(values[p] - shift, s)
            places[p] = p * pitch
        return k, seen
    count = 0
    for p in range(k):
        u = values[p]
        values[count] = word(u - shift, s)
        places[count] = p * pitch
        count += u != 0
    return count, seen


@njit(forceinline=True)
def pack_panel(b, image, size, p0, k, j0, n, width, panel, pitch, s):
    if image.kernel_h:
        unfold(b.start, image, size, p0, k, image.first + j0, n, panel, pitch)
    else:
        gather(Matrix(pointer(b.start, p0 * b.row + j0 * b.column, BYTE), b.row, b.column), size, k, n, panel, pitch)
    seen = nothing_seen(s)
    for p in range(k):
        row = offset(panel, p * pitch)
        for j in range(n, width):
            row[j] = s.one
        seen = look_over(row, width, seen, s)
    return seen


# ---- sums


@njit(forceinline=True)
def add_row(values, places, count, panel, sums, width, size, masked):
    if width * size == WIDE:
        add_products(values, places, count, panel, sums, 0, WIDE, masked)
    else:
        for j in range(0, width, NARROW // size):
            add_products(values, places, count, panel, sums, j, NARROW, masked)


@njit(forceinline=True)
def add_row_carefully(start, step, k, panel, pitch, sums, width, bias, refined, s):
    """The products of integers of up to 8 bits are right too, and exact."""
    f = Format(word(0, s), s.one_bit, s.infinite)
    for p in range(k):
        u = pointer(start, p * step, s.sign)[0]
        row = offset(panel, p * pitch)
        for j in range(width):
            sums[j] = added(sums[j], mul(u, row[j], 0 if refined else bias, refined != 0, f, s))


@njit(forceinline=True)
def load(start, step, n, width, first, sums, zero):
    if first:
        for j in range(width):
            sums[j] = zero
    elif address(sums) != address(start):
        for j in range(n):
            sums[j] = pointer(start, j * step, zero)[0]


@njit(forceinline=True)
def store(start, step, n, last, sums, zero):
    if last:
        for j in range(n):
            sums[j] = settled(sums[j])
    if address(sums) != address(start):
        for j in range(n):
            pointer(start, j * step, zero)[0] = sums[j]


@njit(inline="never", cache=True)
def blocks(a, b, c, m, n, k, bias, refined, image, work, zero):
    """C = A B, or A times an image's patches; `zero` is a sum of nothing."""
    s = scale_of(zero)
    size = 4 if s.m == S32.m else 8
    one, top = np.int64(s.one >> s.m), np.int64(s.infinite >> s.m)
    shift = word(s.one - bias, s)
    pitch, narrow = WIDE // size, NARROW // size
    work = offset(work, -address(work) & (NARROW - 1))
    panel, value_room = pointer(work, 0, s.sign), pointer(work, PANEL_BYTES, s.sign)
    place_room = pointer(work, PANEL_BYTES + VALUE_BYTES, PLACE)
    counts, lows, highs = stack(ROWS, PLACE), stack(ROWS, PLACE), stack(ROWS, PLACE)
    sum_room = stack(WIDE, zero)
    for i0 in range(0, m, ROWS):
        rows = min(ROWS, m - i0)
        for p0 in range(0, max(k, 1), DEPTH):
            depth = min(DEPTH, k - p0)
            for i in range(rows):
                start = pointer(a.start, (i0 + i) * a.row + p0 * a.column, BYTE)
                values, places = offset(value_room, i * DEPTH), offset(place_room, i * DEPTH)
                counts[i], seen = pack_row(start, a.column, size, depth, shift, values, places, pitch, s)
                lows[i], highs[i] = exponents(seen, s)
            for j0 in range(0, n, pitch):
                columns = min(pitch, n - j0)
                width = -(-columns // narrow) * narrow
                seen = pack_panel(b, image, size, p0, depth, j0, columns, width, panel, pitch, s)
                low, high = exponents(seen, s)
                for i in range(rows):
                    out = pointer(c.start, (i0 + i) * c.row + j0 * c.column, BYTE)
                    sums = pointer(out, 0, zero) if c.column == size and columns == width else sum_room
                    load(out, c.column, columns, width, p0 == 0, sums, zero)
                    values, places = offset(value_room, i * DEPTH), offset(place_room, i * DEPTH)
                    start = pointer(a.start, (i0 + i) * a.row + p0 * a.column, BYTE)
                    if refined or low + lows[i] - one < 2 or high + highs[i] - one > top - 3:
                        add_row_carefully(start, a.column, depth, panel, pitch, sums, width, bias, refined, s)
                    else:
                        add_row(values, places, counts[i], panel, sums, width, size, seen.least == 0)
                    store(out, c.column, columns, p0 + depth == k, sums, zero)


# ---- kernels


@njit(inline="always")
def gemm(a, b, c, stack, m, n, k, bias, refined, work, room, zero):
    """A product with few columns is taken as its transpose: products commute."""
    if room < ROOM:
        return ROOM
    for i in range(stack):
        left = Matrix(pointer(bytes_of(a), i * a.strides[0], BYTE), a.strides[1], a.strides[2])
        right = Matrix(pointer(bytes_of(b), i * b.strides[0], BYTE), b.strides[1], b.strides[2])
        out = Matrix(pointer(bytes_of(c), i * c.strides[0], BYTE), c.strides[1], c.strides[2])
        rows, columns = m, n
        if n < m and n < FEW:
            left, right, out = transposed(right), transposed(left), transposed(out)
            rows, columns = n, m
        blocks(left, right, out, rows, columns, k, bias, refined, NO_IMAGE, bytes_of(work), zero)
    return 0


@njit(inline="always")
def transposed(x):
    return Matrix(x.start, x.column, x.row)


@njit(inline="always")
def conv(x, a, c, images, channels, m, k, n, groups, image, bias, refined, work, room, zero):
    area = image.kernel_h * image.kernel_w
    if groups == 0 or area == 0 or image.out_w == 0 or channels % groups or m % groups:
        return -1
    in_channels, out_channels = channels // groups, m // groups
    if k != in_channels * area:
        return -1
    if room < ROOM:
        return ROOM
    for i in range(images):
        for g in range(groups):
            at = i * x.strides[0] + g * in_channels * x.strides[1]
            patches = Matrix(pointer(bytes_of(x), at, BYTE), 0, 0)
            row = g * out_channels
            weights = Matrix(pointer(bytes_of(a), row * a.strides[0], BYTE), a.strides[0], a.strides[1])
            at = i * c.strides[0] + row * c.strides[1]
            out = Matrix(pointer(bytes_of(c), at, BYTE), c.strides[1], c.strides[2])
            blocks(weights, patches, out, out_channels, n, k, bias, refined, image, bytes_of(work), zero)
    return 0


def mitchell_gemm_f32(a, b, c, stack, m, n, k, bias, refined, work, room):
    return gemm(a, b, c, stack, m, n, k, bias, refined, work, room, np.float32(0))


def mitchell_gemm_f64(a, b, c, stack, m, n, k, bias, refined, work, room):
    return gemm(a, b, c, stack, m, n, k, bias, refined, work, room, np.float64(0))


def mitchell_gemm_i32(a, b, c, stack, m, n, k, bias, refined, work, room):
    return gemm(a, b, c, stack, m, n, k, bias, refined, work, room, np.int32(0))


def mitchell_conv_f32(
    x, a, c, images, channels, h, w, m, k, n, first, groups, kernel_h, kernel_w, out_w,
    stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, bias, refined, work, room,
):  # fmt: skip
    sizes = h, w, kernel_h, kernel_w, out_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, first
    image = Image(*x.strides[1:], *sizes)
    return conv(x, a, c, images, channels, m, k, n, groups, image, bias, refined, work, room, np.float32(0))


def mitchell_conv_f64(
    x, a, c, images, channels, h, w, m, k, n, first, groups, kernel_h, kernel_w, out_w,
    stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, bias, refined, work, room,
):  # fmt: skip
    sizes = h, w, kernel_h, kernel_w, out_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, first
    image = Image(*x.strides[1:], *sizes)
    return conv(x, a, c, images, channels, m, k, n, groups, image, bias, refined, work, room, np.float64(0))


def mitchell_conv_i32(
    x, a, c, images, channels, h, w, m, k, n, first, groups, kernel_h, kernel_w, out_w,
    stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, bias, refined, work, room,
):  # fmt: skip
    sizes = h, w, kernel_h, kernel_w, out_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, first
    image = Image(*x.strides[1:], *sizes)
    return conv(x, a, c, images, channels, m, k, n, groups, image, bias, refined, work, room, np.int32(0))
