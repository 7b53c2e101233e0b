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
from .cleaning import clean
from .inputs import InputChangedError, InputFormatError
from .job import Job, run_pair
from .journal import JournalError
from .options import make_options, paths_of
from .places import real_place
from .report import ShuffleReport
from .scratch import NoSpaceError
from .verify import VerificationError

__all__ = [
    "InputChangedError",
    "InputFormatError",
    "JournalError",
    "NoSpaceError",
    "ShuffleReport",
    "VerificationError",
    "clean_scratch",
    "permutation",
    "shuffle_file",
]

Path = str | os.PathLike[str]


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
    inputs: Path | Sequence[Path],
    output: Path | Sequence[Path],
    *,
    mem: str | int = "2G",
    seed: int | None = None,
    threads: int | None = None,
    tmp: Path | Sequence[Path] = (),
    progress: str = "never",
    null: bool = False,
    delimiter: bytes | None = None,
    lines_per_record: int = 1,
    record_size: int | None = None,
    header: int = 0,
    head_count: int | None = None,
    inverse: bool = False,
    shards: int | None = None,
    records_per_shard: int | None = None,
    append_newline: str = "auto",
    compress: str = "auto",
    compress_scratch: bool = False,
    scratch: str = "auto",
    resume: bool = False,
    clean: bool = False,
    verify: bool = False,
    fsync: bool = False,
    pair: bool = False,
) -> ShuffleReport:
    r"""Write the records of the inputs to the output in uniformly random order, in bounded memory.

    Input that fits in `mem` is shuffled in memory. Larger input is read, scattered to files by the leading bits of the
    records' keys, and gathered file by file: two reads and two writes of the data.

    Parameters
    ----------
    inputs : path or sequence of paths
        Files to shuffle together; "-" is standard input, and URLs are read through fsspec (extra ``io``). What ends in
        .gz, .zst, .xz or .bz2 is decompressed. Bytes are data: no text is decoded.
    output : path
        Appears under its name when it is complete; it may be one of the inputs. "-" is standard output.
    mem : int or str
        Bound for the resident memory of the whole process, interpreter included: bytes, or a size such as "64M",
        "1.5GiB" or "50%" (of the machine's memory). At least 64M, with numba 300M; compression takes more.
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
    null : bool
        Records end with a zero byte instead of a newline.
    delimiter : bytes, optional
        Records end with these bytes, of which there are 1 to 255; they are found as ``bytes.split`` finds them.
    lines_per_record : int
        So many lines are one record, as 4 in FASTQ. An input that ends within a record is refused.
    record_size : int, optional
        Records have so many bytes each and no delimiter. An input that ends within a record is refused.
    header : int
        So many lines (or records of fixed size) at the beginning of each input are not shuffled: those of the first
        input come first in the output, once, and those of the others are dropped. At most 1 MiB.
    head_count : int, optional
        Write only the first so many records of the same order: a uniform sample without replacement.
    inverse : bool
        Undo a shuffle: the input is what a shuffle with this seed wrote, and the output has the order before it.
    shards : int, optional
        Spread the records over so many files, as many in each within one: "out.txt" becomes "out-00000-of-00064.txt"
        and so on. One after the other they are what the one file would be, its header included.
    records_per_shard : int, optional
        The same, with so many records in each file but the last.
    append_newline : {"auto", "never"}
        What happens if the last record of an input lacks its delimiter: it is added, or the input refused.
    compress : {"auto", "none", "gz", "zst", "xz", "bz2"}
        How the output is compressed; "auto" goes by its suffix. The compressed bytes are the same on any machine that
        has the same versions of the libraries, whatever `mem` and `threads` are.
    compress_scratch : bool
        Compress scratch files (Zstandard, level 1): less disk, more work.
    scratch : {"auto", "none"}
        "none" writes no scratch at all but reads the input again for each part of the order that memory holds.
    resume : bool
        Keep a journal beside the scratch files. If the run is killed, or the power fails, the same call goes on where
        it was, and gives the same bytes. It takes files as inputs and output.
    clean : bool
        Remove first what runs that were killed have left in the directories used.
    verify : bool
        Sum the hashes of all records (MurmurHash3 x64 128, modulo 2**128) as they are read and again from the output
        on disk, before it gets its name.
    fsync : bool
        Return when the output is on disk, not only with the operating system.
    pair : bool
        Shuffle several inputs into as many outputs, in the same order: parallel corpora. `output` is a sequence then.

    Returns
    -------
    ShuffleReport

    Raises
    ------
    TypeError, ValueError
        For an argument that makes no sense, before anything is written; and InputFormatError, a ValueError, for an
        input that ends within a record, or pairs of different lengths.
    NoSpaceError
        If a file system is full, or too small from the start; it says where and how much was missing.
    OSError
        If a file cannot be read or written, or an input changed meanwhile; VerificationError if `verify` found a
        difference. After any exception the output is as it was before and scratch files are gone, but for those that
        `resume` goes on with.

    Notes
    -----
    Output record j is input record ``permutation(n, seed)[j]``, whatever the other options are. So two files with as
    many records, shuffled with one seed, stay aligned.

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
    given = dict(locals())
    for name in ("inputs", "output", "pair"):
        del given[name]
    if not pair:
        if not isinstance(output, str | os.PathLike):
            raise TypeError(f"output={output!r}: a path is needed, or pair=True")
        return Job(make_options(inputs, output, **given)).run()
    sources, targets = paths_of(inputs, "inputs"), paths_of(output, "output")
    if len(sources) != len(targets) or not sources:
        raise ValueError(f"pair: {len(sources)} inputs and {len(targets)} outputs; as many are needed")
    if len(set(map(real_place, targets))) != len(targets):
        raise ValueError("pair: the outputs have to be different files")
    runs = zip(sources, targets, strict=True)
    return run_pair([Job(make_options(source, target, **given)) for source, target in runs])


def clean_scratch(directories: Path | Sequence[Path]) -> list[str]:
    """Remove what runs of this user that were killed have left in some directories.

    Parameters
    ----------
    directories : path or sequence of paths
        Where scratch files or outputs of theirs were. What a live run uses stays.

    Returns
    -------
    list of str
        What was removed, with its size.

    Examples
    --------
    >>> import tempfile
    >>> from fastk.shuffle import clean_scratch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     clean_scratch(folder)
    []
    """
    return clean(paths_of(directories, "directories"))
