"""RebuildTables: when it rebuilds, what it reports, whom it leaves alone."""

import copy
import warnings

import keras
import numpy as np
import pytest

import keras_lsh

INPUT_DIM, UNITS = 12, 40


def make_model(**arguments):
    hashing = keras_lsh.SimHash()  # its codes follow the weights and nothing else
    model = keras.Sequential(
        [
            keras.Input((INPUT_DIM,)),
            keras_lsh.LSHDense(UNITS, active=0.2, hashing=hashing, name="first"),
            keras_lsh.LSHDense(UNITS, active=0.2, hashing=hashing, name="second"),
        ]
    )
    model.compile(keras_lsh.LazyAdam(1e-2), "mse", **arguments)
    return model


def fit(model, callbacks, epochs=1, steps=20, **arguments):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4 * steps, INPUT_DIM)).astype("float32")
    y = rng.normal(size=(4 * steps, UNITS)).astype("float32")
    return model.fit(
        x, y, batch_size=4, epochs=epochs, verbose=0, callbacks=callbacks, **arguments
    )


class Rebuilds(keras.callbacks.Callback):
    """Notes at which steps a RebuildTables callback, called before, has rebuilt."""

    def __init__(self, callback):
        super().__init__()
        self.callback = callback

    def on_train_begin(self, logs=None):
        self.steps, self.seen = [], self.callback.rebuilds

    def on_train_batch_end(self, batch, logs=None):
        if self.callback.rebuilds > self.seen:
            self.seen = self.callback.rebuilds
            self.steps.append(int(self.model.optimizer.iterations.numpy()))


def rebuild_steps(model, epochs=1, **arguments):
    callback = keras_lsh.RebuildTables(**arguments)
    notes = Rebuilds(callback)
    fit(model, [callback, notes], epochs=epochs)
    return notes.steps


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, [1, 2, 4, 8, 16]),
        ({"every": 1}, list(range(1, 21))),
        ({"every": 3}, [1, 2, 4, 7, 10, 13, 16, 19]),
        ({"every": 2, "growth": 2.0}, [1, 2, 4, 8, 16]),
    ],
)
def test_intervals(arguments, expected):
    assert rebuild_steps(make_model(), **arguments) == expected


def test_a_model_that_is_trained_on_needs_no_early_rebuilds():
    model = make_model()
    fit(model, [keras_lsh.RebuildTables()])
    assert rebuild_steps(model, every=6) == [26, 32, 38]
    assert rebuild_steps(model, every=4, growth=2.0) == [44, 52]


def test_counts_optimizer_steps_not_calls():
    steps = rebuild_steps(make_model(steps_per_execution=5), every=10)
    assert steps == [5, 10, 20]


def test_intervals_go_on_over_epochs():
    assert rebuild_steps(make_model(), epochs=2, every=15)[-2:] == [16, 31]


def test_tables_are_right_when_training_ends():
    model = make_model()
    fit(model, [keras_lsh.RebuildTables(every=1000)])
    for layer in model.layers:
        assert float(layer.rebuild_tables()["codes_changed"]) == 0


def test_reports_in_logs():
    history = fit(make_model(), [keras_lsh.RebuildTables(every=5)], epochs=2).history
    assert history["lsh/rebuilds"] == [7, 11]
    assert all(ms > 0 for ms in history["lsh/rebuild_ms"])
    assert all(0 < share <= 1 for share in history["lsh/codes_changed"])


def test_layers_that_do_not_learn_are_left_alone():
    model = make_model()
    model.get_layer("first").trainable = False
    model.compile(keras_lsh.LazyAdam(1e-2), "mse")
    first, second = model.layers
    first.kernel.assign(-first.kernel)
    before = first._selector.codes.numpy(), second._selector.codes.numpy()
    fit(model, [keras_lsh.RebuildTables()])
    np.testing.assert_array_equal(first._selector.codes.numpy(), before[0])
    assert np.any(second._selector.codes.numpy() != before[1])


def test_models_without_lsh_layers_and_with_other_selections():
    plain = keras.Sequential([keras.Input((INPUT_DIM,)), keras.layers.Dense(UNITS)])
    oracle = keras.Sequential(
        [keras.Input((INPUT_DIM,)), keras_lsh.LSHDense(UNITS, selection="exact")]
    )
    for model in (plain, oracle):
        model.compile("sgd", "mse")
        history = fit(model, [keras_lsh.RebuildTables()]).history
        assert set(history) == {"loss"}


def test_finds_layers_of_nested_models():
    inner = make_model()
    model = keras.Sequential([keras.Input((INPUT_DIM,)), inner])
    model.compile("sgd", "mse")
    assert fit(model, [keras_lsh.RebuildTables()]).history["lsh/rebuilds"] == [6]


def test_deep_copy():
    callback = keras_lsh.RebuildTables(every=7, growth=1.5)
    fit(make_model(), [callback])
    twin = copy.deepcopy(callback)
    assert (twin.every, twin.growth) == (7, 1.5)
    fit(make_model(), [twin])


def test_training_without_it_says_so_once():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        model = make_model()
        fit(model, [])
        fit(model, [])
    messages = [w for w in caught if "RebuildTables" in str(w.message)]
    assert len(messages) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(make_model(), [keras_lsh.RebuildTables()])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("every", v) for v in (0, -1, 2.5, "5", True)],
        *[("growth", v) for v in (0.5, float("inf"), "2")],
    ],
)
def test_bad_arguments_are_named(name, value):
    with pytest.raises(ValueError, match=rf"`{name}`.*Received: {name}="):
        keras_lsh.RebuildTables(**{name: value})
