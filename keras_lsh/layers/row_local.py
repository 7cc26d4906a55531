"""Which regularizers and constraints work row by row.

A sparse layer sees the active neurons only. What it applies to them must not depend on
the others: a sum over all weights, or a projection of each neuron's own weights.
"""

from typing import Any

import keras
import tensorflow as tf

_SUMS = (keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2)
_BY_ELEMENT = (keras.constraints.NonNeg,)
_BY_AXIS = (
    keras.constraints.MaxNorm,
    keras.constraints.MinMaxNorm,
    keras.constraints.UnitNorm,
)


def check_regularizer(name: str, regularizer: Any) -> Any:
    """Returns the regularizer if it is a sum over weights, else raises ValueError."""
    if (
        regularizer is None
        or isinstance(regularizer, _SUMS)
        or getattr(regularizer, "row_local", False)
    ):
        return regularizer
    raise ValueError(
        f"Received an invalid value for `{name}`, expected a regularizer that is a sum "
        "over weights (L1, L2, L1L2), because only the active neurons are seen in a "
        "step. If yours is one, set `row_local = True` on it; if not, use "
        f"`keras.layers.Dense`. Received: {name}={regularizer}"
    )


def check_constraint(name: str, constraint: Any, rank: int = 2) -> Any:
    """Returns the constraint if it acts on each neuron alone, else raises.

    A norm over the axis 0 of Dense's kernel is one over a neuron's weights; over the
    axis 0 of a bias, of rank 1, it is one over all neurons.
    """
    if (
        constraint is None
        or isinstance(constraint, _BY_ELEMENT)
        or (
            rank == 2
            and isinstance(constraint, _BY_AXIS)
            and constraint.axis in (0, [0], (0,))
        )
        or getattr(constraint, "row_local", False)
    ):
        return constraint
    raise ValueError(
        f"Received an invalid value for `{name}`, expected a constraint that acts on "
        "the weights of each neuron alone (NonNeg; for a kernel also MaxNorm, "
        "MinMaxNorm or UnitNorm with axis=0), because only the active neurons are seen "
        "in a step. If yours does, set `row_local = True` on it; if not, use "
        f"`keras.layers.Dense`. Received: {name}={constraint}"
    )


def constrain(constraint: Any, rows: tf.Tensor) -> tf.Tensor:
    """Applies a constraint written for Dense's `(input_dim, units)` to our rows."""
    return tf.transpose(tf.convert_to_tensor(constraint(tf.transpose(rows))))
