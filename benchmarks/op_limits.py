"""How far is each op from what the machine could do?

    python benchmarks/op_limits.py --out rows.jsonl

The forward op, its two gradients and the update by LazyAdam run alone, on the active
sets of a layer that was trained for some steps. Each is compared with its limit: the
longer of two times, that of its multiplications at the machine's peak and that of the
bytes it cannot avoid at the machine's bandwidth. Both are measured here: the peak by a
dense matrix product, the bandwidth by a matrix times a vector. Multiplications are
those of the active pairs alone; bytes are the rows of the kernel that some sample uses,
each once, and the inputs and results, each once.

One JSON row per op and number of threads: its minimum and median time, its limit and
what sets it, and, with two threads or more, how many times as fast as with one. With
`--company`, also how many times as much as one process as many processes of one thread
do, all at the same op (`of_processes`): they share nothing but the machine, so this is
what its caches and memory allow.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import machine
import numpy as np
import tensorflow as tf

import keras_lsh
from keras_lsh import ops

FLOAT = 4  # bytes
OPS = "forward", "gradient by inputs", "gradient by kernel", "LazyAdam"


def time_of(function: Callable[[], Any], repeats: int) -> list[float]:
    """Seconds, the first calls left out."""
    times = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return times[2:]


def flops_per_second(repeats: int) -> float:
    n = 512  # short enough to be left alone by other work, now and then
    a = tf.random.stateless_normal([n, n], [0, 1])
    product = tf.function(lambda: tf.reduce_max(tf.matmul(a, a)))
    return 2 * n**3 / min(time_of(lambda: product().numpy(), repeats))


def bytes_per_second(repeats: int) -> float:
    a = tf.ones([2**12, 2**13])  # 128 MiB: no cache holds it
    b = tf.ones([2**13])
    product = tf.function(lambda: tf.linalg.matvec(a, b))
    return FLOAT * 2**25 / min(time_of(lambda: product().numpy(), repeats))


class Case:
    """A layer that has seen inputs, and one batch for it."""

    def __init__(self, batch: int, width: int, active: float, seed: int):
        keras.utils.set_random_seed(seed)
        rng = np.random.default_rng(seed)
        factors = rng.normal(size=(4 * batch, 30)) @ rng.normal(size=(30, width))
        inputs = (factors + rng.normal(size=factors.shape)) / np.sqrt(31)
        inputs = tf.constant(np.maximum(inputs, 0), tf.float32)
        layer = keras_lsh.LSHDense(width, active=active, oversample=1)
        layer.build((None, width))
        for _ in range(3):
            layer(inputs, training=True)
            layer.rebuild_tables()
        self.layer, self.inputs = layer, inputs[:batch]
        self.ids = layer.active_ids(self.inputs)
        self.rows = int(tf.size(tf.unique(tf.reshape(self.ids, [-1]))[0]))
        self.pairs = int(tf.size(self.ids))
        self.width = width

    def ops(self) -> dict[str, tuple[Callable[[], Any], float, float]]:
        """Of each op: how to run it, its FLOPs and its bytes."""
        library, layer = ops.library(), self.layer
        kernel, bias = layer.kernel.value.handle, layer.bias.value.handle
        inputs, ids, keys = (
            self.inputs,
            self.ids,
            tf.convert_to_tensor(layer._selector.neuron_keys),
        )
        gradient = tf.random.stateless_normal(ids.shape, [0, 2])
        nothing = tf.zeros([0, 0], tf.int32)
        units = tf.constant(layer.units, tf.int64)
        optimizer = keras_lsh.LazyAdam()
        optimizer.build([layer.kernel])
        groups = library.lsh_group_by_neuron(ids, units)
        by_kernel = library.lsh_active_matmul_grad_kernel(
            gradient, ids, *groups, inputs
        )
        slices = tf.IndexedSlices(by_kernel, groups[0], layer.kernel.shape)
        update = tf.function(lambda: optimizer.apply([slices], [layer.kernel]))
        rows = FLOAT * self.rows * self.width
        batch = FLOAT * int(tf.size(inputs))
        products = 2.0 * self.pairs * self.width
        return {
            "forward": (
                lambda: library.lsh_resource_active_matmul(
                    inputs, ids, nothing, keys, kernel, [bias]
                ),
                products,
                rows + batch,
            ),
            "gradient by inputs": (
                lambda: library.lsh_resource_active_matmul_grad_input(
                    gradient, ids, *groups, kernel, nothing
                ),
                products,
                rows + batch,
            ),
            "gradient by kernel": (
                lambda: library.lsh_active_matmul_grad_kernel(
                    gradient, ids, *groups, inputs
                ),
                products,
                rows + batch,
            ),
            # Reads the gradient and three variables, writes these.
            "LazyAdam": (update, 15.0 * self.rows * self.width, 7 * rows),
        }


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows for the number of threads that TensorFlow has."""
    peak = flops_per_second(options.repeats)
    bandwidth = bytes_per_second(options.repeats)
    rows = []
    for width in options.widths:
        case = Case(options.batch, width, options.active, options.seed)
        for name, (run, flops, moved) in case.ops().items():
            if options.only not in name:
                continue
            seconds = time_of(run, options.repeats)
            by_peak, by_bandwidth = flops / peak, moved / bandwidth
            limit = max(by_peak, by_bandwidth)
            rows.append(
                {
                    "benchmark": "op_limits",
                    "op": name,
                    "batch": options.batch,
                    "width": width,
                    "active": options.active,
                    "rows": case.rows,
                    "min_ms": round(1000 * min(seconds), 3),
                    "median_ms": round(1000 * float(np.median(seconds)), 3),
                    "limit_ms": round(1000 * limit, 3),
                    "limit_is": "peak" if by_peak > by_bandwidth else "bandwidth",
                    "times_the_limit": round(min(seconds) / limit, 2),
                    "peak_gflops": round(peak / 1e9, 1),
                    "bandwidth_gb": round(bandwidth / 1e9, 1),
                    "repeats": options.repeats,
                }
                | machine.facts(options.seed)
            )
    return rows


def measure_elsewhere(
    threads: int, arguments: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """`measure` in a process of its own: TensorFlow's threads are set once."""
    command = [sys.executable, *sys.argv, "--with-threads", str(threads), *arguments]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in result.stdout.splitlines()]


def keep_company(options: argparse.Namespace) -> None:
    """Runs an op, given as "width op", until there is no more standard input."""
    width, name = options.keep_company.split(" ", 1)
    case = Case(options.batch, int(width), options.active, options.seed)
    run, _, _ = case.ops()[name]
    run()
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0))).start()
    print("ready", flush=True)
    while True:
        run()


def of_processes(options: argparse.Namespace, threads: int) -> dict[Any, float]:
    """The median milliseconds of ops, by op and width, in one of so many processes."""
    command = [sys.executable, *sys.argv, "--with-threads", "1"]
    found = {}
    for width in options.widths:
        for name in OPS:
            alike = [*command, "--keep-company", f"{width} {name}"]
            with contextlib.ExitStack() as stack:
                for _ in range(threads - 1):
                    other = stack.enter_context(
                        subprocess.Popen(
                            alike,
                            stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE,
                            text=True,
                        )
                    )
                    assert other.stdout is not None  # it is a pipe
                    if other.stdout.readline() != "ready\n":
                        sys.exit(f"{' '.join(alike)} has failed")
                one = ["--only", name, "--widths", str(width)]
                rows = measure_elsewhere(1, one)
                found[name, width] = rows[0]["median_ms"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--widths", type=int, nargs="+", default=[1000, 4096])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--active", type=float, default=0.05)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="the small layer, briefly")
    parser.add_argument("--out", help="file for the rows, besides stdout")
    parser.add_argument("--only", default="", help="ops with this in their name")
    parser.add_argument(
        "--company", action="store_true", help="processes beside each other, too"
    )
    parser.add_argument("--with-threads", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--keep-company", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.widths, options.repeats = [200], 5
    if options.with_threads:
        tf.config.threading.set_intra_op_parallelism_threads(options.with_threads)
        if options.keep_company:
            return keep_company(options)
        for row in measure(options):
            print(json.dumps(row))
        return
    lines: list[str] = []
    alone: dict[Any, dict[str, Any]] = {}
    for threads in options.threads:
        rows = measure_elsewhere(threads)
        together = {}
        if options.company and threads > 1:
            together = of_processes(options, threads)
        for row in rows:
            key = row["op"], row["width"]
            one = alone.setdefault(key, row)
            row["times_as_fast_as_alone"] = round(one["min_ms"] / row["min_ms"], 2)
            if key in together:
                share = one["median_ms"] / together[key]
                row["of_processes"] = round(threads * share, 2)
            lines.append(json.dumps(row))
            print(lines[-1], flush=True)
    if options.out:
        with open(options.out, "w") as file:
            file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
