"""Backends and levels to run on, Hypothesis profiles, and the watch over scratch."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

import fastk
from fastk._backend import BACKENDS, Kernels, c

# A level or a backend is set for a whole test, so examples may share the fixture.
COMMON: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}
settings.register_profile("default", max_examples=40, **COMMON)
settings.register_profile("few", max_examples=15, **COMMON)
settings.register_profile("ci", max_examples=400, print_blob=True, **COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or "default")

# What is started in the background with SIGINT ignored would pass that on to the programs under test.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def variants() -> list[str]:
    """Every backend and level that this machine has: "c-base", "c-v3", "c-v4", "numba"."""
    wanted = [name for name in os.environ.get("FASTK_TEST_BACKENDS", "").split(",") if name] or list(BACKENDS)
    if unknown := set(wanted) - set(BACKENDS):
        raise pytest.UsageError(f"FASTK_TEST_BACKENDS: {', '.join(sorted(unknown))}; allowed are {', '.join(BACKENDS)}")
    levels = [f"c-{isa}" for isa in c.available_isa()] if "c" in wanted else []
    return levels + ["numba"] * ("numba" in wanted)


@cache
def _bound(backend: str) -> Kernels:
    # Once a session: numba compiles a kernel each time that it is bound.
    return Kernels(backend)


@contextmanager
def running_on(variant: str) -> Iterator[Kernels]:
    """Kernels of one variant; afterwards the process is back on its own level."""
    backend, _, isa = variant.partition("-")
    if backend == "numba":
        pytest.importorskip("numba")
    else:
        c.select_isa(isa)
    try:
        yield _bound(backend)
    finally:
        if c.lib is not None:
            c.select_isa(fastk.config()["isa"] or "base")


@pytest.fixture(params=variants())
def kernels(request: pytest.FixtureRequest) -> Iterator[Kernels]:
    """The kernels, once for each backend and level."""
    with running_on(request.param) as bound:
        yield bound


@pytest.fixture(params=sorted({variant.partition("-")[0] for variant in variants()}))
def backend(request: pytest.FixtureRequest) -> str:
    """The name of each backend under test, for what runs in a process of its own."""
    if request.param == "numba":
        pytest.importorskip("numba")
    return str(request.param)


@pytest.fixture
def on_each() -> Callable[[Callable[[Kernels], Any]], dict[str, Any]]:
    """Call a function with the kernels of each backend and level; the results by variant."""

    def call(function: Callable[[Kernels], Any]) -> dict[str, Any]:
        results = {}
        for variant in variants():
            with running_on(variant) as bound:
                results[variant] = function(bound)
        return results

    return call


@pytest.fixture
def run_python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a fresh interpreter on this fastk, with no FASTK_ setting but those given; warnings are errors there too."""

    def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FASTK_")}
        root = str(Path(fastk.__file__).resolve().parent.parent)
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
        command = [sys.executable, "-W", "error", *arguments]
        return subprocess.run(command, env=environment | settings, capture_output=True, text=True, timeout=120)

    return run


@pytest.fixture(scope="session")
def scratch_parent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The TMPDIR of the session, its own, so that scratch of other processes is not taken for ours."""
    parent = tmp_path_factory.mktemp("scratch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(parent))
        patch.setattr(tempfile, "tempdir", None)
        yield parent


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some 80 MB in 400 000 records of varied length."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    rng = np.random.default_rng(11)
    text = rng.integers(32, 127, 2_000_000, dtype=np.uint8).tobytes()
    lengths = rng.exponential(200, 400_000).astype(int).tolist()
    starts = rng.integers(0, len(text) - 4000, 400_000).tolist()
    with path.open("wb") as file:
        for i in range(0, 400_000, 1000):
            rows = zip(range(i, i + 1000), starts[i : i + 1000], lengths[i : i + 1000], strict=True)
            file.write(b"".join(b"%d %s\n" % (n, text[s : s + m]) for n, s, m in rows))
    return path


@pytest.fixture(autouse=True)
def _no_scratch_left(request: pytest.FixtureRequest, scratch_parent: Path) -> Iterator[None]:
    """Fail a test that leaves scratch in TMPDIR or, if it has one, in its own directory."""
    parents = [scratch_parent]
    if "tmp_path" in request.fixturenames:
        parents.append(request.getfixturevalue("tmp_path"))
    yield
    left = [path for parent in parents for path in parent.rglob("fastk-shuffle-*") if path.is_dir()]
    for path in left:
        shutil.rmtree(path)
    assert not left, f"scratch was left behind: {', '.join(map(str, left))}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what the shuffle was put through; reports bring the counts here from every worker."""
    reports = [report for each in terminalreporter.stats.values() for report in each]
    counts = [
        value
        for report in reports
        if getattr(report, "when", None) == "teardown"
        for name, value in report.user_properties
        if name == "shuffle faults"
    ]
    if counts:
        faults, lost, partial = (sum(column) for column in zip(*counts, strict=True))
        terminalreporter.write_line(f"{faults} faults, {lost} records lost, {partial} partial outputs")
