"""What scikit-learn expects of an estimator, without importing it: parameters, checks of input, tags, output frames."""
# ruff: noqa: N803  (X is what scikit-learn passes by name)

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from ._arrays import readable

Array = NDArray[Any]
Self = TypeVar("Self", bound="Estimator")

FLOATS = ("float16", "bfloat16", "float32", "float64")
"""Dtypes that input keeps; other numbers are taken as float64."""
_EXPONENTS = {"float16": 0x7C00, "bfloat16": 0x7F80}
_CHUNK = 1 << 20
"""Elements that are looked at together."""


class NotFittedError(ValueError, AttributeError):
    """A method was called that needs `fit` first. scikit-learn's own error is raised where that is imported."""


@dataclass(frozen=True)
class CSR:
    """A sparse matrix in compressed rows: sorted columns, none twice in a row, all numbers finite.

    Row i has the columns ``column[start[i]:start[i + 1]]`` (int64), with the values ``data[start[i]:start[i + 1]]``.
    """

    data: Array
    column: NDArray[np.int64]
    start: NDArray[np.int64]
    shape: tuple[int, int]
    container: Any
    """The class that it came in, of SciPy."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of the values."""
        return self.data.dtype

    def dense(self, first: int = 0, last: int | None = None, dtype: Any = None) -> Array:
        """Rows `first` to `last - 1` as an array."""
        last = self.shape[0] if last is None else last
        part = slice(self.start[first], self.start[last])
        out = np.zeros((last - first, self.shape[1]), self.dtype if dtype is None else dtype)
        row = np.repeat(np.arange(last - first), np.diff(self.start[first : last + 1]))
        out[row, self.column[part]] = self.data[part]
        return out


# ---- input


def _is_sparse(X: Any) -> bool:
    """Whether it is a sparse matrix or array of SciPy, or what passes for one."""
    return type(X) is not np.ndarray and hasattr(X, "tocsr") and hasattr(X, "nnz")


def _feature_names(X: Any) -> Array | None:
    """Column names of a data frame, if they are strings."""
    if type(X) in (np.ndarray, list) or not hasattr(X, "shape"):
        return None
    columns = getattr(X, "column_names", None)  # PyArrow, whose columns are data
    columns = getattr(X, "columns", None) if columns is None else columns
    if columns is None or callable(columns):
        return None
    names = np.asarray(columns, object)
    kinds = sorted({type(name).__qualname__ for name in names})
    if len(kinds) > 1 and "str" in kinds:
        raise TypeError(
            "X: Feature names are only supported if all input features have string names, "
            f"but your input has {kinds} as feature name / column name types"
        )
    return names if kinds == ["str"] else None


def _check_feature_names(X: Any, estimator: Any, reset: bool) -> None:
    names, kind = _feature_names(X), type(estimator).__name__
    if reset:
        if names is not None:
            estimator.feature_names_in_ = names
        elif hasattr(estimator, "feature_names_in_"):
            del estimator.feature_names_in_
        return
    fitted = getattr(estimator, "feature_names_in_", None)
    if names is None and fitted is None:
        return
    if fitted is None:
        warnings.warn(f"X has feature names, but {kind} was fitted without feature names", stacklevel=4)
    elif names is None:
        warnings.warn(f"X does not have valid feature names, but {kind} was fitted with feature names", stacklevel=4)
    elif not np.array_equal(names, fitted):
        message = "The feature names should match those that were passed during fit.\n"
        unseen, missing = sorted(set(names) - set(fitted)), sorted(set(fitted) - set(names))
        for title, group in (
            ("Feature names unseen at fit time", unseen),
            ("Feature names seen at fit time, yet now missing", missing),
        ):
            shown = [f"- {name}\n" for name in group[:5]] + ["- ...\n"] * (len(group) > 5)
            message += f"{title}:\n{''.join(shown)}" if group else ""
        if not unseen and not missing:
            message += "Feature names must be in the same order as they were in fit.\n"
        raise ValueError(message)


def _floating(array: Array) -> Array:
    """An aligned array in native byte order and one of the dtypes that input keeps."""
    dtype = array.dtype
    if dtype.kind == "c":
        raise ValueError(f"X: dtype {dtype}. Complex data not supported; allowed are real numbers")
    if dtype.name in FLOATS:
        return readable(array, dtype.newbyteorder("="))
    if dtype.kind not in "biufO":
        raise TypeError(f"X: dtype {dtype}; allowed are {', '.join(FLOATS)}, and other real numbers")
    return readable(array, np.dtype(np.float64))


def _all_finite(array: Array) -> bool:
    if array.dtype.itemsize > 2:
        with np.errstate(all="ignore"):
            # No temporary, and BLAS is fast at it; only what overflowed needs a closer look.
            if np.isfinite(np.vdot(array, array) if array.flags.c_contiguous else array.sum()):
                return True
        exponent = 0
    else:
        exponent = _EXPONENTS[array.dtype.name]
        array = array.view(np.uint16)
    step = max(1, _CHUNK // max(1, array[:1].size))
    for first in range(0, len(array), step):
        part = array[first : first + step]
        if not (((part & exponent) != exponent) if exponent else np.isfinite(part)).all():
            return False
    return True


def check_finite(array: Array, kind: str) -> None:
    """ValueError if a number is nan or infinite; `kind` is for the message."""
    if not _all_finite(array):
        raise ValueError(f"X: Input X contains NaN or infinity; {kind} accepts finite numbers only")


def _check_shape(shape: tuple[int, ...]) -> None:
    if len(shape) != 2:
        held = f"{len(shape)}D" if shape else "scalar"
        raise ValueError(
            f"X: shape {shape}. Expected 2D array, got {held} array instead. Reshape your data: X.reshape(-1, 1) if it "
            "has a single feature, X.reshape(1, -1) if it is a single sample"
        )
    for count, what in zip(shape, ("sample", "feature"), strict=True):
        if not count:
            raise ValueError(f"X: Found array with 0 {what}(s) (shape={shape}) while a minimum of 1 is required.")


def _csr(X: Any, kind: str) -> CSR:
    _check_shape(X.shape)
    matrix = X.tocsr()
    rows, columns = matrix.shape
    start = np.asarray(matrix.indptr)
    stored = int(start[-1]) if start.size else 0
    # What was put together by hand may be anything, and kernels believe it.
    right = start.shape == (rows + 1,) and start[0] == 0 and (start[1:] >= start[:-1]).all()
    if right and min(matrix.indices.size, matrix.data.size) >= stored:
        column = np.asarray(matrix.indices)[:stored]
        right = not stored or (column.min() >= 0 and column.max() < columns)
    else:
        right = False
    if not right:
        raise ValueError("X: the CSR arrays are inconsistent; allowed are sorted indptr from 0 and indices of columns")
    if not matrix.has_canonical_format:
        matrix = matrix.copy() if matrix is X else matrix
        matrix.sum_duplicates()
    start = np.require(matrix.indptr, np.int64, ["C", "A"])
    column = np.require(matrix.indices[: start[-1]], np.int64, ["C", "A"])
    data = np.ascontiguousarray(_floating(np.asarray(matrix.data)[: start[-1]]))
    check_finite(data, kind)
    return CSR(data, column, start, (rows, columns), type(matrix))


def checked(X: Any, kind: str, accept_sparse: bool = False, finite: bool = True) -> Array | CSR:
    """`validate` without an estimator: any number of columns, and no names; `kind` is for messages."""
    if _is_sparse(X):
        if not accept_sparse:
            raise TypeError(f"X: Sparse data was passed, but {kind} needs a dense array; use X.toarray()")
        return _csr(X, kind)
    try:
        array = X if type(X) is np.ndarray else np.asarray(X)
        if array.dtype.kind != "c":
            _check_shape(array.shape)
        array = _floating(array)
    except (ValueError, OverflowError) as error:  # of a ragged list, of strings among numbers, of 10**400
        text = str(error)
        raise ValueError(text if text.startswith(("X", "Expected", "Found")) else f"X: {text}") from None
    if finite:
        check_finite(array, kind)
    return array


def validate(X: Any, estimator: Any, *, reset: bool, accept_sparse: bool = False, finite: bool = True) -> Array | CSR:
    """Rows of finite numbers: what scikit-learn's ``validate_data`` checks, with the messages that its checks look for.

    Parameters
    ----------
    X : array_like, data frame or sparse matrix, shape (rows, features)
        float16, bfloat16 (ml_dtypes), float32 and float64 are kept; other real numbers are taken as float64.
    estimator : Estimator
        With `reset`, its ``n_features_in_`` is set, and its ``feature_names_in_`` if X is a data frame with string
        names; otherwise they are compared with X.
    reset : bool
        True in `fit` and the first `partial_fit`.
    accept_sparse : bool
        Whether a sparse matrix is returned as `CSR`, or refused.
    finite : bool
        False if the caller looks for nan and infinities in an array by itself, with `check_finite`.

    Returns
    -------
    ndarray or CSR
        An array is aligned, in native byte order and of any strides; it may be X itself. Entries of a sparse matrix
        are sorted and duplicates added up, on a copy where that is needed.

    Raises
    ------
    TypeError, ValueError
        If X has not two dimensions, no rows or columns, another number of columns than in `fit`, is not of real
        numbers, or has a nan or an infinity.
    """
    kind = type(estimator).__name__
    _check_feature_names(X, estimator, reset)
    result = checked(X, kind, accept_sparse, finite)
    columns = result.shape[1]
    if reset:
        estimator.n_features_in_ = columns
    elif columns != estimator.n_features_in_:
        raise ValueError(
            f"X has {columns} features, but {kind} is expecting {estimator.n_features_in_} features as input"
        )
    return result


# ---- estimators


def _parameters(kind: Any) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(kind).parameters


class Unpickled(dict[Any, Any]):
    """What an estimator keeps for itself: copies and pickles of it are empty."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Unpickled, ()

    def __deepcopy__(self, memo: Any) -> Unpickled:
        return Unpickled()


class Estimator:
    """Base of estimators: the arguments of ``__init__`` are the parameters, kept as attributes of the same names.

    They are checked by `fit`, not before. What `fit` learns has names that end in an underscore.
    """

    _accepts_sparse: ClassVar[bool] = False
    n_features_in_: int

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters.

        Parameters
        ----------
        deep : bool
            Whether those of parameters that are estimators follow, as ``name__parameter``.

        Returns
        -------
        dict
            Values by name.
        """
        params = {}
        for name in _parameters(type(self)):
            params[name] = value = getattr(self, name)
            if deep and hasattr(value, "get_params") and not isinstance(value, type):
                params |= {f"{name}__{inner}": each for inner, each in value.get_params().items()}
        return params

    def set_params(self: Self, **params: Any) -> Self:
        """Set parameters; they take effect with the next `fit`.

        Parameters
        ----------
        **params
            Values by name; ``name__parameter`` for that of a parameter which is an estimator.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If there is no such parameter; none is set then.
        """
        known = _parameters(type(self))
        for key, value in params.items():
            if key.partition("__")[0] not in known:
                kind = type(self).__name__
                raise ValueError(f"{key}={value!r}: no parameter of {kind}; allowed are {', '.join(known)}")
        for key, value in params.items():
            name, nested, inner = key.partition("__")
            if nested:
                getattr(self, name).set_params(**{inner: value})
            else:
                setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        shown = [
            f"{name}={getattr(self, name)!r}"
            for name, parameter in _parameters(type(self)).items()
            if repr(getattr(self, name)) != repr(parameter.default)
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "n_features_in_")

    def __sklearn_tags__(self) -> Any:
        utils = import_module("sklearn.utils")
        return utils.Tags(
            estimator_type=None,
            target_tags=utils.TargetTags(required=False),
            input_tags=utils.InputTags(sparse=self._accepts_sparse),
        )

    def _check_fitted(self) -> None:
        if not self.__sklearn_is_fitted__():
            kind = import_module("sklearn.exceptions").NotFittedError if "sklearn" in sys.modules else NotFittedError
            raise kind(f"This {type(self).__name__} instance is not fitted yet: call 'fit' first")


class Transformer(Estimator):
    """Base of estimators with `transform`, whose output may be a data frame.

    `transform` ends with ``return self._contained(out, X)``.
    """

    _preserves_dtype: ClassVar[tuple[str, ...]] = ("float64", "float32", "float16")

    def fit(self: Self, X: Any, y: Any = None) -> Self:
        raise NotImplementedError

    def transform(self, X: Any) -> Any:
        raise NotImplementedError

    def fit_transform(self, X: Any, y: Any = None) -> Any:
        """Fit to X and return ``transform(X)``.

        Parameters
        ----------
        X : array_like, shape (rows, features)
            As for `fit`.
        y : object
            Not used.

        Returns
        -------
        ndarray
            As from `transform`.
        """
        return self.fit(X, y).transform(X)

    @property
    def _n_features_out(self) -> int:
        """How many columns `transform` returns."""
        raise NotImplementedError

    def get_feature_names_out(self, input_features: Any = None) -> Array:
        """Return names of the columns that `transform` returns: the class's name and the column's number.

        Parameters
        ----------
        input_features : array_like of str, optional
            Names of the columns that went in; only compared with those seen in `fit`.

        Returns
        -------
        ndarray of str objects
            The names.
        """
        self._check_fitted()
        if input_features is not None:
            names = np.asarray(input_features, object)
            fitted = getattr(self, "feature_names_in_", None)
            if fitted is not None and not np.array_equal(fitted, names):
                raise ValueError("input_features is not equal to feature_names_in_")
            if len(names) != self.n_features_in_:
                raise ValueError(
                    "input_features should have length equal to number of features "
                    f"({self.n_features_in_}), got {len(names)}"
                )
        prefix = type(self).__name__.lower()
        return np.array([f"{prefix}{i}" for i in range(self._n_features_out)], object)

    def set_output(self: Self, *, transform: str | None = None) -> Self:
        """Choose what `transform` returns.

        Parameters
        ----------
        transform : {"default", "pandas", "polars"}, optional
            An array or a data frame; None changes nothing.

        Returns
        -------
        self
        """
        if transform is not None:
            self._sklearn_output_config = {"transform": transform}  # the name that scikit-learn's clone copies
        return self

    def _contained(self, data: Array, X: Any) -> Any:
        """`data`, which `transform` made of X, in the container that is asked for."""
        config = getattr(self, "_sklearn_output_config", None)
        if config is None:
            if "sklearn" not in sys.modules:
                return data
            config = {"transform": sys.modules["sklearn"].get_config().get("transform_output", "default")}
        container = config["transform"]
        if container == "default":
            return data
        if container == "pandas":
            pandas = import_module("pandas")
            index = X.index if isinstance(X, pandas.DataFrame) else None
            return pandas.DataFrame(data, index=index, columns=self.get_feature_names_out(), copy=False)
        if container == "polars":
            polars = import_module("polars")
            return polars.DataFrame(data, schema=self.get_feature_names_out().tolist(), orient="row")
        raise ValueError(f"output config must be in ['default', 'pandas', 'polars'], got {container}")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.estimator_type = "transformer"
        tags.transformer_tags = import_module("sklearn.utils").TransformerTags(
            preserves_dtype=list(self._preserves_dtype)
        )
        return tags
