"""Signs of random projections."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_lsh import ops
from keras_lsh.hashing._config import integer
from keras_lsh.hashing.family import HashFamily, State
from keras_lsh.hashing.transforms import get_transform

MAX_BUCKETS = 2**24  # in all tables together
MAX_PROBES = 32767  # of an input, in all tables together

# After so many samples the running mean starts to forget. Long enough for a mean of
# many batches, short enough to follow the activations of a layer that learns.
_WINDOW = 10_000.0


@keras.saving.register_keras_serializable("keras_lsh")
class SimHash(HashFamily):
    """Hashes by the signs of random projections, with query-directed multi-probe.

    Two vectors at an angle `theta` agree in the sign of their products with a Gaussian
    direction with probability `1 - theta / pi` (Charikar 2002, "Similarity Estimation
    Techniques from Rounding Algorithms", section 3). `bits` such signs are a code, and
    an input looks into the buckets near its own code, cheapest first (see
    `keras_lsh.ops.probe_sequence`).

    What is hashed: for a neuron with weights `w` and bias `b` the vector
    `[w; b + w . mu]`, for an input `x` the vector `[x - mu; 1]`, scaled to unit length,
    where `mu` is the mean of the inputs seen in training. Their inner product is the
    neuron's output `w . x + b` up to the scaling, which changes no order of neurons.
    Without the mean, inputs that all have a large part in common, as they do after a
    ReLU, would share their buckets.

    In a space of many dimensions a neuron and an input that are not related are nearly
    orthogonal, and few bits tell little about them: expect a recall not far above
    chance before training.

    Args:
        bits: Bits per code, from 1 to 20; a table has `2**bits` buckets.
        tables: Number of hash tables, from 1 to 1024.
        probes: Buckets that an input looks into per table, on average; from 1 to
            `2**bits`. All tables compete for them.
        transform: How to account for the different norms of neurons: None,
            `"simple_lsh"`, `"sign_alsh"`, `"l2_alsh"`, or a `Transform`.
        center: Whether to subtract the mean of the inputs (`mu` is 0 otherwise).
        seed: Seed of the directions. Equal seeds give equal directions.

    Example:

    >>> keras_lsh.LSHDense(1000, hashing=SimHash(bits=8, tables=10, probes=4))
    """

    def __init__(
        self,
        bits: int = 6,
        tables: int = 5,
        probes: int = 10,
        *,
        transform: Any = None,
        center: bool = True,
        seed: int = 0,
    ):
        self.bits = integer("bits", bits, 1, 20)
        self.tables = integer("tables", tables, 1, 1024)
        self.probes = integer("probes", probes, 1, 2**self.bits)
        self.transform = get_transform(transform)
        self.center = bool(center)
        self.seed = integer("seed", seed, 0, 2**63 - 1)
        if self.tables * self.buckets > MAX_BUCKETS:
            raise ValueError(
                "Received invalid values for `bits` and `tables`, expected "
                f"tables * 2**bits to be at most {MAX_BUCKETS}. Received: "
                f"bits={bits}, tables={tables}"
            )
        if self.tables * self.probes > MAX_PROBES:
            raise ValueError(
                "Received invalid values for `tables` and `probes`, expected "
                f"tables * probes to be at most {MAX_PROBES}. Received: "
                f"tables={tables}, probes={probes}"
            )

    @property
    def buckets(self) -> int:
        return 2**self.bits

    def initial_state(self, input_dim: int, units: int) -> dict[str, np.ndarray]:
        """The state of a new layer.

        - `directions` `[input_dim + 1 + extra_dims, tables * bits]`: a row for each
          input, one for the bias and one for each coordinate of the transform;
        - `center` and `running_mean` `[input_dim]`, and `count` `[]`, the number of
          samples in the latter (if `center`);
        - `scale` `[]`: the norm of the largest neuron (if there is a transform).
        """
        del units
        input_dim = integer("input_dim", input_dim, 1, 2**31 - 1)
        extra_dims = self.transform.extra_dims if self.transform else 0
        shape = input_dim + 1 + extra_dims, self.tables * self.bits
        generator = np.random.default_rng(self.seed)
        state = {"directions": generator.standard_normal(shape, np.float32)}
        if self.center:
            state["center"] = np.zeros([input_dim], np.float32)
            state["running_mean"] = np.zeros([input_dim], np.float32)
            state["count"] = np.zeros([], np.float32)
        if self.transform:
            state["scale"] = np.zeros([], np.float32)
        return state

    def observe(self, inputs: tf.Tensor, state: State) -> dict[str, tf.Tensor]:
        """Updates `running_mean`, the mean of all inputs at first, of later ones later.

        A plain mean of the first 10,000 samples; from then on, each sample moves the
        mean by a ten-thousandth.
        """
        if not self.center:
            return {}
        mean, count = _float("running_mean", state), _float("count", state)
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
        """Moves `center` to the running mean; `scale` to the largest neuron's norm."""
        changes = {}
        if self.center:
            changes["center"] = _float("running_mean", state)
        if self.transform:
            kernel, last = self._neurons(kernel, bias, {**state, **changes})
            norms = _norms(kernel, last)
            norms = tf.where(tf.math.is_finite(norms), norms, 0.0)
            changes["scale"] = tf.reduce_max(norms)
        return changes

    def neuron_codes(self, kernel: Any, bias: Any, state: State) -> tf.Tensor:
        for_inputs, for_bias, for_extra = self._directions(state)
        kernel, last = self._neurons(kernel, bias, state)
        margins = tf.matmul(kernel, for_inputs) + last[:, tf.newaxis] * for_bias
        if self.transform:
            norms = _norms(kernel, last)
            # A neuron that has outgrown the scale counts as the largest.
            largest = tf.maximum(_float("scale", state), norms)
            factor = tf.math.divide_no_nan(self.transform.scale, largest)
            squares = tf.minimum((factor * norms) ** 2, self.transform.scale**2)
            extra = self.transform.neuron_coordinates(squares)
            margins = factor[:, tf.newaxis] * margins + tf.matmul(extra, for_extra)
        return ops.hash_codes(margins, self.tables, self.bits)

    def input_probes(
        self, inputs: tf.Tensor, state: State
    ) -> tuple[tf.Tensor, tf.Tensor]:
        for_inputs, for_bias, for_extra = self._directions(state)
        inputs = tf.cast(inputs, tf.float32)
        if self.center:
            inputs -= _float("center", state)
        margins = tf.matmul(inputs, for_inputs) + for_bias
        # Unit length makes margins, and with them the weights of probes, comparable
        # from one input to the next.
        margins /= _norms(inputs, 1.0)[:, tf.newaxis]
        if self.transform:
            extra = self.transform.input_coordinates()
            margins += tf.linalg.matvec(for_extra, extra, transpose_a=True)
        return ops.probe_sequence(margins, self.tables, self.bits, self.probes)

    def multiplications(self, input_dim: int) -> int:
        return input_dim * self.tables * self.bits

    def get_config(self) -> dict[str, Any]:
        transform = self.transform
        return {
            "bits": self.bits,
            "tables": self.tables,
            "probes": self.probes,
            "transform": transform and keras.saving.serialize_keras_object(transform),
            "center": self.center,
            "seed": self.seed,
        }

    def _directions(self, state: State) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The directions' rows for the inputs, for the bias and for the transform."""
        directions = _float("directions", state)
        extra_dims = self.transform.extra_dims if self.transform else 0
        input_dim = directions.shape[0] - 1 - extra_dims
        return (
            directions[:input_dim],
            directions[input_dim],
            directions[input_dim + 1 :],
        )

    def _neurons(
        self, kernel: Any, bias: Any, state: State
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The neurons' vectors: `w` and, apart, the last coordinate `b + w . mu`."""
        kernel = tf.cast(tf.convert_to_tensor(kernel), tf.float32)
        last = tf.zeros([tf.shape(kernel)[0]])
        if bias is not None:
            last += tf.cast(tf.convert_to_tensor(bias), tf.float32)
        if self.center:
            last += tf.linalg.matvec(kernel, _float("center", state))
        return kernel, last


def _float(name: str, state: State) -> tf.Tensor:
    return tf.cast(tf.convert_to_tensor(state[name]), tf.float32)


def _norms(vectors: tf.Tensor, last: Any) -> tf.Tensor:
    """The norms of `vectors` `[n, d]` with one more coordinate `last` `[n]`."""
    return tf.sqrt(tf.reduce_sum(vectors * vectors, axis=-1) + last * last)
