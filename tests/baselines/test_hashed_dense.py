"""HashedDense against the formulas of HashedNets, in plain Python integers."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lsh.baselines import HashedDense

INPUT_DIM, UNITS = 24, 10


def random_inputs(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def built(units=UNITS, input_dim=INPUT_DIM, **arguments):
    arguments = {
        "kernel_initializer": keras.initializers.GlorotUniform(1),
        "bias_initializer": keras.initializers.RandomNormal(seed=2),
    } | arguments
    layer = HashedDense(units, **arguments)
    layer.build((None, input_dim))
    return layer


def mixed(h):
    """The finalizer of MurmurHash3_x86_32."""
    h ^= h >> 16
    h = h * 0x85EBCA6B % 2**32
    h ^= h >> 13
    h = h * 0xC2B2AE35 % 2**32
    return h ^ h >> 16


def hashed(j, i, seed):
    return mixed((mixed(j ^ mixed(seed)) + i * 0x9E3779B9) % 2**32)


def bucket(j, i, layer):
    return hashed(j, i, 2 * layer.seed) % len(layer.shared_weights.numpy())


def sign(j, i, layer):
    return -1 if hashed(j, i, 2 * layer.seed + 1) >= 2**31 else 1


def connections(input_dim=INPUT_DIM, units=UNITS):
    return [(j, i) for j in range(input_dim) for i in range(units)]


class TestFormulas:
    @pytest.mark.parametrize("seed", [0, 1, 2**31 - 1])
    @pytest.mark.parametrize("compression", [1 / 8, 1 / 64, 1, 1e-9])
    def test_kernel(self, seed, compression):
        layer = built(seed=seed, compression=compression)
        weights, kernel = layer.shared_weights.numpy(), layer.kernel.numpy()
        assert kernel.shape == (INPUT_DIM, UNITS)
        for j, i in connections():
            assert kernel[j, i] == sign(j, i, layer) * weights[bucket(j, i, layer)]

    @pytest.mark.parametrize("use_bias", [True, False])
    def test_outputs(self, use_bias):
        layer = built(activation="tanh", use_bias=use_bias)
        x = random_inputs(5, INPUT_DIM)
        weights = layer.shared_weights.numpy()
        expected = np.zeros((5, UNITS))
        for i in range(UNITS):
            for j in range(INPUT_DIM):
                shared = weights[bucket(j, i, layer)]
                expected[:, i] += sign(j, i, layer) * shared * x[:, j]
        if use_bias:
            expected += layer.bias.numpy()
        np.testing.assert_allclose(layer(x), np.tanh(expected), rtol=1e-4, atol=1e-6)

    def test_gradient_sums_over_shared_positions(self):
        layer = built(compression=1 / 16)
        x = tf.constant(random_inputs(7, INPUT_DIM))
        with tf.GradientTape() as tape:
            tape.watch(x)
            outputs = layer(x, training=True)
            loss = tf.reduce_sum(tf.sin(outputs))
        weights = [layer.shared_weights.value, layer.bias.value]
        of_x, of_weights, of_bias = tape.gradient(loss, [x, *weights])
        upstream = np.cos(outputs)
        of_kernel = x.numpy().T @ upstream
        expected = np.zeros(layer.shared_weights.shape)
        for j, i in connections():
            expected[bucket(j, i, layer)] += sign(j, i, layer) * of_kernel[j, i]
        assert not isinstance(of_weights, tf.IndexedSlices)
        np.testing.assert_allclose(of_weights, expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(of_x, upstream @ layer.kernel.numpy().T, rtol=1e-4)
        np.testing.assert_allclose(of_bias, upstream.sum(0), rtol=1e-4, atol=1e-5)

    def test_adam_moves_each_weight_once(self):
        layer = built(compression=1 / 16)
        model = keras.Sequential([keras.Input((INPUT_DIM,)), layer])
        model.compile(keras.optimizers.Adam(1e-2), "mse")
        before = layer.shared_weights.numpy()
        model.fit(random_inputs(8, INPUT_DIM), random_inputs(8, UNITS), verbose=0)
        moved = np.abs(layer.shared_weights.numpy() - before)
        np.testing.assert_allclose(moved, 1e-2, rtol=1e-3)  # Adam's first step

    def test_second_derivative(self):
        layer = built()
        x = tf.constant(random_inputs(3, INPUT_DIM))
        weights = layer.shared_weights.value
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                loss = tf.reduce_sum(layer(x) ** 3)
            gradient = inner.gradient(loss, weights)
        second = outer.gradient(gradient, weights)
        step = 1e-3 * np.ones(weights.shape, "float32")
        slopes = []
        for direction in (step, -step):
            layer.shared_weights.assign_add(direction)
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(layer(x) ** 3)
            slopes.append(tape.gradient(loss, weights).numpy())
            layer.shared_weights.assign_sub(direction)
        np.testing.assert_allclose(
            second, (slopes[0] - slopes[1]) / 2e-3, rtol=0.02, atol=0.1
        )


@pytest.fixture(scope="module")
def layer():
    """A layer of usual size whose kernel shows the buckets, from 1, and the signs."""
    layer = built(300, 784, compression=1 / 8)
    layer.shared_weights.assign(np.arange(1.0, 29401.0))
    return layer


class TestHashes:
    def test_buckets_are_even(self, layer):
        loads = np.bincount(np.abs(layer.kernel.numpy()).astype(int).ravel() - 1)
        expected = 784 * 300 / 29400
        chi_squared = np.sum((loads - expected) ** 2) / expected
        assert len(loads) == 29400
        assert abs(chi_squared - 29399) < 5 * math.sqrt(2 * 29399)

    def test_signs_are_even_and_independent(self, layer):
        signs = np.sign(layer.kernel.numpy())
        limit = 5 / math.sqrt(signs.size)
        assert abs(signs.mean()) < limit
        for other in (signs[1:, :] * signs[:-1, :], signs[:, 1:] * signs[:, :-1]):
            assert abs(other.mean()) < limit
        assert abs(np.mean(signs * (layer.kernel.numpy() % 2 * 2 - 1))) < limit
        gram = signs @ signs.T / 300 - np.eye(784)
        assert np.abs(gram).max() < 6 / math.sqrt(300)

    def test_another_seed_is_another_kernel(self, layer):
        other = built(300, 784, compression=1 / 8, seed=1)
        other.shared_weights.assign(layer.shared_weights)
        assert np.mean(other.kernel == layer.kernel) < 0.001

    def test_variance_is_that_of_dense(self):
        layer, dense = built(300, 784), keras.layers.Dense(300)
        dense.build((None, 784))
        assert np.std(layer.kernel) == pytest.approx(np.std(dense.kernel), rel=0.02)

    def test_number_of_weights(self):
        layer = built(compression=0.01)
        assert layer.shared_weights.shape == (3,)  # 2.4, rounded up
        assert layer.count_params() == 3 + UNITS
        assert built(compression=1).shared_weights.shape == (INPUT_DIM * UNITS,)


class TestShapesAndTypes:
    @pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (2, 1, 3, 4), (0, 4)])
    def test_any_rank(self, shape):
        layer = built(input_dim=4)
        assert layer(random_inputs(*shape)).shape == (*shape[:-1], UNITS)
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
        layer = built(dtype=policy)
        x = random_inputs(8, INPUT_DIM)
        with tf.GradientTape() as tape:
            outputs = layer(x)
        assert outputs.dtype.name == dtype
        np.testing.assert_allclose(
            tf.cast(outputs, "float64"),
            x @ layer.kernel.numpy() + layer.bias.numpy(),
            rtol=0.03,
            atol=0.03,
        )
        gradient = tape.gradient(outputs, layer.shared_weights.value)
        assert gradient.dtype.name == layer.variable_dtype

    def test_masks_pass_through(self):
        inputs = keras.layers.Embedding(10, INPUT_DIM, mask_zero=True)(
            np.array([[1, 2, 0], [3, 0, 0]])
        )
        outputs = built()(inputs)
        np.testing.assert_array_equal(outputs._keras_mask, inputs._keras_mask)

    def test_regularizer_counts_a_shared_weight_once(self):
        layer = built(kernel_regularizer=keras.regularizers.L2(0.5))
        layer(random_inputs(2, INPUT_DIM))
        expected = 0.5 * np.sum(layer.shared_weights.numpy() ** 2)
        assert float(layer.losses[0]) == pytest.approx(expected, rel=1e-5)


class TestInModels:
    def test_learns_saves_and_exports(self, tmp_path):
        keras.utils.set_random_seed(0)
        rng = np.random.default_rng(0)
        centres = rng.normal(size=(4, 6)) * 2
        y = rng.integers(0, 4, 2000)
        x = (centres[y] + rng.normal(size=(2000, 6))).astype("float32")
        model = keras.Sequential(
            [
                keras.Input((6,)),
                HashedDense(100, "relu", compression=1 / 8, seed=4),
                keras.layers.Dense(4, activation="softmax"),
            ]
        )
        model.compile(
            keras.optimizers.Adam(1e-2),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )
        model.fit(x, y, batch_size=50, epochs=2, verbose=0)
        assert model.evaluate(x, y, verbose=0)[1] > 0.9
        expected = model.predict(x[:9], verbose=0)
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        np.testing.assert_array_equal(loaded.predict(x[:9], verbose=0), expected)
        model.export(tmp_path / "exported", verbose=False)
        exported = tf.saved_model.load(tmp_path / "exported")
        np.testing.assert_allclose(exported.serve(x[:9]), expected, rtol=1e-5)

    def test_config_round_trip(self):
        layer = HashedDense(
            UNITS,
            "relu",
            compression=np.float32(0.25),
            seed=np.int64(5),
            kernel_regularizer="l2",
            kernel_constraint="non_neg",
            activity_regularizer="l1",
            name="small",
        )
        copy = keras.saving.deserialize_keras_object(
            keras.saving.serialize_keras_object(layer)
        )
        assert copy.get_config() == layer.get_config()
        assert isinstance(copy, HashedDense)
        assert (copy.compression, copy.seed) == (0.25, 5)


class TestBadInput:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *[("units", u) for u in (0, -1, 2.5, "3", True)],
            *[("compression", c) for c in (0, 0.0, -1, 1.5, 2, "1", None, True)],
            ("compression", float("nan")),
            *[("seed", s) for s in (-1, 2**31, 0.5, None, True)],
        ],
    )
    def test_arguments_are_named(self, name, value):
        with pytest.raises(ValueError, match=rf"`{name}`.*Received: .*{name}="):
            HashedDense(**{"units": UNITS, name: value})

    def test_inputs(self):
        with pytest.raises(ValueError, match="last|axis|shape"):
            built()(random_inputs(2, INPUT_DIM + 1))
        with pytest.raises(ValueError, match="ndim"):
            built()(random_inputs(INPUT_DIM))
        with pytest.raises(ValueError, match="HashedDense must be defined"):
            HashedDense(UNITS)(keras.Input((None,)))
        with pytest.raises(ValueError, match="Build it first"):
            _ = HashedDense(UNITS).kernel
