"""What a hash family is."""

import abc
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lsh import ops
from keras_lsh.hashing._config import Config

State = Mapping[str, Any]


class HashFamily(Config, abc.ABC):
    """Puts neurons into buckets, and says which buckets an input should look into.

    A family is a small description: it holds no weights, it can be serialised, and one
    object may be given to several layers. What a layer needs beyond it, such as random
    directions or running statistics, is the layer's *state*: named arrays that
    `initial_state` makes, that the layer keeps as non-trainable weights, and that the
    other methods get back as a mapping of the same names to tensors or variables.

    Over time, a layer calls

    - `for_layer`, then `initial_state`, once, when it is built;
    - `observe` with training batches, if it gathers statistics;
    - `refresh`, then `neuron_codes`, each time it rebuilds its hash tables, the first
      time in `build`;
    - `select`, which asks for `input_probes`, with every batch.

    Subclasses are registered with `keras.saving.register_keras_serializable(
    "keras_lsh")` and pass all that defines them through `get_config`.

    Attributes:
        tables: Number of hash tables.
        probes: Buckets that an input looks into per table, on average; None as long as
            `for_layer` has not decided it.
    """

    tables: int
    probes: int | None

    @property
    @abc.abstractmethod
    def buckets(self) -> int:
        """Number of buckets of a table."""

    def for_layer(self, input_dim: int, units: int) -> "HashFamily":
        """This family with all that it leaves open decided for a layer.

        The layer calls the other methods of the result.

        Args:
            input_dim: Number of inputs of the layer.
            units: Number of its neurons.
        """
        del input_dim, units
        return self

    @abc.abstractmethod
    def initial_state(self, input_dim: int, units: int) -> dict[str, np.ndarray]:
        """The state of a new layer of `units` neurons with `input_dim` inputs each.

        Shapes and dtypes never change. The same arguments give the same arrays.
        """

    def observe(self, inputs: tf.Tensor, state: State) -> dict[str, tf.Tensor]:
        """What a training batch changes in the state.

        Must leave alone what `neuron_codes` and `input_probes` read: neurons and inputs
        are to be hashed alike, and neurons are hashed again only when the tables are.

        Args:
            inputs: float32 `[batch, input_dim]`. The batch may be empty; rows that are
                not finite are ignored.
            state: The layer's state.

        Returns:
            New values of some entries of the state (here: none).
        """
        return {}

    def refresh(self, kernel: Any, bias: Any, state: State) -> dict[str, tf.Tensor]:
        """What changes in the state when all neurons are about to be hashed again.

        Args:
            kernel: `[units, input_dim]`, all neurons' weights.
            bias: `[units]`, or None.
            state: The layer's state.

        Returns:
            New values of some entries of the state (here: none).
        """
        return {}

    def rehash(
        self, kernel: Any, bias: Any, state: State
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """The codes of all neurons after a `refresh`, and what that changes.

        Returns:
            What `neuron_codes` gives with the changes of `refresh`, and these.
        """
        changes = self.refresh(kernel, bias, state)
        return self.neuron_codes(kernel, bias, {**state, **changes}), changes

    def follow(self, codes: tf.Tensor) -> dict[str, tf.Tensor]:
        """What changes in the state when some neurons alone were hashed again.

        Args:
            codes: int32 `[units, tables]`, the new codes and those that stay.

        Returns:
            New values of some entries of the state (here: none).
        """
        del codes
        return {}

    @abc.abstractmethod
    def neuron_codes(self, kernel: Any, bias: Any, state: State) -> tf.Tensor:
        """The buckets of neurons.

        Args:
            kernel: `[n, input_dim]`, the weights of all neurons or of some of them.
            bias: `[n]`, or None.
            state: The layer's state.

        Returns:
            int32 `[n, tables]`, in `[0, buckets)`, whatever the weights are.
        """

    @abc.abstractmethod
    def input_probes(
        self, inputs: tf.Tensor, state: State
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The buckets that inputs should look into.

        Args:
            inputs: float32 `[batch, input_dim]`.
            state: The layer's state.

        Returns:
            `(buckets, weights)`, int32 `[batch, tables * probes]` each: global bucket
            numbers `table * buckets + code`, and what a collision there is worth in the
            ranking of candidates, from 1 to 65536.
        """

    def select(
        self,
        inputs: tf.Tensor,
        state: State,
        offsets: Any,
        table_ids: Any,
        forced: tf.Tensor,
        active: int,
    ) -> tf.Tensor:
        """The active neurons of inputs: the best of those in the buckets they probe.

        Overridden where there is a shorter way to the same ids than by way of
        `input_probes`.

        Args:
            inputs: float32 `[batch, input_dim]`.
            state: The layer's state.
            offsets: int32 `[tables, buckets + 1]` (see `ops.build_tables`).
            table_ids: int32 `[tables, units]`.
            forced: int32 `[batch, F]`, ids that are active in any case; -1 is skipped.
            active: Number of ids per sample.

        Returns:
            int32 `[batch, active]`, ascending. A sample that meets too few is filled up
            at random, the seed being its own buckets.
        """
        buckets, weights = self.input_probes(inputs, state)
        seeds = tf.reduce_sum(buckets, axis=-1)
        return ops.select_active(
            buckets, weights, offsets, table_ids, forced, seeds, active
        )

    @abc.abstractmethod
    def multiplications(self, input_dim: int) -> int:
        """Multiplications that hashing one vector of `input_dim` elements takes."""

    def observe_multiplications(self, input_dim: int, batch: int) -> int:
        """Multiplications that one `observe` of `batch` inputs takes."""
        del input_dim, batch
        return 0

    def refresh_multiplications(self, input_dim: int, units: int) -> int:
        """Multiplications that `refresh` and hashing all neurons take."""
        return units * self.multiplications(input_dim)


def as_float(name: str, state: State) -> tf.Tensor:
    """An entry of the state as a float32 tensor."""
    return tf.cast(tf.convert_to_tensor(state[name]), tf.float32)
