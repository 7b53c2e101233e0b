"""Mitchell matrix products and convolutions: the kernels of csrc/mitchell_gemm.c, where the method is explained.

Columns are packed into panels and rows are packed without their zeros, whose products change no sum. So what is left to
see to is what the exponents of a row and of a panel say together, and the zeros among the columns.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from .memory import pointer, stack
from .mitchell import S32, S64, Format, mul, pick, real, word

ROWS = 512
DEPTH = 64
COLUMNS = 128
WIDE, LANES = 128, 16
PANEL = DEPTH * COLUMNS
BYTE = np.uint8(0)
NEVER = 1 << 20
"""Larger than any exponent."""


class Matrix(NamedTuple):
    """Where it starts, and steps in bytes."""

    start: Any
    row: Any
    column: Any


class Image(NamedTuple):
    """Steps in bytes, sizes, and the first output pixel. Of a kernel without elements: none."""

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


class Span(NamedTuple):
    """Least and largest exponent of what is not zero; beyond any of them for subnormals, infinities and nans."""

    low: Any
    high: Any


@intrinsic
def data(typing_context, array):
    def generate(context, builder, signature, arguments):
        start = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.bitcast(start, ir.IntType(8).as_pointer())

    return types.CPointer(types.uint8)(array), generate


def _added(builder, total, u):
    """A sum, or a vector of them, and the float at bits u: its whole part, if the sum is an integer."""
    if isinstance(getattr(total.type, "element", total.type), ir.IntType):
        lanes = getattr(total.type, "count", None)
        term = builder.bitcast(u, ir.VectorType(ir.FloatType(), lanes) if lanes else ir.FloatType())
        return builder.add(total, builder.fptosi(term, total.type))
    return builder.fadd(total, builder.bitcast(u, total.type))


@intrinsic
def plus(typing_context, total, u):
    """A sum, and the float at bits u: its whole part, if the sum is an integer."""
    return total(total, u), lambda context, builder, signature, arguments: _added(builder, *arguments)


@intrinsic
def add_products(typing_context, values, places, first, count, panel, sums, j, lanes, zeros):
    """Add a packed row's products with the panel to so many of the sums from j on, which stay in registers."""
    if not isinstance(lanes, types.IntegerLiteral):
        return None

    def generate(context, builder, signature, arguments):
        values, places = (
            context.make_array(signature.args[i])(context, builder, arguments[i]).data for i in range(2)
        )
        first, count, panel, sums, j, _, zeros = arguments[2:]
        word, lane = values.type.pointee, ir.IntType(32)
        bits = ir.VectorType(word, lanes.literal_value)
        nothing, size = ir.Constant(bits, None), word.width // 8
        to = builder.bitcast(builder.gep(sums, [j]), ir.VectorType(sums.type.pointee, bits.count).as_pointer())
        total = cgutils.alloca_once_value(builder, builder.load(to, align=size))
        with cgutils.for_range(builder, count) as loop:
            i = builder.add(first, loop.index)
            value = builder.load(builder.gep(values, [i]))
            row = builder.insert_element(nothing, value, lane(0))
            row = builder.shuffle_vector(row, nothing, ir.Constant(ir.VectorType(lane, bits.count), None))
            at = builder.gep(panel, [builder.add(builder.load(builder.gep(places, [i])), j)])
            column = builder.load(builder.bitcast(at, bits.as_pointer()), align=size)
            product = builder.add(column, row)
            masked = builder.select(builder.icmp_unsigned("==", column, nothing), nothing, product)
            product = builder.select(builder.trunc(zeros, ir.IntType(1)), masked, product)
            builder.store(_added(builder, builder.load(total), product), total)
        builder.store(builder.load(total), to, align=size)
        return context.get_dummy_value()

    return types.void(values, places, first, count, panel, sums, j, lanes, zeros), generate


@intrinsic
def settled(typing_context, total):
    """A sum, with the same nan on every machine."""

    def generate(context, builder, signature, arguments):
        total = arguments[0]
        if signature.return_type == types.int32:
            return total
        s = S64 if signature.return_type == types.float64 else S32
        quiet = builder.bitcast(ir.Constant(ir.IntType(signature.return_type.bitwidth), int(s.quiet)), total.type)
        return builder.select(builder.fcmp_unordered("uno", total, total), quiet, total)

    return total(total), generate


def scale_of(total):
    """The scale at which a sum's products are taken."""


@overload(scale_of)
def _scale_of(total):
    s = S64 if total == types.float64 else S32
    return lambda total: s


@njit(forceinline=True)
def span_of(low, high, s):
    top, one = np.int64(s.infinite >> s.m), np.int64(s.one >> s.m)
    if high == 0:
        return Span(one, one)
    low, high = np.int64(low >> s.m), np.int64(high >> s.m)
    return Span(-NEVER if low == 0 else low, NEVER if high == top else high)


@njit(forceinline=True)
def pack_rows(a, i0, m, p0, k, shift, values, places, counts, spans, s):
    """Of each row what is not zero, less the shift, and the places of the panel's rows that it meets."""
    for i in range(m):
        count = 0
        low, high = s.infinite, word(0, s)
        for p in range(k):
            u = pointer(a.start, (i0 + i) * a.row + (p0 + p) * a.column, s.sign)[0]
            size = u & s.size
            values[i, count] = word(u - shift, s)
            places[i, count] = p * COLUMNS
            count += size != 0
            low = pick((size != 0) & (size < low), size, low, s)
            high = pick(size > high, size, high, s)
        counts[i] = count
        span = span_of(low, high, s)
        spans[i, 0], spans[i, 1] = span.low, span.high


@njit(forceinline=True)
def gather(b, p0, k, j0, n, panel, s):
    if abs(b.row) < abs(b.column):
        for j in range(n):
            for p in range(k):
                panel[p * COLUMNS + j] = pointer(b.start, (p0 + p) * b.row + (j0 + j) * b.column, s.sign)[0]
    else:
        for p in range(k):
            for j in range(n):
                panel[p * COLUMNS + j] = pointer(b.start, (p0 + p) * b.row + (j0 + j) * b.column, s.sign)[0]


@njit(forceinline=True)
def stretch(start, step, stride, inside, x, w, n, panel, at, s):
    """n elements of an image's row from x on, with zeros where there is no image."""
    if stride == 1:
        left, right = (min(n, max(0, -x)), min(n, max(0, w - x))) if inside else (n, n)
        for j in range(left):
            panel[at + j] = word(0, s)
        for j in range(left, right):
            panel[at + j] = pointer(start, (x + j) * step, s.sign)[0]
        for j in range(max(left, right), n):
            panel[at + j] = word(0, s)
        return
    for j in range(n):
        u = word(0, s)
        if inside and 0 <= x < w:
            u = pointer(start, x * step, s.sign)[0]
        panel[at + j] = u
        x += stride


@njit(forceinline=True)
def unfold(start, image, p0, k, pixel, n, panel, s):
    """Columns of an image's patches: n output pixels, and k elements of a patch from p0."""
    for p in range(k):
        channel, element = divmod(p0 + p, image.kernel_h * image.kernel_w)
        r, q = divmod(element, image.kernel_w)
        y, x = divmod(pixel, image.out_w)
        j = 0
        while j < n:
            count = min(n - j, image.out_w - x)
            in_y = y * image.stride_h + r * image.dilation_h - image.pad_h
            in_x = x * image.stride_w + q * image.dilation_w - image.pad_w
            inside = 0 <= in_y < image.h
            row = pointer(start, channel * image.channel + in_y * image.row, np.uint8(0))
            stretch(row, image.column, image.stride_w, inside, in_x, image.w, count, panel, p * COLUMNS + j, s)
            j += count
            y += 1
            x = 0


@njit(forceinline=True)
def look_over(panel, k, n, width, s):
    """Fill the panel's rows up to the width, and make -0 of it +0."""
    low, high = s.infinite, word(0, s)
    zeros = word(0, s)
    for p in range(k):
        for j in range(n, width):
            panel[p * COLUMNS + j] = s.one
        for j in range(width):
            u = panel[p * COLUMNS + j]
            size = u & s.size
            panel[p * COLUMNS + j] = pick(size == 0, 0, u, s)
            zeros = pick(size == 0, s.one, zeros, s)
            low = pick((size != 0) & (size < low), size, low, s)
            high = pick(size > high, size, high, s)
    return span_of(low, high, s), zeros != 0


@njit(forceinline=True)
def load(start, step, n, width, first, sums, zero):
    for j in range(width):
        sums[j] = zero
    if not first:
        for j in range(n):
            sums[j] = pointer(start, j * step, zero)[0]


@njit(forceinline=True)
def store(start, step, n, last, sums, zero):
    for j in range(n):
        pointer(start, j * step, zero)[0] = settled(sums[j]) if last else sums[j]


@njit(forceinline=True)
def add_row(values, places, first, count, panel, sums, width, zeros):
    j = 0
    while j + WIDE <= width:
        add_products(values, places, first, count, panel, sums, j, WIDE, zeros)
        j += WIDE
    while j < width:
        add_products(values, places, first, count, panel, sums, j, LANES, zeros)
        j += LANES


@njit(forceinline=True)
def add_row_carefully(sums, width, a, i, p0, k, panel, bias, refined, s):
    f = Format(word(0, s), s.one_bit, s.infinite)
    for p in range(k):
        u = pointer(a.start, i * a.row + (p0 + p) * a.column, s.sign)[0]
        for j in range(width):
            sums[j] = plus(sums[j], mul(u, panel[p * COLUMNS + j], bias, refined, f, s))


@njit(inline="never", cache=True)
def blocks(a, b, c, m, n, k, bias, refined, image, zero):
    """C = A B, or A and the patches of an image at B; `zero` is an empty sum."""
    s = scale_of(zero)
    top, one = np.int64(s.infinite >> s.m), np.int64(s.one >> s.m)
    shift = word(s.one - bias, s)
    panel, sums = stack(PANEL, s.sign), stack(COLUMNS, zero)
    values = np.full((min(m, ROWS), DEPTH), s.one)
    places = np.empty(values.shape, np.int64)
    counts = np.empty(len(values), np.int64)
    spans = np.empty((len(values), 2), np.int64)
    for i0 in range(0, m, ROWS):
        rows = min(ROWS, m - i0)
        for p0 in range(0, max(k, 1), DEPTH):
            depth = min(DEPTH, k - p0)
            pack_rows(a, i0, rows, p0, depth, shift, values, places, counts, spans, s)
            for j0 in range(0, n, COLUMNS):
                columns = min(COLUMNS, n - j0)
                width = -(-columns // LANES) * LANES
                if image.kernel_h:
                    unfold(b.start, image, p0, depth, image.first + j0, columns, panel, s)
                else:
                    gather(b, p0, depth, j0, columns, panel, s)
                span, zeros = look_over(panel, depth, columns, width, s)
                for i in range(rows):
                    start = pointer(c.start, (i0 + i) * c.row + j0 * c.column, BYTE)
                    load(start, c.column, columns, width, p0 == 0, sums, zero)
                    low, high = spans[i, 0] + span.low - one, spans[i, 1] + span.high - one
                    if refined:
                        add_row_carefully(sums, width, a, i0 + i, p0, depth, panel, 0, True, s)
                    elif low < 2 or high > top - 3:
                        add_row_carefully(sums, width, a, i0 + i, p0, depth, panel, bias, False, s)
                    elif zeros:
                        add_row(values, places, i * DEPTH, counts[i], panel, sums, width, True)
                    else:
                        add_row(values, places, i * DEPTH, counts[i], panel, sums, width, False)
                    store(start, c.column, columns, p0 + depth == k, sums, zero)


@njit(forceinline=True)
def gemm(a, b, c, stack, m, n, k, bias, refined, zero):
    no_image = Image(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    for i in range(stack):
        left = Matrix(pointer(data(a), i * a.strides[0], BYTE), a.strides[1], a.strides[2])
        right = Matrix(pointer(data(b), i * b.strides[0], BYTE), b.strides[1], b.strides[2])
        out = Matrix(pointer(data(c), i * c.strides[0], BYTE), c.strides[1], c.strides[2])
        if n < m and n < LANES:
            left, right, out = turned(right), turned(left), turned(out)
            blocks(left, right, out, n, m, k, bias, refined, no_image, zero)
        else:
            blocks(left, right, out, m, n, k, bias, refined, no_image, zero)
    return 0


@njit(forceinline=True)
def turned(x):
    return Matrix(x.start, x.column, x.row)


def mitchell_gemm_f32(a, b, c, stack, m, n, k, bias, refined, work, room):
    return gemm(a, b, c, stack, m, n, k, bias, refined, np.float32(0))


def mitchell_gemm_f64(a, b, c, stack, m, n, k, bias, refined, work, room):
    return gemm(a, b, c, stack, m, n, k, bias, refined, np.float64(0))


def mitchell_gemm_i32(a, b, c, stack, m, n, k, bias, refined, work, room):
    return gemm(a, b, c, stack, m, n, k, bias, refined, np.int32(0))
