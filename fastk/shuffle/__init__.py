"""Uniform shuffling of record files, in bounded memory.

The order is a public fact: output record j is input record ``permutation(n, seed)[j]``. It depends on the seed and the
number of records alone, so two files with as many records, shuffled with one seed, stay aligned.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import SupportsIndex

import numpy as np
import numpy.typing as npt

from .._check import check_seed, integer
from ..config import kernels
from .job import Job
from .report import ShuffleReport
from .scratch import NoSpaceError

__all__ = ["NoSpaceError", "ShuffleReport", "permutation", "shuffle_file"]


def permutation(n: SupportsIndex, seed: int) -> npt.NDArray[np.int64]:
    """Return the order in which a shuffle with this seed writes n records.

    Parameters
    ----------
    n : int
        Number of records, from 0.
    seed : int
        From 0 to 2**128 - 1.

    Returns
    -------
    ndarray of int64, shape (n,)
        ``order[j]`` is the number of the input record that comes j-th in the output: the stable argsort of the first n
        words of ``numpy.random.Philox(key=seed)``. Uniform over all orders, up to the 64 bits of a key: equal keys, of
        which n * n / 2**65 pairs are expected, keep the order of the input.

    Raises
    ------
    TypeError
        If `n` or `seed` is not an integer.
    ValueError
        If `n` is negative or `seed` out of range.

    Examples
    --------
    >>> from fastk.shuffle import permutation
    >>> permutation(5, seed=7)
    array([4, 1, 3, 2, 0])
    """
    count, seed = integer(n, "n", least=0), check_seed(seed)
    keys = np.empty(count, np.uint64)
    kernels.philox_fill(seed & (2**64 - 1), seed >> 64, 0, keys, count)
    return np.argsort(keys, kind="stable")


def shuffle_file(
    inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    mem: str | int = "2G",
    seed: int | None = None,
    threads: int | None = None,
    tmp: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
    progress: str = "never",
) -> ShuffleReport:
    r"""Write the lines of the inputs to the output in uniformly random order, in bounded memory.

    Input that fits in `mem` is shuffled in memory. Larger input is read, scattered to files by the leading bits of the
    records' keys, and gathered file by file: two reads and two writes of the data.

    Parameters
    ----------
    inputs : path or sequence of paths
        Files to shuffle together; "-" is standard input. A line that lacks its newline at the end of a file gets one.
        Bytes are data: nothing is decoded.
    output : path
        Appears under its name when it is complete; it may be one of the inputs. "-" is standard output.
    mem : int or str
        Bound for the resident memory of the whole process, interpreter included: bytes, or a size such as "64M",
        "1.5GiB" or "50%" (of the machine's memory). At least 64M, with numba 300M.
    seed : int, optional
        From 0 to 2**128 - 1. None draws one, which the report tells.
    threads : int, optional
        None uses what `fastk.config()` says; fewer are used where `mem` is too small for so many. The result does not
        depend on it.
    tmp : path or sequence of paths
        Directories for scratch files, which are spread over them. They hold at most the data and 4 bytes a record.
        By default ``TMPDIR`` if that is set, else the directory of the output.
    progress : {"never", "auto", "always"}
        A progress bar on standard error; "auto" shows it on a terminal.

    Returns
    -------
    ShuffleReport

    Raises
    ------
    TypeError, ValueError
        For an argument that makes no sense, before anything is written.
    NoSpaceError
        If a file system is full; it says where and how much was missing.
    OSError
        If a file cannot be read or written, or an input changed meanwhile. After any exception the output is as it
        was before and scratch files are gone.

    Examples
    --------
    >>> import fastk, pathlib, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> source = pathlib.Path(folder.name, "letters.txt")
    >>> _ = source.write_text("a\nb\nc\nd\ne\n")
    >>> report = fastk.shuffle_file(source, source.with_name("out.txt"), seed=7, mem="8G")
    >>> source.with_name("out.txt").read_text().split()
    ['e', 'b', 'd', 'c', 'a']
    >>> report.records
    5
    >>> folder.cleanup()
    """
    return Job(
        _paths(inputs), output, mem=mem, seed=seed, threads=threads, tmp=_paths(tmp), progress=progress
    ).run()


def _paths(paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[str | os.PathLike[str]]:
    return [paths] if isinstance(paths, str | os.PathLike) else list(paths)
