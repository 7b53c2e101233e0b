"""Unaligned loads and stores and plain copies, which numba's array indexing cannot express."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


def _address(context: Any, builder: Any, array_type: Any, array: Any, position: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [position])


def _load(bits: int, result: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _address(context, builder, signature.args[0], *arguments)
        word = ir.IntType(bits)
        value = builder.load(builder.bitcast(address, word.as_pointer()), align=1)
        return value if bits == 64 else builder.zext(value, ir.IntType(64))

    return generate, result


def _store(bits: int) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, position, value = arguments
        address = _address(context, builder, signature.args[0], array, position)
        word = ir.IntType(bits)
        value = value if bits == 64 else builder.trunc(value, word)
        builder.store(value, builder.bitcast(address, word.as_pointer()), align=1)
        return context.get_dummy_value()

    return generate


@intrinsic
def load32(typing_context: Any, buf: Any, at: Any) -> Any:
    """The 32 bits at a byte position, as int64."""
    generate, result = _load(32, types.int64)
    return result(buf, types.int64), generate


@intrinsic
def load64(typing_context: Any, buf: Any, at: Any) -> Any:
    """The 64 bits at a byte position, as uint64."""
    generate, result = _load(64, types.uint64)
    return result(buf, types.int64), generate


@intrinsic
def store32(typing_context: Any, buf: Any, at: Any, value: Any) -> Any:
    """Write the low 32 bits of an int64 at a byte position."""
    return types.void(buf, types.int64, types.int64), _store(32)


@intrinsic
def store64(typing_context: Any, buf: Any, at: Any, value: Any) -> Any:
    """Write a uint64 at a byte position."""
    return types.void(buf, types.int64, types.uint64), _store(64)


@intrinsic
def copy(typing_context: Any, out: Any, to: Any, buf: Any, start: Any, n: Any) -> Any:
    """Copy n bytes of buf from `start` to out at `to`; they do not overlap."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        out, to, buf, start, n = arguments
        target = _address(context, builder, signature.args[0], out, to)
        source = _address(context, builder, signature.args[2], buf, start)
        cgutils.raw_memcpy(builder, target, source, n, 1)
        return context.get_dummy_value()

    return types.void(out, types.int64, buf, types.int64, types.int64), generate


@intrinsic
def address(typing_context: Any, start: Any) -> Any:
    """A pointer as int64."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ptrtoint(arguments[0], ir.IntType(64))

    return types.int64(start), generate


@intrinsic
def pointer(typing_context: Any, start: Any, offset: Any, like: Any) -> Any:
    """A pointer some bytes behind a pointer to bytes, to numbers of the type of `like`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        moved = builder.gep(arguments[0], [arguments[1]])
        return builder.bitcast(moved, context.get_value_type(signature.return_type))

    return types.CPointer(like)(start, types.int64, like), generate


@intrinsic
def stack(typing_context: Any, n: Any, like: Any) -> Any:
    """Room on the stack for a constant n of numbers of the type of `like`, the same whenever this line runs."""
    if not isinstance(n, types.IntegerLiteral):
        return None
    count = n.literal_value

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return cgutils.alloca_once(builder, context.get_value_type(like), size=count)

    return types.CPointer(like)(n, like), generate
