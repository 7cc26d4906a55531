"""How stale may hash tables be? Accuracy against the steps between rebuilds.

    python benchmarks/accuracy/rebuild_interval.py --data-dir DIR

Three hidden layers of 1000 ReLU units, 5 % active. Beside the accuracy, what rebuilding
costs: its share of the multiplications of training.
"""

import figures
import sweep
from training import Run, train

EVERY = (1, 3, 10, 30, 100, 300, 1000)
FAMILIES = {
    "k-means cells": (),
    "SimHash": (("family", "SimHash"), ("bits", 6), ("tables", 20), ("probes", 10)),
}


def main() -> None:
    parser = sweep.options(__doc__, "rebuild_interval")
    parser.add_argument("--data", nargs="+", default=["fashion_mnist"], metavar="NAME")
    parser.add_argument("--epochs", type=int, default=3)
    arguments = parser.parse_args()
    intervals = EVERY
    if arguments.quick:
        arguments.data, arguments.seeds, arguments.epochs = ["rectangles/small"], 1, 1
        intervals = EVERY[::3]
    runs = [
        Run(
            data,
            "lsh",
            seed=seed,
            hashing=hashing,
            every=every,
            epochs=arguments.epochs,
        )
        for seed in range(arguments.seeds)
        for data in arguments.data
        for hashing in FAMILIES.values()
        for every in intervals
    ]
    rows = sweep.sweep(runs, train, arguments)
    panels, table = {}, []
    for data in arguments.data:
        curves = {}
        for name, hashing in FAMILIES.items():
            chosen = [
                row
                for row in rows
                if (row["data"], row["hashing"]) == (data, dict(hashing))
            ]
            curves[name] = figures.by("every", chosen)
            for every in intervals:
                row = next(row for row in chosen if row["every"] == every)
                table.append(
                    [
                        data,
                        name,
                        every,
                        row["rebuilds"],
                        figures.percent(curves[name][every]),
                        " ".join(f"{recall:.2f}" for recall in row["recall"]),
                        f"{100 * row['training']:.1f}",
                    ]
                )
        panels[data] = curves
    figures.write(
        arguments.rows,
        __doc__,
        [
            "data",
            "hash family",
            "steps between rebuilds",
            "rebuilds",
            "accuracy",
            "recall by layer (seed 0)",
            "training multiplications, % of Dense's",
        ],
        table,
        panels,
        "steps between rebuilds",
    )


if __name__ == "__main__":
    main()
