"""What a user does with the command and with shuffle_file: every option, alone and out of core, and what is refused."""

from __future__ import annotations

import functools
import gzip
import inspect
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import mmh3
import numpy as np
import oracle
import pytest
import shuffle_oracle
from shuffle_oracle import Form
from test_shuffle import BACKEND, command, finish, whole_process

import fastk
from fastk.shuffle import InputFormatError, VerificationError, cli, shuffle_file
from fastk.shuffle.plan import parse_size

SEED = 7
out_of_core = pytest.mark.skipif(BACKEND == "numba", reason="its least memory holds what is shuffled here")


def in_64m(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test of whole processes that get too little memory for what they shuffle."""
    decorated: Callable[..., None] = whole_process(out_of_core(test))
    return decorated


FORM = Form()
LINES = b"".join(b"line %d %s\n" % (i, b"x" * (i % 17)) for i in range(1000))
FASTQ = b"".join(b"@read%d\n%s\n+\n%s\n" % (i, b"ACGT" * (i % 9), b"I" * (i % 9 * 4)) for i in range(500))
TOKENS = np.arange(2000, dtype=np.int32).reshape(500, 4).tobytes()


def has(*modules: str) -> None:
    for module in modules:
        pytest.importorskip(module)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def succeed(*arguments: str | Path, data: bytes | None = None, mem: str = "1G", **options: Any) -> dict[str, Any]:
    """The report of a run of the command that has to work, and to keep its memory promise."""
    process = command(*arguments, "--mem", mem, "--json", stdin=subprocess.PIPE, **options)
    status, _, error = finish(process, data)
    assert status == 0, error
    report: dict[str, Any] = json.loads(error[error.index(b"{") :])
    assert report["peak_memory"] <= parse_size(mem) or parse_size(mem) > parse_size("300M")
    return report


def refused(status: int, *arguments: str | Path, cwd: Path, data: bytes = b"") -> str:
    """The message of a run that ends with this status; nothing changes in the directory."""
    before = {path.name: path.lstat().st_mtime_ns for path in cwd.iterdir()}
    process = command(*arguments, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    found, out, error = finish(process, data)
    assert (found, out, b"Traceback" in error) == (status, b"", False), error
    assert {path.name: path.lstat().st_mtime_ns for path in cwd.iterdir()} == before
    return error.decode()


# ---- every option, on the command line and in Python ----


@dataclass(frozen=True)
class Case:
    """One option, as it is given in both places, and what is shuffled with it."""

    arguments: tuple[str, ...] = ()
    keywords: dict[str, Any] = field(default_factory=dict)
    form: Form = FORM
    inputs: tuple[bytes, ...] = (LINES,)
    suffix: str = ""
    output: str = "out.txt"
    needs: str = "mmh3"

    def expected(self) -> dict[str, bytes]:
        """What each output holds when it is decompressed."""
        header, records = shuffle_oracle.shuffled(self.inputs, self.form, SEED, self.keywords.get("head_count"))
        count = self.keywords.get("shards")
        if size := self.keywords.get("records_per_shard"):
            count = -(-len(records) // size)
            pieces = [b"".join(records[i * size : (i + 1) * size]) for i in range(count)]
        elif count:
            pieces = shuffle_oracle.shards(header, records, count)
        else:
            return {self.output: header + b"".join(records)}
        stem, dot, suffix = self.output.partition(".")
        return {f"{stem}-{i:05d}-of-{count:05d}{dot}{suffix}": piece for i, piece in enumerate(pieces)}

    def codec(self) -> str:
        """Suffix of the codec of the output."""
        asked = self.keywords.get("compress", "auto")
        known = Path(self.output).suffix if Path(self.output).suffix in (".gz", ".zst", ".xz", ".bz2") else ""
        return known if asked == "auto" else "" if asked == "none" else f".{asked}"


CASES = {
    "seed and threads": Case(("-j", "3"), {"threads": 3}),
    "progress": Case(("--progress", "never"), {"progress": "never"}),
    "no newline at the end": Case(inputs=(LINES[:-1], b"", b"last")),
    "null": Case(("-z",), {"null": True}, Form(b"\0"), (LINES.replace(b"\n", b"\n\0"),)),
    "delimiter": Case(
        ("--delimiter", r"\r\n"), {"delimiter": b"\r\n"}, Form(b"\r\n"), (LINES.replace(b"1\n", b"\r\n"),)
    ),
    "delimiter, every escape": Case(
        ("--delimiter", r"é\n\t\r\0\\\xfF-"), {"delimiter": "é".encode() + b"\n\t\r\0\\\xff-"},
        Form("é".encode() + b"\n\t\r\0\\\xff-"), (LINES.replace(b"3", "é".encode() + b"\n\t\r\0\\\xff-"),),
    ),
    "delimiter that overlaps itself": Case(
        ("--delimiter", "xx"), {"delimiter": bytearray(b"xx")}, Form(b"xx"), (LINES[:1000], b"", b"xxxxxx", b"axxxxb")
    ),
    "lines per record": Case(("--lines-per-record", "4"), {"lines_per_record": 4}, Form(lines=4), (FASTQ, FASTQ[:-1])),
    "record size": Case(("--record-size", "16"), {"record_size": 16}, Form(size=16), (TOKENS, TOKENS[:160])),
    "header": Case(("--header", "2"), {"header": 2}, Form(header=2), (b"a\nb\n" + LINES, b"c\nd\n1\n2\n", b"e\n")),
    "header of fixed size": Case(
        ("--record-size", "16", "--header", "1"), {"record_size": 16, "header": 1}, Form(size=16, header=1),
        (TOKENS, TOKENS),
    ),
    "head count": Case(("-n", "10"), {"head_count": 10}),
    "head count 0": Case(("-n", "0", "--header", "1"), {"head_count": 0, "header": 1}, Form(header=1)),
    "head count too large": Case(("--head-count", str(10**18)), {"head_count": 10**18}),
    "shards": Case(("--shards", "7", "--header", "1"), {"shards": 7, "header": 1}, Form(header=1)),
    "more shards than records": Case(("--shards", "12"), {"shards": 12}, inputs=(b"a\nb\nc\n",)),
    "records per shard": Case(("--records-per-shard", "300"), {"records_per_shard": 300}),
    "shards, compressed": Case(("--shards", "3"), {"shards": 3}, output="out.txt.gz"),
    "append newline": Case(("--append-newline", "never"), {"append_newline": "never"}),
    "compress none": Case(("--compress", "none"), {"compress": "none"}, output="out.txt.gz"),
    "compress zst": Case(("--compress", "zst"), {"compress": "zst"}, needs="zstandard"),
    "compress xz": Case(("--compress", "xz"), {"compress": "xz"}, output="out.gz"),
    ".gz": Case(suffix=".gz", output="out.txt.gz"),
    ".zst": Case(suffix=".zst", output="out.zst", needs="zstandard"),
    ".xz": Case(suffix=".xz", output="out.xz"),
    ".bz2": Case(suffix=".bz2", output="out.txt.bz2"),
    "compress scratch": Case(("--compress-scratch",), {"compress_scratch": True}, needs="zstandard"),
    "scratch none": Case(("--scratch", "none"), {"scratch": "none"}),
    "resume": Case(("--resume",), {"resume": True}),
    "clean": Case(("--clean",), {"clean": True}),
    "verify": Case(("--verify",), {"verify": True}),
    "fsync": Case(("--fsync",), {"fsync": True}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_option(case: Case, tmp_path: Path):
    has(case.needs)
    paths = [tmp_path / f"in{i}{case.suffix}" for i in range(len(case.inputs))]
    for path, data in zip(paths, case.inputs, strict=True):
        path.write_bytes(shuffle_oracle.compress(data, case.suffix))
    folders = [tmp_path / "command", tmp_path / "function"]
    for folder in folders:
        folder.mkdir()
    report = succeed(*paths, folders[0] / case.output, "--seed", str(SEED), *case.arguments)
    by_function = shuffle_file(paths, folders[1] / case.output, seed=SEED, mem="16G", **case.keywords)
    expected = case.expected()
    for folder in folders:
        assert names(folder) == sorted(expected)
        for name, data in expected.items():
            assert shuffle_oracle.decompress((folder / name).read_bytes(), case.codec()) == data
    stored = [[(folder / name).read_bytes() for name in names(folder)] for folder in folders]
    assert stored[0] == stored[1]
    for figure in ("records", "bytes_in", "bytes_out", "seed", "passes", "reads", "resumed", "verified"):
        assert report[figure] == getattr(by_function, figure)
    assert report["bytes_out"] == sum(map(len, expected.values()))


def test_options_are_the_same_in_both_places():
    keywords = {
        name for name, each in inspect.signature(shuffle_file).parameters.items() if each.kind is each.KEYWORD_ONLY
    }
    dests = {action.dest for action in cli.parser()._actions} - {"help", "version", "paths", "quiet", "json"}
    assert dests == keywords
    tried = {name for case in CASES.values() for name in case.keywords}
    # these have tests of their own
    assert keywords - tried == {"mem", "seed", "tmp", "inverse", "pair"}


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("\n", b"\n"), (r"\n", b"\n"), (r"\t\r\0", b"\t\r\0"), (r"\\n", b"\\n"), (r"\x00\xfF", b"\0\xff"),
        ("é", "é".encode()), (r"\x4142", b"A42"), (r"\00", b"\x000"), ("\udcff", b"\xff"), ("", b""),
    ],
)  # fmt: skip
def test_parse_bytes(text: str, data: bytes):
    assert cli.parse_bytes(text) == data


@pytest.mark.parametrize("text", [r"\q", "\\", r"a\\\ ", r"\x", r"\x4", r"\xgg", r"\u0041", r"\N", "\\\n", "\\é"])
def test_parse_bytes_refuses(text: str):
    with pytest.raises(ArgumentTypeError, match="escape"):
        cli.parse_bytes(text)


# ---- what is refused ----


EXCLUDED = {
    "null, delimiter": (["-z", "--delimiter", "x"], ["null", "delimiter"]),
    "record size, null": (["--record-size", "3", "-z"], ["record size", "null"]),
    "record size, delimiter": (["--record-size", "3", "--delimiter", "x"], ["record size", "delimiter"]),
    "record size, lines": (["--record-size", "3", "--lines-per-record", "2"], ["record size", "lines per record"]),
    "shards": (["--shards", "2", "--records-per-shard", "2"], ["shards", "records per shard"]),
    "inverse, head": (["--inverse", "-s", "1", "-n", "2"], ["inverse", "head count"]),
    "inverse, no seed": (["--inverse"], ["inverse", "seed"]),
    "scratch, inverse": (["--scratch", "none", "--inverse", "-s", "1"], ["scratch", "inverse"]),
    "scratch, resume": (["--scratch", "none", "--resume"], ["scratch", "resume"]),
    "scratch, compressed": (["--scratch", "none", "--compress-scratch"], ["scratch", "compress scratch"]),
}


@pytest.mark.parametrize("case", EXCLUDED)
def test_options_exclude_each_other(case: str, tmp_path: Path):
    arguments, named = EXCLUDED[case]
    (tmp_path / "in").write_bytes(LINES)
    error = refused(2, "in", "out", *arguments, cwd=tmp_path).replace("_", " ").replace("-", " ")
    assert all(name in error for name in named), error


PLACES = {
    "resume, stdin": (["-", "out", "--resume"], ["resume", "standard input"]),
    "resume, pipe": (["pipe", "out", "--resume"], ["resume"]),
    "resume, stdout": (["in", "-", "--resume"], ["resume"]),
    "resume, URL": (["in", "memory://out", "--resume"], ["resume"]),
    "scratch, stdin": (["-", "out", "--scratch", "none"], ["scratch", "standard input"]),
    "scratch, pipe": (["pipe", "out", "--scratch", "none"], ["scratch", "pipe"]),
    "inverse, stdin": (["-", "out", "--inverse", "-s", "1"], ["inverse", "pipe"]),
    "inverse, pipe": (["in", "pipe", "out", "--inverse", "-s", "1"], ["inverse", "pipe"]),
    "verify, stdout": (["in", "-", "--verify"], ["verify"]),
    "verify, device": (["in", "/dev/null", "--verify"], ["verify", "/dev/null"]),
    "verify, URL": (["in", "memory://out", "--verify"], ["verify", "memory://out"]),
    "shards, stdout": (["in", "-", "--shards", "2"], ["shards"]),
    "shards, device": (["in", "/dev/null", "--records-per-shard", "2"], ["shards", "/dev/null"]),
    "pair, odd": (["in", "in", "out", "--pair"], ["pair", "as many outputs"]),
    "pair, one": (["in", "--pair"], ["pair"]),
    "pair, same outputs": (["in", "in", "out", "./out", "--pair"], ["pair", "different"]),
}


@pytest.mark.parametrize("case", PLACES)
def test_places_that_an_option_cannot_use(case: str, tmp_path: Path):
    arguments, named = PLACES[case]
    if "URL" in case:
        has("fsspec")
    (tmp_path / "in").write_bytes(LINES)
    os.mkfifo(tmp_path / "pipe")
    error = refused(2, *arguments, cwd=tmp_path)
    assert all(name in error for name in named), error


WRONG = [
    ("--mem", "", "2 G B", "-1", "1e9", "0", "101%"),
    ("--seed", "", "1.5", "-1", str(2**128)),
    ("--threads", "0", "-1", "two"),
    ("--head-count", "-1", "1.5", "x"),
    ("--lines-per-record", "0", "x"),
    ("--record-size", "0", "-3", "4k"),
    ("--header", "-1", "one"),
    ("--delimiter", "", r"\q", "\\", r"\x4", "x" * 256),
    ("--append-newline", "always", ""),
    ("--compress", "lz4", ".gz"),
    ("--scratch", "some"),
    ("--shards", "0", "-1"),
    ("--records-per-shard", "0", "1.0"),
    ("--progress", "yes"),
]


@pytest.mark.parametrize(("option", "value"), [(option, value) for option, *rest in WRONG for value in rest])
def test_wrong_values(option: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "in").write_bytes(LINES)
    with pytest.raises(SystemExit) as ended:
        cli.main([str(tmp_path / "in"), str(tmp_path / "out"), f"{option}={value}"])
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert option.strip("-").replace("-", " ") in error.replace("_", " ").replace("-", " "), error
    assert names(tmp_path) == ["in"]


def test_values_come_from_outside_as_well(tmp_path: Path):
    (tmp_path / "in").write_bytes(LINES)
    assert "--head-count" in refused(2, "in", "out", "-n", "ten", cwd=tmp_path)
    assert r"\q" in refused(2, "in", "out", "--delimiter", r"\q", cwd=tmp_path)


WRONG_IN_PYTHON: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "delimiter of str": ({"delimiter": "x"}, TypeError),
    "lines of float": ({"lines_per_record": 2.0}, TypeError),
    "record size": ({"record_size": 0}, ValueError),
    "header": ({"header": -1}, ValueError),
    "head count": ({"head_count": -1}, ValueError),
    "shards": ({"shards": 0}, ValueError),
    "append newline": ({"append_newline": "always"}, ValueError),
    "compress": ({"compress": "lz4"}, ValueError),
    "scratch": ({"scratch": None}, ValueError),
    "seed": ({"seed": "7"}, TypeError),
    "threads": ({"threads": 0}, ValueError),
    "output": ({"output": ["a", "b"]}, TypeError),
    "inverse": ({"inverse": True}, ValueError),
    "pair": ({"pair": True, "output": ["a", "b"]}, ValueError),
}


@pytest.mark.parametrize("case", WRONG_IN_PYTHON)
def test_wrong_arguments_in_python(case: str, tmp_path: Path):
    given, error = WRONG_IN_PYTHON[case]
    (tmp_path / "in").write_bytes(LINES)
    arguments: dict[str, Any] = {"inputs": tmp_path / "in", "output": tmp_path / "out", "mem": "16G", **given}
    with pytest.raises(error, match=case.partition(" ")[0].rstrip("s")):
        shuffle_file(**arguments)
    assert names(tmp_path) == ["in"]


# ---- records ----


@pytest.mark.parametrize("way", ["file", "pipe", "compressed"])
@pytest.mark.parametrize(
    ("arguments", "data", "message"),
    [
        (["--lines-per-record", "4"], FASTQ + b"@cut\nACGT\n", "2 lines instead of 4"),
        (["--record-size", "16"], TOKENS[:-3], "16"),
        (["--append-newline", "never"], LINES + b"cut", "delimiter"),
    ],
    ids=["lines", "size", "newline"],
)
def test_truncated_input_is_refused(arguments: list[str], data: bytes, message: str, way: str, tmp_path: Path):
    (tmp_path / "in").write_bytes(data)
    (tmp_path / "in.gz").write_bytes(gzip.compress(data))
    (tmp_path / "out").write_bytes(b"before")
    source = {"file": "in", "pipe": "-", "compressed": "in.gz"}[way]
    error = refused(1, source, "out", *arguments, cwd=tmp_path, data=data if way == "pipe" else b"")
    assert message in error
    assert source in error
    assert (tmp_path / "out").read_bytes() == b"before"
    assert names(tmp_path) == ["in", "in.gz", "out"]


def test_header_that_does_not_fit(tmp_path: Path):
    (tmp_path / "in").write_bytes(b"h" * (3 << 20) + b"\n" + LINES)
    assert "header" in refused(1, "in", "out", "--header", "1", cwd=tmp_path)


def test_token_array_of_numpy(tmp_path: Path):
    tokens = np.random.default_rng(1).integers(0, 50_000, (1000, 8), dtype=np.uint16)
    tokens.tofile(tmp_path / "in.bin")
    succeed(tmp_path / "in.bin", tmp_path / "out.bin", "--record-size", "16", "--seed", str(SEED))
    found = np.fromfile(tmp_path / "out.bin", np.uint16).reshape(-1, 8)
    assert np.array_equal(found, tokens[fastk.shuffle.permutation(1000, SEED)])


def test_header_of_several_inputs(tmp_path: Path):
    inputs = [b"id,text\n1,a\n2,b\n", b"id,text\n", b"id,text\n3,c"]
    for i, data in enumerate(inputs):
        (tmp_path / f"{i}.csv").write_bytes(data)
    out = tmp_path / "out.csv"
    succeed(*(tmp_path / f"{i}.csv" for i in range(3)), out, "--header", "1", "--seed", "1")
    rows = [b"1,a\n", b"2,b\n", b"3,c\n"]
    assert out.read_bytes() == b"id,text\n" + b"".join(rows[i] for i in oracle.order(3, 1))


# ---- out of core ----


@pytest.fixture(scope="module")
def shuffled(corpus: Path) -> bytes:
    """The corpus in its new order."""
    return oracle.shuffled([corpus.read_bytes()], SEED)


def in_little_memory(*arguments: str | Path, mem: str = "64M", **options: Any) -> dict[str, Any]:
    """A run that has to keep its promise and cannot hold all records at once."""
    report = succeed(*arguments, "--seed", str(SEED), mem=mem, **options)
    assert report["scratch_bytes"] > 0 or report["reads"] > 1
    return report


@in_64m
@pytest.mark.parametrize("count", [1000, 390_000])
def test_head_count_out_of_core(count: int, corpus: Path, shuffled: bytes, tmp_path: Path):
    report = succeed(corpus, tmp_path / "out", "-n", str(count), "--seed", str(SEED), mem="64M")
    assert report["records"] == count
    assert (report["scratch_bytes"] > 0) == (count > 1000)  # few records fit, whatever they were drawn from
    data = (tmp_path / "out").read_bytes()
    assert data.count(b"\n") == count
    assert shuffled.startswith(data)
    assert names(tmp_path) == ["out"]


@whole_process
@pytest.mark.parametrize("mem", [pytest.param("64M", marks=out_of_core), "1G"])
def test_inverse(mem: str, corpus: Path, shuffled: bytes, tmp_path: Path):
    (tmp_path / "shuffled").write_bytes(shuffled)
    report = succeed(tmp_path / "shuffled", tmp_path / "back", "--inverse", "--seed", str(SEED), "--verify", mem=mem)
    assert report["reads"] == 2
    in_memory = report["scratch_bytes"] <= 2 * report["records"]  # where each goes, which is always written
    assert in_memory == (mem == "1G")
    assert (tmp_path / "back").read_bytes() == corpus.read_bytes()
    assert names(tmp_path) == ["back", "shuffled"]


def test_inverse_in_python_with_every_kind_of_record(tmp_path: Path):
    for i, (form, data) in enumerate(
        [(Form(), LINES), (Form(lines=4), FASTQ), (Form(size=16, header=2), TOKENS), (Form(b"\0", header=1), LINES)]
    ):
        source, out, back = (tmp_path / f"{name}{i}" for name in ("in", "out", "back"))
        source.write_bytes(data)
        shuffle_file(source, out, seed=SEED, mem="16G", **form.keywords())
        shuffle_file(out, back, seed=SEED, mem="16G", inverse=True, **form.keywords())
        assert out.read_bytes() != data
        assert back.read_bytes() == (data if form.delimiter != b"\0" else data + b"\0")


@in_64m
@pytest.mark.parametrize("options", [["--shards", "64", "--verify"], ["--records-per-shard", "99999"]], ids=str)
def test_shards_out_of_core(options: list[str], corpus: Path, shuffled: bytes, tmp_path: Path):
    report = in_little_memory(corpus, tmp_path / "out.txt", *options, umask=0o027)
    count = 64 if "64" in options else 5
    expected = [f"out-{i:05d}-of-{count:05d}.txt" for i in range(count)]
    assert names(tmp_path) == expected
    assert [Path(each).name for each in report["outputs"]] == expected
    pieces = [(tmp_path / name).read_bytes() for name in expected]
    assert b"".join(pieces) == shuffled
    lines = [piece.count(b"\n") for piece in pieces]
    assert lines == ([6250] * 64 if count == 64 else [99_999] * 4 + [4])
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in expected} == {0o640}


def test_existing_shards_are_replaced(tmp_path: Path):
    (tmp_path / "in").write_bytes(LINES)
    old = [tmp_path / f"out-0000{i}-of-00003" for i in range(3)]
    other = tmp_path / "out-00000-of-00004"
    for path in [*old, other]:
        path.write_bytes(b"before")
    succeed(tmp_path / "in", tmp_path / "out", "--shards", "3", "--seed", str(SEED))
    assert b"".join(path.read_bytes() for path in old) == oracle.shuffled([LINES], SEED)
    assert other.read_bytes() == b"before"
    assert names(tmp_path) == ["in", *sorted(path.name for path in [*old, other])]


@in_64m
def test_compressed_scratch(corpus: Path, shuffled: bytes, tmp_path: Path):
    has("zstandard")
    plain = in_little_memory(corpus, tmp_path / "out")
    packed = in_little_memory(corpus, tmp_path / "out", "--compress-scratch")
    assert packed["scratch_bytes"] < 0.9 * plain["scratch_bytes"]
    assert (tmp_path / "out").read_bytes() == shuffled
    assert names(tmp_path) == ["out"]


@in_64m
def test_no_scratch(corpus: Path, shuffled: bytes, tmp_path: Path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    touched = []
    for options in ([], ["--scratch", "none", "--verify"]):
        os.utime(scratch, ns=(0, 0))
        report = in_little_memory(corpus, tmp_path / "out", "-T", scratch, "--shards", "1", *options)
        touched.append(scratch.stat().st_mtime_ns != 0)  # it changes when a name is made or removed in it
        assert (tmp_path / "out-00000-of-00001").read_bytes() == shuffled
    assert touched == [True, False]
    assert report["reads"] > 1
    assert (report["scratch_bytes"], report["passes"]) == (0, 1)
    assert names(tmp_path) == ["out-00000-of-00001", "scratch"]


@in_64m
def test_many_inputs_out_of_core(corpus: Path, shuffled: bytes, tmp_path: Path):
    data = corpus.read_bytes()
    ends = [0, *(data.index(b"\n", i * len(data) // 64) + 1 for i in range(1, 64)), len(data)]
    paths = [tmp_path / f"in{i}" for i in range(64)]
    for i, path in enumerate(paths):
        path.write_bytes(data[ends[i] : ends[i + 1]])
    in_little_memory(*paths, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == shuffled


@in_64m
@pytest.mark.parametrize("way", ["file", "pipe", "compressed"])
def test_giant_records(way: str, tmp_path: Path):
    body = bytes(range(97, 123)) * 120_000
    some = [b"%d %s\n" % (i, body) for i in range(50)]
    records = [b"%d %s\n" % (i, b"v" * (i % 300)) for i in range(20_000)]
    data = b"".join([*records[:9000], *some[:25], b"giant %s\n" % (body * 32), *some[25:], *records[9000:]])[:-1]
    source = tmp_path / ("in.gz" if way == "compressed" else "in")
    source.write_bytes(data if way == "file" else gzip.compress(data, 1) if way == "compressed" else b"")
    report = in_little_memory("-" if way == "pipe" else source, tmp_path / "out", "-T", tmp_path,
                              data=data if way == "pipe" else None)  # fmt: skip
    assert report["records"] == 20_051
    assert (tmp_path / "out").read_bytes() == oracle.shuffled([data], SEED)
    assert names(tmp_path) == [source.name, "out"]
    for path in tmp_path.iterdir():
        path.unlink()


# ---- compression ----


def test_members_one_after_the_other(tmp_path: Path):
    halves = LINES[:5000], LINES[5000:]  # in the middle of a line
    (tmp_path / "in.gz").write_bytes(b"".join(map(gzip.compress, halves)))
    succeed(tmp_path / "in.gz", tmp_path / "out", "--seed", str(SEED))
    assert (tmp_path / "out").read_bytes() == oracle.shuffled([LINES], SEED)


@pytest.mark.parametrize(
    ("suffix", "tool"), [("gz", "zcat"), ("zst", "zstd -dc"), ("xz", "xz -dc"), ("bz2", "bzip2 -dc")]
)
def test_usual_tools_read_what_was_written(suffix: str, tool: str, corpus: Path, tmp_path: Path):
    if shutil.which(tool.split()[0]) is None:
        pytest.skip(f"needs {tool}")
    if suffix == "zst":
        has("zstandard")
    head = b"\n".join(corpus.read_bytes()[: 5 << 20].split(b"\n")[:-1]) + b"\n"  # more than a frame
    (tmp_path / "in").write_bytes(head)
    succeed(tmp_path / "in", tmp_path / f"out.{suffix}", "--seed", str(SEED))
    found = subprocess.run([*tool.split(), tmp_path / f"out.{suffix}"], stdout=subprocess.PIPE, check=True).stdout
    assert found == oracle.shuffled([head], SEED)
    assert (tmp_path / f"out.{suffix}").stat().st_size < len(head)


def test_damaged_input_is_refused(tmp_path: Path):
    data = bytearray(gzip.compress(LINES))
    data[-6] ^= 1
    (tmp_path / "in.gz").write_bytes(data)
    assert "in.gz" in refused(1, "in.gz", "out", cwd=tmp_path)
    (tmp_path / "in.gz").write_bytes(gzip.compress(LINES)[:-9])
    assert "in.gz" in refused(1, "in.gz", "out", cwd=tmp_path)


# ---- verification and the disk ----


def damage_one_write(monkeypatch: pytest.MonkeyPatch, damage: Callable[[bytearray], None]) -> None:
    """One write of the program passes on other bytes than it was given."""
    done = []

    def damaged(pieces: Sequence[memoryview]) -> list[bytes]:
        data = bytearray(b"".join(pieces))
        if len(data) > 100 and not done:
            damage(data)
            done.append(len(data))
        return [bytes(data)]

    writev, pwritev = os.writev, os.pwritev
    monkeypatch.setattr(os, "writev", lambda fd, pieces: writev(fd, damaged(pieces)))
    monkeypatch.setattr(os, "pwritev", lambda fd, pieces, offset: pwritev(fd, damaged(pieces), offset))


def flip(data: bytearray) -> None:
    data[len(data) // 2] ^= 4


def swap(data: bytearray) -> None:
    data[0], data[1] = data[1], data[0]  # of which a plain sum of bytes would know nothing


def zero(data: bytearray) -> None:
    data[:] = bytes(len(data))


def cut_line(data: bytearray) -> None:
    data[data.index(b"\n")] = 32


@pytest.mark.parametrize(
    ("damage", "options"),
    [
        (flip, ["out"]), (swap, ["out"]), (zero, ["out"]), (cut_line, ["out"]), (flip, ["out", "--shards=3"]),
        (zero, ["out", "--header=1"]), (flip, ["out.gz"]), (zero, ["out.gz"]),
    ],
)  # fmt: skip
def test_damage_on_the_way_to_the_output_is_found(
    options: list[str], damage: Callable[[bytearray], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    (tmp_path / "in").write_bytes(LINES)
    (tmp_path / "out").write_bytes(b"before")
    monkeypatch.chdir(tmp_path)
    damage_one_write(monkeypatch, damage)
    assert cli.main(["in", *options, "--verify", "--mem", "16G", "--seed", str(SEED)]) == 1
    error = capsys.readouterr().err
    assert "verification failed" in error
    assert options[0] in error
    assert names(tmp_path) == ["in", "out"]
    assert (tmp_path / "out").read_bytes() == b"before"


def test_verification_error_in_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "in").write_bytes(LINES)
    damage_one_write(monkeypatch, flip)
    with pytest.raises(VerificationError, match="verification failed") as raised:
        shuffle_file(tmp_path / "in", tmp_path / "out", mem="16G", verify=True)
    assert raised.value.filename == str(tmp_path / "out")
    assert names(tmp_path) == ["in"]
    assert not shuffle_file(tmp_path / "in", tmp_path / "out", mem="16G").verified  # nobody asked


def test_checksum_is_the_documented_one(tmp_path: Path):
    (tmp_path / "in").write_bytes(LINES)
    report = succeed(tmp_path / "in", tmp_path / "out", "--verify")
    with (tmp_path / "out").open("rb") as file:
        total = sum(mmh3.hash128(line, 0, True, signed=False) for line in file) % 2**128
    assert report["checksum"] == f"{total:032x}"
    assert total == oracle.checksum(oracle.records(LINES))


@pytest.mark.parametrize(("options", "files"), [({}, 1), ({"shards": 5}, 5)])
def test_fsync(options: dict[str, Any], files: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "in").write_bytes(LINES)
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(stat.S_IFMT(os.fstat(fd).st_mode)), fsync(fd))[1])
    shuffle_file(tmp_path / "in", tmp_path / "out", mem="16G", **options)
    assert synced == []
    shuffle_file(tmp_path / "in", tmp_path / "out", mem="16G", fsync=True, **options)
    assert (synced.count(stat.S_IFREG), synced.count(stat.S_IFDIR)) == (files, 1)
    assert synced[-1] == stat.S_IFDIR  # the new name comes last


# ---- files that belong together ----


def write_pair(folder: Path, count: int = 1000) -> None:
    (folder / "a").write_bytes(b"".join(b"%d\n" % i for i in range(1000)))
    (folder / "b").write_bytes(b"".join(b"%d %s\n" % (i, b"w" * (i % 71)) for i in range(count)))


def aligned(first: Path, second: Path) -> bool:
    ids = [line.split()[0] for line in second.read_bytes().splitlines()]
    return first.read_bytes().splitlines() == ids != sorted(ids, key=int)


def test_pair(tmp_path: Path):
    write_pair(tmp_path)
    a, b, c, d = (tmp_path / name for name in "abcd")
    report = succeed("--pair", a, b, c, d)
    assert aligned(c, d)
    assert (report["records"], report["outputs"]) == (1000, [str(c), str(d)])
    assert report["bytes_in"] == a.stat().st_size + b.stat().st_size
    by_function = shuffle_file([a, b], [tmp_path / "e", tmp_path / "f"], pair=True, seed=report["seed"], mem="16G")
    assert by_function.outputs == (str(tmp_path / "e"), str(tmp_path / "f"))
    assert [(tmp_path / name).read_bytes() for name in "ef"] == [c.read_bytes(), d.read_bytes()]
    succeed("--pair", a, b, a, b)  # in place
    assert aligned(a, b)


def test_pair_with_other_options(tmp_path: Path):
    write_pair(tmp_path)
    paths = [tmp_path / name for name in ("a", "b", "c.txt", "d.txt")]
    succeed("--pair", *paths, "--header", "1", "--shards", "2", "-n", "501", "--verify", "--fsync")
    for i, first in enumerate((b"0", b"0 ")):
        shards = [tmp_path / f"{'cd'[i]}-0000{s}-of-00002.txt" for s in range(2)]
        assert shards[0].read_bytes().startswith(first + b"\n")
        assert [shard.read_bytes().count(b"\n") for shard in shards] == [251, 251]
    assert len(names(tmp_path)) == 6


def test_pair_of_different_lengths_is_refused(tmp_path: Path):
    write_pair(tmp_path, 999)
    error = refused(1, "--pair", "a", "b", "c", "d", cwd=tmp_path)
    assert "999 records" in error
    assert "1000" in error
    with pytest.raises(InputFormatError, match="999"):
        shuffle_file([tmp_path / "a", tmp_path / "b"], [tmp_path / "c", tmp_path / "d"], pair=True, mem="16G")
    assert names(tmp_path) == ["a", "b"]


def test_pair_does_not_lose_an_output_in_a_directory(tmp_path: Path):
    write_pair(tmp_path)
    (tmp_path / "folder").mkdir()
    refused(2, "--pair", "a", "b", "folder", "folder/a", cwd=tmp_path)
    succeed("--pair", "a", "b", "folder", "folder", cwd=tmp_path)
    assert aligned(tmp_path / "folder" / "a", tmp_path / "folder" / "b")


@in_64m
def test_two_runs_with_one_seed_stay_aligned(corpus: Path, shuffled: bytes, tmp_path: Path):
    numbers = tmp_path / "numbers.gz"
    numbers.write_bytes(gzip.compress(b"".join(b"%d\n" % i for i in range(400_000)), 1))
    in_little_memory(corpus, tmp_path / "text", "--scratch", "none")
    succeed(numbers, tmp_path / "order", "--seed", str(SEED), "-j", "3")
    assert np.array_equal(np.loadtxt(tmp_path / "order", dtype=np.int64), oracle.order(400_000, SEED))
    assert (tmp_path / "text").read_bytes() == shuffled


# ---- URLs ----


@pytest.fixture
def memory() -> Iterator[Any]:
    """The file system memory://, empty before and after."""
    system = pytest.importorskip("fsspec").filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def test_memory_urls(memory: Any, tmp_path: Path):
    memory.pipe({"/in.txt": LINES, "/more.txt.gz": gzip.compress(b"more")})
    report = shuffle_file(["memory://in.txt", "memory://more.txt.gz"], "memory://out.txt", seed=SEED, mem="16G")
    assert memory.cat("/out.txt") == oracle.shuffled([LINES, b"more"], SEED)
    assert report.outputs == ("memory://out.txt",)
    shuffle_file("memory://in.txt", "memory://out.txt.gz", seed=SEED, mem="16G", shards=2)
    assert sorted(memory.store) == [
        "/in.txt", "/more.txt.gz", "/out-00000-of-00002.txt.gz", "/out-00001-of-00002.txt.gz", "/out.txt"
    ]  # fmt: skip
    shards = [memory.cat(f"/out-0000{i}-of-00002.txt.gz") for i in range(2)]
    assert b"".join(map(gzip.decompress, shards)) == oracle.shuffled([LINES], SEED)
    shuffle_file("memory://in.txt", tmp_path / "local", seed=SEED, mem="16G", scratch="none", verify=True)
    assert (tmp_path / "local").read_bytes() == oracle.shuffled([LINES], SEED)


def test_nothing_appears_at_a_url_after_a_failure(memory: Any):
    memory.pipe({"/in.txt": LINES, "/out.txt": b"before"})
    with pytest.raises(InputFormatError):
        shuffle_file("memory://in.txt", "memory://out.txt", mem="16G", lines_per_record=7)
    assert memory.store.keys() == {"/in.txt", "/out.txt"}
    assert memory.cat("/out.txt") == b"before"


class Silent(SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """URL of tmp_path/served."""
    (tmp_path / "served").mkdir()
    handler = functools.partial(Silent, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_http_input(address: str, tmp_path: Path):
    has("fsspec", "aiohttp")
    (tmp_path / "served" / "in.txt").write_bytes(LINES)
    (tmp_path / "served" / "in.txt.gz").write_bytes(gzip.compress(LINES))
    for name in ("in.txt", "in.txt.gz"):
        succeed(f"{address}/{name}", tmp_path / "out", "--seed", str(SEED), "--verify")
        assert (tmp_path / "out").read_bytes() == oracle.shuffled([LINES], SEED)
        (tmp_path / "out").unlink()
    absent = f"{address}/absent.txt"
    assert absent in refused(1, absent, "out", cwd=tmp_path)
    assert f"{address}/out" in refused(1, "served/in.txt", f"{address}/out", cwd=tmp_path)


@in_64m
def test_http_input_out_of_core(address: str, corpus: Path, shuffled: bytes, tmp_path: Path):
    has("fsspec", "aiohttp")
    (tmp_path / "served" / "corpus.txt").symlink_to(corpus)
    # HTTP takes memory of its own
    in_little_memory(f"{address}/corpus.txt", tmp_path / "out", mem="96M")
    assert (tmp_path / "out").read_bytes() == shuffled


# ---- killed ----


def wait_for(process: subprocess.Popen[bytes], happened: Callable[[], Any]) -> bool:
    """Whether it happened before the process ended."""
    while process.poll() is None:
        if happened():
            return True
        time.sleep(0.001)
    return False


@in_64m
def test_what_a_dead_run_left_is_named_and_removed(corpus: Path, tmp_path: Path):
    scratch, out = tmp_path / "scratch", tmp_path / "out"
    scratch.mkdir()
    (tmp_path / "in").write_bytes(LINES)
    # Its standard input does not end, so it cannot either.
    process = command(corpus, "-", out, "--mem", "64M", "-T", scratch, stdin=subprocess.PIPE, umask=0)
    assert wait_for(process, lambda: [path for path in scratch.glob("*/*") if path.stat().st_size])
    left = [*scratch.iterdir(), *tmp_path.glob(".out.*")]
    modes = [path.stat().st_mode & 0o777 for path in [*left, *scratch.glob("*/*")]]
    assert modes[:2] == [0o700, 0o600]
    assert set(modes[2:]) == {0o600}
    process.kill()
    assert finish(process)[0] == -signal.SIGKILL
    assert sorted(left) == sorted([*scratch.iterdir(), *tmp_path.glob(".out.*")])
    status, _, error = finish(command(tmp_path / "in", out, "-T", scratch))
    assert status == 0
    assert all(str(path).encode() in error for path in left)
    assert b"--clean" in error
    assert all(path.exists() for path in left)
    status, _, error = finish(command("--clean", "-T", scratch, "-T", tmp_path))
    assert status == 0
    assert all(str(path).encode() in error for path in left)
    assert (names(scratch), names(tmp_path)) == ([], ["in", "out", "scratch"])
    assert finish(command("--clean", "-T", scratch, "-T", tmp_path))[::2] == (0, b"")
    assert fastk.shuffle.clean_scratch([scratch, tmp_path]) == []


@in_64m
@pytest.mark.parametrize("options", [[], ["--shards", "3", "--verify", "--fsync"]], ids=str)
def test_a_killed_run_goes_on(options: list[str], corpus: Path, shuffled: bytes, tmp_path: Path):
    scratch, out = tmp_path / "scratch", tmp_path / "out"
    scratch.mkdir()
    given = [corpus, out, "-T", scratch, "--resume", "--seed", SEED, *options]
    for _ in range(20):
        process = command(*given, "--mem", "64M")
        if wait_for(process, lambda: [*scratch.glob("*/journal")]):
            process.kill()
        if finish(process)[0] == -signal.SIGKILL and [*scratch.glob("*/journal")]:
            break
    assert names(scratch)
    assert not out.exists()
    report = in_little_memory(*given)
    assert report["resumed"]
    assert b"".join(path.read_bytes() for path in sorted(tmp_path.glob("out*"))) == shuffled
    assert names(scratch) == []
    assert len(names(tmp_path)) == (4 if options else 2)
    assert not in_little_memory(*given)["resumed"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
def test_full_device(tmp_path: Path):
    (tmp_path / "in").write_bytes(LINES)
    assert "/dev/full: No space left on device" in refused(1, "in", "/dev/full", cwd=tmp_path)


def test_report_that_cannot_be_written(tmp_path: Path):
    """A report goes to a place that is looked at before the output gets its name."""
    (tmp_path / "in").write_bytes(LINES)
    assert "nowhere" in refused(1, "in", "out", "--json=nowhere/report", cwd=tmp_path)
