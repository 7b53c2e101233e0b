"""Checks of arguments: one wording for the whole package."""

from __future__ import annotations

import math
import operator
from numbers import Real
from typing import Any


def integer(value: Any, name: str, least: int, most: int | None = None, most_text: str | None = None) -> int:
    """`value` as an int; TypeError or ValueError naming the argument, its value and what is allowed.

    `most_text` says the upper limit as people write it.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}={value!r}: an integer is needed") from None
    if number < least or (most is not None and number > most):
        allowed = f"at least {least}" if most is None else f"{least} to {most_text or most}"
        raise ValueError(f"{name}={number}: allowed is {allowed}")
    return number


def check_seed(seed: Any) -> int:
    """`seed` as an int; TypeError or ValueError if it is no key of Philox."""
    return integer(seed, "seed", 0, 2**128 - 1, "2**128 - 1")


def real(value: Any, name: str, allowed: str) -> float:
    """`value` as a float, inf if it is too large for one; TypeError if it is no real number, as booleans are none."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}={value!r}: {allowed}")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def boolean(value: Any, name: str) -> bool:
    """`value` as a bool; TypeError if it is none, of Python's or NumPy's."""
    if isinstance(value, bool) or type(value).__name__ in ("bool_", "bool"):
        return bool(value)
    raise TypeError(f"{name}={value!r}: a bool is needed")


def finite(value: Any, name: str, above: float | None = None) -> float:
    """`value` as a float; TypeError or ValueError if it is not a finite real number, or not above what is given."""
    allowed = "a finite number is needed" if above is None else f"a finite number above {above:g} is needed"
    number = real(value, name, allowed)
    if not math.isfinite(number) or (above is not None and number <= above):
        raise ValueError(f"{name}={value!r}: {allowed}")
    return number
