"""Taylor polynomials of exp: csrc/taylor.h, taylor_lanes.h, taylor_rows.h and taylor.c, where the method is explained.

The passes over a block, and conversions, are expressions on `Lanes` that make LLVM's code, and read as they do in C. A
kernel has a table of its own of them. What is around them, numba compiles once for all kernels: it is told at run time
how wide floats are, and works with addresses.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from .memory import address, stack
from .mitchell import S64, bits, real
from .mitchell_gemm import bytes_of, offset

# Arguments are int64 throughout: of a function that takes a literal, numba makes one for each.
NUMBERS = tuple(map(np.int64, range(32)))
ZERO, ONE = NUMBERS[:2]
LEAST, MOST = 2.0**-1022, 1.7976931348623157e308  # normal numbers
F16, BF16, F32, F64 = NUMBERS[:4]
SOFTMAX, LOG, SOFTMAX_VJP, LOG_VJP, FAST, EXP, GELU, GELU_TANH, GELU_SIGMOID, OPS = NUMBERS[:10]
ORDER_2, ORDER_4, ANY_ORDER, KINDS = NUMBERS[:4]
PASS_NONE, PASS_MAX, PASS_SUM, PASS_PUT, PASS_SCALE, PASS_SUM_VJP, PASS_PUT_VJP, PASS_SUM_LOGVJP = NUMBERS[:8]
PASS_PUT_LOGVJP, PASS_SUM_FAST, PASS_PUT_FAST, PASS_SUM_LOG, PASS_PUT_LOG, PASS_SUM_LOG_PAIR = NUMBERS[8:14]
PASS_PUT_LOG_PAIR, PASS_EXP, PASS_GELU, PASS_GELU_TANH, PASS_GELU_SIGMOID, PASSES = NUMBERS[14:20]
PASSES_OF_OP = (
    (PASS_SUM, PASS_PUT),
    (PASS_SUM_LOG, PASS_PUT_LOG),
    (PASS_SUM_VJP, PASS_PUT_VJP),
    (PASS_SUM_LOGVJP, PASS_PUT_LOGVJP),
    (PASS_SUM_FAST, PASS_PUT_FAST),
    (PASS_NONE, PASS_EXP),
    (PASS_NONE, PASS_GELU),
    (PASS_NONE, PASS_GELU_TANH),
    (PASS_NONE, PASS_GELU_SIGMOID),
    (PASS_SUM_LOG_PAIR, PASS_PUT_LOG_PAIR),
)
WIDEN, NARROW = NUMBERS[:2]

PAIRS, LANES, GROUP, BLOCK, TILE, KEPT_BYTES, SUM_BLOCK = 6, 16, 64, 1024, 16, 16384, 1024
VECTOR_BYTES = 64
PLAN_ORDER, PLAN_RATE, PLAN_FLOOR, PLAN_VALUE = NUMBERS[:4]
POLY_SCALE, POLY_LEAD, POLY_ROOT, POLY_A, POLY_B, POLY_SIZE = NUMBERS[:4] + NUMBERS[3 + PAIRS : 4 + 2 * PAIRS : PAIRS]
PLAN_SLOPE, PLAN_MARGIN = PLAN_VALUE + POLY_SIZE, PLAN_VALUE + 2 * POLY_SIZE
# What passes take of a row, in floats of their width: f, its derivative, and what is `now`.
SCALE, FLOOR, LEAD, ROOT, A, B, POLYNOMIAL = *NUMBERS[:5], NUMBERS[4 + PAIRS], NUMBERS[4 + 2 * PAIRS]
MAX, FACTOR, MEAN, SUM, SUM_LOW, NEAR_ONE, INVERSE, NOW = NUMBERS[:8]

# A call: words that say what it is about, views (an address and steps in bytes), and its room.
OP, STORAGE, WIDE, ORDER, PLAIN, MASKED, ROWS, M, N, PLAN, TABLE, TABLE_32, TABLE_64 = NUMBERS[:13]
X, G, WHERE, OUT = NUMBERS[16:32:4]
START, ROW, OUTER, STEP = NUMBERS[:4]
NOW_BYTES, STATE_BYTES = 8 * NOW, np.int64(32 * LANES)
BLOCKS = (*[8 * BLOCK] * 4, BLOCK, BLOCK + GROUP, KEPT_BYTES, *[8 * GROUP] * 3, GROUP)
ROOMS = np.cumsum([8 * 32, *BLOCKS, 16 * POLYNOMIAL, TILE * NOW_BYTES, TILE * STATE_BYTES])
X_ROOM, G_ROOM, OUT_ROOM, RAW_ROOM, MASK_ROOM, EVERY, KEPT, LAST_X, LAST_G, LAST_OUT, LAST_MASK = ROOMS[:11]
POLYNOMIALS, NOWS, STATES, CALL_BYTES = ROOMS[11:]
CALL_WORDS = int(CALL_BYTES + VECTOR_BYTES) // 8

HALF, SINGLE, DOUBLE = np.uint16(0), np.float32(0), np.float64(0)
BYTE, WORD, INT, FLOAT, REAL = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType(), ir.DoubleType()


def exact(text: str) -> tuple[float, ...]:
    return tuple(map(float.fromhex, text.split()))


LOG2_E, LN2_HIGH, LN2_LOW, SQRT_HALF = exact(
    "0x1.71547652b82fep0 0x1.62e42feep-1 0x1.a39ef35793c76p-33 0x1.6a09e667f3bcdp-1"
)
SPLITTER = 2.0**27 + 1
LOG_0, LOG_1, LOG_2, LOG_3, LOG_4, LOG_5, LOG_6, LOG_7 = exact(
    """0x1.5555555555555p-1 0x1.9999999999a38p-2 0x1.2492492476c42p-2 0x1.c71c720168526p-3
    0x1.745cf8fe328f9p-3 0x1.3b1c36b445cebp-3 0x1.0fbe71ad855c9p-3 0x1.0c05166ec4148p-3"""
)


class Maps(NamedTuple):
    """Constants of the maps, for one width of floats."""

    shift: int
    bias: int
    magic: float
    low: float
    high: float
    log2_e: float
    ln2_high: float
    ln2_low: float
    exp: tuple[float, ...]
    limit: float
    cut: int
    root_2: float
    tail: tuple[float, ...]
    gelu_1: float
    gelu_3: float
    sigmoid: float


MAPS_32 = Maps(
    *(23, 127, 1.5 * 2**23, -87.0, 88.0, *exact("0x1.715476p0 0x1.62e4p-1 0x1.7f7d1cp-20")),
    exact("0x1p-1 0x1.5554dcp-3 0x1.55551ap-5 0x1.120b6ep-7 0x1.6d110ap-10"),
    *(13.125, 12, *exact("0x1.6a09e6p0")),
    exact(
        """0x1.3ddc3ep-1 -0x1.1eef4ap-4 -0x1.12d528p-8 0x1.86571ap-5 -0x1.d4436ap-5 0x1.6baf12p-5 -0x1.9c4b64p-6
        0x1.4f54b8p-7 -0x1.476d46p-9 -0x1.ebabdcp-14 0x1.3ed6eap-12"""
    ),
    *(*exact("0x1.988454p+0 0x1.2444f2p-4"), float(np.float32(-1.702))),
)
MAPS_64 = Maps(
    *(52, 1023, 1.5 * 2**52, -708.0, 709.0, LOG2_E, LN2_HIGH, LN2_LOW),
    exact(
        """0x1p-1 0x1.5555555555557p-3 0x1.5555555555556p-5 0x1.11111111100dcp-7 0x1.6c16c16c162d4p-10
        0x1.a01a01abe7fe1p-13 0x1.a01a01a6d889cp-16 0x1.71de0231960ebp-19 0x1.27e4db646b17ep-22
        0x1.af4de97ca4194p-26 0x1.1f730349868cep-29"""
    ),
    *(37.5, 27, 2 * SQRT_HALF),
    exact(
        """0x1.3ddc3d8fef7c6p-1 -0x1.1eef47981a4a3p-4 -0x1.12d6bf7985a25p-8 0x1.86567c44c3b86p-5
        -0x1.d43f36c0286d6p-5 0x1.6bb7292c70adep-5 -0x1.9c86836552e4bp-6 0x1.4e860d6a6e694p-7
        -0x1.429a5a6f7aa7ap-9 -0x1.76224aef8f0ccp-15 0x1.28a1816ecad83p-12 -0x1.3fa706399893ap-14
        -0x1.18f8ddcce70e7p-16 0x1.bf9b2602101ddp-17 0x1.823e982b48950p-23 -0x1.0606ec94e5608p-19
        0x1.4022071395d11p-23 0x1.3f67369a8dadap-22 -0x1.1528ec1c7e0aep-25 -0x1.aaabc4e425b31p-25
        0x1.e39caf1ae9a49p-29 0x1.22d88eec22280p-27 0x1.e29232321fea0p-32 -0x1.1f8539849ca88p-30
        -0x1.0dd2e125539abp-32"""
    ),
    *(*exact("0x1.9884533d43651p+0 0x1.2444f2a4d8b4bp-4"), -1.702),
)


# ---- vectors, while code is built


def is_float(element: Any) -> bool:
    return isinstance(element, (ir.FloatType, ir.DoubleType))


def bytes_in(element: Any) -> int:
    return int(element.width // 8) if isinstance(element, ir.IntType) else 4 if isinstance(element, ir.FloatType) else 8


def vector_at(builder: Any, start: Any, at: Any, element: Any, count: int) -> Any:
    """A pointer to a vector, from a pointer to bytes and the number of its first element."""
    there = builder.gep(builder.bitcast(start, element.as_pointer()), [at])
    return builder.bitcast(there, ir.VectorType(element, count).as_pointer())


def steps(builder: Any, n: Any, step: int, first: Any = 0) -> Any:
    """A loop from the first to n."""
    first = n.type(first) if isinstance(first, int) else first
    return cgutils.for_range_slice(builder, first, n, n.type(step), inc=step > 0)


def _operator(floats: str = "", integers: str = "", turned: bool = False) -> Callable[[Any, Any], Any]:
    def operate(self: Lanes, other: Any) -> Lanes:
        pair = (self, self.like(other))
        make = getattr(self.builder, floats if is_float(self.type.element) else integers)
        return apply(make, *(reversed(pair) if turned else pair))

    return operate


def _comparison(sign: str) -> Callable[[Any, Any], Any]:
    def compare(self: Lanes, other: Any) -> Lanes:
        make = self.builder.fcmp_ordered if is_float(self.type.element) else self.builder.icmp_unsigned
        return apply(lambda a, b: make(sign, a, b), self, self.like(other))

    return compare


class Lanes:
    """A few vectors: operators add an instruction for each. The other operand may be one vector for all, or a number.

    A comparison makes vectors of bits; with a nan it is false.
    """

    def __init__(self, builder: Any, vectors: list[Any]) -> None:
        self.builder, self.vectors, self.type = builder, vectors, vectors[0].type

    def like(self, other: Any) -> Lanes:
        if isinstance(other, Lanes):
            return other
        return Lanes(self.builder, [ir.Constant(self.type, [other] * self.type.count)])

    def slices(self) -> list[Lanes]:
        return [Lanes(self.builder, [vector]) for vector in self.vectors]

    def cast(self, how: str, element: Any) -> Lanes:
        make, target = getattr(self.builder, how), ir.VectorType(element, self.type.count)
        return apply(lambda a: make(a, target), self)

    def bits(self) -> Lanes:
        return self.cast("bitcast", ir.IntType(8 * bytes_in(self.type.element)))

    def real(self) -> Lanes:
        return self.cast("bitcast", FLOAT if bytes_in(self.type.element) == 4 else REAL)

    __add__ = __radd__ = _operator("fadd", "add")
    __sub__, __rsub__ = _operator("fsub", "sub"), _operator("fsub", "sub", turned=True)
    __mul__ = __rmul__ = _operator("fmul")
    __truediv__, __rtruediv__ = _operator("fdiv"), _operator("fdiv", turned=True)
    __and__, __or__ = _operator(integers="and_"), _operator(integers="or_")
    __lshift__, __rshift__ = _operator(integers="shl"), _operator(integers="lshr")
    __lt__, __gt__, __ge__ = map(_comparison, ("<", ">", ">="))

    def __neg__(self) -> Lanes:
        return apply(self.builder.fneg, self)


def apply(make: Callable[..., Any], *operands: Lanes) -> Lanes:
    """An instruction for each vector of the operands."""
    count = max(len(each.vectors) for each in operands)
    rows = [[each.vectors[i % len(each.vectors)] for each in operands] for i in range(count)]
    return Lanes(operands[0].builder, [make(*row) for row in rows])


def equal(a: Lanes, b: Lanes) -> Lanes:
    return apply(lambda x, y: a.builder.fcmp_ordered("==", x, y), a, b)


def pick(condition: Lanes, yes: Any, no: Any) -> Lanes:
    yes, no = (yes, yes.like(no)) if isinstance(yes, Lanes) else (no.like(yes), no)
    return apply(condition.builder.select, condition, yes, no)


def larger(a: Any, b: Lanes) -> Lanes:
    """a > b ? a : b, so of a nan, b."""
    return pick(b < a, a, b)


def smaller(a: Any, b: Lanes) -> Lanes:
    return pick(b > a, a, b)


def four(e: Lanes) -> Lanes:
    a, b, c, d = e.slices()
    return (a + b) + (c + d)


class Variable:
    """What changes in loops."""

    def __init__(self, first: Lanes) -> None:
        self.builder = first.builder
        self.places = [cgutils.alloca_once_value(self.builder, vector) for vector in first.vectors]

    def get(self) -> Lanes:
        return Lanes(self.builder, [self.builder.load(place) for place in self.places])

    def set(self, value: Lanes) -> None:
        for place, vector in zip(self.places, value.vectors, strict=True):
            self.builder.store(vector, place)


class Block:
    """A block of a row, while a pass over it is built: `at` is where the loop is, `apart` the step between vectors."""

    def __init__(self, builder: Any, real: Any, kind: int, plain: bool, arguments: Any) -> None:
        self.builder, self.element, self.kind, self.plain = builder, real, kind, plain
        self.row, self.now, self.x, self.g, self.mask, self.out, self.n, self.state, order = arguments
        self.size = bytes_in(real)
        self.width = VECTOR_BYTES // self.size
        self.constants = MAPS_32 if self.size == 4 else MAPS_64
        self.before, self.entries = builder.basic_block, {}
        self.f = Polynomial(self, 0, order)
        self.d = Polynomial(self, POLYNOMIAL, builder.sub(order, order.type(1)))
        self.sums: list[Variable] = []
        self.at, self.apart, self.slices = None, 0, 0

    def place(self, start: Any, s: int = 0, element: Any = None) -> Any:
        at = self.builder.add(self.at, self.n.type(self.apart * s))
        return vector_at(self.builder, start, at, element or self.element, self.width)

    def load(self, start: Any, element: Any = None) -> Lanes:
        align = bytes_in(element or self.element)
        places = [self.place(start, s, element) for s in range(self.slices)]
        return Lanes(self.builder, [self.builder.load(place, align=align) for place in places])

    def store(self, value: Lanes) -> None:
        for s, vector in enumerate(value.vectors):
            self.builder.store(vector, self.place(self.out, s), align=self.size)

    def masked(self, value: Lanes, other: float = 0.0) -> Lanes:
        return value if self.plain else pick(self.load(self.mask, BYTE) > 0, value, other)

    def splat(self, scalar: Any) -> Lanes:
        zero = ir.Constant(ir.VectorType(self.element, self.width), None)
        vector = self.builder.insert_element(zero, scalar, WORD(0))
        order = ir.Constant(ir.VectorType(WORD, self.width), None)
        return Lanes(self.builder, [self.builder.shuffle_vector(vector, zero, order)])

    def number(self, start: Any, at: Any) -> Lanes:
        there = self.builder.gep(self.builder.bitcast(start, self.element.as_pointer()), [at])
        return self.splat(self.builder.load(there))

    def entry(self, start: Any, at: int) -> Lanes:
        """A number that is the same for all elements, loaded before the loop."""
        if (start, at) not in self.entries:
            with self.builder.goto_block(self.before):
                self.entries[start, at] = self.number(start, self.n.type(at))
        return self.entries[start, at]

    def current(self, at: int) -> Lanes:
        return self.entry(self.now, at)

    def add(self, place: int, term: Lanes) -> None:
        self.sums[place].set(self.sums[place].get() + term)

    def map(self, step: Callable[[Block], None], slices: int) -> None:
        self.slices, self.apart = slices, self.width
        with steps(self.builder, self.n, slices * self.width) as (self.at, _):
            step(self)

    def reduce(self, step: Callable[[Block], None], slices: int, sums: int) -> None:
        """So many sums of each lane, one vector of lanes after the other."""
        self.slices, self.apart = slices, LANES
        with steps(self.builder, self.n.type(LANES), self.width) as (lane, _):
            state = [self.builder.add(lane, lane.type(k * LANES)) for k in range(sums)]
            state = [vector_at(self.builder, self.state, at, self.element, self.width) for at in state]
            self.sums = [Variable(Lanes(self.builder, [self.builder.load(p, align=self.size)])) for p in state]
            with steps(self.builder, self.n, slices * LANES) as (i, _):
                self.at = self.builder.add(i, lane)
                step(self)
            for place, total in zip(state, self.sums, strict=True):
                self.builder.store(total.get().vectors[0], place, align=self.size)


class Polynomial:
    """Of a row; how many pairs it has is not known when code is built."""

    def __init__(self, block: Block, start: int, degree: Any) -> None:
        self.block, self.start, self.pairs = block, start, block.builder.lshr(degree, degree.type(1))

    def entry(self, at: int) -> Lanes:
        return self.block.entry(self.block.row, self.start + at)

    def pair(self, k: int, t: Lanes) -> Lanes:
        u = t - self.entry(A + k)
        return u * u + self.entry(B + k)

    def times_pairs(self, y: Lanes, first: int, t: Lanes) -> Lanes:
        """y times all pairs from the first on."""
        b, result = self.block, Variable(y)
        with steps(b.builder, self.pairs, 1, first) as (k, _):
            a, c = (b.number(b.row, b.builder.add(k, k.type(self.start + at))) for at in (A, B))
            u = t - a
            result.set(result.get() * (u * u + c))
        return result.get()


# ---- polynomials


def argument(b: Block, x: Lanes) -> Lanes:
    if b.plain and b.kind == ORDER_2:
        return x
    x = x * b.f.entry(SCALE)
    return x if b.plain else larger(b.f.entry(FLOOR), x)


def value(b: Block, t: Lanes) -> Lanes:
    if b.kind == ORDER_2:
        u = t + 1.0
        return u * u + 1.0
    y = b.f.pair(0, t)
    return y * b.f.pair(1, t) if b.kind == ORDER_4 else b.f.times_pairs(y, 1, t)


def derivative(b: Block, t: Lanes) -> Lanes:
    if b.kind == ORDER_2:
        return t + 1.0
    y = t - b.d.entry(ROOT)
    return y * b.d.pair(0, t) if b.kind == ORDER_4 else b.d.times_pairs(y, 0, t)


def slope(b: Block, x: Lanes) -> Lanes:
    """Left of the floor f does not change."""
    t = x * b.d.entry(SCALE)
    return pick(t < b.d.entry(FLOOR), 0.0, derivative(b, t))


def fast(b: Block) -> Lanes:
    """In the units of its plan lead is 1."""
    t = (b.load(b.x) - b.current(MAX)) * b.f.entry(SCALE)
    y = b.f.pair(0, t)
    if b.kind != ORDER_2:
        y = y * b.f.pair(1, t) if b.kind == ORDER_4 else b.f.times_pairs(y, 1, t)
    for _ in range(5):
        y = y * y
    return pick(t < b.f.entry(FLOOR), 0.0, y)


# ---- passes over rows


def pass_max(b: Block) -> None:
    for e in b.masked(b.load(b.x), -np.inf).slices():
        b.sums[0].set(larger(e, b.sums[0].get()))


def pass_sum(b: Block) -> None:
    e = b.masked(value(b, argument(b, b.load(b.x))))
    b.store(e)
    b.add(0, four(e))


def pass_put(b: Block) -> None:
    b.store(b.masked(value(b, argument(b, b.load(b.x))) * b.current(FACTOR)))


def pass_scale(b: Block) -> None:
    b.store(b.load(b.x) * b.current(FACTOR))


def pass_sum_fast(b: Block) -> None:
    e = b.masked(fast(b))
    b.store(e)
    b.add(0, four(e))


def pass_put_fast(b: Block) -> None:
    b.store(b.masked(fast(b) * b.current(FACTOR)))


def pass_sum_vjp(b: Block) -> None:
    e = b.masked(value(b, argument(b, b.load(b.x))))
    b.add(0, four(e))
    b.add(1, four(b.masked(b.load(b.g)) * e))


def pass_put_vjp(b: Block) -> None:
    y = slope(b, b.load(b.x)) * b.current(FACTOR)
    b.store(b.masked(y * (b.load(b.g) - b.current(MEAN))))


def pass_sum_logvjp(b: Block) -> None:
    b.add(0, four(b.masked(value(b, argument(b, b.load(b.x))))))
    b.add(1, four(b.masked(b.load(b.g))))


def pass_put_logvjp(b: Block) -> None:
    z = b.load(b.x)
    y = value(b, argument(b, z))
    r = slope(b, z) / y * b.current(FACTOR)
    b.store(b.masked(r * (b.load(b.g) - y * b.current(MEAN))))


# ---- the log form


def product_rest(a: Lanes, b: Lanes, product: Lanes) -> Lanes:
    c, d = SPLITTER * a, SPLITTER * b
    a1, b1 = c - (c - a), d - (d - b)
    a2, b2 = a - a1, b - b1
    return ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2


def sum_rest(a: Lanes, b: Lanes, total: Lanes) -> Lanes:
    c = total - a
    return (a - (total - c)) + (b - c)


def value_pair(b: Block) -> tuple[Lanes, Lanes]:
    """Horner's rule, whose coefficients are n, n (n - 1), ..., n!; what rounding loses is carried along."""
    t = argument(b, b.load(b.x))
    order = b.builder.shl(b.f.pairs, b.n.type(1))
    c = b.splat(b.builder.sitofp(order, b.element))
    y = t + c
    coefficient, high, low = Variable(c), Variable(y), Variable(sum_rest(t, c, y))
    with steps(b.builder, b.n.type(0), -1, b.builder.sub(order, order.type(1))) as (k, _):
        c = coefficient.get() * b.splat(b.builder.sitofp(k, b.element))
        product = high.get() * t
        rest = product_rest(high.get(), t, product)
        y = product + c
        low.set(low.get() * t + (rest + sum_rest(product, c, y)))
        high.set(y)
        coefficient.set(c)
    y, e = high.get(), low.get()
    total = y + e
    return total, e - (total - y)


def pass_sum_log(b: Block) -> None:
    top, rest = b.sums
    for e in b.masked(value(b, argument(b, b.load(b.x)))).slices():
        rest.set(rest.get() + smaller(top.get(), e))
        top.set(larger(e, top.get()))


def pass_sum_log_pair(b: Block) -> None:
    e, low = (b.masked(part) for part in value_pair(b))
    top, rest, top_low, rest_low = (total.get() for total in b.sums)
    above = e > top
    other, other_low = pick(above, top, e), pick(above, top_low, low)
    total = rest + other
    now = pick(above, e, top), total, pick(above, low, top_low), rest_low + (sum_rest(rest, other, total) + other_low)
    for place, changed in zip(b.sums, now, strict=True):
        place.set(changed)


def logarithm(r: Lanes, low: Any, near_one: Lanes, z: Lanes) -> Lanes:
    """log(r + low), r normal; or log(1 + z) where `near_one`."""
    root_half, one = 0x3FE6A09E667F3BCD, 0x3FF0000000000000
    u = r.bits() + (one - root_half)
    exponent = u >> 52
    k = (exponent | 0x4330000000000000).real() - (2.0**52 + 1023)
    m = ((u & 0xFFFFFFFFFFFFF) + root_half).real()
    t = (m - 1.0) + low * ((one + one) - (exponent << 52)).real()
    far = z < SQRT_HALF - 1
    t = pick(near_one, pick(far, 1.0 + (z + z), z), t)
    k = pick(near_one, pick(far, -1.0, z.like(0.0)), k)
    s = t / (2.0 + t)
    s2 = s * s
    s4, half = s2 * s2, 0.5 * t * t
    odd = s2 * (LOG_0 + s4 * (LOG_2 + s4 * (LOG_4 + s4 * LOG_6)))
    even = s4 * (LOG_1 + s4 * (LOG_3 + s4 * (LOG_5 + s4 * LOG_7)))
    return k * LN2_HIGH - ((half - (s * (half + (even + odd)) + k * LN2_LOW)) - t)


def pass_put_log(b: Block) -> None:
    e = value(b, argument(b, b.load(b.x)))
    r, near_one = e * b.current(INVERSE), e + e > b.current(SUM)
    b.store(b.masked(logarithm(r, r.like(0.0), near_one, b.current(NEAR_ONE)), -np.inf))


def pass_put_log_pair(b: Block) -> None:
    e, low = value_pair(b)
    inverse, total = b.current(INVERSE), b.current(SUM)
    r = e * inverse
    product = r * total
    rest = ((e - product) - product_rest(r, total, product)) + (low - r * b.current(SUM_LOW))
    b.store(b.masked(logarithm(r, rest * inverse, e + e > total, b.current(NEAR_ONE)), -np.inf))


# ---- maps


def exponential(b: Block, z: Lanes, low: Lanes) -> Lanes:
    """e^(z + low), z clamped to where the result is normal."""
    c = b.constants
    z = smaller(c.high, larger(c.low, z))
    k = z * c.log2_e + c.magic
    exponent = (k.bits() << c.shift) + (c.bias << c.shift)
    k = k - c.magic
    r = ((z - k * c.ln2_high) - k * c.ln2_low) + low
    if b.size == 4:
        q = c.exp[0] + r * (c.exp[1] + r * (c.exp[2] + r * (c.exp[3] + r * c.exp[4])))
    else:
        r2 = r * r
        r4 = r2 * r2
        pairs = [c.exp[i] + r * c.exp[i + 1] for i in range(0, 10, 2)]
        high = (pairs[2] + r2 * pairs[3]) + r4 * (pairs[4] + r2 * c.exp[10])
        q = (pairs[0] + r2 * pairs[1]) + r4 * high
    return (1.0 + (r + r * r * q)) * exponent.real()


def one_nan(y: Lanes) -> Lanes:
    return pick(equal(y, y), y, np.nan)


def pass_exp(b: Block) -> None:
    t = argument(b, b.load(b.x))
    u = t + 1.0
    b.store(one_nan(u * (0.5 * u) + 0.5 if b.kind == ORDER_2 else value(b, t) * b.f.entry(LEAD)))


def pass_gelu(b: Block) -> None:
    """See csrc/taylor_lanes.h."""
    c, x = b.constants, b.load(b.x)
    sign = 1 << (8 * b.size - 1)
    size = smaller(c.limit, (x.bits() & (sign - 1)).real())
    high = (size.bits() & (2 * sign - (1 << c.cut))).real()
    z, low = high * high * -0.5, (size - high) * (size + high) * -0.5
    t = (size - 5.0) / (size + 5.0)
    y = t.like(c.tail[-1])
    for each in reversed(c.tail[:-1]):
        y = y * t + each
    y = exponential(b, z, low) * y / (1.0 + size * c.root_2)
    y = x * pick(x < 0.0, y, 1.0 - y)
    b.store(one_nan(pick(x < -c.limit, -0.0, y)))


def logistic_gelu(b: Block, x: Lanes, z: Lanes) -> None:
    y = x / (1.0 + exponential(b, z, z.like(0.0)))
    b.store(one_nan(pick(z > b.constants.high, -0.0, y)))


def pass_gelu_tanh(b: Block) -> None:
    c, x = b.constants, b.load(b.x)
    logistic_gelu(b, x, -x * (c.gelu_1 + c.gelu_3 * (x * x)))


def pass_gelu_sigmoid(b: Block) -> None:
    x = b.load(b.x)
    logistic_gelu(b, x, x * b.constants.sigmoid)


class Recipe(NamedTuple):
    """A pass: its step, sums of each lane, vectors that a step takes; whether it depends on the kind and on `plain`."""

    step: Callable[[Block], None]
    sums: int
    slices: int
    kinds: bool
    plain: bool

    def build(self, block: Block) -> None:
        if self.sums:
            block.reduce(self.step, self.slices, self.sums)
        else:
            block.map(self.step, self.slices)


RECIPES = {
    PASS_MAX: Recipe(pass_max, 1, 4, False, True),
    PASS_SUM: Recipe(pass_sum, 1, 4, True, True),
    PASS_PUT: Recipe(pass_put, 0, 2, True, True),
    PASS_SCALE: Recipe(pass_scale, 0, 4, False, False),
    PASS_SUM_VJP: Recipe(pass_sum_vjp, 2, 4, True, False),
    PASS_PUT_VJP: Recipe(pass_put_vjp, 0, 2, True, False),
    PASS_SUM_LOGVJP: Recipe(pass_sum_logvjp, 2, 4, True, False),
    PASS_PUT_LOGVJP: Recipe(pass_put_logvjp, 0, 2, True, False),
    PASS_SUM_FAST: Recipe(pass_sum_fast, 1, 4, True, True),
    PASS_PUT_FAST: Recipe(pass_put_fast, 0, 2, True, False),
    PASS_SUM_LOG: Recipe(pass_sum_log, 2, 1, True, False),
    PASS_PUT_LOG: Recipe(pass_put_log, 0, 1, True, False),
    PASS_SUM_LOG_PAIR: Recipe(pass_sum_log_pair, 4, 1, False, False),
    PASS_PUT_LOG_PAIR: Recipe(pass_put_log_pair, 0, 1, False, False),
    PASS_EXP: Recipe(pass_exp, 0, 2, True, False),
    PASS_GELU: Recipe(pass_gelu, 0, 1, False, False),
    PASS_GELU_TANH: Recipe(pass_gelu_tanh, 0, 1, False, False),
    PASS_GELU_SIGMOID: Recipe(pass_gelu_sigmoid, 0, 1, False, False),
}
LOGS = (PASS_SUM_LOG, PASS_PUT_LOG, PASS_SUM_LOG_PAIR, PASS_PUT_LOG_PAIR)
PASS = ir.FunctionType(ir.VoidType(), [BYTE.as_pointer()] * 6 + [INT, BYTE.as_pointer(), INT])


def build_pass(module: Any, real: Any, which: int, kind: int, plain: bool) -> Any:
    """A function of row, now, x, g, mask, out, n (a multiple of 64), state and order."""
    function = ir.Function(module, PASS, f"fastk_taylor_{real}_{which}_{kind}_{int(plain)}")
    function.linkage = "internal"
    builder = ir.IRBuilder(function.append_basic_block())
    RECIPES[which].build(Block(builder, real, kind, plain, function.args))
    builder.ret_void()
    return function


@intrinsic
def passes(typing_context, zero):
    """The address of the table of passes, for floats as wide as zero."""

    def generate(context, builder, signature, arguments):
        real, made = FLOAT if zero == types.float32 else REAL, {}
        table = [PASS.as_pointer()(None)] * int(PASSES * KINDS * 2)
        for which, recipe in RECIPES.items():
            for kind, plain in product(NUMBERS[: KINDS if real == REAL or which not in LOGS else 0], (False, True)):
                key = which, kind if recipe.kinds else ANY_ORDER, plain and recipe.plain
                if key not in made:
                    made[key] = build_pass(builder.module, real, *key)
                table[(which * KINDS + kind) * 2 + plain] = made[key]
        kind = ir.ArrayType(PASS.as_pointer(), len(table))
        place = cgutils.global_constant(builder, f"fastk_taylor_{real}", kind(table))
        return builder.ptrtoint(place, INT)

    return types.int64(types.unliteral(zero)), generate


# ---- memory, by its address


def located(builder: Any, place: Any, element: Any) -> Any:
    return builder.inttoptr(place, element.as_pointer())


@intrinsic
def call_pass(typing_context, table, code, row, now, x, g, mask, out, n, state, order):
    def generate(context, builder, signature, arguments):
        table, code, *rest = arguments
        entry = builder.load(builder.gep(located(builder, table, PASS.as_pointer()), [code]))
        rest = [a if kind == INT else located(builder, a, BYTE) for a, kind in zip(rest, PASS.args, strict=True)]
        builder.call(entry, rest)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 11), generate


@intrinsic
def tree_sum(typing_context, state, wide):
    """The sum of 16 lanes, which start anew."""

    def generate(context, builder, signature, arguments):
        def total(real):
            vector = ir.VectorType(real, LANES)
            place = located(builder, arguments[0], vector)
            lanes = builder.load(place, align=bytes_in(real))
            builder.store(vector(None), place, align=bytes_in(real))
            for half in (8, 4, 2, 1):
                index = ir.VectorType(WORD, half)
                ends = (index([start + i for i in range(half)]) for start in (0, half))
                lanes = builder.fadd(*(builder.shuffle_vector(lanes, lanes, end) for end in ends))
            return builder.extract_element(lanes, WORD(0))

        return by_width(builder, arguments[1], total)

    return types.float64(types.int64, types.int64), generate


def by_width(builder: Any, wide: Any, make: Callable[[Any], Any]) -> Any:
    """A number made of float64 or of float32, as float64."""
    result = cgutils.alloca_once(builder, REAL)
    with builder.if_else(builder.icmp_signed("!=", wide, INT(0))) as branches:
        for real, branch in zip((REAL, FLOAT), branches, strict=True):
            with branch:
                value = make(real)
                builder.store(value if real == REAL else builder.fpext(value, REAL), result)
    return builder.load(result)


@intrinsic
def number_at(typing_context, start, k, wide):
    """The k-th number, a float64 or a float32."""

    def generate(context, builder, signature, arguments):
        start, k, wide = arguments
        return by_width(builder, wide, lambda real: builder.load(builder.gep(located(builder, start, real), [k])))

    return types.float64(types.int64, types.int64, types.int64), generate


@intrinsic
def set_number(typing_context, start, k, wide, value):
    def generate(context, builder, signature, arguments):
        start, k, wide, value = arguments

        def stored(real):
            number = value if real == REAL else builder.fptrunc(value, FLOAT)
            builder.store(number, builder.gep(located(builder, start, real), [k]))
            return number

        by_width(builder, wide, stored)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.float64), generate


@intrinsic
def integer_at(typing_context, place, size):
    """Of so many bytes, a literal."""
    if not isinstance(size, types.IntegerLiteral):
        return None

    def generate(context, builder, signature, arguments):
        value = builder.load(located(builder, arguments[0], ir.IntType(8 * size.literal_value)))
        return builder.zext(value, INT) if size.literal_value < 8 else value

    return types.int64(types.int64, size), generate


@intrinsic
def copy(typing_context, to, start, n):
    """n bytes, to where they do not overlap."""

    def generate(context, builder, signature, arguments):
        to, start, n = arguments
        cgutils.raw_memcpy(builder, located(builder, to, BYTE), located(builder, start, BYTE), n, 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def fill(typing_context, to, n, byte):
    def generate(context, builder, signature, arguments):
        to, n, byte = arguments
        cgutils.memset(builder, located(builder, to, BYTE), n, builder.trunc(byte, BYTE))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


def switched(builder: Any, code: Any, cases: Any) -> Any:
    """For each case, with the builder in its block."""
    end = builder.append_basic_block("end")
    switch = builder.switch(code, end)
    for value, *case in cases:
        block = builder.append_basic_block("case")
        switch.add_case(INT(int(value)), block)
        with builder.goto_block(block):
            yield case
            builder.branch(end)
    builder.position_at_end(end)


@intrinsic
def copy_spaced(typing_context, width, to, to_row, to_step, start, row, step, rows, n):
    """n elements of so many bytes of each row; steps are in bytes."""

    def generate(context, builder, signature, arguments):
        width, to, to_row, to_step, start, row, step, rows, n = arguments
        for (size,) in switched(builder, width, [(size, size) for size in (1, 2, 4, 8)]):
            with steps(builder, n, 1) as (k, _), steps(builder, rows, 1) as (i, _):
                place = builder.add(builder.add(start, builder.mul(i, row)), builder.mul(k, step))
                value = builder.load(located(builder, place, ir.IntType(8 * size)))
                place = builder.add(builder.add(to, builder.mul(i, to_row)), builder.mul(k, to_step))
                builder.store(value, located(builder, place, value.type))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 9), generate


# ---- conversions between what is stored and floats of a width


def odd_bits(x: Lanes) -> Lanes:
    """Of float32s. Those of which a double is not exact are odd, so that what is rounded from them is rounded once."""
    if x.type.element == FLOAT:
        return x.bits()
    y = x.cast("fptrunc", FLOAT)
    back, size = y.cast("fpext", REAL), (1 << 63) - 1
    above = (back.bits() & size).real() > (x.bits() & size).real()
    u = y.bits() - above.cast("zext", WORD)
    return pick(equal(back, x), u, u | 1)


def widened_f16(h: Lanes) -> Lanes:
    w = h.cast("zext", WORD)
    u, sign = w & 0x7FFF, (w & 0x8000) << 16
    small = ((u & 0x3FF).cast("sitofp", FLOAT) * 2.0**-24).bits()
    r = pick(u < 0x400, small, (u << 13) + (112 << 23))
    return (sign | pick(u >= 0x7C00, u << 13 | 255 << 23, r)).real()


def widened_bf16(h: Lanes) -> Lanes:
    return (h.cast("zext", WORD) << 16).real()


def rounded_f16(x: Lanes) -> Lanes:
    u = odd_bits(x)
    sign, v = (u >> 16) & 0x8000, u & 0x7FFFFFFF
    under = v < 113 << 23
    small = (pick(under, v, 0).real() + 0.5).bits() - (126 << 23)
    r = pick(under, small, (v + (0xFFF - (112 << 23)) + ((v >> 13) & 1)) >> 13)
    r = pick(v >= 0x477FF000, 0x7C00, r)
    return pick(v > 255 << 23, 0x7E00, sign | r).cast("trunc", ir.IntType(16))


def rounded_bf16(x: Lanes) -> Lanes:
    u = odd_bits(x)
    r = (u + 0x7FFF + ((u >> 16) & 1)) >> 16
    return pick((u & 0x7FFFFFFF) > 255 << 23, 0x7FC0, r).cast("trunc", ir.IntType(16))


def widen(storage: int, wide: bool, x: Lanes) -> Lanes:
    x = widened_f16(x) if storage == F16 else widened_bf16(x) if storage == BF16 else x
    return x.cast("fpext", REAL) if wide else x


def narrow(storage: int, wide: bool, x: Lanes) -> Lanes:
    return rounded_f16(x) if storage == F16 else rounded_bf16(x) if storage == BF16 else x.cast("fptrunc", FLOAT)


STORED = {F16: ir.IntType(16), BF16: ir.IntType(16), F32: FLOAT}
CONVERSIONS = ((F16, 0), (BF16, 0), (F16, 1), (BF16, 1), (F32, 1))


def convert_code(case: tuple[int, int], way: int) -> int:
    storage, wide = case
    return (storage * 2 + wide) * 2 + way


@intrinsic
def convert_vectors(typing_context, code, start, to, n):
    """n elements, a multiple of 16."""

    def generate(context, builder, signature, arguments):
        code, start, to, n = arguments
        cases = [(convert_code(*case), *case) for case in product(CONVERSIONS, (WIDEN, NARROW))]
        for (storage, wide), way in switched(builder, code, cases):
            change, source, target = widen, STORED[storage], REAL if wide else FLOAT
            if way == NARROW:
                change, source, target = narrow, target, source
            with steps(builder, n, LANES) as (i, _):
                place = vector_at(builder, located(builder, start, BYTE), i, source, LANES)
                x = Lanes(builder, [builder.load(place, align=bytes_in(source))])
                place = vector_at(builder, located(builder, to, BYTE), i, target, LANES)
                builder.store(change(storage, wide, x).vectors[0], place, align=bytes_in(target))
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


# ---- what a call is about: t, its words

INNER = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
compiled, inlined = njit(forceinline=False, **INNER), njit(forceinline=True, **INNER)
shared = njit(forceinline=False, cache=True, **INNER)


@inlined
def room(t, at):
    return address(t) + at


@inlined
def plan_at(t, k):
    return number_at(t[PLAN], k, ONE)


@inlined
def real_bytes(t):
    return 4 + 4 * t[WIDE]


@inlined
def stored_bytes(t):
    return 2 if t[STORAGE] <= BF16 else 4 if t[STORAGE] == F32 else 8


@inlined
def is_own(t):
    """Whether elements are stored as they are computed."""
    return t[STORAGE] == F32 + t[WIDE]


@inlined
def in_pairs(t):
    return t[OP] == LOG and t[STORAGE] == F64


@inlined
def takes_g(t):
    return t[OP] == SOFTMAX_VJP or t[OP] == LOG_VJP


@inlined
def element(t, view, r, at):
    i = 0 if t[M] == 1 else at // t[N]
    return t[view] + r * t[view + ROW] + i * t[view + OUTER] + (at - i * t[N]) * t[view + STEP]


@inlined
def contiguous(t, view):
    width = stored_bytes(t)
    return (t[view + STEP] == width or t[N] == 1) and (t[M] == 1 or t[view + OUTER] == t[N] * width)


@inlined
def stretch(t, at, n):
    """How many of n elements from a place on are one step apart."""
    return min(n, t[N] - (at if t[M] == 1 else at % t[N]))


@compiled
def gather(t, view, width, r, tile, at, n, pitch, to):
    """Elements at .. at + n of some rows, `pitch` elements from row to row."""
    done = 0
    while done < n:
        count = stretch(t, at + done, n - done)
        start, row, step = element(t, view, r, at + done), t[view + ROW], t[view + STEP]
        copy_spaced(width, to + done * width, pitch * width, width, start, row, step, tile, count)
        done += count


@compiled
def scatter(t, r, at, n, start):
    done, width = 0, stored_bytes(t)
    while done < n:
        count = stretch(t, at + done, n - done)
        to = element(t, OUT, r, at + done)
        copy_spaced(width, to, 0, t[OUT + STEP], start + done * width, 0, width, 1, count)
        done += count


@compiled
def convert(storage, wide, way, start, to, n):
    code, own, other = (storage * 2 + wide) * 2 + way, 4 + 4 * wide, 4 if storage == F32 else 2
    size, to_size = (other, own) if way == WIDEN else (own, other)
    whole = n // LANES * LANES
    convert_vectors(code, start, to, whole)
    if whole < n:
        last, last_to = address(stack(LANES, DOUBLE)), address(stack(LANES, DOUBLE))
        copy(last, start + whole * size, (n - whole) * size)
        convert_vectors(code, last, last_to, LANES)
        copy(to + whole * to_size, last_to, (n - whole) * to_size)


@compiled
def loaded(t, view, r, at):
    x, start = stack(1, DOUBLE), element(t, view, r, at)
    if t[STORAGE] == F64:
        return number_at(start, 0, 1)
    convert(t[STORAGE], ONE, WIDEN, start, address(x), ONE)
    return x[0]


@compiled
def put(t, r, at, value):
    x, to = stack(1, DOUBLE), element(t, OUT, r, at)
    x[0] = value
    if t[STORAGE] == F64:
        set_number(to, 0, 1, value)
    else:
        convert(t[STORAGE], ONE, NARROW, address(x), to, ONE)


# ---- one element at a time


@inlined
def scaled(x, e):
    """x 2^e."""
    while e > 1000:
        x *= 2.0**1000
        e -= 1000
    while e < -1000:
        x *= 2.0**-1000
        e += 1000
    return x * real((1023 + e) << 52, S64)


@inlined
def exponent(x):
    return (np.int64(bits(x)) >> 52 & 0x7FF) - 1023


@compiled
def wide_value(t, p, degree, x):
    """A polynomial at x, whatever its size: a number, and a power of two by which it is to be multiplied."""
    scale = plan_at(t, p + POLY_SCALE)
    rate, floor = plan_at(t, PLAN_RATE) * scale, plan_at(t, PLAN_FLOOR) * scale
    k = 0
    if abs(x) < 2.0**30 and abs(x * rate) < 2.0**30:
        x *= rate
    else:
        own, of_rate = exponent(x), exponent(rate)
        x = scaled(x, -own) * scaled(rate, -of_rate)
        more = exponent(x)
        x = scaled(x, -more)
        k = own + of_rate + more
        if k <= 30:
            x = scaled(x, k)
            k = 0
    if x < floor if k == 0 else x < 0 and floor > -np.inf:
        x = floor
        k = 0
    y = x - scaled(plan_at(t, p + POLY_ROOT), -k) if degree % 2 else 1.0
    for i in range(degree // 2):
        u = x - scaled(plan_at(t, p + POLY_A + i), -k)
        y *= u * u + scaled(plan_at(t, p + POLY_B + i), -2 * k)
    return y, degree * k


@inlined
def f_at(t, x):
    return wide_value(t, PLAN_VALUE, t[ORDER], x)


@compiled
def slope_at(t, x):
    """0 where f does not change."""
    if x * plan_at(t, PLAN_RATE) < plan_at(t, PLAN_FLOOR):
        return 0.0, ZERO
    lead = plan_at(t, PLAN_SLOPE + POLY_LEAD) / plan_at(t, PLAN_VALUE + POLY_LEAD)
    d, power = wide_value(t, PLAN_SLOPE, t[ORDER] - 1, x)
    k = exponent(plan_at(t, PLAN_RATE))
    return d * (lead * scaled(plan_at(t, PLAN_RATE), -k)), power + k


@inlined
def exact_rest(a, b, ab):
    c, d = SPLITTER * a, SPLITTER * b
    a1, b1 = c - (c - a), d - (d - b)
    a2, b2 = a - a1, b - b1
    return ((a1 * b1 - ab) + a1 * b2 + a2 * b1) + a2 * b2


@inlined
def added(a, low, b):
    """a + b, and low with what rounding loses."""
    total = a + b
    c = total - a
    return total, low + ((a - (total - c)) + (b - c))


@inlined
def log_near(k, t):
    """k log(2) + log(1 + t), for 1 + t near 1."""
    s = t / (2 + t)
    s2 = s * s
    s4, half = s2 * s2, 0.5 * t * t
    odd = s2 * (LOG_0 + s4 * (LOG_2 + s4 * (LOG_4 + s4 * LOG_6)))
    even = s4 * (LOG_1 + s4 * (LOG_3 + s4 * (LOG_5 + s4 * LOG_7)))
    return k * LN2_HIGH - ((half - (s * (half + (even + odd)) + k * LN2_LOW)) - t)


@inlined
def log_of(x, k):
    """log(x 2^k), x positive and normal."""
    e = exponent(x / SQRT_HALF)
    return log_near(np.float64(k + e), scaled(x, -e) - 1)


@inlined
def log_1p(z):
    """log(1 + z), -1/2 <= z <= 1."""
    k, t = 0.0, z
    if z < SQRT_HALF - 1:
        k, t = -1.0, 1 + (z + z)
    elif z > 1 / SQRT_HALF - 1:
        k, t = 1.0, 0.5 * (z - 1)
    return log_near(k, t)


@compiled
def log_finished(pair, now, state):
    """The lanes of a row's log form, put together. Whether there is no sum to go by."""
    top = top_low = rest = rest_low = 0.0
    for i in range(LANES):
        other = number_at(state, i, 1)
        other_low = number_at(state, 2 * LANES + i, 1) if pair else 0.0
        if other > top:
            top, other = other, top
            top_low, other_low = other_low, top_low
        rest, rest_low = added(rest, rest_low, other)
        rest, rest_low = added(rest, rest_low, number_at(state, LANES + i, 1))
        rest_low += other_low + (number_at(state, 3 * LANES + i, 1) if pair else 0.0)
    total, low = added(rest, rest_low + top_low, top)
    safe = total if total > 0 else 1.0
    ratio = rest / safe
    whole = ratio * safe
    off = ((rest - whole) - exact_rest(ratio, safe, whole)) + (rest_low - ratio * low)
    set_number(now, SUM, 1, total)
    set_number(now, SUM_LOW, 1, low)
    set_number(now, INVERSE, 1, 1 / safe)
    set_number(now, NEAR_ONE, 1, -(ratio + off / safe))
    return not total < 2.0**960


@inlined
def counts(t, r, at):
    return t[MASKED] == 0 or integer_at(element(t, WHERE, r, at), 1) != 0


@compiled
def largest_power(t, r):
    """Of f in a row; and whether all is nan: a number that counts is, or is infinite and not below the floor."""
    most = 0
    for at in range(t[M] * t[N]):
        if counts(t, r, at):
            x = loaded(t, X, r, at)
            if not abs(x) < np.inf and not (x < 0 and plan_at(t, PLAN_FLOOR) > -np.inf):
                return most, True
            if t[OP] != FAST:
                _, power = f_at(t, x)
                most = max(most, power)
    return most, t[OP] == FAST


@compiled
def irregular_sums(t, r, most):
    """Of a row: the largest f apart, the rest, and the sum that a gradient needs."""
    top = rest = second = 0.0
    for at in range(t[M] * t[N]):
        if counts(t, r, at):
            f, power = f_at(t, loaded(t, X, r, at))
            e = scaled(f, power - most)
            rest += top if e > top else e
            top = e if e > top else top
    for at in range(t[M] * t[N] if takes_g(t) else 0):
        if counts(t, r, at):
            f, power = f_at(t, loaded(t, X, r, at))
            g = loaded(t, G, r, at)
            second += g if t[OP] == LOG_VJP else g * scaled(f / (rest + top), power - most)
    return top, rest, second


@compiled
def irregular_result(t, r, at, most, top, rest, second):
    total, x = rest + top, loaded(t, X, r, at)
    f, power = f_at(t, x)
    e = scaled(f / total, power - most)
    if t[OP] == SOFTMAX:
        return e
    if t[OP] == LOG:
        return log_1p(-rest / total) if e > 0.5 else log_of(f / total, power - most)
    g = loaded(t, G, r, at)
    d, d_power = slope_at(t, x)
    if t[OP] == SOFTMAX_VJP:
        result = scaled(d / total, d_power - most) * (g - second)
    else:
        result = scaled(d / f, d_power - power) * (g - e * second)
    return result if result == result else np.nan


@compiled
def irregular_row(t, r):
    """A row with numbers of any size."""
    most, nothing = largest_power(t, r)
    top = rest = second = 0.0
    if not nothing:
        top, rest, second = irregular_sums(t, r, most)
    for at in range(t[M] * t[N]):
        result = -np.inf if t[OP] == LOG else 0.0
        if counts(t, r, at):
            result = np.nan if nothing else irregular_result(t, r, at, most, top, rest, second)
        put(t, r, at, result)


# ---- rows, block by block


@compiled
def set_polynomial(t, p, scale, to):
    wide, rate, floor = t[WIDE], plan_at(t, PLAN_RATE), plan_at(t, PLAN_FLOOR)
    set_number(to, SCALE, wide, rate * scale)
    set_number(to, FLOOR, wide, floor * scale)
    set_number(to, LEAD, wide, plan_at(t, p + POLY_LEAD))
    set_number(to, ROOT, wide, plan_at(t, p + POLY_ROOT))
    for k in range(2 * PAIRS):
        set_number(to, A + k, wide, plan_at(t, p + POLY_A + k))


@compiled
def fetched(t, view, r, tile, at, n, pitch, to):
    """Elements at .. at + n of rows r .. r + tile: where they can be read, `pitch` from row to row."""
    width, start, raw = stored_bytes(t), element(t, view, r, at), room(t, RAW_ROOM)
    straight = tile == 1 and contiguous(t, view)
    if is_own(t):
        if straight:
            return start
        gather(t, view, width, r, tile, at, n, pitch, to)
        return to
    if not straight:
        gather(t, view, width, r, tile, at, n, pitch, raw)
        start = raw
    for i in range(tile):
        convert(t[STORAGE], t[WIDE], WIDEN, start + i * pitch * width, to + i * pitch * real_bytes(t), n)
    return to


@compiled
def fetch(t, r, tile, at, n, pitch):
    """A block of the rows: x, g and the mask."""
    x = fetched(t, X, r, tile, at, n, pitch, room(t, X_ROOM))
    g, mask = x, room(t, EVERY)
    if takes_g(t):
        g = fetched(t, G, r, tile, at, n, pitch, room(t, G_ROOM))
    if t[MASKED] and tile == 1 and t[WHERE + STEP] == 1 and (t[M] == 1 or t[WHERE + OUTER] == t[N]):
        mask = element(t, WHERE, r, at)
    elif t[MASKED]:
        mask = room(t, MASK_ROOM)
        gather(t, WHERE, ONE, r, tile, at, n, pitch, mask)
    return x, g, mask


@compiled
def run_pass(t, which, now, x, g, mask, out, n, state):
    """A pass over n elements of a block. The last 64, if they are not all there, are taken with a mask."""
    kind = ORDER_2 if t[ORDER] == 2 else ORDER_4 if t[ORDER] == 4 else ANY_ORDER
    code, row, size, whole = (which * KINDS + kind) * 2, room(t, POLYNOMIALS), real_bytes(t), n // GROUP * GROUP
    if whole:
        call_pass(t[TABLE], code + t[PLAIN], row, now, x, g, mask, out, whole, state, t[ORDER])
    if whole == n:
        return
    rest, at, last_x, last_g, last_out = n - whole, whole * size, room(t, LAST_X), room(t, LAST_X), room(t, LAST_OUT)
    last_mask = room(t, EVERY) + BLOCK - rest
    fill(last_x, GROUP * size, 0)
    copy(last_x, x + at, rest * size)
    if g != x:
        last_g = room(t, LAST_G)
        fill(last_g, GROUP * size, 0)
        copy(last_g, g + at, rest * size)
    if t[MASKED]:
        last_mask = room(t, LAST_MASK)
        fill(last_mask, GROUP, 0)
        copy(last_mask, mask + whole, rest)
    call_pass(t[TABLE], code, row, now, last_x, last_g, last_mask, last_out, GROUP, state, t[ORDER])
    copy(out + at, last_out, rest * size)


@compiled
def stored(t, r, at, n, start):
    """One row of results to where they go."""
    there, to = contiguous(t, OUT), element(t, OUT, r, at)
    if not is_own(t):
        to = to if there else room(t, RAW_ROOM)
        convert(t[STORAGE], t[WIDE], NARROW, start, to, n)
        start = to
    elif there:
        copy(to, start, n * real_bytes(t))
    if not there:
        scatter(t, r, at, n, start)


@compiled
def finished(t, now, first, second, state):
    """What the second pass over a row needs. Whether there is no sum that it can go by."""
    if t[OP] == LOG:
        return log_finished(in_pairs(t), now, state)
    ratio = plan_at(t, PLAN_RATE) * plan_at(t, PLAN_SLOPE + POLY_LEAD) / plan_at(t, PLAN_VALUE + POLY_LEAD)
    safe = 1.0 if first == 0 else first
    factor = ratio if t[OP] == LOG_VJP else ratio / safe if t[OP] == SOFTMAX_VJP else 1 / safe
    set_number(now, FACTOR, t[WIDE], factor)
    set_number(now, MEAN, t[WIDE], second / safe)
    largest, least = (2.0**960, LEAST) if t[WIDE] else (2.0**126, 2.0**-126)
    if not (first < largest and abs(second) < largest):
        return True
    if not takes_g(t):
        return False
    factor = number_at(now, FACTOR, t[WIDE])
    if not least <= factor <= 1 / least:
        return True
    return t[OP] == LOG_VJP and second != 0 and abs(second / safe) < least


@compiled
def find_maxima(t, r, tile, chunk, pitch):
    n, wide = t[M] * t[N], t[WIDE]
    for i in range(tile):
        for k in range(LANES):
            set_number(room(t, STATES) + i * STATE_BYTES, k, wide, -np.inf)
    for at in range(0, n, chunk):
        count = min(chunk, n - at)
        x, _, mask = fetch(t, r, tile, at, count, pitch)
        for i in range(tile):
            state, here = room(t, STATES) + i * STATE_BYTES, x + i * pitch * real_bytes(t)
            run_pass(t, PASS_MAX, state, here, here, mask + i * pitch, room(t, OUT_ROOM), count, state)
    for i in range(tile):
        most = -np.inf
        for k in range(LANES):
            most = max(most, number_at(room(t, STATES) + i * STATE_BYTES, k, wide))
        set_number(room(t, NOWS) + i * NOW_BYTES, MAX, wide, most)


@compiled
def tile_of_rows(t, r, tile):
    n, size = t[M] * t[N], real_bytes(t)
    chunk, pitch = (BLOCK // TILE, BLOCK // TILE) if tile > 1 else (BLOCK, 0)
    first_pass, second_pass = PASSES_OF_OP[OPS if in_pairs(t) else t[OP]]
    there = tile == 1 and is_own(t) and contiguous(t, OUT)
    keeps, kept = (t[OP] == SOFTMAX or t[OP] == FAST) and n * tile * size <= KEPT_BYTES, room(t, KEPT)
    firsts, seconds, irregular = stack(TILE, DOUBLE), stack(TILE, DOUBLE), stack(TILE, HALF)
    if t[OP] == FAST:
        find_maxima(t, r, tile, chunk, pitch)
    fill(room(t, STATES), tile * STATE_BYTES, 0)
    for i in range(tile):
        firsts[i] = seconds[i] = 0.0
    x = g = mask = room(t, EVERY)
    for at in range(0, n, chunk):
        count = min(chunk, n - at)
        x, g, mask = fetch(t, r, tile, at, count, pitch)
        ends = t[OP] != LOG and (at + count == n or (at + count) % SUM_BLOCK == 0)
        for i in range(tile):
            now, state, on = room(t, NOWS) + i * NOW_BYTES, room(t, STATES) + i * STATE_BYTES, i * pitch
            out = kept + (i * n + at) * size if keeps else room(t, OUT_ROOM)
            run_pass(t, first_pass, now, x + on * size, g + on * size, mask + on, out, count, state)
            if ends:
                firsts[i] += tree_sum(state, t[WIDE])
                seconds[i] += tree_sum(state + LANES * size, t[WIDE])
    for i in range(tile):
        now, state = room(t, NOWS) + i * NOW_BYTES, room(t, STATES) + i * STATE_BYTES
        irregular[i] = finished(t, now, firsts[i], seconds[i], state)
    for at in range(0, n, chunk):
        count = min(chunk, n - at)
        if not keeps and n > chunk:
            x, g, mask = fetch(t, r, tile, at, count, pitch)
        for i in range(tile):
            if irregular[i]:
                continue
            now, state, on = room(t, NOWS) + i * NOW_BYTES, room(t, STATES) + i * STATE_BYTES, i * pitch
            out = element(t, OUT, r, at) if there else room(t, OUT_ROOM)
            if keeps:
                here = kept + (i * n + at) * size
                run_pass(t, PASS_SCALE, now, here, here, mask, out, count, state)
            else:
                run_pass(t, second_pass, now, x + on * size, g + on * size, mask + on, out, count, state)
            if not there:
                stored(t, r + i, at, count, out)
    for i in range(tile):
        if irregular[i]:
            irregular_row(t, r + i)


@compiled
def elements(t, r):
    n, there, nothing = t[M] * t[N], is_own(t) and contiguous(t, OUT), room(t, EVERY)
    _, which = PASSES_OF_OP[t[OP]]
    for at in range(0, n, BLOCK):
        count = min(BLOCK, n - at)
        x = fetched(t, X, r, ONE, at, count, ZERO, room(t, X_ROOM))
        out = element(t, OUT, r, at) if there else room(t, OUT_ROOM)
        run_pass(t, which, nothing, x, x, nothing, out, count, nothing)
        if not there:
            stored(t, r, at, count, out)


@compiled
def prepare(t):
    """What is the same for all rows. Whether there is such a polynomial."""
    order, value_scale = plan_at(t, PLAN_ORDER), plan_at(t, PLAN_VALUE + POLY_SCALE)
    if not (order >= 2 and order <= 2 * PAIRS):
        return False
    t[ORDER], t[TABLE] = np.int64(order), t[TABLE_64] if t[WIDE] else t[TABLE_32]
    derivative = room(t, POLYNOMIALS) + POLYNOMIAL * real_bytes(t)
    set_polynomial(t, PLAN_VALUE, 1.0 if in_pairs(t) else value_scale, room(t, POLYNOMIALS))
    set_polynomial(t, PLAN_SLOPE, plan_at(t, PLAN_SLOPE + POLY_SCALE), derivative)
    fill(room(t, EVERY), BLOCK, 1)
    fill(room(t, EVERY) + BLOCK, GROUP, 0)
    return True


@shared
def run(t):
    if t[ROWS] == 0 or t[M] == 0 or t[N] == 0 or t[OP] >= OPS:
        return
    t[WIDE] = t[STORAGE] == F64 or t[OP] == LOG
    if not prepare(t):
        return
    usual = plan_at(t, PLAN_RATE) == 1 and plan_at(t, PLAN_FLOOR) == -np.inf
    t[PLAIN] = t[MASKED] == 0 and (usual or t[OP] == FAST)
    tile = TILE if t[ROWS] > 1 and abs(t[X + ROW]) < abs(t[X + STEP]) else 1
    for r in range(0, t[ROWS], 1 if t[OP] >= EXP else tile):
        if t[OP] >= EXP:
            elements(t, r)
        else:
            tile_of_rows(t, r, min(tile, t[ROWS] - r))


# ---- cross-entropy


@compiled
def irregular_odds(t, r, label, z):
    """f at the label and its power of two, the sum of the others times 2^-power, and whether all numbers are finite."""
    own, own_power, others, power = 0.0, ZERO, 0.0, ZERO
    for step in range(2):
        for at in range(t[N]):
            x = z if at == label else loaded(t, X, r, at)
            if not abs(x) < np.inf:
                return own, own_power, others, power, False
            f, its_power = f_at(t, x)
            if step == 0:
                power = max(power, its_power)
            elif at == label:
                own, own_power = f, its_power
            else:
                others += scaled(f, its_power - power)
    return own, own_power, others, power, True


@compiled
def odds_of(t, r, label, z):
    others, state, mask = 0.0, room(t, STATES), room(t, EVERY)
    fill(state, STATE_BYTES, 0)
    for at in range(0, t[N], BLOCK):
        count = min(BLOCK, t[N] - at)
        x = fetched(t, X, r, ONE, at, count, ZERO, room(t, X_ROOM))
        here = at <= label < at + count
        if here:
            fill(mask + label - at, 1, 0)
        run_pass(t, PASS_SUM, state, x, x, mask, room(t, OUT_ROOM), count, state)
        if here:
            fill(mask + label - at, 1, 1)
        others += tree_sum(state, 1)
    if others < 2.0**960 and abs(z * plan_at(t, PLAN_RATE)) < 2.0**30:
        own, power = f_at(t, z)
        if power == 0:
            return own, ZERO, others, ZERO, True
    return irregular_odds(t, r, label, z)


@compiled
def loss(t, r, label):
    z = loaded(t, X, r, label) - plan_at(t, PLAN_MARGIN)
    own, own_power, others, power, finite = odds_of(t, r, label, z)
    if not finite:
        return np.nan
    here = scaled(own, own_power - power)
    return log_1p(others / here) if others / here <= 1 else -log_of(own / (here + others), own_power - power)


@compiled
def slopes(t, r, label, g):
    """The gradient of a row's loss, times g."""
    z, now, out = loaded(t, X, r, label) - plan_at(t, PLAN_MARGIN), room(t, NOWS), room(t, OUT_ROOM)
    own, own_power, others, power, finite = odds_of(t, r, label, z)
    total = scaled(own, own_power - power) + others
    lead = plan_at(t, PLAN_RATE) * plan_at(t, PLAN_SLOPE + POLY_LEAD) / plan_at(t, PLAN_VALUE + POLY_LEAD)
    set_number(now, MEAN, 1, 0.0)
    factor = lead / total * g
    regular = finite and power == 0 and LEAST <= abs(factor) <= MOST
    set_number(now, FACTOR, 1, factor)
    for at in range(0, t[N], BLOCK):
        count = min(BLOCK, t[N] - at)
        x = fetched(t, X, r, ONE, at, count, ZERO, room(t, X_ROOM))
        if regular:
            run_pass(t, PASS_PUT_VJP, now, x, room(t, G_ROOM), room(t, EVERY), out, count, now)
        else:
            for i in range(count):
                d, its_power = slope_at(t, number_at(x, i, 1))
                set_number(out, i, 1, scaled(d / total, its_power - power) * g if finite else np.nan)
        if finite and at <= label < at + count:
            d, d_power = slope_at(t, z)
            f, f_power = f_at(t, z)
            set_number(out, label - at, 1, -scaled(d / f, d_power - f_power) * (others / total) * g)
        for i in range(count):
            value = number_at(out, i, 1)
            set_number(out, i, 1, value if value == value else np.nan)
        stored(t, r, at, count, out)


@shared
def entropy(t, g, labels, losses):
    """Losses, or if there is g, gradients."""
    t[OP], t[WIDE], t[MASKED], t[PLAIN] = SOFTMAX, 1, 1, 0
    if not prepare(t):
        return
    for i in range(BLOCK):
        set_number(room(t, G_ROOM), i, 1, 1.0)
    for r in range(t[ROWS]):
        label = integer_at(labels + 8 * r, 8)
        if 0 <= label < t[N] and g:
            slopes(t, r, label, number_at(g, r, 1))
        elif 0 <= label < t[N]:
            set_number(losses, r, 1, loss(t, r, label))


# ---- kernels


@inlined
def set_view(t, view, place, row, outer, step):
    t[view], t[view + ROW], t[view + OUTER], t[view + STEP] = place, row, outer, step


@njit(inline="always")
def place_of(array):
    return address(bytes_of(array))


@njit(inline="always")
def call(storage, table_32, rows, m, n, plan):
    t = stack(CALL_WORDS, ZERO)
    t = offset(t, (-address(t) & (VECTOR_BYTES - 1)) >> 3)
    t[STORAGE], t[ROWS], t[M], t[N], t[PLAN] = storage, rows, m, n, place_of(plan)
    t[TABLE_32], t[TABLE_64] = table_32, passes(DOUBLE)
    return t


@njit(inline="always")
def plain(storage, table_32, op, x, out, size, n, plan):
    t = call(storage, table_32, size // max(n, 1), 1, n, plan)
    t[OP], t[MASKED] = op, 0
    set_view(t, X, place_of(x), n * x.itemsize, ZERO, x.itemsize)
    set_view(t, G, place_of(x), n * x.itemsize, ZERO, x.itemsize)
    set_view(t, OUT, place_of(out), n * x.itemsize, ZERO, x.itemsize)
    run(t)


@njit(inline="always")
def strided(storage, table_32, op, x, g, where, out, rows, m, n, masked, plan):
    t = call(storage, table_32, rows, m, n, plan)
    t[OP], t[MASKED] = op, masked
    set_view(t, X, place_of(x), x.strides[0], x.strides[1], x.strides[2])
    set_view(t, G, place_of(g), g.strides[0], g.strides[1], g.strides[2])
    set_view(t, WHERE, place_of(where), where.strides[0], where.strides[1], where.strides[2])
    set_view(t, OUT, place_of(out), out.strides[0], out.strides[1], out.strides[2])
    run(t)


@njit(inline="always")
def loss_of(storage, x, label, loss, rows, n, plan):
    t = call(storage, ZERO, rows, 1, n, plan)
    set_view(t, X, place_of(x), x.strides[0], ZERO, x.strides[1])
    entropy(t, ZERO, place_of(label), place_of(loss))


@njit(inline="always")
def loss_vjp(storage, g, x, label, out, rows, n, plan):
    t = call(storage, ZERO, rows, 1, n, plan)
    set_view(t, X, place_of(x), x.strides[0], ZERO, x.strides[1])
    set_view(t, OUT, place_of(out), out.strides[0], ZERO, out.strides[1])
    entropy(t, place_of(g), place_of(label), ZERO)


def taylor_plain_f16(op, x, out, size, n, plan):
    plain(F16, passes(SINGLE), op, x, out, size, n, plan)


def taylor_rows_f16(op, x, g, where, out, rows, m, n, masked, plan):
    strided(F16, passes(SINGLE), op, x, g, where, out, rows, m, n, masked, plan)


def taylor_loss_f16(x, label, loss, rows, n, plan):
    loss_of(F16, x, label, loss, rows, n, plan)


def taylor_loss_vjp_f16(g, x, label, out, rows, n, plan):
    loss_vjp(F16, g, x, label, out, rows, n, plan)


def taylor_plain_bf16(op, x, out, size, n, plan):
    plain(BF16, passes(SINGLE), op, x, out, size, n, plan)


def taylor_rows_bf16(op, x, g, where, out, rows, m, n, masked, plan):
    strided(BF16, passes(SINGLE), op, x, g, where, out, rows, m, n, masked, plan)


def taylor_loss_bf16(x, label, loss, rows, n, plan):
    loss_of(BF16, x, label, loss, rows, n, plan)


def taylor_loss_vjp_bf16(g, x, label, out, rows, n, plan):
    loss_vjp(BF16, g, x, label, out, rows, n, plan)


def taylor_plain_f32(op, x, out, size, n, plan):
    plain(F32, passes(SINGLE), op, x, out, size, n, plan)


def taylor_rows_f32(op, x, g, where, out, rows, m, n, masked, plan):
    strided(F32, passes(SINGLE), op, x, g, where, out, rows, m, n, masked, plan)


def taylor_loss_f32(x, label, loss, rows, n, plan):
    loss_of(F32, x, label, loss, rows, n, plan)


def taylor_loss_vjp_f32(g, x, label, out, rows, n, plan):
    loss_vjp(F32, g, x, label, out, rows, n, plan)


def taylor_plain_f64(op, x, out, size, n, plan):
    plain(F64, ZERO, op, x, out, size, n, plan)


def taylor_rows_f64(op, x, g, where, out, rows, m, n, masked, plan):
    strided(F64, ZERO, op, x, g, where, out, rows, m, n, masked, plan)


def taylor_loss_f64(x, label, loss, rows, n, plan):
    loss_of(F64, x, label, loss, rows, n, plan)


def taylor_loss_vjp_f64(g, x, label, out, rows, n, plan):
    loss_vjp(F64, g, x, label, out, rows, n, plan)
