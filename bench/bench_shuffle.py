"""The shuffle beside what its user would pick instead: GNU shuf, terashuf (if on PATH) and, as the floor, cp.

    python bench/bench_shuffle.py                       # 4 GiB of text, as in the README
    python bench/bench_shuffle.py --size 256M --rounds 1
    python bench/bench_shuffle.py --compressed          # .zst in and out, beside the zstd program in pipes
    python bench/bench_shuffle.py --memory              # peak memory for inputs of every shape, no times

Every round runs each program once, in turn, on the same file in a warm page cache, each in a process of its own; the
table gives medians and ratios of one run. Times on shared machines drift: compare ratios, not seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from report import machine, table

from fastk.shuffle.plan import SMALLEST_MEMORY, format_size, parse_size

CASES = {
    "text, records near 300 bytes": {"mean": 300, "share": 1.0},
    "20-byte lines": {"mean": 20, "share": 0.25},
}


def words(limit: int) -> Iterator[bytes]:
    """Words of the Python sources that are installed, up to so many bytes."""
    seen = 0
    for key in ("stdlib", "purelib"):
        for path in sorted(Path(sysconfig.get_paths()[key]).rglob("*.py")):
            text = path.read_bytes()
            seen += len(text)
            yield from text.split()
            if seen > limit:
                return


def write_corpus(path: Path, size: int, mean: int) -> None:
    """Real text, refilled into lines whose lengths are spread about the mean, numbered where it repeats."""
    import random

    rng = random.Random(1)
    lines, line, length, wanted = [], [], 0, mean * rng.uniform(0.5, 1.5)
    for word in words(min(size, 128 << 20)):
        line.append(word)
        length += len(word) + 1
        if length >= wanted:
            lines.append(b" ".join(line))
            line, length, wanted = [], 0, max(1.0, mean * rng.uniform(0.5, 1.5) - 4)
    written = copy = 0
    with path.open("wb") as file:
        while written < size:
            for i in range(0, len(lines), 5000):
                prefix = b"%x " % copy
                written += file.write(b"\n".join(prefix + each for each in lines[i : i + 5000]) + b"\n")
                copy += 1
                if written >= size:
                    break


LAUNCHER = """
import json, os, subprocess, sys, time
started = time.perf_counter()
process = subprocess.Popen(["sh", "-c", sys.argv[1]])
_, status, usage = os.wait4(process.pid, 0)
seconds = time.perf_counter() - started
print(json.dumps({"status": os.waitstatus_to_exitcode(status), "seconds": seconds, "peak": usage.ru_maxrss * 1024,
                  "cpu": usage.ru_utime + usage.ru_stime}))
"""


def measure(command: str, environment: dict[str, str]) -> dict[str, float]:
    """Wall and processor seconds and peak memory of a command line."""
    # from a small process, because a child's peak memory begins with what its parent held
    launch = [sys.executable, "-S", "-E", "-c", LAUNCHER, command]
    done = subprocess.run(launch, env={**os.environ, **environment}, stdout=subprocess.PIPE, check=True)
    result = json.loads(done.stdout)
    if result["status"]:
        raise SystemExit(f"failed with status {result['status']}: {command}")
    return result


def contestants(source: Path, folder: Path, mem: str, threads: int) -> dict[str, tuple[str, dict[str, str]]]:
    """Name, command line and environment of each program."""
    out = shlex.quote(str(folder / "out"))
    data = shlex.quote(str(source))
    fastk = f"{shlex.quote(sys.executable)} -m fastk.shuffle -q -j {threads} --seed 1 {data} {out}"
    above = format(int(source.stat().st_size * 1.8) + (1 << 28))
    found = {
        "cp, twice": (f"cp {data} {out} && cp {data} {out}.2", {}),
        f"fastk --mem {mem}": (f"{fastk} --mem {mem}", {}),
        "fastk in memory": (f"{fastk} --mem {above}", {}),
    }
    if parse_size(mem) >= SMALLEST_MEMORY["numba"]:
        found[f"fastk --mem {mem}, numba"] = (f"{fastk} --mem {mem}", {"FASTK_BACKEND": "numba"})
    if shutil.which("shuf"):
        found["shuf"] = (f"shuf {data} -o {out}", {})
    if shutil.which("terashuf"):
        gigabytes = f"{parse_size(mem) / 1.11e9:.3f}"
        found["terashuf"] = (
            f"terashuf < {data} > {out} 2> /dev/null", {"MEMORY": gigabytes, "TMPDIR": str(folder)}
        )  # fmt: skip
    return found


def repeated(unit: bytes, size: int) -> Iterator[bytes]:
    """So many bytes or a little more, of one piece again and again."""
    block = unit * max(1, (1 << 20) // len(unit))
    for _ in range(-(-size // len(block))):
        yield block


def log_normal(size: int) -> Iterator[bytes]:
    """Lines whose lengths are spread as those of web documents are: most near 1 kB, some of many MB."""
    import numpy as np

    rng, written = np.random.default_rng(1), 0
    while written < size:
        for length in rng.lognormal(7, 2, 1000).astype(int).tolist():
            yield b"w" * length + b"\n"
            written += length + 1


SHAPES = {
    "1-byte lines": lambda: repeated(b"a\n", 1 << 28),
    "nothing but newlines": lambda: repeated(b"\n", 1 << 27),
    "10 MB lines": lambda: repeated(b"l" * (10**7 - 1) + b"\n", 1 << 30),
    "one 2 GB line": lambda: repeated(b"x", 2 * 10**9),
    "log-normal lengths": lambda: log_normal(1 << 30),
    "1 GiB without a newline": lambda: repeated(b"abcdefgh", 1 << 30),
}
PROMISES = ("64M", "128M", "1G")


def measure_memory(folder: Path) -> None:
    """Peak memory of the command for inputs of every shape, under several promises."""
    rows = []
    for shape, make in SHAPES.items():
        source, out = folder / "shape", folder / "out"
        with source.open("wb") as file:
            file.writelines(make())
        row = [shape, format_size(source.stat().st_size)]
        for mem in PROMISES:
            line = f"{shlex.quote(sys.executable)} -m fastk.shuffle -q --seed 1 --mem {mem} {source} {out}"
            peak = measure(line, {})["peak"]
            row.append(f"{format_size(peak)}{'' if peak <= parse_size(mem) else ' (above)'}")
            out.unlink()
        rows.append(row)
        source.unlink()
    print(table(["input", "size", *(f"--mem {mem}" for mem in PROMISES)], rows))


def measure_compressed(folder: Path, source: Path, mem: str, threads: int, rounds: int) -> None:
    """Zstandard in and out, beside the program zstd before and behind a shuffle of plain bytes."""
    packed, out = folder / "packed.zst", folder / "out.zst"
    subprocess.run(["zstd", "-q", "-f", source, "-o", packed], check=True)
    fastk = f"{shlex.quote(sys.executable)} -m fastk.shuffle -q -j {threads} --seed 1 --mem {mem}"
    programs = {
        "fastk in.zst out.zst": f"{fastk} {packed} {out}",
        "zstd -dc | fastk | zstd": f"zstd -dc {packed} | {fastk} -T {folder} - - | zstd -q -f -o {out}",
    }
    runs: dict[str, list[float]] = {name: [] for name in programs}
    sizes = {}
    for round_ in range(-1, rounds):
        for name, line in programs.items():
            seconds = measure(line, {})["seconds"]
            sizes[name] = out.stat().st_size
            out.unlink()
            if round_ >= 0:
                runs[name].append(seconds)
    rows = [
        [name, f"{statistics.median(each):.2f}", f"{min(each):.2f}", format_size(sizes[name])]
        for name, each in runs.items()
    ]
    print(table(["program", "median s", "least s", "size out"], rows))
    packed.unlink()


def main() -> None:
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--size", default="4G", help="of the text file; the other cases scale (default: %(default)s)")
    command.add_argument("--mem", default="512M")
    command.add_argument("--threads", type=int, default=2)
    command.add_argument("--rounds", type=int, default=3)
    command.add_argument("--only", default="", help="run only programs whose name contains this; cp always runs")
    command.add_argument("--folder", type=Path, default=Path("bench-out"), help="must hold five times the size")
    command.add_argument("--json", type=Path, help="write all measurements here")
    command.add_argument("--memory", action="store_true", help="measure peak memory instead of time")
    command.add_argument("--compressed", action="store_true", help="measure .zst files instead of plain ones")
    options = command.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.memory:
        measure_memory(options.folder)
        return
    results = {}
    print(machine())
    for case, shape in CASES.items():
        size = int(parse_size(options.size, "size") * shape["share"])
        source = options.folder / f"{size}-{shape['mean']}.txt"
        if not source.exists():
            write_corpus(source, size, shape["mean"])
        if options.compressed:
            print(f"\n{case}: {format_size(size)}\n")
            measure_compressed(options.folder, source, options.mem, options.threads, options.rounds)
            continue
        programs = contestants(source, options.folder, options.mem, options.threads)
        programs = {n: p for n, p in programs.items() if options.only in n or n.startswith("cp")}
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in programs}
        for round_ in range(-1, options.rounds):  # the first round warms caches and numba up, and is not counted
            for name, (line, environment) in programs.items():
                result = measure(line, environment)
                for left in options.folder.glob("out*"):
                    left.unlink()
                if round_ >= 0:
                    runs[name].append(result)
        results[case] = runs
        medians = {name: statistics.median(run["seconds"] for run in each) for name, each in runs.items()}
        floor = medians["cp, twice"]
        print(f"\n{case}: {format_size(source.stat().st_size)}, {options.threads} threads, {options.rounds} rounds\n")
        print(
            table(
                ["program", "median s", "least s", "CPU s", "peak memory", "of cp twice"],
                [
                    [
                        name,
                        f"{medians[name]:.2f}",
                        f"{min(run['seconds'] for run in each):.2f}",
                        f"{statistics.median(run['cpu'] for run in each):.1f}",
                        format_size(max(run["peak"] for run in each)),
                        f"{medians[name] / floor:.2f}",
                    ]
                    for name, each in runs.items()
                ],
            )
        )
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "results": results}, indent=2))


if __name__ == "__main__":
    main()
