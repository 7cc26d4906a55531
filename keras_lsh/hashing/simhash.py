"""Signs of random projections."""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_lsh import ops
from keras_lsh._arguments import check_argument, check_choice
from keras_lsh.hashing import subspace
from keras_lsh.hashing._config import integer
from keras_lsh.hashing.family import State, as_float
from keras_lsh.hashing.vectors import VectorHash

DIRECTIONS = ("gaussian", "sparse")


@keras.saving.register_keras_serializable("keras_lsh")
class SimHash(VectorHash):
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
    chance before training. There are two remedies. Inputs of a layer lie near a
    subspace of few dimensions, and only the part of the weights in it matters: with a
    `rank`, this part is hashed, which is cheaper, too. And bits need not be packed into
    codes: `SimHash(bits=1, tables=256, probes=1)` ranks all neurons by the Hamming
    distance of 256 bits, and `probes=2` weighs each bit by the input's margin.

    Args:
        bits: Bits per code, from 1 to 20; a table has `2**bits` buckets.
        tables: Number of hash tables, from 1 to 1024.
        probes: Buckets that an input looks into per table, on average; from 1 to
            `2**bits`. All tables compete for them.
        directions: `"gaussian"`; or `"sparse"`: `sqrt(input_dim)` random inputs with
            random signs each, the density that Li, Hastie & Church 2006, "Very Sparse
            Random Projections", recommend (Achlioptas 2003, "Database-friendly Random
            Projections", takes a third of them), the bias and the coordinates of a
            transform being in all of them. Only these count as multiplications. The
            program still multiplies by a dense matrix, zeros included: for the few
            directions that hashing takes, it is the faster way.
        rank: Principal directions of the inputs to hash in, a positive integer; None:
            all of the space. The random directions stay the same for good and are
            projected onto the principal subspace, which moves slowly, so that few codes
            change at a refresh. Hashing an input takes
            `(input_dim + tables * bits) * rank` multiplications.
        transform: How to account for the different norms of neurons: None,
            `"simple_lsh"`, `"sign_alsh"`, `"l2_alsh"`, or a `Transform`.
        center: Whether to subtract the mean of the inputs (`mu` is 0 otherwise). A
            `rank` needs it.
        seed: Seed of the directions. Equal seeds give equal directions.

    Example:

    >>> keras_lsh.LSHDense(1000, hashing=SimHash(bits=8, tables=10, probes=4))
    """

    _bucket_arguments = ("bits",)

    def __init__(
        self,
        bits: int = 6,
        tables: int = 5,
        probes: int = 10,
        *,
        directions: str = "gaussian",
        rank: int | None = None,
        transform: Any = None,
        center: bool = True,
        seed: int = 0,
    ):
        self.bits = integer("bits", bits, 1, 20)
        self._set_common(tables, probes, transform, center, seed)
        check_choice("directions", directions, DIRECTIONS)
        self.directions = directions
        self.rank = None if rank is None else integer("rank", rank, 1, 2**16)
        check_argument("center", center, self.center or not rank, "True with a `rank`")

    @property
    def buckets(self) -> int:
        return 2**self.bits

    def hash_functions(
        self, size: int, generator: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """`directions` `[input_dim + 1 + extra_dims, tables * bits]`: a row for each
        input, one for the bias and one for each coordinate of the transform."""
        shape = size, self.tables * self.bits
        if self.directions == "gaussian":
            return {"directions": generator.standard_normal(shape, np.float32)}
        input_dim = size - 1 - self.extra_dims
        used = _used_inputs(input_dim)
        signs = generator.choice(np.array([-1, 1], np.float32), shape)
        # Elements have mean square 1, as Gaussian ones do.
        signs[:input_dim] *= math.sqrt(input_dim / used)
        for direction in signs[:input_dim].T:
            direction[generator.permutation(input_dim)[used:]] = 0.0
        return {"directions": signs}

    def initial_state(self, input_dim: int, units: int) -> dict[str, np.ndarray]:
        """That of all such families (see `VectorHash.initial_state`).

        With a `rank` there is `projected` `[rank, tables * bits]`, too: the directions
        in the coordinates of the principal subspace.
        """
        state = super().initial_state(input_dim, units)
        if self.rank:
            directions = state["directions"][:input_dim]
            state["projected"] = state["basis"].T @ directions
        return state

    def refresh(self, kernel: Any, bias: Any, state: State) -> dict[str, tf.Tensor]:
        changes = super().refresh(kernel, bias, state)
        if self.rank:
            basis = changes["basis"]
            directions = as_float("directions", state)[: basis.shape[0]]
            changes["projected"] = ops.matmul(tf.transpose(basis), directions)
        return changes

    def neuron_codes(self, kernel: Any, bias: Any, state: State) -> tf.Tensor:
        vectors = self.neuron_vectors(kernel, bias, state)
        margins = vectors.times(self._matrix(state))
        return ops.hash_codes(margins, self.tables, self.bits)

    def input_probes(
        self, inputs: tf.Tensor, state: State
    ) -> tuple[tf.Tensor, tf.Tensor]:
        # Unit length makes margins, and with them the weights of probes, comparable
        # from one input to the next.
        margins = self.input_vectors(inputs, state).times(self._matrix(state))
        return ops.probe_sequence(margins, self.tables, self.bits, self.probes)

    def multiplications(self, input_dim: int) -> int:
        bits = self.tables * self.bits
        if self.rank:
            return (input_dim + bits) * min(self.rank, input_dim)
        used = input_dim if self.directions == "gaussian" else _used_inputs(input_dim)
        return used * bits

    def refresh_multiplications(self, input_dim: int, units: int) -> int:
        hashing = units * self.multiplications(input_dim)
        if not self.rank:
            return hashing
        rank = min(self.rank, input_dim)
        project = input_dim * rank * self.tables * self.bits
        return hashing + project + subspace.refresh_multiplications(input_dim, rank)

    def get_config(self) -> dict[str, Any]:
        own = {"bits": self.bits, "directions": self.directions, "rank": self.rank}
        return {**own, **super().get_config()}

    def _matrix(self, state: State) -> tf.Tensor:
        """The directions in the coordinates of the vectors."""
        directions = as_float("directions", state)
        if not self.rank:
            return directions
        tail = directions[-1 - self.extra_dims :]
        return tf.concat([as_float("projected", state), tail], axis=0)


def _used_inputs(input_dim: int) -> int:
    """Inputs that a sparse direction looks at."""
    return math.ceil(math.sqrt(input_dim))
