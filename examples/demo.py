"""Shuffles a file larger than the memory allowed, checks the result line by line, and shows what happened.

The corpus is the source text of the Python that runs this; it goes to demo-out/ and is removed at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import fastk

SEED = 7
MIB = 1 << 20
MEMORY = {"c": 64, "numba": 300}[fastk.config()["backend"]] * MIB  # the least that each works with
SMALLEST, LARGEST = MEMORY * 9 // 8, MEMORY * 3 // 2  # a corpus that does not fit
COLUMNS = 64

COLOUR = sys.stdout.isatty() and "NO_COLOR" not in os.environ
UNICODE = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
BARS, PASSED = (" ▁▂▃▄▅▆▇█", "✓") if UNICODE else (" .:-=+*#@", "ok")
BOLD, DIM, RED, GREEN, BLUE = 1, 2, 31, 32, 36


def paint(text: str, code: int) -> str:
    return f"\033[{code}m{text}\033[0m" if COLOUR else text


def sources() -> Iterator[Path]:
    """Every .py file of this installation, in a fixed order."""
    for root in sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"):
        for folder, folders, names in os.walk(root):
            folders.sort()
            yield from (Path(folder, name) for name in sorted(names) if name.endswith(".py"))


def collect(corpus: Path) -> int:
    """Write the sources one after the other, and again with a mark if they are few; returns how many files."""
    count = turn = 0
    with corpus.open("wb") as file:
        while file.tell() < SMALLEST:
            turn += 1
            ending = b"\n" if turn == 1 else b"  # copy %d\n" % turn
            for path in sources():
                with contextlib.suppress(OSError):
                    file.writelines(line + ending for line in path.read_bytes().removesuffix(b"\n").split(b"\n"))
                    count += 1
                if file.tell() > (LARGEST if turn == 1 else SMALLEST):
                    break
    return count


def shuffle(folder: Path) -> tuple[dict[str, Any], int]:
    """Run the command in a process of its own; returns its report, and the most memory the kernel saw it use."""
    command = ["fastk.shuffle", "corpus.txt", "shuffled.txt", "--mem", f"{MEMORY // MIB}M", "--seed", str(SEED)]
    print("$ " + paint("python -m " + " ".join(command), BLUE), flush=True)
    process = subprocess.Popen([sys.executable, "-m", *command, "--json=report.json"], cwd=folder)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"the shuffle failed with exit status {os.waitstatus_to_exitcode(status)}")
    return json.loads((folder / "report.json").read_text()), usage.ru_maxrss * 1024


def in_order(corpus: Path, output: Path, order: np.ndarray) -> bool:
    """Whether line j of the output is, byte for byte, line order[j] of the corpus, for every j."""
    with corpus.open("rb") as before, output.open("rb") as after:
        sizes = np.fromiter(map(len, before), np.int64, len(order))
        ends = np.cumsum(sizes)
        spans = zip((ends - sizes)[order], ends[order], after, strict=True)
        with mmap.mmap(before.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return all(data[begin:end] == line for begin, end, line in spans)


def count_and_sum(path: Path) -> tuple[int, int]:
    """How many lines, and the sum of their CRC-32s, which is the same in every order."""
    with path.open("rb") as file:
        sums = np.fromiter(map(zlib.crc32, file), np.uint64)
    return len(sums), int(sums.sum())


def check(holds: bool, text: str) -> bool:
    print(f"  {paint(PASSED, GREEN) if holds else paint('FAILED', RED)} {text}", flush=True)
    return holds


def show(path: Path, numbers: Iterable[int]) -> None:
    """The first lines of a file, each with its number in the corpus."""
    with path.open("rb") as file:
        for number, line in zip(numbers, file, strict=False):
            text = line.decode(errors="replace").rstrip("\r\n").expandtabs(4)[:80]
            text = "".join(letter if letter.isprintable() else "?" for letter in text)
            text = text.encode(sys.stdout.encoding, "replace").decode(sys.stdout.encoding)
            print(paint(f"  {number + 1:>12,}  ", DIM) + text)


def histogram(positions: np.ndarray, n: int) -> np.ndarray:
    """Draw how the positions spread over a file of n lines, a bar for each 64th; half a bar's height is the mean."""
    counts = np.bincount(positions * COLUMNS // n, minlength=COLUMNS)
    heights = np.ceil(counts / counts.mean() * len(BARS[1:]) / 2).astype(int).clip(max=len(BARS) - 1)
    print(f"  |{paint(''.join(BARS[height] for height in heights), BLUE)}|")
    return counts


def run(folder: Path) -> bool:
    """Collect, shuffle, check and show; returns whether every check held."""
    corpus, output = folder / "corpus.txt", folder / "shuffled.txt"
    config = fastk.config()
    print("fastk {version}, backend {backend}, ISA level {isa}, {threads} threads".format(**config))

    print(paint("\n1. Collect a corpus: the source text of this Python", BOLD), flush=True)
    files, size = collect(corpus), corpus.stat().st_size
    print(f"  {files:,} files, {size / MIB:.1f} MiB: {size / MEMORY:.2f} times the memory that the shuffle may use")

    print(paint("\n2. Shuffle it", BOLD))
    report, peak = shuffle(folder)
    n = report["records"]
    print(f"  That is {n / report['seconds'] / 1e6:.1f} million lines a second.")

    print(paint("\n3. Check it", BOLD))
    order = np.argsort(np.random.Philox(key=SEED).random_raw(n), kind="stable")
    before, after = count_and_sum(corpus), count_and_sum(output)
    complete = check(before[0] == after[0] == n, f"lines: {before[0]:,} before, {after[0]:,} after")
    same = check(before == after, f"the same lines: their CRC-32s sum to {before[1]:x} before, {after[1]:x} after")
    ordered = check(complete and in_order(corpus, output, order), f"each where numpy.random.Philox(key={SEED}) puts it")
    used = f"{peak / MIB:.1f} of {MEMORY // MIB} MiB, {peak / size:.2f} times the size of the file"
    bounded = check(peak <= MEMORY, f"memory at its peak: {used}")

    print(paint("\n4. Look at it", BOLD))
    print("  The first lines before,")
    show(corpus, range(6))
    print("  and after, with the numbers they had before:")
    show(output, order[:6])
    print("\n  Where the first 1 % of the lines were,")
    histogram(np.arange(n // 100), n)
    print("  and where they are now:")
    counts = histogram(np.flatnonzero(order < n // 100), n)
    print(f"  A column holds {counts.mean():.0f} of them, and by chance {counts.mean() ** 0.5:.0f} more or less;")
    print(f"  these hold {counts.min()} to {counts.max()}, with a standard deviation of {counts.std():.0f}.")
    return complete and same and ordered and bounded


def main() -> int:
    command = argparse.ArgumentParser(description=__doc__)
    command.add_argument("--keep", action="store_true", help="do not remove the corpus and the shuffled file")
    keep = command.parse_args().keep
    Path("demo-out").mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="shuffle-", dir="demo-out"))
    try:
        return 0 if run(folder) else 1
    finally:
        if keep:
            print(f"\n  Kept: {folder}")
        else:
            shutil.rmtree(folder)
            with contextlib.suppress(OSError):
                folder.parent.rmdir()


if __name__ == "__main__":
    sys.exit(main())
