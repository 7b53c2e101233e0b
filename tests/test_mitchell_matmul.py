"""Mitchell matrix products and convolutions on every backend and level, against sums in order of the oracle's products.

Operands aim at what the kernels do for speed: tiles and blocks, whose edges the sizes hug, and zeros, which the C core
packs as tiny powers of two (or masks out) where the exponents of a block allow it.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mitchell_oracle as oracle
import numpy as np
import pytest
from conftest import running_on, variants
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from mitchell_oracle import FORMATS, NAMED, is_integer
from scipy import signal
from test_mitchell import bit_patterns, bits_of, dtype_of, misaligned, random_bits, same

import fastk
from fastk import mitchell, mitchell_conv2d, mitchell_dot, mitchell_matmul

CORRECTIONS = [None, *NAMED, 0.5, -0.3]
DTYPES = ["float16", "bfloat16", "float32", "float64", "int8", "uint8"]
DTYPES = [name for name in DTYPES if name != "bfloat16" or importlib.util.find_spec("ml_dtypes")]
MIXES = [pair for pair in itertools.product(DTYPES, repeat=2) if set(pair) != {"float16", "bfloat16"}]
SCALES = ["float32", "float64", "int8"]
"""One dtype for each kernel."""

# Tiles have 6 or 8 rows and 8, 16 or 32 columns, or a row of 128; blocks have 192 rows, up to 512 or 64 terms, and 2048
# columns; and a vector is taken in stretches of 256.
ROWS = [*range(1, 10), 12, 13, 191, 192, 193]
COLUMNS = [1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129]
TERMS = [0, 1, 2, 3, 33, 63, 64, 65, 255, 256, 257, 511, 512, 513, 600]
PIECE = 1 << 21
"""Products that are worth a thread."""


@pytest.fixture(params=variants())
def variant(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The public functions, once for each backend and level."""
    with running_on(request.param) as bound:
        monkeypatch.setattr(mitchell, "kernels", bound)
        yield request.param


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """How many threads a call may use, until the test ends."""
    before = fastk.config()["threads"]
    yield fastk.set_num_threads
    fastk.set_num_threads(before)


# ---- what is true


def sum_dtype(*arrays: np.ndarray) -> np.dtype:
    if all(is_integer(array.dtype) for array in arrays):
        return np.dtype(np.int32)
    return np.dtype(np.float64 if np.dtype(np.float64) in [array.dtype for array in arrays] else np.float32)


def product(a: np.ndarray, b: np.ndarray, correction: Any = None) -> np.ndarray:
    """Of two matrices."""
    dtype = sum_dtype(a, b)
    if dtype.kind == "f":
        with np.errstate(invalid="ignore"):  # of the NaNs that signal
            a, b = a.astype(dtype), b.astype(dtype)
    return oracle.matmul_oracle(a, b, oracle.terms(correction), dtype)


def stacked_product(a: np.ndarray, b: np.ndarray, correction: Any = None) -> np.ndarray:
    """With the shapes of numpy.matmul, which are asked of it."""
    shape = np.matmul(np.empty(a.shape, np.int8), np.empty(b.shape, np.int8)).shape
    left, right = a[None] if a.ndim == 1 else a, b[:, None] if b.ndim == 1 else b
    stack = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    left, right = (np.broadcast_to(array, (*stack, *array.shape[-2:])) for array in (left, right))
    full = np.zeros((*stack, left.shape[-2], right.shape[-1]), sum_dtype(a, b))
    for index in np.ndindex(stack):
        full[index] = product(left[index], right[index], correction)
    return full.reshape(shape)


def check(a: np.ndarray, b: np.ndarray, wanted: np.ndarray, correction: Any = None) -> None:
    """The product of two matrices, of their rows and columns, and of their transposes, since products commute."""
    same(mitchell_matmul(a, b, correction=correction), wanted)
    same(mitchell_matmul(b.T, a.T, correction=correction), wanted.T)
    upright = b.copy(order="F")
    for i in {0, len(a) // 2}:
        same(mitchell_matmul(a[i], b, correction=correction), wanted[i])
        same(mitchell_matmul(a[i], upright, correction=correction), wanted[i])
    for j in {0, b.shape[1] - 1}:
        same(mitchell_matmul(a, upright[:, j], correction=correction), wanted[:, j])
    same(mitchell_matmul(a[:3], b[:, :1], correction=correction), wanted[:3, :1])


# ---- operands


def numbers(rng: np.random.Generator, dtype: Any, shape: Any, low: int, high: int) -> np.ndarray:
    """Of either sign, with exponents from low to high, and mantissas of which some are 1, 1.5 or the largest."""
    dtype = np.dtype(dtype)
    mantissa = rng.uniform(1, 2, shape).astype(dtype)
    round_ones = np.array([1, 1.5, np.nextafter(dtype.type(2), dtype.type(1))], dtype)
    mantissa = np.where((rng.random(shape) < 0.4) | (mantissa >= 2), rng.choice(round_ones, shape), mantissa)
    with np.errstate(under="ignore"):
        return np.ldexp(mantissa * rng.choice(np.array([-1, 1], dtype), shape), rng.integers(low, high + 1, shape))


def ordinary(rng: np.random.Generator, name: str, shape: Any) -> np.ndarray:
    """Any integers, or numbers around 1; of the narrow floats too."""
    dtype = dtype_of(name)
    if is_integer(dtype):
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max, shape, dtype, endpoint=True)
    return numbers(rng, np.float32 if dtype.itemsize == 2 else dtype, shape, -4, 3).astype(dtype)


def with_zeros(rng: np.random.Generator, array: np.ndarray, share: float) -> np.ndarray:
    zero = array.dtype.type(0)
    zeros = np.where(rng.random(array.shape) < 0.5, zero, zero if is_integer(array.dtype) else -zero)
    return np.where(rng.random(array.shape) < share, zeros, array).astype(array.dtype)


def frozen(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    for array in arrays:
        array.flags.writeable = False
    return arrays


@functools.cache
def large(name: str, k: int, zeros: float = 0) -> tuple[np.ndarray, ...]:
    """Operands whose corners are used, and the product, of which they are then the corners' products."""
    rng = np.random.default_rng(k)
    a, b = ordinary(rng, name, (ROWS[-1], k)), ordinary(rng, name, (k, COLUMNS[-1]))
    a, b = with_zeros(rng, a, zeros), with_zeros(rng, b, zeros)
    return frozen(a, b, product(a, b))


# ---- sizes


@pytest.mark.parametrize("k", TERMS)
@pytest.mark.parametrize("name", SCALES)
def test_sizes(variant, name, k):
    a, b, wanted = large(name, k)
    every = k in (2, 33, 513)
    for m in ROWS if every else [1, 3, 6, 7, 193]:
        for n in COLUMNS if every else [1, 2, 16, 33, 65, 129]:
            same(mitchell_matmul(a[:m], b[:, :n]), wanted[:m, :n])
            if not every:
                # Packed otherwise.
                same(mitchell_matmul(a[:m].copy(order="F"), b[:, :n].copy(order="F")), wanted[:m, :n])


@pytest.mark.parametrize("k", [7, 40, 513])
@pytest.mark.parametrize("name", SCALES)
def test_sizes_with_zeros(variant, name, k):
    a, b, wanted = large(name, k, 0.1)
    for m, n in itertools.product([1, 2, 3, 6, 7, 8, 9, 193], [1, 2, 8, 16, 17, 33, 64, 129]):
        same(mitchell_matmul(a[:m], b[:, :n]), wanted[:m, :n])


@functools.cache
def wide(name: str) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(1)
    a, b = ordinary(rng, name, (3, 520)), with_zeros(rng, ordinary(rng, name, (520, 2200)), 0.001)
    return frozen(a, b, product(a, b), product(a[:, :5], b[:5]))


@pytest.mark.parametrize("name", SCALES)
def test_many_columns(variant, name):
    a, b, wanted, of_five = wide(name)
    for n in (2047, 2048, 2049, 2065, 2200):
        same(mitchell_matmul(a, b[:, :n]), wanted[:, :n])
        for few in (1, 3):
            same(mitchell_matmul(a[:few, :5], b[:5, :n]), of_five[:few, :n])
    # Products commute: the same as rows.
    same(mitchell_matmul(b.T, a.T), wanted.T)


# ---- zeros and what comes near them


@dataclass(frozen=True)
class Limits:
    """Exponents: of what stands for a zero in the C core; of what that may meet, from least up and below most; above
    which the others' products must be; and below which a sum is nothing. `far` is how far beyond the middle three an
    error would show.
    """

    tiny: int
    least: int
    most: int
    floor: int
    nothing: int
    far: tuple[int, int, int]


LIMITS = {
    "float32": Limits(-99, -26, 14, -34, -60, (-30, 5, -5)),
    "float64": Limits(-620, -300, 200, -300, -360, (-150, 30, -12)),
}
M, N = 13, 37

Pair = tuple[np.ndarray, np.ndarray]


def cancelling(rng: np.random.Generator, a: np.ndarray, b: np.ndarray) -> Pair:
    """Every other product is what the one before was, less; or one unit in the last place off that."""
    even = a.shape[1] // 2 * 2
    a, b = a.copy(), b.copy()
    b[1:even:2] = b[0:even:2]
    back = -a[:, 0:even:2]
    with np.errstate(invalid="ignore"):
        off = np.nextafter(back, a.dtype.type(0))
    a[:, 1:even:2] = np.where((rng.random(back.shape) < 0.2) & (off != 0), off, back)
    return a, b


def apart(rng: np.random.Generator, pair: Pair, fill: Pair, where: str) -> Pair:
    """Terms with zeros in between: zeros in "a", "b", "either" or "both", beside elements of the fill."""
    a, b = pair
    k, most = a.shape[1], fill[0].shape[1]
    at = np.sort(rng.choice(most, k, replace=False))
    between = np.ones(most, bool)
    between[at] = False
    share = {"a": 1, "b": 0, "both": 1, "either": 0.5}[where]
    in_a = between & (rng.random(most) < share)
    in_b = between if where == "both" else between & ~in_a
    left, right = np.where(in_a, a.dtype.type(0), fill[0]), np.where(in_b[:, None], b.dtype.type(0), fill[1])
    left[:, at], right[at] = a, b
    return np.where(left == 0, np.copysign(left, fill[0]), left), right


def terms_between_zeros(
    rng: np.random.Generator, dtype: str, a: tuple[int, int], b: tuple[int, int], where: str, terms: int = 14
) -> Pair:
    """With exponents in these ranges. Products are small, and beside zeros there are large numbers, and some small."""
    pair = [numbers(rng, dtype, (M, terms), a[0], a[0] + 1), numbers(rng, dtype, (terms, N), b[0], b[0] + 1)]
    fill = numbers(rng, dtype, (M, 2 * terms), a[1] - 1, a[1]), numbers(rng, dtype, (2 * terms, N), b[1] - 1, b[1])
    small = rng.random(2 * terms) < 0.25
    fill[0][:, small] = numbers(rng, dtype, (M, small.sum()), a[0], a[0] + 1)
    fill[1][small] = numbers(rng, dtype, (small.sum(), N), b[0], b[0] + 1)
    return apart(rng, cancelling(rng, *pair), fill, where)


@functools.cache
def thresholds(name: str, where: str) -> list[tuple[np.ndarray, ...]]:
    """Exponents of the operands on both sides of each limit, and what the products are."""
    limits, cases = LIMITS[name], []
    rng = np.random.default_rng(len(where))
    offsets = zip([(-1, 0, 1), (-1, 0), (0, 1, 2)], limits.far, strict=True)
    for least, most, floor in itertools.product(*((*near, far) for near, far in offsets)):
        other = limits.least + least, limits.most + most
        own = limits.floor + floor - other[0], limits.floor + floor - other[0] + 9
        ranges = (own, other) if where != "b" else (other, own)
        a, b = terms_between_zeros(rng, name, *ranges, where)
        for correction in (None, 0.5, -0.5):
            cases.append((*frozen(a, b, product(a, b, correction)), correction))
    return cases


@pytest.mark.parametrize("where", ["a", "b", "either", "both"])
@pytest.mark.parametrize("name", LIMITS)
def test_zeros_among_numbers_at_the_limits(variant, name, where):
    for a, b, wanted, correction in thresholds(name, where):
        check(a, b, wanted, correction)


@functools.cache
def blocks(name: str, first: int, where: str) -> tuple[Any, ...]:
    """A block of 512 whose products have this exponent, and then one with zeros among ordinary numbers, or alone."""
    rng, limits = np.random.default_rng(first % 1000), LIMITS[name]
    low = first // 2
    a, b = numbers(rng, name, (M, 512), low, low), numbers(rng, name, (512, N), first - low, first - low)
    a, b = cancelling(rng, a, b)
    # Rows that stop early, or whose sums of the first block are nothing.
    a[1, 2:], a[2, 1:], a[3] = 0, 0, 0
    a[5, -1] = 0
    own, other = (0, 3), (limits.least + 1, limits.most - 1)
    after_a, after_b = terms_between_zeros(rng, name, *((own, other) if where == "a" else (other, own)), where, 300)
    if where == "a":
        after_a[::3] = 0
    else:
        after_b[:, ::3] = 0
    a, b = np.hstack([a, after_a[:, :512]]), np.vstack([b, after_b[:512]])
    return (*frozen(a, b), [(correction, *frozen(product(a, b, correction))) for correction in (None, 0.5)])


@pytest.mark.parametrize("where", ["a", "b"])
@pytest.mark.parametrize("name", LIMITS)
def test_zeros_after_a_block_of_small_sums(variant, name, where):
    limits = LIMITS[name]
    for first in (limits.floor, limits.floor - 1, limits.nothing + 1, limits.nothing, 2 * limits.nothing, limits.tiny):
        a, b, results = blocks(name, first, where)
        for correction, wanted in results:
            check(a, b, wanted, correction)
            same(mitchell_matmul(a[1:4], b[:, :1], correction=correction), wanted[1:4, :1])


@functools.cache
def of_the_tiny(name: str, where: str, correction: Any) -> list[tuple[np.ndarray, ...]]:
    """Numbers with the very bits that stand for a zero, with this correction or without, and their neighbours."""
    fmt, limits = FORMATS[name], LIMITS[name]
    rng = np.random.default_rng(4)
    tiny = (limits.tiny + fmt.bias) << fmt.m
    shift = round(oracle.bias("mul", correction) * 2**fmt.m)
    near = [tiny + d + more for d in (0, shift, -shift) for more in (-1, 0, 1, -(1 << fmt.m), 1 << fmt.m, 2 << fmt.m)]
    cases = []
    # The other operand's products with them are small, or as large as those of other numbers.
    ranges = (-3, 3), (limits.floor - limits.tiny + 2, limits.floor - limits.tiny + 9)
    for (low, high), own, least in itertools.product(ranges, (0, 1), (0, min(tiny, tiny - shift))):
        some = [bits | sign for bits in near if bits >= least for sign in (0, fmt.sign)]
        values = np.array(some, fmt.word).view(name)
        shapes = [(M, 16), (16, N)]
        pair = [numbers(rng, name, shape, low, high) for shape in shapes]
        fill = [numbers(rng, name, shape, low, high) for shape in [(M, 32), (32, N)]]
        pair[own], fill[own] = rng.choice(values, shapes[own]), rng.choice(values, fill[own].shape)
        a, b = apart(rng, (pair[0], pair[1]), (fill[0], fill[1]), where)
        cases.append(frozen(a, b, product(a, b, correction)))
    return cases


@pytest.mark.parametrize("correction", CORRECTIONS)
@pytest.mark.parametrize("where", ["a", "b", "either", "both"])
@pytest.mark.parametrize("name", LIMITS)
def test_numbers_like_what_stands_for_a_zero(variant, name, where, correction):
    for a, b, wanted in of_the_tiny(name, where, correction):
        check(a, b, wanted, correction)


@functools.cache
def many_zeros(name: str, correction: Any) -> list[tuple[np.ndarray, ...]]:
    """Rows of zeros but for a few numbers that cancel, beside the largest and the smallest that zeros may meet."""
    limits, most = LIMITS[name], 512
    a, cases = np.zeros((9, most), name), []
    a[1, [0, -1]] = 1.5, -1.5
    a[2, [100, 300]] = -1.25, 1.25
    a[3, [0, 1]] = 1.5, np.nextafter(np.dtype(name).type(-1.5), a.dtype.type(0))
    a[4, [-2, -1]] = a[3, [0, 1]]
    a[5, ::2], a[6, 5] = 1, 1
    largest = np.nextafter(a.dtype.type(2.0**limits.most), a.dtype.type(0))
    for size in (largest, -largest, a.dtype.type(2.0 ** max(limits.least, limits.floor + 1))):
        b = np.full((most, 3), size, name)
        b[:, 1] *= 0.25
        cases.append((a, b, product(a, b, correction)))
    return cases


@pytest.mark.parametrize("correction", [None, 0.5])
@pytest.mark.parametrize("name", LIMITS)
def test_many_zeros(variant, name, correction):
    for a, b, wanted in many_zeros(name, correction):
        check(a, b, wanted, correction)
        assert (wanted[:3] == 0).all()
        assert (wanted[3:7] != 0).all()


def test_all_signs_of_nothing(variant):
    for name in ("float32", "float64"):
        zero, one = np.zeros((3, 40), name), np.ones((40, 17), name)
        for a, b in itertools.product((zero, -zero), (one, -one, one * 0, -one * 0)):
            same(mitchell_matmul(a, b), np.zeros((3, 17), name))
        a = np.ones((3, 40), name)
        a[:, 1::2] = -1
        same(mitchell_matmul(a, one), np.zeros((3, 17), name))


# ---- operands of all kinds


def special_cases(name: str, m: int = M, k: int = 40, n: int = N) -> dict[str, Callable[[np.random.Generator], Pair]]:
    """What may be among ordinary numbers."""
    fmt = FORMATS[name]
    largest = fmt.bias

    def usual(rng: np.random.Generator) -> Pair:
        return numbers(rng, name, (m, k), -4, 3), numbers(rng, name, (k, n), -4, 3)

    def among(*values: float, left: float = 0, right: float = 0, zeros: float = 0) -> Callable[..., Pair]:
        def make(rng: np.random.Generator) -> Pair:
            pair = []
            for array, share in zip(usual(rng), (left, right), strict=True):
                array = with_zeros(rng, array, zeros)
                drawn = rng.choice(np.array(values, name), array.shape)
                pair.append(np.where(rng.random(array.shape) < share, drawn, array))
            if not (left or right):  # one of them, once
                pair[0][rng.integers(m), rng.integers(k)] = values[0]
            return pair[0], pair[1]

        return make

    def lines_of_zeros(rng: np.random.Generator) -> Pair:
        a, b = usual(rng)
        a[2::4], b[:, ::3], a[:, 5:9], b[20:30] = 0, 0, 0, -0.0
        return a, b

    def of_exponents(a: tuple[int, int], b: tuple[int, int], zeros: float = 0) -> Callable[..., Pair]:
        def make(rng: np.random.Generator) -> Pair:
            pair = numbers(rng, name, (m, k), *a), numbers(rng, name, (k, n), *b)
            return with_zeros(rng, pair[0], zeros), with_zeros(rng, pair[1], zeros)

        return make

    def any_bits(wild: float) -> Callable[..., Pair]:
        def make(rng: np.random.Generator) -> Pair:
            a, b = random_bits(fmt, m * k, rng, wild).view(name), random_bits(fmt, k * n, rng, wild).view(name)
            return a.reshape(m, k), b.reshape(k, n)

        return make

    least, half = 1 - fmt.bias, fmt.bias // 2
    subnormal = [float(np.ldexp(1.0, least - d)) for d in (1, 2, fmt.m)]
    return {
        "zeros in both": among(0.0, -0.0, left=0.2, right=0.2),
        "one inf": among(math.inf),
        "one nan": among(math.nan),
        "inf and zeros": among(math.inf, zeros=0.2),
        "infinities": among(math.inf, -math.inf, left=0.01, right=0.003),
        "infinities and zeros": among(math.inf, -math.inf, 0.0, left=0.01, right=0.1),
        "nans and zeros": among(math.nan, 0.0, left=0.01, right=0.1),
        "rows and columns of zeros": lines_of_zeros,
        "subnormals": among(*subnormal, left=0.1, right=0.1),
        "subnormals and zeros": among(*subnormal, left=0.1, right=0.1, zeros=0.1),
        "subnormals against large ones": of_exponents((least - fmt.m, least), (largest - fmt.m - 3, largest)),
        "both ends": of_exponents((least, largest), (least, largest)),
        "both ends and zeros": of_exponents((least, largest), (least, largest), 0.1),
        "at the lower end": of_exponents((-half - 2, -half + 3), (-half - 2, -half + 3)),
        "at the upper end": of_exponents((half - 2, half + 1), (half - 2, half + 1)),
        "sums at the upper end": of_exponents((half - 2, half), (half - 1, half - 1)),
        "sums at the upper end, with zeros": of_exponents((half - 2, half), (half - 1, half - 1), 0.2),
        "some of any bits": any_bits(0.003),
        "many of any bits": any_bits(0.05),
        "any bits": any_bits(1.0),
    }


@functools.cache
def special(name: str, case: str) -> tuple[Any, ...]:
    a, b = special_cases(name)[case](np.random.default_rng(len(case)))
    return (*frozen(a, b), {correction: frozen(product(a, b, correction))[0] for correction in CORRECTIONS})


@functools.cache
def special_vector(name: str, case: str) -> tuple[Any, ...]:
    """Of a length and a width that are more than is taken at once."""
    a, b = special_cases(name, 1, 300, 140)[case](np.random.default_rng(len(case)))
    return (*frozen(a, b), {correction: frozen(product(a, b, correction))[0] for correction in (None, -0.3, "refined")})


@pytest.mark.parametrize("case", special_cases("float32"))
@pytest.mark.parametrize("name", LIMITS)
def test_operands_of_all_kinds(variant, name, case):
    for a, b, results in (special(name, case), special_vector(name, case)):
        for correction, wanted in results.items():
            check(a, b, wanted, correction)


@functools.cache
def at_the_ends(name: str) -> list[tuple[Any, ...]]:
    """Products whose least or largest exponent is just inside the range of normal numbers, or just outside."""
    fmt, rng, cases = FORMATS[name], np.random.default_rng(9), []
    for off, zeros, correction in itertools.product(range(-3, 4), (0, 0.1), (None, 0.5, -0.5)):
        for end, width in ((1 - fmt.bias, 2), (fmt.bias, -2)):
            first = end // 2
            ranges = [sorted((at, at + width)) for at in (first, end + off - first)]
            a, b = numbers(rng, name, (M, 12), *ranges[0]), numbers(rng, name, (12, N), *ranges[1])
            a = with_zeros(rng, a, zeros)
            cases.append((*frozen(a, b, product(a, b, correction)), correction))
    return cases


@pytest.mark.parametrize("name", LIMITS)
def test_products_at_the_ends_of_the_range(variant, name):
    for a, b, wanted, correction in at_the_ends(name):
        check(a, b, wanted, correction)


def test_the_cases_are_what_they_are_called():
    """They reach infinities, nans, zeros and subnormals where they should."""
    for name in LIMITS:
        for case in ("one inf", "sums at the upper end", "infinities", "both ends"):
            assert np.isinf(special(name, case)[2][None]).any()
        for case in ("one nan", "infinities", "inf and zeros", "at the upper end", "both ends"):
            assert np.isnan(special(name, case)[2][None]).any()
        a, b, results = special(name, "sums at the upper end")
        assert np.isfinite(a).all()
        assert np.isfinite(b).all()
        assert np.isfinite(oracle.terms()(a[:, :, None], b[None])).all()
        assert np.isinf(results[None]).any()
        for where in ("a", "b", "either", "both"):
            sums = np.array([wanted for _, _, wanted, _ in thresholds(name, where)])
            smallest = np.abs(sums[sums != 0]).min()
            assert (sums == 0).any()
            # One unit in the last place of the smallest products, but for their sign.
            assert smallest <= 2.0 ** (LIMITS[name].floor + 2 - FORMATS[name].m)


@pytest.mark.parametrize("value", [math.inf, math.nan, -0.0, 1e-40, 2.0**-99, 3e38])
def test_one_special_value_anywhere(variant, value):
    """In any row and column of tiles, on either side, with zeros or without."""
    rng = np.random.default_rng(8)
    a, b = numbers(rng, "float32", (17, 6), -4, 3), numbers(rng, "float32", (6, 65), -4, 3)
    b[3, ::7] = 0
    for i in range(17):
        left = a.copy()
        left[i, i % 6] = value
        row = product(left[i : i + 1], b)[0]
        same(mitchell_matmul(left, b)[i], row)
        same(mitchell_matmul(left[i], b), row)
        same(mitchell_matmul(left[i], b.copy(order="F")), row)
    wanted = product(a, b)
    for j in range(65):
        right = b.copy()
        right[j % 6, j] = value
        got = mitchell_matmul(a, right)
        same(got[:, j], product(a, right[:, j : j + 1])[:, 0])
        same(np.delete(got, j, 1), np.delete(wanted, j, 1))
        same(mitchell_matmul(a[0], right), got[0])
        same(mitchell_matmul(a[0], right.copy(order="F")), got[0])


# ---- dtypes


def element_bits(name: str) -> np.ndarray:
    """All values of 8 bits; of a float all of 16 bits, or many."""
    dtype, rng = dtype_of(name), np.random.default_rng(2)
    if dtype.itemsize == 1:
        return np.arange(256, dtype=np.uint8).view(dtype)
    if dtype.itemsize == 2:
        return np.arange(1 << 16, dtype=np.uint16).view(dtype)
    return random_bits(FORMATS[name], 3000, rng, 0.5).view(dtype)


@functools.cache
def mixed(left: str, right: str) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(11)
    a, b = rng.choice(element_bits(left), (9, 30)), rng.choice(element_bits(right), (30, 20))
    c, d = ordinary(rng, left, (9, 30)), with_zeros(rng, ordinary(rng, right, (30, 20)), 0.1)
    return frozen(a, b, product(a, b), c, d, product(c, d, "unbiased"), product(c, d, "refined"))


@pytest.mark.parametrize(("left", "right"), MIXES)
def test_dtypes(variant, left, right):
    a, b, wanted, c, d, unbiased, refined = mixed(left, right)
    same(mitchell_matmul(a, b), wanted)
    same(mitchell_matmul(c, d, correction="unbiased"), unbiased)
    same(mitchell_matmul(c, d, correction="refined"), refined)
    same(mitchell_matmul(c[0], d, correction="refined"), refined[0])


@functools.cache
def all_elements(name: str) -> tuple[np.ndarray, ...]:
    a = element_bits(name)[:, None]
    one = np.array([[1, 0, -2, 3]], np.float32)
    return frozen(a, one, product(a, one))


@pytest.mark.parametrize("name", [name for name in DTYPES if name.endswith("float16")])
def test_all_values_of_16_bits(variant, name):
    a, b, wanted = all_elements(name)
    same(mitchell_matmul(a, b), wanted)
    same(mitchell_matmul(a, b.astype(a.dtype)), wanted)


def test_nans_that_signal(variant):
    """Converting one raises no warning, which would be an error here."""
    for name, bits in (("float16", 0x7D01), ("bfloat16", 0x7F81), ("float32", 0x7F800001)):
        if name not in DTYPES:
            continue
        a = np.full((2, 3), bits, FORMATS[name].word).view(dtype_of(name))
        for other in (right for left, right in MIXES if left == name):
            if other == "bfloat16":
                continue
            wanted = np.full((2, 2), np.nan, "float64" if other == "float64" else "float32")
            same(mitchell_matmul(a, np.ones((3, 2), other)), wanted)
            same(mitchell_conv2d(a[None, None], np.ones((1, 1, 1, 2), other)), wanted[None, None])


@pytest.mark.parametrize("correction", CORRECTIONS)
@pytest.mark.parametrize(("left", "right"), [*itertools.product(["int8", "uint8"], repeat=2)])
def test_all_products_of_8_bits(variant, left, right, correction):
    a, b = element_bits(left)[:, None], element_bits(right)[None]
    wanted = oracle.small_product(a, b, "mul", correction).astype(np.int32)
    same(mitchell_matmul(a, b, correction=correction), wanted)
    # And beside zeros and other numbers.
    rest = np.zeros_like(a), np.full_like(b, 7)
    same(mitchell_matmul(np.hstack([a, rest[0]]), np.vstack([b, rest[1]]), correction=correction), wanted)
    same(mitchell_matmul(b.T, a.T, correction=correction), wanted.T)


@pytest.mark.parametrize(
    ("left", "right", "a", "b"),
    [
        ("int8", "int8", -128, -128),
        ("int8", "int8", -128, 127),
        ("uint8", "uint8", 255, 255),
        ("uint8", "int8", 255, -128),
    ],
)
def test_integer_sums_wrap_at_32_bits(variant, left, right, a, b):
    for k in (1, 600, 40_000, 140_000):
        for correction in (None, "unbiased", 0.5, "refined"):
            total = int(oracle.small_product(a, b, "mul", correction)) * k
            wanted = np.full((3, 2), (total + 2**31) % 2**32 - 2**31, np.int32)
            got = mitchell_matmul(np.full((3, k), a, left), np.full((k, 2), b, right), correction=correction)
            same(got, wanted)
    assert abs(total) > 2**31


# ---- shapes


SHAPES = [
    ((3,), (3,)),
    ((3,), (3, 4)),
    ((4, 3), (3,)),
    ((1, 1), (1, 1)),
    ((2, 3, 4), (4,)),
    ((4,), (2, 4, 3)),
    ((2, 3, 4), (4, 5)),
    ((3, 4), (2, 4, 5)),
    ((2, 3, 4), (2, 4, 5)),
    ((2, 3, 4), (1, 4, 5)),
    ((1, 3, 4), (2, 4, 5)),
    ((6, 1, 2, 3), (5, 3, 4)),
    ((2, 1, 3, 2, 4), (3, 1, 4, 5)),
    ((2, 1, 1, 3), (1, 2, 3, 1)),
    ((0,), (0,)),
    ((0, 3), (3, 4)),
    ((2, 3), (3, 0)),
    ((2, 0), (0, 3)),
    ((0, 0), (0, 0)),
    ((0, 2, 3), (3, 4)),
    ((2, 2, 0), (0, 4)),
    ((2, 0), (5, 0, 4)),
    ((1, 2, 3), (0, 3, 4)),
    ((3, 0, 2, 4), (1, 4, 2)),
    ((7, 0), (0,)),
    ((0,), (0, 7)),
    ((20, 0), (0, 40)),
    ((40, 0), (0, 3)),
]


@pytest.mark.parametrize(("left", "right"), SHAPES, ids=str)
def test_shapes(variant, left, right):
    rng = np.random.default_rng(12)
    for name in DTYPES:
        a, b = ordinary(rng, name, left), ordinary(rng, name, right)
        wanted = stacked_product(a, b)
        got = mitchell_matmul(a, b)
        same(got, wanted)
        assert isinstance(got, np.ndarray)
        out = np.full(wanted.shape, 7, wanted.dtype)
        assert mitchell_matmul(a, b, out=out) is out
        same(out, wanted)


def test_what_becomes_an_array(variant):
    same(mitchell_matmul([[3.0, 1.0]], [[3.0], [2.0]]), np.array([[10.0]]))
    same(mitchell_matmul((3.0,), np.array([3], np.int8)), np.array(8.0))
    same(mitchell_matmul(np.float32([3, 3]), memoryview(np.float32([3, 3]))), np.array(16, np.float32))


def test_stacks_without_strides(variant):
    rng = np.random.default_rng(13)
    a, b = ordinary(rng, "float32", (7, 20)), ordinary(rng, "float32", (20, 33))
    wanted = np.broadcast_to(product(a, b), (4, 3, 7, 33))
    same(mitchell_matmul(np.broadcast_to(a, (4, 3, 7, 20)), b), wanted)
    same(mitchell_matmul(a, np.broadcast_to(b, (4, 3, 20, 33))), wanted)
    same(mitchell_matmul(np.broadcast_to(a, (4, 1, 7, 20)), np.broadcast_to(b, (3, 20, 33))), wanted)
    # Rows, columns and terms that are one.
    one = np.broadcast_to(a[:1], (7, 20)), np.broadcast_to(b[:, :1], (20, 33)), np.broadcast_to(a[:, :1], (7, 20))
    same(mitchell_matmul(one[0], b), product(one[0], b))
    same(mitchell_matmul(a, one[1]), product(a, one[1]))
    same(mitchell_matmul(one[2], np.broadcast_to(b[:1], (20, 33))), product(one[2], np.broadcast_to(b[:1], (20, 33))))
    three = np.float32(3)
    wanted = np.full((5, 40), 9 * 8, np.float32)
    same(mitchell_matmul(np.broadcast_to(three, (5, 9)), np.broadcast_to(three, (9, 40))), wanted)


# ---- layouts


def layouts(array: np.ndarray) -> dict[str, np.ndarray]:
    """The same elements, in memory in other ways."""
    spread = np.zeros([3 * n for n in array.shape], array.dtype)
    spread[tuple(slice(1, None, 3) for _ in array.shape)] = array
    backwards = (slice(None, None, -1),) * array.ndim
    halves = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
    halves[..., : array.shape[-1]] = array
    read_only = array.copy()
    read_only.flags.writeable = False
    record = np.zeros(array.shape, [("x", np.int8), ("y", array.dtype)])
    record["y"] = array
    return {
        "contiguous": array.copy(),
        "fortran": np.asfortranarray(array),
        "transposed": np.ascontiguousarray(array.swapaxes(-1, -2)).swapaxes(-1, -2),
        "strided": spread[tuple(slice(1, None, 3) for _ in array.shape)],
        "backwards": array[backwards].copy()[backwards],
        "upwards": array[..., ::-1, :].copy()[..., ::-1, :],
        "rows apart": halves[..., : array.shape[-1]],
        "misaligned": misaligned(array).reshape(array.shape),
        "swapped": array.astype(array.dtype.newbyteorder()) if array.dtype.name != "bfloat16" else array,
        "read-only": read_only,
        "field": record["y"],
    }


@functools.cache
def to_lay_out(name: str) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(14)
    a, b = ordinary(rng, name, (2, 14, 21)), with_zeros(rng, ordinary(rng, name, (2, 21, 45)), 0.01)
    return frozen(a, b, stacked_product(a, b))


@pytest.mark.parametrize("name", DTYPES)
def test_layouts(variant, name):
    a, b, wanted = to_lay_out(name)
    lefts, rights = layouts(a), layouts(b)
    for left, right in itertools.product(lefts, rights):
        same(mitchell_matmul(lefts[left], rights[right]), wanted)
        same(mitchell_matmul(lefts[left][1, :3], rights[right][1]), wanted[1, :3])
        same(mitchell_matmul(lefts[left][1], rights[right][1, :, 2]), wanted[1, :, 2])
        same(mitchell_matmul(lefts[left][1, 2], rights[right][1, :, 3]), wanted[1, 2, 3])


# ---- where the result goes


def address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def out_layouts(shape: tuple[int, ...], dtype: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Arrays to write, and the memory that they are in."""
    whole = np.full([2 * n + 4 for n in shape], 7, dtype)
    inside = tuple(slice(2, 2 + 2 * n, 2) for n in shape)
    found = {"contiguous": whole[tuple(slice(1, 1 + n) for n in shape)], "strided": whole[inside]}
    found["backwards"] = whole[inside][(slice(None, None, -1),) * len(shape)]
    found["upwards"] = whole[inside][..., ::-1, :]
    found["columns backwards"] = whole[tuple(slice(1, 1 + n) for n in shape)][..., ::-1]
    results = {}
    for label in found:
        memory = whole.copy()
        offset = address(found[label]) - address(whole)
        results[label] = np.ndarray(shape, dtype, memory, offset, found[label].strides), memory
    turned = np.full((*shape[:-2], shape[-1], shape[-2]), 7, dtype)
    results["transposed"] = turned.swapaxes(-1, -2), turned
    raw = np.full(math.prod(shape) * np.dtype(dtype).itemsize + 2, 7, np.uint8)
    results["misaligned"] = raw[1:-1].view(dtype).reshape(shape), raw
    return results


@pytest.mark.parametrize("name", SCALES)
def test_out(variant, name):
    a, b, wanted = to_lay_out(name)
    for n in (45, 8, 3):
        some = wanted[..., :n]
        for out, memory in out_layouts(some.shape, wanted.dtype).values():
            before = memory.copy()
            inside = np.zeros_like(memory)
            words = np.ndarray(out.shape, f"u{out.itemsize}", inside, address(out) - address(memory), out.strides)
            words.fill(2 ** (8 * out.itemsize) - 1)
            assert mitchell_matmul(a, b[..., :n], out=out) is out
            same(out.copy(), some)
            outside = bits_of(inside) == 0
            assert (bits_of(memory)[outside] == bits_of(before)[outside]).all()
            assert not outside.all()


@pytest.mark.parametrize("name", SCALES)
def test_out_of_other_dtypes(variant, name):
    a, b, wanted = to_lay_out(name)
    dtypes = ["float16", "float32", "float64", "complex64", wanted.dtype.newbyteorder()]
    if name == "int8":
        dtypes += ["int8", "int16", "int64"]
    for dtype in dtypes:
        with np.errstate(all="ignore"):
            cast = wanted.astype(dtype)
        out = np.full((2, 14, 90), 7, dtype)
        assert mitchell_matmul(a, b, out=out[..., ::2]).dtype == dtype
        assert (out[..., ::2].tobytes(), (out[..., 1::2] == 7).all()) == (cast.tobytes(), True)
    # Too large for a half is an infinity, without a warning.
    if name != "int8":
        half, large = np.zeros((1, 1), np.float16), np.full((1, 1), 2.0**10, name)
        same(mitchell_matmul(large, large, out=half), np.float16([[np.inf]]))


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_out_over_an_input(variant, name):
    rng = np.random.default_rng(15)
    whole = ordinary(rng, name, (60, 40))
    a, b = whole[:40].copy(), whole[20:].copy()
    wanted, square = product(a, b), product(a, a)
    for make in (lambda memory: (memory[:40], memory[20:]), lambda memory: (memory[20:][::-1], memory[:40])):
        for k in range(2):
            memory = np.zeros_like(whole)
            views = make(memory)
            views[k][...] = (a, b)[k]
            others = [a, b]
            others[k] = views[k]
            for out in views:
                views[k][...] = (a, b)[k]
                assert mitchell_matmul(*others, out=out) is out
                same(out.copy(), wanted)
    own = a.copy()
    mitchell_matmul(own, own, out=own)
    same(own, square)
    own = a.copy()
    mitchell_matmul(own, own, out=own.T)
    same(own.T.copy(), square)
    # A stack over the matrix that all of it is multiplied by.
    stack = np.stack([a, b, a])
    expected = stacked_product(stack, stack[1])
    mitchell_matmul(stack, stack[1], out=stack)
    same(stack, expected)
    with_itself = np.zeros(a.shape, [("x", a.dtype), ("y", a.dtype)])
    with_itself["x"] = a
    mitchell_matmul(with_itself["x"], with_itself["x"], out=with_itself["y"])
    same(with_itself["y"].copy(), square)
    same(with_itself["x"].copy(), a)


def test_out_that_is_refused(variant):
    a, b = np.ones((2, 3), np.float32), np.ones((3, 4), np.float32)
    for function in (mitchell_matmul, mitchell_dot):
        for wrong in ([[0.0] * 4] * 2, 3, "out"):
            with pytest.raises(TypeError, match=r"out=.*: an array is needed"):
                function(a, b, out=wrong)
        for shape in ((2, 3), (4, 2), (1, 2, 4), (2, 4, 1), (8,), ()):
            out = np.full(shape, 7, np.float32)
            with pytest.raises(ValueError, match=rf"out: shape \({str(shape)[1:-1]}\); allowed is \(2, 4\)"):
                function(a, b, out=out)
            assert (out == 7).all()
        for dtype in ("int32", "int64", "bool", "uint8"):
            out = np.full((2, 4), 1, dtype)
            with pytest.raises(TypeError, match=f"out: dtype {dtype}; allowed is what float32 casts to"):
                function(a, b, out=out)
            assert (out == 1).all()
        out = np.full((2, 4), 7, np.float32)
        out.flags.writeable = False
        with pytest.raises(ValueError, match="out: the array is read-only"):
            function(a, b, out=out)
        assert (out == 7).all()
        with pytest.raises(TypeError, match="out: dtype uint8; allowed is what int32 casts to"):
            function(a.astype(np.int8), b.astype(np.int8), out=np.zeros((2, 4), np.uint8))
        # Nothing is written before the other arguments are known to be right.
        out = np.full((2, 4), 7, np.float32)
        for arguments in ((a, b[:2]), (a, b.astype(complex)), (a, b.astype(object))):
            with pytest.raises((TypeError, ValueError), match="a, b"):
                function(*arguments, out=out)
        with pytest.raises(ValueError, match="correction"):
            function(a, b, out=out, correction="best")
        assert (out == 7).all()
    with pytest.raises(ValueError, match=r"out: shape \(1,\); allowed is \(\)"):
        mitchell_matmul(a[0], b[:, 0], out=np.zeros(1, np.float32))


# ---- threads


class Watched:
    """Kernels that take note of what they are asked for."""

    def __init__(self, kernels: Any) -> None:
        self.kernels = kernels
        self.pieces: set[tuple[int, tuple[int, ...]]] = set()
        self.lock = threading.Lock()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        kernel = getattr(self.kernels, name)

        def call(*arguments: Any) -> Any:
            with self.lock:
                self.pieces.add((address(arguments[2]), arguments[2].shape))
            return kernel(*arguments)

        return call


@pytest.fixture
def in_pieces(
    variant: str, threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[], np.ndarray], int | None], np.ndarray]:
    """Call a function with 1, 2, 3 and 5 threads; the result, always the same, once it is sure that this axis was split
    (with None, one or another).
    """

    def call(function: Callable[[], np.ndarray], axis: int | None) -> np.ndarray:
        kernels, results = mitchell.kernels, []
        for count in (1, 2, 3, 5):
            threads(count)
            watched = Watched(kernels)
            with monkeypatch.context() as patch:
                patch.setattr(mitchell, "kernels", watched)
                results.append(function())
            assert len(watched.pieces) == count
            for other in range(3) if axis is not None else ():
                extents = [shape[other] for _, shape in watched.pieces]
                assert sum(extents) == results[0].shape[other] * (1 if other == axis else count)
            same(results[-1], results[0])
        return results[0]

    return call


SPLIT = {"stack": ((10, 100, 110), 0), "rows": ((1, 480, 230), 1), "columns": ((1, 230, 480), 2)}
PARTS = [(name, how) for how in SPLIT for name in SCALES]


@pytest.mark.parametrize(("name", "how"), PARTS)
def test_threads(in_pieces, name, how):
    (stack, m, n), axis = SPLIT[how]
    rng, k = np.random.default_rng(16), 5 * PIECE // (stack * m * n) + 3
    a = with_zeros(rng, ordinary(rng, name, (stack, m, k)), 0.0001)
    b = ordinary(rng, name, (stack, k, n))
    for order in ("C", "F"):
        got = in_pieces(lambda order=order: mitchell_matmul(a.copy(order), b.copy(order)), axis)
        rows, columns = [0, 23, 24, 95, 96, m - 1], [0, 31, 32, n // 2, n - 1]
        for i in {0, stack // 2, stack - 1}:
            same(got[i][np.ix_(rows, columns)], product(a[i, rows], b[i][:, columns]))


def test_threads_of_other_calls(variant, threads):
    """Those that are not split, and those of several stacks."""
    rng = np.random.default_rng(17)
    a, b = ordinary(rng, "float32", (3, 2, 70, 300)), ordinary(rng, "float32", (2, 300, 260))
    pairs, results = [(a, b), (a[0, 0], b[0, :, 3]), (a[0, 0, :2], b[0])], []
    for count in (1, 2, 3, 5):
        threads(count)
        results.append([mitchell_matmul(*pair) for pair in pairs])
        for got, wanted in zip(results[-1], results[0], strict=True):
            same(got, wanted)
    same(results[0][0][2, 1, :3], product(a[2, 1, :3], b[1]))


def test_callers_threads(variant, threads):
    """Calls from several threads at once, each with its own work space, split or not."""
    rng = np.random.default_rng(18)
    sizes = [(30, 40, 50), (200, 300, 100), (7, 600, 65), (1, 5, 1)]
    operands = [(ordinary(rng, "float32", (m, k)), ordinary(rng, "float32", (k, n))) for m, k, n in sizes]
    threads(2)
    wanted = [product(*pair) for pair in operands]
    wrong: list[Any] = []

    def run(i: int) -> None:
        try:
            for _ in range(5):
                for j in range(len(sizes)):
                    same(mitchell_matmul(*operands[(i + j) % len(sizes)]), wanted[(i + j) % len(sizes)])
        except BaseException as error:
            wrong.append(error)

    callers = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


# ---- values of all kinds


@st.composite
def operands(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Of broadcasting shapes; elements bit by bit, or many at random."""
    signature = "(n?,k),(k,m?)->(n?,m?)"
    shapes = draw(hnp.mutually_broadcastable_shapes(signature=signature, max_dims=2, min_side=0, max_side=5))
    pair = []
    for shape, name in zip(shapes.input_shapes, draw(st.sampled_from(MIXES)), strict=True):
        dtype = dtype_of(name)
        word = np.dtype(f"u{dtype.itemsize}")
        if is_integer(dtype):
            elements = st.integers(0, 255)
        else:
            fmt = FORMATS[dtype.name]
            pool = draw(st.lists(bit_patterns(fmt), min_size=1, max_size=6))
            elements = st.sampled_from([*pool, 0, fmt.sign])
        pair.append(draw(hnp.arrays(word, shape, elements=elements)).view(dtype))
    return pair[0], pair[1]


@given(operands(), st.sampled_from(CORRECTIONS) | st.floats(-0.5, 0.5))
def test_any_operands(variant, pair, correction):
    a, b = pair
    same(mitchell_matmul(a, b, correction=correction), stacked_product(a, b, correction))


@given(
    st.sampled_from(["float32", "float64"]),
    st.tuples(st.integers(1, 40), st.integers(1, 70), st.integers(1, 70)),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0, 0.001, 0.02]),
    st.sampled_from([0, 0.001, 0.1, 0.9]),
    st.sampled_from(CORRECTIONS[:3] + CORRECTIONS[-2:]),
)
def test_any_matrices(variant, name, sizes, seed, wild, zeros, correction):
    (m, n, k), rng, fmt = sizes, np.random.default_rng(seed), FORMATS[name]
    pair = []
    for shape in ((m, k), (k, n)):
        center, spread = rng.integers(-40, 40), rng.integers(0, 20)
        array = numbers(rng, name, shape, center - spread, center + spread)
        bits = random_bits(fmt, array.size, rng, 1.0).view(name).reshape(shape)
        pair.append(with_zeros(rng, np.where(rng.random(shape) < wild, bits, array), zeros * rng.integers(0, 2)))
    a, b = cancelling(rng, *pair) if rng.random() < 0.5 else pair
    same(mitchell_matmul(a, b, correction=correction), product(a, b, correction))


# ---- all backends and levels alike


def on_each(function: Callable[[], Sequence[np.ndarray]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The results of a function are the same, bit for bit."""
    first: Sequence[np.ndarray] | None = None
    for variant in variants():
        with running_on(variant) as bound, monkeypatch.context() as patch:
            patch.setattr(mitchell, "kernels", bound)
            results = function()
        first = results if first is None else first
        for got, wanted in zip(results, first, strict=True):
            same(got, wanted)


@pytest.mark.parametrize("name", SCALES)
def test_equal_bits_on_each(name, monkeypatch):
    rng, cases = np.random.default_rng(19), []
    for m, k, n in ((300, 700, 200), (13, 2000, 37), (1, 3000, 1), (50, 60, 2100)):
        a, b = ordinary(rng, name, (m, k)), ordinary(rng, name, (k, n))
        cases += [(a, b, correction) for correction in (None, "unbiased")]
        cases.append((with_zeros(rng, a, 0.1), with_zeros(rng, b, 0.01), None))
        cases.append((with_zeros(rng, a, 0.01)[:40], b[:, :70], "refined"))
        if name != "int8":
            fmt = FORMATS[name]
            wild = [random_bits(fmt, array.size, rng, 0.0003).view(name).reshape(array.shape) for array in (a, b)]
            cases += [(*wild, None), (a * a.dtype.type(2.0**-60), b, -0.3), (*wild, 0.5)]
    on_each(lambda: [mitchell_matmul(a, b, correction=correction) for a, b, correction in cases], monkeypatch)


def test_equal_bits_of_special_cases_on_each(monkeypatch):
    rng = np.random.default_rng(20)
    cases = [make(rng) for name in LIMITS for make in special_cases(name).values() for _ in range(5)]
    on_each(lambda: [mitchell_matmul(a, b, correction=0.1) for a, b in cases], monkeypatch)


@given(operands(), st.sampled_from(CORRECTIONS))
def test_equal_bits_of_any_operands_on_each(monkeypatch, pair, correction):
    on_each(lambda: [mitchell_matmul(*pair, correction=correction)], monkeypatch)


# ---- arguments


WRONG_DTYPES = ["int16", "uint16", "int32", "int64", "uint64", "bool", "complex64", "complex128", "object", "U3"]
WRONG_DTYPES += ["M8[s]"] + ["longdouble"] * (np.dtype("longdouble") != np.dtype("float64"))


@pytest.mark.parametrize("dtype", WRONG_DTYPES)
def test_dtypes_that_are_refused(variant, dtype):
    a = np.zeros((2, 2), dtype)
    for function in (mitchell_matmul, mitchell_dot):
        with pytest.raises(TypeError, match=r"a, b: dtypes .*; allowed are float16, bfloat16, float32, float64, int8"):
            function(a, a)
    four = a[None, None]
    with pytest.raises(TypeError, match=r"x, w: dtypes .*; allowed are float16, bfloat16, float32, float64, int8"):
        mitchell_conv2d(four, four)
    if dtype in ("complex64", "object", "U3", "M8[s]"):
        for other in DTYPES:
            b = np.zeros((2, 2), dtype_of(other))
            for pair in ((a, b), (b, a)):
                with pytest.raises(TypeError, match=r"a, b: dtypes .*; allowed are float16"):
                    mitchell_matmul(*pair)


def test_shapes_that_are_refused(variant):
    a = np.ones((2, 3), np.float32)
    for pair in ((a, np.float32(3)), (3.0, a), (1.0, 2.0)):
        with pytest.raises(ValueError, match=r"a, b: shapes .*; allowed are arrays of at least one dimension"):
            mitchell_matmul(*pair)
    for pair in ((a, a), (a[0], a), (a, a[0, :2]), (a[0], a[0, :2]), (a[None], a), (a[:, :0], a)):
        with pytest.raises(ValueError, match=r"a, b: shapes \(.*\) and \(.*\); \d columns meet \d rows"):
            mitchell_matmul(*pair)
    stacks = (np.ones((2, 2, 3)), np.ones((3, 3, 4))), (np.ones((2, 3, 2, 3)), np.ones((2, 3, 4)))
    for pair in stacks:
        with pytest.raises(ValueError, match=r"a, b: shapes \(.*\) and \(.*\); the stacks do not broadcast"):
            mitchell_matmul(*pair)
    for left, right in itertools.product([(2, 3), (3,), (2, 2, 3), ()], repeat=2):
        try:
            np.matmul(np.ones(left), np.ones(right))
        except ValueError:
            with pytest.raises(ValueError, match="a, b: shapes"):
                mitchell_matmul(np.ones(left), np.ones(right))


def test_corrections_that_are_refused(variant):
    a = np.ones((2, 2), np.float32)
    calls = [lambda c: mitchell_matmul(a, a, correction=c), lambda c: mitchell_dot(a, a, correction=c)]
    calls.append(lambda c: mitchell_conv2d(a[None, None], a[None, None], correction=c))
    for call in calls:
        for wrong in ("best", 0.51, -0.6, math.nan, math.inf):
            with pytest.raises(ValueError, match="correction"):
                call(wrong)
        for wrong in ([0.1], 1j, object()):
            with pytest.raises(TypeError, match="correction"):
                call(wrong)


def test_only_by_name():
    a = np.ones((2, 2), np.float32)
    for function in (mitchell_matmul, mitchell_dot):
        with pytest.raises(TypeError, match="positional"):
            function(a, a, None)
    with pytest.raises(TypeError, match="positional"):
        mitchell_conv2d(a[None, None], a[None, None], 1)


# ---- over the reals


def test_bounds_over_the_reals(variant):
    rng = np.random.default_rng(21)
    a, b = np.abs(numbers(rng, "float64", (60, 90), -30, 30)), np.abs(numbers(rng, "float64", (90, 70), -30, 30))
    ratio = mitchell_matmul(a, b) / np.matmul(a, b)
    assert ratio.min() >= 8 / 9 - 1e-12
    assert ratio.max() <= 1 + 1e-12
    assert ratio.min() < 0.97 < ratio.max()
    # With either sign, the error is that of the sizes.
    a, b = numbers(rng, "float64", (60, 90), -3, 3), numbers(rng, "float64", (90, 70), -3, 3)
    error = np.abs(mitchell_matmul(a, b) - np.matmul(a, b))
    assert (error <= np.matmul(np.abs(a), np.abs(b)) * (1 / 9 + 1e-12)).all()


def test_unbiased_over_the_reals(variant):
    rng = np.random.default_rng(22)
    a, b = rng.uniform(1, 2, (1500, 1)), rng.uniform(1, 2, (1, 1500))
    for correction, mean in ((None, 1 - 0.0385), ("unbiased", 1)):
        assert np.mean(mitchell_matmul(a, b, correction=correction) / (a * b)) == pytest.approx(mean, abs=1e-3)
    a, b = rng.uniform(1, 2, (40, 300)), rng.uniform(1, 2, (300, 40))
    assert np.mean(mitchell_matmul(a, b, correction="unbiased") / np.matmul(a, b)) == pytest.approx(1, abs=0.01)
    refined = mitchell_matmul(a, b, correction="refined") / np.matmul(a, b)
    assert abs(refined - 1).max() < abs(mitchell_matmul(a, b) / np.matmul(a, b) - 1).min()


def test_exact_with_powers_of_two(variant):
    rng = np.random.default_rng(23)
    a = np.ldexp(rng.choice([-1.0, 1.0], (20, 30)), rng.integers(-5, 5, (20, 30)))
    b = rng.integers(-1000, 1000, (30, 50)).astype(np.float64)
    same(mitchell_matmul(a, b) + 0.0, np.matmul(a, b) + 0.0)
    same(mitchell_matmul(b.T.astype(np.float32), a.T.astype(np.float32)), (np.matmul(a, b).T + 0.0).astype(np.float32))


# ---- dot products


DOT_SHAPES = [
    ((5,), (5,)),
    ((2, 5), (5, 3)),
    ((2, 5), (5,)),
    ((5,), (5, 3)),
    ((2, 3, 5), (5,)),
    ((4, 2, 3, 5), (5,)),
    ((5,), (2, 5, 3)),
    ((2, 3, 5), (5, 4)),
    ((2, 5), (3, 5, 4)),
    ((2, 3, 5), (4, 5, 6)),
    ((2, 1, 5), (1, 4, 5, 2)),
    ((0,), (0,)),
    ((2, 0, 5), (5,)),
    ((2, 3, 5), (0, 5, 2)),
    ((2, 3, 5), (4, 5, 0)),
    ((2, 3, 0), (0,)),
    ((2, 3, 0), (4, 0, 2)),
    ((0,), (4, 0, 2)),
    ((0, 2, 0), (0, 0, 3)),
]


@pytest.mark.parametrize(("left", "right"), DOT_SHAPES, ids=str)
def test_dot(variant, left, right):
    rng = np.random.default_rng(24)
    for name in DTYPES:
        a, b = ordinary(rng, name, left), ordinary(rng, name, right)
        shape = np.dot(np.empty(left, np.int8), np.empty(right, np.int8)).shape
        wanted = np.zeros(shape, sum_dtype(a, b))
        for index in np.ndindex(shape):
            row, column = a[index[: a.ndim - 1]], index[a.ndim - 1 :]
            column = b[(*column[:-1], slice(None), *column[-1:])] if b.ndim > 1 else b
            wanted[index] = stacked_product(row, column, "unbiased")
        same(mitchell_dot(a, b, correction="unbiased"), wanted)
        for order in "CF":
            out = np.full(shape, 7, wanted.dtype, order=order)
            assert mitchell_dot(np.asfortranarray(a), b[..., ::-1][..., ::-1], correction="unbiased", out=out) is out
            same(out, wanted)
        if not is_integer(a.dtype):
            half = np.full(shape, 7, np.float16)
            assert mitchell_dot(a, b, correction="unbiased", out=half) is half
            with np.errstate(over="ignore"):
                same(half, wanted.astype(np.float16))


def test_dot_over_an_input(variant):
    rng = np.random.default_rng(25)
    a = ordinary(rng, "float32", (2, 3, 3))
    wanted = mitchell_dot(a[0], a.copy())
    whole = np.zeros((3, 2, 3), np.float32)
    own = whole.transpose(1, 0, 2)
    own[...] = a
    mitchell_dot(a[0], own, out=whole)
    same(whole, wanted)


def test_dot_with_scalars(variant):
    a = np.array([[1, 3, -5], [0, 7, 2]])
    for dtype in ("float16", "float32", "float64", "int8", "uint8"):
        array = np.abs(a).astype(dtype)
        three = np.dtype(dtype).type(3)
        wanted = oracle.expected("mul", "unbiased", array, np.full_like(array, 3))
        same(mitchell_dot(array, three, correction="unbiased"), wanted)
        same(mitchell_dot(three, array, correction="unbiased"), wanted)
        same(mitchell_dot(three, three, correction="unbiased"), wanted[0, 1])
        assert isinstance(mitchell_dot(three, three), np.ndarray)
        out = np.zeros_like(array)
        assert mitchell_dot(array, three, correction="unbiased", out=out) is out
        same(out, wanted)


def test_dot_that_is_refused(variant):
    for left, right in (((2, 3, 4), (3,)), ((2, 3, 4), (2, 3, 4)), ((3,), (2, 4, 5)), ((3,), (4,)), ((2, 3), (2, 3))):
        a, b = np.ones(left, np.float32), np.ones(right, np.float32)
        out = np.full((2, 2), 7, np.float32)
        for options in ({}, {"out": out}):
            with pytest.raises(ValueError, match=r"a, b: shapes \(.*\) and \(.*\); \d columns meet \d rows"):
                mitchell_dot(a, b, **options)
        assert (out == 7).all()
    a, b = np.ones((2, 3, 5), np.float32), np.ones((4, 5, 6), np.float32)
    with pytest.raises(ValueError, match=r"out: shape \(2, 3, 6, 4\); allowed is \(2, 3, 4, 6\)"):
        mitchell_dot(a, b, out=np.zeros((2, 3, 6, 4), np.float32))
    with pytest.raises(TypeError, match="out: dtype int32; allowed is what float32 casts to"):
        mitchell_dot(a, b, out=np.zeros((2, 3, 4, 6), np.int32))
    with pytest.raises(ValueError, match="correction"):
        mitchell_dot(a, b, correction="best")
    with pytest.raises(ValueError, match="correction"):
        mitchell_dot(a, 3.0, correction="best")


# ---- convolution


Pairs = tuple[int, int]


@dataclass(frozen=True)
class Convolution:
    """Shapes and numbers of one."""

    x: tuple[int, int, int, int]
    w: tuple[int, int, int, int]
    stride: int | Pairs = 1
    padding: int | Pairs = 0
    dilation: int | Pairs = 1
    groups: int = 1

    @property
    def options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("stride", "padding", "dilation", "groups")}

    def operands(self, rng: np.random.Generator, name: str, zeros: float = 0.05) -> Pair:
        return with_zeros(rng, ordinary(rng, name, self.x), zeros), with_zeros(rng, ordinary(rng, name, self.w), zeros)


def pair_of(value: int | Pairs) -> Pairs:
    return value if isinstance(value, tuple) else (value, value)


def unfolded(x: np.ndarray, kernel: Pairs, stride: Pairs, padding: Pairs, dilation: Pairs) -> np.ndarray:
    """(images, channels, kernel rows, kernel columns, rows, columns)."""
    x = np.pad(x, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
    height, width = ((x.shape[2 + i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in range(2))
    patches = np.zeros((*x.shape[:2], *kernel, height, width), x.dtype)
    for r, s, i, j in itertools.product(*map(range, (*kernel, height, width))):
        patches[:, :, r, s, i, j] = x[:, :, i * stride[0] + r * dilation[0], j * stride[1] + s * dilation[1]]
    return patches


def convolved(x: np.ndarray, w: np.ndarray, shape: Convolution, correction: Any = None) -> np.ndarray:
    stride, padding, dilation = (pair_of(value) for value in (shape.stride, shape.padding, shape.dilation))
    patches = unfolded(x, w.shape[2:], stride, padding, dilation)
    images, inputs, outputs = len(x), x.shape[1] // shape.groups, len(w) // shape.groups
    pixels = patches.shape[4:]
    out = np.zeros((images, len(w), *pixels), sum_dtype(x, w))
    for g in range(shape.groups):
        rows = patches[:, g * inputs : (g + 1) * inputs].transpose(1, 2, 3, 0, 4, 5)
        rows = rows.reshape(math.prod(rows.shape[:3]), math.prod(rows.shape[3:]))
        own = slice(g * outputs, (g + 1) * outputs)
        sums = product(w[own].reshape(outputs, len(rows)), rows, correction)
        out[:, own] = sums.reshape(outputs, images, *pixels).swapaxes(0, 1)
    return out


CONVOLUTIONS = [
    Convolution((1, 1, 1, 1), (1, 1, 1, 1)),
    Convolution((2, 3, 6, 7), (4, 3, 3, 3)),
    Convolution((2, 3, 6, 7), (4, 3, 3, 3), padding=1),
    Convolution((1, 2, 9, 8), (5, 2, 3, 2), stride=2, padding=(1, 0)),
    Convolution((1, 2, 9, 11), (7, 2, 2, 4), stride=(3, 2), padding=(2, 3), dilation=(2, 1)),
    Convolution((2, 2, 11, 7), (3, 2, 3, 3), dilation=(1, 3), padding=(0, 2)),
    Convolution((1, 4, 5, 5), (6, 2, 3, 3), groups=2, padding=1),
    Convolution((2, 6, 7, 5), (6, 1, 3, 3), groups=6, padding=1),
    Convolution((1, 3, 7, 5), (9, 1, 3, 3), groups=3, stride=2),
    Convolution((2, 5, 4, 6), (8, 5, 1, 1)),
    Convolution((2, 5, 4, 6), (3, 5, 1, 1), stride=2),
    Convolution((1, 4, 4, 4), (4, 1, 1, 1), groups=4, padding=1),
    Convolution((1, 2, 3, 4), (3, 2, 7, 9), padding=(2, 3)),
    Convolution((1, 2, 3, 4), (3, 2, 5, 6), padding=4, stride=3),
    Convolution((1, 1, 1, 20), (2, 1, 1, 5), padding=(0, 2)),
    Convolution((1, 1, 20, 1), (2, 1, 5, 1), padding=(2, 0)),
    Convolution((1, 3, 40, 37), (13, 3, 3, 3), padding=1),
    Convolution((1, 60, 4, 4), (5, 60, 3, 3), padding=1),
    Convolution((1, 1, 2, 2), (1, 1, 2, 2), padding=(40, 3), stride=(7, 1)),
    Convolution((1, 1, 3, 3), (1, 1, 1, 1), padding=5),
    Convolution((0, 2, 4, 4), (3, 2, 2, 2)),
    Convolution((2, 0, 4, 4), (3, 0, 2, 2)),
    Convolution((2, 2, 4, 4), (0, 2, 2, 2)),
    Convolution((2, 2, 0, 4), (3, 2, 2, 2), padding=1),
    Convolution((2, 2, 0, 0), (3, 2, 3, 3), padding=2),
]


@functools.cache
def convolution(shape: Convolution, name: str, correction: Any = None) -> tuple[np.ndarray, ...]:
    x, w = shape.operands(np.random.default_rng(26), name)
    return frozen(x, w, convolved(x, w, shape, correction))


@pytest.mark.parametrize("shape", CONVOLUTIONS, ids=str)
def test_conv2d(variant, shape):
    for name in DTYPES:
        x, w, wanted = convolution(shape, name)
        same(mitchell_conv2d(x, w, **shape.options), wanted)
    for correction in CORRECTIONS[1:]:
        for name in SCALES:
            x, w, wanted = convolution(shape, name, correction)
            same(mitchell_conv2d(x, w, correction=correction, **shape.options), wanted)


def test_conv2d_is_as_the_arguments_say(variant):
    """Pairs, lists and numbers of NumPy's."""
    shape = CONVOLUTIONS[4]
    x, w, wanted = convolution(shape, "float32")
    options = {name: list(value) for name, value in shape.options.items() if name != "groups"}
    same(mitchell_conv2d(x, w, **options), wanted)
    options = {name: tuple(map(np.int64, value)) for name, value in options.items()}
    same(mitchell_conv2d(x, w, groups=np.uint8(1), **options), wanted)
    shape = Convolution((1, 2, 9, 9), (3, 2, 3, 3), 2, 1, 2)
    x, w, wanted = convolution(shape, "float32")
    same(mitchell_conv2d(x, w, stride=np.int8(2), padding=(1, 1), dilation=[2, 2]), wanted)
    wanted = convolved(x.astype(np.float64), w.astype(np.float64), shape)
    same(mitchell_conv2d(x.tolist(), w.tolist(), stride=2, padding=1, dilation=2), wanted)


@pytest.mark.parametrize(("left", "right"), MIXES)
def test_conv2d_of_mixed_dtypes(variant, left, right):
    shape = Convolution((1, 2, 5, 6), (3, 2, 2, 3), padding=1)
    x, w = convolution(shape, left)[0], convolution(shape, right)[1]
    same(mitchell_conv2d(x, w, padding=1), mixed_convolution(left, right))


@functools.cache
def mixed_convolution(left: str, right: str) -> np.ndarray:
    shape = Convolution((1, 2, 5, 6), (3, 2, 2, 3), padding=1)
    return convolved(convolution(shape, left)[0], convolution(shape, right)[1], shape)


@pytest.mark.parametrize("name", DTYPES)
def test_layouts_of_images(variant, name):
    for shape in (CONVOLUTIONS[2], CONVOLUTIONS[4], CONVOLUTIONS[7]):
        x, w, wanted = convolution(shape, name)
        images = layouts(x)
        images["channels last"] = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        images["columns backwards"] = x[..., ::-1].copy()[..., ::-1]
        images["rows first"] = np.ascontiguousarray(x.transpose(2, 0, 3, 1)).transpose(1, 3, 0, 2)
        weights = layouts(w)
        for image in images.values():
            same(mitchell_conv2d(image, w, **shape.options), wanted)
        for weight in weights.values():
            same(mitchell_conv2d(x, weight, **shape.options), wanted)
        same(mitchell_conv2d(images["channels last"], weights["transposed"], **shape.options), wanted)
    one = np.broadcast_to(x[:, :1, :1, :1], x.shape)
    same(mitchell_conv2d(one, w, **shape.options), convolved(one, w, shape))


@pytest.mark.parametrize("name", ["float16", "float32", "float64"])
def test_infinities_of_images_and_weights(variant, name):
    shape = Convolution((1, 2, 5, 6), (3, 2, 3, 3), padding=1)
    x, w = (array.copy() for array in convolution(shape, name)[:2])
    for value in (math.inf, -math.inf, math.nan):
        image, weight = x.copy(), w.copy()
        image[0, 1, 2, 3], weight[1, 0, 0, 0] = value, value
        same(mitchell_conv2d(image, w, padding=1), convolved(image, w, shape))
        same(mitchell_conv2d(x, weight, padding=1), convolved(x, weight, shape))
        same(mitchell_conv2d(image, weight, padding=1), convolved(image, weight, shape))
    # The corner of the kernel meets the padding in the first row and column, and zero times infinity is no number.
    x[...], w[...] = 1, 1
    w[1, 0, 0, 0] = math.inf
    got = mitchell_conv2d(x, w, padding=1)
    assert np.isnan(got[0, 1, 0]).all()
    assert np.isnan(got[0, 1, :, 0]).all()
    assert np.isposinf(got[0, 1, 1:, 1:]).all()
    assert np.isfinite(got[0, [0, 2]]).all()


@pytest.mark.parametrize("name", LIMITS)
def test_convolution_of_special_values(variant, name):
    for image, weight, wanted, shape in special_convolutions(name):
        same(mitchell_conv2d(image, weight, correction=-0.3, **shape.options), wanted)


@functools.cache
def special_convolutions(name: str) -> list[tuple[Any, ...]]:
    rng, fmt, found = np.random.default_rng(27), FORMATS[name], []
    for shape in (CONVOLUTIONS[2], CONVOLUTIONS[4], CONVOLUTIONS[12]):
        for wild in (0.003, 0.05, 1.0):
            sizes = shape.x, shape.w
            arrays = [random_bits(fmt, math.prod(size), rng, wild).view(name).reshape(size) for size in sizes]
            found.append((*frozen(*arrays, convolved(*arrays, shape, -0.3)), shape))
        for low, high in ((-26, 13), (-99, -97), (-60, -40), (60, 90)):
            arrays = [numbers(rng, name, shape.x, low, high), numbers(rng, name, shape.w, -8, 8)]
            found.append((*frozen(*arrays, convolved(*arrays, shape, -0.3)), shape))
    return found


@st.composite
def convolutions(draw: st.DrawFn) -> Convolution:
    groups, inputs, outputs = (draw(st.integers(1, most)) for most in (3, 3, 4))
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    stride, dilation = (draw(st.tuples(st.integers(1, 3), st.integers(1, 3))) for _ in range(2))
    padding = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    least = [max(0, dilation[i] * (kernel[i] - 1) + 1 - 2 * padding[i]) for i in range(2)]
    image = [least[i] + draw(st.integers(0, 6)) for i in range(2)]
    x = (draw(st.integers(0, 2)), groups * inputs, *image)
    return Convolution(x, (groups * outputs, inputs, *kernel), stride, padding, dilation, groups)


@given(convolutions(), st.sampled_from(DTYPES), st.sampled_from(CORRECTIONS), st.integers(0, 2**32 - 1))
def test_any_convolution(variant, shape, name, correction, seed):
    x, w = shape.operands(np.random.default_rng(seed), name, 0.1)
    same(mitchell_conv2d(x, w, correction=correction, **shape.options), convolved(x, w, shape, correction))


@given(convolutions(), st.sampled_from(SCALES), st.sampled_from(CORRECTIONS), st.integers(0, 2**32 - 1))
def test_equal_bits_of_any_convolution_on_each(monkeypatch, shape, name, correction, seed):
    x, w = shape.operands(np.random.default_rng(seed), name, 0.1)
    on_each(lambda: [mitchell_conv2d(x, w, correction=correction, **shape.options)], monkeypatch)


@pytest.mark.parametrize("name", SCALES)
def test_equal_bits_of_large_convolutions_on_each(monkeypatch, name):
    rng = np.random.default_rng(28)
    shapes = [Convolution((2, 70, 30, 31), (20, 70, 3, 3), padding=1)]
    shapes += [Convolution((1, 16, 50, 49), (32, 1, 5, 5), (1, 2), (2, 1), groups=16)]
    cases = [(shape, *shape.operands(rng, name, zeros)) for shape in shapes for zeros in (0, 0.1)]
    on_each(lambda: [mitchell_conv2d(x, w, **shape.options) for shape, x, w in cases], monkeypatch)


SPLIT_CONVOLUTIONS: dict[str, tuple[Convolution, int | None]] = {
    "images": (Convolution((10, 16, 24, 25), (16, 16, 3, 3), padding=1), 0),
    "groups": (Convolution((1, 40, 56, 55), (80, 4, 5, 5), padding=2, groups=10), 1),
    "pixels": (Convolution((1, 16, 60, 59), (24, 16, 3, 3), padding=1), 2),
    "few groups": (Convolution((1, 16, 60, 59), (48, 8, 3, 3), padding=1, groups=2), None),
}


@functools.cache
def split_convolution(how: str, name: str) -> tuple[Any, ...]:
    """Operands, and of the last image the first and last channel of each group."""
    shape = SPLIT_CONVOLUTIONS[how][0]
    x, w = shape.operands(np.random.default_rng(29), name, 0.0001)
    per_group = w.reshape(shape.groups, -1, *w.shape[1:])
    chosen = np.arange(len(w)).reshape(shape.groups, -1)[:, [0, -1]].reshape(-1)
    return (*frozen(x, w, convolved(x[-1:], per_group[:, [0, -1]].reshape(-1, *w.shape[1:]), shape)), chosen)


@pytest.mark.parametrize("how", SPLIT_CONVOLUTIONS)
@pytest.mark.parametrize("name", SCALES)
def test_threads_of_convolutions(in_pieces, name, how):
    shape, axis = SPLIT_CONVOLUTIONS[how]
    x, w, wanted, chosen = split_convolution(how, name)
    pixels = math.prod(wanted.shape[2:])
    got = in_pieces(lambda: mitchell_conv2d(x, w, **shape.options).reshape(len(x), len(w), pixels), axis)
    same(got[-1:, chosen], wanted.reshape(1, -1, pixels))


def correlation(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """What scipy makes of stride 1 and no padding."""
    return np.array([[sum(map(lambda a, b: signal.correlate2d(a, b, "valid"), each, k)) for k in w] for each in x])


def test_conv2d_with_powers_of_two_is_exact(variant):
    """By scipy, in which there is nothing of this package and of its oracle."""
    rng = np.random.default_rng(30)
    x = rng.integers(-99, 100, (2, 3, 12, 11)).astype(np.float64)
    w = np.ldexp(rng.choice([-1.0, 1.0], (5, 3, 3, 4)), rng.integers(-3, 4, (5, 3, 3, 4)))
    wanted = correlation(x, w) + 0.0
    same(mitchell_conv2d(x, w), wanted)
    same(mitchell_conv2d(x.astype(np.float32), w.astype(np.float16)), wanted.astype(np.float32))
    padded = correlation(np.pad(x, ((0, 0), (0, 0), (2, 2), (1, 1))), w) + 0.0
    same(mitchell_conv2d(x, w, padding=(2, 1)), padded)
    same(mitchell_conv2d(x, w, padding=(2, 1), stride=(3, 2)), padded[:, :, ::3, ::2])
    spread = np.zeros((5, 3, 5, 10))
    spread[:, :, ::2, ::3] = w
    same(mitchell_conv2d(x, w, dilation=(2, 3)), correlation(x, spread) + 0.0)
    groups = np.concatenate([correlation(x[:, i : i + 1], w[i : i + 1, :1]) for i in range(3)], axis=1) + 0.0
    same(mitchell_conv2d(x, w[:3, :1], groups=3), groups)
    whole = rng.integers(-128, 128, (1, 2, 9, 9)).astype(np.int8)
    ones = rng.choice(np.array([-64, -4, 1, 2, 32], np.int8), (3, 2, 3, 3))
    same(mitchell_conv2d(whole, ones), correlation(whole.astype(np.int32), ones.astype(np.int32)).astype(np.int32))


def test_conv2d_is_matmul_of_patches(variant):
    """By the other function, for an image and a kernel of more terms than a block has."""
    rng = np.random.default_rng(31)
    shape = Convolution((1, 60, 7, 9), (21, 60, 3, 3), (2, 1), (1, 0))
    for name in SCALES:
        x, w = shape.operands(rng, name)
        patches = unfolded(x, (3, 3), (2, 1), (1, 0), (1, 1))[0].reshape(540, -1)
        got = mitchell_conv2d(x, w, **shape.options)
        same(got.reshape(21, -1), mitchell_matmul(w.reshape(21, 540), patches))


def test_conv2d_shapes_that_are_refused(variant):
    x, w = np.ones((1, 4, 5, 6), np.float32), np.ones((6, 4, 3, 3), np.float32)
    for pair in ((x[0], w), (x, w[0]), (x[None], w), (x, w[None]), (1.0, w), (x, 1.0)):
        with pytest.raises(ValueError, match=r"x, w: shapes .*; allowed are \(N, C, H, W\) and \(O, C / groups,"):
            mitchell_conv2d(*pair)
    for weights, groups in ((w[:, :3], 1), (w, 2), (w[:, :2], 1), (w[:, :1], 3), (w[:5, :2], 2), (w[:, :0], 5), (w, 7)):
        with pytest.raises(ValueError, match=rf"x, w: shapes .* with groups={groups}; groups must divide 4 and"):
            mitchell_conv2d(x, weights, groups=groups)
    for empty in (w[:, :, :0], w[:, :, :, :0]):
        with pytest.raises(ValueError, match=r"w: shape .*; the kernel has no elements"):
            mitchell_conv2d(x, empty)
    too_large: list[dict[str, Any]] = [{"dilation": 3}, {"dilation": (3, 1)}, {"dilation": 100, "padding": 90}]
    for options in (*too_large, {"dilation": (1, 3), "padding": (5, 0)}):
        with pytest.raises(ValueError, match=r"x: 5 x 6 pixels and padding \(\d+, \d+\); the kernel spans \d+ x \d+"):
            mitchell_conv2d(x, w, **options)
    with pytest.raises(ValueError, match=r"x: 2 x 6 pixels and padding \(0, 0\); the kernel spans 3 x 3"):
        mitchell_conv2d(x[:, :, :2], w)
    mitchell_conv2d(x, w, dilation=(2, 2))


@pytest.mark.parametrize("name", ["stride", "padding", "dilation", "groups"])
def test_conv2d_numbers_that_are_refused(variant, name):
    x, w = np.ones((1, 4, 5, 6), np.float32), np.ones((6, 4, 3, 3), np.float32)
    least = 0 if name == "padding" else 1
    for wrong in (least - 1, -5, 2**70 * (least - 2)):
        with pytest.raises(ValueError, match=f"{name}={wrong}: allowed is .*{least}"):
            mitchell_conv2d(x, w, **{name: wrong})
    for wrong in (1.0, "same", None, 1j, [1.5, 1], (1, None)):
        if name == "groups" or not isinstance(wrong, (list, tuple)):
            with pytest.raises(TypeError, match=f"{name}=.*: an integer is needed"):
                mitchell_conv2d(x, w, **{name: wrong})
    if name == "groups":
        return
    for wrong in ((), (1,), (1, 1, 1), [1, 1, 1, 1]):
        with pytest.raises(ValueError, match=f"{name}=.*: allowed are one number and two"):
            mitchell_conv2d(x, w, **{name: wrong})
    for wrong in ((1, least - 1), [least - 1, 1]):
        with pytest.raises(ValueError, match=f"{name}={least - 1}: allowed is"):
            mitchell_conv2d(x, w, **{name: wrong})
    with pytest.raises(ValueError, match=f"{name}={2**31}: allowed is"):
        mitchell_conv2d(x, w, **{name: 2**31})


def test_in_an_interpreter_of_its_own(run_python, backend):
    code = "import fastk; print(fastk.mitchell_matmul([[3.0]], [[3.0]]), fastk.mitchell_dot([3.0], [3.0]))"
    code += "; print(fastk.mitchell_conv2d([[[[3.0]]]], [[[[3.0]]]]))"
    done = run_python("-c", code, FASTK_BACKEND=backend)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[[8.]] 8.0\n[[[[8.]]]]\n", "")
