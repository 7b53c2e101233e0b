"""Checks of arguments: one wording for the whole package."""

from __future__ import annotations

import operator
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
