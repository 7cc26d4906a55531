"""Metrics of what a layer selects, for training loops of one's own."""

from typing import Any

import keras
import tensorflow as tf

from keras_lsh import ops
from keras_lsh._arguments import check_argument
from keras_lsh.layers import LSHDense

_ROUNDING = 4 * 2.0**-23  # of float32 products of vectors of norm 1


class _SelectionMetric(keras.metrics.Mean):
    """Mean over samples of a figure of a layer's active sets."""

    def __init__(self, layer: LSHDense, name: str | None, dtype: Any):
        check_argument(
            "layer", layer, isinstance(layer, LSHDense), "an `LSHDense` layer"
        )
        super().__init__(name=name, dtype=dtype)
        self.layer = layer

    def update_state(self, inputs: Any, sample_weight: Any = None) -> None:
        """Takes in what the layer would select.

        Args:
            inputs: `(batch, ..., input_dim)`, the inputs of the layer, not those of
                the model.
            sample_weight: None, or a weight for each vector of the inputs.

        Raises:
            ValueError: if the layer has not been built.
        """
        layer = self.layer
        if not layer.built:
            raise ValueError(
                f"Layer {layer.name!r} has no weights yet. Build it before it is "
                "measured, by calling it on data or with `layer.build(input_shape)`."
            )
        ids = layer.active_ids(inputs)
        x = tf.reshape(tf.cast(inputs, tf.float32), [-1, layer.kernel.shape[-1]])
        values = tf.matmul(x, ops.as_float32(layer.kernel), transpose_b=True)
        if layer.bias is not None:
            values += tf.convert_to_tensor(layer.bias)
        figures = self._figures(x, values, tf.maximum(ids, 0), ids >= 0)
        known = tf.math.is_finite(figures)
        weights = tf.cast(known, tf.float32)
        if sample_weight is not None:
            weights *= tf.reshape(tf.cast(sample_weight, tf.float32), [-1])
        figures = tf.where(known, figures, 0.0)
        super().update_state(figures, sample_weight=weights)

    def _figures(self, x: Any, values: Any, ids: Any, selected: Any) -> tf.Tensor:
        """The figure of each sample, NaN if it has none.

        Args:
            x: float32 `[n, input_dim]`, the inputs.
            values: float32 `[n, units]`, of all neurons.
            ids: int32 `[n, active]`, the active neurons; any where not selected.
            selected: bool `[n, active]`, whether there is such a neuron.
        """
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        raise NotImplementedError(
            f"{type(self).__name__} belongs to a layer and cannot be saved by itself. "
            "Make a new one for the loaded layer."
        )


class SelectionRecall(_SelectionMetric):
    """The share of the truly largest neurons that an `LSHDense` layer selects.

    The mean, over the samples, of the fraction of the `active` neurons with the largest
    `dot(input, kernel) + bias` that are in the active set. A neuron that equals the
    last of them counts as one of them. All products are computed: use it on some
    batches, not on all of a training.

    `compile(metrics=...)` hands labels and outputs to metrics, not the inputs of a
    layer, so this one is for a loop, `train_step` or `test_step` of one's own. In
    `fit`, the callback `keras_lsh.SelectionMonitor` is what shows the recall.

    Example:

    ```python
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.hidden = keras_lsh.LSHDense(1000, "relu", name="hidden")
            self.output_layer = keras.layers.Dense(10)
            self.hidden_recall = keras_lsh.metrics.SelectionRecall(self.hidden)

        def call(self, x):
            return self.output_layer(self.hidden(x))

        def test_step(self, data):  # in the results of `evaluate` and `fit`
            results = super().test_step(data)
            self.hidden_recall.update_state(data[0])
            return {**results, "recall": self.hidden_recall.result()}
    ```

    Args:
        layer: The layer.
        name: Of the metric.
        dtype: Of the result.
    """

    def __init__(
        self, layer: LSHDense, name: str | None = "selection_recall", dtype: Any = None
    ):
        super().__init__(layer, name, dtype)

    def _figures(self, x: Any, values: Any, ids: Any, selected: Any) -> tf.Tensor:
        # NaN counts as the largest value, as it does in the layer.
        values = tf.where(tf.math.is_nan(values), float("inf"), values)
        active = ids.shape[1]
        last_true = tf.math.top_k(values, active).values[:, -1:]
        # The layer has computed the values in another order of additions.
        longest = tf.reduce_max(tf.norm(ops.as_float32(self.layer.kernel), axis=1))
        rounding = _ROUNDING * longest * tf.norm(x, axis=1, keepdims=True)
        rounding = tf.where(tf.math.is_finite(rounding), rounding, 0.0)
        found = tf.gather(values, ids, batch_dims=1) >= last_true - rounding
        hits = tf.cast(tf.logical_and(found, selected), tf.float32)
        return tf.reduce_sum(hits, axis=-1) / active


class SelectedMass(_SelectionMetric):
    """The share of a layer's positive outputs that its active neurons have.

    The mean, over the samples, of the sum of `max(activation(value), 0)` over the
    active neurons, divided by that over all neurons. Samples without positive outputs,
    or with infinite ones, are left out. For use, see `SelectionRecall`.

    Args:
        layer: The `LSHDense` layer.
        name: Of the metric.
        dtype: Of the result.
    """

    def __init__(
        self, layer: LSHDense, name: str | None = "selected_mass", dtype: Any = None
    ):
        super().__init__(layer, name, dtype)

    def _figures(self, x: Any, values: Any, ids: Any, selected: Any) -> tf.Tensor:
        outputs = tf.maximum(self.layer.activation(values), 0.0)
        found = tf.where(selected, tf.gather(outputs, ids, batch_dims=1), 0.0)
        return tf.reduce_sum(found, axis=-1) / tf.reduce_sum(outputs, axis=-1)
