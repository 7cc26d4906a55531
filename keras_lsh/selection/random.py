"""Random selection: the control."""

from typing import Any

import numpy as np
import tensorflow as tf

from keras_lsh import ops
from keras_lsh.selection.selector import Selector, WeightFactory


class RandomSelector(Selector):
    """Neurons drawn uniformly without replacement, others at each step.

    Args:
        seed: Integer, seed of the draws.
        shared: Whether all samples of a step get the same ones, and not each its own.
            Then none can be forced.
    """

    def __init__(self, seed: int = 0, shared: bool = False):
        self.seed = seed
        self.shared = shared

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
        drawn = tf.minimum(batch, 1) if self.shared else batch
        seeds = tf.random.stateless_uniform(
            [drawn],
            seed=tf.stack([self.seed, tf.convert_to_tensor(self.draws)]),
            minval=None,
            maxval=None,
            dtype=tf.int32,
        )
        self.draws.assign_add(1)
        nothing = tf.zeros([drawn, 0], tf.int32)
        ids = ops.select_active(
            nothing,
            nothing,
            tf.constant([[0, self.units]]),
            tf.zeros([1, self.units], tf.int32),
            nothing if forced is None else forced,
            seeds,
            count,
        )
        return tf.tile(ids, [batch, 1]) if self.shared else ids

    def multiplications(self, input_dim: int) -> int:
        return 0
