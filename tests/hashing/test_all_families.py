"""What every hash family promises."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_lsh
from keras_lsh.hashing import (
    CrossPolytope,
    DensifiedWTAHash,
    KMeansCells,
    RandomBuckets,
    SimHash,
    WTAHash,
    get_family,
)
from keras_lsh.hashing.vectors import VectorHash

FAMILIES = [
    SimHash(4, 3, 2),
    SimHash(3, 4, 2, directions="sparse", transform="simple_lsh", seed=5),
    SimHash(3, 4, 3, rank=4, transform="sign_alsh"),
    KMeansCells(6, 2, 3, rank=4),
    KMeansCells(7, rank=3),
    CrossPolytope(4, 3, 2),
    CrossPolytope(2, 3, 5, functions=2, features=4, transform="l2_alsh"),
    WTAHash(4, 2, 3, 5),
    WTAHash(3, 1, 4, 2, center=False, transform="simple_lsh"),
    DensifiedWTAHash(4, 2, 3, 5),
    RandomBuckets(4, 3, 2),
]
VECTOR_FAMILIES = [
    family
    for family in FAMILIES
    if isinstance(family, VectorHash) and not isinstance(family, RandomBuckets)
]
DIM, UNITS = 9, 20
all_families = pytest.mark.parametrize("family", FAMILIES, ids=repr)


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def decided(family):
    return family.for_layer(DIM, UNITS)


def trained(family, kernel, bias, inputs, refreshes=2):
    family = decided(family)
    state = dict(family.initial_state(DIM, UNITS))
    state |= family.refresh(kernel, bias, state)
    for _ in range(refreshes):
        state |= family.observe(tf.constant(inputs), state)
        state |= family.refresh(kernel, bias, state)
    return state


def assert_valid(family, kernel, bias, inputs, state):
    for name, value in state.items():
        assert np.all(np.isfinite(value)), name
    codes = family.neuron_codes(kernel, bias, state)
    assert codes.dtype == tf.int32 and codes.shape == (UNITS, family.tables)
    assert np.all((codes >= 0) & (codes < family.buckets))
    buckets, weights = family.input_probes(tf.constant(inputs), state)
    assert buckets.dtype == weights.dtype == tf.int32
    expected = len(inputs), family.tables * family.probes
    assert buckets.shape == weights.shape == expected
    assert np.all((buckets >= 0) & (buckets < family.tables * family.buckets))
    assert np.all((weights >= 1) & (weights <= 65536))
    for row in buckets.numpy().tolist():
        assert len(set(row)) == len(row)


@all_families
def test_what_comes_out_is_in_range_whatever_goes_in(family):
    bad = np.float32([0, np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45, 1e20])
    kernel, bias, inputs = random(UNITS, DIM), random(UNITS), random(12, DIM)
    bad_kernel, bad_bias, bad_inputs = kernel.copy(), bias.copy(), inputs.copy()
    for i, value in enumerate(bad):
        bad_kernel[i, i] = bad_inputs[i, i] = bad_bias[-1 - i] = value
        bad_inputs[8] = 0
    family_ = decided(family)
    for k, b, x in (
        (bad_kernel, bad_bias, inputs),
        (np.zeros_like(kernel), None, np.zeros_like(inputs)),
        (np.full_like(kernel, np.nan), bias, np.full_like(inputs, np.inf)),
    ):
        state = trained(family, k, b, x)
        assert_valid(family_, k, b, bad_inputs, state)
        assert_valid(family_, k, b, inputs[:0], state)


@all_families
def test_the_state_keeps_its_shape(family):
    family = decided(family)
    state = family.initial_state(DIM, UNITS)
    assert all(isinstance(value, np.ndarray) for value in state.values())
    assert all(value.dtype in (np.float32, np.int32) for value in state.values())
    changes = family.observe(tf.constant(random(5, DIM)), state)
    changes |= family.refresh(random(UNITS, DIM), None, {**state, **changes})
    for name, value in changes.items():
        assert value.shape == state[name].shape and value.dtype == state[name].dtype


@all_families
def test_seeds_decide_everything(family):
    def state(seed):
        config = {**family.get_config(), "seed": seed}
        return decided(type(family).from_config(config)).initial_state(DIM, UNITS)

    first, again, other = state(7), state(7), state(8)
    for name, value in first.items():
        np.testing.assert_array_equal(value, again[name])
    assert any(np.any(value != other[name]) for name, value in first.items())


@all_families
def test_rehashing_is_refreshing_and_then_hashing(family):
    kernel, bias, inputs = random(UNITS, DIM), random(UNITS), random(64, DIM) + 1
    state = trained(family, kernel, bias, inputs)
    family = decided(family)
    state |= family.observe(tf.constant(inputs * 2), state)
    codes, changes = family.rehash(kernel, bias, state)
    expected = family.refresh(kernel, bias, state)
    assert set(changes) == set(expected)
    for name, value in changes.items():
        np.testing.assert_array_equal(value, expected[name])
    later = {**state, **changes}
    np.testing.assert_array_equal(codes, family.neuron_codes(kernel, bias, later))


@all_families
def test_refreshing_moves_little_where_nothing_has_changed(family):
    kernel, bias, inputs = random(UNITS, DIM), random(UNITS), random(64, DIM) + 1
    state = trained(family, kernel, bias, inputs, refreshes=15)
    family = decided(family)
    before = family.neuron_codes(kernel, bias, state).numpy()
    probed = family.input_probes(inputs, state)[0].numpy()
    state |= family.refresh(kernel, bias, state)
    assert np.mean(before != family.neuron_codes(kernel, bias, state)) < 0.01
    again = family.input_probes(inputs, state)[0].numpy()
    assert np.mean(np.sort(probed) != np.sort(again)) < 0.05


@all_families
def test_observing_changes_nothing_that_is_read(family):
    kernel, inputs = random(UNITS, DIM), random(10, DIM)
    state = trained(family, kernel, None, inputs)
    family = decided(family)
    later = {**state, **family.observe(tf.constant(random(30, DIM) + 5), state)}
    for a, b in zip(
        (family.neuron_codes(kernel, None, state), *family.input_probes(inputs, state)),
        (family.neuron_codes(kernel, None, later), *family.input_probes(inputs, later)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "family", [f for f in FAMILIES if not isinstance(f, RandomBuckets)], ids=repr
)
def test_codes_of_some_neurons_are_those_among_all(family):
    kernel, bias = random(UNITS, DIM), random(UNITS)
    state = trained(family, kernel, bias, random(64, DIM))
    family = decided(family)
    codes = family.neuron_codes(kernel, bias, state).numpy()
    some = np.array([3, 7, 12])
    np.testing.assert_array_equal(
        family.neuron_codes(kernel[some], bias[some], state), codes[some]
    )


@all_families
def test_selects_from_the_buckets_that_inputs_probe(family):
    kernel, bias, inputs = random(UNITS, DIM), random(UNITS), random(11, DIM, seed=1)
    state = trained(family, kernel, bias, inputs)
    inputs[3, 1], inputs[5] = np.nan, np.inf
    family = decided(family)
    codes = family.neuron_codes(kernel, bias, state)
    tables = keras_lsh.ops.build_tables(codes, family.buckets)
    forced = np.random.default_rng(2).integers(-1, UNITS, (11, 2)).astype("int32")
    buckets, weights = family.input_probes(tf.constant(inputs), state)
    seeds = tf.reduce_sum(buckets, axis=-1)
    for active in (2, 9, UNITS):
        arguments = (tf.constant(inputs), state, *tables, forced, active)
        expected = keras_lsh.ops.select_active(
            buckets, weights, *tables, forced, seeds, active
        )
        np.testing.assert_array_equal(family.select(*arguments), expected)
        with keras_lsh.ops.reference_ops():
            by_reference = family.select(*arguments)
        assert by_reference.shape == (11, active)


@pytest.mark.parametrize(
    "family", [f for f in VECTOR_FAMILIES if not f.transform and not f.rank], ids=repr
)
def test_neurons_and_inputs_are_hashed_alike(family):
    # Where a neuron's vector [w; b] is an input's [x; 1] but for its length.
    family = decided(type(family)(**{**family.get_config(), "center": False}))
    kernel, bias = random(UNITS, DIM), np.abs(random(UNITS, seed=1)) + 0.1
    state = trained(family, kernel, bias, random(5, DIM))
    codes = family.neuron_codes(kernel, bias, state).numpy()
    inputs = tf.constant(kernel / bias[:, None])
    buckets, weights = family.input_probes(inputs, state)
    expected = codes + np.arange(family.tables) * family.buckets
    np.testing.assert_array_equal(buckets[:, : family.tables], expected)
    assert np.all(weights[:, : family.tables] == 65536)


@all_families
def test_works_in_a_graph_with_keras_variables_as_state(family):
    family = decided(family)
    kernel, bias = keras.Variable(random(UNITS, DIM)), keras.Variable(random(UNITS))
    inputs = random(10, DIM)
    arrays = family.initial_state(DIM, UNITS)
    state = {k: keras.Variable(v, trainable=False) for k, v in arrays.items()}

    @tf.function(input_signature=[tf.TensorSpec([None, DIM], tf.float32)])
    def step(x):
        for name, value in family.observe(x, state).items():
            state[name].assign(value)
        for name, value in family.refresh(kernel, bias, state).items():
            state[name].assign(value)
        return family.neuron_codes(kernel, bias, state), *family.input_probes(x, state)

    codes, buckets, weights = step(inputs)
    expected = {k: tf.constant(v) for k, v in arrays.items()}
    expected |= family.observe(tf.constant(inputs), expected)
    expected |= family.refresh(kernel, bias, expected)
    np.testing.assert_array_equal(codes, family.neuron_codes(kernel, bias, expected))
    eager = family.input_probes(tf.constant(inputs), expected)
    np.testing.assert_array_equal(np.sort(buckets), np.sort(eager[0]))
    np.testing.assert_allclose(np.sort(weights), np.sort(eager[1]), atol=50)
    assert step(inputs[:0])[1].shape == (0, family.tables * family.probes)


@all_families
def test_in_a_layer(family, tmp_path):
    layer = keras_lsh.LSHDense(UNITS, "relu", active=4, hashing=family)
    model = keras.Sequential([keras.Input((DIM,)), layer])
    x = random(30, DIM)
    layer(x, training=True)
    layer.rebuild_tables()
    expected = layer.active_ids(x)
    assert expected.shape == (30, 4) and np.all(expected >= 0)
    model.save(tmp_path / "model.keras")
    copy = keras.saving.load_model(tmp_path / "model.keras").layers[0]
    assert copy.hashing == family
    np.testing.assert_array_equal(copy.active_ids(x), expected)
    assert layer.multiplications()["selection"] > 0


@all_families
def test_round_trip(family):
    for one in (family, decided(family)):
        copy = get_family(keras.saving.serialize_keras_object(one))
        assert copy == one and hash(copy) == hash(one)
        assert eval(repr(one), {**globals(), **vars(keras_lsh)}) == one
    assert decided(decided(family)) == decided(family)


@all_families
def test_figures_of_cost_are_positive(family):
    family = decided(family)
    hashing = family.multiplications(784)
    assert hashing > 0
    assert family.refresh_multiplications(784, 1000) >= 1000 * hashing
    assert family.observe_multiplications(784, 128) >= 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("simhash", SimHash()),
        ("kmeans", KMeansCells()),
        ("cross_polytope", CrossPolytope()),
        ("wta", WTAHash()),
        ("dwta", DensifiedWTAHash()),
        ("random", RandomBuckets()),
    ],
)
def test_names(name, expected):
    assert get_family(name) == expected


@pytest.mark.parametrize(
    ("cls", "arguments", "name"),
    [
        (CrossPolytope, {"dim": 0}, "dim"),
        (CrossPolytope, {"dim": 2**17}, "dim"),
        (CrossPolytope, {"functions": 0}, "functions"),
        (CrossPolytope, {"dim": 64, "functions": 4}, "functions"),
        (CrossPolytope, {"dim": 4, "probes": 9}, "probes"),
        (CrossPolytope, {"features": 48}, "features"),
        (CrossPolytope, {"dim": 32, "features": 16}, "features"),
        (CrossPolytope, {"tables": 1000, "probes": 40}, "probes"),
        (WTAHash, {"window": 1}, "window"),
        (WTAHash, {"functions": 21}, "functions"),
        (WTAHash, {"window": 8, "functions": 9}, "window"),
        (WTAHash, {"window": 2, "functions": 2, "probes": 5}, "probes"),
        (DensifiedWTAHash, {"tables": 0}, "tables"),
        (DensifiedWTAHash, {"transform": "mips"}, "transform"),
        (RandomBuckets, {"bits": 0}, "bits"),
        (RandomBuckets, {"seed": -1}, "seed"),
        (SimHash, {"directions": "dense"}, "directions"),
        (SimHash, {"rank": 0}, "rank"),
        (SimHash, {"rank": 8, "center": False}, "center"),
    ],
)
def test_bad_arguments_are_named(cls, arguments, name):
    with pytest.raises(ValueError, match=f"`{name}`.*Received: .*{name}="):
        cls(**arguments)


@pytest.mark.parametrize(
    "families",
    [
        [
            CrossPolytope(), CrossPolytope(16), CrossPolytope(tables=3),
            CrossPolytope(probes=3), CrossPolytope(functions=2),
            CrossPolytope(features=64), CrossPolytope(transform="simple_lsh"),
            CrossPolytope(center=False), CrossPolytope(seed=1),
        ],
        [
            WTAHash(), WTAHash(4), WTAHash(functions=3), WTAHash(tables=3),
            WTAHash(probes=3), WTAHash(transform="simple_lsh"), WTAHash(center=False),
            WTAHash(seed=1), DensifiedWTAHash(), DensifiedWTAHash(center=True),
        ],
        [
            RandomBuckets(), RandomBuckets(4), RandomBuckets(tables=3),
            RandomBuckets(probes=3), RandomBuckets(center=False),
            RandomBuckets(seed=1), SimHash(), SimHash(rank=3),
            SimHash(directions="sparse"),
        ],
    ],
    ids=lambda families: type(families[0]).__name__,
)  # fmt: skip
def test_every_argument_distinguishes(families):
    assert len(set(families)) == len(families)
