"""tune finds settings that keep their word."""

import keras
import numpy as np
import pytest

import keras_lsh

UNITS, INPUT_DIM = 120, 12
FAMILIES = [
    keras_lsh.KMeansCells(12, rank=4),
    keras_lsh.KMeansCells(24, rank=8),
    keras_lsh.SimHash(bits=2, tables=4, probes=2),
]


def make_inputs(n=400, seed=0):
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(n, 4)) @ rng.normal(size=(4, INPUT_DIM))
    return np.maximum(factors + 0.1 * rng.normal(size=factors.shape), 0).astype("f")


def make_layer(**arguments):
    keras.utils.set_random_seed(0)
    layer = keras_lsh.LSHDense(UNITS, activation="relu", active=6, **arguments)
    layer.build((None, INPUT_DIM))
    layer.bias.assign(np.random.default_rng(1).normal(size=UNITS) / 10)
    return layer


def true_recall(layer, x):
    """Of the truly largest among the active ones, from NumPy in float64."""
    kernel, bias = (np.asarray(w, np.float64) for w in (layer.kernel, layer.bias))
    top = np.argsort(-(x.astype(np.float64) @ kernel.T + bias), axis=1)
    ids = np.asarray(layer.active_ids(x))
    found = [np.isin(t[: layer.num_active], i) for t, i in zip(top, ids, strict=True)]
    return np.mean(found)


@pytest.fixture(scope="module")
def tuning():
    return keras_lsh.tune(
        make_layer(), make_inputs(), recall=0.9, hashing=FAMILIES, verbose=0
    )


def test_every_setting_reaches_the_recall(tuning):
    assert len(tuning.settings) == len(FAMILIES)
    for setting in tuning.settings:
        assert setting.recall >= 0.9
    costs = [setting.training for setting in tuning.settings]
    assert costs == sorted(costs)
    assert tuning.best is tuning.settings[0]


def test_the_layer_does_what_was_found(tuning):
    x = make_inputs(seed=0)[1::2]  # what the settings were judged on
    assert true_recall(tuning.layer, x) == pytest.approx(tuning.best.recall, abs=1e-6)
    old = make_layer()
    np.testing.assert_array_equal(tuning.layer.kernel, old.kernel)
    np.testing.assert_array_equal(tuning.layer.bias, old.bias)
    assert tuning.layer.hashing == tuning.best.hashing
    cost = tuning.layer.multiplications()
    assert tuning.best.inference == pytest.approx(cost["total"] / cost["dense"])
    assert tuning.best.candidates == tuning.layer.num_candidates


def test_arguments_make_such_a_layer(tuning):
    layer = make_layer(**tuning.arguments)
    assert layer.num_candidates == tuning.best.candidates


def test_higher_recall_costs_more(tuning):
    less = keras_lsh.tune(
        make_layer(), make_inputs(), recall=0.5, hashing=FAMILIES[:1], verbose=0
    )
    same = next(s for s in tuning.settings if s.hashing == less.best.hashing)
    assert less.best.candidates < same.candidates


def test_all_true_neurons_are_found_at_a_recall_of_1():
    tuning = keras_lsh.tune(
        make_layer(), make_inputs(100), recall=1, hashing=FAMILIES[2:], verbose=0
    )
    assert tuning.best.recall == 1


def test_default_families_and_the_table(capsys):
    tuning = keras_lsh.tune(make_layer(), make_inputs(64), rebuild_every=None)
    assert "setting" in capsys.readouterr().out  # the progress bar
    table = str(tuning).splitlines()
    assert len(table) == len(tuning.settings) + 4
    assert all("KMeansCells" in line or "SimHash" in line for line in table[2:-2])
    assert table[-2].endswith("Dense")


def test_other_settings_are_kept():
    layer = make_layer(inference="exact", name="wide")
    tuning = keras_lsh.tune(layer, make_inputs(20), hashing=FAMILIES[:1], verbose=0)
    assert tuning.layer.inference == "exact"
    assert tuning.layer.name == "wide"


def test_the_layer_stays_as_it_is():
    layer = make_layer()
    before = [np.array(weight) for weight in layer.weights]
    keras_lsh.tune(layer, make_inputs(20), hashing=FAMILIES[:1], verbose=0)
    for weight, value in zip(layer.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)


GOOD = {"layer": None, "inputs": make_inputs(10), "recall": 0.9, "hashing": FAMILIES}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("layer", keras.layers.Dense(3)),
        ("layer", keras_lsh.LSHDense(3)),
        ("inputs", make_inputs(10)[:, :5]),
        ("inputs", make_inputs(1)),
        ("inputs", make_inputs(0)),
        ("inputs", np.full((4, INPUT_DIM), np.nan)),
        ("inputs", np.full((4, INPUT_DIM), "a")),
        ("recall", 0),
        ("recall", 1.5),
        ("recall", float("nan")),
        ("hashing", []),
        ("hashing", ["kmeans"]),
        ("batch_size", 0),
        ("rebuild_every", 0),
    ],
)
def test_bad_arguments(name, value):
    arguments = GOOD | {"layer": make_layer(), "verbose": 0} | {name: value}
    with pytest.raises(ValueError, match=f"`{name}`"):
        keras_lsh.tune(**arguments)
