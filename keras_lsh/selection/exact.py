"""Exact selection: the oracle."""

from typing import Any

import tensorflow as tf

from keras_lsh import ops
from keras_lsh.selection.selector import Selector

# Neurons whose products are computed at a time where not all can be kept.
_BLOCK = 8192


class ExactSelector(Selector):
    """The neurons with the largest inner products, found by computing all of them.

    No faster than a dense layer: it shows what perfect retrieval would give.
    """

    def select(
        self, inputs: tf.Tensor, kernel: Any, bias: Any, count: int, forced: Any = None
    ) -> Any:
        """The `count` largest of `kernel @ inputs + bias`, ties to the smaller id."""
        return largest_or_forced(self.scores(inputs, kernel, bias), count, forced)

    def scores(self, inputs: tf.Tensor, kernel: Any, bias: Any) -> tf.Tensor:
        """The products themselves."""
        products = tf.matmul(inputs, ops.as_float32(kernel), transpose_b=True)
        return products if bias is None else products + tf.convert_to_tensor(bias)

    def multiplications(self, input_dim: int) -> int:
        return self.units * input_dim


def largest_or_forced(scores: tf.Tensor, count: int, forced: Any) -> tf.Tensor:
    """The ids `[batch, count]` of the largest scores, ascending.

    Args:
        scores: `[batch, units]`.
        count: at most `units`.
        forced: int32 `[batch, any]`, ids to count as the largest, -1 for none; or None.
    """
    if forced is not None:
        places = tf.where(forced >= 0)
        ids = tf.cast(tf.gather_nd(forced, places), tf.int64)
        scores = tf.tensor_scatter_nd_update(
            scores,
            tf.stack([places[:, 0], ids], axis=-1),
            tf.fill(tf.shape(ids), float("inf")),
        )
    return tf.sort(tf.math.top_k(scores, count).indices, axis=-1)


def largest(
    inputs: tf.Tensor, kernel: Any, bias: Any, count: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """The `count` largest of `kernel @ inputs + bias`, never all of them in memory.

    Args:
        inputs: float32 `[batch, input_dim]`.
        kernel: `[units, input_dim]`.
        bias: `[units]`, or None.
        count: at most `units`.

    Returns:
        Values and ids, `[batch, count]`, largest values first, ties to the smaller id.
    """
    kernel = tf.convert_to_tensor(kernel)
    bias = None if bias is None else tf.convert_to_tensor(bias)
    units = kernel.shape[0]
    block = max(_BLOCK, 4 * count)

    def of_block(begin: Any) -> tuple[tf.Tensor, tf.Tensor]:
        rows = ops.as_float32(kernel[begin : begin + block])
        values = tf.matmul(inputs, rows, transpose_b=True)
        if bias is not None:
            values += bias[begin : begin + block]
        values, ids = tf.math.top_k(values, tf.minimum(count, tf.shape(values)[1]))
        return values, ids + begin

    def add_block(begin: Any, *best: Any) -> tuple[Any, Any, Any]:
        # Those of smaller ids first: top_k prefers the first of equal ones.
        joined = [
            tf.concat(pair, -1) for pair in zip(best, of_block(begin), strict=True)
        ]
        values, places = tf.math.top_k(joined[0], count)
        return begin + block, values, tf.gather(joined[1], places, batch_dims=1)

    begin, best = tf.constant(block), of_block(0)
    if units <= block:
        return best
    anything = tf.TensorShape([inputs.shape[0], None])
    _, values, ids = tf.while_loop(
        lambda begin, *_: begin < units,
        add_block,
        (begin, *best),
        shape_invariants=(begin.shape, anything, anything),
    )
    shape = [inputs.shape[0], count]
    return tf.ensure_shape(values, shape), tf.ensure_shape(ids, shape)
