"""The nearest vertex of a randomly rotated cross-polytope."""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_lsh import ops
from keras_lsh._arguments import check_argument
from keras_lsh.hashing._config import integer
from keras_lsh.hashing.digits import packed
from keras_lsh.hashing.family import State, as_float
from keras_lsh.hashing.vectors import VectorHash, Vectors

MAX_DIM = 2**16

# Rotations of vectors with more elements than this are of hashed features.
_MOST_FEATURES = 4096

# Elements that a step of the transform combines: few, large products of matrices are
# faster than many additions.
_RADIX = 32


@keras.saving.register_keras_serializable("keras_lsh")
class CrossPolytope(VectorHash):
    """Hashes by the nearest vertex of a randomly rotated cross-polytope.

    The hash of a vector is the largest coordinate, by absolute value, of `dim`
    coordinates of the randomly rotated vector, and its sign: one of `2 * dim` values.
    Unlike SimHash it is optimal for angles, in the limit of many dimensions. An input
    looks into the buckets of its next largest coordinates, too: one that is smaller
    than the largest by `g` costs `g**2`, in units of the root mean square coordinate.

    Rotations are pseudo-random: `H D3 H D2 H D1`, with Hadamard matrices `H` and random
    diagonal matrices of signs, multiplied by a fast Walsh-Hadamard transform. The
    coordinates of one rotation serve as many tables as they suffice for. Vectors of
    more than `features` elements are shortened first by feature hashing: each element
    is added to, or subtracted from, a random feature.

    What is hashed: see `SimHash`.

    Source: Andoni, Indyk, Laarhoven, Razenshteyn & Schmidt 2015, "Practical and Optimal
    LSH for Angular Distance".

    Cost: a rotation takes `3 * features * log2(features)` additions, which are counted
    as multiplications.

    Args:
        dim: Coordinates that compete, from 1 to 65536.
        tables: Number of hash tables, from 1 to 1024.
        probes: Buckets that an input looks into per table, on average; from 1 to
            `(2 * dim)**functions`. All tables compete for them.
        functions: Hash functions whose values make a code, from 1 to 8.
        features: Dimensions of a rotation, a power of two from `dim` to 65536. None:
            enough for all elements, at most 4096 unless `dim` is larger.
        transform: How to account for the different norms of neurons: None,
            `"simple_lsh"`, `"sign_alsh"`, `"l2_alsh"`, or a `Transform`.
        center: Whether to subtract the mean of the inputs.
        seed: Seed of the rotations. Equal seeds give equal rotations.

    Example:

    >>> keras_lsh.LSHDense(1000, hashing=CrossPolytope(dim=32, tables=10, probes=8))
    """

    _bucket_arguments = ("dim", "functions")

    def __init__(
        self,
        dim: int = 32,
        tables: int = 32,
        probes: int = 8,
        *,
        functions: int = 1,
        features: int | None = None,
        transform: Any = None,
        center: bool = True,
        seed: int = 0,
    ):
        self.dim = integer("dim", dim, 1, MAX_DIM)
        self.functions = integer("functions", functions, 1, 8)
        self._set_common(tables, probes, transform, center, seed)
        self.features = features
        if features is not None:
            self.features = integer("features", features, self.dim, MAX_DIM)
            check_argument(
                "features",
                features,
                self.features == _power_of_two(self.features),
                "a power of two",
            )

    @property
    def buckets(self) -> int:
        return (2 * self.dim) ** self.functions

    def for_layer(self, input_dim: int, units: int) -> "CrossPolytope":
        """With `features` decided."""
        del units
        size = integer("input_dim", input_dim, 1, 2**31 - 1) + 1 + self.extra_dims
        return CrossPolytope(**{**self.get_config(), "features": self._features(size)})

    def hash_functions(
        self, size: int, generator: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """Random signs, and where features are hashed, how.

        - `signs` `[rotations, 3, features]`: the diagonals of `D1`, `D2` and `D3`;
        - `feature` and `feature_sign` `[elements]`: the feature that an element is
          added to, and its sign there (if there are fewer features than elements).
        """
        features = self._features(size)
        shape = self._rotations(features), 3, features
        both = np.array([-1, 1], np.float32)
        state = {"signs": generator.choice(both, shape)}
        if size > features:
            state["feature"] = generator.integers(features, size=size, dtype=np.int32)
            state["feature_sign"] = generator.choice(both, size)
        return state

    def neuron_codes(self, kernel: Any, bias: Any, state: State) -> tf.Tensor:
        scores = self._scores(self.neuron_vectors(kernel, bias, state), state)
        scores = tf.concat([scores, -scores], axis=-1)
        values = tf.argmax(scores, axis=-1, output_type=tf.int32)
        return packed(values, 2 * self.dim)

    def input_probes(
        self, inputs: tf.Tensor, state: State
    ) -> tuple[tf.Tensor, tf.Tensor]:
        scores = self._scores(self.input_vectors(inputs, state), state)
        return ops.probe_digits(scores, self.probes, negatives=True)

    def multiplications(self, input_dim: int) -> int:
        features = self._features(input_dim + 1 + self.extra_dims)
        return self._rotations(features) * 3 * features * int(math.log2(features))

    def get_config(self) -> dict[str, Any]:
        own = {"dim": self.dim, "functions": self.functions, "features": self.features}
        return {**own, **super().get_config()}

    def _features(self, size: int) -> int:
        """Dimensions of a rotation, for vectors of `size` elements."""
        enough = min(_power_of_two(size), _MOST_FEATURES)
        return self.features or max(enough, _power_of_two(self.dim))

    def _rotations(self, features: int) -> int:
        return math.ceil(self.tables * self.functions * self.dim / features)

    def _scores(self, vectors: Vectors, state: State) -> tf.Tensor:
        """`[n, tables, functions, dim]`: the products with half of the vertices.

        Those with the opposite ones are their negatives.
        Their mean square is 1 for vectors of unit length.
        """
        signs = as_float("signs", state)
        rotations, _, features = signs.shape
        x = vectors.joined()
        if "feature" in state:
            x = tf.transpose(x * as_float("feature_sign", state))
            feature = tf.convert_to_tensor(state["feature"])
            x = tf.transpose(tf.math.unsorted_segment_sum(x, feature, features))
        else:
            x = tf.pad(x, [[0, 0], [0, features - x.shape[1]]])
        x = x[:, tf.newaxis] / features  # the transforms' norms, but for one root
        for diagonal in range(3):
            x = walsh_hadamard(x * signs[:, diagonal])
        x = tf.reshape(x, [-1, rotations * features])
        x = x[:, : self.tables * self.functions * self.dim]
        return tf.reshape(x, [-1, self.tables, self.functions, self.dim])


def walsh_hadamard(x: tf.Tensor) -> tf.Tensor:
    """The Walsh-Hadamard transform of the last axis, whose size is a power of two.

    Without scaling: applied twice it multiplies by the size. Order: that of Sylvester's
    matrices, `scipy.linalg.hadamard`.
    """
    size, shape = x.shape[-1], tf.shape(x)
    left = size
    x = tf.reshape(x, [-1, size])
    while left > 1:
        radix = min(_RADIX, left)
        left //= radix
        # The first `radix` of the size is transformed and becomes the last.
        x = tf.reshape(x, [-1, radix, size // radix])
        x = tf.tensordot(x, tf.constant(_hadamard(radix)), axes=[[1], [0]])
    return tf.reshape(x, shape)


def _hadamard(size: int) -> np.ndarray:
    matrix = np.ones([1, 1], np.float32)
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def _power_of_two(size: int) -> int:
    """The smallest power of two that is not less."""
    return 1 << (size - 1).bit_length()
