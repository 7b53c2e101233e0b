"""What the Mitchell family is, twice: one element at a time with integers and fractions, and in bulk with NumPy.

The first is the definition read aloud: the logarithm of 2^e (1 + x) is e + x, a real number, held as a fraction, and
the antilogarithm of t is 2^floor(t) (1 + frac(t)). The second is there for exhaustive tests and for matrices; it keeps
exponent and mantissa apart, and has itself to agree with the first. Floats go in and out as their bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

UNARY = ("square", "reciprocal", "sqrt", "rsqrt", "log2", "exp2")
BINARY = ("mul", "div", "pow")
OPS = BINARY + UNARY
NAMED = ("minimax", "unbiased", "lmul", "refined")

# Roots of the conditions that define them, from quadrature at 45 digits; test_mitchell.py checks them by other means.
BIASES = {
    "minimax": {
        "mul": "0.068857536246463946686537549560122",
        "square": "0.068857536246463946686537549560122",
        "div": "-0.074803154050451521228306780325329",
        "reciprocal": "-0.10102051443364380360543185058822",
        "sqrt": "-0.036646187120815181881013910229982",
        "rsqrt": "-0.06725511004055680453147841300399",
        "log2": "0.043035666027967103443786549388461",
        "exp2": "-0.043677448903601848242691931410894",
    },
    "unbiased": {
        "mul": "0.056623270688619274020663377456902",
        "square": "0.056374288726628731952625845010051",
        "div": "-0.057995113487905744568562621625219",
        "reciprocal": "-0.11547001962463162255074314551268",
        "sqrt": "-0.028887738839887056598966149124185",
        "rsqrt": "-0.08627859215989424000250672308144",
        "log2": "0.057304959111036592640075318998108",
        "exp2": "-0.05753274588979522849499555955763",
    },
    "lmul": {"mul": "1/16", "square": "1/16", "div": "-1/16", "reciprocal": "-1/16", "log2": "1/16", "exp2": "-1/16"}
    | {"sqrt": "-1/32", "rsqrt": "-1/32"},
}


def bias(op: str, correction: Any) -> Fraction:
    """What is added to the logarithm of the result (for log2, to the result)."""
    if correction in (None, "refined"):
        return Fraction(0)
    if isinstance(correction, str):
        return Fraction(BIASES[correction]["exp2" if op == "pow" else op])
    return Fraction(correction)


def log_bias(correction: Any) -> Fraction:
    """What pow adds to the logarithm of its base."""
    return bias("log2", correction) if isinstance(correction, str) else Fraction(0)


@dataclass(frozen=True)
class Format:
    """A binary float: mantissa bits and exponent bias."""

    name: str
    size: int
    m: int
    bias: int

    @property
    def word(self) -> np.dtype:
        return np.dtype(f"u{self.size}")

    @property
    def sign(self) -> int:
        return 1 << (8 * self.size - 1)

    @property
    def inf(self) -> int:
        return (2 * self.bias + 1) << self.m

    @property
    def nan(self) -> int:
        return self.inf | 1 << (self.m - 1)

    @property
    def scale(self) -> Format:
        """Where the refined method computes."""
        return F32 if self.m < F32.m else self


F16 = Format("float16", 2, 10, 15)
BF16 = Format("bfloat16", 2, 7, 127)
F32 = Format("float32", 4, 23, 127)
F64 = Format("float64", 8, 52, 1023)
FORMATS = {fmt.name: fmt for fmt in (F16, BF16, F32, F64)}


# ---- one element: fractions


@dataclass(frozen=True)
class Float:
    """A decoded float; the magnitude of a finite one is a fraction."""

    negative: bool
    kind: str
    magnitude: Fraction = Fraction(0)

    def __float__(self) -> float:
        size = {"nan": math.nan, "inf": math.inf}.get(self.kind, float(self.magnitude))
        return math.copysign(size, -1.0 if self.negative else 1.0)


def decode(bits: int, fmt: Format) -> Float:
    """Kind is "zero", "finite", "inf" or "nan"."""
    negative, rest = divmod(bits, fmt.sign)
    exponent, mantissa = divmod(rest, 1 << fmt.m)
    if exponent == 2 * fmt.bias + 1:
        return Float(bool(negative), "nan" if mantissa else "inf")
    if exponent == 0:
        value = Fraction(mantissa, 1 << fmt.m) * power(1 - fmt.bias)
    else:
        value = (1 + Fraction(mantissa, 1 << fmt.m)) * power(exponent - fmt.bias)
    return Float(bool(negative), "finite" if value else "zero", value)


def power(e: int) -> Fraction:
    return Fraction(1 << e) if e >= 0 else Fraction(1, 1 << -e)


def exponent_of(value: Fraction) -> int:
    """floor(log2(value))."""
    e = value.numerator.bit_length() - value.denominator.bit_length()
    return e if value >= power(e) else e - 1


def log(value: Fraction) -> Fraction:
    """Mitchell's logarithm: e + x for 2^e (1 + x)."""
    e = exponent_of(value)
    return e + value / power(e) - 1


def antilog(t: Fraction) -> Fraction:
    n = math.floor(t)
    return power(n) * (1 + t - n)


def times(u: Fraction, v: Fraction) -> Fraction:
    return antilog(log(u) + log(v)) if u and v else Fraction(0)


def over(u: Fraction, v: Fraction) -> Fraction:
    return antilog(log(u) - log(v)) if u else Fraction(0)


def rounded(value: Fraction, m: int) -> Fraction:
    """To 1 + m significant bits, half to even, whatever the exponent."""
    if value < 0:
        return -rounded(-value, m)
    unit = power(exponent_of(value) - m) if value else 1
    return round(value / unit) * unit


def zero(negative: bool, fmt: Format) -> int:
    return fmt.sign * negative


def infinity(negative: bool, fmt: Format) -> int:
    return fmt.inf | fmt.sign * negative


def encode_log(negative: bool, t: Fraction, fmt: Format) -> int:
    """The float of which t is the logarithm; below the normal range it is zero, above it infinity."""
    if t < 1 - fmt.bias:
        return zero(negative, fmt)
    if t >= fmt.bias + 1:
        return infinity(negative, fmt)
    units = (t + fmt.bias) * (1 << fmt.m)
    assert units.denominator == 1, "not a value of this format"
    return fmt.sign * negative | units.numerator


def encode(negative: bool, value: Fraction, fmt: Format, e: int = 0) -> int:
    """The float nearest to value * 2^e, in two steps by way of the scale that it was computed in."""
    value = rounded(rounded(value, fmt.scale.m), fmt.m)
    return encode_log(negative, log(value) + e, fmt) if value else zero(negative, fmt)


def correction_term(x: Fraction, m: int) -> Fraction:
    """Three eighths of x (1 - x), as rounded by a float of the scale, and then to a multiple of 2^-m."""
    return Fraction(round(rounded(times(x, 1 - x) * 3 * (1 << (m - 3)), m)), 1 << m)


def refine_log(t: Fraction, m: int) -> Fraction:
    return t + correction_term(t - math.floor(t), m)


def refine_exp(t: Fraction, m: int) -> Fraction:
    return t - correction_term(t - math.floor(t), m)


def refined_mul(negative: bool, a: Fraction, b: Fraction, fmt: Format) -> int:
    ea, eb = exponent_of(a), exponent_of(b)
    x, y = a / power(ea) - 1, b / power(eb) - 1
    r = 1 + x + y + times(x, y) if x + y < 1 else 2 * (x + y) + times(1 - x, 1 - y)
    return encode(negative, r, fmt, ea + eb)


def refined_div(negative: bool, a: Fraction, b: Fraction, fmt: Format) -> int:
    ea, eb = exponent_of(a), exponent_of(b)
    x, y = a / power(ea) - 1, b / power(eb) - 1
    if x >= y:
        return encode(negative, 1 + (x - y) - over(times(y, x - y), 1 + y), fmt, ea - eb)
    return encode(negative, 2 - (y - x) - over(times(1 - y, y - x), 1 + y), fmt, ea - eb - 1)


def rint(value: Fraction, m: int) -> Fraction:
    """To a multiple of 2^-m, half to even."""
    return Fraction(round(value * (1 << m)), 1 << m)


def half(t: Fraction, m: int) -> Fraction:
    """Half of it, rounded down to a multiple of 2^-m."""
    return Fraction(math.floor(t / 2 * (1 << m)), 1 << m)


def mul_of(a: Float, b: Float, d: Fraction, refined: bool, fmt: Format) -> int:
    negative, kinds = a.negative != b.negative, {a.kind, b.kind}
    if "nan" in kinds or kinds == {"zero", "inf"}:
        return fmt.nan
    if "inf" in kinds:
        return infinity(negative, fmt)
    if "zero" in kinds:
        return zero(negative, fmt)
    if refined:
        return refined_mul(negative, a.magnitude, b.magnitude, fmt)
    return encode_log(negative, log(a.magnitude) + log(b.magnitude) + d, fmt)


def div_of(a: Float, b: Float, d: Fraction, refined: bool, fmt: Format) -> int:
    negative = a.negative != b.negative
    if "nan" in (a.kind, b.kind) or a.kind == b.kind != "finite":
        return fmt.nan
    if a.kind == "inf" or b.kind == "zero":
        return infinity(negative, fmt)
    if a.kind == "zero" or b.kind == "inf":
        return zero(negative, fmt)
    if refined:
        return refined_div(negative, a.magnitude, b.magnitude, fmt)
    return encode_log(negative, log(a.magnitude) - log(b.magnitude) + d, fmt)


def root_of(op: str, a: Float, d: Fraction, refined: bool, fmt: Format) -> int:
    if a.kind == "zero":
        return zero(a.negative, fmt) if op == "sqrt" else infinity(a.negative, fmt)
    if a.kind == "nan" or a.negative:
        return fmt.nan
    if a.kind == "inf":
        return infinity(False, fmt) if op == "sqrt" else zero(False, fmt)
    sign = 1 if op == "sqrt" else -1
    if not refined:
        return encode_log(False, half(sign * log(a.magnitude), fmt.m) + d, fmt)
    m = fmt.scale.m
    return encode(False, antilog(refine_exp(half(sign * refine_log(log(a.magnitude), m), m), m)), fmt)


def log2_of(a: Float, d: Fraction, refined: bool, fmt: Format) -> int:
    if a.kind == "zero":
        return infinity(True, fmt)
    if a.kind == "nan" or a.negative:
        return fmt.nan
    if a.kind == "inf":
        return infinity(False, fmt)
    value = refine_log(log(a.magnitude), fmt.scale.m) if refined else log(a.magnitude) + d
    # Only the refined value is rounded by way of float32.
    value = value if refined else rounded(value, fmt.m)
    return encode(value < 0, abs(value), fmt)


def exp2_of(x: Float, d: Fraction, refined: bool, fmt: Format) -> int:
    if x.kind == "nan":
        return fmt.nan
    if x.kind == "inf" or x.magnitude > 2**20:
        return zero(False, fmt) if x.negative else infinity(False, fmt)
    m = fmt.scale.m
    t = rint(-x.magnitude if x.negative else x.magnitude, m)
    return encode(False, antilog(refine_exp(t, m) if refined else t + d), fmt)


def pow_of(a: Float, p: Float, d: Fraction, log_d: Fraction, refined: bool, fmt: Format) -> int:
    whole = p.magnitude.denominator == 1
    if p.kind != "finite" or a.kind != "finite" or float(a) == 1 or (a.negative and not whole):
        # None of these has any other value than that of IEEE.
        with np.errstate(all="ignore"):
            value = float(np.power(float(a), float(p)))
        if math.isnan(value):
            return fmt.nan
        negative = math.copysign(1, value) < 0
        if value and not math.isinf(value):
            assert value == 1
            return encode(negative, Fraction(1), fmt)
        return infinity(negative, fmt) if value else zero(negative, fmt)
    m = fmt.scale.m
    logarithm = refine_log(log(a.magnitude), m) if refined else log(a.magnitude) + log_d
    units = logarithm * (1 << m)
    assert units.denominator == 1
    t = (pow_log_double if m == F64.m else pow_log_single)(units.numerator, float(p), m)
    negative = a.negative and p.magnitude.numerator % 2 == 1
    if abs(t) > 2**20:
        return zero(negative, fmt) if t < 0 else infinity(negative, fmt)
    return encode(negative, antilog(refine_exp(t, m) if refined else t + d), fmt)


def pow_log_single(units: int, p: float, m: int) -> Fraction:
    """p times the logarithm, with one rounding to a double, and then to 2^-m."""
    return Fraction(round(Fraction(float(units) * p)), 1 << m)


def pow_log_double(units: int, p: float, m: int) -> Fraction:
    """The same where a double has no bit to spare: the logarithm's whole number and its rest in turn."""
    e, mantissa = units >> m, units & ((1 << m) - 1)
    if mantissa >> (m - 1):
        e, mantissa = e + 1, mantissa - (1 << m)
    t1 = min(max(p * float(e), -4300.0), 4300.0)
    t2 = min(max(p * math.ldexp(mantissa, -m), -2150.0), 2150.0)
    rest = (t1 - round(t1)) + (t2 - round(t2))
    whole = min(max(round(t1) + round(t2) + round(rest), -1074), 1074)
    return whole + rint(Fraction(rest) - round(rest), m)


def float_bits(op: str, correction: Any, fmt: Format, a: int, b: int = 0) -> int:
    """The bits of one result; where a bias comes in, it is rounded to units of the last place."""
    left, right = decode(a, fmt), decode(b, fmt)
    d, log_d = rint(bias(op, correction), fmt.m), rint(log_bias(correction), fmt.m)
    refined = correction == "refined"
    if op == "mul":
        return mul_of(left, right, d, refined, fmt)
    if op == "square":
        return mul_of(left, left, d, refined, fmt)
    if op == "div":
        return div_of(left, right, d, refined, fmt)
    if op == "reciprocal":
        return div_of(Float(False, "finite", Fraction(1)), left, d, refined, fmt)
    if op in ("sqrt", "rsqrt"):
        return root_of(op, left, d, refined, fmt)
    if op == "log2":
        return log2_of(left, d, refined, fmt)
    if op == "exp2":
        return exp2_of(left, d, refined, fmt)
    return pow_of(left, right, d, log_d, refined, fmt)


def magnitude_product(a: int, b: int, op: str, correction: Any) -> int:
    """The product of two integers that are not negative, of any size."""
    if not a or not b:
        return 0
    k1, k2 = a.bit_length() - 1, b.bit_length() - 1
    top = 1 << (k1 + k2)
    x, y = Fraction(a, 1 << k1) - 1, Fraction(b, 1 << k2) - 1
    if correction != "refined":
        return math.floor(top * antilog(x + y + rint(bias(op, correction), 23)))
    if x + y < 1:
        rest = magnitude_product(a - (1 << k1), b - (1 << k2), op, None)
        return math.floor(top * (1 + x + y)) + rest
    rest = magnitude_product((2 << k1) - a, (2 << k2) - b, op, None)
    return math.floor(2 * top * (x + y)) + rest


def integer_product(a: int, b: int, op: str, correction: Any, dtype: Any = None) -> int:
    """The product, which wraps as the dtype does if one is given."""
    product = magnitude_product(abs(a), abs(b), op, correction)
    product = -product if (a < 0) != (b < 0) else product
    if dtype is None:
        return product
    bits = 8 * np.dtype(dtype).itemsize
    product %= 1 << bits
    return product - (1 << bits) if np.dtype(dtype).kind == "i" and product >> (bits - 1) else product


# ---- in bulk: exponents and mantissas in arrays of int64


@dataclass
class Parts:
    """Of an array of floats: signs, exponents and mantissas as if all were normal, and which of them are not."""

    negative: np.ndarray
    e: np.ndarray
    mantissa: np.ndarray
    zero: np.ndarray
    inf: np.ndarray
    nan: np.ndarray


def format_of(dtype: Any) -> Format:
    return FORMATS[np.dtype(dtype).name]


def split(bits: np.ndarray, fmt: Format) -> Parts:
    negative = bits >= fmt.sign
    rest = (bits & fmt.word.type(fmt.sign - 1)).astype(np.int64)
    e, mantissa = rest >> fmt.m, rest & ((1 << fmt.m) - 1)
    special, small = e == 2 * fmt.bias + 1, e == 0
    # frexp of an integer below 2^53 is exact.
    shift = np.where(small & (mantissa > 0), fmt.m + 1 - np.frexp(mantissa.astype(np.float64))[1], 0)
    return Parts(
        negative,
        np.where(small, 1 - shift, e) - fmt.bias,
        (mantissa << shift) & ((1 << fmt.m) - 1),
        small & (mantissa == 0),
        special & (mantissa == 0),
        special & (mantissa > 0),
    )


def join(negative: Any, e: Any, mantissa: Any, fmt: Format) -> np.ndarray:
    """Bits of finite results; mantissas may be out of their range, by less than 2^62 units."""
    negative, e, mantissa = np.broadcast_arrays(negative, e, mantissa)
    e = e + (mantissa >> fmt.m)
    bits = np.clip(e + fmt.bias, 0, 2 * fmt.bias + 1) << fmt.m
    bits = bits | (mantissa & ((1 << fmt.m) - 1))
    bits = np.where(e < 1 - fmt.bias, 0, np.where(e > fmt.bias, fmt.inf, bits))
    return bits.astype(fmt.word) | np.where(negative, fmt.sign, 0).astype(fmt.word)


def join_value(negative: Any, value: np.ndarray, e: Any, fmt: Format) -> np.ndarray:
    """Bits of value * 2^e, rounded to the format; the values are doubles, not negative."""
    fraction, more = np.frexp(value.astype(np.float64))
    units = np.rint(np.ldexp(fraction, fmt.m + 1)).astype(np.int64)
    bits = join(negative, e + more.astype(np.int64) - 1, units - (1 << fmt.m), fmt)
    return np.where(value == 0, np.where(negative, fmt.sign, 0).astype(fmt.word), bits)


def bulk_product(x: np.ndarray, y: np.ndarray, sign: int = 1) -> np.ndarray:
    """Plain products (or quotients) of floats, none of them special, in their own format."""
    fmt = format_of(x.dtype)
    a, b = split(x.view(fmt.word), fmt), split(y.view(fmt.word), fmt)
    bits = join(False, a.e + sign * b.e, a.mantissa + sign * b.mantissa, fmt).view(x.dtype)
    return np.where((x == 0) | (y == 0), x.dtype.type(0), bits)


def refine_bulk(mantissa: np.ndarray, m: int, sign: int) -> np.ndarray:
    """Units of 2^-m, after the second pass of a logarithm (sign 1) or antilogarithm (sign -1)."""
    dtype = np.dtype(np.float32 if m == F32.m else np.float64)
    x = np.ldexp(mantissa.astype(dtype), -m)
    term = bulk_product(x, dtype.type(1) - x) * dtype.type(3 * 2 ** (m - 3))
    return mantissa + sign * np.rint(term).astype(np.int64)


def wide(parts: Parts, fmt: Format) -> tuple[np.ndarray, np.ndarray]:
    """Mantissas at the scale of the refined method, as integers and as floats."""
    mantissa = parts.mantissa << (fmt.scale.m - fmt.m)
    return mantissa, np.ldexp(mantissa.astype(fmt.scale.name), -fmt.scale.m)


def bulk_mul(a: Parts, b: Parts, off: int, refined: bool, fmt: Format) -> np.ndarray:
    negative = a.negative != b.negative
    if refined:
        x, y = wide(a, fmt)[1], wide(b, fmt)[1]
        s, one, two = x + y, x.dtype.type(1), x.dtype.type(2)
        r = np.where(s < 1, (one + s) + bulk_product(x, y), two * s + bulk_product(one - x, one - y))
        bits = join_value(negative, r, a.e + b.e, fmt)
    else:
        bits = join(negative, a.e + b.e, a.mantissa + b.mantissa + off, fmt)
    sign = np.where(negative, fmt.sign, 0).astype(fmt.word)
    bits = np.where(a.zero | b.zero, sign, bits)
    bits = np.where(a.inf | b.inf, sign | fmt.word.type(fmt.inf), bits)
    return np.where(a.nan | b.nan | (a.zero & b.inf) | (a.inf & b.zero), fmt.word.type(fmt.nan), bits)


def bulk_div(a: Parts, b: Parts, off: int, refined: bool, fmt: Format) -> np.ndarray:
    negative = a.negative != b.negative
    if refined:
        x, y = wide(a, fmt)[1], wide(b, fmt)[1]
        x, y = np.broadcast_arrays(x, y)
        one, two, down = x.dtype.type(1), x.dtype.type(2), x < y
        gap = np.abs(x - y)
        dropped = bulk_product(bulk_product(np.where(down, one - y, y), gap), one + y, -1)
        r = np.where(down, two - gap, one + gap) - dropped
        bits = join_value(negative, r, a.e - b.e - down, fmt)
    else:
        bits = join(negative, a.e - b.e, a.mantissa - b.mantissa + off, fmt)
    sign = np.where(negative, fmt.sign, 0).astype(fmt.word)
    bits = np.where(a.zero | b.inf, sign, bits)
    bits = np.where(a.inf | b.zero, sign | fmt.word.type(fmt.inf), bits)
    return np.where(a.nan | b.nan | (a.zero & b.zero) | (a.inf & b.inf), fmt.word.type(fmt.nan), bits)


def ones(like: Parts) -> Parts:
    no = np.zeros(like.e.shape, bool)
    return Parts(no, np.zeros_like(like.e), np.zeros_like(like.e), no, no, no)


def bulk_root(op: str, a: Parts, off: int, refined: bool, fmt: Format) -> np.ndarray:
    sign, m = (1 if op == "sqrt" else -1), fmt.scale.m if refined else fmt.m
    mantissa = refine_bulk(wide(a, fmt)[0], m, 1) if refined else a.mantissa
    e = sign * a.e
    mantissa = ((e & 1) * (1 << m) + sign * mantissa) >> 1
    e = (e >> 1) + (mantissa >> m)
    mantissa &= (1 << m) - 1
    if refined:
        bits = join_value(False, 1 + np.ldexp(refine_bulk(mantissa, m, -1).astype(np.float64), -m), e, fmt)
    else:
        bits = join(False, e, mantissa + off, fmt)
    signed = np.where(a.negative, fmt.sign, 0).astype(fmt.word)
    bits = np.where(a.negative | a.nan, fmt.word.type(fmt.nan), bits)
    bits = np.where(a.inf & ~a.negative, fmt.word.type(fmt.inf if op == "sqrt" else 0), bits)
    return np.where(a.zero, signed | fmt.word.type(0 if op == "sqrt" else fmt.inf), bits)


def bulk_log2(a: Parts, off: int, refined: bool, fmt: Format) -> np.ndarray:
    m = fmt.scale.m if refined else fmt.m
    units = refine_bulk(wide(a, fmt)[0], m, 1) if refined else a.mantissa + off
    # Both terms are exact, so that the sum is rounded once (and is exact but for float64).
    value = (a.e + (units >> m)).astype(np.float64) + np.ldexp((units & ((1 << m) - 1)).astype(np.float64), -m)
    value = value.astype(fmt.scale.name) if refined else value
    bits = join_value(value < 0, np.abs(value), 0, fmt)
    bits = np.where(a.negative | a.nan, fmt.word.type(fmt.nan), bits)
    bits = np.where(a.inf & ~a.negative, fmt.word.type(fmt.inf), bits)
    return np.where(a.zero, fmt.word.type(fmt.inf | fmt.sign), bits)


def value_of(parts: Parts, fmt: Format) -> np.ndarray:
    """As doubles."""
    e = np.where(parts.inf | parts.nan, 0, parts.e)
    value = np.ldexp(1 + np.ldexp(parts.mantissa.astype(np.float64), -fmt.m), e)
    value = np.where(parts.zero, 0.0, np.where(parts.inf, np.inf, np.where(parts.nan, np.nan, value)))
    return np.where(parts.negative, -value, value)


def bulk_antilog(negative: Any, e: Any, units: np.ndarray, off: int, refined: bool, fmt: Format) -> np.ndarray:
    """2^e times the antilogarithm of units of the last place of the scale."""
    m = fmt.scale.m
    units = units if refined else units + (off << (m - fmt.m))
    e, mantissa = e + (units >> m), units & ((1 << m) - 1)
    mantissa = refine_bulk(mantissa, m, -1) if refined else mantissa
    return join_value(negative, 1 + np.ldexp(mantissa.astype(np.float64), -m), e, fmt)


def bulk_exp2(x: Parts, off: int, refined: bool, fmt: Format) -> np.ndarray:
    m = fmt.scale.m
    t = np.clip(np.where(x.nan, 0.0, value_of(x, fmt)), -1900.0, 1900.0)
    bits = bulk_antilog(False, 0, np.rint(np.ldexp(t, m)).astype(np.int64), off, refined, fmt)
    return np.where(x.nan, fmt.word.type(fmt.nan), bits)


def bulk_pow(a: Parts, p: Parts, off: int, log_off: int, refined: bool, fmt: Format) -> np.ndarray:
    m, mantissa = fmt.scale.m, wide(a, fmt)[0]
    units = refine_bulk(mantissa, m, 1) if refined else mantissa + (log_off << (m - fmt.m))
    e, mantissa = a.e + (units >> m), units & ((1 << m) - 1)
    exponent = value_of(p, fmt)
    with np.errstate(all="ignore"):
        ieee = np.power(value_of(a, fmt), exponent)
        odd = np.fmod(exponent, 2.0)
        finite = np.where(p.inf | p.nan, 0.0, exponent)
        if m == F64.m:
            upper = mantissa >> (m - 1)
            e, mantissa = e + upper, mantissa - (upper << m)
            t1 = np.clip(finite * e.astype(np.float64), -4300.0, 4300.0)
            t2 = np.clip(finite * np.ldexp(mantissa.astype(np.float64), -m), -2150.0, 2150.0)
            rest = (t1 - np.rint(t1)) + (t2 - np.rint(t2))
            whole = np.clip(np.rint(t1) + np.rint(t2) + np.rint(rest), -1074, 1074).astype(np.int64)
            units = np.rint(np.ldexp(rest - np.rint(rest), m)).astype(np.int64)
        else:
            t = finite * ((e << m) + mantissa).astype(np.float64)
            whole, units = np.int64(0), np.rint(np.clip(t, -(2.0**45), 2.0**45)).astype(np.int64)
    bits = bulk_antilog(a.negative & (np.abs(odd) == 1), whole, units, off, refined, fmt)
    one = (a.e == 0) & (a.mantissa == 0) & ~(a.negative | a.zero | a.inf | a.nan)
    fractional = a.negative & (np.trunc(exponent) != exponent)
    special = a.zero | a.inf | a.nan | p.zero | p.inf | p.nan | one | fractional
    plain = join_value(np.signbit(ieee), np.where(np.isfinite(ieee), np.abs(ieee), 1.0), 0, fmt)
    plain = np.where(np.isinf(ieee), np.where(ieee < 0, fmt.sign, 0).astype(fmt.word) | fmt.word.type(fmt.inf), plain)
    return np.where(special, np.where(np.isnan(ieee), fmt.word.type(fmt.nan), plain), bits)


def bulk_bits(op: str, correction: Any, fmt: Format, *bits: np.ndarray) -> np.ndarray:
    """Bits of the results for arrays of bits."""
    off = round(bias(op, correction) * (1 << fmt.m))
    refined, operands = correction == "refined", [split(np.asarray(word, fmt.word), fmt) for word in bits]
    first, last = operands[0], operands[-1]
    if op in ("mul", "square"):
        return bulk_mul(first, last, off, refined, fmt)
    if op == "div":
        return bulk_div(first, last, off, refined, fmt)
    if op == "reciprocal":
        return bulk_div(ones(first), first, off, refined, fmt)
    if op in ("sqrt", "rsqrt"):
        return bulk_root(op, first, off, refined, fmt)
    if op == "log2":
        return bulk_log2(first, off, refined, fmt)
    if op == "exp2":
        return bulk_exp2(first, off, refined, fmt)
    return bulk_pow(first, last, off, round(log_bias(correction) * (1 << fmt.m)), refined, fmt)


def small_product(a: Any, b: Any, op: str = "mul", correction: Any = None) -> np.ndarray:
    """Products of integers of up to 16 bits, as int64, which do not wrap."""
    a, b = np.broadcast_arrays(np.asarray(a, np.int64), np.asarray(b, np.int64))
    u, v = np.abs(a), np.abs(b)
    k1, k2 = (np.frexp(np.maximum(w, 1).astype(np.float64))[1].astype(np.int64) - 1 for w in (u, v))
    x, y, one = u - (1 << k1), v - (1 << k2), np.int64(1)
    s, top = (x << k2) + (y << k1), one << (k1 + k2)
    if correction == "refined":
        low, high = small_product(x, y), small_product((2 << k1) - u, (2 << k2) - v)
        product = np.where(s < top, top + s + low, 2 * s + high)
    else:
        t = (s << (40 - k1 - k2)) + (round(bias(op, correction) * 2**23) << 17)
        product = ((one << 40) + (t & ((one << 40) - 1))) >> (40 - (t >> 40) - k1 - k2)
    product = np.where((u == 0) | (v == 0), 0, product)
    return np.where((a < 0) != (b < 0), -product, product)


def is_integer(dtype: Any) -> bool:
    return np.dtype(dtype).kind in "iu"


def expected(op: str, correction: Any, *operands: Any) -> np.ndarray:
    """What a ufunc returns for arrays of one dtype, in bulk."""
    arrays = np.broadcast_arrays(*(np.asarray(operand) for operand in operands))
    dtype = arrays[0].dtype
    if not is_integer(dtype):
        fmt = format_of(dtype)
        bits = bulk_bits(op, correction, fmt, *(np.ascontiguousarray(a).view(fmt.word) for a in arrays))
        return bits.view(dtype).reshape(arrays[0].shape)
    first, last = arrays[0], arrays[-1]
    if dtype.itemsize <= 2:
        return small_product(first, last, op, correction).astype(dtype)
    pairs = zip(first.ravel().tolist(), last.ravel().tolist(), strict=True)
    return np.array([integer_product(a, b, op, correction, dtype) for a, b in pairs], dtype).reshape(first.shape)


# ---- matrices


def terms(correction: Any = None) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Products of elements of matrices: float64 in its own format, integers without wrap, all else in float32."""

    def multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        if is_integer(a.dtype):
            return small_product(a, b, "mul", correction)
        dtype = np.float64 if a.dtype == np.float64 else np.float32
        with np.errstate(invalid="ignore"):  # of the NaNs that signal
            a, b = a.astype(dtype), b.astype(dtype)
        return expected("mul", correction, a, b)

    return multiply


def matmul_oracle(
    a: np.ndarray, b: np.ndarray, mul: Callable[[np.ndarray, np.ndarray], np.ndarray], accumulate_dtype: Any
) -> np.ndarray:
    """Sums in order from the first k on, beginning at +0, with a rounding (or a wrap) after each addition."""
    dtype = np.dtype(accumulate_dtype)
    total = np.zeros((a.shape[0], b.shape[1]), dtype)
    with np.errstate(all="ignore"):
        for k in range(a.shape[1]):
            total = total + mul(a[:, k, None], b[None, k, :]).astype(dtype)
    return total if is_integer(dtype) else np.where(np.isnan(total), dtype.type(np.nan), total)
