"""The shuffle when things go wrong: killed, interrupted, out of space, unreadable, damaged, at every moment of a run.

After each fault the output is as it was before or what it is to be, never anything else.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import json
import lzma
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import oracle
import pytest
from fault_server import LENGTHS, PLACES, READS, WRITES, Fault, FaultServer, Result, Run

import fastk

BACKEND = fastk.config()["backend"]
SANITIZED = os.environ.get("FASTK_SANITIZED", "") not in ("", "0")

pytestmark = [
    pytest.mark.skipif(BACKEND == "numba", reason="faults are about files, and numba needs the memory that makes them"),
    pytest.mark.skipif(SANITIZED, reason="a sanitizer takes memory of its own"),
    pytest.mark.skipif(sys.platform != "linux", reason="children are forked, and looked at in /proc"),
]

BEFORE = b"what was here before\n"
SEED = 20
KILLS = 9
"""Of each configuration that goes on after them."""
SMALL_PARTS = {
    f"fastk.shuffle.{name}": size
    for name, size in {
        "plan.BUCKET_TARGET": 2 << 20,
        "plan.BLOCK_TARGET": 1 << 20,
        "plan.BATCH_TARGET": 2 << 20,
        "scatter.BATCH_TARGET": 2 << 20,
        "plan.SEGMENT_BATCHES": 1,
        "plan.SEGMENT_LEAST": 2 << 20,
    }.items()
}
"""More buckets and batches than so little data would get, so that there is more to go wrong."""
DECODERS = {".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress}


needs_zstandard = pytest.mark.skipif(find_spec("zstandard") is None, reason="needs zstandard")


# ---- what is shuffled, and what is to come out ----


@dataclass(frozen=True)
class Corpus:
    """Two files of some 22 MB together, records of all sizes; the first one lacks its last delimiter."""

    paths: tuple[Path, Path]

    def shuffled(self, inputs: int = 2, head: int | None = None) -> list[bytes]:
        """The records of the first `inputs` files in their new order."""
        return _shuffled(self.paths[:inputs])[:head]


@cache
def _shuffled(paths: tuple[Path, ...]) -> list[bytes]:
    rows = [row for path in paths for row in oracle.records(path.read_bytes())]
    return [rows[i] for i in oracle.order(len(rows), SEED)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corpus]:
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(12)
    text = rng.integers(32, 127, 3_000_000, dtype=np.uint8).tobytes()
    lengths = rng.exponential(90, 200_000).astype(int)
    lengths[rng.integers(0, len(lengths), 5)] = 400_000, 900_000, 70_000, 130_000, 1_200_000
    starts = rng.integers(0, 1_500_000, len(lengths))
    rows = [b"%d %s" % (i, text[s : s + m]) for i, (s, m) in enumerate(zip(starts, lengths, strict=True))]
    rows[5000:5004] = [b"", b"\xff", b"\0", b"\r"]
    paths = folder / "first", folder / "second"
    paths[0].write_bytes(b"\n".join(rows[:180_000]))
    paths[1].write_bytes(b"\n".join(rows[180_000:]) + b"\n")
    yield Corpus(paths)
    shutil.rmtree(folder)


# ---- one place to run in ----


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, scratch_parent: Path) -> Iterator[FaultServer]:
    server = FaultServer(tmp_path_factory.mktemp("stderr"), Path(fastk.__file__).resolve().parent.parent)
    yield server
    server.close()


@dataclass
class Tally:
    """What is printed at the end of the session."""

    faults: int = 0
    lost: int = 0
    partial: int = 0


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    tally = Tally()
    yield tally
    request.node.user_properties.append(("shuffle faults", [tally.faults, tally.lost, tally.partial]))


class Site:
    """A directory in which runs read, write and leave things."""

    def __init__(self, folder: Path, elsewhere: Path, server: FaultServer, corpus: Corpus, tally: Tally) -> None:
        self.folder, self.elsewhere = folder, elsewhere
        self.corpus = corpus
        self.tally = tally
        self._server = server
        self._runs: list[Run] = []
        self.own: set[str] = set()
        self.clear()

    def clear(self) -> None:
        """Nothing is there but empty directories."""
        for name in ("out", "tmp"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            (self.folder / name).mkdir()
        shutil.rmtree(self.elsewhere, ignore_errors=True)
        self.elsewhere.mkdir()

    def close(self) -> None:
        """End what still runs and remove everything."""
        for run in self._runs:
            run.kill()
        self.clear()

    @property
    def out(self) -> Path:
        """Where runs are started and write their output."""
        return self.folder / "out"

    def start(self, *options: str | Path, fault: Fault | None = None, inputs: int | Sequence[Path] = 2,
              output: str = "out.txt", umask: int = 0o022, seed: int | None = SEED) -> Run:  # fmt: skip
        """Start a run with the least memory."""
        paths = self.corpus.paths[:inputs] if isinstance(inputs, int) else inputs
        seeded = [] if seed is None else ["--seed", str(seed)]
        mem = "64M" if output.endswith(".txt") else "104M"  # for what compression takes
        arguments = [*paths, output, "--mem", mem, *seeded, "-j", "2", *options]
        self._runs.append(self._server.start(arguments, self.out, fault, settings=SMALL_PARTS, umask=umask))
        return self._runs[-1]

    def command(self, *arguments: str | Path) -> Result:
        """The command, with these arguments and no others."""
        self._runs.append(self._server.start(arguments, self.out))
        return self._runs[-1].wait()

    def run(self, *options: str | Path, fault: Fault | None = None, **rest) -> Result:
        """Start a run, and wait for its end or its stop."""
        result = self.start(*options, fault=fault, **rest).wait()
        self.tally.faults += result.fired
        assert "Traceback" not in result.error, result.error
        assert "Exception ignored" not in result.error, result.error
        return result

    def left(self, *expected: str) -> list[Path]:
        """What is there apart from these files, which are in the directory of the output."""
        known = {self.out, self.folder / "tmp", self.elsewhere, *(self.out / name for name in expected)}
        known |= {self.folder / name for name in self.own}
        return sorted({path for base in (self.folder, self.elsewhere) for path in base.rglob("*")} - known)

    def check(self, expected: dict[str, bytes], before: dict[str, bytes | None] | None = None) -> None:
        """Every output is as expected or, where `before` is given, as it was; nothing in between."""
        for name, data in expected.items():
            path = self.out / name
            found = path.read_bytes() if path.exists() else None
            if found == data or (before is not None and found == before[name]):
                continue
            self.tally.partial += 1
            if before is None:
                lost = Counter(oracle.records(data)) - Counter(oracle.records(found or b""))
                self.tally.lost += lost.total() if name.endswith(".txt") else 1
            pytest.fail(f"{name} is neither complete nor as it was: {len(found or b'')} bytes of {len(data)}")


@pytest.fixture
def site(tmp_path: Path, server: FaultServer, corpus: Corpus, tally: Tally) -> Iterator[Site]:
    """On two file systems; that in memory is the main one, where it is large enough, for fsync costs nothing there."""
    memory = Path("/dev/shm")
    large = memory.is_dir() and shutil.disk_usage(memory).free > 1 << 30
    fast = Path(tempfile.mkdtemp(dir=memory)) if large else tmp_path / "main"
    fast.mkdir(exist_ok=True)
    site = Site(fast, tmp_path / "elsewhere", server, corpus, tally)
    yield site
    site.close()
    shutil.rmtree(fast)


@dataclass(frozen=True)
class Case:
    """A way to run, and the names and contents of what it writes."""

    options: tuple[str, ...] = ()
    output: str = "out.txt"
    inputs: int = 2
    shards: int = 0
    head: int | None = None

    def given(self, site: Site) -> list[str]:
        """The options, with the directories of a site."""
        return [each.format(tmp=site.folder / "tmp", elsewhere=site.elsewhere) for each in self.options]

    def contents(self, corpus: Corpus) -> dict[str, bytes]:
        """What each output holds when it is decompressed."""
        return dict(_contents(corpus, self.output, self.inputs, self.shards, self.head))


@cache
def _contents(corpus: Corpus, output: str, inputs: int, shards: int, head: int | None) -> dict[str, bytes]:
    rows = corpus.shuffled(inputs, head)
    if not shards:
        return {output: b"".join(rows)}
    stem, dot, suffix = output.partition(".")
    ends = [len(rows) * s // shards for s in range(shards + 1)]
    return {
        f"{stem}-{s:05d}-of-{shards:05d}{dot}{suffix}": b"".join(rows[ends[s] : ends[s + 1]]) for s in range(shards)
    }


def decoded(path: Path) -> bytes:
    """What a file holds, by another library than the product's way to use it."""
    data = path.read_bytes()
    if path.suffix == ".zst":
        zstandard = import_module("zstandard")
        with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as reader:
            return bytes(reader.read())
    return DECODERS.get(path.suffix, bytes)(data)


_learnt: dict[tuple[Case, tuple[str, ...]], tuple[Result, float, dict[str, bytes]]] = {}


def learn(site: Site, case: Case, *options: str) -> tuple[Result, float, dict[str, bytes]]:
    """A run without faults: what it calls, its time, and the very bytes that it writes, which are checked."""
    if (case, options) not in _learnt:
        began = time.monotonic()
        result = site.run(*case.given(site), *options, output=case.output, inputs=case.inputs)
        seconds = time.monotonic() - began
        assert result.status == 0, result.error
        contents = case.contents(site.corpus)
        assert site.left(*contents) == []
        for name, data in contents.items():
            assert decoded(site.out / name) == data, name
        files = (
            contents if case.output.endswith(".txt") else {name: (site.out / name).read_bytes() for name in contents}
        )
        site.clear()
        _learnt[case, options] = result, seconds, files
    return _learnt[case, options]


def spread(total: int, most: int) -> list[int]:
    """Numbers from 1 to total: all of them, or so many, evenly."""
    if total <= most:
        return list(range(1, total + 1))
    return sorted({1 + i * (total - 1) // max(1, most - 1) for i in range(most)})


def put_before(site: Site, names: Sequence[str]) -> dict[str, bytes | None]:
    """Something is already there under the names of the outputs."""
    for name in names:
        (site.out / name).write_bytes(BEFORE)
    return dict.fromkeys(names, BEFORE)


PLAIN = {
    "beside the output": Case(),
    "other directory": Case(("-T", "{tmp}")),
    "other file system": Case(("-T", "{elsewhere}")),
    "several directories": Case(("-T", "{elsewhere}", "-T", "{tmp}")),
}
"""What every version has."""
CASES = PLAIN | {
    "one input": Case(inputs=1),
    "shards": Case(("--shards", "5"), shards=5),
    "shards elsewhere": Case(("--shards", "3", "-T", "{elsewhere}"), shards=3),
    "gz": Case(("-n", "60000"), "out.txt.gz", head=60_000),
    "zst": Case(output="out.txt.zst"),
    "zst shards": Case(("--shards", "3"), "out.txt.zst", shards=3),
    "compressed scratch": Case(("--compress-scratch",)),
    "verify": Case(("--verify",)),
    "verify elsewhere": Case(("--verify", "-T", "{elsewhere}", "--compress-scratch")),
    "fsync": Case(("--fsync",)),
    "head": Case(("-n", "100000"), head=100_000),
}


UNLIKE = {
    name: CASES[name]
    for name in ("beside the output", "other directory", "other file system", "shards", "zst shards", "one input")
}
"""Those that differ in what files they make, and where."""


def cases(names: dict[str, Case]) -> pytest.MarkDecorator:
    """Run for each of the cases, as far as the libraries are there."""
    return pytest.mark.parametrize(
        "case",
        [
            pytest.param(case, id=name, marks=[needs_zstandard] if case.output.endswith(".zst") or
                         "--compress-scratch" in case.options else [])
            for name, case in names.items()
        ],
    )  # fmt: skip


# ---- kill -9, and on ----


@cases(CASES)
def test_killed_runs_go_on(case: Case, site: Site):
    clean, seconds, files = learn(site, case, "--resume")
    moments = random.Random(f"{case}")
    kills = 0
    while kills < KILLS:
        before = put_before(site, list(files)) if moments.random() < 0.5 else dict.fromkeys(files)
        for _ in range(12):
            result = killed_somewhere(site, case, len(clean.trace), seconds, moments)
            if result.status == 0:
                break
            assert result.signal == signal.SIGKILL, result.error
            kills += 1
            site.check(files, before)
        else:
            result = site.run(*case.given(site), "--resume", output=case.output, inputs=case.inputs)
        assert result.status == 0, result.error
        site.check(files)
        assert site.left(*files) == []
        site.clear()


def killed_somewhere(site: Site, case: Case, calls: int, seconds: float, moments: random.Random) -> Result:
    """A run that is killed at one of its calls, or after some time, if it is not over by then."""
    if moments.random() < 0.7:
        fault = Fault(moments.randint(1, calls), "signal", when=moments.choice(["before", "half", "after"]))
        return site.run(*case.given(site), "--resume", output=case.output, inputs=case.inputs, fault=fault)
    run = site.start(*case.given(site), "--resume", output=case.output, inputs=case.inputs)
    time.sleep(moments.random() * seconds)
    run.send(signal.SIGKILL)
    result = run.wait()
    site.tally.faults += result.signal == signal.SIGKILL
    return result


def test_what_is_done_is_not_done_again(site: Site):
    case = CASES["other directory"]
    clean, _, files = learn(site, case, "--resume")
    late = Fault(len(clean.trace) * 9 // 10, "signal")
    assert site.run(*case.given(site), "--resume", fault=late).signal == signal.SIGKILL
    result = site.run(*case.given(site), "--resume")
    assert result.status == 0
    assert result.bytes_written < clean.bytes_written / 2
    assert result.bytes_read < clean.bytes_read / 2
    site.check(files)


def test_a_drawn_seed_is_kept(site: Site):
    run = site.run("--resume", "--json", seed=None, fault=Fault(20, "signal", functions=WRITES))
    assert run.signal == signal.SIGKILL
    result = site.run("--resume", "--json", seed=None)
    assert result.status == 0, result.error
    seed = json.loads(result.error[result.error.index("{") :])["seed"]
    rows = [row for path in site.corpus.paths for row in oracle.records(path.read_bytes())]
    site.check({"out.txt": b"".join(rows[i] for i in oracle.order(len(rows), seed))})
    assert site.left("out.txt") == []


# ---- signals ----


@cases(CASES)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_at_every_stage(number: signal.Signals, case: Case, site: Site):
    clean, seconds, files = learn(site, case)
    for i, call in enumerate(spread(len(clean.trace), 20 if case == Case() else 6)):
        before = put_before(site, list(files))
        fault = Fault(call, "signal", number=number, when=("before", "after")[i % 2])
        result = site.run(*case.given(site), output=case.output, inputs=case.inputs, fault=fault)
        stopped_or_done(site, result, number, files, before)
    for i in range(2):
        before = put_before(site, list(files))
        run = site.start(*case.given(site), output=case.output, inputs=case.inputs)
        run.begun()
        time.sleep(seconds * 0.9 * (i + random.random()) / 2)
        run.send(number)
        site.tally.faults += 1
        stopped_or_done(site, run.wait(), number, files, before)


def stopped_or_done(
    site: Site, result: Result, number: int, files: dict[str, bytes], before: dict[str, bytes | None]
) -> None:
    """The exit status tells what became of the outputs; nothing else is left."""
    assert "Traceback" not in result.error, result.error
    assert result.status in (0, 128 + number), result
    site.check(files if result.status == 0 else before)
    assert site.left(*files) == []
    site.clear()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_runs_go_on(number: signal.Signals, site: Site):
    case = CASES["other directory"]
    clean, _, files = learn(site, case, "--resume")
    for call in spread(len(clean.trace), 10):
        before = put_before(site, list(files))
        result = site.run(*case.given(site), "--resume", fault=Fault(call, "signal", number=number))
        assert result.status in (0, 128 + number), result
        site.check(files if result.status == 0 else before)
        result = site.run(*case.given(site), "--resume")
        assert result.status == 0, result.error
        site.check(files)
        assert site.left(*files) == []
        site.clear()


# ---- no space, errors, short counts ----


def failed(site: Site, result: Result, error: str, files: dict[str, bytes]) -> None:
    """It failed, said why and where, and left the outputs that were there, and nothing else."""
    assert result.status == 1, result
    assert os.strerror(getattr(errno, error)) in result.error
    assert names_a_path(site, result), result.error
    site.check(dict.fromkeys(files, BEFORE))
    assert site.left(*files) == []


def names_a_path(site: Site, result: Result) -> bool:
    """Whether the message says where it happened."""
    places = [*site.corpus.paths, site.folder, site.elsewhere, "out.txt"]
    return any(str(place) in result.error for place in places)


@cases(CASES)
def test_no_space_at_any_write(case: Case, site: Site):
    clean, _, files = learn(site, case)
    writes = sum(clean.calls[name] for name in WRITES)
    put_before(site, list(files))
    for call in spread(writes, 100 if case == Case() else 10):
        fault = Fault(call, "fail", WRITES, error=("ENOSPC", "EDQUOT")[call % 2], lasting=call % 3 == 0)
        result = site.run(*case.given(site), output=case.output, inputs=case.inputs, fault=fault)
        if not result.fired:
            assert result.status == 0
            site.check(files)
            put_before(site, list(files))
            continue
        failed(site, result, fault.error, files)
        assert "free" in result.error


@cases(CASES)
def test_goes_on_when_there_is_space_again(case: Case, site: Site):
    clean, _, files = learn(site, case, "--resume")
    writes = sum(clean.calls[name] for name in WRITES)
    for call in spread(writes, 8 if case == Case() else 3):
        before = put_before(site, list(files))
        fault = Fault(call, "fail", WRITES, error="ENOSPC", lasting=True)
        result = site.run(*case.given(site), "--resume", output=case.output, inputs=case.inputs, fault=fault)
        if result.fired:
            assert result.status == 1, result
            site.check(before)
            result = site.run(*case.given(site), "--resume", output=case.output, inputs=case.inputs)
        assert result.status == 0, result.error
        site.check(files)
        assert site.left(*files) == []
        site.clear()


@cases({name: CASES[name] for name in ("other directory", "shards", "shards elsewhere", "zst shards", "fsync")})
def test_goes_on_after_errors_at_other_calls(case: Case, site: Site):
    clean, _, files = learn(site, case, "--resume")
    watched = (*PLACES, *LENGTHS)
    for call in spread(sum(clean.calls[name] for name in watched), 16 if case.shards else 8):
        before = put_before(site, list(files))
        fault = Fault(call, "fail", watched, error=("EIO", "EACCES", "ENOSPC")[call % 3])
        result = site.run(*case.given(site), "--resume", output=case.output, inputs=case.inputs, fault=fault)
        if result.status != 0:
            failed_or_told(site, result, fault.error, result.trace[call - 1], files, before)
            result = site.run(*case.given(site), "--resume", output=case.output, inputs=case.inputs)
        assert result.status == 0, result.error
        site.check(files)
        site.clear()


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[None]:
    """A file system is mounted on a folder; skips where that is not allowed."""
    if os.geteuid() != 0 or subprocess.run(["mount", *options, str(folder)], capture_output=True).returncode:
        pytest.skip("cannot mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("full", ["out", "tmp"])
@pytest.mark.parametrize("megabytes", [3, 12, 20])
def test_a_small_file_system(full: str, megabytes: int, site: Site):
    with mounted(site.folder / full, "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs"):
        (site.out / "out.txt").write_bytes(BEFORE)
        options = ["-T", site.folder / "tmp"]
        result = site.run(*options)
        site.tally.faults += 1
        failed(site, result, "ENOSPC", {"out.txt": b""})
        assert str(site.folder / full) in result.error or "out.txt" in result.error
        result = site.run(*options, "--resume")
        site.tally.faults += 1
        assert result.status == 1, result.error
        site.check({"out.txt": BEFORE})
        subprocess.run(["mount", "-o", "remount,size=100m", site.folder / full], check=True)
        result = site.run(*options, "--resume")
        assert result.status == 0, result.error
        site.check(Case().contents(site.corpus))
        assert site.left("out.txt") == []


@cases(CASES)
def test_errors_at_any_read(case: Case, site: Site):
    clean, _, files = learn(site, case)
    put_before(site, list(files))
    for call in spread(sum(clean.calls[name] for name in READS), 100 if case == Case() else 10):
        fault = Fault(call, "fail", READS, error="EIO", lasting=call % 2 == 0)
        result = site.run(*case.given(site), output=case.output, inputs=case.inputs, fault=fault)
        if result.fired:
            failed(site, result, "EIO", files)
        else:
            assert result.status == 0
            put_before(site, list(files))


@cases(CASES)
def test_errors_at_any_other_call(case: Case, site: Site):
    clean, _, files = learn(site, case)
    watched = (*PLACES, *LENGTHS)
    calls = sum(clean.calls[name] for name in watched)
    for call in spread(calls, 60 if case == Case() else 12):
        before = put_before(site, list(files))
        fault = Fault(call, "fail", watched, error=("EIO", "EACCES", "ENOSPC")[call % 3])
        result = site.run(*case.given(site), output=case.output, inputs=case.inputs, fault=fault)
        name = result.trace[call - 1] if result.fired else ""
        if result.status == 0:
            site.check(files)
        else:
            failed_or_told(site, result, fault.error, name, files, before)
        if name not in ("unlink", "rmdir", "open", "close"):  # cleaning up needs these
            assert site.left(*files) == [], name
        site.clear()


def failed_or_told(
    site: Site, result: Result, error: str, name: str, files: dict[str, bytes], before: dict[str, bytes | None]
) -> None:
    """It failed and named the error and the path; what happens after the rename does not take it back."""
    assert result.status == 1, result
    if name != "close":  # shutil's own is not always reported
        assert os.strerror(getattr(errno, error)) in result.error, (name, result.error)
        assert names_a_path(site, result), (name, result.error)
    if name == "close" or result.where == str(site.out):
        site.check(files, before)
    else:
        site.check(before)


@cases(CASES)
def test_short_counts_are_no_faults(case: Case, site: Site):
    _, _, files = learn(site, case)
    fault = Fault(1, "short", (*READS, *WRITES), lasting=True)
    result = site.run(*case.given(site), output=case.output, inputs=case.inputs, fault=fault)
    assert (result.status, result.fired) == (0, True), result.error
    site.check(files)
    assert site.left(*files) == []


# ---- what others do to its files ----


@cases(UNLIKE)
def test_scratch_is_removed_under_a_run(case: Case, site: Site):
    clean, _, files = learn(site, case)
    for call in spread(len(clean.trace), 8):
        before = put_before(site, list(files))
        run = site.start(*case.given(site), output=case.output, inputs=case.inputs, fault=Fault(call, "stop"))
        if not run.wait().stopped:
            continue  # it came with fewer calls this time
        for path in site.left(*files):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        result = run.go_on()
        site.tally.faults += 1
        assert result.status in (0, 1), result
        assert "Traceback" not in result.error, result.error
        if len(files) == 1:
            site.check(files if result.status == 0 else before)
        site.check(files, before)
        assert site.left(*files) == []
        site.clear()


@pytest.mark.parametrize("where", ["out", "tmp"])
@pytest.mark.parametrize("options", [(), ("--resume",)], ids=["", "resume"])
def test_directory_that_is_read_only(where: str, options: tuple[str, ...], site: Site):
    folder = site.folder / where
    (site.out / "out.txt").write_bytes(BEFORE)
    with mounted(folder, "--bind", str(folder)):
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        result = site.run("-T", site.folder / "tmp", *options)
        site.tally.faults += 1
        assert result.status == 1
        assert os.strerror(errno.EROFS) in result.error or os.strerror(errno.EACCES) in result.error
        assert str(folder) in result.error or "out.txt" in result.error
        site.check({"out.txt": BEFORE})
        assert site.left("out.txt") == []


@pytest.mark.parametrize("part", [0.1, 0.5, 0.95])
def test_two_runs_at_once(part: float, site: Site):
    case = CASES["other directory"]
    clean, _, files = learn(site, case)
    first = site.start(*case.given(site), fault=Fault(int(len(clean.trace) * part), "stop"))
    assert first.wait().stopped
    assert site.run(*case.given(site)).status == 0
    site.check(files)
    assert first.go_on().status == 0
    site.check(files)
    assert site.left(*files) == []
    both = [site.start(*case.given(site)) for _ in range(2)]
    assert [run.wait().status for run in both] == [0, 0]
    site.check(files)
    assert site.left(*files) == []


@pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
def test_a_run_that_is_alive_is_not_gone_on_with(part: float, site: Site):
    case = CASES["other directory"]
    clean, _, files = learn(site, case, "--resume")
    before = put_before(site, list(files))
    first = site.start(*case.given(site), "--resume", fault=Fault(int(len(clean.trace) * part), "stop"))
    assert first.wait().stopped
    left = site.left(*files)
    for options in (["--resume"], ["--resume", "--clean"]):
        second = site.run(*case.given(site), *options)
        assert second.status == 1
        assert str(site.folder / "tmp") in second.error
        assert "another run" in second.error
        site.check(before)
        assert site.left(*files) == left
    assert first.go_on().status == 0
    site.check(files)
    assert site.left(*files) == []


def test_of_two_that_go_on_one_does(site: Site):
    case = CASES["other directory"]
    clean, _, files = learn(site, case, "--resume")
    for call in spread(len(clean.trace), 6):
        site.run(*case.given(site), "--resume", fault=Fault(call, "signal"))
        both = [site.start(*case.given(site), "--resume") for _ in range(2)]
        statuses = sorted(run.wait().status for run in both)
        assert statuses in ([0, 0], [0, 1]), [run.wait().error for run in both]
        site.check(files)
        assert site.left(*files) == []
        site.clear()


# ---- what is refused when a run goes on ----


def leave_half_done(site: Site, *options: str | Path, part: float = 0.5, **rest) -> int:
    """A run with --resume that is killed on its way; the calls that it takes as a whole."""
    site.clear()
    whole = site.run(*options, "--resume", **rest)
    assert whole.status == 0, whole.error
    site.clear()
    # It is a rename that saves the journal; the last one is that of the output.
    saved = 1 + int((whole.calls["replace"] - 2) * part)
    result = site.run(*options, "--resume", fault=Fault(saved, "signal", ("replace",), when="after"), **rest)
    assert result.signal == signal.SIGKILL
    return len(whole.trace)


def refused(site: Site, result: Result, *words: str) -> None:
    """It says what is wrong and what to do; the output and what was left are as they were."""
    assert result.status == 1, result
    assert "--clean" in result.error, result.error
    assert all(word in result.error for word in words), result.error


@pytest.mark.parametrize("change", ["size", "time", "another file", "gone", "order", "fewer", "more"])
@pytest.mark.parametrize("part", [0.2, 0.8])
def test_changed_inputs_are_refused(change: str, part: float, site: Site):
    site.own = {"first", "second", "away"}
    inputs = [site.folder / name for name in ("first", "second")]
    for path, original in zip(inputs, site.corpus.paths, strict=True):
        shutil.copyfile(original, path)
    leave_half_done(site, part=part, inputs=inputs)
    before, left = put_before(site, ["out.txt"]), site.left("out.txt")
    given, status = inputs, inputs[1].stat()
    if change == "size":
        with inputs[1].open("ab") as file:
            file.write(b"more\n")
        os.utime(inputs[1], ns=(status.st_atime_ns, status.st_mtime_ns))
    elif change == "time":
        os.utime(inputs[1], ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    elif change == "another file":
        shutil.copy2(inputs[1], site.folder / "copy")
        os.replace(site.folder / "copy", inputs[1])
    elif change == "gone":
        inputs[1].rename(site.folder / "away")
    else:
        given = {"order": inputs[::-1], "fewer": inputs[:1], "more": [*inputs, inputs[0]]}[change]
    result = site.run("--resume", inputs=given)
    site.tally.faults += 1
    if change == "gone":
        assert result.status == 1
        assert str(inputs[1]) in result.error
    else:
        refused(site, result, str(inputs[1]) if given is inputs else "input")
    site.check(before)
    assert site.left("out.txt") == left
    if change == "gone":
        (site.folder / "away").rename(inputs[1])
    result = site.run("--resume", "--clean", inputs=given)
    assert result.status == 0, result.error
    site.check({"out.txt": oracle.shuffled([path.read_bytes() for path in given], SEED)})
    assert site.left("out.txt") == []


OTHER_OPTIONS = {
    "seed": ("--seed", "21"),
    "mem": ("--mem", "66M"),
    "delimiter": ("--delimiter", "a"),
    "header": ("--header", "1"),
    "head-count": ("-n", "1000"),
    "lines": ("--lines-per-record", "2"),
    "record-size": ("--record-size", "1"),
    "shards": ("--shards", "2"),
    "records-per-shard": ("--records-per-shard", "100000"),
    "append": ("--append-newline", "never"),
    "compress": ("--compress", "gz", "--mem", "104M"),
    "scratch": ("--compress-scratch",),
    "verify": ("--verify",),
    "inverse": ("--inverse",),
}


@pytest.mark.parametrize("part", [0.1, 0.7])
def test_other_options_are_refused(part: float, site: Site):
    leave_half_done(site, part=part)
    before, left = put_before(site, ["out.txt"]), site.left("out.txt")
    for name, options in OTHER_OPTIONS.items():
        result = site.run("--resume", *options)
        site.tally.faults += 1
        refused(site, result, name.split("-")[0])
        site.check(before)
        assert site.left("out.txt") == left, name
    result = site.run("--resume")
    assert result.status == 0, result.error
    site.check(Case().contents(site.corpus))


def journal_of(site: Site) -> Path:
    """The file in which a run notes how far it is."""
    (path,) = (path for path in site.left() if path.name == "journal")
    return path


@contextmanager
def kept(site: Site) -> Iterator[Callable[[], None]]:
    """Everything that a run has left, to be put back again and again."""
    aside = site.folder.with_name(f"{site.folder.name}-aside")
    folders = (site.out, site.folder / "tmp", site.elsewhere)
    for each in folders:
        shutil.copytree(each, aside / each.name)

    def put_back() -> None:
        for each in folders:
            shutil.rmtree(each)
            shutil.copytree(aside / each.name, each)

    try:
        yield put_back
    finally:
        shutil.rmtree(aside)


@pytest.mark.parametrize("part", [0.15, 0.8])
def test_damaged_journals_are_noticed(part: float, site: Site):
    leave_half_done(site, "-T", site.folder / "tmp", part=part)
    before, expected = put_before(site, ["out.txt"]), Case().contents(site.corpus)
    journal = journal_of(site)
    data = journal.read_bytes()
    with kept(site) as put_back:
        damages = [data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :] for at in spread(len(data) - 1, 16)]
        damages += [data[:length] for length in (0, 1, *spread(len(data) - 1, 5))]
        damages += [b"\0" * len(data), data + data, data + b"x", data[: len(data) // 2] + bytes(len(data) // 2)]
        for damaged in damages:
            put_back()
            journal.write_bytes(damaged)
            result = site.run("-T", site.folder / "tmp", "--resume")
            site.tally.faults += 1
            if result.status == 0:  # a last line that was not written to its end is no damage
                site.check(expected)
                assert site.left("out.txt") == []
            else:
                refused(site, result, "journal")
                site.check(before)
        put_back()
    assert site.run("-T", site.folder / "tmp", "--resume").status == 0
    site.check(expected)


@pytest.mark.parametrize("part", [0.3, 0.8])
@pytest.mark.parametrize("where", ["beside", "elsewhere"])
def test_damaged_scratch_is_noticed(where: str, part: float, site: Site):
    options = () if where == "beside" else ("-T", site.folder / "tmp", "-T", site.elsewhere)
    leave_half_done(site, *options, part=part)
    before, expected = put_before(site, ["out.txt"]), Case().contents(site.corpus)
    files = [path for path in site.left("out.txt") if path.is_file()]
    largest = sorted(files, key=lambda path: path.stat().st_size)[-4:]
    with kept(site) as put_back:
        for path in largest:
            for damage in ("gone", "shorter", "empty", "longer"):
                put_back()
                size = path.stat().st_size
                if damage == "gone":
                    path.unlink()
                else:
                    os.truncate(path, {"shorter": max(0, size - 1), "empty": 0, "longer": size + 1}[damage])
                result = site.run(*options, "--resume")
                site.tally.faults += 1
                if result.status == 0:
                    site.check(expected)
                    continue
                refused(site, result)
                site.check(before)


# ---- what dead runs leave ----


def dead_runs(site: Site, *options: str | Path, writes: int, count: int = 3) -> list[Path]:
    """Some runs are killed; what they left."""
    for i in range(count):
        fault = Fault(writes * (i + 1) // (count + 1), "signal", WRITES)
        assert site.run(*options, fault=fault).signal == signal.SIGKILL
    return site.left()


@pytest.mark.parametrize("case", [CASES["beside the output"], CASES["several directories"]], ids=["beside", "spread"])
def test_clean_removes_what_dead_runs_left(case: Case, site: Site):
    clean, _, files = learn(site, case)
    left = dead_runs(site, *case.given(site), writes=sum(clean.calls[name] for name in WRITES))
    assert left
    places = [*case.given(site), "-T", site.out]
    alive = site.start(*case.given(site), fault=Fault(len(clean.trace) // 2, "stop"), output="other.txt")
    assert alive.wait().stopped
    its_own = sorted(set(site.left()) - set(left))
    result = site.command("--clean", *places)
    assert result.status == 0, result.error
    assert site.left() == its_own
    folders = (site.out, site.folder / "tmp", site.elsewhere)
    assert all(path.name in result.error for path in left if path.parent in folders), result.error
    assert site.command("--clean", *places).status == 0
    assert alive.go_on().status == 0
    site.check({"other.txt": files["out.txt"]})
    assert site.left("other.txt") == []


@pytest.mark.parametrize("case", [CASES["beside the output"], CASES["other directory"]], ids=["beside", "elsewhere"])
def test_a_run_names_what_dead_ones_left(case: Case, site: Site):
    clean, _, files = learn(site, case)
    left = dead_runs(site, *case.given(site), writes=sum(clean.calls[name] for name in WRITES))
    names = [path.name for path in left if path.parent in (site.out, site.folder / "tmp")]
    assert names
    result = site.run(*case.given(site))
    assert result.status == 0
    assert all(name in result.error for name in names), result.error
    assert "--clean" in result.error
    site.check(files)
    assert site.left("out.txt") == left
    result = site.run(*case.given(site), "--clean")
    assert result.status == 0
    assert all(name in result.error for name in names), result.error
    site.check(files)
    assert site.left("out.txt") == []


def test_clean_leaves_other_things_alone(site: Site):
    strangers = {
        "fastk-shuffle-file": b"a file of somebody else\n",
        "fastk-shuffle-folder/data": b"no scratch of ours\n",
        ".out.txt.partial": b"not ours\n",
        "target/data": b"behind a link\n",
    }
    for name, data in strangers.items():
        path = site.folder / "tmp" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    (site.folder / "tmp" / "fastk-shuffle-link").symlink_to(site.folder / "tmp" / "target")
    (site.folder / "tmp" / f"fastk-shuffle-{'0' * 16}").symlink_to(site.folder / "tmp" / "target")
    left = site.left()
    assert site.command("--clean", "-T", site.folder / "tmp").status == 0
    assert site.left() == left
    assert site.run("-T", site.folder / "tmp", "--clean").status == 0
    assert site.left("out.txt") == left


# ---- who else may read or redirect it ----


@cases(UNLIKE)
def test_scratch_is_private(case: Case, site: Site):
    clean, _, files = learn(site, case)
    for call in spread(len(clean.trace), 6):
        run = site.start(*case.given(site), output=case.output, inputs=case.inputs, fault=Fault(call, "stop"), umask=0)
        if run.wait().stopped:
            assert_private(site)
            assert run.go_on().status == 0
        site.check(files)
        site.clear()


def assert_private(site: Site) -> None:
    for base in (site.out, site.folder / "tmp", site.elsewhere):
        for folder in base.glob("*fastk-shuffle-*"):
            assert stat.S_ISDIR(folder.lstat().st_mode)
            assert folder.lstat().st_mode & 0o777 == 0o700
            for path in folder.rglob("*"):
                # what becomes the output has its mode from the start
                assert path.lstat().st_mode & 0o077 == 0 or path.name.endswith(".partial"), path


@cases(UNLIKE)
@pytest.mark.parametrize("umask", [0o027, 0o077])
def test_outputs_follow_umask(umask: int, case: Case, site: Site):
    names = case.contents(site.corpus)
    assert site.run(*case.given(site), output=case.output, inputs=case.inputs, umask=umask).status == 0
    assert {(site.out / name).stat().st_mode & 0o777 for name in names} == {0o666 & ~umask}


@pytest.mark.parametrize("where", ["beside the output", "other directory"])
def test_planted_links_are_not_followed(where: str, site: Site):
    case = CASES[where]
    calls = leave_half_done(site, *case.given(site))
    left = site.left()
    folders = [path for path in left if path.is_dir()]
    files = [path for path in left if not path.is_dir()]
    files = [path for path in files if not path.name.startswith("b")] + files[:3]
    assert calls
    victim, data = site.folder / "victim", b"somebody's\n" * 1000
    for path in (*folders, *files):
        site.clear()
        if victim.is_dir():
            shutil.rmtree(victim)
        victim.unlink(missing_ok=True)
        if path in folders:
            victim.mkdir(mode=0o755)
            (victim / "data").write_bytes(data)
        else:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            victim.write_bytes(data)
        path.symlink_to(victim)
        result = site.run(*case.given(site), "--resume")
        site.tally.faults += 1
        assert result.status in (0, 1), result
        if result.status == 0:
            site.check(case.contents(site.corpus))
        if path in folders:
            assert [(each.name, each.read_bytes()) for each in victim.iterdir()] == [("data", data)]
        else:
            assert victim.read_bytes() == data


@pytest.mark.parametrize("how", ["open to all", "a file", "somebody else's"])
def test_a_directory_that_is_not_private_is_not_used(how: str, site: Site):
    case = CASES["other directory"]
    leave_half_done(site, *case.given(site))
    (folder,) = (site.folder / "tmp").glob("fastk-shuffle-*")
    if how == "open to all":
        folder.chmod(0o777)
    elif how == "a file":
        shutil.rmtree(folder)
        folder.write_bytes(b"")
    elif os.geteuid() == 0:
        os.chown(folder, 12345, 12345)
    else:
        pytest.skip("only root gives files away")
    before, left = put_before(site, ["out.txt"]), site.left("out.txt")
    result = site.run(*case.given(site), "--resume")
    site.tally.faults += 1
    assert result.status == 1, result
    assert str(folder) in result.error
    site.check(before)
    assert site.left("out.txt") == left
