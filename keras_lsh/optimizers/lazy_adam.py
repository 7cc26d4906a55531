"""Adam for row-sparse gradients, with catch-up of the steps a row was skipped."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_lsh import ops

# What Keras would carry out on whole variables: (why it is not sparse, a way out).
_DENSE_OPTIONS = {
    "amsgrad": (
        "the row-sparse update keeps no maximum of the velocities",
        "use `keras.optimizers.Adam(amsgrad=True)`",
    ),
    "weight_decay": (
        "it would rewrite every row of every variable at every step",
        "use `keras.optimizers.AdamW`",
    ),
    "use_ema": (
        "it would average every row of every variable at every step",
        "use `keras.optimizers.Adam(use_ema=True)`",
    ),
    "gradient_accumulation_steps": (
        "it would sum the gradients in dense variables",
        "use larger batches or `keras.optimizers.Adam`",
    ),
    "global_clipnorm": (
        "it would make every gradient dense",
        "use `clipnorm` or `clipvalue`, which stay row-sparse",
    ),
}


@keras.saving.register_keras_serializable(package="keras_lsh")
class LazyAdam(keras.optimizers.Adam):
    """Adam that touches only the rows that have a gradient.

    For a dense gradient this is `keras.optimizers.Adam`, to the bit. For a gradient
    that comes as `tf.IndexedSlices` (from `LSHDense`, `keras.layers.Embedding`,
    `tf.gather`), the step costs time in proportion to the rows of the gradient,
    whatever the size of the variable. With `t` the number of this step, counted from
    1, and `s` the number of steps since the last update of the row, not counting this
    one, each row `w` of the gradient is updated by

    ```
    m = beta_1**s * m;   m = m + (1 - beta_1) * (g - m)
    v = beta_2**s * v;   v = v + (1 - beta_2) * (g**2 - v)
    w = w - learning_rate(t) * sqrt(1 - beta_2**t) / (1 - beta_1**t)
            * m / (sqrt(v) + epsilon)
    ```

    What the catch-up of skipped steps is: when a row is updated, its moments are those
    that Adam would have, had the gradient of the row been zero at the skipped steps.
    (A lazy Adam without it lets a row that is touched once in a hundred steps keep its
    old moments at full weight, and converges worse: see the reference.)

    What it is not: Adam goes on moving a row by its decaying momentum while its
    gradient is zero. Those moves are left out, not made up for later. So the result
    differs from Adam's as soon as a row is skipped while its momentum is not zero, and
    equals Adam's when every row is in the gradient at every step.

    Rows may come in any order and more than once: unless they are strictly ascending,
    they are sorted and the gradients of equal rows summed first. A variable may have a
    sparse gradient at one step and a dense one at the next; before a dense update the
    rows that lag behind the latest update of the variable are caught up. A step at
    which a variable has no gradient at all (`None`) counts as skipped for its
    row-sparse updates; a variable with dense gradients alone does not decay, as in
    Keras.

    What remains dense, because Keras does it outside of the optimizer's reach:

    - A `constraint` on a variable is applied to the whole variable at every step, a
      regularizer makes the gradient of its variable dense.
    - The `LossScaleOptimizer` that Keras wraps around any optimizer under the policy
      `"mixed_float16"` updates rows only, but builds a boolean of the variable's shape
      to find infinities. `keras_lsh.optimizers.LossScaleOptimizer(LazyAdam())`, passed
      to `compile`, does not.

    Variables of float32 are updated by a compiled op, other dtypes by stock TensorFlow
    ops. XLA cannot compile the row-sparse update. Keras switches XLA on where there is
    a GPU, unless a layer forbids it, as `LSHDense` does; for models with
    `keras.layers.Embedding` alone pass `jit_compile=False` to `compile` there.

    Beside Keras' two moments there is an int32 slot `last_step` of shape
    `(variable.shape[0],)` for each variable of rank 1 and up: the step of the last
    update of each row. It is saved and restored with the optimizer.

    Args:
        learning_rate: A float, a `keras.optimizers.schedules.LearningRateSchedule`,
            or a callable without arguments. Defaults to `0.001`.
        beta_1: A float in [0, 1), the decay of the first moment a step. Defaults to
            `0.9`.
        beta_2: A float in [0, 1), the decay of the second moment a step. Defaults to
            `0.999`.
        epsilon: A float, 0 or more: "epsilon hat" of Kingma and Ba. Defaults to `1e-7`.
        clipnorm: Float or `None`. The gradient of each variable is scaled down to this
            norm. Row-sparse; equal rows are summed before the norm is taken.
        clipvalue: Float or `None`. Each element of a gradient is clipped to this
            absolute value. Row-sparse, likewise.
        loss_scale_factor: Float or `None`. Multiplies the loss and divides the
            gradients. Row-sparse.
        name: String or `None`.
        amsgrad, weight_decay, global_clipnorm, use_ema, ema_momentum,
            ema_overwrite_frequency, gradient_accumulation_steps: Accepted with the
            defaults of `keras.optimizers.Adam` alone, since they would work on whole
            variables.

    Raises:
        ValueError: If an option that is not row-sparse is set, or a decay rate or
            `epsilon` is out of range. The message names a way out.

    Example:

    >>> model.compile(keras_lsh.LazyAdam(1e-3), "sparse_categorical_crossentropy")

    References:
        - [Kingma and Ba, 2015: Adam](https://arxiv.org/abs/1412.6980), Algorithm 1
          and the remark before Section 2.1.
        - [tensorflow/tensorflow issue 23668](
          https://github.com/tensorflow/tensorflow/issues/23668): lazy Adam and the
          moments of skipped rows.
    """

    def __init__(
        self,
        learning_rate: float | Callable[..., Any] = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        for option, value in (
            ("amsgrad", amsgrad),
            ("weight_decay", weight_decay),
            ("use_ema", use_ema),
            ("gradient_accumulation_steps", gradient_accumulation_steps),
            ("global_clipnorm", global_clipnorm),
        ):
            _check_row_sparse(option, value)
        _check_real("beta_1", beta_1, "a float in [0, 1)", upper=1.0)
        _check_real("beta_2", beta_2, "a float in [0, 1)", upper=1.0)
        _check_real("epsilon", epsilon, "a finite float, 0 or more", upper=math.inf)
        super().__init__(
            learning_rate=learning_rate,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            amsgrad=amsgrad,
            weight_decay=weight_decay,
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            use_ema=use_ema,
            ema_momentum=ema_momentum,
            ema_overwrite_frequency=ema_overwrite_frequency,
            loss_scale_factor=loss_scale_factor,
            gradient_accumulation_steps=gradient_accumulation_steps,
            name=name,
            **kwargs,
        )

    def build(self, var_list: Sequence[keras.Variable]) -> None:
        """Creates the moments and, for variables of rank 1 and up, `last_step`.

        Args:
            var_list: The variables to optimize.
        """
        if self.built:
            return
        super().build(var_list)
        last_steps: list[keras.Variable | None] = []
        for variable, momentum in zip(var_list, self._momentums, strict=True):
            if momentum is None or len(variable.shape) == 0:
                last_steps.append(None)
                continue
            # Beside the variable under tf.distribute, as Keras places the moments.
            with self._distribution_strategy.extended.colocate_vars_with(
                momentum.value
            ):
                last_steps.append(
                    self.add_variable(
                        shape=(variable.shape[0],),
                        initializer="zeros",
                        dtype="int32",
                        name=momentum.name.removesuffix("_momentum") + "_last_step",
                    )
                )
        self._last_steps = last_steps

    def apply(
        self,
        grads: Sequence[Any],
        trainable_variables: Sequence[keras.Variable] | None = None,
    ) -> None:
        """Updates the variables.

        Args:
            grads: Gradients, one for each variable: tensors, `tf.IndexedSlices` or
                `None`.
            trainable_variables: The variables. Defaults to those the optimizer was
                built with.
        """
        clips = self.clipnorm is not None or self.clipvalue is not None

        def prepare(gradient: Any) -> Any:
            if not isinstance(gradient, tf.IndexedSlices):
                return gradient
            if clips:
                # The norm, or the clipped value, of a part of a row is of no use.
                gradient = _merge_rows(gradient)
            return _RowGradient(gradient.values, gradient.indices, gradient.dense_shape)

        super().apply([prepare(gradient) for gradient in grads], trainable_variables)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Updates one variable and its slots in place.

        Args:
            gradient: A tensor of the variable's shape, or `tf.IndexedSlices` with
                values of shape `(rows, *variable.shape[1:])`, rows in any order and
                repeated at will.
            variable: The `keras.Variable` or `tf.Variable` to update.
            learning_rate: A scalar.

        Raises:
            tf.errors.InvalidArgumentError: If a row is out of range.
        """
        if isinstance(variable, keras.Variable):
            variable = variable.value
        index = self._get_variable_index(variable)
        if self._last_steps[index] is None:
            super().update_step(gradient, variable, learning_rate)
            return
        momentum, velocity, last_step = (
            _component(slots[index].value, variable)
            for slots in (self._momentums, self._velocities, self._last_steps)
        )
        step = keras.ops.convert_to_tensor(self.iterations) + 1
        if isinstance(gradient, tf.IndexedSlices):
            gradient = _merge_rows(gradient)
            ops.row_adam(
                variable,
                momentum,
                velocity,
                last_step,
                rows=tf.cast(gradient.indices, tf.int32),
                gradient=tf.cast(gradient.values, variable.dtype),
                alpha=self._alpha(step, learning_rate, variable.dtype),
                beta_1=self.beta_1,
                beta_2=self.beta_2,
                epsilon=self.epsilon,
                step=step,
            )
        else:
            self._catch_up(momentum, velocity, last_step)
            super().update_step(gradient, variable, learning_rate)
            last_step.assign(tf.fill(last_step.shape, tf.cast(step, tf.int32)))

    def _alpha(self, step: Any, learning_rate: Any, dtype: tf.DType) -> tf.Tensor:
        """The step size with both bias corrections, by Keras' own operations."""
        # But not in half precision: 0.999 is 1 in bfloat16, float16 ends at 65,504.
        dtype = tf.float64 if dtype == tf.float64 else tf.float32
        step = tf.cast(step, dtype)
        beta_1_power = tf.pow(tf.cast(self.beta_1, dtype), step)
        beta_2_power = tf.pow(tf.cast(self.beta_2, dtype), step)
        learning_rate = tf.cast(keras.ops.convert_to_tensor(learning_rate), dtype)
        return learning_rate * tf.sqrt(1 - beta_2_power) / (1 - beta_1_power)

    def _catch_up(self, momentum: Any, velocity: Any, last_step: Any) -> None:
        """Decays the moments of rows that lag behind the variable's latest update.

        Measured against that update and not against the step count: a variable that
        only ever had dense gradients then never decays, whatever steps it missed.
        """
        behind = tf.reduce_max(last_step) - last_step

        def decay() -> tf.Tensor:
            skipped = tf.cast(behind, momentum.dtype)
            skipped = tf.reshape(skipped, [-1] + [1] * (momentum.shape.rank - 1))
            beta_1 = tf.constant(self.beta_1, momentum.dtype)
            beta_2 = tf.constant(self.beta_2, momentum.dtype)
            momentum.assign(momentum * tf.pow(beta_1, skipped))
            velocity.assign(velocity * tf.pow(beta_2, skipped))
            return tf.constant(True)

        tf.cond(tf.reduce_any(behind > 0), decay, lambda: tf.constant(False))


@keras.saving.register_keras_serializable(package="keras_lsh")
class LossScaleOptimizer(keras.optimizers.LossScaleOptimizer):
    """Dynamic loss scaling that leaves row-sparse gradients row-sparse.

    Keras' `LossScaleOptimizer` looks for infinities and NaN in a boolean tensor of the
    shape of each variable, and fails if a `tf.IndexedSlices` has no `dense_shape`. This
    one looks at the rows of the gradient. All else is Keras'.

    Under the policy `"mixed_float16"` Keras wraps an optimizer in its own; pass this
    one to `compile` instead to have steps whose time does not grow with the variables.

    Args:
        inner_optimizer: The optimizer to wrap, e.g. `LazyAdam()`.
        initial_scale: Float. The scale to begin with. Defaults to `2.0**15`.
        dynamic_growth_steps: Int. The scale doubles after so many steps with finite
            gradients. Defaults to 2000.
        name: String or `None`.

    Example:

    >>> keras.config.set_dtype_policy("mixed_float16")
    >>> optimizer = keras_lsh.optimizers.LossScaleOptimizer(keras_lsh.LazyAdam())
    >>> model.compile(optimizer, "sparse_categorical_crossentropy")
    """

    def check_finite(self, grads: Sequence[Any]) -> tf.Tensor:
        """Whether all gradients are finite.

        Args:
            grads: Tensors, `tf.IndexedSlices` or `None`.

        Returns:
            A boolean scalar.
        """
        return super().check_finite(
            [g.values if isinstance(g, tf.IndexedSlices) else g for g in grads]
        )


class _RowGradient(tf.IndexedSlices):
    """`tf.IndexedSlices` that can be divided, as Keras divides by the loss scale."""

    def __truediv__(self, divisor: Any) -> _RowGradient:
        return _RowGradient(self.values / divisor, self.indices, self.dense_shape)


def _merge_rows(gradient: tf.IndexedSlices) -> tf.IndexedSlices:
    """The same gradient with strictly ascending rows; values of equal rows summed."""
    indices, values = gradient.indices, gradient.values
    if ops.ascend(indices):
        return gradient

    def merge() -> tuple[tf.Tensor, tf.Tensor]:
        order = tf.argsort(indices, stable=True)
        rows, segments = tf.unique(tf.gather(indices, order))
        # A sum over segments in order gives the same bits on any number of threads.
        return rows, tf.math.segment_sum(tf.gather(values, order), segments)

    rows, values = tf.cond(
        tf.reduce_all(indices[1:] > indices[:-1]), lambda: (indices, values), merge
    )
    return tf.IndexedSlices(values, rows, gradient.dense_shape)


def _component(slot: Any, variable: Any) -> Any:
    """The part of a slot, mirrored by tf.distribute, that belongs to `variable`."""
    parts = tf.distribute.get_strategy().experimental_local_results(slot)
    if len(parts) == 1:
        return parts[0]
    for part in parts:
        if part.device == variable.device:
            return part
    raise ValueError(
        "`LazyAdam` found no optimizer slot on the device of the variable; create the "
        "model and the optimizer in the scope of the same `tf.distribute` strategy. "
        f"Received: device={variable.device}, slots on {[p.device for p in parts]}"
    )


def _check_row_sparse(option: str, value: Any) -> None:
    if value is None or value is False:
        return
    reason, way_out = _DENSE_OPTIONS[option]
    raise ValueError(
        f"`LazyAdam` does not support `{option}`: {reason}; {way_out}. "
        f"Received: {option}={value}"
    )


def _check_real(argument: str, value: Any, expected: str, upper: float) -> None:
    if not isinstance(value, numbers.Real) or not 0 <= float(value) < upper:
        raise ValueError(
            f"Received an invalid value for `{argument}`, expected {expected}. "
            f"Received: {argument}={value}"
        )
