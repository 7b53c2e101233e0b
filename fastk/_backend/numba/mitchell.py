"""The inner loops of the Mitchell ufuncs; the method is explained in csrc/mitchell_scale.h and csrc/mitchell.c.

A loop is compiled for an op, refined or not, and one of three domains: floats at the 32-bit scale; floats at the 64-bit
scale, and integers converted to them; integers, as 64 bits. Which dtype and bias it serves, its data tells.

The functions are compiled one by one, and LLVM inlines them: numba's own inlining takes six times as long.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import cfunc, njit, types
from numba.extending import intrinsic

from .memory import address, pointer, stack

MUL, SQUARE, DIV, RECIPROCAL, SQRT, RSQRT, LOG2, EXP2, POW = range(9)
INT64, UINT8, UINT64, F16, F32, F64, BF16 = 3, 4, 7, 8, 9, 10, 11
OP, DTYPE, REFINED, BIAS, LOG_BIAS = range(5)
FLOATS_32, FLOATS_64, INTEGERS = range(3)
BLOCK = 512

BYTE, HALF, SINGLE, DOUBLE = np.uint8(0), np.uint16(0), np.uint32(0), np.uint64(0)
U1, U41, U63 = np.uint64(1), np.uint64(41), np.uint64(63)

inlined = njit(forceinline=True)


# ---- words: integers of a scale's width, which numba would promote


@intrinsic
def word(typing_context, x, s):
    """An integer modulo 2^32 or 2^64."""

    def generate(context, builder, signature, arguments):
        return context.cast(builder, arguments[0], signature.args[0], s[0])

    return s[0](types.unliteral(x), s), generate


@intrinsic
def signed(typing_context, x, s):
    """The same in two's complement, as int64."""

    def generate(context, builder, signature, arguments):
        u = context.cast(builder, arguments[0], signature.args[0], s[0])
        return builder.sext(u, ir.IntType(64)) if s[0].bitwidth < 64 else u

    return types.int64(types.unliteral(x), s), generate


@intrinsic
def bits(typing_context, x):
    """The word of a float."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(x.bitwidth))

    return (types.uint32 if x.bitwidth == 32 else types.uint64)(x), generate


@intrinsic
def real(typing_context, u, s):
    """The float of a word."""

    def generate(context, builder, signature, arguments):
        u = context.cast(builder, arguments[0], signature.args[0], s[0])
        return builder.bitcast(u, context.get_value_type(signature.return_type))

    return s[-1](types.unliteral(u), s), generate


@intrinsic
def pick(typing_context, condition, yes, no, s):
    """A select of words, where a conditional expression would be a branch."""

    def generate(context, builder, signature, arguments):
        yes, no = (context.cast(builder, arguments[i], signature.args[i], s[0]) for i in (1, 2))
        return builder.select(arguments[0], yes, no)

    return s[0](types.boolean, types.unliteral(yes), types.unliteral(no), s), generate


@intrinsic
def leading_zeros(typing_context, u):
    def generate(context, builder, signature, arguments):
        return builder.ctlz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), generate


# ---- one scale


class Scale(NamedTuple):
    """What mitchell_scale.h defines, in words; unit and ulps are floats, 1 and 2^m."""

    sign: Any
    size: Any
    m: Any
    one_bit: Any
    fraction: Any
    one: Any
    infinite: Any
    quiet: Any
    lift: Any
    integer: Any
    rounder: Any
    limit: Any
    ulps: Any
    unit: Any


class Format(NamedTuple):
    drop: Any
    least: Any
    inf: Any


def scale(word: Any, real: Any, m: int) -> Scale:
    sign, one_bit, half = 1 << (8 * word().itemsize - 1), 1 << m, 1 << (m - 1)
    infinite = sign - one_bit
    one = (infinite >> 1) - half
    integer = one + m * one_bit
    words = sign, sign - 1, m, one_bit, one_bit - 1, one, infinite, infinite | half, m << m, integer, integer | half
    return Scale(*map(word, words), word(integer >> m), real(one_bit), real(1))


S32 = scale(np.uint32, np.float32, 23)
S64 = scale(np.uint64, np.float64, 52)


@inlined
def place(u, s):
    subnormal = bits(real(s.integer | (u & s.fraction), s) - real(s.integer, s)) - (s.one - s.one_bit)
    return pick(u < s.one_bit, subnormal, u + s.lift, s)


@inlined
def fraction(p, s):
    return real(s.one | (p & s.fraction), s) - s.unit


@inlined
def nearest(x, s):
    return word(bits(x + real(s.rounder, s)) - s.rounder, s)


@inlined
def float_of(integer, s):
    """The inverse of `nearest`."""
    return real(integer + s.rounder, s) - real(s.rounder, s)


@inlined
def clamped(x, limit, s):
    size, most = bits(x) & s.size, bits(limit)
    return real(pick(size < most, size, most, s) | (bits(x) & s.sign), s)


@inlined
def small_product(x, y, s):
    u, v = bits(x), bits(y)
    return real(pick((u == 0) | (v == 0), 0, u + v - s.one, s), s)


@inlined
def bow(p, s):
    x = fraction(p, s)
    return nearest(small_product(x, s.unit - x, s) * (s.ulps * np.float32(0.375)), s)


@inlined
def truncated(u, f, s):
    return word(u >> f.drop << f.drop, s)


@inlined
def rounded(u, f, s):
    mask = (U1 << f.drop) - U1
    return truncated(u + (mask >> U1) + (u >> f.drop & U1 & mask), f, s)


@inlined
def packed(p, q, shift, f, s):
    level = rounded(p + q - shift, f, s)
    # About half of it, which does not wrap. LLVM makes no vectors of tests for a carry.
    half = signed((p >> U1) + (q >> U1) - (shift >> U1), s)
    r = pick((level < f.least) | (half < 0), 0, level, s)
    return pick((level >= f.inf) & (half >= 0) | (half >= signed(f.inf >> U1, s)), s.infinite, r, s)


@inlined
def two_operand_result(r, zero, infinite, u, v, sign, s):
    r = pick(infinite, s.infinite, pick(zero, 0, r, s), s)
    return pick((u > s.infinite) | (v > s.infinite) | (zero & infinite), s.quiet, sign | r, s)


@inlined
def mul(a, b, bias, refined, f, s):
    u, v = a & s.size, b & s.size
    p, q = place(u, s), place(v, s)
    if refined:
        x, y = fraction(p, s), fraction(q, s)
        both = bits(x + y)
        carry = both >= s.one
        first = real(pick(carry, both + s.one_bit, bits(s.unit + (x + y)), s), s)
        t = real(pick(carry, bits(s.unit - x), bits(x), s), s)
        w = real(pick(carry, bits(s.unit - y), bits(y), s), s)
        p = word(p - (p & s.fraction), s)
        q = word(q - (q & s.fraction) + bits(first + small_product(t, w, s)) - s.one, s)
    r = packed(word(p + bias, s), q, s.lift + s.lift + s.one, f, s)
    zero = (u == 0) | (v == 0)
    infinite = (u >= s.infinite) | (v >= s.infinite)
    return two_operand_result(r, zero, infinite, u, v, (a ^ b) & s.sign, s)


@inlined
def div(a, b, bias, refined, f, s):
    u, v = a & s.size, b & s.size
    p, q = place(u, s), place(v, s)
    top = s.infinite + s.lift + s.one_bit
    if refined:
        x, y = fraction(p, s), fraction(q, s)
        below = (p & s.fraction) < (q & s.fraction)
        gap = real(bits(x - y) & s.size, s)
        first = real(pick(below, bits(s.unit + s.unit - gap), bits(s.unit + gap), s), s)
        term = bits(small_product(real(pick(below, bits(s.unit - y), bits(y), s), s), gap, s))
        term = pick(term == 0, 0, term - (q & s.fraction), s)
        p = p - (p & s.fraction) + bits(first - real(term, s)) - s.one - pick(below, s.one_bit, 0, s)
        q = q - (q & s.fraction)
    r = packed(word(p + bias, s), word(top - q, s), top - s.one, f, s)
    zero = (u == 0) | (v == s.infinite)
    infinite = (v == 0) | (u == s.infinite)
    return two_operand_result(r, zero, infinite, u, v, (a ^ b) & s.sign, s)


@inlined
def log_place(a, refined, s):
    p = place(a & s.size, s)
    return word(p + bow(p, s), s) if refined else p


@inlined
def halved(p, bias, refined, f, s):
    r = word(p, s) >> U1
    return rounded(r - bow(r, s), f, s) if refined else word(truncated(r, f, s) + bias, s)


@inlined
def positive_result(r, a, at_zero, at_infinity, s):
    r = pick(a == s.infinite, at_infinity, r, s)
    return pick(a & s.size == 0, at_zero, pick(a > s.infinite, s.quiet, r, s), s)


@inlined
def sqrt(a, bias, refined, f, s):
    r = halved(log_place(a, refined, s) - s.lift + s.one, bias, refined, f, s)
    return positive_result(r, a, a, s.infinite, s)


@inlined
def rsqrt(a, bias, refined, f, s):
    r = halved(s.one + s.one + s.one + s.lift - log_place(a, refined, s), bias, refined, f, s)
    return positive_result(r, a, a | s.infinite, 0, s)


@inlined
def log2(a, bias, refined, f, s):
    p = word(log_place(a, refined, s) + bias, s)
    r = rounded(bits(float_of((p >> s.m) - s.limit, s) + fraction(p, s)), f, s)
    return positive_result(r, a, s.sign | s.infinite, s.infinite, s)


@inlined
def power(places, bias, refined, f, s):
    p = word(places + (s.limit << s.m) + s.one, s)
    p = word(p - bow(p, s) if refined else p + bias, s)
    return packed(p, 0, s.limit << s.m, f, s)


@inlined
def exp2(a, bias, refined, f, s):
    x = clamped(real(a, s), float_of(s.limit, s), s)
    whole = nearest(x, s)
    part = nearest((x - float_of(whole, s)) * s.ulps, s)
    return pick(a & s.size > s.infinite, s.quiet, power((whole << s.m) + part, bias, refined, f, s), s)


@inlined
def scaled_log_32(log, p):
    t = np.float64(signed(log, S32)) * np.float64(p)
    return nearest(clamped(t, float_of(S32.limit, S64) * np.float64(S32.ulps), S64), S64)


@inlined
def scaled_log_64(log, p):
    # All p beyond these have the same result, and now no product overflows or underflows.
    p = clamped(p, np.float64(2.0**64), S64)
    p = real(pick(bits(p) & S64.size < bits(np.float64(2.0**-256)), 0, bits(p), S64), S64)
    limit, half, offset = float_of(S64.limit, S64), np.float64(0.5), np.uint64(2048)
    centred = log + (offset << S64.m) + (S64.one_bit >> U1)
    t = clamped(float_of((centred >> S64.m) - offset, S64) * p, 4 * limit, S64)
    u = clamped((fraction(centred, S64) - half) * p, 2 * limit, S64)
    whole, more = float_of(nearest(t, S64), S64), float_of(nearest(u, S64), S64)
    rest = (t - whole) + (u - more)
    carry = float_of(nearest(rest, S64), S64)
    total = clamped(whole + more + carry, limit - 1, S64)
    return (nearest(total, S64) << S64.m) + nearest((rest - carry) * S64.ulps, S64)


@inlined
def power_of(a, b, bias, log_bias, refined, f, s):
    u, v = a & s.size, b & s.size
    log = word(log_place(a, refined, s) + log_bias - s.lift - s.one, s)
    exponent = real(pick(v >= s.infinite, 0, b, s), s)
    places = scaled_log_32(log, exponent) if s.m == S32.m else scaled_log_64(log, exponent)
    r = power(places, bias, refined, f, s)
    small = v < s.integer
    whole = bits(real(pick(small, v, 0, s), s) + real(s.integer, s))
    integer = (not small) | (bits(real(whole, s) - real(s.integer, s)) == v)
    odd = integer & (v < s.integer + s.one_bit) & (pick(small, whole, v, s) & U1 != 0)
    grows = (u > s.one) ^ (b >= s.sign)
    r = pick((v == s.infinite) | (u == 0) | (u == s.infinite), pick(grows, s.infinite, 0, s), r, s)
    r = pick((v == s.infinite) & (u == s.one), s.one, r, s)
    undefined = (u > s.infinite) | (v > s.infinite) | ((a > s.sign) & (u < s.infinite) & (not integer))
    r = pick(undefined, s.quiet, r | pick(odd, a & s.sign, 0, s), s)
    return pick((v == 0) | (a == s.one), s.one, r, s)


# ---- integers, as 64 bits


@inlined
def fraction_64(a, zeros):
    """Of a = 2^k (1 + x), in units of 2^-64."""
    return a << np.uint64(zeros & 63) << U1


@inlined
def carry_of(x, y):
    """Of x + y, by its bits; see `packed`."""
    return (x & y | (x | y) & ~(x + y)) >> U63 != 0


@inlined
def whole_product(a, b, bias):
    """Of magnitudes, modulo 2^64."""
    m, n = leading_zeros(a), leading_zeros(b)
    x, y, shift = fraction_64(a, m), fraction_64(b, n), np.uint64(bias) << U41
    k = 126 - m - n + carry_of(x, y) + carry_of(x + y, shift) - (bias < 0)
    total, up, down = x + y + shift, np.uint64(k & 63), np.uint64(~k & 63)
    r = pick(k < 64, (U1 << up) + (total >> U1 >> down), total << up, S64)
    return pick((a == 0) | (b == 0) | (k < 0) | (k >= 128), 0, r, S64)


@inlined
def integer_mul(a, b, bias, refined, sign):
    """`sign` is the sign bit, or 0 for an unsigned dtype."""
    u, v = pick(a & sign != 0, U1 + ~a, a, S64), pick(b & sign != 0, U1 + ~b, b, S64)
    r = whole_product(u, v, bias)
    if refined:
        m, n = leading_zeros(u), leading_zeros(v)
        s, t = S64.sign >> np.uint64(m & 63), S64.sign >> np.uint64(n & 63)
        carry = carry_of(fraction_64(u, m), fraction_64(v, n))
        rest = whole_product(pick(carry, s + s - u, u - s, S64), pick(carry, t + t - v, v - t, S64), 0)
        r += pick((u == 0) | (v == 0), 0, rest, S64)
    return pick((a ^ b) & sign != 0, U1 + ~r, r, S64)


# ---- elements of any dtype and stride, to words and back


@inlined
def width_of(dtype):
    if dtype < F16:
        return 1 << (dtype & 3)
    return 4 if dtype == F32 else 8 if dtype == F64 else 2


@njit
def collect(start, step, width, n, room):
    if width == 1:
        for i in range(n):
            room[i] = pointer(start, i * step, BYTE)[0]
    elif width == 2:
        for i in range(n):
            room[i] = pointer(start, i * step, HALF)[0]
    elif width == 4:
        for i in range(n):
            room[i] = pointer(start, i * step, SINGLE)[0]
    else:
        for i in range(n):
            room[i] = pointer(start, i * step, DOUBLE)[0]


@njit
def spread(room, n, start, step, width):
    if width == 1:
        for i in range(n):
            pointer(start, i * step, BYTE)[0] = room[i]
    elif width == 2:
        for i in range(n):
            pointer(start, i * step, HALF)[0] = room[i]
    elif width == 4:
        for i in range(n):
            pointer(start, i * step, SINGLE)[0] = room[i]
    else:
        for i in range(n):
            pointer(start, i * step, DOUBLE)[0] = room[i]


@inlined
def widen_f16(h):
    u = word(h & 0x7FFF, S32)
    small = bits(float_of(u, S32) * np.float32(2**-24))
    r = pick(u < 0x400, small, (u << 13) + (112 << 23), S32)
    return word((h & 0x8000) << 16 | pick(u >= 0x7C00, u << 13 | S32.infinite, r, S32), S32)


@inlined
def narrow_f16(w):
    u = word(w & S32.size, S32)
    r = pick(u < 113 << 23, 0, (u - (112 << 23)) >> 13, S32)
    r = pick(u >= S32.infinite, 0x7C00, r, S32)
    return word((w >> 16) & 0x8000 | pick(u > S32.infinite, 0x7E00, r, S32), S32)


@njit
def fetch_32(dtype, start, step, n, room):
    collect(start, step, width_of(dtype), n, room)
    if dtype == F16:
        for i in range(n):
            room[i] = widen_f16(room[i])
    elif dtype == BF16:
        for i in range(n):
            room[i] = room[i] << 16


@njit
def deliver_32(dtype, room, n, start, step):
    if dtype == F16:
        for i in range(n):
            room[i] = narrow_f16(room[i])
    elif dtype == BF16:
        for i in range(n):
            room[i] = room[i] >> 16
    spread(room, n, start, step, width_of(dtype))


@njit
def fetch_64(dtype, start, step, n, room, floats):
    width = width_of(dtype)
    collect(start, step, width, n, room)
    if dtype < INT64:
        unused = np.uint64(64 - 8 * width)
        for i in range(n):
            room[i] = np.uint64(np.int64(room[i] << unused) >> unused)
    if floats and dtype == UINT64:
        for i in range(n):
            room[i] = bits(np.float64(room[i]))
    elif floats and dtype < F16:
        for i in range(n):
            room[i] = bits(np.float64(np.int64(room[i])))


# ---- loops


@njit
def sequential(args, steps, n, operands, width, out_width):
    """Whether a result may be an operand of a later element, as it is where NumPy accumulates."""
    out, out_step = address(args[operands]), steps[operands]
    out_low, out_end = out + min(0, (n - 1) * out_step), out + max(0, (n - 1) * out_step) + out_width
    for i in range(operands):
        start, step = address(args[i]), steps[i]
        low, end = start + min(0, (n - 1) * step), start + max(0, (n - 1) * step) + width
        if low >= out_end or out_low >= end or (start == out and step == out_step and step != 0):
            continue
        if step == out_step and step > 0:  # side by side, like two columns of a matrix
            gap = (out - start) % step
            if gap >= width and gap + out_width <= step:
                continue
        return True
    return False


@njit
def format_of(dtype, s):
    if dtype == F16:
        return Format(word(13, s), word(113 << 23, s), word(143 << 23, s))
    return Format(word(16 if dtype == BF16 else 0, s), s.one_bit, s.infinite)


# These two numba inlines, to leave out what is not of the loop's op and domain.


@njit(inline="always")
def operand(domain, dtype, straight, start, step, at, n, room, s):
    start = pointer(start, at * step, BYTE)
    if straight and step == width_of(dtype):
        return pointer(start, 0, s.sign)
    if domain == FLOATS_32:
        fetch_32(dtype, start, step, n, room)
    else:
        fetch_64(dtype, start, step, n, room, domain == FLOATS_64)
    return room


@njit(inline="always")
def element(op, a, b, bias, log_bias, refined, f, s):
    if op == DIV:
        return div(a, b, bias, refined, f, s)
    if op == RECIPROCAL:
        return div(s.one, a, bias, refined, f, s)
    if op == SQRT:
        return sqrt(a, bias, refined, f, s)
    if op == RSQRT:
        return rsqrt(a, bias, refined, f, s)
    if op == LOG2:
        return log2(a, bias, refined, f, s)
    if op == EXP2:
        return exp2(a, bias, refined, f, s)
    if op == POW:
        return power_of(a, b, bias, log_bias, refined, f, s)
    return mul(a, b, bias, refined, f, s)


NUMBERS = types.CPointer(types.int64)
LOOP = types.void(types.CPointer(types.CPointer(types.uint8)), NUMBERS, NUMBERS, NUMBERS)


@cache
def loop_of(op: int, refined: bool, domain: int) -> Any:
    """What the loop closes over is plain data, so its cache has the same key in every process."""
    operands = 2 if op in (MUL, DIV, POW) else 1
    s, size = (S32, 4) if domain == FLOATS_32 else (S64, 8)

    @cfunc(LOOP, cache=True)
    def loop(args, dimensions, steps, data):
        n, dtype = dimensions[0], data[DTYPE]
        bias, log_bias, f = word(data[BIAS], s), word(data[LOG_BIAS], s), format_of(dtype, s)
        sign = pick(dtype < UINT8, s.sign, 0, s)
        straight = width_of(dtype) == size and (domain != FLOATS_64 or dtype == F64)
        out_step, out_width = steps[operands], 8 if domain == FLOATS_64 else width_of(dtype)
        room_a, room_b, room = stack(BLOCK, s.sign), stack(BLOCK, s.sign), stack(BLOCK, s.sign)
        block = 1 if sequential(args, steps, n, operands, width_of(dtype), out_width) else BLOCK
        at = 0
        while at < n:
            m = min(block, n - at)
            a = operand(domain, dtype, straight, args[0], steps[0], at, m, room_a, s)
            b = operand(domain, dtype, straight, args[1], steps[1], at, m, room_b, s) if operands == 2 else a
            start = pointer(args[operands], at * out_step, BYTE)
            out = pointer(start, 0, s.sign)
            # In place too by way of a buffer: LLVM's vectors are for what does not overlap.
            apart = out_step == out_width == size and address(a) != address(out) != address(b)
            out = out if apart else room
            for i in range(m):
                if domain == INTEGERS:
                    out[i] = integer_mul(a[i], b[i], signed(bias, s), refined, sign)
                else:
                    out[i] = element(op, a[i], b[i], bias, log_bias, refined, f, s)
            if not apart and domain == FLOATS_32:
                deliver_32(dtype, room, m, start, out_step)
            elif not apart:
                spread(room, m, start, out_step, out_width)
            at += m

    return loop


def mitchell_loop(op: int, dtype: int, refined: bool) -> int:
    """Address of the loop for an op, a dtype and a correction, by their codes."""
    if dtype < F16 and op in (MUL, SQUARE):
        domain = INTEGERS
    else:
        domain = FLOATS_64 if dtype < F16 or dtype == F64 else FLOATS_32
    return int(loop_of(op, bool(refined), domain).address)
