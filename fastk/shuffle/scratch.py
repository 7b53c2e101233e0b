"""Private directories for scratch files, and reading and writing them."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import stat
import threading
import time
from collections.abc import Callable, Sequence

from .plan import format_size

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PAGE = 4096
MOST_PIECES = 1024
"""Pieces of one call: the least limit that systems have."""
FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE = 1, 2
PREFIX = "fastk-shuffle-"
"""What the names of private directories begin with."""
BUSY_SECONDS = 0.3
"""How long a lock is waited for, which whoever looks for leftovers may hold for an instant."""
RUN = "run"
"""The file in them that a live run holds locked."""


class NoSpaceError(OSError):
    """A file system is full.

    Attributes
    ----------
    filename : str
        The path that was written.
    missing : int
        Bytes that were still to be written there, as far as they are known.
    """

    def __init__(self, cause: OSError, path: str, what: str, missing: int, advice: str) -> None:
        free = ""
        with contextlib.suppress(OSError):
            if os.path.dirname(path) and not path.startswith("/dev/"):
                free = f", where {format_size(free_space(os.path.dirname(path)))} is free"
        exactly = f" ({missing} bytes)" if missing >= 1024 else ""
        least = f"{format_size(missing)}{exactly} more was needed" if missing else "more was needed"
        why = os.strerror(cause.errno or 0)
        super().__init__(cause.errno, f"{why} while writing {what}: {least}{free}; {advice}", path)
        self.missing = missing


def write_pieces(fd: int, pieces: Sequence[memoryview], offset: int | None) -> None:
    """Write all pieces one after the other, at `offset` or (None) where the file stands."""
    rest = list(pieces)
    while rest:
        some = rest[:MOST_PIECES]
        written = os.writev(fd, some) if offset is None else os.pwritev(fd, some, offset)
        if offset is not None:
            offset += written
        done = 0
        while done < len(rest) and written >= len(rest[done]):
            written -= len(rest[done])
            done += 1
        del rest[:done]
        if written:
            rest[0] = rest[0][written:]


def read_exactly(fd: int, into: memoryview, offset: int, path: str) -> None:
    """Fill `into` from the file; OSError if it ends too early."""
    done = 0
    while done < len(into):
        try:
            count = os.preadv(fd, [into[done:]], offset + done)
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from error
        if count == 0:
            raise OSError(errno.EIO, "the file has become shorter", path)
        done += count


def punch_hole(fd: int, offset: int, length: int) -> None:
    """Give the blocks of a range back to the file system, where it can do that."""
    try:
        fallocate = ctypes.CDLL(None, use_errno=True).fallocate
    except (OSError, AttributeError):
        return
    fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length)


class Scratch:
    """The private directories of one run, made when first needed and removed at the end.

    A live run holds a lock on the file `RUN` in each, so that what a dead one left can be told from them. ``name`` is
    for a run that another one may go on with, which has to find them.
    """

    def __init__(self, directories: Sequence[str | os.PathLike[str]], expected: int, name: str | None = None) -> None:
        self._parents = [os.fspath(d) for d in directories]
        self._name = name
        self._made: list[str] = []
        self._opened: list[int] = []
        self._expected = expected
        self._lock = threading.Lock()
        self.written = 0
        self.held = 0
        self.peak = 0

    @property
    def name(self) -> str | None:
        """What a run that goes on finds the directories by."""
        return self._name

    @property
    def parents(self) -> list[str]:
        """The directories in which the private ones are made."""
        return self._parents

    def directory(self, index: int = 0) -> str:
        """A private directory; `index` spreads files over them."""
        with self._lock:
            for parent in self._parents[len(self._made) :]:
                # Noted before it is made: a signal between the two must not leave it behind.
                self._made.append(os.path.join(parent, PREFIX + (self._name or os.urandom(8).hex())))
                try:
                    self._make(self._made[-1])
                except OSError as error:
                    if isinstance(error, BusyError | ForeignError):
                        self._made.pop()
                        raise
                    raise OSError(error.errno, f"cannot make scratch files: {error.strerror}", parent) from error
            return self._made[index % len(self._made)]

    def _make(self, path: str) -> None:
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            if self._name is None:
                raise
            check_private(path)
        until = time.monotonic() + BUSY_SECONDS
        while (fd := lock(os.path.join(path, RUN))) is None:
            if time.monotonic() > until:
                raise BusyError(path)
            time.sleep(BUSY_SECONDS / 10)
        self._opened.append(fd)

    def path(self, name: str, index: int = 0) -> str:
        """Path of a scratch file."""
        return os.path.join(self.directory(index), name)

    def create(self, path: str) -> int:
        """Open a new scratch file for writing."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def replace(self, path: str) -> int:
        """Open a scratch file for writing that may be there from before; it is empty, and closed at the end."""
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(path, flags, 0o600)
        self._opened.append(fd)
        return fd

    def close(self, fd: int) -> None:
        """Close such a file before."""
        self._opened.remove(fd)
        os.close(fd)

    def open(self, path: str) -> int:
        """Open a scratch file that was made before."""
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)

    def write(self, fd: int, pieces: list[memoryview], offset: int, path: str) -> None:
        """Write pieces one after the other, counting; NoSpaceError when the file system is full."""
        size = sum(map(len, pieces))
        try:
            write_pieces(fd, pieces, offset)
        except OSError as error:
            if error.errno in NO_SPACE:
                missing = max(size, self._expected - self.written)
                advice = "free some space, or name other directories with --tmp (tmp=)"
                raise NoSpaceError(error, path, "scratch", missing, advice) from error
            raise OSError(error.errno, error.strerror, path) from error
        self.count(size)

    def sync(self) -> None:
        """The names of all files are on disk."""
        for directory in self._made:
            sync_directory(directory)
            sync_directory(os.path.dirname(directory))

    def count(self, size: int) -> None:
        """Count scratch that is held."""
        with self._lock:
            self.written += size
            self.held += size
            self.peak = max(self.peak, self.held)

    def consumed(self, size: int) -> None:
        """Count scratch that has been given back."""
        with self._lock:
            self.held -= size

    def delete(self, path: str) -> None:
        """Delete a file, which has been used."""
        os.unlink(path)

    def keep_only(self, wanted: Callable[[str], bool]) -> None:
        """Delete the files whose names are not wanted."""
        for index in range(len(self._parents)):
            directory = self.directory(index)
            for name in os.listdir(directory):
                if name != RUN and not wanted(name):
                    os.unlink(os.path.join(directory, name))

    def remove(self) -> None:
        """Remove everything."""
        for directory in self._made:
            shutil.rmtree(directory, ignore_errors=True)
        self.release()

    def release(self) -> None:
        """Leave everything for a run that goes on."""
        self._made.clear()
        while self._opened:
            os.close(self._opened.pop())


class BusyError(OSError):
    """Another run, which is alive, uses the directory."""

    def __init__(self, path: str) -> None:
        super().__init__(errno.EBUSY, "another run with this output is still at work here", path)


class ForeignError(OSError):
    """What is at the path is not a private directory of this user."""

    def __init__(self, path: str) -> None:
        super().__init__(errno.EPERM, "this is no private directory of yours, and is not used", path)


def check_private(path: str) -> None:
    """ForeignError unless the path is a directory, not a link, that nobody else can use."""
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise ForeignError(path)


def lock(path: str) -> int | None:
    """Open and lock a file, made if it is not there; None if a live process holds the lock."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        take_lock(fd, path)
    except BusyError:
        os.close(fd)
        return None
    return fd


def take_lock(fd: int, path: str) -> None:
    """Lock an open file until it is closed; BusyError if a live process has done so."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BusyError(path) from None
    except OSError:  # a file system without locks: nobody can hold one
        pass


def sync_directory(path: str) -> None:
    """The names of the files in a directory are on disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        os.close(fd)


def free_space(directory: str) -> int:
    """Bytes that this user can still write to the file system of a directory."""
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


def default_directory(directory: str | None) -> str:
    """TMPDIR if it is set, else the directory of the output: /tmp is often small or in memory."""
    if os.environ.get("TMPDIR"):
        return os.environ["TMPDIR"]
    if directory is None:
        import tempfile  # costs memory that most runs have better uses for

        return tempfile.gettempdir()
    return directory
