"""What runs have left that were killed: finding it, and removing it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import stat
import time
from collections.abc import Iterable
from dataclasses import dataclass

from .output import PARTIAL
from .plan import format_size
from .scratch import PREFIX, RUN, lock

OWN_NAME = re.compile(re.escape(PREFIX) + r"[0-9a-f]{16}")
PARTIAL_NAME = re.compile(r"\..+\.[0-9a-f]{12,16}" + re.escape(PARTIAL))
JOURNAL = "journal"
JUST_MADE = 60
"""Seconds for which a directory without a file in it may be that of a run that has just begun."""


@dataclass(frozen=True)
class Leftover:
    """What a dead run has left at a path."""

    path: str
    size: int
    resumable: bool

    def __str__(self) -> str:
        what = "a killed run that --resume can go on with" if self.resumable else "a run that was killed"
        return f"{self.path}: left by {what} ({format_size(self.size)}); --clean removes it"

    def remove(self) -> None:
        """Remove it, unless a run has gone on with it meanwhile."""
        with contextlib.suppress(OSError):
            if os.path.isdir(self.path) and not os.path.islink(self.path):
                fd = lock(os.path.join(self.path, RUN))
                if fd is not None:
                    shutil.rmtree(self.path, ignore_errors=True)
                    os.close(fd)
            else:
                os.unlink(self.path)


def leftovers(directories: Iterable[str]) -> list[Leftover]:
    """What dead runs of this user have left in the directories."""
    found = []
    for directory in dict.fromkeys(os.path.realpath(each) for each in directories):
        with contextlib.suppress(OSError):
            for name in sorted(os.listdir(directory)):
                if OWN_NAME.fullmatch(name) or PARTIAL_NAME.fullmatch(name):
                    path = os.path.join(directory, name)
                    with contextlib.suppress(OSError):
                        found += _inspect(path)
    return found


def clean(directories: Iterable[str]) -> list[str]:
    """Remove it; what was removed, a sentence each."""
    found = leftovers(directories)
    for each in found:
        each.remove()
    return [f"{each.path} ({format_size(each.size)})" for each in found]


def _inspect(path: str) -> list[Leftover]:
    status = os.lstat(path)
    if status.st_uid != os.geteuid():
        return []
    if stat.S_ISDIR(status.st_mode):
        if not os.path.lexists(os.path.join(path, RUN)):
            if os.listdir(path) or time.time() - status.st_mtime < JUST_MADE:
                return []  # it is not of this program, or has just been made
            return [Leftover(path, 0, False)]
        locked = os.path.join(path, RUN)
    elif stat.S_ISREG(status.st_mode):
        locked = path
    else:
        return []
    fd = os.open(locked, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        # Where this fails a run is alive, or, on a file system without locks, may be.
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(fd)
    return [Leftover(path, _size(path), os.path.exists(os.path.join(path, JOURNAL)))]


def _size(path: str) -> int:
    paths = [os.path.join(path, name) for name in os.listdir(path)] if os.path.isdir(path) else [path]
    return sum(os.lstat(each).st_blocks * 512 for each in paths)
