"""WTAHash and DensifiedWTAHash against plain loops; how often vectors collide."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from keras_lsh.hashing import DensifiedWTAHash, RandomBuckets, SimHash, WTAHash


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def sparse_inputs(n, size, seed=0):
    x = np.abs(random(n, size, seed=seed))
    return x * (np.random.default_rng(seed + 1).random([n, size]) < 0.1)


def value_of(bin_, x):
    """The place of the largest; -1 if there is nothing to compare."""
    best = -1
    for place, coordinate in enumerate(bin_):
        if coordinate >= 0 and (best < 0 or x[coordinate] > x[bin_[best]]):
            best = place
    return best


def densified_value_of(bins, donors, function, x):
    for donor in donors[function]:
        kept = [c if c >= 0 and x[c] != 0 else -1 for c in bins[donor]]
        if (value := value_of(kept, x)) >= 0:
            return value
    return 0


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize(
    "shape", [(4, 1, 6, 2), (3, 2, 5, 4), (40, 1, 3, 7)], ids=repr
)  # the last window is wider than the vectors
@pytest.mark.parametrize("cls", [WTAHash, DensifiedWTAHash])
def test_codes_and_probes(cls, shape, center):
    family = cls(*shape, center=center)
    window, functions, tables, _ = shape
    kernel, bias, inputs = random(20, 30), random(20), sparse_inputs(9, 30)
    inputs[0] = 0
    state = dict(family.initial_state(30, 20))
    state |= family.observe(tf.constant(inputs), state)
    state |= family.refresh(kernel, bias, state)
    mu = inputs.mean(0) if center else np.zeros(30)
    neurons = np.concatenate([kernel, (bias + kernel @ mu)[:, None]], axis=1)
    queries = np.concatenate([inputs - mu, np.ones([9, 1])], axis=1)
    bins = state["coordinates"]
    assert bins.shape == (tables * functions, window) and bins.max() <= 30

    def codes_of(x):
        if cls is WTAHash:
            values = [value_of(bin_, x) for bin_ in bins]
        else:
            values = [
                densified_value_of(bins, state["donors"], i, x)
                for i in range(len(bins))
            ]
        values = np.reshape(values, [tables, functions])
        return values @ window ** np.arange(functions)[::-1]

    codes = family.neuron_codes(kernel, bias, state)
    np.testing.assert_array_equal(codes, [codes_of(x) for x in neurons])
    buckets, weights = family.input_probes(tf.constant(inputs), state)
    first = np.arange(tables) * family.buckets
    for row in range(9):
        own = codes_of(queries[row]) + first
        np.testing.assert_array_equal(buckets[row, :tables], own)
        assert np.all(weights[row, :tables] == 65536)
    assert np.all(np.diff(np.sort(buckets)) > 0)  # none twice


def test_probes_are_the_next_largest_coordinates():
    family = WTAHash(4, 1, 1, 4, center=False)
    state = family.initial_state(3, 5)
    x = np.array([0.5, -1.0, 2.0, 1.0])  # with the last 1 of every input
    buckets, weights = family.input_probes(tf.constant(x[None, :3], tf.float32), state)
    seen = x[state["coordinates"][0]]
    np.testing.assert_array_equal(buckets[0], np.argsort(-seen))
    gaps = (2 - np.sort(seen)[::-1]) * np.sqrt(4) / np.linalg.norm(x)
    np.testing.assert_allclose(weights[0], 65536 / (1 + gaps**2), rtol=1e-4)


def agreement(family, correlation):
    size = 400
    x, y = random(2, size)
    y = correlation * x + np.sqrt(1 - correlation**2) * y
    x[-1] = 1.0
    state = family.initial_state(size - 1, 1)
    codes = family.neuron_codes(y[None, :-1], y[-1:], state)
    buckets, _ = family.input_probes(tf.constant(x[None, :-1]), state)
    first = np.arange(family.tables) * family.buckets
    return np.mean(np.isin(codes[0] + first, buckets[0]))


@pytest.mark.parametrize("cls", [WTAHash, DensifiedWTAHash])
def test_vectors_collide_the_more_often_the_more_alike_they_are(cls):
    # A window of two: the signs of differences, so 1 - angle / pi as for SimHash.
    pairs = cls(2, 1, 1000, 1, center=False)
    for correlation in (0.0, 0.5, 0.9):
        expected = 1 - np.arccos(correlation) / np.pi
        assert abs(agreement(pairs, correlation) - expected) < 0.1
    family = cls(8, 1, 1000, 1, center=False)
    found = [agreement(family, c) for c in (-0.9, -0.5, 0.0, 0.5, 0.9)]
    assert all(a < b for a, b in itertools.pairwise(found))
    assert abs(found[2] - 1 / 8) < 0.06


def test_only_the_order_of_coordinates_counts():
    family = WTAHash(4, 2, 10, 1, center=False)
    state = family.initial_state(30, 20)
    kernel, bias = random(20, 30), random(20)
    np.testing.assert_array_equal(
        family.neuron_codes(np.exp(kernel), np.exp(bias), state),
        family.neuron_codes(kernel, bias, state),
    )


def test_bins_divide_the_coordinates_among_themselves():
    state = DensifiedWTAHash(4, 2, 9).initial_state(29, 5)
    bins, donors = state["coordinates"], state["donors"]
    permutation = np.sort(bins[:8], axis=None)  # 30 coordinates make eight bins
    np.testing.assert_array_equal(permutation, [-1, -1, *range(30)])
    assert set(bins[8:16].flat) == set(permutation)
    np.testing.assert_array_equal(donors[:, 0], np.arange(18))
    others = np.sort(donors[:, 1:])
    np.testing.assert_array_equal(others, np.tile(np.arange(18), [18, 1]))
    assert np.any(donors[0, 1:] != donors[1, 1:])


def test_sparse_inputs_do_not_collide_for_what_they_do_not_have():
    # Inputs without a common element: WTAHash compares zeros with zeros.
    inputs = np.zeros([2, 1000], np.float32)
    inputs[0, :20], inputs[1, 20:40] = 1 + np.abs(random(2, 20))

    def shared(family):
        state = family.initial_state(1000, 5)
        buckets = np.sort(family.input_probes(tf.constant(inputs), state)[0])
        return np.mean(buckets[0] == buckets[1])

    assert shared(WTAHash(8, 1, 100, 1, center=False)) > 0.5
    assert shared(DensifiedWTAHash(8, 1, 100, 1)) < 0.3


def test_multiplications():
    assert WTAHash(8, 2, 40).multiplications(784) == 8 * 2 * 40


def test_random_buckets_know_nothing_of_the_weights():
    family = RandomBuckets(4, 3, 2, seed=5)
    state = family.initial_state(8, 500)
    codes = [family.neuron_codes(k, None, state) for k in random(2, 500, 8)]
    np.testing.assert_array_equal(*codes)
    counts = np.bincount(np.ravel(codes[0]), minlength=16)
    assert np.all(np.abs(counts - 1500 / 16) < 5 * np.sqrt(1500 / 16))
    # Inputs look where SimHash has them look.
    inputs = tf.constant(random(5, 8))
    for a, b in zip(
        family.input_probes(inputs, state),
        SimHash(4, 3, 2, seed=5).input_probes(inputs, state),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="by their place.*500"):
        family.neuron_codes(random(3, 8), None, state)
