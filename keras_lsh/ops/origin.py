"""Where a tensor comes from, for ops that can do with less work if they know it."""

from typing import Any

import tensorflow as tf

_PASSED_ON = ("Cast", "Identity", "Reshape")

# With more of its elements wanted, a whole gradient takes no longer. As in
# custom_ops/core/sparse_inputs.h.
_SPARSITY = 16


def scattered_ids(inputs: tf.Tensor) -> Any:
    """The columns of `inputs` that somebody has computed; 0 fills the others.

    The outputs of a layer of active neurons go through `scatter_active`, and its
    gradient looks at their places only. So no other part of the gradient by them is
    worth computing, whoever uses the outputs. Known of tensors in graphs alone.

    Args:
        inputs: `[samples, input_dim]`.

    Returns:
        int32 `[samples, any]`, the ids that `scatter_active` had, if they are few; or
        None.
    """
    source = inputs
    while tf.is_symbolic_tensor(source) and source.op.type in _PASSED_ON:
        source = source.op.inputs[0]
    if not tf.is_symbolic_tensor(source) or source.op.type != "LshScatterActive":
        return None
    ids, units = source.op.inputs[1], source.op.get_attr("units")
    # Reshaped to anything else, a row would not be that of a sample.
    same_rows = inputs.shape.rank == 2 and inputs.shape[1] == units
    few = ids.shape[1] is not None and ids.shape[1] * _SPARSITY <= units
    return ids if same_rows and few else None
