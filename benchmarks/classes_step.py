"""What does a training step cost with the methods of `accuracy/extreme_classes.py`?

    python benchmarks/classes_step.py --data citeulike --data-dir DIR --out rows.jsonl

The networks and settings of that file, or with `--data novels` of
`accuracy/skip_gram.py`, in `fit`, rebuilds of LSHDense's tables included. The methods
take turns, so that what disturbs the one disturbs the others. One JSON row: median
milliseconds of a step and quartiles over the rounds, and ratios to LSHDense.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import machine
import numpy as np
from layer_step import Watch

from keras_lsh import datasets

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "accuracy"))
import extreme
import extreme_classes
import skip_gram

SETTINGS = extreme_classes.SETTINGS | {"novels": skip_gram.SETTINGS}

# Steps of a round: so many that rounds take a few seconds each.
STEPS = {"full": 16}
OTHERS = 160


def prepare(name: str, directory: str | None) -> tuple[Any, Any, Any, int, int]:
    """Runs, makers of models, data, and the numbers of features and of classes."""
    if name != "novels":
        train_set, _ = extreme.load(name, directory)

        def make(run: Any) -> Any:
            return extreme.make_model(run, train_set)

        return extreme.Run, make, train_set, train_set.features, train_set.labels
    ids, counts = skip_gram.load(name, directory)
    run = skip_gram.Run(name, "full")
    pairs = datasets.SkipGrams(
        ids[: run.words], counts, window=run.window, subsample=run.subsample
    )

    def make_skip_gram(run: Any) -> Any:
        return skip_gram.make_model(run, len(counts))

    return skip_gram.Run, make_skip_gram, pairs, len(counts), len(counts)


def training(run: Any, model: Any, data: Any, steps: int) -> Callable[[], float]:
    """A function that trains for some steps and returns milliseconds per step."""
    callbacks = run.callbacks()
    seed = {} if run.data == "novels" else {"seed": 0}
    data = data.dataset(run.batch, **seed).take(steps)

    def go() -> float:
        watch = Watch()
        model.fit(data, verbose=0, callbacks=[*callbacks, watch])
        return watch.milliseconds_per_step

    return go


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", choices=SETTINGS, default="synthetic")
    parser.add_argument(
        "--data-dir", metavar="DIR", help="where citeulike-t or the novels are"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a small case, briefly")
    parser.add_argument("--out", help="file to add the row to, besides stdout")
    options = parser.parse_args()
    if options.quick:
        options.data, options.rounds = "quick", 2
    make_run, make_model, data, features, classes = prepare(
        options.data, options.data_dir
    )
    runs = {
        name: make_run(options.data, **settings)
        for name, settings in SETTINGS[options.data].items()
    }
    trainings = {
        name: training(run, make_model(run), data, STEPS.get(run.method, OTHERS))
        for name, run in runs.items()
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(options.rounds + 1):
        for name, train in trainings.items():
            milliseconds = train()
            if round_ > 0:  # the first one traces and compiles
                times[name].append(milliseconds)
            print(f"round {round_}: {name} {milliseconds:.1f} ms", file=sys.stderr)
    row: dict[str, Any] = {
        "benchmark": "classes_step",
        "data": options.data,
        "features": features,
        "classes": classes,
        "methods": {},
    }
    lsh = next(np.median(times[name]) for name in runs if runs[name].method == "lsh")
    for name, values in times.items():
        quartiles = np.percentile(values, [25, 50, 75])
        row["methods"][name] = {
            "ms": round(float(quartiles[1]), 2),
            "quartiles_ms": [round(float(q), 2) for q in quartiles[[0, 2]]],
            "ratio": round(float(quartiles[1] / lsh), 2),
        }
    row |= {"rounds": options.rounds} | machine.facts(seed=0)
    print(json.dumps(row))
    if options.out:
        with open(options.out, "a") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
