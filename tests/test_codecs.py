"""Compressed files and files elsewhere, beside the tools' own libraries and programs."""

from __future__ import annotations

import bz2
import contextlib
import errno
import functools
import gzip
import http.server
import io
import itertools
import lzma
import os
import shutil
import struct
import subprocess
import sys
import threading
import uuid
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastk.shuffle import codecs, places
from fastk.shuffle.codecs import CODECS, codec_of, scratch_compress, scratch_decompress, strip_suffix

zstandard = pytest.importorskip("zstandard")
MIB = 1 << 20
TEXT = b"".join(b"%d a line of some length\n" % (i * 7919 % 1009) for i in range(200))


def zstd_frame(data: bytes, level: int = 3, **options: Any) -> bytes:
    return bytes(zstandard.ZstdCompressor(level=level, write_checksum=True, **options).compress(data))


def unzstd(data: bytes) -> bytes:
    with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True) as reader:
        return bytes(reader.read())


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress, "zst": zstd_frame, "xz": lzma.compress, "bz2": bz2.compress,
}  # fmt: skip
DECOMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.decompress, "zst": unzstd, "xz": lzma.decompress, "bz2": bz2.decompress,
}  # fmt: skip
PROGRAMS = {"gz": "gzip", "zst": "zstd", "xz": "xz", "bz2": "bzip2"}
names = pytest.mark.parametrize("name", CODECS)


def reading(data: bytes, step: int = 1 << 30) -> codecs.Read:
    """What reads `data`, at most `step` bytes at a time."""
    stream = io.BytesIO(data)
    return lambda view: stream.readinto(view[:step])


def decode(name: str, data: bytes, *, step: int = 1 << 30, views: tuple[int, ...] = (64 * 1024,), **more: Any) -> bytes:
    """Decode with views of these sizes in turn."""
    decoder = CODECS[name].decoder(reading(data, step), f"file.{name}", **more)
    pieces = []
    for size in itertools.cycle(views):
        view = memoryview(bytearray(size + 1))
        count = decoder.readinto(view[:size])
        assert 0 <= count <= size
        assert view[size] == 0
        pieces.append(bytes(view[:count]))
        if count == 0 and size:
            break
    assert decoder.readinto(view) == 0, "the end is no end"
    return b"".join(pieces)


def refused(name: str, data: bytes, match: str | None = None, **more: Any) -> str:
    """The message with which a file is refused."""
    with pytest.raises(OSError, match=match) as caught:
        decode(name, data, **more)
    assert caught.value.errno == errno.EIO
    assert caught.value.filename == f"file.{name}"
    return str(caught.value.strerror)


def survives(name: str, data: bytes, **more: Any) -> bytes | None:
    """What is decoded, or None if that is refused as it should be."""
    try:
        return decode(name, data, **more)
    except OSError as caught:
        error = caught
    assert error.errno == errno.EIO
    assert error.filename == f"file.{name}"
    return None


contents = st.one_of(
    st.binary(max_size=2000),
    st.builds(lambda piece, times: piece * times, st.binary(max_size=20), st.integers(0, 9999)),
)


@names
@given(
    members=st.lists(contents, max_size=5),
    step=st.sampled_from([1, 2, 3, 7, 100, 1 << 20]),
    views=st.lists(st.sampled_from([0, 1, 5, 100, 4096, 1 << 20]), min_size=1, max_size=3).filter(any),
)
def test_members_after_one_another_are_one_stream(name: str, members: list[bytes], step: int, views: list[int]) -> None:
    whole = b"".join(members)
    if len(whole) > 20000:
        step, views = max(step, 7), [*views, 4096]
    theirs, ours = COMPRESS[name], CODECS[name].compress
    for data in (b"".join(map(theirs, members)), b"".join(map(ours, members))):
        assert decode(name, data, step=step, views=tuple(views)) == whole
    if members:
        assert DECOMPRESS[name](data) == whole


@names
def test_an_empty_file_is_an_empty_stream(name: str) -> None:
    assert decode(name, b"") == b""
    assert decode(name, COMPRESS[name](b"")) == b""
    assert decode(name, CODECS[name].compress(b"")) == b""


@names
def test_frames_are_the_same_from_any_thread_and_kind_of_memory(name: str) -> None:
    codec = CODECS[name]
    data = os.urandom(5000) + TEXT * 50
    made: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: made.append(codec.compress(memoryview(bytearray(data))))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(made) == {codec.compress(data)}
    assert len(made[0]) < len(data) // 2


@names
def test_every_truncation_is_refused(name: str) -> None:
    for data in (CODECS[name].compress(TEXT), COMPRESS[name](b"x")):
        for size in range(1, len(data)):
            refused(name, data[:size], "not complete")
        two = data + data
        for size in range(len(data) + 1, len(two)):
            refused(name, two[:size], "not complete", step=11)


@names
@pytest.mark.parametrize("mask", [0x01, 0x10, 0x80, 0xFF])
def test_a_flipped_byte_is_refused_or_without_effect(name: str, mask: int) -> None:
    data = bytearray(CODECS[name].compress(TEXT))
    survived = 0
    for at in range(len(data)):
        data[at] ^= mask
        found = survives(name, bytes(data))
        assert found in (None, TEXT)
        survived += found is not None
        data[at] ^= mask
    assert survived < 20


@names
@given(data=st.binary(max_size=300), garbage=st.binary(min_size=1, max_size=40))
def test_what_is_no_compressed_data_is_refused_wherever_it_is(name: str, data: bytes, garbage: bytes) -> None:
    """Nothing but OSError is raised, whatever the bytes are."""
    good = CODECS[name].compress(data)
    for file in (garbage, good + garbage):
        if survives(name, file, step=5) is not None:  # zeros, or garbage that happens to be a file
            assert not garbage.strip(b"\0") or DECOMPRESS[name](garbage) is not None


@names
def test_messages_say_what_is_wrong(name: str) -> None:
    tool = {"gz": "gzip", "zst": "zstd", "bz2": "bzip2"}.get(name, name)
    good = CODECS[name].compress(TEXT)
    assert refused(name, b"plain text\n") == f"this is not {tool} data"
    assert f"not {tool} data follows" in refused(name, good + b"plain text\n")
    assert "ends too early" in refused(name, good[:-1])
    middle = bytearray(good)
    middle[len(good) // 2] ^= 0xFF
    assert "damaged" in refused(name, bytes(middle))


def test_zeros_after_a_member_are_padding_where_the_format_has_it() -> None:
    for name, zeros in (("gz", 1), ("gz", 200_000), ("xz", 4), ("xz", 200_000)):
        good = CODECS[name].compress(TEXT)
        assert decode(name, good + bytes(zeros)) == TEXT
        assert decode(name, good + bytes(zeros) + good, step=1000) == TEXT * 2
        refused(name, good + bytes(zeros) + b"x", "follows")
        refused(name, bytes(zeros) + good, "this is not")
    refused("xz", CODECS["xz"].compress(TEXT) + bytes(3), "follows")
    refused("bz2", CODECS["bz2"].compress(TEXT) + bytes(4), "follows")
    refused("zst", CODECS["zst"].compress(TEXT) + bytes(4), "follows")


@names
@pytest.mark.parametrize("level", ["-1", "-9"])
def test_files_of_the_programs_are_read_and_ours_by_them(name: str, level: str, tmp_path: Path) -> None:
    program = shutil.which(PROGRAMS[name])
    if program is None:
        pytest.skip(f"{PROGRAMS[name]} is not installed")
    data = TEXT * 300  # more than the blocks of bzip2 and zstd
    file = tmp_path / "data"
    file.write_bytes(data)
    for source in (["data"], ["-"]):  # with the size in the frame, and without
        made = subprocess.run(
            [program, level, "-c", *source], cwd=tmp_path, input=data, capture_output=True, check=True
        )
        assert decode(name, made.stdout, step=60_000, limit=66 * MIB) == data
    ours = CODECS[name].compress(data[: len(data) // 2]) + CODECS[name].compress(data[len(data) // 2 :])
    assert subprocess.run([program, "-dc"], input=ours, capture_output=True, check=True).stdout == data


def test_gzip_headers_are_read_with_all_their_fields() -> None:
    raw = gzip.compress(TEXT, mtime=0)
    flags, extra = 0x02 | 0x04 | 0x08 | 0x10, struct.pack("<H", 4) + b"AB\0\0"
    header = raw[:3] + bytes([flags]) + raw[4:10] + extra + b"name\0" + b"comment\0"
    data = header + struct.pack("<H", zlib.crc32(header) & 0xFFFF) + raw[10:]
    assert decode("gz", data, step=1) == TEXT


def test_gzip_frames_have_no_time_and_no_name() -> None:
    frame = CODECS["gz"].compress(TEXT)
    assert frame[3:8] == bytes(5)


def test_zstd_frames_have_a_checksum_and_their_size() -> None:
    for frame in (CODECS["zst"].compress(TEXT), scratch_compress([TEXT])):
        header = zstandard.get_frame_parameters(frame)
        assert header.has_checksum
        assert header.content_size == len(TEXT)


def skippable(data: bytes, kind: int = 0) -> bytes:
    return struct.pack("<II", 0x184D2A50 + kind, len(data)) + data


@given(step=st.integers(1, 50), size=st.integers(0, 300_000), kind=st.integers(0, 15))
def test_skippable_zstd_frames_are_skipped(step: int, size: int, kind: int) -> None:
    frame = zstd_frame(TEXT)
    data = skippable(b"", kind) + frame + skippable(bytes(size), kind) + zstd_frame(b"") + frame
    assert decode("zst", data, step=step * 1000) == TEXT * 2
    refused("zst", (frame + skippable(b"12345", kind))[:-1], "not complete", step=step)


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 65791, 65792, 1 << 17, (1 << 17) + 1, 5 * MIB])
@pytest.mark.parametrize("known", [True, False])
def test_zstd_headers_of_every_size_are_followed(size: int, known: bool) -> None:
    data = (TEXT * (size // len(TEXT) + 1))[:size]
    for checksum in (True, False):
        writer = zstandard.ZstdCompressor(write_checksum=checksum, write_content_size=known)
        stream = writer.compressobj(size=size if known else -1)
        frame = stream.compress(data) + stream.flush()
        assert decode("zst", frame + frame, step=1001 if size < MIB else MIB) == data * 2


def test_zstd_windows_are_bounded() -> None:
    def frame(window_log: int) -> bytes:
        parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=window_log)
        stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
        return bytes(stream.compress(TEXT) + stream.flush())

    assert decode("zst", frame(23)) == TEXT, "what zstd -19 needs is always allowed"
    assert "a window of 128 MiB" in refused("zst", frame(27), "larger --mem")
    assert "a window of 128 MiB" in refused("zst", frame(20) + frame(27), "128 MiB can be spared", limit=128 * MIB)
    assert decode("zst", frame(27), limit=129 * MIB) == TEXT
    assert decode("zst", frame(27), limit=1 << 40) == TEXT


def test_xz_dictionaries_are_bounded() -> None:
    large = lzma.compress(TEXT, preset=9)
    refused("xz", large, "larger --mem")
    assert decode("xz", lzma.compress(TEXT, preset=6)) == TEXT
    assert decode("xz", large, limit=67 * MIB) == TEXT


@pytest.mark.parametrize("check", [lzma.CHECK_NONE, lzma.CHECK_CRC32, lzma.CHECK_CRC64, lzma.CHECK_SHA256])
def test_xz_checks(check: int) -> None:
    assert decode("xz", lzma.compress(TEXT, check=check)) == TEXT


def test_frames_of_full_size() -> None:
    for name in ("gz", "zst"):
        size = CODECS[name].frame
        data = memoryview(bytearray(TEXT * (size // len(TEXT) + 1)))[:size]
        assert decode(name, CODECS[name].compress(data) * 2, views=(MIB,)) == bytes(data) * 2


BOMB = """
import sys, fastk.shuffle.codecs as codecs
def resident(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field))
codec = codecs.CODECS[sys.argv[1]]
codec.load()
view = memoryview(bytearray(65536))
with open(sys.argv[2], "rb", buffering=0) as file:
    before = resident("VmRSS")
    with open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")
    decoder, total = codec.decoder(file.readinto, sys.argv[2]), 0
    while count := decoder.readinto(view):
        total += count
print(total, resident("VmHWM") - before, codec.decoder_memory)
"""


@names
@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="the peak of memory cannot be reset here")
@pytest.mark.skipif("FASTK_SANITIZED" in os.environ, reason="the sanitizer takes memory of its own")
def test_a_bomb_takes_no_more_memory_than_stated(
    name: str, tmp_path: Path, run_python: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    zeros = bytes(48 * MIB)
    fast = {"gz": lambda data: gzip.compress(data, 1), "xz": lambda data: lzma.compress(data, preset=6)}
    file = tmp_path / "bomb"
    file.write_bytes(fast.get(name, COMPRESS[name])(zeros) * 2)
    assert file.stat().st_size < MIB
    done = run_python("-c", BOMB, name, str(file))
    assert done.returncode == 0, done.stderr
    total, growth, stated = map(int, done.stdout.split())
    assert total == 2 * len(zeros)
    assert growth <= stated


@names
def test_a_failing_read_is_passed_on(name: str) -> None:
    def read(view: memoryview) -> int:
        raise PermissionError(errno.EACCES, "no", "elsewhere")

    with pytest.raises(PermissionError, match="elsewhere"):
        CODECS[name].decoder(read, "file").readinto(memoryview(bytearray(10)))


def test_names_tell_the_codec() -> None:
    for name, codec in CODECS.items():
        assert codec.name == name
        assert codec_of(f"some/where.txt.{name}") is codec
        assert codec_of(f"UPPER.{name.upper()}") is codec
        assert codec_of(f"https://host/a.{name}?token=1.txt#x") is codec
        assert codec_of(f"s3://bucket/a.{name}") is codec
        assert strip_suffix(f"a.txt.{name.upper()}") == ("a.txt", f".{name.upper()}")
    for path in ("a.txt", "gz", "a.gz.txt", "a.zip", "-", "", "https://host/a?b.gz"):
        assert codec_of(path) is None
    assert strip_suffix("a.gz.txt") == ("a.gz.txt", "")


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(OSError, match=r"pip install 'fastk-kernels\[io\]'.*a\.zst"):
        codec_of("a.zst")
    with pytest.raises(OSError, match="fastk-kernels"):
        CODECS["zst"].decoder(reading(b""), "a.zst")
    assert codec_of("a.gz") is CODECS["gz"]
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(OSError, match=r"pip install 'fastk-kernels\[io\]'.*memory://a"):
        places.Remote("memory://a")


@given(pieces=st.lists(st.binary(max_size=500), max_size=6), damage=st.integers(0, 10_000))
def test_scratch_round_trip(pieces: list[bytes], damage: int) -> None:
    whole = b"".join(pieces)
    frame = scratch_compress([memoryview(piece) for piece in pieces])
    assert scratch_decompress(memoryview(frame), len(whole)) == whole
    broken = bytearray(frame)
    broken[damage % len(frame)] ^= 1 << damage % 8
    wrong = [(frame, len(whole) + 1), (b"", len(whole)), (frame[: len(frame) // 2], len(whole) + 1)]
    if whole:
        wrong += [(frame[:-1], len(whole)), (frame + b"x", len(whole))]
    for data, size in wrong:
        with pytest.raises(OSError, match="damaged"):
            scratch_decompress(data, size)
    with contextlib.suppress(OSError):
        assert scratch_decompress(bytes(broken), len(whole)) == whole


def read_all(remote: places.Remote, size: int = 1 << 16) -> bytes:
    file, view, pieces = remote.open(), memoryview(bytearray(size)), []
    try:
        while count := file.readinto(view):
            pieces.append(bytes(view[:count]))
    finally:
        file.close()
    return b"".join(pieces)


def test_what_is_a_url() -> None:
    for url in ("http://host/a", "s3://bucket/key", "memory://a", "a+b-c.9://x"):
        assert places.is_url(url)
        assert places.local_path(url) == url
    for path in ("a", "/a", "-", "", "file:///a", "FILE:///a", "a/b://c", "9a://b", "C:/a", "./http://x"):
        assert not places.is_url(path)
    assert places.local_path("file:///a%20b/c.gz") == "/a b/c.gz"
    assert places.local_path("file://localhost/a") == "/a"
    assert places.local_path("a%20b") == "a%20b"
    for url in ("file://host/a", "file://a"):
        with pytest.raises(ValueError, match="file:///"):
            places.local_path(url)


@pytest.fixture
def memory() -> Iterator[Any]:
    """The file system of memory:// URLs, and a directory of its own there."""
    fsspec = pytest.importorskip("fsspec")
    system, directory = fsspec.filesystem("memory"), f"/{uuid.uuid4().hex}"
    system.mkdir(directory)
    system.directory = directory
    yield system
    system.rm(directory, recursive=True)


def test_memory_input(memory: Any) -> None:
    url = f"memory:/{memory.directory}/a.txt"
    assert places.is_url(url)
    memory.pipe_file(f"{memory.directory}/a.txt", TEXT)
    remote = places.Remote(url)
    assert remote.size == len(TEXT)
    assert read_all(remote) == read_all(remote, 7) == TEXT
    remote.check()
    assert places.Remote(url).identity == remote.identity
    memory.pipe_file(f"{memory.directory}/a.txt", TEXT[::-1])
    with pytest.raises(OSError, match=r"changed.*a\.txt"):
        remote.check()
    with pytest.raises(FileNotFoundError, match=url + "x"):
        places.Remote(url + "x")
    with pytest.raises(IsADirectoryError):
        places.Remote(f"memory:/{memory.directory}")


def write(writer: places.RemoteWriter, data: bytes) -> None:
    buffer = bytearray(data)
    writer.write(memoryview(buffer))
    buffer[:] = bytes(len(buffer))  # the memory is used again


@pytest.mark.parametrize("before", [None, b"what was there"])
@pytest.mark.parametrize("data", [b"", TEXT, os.urandom(3 * MIB + 5)])
def test_memory_output_appears_when_it_is_committed(memory: Any, before: bytes | None, data: bytes) -> None:
    path = f"{memory.directory}/out.txt"
    if before is not None:
        memory.pipe_file(path, before)
    for end in ("discard", "commit"):
        writer = places.RemoteWriter(f"memory:/{path}", expected=len(data))
        write(writer, data)
        write(writer, b"and more")
        assert writer.written == len(data) + 8
        assert (memory.cat_file(path) if memory.exists(path) else None) == before
        getattr(writer, end)()
        writer.discard()
        assert memory.ls(memory.directory, detail=False) == [path] * (before is not None or end == "commit")
        assert (memory.cat_file(path) if memory.exists(path) else None) == (
            data + b"and more" if end == "commit" else before
        )


def test_a_failed_commit_leaves_what_was_there(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = f"{memory.directory}/out.txt"
    memory.pipe_file(path, b"before")
    writer = places.RemoteWriter(f"memory:/{path}")
    write(writer, TEXT)
    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "mv", lambda *_: (_ for _ in ()).throw(RuntimeError("no way")))
        with pytest.raises(OSError, match=r"RuntimeError: no way.*out\.txt"):
            writer.commit()
    writer.discard()
    assert memory.cat_file(path) == b"before"
    assert memory.ls(memory.directory, detail=False) == [path]


def test_a_short_upload_is_not_committed(memory: Any) -> None:
    path = f"{memory.directory}/out.txt"
    writer = places.RemoteWriter(f"memory:/{path}")
    write(writer, TEXT)
    writer.written += 1
    with pytest.raises(OSError, match="have arrived"):
        writer.commit()
    writer.discard()
    assert memory.ls(memory.directory, detail=False) == []


def test_outputs_that_cannot_be_written_are_refused() -> None:
    for url in ("http://127.0.0.1:9/a", "https://host/a"):
        with pytest.raises(OSError, match=f"HTTP.*{url}"):
            places.RemoteWriter(url)
    with pytest.raises(IsADirectoryError):
        places.RemoteWriter("memory://a/")


def test_a_file_system_that_can_only_be_read_is_refused_as_output(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(type(memory), "_open", refuse)
    with pytest.raises(OSError, match=r"memory:// can only be read.*out\.txt"):
        places.RemoteWriter(f"memory:/{memory.directory}/out.txt")


def test_unknown_schemes_and_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fsspec")
    for make in (places.Remote, places.RemoteWriter):
        with pytest.raises(OSError, match=r"no file system for nowhere://.*nowhere://a/b"):
            make("nowhere://a/b")
        monkeypatch.setitem(sys.modules, "gcsfs", None)
        with pytest.raises(OSError, match=r"pip install 'fastk-kernels\[io\]' gcsfs.*gs://a/b"):
            make("gs://a/b")


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files of a directory; /short lies about its size, /labelled is said to be encoded, /forbidden is."""

    def do_GET(self) -> None:
        self.server.seen.append(self.headers["Accept-Encoding"])  # type: ignore[attr-defined]
        if self.path == "/short":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"only this")
        elif self.path == "/labelled.gz":
            data = gzip.compress(TEXT)
            self.send_response(200)
            self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        elif self.path == "/forbidden":
            self.send_error(403)
        else:
            super().do_GET()

    def do_HEAD(self) -> None:
        if self.path in ("/short", "/labelled.gz"):
            self.send_response(200)
            self.send_header("Content-Length", "1000" if self.path == "/short" else str(len(gzip.compress(TEXT))))
            self.end_headers()
        elif self.path == "/forbidden":
            self.send_error(403)
        else:
            super().do_HEAD()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Any]]:
    """A web server on loopback, with the files of tmp_path."""
    pytest.importorskip("fsspec")
    pytest.importorskip("aiohttp")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(tmp_path)))
    server.seen = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", server
    server.shutdown()
    thread.join()
    server.server_close()


def test_http_input(web: tuple[str, Any], tmp_path: Path) -> None:
    base, server = web
    data = os.urandom(3 * MIB) + TEXT
    (tmp_path / "a.txt").write_bytes(data)
    remote = places.Remote(f"{base}/a.txt")
    assert remote.size == len(data)
    assert read_all(remote) == read_all(remote, 8 * MIB) == data
    assert set(server.seen) == {"identity"}
    assert len(server.seen) == 2, "one request for a whole file"
    remote.check()
    (tmp_path / "a.txt").write_bytes(data + b"!")
    with pytest.raises(OSError, match=r"changed.*a\.txt"):
        remote.check()
    (tmp_path / "empty").touch()
    assert read_all(places.Remote(f"{base}/empty")) == b""


def test_http_failures_name_the_url(web: tuple[str, Any]) -> None:
    base, _ = web
    with pytest.raises(FileNotFoundError, match=f"{base}/missing"):
        places.Remote(f"{base}/missing")
    with pytest.raises(OSError, match=f"HTTP status 403 Forbidden.*{base}/forbidden"):
        places.Remote(f"{base}/forbidden")
    with pytest.raises(OSError, match=f"{base}/short"):
        read_all(places.Remote(f"{base}/short"))
    with pytest.raises(OSError, match=r"http://127\.0\.0\.1:1/a"):
        places.Remote("http://127.0.0.1:1/a")


def test_http_gives_the_stored_bytes_of_compressed_files(web: tuple[str, Any], tmp_path: Path) -> None:
    base, _ = web
    assert gzip.decompress(read_all(places.Remote(f"{base}/labelled.gz"))) == TEXT
    for name in CODECS:
        (tmp_path / f"a.{name}").write_bytes(COMPRESS[name](TEXT) * 3)
        url = f"{base}/a.{name}?x=y"
        codec = codec_of(url)
        assert codec is CODECS[name]
        file = places.Remote(url).open()
        view = memoryview(bytearray(4 * len(TEXT)))
        decoder, done = codec.decoder(file.readinto, url), 0
        while count := decoder.readinto(view[done:]):
            done += count
        file.close()
        assert bytes(view[:done]) == TEXT * 3


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The file system of an S3 server on loopback, with a bucket."""
    moto = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    server = moto.ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in (
        ("AWS_ENDPOINT_URL", f"http://{host}:{port}"), ("AWS_ACCESS_KEY_ID", "none"),
        ("AWS_SECRET_ACCESS_KEY", "none"), ("AWS_DEFAULT_REGION", "us-east-1"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    system = s3fs.S3FileSystem()
    system.mkdir("bucket")
    yield system
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def test_s3(s3: Any) -> None:
    data = os.urandom(11 * MIB) + TEXT
    for size, end in itertools.product((0, 1000, len(data)), ("discard", "commit")):
        writer = places.RemoteWriter("s3://bucket/out.txt")
        write(writer, data[:size])
        assert s3.ls("bucket", detail=False, refresh=True) == []
        getattr(writer, end)()
        writer.discard()
        assert s3.list_multipart_uploads("bucket") == []
        assert s3.ls("bucket", detail=False, refresh=True) == ["bucket/out.txt"] * (end == "commit")
        if end == "commit":
            remote = places.Remote("s3://bucket/out.txt")
            assert remote.size == size
            assert read_all(remote, 100_000) == data[:size]
            remote.check()
            s3.pipe_file("bucket/out.txt", data[: size + 1])
            with pytest.raises(OSError, match="changed"):
                remote.check()
            s3.rm("bucket/out.txt")
    with pytest.raises(FileNotFoundError, match="s3://bucket/none"):
        places.Remote("s3://bucket/none")
    with pytest.raises(OSError, match="s3://other/none"):  # noqa: PT012
        writer = places.RemoteWriter("s3://other/none")
        write(writer, TEXT)
        writer.commit()
