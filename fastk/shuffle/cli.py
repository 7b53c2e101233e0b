"""The command ``fastk-shuffle``, which is ``python -m fastk.shuffle``."""

from __future__ import annotations

import argparse
import errno
import json
import os
import re
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from .._version import __version__
from .cleaning import clean
from .inputs import InputFormatError
from .job import Job, run_pair
from .options import APPEND_NEWLINE, COMPRESS, SCRATCH, make_options
from .places import real_place
from .report import PROGRESS, ShuffleReport

DONE, FAILED = 0, 1
ESCAPES = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"0": b"\0", b"\\": b"\\"}
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal asked the run to end."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = argparse.ArgumentParser(
        prog="fastk-shuffle",
        usage="%(prog)s [options] INPUT... OUTPUT",
        description="Write the records of INPUT... to OUTPUT in uniformly random order, in bounded memory. '-' is "
        "standard input or output; .gz, .zst, .xz and .bz2 are decompressed and compressed; URLs go through fsspec. "
        "OUTPUT appears under its name when it is complete, and may be one of the inputs.",
        epilog="Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 terminated. After a failure OUTPUT "
        "is as it was before, and scratch files are gone. Output record j is input record order[j], where order = "
        "numpy.argsort(numpy.random.Philox(key=SEED).random_raw(n), kind='stable').",
    )
    command.add_argument("paths", nargs="*", metavar="INPUT... OUTPUT", help=argparse.SUPPRESS)
    add = command.add_argument
    add("-m", "--mem", default="2G", metavar="SIZE",
        help="bound for the memory of the whole process: 64M, 2G, 1.5GiB, 50%% of the machine's (default: %(default)s)")
    add("-s", "--seed", type=_seed, metavar="N", help="repeat the order of an earlier run")
    add("-j", "--threads", type=_positive, metavar="N", help="default: the processors available")
    add("-n", "--head-count", type=_count, metavar="N",
        help="write the first N records of the order only: a sample without replacement")
    add("--inverse", action="store_true", help="undo a shuffle: put its output back in order, given its --seed")
    add("--pair", action="store_true",
        help="INPUT INPUT... OUTPUT OUTPUT...: shuffle as many files into as many, all in the same order")
    add("--verify", action="store_true",
        help="read the output again, and compare a checksum of its records with that of the inputs'")
    add("--fsync", action="store_true", help="end when the output is on disk, not with the system alone")
    add("--version", action="version", version=f"fastk {__version__}")

    add = command.add_argument_group("records").add_argument
    add("-z", "--null", action="store_true", help="records end with a zero byte, not with a newline")
    add("--delimiter", type=parse_bytes, metavar="BYTES",
        help=r"records end with BYTES; \n, \t, \r, \0, \\ and \xHH are understood")
    add("--lines-per-record", type=_positive, default=1, metavar="N", help="N lines are a record (FASTQ: 4)")
    add("--record-size", type=_positive, metavar="N", help="records have N bytes and no delimiter")
    add("--header", type=_count, default=0, metavar="N",
        help="keep the first N lines of the first input first, and drop those of the others")
    add("--append-newline", choices=APPEND_NEWLINE, default="auto",
        help="if an input's last record lacks its delimiter: add it, or refuse the input (default: %(default)s)")

    add = command.add_argument_group("output").add_argument
    add("--shards", type=_positive, metavar="N", help="spread the records over OUTPUT-00000-of-N and so on")
    add("--records-per-shard", type=_positive, metavar="N", help="the same, with N records in each")
    add("--compress", choices=COMPRESS, default="auto", help="of OUTPUT (default: by its suffix)")

    add = command.add_argument_group("scratch").add_argument
    add("-T", "--tmp", action="append", default=[], metavar="DIR",
        help="directory for scratch files; repeat it to spread them over several disks (default: $TMPDIR, else where "
        "OUTPUT is)")
    add("--scratch", choices=SCRATCH, default="auto", help="none: read the input again and again instead")
    add("--compress-scratch", action="store_true", help="less disk, more work")
    add("--resume", action="store_true", help="if a run is killed, the same command goes on where it was")
    add("--clean", action="store_true",
        help="first remove what killed runs left in the directories used; without INPUT and OUTPUT, do only that, in "
        "the --tmp directories, $TMPDIR and the current one")

    add = command.add_argument_group("messages").add_argument
    add("-q", "--quiet", action="store_true", help="no progress bar and no report")
    add("--progress", choices=PROGRESS, default="auto", help="show a bar (default: on a terminal)")
    add("--json", metavar="FILE", help="write the report as JSON: alone to standard error, as --json=FILE to a file")
    return command


def _seed(text: str) -> int:
    try:
        seed = int(text, 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer") from None
    if not 0 <= seed < 2**128:
        raise argparse.ArgumentTypeError(f"{text}: allowed are 0 to 2**128 - 1")
    return seed


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: allowed are whole numbers from 0 up")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: allowed are whole numbers from 1 up")
    return int(text)


def parse_bytes(text: str) -> bytes:
    r"""Bytes as they are written in a shell: themselves, and \n, \t, \r, \0, \\ and \xHH."""

    def replacement(match: re.Match[bytes]) -> bytes:
        escape = match[1]
        if escape[:1] == b"x" and len(escape) == 3:
            return bytes([int(escape[1:], 16)])
        if escape not in ESCAPES:
            raise argparse.ArgumentTypeError(f"{text!r}: no escape is known as \\{os.fsdecode(escape)}")
        return ESCAPES[escape]

    return re.sub(rb"\\(x[0-9a-fA-F]{2}|.|$)", replacement, os.fsencode(text), flags=re.DOTALL)


def _bare_json(arguments: Sequence[str]) -> list[str]:
    """``--json`` alone means standard error, so that it never takes a path for its value."""
    given = list(arguments)
    options = given[: given.index("--")] if "--" in given else given
    return ["--json=-" if argument == "--json" else argument for argument in options] + given[len(options) :]


def _destination(inputs: Sequence[str], output: str) -> str:
    """OUTPUT, or the input's name in it if it is a directory, as cp has it."""
    if output != "-" and os.path.isdir(output) and len(inputs) == 1 and inputs[0] != "-":
        return os.path.join(output, os.path.basename(inputs[0]))
    return output


def _ignore() -> None:
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    _ignore()  # cleaning up is not to be interrupted
    raise Interrupted(number)


def _write_json(report: ShuffleReport, where: str) -> None:
    text = json.dumps(report.as_dict(), indent=2) + "\n"
    if where == "-":
        sys.stderr.write(text)
    else:
        with open(where, "w") as file:
            file.write(text)


def _check_place(path: str) -> None:
    """OSError unless a report can be written there, once all is done."""
    directory = os.path.dirname(path) or "."
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not os.path.isdir(directory):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), directory)
    if not os.access(path if os.path.lexists(path) else directory, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)


def explain(error: BaseException) -> str:
    """One line that says what failed and where."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    return str(error)


def _jobs(command: argparse.ArgumentParser, options: argparse.Namespace) -> list[Job]:
    """The shuffles to be done; ends the program if what is asked for makes no sense."""
    given = {name: value for name, value in vars(options).items() if name not in ("paths", "pair", "json", "quiet")}
    given["progress"] = "never" if options.quiet else options.progress
    if options.pair:
        count, odd = divmod(len(options.paths), 2)
        if odd or not count:
            command.error("--pair takes as many outputs as inputs")
        pairs = zip(options.paths[:count], options.paths[count:], strict=True)
        runs = [([source], _destination([source], target)) for source, target in pairs]
        if len({real_place(target) for _, target in runs}) < count:
            command.error("--pair: the outputs have to be different files")
    else:
        *inputs, output = options.paths
        if not inputs:
            command.error("INPUT and OUTPUT are both needed, as for cp")
        runs = [(inputs, _destination(inputs, output))]
    try:
        return [Job(make_options(inputs, output, **given)) for inputs, output in runs]
    except InputFormatError:
        raise
    except (TypeError, ValueError) as error:
        # The names of Python's keywords, as they are written here.
        names = "|".join(sorted(given, key=len, reverse=True))
        command.error(
            re.sub(rf"^({names})\b|(?<=and )({names})\b", lambda m: "--" + m[0].replace("_", "-"), str(error))
        )


def _clean(options: argparse.Namespace) -> int:
    for directory in options.tmp:
        if not os.path.isdir(directory):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), directory)
    places = [*options.tmp, os.environ.get("TMPDIR") or ".", "."]
    for removed in clean(places):
        if not options.quiet:
            print(f"fastk-shuffle: removed {removed}", file=sys.stderr)
    return DONE


def _run(command: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    jobs = _jobs(command, options)
    if options.json not in (None, "-"):
        _check_place(options.json)
    for job in jobs:
        job.before_commit = _ignore  # the outputs get their names together
    report = run_pair(jobs) if options.pair else jobs[0].run()
    if not options.quiet and options.json != "-":
        for left in report.leftovers:
            print(f"fastk-shuffle: {left}", file=sys.stderr)
    if options.json is not None:
        _write_json(report, options.json)
    if options.json != "-" and not options.quiet:
        print(report, file=sys.stderr)
    return DONE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    command = parser()
    options = command.parse_args(_bare_json(sys.argv[1:] if arguments is None else arguments))
    if not options.paths and not options.clean:
        command.error("INPUT and OUTPUT are both needed, as for cp")
    previous = {each: signal.getsignal(each) for each in SIGNALS}
    try:
        for each in SIGNALS:
            if previous[each] != signal.SIG_IGN:  # as nohup wants it
                signal.signal(each, _interrupt)
        return _run(command, options) if options.paths else _clean(options)
    except Interrupted as interrupted:
        number = int(interrupted.args[0])
        name = signal.Signals(number).name
        output = options.paths[-1] if options.paths else "everything"
        then = "; the same command goes on" if options.resume else ""
        print(f"fastk-shuffle: {name}: stopped; {output} is as it was before{then}", file=sys.stderr)
        return 128 + number
    except (OSError, MemoryError, InputFormatError) as error:
        if isinstance(error, OSError) and error.errno == errno.EPIPE and "-" in options.paths[-1:]:
            return FAILED  # the reader went away: nobody to tell
        print(f"fastk-shuffle: error: {explain(error)}", file=sys.stderr)
        return FAILED
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)
