"""What the benchmarks share: the machine's description, times beside a peer's, tables, pictures, the command line."""

from __future__ import annotations

import argparse
import math
import platform
import timeit
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy

import fastk

Call = Callable[[], Any]


def cpu_model() -> str:
    """The processor's name, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def machine(*others: str) -> str:
    """One line: processor, system, versions, compiler and ISA level, without which a figure says nothing."""
    config = fastk.config()
    versions = [f"Python {platform.python_version()}", f"NumPy {numpy.__version__}", *others]
    return (
        f"{cpu_model()}, {config['threads']} CPUs, {platform.system()} {platform.release()}; {', '.join(versions)}, "
        f"fastk {config['version']} ({config['backend']} {config['isa'] or ''}, {config['compiler'] or 'no compiler'})"
    )


def level() -> str:
    return fastk.config()["isa"] or "numba"


def blas() -> str:
    """What numpy.matmul calls, and the processor that it takes this one for."""
    from threadpoolctl import threadpool_info

    for library in threadpool_info():
        if library["user_api"] == "blas":
            return f"{library['internal_api']} {library.get('architecture', '')}".rstrip()
    return "no BLAS"


# Times.


@dataclass(frozen=True)
class Effort:
    """What a ratio takes: at least so many seconds and repeats."""

    seconds: float = 1.0
    repeats: int = 5


class Row(NamedTuple):
    """A ratio: least seconds of both sides, and the products or elements of the call."""

    case: str
    peer: str
    ours: float
    theirs: float
    work: int


def ratio(ours: Call, theirs: Call, effort: Effort) -> tuple[float, float]:
    """Least seconds a call of each side. They take turns of ten timings, of a millisecond each, or of one long call."""
    turns = []
    for call in (ours, theirs):
        call()
        once = timeit.timeit(call, number=1)
        count = max(1, round(1e-3 / once))
        turns.append((call, count, max(1, min(10, round(1e-2 / (count * once))))))
    least = [math.inf, math.inf]
    rounds, end = 0, perf_counter() + effort.seconds
    while rounds < effort.repeats or perf_counter() < end:
        for i, (call, count, repeats) in enumerate(turns):
            least[i] = min(
                least[i], *(seconds / count for seconds in timeit.repeat(call, number=count, repeat=repeats))
            )
        rounds += 1
    return least[0], least[1]


# Tables.


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its columns aligned."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        first = cells[0].ljust(widths[0])
        rest = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
        return "| " + " | ".join([first, *rest]) + " |"

    rule = "|" + "|".join("-" * (width + 1) + (":" if i else "-") for i, width in enumerate(widths)) + "|"
    return "\n".join([line(head), rule, *map(line, rows)])


def duration(seconds: float) -> str:
    unit, name = next(((u, n) for u, n in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")) if seconds >= u), (1e-9, "ns"))
    return f"{seconds / unit:.3g} {name}"


def times(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def ratios(rows: Iterable[Row]) -> str:
    def cells(row: Row) -> list[str]:
        least = duration(row.ours), duration(row.theirs), times(row.ours / row.theirs)
        return [row.case, row.peer, *least, f"{row.work / row.ours / 1e9:.2f}"]

    return table(["case", "beside", "fastk", "peer", "of the peer's time", "10^9 a second"], list(map(cells, rows)))


# Pictures.


def pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def save_figure(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=110, metadata={"Software": None}, pil_kwargs={"optimize": True})
    print(f"\n{path}: {path.stat().st_size / 1000:.0f} kB")


def draw_ratios(rows: Sequence[Row], path: Path) -> None:
    """A bar a ratio, on a logarithmic axis, from 1."""
    from matplotlib.ticker import LogLocator, NullLocator

    figure, ax = pyplot().subplots(figsize=(8, 1 + 0.22 * len(rows)), layout="constrained")
    values = [row.ours / row.theirs for row in rows]
    ax.barh(range(len(rows)), [value - 1 for value in values], left=1, color=["C0" if v > 1 else "C2" for v in values])
    for i, value in enumerate(values):
        ax.annotate(times(value), (value, i), xytext=(3 if value > 1 else -3, 0), textcoords="offset points",
                    ha="left" if value > 1 else "right", va="center", fontsize=8)  # fmt: skip
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.axvline(1, color="0.3", linewidth=0.8)
    ax.set_yticks(range(len(rows)), [f"{row.case} | {row.peer}" for row in rows], fontsize=8)
    ax.set(xlabel="time of fastk / time of its peer", ylim=(len(rows) - 0.5, -0.5))
    ax.margins(x=0.12)
    ax.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


# The run.


class Report:
    """Prints tables, and keeps them for --save."""

    def __init__(self, family: str, machine: str) -> None:
        self.family = family
        self.machine = machine
        self.text: list[str] = []
        self.rows: list[Row] = []

    def add(self, title: str, text: str) -> None:
        self.text.append(f"{title}\n\n{text}\n")
        print(f"\n{self.text[-1]}", end="", flush=True)

    def add_rows(self, title: str, rows: Sequence[Row]) -> None:
        self.add(title, ratios(rows))
        self.rows += rows

    def save(self, folder: Path) -> None:
        if self.text:
            (folder / f"{self.family}.md").write_text("\n".join([f"{self.machine}\n", *self.text]))
        if self.rows:
            draw_ratios(self.rows, folder / f"{self.family}_ratios.png")


def command_line(description: str | None, parts: Iterable[str]) -> argparse.ArgumentParser:
    """What every benchmark takes; the pictures are a part too."""
    command = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--quick", action="store_true", help="small sizes, one repeat: a smoke test")
    command.add_argument("--seconds", type=float, default=1.0, help="that a ratio takes (default: %(default)s)")
    command.add_argument("--only", nargs="+", choices=[*parts, "picture"], metavar="PART", help="%(choices)s")
    command.add_argument("--save", type=Path, metavar="DIR", help="write tables as Markdown and pictures there")
    return command


@contextmanager
def one_thread() -> Iterator[None]:
    """Of fastk and of what NumPy calls. Without warnings."""
    from threadpoolctl import threadpool_limits

    fastk.set_num_threads(1)
    with threadpool_limits(1), numpy.errstate(all="ignore"):
        yield


def run(
    report: Report, parts: dict[str, Callable[[], None]], draw: Callable[[Path], None], options: argparse.Namespace
) -> None:
    """The parts that were asked for, or all; with --save also the pictures."""
    if options.save:
        pyplot()  # now, if it is missing, and not after some minutes
    print(report.machine)
    for name, part in parts.items():
        if not options.only or name in options.only:
            part()
    if options.save:
        options.save.mkdir(parents=True, exist_ok=True)
        report.save(options.save)
        if not options.only or "picture" in options.only:
            draw(options.save)
