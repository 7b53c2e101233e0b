"""Numeric kernels that state their bounds and give the same bits everywhere, and an out-of-core shuffle of records.

The functions that need more than the standard library are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._version import __version__
from .config import config, set_num_threads

if TYPE_CHECKING:
    from . import attention, hashing, index, mitchell, projection, shuffle, softmax
    from .attention import performer_attention, taylor_attention
    from .hashing import (
        BioHash,
        CrossPolytopeHash,
        FlyHash,
        SimHash,
        hamming_distance,
        hamming_range,
        hamming_topk,
    )
    from .index import LSHIndex
    from .mitchell import (
        MitchellError,
        mitchell_conv2d,
        mitchell_div,
        mitchell_dot,
        mitchell_error,
        mitchell_exp2,
        mitchell_log2,
        mitchell_matmul,
        mitchell_mul,
        mitchell_pow,
        mitchell_reciprocal,
        mitchell_rsqrt,
        mitchell_sqrt,
        mitchell_square,
        mitchell_ufunc,
    )
    from .projection import (
        RandomProjection,
        Whitening,
        angle_cdf,
        angle_pdf,
        entropy_min_dim,
        hadamard_transform,
        johnson_lindenstrauss_min_dim,
        positive_random_features,
        positive_random_features_variance,
        randomized_svd,
        randomized_svd_error,
    )
    from .shuffle import ShuffleReport, shuffle_file
    from .softmax import (
        TaylorError,
        TaylorMinimum,
        fast_softmax,
        fast_softmax_error,
        gelu,
        log_taylor_softmax,
        log_taylor_softmax_vjp,
        taylor_cross_entropy,
        taylor_cross_entropy_vjp,
        taylor_error,
        taylor_exp,
        taylor_minimum,
        taylor_softmax,
        taylor_softmax_vjp,
    )

__all__ = [
    "BioHash",
    "CrossPolytopeHash",
    "FlyHash",
    "LSHIndex",
    "MitchellError",
    "RandomProjection",
    "ShuffleReport",
    "SimHash",
    "TaylorError",
    "TaylorMinimum",
    "Whitening",
    "__version__",
    "angle_cdf",
    "angle_pdf",
    "attention",
    "config",
    "entropy_min_dim",
    "fast_softmax",
    "fast_softmax_error",
    "gelu",
    "hadamard_transform",
    "hamming_distance",
    "hamming_range",
    "hamming_topk",
    "hashing",
    "index",
    "johnson_lindenstrauss_min_dim",
    "log_taylor_softmax",
    "log_taylor_softmax_vjp",
    "mitchell",
    "mitchell_conv2d",
    "mitchell_div",
    "mitchell_dot",
    "mitchell_error",
    "mitchell_exp2",
    "mitchell_log2",
    "mitchell_matmul",
    "mitchell_mul",
    "mitchell_pow",
    "mitchell_reciprocal",
    "mitchell_rsqrt",
    "mitchell_sqrt",
    "mitchell_square",
    "mitchell_ufunc",
    "performer_attention",
    "positive_random_features",
    "positive_random_features_variance",
    "projection",
    "randomized_svd",
    "randomized_svd_error",
    "set_num_threads",
    "shuffle",
    "shuffle_file",
    "softmax",
    "taylor_attention",
    "taylor_cross_entropy",
    "taylor_cross_entropy_vjp",
    "taylor_error",
    "taylor_exp",
    "taylor_minimum",
    "taylor_softmax",
    "taylor_softmax_vjp",
]

_MODULES = ("attention", "hashing", "index", "mitchell", "projection", "shuffle", "softmax")
_NAMES = {
    "attention": "performer_attention taylor_attention",
    "hashing": "BioHash CrossPolytopeHash FlyHash SimHash hamming_distance hamming_range hamming_topk",
    "index": "LSHIndex",
    "mitchell": " ".join(name for name in __all__ if name.lower().startswith("mitchell") and name != "mitchell"),
    "projection": "RandomProjection Whitening angle_cdf angle_pdf entropy_min_dim hadamard_transform"
    " johnson_lindenstrauss_min_dim positive_random_features positive_random_features_variance randomized_svd"
    " randomized_svd_error",
    "shuffle": "ShuffleReport shuffle_file",
}
_LAZY = {name: module for module, names in _NAMES.items() for name in names.split()}
_LAZY |= {name: "softmax" for name in __all__ if name not in _LAZY and name not in _MODULES}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _MODULES:
        return import_module("." + name, __name__)
    if name in _LAZY:
        globals()[name] = value = getattr(import_module("." + _LAZY[name], __name__), name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
