"""AdaptiveDropout against the formulas of Ba & Frey, in NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lsh.baselines import AdaptiveDropout

INPUT_DIM, UNITS = 6, 40


def random_inputs(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def built(units=UNITS, input_dim=INPUT_DIM, **arguments):
    arguments = {
        "activation": "relu",
        "kernel_initializer": keras.initializers.GlorotUniform(1),
        "bias_initializer": keras.initializers.RandomNormal(stddev=0.5, seed=2),
        "seed": 3,
    } | arguments
    layer = AdaptiveDropout(units, **arguments)
    layer.build((None, input_dim))
    return layer


def plain(layer, x):
    """ReLU outputs and keep probabilities, in float64."""
    products = np.asarray(x, "float64") @ layer.kernel.numpy() + layer.bias.numpy()
    beta = layer.beta or 0.0
    if layer.calibrated_beta is not None:
        beta = float(layer.calibrated_beta.numpy())
    return np.maximum(products, 0), 1 / (1 + np.exp(-(layer.alpha * products + beta)))


class TestFormulas:
    @pytest.mark.parametrize(("alpha", "beta"), [(1, None), (2.5, -1), (-1, 0.5)])
    def test_inference_is_the_expectation(self, alpha, beta):
        layer = built(alpha=alpha, beta=beta)
        x = random_inputs(7, INPUT_DIM)
        outputs, keep = plain(layer, x)
        np.testing.assert_allclose(layer(x), keep * outputs, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(layer.keep_probabilities(x), keep, rtol=1e-5)

    def test_training_keeps_or_drops(self):
        layer = built(activation=None)
        x = random_inputs(50, INPUT_DIM)
        products = x @ layer.kernel.numpy() + layer.bias.numpy()
        sampled = layer(x, training=True).numpy()
        kept = sampled != 0
        np.testing.assert_allclose(sampled[kept], products[kept], rtol=1e-5, atol=1e-6)
        assert 0.3 < kept.mean() < 0.7

    def test_frequencies_are_the_probabilities(self):
        layer = built(activation=None, alpha=2.0, beta=-1.0)
        x = random_inputs(1, INPUT_DIM)
        draws = 4000
        kept = (layer(np.repeat(x, draws, 0), training=True) != 0).numpy().mean(0)
        _, keep = plain(layer, x)
        deviation = np.sqrt(keep[0] * (1 - keep[0]) / draws)
        assert np.all(np.abs(kept - keep[0]) < 5 * deviation)

    def test_draws_are_independent(self):
        layer = built(activation=None, alpha=0.0)
        x = random_inputs(1, INPUT_DIM)
        kept = (layer(np.repeat(x, 4000, 0), training=True) != 0).numpy()
        correlations = np.corrcoef(kept.T) - np.eye(UNITS)
        assert np.abs(correlations).max() < 5 / np.sqrt(4000)

    @pytest.mark.parametrize("beta", [0.0, -2.0])
    def test_alpha_zero_is_dropout(self, beta):
        layer = built(alpha=0.0, beta=beta)
        x = random_inputs(5, INPUT_DIM)
        outputs, _ = plain(layer, x)
        expected = outputs / (1 + np.exp(-beta))
        np.testing.assert_allclose(layer(x), expected, rtol=1e-5, atol=1e-6)

    def test_gradient_passes_through_kept_units_only(self):
        layer = built()
        x = tf.constant(random_inputs(9, INPUT_DIM))
        with tf.GradientTape() as tape:
            tape.watch(x)
            sampled = layer(x, training=True)
            loss = tf.reduce_sum(tf.sin(sampled))
        weights = [layer.kernel.value, layer.bias.value]
        of_x, of_kernel, of_bias = tape.gradient(loss, [x, *weights])
        upstream = np.cos(sampled) * (sampled.numpy() > 0)
        np.testing.assert_allclose(
            of_x, upstream @ layer.kernel.numpy().T, rtol=1e-4, atol=1e-5
        )
        np.testing.assert_allclose(
            of_kernel, x.numpy().T @ upstream, rtol=1e-4, atol=1e-5
        )
        np.testing.assert_allclose(of_bias, upstream.sum(0), rtol=1e-4, atol=1e-5)


class TestCalibration:
    @pytest.mark.parametrize("active", [0.05, 4, 0.5, 0.9])
    @pytest.mark.parametrize("alpha", [1.0, 4.0, 0.0])
    def test_mean_activity_becomes_what_was_asked_for(self, active, alpha):
        layer = built(active=active, alpha=alpha)
        x = tf.constant(random_inputs(200, INPUT_DIM))
        step = tf.function(lambda: layer(x, training=True))
        for _ in range(150):
            step()
        wanted = active / UNITS if isinstance(active, int) else active
        _, keep = plain(layer, x)
        assert keep.mean() == pytest.approx(wanted, rel=1e-2)
        np.testing.assert_allclose(layer.keep_probabilities(x), keep, rtol=1e-4)

    def test_one_step(self):
        layer = built(active=0.1)
        assert float(layer.calibrated_beta.numpy()) == pytest.approx(np.log(1 / 9))
        x = random_inputs(20, INPUT_DIM)
        mean = plain(layer, x)[1].mean()
        layer(x, training=True)
        step = 0.1 * (np.log(1 / 9) - np.log(mean / (1 - mean)))
        assert float(layer.calibrated_beta.numpy()) == pytest.approx(
            np.log(1 / 9) + step, rel=1e-4
        )

    def test_beta_is_where_it_starts(self):
        assert float(built(active=0.1, beta=2).calibrated_beta.numpy()) == 2

    @pytest.mark.parametrize("rank", [3, 4])
    def test_masked_samples_do_not_count(self, rank):
        x = random_inputs(4, 3, *(2,) * (rank - 3), INPUT_DIM)
        mask = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 0, 0]], bool)
        masked, unmasked = built(active=0.1), built(active=0.1)
        x[~mask] = 1e9
        masked(x, training=True, mask=mask)
        unmasked(x[mask], training=True)
        assert float(masked.calibrated_beta.numpy()) == pytest.approx(
            float(unmasked.calibrated_beta.numpy()), rel=1e-5
        )

    def test_stands_still_outside_training(self):
        layer = built(active=0.1)
        start = layer.calibrated_beta.numpy()
        layer(random_inputs(5, INPUT_DIM))
        layer(random_inputs(0, INPUT_DIM), training=True)
        layer(np.full((2, INPUT_DIM), np.nan, "float32"), training=True)
        layer(
            random_inputs(2, 3, INPUT_DIM), training=True, mask=np.zeros((2, 3), bool)
        )
        layer.trainable = False
        layer(random_inputs(5, INPUT_DIM), training=True)
        assert layer.calibrated_beta.numpy() == start

    def test_without_active_there_is_none(self):
        assert built().calibrated_beta is None
        assert len(built().weights) == 2


class TestShapesAndTypes:
    @pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (2, 1, 3, 4), (0, 4)])
    @pytest.mark.parametrize("training", [False, True])
    def test_any_rank(self, shape, training):
        layer = built(input_dim=4, active=0.2)
        outputs = layer(random_inputs(*shape), training=training)
        assert outputs.shape == (*shape[:-1], UNITS)
        assert layer.compute_output_shape(shape) == (*shape[:-1], UNITS)

    @pytest.mark.parametrize(
        ("policy", "dtype"),
        [
            ("mixed_bfloat16", "bfloat16"),
            ("mixed_float16", "float16"),
            ("float16", "float16"),
            ("float64", "float64"),
        ],
    )
    def test_dtype_policies(self, policy, dtype):
        layer = built(dtype=policy, active=0.2)
        x = random_inputs(8, INPUT_DIM)
        outputs, keep = plain(layer, x)
        inferred = layer(x)
        assert inferred.dtype.name == dtype
        np.testing.assert_allclose(
            tf.cast(inferred, "float64"), keep * outputs, rtol=0.03, atol=0.03
        )
        assert layer(x, training=True).dtype.name == dtype
        assert layer.calibrated_beta.dtype == "float32"

    @pytest.mark.parametrize("training", [False, True])
    def test_nan_comes_out(self, training):
        x = random_inputs(3, INPUT_DIM)
        x[1, 0] = np.nan
        outputs = built(beta=-20.0)(x, training=training).numpy()
        assert np.isnan(outputs[1]).all()
        assert np.isfinite(outputs[[0, 2]]).all()

    def test_masks_pass_through(self):
        inputs = keras.layers.Embedding(10, INPUT_DIM, mask_zero=True)(
            np.array([[1, 2, 0], [3, 0, 0]])
        )
        outputs = built(active=0.2)(inputs, training=True)
        np.testing.assert_array_equal(outputs._keras_mask, inputs._keras_mask)


class TestInModels:
    def test_learns_at_the_wanted_activity(self, tmp_path):
        keras.utils.set_random_seed(0)
        rng = np.random.default_rng(0)
        centres = rng.normal(size=(4, INPUT_DIM)) * 2
        y = rng.integers(0, 4, 2000)
        x = (centres[y] + rng.normal(size=(2000, INPUT_DIM))).astype("float32")
        model = keras.Sequential(
            [
                keras.Input((INPUT_DIM,)),
                AdaptiveDropout(100, "relu", active=0.1),
                keras.layers.Dense(4, activation="softmax"),
            ]
        )
        model.compile(
            keras.optimizers.Adam(1e-2),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
            steps_per_execution=5,
        )
        model.fit(x, y, batch_size=50, epochs=3, verbose=0)
        assert model.evaluate(x, y, verbose=0)[1] > 0.85
        keep = model.layers[0].keep_probabilities(x).numpy()
        assert keep.mean() == pytest.approx(0.1, rel=0.1)

        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        np.testing.assert_array_equal(
            loaded.predict(x[:9], verbose=0), model.predict(x[:9], verbose=0)
        )

    def test_same_seed_same_masks(self):
        x = random_inputs(9, INPUT_DIM)
        first, second = (built()(x, training=True) for _ in range(2))
        np.testing.assert_array_equal(first, second)
        layer = built()
        assert np.any(layer(x, training=True) != layer(x, training=True))

    def test_config_round_trip(self):
        layer = AdaptiveDropout(
            UNITS,
            "relu",
            alpha=np.float32(2),
            beta=1,
            active=np.int64(3),
            seed=5,
            kernel_regularizer="l2",
            activity_regularizer="l1",
            bias_constraint="non_neg",
            name="standout",
        )
        copy = keras.saving.deserialize_keras_object(
            keras.saving.serialize_keras_object(layer)
        )
        assert copy.get_config() == layer.get_config()
        assert isinstance(copy, AdaptiveDropout)
        assert (copy.alpha, copy.beta, copy.active, copy.seed) == (2, 1, 3, 5)


class TestBadInput:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *[("units", u) for u in (0, -1, 2.5, "3", True)],
            *[("alpha", a) for a in (None, "1", float("nan"), float("inf"), True)],
            *[("beta", b) for b in ("1", float("nan"), -float("inf"))],
            *[("active", a) for a in (0, 0.0, 1.0, -1, UNITS, "5", True)],
            ("active", float("nan")),
            ("seed", "5"),
        ],
    )
    def test_arguments_are_named(self, name, value):
        with pytest.raises(ValueError, match=rf"`{name}`.*Received: .*{name}="):
            AdaptiveDropout(**{"units": UNITS, name: value})

    def test_inputs(self):
        with pytest.raises(ValueError, match="last|axis|shape"):
            built()(random_inputs(2, INPUT_DIM + 1))
        with pytest.raises(ValueError, match="ndim"):
            built()(random_inputs(INPUT_DIM))
        with pytest.raises(ValueError, match="AdaptiveDropout must be defined"):
            AdaptiveDropout(UNITS)(keras.Input((None,)))
