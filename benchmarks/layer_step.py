"""Is LSHDense faster than Dense, in training and in serving?

    python benchmarks/layer_step.py --out rows.jsonl

Per case, a network of hidden ReLU layers is trained with `model.fit`: with Dense and
Keras' Adam (or SGD), and with LSHDense, LazyAdam (or SGD) and RebuildTables, ten steps
an execution where there is time for so many (Python takes a millisecond of a step,
whatever the layers); or single samples are passed through it, in a `tf.function` or by
a loaded SavedModel; in some cases, LSHDense's with kernels stored in bfloat16
(`storage`; Dense's are of float32). Both networks take turns, so that what disturbs the
one disturbs the other. One JSON row per case: the median time of a step and its
quartiles over the rounds, for both, and the ratio of the medians. Of training, also the
peak memory of a process that does nothing else, for both, and the size of the tables
and the statistics that hashing keeps.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import machine
import numpy as np
import tensorflow as tf

import keras_lsh


class Case(NamedTuple):
    """A network, and how it is used."""

    name: str
    inputs: int
    width: int
    layers: int
    active: float
    batch: int
    optimizer: str  # "adam" or "sgd"; inference: "none", or "served" by a SavedModel
    oversample: float | None = None  # of LSHDense; None: its default
    steps: int = 40  # of a round
    storage: str = "float32"  # of LSHDense's kernel; others are for inference alone

    @property
    def steps_per_execution(self) -> int:
        return 10 if self.steps % 10 == 0 else 1


CASES = [
    Case("three layers of 1000", 784, 1000, 3, 0.05, 128, "adam"),
    Case("three layers of 1000", 784, 1000, 3, 0.05, 128, "sgd"),
    Case("two layers of 4096", 4096, 4096, 2, 0.05, 128, "adam"),
    Case("two layers of 4096", 4096, 4096, 2, 0.05, 8, "adam"),
    Case("two layers of 16384", 16384, 16384, 2, 0.01, 128, "adam", steps=4),
    Case("one layer of 4096", 4096, 4096, 1, 0.05, 1, "none"),
    Case("one layer of 4096", 4096, 4096, 1, 0.05, 1, "none", storage="bfloat16"),
    Case("one layer of 4096", 4096, 4096, 1, 0.05, 1, "served"),
    Case("one layer of 16384", 16384, 16384, 1, 0.05, 1, "none"),
    Case("one layer of 16384", 16384, 16384, 1, 0.05, 1, "none", storage="bfloat16"),
    Case("one layer of 16384", 16384, 16384, 1, 0.05, 1, "none", oversample=1),
]
CLASSES = 10


def make_model(case: Case, sparse: bool) -> keras.Model:
    keras.utils.set_random_seed(0)

    def hidden() -> keras.layers.Layer:
        if sparse:
            return keras_lsh.LSHDense(
                case.width,
                activation="relu",
                active=case.active,
                oversample=case.oversample,
            )
        return keras.layers.Dense(case.width, activation="relu")

    outputs = [keras.layers.Dense(CLASSES)] if trains(case) else []
    model = keras.Sequential(
        [keras.Input((case.inputs,)), *(hidden() for _ in range(case.layers)), *outputs]
    )
    if outputs:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        adam = keras_lsh.LazyAdam if sparse else keras.optimizers.Adam
        sgd = keras.optimizers.SGD(0.01)
        model.compile(
            sgd if case.optimizer == "sgd" else adam(1e-3),
            loss,
            steps_per_execution=case.steps_per_execution,
        )
    return model


def trains(case: Case) -> bool:
    return case.optimizer in ("adam", "sgd")


def training(case: Case, sparse: bool) -> Callable[[], float]:
    """A function that trains for some steps and returns milliseconds per step."""
    model = make_model(case, sparse)
    rng = np.random.default_rng(0)
    # Inputs near a subspace, as those of real layers are.
    factors = rng.normal(size=(case.batch * case.steps, 30)) @ rng.normal(
        size=(30, case.inputs)
    )
    noise = rng.normal(size=factors.shape)
    x = ((factors + noise) / np.sqrt(31)).astype("float32")
    y = rng.integers(0, CLASSES, len(x))
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(case.batch).cache()
    callbacks = [keras_lsh.RebuildTables()] if sparse else []

    def run() -> float:
        watch = Watch()
        model.fit(data, verbose=0, callbacks=[*callbacks, watch])
        return watch.milliseconds_per_step

    return run


class Watch(keras.callbacks.Callback):
    """The time of the steps after the first execution, rebuilds of tables included."""

    def on_train_begin(self, logs: Any = None) -> None:
        self.start: tuple[float, int] | None = None

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        now = time.perf_counter()
        if self.start is None:
            self.start = now, batch
        else:
            start, first = self.start
            self.milliseconds_per_step = 1000 * (now - start) / (batch - first)


def inference(case: Case, sparse: bool) -> Callable[[], float]:
    """A function that passes batches through and returns milliseconds per batch."""
    model = make_model(case, sparse)
    x = tf.random.stateless_normal([case.batch, case.inputs], [0, 1])
    if sparse:  # let the layer see inputs, as training would
        seen = tf.random.stateless_normal([512, case.inputs], [0, 2])
        for layer in model.layers:
            layer(seen, training=True)
            layer.rebuild_tables()
            seen = layer(seen)
        if case.storage != "float32":
            model = keras_lsh.with_storage(model, case.storage)
    if case.optimizer == "served":
        with tempfile.TemporaryDirectory() as folder:
            model.export(folder, verbose=False)
            model = tf.saved_model.load(folder)
        function = model.serve
    else:
        function = tf.function(lambda inputs: model(inputs, training=False))
    function(x)

    def run() -> float:
        assert model is not None  # a SavedModel lives as long as somebody holds it
        start = time.perf_counter()
        for _ in range(case.steps):
            function(x)
        return 1000 * (time.perf_counter() - start) / case.steps

    return run


def measure(case: Case, rounds: int) -> dict[str, Any]:
    make = training if trains(case) else inference
    runs = {"lsh": make(case, True), "dense": make(case, False)}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(rounds + 1):
        for name, run in runs.items():
            milliseconds = run()
            if round_ > 0:  # the first one traces and compiles
                times[name].append(milliseconds)
    row: dict[str, Any] = {"benchmark": "layer_step", **case._asdict()}
    for name, values in times.items():
        quartiles = np.percentile(values, [25, 50, 75])
        row[f"{name}_ms"] = round(float(quartiles[1]), 3)
        row[f"{name}_quartiles_ms"] = [round(float(q), 3) for q in quartiles[[0, 2]]]
    row["times_as_fast"] = round(row["dense_ms"] / row["lsh_ms"], 2)
    if trains(case):
        row["lsh_peak_mib"], row["dense_peak_mib"] = (
            peak_memory_mib(case, sparse) for sparse in (True, False)
        )
        row["tables_mib"] = round(tables_mib(case), 1)
    return row | {"rounds": rounds} | machine.facts(seed=0)


def peak_memory_mib(case: Case, sparse: bool) -> int:
    """Of a process that trains for a few steps."""
    command = [sys.executable, __file__, "--memory-of", json.dumps([case, sparse])]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(run.stdout.split()[-1])


def tables_mib(case: Case) -> float:
    weights = make_model(case, True).non_trainable_weights
    return sum(np.prod(w.shape) * np.dtype(w.dtype).itemsize for w in weights) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--quick", action="store_true", help="the smallest case, briefly"
    )
    parser.add_argument("--only", default="", help="cases with this in their name")
    parser.add_argument("--out", help="file to add the rows to, besides stdout")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        case, sparse = json.loads(options.memory_of)
        training(Case(*case)._replace(steps=4), sparse)()
        print(machine.proc_kib("/proc/self/status", "VmHWM") // 1024)
        return
    if options.quick:
        options.rounds = 2
    for case in [CASES[0]._replace(steps=20)] if options.quick else CASES:
        if options.only not in case.name:
            continue
        row = json.dumps(measure(case, options.rounds))
        print(row, flush=True)
        if options.out:
            with open(options.out, "a") as file:
                file.write(row + "\n")


if __name__ == "__main__":
    main()
