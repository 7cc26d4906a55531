"""CrossPolytope: the transform, the hash, how often vectors collide."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from keras_lsh.hashing import CrossPolytope
from keras_lsh.hashing.cross_polytope import walsh_hadamard


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def hadamard(size):
    """By the parity of common bits."""
    rows = np.arange(size)
    common = rows[:, None] & rows
    for shift in (16, 8, 4, 2, 1):
        common = common ^ common >> shift
    return 1.0 - 2.0 * (common & 1)


@pytest.mark.parametrize("size", [1, 2, 16, 32, 64, 2048])
def test_walsh_hadamard(size):
    x = random(3, 2, size)
    actual = walsh_hadamard(tf.constant(x))
    assert actual.shape == x.shape
    expected = np.float64(x) @ hadamard(size)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4 * size**0.5)


def scores_of(family, vectors, state):
    """The products with the vertices in double precision, unit vectors given."""
    signs = np.float64(state["signs"])
    rotations, _, features = signs.shape
    if "feature" in state:
        hashed = np.zeros([len(vectors), features])
        for element, feature in enumerate(state["feature"]):
            hashed[:, feature] += vectors[:, element] * state["feature_sign"][element]
        vectors = hashed
    else:
        padding = np.zeros([len(vectors), features - vectors.shape[1]])
        vectors = np.concatenate([vectors, padding], axis=1)
    rotated = []
    for rotation in range(rotations):
        y = vectors
        for diagonal in signs[rotation]:
            y = (y * diagonal) @ hadamard(features) / np.sqrt(features)
        np.testing.assert_allclose(
            np.linalg.norm(y, axis=1), np.linalg.norm(vectors, axis=1)
        )
        rotated.append(y * np.sqrt(features))
    used = family.tables * family.functions * family.dim
    y = np.concatenate(rotated, axis=1)[:, :used]
    y = y.reshape(len(y), family.tables, family.functions, family.dim)
    return np.concatenate([y, -y], axis=-1)


@pytest.mark.parametrize(
    "family",
    [
        CrossPolytope(8, 5, 4, center=False),  # several rotations of padded vectors
        CrossPolytope(4, 5, 4, functions=2, features=8, center=False),  # hashed
        CrossPolytope(16, 3, 32, features=64, center=True),
    ],
    ids=repr,
)
def test_codes_and_probes(family):
    kernel, bias, inputs = random(40, 19, seed=1), random(40), random(7, 19, seed=2) + 2
    state = dict(family.initial_state(19, 40))
    state |= family.observe(tf.constant(inputs), state)
    state |= family.refresh(kernel, bias, state)
    mu = inputs.mean(0) if family.center else np.zeros(19)
    assert ("feature" in state) == (family.features == 8)

    neurons = np.concatenate([kernel, (bias + kernel @ mu)[:, None]], axis=1)
    scores = scores_of(family, neurons, state)
    digits = scores.argmax(-1)
    expected = digits @ (2 * family.dim) ** np.arange(family.functions)[::-1]
    codes = family.neuron_codes(kernel, bias, state)
    np.testing.assert_array_equal(codes, expected)

    queries = np.concatenate([inputs - mu, np.ones([7, 1])], axis=1)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    scores = scores_of(family, queries, state)
    gaps = (scores.max(-1, keepdims=True) - scores) ** 2
    costs = gaps[:, :, 0]
    for function in range(1, family.functions):
        costs = costs[..., None] + gaps[:, :, function, None, :]
        costs = costs.reshape(7, family.tables, -1)
    costs = costs.reshape(7, -1)
    buckets, weights = family.input_probes(tf.constant(inputs), state)
    for row in range(7):
        probed = costs[row, buckets[row]]
        cheapest = np.sort(costs[row])[: family.tables * family.probes]
        np.testing.assert_allclose(np.sort(probed), cheapest, atol=1e-4)
        np.testing.assert_allclose(
            weights[row], np.maximum(1, 65536 / (1 + probed)), rtol=1e-3, atol=1.01
        )


def agreement(family, degrees):
    """How often vectors at an angle share a bucket."""
    size = 100
    u, v = np.linalg.qr(random(size, 2))[0].T
    angle = np.deg2rad(degrees)
    v = np.cos(angle) * u + np.sin(angle) * v
    sign = np.sign(u[-1])
    u, v = u * sign, v * sign  # the input's last element is 1, but for its length
    state = family.initial_state(size - 1, 1)
    codes = family.neuron_codes(v[None, :-1], v[-1:], state)
    buckets, _ = family.input_probes(tf.constant(u[None, :-1] / u[-1]), state)
    first = np.arange(family.tables) * family.buckets
    own = np.sort(buckets.numpy()[0])
    return np.mean(np.isin(codes[0] + first, own))


def test_vectors_collide_the_more_often_the_smaller_their_angle():
    family = CrossPolytope(8, 1024, 1, center=False)
    angles = 0, 20, 45, 70, 90, 135
    found = [agreement(family, degrees) for degrees in angles]
    assert found[0] == 1
    assert all(a > b for a, b in itertools.pairwise(found))
    # Orthogonal vectors hash independently.
    expected = 1 / 16
    assert abs(found[4] - expected) < 4 * np.sqrt(expected * (1 - expected) / 1024)


def test_the_collision_probability_is_that_of_random_rotations():
    # Against Gaussian projections, which rotations of many dimensions are like.
    generator = np.random.default_rng(5)
    x, y = generator.standard_normal([2, 20000, 8])
    for degrees in (30, 60):
        angle = np.deg2rad(degrees)
        z = np.cos(angle) * x + np.sin(angle) * y
        first, second = (np.concatenate([v, -v], axis=1).argmax(1) for v in (x, z))
        expected = np.mean(first == second)
        found = agreement(CrossPolytope(8, 1024, 1, center=False), degrees)
        assert abs(found - expected) < 4.5 * np.sqrt(expected * (1 - expected) / 1024)


def test_what_a_layer_decides():
    def features(input_dim, **arguments):
        return CrossPolytope(4, **arguments).for_layer(input_dim, 10).features

    assert features(2) == 4 and features(7) == 8 and features(8) == 16
    assert features(7, transform="simple_lsh") == 16
    assert features(10**6) == 4096
    assert CrossPolytope(8192, 1).for_layer(7, 10).features == 8192
    assert features(100, features=32) == 32


def test_multiplications():
    family = CrossPolytope(dim=32, tables=32)
    assert family.multiplications(784) == 3 * 1024 * 10
    assert CrossPolytope(dim=32, tables=33).multiplications(784) == 2 * 3 * 1024 * 10
