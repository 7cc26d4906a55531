"""Buckets drawn by lot: the control of every experiment with hash tables."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_lsh.hashing._config import integer
from keras_lsh.hashing.family import State
from keras_lsh.hashing.simhash import SimHash


@keras.saving.register_keras_serializable("keras_lsh")
class RandomBuckets(SimHash):
    """Puts each neuron into a bucket drawn by lot, once and for all.

    Inputs look into buckets as with `SimHash`, so that like inputs look into the same
    ones; but what neurons they find there has nothing to do with their weights. Cost
    and sizes of buckets being alike, what `SimHash` does better is due to the hashing.

    Neurons are known by their place: `neuron_codes` takes all neurons of the layer.

    Args:
        bits: Bits per code, from 1 to 20; a table has `2**bits` buckets.
        tables: Number of hash tables, from 1 to 1024.
        probes: Buckets that an input looks into per table, on average; from 1 to
            `2**bits`.
        center: Whether to subtract the mean of the inputs.
        seed: Seed of the neurons' buckets and of the inputs' directions.
    """

    def __init__(
        self,
        bits: int = 6,
        tables: int = 5,
        probes: int = 10,
        *,
        center: bool = True,
        seed: int = 0,
    ):
        super().__init__(bits, tables, probes, center=center, seed=seed)

    def initial_state(self, input_dim: int, units: int) -> dict[str, np.ndarray]:
        """That of `SimHash`, and `drawn` `[units, tables]`, the neurons' buckets."""
        shape = integer("units", units, 1, 2**31 - 1), self.tables
        # A stream of its own: the directions are those of SimHash with this seed.
        generator = np.random.default_rng([self.seed, 1])
        drawn = generator.integers(self.buckets, size=shape, dtype=np.int32)
        return {**super().initial_state(input_dim, units), "drawn": drawn}

    def neuron_codes(self, kernel: Any, bias: Any, state: State) -> tf.Tensor:
        del bias
        drawn = tf.convert_to_tensor(state["drawn"])
        if kernel.shape[0] != drawn.shape[0]:
            raise ValueError(
                "RandomBuckets knows neurons by their place: expected all "
                f"{drawn.shape[0]} of them. Received: kernel.shape={kernel.shape}"
            )
        return drawn

    def get_config(self) -> dict[str, Any]:
        names = "bits", "tables", "probes", "center", "seed"
        return {name: getattr(self, name) for name in names}
