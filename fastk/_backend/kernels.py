"""The table of kernels: name, signature and dtypes of each, once.

Both backends bind from it and the tests parametrise over it. A signature reads as C does; ``u64[n]`` is a contiguous
array of at least ``n`` elements, where ``n`` is an integer argument of the same call (or ``2*n``, or a number; 0 where
other arguments tell what is touched), and ``f32[s,m,n]`` an array of just that shape, whose strides are its own. What
is not ``const`` is written.
What a kernel computes is said above its body in ``csrc/``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from .._check import integer

DTYPES: dict[str, type[np.generic]] = {"u8": np.uint8, "u16": np.uint16, "u32": np.uint32, "u64": np.uint64}
DTYPES |= {"i32": np.int32, "i64": np.int64, "f32": np.float32, "f64": np.float64}

SIGNATURES = [
    "void philox_fill(u64 key0, u64 key1, u64 start, u64[n] out, size n)",
    "void philox_rows(u64 key0, u64 key1, u64 tag, u64 first_row, u64 first, u64[size] out, size size, size n)",
    "void philox_normal(u64 key0, u64 key1, u64 tag, u64 first_row, u64 first, f64[size] out, size size, size n)",
    "size find_byte(const u8[n] buf, size n, u8 byte)",
    "size rfind_byte(const u8[n] buf, size n, u8 byte)",
    "size count_byte(const u8[n] buf, size n, u8 byte)",
    "size split_delimited(const u8[n] buf, size n, const u8[width] delimiter, size width, size lines, u64[4] state,"
    " u32[capacity] start, u32[capacity] size, size capacity)",
    "size split_frames(const u8[n] buf, size n, bits gap_bits, u64[2] state, u32[capacity] start, u32[capacity] size,"
    " u64[capacity] number, size capacity)",
    "void number_records(u64 first, u64[m] number, size m)",
    "void bucket_records(const u64[m] number, size m, u64 key0, u64 key1, const u64[levels] fanout, size levels,"
    " fanout buckets, u64 least, u64 most, u16[m] bucket)",
    "void scatter_count(const u8[0] buf, const u32[m] start, const u32[m] size, const u64[m] number,"
    " const u16[m] bucket, size m, fanout buckets, bits gap_bits, u32 reference_size, u64[7*buckets] tally)",
    "void scatter_place(const u8[0] buf, const u32[m] start, const u32[m] size, const u64[m] number,"
    " const u16[m] bucket, size m, bits gap_bits, u32 reference_size, u64 offset, u64[buckets] previous,"
    " u64[buckets] position, fanout buckets, u8[0] out)",
    "void records_checksum(const u8[0] buf, const u32[m] start, const u32[m] size, const u16[m] bucket, size m,"
    " fanout buckets, u64[7*buckets] tally)",
    "void checksum_blocks(const u8[n] buf, size n, u64[2] state)",
    "void checksum_end(const u8[n] tail, size n, u64 length, u64[2] state)",
    "size frames_index(const u8[n] base, size n, u64[2*count] segments, size count, bits gap_bits, u64[1] previous,"
    " u64 key0, u64 key1, const u64[levels] fanout, size levels, u64[2*capacity] entries, size capacity)",
    "void entries_sort(u64[2*m] entries, size m)",
    "size gather(const u8[0] base, const u64[2*to] entries, size from, size to, bits gap_bits, u8[capacity] out,"
    " size capacity, u64[1] written)",
    "size frames_measure(const u8[0] base, const u64[2*to] entries, size from, size to, bits gap_bits, u64[1] bytes)",
    "size frames_checksum(const u8[0] base, const u64[2*to] entries, size from, size to, bits gap_bits, u64[2] sum)",
    *(
        signature.format(kind=kind, operand=operand, result=result)
        for kind, operand, result in (("f32", "f32", "f32"), ("f64", "f64", "f64"), ("i32", "f32", "i32"))
        for signature in (
            "size mitchell_gemm_{kind}(const {operand}[stack,m,k] a, const {operand}[stack,k,n] b,"
            " {result}[stack,m,n] c, size stack, size m, size n, size k, i64 bias, flag refined, u8[room] work,"
            " size room)",
            "size mitchell_conv_{kind}(const {operand}[images,channels,h,w] x, const {operand}[m,k] a,"
            " {result}[images,m,n] c, size images, size channels, size h, size w, size m, size k, size n, size first,"
            " size groups, size kernel_h, size kernel_w, size out_w, size stride_h, size stride_w, size pad_h,"
            " size pad_w, size dilation_h, size dilation_w, i64 bias, flag refined, u8[room] work, size room)",
        )
    ),
    *(
        signature.format(name=name, kind=kind)
        for name, kind in (("f16", "u16"), ("bf16", "u16"), ("f32", "f32"), ("f64", "f64"))
        for signature in (
            "void taylor_plain_{name}(u8 op, const {kind}[size] x, {kind}[size] out, size size, size n,"
            " const f64[34] plan)",
            "void taylor_rows_{name}(u8 op, const {kind}[rows,m,n] x, const {kind}[rows,m,n] g,"
            " const u8[rows,m,n] where, {kind}[rows,m,n] out, size rows, size m, size n, flag masked,"
            " const f64[34] plan)",
            "void taylor_loss_{name}(const {kind}[rows,n] x, const i64[rows] label, f64[rows] loss, size rows, size n,"
            " const f64[34] plan)",
            "void taylor_loss_vjp_{name}(const f64[rows] g, const {kind}[rows,n] x, const i64[rows] label,"
            " {kind}[rows,n] out, size rows, size n, const f64[34] plan)",
        )
    ),
    *(
        signature.format(t=kind)
        for kind in ("f32", "f64")
        for signature in (
            "void hadamard_{t}(const {t}[size] x, {t}[size] out, size size, size n, size inner, flag normalize)",
            "void simhash_{t}(const {t}[rows,d] x, u8[rows,bytes] code, const {t}[table_size] table, {t}[p] work,"
            " size rows, size d, size bytes, size bits, size p, size table_size)",
            "void srht_{t}(const {t}[rows,d] x, {t}[rows,k] out, const {t}[p] sign, const u32[k] sample,"
            " const {t}[1] scale, {t}[p] work, size rows, size d, size k, size p)",
            "size sparse_project_{t}(const {t}[rows,d] x, {t}[rows,k] out, const i64[k1] start,"
            " const u32[nonzeros] entry, const {t}[1] scale, {t}[room] work, size rows, size d, size k, size k1,"
            " size nonzeros, size room)",
            "void sparse_project_csr_{t}(const {t}[nnz] data, const i64[nnz] column, const i64[rows1] start,"
            " {t}[rows,k] out, const i64[d1] first, const u32[nonzeros] entry, const {t}[1] scale, size nnz,"
            " size rows1, size rows, size k, size d1, size nonzeros)",
            "void pack_signs_{t}(const {t}[rows,n] x, u8[rows,bytes] code, size rows, size n, size bytes)",
        )
    ),
    "void hamming_pairs(const u8[rows,bytes] a, const u8[rows,bytes] b, i32[rows] out, size rows, size bytes)",
    "size hamming_topk(const u8[queries,bytes] query, const u8[n,bytes] code, i32[queries,k] distance,"
    " i64[queries,k] id, u64[room] work, size queries, size n, size bytes, size k, i64 first, size room)",
    "size hamming_range(const u8[queries,bytes] query, const u8[n,bytes] code, const i64[queries] position,"
    " i64[queries] count, i32[hits] distance, i64[hits] id, u64[room] work, size queries, size n, size bytes,"
    " i64 radius, i64 first, size hits, size room)",
    "size lsh_unit(const f32[rows,d] x, f32[size] out, size rows, size d, size width, size size)",
    "void lsh_project(const f32[rows,d] x, f32[rows,bits] out, const f32[table_size] table, f32[p] work, size rows,"
    " size d, size bits, size p, size table_size)",
    "size lsh_build(const u8[code_size] code, u32[start_size] start, u32[position_size] position, u64[key_size] key,"
    " size n, size bytes, size tables, size first, size n_bits, size prefix, size code_size, size start_size,"
    " size position_size, size key_size)",
    "size lsh_probes(const f32[projection_size] projection, u64[bucket_size] bucket, u64[room] work, size rows,"
    " size tables, size n_bits, size probes, size projection_size, size bucket_size, size room)",
    "size lsh_small(const f32[row_size] row, u8[small_size] small, f32[n] scale, size n, size width, size small_width,"
    " size row_size, size small_size)",
    "size lsh_query(const f32[query_size] query, const u64[bucket_size] bucket, const f32[row_size] row,"
    " const u8[small_size] small, const f32[scales] scale, const i64[n] id, const u64[words] removed,"
    " const u32[start_size] start, const u32[position_size] position, const u64[key_size] key, f32[found] cosine,"
    " i64[found] neighbor, i64[queries] candidates, u64[room] work, size queries, size tables, size probes, size k,"
    " size width, size small_width, size n, size n_bits, size starts, size query_size, size bucket_size, size row_size,"
    " size small_size, size scales, size words, size start_size, size position_size, size key_size, size found,"
    " size room)",
]

RANGES = {
    "u8": (0, 2**8 - 1),
    "u32": (0, 2**32 - 1),
    "u64": (0, 2**64 - 1),
    "i64": (-(2**63), 2**63 - 1),
    "flag": (0, 1),
    "size": (0, 2**63 - 1),
    "bits": (1, 31),
    "fanout": (1, 2**16 - 1),
}
"""Scalar kinds: least and most."""

TALLY_FIELDS = (
    "records", "scratch_bytes", "output_bytes", "first_number", "last_number", "check_low", "check_high",
)  # fmt: skip
"""Columns of the table that ``scatter_count`` and ``records_checksum`` fill, a row a bucket."""


@dataclass(frozen=True)
class Parameter:
    """One argument of a kernel: a scalar, or an array.

    An array of one dimension is contiguous, with at least ``times * argument[extents[0]]`` elements; one of more has
    the shape that the arguments at ``extents`` give, and any strides.
    """

    name: str
    kind: str
    dtype: type[np.generic] | None = None
    constant: bool = False
    times: int = 1
    extents: tuple[int, ...] = ()

    @cached_property
    def strided(self) -> bool:
        """Whether strides are passed along."""
        return len(self.extents) > 1

    def refusal(self, array: Any, arguments: list[Any]) -> Exception | None:
        """What is wrong with this array in this call."""
        if not isinstance(array, np.ndarray):
            return TypeError(f"{self.name} must be an array, not {type(array).__name__}")
        flags = array.flags
        if array.dtype != self.dtype or not (flags.aligned and (self.strided or flags.c_contiguous)):
            kind = "an aligned" if self.strided else "a contiguous"
            return TypeError(f"{self.name} must be {kind} array of {self.dtype}")
        if not (flags.writeable or self.constant):
            return ValueError(f"{self.name} is written, but the array is read-only")
        if self.strided:
            shape = tuple([arguments[i] for i in self.extents])
            return None if array.shape == shape else ValueError(f"{self.name} has shape {array.shape}, not {shape}")
        needed = self.times * arguments[self.extents[0]] if self.extents else self.times
        return None if array.size >= needed else ValueError(f"{self.name} has {array.size} elements, needs {needed}")


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
        rows = [argument.split() for argument in re.split(r",(?![^[]*\])", inner)]
        names = [row[-1] for row in rows]
        parameters = []
        for *constant, kind, parameter in rows:
            array = re.fullmatch(r"(\w+)\[(?:(\d+)\*)?([\w,]+)\]", kind)
            if array is None:
                parameters.append(Parameter(parameter, kind))
                continue
            dtype, times, shape = array.groups()
            fixed = shape.isdigit()
            extents = () if fixed else tuple(names.index(extent) for extent in shape.split(","))
            count = int(shape if fixed else times or 1)
            parameters.append(Parameter(parameter, "array", DTYPES[dtype], bool(constant), count, extents))
        return cls(name, returns, tuple(parameters))

    def checked(
        self,
        function: Callable[..., Any],
        convert: Callable[[Any, Any], Iterable[Any]],
        direct: Callable[[Any], Callable[[Any], Any]] | None = None,
    ) -> Callable[..., Any]:
        """Wrap a backend's function: everything is checked and arrays converted; no other code reaches the kernel.

        `direct(parameter)`, if given, is what converts a contiguous array to one argument.

        The wrapper is written out for the kernel: what is right, as it nearly always is, passes in a few comparisons.
        """
        names = [f"{p.name}_" for p in self.parameters]
        scope: dict[str, Any] = {"function": function, "convert": convert, "integer": integer, "ndarray": np.ndarray}
        lines = []

        def refuse(i: int, arguments: Any) -> None:
            if error := self.parameters[i].refusal(arguments[i], arguments):
                raise type(error)(f"{self.name}: {error}")

        def count(given: int) -> TypeError:
            return TypeError(f"{self.name} takes {len(names)} arguments, got {given}")

        scope |= {"refuse": refuse, "count": count}
        for name, p in zip(names, self.parameters, strict=True):
            if not p.dtype:
                least, most = RANGES[p.kind]
                right = f"type({name}) is int and {least} <= {name} <= {most}"
                described = f"{self.name}: {p.name}"
                lines.append(f"if not ({right}): {name} = integer({name}, {described!r}, {least}, {most})")
        for i, (name, p) in enumerate(zip(names, self.parameters, strict=True)):
            if p.dtype:
                scope |= {f"dtype_{i}": np.dtype(p.dtype), f"parameter_{i}": p}
                extents = [names[extent] for extent in p.extents]
                right = f"type({name}) is ndarray and {name}.dtype is dtype_{i} and (flags := {name}.flags).aligned"
                right += "" if p.constant else " and flags.writeable"
                if p.strided:
                    right += f" and {name}.shape == ({', '.join(extents)},)"
                else:
                    needed = " * ".join([str(p.times), *extents])
                    right += f" and flags.c_contiguous and {name}.size >= {needed}"
                lines.append(f"if not ({right}): refuse({i}, ({', '.join(names)},))")
        passed = list(names)
        for i, p in enumerate(self.parameters):
            if p.dtype and direct and not p.strided:
                scope[f"direct_{i}"] = direct(p)
                passed[i] = f"direct_{i}({names[i]})"
            elif p.dtype:
                passed[i] = f"*convert(parameter_{i}, {names[i]})"
        source = ["def call(*given):", f"    if len(given) != {len(names)}: raise count(len(given))"]
        source += [f"    {', '.join(names)}, = given", *(f"    {line}" for line in lines)]
        source += [f"    return function({', '.join(passed)})"]
        exec("\n".join(source), scope)
        call: Callable[..., Any] = scope["call"]
        call.__name__ = self.name
        return call


KERNELS = {kernel.name: kernel for kernel in map(Kernel.parse, SIGNATURES)}
