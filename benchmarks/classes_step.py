"""What does a training step cost with the methods of `accuracy/extreme_classes.py`?

    python benchmarks/classes_step.py --data citeulike --data-dir DIR --out rows.jsonl

The networks and settings of that file, in `fit`, rebuilds of LSHDense's tables
included. The methods take turns, so that what disturbs the one disturbs the others. One
JSON row: median milliseconds of a step and quartiles over the rounds, and ratios to
LSHDense.
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

import keras_lsh

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "accuracy"))
import extreme
from extreme_classes import SETTINGS

# Steps of a round: so many that rounds take a few seconds each.
STEPS = {"full": 16}
OTHERS = 160


def training(run: extreme.Run, train_set: Any, steps: int) -> Callable[[], float]:
    """A function that trains for some steps and returns milliseconds per step."""
    model = extreme.make_model(run, train_set)
    rebuild = [keras_lsh.RebuildTables(every=run.every)] if run.method == "lsh" else []
    data = train_set.dataset(run.batch, seed=0).take(steps)

    def go() -> float:
        watch = Watch()
        model.fit(data, verbose=0, callbacks=[*rebuild, watch])
        return watch.milliseconds_per_step

    return go


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", choices=SETTINGS, default="synthetic")
    parser.add_argument("--data-dir", metavar="DIR", help="where citeulike-t is")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a small case, briefly")
    parser.add_argument("--out", help="file to add the row to, besides stdout")
    options = parser.parse_args()
    if options.quick:
        options.data, options.rounds = "quick", 2
    train_set, _ = extreme.load(options.data, options.data_dir)
    runs = {
        name: extreme.Run(options.data, **settings)
        for name, settings in SETTINGS[options.data].items()
    }
    trainings = {
        name: training(run, train_set, STEPS.get(run.method, OTHERS))
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
        "features": train_set.features,
        "classes": train_set.labels,
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
