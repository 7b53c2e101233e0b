"""What the benchmarks share: the machine's description and tables in Markdown."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

import numpy

import fastk


def cpu_model() -> str:
    """The processor's name, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def machine() -> str:
    """One line: processor, system, versions, compiler and ISA level, without which a figure says nothing."""
    config = fastk.config()
    return (
        f"{cpu_model()}, {config['threads']} CPUs, {platform.system()} {platform.release()}; Python "
        f"{platform.python_version()}, NumPy {numpy.__version__}, fastk {config['version']} ({config['backend']} "
        f"{config['isa'] or ''}, {config['compiler'] or 'no compiler'})"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its columns aligned."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        first = cells[0].ljust(widths[0])
        rest = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
        return "| " + " | ".join([first, *rest]) + " |"

    rule = "|" + "|".join("-" * (width + 1) + (":" if i else "-") for i, width in enumerate(widths)) + "|"
    return "\n".join([line(head), rule, *map(line, rows)])
