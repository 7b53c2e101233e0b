"""The inputs as bytes: where each lies, how it is opened again, and whether it is still what it was."""

from __future__ import annotations

import errno
import os
import select
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from .codecs import Codec, Decoder, codec_of
from .options import STANDARD
from .places import Remote, is_url, local_path

STDIN_FD = 0
WAIT_MILLISECONDS = 50
SAMPLES = 16
SAMPLE_BYTES = 64 * 1024
SKIP_BYTES = 1 << 20
MOST_DECODER = 132 << 20
"""Memory for decompressing what was made with the largest windows that the usual tools take without being asked."""
DECODER_SHARE = 8
"""The part of all memory, one in so many, that goes to it if that is more than usual files need."""

Check = Callable[[], None]


class InputChangedError(OSError):
    """An input was not the same file, or not of the same size or time, when it was read again."""

    def __init__(self, path: str) -> None:
        super().__init__(errno.EIO, "the input changed while it was shuffled; nothing was written", path)


class InputFormatError(ValueError):
    """An input cannot be cut into whole records as was asked."""


class Reader(Protocol):
    """Bytes that come one after the other."""

    def readinto(self, view: memoryview, /) -> int:
        """Fill the view as far as that goes at once; the number of bytes, 0 at the end."""

    def close(self) -> None:
        """Close what is open."""


class FileReader:
    """Reads an open file; one that is no regular file is waited for, so that the run can be interrupted meanwhile."""

    def __init__(self, fd: int, path: str, regular: bool, check: Check) -> None:
        self.fd = fd
        self._path = path
        self._regular = regular
        self._check = check

    def readinto(self, view: memoryview, /) -> int:
        while True:
            try:
                if not self._regular:
                    self._wait()
                return os.readv(self.fd, [view])
            except BlockingIOError:
                continue
            except OSError as error:
                raise OSError(error.errno, error.strerror, self._path) from error

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        while not poll.poll(WAIT_MILLISECONDS):
            self._check()

    def close(self) -> None:
        os.close(self.fd)


class DecodingReader:
    """Decompresses what another reader reads."""

    def __init__(self, raw: Reader, codec: Codec, path: str, limit: int | None) -> None:
        self._raw = raw
        self._decoder: Decoder = codec.decoder(raw.readinto, path, limit)

    def readinto(self, view: memoryview, /) -> int:
        return self._decoder.readinto(view)

    def close(self) -> None:
        self._raw.close()


def skip(reader: Reader, count: int, path: str) -> None:
    """Read on over so many bytes."""
    buffer = memoryview(bytearray(min(count, SKIP_BYTES)))
    while count:
        done = reader.readinto(buffer[:count])
        if done == 0:
            raise InputChangedError(path)
        count -= done


@dataclass(frozen=True)
class _Identity:
    device: int
    inode: int
    size: int
    modified: int

    @classmethod
    def of(cls, status: os.stat_result) -> _Identity:
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


@dataclass(frozen=True)
class Sample:
    """Bytes looked at, delimiters among them, and about how many bytes there are as they are read."""

    size: int
    found: int
    estimate: int | None


class Input:
    """One input, checked before anything is written.

    Attributes
    ----------
    path : str
    codec : Codec or None
        What it is compressed with.
    stored : int or None
        Its bytes as they are stored.
    seekable : bool
        Whether it can be read from anywhere.
    rereadable : bool
        Whether it can be read from the start again.
    limit : int or None
        Memory that decompressing it may take.
    """

    def __init__(self, path: str, codec: Codec | None) -> None:
        self.path = path
        self.codec = codec
        self.limit: int | None = None
        self.remote: Remote | None = None
        self.identity: object = None
        self._regular = False
        if path != STANDARD and is_url(path):
            self.remote = Remote(path)
            self.stored = self.remote.size
            self.identity = self.remote.identity
            self.rereadable, self.seekable = True, False
        else:
            status = os.fstat(STDIN_FD) if path == STANDARD else self._probe(path)
            self._regular = stat.S_ISREG(status.st_mode)
            self.identity = _Identity.of(status)
            begin = os.lseek(STDIN_FD, 0, os.SEEK_CUR) if path == STANDARD and self._regular else 0
            self.stored = max(0, status.st_size - begin) if self._regular else None
            self.rereadable = self._regular and path != STANDARD
            self.seekable = self.rereadable and self.codec is None

    @staticmethod
    def _probe(path: str) -> os.stat_result:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if stat.S_ISREG(status.st_mode):
            os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        elif not os.access(path, os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return status

    @property
    def size(self) -> int | None:
        """Bytes as they are read; None if that is not known."""
        return self.stored if self.codec is None else None

    def open(self, at: int = 0, check: Check = lambda: None) -> Reader:
        """Read from byte `at` on; it must still be the input that was checked."""
        reader = self._open_raw(at if self.seekable else 0, check)
        try:
            if self.codec is not None:
                reader = DecodingReader(reader, self.codec, self.path, self.limit)
            if at and not self.seekable:
                skip(reader, at, self.path)
        except BaseException:
            reader.close()
            raise
        return reader

    def _open_raw(self, at: int, check: Check) -> Reader:
        if self.remote is not None:
            self.remote.check()
            return self.remote.open()
        if self.path == STANDARD:
            return FileReader(os.dup(STDIN_FD), self.path, self._regular, check)
        # Without blocking, because a named pipe may have no writer yet; the reader waits for it.
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self._same(os.fstat(fd))
            if at:
                os.lseek(fd, at, os.SEEK_SET)
        except BaseException:
            os.close(fd)
            raise
        return FileReader(fd, self.path, self._regular, check)

    def _same(self, status: os.stat_result) -> None:
        if self.rereadable and _Identity.of(status) != self.identity:
            raise InputChangedError(self.path)

    def unchanged(self) -> None:
        """InputChangedError unless it is what it was at the start."""
        if self.remote is not None:
            self.remote.check()
        elif self.rereadable:
            try:
                self._same(os.stat(self.path))
            except FileNotFoundError:
                raise InputChangedError(self.path) from None

    def sample(self, delimiter: bytes, pieces: int) -> Sample:
        """Look at so many pieces of it."""
        if not self.rereadable or self.remote is not None or not self.stored:
            return Sample(0, 0, self.size)
        sampled = found = read = 0
        at = {0}
        if self.seekable and self.stored > SAMPLE_BYTES:
            at = {self.stored * i // pieces for i in range(pieces)}
        for each in sorted(at):
            piece, used = self._piece(each, SAMPLE_BYTES * (1 if self.seekable else pieces))
            sampled, found, read = sampled + len(piece), found + piece.count(delimiter), used
        estimate = self.stored if self.codec is None else int(self.stored * (sampled / max(read, 1)))
        return Sample(sampled, found, estimate)

    def _piece(self, at: int, most: int) -> tuple[bytes, int]:
        """Up to so many bytes from `at` on, and how many stored ones were read for them."""
        data, filled = bytearray(most), 0
        raw = self._open_raw(at if self.seekable else 0, lambda: None)
        reader = raw if self.codec is None else DecodingReader(raw, self.codec, self.path, self.limit)
        try:
            while filled < most and (count := reader.readinto(memoryview(data)[filled:])):
                filled += count
            assert isinstance(raw, FileReader)
            used = os.lseek(raw.fd, 0, os.SEEK_CUR)
        finally:
            reader.close()
        return bytes(data[:filled]), used


class Inputs:
    """All inputs, in the order given."""

    def __init__(
        self,
        paths: Sequence[str],
        mem: int,
        delimiter: bytes = b"\n",
        lines: int = 1,
        codec: Codec | None = None,
        named: bool = True,
    ) -> None:
        """With `named` False, they are the local files of one output: all with the given codec, and with one header."""
        self.headed = named
        if named:
            self.all = [Input(path if path == STANDARD else local_path(path), codec_of(path)) for path in paths]
        else:
            self.all = [Input(path, codec) for path in paths]
        for each in self.all:
            if each.codec is not None:
                each.limit = max(each.codec.decoder_memory, min(MOST_DECODER, mem // DECODER_SHARE))
        self.seekable = all(each.seekable for each in self.all)
        self.rereadable = all(each.rereadable for each in self.all)
        pieces = max(1, SAMPLES // len(self.all))
        samples = [each.sample(delimiter, pieces) for each in self.all] if named else []
        found = sum(each.found for each in samples) / lines
        self.mean_record = max(1.0, sum(each.size for each in samples) / max(found, 1))
        """Estimate of the mean size of records, from samples spread over the inputs. It affects speed alone."""
        guesses = [each.estimate for each in samples if each.estimate is not None]
        self.estimate = sum(guesses) if len(guesses) == len(samples) else None
        """About how many bytes they are together; None if nobody knows."""

    def __len__(self) -> int:
        return len(self.all)

    def __getitem__(self, index: int) -> Input:
        return self.all[index]

    def __iter__(self) -> Iterator[Input]:
        return iter(self.all)

    @property
    def local(self) -> bool:
        """Whether all are regular files of this machine, which have a name."""
        return all(each.rereadable and each.remote is None for each in self.all)

    @property
    def total(self) -> int | None:
        """Bytes of all inputs; None if one of them does not say."""
        sizes = [each.size for each in self.all if each.size is not None]
        return sum(sizes) if len(sizes) == len(self.all) else None

    @property
    def memory(self) -> int:
        """Bytes that reading takes beside the buffers."""
        return max((each.limit or 0) + (0 if each.remote is None else each.remote.memory) for each in self.all)

    @property
    def identities(self) -> list[object]:
        """What tells the inputs from others, or from themselves after a change."""
        return [[each.path, repr(each.identity)] for each in self.all]
