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
SCALES = ["float32", "float64", "int8"]
"""One dtype for each kernel."""

# Tiles have 6 or 8 rows and 8, 16 or 32 columns, or rows of 128; blocks have 192 rows, 512 or 32 terms, 2048 columns.
ROWS = [*range(1, 10), 12, 13, 191, 192, 193]
COLUMNS = [1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129]
TERMS = [0, 1, 2, 31, 32, 33, 511, 512, 513, 600]
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
    """Exponents: of what stands for a zero in the C core; of what it may meet, from least up and below most; above which
    its products must be; and below which a sum is nothing.
    """

    tiny: int
    least: int
    most: int
    floor: int
    nothing: int


LIMITS = {"float32": Limits(-99, -26, 14, -34, -60), "float64": Limits(-620, -300, 200, -300, -360)}
M, N = 13, 37

Pair = tuple[np.ndarray, np.ndarray]


def cancelling(rng: np.random.Generator, a: np.ndarray, b: np.ndarray) -> Pair:
    """Every other product is what the one before was, less; or one unit in the last place off that."""
    even = a.shape[1] // 2 * 2
    a, b = a.copy(), b.copy()
    b[1:even:2] = b[0:even:2]
    back = -a[:, 0:even:2]
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
    in_a = {"a": between, "b": np.zeros(most, bool), "both": between, "either": between & (rng.random(most) < 0.5)}[where]
    in_b = between if where == "both" else between & ~in_a
    left, right = np.where(in_a, a.dtype.type(0), fill[0]), np.where(in_b[:, None], b.dtype.type(0), fill[1])
    left[:, at], right[at] = a, b
    return np.where(left == 0, np.copysign(left, fill[0]), left), right


def terms_between_zeros(
    rng: np.random.Generator, dtype: str, a: tuple[int, int], b: tuple[int, int], where: str, terms: int = 14
) -> Pair:
    """With exponents in these ranges, everywhere."""
    pair = cancelling(rng, numbers(rng, dtype, (M, terms), *a), numbers(rng, dtype, (terms, N), *b))
    fill = numbers(rng, dtype, (M, 2 * terms), *a), numbers(rng, dtype, (2 * terms, N), *b)
    return apart(rng, pair, fill, where)


@functools.cache
def thresholds(name: str, where: str) -> list[tuple[np.ndarray, ...]]:
    """Exponents of the operands on both sides of each limit, and what the products are."""
    limits, cases = LIMITS[name], []
    rng = np.random.default_rng(len(where))
    for least, most, floor in itertools.product((-1, 0, 1), (-1, 0), (0, 1, 2)):
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
        same(mitchell_matmul(a, b, correction=correction), wanted)
        for m in (1, 3):
            same(mitchell_matmul(a[:m], b, correction=correction), wanted[:m])


@functools.cache
def blocks(name: str, first: int, where: str) -> tuple[Any, ...]:
    """Sums of a first block of 512 whose products have this exponent, and then zeros among ordinary numbers, or alone."""
    rng, limits = np.random.default_rng(first % 1000), LIMITS[name]
    a, b = numbers(rng, name, (M, 512), first // 2, first // 2), numbers(rng, name, (512, N), -(-first // 2), -(-first // 2))
    a, b = cancelling(rng, a, b)
    # Rows that stop early, or whose sums of the first block are nothing.
    a[1, 2:], a[2, 1:], a[3] = 0, 0, 0
    a[5, -1] = 0
    after_a, after_b = terms_between_zeros(rng, name, (0, 3), (limits.least + 1, limits.most - 1), where)
    after_a[::3] = 0
    a, b = np.hstack([a, after_a]), np.vstack([b, after_b])
    return (*frozen(a, b), [(correction, *frozen(product(a, b, correction))) for correction in (None, 0.5, -0.5)])


@pytest.mark.parametrize("where", ["a", "b", "both"])
@pytest.mark.parametrize("name", LIMITS)
def test_zeros_after_a_block_of_small_sums(variant, name, where):
    limits = LIMITS[name]
    for first in (limits.floor, limits.floor - 1, limits.nothing + 1, limits.nothing, 2 * limits.nothing, limits.tiny):
        a, b, results = blocks(name, first, where)
        for correction, wanted in results:
            same(mitchell_matmul(a, b, correction=correction), wanted)
            same(mitchell_matmul(a[1:4], b[:, :1], correction=correction), wanted[1:4, :1])


@functools.cache
def of_the_tiny(name: str, where: str, correction: Any) -> list[tuple[np.ndarray, ...]]:
    """Numbers with the very bits that stand for a zero, with this correction or without, and their neighbours."""
    fmt, limits = FORMATS[name], LIMITS[name]
    rng = np.random.default_rng(4)
    tiny = (limits.tiny + fmt.bias) << fmt.m
    shift = round(oracle.bias("mul", correction) * 2**fmt.m)
    near = [tiny + d + more for d in (0, shift, -shift) for more in (-1, 0, 1, -(1 << fmt.m), 1 << fmt.m, 2 << fmt.m)]
    values = np.array([*near, *(bits | fmt.sign for bits in near)], fmt.word).view(name)
    cases = []
    # The other operand's products with them are small, or as large as those of other numbers.
    for low, high in ((-3, 3), (limits.floor - limits.tiny + 2, limits.floor - limits.tiny + 9)):
        for own in (0, 1):
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
        same(mitchell_matmul(a, b, correction=correction), wanted)


def test_all_signs_of_nothing(variant):
    for name in ("float32", "float64"):
        zero, one = np.zeros((3, 40), name), np.ones((40, 17), name)
        for a, b in itertools.product((zero, -zero), (one, -one, one * 0, -one * 0)):
            same(mitchell_matmul(a, b), np.zeros((3, 17), name))
        a = np.ones((3, 40), name)
        a[:, 1::2] = -1
        same(mitchell_matmul(a, one), np.zeros((3, 17), name))


# ---- operands of all kinds


def special_cases(name: str) -> dict[str, Callable[[np.random.Generator], Pair]]:
    """What may be among ordinary numbers."""
    fmt = FORMATS[name]
    largest, k = fmt.bias, 40

    def usual(rng: np.random.Generator) -> Pair:
        return numbers(rng, name, (M, k), -4, 3), numbers(rng, name, (k, N), -4, 3)

    def among(*values: float, left: float = 0, right: float = 0, zeros: float = 0) -> Callable[..., Pair]:
        def make(rng: np.random.Generator) -> Pair:
            pair = []
            for array, share in zip(usual(rng), (left, right), strict=True):
                array = with_zeros(rng, array, zeros)
                array = np.where(rng.random(array.shape) < share, rng.choice(np.array(values, name), array.shape), array)
                pair.append(array)
            if not (left or right):  # one of them, once
                pair[0][rng.integers(M), rng.integers(k)] = values[0]
            return pair[0], pair[1]

        return make

    def lines_of_zeros(rng: np.random.Generator) -> Pair:
        a, b = usual(rng)
        a[2::4], b[:, ::3], a[:, 5:9], b[20:30] = 0, 0, 0, -0.0
        return a, b

    def of_exponents(a: tuple[int, int], b: tuple[int, int], zeros: float = 0) -> Callable[..., Pair]:
        def make(rng: np.random.Generator) -> Pair:
            pair = numbers(rng, name, (M, k), *a), numbers(rng, name, (k, N), *b)
            return with_zeros(rng, pair[0], zeros), with_zeros(rng, pair[1], zeros)

        return make

    def any_bits(wild: float) -> Callable[..., Pair]:
        def make(rng: np.random.Generator) -> Pair:
            a, b = (random_bits(fmt, rows * columns, rng, wild).view(name) for rows, columns in ((M, k), (k, N)))
            return a.reshape(M, k), b.reshape(k, N)

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


@pytest.mark.parametrize("case", special_cases("float32"))
@pytest.mark.parametrize("name", LIMITS)
def test_operands_of_all_kinds(variant, name, case):
    a, b, results = special(name, case)
    for correction, wanted in results.items():
        same(mitchell_matmul(a, b, correction=correction), wanted)
        same(mitchell_matmul(a[:1], b[:, :1], correction=correction), wanted[:1, :1])
        same(mitchell_matmul(a[:2], b[:, :8], correction=correction), wanted[:2, :8])


def test_the_cases_are_what_they_are_called():
    """They reach infinities, nans, zeros and subnormals where they should."""
    for name in LIMITS:
        for case in ("one inf", "sums at the upper end", "infinities", "both ends"):
            assert np.isinf(special(name, case)[2][None]).any()
        for case in ("one nan", "infinities", "inf and zeros", "sums at the upper end", "both ends"):
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
        row = product(left[i : i + 1], b)
        same(mitchell_matmul(left, b)[i], row[0])
    wanted = product(a, b)
    for j in range(65):
        right = b.copy()
        right[j % 6, j] = value
        got = mitchell_matmul(a, right)
        same(got[:, j], product(a, right[:, j : j + 1])[:, 0])
        same(np.delete(got, j, 1), np.delete(wanted, j, 1))


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


@pytest.mark.parametrize("right", DTYPES)
@pytest.mark.parametrize("left", DTYPES)
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
        for other in ("float16", "float32", "float64", "int8"):
            wanted = np.full((2, 2), np.nan, "float64" if other == "float64" else "float32")
            same(mitchell_matmul(a, np.ones((3, 2), other)), wanted)
            same(mitchell_conv2d(a[None, None], np.ones((1, 1, 1, 2), other)), wanted[None, None])


@pytest.mark.parametrize("correction", CORRECTIONS)
@pytest.mark.parametrize(("left", "right"), itertools.product(["int8", "uint8"], repeat=2))
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
    [("int8", "int8", -128, -128), ("int8", "int8", -128, 127), ("uint8", "uint8", 255, 255), ("uint8", "int8", 255, -128)],
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
    same(mitchell_matmul(np.broadcast_to(np.float32(3), (5, 9)), np.broadcast_to(np.float32(3), (9, 40))), np.full((5, 40), 72, np.float32))


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
        "field": np.array(list(array.reshape(-1)), np.dtype([("x", np.int8), ("y", array.dtype)], align=True))["y"].reshape(array.shape)
        if array.dtype.name == "skip"
        else array,
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
