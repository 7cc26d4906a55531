import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lsh import ops
from keras_lsh.hashing import L2ALSH, SignALSH, SimHash, SimpleLSH

TRANSFORMS = [None, "simple_lsh", "sign_alsh", "l2_alsh"]


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def refreshed(family, kernel, bias, inputs=None):
    """The state of a layer that has seen the inputs and then hashed its neurons."""
    state = dict(family.initial_state(*kernel.shape[::-1]))
    if inputs is not None:
        state |= family.observe(inputs, state)
    return state | family.refresh(kernel, bias, state)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("center", [True, False])
def test_state(transform, center):
    family = SimHash(4, 3, 2, transform=transform, center=center)
    state = family.initial_state(7, 20)
    extra_dims = family.transform.extra_dims if transform else 0
    assert state["directions"].shape == (7 + 1 + extra_dims, 12)
    assert (
        ("center" in state) == ("running_mean" in state) == ("count" in state) == center
    )
    assert ("scale" in state) == (transform is not None)
    changes = family.observe(random(5, 7), state)
    changes |= family.refresh(random(9, 7), random(9), state)
    for name, value in changes.items():
        assert value.shape == state[name].shape and value.dtype == state[name].dtype
    assert all(isinstance(v, np.ndarray) for v in state.values())
    assert all(v.dtype == np.float32 for v in state.values())


def test_seeds_decide_the_directions():
    def directions(seed):
        return SimHash(4, 3, 2, seed=seed).initial_state(7, 20)["directions"]

    np.testing.assert_array_equal(directions(5), directions(5))
    assert not np.any(directions(5) == directions(6))


@pytest.mark.parametrize("directions", ["gaussian", "sparse"])
@pytest.mark.parametrize("degrees", [10, 60, 90, 135])
def test_signs_agree_with_the_probability_of_the_angle(degrees, directions):
    # In many tables of one bit, the first probes are the codes of the input; a
    # neuron's vector is [w; b], an input's [x; 1]. Sparse directions need vectors of
    # many elements.
    family = SimHash(1, 1024, 1, directions=directions, center=False, seed=3)
    angle = np.deg2rad(degrees)
    u, v = np.linalg.qr(random(2000, 2))[0].T
    v = np.cos(angle) * u + np.sin(angle) * v
    x, w = u[:-1] / u[-1], v[:-1] * np.sign(u[-1])
    state = refreshed(family, w[None], v[-1:] * np.sign(u[-1]))
    codes = family.neuron_codes(w[None], v[-1:] * np.sign(u[-1]), state)
    buckets, _ = family.input_probes(tf.constant(x[None]), state)
    agreement = np.mean(codes[0] == buckets[0] - 2 * np.arange(1024))
    expected = 1 - angle / np.pi
    assert abs(agreement - expected) < 4 * np.sqrt(expected * (1 - expected) / 1024)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize(
    "transform", [None, SimpleLSH(), SignALSH(3, 0.7), L2ALSH(2, 0.8)], ids=repr
)
def test_hashes_the_documented_vectors(transform, center, bias):
    family = SimHash(5, 4, 3, transform=transform, center=center)
    kernel, inputs = random(30, 6, seed=1), random(8, 6, seed=2) + 3
    bias = random(30, seed=3) if bias else None
    state = refreshed(family, kernel, bias, inputs)
    mu = inputs.mean(0) if center else np.zeros(6)
    b = np.zeros(30) if bias is None else bias

    neurons = np.concatenate([kernel, (b + kernel @ mu)[:, None]], axis=1)
    queries = np.concatenate([inputs - mu, np.ones([8, 1])], axis=1)
    np.testing.assert_allclose(
        queries @ neurons.T, inputs @ kernel.T + b, rtol=1e-4, atol=1e-4
    )
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    if transform:
        neurons *= transform.scale / np.linalg.norm(neurons, axis=1).max()
        squares = tf.constant(np.sum(neurons**2, 1), tf.float32)
        extra = transform.neuron_coordinates(squares)
        neurons = np.concatenate([neurons, extra], axis=1)
        extra = np.tile(transform.input_coordinates(), [8, 1])
        queries = np.concatenate([queries, extra], axis=1)

    directions = state["directions"]
    expected = ops.hash_codes(np.float32(neurons @ directions), 4, 5)
    np.testing.assert_array_equal(family.neuron_codes(kernel, bias, state), expected)
    expected = ops.probe_sequence(np.float32(queries @ directions), 4, 5, 3)
    buckets, weights = family.input_probes(tf.constant(inputs), state)
    np.testing.assert_array_equal(buckets, expected[0])
    np.testing.assert_allclose(weights, expected[1], rtol=1e-3)
    assert buckets.dtype == weights.dtype == tf.int32


def test_sparse_directions():
    state = SimHash(
        6, 40, 1, directions="sparse", transform="simple_lsh"
    ).initial_state(100, 5)
    directions = state["directions"]
    assert directions.shape == (102, 240)
    np.testing.assert_array_equal(np.count_nonzero(directions[:100], axis=0), 10)
    assert set(np.unique(directions[100:])) == {-1.0, 1.0}
    np.testing.assert_allclose(np.mean(directions[:100] ** 2, axis=0), 1, rtol=1e-5)
    correlations = directions @ directions.T / 240  # nearly the identity
    np.testing.assert_allclose(np.diag(correlations)[100:], 1)
    assert abs(np.mean(correlations[~np.eye(102, dtype=bool)])) < 0.01


def low_rank_inputs(n, input_dim, rank, seed=0):
    basis = random(rank, input_dim, seed=100) * (1 + np.arange(rank))[:, None]
    x = random(n, rank, seed=seed) @ basis + 5
    return np.float32(x + 0.1 * random(n, input_dim, seed=seed + 1))


def trained(family, kernel, bias, inputs, refreshes=8):
    state = dict(family.initial_state(*kernel.shape[::-1]))
    for part in np.array_split(inputs, refreshes):
        state |= family.observe(tf.constant(part), state)
        state |= family.refresh(kernel, bias, state)
    return state


@pytest.mark.parametrize("directions", ["gaussian", "sparse"])
@pytest.mark.parametrize("transform", [None, SimpleLSH()], ids=repr)
def test_rank_hashes_in_the_whitened_subspace(transform, directions):
    # The documented vectors, put back into the space of the inputs: multiplied by
    # symmetric matrices, they depend on the subspace alone, not on its basis.
    family = SimHash(5, 4, 3, rank=4, transform=transform, directions=directions)
    kernel, bias = random(30, 12, seed=1), random(30, seed=3)
    inputs = low_rank_inputs(256, 12, 4)
    state = trained(family, kernel, bias, inputs)
    s = {name: np.float64(value) for name, value in state.items()}
    basis, scales, mu = s["basis"], s["scales"], s["center"]
    assert np.all(scales > 0)
    whiten, color = (basis * power @ basis.T for power in (1 / scales, scales))
    neurons = np.concatenate([kernel @ color, (bias + kernel @ mu)[:, None]], axis=1)
    queries = (inputs[:8] - mu) @ whiten
    queries = np.concatenate([queries, np.ones([8, 1])], axis=1)
    products = inputs[:8] @ kernel.T + bias
    assert np.corrcoef((queries @ neurons.T).ravel(), products.ravel())[0, 1] > 0.99
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    if transform:
        neurons /= np.linalg.norm(neurons, axis=1).max()
        squares = np.sum(neurons**2, axis=1, keepdims=True)
        neurons = np.concatenate([neurons, np.sqrt(np.maximum(1 - squares, 0))], axis=1)
        queries = np.concatenate([queries, np.zeros([8, 1])], axis=1)
    margins = neurons @ s["directions"]
    assert np.abs(margins).min() > 1e-6
    expected = ops.hash_codes(np.float32(margins), 4, 5)
    np.testing.assert_array_equal(family.neuron_codes(kernel, bias, state), expected)
    expected = ops.probe_sequence(np.float32(queries @ s["directions"]), 4, 5, 3)
    buckets, weights = family.input_probes(tf.constant(inputs[:8]), state)
    np.testing.assert_array_equal(buckets, expected[0])
    np.testing.assert_allclose(weights, expected[1], rtol=1e-2)


def test_codes_stay_when_the_subspace_moves_slowly():
    family = SimHash(1, 256, 1, rank=8)
    kernel, inputs = random(100, 30), low_rank_inputs(2048, 30, 8)
    state = trained(family, kernel, None, inputs, refreshes=20)
    before = family.neuron_codes(kernel, None, state).numpy()
    basis = np.asarray(state["basis"])
    for seed in range(5):
        x = low_rank_inputs(32, 30, 8, seed=50 + seed)
        state |= family.observe(tf.constant(x), state)
        state |= family.refresh(kernel, None, state)
    after = family.neuron_codes(kernel, None, state).numpy()
    assert 0 < np.mean(before != after) < 0.1
    # Another basis of the same subspace, as eigenvectors are known up to their sign.
    flipped = {**state, "basis": -state["basis"], "projected": -state["projected"]}
    np.testing.assert_array_equal(family.neuron_codes(kernel, None, flipped), after)
    assert basis.shape == (30, 8)


def test_rank_finds_more():
    # A layer of 300 neurons whose inputs lie near a subspace of 8 dimensions.
    kernel, inputs = random(300, 200), low_rank_inputs(512, 200, 8)
    products = inputs[:50] @ kernel.T
    best = np.argsort(-products)[:, :15]
    found = []
    for rank in (None, 8):
        family = SimHash(1, 256, 1, rank=rank)
        state = trained(family, kernel, None, inputs)
        codes = family.neuron_codes(kernel, None, state).numpy()
        buckets, _ = family.input_probes(tf.constant(inputs[:50]), state)
        bits = buckets.numpy() - 2 * np.arange(256)
        agreement = np.sum(codes == bits[:, None], axis=-1)
        near = np.argsort(-agreement, axis=1)[:, :45]
        found.append(np.mean([np.isin(b, n) for b, n in zip(best, near, strict=True)]))
    assert found[1] > max(0.75, found[0] + 0.2)


def test_margins_of_inputs_are_standard_normal():
    # The weight of the cheapest probe of one bit is that of a margin, whatever the
    # size of the inputs.
    for size in (1e-3, 1.0, 1e3):
        family = SimHash(1, 1024, 2, center=False, seed=4)
        inputs = tf.constant(random(50, 30) * np.float32(size))
        _, weights = family.input_probes(inputs, family.initial_state(30, 20))
        squares = 65536 / weights[:, 1024:].numpy() - 1
        assert abs(squares.mean() - 1) < 0.1


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_codes_of_some_neurons_are_those_among_all(transform):
    family = SimHash(6, 5, 10, transform=transform)
    kernel, bias = random(20, 8), random(20)
    state = refreshed(family, kernel, bias, random(4, 8))
    codes = family.neuron_codes(kernel, bias, state)
    some = np.array([3, 7, 12])
    np.testing.assert_array_equal(
        family.neuron_codes(kernel[some], bias[some], state), codes.numpy()[some]
    )


def test_scale_of_inputs_and_of_all_neurons_changes_nothing():
    family = SimHash(6, 5, 10, transform="simple_lsh", center=False)
    kernel, bias = random(20, 8), random(20)
    codes = [
        family.neuron_codes(k, b, refreshed(family, k, b))
        for k, b in ((kernel, bias), (kernel * 4, bias * 4))
    ]
    np.testing.assert_array_equal(*codes)


def test_a_neuron_that_outgrew_the_scale_keeps_its_direction():
    family = SimHash(6, 20, 1, transform="simple_lsh", center=False)
    kernel = random(20, 8)
    state = refreshed(family, kernel, None)
    largest = np.argmax(np.linalg.norm(kernel, axis=1))
    before = family.neuron_codes(kernel, None, state)
    after = family.neuron_codes(kernel * 100, None, state)
    np.testing.assert_array_equal(after[largest], before[largest])
    np.testing.assert_array_equal(
        after, SimHash(6, 20, 1, center=False).neuron_codes(
            kernel, None, {"directions": state["directions"][:-1]}
        ),
    )  # fmt: skip


def test_running_mean():
    family = SimHash()
    state = dict(family.initial_state(3, 20))
    batches = [random(n, 3, seed=n) + 5 for n in (7, 1, 0, 100)]
    for batch in batches:
        state |= family.observe(tf.constant(batch), state)
    expected = np.concatenate(batches).mean(0)
    np.testing.assert_allclose(state["running_mean"], expected, rtol=1e-5)
    assert state["count"] == 108
    np.testing.assert_array_equal(state["center"], np.zeros(3))  # until a refresh
    state |= family.refresh(random(2, 3), None, state)
    np.testing.assert_array_equal(state["center"], state["running_mean"])


def test_running_mean_forgets():
    family = SimHash()
    state = dict(family.initial_state(1, 20))
    for value in (0.0, 1.0):
        for _ in range(50):
            state |= family.observe(tf.fill([1000, 1], value), state)
    assert 0.98 < state["running_mean"][0] < 1.0
    assert state["count"] == 10_000


def test_running_mean_ignores_what_is_not_finite():
    family = SimHash()
    state = dict(family.initial_state(2, 20))
    for batch in ([[np.nan, 1], [1, np.inf]], [[1, 2], [np.nan, 0], [3, 4]], []):
        batch = tf.reshape(tf.constant(batch, tf.float32), [-1, 2])
        state |= family.observe(batch, state)
    np.testing.assert_allclose(state["running_mean"], [2, 3])
    assert state["count"] == 2


def test_running_mean_does_not_overflow():
    family = SimHash()
    state = dict(family.initial_state(1, 20))
    for sign in (1, -1, 1):
        state |= family.observe(tf.fill([4, 1], sign * 3e38), state)
        assert np.all(np.isfinite(state["running_mean"]))


BAD = np.float32([0, np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45])


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_zero_and_non_finite_values_do_not_crash(transform):
    family = SimHash(6, 5, 10, transform=transform)
    kernel, bias, inputs = random(20, 8), random(20), random(10, 8)
    for i, bad in enumerate(BAD):
        kernel[i, i] = inputs[i, i] = bad
        bias[19 - i] = bad
    kernel[8], inputs[8] = 0, 0
    clean = refreshed(family, random(20, 8), random(20), inputs)
    state = refreshed(family, kernel, bias, inputs)
    if transform:
        assert np.isfinite(state["scale"])
    for s in (clean, state):
        codes = family.neuron_codes(kernel, bias, s).numpy()
        assert codes.shape == (20, 5) and codes.min() >= 0 and codes.max() < 64
        buckets, weights = (t.numpy() for t in family.input_probes(inputs, s))
        assert buckets.shape == weights.shape == (10, 50)
        assert buckets.min() >= 0 and buckets.max() < 5 * 64
        assert weights.min() >= 1 and weights.max() <= 65536
        assert all(len(set(row)) == 50 for row in buckets.tolist())


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_zero_weights(transform):
    family = SimHash(6, 5, 10, transform=transform)
    kernel = np.zeros([4, 8], np.float32)
    state = refreshed(family, kernel, None)
    codes = family.neuron_codes(kernel, None, state)
    np.testing.assert_array_equal(codes, np.tile(codes[:1], [4, 1]))


def test_empty_batch():
    family = SimHash(6, 5, 10)
    state = family.initial_state(8, 20)
    buckets, weights = family.input_probes(tf.zeros([0, 8]), state)
    assert buckets.shape == weights.shape == (0, 50)


def test_one_object_in_two_layers():
    family = SimHash(6, 5, 10, transform="simple_lsh")
    layers = [random(20, 8, seed=1), random(20, 4, seed=2)]
    alone = []
    for kernel in layers:
        state = refreshed(family, kernel, None, kernel + 1)
        alone.append((state, family.neuron_codes(kernel, None, state)))
    states = [dict(family.initial_state(*k.shape[::-1])) for k in layers]
    for method in ("observe", "refresh"):
        for state, kernel in zip(states, layers, strict=True):
            arguments = (kernel + 1,) if method == "observe" else (kernel, None)
            state |= getattr(family, method)(*arguments, state)
    for state, kernel, (expected, codes) in zip(states, layers, alone, strict=True):
        for name in expected:
            np.testing.assert_array_equal(state[name], expected[name])
        np.testing.assert_array_equal(family.neuron_codes(kernel, None, state), codes)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_works_in_a_graph_with_keras_variables_as_state(transform):
    family = SimHash(6, 5, 10, transform=transform)
    kernel, bias = keras.Variable(random(20, 8)), keras.Variable(random(20))
    inputs = random(10, 8)
    arrays = family.initial_state(8, 20)
    state = {k: keras.Variable(v, trainable=False) for k, v in arrays.items()}

    @tf.function(input_signature=[tf.TensorSpec([None, 8], tf.float32)])
    def step(x):
        for name, value in family.observe(x, state).items():
            state[name].assign(value)
        for name, value in family.refresh(kernel, bias, state).items():
            state[name].assign(value)
        return family.neuron_codes(kernel, bias, state), *family.input_probes(x, state)

    actual = step(inputs)
    expected_state = refreshed(family, kernel.numpy(), bias.numpy(), inputs)
    expected = (
        family.neuron_codes(kernel, bias, expected_state),
        *family.input_probes(inputs, expected_state),
    )
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a, e)


@pytest.mark.parametrize("transform", [*TRANSFORMS, SignALSH(3, 0.5)])
def test_round_trip(transform):
    family = SimHash(7, 3, 4, transform=transform, center=False, seed=11)
    copy = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(family)
    )
    assert copy == family and hash(copy) == hash(family)
    assert SimHash.from_config(family.get_config()) == family
    assert eval(repr(family)) == family
    assert copy.initial_state(3, 20)["directions"].shape == (
        family.initial_state(3, 20)["directions"].shape
    )


def test_every_argument_distinguishes():
    families = [
        SimHash(), SimHash(bits=5), SimHash(tables=4), SimHash(probes=9),
        SimHash(transform="simple_lsh"), SimHash(center=False), SimHash(seed=1),
    ]  # fmt: skip
    assert len(set(families)) == len(families)
    assert SimHash(transform="sign_alsh") == SimHash(transform=SignALSH())


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"bits": 0}, "bits"),
        ({"bits": 21}, "bits"),
        ({"bits": 6.0}, "bits"),
        ({"tables": 0}, "tables"),
        ({"tables": 1025}, "tables"),
        ({"probes": 0}, "probes"),
        ({"bits": 3, "probes": 9}, "probes"),
        ({"bits": 20, "tables": 17}, "bits"),
        ({"bits": 6, "tables": 1000, "probes": 33}, "tables"),
        ({"seed": -1}, "seed"),
        ({"seed": None}, "seed"),
        ({"transform": "simple"}, "transform"),
    ],
)
def test_bad_arguments_are_named(arguments, name):
    with pytest.raises(ValueError, match=f"`{name}`.*Received: .*{name}="):
        SimHash(**arguments)


def test_multiplications():
    assert SimHash(6, 5, 10).multiplications(784) == 784 * 5 * 6
    sparse = SimHash(6, 5, 10, directions="sparse")
    assert sparse.multiplications(784) == 28 * 5 * 6
    assert np.count_nonzero(sparse.initial_state(784, 9)["directions"][:784]) == (
        sparse.multiplications(784)
    )
    low_rank = SimHash(6, 5, 10, rank=16)
    assert low_rank.multiplications(784) == (784 + 5 * 6) * 16
    assert low_rank.multiplications(8) == (8 + 5 * 6) * 8
    assert low_rank.refresh_multiplications(784, 100) > 784 * 16 * 30


def test_limits():
    assert SimHash(bits=20, tables=16, probes=1).buckets == 2**20
    assert SimHash(bits=5, tables=1023, probes=32).probes == 32
    assert SimHash(np.int64(3), probes=np.int32(8)) == SimHash(3, probes=8)
