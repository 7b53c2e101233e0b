"""The Taylor softmax and its kin beside what their user would run instead: torch, SciPy, and formulas in NumPy.

    python bench/bench_softmax.py                               # every table, some minutes
    python bench/bench_softmax.py --quick                       # seconds, small sizes: does it run?
    python bench/bench_softmax.py --only rows gelu              # some of the parts
    python bench/bench_softmax.py --only picture --save docs    # draws docs/taylor_family.png and _tail.png again

torch has no Taylor softmax: beside its softmax stands the function that one would take instead, not the same numbers.
Before anything is timed, each side is compared with its own formula in float64. Without torch, its rows are left out.

Both sides of a ratio run in one process, in turn, on the same operands, into arrays that exist where they take one; the
table has the least time of each. All run on one thread unless a row says otherwise. Times on shared machines drift:
compare ratios, not seconds.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import scipy
from report import (
    Call,
    Effort,
    Report,
    Row,
    blas,
    command_line,
    level,
    machine,
    one_thread,
    pyplot,
    ratio,
    run,
    save_figure,
    table,
)
from scipy import special

import fastk
from fastk.softmax import plot_taylor

try:
    import torch
except ImportError:
    torch = None
try:
    import ml_dtypes
except ImportError:
    ml_dtypes = None

Array = numpy.ndarray[Any, Any]
Shape = tuple[int, int]

ORDERS = range(2, 13, 2)


@dataclass(frozen=True)
class Scale(Effort):
    """Sizes, and the time that a ratio takes."""

    low: Shape = (64, 512)
    middle: Shape = (1024, 1024)
    high: Shape = (8192, 4096)
    few: int = 4096
    many: int = 1 << 24
    tokens: Sequence[int] = (1024, 4096, 8192, 16384)
    samples: int = 10**6


QUICK = Scale(0.0, 1, middle=(64, 1024), high=(128, 4096), many=1 << 16, tokens=(256, 1024), samples=10**5)


def random(*shape: int) -> Array:
    return numpy.random.default_rng(1).standard_normal(shape, numpy.float32)


def left_out(name: str, what: str) -> None:
    print(f"\n{name} is not installed: {what} left out")


# What is right: formulas in float64, and how far a dtype may be off.

FEW = 64
"""Rows that are checked."""

TOLERANCE = {"float16": 2**-10, "bfloat16": 2**-7, "float32": 2**-16, "float64": 2**-40}
"""Relative; absolute it is a hundredth, for gradients, whose terms cancel."""


def softmax(x: Array, axis: int = -1) -> Array:
    return special.softmax(x.astype(float), axis)


def polynomial(order: int, x: Array) -> Array:
    return numpy.polyval([1 / math.factorial(k) for k in range(order, -1, -1)], x.astype(float))


def taylor(order: int, x: Array, axis: int = -1) -> Array:
    f = polynomial(order, x)
    return f / f.sum(axis, keepdims=True)


def check(name: str, found: Any, right: Array, dtype: str = "float32", absolute: float | None = None) -> None:
    """End the run if the first rows differ by more than the dtype may."""
    relative = TOLERANCE[dtype]
    absolute = relative / 100 if absolute is None else absolute
    rows = found[:FEW].astype(float) if isinstance(found, numpy.ndarray) else found[:FEW].double().numpy()
    numpy.testing.assert_allclose(rows, right[:FEW], relative, absolute, err_msg=name)


# Rows.


def taylor_by_hand(x: Any) -> Any:
    """Order 2 as one writes it, in NumPy or torch."""
    f = 1 + x * (1 + x / 2)
    return f / f.sum(-1)[:, None]


def shaped(name: str, x: Array) -> str:
    return f"{name}, {' x '.join(map(str, x.shape))}"


OURS: dict[str, Callable[..., Array]] = {
    "order 2": partial(fastk.taylor_softmax, order=2),
    "order 4": partial(fastk.taylor_softmax, order=4),
    "fast_softmax": fastk.fast_softmax,
}
RIGHT: dict[str, Callable[..., Array]] = {
    "order 2": partial(taylor, 2),
    "order 4": partial(taylor, 4),
    "fast_softmax": softmax,
}
FAST = fastk.fast_softmax_error(4, 4096)
"""How far an element of fast_softmax may be off besides."""


def torch_softmax(x: Array, axis: int = -1) -> Call:
    operand, result = torch.from_numpy(x), torch.empty(x.shape)
    call = partial(torch.softmax, operand, axis, out=result)
    check("torch.softmax", call().T if axis == 0 else call(), softmax(x, axis).T if axis == 0 else softmax(x[:FEW]))
    return call


def rows(shape: Shape, scale: Scale) -> Iterator[Row]:
    """float32, along the last axis."""
    x, out = random(*shape), random(*shape)
    ours = {name: partial(call, x, out=out) for name, call in OURS.items()}
    for name, call in ours.items():
        check(name, call(), RIGHT[name](x[:FEW]), absolute=FAST if name == "fast_softmax" else None)

    def beside(name: str, peer: str, theirs: Call) -> Row:
        return Row(shaped(name, x), peer, *ratio(ours[name], theirs, scale), x.size)

    if torch:
        theirs = torch_softmax(x)
        for name in ours:
            yield beside(name, "torch.softmax", theirs)
    if shape != scale.high:
        for name in ours:
            yield beside(name, "scipy.special.softmax", partial(special.softmax, x, -1))
    check("order 2 in NumPy", taylor_by_hand(x), taylor(2, x[:FEW]))
    yield beside("order 2", "the same in NumPy", partial(taylor_by_hand, x))
    if torch:
        yield beside("order 2", "the same in torch", partial(taylor_by_hand, torch.from_numpy(x)))
    yield beside("order 4", "order 2", ours["order 2"])


# Other operands.


def narrow(x: Array, name: str) -> tuple[Array, Any]:
    """x in that dtype, for NumPy and, on the same memory, for torch."""
    tensor = torch.from_numpy(x).to(getattr(torch, name))
    if name != "bfloat16":
        return tensor.numpy(), tensor
    return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16), tensor


def dtypes(x: Array, scale: Scale) -> Iterator[Row]:
    for dtype in ["float16", *["bfloat16"] * bool(ml_dtypes), "float64"]:
        operand, tensor = narrow(x, dtype)
        out, result = numpy.empty_like(operand), torch.empty_like(tensor)
        theirs = partial(torch.softmax, tensor, -1, out=result)
        check(f"torch.softmax, {dtype}", theirs(), softmax(operand), dtype)
        for name, call in OURS.items():
            ours = partial(call, operand, out=out)
            check(name, ours(), RIGHT[name](operand), dtype, FAST if name == "fast_softmax" else None)
            yield Row(shaped(f"{name}, {dtype}", x), f"torch.softmax, {dtype}", *ratio(ours, theirs, scale), x.size)


def columns(x: Array, scale: Scale) -> Iterator[Row]:
    out, theirs = numpy.empty_like(x), torch_softmax(x, 0)
    for name, call in OURS.items():
        ours = partial(call, x, axis=0, out=out)
        check(name, ours().T, RIGHT[name](x, 0).T, absolute=FAST if name == "fast_softmax" else None)
        yield Row(shaped(f"{name}, axis 0", x), "torch.softmax, axis 0", *ratio(ours, theirs, scale), x.size)


def masked(x: Array, scale: Scale) -> Row:
    mask, out = numpy.random.default_rng(2).random(x.shape) < 0.5, numpy.empty_like(x)
    operand, hidden = torch.from_numpy(x), torch.from_numpy(~mask)
    filled, result = torch.empty(x.shape), torch.empty(x.shape)

    def theirs() -> Any:
        torch.ops.aten.masked_fill.Scalar_out(operand, hidden, -math.inf, out=filled)
        return torch.softmax(filled, -1, out=result)

    ours = partial(fastk.taylor_softmax, x, where=mask, out=out)
    f = numpy.where(mask, polynomial(2, x), 0)
    check("where", ours(), f / f.sum(-1, keepdims=True))
    check("masked_fill", theirs(), softmax(numpy.where(mask, x, -numpy.inf)))
    seconds = ratio(ours, theirs, scale)
    return Row(shaped("order 2, half is masked", x), "torch masked_fill, softmax", *seconds, x.size)


def orders(x: Array, scale: Scale) -> Iterator[Row]:
    out = numpy.empty_like(x)
    for order in ORDERS:
        ours = partial(fastk.taylor_softmax, x, order, out=out)
        check(f"order {order}", ours(), taylor(order, x))
        if torch:
            yield Row(shaped(f"order {order}", x), "torch.softmax", *ratio(ours, torch_softmax(x), scale), x.size)
        elif order > 2:
            theirs = partial(fastk.taylor_softmax, x, out=out)
            yield Row(shaped(f"order {order}", x), "order 2", *ratio(ours, theirs, scale), x.size)


def rows_of(length: int, x: Array, scale: Scale) -> Iterator[Row]:
    x = x.reshape(-1)[: x.size // length * length].reshape(-1, length)
    out, theirs = numpy.empty_like(x), torch_softmax(x)
    for name, call in OURS.items():
        ours = partial(call, x, out=out)
        check(name, ours(), RIGHT[name](x), absolute=FAST if name == "fast_softmax" else None)
        yield Row(shaped(name, x), "torch.softmax", *ratio(ours, theirs, scale), x.size)


def options(x: Array, scale: Scale) -> Iterator[Row]:
    """What is asked for besides, and threads, beside the plain call."""
    out = numpy.empty_like(x)
    plain = partial(fastk.taylor_softmax, x, 2, out=out)
    for name, given in {"monotone": {"monotone": True}, "temperature 2": {"temperature": 2.0}}.items():
        yield Row(shaped(f"order 2, {name}", x), "order 2", *ratio(partial(plain, **given), plain, scale), x.size)


def threaded(threads: int, scale: Scale) -> Row:
    x, out = random(*scale.high), random(*scale.high)

    def on(count: int) -> None:
        fastk.set_num_threads(count)
        fastk.taylor_softmax(x, 2, out=out)

    seconds = ratio(partial(on, threads), partial(on, 1), scale)
    fastk.set_num_threads(1)
    return Row(shaped(f"order 2, {threads} threads", x), "one thread", *seconds, x.size)


def operands(scale: Scale) -> Iterator[Row]:
    x = random(*scale.middle)
    if torch:
        yield from dtypes(x, scale)
        yield from columns(x, scale)
        yield masked(x, scale)
        for length in (10, 64, 100, 1000):
            yield from rows_of(length, x, scale)
    yield from orders(x, scale)
    yield from options(x, scale)
    if (os.cpu_count() or 1) > 1:
        yield threaded(2, scale)


# Logarithms, gradients, losses.


def gradient(order: int, g: Array, x: Array, log: bool) -> Array:
    p, r = taylor(order, x), polynomial(order - 1, x) / polynomial(order, x)
    return r * (g - p * g.sum(-1, keepdims=True)) if log else r * p * (g - (g * p).sum(-1, keepdims=True))


def gradients(scale: Scale) -> Iterator[Row]:
    """Beside torch's backward passes, which take the probabilities, or their logarithms, as given."""
    x, g, out = random(*scale.middle), random(*scale.middle)[::-1].copy(), random(*scale.middle)
    operand, given, result = torch.from_numpy(x), torch.from_numpy(g), torch.empty(x.shape)
    p, log_p = torch.softmax(operand, -1), torch.log_softmax(operand, -1)
    backward, log_backward = torch.ops.aten._softmax_backward_data.out, torch.ops.aten._log_softmax_backward_data.out
    peers: dict[str, Call] = {
        "log_softmax": partial(torch.ops.aten._log_softmax.out, operand, -1, False, out=result),
        "softmax's backward": partial(backward, given, p, -1, torch.float32, grad_input=result),
        "log_softmax's backward": partial(log_backward, given, log_p, -1, torch.float32, out=result),
    }
    exact, wide = softmax(x), g.astype(float)
    check("torch.log_softmax", peers["log_softmax"](), numpy.log(exact))
    right = exact * (wide - (wide * exact).sum(-1, keepdims=True))
    check("torch, backward", peers["softmax's backward"](), right, absolute=1e-6)
    right = wide - exact * wide.sum(-1, keepdims=True)
    check("torch, log backward", peers["log_softmax's backward"](), right, absolute=1e-5)
    for order in (2, 4):
        cases: list[tuple[str, Call, str, Array, float]] = [
            ("log_taylor_softmax", partial(fastk.log_taylor_softmax, x, order, out=out), "log_softmax",
             numpy.log(taylor(order, x)), 1e-6),
            ("taylor_softmax_vjp", partial(fastk.taylor_softmax_vjp, g, x, order, out=out), "softmax's backward",
             gradient(order, wide, x, False), 1e-6),
            ("log_taylor_softmax_vjp", partial(fastk.log_taylor_softmax_vjp, g, x, order, out=out),
             "log_softmax's backward", gradient(order, wide, x, True), 1e-5),
        ]  # fmt: skip
        for name, ours, peer, right, absolute in cases:
            check(f"{name}, order {order}", ours(), right, absolute=absolute)
            seconds = ratio(ours, peers[peer], scale)
            yield Row(shaped(f"{name}, order {order}", x), f"torch {peer}", *seconds, x.size)


def losses(scale: Scale) -> Iterator[Row]:
    x = random(*scale.middle)
    labels = numpy.random.default_rng(2).integers(0, x.shape[1], x.shape[0])
    operand, target, every = torch.from_numpy(x), torch.from_numpy(labels), numpy.arange(len(x))
    g = numpy.full(len(x), 1 / len(x), numpy.float32)
    cross_entropy = partial(torch.nn.functional.cross_entropy, reduction="none")
    check("torch cross_entropy", cross_entropy(operand, target), -numpy.log(softmax(x)[every, labels]))
    wanted, given = operand.clone().requires_grad_(), torch.from_numpy(g)

    def theirs() -> Any:
        return torch.autograd.grad(cross_entropy(wanted, target), wanted, given)[0]

    for order in (2, 4):
        loss = partial(fastk.taylor_cross_entropy, x, labels, order)
        vjp = partial(fastk.taylor_cross_entropy_vjp, g, x, labels, order)
        check("taylor_cross_entropy", loss(), -numpy.log(taylor(order, x)[every, labels]))
        picked = numpy.zeros(x.shape)
        picked[every, labels] = -g.astype(float)
        check("taylor_cross_entropy_vjp", vjp(), gradient(order, picked, x, True), absolute=1e-8)
        with torch.inference_mode():
            seconds = ratio(loss, partial(cross_entropy, operand, target), scale)
        yield Row(shaped(f"taylor_cross_entropy, order {order}", x), "torch cross_entropy", *seconds, x.size)
        seconds = ratio(lambda loss=loss, vjp=vjp: (loss(), vjp()), theirs, scale)
        case = shaped(f"taylor_cross_entropy and its vjp, order {order}", x)
        yield Row(case, "torch cross_entropy and backward", *seconds, x.size)


# GELU.

BELL = math.sqrt(2 / math.pi)


def gelu_tanh(x: Any) -> Any:
    return x / 2 * (1 + numpy.tanh(BELL * (x + 0.044715 * x * x * x)))


GELUS: dict[str, Callable[[Array], Array]] = {
    "none": lambda x: x * special.ndtr(x),
    "tanh": gelu_tanh,
    "sigmoid": lambda x: x * special.expit(1.702 * x),
}


def gelus(size: int, scale: Scale) -> Iterator[Row]:
    x, out = random(size), random(size)
    few = x[:FEW].astype(float)
    for form, formula in GELUS.items():
        ours = partial(fastk.gelu, x, form, out=out)
        check(f"gelu, {form}", ours(), formula(few), absolute=1e-6)
        case = f"gelu, {form}, {size} elements"
        if torch:
            operand, result = torch.from_numpy(x), torch.empty(size)

            def by_sigmoid(operand: Any = operand, result: Any = result) -> Any:
                torch.mul(operand, 1.702, out=result)
                torch.sigmoid(result, out=result)
                return torch.mul(operand, result, out=result)

            peers = [form] if form != "sigmoid" else ["tanh", form]
            for peer in peers:
                aten = partial(torch.ops.aten.gelu.out, operand, approximate=peer, out=result)
                theirs: Call = by_sigmoid if peer == "sigmoid" else aten
                check(f"torch, {peer}", theirs(), GELUS[peer](few), absolute=1e-6)
                name = "torch, mul, sigmoid, mul" if peer == "sigmoid" else f"torch gelu, {peer}"
                yield Row(case, name, *ratio(ours, theirs, scale), size)
        yield Row(case, "the formula, NumPy and SciPy", *ratio(ours, partial(formula, x), scale), size)


# Attention.


def attention_in_float64(weights: Callable[[Array], Array], q: Array, k: Array, v: Array, causal: bool) -> Array:
    """Of the first queries."""
    q = q[:FEW].astype(float)
    w = weights(q @ k.T.astype(float) / math.sqrt(q.shape[1]))
    if causal:
        w *= numpy.tri(*w.shape)
    return w @ v / w.sum(-1, keepdims=True)


def attention(d: int, causal: bool, scale: Scale) -> Iterator[Row]:
    for n in scale.tokens:
        q, k, v = numpy.random.default_rng(1).standard_normal((3, n, d), numpy.float32)
        forms = {
            form: partial(fastk.taylor_attention, q, k, v, causal=causal, form=form)
            for form in ("direct", "linear", "auto")
        }
        right = attention_in_float64(partial(polynomial, 2), q, k, v, causal)
        for form, call in forms.items():
            check(f"taylor_attention, {form}", call(), right, absolute=1e-4)
        case = f"{n} tokens of {d} components{', causal' * causal}"
        yield Row(f"linear, {case}", "direct", *ratio(forms["linear"], forms["direct"], scale), n * n)
        if torch:
            operands = [torch.from_numpy(x[None, None]) for x in (q, k, v)]
            theirs = partial(torch.nn.functional.scaled_dot_product_attention, *operands, is_causal=causal)
            check("torch", theirs()[0, 0], attention_in_float64(numpy.exp, q, k, v, causal), absolute=1e-4)
            with torch.inference_mode():
                yield Row(f"auto, {case}", "torch, of softmax", *ratio(forms["auto"], theirs, scale), n * n)


# Accuracy.


def distance(p: Array, q: Array) -> Array:
    """Total variation, of each row."""
    return numpy.abs(p.astype(float) - q).sum(-1) / 2


def exponential(scale: Scale) -> str:
    """What taylor_error says, beside taylor_exp in float64. An error out of the range ends the run."""
    rows = []
    for order in ORDERS:
        cells = [f"order {order}"]
        for a in (1, 2):
            stated = fastk.taylor_error(order, a)
            x = numpy.random.default_rng(3).uniform(-a, a, scale.samples)
            x[:2] = -a, a
            error = fastk.taylor_exp(x, order) / numpy.exp(x) - 1
            seen, rounding = (error.min(), error.max()), (2.5 * order + 4) * 2**-53 * (1 + stated.high)
            if not (stated.low - rounding <= seen[0] and seen[1] <= stated.high + rounding):
                raise SystemExit(f"order {order} on [-{a}, {a}]: errors {seen}, stated are {stated}")
            cells += [f"{value:+.2e}" for pair in zip(stated, seen, strict=True) for value in pair]
        rows.append(cells)
    ends = [f"{end}, -{a} to {a}" for a in (1, 2) for end in ("low", "high")]
    return table(["error", *(head for end in ends for head in (end, "seen"))], rows)


SPREADS = (1, 4, 16)


def fast(scale: Scale) -> str:
    """fast_softmax beside the softmax in float64: the largest total variation of a row. One above its bound ends it."""
    n = 1000
    logits = numpy.random.default_rng(4).standard_normal((scale.samples // n, n))
    rows = []
    for dtype in ("float32", "float64"):
        for order in (2, 4, 6, 8):
            bound = fastk.fast_softmax_error(order, n, dtype)
            seen = []
            for spread in SPREADS:
                x = (spread * logits).astype(dtype)
                seen.append(distance(fastk.fast_softmax(x, order), softmax(x)).max())
            if max(seen) > bound:
                raise SystemExit(f"fast_softmax, order {order}, {dtype}: {max(seen)} from softmax, stated is {bound}")
            rows.append([f"order {order}, {dtype}", *(f"{value:.1e}" for value in seen), f"{bound:.1e}"])
    return table(["distance", *(f"logits of spread {spread}" for spread in SPREADS), "bound"], rows)


def shifts(scale: Scale) -> str:
    """taylor_softmax beside softmax, the mean total variation of a row: as it is, and of logits less their maximum."""
    x = numpy.random.default_rng(4).standard_normal((scale.samples // 100, 100))
    exact = softmax(x)
    rows = []
    for order in ORDERS:
        cases = [(x, False), (x - x.max(-1, keepdims=True), False), (x - x.max(-1, keepdims=True), True)]
        seen = [distance(fastk.taylor_softmax(y, order, monotone=m), exact).mean() for y, m in cases]
        rows.append([f"order {order}", *(f"{value:.2g}" for value in seen)])
    return table(["distance from softmax", "as they are", "less the maximum", "less the maximum, monotone"], rows)


def lead(probability: Callable[[Array], Array], wanted: float) -> float:
    """Logit that one among 1000 needs for that probability, where the others are 0."""
    low, high = 0.0, 1e6
    for _ in range(60):
        middle = (low + high) / 2
        row = numpy.zeros(1000)
        row[0] = middle
        low, high = (low, middle) if probability(row)[0] > wanted else (middle, high)
    return high


def leads() -> str:
    wanted = (0.1, 0.5, 0.9, 0.99)
    cases: dict[str, Callable[[Array], Array]] = {
        f"taylor_softmax, order {order}": partial(fastk.taylor_softmax, order=order) for order in ORDERS
    }
    cases["softmax"] = softmax
    rows = [[name, *(f"{lead(call, p):.1f}" for p in wanted)] for name, call in cases.items()]
    return table(["logit for a probability of", *map(str, wanted)], rows)


def activations(scale: Scale) -> str:
    """Largest difference from x Phi(x) in float64."""
    x = numpy.linspace(-8, 8, scale.samples + 1)
    rows = []
    for form in GELUS:
        error = numpy.abs(fastk.gelu(x, form) - GELUS["none"](x))
        rows.append([form, f"{error.max():.2e}", f"{abs(x[error.argmax()]):.2f}" if form != "none" else ""])
    return table(["gelu", "off by at most", "at x and -x"], rows)


# Pictures.


def draw_tail(path: Path) -> None:
    """Probability against logit, of one row."""
    figure, ax = pyplot().subplots(figsize=(6.2, 4.8), layout="constrained")
    x = numpy.linspace(-4, 12, 100)
    ax.plot(x, softmax(x), color="black", linestyle="--", linewidth=1.2, label="softmax")
    for order in (2, 4, 8):
        color = f"C{order // 2 - 1}"
        ax.plot(x, fastk.taylor_softmax(x, order), color=color, linewidth=1.5, label=f"order {order}")
        ax.plot(x, fastk.taylor_softmax(x, order, monotone=True), color=color, linewidth=1.5, linestyle=":")
    ax.plot([], [], color="0.4", linewidth=1.5, linestyle=":", label="monotone")
    ax.set_yscale("log")
    ax.set(xlim=(-4, 12), xlabel="logit", ylabel="probability, logarithmic")
    ax.set_title("A row of 100 logits from \N{MINUS SIGN}4 to 12: the tail of taylor_softmax is long")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(loc="lower right", frameon=False)
    save_figure(figure, path)


def draw(folder: Path) -> None:
    figure, ax = pyplot().subplots(figsize=(6.2, 4.8), layout="constrained")
    plot_taylor(ax=ax)
    save_figure(figure, folder / "taylor_family.png")
    draw_tail(folder / "taylor_tail.png")


# The run.


def run_rows(report: Report, scale: Scale) -> None:
    for shape in (scale.low, scale.middle, scale.high):
        title = f"Rows, float32, {' x '.join(map(str, shape))}, {level()}, one thread"
        report.add_rows(title, list(rows(shape, scale)))


def run_operands(report: Report, scale: Scale) -> None:
    if torch and not ml_dtypes:
        left_out("ml_dtypes", "bfloat16 is")
    title = f"Rows by dtype, axis, length, order and options, float32 unless named, {level()}, one thread"
    report.add_rows(title, list(operands(scale)))


def run_gradients(report: Report, scale: Scale) -> None:
    if torch:
        title = f"Logarithms, gradients and losses, float32, {level()}, one thread"
        report.add_rows(title, [*gradients(scale), *losses(scale)])


def run_gelu(report: Report, scale: Scale) -> None:
    for size in (scale.few, scale.many):
        report.add_rows(f"GELU, float32, {size} elements, {level()}, one thread", list(gelus(size, scale)))


def run_attention(report: Report, scale: Scale) -> None:
    for d in (32, 64):
        for causal in (False, True):
            title = f"Attention, float32, {d} components{', causal' * causal}, {blas()}, one thread"
            report.add_rows(title, list(attention(d, causal, scale)))


def run_accuracy(report: Report, scale: Scale) -> None:
    report.add(f"taylor_exp / exp - 1: stated, and of {scale.samples} random float64 numbers", exponential(scale))
    report.add("fast_softmax: largest total-variation distance to softmax, rows of 1000 normal logits", fast(scale))
    report.add("taylor_softmax: mean total-variation distance, rows of 100 normal logits of spread 1", shifts(scale))
    report.add("Long tails: what one logit has to be, where 999 others are 0", leads())
    report.add("gelu: forms beside x Phi(x), in float64", activations(scale))


PARTS = {
    "rows": run_rows,
    "operands": run_operands,
    "gradients": run_gradients,
    "gelu": run_gelu,
    "attention": run_attention,
    "accuracy": run_accuracy,
}


def main() -> None:
    options = command_line(__doc__, PARTS).parse_args()
    scale = QUICK if options.quick else Scale(options.seconds)
    versions = [f"SciPy {scipy.__version__}"]
    if torch:
        torch.set_num_threads(1)
        versions.append(f"torch {torch.__version__}")
    else:
        left_out("torch", "what stands beside it is")
    report = Report("softmax", machine(*versions))
    with one_thread():
        run(report, {name: partial(part, report, scale) for name, part in PARTS.items()}, draw, options)


if __name__ == "__main__":
    main()
