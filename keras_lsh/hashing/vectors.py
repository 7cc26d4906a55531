"""The vectors that data-independent families hash."""

import abc
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_lsh import ops
from keras_lsh.hashing import subspace
from keras_lsh.hashing._config import integer
from keras_lsh.hashing.family import HashFamily, State, as_float
from keras_lsh.hashing.transforms import get_transform

MAX_BUCKETS = 2**24  # in all tables together
MAX_PROBES = 32767  # of an input, in all tables together

# After so many samples the running mean starts to forget. Long enough for a mean of
# many batches, short enough to follow the activations of a layer that learns.
_WINDOW = 10_000.0


class Vectors(NamedTuple):
    """Vectors `[main; tail]` in two parts, float32 `[n, d]` and `[n, e]`.

    Apart, because `main` may be a layer's whole kernel, of which a copy costs.
    """

    main: tf.Tensor
    tail: tf.Tensor

    def times(self, matrix: tf.Tensor) -> tf.Tensor:
        """`[n, m]`, the products with a matrix `[d + e, m]`."""
        size = self.main.shape[-1]
        return ops.matmul(self.main, matrix[:size]) + ops.matmul(
            self.tail, matrix[size:]
        )

    def joined(self) -> tf.Tensor:
        """`[n, d + e]`, with NaN and infinity replaced by what can be computed with."""
        return subspace.limited(tf.concat(self, axis=-1))


class VectorHash(HashFamily):
    """Families that hash a vector for each neuron and each input, alike.

    The vector of a neuron with weights `w` and bias `b` is `[w; b + w . mu]`, that of
    an input `x` is `[x - mu; 1]`, scaled to unit length, where `mu` is the mean of the
    inputs seen in training (0 unless `center`). Their inner product is the neuron's
    output `w . x + b` up to the scaling, which changes no order of neurons. Without the
    mean, inputs that all have a large part in common, as they do after a ReLU, would
    share their buckets. With a `rank`, the coordinates `[u; b + w . mu]` and `[z; 1]`
    in the principal subspace of the inputs take their place (see
    `keras_lsh.hashing.subspace`).

    A transform scales the neurons and appends coordinates (see
    `keras_lsh.hashing.transforms`).

    Subclasses say what the hash functions are (`hash_functions`) and apply them, in
    `neuron_codes` and `input_probes`, to `neuron_vectors` and `input_vectors`.
    """

    probes: int
    transform: Any = None
    center: bool = True
    rank: int | None = None
    seed: int = 0
    _bucket_arguments: tuple[str, ...]  # those that decide the number of buckets

    def _set_common(
        self, tables: Any, probes: Any, transform: Any, center: Any, seed: Any
    ) -> None:
        """Checks and keeps the arguments that all have. `buckets` must be known."""
        self.tables = integer("tables", tables, 1, 1024)
        self.probes = integer("probes", probes, 1, self.buckets)
        self.transform = get_transform(transform)
        self.center = bool(center)
        self.seed = integer("seed", seed, 0, 2**63 - 1)
        if self.tables * self.buckets > MAX_BUCKETS:
            sizes = ", ".join(f"{n}={getattr(self, n)}" for n in self._bucket_arguments)
            names = " and ".join(f"`{name}`" for name in self._bucket_arguments)
            raise ValueError(
                f"Received invalid values for `tables` and {names}, expected all "
                f"tables together to have at most {MAX_BUCKETS} buckets. Received: "
                f"tables={tables}, {sizes}, which makes {self.buckets} buckets a table"
            )
        if self.tables * self.probes > MAX_PROBES:
            raise ValueError(
                "Received invalid values for `tables` and `probes`, expected "
                f"tables * probes to be at most {MAX_PROBES}. Received: "
                f"tables={tables}, probes={probes}"
            )

    @abc.abstractmethod
    def hash_functions(
        self, size: int, generator: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """The part of the state that defines the hash functions.

        Args:
            size: Elements of a hashed vector before any projection.
            generator: Where random numbers come from.
        """

    def initial_state(self, input_dim: int, units: int) -> dict[str, np.ndarray]:
        """The state of a new layer.

        - the hash functions (see `hash_functions`);
        - `center` and `running_mean` `[input_dim]`, and `count` `[]`, the number of
          samples in the latter (if `center`); with a `rank` instead the statistics of
          `subspace.initial_state`;
        - `scale` `[]`: the norm of the largest neuron (if there is a transform).
        """
        del units
        input_dim = integer("input_dim", input_dim, 1, 2**31 - 1)
        generator = np.random.default_rng(self.seed)
        state = self.hash_functions(input_dim + 1 + self.extra_dims, generator)
        if self.rank:
            rank = min(self.rank, input_dim)
            state |= subspace.initial_state(input_dim, rank, generator)
        elif self.center:
            state["center"] = np.zeros([input_dim], np.float32)
            state["running_mean"] = np.zeros([input_dim], np.float32)
            state["count"] = np.zeros([], np.float32)
        if self.transform:
            state["scale"] = np.zeros([], np.float32)
        return state

    def observe(self, inputs: tf.Tensor, state: State) -> dict[str, tf.Tensor]:
        """Updates `running_mean`, the mean of all inputs at first, of later ones later.

        A plain mean of the first 10,000 samples; from then on, each sample moves the
        mean by a ten-thousandth. With a `rank`, see `subspace.observe` instead.
        """
        if self.rank:
            return subspace.observe(inputs, state)
        if not self.center:
            return {}
        mean, count = as_float("running_mean", state), as_float("count", state)
        inputs = tf.cast(inputs, tf.float32)
        finite = tf.reduce_all(tf.math.is_finite(inputs), axis=-1, keepdims=True)
        new = tf.reduce_sum(tf.cast(finite, tf.float32))
        # Divided before they are summed: sums of large numbers overflow, means do not.
        batch = tf.where(finite, inputs, 0.0) / tf.maximum(new, 1.0)
        weight = tf.math.divide_no_nan(new, count + new)
        return {
            "running_mean": mean * (1.0 - weight) + tf.reduce_sum(batch, 0) * weight,
            "count": tf.minimum(count + new, _WINDOW),
        }

    def refresh(self, kernel: Any, bias: Any, state: State) -> dict[str, tf.Tensor]:
        """Moves `center` (and the subspace) to where the inputs are, and `scale` to the
        largest neuron's norm."""
        changes = {}
        if self.rank:
            changes = subspace.refresh(kernel, state)
        elif self.center:
            changes["center"] = as_float("running_mean", state)
        if self.transform:
            vectors, last = self._neurons(kernel, bias, {**state, **changes})
            norms = _norms(vectors, last)
            norms = tf.where(tf.math.is_finite(norms), norms, 0.0)
            changes["scale"] = tf.reduce_max(norms)
        return changes

    def neuron_vectors(self, kernel: Any, bias: Any, state: State) -> Vectors:
        """The vectors `[n, ...]` of neurons, `kernel` `[n, input_dim]`."""
        vectors, last = self._neurons(kernel, bias, state)
        if not self.transform:
            return Vectors(vectors, last)
        norms = _norms(vectors, last)
        # A neuron that has outgrown the scale counts as the largest.
        largest = tf.maximum(as_float("scale", state), norms)
        factor = tf.math.divide_no_nan(self.transform.scale, largest)
        squares = tf.minimum((factor * norms) ** 2, self.transform.scale**2)
        extra = self.transform.neuron_coordinates(squares[:, 0])
        return Vectors(factor * vectors, tf.concat([factor * last, extra], axis=-1))

    def input_vectors(self, inputs: tf.Tensor, state: State) -> Vectors:
        """The vectors `[batch, ...]` of inputs `[batch, input_dim]`."""
        inputs = tf.cast(inputs, tf.float32)
        if self.rank:
            inputs = subspace.input_coordinates(inputs, state)
        elif self.center:
            inputs -= as_float("center", state)
        norms = _norms(inputs, tf.ones([tf.shape(inputs)[0], 1]))
        tail = 1.0 / norms
        if self.transform:
            extra = tf.constant(self.transform.input_coordinates())[tf.newaxis]
            extra = tf.repeat(extra, tf.shape(inputs)[0], axis=0)
            tail = tf.concat([tail, extra], axis=-1)
        return Vectors(inputs / norms, tail)

    def observe_multiplications(self, input_dim: int, batch: int) -> int:
        if not self.rank:
            return 0
        rank = min(self.rank, input_dim)
        return subspace.observe_multiplications(input_dim, rank, batch)

    def get_config(self) -> dict[str, Any]:
        transform = self.transform
        return {
            "tables": self.tables,
            "probes": self.probes,
            "transform": transform and keras.saving.serialize_keras_object(transform),
            "center": self.center,
            "seed": self.seed,
        }

    @property
    def extra_dims(self) -> int:
        """Number of coordinates that the transform appends."""
        return self.transform.extra_dims if self.transform else 0

    def _neurons(
        self, kernel: Any, bias: Any, state: State
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The neurons' vectors, and their last coordinate `[n, 1]`, `b + w . mu`."""
        if self.rank:
            coordinates = subspace.neuron_coordinates(kernel, bias, state)
            return coordinates[:, :-1], coordinates[:, -1:]
        kernel = tf.cast(tf.convert_to_tensor(kernel), tf.float32)
        last = tf.zeros([tf.shape(kernel)[0]])
        if bias is not None:
            last += tf.cast(tf.convert_to_tensor(bias), tf.float32)
        if self.center:
            last += tf.linalg.matvec(kernel, as_float("center", state))
        return kernel, last[:, tf.newaxis]


def _norms(vectors: tf.Tensor, last: tf.Tensor) -> tf.Tensor:
    """`[n, 1]`, the norms of `vectors` `[n, d]` with one more coordinate `[n, 1]`."""
    return tf.sqrt(tf.reduce_sum(vectors * vectors, axis=-1, keepdims=True) + last**2)
