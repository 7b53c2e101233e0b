"""Runs of ``fastk-shuffle`` in real processes, many a second, each with a fault of its own.

``FaultServer`` starts this very file as a process. It imports the command once, stays on one thread, and forks a child
for each run that it is asked for. Requests and answers are lines of JSON. In the child the file functions of ``os``
count their calls, and a chosen one fails, is cut short, stops the process, sends it a signal or kills it.
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import functools
import gc
import json
import mmap
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

READS = ("read", "readv", "pread", "preadv")
WRITES = ("write", "writev", "pwrite", "pwritev")
PLACES = ("open", "close", "mkdir", "rmdir", "unlink", "replace", "rename", "link", "symlink")
LENGTHS = ("ftruncate", "posix_fallocate", "fsync", "fdatasync")
FUNCTIONS = (*READS, *WRITES, *PLACES, *LENGTHS)
"""The functions of ``os`` that are counted; their places here are what the trace is written in."""

HEADER = struct.Struct("=QQQ?1023s")
"""What a child tells the server as it goes: counted calls, bytes read, bytes written, whether the fault came, where."""
LONGEST_TRACE = 1 << 16
SECONDS = 120
HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Fault:
    """What happens at the `call`-th call (from 1) of the `functions`.

    ``action`` is "fail" (with `error`), "short" (half of the bytes are read or written), "stop" (SIGSTOP), or "signal"
    (`number`, which may be SIGKILL) ``when`` "before", "half" way through or "after" the call. A `lasting` fault
    happens at all later calls too.
    """

    call: int
    action: str
    functions: tuple[str, ...] = FUNCTIONS
    error: str = "EIO"
    number: int = signal.SIGKILL
    when: str = "before"
    lasting: bool = False


@dataclass(frozen=True)
class Result:
    """How a run ended (or stopped), and the calls that were counted until then."""

    status: int | None
    signal: int | None
    stopped: bool
    error: str
    fired: bool
    where: str
    trace: tuple[str, ...]
    bytes_read: int
    bytes_written: int

    @property
    def calls(self) -> Counter[str]:
        """Counted calls by function."""
        return Counter(self.trace)


# ---- in the child ----


class Watch:
    """The functions of ``os``, counted, with at most one fault."""

    def __init__(self, shared: mmap.mmap, fault: Fault | None) -> None:
        self._shared = shared
        self._fault = fault
        self._functions = FUNCTIONS if fault is None else fault.functions
        self._lock = threading.Lock()
        self._calls = self._read = self._written = 0
        self._fired = False
        self._where = b""

    def install(self) -> None:
        """Put the counting functions in the places of the real ones."""
        for name in FUNCTIONS:
            if hasattr(os, name):
                setattr(os, name, self._watched(name, getattr(os, name)))

    def _watched(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def call(*arguments: Any, **options: Any) -> Any:
            fault = self._count(name, arguments)
            if fault is None:
                result = real(*arguments, **options)
            else:
                result = self._faulty(fault, name, real, arguments, options)
            if name in WRITES or name in READS:
                count = len(result) if isinstance(result, bytes) else result
                with self._lock:
                    self._read += count * (name in READS)
                    self._written += count * (name in WRITES)
                    self._publish()
            return result

        return call

    def _count(self, name: str, arguments: tuple[Any, ...]) -> Fault | None:
        """Count a call; the fault, if this is its turn."""
        if name not in self._functions:
            return None
        with self._lock:
            self._calls += 1
            position = HEADER.size + self._calls - 1
            if position < len(self._shared):
                self._shared[position] = FUNCTIONS.index(name)
            fault = self._fault
            due = fault is not None and (self._calls == fault.call or (fault.lasting and self._calls > fault.call))
            if due and not self._fired:
                self._fired = True
                self._where = _where(arguments[0]) if arguments else b""
            self._publish()
        return fault if due else None

    def _publish(self) -> None:
        HEADER.pack_into(self._shared, 0, self._calls, self._read, self._written, self._fired, self._where[:1023])

    def _faulty(
        self, fault: Fault, name: str, real: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        if fault.action == "fail":
            if name == "close":
                real(*arguments, **options)  # as the system does it: closed whatever comes
            number = getattr(errno, fault.error)
            if isinstance(arguments[0], int):
                raise OSError(number, os.strerror(number))
            raise OSError(number, os.strerror(number), arguments[0])
        if fault.action == "short":
            return real(*_half(name, arguments), **options)
        number = signal.SIGSTOP if fault.action == "stop" else fault.number
        if fault.when == "before":
            _send(number)
            return real(*arguments, **options)
        if fault.when == "half" and name in WRITES and number == signal.SIGKILL:
            real(*_half(name, arguments), **options)
            _send(number)
        result = real(*arguments, **options)
        _send(number)
        return result


def _where(argument: Any) -> bytes:
    """The path that a call is about."""
    if isinstance(argument, int):
        try:
            return os.fsencode(os.readlink(f"/proc/self/fd/{argument}"))
        except OSError:
            return b""
    return os.fsencode(argument)


def _send(number: int) -> None:
    os.kill(os.getpid(), number)
    if threading.current_thread() is not threading.main_thread():
        time.sleep(0.02)  # the main thread is the one that handles it: let it come to that


def _half(name: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments of a read or a write of half as many bytes, one at least."""
    fd, what, *rest = arguments
    if name in ("read", "pread"):
        return (fd, max(1, what // 2), *rest)
    if name in ("write", "pwrite"):
        view = memoryview(what).cast("B")
        return (fd, view[: max(1, len(view) // 2)], *rest)
    views = [memoryview(each).cast("B") for each in what]
    left, some = max(1, sum(map(len, views)) // 2), []
    for view in views:
        some.append(view[:left])
        left -= len(some[-1])
        if left == 0:
            break
    return (fd, some, *rest)


def _become(request: dict[str, Any], shared: mmap.mmap) -> int:
    """Run the command as a process of its own would; returns its exit status."""
    from fastk.shuffle import cli

    for number in HANDLED:
        signal.signal(number, lambda number, frame: None)  # what comes before or after the command does nothing
    os.chdir(request["cwd"])
    os.umask(request["umask"])
    os.environ.update(request["environment"])
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    for fd, path, how in ((0, os.devnull, os.O_RDONLY), (1, os.devnull, flags), (2, request["stderr"], flags)):
        opened = os.open(path, how, 0o600)
        os.dup2(opened, fd)
        os.close(opened)
    faulthandler.register(signal.SIGUSR1)
    for name, value in request["settings"].items():
        module, _, attribute = name.rpartition(".")
        assert hasattr(sys.modules[module], attribute), name
        setattr(sys.modules[module], attribute, value)
    fault = request["fault"] and Fault(**request["fault"])
    Watch(shared, fault).install()
    try:
        return cli.main(request["arguments"])
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 1


def _child(request: dict[str, Any], shared: mmap.mmap) -> None:
    status = 1
    leave, write = os._exit, os.write
    try:
        status = _become(request, shared)
    except BaseException:
        write(2, traceback.format_exc().encode())
    finally:
        with contextlib.suppress(Exception):
            sys.stderr.flush()
            sys.stdout.flush()
        leave(status)


# ---- the server ----


def _answer(state: tuple[int, int], shared: mmap.mmap, stopped: bool) -> dict[str, Any]:
    calls, read, written, fired, where = HEADER.unpack_from(shared)
    status = state[1]
    return {
        "status": os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
        "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
        "stopped": stopped,
        "fired": fired,
        "where": os.fsdecode(where.rstrip(b"\0")),
        "trace": list(shared[HEADER.size : min(HEADER.size + calls, len(shared))]),
        "bytes_read": read,
        "bytes_written": written,
    }


def _wait(pid: int, seconds: float) -> tuple[int, int] | None:
    """The child's state when it has ended or stopped; None if it has not within the time."""
    deadline = time.monotonic() + seconds
    while True:
        state = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
        if state[0]:
            return state
        if time.monotonic() > deadline:
            return None
        time.sleep(0.0005)


def serve() -> None:
    """Answer requests until standard input ends; then what still runs is killed."""
    from fastk.shuffle import cli

    with contextlib.suppress(ImportError):
        import zstandard  # noqa: F401
    assert callable(cli.main)
    gc.freeze()
    running: dict[int, mmap.mmap] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "arguments" in request:
            shared = mmap.mmap(-1, HEADER.size + LONGEST_TRACE)
            pid = os.fork()
            if pid == 0:
                _child(request, shared)
            running[pid] = shared
            answer: dict[str, Any] = {"pid": pid}
        elif "watch" in request:
            answer = {"calls": HEADER.unpack_from(running[request["watch"]])[0]}
        else:
            pid = request["wait"]
            state = _wait(pid, request["seconds"])
            if state is None:
                answer = {"late": True}
            else:
                stopped = os.WIFSTOPPED(state[1])
                answer = _answer(state, running[pid], stopped)
                if not stopped:
                    running.pop(pid).close()
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    for pid in running:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


# ---- on the side of the tests ----


@dataclass
class Run:
    """A run that was started."""

    server: FaultServer
    pid: int
    stderr: Path
    result: Result | None = field(default=None)

    def send(self, number: int) -> None:
        """Send a signal, unless the run is known to be over."""
        if self.result is None:
            os.kill(self.pid, number)  # a child that ended is there until it is waited for

    def begun(self) -> None:
        """Wait until it has called something."""
        deadline = time.monotonic() + SECONDS
        while self.server.ask({"watch": self.pid})["calls"] == 0 and time.monotonic() < deadline:
            time.sleep(0.0005)

    def wait(self) -> Result:
        """Wait until it ends, or stops by a fault."""
        if self.result is not None:
            return self.result
        answer = self.server.ask({"wait": self.pid, "seconds": SECONDS})
        if "late" in answer:
            self.send(signal.SIGUSR1)
            time.sleep(0.5)
            self.send(signal.SIGKILL)
            raise TimeoutError(f"the run did not end:\n{self.stderr.read_text(errors='replace')}")
        trace = tuple(FUNCTIONS[index] for index in answer.pop("trace"))
        result = Result(**answer, trace=trace, error=self.stderr.read_text(errors="replace"))
        if not result.stopped:
            self.result = result
            self.stderr.unlink()
        return result

    def go_on(self) -> Result:
        """Let a run that stopped go on; its end."""
        self.send(signal.SIGCONT)
        return self.wait()

    def kill(self) -> None:
        """End it if it has not ended."""
        if self.result is None:
            with contextlib.suppress(ProcessLookupError):
                self.send(signal.SIGKILL)
                self.wait()


class FaultServer:
    """The process that forks the runs; `folder` takes what they write to standard error."""

    def __init__(self, folder: Path, root: Path) -> None:
        self._folder = folder
        self._started = 0
        environment = {name: value for name, value in os.environ.items() if name != "TMPDIR"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), environment.get("PYTHONPATH")]))
        # No threads but ours: a fork would lose them.
        environment |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", __file__],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True,
        )  # fmt: skip

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a request; the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def start(
        self,
        arguments: Sequence[str | Path],
        cwd: Path,
        fault: Fault | None = None,
        *,
        environment: dict[str, str] | None = None,
        settings: dict[str, Any] | None = None,
        umask: int = 0o022,
    ) -> Run:
        """Start a run; `settings` are module attributes by their full name, set in the child alone."""
        self._started += 1
        stderr = self._folder / f"stderr{self._started}"
        stderr.touch()
        request = {
            "arguments": [str(argument) for argument in arguments],
            "cwd": str(cwd),
            "fault": None if fault is None else fault.__dict__,
            "environment": environment or {},
            "settings": settings or {},
            "umask": umask,
            "stderr": str(stderr),
        }
        return Run(self, self.ask(request)["pid"], stderr)

    def close(self) -> None:
        """End the server, and with it what still runs."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


if __name__ == "__main__":
    serve()
