"""Dense against LSHDense: one network, trained three times, in one table and one plot.

    python examples/demo.py                          # Rectangles, needs no network
    python examples/demo.py --data fashion_mnist     # any TFDS image classification set

The network has three hidden layers of 1000 ReLU units. It is trained with `Dense`, with
`LSHDense` (hash tables choose 5 % of the neurons for each sample) and, as a control,
with `LSHDense` choosing as many neurons at random: with the same data, epochs, batch
size, learning rate and seed. Then the LSH model is exported as a SavedModel, loaded in
a new process that knows nothing of Keras, and its predictions are compared.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

# Before TensorFlow is imported: errors only.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


@contextlib.contextmanager
def quiet_native_stderr() -> Iterator[None]:
    """Keeps what native code writes to stderr, unless an exception gets out.

    TensorFlow says which CPU and GPU it found before it reads any log level.
    """
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            kept.seek(0)
            os.write(stderr, kept.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


with quiet_native_stderr():
    import keras
    import numpy as np
    import tensorflow as tf

    import keras_lsh
    from keras_lsh import datasets

    tf.constant(0)  # The rest of its greetings come with the first op.

# TFDS warns of every data set that is not there yet.
logging.getLogger("absl").setLevel(logging.ERROR)

HIDDEN_LAYERS = 3
UNITS = 1000
BATCH_SIZE = 128
LEARNING_RATE = 1e-3
REBUILD_EVERY = 10
"""Training steps between two rebuilds of the hash tables."""
TRAINING_STEPS = 1200
"""What `--epochs` comes to by default."""
CURVE_EXAMPLES = 5000
"""Test images behind a point of the training curves; no choice is made from them."""
REPORT_EXAMPLES = 2000
"""Test images on which recall is measured: each needs all products."""
RELOAD_EXAMPLES = 256

DENSE = "Dense"
LSH = "LSHDense"
RANDOM = "random control"


@dataclasses.dataclass
class Result:
    """What the table says about one network; see `HEADINGS`."""

    network: str
    accuracy: float
    milliseconds: float
    active_fraction: float
    recall: list[float]
    multiplications: float
    curve: list[float]


class StepTimer(keras.callbacks.Callback):
    """Times training steps, callbacks included.

    The unit is a window of `REBUILD_EVERY` steps, so that every window holds one
    rebuild of the tables.
    """

    def __init__(self) -> None:
        super().__init__()
        self._windows: list[float] = []
        self._start: float | None = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._start = None

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if batch % REBUILD_EVERY:
            return
        now = time.perf_counter()
        if self._start is not None:
            self._windows.append((now - self._start) / REBUILD_EVERY)
        self._start = now

    @property
    def milliseconds(self) -> float:
        """Median time of a step; the first window is warm-up."""
        return 1000 * float(np.median(self._windows[1:] or self._windows or [np.nan]))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        default="rectangles",
        help="rectangles, convex, or any TFDS image classification set such as mnist "
        "or fashion_mnist (default: %(default)s)",
    )
    parser.add_argument(
        "--tfds-dir",
        metavar="DIR",
        help="where TFDS keeps prepared data (default: TFDS' own, "
        "~/tensorflow_datasets)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="little data and 2 epochs, to see it run"
    )
    parser.add_argument(
        "--epochs",
        type=int,
        metavar="N",
        help=f"epochs (default: about {TRAINING_STEPS} steps)",
    )
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument(
        "--active",
        type=float,
        default=0.05,
        metavar="FRACTION",
        help="neurons that a sample may use in a hidden layer, as a fraction of all "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path("demo_output"),
        metavar="DIR",
        help="where the plot and the SavedModel go (default: %(default)s)",
    )
    arguments = parser.parse_args()
    if not 0 < arguments.active <= 1:
        parser.error(f"--active must be in (0, 1], not {arguments.active}")
    if arguments.epochs is not None and arguments.epochs < 1:
        parser.error(f"--epochs must be at least 1, not {arguments.epochs}")
    return arguments


def load_data(arguments: argparse.Namespace) -> tuple[Any, Any, int]:
    """Returns `(x_train, y_train), (x_test, y_test), classes`, images as rows."""
    name = arguments.data
    if arguments.quick and name in ("rectangles", "convex"):
        name += "/small"
    train, test, info = datasets.load(name, arguments.tfds_dir, flatten=True)
    if arguments.quick:
        train, test = ([array[:2000] for array in split] for split in (train, test))
    classes = info.supervised_keys[1]
    return train, test, info.features[classes].num_classes


def make_network(
    kind: str, inputs: int, classes: int, active: float
) -> keras.Sequential:
    def hidden(number: int) -> keras.layers.Layer:
        name = f"hidden_{number}"
        if kind == DENSE:
            return keras.layers.Dense(UNITS, activation="relu", name=name)
        selection = "lsh" if kind == LSH else "random"
        return keras_lsh.LSHDense(
            UNITS, activation="relu", active=active, selection=selection, name=name
        )

    model = keras.Sequential(
        [
            keras.Input((inputs,)),
            *(hidden(number + 1) for number in range(HIDDEN_LAYERS)),
            keras.layers.Dense(classes, activation="softmax", name="output"),
        ]
    )
    adam = keras.optimizers.Adam if kind == DENSE else keras_lsh.LazyAdam
    model.compile(
        adam(LEARNING_RATE), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return model


def train_and_measure(
    kind: str, train: Any, test: Any, classes: int, epochs: int, options: Any
) -> tuple[Result, keras.Model]:
    (x_train, y_train), (x_test, y_test) = train, test
    keras.utils.set_random_seed(options.seed)
    model = make_network(kind, x_train.shape[1], classes, options.active)
    timer = StepTimer()
    callbacks: list[keras.callbacks.Callback] = [timer]
    if kind != DENSE:
        callbacks.append(keras_lsh.RebuildTables(every=REBUILD_EVERY))
    # Again, since initialisation takes its share of random numbers: the three see the
    # same batches.
    keras.utils.set_random_seed(options.seed)
    history = model.fit(
        x_train,
        y_train,
        batch_size=BATCH_SIZE,
        epochs=epochs,
        validation_data=(x_test[:CURVE_EXAMPLES], y_test[:CURVE_EXAMPLES]),
        validation_batch_size=1000,
        callbacks=callbacks,
        # Bars, drawn over and over, fill a log file: there, a line per epoch.
        verbose=1 if sys.stdout.isatty() else 2,
    ).history
    _, accuracy = model.evaluate(x_test, y_test, batch_size=1000, verbose=0)
    if kind == DENSE:
        active_fraction, recall = 1.0, []
        multiplications = float(
            UNITS * (x_train.shape[1] + (HIDDEN_LAYERS - 1) * UNITS)
        )
    else:
        report = keras_lsh.diagnostics.report(
            model,
            x_test[:REPORT_EXAMPLES],
            batch_size=BATCH_SIZE,
            rebuild_every=REBUILD_EVERY,
        )
        active_fraction = report.active_fraction
        recall = [layer.recall for layer in report.layers]
        multiplications = report.multiplications
    result = Result(
        network=kind,
        accuracy=float(accuracy),
        milliseconds=timer.milliseconds,
        active_fraction=active_fraction,
        recall=recall,
        multiplications=multiplications,
        curve=[float(value) for value in history["val_accuracy"]],
    )
    return result, model


def table(results: list[Result], active: int) -> str:
    dense = results[0].multiplications
    rows = [
        (
            "",
            "test",
            "ms per",
            "",
            f"recall of the true top {active}",
            "multiplications",
        ),
        ("", "accuracy", "step", "active", "by layer (mean)", "per sample"),
    ]
    for result in results:
        recall = "-"
        if result.recall:
            by_layer = " ".join(f"{value:.2f}" for value in result.recall)
            recall = f"{by_layer} ({np.mean(result.recall):.2f})"
        share = 100 * result.multiplications / dense
        rows.append(
            (
                result.network,
                f"{100 * result.accuracy:.2f} %",
                f"{result.milliseconds:.1f}",
                f"{100 * result.active_fraction:.1f} %",
                recall,
                f"{result.multiplications:,.0f} ({share:5.1f} %)",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *rest in rows:
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(w) for cell, w in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join(cells))
    lines.insert(2, "-" * len(lines[0]))
    return "\n".join(lines)


def plot(results: list[Result], active: int, title: str, path: pathlib.Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colours = {DENSE: "tab:gray", LSH: "tab:blue", RANDOM: "tab:orange"}
    figure, (curves, recalls, costs) = plt.subplots(
        1, 3, figsize=(15, 4.8), width_ratios=[1.4, 1, 1], layout="constrained"
    )
    figure.suptitle(title)

    for result in results:
        epochs = np.arange(1, len(result.curve) + 1)
        curves.plot(
            epochs,
            100 * np.array(result.curve),
            marker="o",
            markersize=4,
            color=colours[result.network],
            label=f"{result.network}: {100 * result.accuracy:.1f} % in the end",
        )
    curves.set(
        title="Accuracy while training", xlabel="epoch", ylabel="test accuracy, %"
    )
    curves.xaxis.get_major_locator().set_params(integer=True)
    curves.grid(alpha=0.3)
    curves.legend()

    selecting = [result for result in results if result.recall]
    width = 0.8 / len(selecting)
    for index, result in enumerate(selecting):
        bars = recalls.bar(
            np.arange(len(result.recall)) + (index - (len(selecting) - 1) / 2) * width,
            100 * np.array(result.recall),
            width,
            color=colours[result.network],
            label=result.network,
        )
        recalls.bar_label(bars, fmt="%.0f")
    recalls.set(
        title=f"The true top {active} neurons of a sample",
        xlabel="hidden layer",
        ylabel="found among the active ones (recall), %",
        ylim=(0, 125),  # room for the legend
        xticks=range(HIDDEN_LAYERS),
        xticklabels=range(1, HIDDEN_LAYERS + 1),
    )
    recalls.legend(loc="upper center", ncols=2)

    bars = costs.bar(
        [result.network for result in results],
        [result.multiplications / 1e6 for result in results],
        color=[colours[result.network] for result in results],
    )
    dense = results[0].multiplications
    costs.bar_label(
        bars, [f"{100 * result.multiplications / dense:.1f} %" for result in results]
    )
    costs.set(
        title="Work in the hidden layers, forward",
        ylabel="multiplications per sample, millions",
    )
    costs.margins(y=0.12)
    figure.savefig(path, dpi=120)
    plt.close(figure)


# All that a program needs to serve the model: TensorFlow and the op library.
RELOAD = """
import sys
import numpy
import tensorflow
library, saved_model, inputs, outputs = sys.argv[1:]
if library:
    tensorflow.load_op_library(library)
model = tensorflow.saved_model.load(saved_model)
numpy.save(outputs, model.serve(numpy.load(inputs)).numpy())
"""


def export_and_reload(model: keras.Model, x: np.ndarray, path: pathlib.Path) -> bool:
    """Exports the model, and tells whether a new process predicts the same bits."""
    shutil.rmtree(path, ignore_errors=True)
    model.export(path, verbose=False)
    library = "" if keras_lsh.ops.using_reference() else keras_lsh.ops.library_path()
    with tempfile.TemporaryDirectory() as scratch:
        inputs = os.path.join(scratch, "inputs.npy")
        outputs = os.path.join(scratch, "outputs.npy")
        np.save(inputs, x)
        process = subprocess.run(
            [
                sys.executable,
                "-c",
                RELOAD,
                str(library),
                str(path.resolve()),
                inputs,
                outputs,
            ],
            cwd=scratch,
            capture_output=True,
            text=True,
            check=False,
        )
        if process.returncode:
            sys.exit(f"The new process failed:\n{process.stderr}")
        served = np.load(outputs)
    return np.array_equal(served, model.predict(x, batch_size=len(x), verbose=0))


def main() -> int:
    options = parse_arguments()
    start = time.perf_counter()
    # Whatever is missing should be found before the training.
    try:
        import matplotlib  # noqa: F401

        if not keras_lsh.ops.using_reference():
            keras_lsh.ops.library()
        options.out.mkdir(parents=True, exist_ok=True)
    except (OSError, keras_lsh.ops.OpLibraryError) as error:
        sys.exit(str(error))
    except ImportError as error:
        sys.exit(f'{error}. Install it with: pip install "keras_lsh[datasets,plot]"')
    try:
        train, test, classes = load_data(options)
    except OSError as error:
        sys.exit(f"{error}\n`data_dir` is --tfds-dir here; with make, TFDS_DIR=.")
    except (ImportError, ValueError) as error:
        sys.exit(str(error))

    examples, inputs = train[0].shape
    steps = -(-examples // BATCH_SIZE)
    epochs = options.epochs or (
        2 if options.quick else max(1, round(TRAINING_STEPS / steps))
    )
    active = max(1, round(options.active * UNITS))
    shape = "-".join(map(str, [inputs, *[UNITS] * HIDDEN_LAYERS, classes]))
    print(
        f"Data: {options.data}, {examples:,} images to train on, {len(test[0]):,} to "
        f"test on, {classes} classes\n"
        f"Network: {shape}, ReLU; epochs: {epochs}, of {steps} steps each; "
        f"batch {BATCH_SIZE}, Adam {LEARNING_RATE:g}, seed {options.seed}"
    )
    headings = {
        DENSE: f"Dense: every sample computes all {UNITS} neurons of a hidden layer",
        LSH: f"LSHDense: {active} neurons a sample, found in hash tables that are "
        f"rebuilt every {REBUILD_EVERY} steps",
        RANDOM: f"The control: LSHDense with {active} neurons a sample drawn at random",
    }
    results, models = [], {}
    for number, (kind, heading) in enumerate(headings.items(), start=1):
        print(f"\n{number}/{len(headings)}  {heading}", flush=True)
        result, models[kind] = train_and_measure(
            kind, train, test, classes, epochs, options
        )
        results.append(result)

    print(f"\n{table(results, active)}")
    print(
        f"Accuracy: of all {len(test[0]):,} test images. Time: median, rebuilds of the "
        "tables included.\nMultiplications: of the hidden layers, forward; hashing, "
        "candidates and rebuilds included.\n"
    )

    picture = options.out / "comparison.png"
    plot(results, active, f"{options.data}: {shape}, epochs: {epochs}", picture)
    figures = options.out / "results.json"
    rows = [dataclasses.asdict(result) for result in results]
    figures.write_text(json.dumps(rows, indent=2) + "\n")
    saved_model = options.out / "saved_model"
    x = test[0][:RELOAD_EXAMPLES]
    same = export_and_reload(models[LSH], x, saved_model)
    print(f"Plot:        {picture.resolve()}")
    print(f"Figures:     {figures.resolve()}")
    print(f"SavedModel:  {saved_model.resolve()}")
    print(
        f"Loaded again in a new process: its predictions for {len(x)} test images are "
        f"{'the same, bit for bit' if same else 'DIFFERENT from those of the model'}"
    )
    print(f"Time:        {time.perf_counter() - start:.0f} s")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
