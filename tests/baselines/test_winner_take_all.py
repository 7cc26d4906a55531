"""WinnerTakeAll against the papers' definitions, in NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lsh.baselines import WinnerTakeAll

BATCH, UNITS = 20, 30


def random_inputs(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def winners(outputs, count):
    """The `count` largest of each row stay; ties go to the first."""
    result = np.zeros_like(outputs)
    for row, kept in zip(outputs, result, strict=True):
        ids = sorted(range(len(row)), key=lambda i: (-row[i], i))[:count]
        kept[ids] = row[ids]
    return result


def plain(x, sparsity, count):
    outputs = np.maximum(x, 0)
    if sparsity == "lifetime":
        return winners(outputs.T, count).T
    return winners(outputs, count)


class TestDefinitions:
    @pytest.mark.parametrize(
        ("sparsity", "active", "count"),
        [
            ("lifetime", 0.05, 1),
            ("lifetime", 0.25, 5),
            ("lifetime", 0.01, 1),
            ("lifetime", 7, 7),
            ("lifetime", 1.0, BATCH),
            ("lifetime", 1000, BATCH),
            ("population", 0.1, 3),
            ("population", 0.001, 1),
            ("population", 8, 8),
            ("population", 1.0, UNITS),
        ],
    )
    def test_training(self, sparsity, active, count):
        x = random_inputs(BATCH, UNITS)
        outputs = WinnerTakeAll(active, sparsity)(x, training=True)
        np.testing.assert_array_equal(outputs, plain(x, sparsity, count))

    @pytest.mark.parametrize("sparsity", ["lifetime", "population"])
    def test_ties_go_to_the_first(self, sparsity):
        x = np.round(random_inputs(BATCH, UNITS))
        outputs = WinnerTakeAll(4, sparsity)(x, training=True)
        np.testing.assert_array_equal(outputs, plain(x, sparsity, 4))

    @pytest.mark.parametrize("sparsity", ["lifetime", "population"])
    def test_inference(self, sparsity):
        x = random_inputs(BATCH, UNITS)
        np.testing.assert_array_equal(WinnerTakeAll(0.1, sparsity)(x), np.maximum(x, 0))
        layer = WinnerTakeAll(0.1, sparsity, inference="sparse")
        np.testing.assert_array_equal(layer(x), layer(x, training=True))

    def test_activation_comes_first(self):
        x = random_inputs(BATCH, UNITS)
        outputs = WinnerTakeAll(3, "population", "tanh")(-x, training=True)
        expected = winners(np.tanh(-x), 3)
        np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)
        outputs = WinnerTakeAll(3, "population", lambda x: -x)(x, training=True)
        np.testing.assert_array_equal(outputs, winners(-x, 3))

    @pytest.mark.parametrize("sparsity", ["lifetime", "population"])
    def test_gradient_passes_through_winners_only(self, sparsity):
        x = tf.constant(random_inputs(BATCH, UNITS))
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = WinnerTakeAll(0.1, sparsity)(x, training=True)
            loss = tf.reduce_sum(tf.sin(outputs))
        expected = np.cos(outputs) * (outputs.numpy() != 0)
        np.testing.assert_allclose(tape.gradient(loss, x), expected, rtol=1e-6)

    def test_lifetime_counts_all_vectors_of_the_batch(self):
        x = random_inputs(4, 5, UNITS)
        outputs = WinnerTakeAll(0.25)(x, training=True)
        expected = plain(x.reshape(20, UNITS), "lifetime", 5).reshape(x.shape)
        np.testing.assert_array_equal(outputs, expected)

    @pytest.mark.parametrize("active", [0.25, 3, 1.0, 1000])
    @pytest.mark.parametrize("rank", [3, 4])
    def test_masked_samples_neither_count_nor_win(self, active, rank):
        x = random_inputs(4, 5, *(2,) * (rank - 3), UNITS)
        mask = np.random.default_rng(1).random((4, 5)) < 0.6
        x[~mask] += 10
        outputs = WinnerTakeAll(active)(x, training=True, mask=mask).numpy()
        alone = WinnerTakeAll(active)(x[mask], training=True)
        np.testing.assert_array_equal(outputs[mask], alone)
        assert np.all(outputs[~mask] == 0)
        outputs = WinnerTakeAll(active)(x, training=True, mask=np.zeros((4, 5), bool))
        assert np.all(outputs == 0)


class TestShapesAndTypes:
    @pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (2, 1, 3, 4), (0, 4)])
    @pytest.mark.parametrize("sparsity", ["lifetime", "population"])
    @pytest.mark.parametrize("training", [False, True])
    def test_any_rank(self, shape, sparsity, training):
        layer = WinnerTakeAll(0.5, sparsity)
        assert layer(random_inputs(*shape), training=training).shape == shape
        assert layer.compute_output_shape(shape) == shape

    @pytest.mark.parametrize("sparsity", ["lifetime", "population"])
    def test_unknown_axes_in_a_functional_model(self, sparsity):
        inputs = keras.Input((None, UNITS))
        layer = WinnerTakeAll(0.2, sparsity, inference="sparse")
        model = keras.Model(inputs, layer(inputs))
        assert model.output_shape == (None, None, UNITS)
        x = random_inputs(4, 3, UNITS)
        np.testing.assert_array_equal(model.predict(x, verbose=0), layer(x))

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
    @pytest.mark.parametrize("sparsity", ["lifetime", "population"])
    def test_dtype_policies(self, dtype, sparsity):
        layer = WinnerTakeAll(3, sparsity, dtype=dtype)
        x = np.round(random_inputs(BATCH, UNITS))
        outputs = layer(x, training=True)
        assert outputs.dtype.name == dtype
        assert layer(keras.Input((UNITS,))).dtype == dtype
        np.testing.assert_array_equal(
            tf.cast(outputs, "float32"), plain(x, sparsity, 3)
        )

    @pytest.mark.parametrize("sparsity", ["lifetime", "population"])
    def test_nan_wins(self, sparsity):
        x = random_inputs(BATCH, UNITS)
        x[5, 7] = np.nan
        outputs = WinnerTakeAll(1, sparsity)(x, training=True).numpy()
        assert np.isnan(outputs[5, 7])
        assert np.isnan(outputs).sum() == 1

    def test_masks_pass_through(self):
        inputs = keras.layers.Embedding(10, UNITS, mask_zero=True)(
            np.array([[1, 2, 0], [3, 0, 0]])
        )
        outputs = WinnerTakeAll(2, activation=None)(inputs, training=True)
        np.testing.assert_array_equal(outputs._keras_mask, inputs._keras_mask)
        assert np.all(outputs.numpy()[~inputs._keras_mask.numpy()] == 0)

    @pytest.mark.parametrize("masked", [False, True])
    def test_compiles_with_xla(self, masked):
        layer, x = WinnerTakeAll(0.3), random_inputs(4, 5, UNITS)
        mask = np.arange(20).reshape(4, 5) % 3 > 0 if masked else None
        compiled = tf.function(
            lambda x: layer(x, training=True, mask=mask), jit_compile=True
        )
        np.testing.assert_array_equal(compiled(x), layer(x, training=True, mask=mask))


class TestInModels:
    def test_learns_and_saves(self, tmp_path):
        keras.utils.set_random_seed(0)
        rng = np.random.default_rng(0)
        centres = rng.normal(size=(4, 6)) * 2
        y = rng.integers(0, 4, 2000)
        x = (centres[y] + rng.normal(size=(2000, 6))).astype("float32")
        model = keras.Sequential(
            [
                keras.Input((6,)),
                keras.layers.Dense(100),
                WinnerTakeAll(0.1, "population", inference="sparse"),
                keras.layers.Dense(100),
                WinnerTakeAll(0.1, "lifetime"),
                keras.layers.Dense(4, activation="softmax"),
            ]
        )
        model.compile(
            keras.optimizers.Adam(1e-2),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )
        # The last batch of an epoch is smaller.
        model.fit(x, y, batch_size=64, epochs=3, verbose=0)
        assert model.evaluate(x, y, verbose=0)[1] > 0.85
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        np.testing.assert_array_equal(
            loaded.predict(x[:9], verbose=0), model.predict(x[:9], verbose=0)
        )

    @pytest.mark.parametrize("active", [0.2, np.float32(0.5), 3, np.int64(4)])
    def test_config_round_trip(self, active):
        layer = WinnerTakeAll(active, "population", "tanh", inference="sparse")
        copy = keras.saving.deserialize_keras_object(
            keras.saving.serialize_keras_object(layer)
        )
        assert copy.get_config() == layer.get_config()
        assert isinstance(copy, WinnerTakeAll)
        assert type(copy.active) in (int, float)


class TestBadInput:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *[("active", a) for a in (0, 0.0, -1, 1.5, "5", True, None)],
            ("active", float("nan")),
            *[("sparsity", s) for s in ("spatial", None, ["lifetime"])],
            *[("inference", i) for i in ("dense", True)],
        ],
    )
    def test_arguments_are_named(self, name, value):
        with pytest.raises(ValueError, match=rf"`{name}`.*Received: .*{name}="):
            WinnerTakeAll(**{name: value})

    def test_inputs(self):
        with pytest.raises(ValueError, match=f"`active`.*units={UNITS}.*active=31"):
            WinnerTakeAll(UNITS + 1, "population")(random_inputs(2, UNITS))
        with pytest.raises(ValueError, match="ndim"):
            WinnerTakeAll()(random_inputs(UNITS))
        with pytest.raises(ValueError, match="WinnerTakeAll must be defined"):
            WinnerTakeAll()(keras.Input((None,)))
