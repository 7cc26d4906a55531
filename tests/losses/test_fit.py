"""Losses and metrics of sparse logits in `compile`, `fit` and `evaluate`."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lsh import losses, metrics
from keras_lsh.sparse_logits import from_active

UNITS = 9


class TopOutputs(keras.layers.Layer):
    """Dense logits of all classes, as a SparseTensor of the largest few."""

    def __init__(self, active, **kwargs):
        super().__init__(**kwargs)
        self.active = active

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(input_shape[-1], UNITS))

    def call(self, inputs):
        values = tf.matmul(inputs, self.kernel)
        ids = tf.sort(tf.math.top_k(values, self.active).indices)
        return from_active(tf.gather(values, ids, batch_dims=1), ids, UNITS)

    def get_config(self):
        return {**super().get_config(), "active": self.active}

    def compute_output_spec(self, inputs):
        return keras.KerasTensor((inputs.shape[0], UNITS), inputs.dtype, sparse=True)


def model(active, loss, **compile_arguments):
    keras.utils.set_random_seed(0)
    network = keras.Sequential([keras.Input((4,)), TopOutputs(active)])
    network.compile(keras.optimizers.SGD(0.5), loss, **compile_arguments)
    return network


def data(samples=24, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(samples, 4)).astype("float32")
    labels = [rng.choice(UNITS, rng.integers(1, 4), False) for _ in range(samples)]
    multi_hot = np.zeros((samples, UNITS), "float32")
    for row, some in zip(multi_hot, labels, strict=True):
        row[some] = 1
    return x, labels, multi_hot, rng.uniform(size=samples).astype("float32")


def test_training_is_that_of_a_dense_layer():
    """With all classes active. Sample weights are in loss and weighted metrics."""
    x, labels, _, weights = data()
    y = np.array([some[0] for some in labels])
    ours = model(
        UNITS,
        losses.ActiveSoftmaxCrossentropy(),
        metrics=[metrics.Accuracy(), metrics.TopKAccuracy(3)],
        weighted_metrics=[metrics.PrecisionAtK(1, name="weighted")],
    )
    dense = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(UNITS, use_bias=False)]
    )
    dense.compile(
        keras.optimizers.SGD(0.5),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[
            "accuracy",
            keras.metrics.SparseTopKCategoricalAccuracy(3, "top_3_accuracy"),
        ],
        weighted_metrics=[keras.metrics.SparseCategoricalAccuracy("weighted")],
    )
    dense.set_weights(ours.get_weights())
    ours_by_epoch, by_epoch = (
        m.fit(x, y, 8, 3, verbose=0, shuffle=False, sample_weight=weights).history
        for m in (ours, dense)
    )
    assert ours_by_epoch.keys() == by_epoch.keys()
    for name, expected in by_epoch.items():
        np.testing.assert_allclose(ours_by_epoch[name], expected, rtol=1e-5)
    np.testing.assert_allclose(
        ours.get_weights()[0], dense.get_weights()[0], rtol=1e-4, atol=1e-6
    )


def test_several_labels_by_tf_data():
    """Ragged ones in `fit`, a SparseTensor of the same in `evaluate`."""
    x, labels, multi_hot, weights = data()
    ragged = tf.ragged.constant([some.tolist() for some in labels], dtype=tf.int32)
    network = model(
        5,
        losses.ActiveSigmoidCrossentropy(label_smoothing=0.1),
        metrics=[metrics.PrecisionAtK(2), metrics.NDCGAtK(2)],
    )

    def samples(y):
        return tf.data.Dataset.from_tensor_slices((x, y, weights)).batch(7)

    history = network.fit(samples(ragged), epochs=4, verbose=0, shuffle=False).history
    assert history["loss"][-1] < history["loss"][0]
    multi_hot = tf.sparse.from_dense(multi_hot)
    found = network.evaluate(samples(multi_hot), verbose=0, return_dict=True)
    y_pred = network(x)
    loss = network.loss(ragged, y_pred, weights)
    assert found["loss"] == pytest.approx(float(loss), rel=1e-5)
    metric = metrics.PrecisionAtK(2)
    metric.update_state(ragged, y_pred)
    assert found["precision_at_2"] == pytest.approx(float(metric.result()), rel=1e-5)


def test_callbacks_know_that_more_is_better(tmp_path):
    """And a saved model has its loss and metrics."""
    x, labels, _, _ = data()
    y, of = tf.ragged.constant([some.tolist() for some in labels]), np.full(UNITS, 0.5)
    all_metrics = [
        metrics.PrecisionAtK(2),
        metrics.PropensityScoredPrecisionAtK(1, of),
        # A loss is a metric too.
        losses.ActiveSoftmaxCrossentropy(reduction=None, name="softmax"),
    ]
    loss = losses.ActiveSigmoidCrossentropy(log_q="uniform")
    network = model(4, loss, metrics=all_metrics, run_eagerly=True)
    stop = keras.callbacks.EarlyStopping("val_precision_at_2", patience=0)
    network.fit(*(x, y, 24, 9), validation_data=(x, y), callbacks=[stop], verbose=0)
    assert stop.monitor_op(1, 0)
    expected = network.evaluate(x, y, verbose=0, return_dict=True)
    assert set(expected) == {"loss", "precision_at_2", "psp_at_1", "softmax"}
    network.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(
        tmp_path / "model.keras", {"TopOutputs": TopOutputs}
    )
    assert loaded.loss.get_config() == loss.get_config()
    assert loaded.evaluate(x, y, verbose=0, return_dict=True) == pytest.approx(expected)
