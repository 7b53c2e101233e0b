"""The table of kernels: name, signature and dtypes of each, once.

Both backends bind from it and the tests parametrise over it. A signature reads as C does; ``u64[n]`` is a contiguous
array of at least ``n`` elements, where ``n`` is an integer argument of the same call (or ``2*n``, or a number; 0 where
other arguments tell what is touched). What is not ``const`` is written.
What a kernel computes is said above its body in ``csrc/``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .._check import integer

DTYPES: dict[str, type[np.generic]] = {"u8": np.uint8, "u16": np.uint16, "u32": np.uint32, "u64": np.uint64}

SIGNATURES = [
    "void philox_fill(u64 key0, u64 key1, u64 start, u64[n] out, size n)",
    "size find_byte(const u8[n] buf, size n, u8 byte)",
    "size rfind_byte(const u8[n] buf, size n, u8 byte)",
    "size count_byte(const u8[n] buf, size n, u8 byte)",
    "size split_delimited(const u8[n] buf, size n, size from, size scanned, u8 delimiter, u32[capacity] start,"
    " u32[capacity] size, size capacity)",
    "size split_frames(const u8[n] buf, size n, bits gap_bits, u64[2] state, u32[capacity] start, u32[capacity] size,"
    " u64[capacity] number, size capacity)",
    "void number_records(u64 first, u64[m] number, size m)",
    "void scatter_count(const u8[0] buf, const u32[m] start, const u32[m] size, const u64[m] number, size m, u64 key0,"
    " u64 key1, const u64[levels] fanout, size levels, fanout buckets, bits gap_bits, u32 reference_size,"
    " u16[m] bucket, u64[5*buckets] tally)",
    "void scatter_place(const u8[0] buf, const u32[m] start, const u32[m] size, const u64[m] number,"
    " const u16[m] bucket, size m, bits gap_bits, u32 reference_size, u64 offset, u64[buckets] previous,"
    " u64[buckets] position, fanout buckets, u8[0] out)",
    "size frames_index(const u8[n] base, size n, u64[2*count] segments, size count, bits gap_bits, u64[1] previous,"
    " u64 key0, u64 key1, const u64[levels] fanout, size levels, u64[2*capacity] entries, size capacity)",
    "void entries_sort(u64[2*m] entries, size m)",
    "size gather(const u8[0] base, const u64[2*to] entries, size from, size to, bits gap_bits, u8[capacity] out,"
    " size capacity, u64[1] written)",
]

RANGES = {
    "u8": (0, 2**8 - 1),
    "u32": (0, 2**32 - 1),
    "u64": (0, 2**64 - 1),
    "size": (0, 2**63 - 1),
    "bits": (1, 31),
    "fanout": (1, 2**16),
}
"""Scalar kinds: least and most."""

TALLY_FIELDS = ("records", "scratch_bytes", "output_bytes", "first_number", "last_number")
"""Columns of the table that ``scatter_count`` fills, a row a bucket."""


@dataclass(frozen=True)
class Parameter:
    """One argument of a kernel: a scalar, or an array of at least ``times * argument[extent]`` elements."""

    name: str
    kind: str
    dtype: type[np.generic] | None = None
    constant: bool = False
    times: int = 1
    extent: int | None = None

    def needed(self, arguments: tuple[Any, ...]) -> int:
        """Elements that the array must have in this call."""
        return self.times if self.extent is None else self.times * int(arguments[self.extent])


@dataclass(frozen=True)
class Kernel:
    """A row of the table."""

    name: str
    returns: str
    parameters: tuple[Parameter, ...] = field(default=())

    @classmethod
    def parse(cls, signature: str) -> Kernel:
        """Read a row of ``SIGNATURES``."""
        returns, name, inner = re.fullmatch(r"(\w+) (\w+)\((.*)\)", signature).groups()  # type: ignore[union-attr]
        rows = [argument.split() for argument in inner.split(",")]
        names = [row[-1] for row in rows]
        parameters = []
        for *constant, kind, parameter in rows:
            array = re.fullmatch(r"(\w+)\[(?:(\d+)\*)?(\w+)\]", kind)
            if array is None:
                parameters.append(Parameter(parameter, kind))
                continue
            dtype, times, extent = array.groups()
            fixed = extent.isdigit()
            parameters.append(
                Parameter(
                    parameter,
                    "array",
                    DTYPES[dtype],
                    bool(constant),
                    int(extent if fixed else times or 1),
                    None if fixed else names.index(extent),
                )
            )
        return cls(name, returns, tuple(parameters))

    def checked(self, function: Callable[..., Any], convert: Callable[[Any, Any], Any]) -> Callable[..., Any]:
        """Wrap a backend's function: everything is checked and arrays converted; no other code reaches the kernel."""
        arrays = [(i, p) for i, p in enumerate(self.parameters) if p.kind == "array"]
        scalars = [(i, f"{self.name}: {p.name}", *RANGES[p.kind]) for i, p in enumerate(self.parameters) if not p.dtype]
        count = len(self.parameters)

        def call(*arguments: Any) -> Any:
            if len(arguments) != count:
                raise TypeError(f"{self.name} takes {count} arguments, got {len(arguments)}")
            converted = list(arguments)
            for i, name, least, most in scalars:
                converted[i] = integer(arguments[i], name, least, most)
            for i, parameter in arrays:
                array = arguments[i]
                if not isinstance(array, np.ndarray):
                    raise TypeError(f"{self.name}: {parameter.name} must be an array, not {type(array).__name__}")
                flags = array.flags
                if array.dtype != parameter.dtype or not (flags.c_contiguous and flags.aligned):
                    raise TypeError(f"{self.name}: {parameter.name} must be a contiguous array of {parameter.dtype}")
                if not (flags.writeable or parameter.constant):
                    raise ValueError(f"{self.name}: {parameter.name} is written, but the array is read-only")
                if array.size < parameter.needed(arguments):
                    raise ValueError(
                        f"{self.name}: {parameter.name} has {array.size} elements, needs {parameter.needed(arguments)}"
                    )
                converted[i] = convert(parameter, array)
            return function(*converted)

        call.__name__ = self.name
        return call


KERNELS = {kernel.name: kernel for kernel in map(Kernel.parse, SIGNATURES)}
