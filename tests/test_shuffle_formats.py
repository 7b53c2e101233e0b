"""Kinds of records, outputs and compression, with small files driven through every path of the shuffle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import shuffle_oracle
from hypothesis import Phase, assume, example, given, settings
from hypothesis import strategies as st
from shuffle_oracle import Form
from test_shuffle import make_job, plans, tiny

from fastk.shuffle import InputFormatError, shuffle_file
from fastk.shuffle.journal import Journal

DELIMITERS = [b"\n", b"\0", b"\r\n", b"aa", b"abab", b"--\xff--", b"x" * 70, b"\n\n"]


@st.composite
def forms(draw: st.DrawFn) -> Form:
    header = draw(st.integers(0, 3))
    if draw(st.integers(0, 3)) == 0:
        return Form(size=draw(st.sampled_from([1, 2, 3, 7, 64, 100, 500])), header=header)
    return Form(draw(st.sampled_from(DELIMITERS)), draw(st.sampled_from([1, 1, 2, 4])), header=header)


@st.composite
def contents(draw: st.DrawFn, form: Form) -> bytes:
    """A file in which delimiters, parts of them and long stretches without any are common."""
    if form.size is not None:
        return draw(st.binary(max_size=9)) * form.size * draw(st.integers(0, 8))
    pieces = st.one_of(
        st.binary(max_size=12),
        st.just(form.delimiter),
        st.integers(1, len(form.delimiter)).map(lambda n: form.delimiter[:n]),
        st.sampled_from([b"z" * 90, b"yz" * 300, b"\xff\0\r"]),
        st.integers(0, 60).map(lambda n: b"".join(b"%d" % i + form.delimiter for i in range(n))),
    )
    data = b"".join(draw(st.lists(pieces, max_size=12)))
    if draw(st.booleans()):
        return data
    # Often enough a whole number of records.
    lines = data.split(form.delimiter)[:-1]
    whole = len(lines) - (len(lines) - form.header) % form.lines if len(lines) > form.header else len(lines)
    return b"".join(line + form.delimiter for line in lines[:whole])


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    form = draw(forms())
    inputs = draw(st.lists(contents(form), min_size=1, max_size=4))
    ways = st.sampled_from(["", "", "", ".gz", ".zst", ".xz", ".bz2"])
    options: dict[str, Any] = {}
    kind = draw(st.sampled_from(["scratch", "scratch", "rereading", "resume", "inverse"]))
    if kind == "rereading":
        options["scratch"] = "none"
    elif draw(st.integers(0, 3)) == 0:
        options["compress_scratch"] = True
    options["resume"] = kind == "resume"
    options["verify"] = draw(st.booleans())
    if kind != "inverse":
        options["head_count"] = draw(st.one_of(st.none(), st.none(), st.integers(0, 60)))
    spread = draw(st.sampled_from(["one", "one", "shards", "records_per_shard"]))
    if spread != "one":
        options[spread] = draw(st.integers(1, 9))
    plan = replace(draw(plans), segment=draw(st.sampled_from([100, 1000, 10**6])))
    if kind == "rereading" and not plan.arena:
        plan = tiny(plan.threads, plan.block, plan.records, plan.fanout, 2000, plan.chunk, plan.max_fanout)
    assume(plan.block > 2 * len(form.delimiter))
    return {
        "form": form,
        "inputs": inputs,
        "suffixes": [draw(ways) for _ in inputs],
        "suffix": draw(ways),
        "plan": plan,
        "seed": draw(st.integers(0, 2**128 - 1)),
        "kind": kind,
        "options": options,
    }


def write_inputs(folder: Path, inputs: list[bytes], suffixes: list[str]) -> list[Path]:
    paths = [folder / f"in{i}{suffix}" for i, suffix in enumerate(suffixes)]
    for path, data in zip(paths, inputs, strict=True):
        path.write_bytes(shuffle_oracle.compress(data, path.suffix))
    return paths


@settings(max_examples=8 * settings.default.max_examples, phases=[Phase.explicit, Phase.generate])
@given(cases())
@example(
    {
        "form": Form(), "inputs": [b"z" * 5000 + b"\n" + b"a\n" * 300], "suffixes": [".gz"], "suffix": "",
        "plan": tiny(arena=2000),
        "seed": 4, "kind": "rereading", "options": {"scratch": "none", "verify": True},
    }
)  # fmt: skip
def test_all_options_together(tmp_path_factory: pytest.TempPathFactory, case: dict[str, Any]):
    folder = tmp_path_factory.mktemp("run")
    form, inputs, seed, options = case["form"], case["inputs"], case["seed"], case["options"]
    paths = write_inputs(folder, inputs, case["suffixes"])
    output = folder / f"out{case['suffix']}"
    job = None
    try:
        header, records = shuffle_oracle.shuffled(inputs, form, seed, options.get("head_count"))
    except shuffle_oracle.RefusedError:
        with pytest.raises(InputFormatError):
            make_job(paths, output, case["plan"], seed=seed, **form.keywords(), **options).run()
        assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in paths)
        return
    if case["kind"] == "inverse":
        # A shuffled file goes in, and the records come out as they were.
        assume(len(shuffle_oracle.lines_of(inputs[0], form)) >= form.header)
        paths[0].write_bytes(shuffle_oracle.compress(header + b"".join(records), paths[0].suffix))
        for path in paths[1:]:
            path.unlink()
        paths, options = paths[:1], options | {"inverse": True}
        records = shuffle_oracle.parts(inputs, form)[1]
    job = make_job(paths, output, case["plan"], seed=seed, **form.keywords(), **options)
    report = job.run()
    expected = [header + b"".join(records)]
    names = [output.name]
    if count := options.get("shards"):
        expected = shuffle_oracle.shards(header, records, count)
        names = [f"out-{i:05d}-of-{count:05d}{case['suffix']}" for i in range(count)]
    elif size := options.get("records_per_shard"):
        count = max(1, -(-len(records) // size))
        expected = [b"".join(records[i * size : (i + 1) * size]) for i in range(count)]
        expected[0] = header + expected[0]
        names = [f"out-{i:05d}-of-{count:05d}{case['suffix']}" for i in range(count)]
    assert sorted(p.name for p in folder.iterdir()) == sorted([*(p.name for p in paths), *names])
    got = [shuffle_oracle.decompress((folder / name).read_bytes(), case["suffix"]) for name in names]
    assert got == expected
    assert report.records == len(records)
    assert report.bytes_out == sum(map(len, expected))
    assert report.outputs == tuple(str(folder / name) for name in names)


class StoppedError(BaseException):
    """What ends a run after one of its checkpoints."""


@settings(max_examples=4 * settings.default.max_examples, phases=[Phase.explicit, Phase.generate])
@given(case=cases(), stops=st.lists(st.integers(1, 12), min_size=1, max_size=4))
def test_goes_on_after_any_checkpoint(tmp_path_factory: pytest.TempPathFactory, case: dict[str, Any], stops: list[int]):
    assume(case["kind"] in ("resume", "inverse", "scratch"))
    folder = tmp_path_factory.mktemp("run")
    form, seed, options = case["form"], case["seed"], case["options"] | {"resume": True}
    plan = replace(case["plan"], arena=0)
    try:
        header, records = shuffle_oracle.shuffled(case["inputs"], form, seed, options.get("head_count"))
    except shuffle_oracle.RefusedError:
        assume(False)
    inputs, suffixes = case["inputs"], case["suffixes"]
    if case["kind"] == "inverse":
        assume(len(shuffle_oracle.lines_of(inputs[0], form)) >= form.header)
        inputs, suffixes = [header + b"".join(records)], suffixes[:1]
        records, options = shuffle_oracle.parts(case["inputs"], form)[1], options | {"inverse": True}
    paths = write_inputs(folder, inputs, suffixes)
    output = folder / f"out{case['suffix']}"

    def run(stop: int | None) -> bool:
        """Whether the run got to its end."""
        saves = 0

        def saving(journal: Journal, state: dict[str, Any]) -> None:
            nonlocal saves
            save(journal, state)
            saves += 1
            if saves == stop:
                raise StoppedError

        with pytest.MonkeyPatch.context() as patch:
            save = Journal.save
            patch.setattr(Journal, "save", saving)
            try:
                make_job(paths, output, plan, seed=seed, **form.keywords(), **options).run()
            except StoppedError:
                return False
        return True

    done = any(run(stop) for stop in stops) or run(None)
    assert done
    expected = header + b"".join(records)
    names = sorted(path for path in folder.iterdir() if path not in paths)
    if not options.get("shards") and not options.get("records_per_shard"):
        assert names == [output]
    assert b"".join(shuffle_oracle.decompress(path.read_bytes(), case["suffix"]) for path in names) == expected


def test_outputs_of_a_pair_are_told_apart_by_place(tmp_path: Path):
    paths = write_inputs(tmp_path, [b"a\n", b"b\n"], ["", ""])
    with pytest.raises(ValueError, match="different files"):
        shuffle_file(paths, [tmp_path / "out", f"file://{tmp_path}/out"], pair=True, mem="16G")
    assert sorted(tmp_path.iterdir()) == paths


def test_resume_needs_its_inputs(tmp_path: Path):
    (path,) = write_inputs(tmp_path, [b"a\nb\n"], [""])
    with pytest.raises(ValueError, match="resume"):
        shuffle_file(path, path, resume=True, mem="16G")
    assert path.read_bytes() == b"a\nb\n"
