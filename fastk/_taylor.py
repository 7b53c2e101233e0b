"""Plans: what the kernels of Taylor polynomials are told about a polynomial, by order, temperature and floor.

Of f_n(x) = sum of x^k / k! up to n, the kernels compute the product of (x - root), if n is odd, and of its quadratics
(x - a)^2 + b, which are positive; so it is accurate where the sum of powers cancels.
"""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._taylor_error import taylor_minimum

PAIRS = 6
FACTORS: dict[int, tuple[float | None, list[tuple[float, float]]]] = {
    1: (
        -1.0,
        [
        ],
    ),
    2: (
        None,
        [
            (-1.0, 1.0),
        ],
    ),
    3: (
        -1.5960716379833215,
        [
            (-0.7019641810083392, 3.2664760482060897),
        ],
    ),
    4: (
        None,
        [
            (-1.7294442310677054, 0.7902754414012606), (-0.27055576893229455, 6.273902331074652),
        ],
    ),
    5: (
        -2.180607124035126,
        [
            (-1.649502831735845, 2.8694103783707936), (0.23980639375340804, 9.786480034715165),
        ],
    ),
    6: (
        None,
        [
            (-2.361810180482303, 0.7028311884851056), (-1.4418013905495437, 5.926900688239505),
            (0.8036115710318467, 13.672998258792108),
        ],
    ),
    7: (
        -2.759002709962272,
        [
            (-2.379883883168921, 2.6536376650215416), (-1.1472006899371303, 9.75962116092808),
            (1.4065859280871875, 17.851189844292264),
        ],
    ),
    8: (
        None,
        [
            (-2.964599505160356, 0.6542841483975133), (-2.286429284171176, 5.653512775163566),
            (-0.7887936203876237, 14.226556589923037), (2.0398224097191555, 22.265326422785105),
        ],
    ),
    9: (
        -3.333551485269049,
        [
            (-3.038648072936697, 2.5179380348616793), (-2.1108398003026547, 9.547549547457288),
            (-0.38106984566311297, 19.225107682041823), (2.697333461536989, 26.87553629181343),
        ],
    ),
    10: (
        None,
        [
            (-3.553875993928198, 0.6231872249622873), (-3.015535770425964, 5.453270465807628),
            (-1.8716600104194736, 14.21433438101912), (0.06620154630149054, 24.67783832714085),
            (3.3748702284721452, 31.652103062371527),
        ],
    ),
    11: (
        -3.9054517576169103,
        [
            (-3.6641516024300684, 2.4243855751067573), (-2.917050820338835, 9.341408762188602),
            (-1.5814408104062068, 19.55722133769699), (0.5460781589201914, 30.524574662905074),
            (4.069290953063374, 36.57216408482072),
        ],
    ),
    12: (
        None,
        [
            (-4.135608239264631, 0.601465469937989), (-3.688897102446205, 5.30269048840861),
            (-2.757989231191921, 14.081619361905425), (-1.2491251433584185, 25.498006781499022),
            (1.053423639656268, 36.71743643707571), (4.778196076604908, 41.61767613649275),
        ],
    ),
}
"""Of each degree, the real root, and a and b of each quadratic. They follow from the definition of f_n."""



def _root(number: int, degree: int) -> float:
    """The degree-th root, rounded correctly: by decimals, since the C library's power is not the same everywhere."""
    with localcontext() as context:
        context.prec = 50
        return float(Decimal(number) ** (Decimal(1) / degree))


def _entries(degree: int, unit: float, lead: float) -> list[float]:
    """Scale, lead, root, a and b of f(x) = lead * (t - root) * ..., t = unit * x."""
    root, quadratics = FACTORS[degree]
    missing = [0.0] * (PAIRS - len(quadratics))
    a = [unit * a for a, _ in quadratics] + missing
    b = [unit * unit * b for _, b in quadratics] + missing
    return [unit, lead, unit * (root or 0.0), *a, *b]


def _ordinary(degree: int) -> list[float]:
    """With a unit that is a power of two, and makes lead 1 or more: no product overflows before f does."""
    shift = 0
    while degree > 2 and 2 ** (shift * degree) < math.factorial(degree):
        shift += 1
    return _entries(degree, 2.0**-shift, 2.0 ** (shift * degree) / math.factorial(degree))


@lru_cache(maxsize=1024)
def plan(order: int, rate: float = 1.0, monotone: bool = False, margin: float = 0.0) -> NDArray[Any]:
    """What ``csrc/taylor.h`` calls a plan: f is evaluated at rate * x, but not left of its minimum if monotone."""
    floor = taylor_minimum(order).x if monotone else -math.inf
    return _array(order, rate, floor, *_ordinary(order), *_ordinary(order - 1), margin)


@lru_cache
def fast_plan(order: int) -> NDArray[Any]:
    """For `fast_softmax`: f at x / 32, with a lead of 1."""
    entries = _entries(order, 1 / _root(math.factorial(order), order), 1.0)
    return _array(order, 1 / 32, taylor_minimum(order).x, *entries, *_ordinary(order - 1), 0.0)


def _array(*entries: float) -> NDArray[Any]:
    made = np.array(entries)
    made.flags.writeable = False
    return made
