"""Files elsewhere: inputs and outputs that are URLs, through fsspec, which is imported when the first one is used."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

MIB = 1 << 20

READ_BYTES = 1 * MIB
"""Bytes of one call at most."""
READ_AHEAD = 4 * MIB
"""Bytes of one request, where a file is not one stream."""
PART = 8 * MIB
"""Bytes of a part of an upload, and the least a part can grow by."""
MOST_PARTS = 9_000
"""Parts of an upload; object stores allow 10,000."""
STREAM_MEMORY, READER_MEMORY = 6 * MIB, 24 * MIB
"""What reading was seen to take, rounded up: one stream, and requests of READ_AHEAD bytes."""
PARTS_IN_MEMORY, WRITER_MEMORY = 4, 8 * MIB
"""What writing was seen to take, rounded up: so many parts, and more."""
HTTP_SILENCE_SECONDS = 300
"""How long a server may send nothing."""

HTTP = ("http", "https")
UNSEEN_UNTIL_COMMIT = ("s3", "s3a", "gs", "gcs")
"""Schemes whose unfinished uploads are not seen under the name, nor cover what is there."""

IDENTITY = (
    "size", "etag", "versionid", "version_id", "generation", "md5hash", "content_md5", "content-md5", "digest",
    "crc32c", "last-modified", "last_modified", "lastmodified", "mtime", "modified", "updated", "created", "uid", "ino",
)  # fmt: skip
"""Fields of what file systems tell about a file that change with it, and not otherwise."""

ERRORS = (
    (FileNotFoundError, errno.ENOENT), (PermissionError, errno.EACCES), (FileExistsError, errno.EEXIST),
    (IsADirectoryError, errno.EISDIR), (NotADirectoryError, errno.ENOTDIR), (TimeoutError, errno.ETIMEDOUT),
)  # fmt: skip
HTTP_ERRORS = {401: errno.EACCES, 403: errno.EACCES, 404: errno.ENOENT, 410: errno.ENOENT}


def is_url(path: str) -> bool:
    """Whether a path is ``scheme://...``, of any scheme but file."""
    match = re.match(r"([a-zA-Z][a-zA-Z0-9+.-]*)://", path)
    return match is not None and match[1].lower() != "file"


def local_path(path: str) -> str:
    """The path that a ``file://`` URL means; anything else is a path already."""
    if not path.lower().startswith("file://"):
        return path
    host, slash, rest = path[len("file://") :].partition("/")
    if not slash or host not in ("", "localhost"):
        raise ValueError(f"{path!r}: a file URL is file:///followed/by/a/path")
    return "/" + unquote(rest)


@contextlib.contextmanager
def _errors(url: str) -> Iterator[None]:
    """Whatever a file system raises becomes an OSError about the URL."""
    try:
        yield
    except MemoryError:
        raise
    except ImportError as error:
        raise OSError(errno.EOPNOTSUPP, f"{error} (pip install {_package(url)})", url) from error
    except Exception as error:
        raise OSError(*_reason(error), url) from error


def _reason(error: BaseException) -> tuple[int, str]:
    """Error number and message for an exception of a file system."""
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and error.errno is None and cause is not None:
        return _reason(cause)  # whatever went wrong with HTTP
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return HTTP_ERRORS.get(status, errno.EIO), f"HTTP status {status} {getattr(error, 'message', '')}".rstrip()
    if not isinstance(error, OSError):
        return errno.EIO, f"{type(error).__name__}: {error}"
    number = error.errno or next((number for kind, number in ERRORS if isinstance(error, kind)), errno.EIO)
    if error.errno is None and number == errno.ENOENT:  # its text is the path
        return number, os.strerror(number)
    return number, error.strerror or str(error) or type(error).__name__


def _package(url: str) -> str:
    known = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
    package = known.get(_scheme(url))
    return "'fastk-kernels[io]'" + (f" {package}" if package else "")


def _scheme(url: str) -> str:
    return url.partition("://")[0].lower()


def _file_system(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path there."""
    with _errors(url):
        try:
            import fsspec
        except ImportError as error:
            message = f"URLs need the package fsspec ({error}): pip install 'fastk-kernels[io]'"
            raise OSError(errno.EOPNOTSUPP, message) from error
        if _scheme(url) not in fsspec.available_protocols():
            raise OSError(errno.EOPNOTSUPP, f"fsspec knows no file system for {_scheme(url)}://")
        system, path = fsspec.url_to_fs(url)
        return system, path


def real_place(path: str) -> str:
    """What tells whether two paths or URLs are one place."""
    return path if is_url(path) else os.path.realpath(local_path(path))


class RemoteFile:
    """Reads a file from its beginning to its end."""

    def __init__(self, file: Any, url: str, size: int | None) -> None:
        self._file = file
        self._url = url
        self._size = size
        self._done = 0

    def readinto(self, view: memoryview) -> int:
        """Write the next bytes to the beginning of the view; returns how many, 0 at the end."""
        if not len(view):
            return 0
        with _errors(self._url):
            data: bytes = self._file.read(min(len(view), READ_BYTES))
            self._done += len(data)
            if not data and self._size is not None and self._done != self._size:
                raise OSError(errno.EIO, f"it ended after {self._done} of {self._size} bytes")
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close the connection."""
        with _errors(self._url):
            self._file.close()


class Remote:
    """An input that is a URL.

    Attributes
    ----------
    url : str
    size : int or None
        Bytes; None if the server does not say.
    identity : tuple
        What changes with the file: its size, and what the file system tells of time, version and checksum.
    memory : int
        Bytes that an open file takes at most.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.memory = STREAM_MEMORY if _scheme(url) in HTTP else READER_MEMORY
        self._system, self._path = _file_system(url)
        info = self._info()
        if info.get("type") == "directory":
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), url)
        size = info.get("size")
        self.size = None if size is None else int(size)
        self.identity = _identity(info)

    def _info(self) -> Mapping[str, Any]:
        with _errors(self.url):
            self._system.invalidate_cache(self._path)
            info: Mapping[str, Any] = self._system.info(self._path)
            return info

    def open(self) -> RemoteFile:
        """Read it from its beginning."""
        with _errors(self.url):
            if _scheme(self.url) in HTTP:
                file = self._open_http()
            else:
                file = self._system.open(self._path, "rb", block_size=READ_AHEAD, cache_type="readahead")
        return RemoteFile(file, self.url, self.size)

    def _open_http(self) -> Any:
        """One request for the whole file, however long it takes, and for its bytes as they are stored."""
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_read=HTTP_SILENCE_SECONDS)
        headers = {**self._system.kwargs.get("headers", {}), "Accept-Encoding": "identity"}
        # Any `size` will do: it keeps fsspec from asking again.
        return self._system.open(
            self._path, "rb", block_size=0, size=-1, headers=headers, timeout=timeout, auto_decompress=False
        )

    def check(self) -> None:
        """OSError unless it is what it was at the start."""
        if _identity(self._info()) != self.identity:
            raise OSError(errno.EIO, "the input changed while it was shuffled; nothing was written", self.url)


def _identity(info: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    fields = {str(name).lower(): str(value) for name, value in info.items() if value is not None}
    return tuple((name, fields[name]) for name in IDENTITY if name in fields)


class RemoteWriter:
    """An output that is a URL: nothing is seen under its name, and what is there stays, until it is committed.

    Object stores show an upload when it is complete. Elsewhere it is written beside its place, under another name, and
    moved.

    Attributes
    ----------
    url : str
    written : int
        Bytes so far.
    memory : int
        Bytes that writing takes at most. Parts are larger if so many bytes are `expected` that there would be too many.
    """

    def __init__(self, url: str, expected: int = 0) -> None:
        self.url = url
        self.written = 0
        self._part = PART * max(1, -(-expected // (PART * MOST_PARTS)))
        self.memory = PARTS_IN_MEMORY * self._part + WRITER_MEMORY
        if _scheme(url) in HTTP:
            raise OSError(errno.EROFS, "the output cannot be written through HTTP", url)
        self._system, self._path = _file_system(url)
        directory, slash, base = self._path.rpartition("/")
        if url.endswith("/") or not base:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), url)
        self._unseen = _scheme(url) in UNSEEN_UNTIL_COMMIT
        self._at = self._path if self._unseen else f"{directory}{slash}.{base[:200]}.{os.urandom(6).hex()}.partial"
        self._file: Any = None
        with _errors(url):
            try:
                options = {"autocommit": False} if self._unseen else {}
                self._file = self._system.open(self._at, "wb", block_size=self._part, **options)
            except (NotImplementedError, ValueError) as error:
                message = f"the output cannot be written: {_scheme(url)}:// can only be read"
                raise OSError(errno.EROFS, message) from error

    def write(self, data: memoryview) -> None:
        """Write the next bytes; the memory can be used again at once."""
        with _errors(self.url):
            for begin in range(0, len(data), READ_BYTES):
                piece = bytes(data[begin : begin + READ_BYTES])
                self._file.write(piece)
                self.written += len(piece)

    def commit(self) -> None:
        """The output is complete: give it its name."""
        with _errors(self.url):
            self._file.close()
            if self._unseen:
                self._file.commit()
            else:
                self._system.invalidate_cache(self._at)
                size = self._system.info(self._at).get("size")
                if size is not None and size != self.written:
                    raise OSError(errno.EIO, f"{size} of {self.written} bytes have arrived")
                self._system.mv(self._at, self._path)
            self._file = None

    def discard(self) -> None:
        """Remove what was written, unless it was committed."""
        file, self._file = self._file, None
        if file is None:
            return
        with contextlib.suppress(Exception):
            file.close()
        with contextlib.suppress(Exception):
            if self._unseen:
                file.discard()
            else:
                self._system.rm_file(self._at)
