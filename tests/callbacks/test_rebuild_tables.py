"""RebuildTables: when it rebuilds, what it reports, whom it leaves alone."""

import copy
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_lsh
from keras_lsh.callbacks.rebuild_tables import _sample

INPUT_DIM, UNITS = 12, 40


def make_model(learning_rate=1e-2, hashing=None, **arguments):
    # SimHash: its codes follow the weights and nothing else.
    hashing = hashing or keras_lsh.SimHash()
    model = keras.Sequential(
        [
            keras.Input((INPUT_DIM,)),
            keras_lsh.LSHDense(UNITS, active=0.2, hashing=hashing, name="first"),
            keras_lsh.LSHDense(UNITS, active=0.2, hashing=hashing, name="second"),
        ]
    )
    model.compile(keras_lsh.LazyAdam(learning_rate), "mse", **arguments)
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
        self.by_layer, self.seen_by_layer = {}, list(self.callback._rebuilds)

    def on_train_batch_end(self, batch, logs=None):
        step = int(self.model.optimizer.iterations.numpy())
        if self.callback.rebuilds > self.seen:
            self.seen = self.callback.rebuilds
            self.steps.append(step)
        for layer, count in enumerate(self.callback._rebuilds):
            if count > self.seen_by_layer[layer]:
                self.seen_by_layer[layer] = count
                self.by_layer.setdefault(layer, []).append(step)


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


def test_intervals_grow_on_where_fit_is_called_again():
    model = make_model()
    callback = keras_lsh.RebuildTables(every=2, growth=2.0)
    notes = Rebuilds(callback)
    fit(model, [callback, notes], steps=9)
    assert notes.steps == [1, 2, 4, 8]
    fit(model, [callback, notes], steps=30)
    assert notes.steps == [17, 33]


def test_counts_optimizer_steps_not_calls():
    steps = rebuild_steps(make_model(steps_per_execution=5), every=10)
    assert steps == [5, 10, 20]


def test_intervals_go_on_over_epochs():
    assert rebuild_steps(make_model(), epochs=2, every=15)[-2:] == [16, 31]


@pytest.mark.parametrize(
    ("arguments", "full"),
    [
        ({"every": 2}, [1, 4, 16, 32, 48]),
        ({"every": 15}, [1, 4, 16]),
        ({"every": 15, "drift": 0.0}, [1, 2, 4, 8, 15, 30, 45, 60]),
    ],
)
def test_which_rebuilds_are_of_all_neurons(arguments, full):
    model = make_model()
    callback = keras_lsh.RebuildTables(**arguments)
    noted = note_full_rebuilds(model, callback)
    fit(model, [callback], steps=60)
    assert noted[: len(full)] == full
    assert noted[len(full) :] in ([], [60])  # when training ends


def test_of_all_neurons_no_more_often_where_fit_is_called_again():
    model = make_model()
    callback = keras_lsh.RebuildTables(every=2)
    noted = note_full_rebuilds(model, callback)
    for _ in range(3):
        fit(model, [callback], steps=20)
    assert noted == [1, 4, 16, 32, 48]  # as in one call of 60 steps


def note_full_rebuilds(model, callback):
    """A list of the steps after which all neurons are hashed, as they come."""
    noted = []
    rebuild = callback._rebuild

    def note(due, moved_only=False):
        if any(due) and not moved_only:
            noted.append(int(model.optimizer.iterations.numpy()))
        rebuild(due, moved_only)

    callback._rebuild = note
    return noted


def test_tables_are_right_when_training_ends():
    model = make_model()
    fit(model, [keras_lsh.RebuildTables(every=1000)])
    for layer in model.layers:
        assert float(layer.rebuild_tables()["codes_changed"]) == 0


def test_reports_in_logs():
    history = fit(make_model(), [keras_lsh.RebuildTables(every=5)], epochs=2).history
    assert set(history) == {
        *("loss", "lsh/rebuilds", "lsh/rebuild_ms", "lsh/codes_changed")
    }
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


class TestDrift:
    """Rebuilding the layers whose codes have moved."""

    def test_0_rebuilds_at_every_look(self):
        steps = rebuild_steps(make_model(), every=3, drift=0)
        assert steps == [1, 2, 3, 6, 9, 12, 15, 18]

    @pytest.mark.parametrize("hashing", [None, keras_lsh.KMeansCells(cells=8)])
    def test_weights_that_do_not_move_leave_the_early_rebuilds(self, hashing):
        # Whatever the inputs may teach in between.
        model = make_model(learning_rate=0.0, hashing=hashing)
        assert rebuild_steps(model, every=1, drift=1e-6) == [1, 2, 4, 8, 16]

    def test_weights_that_move_a_lot_rebuild_at_every_look(self):
        model = make_model(learning_rate=0.5, hashing=keras_lsh.KMeansCells(cells=8))
        steps = rebuild_steps(model, every=5, drift=0.02)
        assert steps == [1, 2, 4, 5, 10, 15, 20]

    def test_a_larger_share_means_fewer_rebuilds(self):
        model = make_model()
        counts = [
            len(rebuild_steps(model, every=1, drift=drift)) for drift in (0.05, 0.3)
        ]
        assert 20 > counts[0] > counts[1]
        # Right when training ends, none the less.
        for layer in model.layers:
            assert float(layer.rebuild_tables()["codes_changed"]) == 0

    def test_only_the_layer_that_moved_is_rebuilt(self):
        class Negate(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                if self.model.optimizer.iterations == 11:
                    kernel = self.model.get_layer("second").kernel
                    kernel.assign(-kernel)

        callback = keras_lsh.RebuildTables(every=4, drift=0.5)
        notes = Rebuilds(callback)
        model = make_model(learning_rate=0.0)
        history = fit(model, [Negate(), callback, notes], epochs=2).history
        first, second = [1, 2, 4, 8, 16, 32], [1, 2, 4, 8, 12, 24]
        assert notes.by_layer == {0: first, 1: second}
        # Both were also rebuilt when training began and, after this, when it ended.
        assert history["lsh/rebuilds"] == [1 + 5, 1 + 6]
        # Looks after steps 4, 8, 12, 16, 20; all codes of one layer at one of them.
        assert history["lsh/drift"] == pytest.approx([1 / 5 / 2, 0])

    def test_steps_per_execution(self):
        model = make_model(steps_per_execution=5)
        assert rebuild_steps(model, every=10, drift=0.0) == [5, 10, 20]


class TestCodesDrift:
    """LSHDense.codes_drift, which RebuildTables decides by."""

    def make_layer(self, **arguments):
        arguments = {"hashing": keras_lsh.SimHash()} | arguments
        layer = keras_lsh.LSHDense(UNITS, active=0.2, **arguments)
        layer.build((None, INPUT_DIM))
        return layer

    def test_neurons_that_turned_round(self):
        layer = self.make_layer(use_bias=False)
        assert float(layer.codes_drift(range(UNITS))) == 0
        # By a sparse update, as in training.
        rows = tf.gather(layer.kernel.value, [3, 5, 7])
        layer.kernel.value.scatter_sub(tf.IndexedSlices(2 * rows, [3, 5, 7]))
        assert float(layer.codes_drift(range(UNITS))) == pytest.approx(3 / UNITS)
        assert float(layer.codes_drift([7, 0, 3, 1])) == 0.5
        assert float(layer.codes_drift([0, 1, 2])) == 0
        assert float(layer.codes_drift(np.zeros([0], np.int32))) == 0
        layer.rebuild_tables()
        assert float(layer.codes_drift(range(UNITS))) == 0

    @pytest.mark.parametrize(
        "hashing",
        [
            keras_lsh.SimHash(transform="simple_lsh"),
            keras_lsh.KMeansCells(cells=8, tables=2),
        ],
    )
    def test_is_the_share_of_codes_that_hashing_all_would_change(self, hashing):
        layer = self.make_layer(hashing=hashing)
        rng = np.random.default_rng(0)
        layer.kernel.assign_add(0.2 * rng.normal(size=layer.kernel.shape))
        layer.bias.assign_add(0.2 * rng.normal(size=layer.bias.shape))
        drift = float(layer.codes_drift(range(UNITS)))
        selector = layer._selector
        codes = selector.hashing.neuron_codes(layer.kernel, layer.bias, selector.state)
        stale = codes.numpy() != selector.codes.numpy()
        assert drift == pytest.approx(stale.mean()) and drift > 0
        # A neuron may change its code in one table and keep it in another.
        assert drift < stale.any(axis=1).mean()

    @pytest.mark.parametrize("selection", ["exact", "random"])
    def test_no_tables(self, selection):
        layer = self.make_layer(selection=selection)
        layer.kernel.assign(-layer.kernel)
        assert float(layer.codes_drift(range(UNITS))) == 0

    def test_not_built(self):
        layer = keras_lsh.LSHDense(UNITS, name="new")
        with pytest.raises(ValueError, match="Layer 'new' has no weights"):
            layer.codes_drift([0])


@pytest.mark.parametrize("units", [1, 40, 256, 257, 1000, 200_000])
def test_samples_take_turns(units):
    looks = -(-units // 256)
    samples = [_sample(units, tf.constant(look)).numpy() for look in range(looks + 1)]
    assert all(0 < len(ids) <= 256 for ids in samples)
    np.testing.assert_array_equal(
        np.sort(np.concatenate(samples[:-1])), np.arange(units)
    )
    np.testing.assert_array_equal(samples[-1], samples[0])


def test_deep_copy():
    callback = keras_lsh.RebuildTables(every=7, growth=1.5)
    fit(make_model(), [callback])
    twin = copy.deepcopy(callback)
    assert (twin.every, twin.growth, twin.drift) == (7, 1.5, None)
    fit(make_model(), [twin])
    assert copy.deepcopy(keras_lsh.RebuildTables(drift=0.1)).drift == 0.1


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
        *[("drift", v) for v in (-0.1, 1.5, "0.1", True, float("nan"))],
    ],
)
def test_bad_arguments_are_named(name, value):
    with pytest.raises(ValueError, match=rf"`{name}`.*Received: {name}="):
        keras_lsh.RebuildTables(**{name: value})


def test_drift_and_growth_exclude_each_other():
    with pytest.raises(ValueError, match="`growth`.*1 with `drift`=0.1.*growth=2"):
        keras_lsh.RebuildTables(growth=2, drift=0.1)
