"""The interface of selectors."""

import abc
from typing import Any, Protocol

import numpy as np
import tensorflow as tf


class WeightFactory(Protocol):
    """Creates a non-trainable weight of the layer that a selector serves."""

    def __call__(self, name: str, value: np.ndarray) -> Any: ...


class Selector(abc.ABC):
    """Chooses the neurons that each sample computes.

    A selector belongs to one layer. What it must remember (hash functions, tables,
    statistics of the inputs) are non-trainable weights of that layer, so that it is
    saved, exported and cloned with it. Kernels come as the layer stores them, of
    float32 or bfloat16.
    """

    #: int32 `[units, any]`, or None: neurons of equal first key are likely to be
    #: selected by the same samples (see `keras_lsh.ops.active_matmul`).
    neuron_keys: Any = None

    def build(self, add_weight: WeightFactory, units: int, input_dim: int) -> None:
        """Creates the weights. `refresh` is called before the first `select`."""
        del add_weight, input_dim
        self.units = units

    @abc.abstractmethod
    def select(
        self, inputs: tf.Tensor, kernel: Any, bias: Any, count: int, forced: Any = None
    ) -> Any:
        """The neurons of each sample.

        Args:
            inputs: float32 `[batch, input_dim]`.
            kernel: The layer's kernel, `[units, input_dim]`.
            bias: The layer's bias, `[units]`, or None.
            count: Neurons per sample.
            forced: int32 `[batch, any]`, different neurons that are among them in any
                case, at most `count`; -1 in unused places. Or None.

        Returns:
            int32 `[batch, count]`, ascending within a sample.
        """

    def scores(self, inputs: tf.Tensor, kernel: Any, bias: Any) -> tf.Tensor:
        """What `select` goes by: it prefers neurons of a larger score.

        For all neurons, so no cheaper than a dense layer: for diagnostics.

        Args:
            inputs: float32 `[batch, input_dim]`.
            kernel: The layer's kernel, `[units, input_dim]`.
            bias: The layer's bias, `[units]`, or None.

        Returns:
            `[batch, units]`; all 0 if nothing is known of the neurons.
        """
        del kernel, bias
        return tf.zeros([tf.shape(inputs)[0], self.units], tf.int32)

    def entries_read(self, inputs: tf.Tensor) -> tf.Tensor:
        """int32 `[batch]`: how many entries of tables are read to choose, at most."""
        return tf.zeros([tf.shape(inputs)[0]], tf.int32)

    def observe(self, inputs: tf.Tensor) -> None:
        """Sees the inputs `[batch, input_dim]` of a training step."""
        del inputs

    def refresh(
        self, kernel: Any, bias: Any, moved_only: Any = False
    ) -> dict[str, tf.Tensor]:
        """Follows the weights as they are now.

        Args:
            kernel: The layer's kernel, `[units, input_dim]`.
            bias: The layer's bias, `[units]`, or None.
            moved_only: A boolean, or a boolean scalar: look only at neurons whose
                weights have changed since the last refresh, where that pays, and keep
                the rest as it is.

        Returns:
            What there is to say about it, e.g. `codes_changed`, as scalars.
        """
        del kernel, bias, moved_only
        return {}

    def drift(self, kernel: Any, bias: Any, ids: tf.Tensor) -> tf.Tensor:
        """How far the weights have moved from what the last `refresh` saw.

        Args:
            kernel: The layer's kernel, `[units, input_dim]`.
            bias: The layer's bias, `[units]`, or None.
            ids: int32 `[n]`, the neurons to look at; only their rows are read.

        Returns:
            float32 scalar from 0 to 1: the share of what `refresh` notes of these
            neurons that it would note differently now; 0 if there are none.
        """
        del kernel, bias, ids
        return tf.zeros([])

    @abc.abstractmethod
    def multiplications(self, input_dim: int) -> int:
        """Multiplications that choosing for one sample takes."""

    def numbers_read(self, input_dim: int) -> int:
        """Numbers that choosing for one sample reads, besides entries of tables."""
        return self.multiplications(input_dim)

    def observe_multiplications(self, input_dim: int, batch: int) -> int:
        """Multiplications that one `observe` of `batch` inputs takes."""
        del input_dim, batch
        return 0

    def refresh_multiplications(self, input_dim: int) -> int:
        """Multiplications that one refresh takes."""
        del input_dim
        return 0
