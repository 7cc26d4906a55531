"""KMeansCells: the documented coordinates, k-means, odd neurons and inputs."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_lsh
from keras_lsh.hashing import KMeansCells, get_family


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def low_rank_inputs(n, input_dim, rank, seed=0, noise=0.0):
    """Inputs near a subspace, with a large mean."""
    basis = random(rank, input_dim, seed=100)
    x = random(n, rank, seed=seed) * (1 + np.arange(rank)) @ basis
    return np.float32(x + 20 + noise * random(n, input_dim, seed=seed + 1))


def new_state(family, input_dim, units):
    state = family.initial_state(input_dim, units)
    return {name: tf.constant(value) for name, value in state.items()}


def trained(family, kernel, bias, inputs, refreshes=5, batch=32):
    """The state after the inputs, batch by batch, and some refreshes on the way."""
    state = new_state(family, kernel.shape[1], len(kernel))
    state |= family.refresh(kernel, bias, state)
    batches = [inputs[i : i + batch] for i in range(0, len(inputs), batch)]
    for part in np.array_split(np.arange(len(batches)), refreshes):
        for i in part:
            state |= family.observe(tf.constant(batches[i]), state)
        state |= family.refresh(kernel, bias, state)
    return state


def neurons_of(kernel, bias, state):
    """Coordinates as documented, in double precision."""
    s = {name: np.asarray(value, np.float64) for name, value in state.items()}
    last = kernel @ s["center"] + (0 if bias is None else bias)
    return np.concatenate([kernel @ s["basis"] * s["scales"], last[:, None]], axis=1)


def inputs_of(inputs, state):
    s = {name: np.asarray(value, np.float64) for name, value in state.items()}
    z = (inputs - s["center"]) @ s["basis"]
    z = np.divide(z, s["scales"], out=np.zeros_like(z), where=s["scales"] > 0)
    return np.concatenate([z, np.ones([len(z), 1])], axis=1)


def recall(family, kernel, bias, inputs, state, active, candidates):
    """The share of the `active` largest products among the candidates."""
    codes = family.neuron_codes(kernel, bias, state)
    offsets, ids = keras_lsh.ops.build_tables(codes, family.buckets)
    buckets, weights = family.input_probes(tf.constant(inputs), state)
    nothing = tf.zeros([len(inputs), 0], tf.int32)
    with keras_lsh.ops.reference_ops():
        found = keras_lsh.ops.select_active(
            buckets, weights, offsets, ids, nothing, buckets[:, 0], candidates
        ).numpy()
    products = inputs @ kernel.T + (0 if bias is None else bias)
    best = np.argsort(-products, axis=1)[:, :active]
    hits = [len(set(a) & set(b)) for a, b in zip(found, best, strict=True)]
    return np.mean(hits) / active


@pytest.mark.parametrize("tables", [1, 3])
def test_state(tables):
    family = KMeansCells(4, tables, rank=3)
    state = family.initial_state(7, 9)
    assert all(isinstance(v, np.ndarray) for v in state.values())
    shapes = {name: value.shape for name, value in state.items()}
    assert shapes == {
        "center": (7,), "basis": (7, 3), "scales": (3,),
        "centroids": (tables, 4, 4), "members": (9, tables),
        "mean": (7,), "moments": (7, 3), "count": (),
    }  # fmt: skip
    changes = family.observe(random(5, 7), state)
    assert not {"center", "basis", "scales", "centroids"} & set(changes)
    changes |= family.refresh(random(9, 7), random(9), state)
    for name, value in changes.items():
        assert value.shape == shapes[name] and value.dtype == state[name].dtype


def test_seeds_decide_everything():
    def state(seed):
        return KMeansCells(4, 2, seed=seed).initial_state(7, 50)

    for name, value in state(5).items():
        np.testing.assert_array_equal(value, state(5)[name])
    assert not np.any(state(5)["basis"] == state(6)["basis"])
    assert np.any(state(5)["members"] != state(6)["members"])
    members = state(5)["members"]
    assert np.any(members[:, 0] != members[:, 1])  # tables differ


def test_the_statistics_are_those_of_the_inputs():
    # Of few directions, so that nothing is left out.
    family = KMeansCells(4, rank=6)
    inputs = low_rank_inputs(512, 30, 4)
    state = trained(family, random(20, 30), None, inputs, refreshes=1)
    np.testing.assert_allclose(state["center"], inputs.mean(0), rtol=1e-4)
    basis, scales = np.float64(state["basis"]), np.float64(state["scales"])
    used = scales > 0
    assert used.sum() == 4
    np.testing.assert_allclose(basis[:, used].T @ basis[:, used], np.eye(4), atol=1e-5)
    covariance = np.cov(inputs.T, bias=True)
    estimate = basis * scales**2 @ basis.T
    np.testing.assert_allclose(estimate, covariance, atol=1e-3 * covariance.max())
    # Inputs are white in these coordinates, and products are products.
    z = inputs_of(inputs, state)
    np.testing.assert_allclose(
        np.cov(z[:, :-1][:, used].T, bias=True), np.eye(4), atol=0.01
    )
    kernel, bias = random(20, 30), random(20)
    np.testing.assert_allclose(
        z @ neurons_of(kernel, bias, state).T,
        inputs @ kernel.T + bias,
        rtol=1e-3,
        atol=0.02,
    )


def test_the_statistics_go_on_from_refresh_to_refresh():
    family = KMeansCells(4, rank=6)
    inputs = low_rank_inputs(1024, 30, 4)
    at_once = trained(family, random(20, 30), None, inputs, refreshes=1)
    step_by_step = trained(family, random(20, 30), None, inputs, refreshes=8)
    assert at_once["count"] == step_by_step["count"] == 1024
    np.testing.assert_allclose(at_once["center"], step_by_step["center"], rtol=1e-4)
    np.testing.assert_allclose(at_once["scales"], step_by_step["scales"], atol=0.1)


def test_the_principal_directions_are_found():
    family = KMeansCells(4, rank=8)
    inputs = low_rank_inputs(2048, 60, 8, noise=0.5)
    state = trained(family, random(20, 60), None, inputs, refreshes=8)
    values = np.linalg.eigvalsh(np.cov(inputs.T))[-8:]
    # The last one competes with the noise.
    found = np.float64(state["scales"]) ** 2
    np.testing.assert_allclose(found[1:], values[1:], rtol=0.1)
    np.testing.assert_allclose(found[0], values[0], rtol=0.3)


def test_the_statistics_forget():
    family = KMeansCells(2, rank=2)
    state = new_state(family, 2, 5)
    for scale in (1.0, 0.1):
        for i in range(600):
            inputs = scale * (random(32, 2, seed=i) + 3)
            state |= family.observe(tf.constant(inputs), state)
            if i % 50 == 0:
                state |= family.refresh(random(5, 2), None, state)
    state |= family.refresh(random(5, 2), None, state)
    assert state["count"] == 2048
    np.testing.assert_allclose(state["scales"], [0.1, 0.1], rtol=0.2)
    np.testing.assert_allclose(state["center"], [0.3, 0.3], rtol=0.1)


def test_looks_at_some_rows_of_a_large_batch():
    family = KMeansCells(2, rank=2)
    for batch, seen in ((1, 1), (31, 31), (32, 32), (33, 17), (128, 32), (1000, 32)):
        state = new_state(family, 3, 5)
        inputs = np.repeat(np.arange(batch, dtype=np.float32)[:, None], 3, axis=1)
        state |= family.observe(tf.constant(inputs), state)
        assert state["count"] == seen
        assert abs(state["mean"][0] - (batch - 1) / 2) <= batch / seen / 2


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tables", [1, 3])
def test_codes_are_the_nearest_centroids(tables, bias):
    family = KMeansCells(7, tables, rank=4)
    kernel, bias = random(40, 10, seed=1), random(40) if bias else None
    state = trained(family, kernel, bias, low_rank_inputs(200, 10, 3, noise=0.1))
    codes = family.neuron_codes(kernel, bias, state).numpy()
    neurons = neurons_of(kernel, bias, state)
    centroids = np.float64(state["centroids"])
    distances = np.linalg.norm(neurons[:, None, None] - centroids, axis=-1)
    np.testing.assert_array_equal(codes, distances.argmin(-1))
    np.testing.assert_array_equal(codes, state["members"])


def test_distances_are_root_mean_square_differences_of_activations():
    family = KMeansCells(7, rank=4)
    kernel, bias = random(15, 10, seed=1), random(15)
    inputs = low_rank_inputs(500, 10, 4)
    state = trained(family, kernel, bias, inputs, refreshes=1)
    neurons = neurons_of(kernel, bias, state)
    products = inputs @ kernel.T + bias
    for i, j in itertools.combinations(range(15), 2):
        expected = np.sqrt(np.mean((products[:, i] - products[:, j]) ** 2))
        np.testing.assert_allclose(
            np.linalg.norm(neurons[i] - neurons[j]), expected, rtol=0.02
        )


@pytest.mark.parametrize("tables", [1, 3])
@pytest.mark.parametrize("probes", [2, None])
def test_probes_are_the_cells_of_the_largest_products(tables, probes):
    family = KMeansCells(7, tables, probes, rank=4)
    kernel, bias = random(40, 10, seed=1), random(40)
    inputs = low_rank_inputs(200, 10, 3, noise=0.1)
    state = trained(family, kernel, bias, inputs)
    buckets, weights = family.input_probes(tf.constant(inputs[:9]), state)
    assert buckets.dtype == weights.dtype == tf.int32
    centroids = np.float64(state["centroids"]).reshape(tables * 7, -1)
    worth = inputs_of(inputs[:9], state) @ centroids.T
    for row in range(9):
        best = np.argsort(-worth[row])[: tables * (probes or 7)]
        assert sorted(buckets.numpy()[row]) == sorted(best)
        high, low = worth[row, best[0]], worth[row, best[-1]]
        expected = 1 + 65535 * (worth[row, buckets[row]] - low) / (high - low)
        np.testing.assert_allclose(weights[row], expected, atol=25)
    assert np.all(np.max(weights, axis=1) == 65536)
    assert np.all(np.min(weights, axis=1) == 1)


@pytest.mark.parametrize("tables", [1, 3])
def test_refreshes_are_steps_of_lloyds_algorithm(tables):
    family = KMeansCells(6, tables, rank=5)
    kernel, bias = random(50, 5), random(50)
    state = new_state(family, 5, 50)
    state |= family.observe(tf.constant(random(32, 5)), state)
    losses = []
    for _ in range(30):
        before = state["members"].numpy()
        state |= family.refresh(kernel, bias, state)
        neurons = neurons_of(kernel, bias, state)
        centroids = np.float64(state["centroids"])
        for table, cell in itertools.product(range(tables), range(6)):
            inside = before[:, table] == cell
            if inside.any():
                np.testing.assert_allclose(
                    centroids[table, cell], neurons[inside].mean(0), atol=1e-4
                )
        distances = np.linalg.norm(neurons[:, None, None] - centroids, axis=-1)
        losses.append(np.sum(distances.min(-1) ** 2))
    assert all(b <= a * (1 + 1e-5) for a, b in itertools.pairwise(losses))
    np.testing.assert_array_equal(state["members"], before)  # it has come to rest
    assert all(len(set(column)) == 6 for column in before.T)


def test_cells_do_not_mix_obvious_groups():
    groups = random(5, 12, seed=7)
    kernel = np.repeat(groups, 8, axis=0) + 1e-3 * random(40, 12)
    inputs = low_rank_inputs(640, 12, 6)
    family = KMeansCells(15, rank=6)
    state = trained(family, kernel, None, inputs)
    codes = family.neuron_codes(kernel, None, state).numpy().reshape(5, 8)
    assert sum(len(set(group)) for group in codes) == len(np.unique(codes))


def test_empty_cells_get_far_neurons():
    # All neurons alike but two, and first centroids that are all alike.
    family = KMeansCells(3, rank=2)
    kernel = np.zeros([60, 2], np.float32)
    state = new_state(family, 2, 60)
    ordinary = np.flatnonzero(np.asarray(state["members"])[:, 0] < 0)
    kernel[ordinary[0]], kernel[ordinary[1]] = [50, 0], [0, 70]
    for _ in range(3):
        state |= family.refresh(kernel, None, state)
    codes = family.neuron_codes(kernel, None, state).numpy()[:, 0]
    assert len(set(codes)) == 3
    assert sorted(np.bincount(codes)) == [1, 1, 58]


def test_small_changes_of_neurons_and_inputs_move_few_neurons():
    family = KMeansCells(20, rank=8)
    kernel = random(200, 30)
    inputs = low_rank_inputs(2048, 30, 8, noise=0.3)
    state = trained(family, kernel, None, inputs, refreshes=20)
    before = state["members"].numpy()
    kernel = kernel + 0.01 * random(200, 30, seed=9)
    state |= family.observe(tf.constant(inputs[:32]), state)
    state |= family.refresh(kernel, None, state)
    assert np.mean(before != state["members"].numpy()) < 0.1


@pytest.mark.parametrize("tables", [1, 2])
def test_finds_the_neurons_of_the_largest_products(tables):
    family = KMeansCells(32, tables, rank=8).for_layer(40, 300)
    kernel, bias = random(300, 40), random(300)
    inputs = low_rank_inputs(1024, 40, 8, noise=0.3)
    state = trained(family, kernel, bias, inputs, refreshes=8)
    found = recall(family, kernel, bias, inputs[:50], state, 15, 60)
    assert found > 0.85
    # Without having seen inputs: not much, but more than chance (.2).
    state = new_state(family, 40, 300)
    state |= family.refresh(kernel, bias, state)
    assert recall(family, kernel, bias, inputs[:50], state, 15, 60) > 0.25


@pytest.mark.parametrize("units, input_dim", [(50, 20), (1200, 1100)])  # all; some
def test_without_inputs_the_neurons_directions_are_used(units, input_dim):
    family = KMeansCells(8, rank=3)
    kernel = random(units, 3) @ random(3, input_dim, seed=1)
    state = new_state(family, input_dim, units)
    state |= family.refresh(kernel, None, state)
    np.testing.assert_array_equal(state["scales"], np.ones(3))
    basis = np.float64(state["basis"])
    np.testing.assert_allclose(kernel @ basis @ basis.T, kernel, atol=1e-4)
    assert state["count"] == 0 and not np.any(state["moments"])


@pytest.mark.parametrize("units", [1, 2, 5])
@pytest.mark.parametrize("tables", [1, 3])
def test_fewer_units_than_cells(units, tables):
    kernel, bias = random(units, 6), random(units)
    decided = KMeansCells(8, tables).for_layer(6, units)
    assert decided.buckets == decided.probes == units and decided.rank == 6
    for family in (KMeansCells(8, tables), decided):
        state = trained(family, kernel, bias, random(64, 6))
        codes = family.neuron_codes(kernel, bias, state).numpy()
        assert codes.shape == (units, tables)
        assert codes.min() >= 0 and codes.max() < decided.buckets


def assert_valid(family, kernel, bias, inputs, state):
    for name, value in state.items():
        assert np.all(np.isfinite(value)), name
    codes = family.neuron_codes(kernel, bias, state).numpy()
    assert codes.min() >= 0 and codes.max() < family.buckets
    buckets, weights = (
        t.numpy() for t in family.input_probes(tf.constant(inputs), state)
    )
    assert buckets.min() >= 0 and buckets.max() < family.tables * family.buckets
    assert weights.min() >= 1 and weights.max() <= 65536
    assert all(len(set(row)) == len(row) for row in buckets.tolist())


BAD = np.float32([0, np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45, 1e20])


@pytest.mark.parametrize("probes", [3, None])
@pytest.mark.parametrize("tables", [1, 3])
def test_zero_and_non_finite_values(tables, probes):
    family = KMeansCells(6, tables, probes, rank=5)
    kernel, bias, inputs = random(20, 8), random(20), random(64, 8)
    bad_kernel, bad_bias, bad_inputs = kernel.copy(), bias.copy(), inputs.copy()
    for i, bad in enumerate(BAD):
        bad_kernel[i, i] = bad_inputs[i, i] = bad_bias[19 - i] = bad
    for k, b, x in itertools.product(
        (kernel, bad_kernel, np.zeros_like(kernel), np.full_like(kernel, np.nan)),
        (bias, bad_bias, None),
        (inputs, bad_inputs, np.zeros_like(inputs), np.full_like(inputs, np.inf)),
    ):
        state = trained(family, k, b, x, refreshes=2)
        assert_valid(family, k, b, bad_inputs, state)


def test_inputs_that_are_not_finite_are_ignored():
    family = KMeansCells(6, rank=5)
    inputs = random(24, 8)
    bad = np.tile(random(1, 8), [len(BAD), 1])
    bad[np.arange(8), np.arange(8)] = BAD
    bad = bad[[1, 2, 3, 4, 5, 7]]
    states = [new_state(family, 8, 20) for _ in range(2)]
    states[0] |= family.observe(tf.constant(inputs), states[0])
    states[1] |= family.observe(tf.constant(np.concatenate([bad, inputs])), states[1])
    for name in ("mean", "moments", "count"):
        np.testing.assert_allclose(states[0][name], states[1][name], rtol=1e-4)
    for batch in (bad, inputs[:0]):
        changes = family.observe(tf.constant(batch), states[0])
        for name, value in changes.items():
            np.testing.assert_array_equal(value, states[0][name])


@pytest.mark.parametrize("value", [0.0, 7.0, 1e-30, 1e14])
def test_inputs_that_do_not_vary(value):
    # All that tells neurons apart then is their mean activation.
    family = KMeansCells(6, rank=5)
    kernel, bias = random(20, 8), random(20)
    inputs = np.full([64, 8], value, np.float32)
    state = trained(family, kernel, bias, inputs)
    assert_valid(family, kernel, bias, inputs, state)
    codes = family.neuron_codes(kernel, bias, state).numpy()
    assert len(set(codes[:, 0])) == 6


def test_rounding_errors_are_no_directions():
    # All inputs are the same: what is left of their moments without the mean's part is
    # rounding.
    family = KMeansCells(6, rank=5)
    for seed in range(5):
        state = new_state(family, 8, 20)
        state |= family.observe(np.tile(3 * random(1, 8, seed=seed), [7, 1]), state)
        state |= family.refresh(random(20, 8), None, state)
        assert np.count_nonzero(state["scales"]) == 0


def test_learns_directions_that_show_only_later():
    family = KMeansCells(6, rank=5)
    kernel = random(20, 8)
    state = new_state(family, 8, 20)
    state |= family.observe(tf.ones([4, 8]), state)
    state |= family.refresh(kernel, None, state)
    assert np.count_nonzero(state["scales"]) == 0
    for seed in range(20):
        state |= family.observe(tf.constant(random(32, 8, seed=seed)), state)
        state |= family.refresh(kernel, None, state)
    assert np.count_nonzero(state["scales"]) == 5
    np.testing.assert_allclose(state["scales"], np.ones(5), rtol=0.2)


def test_codes_of_some_neurons_are_those_among_all():
    family = KMeansCells(6, 2, rank=4)
    kernel, bias = random(20, 8), random(20)
    state = trained(family, kernel, bias, random(64, 8))
    codes = family.neuron_codes(kernel, bias, state).numpy()
    some = np.array([3, 7, 12])
    np.testing.assert_array_equal(
        family.neuron_codes(kernel[some], bias[some], state), codes[some]
    )


def test_works_in_a_graph_with_keras_variables_as_state():
    family = KMeansCells(6, 2, 3, rank=4)
    kernel, bias = keras.Variable(random(20, 8)), keras.Variable(random(20))
    inputs = random(10, 8)
    state = {
        name: keras.Variable(value, trainable=False)
        for name, value in family.initial_state(8, 20).items()
    }

    @tf.function(input_signature=[tf.TensorSpec([None, 8], tf.float32)])
    def step(x):
        for name, value in family.observe(x, state).items():
            state[name].assign(value)
        for name, value in family.refresh(kernel, bias, state).items():
            state[name].assign(value)
        return family.neuron_codes(kernel, bias, state), *family.input_probes(x, state)

    actual = step(inputs)
    expected = new_state(family, 8, 20)
    expected |= family.observe(tf.constant(inputs), expected)
    expected |= family.refresh(kernel, bias, expected)
    np.testing.assert_array_equal(
        actual[0], family.neuron_codes(kernel, bias, expected)
    )
    buckets, weights = family.input_probes(tf.constant(inputs), expected)
    np.testing.assert_array_equal(np.sort(actual[1]), np.sort(buckets))
    np.testing.assert_allclose(np.sort(actual[2]), np.sort(weights), atol=25)
    assert step(inputs[:0])[1].shape == (0, 6)


@pytest.mark.parametrize("cells", [None, 12])
def test_in_a_layer(cells, tmp_path):
    layer = keras_lsh.LSHDense(60, "relu", active=0.1, hashing=KMeansCells(cells))
    model = keras.Sequential([keras.Input((10,)), layer, keras.layers.Dense(2)])
    model.compile(keras_lsh.LazyAdam(), "mse")
    x = low_rank_inputs(256, 10, 4)
    callbacks = [keras_lsh.RebuildTables(4)]
    model.fit(x, x[:, :2], verbose=0, epochs=3, callbacks=callbacks)
    names = {variable.name for variable in layer.non_trainable_variables}
    assert names >= {"basis", "scales", "centroids", "members", "codes"}
    ids = layer.active_ids(x)
    best = tf.math.top_k(x @ tf.transpose(layer.kernel) + layer.bias, 6).indices
    hits = [
        len(set(a) & set(b)) for a, b in zip(ids.numpy(), best.numpy(), strict=True)
    ]
    assert np.mean(hits) > 0.9 * 6

    model.save(tmp_path / "model.keras")
    copy = keras.saving.load_model(tmp_path / "model.keras")
    assert copy.layers[0].hashing == layer.hashing == KMeansCells(cells)
    np.testing.assert_array_equal(copy.layers[0].active_ids(x), ids)
    np.testing.assert_allclose(copy.predict(x, verbose=0), model.predict(x, verbose=0))

    expected = model.predict(x, verbose=0)
    keras_lsh.export_portable(model, tmp_path / "portable")
    served = tf.saved_model.load(tmp_path / "portable")
    np.testing.assert_allclose(served.serve(x), expected, rtol=1e-4, atol=1e-4)


THREADS = """
import sys
import numpy as np
import tensorflow as tf
tf.config.threading.set_intra_op_parallelism_threads(int(sys.argv[1]))
from keras_lsh.hashing import KMeansCells
rng = np.random.default_rng(0)
kernel = rng.standard_normal([500, 200], np.float32)
family = KMeansCells(50, 2, rank=16)
state = family.initial_state(200, 500)
for step in range(10):
    x = np.maximum(rng.standard_normal([64, 200], np.float32), 0)
    state |= family.observe(tf.constant(x), state)
    state |= family.refresh(kernel, None, state)
print(state["members"].numpy().sum(), hash(state["centroids"].numpy().tobytes()))
print(hash(family.input_probes(tf.constant(x), state)[1].numpy().tobytes()))
"""


def test_the_number_of_threads_changes_nothing(run_python, monkeypatch):
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    results = {run_python(THREADS, threads) for threads in (1, 4)}
    assert len(results) == 1


class TestManyCells:
    """With more than 512, neurons look at some of them only."""

    units, cells = 3000, 600

    def setup_method(self):
        self.family = KMeansCells(self.cells, rank=12)
        self.kernel = random(self.units, 12, seed=3) * np.float32(0.9) ** np.arange(12)
        self.kernel = self.kernel.astype(np.float32)
        inputs = low_rank_inputs(500, 12, 12)
        self.state = trained(self.family, self.kernel, None, inputs)

    def test_nearly_always_the_nearest_cell(self):
        codes = self.family.neuron_codes(self.kernel, None, self.state).numpy()[:, 0]
        u = neurons_of(self.kernel, None, self.state)
        centroids = self.state["centroids"].numpy()[0]
        distances = np.linalg.norm(u[:, None] - centroids, axis=-1)
        assert (codes == distances.argmin(axis=1)).mean() > 0.9
        found = distances[np.arange(self.units), codes]
        assert found.mean() < 1.02 * distances.min(axis=1).mean()

    def test_large_cells_are_split(self):
        # A third of the neurons are alike; the others are more than there are cells,
        # and far from them, so that they would get every empty one.
        kernel = self.kernel.copy()
        kernel[:1000] *= np.float32(0.01)
        state = self.state | {"members": tf.zeros_like(self.state["members"])}
        for _ in range(10):
            state |= self.family.refresh(kernel, None, state)
        members = state["members"].numpy()[:, 0]
        assert np.bincount(members[:1000], minlength=self.cells).max() < 200


def test_what_a_layer_decides():
    cells = {n: KMeansCells().for_layer(64, n).cells for n in (1, 10, 100, 1000, 10**6)}
    assert cells == {1: 1, 10: 10, 100: 100, 1000: 504, 10**6: 4096}
    family = KMeansCells().for_layer(784, 1000)
    assert family == KMeansCells(504, probes=504, rank=family.rank)
    assert family.for_layer(784, 1000) == family
    assert KMeansCells(100, probes=30).for_layer(16, 1000) == (
        KMeansCells(100, probes=30, rank=16)
    )
    wide = KMeansCells(tables=100).for_layer(784, 10**6)
    assert wide.tables * wide.probes <= 32767
    shapes = (784, 1000), (4096, 16_384), (128, 4096), (128, 30_000), (128, 670_091)
    ranks = [KMeansCells().for_layer(*shape).rank for shape in shapes]
    assert ranks == [16, 16, 16, 56, 64]
    assert KMeansCells().for_layer(48, 10**6).rank == 48
    for undecided in (
        lambda: KMeansCells().buckets,
        lambda: KMeansCells(9).multiplications(784),
    ):
        with pytest.raises(ValueError, match="for a layer to say. See `for_layer`"):
            undecided()


def test_multiplications():
    family = KMeansCells(100, 2, rank=16)
    assert family.multiplications(784) == 784 * 16 + 2 * 100 * 16
    refresh = family.refresh_multiplications(784, 1000)
    assert 1000 * family.multiplications(784) < refresh < 17_000_000
    assert family.multiplications(8) == 8 * 8 + 2 * 100 * 8


@pytest.mark.parametrize(
    "family", [KMeansCells(), KMeansCells(9, 2, 3, rank=4, seed=5)]
)
def test_round_trip(family):
    copy = get_family(keras.saving.serialize_keras_object(family))
    assert copy == family and hash(copy) == hash(family)
    assert eval(repr(family)) == family


def test_every_argument_distinguishes():
    families = [
        KMeansCells(), KMeansCells(9), KMeansCells(tables=2), KMeansCells(probes=3),
        KMeansCells(rank=7), KMeansCells(seed=1),
    ]  # fmt: skip
    assert len(set(families)) == len(families)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"cells": 0}, "cells"),
        ({"cells": 2**20 + 1}, "cells"),
        ({"cells": 6.0}, "cells"),
        ({"tables": 0}, "tables"),
        ({"tables": 1025}, "tables"),
        ({"probes": 0}, "probes"),
        ({"cells": 3, "probes": 4}, "probes"),
        ({"cells": 10**5}, "probes"),
        ({"tables": 1000, "probes": 33}, "tables"),
        ({"rank": 0}, "rank"),
        ({"rank": 16.0}, "rank"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_arguments_are_named(arguments, name):
    with pytest.raises(ValueError, match=f"`{name}`.*Received: .*{name}="):
        KMeansCells(**arguments)
