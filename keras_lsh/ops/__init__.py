"""The operations: compiled ones, or their reference in stock TensorFlow.

Every function here calls the compiled op, unless the reference ops are switched on (by
the environment variable `KERAS_LSH_REFERENCE_OPS=1`, or inside `reference_ops()`).
Signatures, shapes and errors are those documented in `keras_lsh.ops.reference`.
"""

import functools
import weakref
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_lsh.ops import compiled, reference
from keras_lsh.ops._checks import data_checks
from keras_lsh.ops.library import (
    OpLibraryError,
    library,
    library_path,
    load_on_import,
    reference_ops,
    simd_level,
    using_reference,
)
from keras_lsh.ops.origin import ascend
from keras_lsh.ops.variables import as_float32, tensor_form

__all__ = [
    "OpLibraryError",
    "active_matmul",
    "active_softmax_crossentropy",
    "as_float32",
    "ascend",
    "build_tables",
    "cell_means",
    "cell_worth",
    "coordinates",
    "data_checks",
    "hash_codes",
    "library",
    "library_path",
    "matmul",
    "nearest_cells",
    "observe_inputs",
    "probe_digits",
    "probe_sequence",
    "rank_cells",
    "reference_ops",
    "rotate",
    "row_adam",
    "row_digests",
    "scatter_active",
    "select_active",
    "select_by_sketch",
    "select_from_cells",
    "shared_matmul",
    "sign_sketch",
    "simd_level",
    "sparse_matmul",
    "subtract_by_rows",
    "subtract_rows",
    "tensor_form",
    "using_reference",
]


def _dispatch(name: str) -> Callable[..., Any]:
    slow, fast = getattr(reference, name), getattr(compiled, name)

    @functools.wraps(slow)
    def op(*args: Any, **kwargs: Any) -> Any:
        return (slow if using_reference() else fast)(*args, **kwargs)

    return op


matmul = _dispatch("matmul")
shared_matmul = _dispatch("shared_matmul")
coordinates = _dispatch("coordinates")
row_digests = _dispatch("row_digests")
hash_codes = _dispatch("hash_codes")
build_tables = _dispatch("build_tables")
cell_means = _dispatch("cell_means")
probe_digits = _dispatch("probe_digits")
probe_sequence = _dispatch("probe_sequence")
select_active = _dispatch("select_active")
active_matmul = _dispatch("active_matmul")
active_softmax_crossentropy = _dispatch("active_softmax_crossentropy")
nearest_cells = _dispatch("nearest_cells")
cell_worth = _dispatch("cell_worth")
rank_cells = _dispatch("rank_cells")
select_from_cells = _dispatch("select_from_cells")
observe_inputs = _dispatch("observe_inputs")
rotate = _dispatch("rotate")
sign_sketch = _dispatch("sign_sketch")
select_by_sketch = _dispatch("select_by_sketch")
scatter_active = _dispatch("scatter_active")
sparse_matmul = _dispatch("sparse_matmul")
subtract_rows = _dispatch("subtract_rows")
row_adam = _dispatch("row_adam")


def subtract_by_rows(variable: Any) -> None:
    """Makes `subtract_rows` the `scatter_sub` of a variable.

    That is what `keras.optimizers.SGD` calls for a row-sparse gradient. TensorFlow's
    own takes one thread, and leaves the variable in a mode in which every read of it as
    a tensor (evaluation, saving, rebuilding tables) copies it whole.

    A copy of the variable, and one that `tf.distribute` mirrors, keep TensorFlow's.
    """
    variable = variable.value if isinstance(variable, keras.Variable) else variable
    if isinstance(variable, tf.distribute.DistributedValues):
        return
    itself = weakref.ref(variable)  # the variable must not keep itself alive

    def scatter_sub(
        sparse_delta: Any, use_locking: bool = False, name: str | None = None
    ) -> Any:
        del use_locking, name
        rows, values = sparse_delta.indices, sparse_delta.values
        subtract_rows(itself(), tf.cast(rows, tf.int32), values)
        return itself()

    variable.scatter_sub = scatter_sub


load_on_import()
