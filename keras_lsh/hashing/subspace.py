"""The principal subspace of a layer's inputs, followed while the layer is trained.

Inputs of a layer lie near a low-dimensional subspace, and only the part of a weight
vector inside it matters to the products. With the mean `mu` and the covariance
`basis diag(scales**2) basis'` of the inputs (their principal directions), a neuron with
weights `w` and bias `b` has the coordinates

    u = [scales * (basis' w); b + w . mu]

and an input `x` has `z = [basis' (x - mu) / scales; 1]`. Then `u . z` is `w . x + b`
but for what lies outside the principal directions, and `z` has mean square 1 in every
direction.

Mean and covariance come from some inputs of each training step (a streaming subspace
iteration with a Nyström approximation, Halko et al. 2011, "Finding Structure with
Randomness", section 5.5), recent ones counting most. Until there are any, all
directions count the same, and `basis` holds those along which the neurons' weights are
largest.

A hash family keeps the entries of `initial_state` in its state, and passes calls of its
`observe` and `refresh` on to the functions here.
"""

import math
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lsh import ops
from keras_lsh.hashing.family import State, as_float

# Inputs of a training step that are looked at: their moments are averaged over many.
_ROWS = 32

# After so many rows, averages begin to forget. Enough for `rank` directions, and few
# enough to follow the inputs of a layer behind others that learn.
_WINDOW = 2048.0

# Steps of the subspace iteration in a refresh without inputs: a layer that is used as
# it was converted should be of use.
_FIRST_STEPS = 4

# It makes several copies of the neurons that it looks at. These have at most so many
# weights together or, if more, are so many neurons.
_FIRST_WEIGHTS = 2**19
_FIRST_NEURONS = 512

# Inputs beyond this size are no data. Their squares can still be summed in float32, and
# so can those of coordinates up to the other limit.
_LARGEST_INPUT = 1e15
_LARGEST_COORDINATE = 1e17

# Directions whose variance is this small beside the largest are rounding errors.
_SMALLEST_VARIANCE = 1e-6


def initial_state(
    input_dim: int, rank: int, generator: np.random.Generator
) -> dict[str, np.ndarray]:
    """The state of a new layer.

    - `center` `[input_dim]`, `basis` `[input_dim, rank]` and `scales` `[rank]`: the
      mean of the inputs, their principal directions, and their standard deviations
      along these (0: a direction not to look at);
    - `mean` `[input_dim]`, `moments` `[input_dim, rank]` and `count` `[]`: averages of
      `x - center` and of `(x - center) (x - center)' basis` over the inputs seen in
      training, and the number of these (as far as they are remembered).
    """
    basis = generator.standard_normal([input_dim, rank], np.float32)
    return {
        "center": np.zeros([input_dim], np.float32),
        "basis": basis / np.float32(math.sqrt(input_dim)),
        "scales": np.ones([rank], np.float32),
        "mean": np.zeros([input_dim], np.float32),
        "moments": np.zeros([input_dim, rank], np.float32),
        "count": np.zeros([], np.float32),
    }


def observe(inputs: tf.Tensor, state: State) -> dict[str, tf.Tensor]:
    """New `mean`, `moments` and `count`, from some of the inputs, evenly spaced."""
    names = "center", "basis", "mean", "moments", "count"
    mean, moments, count = ops.observe_inputs(
        tf.cast(inputs, tf.float32),
        *(as_float(name, state) for name in names),
        rows=_ROWS,
        largest=_LARGEST_INPUT,
        window=_WINDOW,
    )
    return {"mean": mean, "moments": moments, "count": count}


def refresh(kernel: Any, state: State) -> dict[str, tf.Tensor]:
    """New `center`, `basis`, `scales`, `moments` and `mean`.

    Args:
        kernel: `[units, input_dim]`, what to go by as long as there were no inputs.
        state: The layer's state.
    """
    kernel = tf.cast(tf.convert_to_tensor(kernel), tf.float32)
    names = "center", "basis", "scales", "moments"
    values = tf.cond(
        as_float("count", state) > 0.0,
        lambda: _directions_of_inputs(state),
        lambda: _directions_of_neurons(kernel, state),
    )
    changes = dict(zip(names, values, strict=True))
    for name in names:
        changes[name].set_shape(state[name].shape)
    changes["mean"] = tf.zeros_like(as_float("mean", state))
    return changes


def refresh_multiplications(input_dim: int, rank: int) -> int:
    """Multiplications that `refresh` takes."""
    return 3 * input_dim * rank**2


def observe_multiplications(input_dim: int, rank: int, batch: int) -> int:
    """Multiplications that `observe` takes: some rows twice, the moments once."""
    rows = -(-batch // max(1, -(-batch // _ROWS)))
    return (2 * rows + 1) * input_dim * rank


def neuron_coordinates(kernel: Any, bias: Any, state: State) -> tf.Tensor:
    """`u`, float32 `[n, rank + 1]`, finite whatever the weights are."""
    kernel = tf.cast(tf.convert_to_tensor(kernel), tf.float32)
    directions = as_float("basis", state) * as_float("scales", state)
    center = as_float("center", state)[:, tf.newaxis]
    # One product: a wide kernel is read once.
    return ops.coordinates(
        kernel,
        tf.concat([directions, center], axis=1),
        None if bias is None else tf.cast(tf.convert_to_tensor(bias), tf.float32),
        _LARGEST_COORDINATE,
    )


def input_coordinates(inputs: tf.Tensor, state: State) -> tf.Tensor:
    """`z` without its last 1, float32 `[batch, rank]`, finite whatever the inputs."""
    inputs = tf.cast(inputs, tf.float32) - as_float("center", state)
    inputs = ops.matmul(inputs, as_float("basis", state))
    return limited(tf.math.divide_no_nan(inputs, as_float("scales", state)))


def worth_of_cells(inputs: tf.Tensor, centroids: tf.Tensor, state: State) -> tf.Tensor:
    """Products of `(z, 1)` with centroids `[cells, rank + 1]`: `[batch, cells]`."""
    queries = _cell_queries(inputs, centroids, state)
    return ops.cell_worth(*queries, largest=_LARGEST_COORDINATE)


def select_from_cells(
    inputs: tf.Tensor,
    centroids: tf.Tensor,
    state: State,
    offsets: Any,
    table_ids: Any,
    forced: tf.Tensor,
    active: int,
) -> tf.Tensor:
    """The neurons of the cells worth most (see `HashFamily.select`), of one table."""
    queries = _cell_queries(inputs, centroids, state)
    return ops.select_from_cells(
        *queries, offsets, table_ids, forced, active, largest=_LARGEST_COORDINATE
    )


def _cell_queries(
    inputs: tf.Tensor, centroids: tf.Tensor, state: State
) -> list[tf.Tensor]:
    """The first arguments of `ops.cell_worth`."""
    statistics = (as_float(name, state) for name in ("center", "basis", "scales"))
    return [tf.cast(inputs, tf.float32), *statistics, centroids]


def limited(coordinates: tf.Tensor) -> tf.Tensor:
    """Without NaN, and small enough for sums of products to be finite."""
    coordinates = tf.where(tf.math.is_nan(coordinates), 0.0, coordinates)
    return tf.clip_by_value(coordinates, -_LARGEST_COORDINATE, _LARGEST_COORDINATE)


def _directions_of_inputs(state: State) -> tuple[tf.Tensor, ...]:
    """`center`, `basis`, `scales` and `moments` that follow the inputs."""
    old, mean = as_float("basis", state), as_float("mean", state)
    covered = tf.linalg.matvec(old, mean, transpose_a=True)
    moments = as_float("moments", state) - mean[:, tf.newaxis] * covered
    basis, variances = _principal_directions(old, moments)
    # Taking the mean's part away leaves rounding errors of its size.
    used = variances > _SMALLEST_VARIANCE * tf.reduce_sum(mean * mean)
    variances = tf.where(used, variances, 0.0)
    basis = tf.where(used, basis, old)
    # What the directions say of the covariance is all that is remembered of it.
    products = ops.matmul(tf.transpose(basis), basis)
    moments = ops.matmul(basis * variances, products)
    return as_float("center", state) + mean, basis, tf.sqrt(variances), moments


def _directions_of_neurons(kernel: tf.Tensor, state: State) -> tuple[tf.Tensor, ...]:
    """The same as far as it can be told from neurons, evenly spaced, without inputs."""
    basis, scales = as_float("basis", state), as_float("scales", state)
    units, input_dim = kernel.shape
    most = max(_FIRST_NEURONS, _FIRST_WEIGHTS // input_dim)
    neurons = kernel[:: -(-units // most)]
    neurons = tf.where(tf.abs(neurons) < _LARGEST_INPUT, neurons, 0.0)

    def step(left: tf.Tensor, basis: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, ...]:
        moments = ops.matmul(tf.transpose(neurons), ops.matmul(neurons, basis))
        found, variances = _principal_directions(basis, moments / neurons.shape[0])
        used = variances > 0.0
        return left - 1, tf.where(used, found, basis), tf.cast(used, tf.float32)

    # A loop, since a graph of all steps takes long to make.
    _, basis, scales = tf.while_loop(
        lambda left, *_: left > 0, step, (_FIRST_STEPS, basis, scales)
    )
    return as_float("center", state), basis, scales, as_float("moments", state)


def _principal_directions(
    basis: tf.Tensor, moments: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Eigenvectors and eigenvalues of what is known of a covariance matrix.

    The matrix `C` is known by `moments = C basis`, and approximated by
    `moments (basis' moments)^-1 moments'` (Nyström).

    Args:
        basis: `[input_dim, rank]`.
        moments: The same shape.

    Returns:
        Eigenvectors, the same shape, and eigenvalues `[rank]`; 0 where it is as good as
        0 or not known, with an undefined vector.
    """
    # Wide in the middle only: two small matrices in double precision.
    basis, moments = tf.cast(basis, tf.float64), tf.cast(moments, tf.float64)
    inner = tf.matmul(basis, moments, transpose_a=True)
    squares = tf.matmul(moments, moments, transpose_a=True)
    values, vectors = tf.linalg.eigh((inner + tf.transpose(inner)) / 2.0)
    least = _SMALLEST_VARIANCE * values[-1]
    whiten = vectors * tf.where(values > least, tf.math.rsqrt(values), 0.0)
    product = tf.matmul(whiten, tf.matmul(squares, whiten), transpose_a=True)
    values, vectors = tf.linalg.eigh((product + tf.transpose(product)) / 2.0)
    used = values > _SMALLEST_VARIANCE * values[-1]
    normalize = tf.where(used, tf.math.rsqrt(values), 0.0)
    rotation = tf.matmul(whiten, vectors * normalize)
    vectors = ops.matmul(tf.cast(moments, tf.float32), tf.cast(rotation, tf.float32))
    return vectors, tf.cast(tf.where(used, values, 0.0), tf.float32)
