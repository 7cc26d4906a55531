"""How many neurons may be left out? Accuracy against the active fraction.

    python benchmarks/accuracy/active_fraction.py --data-dir DIR

Figures 4 and 5 of Spring & Shrivastava 2017: networks of two and three hidden layers of
1000 ReLU units, of which 5 to 90 % are active: the whole network (NN), dropout (VD),
adaptive dropout (AD), winner-take-all (WTA) and LSHDense (LSH).
"""

import figures
import sweep
from training import Run, train

DATA = ("fashion_mnist",)
HIDDEN = (2, 3)
FRACTIONS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9)
METHODS = {
    "dense": "NN",
    "dropout": "VD",
    "adaptive_dropout": "AD",
    "winner_take_all": "WTA",
    "lsh": "LSH",
}
# About 1,000 steps each: enough to rank the methods.
EPOCHS = {"rectangles": 11, "convex": 16, "mnist": 2, "fashion_mnist": 2}


def main() -> None:
    parser = sweep.options(__doc__, "active_fraction")
    parser.add_argument(
        "--data",
        nargs="+",
        default=DATA,
        metavar="NAME",
        help="also rectangles, convex, mnist (default: %(default)s)",
    )
    parser.add_argument("--epochs", type=int, help="(default: about 1,000 steps)")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.data, arguments.seeds = ["rectangles/small"], 1
    fractions = FRACTIONS[:2] if arguments.quick else FRACTIONS
    runs = [
        Run(
            data,
            method,
            active=1.0 if method == "dense" else active,
            seed=seed,
            hidden=hidden,
            epochs=arguments.epochs or EPOCHS.get(data, 1 if arguments.quick else 10),
        )
        for seed in range(arguments.seeds)
        for data in arguments.data
        for hidden in HIDDEN
        for active in fractions
        for method in METHODS
    ]
    rows = sweep.sweep(runs, train, arguments)
    panels = {}
    table = []
    for data in arguments.data:
        for hidden in HIDDEN:
            curves = {}
            for method, name in METHODS.items():
                chosen = [
                    row
                    for row in rows
                    if (row["data"], row["hidden"], row["method"])
                    == (data, hidden, method)
                ]
                points = figures.by("active", chosen)
                if method == "dense":  # the same whatever the fraction
                    points = {active: points[1.0] for active in fractions}
                curves[name] = points
                table.append(
                    [data, hidden, name]
                    + [figures.percent(points[active]) for active in fractions]
                )
            panels[f"{data}, {hidden} hidden layers"] = curves
    figures.write(
        arguments.rows,
        __doc__,
        ["data", "hidden layers", "", *(f"{100 * f:.0f} %" for f in fractions)],
        table,
        panels,
        "active fraction",
    )


if __name__ == "__main__":
    main()
