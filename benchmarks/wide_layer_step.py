"""Does the time of a training step grow with the number of neurons?

It should not, as long as the number of active ones stays the same: no read, gradient or
update of the step may touch the whole kernel. This trains kernels of several heights on
batches that use 2,000 different rows, and prints one JSON row per case: median and
quartiles of the time of a step, and the memory that the process needs for it.

    python benchmarks/wide_layer_step.py --out rows.jsonl

A step is the forward pass (`active_matmul`), a softmax cross-entropy over the values of
each sample's active neurons, the gradients by inputs, kernel and bias, and the update.
Cases, per number of units:

    LazyAdam, SGD   given ids: row-sparse from end to end
    near            LazyAdam, but all rows are among the first of the kernel, as many as
                    the smallest kernel has. Where this takes less time than LazyAdam,
                    the difference is what reaching far rows in memory costs.
    lsh             LazyAdam, ids from the hash tables of an LSHDense layer; buckets of
                    about 50 neurons (bits are whole numbers) at any number of units
    Adam            given ids, the optimizer of Keras: what a dense update costs

Steps of all cases are timed in turn, in an order that changes every time, so that a
disturbance, and what a case leaves in the caches, hits all of them. The memory
of each case is measured in a process of its own.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import keras
import machine
import numpy as np
import tensorflow as tf

import keras_lsh
from keras_lsh import ops

OPTIMIZERS: dict[str, Callable[[], keras.optimizers.Optimizer]] = {
    "LazyAdam": lambda: keras_lsh.LazyAdam(1e-3),
    "SGD": lambda: keras.optimizers.SGD(1e-3),
    "near": lambda: keras_lsh.LazyAdam(1e-3),
    "lsh": lambda: keras_lsh.LazyAdam(1e-3),
    "Adam": lambda: keras.optimizers.Adam(1e-3),
}
NEURONS_PER_BUCKET = 50


class Case:
    """A kernel, an optimizer, batches, and the function that does one step."""

    def __init__(self, name: str, units: int, options: argparse.Namespace):
        self.name, self.units = name, units
        self.times: list[float] = []
        rng = np.random.default_rng(options.seed)
        shape = units, options.input_dim
        layer = None
        if name == "lsh":
            bits = max(1, round(np.log2(units / NEURONS_PER_BUCKET)))
            layer = keras_lsh.LSHDense(
                units,
                active=options.active,
                hashing=keras_lsh.SimHash(bits=bits, tables=4, probes=2),
            )
            layer.build((None, options.input_dim))
            kernel, bias = layer.kernel, layer.bias
        else:
            values = rng.standard_normal(shape, np.float32) * 0.05
            kernel = keras.Variable(values)
            bias = keras.Variable(np.zeros(units, np.float32))
        optimizer = OPTIMIZERS[name]()
        optimizer.build([kernel, bias])
        self.batches = [self._batch(rng, options) for _ in range(options.batches)]
        self.rows_in_gradient = tf.Variable(0)

        @tf.function
        def step(inputs: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
            if layer is not None:
                ids = layer.active_ids(inputs)
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                values, _ = ops.active_matmul(inputs, kernel, bias, ids)
                labels = tf.zeros([options.batch], tf.int32)
                loss = tf.reduce_mean(
                    tf.nn.sparse_softmax_cross_entropy_with_logits(labels, values)
                )
            by_inputs, *gradients = tape.gradient(
                loss, [inputs, kernel.value, bias.value]
            )
            optimizer.apply(gradients, [kernel, bias])
            self.rows_in_gradient.assign(tf.size(gradients[1].indices))
            return loss + 0 * by_inputs[0, 0]

        self._step = step

    def _batch(
        self, rng: np.random.Generator, options: argparse.Namespace
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Inputs, and ids that use each of `rows` different neurons."""
        inputs = rng.standard_normal([options.batch, options.input_dim], np.float32)
        among = min(options.units) if self.name == "near" else self.units
        rows = rng.choice(among, options.rows, replace=False).astype(np.int32)
        ids = np.resize(rows, [options.batch, options.active])
        return tf.constant(inputs), tf.constant(np.sort(ids, axis=1))

    def step(self, number: int) -> None:
        """One step, timed."""
        inputs, ids = self.batches[number % len(self.batches)]
        start = time.perf_counter()
        self._step(inputs, ids).numpy()
        self.times.append(time.perf_counter() - start)

    def memory(self, steps: int) -> dict[str, float]:
        """The peak of the process's memory, and how far the steps raised it."""
        self._step.get_concrete_function(*self.batches[0])
        before = machine.proc_kib("/proc/self/status", "VmRSS")
        machine.reset_peak_memory()
        for number in range(steps):
            self.step(number)
        peak = machine.proc_kib("/proc/self/status", "VmHWM")
        return {
            "peak_rss_mib": round(peak / 1024),
            "step_adds_mib": round((peak - before) / 1024),
        }

    def row(self) -> dict[str, Any]:
        milliseconds = np.array(self.times) * 1000
        low, median, high = np.percentile(milliseconds, [25, 50, 75]).round(3)
        return {
            "benchmark": "wide_layer_step",
            "case": self.name,
            "units": self.units,
            "rows": int(self.rows_in_gradient),
            "median_ms": median,
            "quartiles_ms": [low, high],
            "min_ms": milliseconds.min().round(3),
            "steps": len(milliseconds),
        }


def measure_memory_elsewhere(case: Case) -> dict[str, float]:
    """`case.memory()` in a process of its own."""
    command = [sys.executable, *sys.argv, "--memory-of", case.name, str(case.units)]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--units", type=int, nargs="+", default=[50_000, 500_000])
    parser.add_argument("--input-dim", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--active", type=int, default=64, help="neurons of a sample")
    parser.add_argument("--rows", type=int, default=2000, help="neurons of a batch")
    parser.add_argument("--batches", type=int, default=40, help="different batches")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--cases", nargs="+", choices=OPTIMIZERS, default=[*OPTIMIZERS])
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="a file to append the rows to")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.active <= options.rows <= options.batch * options.active:
        parser.error("--rows must be from --active to --batch times --active")
    if options.rows > min(options.units):
        parser.error("--rows must be at most --units")
    return options


def main() -> None:
    options = parse_arguments()
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    keras.utils.set_random_seed(options.seed)
    if options.memory_of:
        name, units = options.memory_of
        print(json.dumps(Case(name, int(units), options).memory(steps=10)))
        return
    facts = machine.facts(options.seed)
    cases = [Case(n, units, options) for n in options.cases for units in options.units]
    memory = [measure_memory_elsewhere(case) for case in cases]
    for case in cases:
        for number in range(5):
            case.step(number)
        case.times.clear()
    order = np.random.default_rng(options.seed)
    for number in range(options.steps):
        for case in order.permutation(np.array(cases, object)):
            # A dense update is told by a few steps, and takes a hundred times longer.
            if case.name != "Adam" or number % 20 == 0:
                case.step(number)
    for case, memory_of_case in zip(cases, memory, strict=True):
        row = json.dumps(
            case.row()
            | memory_of_case
            | {
                name: getattr(options, name)
                for name in ("input_dim", "batch", "active")
            }
            | facts
        )
        print(row)
        if options.out:
            with open(options.out, "a") as file:
                file.write(row + "\n")


if __name__ == "__main__":
    main()
