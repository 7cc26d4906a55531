"""Winner-take-all: the largest activations of a batch, or of a sample, stay."""

from typing import Any

import keras
import tensorflow as tf

from keras_lsh._arguments import check_argument, check_choice, is_float, is_integer

SPARSITIES = ("lifetime", "population")
INFERENCE_MODES = ("exact", "sparse")


@keras.saving.register_keras_serializable(package="keras_lsh")
class WinnerTakeAll(keras.layers.Layer):
    """An activation function that keeps the largest activations and zeroes the others.

    `WinnerTakeAll` implements `output = where(wins, activation(input), 0)`, where

    - with lifetime sparsity `wins[b, u]` means that `activation(input)[b, u]` is among
      the `active` largest of `activation(input)[:, u]`: every unit wins for the same
      share of the samples of a mini-batch, whatever its size;
    - with population sparsity, that it is among the `active` largest of
      `activation(input)[b, :]`: every sample has the same share of the units.

    Ties go to the earlier sample or unit. Gradients pass through the winners only. At
    inference there is no competition: the output is `activation(input)`, unless
    `inference="sparse"`.

    It is never faster than the plain activation: what loses has been computed, and
    the zeros are multiplied by the next layer. It is here for its accuracy at a given
    share of active units.

    Source: Makhzani & Frey 2015, "Winner-Take-All Autoencoders" (NIPS), section 2 for
    lifetime sparsity: ReLU units, sparse in training only. (Their spatial sparsity,
    section 3, keeps a feature map's largest activation; a dense layer's unit has one
    position, and nothing to choose from.) Population sparsity: Makhzani & Frey 2014,
    "k-Sparse Autoencoders" (ICLR), section 2; there, sparse at inference too. It is
    what `LSHDense` approximates, and `LSHDense(selection="exact")` has it exactly,
    ranked before the activation and without losers in the backward pass.

    Args:
        active: How many win: a float in (0, 1] is a fraction, of the samples of the
            mini-batch or of the units, at least one; an integer is a count. (A count of
            samples that exceeds the batch stands for all of it.)
        sparsity: `"lifetime"` or `"population"`.
        activation: Activation function, applied before the competition.
        inference: `"exact"` (all activations, as in the paper) or `"sparse"` (as in
            training) for `evaluate`, `predict` and export. With lifetime sparsity,
            sparse predictions depend on what else is in the batch.

    Input shape:
        N-D tensor of shape `(batch_size, ..., units)`. Each vector along the last axis
        is a sample.

    Output shape:
        Same as the input.

    Call arguments:
        inputs: Input tensor, the outputs of a linear layer.
        training: Whether to compete.
        mask: Boolean `(batch_size, ...)`; with lifetime sparsity, samples that it masks
            neither count nor win.

    Example:

    >>> model = keras.Sequential([
    ...     keras.layers.Dense(1000),
    ...     keras_lsh.baselines.WinnerTakeAll(active=0.05),
    ...     keras.layers.Dense(10, activation="softmax"),
    ... ])
    """

    def __init__(
        self,
        active: float | int = 0.05,
        sparsity: str = "lifetime",
        activation: Any = "relu",
        *,
        inference: str = "exact",
        **kwargs: Any,
    ):
        check_argument(
            "active",
            active,
            active > 0
            if is_integer(active)
            else is_float(active) and 0 < float(active) <= 1,
            "a fraction in (0, 1] or a positive count",
        )
        check_choice("sparsity", sparsity, SPARSITIES)
        check_choice("inference", inference, INFERENCE_MODES)
        super().__init__(**kwargs)
        self.active = int(active) if is_integer(active) else float(active)
        self.sparsity = sparsity
        self.activation = keras.activations.get(activation)
        self.inference = inference
        self.input_spec = keras.layers.InputSpec(min_ndim=2)
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        units = input_shape[-1]
        if units is None:
            raise ValueError(
                "The last axis of the inputs of WinnerTakeAll must be defined. "
                f"Received: input_shape={tuple(input_shape)}"
            )
        if self.sparsity == "population" and is_integer(self.active):
            check_argument(
                "active",
                self.active,
                self.active <= units,
                f"a fraction in (0, 1] or a count from 1 to units={units}",
            )
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: units})
        self.built = True

    def call(
        self, inputs: Any, training: bool | None = None, mask: Any = None
    ) -> tf.Tensor:
        inputs = tf.cast(tf.convert_to_tensor(inputs), self.compute_dtype)
        outputs = self.activation(inputs)
        if not training and self.inference == "exact":
            return outputs
        # NaN wins, and comes out.
        ranked = tf.where(tf.math.is_nan(outputs), float("inf"), outputs)
        rows = tf.reshape(tf.stop_gradient(ranked), [-1, inputs.shape[-1]])
        if self.sparsity == "population":
            wins = _largest(rows, self._count(tf.shape(rows)[1]))
        elif mask is None:
            columns = tf.transpose(rows)
            wins = tf.transpose(_largest(columns, self._count(tf.shape(rows)[0])))
        else:
            competes = _mask_of_rows(mask, tf.shape(inputs)[:-1])
            wins = tf.transpose(self._largest_of_some(tf.transpose(rows), competes))
        return tf.where(tf.reshape(wins, tf.shape(outputs)), outputs, 0)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        return tuple(input_shape)

    def compute_output_spec(
        self, inputs: Any, training: bool | None = None, mask: Any = None
    ) -> keras.KerasTensor:
        return keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "active": self.active,
            "sparsity": self.sparsity,
            "activation": keras.activations.serialize(self.activation),
            "inference": self.inference,
        }

    def _count(self, candidates: tf.Tensor) -> tf.Tensor:
        """How many of so many win, int32."""
        if is_integer(self.active):
            return tf.minimum(self.active, candidates)
        count = tf.round(self.active * tf.cast(candidates, tf.float64))
        return tf.minimum(tf.maximum(tf.cast(count, tf.int32), 1), candidates)

    def _largest_of_some(self, columns: tf.Tensor, competes: tf.Tensor) -> tf.Tensor:
        """As `_largest`, among the entries of each row that compete."""
        columns = tf.where(competes, columns, -float("inf"))
        # The number of entries comes from a shape, that of competitors from data: XLA
        # takes the former only for the size of a result.
        most = self._count(tf.size(competes))
        count = self._count(tf.math.count_nonzero(competes, dtype=tf.int32))
        return tf.logical_and(_largest(columns, most, count), competes)


def _largest(
    rows: tf.Tensor, most: tf.Tensor, count: tf.Tensor | None = None
) -> tf.Tensor:
    """Whether an entry is among the `count` (at most, and by default, `most`) largest.

    Args:
        rows: `[rows, columns]`.
        most: int32 scalar, at most `columns`.
        count: int32 scalar.

    Returns:
        bool `[rows, columns]`. Ties go to the smaller column.
    """
    height, width = tf.unstack(tf.shape(rows))
    columns = tf.math.top_k(rows, most).indices
    places = columns + width * tf.range(height)[:, tf.newaxis]
    chosen = tf.ones_like(columns)
    if count is not None:
        chosen *= tf.cast(tf.range(most) < count, tf.int32)
    flat = tf.scatter_nd(
        tf.reshape(places, [-1, 1]), tf.reshape(chosen, [-1]), [height * width]
    )
    return tf.reshape(flat > 0, [height, width])


def _mask_of_rows(mask: Any, shape: tf.Tensor) -> tf.Tensor:
    """The mask for each vector along the last axis, as one axis.

    Args:
        mask: bool, with the leading axes of `shape`.
        shape: int32 vector, of the inputs without the last axis.
    """
    mask = tf.cast(tf.convert_to_tensor(mask), tf.bool)
    missing = shape.shape[0] - mask.shape.rank
    mask = tf.reshape(mask, tf.concat([tf.shape(mask), [1] * missing], axis=0))
    return tf.reshape(tf.broadcast_to(mask, shape), [-1])
