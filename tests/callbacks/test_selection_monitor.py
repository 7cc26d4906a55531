"""SelectionMonitor: what it reports and to whom, and that training does not notice."""

import csv
import importlib.util

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_lsh
from keras_lsh.diagnostics import report

INPUT_DIM, UNITS = 12, 40
STEPS = 6


def inputs(samples=4 * STEPS, width=INPUT_DIM, seed=0):
    return np.random.default_rng(seed).normal(size=(samples, width)).astype("float32")


def make_model(steps_per_execution=1, **arguments):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((INPUT_DIM,)),
            keras_lsh.LSHDense(UNITS, "relu", active=4, name="one", **arguments),
            keras.layers.Dropout(0.3),
            keras_lsh.LSHDense(UNITS, active=4, name="two"),
        ]
    )
    model.compile(
        keras_lsh.LazyAdam(0.05), "mse", steps_per_execution=steps_per_execution
    )
    return model


def fit(model, callbacks, epochs=2):
    return model.fit(
        inputs(),
        inputs(width=UNITS, seed=1),
        batch_size=4,
        epochs=epochs,
        verbose=0,
        callbacks=[keras_lsh.RebuildTables(), *callbacks],
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("logs")
    model, monitor = make_model(), keras_lsh.SelectionMonitor(inputs(20, seed=2))
    reports = []
    callbacks = [
        keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: reports.append(
                report(model, inputs(20, seed=2))
            )
        ),
        keras.callbacks.CSVLogger(directory / "before.csv"),
        monitor,
        keras.callbacks.CSVLogger(directory / "after.csv"),
    ]
    if importlib.util.find_spec("tensorboard"):
        callbacks.append(keras.callbacks.TensorBoard(directory))
    return reports, monitor, fit(model, callbacks).history, directory


class TestWhoSeesTheFigures:
    def test_history(self, trained):
        reports, monitor, history, _ = trained
        assert len(history["lsh/recall"]) == len(reports) == 2
        for epoch, expected in enumerate(reports):
            for figure in "recall", "auc", "correlation", "mass", "dead":
                assert history[f"lsh/{figure}"][epoch] == expected.mean(figure)
                for layer in expected.layers:
                    value = history[f"lsh/{layer.name}/{figure}"][epoch]
                    assert value == getattr(layer, figure)
        jaccard = reports[1].jaccard(reports[0])
        assert history["lsh/one/jaccard"][1] == jaccard["one"]
        assert 0 < history["lsh/jaccard"][0] < 1
        one, two = (history[f"lsh/{name}/jaccard"][1] for name in ("one", "two"))
        assert history["lsh/jaccard"][1] == pytest.approx((one + two) / 2)
        assert [row["step"] for row in monitor.history] == [0, STEPS, 2 * STEPS]
        assert monitor.history[-1]["lsh/recall"] == monitor.report.recall

    def test_callbacks_that_come_later(self, trained):
        *_, history, directory = trained
        with open(directory / "before.csv") as file:
            assert "lsh/recall" not in next(csv.reader(file))
        with open(directory / "after.csv") as file:
            rows = list(csv.DictReader(file))
        assert [float(row["lsh/recall"]) for row in rows] == history["lsh/recall"]

    def test_tensorboard(self, trained):
        pytest.importorskip("tensorboard")
        *_, history, directory = trained
        values = {}
        for path in (directory / "train").glob("events*"):
            for event in tf.compat.v1.train.summary_iterator(str(path)):
                for value in event.summary.value:
                    tensor = tf.make_ndarray(value.tensor)
                    values.setdefault(value.tag, []).append(tensor)
        np.testing.assert_allclose(
            values["epoch_lsh/one/recall"], history["lsh/one/recall"], rtol=1e-6
        )

    def test_early_stopping(self):
        monitor = keras_lsh.SelectionMonitor(
            inputs(20, seed=2), figures=["recall"], per_layer=False
        )
        # No recall gets better by 2.
        stopping = keras.callbacks.EarlyStopping(
            "lsh/recall", mode="max", patience=1, min_delta=2
        )
        history = fit(make_model(), [monitor, stopping], epochs=9).history
        assert len(history["lsh/recall"]) == 2
        names = [name for name in history if name.startswith("lsh/")]
        assert "lsh/one/recall" not in names and "lsh/auc" not in names


class TestWhenItMeasures:
    @pytest.mark.parametrize(
        ("steps_per_execution", "every", "expected"),
        [(1, 4, [0, 4, 6, 10, 12]), (3, 2, [0, 3, 6, 9, 12])],
    )
    def test_steps(self, steps_per_execution, every, expected):
        seen = {}

        class Listening(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                if "lsh/recall" in logs:
                    step = int(self.model.optimizer.iterations.numpy())
                    seen[step] = logs["lsh/recall"]

        monitor = keras_lsh.SelectionMonitor(inputs(8), every=every)
        fit(make_model(steps_per_execution), [monitor, Listening()])
        assert [row["step"] for row in monitor.history] == expected
        recall = {row["step"]: row["lsh/recall"] for row in monitor.history}
        assert seen and set(seen) <= set(expected)
        assert all(recall[step] == value for step, value in seen.items())

    def test_samples_are_evenly_spaced(self):
        x = {"a": np.arange(10), "b": tf.range(10) + 5}
        monitor = keras_lsh.SelectionMonitor(x, samples=3)
        assert monitor.x["a"].tolist() == [0, 3, 6]
        assert monitor.x["b"].numpy().tolist() == [5, 8, 11]
        assert len(keras_lsh.SelectionMonitor(inputs(5)).x) == 5


@pytest.mark.parametrize(
    "arguments",
    [
        {"selection": "random"},
        {"kernel_regularizer": "l2", "activity_regularizer": "l2"},
    ],
    ids=["random", "regularized"],
)
def test_training_does_not_notice(arguments):
    weights, losses = [], []
    for callbacks in [], [keras_lsh.SelectionMonitor(inputs(9, seed=2), every=2)]:
        model = make_model(**arguments)
        losses.append(fit(model, callbacks).history["loss"])
        # Seeds too: those of Dropout are weights.
        weights.append([variable.numpy() for variable in model.variables])
        drawn = keras.random.uniform([3]), tf.random.uniform([3]), np.random.rand(3)  # noqa: NPY002
        weights[-1] += map(np.asarray, drawn)
    assert losses[0] == losses[1]
    for without, with_monitor in zip(*weights, strict=True):
        np.testing.assert_array_equal(without, with_monitor)


@pytest.mark.parametrize(
    "arguments",
    [
        {"samples": 0},
        {"batch_size": 1.5},
        {"every": 0},
        {"figures": ["recal"]},
        {"figures": "recall"},
    ],
)
def test_unusable_arguments(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"invalid value for `{name}`"):
        keras_lsh.SelectionMonitor(inputs(), **arguments)


def test_unusable_inputs():
    with pytest.raises(ValueError, match="invalid value for `x`"):
        keras_lsh.SelectionMonitor(np.zeros((0, 12)))
    model = keras.Sequential([keras.Input((INPUT_DIM,)), keras.layers.Dense(UNITS)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"`model`.*LSHDense"):
        fit(model, [keras_lsh.SelectionMonitor(inputs())])
