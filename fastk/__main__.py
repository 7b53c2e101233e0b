"""``python -m fastk`` prints what this installation runs on, for a bug report."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from ._backend import c
from .config import config


def _cpu() -> str:
    """Model of the CPU, as the operating system names it."""
    try:
        found = re.search(r"^(?:model name|Model|cpu model|cpu)\s*:\s*(\S.*)", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        found = None
    return found.group(1) if found else platform.processor() or platform.machine()


def _installed(distribution: str) -> str:
    # From the metadata: importing numba only to name it would take a second.
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"


def rows() -> list[tuple[str, str]]:
    """Label and value of every line."""
    settings = config()
    isa = "none: numba compiles for this CPU"
    if settings["isa"] is not None:
        isa = f"{settings['isa']} (this machine has {', '.join(settings['isa_available'])})"
    from_environment = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("FASTK_")]
    return [
        ("fastk", settings["version"]),
        ("backend", settings["backend"]),
        ("ISA level", isa),
        ("C core", f"built by {settings['compiler']}" if c.MISSING is None else f"not installed: {c.MISSING}"),
        ("threads", f"{settings['threads']} ({os.cpu_count()} CPUs)"),
        ("settings", " ".join(from_environment) or "none in the environment"),
        ("Python", f"{platform.python_version()} ({platform.python_implementation()})"),
        ("NumPy", np.__version__),
        ("numba", _installed("numba")),
        ("platform", platform.platform()),
        ("CPU", _cpu()),
    ]


def main() -> None:
    """Print the configuration."""
    lines = rows()
    width = max(len(label) for label, _ in lines)
    for label, value in lines:
        print(f"{label:<{width}}  {value}")
    if c.MISSING is not None:
        print(
            "\nWithout the C core every function runs on numba, with the same results. To get it, install a C\n"
            "compiler (gcc or clang) and then fastk again, with FASTK_REQUIRE_C=1 set to see why if that fails."
        )


if __name__ == "__main__":
    main()
