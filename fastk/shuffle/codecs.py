"""Compressed files: decoders that take bounded memory whatever they are fed, and encoders of independent frames.

A compressed file is any number of members (gzip), frames (zstd) or streams (xz, bzip2), one after the other; what they
hold is one stream of bytes.
"""

from __future__ import annotations

import bz2
import errno
import lzma
import threading
import zlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol
from urllib.parse import urlsplit

MIB = 1 << 20

XZ_FRAME = 4 * MIB
"""Uncompressed bytes of each frame of an output."""

GZ_LEVEL, ZST_LEVEL, XZ_PRESET, BZ2_LEVEL = 6, 3, 6, 9
"""What the tools of these names use when nothing is asked for."""
SCRATCH_LEVEL = 1

INPUT_BYTES = 64 * 1024
"""Compressed bytes that are read at a time."""
PIECE_BYTES = 256 * 1024
"""Bytes that a library may give at a time: what bounds a small file that holds a lot."""
OVERHEAD = 1 * MIB
"""What a decoder takes beside a window or dictionary: those pieces, the library's tables, its own block."""

ZSTD_MAGIC = 0xFD2FB528
SKIPPABLE_MAGIC = 0x184D2A50
"""Sixteen of them: the lowest four bits are free."""
ZSTD_WINDOWS = (1 << 10, 1 << 31)
"""Windows that libzstd knows on a machine of 64 bits."""
RLE_BLOCK = 1
XZ_PADDING = 4

Bytes = bytes | bytearray | memoryview
Read = Callable[[memoryview], int]
"""Fills a part of the view, from its beginning; returns how many bytes, 0 at the end."""


class Decoder(Protocol):
    """Decompresses what a function reads; one thread at a time."""

    def readinto(self, view: memoryview, /) -> int:
        """Write the next bytes to the beginning of the view; returns how many, 0 at the end.

        Raises
        ------
        OSError
            If the data is damaged or ends too early, if something else follows it, or if it needs more memory than the
            decoder may take. Bytes that were given before can be from the damaged part.
        """


class _Stored:
    """The file as it is stored, and what can be wrong with it."""

    def __init__(self, read: Read, path: str, limit: int) -> None:
        self._read = read
        self._path = path
        self._limit = limit
        self._buffer = memoryview(bytearray(INPUT_BYTES))

    def read(self) -> bytes:
        """Its next bytes; empty at the end."""
        return bytes(self._buffer[: self._read(self._buffer)])

    def _fail(self, message: str, cause: Exception | None = None) -> NoReturn:
        raise OSError(errno.EIO, message, self._path) from cause

    def truncated(self) -> NoReturn:
        """It ends where it should go on."""
        self._fail("the compressed data ends too early: the file is not complete")

    def damaged(self, cause: Exception) -> NoReturn:
        """The library refuses it."""
        self._fail(f"the compressed data is damaged ({cause})", cause)

    def foreign(self, name: str, first: bool) -> NoReturn:
        """Nothing of that kind begins where it should."""
        self._fail(f"this is not {name} data" if first else f"damaged, or something that is not {name} data follows it")

    def too_large(self, what: str, cause: Exception | None = None) -> NoReturn:
        """It needs more memory than allowed."""
        allowed = f"{self._limit / MIB:.3g} MiB"
        self._fail(f"decompressing it needs {what}; {allowed} can be spared, so a larger --mem is needed", cause)


class _Member(Protocol):
    """What decompresses one member: as bz2 and lzma have it."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _GzipMember:
    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(zlib.MAX_WBITS + 16)

    @property
    def eof(self) -> bool:
        return self._inflate.eof

    @property
    def needs_input(self) -> bool:
        return not self._inflate.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inflate.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inflate.decompress(self._inflate.unconsumed_tail or data, max_length)


@dataclass(frozen=True)
class _Format:
    """How a member begins, and the unit of the zeros that may follow it (0: none may)."""

    name: str
    magic: bytes
    padding: int
    member: Callable[[int], _Member]


_GZ = _Format("gzip", b"\x1f\x8b", 1, lambda limit: _GzipMember())
_BZ2 = _Format("bzip2", b"BZh", 0, lambda limit: bz2.BZ2Decompressor())
_XZ = _Format(
    "xz", b"\xfd7zXZ\0", XZ_PADDING,
    lambda limit: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=max(1, limit - OVERHEAD)),
)  # fmt: skip


class _MemberDecoder:
    """gzip, bzip2 and xz: the library gives a piece at a time, and stops at the end of each member."""

    def __init__(self, form: _Format, read: Read, path: str, limit: int) -> None:
        self._stored = _Stored(read, path, limit)
        self._format = form
        self._limit = limit
        self._first = True
        self._finished = False
        self._member: _Member | None = None
        self._rest = b""
        self._ready = memoryview(b"")

    def readinto(self, view: memoryview, /) -> int:
        while len(view) and not self._ready and not self._finished:
            self._ready = memoryview(self._decompress())
        count = min(len(view), len(self._ready))
        view[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def _decompress(self) -> bytes:
        """The next piece; it can be empty before the end."""
        if self._member is None and not self._begin():
            self._finished = True
            return b""
        assert self._member is not None
        data = b""
        if self._member.needs_input:
            data, self._rest = self._rest or self._stored.read(), b""
            if not data:
                self._stored.truncated()
        try:
            piece = self._member.decompress(data, PIECE_BYTES)
        except (zlib.error, lzma.LZMAError, OSError, ValueError, EOFError) as error:
            if isinstance(error, lzma.LZMAError) and "limit" in str(error):  # liblzma does not say how much it needs
                self._stored.too_large("more memory than usual", error)
            self._stored.damaged(error)
        if self._member.eof:
            self._rest, self._member = self._member.unused_data, None
        return piece

    def _begin(self) -> bool:
        """Begin the next member; False at the end of the file."""
        data = self._rest or self._stored.read()
        if not self._first and self._format.padding:
            data = self._skip_zeros(data)
        if not data:
            return False
        magic = self._format.magic
        while len(data) < len(magic) and magic.startswith(data):
            if not (more := self._stored.read()):
                self._stored.truncated()
            data += more
        if not data.startswith(magic):
            self._stored.foreign(self._format.name, self._first)
        self._first = False
        self._rest = data
        self._member = self._format.member(self._limit)
        return True

    def _skip_zeros(self, data: bytes) -> bytes:
        zeros = 0
        while data:
            rest = data.lstrip(b"\0")
            zeros += len(data) - len(rest)
            data = rest or self._stored.read()
            if rest:
                break
        if zeros % self._format.padding:
            self._stored.foreign(self._format.name, first=False)
        return data


class _Frames:
    """What a zstd decoder reads from: it passes the file on, and follows how frames and blocks lie in it.

    libzstd does not tell the end of a frame from a file that ends within one, nor how large a window it refused.
    """

    def __init__(self, stored: _Stored, window: int) -> None:
        self._stored = stored
        self._held = b""
        self._walk = _structure(stored, window)
        self._skip, self._wanted, self._between = next(self._walk)

    def read(self, size: int) -> bytes:
        """Next bytes of the file, as libzstd will see them."""
        data = self._stored.read()
        if data:
            self._follow(data)
        elif self._skip or self._held or not self._between:
            self._stored.truncated()
        return data

    def _follow(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            step = min(self._skip, len(data) - at)
            self._skip -= step
            at += step
            more = data[at : at + self._wanted - len(self._held)]
            self._held += more
            at += len(more)
            if len(self._held) == self._wanted:
                held, self._held = self._held, b""
                self._skip, self._wanted, self._between = self._walk.send(held)


_Walk = Generator[tuple[int, int, bool], bytes, int]
"""Asks for the pieces that say where the next one is: (bytes to skip before it, its bytes, whether a frame begins)."""


def _structure(stored: _Stored, window: int) -> _Walk:
    """Walk over the frames of a file (RFC 8878)."""
    first, skip = True, 0
    while True:
        magic = _number((yield skip, 4, True))
        if magic & ~15 == SKIPPABLE_MAGIC:
            skip = _number((yield 0, 4, False))
        elif magic == ZSTD_MAGIC:
            skip = yield from _frame(stored, window)
        else:
            stored.foreign("zstd", first)
        first = False


def _frame(stored: _Stored, largest: int) -> _Walk:
    (descriptor,) = yield 0, 1, False
    single, checksum = descriptor >> 5 & 1, descriptor >> 2 & 1
    id_bytes = (0, 1, 2, 4)[descriptor & 3]
    size_bytes = (single, 2, 4, 8)[descriptor >> 6]
    header = yield 0, 1 - single + id_bytes + size_bytes, False
    if single:  # the whole content is the window
        window = _number(header[id_bytes:]) + (256 if size_bytes == 2 else 0)
    else:
        window = (8 + (header[0] & 7)) << (header[0] >> 3) + 7
    if window > largest:
        stored.too_large(f"a window of {-(-window // MIB)} MiB")
    skip = last = 0
    while not last:
        block = _number((yield skip, 3, False))
        last, kind, size = block & 1, block >> 1 & 3, block >> 3
        skip = 1 if kind == RLE_BLOCK else size
    return skip + 4 * checksum


def _number(data: bytes) -> int:
    return int.from_bytes(data, "little")


class _ZstdDecoder:
    def __init__(self, read: Read, path: str, limit: int) -> None:
        self._stored = _Stored(read, path, limit)
        self._library = _zstandard(path)
        window = max(ZSTD_WINDOWS[0], min(ZSTD_WINDOWS[1], limit - OVERHEAD))
        frames = _Frames(self._stored, window)
        context = self._library.ZstdDecompressor(max_window_size=window)
        self._stream = context.stream_reader(frames, read_size=INPUT_BYTES, read_across_frames=True)

    def readinto(self, view: memoryview, /) -> int:
        if not len(view):
            return 0
        try:
            return int(self._stream.readinto(view))
        except self._library.ZstdError as error:
            self._stored.damaged(error)


def _zstandard(path: str | None) -> Any:
    """The module zstandard."""
    try:
        import zstandard
    except ImportError as error:
        message = f"zstd needs the package zstandard ({error}): pip install 'fastk-kernels[io]'"
        raise OSError(errno.EOPNOTSUPP, message, path) from error
    return zstandard


class _Contexts(threading.local):
    """zstd's compressors and decompressors, which serve one thread at a time."""

    def __init__(self) -> None:
        self._compressors: dict[int, Any] = {}
        self._decompressor: Any = None

    def compress(self, data: Bytes, level: int) -> bytes:
        if level not in self._compressors:
            make = _zstandard(None).ZstdCompressor
            self._compressors[level] = make(level=level, write_checksum=True, write_content_size=True)
        return bytes(self._compressors[level].compress(data))

    def decompress(self, data: Bytes, size: int) -> bytes:
        library = _zstandard(None)
        self._decompressor = self._decompressor or library.ZstdDecompressor()
        try:
            # Before the memory is allocated that a damaged frame asks for.
            if library.frame_content_size(data) != size:
                raise OSError(errno.EIO, "the scratch file is damaged")
            return bytes(self._decompressor.decompress(data, allow_extra_data=False))
        except library.ZstdError as error:
            raise OSError(errno.EIO, f"the scratch file is damaged ({error})") from error


_contexts = _Contexts()


def _compress_gz(data: Bytes) -> bytes:
    # zlib writes the header, with no time and no name, so equal data gives equal bytes.
    deflate = zlib.compressobj(GZ_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS + 16)
    return deflate.compress(data) + deflate.flush()


def _compress_zst(data: Bytes) -> bytes:
    return _contexts.compress(data, ZST_LEVEL)


def _compress_xz(data: Bytes) -> bytes:
    # A dictionary of the frame's size: a larger one finds nothing more and costs encoder and decoder memory.
    filters = [{"id": lzma.FILTER_LZMA2, "preset": XZ_PRESET, "dict_size": XZ_FRAME}]
    return lzma.compress(data, lzma.FORMAT_XZ, lzma.CHECK_CRC64, filters=filters)


def _compress_bz2(data: Bytes) -> bytes:
    return bz2.compress(data, BZ2_LEVEL)


def _members(form: _Format) -> Callable[[Read, str, int], Decoder]:
    return lambda read, path, limit: _MemberDecoder(form, read, path, limit)


@dataclass(frozen=True)
class Codec:
    """A kind of compression.

    Attributes
    ----------
    name : str
        "gz", "zst", "xz" or "bz2".
    suffix : str
        What names of such files end with.
    decoder_memory : int
        Bytes that a decoder takes at most, unless it is given another limit.
    encoder_memory : int
        Bytes that compressing a frame takes at most, beside its bytes and with the result.
    frame : int
        Bytes that a frame of the output is made of; more of them in one would hardly compress better.
    """

    name: str
    suffix: str
    decoder_memory: int
    encoder_memory: int
    frame: int
    _decoder: Callable[[Read, str, int], Decoder]
    _compress: Callable[[Bytes], bytes]

    def load(self, path: str | None = None) -> None:
        """Import the library; OSError says what to install if it is missing."""
        if self.name == "zst":
            _zstandard(path)

    def decoder(self, read: Read, path: str, limit: int | None = None) -> Decoder:
        """Decompress what `read` reads, in `limit` bytes of memory (None: ``decoder_memory``).

        xz and zstd files say how much they need, which can be more; the others need the same always. `path` is what
        errors are about.
        """
        return self._decoder(read, path, self.decoder_memory if limit is None else limit)

    def compress(self, data: Bytes) -> bytes:
        """Make one complete frame of at most `frame` bytes; equal data gives equal bytes. Any thread."""
        return self._compress(data)


CODECS = {
    codec.name: codec
    for codec in (
        Codec("gz", ".gz", 2 * MIB, 3 * MIB, 1 * MIB, _members(_GZ), _compress_gz),
        Codec("zst", ".zst", 10 * MIB, 5 * MIB, 2 * MIB, _ZstdDecoder, _compress_zst),
        Codec("xz", ".xz", 11 * MIB, 56 * MIB, XZ_FRAME, _members(_XZ), _compress_xz),
        Codec("bz2", ".bz2", 6 * MIB, 10 * MIB, 900 * 1000, _members(_BZ2), _compress_bz2),
    )
}
"""All codecs by name. The memory of each is what a process was seen to grow by, rounded up."""


def strip_suffix(path: str) -> tuple[str, str]:
    """Part a path into what comes before the suffix of a codec, and that suffix as it is written ("" if none)."""
    for codec in CODECS.values():
        if path.lower().endswith(codec.suffix):
            return path[: -len(codec.suffix)], path[-len(codec.suffix) :]
    return path, ""


def codec_of(path: str) -> Codec | None:
    """The codec of a file, by the suffix of its name; OSError if its library is missing."""
    name = urlsplit(path).path if path.lower().startswith(("http://", "https://")) else path
    suffix = strip_suffix(name)[1].lower()
    codec = next((codec for codec in CODECS.values() if codec.suffix == suffix), None)
    if codec is not None:
        codec.load(path)
    return codec


def scratch_compress(pieces: Sequence[Bytes]) -> bytes:
    """One zstd frame of the pieces together, made fast and with a checksum. Any thread."""
    return _contexts.compress(pieces[0] if len(pieces) == 1 else b"".join(pieces), SCRATCH_LEVEL)


def scratch_decompress(data: Bytes, size: int) -> bytes:
    """The `size` bytes that such a frame holds; OSError if it is damaged. Any thread."""
    return _contexts.decompress(data, size)
