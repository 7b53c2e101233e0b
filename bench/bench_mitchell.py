"""Mitchell arithmetic beside what its user would run instead: NumPy, its BLAS, a table, a broadcast, and torch.

    python bench/bench_mitchell.py                              # every table, some minutes
    python bench/bench_mitchell.py --quick                      # seconds, small sizes: does it run?
    python bench/bench_mitchell.py --only gemm elementwise      # some of the parts
    python bench/bench_mitchell.py --only picture --save docs   # draws docs/mitchell_error.png again

Both sides of a ratio run in one process, in turn, on the same operands, into arrays that exist where they take one; the
table has the least time of each. All run on one thread unless a row says otherwise. Times on shared machines drift:
compare ratios, not seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy
from report import (
    Call,
    Effort,
    Report,
    Row,
    blas,
    command_line,
    duration,
    level,
    machine,
    one_thread,
    pyplot,
    ratio,
    run,
    save_figure,
    table,
    times,
)

import fastk

Array = numpy.ndarray[Any, Any]

LOWER = {"v3": "Haswell"}
"""Level below the highest, and what OPENBLAS_CORETYPE holds OpenBLAS to the same instructions."""


@dataclass(frozen=True)
class Scale(Effort):
    """Sizes, and the time that a ratio takes."""

    matrix: int = 1536
    wide: int = 4096
    emulated: int = 256
    small: int = 4096
    large: int = 1 << 24
    image: int = 56
    samples: int = 10**6


QUICK = Scale(0.0, 1, matrix=192, wide=256, emulated=64, large=1 << 16, image=14, samples=10**5)


# Matrix products.


def random(*shape: int) -> Array:
    return numpy.random.default_rng(1).standard_normal(shape, numpy.float32)


def product(case: str, a: Array, b: Array, scale: Scale, peer: Sequence[Array] = ()) -> Row:
    """mitchell_matmul(a, b) beside numpy.matmul of the same, or of other operands."""
    x, y = peer or (a, b)
    ours, theirs = fastk.mitchell_matmul(a, b), numpy.matmul(x, y)
    seconds = ratio(partial(fastk.mitchell_matmul, a, b, out=ours), partial(numpy.matmul, x, y, out=theirs), scale)
    name = "numpy.matmul" if x.dtype == a.dtype else f"numpy.matmul, {x.dtype}"
    return Row(case, name, *seconds, a.shape[0] * b.shape[1] * a.shape[1])


def gemm(scale: Scale) -> list[Row]:
    """float32, square and skinny: (m, k) by (k, n)."""
    n, wide = scale.matrix, scale.wide
    shapes = [(64, 64, 64), (256, 256, 256), (n, n, n), (1, n, n), (n, n, 1), (n, 1, n), (n, 16, n), (8, wide, wide)]
    return [
        product(f"float32, ({m}, {k}) by ({k}, {columns})", random(m, k), random(k, columns), scale)
        for m, k, columns in shapes
    ]


def gemm_on_lower_level(level: str, core: str, scale: Scale) -> tuple[str, list[Row]]:
    """`gemm` with fastk and OpenBLAS held to a level, in a process of its own: both choose when they are loaded."""
    environment = {**os.environ, "FASTK_BACKEND": "c", "FASTK_ISA": level, "OPENBLAS_CORETYPE": core}
    command = [sys.executable, __file__, "--child", f"--seconds={scale.seconds}", *["--quick"][: scale == QUICK]]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    name, rows = json.loads(done.stdout)
    return name, [Row(*row) for row in rows]


def operands(scale: Scale) -> list[Row]:
    """Other dtypes, zeros, an infinity, corrections, threads."""
    n = scale.matrix
    a, b = random(n, n), random(n, n)[::-1].copy()
    shape, both = f"{n} x {n}", (a, b)
    rows = [product(f"float64, {shape}", a.astype(float), b.astype(float), scale)]
    rows.append(product(f"float16, {shape}", a.astype(numpy.float16), b.astype(numpy.float16), scale, both))
    narrow = [(20 * x).astype(numpy.int8) for x in both]
    rows.append(product(f"int8, {shape}", narrow[0], narrow[1], scale, both))
    positive = numpy.maximum(a, 0), numpy.maximum(b, 0)
    rows.append(product(f"float32, {shape}, half of A is 0", positive[0], b, scale))
    rows.append(product(f"float32, {shape}, half of A and of B is 0", positive[0], positive[1], scale))
    infinite = a.copy()
    infinite[n // 2, n // 2] = numpy.inf
    rows.append(product(f"float32, {shape}, one inf in A", infinite, b, scale))
    rows.append(corrected("unbiased", a, b, scale))
    few = scale.emulated
    rows.append(corrected("refined", a[:few, :few], b[:few, :few], scale))
    if (os.cpu_count() or 1) > 1:
        rows.append(threaded(2, a, b, scale))
    return rows


def corrected(correction: str, a: Array, b: Array, scale: Scale) -> Row:
    out = fastk.mitchell_matmul(a, b)
    plain = partial(fastk.mitchell_matmul, a, b, out=out)
    seconds = ratio(partial(plain, correction=correction), plain, scale)
    return Row(f"float32, {len(a)} x {len(a)}, {correction}", "no correction", *seconds, len(a) ** 3)


def threaded(threads: int, a: Array, b: Array, scale: Scale) -> Row:
    out = fastk.mitchell_matmul(a, b)

    def on(count: int) -> None:
        fastk.set_num_threads(count)
        fastk.mitchell_matmul(a, b, out=out)

    seconds = ratio(partial(on, threads), partial(on, 1), scale)
    fastk.set_num_threads(1)
    return Row(f"float32, {len(a)} x {len(a)}, {threads} threads", "one thread", *seconds, len(a) ** 3)


# Other ways to the same sums.

BIAS = numpy.int32(127 << 23)


def broadcast(a: Array, b: Array) -> Array:
    """Bits added in one line of NumPy: zeros and the ends of the range come out wrong."""
    return (a[:, :, None].view(numpy.int32) + b.view(numpy.int32) - BIAS).view(numpy.float32).sum(1)


@numba.njit
def add_bits(a: Array, b: Array, out: Array) -> Array:
    """The same in compiled loops, with zeros right. The operands come as their bits, in int32."""
    out[:] = 0
    room = numpy.empty(b.shape[1], numpy.int32)
    products = room.view(numpy.float32)
    for i in range(a.shape[0]):
        for p in range(a.shape[1]):
            left = a[i, p]
            for j in range(b.shape[1]):
                right = b[p, j]
                zero = (left & 0x7FFFFFFF == 0) | (right & 0x7FFFFFFF == 0)
                room[j] = numpy.int32(0) if zero else numpy.int32(left + right - BIAS)
            for j in range(b.shape[1]):
                out[i, j] += products[j]
    return out


@numba.njit
def look_up(a: Array, b: Array, table: Array, out: Array) -> Array:
    """Products of bytes from a 256 x 256 table, in compiled loops."""
    out[:] = 0
    for i in range(a.shape[0]):
        for p in range(a.shape[1]):
            row = table[a[i, p]]
            for j in range(b.shape[1]):
                out[i, j] += row[b[p, j]]
    return out


def emulations(scale: Scale) -> list[Row]:
    """The matrix product as it is emulated today, beside mitchell_matmul; the results have to agree."""
    n = scale.emulated
    a, b = random(n, n), random(n, n)[::-1].copy()
    u, v = numpy.random.default_rng(1).integers(0, 256, (2, n, n), numpy.uint8)
    byte = numpy.arange(256, dtype=numpy.uint16)
    products = fastk.mitchell_mul.outer(byte, byte)
    whole, single = numpy.empty((n, n), numpy.int32), numpy.empty((n, n), numpy.float32)
    bits = a.view(numpy.int32), b.view(numpy.int32)
    cases: list[tuple[Array, Array, str, Call]] = [
        (a, b, "bits added by broadcasting, NumPy", lambda: broadcast(a, b)),
        (a, b, "bits added in loops, numba", lambda: add_bits(*bits, single)),
        (u, v, "table, NumPy", lambda: products[u[:, :, None], v].sum(1, numpy.int32)),
        (u, v, "table, loops in numba", lambda: look_up(u, v, products, whole)),
    ]
    rows = []
    for x, y, peer, theirs in cases:
        out = fastk.mitchell_matmul(x, y)
        numpy.testing.assert_allclose(theirs(), out, 1e-3, 1e-3, err_msg=peer)
        seconds = ratio(partial(fastk.mitchell_matmul, x, y, out=out), theirs, scale)
        rows.append(Row(f"{x.dtype}, {n} x {n}", peer, *seconds, n**3))
    return rows


def slower(rows: Sequence[Row]) -> str:
    head = ["case", "peer", "fastk", "peer takes", "times as long"]
    return table(head, [[r.case, r.peer, duration(r.ours), duration(r.theirs), times(r.theirs / r.ours)] for r in rows])


# Element by element.


def inverse_root(a: Array, out: Array) -> Array:
    numpy.sqrt(a, out=out)
    return numpy.divide(numpy.float32(1), out, out=out)


def elementwise(size: int, scale: Scale) -> list[Row]:
    rng = numpy.random.default_rng(2)
    a, b = (rng.standard_normal(size, numpy.float32) for _ in range(2))
    some = numpy.where(rng.random(size, numpy.float32) < 1 / 8, numpy.float32(0), a)
    positive = numpy.abs(a) + numpy.float32(0.01)
    bytes_ = [rng.integers(0, 256, size, numpy.uint8) for _ in range(2)]
    number = numpy.float32(1.7)
    cases: list[tuple[str, Any, str, Any, tuple[Any, ...]]] = [
        ("mul", fastk.mitchell_mul, "numpy.multiply", numpy.multiply, (a, b)),
        ("mul, by a scalar", fastk.mitchell_mul, "numpy.multiply", numpy.multiply, (a, number)),
        ("mul, an eighth is 0", fastk.mitchell_mul, "numpy.multiply", numpy.multiply, (some, b)),
        ("mul, refined", fastk.mitchell_ufunc("mul", "refined"), "no correction", fastk.mitchell_mul, (a, b)),
        ("square", fastk.mitchell_square, "numpy.square", numpy.square, (a,)),
        ("div", fastk.mitchell_div, "numpy.divide", numpy.divide, (a, b)),
        ("reciprocal", fastk.mitchell_reciprocal, "numpy.reciprocal", numpy.reciprocal, (a,)),
        ("sqrt", fastk.mitchell_sqrt, "numpy.sqrt", numpy.sqrt, (positive,)),
        ("rsqrt", fastk.mitchell_rsqrt, "numpy.sqrt, then divide", inverse_root, (positive,)),
        ("log2", fastk.mitchell_log2, "numpy.log2", numpy.log2, (positive,)),
        ("exp2", fastk.mitchell_exp2, "numpy.exp2", numpy.exp2, (a,)),
        ("pow", fastk.mitchell_pow, "numpy.power", numpy.power, (positive, b)),
        ("mul, uint8", fastk.mitchell_mul, "numpy.multiply, uint8", numpy.multiply, tuple(bytes_)),
    ]
    rows = []
    for case, ours, name, theirs, arguments in cases:
        out = numpy.zeros(size, arguments[0].dtype)
        seconds = ratio(partial(ours, *arguments, out=out), partial(theirs, *arguments, out=out), scale)
        rows.append(Row(f"{case}, {size} elements", name, *seconds, size))
    return rows


# Convolution.


class Layer(NamedTuple):
    name: str
    x: Array
    w: Array
    padding: int = 0
    groups: int = 1

    def ours(self) -> Array:
        return fastk.mitchell_conv2d(self.x, self.w, padding=self.padding, groups=self.groups)

    def work(self) -> int:
        """Products, those of the padding included."""
        return self.ours().size * self.w[0].size


def layers(scale: Scale) -> list[Layer]:
    channels = 64
    x = random(1, channels, scale.image, scale.image)
    w = random(channels, channels, 3, 3)
    size = f"{channels} x {scale.image} x {scale.image}"
    return [
        Layer(f"3 x 3 on {size}, padding 1", x, w, padding=1),
        Layer(f"3 x 3 on {size}, padding 0", x, w),
        Layer(f"3 x 3 on {size}, padding 1, depthwise", x, w[:, :1].copy(), padding=1, groups=channels),
        Layer(f"1 x 1 on {size}", x, w[:, :, :1, :1].copy()),
    ]


def shares(scale: Scale) -> str:
    """Each layer's rate as a share of the matrix product's."""
    n = scale.matrix
    a, b = random(n, n), random(n, n)[::-1].copy()
    out = fastk.mitchell_matmul(a, b)
    rows = []
    for layer in layers(scale):
        ours, whole = ratio(layer.ours, lambda: fastk.mitchell_matmul(a, b, out=out), scale)
        rate, full = layer.work() / ours / 1e9, n**3 / whole / 1e9
        rows.append([layer.name, duration(ours), f"{rate:.2f}", f"{full:.2f}", f"{100 * rate / full:.0f} %"])
    head = ["convolution, float32", "fastk", "10^9 products a second", f"matmul's, {n} x {n}", "share"]
    return table(head, rows)


def beside_torch(scale: Scale) -> list[Row]:
    """The same layers beside torch; none without it."""
    try:
        import torch
    except ImportError:
        return []
    torch.set_num_threads(1)
    convolve = torch.nn.functional.conv2d
    rows = []
    for layer in layers(scale):
        x, w = torch.from_numpy(layer.x), torch.from_numpy(layer.w)
        options = {"padding": layer.padding, "groups": layer.groups}
        with torch.inference_mode():
            seconds = ratio(layer.ours, partial(convolve, x, w, **options), scale)
        rows.append(Row(layer.name, f"torch {torch.__version__} conv2d", *seconds, layer.work()))
    return rows


# Accuracy.

EXPONENT = float(numpy.float32(2.7))
EXACT: dict[str, Callable[..., Array]] = {
    "mul": numpy.multiply,
    "square": numpy.square,
    "div": numpy.divide,
    "reciprocal": numpy.reciprocal,
    "sqrt": numpy.sqrt,
    "rsqrt": lambda x: 1 / numpy.sqrt(x),
    "log2": numpy.log2,
    "exp2": numpy.exp2,
    "pow": lambda x: numpy.power(x, EXPONENT),
}
ROUNDING = 2.0**-18
"""What float32 may add: half a unit in the last place of the largest logarithm here, and less to the others."""


def observed(op: str, correction: str | None, count: int) -> Array:
    """Errors of random float32 operands, of uniform mantissas and exponents."""
    rng = numpy.random.default_rng(3)

    def operand() -> Array:
        if op == "exp2":
            return rng.uniform(-40, 40, count).astype(numpy.float32)
        return numpy.ldexp(rng.uniform(1, 2, count), rng.integers(-40, 40, count)).astype(numpy.float32)

    arguments = [operand() for _ in range(2 if op in ("mul", "div") else 1)]
    exponent = [numpy.float32(EXPONENT)] if op == "pow" else []
    found = fastk.mitchell_ufunc(op, correction)(*arguments, *exponent).astype(float)
    exact = EXACT[op](*(x.astype(float) for x in arguments))
    return found - exact if op == "log2" else found / exact - 1


def accuracy(scale: Scale) -> str:
    """What mitchell_error says, beside what random operands showed. An error out of the range ends the run."""
    cases: list[tuple[str, str | None]] = [(op, None) for op in EXACT]
    cases += [("mul", name) for name in ("minimax", "unbiased", "lmul", "refined")]
    rows = []
    for op, correction in cases:
        stated = fastk.mitchell_error(op, correction, exponent=EXPONENT if op == "pow" else None)
        found = observed(op, correction, scale.samples)
        name = f"pow, exponent {EXPONENT:.1f}" if op == "pow" else op if correction is None else f"{op}, {correction}"
        seen = found.min(), found.max(), found.mean()
        if not (stated.low - ROUNDING <= seen[0] and seen[1] <= stated.high + ROUNDING):
            raise SystemExit(f"{name}: errors from {seen[0]} to {seen[1]}, stated are {stated.low} to {stated.high}")
        factor, unit = (1, "") if op == "log2" else (100, " %")
        pairs = zip(stated[:3], seen, strict=True)
        rows.append([name, *(f"{round(factor * value, 4) + 0.0:+.4f}{unit}" for pair in pairs for value in pair)])
    return table(["error", "low", "seen", "high", "seen", "mean", "seen"], rows)


# Pictures.


def draw(folder: Path) -> None:
    figure, ax = pyplot().subplots(figsize=(6.2, 4.8), layout="constrained")
    fastk.mitchell.plot_error("mul", ax=ax)
    save_figure(figure, folder / "mitchell_error.png")


# The run.


def run_gemm(report: Report, scale: Scale) -> None:
    title = "Matrix product, {} beside {}, one thread"
    report.add_rows(title.format(level(), blas()), gemm(scale))
    levels = fastk.config()["isa_available"]
    for lower, core in LOWER.items():
        if level() in levels and lower in levels[: levels.index(level())]:
            name, rows = gemm_on_lower_level(lower, core, scale)
            report.add_rows(title.format(lower, name), [row._replace(case=f"{lower}: {row.case}") for row in rows])


def run_operands(report: Report, scale: Scale) -> None:
    report.add_rows(f"Matrix product by operands, {level()} beside {blas()}, one thread", operands(scale))


def run_emulations(report: Report, scale: Scale) -> None:
    report.add("Other ways to a Mitchell matrix product, one thread", slower(emulations(scale)))


def run_elementwise(report: Report, scale: Scale) -> None:
    for size in (scale.small, scale.large):
        report.add_rows(f"Element by element, float32 unless named, {level()}, one thread", elementwise(size, scale))


def run_conv(report: Report, scale: Scale) -> None:
    report.add(f"Convolution, {level()}, one thread", shares(scale))
    if rows := beside_torch(scale):
        report.add_rows("Convolution beside torch, one thread", rows)


def run_accuracy(report: Report, scale: Scale) -> None:
    report.add(f"Errors: stated, and of {scale.samples} random float32 operands", accuracy(scale))


PARTS = {
    "gemm": run_gemm,
    "operands": run_operands,
    "emulations": run_emulations,
    "elementwise": run_elementwise,
    "conv": run_conv,
    "accuracy": run_accuracy,
}


def main() -> None:
    command = command_line(__doc__, PARTS)
    command.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = command.parse_args()
    scale = QUICK if options.quick else Scale(options.seconds)
    report = Report("mitchell", machine())
    with one_thread():
        if options.child:
            print(json.dumps([blas(), gemm(scale)]))
            return
        run(report, {name: partial(part, report, scale) for name, part in PARTS.items()}, draw, options)


if __name__ == "__main__":
    main()
