"""The shuffle against the NumPy line that defines its order, with small files driven through every path."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

import fastk
from fastk.shuffle import permutation, shuffle_file
from fastk.shuffle.job import Job
from fastk.shuffle.options import make_options
from fastk.shuffle.plan import GIB, MIB, Plan, make_plan, parse_size

SANITIZED = os.environ.get("FASTK_SANITIZED", "") not in ("", "0")
BACKEND = fastk.config()["backend"]
SMALLEST = {"c": "64M", "numba": "300M"}[BACKEND]
P_VALUE = 1e-6
whole_process = pytest.mark.skipif(SANITIZED, reason="a sanitizer takes memory of its own")


def tiny(
    threads: int = 2, block: int = 64, records: int = 16, fanout: int = 3, arena: int = 0, chunk: int = 32,
    max_fanout: int = 4, in_place: bool = True, bucket_memory: int = 1024,
) -> Plan:  # fmt: skip
    """A plan that sends small files through scatter, gather and splits."""
    plan = Plan(0, threads, block, records, fanout, arena, chunk, max_fanout, in_place)
    scattering = threads * plan.buffers + plan.batches * (plan.placed + 100)
    arena = arena and max(arena, plan.batches * (plan.placed + 100))
    workspace = arena + max(scattering, threads * (bucket_memory + chunk + 1100))
    return replace(plan, workspace=workspace, arena=arena)


def make_job(inputs: Sequence[Path], output: Path, plan: Plan | None = None, **options: Any) -> Job:
    """A run in this process, which may have much in memory already."""
    return Job(make_options(inputs, output, **{"mem": "16G", **options}), plan)


def run(folder: Path, inputs: list[bytes], plan: Plan | None, seed: int, tmp: tuple[Path, ...] = ()) -> bytes:
    """Shuffle byte strings through files; nothing but the output may be left."""
    paths = []
    for i, data in enumerate(inputs):
        paths.append(folder / f"in{i}")
        paths[-1].write_bytes(data)
    job = make_job(paths, folder / "out", seed=seed, tmp=tmp, plan=plan)
    report = job.run()
    result = (folder / "out").read_bytes()
    assert report.records == sum(len(oracle.records(data)) for data in inputs)
    assert report.bytes_out == len(result)
    assert report.bytes_in == sum(map(len, inputs))
    assert sorted(p.name for p in folder.iterdir() if p.name != "tmp") == sorted(
        [*(p.name for p in paths), "out"]
    )
    return result


# Bytes in which newlines are common, and lengths from nothing to many blocks.
pieces = st.one_of(
    st.binary(max_size=20),
    st.just(b"\n"),
    st.sampled_from([b"\xff\n", b"\0\n", b"\r\n", b"\n\n\n", b"\xff" * 70, b"x" * 63 + b"\n", b"y" * 500]),
    st.integers(0, 400).map(lambda n: b"%d\n" % n * (n % 40)),
)
files = st.lists(pieces, max_size=30).map(b"".join)
plans = st.builds(
    tiny,
    threads=st.integers(1, 3),
    block=st.integers(32, 300),
    records=st.integers(1, 40),
    fanout=st.integers(1, 9),
    arena=st.sampled_from([0, 0, 1500, 3000, 100_000]),
    chunk=st.integers(16, 100),
    max_fanout=st.integers(9, 12),
    in_place=st.booleans(),
    bucket_memory=st.sampled_from([600, 1024, 4096, 100_000]),
)


@given(inputs=st.lists(files, min_size=1, max_size=4), plan=plans, seed=st.integers(0, 2**128 - 1))
@example(inputs=[b""], plan=tiny(), seed=0)
@example(inputs=[b"", b"", b"a", b""], plan=tiny(), seed=1)
@example(inputs=[b"\n" * 500], plan=tiny(), seed=2)
@example(inputs=[b"z" * 5000], plan=tiny(in_place=False), seed=3)
@example(inputs=[b"z" * 5000 + b"\n" + b"a\n" * 300], plan=tiny(fanout=4), seed=4)
def test_output_is_the_public_permutation(tmp_path_factory: pytest.TempPathFactory, inputs, plan, seed):
    folder = tmp_path_factory.mktemp("run")
    assert run(folder, inputs, plan, seed) == oracle.shuffled(inputs, seed)


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_many_splits(tmp_path: Path, threads: int, in_place: bool):
    rng = np.random.default_rng(3)
    data = b"".join(b"%d %s\n" % (i, b"w" * int(rng.integers(0, 50))) for i in range(4000))
    plan = tiny(threads=threads, fanout=2, max_fanout=3, in_place=in_place, bucket_memory=2000)
    assert run(tmp_path, [data], plan, 5) == oracle.shuffled([data], 5)


def test_memory_overflows_into_files(tmp_path: Path):
    data = b"".join(b"%d\n" % i for i in range(3000))
    plan = tiny(threads=3, fanout=8, arena=6000, max_fanout=8, bucket_memory=100_000)
    assert run(tmp_path, [data], plan, 6) == oracle.shuffled([data], 6)


def test_scratch_is_spread_over_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from fastk.shuffle import scratch

    directories = [tmp_path / "tmp" / name for name in "abc"]
    for directory in directories:
        directory.mkdir(parents=True)
    created = []
    create = scratch.Scratch.create

    def recording(self, path):
        created.append(Path(path).parent.parent)
        return create(self, path)

    monkeypatch.setattr(scratch.Scratch, "create", recording)
    data = b"".join(b"%d\n" % i for i in range(500))
    plan = tiny(fanout=6, max_fanout=6, in_place=False)
    assert run(tmp_path, [data], plan, 8, tuple(directories)) == oracle.shuffled([data], 8)
    assert set(created) == set(directories)
    assert [list(directory.iterdir()) for directory in directories] == [[], [], []]


def test_scratch_holds_the_data_and_four_bytes_a_record(tmp_path: Path):
    data = b"".join(b"%d %s\n" % (i, b"v" * (i % 40)) for i in range(6000))
    (tmp_path / "in").write_bytes(data)
    for in_place in (True, False):
        plan = tiny(fanout=40, max_fanout=40, in_place=in_place, bucket_memory=20_000)
        report = make_job([tmp_path / "in"], tmp_path / "out", seed=1, plan=plan).run()
        assert len(data) < report.scratch_bytes <= len(data) + 4 * 6000
        assert report.passes == 2


def test_output_may_be_an_input(tmp_path: Path):
    data = b"".join(b"%d\n" % i for i in range(300))
    path = tmp_path / "same"
    for plan in (None, tiny(), tiny(in_place=False)):
        path.write_bytes(data)
        make_job([path], path, seed=9, plan=plan).run()
        assert path.read_bytes() == oracle.shuffled([data], 9)
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5, 1000])
@pytest.mark.parametrize("seed", [0, 7, 2**64 - 1, 2**64, 2**128 - 1])
def test_permutation(n: int, seed: int):
    assert np.array_equal(permutation(n, seed), oracle.order(n, seed))


@pytest.mark.parametrize(("n", "seed"), [(-1, 0), (3, -1), (3, 2**128)])
def test_permutation_refuses_values(n: int, seed: int):
    with pytest.raises(ValueError, match=str(n if n < 0 else seed)):
        permutation(n, seed)


@pytest.mark.parametrize(("n", "seed"), [(1.5, 0), ("3", 0), (3, None), (3, 1.0)])
def test_permutation_refuses_types(n, seed):
    with pytest.raises(TypeError, match="integer"):
        permutation(n, seed)


# ---- uniformity, through scatter and gather ----


def test_all_orders_of_four_are_equally_likely(tmp_path: Path):
    data, plan = b"a\nb\nc\nd\n", tiny(threads=1)
    (tmp_path / "in").write_bytes(data)
    counts: Counter[bytes] = Counter()
    for seed in range(2400):
        make_job([tmp_path / "in"], tmp_path / "out", seed=seed, plan=plan).run()
        counts[(tmp_path / "out").read_bytes()] += 1
    assert len(counts) == 24
    assert chisquare(list(counts.values())).pvalue > P_VALUE


def test_a_marked_record_lands_anywhere(tmp_path: Path):
    lines = [b"%d\n" % i for i in range(2000)]
    lines[1234] = b"here\n"
    (tmp_path / "in").write_bytes(b"".join(lines))
    plan = tiny(threads=1, block=2000, records=100, fanout=7, max_fanout=7, bucket_memory=4000, chunk=500)
    positions = []
    for seed in range(400):
        make_job([tmp_path / "in"], tmp_path / "out", seed=seed, plan=plan).run()
        positions.append((tmp_path / "out").read_bytes().split(b"\n").index(b"here"))
    assert chisquare(np.histogram(positions, bins=20, range=(0, 2000))[0]).pvalue > P_VALUE


# ---- the same bytes, whatever it runs on ----


def command(*arguments: str | Path, environment: dict[str, str] | None = None, **options) -> subprocess.Popen[bytes]:
    """Start the command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "fastk.shuffle", *map(str, arguments)],
        env={**os.environ, **(environment or {})}, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


def finish(process: subprocess.Popen[bytes], data: bytes | None = None) -> tuple[int, bytes, bytes]:
    """Exit status, standard output and standard error."""
    out, error = process.communicate(data, timeout=300)
    return process.returncode, out or b"", error


def settings_of_this_machine() -> list[dict[str, str]]:
    found = [{"FASTK_BACKEND": "c", "FASTK_ISA": isa} for isa in fastk.config()["isa_available"]]
    return [*found, {"FASTK_BACKEND": "numba", "FASTK_ISA": "auto"}]


@whole_process
def test_same_bytes_everywhere(corpus: Path, tmp_path: Path):
    expected = oracle.shuffled([corpus.read_bytes()], 42)
    for i, environment in enumerate(settings_of_this_machine()):
        for mem, threads in (("320M", 1), ("64M", 2), ("1G", 3)):
            if mem == "64M" and environment["FASTK_BACKEND"] == "numba":
                continue
            out = tmp_path / f"out{i}{mem}"
            status, _, error = finish(
                command(corpus, out, "--mem", mem, "--seed", 42, "-j", threads, "--json", environment=environment)
            )
            assert status == 0, error
            report = json.loads(error)
            assert (report["backend"], report["threads"]) == (environment["FASTK_BACKEND"], threads)
            assert (report["passes"] > 1) == (mem == "64M")
            assert out.read_bytes() == expected
            out.unlink()


@whole_process
def test_spread_over_file_systems(corpus: Path, tmp_path: Path):
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system")
    scratch = Path(tempfile.mkdtemp(dir=other))
    report = shuffle_file(corpus, tmp_path / "out", mem=_workable(), seed=42, tmp=[scratch, tmp_path])
    assert report.passes == 2
    assert (tmp_path / "out").read_bytes() == oracle.shuffled([corpus.read_bytes()], 42)
    scratch.rmdir()  # which takes an empty one only


def _workable() -> int:
    """Least memory promise that this very process can keep."""
    from fastk.shuffle.plan import INTERPRETER_GROWTH, SMALLEST_MEMORY, resident_memory

    return max(SMALLEST_MEMORY[BACKEND], int((resident_memory()[0] + INTERPRETER_GROWTH + 24 * MIB) * 64 / 63))


# ---- the memory promise ----


def peak_of(process: subprocess.Popen[bytes]) -> int:
    """Highest VmHWM seen of a process, until it ends."""
    peak = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak = max(peak, int(status.split("VmHWM:")[1].split()[0]) * 1024)
        except (OSError, IndexError):
            pass
        time.sleep(0.002)
    return peak


def write_repeated(path: Path, unit: bytes, size: int) -> None:
    block = unit * max(1, MIB // len(unit))
    with path.open("wb") as file:
        for _ in range(max(1, size // len(block))):
            file.write(block)


MEMORY_CASES = {
    "text": (b"the quick brown fox jumps over the lazy dog, again and again\n" * 5, 1 * GIB, "128M"),
    "newlines": (b"\n", 48 * MIB, "64M"),
    "one byte": (b"a\n", 96 * MIB, "64M"),
    "no newline": (b"abcdefgh", 256 * MIB, "64M"),
    "ten megabytes": (b"l" * (10 * MIB - 1) + b"\n", 320 * MIB, "64M"),
    "varied": (b"".join(b"v" * (7**i) + b"\n" * 50 for i in range(8)), 320 * MIB, "64M"),
}


@pytest.mark.slow
@whole_process
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize("case", MEMORY_CASES)
def test_memory_promise(case: str, tmp_path: Path):
    unit, size, mem = MEMORY_CASES[case]
    if BACKEND == "numba":
        mem = "300M"
    source, out = tmp_path / "in", tmp_path / "out"
    write_repeated(source, unit, size)
    process = command(source, out, "--mem", mem, "--seed", 1, "--json")
    peak = peak_of(process)
    status, _, error = finish(process)
    assert status == 0, error
    report = json.loads(error)
    assert 0 < peak <= parse_size(mem)
    assert report["peak_memory"] <= parse_size(mem)
    if case not in ("no newline", "ten megabytes"):
        assert report["passes"] > 1 or BACKEND == "numba"
    length = source.stat().st_size
    assert out.stat().st_size == length + (case == "no newline")
    if len(unit) > 2:  # records differ: the bytes are all there, in an order of their own
        assert byte_counts(out)[:10].tolist() == byte_counts(source)[:10].tolist()
    source.unlink()
    out.unlink()


def byte_counts(path: Path) -> np.ndarray:
    total = np.zeros(256, np.int64)
    with path.open("rb") as file:
        while block := file.read(4 * MIB):
            total += np.bincount(np.frombuffer(block, np.uint8), minlength=256)
    return total


def test_plans_keep_to_their_workspace():
    for workspace in (12 * MIB, 30 * MIB, 470 * MIB, 8 * GIB):
        for threads in (1, 2, 16):
            for total in (None, 0, 1, 1000, 10 * MIB, 400 * MIB, 4 * GIB, 300 * GIB):
                for mean in (1.0, 20.0, 300.0, 1e6):
                    plan = make_plan(workspace, threads, total, mean)
                    assert plan.threads <= threads
                    batches = plan.arena or plan.batches * plan.placed
                    assert batches + plan.threads * plan.buffers <= workspace, plan
                    assert batches >= plan.batches * plan.placed, plan
                    assert plan.bucket_limit(plan.threads) > plan.block or plan.arena, plan


# ---- the command ----


def test_command_reads_stdin_and_writes_stdout():
    data = b"".join(b"%d\n" % i for i in range(5000)) + b"end"
    process = command("-", "-", "--seed", 3, "--mem", "1G", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    status, out, error = finish(process, data)
    assert status == 0
    assert out == oracle.shuffled([data], 3)
    assert b"5,001 records" in error
    assert b"Seed 3" in error


@whole_process
def test_unknown_size_goes_out_of_core(corpus: Path, tmp_path: Path):
    data = corpus.read_bytes()
    long_line = b"L" * (30 * MIB)
    data = data[: len(data) // 2] + long_line + b"\n" + data[len(data) // 2 :]
    mem = "64M" if BACKEND == "c" else "300M"
    process = command("-", "-", "--mem", mem, "--seed", 5, "--json", "-T", tmp_path, stdin=subprocess.PIPE,
                      stdout=subprocess.PIPE)  # fmt: skip
    status, out, error = finish(process, data)
    assert status == 0, error
    assert out == oracle.shuffled([data], 5)
    assert json.loads(error)["peak_memory"] <= parse_size(mem)
    assert list(tmp_path.iterdir()) == []


def test_seed_is_drawn_and_reported(tmp_path: Path):
    source = tmp_path / "in"
    source.write_bytes(b"".join(b"%d\n" % i for i in range(100)))
    reports = [shuffle_file(source, tmp_path / f"out{i}", mem="16G") for i in range(2)]
    assert reports[0].seed != reports[1].seed
    again = shuffle_file(source, tmp_path / "again", seed=reports[0].seed, mem="16G")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "out0").read_bytes()
    assert str(again.seed) in str(again)


USAGE_ERRORS = {
    "no output": (["in"], b"INPUT and OUTPUT"),
    "seed": (["in", "out", "--seed", "x"], b"not an integer"),
    "seed range": (["in", "out", "--seed", "-1"], b"2**128"),
    "mem": (["in", "out", "--mem", "lots"], b"lots"),
    "mem zero": (["in", "out", "--mem", "0"], b"above zero"),
    "mem small": (["in", "out", "--mem", "8M"], b"at least"),
    "mem percent": (["in", "out", "--mem", "120%"], b"100%"),
    "threads": (["in", "out", "-j", "0"], b"1 up"),
    "progress": (["in", "out", "--progress", "maybe"], b"maybe"),
    "option": (["in", "out", "--sed", "3"], b"unrecognized"),
    "stdin twice": (["-", "-", "out"], b"once"),
}


@pytest.mark.parametrize("case", USAGE_ERRORS)
def test_wrong_usage(case: str, tmp_path: Path):
    arguments, message = USAGE_ERRORS[case]
    (tmp_path / "in").write_bytes(b"a\n")
    status, _, error = finish(command(*arguments, cwd=tmp_path, stdin=subprocess.DEVNULL))
    assert (status, message in error) == (2, True), error
    assert b"Traceback" not in error
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_failures_name_the_path(tmp_path: Path):
    (tmp_path / "in").write_bytes(b"a\n")
    cases = {
        "absent": (["absent", "out"], b"absent"),
        "folder": ([".", "out"], b"."),
        "no folder": (["in", "nowhere/out"], b"nowhere"),
        "no scratch": (["in", "out", "-T", "nowhere"], b"nowhere"),
        "several into a folder": (["in", "in", str(tmp_path)], str(tmp_path).encode()),
    }
    for arguments, message in cases.values():
        status, _, error = finish(command(*arguments, cwd=tmp_path))
        assert (status, message in error, b"Traceback" in error) == (1, True, False), (arguments, error)
        assert [p.name for p in tmp_path.iterdir()] == ["in"]


def test_output_folder_gets_the_name_of_the_input(tmp_path: Path):
    (tmp_path / "in").write_bytes(b"a\nb\n")
    (tmp_path / "folder").mkdir()
    assert finish(command(tmp_path / "in", tmp_path / "folder", "-q"))[0] == 0
    assert (tmp_path / "folder" / "in").read_bytes() in (b"a\nb\n", b"b\na\n")


def test_output_follows_umask_and_symlinks(tmp_path: Path):
    (tmp_path / "in").write_bytes(b"a\nb\n")
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    assert finish(command(tmp_path / "in", tmp_path / "link", "-q", umask=0o027))[0] == 0
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() in (b"a\nb\n", b"b\na\n")
    assert (tmp_path / "real").stat().st_mode & 0o777 == 0o640


def test_quiet_and_json_file(tmp_path: Path):
    (tmp_path / "in").write_bytes(b"a\nb\n")
    status, _, error = finish(command(tmp_path / "in", tmp_path / "out", "-q", f"--json={tmp_path / 'report'}"))
    assert (status, error) == (0, b"")
    report = json.loads((tmp_path / "report").read_text())
    assert (report["records"], report["bytes_out"], report["passes"]) == (2, 4, 1)


@whole_process
def test_progress_bar(corpus: Path, tmp_path: Path):
    pytest.importorskip("tqdm")
    status, _, error = finish(command(corpus, tmp_path / "out", "--progress", "always", "--mem", SMALLEST))
    assert status == 0
    assert b"ordering" in error
    assert b"B/s" in error
    status, _, error = finish(command(corpus, tmp_path / "out", "--mem", SMALLEST))
    assert b"B/s" not in error.split(b"Shuffled")[0]


# ---- what goes wrong half way ----


@whole_process
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("delay", [0.0, 0.03, 0.08, 0.15])
def test_signals_leave_nothing(number: signal.Signals, delay: float, corpus: Path, tmp_path: Path):
    scratch, out = tmp_path / "scratch", tmp_path / "out"
    scratch.mkdir()
    out.write_bytes(b"before")
    process = command(corpus, "-", out, "--mem", SMALLEST, "-T", scratch, stdin=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".out*")) and time.monotonic() < deadline:
        time.sleep(0.005)
    if delay:
        threading.Timer(delay, process.stdin.close).start()  # standard input ends: the run goes on to its second pass
    time.sleep(delay)
    process.send_signal(number)
    process.stderr.read()
    status = process.wait(60)
    process.stdin.close()
    process.stderr.close()
    if status == 0:
        assert delay
        assert out.stat().st_size == corpus.stat().st_size
    else:
        assert status == 128 + number
        assert out.read_bytes() == b"before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "scratch"]
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("kind", ["standard input", "named pipe"])
def test_waiting_for_input_can_be_interrupted(kind: str, number: signal.Signals, tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    source = "-" if kind == "standard input" else tmp_path / "pipe"
    process = command(source, tmp_path / "out", "--mem", "8G", stdin=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".out*")) and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.2)  # now it waits in its first read
    process.send_signal(number)
    try:
        assert process.wait(30) == 128 + number
    finally:
        process.kill()
        process.stdin.close()
        process.stderr.close()
    assert [p.name for p in tmp_path.iterdir()] == ["pipe"]


def test_named_pipe(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    data = b"".join(b"%d\n" % i for i in range(50_000))
    process = command(tmp_path / "pipe", tmp_path / "out", "--mem", "8G", "--seed", 2)
    time.sleep(0.2)  # the reader comes first
    with open(tmp_path / "pipe", "wb") as pipe:
        pipe.write(data[:1000])
        pipe.flush()
        time.sleep(0.2)
        pipe.write(data[1000:])
    assert finish(process)[0] == 0
    assert (tmp_path / "out").read_bytes() == oracle.shuffled([data], 2)


@whole_process
@pytest.mark.parametrize("limit", [MIB, 20 * MIB, 79 * MIB])
@pytest.mark.parametrize("other_file_system", [False, True])
def test_file_size_limit(limit: int, other_file_system: bool, corpus: Path, tmp_path: Path):
    if other_file_system and not Path("/dev/shm").is_dir():
        pytest.skip("needs a second file system")
    scratch = Path(tempfile.mkdtemp(dir="/dev/shm")) if other_file_system else tmp_path
    limited = f"import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); os.execv(" \
        "sys.executable, [sys.executable, '-m', 'fastk.shuffle', *sys.argv[1:]])"
    arguments = [corpus, tmp_path / "out", "--mem", SMALLEST, *(["-T", scratch] if other_file_system else [])]
    process = subprocess.Popen([sys.executable, "-c", limited, *map(str, arguments)], stderr=subprocess.PIPE)
    status, _, error = finish(process)
    assert status == 1, error
    assert b"more was needed" in error
    assert b"Traceback" not in error
    assert str(tmp_path).encode() in error or str(scratch).encode() in error
    assert list(tmp_path.iterdir()) == []
    if other_file_system:
        scratch.rmdir()  # which takes an empty one only


@whole_process
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")
@pytest.mark.parametrize("full", ["scratch", "out"])
def test_full_disk(full: str, corpus: Path, tmp_path: Path):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=30m", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("cannot mount a tmpfs")
    try:
        other = tmp_path / "other"
        other.mkdir()
        out, scratch = (other / "out", small) if full == "scratch" else (small / "out", other)
        status, _, error = finish(command(corpus, out, "--mem", SMALLEST, "-T", scratch))
        if full == "scratch" and BACKEND == "numba":
            assert status == 0  # its least memory holds the whole corpus
        else:
            assert status == 1
            assert b"No space left on device" in error
            assert str(small).encode() in error
            assert b"free" in error
            assert list(other.iterdir()) == []
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", small], check=True)


def test_input_that_changes_is_noticed(tmp_path: Path):
    source = tmp_path / "in"
    source.write_bytes(b"a\n" * 1000)
    job = make_job([source], tmp_path / "out", seed=1, threads=1, plan=tiny())
    source.write_bytes(b"b\n" * 1200)
    with pytest.raises(OSError, match="changed"):
        job.run()
    assert list(tmp_path.iterdir()) == [source]


def test_damaged_scratch_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from fastk.shuffle import stores

    source = tmp_path / "in"
    source.write_bytes(b"".join(b"%d\n" % i for i in range(3000)))
    read = stores.read_exactly

    def damaging(fd, into, offset, path):
        read(fd, into, offset, path)
        into[: min(8, len(into))] = b"\xff" * min(8, len(into))

    monkeypatch.setattr(stores, "read_exactly", damaging)
    plan = tiny(bucket_memory=20_000)
    job = make_job([source], tmp_path / "out", seed=1, threads=2, plan=plan)
    with pytest.raises(OSError, match="damaged"):
        job.run()
    assert list(tmp_path.iterdir()) == [source]


# ---- sizes ----


@pytest.mark.parametrize(
    ("text", "size"),
    [("64M", 64 * MIB), ("2G", 2 * GIB), ("1.5GiB", 3 * GIB // 2), ("1k", 1024), ("10", 10), ("3 MB", 3 * MIB), (7, 7)],
)
def test_parse_size(text: str | int, size: int):
    assert parse_size(text) == size


def test_parse_size_percent():
    assert math.isclose(parse_size("50%"), parse_size("100%") / 2, rel_tol=1e-6)


@settings(max_examples=50)
@given(st.text(max_size=6))
def test_parse_size_refuses_by_value_error(text: str):
    try:
        size = parse_size(text)
    except ValueError as error:
        size = -1 if "mem=" in str(error) else 0
    assert size
