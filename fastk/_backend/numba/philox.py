"""Philox4x64-10, as in csrc/philox.h."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

M0 = np.uint64(0xD2E7470EE14C6C93)
M1 = np.uint64(0xCA5A826395121157)
W0 = np.uint64(0x9E3779B97F4A7C15)
W1 = np.uint64(0xBB67AE8584CAA73B)
ZERO = np.uint64(0)
ONE = np.uint64(1)
TWO = np.uint64(2)
THREE = np.uint64(3)


@intrinsic
def multiply_wide(typing_context: Any, a: Any, b: Any) -> Any:
    """(high, low) words of a 64 x 64 bit product."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(builder.zext(arguments[0], wide), builder.zext(arguments[1], wide))
        high = builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))
        low = builder.trunc(product, ir.IntType(64))
        return context.make_tuple(builder, signature.return_type, (high, low))

    return types.UniTuple(types.uint64, 2)(types.uint64, types.uint64), generate


@njit(inline="never", cache=True)
def philox_block_of(key0, key1, row, tag, block):  # type: ignore[no-untyped-def]
    c0 = block + ONE
    c1 = row + (ONE if c0 == ZERO else ZERO)
    c2 = ONE if c0 == ZERO and c1 == ZERO else ZERO
    c3 = tag
    for _ in range(10):
        high0, low0 = multiply_wide(M0, c0)
        high1, low1 = multiply_wide(M1, c2)
        c0 = high1 ^ c1 ^ key0
        c2 = high0 ^ c3 ^ key1
        c1 = low1
        c3 = low0
        key0 += W0
        key1 += W1
    return c0, c1, c2, c3


@njit(inline="always")
def philox_block(key0, key1, block):  # type: ignore[no-untyped-def]
    return philox_block_of(key0, key1, ZERO, ZERO, block)


@njit(inline="always")
def word_of(block, number):  # type: ignore[no-untyped-def]
    which = number & THREE
    if which == ZERO:
        return block[0]
    if which == ONE:
        return block[1]
    if which == TWO:
        return block[2]
    return block[3]
