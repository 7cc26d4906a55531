"""Exact selection: the oracle."""

from typing import Any

import tensorflow as tf

from keras_lsh.selection.selector import Selector


class ExactSelector(Selector):
    """The neurons with the largest inner products, found by computing all of them.

    No faster than a dense layer: it shows what perfect retrieval would give.
    """

    def select(self, inputs: tf.Tensor, kernel: Any, bias: Any, count: int) -> Any:
        """The `count` largest of `kernel @ inputs + bias`, ties to the smaller id."""
        products = self.scores(inputs, kernel, bias)
        return tf.sort(tf.math.top_k(products, count).indices, axis=-1)

    def scores(self, inputs: tf.Tensor, kernel: Any, bias: Any) -> tf.Tensor:
        """The products themselves."""
        products = tf.matmul(inputs, tf.convert_to_tensor(kernel), transpose_b=True)
        return products if bias is None else products + tf.convert_to_tensor(bias)

    def multiplications(self, input_dim: int) -> int:
        return self.units * input_dim
