"""LSHDense through everything that keeps, copies or restores a layer."""

import copy
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_lsh
from keras_lsh import LSHDense, SimHash, ops

UNITS, INPUT_DIM = 64, 16
HASHING = SimHash(bits=5, tables=4, probes=3, transform="simple_lsh", seed=3)


def data(samples=64):
    x = np.random.default_rng(0).normal(size=(samples, INPUT_DIM)).astype("float32")
    return x, 2 * x[:, :4]


def make_model(units=UNITS, hashing=HASHING):
    return keras.Sequential(
        [
            keras.Input((INPUT_DIM,)),
            LSHDense(units, "relu", active=0.25, hashing=hashing, name="lsh"),
            keras.layers.Dense(4, name="last"),
        ]
    )


def fit(model, epochs=1):
    history = model.fit(
        *data(),
        batch_size=16,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[keras_lsh.RebuildTables(every=2)],
    )
    return history.history["loss"]


@pytest.fixture
def model():
    """Trained, so that tables, statistics and weights are not the initial ones."""
    keras.utils.set_random_seed(0)
    model = make_model()
    model.compile(keras_lsh.LazyAdam(1e-2), "mse")
    fit(model)
    return model


def assert_same_weights(one, other):
    for ours, theirs in zip(one.weights, other.weights, strict=True):
        assert ours.dtype == theirs.dtype, ours.name
        np.testing.assert_array_equal(ours, theirs, err_msg=ours.name)


OTHER_PROCESS = """
import sys, json
import numpy as np
import keras
import keras_lsh

folder = sys.argv[1]
case = np.load(folder + "/case.npz")
model = keras.models.load_model(folder + "/model.keras")
layer = model.get_layer("lsh")
assert type(layer) is keras_lsh.LSHDense
assert type(model.optimizer) is keras_lsh.LazyAdam
np.testing.assert_array_equal(model.predict_on_batch(case["x"]), case["expected"])
assert layer.rebuild_tables()["codes_changed"] == 0
history = model.fit(case["x"], case["y"], batch_size=16, epochs=2, shuffle=False,
                    verbose=0, callbacks=[keras_lsh.RebuildTables(every=2)])
np.testing.assert_allclose(history.history["loss"], case["losses"], rtol=1e-6)
"""


class TestKerasFile:
    def test_other_process_goes_on_training(self, model, tmp_path, run_python):
        """With the model comes the optimizer, and with it the steps of each row."""
        x, y = data()
        model.save(tmp_path / "model.keras")
        expected = model.predict_on_batch(x)
        losses = fit(model, epochs=2)
        np.savez(tmp_path / "case.npz", x=x, y=y, expected=expected, losses=losses)
        run_python(OTHER_PROCESS, tmp_path)

    @pytest.mark.parametrize("selection", ["exact", "random"])
    def test_other_selections(self, selection, tmp_path):
        layer = LSHDense(UNITS, active=4, selection=selection, inference="exact")
        model = keras.Sequential([keras.Input((None, INPUT_DIM)), layer])
        model.save(tmp_path / "model.keras")
        again = keras.models.load_model(tmp_path / "model.keras")
        assert again.layers[0].get_config() == layer.get_config()
        assert_same_weights(again, model)

    def test_dtype_policy(self, tmp_path):
        layer = LSHDense(UNITS, dtype="mixed_bfloat16")
        model = keras.Sequential([keras.Input((INPUT_DIM,)), layer])
        model.save(tmp_path / "model.keras")
        again = keras.models.load_model(tmp_path / "model.keras")
        assert again.layers[0].compute_dtype == "bfloat16"
        assert_same_weights(again, model)


class TestWeightsFile:
    def test_round_trip(self, model, tmp_path):
        x, _ = data()
        model.save_weights(tmp_path / "model.weights.h5")
        keras.utils.set_random_seed(1)
        other = make_model()
        other.load_weights(tmp_path / "model.weights.h5")
        assert_same_weights(other, model)
        np.testing.assert_array_equal(
            other.predict_on_batch(x), model.predict_on_batch(x)
        )

    @pytest.mark.parametrize(
        ("other", "message"),
        [
            (
                lambda: make_model(units=UNITS + 1),
                r"shape=\(65, 16\).*shape=\(64, 16\)",
            ),
            (
                lambda: make_model(hashing=SimHash(4, 4, 3, transform="simple_lsh")),
                r"shape=\(18, 16\).*shape=\(18, 20\).*directions",
            ),
            (
                lambda: make_model(hashing=SimHash(5, 4, 3)),
                r"'lsh' expected 9 variables, but received 10",
            ),
        ],
        ids=["units", "bits", "transform"],
    )
    def test_of_another_shape(self, model, other, message, tmp_path):
        model.save_weights(tmp_path / "model.weights.h5")
        with pytest.raises(ValueError, match=f"(?s){message}"):
            other().load_weights(tmp_path / "model.weights.h5")

    def test_of_a_dense_layer(self, tmp_path):
        dense = keras.Sequential([keras.Input((INPUT_DIM,)), keras.layers.Dense(UNITS)])
        dense.save_weights(tmp_path / "dense.weights.h5")
        model = keras.Sequential([keras.Input((INPUT_DIM,)), LSHDense(UNITS)])
        with pytest.raises(ValueError, match=r"expected \d+ variables, but received"):
            model.load_weights(tmp_path / "dense.weights.h5")


class TestCopies:
    @pytest.mark.parametrize(
        "make_copy",
        [copy.copy, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))],
        ids=["copy", "deepcopy", "pickle"],
    )
    def test_layer(self, model, make_copy):
        layer = model.get_layer("lsh")
        x, _ = data()
        other = make_copy(layer)
        assert other.get_config() == layer.get_config()
        assert_same_weights(other, layer)
        np.testing.assert_array_equal(other(x), layer(x))
        before = np.array(layer.kernel)
        other.kernel.assign(-other.kernel)
        other.rebuild_tables()
        np.testing.assert_array_equal(layer.kernel, before)
        assert tf.reduce_any(other.active_ids(x) != layer.active_ids(x))

    def test_unbuilt_layer(self):
        layer = LSHDense(UNITS, "relu", active=7, hashing=HASHING)
        for other in copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)):
            assert not other.built
            assert other.get_config() == layer.get_config()

    def test_model(self, model):
        x, _ = data()
        other = copy.deepcopy(model)
        assert_same_weights(other, model)
        assert fit(other) == fit(model)
        np.testing.assert_array_equal(
            other.predict_on_batch(x), model.predict_on_batch(x)
        )

    def test_clone_model_starts_anew(self, model):
        """New weights, and the tables of these."""
        clone = keras.models.clone_model(model)
        layer = clone.get_layer("lsh")
        assert layer.get_config() == model.get_layer("lsh").get_config()
        assert (np.array(layer.kernel) != model.get_layer("lsh").kernel).any()
        assert layer.rebuild_tables()["codes_changed"] == 0
        clone.set_weights(model.get_weights())
        assert_same_weights(clone, model)


@keras.saving.register_keras_serializable("tests_of_saving")
class FirstWeights(keras_lsh.hashing.HashFamily):
    """A family of one's own: the sign of each of the first weights is a table."""

    probes, buckets = 1, 2

    def __init__(self, tables):
        self.tables = tables

    def initial_state(self, input_dim, units):
        return {}

    def neuron_codes(self, kernel, bias, state):
        kernel = tf.convert_to_tensor(kernel)
        return tf.cast(kernel[:, : self.tables] > 0, tf.int32)

    def input_probes(self, inputs, state):
        codes = tf.cast(inputs[:, : self.tables] > 0, tf.int32)
        return codes + 2 * tf.range(self.tables), tf.ones_like(codes)

    def multiplications(self, input_dim):
        return 0

    def get_config(self):
        return {"tables": self.tables}


class TestConfig:
    @pytest.mark.parametrize("hashing", ["auto", HASHING, FirstWeights(3)], ids=str)
    def test_round_trip(self, hashing):
        layer = LSHDense(
            UNITS, active=9, oversample=2, hashing=hashing, trainable=False
        )
        serialized = keras.saving.serialize_keras_object(layer)
        again = keras.saving.deserialize_keras_object(serialized)
        assert again.get_config() == layer.get_config()
        assert again.hashing == layer.hashing
        assert type(again.hashing) is type(layer.hashing)
        assert LSHDense.from_config(layer.get_config()).hashing == layer.hashing

    def test_family_of_ones_own_in_a_file(self, tmp_path):
        model = make_model(hashing=FirstWeights(3))
        model.save(tmp_path / "model.keras")
        again = keras.models.load_model(tmp_path / "model.keras")
        assert again.get_layer("lsh").hashing == FirstWeights(3)
        assert_same_weights(again, model)


class TestCorruptTables:
    """As from a damaged checkpoint."""

    @pytest.mark.parametrize("name", ["offsets", "table_ids"])
    @pytest.mark.parametrize("value", [-1, UNITS + 1, 2**31 - 1, -(2**31)])
    def test_error_and_no_crash(self, name, value):
        model = make_model()
        layer, (x, _) = model.get_layer("lsh"), data()
        index = [weight.name for weight in layer.weights].index(name)
        weights = layer.get_weights()
        weights[index] = np.full_like(weights[index], value)
        layer.set_weights(weights)
        for attempt in (layer, model.predict_on_batch, layer.active_ids):
            with pytest.raises(
                tf.errors.InvalidArgumentError, match=f"corrupt: `{name}`.*Rebuild"
            ):
                attempt(x)
        with ops.reference_ops(), pytest.raises(tf.errors.InvalidArgumentError):
            layer(x)
        layer.rebuild_tables()
        assert np.isfinite(layer(x)).all()

    def test_one_bad_id_among_many(self):
        layer, (x, _) = make_model().get_layer("lsh"), data()
        weights = layer.get_weights()
        assert layer.weights[-1].name == "table_ids"
        weights[-1][:, ::5] = UNITS
        layer.set_weights(weights)
        with pytest.raises(tf.errors.InvalidArgumentError, match="Received: 64"):
            layer(x)

    def test_weights_of_another_shape(self):
        layer = make_model().get_layer("lsh")
        weights = layer.get_weights()
        with pytest.raises(ValueError, match=r"\(64, 16\).*\(63, 16\)"):
            layer.set_weights([weights[0][:-1], *weights[1:]])
