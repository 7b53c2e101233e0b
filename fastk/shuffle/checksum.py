"""A checksum of records that does not depend on their order: the sum of their hashes modulo 2^128."""

from __future__ import annotations

import numpy as np

from ..config import kernels

MODULUS = 1 << 128
HASHED_BYTES = 16
"""What the hash takes at a time."""


def as_number(words: np.ndarray) -> int:
    """The 128-bit number of two words, the low one first."""
    low, high = words.tolist()
    return int(low | high << 64)


def digest(data: bytes) -> int:
    """The hash of some bytes, as a number."""
    hashed = RecordHash()
    hashed.update(memoryview(data))
    return hashed.value()


class RecordHash:
    """MurmurHash3 x64 128 (Appleby 2011; seed 0) of one record that comes in pieces."""

    def __init__(self) -> None:
        self._state = np.zeros(2, np.uint64)
        self._rest = b""
        self._length = 0

    def update(self, piece: memoryview) -> None:
        """Go on with more bytes."""
        self._length += len(piece)
        if self._rest:
            missing = HASHED_BYTES - len(self._rest)
            self._rest += bytes(piece[:missing])
            piece = piece[missing:]
            if len(self._rest) < HASHED_BYTES:
                return
            kernels.checksum_blocks(np.frombuffer(self._rest, np.uint8), HASHED_BYTES, self._state)
            self._rest = b""
        whole = len(piece) // HASHED_BYTES * HASHED_BYTES
        if whole:
            kernels.checksum_blocks(np.frombuffer(piece[:whole], np.uint8), whole, self._state)
        self._rest = bytes(piece[whole:])

    def value(self) -> int:
        """The hash of all bytes so far, as a number."""
        state = self._state.copy()
        kernels.checksum_end(np.frombuffer(self._rest, np.uint8), len(self._rest), self._length, state)
        return as_number(state)
