"""Does LSHDense lose accuracy, and what does it save? Beside Dense and the oracle.

    python benchmarks/accuracy/within_a_point.py --data-dir DIR

784-1000-1000-1000-classes, ReLU, batches of 128, 10 epochs, Adam (LazyAdam) at 2e-3
with cosine decay, 5 % of the neurons active in every hidden layer, in training and at
inference: Dense, the oracle (the truly largest neurons), LSHDense with its defaults,
and LSHDense with fewer and more candidates.
"""

import figures
import numpy as np
import sweep
from training import Run, train

DATA = ("fashion_mnist", "mnist", "rectangles", "convex")
# Candidates per active neuron; None: the default.
SETTINGS = {
    "LSHDense": None,
    "1 candidate": 1.0,
    "1.5 candidates": 1.5,
    "2 candidates": 2.0,
    "3 candidates": 3.0,
}


def main() -> None:
    parser = sweep.options(__doc__, "within_a_point")
    parser.add_argument("--data", nargs="+", default=DATA, metavar="NAME")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument(
        "--curve", nargs="*", default=DATA[:2], help="data to try other settings on"
    )
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.data, arguments.curve = ["rectangles/small"], []
        arguments.seeds, arguments.epochs = 1, 1

    def run(data: str, method: str, seed: int, setting: str = "LSHDense") -> Run:
        return Run(
            data,
            method,
            seed=seed,
            epochs=arguments.epochs,
            learning_rate=2e-3,
            schedule="cosine",
            oversample=SETTINGS[setting],
        )

    networks = {}
    for data in arguments.data:
        for name, method in (("Dense", "dense"), ("oracle", "exact")):
            networks[data, name] = [
                run(data, method, seed) for seed in range(arguments.seeds)
            ]
        for name in SETTINGS if data in arguments.curve else ["LSHDense"]:
            networks[data, name] = [
                run(data, "lsh", seed, name) for seed in range(arguments.seeds)
            ]
    # What the question is about first, seed by seed: a sweep that was stopped has
    # something of everything.
    order = sorted(
        (r for runs in networks.values() for r in runs),
        key=lambda r: (r.oversample is not None, r.seed),
    )
    rows = dict(zip(order, sweep.sweep(order, train, arguments), strict=True))
    table, panels = [], {}
    for (data, name), runs in networks.items():
        of_network = [rows[r] for r in runs]
        accuracies = [row["accuracy"] for row in of_network]
        dense = np.median([rows[r]["accuracy"] for r in networks[data, "Dense"]])
        figures_ = [data, name, figures.percent(accuracies)]
        if name == "Dense":
            figures_ += ["", "", "", "100", "100"]
        else:
            figures_ += [
                f"{100 * (np.median(accuracies) - dense):+.2f}",
                *(
                    " ".join(
                        f"{recall:.2f}"
                        for recall in np.median([r[key] for r in of_network], axis=0)
                    )
                    for key in ("initial_recall", "recall")
                ),
                *(
                    f"{100 * np.median([r[key] for r in of_network]):.1f}"
                    for key in ("training", "forward")
                ),
            ]
        table.append(figures_)
        if data in arguments.curve and name not in ("Dense", "oracle"):
            share = 100 * float(np.median([r["training"] for r in of_network]))
            panels.setdefault(data, {})[share] = accuracies
    # What a panel's curve lies between, whatever its multiplications.
    curves = {
        data: {"LSHDense": dict(sorted(points.items()))}
        | {
            name: {
                share: [rows[r]["accuracy"] for r in networks[data, name]]
                for share in sorted(points)
            }
            for name in ("Dense", "oracle")
        }
        for data, points in panels.items()
    }
    figures.write(
        arguments.rows,
        __doc__,
        [
            "data",
            "",
            "accuracy",
            "against Dense",
            "recall of the true top 5 %, at first",
            "trained",
            "multiplications, training, % of Dense's",
            "inference, %",
        ],
        table,
        curves,
        "multiplications of training in the hidden layers, % of Dense's",
        to_scale=True,
    )


if __name__ == "__main__":
    main()
