"""LSHDense with sparse output and forced labels."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_lsh
from keras_lsh import sparse_logits
from keras_lsh.labels import label_scope

UNITS, ACTIVE, WIDTH = 300, 20, 16
LABELS = tf.ragged.constant([[1], [2, 3], [299], [0, 5, 7], [9]])


def make_layer(**arguments):
    arguments = {"active": ACTIVE, "output": "sparse", "seed": 0} | arguments
    seed = arguments.pop("seed")
    keras.utils.set_random_seed(seed)
    layer = keras_lsh.LSHDense(UNITS, bias_initializer="random_normal", **arguments)
    layer.build((None, WIDTH))
    layer.rebuild_tables()
    return layer


def make_inputs(samples=5):
    return np.random.default_rng(1).normal(size=(samples, WIDTH)).astype(np.float32)


def all_values(layer, x):
    return x.astype(np.float64) @ layer.kernel.numpy().T + layer.bias.numpy()


@pytest.mark.parametrize("selection", ["lsh", "exact", "random"])
@pytest.mark.parametrize("oversample", [1, 2.5])
@pytest.mark.parametrize("reference", [False, True])
def test_labels_are_active(selection, oversample, reference):
    layer = make_layer(
        selection=selection, oversample=oversample, force_labels=True, activation="tanh"
    )
    x = make_inputs()
    with keras_lsh.ops.reference_ops(reference), label_scope(LABELS):
        values, ids = sparse_logits.to_active(layer(x, training=True))
    assert values.shape == (5, ACTIVE)
    expected = np.tanh(all_values(layer, x))
    np.testing.assert_allclose(
        values, np.take_along_axis(expected, ids.numpy(), axis=1), atol=1e-5
    )
    for labels, row in zip(LABELS.to_list(), ids.numpy(), strict=True):
        assert set(labels) <= set(row)
        assert (np.diff(row) > 0).all()


@pytest.mark.parametrize("selection", ["exact", "lsh"])
def test_the_others_are_the_largest_of_the_candidates(selection):
    # Every neuron is a candidate.
    layer = make_layer(
        selection=selection, oversample=UNITS / ACTIVE, force_labels=True
    )
    x = make_inputs()
    with label_scope(LABELS):
        _, ids = sparse_logits.to_active(layer(x, training=True))
    values = all_values(layer, x)
    for i, labels in enumerate(LABELS.to_list()):
        others = [n for n in np.argsort(-values[i]) if n not in labels]
        expected = labels + others[: ACTIVE - len(labels)]
        assert set(ids[i].numpy()) == set(expected)


def test_outside_of_training_labels_are_not_forced():
    layer = make_layer(force_labels=True)
    x = make_inputs()
    outputs = layer(x)
    with label_scope(LABELS):
        again = layer(x, training=False)
    np.testing.assert_array_equal(outputs.indices, again.indices)
    np.testing.assert_array_equal(outputs.values, again.values)


def test_same_as_dense_output():
    sparse, dense = make_layer(), make_layer(output="dense")
    x = make_inputs()
    np.testing.assert_array_equal(tf.sparse.to_dense(sparse(x)), dense(x))


def test_gradients_are_those_of_the_active_products():
    layer = make_layer(force_labels=True)
    layer._tables_are_kept_fresh = True
    x = tf.Variable(make_inputs())
    with label_scope(LABELS), tf.GradientTape() as tape:
        outputs = layer(x, training=True)
        loss = tf.reduce_sum(outputs.values**2)
    by_x, by_kernel, by_bias = tape.gradient(
        loss, [x, layer.kernel.value, layer.bias.value]
    )
    mask = np.zeros([5, UNITS])
    mask[tuple(outputs.indices.numpy().T)] = 1
    upstream = 2 * all_values(layer, x.numpy()) * mask
    np.testing.assert_allclose(by_x, upstream @ layer.kernel.numpy(), atol=1e-4)
    np.testing.assert_allclose(
        tf.convert_to_tensor(by_kernel), upstream.T @ x.numpy(), atol=1e-4
    )
    np.testing.assert_allclose(
        tf.convert_to_tensor(by_bias), upstream.sum(axis=0), atol=1e-4
    )


@pytest.mark.parametrize("units", [300, 20000])  # one block and several
def test_exact_inference(units):
    keras.utils.set_random_seed(3)
    layer = keras_lsh.LSHDense(units, active=30, output="sparse", inference="exact")
    x = make_inputs()
    layer.build(x.shape)
    rows = np.tile(np.arange(units // 2), 2)  # every product twice
    layer.kernel.assign(layer.kernel.numpy()[rows])
    values, ids = sparse_logits.to_active(tf.function(layer)(x))
    products = x @ layer.kernel.numpy()[: units // 2].T
    best = np.argsort(-products, axis=1)[:, :15]
    expected = np.sort(np.concatenate([best, best + units // 2], axis=1), axis=1)
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_allclose(
        values,
        np.take_along_axis(products, expected % (units // 2), axis=1),
        atol=1e-5,
    )


def test_symbolic_call_and_config():
    layer = make_layer(force_labels=True)
    outputs = layer(keras.Input((WIDTH,)))
    assert outputs.shape == (None, UNITS) and outputs.sparse
    again = keras_lsh.LSHDense.from_config(layer.get_config())
    assert again.output_form == "sparse" and again.force_labels


def test_mixed_precision():
    layer = make_layer(dtype="mixed_bfloat16")
    assert layer(make_inputs()).values.dtype == tf.bfloat16


def test_empty_batch():
    assert make_layer()(make_inputs(0)).shape == (0, UNITS)


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (None, ValueError, "LSHSequential"),
        ([[1]] * 4, tf.errors.InvalidArgumentError, "row for each of the 5 samples"),
        ([UNITS] * 5, tf.errors.InvalidArgumentError, r"integers in \[0, 300\)"),
        ([-1] * 5, tf.errors.InvalidArgumentError, r"integers in \[0, 300\)"),
        (
            [list(range(ACTIVE + 1))] * 5,
            tf.errors.InvalidArgumentError,
            "more labels than layer .* active=20",
        ),
    ],
    ids=str,
)
def test_bad_labels(labels, error, message):
    layer = make_layer(force_labels=True)
    with label_scope(labels), pytest.raises(error, match=message):
        layer(make_inputs(), training=True)


def test_bad_arguments():
    with pytest.raises(ValueError, match="`output`.*'dense', 'sparse'"):
        make_layer(output="ragged")
    with pytest.raises(ValueError, match="`activity_regularizer`"):
        make_layer(activity_regularizer="l2")
    with pytest.raises(ValueError, match="ndim=2"):
        make_layer()(np.zeros([2, 3, WIDTH], np.float32))
    with pytest.raises(ValueError, match="SparseInputDense"):
        make_layer()(tf.sparse.from_dense(make_inputs()))


class TestExplore:
    """Some active neurons are drawn at random while training."""

    @pytest.mark.parametrize("selection", ["exact", "lsh"])
    def test_labels_then_the_largest_then_a_draw(self, selection):
        layer = make_layer(
            selection=selection,
            oversample=UNITS / ACTIVE,  # every neuron is a candidate
            force_labels=True,
            explore=0.4,
        )
        assert layer.num_explored == 8
        x = make_inputs()
        values = all_values(layer, x)
        draws = set()
        for _ in range(25):
            with label_scope(LABELS):
                outputs = layer(x, training=True)
            _, ids = sparse_logits.to_active(outputs)
            drawn = sparse_logits.drawn_of(outputs).numpy()
            for i, labels in enumerate(LABELS.to_list()):
                row = ids[i].numpy()
                assert (np.diff(row) > 0).all() and set(labels) <= set(row)
                by_chance = set(row[drawn[i]]) - set(labels)
                assert 0 < len(by_chance) <= 8
                others = [n for n in np.argsort(-values[i]) if n not in labels]
                found = set(row) - set(labels) - by_chance
                assert found == set(others[: len(found)])
                draws.add(tuple(sorted(by_chance)))
        assert len(draws) > 20

    def test_a_batch_shares_its_draw(self):
        layer = make_layer(active=UNITS // 2, oversample=1, explore=0.9)
        x = make_inputs()
        draws = []
        for _ in range(2):
            outputs = layer(x, training=True)
            _, ids = sparse_logits.to_active(outputs)
            everywhere = set(range(UNITS)).intersection(*map(set, ids.numpy()))
            assert len(everywhere) >= layer.num_explored
            draws.append(everywhere)
        assert draws[0] != draws[1]

    def test_an_empty_batch(self):
        layer = make_layer(explore=0.5)
        outputs = layer(make_inputs()[:0], training=True)
        assert outputs.shape == (0, UNITS)

    def test_not_at_inference(self):
        x = make_inputs()
        outputs = [make_layer(explore=explore)(x) for explore in (0.0, 0.5)]
        np.testing.assert_array_equal(outputs[0].indices, outputs[1].indices)
        np.testing.assert_array_equal(outputs[0].values, outputs[1].values)
        assert sparse_logits.drawn_of(outputs[1]) is None

    def test_dense_outputs_too(self):
        layer = make_layer(output="dense", explore=0.5, oversample=1)
        x = make_inputs()
        sets = [(layer(x, training=True).numpy() != 0) for _ in range(2)]
        assert (sets[0].sum(-1) == ACTIVE).all()
        assert (sets[0] != sets[1]).any()

    def test_the_loss_is_that_of_all_classes_on_average(self):
        layer = make_layer(selection="exact", force_labels=True, explore=0.5)
        x = make_inputs()
        values = all_values(layer, x)
        totals = np.exp(values).sum(-1)
        loss = keras_lsh.losses.ActiveSoftmaxCrossentropy(
            log_q="uniform", reduction=None
        )
        of_labels = [values[i, row].mean() for i, row in enumerate(LABELS.to_list())]
        estimates = []
        for _ in range(300):
            with label_scope(LABELS):
                outputs = layer(x, training=True)
            estimates.append(np.exp(loss(LABELS, outputs).numpy() + of_labels))
        np.testing.assert_allclose(np.mean(estimates, axis=0), totals, rtol=0.02)
        # And no further off than what all the active ones, weighted alike, would give.
        assert (np.std(estimates, axis=0) < 0.25 * totals).all()

    def test_the_loss_knows_in_fit(self):
        seen = []

        class Loss(keras_lsh.losses.ActiveSoftmaxCrossentropy):
            def call(self, y_true, y_pred):
                seen.append(sparse_logits.drawn_of(y_pred))
                return super().call(y_true, y_pred)

        model = keras_lsh.LSHSequential(
            [
                keras.Input((WIDTH,)),
                keras_lsh.LSHDense(
                    UNITS, active=20, output="sparse", force_labels=True, explore=0.5
                ),
            ]
        )
        model.compile(keras_lsh.LazyAdam(), Loss(log_q="uniform"))
        model.fit(
            make_inputs(),
            np.arange(5),
            verbose=0,
            callbacks=[keras_lsh.RebuildTables()],
        )
        assert seen and all(drawn is not None for drawn in seen)

    def test_more_labels_than_there_is_room_for(self):
        layer = make_layer(active=4, force_labels=True, explore=0.5)
        with (
            label_scope(LABELS),
            pytest.raises(
                tf.errors.InvalidArgumentError,
                match="active=4 less 2 drawn at random. Increase `active`",
            ),
        ):
            layer(make_inputs(), training=True)

    @pytest.mark.parametrize(
        "arguments", [{"explore": 1.0}, {"explore": -0.1}, {"explore": "some"}]
    )
    def test_bad(self, arguments):
        with pytest.raises(ValueError, match=r"explore.*a number in \[0, 1\)"):
            keras_lsh.LSHDense(10, **arguments)

    def test_not_of_a_random_selection(self):
        with pytest.raises(ValueError, match="0 with selection='random'"):
            keras_lsh.LSHDense(10, selection="random", explore=0.5)

    def test_config(self):
        layer = keras_lsh.LSHDense(10, explore=0.25)
        assert keras_lsh.LSHDense.from_config(layer.get_config()).explore == 0.25


class TestShared:
    """While training, a sample computes what all samples of its batch use."""

    def outputs_of(self, layer, x, labels=LABELS):
        with label_scope(labels):
            return layer(x, training=True)

    @pytest.mark.parametrize("selection", ["exact", "lsh"])
    def test_the_union(self, selection):
        layer = make_layer(selection=selection, force_labels=True, shared=True)
        x = make_inputs()
        outputs = self.outputs_of(layer, x)
        values, ids = (part.numpy() for part in sparse_logits.to_active(outputs))
        expected = set(layer.active_ids(x).numpy().flat).union(*LABELS.to_list())
        assert set(ids[0]) == expected and (np.diff(ids[0]) > 0).all()
        assert (ids == ids[0]).all()
        np.testing.assert_allclose(values, all_values(layer, x)[:, ids[0]], atol=1e-5)
        # And the SparseTensor itself.
        dense = tf.sparse.to_dense(outputs).numpy()
        np.testing.assert_array_equal(dense[:, ids[0]], values)
        assert outputs.shape == (len(x), UNITS)

    def test_gradients(self):
        layer = make_layer(force_labels=True, shared=True, explore=30)
        x = tf.Variable(make_inputs())
        with tf.GradientTape() as tape:
            outputs = self.outputs_of(layer, x)
            values, ids = sparse_logits.to_active(outputs)
            upstream = np.random.default_rng(0).normal(size=values.shape)
            loss = tf.reduce_sum(values * tf.constant(upstream, tf.float32))
        of_x, of_kernel, of_bias = tape.gradient(
            loss, [x, layer.kernel.value, layer.bias.value]
        )
        ids, rows = ids[0].numpy(), layer.kernel.numpy().astype("float64")[ids[0]]
        np.testing.assert_allclose(of_x, upstream @ rows, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(of_kernel.indices, ids)
        np.testing.assert_allclose(
            of_kernel.values, upstream.T @ x.numpy(), rtol=1e-4, atol=1e-5
        )
        np.testing.assert_array_equal(of_bias.indices, ids)
        np.testing.assert_allclose(of_bias.values, upstream.sum(0), rtol=1e-4)

    @pytest.mark.parametrize(
        "loss",
        [
            keras_lsh.losses.ActiveSoftmaxCrossentropy,
            keras_lsh.losses.ActiveSigmoidCrossentropy,
        ],
    )
    def test_the_loss_is_that_of_the_sparse_tensor(self, loss):
        layer = make_layer(force_labels=True, shared=True)
        outputs = self.outputs_of(layer, make_inputs())
        # The same entries, without what is known of them.
        plain = tf.SparseTensor(
            outputs.indices, tf.identity(outputs.values), [5, UNITS]
        )
        loss = loss(reduction=None, label_smoothing=0.1)
        np.testing.assert_allclose(loss(LABELS, outputs), loss(LABELS, plain), 1e-5)
        for metric in (keras_lsh.metrics.PrecisionAtK(3), keras_lsh.metrics.NDCGAtK(3)):
            found = []
            for logits in (outputs, plain):
                metric.reset_state()
                metric.update_state(LABELS, logits)
                found.append(float(metric.result()))
            assert found[0] == found[1]

    def test_the_loss_is_that_of_all_classes_on_average(self):
        layer = make_layer(
            active=3, selection="exact", force_labels=True, shared=True, explore=60
        )
        x = make_inputs()
        values = all_values(layer, x)
        totals = np.exp(values).sum(-1)
        loss = keras_lsh.losses.ActiveSoftmaxCrossentropy(
            log_q="uniform", reduction=None
        )
        of_labels = [values[i, row].mean() for i, row in enumerate(LABELS.to_list())]
        estimates = []
        for _ in range(300):
            losses = loss(LABELS, self.outputs_of(layer, x)).numpy()
            estimates.append(np.exp(losses + of_labels))
        np.testing.assert_allclose(np.mean(estimates, axis=0), totals, rtol=0.03)

    def test_labels_need_no_room(self):
        layer = make_layer(active=1, force_labels=True, shared=True)
        _, ids = sparse_logits.to_active(self.outputs_of(layer, make_inputs()))
        assert set(ids[0].numpy()) >= set(LABELS.flat_values.numpy())

    def test_explored_are_others_at_each_step(self):
        layer = make_layer(active=1, shared=True, explore=100)
        x = make_inputs()
        sets = []
        for _ in range(2):
            outputs = layer(x, training=True)
            _, ids = sparse_logits.to_active(outputs)
            by_chance = sparse_logits.drawn_of(outputs)[0].numpy()
            found = set(layer.active_ids(x).numpy().flat)
            assert set(ids[0].numpy()[~by_chance]) == found
            assert 100 - len(found) <= by_chance.sum() <= 100
            sets.append(set(ids[0].numpy()))
        assert sets[0] != sets[1]

    def test_not_at_inference(self):
        x = make_inputs()
        outputs = [make_layer(shared=shared)(x) for shared in (False, True)]
        np.testing.assert_array_equal(outputs[0].indices, outputs[1].indices)
        np.testing.assert_array_equal(outputs[0].values, outputs[1].values)

    def test_an_empty_batch(self):
        layer = make_layer(shared=True, explore=10)
        assert layer(make_inputs()[:0], training=True).shape == (0, UNITS)

    def test_regularizers_and_constraints_see_the_rows_in_use(self):
        layer = make_layer(
            shared=True,
            selection="exact",
            kernel_regularizer="l2",
            kernel_constraint=keras.constraints.MaxNorm(0.5, axis=0),
        )
        before = layer.kernel.numpy()
        _, ids = sparse_logits.to_active(layer(make_inputs(), training=True))
        rows = layer.kernel.numpy()[ids[0]]
        np.testing.assert_allclose(layer.losses[0], 0.01 * (rows**2).sum(), 1e-5)
        norms = np.linalg.norm(rows, axis=1)
        np.testing.assert_allclose(
            norms, np.minimum(np.linalg.norm(before[ids[0]], axis=1), 0.5), 1e-5
        )

    def test_learns_in_fit(self, reads_share_a_buffer):
        random = np.random.default_rng(0)
        centers = random.normal(size=(UNITS, WIDTH)).astype("float32")
        y = random.integers(0, UNITS, 2000)
        x = centers[y] + 0.1 * random.normal(size=(2000, WIDTH)).astype("float32")
        layer = keras_lsh.LSHDense(
            UNITS, active=3, output="sparse", force_labels=True, shared=True, explore=20
        )
        model = keras_lsh.LSHSequential([keras.Input((WIDTH,)), layer])
        model.compile(
            keras_lsh.LazyAdam(0.03),
            keras_lsh.losses.ActiveSoftmaxCrossentropy(),
            metrics=[keras_lsh.metrics.Accuracy()],
        )
        model.fit(x, y, epochs=6, verbose=0, callbacks=[keras_lsh.RebuildTables()])
        assert model.evaluate(x, y, verbose=0)[1] > 0.9
        model(x[:5])
        assert reads_share_a_buffer(layer.kernel.value)  # rebuilds do not copy it
        copy = keras_lsh.LSHDense.from_config(layer.get_config())
        assert copy.shared and copy.num_explored == 20

    def test_bad(self):
        with pytest.raises(ValueError, match="shared.*False with output='dense'"):
            keras_lsh.LSHDense(10, shared=True)
        for explore in (0.5, -1, 11):
            with pytest.raises(ValueError, match=r"explore.*from 0 to units=10"):
                keras_lsh.LSHDense(10, output="sparse", shared=True, explore=explore)
        with pytest.raises(ValueError, match=r"explore.*a number in \[0, 1\)"):
            keras_lsh.LSHDense(10, output="sparse", explore=3)


class TestRebuildsOfWhatHasMoved:
    CELLS = keras_lsh.KMeansCells(cells=20)

    @pytest.fixture(autouse=True)
    def layer(self, monkeypatch):
        monkeypatch.setattr("keras_lsh.selection.lsh._VERY_MANY", UNITS)
        layer = make_layer(hashing=self.CELLS)
        layer(make_inputs(200), training=True)
        layer.rebuild_tables()
        return layer

    @pytest.fixture(params=["eager", "graph"])
    def rebuild(self, request, layer):
        def rebuild(moved_only):
            return layer.rebuild_tables(moved_only)["codes_changed"]

        if request.param == "eager":
            return rebuild
        function = tf.function(rebuild)
        return lambda moved_only: function(tf.constant(moved_only))

    def test_neurons_that_have_not_moved_keep_their_codes(self, layer, rebuild):
        selector = layer.selector
        # Others are the inputs, so that all neurons would have other cells.
        layer(make_inputs(200) * np.arange(WIDTH) + 1, training=True)
        before = {name: np.array(value) for name, value in selector.state.items()}
        codes = selector.codes.numpy()
        assert float(rebuild(True)) == 0
        np.testing.assert_array_equal(selector.codes, codes)
        for name, value in before.items():
            np.testing.assert_array_equal(selector.state[name], value)
        assert float(rebuild(False)) > 0.1

    def test_neurons_that_have_moved_get_the_codes_of_their_weights(
        self, layer, rebuild
    ):
        selector = layer.selector
        codes = selector.codes.numpy()
        kernel, bias = layer.kernel.numpy(), layer.bias.numpy()
        kernel[7], kernel[[31, 32]], bias[250] = kernel[250], -kernel[[1, 2]], 9.0
        layer.kernel.assign(kernel)
        layer.bias.assign(bias)
        expected = selector.hashing.neuron_codes(kernel, bias, selector.state).numpy()
        share = float(rebuild(True))
        assert share == np.float32(np.mean(expected != codes)) > 0
        np.testing.assert_array_equal(selector.codes, expected)
        np.testing.assert_array_equal(selector.state["members"], expected)
        offsets, ids = selector.offsets.numpy()[0], selector.table_ids.numpy()[0]
        cell = expected[7, 0]
        assert 7 in ids[offsets[cell] : offsets[cell + 1]]
        assert float(rebuild(True)) == 0

    def test_layers_of_fewer_neurons_are_hashed_whole(self, monkeypatch):
        monkeypatch.setattr("keras_lsh.selection.lsh._VERY_MANY", UNITS + 1)
        layer = make_layer(hashing=self.CELLS)
        layer(make_inputs(200) * np.arange(WIDTH) + 1, training=True)
        assert float(layer.rebuild_tables(moved_only=True)["codes_changed"]) > 0.1
