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


def ascend(rows: tf.Tensor) -> bool:
    """Whether rows are known to ascend strictly: those of a gradient by a kernel."""
    return tf.is_symbolic_tensor(rows) and rows.op.type == "LshGroupByNeuron"


def kernel_gradient(rows: tf.Tensor, values: tf.Tensor) -> Any:
    """What the gradient of `active_matmul` by rows of its kernel is made of.

    An update that works it out row by row, and uses each at once, spares the memory
    that many rows are written to and read from. If nobody else uses the gradient
    either, the graph prunes its op.

    Returns:
        The inputs of the op that makes `values`, if it is that gradient, in the graph
        that is being made, and `rows` are its rows; or None.
    """
    if not tf.is_symbolic_tensor(values) or not ascend(rows):
        return None
    op = values.op
    if op.type != "LshActiveMatmulGradKernel" or op.inputs[2] is not rows:
        return None
    return list(op.inputs) if op.graph is tf.compat.v1.get_default_graph() else None


def scaled(values: tf.Tensor) -> tuple[tf.Tensor, Any]:
    """`values` as a product of a tensor and a scalar, as SGD makes its update."""
    if tf.is_symbolic_tensor(values) and values.op.type == "Mul":
        for factor, scale in (values.op.inputs, reversed(values.op.inputs)):
            if scale.shape.rank == 0:
                return factor, scale
    return values, 1.0
