"""What does a training step with hundreds of thousands of classes cost?

    python benchmarks/extreme_step.py --out rows.jsonl

The shape of Amazon-670K: 135,909 sparse features, 128 hidden ReLU units, 670,091
classes, batches of 128, in `fit`. LSHDense with 1,000 active classes, LazyAdam and
RebuildTables, beside

- Keras' Dense with the full softmax and Adam,
- `tf.nn.sampled_softmax_loss` with 3,500 samples and Adam,
- the same with LazyAdam.

All take turns, so that what disturbs the one disturbs the others. One JSON row: median
milliseconds of a step and quartiles over the rounds (rebuilds of the tables included),
ratios to LSHDense, the peak memory of a process that trains each, LSHDense with a tenth
of the classes, and the limit of its step: the bytes that it cannot avoid at the
machine's bandwidth, which is measured here by a matrix times a vector.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import machine
import numpy as np
import tensorflow as tf
from layer_step import Watch
from op_limits import FLOAT, bytes_per_second

import keras_lsh
from keras_lsh import datasets, losses


class Case(NamedTuple):
    """A network and its batches."""

    features: int = 135_909
    hidden: int = 128
    classes: int = 670_091
    active: int = 1000
    sampled: int = 3500
    batch: int = 128
    every: int = 50


QUICK = Case(2000, 32, 5000, 100, 200, 32, 5)

# Steps of a round: so many that rounds take a few seconds each, and that of the sixteen
# rebuilds of LSHDense's tables two are of all neurons, as in a longer training.
STEPS = {"lsh": 800, "sampled_lazy": 100, "sampled_adam": 15, "dense": 6}

# Steps of a call of LSHDense and of sampled softmax with LazyAdam, which take a few
# hundredths of a second: Keras takes some two thousandths for each call.
AT_ONCE = 5


class SampledSoftmax(keras.Model):
    """A network that is trained by `tf.nn.sampled_softmax_loss`."""

    def __init__(self, case: Case):
        super().__init__()
        self.case = case
        self.hidden = keras_lsh.SparseInputDense(case.hidden, activation="relu")
        self.output_kernel = self.add_weight(
            shape=(case.classes, case.hidden), initializer="glorot_uniform"
        )
        self.output_bias = self.add_weight(shape=(case.classes,), initializer="zeros")

    def call(self, x: Any) -> tf.Tensor:
        return self.hidden(x)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, *_: Any, **__: Any
    ) -> tf.Tensor:
        loss = tf.nn.sampled_softmax_loss(
            self.output_kernel.value,
            self.output_bias.value,
            tf.cast(y[:, tf.newaxis], tf.int64),
            y_pred,
            self.case.sampled,
            self.case.classes,
        )
        return tf.reduce_mean(loss)


def make_model(name: str, case: Case) -> keras.Model:
    keras.utils.set_random_seed(0)
    features = keras.Input((case.features,), sparse=True, dtype="float32")
    if name == "dense":
        model = keras.Sequential(
            [
                features,
                keras.layers.Dense(case.hidden, activation="relu"),
                keras.layers.Dense(case.classes),
            ]
        )
        loss: Any = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(1e-3), loss)
    elif name == "lsh":
        model = keras_lsh.LSHSequential(
            [
                features,
                keras_lsh.SparseInputDense(case.hidden, activation="relu"),
                keras_lsh.LSHDense(
                    case.classes,
                    active=case.active,
                    oversample=1,
                    output="sparse",
                    force_labels=True,
                ),
            ]
        )
        model.compile(
            keras_lsh.LazyAdam(1e-3),
            losses.ActiveSoftmaxCrossentropy(),
            steps_per_execution=AT_ONCE,
        )
    else:
        model = SampledSoftmax(case)
        lazy = name == "sampled_lazy"
        optimizer = keras_lsh.LazyAdam if lazy else keras.optimizers.Adam
        model.compile(optimizer(1e-3), steps_per_execution=AT_ONCE if lazy else 1)
    return model


def batches(case: Case, steps: int) -> tf.data.Dataset:
    """Batches of one label a sample."""
    data, _ = datasets.synthetic_xc(
        features=case.features,
        labels=case.classes,
        train_samples=case.batch * steps,
        test_samples=1,
    )

    def one_label(x: Any, y: Any) -> tuple[Any, Any]:
        return x, y.to_tensor(0)[:, 0]

    # Read to its end: until then it would be made again, beside the training.
    batches = data.dataset(case.batch).map(one_label).cache()
    for _ in batches:
        pass
    return batches


def training(
    name: str, case: Case, data: tf.data.Dataset, steps: int
) -> Callable[[], float]:
    """A function that trains for some steps and returns milliseconds per step."""
    model = make_model(name, case)
    callbacks = [keras_lsh.RebuildTables(every=case.every)] if name == "lsh" else []
    data = data.take(steps)

    def run() -> float:
        watch = Watch()
        model.fit(data, verbose=0, callbacks=[*callbacks, watch])
        return watch.milliseconds_per_step

    return run


def measure(case: Case, rounds: int, scale: float) -> dict[str, Any]:
    steps = {name: max(3, round(scale * count)) for name, count in STEPS.items()}
    data = batches(case, max(steps.values()))
    tenth = case._replace(classes=case.classes // 10)
    runs = {name: training(name, case, data, count) for name, count in steps.items()}
    fewer = batches(tenth, steps["lsh"])
    runs["lsh_tenth"] = training("lsh", tenth, fewer, steps["lsh"])
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            milliseconds = run()
            if round_ > 0:  # the first one traces and compiles
                times[name].append(milliseconds)
            seconds = time.perf_counter() - start
            print(f"round {round_}: {name} {seconds:.0f} s", file=sys.stderr)
    row: dict[str, Any] = {"benchmark": "extreme_step", **case._asdict()}
    for name, values in times.items():
        quartiles = np.percentile(values, [25, 50, 75])
        row[f"{name}_ms"] = round(float(quartiles[1]), 2)
        row[f"{name}_quartiles_ms"] = [round(float(q), 2) for q in quartiles[[0, 2]]]
    for name in runs:
        if name != "lsh":
            row[f"{name}_ratio"] = round(row[f"{name}_ms"] / row["lsh_ms"], 2)
    return row | {"rounds": rounds, "steps": steps} | machine.facts(seed=0)


def limit(case: Case, steps: int) -> dict[str, Any]:
    """What LSHDense's step has to move, and how long that takes at least.

    A row of a kernel that some sample of the batch uses is read by the forward pass
    and, but in the first layer, by the gradient of the inputs; its gradient is written
    and read; it and its two moments are read and written. A rebuild reads the output
    kernel once. `gathered`: the same, if a row is read again for each of its samples.
    Both as they are after some steps: samples come to use the same rows.
    """
    model = make_model("lsh", case)
    data = batches(case, steps)
    model.fit(data, verbose=0, callbacks=[keras_lsh.RebuildTables(every=case.every)])
    rows, features, entries = [], [], []
    for x, y in data.take(8):
        with keras_lsh.label_scope(y):
            active = model(x, training=True)
        rows.append(len(np.unique(active.indices[:, 1])))
        features.append(len(np.unique(x.indices[:, 1])))
        entries.append(len(x.indices))
    row = FLOAT * case.hidden
    updated = 8 * (np.mean(rows) + np.mean(features))
    rebuilt = case.classes / case.every
    once = 2 * np.mean(rows) + np.mean(features)
    gathered = 2 * case.batch * case.active + np.mean(entries)
    bandwidth = bytes_per_second(20)

    def milliseconds(rows_read: float) -> float:
        return 1000 * row * (rows_read + updated + rebuilt) / bandwidth

    return {
        "rows_of_a_batch": round(float(np.mean(rows))),
        "bandwidth_gb": round(bandwidth / 1e9, 1),
        "limit_ms": round(milliseconds(once), 2),
        "gathered_limit_ms": round(milliseconds(gathered), 2),
    }


def peak_memory_mib(name: str, quick: bool) -> int:
    """Of a process that trains for a few steps."""
    command = [sys.executable, __file__, "--memory-of", name]
    run = subprocess.run(
        command + ["--quick"] * quick, check=True, capture_output=True, text=True
    )
    return int(run.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a small case, briefly")
    parser.add_argument("--out", help="file to add the row to, besides stdout")
    parser.add_argument("--memory-of", choices=STEPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    case = QUICK if options.quick else Case()
    if options.memory_of:
        training(options.memory_of, case, batches(case, 6), 6)()
        print(machine.proc_kib("/proc/self/status", "VmHWM") // 1024)
        return
    row = measure(case, *((2, 0.1) if options.quick else (options.rounds, 1.0)))
    row |= limit(case, 20 if options.quick else 200)
    for name in ("limit", "gathered_limit"):
        row[f"times_the_{name}"] = round(row["lsh_ms"] / row[f"{name}_ms"], 2)
    row["peak_memory_mib"] = {
        name: peak_memory_mib(name, options.quick) for name in STEPS
    }
    print(json.dumps(row))
    if options.out:
        with open(options.out, "a") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
