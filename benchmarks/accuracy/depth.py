"""How deep may a stack of sparse layers be? Accuracy against the number of them.

    python benchmarks/accuracy/depth.py --data-dir DIR

One to seven hidden layers of 1000 ReLU units, 5 % active: Dense, the oracle (the truly
largest neurons), LSHDense, and as many neurons at random.
"""

import figures
import sweep
from training import Run, train

HIDDEN = (1, 2, 3, 4, 5, 6, 7)
METHODS = {"dense": "Dense", "exact": "oracle", "lsh": "LSHDense", "random": "random"}


def main() -> None:
    parser = sweep.options(__doc__, "depth")
    parser.add_argument("--data", nargs="+", default=["fashion_mnist"], metavar="NAME")
    parser.add_argument("--epochs", type=int, default=3)
    arguments = parser.parse_args()
    depths = HIDDEN
    if arguments.quick:
        arguments.data, arguments.seeds, arguments.epochs = ["rectangles/small"], 1, 1
        depths = HIDDEN[:2]
    runs = [
        Run(data, method, seed=seed, hidden=hidden, epochs=arguments.epochs)
        for seed in range(arguments.seeds)
        for data in arguments.data
        for hidden in depths
        for method in METHODS
    ]
    rows = sweep.sweep(runs, train, arguments)
    panels, table = {}, []
    for data in arguments.data:
        curves = {}
        for method, name in METHODS.items():
            chosen = [
                row for row in rows if (row["data"], row["method"]) == (data, method)
            ]
            curves[name] = figures.by("hidden", chosen)
            table.append(
                [data, name] + [figures.percent(curves[name][d]) for d in depths]
            )
        panels[data] = curves
    figures.write(
        arguments.rows,
        __doc__,
        ["data", "", *(f"{depth} layers" for depth in depths)],
        table,
        panels,
        "hidden layers",
    )


if __name__ == "__main__":
    main()
