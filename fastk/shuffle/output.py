"""Where the records go: files that appear under their names when they are complete, streams, and remote objects."""

from __future__ import annotations

import bisect
import contextlib
import errno
import os
import re
import shutil
import stat
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from .codecs import Codec, strip_suffix
from .inputs import InputFormatError
from .options import MOST_SHARDS, STANDARD
from .places import RemoteWriter, is_url, local_path
from .scratch import NO_SPACE, RUN, NoSpaceError, check_private, lock, sync_directory, take_lock, write_pieces

if TYPE_CHECKING:
    from concurrent.futures import Future

STDOUT_FD = 1
PARTIAL = ".partial"
"""What the names of files end with that are not complete."""
MOST_NAME = 200
"""Bytes of the output's name in that of the file that is not complete."""


class Shards:
    """How many files the records are spread over, and which records begin one."""

    def __init__(self, count: int | None, records_per_shard: int | None) -> None:
        self.count = count
        self._records_per_shard = records_per_shard
        self._records = 0

    def plan(self, records: int) -> None:
        """The number of records is known."""
        self._records = records
        if self._records_per_shard is not None:
            self.count = max(1, -(-records // self._records_per_shard))
            if self.count > MOST_SHARDS:
                raise InputFormatError(
                    f"records_per_shard={self._records_per_shard}: {records} records would make {self.count} files; "
                    f"allowed are {MOST_SHARDS}"
                )

    def rank(self, shard: int) -> int:
        """Number of the first record of a shard."""
        if self._records_per_shard is not None:
            return shard * self._records_per_shard
        assert self.count is not None
        return shard * self._records // self.count


def shard_name(path: str, index: int, count: int) -> str:
    """Name of a shard: out-00000-of-00064.txt of out.txt; the suffix of a codec stays last."""
    stem, codec = strip_suffix(path)
    stem, extension = os.path.splitext(stem)
    return f"{stem}-{index:05d}-of-{count:05d}{extension}{codec}"


class LocalFiles:
    """Files on this machine, made under other names in the same directory and renamed at the end."""

    def __init__(self, name: str, sharded: bool) -> None:
        path = local_path(name)
        # Shards replace nothing that the name itself may be a link to.
        beside, base = os.path.split(path)
        self.target = os.path.join(os.path.realpath(beside), base) if sharded else os.path.realpath(path)
        self._sharded = sharded
        self.partial: str | None = None
        self._fds: dict[int, int] = {}
        self._locked: int | None = None
        self._kept = False
        beside = os.path.dirname(self.target)
        if os.path.isdir(self.target) or name.endswith("/"):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
        if not os.path.isdir(beside):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), beside)
        if not os.access(beside, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), beside)

    @property
    def directory(self) -> str:
        """Where the output will be."""
        return os.path.dirname(self.target)

    def open(self, directory: str | None, token: str | None, fresh: bool, complete: bool = False) -> None:
        """Make the file, or the directory for the shards; with a token, take over what is there under its name."""
        base = os.fsdecode(os.fsencode(os.path.basename(self.target))[:MOST_NAME])
        # a name of its own, so that two runs with one output do not write into each other's file
        path = os.path.join(directory or self.directory, f".{base}.{token or os.urandom(6).hex()}{PARTIAL}")
        self.partial = path  # noted before it is made: a signal between the two must not leave it behind
        self._kept = token is not None
        if self._kept and fresh:
            _remove(path)
        if complete and not os.path.lexists(path):
            return
        if self._sharded:
            try:
                os.mkdir(path, 0o700)
            except FileExistsError:
                if token is None:
                    raise
                check_private(path)
            self._locked = lock(os.path.join(path, RUN))
        else:
            take_lock(self.fd(0), path)

    def path(self, shard: int) -> str:
        """Path of a shard that is not complete."""
        assert self.partial is not None
        return os.path.join(self.partial, f"{shard:05d}") if self._sharded else self.partial

    def final(self, shard: int, count: int) -> str:
        """Its name when it is."""
        return shard_name(self.target, shard, count) if self._sharded else self.target

    def fd(self, shard: int) -> int:
        """The open file of a single output, and of the shard that is written in order."""
        fd = self._fds.get(shard)
        if fd is None:
            fd = self._fds[shard] = self._open(shard)
        return fd

    def _open(self, shard: int) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(self.path(shard), flags | (0 if self._kept or self._sharded else os.O_EXCL), 0o600)

    def sizes(self) -> dict[str, int]:
        """Bytes of the files so far."""
        assert self.partial is not None
        if not self._sharded:
            return {"": os.stat(self.partial).st_size}
        return {each.name: each.stat().st_size for each in os.scandir(self.partial) if each.name != RUN}

    def write_at(self, shard: int, data: memoryview, offset: int) -> None:
        """Write a piece where it belongs; any thread."""
        if not self._sharded:
            write_pieces(self._fds[0], [data], offset)
            return
        fd = self._open(shard)  # each time: there may be more shards than files that can be open
        try:
            write_pieces(fd, [data], offset)
        finally:
            os.close(fd)

    def append(self, shard: int, data: memoryview) -> None:
        """Write a piece at the end of a shard, which is never an earlier one than before."""
        for earlier in [each for each in self._fds if each < shard]:
            os.close(self._fds.pop(earlier))
        write_pieces(self.fd(shard), [data], None)

    def cut(self, shard: int, size: int) -> None:
        """Go on behind the first bytes of a shard."""
        os.ftruncate(self.fd(shard), size)
        os.lseek(self.fd(shard), size, os.SEEK_SET)

    def sync(self, shards: Iterable[int]) -> None:
        """What was written is on disk."""
        assert self.partial is not None
        sync_directory(self.directory)
        if self._sharded:
            sync_directory(self.partial)
        for shard in shards:
            fd = self._open(shard) if self._sharded else self._fds[0]
            try:
                os.fdatasync(fd)
            finally:
                if self._sharded:
                    os.close(fd)

    def complete(self, count: int, size: int | None, fsync: bool) -> None:
        """All is written: sizes, permissions and, if asked, the disk."""
        while self._sharded and self._fds:
            os.close(self._fds.popitem()[1])
        mode = 0o666 & ~_umask()
        for shard in range(count):
            fd = self._open(shard) if self._sharded else self._fds[0]
            try:
                if size is not None:
                    os.ftruncate(fd, size)
                os.fchmod(fd, mode)
                if fsync:
                    os.fsync(fd)
            finally:
                if self._sharded:
                    os.close(fd)
        if self._sharded:
            self._fds.clear()

    def commit(self, count: int, fsync: bool) -> None:
        """Give the files their names: all of them or, after an error, none."""
        self._close()
        saved: list[tuple[str, str, str | None]] = []
        try:
            for shard in range(count):
                self._rename(self.path(shard), self.final(shard, count), saved)
        except BaseException:
            for path, final, old in reversed(saved):
                os.replace(final, path)
                if old is not None:
                    os.replace(old, final)
            raise
        if self._sharded:
            shutil.rmtree(self.partial or "", ignore_errors=True)
        self.partial = None
        if fsync:
            sync_directory(self.directory)

    def _rename(self, path: str, final: str, saved: list[tuple[str, str, str | None]]) -> None:
        old = None
        if os.path.isdir(final):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), final)
        if self._kept and not os.path.lexists(path):
            return  # an earlier run got as far as this
        if self._sharded and os.path.lexists(final):
            old = f"{path}.old"
            with contextlib.suppress(FileNotFoundError):
                os.unlink(old)
            os.link(final, old, follow_symlinks=False)
        os.replace(path, final)
        saved.append((path, final, old))

    def paths(self, count: int) -> list[str]:
        """The files, while they are not complete."""
        return [self.path(shard) for shard in range(count)]

    def discard(self) -> None:
        """Remove what was written, unless it was committed."""
        self._close()
        if self.partial is not None:
            _remove(self.partial)
            self.partial = None

    def leave(self) -> None:
        """Leave it to a run that goes on."""
        self._close()
        self.partial = None

    def _close(self) -> None:
        fds = [*self._fds.values(), *([] if self._locked is None else [self._locked])]
        self._fds.clear()
        self._locked = None
        for fd in fds:
            os.close(fd)


class StreamFile:
    """Standard output, a pipe or a device: what is written cannot be taken back."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._fd = -1

    def open(self, directory: str | None, token: str | None, fresh: bool) -> None:
        if self._name == STANDARD:
            if sys.stdout is not None:
                sys.stdout.flush()
            self._fd = os.dup(STDOUT_FD)
        else:
            self._fd = os.open(self._name, os.O_WRONLY | os.O_CLOEXEC)

    def append(self, shard: int, data: memoryview) -> None:
        write_pieces(self._fd, [data], None)

    def commit(self, count: int, fsync: bool) -> None:
        fd, self._fd = self._fd, -1
        os.close(fd)

    def discard(self) -> None:
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                self.commit(1, False)


class RemoteFiles:
    """Objects at a URL."""

    def __init__(self, name: str, sharded: bool, shards: Shards) -> None:
        self._name = name
        self._sharded = sharded
        self._shards = shards
        self._writers: list[RemoteWriter] = []
        self.expected = 0
        trial = RemoteWriter(name)  # refuses now what cannot be written
        self.memory = trial.memory
        trial.discard()

    def open(self, directory: str | None, token: str | None, fresh: bool) -> None:
        pass

    def append(self, shard: int, data: memoryview) -> None:
        while len(self._writers) <= shard:
            index = len(self._writers)
            count = self._shards.count or 1
            name = shard_name(self._name, index, count) if self._sharded else self._name
            self._writers.append(RemoteWriter(name, self.expected))
        self._writers[shard].write(data)

    def commit(self, count: int, fsync: bool) -> None:
        self.append(count - 1, memoryview(b""))
        while self._writers:
            self._writers[0].commit()
            del self._writers[0]

    def discard(self) -> None:
        while self._writers:
            self._writers.pop().discard()


class Target(Protocol):
    """What the second pass writes to.

    ``ordered`` says that pieces have to come in order, ``sharded`` that it has to be told where shards begin.
    """

    ordered: bool
    sharded: bool

    def write(self, data: memoryview, offset: int) -> None:
        """Write a piece where it belongs."""

    def start_shards(self, rank: int, records: int, measure: Callable[[int], int]) -> None:
        """Note where shards begin among records `rank` and following; `measure` gives the offset of the i-th."""


class Output:
    """The output of a run.

    ``ordered`` says that pieces have to come in order: to a stream, a remote object or a compressed file. Else they
    can come from any thread, as soon as it is known where the shards begin that lie before them.
    """

    def __init__(
        self, name: str, codec: Codec | None = None, shards: int | None = None, records_per_shard: int | None = None
    ) -> None:
        self.name = name
        self.codec = codec
        self.shards = Shards(shards, records_per_shard)
        self.sharded = shards is not None or records_per_shard is not None
        self.expected = 0
        self.written = 0
        self.threads = 1
        self.local: LocalFiles | None = None
        self._starts = [0]
        self._touched: set[int] = set()
        self._counting = threading.Lock()
        self._frames: _Frames | None = None
        self._durable = 0
        self._stored = (0, 0)  # bytes of the last shard's file, and that shard
        self._files: LocalFiles | StreamFile | RemoteFiles
        if name != STANDARD and is_url(name):
            self._files = RemoteFiles(name, self.sharded, self.shards)
        elif name == STANDARD or _is_stream(local_path(name)):
            if self.sharded:
                raise ValueError(f"output={name!r}: shards need files")
            self._files = StreamFile(local_path(name) if name != STANDARD else name)
        else:
            self._files = self.local = LocalFiles(name, self.sharded)
        self.ordered = self.local is None or codec is not None

    @property
    def directory(self) -> str | None:
        """Where the output will be, if it is a file."""
        return None if self.local is None else self.local.directory

    def memory(self, threads: int) -> int:
        """Bytes that compression and remote writing take beside the buffers."""
        frames = 0 if self.codec is None else _Frames.memory(self.codec, threads)
        return frames + (self._files.memory if isinstance(self._files, RemoteFiles) else 0)

    def open(
        self, directory: str | None = None, token: str | None = None, fresh: bool = True, complete: bool = False
    ) -> None:
        """Start writing, in a directory of the same file system (None: where the output will be).

        A run that another one may go on with gives a token, and says whether it is to begin anew, or whether all was
        written and may have got its name.
        """
        if self.local is not None:
            self.local.open(directory, token, fresh, complete)
        else:
            self._files.open(directory, token, fresh)
        if self.codec is not None:
            self._frames = _Frames(self.codec, self.threads, self._append)
        if isinstance(self._files, RemoteFiles):
            self._files.expected = self.expected

    @property
    def file(self) -> tuple[int, str]:
        """The open file of an output that is one, and its path."""
        assert self.local is not None
        return self.local.fd(0), self.local.path(0)

    # ---- writing

    def start_shards(self, rank: int, records: int, measure: Callable[[int], int]) -> None:
        """Note where shards begin among records `rank` and following; `measure` gives the offset of the i-th."""
        count = self.shards.count or 1
        while (shard := len(self._starts)) < count and (first := self.shards.rank(shard)) < rank + records:
            self._starts.append(measure(first - rank))

    def write(self, data: memoryview, offset: int) -> None:
        """Write a piece; `offset` is where it belongs, and where it comes next if the output is written in order."""
        if offset + len(data) <= self._durable:
            return
        if offset < self._durable:
            data, offset = data[self._durable - offset :], self._durable
        size = len(data)
        try:
            for shard, piece, within in self._split(data, offset):
                if self._frames is not None:
                    self._frames.write(shard, piece)
                elif self.ordered:
                    self._files.append(shard, piece)
                else:
                    assert self.local is not None
                    self.local.write_at(shard, piece, within)
                    with self._counting:
                        self._touched.add(shard)
        except OSError as error:
            raise self._explained(error, size) from error
        with self._counting:
            self.written += size

    def _split(self, data: memoryview, offset: int) -> list[tuple[int, memoryview, int]]:
        """Shard, bytes and offset there of each part of a piece."""
        if not self.sharded:
            return [(0, data, offset)]
        parts = []
        while len(data):
            shard = bisect.bisect_right(self._starts, offset) - 1
            end = self._starts[shard + 1] if shard + 1 < len(self._starts) else offset + len(data)
            part = data[: end - offset]
            parts.append((shard, part, offset - self._starts[shard]))
            offset += len(part)
            data = data[len(part) :]
        return parts

    def _append(self, shard: int, data: memoryview) -> None:
        self._files.append(shard, data)

    def _explained(self, error: OSError, size: int) -> OSError:
        if isinstance(error, NoSpaceError) or (error.filename and error.errno not in NO_SPACE):
            return error
        if error.errno in NO_SPACE:
            missing = max(size, self.expected - self.written)
            return NoSpaceError(error, self.name, "the output", missing, "free some space there")
        return OSError(error.errno, error.strerror or str(error), self.name)

    # ---- going on where another run was

    def sync(self) -> None:
        """What was written is on disk."""
        try:
            self._sync()
        except OSError as error:
            raise self._explained(error, 0) from error

    def _sync(self) -> None:
        assert self.local is not None
        if self._frames is not None:
            before = self._stored[1]
            self._durable, *stored = self._frames.state()
            self._stored = (stored[0], stored[1])
            self.local.sync(range(before, self._stored[1] + 1))
        else:
            with self._counting:
                touched, self._touched = self._touched, set()
            self.local.sync(sorted(touched))

    def state(self) -> dict[str, Any]:
        """What is on disk since the last call of sync."""
        assert self.local is not None
        return {"starts": self._starts, "durable": self._durable, "stored": self._stored, "sizes": self.local.sizes()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on behind what was on disk then."""
        self._starts, self._durable = list(state["starts"]), state["durable"]
        self._stored = size, shard = tuple(state["stored"])
        assert self.local is not None
        now = self.local.sizes()
        for name, least in state["sizes"].items():
            if now.get(name, -1) < least:
                why = "what the earlier run wrote is missing or cut short; --clean begins anew"
                raise OSError(errno.EIO, why, self.local.partial)
        if self._frames is not None:
            self.local.cut(shard, size)
            self._frames.restore(self._durable, size, shard)
            self.written = self._durable

    @property
    def durable(self) -> int | None:
        """Bytes from the beginning that are on disk since the last call of sync; None where this does not tell."""
        return None if self._frames is None else self._durable

    # ---- the end

    def finish(self, fsync: bool) -> None:
        """All records are written."""
        try:
            if self._frames is not None:
                self._frames.finish(self.shards.count or 1)
            if self.local is not None:
                count = self.shards.count or 1
                size = self.written if self._frames is None and not self.sharded else None
                self.local.complete(count, size, fsync)
        except OSError as error:
            raise self._explained(error, 0) from error

    def commit(self, fsync: bool) -> None:
        """The output is complete: give it its name."""
        try:
            self._files.commit(self.shards.count or 1, fsync)
        except OSError as error:
            raise self._explained(error, 0) from error

    def discard(self) -> None:
        """Remove what was written, unless it was committed."""
        if self._frames is not None:
            self._frames.stop()
        self._files.discard()

    def leave(self) -> None:
        """Leave what was written to a run that goes on."""
        assert self.local is not None
        if self._frames is not None:
            self._frames.stop()
        self.local.leave()

    def identities(self) -> list[list[int]]:
        """What tells the complete files from others; a rename leaves it as it is."""
        return [_identity(path) for path in self.paths()]

    def check_identities(self, identities: list[list[int]]) -> None:
        """OSError unless the files that an earlier run completed are there, with or without their names."""
        assert self.local is not None
        count = self.shards.count or 1
        for shard, (path, identity) in enumerate(zip(self.paths(), identities, strict=True)):
            final = self.local.final(shard, count)
            if not any(os.path.lexists(each) and _identity(each) == identity for each in (path, final)):
                why = "what the earlier run wrote is missing or was changed; --clean begins anew"
                raise OSError(errno.EIO, why, final)

    def paths(self) -> list[str]:
        """The files, while they have not got their names."""
        assert self.local is not None
        return self.local.paths(self.shards.count or 1)

    def names(self) -> list[str]:
        """The names that the files have in the end."""
        if not self.sharded:
            return [self.name]
        count = self.shards.count or 1
        return [shard_name(self.name, shard, count) for shard in range(count)]


class _Frames:
    """Compresses in frames of a fixed number of bytes, on several threads, and writes them in order.

    Where frames end depends on the bytes of a shard alone, so the file has the same bytes whatever it is made with.
    """

    def __init__(self, codec: Codec, threads: int, append: Callable[[int, memoryview], None]) -> None:
        from concurrent.futures import ThreadPoolExecutor  # costs memory that most runs have better uses for

        self._codec = codec
        self._append = append
        self._most = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="fastk-compress")
        self._waiting: deque[tuple[int, memoryview, Future[bytes]]] = deque()
        self._free = [memoryview(bytearray(codec.frame)) for _ in range(threads + 1)]
        self._frame, self._filled = memoryview(bytearray(codec.frame)), 0
        self._shard = 0
        self._begun = False
        self._written = (0, 0, 0)

    @staticmethod
    def memory(codec: Codec, threads: int) -> int:
        """Bytes that it takes at most."""
        return (threads + 2) * codec.frame + threads * codec.encoder_memory

    def write(self, shard: int, data: memoryview) -> None:
        """Go on with bytes of a shard."""
        self._move_to(shard)
        while len(data):
            count = min(len(data), len(self._frame) - self._filled)
            self._frame[self._filled : self._filled + count] = data[:count]
            self._filled += count
            data = data[count:]
            if self._filled == len(self._frame):
                self._submit()

    def _move_to(self, shard: int) -> None:
        while self._shard < shard:
            self._end_shard()
            self._shard += 1

    def _end_shard(self) -> None:
        if self._filled or not self._begun:
            self._submit()  # an empty file has an empty frame
        self._begun = False

    def _submit(self) -> None:
        piece = self._frame[: self._filled]
        self._waiting.append((self._shard, piece, self._pool.submit(self._codec.compress, piece)))
        self._filled, self._begun = 0, True
        while len(self._waiting) > self._most:
            self._write_one()
        self._frame = self._free.pop()

    def _write_one(self) -> None:
        shard, piece, future = self._waiting.popleft()
        data = future.result()
        self._append(shard, memoryview(data))
        position, stored, last = self._written
        self._written = (position + len(piece), (stored if shard == last else 0) + len(data), shard)
        assert isinstance(piece.obj, bytearray)
        self._free.append(memoryview(piece.obj))

    def state(self) -> tuple[int, int, int]:
        """Bytes of the output that are in frames written so far, bytes of the last shard's file, and that shard."""
        return self._written

    def restore(self, position: int, size: int, shard: int) -> None:
        """Go on behind so many frames."""
        self._written = (position, size, shard)
        self._shard, self._begun = shard, size > 0

    def finish(self, shards: int) -> None:
        """Write everything, and empty shards too."""
        self._move_to(shards - 1)
        self._end_shard()
        while self._waiting:
            self._write_one()
        self._pool.shutdown()
        self._free.clear()
        self._frame = memoryview(b"")

    def stop(self) -> None:
        """Drop what is not written."""
        self._waiting.clear()
        self._pool.shutdown(cancel_futures=True)


def _identity(path: str) -> list[int]:
    status = os.lstat(path)
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns]


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _is_stream(path: str) -> bool:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return False
    return not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode)


def _umask() -> int:
    """The umask, which only setting it tells where /proc does not."""
    with contextlib.suppress(OSError), open("/proc/self/status") as file:
        if match := re.search(r"^Umask:\s*([0-7]+)", file.read(), re.MULTILINE):
            return int(match[1], 8)
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
