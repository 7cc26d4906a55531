"""The operations: compiled ones, or their reference in stock TensorFlow.

Every function here calls the compiled op, unless the reference ops are switched on (by
the environment variable `KERAS_LSH_REFERENCE_OPS=1`, or inside `reference_ops()`).
Signatures, shapes and errors are those documented in `keras_lsh.ops.reference`.
"""

import functools
from collections.abc import Callable
from typing import Any

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
from keras_lsh.ops.variables import tensor_form

__all__ = [
    "OpLibraryError",
    "active_matmul",
    "build_tables",
    "data_checks",
    "hash_codes",
    "library",
    "library_path",
    "matmul",
    "probe_sequence",
    "reference_ops",
    "row_adam",
    "scatter_active",
    "select_active",
    "simd_level",
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
hash_codes = _dispatch("hash_codes")
build_tables = _dispatch("build_tables")
probe_sequence = _dispatch("probe_sequence")
select_active = _dispatch("select_active")
active_matmul = _dispatch("active_matmul")
scatter_active = _dispatch("scatter_active")
row_adam = _dispatch("row_adam")

load_on_import()
