"""The journal of a run: what is done and on disk, so that another run can go on from there."""

from __future__ import annotations

import errno
import json
import os
from typing import Any

from .checksum import digest
from .scratch import sync_directory

FORMAT = "fastk-shuffle journal 1"
NEW = ".new"


class JournalError(OSError):
    """What a killed run left does not fit what is asked for now."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(errno.EINVAL, f"{why}; give the same command again, or add --clean to begin anew", path)


class Journal:
    """One file, which is replaced as a whole: after any interruption it is the one before or the one after."""

    def __init__(self, path: str) -> None:
        self.path = path

    def save(self, state: dict[str, Any]) -> None:
        """Make sure that the state is on disk."""
        try:
            self._save(state)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.path) from error

    def _save(self, state: dict[str, Any]) -> None:
        text = json.dumps(state).encode()
        data = f"{FORMAT} {_digest(text)}\n".encode() + text + b"\n"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(self.path + NEW, flags, 0o600)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(fd, rest) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(self.path + NEW, self.path)
        sync_directory(os.path.dirname(self.path))

    def load(self) -> dict[str, Any] | None:
        """The state that was saved last; None if there is none, JournalError if it is damaged."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        with open(fd, "rb") as file:
            head, _, text = file.read().partition(b"\n")
        if head != f"{FORMAT} {_digest(text[:-1])}".encode() or text[-1:] != b"\n":
            raise JournalError(self.path, "the journal is damaged, or of another version")
        state: dict[str, Any] = json.loads(text)
        return state


def _digest(text: bytes) -> str:
    return f"{digest(text):032x}"


def check_same(path: str, before: dict[str, Any], now: dict[str, Any]) -> None:
    """JournalError unless the run is asked for what the killed one was asked for."""
    if [name for name, _ in before["inputs"]] != [name for name, _ in now["inputs"]]:
        raise JournalError(path, "the inputs are not those of the run that was killed")
    changed = [name for (name, old), (_, new) in zip(before["inputs"], now["inputs"], strict=True) if old != new]
    if changed:
        raise JournalError(path, f"{', '.join(changed)} changed since the run that was killed")
    differing = [name for name in before["asked"] if before["asked"][name] != now["asked"].get(name)]
    if now["seed"] is not None and now["seed"] != before["seed"]:
        differing.append("seed")
    if differing:
        names = ", ".join(name.replace("_", " ") for name in differing)
        raise JournalError(path, f"other options than those of the run that was killed: {names}")
