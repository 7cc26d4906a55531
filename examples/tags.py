"""Predicts tags: from sparse features to some of very many labels.

    python examples/tags.py                                # a synthetic set
    python examples/tags.py --train train.txt --test test.txt --names tags.txt

Files are in the text format of the Extreme Classification Repository. The network has a
hidden layer of 128 ReLU units and an output for each label, of which a sample computes
the `--active` that the hash tables find for it, its own labels always among them. With
`--explore` a batch shares what its samples compute, and so many outputs drawn at
random, which is for labels of which most are rare. At the end its precision on the test
set is measured twice, as hashing finds the labels and with all outputs computed.

Kill it whenever you like: the same command goes on, and ends as if nothing had been.
"""

from __future__ import annotations

import argparse
import pathlib
import time
from typing import Any

# It imports TensorFlow without its greetings, so it comes first.
import resumable

# isort: split
import keras
import numpy as np

import keras_lsh
from keras_lsh import datasets

HIDDEN_UNITS = 128
TOP = (1, 3, 5)
"""The k of the precisions at k."""
SHOWN = 3
"""Test samples whose predictions are printed."""
TIMED = 100
"""Test samples that are predicted one by one."""

SHARED_OVERSAMPLE = 16
"""Candidates for each output that a sample of a shared batch computes."""

DEFAULTS = {
    "synthetic": [20_000, 30_000, 100_000, 10_000],
    "epochs": 5,
    "active": 500,
    "every": 5,
    "segment": 1500,
}
QUICK = {
    "synthetic": [1000, 2000, 12_800, 1000],
    "epochs": 2,
    "learning_rate": 1e-2,
    "active": 100,
    "segment": 100,
}


def parse_arguments(
    doc: str | None, output: str, defaults: dict[str, Any], quick: dict[str, Any]
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for split in ("train", "test"):
        parser.add_argument(
            f"--{split}",
            type=pathlib.Path,
            metavar="FILE",
            help=f"samples to {split} on; a line 'points features labels', then "
            "'label,label feature:value feature:value' for each point",
        )
    parser.add_argument(
        "--names",
        type=pathlib.Path,
        metavar="FILE",
        help="names of the labels, one a line, for the predictions that are printed",
    )
    parser.add_argument(
        "--model",
        type=pathlib.Path,
        metavar="FILE",
        help="where to save the trained model; a name that ends in .keras",
    )
    parser.add_argument(
        "--synthetic",
        type=resumable.positive,
        nargs=4,
        metavar=("FEATURES", "LABELS", "TRAIN", "TEST"),
        default=defaults["synthetic"],
        help="size of the set that is made up where no files are given (default: "
        + " ".join(map(str, defaults["synthetic"]))
        + ")",
    )
    for name, default, what in (
        ("epochs", defaults["epochs"], "times that all samples are trained on"),
        ("batch-size", 128, "samples in a batch"),
        ("active", defaults["active"], "outputs that a sample computes"),
        (
            "rebuild-every",
            defaults["every"],
            "steps between two rebuilds of the hash tables",
        ),
    ):
        parser.add_argument(
            f"--{name}",
            type=resumable.positive,
            default=default,
            metavar="N",
            help=f"{what} (default: %(default)s)",
        )
    parser.add_argument(
        "--explore",
        type=resumable.positive,
        default=defaults.get("explore"),
        metavar="N",
        help="outputs drawn at random for a batch, which then shares all that its "
        "samples compute (default: %(default)s)",
    )
    parser.add_argument(
        "--learning-rate",
        type=resumable.positive_number,
        default=defaults.get("learning_rate", 2e-3),
        metavar="RATE",
        help="(default: %(default)s)",
    )
    resumable.add_arguments(parser, output=output, segment=defaults["segment"])
    options = resumable.parse(parser, quick)
    if (options.train is None) != (options.test is None):
        parser.error("--train and --test go together")
    if options.model is not None and not (
        options.model.suffix == ".keras" and options.model.parent.is_dir()
    ):
        parser.error(
            "--model must be a name that ends in .keras, in a directory that is there, "
            f"not {options.model}"
        )
    return options


def load_data(
    options: argparse.Namespace,
) -> tuple[datasets.XCData, datasets.XCData, list[str]]:
    """Returns `(train, test, names of the labels)`."""
    if options.train is None:
        features, labels, train_samples, test_samples = options.synthetic
        train, test = datasets.synthetic_xc(
            features=features,
            labels=labels,
            train_samples=train_samples,
            test_samples=test_samples,
            seed=options.seed,
        )
    else:
        # A softmax has nothing to learn from samples without labels.
        train, test = (
            datasets.read_xc(path, normalize="l2", drop_unlabelled=True)
            for path in (options.train, options.test)
        )
    for what in ("features", "labels"):
        sizes = getattr(train, what), getattr(test, what)
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"{options.train} has {sizes[0]} {what}, {options.test} has {sizes[1]}."
            )
    for data in (train, test):
        if not len(data):
            raise ValueError("There are no samples with labels to train or test on.")
    # Of a shared batch, labels take no room from others.
    most = max(TOP)
    if options.explore is None:
        most = int(np.diff(train.label_indptr).max())
    if not most <= options.active <= train.labels:
        raise ValueError(
            f"--active must be from {most}, the most labels of a sample, to "
            f"{train.labels}, the number of labels. Received: {options.active}"
        )
    if options.explore is not None and options.explore > train.labels:
        raise ValueError(
            f"--explore must be at most {train.labels}, the number of labels. "
            f"Received: {options.explore}"
        )
    names = [f"label {number}" for number in range(train.labels)]
    if options.names is not None:
        names = options.names.read_text(encoding="utf-8").splitlines()
        if len(names) != train.labels:
            raise ValueError(
                f"{options.names}: expected {train.labels} lines, one for each label. "
                f"Received: {len(names)}"
            )
    return train, test, names


def make_model(features: int, labels: int, options: argparse.Namespace) -> Any:
    keras.utils.set_random_seed(options.seed)
    model = keras_lsh.LSHSequential(
        [
            keras.Input((features,), sparse=True),
            keras_lsh.SparseInputDense(
                HIDDEN_UNITS,
                activation="relu",
                # Samples are of length 1, with few of the features. Keras' default is
                # made for dense inputs: the hidden layer would be all but silent.
                kernel_initializer=keras.initializers.RandomNormal(stddev=0.3),
                name="hidden",
            ),
            keras_lsh.LSHDense(
                labels,
                active=options.active,
                # Of a shared batch, few of many candidates are worth having.
                oversample=None if options.explore is None else SHARED_OVERSAMPLE,
                output="sparse",
                force_labels=True,
                shared=options.explore is not None,
                explore=options.explore or 0,
                name="labels",
            ),
        ],
        name="tags",
    )
    model.compile(
        keras_lsh.LazyAdam(options.learning_rate),
        keras_lsh.losses.ActiveSoftmaxCrossentropy(),
        metrics=[keras_lsh.metrics.PrecisionAtK(1, name="P@1")],
    )
    return model


def precisions(ids: np.ndarray, test: datasets.XCData) -> dict[str, float]:
    """P@k on the test set of predicted labels, `[samples, k]`, the best first."""
    samples = np.arange(len(test))
    labels = np.repeat(samples, np.diff(test.label_indptr)) * test.labels
    labels += test.label_indices
    hits = np.isin(samples[:, None] * test.labels + ids, labels)
    return {f"P@{k}": float(hits[:, :k].mean()) for k in TOP}


def time_of_one(model: Any, test: datasets.XCData, exact: bool) -> float:
    """Milliseconds, in the median, of predicting for a single sample."""
    samples = [inputs for inputs, _ in test.dataset(1).take(TIMED)]
    times = []
    for sample in samples:
        start = time.perf_counter()
        model.predict_top_k(sample, max(TOP), exact=exact)
        times.append(time.perf_counter() - start)
    return 1000 * float(np.median(times))


def print_predictions(
    ids: np.ndarray, scores: np.ndarray, test: datasets.XCData, names: list[str]
) -> None:
    for sample, (best, logits) in enumerate(
        zip(ids[:SHOWN], scores[:SHOWN], strict=True)
    ):
        place = slice(*test.label_indptr[sample : sample + 2])
        labels = set(test.label_indices[place].tolist())
        print(f"Test sample {sample}: {', '.join(names[label] for label in labels)}")
        for label, logit in zip(best, logits, strict=True):
            mark = "*" if label in labels else " "
            print(f"  {mark} {logit:7.2f}  {names[label]}")


def main(
    doc: str | None = __doc__,
    output: str = "tags_output",
    defaults: dict[str, Any] = DEFAULTS,
    quick: dict[str, Any] = QUICK,
) -> None:
    options = parse_arguments(doc, output, defaults, quick)
    with resumable.directory(options.output, options.restart):
        train_and_report(options)


def train_and_report(options: argparse.Namespace) -> None:
    with resumable.reading():
        train, test, names = load_data(options)
    batch_size = options.batch_size
    steps = options.epochs * train.steps_per_epoch(batch_size)
    print(
        f"Data: {len(train):,} samples to train on, {len(test):,} to test on, "
        f"{train.features:,} features, {train.labels:,} labels\n"
        f"Training: {steps:,} steps, batch {batch_size}, epochs: {options.epochs}; "
        f"{options.active:,} outputs of a sample are computed",
        flush=True,
    )
    model = make_model(train.features, train.labels, options)
    history = resumable.train(
        model,
        lambda step: train.dataset(
            batch_size, seed=options.seed, epochs=None, start_step=step
        ),
        steps=steps,
        segment=options.segment,
        rebuild_every=options.rebuild_every,
        output=options.output,
        identity={
            "data": resumable.digest(
                *(train.indptr, train.indices, train.values),
                *(train.label_indptr, train.label_indices),
            ),
            "epochs": options.epochs,
            "batch size": batch_size,
            "active": options.active,
            "explore": options.explore,
            "learning rate": options.learning_rate,
            "seed": options.seed,
        },
    )
    print("Testing, by hashing and exactly", flush=True)
    figures, predicted = {}, {}
    for way in ("hashing", "exact"):
        predicted[way] = model.predict_top_k(
            test.dataset(batch_size),
            max(TOP),
            exact=way == "exact",
            verbose=resumable.verbosity() == 1,
        )
        figures[way] = precisions(predicted[way][0], test)
    path = resumable.write_results(options.output, history, figures)
    if options.model is not None:
        model.save(options.model)

    print()
    print_predictions(*predicted["hashing"], test, names)
    print(f"\n{'':12}{''.join(f'{name:>8}' for name in figures['exact'])}   one sample")
    for way in figures:
        row = "".join(f"{value:8.4f}" for value in figures[way].values())
        took = time_of_one(model, test, exact=way == "exact")
        print(f"{way:12}{row}{took:10.2f} ms")
    print(f"Training step: {resumable.milliseconds(history):.1f} ms, rebuilds included")
    print(f"Figures: {path}")


if __name__ == "__main__":
    resumable.run(main)
