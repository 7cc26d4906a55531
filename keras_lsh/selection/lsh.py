"""Selection by hash tables."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_lsh import ops
from keras_lsh.hashing import HashFamily
from keras_lsh.selection.selector import Selector, WeightFactory

# Of so many neurons a few steps reach a fraction, which is worth telling from the rest.
_VERY_MANY = 20_000


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
        self.digests = None
        if units >= _VERY_MANY:
            self.digests = add_weight("digests", np.zeros([units], np.int32))

    @property
    def neuron_keys(self) -> Any:
        return self.codes

    def select(
        self, inputs: tf.Tensor, kernel: Any, bias: Any, count: int, forced: Any = None
    ) -> Any:
        """The `count` neurons met in the weightiest buckets."""
        del kernel, bias
        if forced is None:
            forced = tf.zeros([tf.shape(inputs)[0], 0], tf.int32)
        return self.hashing.select(
            inputs, self.state, self.offsets, self.table_ids, forced, count
        )

    def scores(self, inputs: tf.Tensor, kernel: Any, bias: Any) -> tf.Tensor:
        """int32: the summed weights of the probed buckets that hold a neuron."""
        del kernel, bias
        buckets, weights = self.hashing.input_probes(inputs, self.state)
        batch = tf.shape(buckets)[0]
        # Most buckets of many small ones are empty: room for those in use only.
        first = tf.range(self.hashing.tables) * self.hashing.buckets
        codes = tf.convert_to_tensor(self.codes) + first
        used = tf.sort(tf.unique(tf.reshape(codes, [-1]))[0])
        places = tf.searchsorted(used, tf.reshape(buckets, [-1]))
        places = tf.reshape(places, tf.shape(buckets))
        places = tf.minimum(places, tf.size(used) - 1)
        weights = tf.where(tf.gather(used, places) == buckets, weights, 0)
        samples = tf.broadcast_to(tf.range(batch)[:, tf.newaxis], tf.shape(places))
        worth = tf.scatter_nd(
            tf.stack([samples, places], axis=-1), weights, [batch, tf.size(used)]
        )
        scores = tf.zeros([batch, self.units], tf.int32)
        for table in range(self.hashing.tables):
            place = tf.searchsorted(used, codes[:, table])
            scores += tf.gather(worth, place, axis=1)
        return scores

    def entries_read(self, inputs: tf.Tensor) -> tf.Tensor:
        """int32 `[batch]`: the entries of the probed buckets.

        Fewer are read where one table's weightiest buckets hold enough neurons.
        """
        buckets, _ = self.hashing.input_probes(inputs, self.state)
        offsets = tf.convert_to_tensor(self.offsets)
        sizes = tf.reshape(offsets[:, 1:] - offsets[:, :-1], [-1])
        return tf.reduce_sum(tf.gather(sizes, buckets), axis=-1)

    def observe(self, inputs: tf.Tensor) -> None:
        for name, value in self.hashing.observe(inputs, self.state).items():
            self.state[name].assign(value)

    def refresh(
        self, kernel: Any, bias: Any, moved_only: Any = False
    ) -> dict[str, tf.Tensor]:
        """Hashes all neurons again, or those that have moved; builds the tables anew.

        Args:
            kernel: The layer's kernel, `[units, input_dim]`.
            bias: The layer's bias, `[units]`, or None.
            moved_only: A boolean, or a boolean scalar. Of very many neurons, hash only
                those whose weights are not those of the last refresh, by the hash
                functions as they are. Of others, hash all, as without.

        Returns:
            `codes_changed`: the share of neurons with a new code in some table.
        """
        kernel = ops.as_float32(kernel)
        bias = None if bias is None else tf.convert_to_tensor(bias)
        old = tf.convert_to_tensor(self.codes)
        if self.digests is None:
            codes = self._codes_of_all(kernel, bias)
        else:
            digests = _digests(kernel, bias)
            codes = tf.cond(
                tf.convert_to_tensor(moved_only),
                lambda: self._codes_of_moved(kernel, bias, digests),
                lambda: self._codes_of_all(kernel, bias),
            )
            self.digests.assign(digests)
        moved = tf.reduce_any(codes != old, axis=-1)
        offsets, table_ids = ops.build_tables(codes, self.hashing.buckets)
        self.codes.assign(codes)
        self.offsets.assign(offsets)
        self.table_ids.assign(table_ids)
        return {"codes_changed": tf.reduce_mean(tf.cast(moved, tf.float32))}

    def _codes_of_all(self, kernel: tf.Tensor, bias: tf.Tensor | None) -> tf.Tensor:
        """The codes of all neurons, by hash functions that have followed the inputs."""
        codes, changes = self.hashing.rehash(kernel, bias, self.state)
        for name, value in changes.items():
            self.state[name].assign(value)
        return codes

    def _codes_of_moved(
        self, kernel: tf.Tensor, bias: tf.Tensor | None, digests: tf.Tensor
    ) -> tf.Tensor:
        """The codes, new ones where the weights are not those of the last refresh."""
        codes = tf.convert_to_tensor(self.codes)
        ids = tf.where(digests != tf.convert_to_tensor(self.digests))
        new = self.hashing.neuron_codes(
            tf.gather(kernel, ids[:, 0]),
            None if bias is None else tf.gather(bias, ids[:, 0]),
            self.state,
        )
        codes = tf.tensor_scatter_nd_update(codes, ids, new)
        for name, value in self.hashing.follow(codes).items():
            self.state[name].assign(value)
        return codes

    def drift(self, kernel: Any, bias: Any, ids: tf.Tensor) -> tf.Tensor:
        """The share of the codes, over these neurons and all tables, that are stale.

        The neurons are hashed with the functions that the tables were built with, so
        what the inputs have taught since then does not count, only the weights.
        """
        bias = None if bias is None else _rows(bias, ids)
        kernel = ops.as_float32(_rows(kernel, ids))
        codes = self.hashing.neuron_codes(kernel, bias, self.state)
        stale = tf.cast(codes != _rows(self.codes, ids), tf.float32)
        return tf.math.divide_no_nan(
            tf.reduce_sum(stale), tf.cast(tf.size(stale), tf.float32)
        )

    def multiplications(self, input_dim: int) -> int:
        return self.hashing.multiplications(input_dim)

    def observe_multiplications(self, input_dim: int, batch: int) -> int:
        return self.hashing.observe_multiplications(input_dim, batch)

    def refresh_multiplications(self, input_dim: int) -> int:
        return self.hashing.refresh_multiplications(input_dim, self.units)


def _digests(kernel: tf.Tensor, bias: tf.Tensor | None) -> tf.Tensor:
    """int32 `[units]`: others where the weights of a neuron are others."""
    digests = ops.row_digests(kernel)
    return digests if bias is None else digests + tf.bitcast(bias, tf.int32)


def _rows(weight: Any, ids: tf.Tensor) -> tf.Tensor:
    """Some rows of a weight, and of a variable no others.

    A variable that has had a sparse update is copied whole when it is read whole.
    """
    if isinstance(weight, keras.Variable):
        weight = weight.value
    return tf.gather(weight, ids)
