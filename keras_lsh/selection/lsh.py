"""Selection by hash tables."""

from typing import Any

import numpy as np
import tensorflow as tf

from keras_lsh import ops
from keras_lsh.hashing import HashFamily
from keras_lsh.selection.selector import Selector, WeightFactory


class LSHSelector(Selector):
    """The neurons that the hash tables hold in the buckets that a sample probes.

    They are ranked by the weights of the buckets in which they were met. A sample that
    meets too few is filled up with neurons drawn at random, the draw being seeded by
    the sample's own buckets, so that the same sample always gets the same neurons.

    Source: Spring & Shrivastava 2017, "Scalable and Sustainable Deep Learning via
    Randomized Hashing", section 4; multi-probe after Lv et al. 2007.

    Args:
        hashing: The hash family, e.g. `keras_lsh.SimHash()`.
    """

    ranks_approximately = True

    def __init__(self, hashing: HashFamily):
        self.hashing = hashing

    def build(self, add_weight: WeightFactory, units: int, input_dim: int) -> None:
        super().build(add_weight, units, input_dim)
        self.hashing = self.hashing.for_layer(input_dim, units)
        tables, buckets = self.hashing.tables, self.hashing.buckets
        self.state = {
            name: add_weight(name, value)
            for name, value in self.hashing.initial_state(input_dim, units).items()
        }
        everyone = np.arange(units, dtype=np.int32)
        offsets = np.full([tables, buckets + 1], units, np.int32)
        offsets[:, 0] = 0
        self.codes = add_weight("codes", np.zeros([units, tables], np.int32))
        self.offsets = add_weight("offsets", offsets)
        self.table_ids = add_weight("table_ids", np.tile(everyone, [tables, 1]))

    @property
    def neuron_keys(self) -> Any:
        return self.codes

    def select(self, inputs: tf.Tensor, kernel: Any, bias: Any, count: int) -> Any:
        """The `count` neurons met in the weightiest buckets."""
        del kernel, bias
        buckets, weights = self.hashing.input_probes(inputs, self.state)
        return ops.select_active(
            buckets,
            weights,
            self.offsets,
            self.table_ids,
            tf.zeros([tf.shape(inputs)[0], 0], tf.int32),
            tf.reduce_sum(buckets, axis=-1),
            count,
        )

    def observe(self, inputs: tf.Tensor) -> None:
        for name, value in self.hashing.observe(inputs, self.state).items():
            self.state[name].assign(value)

    def refresh(self, kernel: Any, bias: Any) -> dict[str, tf.Tensor]:
        """Hashes all neurons again and builds the tables anew.

        Returns:
            `codes_changed`: the share of neurons with a new code in some table.
        """
        kernel = tf.convert_to_tensor(kernel)
        bias = None if bias is None else tf.convert_to_tensor(bias)
        changes = self.hashing.refresh(kernel, bias, self.state)
        # The new values themselves: what `refresh` has computed from them, TensorFlow
        # then need not compute again.
        codes = self.hashing.neuron_codes(kernel, bias, {**self.state, **changes})
        for name, value in changes.items():
            self.state[name].assign(value)
        moved = tf.reduce_any(codes != tf.convert_to_tensor(self.codes), axis=-1)
        offsets, table_ids = ops.build_tables(codes, self.hashing.buckets)
        self.codes.assign(codes)
        self.offsets.assign(offsets)
        self.table_ids.assign(table_ids)
        return {"codes_changed": tf.reduce_mean(tf.cast(moved, tf.float32))}

    def multiplications(self, input_dim: int) -> int:
        return self.hashing.multiplications(input_dim)

    def refresh_multiplications(self, input_dim: int) -> int:
        return self.hashing.refresh_multiplications(input_dim, self.units)
