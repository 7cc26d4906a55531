"""Random selection: the control."""

from typing import Any

import numpy as np
import tensorflow as tf

from keras_lsh import ops
from keras_lsh.selection.selector import Selector, WeightFactory


class RandomSelector(Selector):
    """Different neurons for each sample and step, drawn uniformly without replacement.

    Args:
        seed: Integer, seed of the draws.
    """

    def __init__(self, seed: int = 0):
        self.seed = seed

    def build(self, add_weight: WeightFactory, units: int, input_dim: int) -> None:
        super().build(add_weight, units, input_dim)
        # A counter, not keras.random.SeedGenerator: it is a weight like the others.
        self.draws = add_weight("draws", np.zeros([], np.int32))

    def select(
        self, inputs: tf.Tensor, kernel: Any, bias: Any, count: int, forced: Any = None
    ) -> Any:
        """`count` of all neurons, in an order seeded by `seed` and a running count."""
        del kernel, bias
        batch = tf.shape(inputs)[0]
        seeds = tf.random.stateless_uniform(
            [batch],
            seed=tf.stack([self.seed, tf.convert_to_tensor(self.draws)]),
            minval=None,
            maxval=None,
            dtype=tf.int32,
        )
        self.draws.assign_add(1)
        nothing = tf.zeros([batch, 0], tf.int32)
        return ops.select_active(
            nothing,
            nothing,
            tf.constant([[0, self.units]]),
            tf.zeros([1, self.units], tf.int32),
            nothing if forced is None else forced,
            seeds,
            count,
        )

    def multiplications(self, input_dim: int) -> int:
        return 0
