"""Records of the inputs: a stream of blocks that end at a record's end, and single records read again by offset.

The inputs form one stream, in the order given, without their headers, and with the delimiter that an input lacks at its
end added there. Offsets are into that stream.
"""

from __future__ import annotations

import bisect
import errno
import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..config import kernels
from .checksum import RecordHash
from .inputs import Check, InputChangedError, InputFormatError, Inputs, Reader
from .options import RecordFormat
from .plan import SLACK, Plan, Workspace, format_size
from .scratch import PAGE, Scratch, read_exactly
from .stores import Bucket, FrameReader

BY_REFERENCE = 0x80000000
REFERENCE_BYTES = 16
NEVER = 0x7FFFFFFF
"""A reference size that no record of a block reaches."""
READ_BYTES = 1 << 20
"""Bytes of a block that are read at a time: what a second-level cache keeps."""
HEADER_READ = 64 * 1024
MOST_HEADER = 1 << 20
"""Bytes of a header, which is held in memory."""

U64 = npt.NDArray[np.uint64]


class Buffers:
    """Memory of one thread that scatters: a block, and the records found in it."""

    def __init__(self, workspace: Workspace, plan: Plan) -> None:
        self.block = workspace.cut(plan.block + SLACK)
        self.view = memoryview(self.block)
        self.start = workspace.cut(plan.records, np.uint32)
        self.size = workspace.cut(plan.records, np.uint32)
        self.number = workspace.cut(plan.records, np.uint64)
        self.bucket = workspace.cut(plan.records, np.uint16)


@dataclass
class Block:
    """Records in the buffers they were read into.

    ``offset`` is that of the buffer's first byte in the stream, ``first`` the number of the first record; None says
    that the buffers hold a number for each. ``rank`` is how many records the source gave before, and ``check`` the
    hash of a record that is only referred to.
    """

    records: int
    offset: int
    first: int | None
    rank: int
    check: int = 0


class BlockSource(Protocol):
    """What a scatter reads: the inputs, or a bucket that is split again."""

    bytes_read: int

    def read(self, buffers: Buffers, limit: int) -> Block | None:
        """The next block, or None at the end."""


class Source:
    """Reads the inputs block by block; one thread at a time.

    ``until`` ends it early: a block that would begin at this offset or behind it is left for the next call, once
    ``until`` has been moved on.
    """

    def __init__(
        self, inputs: Inputs, form: RecordFormat, scratch: Scratch | None, check: Check, hashed: bool = False
    ) -> None:
        self.inputs = inputs
        self.header = b""
        self.header_lines = 0
        self.bytes_read = 0
        self.records = 0
        self.rereads = 0
        self.until: int | None = None
        self.paused = False
        self.wanted: Callable[[int], bool] = lambda number: True
        self._form = form
        self._delimiter = np.frombuffer(form.delimiter, np.uint8)
        self._scratch = scratch
        self._check = check
        self._hashed = hashed
        self._carry = b""
        self._pending = b""
        self._position = 0
        self._starts: list[int] = []
        self._skipped: list[int] = []
        self._reader: Reader | None = None
        self._index = -1
        self._spool: tuple[int, str] | None = None
        self._spooled = 0
        self._lengths: dict[int, int] = {}  # of the inputs that have been read to their end

    def close(self) -> None:
        """Close what is open."""
        if self._reader is not None:
            reader, self._reader = self._reader, None
            reader.close()
        if self._spool is not None:
            os.close(self._spool[0])
            self._spool = None

    # ---- reading

    def read(self, buffers: Buffers, limit: int) -> Block | None:
        """Fill the buffers with whole records, of at most `limit` bytes together; None at the end."""
        view, filled = buffers.view, len(self._carry)
        offset = self._position - filled
        self.paused = self.until is not None and offset >= self.until
        if self.paused:
            return None
        view[:filled] = self._carry
        self._carry = b""
        state, found = np.zeros(4, np.uint64), 0
        while True:
            # Piece by piece, so that delimiters are looked for while the bytes are in the cache.
            found += self._split(buffers, filled, state, found)
            if filled >= limit or found == len(buffers.start):
                break
            self._check()
            # No more than the records' arrays are likely to hold: what is left over is carried on.
            likely = (len(buffers.start) - found) * self._position // (self.records + found or 1)
            count = self._read(view[filled : min(filled + max(PAGE, min(READ_BYTES, likely)), limit)])
            if count == 0:
                if self._reader is not None:
                    count = self._end(view[:filled], state)
                    view[filled : filled + count] = self._form.delimiter[:count]
                    self._position += count
                elif not self._next():
                    break
            filled += count
        if filled == 0:
            return None
        first = self.records
        if found == 0:
            self.records += 1
            return self._read_giant(buffers, filled, limit, offset, first, state)
        self.records += found
        self._carry = bytes(view[int(state[0]) : filled])
        return Block(found, offset, first, first)

    def _split(self, buffers: Buffers, filled: int, state: U64, found: int) -> int:
        """Find more records in the bytes so far."""
        start, size, room = buffers.start[found:], buffers.size[found:], len(buffers.start) - found
        if self._form.size is None:
            count: int = kernels.split_delimited(
                buffers.block, filled, self._delimiter, len(self._delimiter), self._form.lines, state, start, size, room
            )
            return count
        begin = int(state[0])
        count = min((filled - begin) // self._form.size, room)
        start[:count] = np.arange(begin, begin + count * self._form.size, self._form.size, dtype=np.uint32)
        size[:count] = self._form.size
        state[:] = (begin + count * self._form.size, filled, begin + count * self._form.size, 0)
        return count

    def _read(self, view: memoryview) -> int:
        """Next bytes of the input; 0 at its end."""
        if self._reader is None:
            return 0
        if self._pending:
            count = min(len(view), len(self._pending))
            view[:count] = self._pending[:count]
            self._pending = self._pending[count:]
        else:
            count = self._reader.readinto(view)
            self.bytes_read += count
        self._position += count
        return count

    def _next(self) -> bool:
        """Open the next input, if there is one, and read its header."""
        if self._index + 1 == len(self.inputs):
            return False
        self._index += 1
        self._reader = self.inputs[self._index].open(0, self._check)
        self._starts.append(self._position)
        header, lines, skipped = self._take_header()
        self._skipped.append(skipped)
        if self._index == 0:
            self.header, self.header_lines = header, lines
        return True

    def _end(self, view: memoryview, state: U64) -> int:
        """The input has ended: close it; how many bytes of a delimiter its last bytes, with their state, lack."""
        assert self._reader is not None
        reader, self._reader = self._reader, None
        reader.close()
        source = self.inputs[self._index]
        source.unchanged()
        # What a run that goes on behind an added delimiter has been told stays.
        length = self._position - self._starts[self._index] + self._skipped[self._index]
        self._lengths.setdefault(self._index, length)
        line, lines = int(state[2]), int(state[3])
        form, last = self._form, view[line:]
        if form.size is not None:
            if last:
                raise InputFormatError(
                    f"{source.path}: its last record has {len(last)} bytes instead of {form.size}: is it cut short?"
                )
            return 0
        lines += bool(last)
        if lines % form.lines:
            raise InputFormatError(
                f"{source.path}: its last record has {lines} lines instead of {form.lines}: is it cut short?"
            )
        return self._lacking(bytes(last[-len(form.delimiter) :])) if last else 0

    def _lacking(self, last: bytes) -> int:
        """Bytes of the delimiter that the end of an input lacks."""
        form, path = self._form, self.inputs[self._index].path
        if not form.repair:
            raise InputFormatError(f"{path}: its last record lacks its delimiter, which is not to be added")
        if (last + form.delimiter).find(form.delimiter) != len(last):
            raise InputFormatError(
                f"{path}: its last record ends with a part of the delimiter, which could not be told from it"
            )
        return len(form.delimiter)

    def _take_header(self) -> tuple[bytes, int, int]:
        """The header of an input that has just been opened, its lines, and the bytes that it takes there."""
        form, data, at, lines = self._form, bytearray(), 0, 0
        if self._index and not self.inputs.headed:
            return b"", 0, 0
        while lines < form.header:
            hit = data.find(form.delimiter, at) if form.size is None else at if len(data) - at >= form.size else -1
            if hit >= 0:
                at = hit + (len(form.delimiter) if form.size is None else form.size)
                lines += 1
                continue
            if len(data) > MOST_HEADER:
                raise InputFormatError(
                    f"{self.inputs[self._index].path}: its header is larger than {format_size(MOST_HEADER)}"
                )
            piece = bytearray(HEADER_READ)
            assert self._reader is not None
            count = self._reader.readinto(memoryview(piece))
            self.bytes_read += count
            if count == 0:
                lacking = b"" if at == len(data) else self._header_end(bytes(data[at:]))
                return bytes(data) + lacking, lines + bool(lacking), len(data)
            data += piece[:count]
        self._pending = bytes(data[at:])
        return bytes(data[:at]), lines, at

    def _header_end(self, last: bytes) -> bytes:
        if self._form.size is not None:
            raise InputFormatError(f"{self.inputs[self._index].path}: its header is cut short")
        return self._form.delimiter[: self._lacking(last[-len(self._form.delimiter) :])]

    # ---- records larger than a block

    def _read_giant(
        self, buffers: Buffers, filled: int, limit: int, offset: int, first: int, state: U64
    ) -> Block:
        """A record that does not end in the block: it is read on to its end and passed on by reference."""
        begin = self._spooled if self._spools else offset
        kept, digest = self.wanted(first), RecordHash()
        length = fresh = 0
        end = -1
        while True:
            piece = buffers.view[fresh : filled if end < 0 else end]
            length += len(piece)
            if kept:
                self._keep(piece)
                if self._hashed:
                    digest.update(piece)
            if end >= 0:
                break
            self._check()
            fresh, filled = self._go_on(buffers.view, filled, limit, state)
            end = self._end_of_record(buffers, filled, length - fresh, state)
        self._carry = bytes(buffers.view[end:filled])
        buffers.block[:REFERENCE_BYTES].view(np.uint64)[:] = (length << 1 | 1, begin)
        buffers.start[0] = 0
        buffers.size[0] = REFERENCE_BYTES | BY_REFERENCE
        return Block(1, offset, first, first, digest.value() if self._hashed and kept else 0)

    def _go_on(self, view: memoryview, filled: int, limit: int, state: U64) -> tuple[int, int]:
        """Read on in a record, behind the bytes in which a delimiter may have begun; how many these are, and with what
        was read."""
        line, lines = int(state[2]), int(state[3])
        kept = 0 if self._form.size else min(len(self._delimiter) - 1, filled - line)
        tail = bytes(view[filled - kept : filled])
        count = self._read(view[kept:limit])
        if count == 0:
            count = self._end(view[:filled], state)
            view[kept : kept + count] = self._form.delimiter[:count]
            self._position += count
        view[:kept] = tail
        state[:] = (0, kept, 0, lines)
        return kept, kept + count

    def _end_of_record(self, buffers: Buffers, filled: int, before: int, state: U64) -> int:
        """Where in the buffer the record ends that has so many bytes before it; -1 if it goes on."""
        if self._form.size is not None:
            missing = self._form.size - before
            return missing if missing <= filled else -1
        found = kernels.split_delimited(
            buffers.block, filled, self._delimiter, len(self._delimiter), self._form.lines, state, buffers.start,
            buffers.size, 1,
        )  # fmt: skip
        return int(buffers.size[0]) if found else -1

    @property
    def _spools(self) -> bool:
        """Whether records are saved that are too large to be held: they cannot be read again, or not from anywhere."""
        return not self.inputs.seekable and self._scratch is not None

    def _keep(self, data: memoryview) -> None:
        """Save a piece of a giant record if it cannot be read again."""
        if not self._spools:
            return
        assert self._scratch is not None
        if self._spool is None:
            path = self._scratch.path("giants")
            self._spool = self._scratch.create(path), path
        fd, path = self._spool
        self._scratch.write(fd, [data], self._spooled, path)
        self._spooled += len(data)

    def copy(self, offset: int, length: int, through: memoryview, write: Callable[[memoryview], None]) -> None:
        """Write a record that was passed on by reference; any thread."""
        if self._spools:
            assert self._spool is not None
            fd, path = self._spool
            for done in range(0, length, len(through)):
                piece = through[: min(len(through), length - done)]
                read_exactly(fd, piece, offset + done, path)
                self._check()
                write(piece)
            return
        index = bisect.bisect_right(self._starts, offset) - 1
        source = self.inputs[index]
        self.rereads += not source.seekable
        with closing(source.open(offset - self._starts[index] + self._skipped[index], self._check)) as reader:
            done = 0
            while done < length and (count := reader.readinto(through[: min(len(through), length - done)])):
                self._check()
                write(through[:count])
                done += count
        source.unchanged()
        if done < length:
            if length - done != len(self._form.delimiter):
                raise InputChangedError(source.path)
            write(memoryview(self._form.delimiter))

    # ---- going on where another run was

    @property
    def position(self) -> int:
        """Offset at which the next block begins."""
        return self._position - len(self._carry)

    def state(self) -> dict[str, Any]:
        """Where the next block begins."""
        position = self.position
        index = max(0, bisect.bisect_right(self._starts, position) - 1)
        return {
            "position": position, "index": index, "starts": self._starts[: index + 1],
            "skipped": self._skipped[: index + 1], "records": self.records,
            "bytes_read": self.bytes_read - len(self._carry) - len(self._pending), "header": self.header.hex(),
            "header_lines": self.header_lines, "spooled": self._spooled, "length": self._lengths.get(index),
        }  # fmt: skip

    def restore(self, state: dict[str, Any], *, spool: bool = True, read: bool = True) -> None:
        """Go on from there; what is not needed any more, saved records or the inputs themselves, need not be opened."""
        self._position, self._index = state["position"], state["index"]
        self._starts, self._skipped = list(state["starts"]), list(state["skipped"])
        self.records, self.bytes_read = state["records"], state["bytes_read"]
        self.header, self.header_lines = bytes.fromhex(state["header"]), state["header_lines"]
        self._spooled = state["spooled"]
        if self._spooled and spool:
            assert self._scratch is not None
            path = self._scratch.path("giants")
            self._spool = self._scratch.open(path), path
            os.ftruncate(self._spool[0], self._spooled)
        if not read:
            return
        within = self._position - self._starts[self._index] + self._skipped[self._index]
        if state["length"] is not None:
            within = min(within, state["length"])  # not behind a delimiter that was added
            self._lengths[self._index] = state["length"]
        self._reader = self.inputs[self._index].open(within, self._check)

    def sync(self) -> None:
        """What was saved of giant records is on disk."""
        if self._spool is not None:
            os.fdatasync(self._spool[0])


class BucketSource:
    """Reads a bucket's frames back, to split it again; one thread at a time."""

    def __init__(self, bucket: Bucket, reader: FrameReader) -> None:
        self._gap_bits = bucket.gap_bits
        self._path = reader.path
        self._reader = reader
        self._carry = b""
        self._state = np.array([0, 2**64 - 1], np.uint64)
        self._mean = bucket.scratch_bytes / bucket.records
        self._seen = 0
        self.bytes_read = 0

    def read(self, buffers: Buffers, limit: int) -> Block | None:
        """Fill the buffers with whole frames and list their records; None at the end."""
        filled = len(self._carry)
        buffers.view[:filled] = self._carry
        wanted = max(filled + SLACK, int(self._mean * len(buffers.start)))
        while True:
            count = self._fill(buffers.view[filled : min(wanted, len(buffers.view))])
            filled += count
            if filled == 0:
                return None
            self._state[0] = 0
            records = kernels.split_frames(
                buffers.block, filled, self._gap_bits, self._state, buffers.start, buffers.size, buffers.number,
                len(buffers.start),
            )  # fmt: skip
            used = int(self._state[0])
            if used:
                break
            if count == 0:
                raise OSError(errno.EIO, "the scratch file is damaged", self._path)
            wanted *= 2
        self._carry = bytes(buffers.view[used:filled])
        self.bytes_read += used
        self._seen += records
        return Block(records, 0, None, self._seen - records)

    def _fill(self, view: memoryview) -> int:
        filled = 0
        while filled < len(view) and (count := self._reader.readinto(view[filled:])):
            filled += count
        return filled
