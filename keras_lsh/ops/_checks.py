"""Checks of what the ops receive: clear errors instead of undefined results.

Shapes, dtypes and Python arguments are checked when an op is called (`ValueError`),
data when it runs (`tf.errors.InvalidArgumentError`).
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_lsh._arguments import is_finite

MAX_INT32 = 2**31 - 1
MAX_FEATURES = 2**20  # of a sketch

_local = threading.local()


@contextlib.contextmanager
def data_checks(enabled: bool) -> Iterator[None]:
    """Whether the reference ops called (or traced) in this scope check their data.

    Without checks, data that would not pass gives undefined results. Shapes, dtypes and
    Python arguments are checked in any case. The scope belongs to the thread.
    """
    previous = getattr(_local, "data_checks", True)
    _local.data_checks = enabled
    try:
        yield
    finally:
        _local.data_checks = previous


def require(condition: bool, name: str, expected: str, received: Any) -> None:
    """Raises a ValueError that names the argument, what was expected, and what came."""
    if not condition:
        attribute = ".shape" if isinstance(received, tf.TensorShape) else ""
        raise ValueError(
            f"Received an invalid value for `{name}`, expected {expected}. "
            f"Received: {name}{attribute}={received}"
        )


def require_integer(name: str, value: Any, begin: int, end: int, expected: str) -> None:
    """Raises a ValueError unless `value` is an integer in [begin, end]."""
    is_integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    require(is_integer and begin <= value <= end, name, expected, value)


def as_tensor(name: str, x: Any, dtype: tf.DType, rank: int) -> tf.Tensor:
    """`x` as a tensor of this dtype and rank, or a ValueError that says what it is.

    NumPy integers of another width are taken if their values fit.
    """
    try:
        if isinstance(x, np.ndarray) and dtype.is_integer and x.dtype != dtype:
            # NumPy would truncate fractions and wrap large numbers without a word.
            if x.dtype.kind not in "iu":
                raise TypeError("expected integers")
            if x.size and (x.min() < dtype.min or x.max() > dtype.max):
                raise OverflowError("out of range")
            x = x.astype(dtype.as_numpy_dtype)
        tensor = tf.convert_to_tensor(x, dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"Received an invalid value for `{name}`, expected a tensor of dtype "
            f"{dtype.name}. Received: {name}={x}"
        ) from error
    shape = [None] * rank
    require_shape(name, tensor, shape, f"a tensor of rank {rank}")
    # In a graph it would be one more op, and a single sample is served by few of them.
    return tensor if tensor.shape.rank is not None else tf.ensure_shape(tensor, shape)


def as_weight(name: str, x: Any, rank: int, *dtypes: tf.DType) -> tf.Tensor:
    """A kernel or bias as a tensor; a ValueError names it if it cannot be one.

    Args:
        name: Of the argument.
        x: A variable or what can be made a tensor.
        rank: It must have.
        *dtypes: Of which it must have one; none: float32.
    """
    dtypes = dtypes or (tf.float32,)
    if isinstance(x, keras.Variable):
        x = x.value
    try:
        tensor = tf.convert_to_tensor(x)
        return as_tensor(
            name, tensor, tensor.dtype if tensor.dtype in dtypes else dtypes[0], rank
        )
    except (TypeError, ValueError) as error:
        names = " or ".join(dtype.name for dtype in dtypes)
        raise ValueError(
            f"Received an invalid value for `{name}`, expected a variable or tensor of "
            f"dtype {names} and rank {rank}. Received: {name}={x}"
        ) from error


def require_shape(name: str, x: Any, shape: Any, expected: str) -> None:
    """Raises a ValueError unless the shape of `x` is compatible with `shape`."""
    require(x.shape.is_compatible_with(shape), name, expected, x.shape)


def require_same_batch(name: str, x: tf.Tensor, other: str, y: tf.Tensor) -> tf.Tensor:
    """`x`, if it has as many rows as `y`; an error otherwise."""
    shape = [y.shape[0]] + [None] * (x.shape.rank - 1)
    require_shape(name, x, shape, f"as many rows as `{other}`, {y.shape[0]}")
    rows = tf.shape(x)[0], tf.shape(y)[0]
    message = f"`{name}` must have as many rows as `{other}`."
    return checked(x, lambda: tf.debugging.assert_equal(*rows, message))


def rows_of(variable: Any, rows: Any, values: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """`rows` and `values` for a variable, checked."""
    rows = as_tensor("rows", rows, tf.int32, 1)
    values = as_tensor("values", values, variable.dtype, variable.shape.rank)
    shape = rows.shape + variable.shape[1:]
    require_shape("values", values, shape, f"shape {shape}, a row for each of `rows`")
    return rows, values


def observation(
    inputs: Any, center: Any, basis: Any, mean: Any, moments: Any, count: Any, rows: int
) -> list[tf.Tensor]:
    """What `observe_inputs` receives, checked."""
    require_integer("rows", rows, 1, MAX_INT32, "a positive integer")
    inputs = as_tensor("inputs", inputs, tf.float32, 2)
    basis = as_tensor("basis", basis, tf.float32, 2)
    columns = f"to match inputs of shape {inputs.shape}"
    require_shape("basis", basis, [inputs.shape[1], None], columns)
    vectors = []
    for name, vector in (("center", center), ("mean", mean)):
        vectors.append(as_tensor(name, vector, tf.float32, 1))
        require_shape(name, vectors[-1], inputs.shape[1:], columns)
    moments = as_tensor("moments", moments, tf.float32, 2)
    require_shape(
        "moments", moments, basis.shape, f"the shape of `basis`, {basis.shape}"
    )
    count = as_tensor("count", count, tf.float32, 0)
    return [inputs, vectors[0], basis, vectors[1], moments, count]


def cell_queries(
    inputs: Any, center: Any, basis: Any, scales: Any, centroids: Any
) -> list[tf.Tensor]:
    """What `cell_worth` receives, checked."""
    inputs = as_tensor("inputs", inputs, tf.float32, 2)
    basis = as_tensor("basis", basis, tf.float32, 2)
    columns = f"to match inputs of shape {inputs.shape}"
    require_shape("basis", basis, [inputs.shape[1], None], columns)
    center = as_tensor("center", center, tf.float32, 1)
    require_shape("center", center, inputs.shape[1:], columns)
    scales = as_tensor("scales", scales, tf.float32, 1)
    directions = f"to match a basis of shape {basis.shape}"
    require_shape("scales", scales, basis.shape[1:], directions)
    centroids = as_tensor("centroids", centroids, tf.float32, 2)
    rank = basis.shape[1]
    width = None if rank is None else rank + 1
    require_shape("centroids", centroids, [None, width], directions)
    return [inputs, center, basis, scales, centroids]


def rotation(name: str, vectors: tf.Tensor, signs: Any) -> tf.Tensor:
    """The signs that `rotate` and `sign_sketch` receive, checked."""
    signs = as_tensor("signs", signs, tf.float32, 2)
    features, dim = signs.shape[1], vectors.shape[1]
    expected = (
        f"shape (3, features) with a power of two from 16 to {MAX_FEATURES} that is "
        f"not less than {dim}, the columns of `{name}`"
    )
    require_shape("signs", signs, [3, None], expected)
    if features is not None:
        fits = 16 <= features <= MAX_FEATURES and features & (features - 1) == 0
        require(fits and (dim or 0) <= features, "signs", expected, signs.shape)
    return signs


def sketch_queries(
    rotated: Any, codes: Any, scales: Any, bias: Any, count: int
) -> list[tf.Tensor]:
    """What `select_by_sketch` receives, checked; no bias is one of no elements."""
    rotated = as_tensor("rotated", rotated, tf.float32, 2)
    codes = as_tensor("codes", codes, tf.uint8, 3)
    scales = as_tensor("scales", scales, tf.float32, 1)
    units, features = scales.shape[0], rotated.shape[1]
    most = MAX_INT32 if units is None else units
    expected = f"an integer from 1 to {most}, the neurons"
    require_integer("count", count, 1, most, expected)
    blocks = None if units is None else (units + 31) // 32
    groups = codes.shape[1]
    require_shape(
        "codes", codes, [blocks, None, 16], f"blocks of 32 for {units} neurons"
    )
    if groups is not None:
        fits = 0 < groups <= MAX_FEATURES // 4 and groups % 4 == 0
        require(fits, "codes", "groups that are a multiple of 4", codes.shape)
        expected = f"4 columns for each of {groups} groups"
        require(features in (None, 4 * groups), "rotated", expected, rotated.shape)
    if bias is None:
        bias = np.zeros([0], "float32")
    else:
        bias = as_weight("bias", bias, 1)
        expected = f"an element for each of {units} neurons"
        require_shape("bias", bias, [units], expected)
    return [rotated, codes, scales, tf.convert_to_tensor(bias)]


def active_logits(
    values: Any,
    ids: Any,
    labels: Any,
    units: Any,
    drawn: Any,
    label_smoothing: float,
) -> list[tf.Tensor]:
    """What `active_softmax_crossentropy` receives, checked; `drawn` may be None."""
    expected = "a number in [0, 1]"
    is_share = is_finite(label_smoothing) and 0 <= label_smoothing <= 1
    require(is_share, "label_smoothing", expected, label_smoothing)
    values = tf.convert_to_tensor(values)
    dtype = tf.float64 if values.dtype == tf.float64 else tf.float32
    values = as_tensor("values", values, dtype, 2)
    labels = as_tensor("labels", labels, tf.int32, 2)
    batch, active = values.shape
    expected = f"a row for each of {batch} samples"
    require_shape("labels", labels, [batch, None], expected)
    by_row = [("ids", ids, tf.int32)]
    if drawn is not None:
        by_row.append(("drawn", drawn, tf.bool))
    expected = f"a tensor of {active} columns and {batch} rows, or one row for all"
    rows = []
    for name, x, of_type in by_row:
        rows.append(as_tensor(name, x, of_type, 2))
        shape = [1 if rows[-1].shape[0] == 1 else batch, active]
        require_shape(name, rows[-1], shape, expected)
    units = tf.cast(tf.convert_to_tensor(units), tf.int64)
    require_shape("units", units, [], "a scalar")
    return [values, rows[0], labels, units, *rows[1:]]


def digit_codes(scores: tf.Tensor, probes: int, negatives: bool) -> int:
    """The codes of a table, after a check of the arguments of `probe_digits`."""
    _, tables, functions, values = scores.shape
    expected = "shape (batch, tables, functions, values), known and not empty"
    require(bool(tables and functions and values), "scores", expected, scores.shape)
    codes = (values * (2 if negatives else 1)) ** functions
    expected = f"tables * values**functions to be at most {MAX_INT32}"
    require(tables * codes <= MAX_INT32, "scores", expected, scores.shape)
    require_integer("probes", probes, 1, codes, f"an integer from 1 to {codes}")
    return codes


def check_range(name: str, x: tf.Tensor, begin: int, end: Any) -> Any:
    """Asserts that all of `x` lies in [begin, end)."""
    message = f"`{name}` must lie in [{begin}, {end})."
    too_small = tf.debugging.assert_greater_equal(x, begin, message)
    too_large = tf.debugging.assert_less(x, end, message)
    return None if too_small is None else tf.group(too_small, too_large)


def checked(x: tf.Tensor, *checks: Callable[[], Any]) -> tf.Tensor:
    """`x`, after the checks: functions that return an assertion, or None if eager."""
    if not getattr(_local, "data_checks", True):
        return x
    assertions = [check() for check in checks]
    with tf.control_dependencies([a for a in assertions if a is not None]):
        return tf.identity(x)
