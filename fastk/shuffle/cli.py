"""The command ``fastk-shuffle``, which is ``python -m fastk.shuffle``."""

from __future__ import annotations

import argparse
import errno
import json
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from .._version import __version__
from .job import Job
from .report import PROGRESS, ShuffleReport

DONE, FAILED, USAGE = 0, 1, 2
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal asked the run to end."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = argparse.ArgumentParser(
        prog="fastk-shuffle",
        usage="%(prog)s [options] INPUT... OUTPUT",
        description="Write the lines of INPUT... to OUTPUT in uniformly random order, in bounded memory. '-' is "
        "standard input or output. OUTPUT appears under its name when it is complete, and may be one of the inputs.",
        epilog="Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 terminated. After a failure OUTPUT "
        "is as it was before, and scratch files are gone. Output record j is input record order[j], where order = "
        "numpy.argsort(numpy.random.Philox(key=SEED).random_raw(n), kind='stable').",
    )
    command.add_argument("paths", nargs="+", metavar="INPUT... OUTPUT", help=argparse.SUPPRESS)
    command.add_argument(
        "-m", "--mem", default="2G", metavar="SIZE",
        help="bound for the memory of the whole process: 64M, 2G, 1.5GiB, 50%% of the machine's (default: %(default)s)",
    )  # fmt: skip
    command.add_argument("-s", "--seed", type=_seed, metavar="N", help="repeat the order of an earlier run")
    command.add_argument("-j", "--threads", type=_threads, metavar="N", help="default: the processors available")
    command.add_argument(
        "-T", "--tmp", action="append", default=[], metavar="DIR",
        help="directory for scratch files; repeat it to spread them over several disks (default: $TMPDIR, else where "
        "OUTPUT is)",
    )  # fmt: skip
    command.add_argument("-q", "--quiet", action="store_true", help="no progress bar and no report")
    command.add_argument("--progress", choices=PROGRESS, default="auto", help="show a bar (default: on a terminal)")
    command.add_argument(
        "--json", metavar="FILE",
        help="write the report as JSON: alone to standard error, as --json=FILE to a file",
    )  # fmt: skip
    command.add_argument("--version", action="version", version=f"fastk {__version__}")
    return command


def _seed(text: str) -> int:
    try:
        seed = int(text, 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer") from None
    if not 0 <= seed < 2**128:
        raise argparse.ArgumentTypeError(f"{text}: allowed are 0 to 2**128 - 1")
    return seed


def _threads(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: allowed are whole numbers from 1 up")
    return int(text)


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


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)  # cleaning up is not to be interrupted
    raise Interrupted(number)


def _write_json(report: ShuffleReport, where: str) -> None:
    text = json.dumps(report.as_dict(), indent=2) + "\n"
    if where == "-":
        sys.stderr.write(text)
    else:
        with open(where, "w") as file:
            file.write(text)


def explain(error: BaseException) -> str:
    """One line that says what failed and where."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    return str(error)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    command = parser()
    options = command.parse_args(_bare_json(sys.argv[1:] if arguments is None else arguments))
    *inputs, output = options.paths
    if not inputs:
        command.error("INPUT and OUTPUT are both needed, as for cp")
    previous = {each: signal.getsignal(each) for each in SIGNALS}
    try:
        for each in SIGNALS:
            if previous[each] != signal.SIG_IGN:  # as nohup wants it
                signal.signal(each, _interrupt)
        try:
            job = Job(
                inputs,
                _destination(inputs, output),
                mem=options.mem,
                seed=options.seed,
                threads=options.threads,
                tmp=options.tmp,
                progress="never" if options.quiet else options.progress,
            )
        except ValueError as error:
            command.error(str(error))
        report = job.run()
        if options.json is not None:
            _write_json(report, options.json)
        if options.json != "-" and not options.quiet:
            print(report, file=sys.stderr)
        return DONE
    except Interrupted as interrupted:
        number = int(interrupted.args[0])
        name = signal.Signals(number).name
        print(f"fastk-shuffle: {name}: stopped; {output} is as it was before", file=sys.stderr)
        return 128 + number
    except (OSError, MemoryError) as error:
        if isinstance(error, OSError) and error.errno == errno.EPIPE and output == "-":
            return FAILED  # the reader went away: nobody to tell
        print(f"fastk-shuffle: error: {explain(error)}", file=sys.stderr)
        return FAILED
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)
