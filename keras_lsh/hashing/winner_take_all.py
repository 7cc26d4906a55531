"""Which of some random coordinates is the largest."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_lsh import ops
from keras_lsh.hashing._config import integer
from keras_lsh.hashing.digits import packed
from keras_lsh.hashing.family import State
from keras_lsh.hashing.vectors import VectorHash, Vectors

# Bins that an empty bin asks for something to borrow.
_DONORS = 64

# The score of an element that is not there, below all others.
_ABSENT = -1e9


@keras.saving.register_keras_serializable("keras_lsh")
class WTAHash(VectorHash):
    """Hashes by which of some random coordinates is the largest.

    A hash function looks at `window` random coordinates of a vector; its value is the
    place of the largest among them (the first of equals). `functions` such values make
    a code. Only the order of coordinates counts, not their size, and so much more can
    happen to a vector without changing its hash.

    An input looks into the buckets of its next largest coordinates, too: one that is
    smaller than the largest by `g` costs `g**2`, in units of the root mean square
    coordinate.

    What is hashed: see `SimHash`. A neuron and an input agree where the same coordinate
    is the largest in both.

    Source: Yagnik, Strelow, Ross & Lin 2011, "The Power of Comparative Reasoning".

    Cost: there are no multiplications; the `tables * functions * window` coordinates
    that are compared are counted as such.

    Args:
        window: Coordinates that a hash function compares, from 2 to 65536; a layer
            compares at most as many as a vector has.
        functions: Hash functions whose values make a code, from 1 to 20.
        tables: Number of hash tables, from 1 to 1024.
        probes: Buckets that an input looks into per table, on average; from 1 to
            `window**functions`. All tables compete for them.
        transform: How to account for the different norms of neurons: None,
            `"simple_lsh"`, `"sign_alsh"`, `"l2_alsh"`, or a `Transform`.
        center: Whether to subtract the mean of the inputs.
        seed: Seed of the coordinates. Equal seeds give equal coordinates.

    Example:

    >>> keras_lsh.LSHDense(1000, hashing=WTAHash(window=8, tables=40))
    """

    _bucket_arguments = ("window", "functions")

    def __init__(
        self,
        window: int = 8,
        functions: int = 2,
        tables: int = 40,
        probes: int = 10,
        *,
        transform: Any = None,
        center: bool = True,
        seed: int = 0,
    ):
        self.window = integer("window", window, 2, 2**16)
        self.functions = integer("functions", functions, 1, 20)
        self._set_common(tables, probes, transform, center, seed)

    @property
    def buckets(self) -> int:
        return self.window**self.functions

    def hash_functions(
        self, size: int, generator: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """`coordinates` int32 `[tables * functions, window]`, what functions look at.

        Where a vector is shorter than the window, -1: nothing.
        """
        bins = self.tables * self.functions
        coordinates = np.full([bins, self.window], -1, np.int32)
        used = min(self.window, size)
        for bin_ in coordinates:
            bin_[:used] = generator.permutation(size)[:used]
        return {"coordinates": coordinates}

    def neuron_codes(self, kernel: Any, bias: Any, state: State) -> tf.Tensor:
        scores = self._scores(self.neuron_vectors(kernel, bias, state), state)
        return packed(tf.argmax(scores, -1, output_type=tf.int32), self.window)

    def input_probes(
        self, inputs: tf.Tensor, state: State
    ) -> tuple[tf.Tensor, tf.Tensor]:
        scores = self._scores(self.input_vectors(inputs, state), state)
        return ops.probe_digits(scores, self.probes)

    def multiplications(self, input_dim: int) -> int:
        del input_dim
        return self.tables * self.functions * self.window

    def get_config(self) -> dict[str, Any]:
        own = {"window": self.window, "functions": self.functions}
        return {**own, **super().get_config()}

    def _scores(self, vectors: Vectors, state: State) -> tf.Tensor:
        """`[n, tables, functions, window]`: the elements that functions compare.

        Their mean square is 1 for vectors of unit length.
        """
        x = vectors.joined()
        x *= x.shape[-1] ** 0.5
        elements = self._compared(x, tf.convert_to_tensor(state["coordinates"]), state)
        return tf.reshape(elements, [-1, self.tables, self.functions, self.window])

    def _compared(
        self, x: tf.Tensor, coordinates: tf.Tensor, state: State
    ) -> tf.Tensor:
        """`[n, tables * functions, window]`, from `x` `[n, elements]`."""
        del state
        return _elements(x, coordinates)


@keras.saving.register_keras_serializable("keras_lsh")
class DensifiedWTAHash(WTAHash):
    """`WTAHash` for sparse inputs.

    Of the coordinates that a hash function of `WTAHash` looks at, all may be zero, and
    vectors then collide for what they do not have. Here functions divide the
    coordinates among themselves, bin by bin; only elements that are not zero are
    compared; and a function whose bin holds none borrows from another bin that does, by
    an order drawn for each bin.

    Source: Chen & Shrivastava 2018, "Densified Winner Take All (WTA) Hashing for Sparse
    Datasets".

    Args:
        window: Coordinates of a bin, from 2 to 65536; see `WTAHash` for this and the
            other arguments.
        functions: Hash functions whose values make a code, from 1 to 20.
        tables: Number of hash tables, from 1 to 1024.
        probes: Buckets that an input looks into per table, on average.
        transform: How to account for the different norms of neurons.
        center: Whether to subtract the mean of the inputs, after which nothing is
            sparse.
        seed: Seed of the bins.

    Example:

    >>> keras_lsh.LSHDense(1000, hashing=DensifiedWTAHash(tables=50))
    """

    def __init__(
        self,
        window: int = 8,
        functions: int = 2,
        tables: int = 40,
        probes: int = 10,
        *,
        transform: Any = None,
        center: bool = False,
        seed: int = 0,
    ):
        super().__init__(
            *(window, functions, tables, probes),
            transform=transform,
            center=center,
            seed=seed,
        )

    def hash_functions(
        self, size: int, generator: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """What the bins are.

        - `coordinates` int32 `[tables * functions, window]`: a permutation cut into
          bins, and further ones as far as needed; -1: none left;
        - `donors` int32 `[tables * functions, donors]`: where each bin takes its
          elements from, the first that has any: itself, then others in random order.
        """
        bins = self.tables * self.functions
        per_permutation = -(-size // self.window)
        padding = np.full([per_permutation * self.window - size], -1)
        coordinates = np.concatenate(
            [
                np.append(generator.permutation(size), padding)
                for _ in range(-(-bins // per_permutation))
            ]
        )
        coordinates = coordinates.reshape([-1, self.window])[:bins].astype(np.int32)
        others = [
            generator.choice(bins, min(bins, _DONORS), replace=False)
            for _ in range(bins)
        ]
        donors = np.concatenate([np.arange(bins)[:, np.newaxis], others], axis=1)
        return {"coordinates": coordinates, "donors": donors.astype(np.int32)}

    def _compared(
        self, x: tf.Tensor, coordinates: tf.Tensor, state: State
    ) -> tf.Tensor:
        elements = _elements(x, coordinates)
        elements = tf.where(elements == 0.0, _ABSENT, elements)
        filled = tf.reduce_any(elements > _ABSENT, axis=-1)
        donors = tf.convert_to_tensor(state["donors"])
        can_give = tf.cast(tf.gather(filled, donors, axis=1), tf.int32)
        first = tf.argmax(can_give, axis=-1, output_type=tf.int32)
        # Of the bin itself, if no donor has anything to give.
        donor = tf.gather(
            tf.broadcast_to(donors, tf.shape(can_give)), first, batch_dims=2
        )
        return tf.gather(elements, donor, batch_dims=1)


def _elements(x: tf.Tensor, coordinates: tf.Tensor) -> tf.Tensor:
    """`[n, bins, window]`, the coordinates of `x` `[n, size]` where there are any."""
    elements = tf.gather(x, tf.maximum(coordinates, 0), axis=1)
    return tf.where(coordinates >= 0, elements, _ABSENT)
