"""One training of one network: what every accuracy in docs/accuracy comes from."""

import dataclasses
import functools
import pathlib
import sys
import time
from typing import Any

import keras
import numpy as np

import keras_lsh
from keras_lsh import baselines, datasets, diagnostics

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import machine

# Test images that the selection is judged on.
_JUDGED = 1000


@dataclasses.dataclass(frozen=True)
class Run:
    """A network, its data and its training. Equal runs give equal accuracies.

    Attributes:
        data: name of the data set, for `keras_lsh.datasets.load`.
        method: of the hidden layers. "dense"; "exact" (the oracle), "lsh" or "random":
            `LSHDense` with that selection; "dropout", "adaptive_dropout" or
            "winner_take_all".
        active: active neurons, as a fraction of a hidden layer.
        seed: of the weights and of the order of samples.
        hidden: hidden layers.
        units: neurons of each.
        epochs: passes over the training set.
        batch: samples a step.
        learning_rate: of Adam (`LazyAdam` where the layers are `LSHDense`), at first.
        schedule: "constant", or "cosine": down to 0 by the end.
        hashing: of "lsh": keyword arguments of `KMeansCells`; or, if there is a
            `"family"`, of that family. Values that are None are left to the layer.
        oversample: candidates per active neuron of "lsh"; None: the layer's default.
        every: steps from one rebuild of the tables to the next.
    """

    data: str
    method: str
    active: float = 0.05
    seed: int = 0
    hidden: int = 3
    units: int = 1000
    epochs: int = 10
    batch: int = 128
    learning_rate: float = 5e-4
    schedule: str = "constant"
    hashing: tuple[tuple[str, Any], ...] = ()
    oversample: float | None = None
    every: int = 10

    def __str__(self) -> str:
        said = ["data", "method", "seed"]
        fields = dataclasses.fields(self)
        said += [
            field.name
            for field in fields
            if field.name not in said and getattr(self, field.name) != field.default
        ]
        return " ".join(
            f"{name}={dict(value) if name == 'hashing' else value}"
            for name in said
            for value in [getattr(self, name)]
        )


def train(run: Run, data_dir: str | None, verbose: int = 0) -> dict[str, Any]:
    """Trains and tests.

    Args:
        run: what to do.
        data_dir: where prepared data sets are, None for TFDS' own place.
        verbose: of `fit`.

    Returns:
        A row for a file of results: the fields of the run, `accuracy` on the whole test
        set after the last epoch, and, where neurons are selected, by layer, `recall` of
        the truly largest ones at initialisation and after training, `auc`,
        `correlation`, `mass` and `dead` (see `diagnostics.LayerReport`), and the hidden
        layers' multiplications as shares of Dense's (`forward`, of inference;
        `training`, with gradients, statistics of the inputs and rebuilds).
    """
    (x_train, y_train), (x_test, y_test), classes = load(run.data, data_dir)
    start = time.perf_counter()
    keras.utils.set_random_seed(run.seed)
    model = _network(run, x_train.shape[1], classes, len(x_train))
    selects = run.method in ("lsh", "exact", "random")
    judged = x_test[:_JUDGED]
    initial = _figures(model, judged, run) if selects else {}
    # Again, since initialisation takes its share of random numbers: all methods see the
    # same batches.
    keras.utils.set_random_seed(run.seed)
    rebuild = [keras_lsh.RebuildTables(every=run.every)] if selects else []
    model.fit(
        x_train,
        y_train,
        batch_size=run.batch,
        epochs=run.epochs,
        callbacks=rebuild,
        verbose=verbose,
    )
    _, accuracy = model.evaluate(x_test, y_test, batch_size=1000, verbose=0)
    row = dataclasses.asdict(run) | {"hashing": dict(run.hashing)}
    row["accuracy"] = round(float(accuracy), 5)
    if selects:
        row["initial_recall"] = initial["recall"]
        row |= _figures(model, judged, run)
        row["rebuilds"] = rebuild[0].rebuilds
    row["seconds"] = round(time.perf_counter() - start, 1)
    return row | machine.facts(run.seed)


@functools.lru_cache(maxsize=1)
def load(name: str, data_dir: str | None) -> tuple[Any, Any, int]:
    """`(x_train, y_train), (x_test, y_test), classes`, images as rows."""
    train, test, info = datasets.load(name, data_dir, flatten=True)
    return train, test, info.features[info.supervised_keys[1]].num_classes


def _network(run: Run, inputs: int, classes: int, samples: int) -> keras.Sequential:
    hidden = [
        layer for number in range(run.hidden) for layer in _hidden(run, number + 1)
    ]
    model = keras.Sequential(
        [
            keras.Input((inputs,)),
            *hidden,
            keras.layers.Dense(classes, activation="softmax", name="output"),
        ]
    )
    rate: Any = run.learning_rate
    if run.schedule == "cosine":
        steps = run.epochs * -(-samples // run.batch)
        rate = keras.optimizers.schedules.CosineDecay(rate, steps)
    sparse = isinstance(hidden[0], keras_lsh.LSHDense)
    adam = keras_lsh.LazyAdam if sparse else keras.optimizers.Adam
    model.compile(adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def _hidden(run: Run, number: int) -> list[keras.layers.Layer]:
    name, units = f"hidden_{number}", run.units
    if run.method in ("lsh", "exact", "random"):
        settings: dict[str, Any] = {"selection": run.method}
        if run.oversample is not None:
            settings["oversample"] = run.oversample
        if run.hashing:
            arguments = dict(run.hashing)
            family = arguments.pop("family", "KMeansCells")
            settings["hashing"] = getattr(keras_lsh, family)(**arguments)
        return [
            keras_lsh.LSHDense(
                units, activation="relu", active=run.active, name=name, **settings
            )
        ]
    if run.method == "adaptive_dropout":
        return [
            baselines.AdaptiveDropout(
                units, activation="relu", active=run.active, name=name
            )
        ]
    dense = keras.layers.Dense(units, activation="relu", name=name)
    if run.method == "dense":
        return [dense]
    if run.method == "dropout":
        return [dense, keras.layers.Dropout(1 - run.active, name=f"{name}_dropout")]
    if run.method == "winner_take_all":
        dense = keras.layers.Dense(units, name=name)
        return [dense, baselines.WinnerTakeAll(run.active, name=f"{name}_winners")]
    raise ValueError(f"There is no method {run.method!r}")


def _figures(model: keras.Model, x: np.ndarray, run: Run) -> dict[str, Any]:
    """What the layers select, by layer, and multiplications as shares of Dense's."""
    report = diagnostics.report(model, x, batch_size=run.batch, rebuild_every=run.every)
    figures: dict[str, Any] = {
        name: [round(getattr(layer, name), 4) for layer in report.layers]
        for name in ("recall", "auc", "correlation", "mass", "dead")
    }
    forward = training = dense_forward = dense_training = 0.0
    for number, layer in enumerate(report.layers):
        cost = layer.training
        forward += layer.inference.total
        dense_forward += layer.inference.dense
        training += cost.total
        dense_training += cost.dense
        if number == 0:  # needs no gradient of its inputs, and nor does Dense
            training -= cost.gradients / 2
            dense_training -= layer.inference.dense
    figures["forward"] = round(forward / dense_forward, 4)
    figures["training"] = round(training / dense_training, 4)
    return figures
