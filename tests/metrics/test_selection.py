"""Metrics of the selection: the figures of a report, in loops of one's own."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lsh import LSHDense
from keras_lsh.diagnostics import report
from keras_lsh.metrics import SelectedMass, SelectionRecall


def inputs(samples=30, seed=0):
    return np.random.default_rng(seed).normal(size=(samples, 12)).astype("float32")


def network(**arguments):
    keras.utils.set_random_seed(0)
    layer = LSHDense(60, active=6, bias_initializer="random_normal", **arguments)
    return keras.Sequential([keras.Input((12,)), layer]), layer


@pytest.mark.parametrize("selection", ["lsh", "exact"])
@pytest.mark.parametrize("activation", ["relu", "softmax"])
def test_equal_a_report(selection, activation):
    model, layer = network(selection=selection, activation=activation)
    recall, mass = SelectionRecall(layer), SelectedMass(layer)
    x = inputs()
    x[3, 4] = np.nan
    x[5] = 0
    for batch in np.split(x, 3):
        recall.update_state(batch)
        mass.update_state(batch)
    expected = report(model, x).layers[0]
    assert float(recall.result()) == pytest.approx(expected.recall, abs=1e-6)
    assert float(mass.result()) == pytest.approx(expected.mass, abs=1e-6)
    recall.reset_state()
    assert float(recall.result()) == 0


def test_sample_weights():
    _, layer = network()
    x, metric = inputs(3).reshape(1, 3, 12), SelectedMass(layer)
    each = []
    for row in x[0]:
        metric.reset_state()
        metric.update_state(row[np.newaxis])
        each.append(float(metric.result()))
    metric.reset_state()
    metric.update_state(x, sample_weight=[[1, 0, 3]])
    assert float(metric.result()) == pytest.approx((each[0] + 3 * each[2]) / 4)


def test_in_a_step_of_a_model():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.hidden = LSHDense(60, "relu", active=6)
            self.last = keras.layers.Dense(2)
            self.hidden_recall = SelectionRecall(self.hidden, name="hidden_recall")

        def call(self, x):
            return self.last(self.hidden(x))

        def test_step(self, data):
            results = super().test_step(data)
            self.hidden_recall.update_state(data[0])
            return {**results, "recall": self.hidden_recall.result()}

    keras.utils.set_random_seed(0)
    model, x = Model(), inputs()
    model.compile("sgd", "mse")
    result = model.evaluate(x, np.zeros((30, 2)), 10, verbose=0, return_dict=True)
    expected = report(model, x).layers[0].recall
    assert float(result["recall"]) == pytest.approx(expected, abs=1e-6)
    assert expected < 1


def test_in_a_tf_function():
    model, layer = network()
    metric, x = SelectionRecall(layer), inputs()
    tf.function(metric.update_state)(x)
    expected = report(model, x).layers[0].recall
    assert float(metric.result()) == pytest.approx(expected, abs=1e-6)


def test_a_built_layer_is_needed():
    with pytest.raises(ValueError, match="'new' has no weights yet"):
        SelectionRecall(LSHDense(3, name="new")).update_state(inputs())
    with pytest.raises(ValueError, match="invalid value for `layer`.*LSHDense"):
        SelectionRecall(keras.layers.Dense(3))


def test_cannot_be_saved_by_itself():
    with pytest.raises(NotImplementedError, match="belongs to a layer"):
        keras.metrics.serialize(SelectionRecall(LSHDense(3)))
