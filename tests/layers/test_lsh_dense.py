"""LSHDense against Keras' Dense, its arguments, and its behaviour in models."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_lsh
from keras_lsh import ops
from keras_lsh.hashing import HashFamily

INPUT_DIM, UNITS = 20, 48


@keras.saving.register_keras_serializable("tests")
class OneBucket(HashFamily):
    """All neurons in one bucket: retrieval finds everything."""

    tables = buckets = probes = 1

    def initial_state(self, input_dim, units):
        return {}

    def neuron_codes(self, kernel, bias, state):
        return tf.zeros([tf.shape(kernel)[0], 1], tf.int32)

    def input_probes(self, inputs, state):
        nothing = tf.zeros([tf.shape(inputs)[0], 1], tf.int32)
        return nothing, nothing + 1

    def multiplications(self, input_dim):
        return 0

    def get_config(self):
        return {}


def random_inputs(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def pair(seed=1, **arguments):
    """A Dense layer and an LSHDense layer of equal weights."""
    arguments = {"kernel_initializer": keras.initializers.GlorotUniform(seed)} | (
        arguments
    )
    own = ("active", "hashing", "oversample", "selection", "inference")
    dense = keras.layers.Dense(
        UNITS, **{k: v for k, v in arguments.items() if k not in own}
    )
    sparse = keras_lsh.LSHDense(UNITS, **arguments)
    dense.build((None, INPUT_DIM))
    sparse.build((None, INPUT_DIM))
    return dense, sparse


def gradients(layer, x):
    weights = [w.value for w in layer.trainable_variables]
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(tf.sin(layer(x, training=True)))
    return [tf.convert_to_tensor(g) for g in tape.gradient(loss, [x, *weights])]


EVERYTHING = {
    "one_bucket": {"hashing": OneBucket(), "active": UNITS},
    "all_active": {"active": 1.0},
}


@pytest.fixture(autouse=True)
def quiet_about_stale_tables():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Training LSHDense")
        yield


class TestEqualsDense:
    @pytest.mark.parametrize("case", EVERYTHING)
    @pytest.mark.parametrize("activation", [None, "relu", "gelu", "sigmoid", "softmax"])
    @pytest.mark.parametrize("use_bias", [True, False])
    def test_outputs_and_gradients(self, case, activation, use_bias):
        dense, sparse = pair(
            activation=activation, use_bias=use_bias, **EVERYTHING[case]
        )
        x = tf.constant(random_inputs(9, INPUT_DIM))
        np.testing.assert_array_equal(sparse.kernel.numpy().T, dense.kernel.numpy())
        np.testing.assert_allclose(sparse(x), dense(x), rtol=1e-5, atol=1e-6)
        ours, theirs = gradients(sparse, x), gradients(dense, x)
        theirs[1] = tf.transpose(theirs[1])
        for our, their in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(our, their, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("case", EVERYTHING)
    @pytest.mark.parametrize("optimizer", ["sgd", "adam"])
    def test_trained_weights(self, case, optimizer):
        def trained(make_layer):
            keras.utils.set_random_seed(3)
            model = keras.Sequential(
                [
                    keras.Input((INPUT_DIM,)),
                    make_layer(),
                    make_layer(),
                    keras.layers.Dense(3),
                ]
            )
            lazy = optimizer == "adam" and isinstance(
                model.layers[0], keras_lsh.LSHDense
            )
            model.compile(
                keras.optimizers.SGD(0.1)
                if optimizer == "sgd"
                else keras_lsh.LazyAdam(1e-2)
                if lazy
                else keras.optimizers.Adam(1e-2),
                "mse",
            )
            x, y = random_inputs(320, INPUT_DIM), random_inputs(320, 3, seed=1)
            model.fit(x, y, batch_size=16, epochs=1, shuffle=False, verbose=0)
            return model.layers

        ours = trained(
            lambda: keras_lsh.LSHDense(UNITS, activation="tanh", **EVERYTHING[case])
        )
        theirs = trained(lambda: keras.layers.Dense(UNITS, activation="tanh"))
        for our, their in zip(ours[:2], theirs[:2], strict=True):
            np.testing.assert_allclose(
                our.kernel.numpy().T, their.kernel.numpy(), rtol=1e-3, atol=2e-5
            )
            np.testing.assert_allclose(
                our.bias.numpy(), their.bias.numpy(), rtol=1e-3, atol=2e-5
            )

    @pytest.mark.parametrize("name", ["he_normal", "lecun_uniform", "orthogonal"])
    def test_same_seed_same_initial_weights(self, name):
        config = {"class_name": name, "config": {"seed": 4}}
        initializer = keras.initializers.get(config)
        dense, _ = pair(kernel_initializer=initializer)
        _, sparse = pair(kernel_initializer=keras.initializers.get(config))
        np.testing.assert_array_equal(sparse.kernel.numpy().T, dense.kernel.numpy())

    def test_exact_inference(self):
        dense, sparse = pair(activation="relu", active=4, inference="exact")
        x = random_inputs(5, INPUT_DIM)
        np.testing.assert_allclose(sparse(x), dense(x), rtol=1e-5, atol=1e-6)
        active = np.count_nonzero(sparse(x, training=True), axis=-1)
        assert active.max() <= 4


class TestActiveNeurons:
    @pytest.mark.parametrize("selection", ["lsh", "exact", "random"])
    @pytest.mark.parametrize("active", [1, 7, 0.25, UNITS])
    def test_values_are_those_of_dense_and_zero_elsewhere(self, selection, active):
        dense, sparse = pair(selection=selection, active=active)
        x = random_inputs(11, INPUT_DIM)
        outputs, expected = sparse(x).numpy(), dense(x).numpy()
        used = outputs != 0
        assert np.all(used.sum(axis=-1) == sparse.num_active)
        np.testing.assert_allclose(outputs[used], expected[used], rtol=1e-4, atol=1e-6)

    def test_exact_selection_takes_the_largest(self):
        dense, sparse = pair(selection="exact", active=6)
        x = random_inputs(30, INPUT_DIM)
        largest = np.sort(np.argsort(-dense(x).numpy(), axis=-1)[:, :6])
        np.testing.assert_array_equal(sparse.active_ids(x), largest)

    def test_candidates_are_decided_by_exact_products(self):
        # With all neurons as candidates, only the largest can stay.
        _, sparse = pair(active=6, oversample=UNITS / 6)
        _, oracle = pair(active=6, selection="exact")
        x = random_inputs(30, INPUT_DIM)
        np.testing.assert_array_equal(sparse.active_ids(x), oracle.active_ids(x))

    def test_recall_is_above_chance_and_grows_with_oversampling(self):
        x = random_inputs(200, INPUT_DIM)
        oracle = pair(active=5, selection="exact")[1].active_ids(x).numpy()

        def recall(**arguments):
            ids = pair(active=5, **arguments)[1].active_ids(x).numpy()
            hits = [len(set(a) & set(b)) for a, b in zip(ids, oracle, strict=True)]
            return np.mean(hits) / 5

        chance = recall(selection="random")
        assert abs(chance - 5 / UNITS) < 0.05
        plain = recall(oversample=1)
        assert plain > 2 * chance
        assert recall(oversample=3) > plain + 0.1

    def test_random_selection_differs_by_step_and_is_uniform(self):
        _, sparse = pair(selection="random", active=6)
        x = random_inputs(400, INPUT_DIM)
        first, second = sparse.active_ids(x).numpy(), sparse.active_ids(x).numpy()
        assert np.any(first != second)
        counts = np.bincount(np.concatenate([first, second]).ravel(), minlength=UNITS)
        expected = 800 * 6 / UNITS
        assert np.all(np.abs(counts - expected) < 6 * np.sqrt(expected))

    def test_samples_do_not_depend_on_their_batch(self):
        _, sparse = pair(active=5)
        x = random_inputs(16, INPUT_DIM)
        whole = sparse(x).numpy()
        np.testing.assert_array_equal(sparse(x[::-1]).numpy(), whole[::-1])
        np.testing.assert_array_equal(sparse(x[3:5]).numpy(), whole[3:5])

    def test_softmax_is_over_the_active_neurons(self):
        _, sparse = pair(activation="softmax", active=5)
        outputs = sparse(random_inputs(4, INPUT_DIM)).numpy()
        np.testing.assert_allclose(outputs.sum(axis=-1), 1, rtol=1e-5)

    def test_more_probes_find_a_superset_of_candidates(self):
        x = random_inputs(10, INPUT_DIM)

        def retrieved(probes):
            _, sparse = pair(hashing=keras_lsh.SimHash(4, 2, probes))
            selector = sparse._selector
            buckets, weights = selector.hashing.input_probes(
                tf.constant(x), selector.state
            )
            ids = ops.select_active(
                buckets,
                weights,
                selector.offsets,
                selector.table_ids,
                tf.zeros([10, 0], tf.int32),
                tf.zeros([0], tf.int32),
                UNITS,
            )
            return [set(row) - {-1} for row in ids.numpy()]

        for few, many in zip(retrieved(2), retrieved(6), strict=True):
            assert few <= many

    def test_rebuild_is_idempotent_and_follows_the_weights(self):
        _, sparse = pair(active=5, hashing=keras_lsh.SimHash())
        before = [w.numpy() for w in sparse.non_trainable_variables]
        assert float(sparse.rebuild_tables()["codes_changed"]) == 0
        for old, new in zip(before, sparse.non_trainable_variables, strict=True):
            np.testing.assert_array_equal(old, new.numpy())
        sparse.kernel.assign(-sparse.kernel)
        assert float(sparse.rebuild_tables()["codes_changed"]) > 0.9


class TestShapesAndTypes:
    @pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (2, 1, 3, 4)])
    def test_any_rank(self, shape):
        dense = keras.layers.Dense(UNITS)
        dense.build((None, 4))
        sparse = keras_lsh.from_dense(dense, active=1.0)
        x = random_inputs(*shape)
        outputs = sparse(x)
        assert outputs.shape == (*shape[:-1], UNITS)
        assert sparse.compute_output_shape(shape) == (*shape[:-1], UNITS)
        np.testing.assert_allclose(outputs, dense(x), rtol=1e-5, atol=1e-6)

    def test_unknown_axes_in_a_functional_model(self):
        inputs = keras.Input((None, INPUT_DIM))
        outputs = keras_lsh.LSHDense(UNITS, active=5)(inputs)
        assert outputs.shape == (None, None, UNITS)
        model = keras.Model(inputs, outputs)
        predicted = model.predict(random_inputs(3, 2, INPUT_DIM), verbose=0)
        assert predicted.shape == (3, 2, UNITS)

    @pytest.mark.parametrize("shape", [(0, INPUT_DIM), (0, 3, INPUT_DIM)])
    def test_empty_batch(self, shape):
        _, sparse = pair(active=5)
        for training in (False, True):
            outputs = sparse(np.zeros(shape, "float32"), training=training)
            assert outputs.shape == (*shape[:-1], UNITS)

    @pytest.mark.parametrize(
        ("policy", "dtype"),
        [
            ("mixed_bfloat16", "bfloat16"),
            ("mixed_float16", "float16"),
            ("bfloat16", "bfloat16"),
            ("float16", "float16"),
        ],
    )
    def test_dtype_policies_cast_at_the_edge(self, policy, dtype):
        _, reference = pair(activation="relu", active=5)
        _, sparse = pair(activation="relu", active=5, dtype=policy)
        assert sparse.kernel.dtype == "float32"
        x = np.round(random_inputs(6, INPUT_DIM))  # exact in half precision
        outputs = sparse(x)
        assert outputs.dtype.name == dtype
        np.testing.assert_allclose(
            tf.cast(outputs, tf.float32), reference(x), rtol=0.02, atol=0.02
        )
        model = keras.Sequential([keras.Input((INPUT_DIM,)), sparse])
        model.compile(keras_lsh.LazyAdam(1e-3), "mse")
        before = sparse.kernel.numpy()
        model.fit(x, random_inputs(6, UNITS), verbose=0)
        assert np.isfinite(sparse.kernel.numpy()).all()
        assert np.any(sparse.kernel.numpy() != before)

    @pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "float64", "float16"])
    def test_numeric_inputs_are_taken(self, dtype):
        _, sparse = pair(active=5)
        x = np.arange(3 * INPUT_DIM).reshape(3, INPUT_DIM) % 7
        np.testing.assert_array_equal(sparse(x.astype(dtype)), sparse(x.astype("f")))

    def test_masks_pass_through(self):
        inputs = keras.layers.Embedding(10, INPUT_DIM, mask_zero=True)(
            np.array([[1, 2, 0], [3, 0, 0]])
        )
        outputs = keras_lsh.LSHDense(UNITS, active=5)(inputs)
        np.testing.assert_array_equal(outputs._keras_mask, inputs._keras_mask)


class TestRegularizersAndConstraints:
    def test_penalty_of_all_neurons_equals_dense(self):
        def losses_and_gradients(layer):
            x = tf.constant(random_inputs(5, INPUT_DIM))
            weights = [w.value for w in layer.trainable_variables]
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(layer(x, training=True) ** 2) + sum(layer.losses)
            return loss, [tf.convert_to_tensor(g) for g in tape.gradient(loss, weights)]

        dense, sparse = pair(
            kernel_regularizer=keras.regularizers.L1L2(0.1, 0.2),
            bias_regularizer="l2",
            bias_initializer="ones",
            active=1.0,
        )
        our_loss, ours = losses_and_gradients(sparse)
        their_loss, theirs = losses_and_gradients(dense)
        np.testing.assert_allclose(our_loss, their_loss, rtol=1e-5)
        np.testing.assert_allclose(
            ours[0], tf.transpose(theirs[0]), rtol=1e-4, atol=1e-5
        )
        np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-4)

    def test_gradient_stays_row_sparse(self):
        _, sparse = pair(
            kernel_regularizer="l2", kernel_constraint="max_norm", active=2
        )
        x = random_inputs(3, INPUT_DIM)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(sparse(x, training=True)) + sum(sparse.losses)
        gradient = tape.gradient(loss, sparse.kernel.value)
        assert isinstance(gradient, tf.IndexedSlices)
        rows = gradient.indices.numpy()
        np.testing.assert_array_equal(rows, np.unique(sparse.active_ids(x)))

    @pytest.mark.parametrize(
        "constraint",
        [
            keras.constraints.MaxNorm(0.5, axis=0),
            keras.constraints.UnitNorm(axis=0),
            keras.constraints.MinMaxNorm(0.2, 0.4, axis=0),
            keras.constraints.NonNeg(),
        ],
    )
    def test_constraint_of_all_neurons_equals_dense(self, constraint):
        dense, sparse = pair(kernel_constraint=constraint, active=1.0)
        expected = keras.ops.convert_to_numpy(constraint(dense.kernel.value))
        x = random_inputs(2, INPUT_DIM)
        outputs = sparse(x, training=True)
        np.testing.assert_allclose(sparse.kernel.numpy().T, expected, rtol=1e-6)
        np.testing.assert_allclose(outputs, x @ expected, rtol=1e-4, atol=1e-5)

    def test_constraint_reaches_all_neurons_at_a_rebuild(self):
        _, sparse = pair(kernel_constraint="non_neg", active=1)
        sparse.kernel.assign(-tf.ones([UNITS, INPUT_DIM]))
        sparse.rebuild_tables()
        assert np.all(sparse.kernel.numpy() == 0)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("kernel_regularizer", "orthogonal_regularizer"),
            ("kernel_constraint", keras.constraints.MaxNorm(1, axis=1)),
            ("bias_constraint", keras.constraints.MaxNorm(1, axis=0)),
            ("kernel_constraint", lambda w: w),
        ],
    )
    def test_others_are_refused_with_the_way_out(self, name, value):
        with pytest.raises(ValueError, match=rf"`{name}`.*keras\.layers\.Dense"):
            keras_lsh.LSHDense(UNITS, **{name: value})


class TestHashing:
    @pytest.mark.parametrize("hashing", ["auto", "simhash", "kmeans", "random"])
    def test_by_name(self, hashing):
        layer = keras_lsh.LSHDense(UNITS, hashing=hashing)
        config = layer.get_config()
        assert config["hashing"] == hashing
        copy = keras_lsh.LSHDense.from_config(config)
        copy.build((None, 5))
        assert copy.get_config() == config

    def test_auto_asks_for_the_neurons_of_some_cells(self):
        wide = keras_lsh.LSHDense(100_000, active=10)
        assert wide.num_candidates == 196  # of 8 of 4096 cells
        assert keras_lsh.LSHDense(1000, active=50).num_candidates == 125
        assert keras_lsh.LSHDense(1000, active=700).num_candidates == 1000
        assert keras_lsh.LSHDense(1, active=1).num_candidates == 1
        kept = keras_lsh.LSHDense(100_000, active=10, oversample=2)
        assert kept.num_candidates == 20
        assert (
            keras_lsh.LSHDense(1000, active=50, hashing="simhash").num_candidates == 150
        )


class TestBadInput:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *[("units", u) for u in (0, -1, 2.5, "3", True)],
            *[("active", a) for a in (0, 0.0, -1, 1.5, UNITS + 1, "5", True, None)],
            ("active", float("nan")),
            *[("oversample", o) for o in (0.5, -1, float("inf"), "2")],
            *[("hashing", h) for h in ("best", None, 3, keras_lsh.SimHash)],
            ("selection", "best"),
            ("inference", "dense"),
        ],
    )
    def test_arguments_are_named(self, name, value):
        arguments = {"units": UNITS, name: value}
        with pytest.raises(ValueError, match=rf"`{name}`.*Received: .*{name}="):
            keras_lsh.LSHDense(**arguments)

    def test_float64_is_refused(self):
        with pytest.raises(ValueError, match="float64"):
            keras_lsh.LSHDense(UNITS, dtype="float64")

    def test_inputs(self):
        _, sparse = pair(active=5)
        with pytest.raises(ValueError, match="last|axis|shape"):
            sparse(random_inputs(2, INPUT_DIM + 1))
        with pytest.raises(ValueError, match="ndim"):
            sparse(random_inputs(INPUT_DIM))
        with pytest.raises(ValueError, match="numeric.*complex64"):
            sparse(tf.zeros([2, INPUT_DIM], tf.complex64))
        with pytest.raises(ValueError, match="dense inputs.*SparseTensor"):
            sparse(tf.sparse.from_dense(random_inputs(2, INPUT_DIM)))
        with pytest.raises(ValueError, match="must be defined"):
            keras_lsh.LSHDense(UNITS)(keras.Input((None,)))
        with pytest.raises(ValueError, match="Build it first"):
            keras_lsh.LSHDense(UNITS).rebuild_tables()

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_non_finite_inputs_give_what_dense_gives(self, value):
        dense, sparse = pair(active=5)
        x = random_inputs(4, INPUT_DIM)
        x[1, 2] = value
        outputs, expected = sparse(x, training=True).numpy(), dense(x).numpy()
        ids = sparse.active_ids(x).numpy()
        for b in range(4):
            np.testing.assert_allclose(
                outputs[b, ids[b]], expected[b, ids[b]], rtol=1e-4, atol=1e-6
            )
        assert np.isfinite(outputs[[0, 2, 3]]).all()
        assert not np.isfinite(outputs[1]).all()

    def test_non_finite_weights_come_out(self):
        dense, sparse = pair(active=1.0)
        kernel = sparse.kernel.numpy()
        kernel[3, 1], kernel[5, 0] = np.nan, np.inf
        sparse.kernel.assign(kernel)
        dense.kernel.assign(kernel.T)
        sparse.rebuild_tables()
        x = random_inputs(4, INPUT_DIM)
        np.testing.assert_allclose(sparse(x), dense(x), rtol=1e-4, atol=1e-6)
        assert np.isnan(sparse(x).numpy()[:, 3]).all()

    def test_nan_products_win_over_other_candidates(self):
        _, sparse = pair(active=2, oversample=UNITS / 2)
        kernel = sparse.kernel.numpy()
        kernel[7] = np.nan
        sparse.kernel.assign(kernel)
        sparse.rebuild_tables()
        x = random_inputs(4, INPUT_DIM)
        assert np.all(np.any(sparse.active_ids(x).numpy() == 7, axis=-1))


class TestInModels:
    def test_config_round_trip(self):
        layer = keras_lsh.LSHDense(
            UNITS,
            "relu",
            active=7,
            hashing=keras_lsh.SimHash(4, 3, 2, transform="simple_lsh", seed=5),
            oversample=2.5,
            selection="exact",
            inference="exact",
            kernel_regularizer="l2",
            kernel_constraint="non_neg",
            name="wide",
        )
        copy = keras_lsh.LSHDense.from_config(layer.get_config())
        assert copy.get_config() == layer.get_config()
        assert copy.hashing == layer.hashing

    def test_learns_in_fit_with_several_steps_per_execution(self):
        keras.utils.set_random_seed(0)
        rng = np.random.default_rng(0)
        centres = rng.normal(size=(4, INPUT_DIM)) * 2
        y = rng.integers(0, 4, 2000)
        x = (centres[y] + rng.normal(size=(2000, INPUT_DIM))).astype("float32")
        model = keras.Sequential(
            [
                keras.Input((INPUT_DIM,)),
                keras_lsh.LSHDense(200, activation="relu", active=0.1),
                keras_lsh.LSHDense(200, activation="relu", active=0.1),
                keras.layers.Dense(4, activation="softmax"),
            ]
        )
        model.compile(
            keras_lsh.LazyAdam(1e-2),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
            steps_per_execution=5,
        )
        model.fit(
            x,
            y,
            batch_size=50,
            epochs=3,
            verbose=0,
            callbacks=[keras_lsh.RebuildTables()],
        )
        assert model.evaluate(x, y, verbose=0)[1] > 0.9

    def test_same_seed_same_result(self):
        def trained():
            keras.utils.set_random_seed(0)
            model = keras.Sequential(
                [keras.Input((INPUT_DIM,)), keras_lsh.LSHDense(UNITS, active=5)]
            )
            model.compile(keras_lsh.LazyAdam(1e-2), "mse")
            x, y = random_inputs(64, INPUT_DIM), random_inputs(64, UNITS, seed=1)
            model.fit(x, y, verbose=0, epochs=2, callbacks=[keras_lsh.RebuildTables(2)])
            return model.get_weights()

        for a, b in zip(trained(), trained(), strict=True):
            np.testing.assert_array_equal(a, b)

    def test_one_layer_in_two_places(self):
        shared = keras_lsh.LSHDense(INPUT_DIM, active=1.0)
        twin = keras.layers.Dense(INPUT_DIM)

        def trained(layer, optimizer):
            inputs = keras.Input((INPUT_DIM,))
            model = keras.Model(inputs, layer(layer(inputs)))
            if layer is shared:
                twin.build((None, INPUT_DIM))
                twin.kernel.assign(tf.transpose(shared.kernel))
            model.compile(optimizer, "mse")
            x, y = random_inputs(64, INPUT_DIM), random_inputs(64, INPUT_DIM, seed=1)
            model.fit(x, y, batch_size=16, shuffle=False, verbose=0)

        trained(shared, keras_lsh.LazyAdam(1e-2))
        trained(twin, keras.optimizers.Adam(1e-2))
        np.testing.assert_allclose(
            shared.kernel.numpy().T, twin.kernel.numpy(), rtol=1e-3, atol=1e-5
        )

    def test_multiplications(self):
        _, sparse = pair(active=4, oversample=3, hashing=keras_lsh.SimHash(4, 2, 3))
        assert sparse.multiplications() == {
            "selection": INPUT_DIM * 8,
            "products": 12 * INPUT_DIM,
            "total": INPUT_DIM * 20,
            "rebuild": UNITS * INPUT_DIM * 8,
            "dense": UNITS * INPUT_DIM,
        }

    def test_summary_prints(self, capsys):
        model = keras.Sequential([keras.Input((INPUT_DIM,)), keras_lsh.LSHDense(UNITS)])
        model.summary()
        assert "LSHDense" in capsys.readouterr().out
