"""The inner loops of the Mitchell ufuncs, as in csrc/mitchell_scale.h and csrc/mitchell.c, where the method is explained.

A loop is compiled for an op, refined or not, and one of three domains: floats at the 32-bit scale, floats at the 64-bit
scale with the integers that are converted to them, and integers, as 64 bits. Which dtype it is, its data tells it.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import cfunc, njit, types
from numba.extending import intrinsic

from .memory import address, pointer, stack

MUL, SQUARE, DIV, RECIPROCAL, SQRT, RSQRT, LOG2, EXP2, POW = range(9)
INT8, INT16, INT32, INT64, UINT8, UINT16, UINT32, UINT64, F16, F32, F64, BF16 = range(12)
OP, DTYPE, REFINED, BIAS, LOG_BIAS = range(5)
FLOATS_32, FLOATS_64, INTEGERS = range(3)
BLOCK = 512

BYTE, HALF, SINGLE, DOUBLE = np.uint8(0), np.uint16(0), np.uint32(0), np.uint64(0)
U1, U41, U63, U64 = (np.uint64(n) for n in (1, 41, 63, 64))


# ---- one scale


class Scale(NamedTuple):
    """What mitchell_scale.h defines, as words and reals."""

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
    unit: Any
    ulps: Any


class Format(NamedTuple):
    drop: Any
    least: Any
    inf: Any


def scale(word: Any, real: Any, m: int) -> Scale:
    sign = 1 << (8 * word().itemsize - 1)
    infinite = sign - (1 << m)
    one = infinite // 2 >> m << m
    integer = one + (m << m)
    half = 1 << (m - 1)
    words = (sign, sign - 1, m, 1 << m, (1 << m) - 1, one, infinite, infinite | half, m << m, integer, integer | half)
    return Scale(*map(word, words), word(integer >> m), real(1), real(1 << m))


S32 = scale(np.uint32, np.float32, 23)
S64 = scale(np.uint64, np.float64, 52)
LIMIT_32 = np.float64(int(S32.limit) << 23)
LIMIT_64 = np.float64(S64.limit)
OFFSET = np.uint64(2048)
HUGE, TINY = np.float64(2.0**64), np.float64(2.0**-256)
HALF_64 = np.float64(0.5)
BOW = np.float32(0.375)


@intrinsic
def word(typing_context, x, s):
    """An integer modulo 2^32 or 2^64: numba computes with 64 bits."""

    def generate(context, builder, signature, arguments):
        return context.cast(builder, arguments[0], signature.args[0], signature.return_type)

    return s[0](types.unliteral(x), s), generate


@intrinsic
def signed(typing_context, x, s):
    """An integer modulo 2^32 or 2^64 in two's complement, as int64."""

    def generate(context, builder, signature, arguments):
        u = context.cast(builder, arguments[0], signature.args[0], s[0])
        return builder.sext(u, ir.IntType(64)) if s[0].bitwidth < 64 else u

    return types.int64(types.unliteral(x), s), generate


@intrinsic
def bits(typing_context, x):
    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(x.bitwidth))

    return (types.uint32 if x == types.float32 else types.uint64)(x), generate


@intrinsic
def real(typing_context, u, s):
    """The float of these bits, modulo 2^32 or 2^64."""

    def generate(context, builder, signature, arguments):
        u = context.cast(builder, arguments[0], signature.args[0], s[0])
        return builder.bitcast(u, context.get_value_type(signature.return_type))

    return s[-1](types.unliteral(u), s), generate


@intrinsic
def pick(typing_context, condition, yes, no, s):
    """A select of words, where an if would be a branch."""

    def generate(context, builder, signature, arguments):
        condition = context.cast(builder, arguments[0], signature.args[0], types.boolean)
        condition = builder.trunc(condition, ir.IntType(1)) if condition.type.width > 1 else condition
        words = (context.cast(builder, arguments[i], signature.args[i], s[0]) for i in (1, 2))
        return builder.select(condition, *words)

    return s[0](types.boolean, types.unliteral(yes), types.unliteral(no), s), generate


@intrinsic
def leading_zeros(typing_context, u):
    def generate(context, builder, signature, arguments):
        return builder.ctlz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), generate


@njit(forceinline=True)
def place(u, s):
    small = bits(real(s.integer | (u & s.fraction), s) - real(s.integer, s)) - (s.one - s.one_bit)
    return pick(u < s.one_bit, small, u + s.lift, s)


@njit(forceinline=True)
def fraction(place, s):
    return real(s.one | (place & s.fraction), s) - s.unit


@njit(forceinline=True)
def nearest(x, s):
    return word(bits(x + real(s.rounder, s)) - s.rounder, s)


@njit(forceinline=True)
def float_of(integer, s):
    """The float of an integer that `nearest` may give."""
    return real(integer + s.rounder, s) - real(s.rounder, s)


@njit(forceinline=True)
def clamped(x, limit, s):
    u, most = bits(x), bits(limit)
    size = u & s.size
    return real(pick(size < most, size, most, s) | (u & s.sign), s)


@njit(forceinline=True)
def small_product(x, y, s):
    u, v = bits(x), bits(y)
    return real(pick((u == 0) | (v == 0), 0, u + v - s.one, s), s)


@njit(forceinline=True)
def bow(place, s):
    x = fraction(place, s)
    return nearest(small_product(x, s.unit - x, s) * (BOW * s.ulps), s)


@njit(forceinline=True)
def truncated(u, f, s):
    return word(u >> f.drop << f.drop, s)


@njit(forceinline=True)
def rounded(u, f, s):
    mask = (U1 << f.drop) - U1
    return truncated(u + (mask >> U1) + (u >> f.drop & U1 & mask), f, s)


@njit(forceinline=True)
def packed(p, q, shift, f, s):
    level = rounded(p + q - shift, f, s)
    # Half of it, rounded, which does not wrap. A test for carries would be as right, but LLVM does not vectorise it.
    half = signed((p >> U1) + (q >> U1) - (shift >> U1), s)
    r = pick((level < f.least) | (half < 0), 0, level, s)
    return pick((level >= f.inf) & (half >= 0) | (half >= signed(f.inf >> U1, s)), s.infinite, r, s)


@njit(forceinline=True)
def mul(a, b, bias, refined, f, s):
    sign = (a ^ b) & s.sign
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
    r = pick(infinite, s.infinite, pick(zero, 0, r, s), s)
    return pick((u > s.infinite) | (v > s.infinite) | (zero & infinite), s.quiet, sign | r, s)


@njit(forceinline=True)
def div(a, b, bias, refined, f, s):
    sign = (a ^ b) & s.sign
    u, v = a & s.size, b & s.size
    p, q = place(u, s), place(v, s)
    top = s.infinite + s.lift + s.one_bit
    if refined:
        x, y = fraction(p, s), fraction(q, s)
        below = (p & s.fraction) < (q & s.fraction)
        gap = real(bits(x - y) & s.size, s)
        first = real(pick(below, bits(s.unit + s.unit - gap), bits(s.unit + gap), s), s)
        t = real(pick(below, bits(s.unit - y), bits(y), s), s)
        term = bits(small_product(t, gap, s))
        term = pick(term == 0, 0, term - (q & s.fraction), s)
        p = p - (p & s.fraction) + bits(first - real(term, s)) - s.one
        p = word(p - pick(below, s.one_bit, 0, s), s)
        q = word(q - (q & s.fraction), s)
    r = packed(word(p + bias, s), word(top - q, s), top - s.one, f, s)
    zero = (u == 0) | (v == s.infinite)
    infinite = (v == 0) | (u == s.infinite)
    r = pick(infinite, s.infinite, pick(zero, 0, r, s), s)
    return pick((u > s.infinite) | (v > s.infinite) | (zero & infinite), s.quiet, sign | r, s)


@njit(forceinline=True)
def root(p, bias, refined, f, s):
    """Of twice a level, to which refine_exp or the bias then comes."""
    r = word(p, s) >> U1
    return rounded(r - bow(r, s), f, s) if refined else word(truncated(r, f, s) + bias, s)


@njit(forceinline=True)
def log_place(a, refined, s):
    p = place(a & s.size, s)
    return word(p + bow(p, s), s) if refined else p


@njit(forceinline=True)
def sqrt(a, bias, refined, f, s):
    r = root(log_place(a, refined, s) - s.lift + s.one, bias, refined, f, s)
    r = pick(a == s.infinite, s.infinite, r, s)
    return pick(a & s.size == 0, a, pick(a > s.infinite, s.quiet, r, s), s)


@njit(forceinline=True)
def rsqrt(a, bias, refined, f, s):
    r = root(s.one + s.one + s.one + s.lift - log_place(a, refined, s), bias, refined, f, s)
    r = pick(a == s.infinite, 0, r, s)
    return pick(a & s.size == 0, a | s.infinite, pick(a > s.infinite, s.quiet, r, s), s)


@njit(forceinline=True)
def log2(a, bias, refined, f, s):
    p = word(log_place(a, refined, s) + bias, s)
    r = rounded(bits(float_of((p >> s.m) - s.limit, s) + fraction(p, s)), f, s)
    r = pick(a == s.infinite, s.infinite, r, s)
    return pick(a & s.size == 0, s.sign | s.infinite, pick(a > s.infinite, s.quiet, r, s), s)


@njit(forceinline=True)
def power(places, bias, refined, f, s):
    p = word(places + (s.limit << s.m) + s.one, s)
    p = word(p - bow(p, s) if refined else p + bias, s)
    return packed(p, 0, s.limit << s.m, f, s)


@njit(forceinline=True)
def exp2(a, bias, refined, f, s):
    x = clamped(real(a, s), float_of(s.limit, s), s)
    whole = nearest(x, s)
    part = nearest((x - float_of(whole, s)) * s.ulps, s)
    r = power((whole << s.m) + part, bias, refined, f, s)
    return pick(a & s.size > s.infinite, s.quiet, r, s)


@njit(forceinline=True)
def scaled_log_32(log, p):
    t = np.float64(signed(log, S32)) * np.float64(p)
    return nearest(clamped(t, LIMIT_32, S64), S64)


@njit(forceinline=True)
def scaled_log_64(log, p):
    # Neither overflows nor underflows: beyond these, every p has the same result.
    p = clamped(p, HUGE, S64)
    p = real(pick(bits(p) & S64.size < bits(TINY), 0, bits(p), S64), S64)
    centred = log + (OFFSET << S64.m) + (S64.one_bit >> U1)
    t = float_of((centred >> S64.m) - OFFSET, S64) * p
    u = (fraction(centred, S64) - HALF_64) * p
    t, u = clamped(t, 4 * LIMIT_64, S64), clamped(u, 2 * LIMIT_64, S64)
    whole, more = float_of(nearest(t, S64), S64), float_of(nearest(u, S64), S64)
    rest = (t - whole) + (u - more)
    carry = float_of(nearest(rest, S64), S64)
    total = clamped(whole + more + carry, LIMIT_64 - 1, S64)
    return (nearest(total, S64) << S64.m) + nearest((rest - carry) * S64.ulps, S64)


@njit(forceinline=True)
def power_of(a, b, bias, log_bias, refined, f, s):
    u, v = a & s.size, b & s.size
    log = word(log_place(a, refined, s) + log_bias - s.lift - s.one, s)
    exponent = real(pick(v >= s.infinite, 0, b, s), s)
    places = scaled_log_32(log, exponent) if s.m == S32.m else scaled_log_64(log, exponent)
    r = power(places, bias, refined, f, s)
    whole = bits(real(pick(v < s.integer, v, 0, s), s) + real(s.integer, s))
    integer = (v >= s.integer) | (bits(real(whole, s) - real(s.integer, s)) == v)
    odd = integer & (v < s.integer + s.one_bit) & (pick(v < s.integer, whole, v, s) & U1 != 0)
    grows = (u > s.one) ^ (b >= s.sign)
    r = pick((v == s.infinite) | (u == 0) | (u == s.infinite), pick(grows, s.infinite, 0, s), r, s)
    r = pick((v == s.infinite) & (u == s.one), s.one, r, s)
    undefined = (u > s.infinite) | (v > s.infinite) | ((a > s.sign) & (u < s.infinite) & (not integer))
    r = pick(undefined, s.quiet, r | pick(odd, a & s.sign, 0, s), s)
    return pick((v == 0) | (a == s.one), s.one, r, s)


# ---- integers, as 64 bits


@njit(forceinline=True)
def carry(x, y):
    """Of x + y, by the bits: LLVM does not vectorise a test for x + y < x."""
    return np.int64((x & y | (x | y) & ~(x + y)) >> U63)


@njit(forceinline=True)
def whole_product(a, b, bias):
    """Of magnitudes, modulo 2^64. Fractions are in units of 2^-64."""
    m, n = leading_zeros(a), leading_zeros(b)
    x = a << np.uint64(m & 63) << U1
    y = b << np.uint64(n & 63) << U1
    shift = np.uint64(bias) << U41
    k = 126 - m - n + carry(x, y) + carry(x + y, shift) - (bias < 0)
    total = x + y + shift
    low = (U1 << np.uint64(k & 63)) + (total >> U1 >> np.uint64(~k & 63))
    high = total << np.uint64(k & 63)
    r = pick(k < 64, low, high, S64)
    return pick((a == 0) | (b == 0) | (k < 0) | (k >= 128), 0, r, S64)


@njit(forceinline=True)
def integer_mul(a, b, bias, refined, top):
    """`top` is the sign bit, or 0 for an unsigned dtype."""
    u = pick(a & top != 0, U1 + ~a, a, S64)
    v = pick(b & top != 0, U1 + ~b, b, S64)
    r = whole_product(u, v, bias)
    if refined:
        m, n = leading_zeros(u) & 63, leading_zeros(v) & 63
        x, y = u << np.uint64(m) << U1, v << np.uint64(n) << U1
        k, l = U1 << np.uint64(63 - m), U1 << np.uint64(63 - n)  # noqa: E741
        over = carry(x, y) != 0
        r += whole_product(pick(over, k + k - u, u - k, S64), pick(over, l + l - v, v - l, S64), 0)
        r = pick((u == 0) | (v == 0), 0, r, S64)
    return pick((a ^ b) & top != 0, U1 + ~r, r, S64)


# ---- elements of any dtype and stride, to and from a buffer of words


@njit(forceinline=True)
def width_of(dtype):
    if dtype < F16:
        return 1 << (dtype & 3)
    return 4 if dtype == F32 else 8 if dtype == F64 else 2


@njit(forceinline=True)
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


@njit(forceinline=True)
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


@njit(forceinline=True)
def widen_f16(h):
    u = h & np.uint32(0x7FFF)
    small = bits(float_of(u, S32) * np.float32(2**-24))
    r = pick(u < 0x400, small, (u << 13) + (112 << 23), S32)
    r = pick(u >= 0x7C00, u << 13 | 255 << 23, r, S32)
    return (h & np.uint32(0x8000)) << 16 | r


@njit(forceinline=True)
def narrow_f16(w):
    u = w & S32.size
    r = pick(u < 113 << 23, 0, (u - (112 << 23)) >> 13, S32)
    r = pick(u >= S32.infinite, 0x7C00, r, S32)
    return (w >> 16) & 0x8000 | pick(u > S32.infinite, 0x7E00, r, S32)


@njit(forceinline=True)
def fetch_32(dtype, start, step, n, room):
    collect(start, step, width_of(dtype), n, room)
    if dtype == F16:
        for i in range(n):
            room[i] = widen_f16(room[i])
    elif dtype == BF16:
        for i in range(n):
            room[i] = room[i] << 16


@njit(forceinline=True)
def fetch_integers(dtype, start, step, n, room):
    width = width_of(dtype)
    collect(start, step, width, n, room)
    if dtype < INT64:
        unused = np.uint64(64 - 8 * width)
        for i in range(n):
            room[i] = np.uint64(np.int64(room[i] << unused) >> unused)


@njit(forceinline=True)
def fetch_64(dtype, start, step, n, room):
    fetch_integers(dtype, start, step, n, room)
    if dtype == UINT64:
        for i in range(n):
            room[i] = bits(np.float64(room[i]))
    elif dtype != F64:
        for i in range(n):
            room[i] = bits(np.float64(np.int64(room[i])))


@njit(forceinline=True)
def deliver_32(dtype, room, n, start, step):
    if dtype == F16:
        for i in range(n):
            room[i] = narrow_f16(room[i])
    elif dtype == BF16:
        for i in range(n):
            room[i] = room[i] >> 16
    spread(room, n, start, step, width_of(dtype))


@njit(forceinline=True)
def apart(args, steps, n, operands):
    """Whether no result is an operand of another element, as it is where NumPy accumulates."""
    out, out_step = address(args[operands]), steps[operands]
    out_low = out + min(0, (n - 1) * out_step)
    out_end = out + max(0, (n - 1) * out_step) + 8
    for i in range(operands):
        start, step = address(args[i]), steps[i]
        low = start + min(0, (n - 1) * step)
        end = start + max(0, (n - 1) * step) + 8
        if low < out_end and out_low < end and (start != out or step != out_step or step == 0):
            return False
    return True


# ---- loops


@njit(forceinline=True)
def format_of(dtype, s):
    if dtype == F16:
        return Format(word(13, s), word(113 << 23, s), word(143 << 23, s))
    return Format(word(16 if dtype == BF16 else 0, s), s.one_bit, s.infinite)


@njit(inline="always")
def fetch(domain, dtype, start, step, n, room):
    if domain == FLOATS_32:
        fetch_32(dtype, start, step, n, room)
    elif domain == FLOATS_64:
        fetch_64(dtype, start, step, n, room)
    else:
        fetch_integers(dtype, start, step, n, room)


@njit(inline="always")
def deliver(domain, dtype, room, n, start, step):
    if domain == FLOATS_32:
        deliver_32(dtype, room, n, start, step)
    elif domain == FLOATS_64:
        spread(room, n, start, step, 8)
    else:
        spread(room, n, start, step, width_of(dtype))


@njit(inline="always")
def element(op, a, b, bias, log_bias, refined, f, s):
    if op == MUL or op == SQUARE:
        return mul(a, b, bias, refined, f, s)
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
    return power_of(a, b, bias, log_bias, refined, f, s)


POINTER = types.CPointer(types.uint8)
NUMBERS = types.CPointer(types.int64)
LOOP = types.void(types.CPointer(POINTER), NUMBERS, NUMBERS, NUMBERS)


@lru_cache(maxsize=None)
def loop_of(op: int, refined: bool, domain: int) -> Any:
    """What the loop refers to here is plain data, so that the key of its cache is the same in every process."""
    operands = 2 if op in (MUL, DIV, POW) else 1
    s, word_size = (S32, 4) if domain == FLOATS_32 else (S64, 8)

    @cfunc(LOOP, cache=True)
    def loop(args, dimensions, steps, data):
        n, dtype = dimensions[0], data[DTYPE]
        bias, log_bias = word(data[BIAS], s), word(data[LOG_BIAS], s)
        f = format_of(dtype, s)
        top = s.sign if dtype < UINT8 else word(0, s)
        width = width_of(dtype)
        in_place = width == word_size and (domain != FLOATS_64 or dtype == F64)
        block = BLOCK if apart(args, steps, n, operands) else 1
        room_a, room_b, room = stack(BLOCK, s.sign), stack(BLOCK, s.sign), stack(BLOCK, s.sign)
        at = 0
        while at < n:
            count = min(block, n - at)
            start = pointer(args[0], at * steps[0], BYTE)
            a = pointer(start, 0, s.sign)
            if not in_place or steps[0] != word_size:
                a = room_a
                fetch(domain, dtype, start, steps[0], count, a)
            b = a
            if operands == 2:
                start = pointer(args[1], at * steps[1], BYTE)
                b = pointer(start, 0, s.sign)
                if not in_place or steps[1] != word_size:
                    b = room_b
                    fetch(domain, dtype, start, steps[1], count, b)
            start = pointer(args[operands], at * steps[operands], BYTE)
            straight = (domain == FLOATS_64 or in_place) and steps[operands] == word_size
            out = pointer(start, 0, s.sign) if straight else room
            for i in range(count):
                if domain == INTEGERS:
                    out[i] = integer_mul(a[i], b[i], np.int64(bias), refined, top)
                else:
                    out[i] = element(op, a[i], b[i], bias, log_bias, refined, f, s)
            if not straight:
                deliver(domain, dtype, room, count, start, steps[operands])
            at += count

    return loop


def mitchell_loop(op: int, dtype: int, refined: bool) -> int:
    """Address of the loop for an op, dtype and correction: a function of NumPy's type PyUFuncGenericFunction."""
    if dtype < F16 and op in (MUL, SQUARE):
        domain = INTEGERS
    else:
        domain = FLOATS_64 if dtype < F16 or dtype == F64 else FLOATS_32
    return int(loop_of(op, bool(refined), domain).address)
